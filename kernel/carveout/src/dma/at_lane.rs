//! Frames of an area that are mapped at a lane, as the executor takes them.
//!
//! Guarantees: they are mapped at their lane alone, claimed in the ledger like any other frames (I1), and by the steps
//! of the protocol's rows ([`exec`](crate::dma::exec)).

use crate::addr::FrameRange;
use crate::dma::exec::{Books, Done, Subject, run};
use crate::dma::registry::Dma;
use crate::machine::Machine;
use crate::protocol::{Knowledge, Transition};
use crate::vm::attr::MemoryType;
use crate::vm::ledger::{LedgerPlace, Residue};
use crate::vm::mapped::Mapped;
use core::convert::Infallible;

/// Frames of an area at a lane: the pages of a borrower while they are open, or frames that idle time prepares.
pub(super) struct AtLane<'b, 'd, M: Machine + 'static> {
    books: &'b mut Books<'d, M>,
    /// The lane, and the page of the lane where the frames begin.
    at: (u32, u32),
    place: LedgerPlace,
    mapped: Option<Mapped>,
    knows: Knowledge,
    /// Whether each frame may have another residue, which the ledger has.
    in_ledger: bool,
}

/// Returns where the ledger has frames of an area.
#[inline]
fn place_of<M>(books: &mut Books<'_, M>, frames: FrameRange) -> LedgerPlace {
    books.state().ledger.place(frames).expect("frames of an area, of one run")
}

impl<'b, 'd, M: Machine> AtLane<'b, 'd, M> {
    /// Takes a borrower's pages. No step of their rows asks what the caches may hold of them.
    #[cfg(feature = "loans")]
    fn pages(books: &'b mut Books<'d, M>, at: (u32, u32), frames: FrameRange, mapped: Option<Mapped>) -> Self {
        let place = place_of(books, frames);
        let knows = Knowledge { mapped: mapped.is_some(), ..Knowledge::new(Residue::Dirty) };
        Self { books, at, place, mapped, knows, in_ledger: false }
    }

    /// Opens a borrower's pages by a transition whose row maps them. Returns the mapping.
    #[cfg(feature = "loans")]
    #[inline]
    pub(super) fn open(books: &'b mut Books<'d, M>, at: (u32, u32), frames: FrameRange, by: Transition) -> Mapped {
        let mut pages = Self::pages(books, at, frames, None);
        let Ok(()) = run(&mut pages, by);
        pages.mapped.expect("its row maps them")
    }

    /// Closes a borrower's pages.
    #[cfg(feature = "loans")]
    #[inline]
    pub(super) fn close(books: &'b mut Books<'d, M>, at: (u32, u32), mapped: Mapped) {
        let frames = mapped.frames();
        let Ok(()) = run(&mut Self::pages(books, at, frames, Some(mapped)), Transition::ClosePage);
    }

    /// Prepares frames that are nobody's: drops their lines and zeroes them. `most` is the largest residue among them.
    #[inline]
    pub(super) fn prepare(books: &'b mut Books<'d, M>, at: (u32, u32), frames: FrameRange, most: Residue) {
        let (knows, place) = (Knowledge::new(most), place_of(books, frames));
        let Ok(()) = run(&mut Self { books, at, place, mapped: None, knows, in_ledger: true }, Transition::FillReserve);
    }
}

impl<M: Machine> Subject<M> for AtLane<'_, '_, M> {
    type Refused = Infallible;

    #[inline]
    fn dma(&self) -> &Dma<M> {
        self.books.dma()
    }

    #[inline]
    fn knows(&self) -> Knowledge {
        self.knows
    }

    #[inline]
    fn learn(&mut self, knows: Knowledge) {
        self.knows = knows;
    }

    #[inline]
    fn map(&mut self, memory: MemoryType) -> Result<Mapped, Infallible> {
        let (dma, place) = (self.books.dma(), self.place);
        let state = self.books.state();
        let va = state.lanes.va(self.at.0, self.at.1);
        let Ok(mapped) = dma.map_carved(state, va, place, memory) else {
            panic!("a lent frame that is mapped already")
        };
        Ok(mapped)
    }

    #[inline]
    fn unmap(&mut self, mapped: Mapped) {
        let dma = self.books.dma();
        dma.unmap_carved(self.books.state(), self.place, mapped);
    }

    #[inline]
    fn take_mapping(&mut self) -> Option<Mapped> {
        self.mapped.take()
    }

    #[inline]
    fn keep(&mut self, mapped: Mapped) {
        self.mapped = Some(mapped);
    }

    #[inline]
    fn unlock(&mut self) {
        self.books.unlock();
    }

    #[inline]
    fn for_each_residue(&self, frames: FrameRange, mut each: impl FnMut(FrameRange, Residue)) {
        if self.in_ledger {
            self.books.dma().for_each_residue(frames, each);
        } else {
            each(frames, self.knows.residue);
        }
    }

    #[inline]
    fn count(&self, done: Done) {
        if let Done::Dropped(lines) = done {
            self.books.dma().counters.invalidated.add(lines);
        }
    }

    #[inline]
    fn mark(&mut self, residue: Residue) {
        let place = self.place;
        self.books.state().ledger.set_residue_at(place, residue);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::setup::{CARVED, Setup};

    #[test]
    fn a_barrier_is_passed_without_the_lock() {
        let setup = Setup::new(1);
        let mut books = Books::locked(setup.dma);
        let (frames, knows) = (FrameRange::covering(CARVED.raw().into(), 1), Knowledge::new(Residue::Nothing));
        let place = place_of(&mut books, frames);
        let mut idle = AtLane { books: &mut books, at: (0, 0), place, mapped: None, knows, in_ledger: true };
        let Ok(()) = run(&mut idle, Transition::Tell);
        assert!(setup.dma.state.try_lock().is_some(), "the row has nothing but the barrier");
    }
}
