//! Runs cargo with the one toolchain that the scripts chose. Guarantees that a build says what it builds and how far it
//! is. On a terminal cargo shows that. Elsewhere it is a line at most every ten seconds.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::failure::{Context, Failure, Result};
use crate::project::{self, DEMO, EMBED_C, KERNEL, ON_TARGET, PICTURE, TARGET};

/// A toolchain, and what it builds for the boards.
#[derive(Clone)]
pub(crate) struct Toolchain {
    /// The folder of cargo, rustc, clippy and rustfmt.
    folder: PathBuf,
    /// The options by which cargo builds for the boards.
    target: String,
    target_flags: String,
    target_env: String,
}

impl Toolchain {
    /// Reads from the environment the toolchain that `choose_toolchain` of tests/setup.sh chose.
    pub(crate) fn chosen() -> Result<Self> {
        let set = |name| env::var(name).doing(format_args!("{name}, which the project's scripts set"));
        let chosen = set("CARVEOUT_RUST")?;
        let folder = chosen.rsplit_once(':').map_or(chosen.as_str(), |(folder, _)| folder).into();
        let (target_flags, target_env) = (set("CARVEOUT_TARGET_FLAGS")?, set("CARVEOUT_TARGET_ENV")?);
        Ok(Self { folder, target: TARGET.to_owned(), target_flags, target_env })
    }

    /// Returns this toolchain for another target than the boards' own, or `None` if it has no such target.
    pub(crate) fn for_target(&self, target: &str) -> Option<Self> {
        let linker = |target: &str| format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
        let has =
            |target| self.sysroot().is_some_and(|root| root.join("lib/rustlib").join(target).join("lib").is_dir());
        (self.builds_core() || has(target)).then(|| Self {
            folder: self.folder.clone(),
            target: target.to_owned(),
            target_flags: self.target_flags.replace(&self.target, target),
            target_env: self.target_env.replace(&linker(&self.target), &linker(target)),
        })
    }

    /// Returns the toolchain of a version of Rust, such as `1.95`: this one if it has that version, or else one of
    /// rustup. Installs none.
    pub(crate) fn of_version(&self, version: &str) -> Option<Self> {
        let is = |folder: &Path| {
            said(Command::new(folder.join("rustc")).arg("--version"))
                .is_some_and(|said| said.starts_with(&format!("rustc {version}.")))
        };
        if is(&self.folder) {
            return Some(self.clone());
        }
        let list = said(Command::new("rustup").args(["toolchain", "list"]))?;
        let folder = |line: &str| {
            let name = line.split(' ').next()?;
            let rustc = said(Command::new("rustup").args(["which", "--toolchain", name, "rustc"]))?;
            Some(Path::new(rustc.trim_end()).parent()?.to_owned())
        };
        let folder = list.lines().filter_map(folder).find(|folder| is(folder))?;
        let (target, target_flags) = (self.target.clone(), format!("--target {}", self.target));
        Some(Self { folder, target, target_flags, target_env: String::new() })
    }

    fn sysroot(&self) -> Option<PathBuf> {
        let root = said(Command::new(self.program("rustc")).args(["--print", "sysroot"]))?;
        Some(PathBuf::from(root.trim_end()))
    }

    /// Returns whether this toolchain builds `core` for the boards from source.
    pub(crate) fn builds_core(&self) -> bool {
        self.target_flags.contains("build-std")
    }

    /// Returns the path of one of the toolchain's programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns `cargo` in a folder of the checkout, with this toolchain first in the PATH.
    pub(crate) fn cargo_in(&self, folder: &Path) -> Command {
        let mut cargo = Command::new(self.program("cargo"));
        cargo.current_dir(folder).env("PATH", self.path());
        cargo
    }

