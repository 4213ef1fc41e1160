//! Runs: one, many on several threads, and the telling of what a run found.
//!
//! Guarantees: results come in the order of what was asked, however many threads work, so output repeats.

use crate::cache::Caches;
use crate::devices::Devices;
use crate::image::{Image, Places};
use crate::machine::{Machine, Setup};
use crate::model::{Model, RAM};
use crate::pl310::OuterOp;
use crate::report::Outcome;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

/// A program under test.
pub struct Guest {
    /// Its file's name without the hash that cargo adds.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Its bytes.
    pub image: Image,
}

impl Guest {
    /// Reads an ELF.
    pub fn load(path: &Path) -> Result<Self, String> {
        let file = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let name = match file.rsplit_once('-') {
            Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => name.into(),
            _ => file,
        };
        Ok(Self { name, path: path.into(), image: Image::load(path)? })
    }
}

/// What all runs share.
#[derive(Clone)]
pub struct Settings {
    /// What the disk holds at first, if there is one.
    pub disk: Option<Arc<[u8]>>,
    /// Mean number of accesses between two moves of the adversary.
    pub period: u32,
    /// Instructions after which a run is given up.
    pub limit: u64,
    /// Instructions after which a run has seen enough.
    pub enough: u64,
    /// What the outer controller is not told: a planted bug.
    pub without: Vec<OuterOp>,
    /// Threads.
    pub jobs: usize,
}

/// One run to be made.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// The program.
    pub image: &'a Image,
    /// The machine.
    pub model: &'static Model,
    /// Its device tree, if there is one.
    pub tree: Option<&'a [u8]>,
    /// The adversary's.
    pub seed: u64,
    /// A store to the outer controller that is left out.
    pub without_site: Option<u32>,
}

/// What came of it.
pub struct Ran {
    /// How it ended.
    pub outcome: Outcome,
    /// Instructions executed.
    pub instructions: u64,
    /// These, and for how many more the core was asleep.
    pub time: u64,
    /// What the guest printed.
    pub console: Vec<u8>,
    /// How often each maintenance instruction of the image was executed, by linked address.
    pub visits: BTreeMap<u32, u32>,
    /// How often each store to the outer controller was made, by address and what it asked for.
    pub outer_sites: BTreeMap<(u32, OuterOp), u32>,
}

