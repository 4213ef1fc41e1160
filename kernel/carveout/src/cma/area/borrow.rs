//! Loans' frames: which of the area's frames a borrower gets, and where its pages go when a device wants them.
//!
//! Guarantees: what the reserve keeps is not lent. A page that must move always has a frame to go to (I6), and a frame
//! of a contract slot is lent for that slot's contract to take back.

use super::Area;
use super::run::{AreaRun, free_in};
use crate::addr::FrameRange;
use crate::cma::extent::Extent;
use crate::cma::index::Index;
use crate::cma::loan::{Batch, Candidate, LendError, Lending, Loan, LoanError, Runs};
use crate::events::{EventKind, note_frames};

/// Returns the extent of frames that loans' books name by their numbers alone.
fn extent_of(runs: &[AreaRun], frames: FrameRange) -> Extent {
    let run = runs.iter().position(|run| run.frames.covers(frames)).expect("frames of this area");
    Extent::new(run, frames)
}

impl Area {
    /// Returns whether a borrower may be added, and the area's runs if it has no books yet.
    pub(crate) fn may_lend(&self) -> Result<Option<Runs>, LendError> {
        match &self.lending {
            _ if !self.is_lendable() => Err(LendError::NotLendable),
            Some(lending) if lending.is_full() => Err(LendError::TooManyBorrowers),
            Some(_) => Ok(None),
            None => Ok(Some(self.ranges().collect())),
        }
    }

    /// Adds a borrower that was made for what [`may_lend`](Self::may_lend) returned. Returns its number.
    pub(crate) fn admit(&mut self, candidate: &mut Candidate) -> Result<usize, LendError> {
        let runs = &mut self.runs;
        let lending = self.lending.get_or_insert_with(|| {
            let mut lending = candidate.take_lending().expect("made with the first borrower");
            let free = runs.iter_mut().flat_map(|run| run.idle.runs());
            let idle = free.filter_map(|free| FrameRange::between(free.start, free.end));
            // Frames that are being zeroed stay held until they are zeroed.
            idle.for_each(|frames| lending.occupancy.set_held(frames, false));
            lending
        });
        lending.admit(candidate)
    }

    #[cfg(test)]
    pub(super) fn register(
        &mut self,
        name: &str,
        kind: crate::cma::loan::PageKind,
        pages: u32,
        priority: crate::cma::loan::LoanPriority,
    ) -> Result<usize, LendError> {
        let mut candidate = Candidate::new(name.into(), kind, pages, priority, self.may_lend()?)?;
        self.admit(&mut candidate)
    }

    /// Returns the books of the loans, if there is a borrower.
    pub(crate) const fn lending(&self) -> Option<&Lending> {
        self.lending.as_ref()
    }

    pub(crate) const fn lending_mut(&mut self) -> Option<&mut Lending> {
        self.lending.as_mut()
    }

    /// Returns the number of frames neither held by a buffer nor lent.
    pub(crate) fn unlent(&self) -> u32 {
        let spare = |run: &AreaRun| run.spare.as_ref().map_or(0, Index::free_units);
        self.idle_frames() + self.runs.iter().map(spare).sum::<u32>()
    }

    /// Returns how many of those are kept from borrowers.
    pub(crate) fn reserved(&self) -> u32 {
        self.reserve.stock.min(self.idle_frames())
    }

    /// Lends up to `count` frames: first idle ones but for the reserve, then those of idle contract slots, then the
    /// refuge's. `cached` says of frames whether the caches may hold lines of them.
    pub(crate) fn borrow(
        &mut self,
        borrower: usize,
        count: u32,
        mut cached: impl FnMut(FrameRange) -> bool,
    ) -> Result<Loan, LendError> {
        let lending = self.lending.as_mut().ok_or(LendError::NoArea)?;
        let pages = lending.begin(borrower, count)?;
        let wanted = pages.end - pages.start;
        let mut got = 0;
        let idle: u32 = self.runs.iter().map(|run| run.idle.free_units()).sum();
        let zeroing = self.reserve.zeroing.map_or(0, |extent| extent.frames().count());
        let mut idle = idle.saturating_sub(self.reserve.stock.saturating_sub(zeroing));
        for contracted in [false, true] {
            for run in self.runs.iter_mut().filter(|run| !contracted || run.spare.is_some()) {
                let index = run.index_mut(contracted);
                while got < wanted {
                    let mut count = (wanted - got).min(index.largest_run());
                    if !contracted {
                        count = count.min(idle);
                    }
                    let Some(start) = index.alloc(count, 0, 0..u32::MAX) else { break };
                    if !contracted {
                        idle -= count;
                    }
                    let frames = FrameRange::new(start, count).expect("inside the area");
                    lending.lend(borrower, pages.start + got, frames, cached(frames));
                    note_frames(EventKind::Loan, borrower as u32, 0, frames);
                    got += count;
                }
            }
        }
        while got < wanted && lending.lend_refuge(borrower, pages.start + got) {
            got += 1;
        }
        lending.finish(borrower, pages, got)
    }

    /// Ends a loan. Returns `None`, and changes nothing, if a page of it is moving.
    pub(crate) fn give_loan_back(&mut self, borrower: usize, loan: Loan) -> Result<Option<()>, LoanError> {
        let lending = self.lending.as_mut().ok_or(LoanError::Stale)?;
        let runs = &mut self.runs;
        lending.give_back(borrower, loan, |frames, contracted| {
            note_frames(EventKind::GiveBack, borrower as u32, 0, frames);
            let extent = extent_of(runs, frames);
            free_in(runs, extent, contracted);
        })
    }

    /// Returns the next pages of `window` to be moved, with frames for them: idle ones, those of an idle contract slot,
    /// or the refuge's, which is never full (I6).
    pub(crate) fn next_batch(&mut self, window: FrameRange) -> Option<Batch> {
        let lending = self.lending.as_mut()?;
        let from = lending.next_moving(window)?;
        let to = [false, true].into_iter().find_map(|contracted| {
            self.runs.iter_mut().filter(|run| !contracted || run.spare.is_some()).find_map(|run| {
                let index = run.index_mut(contracted);
                let count = from.count().min(index.largest_run());
                FrameRange::new(index.alloc(count, 0, 0..u32::MAX)?, count)
            })
        });
        Some(lending.batch(from, to))
    }

    /// Returns a page in contract memory that is to leave it, and its frame of the refuge. Returns `None` if the page
    /// has left meanwhile, or is about to. Until [`evicted`](Self::evicted) nobody can take its slot.
    pub(crate) fn evict(&mut self, frame: FrameRange) -> Option<Batch> {
        let lending = self.lending.as_mut()?;
        lending.begin_move(frame).then(|| lending.batch(frame, None))
    }

    /// Makes an evicted page's old frame idle again, for its slot.
    pub(crate) fn evicted(&mut self, frame: FrameRange) {
        let Some(lending) = &mut self.lending else { return };
        lending.end_move(frame);
        let extent = extent_of(&self.runs, frame);
        free_in(&mut self.runs, extent, lending.occupancy.is_held(frame.start()));
    }
}
