//! What the DMA API tells: who holds what, what lies at an address, and counters.
//!
//! Guarantees: what a fault report asks never waits ([`Dma::place_of`], [`Dma::place_of_frame`],
//! [`Dma::next_quarantined`]); no lock is held over the writing of a table.

use crate::addr::{Bytes, FRAME_SHIFT, Frame, VirtAddr};
use crate::dma::master::Master;
use crate::dma::registry::{Dma, Entry, MAX_BUFFERS, Record, Slot, Stats};
use crate::machine::Machine;
use crate::vm::ledger::Carved;
use core::fmt;
use core::sync::atomic::Ordering;

/// What lies at an address in or near the carved memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a buffer's frames or addresses.
    Buffer(Record),
    /// The guard page after a buffer.
    Guard(Record),
    /// A frame of an area, lent to a borrower of that name.
    Lent(Frame, &'static str),
    /// A frame of an area that no buffer holds and nobody borrows.
    FreeFrame(Frame),
    /// An address of the window that no buffer has.
    UnusedWindow,
    /// Not to be told: another context holds the records.
    Busy,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buffer(record) => write!(f, "{record}"),
            Self::Guard(record) => write!(f, "guard page of the {record}"),
            Self::Lent(frame, borrower) => write!(f, "carved frame {}, lent to {borrower}", frame.base()),
            Self::FreeFrame(frame) => write!(f, "free carved frame {}", frame.base()),
            Self::UnusedWindow => write!(f, "unused part of the CMA window"),
            Self::Busy => write!(f, "the CMA (its records are locked)"),
        }
    }
}

impl<M: Machine> Dma<M> {
    /// Counters since boot.
    pub fn stats(&self) -> Stats {
        let counters = &self.counters;
        let (map_changes, allocations, unguarded) = {
            let state = self.state.lock();
            (state.map_changes, state.allocations, state.unguarded)
        };
        Stats {
            cleaned: counters.cleaned.get(),
            invalidated: counters.invalidated.get(),
            map_changes,
            quarantined: counters.quarantined.load(Ordering::Relaxed),
            allocations,
            zeroed: counters.zeroed.load(Ordering::Relaxed),
            unguarded,
            worst_wait: self.work.worst_wait(),
        }
    }

    /// Who holds what, as a table with a line a buffer.
    pub const fn holders(&self) -> Holders<'_, M> {
        Holders { dma: self, owner: None }
    }

    /// Says that a device goes away: whatever it was given and not yet gave back is a leak, and the table of it the
    /// error.
    pub fn retire(&self, master: &Master) -> Result<(), Holders<'_, M>> {
        let none = self.state.lock().buffers().all(|(_, kept)| kept.owner != master.name());
        if none { Ok(()) } else { Err(Holders { dma: self, owner: Some(master.name()) }) }
    }

    /// Returns a buffer that was dropped while a device may still use it, each once, in no particular order. It is lost
    /// until reset. Ask in the idle loop or wherever a line is printed, until there is none.
    ///
    /// Never waits, so a fault report may ask too: while another context has the records there is none, and a later
    /// call returns it. Where no buffer was lost, no lock is looked at.
    pub fn next_quarantined(&self) -> Option<Record> {
        if self.counters.untold.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut state = self.state.try_lock()?;
        let slot = state.buffers().find(|(_, kept)| kept.untold).map(|(slot, _)| slot)?;
        self.counters.untold.fetch_sub(1, Ordering::Relaxed);
        let kept = state.kept_mut(slot);
        kept.untold = false;
        Some(self.record(slot, kept))
    }

    /// What lies at an address of the window, for a fault report. Never waits.
    pub fn place_of(&self, va: VirtAddr) -> Place {
        let Some(state) = self.state.try_lock() else { return Place::Busy };
        let page = va.raw() >> FRAME_SHIFT;
        let mut place = Place::UnusedWindow;
        for (slot, kept) in state.buffers() {
            let Some(va) = kept.va else { continue };
            let first = va.raw() >> FRAME_SHIFT;
            let end = first + kept.frames.count();
            if (first..end).contains(&page) {
                return Place::Buffer(self.record(slot, kept));
            }
            // Another buffer's, where a guard was given up.
            if page == end {
                place = Place::Guard(self.record(slot, kept));
            }
        }
        place
    }

    /// What lies at a frame; `None` if it is not carved. Never waits.
    pub fn place_of_frame(&self, frame: Frame) -> Option<Place> {
        let Some(state) = self.state.try_lock() else { return Some(Place::Busy) };
        state.ledger.state(frame)?;
        if let Some((slot, kept)) = state.buffers().find(|(_, kept)| kept.frames.contains(frame)) {
            return Some(Place::Buffer(self.record(slot, kept)));
        }
        let borrower = state.areas.iter().find_map(|area| area.borrower_of(frame));
        Some(borrower.map_or(Place::FreeFrame(frame), |borrower| Place::Lent(frame, borrower)))
    }

    /// How a carved frame is mapped now; `None` if it is not carved.
    pub fn state_of(&self, frame: Frame) -> Option<Carved> {
        self.state.lock().ledger.state(frame)
    }
}

/// A table of buffers: device, bytes, who may touch it, age, frames. Displaying it takes the lock once for each record
/// there can be, never over the writing: a buffer that comes or goes meanwhile may be in it or not.
pub struct Holders<'d, M: 'static> {
    dma: &'d Dma<M>,
    owner: Option<&'static str>,
}

impl<M> Holders<'_, M> {
    /// Calls `each` with every buffer of the table, in no particular order. The lock is not held meanwhile.
    pub fn for_each(&self, mut each: impl FnMut(&Record)) {
        for slot in 0..MAX_BUFFERS {
            let record = match &self.dma.state.lock().entries[slot] {
                Entry::Used(kept) => self.dma.record(Slot(slot), kept),
                Entry::Free { .. } | Entry::Promised => continue,
            };
            if self.owner.is_none_or(|owner| record.owner == owner) {
                each(&record);
            }
        }
    }
}

impl<M> fmt::Debug for Holders<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<M> fmt::Display for Holders<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.dma.state.lock().allocations;
        let (mut result, mut count, mut bytes) = (Ok(()), 0, 0);
        writeln!(f, "{:<12} {:>10} {:<12} {:>6}  frames", "device", "bytes", "state", "age")?;
        self.for_each(|record| {
            let Record { frames, owner, holder, bytes: wanted, born, .. } = record;
            count += 1;
            bytes += frames.bytes();
            let age = now - born;
            if result.is_ok() {
                result = writeln!(f, "{owner:<12} {wanted:>10} {holder:<12} {age:>6}  {frames}");
            }
        });
        result?;
        write!(f, "{count} buffers, {}", Bytes(bytes))
    }
}
