//! Counts instructions: boots the bench programs in QEMU. QEMU's clock counts instructions here, or a plugin of QEMU
//! does. The figures are the same on every machine, under any load.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use lexopt::{Arg, ValueExt};

use crate::boards::{self, COUNTING, Emulated};
use crate::build::{Kind, Toolchain, build};
use crate::failure::{Context, Failure, Result};
use crate::project::{self, BENCH};
use crate::{image, scratch, size};

/// How long a bench program may take, in seconds, on a busy machine.
const LIMIT: u32 = 1800;
/// The line before the tables in BENCH.md.
const MARK: &str = "<!-- table -->";
/// The book's folder of plots, and their names.
const PLOTS: &str = "docs/src/bench";
const SHOWN: [&str; 7] = ["alloc", "free", "trace-alloc", "trace-free", "refused", "growth", "lent"];
/// The image's first word, as it is linked.
const IMAGE: u64 = 0xff01_0000;

/// The machine that the bench programs boot on.
struct Bench {
    emulated: Emulated,
    kernel: PathBuf,
    elf: PathBuf,
    scratch: PathBuf,
}

/// How to boot a bench program.
struct Boot<'a> {
    what: &'a str,
    outer_cache: bool,
    append: String,
    words: Vec<String>,
}

impl<'a> Boot<'a> {
    /// Returns a boot that counts, with an area of 64 MiB, on one core, without the outer cache.
    fn counting(what: &'a str) -> Self {
        let words = COUNTING.map(str::to_owned).to_vec();
        Self { what, outer_cache: false, append: "cma=64M".to_owned(), words }
    }

    fn suite(self, suite: &str) -> Self {
        Self { append: format!("{} suite={suite}", self.append), ..self }
    }
}

impl Bench {
    fn build(toolchain: &Toolchain, program: &str) -> Result<Self> {
        let elf = toolchain.on_target(Kind::Bin, program)?;
        let scratch = scratch::folder()?;
        let kernel = scratch.join(format!("{program}.bin"));
        image::flatten(&elf, &kernel)?;
        let bench = Self { emulated: Emulated::named("vexpress-a9")?, kernel, elf, scratch };
        image::compile_tree(&bench.emulated.board.tree()?, &bench.tree(true))?;
        image::tree_without_outer_cache(&bench.emulated.board, &bench.tree(false))?;
        Ok(bench)
    }

    /// Returns the board's tree, with or without the outer cache.
    fn tree(&self, outer_cache: bool) -> PathBuf {
        self.scratch.join(if outer_cache { "a9-pl310.dtb" } else { "a9.dtb" })
    }

    /// Boots the program. Returns its output.
    fn run(&self, boot: &Boot<'_>) -> Result<String> {
        let mut qemu = boards::qemu(LIMIT, "none");
        qemu.args(self.emulated.words()).args(["-m", "512M"]).args(&boot.words);
        qemu.arg("-kernel").arg(&self.kernel).arg("-dtb").arg(self.tree(boot.outer_cache));
        qemu.arg("-append").arg(format!("semihosting {}", boot.append));
        let output = qemu.stdin(Stdio::null()).stderr(Stdio::inherit()).output().doing("timeout")?;
        let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        if output.status.success() {
            return Ok(said);
        }
        let last = said.lines().last().unwrap_or_default();
        Err(Failure::new(format!("the bench program failed on {}: {last}", boot.what)))
    }
}

// --- bench ----------------------------------------------------------------------------------------------------------

