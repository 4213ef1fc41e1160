//! The attribute of each carved frame, one byte a frame, kept outside the carved memory.
//!
//! Guarantees I1 for carved frames: a frame is claimed by at most one mapping at a time, so a second mapping, with
//! whatever attribute, is refused before a descriptor is written; so is one through a physical alias. Also remembers what caches may still hold of a
//! frame after its mapping ended, so that the next owner does the least that suffices (I3).

use crate::addr::{Frame, FrameRange};
use crate::vm::alias::{Alias, Aliases};
use crate::vm::attr::MemoryType;
use arrayvec::ArrayVec;
use core::fmt;

/// Runs of carved frames the ledger can hold.
pub const MAX_RANGES: usize = crate::boot::layout::MAX_AREAS * crate::boot::directmap::CarveOut::RANGES;

/// What the data caches may hold of a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Residue {
    /// Never mapped write-back since the last invalidate through a non-cacheable mapping: no line anywhere.
    Nothing,
    /// Lines that equal memory as the CPU last knew it.
    Clean,
    /// Lines that memory has not seen.
    Dirty,
}

/// How a carved frame is mapped now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carved {
    /// By nothing: the CPU cannot name its bytes.
    Unmapped,
    /// By one mapping, with this type.
    Mapped(MemoryType),
}

/// Why a claim was refused. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LedgerError {
    /// Part of the range was never carved out.
    NotCarved {
        /// The range asked for.
        frames: FrameRange,
    },
    /// A frame of the range is mapped already; a second mapping is refused, whatever its type (I1).
    Mapped {
        /// The range asked for.
        frames: FrameRange,
        /// The first mapped frame in it.
        frame: Frame,
        /// How that is mapped.
        has: MemoryType,
        /// The type wanted for the second mapping.
        wants: MemoryType,
    },
    /// Part of the range is RAM by its second name: one name of a frame is used (I1).
    SecondName {
        /// The range asked for.
        frames: FrameRange,
        /// The first part of it that is.
        alias: Alias,
    },
    /// The carved ranges overlap, are too many, or the cells too few.
    Storage {
        /// The range that did not fit.
        frames: FrameRange,
    },
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCarved { frames } => write!(f, "{frames} is not all carved out"),
            Self::Mapped { frames, frame, has, wants } => {
                write!(f, "mapping {frames} {wants} refused: frame {} is mapped {has} already (I1)", frame.base())
            }
            Self::SecondName { frames, alias } => write!(f, "mapping {frames} refused: {alias} (I1)"),
            Self::Storage { frames } => write!(f, "the ledger cannot hold {frames}"),
        }
    }
}

const MAPPED: u8 = 0b0011;
const WRITE_BACK: u8 = 0b0001;
const NON_CACHEABLE: u8 = 0b0010;
const RESIDUE: u8 = 0b1100;
const CLEAN: u8 = 0b0100;
const DIRTY: u8 = 0b1000;
const SEEN: u8 = 0b1_0000;

/// One byte a frame.
pub type Cell = u8;

/// The book of carved frames.
#[derive(Debug)]
pub struct Ledger<'m> {
    /// Each carved run and the place of its first cell.
    ranges: ArrayVec<(FrameRange, usize), MAX_RANGES>,
    cells: &'m mut [Cell],
    aliases: Aliases,
}

impl<'m> Ledger<'m> {
    /// A ledger of these runs, all unmapped and without residue, on a board with these aliases. `cells` holds at least
    /// one a frame.
    pub fn new(
        carved: impl Iterator<Item = FrameRange>,
        aliases: Aliases,
        cells: &'m mut [Cell],
    ) -> Result<Self, LedgerError> {
        let mut ranges = ArrayVec::<(FrameRange, usize), MAX_RANGES>::new();
        let mut used = 0;
        for frames in carved {
            if let Some(alias) = aliases.find(frames) {
                return Err(LedgerError::SecondName { frames, alias });
            }
            let overlap = ranges.iter().any(|(other, _)| other.overlaps(frames));
            let end = used + frames.count() as usize;
            if overlap || end > cells.len() || ranges.try_push((frames, used)).is_err() {
                return Err(LedgerError::Storage { frames });
            }
            used = end;
        }
        cells[..used].fill(0);
        Ok(Self { ranges, cells, aliases })
    }

    /// The board's aliases.
    pub const fn aliases(&self) -> &Aliases {
        &self.aliases
    }

