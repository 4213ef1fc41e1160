//! Contracts: a device's buffers, promised beforehand (I7). [`crate::cma::contract`] and docs/src/loans.md say what is
//! promised and why it holds.

use crate::cma::area::{AllocError, PlanError, shape};
use crate::cma::contract::{ContractError, ContractSet, ContractSlot};
use crate::cpu::relax;
use crate::dma::body::Body;
use crate::dma::buffer::Contiguous;
use crate::dma::master::{AreaId, Master};
use crate::dma::registry::{Book, BufferSlot, Dma, Entry, Kept, MAX_BUFFERS, NOT_OURS, State};
use crate::heap::room;
use crate::holder::Holder;
use crate::machine::Machine;
use crate::sync::Masked;
use crate::vm::ledger::Residue;
use alloc::vec::Vec;
use core::fmt;

/// The promise that sets of buffers can be allocated. Dropping it ends the promise. Buffers that were allocated by it
/// live on.
///
/// ```
/// use carveout::dma::ContractSet;
/// use carveout::setup::Setup;
///
/// let setup = Setup::new(1); // an area of 4 MiB
/// let ring = [ContractSet { count: 3, bytes: 640 * 480 * 2, align: 1 }];
/// let contract = setup.dma.contract(&setup.master("camera"), &ring).expect("room for three frames");
///
/// // Whatever anybody else takes, the camera gets its buffers.
/// let other = setup.master("gpu");
/// let hogs: Vec<_> = core::iter::from_fn(|| setup.dma.alloc(&other, 4096, 1).ok()).collect();
/// let frames: Vec<_> = (0..3).map(|_| contract.alloc(640 * 480 * 2, 1).unwrap()).collect();
/// assert_eq!(
///     contract.alloc(640 * 480 * 2, 1).unwrap_err().to_string(),
///     "no room for 600 KiB: all 3 that the contract declares are allocated",
/// );
/// # drop((hogs, frames));
/// ```
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
    /// Declares buffers that `master` must always get, whatever else happens (I7). All sets are promised or none. Each
    /// buffer gets its place now, the largest first. Loans are recalled to make room.
    ///
    /// This takes memory for the contract's books from the heap, under the lock.
    ///
    /// # Errors
    ///
    /// [`ContractError::NoBuffers`] if there are no sets or a set is of no buffers. [`ContractError::Set`] if a set has
    /// no place, with the reason. [`ContractError::Records`] if there are too few buffer records.
    /// [`ContractError::Heap`] if the heap has no room for the books. No buffer, loan or contract changes then. Books
    /// that had grown stay as large as they are.
    pub fn contract(&'static self, master: &Master, sets: &[ContractSet]) -> Result<Contract<M>, ContractError> {
        if sets.is_empty() || sets.iter().any(|set| set.count == 0) {
            return Err(ContractError::NoBuffers);
        }
        let refuse = |set: ContractSet, placed: u32| move |error| ContractError::Set { set, placed, error };
        let declared: u64 = sets.iter().map(|set| u64::from(set.count)).sum();
        let limit = MAX_BUFFERS as u32;
        let no_records = |free: u32| ContractError::Records { wanted: declared, free, limit };
        let full = |_| ContractError::Heap { wanted: declared };
        let mut wanted: Vec<(u32, u8, ContractSet)> = Vec::new();
        for &set in sets {
            let (frames, order) = shape(set.bytes, set.align).map_err(refuse(set, 0))?;
            if declared > limit.into() {
                return Err(no_records(self.state.lock().free_records()));
            }
            wanted.try_reserve(set.count as usize).map_err(full)?;
            wanted.extend((0..set.count).map(|_| (frames, order, set)));
        }
        // The stable sort would take memory.
        wanted.sort_unstable_by_key(|&(frames, order, _)| core::cmp::Reverse((frames, order)));
        let mut shapes: Vec<(u32, u8)> = room(wanted.len()).map_err(full)?;
        shapes.extend(wanted.iter().map(|&(frames, order, _)| (frames, order)));
        let first = wanted[0].2;
        let area = master.area().map_err(refuse(first, 0))?;

        // While this core has the turn, nobody zeroes or moves frames that could be a slot's.
        let turn = self.work.wait();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let free = state.free_records();
        if declared > free.into() {
            return Err(no_records(free));
        }
        let memory = state.area_mut(area).ok_or(NOT_OURS).map_err(refuse(first, 0))?;
        let planned = memory.plan(&shapes, |run| master.places(run)).map_err(|error| match error {
            PlanError::Heap => ContractError::Heap { wanted: declared },
            PlanError::Slot(n, error) => refuse(wanted[n].2, n as u32)(error.within(|| master.limits())),
        })?;
        memory.prepare_slots().map_err(full)?;
        state.contracts.try_reserve(1).map_err(full)?;
        let mut records = room(planned.len()).map_err(full)?;
        records.extend(planned.iter().filter_map(|_| state.take_entry()));
        let slots = planned.iter().zip(&records).map(|(&extent, &record)| ContractSlot { extent, record });
        let book = match Book::new(shapes.iter().map(|shape| shape.1).zip(slots)) {
            Ok(book) => book,
            Err(error) => {
                records.into_iter().rev().for_each(|slot| state.free_entry(slot));
                return Err(full(error));
            }
        };
        let moves = state.areas[area.0].take_planned(&planned);
        let number = state.contracts.iter().position(Book::is_over).unwrap_or(state.contracts.len());
        match state.contracts.get_mut(number) {
            Some(over) => *over = book,
            None => state.contracts.push(book),
        }
        drop(guard);
        drop(turn);
        if moves {
            for extent in &planned {
                self.move_out(area, extent.frames());
            }
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        for &extent in &planned {
            state.areas[area.0].give_slot_back(extent);
        }
        Ok(Contract { dma: self, area, number, master: master.clone() })
    }
}

