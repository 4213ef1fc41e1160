//! The shell of `demo=shell` on a pseudo terminal: keys go in, and the lines that come out are compared.
//!
//! Guarantees: a session that the book shows is what the kernel does, line by line; of the audit's line the numbers may
//! differ. No line of a table or a map has more than 80 columns. A session ends with exit code 0.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use wildmatch::WildMatch;

use super::{Check, Job, Kit, Verdict};
use crate::failure::{Context, Failure, Result};
use crate::project;

const PROMPT: &str = "carveout> ";
const CHAPTER: &str = "docs/src/shell.md";
/// How long the first prompt may take, before which a kernel may have to be built, and how long an answer.
const FIRST: Duration = Duration::from_mins(15);
const PATIENCE: Duration = Duration::from_mins(1);
/// How long QEMU may run, in seconds.
const SESSION: &str = "180";
/// The columns of a table or a map.
const COLUMNS: usize = 80;
/// What one line says, however long it is.
const LONG: [&str; 3] = ["refused: ", "audit: ", "* asked for *: "];

/// What a terminal sends.
const UP: &str = "\x1b[A";
const LEFT: &str = "\x1b[D";
const BACKSPACE: &str = "\x7f";

/// What is typed, and the lines of the answer. In these `*` is any text and `?` any character.
type Step = (&'static str, &'static [&'static str]);

/// Keys, history, completion and bad input. `{UP}` and its like stand for keys.
const KEYS: &[Step] = &[
    // Completion of a whole name, of what two names have in common, and of nothing.
    ("aud\t", &["audit: clean: *"]),
    ("con\ts", &["contracts: 0"]),
    ("zz\t", &["refused: 'zz' is no command; help lists the 14 that there are"]),
    // The line before the last comes back, and is edited.
    ("alloc camera 1M", &["buffer 1: 1 MiB for camera, at 0x* (1 MiB)"]),
    ("free 9", &["refused: there is no buffer 9; free lists those that there are"]),
    ("{UP}{BACKSPACE}1", &["freed buffer 1: 1 MiB of camera, at 0x* (1 MiB)"]),
    ("{UP}{UP}{UP}", &["buffer 2: 1 MiB for camera, at 0x* (1 MiB)"]),
    ("fre 2{LEFT}{LEFT}e", &["freed buffer 2: 1 MiB of camera, at 0x* (1 MiB)"]),
    // What is wrong is said in a line, and nothing else happens.
    ("", &[]),
    ("alloc", &["refused: alloc takes MASTER SIZE, not ''"]),
    ("alloc camera 8M 1", &["refused: alloc takes MASTER SIZE, not 'camera 8M 1'"]),
    ("areas now", &["refused: areas takes no words, not 'now'"]),
    ("alloc kamera 8M", &["refused: 'kamera' is no master; there are camera, codec, scaler"]),
    ("alloc camera 8Q", &["refused: '8Q' is no size: 'Q' follows the number; 8M and 64K are sizes"]),
    ("alloc camera 0", &["refused: '0' is no size: it is 0; *"]),
    ("alloc camera -8", &["refused: a word begins with '-': *"]),
    ("map dram", &["refused: 'dram' is no area; there is cma"]),
    ("free x", &["refused: 'x' is no buffer's number: a number from 1 to 4294967295 is needed"]),
    ("stress 0", &["refused: '0' is no number of steps: a number from 1 to 1000000 is needed"]),
    ("lend much", &["refused: 'much' is no size: the number is missing; *"]),
    ("contract camera none", &["refused: camera has no contract; contract camera 2 1M makes one"]),
    ("contract camera 0 1M", &["refused: '0' is no number of buffers: a number from 1 to 1024 is needed"]),
    ("help nothing", &["refused: 'nothing' is no command; help lists the 14 that there are"]),
    ("why", &["nothing was refused yet"]),
    ("trace on", &["refused: this kernel records no events; *"]),
    // A line longer than the editor's is cut.
    (
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        &["refused: 'xxx*xxx' is no command; help lists the 14 that there are"],
    ),
    // A contract's places are refused to others, and `why` names what would help.
    ("contract codec 3 16M", &["codec always gets 3 x 16 MiB"]),
    (
        "alloc codec 17M",
        &["refused: no buffer of 17 MiB is declared: the contract's largest are of 16 MiB; the command why says more"],
    ),
    ("why", &["codec asked for 17 MiB: no buffer of 17 MiB is declared*", "would help: contract codec none, and *"]),
    ("alloc camera 20M", &["refused: no room for 20 MiB: 16 MiB free in the area; the command why says more"]),
    (
        "why",
        &[
            "camera asked for 20 MiB: *",
            "in the way: places of a contract, at *",
            "would help: contract codec none; then *",
        ],
    ),
    ("alloc camera 100M", &["refused: no room for 100 MiB: 16 MiB free in the area; the command why says more"]),
    ("why", &["camera asked for 100 MiB: *", "in the way: the area's end; *", "would help: a larger area, *"]),
    ("contract codec none", &["the contract of codec ended"]),
    ("why", &["camera asked for 100 MiB: *", "in the way: the area's end; *", "would help: a larger area, *"]),
    (
        "stress 60",
        &["stress: 60 steps by seed 1: *", "stress: 0 refused; each byte was as it must be", "audit: clean: *"],
    ),
    // What the session has at its end is freed.
    ("alloc scaler 5000", &["buffer 3: 5000 B for scaler, at 0x* (8 KiB)"]),
    ("lend 4M", &["the cache has 4 MiB; recalled since boot: 0 B"]),
];

/// What a kernel with events answers. Its boot arguments ask for no record, so the shell begins one.
const EVENTS: &[Step] = &[
    ("trace", &["trace: off; trace on begins"]),
    ("trace on", &["trace: on; each core keeps its last 256 events"]),
    ("alloc camera 64K", &["buffer 1: 64 KiB for camera, at 0x* (64 KiB)"]),
    ("trace off", &["trace: off: 1 alloc, *1 map*"]),
    ("trace off", &["trace: off; trace on begins"]),
    // What is recorded at the end is written.
    ("trace on", &["trace: on; each core keeps its last 256 events"]),
    ("trace on", &["trace: on already"]),
];

/// What it answers where the boot arguments ask for a record.
const RECORDED: &[Step] = &[
    ("trace on", &["trace: on already"]),
    ("trace off", &["refused: the boot argument events= began the record, which ends with exit"]),
];

pub(super) fn checks(kit: &'static Kit, quick: bool) -> Vec<Check> {
    let of_book = Check::new("shell: the book's session", move |job| {
        let chapter = fs::read_to_string(project::root().join(CHAPTER)).doing(CHAPTER)?;
        let steps = shown(&chapter);
        if steps.is_empty() {
            return Err(Failure::new(format!("{CHAPTER} shows no session")));
        }
        session(job, &mut boot(kit, "demo=shell"), &steps)
    });
    let keys = Check::new("shell: keys, history, completion and bad input", move |job| {
        session(job, &mut boot(kit, "demo=shell"), &typed(KEYS))
    });
    let events = Check::new("shell: a kernel that records events", move |job| {
        let trace = job.folder().join("trace.json");
        for (append, steps) in [("demo=shell", RECORDED), ("demo=shell events=none", EVENTS)] {
            let verdict = session(job, boot(kit, append).arg("--record").arg(&trace), &typed(steps))?;
            if !matches!(verdict, Verdict::Passed(_)) {
                return Ok(verdict);
            }
        }
        Ok(Verdict::Passed(None))
    });
    [Some(of_book), Some(keys), (!quick).then_some(events)].into_iter().flatten().collect()
}

/// Returns the command that `./qemu-run.sh` runs.
fn boot(kit: &Kit, append: &str) -> Command {
    let mut boot = kit.xtask("boot");
    boot.args(["--append", append, "--timeout", SESSION]);
    boot
}

/// Returns the keys and the answers of steps.
fn typed(steps: &[Step]) -> Vec<(String, Vec<String>)> {
    let keys = |text: &str| text.replace("{UP}", UP).replace("{LEFT}", LEFT).replace("{BACKSPACE}", BACKSPACE);
    steps.iter().map(|(text, answer)| (keys(text), answer.iter().map(|&line| line.to_owned()).collect())).collect()
}

/// Returns what a chapter types and what it shows as the answers. The last of them is typed by every session itself.
fn shown(chapter: &str) -> Vec<(String, Vec<String>)> {
    let mut steps: Vec<(String, Vec<String>)> = Vec::new();
    let (mut inside, mut any) = (false, false);
    for line in chapter.lines() {
        if line.starts_with("```") {
            (inside, any) = (!inside && line == "```text", false);
        } else if let Some(keys) = line.strip_prefix(PROMPT).filter(|_| inside) {
            steps.push((keys.to_owned(), Vec::new()));
            any = true;
        } else if let Some((_, answer)) = steps.last_mut().filter(|_| inside && any) {
            answer.push(pattern(line));
        }
    }
    steps.retain(|(keys, _)| keys != "exit");
    steps
}

/// Returns the pattern of a line of the book. What the audit counts depends on the kernel's size.
fn pattern(line: &str) -> String {
    if !line.starts_with("audit: ") {
        return line.to_owned();
    }
    line.chars().map(|letter| if letter.is_ascii_digit() { '*' } else { letter }).collect()
}

/// Has a session of these steps, and ends it.
fn session(job: &mut Job, boot: &mut Command, steps: &[(String, Vec<String>)]) -> Result<Verdict> {
    let mut terminal = Terminal::boot(boot)?;
    let banner = terminal.answer("", FIRST)?;
    let mut wrong = Vec::new();
    if banner.last().map(String::as_str) != Some("shell: help lists the commands; exit ends the kernel") {
        wrong.push(format!("no banner: {banner:?}"));
    }
    for (keys, wanted) in steps {
        let answer = terminal.answer(&format!("{keys}\r"), PATIENCE)?;
        job.say(&format!("{PROMPT}{keys:?}\n{}", answer.join("\n")))?;
        wrong.extend(differences(keys, &answer, wanted));
    }
    let (exit, end) = terminal.end()?;
    job.say(&end.join("\n"))?;
    let patterns =
        ["shell: freed buffers: *; ended contracts: *; 64 MiB free, as before", "audit: clean: *", "demo: ok"];
    let last: Vec<String> = end.iter().filter(|line| !line.starts_with("events: ")).cloned().collect();
    wrong.extend(differences("exit", &last, &patterns.map(str::to_owned)));
    if exit != Some(0) {
        wrong.push(format!("exit code {exit:?}, expected 0"));
    }
    job.judged(&wrong)
}

/// Says what is wrong with an answer, a line each.
fn differences(keys: &str, answer: &[String], wanted: &[String]) -> Vec<String> {
    let is_long = |line: &str| LONG.iter().any(|start| WildMatch::new(&format!("{start}*")).matches(line));
    let wide = answer.iter().filter(|line| line.chars().count() > COLUMNS && !is_long(line));
    let mut wrong: Vec<String> = wide.map(|line| format!("{keys:?}: more than {COLUMNS} columns: {line}")).collect();
    let fits = |(line, pattern): (&String, &String)| WildMatch::new(pattern).matches(line);
    if answer.len() != wanted.len() || !answer.iter().zip(wanted).all(fits) {
        wrong.push(format!("{keys:?} was answered by {answer:#?}, not by {wanted:#?}"));
    }
    wrong
}

/// A kernel whose console is a pseudo terminal.
struct Terminal {
    boot: Child,
    keys: File,
    output: Receiver<Vec<u8>>,
}

impl Terminal {
    fn boot(boot: &mut Command) -> Result<Self> {
        let pty = openpty(None, None).doing("a pseudo terminal")?;
        let end = |fd: &OwnedFd| fd.try_clone().doing("a pseudo terminal");
        boot.stdin(end(&pty.slave)?).stdout(end(&pty.slave)?).stderr(Stdio::null());
        let child = boot.spawn().doing("xtask")?;
        // The command keeps its ends of the terminal until it is changed or dropped, and so does this program.
        boot.stdin(Stdio::null()).stdout(Stdio::null());
        let (keys, mut from) = (File::from(end(&pty.master)?), File::from(pty.master));
        let (to, output) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Once nobody has the other end any more, a read fails.
            while let Ok(count @ 1..) = from.read(&mut bytes)
                && to.send(bytes[..count].to_vec()).is_ok()
            {}
        });
        Ok(Self { boot: child, keys, output })
    }

    /// Types keys. Returns the lines of the answer, without the line that was typed, once the next prompt is there.
    fn answer(&mut self, keys: &str, patience: Duration) -> Result<Vec<String>> {
        self.keys.write_all(keys.as_bytes()).doing("the terminal")?;
        let (mut text, start) = (String::new(), Instant::now());
        // While a line is edited, the prompt may come again on the same line.
        while !(text.ends_with(PROMPT) && text.contains('\n')) {
            let left = patience.saturating_sub(start.elapsed());
            let Ok(bytes) = self.output.recv_timeout(left) else {
                let _ = self.boot.kill();
                return Err(Failure::new(format!("no answer to {keys:?}, but {text:?}")));
            };
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        let mut lines = lines(&text);
        lines.pop();
        Ok(lines)
    }

    /// Types `exit`. Returns the exit code and the last lines.
    fn end(mut self) -> Result<(Option<i32>, Vec<String>)> {
        self.keys.write_all(b"exit\r").doing("the terminal")?;
        let (mut text, start) = (String::new(), Instant::now());
        while let Ok(bytes) = self.output.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        if start.elapsed() >= PATIENCE {
            let _ = self.boot.kill();
        }
        let status = self.boot.wait().doing("xtask")?;
        Ok((status.code(), lines(&text)))
    }
}

/// Returns the lines after the first, which is what was typed.
fn lines(text: &str) -> Vec<String> {
    text.split('\n')
        .skip(1)
        .map(|line| line.trim_end_matches('\r').to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chapter_shows_what_is_typed_and_answered() {
        let chapter = "```sh\ncarveout> no\n```\n\n```text\nboot\ncarveout> free 1\nfreed\ncarveout> audit\naudit: 12 a\n\
                       carveout> exit\nbye\n```\nafter\n";
        let of = |keys: &str, answer: &[&str]| (keys.to_owned(), answer.iter().map(|&line| line.to_owned()).collect());
        assert_eq!(shown(chapter), [of("free 1", &["freed"]), of("audit", &["audit: ** a"])]);
    }

    #[test]
    fn an_answer_is_compared_line_by_line() {
        let of = |answer: &[&str], wanted: &[&str]| {
            let owned = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
            differences("areas", &owned(answer), &owned(wanted)).len()
        };
        assert_eq!(of(&["a 8 MiB", "b"], &["a * MiB", "b"]), 0);
        assert_eq!(of(&["a 8 MiB"], &["a 9 MiB"]), 1);
        assert_eq!(of(&["a", "b"], &["a"]), 1);
        assert_eq!(of(&[], &["a"]), 1);
        assert_eq!(of(&[&"x".repeat(81)], &["*"]), 1);
    }
}
