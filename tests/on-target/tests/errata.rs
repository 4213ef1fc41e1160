//! What the head set on each core for the errata of its revision. tests/cores.sh boots it on further revisions.
#![no_std]
#![no_main]

extern crate alloc;

use carveout::arch::armv7a::cores::MAX_CORES;
use carveout::arch::errata;
use carveout_boards::println;
use carveout_boards::support::bring_up::Kernel;
use carveout_boards::support::cores;
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};
use on_target::{Verdict, checks, ensure_eq};

checks![every_core_has_the_bits_of_its_revision];

fn midr() -> u32 {
    let word;
    // SAFETY: reads MIDR.
    unsafe { asm!("mrc p15, 0, {0}, c0, c0, 0", out(reg) word, options(nomem, nostack, preserves_flags)) };
    word
}

/// The diagnostic control register of a Cortex-A9.
fn diagnostic() -> u32 {
    let word;
    // SAFETY: reads a register that a Cortex-A9 has, in the secure world, where QEMU's boards begin.
    unsafe { asm!("mrc p15, 0, {0}, c15, c0, 1", out(reg) word, options(nomem, nostack, preserves_flags)) };
    word
}

fn every_core_has_the_bits_of_its_revision(_: &'static Kernel) -> Verdict {
    let want = errata::diagnostic(midr());
    if want == 0 {
        println!("errata: no Cortex-A9: nothing to show");
        return Ok(());
    }
    let found = [const { AtomicU32::new(0) }; MAX_CORES];
    cores::on_all(&|core| found[core.index()].store(diagnostic(), Ordering::Relaxed));
    for core in cores::online() {
        ensure_eq!(found[core.index()].load(Ordering::Relaxed), want, "diagnostic control of {core}");
    }
    println!("errata: MIDR {:#010x}, diagnostic control {want:#010x} on {} cores", midr(), cores::online().count());
    Ok(())
}
