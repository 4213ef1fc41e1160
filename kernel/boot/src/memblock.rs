//! The map of physical memory at boot: what is RAM, what is reserved, and what the direct map must leave out.
//!
//! Guarantees: each list is sorted. Its runs are disjoint and never touch: neighbours are merged. A `nomap` mark is a
//! property of memory, so `nomap` is a subset of `memory` at all times. An operation that fails changes nothing,
//! whatever the reason. Nothing is allocated: each list holds `N` runs, and the error names the run that does not fit.
//!
//! The names are those of Linux's memblock. A reservation may lie outside memory, as firmware's sometimes does.

#![forbid(unsafe_code)]

use core::fmt;

use arrayvec::ArrayVec;

use carveout::addr::{Bytes, FRAME_SHIFT, FrameRange};

/// The most disjoint runs in each list of a plan's memory map.
pub const RUNS: usize = 384;

/// The end of a window from which [`Memblock::phys_alloc_range`] takes frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the top: the highest place that fits.
    TopDown,
    /// From the bottom: the lowest place that fits.
    BottomUp,
}

/// One of the three lists, as an error names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum List {
    /// RAM.
    Memory,
    /// Memory that somebody holds.
    Reserved,
    /// RAM that the direct map leaves out.
    Nomap,
}

/// Why an operation failed. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemblockError {
    /// The list would need more runs than it can hold.
    Full {
        /// The list.
        list: List,
        /// The run that was to be entered or cut out.
        range: FrameRange,
        /// Runs the list can hold.
        capacity: usize,
    },
    /// A mark was asked for, for frames that are not all memory.
    NotMemory(FrameRange),
    /// An allocation of no frames.
    ZeroFrames,
    /// An alignment, in frames, that is not a power of two.
    Alignment(u32),
    /// No free run is large enough.
    NoSpace {
        /// Frames asked for.
        frames: u32,
        /// Alignment asked for, in frames.
        align: u32,
        /// The window in which it was to lie.
        within: FrameRange,
        /// Frames in the largest free run of the window, counted from its first aligned frame.
        largest: u32,
    },
}

impl fmt::Display for MemblockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Full { list, range, capacity } => {
                let list = match list {
                    List::Memory => "memory",
                    List::Reserved => "reserved",
                    List::Nomap => "nomap",
                };
                write!(f, "memblock: no room for {range} in the {list} list of {capacity} runs")
            }
            Self::NotMemory(range) => write!(f, "memblock: {range} is not all memory"),
            Self::ZeroFrames => f.write_str("memblock: allocation of 0 frames"),
            Self::Alignment(align) => write!(f, "memblock: alignment of {align} frames is not a power of two"),
            Self::NoSpace { frames, align, within, largest } => write!(
                f,
                "memblock: no free run of {} aligned to {} in {within}; the largest is {}",
                bytes(frames),
                bytes(align),
                bytes(largest)
            ),
        }
    }
}

impl core::error::Error for MemblockError {}

fn bytes(frames: u32) -> Bytes {
    Bytes(u64::from(frames) << FRAME_SHIFT)
}

/// Runs that are sorted and disjoint, and never touch.
#[derive(Clone, PartialEq, Eq, Debug)]
struct RangeSet<const N: usize>(ArrayVec<FrameRange, N>);

/// A change to a set: one or two other runs take the place of its runs `[first, last)`. A change is computed first and
/// applied later, so that an operation on two sets can be refused as a whole.
struct Edit {
    first: usize,
    last: usize,
    with: ArrayVec<FrameRange, 2>,
}

impl<const N: usize> RangeSet<N> {
    const fn new() -> Self {
        Self(ArrayVec::new_const())
    }

    /// Returns the change that enters `range`, merged with the runs that it meets or touches.
    fn insertion(&self, range: FrameRange) -> Option<Edit> {
        let first = self.0.partition_point(|run| run.end() < range.start());
        let last = self.0.partition_point(|run| run.start() <= range.end());
        let met = self.0.get(first..last).unwrap_or_default();
        let start = met.first().map_or(range.start(), |run| run.start().min(range.start()));
        let end = met.last().map_or(range.end(), |run| run.end().max(range.end()));
        self.edit(first, last, [FrameRange::between(start, end), None])
    }

