//! The memory that a plan hands out once it is in force.
//!
//! Guarantees: carve-outs and RAM come out of one plan, each once. A [`Layout`] is arithmetic: it can be planned any
//! number of times, and it hands out nothing. [`Layout::mapped`] says that the machine translates by its direct map.
//! Only then are there [`CarveOut`]s, whose frames that direct map leaves out (I2), and bytes of RAM that belong to
//! their taker alone. On a board `AddressSpace::adopt` makes that call, with the one handover of the boot.
//!
//! A layout gives one [`BootMemory`], which borrows it mutably:
//!
//! ```compile_fail,E0499
//! # use carveout_boot::layout::Layout;
//! fn twice(mut layout: Layout<'_>) {
//!     // SAFETY: none: this must not compile.
//!     let (one, two) = unsafe { (layout.mapped(), layout.mapped()) };
//! }
//! ```
//!
//! The call that hands the carve-outs out consumes it:
//!
//! ```compile_fail,E0382
//! # use carveout_boot::memory::BootMemory;
//! fn twice(memory: BootMemory<'_, '_>) {
//!     let (one, two) = (memory.into_parts(), memory.into_parts());
//! }
//! ```
//!
//! Safe code gets no carve-outs from a plan that is not mapped:
//!
//! ```compile_fail,E0133
//! # use carveout_boot::layout::Layout;
//! fn unmapped(mut layout: Layout<'_>) {
//!     let (_, carved) = layout.mapped().into_parts();
//! }
//! ```
//!
//! Safe code cannot reserve or free what the plan gives away:
//!
//! ```compile_fail,E0596
//! # use carveout::addr::FrameRange;
//! # use carveout_boot::layout::Layout;
//! fn free(layout: &mut Layout<'_>) {
//!     layout.memblock().free(FrameRange::ALL);
//! }
//! ```

use arrayvec::ArrayVec;

use super::layout::{AreaPlan, Layout};
use super::memblock::Direction;
use carveout::addr::{FRAME_SHIFT, FrameRange, VirtAddr};
use carveout::carve_out::CarveOut;
use carveout::machine::LinearMap;

impl<'dtb> Layout<'dtb> {
    /// Hands out the memory of a machine whose direct map is mapped as planned.
    ///
    /// # Safety
    ///
    /// - The layout's device tree describes the machine that this runs on, and image and tree are where the layout has
    ///   them.
    /// - Every run of [`direct_map`](Self::direct_map) is mapped at its address, write-back, and stays so.
    /// - Nothing else translates to the machine's RAM or to a frame of an area, in any table, by any physical name,
    ///   except the window of the image and mappings of the tree. Nothing but this crate ever will.
    /// - No other plan of the machine's memory was or will be in force. That means no second layout, and no
    ///   [`CarveOut`] that was assumed of frames of this one.
    ///
    /// # Panics
    ///
    /// If this layout was in force before.
    pub unsafe fn mapped(&mut self) -> BootMemory<'_, 'dtb> {
        assert!(self.come_into_force(), "a layout comes into force once");
        let carve = |area: &AreaPlan<'_>| {
            // SAFETY: the plan's direct map leaves out the frames of its areas, which are disjoint. It is in force, and
            // nothing else translates to them, as this function demands (I2); it comes into force once.
            unsafe { CarveOut::assume(area.name, &area.ranges, area.lendable) }
        };
        let carved = self.areas().iter().map(carve).collect();
        BootMemory { layout: self, carved }
    }
}

/// The memory of a machine whose direct map is mapped. There is one value, so each part of it is handed out once.
#[derive(Debug)]
pub struct BootMemory<'l, 'dtb> {
    layout: &'l mut Layout<'dtb>,
    carved: ArrayVec<CarveOut, { CarveOut::MAX }>,
}

