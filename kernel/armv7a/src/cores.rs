//! Cores: what tells them apart, and what must be the same on each of them.
//!
//! Guarantees: two cores with equal [`registers`] translate and cache every address alike, whatever the tables hold. So
//! what the audit finds on one holds on the other (I1, I2).

use core::arch::asm;
use core::fmt;

use aarch32_cpu::register::{Actlr, IdMmfr0, Midr, Mpidr};

use crate::errata;
use crate::ids::{self, ACTLR_FW, ACTLR_SMP};
use carveout::machine::Registers;

/// A world of the Security Extensions (ARM ARM B1.5). No register that both worlds may read says which one a core is
/// in. So the head tries a read that only the secure world may make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum World {
    /// May write every register. A core that says that it has no Security Extensions, and so one world, counts as
    /// secure too.
    Secure,
    /// May not write what decides over both worlds: the SCU, most of ACTLR, the PL310's control. The firmware of the
    /// secure world has written it.
    NonSecure,
}

/// Why a core must run alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alone {
    /// The core is not in [`CORES`](ids::CORES): how it joins coherency is not known.
    Unknown {
        /// Its MIDR.
        midr: u32,
    },
    /// The core is in the non-secure world, and ACTLR.SMP is clear there.
    NotCoherent,
    /// Erratum 798181 of Cortex-A15: a broadcast TLB invalidate and its DSB may end too early.
    Erratum798181,
}

impl Alone {
    /// Returns why this core must run alone, or `None` if other cores may join it.
    pub fn current(world: World) -> Option<Self> {
        let midr = Midr::read().raw_value();
        let coherent = world == World::Secure || Actlr::read().0 & ACTLR_SMP != 0;
        match ids::core(midr) {
            None => Some(Self::Unknown { midr }),
            Some(_) if errata::loses_tlb_invalidates(midr) => Some(Self::Erratum798181),
            Some(core) if core.set & ACTLR_SMP != 0 && !coherent => Some(Self::NotCoherent),
            Some(_) => None,
        }
    }
}

impl fmt::Display for Alone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { midr } => write!(f, "how a core with MIDR {midr:#010x} joins coherency is not known"),
            Self::NotCoherent => f.write_str("ACTLR.SMP is clear, and only the secure world's firmware can set it"),
            Self::Erratum798181 => {
                f.write_str("this Cortex-A15 has erratum 798181: a TLB invalidate may end too early")
            }
        }
    }
}

/// Reads the registers that decide how this core translates and caches (ARM ARM B4.1).
pub fn registers() -> Registers {
    let (ttbr0, ttbr1, ttbcr, dacr, sctlr, actlr): (u32, u32, u32, u32, u32, u32);
    // SAFETY: reads TTBR0.
    unsafe { asm!("mrc p15, 0, {0}, c2, c0, 0", out(reg) ttbr0, options(nomem, nostack, preserves_flags)) };
    // SAFETY: reads TTBR1.
    unsafe { asm!("mrc p15, 0, {0}, c2, c0, 1", out(reg) ttbr1, options(nomem, nostack, preserves_flags)) };
    // SAFETY: reads TTBCR.
    unsafe { asm!("mrc p15, 0, {0}, c2, c0, 2", out(reg) ttbcr, options(nomem, nostack, preserves_flags)) };
    // SAFETY: reads DACR.
    unsafe { asm!("mrc p15, 0, {0}, c3, c0, 0", out(reg) dacr, options(nomem, nostack, preserves_flags)) };
    // SAFETY: reads SCTLR.
    unsafe { asm!("mrc p15, 0, {0}, c1, c0, 0", out(reg) sctlr, options(nomem, nostack, preserves_flags)) };
    // SAFETY: reads ACTLR.
    unsafe { asm!("mrc p15, 0, {0}, c1, c0, 1", out(reg) actlr, options(nomem, nostack, preserves_flags)) };
    let (mut prrr, mut nmrr) = (0u32, 0u32);
    // Without TEX remap PRRR and NMRR mean nothing, and may differ from core to core.
    if sctlr & TRE != 0 {
        // SAFETY: reads PRRR.
        unsafe { asm!("mrc p15, 0, {0}, c10, c2, 0", out(reg) prrr, options(nomem, nostack, preserves_flags)) };
        // SAFETY: reads NMRR.
        unsafe { asm!("mrc p15, 0, {0}, c10, c2, 1", out(reg) nmrr, options(nomem, nostack, preserves_flags)) };
    }
    let multiprocessing = Mpidr::read().0 >> 31 == 1;
    let pxn = IdMmfr0::read().0 & 0xf >= 4;
    let coherency = ids::core(Midr::read().raw_value()).map_or(0, |core| core.set & (ACTLR_SMP | ACTLR_FW));
    Registers { sctlr, ttbr0, ttbr1, ttbcr, dacr, prrr, nmrr, multiprocessing, pxn, actlr, coherency }
}

/// The bit of SCTLR that turns TEX remap on.
const TRE: u32 = 1 << 28;