    /// Returns the change that cuts `range` out.
    fn removal(&self, range: FrameRange) -> Option<Edit> {
        let first = self.0.partition_point(|run| run.end() <= range.start());
        let last = self.0.partition_point(|run| run.start() < range.end()).max(first);
        let met = self.0.get(first..last).unwrap_or_default();
        let left = met.first().and_then(|run| FrameRange::between(run.start(), range.start()));
        let right = met.last().and_then(|run| FrameRange::between(range.end(), run.end()));
        self.edit(first, last, [left, right])
    }

    /// Makes a change, or returns `None` if the set cannot hold its outcome.
    fn edit(&self, first: usize, last: usize, with: [Option<FrameRange>; 2]) -> Option<Edit> {
        let with: ArrayVec<_, 2> = with.into_iter().flatten().filter(|run| !run.is_empty()).collect();
        (self.0.len() - (last - first) + with.len() <= N).then_some(Edit { first, last, with })
    }

    fn apply(&mut self, edit: Edit) {
        self.0.drain(edit.first..edit.last);
        for (offset, run) in edit.with.into_iter().enumerate() {
            self.0.insert(edit.first + offset, run);
        }
    }

    fn covers(&self, range: FrameRange) -> bool {
        range.is_empty() || self.0.iter().any(|run| run.covers(range))
    }
}

/// The map of physical memory: memory, reservations and `nomap` marks, `N` runs of each. It takes `24 * N` bytes.
///
/// ```
/// use carveout::addr::{FRAME_SIZE, FrameRange};
/// use carveout_boot::memblock::{Direction, Memblock};
///
/// let mut map = Memblock::<16>::new();
/// map.add(FrameRange::within(0x6000_0000, 1 << 30))?;
/// map.reserve(FrameRange::within(0x6000_0000, 4 << 20))?; // the kernel's image
///
/// let frames = (64 << 20) / FRAME_SIZE;
/// let area = map.phys_alloc_range(frames, 256, FrameRange::ALL, Direction::TopDown)?;
/// map.mark_nomap(area)?; // the direct map leaves it out (I2)
/// assert_eq!(area.base().raw(), 0x9c00_0000);
/// assert!(map.mapped_ranges().all(|run| !run.overlaps(area)));
/// # Ok::<(), carveout_boot::memblock::MemblockError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Memblock<const N: usize = 128> {
    memory: RangeSet<N>,
    reserved: RangeSet<N>,
    nomap: RangeSet<N>,
}

impl<const N: usize> Default for Memblock<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Memblock<N> {
    /// Makes a map without memory or reservations.
    pub const fn new() -> Self {
        Self { memory: RangeSet::new(), reserved: RangeSet::new(), nomap: RangeSet::new() }
    }

    /// Enters `range` as memory. Frames that are memory already keep their `nomap` mark.
    ///
    /// # Errors
    ///
    /// [`MemblockError::Full`] if the list has no room for another run.
    pub fn add(&mut self, range: FrameRange) -> Result<(), MemblockError> {
        insert(&mut self.memory, List::Memory, range)
    }

    /// Takes `range` out of memory, and its `nomap` marks with it. Reservations stay.
    ///
    /// # Errors
    ///
    /// [`MemblockError::Full`] if a run is to be split and there is no room for the second half.
    pub fn remove(&mut self, range: FrameRange) -> Result<(), MemblockError> {
        if range.is_empty() {
            return Ok(());
        }
        let memory = self.memory.removal(range).ok_or(full::<N>(List::Memory, range))?;
        let nomap = self.nomap.removal(range).ok_or(full::<N>(List::Nomap, range))?;
        self.memory.apply(memory);
        self.nomap.apply(nomap);
        Ok(())
    }

    /// Reserves `range`. What was reserved already stays so: reservations do not nest.
    ///
    /// # Errors
    ///
    /// [`MemblockError::Full`] if the list has no room for another run.
    pub fn reserve(&mut self, range: FrameRange) -> Result<(), MemblockError> {
        insert(&mut self.reserved, List::Reserved, range)
    }