/// Runs the command `bench`. It shows a missed budget, which is not a failure.
pub(crate) fn command(mut args: lexopt::Parser) -> Result<u8> {
    let (mut record, mut size) = (false, false);
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Long("record") => record = true,
            Arg::Long("size") => size = true,
            other => return Err(other.unexpected().into()),
        }
    }
    let toolchain = Toolchain::chosen()?;
    if size {
        return size::command(&toolchain, record);
    }
    let out = project::target_dir().join("bench");
    fs::create_dir_all(&out).doing(out.display())?;
    let bench = Bench::build(&toolchain, "bench")?;
    let cores = Bench::build(&toolchain, "bench_cores")?;
    let plugin = Plugin::build(&bench)?;
    let mut programs = build("the tables and plots", tables_cargo(&toolchain, &["build", "--release", "--bins"]))?;
    programs.sort_by(|a, b| a.path.cmp(&b.path));
    let [report, refusals] = &programs[..] else { return Err(Failure::new("cargo named not two programs")) };

    eprintln!("counting: some minutes");
    // The longest jobs come first.
    let jobs: Vec<Job<'_>> = vec![
        ("a9", Box::new(|| bench.run(&Boot::counting("an A9")))),
        ("locks", Box::new(|| plugin.windows(&bench))),
        ("cores", Box::new(|| on_several_cores(&cores))),
        ("cores-a9", Box::new(|| without_outer_cache(&cores))),
        ("a9-pl310", Box::new(|| bench.run(&Boot { outer_cache: true, ..Boot::counting("a PL310").suite("streams") }))),
        ("boot", Box::new(|| Ok(format!("count boot {}\n", plugin.boot(&bench)?)))),
        (
            "lines",
            Box::new(|| bench.run(&Boot::counting("an A9 whose lines go one by one").suite("streams flush=lines"))),
        ),
        ("vector", Box::new(|| bench.run(&Boot::counting("an A9 with vector registers").suite("zeros stores=vector")))),
        ("area-16M", Box::new(|| in_an_area(&bench, "16M"))),
        ("area-64M", Box::new(|| in_an_area(&bench, "64M"))),
        ("area-128M", Box::new(|| in_an_area(&bench, "128M"))),
        ("area-512M", Box::new(|| in_an_area(&bench, "512M"))),
        ("host", Box::new(|| refused_on_the_host(&refusals.path))),
    ];
    let logs = all(jobs, &out)?;
    let mut tables = Command::new(&report.path);
    tables.arg(project::root().join(BENCH)).arg(&out).args(logs);
    let text = said(&mut tables)?;
    fs::write(out.join("tables.md"), &text).doing("tables.md")?;
    if record {
        put_into_bench_md(&toolchain, &text, &out)?;
    }
    Ok(0)
}

/// A count on one machine: its name, and how to get the figures.
type Job<'a> = (&'a str, Box<dyn FnOnce() -> Result<String> + Send + 'a>);

/// Does all jobs, as many at a time as there are processors. Returns `MACHINE=LOG` for each.
fn all(jobs: Vec<Job<'_>>, out: &Path) -> Result<Vec<String>> {
    let queue = Mutex::new(VecDeque::from(jobs));
    let logs = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        loop {
            let Some((machine, job)) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else {
                return Ok(());
            };
            let log = out.join(format!("{machine}.log"));
            fs::write(&log, job()?).doing(log.display())?;
            logs.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{machine}={}", log.display()));
        }
    };
    let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|_| Err(Failure::new("a thread ended early")))?;
        }
        Ok::<_, Failure>(())
    })?;
    Ok(logs.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn in_an_area(bench: &Bench, bytes: &str) -> Result<String> {
    let mut boot = Boot { append: format!("cma={bytes}"), ..Boot::counting("an area of another size") };
    // The contents of movable loans go to the heap.
    boot.words.extend(["-m", "1G"].map(str::to_owned));
    bench.run(&boot.suite("growth"))
}

fn on_several_cores(bench: &Bench) -> Result<String> {
    let mut all = String::new();
    for cores in ["1", "2", "4"] {
        let mut boot = Boot { outer_cache: true, ..Boot::counting("several cores") };
        boot.words.extend(["-smp", cores].map(str::to_owned));
        all += &bench.run(&boot)?;
    }
    Ok(all)
}

/// Counts capture cycles alone.
fn without_outer_cache(bench: &Bench) -> Result<String> {
    let mut boot = Boot::counting("several cores without outer cache").suite("streams");
    boot.words.extend(["-smp", "4"].map(str::to_owned));
    bench.run(&boot)
}

fn refused_on_the_host(program: &Path) -> Result<String> {
    let mut refusals = Command::new(program);
    refusals.arg(project::root().join(BENCH).join("linux.csv"));
    let output = refusals.stderr(Stdio::inherit()).output().doing(program.display())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Failure::new("the host's refusals could not be counted"))
    }
}

/// Returns a cargo command for tests/bench, which is a separate workspace.
fn tables_cargo(toolchain: &Toolchain, words: &[&str]) -> Command {
    let mut cargo = toolchain.cargo_in(&project::root().join(BENCH));
    cargo.args(words).env("PATH", toolchain.path());
    cargo.env("CARGO_TARGET_DIR", project::target_dir().join("bench/build"));
    cargo
}

/// Returns the tests of the code that makes the tables.
pub(crate) fn tests(toolchain: &Toolchain) -> Command {
    tables_cargo(toolchain, &["test", "--release"])
}

/// Runs a command, shows its output, and returns it.
fn said(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stderr(Stdio::inherit()).output().doing(&program)?;
    io::stdout().write_all(&output.stdout).doing("standard output")?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Failure::new(format!("{program} failed")))
    }
}

