//! What the head set on each core for the errata of its revision. tests/cases/cores.toml boots it on further revisions.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use carveout::addr::VirtAddr;
use carveout::cpu::MAX_CORES;
use carveout::cpu::relax;
use carveout::machine::Cache;
use carveout_armv7a::cores::World;
use carveout_armv7a::errata;
use carveout_armv7a::l2c310::{L2c310, Unusable};
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::kernel::cores;
use carveout_boards::kernel::state::Kernel;
use carveout_boards::println;
use carveout_rt::address_space;
use carveout_rt::secondary;
use carveout_rt::start::translate_image;
use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use on_target::{RETURN, Verdict, checks, ensure, ensure_eq};

checks![
    every_core_has_the_bits_of_its_revision,
    a_pl310_is_turned_on_right,
    a_pl310_that_was_left_wrong_is_refused,
    a_core_without_caches_is_told_past_the_outer_one,
    a_barrier_stands_where_errata_need_one,
];

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

/// A PL310 in memory: what is written to its registers can be read.
#[repr(C, align(4096))]
struct Block([AtomicU32; 1024]);

static BLOCK: Block = Block([const { AtomicU32::new(0) }; 1024]);

// Offsets of registers (TRM table 3-1).
const ID: usize = 0x000;
const CONTROL: usize = 0x100;
const AUXILIARY: usize = 0x104;
const SYNC: usize = 0x730;
const INVALIDATE_WAY: usize = 0x77c;
const CLEAN_LINE: usize = 0x7b0;
const PREFETCH: usize = 0xf60;
const EXCLUSIVE: u32 = 1 << 12;
/// What nobody writes.
const UNTOUCHED: u32 = 0x5a5a_5a5a;

fn at(offset: usize) -> &'static AtomicU32 {
    &BLOCK.0[offset / 4]
}

fn controller(release: u32, on: bool, auxiliary: u32, prefetch: u32) {
    at(ID).store(0x4100_00c0 | release, Ordering::Relaxed);
    at(CONTROL).store(on.into(), Ordering::Relaxed);
    at(AUXILIARY).store(auxiliary, Ordering::Relaxed);
    at(SYNC).store(UNTOUCHED, Ordering::Relaxed);
    at(PREFETCH).store(prefetch, Ordering::Relaxed);
}

fn enable(world: World) -> Result<L2c310, Unusable> {
    let registers = NonNull::from(&BLOCK).cast();
    // SAFETY: memory that lasts takes the place of registers, with any value in it, and the tests alone write there.
    unsafe { L2c310::enable(registers, world) }
}

/// Errata 752271 and 765569, and the exclusive mode. Another core plays the controller, whose operation by way ends.
fn a_pl310_is_turned_on_right(_: &'static Kernel) -> Verdict {
    let Some(player) = cores::online().find(|core| core.index() > 0) else {
        println!("errata: one core: nobody plays the PL310");
        return Ok(());
    };
    for (release, has, needs) in [
        (4, 0x7000_000f, 0x7000_000f),
        (5, 0x7000_000f, 0x3000_000f),
        (6, 0x7000_0017, 0x3000_000f),
        (8, 0x7000_0017, 0x7000_000f),
    ] {
        controller(release, false, EXCLUSIVE | 0x0002_0000, has);
        let done = AtomicBool::new(false);
        let result = spin::Mutex::new(None);
        cores::on_all(&|core| {
            if core.index() == 0 {
                *result.lock() = Some(enable(World::Secure).map(drop));
                done.store(true, Ordering::Release);
            } else if core == player {
                while !done.load(Ordering::Acquire) {
                    at(INVALIDATE_WAY).store(0, Ordering::Relaxed);
                    relax();
                }
            }
        });
        ensure_eq!(result.into_inner(), Some(Ok(())), "release {release:#x}");
        ensure_eq!(at(PREFETCH).load(Ordering::Relaxed), needs, "prefetch control of release {release:#x}");
        ensure_eq!(at(AUXILIARY).load(Ordering::Relaxed), 0x0002_0000, "auxiliary control");
        ensure_eq!(at(CONTROL).load(Ordering::Relaxed), 1, "control");
    }
    Ok(())
}

