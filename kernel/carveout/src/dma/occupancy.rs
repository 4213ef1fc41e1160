//! A map of an area: who has which frames.
//!
//! Guarantees: the lock is held over a look at a few frames at a time, and never while the map is drawn.

use crate::addr::FrameRange;
use crate::cma::area::Occupant;
use crate::dma::master::AreaId;
use crate::dma::registry::{Book, Dma, State};
use crate::machine::Machine;

/// The most frames that are looked at in one turn of the lock.
const PIECE: u32 = 1 << 8;

impl<M: Machine> Dma<M> {
    /// Calls `each` with the runs of frames of an area and who has them: all frames, in order, in the longest runs of
    /// one occupant. Frames of two ranges of memory are never in one run. The area of another `Dma` has none. The
    /// shelves are emptied for that.
    ///
    /// The lock is not held during a call. It is held for a look at 256 frames at most, which takes O(log n) in the
    /// frames of the area and O(n) in the contracts' slots. So what changes meanwhile is shown as it was or as it is,
    /// and a buffer that a core puts on its shelf meanwhile as held.
    ///
    /// ```
    /// use carveout::dma::Occupant;
    /// use carveout::setup::Setup;
    ///
    /// let setup = Setup::new(1); // an area of 4 MiB
    /// let buffer = setup.dma.alloc(&setup.master("camera"), 1 << 20, 1)?;
    /// let mut runs = Vec::new();
    /// let area = setup.dma.area("test").unwrap();
    /// setup.dma.for_each_run(area, |frames, occupant| runs.push((occupant, frames.bytes())));
    /// assert_eq!(runs, [(Occupant::Held, 1 << 20), (Occupant::Idle, 3 << 20)]);
    /// # drop(buffer);
    /// # Ok::<(), carveout::dma::AllocError>(())
    /// ```
    #[expect(clippy::missing_panics_doc, reason = "an occupant has some of the frames that it is asked for")]
    pub fn for_each_run(&self, area: AreaId, mut each: impl FnMut(FrameRange, Occupant)) {
        self.empty_shelves();
        let ranges = self.state.lock().area_mut(area).map(|memory| memory.runs());
        for range in ranges.unwrap_or_default() {
            let (mut left, mut run) = (range, None);
            while !left.is_empty() {
                let (occupant, count) = {
                    let State { areas, warm, contracts, .. } = &mut *self.state.lock();
                    let piece = left.split_at(PIECE.min(left.count())).map_or(left, |(piece, _)| piece);
                    areas[area.0].occupant(piece, warm.of(area), contracts.iter().flat_map(Book::idle))
                };
                let (found, rest) = left.split_at(count).expect("a part of it");
                left = rest;
                run = Some(match run {
                    None => (found, occupant),
                    Some((frames, before)) if before == occupant => (joined(frames, found), occupant),
                    Some((frames, before)) => {
                        each(frames, before);
                        (found, occupant)
                    }
                });
            }
            if let Some((frames, occupant)) = run {
                each(frames, occupant);
            }
        }
    }
}

/// Returns two runs of frames as one, of which the second follows the first.
fn joined(first: FrameRange, second: FrameRange) -> FrameRange {
    FrameRange::between(first.start(), second.end()).expect("one follows the other")
}
