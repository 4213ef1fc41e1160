//! Runs programs of the kernel on the incoherent machine: see tests/incoherent/README.md.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lexopt::{Arg, ValueExt};

use crate::build::{Kind, Toolchain, build};
use crate::content::{DISK, content};
use crate::failure::{Context, Failure, Result};
use crate::project::{self, EMBED_C, EMBED_RUST, INCOHERENT};
use crate::scratch;

/// The tests that run. `wx` is not one of them: it plants aliases in the live tables for the audit to find, and this
/// machine would report them too.
const TESTS: [&str; 6] = ["direct_map", "driver", "interrupts", "ledger", "ownership", "stress"];
/// The lists of planted bugs.
const PLANTS: [&str; 2] = ["plants.txt", "plants-of-many-cores.txt"];
/// The boot arguments of the test `loans`: the smallest area that its contracts fit in, and just enough steps to recall
/// pages of every kind.
const LENT: &str = "cma=6M steps=100 loglevel=6 semihosting";
/// The models with several cores.
const MODELS_OF_MANY: [&str; 2] = ["a9x2", "a9x4-pl310"];
/// The tests that run on them, and their boot arguments: few steps, in small areas. Two parts of `four_cores` are left
/// out: one has a core turn its caches off, which this machine reports, and one recalls loans of a larger area.
const TESTS_OF_MANY: [(&str, &str); 3] = [
    ("loans", LENT),
    ("stress", "cma=8M walk=200 loglevel=6 semihosting"),
    (
        "four_cores",
        "cma=8M walk=100 loglevel=6 semihosting skip=the_audit_finds_a_core_with_other_registers \
         skip=a_recall_goes_round_a_page_that_another_core_has_open skip=a_recall_waits_for_a_turn_of_each_other_core",
    ),
];
/// The examples that the machine runs.
static EXAMPLES: [Example; 2] = [
    Example { name: EMBED_RUST, models: &["zynq"], build: |toolchain| toolchain.example(EMBED_RUST) },
    Example { name: EMBED_C, models: &["virt-a7", "virt-a15"], build: Toolchain::embed_c },
];

/// An example kernel.
struct Example {
    name: &'static str,
    /// The models of its boards.
    models: &'static [&'static str],
    build: fn(&Toolchain) -> Result<PathBuf>,
}

impl Example {
    fn find(name: &str) -> Result<&'static Self> {
        let names = || EXAMPLES.each_ref().map(|example| example.name).join(", ");
        let found = EXAMPLES.iter().find(|example| example.name == name);
        found.ok_or_else(|| Failure::new(format!("no example '{name}' runs here; there are: {}", names())))
    }

    /// Returns the wanted models of the example: all if none is named.
    fn models(&self, wanted: &[String]) -> Vec<String> {
        let models = self.models.iter().map(|&model| model.to_owned());
        models.filter(|model| wanted.is_empty() || wanted.contains(model)).collect()
    }
}

#[derive(Default)]
struct Options {
    elfs: Vec<PathBuf>,
    tests: Vec<String>,
    examples: Vec<&'static Example>,
    models: Vec<String>,
    seeds: Option<String>,
    plants: bool,
    build: bool,
    /// The arguments for the machine itself.
    rest: Vec<OsString>,
}

