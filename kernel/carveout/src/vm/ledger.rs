//! The ledger: the attribute of each carved frame, in seven bits a frame, kept outside the carved memory.
//!
//! Guarantees I1 for carved frames: a frame is claimed by at most one mapping at a time. A second mapping is refused
//! before a descriptor is written, whatever its attribute, and also if it goes through a physical alias. The ledger
//! also remembers three things of a frame after its mapping ended: what caches may still hold of it, so that the next
//! owner does the least that suffices (I3); in which image of the [window](super::window) its buffer has its addresses;
//! and whether it is known to be zeroed (I5).
//!
//! A run may be the kernel's for a time ([`Ledger::yield_to_kernel`]). Then the kernel's own mapping is the one that
//! has the claim. Such frames do not count as carved.

use crate::addr::{Frame, FrameRange};
use crate::carve_out::CarveOut;
use crate::heap::room;
use crate::vm::alias::{Alias, Aliases};
use crate::vm::attr::MemoryType;
use crate::vm::window::IMAGES;
use alloc::vec::Vec;
use core::fmt;

/// What the data caches may hold of a frame that nothing maps, and whether its bytes are known. The variants are in
/// rising order of what the next owner must do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Residue {
    /// No line, and memory holds zeros (I5). The frame is fit for its next owner as it is.
    Zeroed,
    /// No line anywhere. The frame was not mapped write-back since the last invalidate through a non-cacheable mapping.
    Nothing,
    /// Lines that equal what memory held when they were filled or cleaned.
    Clean,
    /// Lines that memory has not seen.
    Dirty,
}

/// How a carved frame is mapped now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carved {
    /// Nothing maps it: the CPU cannot name its bytes.
    Unmapped,
    /// One mapping maps it, with this type.
    Mapped(MemoryType),
}

/// Why a claim was refused. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LedgerError {
    /// Part of the range was never carved out.
    NotCarved {
        /// The range asked for.
        frames: FrameRange,
    },
    /// A frame of the range is mapped already. A second mapping is refused, whatever its type (I1).
    Mapped {
        /// The range asked for.
        frames: FrameRange,
        /// The first mapped frame in it.
        frame: Frame,
        /// The type with which that frame is mapped.
        has: MemoryType,
        /// The type wanted for the second mapping.
        wants: MemoryType,
    },
    /// Part of the range is RAM by its second name. Only one name of a frame is used (I1).
    SecondName {
        /// The range asked for.
        frames: FrameRange,
        /// The first such part.
        alias: Alias,
    },
    /// Two carved runs have frames in common. A frame has one owner.
    Overlap {
        /// The run.
        frames: FrameRange,
        /// A run before it.
        other: FrameRange,
    },
    /// A carved run has no frame.
    Empty {
        /// How many runs come before it.
        place: usize,
    },
    /// There are too many carved runs, or too few cells.
    Storage {
        /// The range that did not fit.
        frames: FrameRange,
    },
    /// The heap has no room for the list of carved runs.
    Heap {
        /// How many there are.
        runs: usize,
    },
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCarved { frames } => write!(f, "{frames} is not all carved out; map frames of an area alone"),
            Self::Mapped { frames, frame, has, wants } => {
                write!(f, "mapping {frames} {wants} refused: frame {} is mapped {has} already (I1)", frame.base())
            }
            Self::SecondName { frames, alias } => write!(f, "mapping {frames} refused: {alias} (I1)"),
            Self::Overlap { frames, other } => {
                write!(f, "carved {frames} overlaps carved {other}; give each frame to one carve-out")
            }
            Self::Empty { place } => write!(f, "carved run {place} has no frame; leave it out"),
            Self::Storage { frames } => write!(f, "the ledger cannot hold {frames}"),
            Self::Heap { runs } => write!(f, "no heap left for the list of {runs} carved runs"),
        }
    }
}

impl core::error::Error for LedgerError {}

/// Frames in a cell.
pub const CELL_FRAMES: u32 = u32::BITS;

