//! A block of registers with one owner.
//!
//! Guarantees: a driver that owns an [`Mmio`] is the only one that uses these registers. When the driver is dropped,
//! the registers go back to whoever mapped them, unless the driver called [`Mmio::keep`].

use alloc::boxed::Box;
use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;

/// Takes a block back from its driver.
pub type GiveBack = Box<dyn FnOnce() + Send>;

/// A device's registers, laid out as `R`. One driver owns them.
pub struct Mmio<R> {
    base: NonNull<R>,
    give_back: Option<GiveBack>,
}

// SAFETY: the registers belong to whoever has this value (contract of `new`), and answer any core.
unsafe impl<R: Send> Send for Mmio<R> {}

impl<R> Mmio<R> {
    /// Makes the owner of the registers at `base`. `give_back` is called when they are dropped.
    ///
    /// # Safety
    ///
    /// `base` is a device mapping of registers that are laid out as `R`. The mapping lasts for ever. Nothing else uses
    /// these registers until `give_back` is called.
    pub const unsafe fn new(base: NonNull<R>, give_back: Option<GiveBack>) -> Self {
        Self { base, give_back }
    }

    /// Returns where the registers are mapped. The mapping lasts for ever.
    pub const fn pointer(&self) -> NonNull<R> {
        self.base
    }

    /// Keeps the registers for ever, so that nobody gets them a second time.
    pub fn keep(&mut self) {
        self.give_back = None;
    }
}

impl<R> Deref for Mmio<R> {
    type Target = R;

    fn deref(&self) -> &R {
        // SAFETY: a mapping of such registers that lasts (contract of `new`).
        unsafe { self.base.as_ref() }
    }
}

impl<R> Drop for Mmio<R> {
    fn drop(&mut self) {
        if let Some(give_back) = self.give_back.take() {
            give_back();
        }
    }
}

impl<R> fmt::Debug for Mmio<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "registers at {:p}", self.base)
    }
}

#[cfg(test)]
mod tests {
    use crate::drivers::fake;

    #[test]
    fn registers_go_back_once_unless_they_are_kept() {
        let block = fake::block::<[u32; 2]>(8);
        block.write(4, 7);
        let registers = block.mmio();
        assert_eq!((registers[1], block.given_back()), (7, 0));
        drop(registers);
        assert_eq!(block.given_back(), 1);
        let mut registers = block.mmio();
        registers.keep();
        drop(registers);
        assert_eq!(block.given_back(), 1);
    }
}
