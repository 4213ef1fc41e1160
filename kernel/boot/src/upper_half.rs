//! The regions of the upper half of the address space.
//!
//! Guarantees: the regions do not overlap. They start and end on sections. All lie in the half that TTBR1 translates
//! when TTBCR.N = 1 (ARM ARM B3.5.4), so the lower 2 GiB belong to the embedding kernel's processes.
//!
//! The direct map and the window share [`SHARED`]. The direct map begins at its start, the window ends at
//! its end, and the plan of the direct map says where the one stops and the other starts
//! ([`DirectMap::window`](crate::direct_map::DirectMap::window)).

use carveout::vm::range::VirtRange;

/// The direct map, then the window. From the start on there is RAM that was not carved, write-back and never
/// executable. Up to the end there are buffers of the areas and lent frames, mapped and unmapped at run time.
pub const SHARED: VirtRange = VirtRange::new(0x8000_0000, 0x6ff);
/// The registers of devices.
pub const DEVICES: VirtRange = VirtRange::new(0xf000_0000, 128);
/// The device tree, which the head maps read-only.
pub const FIXMAP: VirtRange = VirtRange::new(0xfe00_0000, 2);
/// The kernel's image: text, constants, data, stacks, the tables of the head.
pub const IMAGE: VirtRange = VirtRange::new(0xff00_0000, 4);