fn put_into_bench_md(toolchain: &Toolchain, tables: &str, out: &Path) -> Result<()> {
    let said = |mut command: Command| -> Result<String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let output = command.current_dir(project::root()).output().doing(program)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    };
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        git.args(words);
        said(git)
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changed =
        if git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() { "" } else { " with changes" };
    let version = |mut command: Command| -> Result<String> {
        command.arg("--version");
        Ok(said(command)?.lines().next().unwrap_or_default().to_owned())
    };
    let rustc = version(Command::new(toolchain.program("rustc")))?;
    let rustc = rustc.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let qemu = version(Command::new("qemu-system-arm"))?;
    let qemu = qemu.split(' ').nth(3).unwrap_or_default().to_owned();
    let file = project::root().join("BENCH.md");
    let old = fs::read_to_string(&file).doing(file.display())?;
    let before = old.split(&format!("{MARK}\n")).next().unwrap_or_default();
    let text = format!("{before}{MARK}\nCommit {commit}{changed}, {rustc}, QEMU {qemu}.\n\n{tables}");
    fs::write(&file, text).doing(file.display())?;
    let plots = project::root().join(PLOTS);
    fs::create_dir_all(&plots).doing(plots.display())?;
    for name in SHOWN.map(|name| format!("{name}.svg")) {
        fs::copy(out.join(&name), plots.join(&name)).doing(name)?;
    }
    Ok(())
}

// --- the plugin -----------------------------------------------------------------------------------------------------

/// The plugin of QEMU that counts each instruction (tests/bench/counts.c), built for the installed QEMU.
struct Plugin {
    library: PathBuf,
    symbols: String,
}

/// The plugin's counts between two markers.
#[derive(Debug, PartialEq)]
struct Window {
    all: u64,
    held: u64,
    turns: u64,
    longest: u64,
}

/// The plugin's counts: the windows in their order, and how often each address was executed in them.
#[derive(Debug, PartialEq)]
struct Counts {
    windows: Vec<Window>,
    addresses: Vec<(String, u64)>,
}

impl Counts {
    fn read(text: &str) -> Result<Self> {
        let (mut windows, mut addresses) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |n: usize| words[n].parse::<u64>().map_err(|_| Failure::new(format!("not a count: {line}")));
            match words[..] {
                ["window", _, _, _, _] => {
                    windows.push(Window { all: number(1)?, held: number(2)?, turns: number(3)?, longest: number(4)? });
                }
                ["at", address, _] => addresses.push((address.to_owned(), number(2)?)),
                _ => return Err(Failure::new(format!("not the plugin's: {line}"))),
            }
        }
        Ok(Self { windows, addresses })
    }
}

impl Plugin {
    fn build(bench: &Bench) -> Result<Self> {
        let library = bench.scratch.join("counts.so");
        let version = Command::new("qemu-system-arm").arg("--version").output().doing("qemu-system-arm")?;
        let api = api(&String::from_utf8_lossy(&version.stdout))?;
        let source = project::root().join(BENCH).join("counts.c");
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-shared", "-fPIC", &format!("-DAPI={api}"), "-o"]).args([&library, &source]);
        if !cc.status().doing("cc")?.success() {
            return Err(Failure::new("the plugin for QEMU did not build"));
        }
        let symbols = Command::new("nm").arg(&bench.elf).output().doing("nm")?;
        Ok(Self { library, symbols: String::from_utf8_lossy(&symbols.stdout).into_owned() })
    }

    /// Returns the address of a function.
    fn symbol(&self, name: &str) -> Result<String> {
        let line = |line: &str| Some(line.strip_suffix(name)?.strip_suffix(" T ")?.to_owned());
        let address = self.symbols.lines().find_map(line);
        address.map(|address| format!("0x{address}")).ok_or_else(|| Failure::new(format!("no symbol {name}")))
    }

    /// Boots with the plugin. Returns the program's output and the plugin's counts.
    fn run(&self, bench: &Bench, mut boot: Boot<'_>, arguments: &str) -> Result<(String, Counts)> {
        let out = bench.scratch.join(format!("counts-{}", boot.what));
        let plugin = format!("{},out={}{arguments}", self.library.display(), out.display());
        boot.words.extend(["-plugin".to_owned(), plugin]);
        let said = bench.run(&boot)?;
        Ok((said, Counts::read(&fs::read_to_string(&out).doing(out.display())?)?))
    }

