//! The stores that write zeros: what they write, and which registers they leave as they were.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec;
use carveout::addr::FRAME_SIZE;
use carveout::machine::Mmu;
use carveout_armv7a::mmu::Armv7a;
use carveout_armv7a::zeros::{NoVectors, Stores};
use carveout_boards::kernel::state::Kernel;
use carveout_rt::address_space;
use core::arch::asm;
use on_target::{Verdict, checks, ensure, ensure_eq};

checks![the_cores_registers_write_whole_frames, vector_registers_are_refused_used_and_given_back];

const FRAME: usize = FRAME_SIZE as usize;
/// CPACR's bits of the vector registers.
const ALLOWED: u32 = 0xf << 20;
/// FPEXC.EN.
const ON: u32 = 1 << 30;

fn cpacr() -> u32 {
    let word;
    // SAFETY: reads CPACR.
    unsafe { asm!("mrc p15, 0, {0}, c1, c0, 2", out(reg) word, options(nomem, nostack, preserves_flags)) };
    word
}

fn set_cpacr(word: u32) {
    // SAFETY: says who may use vector registers, which this kernel does not use but where a test asks for it.
    unsafe { asm!("mcr p15, 0, {0}, c1, c0, 2", "isb", in(reg) word, options(nomem, nostack, preserves_flags)) };
}

/// CPACR allows it.
fn set_fpexc(word: u32) {
    // SAFETY: turns the vector registers on or off, which CPACR allows.
    unsafe { asm!(".fpu vfpv3-d16", "vmsr fpexc, {0}", in(reg) word, options(nomem, nostack, preserves_flags)) };
}

/// Fills d0 to d15 with 16 doublewords, or stores them there. The vector registers are on.
fn load(from: &[u64; 16]) {
    // SAFETY: reads the array; nothing else in this kernel keeps anything in these registers.
    unsafe { asm!(".fpu vfpv3-d16", "vldmia {0}, {{d0-d15}}", in(reg) from, options(nostack, preserves_flags)) };
}

fn store() -> [u64; 16] {
    let mut to = [0; 16];
    // SAFETY: writes the array.
    unsafe { asm!(".fpu vfpv3-d16", "vstmia {0}, {{d0-d15}}", in(reg) &raw mut to, options(nostack, preserves_flags)) };
    to
}

/// Has the machine zero the frames inside of a block of memory, and looks at what is around them too.
fn zeroes(machine: &Armv7a, frames: usize) -> Verdict {
    let mut memory = vec![0xa5_u8; (frames + 2) * FRAME];
    let first = memory.as_ptr().align_offset(FRAME);
    let range = first..first + frames * FRAME;
    // SAFETY: whole frames inside the block.
    unsafe { machine.zero(memory[range.clone()].as_mut_ptr(), frames * FRAME) };
    let right = |(n, &byte): (usize, &u8)| byte == if range.contains(&n) { 0 } else { 0xa5 };
    ensure!(memory.iter().enumerate().all(right), "{frames} frames: not those bytes are zeros");
    Ok(())
}

fn the_cores_registers_write_whole_frames(_: &'static Kernel) -> Verdict {
    let machine = address_space::machine();
    (0..4).try_for_each(|frames| zeroes(&machine, frames))
}

fn vector_registers_are_refused_used_and_given_back(_: &'static Kernel) -> Verdict {
    let machine = address_space::machine();
    // SAFETY: no handler of this kernel uses vector registers.
    let choose = || unsafe { machine.set_stores(Stores::Vector) };
    let before = cpacr();
    set_cpacr(before & !ALLOWED);
    ensure_eq!(choose(), Err(NoVectors::Denied { cpacr: before & !ALLOWED }), "the choice, denied by CPACR");
    set_cpacr(before | ALLOWED);
    ensure_eq!(cpacr() & ALLOWED, ALLOWED, "CPACR of a core with vector registers");
    set_fpexc(0);
    ensure_eq!(choose(), Err(NoVectors::Off { fpexc: 0 }), "the choice, with FPEXC.EN clear");
    set_fpexc(ON);
    ensure_eq!(choose(), Ok(()), "the choice");

    let own: [u64; 16] = core::array::from_fn(|n| 0x0123_4567_89ab_cdef_u64.rotate_left(n as u32));
    for frames in 0..4 {
        load(&own);
        zeroes(&machine, frames)?;
        ensure_eq!(store(), own, "d0 to d15 afterwards");
    }
    // Off again, as a scheduler has them while somebody else's are in them, and then denied.
    set_fpexc(0);
    zeroes(&machine, 2)?;
    set_fpexc(ON);
    ensure_eq!(store(), own, "d0 to d15, which were off meanwhile");
    set_cpacr(before & !ALLOWED);
    zeroes(&machine, 2)?;
    set_cpacr(before);
    Ok(())
}
