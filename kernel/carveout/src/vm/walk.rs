//! The meaning that the hardware gives to any word of a short-descriptor table, under any registers (ARM ARM B3.5.1,
//! B3.7, B3.8).
//!
//! Guarantees: each of the 2^32 words of either level has one answer, whatever SCTLR, TTBCR, DACR, PRRR and NMRR hold.
//! What the manual leaves UNPREDICTABLE or IMPLEMENTATION DEFINED becomes [`Memory::Reserved`], or all rights. Some
//! settings can change while the table stays: a domain without access, a clear access flag. Under those the word counts
//! as valid. This is how the audit sees other kernels' tables. [`super::desc`] has what this crate writes itself.

use crate::addr::{FRAME_SIZE, PhysAddr, SECTION_SIZE, VirtAddr};
use crate::machine::Registers;
use crate::vm::attr::{Access, MemoryType, Shareability};
use crate::vm::desc::{L2_TABLE_SIZE, L2Desc, LARGE_PAGE_SIZE};
use core::fmt;

/// Bytes that a supersection maps. Its descriptor stands in 16 consecutive entries.
pub const SUPERSECTION_SIZE: u32 = 16 << 20;

/// How one level of caches holds Normal memory. Allocation hints do not count: they are no mismatch (A3.5.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caching {
    /// Not at all.
    NonCacheable,
    /// Writes go through.
    WriteThrough,
    /// Writes stay until they are evicted or cleaned.
    WriteBack,
}

/// A memory type that a table can express. There are more than this crate ever writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Strongly-ordered.
    StronglyOrdered,
    /// Device.
    Device,
    /// Normal, by level of caches.
    Normal {
        /// The inner caches.
        inner: Caching,
        /// The outer caches.
        outer: Caching,
    },
    /// An encoding without a defined meaning.
    Reserved,
}

impl Memory {
    /// Returns whether the caches may hold it and the core may read it ahead: it is Normal, or its meaning is unknown.
    pub const fn may_be_normal(self) -> bool {
        matches!(self, Self::Normal { .. } | Self::Reserved)
    }
}

impl From<MemoryType> for Memory {
    fn from(memory: MemoryType) -> Self {
        let normal = |caching| Self::Normal { inner: caching, outer: caching };
        match memory {
            MemoryType::WriteBack => normal(Caching::WriteBack),
            MemoryType::NonCacheable => normal(Caching::NonCacheable),
            MemoryType::Device => Self::Device,
            MemoryType::StronglyOrdered => Self::StronglyOrdered,
        }
    }
}

impl fmt::Display for Caching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NonCacheable => "non-cacheable",
            Self::WriteThrough => "write-through",
            Self::WriteBack => "write-back",
        })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StronglyOrdered => f.write_str("strongly-ordered"),
            Self::Device => f.write_str("device"),
            Self::Normal { inner, outer } if inner == outer => write!(f, "{inner}"),
            Self::Normal { inner, outer } => write!(f, "inner {inner} and outer {outer}"),
            Self::Reserved => f.write_str("of a reserved type"),
        }
    }
}

/// The sharers of Normal memory. For Device and Strongly-ordered memory, nothing here depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// One core.
    NonShareable,
    /// The cores of an inner domain.
    Inner,
    /// All observers, or the only domain that the core has.
    Outer,
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NonShareable => "non-shareable",
            Self::Inner => "inner shareable",
            Self::Outer => "shareable",
        })
    }
}

/// What must be equal in all translations of a frame (I1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Type and cacheability.
    pub memory: Memory,
    /// Shareability.
    pub sharing: Sharing,
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.memory {
            Memory::Normal { .. } => write!(f, "{}, {}", self.memory, self.sharing),
            memory => write!(f, "{memory}"),
        }
    }
}

/// The rights of one privilege level.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    /// Read.
    pub read: bool,
    /// Write.
    pub write: bool,
    /// Fetch instructions.
    pub execute: bool,
}

impl Rights {
    const ALL: Self = Self { read: true, write: true, execute: true };