    /// Returns the instructions from reset to the first buffer.
    fn boot(&self, bench: &Bench) -> Result<u64> {
        let counts = self.until_first_buffer(bench)?;
        Ok(counts.windows.first().ok_or_else(|| Failure::new("no first buffer"))?.all)
    }

    fn until_first_buffer(&self, bench: &Bench) -> Result<Counts> {
        let off = self.symbol("bench_first_buffer")?;
        Ok(self.run(bench, Boot::counting("boot").suite("boot"), &format!(",off={off}"))?.1)
    }

    /// Returns the figures that the plugin's windows add for single calls. For each `KEY` these are the instructions
    /// under a lock, the turns of a lock, and the longest turn.
    fn windows(&self, bench: &Bench) -> Result<String> {
        let locks = bench.scratch.join("locks");
        fs::write(&locks, lock_sites(bench)?).doing(locks.display())?;
        let [on, off] = [self.symbol("bench_profile_on")?, self.symbol("bench_profile_off")?];
        let arguments = format!(",on={on},off={off},locks={}", locks.display());
        let (said, counts) = self.run(bench, Boot::counting("locks").suite("locks"), &arguments)?;
        of_windows(&said, &counts.windows)
    }
}

/// Returns the version of the plugin interface of this QEMU.
fn api(version: &str) -> Result<u32> {
    let number = version.split("version ").nth(1).and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    let number = number.ok_or_else(|| Failure::new(format!("not a version of QEMU: {version}")))?;
    Ok(if number < 9 { 1 } else { 2 })
}

/// Returns lines `bench held/KEY ...`, `turns/KEY` and `longest/KEY`, as the program's `windows KEY N...` name windows.
fn of_windows(said: &str, windows: &[Window]) -> Result<String> {
    let mut lines = String::new();
    for line in said.lines() {
        let Some((key, numbers)) = line.strip_prefix("windows ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let mut own = Vec::new();
        for number in numbers.split(' ') {
            let window = number.parse().ok().and_then(|number: usize| windows.get(number));
            own.push(window.ok_or_else(|| Failure::new(format!("the plugin saw no window {number}")))?);
        }
        let of = |name: &str, of: fn(&Window) -> u64| {
            let values: Vec<String> = own.iter().map(|window| of(window).to_string()).collect();
            format!("bench {name}/{key} {}\n", values.join(" "))
        };
        lines += &of("all", |window| window.all);
        lines += &of("held", |window| window.held);
        lines += &of("turns", |window| window.turns);
        lines += &of("longest", |window| window.longest);
    }
    Ok(lines)
}

/// Returns the addresses at which a lock is taken and freed, in lines "t ADDRESS" and "f ADDRESS". These are the
/// exclusive stores of the functions that do so, at each place where the functions were inlined.
fn lock_sites(bench: &Bench) -> Result<String> {
    let image = fs::read(&bench.kernel).doing(bench.kernel.display())?;
    let stores = exclusive_stores(&image);
    let mut sites = String::new();
    for (address, frames) in stores.iter().zip(frames(&bench.elf, stores.iter().map(String::as_str))?) {
        let within = |name: &str| frames.iter().any(|frame| frame.contains("sync::turns") && frame.ends_with(name));
        match (within("::take"), within("::free")) {
            (true, false) => sites.extend(["t ", address, "\n"]),
            (false, true) => sites.extend(["f ", address, "\n"]),
            _ => {}
        }
    }
    if sites.contains("t ") && sites.contains("f ") {
        Ok(sites)
    } else {
        Err(Failure::new("the program takes or frees no lock that its debug information tells of"))
    }
}

/// Returns the addresses of the words that are `strex`.
fn exclusive_stores(image: &[u8]) -> Vec<String> {
    let words = image.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    let is_strex = |word: u32| word & 0x0ff0_0ff0 == 0x0180_0f90;
    let addresses = words.enumerate().filter(|&(_, word)| is_strex(word));
    addresses.map(|(n, _)| format!("{:#x}", IMAGE + 4 * n as u64)).collect()
}

// --- profile --------------------------------------------------------------------------------------------------------

/// Runs the command `profile KEY`: prints the mean instructions of a call in one series of the bench, by function.
/// Inlined functions are counted separately. With `boot` it prints the instructions from reset to the first buffer.
pub(crate) fn profile(mut args: lexopt::Parser) -> Result<u8> {
    let usage = "one argument: boot, or a key of a9 in target/bench/results.csv such as alloc-only/4K";
    let Some(Arg::Value(key)) = args.next()? else { return Err(Failure::new(usage)) };
    let key = key.string()?;
    let bench = Bench::build(&Toolchain::chosen()?, "bench")?;
    let plugin = Plugin::build(&bench)?;
    let counts = if key == "boot" {
        plugin.until_first_buffer(&bench)?
    } else {
        let [on, off] = [plugin.symbol("bench_profile_on")?, plugin.symbol("bench_profile_off")?];
        let boot = Boot { append: format!("cma=64M profile={key}"), ..Boot::counting("profile") };
        let (said, counts) = plugin.run(&bench, boot, &format!(",on={on},off={off}"))?;
        let row = said.lines().find(|line| line.starts_with(&format!("bench {key} ")));
        println!("{}", row.ok_or_else(|| Failure::new(format!("no such key: {key}")))?);
        counts
    };
    let samples = counts.windows.len().max(1) as u64;
    let frames = frames(&bench.elf, counts.addresses.iter().map(|(address, _)| address.as_str()))?;
    let mut sums: HashMap<&str, u64> = HashMap::new();
    for ((_, count), frames) in counts.addresses.iter().zip(&frames) {
        *sums.entry(frames.first().map_or("?", String::as_str)).or_default() += count;
    }
    let mut sums: Vec<(&str, u64)> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    // The mean of a call, in tenths.
    let mean = |sum: u64| format!("{:10}.{}", sum / samples, sum * 10 / samples % 10);
    println!("{} in all", mean(sums.iter().map(|(_, sum)| sum).sum()));
    for (name, sum) in sums {
        println!("{} {name}", mean(sum));
    }
    Ok(0)
}

/// Returns the functions that each address is in. The innermost inlined function comes first, and the linked function
/// last.
fn frames<'a>(elf: &Path, addresses: impl Iterator<Item = &'a str>) -> Result<Vec<Vec<String>>> {
    let mut asked = String::new();
    for address in addresses {
        let _ = writeln!(asked, "{address}");
    }
    let file = scratch::folder()?.join("addresses");
    fs::write(&file, asked).doing(file.display())?;
    let input = fs::File::open(&file).doing(file.display())?;
    let mut addr2line = Command::new("addr2line");
    let output =
        addr2line.arg("-e").arg(elf).args(["-a", "-f", "-C", "-i"]).stdin(input).output().doing("addr2line")?;
    Ok(answers(&String::from_utf8_lossy(&output.stdout)))
}

