//! Interrupt controllers.

pub mod gic;
pub mod irq;
pub mod omap;
pub mod sun4i;

use irq::IrqId;

/// An interrupt controller. Only what [`enable`](Self::enable) named reaches a core.
pub trait InterruptController: Send {
    /// Lets `id` through. A number past the controller's last is no interrupt, and nothing happens.
    fn enable(&mut self, id: IrqId);

    /// Makes `id` pending as if its device had raised the line. This is the mock devices' wire.
    fn set_pending(&mut self, id: IrqId);

    /// Takes the next pending interrupt, if there is one. Calls `came` with it, disables it if that returns true, and
    /// then ends it.
    fn serve(&mut self, came: fn(IrqId) -> bool) -> Option<IrqId>;

    /// Lets software interrupts, and whatever is enabled for it, reach the core that this runs on. Returns false if the
    /// controller serves one core.
    fn start_core(&mut self) -> bool {
        false
    }

    /// Raises software interrupt `id` on the cores whose bit is set. Returns false if the controller has no such
    /// interrupts.
    fn send(&mut self, _id: IrqId, _cores: u8) -> bool {
        false
    }

    /// Returns whether no interrupt tells a core of what [`set_pending`](Self::set_pending) raised. Then whoever waits
    /// calls [`serve`](Self::serve).
    fn must_be_asked(&self) -> bool {
        false
    }
}