    /// Returns whether any right is given.
    pub const fn any(self) -> bool {
        self.read || self.write || self.execute
    }
}

/// A domain, with its access by DACR (B3.7.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Domain {
    /// The domain's number, 0 to 15.
    pub number: u32,
    /// The two bits of DACR: 0b00 no access, 0b01 client, 0b10 reserved, 0b11 manager.
    pub access: u32,
}

impl Domain {
    fn new(number: u32, registers: &Registers) -> Self {
        Self { number, access: registers.dacr >> (2 * number) & 3 }
    }

    /// Returns whether permissions are checked. In a manager's domain none is, and XN is not either. In a reserved one
    /// that is unknown. A domain without access counts as a client's: a write of DACR can make it one.
    pub const fn is_checked(self) -> bool {
        self.access < 2
    }
}

/// The meaning of a valid leaf descriptor, of either level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where the memory is.
    pub base: PhysAddr,
    /// Bytes: 4 KiB, 64 KiB, 1 MiB or 16 MiB.
    pub size: u32,
    /// The attributes that I1 is about.
    pub attributes: Attributes,
    /// The rights at PL1.
    pub kernel: Rights,
    /// The rights at PL0.
    pub users: Rights,
    /// Whether the nG bit is clear: the leaf belongs to all address spaces.
    pub global: bool,
    /// The NS bit.
    pub non_secure: bool,
    /// The leaf's domain.
    pub domain: Domain,
    /// Whether AP\[2:0\] is the reserved 0b100. The rights are unknown then, so all count as given.
    pub reserved_rights: bool,
}

/// The meaning of a first-level word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum First {
    /// Any access faults.
    Fault,
    /// A second-level table.
    Table(Pointer),
    /// A section or a supersection.
    Leaf(Translation),
    /// A supersection above 4 GiB.
    Beyond,
}

/// A pointer to a second-level table, with what it says of all that the table translates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pointer {
    /// Where the table is.
    pub at: PhysAddr,
    domain: Domain,
    pxn: bool,
    non_secure: bool,
}

/// The bits of a leaf, whatever their place at its level.
struct Fields {
    tex: u32,
    c: u32,
    b: u32,
    s: u32,
    ap: u32,
    xn: bool,
    pxn: bool,
    global: bool,
}

pub(super) const fn bit(word: u32, n: u32) -> u32 {
    word >> n & 1
}

/// The numbers of bits of SCTLR (B4.1.130): first the MMU, data and unified caches, instruction caches.
pub(super) const M: u32 = 0;
pub(super) const C: u32 = 2;
pub(super) const I: u32 = 12;
const WXN: u32 = 19;
const UWXN: u32 = 20;
/// Set if walks read big-endian words.
pub(super) const EE: u32 = 25;
pub(super) const TRE: u32 = 28;
const AFE: u32 = 29;

/// The bits of SCTLR that decide what tables mean. V and U are not among them: they say where vectors are and how words
/// are aligned. Neither is HA: it has the hardware set access flags, which count as set anyway.
pub(super) const SCTLR_BITS: u32 = 1 << M | 1 << C | 1 << I | 1 << WXN | 1 << UWXN | 1 << EE | 1 << TRE | 1 << AFE;
/// The bits of TTBCR that decide what tables mean: EAE, PD1, PD0 and N (B4.1.153).
pub(super) const TTBCR_BITS: u32 = 1 << 31 | 1 << 5 | 1 << 4 | 7;
/// The bits of TTBR0 and TTBR1 that say how walks go through the caches, whatever table the register names (B4.1.154).
pub(super) const TTBR_BITS: u32 = 0x7f;
/// The bits of DACR that say which domains are not checked ([`Domain::is_checked`]).
pub(super) const DACR_BITS: u32 = 0xaaaa_aaaa;

/// Decodes a two-bit cacheability (tables B3-11 and B4.1.114).
const fn caching(code: u32) -> Caching {
    match code & 3 {
        0b00 => Caching::NonCacheable,
        0b10 => Caching::WriteThrough,
        _ => Caching::WriteBack,
    }
}

