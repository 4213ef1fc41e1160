//! Runs the checks. Guarantees one line for each check when it ends, with the number of checks that have ended; a log
//! for each check in `target/tests`; and a last line with the numbers of passed and failed checks.

mod cards;
mod cargo_tests;
mod embed_c;
mod embed_rust;
mod list;
mod module;
mod outcome;
mod page;
mod record;
mod shell;

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lexopt::{Arg, ValueExt};
use libtest_mimic::{Arguments, Completion, Failed, FormatSetting, Trial};

use crate::failure::{Context, Result};
use crate::{project, scratch};

pub(crate) use cards::Booted;
pub(crate) use list::Kit;
pub(crate) use outcome::{out_of_order, wrong};

/// The options: which checks run, and how they are reported.
#[derive(Debug, Default)]
struct Options {
    quick: bool,
    filter: Option<String>,
    skip: Vec<String>,
    list: bool,
    json: bool,
}

impl Options {
    fn parse(mut args: lexopt::Parser) -> Result<Self> {
        let mut options = Self::default();
        while let Some(arg) = args.next()? {
            match arg {
                Arg::Long("quick") => options.quick = true,
                Arg::Long("filter") => options.filter = Some(args.value()?.string()?),
                Arg::Long("skip") => options.skip.push(args.value()?.string()?),
                Arg::Long("list") => options.list = true,
                Arg::Long("json") => options.json = true,
                // The scripts have handled this option.
                Arg::Long("no-install") => {}
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(options)
    }

    /// Returns whether the check of that name is wanted.
    fn matches(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str())) && !self.skips(name)
    }

    fn skips(&self, name: &str) -> bool {
        self.skip.iter().any(|part| name.contains(part.as_str()))
    }

    /// Returns whether a group may contain a wanted check, judged by the start of the checks' names.
    fn wants(&self, group: &str) -> bool {
        let of_group = |filter: &String| group.contains(filter.as_str()) || filter.starts_with(&format!("{group}: "));
        self.filter.as_ref().is_none_or(of_group)
    }
}

/// Runs the command `check`. Returns 0 if no check failed.
pub(crate) fn command(args: lexopt::Parser) -> Result<u8> {
    let options = Options::parse(args)?;
    let logs = project::target_dir().join("tests");
    fs::create_dir_all(&logs).doing(logs.display())?;
    let checks = list::all(&options, &logs)?;

    let (filter, skip) = (options.filter.clone(), options.skip.clone());
    let arguments = Arguments { filter, skip, list: options.list, ..Arguments::default() };
    let report = Arc::new(Report { to_stderr: options.json, ..Report::default() });
    let mut trials: Vec<(bool, Trial)> =
        checks.into_iter().map(|check| (check.alone, check.trial(&logs, &report))).collect();
    trials.retain(|(_, trial)| !arguments.is_filtered_out(trial));
    if options.list {
        let _ = libtest_mimic::run(&arguments, trials.into_iter().map(|(_, trial)| trial).collect());
        return Ok(0);
    }
    report.lock().total = trials.len();
    eprintln!("running: {} checks", trials.len());
    while let Some(&(alone, _)) = trials.first() {
        let end = trials.iter().position(|&(other, _)| other != alone).unwrap_or(trials.len());
        let arguments = Arguments {
            test_threads: Some(if alone { 1 } else { at_once() }),
            format: options.json.then_some(FormatSetting::Json),
            // libtest-mimic's own printer knows no [n/m], so the report prints.
            logfile: (!options.json).then(|| "/dev/null".to_owned()),
            ..arguments.clone()
        };
        // The report counts the results.
        let _ = libtest_mimic::run(&arguments, trials.drain(..end).map(|(_, trial)| trial).collect());
    }
    Ok(report.conclusion())
}

/// Returns how many checks run at once. Each may boot QEMU, which keeps a core busy.
fn at_once() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().min(4))
}

// --- a check --------------------------------------------------------------------------------------------------------

/// A check.
pub(crate) struct Check {
    name: String,
    /// Whether the check has the machine to itself.
    alone: bool,
    /// Whether the check is one of many of a kind. If it passed, its line is short-lived.
    brief: bool,
    run: Run,
}

type Run = Box<dyn FnOnce(&mut Job) -> Result<Verdict> + Send>;

/// How a check ended.
pub(crate) enum Verdict {
    /// The check passed. The text goes on its line.
    Passed(Option<String>),
    /// The check passed while another check ran.
    PassedIn(Duration),
    /// The check failed. The log says why.
    Failed(String),
    /// This machine cannot run it.
    Skipped(String),
}

