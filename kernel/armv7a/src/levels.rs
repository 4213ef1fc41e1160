//! Cache levels, one after another: the protocol's sequences are executed here.
//!
//! Guarantees the order of [`protocol`], whatever the levels are and however many. A level is an
//! element of a slice, and its place there is its number.

use carveout::machine::Lines;
use carveout::protocol::{self, LineStep};
use carveout::vm::mapped::Part;

/// A level of the caches. Its operations work on every line that holds a byte of a part.
///
/// A kernel whose outer cache is not a PL310 that it may write to implements this, and gives it to
/// `Armv7a::set_outer`. On an OMAP4, say, some of the controller's registers are the secure world's, and its monitor is
/// asked instead:
///
/// ```
/// use carveout::vm::mapped::Part;
/// use carveout_armv7a::levels::CacheLevel;
/// # fn smc(_service: u32, _argument: u32) {}
///
/// /// The services of this board's monitor.
/// const CLEAN_LINE: u32 = 0x101;
/// const INVALIDATE_LINE: u32 = 0x102;
/// const SYNC: u32 = 0x103;
///
/// struct Monitor;
///
/// impl Monitor {
///     fn each_line(&self, service: u32, part: Part<'_>) -> u64 {
///         let (first, end) = (part.pa().raw() & !31, part.pa().raw() + part.bytes());
///         (first..end).step_by(32).inspect(|&line| smc(service, line)).count() as u64
///     }
/// }
///
/// // SAFETY: the monitor operates on exactly that line of the outer cache, dirty or not, on behalf of any core. `SYNC`
/// // returns when all that was asked for is done, and the controller's buffers are empty.
/// unsafe impl CacheLevel for Monitor {
///     fn line(&self) -> u32 {
///         32
///     }
///
///     fn clean(&self, part: Part<'_>) -> u64 {
///         self.each_line(CLEAN_LINE, part)
///     }
///
///     fn invalidate(&self, part: Part<'_>) -> u64 {
///         self.each_line(INVALIDATE_LINE, part)
///     }
///
///     fn wait(&self) {
///         smc(SYNC, 0);
///     }
/// }
/// ```
///
/// # Safety
///
/// The implementer's duties, on which I3 rests. Once [`wait`](Self::wait) returned:
///
/// - what dirty lines of a part held when [`clean`](Self::clean) was called is in the next level, and in memory if
///   there is none;
/// - no line of a part is left that was there when [`invalidate`](Self::invalidate) was called. The data of a dirty one
///   may have reached the next level, and does not later;
/// - no line is left that was there when [`flush`](Self::flush) was called, and none comes back of memory that no
///   write-back translation reaches. What dirty ones held is in the next level, or in memory;
/// - of accesses that came before and bypass this level, such as non-cacheable writes, none is in a buffer of it.
///
/// No line outside of a part loses data. No line is larger than [`line`](Self::line). Any core may call any of these at
/// any time, also with interrupts masked.
pub unsafe trait CacheLevel: Sync {
    /// Returns the bytes of its largest line, a power of two of at most 4 KiB.
    fn line(&self) -> u32;

