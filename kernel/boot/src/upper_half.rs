//! Where things stand in the upper half of the address space.
//!
//! Guarantees: the regions do not overlap, start and end on sections, and all lie in the half that TTBR1 translates
//! when TTBCR.N = 1 (ARM ARM B3.5.4), so that the lower 2 GiB belong to the embedding kernel's processes.
//!
//! The direct map and the window of the areas share [`SHARED`]: the direct map begins it, the window ends it, and the
//! plan of the direct map says where the one stops and the other starts
//! ([`DirectMap::window`](crate::direct_map::DirectMap::window)).

use carveout::vm::range::VirtRange;

/// From its start on, RAM that was not carved: write-back, never executable. Up to its end, buffers of the areas:
/// mapped and unmapped at run time.
pub const SHARED: VirtRange = VirtRange::new(0x8000_0000, 0x6fe);
/// Lent frames, mapped for the duration of a copy or a closure. A section is enough, whatever is carved: see
/// [`Borrower`](carveout::dma::Borrower).
pub const LOAN_WINDOW: VirtRange = VirtRange::new(0xefe0_0000, 1);
/// Device registers.
pub const DEVICES: VirtRange = VirtRange::new(0xf000_0000, 128);
/// The device tree, read-only, from the head on.
pub const FIXMAP: VirtRange = VirtRange::new(0xfe00_0000, 2);
/// The kernel's image: text, constants, data, stacks, the tables of the head.
pub const IMAGE: VirtRange = VirtRange::new(0xff00_0000, 4);