impl<'l, 'dtb> BootMemory<'l, 'dtb> {
    /// Returns the plan: who gets which memory.
    pub const fn layout(&self) -> &Layout<'dtb> {
        self.layout
    }

    /// Returns the carve-outs, in the order of [`Layout::areas`].
    pub fn carved(&self) -> &[CarveOut] {
        &self.carved
    }

    /// Takes `count` frames of free RAM for good, aligned to `align` frames, from the bottom up. Returns `None` if
    /// there is no such run.
    pub fn take_ram(&mut self, count: u32, align: u32) -> Option<BootRam> {
        let memblock = self.layout.memblock_mut();
        let frames = memblock.phys_alloc_range(count, align, FrameRange::ALL, Direction::BottomUp).ok()?;
        Some(BootRam { va: self.layout.direct_map().va_of(frames)?, frames })
    }

    /// Gives the layout, for reports, and the carve-outs, for [`Builder`](carveout::embed::Builder). No RAM can be
    /// taken afterwards.
    pub fn into_parts(self) -> (&'l Layout<'dtb>, ArrayVec<CarveOut, { CarveOut::MAX }>) {
        (self.layout, self.carved)
    }
}

/// RAM that was taken for good, and its address in the direct map.
#[derive(Debug)]
pub struct BootRam {
    va: VirtAddr,
    frames: FrameRange,
}

impl BootRam {
    /// Returns the frames behind it.
    pub const fn frames(&self) -> FrameRange {
        self.frames
    }

    /// Returns the bytes, as they were left.
    pub fn into_bytes(self) -> &'static mut [u8] {
        let first = core::ptr::with_exposed_provenance_mut(self.va.raw() as usize);
        let length = (self.frames.count() as usize) << FRAME_SHIFT;
        // SAFETY: the direct map has these frames at this address, write-back, for good (`Layout::mapped`). The memory
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
    assert_not_impl_any!(BootMemory<'static, 'static>: Clone);
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

    fn with_memory(judge: impl FnOnce(BootMemory<'_, '_>)) {
        let dtb = blob(&root(), &[(0x7000_0000, 0x1000)]);
        let info = BootInfo::parse(&dtb).unwrap();
        let mut layout = Layout::plan(&info, IMAGE, TREE).unwrap();
        // SAFETY: the machine is of this test's making, and no bytes of it are looked at.
        judge(unsafe { layout.mapped() });
    }

    #[test]
    fn i2_carve_outs_and_direct_map_are_of_one_plan() {
        with_memory(|memory| {
            let areas: Vec<_> = memory.layout().areas().iter().map(|area| area.ranges.to_vec()).collect();
            let carved: Vec<_> = memory.carved().iter().map(|carved| carved.ranges().to_vec()).collect();
            assert_eq!((&carved, carved.len()), (&areas, 1));
            for frames in carved.into_iter().flatten() {
                assert!(
                    memory.layout().direct_map().runs().all(|run| !run.frames.overlaps(frames)),
                    "{frames} is mapped"
                );
            }
            let (layout, carved) = memory.into_parts();
            assert_eq!(carved.len(), layout.areas().len());
        });
    }

    #[test]
    #[should_panic(expected = "a layout comes into force once")]
    fn a_layout_comes_into_force_once() {
        let dtb = blob(&root(), &[]);
        let info = BootInfo::parse(&dtb).unwrap();
        let mut layout = Layout::plan(&info, IMAGE, TREE).unwrap();
        // SAFETY: the machine is of this test's making, and no bytes of it are looked at.
        drop(unsafe { layout.mapped() });
        // SAFETY: none: it must be refused.
        let _ = unsafe { layout.mapped() };
    }

    #[test]
    fn ram_is_taken_once_and_is_nobodys() {
        with_memory(|mut memory| {
            let mut claims = Vec::new();
            memory.layout().each_claim(|claim| claims.push(claim.range));
            assert!(claims.len() >= 5, "image, tree, reservations and area: {claims:?}");
            let mut taken = Vec::new();
            let wanted = [(1, 1), (256, 256), (0x800, 1), (3, 4), (1, 1)];
            for (count, align) in wanted.into_iter().chain(std::iter::repeat((0x1000, 1))) {
                let Some(ram) = memory.take_ram(count, align) else { break };
                let frames = ram.frames();
                assert!(frames.count() == count && frames.start().is_multiple_of(align));
                assert_eq!(memory.layout().direct_map().va_of(frames), Some(ram.va), "where the direct map has it");
                assert!(taken.iter().chain(&claims).all(|other| !frames.overlaps(*other)), "{frames} twice");
                taken.push(frames);
            }
            assert!(taken.len() > 10, "{taken:?}");
        });
    }
}