/// Decodes TEX, C, B and S under SCTLR.TRE, PRRR and NMRR (B3.8.2, B3.8.3).
fn attributes(fields: &Fields, registers: &Registers) -> Attributes {
    let &Fields { tex, c, b, s, .. } = fields;
    if bit(registers.sctlr, TRE) == 1 {
        return remapped((tex & 1) << 2 | c << 1 | b, s, registers);
    }
    let both = |caching| Memory::Normal { inner: caching, outer: caching };
    let memory = match (tex, c, b) {
        (0b000, 0, 0) => Memory::StronglyOrdered,
        (0b000, 0, 1) | (0b010, 0, 0) => Memory::Device,
        (0b000, 1, 0) => both(Caching::WriteThrough),
        (0b000 | 0b001, 1, 1) => both(Caching::WriteBack),
        (0b001, 0, 0) => both(Caching::NonCacheable),
        (0b100.., ..) => Memory::Normal { inner: caching(c << 1 | b), outer: caching(tex) },
        _ => Memory::Reserved,
    };
    Attributes { memory, sharing: if s == 1 { Sharing::Outer } else { Sharing::NonShareable } }
}

/// Decodes region `n` of PRRR and NMRR.
fn remapped(n: u32, s: u32, registers: &Registers) -> Attributes {
    let Registers { prrr, nmrr, .. } = *registers;
    let memory = match prrr >> (2 * n) & 3 {
        // Each core gives region 6 its own meaning (B3.8.3).
        _ if n == 6 => Memory::Reserved,
        0b00 => Memory::StronglyOrdered,
        0b01 => Memory::Device,
        0b10 => Memory::Normal { inner: caching(nmrr >> (2 * n)), outer: caching(nmrr >> (2 * n + 16)) },
        _ => Memory::Reserved,
    };
    // NS0 and NS1.
    let sharing = match (bit(prrr, 18 + s), bit(prrr, 24 + n)) {
        (0, _) => Sharing::NonShareable,
        (_, 1) => Sharing::Inner,
        _ => Sharing::Outer,
    };
    Attributes { memory, sharing }
}

/// Returns the rights at PL1 and at PL0 (B3.7.1), and whether AP is reserved.
fn rights(fields: &Fields, domain: Domain, registers: &Registers) -> (Rights, Rights, bool) {
    if !domain.is_checked() {
        return (Rights::ALL, Rights::ALL, false);
    }
    let sctlr = registers.sctlr;
    // (read, write) at PL1, then at PL0.
    let (rw, ro, none) = ((true, true), (true, false), (false, false));
    let (kernel, users, reserved) = match fields.ap {
        // AP[0] is the access flag.
        ap if bit(sctlr, AFE) == 1 => match ap >> 1 {
            0b00 => (rw, none, false),
            0b01 => (rw, rw, false),
            0b10 => (ro, none, false),
            _ => (ro, ro, false),
        },
        0b000 => (none, none, false),
        0b001 => (rw, none, false),
        0b010 => (rw, ro, false),
        0b011 => (rw, rw, false),
        0b100 => (rw, rw, true),
        0b101 => (ro, none, false),
        _ => (ro, ro, false),
    };
    let wxn = bit(sctlr, WXN) == 1;
    let never = fields.xn || fields.pxn || wxn && kernel.1 || bit(sctlr, UWXN) == 1 && users.1;
    (
        Rights { read: kernel.0, write: kernel.1, execute: kernel.0 && !never },
        Rights { read: users.0, write: users.1, execute: users.0 && !fields.xn && !(wxn && users.1) },
        reserved,
    )
}

fn leaf(base: u32, size: u32, fields: &Fields, domain: Domain, non_secure: bool, registers: &Registers) -> Translation {
    let (kernel, users, reserved_rights) = rights(fields, domain, registers);
    Translation {
        base: PhysAddr::new(base),
        size,
        attributes: attributes(fields, registers),
        kernel,
        users,
        global: fields.global,
        non_secure,
        domain,
        reserved_rights,
    }
}

