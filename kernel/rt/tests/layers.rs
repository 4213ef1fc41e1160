//! No import points up: every crate's modules in their order, each of which uses only those before it.
//!
//! Guarantees: a module that is in no list fails the test, and so does a use of one that comes later. What is looked at
//! is code outside of tests; a document may name whatever it explains.

mod sources;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A crate's folder, the folders of its modules below that, and its modules from the ground up.
struct Crate {
    folder: &'static str,
    below: &'static [&'static str],
    modules: &'static [&'static str],
}

const CRATES: [Crate; 8] = [
    Crate {
        folder: "kernel/carveout/src",
        below: &[""],
        modules: &[
            "addr",
            "heap",
            "cpu",
            "name",
            "events::kind",
            "events::log",
            "events",
            "sync::turns",
            "sync",
            "holder",
            "carve_out",
            "vm::attr",
            "vm::mapped",
            "vm::user",
            "machine",
            "vm::range",
            "vm::alias",
            "vm::desc",
            "vm::walk",
            "vm::registers",
            "vm::tables",
            "vm::window",
            "vm::ledger",
            "vm::absence",
            "protocol",
            "vm::sections",
            "vm::space",
            "vm::user_tables",
            "vm::audit",
            "vm",
            "fake",
            "cma::index::node",
            "cma::index::tree",
            "cma::index::late",
            "cma::index::fit",
            "cma::index",
            "cma::reach",
            "cma::extent",
            "cma::reserve",
            "cma::loan::kind",
            "cma::loan::cost",
            "cma::loan::tenant",
            "cma::loan::occupancy",
            "cma::loan::refuge",
            "cma::loan::refusal",
            "cma::loan::books",
            "cma::loan",
            "cma::area::refusal",
            "cma::area::run",
            "cma::area",
            "cma::contract",
            "cma",
            "dma::word",
            "dma::field",
            "dma::access",
            "dma::master",
            "dma::segment",
            "dma::buffer::direction",
            "dma::handle",
            "dma::kind",
            "dma::standing",
            "dma::body",
            "dma::records",
            "dma::warm",
            "dma::shelf",
            "dma::lanes",
            "dma::registry",
            "dma::handles",
            "dma::exec",
            "dma::buffer::effort",
            "dma::buffer::raw",
            "dma::buffer::coherent",
            "dma::buffer::stream",
            "dma::buffer::pages",
            "dma::buffer::shared",
            "dma::buffer::device_only",
            "dma::buffer::contiguous",
            "dma::buffer",
            "dma::spare",
            "dma::at_lane",
            "dma::idle",
            "dma::loan",
            "dma::late",
            "dma::mapped_area",
            "dma::alloc",
            "dma::contract",
            "dma::plan",
            "dma::pool::shape",
            "dma::pool::list",
            "dma::pool::store",
            "dma::pool::coherent",
            "dma::pool::stream",
            "dma::pool",
            "dma::port",
            "dma::scatter",
            "dma::audit",
            "dma::report",
            "dma::share::rights",
            "dma::share::error",
            "dma::share::book",
            "dma::share::shares",
            "dma::share::report",
            "dma::share",
            "dma",
            "embed::needs",
            "embed::error",
            "embed::core",
            "embed",
            "setup",
        ],
    },
    Crate {
        folder: "kernel/boot/src",
        below: &[""],
        modules: &["upper_half", "byte_range", "bootargs", "bootinfo", "memblock", "direct_map", "layout", "memory"],
    },
    Crate {
        folder: "kernel/armv7a/src",
        below: &[""],
        modules: &["ids", "errata", "levels", "cores", "l2c310", "whole", "cache", "zeros", "mmu", "user"],
    },
    Crate {
        folder: "kernel/rt/src",
        below: &[""],
        modules: &["fault", "probe", "exceptions", "user", "start", "secondary", "address_space", "head"],
    },
    Crate {
        folder: "kernel/adapters/virtio/src",
        below: &[""],
        modules: &["bounce", "stand_in", "memory", "hal", "transport"],
    },
    Crate { folder: "kernel/adapters/dma-api/src", below: &[""], modules: &["request", "memory", "op"] },
    Crate {
        folder: "kernel/adapters/c/src",
        below: &[""],
        modules: &[
            "failure",
            "space",
            "outer",
            "text",
            "kernel",
            "heap",
            "panic",
            "dma_handle",
            "machine",
            "table",
            "written",
            "blocks",
            "promise",
            "sharing",
            "instance",
            "clients",
            "init",
            "cores",
            "emptying",
            "area",
            "device",
            "contract",
            "buffer",
            "share",
            "pool",
            "report",
            "audit",
            "tests",
        ],
    },
    Crate {
        folder: "boards",
        // Beside them stand the boards.
        below: &["drivers", "kernel", "demo"],
        modules: &[
            "drivers::mmio",
            "drivers::wait",
            "drivers::fake",
            "drivers::uart",
            "drivers::timer",
            "drivers::intc",
            "drivers::smp",
            "drivers::storage",
            "drivers::display",
            "drivers::dma",
            "drivers::net",
            "drivers",
            "kernel::rank",
            "kernel::devices",
            "kernel::heap",
            "kernel::frames",
            "kernel::interrupts",
            "kernel::console",
            "kernel::registers",
            "kernel::state",
            "kernel::known",
            "kernel::stores",
            "kernel::flush",
            "kernel::cores",
            "kernel::process",
            "kernel::report",
            "kernel::schedule",
            "kernel::bring_up",
            "kernel",
            "demo::mock",
            "demo::fake",
            "demo::random",
            "demo::store",
            "demo::block_cache",
            "demo::failure",
            "demo::hops",
            "demo::memory",
            "demo::port",
            "demo::line",
            "demo::ending",
            "demo::coherency",
            "demo::bmp",
            "demo::photo",
            "demo::picture",
            "demo::film",
            "demo::lending",
            "demo::share",
            "demo::shell",
            "demo::net",
            "demo::run",
            "demo",
            "kernel::main",
        ],
    },
];

