//! The stores that write zeros, as the argument `stores=vector` chooses them.
//!
//! Guarantees: nothing else uses vector registers, programs in User mode included. They are on where the argument is
//! given. Where they cannot be had, a line says why, and the core's own registers write zeros.

use crate::println;
use carveout_armv7a::mmu::Armv7a;
use carveout_armv7a::zeros::Stores;
use carveout_boot::bootargs::BootArgs;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

static CHOSEN: AtomicBool = AtomicBool::new(false);

/// Does as the command line says, on the core that boots.
pub(super) fn choose(args: BootArgs<'_>, machine: &Armv7a) {
    let Some(arg) = args.get("stores") else { return };
    if arg.value != Some("vector") {
        println!("refused: {}: there is stores=vector", arg.text);
        return;
    }
    turn_on();
    // SAFETY: no handler and nothing else here uses vector registers.
    match unsafe { machine.set_stores(Stores::Vector) } {
        Ok(()) => CHOSEN.store(true, Ordering::Release),
        Err(error) => println!("refused: {}: {error}", arg.text),
    }
}

/// Does the same on a further core, before it works.
pub(super) fn follow() {
    if CHOSEN.load(Ordering::Acquire) {
        turn_on();
    }
}

/// Turns this core's vector registers on, if it has any and may.
fn turn_on() {
    let allowed: u32;
    // SAFETY: allows the kernel the vector registers in CPACR, and reads back whether it took: a core without them
    // ignores it. Users do not get them: nobody keeps them for a process.
    unsafe {
        asm!(
            "mrc p15, 0, {0}, c1, c0, 2",
            "bic {0}, {0}, #0xf << 20",
            "orr {0}, {0}, #0x5 << 20",
            "mcr p15, 0, {0}, c1, c0, 2",
            "isb",
            "mrc p15, 0, {0}, c1, c0, 2",
            out(reg) allowed,
            options(nomem, nostack, preserves_flags)
        );
    }
    if allowed >> 20 & 0xf == 0x5 {
        // SAFETY: writes FPEXC.EN, which CPACR allows.
        unsafe { asm!(".fpu vfpv3-d16", "vmsr fpexc, {0}", in(reg) 1 << 30, options(nomem, nostack, preserves_flags)) };
    }
}
