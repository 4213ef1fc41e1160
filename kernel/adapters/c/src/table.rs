//! Tables of what C names by numbers: pools, contracts, leases.
//!
//! Guarantees: a number names one value, until that is taken out. No other value gets that number before 2^32 others
//! had its place. So a number that was used up is refused.

use crate::failure::Refusal;
use alloc::vec::Vec;
use carveout::sync::{Lock, Rank};

/// The place of the tables' locks: before that of the module itself, which is called under them.
const RANK: Rank = Rank::new(3);

/// A fixed number of places for values.
pub(crate) struct Table<T> {
    /// What the values are, in refusals.
    what: &'static str,
    /// Never more or fewer than it was made with.
    slots: Lock<Vec<Slot<T>>>,
}

struct Slot<T> {
    /// How many values had this place.
    births: u32,
    value: Option<T>,
}

impl<T> Table<T> {
    /// Returns the bytes of heap that so many places take, in one block.
    pub(crate) const fn heap_bytes(places: usize) -> usize {
        places * size_of::<Slot<T>>()
    }

    /// Makes a table of so many places, whose slots are written where they stay: many kernels have little stack.
    pub(crate) fn new(what: &'static str, places: usize) -> Result<Self, Refusal> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(places).map_err(|_| Refusal::Heap(what))?;
        slots.resize_with(places, || Slot { births: 0, value: None });
        Ok(Self { what, slots: Lock::new(RANK, slots) })
    }

    /// Keeps a value. Returns its number, which is never 0.
    pub(crate) fn keep(&self, value: T) -> Result<u64, (Refusal, T)> {
        let mut slots = self.slots.lock();
        let limit = slots.len();
        let Some((place, slot)) = slots.iter_mut().enumerate().find(|(_, slot)| slot.value.is_none()) else {
            return Err((Refusal::Full { what: self.what, limit }, value));
        };
        slot.births = slot.births.wrapping_add(1);
        slot.value = Some(value);
        Ok(number(slot.births, place))
    }

    /// Takes a value out if `may` permits it.
    pub(crate) fn take(&self, id: u64, may: impl FnOnce(&T) -> Result<(), Refusal>) -> Result<T, Refusal> {
        let mut slots = self.slots.lock();
        let slot = named(&mut slots, id).ok_or(Refusal::Gone(self.what))?;
        may(slot.value.as_ref().ok_or(Refusal::Gone(self.what))?)?;
        slot.value.take().ok_or(Refusal::Gone(self.what))
    }

    /// Does something with a value. Interrupts are masked meanwhile.
    pub(crate) fn with<R>(&self, id: u64, work: impl FnOnce(&mut T) -> Result<R, Refusal>) -> Result<R, Refusal> {
        let mut slots = self.slots.lock();
        let value = named(&mut slots, id).and_then(|slot| slot.value.as_mut());
        work(value.ok_or(Refusal::Gone(self.what))?)
    }
}

/// Returns the number of the value that was born as this in its place.
pub(crate) const fn number(births: u32, place: usize) -> u64 {
    (births as u64) << 32 | (place as u64 + 1)
}

/// Returns the births and the place of a number.
pub(crate) const fn births_and_place(id: u64) -> (u32, Option<usize>) {
    ((id >> 32) as u32, (id as u32 as usize).checked_sub(1))
}

/// Returns the slot whose value has this number now.
fn named<T>(slots: &mut [Slot<T>], id: u64) -> Option<&mut Slot<T>> {
    let (births, place) = births_and_place(id);
    slots.get_mut(place?).filter(|slot| slot.births == births)
}
