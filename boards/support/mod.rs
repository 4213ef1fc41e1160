//! What the boards share: drivers, mock devices, and the way from the head to a running kernel.

/// The kernel's locks in the order they are taken, around and inside those of [`carveout::sync`].
#[cfg(target_arch = "arm")]
pub mod rank {
    use carveout::sync::Rank;

    /// The kernel's half of the address space, where registers are mapped; what it refuses is printed.
    pub const SPACE: Rank = Rank::new(0);
    /// The console: what is printed may ask the DMA API.
    pub const CONSOLE: Rank = Rank::new(1);
    /// The heap.
    pub const HEAP: Rank = Rank::new(6);
    /// The interrupt controller.
    pub const INTERRUPTS: Rank = Rank::new(7);
}

pub mod a9_timer;
#[cfg(any(test, target_arch = "arm"))]
pub mod ahci;
#[cfg(target_arch = "arm")]
pub mod block;
pub mod block_cache;
#[cfg(target_arch = "arm")]
pub mod bring_up;
pub mod clock;
#[cfg(target_arch = "arm")]
pub mod coherency;
#[cfg(target_arch = "arm")]
pub mod console;
#[cfg(any(test, target_arch = "arm"))]
pub mod copier;
#[cfg(target_arch = "arm")]
pub mod cores;
#[cfg(target_arch = "arm")]
pub mod demo;
pub mod devices;
#[cfg(target_arch = "arm")]
pub mod disk;
pub mod dm_timer;
#[cfg(test)]
mod fake;
pub mod gic;
#[cfg(target_arch = "arm")]
pub mod interrupts;
pub mod irq;
#[cfg(target_arch = "arm")]
pub mod lending;
pub mod mock;
pub mod ns16550;
pub mod omap_intc;
pub mod pl011;
pub mod pl081;
pub mod pl111;
pub mod pl181;
#[cfg(target_arch = "arm")]
pub mod port;
pub mod random;
#[cfg(target_arch = "arm")]
pub mod report;
pub mod scu;
pub mod sp804;
pub mod store;
pub mod sun4i_intc;
pub mod sun4i_timer;
pub mod sysreg;
pub mod wait;
