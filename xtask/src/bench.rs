//! Counts instructions: boots the bench programs in QEMU, whose clock counts them here. The figures are the same on
//! every machine, whatever else it does.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use lexopt::{Arg, ValueExt};

use crate::boards::{self, COUNTING, Emulated};
use crate::build::{Kind, Toolchain, build};
use crate::failure::{Context, Failure, Result};
use crate::project::{self, BENCH};
use crate::{image, scratch, size};

/// How long a bench program may take, in seconds, on a busy machine.
const LIMIT: u32 = 900;
/// Before the table in BENCH.md.
const MARK: &str = "<!-- table -->";

/// What the bench programs boot on.
struct Bench {
    emulated: Emulated,
    kernel: PathBuf,
    elf: PathBuf,
    scratch: PathBuf,
}

impl Bench {
    fn build(toolchain: &Toolchain, program: &str) -> Result<Self> {
        let elf = toolchain.on_target(Kind::Bin, program)?;
        let scratch = scratch::folder()?;
        let kernel = scratch.join("kernel.bin");
        image::flatten(&elf, &kernel)?;
        Ok(Self { emulated: Emulated::named("vexpress-a9")?, kernel, elf, scratch })
    }

    /// Returns the board's tree, with or without the outer cache.
    fn tree(&self, outer_cache: bool) -> Result<PathBuf> {
        let tree = self.scratch.join(if outer_cache { "a9-pl310.dtb" } else { "a9.dtb" });
        if outer_cache {
            image::compile_tree(&self.emulated.board.tree()?, &tree)?;
        } else {
            image::tree_without_outer_cache(&self.emulated.board, &tree)?;
        }
        Ok(tree)
    }

    /// Boots the program. Returns what it says.
    fn run(&self, what: &str, tree: &Path, append: &str, words: &[String]) -> Result<String> {
        let mut qemu = boards::qemu(LIMIT, "none");
        qemu.args(self.emulated.words()).args(["-m", "512M"]).args(words);
        qemu.arg("-kernel").arg(&self.kernel).arg("-dtb").arg(tree);
        qemu.arg("-append").arg(format!("cma=64M semihosting{append}"));
        let output = qemu.stdin(Stdio::null()).stderr(Stdio::inherit()).output().doing("timeout")?;
        let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        if output.status.success() {
            return Ok(said);
        }
        let last = said.lines().last().unwrap_or_default();
        Err(Failure::new(format!("the bench program failed on {what}: {last}")))
    }
}

fn counting() -> Vec<String> {
    COUNTING.map(str::to_owned).to_vec()
}

// --- bench ----------------------------------------------------------------------------------------------------------

/// Runs the command `bench`. Returns 1 if a figure is past its budget or, where the budget is known to be missed, past
/// what it was.
pub(crate) fn command(mut args: lexopt::Parser) -> Result<u8> {
    let (mut host, mut record, mut size) = (false, false, false);
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Long("host") => host = true,
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
    let mut cargo = tables_cargo(&toolchain, &out, &["build", "--release"]);
    cargo.args(["--bin", "bench-report"]);
    let report = build("the tables and plots", cargo)?.pop().ok_or_else(|| Failure::new("cargo named no report"))?;

    eprintln!("counting: some minutes");
    let count = |machine: &str, outer_cache| -> Result<String> {
        let said = bench.run(machine, &bench.tree(outer_cache)?, "", &counting())?;
        let log = out.join(format!("{machine}.log"));
        fs::write(&log, said).doing(log.display())?;
        Ok(format!("{machine}={}", log.display()))
    };
    let (a9, a9_pl310) = thread::scope(|scope| {
        let a9 = scope.spawn(|| count("a9", false));
        let a9_pl310 = count("a9-pl310", true);
        (a9.join().unwrap_or_else(|_| Err(Failure::new("a thread ended early"))), a9_pl310)
    });
    let mut tables = Command::new(report.path);
    tables.arg(project::root().join(BENCH)).arg(&out).args([a9?, a9_pl310?]);
    let (good, table) = shown(tables)?;
    fs::write(out.join("table.md"), &table).doing("table.md")?;
    if host {
        on_the_host(&toolchain, &out)?;
    }
    if record {
        put_into_bench_md(&toolchain, &table)?;
    }
    Ok(u8::from(!good))
}

/// Returns cargo in tests/bench, a workspace of its own.
fn tables_cargo(toolchain: &Toolchain, out: &Path, words: &[&str]) -> Command {
    let mut cargo = toolchain.cargo_in(&project::root().join(BENCH));
    let mut path = toolchain.path();
    path.push(":");
    path.push(out.join("tools/bin"));
    cargo.args(words).env("PATH", path).env("CARGO_TARGET_DIR", out.join("build"));
    cargo
}