/// Works on all items, on several threads, and hands over the results in order.
pub fn in_order<T: Sync, R: Send>(
    jobs: usize,
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
    mut each: impl FnMut(usize, R),
) {
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(items.len()) {
            let (send, next, work) = (send.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(n) else { break };
                    if send.send((n, work(item))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        let (mut early, mut wanted) = (BTreeMap::new(), 0);
        for (n, result) in receive {
            early.insert(n, result);
            while let Some(result) = early.remove(&wanted) {
                each(wanted, result);
                wanted += 1;
            }
        }
    });
}

impl Settings {
    fn machine(&self, run: &Run<'_>, watch: Option<u32>) -> (Box<Machine>, Outcome) {
        let mut caches = Caches::new(run.model, RAM, run.seed, self.period);
        caches.watch = watch;
        let mut devices = Devices::new(run.model, self.disk.as_deref(), run.seed);
        devices.outer.without.clone_from(&self.without);
        devices.outer.without_site = run.without_site;
        let (limit, enough) = (self.limit, self.enough);
        let setup = Setup {
            model: run.model,
            image: run.image,
            tree: run.tree,
            caches,
            devices,
            seed: run.seed,
            limit,
            enough,
        };
        Machine::new(setup).expect("the emulator is built for this core").run()
    }

    /// Makes a run.
    pub fn run(&self, run: &Run<'_>) -> Ran {
        let (machine, outcome) = self.machine(run, None);
        Ran {
            outcome,
            instructions: machine.instructions,
            time: machine.now(),
            visits: machine.visits(),
            console: machine.devices.console,
            outer_sites: machine.devices.outer.sites,
        }
    }

    /// Makes runs, and hands over what came of each, in order.
    pub fn run_all(&self, runs: &[Run<'_>], mut each: impl FnMut(&Run<'_>, Ran)) {
        in_order(self.jobs, runs, |run| self.run(run), |n, ran| each(&runs[n], ran));
    }

    /// Says what was broken, and by running the seed again what happened to the line before.
    pub fn explain(&self, guest: &Guest, run: &Run<'_>, outcome: &Outcome) {
        let Outcome::Violation(found) = outcome else { return };
        let places = Places::load(&guest.path);
        let (machine, again) = self.machine(run, Some(found.line));
        println!("  rule: {}", found.rule);
        println!("  line: {:#010x}", found.line);
        // Which core did what is said where there are several.
        let on = |core: usize| if run.model.cores > 1 { format!(", core {core}") } else { String::new() };
        for (core, va, kind) in machine.mappings(found.line) {
            println!("  mapped at {va:#010x}, {kind:?}{}", on(core));
        }
        println!(
            "  at:   {:#010x}{} {}",
            found.pc,
            on(found.core),
            places.tell(&guest.image, machine.linked(found.pc))
        );
        println!(
            "  instruction {} of seed {} on {}; before, on this line:",
            found.instruction, run.seed, run.model.name
        );
        if !matches!(again, Outcome::Violation(again) if again == *found) {
            println!("    (a second run did not go the same way: {again:?})");
        }
        let mut last: Vec<(u32, String, u32)> = Vec::new();
        for (core, pc, event) in &machine.caches.events {
            let text = format!("{event}{}", on(*core));
            match last.last_mut() {
                Some((_, previous, times)) if *previous == text => *times += 1,
                _ => last.push((*pc, text, 1)),
            }
        }
        for (pc, text, times) in &last[last.len().saturating_sub(12)..] {
            let times = if *times > 1 { format!(" ({times} times)") } else { String::new() };
            println!("    {text}{times}\n      at {pc:#010x} {}", places.tell(&guest.image, machine.linked(*pc)));
        }
    }

    /// Runs a guest on a machine over seeds; prints a line for each that found something, and a summary. Whether none
    /// did.
    pub fn campaign(
        &self,
        guest: &Guest,
        model: &'static Model,
        tree: Option<&[u8]>,
        seeds: &[u64],
        console: bool,
    ) -> bool {
        let (mut broken, mut failed) = (0, 0);
        let (mut instructions, mut done, begin, mut told) = (0, 0, Instant::now(), Instant::now());
        let image = &guest.image;
        let runs: Vec<Run<'_>> =
            seeds.iter().map(|&seed| Run { image, model, tree, seed, without_site: None }).collect();
        self.run_all(&runs, |run, ran| {
            instructions += ran.instructions;
            done += 1;
            match &ran.outcome {
                outcome if outcome.is_pass() => {}
                Outcome::Violation(_) => {
                    broken += 1;
                    println!("seed {}: {}", run.seed, ran.outcome);
                    // One is told in full: the others are repeated by their seed.
                    if broken == 1 {
                        self.explain(guest, run, &ran.outcome);
                    }
                }
                _ => {
                    failed += 1;
                    println!("seed {}: {}", run.seed, ran.outcome);
                    print!("{}", String::from_utf8_lossy(&ran.console));
                }
            }
            if console {
                print!("{}", String::from_utf8_lossy(&ran.console));
            }
            if told.elapsed().as_secs() >= 10 {
                told = Instant::now();
                eprintln!(
                    "{} on {}: {done} of {} runs, {broken} with a rule broken",
                    guest.name,
                    model.name,
                    runs.len()
                );
            }
        });
        let seconds = begin.elapsed().as_secs_f64();
        println!(
            "{} on {}: {} runs: {broken} with a rule broken, {failed} failed otherwise; {instructions} instructions in \
             {seconds:.1} s, {:.1} million a second",
            guest.name,
            model.name,
            runs.len(),
            instructions as f64 / seconds / 1e6
        );
        let _ = std::io::stdout().flush();
        broken == 0 && failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Rule;

    /// Maps RAM write-back and registers as Device, fills a frame of 1 KiB, cleans it, waits, has the display show it,
    /// and ends with 0.
    const PROGRAM: [u32; 55] = [
        0xe59f_00bc,
        0xe3a0_1000,
        0xe3a0_2000,
        0xe780_1102,
        0xe282_2001,
        0xe352_0a01,
        0x1aff_fffb,
        0xe59f_10a4,
        0xe280_3b06,
        0xe583_1000,
        0xe281_1602,
        0xe583_1008,
        0xe59f_1094,
        0xe580_1400,
        0xee02_0f10,
        0xe3a0_1001,
        0xee03_1f10,
        0xf57f_f04f,
        0xee11_1f10,
        0xe381_1005,
        0xee01_1f10,
        0xf57f_f06f,
        0xe59f_0070,
        0xe3a0_2b01,
        0xe252_2004,
        0xe780_2002,
        0x1aff_fffc,
        0xe3a0_2b01,
        0xe252_2020,
        0xe080_3002,
        DCCMVAC,
        0x1aff_fffb,
        DSB,
        0xe59f_3048,
        0xe3a0_1000,
        0xe583_1000,
        0xe3a0_100f,
        0xe583_1004,
        0xe583_0010,
        0xe59f_1034,
        0xe583_1018,
        0xe3a0_2a01,
        0xe252_2001,
        0x1aff_fffd,
        0xe3a0_0020,
        0xe28f_1000,
        0xef12_3456,
        0x0002_0026,
        0,
        // The table, two sections, the frame, the display and its control word.
        0x6010_0000,
        0x6000_1c0e,
        0x1000_0c06,
        FRAME,
        0x1002_0000,
        0x80b,
    ];
    const DCCMVAC: u32 = 0xee07_3f3a;
    const DSB: u32 = 0xf57f_f04f;
    const NOP: u32 = 0xe320_f000;
    const FRAME: u32 = 0x6020_0000;

    fn outcome(without: Option<u32>, seed: u64) -> (Outcome, u64) {
        let words = PROGRAM.iter().enumerate().map(|(n, &word)| {
            // The first DSB is before the MMU comes on.
            if Some(word) == without && n != 17 { NOP } else { word }
        });
        let image = Image::of_words(0x6001_0000, words);
        let settings =
            Settings { disk: None, period: 8, limit: 1_000_000, enough: u64::MAX, without: Vec::new(), jobs: 1 };
        let model = crate::model::find("a9").unwrap();
        let ran = settings.run(&Run { image: &image, model, tree: Some(&[0; 40]), seed, without_site: None });
        (ran.outcome, ran.instructions)
    }

    #[test]
    fn a_correct_program_is_never_reported() {
        for seed in 1..=20 {
            let (outcome, _) = outcome(None, seed);
            assert!(matches!(outcome, Outcome::Exit(0)), "seed {seed}: {outcome}");
        }
    }

    #[test]
    fn a_missing_clean_and_a_missing_barrier_are_reported_by_the_rule_and_the_line() {
        for without in [DCCMVAC, DSB] {
            let mut caught = 0;
            for seed in 1..=20 {
                if let (Outcome::Violation(found), _) = outcome(Some(without), seed) {
                    caught += 1;
                    assert_eq!(found.rule, Rule::DeviceReadsStale { buffered: false });
                    assert!((FRAME..FRAME + 1024).contains(&found.line) && found.line % 32 == 0, "{:#x}", found.line);
                }
            }
            assert!(caught >= 19, "{without:#x}: {caught}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run_and_another_does_not() {
        let runs: Vec<String> = (1..=8).map(|seed| format!("{:?}", outcome(Some(DCCMVAC), seed))).collect();
        let again: Vec<String> = (1..=8).map(|seed| format!("{:?}", outcome(Some(DCCMVAC), seed))).collect();
        assert_eq!(runs, again);
        assert!(runs.iter().any(|run| *run != runs[0]));
    }

    #[test]
    fn results_come_in_order_whatever_the_threads_do() {
        let items: Vec<u64> = (0..50).collect();
        let mut seen = Vec::new();
        let slow_first = |&n: &u64| {
            std::thread::sleep(std::time::Duration::from_micros(500 * (n % 7)));
            n * n
        };
        in_order(4, &items, slow_first, |n, square| seen.push((n as u64, square)));
        assert_eq!(seen, items.iter().map(|&n| (n, n * n)).collect::<Vec<_>>());
    }
}
