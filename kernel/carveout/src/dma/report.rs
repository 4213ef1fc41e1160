//! Reports of the DMA API: who holds what, what lies at an address, and counters.
//!
//! Guarantees: the calls that a fault report makes never wait ([`Dma::place_of`], [`Dma::place_of_frame`],
//! [`Dma::next_quarantined`]). No lock is held while a table is written.

use crate::addr::{Bytes, FRAME_SHIFT, Frame, VirtAddr};
use crate::dma::master::Master;
use crate::dma::records::{BufferSlot, Entry};
use crate::dma::registry::{BufferRecord, Dma, DmaStats};
use crate::machine::Machine;
use crate::name::Name;
use crate::vm::ledger::Carved;
use core::fmt;
use core::sync::atomic::Ordering;

/// What lies at an address in or near the carved memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultPlace {
    /// The frames or addresses of a buffer.
    Buffer(BufferRecord),
    /// The guard page after a buffer.
    Guard(BufferRecord),
    /// A frame of an area, lent to a borrower of that name.
    Lent(Frame, Name),
    /// A frame of an area that no buffer holds and nobody borrows, or its address while it stays mapped for the next
    /// buffer.
    FreeFrame(Frame),
    /// An address of the window that no buffer has.
    UnusedWindow,
    /// It is not known: another context holds the records.
    Busy,
}

impl fmt::Display for FaultPlace {
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
    /// Returns what was counted since boot.
    pub fn stats(&self) -> DmaStats {
        let counters = &self.counters;
        let (map_changes, unguarded, warm, reused, evicted) = {
            let state = self.state.lock();
            let warm = &state.warm;
            (state.map_changes, state.unguarded, warm.count(), warm.reused, warm.evicted)
        };
        DmaStats {
            cleaned: counters.cleaned.get(),
            invalidated: counters.invalidated.get(),
            flushes: counters.flushes.load(Ordering::Relaxed),
            map_changes,
            quarantined: counters.quarantined.load(Ordering::Relaxed),
            allocations: counters.allocations.load(Ordering::Relaxed),
            zeroed: counters.zeroed.load(Ordering::Relaxed),
            unguarded,
            worst_wait: self.work.worst_wait(),
            warm,
            reused,
            served: self.shelves.served(),
            shelved: self.shelves.frames(),
            evicted,
        }
    }

    /// Returns a table that says who holds what, with a line for each buffer.
    pub const fn holders(&self) -> Holders<'_, M> {
        Holders { dma: self, owner: None }
    }

    /// Checks that a device which goes away has given back everything.
    ///
    /// # Errors
    ///
    /// A table of the buffers that it still has: they are leaks.
    pub fn retire(&self, master: &Master) -> Result<(), Holders<'_, M>> {
        let none = self.state.lock().buffers().all(|(.., kept)| kept.owner != master.name());
        if none { Ok(()) } else { Err(Holders { dma: self, owner: Some(master.name()) }) }
    }

    /// Returns a buffer that was dropped while a device may still use it. Each such buffer is returned once, in no
    /// particular order. It is lost until reset. Ask in the idle loop, or wherever a line is printed, until there is
    /// none.
    ///
    /// This never waits, so a fault report may ask too. While another context has the records it returns `None`, and a
    /// later call returns the buffer. If no buffer was lost, it looks at no lock.
    pub fn next_quarantined(&self) -> Option<BufferRecord> {
        if self.counters.untold.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut state = self.state.try_lock()?;
        let (slot, record) =
            state.buffers().find(|(.., kept)| kept.untold).map(|(slot, record, kept)| (slot, record.of(kept)))?;
        self.counters.untold.fetch_sub(1, Ordering::Relaxed);
        state.kept_mut(slot).untold = false;
        Some(record)
    }

    /// Returns what lies at an address of the window, for a fault report. This never waits.
    pub fn place_of(&self, va: VirtAddr) -> FaultPlace {
        let Some(state) = self.state.try_lock() else { return FaultPlace::Busy };
        let page = va.raw() >> FRAME_SHIFT;
        let mut place = state.warm_frame_at(va).map_or(FaultPlace::UnusedWindow, FaultPlace::FreeFrame);
        for (_, record, kept) in state.buffers() {
            let Some(va) = record.standing.va() else { continue };
            let first = va.raw() >> FRAME_SHIFT;
            let end = first + kept.extent.frames().count();
            if (first..end).contains(&page) {
                return FaultPlace::Buffer(record.of(kept));
            }
            // It is another buffer's page if a guard was given up.
            if page == end {
                place = FaultPlace::Guard(record.of(kept));
            }
        }
        place
    }

    /// Returns what lies at a frame, or `None` if it is not carved. This never waits.
    pub fn place_of_frame(&self, frame: Frame) -> Option<FaultPlace> {
        let Some(state) = self.state.try_lock() else { return Some(FaultPlace::Busy) };
        state.ledger.state(frame)?;
        if let Some((_, record, kept)) = state.buffers().find(|(.., kept)| kept.extent.frames().contains(frame)) {
            return Some(FaultPlace::Buffer(record.of(kept)));
        }
        let borrower = state.areas.iter().find_map(|area| area.borrower_of(frame));
        Some(borrower.map_or(FaultPlace::FreeFrame(frame), |borrower| FaultPlace::Lent(frame, borrower)))
    }

    /// Returns how a carved frame is mapped now, or `None` if it is not carved.
    pub fn state_of(&self, frame: Frame) -> Option<Carved> {
        self.state.lock().ledger.state(frame)
    }
}

/// A table of buffers: device, bytes, who may access it, age, frames. Displaying it takes the lock once for each
/// possible record, and never while it writes. A buffer that comes or goes meanwhile may be in it or not.
pub struct Holders<'d, M: 'static> {
    dma: &'d Dma<M>,
    owner: Option<Name>,
}

impl<M> Holders<'_, M> {
    /// Calls `each` with every buffer of the table, in no particular order. The lock is not held during a call.
    pub fn for_each(&self, mut each: impl FnMut(&BufferRecord)) {
        for slot in 0.. {
            let record = {
                let state = self.dma.state.lock();
                let Some(record) = state.records.at(BufferSlot(slot)) else { break };
                match &record.entry {
                    Entry::Used(kept) if !record.standing.is_spare() => record.of(kept),
                    _ => continue,
                }
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
        let now = self.dma.counters.allocations.load(Ordering::Relaxed);
        let (mut result, mut count, mut bytes) = (Ok(()), 0, 0);
        writeln!(f, "{:<12} {:>10} {:<12} {:>6}  frames", "device", "bytes", "state", "age")?;
        self.for_each(|record| {
            let BufferRecord { frames, owner, holder, bytes: wanted, born, .. } = record;
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
