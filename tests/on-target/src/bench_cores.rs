//! What the DMA API costs when several cores call it at once: run by tests/bench-cores.sh, twice.
//!
//! Under `-icount shift=0` cores take turns on one host thread, and an instruction of any of them takes a nanosecond of
//! virtual time: instructions each operation takes, those of waiting for the lock to be passed on included. Without
//! that option each core is a host thread: how often a lock was found held, and the share of the cores' time that went
//! into waiting for it, on that host.
#![no_std]
#![no_main]

use carveout::addr::FRAME_SIZE;
use carveout::cpu::CoreId;
use carveout::dma::{Bidirectional, Master};
use carveout::sync::{self, Lock, Rank};
use carveout_boards::drivers::timer::a9_global::A9GlobalTimer;
use carveout_boards::kernel::{bring_up, state::Kernel};
use carveout_boards::kernel::{console, cores};
use carveout_boards::println;
use carveout_rt::start::BootHandover;
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering};

carveout_rt::entry!(main);

type Operation = fn(&Kernel, &Master);

/// Nanoseconds in a tick of the global timer at 100 MHz.
const TICK: u64 = 10;
/// Of each core.
const OPERATIONS: u32 = 4000;

fn main(handover: BootHandover) -> ! {
    let kernel = bring_up::start(handover);
    let clock: Option<&dyn Any> = kernel.clock.as_deref().map(|clock| clock as _);
    let Some(timer) = clock.and_then(<dyn Any>::downcast_ref::<A9GlobalTimer>) else {
        console::die(format_args!("bench: this board has no global timer"))
    };
    let now = || timer.count() * TICK;
    let count = cores::online().count();
    // The least: the host may take a core off at any time, and rounds are none meanwhile.
    let round = if count > 1 { (0..8).map(|_| picoseconds_a_round(&now)).min().unwrap_or(0) } else { 0 };
    let work: [(&str, Operation); 3] =
        [("allocate, free", allocate), ("stream, hand over", stream), ("map, unmap", coherent)];
    for (name, work) in work {
        let before = locks();
        let start = now();
        cores::on_all(&|core| {
            let master = kernel.master(["core-0", "core-1", "core-2", "core-3"][core.index()]);
            for _ in 0..OPERATIONS {
                work(kernel, &master);
            }
        });
        let nanoseconds = now() - start;
        let [taken, contended, rounds] = locks();
        let [taken, contended, rounds] = [taken - before[0], contended - before[1], rounds - before[2]];
        let operations = u64::from(OPERATIONS) * count as u64;
        let hundredths = |part: u64, whole: u64| part * 10_000 / whole.max(1);
        let (held, waited) =
            (hundredths(contended, taken), hundredths(rounds * round / 1000, nanoseconds * count as u64));
        println!(
            "| {count} | {name} | {} | {} | {}.{:02} % | {}.{:02} % |",
            nanoseconds / operations,
            taken / operations,
            held / 100,
            held % 100,
            waited / 100,
            waited % 100
        );
    }
    match cores::audit(kernel) {
        Ok(_) => console::exit(0),
        Err(why) => console::die(format_args!("bench: {why}")),
    }
}

/// Locks taken, those of them held by another core, and rounds waited, of all cores.
fn locks() -> [u64; 3] {
    sync::cores().fold([0; 3], |[taken, contended, rounds], (_, core)| {
        [taken + u64::from(core.taken), contended + u64::from(core.contended), rounds + u64::from(core.rounds)]
    })
}

/// How long a round of waiting for a lock takes: measured while another core holds it for a while.
fn picoseconds_a_round(now: &(impl Fn() -> u64 + Sync)) -> u64 {
    const MILLISECOND: u64 = 1_000_000;
    let (lock, held) = (Lock::new(Rank::new(2), 0), AtomicBool::new(false));
    let before = locks()[2];
    cores::on_all(&|core: CoreId| match core.index() {
        0 => {
            let mut nanoseconds = lock.lock();
            held.store(true, Ordering::Release);
            let start = now();
            while now() - start < 20 * MILLISECOND {
                core::hint::spin_loop();
            }
            *nanoseconds = now() - start;
        }
        1 => {
            while !held.load(Ordering::Acquire) {
                core::hint::spin_loop();
            }
            drop(lock.lock());
        }
        _ => {}
    });
    let nanoseconds = *lock.lock();
    nanoseconds * 1000 / (locks()[2] - before).max(1)
}

fn allocate(kernel: &Kernel, master: &Master) {
    // Not kept: the index, the ledger, the records and back.
    let dma: &'static _ = kernel.dma;
    drop(dma.alloc(master, FRAME_SIZE, 1));
}

fn stream(kernel: &Kernel, master: &Master) {
    let dma: &'static _ = kernel.dma;
    let Ok(buffer) = dma.alloc(master, FRAME_SIZE, 1) else { return };
    let mut buffer = buffer.into_stream::<Bidirectional>();
    buffer.bytes_mut()[0] = 1;
    // SAFETY: no device was told.
    drop(unsafe { buffer.for_device().for_cpu() });
}

fn coherent(kernel: &Kernel, master: &Master) {
    let dma: &'static _ = kernel.dma;
    if let Ok(buffer) = dma.alloc(master, FRAME_SIZE, 1) {
        drop(buffer.into_coherent());
    }
}