    /// Returns the PATH with this toolchain first.
    pub(crate) fn path(&self) -> OsString {
        let old = env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.folder.clone()).chain(env::split_paths(&old));
        // A folder whose name has a colon cannot be in the old PATH, nor in CARVEOUT_RUST.
        env::join_paths(folders).unwrap_or(old)
    }

    /// Returns `cargo COMMAND` for this machine, in the workspace.
    pub(crate) fn host(&self, command: &str) -> Command {
        let mut cargo = self.cargo_in(project::root());
        cargo.arg(command);
        cargo
    }

    /// Returns `cargo COMMAND` for the boards, optimised, in the workspace.
    pub(crate) fn target(&self, command: &str) -> Command {
        self.target_in(project::root(), command)
    }

    /// Returns `cargo COMMAND` for the boards, optimised, in a folder of the checkout.
    pub(crate) fn target_in(&self, folder: &Path, command: &str) -> Command {
        let mut cargo = self.cargo_in(folder);
        cargo.args([command, "--release"]).args(self.target_flags.split_whitespace());
        cargo.envs(self.target_env.split_whitespace().filter_map(|word| word.split_once('=')));
        cargo
    }

    /// Builds the kernel with the demo. Returns the ELF.
    pub(crate) fn demo(&self) -> Result<PathBuf> {
        self.demo_with(&[])
    }

    /// Builds the kernel with the demo and some of the kernel's features. Returns the ELF.
    pub(crate) fn demo_with(&self, features: &[&str]) -> Result<PathBuf> {
        let mut cargo = self.target("build");
        cargo.args(["--package", KERNEL, "--bin", DEMO]);
        with_features(&mut cargo, features);
        only(build(&format!("the kernel for {}", self.target), cargo)?, DEMO)
    }

    /// Builds a program or a test of the on-target tests' package. Returns the ELF.
    pub(crate) fn on_target(&self, target: Kind, program: &str) -> Result<PathBuf> {
        self.on_target_with(target, program, &[])
    }

    /// Builds a program or a test of the on-target tests' package with some of its features. Returns the ELF.
    pub(crate) fn on_target_with(&self, target: Kind, program: &str, features: &[&str]) -> Result<PathBuf> {
        let (command, words): (_, &[&str]) = match target {
            Kind::Bin => ("build", &["--bin"]),
            Kind::Test => ("test", &["--no-run", "--test"]),
        };
        let mut cargo = self.target(command);
        cargo.args(["--package", ON_TARGET]).args(words).arg(program);
        with_features(&mut cargo, features);
        only(build(&format!("the program {program} for {}", self.target), cargo)?, program)
    }

    /// Builds an example from its own folder, as a user does. Returns the ELF.
    pub(crate) fn example(&self, name: &str) -> Result<PathBuf> {
        let mut cargo = self.target_in(&project::example(name), "build");
        cargo.args(["--locked", "--target-dir"]).arg(project::examples_target_dir());
        only(build(&format!("the example {name}"), cargo)?, name)
    }

    /// Builds the example in C by `make` from its own folder, once. Returns the ELF.
    pub(crate) fn embed_c(&self) -> Result<PathBuf> {
        static MADE: OnceLock<std::result::Result<(), String>> = OnceLock::new();

        let folder = project::target_dir().join(EMBED_C);
        let made = MADE.get_or_init(|| {
            eprintln!("building: the example {EMBED_C}");
            let mut make = Command::new("make");
            make.current_dir(project::example(EMBED_C)).arg("all").env("PATH", self.path());
            make.arg(format!("BUILD={}", folder.display()));
            make.arg(format!("CARGO_TARGET={}", project::target_dir().display()));
            make.arg(format!("CARGO={}", self.program("cargo").display()));
            make.arg(format!("CARGO_FLAGS={}", self.target_flags));
            make.envs(self.target_env.split_whitespace().filter_map(|word| word.split_once('=')));
            let output = make.stdin(Stdio::null()).output().map_err(|error| format!("make: {error}"))?;
            if output.status.success() {
                return Ok(());
            }
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            Err(format!("the example {EMBED_C} did not build"))
        });
        made.clone().map_err(Failure::new)?;
        Ok(folder.join("embed-c.elf"))
    }

    /// Builds the host's tool for pictures. Returns its path.
    pub(crate) fn picture(&self) -> Result<PathBuf> {
        let mut cargo = self.host("build");
        cargo.args(["--release", "--package", PICTURE]);
        only(build("the tool for pictures", cargo)?, PICTURE)
    }
}

/// Has cargo build with some features, if there are any. They have a folder of their own: in the common one, a check
/// beside this one would put a program without them in the place of the program.
fn with_features(cargo: &mut Command, features: &[&str]) {
    if !features.is_empty() {
        cargo.args(["--features", &features.join(","), "--target-dir"]).arg(project::target_dir().join("features"));
    }
}

/// Cargo's word for a program that boots.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Bin,
    Test,
}

/// A program that a build made.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// The folder of its package.
    pub(crate) package: PathBuf,
    pub(crate) is_test: bool,
}