/// What is known of 32 carved frames, a bit each in every word. A [`Ledger`] takes its storage as a slice of these: 7
/// bits a frame.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cell {
    mapped: u32,
    /// Of mapped frames: whether the type is write-back. Otherwise it is non-cacheable.
    write_back: u32,
    /// The two bits of the residue's code: [`CODES`].
    residue: [u32; 2],
    #[cfg(feature = "audit")]
    seen: u32,
    /// The image in which a buffer has its addresses, counted from 1, by its two bits. It is kept for the buffer's
    /// first and last frames. See [`Ledger::take_image`].
    image: [u32; 2],
}

/// The residues by their code in a cell. The code of a fresh cell means `Nothing`.
const CODES: [Residue; 4] = [Residue::Nothing, Residue::Zeroed, Residue::Clean, Residue::Dirty];

/// The residues in rising order.
const RISING: [Residue; 4] = [Residue::Zeroed, Residue::Nothing, Residue::Clean, Residue::Dirty];

/// Returns bit `n` of the residue's code, once for each frame of a cell.
const fn plane(residue: Residue, n: u32) -> u32 {
    let code = match residue {
        Residue::Nothing => 0,
        Residue::Zeroed => 1,
        Residue::Clean => 2,
        Residue::Dirty => 3,
    };
    0u32.wrapping_sub(code >> n & 1)
}

impl Cell {
    /// Returns the frames, a bit each, that have this residue.
    const fn having(&self, residue: Residue) -> u32 {
        !((self.residue[0] ^ plane(residue, 0)) | (self.residue[1] ^ plane(residue, 1)))
    }

    const fn residue(&self, bit: u32) -> Residue {
        CODES[(self.residue[0] >> bit & 1 | (self.residue[1] >> bit & 1) << 1) as usize]
    }

    const fn set_residue(&mut self, bits: u32, residue: Residue) {
        self.residue[0] = self.residue[0] & !bits | plane(residue, 0) & bits;
        self.residue[1] = self.residue[1] & !bits | plane(residue, 1) & bits;
    }
}

/// Words with a bit for each run.
const FLAG_WORDS: usize = CarveOut::MAX_RANGES.div_ceil(32);

/// Keeps how each carved frame is mapped, and what is known of it.
///
/// ```
/// use carveout::addr::FrameRange;
/// use carveout::vm::{alias::Aliases, attr::MemoryType};
/// use carveout::vm::ledger::{Cell, Ledger};
///
/// let carved = [FrameRange::within(0x6400_0000, 1 << 20)];
/// let mut cells = vec![Cell::default(); Ledger::cells_needed(carved.into_iter())];
/// let mut ledger = Ledger::new(carved.into_iter(), Aliases::default(), &mut cells).expect("enough cells");
///
/// let buffer = FrameRange::within(0x6400_0000, 16 << 10);
/// assert_eq!(ledger.claim(buffer, MemoryType::NonCacheable), Ok(()));
/// assert!(ledger.claim(buffer, MemoryType::WriteBack).is_err(), "a second attribute is refused (I1)");
/// ledger.release(buffer); // once the mapping is gone from every TLB
/// ```
#[derive(Debug)]
pub struct Ledger<'m> {
    /// Each carved run, and the place of its first cell.
    ranges: Vec<(FrameRange, usize)>,
    /// The runs that are the kernel's, a bit each.
    kernels: [u32; FLAG_WORDS],
    cells: &'m mut [Cell],
    aliases: Aliases,
}

impl<'m> Ledger<'m> {
    /// The bytes of heap that each run takes, in one list.
    pub(crate) const RUN_BYTES: usize = size_of::<(FrameRange, usize)>();

    /// Returns the cells that these runs take: one for each 32 frames, counted from the run's start.
    pub fn cells_needed(carved: impl Iterator<Item = FrameRange>) -> usize {
        carved.map(|frames| frames.count().div_ceil(CELL_FRAMES) as usize).sum()
    }

