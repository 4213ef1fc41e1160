//! The list of all checks, and the resources that they share.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde::Deserialize;

use super::cards::{self, Cards};
use super::{Check, Job, Options, Verdict, cargo_tests, embed_c, embed_rust, module, page, record, shell, wrong};
use crate::boards::Emulated;
use crate::build::{Kind, Toolchain};
use crate::cases::{self, Case};
use crate::failure::{Context, Failure, Result};
use crate::image;
use crate::project::{
    self, DEMO, EMBED_C, EMBED_RUST, KERNEL, MODULE, ON_TARGET, ON_TARGET_MANIFEST, THUMB, WITH_FEATURES,
};
use crate::{bench, size};

/// The resources that the checks share.
pub(crate) struct Kit {
    pub(crate) toolchain: Toolchain,
    /// The toolchain for [`THUMB`], if there is one.
    thumb: Option<Toolchain>,
    pub(crate) logs: PathBuf,
    pub(crate) cards: Cards,
    /// The tool for pictures.
    picture: Built,
    /// The programs that boot, by name.
    programs: BTreeMap<String, (Make, Built)>,
    this: PathBuf,
}

/// A program, or why it did not build. It is built when the first check asks for it.
type Built = OnceLock<std::result::Result<PathBuf, String>>;

/// How a program that boots is built.
#[derive(Clone, Copy, PartialEq)]
enum Make {
    Demo,
    OnTarget(Kind),
}

/// The prefix of a program's name if it is built for [`THUMB`].
const IN_THUMB: &str = "thumb/";

/// An entry of the list.
enum Entry {
    Check(Check),
    /// Checks whose names are only known after a build.
    Group {
        name: &'static str,
        build: Box<dyn FnOnce() -> Vec<Check>>,
    },
}

impl Kit {
    /// Returns a command of this program.
    pub(crate) fn xtask(&self, command: &str) -> Command {
        let mut xtask = Command::new(&self.this);
        xtask.arg(command);
        xtask
    }

    /// Returns the ELF of a program that boots.
    pub(crate) fn program(&self, name: &str) -> Result<&Path> {
        let (make, built) = self.programs.get(name).ok_or_else(|| Failure::new(format!("no program '{name}'")))?;
        let (name, toolchain) = match name.strip_prefix(IN_THUMB) {
            Some(name) => (name, self.thumb.as_ref().ok_or_else(|| Failure::new(no_target(THUMB)))?),
            None => (name, &self.toolchain),
        };
        once(built, || match *make {
            Make::Demo => toolchain.demo(),
            Make::OnTarget(kind) => toolchain.on_target(kind, name),
        })
    }

    /// Returns the reason if the toolchain cannot build a program.
    pub(crate) fn unbuildable(&self, name: &str) -> Option<String> {
        (name.starts_with(IN_THUMB) && self.thumb.is_none()).then(|| no_target(THUMB))
    }

    /// Returns the on-target tests, in the order of their names.
    fn on_target_tests(&self) -> Vec<&str> {
        let tests = self.programs.iter().filter(|(_, (make, _))| *make == Make::OnTarget(Kind::Test));
        tests.map(|(name, _)| name.as_str()).collect()
    }

    /// Returns a command of the tool for pictures, in the check's folder.
    pub(crate) fn picture_tool(&self, job: &Job) -> Result<Command> {
        let mut tool = Command::new(once(&self.picture, || self.toolchain.picture())?);
        tool.current_dir(job.folder());
        Ok(tool)
    }

    /// Runs the tool for pictures in the check's folder.
    pub(crate) fn picture(&self, job: &Job, words: &[&str]) -> Result<()> {
        let output = self.picture_tool(job)?.args(words).output().doing("the tool for pictures")?;
        if output.status.success() {
            Ok(())
        } else {
            Err(Failure::new(format!("picture: {}", String::from_utf8_lossy(&output.stderr).trim_end())))
        }
    }
}

fn once(built: &Built, build: impl FnOnce() -> Result<PathBuf>) -> Result<&Path> {
    let built = built.get_or_init(|| build().map_err(|failure| failure.to_string()));
    built.as_deref().map_err(Failure::new)
}

/// Returns the line for a check that needs another target.
pub(super) fn no_target(target: &str) -> String {
    format!("the toolchain has no target {target}: rustup target add {target}")
}

