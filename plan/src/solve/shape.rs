//! Where a buffer may lie, and the lowest place of one beside others.

use std::ops::Range;

use crate::problem::{FRAME, Problem};

/// What holds for each buffer of a set.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) frames: u32,
    /// In frames, a power of two.
    pub(super) align: u32,
    /// In frames, a power of two.
    boundary: Option<u32>,
    pub(super) count: u32,
    /// Where it may lie, from the lowest part on.
    pub(super) parts: Vec<Part>,
}

/// Frames that a device sees at consecutive addresses.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) frames: Range<u32>,
    /// What is added to a frame's number to get that of the bus.
    shift: u32,
}

impl Shape {
    /// Returns the shape of a set's buffers in these runs of frames.
    pub(super) fn of(problem: &Problem, set: usize, runs: &[Range<u32>]) -> Self {
        let set = &problem.sets[set];
        let device = &problem.devices[set.device];
        let mut parts = Vec::new();
        for window in &device.windows {
            let driven = (u64::from(device.mask) + 1).saturating_sub(window.bus.into()).min(window.bytes);
            let frame = u64::from(FRAME);
            let start = u64::from(window.phys).div_ceil(frame) as u32;
            let end = ((u64::from(window.phys) + driven) / frame) as u32;
            let shift = window.bus.wrapping_sub(window.phys) / FRAME;
            for run in runs {
                let frames = start.max(run.start)..end.min(run.end);
                if frames.start < frames.end {
                    parts.push(Part { frames, shift });
                }
            }
        }
        parts.sort_by_key(|part| part.frames.start);
        let boundary = device.boundary.map(|boundary| boundary / FRAME);
        Self { frames: set.frames(), align: set.align / FRAME, boundary, count: set.count, parts }
    }
}

/// A slot that has a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    /// The number of its set in the [`Layer`].
    pub(super) set: usize,
    pub(super) start: u32,
    pub(super) end: u32,
}

/// An arrangement of all slots.
#[derive(Clone, Debug)]
pub(super) struct Arrangement {
    pub(super) placed: Vec<Slot>,
    /// Where the last slot ends.
    pub(super) end: u32,
}

/// The sets of an area, each with its shape there, and which of them lie apart.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) shapes: Vec<Shape>,
    pub(super) apart: Vec<Vec<bool>>,
}

impl Layer {
    pub(super) fn new(problem: &Problem, sets: &[usize], runs: &[Range<u32>]) -> Self {
        let shapes = sets.iter().map(|&set| Shape::of(problem, set, runs)).collect();
        let apart = sets.iter().map(|&a| sets.iter().map(|&b| problem.together(a, b)).collect()).collect();
        Self { shapes, apart }
    }

    /// Returns the lowest place from `from` on for a buffer of a set, beside slots that have places, that ends at
    /// `limit` or before. Counts each slot that it looks at.
    pub(super) fn lowest(&self, set: usize, placed: &[Slot], from: u32, limit: u32, steps: &mut u64) -> Option<u32> {
        let shape = &self.shapes[set];
        for part in &shape.parts {
            let mut at = part.frames.start.max(from);
            loop {
                // By the address on the bus.
                let bus = at.wrapping_add(part.shift);
                at = at.checked_add(bus.next_multiple_of(shape.align) - bus)?;
                if let Some(boundary) = shape.boundary {
                    let into = at.wrapping_add(part.shift) % boundary;
                    if into + shape.frames > boundary {
                        if into == 0 {
                            return None;
                        }
                        at = at.checked_add(boundary - into)?;
                        continue;
                    }
                }
                let end = at.checked_add(shape.frames)?;
                if end > part.frames.end.min(limit) {
                    break;
                }
                *steps += placed.len() as u64 + 1;
                let meets = |slot: &&Slot| slot.start < end && at < slot.end && self.apart[set][slot.set];
                match placed.iter().filter(meets).map(|slot| slot.end).max() {
                    Some(end) => at = end,
                    None => return Some(at),
                }
            }
        }
        None
    }
}