    /// Makes a ledger of these runs, all unmapped and without residue. It takes at least
    /// [`cells_needed`](Self::cells_needed) cells. `aliases` are the board's.
    ///
    /// # Errors
    ///
    /// [`LedgerError::SecondName`] if a run is RAM by its second name. [`LedgerError::Overlap`] if it has frames of one
    /// before it. [`LedgerError::Empty`] if it has none. [`LedgerError::Storage`] if there are more runs than
    /// [`CarveOut::MAX_RANGES`], or too few cells. [`LedgerError::Heap`] if the heap has no room for the list of runs.
    #[cold]
    pub fn new(
        carved: impl Iterator<Item = FrameRange> + Clone,
        aliases: Aliases,
        cells: &'m mut [Cell],
    ) -> Result<Self, LedgerError> {
        let count = carved.clone().count();
        let mut ranges: Vec<(FrameRange, usize)> = room(count).map_err(|_| LedgerError::Heap { runs: count })?;
        let mut used = 0;
        for frames in carved {
            if frames.is_empty() {
                return Err(LedgerError::Empty { place: ranges.len() });
            }
            if let Some(alias) = aliases.find(frames) {
                return Err(LedgerError::SecondName { frames, alias });
            }
            if let Some(&(other, _)) = ranges.iter().find(|(other, _)| other.overlaps(frames)) {
                return Err(LedgerError::Overlap { frames, other });
            }
            let end = used + Self::cells_needed(core::iter::once(frames));
            if end > cells.len() || ranges.len() == CarveOut::MAX_RANGES {
                return Err(LedgerError::Storage { frames });
            }
            ranges.push((frames, used));
            used = end;
        }
        cells[..used].fill(Cell::default());
        Ok(Self { ranges, kernels: [0; FLAG_WORDS], cells, aliases })
    }

    /// Returns the board's aliases.
    pub const fn aliases(&self) -> &Aliases {
        &self.aliases
    }