fn a_pl310_that_was_left_wrong_is_refused(_: &'static Kernel) -> Verdict {
    for world in [World::Secure, World::NonSecure] {
        controller(9, true, EXCLUSIVE, 0);
        ensure_eq!(enable(world).map(drop), Err(Unusable::Exclusive), "exclusive, {world:?}");
        controller(6, true, 0, 1 << 30);
        let refused = Err(Unusable::Prefetch { has: 1 << 30, needs: 0 });
        ensure_eq!(enable(world).map(drop), refused, "752271, {world:?}");
        controller(9, true, 0, 23);
        ensure_eq!(enable(world).map(drop), Err(Unusable::Prefetch { has: 23, needs: 15 }), "765569, {world:?}");
        controller(9, true, 0, 1 << 30);
        ensure_eq!(enable(world).map(drop), Ok(()), "nothing wrong, {world:?}");
    }
    controller(9, false, EXCLUSIVE, 23);
    ensure_eq!(enable(World::NonSecure).map(drop), Err(Unusable::Off), "off");
    let written = [CONTROL, AUXILIARY, SYNC, PREFETCH].map(|offset| at(offset).load(Ordering::Relaxed));
    ensure_eq!(written, [0, EXCLUSIVE, UNTOUCHED, 23], "control, auxiliary, sync, prefetch");
    // A bus that reads zeros, and an L210, which is of another part.
    for id in [0, 0x4100_0000] {
        controller(9, false, 0, 0);
        at(ID).store(id, Ordering::Relaxed);
        ensure_eq!(enable(World::Secure).map(drop), Err(Unusable::Absent { id }), "absent");
        let written = [CONTROL, SYNC].map(|offset| at(offset).load(Ordering::Relaxed));
        ensure_eq!(written, [0, UNTOUCHED], "control and sync of one that is absent");
    }
    Ok(())
}

/// Erratum 769419.
fn a_core_without_caches_is_told_past_the_outer_one(_: &'static Kernel) -> Verdict {
    static WORD: AtomicU32 = AtomicU32::new(0);
    let word = translate_image(VirtAddr::new(WORD.as_ptr().addr() as u32)).ok_or("not in the image")?;
    let machine = address_space::machine();
    controller(9, true, 0x0002_0000, 0);
    let outer = enable(World::Secure).map_err(|error| format!("{error}"))?;
    // SAFETY: no `Dma` is over this machine, which has no caches but what stands in memory here.
    unsafe { machine.set_outer(Box::leak(Box::new(outer))) };
    // SAFETY: a word of this test's, aligned to 4.
    ensure!(unsafe { secondary::tell(&machine, word, 7) }, "the image is mapped");
    ensure_eq!(WORD.load(Ordering::Relaxed), 7, "the word");
    ensure_eq!(at(CLEAN_LINE).load(Ordering::Relaxed), word.raw() & !31, "the line that was cleaned");
    ensure_eq!(at(SYNC).load(Ordering::Relaxed), 0, "a sync before the event");
    at(SYNC).store(UNTOUCHED, Ordering::Relaxed);
    machine.device_barrier();
    ensure_eq!(at(SYNC).load(Ordering::Relaxed), 0, "a sync before a device is told");
    Ok(())
}

#[inline(never)]
extern "C" fn between_writes(machine: &Armv7a) {
    machine.dma_wmb();
}

#[inline(never)]
extern "C" fn while_waiting() {
    relax();
}

/// Errata 794074, 754327 and 761319: a DMB, among the first instructions.
fn a_barrier_stands_where_errata_need_one(_: &'static Kernel) -> Verdict {
    let functions = [between_writes as *const (), while_waiting as *const ()].map(<*const ()>::cast::<u32>);
    for (function, what) in functions.into_iter().zip(["between two writes", "while waiting"]) {
        // SAFETY: the program's text can be read, and goes on behind these functions.
        let words = unsafe { core::slice::from_raw_parts(function, 4) };
        let body = words.split(|&word| word == RETURN).next().unwrap_or(&[]);
        ensure!(body.iter().any(|word| word & !0xf == 0xf57f_f050), "no DMB {what}: {words:08x?}");
    }
    Ok(())
}
