//! Interrupts: the handler, over whichever controller the board has, a place to wait for one, and calls from core to
//! core.
//!
//! Guarantees: an interrupt is acknowledged and ended once, and noted; [`take`] tells of it once. Shared interrupts come
//! to core 0, software's to the cores named. The controller is touched under its lock alone, which masks interrupts.

use super::gic::Gic;
use super::irq::IrqId;
use super::omap_intc::OmapIntc;
use super::rank;
use super::sun4i_intc::Sun4iIntc;
use aarch32_cpu::interrupt;
use aarch32_cpu::register::Cpsr;
use carveout::cpu::dsb;
use carveout::sync::Lock;
use carveout_rt::exceptions;
use core::mem;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

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

    /// Takes the next pending interrupt, notes it, and ends it.
    fn serve(&mut self) -> Option<IrqId> {
        match self {
            Self::Gic(gic) => {
                let active = gic.ack()?;
                let id = active.id();
                if note(id) {
                    gic.disable(id);
                }
                gic.eoi(active);
                Some(id)
            }
            Self::Sun4i(intc) => {
                let id = intc.take()?;
                if note(id) {
                    intc.disable(id);
                }
                Some(id)
            }
            Self::Omap(intc) => {
                let active = intc.ack()?;
                let id = active.id();
                if note(id) {
                    intc.disable(id);
                }
                intc.eoi(active);
                Some(id)
            }
        }
    }
}

static CONTROLLER: Lock<Option<Controller>> = Lock::new(rank::INTERRUPTS, None);
/// Which interrupts came and were not taken, a bit each.
static CAME: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];
/// Which are let through once only.
static ONCE: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];

/// What the cores run at each software interrupt: a `fn()`, or null for nothing.
static ON_SOFTWARE: [AtomicPtr<()>; 16] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 16];

/// Notes that an interrupt came; whether it is to be disabled now.
fn note(id: IrqId) -> bool {
    CAME[id.word()].fetch_or(id.bit(), Ordering::Release);
    ONCE[id.word()].load(Ordering::Relaxed) & id.bit() != 0
}

/// Installs the handler and unmasks interrupts.
///
/// # Safety
///
/// This core holds no lock, and nothing on it has masked interrupts to be undisturbed: they come from here on.
pub unsafe fn start(controller: Controller) {
    *CONTROLLER.lock() = Some(controller);
    exceptions::on_irq(handle);
    // SAFETY: no critical section is under way (this function's contract).
    unsafe { interrupt::enable() };
}

/// Unmasks interrupts on another core; `false` if the board's controller serves one core.
///
/// # Safety
///
/// As for [`start`].
pub unsafe fn start_core() -> bool {
    let mut controller = CONTROLLER.lock();
    let Some(Controller::Gic(gic)) = controller.as_mut() else { return false };
    gic.start_core();
    drop(controller);
    // SAFETY: no critical section is under way (this function's contract), and the lock was just given up.
    unsafe { interrupt::enable() };
    true
}

fn handle() {
    loop {
        // Not held while the hook runs.
        let next = CONTROLLER.lock().as_mut().and_then(Controller::serve);
        let Some(id) = next else { return };
        let hook = ON_SOFTWARE.get(usize::from(id.number())).filter(|_| id.is_software());
        let hook = hook.map_or(core::ptr::null_mut(), |hook| hook.load(Ordering::Acquire));
        if !hook.is_null() {
            // SAFETY: only `on_software` stores here, a function of this type.
            let hook = unsafe { mem::transmute::<*mut (), fn()>(hook) };
            hook();
        }
    }
}

fn with_controller(act: impl FnOnce(&mut Controller)) {
    CONTROLLER.lock().as_mut().map(act);
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

/// Whether the interrupt came since this was last asked. Of software's the cores' are not told apart.
pub fn take(id: IrqId) -> bool {
    // No interrupt tells of a line that software raised at an A10.
    if !Cpsr::read().i() {
        with_controller(
            |controller| while matches!(controller, Controller::Sun4i(_)) && controller.serve().is_some() {},
        );
    }
    CAME[id.word()].fetch_and(!id.bit(), Ordering::Acquire) & id.bit() != 0
}

/// Has `hook` called whenever software interrupt `id` comes, in the handler of the core it was sent to. Of another kind
/// of interrupt it is never called.
pub fn on_software(id: IrqId, hook: fn()) {
    if let Some(place) = ON_SOFTWARE.get(usize::from(id.number())) {
        place.store(hook as *mut (), Ordering::Release);
    }
}

/// Raises a software interrupt on the cores whose bit is set. They find what was written before. `false` if the board's
/// controller has no such interrupts.
pub fn send(id: IrqId, cores: u32) -> bool {
    // The write to the controller must not overtake those to memory.
    dsb();
    match CONTROLLER.lock().as_mut() {
        Some(Controller::Gic(gic)) => {
            gic.send(id, cores as u8);
            true
        }
        _ => false,
    }
}
