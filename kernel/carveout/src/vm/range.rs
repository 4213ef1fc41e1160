//! Runs of virtual addresses.

use crate::addr::{SECTION_SIZE, VirtAddr};

/// A run of virtual addresses, half-open, in whole sections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VirtRange {
    start: u32,
    sections: u32,
}

impl VirtRange {
    /// Makes the run of `sections` MiB from address `start` on.
    ///
    /// # Panics
    ///
    /// Unless `start` is a multiple of 1 MiB and the run ends at 4 GiB or below.
    pub const fn new(start: u32, sections: u32) -> Self {
        assert!(start.is_multiple_of(SECTION_SIZE) && (start / SECTION_SIZE + sections) <= 4096);
        Self { start, sections }
    }

    /// Returns the first address.
    pub const fn start(self) -> VirtAddr {
        VirtAddr::new(self.start)
    }

    /// Returns the number of sections, each 1 MiB, in the run.
    pub const fn sections(self) -> u32 {
        self.sections
    }

    /// Returns the number of bytes in the run.
    pub const fn bytes(self) -> u64 {
        self.sections as u64 * SECTION_SIZE as u64
    }

    /// Returns whether `va` is in the run.
    pub const fn contains(self, va: VirtAddr) -> bool {
        va.raw() >= self.start && ((va.raw() - self.start) / SECTION_SIZE) < self.sections
    }

    /// Returns the first `sections` of the run, or the whole run if it has no more.
    #[must_use]
    pub const fn first(self, sections: u32) -> Self {
        Self { start: self.start, sections: if sections < self.sections { sections } else { self.sections } }
    }

    /// Parts the run in all but its last `sections` and those.
    #[must_use]
    pub const fn split_last(self, sections: u32) -> (Self, Self) {
        let first = self.sections.saturating_sub(sections);
        (self.first(first), self.after(first))
    }

    /// Returns the run without its first `sections`. The result is empty if the run has no more.
    #[must_use]
    pub const fn after(self, sections: u32) -> Self {
        let taken = if sections < self.sections { sections } else { self.sections };
        Self { start: self.start.wrapping_add(taken * SECTION_SIZE), sections: self.sections - taken }
    }
}
