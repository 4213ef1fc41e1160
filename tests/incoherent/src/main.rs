//! The incoherent machine: runs an unmodified ELF of the kernel over modelled caches, once for each seed, with an
//! adversary that speculates and evicts, and says which rule was broken where. See README.md.

mod cache;
mod devices;
mod disk;
mod image;
mod machine;
mod mmu;
mod report;

use cache::Caches;
use devices::{Devices, OuterPlants};
use disk::Disk;
use image::{Image, Op};
use machine::{Machine, RAM_BASE, Setup};
use report::Outcome;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "usage: incoherent --elf FILE --dtb FILE [OPTION]...

  --model a9|a9-pl310     one level of cache, or two (default: a9)
  --disk FILE             what the virtio block device holds (default: there is no disk)
  --seeds N               how many seeds (default: 1)
  --first S               the first of them (default: 1)
  --shard I/N             of these seeds only every N-th, starting with number I, from 0
  --ram MIB               RAM; the device tree must say the same (default: 128)
  --period N              mean number of accesses between two moves of the adversary (default: 8)
  --limit N               instructions, in millions, after which a run is given up (default: 4000)
  --enough N              instructions, in millions, after which a run that broke no rule counts as passed
  --suppress KIND         plant a bug: without all of clean, clean-to-unification, invalidate,
                          tlbi, dsb, outer-clean or outer-invalidate
  --site ADDRESS          plant a bug: without the instruction at this linked address
  --list-sites            print the addresses of all cache, TLB and barrier instructions, and run nothing
  --necessity             plant a bug at each site in turn, and tell which were caught
  --console               print what the guest prints

The exit code is 0 if no rule was broken and every run ended with the guest's code 0 or after --enough; 1 otherwise; 2
for a bad argument.";

/// The command line.
struct Options {
    elf: PathBuf,
    dtb: PathBuf,
    outer: bool,
    disk: Option<Vec<u8>>,
    seeds: u64,
    first: u64,
    shard: (u64, u64),
    ram: u32,
    period: u32,
    limit: u64,
    enough: u64,
    suppress: Vec<Op>,
    plants: OuterPlants,
    sites: Vec<u32>,
    list: bool,
    necessity: bool,
    console: bool,
}

/// The operations that a kernel may forget.
const MAINTENANCE: [Op; 7] =
    [Op::Clean, Op::CleanToUnification, Op::Invalidate, Op::Flush, Op::TlbPage, Op::TlbAll, Op::Dsb];

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("'{text}' is not a number"))
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        elf: PathBuf::new(),
        dtb: PathBuf::new(),
        outer: false,
        disk: None,
        seeds: 1,
        first: 1,
        shard: (0, 1),
        ram: 128 << 20,
        period: 8,
        limit: 4_000_000_000,
        enough: u64::MAX,
        suppress: Vec::new(),
        plants: OuterPlants::default(),
        sites: Vec::new(),
        list: false,
        necessity: false,
        console: false,
    };
    while let Some(option) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{option} needs a value"));
        match option.as_str() {
            "--elf" => options.elf = value()?.into(),
            "--dtb" => options.dtb = value()?.into(),
            "--model" => {
                options.outer = match value()?.as_str() {
                    "a9" => false,
                    "a9-pl310" => true,
                    other => return Err(format!("no model '{other}'; there are: a9 a9-pl310")),
                }
            }
            "--disk" => {
                let path = value()?;
                options.disk = Some(std::fs::read(&path).map_err(|error| format!("{path}: {error}"))?);
            }
            "--seeds" => options.seeds = number(&value()?)?,
            "--first" => options.first = number(&value()?)?,
            "--shard" => {
                let value = value()?;
                let (one, of) = value.split_once('/').ok_or_else(|| format!("--shard takes I/N, not '{value}'"))?;
                options.shard = (number(one)?, number(of)?);
                if options.shard.0 >= options.shard.1 {
                    return Err(format!("--shard takes I/N with I below N, not '{value}'"));
                }
            }
            "--ram" => {
                let mib = number(&value()?)?;
                if !(64..=1024).contains(&mib) {
                    return Err(format!("--ram takes 64 to 1024 MiB, not {mib}"));
                }
                options.ram = (mib as u32) << 20;
            }
            "--period" => {
                let period = number(&value()?)?;
                if !(1..=1_000_000).contains(&period) {
                    return Err(format!("--period takes 1 to 1000000, not {period}"));
                }
                options.period = period as u32;
            }
            "--limit" => options.limit = number(&value()?)?.saturating_mul(1_000_000),
            "--enough" => options.enough = number(&value()?)?.saturating_mul(1_000_000),
            "--suppress" => match value()?.as_str() {
                "clean" => options.suppress.push(Op::Clean),
                "clean-to-unification" => options.suppress.push(Op::CleanToUnification),
                "invalidate" => options.suppress.push(Op::Invalidate),
                "tlbi" => options.suppress.extend([Op::TlbPage, Op::TlbAll]),
                "dsb" => options.suppress.push(Op::Dsb),
                "outer-clean" => options.plants.no_clean = true,
                "outer-invalidate" => options.plants.no_invalidate = true,
                other => return Err(format!("nothing to suppress is called '{other}'")),
            },
            "--site" => options.sites.push(number(&value()?)? as u32),
            "--list-sites" => options.list = true,
            "--necessity" => options.necessity = true,
            "--console" => options.console = true,
            "--help" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            other => return Err(format!("unknown option {other}; see --help")),
        }
    }
    if options.elf.as_os_str().is_empty() {
        return Err("--elf is needed; see --help".into());
    }
    Ok(options)
}

