//! Makes a check of each test that cargo knows. Guarantees that a test that does not build is a check that fails.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::build::{Program, build};
use crate::check::{Check, Job, Verdict};
use crate::failure::{Context, Failure, Result};

/// Returns the checks of the test programs that `cargo` builds: those whose name contains `part`. Each runs in its own
/// process.
pub(super) fn of_programs(group: &str, cargo: Command, part: &str) -> Vec<Check> {
    let found = build(group, cargo).and_then(|programs| {
        let tests = programs.iter().filter(|program| program.is_test);
        let names = tests.map(|program| Ok((program, tests_of(program)?)));
        names.collect::<Result<Vec<_>>>().map(|names| checks(group, &names, part))
    });
    or_one_that_fails(group, found)
}

fn checks(group: &str, tests: &[(&Program, Vec<String>)], part: &str) -> Vec<Check> {
    let mut checks = Vec::new();
    for (program, names) in tests {
        for name in names.iter().filter(|name| name.contains(part)) {
            let mut test = test_program(&program.path, &program.package);
            test.args(["--exact", name]);
            let check = Check::new(format!("{group}: {name}"), move |job| {
                let (exit, output) = job.output(&mut test)?;
                // If a name matches no test, the program runs none and succeeds.
                let ran = output.contains("test result: ok. 1 passed;");
                Ok(if exit == 0 && ran { Verdict::Passed(None) } else { Verdict::Failed(format!("exit code {exit}")) })
            });
            checks.push(check.brief());
        }
    }
    checks
}

/// Returns the checks. If there are none, returns a check that fails.
fn or_one_that_fails(group: &str, found: Result<Vec<Check>>) -> Vec<Check> {
    let reason = match found {
        Ok(checks) if !checks.is_empty() => return checks,
        Ok(_) => "there are no tests".to_owned(),
        Err(failure) => failure.to_string(),
    };
    vec![Check::new(group, move |_| Err(Failure::new(reason)))]
}

/// Returns a test program as cargo starts it, in its package's folder.
fn test_program(path: &Path, package: &Path) -> Command {
    let mut test = Command::new(path);
    test.current_dir(package).env("CARGO_MANIFEST_DIR", package);
    test
}

fn tests_of(program: &Program) -> Result<Vec<String>> {
    let listed = |more: &[&str]| listed(test_program(&program.path, &program.package).arg("--list").args(more));
    Ok(without(listed(&[])?, &listed(&["--ignored"])?))
}

fn without(mut all: Vec<String>, ignored: &[String]) -> Vec<String> {
    all.retain(|name| !ignored.contains(name));
    all
}

fn listed(command: &mut Command) -> Result<Vec<String>> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().doing("a test program")?;
    if !output.status.success() {
        return Err(Failure::new("it lists no tests"));
    }
    Ok(names(&String::from_utf8_lossy(&output.stdout)))
}

fn names(list: &str) -> Vec<String> {
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

// --- doc tests ------------------------------------------------------------------------------------------------------

/// Returns the checks of the doc tests. Rustdoc runs all of them at once, when the first one runs.
pub(super) fn of_docs(group: &str, cargo: impl Fn() -> Command) -> Vec<Check> {
    eprintln!("building: {group}");
    let listed = |more: &[&str]| listed(cargo().args(["--", "--list"]).args(more));
    let Ok(names) = listed(&[]).and_then(|all| Ok(without(all, &listed(&["--ignored"])?))) else {
        // Cargo itself says what does not build.
        return vec![Check::command(group, cargo()).alone()];
    };
    let mut all = cargo();
    all.args(["--", "-Zunstable-options", "--report-time"]);
    let batch = Arc::new(Batch { cargo: Mutex::new(Some(all)), results: Mutex::default() });
    let check = |name: String| {
        let batch = Arc::clone(&batch);
        Check::new(format!("{group}: {name}"), move |job| batch.result(&name, job)).alone().brief()
    };
    or_one_that_fails(group, Ok(names.into_iter().map(check).collect()))
}

struct Batch {
    cargo: Mutex<Option<Command>>,
    results: Mutex<HashMap<String, (bool, Duration)>>,
}

impl Batch {
    fn result(&self, name: &str, job: &mut Job) -> Result<Verdict> {
        let cargo = self.cargo.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut cargo) = cargo {
            let (_, output) = job.output(&mut cargo)?;
            results.extend(BufReader::new(output.as_bytes()).lines().filter_map(|line| result(&line.ok()?)));
        }
        Ok(match results.get(name) {
            Some(&(true, took)) => Verdict::PassedIn(took),
            Some((false, _)) => Verdict::Failed("the first doc test's log says why".to_owned()),
            None => Verdict::Failed("it did not run".to_owned()),
        })
    }
}

/// Returns the name, whether it passed, and its time, of a line such as "test NAME ... ok <0.010s>".
fn result(line: &str) -> Option<(String, (bool, Duration))> {
    let (name, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    // Unlike the list, the line also says how the test must end.
    let name = [" - compile fail", " - compile", " - should panic"]
        .iter()
        .find_map(|mode| name.strip_suffix(mode))
        .unwrap_or(name);
    let (word, took) = result.split_once(" <").map_or((result, None), |(word, took)| (word, took.strip_suffix("s>")));
    let took = took.and_then(|took| took.parse().ok()).map_or(Duration::ZERO, Duration::from_secs_f64);
    match word {
        "ok" => Some((name.to_owned(), (true, took))),
        "FAILED" => Some((name.to_owned(), (false, took))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_tests_are_no_checks() {
        let all = names("a::b: test\nc: test\nd: benchmark\n\n2 tests, 1 benchmark\n");
        assert_eq!(all, ["a::b", "c"]);
        assert_eq!(without(all, &["c".to_owned()]), ["a::b"]);
    }

    #[test]
    fn results_of_doc_tests_are_read() {
        let of = |line| result(line);
        let half = Duration::from_millis(500);
        let name = "kernel/src/addr.rs - addr (line 5)".to_owned();
        assert_eq!(of("test kernel/src/addr.rs - addr (line 5) ... ok <0.500s>"), Some((name.clone(), (true, half))));
        assert_eq!(
            of("test kernel/src/addr.rs - addr (line 5) - compile fail ... FAILED <0.500s>"),
            Some((name, (false, half)))
        );
        assert_eq!(of("test x ... ignored"), None);
        assert_eq!(of("test result: ok. 3 passed"), None);
    }

    #[test]
    fn a_group_without_tests_fails() {
        assert_eq!(or_one_that_fails("x", Ok(Vec::new())).len(), 1);
    }
}
