//! Interrupts: the handler of the GIC, and a place to wait for one.
//!
//! Guarantees: an interrupt is acknowledged and ended once, and noted; [`take`] tells of it once. The controller is
//! only touched with interrupts masked, so the handler never waits for its lock.

use super::gic::{Gic, IrqId};
use aarch32_cpu::interrupt;
use aarch32_cpu::register::Cpsr;
use carveout::arch::armv7a::exceptions;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Mutex;

static GIC: Mutex<Option<Gic>> = Mutex::new(None);
/// Which interrupts came and were not taken, a bit each.
static CAME: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];
/// Which are let through once only.
static ONCE: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];

/// Installs the handler and unmasks interrupts.
pub fn start(gic: Gic) {
    *GIC.lock() = Some(gic);
    exceptions::on_irq(handle);
    // SAFETY: called once, at boot, outside of any critical section.
    unsafe { interrupt::enable() };
}

fn handle() {
    let mut gic = GIC.lock();
    let Some(gic) = gic.as_mut() else { return };
    while let Some(active) = gic.ack() {
        let (word, bit) = place(active.id());
        CAME[word].fetch_or(bit, Ordering::Release);
        if ONCE[word].load(Ordering::Relaxed) & bit != 0 {
            gic.disable(active.id());
        }
        gic.eoi(active);
    }
}

/// Not by aarch32-cpu 0.4's `interrupt::free`: it takes CPSR.I, which is set while masked, for "enabled".
fn with_gic(act: impl FnOnce(&mut Gic)) {
    let masked = Cpsr::read().i();
    interrupt::disable();
    GIC.lock().as_mut().map(act);
    if !masked {
        // SAFETY: they were unmasked when this began, so no critical section is under way.
        unsafe { interrupt::enable() };
    }
}

/// Lets an interrupt through. For lines that [`raise`] raises: the handler ends an interrupt at once, so a device that
/// holds its line would be served for ever.
pub fn enable(id: IrqId) {
    with_gic(|gic| gic.enable(id, 0xa0));
}

/// Lets an interrupt through once, and forgets those that came before. For devices that hold their line until their
/// driver says otherwise: it does so after [`take`], and lets the next one through.
pub fn enable_once(id: IrqId) {
    take(id);
    let (word, bit) = place(id);
    ONCE[word].fetch_or(bit, Ordering::Relaxed);
    with_gic(|gic| gic.enable(id, 0xa0));
}

/// Raises the line of a device that the CPU plays.
pub fn raise(id: IrqId) {
    with_gic(|gic| gic.set_pending(id));
}

fn place(id: IrqId) -> (usize, u32) {
    (usize::from(id.number()) / 32, 1 << (id.number() % 32))
}

/// Whether the interrupt came since this was last asked.
pub fn take(id: IrqId) -> bool {
    let (word, bit) = place(id);
    CAME[word].fetch_and(!bit, Ordering::Acquire) & bit != 0
}
