//! The records of buffers: what the books know of each, in lists that grow with the buffers that there are.
//!
//! Guarantees: a record stays at its place once it is there, and so does a buffer's body, which is with its value or in
//! its record, never both. What is not used costs little: a list of records is taken from the heap when few are left of
//! those before it. An allocation takes it while it holds no lock: whoever has a lock of the heap's may be stopped by a
//! handler that waits for ours.

use crate::cma::contract::SlotId;
use crate::cma::extent::Extent;
pub(super) use crate::dma::body::BufferSlot;
use crate::dma::body::{Body, LAST};
use crate::dma::buffer::direction::DataDirection;
use crate::dma::handle::BufferState;
use crate::dma::master::AreaId;
use crate::dma::standing::Standing;
use crate::heap::{lasting, room};
use crate::name::Name;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;

/// Records of each list but the first.
const LIST: usize = 64;
/// The most records.
pub(super) const MOST_RECORDS: usize = LAST as usize;
/// Where fewer are free than these, a call that may use the heap takes a further list. So handlers find some.
const FEW: usize = 8;

/// The part of a buffer's record that the lock protects.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) extent: Extent,
    pub(super) owner: Name,
    pub(super) area: AreaId,
    /// The contract's slot that it is in, if it is in one.
    pub(super) slot: Option<SlotId>,
    pub(super) ported: bool,
    /// Whether it is in quarantine and nobody was told yet.
    pub(super) untold: bool,
    /// What it was put away as, while it is put away under its handle.
    pub(super) put_away: Option<PutAway>,
}

impl Kept {
    /// Makes the record of a buffer that nothing was done with yet.
    #[inline]
    pub(super) fn new(extent: Extent, owner: Name, area: AreaId, slot: Option<SlotId>) -> Self {
        Self { extent, owner, area, slot, ported: false, untold: false, put_away: None }
    }
}

/// What a buffer was put away as. Its record has its body meanwhile.
#[derive(Debug)]
pub(super) struct PutAway {
    pub(super) state: BufferState,
    /// Of a stream.
    pub(super) direction: Option<DataDirection>,
    /// The place of the next one in its chain, or [`LAST`].
    pub(super) next: u16,
}

/// What a record is of.
#[derive(Debug)]
pub(super) enum Entry {
    /// No buffer.
    Free { next: Option<BufferSlot> },
    /// An idle contract slot.
    Promised,
    /// A buffer, or one that nobody has ([`Standing::is_spare`]).
    Used(Kept),
}

/// A record.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) entry: Entry,
    pub(super) standing: &'static Standing,
    /// The body, while no value has it.
    pub(super) body: Option<&'static mut Body>,
}