/// Decodes a first-level word.
pub fn first_level(word: u32, registers: &Registers) -> First {
    match word & 0b11 {
        0b00 => First::Fault,
        0b01 => First::Table(Pointer {
            at: PhysAddr::new(word & !(L2_TABLE_SIZE - 1)),
            domain: Domain::new(word >> 5 & 0xf, registers),
            pxn: registers.pxn && bit(word, 2) == 1,
            non_secure: bit(word, 3) == 1,
        }),
        // Where there is no PXN the encoding is reserved, and faults.
        0b11 if !registers.pxn => First::Fault,
        _ => {
            let fields = Fields {
                tex: word >> 12 & 7,
                c: bit(word, 3),
                b: bit(word, 2),
                s: bit(word, 16),
                ap: bit(word, 15) << 2 | word >> 10 & 3,
                xn: bit(word, 4) == 1,
                pxn: bit(word, 0) == 1,
                global: bit(word, 17) == 0,
            };
            let supersection = bit(word, 18) == 1;
            // PA[39:36] stand where a section has its domain, PA[35:32] next to PA[31:24].
            if supersection && word & 0x00f0_01e0 != 0 {
                return First::Beyond;
            }
            let size = if supersection { SUPERSECTION_SIZE } else { SECTION_SIZE };
            let domain = Domain::new(if supersection { 0 } else { word >> 5 & 0xf }, registers);
            First::Leaf(leaf(word & !(size - 1), size, &fields, domain, bit(word, 19) == 1, registers))
        }
    }
}

/// Decodes a second-level word, in a table that `pointer` leads to. Returns `None` if any access faults.
pub fn second_level(word: u32, pointer: Pointer, registers: &Registers) -> Option<Translation> {
    let (size, tex, xn) = match word & 0b11 {
        0b00 => return None,
        0b01 => (LARGE_PAGE_SIZE, word >> 12 & 7, bit(word, 15)),
        _ => (FRAME_SIZE, word >> 6 & 7, bit(word, 0)),
    };
    let fields = Fields {
        tex,
        c: bit(word, 3),
        b: bit(word, 2),
        s: bit(word, 10),
        ap: bit(word, 9) << 2 | word >> 4 & 3,
        xn: xn == 1,
        pxn: pointer.pxn,
        global: bit(word, 11) == 0,
    };
    Some(leaf(word & !(size - 1), size, &fields, pointer.domain, pointer.non_secure, registers))
}

/// Returns what this crate's descriptors of a type mean under these registers.
pub fn meaning(memory: MemoryType, share: Shareability, registers: &Registers) -> Attributes {
    let word = L2Desc::small(PhysAddr::new(0), memory, Access::ReadWrite, share).raw();
    let fields = Fields {
        tex: word >> 6 & 7,
        c: bit(word, 3),
        b: bit(word, 2),
        s: bit(word, 10),
        ap: 1,
        xn: true,
        pxn: false,
        global: true,
    };
    attributes(&fields, registers)
}

/// Returns what this crate's descriptors of a type mean under TEX remap, by PRRR and NMRR. `region` is what they
/// select: TEX\[0\], C, B.
pub(super) fn remapped_meaning(region: u32, normal: bool, registers: &Registers) -> Attributes {
    let shared = normal && matches!(registers.shareability(), Shareability::Shareable);
    remapped(region, u32::from(shared), registers)
}

/// One of the registers that name tables (B4.1.154).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ttbr {
    /// The register of the lower addresses: below 4 GiB / 2^N.
    Ttbr0,
    /// The register of the other addresses, if N is not 0.
    Ttbr1,
}

impl fmt::Display for Ttbr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ttbr0 => "TTBR0",
            Self::Ttbr1 => "TTBR1",
        })
    }
}

impl Registers {
    /// Returns TTBCR.N.
    pub const fn n(&self) -> u32 {
        self.ttbcr & 7
    }