/// The module that a source is, or `None` of a crate's root.
fn module_of(source: &Path) -> Option<String> {
    let name = source.with_extension("");
    let parts: Vec<_> = name.iter().map(|part| part.to_str().unwrap()).filter(|&part| part != "mod").collect();
    (parts != ["lib"]).then(|| parts.join("::"))
}

/// The code of a source, less comments and what is for tests alone.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let bare = line.trim_start();
        if bare.starts_with("#[cfg(test)]") || bare.starts_with("#[cfg(all(test") {
            // An item ends at its indentation: with the brace that was opened there, or on its first line.
            let indent = line.len() - bare.len();
            let ends = |line: &str| {
                let bare = line.trim_start();
                line.len() - bare.len() == indent && (bare.ends_with([';', ',', '}']) || bare.starts_with('}'))
            };
            for line in lines.by_ref() {
                if ends(line) {
                    break;
                }
            }
        } else if !bare.starts_with("//") {
            // A visibility is no use.
            code.push_str(&bare.replace("pub(in crate", "pub(in "));
            code.push('\n');
        }
    }
    code
}

/// The paths that code names: `use a::{b, c::d}` names `a::b` and `a::c::d`.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut rest = code;
    while let Some(start) = rest.find(is_path) {
        let from = &rest[start..];
        let end = from.find(|c| !is_path(c)).unwrap_or(from.len());
        let (path, after) = from.split_at(end);
        if path.ends_with("::") && after.starts_with('{') {
            let (inside, after) = group(after);
            found.extend(paths(inside).into_iter().map(|inner| format!("{path}{inner}")));
            rest = after;
        } else {
            found.push(path.trim_end_matches(':').to_owned());
            rest = after;
        }
    }
    found
}

