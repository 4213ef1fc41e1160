//! Bus masters: what a device reaches, and where its buffers come from.
//!
//! Guarantees: a [`BusAddr`] made here is one the device can drive, to the last byte of the buffer it belongs to.

use crate::addr::{BusAddr, PhysAddr};

/// An area, by its place among those the machine was built with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AreaId(pub(super) usize);

/// A bus master as the memory sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Master {
    name: &'static str,
    area: Option<AreaId>,
    last: BusAddr,
    offset: u32,
}

impl Master {
    /// A master that drives all 32 address bits, sees memory where the CPU does, and allocates from `area`.
    pub const fn new(name: &'static str, area: Option<AreaId>) -> Self {
        Self { name, area, last: BusAddr::new(u32::MAX), offset: 0 }
    }

    /// The same master, driving addresses up to `last` only, that byte included: its DMA mask.
    #[must_use]
    pub const fn with_mask(self, last: BusAddr) -> Self {
        Self { last, ..self }
    }

    /// What it is called in tables and reports.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    pub(super) const fn area(&self) -> Option<AreaId> {
        self.area
    }

    /// The last physical address it reaches.
    pub const fn last_reachable(&self) -> PhysAddr {
        PhysAddr::new(self.last.raw().saturating_sub(self.offset))
    }

    /// Where the master sees physical address `at`.
    pub const fn bus(&self, at: PhysAddr) -> BusAddr {
        BusAddr::new(at.raw().wrapping_add(self.offset))
    }

    /// The physical address behind one of the master's.
    pub const fn phys(&self, at: BusAddr) -> PhysAddr {
        PhysAddr::new(at.raw().wrapping_sub(self.offset))
    }
}