    /// Starts writing dirty lines to the next level. Returns how many lines were asked for.
    fn clean(&self, part: Part<'_>) -> u64;

    /// Starts discarding lines. Returns how many were asked for.
    fn invalidate(&self, part: Part<'_>) -> u64;

    /// Waits until everything started is complete: a DSB, a controller's sync.
    fn wait(&self);

    /// Returns how many lines it has, on every core, or `None` if it cannot be emptied as a whole.
    fn all_lines(&self) -> Option<u32> {
        None
    }

    /// Starts emptying all of it, on every core: dirty lines are written to the next level, and every line is dropped.
    /// Returns how many lines were asked for. It is called only where [`all_lines`](Self::all_lines) returned a number.
    fn flush(&self) -> u64 {
        unreachable!("this level is not emptied as a whole");
    }
}

/// Takes the steps that a rule of the protocol gives for the number of `levels`. Returns how many lines were asked
/// for. The core's own level is the first.
#[inline]
pub fn run<S>(rule: impl FnOnce(usize) -> S, levels: &[&dyn CacheLevel], part: Part<'_>) -> Lines
where
    S: Iterator<Item = LineStep>,
{
    each_step(rule(levels.len()), levels, |level, step| match step {
        LineStep::Clean(_) => level.clean(part),
        _ => level.invalidate(part),
    })
}

/// Empties all levels, each of which can be. Returns how many lines were asked for.
pub fn flush(levels: &[&dyn CacheLevel]) -> Lines {
    each_step(protocol::flush(levels.len()), levels, |level, _| level.flush())
}

/// Takes steps on levels. `start` starts one and returns how many lines it asked for.
#[inline]
fn each_step(
    steps: impl Iterator<Item = LineStep>,
    levels: &[&dyn CacheLevel],
    start: impl Fn(&dyn CacheLevel, LineStep) -> u64,
) -> Lines {
    steps.fold(Lines::default(), |mut lines, step| {
        let (LineStep::Clean(level) | LineStep::Invalidate(level) | LineStep::Flush(level) | LineStep::Wait(level)) =
            step;
        if let LineStep::Wait(_) = step {
            levels[level].wait();
            return lines;
        }
        let asked = start(levels[level], step);
        let count = if level == 0 { &mut lines.inner } else { &mut lines.outer };
        *count += asked;
        lines
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use LineStep::{Clean, Flush, Invalidate, Wait};
    use carveout::addr::{FrameRange, VirtAddr};
    use carveout::protocol::{clean, discard, invalidate};
    use carveout::vm::attr::MemoryType;
    use carveout::vm::mapped::Mapped;
    use std::sync::Mutex;
    use std::vec::Vec;

    /// A level that writes down what it is asked.
    struct Recorder<'r> {
        level: usize,
        asked: &'r Mutex<Vec<LineStep>>,
    }

    impl Recorder<'_> {
        fn note(&self, step: fn(usize) -> LineStep) {
            self.asked.lock().unwrap().push(step(self.level));
        }
    }

    // SAFETY: no level here has lines.
    unsafe impl CacheLevel for Recorder<'_> {
        fn line(&self) -> u32 {
            32
        }

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

        fn all_lines(&self) -> Option<u32> {
            Some(1024)
        }

        fn flush(&self) -> u64 {
            self.note(Flush);
            1024
        }
    }

    #[test]
    fn three_levels_are_emptied_outward() {
        let asked = Mutex::default();
        let levels: Vec<_> = (0..3).map(|level| Recorder { level, asked: &asked }).collect();
        let levels: Vec<_> = levels.iter().map(|level| level as &dyn CacheLevel).collect();
        assert_eq!(flush(&levels), Lines { inner: 1024, outer: 2048 });
        let outward = [Flush(0), Wait(0), Flush(1), Wait(1), Flush(2), Wait(2)];
        assert_eq!(asked.into_inner().unwrap(), outward);
    }

    /// Returns what so many levels were asked by a rule, in its order, for one page.
    fn asked<S: Iterator<Item = LineStep>>(rule: impl FnOnce(usize) -> S, levels: usize) -> (Vec<LineStep>, Lines) {
        let frames = FrameRange::new(0x60000, 1).unwrap();
        // SAFETY: no level here touches the memory.
        let mapped = unsafe { Mapped::assume(VirtAddr::new(0xc000_0000), frames, MemoryType::WriteBack) };
        let asked = Mutex::default();
        let levels: Vec<_> = (0..levels).map(|level| Recorder { level, asked: &asked }).collect();
        let levels: Vec<_> = levels.iter().map(|level| level as &dyn CacheLevel).collect();
        let lines = run(rule, &levels, mapped.all());
        (asked.into_inner().unwrap(), lines)
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
