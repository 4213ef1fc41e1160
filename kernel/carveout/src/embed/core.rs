//! What each further core must have in common with the one that built the [`Dma`].
//!
//! Guarantees: a core that passed [`Dma::check_core`] translates and caches every address as the first one does, so
//! that what holds of the tables there holds here (I1, I2).

use crate::dma::Dma;
use crate::machine::Machine;
use crate::vm::registers::{Difference, RegisterError, differences, first_error};
use core::fmt;

/// Why a core must not use a [`Dma`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CoreError {
    /// A register of this core.
    Register(RegisterError),
    /// A register differs from that of the core that built the [`Dma`]: tables may mean one thing there and another
    /// here.
    Differs {
        /// The register.
        register: &'static str,
        /// Its value on this core.
        has: u32,
        /// Its value on the core that built the [`Dma`].
        first: u32,
    },
}

impl fmt::Display for CoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(error) => error.fmt(f),
            Self::Differs { register, has, first } => write!(
                f,
                "I1: this core has {register} {has:#010x}, and the first one {first:#010x}: tables may mean one thing there \
                 and another here; make them the same"
            ),
        }
    }
}

impl core::error::Error for CoreError {}

impl<M: Machine> Dma<M> {
    /// Refuses the core that this runs on, if its registers give the tables another meaning than those of the core that
    /// built this. Each further core calls it once, after its MMU and its caches are on, before it touches a buffer. It
    /// changes nothing and takes no lock.
    ///
    /// TTBR0 may name another table, unless a single root in TTBR0 translates the window
    /// ([`Roots::One`](crate::embed::Roots::One)).
    ///
    /// # Errors
    ///
    /// [`CoreError`] says which register, and what it must be.
    pub fn check_core(&self) -> Result<(), CoreError> {
        let (registers, first) = (self.machine().registers(), self.built_by());
        let ttbr = first.registers.ttbr_of(self.window().start());
        first_error(&registers, ttbr).map_err(CoreError::Register)?;
        match differences(&registers, &first.registers, first.any_root).next() {
            Some(Difference { register, has, other }) => Err(CoreError::Differs { register, has, first: other }),
            None => Ok(()),
        }
    }
}
