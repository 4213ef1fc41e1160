//! Contracts: a device's buffers, promised up front (I7). What is promised and why it holds stands in
//! [`crate::cma::contract`] and docs/loans.md.
//!
//! ```
//! use carveout::arch::fake::setup::Setup;
//! use carveout::cma::contract::Set;
//!
//! let setup = Setup::new(1);                            // an area of 4 MiB
//! let camera = setup.master("camera");
//! let ring = [Set { count: 3, bytes: 640 * 480 * 2, align: 1 }];
//! let contract = setup.dma.contract(&camera, &ring).expect("room for three frames");
//!
//! // Whatever anybody else takes, the camera gets its buffers.
//! let other = setup.master("gpu");
//! let hogs: Vec<_> = core::iter::from_fn(|| setup.dma.alloc(&other, 4096, 1).ok()).collect();
//! let frames: Vec<_> = (0..3).map(|_| contract.alloc(640 * 480 * 2).unwrap()).collect();
//! assert_eq!(
//!     contract.alloc(640 * 480 * 2).unwrap_err().to_string(),
//!     "no room for 600 KiB: all 3 that the contract declares are allocated",
//! );
//! # drop((hogs, frames));
//! ```

use crate::arch::Machine;
use crate::cma::area::{AllocError, shape};
use crate::cma::contract::{self, ContractError, Set};
use crate::dma::buffer::Contiguous;
use crate::dma::master::{AreaId, Master};
use crate::dma::{Dma, Entry, Holder, Kept, MAX_BUFFERS, Slot, State};
use alloc::vec::Vec;
use core::fmt;
use core::hint::spin_loop;

/// A slot has its buffer's record for good.
pub(super) type Book = contract::Book<Slot>;

/// The promise that a set of buffers can be allocated. Dropping it ends the promise; buffers of it live on.
pub struct Contract<M: Machine + 'static> {
    dma: &'static Dma<M>,
    area: AreaId,
    number: usize,
    master: Master,
}

impl<M: Machine> fmt::Debug for Contract<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contract").field("master", &self.master.name()).finish_non_exhaustive()
    }
}

impl<M: Machine> Dma<M> {
    /// Declares buffers that `master` must always get, whatever else happens. All sets are promised or none: each buffer
    /// gets its place now, the largest first, and loans are recalled to make room. Takes books from the heap.
    pub fn contract(&'static self, master: &Master, sets: &[Set]) -> Result<Contract<M>, ContractError> {
        if sets.is_empty() || sets.iter().any(|set| set.count == 0) {
            return Err(ContractError::NoBuffers);
        }
        let refuse = |set: Set, placed: u32| move |error| ContractError::Set { set, placed, error };
        let declared: u64 = sets.iter().map(|set| u64::from(set.count)).sum();
        let limit = MAX_BUFFERS as u32;
        let no_records = |free: u32| ContractError::Records { wanted: declared, free, limit };
        let mut wanted: Vec<(u32, u8, Set)> = Vec::new();
        for &set in sets {
            let (frames, order) = shape(set.bytes, set.align).map_err(refuse(set, 0))?;
            if declared > limit.into() {
                return Err(no_records(self.state.lock().free_records()));
            }
            wanted.extend((0..set.count).map(|_| (frames, order, set)));
        }
        wanted.sort_by_key(|&(frames, order, _)| core::cmp::Reverse((frames, order)));
        let shapes: Vec<(u32, u8)> = wanted.iter().map(|&(frames, order, _)| (frames, order)).collect();
        let first = wanted[0].2;
        let area = master.area().map_err(refuse(first, 0))?;

        let mut guard = self.lock_once_settled(area);
        let state = &mut *guard;
        let free = state.free_records();
        if declared > free.into() {
            return Err(no_records(free));
        }
        let Some(memory) = state.areas.get_mut(area.0) else { return Err(refuse(first, 0)(AllocError::NoArea(None))) };
        let planned = memory
            .plan(&shapes, |run| master.places(run))
            .map_err(|(n, error)| refuse(wanted[n].2, n as u32)(error.within(|| master.limits())))?;
        let records: Vec<Slot> = wanted.iter().filter_map(|_| state.take_entry()).collect();
        let moves = state.areas[area.0].take_planned(&planned);
        drop(guard);
        if moves {
            for &frames in &planned {
                self.move_out(area, frames);
            }
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        for &frames in &planned {
            state.areas[area.0].give_slot_back(frames);
        }
        let slots = planned.into_iter().zip(records).map(|(frames, place)| contract::Slot { frames, place });
        let book = Book::new(slots);
        let number = state.contracts.iter().position(Book::is_over).unwrap_or(state.contracts.len());
        match state.contracts.get_mut(number) {
            Some(over) => *over = book,
            None => state.contracts.push(book),
        }
        Ok(Contract { dma: self, area, number, master: master.clone() })
    }
}

impl State {
    /// Records that no buffer and no contract has.
    fn free_records(&self) -> u32 {
        self.entries.iter().filter(|entry| matches!(entry, Entry::Free { .. })).count() as u32
    }

    /// A record for a contract's slot.
    fn take_entry(&mut self) -> Option<Slot> {
        let slot = self.free?;
        if let Entry::Free { next } = core::mem::replace(&mut self.entries[slot.0], Entry::Promised) {
            self.free = next;
        }
        Some(slot)
    }
}

impl<M: Machine> Contract<M> {
    /// Allocates a buffer that the contract declares: of the smallest size declared for at least `bytes`. Fails only if
    /// all buffers of that size are allocated, or `bytes` is 0 or more than any.
    pub fn alloc(&self, bytes: u32) -> Result<Contiguous<M>, AllocError> {
        if bytes == 0 {
            return Err(AllocError::ZeroSize);
        }
        let dma = self.dma;
        loop {
            let mut guard = dma.state.lock();
            let state = &mut *guard;
            let memory = &mut state.areas[self.area.0];
            let found = state.contracts[self.number].take(self.number, bytes, |frames| memory.slot_cost(frames))?;
            let Some((id, contract::Slot { frames, place: slot })) = found else {
                // Another core copies to or from a lent page in each idle slot: it will not be long.
                drop(guard);
                spin_loop();
                continue;
            };
            let moves = memory.take_slot(frames);
            let residue = state.ledger.residue(frames);
            let (owner, born, area) = (self.master.name(), state.allocations, self.area);
            let kept =
                Kept { frames, va: None, owner, bytes, born, area, slot: Some(id), ported: false, untold: false };
            let body = state.occupy(slot, kept);
            dma.standings[slot.0].set(Holder::Nobody, residue);
            drop(guard);
            return Ok(dma.handed_out(slot, &self.master, area, body, residue, moves));
        }
    }
}

impl<M: Machine> Drop for Contract<M> {
    fn drop(&mut self) {
        loop {
            let mut guard = self.dma.state.lock();
            let state = &mut *guard;
            let (memory, book) = (&mut state.areas[self.area.0], &mut state.contracts[self.number]);
            if book.idle().any(|frames| memory.slot_cost(frames).is_none()) {
                // As in `alloc`.
                drop(guard);
                spin_loop();
                continue;
            }
            let slots: Vec<_> = book.end().collect();
            for contract::Slot { frames, place: slot } in slots {
                state.areas[self.area.0].end_slot(frames);
                state.free_entry(slot);
            }
            return;
        }
    }
}