    /// Frees `range`. What was not reserved stays free.
    ///
    /// # Errors
    ///
    /// [`MemblockError::Full`] if a run is to be split and there is no room for the second half.
    pub fn free(&mut self, range: FrameRange) -> Result<(), MemblockError> {
        if range.is_empty() {
            return Ok(());
        }
        let edit = self.reserved.removal(range).ok_or(full::<N>(List::Reserved, range))?;
        self.reserved.apply(edit);
        Ok(())
    }

    /// Marks `range` to be left out of the direct map (invariant I2).
    ///
    /// # Errors
    ///
    /// [`MemblockError::NotMemory`] unless all of it is memory. [`MemblockError::Full`] if the list has no room for
    /// another run.
    pub fn mark_nomap(&mut self, range: FrameRange) -> Result<(), MemblockError> {
        if !self.memory.covers(range) {
            return Err(MemblockError::NotMemory(range));
        }
        insert(&mut self.nomap, List::Nomap, range)
    }

    /// Finds, reserves and returns `frames` free frames inside `within`: memory that is neither reserved nor marked.
    /// The first frame is a multiple of `align` frames. `direction` names the end of the window from which they are
    /// taken.
    ///
    /// # Errors
    ///
    /// [`MemblockError::ZeroFrames`] if `frames` is 0. [`MemblockError::Alignment`] if `align` is not a power of two.
    /// [`MemblockError::NoSpace`] if no free run is large enough. [`MemblockError::Full`] if the list of reservations
    /// has no room.
    pub fn phys_alloc_range(
        &mut self,
        frames: u32,
        align: u32,
        within: FrameRange,
        direction: Direction,
    ) -> Result<FrameRange, MemblockError> {
        if frames == 0 {
            return Err(MemblockError::ZeroFrames);
        }
        if !align.is_power_of_two() {
            return Err(MemblockError::Alignment(align));
        }
        let mut found = None;
        let mut largest = 0;
        for run in self.free_ranges().map(|run| run.intersection(within)) {
            // Frame numbers end at 2^20, alignments at 2^31: their sum fits.
            let lowest = run.start().next_multiple_of(align);
            let room = run.end().saturating_sub(lowest);
            largest = largest.max(room);
            if frames > room {
                continue;
            }
            match direction {
                Direction::BottomUp => {
                    found = FrameRange::new(lowest, frames);
                    break;
                }
                Direction::TopDown => found = FrameRange::new((run.end() - frames) & !(align - 1), frames),
            }
        }
        let range = found.ok_or(MemblockError::NoSpace { frames, align, within, largest })?;
        self.reserve(range)?;
        Ok(range)
    }

    /// Yields the RAM, in order.
    pub fn memory(&self) -> impl Iterator<Item = FrameRange> + '_ {
        self.memory.0.iter().copied()
    }

    /// Yields the reservations, in order.
    pub fn reserved(&self) -> impl Iterator<Item = FrameRange> + '_ {
        self.reserved.0.iter().copied()
    }

    /// Yields the RAM that the direct map leaves out, in order.
    pub fn nomap(&self) -> impl Iterator<Item = FrameRange> + '_ {
        self.nomap.0.iter().copied()
    }

    /// Yields the RAM that nobody holds and the direct map holds, in order. Each run is as long as it can be.
    pub fn free_ranges(&self) -> impl Iterator<Item = FrameRange> + '_ {
        Remainder { runs: &self.memory.0, holes: [&self.reserved.0, &self.nomap.0], from: 0 }
    }

    /// Yields what the direct map holds: RAM without `nomap` marks, in order. Each run is as long as it can be.
    pub fn mapped_ranges(&self) -> impl Iterator<Item = FrameRange> + '_ {
        Remainder { runs: &self.memory.0, holes: [&self.nomap.0, &[]], from: 0 }
    }

    /// Returns whether all of `range` is memory.
    pub fn is_memory(&self, range: FrameRange) -> bool {
        self.memory.covers(range)
    }
}

const fn full<const N: usize>(list: List, range: FrameRange) -> MemblockError {
    MemblockError::Full { list, range, capacity: N }
}

fn insert<const N: usize>(set: &mut RangeSet<N>, list: List, range: FrameRange) -> Result<(), MemblockError> {
    if !range.is_empty() {
        let edit = set.insertion(range).ok_or(full::<N>(list, range))?;
        set.apply(edit);
    }
    Ok(())
}