/// Returns the functions of each answer. An answer begins with an address, and has a function and its place for each
/// frame.
fn answers(text: &str) -> Vec<Vec<String>> {
    let mut answers: Vec<Vec<String>> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        match answers.last_mut() {
            Some(frames) if !line.starts_with("0x") => {
                frames.push(line.to_owned());
                lines.next();
            }
            _ => answers.push(Vec::new()),
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_have_a_version_by_qemu() {
        assert_eq!(api("QEMU emulator version 7.2.22 (Debian)").unwrap(), 1);
        assert_eq!(api("QEMU emulator version 10.0.2").unwrap(), 2);
        assert!(api("hello").is_err());
    }

    #[test]
    fn what_the_plugin_writes_is_read() {
        let counts = Counts::read("window 100 40 2 30\nat 0xff010000 7\n").unwrap();
        assert_eq!(counts.windows, [Window { all: 100, held: 40, turns: 2, longest: 30 }]);
        assert_eq!(counts.addresses, [("0xff010000".to_owned(), 7)]);
        assert!(Counts::read("window 100 40").is_err());
    }

    #[test]
    fn windows_go_to_the_series_that_names_them() {
        let window = |held| Window { all: 100, held, turns: 1, longest: held };
        let lines = of_windows("bench a 1 2\nwindows a 0 2\nwindows b 1\n", &[window(10), window(20), window(30)]);
        let lines = lines.unwrap();
        assert!(lines.contains("bench held/a 10 30\n") && lines.contains("bench held/b 20\n"));
        assert!(of_windows("windows a 3\n", &[window(10)]).is_err());
    }

    #[test]
    fn an_answer_has_a_function_a_frame() {
        let text = "0xff010000\ninner\na.rs:1\nouter\nb.rs:2\n0xff010004\n??\n??:0\n";
        assert_eq!(answers(text), [vec!["inner", "outer"], vec!["??"]]);
    }

    #[test]
    fn exclusive_stores_are_found_by_their_code() {
        // mov r0, r0; strex r2, r1, [r3]; ldrex r1, [r3]
        let code = [0xe1a0_0000u32, 0xe183_2f91, 0xe193_1f9f].map(u32::to_le_bytes).concat();
        assert_eq!(exclusive_stores(&code), ["0xff010004"]);
    }
}
