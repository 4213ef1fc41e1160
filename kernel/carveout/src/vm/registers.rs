//! What the registers of a core must say, so that this crate's descriptors mean there what they are written for.
//!
//! Guarantees: if [`each_error`] finds nothing, then walks read the tables coherently with the CPU's own writes, and
//! each descriptor has the memory type, the cacheability and the shareability that this crate means by it (I1). If
//! [`differences`] finds none between two cores, both translate and cache every address alike.

use crate::machine::Registers;
use crate::vm::attr::{MemoryType, Shareability};
use crate::vm::walk::{self, Attributes, Caching, Memory, Sharing, Ttbr, bit};
use core::fmt;

/// Why the tables of a core do not mean what this crate writes in them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterError {
    /// TTBCR.EAE is set: the tables have the long format. Nothing else was checked.
    LongFormat,
    /// SCTLR.EE is set: walks read words in the other byte order. Nothing else was checked.
    BigEndian,
    /// SCTLR.M is clear: no table is in force.
    Off,
    /// SCTLR.C or SCTLR.I is clear: accesses to write-back memory, or fetches from it, bypass the caches (I1).
    CacheOff {
        /// Whether fetches bypass the caches (I). Otherwise data accesses and walks do (C).
        fetches: bool,
    },
    /// TEX remap changes what this crate's descriptors mean (I1).
    Remap {
        /// The type for which this crate writes the descriptor.
        memory: MemoryType,
        /// The attributes that the hardware reads in it.
        means: Attributes,
    },
    /// Walks read the tables with other attributes than those that RAM is mapped with (I1).
    WalkAttributes {
        /// The register whose table it is.
        ttbr: Ttbr,
        /// The attributes found.
        has: Attributes,
    },
    /// TTBCR.PD0 or PD1 is set: a miss faults, while the TLB may hold what the table said before (I1).
    WalksOff {
        /// The register whose table it is.
        ttbr: Ttbr,
    },
    /// DACR does not make domain 0 a client's. This crate's descriptors are of that domain.
    Domain {
        /// The two bits of DACR: 0b00 no access, 0b10 reserved, 0b11 manager.
        access: u32,
    },
    /// The core takes part in coherency in part only: it has some of the bits of ACTLR for it, but not all (I3).
    Coherency {
        /// ACTLR.
        actlr: u32,
        /// The bits that it must have: [`Registers::coherency`].
        needed: u32,
    },
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LongFormat => f.write_str(
                "TTBCR.EAE is 1: the tables have the long format, which is not decoded; use short descriptors",
            ),
            Self::BigEndian => f.write_str(
                "SCTLR.EE is 1: walks read big-endian words, and this crate writes little-endian ones; clear EE",
            ),
            Self::Off => f.write_str("SCTLR.M is 0: the MMU is off, so that no table holds I1, I2 or W^X; set M"),
            Self::CacheOff { fetches: false } => {
                f.write_str("I1: SCTLR.C is 0: this core accesses past its caches what is mapped write-back; set C")
            }
            Self::CacheOff { fetches: true } => {
                f.write_str("I1: SCTLR.I is 0: this core fetches past its caches what is mapped write-back; set I")
            }
            Self::Remap { memory, means } => write!(
                f,
                "I1: SCTLR.TRE is 1, and by PRRR and NMRR what this crate maps {memory} is {means}; clear TRE, or make region \
                 {} {memory}",
                region(*memory)
            ),
            Self::WalkAttributes { ttbr, has } => write!(
                f,
                "I1: {ttbr} has tables walked {has}, and RAM is mapped otherwise; set its IRGN, RGN and S to write-back, \
                 and to Shareable on an MPCore"
            ),
            Self::WalksOff { ttbr } => {
                let n = u32::from(*ttbr == Ttbr::Ttbr1);
                write!(
                    f,
                    "I1: TTBCR.PD{n} is 1: {ttbr}'s table is not walked, and the TLB may hold what it said; clear PD{n}, and \
                     empty the table instead"
                )
            }
            Self::Domain { access } => write!(
                f,
                "DACR has {access:#04b} for domain 0, which this crate's descriptors are of; make it a client's, 0b01"
            ),
            Self::Coherency { actlr, needed } => write!(
                f,
                "I3: ACTLR is {actlr:#010x}: this core is coherent with others in part only; set all bits of {needed:#x}"
            ),
        }
    }
}

impl core::error::Error for RegisterError {}

/// Returns the region of PRRR and NMRR that this crate's descriptors of a type select: TEX\[0\], C, B.
const fn region(memory: MemoryType) -> u32 {
    match memory {
        MemoryType::WriteBack => 7,
        MemoryType::NonCacheable => 4,
        MemoryType::Device => 1,
        MemoryType::StronglyOrdered => 0,
    }
}

