//! The plan of a machine's memory, and what it hands out once it is in force.
//!
//! Guarantees: carve-outs and RAM come out of one plan, each once. A [`MemoryPlan`] is arithmetic: it can be made any
//! number of times, and it hands out nothing. [`MemoryPlan::mapped`] consumes it and says that its direct map is the one that
//! the machine translates by. Only then are there [`CarveOut`]s, whose frames that direct map leaves out (I2), and bytes
//! of RAM that belong to their taker alone. On a board `AddressSpace::adopt` does this, by the one handover of the boot.
//!
//! A plan cannot be used twice:
//!
//! ```compile_fail,E0382
//! # use carveout::boot::memory::MemoryPlan;
//! fn twice(plan: MemoryPlan<'_>) {
//!     // SAFETY: none: this must not compile.
//!     let (one, two) = unsafe { (plan.mapped(), plan.mapped()) };
//! }
//! ```
//!
//! Nor can its layout be planned again, whose free RAM it gives away:
//!
//! ```compile_fail,E0382
//! # use carveout::boot::{layout::Layout, memory::MemoryPlan};
//! fn twice(layout: Layout<'_>) {
//!     let (one, two) = (MemoryPlan::new(layout), MemoryPlan::new(layout));
//! }
//! ```
//!
//! Safe code gets no carve-outs out of a plan that nothing maps:
//!
//! ```compile_fail,E0133
//! # use carveout::boot::memory::MemoryPlan;
//! fn unmapped(plan: MemoryPlan<'_>) {
//!     let carved = plan.mapped().into_parts();
//! }
//! ```

use arrayvec::ArrayVec;

use super::directmap::{CarveOut, DirectMap};
use super::layout::{AreaPlan, Layout, MAX_AREAS, lowest, parts_outside};
use super::memblock::{Direction, MemblockError};
use crate::addr::{FRAME_SHIFT, FrameRange, VirtAddr};

/// A layout and the direct map that leaves out what it carves out: what is to be mapped.
#[derive(Debug)]
pub struct MemoryPlan<'dtb> {
    layout: Layout<'dtb>,
    map: DirectMap,
}

impl<'dtb> MemoryPlan<'dtb> {
    /// Plans the direct map of a layout. RAM that it has no room for is reserved in the layout's memory map.
    ///
    /// # Errors
    ///
    /// The memory map has no room for that.
    pub fn new(mut layout: Layout<'dtb>) -> Result<Self, MemblockError> {
        let memblock = layout.memblock();
        let areas = layout.areas().iter().flat_map(|area| area.ranges.iter().copied());
        let map = DirectMap::beside(areas, || memblock.memory(), || memblock.mapped_ranges(), layout.image());
        let unmapped = |free| {
            let mut first = None;
            let mapped = |rest| lowest(rest, map.runs().map(|run| run.frames));
            parts_outside(free, mapped, |part| first = first.or(Some(part)));
            first
        };
        loop {
            let part = layout.memblock().free_ranges().find_map(unmapped);
            let Some(part) = part else { break };
            layout.memblock_mut().reserve(part)?;
        }
        Ok(Self { layout, map })
    }

    /// Who gets which memory.
    pub const fn layout(&self) -> &Layout<'dtb> {
        &self.layout
    }

    /// What is to be mapped as direct map, and where.
    pub const fn direct_map(&self) -> &DirectMap {
        &self.map
    }

    /// Hands out the memory of a machine whose direct map is mapped as planned.
    ///
    /// # Safety
    ///
    /// - The layout's device tree describes the machine that this runs on, and image and tree are where the layout has
    ///   them.
    /// - Every run of [`direct_map`](Self::direct_map) is mapped at its address, write-back, and stays so.
    /// - Beside that nothing translates to the machine's RAM or to a frame of an area, in any table, by any physical
    ///   name, but the window of the image and mappings of the tree; nothing ever will but this crate.
    /// - No other plan of the machine's memory was or will be in force: neither a second `MemoryPlan`, nor a
    ///   [`CarveOut`] that was assumed of frames of this one.
    pub unsafe fn mapped(self) -> BootMemory<'dtb> {
        let carve = |area: &AreaPlan<'_>| CarveOut::new(area.name, &area.ranges, area.lendable);
        let carved = self.layout.areas().iter().map(carve).collect();
        BootMemory { plan: self, carved }
    }
}

/// The memory of a machine whose direct map stands. There is one, so each part of it is handed out once.
#[derive(Debug)]
pub struct BootMemory<'dtb> {
    plan: MemoryPlan<'dtb>,
    carved: ArrayVec<CarveOut, MAX_AREAS>,
}