impl State {
    /// Returns how many records no buffer and no contract has.
    fn free_records(&self) -> u32 {
        self.entries.iter().filter(|entry| matches!(entry, Entry::Free { .. })).count() as u32
    }

    /// Takes a record for a contract's slot.
    fn take_entry(&mut self) -> Option<BufferSlot> {
        let slot = self.free?;
        if let Entry::Free { next } = core::mem::replace(&mut self.entries[slot.0], Entry::Promised) {
            self.free = next;
        }
        Some(slot)
    }
}

/// What an allocation got: the record, the buffer's body, what the caches may hold, and whether loans are to be moved.
type Taken = (BufferSlot, &'static mut Body, Residue, bool);

impl<M: Machine> Contract<M> {
    /// Allocates a buffer that the contract declares. It takes the smallest declared size that is at least `bytes` at
    /// `align` or more. Of equal sizes it takes the least alignment. `bytes` and `align` are as for [`Dma::alloc`].
    ///
    /// # Errors
    ///
    /// [`AllocError::ContractExceeded`] if all buffers of that size and alignment are allocated.
    /// [`AllocError::NotDeclared`] if the contract declares no buffer as large at that alignment.
    /// [`AllocError::ZeroSize`] and [`AllocError::Alignment`] if the request itself is wrong. There is no other refusal
    /// (I7).
    pub fn alloc(&self, bytes: u32, align: u32) -> Result<Contiguous<M>, AllocError> {
        let wanted = shape(bytes, align)?;
        let taken = self.take(&mut self.dma.state.lock(), bytes, wanted);
        let (slot, body, residue, moves) = match taken {
            Ok(None) => self.once_closed(|state| self.take(state, bytes, wanted).transpose())?,
            Ok(Some(taken)) => taken,
            Err(error) => return Err(error),
        };
        Ok(self.dma.handed_out(slot, &self.master, self.area, body, residue, moves))
    }

    /// Takes an idle slot for a buffer of this shape, (frames, order). Returns `None` if other cores copy to or from a
    /// lent page in each idle slot.
    #[inline]
    fn take(&self, state: &mut State, bytes: u32, wanted: (u32, u8)) -> Result<Option<Taken>, AllocError> {
        let memory = &mut state.areas[self.area.0];
        let found = state.contracts[self.number].take(self.number, wanted, |frames| memory.slot_cost(frames))?;
        let Some((id, ContractSlot { extent, record: slot })) = found else { return Ok(None) };
        let moves = memory.take_slot(extent);
        let residue = state.ledger.residue(extent.frames());
        let (owner, born, area) = (self.master.name(), state.allocations, self.area);
        let kept = Kept { extent, va: None, owner, bytes, born, area, slot: Some(id), ported: false, untold: false };
        let body = state.occupy(slot, kept);
        self.dma.standings[slot.0].set(Holder::Nobody, residue);
        Ok(Some((slot, body, residue, moves)))
    }

    /// Waits for copies to or from lent pages in idle slots until `attempt` gives something. The copies are bounded,
    /// and none begins meanwhile, so this waits only for those under way. Interrupts are masked, for others wait for
    /// this core.
    #[cold]
    fn once_closed<R>(&self, mut attempt: impl FnMut(&mut State) -> Option<R>) -> R {
        let _masked = Masked::new();
        self.dma.state.lock().areas[self.area.0].await_slots(true);
        loop {
            let mut state = self.dma.state.lock();
            if let Some(result) = attempt(&mut state) {
                state.areas[self.area.0].await_slots(false);
                return result;
            }
            drop(state);
            relax();
        }
    }

    /// Ends the promise. Returns `false`, and changes nothing, if other cores copy to or from a lent page in an idle
    /// slot.
    fn end(&self, state: &mut State) -> bool {
        let State { areas, contracts, entries, free, .. } = state;
        let (memory, book) = (&mut areas[self.area.0], &mut contracts[self.number]);
        if book.idle().any(|frames| memory.slot_cost(frames).is_none()) {
            return false;
        }
        for ContractSlot { extent, record: slot } in book.end() {
            memory.end_slot(extent);
            entries[slot.0] = Entry::Free { next: free.replace(slot) };
        }
        true
    }
}

impl<M: Machine> Drop for Contract<M> {
    fn drop(&mut self) {
        let ended = self.end(&mut self.dma.state.lock());
        if !ended {
            self.once_closed(|state| self.end(state).then_some(()));
        }
    }
}