/// Runs a command and shows what it prints. Returns whether it ended well, and that.
fn shown(mut command: Command) -> Result<(bool, String)> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stderr(Stdio::inherit()).output().doing(program)?;
    io::stdout().write_all(&output.stdout).doing("standard output")?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// The free-run index beside other allocators: instructions by callgrind, time by criterion.
fn on_the_host(toolchain: &Toolchain, out: &Path) -> Result<()> {
    let manifest = project::root().join(BENCH).join("Cargo.toml");
    let manifest = fs::read_to_string(&manifest).doing(manifest.display())?;
    let version = manifest.lines().find_map(|line| line.strip_prefix("gungraun = \"=")?.strip_suffix('"'));
    let version = version.ok_or_else(|| Failure::new("tests/bench/Cargo.toml names no version of gungraun"))?;
    let tools = out.join("tools").display().to_string();
    let run = |words: &[&str], file: &str| -> Result<String> {
        let (good, text) = shown(tables_cargo(toolchain, out, words))?;
        let path = out.join(file);
        fs::write(&path, text).doing(path.display())?;
        if good {
            Ok(path.display().to_string())
        } else {
            Err(Failure::new(format!("cargo {} failed", words.join(" "))))
        }
    };
    run(&["install", "--quiet", "--root", &tools, "--version", version, "gungraun-runner"], "install.txt")?;
    let instructions = run(&["bench", "--quiet", "--bench", "instructions"], "instructions.txt")?;
    let time = run(&["bench", "--quiet", "--bench", "time"], "time.txt")?;
    run(&["run", "--quiet", "--release", "--bin", "compare", &instructions, &time], "host.md")?;
    Ok(())
}

fn put_into_bench_md(toolchain: &Toolchain, table: &str) -> Result<()> {
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
    let mut rustc = Command::new(toolchain.program("rustc"));
    rustc.arg("--version");
    let rustc: String = said(rustc)?.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let file = project::root().join("BENCH.md");
    let old = fs::read_to_string(&file).doing(file.display())?;
    let before = old.split(&format!("{MARK}\n")).next().unwrap_or_default();
    fs::write(&file, format!("{before}{MARK}\nCommit {commit}{changed}, {rustc}.\n\n{table}")).doing(file.display())
}

// --- several cores --------------------------------------------------------------------------------------------------

/// How many times as many instructions an operation may take on several cores. Waiting counts: a lock is passed on to
/// the core that waits, so where all cores do nothing else each lock costs a turn of the others, up to 1.9 times the
/// whole here. Without waiting, four cores cost 4.5 % (QEMU 7.2) to 6.7 % (QEMU 10) more: a core whose turn ends in the
/// middle of an operation keeps its buffer meanwhile, and others look for addresses past its guards.
const TOO_DEAR: f64 = 2.5;

/// Runs the command `bench-cores`: prints what the DMA API costs with 1, 2 and 4 cores at once on a Cortex-A9, and how
/// much of their time is waiting for locks. Returns 1 if an operation is too dear. What is counted, and how, is said in
/// tests/on-target/src/bench_cores.rs.
pub(crate) fn on_several_cores(mut args: lexopt::Parser) -> Result<u8> {
    if let Some(arg) = args.next()? {
        return Err(arg.unexpected().into());
    }
    let bench = Bench::build(&Toolchain::chosen()?, "bench_cores")?;
    let tree = bench.tree(true)?;
    println!("| cores | operation on 4 KiB | instructions each | locks each | found held | time spent waiting |");
    println!("|---|---|---|---|---|---|");
    let mut all = Vec::new();
    for cores in ["1", "2", "4"] {
        let rows = |words: Vec<String>| -> Result<Vec<Vec<String>>> {
            let words = ["-smp".to_owned(), cores.to_owned()].into_iter().chain(words).collect::<Vec<_>>();
            let said = bench.run(&format!("{cores} cores"), &tree, "", &words)?;
            let rows = table(&said);
            if rows.is_empty() {
                return Err(Failure::new(format!("the bench program printed no table on {cores} cores")));
            }
            Ok(rows)
        };
        let counted = rows(counting())?;
        let met = rows(["-accel", "tcg,thread=multi"].map(str::to_owned).to_vec())?;
        for (counted, met) in counted.iter().zip(&met) {
            let cells = counted.iter().take(4).chain(met.iter().skip(4));
            println!("| {} |", cells.map(String::as_str).collect::<Vec<_>>().join(" | "));
        }
        all.extend(counted);
    }
    println!();
    let dear = too_dear(&all);
    for line in &dear {
        println!("error: {line}");
    }
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    println!("Instructions are counted by the emulator; how cores meet was seen on {cores} host cores.");
    Ok(u8::from(all.len() != 9 || !dear.is_empty()))
}