impl<'dtb> BootMemory<'dtb> {
    /// Who gets which memory.
    pub const fn layout(&self) -> &Layout<'dtb> {
        &self.plan.layout
    }

    /// The direct map.
    pub const fn direct_map(&self) -> &DirectMap {
        &self.plan.map
    }

    /// The carve-outs, in the order of [`Layout::areas`].
    pub fn carved(&self) -> &[CarveOut] {
        &self.carved
    }

    /// Takes `count` frames of free RAM for good, aligned to `align` frames, from the bottom up. `None` if there is no such
    /// run.
    pub fn take_ram(&mut self, count: u32, align: u32) -> Option<BootRam> {
        let MemoryPlan { layout, map } = &mut self.plan;
        let memblock = layout.memblock_mut();
        let frames = memblock.phys_alloc_range(count, align, FrameRange::ALL, Direction::BottomUp).ok()?;
        Some(BootRam { va: map.va_of(frames)?, frames })
    }

    /// Gives the layout, for reports, and the carve-outs, for [`Dma::new`](crate::dma::Dma::new). No RAM can be taken any
    /// more.
    pub fn into_parts(self) -> (Layout<'dtb>, ArrayVec<CarveOut, MAX_AREAS>) {
        (self.plan.layout, self.carved)
    }
}

/// RAM taken for good, and where the direct map has it.
#[derive(Debug)]
pub struct BootRam {
    va: VirtAddr,
    frames: FrameRange,
}

impl BootRam {
    /// The frames behind it.
    pub const fn frames(&self) -> FrameRange {
        self.frames
    }

    /// The bytes, as they were.
    pub fn into_bytes(self) -> &'static mut [u8] {
        let first = core::ptr::with_exposed_provenance_mut(self.va.raw() as usize);
        let length = (self.frames.count() as usize) << FRAME_SHIFT;
        // SAFETY: the direct map has these frames at this address, write-back, for good (`MemoryPlan::mapped`). The memory
        // map gave them to `take_ram` once, and this value, which is not `Clone`, is consumed.
        unsafe { core::slice::from_raw_parts_mut(first, length) }
    }
}

#[cfg(test)]
mod tests {
    use static_assertions::assert_not_impl_any;
    use std::vec::Vec;

    use super::super::bootinfo::BootInfo;
    use super::super::bootinfo::dts::{Node, blob, board, memory, pool, reserved};
    use super::*;

    // Nothing that stands for memory can be had twice.
    assert_not_impl_any!(Layout<'static>: Clone);
    assert_not_impl_any!(MemoryPlan<'static>: Clone);
    assert_not_impl_any!(BootMemory<'static>: Clone);
    assert_not_impl_any!(BootRam: Clone);
    assert_not_impl_any!(CarveOut: Clone);

    const IMAGE: FrameRange = FrameRange::covering(0x6001_0000, 0x20_0000);
    const TREE: FrameRange = FrameRange::covering(0x6800_0000, 0x4000);

    /// Two banks, an area and a reservation.
    fn root() -> Node {
        let area = pool("video@64000000", "reusable").cells("reg", &[0x6400_0000, 0x200_0000]);
        let held = Node::new("log@60400000").cells("reg", &[0x6040_0800, 0x1000]);
        board("").child(memory("ram@20000000", &[0x2000_0000, 0x10_0000])).child(reserved([area, held]))
    }

    fn with_memory(judge: impl FnOnce(BootMemory<'_>)) {
        let dtb = blob(&root(), &[(0x7000_0000, 0x1000)]);
        let info = BootInfo::parse(&dtb).unwrap();
        let plan = MemoryPlan::new(Layout::plan(&info, IMAGE, TREE).unwrap()).unwrap();
        // SAFETY: nothing here is a mapping, on the host: no bytes are looked at.
        judge(unsafe { plan.mapped() });
    }

    #[test]
    fn i2_carve_outs_and_direct_map_are_of_one_plan() {
        with_memory(|memory| {
            let areas: Vec<_> = memory.layout().areas().iter().map(|area| area.ranges.to_vec()).collect();
            let carved: Vec<_> = memory.carved().iter().map(|carved| carved.ranges().to_vec()).collect();
            assert_eq!((&carved, carved.len()), (&areas, 1));
            for frames in carved.into_iter().flatten() {
                assert!(memory.direct_map().runs().all(|run| !run.frames.overlaps(frames)), "{frames} is mapped");
            }
            let (layout, carved) = memory.into_parts();
            assert_eq!(carved.len(), layout.areas().len());
        });
    }

    #[test]
    fn ram_is_taken_once_and_is_nobodys() {
        with_memory(|mut memory| {
            let mut claims = Vec::new();
            memory.layout().each_claim(|claim| claims.push(claim.range));
            assert!(claims.len() >= 5, "image, tree, reservations and area: {claims:?}");
            let mut taken = Vec::new();
            for (count, align) in [(1, 1), (256, 256), (0x800, 1), (3, 4), (1, 1)] {
                let ram = memory.take_ram(count, align).expect("a free run");
                assert!(ram.frames().count() == count && ram.frames().start().is_multiple_of(align));
                assert_eq!(memory.direct_map().va_of(ram.frames()), Some(ram.va), "where the direct map has it");
                taken.push(ram.frames());
            }
            while let Some(ram) = memory.take_ram(0x1000, 1) {
                taken.push(ram.frames());
            }
            assert!(taken.len() > 10);
            for (n, frames) in taken.iter().enumerate() {
                assert!(taken[..n].iter().chain(&claims).all(|other| !other.overlaps(*frames)), "{frames} twice");
            }
        });
    }
}
