//! The ranks of the kernel's locks: the order in which they are taken, before and after those of [`carveout::sync`].

use carveout::sync::Rank;

/// The kernel's half of the address space, where registers are mapped. It comes first, because its refusals are
/// printed.
pub(super) const SPACE: Rank = Rank::new(0);
/// The console. It comes before the DMA API, because printing may ask that API.
pub(super) const CONSOLE: Rank = Rank::new(1);
/// The table of processes. Under this lock processes are only looked up and moved.
pub(super) const PROCESSES: Rank = Rank::new(2);
/// The heap.
pub(super) const HEAP: Rank = Rank::new(6);
/// The interrupt controller.
pub(super) const INTERRUPTS: Rank = Rank::new(7);
