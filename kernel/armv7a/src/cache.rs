//! The data caches up to the point of coherency: the core's own by MVA, those outside of it by physical address.
//!
//! Guarantees maintenance of every line that holds a byte of a part, in the order of [`protocol`]. It is never by
//! set/way, which is local to one core and misses the outer cache. Only whole caches go by that ([`whole`]), on every
//! core, where the embedding kernel permits it.
//!
//! To add a level, implement [`CacheLevel`], give it from `Caches::outward`, and count it in `MOST_LEVELS`.
//!
//! Cortex-A8's second level is part of the core: maintenance by MVA goes through it to the point of coherency (DDI
//! 0344K 3.2.21), and there is no outer controller.

use crate::ids::{self, Geometry};
use crate::levels::{self, CacheLevel};
use crate::whole::{self, OtherCores, UnnamedLevel};
use aarch32_cpu::register::{Clidr, Ctr};
use arrayvec::ArrayVec;
use carveout::cpu::dsb;
use carveout::machine::Lines;
use carveout::protocol::{self, LineStep};
use carveout::vm::mapped::Part;
use core::arch::asm;
use core::fmt;
use core::iter;
use core::num::NonZero;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Once;

/// The most levels: the core's own, and the outer cache.
const MOST_LEVELS: usize = 2;

/// The core's own caches and, if the board has one, the outer cache.
pub struct Caches {
    core: ByMva,
    outer: Once<&'static dyn CacheLevel>,
    /// The lines of all levels and cores, if whole caches may be emptied, or 0.
    all_lines: AtomicU32,
}

impl fmt::Debug for Caches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caches").field("geometries", &self.core.geometries).finish_non_exhaustive()
    }
}

impl Caches {
    /// Reads the core's own caches from its registers.
    #[cold]
    pub(super) fn new() -> Self {
        let of = |level| Geometry::of(level, ccsidr(level));
        let geometries: ArrayVec<_, 7> = ids::data_levels(Clidr::read().0).map(of).collect();
        let step = ids::data_line(Ctr::read().0);
        let line = geometries.iter().map(|geometry| geometry.line).fold(step, u32::max);
        let core = ByMva { log2: step.trailing_zeros(), line, geometries, others: Once::new() };
        Self { core, outer: Once::new(), all_lines: AtomicU32::new(0) }
    }

    pub(super) fn set_outer(&self, outer: &'static dyn CacheLevel) {
        assert!(self.outer.get().is_none(), "a second outer cache");
        self.outer.call_once(|| outer);
        self.count_lines();
    }

    /// Permits that whole caches are emptied.
    #[cold]
    pub(super) fn permit_emptying(&self, others: OtherCores) -> Result<(), UnnamedLevel> {
        let clidr = Clidr::read().0;
        if !ids::names_all_levels(clidr) {
            return Err(UnnamedLevel { clidr });
        }
        assert!(self.core.others.get().is_none(), "a second permission to empty whole caches");
        self.core.others.call_once(|| others);
        self.count_lines();
        Ok(())
    }

    #[cold]
    fn count_lines(&self) {
        let lines = self.outward().try_fold(0, |lines, level| Some(lines + level.all_lines()?));
        self.all_lines.store(lines.unwrap_or(0), Ordering::Relaxed);
    }

    /// Returns how many lines all levels of all cores have, or `None` if whole caches may not be emptied.
    #[inline]
    pub(super) fn all_lines(&self) -> Option<u32> {
        NonZero::new(self.all_lines.load(Ordering::Relaxed)).map(NonZero::get)
    }

    /// Returns the bytes of the smallest inner line.
    pub const fn smallest_line(&self) -> u32 {
        1 << self.core.log2
    }

    /// Returns the bytes of the largest line of any level.
    pub(super) fn largest_line(&self) -> u32 {
        self.outward().map(CacheLevel::line).fold(self.smallest_line(), u32::max)
    }

    /// Returns the geometries of the core's own caches that hold data, the first one first.
    pub fn geometries(&self) -> &[Geometry] {
        &self.core.geometries
    }

    /// Returns the levels, from the core outward.
    fn outward(&self) -> impl Iterator<Item = &dyn CacheLevel> {
        iter::once(&self.core as &dyn CacheLevel).chain(self.outer.get().copied())
    }

    fn levels(&self) -> ArrayVec<&dyn CacheLevel, MOST_LEVELS> {
        self.outward().collect()
    }

    fn run<S: Iterator<Item = LineStep>>(&self, rule: impl FnOnce(usize) -> S, part: Part<'_>) -> Lines {
        levels::run(rule, &self.levels(), part)
    }

    pub(super) fn flush(&self) -> Lines {
        levels::flush(&self.levels())
    }

    pub(super) fn clean(&self, part: Part<'_>) -> Lines {
        self.run(protocol::clean, part)
    }

    pub(super) fn invalidate(&self, part: Part<'_>) -> Lines {
        self.run(protocol::invalidate, part)
    }

    pub(super) fn discard(&self, part: Part<'_>) -> Lines {
        self.run(protocol::discard, part)
    }

    /// Waits for every level. Normal non-cacheable writes too may wait in the controller's store buffer.
    pub(super) fn device_barrier(&self) {
        self.outward().for_each(CacheLevel::wait);
    }