impl Check {
    /// Returns a check that may run beside others.
    pub(crate) fn new(name: impl Into<String>, run: impl FnOnce(&mut Job) -> Result<Verdict> + Send + 'static) -> Self {
        Self { name: name.into(), alone: false, brief: false, run: Box::new(run) }
    }

    /// Returns a check that passes if a command succeeds.
    pub(crate) fn command(name: impl Into<String>, mut command: Command) -> Self {
        Self::new(name, move |job| job.passes(&mut command))
    }

    fn name(&self) -> &str {
        &self.name
    }

    /// Gives the check the machine to itself.
    pub(crate) fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    fn brief(self) -> Self {
        Self { brief: true, ..self }
    }

    fn trial(self, logs: &Path, report: &Arc<Report>) -> Trial {
        let (report, name) = (Arc::clone(report), self.name.clone());
        let log = logs.join(format!("{}.log", file_name(&self.name)));
        Trial::ignorable_test(self.name, move || {
            let start = Instant::now();
            let verdict = Job::new(&log).and_then(|mut job| {
                let verdict = (self.run)(&mut job);
                job.end(verdict)
            });
            let verdict = verdict.unwrap_or_else(|failure| Verdict::Failed(failure.to_string()));
            report.ended(&name, start.elapsed(), &verdict, self.brief, &log);
            match verdict {
                Verdict::Passed(_) | Verdict::PassedIn(_) => Ok(Completion::Completed),
                Verdict::Skipped(reason) => Ok(Completion::ignored_with(reason)),
                Verdict::Failed(reason) => Err(Failed::from(reason)),
            }
        })
    }
}

/// Returns a check's name in the form of a file name.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".=-".contains(c) { c } else { '_' };
    // Most file systems take 255 bytes.
    name.chars().map(plain).take(240).collect()
}

/// The resources of a check while it runs: its own log and scratch folder.
pub(crate) struct Job {
    log: File,
    folder: PathBuf,
}

impl Job {
    fn new(log: &Path) -> Result<Self> {
        Ok(Self { log: File::create(log).doing(log.display())?, folder: scratch::folder()? })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a line to the log.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.log, "{line}").doing("the log")
    }

    /// Runs a command. Returns its exit code and its output. The log gets the output too.
    pub(crate) fn output(&mut self, command: &mut Command) -> Result<(i32, String)> {
        let path = self.folder.join("output");
        let file = File::create(&path).doing(path.display())?;
        let both = file.try_clone().doing(path.display())?;
        let program = command.get_program().to_string_lossy().into_owned();
        let status = command.stdin(Stdio::null()).stdout(file).stderr(both).status().doing(program)?;
        let output = String::from_utf8_lossy(&fs::read(&path).doing(path.display())?).into_owned();
        self.log.write_all(output.as_bytes()).doing("the log")?;
        Ok((exit_code(status), output))
    }

    /// Runs a command, which must succeed.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        let (log, both) = (self.log.try_clone().doing("the log")?, self.log.try_clone().doing("the log")?);
        let program = command.get_program().to_string_lossy().into_owned();
        let status = command.stdin(Stdio::null()).stdout(log).stderr(both).status().doing(&program)?;
        if status.success() {
            return Ok(());
        }
        Err(crate::failure::Failure::new(format!("exit code {} of {program}", exit_code(status))))
    }

    /// Runs a command. The check passes if the command succeeds.
    pub(crate) fn passes(&mut self, command: &mut Command) -> Result<Verdict> {
        self.run(command).map(|()| Verdict::Passed(None))
    }

    /// Returns the verdict: passed if `wrong` is empty. The log gets the lines of `wrong`.
    pub(crate) fn judged(&mut self, wrong: &[String]) -> Result<Verdict> {
        for line in wrong {
            self.say(line)?;
        }
        Ok(wrong.first().map_or(Verdict::Passed(None), |first| Verdict::Failed(first.clone())))
    }

    fn end(mut self, verdict: Result<Verdict>) -> Result<Verdict> {
        if let Err(failure) = &verdict {
            self.say(&failure.to_string())?;
        }
        fs::remove_dir_all(&self.folder).doing(self.folder.display())?;
        verdict
    }
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;

    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

// --- the report -----------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Report {
    to_stderr: bool,
    ended: Mutex<Ended>,
}

#[derive(Default)]
struct Ended {
    total: usize,
    results: Vec<(Duration, &'static str, String)>,
    last_tick: Option<Instant>,
}

impl Report {
    fn lock(&self) -> std::sync::MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, line: &str) {
        // If the pipe is closed, nobody reads it.
        let _ = if self.to_stderr { writeln!(io::stderr(), "{line}") } else { writeln!(io::stdout(), "{line}") };
    }

