//! Plants mistakes in the code of loans and contracts (`tests/mutants.toml`), one at a time, in a copy of the tree. The
//! host tests must find each mistake. A mistake takes about a minute. Run this by hand when that code or its tests
//! change.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use lexopt::{Arg, ValueExt};
use serde::Deserialize;

use crate::build::Toolchain;
use crate::failure::{Context, Failure, Result};
use crate::project::{self, MODULE};

/// The tests that must find each mistake.
const TESTS: [&[&str]; 2] = [&["--lib", "--", "cma::"], &["--test", "loans", "--test", "promises"]];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    mutant: Vec<Mutant>,
}

/// A mistake: a text that occurs once in a file, and the text that replaces it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    name: String,
    file: String,
    old: String,
    new: String,
}

impl Mutant {
    fn planted(&self, source: &str) -> Result<String> {
        if source.matches(&self.old).count() == 1 {
            return Ok(source.replacen(&self.old, &self.new, 1));
        }
        Err(Failure::new(format!("{}: {} does not hold that once: {}", self.name, self.file, self.old)))
    }
}

/// Runs the command `mutants`. Returns 1 if a mistake was missed.
pub(crate) fn command(mut args: lexopt::Parser) -> Result<u8> {
    let wanted = match args.next()? {
        None => String::new(),
        Some(Arg::Value(text)) => text.string()?,
        Some(other) => return Err(other.unexpected().into()),
    };
    let table = project::root().join("tests/mutants.toml");
    let table: Table = toml::from_str(&fs::read_to_string(&table).doing(table.display())?).doing(table.display())?;
    let toolchain = Toolchain::chosen()?;
    let work = project::target_dir().join("mutants");
    copy_tree(&work)?;
    if !passes(&toolchain, &work)? {
        return Err(Failure::new(format!("the tests fail with no mistake planted:\n{}", log(&work))));
    }
    let (mut found, mut missed) = (0, 0);
    for mutant in table.mutant.iter().filter(|mutant| mutant.name.contains(&wanted)) {
        let file = work.join(&mutant.file);
        let source = fs::read_to_string(&file).doing(file.display())?;
        fs::write(&file, mutant.planted(&source)?).doing(file.display())?;
        let passed = passes(&toolchain, &work)?;
        fs::write(&file, source).doing(file.display())?;
        let log = log(&work);
        if passed {
            println!("MISSED  {}", mutant.name);
            missed += 1;
        } else if log.lines().any(|line| line.starts_with("error: could not compile")) {
            return Err(Failure::new(format!("{}: it does not compile:\n{log}", mutant.name)));
        } else {
            println!("found   {}: {}", mutant.name, finder(&log));
            found += 1;
        }
    }
    println!("{found} found, {missed} missed");
    Ok(u8::from(missed > 0))
}

/// Copies the files that git tracks or would track. External crates are built once for both trees.
fn copy_tree(work: &Path) -> Result<()> {
    if work.exists() {
        fs::remove_dir_all(work).doing(work.display())?;
    }
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(project::root());
    let files = git.output().doing("git")?.stdout;
    for file in String::from_utf8_lossy(&files).split_terminator('\0') {
        let (from, to) = (project::root().join(file), work.join(file));
        // Git still lists a file that was removed.
        if from.is_file() {
            fs::create_dir_all(to.parent().unwrap_or(work)).doing(to.display())?;
            fs::copy(&from, &to).doing(to.display())?;
        }
    }
    Ok(())
}

fn passes(toolchain: &Toolchain, work: &Path) -> Result<bool> {
    let log = File::create(work.join("log")).doing("the log")?;
    for tests in TESTS {
        let (out, both) = (log.try_clone().doing("the log")?, log.try_clone().doing("the log")?);
        let mut cargo = Command::new("timeout");
        cargo.arg("900").arg(toolchain.program("cargo")).args(["test", "--target-dir"]).arg(project::target_dir());
        cargo.args(["--package", MODULE]).args(tests).current_dir(work).env("PATH", toolchain.path());
        cargo.env("CARGO_INCREMENTAL", "0").stdin(Stdio::null()).stdout(out).stderr(both);
        if !cargo.status().doing("timeout")?.success() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn log(work: &Path) -> String {
    fs::read(work.join("log")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Returns the first test that failed or hangs.
fn finder(log: &str) -> &str {
    let mut names: Vec<&str> = log
        .lines()
        .filter_map(|line| {
            let panicked = line.strip_prefix("thread '").filter(|_| line.contains(" panicked"));
            let hangs = line.strip_prefix("test ").filter(|_| line.contains(" has been running"));
            panicked.and_then(|rest| rest.split('\'').next()).or_else(|| hangs.and_then(|rest| rest.split(' ').next()))
        })
        .collect();
    names.sort_unstable();
    names.first().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(old: &str) -> Mutant {
        Mutant { name: "m".into(), file: "f".into(), old: old.into(), new: "new".into() }
    }

    #[test]
    fn a_mistake_replaces_what_stands_once() {
        assert_eq!(mutant("b").planted("abc").unwrap(), "anewc");
        assert!(mutant("b").planted("abcb").is_err());
        assert!(mutant("x").planted("abc").is_err());
    }

    #[test]
    fn every_mistake_can_be_planted() {
        let text = fs::read_to_string(project::root().join("tests/mutants.toml")).unwrap();
        let table: Table = toml::from_str(&text).unwrap();
        for mutant in &table.mutant {
            mutant.planted(&fs::read_to_string(project::root().join(&mutant.file)).unwrap()).unwrap();
        }
    }

    #[test]
    fn who_found_it_is_named() {
        assert_eq!(finder("thread 'cma::a' (7) panicked at x\nthread 'cma::b' panicked at y\n"), "cma::a");
        assert_eq!(finder("test loans::slow has been running for over 60 seconds\n"), "loans::slow");
    }
}