    /// Returns the register whose table translates `va` (B3.5.4).
    pub const fn ttbr_of(&self, va: VirtAddr) -> Ttbr {
        if self.n() == 0 || va.raw() >> (32 - self.n()) == 0 { Ttbr::Ttbr0 } else { Ttbr::Ttbr1 }
    }

    /// Returns the first-level table that a register names. TTBR0's holds 2^(12 - N) words and is aligned to its size.
    pub const fn table(&self, ttbr: Ttbr) -> PhysAddr {
        match ttbr {
            Ttbr::Ttbr0 => PhysAddr::new(self.ttbr0 & !((0x4000 >> self.n()) - 1)),
            Ttbr::Ttbr1 => PhysAddr::new(self.ttbr1 & !0x3fff),
        }
    }

    /// Returns the size of the register's first-level table, in bytes.
    pub const fn table_bytes(&self, ttbr: Ttbr) -> u32 {
        match ttbr {
            Ttbr::Ttbr0 => 0x4000 >> self.n(),
            Ttbr::Ttbr1 => 0x4000,
        }
    }

    /// Returns whether N gives the register any addresses (B3.5.4).
    pub const fn translates(&self, ttbr: Ttbr) -> bool {
        matches!(ttbr, Ttbr::Ttbr0) || self.n() != 0
    }

    /// Returns whether a miss in the TLB faults and walks no table: PD0, PD1 (B4.1.153).
    pub const fn walks_are_off(&self, ttbr: Ttbr) -> bool {
        match ttbr {
            Ttbr::Ttbr0 => bit(self.ttbcr, 4) == 1,
            Ttbr::Ttbr1 => bit(self.ttbcr, 5) == 1,
        }
    }

