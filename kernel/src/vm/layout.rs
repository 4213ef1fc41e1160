//! Where things stand in the upper half of the address space.
//!
//! Guarantees: the regions do not overlap, start and end on sections, and all lie in the half that TTBR1 translates
//! when TTBCR.N = 1 (ARM ARM B3.5.4), so that the lower 2 GiB belong to the embedding kernel's processes.
//!
//! The direct map and the window of the areas share [`SHARED`]: the direct map begins it, the window ends it, and the
//! plan of the direct map says where the one stops and the other starts
//! ([`DirectMap::window`](crate::boot::directmap::DirectMap::window)).

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

/// From its start on, RAM that was not carved: write-back, never executable. Up to its end, buffers of the areas: mapped
/// and unmapped at run time.
pub const SHARED: VirtRange = VirtRange::new(0x8000_0000, 0x6fe);
/// Lent frames, mapped for the duration of a copy or a closure. A section is enough, whatever is carved: see
/// [`dma::loan`](crate::dma::loan).
pub const LOAN_WINDOW: VirtRange = VirtRange::new(0xefe0_0000, 1);
/// Device registers.
pub const DEVICES: VirtRange = VirtRange::new(0xf000_0000, 128);
/// The device tree, read-only, from the head on.
pub const FIXMAP: VirtRange = VirtRange::new(0xfe00_0000, 2);
/// The kernel's image: text, constants, data, stacks, the tables of the head.
pub const IMAGE: VirtRange = VirtRange::new(0xff00_0000, 4);