/// Checks the registers of a core for a window that `ttbr`'s table translates. Its descriptors are of RAM, and of
/// domain 0.
///
/// # Errors
///
/// The first [`RegisterError`] that is found.
pub fn first_error(registers: &Registers, ttbr: Ttbr) -> Result<(), RegisterError> {
    let mut first = Ok(());
    let types = [MemoryType::WriteBack, MemoryType::NonCacheable];
    each_error(registers, &types, &[ttbr], &mut |error| first = first.and(Err(error)));
    let access = registers.dacr & 3;
    first.and(if access == 1 { Ok(()) } else { Err(RegisterError::Domain { access }) })
}

/// Calls `each` with what is wrong in the registers of a core, for descriptors of these types, in tables of these
/// registers.
pub fn each_error(registers: &Registers, types: &[MemoryType], tables: &[Ttbr], each: &mut dyn FnMut(RegisterError)) {
    let &Registers { sctlr, ttbcr, actlr, coherency, .. } = registers;
    if ttbcr >> 31 == 1 {
        return each(RegisterError::LongFormat);
    }
    if bit(sctlr, walk::EE) == 1 {
        return each(RegisterError::BigEndian);
    }
    if bit(sctlr, walk::M) == 0 {
        each(RegisterError::Off);
    }
    for (n, fetches) in [(walk::C, false), (walk::I, true)] {
        if bit(sctlr, n) == 0 {
            each(RegisterError::CacheOff { fetches });
        }
    }
    let share = registers.shareability();
    let is_shared = |sharing| (sharing != Sharing::NonShareable) == (share == Shareability::Shareable);
    // Without remap the descriptors mean what they are written for.
    let types = if bit(sctlr, walk::TRE) == 1 { types } else { &[] };
    for &memory in types {
        let normal = matches!(memory, MemoryType::WriteBack | MemoryType::NonCacheable);
        let means = walk::remapped_meaning(region(memory), normal, registers);
        if means.memory != memory.into() || normal && !is_shared(means.sharing) {
            each(RegisterError::Remap { memory, means });
        }
    }
    for &ttbr in tables {
        if registers.walks_are_off(ttbr) {
            each(RegisterError::WalksOff { ttbr });
        }
        let has = registers.walk_attributes(ttbr);
        let write_back = Memory::Normal { inner: Caching::WriteBack, outer: Caching::WriteBack };
        if has.memory != write_back || !is_shared(has.sharing) {
            each(RegisterError::WalkAttributes { ttbr, has });
        }
    }
    // With none of them the core runs alone, and is coherent with nobody.
    if actlr & coherency != 0 && actlr & coherency != coherency {
        each(RegisterError::Coherency { actlr, needed: coherency });
    }
}

/// A register that two cores have unequal, and that decides what tables mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The register's name.
    pub register: &'static str,
    /// Its value on the one core.
    pub has: u32,
    /// Its value on the other.
    pub other: u32,
}

/// Yields the registers by which one core may translate or cache an address otherwise than another. TTBR0 may name
/// another table if `any_root`.
pub fn differences(has: &Registers, other: &Registers, any_root: bool) -> impl Iterator<Item = Difference> {
    let all_if = |matters| if matters { u32::MAX } else { 0 };
    let upper = all_if(other.translates(Ttbr::Ttbr1));
    let remap = all_if(bit(has.sctlr | other.sctlr, walk::TRE) == 1);
    [
        ("SCTLR", walk::SCTLR_BITS, has.sctlr, other.sctlr),
        ("TTBCR", walk::TTBCR_BITS, has.ttbcr, other.ttbcr),
        ("TTBR0", if any_root { walk::TTBR_BITS } else { u32::MAX }, has.ttbr0, other.ttbr0),
        ("TTBR1", upper, has.ttbr1, other.ttbr1),
        ("DACR", walk::DACR_BITS, has.dacr, other.dacr),
        ("PRRR", remap, has.prrr, other.prrr),
        ("NMRR", remap, has.nmrr, other.nmrr),
        ("ACTLR", u32::MAX, has.actlr, other.actlr),
        ("MPIDR[31]", u32::MAX, has.multiprocessing.into(), other.multiprocessing.into()),
        ("ID_MMFR0[2]", u32::MAX, has.pxn.into(), other.pxn.into()),
    ]
    .into_iter()
    .filter(|&(_, mask, has, other)| (has ^ other) & mask != 0)
    .map(|(register, _, has, other)| Difference { register, has, other })
}