/// Returns the programs that boot. The manifest of the on-target tests' package names each of its programs and tests.
/// Programs are also built for [`THUMB`].
fn programs() -> Result<BTreeMap<String, (Make, Built)>> {
    #[derive(Deserialize)]
    struct Manifest {
        bin: Vec<Named>,
        test: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let file = project::root().join(ON_TARGET_MANIFEST);
    let text = fs::read_to_string(&file).doing(file.display())?;
    let manifest: Manifest = toml::from_str(&text).doing(file.display())?;
    let of = |kind, named: Vec<Named>| named.into_iter().map(move |named| (named.name, Make::OnTarget(kind)));
    let mut all: Vec<_> = of(Kind::Bin, manifest.bin).chain([(DEMO.to_owned(), Make::Demo)]).collect();
    all.extend_from_within(..);
    let half = all.len() / 2;
    all[half..].iter_mut().for_each(|(name, _)| name.insert_str(0, IN_THUMB));
    all.extend(of(Kind::Test, manifest.test));
    Ok(all.into_iter().map(|(name, make)| (name, (make, Built::new()))).collect())
}

/// Returns the checks that the options want, and perhaps others, in their order. Builds cargo's tests if the filter may
/// mean one of them: it matches the name of their group, or it matches no check that is known without a build.
pub(super) fn all(options: &Options, logs: &Path) -> Result<Vec<Check>> {
    let toolchain = Toolchain::chosen()?;
    let this = std::env::current_exe().doing("this program's path")?;
    let cards = Cards::new(&this, logs);
    // One value lives as long as the process, which ends with the checks.
    let thumb = toolchain.for_target(THUMB);
    let kit: &'static Kit = Box::leak(Box::new(Kit {
        toolchain,
        thumb,
        logs: logs.to_owned(),
        cards,
        picture: Built::new(),
        programs: programs()?,
        this,
    }));

    let mut entries = known(lints(kit));
    entries.push(Entry::Check(feature_sets(kit)?));
    entries.extend(known(module::checks(kit, options)?));
    entries.extend(known(setup()?));
    entries.extend(of_cargo(kit, options));
    entries.extend(known(boots(kit, options)?));
    entries.extend(incoherent_machine(kit));
    Ok(unfolded(entries, options))
}

fn known(checks: Vec<Check>) -> Vec<Entry> {
    checks.into_iter().map(Entry::Check).collect()
}

/// Builds the groups that may contain a wanted check.
fn unfolded(entries: Vec<Entry>, options: &Options) -> Vec<Check> {
    let is_known = entries.iter().any(|entry| matches!(entry, Entry::Check(check) if options.matches(check.name())));
    let checks = entries.into_iter().flat_map(|entry| match entry {
        Entry::Check(check) => vec![check],
        Entry::Group { name, build } if !options.skips(name) && (!is_known || options.wants(name)) => build(),
        Entry::Group { .. } => Vec::new(),
    });
    checks.collect()
}

/// Returns the checks that count instructions and those that boot.
fn boots(kit: &'static Kit, options: &Options) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    if !options.quick {
        // This check fails if a figure is missing. It shows a missed budget, which fails nothing.
        checks.push(Check::command("instructions counted", kit.xtask("bench")));
        checks.push(Check::command("instructions counted: the tables", bench::tests(&kit.toolchain)));
        checks.push(Check::new("size: what each part costs", |job| size::check(&kit.toolchain, job)).alone());
    }
    let tests = kit.on_target_tests();
    checks.extend(on_target_tests(kit, options, &tests)?);
    checks.extend(book_pages());
    checks.push(runner(kit, tests.first().copied().unwrap_or_default()));
    checks.push(Check::new("main job", main_job));
    if !options.quick {
        checks.push(Check::new("on target: what recalls cost", |job| recall_costs(kit, job)));
    }
    let cases = cases::all()?.into_iter().filter(|case| !(options.quick && case.long));
    checks.extend(cases.map(|case| case.check(kit)));
    if !options.quick {
        checks.extend(embed_c::checks(kit));
        checks.extend(embed_rust::checks(kit));
        checks.extend(record::checks(kit));
        checks.extend(page::checks(kit));
    }
    checks.extend(shell::checks(kit, options.quick));
    checks.extend(cards::checks(kit, options));
    Ok(checks)
}

