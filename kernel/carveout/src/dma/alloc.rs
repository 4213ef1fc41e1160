//! Allocation: from a master's request to frames that are its own.

use crate::cma::area::{AllocError, Taken};
use crate::dma::body::Body;
use crate::dma::buffer::Contiguous;
use crate::dma::master::{AreaId, Master};
use crate::dma::registry::{BufferSlot, Dma, Entry, Kept, MAX_BUFFERS, NOT_OURS};
use crate::holder::Holder;
use crate::machine::Machine;
use crate::vm::ledger::Residue;

impl<M: Machine> Dma<M> {
    /// Allocates `bytes`, rounded up to whole frames and physically contiguous. They come from the device's area,
    /// within the device's reach and shape. `align` is a power of two in bytes, at most
    /// [`MAX_ALIGN`](super::MAX_ALIGN); 1 means a frame. The address that the device is told is a multiple of it. The
    /// physical address is a multiple too, unless the device's `dma-ranges` shift memory by part of `align`. Places for
    /// such a device are searched run by run.
    ///
    /// If too little is idle, loans are recalled. That takes a bounded time (docs/src/loans.md) and never fails (I6).
    ///
    /// # Errors
    ///
    /// [`AllocError::ZeroSize`] and [`AllocError::Alignment`] if the request itself is wrong. [`AllocError::NoArea`] if
    /// the device has no area, or one of another `Dma`. [`AllocError::NoCapacity`], [`AllocError::Fragmented`],
    /// [`AllocError::OutOfReach`] and [`AllocError::Open`] if there is no such run, with the figures.
    /// [`AllocError::TooManyBuffers`] if all records are in use.
    pub fn alloc(&'static self, master: &Master, bytes: u32, align: u32) -> Result<Contiguous<M>, AllocError> {
        // It is dropped after the guard.
        let mut turn = None;
        let mut guard = self.state.lock();
        let area = master.area()?;
        let (slot, taken) = loop {
            let state = &mut *guard;
            let Some(slot) = state.free else { return Err(AllocError::TooManyBuffers { limit: MAX_BUFFERS }) };
            let Some(memory) = state.area_mut(area) else { return Err(NOT_OURS) };
            match memory.alloc(bytes, align, |run| master.places(run)) {
                // While this core has the turn, nobody has frames in hand. So this is tried once more.
                Err(error) if error.is_of_room() && memory.has_in_hand() => {
                    drop(guard);
                    turn = Some(self.work.wait());
                    guard = self.state.lock();
                }
                Err(error) => return Err(error.within(|| master.limits())),
                Ok(taken) => break (slot, taken),
            }
        };
        let state = &mut *guard;
        let Taken { extent, moves, .. } = taken;
        let frames = extent.frames();
        let residue = if taken.zeroed { Residue::Zeroed } else { state.ledger.residue(frames) };
        let Entry::Free { next } = state.entries[slot.0] else { unreachable!("the free list holds free entries") };
        state.free = next;
        let owner = master.name();
        let born = state.allocations;
        let kept = Kept { extent, va: None, owner, bytes, born, area, slot: None, ported: false, untold: false };
        let body = state.occupy(slot, kept);
        self.standings[slot.0].set(Holder::Nobody, residue);
        drop(guard);
        drop(turn);
        Ok(self.handed_out(slot, master, area, body, residue, moves))
    }

    /// Makes a buffer whose record exists, once what was lent of its frames has moved away.
    pub(super) fn handed_out(
        &'static self,
        slot: BufferSlot,
        master: &Master,
        area: AreaId,
        body: &'static mut Body,
        mut residue: Residue,
        moves: bool,
    ) -> Contiguous<M> {
        if moves {
            self.move_out(area, body.frames());
            // Reading the pages left lines behind.
            residue = self.state.lock().ledger.residue(body.frames());
        }
        Contiguous::new(self, slot, master, body, residue)
    }
}
