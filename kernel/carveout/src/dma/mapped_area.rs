//! Late carve-out of an area whose mappings this crate ends itself, in the kernel's own tables.
//!
//! Guarantees: each descriptor that translates to frames of the area is looked at before one is written. If one of them
//! translates to anything else, the area is refused, and no table has changed. What follows is
//! [`Dma::take_area`], so all that it guarantees holds.

use crate::addr::{PhysAddr, VirtAddr};
use crate::dma::late::TakeError;
use crate::dma::master::AreaId;
use crate::dma::registry::Dma;
use crate::machine::Machine;
use crate::vm::absence::{Tables, Uneven, erase, find_uneven};
use core::fmt;

/// A mapping of the kernel's that is of more than the area, so that this crate cannot end it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WiderMapping {
    /// The first address of the mapping.
    pub va: VirtAddr,
    /// The bytes that one descriptor maps there.
    pub bytes: u32,
}

impl fmt::Display for WiderMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { va, bytes } = self;
        write!(
            f,
            "one descriptor maps {} KiB at {va}, and they are not all of its range; split that, or give whole sections",
            bytes >> 10
        )
    }
}

impl core::error::Error for WiderMapping {}

impl From<Uneven> for TakeError<WiderMapping> {
    fn from(uneven: Uneven) -> Self {
        match uneven {
            Uneven::Wider { va, bytes } => Self::Unmap(WiderMapping { va, bytes }),
            Uneven::UnknownTable { at } => Self::UnknownTable { at },
        }
    }
}

impl<M: Machine> Dma<M> {
    /// Takes an area from the kernel as [`take_area`](Self::take_area) does, and ends the kernel's mappings of it
    /// itself: it writes fault descriptors over all that translate to its frames, in this core's tables and in `roots`.
    /// A mapping must be of one range of the area alone, or the area is refused.
    ///
    /// ```
    /// use carveout::setup::{DIRECT, Setup};
    ///
    /// let setup = Setup::new(1);
    /// let (dma, camera) = (setup.dma, setup.master("camera"));
    /// let area = dma.area("test").unwrap();
    /// dma.give_back_area(area)?;
    /// setup.kernel_maps(carveout::addr::FrameRange::within(0x6020_0000, 4 << 20)); // it is the kernel's RAM
    ///
    /// // SAFETY: this kernel uses none of it from here on (I2).
    /// unsafe { dma.take_mapped_area(area, &[]) }.unwrap();
    /// assert!(dma.alloc(&camera, 4096, 1).is_ok());
    /// # Ok::<(), carveout::dma::GiveBackError>(())
    /// ```
    ///
    /// # Safety
    ///
    /// As for [`take_area`](Self::take_area), from the call on: nothing of the kernel is in these frames, and nobody
    /// uses a mapping of them. What this finds in the tables it ends, so that mappings may be there. Nobody else writes
    /// the kernel's tables meanwhile. The kernel does not write descriptors of these frames from elsewhere, such as
    /// from a copy that it keeps of its tables.
    ///
    /// # Errors
    ///
    /// [`TakeError`]. With [`TakeError::Unmap`] no table has changed.
    pub unsafe fn take_mapped_area(&self, area: AreaId, roots: &[PhysAddr]) -> Result<(), TakeError<WiderMapping>> {
        let (runs, aliases) = {
            let mut state = self.state.lock();
            let runs = state.area_mut(area).ok_or(TakeError::NoArea)?.runs();
            (runs, state.ledger.aliases().clone())
        };
        let tables = Tables { mmu: self.machine, roots, aliases: &aliases };
        // Also if it is not the kernel's: then nothing maps it, and it is refused below.
        runs.iter().try_for_each(|&run| find_uneven(&tables, run))?;
        let unmap = |run| {
            // SAFETY: nobody uses the mappings or writes the tables, as this function demands.
            match unsafe { erase(&tables, run) } {
                Err(Uneven::Wider { va, bytes }) => Err(WiderMapping { va, bytes }),
                // What stands in an unknown table, `take_area` finds again.
                Ok(()) | Err(Uneven::UnknownTable { .. }) => Ok(()),
            }
        };
        // SAFETY: nothing of the kernel is there, and what maps it ends, as this function demands (I2).
        unsafe { self.take_area(area, roots, unmap) }
    }
}