/// Returns the rows of a table, a cell each.
fn table(said: &str) -> Vec<Vec<String>> {
    let rows = said.lines().filter(|line| line.starts_with("| "));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// Says which operations are too dear: rows of cores, operation, instructions. Those of one core come first.
fn too_dear(rows: &[Vec<String>]) -> Vec<String> {
    let mut alone = HashMap::new();
    let mut dear = Vec::new();
    for row in rows {
        let [cores, operation, instructions, ..] = &row[..] else { continue };
        let instructions: f64 = instructions.parse().unwrap_or(f64::INFINITY);
        if cores == "1" {
            alone.insert(operation, instructions);
        }
        let one = alone.get(operation).copied().unwrap_or(0.0);
        if !instructions.is_finite() || instructions > TOO_DEAR * one {
            dear.push(format!("{operation} on {cores} cores: too dear"));
        }
    }
    dear
}

// --- profile --------------------------------------------------------------------------------------------------------

/// Runs the command `profile KEY`: prints where the instructions of one row of the bench go, by the function they come
/// from, inlined ones apart, a call's mean.
pub(crate) fn profile(mut args: lexopt::Parser) -> Result<u8> {
    let usage = "one argument: a key of target/bench/results.csv such as alloc-only/4K";
    let Some(Arg::Value(key)) = args.next()? else { return Err(Failure::new(usage)) };
    let key = key.string()?;
    let bench = Bench::build(&Toolchain::chosen()?, "bench")?;
    let (plugin, counts) = (bench.scratch.join("profile.so"), bench.scratch.join("counts"));
    let source = project::root().join(BENCH).join("profile.c");
    let cc =
        Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).args([&plugin, &source]).status().doing("cc")?;
    if !cc.success() {
        return Err(Failure::new("the plugin for QEMU did not build"));
    }
    let symbols = Command::new("llvm-nm").arg(&bench.elf).output().doing("llvm-nm")?;
    let symbols = String::from_utf8_lossy(&symbols.stdout).into_owned();
    let marker = |name: &str| {
        let address = symbols.lines().find_map(|line| line.strip_suffix(name)?.split(' ').next());
        address.map(|address| format!("0x{address}")).ok_or_else(|| Failure::new(format!("no symbol {name}")))
    };
    let plugin = format!(
        "{},on={},off={},out={}",
        plugin.display(),
        marker("bench_profile_on")?,
        marker("bench_profile_off")?,
        counts.display()
    );
    let words: Vec<String> = counting().into_iter().chain(["-plugin".to_owned(), plugin]).collect();
    let said = bench.run("a9", &bench.tree(false)?, &format!(" profile={key}"), &words)?;
    let row = said.lines().find(|line| line.contains(&format!(" {key} ")));
    let row = row.ok_or_else(|| Failure::new(format!("no such key: {key}")))?;
    println!("{row}");
    let samples: f64 = row.split(' ').next_back().and_then(|word| word.parse().ok()).unwrap_or(1.0);

    let counts = fs::read_to_string(&counts).doing(counts.display())?;
    let counts: Vec<(&str, f64)> = counts
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(at, n)| Some((at, n.parse().ok()?)))
        .collect();
    let names = names(&bench.elf, counts.iter().map(|&(address, _)| address))?;
    let mut sums: HashMap<&str, f64> = HashMap::new();
    for ((_, count), name) in counts.iter().zip(&names) {
        *sums.entry(name).or_default() += count;
    }
    let mut sums: Vec<(&str, f64)> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    for (name, sum) in sums {
        println!("{:10.1} {name}", sum / samples);
    }
    Ok(0)
}

/// Returns the innermost inlined function of each address.
fn names<'a>(elf: &Path, addresses: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
    let mut asked = String::new();
    for address in addresses {
        let _ = writeln!(asked, "{address}");
    }
    let file = scratch::folder()?.join("addresses");
    fs::write(&file, asked).doing(file.display())?;
    let input = fs::File::open(&file).doing(file.display())?;
    let mut symbolizer = Command::new("llvm-symbolizer");
    symbolizer.arg(format!("--obj={}", elf.display())).args(["-f", "-C", "-i"]).stdin(input);
    let output = symbolizer.output().doing("llvm-symbolizer")?;
    // An answer a paragraph; its first line is the innermost.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split("\n\n").filter_map(|answer| answer.lines().next()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dear_is_two_and_a_half_times_one_core() {
        let rows = table("cores\n| 1 | alloc | 100.0 | 2 |\n| 2 | alloc | 250.0 | 2 |\n| 4 | alloc | 250.5 | 2 |\n");
        assert_eq!(too_dear(&rows[..2]), [""; 0]);
        assert_eq!(too_dear(&rows), ["alloc on 4 cores: too dear"]);
    }

    #[test]
    fn what_is_no_number_is_too_dear() {
        assert_eq!(too_dear(&table("| 1 | alloc | many |\n")).len(), 1);
    }
}
