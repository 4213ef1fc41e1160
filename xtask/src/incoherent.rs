//! Runs programs of the kernel on the incoherent machine: see tests/incoherent/README.md.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use lexopt::{Arg, ValueExt};

use crate::build::{Kind, Toolchain, build};
use crate::failure::{Context, Failure, Result};
use crate::project::{self, INCOHERENT};
use crate::scratch;

/// Not wx: it plants aliases in the live tables for the audit to find, and this machine finds them too.
const TESTS: [&str; 6] = ["direct_map", "driver", "interrupts", "ledger", "ownership", "stress"];
/// What loans takes: the least area that its contracts fit in, and as few steps as recall pages of every kind.
const LENT: &str = "cma=6M steps=100 loglevel=6 semihosting";

#[derive(Default)]
struct Options {
    elfs: Vec<PathBuf>,
    tests: Vec<String>,
    seeds: Option<String>,
    plants: bool,
    build: bool,
    /// What the machine itself is told.
    rest: Vec<OsString>,
}

impl Options {
    fn parse(mut args: lexopt::Parser) -> Result<Self> {
        let mut options = Self::default();
        while let Some(arg) = args.next()? {
            match arg {
                Arg::Long("elf") => options.elfs.push(args.value()?.into()),
                Arg::Long("test") => options.tests.push(args.value()?.string()?),
                Arg::Long("seeds") => options.seeds = Some(args.value()?.string()?),
                Arg::Long("plants") => options.plants = true,
                Arg::Long("build") => options.build = true,
                Arg::Long(flag @ ("necessity" | "console" | "list-sites")) => {
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

    let by_default = options.elfs.is_empty() && options.tests.is_empty();
    if options.build || (options.plants && options.elfs.is_empty()) || (!options.plants && by_default) {
        options.elfs.push(toolchain.on_target(Kind::Bin, "planted")?);
    }
    if options.build {
        return Ok(0);
    }
    // All that is built by default runs, and loans too.
    let all = by_default && !options.plants;
    if options.plants {
        options.rest.extend(["--plants".into(), folder.join("plants.txt").into()]);
    } else if all {
        options.elfs.push(toolchain.demo()?);
        options.tests = TESTS.map(str::to_owned).to_vec();
    }
    for test in &options.tests {
        options.elfs.push(toolchain.on_target(Kind::Test, test)?);
    }

    // Small: the codec that decodes it runs on the machine.
    let disk = scratch::folder()?.join("disk.jpg");
    let made = Command::new(toolchain.picture()?).arg("generate").arg(&disk).args(["--size", "160x120"]).status();
    if !made.doing("the tool for pictures")?.success() {
        return Err(Failure::new("the tool for pictures failed"));
    }
    let seeds = options.seeds.unwrap_or_else(|| if options.plants { "40" } else { "4" }.to_owned());
    let run = |elfs: &[PathBuf], more: &[&str]| {
        let mut run = Command::new(&machine);
        for elf in elfs {
            run.arg("--elf").arg(elf);
        }
        run.args(more).arg("--disk").arg(&disk).args(["--seeds", &seeds]).args(&options.rest);
        ended(run, &machine)
    };
    let code = run(&options.elfs, &[])?;
    if !all {
        return Ok(code);
    }
    let of_loans = run(&[toolchain.on_target(Kind::Test, "loans")?], &["--append", LENT])?;
    Ok(if of_loans == 0 { code } else { of_loans })
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
        assert!(options.plants && !options.build);
        assert_eq!(options.rest, ["--model", "a8", "--console"]);
    }
}