/// Runs one seed; with `watch`, noting what happens to that line.
fn run(options: &Options, image: &Image, tree: &[u8], seed: u64, watch: Option<u32>) -> (Box<Machine>, Outcome) {
    let mut caches = Caches::new(RAM_BASE, options.ram, options.outer, seed, options.period);
    caches.watch = watch;
    let disk = options.disk.clone().map(|content| Disk::new(content, seed));
    let devices = Devices::new(options.plants, disk);
    let setup = Setup { image, tree, caches, devices, limit: options.limit, enough: options.enough };
    Machine::new(setup).expect("the emulator is built for this core").run()
}

/// Says what was broken, and by running the seed again what happened to the line before.
fn explain(options: &Options, image: &Image, tree: &[u8], seed: u64, outcome: &Outcome) {
    let Outcome::Violation(found) = outcome else { return };
    let (machine, again) = run(options, image, tree, seed, Some(found.line));
    println!("  rule: {}", found.rule);
    println!("  line: {:#010x}", found.line);
    println!("  at:   {:#010x} {}", found.pc, image.place(machine.linked(found.pc)));
    println!("  instruction {} of seed {seed}; before, on this line:", found.instruction);
    if !matches!(again, Outcome::Violation(again) if again.instruction == found.instruction) {
        println!("    (a second run did not go the same way: {again:?})");
    }
    let mut last: Vec<(u32, String, u32)> = Vec::new();
    for (pc, event) in &machine.caches.events {
        let text = event.to_string();
        match last.last_mut() {
            Some((_, previous, times)) if *previous == text => *times += 1,
            _ => last.push((*pc, text, 1)),
        }
    }
    for (pc, text, times) in &last[last.len().saturating_sub(12)..] {
        let times = if *times > 1 { format!(" ({times} times)") } else { String::new() };
        println!("    {text}{times}\n      at {pc:#010x} {}", image.place(machine.linked(*pc)));
    }
}

