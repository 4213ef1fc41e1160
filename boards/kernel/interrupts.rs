//! Interrupts: the handler for any controller, waiting for a device's interrupt, and calls from core to core.
//!
//! Guarantees: an interrupt is acknowledged once, ended once, and noted. [`take`] reports it once. Shared interrupts
//! come to core 0. A software interrupt comes to the cores that its sender named. The controller is accessed under its
//! lock only, which masks interrupts.

use super::rank;
use crate::drivers::intc::InterruptController;
use crate::drivers::intc::irq::IrqId;
use aarch32_cpu::interrupt;
use aarch32_cpu::register::Cpsr;
use alloc::boxed::Box;
use carveout::cpu::dsb;
use carveout::sync::Lock;
use carveout_rt::exceptions;
use core::mem;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

static CONTROLLER: Lock<Option<Box<dyn InterruptController>>> = Lock::new(rank::INTERRUPTS, None);
/// The interrupts that came and were not taken, one bit each.
static CAME: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];
/// The interrupts that are enabled for one time only.
static ONCE: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];

/// The hook of each software interrupt: a `fn()`, or null. A hook is set once.
static ON_SOFTWARE: [AtomicPtr<()>; 16] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 16];

/// Notes that an interrupt came. Returns whether it must be disabled now.
fn note(id: IrqId) -> bool {
    CAME[id.word()].fetch_or(id.bit(), Ordering::Release);
    ONCE[id.word()].load(Ordering::Relaxed) & id.bit() != 0
}

/// Installs the handler and unmasks interrupts.
///
/// # Safety
///
/// This core holds no lock, and no critical section on it has masked interrupts. Interrupts come from here on.
pub unsafe fn start(controller: Box<dyn InterruptController>) {
    *CONTROLLER.lock() = Some(controller);
    exceptions::on_irq(handle);
    // SAFETY: no critical section is under way (this function's contract).
    unsafe { interrupt::enable() };
}

/// Unmasks interrupts on another core. Returns false if the board's controller serves one core.
///
/// # Safety
///
/// As for [`start`].
pub unsafe fn start_core() -> bool {
    if !CONTROLLER.lock().as_mut().is_some_and(|controller| controller.start_core()) {
        return false;
    }
    // SAFETY: no critical section is under way (this function's contract), and the lock was just given up.
    unsafe { interrupt::enable() };
    true
}

fn handle() {
    loop {
        // The lock is not held while the hook runs.
        let next = CONTROLLER.lock().as_mut().and_then(|controller| controller.serve(note));
        let Some(id) = next else { return };
        let hook = ON_SOFTWARE.get(usize::from(id.number())).filter(|_| id.is_software());
        let hook = hook.map_or(core::ptr::null_mut(), |hook| hook.load(Ordering::Acquire));
        if !hook.is_null() {
            // SAFETY: only `on_software` stores here, and it stores a function of this type.
            let hook = unsafe { mem::transmute::<*mut (), fn()>(hook) };
            hook();
        }
    }
}

fn with_controller(act: impl FnOnce(&mut dyn InterruptController)) {
    if let Some(controller) = CONTROLLER.lock().as_mut() {
        act(&mut **controller);
    }
}

/// Enables an interrupt whose line [`raise`] raises. Do not use this for a device that holds its line: the handler ends
/// an interrupt at once, so such a device would interrupt for ever.
pub fn enable(id: IrqId) {
    with_controller(|controller| controller.enable(id));
}

/// Enables an interrupt for one time, and forgets earlier ones. This is for devices that hold their line until the
/// driver clears it. The driver clears the line after [`take`], and then enables the next interrupt.
pub fn enable_once(id: IrqId) {
    take(id);
    ONCE[id.word()].fetch_or(id.bit(), Ordering::Relaxed);
    with_controller(|controller| controller.enable(id));
}

/// Raises the line of a mock device.
pub fn raise(id: IrqId) {
    with_controller(|controller| controller.set_pending(id));
}

/// Returns whether the interrupt came since the last call. The software interrupts of all cores count as one.
pub fn take(id: IrqId) -> bool {
    if !Cpsr::read().i() {
        with_controller(|controller| while controller.must_be_asked() && controller.serve(note).is_some() {});
    }
    CAME[id.word()].fetch_and(!id.bit(), Ordering::Acquire) & id.bit() != 0
}

/// Sets the `hook` of software interrupt `id`. The handler of the core that gets the interrupt calls it. The hook of
/// another kind of interrupt is never called.
///
/// # Panics
///
/// If the interrupt has a hook already. Each has one user.
pub fn on_software(id: IrqId, hook: fn()) {
    if let Some(place) = ON_SOFTWARE.get(usize::from(id.number())) {
        let before = place.swap(hook as *mut (), Ordering::AcqRel);
        assert!(before.is_null(), "software interrupt {} has a user", id.number());
    }
}

/// Raises a software interrupt on the cores whose bit is set. These cores see what was written before. Returns false if
/// the board's controller has no such interrupts.
pub fn send(id: IrqId, cores: u32) -> bool {
    // The write to the controller must not overtake those to memory.
    dsb();
    CONTROLLER.lock().as_mut().is_some_and(|controller| controller.send(id, cores as u8))
}