impl Options {
    fn parse(mut args: lexopt::Parser) -> Result<Self> {
        let mut options = Self::default();
        while let Some(arg) = args.next()? {
            match arg {
                Arg::Long("elf") => options.elfs.push(args.value()?.into()),
                Arg::Long("test") => options.tests.push(args.value()?.string()?),
                Arg::Long("example") => options.examples.push(Example::find(&args.value()?.string()?)?),
                Arg::Long("model") => options.models.push(args.value()?.string()?),
                Arg::Long("seeds") => options.seeds = Some(args.value()?.string()?),
                Arg::Long("plants") => options.plants = true,
                Arg::Long("build") => options.build = true,
                Arg::Long(flag @ ("kinds" | "necessity" | "console" | "list-sites")) => {
                    options.rest.push(format!("--{flag}").into());
                }
                Arg::Long(other) => {
                    let other = format!("--{other}");
                    let value = args.value()?;
                    options.rest.extend([other.into(), value]);
                }
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(options)
    }
}

/// Runs the command `incoherent`. Returns the machine's exit code.
pub(crate) fn command(args: lexopt::Parser) -> Result<u8> {
    let mut options = Options::parse(args)?;
    let toolchain = Toolchain::chosen()?;
    let folder = project::root().join(INCOHERENT);
    let mut cargo = toolchain.cargo_in(&folder);
    cargo.args(["build", "--release"]);
    let machine = build("the incoherent machine", cargo)?.pop().map(|program| program.path);
    let machine = machine.ok_or_else(|| Failure::new("cargo named no incoherent machine"))?;

    let by_default = options.elfs.is_empty() && options.tests.is_empty() && options.examples.is_empty();
    if options.build || (options.plants && options.elfs.is_empty()) || (!options.plants && by_default) {
        options.elfs.push(toolchain.on_target(Kind::Bin, "planted")?);
    }
    if options.build {
        return Ok(0);
    }
    // By default everything runs, including the examples and the test `loans`.
    let all = by_default && !options.plants;
    if options.plants {
        for list in PLANTS {
            options.rest.extend(["--plants".into(), folder.join(list).into()]);
        }
    } else if all {
        options.elfs.push(toolchain.demo()?);
        options.tests = TESTS.map(str::to_owned).to_vec();
        let is_wanted = |example: &&Example| !example.models(&options.models).is_empty();
        options.examples = EXAMPLES.iter().filter(is_wanted).collect();
    }
    for test in &options.tests {
        options.elfs.push(toolchain.on_target(Kind::Test, test)?);
    }

    let seeds = options.seeds.unwrap_or_else(|| if options.plants { "40" } else { "4" }.to_owned());
    let run = |elfs: &[PathBuf], models: &[String], disk: &Path, more: &[&str]| {
        let mut run = Command::new(&machine);
        for elf in elfs {
            run.arg("--elf").arg(elf);
        }
        for model in models {
            run.args(["--model", model]);
        }
        run.args(more).arg("--disk").arg(disk).args(["--seeds", &seeds]).args(&options.rest);
        ended(run, &machine)
    };
    let mut codes = Vec::new();
    let disk = scratch::folder()?.join("disk");
    if !options.elfs.is_empty() {
        // The picture is small, because the codec that decodes it runs on the machine.
        let made = Command::new(toolchain.picture()?).arg("generate").arg(&disk).args(["--size", "160x120"]).status();
        if !made.doing("the tool for pictures")?.success() {
            return Err(Failure::new("the tool for pictures failed"));
        }
        codes.push(run(&options.elfs, &options.models, &disk, &[])?);
    }
    if all {
        let loans = toolchain.on_target(Kind::Test, "loans")?;
        codes.push(run(&[loans], &options.models, &disk, &["--append", LENT])?);
        let is_wanted = |model: &String| options.models.is_empty() || options.models.contains(model);
        let models: Vec<String> = MODELS_OF_MANY.map(str::to_owned).into_iter().filter(is_wanted).collect();
        if !models.is_empty() {
            codes.push(run(&[toolchain.on_target(Kind::Bin, "planted")?], &models, &disk, &[])?);
            for (test, arguments) in TESTS_OF_MANY {
                codes.push(run(&[toolchain.on_target(Kind::Test, test)?], &models, &disk, &["--append", arguments])?);
            }
        }
    }
    fs::write(&disk, content(DISK)).doing(disk.display())?;
    for example in options.examples {
        let models = example.models(&options.models);
        if models.is_empty() {
            return Err(Failure::new(format!("{} runs on {}", example.name, example.models.join(", "))));
        }
        codes.push(run(&[(example.build)(&toolchain)?], &models, &disk, &[])?);
    }
    Ok(codes.into_iter().max().unwrap_or(0))
}

fn ended(mut command: Command, path: &Path) -> Result<u8> {
    let status = command.status().doing(path.display())?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_goes_to_the_machine() {
        let words = ["--elf", "a", "--test", "b", "--seeds", "3", "--model", "a8", "--console", "--plants"];
        let options = Options::parse(lexopt::Parser::from_args(words)).unwrap();
        assert_eq!((options.elfs, options.tests), (vec!["a".into()], vec!["b".to_owned()]));
        assert_eq!(options.seeds.as_deref(), Some("3"));
        assert_eq!(options.models, ["a8"]);
        assert!(options.plants && !options.build);
        assert_eq!(options.rest, ["--console"]);
    }

    #[test]
    fn an_example_runs_on_its_boards() {
        let example = |name| {
            let parsed = Options::parse(lexopt::Parser::from_args(["--example", name]));
            parsed.map(|options| options.examples[0])
        };
        let embed_c = example("embed-c").unwrap();
        assert_eq!(embed_c.models(&[]), ["virt-a7", "virt-a15"]);
        assert_eq!(embed_c.models(&["a8".to_owned(), "virt-a15".to_owned()]), ["virt-a15"]);
        assert_eq!(embed_c.models(&["a8".to_owned()]), [""; 0]);
        let refused = example("template").err().unwrap();
        assert_eq!(refused.to_string(), "no example 'template' runs here; there are: embed-rust, embed-c");
    }
}