    /// Yields all runs, those that are the kernel's too.
    pub fn ranges(&self) -> impl Iterator<Item = FrameRange> + Clone + '_ {
        self.ranges.iter().map(|&(frames, _)| frames)
    }

    /// Yields the carved runs: those that are not the kernel's.
    pub fn carved(&self) -> impl Iterator<Item = FrameRange> + '_ {
        self.ranges.iter().enumerate().filter(|&(n, _)| !self.is_kernels(n)).map(|(_, &(frames, _))| frames)
    }

    /// Returns whether the run of that number is the kernel's.
    const fn is_kernels(&self, n: usize) -> bool {
        self.kernels[n / 32] >> (n % 32) & 1 == 1
    }

    /// Gives the kernel the claim to a run of which nothing is mapped. It may map the run from now on, and the run does
    /// not count as carved.
    ///
    /// # Errors
    ///
    /// As [`claim`](Self::claim). Also [`LedgerError::NotCarved`] if the frames are not a whole run.
    pub fn yield_to_kernel(&mut self, run: FrameRange) -> Result<(), LedgerError> {
        let n = self.ranges.iter().position(|&(frames, _)| frames == run);
        let n = n.ok_or(LedgerError::NotCarved { frames: run })?;
        self.claim(run, MemoryType::WriteBack)?;
        self.kernels[n / 32] |= 1 << (n % 32);
        Ok(())
    }

    /// Ends the kernel's claim to a run. This must come after its mappings ended, the TLB invalidate included. It
    /// changes nothing if the run is not the kernel's.
    pub fn take_from_kernel(&mut self, run: FrameRange) {
        if let Some(n) = self.ranges.iter().position(|&(frames, _)| frames == run)
            && self.is_kernels(n)
        {
            self.kernels[n / 32] &= !(1 << (n % 32));
            self.release(run);
        }
    }

    /// Returns how a frame is mapped, or `None` if no carved frame has this name.
    pub fn state(&self, frame: Frame) -> Option<Carved> {
        self.carved().find(|run| run.contains(frame))?;
        let (cell, bit) = self.cell_of(frame.number())?;
        let cell = &self.cells[cell];
        Some(match (cell.mapped & bit != 0, cell.write_back & bit != 0) {
            (true, true) => Carved::Mapped(MemoryType::WriteBack),
            (true, false) => Carved::Mapped(MemoryType::NonCacheable),
            (false, _) => Carved::Unmapped,
        })
    }

    /// Claims frames for one mapping. The claim must come before the mapping is made. The frames must lie in one carved
    /// run.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Mapped`] if a frame is mapped already (I1). [`LedgerError::SecondName`] if a frame is RAM by its
    /// second name (I1). [`LedgerError::NotCarved`] if the frames are not all in one carved run.
    ///
    /// # Panics
    ///
    /// If `wants` is not a type of Normal memory: carved frames are RAM.
    #[inline]
    pub fn claim(&mut self, frames: FrameRange, wants: MemoryType) -> Result<(), LedgerError> {
        let Some(place) = self.place(frames) else { return Err(self.no_place(frames)) };
        self.claim_at(place, wants)
    }

    /// Claims frames as [`claim`](Self::claim) does.
    #[inline]
    pub(crate) fn claim_at(&mut self, place: LedgerPlace, wants: MemoryType) -> Result<(), LedgerError> {
        let write_back = match wants {
            MemoryType::WriteBack => u32::MAX,
            MemoryType::NonCacheable => 0,
            MemoryType::Device | MemoryType::StronglyOrdered => panic!("RAM is Normal memory"),
        };
        let mut mapped = 0;
        place.look(self.cells, |cell, bits| mapped |= cell.mapped & bits);
        if mapped != 0 {
            return Err(self.taken(place.frames, wants));
        }
        place.each(self.cells, |cell, bits| {
            cell.mapped |= bits;
            cell.write_back = cell.write_back & !bits | write_back & bits;
        });
        Ok(())
    }

    /// Returns why a claim would be refused, if it would be.
    pub(crate) fn refusal(&self, frames: FrameRange, wants: MemoryType) -> Option<LedgerError> {
        let Some(place) = self.place(frames) else { return Some(self.no_place(frames)) };
        let mut mapped = 0;
        place.look(self.cells, |cell, bits| mapped |= cell.mapped & bits);
        (mapped != 0).then(|| self.taken(frames, wants))
    }

    #[cold]
    fn no_place(&self, frames: FrameRange) -> LedgerError {
        match self.aliases.find(frames) {
            Some(alias) => LedgerError::SecondName { frames, alias },
            None => LedgerError::NotCarved { frames },
        }
    }

    #[cold]
    fn taken(&self, frames: FrameRange, wants: MemoryType) -> LedgerError {
        let taken = frames.iter().find_map(|frame| match self.state(frame) {
            Some(Carved::Mapped(has)) => Some((frame, has)),
            _ => None,
        });
        match taken {
            Some((frame, has)) => LedgerError::Mapped { frames, frame, has, wants },
            // The kernel has them.
            None => LedgerError::NotCarved { frames },
        }
    }

    /// Ends the claim. This must come after the mapping ended, its TLB invalidate included.
    pub fn release(&mut self, frames: FrameRange) {
        if let Some(place) = self.place(frames) {
            self.release_at(place);
        }
    }

    /// Ends the claim as [`release`](Self::release) does.
    #[inline]
    pub(crate) fn release_at(&mut self, place: LedgerPlace) {
        place.each(self.cells, |cell, bits| cell.mapped &= !bits);
    }

    /// Returns the most that the caches may hold of any frame in the range.
    pub fn residue(&self, frames: FrameRange) -> Residue {
        self.place(frames).map_or(Residue::Zeroed, |place| self.residue_at(place).0)
    }

    /// Returns the most that the caches may hold of any of the frames, and whether that is so of all of them.
    #[inline]
    pub(crate) fn residue_at(&self, place: LedgerPlace) -> (Residue, bool) {
        if place.frames.count() == 1 {
            return (self.cells[place.cell].residue(place.bit), true);
        }
        // Of each residue, whether a frame has it.
        let mut found = 0u32;
        place.look(self.cells, |cell, bits| {
            let [low, high] = cell.residue;
            let has = |these: u32, residue: Residue| if these & bits == 0 { 0 } else { 1 << residue as u32 };
            found |= has(!low & !high, Residue::Nothing) | has(low & !high, Residue::Zeroed);
            if high & bits != 0 {
                found |= has(!low & high, Residue::Clean) | has(low & high, Residue::Dirty);
            }
        });
        // The variants are in rising order.
        (RISING[found.ilog2() as usize], found.is_power_of_two())
    }

    /// Returns the number of frames of which the caches may hold lines.
    pub(crate) fn frames_with_lines(&self, place: LedgerPlace) -> u32 {
        let mut frames = 0;
        place.look(self.cells, |cell, bits| frames += (cell.residue[1] & bits).count_ones());
        frames
    }

    /// Returns how many frames, from the range's first on, have one residue, and that residue.
    pub fn residue_run(&self, frames: FrameRange) -> (u32, Residue) {
        let Some(LedgerPlace { mut cell, mut bit, .. }) = self.place(frames) else {
            return (frames.count(), Residue::Nothing);
        };
        let (first, count) = (self.cells[cell].residue(bit), frames.count());
        let mut same = 0;
        while same < count {
            let other = !self.cells[cell].having(first) >> bit;
            let run = other.trailing_zeros().min(CELL_FRAMES - bit);
            same += run;
            if bit + run < CELL_FRAMES {
                break;
            }
            (cell, bit) = (cell + 1, 0);
        }
        (same.min(count), first)
    }

    /// Records what the caches may hold of all frames in the range.
    pub fn set_residue(&mut self, frames: FrameRange, residue: Residue) {
        if let Some(place) = self.place(frames) {
            self.set_residue_at(place, residue);
        }
    }

    /// Records what the caches may hold of the frames, as [`set_residue`](Self::set_residue) does.
    #[inline]
    pub(crate) fn set_residue_at(&mut self, place: LedgerPlace, residue: Residue) {
        let (low, high) = (plane(residue, 0), plane(residue, 1));
        place.each(self.cells, |cell, bits| {
            cell.residue[0] = cell.residue[0] & !bits | low & bits;
            cell.residue[1] = cell.residue[1] & !bits | high & bits;
        });
    }

    /// Records that the caches may hold this much of the frames. A frame of which they may hold more keeps its residue.
    pub fn raise_residue(&mut self, frames: FrameRange, residue: Residue) {
        let Some(place) = self.place(frames) else { return };
        place.each(self.cells, |cell, bits| {
            let less = CODES.into_iter().filter(|&code| code < residue);
            let less = less.fold(0, |less, code| less | cell.having(code));
            cell.set_residue(bits & less, residue);
        });
    }

    /// Returns the images, a bit each, in which the buffers right before and right after these frames have their
    /// addresses: two at most. A neighbour in another run does not count: in an image, each run has its own sections.
    pub fn images_near(&self, frames: FrameRange) -> u32 {
        self.place(frames).map_or(0, |place| self.images_beside(place))
    }

    #[inline]
    fn images_beside(&self, place: LedgerPlace) -> u32 {
        let LedgerPlace { frames, run, cell, bit } = place;
        let run = self.ranges[run].0;
        let before = if frames.start() == run.start() {
            0
        } else if bit > 0 {
            self.image_at(cell, bit - 1)
        } else {
            self.image_at(cell - 1, CELL_FRAMES - 1)
        };
        let end = bit + frames.count();
        let after = || self.image_at(cell + (end / CELL_FRAMES) as usize, end % CELL_FRAMES);
        before | if frames.end() == run.end() { 0 } else { after() }
    }

    /// Returns the image, as a bit, in which the buffer of these frames has its addresses, or 0 if it has none.
    pub fn image_of(&self, frames: FrameRange) -> u32 {
        self.place(frames).map_or(0, |place| self.image_at(place.cell, place.bit))
    }

    /// Chooses one of these images, a bit each, for the addresses of a buffer of these frames, and notes it. It chooses
    /// one in which no neighbour is, if there is one. Returns the image, and whether it is free of neighbours.
    ///
    /// # Panics
    ///
    /// If the frames are not all in one carved run, or `images` has no bit set.
    pub fn take_image(&mut self, frames: FrameRange, images: u32) -> (u32, bool) {
        let place = self.place(frames).expect("carved frames, in one run");
        self.take_image_at(place, images)
    }

    /// Chooses an image as [`take_image`](Self::take_image) does.
    #[inline]
    pub(crate) fn take_image_at(&mut self, place: LedgerPlace, images: u32) -> (u32, bool) {
        let guarded = images & !self.images_beside(place);
        let image = if guarded != 0 { guarded } else { images }.trailing_zeros();
        assert!(image < IMAGES, "an image to choose from");
        self.set_image(place, image + 1);
        (image, guarded != 0)
    }

    /// Notes that a buffer of these frames has no addresses any more.
    pub fn give_image(&mut self, frames: FrameRange) {
        if let Some(place) = self.place(frames) {
            self.give_image_at(place);
        }
    }

    /// Notes as [`give_image`](Self::give_image) does.
    #[inline]
    pub(crate) fn give_image_at(&mut self, place: LedgerPlace) {
        self.set_image(place, 0);
    }

    /// Returns the image, as a bit, that is noted for a frame.
    #[inline]
    fn image_at(&self, cell: usize, bit: u32) -> u32 {
        let [low, high] = self.cells[cell].image;
        (1 << (low >> bit & 1 | (high >> bit & 1) << 1)) >> 1
    }

    #[inline]
    fn set_image(&mut self, place: LedgerPlace, number: u32) {
        let mut set = |cell: usize, bit: u32| {
            let [low, high] = &mut self.cells[cell].image;
            *low = *low & !(1 << bit) | (number & 1) << bit;
            *high = *high & !(1 << bit) | (number >> 1) << bit;
        };
        set(place.cell, place.bit);
        if place.frames.count() > 1 {
            let last = place.bit + place.frames.count() - 1;
            set(place.cell + (last / CELL_FRAMES) as usize, last % CELL_FRAMES);
        }
    }

    /// Returns the cell of the frame of that number, and its bit there.
    fn cell_of(&self, number: u32) -> Option<(usize, u32)> {
        let (run, first) = self.ranges.iter().find(|(run, _)| run.start() <= number && number < run.end())?;
        let offset = number - run.start();
        Some((first + (offset / CELL_FRAMES) as usize, 1 << (offset % CELL_FRAMES)))
    }

    /// Returns where the ledger has these frames, at least one and all in one run, or `None` if they are no such
    /// frames.
    #[inline]
    pub(crate) fn place(&self, frames: FrameRange) -> Option<LedgerPlace> {
        let mut runs = self.ranges.iter().enumerate();
        let (run, &(all, first)) = runs.find(|(_, (all, _))| all.covers(frames) && !frames.is_empty())?;
        let start = frames.start() - all.start();
        Some(LedgerPlace { frames, run, cell: first + (start / CELL_FRAMES) as usize, bit: start % CELL_FRAMES })
    }
}

