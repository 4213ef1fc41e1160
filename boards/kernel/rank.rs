//! The kernel's locks in the order they are taken, around and inside those of [`carveout::sync`].

use carveout::sync::Rank;

/// The kernel's half of the address space, where registers are mapped. What it refuses is printed.
pub(super) const SPACE: Rank = Rank::new(0);
/// The console. What is printed may ask the DMA API.
pub(super) const CONSOLE: Rank = Rank::new(1);
/// The table of processes. Nothing is done under it but to look and to move.
pub(super) const PROCESSES: Rank = Rank::new(2);
/// The heap.
pub(super) const HEAP: Rank = Rank::new(6);
/// The interrupt controller.
pub(super) const INTERRUPTS: Rank = Rank::new(7);
