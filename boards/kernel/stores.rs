//! The stores that write zeros, as the argument `stores=vector` chooses them.
//!
//! Guarantees: nothing else uses vector registers, programs in User mode included. They are on if the argument is
//! given. If the core has none, a line says so, and the core's other registers write zeros.

use crate::println;
use carveout_armv7a::mmu::Armv7a;
use carveout_armv7a::zeros::Stores;
use carveout_boot::bootargs::BootArgs;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

static CHOSEN: AtomicBool = AtomicBool::new(false);

/// Chooses the stores that the command line asks for, on the core that boots.
pub(super) fn choose(args: BootArgs<'_>, machine: &Armv7a) {
    let Some(arg) = args.get("stores") else { return };
    if arg.value != Some("vector") {
        println!("refused: {}: only stores=vector is known", arg.text);
        return;
    }
    turn_on();
    // SAFETY: no handler and nothing else here uses vector registers.
    match unsafe { machine.set_stores(Stores::Vector) } {
        Ok(()) => CHOSEN.store(true, Ordering::Release),
        Err(error) => println!("refused: {}: {error}", arg.text),
    }
}

/// Applies this choice on a further core, before that core works.
pub(super) fn follow() {
    if CHOSEN.load(Ordering::Acquire) {
        turn_on();
    }
}

/// Turns this core's vector registers on, if the core has any and permits it.
fn turn_on() {
    let allowed: u32;
    // SAFETY: this allows the kernel the vector registers in CPACR, and reads back whether that took effect: a core
    // without them ignores it. User mode does not get them, because nobody saves them for a process.
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