    /// Cleans table words to the point of unification, where a walk that does not look in the data cache sees them.
    pub(super) fn clean_to_unification(&self, words: &[u32]) {
        let (at, lines) = self.core.lines(words.as_ptr() as u32, size_of_val(words) as u32);
        self.core.each_line(at, lines, |at| {
            // SAFETY: DCCMVAU of words that were just written, so are mapped; a clean changes no data.
            unsafe { asm!("mcr p15, 0, {0}, c7, c11, 1", in(reg) at, options(nostack, preserves_flags)) };
        });
    }
}

/// Reads CCSIDR of a level's data or unified cache.
fn ccsidr(level: u32) -> u32 {
    let word: u32;
    // SAFETY: selects a cache and reads its CCSIDR. `Caches::new` alone calls this, before interrupts are on, and no
    // other code reads CCSIDR, so none finds another selection than its own.
    unsafe {
        asm!("mcr p15, 2, {0}, c0, c0, 0", "isb", "mrc p15, 1, {1}, c0, c0, 0",
            in(reg) (level - 1) << 1, out(reg) word, options(nomem, nostack, preserves_flags));
    }
    word
}

/// All of the core's own caches. They are one level: operations by MVA go through all of them.
struct ByMva {
    geometries: ArrayVec<Geometry, 7>,
    /// Who else has lines, if whole caches may be emptied.
    others: Once<OtherCores>,
    /// Of the smallest data line of any of them, in bytes: CTR.DminLine.
    log2: u32,
    /// The largest one, in bytes: CCSIDR.LineSize.
    line: u32,
}

impl ByMva {
    /// Lines in a turn of the loop.
    const TURN: u32 = 16;
    /// Lines in a turn where the loop is longer: for invalidates, of which a camera's cycle consists.
    const LONG_TURN: u32 = 256;

    /// Returns the address of the first line of so many bytes, and how many lines they are in.
    fn lines(&self, start: u32, bytes: u32) -> (u32, u32) {
        // Less than 4 GiB of whole pages or words, so lines as well, end at most where addresses do.
        let first = start >> self.log2;
        let last = start.wrapping_add(bytes).wrapping_sub(1) >> self.log2;
        // Erratum 764369 of Cortex-A9 MPCore: a DSB before the first operation of a range; it also orders the stores
        // before it, which every core needs.
        dsb();
        (first << self.log2, if bytes == 0 { 0 } else { last - first + 1 })
    }

    /// Does an operation on lines one after another: two instructions a line, and three a [turn](Self::TURN).
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the operation is known where it is called")]
    fn each_line(&self, mut at: u32, lines: u32, operation: impl Fn(u32)) {
        let step = 1 << self.log2;
        for _ in 0..lines / Self::TURN {
            for _ in 0..Self::TURN {
                operation(at);
                at = at.wrapping_add(step);
            }
        }
        for _ in 0..lines % Self::TURN {
            operation(at);
            at = at.wrapping_add(step);
        }
    }
}

// SAFETY: DCCMVAC and DCIMVAC go through all of the core's own levels, and reach other cores where memory is Shareable
// (ARM ARM B2.2.7). A DSB waits for them. Parts are whole lines of memory that nothing else shares (I3).
unsafe impl CacheLevel for ByMva {
    fn line(&self) -> u32 {
        self.line
    }

    fn clean(&self, part: Part<'_>) -> u64 {
        let (at, lines) = self.lines(part.va().raw(), part.bytes());
        self.each_line(at, lines, |at| {
            // SAFETY: DCCMVAC; `Part` proves that the address translates (I3); a clean changes no data.
            unsafe { asm!("mcr p15, 0, {0}, c7, c10, 1", in(reg) at, options(nostack, preserves_flags)) };
        });
        lines.into()
    }

    fn invalidate(&self, part: Part<'_>) -> u64 {
        let (mut at, lines) = self.lines(part.va().raw(), part.bytes());
        let end = at.wrapping_add((lines - lines % Self::LONG_TURN) << self.log2);
        if at != end {
            // SAFETY: DCIMVAC; `Part` proves that the addresses translate (I3). The lines are a carved buffer's, a lent
            // frame's or a pool's block's, which share none with other data, and `protocol` has none dropped that still
            // matters.
            unsafe {
                asm!(
                    "2:",
                    carveout::sixty_four_times!(
                        "mcr p15, 0, {at}, c7, c6, 1"
                        "add {at}, {at}, {step}"
                        "mcr p15, 0, {at}, c7, c6, 1"
                        "add {at}, {at}, {step}"
                        "mcr p15, 0, {at}, c7, c6, 1"
                        "add {at}, {at}, {step}"
                        "mcr p15, 0, {at}, c7, c6, 1"
                        "add {at}, {at}, {step}"
                    ),
                    "cmp {at}, {end}",
                    "bne 2b",
                    at = inout(reg) at,
                    step = in(reg) 1 << self.log2,
                    end = in(reg) end,
                    options(nostack)
                );
            }
        }
        self.each_line(at, lines % Self::LONG_TURN, |at| {
            // SAFETY: as above.
            unsafe { asm!("mcr p15, 0, {0}, c7, c6, 1", in(reg) at, options(nostack, preserves_flags)) };
        });
        lines.into()
    }

    fn wait(&self) {
        dsb();
    }

    fn all_lines(&self) -> Option<u32> {
        let others = self.others.get()?.count();
        let of = |geometry: &Geometry| geometry.lines() * if geometry.level == 1 { 1 + others } else { 1 };
        Some(self.geometries.iter().map(of).sum())
    }

    fn flush(&self) -> u64 {
        if let Some(&others) = self.others.get() {
            whole::empty(&self.geometries, others);
        }
        self.all_lines().unwrap_or(0).into()
    }
}