    /// Counts a check, and prints its line.
    fn ended(&self, name: &str, took: Duration, verdict: &Verdict, brief: bool, log: &Path) {
        let (word, note, took) = match verdict {
            Verdict::Passed(note) => ("ok", note.clone(), took),
            Verdict::PassedIn(took) => ("ok", None, *took),
            Verdict::Failed(reason) => ("FAILED", Some(format!("{reason}; the end of {}:", log.display())), took),
            Verdict::Skipped(reason) => ("skipped", Some(reason.clone()), took),
        };
        let mut ended = self.lock();
        ended.results.push((took, word, name.to_owned()));
        let count = format!("[{}/{}]", ended.results.len(), ended.total);
        if brief && word == "ok" {
            ended.tick(&format!("{count} ok {name}"));
            return;
        }
        tick_done();
        let note = note.map_or(String::new(), |note| format!(": {note}"));
        self.print(&format!("{count} {word:<7} {name} ({} s){note}", took.as_secs()));
        if word == "FAILED" {
            let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(40)..] {
                self.print(&format!("        {line}"));
            }
        }
    }

    /// Prints the slowest checks, those that failed or were skipped, and the counts. Returns the exit code.
    fn conclusion(&self) -> u8 {
        tick_done();
        let mut results = std::mem::take(&mut self.lock().results);
        let of = |word, results: &[(Duration, &str, String)]| -> Vec<String> {
            results.iter().filter(|(_, other, _)| *other == word).map(|(_, _, name)| name.clone()).collect()
        };
        let (passed, failed, skipped) = (of("ok", &results), of("FAILED", &results), of("skipped", &results));
        results.sort_by_key(|&(took, ..)| std::cmp::Reverse(took));
        self.print("the slowest:");
        for (took, _, name) in results.iter().take(10) {
            self.print(&format!("{:6} s  {name}", took.as_secs()));
        }
        for name in &failed {
            self.print(&format!("FAILED: {name}"));
        }
        for name in &skipped {
            self.print(&format!("skipped: {name}"));
        }
        self.print(&counts(passed.len(), failed.len(), skipped.len()));
        u8::from(!failed.is_empty())
    }
}

/// Returns the last line.
fn counts(passed: usize, failed: usize, skipped: usize) -> String {
    let note = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    format!("{passed} passed, {failed} failed{note}")
}

impl Ended {
    /// Shows the progress of the checks. On a terminal it replaces the line. Elsewhere it prints a line at most every
    /// ten seconds.
    fn tick(&mut self, line: &str) {
        if io::stderr().is_terminal() {
            let line: String = line.chars().take(79).collect();
            eprint!("\r\x1b[K{line}");
        } else if self.last_tick.is_none_or(|last| last.elapsed() >= Duration::from_secs(10)) {
            eprintln!("{line}");
            self.last_tick = Some(Instant::now());
        }
    }
}

fn tick_done() {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_line_counts() {
        assert_eq!(counts(3, 0, 0), "3 passed, 0 failed");
        assert_eq!(counts(3, 1, 2), "3 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn results_are_counted_by_their_kind() {
        let report = Report::default();
        let ended = |verdict| report.ended("x", Duration::ZERO, &verdict, true, Path::new("/nowhere"));
        ended(Verdict::Passed(None));
        ended(Verdict::PassedIn(Duration::from_secs(5)));
        ended(Verdict::Skipped("no network".to_owned()));
        assert_eq!(report.lock().results[1].0, Duration::from_secs(5));
        assert_eq!(report.conclusion(), 0);
        ended(Verdict::Failed("exit code 1".to_owned()));
        assert_eq!(report.conclusion(), 1);
    }

    #[test]
    fn groups_are_wanted_by_their_name_or_by_a_name_in_them() {
        let with = |filter: &str| Options { filter: Some(filter.to_owned()), ..Options::default() };
        assert!(Options::default().wants("host tests"));
        assert!(with("host").wants("host tests"));
        assert!(with("host tests: cma").wants("host tests"));
        assert!(!with("bad input").wants("host tests"));
    }

    #[test]
    fn names_are_skipped_by_a_part_of_them() {
        let options = Options { skip: vec!["host tests".to_owned(), "clippy".to_owned()], ..Options::default() };
        assert!(options.skips("host tests") && options.skips("host tests, no features"));
        assert!(!options.matches("clippy, host"));
        assert!(!options.skips("interleavings") && options.matches("main job"));
    }

    #[test]
    fn names_of_logs_are_plain() {
        assert_eq!(file_name("bad input: cma=64Q"), "bad_input__cma=64Q");
    }
}
