//! The core's own caches, emptied as a whole by set and way.
//!
//! Guarantees:
//!
//! - What is dirty is written (DCCISW). Lines are never dropped unwritten (DCISW), for they are everybody's.
//! - Each core empties its own first level, for a set and a way name a line of the core that asks (ARM ARM B2.2.7). It
//!   does so with interrupts masked, so that a scheduler does not take the work to another core half way.
//! - The levels behind the first are shared. One core empties them, once all first levels are empty and a DSB has
//!   passed (erratum 814220 of Cortex-A7).
//! - A level that CLIDR does not name is not emptied. So a core with such a level before the point of coherency is
//!   refused.
//!
//! No line of a frame comes back that no translation reaches, on any core. Nor does a dirty one move to a core that was
//! emptied: it moves only where that core asks for it, and that needs a translation.

use crate::ids::Geometry;
use carveout::cpu::{dsb, masked};
use core::arch::asm;
use core::fmt;

/// The cores, beside the one that empties its caches, that may hold lines.
#[derive(Clone, Copy)]
pub enum OtherCores {
    /// There are none.
    None,
    /// They are asked.
    Asked(&'static dyn AskCores),
}

impl OtherCores {
    /// Returns how many cores there are besides this one.
    pub(super) fn count(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::Asked(cores) => cores.count(),
        }
    }
}

/// The embedding kernel's way to have every other core do something, such as an interrupt from this one.
///
/// # Safety
///
/// The implementer's duties, on which I3 rests. [`each`](Self::each) returns once every other core that is coherent has
/// run `work` since the call, with its interrupts masked, and after what it was doing before. A core that sleeps
/// without having emptied its caches is woken for that. A core that joins later empties its caches before, as
/// `carveout-rt` has it done.
///
/// It is called with this core's interrupts masked, and two cores may call it at a time. So a core that waits in it
/// does what others ask of it meanwhile.
pub unsafe trait AskCores: Sync {
    /// Returns how many cores there are besides the one that asks, at most.
    fn count(&self) -> u32;

    /// Has every other core run `work`, and waits for them.
    fn each(&self, work: &(dyn Fn() + Sync));
}

/// A cache level before the point of coherency that the core does not name, so that nobody can empty it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnnamedLevel {
    /// CLIDR.
    pub clidr: u32,
}

impl fmt::Display for UnnamedLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "whole caches cannot be emptied: CLIDR is {:#010x}, and names fewer caches than levels up to the point of \
             coherency; lines go one by one",
            self.clidr
        )
    }
}

impl core::error::Error for UnnamedLevel {}

/// Empties all of the core's own levels, on every core, and waits until what they held is in memory or in the outer
/// cache.
pub(super) fn empty(geometries: &[Geometry], others: OtherCores) {
    let firsts = || geometries.iter().filter(|geometry| geometry.level == 1).for_each(empty_level);
    masked(|| {
        firsts();
        dsb();
        if let OtherCores::Asked(cores) = others {
            cores.each(&|| {
                firsts();
                dsb();
            });
        }
    });
    for geometry in geometries.iter().filter(|geometry| geometry.level > 1) {
        empty_level(geometry);
        dsb();
    }
}

/// Cleans and invalidates each line of a level, by set and way (ARM ARM B4.2.1).
fn empty_level(geometry: &Geometry) {
    let step = geometry.line;
    for way in 0..geometry.ways {
        let first = geometry.way_bits(way) | (geometry.level - 1) << 1;
        let end = first.wrapping_add(geometry.sets * step);
        let mut at = first;
        while at != end {
            // SAFETY: DCCISW: it writes what is dirty, so no data is lost. Whose lines they are does not matter.
            unsafe { asm!("mcr p15, 0, {0}, c7, c14, 2", in(reg) at, options(nostack, preserves_flags)) };
            at = at.wrapping_add(step);
        }
    }
}
