//! Runs of virtual addresses.

use crate::addr::{SECTION_SIZE, VirtAddr};

/// A run of virtual addresses, half-open, in whole sections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VirtRange {
    start: u32,
    sections: u32,
}

impl VirtRange {
    /// `sections` MiB from `start`.
    ///
    /// # Panics
    ///
    /// Unless `start` is a multiple of 1 MiB and the run ends below 4 GiB.
    pub const fn new(start: u32, sections: u32) -> Self {
        assert!(start.is_multiple_of(SECTION_SIZE) && (start / SECTION_SIZE + sections) <= 4096);
        Self { start, sections }
    }

    /// First address.
    pub const fn start(self) -> VirtAddr {
        VirtAddr::new(self.start)
    }

    /// Sections, each 1 MiB, in the run.
    pub const fn sections(self) -> u32 {
        self.sections
    }

    /// Bytes in the run.
    pub const fn bytes(self) -> u64 {
        self.sections as u64 * SECTION_SIZE as u64
    }

    /// Whether `va` is in the run.
    pub const fn contains(self, va: VirtAddr) -> bool {
        va.raw() >= self.start && ((va.raw() - self.start) / SECTION_SIZE) < self.sections
    }

    /// The first `sections` of the run, or the whole of it if it has no more.
    #[must_use]
    pub const fn first(self, sections: u32) -> Self {
        Self { start: self.start, sections: if sections < self.sections { sections } else { self.sections } }
    }

    /// The run without its first `sections`: nothing if it has no more.
    #[must_use]
    pub const fn after(self, sections: u32) -> Self {
        let taken = if sections < self.sections { sections } else { self.sections };
        Self { start: self.start.wrapping_add(taken * SECTION_SIZE), sections: self.sections - taken }
    }
}
