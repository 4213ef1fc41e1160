//! The incoherent machine: runs unmodified ELFs of the kernel over modelled caches, once for each seed, with an
//! adversary that speculates and evicts, and says which rule was broken where. See README.md.

mod cache;
mod campaign;
mod client;
mod devices;
mod disk;
mod display;
mod gem;
mod gic;
mod image;
mod kinds;
mod machine;
mod mmu;
mod model;
mod necessity;
mod pl310;
mod pl330;
mod plants;
mod report;
mod small;
mod tree;

use campaign::{Guest, Settings};
use image::{MAINTENANCE, Places};
use kinds::Kind;
use model::{Boot, MODELS, Model};
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: incoherent --elf FILE... [OPTION]...

  --elf FILE              a program; may be repeated
  --model M               a9 (one level of cache), a9-pl310 (two, an outer controller) or a8 (two of the core's own);
                          with several cores a9x2 (two, one level) or a9x4-pl310 (four, two levels);
                          for an ELF that is loaded by its own addresses zynq, virt-a7 or virt-a15; may be repeated
                          (default: the first three; with --plants those that the list names)
  --disk FILE             what the virtio block device holds (default: there is no disk)
  --append TEXT           boot arguments, where there is a device tree (default: cma=64M loglevel=6 semihosting)
  --seeds N               how many seeds (default: 1)
  --first S               the first of them (default: 1)
  --shard I/N             of these seeds only every N-th, starting with number I, from 0
  --jobs N                threads (default: as many as cores)
  --period N              mean number of accesses between two moves of the adversary (default: 8)
  --limit N               instructions, in millions, after which a run is given up (default: 4000)
  --enough N              instructions, in millions, after which a run that broke no rule counts as passed
  --suppress KIND         plant a bug: without all of clean, clean-to-unification, invalidate,
                          tlbi, dsb, dmb, outer-clean, outer-invalidate or outer-sync
  --site ADDRESS          plant a bug: without the instruction at this linked address
  --list-sites            print the addresses of all cache, TLB and barrier instructions, and run nothing
  --kinds                 plant a bug of each kind of --suppress in turn, with one seed after the other until it is caught
  --necessity             plant a bug at each site in turn, and tell which were caught by which program
  --plants FILE           run each program once for each bug that it plants itself: FILE lists them, a line each of its
                          name, the models where it is a bug, and what it is; the program is told plant=NAME; may be
                          repeated, for a table each
  --only NAME             of these kinds or bugs this one, of these sites those with NAME in theirs; may be repeated
  --console               print what the guest prints

The exit code is 0 if no rule was broken and every run ended with the guest's code 0 or after --enough, with --plants if
95 in 100 runs of each bug were caught, and all runs without a bug passed, or there is no table; with --kinds if each
kind that is executed was caught, and the programs pass whole; with --necessity if the programs pass whole; 1 otherwise;
2 for a bad argument.";

/// The command line.
struct Options {
    elfs: Vec<PathBuf>,
    models: Vec<&'static Model>,
    append: String,
    seeds: Vec<u64>,
    settings: Settings,
    suppress: Vec<&'static Kind>,
    sites: Vec<u32>,
    list: bool,
    kinds: bool,
    necessity: bool,
    plants: Vec<PathBuf>,
    only: Vec<String>,
    console: bool,
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("'{text}' is not a number"))
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let settings = Settings {
        disk: None,
        period: 8,
        limit: 4_000_000_000,
        enough: u64::MAX,
        without: Vec::new(),
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
    };
    let mut options = Options {
        elfs: Vec::new(),
        models: Vec::new(),
        append: "cma=64M loglevel=6 semihosting".into(),
        seeds: Vec::new(),
        settings,
        suppress: Vec::new(),
        sites: Vec::new(),
        list: false,
        kinds: false,
        necessity: false,
        plants: Vec::new(),
        only: Vec::new(),
        console: false,
    };
    let (mut seeds, mut first, mut shard) = (1, 1, (0, 1));
    while let Some(option) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{option} needs a value"));
        let settings = &mut options.settings;
        match option.as_str() {
            "--elf" => options.elfs.push(value()?.into()),
            "--model" => {
                let name = value()?;
                let names = MODELS.each_ref().map(|model| model.name).join(" ");
                let model = model::find(&name).ok_or_else(|| format!("no model '{name}'; there are: {names}"))?;
                options.models.push(model);
            }
            "--disk" => {
                let path = value()?;
                settings.disk = Some(std::fs::read(&path).map_err(|error| format!("{path}: {error}"))?.into());
            }
            "--append" => options.append = value()?,
            "--seeds" => seeds = number(&value()?)?,
            "--first" => first = number(&value()?)?,
            "--shard" => {
                let value = value()?;
                let (one, of) = value.split_once('/').ok_or_else(|| format!("--shard takes I/N, not '{value}'"))?;
                shard = (number(one)?, number(of)?);
                if shard.0 >= shard.1 {
                    return Err(format!("--shard takes I/N with I below N, not '{value}'"));
                }
            }
            "--jobs" => settings.jobs = number(&value()?)?.clamp(1, 1024) as usize,
            "--period" => {
                let period = number(&value()?)?;
                if !(1..=1_000_000).contains(&period) {
                    return Err(format!("--period takes 1 to 1000000, not {period}"));
                }
                settings.period = period as u32;
            }
            "--limit" => settings.limit = number(&value()?)?.saturating_mul(1_000_000),
            "--enough" => settings.enough = number(&value()?)?.saturating_mul(1_000_000),
            "--suppress" => {
                let name = value()?;
                options.suppress.push(Kind::find(&name)?);
            }
            "--site" => options.sites.push(number(&value()?)? as u32),
            "--list-sites" => options.list = true,
            "--kinds" => options.kinds = true,
            "--necessity" => options.necessity = true,
            "--plants" => options.plants.push(value()?.into()),
            "--only" => options.only.push(value()?),
            "--console" => options.console = true,
            "--help" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            other => return Err(format!("unknown option {other}; see --help")),
        }
    }
    if options.elfs.is_empty() {
        return Err("--elf is needed; see --help".into());
    }
    let seeds = first..first.saturating_add(seeds);
    options.seeds = seeds.filter(|seed| (seed - first) % shard.1 == shard.0).collect();
    if options.seeds.is_empty() {
        return Err("no seed is left to run: see --seeds and --shard".into());
    }
    Ok(options)
}