/// For the audit: which frames it saw mapped.
#[cfg(feature = "audit")]
impl Ledger<'_> {
    /// Begins an audit: no frame has been seen mapped.
    pub(super) fn unsee(&mut self) {
        for cell in &mut *self.cells {
            cell.seen = 0;
        }
    }

    /// Notes that the tables map a frame. Returns whether that was noted before.
    pub(super) fn see(&mut self, frame: Frame) -> bool {
        let Some((cell, bit)) = self.cell_of(frame.number()) else { return false };
        let seen = &mut self.cells[cell].seen;
        let before = *seen & bit != 0;
        *seen |= bit;
        before
    }

    /// Yields the frames that are mapped, each with whether it was seen since [`unsee`](Self::unsee).
    pub(super) fn mapped(&self) -> impl Iterator<Item = (Frame, bool)> + '_ {
        let frames = self.carved().flat_map(FrameRange::iter);
        frames.filter(|&frame| matches!(self.state(frame), Some(Carved::Mapped(_)))).filter_map(|frame| {
            let (cell, bit) = self.cell_of(frame.number())?;
            Some((frame, self.cells[cell].seen & bit != 0))
        })
    }
}

/// Carved frames of one run, and where a ledger has them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LedgerPlace {
    /// At least one.
    frames: FrameRange,
    /// The number of their run.
    run: usize,
    /// The first frame's cell, and its bit there.
    cell: usize,
    bit: u32,
}