fn lints(kit: &Kit) -> Vec<Check> {
    let clippy = |name: &str, mut cargo: Command, words: &[&str]| {
        cargo.arg("--quiet").args(words).args(["--", "-D", "warnings"]);
        Check::command(name, cargo).alone()
    };
    // This documents the fake machine too. module.rs documents the rest.
    let mut documents = kit.toolchain.host("doc");
    documents.args(["--quiet", "--no-deps", "--package", MODULE, "--features", "carveout/fake"]);
    documents.env("RUSTDOCFLAGS", "-D warnings");
    let mut format = kit.toolchain.host("fmt");
    format.args(["--all", "--check"]);
    let target = || kit.toolchain.target("clippy");
    vec![
        Check::command("format", format).alone(),
        clippy("clippy, host", kit.toolchain.host("clippy"), &["--all-targets"]),
        clippy("clippy, kernel", target(), &["--package", KERNEL, "--bin", DEMO]),
        clippy("clippy, on-target tests", target(), &["--package", ON_TARGET, "--lib", "--bins", "--tests"]),
        Check::command("documents, host", documents).alone(),
    ]
}

/// Returns the check that each set of the features that a dependant may leave out builds without a warning.
fn feature_sets(kit: &Kit) -> Result<Check> {
    let mut builds = Vec::new();
    for (package, folder) in WITH_FEATURES {
        let manifest = project::root().join(folder).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).doing(manifest.display())?;
        for features in subsets(&default_features(&text).doing(manifest.display())?) {
            let mut clippy = kit.toolchain.target("clippy");
            clippy.args(["--quiet", "--package", package, "--no-default-features", "--features", &features]);
            clippy.args(["--", "-D", "warnings"]);
            builds.push((format!("{package}: {features}"), clippy));
        }
    }
    let check = Check::new("clippy, each set of features", |job| {
        for (name, mut clippy) in builds {
            job.say(&name)?;
            job.run(&mut clippy)?;
        }
        Ok(Verdict::Passed(None))
    });
    Ok(check.alone())
}

fn default_features(manifest: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Manifest {
        features: Features,
    }
    #[derive(Deserialize)]
    struct Features {
        default: Vec<String>,
    }
    Ok(toml::from_str::<Manifest>(manifest).doing("features")?.features.default)
}

/// Returns every subset, its names with commas between.
fn subsets(names: &[String]) -> Vec<String> {
    let subset = |bits: usize| {
        let chosen = names.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1);
        chosen.map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(",")
    };
    (0..1 << names.len()).map(subset).collect()
}

/// Returns the checks of the decisions of tests/setup.sh, on machines that are folders.
fn setup() -> Result<Vec<Check>> {
    let script = project::root().join("tests/setup-test.sh");
    let list = Command::new(&script).arg("--list").output().doing(script.display())?;
    let check = |name: &str| {
        let mut test = Command::new(&script);
        test.arg(name);
        Check::command(name, test)
    };
    Ok(String::from_utf8_lossy(&list.stdout).lines().map(check).collect())
}

fn of_cargo(kit: &'static Kit, options: &Options) -> Vec<Entry> {
    const DOCS: &str = "doc tests, error codes included";

    let cargo = |words: &[&str]| {
        let mut cargo = kit.toolchain.host("test");
        cargo.arg("--no-run").args(words);
        cargo
    };
    let mut entries = vec![cargo_group("host tests", cargo(&["--lib", "--bins", "--tests"]), "")];
    if !options.quick {
        let cargo = cargo(&["--package", MODULE, "--no-default-features", "--lib", "--tests"]);
        entries.push(cargo_group("host tests, no features", cargo, ""));
    }
    let docs = move || {
        let mut cargo = kit.toolchain.host("test");
        // Rustdoc compares the error codes of compile-fail tests only if it acts as a nightly one.
        cargo.arg("--doc").env("RUSTC_BOOTSTRAP", "1");
        cargo
    };
    entries.push(Entry::Group { name: DOCS, build: Box::new(move || cargo_tests::of_docs(DOCS, docs)) });
    // Every interleaving of a few threads. This is a separate build, in which the crate's locks and atomics are loom's.
    if !options.quick {
        let mut cargo = cargo(&["--package", MODULE, "--lib", "--target-dir"]);
        cargo.arg(project::target_dir().join("loom")).env("RUSTFLAGS", "--cfg loom");
        entries.push(cargo_group("interleavings", cargo, "interleavings"));
    }
    entries
}

/// Returns the group of the tests whose name contains `part`, from the programs that `cargo` builds.
fn cargo_group(name: &'static str, cargo: Command, part: &'static str) -> Entry {
    Entry::Group { name, build: Box::new(move || cargo_tests::of_programs(name, cargo, part)) }
}

