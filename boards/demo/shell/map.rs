//! The map of an area in text: a character a block.
//!
//! Guarantees: no line has more than 80 columns. What occupies a frame is seen: a block shows the first of
//! [`Occupant::ALL`] that has a frame of it. The legend's bytes are exact.

use alloc::vec;
use alloc::vec::Vec;
use carveout::addr::{Bytes, FRAME_SHIFT, FrameRange, PhysAddr};
use carveout::dma::Occupant;
use core::fmt;

/// The characters of a row, and the most rows that an area of one range has.
const COLUMNS: usize = 64;
const ROWS: u32 = 16;

/// Returns what an occupant is called, and its character.
pub(super) const fn shown(occupant: Occupant) -> (char, &'static str) {
    match occupant {
        Occupant::Held => ('#', "held"),
        Occupant::Zeroing => ('z', "zeroing"),
        Occupant::Contract => ('c', "contract"),
        Occupant::Lent => ('l', "lent"),
        Occupant::Warm => ('w', "warm"),
        Occupant::Idle => ('.', "idle"),
        Occupant::Kernel => ('k', "kernel"),
    }
}

/// Returns the place of an occupant in [`Occupant::ALL`].
pub(super) fn place(occupant: Occupant) -> usize {
    Occupant::ALL.iter().position(|&other| other == occupant).unwrap_or(0)
}

/// A map that is filled run by run.
pub(super) struct Map {
    /// The frames of a block.
    block: u32,
    /// Each range of the area, with its blocks.
    ranges: Vec<(FrameRange, Vec<Option<Occupant>>)>,
    /// Of each occupant, the frames.
    frames: [u64; Occupant::ALL.len()],
}

impl Map {
    /// Makes the map of an area of these ranges, of whose frames nothing is known yet. A block has as many frames as a
    /// power of two, and the map about 16 rows at most.
    pub(super) fn new(ranges: &[FrameRange]) -> Self {
        let all: u32 = ranges.iter().map(|range| range.count()).sum();
        let block = all.div_ceil(ROWS * COLUMNS as u32).max(1).next_power_of_two();
        let blocks = |range: &FrameRange| (*range, vec![None; range.count().div_ceil(block) as usize]);
        Self { block, ranges: ranges.iter().map(blocks).collect(), frames: [0; Occupant::ALL.len()] }
    }

    /// Enters a run of frames.
    pub(super) fn enter(&mut self, run: FrameRange, occupant: Occupant) {
        self.frames[place(occupant)] += u64::from(run.count());
        for (range, blocks) in &mut self.ranges {
            let part = run.intersection(*range);
            if part.is_empty() {
                continue;
            }
            let (first, last) = (part.start() - range.start(), part.end() - 1 - range.start());
            for block in &mut blocks[(first / self.block) as usize..=(last / self.block) as usize] {
                if block.is_none_or(|before| place(occupant) < place(before)) {
                    *block = Some(occupant);
                }
            }
        }
    }
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |frames: u64| Bytes(frames << FRAME_SHIFT);
        write!(f, "A character is {} and shows the first of these that it has:", bytes(self.block.into()))?;
        for (range, blocks) in &self.ranges {
            for (row, blocks) in (0..).zip(blocks.chunks(COLUMNS)) {
                let first = range.start() + row * COLUMNS as u32 * self.block;
                write!(f, "\n{} ", PhysAddr::new(first << FRAME_SHIFT))?;
                for block in blocks {
                    write!(f, "{}", block.map_or('?', |occupant| shown(occupant).0))?;
                }
            }
        }
        for (occupant, &frames) in Occupant::ALL.into_iter().zip(&self.frames).filter(|(_, frames)| **frames > 0) {
            let (character, name) = shown(occupant);
            write!(f, "\n{character} {name:<9} {}", bytes(frames))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;
    use proptest::prelude::*;

    const FIRST: u32 = 0x90000;

    fn at(from: u32, to: u32) -> FrameRange {
        FrameRange::between(FIRST + from, FIRST + to).unwrap()
    }

    #[test]
    fn a_block_shows_what_stands_first_and_the_legend_is_exact() {
        let mut map = Map::new(&[at(0, 16 << 10)]);
        map.enter(at(0, 1), Occupant::Held);
        map.enter(at(1, 1040), Occupant::Idle);
        map.enter(at(1040, 1056), Occupant::Lent);
        map.enter(at(1056, 16 << 10), Occupant::Idle);
        let text = format!("{map}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 16 + 3);
        assert_eq!(lines[0], "A character is 64 KiB and shows the first of these that it has:");
        assert_eq!(lines[1], format!("0x90000000 #{}", ".".repeat(63)));
        assert_eq!(lines[2], format!("0x90400000 .l{}", ".".repeat(62)));
        assert_eq!(lines[17..], ["# held      4 KiB", "l lent      64 KiB", ". idle      65468 KiB"]);
    }

    #[test]
    fn ranges_begin_with_rows_of_their_own() {
        let mut map = Map::new(&[at(0, 3), at(100, 170)]);
        map.enter(at(0, 3), Occupant::Contract);
        map.enter(at(100, 170), Occupant::Kernel);
        let rows = ["0x90000000 ccc", &format!("0x90064000 {}", "k".repeat(64)), "0x900a4000 kkkkkk"].join("\n");
        let head = "A character is 4 KiB and shows the first of these that it has:";
        assert_eq!(format!("{map}"), format!("{head}\n{rows}\nc contract  12 KiB\nk kernel    280 KiB"));
    }

    proptest! {
        #[test]
        fn each_character_is_that_of_its_frames(
            runs in prop::collection::vec((1..3000u32, 0..7usize), 1..40),
        ) {
            let count: u32 = runs.iter().map(|(count, _)| count).sum();
            let mut map = Map::new(&[at(0, count)]);
            let (mut from, mut frames) = (0, Vec::new());
            for &(count, occupant) in &runs {
                map.enter(at(from, from + count), Occupant::ALL[occupant]);
                from += count;
                frames.extend(core::iter::repeat_n(occupant, count as usize));
            }
            let text = format!("{map}");
            prop_assert!(text.lines().all(|line| line.len() <= 80));
            let drawn: String = text.lines().filter_map(|line| line.strip_prefix("0x")?.get(9..)).collect();
            let wanted: String = frames
                .chunks(map.block as usize)
                .map(|block| shown(Occupant::ALL[*block.iter().min().unwrap()]).0)
                .collect();
            prop_assert_eq!(drawn, wanted);
        }
    }
}