impl LedgerPlace {
    /// The place of no frames, which no ledger gives.
    pub(crate) const NONE: Self = Self { frames: FrameRange::EMPTY, run: 0, cell: 0, bit: 0 };

    /// Returns the frames.
    pub(crate) const fn frames(self) -> FrameRange {
        self.frames
    }

    /// Returns the number of their run among all carved runs.
    pub(crate) const fn run(self) -> usize {
        self.run
    }

    /// Returns the bits of its frames in their cell, if they are all in one.
    #[inline]
    fn bits(self) -> Option<u32> {
        let end = self.bit + self.frames.count();
        if end <= CELL_FRAMES { Some(u32::MAX << self.bit & u32::MAX >> (CELL_FRAMES - end)) } else { None }
    }

    /// Calls `each` with each cell of the frames, and their bits in it.
    #[inline]
    fn each(self, cells: &mut [Cell], mut each: impl FnMut(&mut Cell, u32)) {
        if let Some(bits) = self.bits() {
            return each(&mut cells[self.cell], bits);
        }
        self.each_of_several(cells, each);
    }

    #[inline(never)]
    fn each_of_several(self, cells: &mut [Cell], mut each: impl FnMut(&mut Cell, u32)) {
        let (count, first, last) = self.several();
        if let [from, middle @ .., to] = &mut cells[self.cell..self.cell + count] {
            each(from, first);
            for cell in middle {
                each(cell, u32::MAX);
            }
            each(to, last);
        }
    }

