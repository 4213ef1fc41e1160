//! Cache levels, one after another: the protocol's sequences are executed here.
//!
//! Guarantees the order of [`protocol`](carveout::protocol), whatever the levels are and however many. A level is an
//! element of a slice, and its place there is its number.

use carveout::machine::Lines;
use carveout::protocol::LineStep;
use carveout::vm::mapped::Part;

/// A level of the caches. Its operations work on every line that holds a byte of a part.
pub trait CacheLevel {
    /// Starts writing dirty lines to the next level. Returns how many lines were asked for.
    fn clean(&self, part: Part<'_>) -> u64;

    /// Starts discarding lines. Returns how many were asked for.
    fn invalidate(&self, part: Part<'_>) -> u64;

    /// Waits until everything started is complete: a DSB, a controller's sync.
    fn wait(&self);
}

/// Takes the steps that a rule of the protocol gives for the number of `levels`. Returns how many lines were asked
/// for. The core's own level is the first.
#[inline]
pub fn run<S>(rule: impl FnOnce(usize) -> S, levels: &[&dyn CacheLevel], part: Part<'_>) -> Lines
where
    S: Iterator<Item = LineStep>,
{
    rule(levels.len()).fold(Lines::default(), |mut lines, step| {
        let (level, asked) = match step {
            LineStep::Clean(level) => (level, levels[level].clean(part)),
            LineStep::Invalidate(level) => (level, levels[level].invalidate(part)),
            LineStep::Wait(level) => {
                levels[level].wait();
                return lines;
            }
        };
        let count = if level == 0 { &mut lines.inner } else { &mut lines.outer };
        *count += asked;
        lines
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use LineStep::{Clean, Invalidate, Wait};
    use carveout::addr::{FrameRange, VirtAddr};
    use carveout::protocol::{clean, discard, invalidate};
    use carveout::vm::attr::MemoryType;
    use carveout::vm::mapped::Mapped;
    use std::cell::RefCell;
    use std::vec::Vec;

    /// A level that writes down what it is asked.
    struct Recorder<'r> {
        level: usize,
        asked: &'r RefCell<Vec<LineStep>>,
    }

    impl Recorder<'_> {
        fn note(&self, step: fn(usize) -> LineStep) {
            self.asked.borrow_mut().push(step(self.level));
        }
    }

    impl CacheLevel for Recorder<'_> {
        fn clean(&self, part: Part<'_>) -> u64 {
            self.note(Clean);
            (part.bytes() / 32).into()
        }

        fn invalidate(&self, part: Part<'_>) -> u64 {
            self.note(Invalidate);
            (part.bytes() / 32).into()
        }

        fn wait(&self) {
            self.note(Wait);
        }
    }

    /// Returns what so many levels were asked by a rule, in its order, for one page.
    fn asked<S: Iterator<Item = LineStep>>(rule: impl FnOnce(usize) -> S, levels: usize) -> (Vec<LineStep>, Lines) {
        let frames = FrameRange::new(0x60000, 1).unwrap();
        // SAFETY: no level here touches the memory.
        let mapped = unsafe { Mapped::assume(VirtAddr::new(0xc000_0000), frames, MemoryType::WriteBack) };
        let asked = RefCell::default();
        let levels: Vec<_> = (0..levels).map(|level| Recorder { level, asked: &asked }).collect();
        let levels: Vec<_> = levels.iter().map(|level| level as &dyn CacheLevel).collect();
        let lines = run(rule, &levels, mapped.all());
        (asked.take(), lines)
    }

    #[test]
    fn three_levels_are_cleaned_and_discarded_outward_and_invalidated_inward() {
        // The two levels outside of the core are counted together.
        let lines = Lines { inner: 128, outer: 2 * 128 };
        assert_eq!(asked(clean, 3), ([Clean(0), Wait(0), Clean(1), Wait(1), Clean(2)].into(), lines));
        let inward = [Invalidate(2), Wait(2), Invalidate(1), Wait(1), Invalidate(0), Wait(0)];
        assert_eq!(asked(invalidate, 3), (inward.into(), lines));
        let outward = [Invalidate(0), Wait(0), Invalidate(1), Wait(1), Invalidate(2), Wait(2)];
        assert_eq!(asked(discard, 3), (outward.into(), lines));
    }

    #[test]
    fn a_machine_without_an_outer_level_takes_the_steps_of_level_0_alone() {
        let lines = Lines { inner: 128, outer: 0 };
        let of_level_0 = |step: &LineStep| matches!(step, Clean(0) | Invalidate(0) | Wait(0));
        assert_eq!(asked(clean, 1), (clean(2).filter(of_level_0).collect(), lines));
        assert_eq!(asked(invalidate, 1), (invalidate(2).filter(of_level_0).collect(), lines));
        assert_eq!(asked(discard, 1), (discard(2).filter(of_level_0).collect(), lines));
    }
}
