//! The machine of [`carveout`] on ARMv7-A: MMU and caches of the cores of [`CORES`](ids::CORES), and the PL310.
//!
//! Guarantees the duties of [`Mmu`](carveout::machine::Mmu) and [`Cache`](carveout::machine::Cache). What can be
//! decided without a register ([`errata`], [`ids`], [`levels`]) is built and tested on the host too:
//!
//! ```
//! use carveout_armv7a::{errata, ids};
//!
//! let midr = 0x413f_c090; // as a Cortex-A9 r3p0 reads it
//! let core = ids::core(midr).expect("the head knows it");
//! assert_eq!((core.name, ids::revision(midr)), ("Cortex-A9", 0x30));
//! assert_eq!(core.set & ids::ACTLR_SMP, ids::ACTLR_SMP, "the head makes it join coherency");
//! assert!(!errata::loses_tlb_invalidates(midr));
//! ```
//!
//! Errata that touch what this crate does, and what becomes of them:
//!
//! | number | of | here |
//! |---|---|---|
//! | 764369 | Cortex-A9 MPCore, all | a DSB before each range of operations by MVA; the SCU's diagnostic bit, set by the head of every core in the secure world |
//! | 742230 | Cortex-A9 r1p0 to r2p2 | a diagnostic bit makes DMB strong; these bits are set by the head of every core in the secure world |
//! | 742231 | Cortex-A9 MPCore r2p0 to r2p2 | diagnostic bits |
//! | 743622 | Cortex-A9 r2p* | a diagnostic bit |
//! | 751472 | Cortex-A9 MPCore before r3p0 | a diagnostic bit: this crate's broadcasts may come in a handler that interrupts an ICIALLUIS |
//! | 761320 | Cortex-A9 MPCore before r4p0 | a diagnostic bit: zeroing writes whole lines |
//! | 845369 | Cortex-A9 MPCore, all | a diagnostic bit, for the same reason |
//! | 754327 | Cortex-A9 before r2p0 | a DMB in each turn of a loop that waits for another core, [`relax`](carveout::cpu::relax): the store buffer drains |
//! | 761319 | Cortex-A9 MPCore, all | the same DMB stands between two loads of a word that is waited for |
//! | 794072 | Cortex-A9 MPCore | not met: each turn of such a loop loads the word that it waits for |
//! | 794074 | Cortex-A9, all | a barrier stands between a write to a word that a device may take over and the next write to its 8 bytes: [`Cache::dma_wmb`](carveout::machine::Cache::dma_wmb), [`Cache::device_barrier`](carveout::machine::Cache::device_barrier) |
//! | 643719 | Cortex-A9 before r1p0 | a CLIDR.LoUIS of 0 is taken for 1, by the head of a core other than the first |
//! | 720789 | Cortex-A9 before r2p0 | broadcast TLB invalidates by address name no ASID, on any revision; one of a whole ASID becomes one of all |
//! | 754322 | Cortex-A9 r2p*, r3p* | a DSB before CONTEXTIDR is written, in the head and in [`in_space`](user::in_space); an embedding kernel's own switch needs it too |
//! | 430973 | Cortex-A8 r1p* | IBE, set by the head |
//! | 458693 | Cortex-A8 r2p0 | L1NEON and PLDNOP, set by the head |
//! | 460075 | Cortex-A8 r2p0 | write-allocate off in the second level, by the head |
//! | 588369 | PL310 before r2p0 | invalidates of large ranges go by line, not by way |
//! | 727915 | PL310 r2p0 to r3p0 | linefills and write-backs held back while ways are flushed |
//! | 752271 | PL310 r3p0 to r3p1 | double linefill is turned off before the controller is on; one that was left on with it is refused |
//! | 753970 | PL310 r3p0 | the sync goes to a register without effect |
//! | 765569 | PL310, all | a prefetch offset of 23 becomes 15 before the controller is on; one that was left on with it is refused |
//! | 769419 | PL310 before r3p2 | a cache sync, by [`Cache::device_barrier`](carveout::machine::Cache::device_barrier), before a device or a core without caches is told, and before the board's idle loop waits |
//! | 814220 | Cortex-A7 r0p2 to r0p5 | a DSB after each level that is emptied by set and way, here and in the head |
//! | 798181 | Cortex-A15 r0p0 to r3p2 | several cores are refused: [`Alone`](cores::Alone) |
#![no_std]

#[cfg(test)]
extern crate std;

#[cfg(target_arch = "arm")]
pub mod cache;
#[cfg(target_arch = "arm")]
pub mod cores;
pub mod errata;
pub mod ids;
#[cfg(all(target_arch = "arm", feature = "pl310"))]
pub mod l2c310;
#[cfg(all(target_arch = "arm", not(feature = "pl310")))]
#[path = "l2c310/left_out.rs"]
pub mod l2c310;
pub mod levels;
#[cfg(target_arch = "arm")]
pub mod mmu;
#[cfg(target_arch = "arm")]
pub mod user;
#[cfg(target_arch = "arm")]
pub mod whole;
#[cfg(target_arch = "arm")]
pub mod zeros;