    /// Returns the attributes with which walks read the register's tables. Without the Multiprocessing Extensions bit 0
    /// of the register is C.
    pub fn walk_attributes(&self, ttbr: Ttbr) -> Attributes {
        let word = match ttbr {
            Ttbr::Ttbr0 => self.ttbr0,
            Ttbr::Ttbr1 => self.ttbr1,
        };
        let inner = if self.multiprocessing {
            caching(bit(word, 0) << 1 | bit(word, 6))
        } else if bit(word, 0) == 1 {
            Caching::WriteBack
        } else {
            Caching::NonCacheable
        };
        let sharing = match (bit(word, 1), bit(word, 5)) {
            (0, _) => Sharing::NonShareable,
            (_, 0) => Sharing::Outer,
            _ => Sharing::Inner,
        };
        Attributes { memory: Memory::Normal { inner, outer: caching(word >> 3) }, sharing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::desc::{L1Desc, L1Entry, L2Entry};
    use proptest::prelude::*;
    use std::string::ToString;

    const PLAIN: Registers = Registers::plain(PhysAddr::new(0x6000_4000));

    /// Linux's values (arch/arm/mm/proc-v7-2level.S).
    const LINUX: Registers = Registers { sctlr: PLAIN.sctlr | 1 << TRE, prrr: 0xff0a_81a8, nmrr: 0x40e0_40e0, ..PLAIN };

    #[test]
    fn linux_remaps_what_this_crate_writes() {
        let means = |memory| meaning(memory, Shareability::Shareable, &LINUX).to_string();
        assert_eq!(means(MemoryType::WriteBack), "write-back, inner shareable");
        assert_eq!(means(MemoryType::NonCacheable), "device");
        assert_eq!(means(MemoryType::Device), "non-cacheable, non-shareable");
        assert_eq!(means(MemoryType::StronglyOrdered), "strongly-ordered");
    }

    /// AFE takes AP[0] for the access flag, which this crate's descriptors have set: they mean the same.
    #[test]
    fn the_access_flag_changes_nothing_of_what_this_crate_writes() {
        let afe = Registers { sctlr: PLAIN.sctlr | 1 << AFE, ..PLAIN };
        for access in [Access::Read, Access::ReadWrite, Access::ReadExecute] {
            let word = L1Desc::section(PhysAddr::new(0), MemoryType::WriteBack, access, Shareability::Shareable).raw();
            assert_eq!(first_level(word, &afe), first_level(word, &PLAIN));
        }
    }

    #[test]
    fn walks_are_as_the_head_sets_them() {
        let both = |ttbr0, multiprocessing| {
            Registers { ttbr0, multiprocessing, ..PLAIN }.walk_attributes(Ttbr::Ttbr0).to_string()
        };
        assert_eq!(both(0x6000_406a, true), "write-back, inner shareable");
        assert_eq!(both(0x6000_4009, false), "write-back, non-shareable");
        assert_eq!(both(0x6000_4002, true), "non-cacheable, shareable");
        assert_eq!(both(0x6000_4013, true), "write-through, shareable");
        assert_eq!(both(0x6000_4008, false), "inner non-cacheable and outer write-back, non-shareable");
    }

    #[test]
    fn the_split_is_where_n_puts_it() {
        for (n, last, bytes) in [(1, 0x7fff_ffff, 0x2000), (2, 0x3fff_ffff, 0x1000), (7, 0x01ff_ffff, 0x80)] {
            let registers = Registers { ttbcr: n, ttbr0: 0x6000_41ea, ..PLAIN };
            assert_eq!(registers.ttbr_of(VirtAddr::new(last)), Ttbr::Ttbr0);
            assert_eq!(registers.ttbr_of(VirtAddr::new(last + 1)), Ttbr::Ttbr1);
            assert_eq!(registers.table_bytes(Ttbr::Ttbr0), bytes);
            assert_eq!(registers.table(Ttbr::Ttbr0).raw(), 0x6000_41ea & !(bytes - 1));
        }
        let whole = Registers { ttbcr: 0, ..PLAIN };
        assert_eq!(whole.ttbr_of(VirtAddr::new(u32::MAX)), Ttbr::Ttbr0);
        assert!(!whole.translates(Ttbr::Ttbr1));
    }

    proptest! {
        /// Whatever the constructors make, the hardware takes as it was meant.
        #[test]
        fn what_is_meant_is_what_is_read(word in any::<u32>(), large in any::<bool>()) {
            let alike = |leaf: Translation, meant: crate::vm::desc::Leaf| {
                let normal = Memory::from(meant.memory).may_be_normal();
                (leaf.base, leaf.size, leaf.attributes.memory) == (meant.base, meant.size, meant.memory.into())
                    && (!normal || (leaf.attributes.sharing == Sharing::Outer) == (meant.shareability == Shareability::Shareable))
                    && leaf.kernel.read && !leaf.users.any() && leaf.global && leaf.domain.number == 0
                    && leaf.kernel.write == (meant.access == Access::ReadWrite)
                    && leaf.kernel.execute == (meant.access == Access::ReadExecute)
            };
            // Most words are foreign: clear what the constructors never set.
            let word = word & if large { 0xffff_963f } else { 0xffff_ffff };
            match (L1Desc::from_raw(word & 0xfff1_9c1f | 0x400).decode(), first_level(word & 0xfff1_9c1f | 0x400, &PLAIN)) {
                (L1Entry::Fault, First::Fault) | (L1Entry::Foreign(_), _) => {}
                (L1Entry::Table(at), First::Table(pointer)) => prop_assert_eq!(at, pointer.at),
                (L1Entry::Section(meant), First::Leaf(leaf)) => prop_assert!(alike(leaf, meant)),
                (meant, read) => prop_assert!(false, "{meant:?} is read as {read:?}"),
            }
            let First::Table(pointer) = first_level(0x6000_8001, &PLAIN) else { panic!("a table") };
            match (L2Desc::from_raw(word).decode(), second_level(word, pointer, &PLAIN)) {
                (L2Entry::Fault, None) | (L2Entry::Foreign(_), _) => {}
                (L2Entry::Page(meant), Some(leaf)) => prop_assert!(alike(leaf, meant)),
                (meant, read) => prop_assert!(false, "{meant:?} is read as {read:?}"),
            }
        }
    }
}
