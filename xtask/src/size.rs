//! Measures what each part of the module costs a kernel that takes it: bytes of code, and crates.
//!
//! Guarantees: the figures are those of a dependant, because they measure `tests/size`, a separate workspace. They do
//! not depend on the checkout's path. If a row of the book's table differs from them, [`check`] names the row.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::build::{Toolchain, build};
use crate::check::{Job, Verdict};
use crate::failure::{Context, Failure, Result};
use crate::project::{self, SIZE, TARGET, THUMB};

/// The chapter that has the table.
const CHAPTER: &str = "docs/src/features.md";
const MARK: &str = "<!-- table -->\n";

/// A row of the table.
struct Row {
    name: &'static str,
    /// The features that the kernel has beside those of the first row.
    features: &'static str,
    target: &'static str,
    opt_level: &'static str,
}

impl Row {
    const fn new(name: &'static str, features: &'static str) -> Self {
        Self { name, features, target: TARGET, opt_level: "s" }
    }
}

const ROWS: [Row; 9] = [
    Row::new("one coherent buffer", ""),
    Row { target: THUMB, opt_level: "z", ..Row::new("the same, as small as it gets", "") },
    Row::new("`audit`: an audit", "audit"),
    Row::new("`loans`: a borrower", "loans"),
    Row::new("`warm`: mappings that stay", "warm"),
    Row::new("`events`: what happened, and when", "events"),
    Row::new("`pl310`: an outer cache", "pl310"),
    Row::new("`carveout-boot`: a plan by the device tree", "boot"),
    Row::new("`carveout-rt`: that, and the boot", "rt"),
];

/// By how much of its code a row may differ from the table, in percent.
const TOLERANCE: u64 = 5;

/// Crates of tests, which no dependant's lock file may name.
const OF_TESTS: [&str; 4] = ["loom", "proptest", "stateright", "static_assertions"];

/// The cost of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cost {
    /// Bytes of what is loaded and never written.
    code: u64,
    /// The crates that are built, without the kernel's own.
    crates: u64,
}

/// Prints the table, or puts it into the book.
pub(crate) fn command(toolchain: &Toolchain, record: bool) -> Result<u8> {
    let text = format!("{}\n\n{}", tools(toolchain)?, table(&measured(toolchain)?));
    print!("{text}");
    if record {
        let chapter = project::root().join(CHAPTER);
        let old = fs::read_to_string(&chapter).doing(CHAPTER)?;
        let (before, table) = old.split_once(MARK).ok_or_else(|| Failure::new(format!("{CHAPTER} has no table")))?;
        // The table ends before the first paragraph that is no row.
        let after = table.split_once("|\n\n").map_or("", |(_, after)| after);
        let after = if after.is_empty() { String::new() } else { format!("\n{after}") };
        fs::write(&chapter, format!("{before}{MARK}{text}{after}")).doing(CHAPTER)?;
    }
    Ok(0)
}

/// Compares the table with what is built now.
pub(crate) fn check(toolchain: &Toolchain, job: &mut Job) -> Result<Verdict> {
    let chapter = fs::read_to_string(project::root().join(CHAPTER)).doing(CHAPTER)?;
    let lock = Path::new(SIZE).join("Cargo.lock");
    let lock = fs::read_to_string(project::root().join(&lock)).doing(lock.display())?;
    let costs = measured(toolchain)?;
    let mut wrong = of_tests(&lock);
    let tools = tools(toolchain)?;
    if !chapter.contains(&tools) {
        return if wrong.is_empty() {
            Ok(Verdict::Skipped(format!("the table of {CHAPTER} is of other tools than {tools}")))
        } else {
            job.judged(&wrong)
        };
    }
    wrong.extend(differences(&rows(&chapter), &costs));
    job.judged(&wrong)
}

/// Builds each row.
fn measured(toolchain: &Toolchain) -> Result<Vec<Cost>> {
    ROWS.iter().map(|row| cost(toolchain, row)).collect()
}

fn cost(toolchain: &Toolchain, row: &Row) -> Result<Cost> {
    let &Row { features, target, opt_level, .. } = row;
    let toolchain = toolchain.for_target(target).ok_or_else(|| Failure::new(format!("no target {target}")))?;
    let folder = project::root().join(SIZE);
    // Panics name files. The length of their paths must not count as cost.
    let flags = format!("--remap-path-prefix={}=", project::root().display());
    let mut cargo = toolchain.target_in(&folder, "build");
    cargo.args(["--locked", "--features", features]).env("RUSTFLAGS", flags);
    cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", opt_level);
    cargo.env("CARGO_TARGET_DIR", project::target_dir().join("size"));
    let what = format!("the least kernel: {}", row.name);
    let elf = build(&what, cargo)?.pop().ok_or_else(|| Failure::new("cargo named no program"))?.path;
    let code = code(&fs::read(&elf).doing(elf.display())?).ok_or_else(|| Failure::new("no ELF of 32 bits"))?;

    let mut tree = toolchain.cargo_in(&folder);
    tree.args([
        "tree",
        "--locked",
        "--target",
        target,
        "--edges",
        "no-dev",
        "--prefix",
        "none",
        "--features",
        features,
    ]);
    let crates = said(tree)?;
    let mut crates: Vec<&str> = crates.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    crates.sort_unstable();
    crates.dedup();
    Ok(Cost { code, crates: crates.len() as u64 - 1 })
}

fn said(mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().doing(&program)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Failure::new(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim_end())))
}