fn main() -> ExitCode {
    match work() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

fn work() -> Result<bool, String> {
    let mut options = parse(std::env::args().skip(1))?;
    let mut guests = options.elfs.iter().map(|path| Guest::load(path)).collect::<Result<Vec<_>, _>>()?;
    if options.list {
        for guest in &guests {
            let places = Places::load(&guest.path);
            for (at, op) in
                MAINTENANCE.into_iter().flat_map(|op| guest.image.sites(op).into_iter().map(move |at| (at, op)))
            {
                println!("{at:#010x} {op:?} {}", places.tell(&guest.image, at));
            }
        }
        return Ok(true);
    }
    for guest in &mut guests {
        for model in &options.models {
            guest.image.fits(model).map_err(|error| format!("{}: {error}", guest.path.display()))?;
        }
        let all: Vec<u32> = MAINTENANCE.into_iter().flat_map(|op| guest.image.sites(op)).collect();
        if let Some(at) = options.sites.iter().find(|at| !all.contains(at)) {
            return Err(format!("no cache, TLB or barrier instruction at {at:#010x}; see --list-sites"));
        }
        for kind in &options.suppress {
            kind.leave_out(&mut guest.image, &mut options.settings);
        }
        for &at in &options.sites {
            guest.image.suppress(at);
        }
    }
    if !options.plants.is_empty() {
        let lists = options.plants.iter().map(|list| plants::read(list));
        let mut lists = lists.collect::<Result<Vec<_>, _>>()?;
        plants::choose(&mut lists, &options.only)?;
        let mut good = true;
        for plants in &lists {
            let models = plants::models(plants, &options.models);
            if !models.is_empty() {
                good &= plants::table(&options.settings, &guests, plants, &models, &options.append, &options.seeds)?;
            }
        }
        return Ok(good);
    }
    if options.models.is_empty() {
        let by_default = |model: &&Model| model.cores == 1 && matches!(model.boot, Boot::Image { .. });
        options.models.extend(MODELS.iter().filter(by_default));
    }
    let machines = options.models.iter().map(|model| Ok((*model, tree::compile(model, &options.append)?)));
    let machines = machines.collect::<Result<Vec<_>, String>>()?;
    if options.kinds {
        return kinds::table(&options.settings, &guests, &machines, &options.seeds, &options.only);
    }
    if options.necessity {
        return Ok(necessity::table(&options.settings, &guests, &machines, &options.seeds, &options.only));
    }
    let mut passed = true;
    for guest in &guests {
        for (model, tree) in &machines {
            passed &= options.settings.campaign(guest, model, tree.as_deref(), &options.seeds, options.console);
        }
    }
    Ok(passed)
}
