//! The data caches up to the point of coherency: the core's own by MVA, those outside of it by physical address.
//!
//! Guarantees maintenance of every line that holds a byte of a part, in the order of [`protocol`]. It is never by
//! set/way, which is local to one core and misses the outer cache.
//!
//! To add a level, implement [`CacheLevel`], give it from `Caches::outward`, and count it in `MOST_LEVELS`.
//!
//! Cortex-A8's second level is part of the core: maintenance by MVA goes through it to the point of coherency (DDI
//! 0344K 3.2.21), and there is no outer controller.

use crate::ids::{self, Geometry};
use crate::l2c310::L2c310;
use crate::levels::{self, CacheLevel};
use aarch32_cpu::register::{Clidr, Ctr};
use arrayvec::ArrayVec;
use carveout::cpu::dsb;
use carveout::machine::Lines;
use carveout::protocol::{self, LineStep};
use carveout::vm::mapped::Part;
use core::arch::asm;
use core::iter;
use spin::Once;

/// The most levels: the core's own, and the outer cache.
const MOST_LEVELS: usize = 2;

/// The core's own caches and, if the board has one, the outer cache.
#[derive(Debug)]
pub struct Caches {
    core: ByMva,
    geometries: ArrayVec<Geometry, 7>,
    outer: Once<L2c310>,
}

impl Caches {
    /// Reads the core's own caches from its registers.
    #[cold]
    pub(super) fn new() -> Self {
        let geometries = ids::data_levels(Clidr::read().0).map(|level| Geometry::of(level, ccsidr(level))).collect();
        Self { core: ByMva { line: ids::data_line(Ctr::read().0) }, geometries, outer: Once::new() }
    }

    pub(super) fn set_outer(&self, outer: L2c310) {
        assert!(self.outer.get().is_none(), "a second outer cache");
        self.outer.call_once(|| outer);
    }

    /// Returns the bytes of an inner line.
    pub const fn line(&self) -> u32 {
        self.core.line
    }

    /// Returns the geometries of the core's own caches that hold data, the first one first.
    pub fn geometries(&self) -> &[Geometry] {
        &self.geometries
    }

    /// Returns the outer cache, if there is one.
    pub fn outer(&self) -> Option<&L2c310> {
        self.outer.get()
    }

    /// Returns the levels, from the core outward.
    fn outward(&self) -> impl Iterator<Item = &dyn CacheLevel> {
        let outer = self.outer.get().map(|outer| outer as &dyn CacheLevel);
        iter::once(&self.core as &dyn CacheLevel).chain(outer)
    }

    fn run<S: Iterator<Item = LineStep>>(&self, rule: impl FnOnce(usize) -> S, part: Part<'_>) -> Lines {
        let levels: ArrayVec<_, MOST_LEVELS> = self.outward().collect();
        levels::run(rule, &levels, part)
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
        let bytes = size_of_val(words) as u32;
        let start = words.as_ptr() as u32;
        let mut at = start & !(self.line() - 1);
        dsb();
        while at < start + bytes {
            // SAFETY: DCCMVAU of words that were just written, so are mapped; a clean changes no data.
            unsafe { asm!("mcr p15, 0, {0}, c7, c11, 1", in(reg) at, options(nostack, preserves_flags)) };
            at += self.line();
        }
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
#[derive(Debug)]
struct ByMva {
    /// The smallest data line of any of them, in bytes: CTR.DminLine.
    line: u32,
}

impl ByMva {
    /// Lines in a turn of the loop: two instructions a line, and three a turn.
    const TURN: u32 = 16;

    fn each_line(&self, part: Part<'_>, operation: impl Fn(u32)) -> u64 {
        // Less than 4 GiB of whole pages, so lines as well, end at most where addresses do.
        let mut at = part.va().raw() & !(self.line - 1);
        let lines = (part.va().raw() - at + part.bytes()).div_ceil(self.line);
        // Erratum 764369 of Cortex-A9 MPCore: a DSB before the first operation of a range; it also orders the stores
        // before it, which every core needs.
        dsb();
        for _ in 0..lines / Self::TURN {
            for _ in 0..Self::TURN {
                operation(at);
                at = at.wrapping_add(self.line);
            }
        }
        for _ in 0..lines % Self::TURN {
            operation(at);
            at = at.wrapping_add(self.line);
        }
        lines.into()
    }
}

impl CacheLevel for ByMva {
    fn clean(&self, part: Part<'_>) -> u64 {
        self.each_line(part, |at| {
            // SAFETY: DCCMVAC; `Part` proves that the address translates (I3); a clean changes no data.
            unsafe { asm!("mcr p15, 0, {0}, c7, c10, 1", in(reg) at, options(nostack, preserves_flags)) };
        })
    }

    fn invalidate(&self, part: Part<'_>) -> u64 {
        self.each_line(part, |at| {
            // SAFETY: DCIMVAC; `Part` proves that the address translates (I3). The lines are a carved buffer's or a
            // lent frame's, whole pages that share none with other data, and `protocol` has none dropped that still
            // matters.
            unsafe { asm!("mcr p15, 0, {0}, c7, c6, 1", in(reg) at, options(nostack, preserves_flags)) };
        })
    }

    fn wait(&self) {
        dsb();
    }
}