    /// Returns the number of its cells, of which there are several, and its bits in the first and in the last.
    #[inline]
    const fn several(self) -> (usize, u32, u32) {
        let last = self.bit + self.frames.count() - 1;
        let bits = u32::MAX >> (CELL_FRAMES - 1 - last % CELL_FRAMES);
        ((last / CELL_FRAMES) as usize + 1, u32::MAX << self.bit, bits)
    }

    /// Calls `look` with each cell of the frames, and their bits in it.
    #[inline]
    fn look(self, cells: &[Cell], mut look: impl FnMut(&Cell, u32)) {
        if let Some(bits) = self.bits() {
            return look(&cells[self.cell], bits);
        }
        self.look_at_several(cells, look);
    }

    #[inline(never)]
    fn look_at_several(self, cells: &[Cell], mut look: impl FnMut(&Cell, u32)) {
        let (count, first, last) = self.several();
        if let [from, middle @ .., to] = &cells[self.cell..self.cell + count] {
            look(from, first);
            for cell in middle {
                look(cell, u32::MAX);
            }
            look(to, last);
        }
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
        let mut cells = [Cell { residue: [u32::MAX; 2], ..Cell::default() }; 2];
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
        let mut cells = [Cell::default(); 1];
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
        let mut cells = [Cell::default(); 2];
        let mut ledger =
            Ledger::new([run(0x100, 16), run(0x200, 8)].into_iter(), Aliases::default(), &mut cells).unwrap();
        for frames in [run(0xff, 2), run(0x10f, 2), run(0x180, 1), FrameRange::EMPTY] {
            assert_eq!(ledger.claim(frames, WriteBack), Err(LedgerError::NotCarved { frames }));
        }
        assert_eq!(ledger.state(Frame::from_number(0x180).unwrap()), None);
    }