/// Returns a command's output, or `None` if the command fails.
fn said(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn only(programs: Vec<Program>, name: &str) -> Result<PathBuf> {
    programs
        .into_iter()
        .find(|program| program.name == name)
        .map(|program| program.path)
        .ok_or_else(|| Failure::new(format!("cargo named no program {name}")))
}

/// Builds by a cargo command without a `--`, and returns the programs that it names, in the order of their names.
pub(crate) fn build(what: &str, mut cargo: Command) -> Result<Vec<Program>> {
    eprintln!("building: {what}");
    cargo.arg("--message-format=json-render-diagnostics").stdin(Stdio::null()).stdout(Stdio::piped());
    if !io::stderr().is_terminal() {
        cargo
            .env("CARGO_TERM_COLOR", "never")
            .env("CARGO_TERM_PROGRESS_WHEN", "always")
            .env("CARGO_TERM_PROGRESS_WIDTH", "120")
            .stderr(Stdio::piped());
    }
    let mut child = cargo.spawn().doing("cargo")?;
    let (messages, progress) = (child.stdout.take(), child.stderr.take());
    let programs = thread::scope(|scope| {
        if let Some(progress) = progress {
            scope.spawn(move || show(what, progress));
        }
        messages.map(programs).transpose().doing("cargo's messages")
    })?;
    if !child.wait().doing("cargo")?.success() {
        return Err(Failure::new(format!("{what} did not build")));
    }
    Ok(programs.unwrap_or_default())
}

/// Cargo's message about a file that it made.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

fn programs(messages: impl Read) -> io::Result<Vec<Program>> {
    let mut programs = Vec::new();
    for line in BufReader::new(messages).lines() {
        // Other lines come from build scripts.
        let Ok(message) = serde_json::from_str::<Message>(&line?) else { continue };
        if let (Some(target), Some(path), Some(manifest)) = (message.target, message.executable, message.manifest_path)
        {
            let package = manifest.parent().unwrap_or(Path::new("/")).to_owned();
            let is_test = message.profile.is_some_and(|profile| profile.test);
            programs.push(Program { name: target.name, path, package, is_test });
        }
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

/// Prints cargo's progress, and its warnings and errors.
fn show(what: &str, cargo: impl Read) {
    let mut last = Instant::now();
    let mut reader = BufReader::new(cargo);
    let mut chunk = Vec::new();
    // The bar ends with CR, all other lines end with LF. There may be several lines between two bars.
    while reader.read_until(b'\r', &mut chunk).is_ok_and(|length| length > 0) {
        for line in String::from_utf8_lossy(&chunk).lines() {
            match judge(line) {
                Line::Progress(done) if last.elapsed() >= Duration::from_secs(10) => {
                    eprintln!("building: {what}: {done}");
                    last = Instant::now();
                }
                Line::Progress(_) | Line::Status => {}
                Line::Other(text) => eprintln!("{text}"),
            }
        }
        chunk.clear();
    }
}

#[derive(Debug, PartialEq)]
enum Line {
    Progress(String),
    /// A step that the bar counts.
    Status,
    Other(String),
}

/// Words that start a line of cargo about a step.
const STATUS: [&str; 12] = [
    "Compiling",
    "Checking",
    "Downloading",
    "Downloaded",
    "Finished",
    "Running",
    "Blocking",
    "Locking",
    "Updating",
    "Adding",
    "Building",
    "Executable",
];

fn judge(line: &str) -> Line {
    let line = line.replace("\x1b[K", "").replace('\r', "");
    let mut words = line.split_whitespace();
    let indented = line.starts_with(' ');
    match words.next() {
        None => Line::Status,
        Some("Building") if indented => {
            // The bar itself may hold blanks: "Building [==>   ] 7/57: core".
            let done = line.split_once(']').and_then(|(_, rest)| rest.trim_start().split([':', ' ']).next());
            match done.and_then(|done| done.split_once('/')) {
                Some((done, all)) => Line::Progress(format!("{done} of {all} crates")),
                None => Line::Status,
            }
        }
        Some("Downloading") if indented => Line::Progress("fetching crates".to_owned()),
        Some(word) if indented && STATUS.contains(&word) => Line::Status,
        Some(_) => Line::Other(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_becomes_a_count() {
        let of = |line| judge(line);
        assert_eq!(
            of("\x1b[K    Building [====>    ] 7/57: core, alloc\r"),
            Line::Progress("7 of 57 crates".to_owned())
        );
        assert_eq!(of("   Compiling core v0.0.0"), Line::Status);
        assert_eq!(of(" Downloading 3 crates"), Line::Progress("fetching crates".to_owned()));
        assert_eq!(of(""), Line::Status);
    }

    #[test]
    fn complaints_pass() {
        let error = "error[E0308]: mismatched types";
        assert_eq!(judge(error), Line::Other(error.to_owned()));
        // This is part of a message, not a step.
        let quoted = "   | Finished reading";
        assert_eq!(judge(quoted), Line::Other(quoted.to_owned()));
    }

    #[test]
    fn programs_are_those_with_a_path() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"b"},"#,
            r#""profile":{"test":true},"executable":"/w/t/b-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"lib"},"#,
            r#""profile":{"test":false},"executable":null}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n",
        );
        let programs = programs(messages.as_bytes()).unwrap();
        assert_eq!(programs.len(), 1);
        assert_eq!((programs[0].name.as_str(), programs[0].is_test), ("b", true));
        assert_eq!(programs[0].package, Path::new("/w/a"));
    }
}
