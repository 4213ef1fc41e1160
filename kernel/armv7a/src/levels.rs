//! Cache levels, one after another: the protocol's sequences are executed here.
//!
//! Guarantees the order of [`protocol`](carveout::protocol), whatever the levels are. Without an outer level its steps
//! are left out.

use carveout::machine::Lines;
use carveout::protocol::LineStep;
use carveout::vm::mapped::Part;

/// One level: operations on every line that holds a byte of a part.
pub trait Level {
    /// Starts writing dirty lines to the next level; returns how many lines were asked for.
    fn clean(&self, part: Part<'_>) -> u64;

    /// Starts discarding lines; returns how many were asked for.
    fn invalidate(&self, part: Part<'_>) -> u64;

    /// Waits until everything started is complete: a DSB, a controller's sync.
    fn wait(&self);
}

/// Takes the steps, and returns how many lines were asked for.
#[inline]
pub fn run(steps: &[LineStep], inner: &impl Level, outer: Option<&impl Level>, part: Part<'_>) -> Lines {
    let mut lines = Lines::default();
    for step in steps {
        match (step, outer) {
            (LineStep::CleanInner, _) => lines.inner += inner.clean(part),
            (LineStep::InvalidateInner, _) => lines.inner += inner.invalidate(part),
            (LineStep::WaitInner, _) => inner.wait(),
            (LineStep::CleanOuter, Some(outer)) => lines.outer += outer.clean(part),
            (LineStep::InvalidateOuter, Some(outer)) => lines.outer += outer.invalidate(part),
            (LineStep::WaitOuter, Some(outer)) => outer.wait(),
            (LineStep::CleanOuter | LineStep::InvalidateOuter | LineStep::WaitOuter, None) => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use carveout::addr::{FrameRange, VirtAddr};
    use carveout::protocol::{CLEAN, DISCARD, INVALIDATE};
    use carveout::vm::attr::MemoryType;
    use carveout::vm::mapped::Mapped;
    use std::cell::RefCell;
    use std::vec::Vec;

    /// A level that writes down what it is asked.
    struct Recorder<'r> {
        outer: bool,
        asked: &'r RefCell<Vec<LineStep>>,
    }

    impl Recorder<'_> {
        fn note(&self, inner: LineStep, outer: LineStep) {
            self.asked.borrow_mut().push(if self.outer { outer } else { inner });
        }
    }

    impl Level for Recorder<'_> {
        fn clean(&self, part: Part<'_>) -> u64 {
            self.note(LineStep::CleanInner, LineStep::CleanOuter);
            (part.bytes() / 32).into()
        }

        fn invalidate(&self, part: Part<'_>) -> u64 {
            self.note(LineStep::InvalidateInner, LineStep::InvalidateOuter);
            (part.bytes() / 32).into()
        }

        fn wait(&self) {
            self.note(LineStep::WaitInner, LineStep::WaitOuter);
        }
    }

    #[test]
    fn each_step_of_a_sequence_is_taken_in_its_order_by_its_level() {
        let frames = FrameRange::new(0x60000, 1).unwrap();
        // SAFETY: no level here touches the memory.
        let mapped = unsafe { Mapped::assume(VirtAddr::new(0xc000_0000), frames, MemoryType::WriteBack) };
        for (steps, lines) in [
            (&CLEAN[..], Lines { inner: 128, outer: 128 }),
            (&INVALIDATE, Lines { inner: 128, outer: 128 }),
            (&DISCARD, Lines { inner: 128, outer: 128 }),
        ] {
            let asked = RefCell::default();
            let level = |outer| Recorder { outer, asked: &asked };
            assert_eq!(run(steps, &level(false), Some(&level(true)), mapped.all()), lines);
            assert_eq!(asked.take(), steps);
            let alone = run(steps, &level(false), None::<&Recorder<'_>>, mapped.all());
            assert_eq!(alone, Lines { outer: 0, ..lines });
            let outer = |step: &LineStep| {
                matches!(step, LineStep::CleanOuter | LineStep::InvalidateOuter | LineStep::WaitOuter)
            };
            assert!(asked.take().iter().eq(steps.iter().filter(|step| !outer(step))));
        }
    }
}
