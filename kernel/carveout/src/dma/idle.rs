//! What idle time prepares: zeroed frames, and places for the next requests.
//!
//! Guarantees: frames are zeroed in memory, through a non-cacheable mapping in the work lane, after the lines of them are
//! dropped (I3, I5). The lock is not held meanwhile.

use crate::addr::{FRAME_SHIFT, FrameRange};
use crate::cma::area::Area;
use crate::cma::reserve::REQUEST_KINDS;
use crate::dma::lanes::{LANE_PAGES, WORK};
use crate::dma::master::AreaId;
use crate::dma::registry::{Dma, State};
use crate::machine::Machine;
use crate::vm::attr::{Access, MemoryType};
use crate::vm::ledger::Residue;
use crate::vm::mapped::Mapped;

impl State {
    pub(super) fn map_lent<M: Machine>(
        &mut self,
        machine: &M,
        at: (u32, u32),
        frames: FrameRange,
        memory: MemoryType,
    ) -> Mapped {
        if memory == MemoryType::WriteBack {
            // This is noted before the mapping is made: lines may come as soon as it is.
            self.ledger.raise_residue(frames, Residue::Dirty);
        }
        self.ledger.claim(frames, memory).ok().expect("nobody maps a lent frame but who has it open");
        let va = self.lanes.va(at.0, at.1);
        // SAFETY: the ledger gave the frames to this mapping alone (I1).
        let mapped = unsafe { self.lanes.window.map(machine, va, frames, memory, Access::ReadWrite) };
        mapped.ok().expect("a lane's addresses are unmapped")
    }

    pub(super) fn unmap_lent<M: Machine>(&mut self, machine: &M, mapped: Mapped) {
        let frames = self.lanes.window.unmap(machine, mapped);
        self.ledger.release(frames);
    }
}

impl<M: Machine> Dma<M> {
    /// Keeps `bytes` of the area unlent, and has all that is idle prepared for the next allocations.
    /// [`idle_work`](Self::idle_work) does that work. With 0, the default, nothing is kept and nothing is prepared.
    pub fn set_reserve(&self, area: AreaId, bytes: u64) {
        if let Some(memory) = self.state.lock().area_mut(area) {
            memory.set_stock((bytes >> FRAME_SHIFT).try_into().unwrap_or(u32::MAX));
        }
    }

    /// Prepares up to `frames` frames that became idle: drops their lines and zeroes those that are not zeroed yet.
    /// Returns how many it went through. If fewer are idle than the reserve is to be, it recalls discardable loans and
    /// prepares their frames too. Last it finds places for the kinds of request that were made lately. The idle loop
    /// calls it until it returns 0. It does so once all is prepared, and also while another core does this work, or
    /// recalls, or waits to recall.
    ///
    /// The lock is held for at most 31 frames' bookkeeping at a time, or for one search of the index. An allocation
    /// waits for the frames that another core has in hand here, if it finds no room without them.
    pub fn idle_work(&self, area: AreaId, frames: u32) -> u32 {
        let mut done = 0;
        while done < frames {
            let Some(turn) = self.work.try_take() else { return done };
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let most = (frames - done).min(LANE_PAGES - 1);
            let taken = state.area_mut(area).and_then(|memory| memory.begin_zeroing(most));
            let Some(extent) = taken else {
                drop(guard);
                drop(turn);
                // The number of turns is bounded, for others may change the index all the time.
                for _ in 0..REQUEST_KINDS {
                    if !self.state.lock().area_mut(area).is_some_and(Area::foresee) {
                        break;
                    }
                }
                return done;
            };
            let run = extent.frames();
            if state.ledger.residue(run) != Residue::Zeroed {
                let mapped = state.map_lent(self.machine, (WORK, 0), run, MemoryType::NonCacheable);
                drop(guard);
                self.zero(&mapped);
                guard = self.state.lock();
                guard.unmap_lent(self.machine, mapped);
                guard.ledger.set_residue(run, Residue::Zeroed);
            }
            guard.areas[area.0].end_zeroing(extent);
            done += run.count();
        }
        done
    }

    /// Drops what the caches hold of a non-cacheable mapping's frames, and fills the frames with zeros, in memory.
    fn zero(&self, mapped: &Mapped) {
        let part = |run: FrameRange| {
            let start = (run.start() - mapped.frames().start()) << FRAME_SHIFT;
            mapped.part(start, start + (run.count() << FRAME_SHIFT)).expect("a part of it")
        };
        self.for_each_residue(mapped.frames(), |run, residue| {
            if residue > Residue::Nothing {
                self.counters.invalidated.add(self.machine.discard(part(run)));
            }
        });
        let start = self.machine.reach(mapped.va());
        self.for_each_residue(mapped.frames(), |run, residue| {
            if residue != Residue::Zeroed {
                let first = start.wrapping_add(((run.start() - mapped.frames().start()) << FRAME_SHIFT) as usize);
                // SAFETY: the part is mapped, writable, and its frames are nobody else's.
                unsafe { self.machine.zero(first, run.bytes() as usize) };
            }
        });
        // Whoever gets the frames needs no barrier for what was done here.
        self.machine.device_barrier();
    }
}
