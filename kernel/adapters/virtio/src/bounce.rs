//! The bounce buffer: coherent memory through which a device reaches bytes that lie elsewhere. It is Linux's swiotlb.
//!
//! Guarantees:
//!
//! - No two requests that are under way share a slot.
//! - The lock is held over updates of the list of slots, and never over copying. An update looks at each slot once at
//!   most.

use alloc::vec::Vec;
use carveout::addr::BusAddr;
use carveout::dma::{Coherent, Master};
use carveout::machine::Machine;
use carveout::name::Name;
use carveout::sync::{Lock, Rank};
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;

/// The bytes of a slot: a header of virtio has 16, a status 1.
pub(crate) const SLOT: usize = 64;

/// Which slots are taken.
#[derive(Debug)]
struct Slots {
    taken: Vec<bool>,
    /// Where the search begins: after the run that was taken last.
    next: usize,
}

impl Slots {
    /// Takes the first run of `count` free slots after the last one taken, or the first of all.
    fn take(&mut self, count: usize) -> Option<usize> {
        let first = self.fit(self.next, count).or_else(|| self.fit(0, count))?;
        self.taken[first..first + count].fill(true);
        self.next = first + count;
        Some(first)
    }

    /// Returns the first run of `count` free slots that begins at `from` or after.
    fn fit(&self, from: usize, count: usize) -> Option<usize> {
        let mut start = from;
        loop {
            let run = self.taken.get(start..start.checked_add(count)?)?;
            match run.iter().rposition(|&taken| taken) {
                None => return Some(start),
                // No run that begins at this slot or before it fits.
                Some(taken) => start += taken + 1,
            }
        }
    }

    /// Returns whether a run is taken, all of it.
    fn has(&self, run: Range<usize>) -> bool {
        self.taken.get(run).is_some_and(|run| run.iter().all(|&taken| taken))
    }

    fn free_bytes(&self) -> usize {
        self.taken.iter().filter(|&&taken| !taken).count() * SLOT
    }
}

/// The refusal of a request's bytes: no run of free slots holds them.
#[derive(Debug)]
pub(crate) struct BounceFull {
    owner: Name,
    bytes: usize,
    free: usize,
    all: usize,
}

impl fmt::Display for BounceFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, bytes, free, all } = self;
        write!(f, "bounce buffer of {owner}: no run for {bytes} bytes; {free} of its {all} are free")
    }
}

/// The bounce buffer of a device.
pub(crate) struct Bounce<M: Machine + 'static> {
    owner: Name,
    at: NonNull<u8>,
    bus: BusAddr,
    slots: Lock<Slots>,
    /// What `at` points into. It is locked only when a device may keep it.
    buffer: Lock<Coherent<M>>,
}

// SAFETY: an address is not an access. Bytes of a slot are accessed by whoever took it, which one core does (I4).
unsafe impl<M: Machine + Sync> Send for Bounce<M> {}
// SAFETY: as above.
unsafe impl<M: Machine + Sync> Sync for Bounce<M> {}

impl<M: Machine> Bounce<M> {
    /// Makes a bounce buffer of a coherent one of `master`'s. Returns `None` if the heap has no room for the list of
    /// slots.
    pub(crate) fn new(buffer: Coherent<M>, master: &Master) -> Option<Self> {
        let mut taken = Vec::new();
        taken.try_reserve_exact(buffer.len() / SLOT).ok()?;
        taken.resize(buffer.len() / SLOT, false);
        // The buffer's own `bus` would count as told. Nobody is told yet.
        let bus = master.bus(buffer.frames().base())?;
        let (at, slots) = (buffer.as_ptr(), Slots { taken, next: 0 });
        let (slots, buffer) = (Lock::new(Rank::DMA, slots), Lock::new(Rank::DMA, buffer));
        Some(Self { owner: master.name(), at, bus, slots, buffer })
    }

