//! Cache levels composed: which level comes first.
//!
//! Guarantees the order that data needs, whatever the levels are. Towards a device, clean inner, wait, clean outer,
//! wait: what leaves the inner level lands in the outer one, and would stay there if that had been cleaned before.
//! Away from a device, invalidate outer, wait, invalidate inner, wait: the other way round, an inner line is refilled
//! from an outer one that is stale. The tests explore every interleaving of these steps with fills and evictions.

use crate::arch::Lines;
use crate::vm::space::Part;

/// One level: operations on every line that holds a byte of a part.
pub trait Level {
    /// Starts writing dirty lines to the next level; returns how many lines were asked for.
    fn clean(&self, part: Part<'_>) -> u64;

    /// Starts discarding lines; returns how many were asked for.
    fn invalidate(&self, part: Part<'_>) -> u64;

    /// Waits until everything started is complete: a DSB, a controller's sync.
    fn wait(&self);
}

/// Cleans to the point of coherency.
pub fn clean(inner: &impl Level, outer: Option<&impl Level>, part: Part<'_>) -> Lines {
    let mut lines = Lines { inner: inner.clean(part), outer: 0 };
    inner.wait();
    if let Some(outer) = outer {
        lines.outer = outer.clean(part);
        outer.wait();
    }
    lines
}

/// Invalidates to the point of coherency.
pub fn invalidate(inner: &impl Level, outer: Option<&impl Level>, part: Part<'_>) -> Lines {
    let mut lines = Lines::default();
    if let Some(outer) = outer {
        lines.outer = outer.invalidate(part);
        outer.wait();
    }
    lines.inner = inner.invalidate(part);
    inner.wait();
    lines
}

/// Invalidates to the point of coherency what may be dirty and is dead. A dirty inner line that is evicted between the
/// two levels' invalidates would stay in the outer one and be written later, over whatever came meanwhile: so it goes
/// first.
pub fn discard(inner: &impl Level, outer: Option<&impl Level>, part: Part<'_>) -> Lines {
    let mut lines = Lines::default();
    if outer.is_some() {
        lines.inner = inner.invalidate(part);
        inner.wait();
    }
    lines + invalidate(inner, outer, part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::FrameRange;
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::rc::Rc;
    use std::vec::Vec;

    /// What a level was asked, as a step of the model.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Step {
        CleanInner,
        CleanOuter,
        InvalidateInner,
        InvalidateOuter,
    }

    /// A level that writes down what it is asked; what is started counts as done when waited for.
    struct Recorder {
        inner: bool,
        started: RefCell<Vec<Step>>,
        done: Rc<RefCell<Vec<Step>>>,
    }

    impl Level for Recorder {
        fn clean(&self, _: Part<'_>) -> u64 {
            self.started.borrow_mut().push(if self.inner { Step::CleanInner } else { Step::CleanOuter });
            1
        }

        fn invalidate(&self, _: Part<'_>) -> u64 {
            self.started.borrow_mut().push(if self.inner { Step::InvalidateInner } else { Step::InvalidateOuter });
            1
        }

        fn wait(&self) {
            self.done.borrow_mut().append(&mut self.started.borrow_mut());
        }
    }

    /// The steps that one of the two compositions takes, by the code under test.
    fn steps(compose: fn(&Recorder, Option<&Recorder>, Part<'_>) -> Lines) -> Vec<Step> {
        let frames = FrameRange::new(0x60000, 1).unwrap();
        let done = Rc::new(RefCell::new(Vec::new()));
        let level = |inner| Recorder { inner, started: RefCell::default(), done: Rc::clone(&done) };
        let (inner, outer) = (level(true), level(false));
        let mapped = crate::vm::space::mapped_for_tests(frames);
        let lines = compose(&inner, Some(&outer), mapped.all());
        assert_eq!(lines.inner + lines.outer, done.borrow().len() as u64, "each is counted");
        assert!(inner.started.borrow().is_empty() && outer.started.borrow().is_empty(), "waited for");
        done.take()
    }

    /// One line: a value and whether it is newer than the next level's, in each level that holds it.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
    struct Line {
        inner: Option<(u8, bool)>,
        outer: Option<(u8, bool)>,
        memory: u8,
    }

    impl Line {
        fn write_outer(self, value: u8) -> Self {
            match self.outer {
                Some(_) => Self { outer: Some((value, true)), ..self },
                None => Self { memory: value, ..self },
            }
        }

        fn step(self, step: Step) -> Self {
            match (step, self.inner, self.outer) {
                (Step::CleanInner, Some((value, true)), _) => {
                    Self { inner: Some((value, false)), ..self.write_outer(value) }
                }
                (Step::CleanOuter, _, Some((value, true))) => {
                    Self { outer: Some((value, false)), memory: value, ..self }
                }
                (Step::InvalidateInner, ..) => Self { inner: None, ..self },
                (Step::InvalidateOuter, ..) => Self { outer: None, ..self },
                _ => self,
            }
        }

        /// What the CPU would read.
        fn read(self) -> u8 {
            self.inner.or(self.outer).map_or(self.memory, |(value, _)| value)
        }

        /// Everything the hardware may do on its own: fill either level, evict from either.
        fn whims(self) -> impl Iterator<Item = Self> {
            let below = self.outer.map_or(self.memory, |(value, _)| value);
            let fill_outer = self.outer.is_none().then_some(Self { outer: Some((self.memory, false)), ..self });
            let fill_inner = self.inner.is_none().then_some(Self { inner: Some((below, false)), ..self });
            let evict_inner = self.inner.map(|(value, dirty)| {
                let rest = Self { inner: None, ..self };
                if dirty { rest.write_outer(value) } else { rest }
            });
            let evict_outer = self.outer.map(|(value, dirty)| Self {
                outer: None,
                memory: if dirty { value } else { self.memory },
                ..self
            });
            [fill_outer, fill_inner, evict_inner, evict_outer].into_iter().flatten()
        }
    }

    /// All lines that can come of these by whims alone.
    fn closure(mut lines: BTreeSet<Line>) -> BTreeSet<Line> {
        let mut new: Vec<Line> = lines.iter().copied().collect();
        while let Some(line) = new.pop() {
            new.extend(line.whims().filter(|&next| lines.insert(next)));
        }
        lines
    }

    /// All that can come of `start` when the steps are taken with whims before, between and after.
    fn outcomes(start: BTreeSet<Line>, steps: &[Step]) -> BTreeSet<Line> {
        steps
            .iter()
            .fold(closure(start), |lines, &step| closure(lines.into_iter().map(|line| line.step(step)).collect()))
    }

    const OLD: u8 = 1;
    const NEW: u8 = 2;

    /// The CPU wrote a line that may have been anywhere.
    fn written() -> BTreeSet<Line> {
        let clean = closure([Line { inner: None, outer: None, memory: OLD }].into());
        clean.into_iter().map(|line| Line { inner: Some((NEW, true)), ..line }).collect()
    }

    /// A device wrote memory while clean lines may have been anywhere.
    fn captured() -> BTreeSet<Line> {
        let clean = closure([Line { inner: None, outer: None, memory: OLD }].into());
        clean.into_iter().map(|line| Line { memory: NEW, ..line }).collect()
    }

    #[test]
    fn what_the_cpu_wrote_reaches_the_device() {
        let steps = steps(clean);
        assert!(outcomes(written(), &steps).iter().all(|line| line.memory == NEW));
        for wrong in [&[steps[1], steps[0]][..], &steps[..1], &steps[1..]] {
            assert!(outcomes(written(), wrong).iter().any(|line| line.memory == OLD), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_discarded_never_reaches_memory() {
        let pending = |line: &Line| [line.inner, line.outer].iter().flatten().any(|&(_, dirty)| dirty);
        let steps = steps(discard);
        assert!(!outcomes(written(), &steps).iter().any(pending));
        // Without the first step a dirty line may be left in the outer cache.
        assert!(outcomes(written(), &steps[1..]).iter().any(pending));
        assert!(outcomes(written(), &[steps[0], steps[2]]).iter().any(pending), "or without the outer one");
        // And nothing stale is left either.
        let old = outcomes(captured(), &steps);
        assert!(old.iter().all(|line| line.read() == NEW));
    }

    #[test]
    fn what_the_device_wrote_reaches_the_cpu() {
        let steps = steps(invalidate);
        assert!(outcomes(captured(), &steps).iter().all(|line| line.read() == NEW));
        for wrong in [&[steps[1], steps[0]][..], &steps[..1], &steps[1..]] {
            assert!(outcomes(captured(), wrong).iter().any(|line| line.read() == OLD), "{wrong:?}");
        }
    }
}