/// Leaves out each maintenance instruction in turn, and says whether any seed shows it: by a rule broken or by the
/// guest's own checks.
fn necessity(options: &Options, image: &Image, tree: &[u8]) -> Result<bool, String> {
    let (whole, outcome) = run(options, image, tree, options.first, None);
    if !matches!(outcome, Outcome::Exit(0) | Outcome::Enough) {
        return Err(format!("the whole program does not pass: {outcome:?}"));
    }
    let sites = MAINTENANCE.into_iter().flat_map(|op| image.sites(op).into_iter().map(move |at| (op, at)));
    for (n, (op, at)) in sites.enumerate() {
        if n as u64 % options.shard.1 != options.shard.0 {
            continue;
        }
        let verdict = match whole.visits(at) {
            0 => "not executed".into(),
            _ => {
                let mut without = image.clone_bytes();
                without.suppress(at);
                let caught = (options.first..options.first + options.seeds).find_map(|seed| {
                    let (_, outcome) = run(options, &without, tree, seed, None);
                    match outcome {
                        Outcome::Exit(0) | Outcome::Enough => None,
                        Outcome::Violation(found) => Some(format!("caught, seed {seed}: {}", found.rule)),
                        Outcome::Exit(_) => Some(format!("caught, seed {seed}, by the guest")),
                        Outcome::Stuck(why) => Some(format!("caught, seed {seed}: {why}")),
                    }
                });
                caught.unwrap_or_else(|| "NOT CAUGHT".into())
            }
        };
        println!("{at:#010x} {op:?}, executed {} times: {verdict}\n      {}", whole.visits(at), image.place(at));
    }
    Ok(true)
}

fn main() -> ExitCode {
    match campaign() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

fn campaign() -> Result<bool, String> {
    let options = parse(std::env::args().skip(1))?;
    let mut image = Image::load(&options.elf)?;
    if options.list {
        for op in MAINTENANCE {
            for at in image.sites(op) {
                println!("{at:#010x} {op:?} {}", image.place(at));
            }
        }
        return Ok(true);
    }
    let tree = std::fs::read(&options.dtb).map_err(|error| format!("{}: {error}", options.dtb.display()))?;
    let sites: Vec<u32> =
        options.suppress.iter().flat_map(|&op| image.sites(op)).chain(options.sites.clone()).collect();
    for &at in &options.sites {
        if !MAINTENANCE.into_iter().any(|op| image.sites(op).contains(&at)) {
            return Err(format!("no cache, TLB or barrier instruction at {at:#010x}; see --list-sites"));
        }
    }
    for at in sites {
        image.suppress(at);
    }
    if options.necessity {
        return necessity(&options, &image, &tree);
    }

    let (mut runs, mut broken, mut failed) = (0u64, 0u64, 0u64);
    let (mut instructions, begin) = (0, Instant::now());
    let seeds = options.first..options.first.saturating_add(options.seeds);
    for seed in seeds.filter(|seed| (seed - options.first) % options.shard.1 == options.shard.0) {
        let (machine, outcome) = run(&options, &image, &tree, seed, None);
        runs += 1;
        instructions += machine.instructions;
        let text = match &outcome {
            Outcome::Exit(0) => "exit 0".into(),
            Outcome::Enough => "no rule broken so far".into(),
            Outcome::Exit(code) => format!("exit {code}: the guest's own checks failed"),
            Outcome::Violation(found) => format!("VIOLATION: {}", found.rule),
            Outcome::Stuck(why) => format!("STUCK: {why}"),
        };
        println!("seed {seed}: {text} ({} instructions, {} moves)", machine.instructions, machine.caches.moves);
        if options.console || matches!(outcome, Outcome::Stuck(_) | Outcome::Exit(1..)) {
            print!("{}", String::from_utf8_lossy(&machine.devices.console));
        }
        drop(machine);
        match outcome {
            Outcome::Exit(0) | Outcome::Enough => {}
            Outcome::Violation(_) => {
                broken += 1;
                // One is told in full: the others are repeated by their seed.
                if broken == 1 {
                    explain(&options, &image, &tree, seed, &outcome);
                }
            }
            _ => failed += 1,
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{runs} runs: {broken} with a rule broken, {failed} failed otherwise; {instructions} instructions in \
         {seconds:.1} s, \
         {:.1} million a second",
        instructions as f64 / seconds / 1e6
    );
    Ok(broken == 0 && failed == 0)
}