    /// The carved runs.
    pub fn ranges(&self) -> impl Iterator<Item = FrameRange> + '_ {
        self.ranges.iter().map(|&(frames, _)| frames)
    }

    /// How a frame is mapped; `None` if it is not carved, by this name.
    pub fn state(&self, frame: Frame) -> Option<Carved> {
        let one = FrameRange::new(frame.number(), 1)?;
        let cell = *self.cells_of(one)?.first()?;
        Some(match cell & MAPPED {
            WRITE_BACK => Carved::Mapped(MemoryType::WriteBack),
            NON_CACHEABLE => Carved::Mapped(MemoryType::NonCacheable),
            _ => Carved::Unmapped,
        })
    }

    /// Claims frames for one mapping. Must come before the mapping is made.
    ///
    /// # Panics
    ///
    /// If `wants` is not a type of Normal memory: carved frames are RAM.
    pub fn claim(&mut self, frames: FrameRange, wants: MemoryType) -> Result<(), LedgerError> {
        let mark = match wants {
            MemoryType::WriteBack => WRITE_BACK,
            MemoryType::NonCacheable => NON_CACHEABLE,
            MemoryType::Device | MemoryType::StronglyOrdered => panic!("RAM is Normal memory"),
        };
        if let Some(alias) = self.aliases.find(frames) {
            return Err(LedgerError::SecondName { frames, alias });
        }
        let cells = self.cells_of_mut(frames).ok_or(LedgerError::NotCarved { frames })?;
        if let Some(place) = cells.iter().position(|cell| cell & MAPPED != 0) {
            let has =
                if cells[place] & MAPPED == WRITE_BACK { MemoryType::WriteBack } else { MemoryType::NonCacheable };
            let frame = Frame::from_number(frames.start() + place as u32).expect("in a range");
            return Err(LedgerError::Mapped { frames, frame, has, wants });
        }
        for cell in cells {
            *cell |= mark;
        }
        Ok(())
    }

    /// Ends the claim. Must come after the mapping ended, TLB invalidate included.
    pub fn release(&mut self, frames: FrameRange) {
        for cell in self.cells_of_mut(frames).into_iter().flatten() {
            *cell &= !MAPPED;
        }
    }

    /// The most the caches may hold of any frame in the range.
    pub fn residue(&self, frames: FrameRange) -> Residue {
        let all = self.cells_of(frames).into_iter().flatten().fold(0, |all, cell| all | cell);
        match all & RESIDUE {
            0 => Residue::Nothing,
            CLEAN => Residue::Clean,
            _ => Residue::Dirty,
        }
    }

    /// Records what the caches may hold of all frames in the range.
    pub fn set_residue(&mut self, frames: FrameRange, residue: Residue) {
        let mark = match residue {
            Residue::Nothing => 0,
            Residue::Clean => CLEAN,
            Residue::Dirty => DIRTY,
        };
        for cell in self.cells_of_mut(frames).into_iter().flatten() {
            *cell = *cell & !RESIDUE | mark;
        }
    }

    /// Begins an audit: no frame has been seen mapped.
    pub(super) fn unsee(&mut self) {
        for cell in &mut *self.cells {
            *cell &= !SEEN;
        }
    }

    /// Notes that the tables map a frame.
    pub(super) fn see(&mut self, frame: Frame) {
        for cell in FrameRange::new(frame.number(), 1).and_then(|one| self.cells_of_mut(one)).into_iter().flatten() {
            *cell |= SEEN;
        }
    }

    /// The frames that are mapped, each with whether it was seen since [`unsee`](Self::unsee).
    pub(super) fn mapped(&self) -> impl Iterator<Item = (Frame, bool)> + '_ {
        let run = |&(frames, first): &(FrameRange, usize)| frames.iter().zip(&self.cells[first..]);
        let mapped = |(frame, cell): (Frame, &Cell)| (cell & MAPPED != 0).then_some((frame, cell & SEEN != 0));
        self.ranges.iter().flat_map(run).filter_map(mapped)
    }

    fn place_of(&self, frames: FrameRange) -> Option<core::ops::Range<usize>> {
        let (run, first) = self.ranges.iter().find(|(run, _)| run.covers(frames) && !frames.is_empty())?;
        let start = first + (frames.start() - run.start()) as usize;
        Some(start..start + frames.count() as usize)
    }

    fn cells_of(&self, frames: FrameRange) -> Option<&[Cell]> {
        self.place_of(frames).map(|place| &self.cells[place])
    }

    fn cells_of_mut(&mut self, frames: FrameRange) -> Option<&mut [Cell]> {
        self.place_of(frames).map(|place| &mut self.cells[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemoryType::*;

    fn run(start: u32, count: u32) -> FrameRange {
        FrameRange::new(start, count).unwrap()
    }

    #[test]
    fn i1_a_second_mapping_is_refused_whatever_its_type() {
        let mut cells = [0xff; 24];
        let mut ledger =
            Ledger::new([run(0x100, 16), run(0x200, 8)].into_iter(), Aliases::default(), &mut cells).unwrap();
        ledger.claim(run(0x104, 4), NonCacheable).unwrap();
        for wants in [WriteBack, NonCacheable] {
            let refused = ledger.claim(run(0x100, 5), wants).unwrap_err();
            let frame = Frame::from_number(0x104).unwrap();
            assert_eq!(refused, LedgerError::Mapped { frames: run(0x100, 5), frame, has: NonCacheable, wants });
        }
        assert_eq!(
            ledger.state(Frame::from_number(0x103).unwrap()),
            Some(Carved::Unmapped),
            "a refusal changes nothing"
        );
        ledger.release(run(0x104, 4));
        ledger.claim(run(0x100, 5), WriteBack).unwrap();
        assert_eq!(ledger.state(Frame::from_number(0x104).unwrap()), Some(Carved::Mapped(WriteBack)));
    }

    #[test]
    fn i1_a_mapping_by_a_second_name_is_refused_whatever_its_type() {
        let mut cells = [0; 16];
        let mut aliases = Aliases::default();
        let alias = Alias { frames: run(0x1000, 0x100), of: run(0x100, 0x100) };
        aliases.add(alias).unwrap();
        let by_second = Ledger::new([run(0x1010, 8)].into_iter(), aliases.clone(), &mut cells).unwrap_err();
        assert!(matches!(by_second, LedgerError::SecondName { .. }));
        let mut ledger = Ledger::new([run(0x100, 16)].into_iter(), aliases, &mut cells).unwrap();
        ledger.claim(run(0x104, 4), WriteBack).unwrap();
        for wants in [WriteBack, NonCacheable] {
            let refused = ledger.claim(run(0x1004, 4), wants).unwrap_err();
            assert_eq!(
                std::format!("{refused}"),
                "mapping 0x01004000-0x01008000 (16 KiB) refused: 0x01004000-0x01008000 (16 KiB) is \
                 0x00104000-0x00108000 (16 KiB) by another name (I1)"
            );
        }
        let states = [0x104, 0x108].map(|n| ledger.state(Frame::from_number(n).unwrap()));
        assert_eq!(states, [Some(Carved::Mapped(WriteBack)), Some(Carved::Unmapped)]);
    }

    #[test]
    fn only_carved_frames_can_be_claimed() {
        let mut cells = [0; 24];
        let mut ledger =
            Ledger::new([run(0x100, 16), run(0x200, 8)].into_iter(), Aliases::default(), &mut cells).unwrap();
        for frames in [run(0xff, 2), run(0x10f, 2), run(0x180, 1), FrameRange::EMPTY] {
            assert_eq!(ledger.claim(frames, WriteBack), Err(LedgerError::NotCarved { frames }));
        }
        assert_eq!(ledger.state(Frame::from_number(0x180).unwrap()), None);
    }

    #[test]
    fn residue_outlives_the_mapping_and_the_worst_frame_counts() {
        let mut cells = [0; 16];
        let mut ledger = Ledger::new([run(0x100, 16)].into_iter(), Aliases::default(), &mut cells).unwrap();
        ledger.claim(run(0x100, 8), WriteBack).unwrap();
        ledger.set_residue(run(0x100, 4), Residue::Clean);
        ledger.set_residue(run(0x107, 1), Residue::Dirty);
        ledger.release(run(0x100, 8));
        assert_eq!(ledger.residue(run(0x100, 7)), Residue::Clean);
        assert_eq!(ledger.residue(run(0x103, 5)), Residue::Dirty);
        assert_eq!(ledger.residue(run(0x104, 3)), Residue::Nothing);
    }

    #[test]
    fn overlapping_runs_and_too_few_cells_are_refused() {
        let mut cells = [0; 16];
        let overlap =
            Ledger::new([run(0x100, 8), run(0x107, 2)].into_iter(), Aliases::default(), &mut cells).unwrap_err();
        assert_eq!(overlap, LedgerError::Storage { frames: run(0x107, 2) });
        let few = Ledger::new([run(0x100, 17)].into_iter(), Aliases::default(), &mut cells).unwrap_err();
        assert_eq!(few, LedgerError::Storage { frames: run(0x100, 17) });
    }

    #[test]
    fn refusals_are_one_clear_line() {
        let frame = Frame::from_number(0x64001).unwrap();
        let error = LedgerError::Mapped { frames: run(0x64000, 256), frame, has: WriteBack, wants: NonCacheable };
        assert_eq!(
            std::format!("{error}"),
            "mapping 0x64000000-0x64100000 (1 MiB) non-cacheable refused: frame 0x64001000 is mapped write-back already (I1)"
        );
    }
}