    #[test]
    fn residue_outlives_the_mapping_and_the_worst_frame_counts() {
        let mut cells = [Cell::default(); 1];
        let mut ledger = Ledger::new([run(0x100, 16)].into_iter(), Aliases::default(), &mut cells).unwrap();
        ledger.claim(run(0x100, 8), WriteBack).unwrap();
        ledger.set_residue(run(0x100, 4), Residue::Clean);
        ledger.set_residue(run(0x107, 1), Residue::Dirty);
        ledger.release(run(0x100, 8));
        assert_eq!(ledger.residue(run(0x100, 7)), Residue::Clean);
        assert_eq!(ledger.residue(run(0x103, 5)), Residue::Dirty);
        assert_eq!(ledger.residue(run(0x104, 3)), Residue::Nothing);
        assert_eq!(ledger.residue_run(run(0x102, 6)), (2, Residue::Clean));
        assert_eq!(ledger.residue_run(run(0x104, 4)), (3, Residue::Nothing));
        ledger.raise_residue(run(0x103, 5), Residue::Clean);
        assert_eq!(ledger.residue_run(run(0x100, 8)), (7, Residue::Clean));
        assert_eq!(ledger.residue(run(0x107, 1)), Residue::Dirty, "raised, not lowered");
    }

    #[test]
    fn i5_zeroed_is_what_was_said_to_be() {
        let mut cells = [Cell::default(); 2];
        let mut ledger = Ledger::new([run(0x100, 60)].into_iter(), Aliases::default(), &mut cells).unwrap();
        assert_eq!(ledger.residue(run(0x100, 16)), Residue::Nothing, "what the boot left is not known");
        ledger.set_residue(run(0x100, 8), Residue::Zeroed);
        assert_eq!(ledger.residue_run(run(0x100, 16)), (8, Residue::Zeroed));
        ledger.raise_residue(run(0x102, 1), Residue::Nothing);
        assert_eq!(ledger.residue(run(0x100, 2)), Residue::Zeroed);
        assert_eq!(ledger.residue(run(0x100, 3)), Residue::Nothing);
        ledger.set_residue(run(0x110, 40), Residue::Clean);
        assert_eq!(ledger.residue_run(run(0x112, 42)), (38, Residue::Clean), "over a word's end");
        assert_eq!(ledger.residue_run(run(0x112, 20)), (20, Residue::Clean), "no more than asked for");
        assert_eq!(ledger.residue_run(run(0x138, 4)), (4, Residue::Nothing));
    }

    #[test]
    fn i1_a_run_that_is_the_kernels_is_not_carved_until_it_is_taken() {
        let mut cells = [Cell::default(); 2];
        let (ours, late) = (run(0x100, 16), run(0x200, 8));
        let mut ledger = Ledger::new([ours, late].into_iter(), Aliases::default(), &mut cells).unwrap();
        let part = run(0x200, 4);
        assert_eq!(ledger.yield_to_kernel(part), Err(LedgerError::NotCarved { frames: part }), "a run or nothing");
        ledger.claim(part, NonCacheable).unwrap();
        assert!(matches!(ledger.yield_to_kernel(late), Err(LedgerError::Mapped { .. })), "part of it is mapped");
        ledger.release(part);
        ledger.yield_to_kernel(late).unwrap();
        for wants in [WriteBack, NonCacheable] {
            assert_eq!(ledger.claim(part, wants), Err(LedgerError::NotCarved { frames: part }));
            assert_eq!(ledger.refusal(part, wants), Some(LedgerError::NotCarved { frames: part }));
        }
        assert_eq!(ledger.state(Frame::from_number(0x200).unwrap()), None);
        assert!(ledger.carved().eq([ours]));
        ledger.take_from_kernel(ours);
        ledger.take_from_kernel(late);
        assert!(ledger.carved().eq([ours, late]));
        assert_eq!(ledger.state(Frame::from_number(0x200).unwrap()), Some(Carved::Unmapped));
        ledger.claim(part, NonCacheable).unwrap();
    }

    #[test]
    fn overlapping_runs_and_too_few_cells_are_refused() {
        let mut cells = [Cell::default(); 1];
        let overlap =
            Ledger::new([run(0x100, 8), run(0x107, 2)].into_iter(), Aliases::default(), &mut cells).unwrap_err();
        assert_eq!(overlap, LedgerError::Overlap { frames: run(0x107, 2), other: run(0x100, 8) });
        let few = Ledger::new([run(0x100, 33)].into_iter(), Aliases::default(), &mut cells).unwrap_err();
        assert_eq!(few, LedgerError::Storage { frames: run(0x100, 33) });
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