/// A list of records.
#[derive(Debug)]
pub(super) struct RecordList(&'static mut [Record]);

impl RecordList {
    /// The bytes that a record takes in each block of its list.
    pub(super) const RECORD: [usize; 3] = [size_of::<Record>(), size_of::<Body>(), size_of::<Standing>()];

    /// Takes a list of so many records from the heap.
    #[cold]
    #[inline(never)]
    fn make(count: usize) -> Result<Self, TryReserveError> {
        let (mut records, mut bodies, mut standings) = (room(count)?, room(count)?, room(count)?);
        standings.extend((0..count).map(|_| Standing::new()));
        let standings: &'static [Standing] = Vec::leak(standings);
        bodies.extend(standings.iter().map(Body::vacant));
        let record = |(n, body): (usize, &'static mut Body)| Record {
            entry: Entry::Free { next: None },
            standing: &standings[n],
            body: Some(body),
        };
        records.extend(Vec::leak(bodies).iter_mut().enumerate().map(record));
        Ok(Self(records.leak()))
    }

    /// Takes a list from the heap that [`Records::add`] adds.
    pub(super) fn further() -> Result<Self, TryReserveError> {
        Self::make(LIST)
    }
}

/// The records of all buffers.
#[derive(Debug)]
pub(super) struct Records {
    lists: Vec<RecordList>,
    /// The records of the first list, and the most of all lists.
    first: usize,
    most: usize,
    free: Option<BufferSlot>,
    /// The records that there are, and those of them that are free.
    count: usize,
    left: usize,
    /// The first of each chain of buffers that are put away ([`handles`](super::handles)), or [`LAST`].
    pub(super) chains: &'static mut [u16],
}

/// Carved frames for each chain of buffers that are put away. So a chain has as many buffers at most, on average.
const CHAIN_FRAMES: u32 = 16;

impl Records {
    /// Returns the most records, and the most lists of them, for so many carved frames and a first list of so many. A
    /// buffer has a frame at least.
    const fn most(first: usize, frames: u32) -> (usize, usize) {
        // One more than buffers can be: so a request beyond them is told that no frame is left.
        let enough = if (frames as usize) < MOST_RECORDS { frames as usize + 1 } else { MOST_RECORDS };
        let further = enough.saturating_sub(first);
        (first + further, 1 + further.div_ceil(LIST))
    }

    /// Returns the bytes that the list of lists takes.
    pub(super) const fn lists(first: usize, frames: u32) -> usize {
        Self::most(first, frames).1 * size_of::<RecordList>()
    }

    /// Returns the number of chains for so many carved frames, a power of two.
    pub(super) const fn chains(frames: u32) -> usize {
        frames.div_ceil(CHAIN_FRAMES).next_power_of_two() as usize
    }

    /// Makes the first list, of so many records, and the chains for so many carved frames.
    pub(super) fn new(first: usize, frames: u32) -> Result<Self, TryReserveError> {
        let chains = lasting(Self::chains(frames), |_| LAST)?;
        let (most, lists) = Self::most(first, frames);
        let lists = room(lists)?;
        let mut records = Self { lists, first, most, free: None, count: 0, left: 0, chains };
        records.add(RecordList::make(first)?);
        Ok(records)
    }

    /// Takes further lists from the heap until `wanted` records are free, or as many as there may be.
    #[cold]
    #[inline(never)]
    pub(super) fn provide(&mut self, wanted: usize) -> Result<(), TryReserveError> {
        while self.left < wanted && self.count < self.most {
            self.add(RecordList::further()?);
        }
        Ok(())
    }

    /// Adds a list, of which the first records are used that there may still be. There is room for it in the list of
    /// lists.
    #[cold]
    pub(super) fn add(&mut self, RecordList(list): RecordList) {
        let (list, _) = list.split_at_mut(list.len().min(self.most - self.count));
        for (n, record) in list.iter_mut().enumerate().rev() {
            let next = self.free.replace(BufferSlot(self.count + n));
            record.entry = Entry::Free { next };
            if let Some(body) = &mut record.body {
                body.slot = BufferSlot(self.count + n);
            }
        }
        if !list.is_empty() {
            self.count += list.len();
            self.left += list.len();
            self.lists.push(RecordList(list));
        }
    }

    /// Returns whether enough records are free that a buffer can have one, and none need be added.
    #[inline]
    pub(super) const fn are_enough(&self) -> bool {
        self.left >= FEW
    }

    /// Returns whether so few records are free that more should be taken.
    #[inline]
    pub(super) const fn are_few(&self) -> bool {
        self.left < FEW && self.count < self.most
    }

    /// Returns the number of records that are free or can be taken.
    pub(super) const fn available(&self) -> usize {
        self.left + (MOST_RECORDS - self.count)
    }

    /// Returns the number of records that there are.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Returns the number of its list, and its place there.
    #[inline]
    const fn split(&self, slot: BufferSlot) -> (usize, usize) {
        match slot.0.checked_sub(self.first) {
            None => (0, slot.0),
            Some(number) => (1 + number / LIST, number % LIST),
        }
    }

    /// Returns the record of this place, or `None` if there is none.
    pub(super) fn at(&self, slot: BufferSlot) -> Option<&Record> {
        let (list, place) = self.split(slot);
        self.lists.get(list)?.0.get(place)
    }

    /// Returns whether a record is free.
    #[inline]
    pub(super) const fn any_free(&self) -> bool {
        self.free.is_some()
    }

    #[inline]
    pub(super) fn get(&self, slot: BufferSlot) -> &Record {
        let (list, place) = self.split(slot);
        &self.lists[list].0[place]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: BufferSlot) -> &mut Record {
        let (list, place) = self.split(slot);
        &mut self.lists[list].0[place]
    }

    /// Takes a free record, if there is one. The caller writes its entry.
    #[inline]
    pub(super) fn take(&mut self) -> Option<&mut Record> {
        let slot = self.free?;
        let (list, place) = self.split(slot);
        let record = &mut self.lists[list].0[place];
        let Entry::Free { next } = record.entry else { unreachable!("the free list holds free records") };
        self.free = next;
        self.left -= 1;
        Some(record)
    }

    /// Frees a record, which has its body.
    #[inline]
    pub(super) fn give_back(&mut self, slot: BufferSlot) {
        let next = self.free.replace(slot);
        self.left += 1;
        self.get_mut(slot).entry = Entry::Free { next };
    }

    /// Yields the records of buffers that somebody has, or a device may have.
    pub(super) fn buffers(&self) -> impl Iterator<Item = (BufferSlot, &Record, &Kept)> {
        let records = self.lists.iter().flat_map(|list| list.0.iter()).enumerate();
        records.filter_map(|(n, record)| match &record.entry {
            Entry::Used(kept) if !record.standing.is_spare() => Some((BufferSlot(n), record, kept)),
            _ => None,
        })
    }
}
