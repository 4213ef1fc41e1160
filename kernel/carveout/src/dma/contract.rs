//! Contracts: a device's buffers, promised beforehand (I7). [`crate::cma::contract`] and docs/src/loans.md say what is
//! promised and why it holds.

use crate::addr::{FRAME_SIZE, PhysAddr};
use crate::cma::area::{AllocError, PlanError, Wanted, shape};
use crate::cma::contract::{ContractError, ContractSet, ContractSlot, PlacedSet, SlotId};
use crate::cma::extent::Extent;
use crate::cpu::relax;
use crate::dma::buffer::{Coherent, Contiguous};
use crate::dma::exec::Books;
use crate::dma::master::{AreaId, Master};
use crate::dma::records::{BufferSlot, Entry, Kept, MOST_RECORDS};
use crate::dma::registry::{Book, Dma, NOT_OURS, State};
use crate::events::{EventKind, note};
use crate::heap::room;
use crate::machine::Machine;
use crate::sync::Masked;
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
        let wanted = self.wanted(sets)?;
        self.declare(master, wanted)
    }

    /// Declares buffers as [`contract`](Self::contract) does, each at a place that is chosen already. What a tool such
    /// as `carveout-plan` places is so promised as it was placed. Sets of contracts that never exist at one time may
    /// have places in common: one contract ends, its buffers are freed, and the next is declared.
    ///
    /// ```
    /// use carveout::addr::PhysAddr;
    /// use carveout::dma::{ContractError, PlacedSet};
    /// use carveout::setup::{CARVED, Setup};
    ///
    /// let setup = Setup::new(1); // an area of 4 MiB
    /// let camera = setup.master("camera");
    /// let [first, second] = [CARVED, PhysAddr::new(CARVED.raw() + (1 << 20))];
    /// let preview = [PlacedSet { bytes: 1 << 20, align: 1, at: &[first, second] }];
    /// let contract = setup.dma.contract_at(&camera, &preview).expect("both places are free");
    ///
    /// // Somebody else cannot have them, until the contract ends.
    /// let still = [PlacedSet { bytes: 2 << 20, align: 1, at: &[first] }];
    /// let refused = setup.dma.contract_at(&camera, &still).unwrap_err();
    /// assert!(matches!(refused, ContractError::Place { at, .. } if at == first));
    /// drop(contract);
    /// assert!(setup.dma.contract_at(&camera, &still).is_ok());
    /// ```
    ///
    /// # Errors
    ///
    /// [`ContractError::Place`] if a buffer cannot have its place. The others are as for
    /// [`contract`](Self::contract).
    pub fn contract_at(&'static self, master: &Master, sets: &[PlacedSet<'_>]) -> Result<Contract<M>, ContractError> {
        let mut plain: Vec<ContractSet> =
            room(sets.len()).map_err(|_| ContractError::Heap { wanted: sets.len() as u64 })?;
        plain.extend(sets.iter().map(PlacedSet::set));
        let mut wanted = self.wanted(&plain)?;
        let places = sets.iter().flat_map(|placed| placed.at.iter().map(move |&at| (placed, at)));
        for (slot, (placed, at)) in wanted.iter_mut().zip(places) {
            if !at.is_aligned(FRAME_SIZE) {
                return Err(ContractError::Place { set: placed.set(), at });
            }
            slot.0.at = Some(at.raw() / FRAME_SIZE);
        }
        self.declare(master, wanted)
    }

    /// Returns a slot to be planned for each buffer, in the order of the sets.
    fn wanted(&self, sets: &[ContractSet]) -> Result<Vec<(Wanted, ContractSet)>, ContractError> {
        if sets.is_empty() || sets.iter().any(|set| set.count == 0) {
            return Err(ContractError::NoBuffers);
        }
        let declared: u64 = sets.iter().map(|set| u64::from(set.count)).sum();
        let limit = MOST_RECORDS as u32;
        let mut wanted: Vec<(Wanted, ContractSet)> = Vec::new();
        for &set in sets {
            let (frames, order) =
                shape(set.bytes, set.align).map_err(|error| ContractError::Set { set, placed: 0, error })?;
            if declared > limit.into() {
                let free = self.state.lock().records.available() as u32;
                return Err(ContractError::Records { wanted: declared, free, limit });
            }
            wanted.try_reserve(set.count as usize).map_err(|_| ContractError::Heap { wanted: declared })?;
            wanted.extend((0..set.count).map(|_| (Wanted { frames, order, at: None }, set)));
        }
        Ok(wanted)
    }

    /// Plans these slots and takes them, all or none.
    fn declare(
        &'static self,
        master: &Master,
        mut wanted: Vec<(Wanted, ContractSet)>,
    ) -> Result<Contract<M>, ContractError> {
        let refuse = |set: ContractSet, placed: u32| move |error| ContractError::Set { set, placed, error };
        let (declared, limit) = (wanted.len() as u64, MOST_RECORDS as u32);
        let no_records = |free: usize| ContractError::Records { wanted: declared, free: free as u32, limit };
        let full = |_| ContractError::Heap { wanted: declared };
        // The stable sort would take memory.
        wanted.sort_unstable_by_key(|(slot, _)| core::cmp::Reverse((slot.frames, slot.order)));
        let mut shapes: Vec<Wanted> = room(wanted.len()).map_err(full)?;
        shapes.extend(wanted.iter().map(|&(slot, _)| slot));
        let first = wanted[0].1;
        let area = master.area().map_err(refuse(first, 0))?;

        // While this core has the turn, nobody zeroes or moves frames that could be a slot's.
        let turn = self.work.wait();
        self.empty_shelves();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if declared > state.records.available() as u64 {
            return Err(no_records(state.records.available()));
        }
        let memory = state.area_mut(area).ok_or(NOT_OURS).map_err(refuse(first, 0))?;
        let planned = memory.plan(&shapes, |run| master.places(run)).map_err(|error| match error {
            PlanError::Heap => ContractError::Heap { wanted: declared },
            PlanError::Slot(n, error) => refuse(wanted[n].1, n as u32)(error.within(|| master.limits())),
            PlanError::Place(n) => {
                let (slot, set) = wanted[n];
                ContractError::Place { set, at: PhysAddr::new(slot.at.unwrap_or(0) * FRAME_SIZE) }
            }
        })?;
        memory.prepare_slots().map_err(full)?;
        state.records.provide(planned.len()).map_err(full)?;
        state.contracts.try_reserve(1).map_err(full)?;
        let mut records = room(planned.len()).map_err(full)?;
        records.extend(planned.iter().filter_map(|_| {
            let record = state.records.take()?;
            record.entry = Entry::Promised;
            record.body.as_deref().map(|body| body.slot)
        }));
        let slots = planned.iter().zip(&records).map(|(&extent, &record)| ContractSlot { extent, record });
        let book = match Book::new(shapes.iter().map(|slot| slot.order).zip(slots)) {
            Ok(book) => book,
            Err(error) => {
                records.into_iter().rev().for_each(|slot| state.records.give_back(slot));
                return Err(full(error));
            }
        };
        let moves = state.areas[area.0].take_planned(&planned);
        for &extent in &planned {
            self.evict_from(state, extent.frames());
        }
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
        note(EventKind::Contract, master.number(), 0, (0, planned.len() as u32));
        Ok(Contract { dma: self, area, number, master: master.clone() })
    }
}