/// Returns the checks of each on-target test on each board, as the board's board.toml says.
fn on_target_tests(kit: &'static Kit, options: &Options, tests: &[&str]) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let check = |name: String, board: &str, program: &str, append: &str, smp| {
        Case::of_own_tests(name, board, program, append, smp).check(kit)
    };
    if tests.is_empty() {
        return Err(Failure::new("there is no on-target test"));
    }
    for emulated in Emulated::all()? {
        let (board, Some(append)) = (emulated.board.name(), &emulated.qemu.on_target) else { continue };
        for &test in tests {
            // All 100,000 steps of the test of loans take minutes.
            if !(options.quick && test == "loans" && append.is_empty()) {
                checks.push(check(format!("on target: {board}: {test}"), board, test, append, None));
            }
        }
    }
    for test in ["four_cores", "user"] {
        checks.push(check(format!("on target: four cores: {test}"), "vexpress-a9", test, "", Some(4)));
    }
    Ok(checks)
}

/// Returns the check that mdBook, if it is installed, makes the book's pages without a complaint. The tests of the
/// package `book` check text, links and code everywhere.
fn book_pages() -> Option<Check> {
    let mdbook = || Command::new("mdbook");
    mdbook().arg("--version").output().ok()?;
    Some(Check::new("book: its pages", move |job| {
        let pages = job.folder().join("book");
        let (exit, output) =
            job.output(mdbook().arg("build").arg(project::root().join("docs")).arg("-d").arg(pages))?;
        let complaints = output.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
        let ended = (exit != 0).then(|| format!("exit code {exit}, expected 0"));
        job.judged(&ended.into_iter().chain(complaints.map(str::to_owned)).collect::<Vec<_>>())
    }))
}

/// Returns the check of cargo's runner with one on-target test, as a developer runs it. .cargo/config.toml names the
/// runner.
fn runner(kit: &Kit, test: &str) -> Check {
    let mut cargo = kit.toolchain.target("test");
    cargo.args(["--quiet", "--package", ON_TARGET, "--test", test]);
    Check::command("cargo's runner", cargo)
}

/// Runs the command that README names first, and compares its table with the book's.
fn main_job(job: &mut Job) -> Result<Verdict> {
    const CHAPTER: &str = "docs/src/testing.md";
    let (exit, output) = job.output(&mut Command::new(project::root().join("qemu-run.sh")))?;
    let chapter = fs::read_to_string(project::root().join(CHAPTER)).doing(CHAPTER)?;
    job.judged(&main_job_wrong(exit, &output, &chapter))
}

fn main_job_wrong(exit: i32, output: &str, chapter: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines: Vec<&str> = output.lines().map(|line| line.trim_end_matches('\r')).collect();
    if exit != 0 {
        wrong.push(format!("exit code {exit}, expected 0"));
    }
    if lines.last() != Some(&"demo: ok") {
        wrong.push("the last line is not: demo: ok".to_owned());
    }
    let devices = ["virtio-blk ", "codec ", "scaler ", "PL111 ", "camera "];
    let rows = chapter.lines().filter_map(|line| line.strip_prefix("    "));
    let is_row = |row: &&str| {
        devices.iter().any(|device| row.starts_with(device)) && row.ends_with(|end: char| end.is_ascii_digit())
    };
    let rows: Vec<&str> = rows.filter(is_row).collect();
    if rows.len() != devices.len() {
        wrong.push(format!("the book has {} rows, not {}", rows.len(), devices.len()));
    }
    wrong.extend(rows.iter().filter(|row| !lines.contains(row)).map(|row| format!("not as the book has it: {row}")));
    wrong
}

/// Checks the cost of recalls on a Cortex-A9 without an outer cache, whose lines cost the same on every board.
fn recall_costs(kit: &Kit, job: &mut Job) -> Result<Verdict> {
    let tree = job.folder().join("a9.dtb");
    image::tree_without_outer_cache(&Emulated::named("vexpress-a9")?.board, &tree)?;
    let kinds = ["recall: discard, not cached *", "recall: discard, cached *", "recall: move *", "recall: ok"];
    let mut boot = |words: &[&str], patterns: &[&str]| -> Result<Verdict> {
        let mut boot = kit.xtask("boot");
        boot.args(["--timeout", "900", "--count", "--dtb"]).arg(&tree).args(words).arg(kit.program("recall")?);
        let (exit, output) = job.output(&mut boot)?;
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        job.judged(&wrong(exit, &output, 0, &patterns))
    };
    match boot(&["--append", "cma=16M"], &kinds)? {
        // The fixed part grows with the area.
        Verdict::Passed(_) => boot(&["--append", "cma=64M recalls=200", "--memory", "1G"], &["recall: ok"]),
        other => Ok(other),
    }
}

