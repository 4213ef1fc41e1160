//! Interrupts: the handler, over whichever controller the board has, and a place to wait for one.
//!
//! Guarantees: an interrupt is acknowledged and ended once, and noted; [`take`] tells of it once. The controller is
//! only touched with interrupts masked, so the handler never waits for its lock.

use super::gic::Gic;
use super::irq::IrqId;
use super::omap_intc::OmapIntc;
use super::sun4i_intc::Sun4iIntc;
use aarch32_cpu::interrupt;
use aarch32_cpu::register::Cpsr;
use carveout::arch::armv7a::exceptions;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Mutex;

/// The interrupt controller of the board.
pub enum Controller {
    /// Arm's.
    Gic(Gic),
    /// The A10's.
    Sun4i(Sun4iIntc),
    /// The AM335x's.
    Omap(OmapIntc),
}

impl Controller {
    fn enable(&mut self, id: IrqId) {
        match self {
            Self::Gic(gic) => gic.enable(id, 0xa0),
            Self::Sun4i(intc) => intc.enable(id),
            Self::Omap(intc) => intc.enable(id),
        }
    }

    fn set_pending(&mut self, id: IrqId) {
        match self {
            Self::Gic(gic) => gic.set_pending(id),
            Self::Sun4i(intc) => intc.set_pending(id),
            Self::Omap(intc) => intc.set_pending(id),
        }
    }

    /// Takes the next pending interrupt, notes it, and ends it; `false` if there is none.
    fn serve(&mut self) -> bool {
        match self {
            Self::Gic(gic) => {
                let Some(active) = gic.ack() else { return false };
                if note(active.id()) {
                    gic.disable(active.id());
                }
                gic.eoi(active);
            }
            Self::Sun4i(intc) => {
                let Some(id) = intc.take() else { return false };
                if note(id) {
                    intc.disable(id);
                }
            }
            Self::Omap(intc) => {
                let Some(active) = intc.ack() else { return false };
                if note(active.id()) {
                    intc.disable(active.id());
                }
                intc.eoi(active);
            }
        }
        true
    }
}

static CONTROLLER: Mutex<Option<Controller>> = Mutex::new(None);
/// Which interrupts came and were not taken, a bit each.
static CAME: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];
/// Which are let through once only.
static ONCE: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];

/// Notes that an interrupt came; whether it is to be disabled now.
fn note(id: IrqId) -> bool {
    CAME[id.word()].fetch_or(id.bit(), Ordering::Release);
    ONCE[id.word()].load(Ordering::Relaxed) & id.bit() != 0
}

/// Installs the handler and unmasks interrupts.
pub fn start(controller: Controller) {
    *CONTROLLER.lock() = Some(controller);
    exceptions::on_irq(handle);
    // SAFETY: called once, at boot, outside of any critical section.
    unsafe { interrupt::enable() };
}

fn handle() {
    if let Some(controller) = CONTROLLER.lock().as_mut() {
        while controller.serve() {}
    }
}

/// Not by aarch32-cpu 0.4's `interrupt::free`: it takes CPSR.I, which is set while masked, for "enabled".
fn with_controller(act: impl FnOnce(&mut Controller)) {
    let masked = Cpsr::read().i();
    interrupt::disable();
    CONTROLLER.lock().as_mut().map(act);
    if !masked {
        // SAFETY: they were unmasked when this began, so no critical section is under way.
        unsafe { interrupt::enable() };
    }
}

/// Lets an interrupt through. For lines that [`raise`] raises: the handler ends an interrupt at once, so a device that
/// holds its line would be served for ever.
pub fn enable(id: IrqId) {
    with_controller(|controller| controller.enable(id));
}

/// Lets an interrupt through once, and forgets those that came before. For devices that hold their line until their
/// driver says otherwise: it does so after [`take`], and lets the next one through.
pub fn enable_once(id: IrqId) {
    take(id);
    ONCE[id.word()].fetch_or(id.bit(), Ordering::Relaxed);
    with_controller(|controller| controller.enable(id));
}

/// Raises the line of a device that the CPU plays.
pub fn raise(id: IrqId) {
    with_controller(|controller| controller.set_pending(id));
}

/// Whether the interrupt came since this was last asked.
pub fn take(id: IrqId) -> bool {
    // No interrupt tells of a line that software raised at an A10.
    if !Cpsr::read().i() {
        with_controller(|controller| while matches!(controller, Controller::Sun4i(_)) && controller.serve() {});
    }
    CAME[id.word()].fetch_and(!id.bit(), Ordering::Acquire) & id.bit() != 0
}