/// Returns the line that names the tools, because other tools give other figures.
fn tools(toolchain: &Toolchain) -> Result<String> {
    let mut rustc = Command::new(toolchain.program("rustc"));
    rustc.arg("--version");
    let version = said(rustc)?.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let core = if toolchain.builds_core() { "built from its source" } else { "as it is shipped" };
    Ok(format!("Made by {version}, with `core` {core}."))
}

/// Returns the bytes of an ELF that are loaded and never written, without the zeros that fill the last page of each
/// section.
fn code(elf: &[u8]) -> Option<u64> {
    const ALLOCATED: u32 = 1 << 1;
    const WRITTEN: u32 = 1 << 0;
    const NOBITS: u32 = 8;
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    elf.strip_prefix(b"\x7fELF\x01\x01")?;
    let (first, size, count) = (word(32)?, half(46)?, half(48)?);
    let mut code = 0;
    for n in 0..count {
        let header = first as usize + usize::from(n) * usize::from(size);
        let (kind, flags, at, bytes) = (word(header + 4)?, word(header + 8)?, word(header + 16)?, word(header + 20)?);
        if flags & (ALLOCATED | WRITTEN) == ALLOCATED && kind != NOBITS {
            let bytes = elf.get(at as usize..at as usize + bytes as usize)?;
            code += bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1);
        }
    }
    Some(code)
}

/// Returns the table.
fn table(costs: &[Cost]) -> String {
    let mut table = "| a kernel with | code, bytes | beyond the first row | crates |\n|---|---|---|---|\n".to_owned();
    for (row, cost) in ROWS.iter().zip(costs) {
        let name = row.name;
        let more = cost.code.saturating_sub(costs[0].code);
        let more = if more == 0 { String::new() } else { thousands(more) };
        let _ = writeln!(table, "| {name} | {} | {more} | {} |", thousands(cost.code), cost.crates);
    }
    table
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns the rows that a chapter has, by their names.
fn rows(chapter: &str) -> Vec<(String, Cost)> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split('|').map(str::trim);
        let name = cells.next()?.to_owned();
        let number = |cell: Option<&str>| cell?.replace(',', "").parse().ok();
        let code = number(cells.next())?;
        Some((name, Cost { code, crates: number(cells.nth(1))? }))
    };
    chapter.lines().filter_map(row).collect()
}

/// Says which rows differ from the book's.
fn differences(book: &[(String, Cost)], costs: &[Cost]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (Row { name, .. }, cost) in ROWS.iter().zip(costs) {
        let Some((_, was)) = book.iter().find(|(row, _)| row == name) else {
            wrong.push(format!("{CHAPTER} has no row: {name}"));
            continue;
        };
        let (has, crates, had) = (thousands(cost.code), cost.crates, thousands(was.code));
        if cost.code.abs_diff(was.code) * 100 > was.code * TOLERANCE || crates != was.crates {
            wrong.push(format!(
                "{name}: {has} bytes and {crates} crates, where {CHAPTER} has {had} and {}: ./tests/bench.sh --size --record",
                was.crates
            ));
        }
    }
    wrong
}

/// Says which crates of tests a lock file names.
fn of_tests(lock: &str) -> Vec<String> {
    let named = |name: &&&str| lock.contains(&format!("name = \"{name}\"\n"));
    OF_TESTS.iter().filter(named).map(|name| format!("a dependant's Cargo.lock names {name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: [Cost; 6] = [Cost { code: 50_000, crates: 20 }; 6];

    #[test]
    fn a_row_may_differ_by_five_percent_and_not_by_a_crate() {
        let book = rows(&table(&COSTS));
        assert_eq!(book.len(), 6);
        let with = |cost| differences(&book, &[&[cost], &COSTS[1..]].concat());
        assert_eq!(with(Cost { code: 52_500, crates: 20 }), [""; 0]);
        assert_eq!(
            with(Cost { code: 52_501, crates: 20 }),
            ["one coherent buffer: 52,501 bytes and 20 crates, where docs/src/features.md has 50,000 and 20: \
              ./tests/bench.sh --size --record"]
        );
        assert_eq!(with(Cost { code: 47_499, crates: 20 }).len(), 1);
        assert_eq!(with(Cost { code: 50_000, crates: 21 }).len(), 1);
        assert_eq!(differences(&book[1..], &COSTS), ["docs/src/features.md has no row: one coherent buffer"]);
    }

    #[test]
    fn crates_of_tests_are_found_in_a_lock_file() {
        assert_eq!(of_tests("[[package]]\nname = \"loom\"\nversion"), ["a dependant's Cargo.lock names loom"]);
        assert_eq!(of_tests("[[package]]\nname = \"bloom\"\nversion"), [""; 0]);
    }

    #[test]
    fn what_is_loaded_and_never_written_is_code() {
        // Three sections of 8 bytes from offset 52 on: text that ends with three zeros, data, and one of zeros alone.
        let mut elf = b"\x7fELF\x01\x01".to_vec();
        elf.resize(52, 0);
        elf.extend([1, 2, 3, 4, 5, 0, 0, 0]);
        elf[32..36].copy_from_slice(&60u32.to_le_bytes());
        elf[46..50].copy_from_slice(&[40, 0, 3, 0]);
        for (kind, flags) in [(1, 6), (1, 3), (8, 2)] {
            for word in [0, kind, flags, 0, 52, 8, 0, 0, 0, 0u32] {
                elf.extend(word.to_le_bytes());
            }
        }
        assert_eq!(code(&elf), Some(5));
        assert_eq!(code(b"\x7fELF\x02\x01"), None);
    }
}
