//! Interrupt controllers.

pub mod gic;
pub mod irq;
pub mod omap;
pub mod sun4i;

use irq::IrqId;

/// An interrupt controller. Only interrupts that [`enable`](Self::enable) named reach a core.
pub trait InterruptController: Send {
    /// Lets `id` through. Does nothing for a number past the controller's last interrupt.
    fn enable(&mut self, id: IrqId);

    /// Makes `id` pending as if its device had raised the line. Mock devices interrupt in this way.
    fn set_pending(&mut self, id: IrqId);

    /// Takes the next pending interrupt, if there is one. Calls `came` with it, disables the interrupt if `came`
    /// returns true, and then ends the interrupt.
    fn serve(&mut self, came: fn(IrqId) -> bool) -> Option<IrqId>;

    /// Lets software interrupts, and the interrupts that are enabled for this core, reach the core that this runs on.
    /// Returns false if the controller serves one core.
    fn start_core(&mut self) -> bool {
        false
    }

    /// Raises software interrupt `id` on the cores whose bit is set. Returns false if the controller has no such
    /// interrupts.
    fn send(&mut self, _id: IrqId, _cores: u8) -> bool {
        false
    }

    /// Returns true if [`set_pending`](Self::set_pending) interrupts no core. Then code that waits must call
    /// [`serve`](Self::serve).
    fn must_be_asked(&self) -> bool {
        false
    }
}