/// The boot arguments of the processes on the incoherent machine.
const SHARE: &str = "cma=64M demo=share loglevel=6 semihosting";

/// Runs a campaign. The campaign's last line goes on the check's line.
fn summed_up(job: &mut Job, machine: &mut Command) -> Result<Verdict> {
    let (exit, output) = job.output(machine)?;
    let last = output.lines().last().map(str::to_owned);
    Ok(if exit == 0 { Verdict::Passed(last) } else { Verdict::Failed(format!("exit code {exit}")) })
}

/// Returns a part of the campaigns of tests/incoherent/README.md: two seeds of every planted bug, on every model where
/// it is a bug.
fn incoherent_machine(kit: &'static Kit) -> Vec<Entry> {
    let folder = project::root().join(project::INCOHERENT);
    let cargo = |words: &[&str]| {
        let mut cargo = kit.toolchain.cargo_in(&folder);
        cargo.args(words);
        cargo
    };
    let machine = |words: &[&str]| {
        let mut machine = kit.xtask("incoherent");
        machine.args(words);
        machine
    };
    let campaign = |name: &str, words: &[&str]| {
        let mut machine = machine(words);
        Check::new(name, move |job| summed_up(job, &mut machine)).alone()
    };
    let tests = cargo_group("incoherent: tests of the machine", cargo(&["test", "--release", "--no-run"]), "");
    let mut checks = Vec::new();
    checks.push(Check::command("incoherent: build", machine(&["--build"])).alone());
    let (mut format, mut clippy) = (
        cargo(&["fmt", "--check"]),
        cargo(&["clippy", "--quiet", "--release", "--all-targets", "--", "-D", "warnings"]),
    );
    let lints = Check::new("incoherent: format and clippy", move |job| {
        job.run(&mut format)?;
        job.passes(&mut clippy)
    });
    checks.push(lints.alone());
    checks.push(campaign("incoherent: planted bugs", &["--plants", "--seeds", "2", "--limit", "60"]));
    checks.push(campaign("incoherent: on-target tests", &["--test", "direct_map", "--test", "driver", "--seeds", "1"]));
    let mut share = machine(&["--model", "a9", "--append", SHARE, "--seeds", "1"]);
    let processes = Check::new("incoherent: processes that share", move |job| {
        share.arg("--elf").arg(kit.toolchain.demo()?);
        summed_up(job, &mut share)
    });
    checks.push(processes.alone());
    for (name, example) in [("incoherent: embed-rust", EMBED_RUST), ("incoherent: embed-c", EMBED_C)] {
        checks.push(campaign(name, &["--example", example, "--seeds", "2"]));
    }
    std::iter::once(tests).chain(known(checks)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_built_if_the_filter_may_mean_one_of_its_tests() {
        let check = |name: &str| Check::new(name, |_| Ok(Verdict::Passed(None)));
        let names = |filter: Option<&str>| -> Vec<String> {
            let group = Entry::Group { name: "host tests", build: Box::new(move || vec![check("host tests: bytes")]) };
            let options = Options { filter: filter.map(str::to_owned), ..Options::default() };
            unfolded(vec![Entry::Check(check("demo: half")), group], &options)
                .iter()
                .map(|check| check.name().to_owned())
                .collect()
        };
        for filter in [None, Some("host"), Some("host tests: by"), Some("bytes"), Some("tests: by")] {
            assert_eq!(names(filter), ["demo: half", "host tests: bytes"], "{filter:?}");
        }
        assert_eq!(names(Some("half")), ["demo: half"]);
    }

    #[test]
    fn programs_are_those_of_the_manifest() {
        let programs = programs().unwrap();
        let make = |name: &str| programs[name].0;
        assert!(make("demo") == Make::Demo);
        assert!(make("faults") == Make::OnTarget(Kind::Bin));
        assert!(make("thumb/faults") == Make::OnTarget(Kind::Bin));
        assert!(make("stress") == Make::OnTarget(Kind::Test));
    }

    #[test]
    fn a_program_that_does_not_build_is_not_built_again() {
        let built = Built::new();
        assert!(once(&built, || Err(Failure::new("it did not build"))).is_err());
        assert_eq!(once(&built, || unreachable!()).unwrap_err().to_string(), "it did not build");
    }

    #[test]
    fn each_set_of_features_is_built() {
        let features = default_features("[features]\ndefault = [\"a\", \"b\"]\na = []\nc = []\n").unwrap();
        assert_eq!(subsets(&features), ["", "a", "b", "a,b"]);
        assert!(default_features("[package]\n").is_err());
    }
}