/// What stands between the brace that `text` begins with and the one that closes it, and what follows.
fn group(text: &str) -> (&str, &str) {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        depth += i32::from(c == '{');
        depth -= i32::from(c == '}');
        if depth == 0 {
            return (&text[1..at], &text[at + 1..]);
        }
    }
    (&text[1..], "")
}

/// The modules of `known` that `module`, whose code this is, names, but itself.
fn uses<'k>(module: &str, code: &str, known: &[&'k str]) -> BTreeSet<&'k str> {
    let (parent, own) = module.rsplit_once("::").unwrap_or(("", module));
    let under = |parent: &str, path: &str| if parent.is_empty() { path.into() } else { format!("{parent}::{path}") };
    let named = paths(code).into_iter().filter_map(|path| {
        let full = match path.split_once("::") {
            Some(("crate", rest)) => rest.to_owned(),
            Some(("super", rest)) => under(parent, rest),
            Some(("self", rest)) => under(module, rest),
            // A child: its name is not that of a crate or a type.
            Some((first, _)) if first != own => under(module, &path),
            _ => return None,
        };
        // The longest name of a module that it begins with.
        let begins =
            |known: &str| full.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        known.iter().copied().filter(|known| begins(known)).max_by_key(|known| known.len())
    });
    named.filter(|&known| known != module).collect()
}

/// The uses that point up, and the modules in no list, a line each.
fn wrong(modules: &[&str], sources: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (module, text) in sources {
        // A part of a listed module belongs to it.
        let part =
            |listed: &str| module.strip_prefix(listed).is_some_and(|rest| rest.starts_with("::") || rest.is_empty());
        let Some(place) = (0..modules.len()).filter(|&n| part(modules[n])).max_by_key(|&n| modules[n].len()) else {
            wrong.push(format!("{module} is in no list"));
            continue;
        };
        for used in uses(&module, &code(&text), modules) {
            let other = modules.iter().position(|&known| known == used).unwrap();
            if other > place {
                wrong.push(format!("{module} uses {used}, which stands above it"));
            }
        }
    }
    wrong
}

#[test]
fn no_import_points_up() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut all = Vec::new();
    for Crate { folder, below, modules } in &CRATES {
        let folder = root.join(folder);
        let mut files = Vec::new();
        for below in *below {
            files.extend(sources::below(&folder.join(below)).into_iter().map(|path| Path::new(below).join(path)));
        }
        let read =
            files.iter().filter_map(|file| Some((module_of(file)?, fs::read_to_string(folder.join(file)).unwrap())));
        all.extend(wrong(modules, read));
    }
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn an_import_that_points_up_is_found() {
    let modules = ["ground", "house::cellar", "house", "roof"];
    let found = |module: &str, text: &str| wrong(&modules, [(module.to_owned(), text.to_owned())].into_iter());
    for text in [
        "use crate::roof::Tile;",
        "use crate::{house::cellar::Wine, ground};",
        "fn f() { crate::house::open() }",
        "    let x = crate::roof::{self};",
    ] {
        assert_eq!(found("ground", text).len(), 1, "{text}");
    }
    assert_eq!(found("house::cellar", "use super::Door;\nuse super::super::x;").len(), 1);
    assert_eq!(found("shed", ""), ["shed is in no list"]);
    for text in [
        "// use crate::roof;",
        "#[cfg(test)]\nmod tests {\n    use crate::roof;\n}",
        "#[cfg(test)]\nuse crate::roof;",
        "use crate::ground::Stone;\nuse cellar::Wine;",
    ] {
        assert_eq!(found("house", text), [""; 0], "{text}");
    }
    // What follows a test is looked at.
    assert_eq!(found("house", "#[cfg(test)]\nmod tests {\n    fn f() {}\n}\nuse crate::roof;").len(), 1);
    assert_eq!(found("house", "#[cfg(test)]\nenum Shed {}\nuse crate::roof;").len(), 1);
}
