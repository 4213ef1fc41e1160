//! What stands for the PL310 in a build without the feature `pl310`.
//!
//! Guarantees: there is no [`L2c310`], so no machine has one, and the compiler leaves out what would maintain it. Who
//! finds a controller and enables it is refused, so nothing runs with a cache that nobody maintains (I3).

mod unusable;

pub use unusable::Unusable;

use crate::cores::World;
use crate::levels::CacheLevel;
use carveout::vm::mapped::Part;
use core::ptr::NonNull;

/// The registers of a controller, which this build knows nothing of.
#[derive(Debug)]
pub struct Registers(());

/// A controller that is on. There is none.
#[derive(Debug)]
pub enum L2c310 {}

impl L2c310 {
    /// Refuses the controller.
    ///
    /// # Safety
    ///
    /// None: it touches nothing. A build with the feature demands more.
    ///
    /// # Errors
    ///
    /// Always [`Unusable::LeftOut`].
    pub const unsafe fn enable(_: NonNull<Registers>, _: World) -> Result<Self, Unusable> {
        Err(Unusable::LeftOut)
    }

    /// Returns bytes in all, and ways.
    pub const fn geometry(&self) -> (u32, u32) {
        match *self {}
    }

    /// Returns its registers.
    pub const fn registers(&self) -> NonNull<Registers> {
        match *self {}
    }
}

// SAFETY: there is no value of it.
unsafe impl CacheLevel for L2c310 {
    fn line(&self) -> u32 {
        match *self {}
    }

    fn clean(&self, _: Part<'_>) -> u64 {
        match *self {}
    }

    fn invalidate(&self, _: Part<'_>) -> u64 {
        match *self {}
    }

    fn wait(&self) {
        match *self {}
    }
}
