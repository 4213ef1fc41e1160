//! Counts the cost of the DMA API when several cores call it at once. tests/bench.sh boots this program with 1, 2 and 4
//! cores.
//!
//! Under `-icount shift=0` cores take turns on one host thread, and an instruction of any of them takes a nanosecond of
//! virtual time. So the figures also count the instructions of waiting for a lock, and they do not depend on the host.
//! A line of the output is `count KEY VALUE`. Values are instructions an operation, or hundredths of a lock an
//! operation, for locks taken and for locks that were held by another core.
//!
//! Only core 0 runs capture cycles. The others sleep, and empty their caches when core 0 asks. Their instructions
//! count, and are also a separate figure. With the boot argument `suite=streams` nothing else runs.
#![no_std]
#![no_main]

use carveout::addr::FRAME_SIZE;
use carveout::dma::{Bidirectional, Cpu, Device, FromDevice, Master, Stream};
use carveout::sync;
use carveout_boards::drivers::timer::Counter;
use carveout_boards::drivers::timer::a9_global::A9GlobalTimer;
use carveout_boards::kernel::{bring_up, state::Kernel};
use carveout_boards::kernel::{console, cores, flush};
use carveout_boards::println;
use carveout_rt::start::BootHandover;
use core::any::Any;
use core::hint::black_box;

carveout_rt::entry!(main);

type Operation = fn(&Kernel, &Master);

/// Nanoseconds in a tick of the global timer at 100 MHz.
const TICK: u64 = 10;
/// The operations of each core.
const OPERATIONS: u32 = 4000;
/// The bytes of a captured frame, and the number of frames.
const CAPTURED: u32 = 8 << 20;
const CYCLES: u32 = 100;

fn main(handover: BootHandover) -> ! {
    let kernel = bring_up::start(handover);
    let clock: Option<&dyn Any> = kernel.clock.as_deref().map(|clock| clock as _);
    let Some(timer) = clock.and_then(<dyn Any>::downcast_ref::<A9GlobalTimer>) else {
        console::die(format_args!("bench: this board has no global timer"))
    };
    let now = || timer.ticks() * TICK;
    let count = cores::online().count();
    capture_cycles(kernel, count, &now);
    if kernel.info.bootargs().get("suite").is_some_and(|arg| arg.value == Some("streams")) {
        console::exit(0);
    }
    let work: [(&str, Operation); 3] = [("alloc-free", allocate), ("stream", stream), ("coherent", coherent)];
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
        let [taken, contended] = locks();
        let operations = u64::from(OPERATIONS) * count as u64;
        println!("count cores-{count}/{name} {}", nanoseconds / operations);
        println!("count cores-{count}/{name}-locks {}", (taken - before[0]) * 100 / operations);
        println!("count cores-{count}/{name}-held {}", (contended - before[1]) * 100 / operations);
    }
    match cores::audit(kernel) {
        Ok(_) => console::exit(0),
        Err(why) => console::die(format_args!("bench: {why}")),
    }
}

/// Counts capture cycles: a device's buffer of 8 MiB becomes the CPU's, the CPU looks at it, and it becomes the
/// device's again.
fn capture_cycles(kernel: &Kernel, count: usize, now: &dyn Fn() -> u64) {
    let dma: &'static _ = kernel.dma;
    let Ok(buffer) = dma.alloc(&kernel.master("camera"), CAPTURED, 1) else {
        console::die(format_args!("bench: no room for a frame"))
    };
    let mut buffer: Stream<_, FromDevice, Device> = buffer.into_stream().for_device();
    let mut start = (0, 0);
    // The first look finds no line in any cache, so the cycles begin after it.
    for n in 0..=CYCLES {
        // SAFETY: no device was told of the buffer.
        let cpu: Stream<_, FromDevice, Cpu> = unsafe { buffer.for_cpu() };
        black_box(cpu.bytes());
        buffer = cpu.for_device();
        if n == 0 {
            start = (now(), answered());
        }
    }
    let cycles = u64::from(CYCLES);
    let (all, others) = (now() - start.0, answered() - start.1);
    println!("count cores-{count}/capture-cycle {}", all / cycles);
    println!("count cores-{count}/capture-cycle-others {}", others / cycles);
    // SAFETY: no device was told of the buffer.
    drop(unsafe { buffer.for_cpu() });
}

/// Returns the nanoseconds in which cores emptied their caches for others.
fn answered() -> u64 {
    cores::online().map(|core| flush::answered(core).1).sum()
}

/// Returns the locks that all cores took, and how many of these another core held.
fn locks() -> [u64; 2] {
    sync::cores().fold([0; 2], |[taken, contended], (_, core)| {
        [taken + u64::from(core.taken), contended + u64::from(core.contended)]
    })
}

fn allocate(kernel: &Kernel, master: &Master) {
    // The buffer is not kept mapped: it goes through the index, the ledger and the records, and back.
    let dma: &'static _ = kernel.dma;
    drop(dma.alloc(master, FRAME_SIZE, 1));
}

fn stream(kernel: &Kernel, master: &Master) {
    let dma: &'static _ = kernel.dma;
    let Ok(buffer) = dma.alloc(master, FRAME_SIZE, 1) else { return };
    let mut buffer = buffer.into_stream::<Bidirectional>();
    buffer.bytes_mut()[0] = 1;
    // SAFETY: no device was told of the buffer.
    drop(unsafe { buffer.for_device().for_cpu() });
}

fn coherent(kernel: &Kernel, master: &Master) {
    let dma: &'static _ = kernel.dma;
    if let Ok(buffer) = dma.alloc(master, FRAME_SIZE, 1) {
        drop(buffer.into_coherent());
    }
}
