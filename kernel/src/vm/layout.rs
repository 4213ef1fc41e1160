//! Where things stand in the upper half of the address space.
//!
//! Guarantees: the regions do not overlap, start and end on sections, and all lie in the half that TTBR1 translates
//! when TTBCR.N = 1 (ARM ARM B3.5.4), so that the lower 2 GiB belong to the embedding kernel's processes.

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
}

/// RAM that was not carved: write-back, never executable.
pub const DIRECT_MAP: VirtRange = VirtRange::new(0x8000_0000, 1024);
/// Buffers of the areas: mapped and unmapped at run time, with a guard page between any two.
pub const CMA_WINDOW: VirtRange = VirtRange::new(0xc000_0000, 512);
/// Lent frames, mapped for the duration of a closure.
pub const LOAN_WINDOW: VirtRange = VirtRange::new(0xe000_0000, 256);
/// Device registers.
pub const DEVICES: VirtRange = VirtRange::new(0xf000_0000, 128);
/// The device tree, read-only, from the head on.
pub const FIXMAP: VirtRange = VirtRange::new(0xfe00_0000, 2);
/// The kernel's image: text, constants, data, stacks, the tables of the head.
pub const IMAGE: VirtRange = VirtRange::new(0xff00_0000, 4);