    /// Takes slots for a request's bytes and copies these there. Returns the bus address.
    ///
    /// # Safety
    ///
    /// `bytes` is valid for reads, and nobody writes it meanwhile.
    pub(crate) unsafe fn take(&self, bytes: NonNull<[u8]>) -> Result<BusAddr, BounceFull> {
        let count = bytes.len().div_ceil(SLOT);
        let mut slots = self.slots.lock();
        let Some(first) = slots.take(count) else {
            let (free, all) = (slots.free_bytes(), slots.taken.len() * SLOT);
            return Err(BounceFull { owner: self.owner, bytes: bytes.len(), free, all });
        };
        drop(slots);
        let offset = first * SLOT;
        let to = self.at.as_ptr().wrapping_add(offset);
        // SAFETY: `bytes` is valid, as this function demands. The slots are inside of the buffer, which is mapped while
        // this lives. They are this request's alone, and no device was told of them (I4).
        unsafe { to.copy_from_nonoverlapping(bytes.cast::<u8>().as_ptr(), bytes.len()) };
        Ok(BusAddr::new(self.bus.raw() + offset as u32))
    }

    /// Frees the slots of a request's bytes and, if `copy` says so, copies what they hold back first. Does nothing if
    /// they are not taken: the device was reset, and the request with it.
    ///
    /// # Safety
    ///
    /// [`take`](Self::take) gave `bus` for `bytes`, which is valid for writes, and nobody accesses it meanwhile. The
    /// device has finished with the request.
    pub(crate) unsafe fn give_back(&self, bus: u64, bytes: NonNull<[u8]>, copy: bool) {
        let Some(offset) = bus.checked_sub(self.bus.raw().into()) else { return };
        let first = offset as usize / SLOT;
        let run = first..first + bytes.len().div_ceil(SLOT);
        let is_taken = self.slots.lock().has(run.clone());
        if !is_taken {
            return;
        }
        if copy {
            let from = self.at.as_ptr().wrapping_add(first * SLOT);
            // SAFETY: as in `take`; the device has finished with the slots, as this function demands (I4).
            unsafe { bytes.cast::<u8>().as_ptr().copy_from_nonoverlapping(from, bytes.len()) };
        }
        self.slots.lock().taken[run].fill(false);
    }

    /// Frees all slots: the device was reset, and forgot them.
    pub(crate) fn forget_all(&self) {
        self.slots.lock().taken.fill(false);
    }

    /// Marks the memory as the device's, so that the drop puts it into quarantine.
    pub(crate) fn tell(&self) {
        let _ = self.buffer.lock().bus();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn slots(count: usize) -> Slots {
        Slots { taken: vec![false; count], next: 0 }
    }

    /// A search that looks at every place.
    fn naive(slots: &Slots, from: usize, count: usize) -> Option<usize> {
        (from..slots.taken.len())
            .find(|&at| slots.taken.get(at..at + count).is_some_and(|run| run.iter().all(|&taken| !taken)))
    }

    proptest! {
        #[test]
        fn runs_are_found_as_by_looking_everywhere(steps in prop::collection::vec((1usize..9, any::<u8>()), 0..200)) {
            let mut slots = slots(40);
            let mut held = Vec::new();
            for (count, pick) in steps {
                let wanted = naive(&slots, slots.next, count).or_else(|| naive(&slots, 0, count));
                let found = slots.take(count);
                prop_assert_eq!(found, wanted);
                held.extend(found.map(|first| first..first + count));
                if pick % 2 == 0 && !held.is_empty() {
                    let run = held.swap_remove(usize::from(pick) % held.len());
                    prop_assert!(slots.has(run.clone()));
                    slots.taken[run.clone()].fill(false);
                    prop_assert!(!slots.has(run), "freed twice");
                }
                let taken: usize = held.iter().map(ExactSizeIterator::len).sum();
                prop_assert_eq!(slots.free_bytes(), (40 - taken) * SLOT);
            }
        }
    }

    #[test]
    fn a_run_that_is_out_of_the_buffer_is_no_run() {
        let mut slots = slots(4);
        assert_eq!(slots.take(5), None);
        assert_eq!(slots.take(usize::MAX), None);
        assert_eq!(slots.take(4), Some(0));
        assert!(slots.has(0..4) && !slots.has(3..5));
    }
}
