//! What idle time prepares: zeroed frames, and places for the next requests.
//!
//! Guarantees: frames are zeroed in memory, through a non-cacheable mapping in the work lane, after the lines of them
//! are dropped (I3, I5). The lock is not held meanwhile.

use crate::addr::FRAME_SHIFT;
use crate::cma::area::Area;
use crate::cma::reserve::REQUEST_KINDS;
use crate::dma::at_lane::AtLane;
use crate::dma::exec::Books;
use crate::dma::lanes::{LANE_PAGES, WORK};
use crate::dma::master::AreaId;
use crate::dma::registry::{Dma, State};
use crate::machine::Machine;
use crate::vm::ledger::Residue;

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
    /// The lock is held for at most 31 frames' bookkeeping at a time, for one search of the index, or for a look at the
    /// few runs that changed since the last. An allocation
    /// waits for the frames that another core has in hand here, if it finds no room without them.
    pub fn idle_work(&self, area: AreaId, frames: u32) -> u32 {
        let mut done = 0;
        while done < frames {
            let Some(turn) = self.work.try_take() else { return done };
            let mut books = Books::locked(self);
            let state = books.state();
            let most = (frames - done).min(LANE_PAGES - 1);
            let State { areas, warm, window, .. } = state;
            let memory = if area.1 == window.id() { areas.get_mut(area.0) } else { None };
            let taken = memory.and_then(|memory| memory.begin_zeroing(most, &warm.of(area)));
            let Some(extent) = taken else {
                if let frames @ 1.. = self.zero_warm(&mut books, area, most) {
                    done += frames;
                    continue;
                }
                let prepares = books.state().area_mut(area).is_some_and(|memory| memory.prepares());
                books.unlock();
                if prepares && let frames @ 1.. = self.zero_shelved(most) {
                    done += frames;
                    continue;
                }
                drop(turn);
                if let Some(memory) = self.state.lock().area_mut(area)
                    && memory.prepares()
                {
                    memory.carry();
                }
                // The number of turns is bounded, for others may change the index all the time.
                for _ in 0..REQUEST_KINDS {
                    if !self.state.lock().area_mut(area).is_some_and(Area::foresee) {
                        break;
                    }
                }
                while self.evict_unforeseen(&mut self.state.lock(), area) {}
                if let Some(memory) = self.state.lock().area_mut(area)
                    && memory.prepares()
                {
                    memory.settle();
                }
                return done;
            };
            let run = extent.frames();
            let residue = state.ledger.residue(run);
            if residue != Residue::Zeroed {
                AtLane::prepare(&mut books, (WORK, 0), run, residue);
            }
            books.state().areas[area.0].end_zeroing(extent);
            done += run.count();
        }
        done
    }
}