/// A slot that an allocation got.
#[derive(Clone, Copy)]
struct Taken {
    slot: BufferSlot,
    extent: Extent,
    id: SlotId,
    /// Whether loans in it are to be moved.
    moves: bool,
}

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
        let (mut books, taken) = self.choose(bytes, align)?;
        Ok(self.fresh(&mut books, taken, bytes))
    }

    /// Allocates as [`alloc`](Self::alloc) does, zeroes the buffer and maps it non-cacheable.
    ///
    /// # Errors
    ///
    /// As [`alloc`](Self::alloc).
    pub fn alloc_coherent(&self, bytes: u32, align: u32) -> Result<Coherent<M>, AllocError> {
        let (mut books, taken) = self.choose(bytes, align)?;
        let state = books.state();
        if state.reuse_slot(taken.slot) {
            let kept = Kept::new(taken.extent, self.master.name(), self.area, Some(taken.id));
            state.records.get_mut(taken.slot).entry = Entry::Used(kept);
            return Ok(self.dma.reused(&mut books, taken.slot, &self.master, bytes, None));
        }
        Ok(self.fresh(&mut books, taken, bytes).coherent_in(&mut books))
    }

    /// Takes an idle slot, in a turn of the lock that the books have.
    fn choose(&self, bytes: u32, align: u32) -> Result<(Books<'static, M>, Taken), AllocError> {
        let wanted = shape(bytes, align)?;
        let mut books = Books::locked(self.dma);
        let taken = if let Some(taken) = self.take(books.state(), wanted)? {
            taken
        } else {
            books.unlock();
            self.once_closed(|state| self.take(state, wanted).transpose())?
        };
        Ok((books, taken))
    }

    /// Makes a buffer of a slot that was taken.
    fn fresh(&self, books: &mut Books<'static, M>, taken: Taken, bytes: u32) -> Contiguous<M> {
        let Taken { slot, extent, id, moves } = taken;
        let state = books.state();
        self.dma.evict_slot(state, slot);
        let place = state.ledger.place(extent.frames()).expect("a slot's frames, of one run");
        let residue = state.ledger.residue_at(place);
        let record = state.records.get_mut(slot);
        record.entry = Entry::Used(Kept::new(extent, self.master.name(), self.area, Some(id)));
        let body = record.body.take().expect("an idle slot's record has its body");
        body.begin(place, bytes, self.area, None);
        self.dma.hand_out(books, body, &self.master, residue, moves);
        Contiguous::new(self.dma, body)
    }

    /// Takes an idle slot for a buffer of this shape, (frames, order). Returns `None` if other cores copy to or from a
    /// lent page in each idle slot.
    #[inline]
    fn take(&self, state: &mut State, wanted: (u32, u8)) -> Result<Option<Taken>, AllocError> {
        let memory = &mut state.areas[self.area.0];
        let found = state.contracts[self.number].take(self.number, wanted, |frames| memory.slot_cost(frames))?;
        let Some((id, ContractSlot { extent, record: slot })) = found else { return Ok(None) };
        let moves = memory.take_slot(extent);
        Ok(Some(Taken { slot, extent, id, moves }))
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
        let (memory, book) = (&state.areas[self.area.0], &state.contracts[self.number]);
        if book.idle().any(|frames| memory.slot_cost(frames).is_none()) {
            return false;
        }
        self.dma.evict_slots_of(state, self.number);
        let State { areas, contracts, records, .. } = state;
        let (memory, book) = (&mut areas[self.area.0], &mut contracts[self.number]);
        for ContractSlot { extent, record: slot } in book.end() {
            memory.end_slot(extent);
            records.give_back(slot);
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