/// An iterator over the parts of `runs` that are in none of `holes`, by one walk along the three sorted lists.
struct Remainder<'a> {
    runs: &'a [FrameRange],
    holes: [&'a [FrameRange]; 2],
    /// Frames below this number are done with.
    from: u32,
}

impl Iterator for Remainder<'_> {
    type Item = FrameRange;

    fn next(&mut self) -> Option<FrameRange> {
        loop {
            let (run, rest) = self.runs.split_first()?;
            let start = self.from.max(run.start());
            if start >= run.end() {
                self.runs = rest;
                continue;
            }
            let mut end = run.end();
            let mut resume = start;
            for holes in &mut self.holes {
                while let Some((hole, rest)) = holes.split_first()
                    && hole.end() <= start
                {
                    *holes = rest;
                }
                if let Some(hole) = holes.first() {
                    if hole.start() <= start {
                        resume = resume.max(hole.end());
                    } else {
                        end = end.min(hole.start());
                    }
                }
            }
            if resume > start {
                self.from = resume;
                continue;
            }
            self.from = end;
            return FrameRange::between(start, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::ToString;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// Frames in the models' world. Small, so that operations meet.
    const WORLD: u32 = 96;

    fn range(start: u32, end: u32) -> FrameRange {
        FrameRange::between(start, end).unwrap()
    }

    #[derive(Clone, Debug)]
    enum Op {
        Add(FrameRange),
        Remove(FrameRange),
        Reserve(FrameRange),
        Free(FrameRange),
        MarkNomap(FrameRange),
        Alloc(u32, u32, FrameRange, Direction),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let run = || (0..WORLD, 0..24_u32).prop_map(|(start, count)| range(start, (start + count).min(WORLD)));
        let direction = prop_oneof![Just(Direction::TopDown), Just(Direction::BottomUp)];
        let window = (0..WORLD, 0..=WORLD).prop_map(|(a, b)| range(a.min(b), a.max(b)));
        let op = prop_oneof![
            3 => run().prop_map(Op::Add),
            1 => run().prop_map(Op::Remove),
            2 => run().prop_map(Op::Reserve),
            2 => run().prop_map(Op::Free),
            1 => run().prop_map(Op::MarkNomap),
            3 => (0..12_u32, 0..9_u32, window, direction).prop_map(|(n, a, w, d)| Op::Alloc(n, a, w, d)),
        ];
        prop::collection::vec(op, 0..60)
    }

    /// One flag a frame and list.
    #[derive(Clone, PartialEq, Debug)]
    struct Model {
        memory: [bool; WORLD as usize],
        reserved: [bool; WORLD as usize],
        nomap: [bool; WORLD as usize],
    }

    impl Model {
        fn new() -> Self {
            let none = [false; WORLD as usize];
            Self { memory: none, reserved: none, nomap: none }
        }

        fn is_free(&self, frame: u32) -> bool {
            let i = frame as usize;
            self.memory[i] && !self.reserved[i] && !self.nomap[i]
        }

        fn place(&self, frames: u32, align: u32, within: FrameRange, direction: Direction) -> Option<u32> {
            let fits = |&start: &u32| {
                start % align == 0 && start + frames <= within.end() && (start..start + frames).all(|f| self.is_free(f))
            };
            match direction {
                Direction::BottomUp => (within.start()..within.end()).find(fits),
                Direction::TopDown => (within.start()..within.end()).rev().find(fits),
            }
        }

        /// What `op` should do, given room without end: the outcome, or an error that is not [`MemblockError::Full`].
        fn apply(&mut self, op: &Op) -> Result<Option<FrameRange>, ()> {
            let set = |flags: &mut [bool], range: FrameRange, to: bool| {
                flags[range.start() as usize..range.end() as usize].fill(to);
            };
            match *op {
                Op::Add(range) => set(&mut self.memory, range, true),
                Op::Remove(range) => {
                    set(&mut self.memory, range, false);
                    set(&mut self.nomap, range, false);
                }
                Op::Reserve(range) => set(&mut self.reserved, range, true),
                Op::Free(range) => set(&mut self.reserved, range, false),
                Op::MarkNomap(range) => {
                    if !range.iter().all(|frame| self.memory[frame.number() as usize]) {
                        return Err(());
                    }
                    set(&mut self.nomap, range, true);
                }
                Op::Alloc(frames, align, within, direction) => {
                    if frames == 0 || !align.is_power_of_two() {
                        return Err(());
                    }
                    let start = self.place(frames, align, within, direction).ok_or(())?;
                    let range = range(start, start + frames);
                    set(&mut self.reserved, range, true);
                    return Ok(Some(range));
                }
            }
            Ok(None)
        }

        fn longest_list(&self) -> usize {
            [&self.memory, &self.reserved, &self.nomap].map(|flags| runs(|f| flags[f as usize]).len())[..]
                .iter()
                .copied()
                .max()
                .unwrap()
        }
    }

    /// The maximal runs of frames that satisfy `holds`.
    fn runs(holds: impl Fn(u32) -> bool) -> Vec<FrameRange> {
        let mut runs = Vec::new();
        let mut start = None;
        for frame in 0..=WORLD {
            match (frame < WORLD && holds(frame), start) {
                (true, None) => start = Some(frame),
                (false, Some(first)) => {
                    runs.push(range(first, frame));
                    start = None;
                }
                _ => {}
            }
        }
        runs
    }

    fn apply<const N: usize>(memblock: &mut Memblock<N>, op: &Op) -> Result<Option<FrameRange>, MemblockError> {
        match *op {
            Op::Add(range) => memblock.add(range).map(|()| None),
            Op::Remove(range) => memblock.remove(range).map(|()| None),
            Op::Reserve(range) => memblock.reserve(range).map(|()| None),
            Op::Free(range) => memblock.free(range).map(|()| None),
            Op::MarkNomap(range) => memblock.mark_nomap(range).map(|()| None),
            Op::Alloc(frames, align, within, direction) => {
                memblock.phys_alloc_range(frames, align, within, direction).map(Some)
            }
        }
    }

    fn assert_agrees<const N: usize>(memblock: &Memblock<N>, model: &Model) {
        let list = |flags: &[bool; WORLD as usize]| runs(|frame| flags[frame as usize]);
        assert_eq!(memblock.memory().collect::<Vec<_>>(), list(&model.memory));
        assert_eq!(memblock.reserved().collect::<Vec<_>>(), list(&model.reserved));
        assert_eq!(memblock.nomap().collect::<Vec<_>>(), list(&model.nomap));
        assert_eq!(memblock.free_ranges().collect::<Vec<_>>(), runs(|frame| model.is_free(frame)));
        let mapped = runs(|frame| model.memory[frame as usize] && !model.nomap[frame as usize]);
        assert_eq!(memblock.mapped_ranges().collect::<Vec<_>>(), mapped);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// I2's bookkeeping: the lists, the free runs and the chosen places are those of one flag a frame.
        #[test]
        fn agrees_with_a_bitmap(ops in ops()) {
            let mut memblock = Memblock::<128>::new();
            let mut model = Model::new();
            for op in &ops {
                let before = memblock.clone();
                let expected = model.apply(op);
                let outcome = apply(&mut memblock, op);
                prop_assert_eq!(outcome.map_err(|_| ()), expected, "{:?}", op);
                if outcome.is_err() {
                    prop_assert_eq!(&memblock, &before);
                }
                assert_agrees(&memblock, &model);
            }
        }

        /// With room for three runs only: full exactly when a list would grow past it, and then nothing changes.
        #[test]
        fn a_full_list_changes_nothing(ops in ops()) {
            let mut memblock = Memblock::<3>::new();
            let mut model = Model::new();
            for op in &ops {
                let before = memblock.clone();
                let mut after = model.clone();
                let expected = after.apply(op);
                match apply(&mut memblock, op) {
                    Err(MemblockError::Full { capacity, .. }) => {
                        prop_assert_eq!(capacity, 3);
                        prop_assert!(after.longest_list() > 3, "{:?} was refused without need", op);
                        prop_assert_eq!(&memblock, &before);
                    }
                    outcome => {
                        prop_assert_eq!(outcome.map_err(|_| ()), expected);
                        model = after;
                        assert_agrees(&memblock, &model);
                    }
                }
            }
        }

        /// The largest run in the error is what would still have fitted, and one frame more would not.
        #[test]
        fn no_space_names_the_largest_run(ops in ops(), shift in 0..4_u32) {
            let align = 1 << shift;
            let mut memblock = Memblock::<128>::new();
            for op in &ops {
                let _ = apply(&mut memblock, op);
            }
            let within = range(3, WORLD - 5);
            let Err(MemblockError::NoSpace { largest, .. }) =
                memblock.clone().phys_alloc_range(WORLD, align, within, Direction::TopDown)
            else {
                panic!("a window holds no more frames than it has");
            };
            prop_assert!(memblock.clone().phys_alloc_range(largest + 1, align, within, Direction::TopDown).is_err());
            if largest > 0 {
                prop_assert!(memblock.phys_alloc_range(largest, align, within, Direction::BottomUp).is_ok());
            }
        }
    }

    #[test]
    fn neighbours_merge_and_gaps_stay() {
        let mut memblock = Memblock::<4>::new();
        memblock.add(range(0, 4)).unwrap();
        memblock.add(range(8, 12)).unwrap();
        memblock.add(range(4, 6)).unwrap();
        assert_eq!(memblock.memory().collect::<Vec<_>>(), [range(0, 6), range(8, 12)]);
        memblock.add(range(5, 9)).unwrap();
        assert_eq!(memblock.memory().collect::<Vec<_>>(), [range(0, 12)]);
    }

    #[test]
    fn the_last_frame_of_four_gib_can_be_had() {
        let mut memblock = Memblock::<2>::new();
        memblock.add(range(0xf_fff0, 0x10_0000)).unwrap();
        let top = memblock.phys_alloc_range(1, 1, FrameRange::ALL, Direction::TopDown).unwrap();
        assert_eq!(top, range(0xf_ffff, 0x10_0000));
        let none = memblock.phys_alloc_range(1, 1 << 31, FrameRange::ALL, Direction::TopDown);
        assert!(matches!(none, Err(MemblockError::NoSpace { largest: 0, .. })));
    }

    #[test]
    fn removed_memory_loses_its_mark() {
        let mut memblock = Memblock::<4>::new();
        memblock.add(range(0, 8)).unwrap();
        memblock.mark_nomap(range(2, 6)).unwrap();
        memblock.remove(range(3, 5)).unwrap();
        memblock.add(range(3, 5)).unwrap();
        assert_eq!(memblock.nomap().collect::<Vec<_>>(), [range(2, 3), range(5, 6)]);
        assert_eq!(memblock.mapped_ranges().collect::<Vec<_>>(), [range(0, 2), range(3, 5), range(6, 8)]);
    }

    #[test]
    fn messages() {
        let mut memblock = Memblock::<1>::new();
        memblock.add(range(0x60000, 0x70000)).unwrap();
        let say = |error: MemblockError| error.to_string();
        assert_eq!(
            say(memblock.add(range(0x80000, 0x80001)).unwrap_err()),
            "memblock: no room for 0x80000000-0x80001000 (4 KiB) in the memory list of 1 runs"
        );
        assert_eq!(
            say(memblock.mark_nomap(range(0x6ffff, 0x70001)).unwrap_err()),
            "memblock: 0x6ffff000-0x70001000 (8 KiB) is not all memory"
        );
        memblock.reserve(range(0x60000, 0x60001)).unwrap();
        assert_eq!(
            say(memblock.phys_alloc_range(0x10000, 256, FrameRange::ALL, Direction::TopDown).unwrap_err()),
            format!("memblock: no free run of 256 MiB aligned to 1 MiB in {}; the largest is 255 MiB", FrameRange::ALL)
        );
        assert_eq!(
            say(memblock.phys_alloc_range(1, 3, FrameRange::ALL, Direction::TopDown).unwrap_err()),
            "memblock: alignment of 3 frames is not a power of two"
        );
        assert_eq!(
            say(memblock.phys_alloc_range(0, 1, FrameRange::ALL, Direction::TopDown).unwrap_err()),
            "memblock: allocation of 0 frames"
        );
    }
}
