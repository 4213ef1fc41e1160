//! Short descriptors as the table walker reads them (ARM ARM B3.5.1): first and second level as distinct types.
//!
//! Guarantees: each constructor makes a valid descriptor of domain 0. Those of the kernel are global and
//! privileged-only. Those of users are not global. Decoding what a constructor made gives back what went in. What none
//! of the kernel's makes decodes to [`Foreign`](L1Entry::Foreign). All this is for TEX remap off (SCTLR.TRE = 0); the
//! audit says so if remap changes it. [`super::walk`] reads what other kernels write.
//!
//! A user's pages are small pages, whatever the kernel maps the frames by. Type and shareability are what must agree
//! (I1), and a process has few pages.

use crate::addr::{FRAME_SIZE, PhysAddr, SECTION_SIZE};
use crate::vm::attr::{Access, MemoryType, Shareability};
use crate::vm::user::UserAccess;

/// Bytes that a large page maps. Its descriptor stands in 16 consecutive entries.
pub const LARGE_PAGE_SIZE: u32 = 64 << 10;
/// Entries of a first-level table.
pub const L1_ENTRIES: usize = 4096;
/// Entries of a second-level table. It has 1 KiB and maps 1 MiB of addresses.
pub const L2_ENTRIES: usize = 256;
/// Bytes of a second-level table.
pub const L2_TABLE_SIZE: u32 = 1024;

/// A second-level table.
pub type L2Table = [L2Desc; L2_ENTRIES];

/// The meaning of a valid leaf descriptor, of either level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Where the memory is.
    pub base: PhysAddr,
    /// Bytes mapped: 4 KiB, 64 KiB or 1 MiB.
    pub size: u32,
    /// Type and cacheability.
    pub memory: MemoryType,
    /// The kernel's rights.
    pub access: Access,
    /// The S bit.
    pub shareability: Shareability,
}

/// A decoded first-level descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L1Entry {
    /// Any access faults.
    Fault,
    /// A second-level table stands at this address.
    Table(PhysAddr),
    /// A section of 1 MiB.
    Section(Leaf),
    /// A valid word that this crate does not write.
    Foreign(u32),
}

/// A decoded second-level descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L2Entry {
    /// Any access faults.
    Fault,
    /// A small page (4 KiB) or one of the 16 entries of a large page (64 KiB).
    Page(Leaf),
    /// A valid word that this crate does not write.
    Foreign(u32),
}

/// The meaning of a small page of a user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserLeaf {
    /// Where the memory is.
    pub base: PhysAddr,
    /// Type and cacheability.
    pub memory: MemoryType,
    /// The user's rights to the bytes, or `None` if it is the user's code, which is read and executed.
    pub access: Option<UserAccess>,
    /// The S bit.
    pub shareability: Shareability,
}

/// Returns TEX\[0\], C and B of a type. TEX\[2:1\] are 0 for all four (ARM ARM table B3-10).
const fn tex_c_b(memory: MemoryType) -> (u32, u32, u32) {
    match memory {
        MemoryType::WriteBack => (1, 1, 1),
        MemoryType::NonCacheable => (1, 0, 0),
        MemoryType::Device => (0, 0, 1),
        MemoryType::StronglyOrdered => (0, 0, 0),
    }
}

const fn memory_of(tex: u32, c: u32, b: u32) -> Option<MemoryType> {
    match (tex, c, b) {
        (1, 1, 1) => Some(MemoryType::WriteBack),
        (1, 0, 0) => Some(MemoryType::NonCacheable),
        (0, 0, 1) => Some(MemoryType::Device),
        (0, 0, 0) => Some(MemoryType::StronglyOrdered),
        _ => None,
    }
}

/// Returns AP\[2\] and XN of an access. AP\[1:0\] are 01, privileged only, for all three (ARM ARM table B3-8).
const fn ap2_xn(access: Access) -> (u32, u32) {
    match access {
        Access::Read => (1, 1),
        Access::ReadWrite => (0, 1),
        Access::ReadExecute => (1, 0),
    }
}

const fn access_of(ap2: u32, ap10: u32, xn: u32) -> Option<Access> {
    match (ap2, ap10, xn) {
        (1, 1, 1) => Some(Access::Read),
        (0, 1, 1) => Some(Access::ReadWrite),
        (1, 1, 0) => Some(Access::ReadExecute),
        _ => None,
    }
}

/// Returns the S bit. Only Normal memory carries the machine's; Device memory is Shareable by its type on ARMv7-A
/// without LPAE.
const fn s_bit(memory: MemoryType, shareability: Shareability) -> u32 {
    match (memory, shareability) {
        (MemoryType::WriteBack | MemoryType::NonCacheable, Shareability::Shareable) => 1,
        _ => 0,
    }
}

const fn shareability_of(s: u32) -> Shareability {
    if s == 1 { Shareability::Shareable } else { Shareability::NonShareable }
}

const fn bit(word: u32, n: u32) -> u32 {
    (word >> n) & 1
}

/// A first-level descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct L1Desc(u32);

impl L1Desc {
    /// The descriptor that faults.
    pub const FAULT: Self = Self(0);

    /// Makes a pointer to the second-level table at `table`, a multiple of 1 KiB.
    ///
    /// # Panics
    ///
    /// If `table` is not a multiple of 1 KiB.
    pub const fn table(table: PhysAddr) -> Self {
        assert!(table.is_aligned(L2_TABLE_SIZE));
        Self(table.raw() | 0b01)
    }

    /// Makes a pointer to a second-level table of a user, at `table`, a multiple of 1 KiB. With `pxn` the kernel never
    /// executes what it maps. A core that lacks PXN wants `false` (ARM ARM B3.5.1, B3.7.2).
    ///
    /// # Panics
    ///
    /// If `table` is not a multiple of 1 KiB.
    pub const fn user_table(table: PhysAddr, pxn: bool) -> Self {
        Self(Self::table(table).0 | (pxn as u32) << 2)
    }

    /// Makes the descriptor of a section at `base`, a multiple of 1 MiB.
    ///
    /// # Panics
    ///
    /// If `base` is not a multiple of 1 MiB.
    pub const fn section(base: PhysAddr, memory: MemoryType, access: Access, share: Shareability) -> Self {
        assert!(base.is_aligned(SECTION_SIZE));
        let (tex, c, b) = tex_c_b(memory);
        let (ap2, xn) = ap2_xn(access);
        let s = s_bit(memory, share);
        Self(base.raw() | s << 16 | ap2 << 15 | tex << 12 | 0b01 << 10 | xn << 4 | c << 3 | b << 2 | 0b10)
    }

    /// Decodes the word.
    pub const fn decode(self) -> L1Entry {
        let word = self.0;
        match word & 0b11 {
            0b00 => L1Entry::Fault,
            // Domain 0, PXN and NS clear.
            0b01 if word & 0x3fe == 0 => L1Entry::Table(PhysAddr::new(word & !0x3ff)),
            // Not a supersection, domain 0, global, secure.
            0b10 if word & 0x000e_01e0 == 0 && (word >> 12) & 6 == 0 => {
                let memory = memory_of(bit(word, 12), bit(word, 3), bit(word, 2));
                let access = access_of(bit(word, 15), (word >> 10) & 3, bit(word, 4));
                match (memory, access) {
                    (Some(memory), Some(access)) => L1Entry::Section(Leaf {
                        base: PhysAddr::new(word & 0xfff0_0000),
                        size: SECTION_SIZE,
                        memory,
                        access,
                        shareability: shareability_of(bit(word, 16)),
                    }),
                    _ => L1Entry::Foreign(word),
                }
            }
            _ => L1Entry::Foreign(word),
        }
    }

    /// Returns the word that a table holds.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Takes a word that was found in a table.
    pub const fn from_raw(word: u32) -> Self {
        Self(word)
    }
}

/// A second-level descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct L2Desc(u32);

impl L2Desc {
    /// The descriptor that faults.
    pub const FAULT: Self = Self(0);

    /// Makes the descriptor of a small page at `base`, a multiple of 4 KiB.
    ///
    /// # Panics
    ///
    /// If `base` is not a multiple of 4 KiB.
    pub const fn small(base: PhysAddr, memory: MemoryType, access: Access, share: Shareability) -> Self {
        assert!(base.is_aligned(FRAME_SIZE));
        let (tex, c, b) = tex_c_b(memory);
        let (ap2, xn) = ap2_xn(access);
        let s = s_bit(memory, share);
        Self(base.raw() | s << 10 | ap2 << 9 | tex << 6 | 0b01 << 4 | c << 3 | b << 2 | 0b10 | xn)
    }

    /// Makes the descriptor of a large page at `base`, a multiple of 64 KiB. The word must stand in all 16 entries of
    /// the page.
    ///
    /// # Panics
    ///
    /// If `base` is not a multiple of 64 KiB.
    pub const fn large(base: PhysAddr, memory: MemoryType, access: Access, share: Shareability) -> Self {
        assert!(base.is_aligned(LARGE_PAGE_SIZE));
        let (tex, c, b) = tex_c_b(memory);
        let (ap2, xn) = ap2_xn(access);
        let s = s_bit(memory, share);
        Self(base.raw() | xn << 15 | tex << 12 | s << 10 | ap2 << 9 | 0b01 << 4 | c << 3 | b << 2 | 0b01)
    }

    /// Makes the descriptor of a small page of a user at `base`, a multiple of 4 KiB. Nobody executes it.
    ///
    /// AP\[2:0\] is 010 for a user that reads, and 011 for one that writes (ARM ARM table B3-8). With 111 in place of
    /// 010 the kernel could not write there either. That would protect nothing, for the kernel has the frame writable
    /// at an address of its own. And a page would change the kernel's rights with the user's.
    ///
    /// # Panics
    ///
    /// If `base` is not a multiple of 4 KiB.
    pub const fn user(base: PhysAddr, memory: MemoryType, access: UserAccess, share: Shareability) -> Self {
        let ap = match access {
            UserAccess::Read => 0b010,
            UserAccess::ReadWrite => 0b011,
        };
        Self::user_page(base, memory, ap, 1, share)
    }

    /// Makes the descriptor of a small page of a user's code at `base`, a multiple of 4 KiB: ordinary RAM, write-back,
    /// which is read and executed. AP\[2:0\] is 111: the kernel may not write there either, so nothing is both writable
    /// and executable at one address.
    ///
    /// # Panics
    ///
    /// If `base` is not a multiple of 4 KiB.
    pub const fn user_code(base: PhysAddr, share: Shareability) -> Self {
        Self::user_page(base, MemoryType::WriteBack, 0b111, 0, share)
    }

    const fn user_page(base: PhysAddr, memory: MemoryType, ap: u32, xn: u32, share: Shareability) -> Self {
        assert!(base.is_aligned(FRAME_SIZE));
        let (tex, c, b) = tex_c_b(memory);
        let s = s_bit(memory, share);
        let ap = (ap >> 2) << 9 | (ap & 0b11) << 4;
        Self(base.raw() | 1 << 11 | s << 10 | tex << 6 | ap | c << 3 | b << 2 | 0b10 | xn)
    }

    /// Decodes what [`user`](Self::user) or [`user_code`](Self::user_code) made. Returns `None` for any other word.
    pub const fn decode_user(self) -> Option<UserLeaf> {
        let word = self.0;
        if word & 0b10 == 0 || bit(word, 11) == 0 {
            return None;
        }
        let Some(memory) = memory_of((word >> 6) & 7, bit(word, 3), bit(word, 2)) else { return None };
        let access = match (bit(word, 9) << 2 | (word >> 4) & 0b11, bit(word, 0)) {
            (0b010, 1) => Some(UserAccess::Read),
            (0b011, 1) => Some(UserAccess::ReadWrite),
            (0b111, 0) => None,
            _ => return None,
        };
        let (base, shareability) = (PhysAddr::new(word & 0xffff_f000), shareability_of(bit(word, 10)));
        Some(UserLeaf { base, memory, access, shareability })
    }

    /// Decodes the word. The `base` of a large page is that of the whole page.
    pub const fn decode(self) -> L2Entry {
        let word = self.0;
        let (base, size, tex, xn) = match word & 0b11 {
            0b00 => return L2Entry::Fault,
            0b01 => (word & 0xffff_0000, LARGE_PAGE_SIZE, (word >> 12) & 7, bit(word, 15)),
            _ => (word & 0xffff_f000, FRAME_SIZE, (word >> 6) & 7, bit(word, 0)),
        };
        let memory = memory_of(tex, bit(word, 3), bit(word, 2));
        let access = access_of(bit(word, 9), (word >> 4) & 3, xn);
        match (memory, access) {
            // It is global, and a large page's bits [8:6] are zero.
            (Some(memory), Some(access)) if bit(word, 11) == 0 && (size == FRAME_SIZE || word & 0x1c0 == 0) => {
                L2Entry::Page(Leaf {
                    base: PhysAddr::new(base),
                    size,
                    memory,
                    access,
                    shareability: shareability_of(bit(word, 10)),
                })
            }
            _ => L2Entry::Foreign(word),
        }
    }

    /// Returns the word that a table holds.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Takes a word that was found in a table.
    pub const fn from_raw(word: u32) -> Self {
        Self(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Access::*;
    use MemoryType::*;
    use Shareability::*;

    const BASE: PhysAddr = PhysAddr::new(0x6450_0000);

    /// Each value is worked out by hand from the figures of ARM ARM B3.5.1 and tables B3-8 and B3-10.
    #[test]
    fn sections_are_pinned_to_the_manual() {
        let section = |m, a, s| L1Desc::section(BASE, m, a, s).raw();
        // 10 | B=2 | C=3 | XN=4 | AP[1:0]=01 at 10 | TEX=001 at 12 | S=16
        assert_eq!(section(WriteBack, ReadWrite, Shareable), 0x6451_141e);
        assert_eq!(section(WriteBack, ReadWrite, NonShareable), 0x6450_141e);
        assert_eq!(section(WriteBack, ReadExecute, Shareable), 0x6451_940e);
        assert_eq!(section(WriteBack, Read, NonShareable), 0x6450_941e);
        assert_eq!(section(NonCacheable, ReadWrite, Shareable), 0x6451_1412);
        assert_eq!(section(NonCacheable, ReadWrite, NonShareable), 0x6450_1412);
        assert_eq!(section(Device, ReadWrite, Shareable), 0x6450_0416);
        assert_eq!(section(StronglyOrdered, ReadWrite, NonShareable), 0x6450_0412);
    }

    #[test]
    fn pages_are_pinned_to_the_manual() {
        let small = |m, a, s| L2Desc::small(BASE, m, a, s).raw();
        // 1x | XN=0 | B=2 | C=3 | AP[1:0]=01 at 4 | TEX=001 at 6 | AP[2]=9 | S=10
        assert_eq!(small(WriteBack, ReadWrite, Shareable), 0x6450_045f);
        assert_eq!(small(WriteBack, ReadExecute, Shareable), 0x6450_065e);
        assert_eq!(small(WriteBack, Read, NonShareable), 0x6450_025f);
        assert_eq!(small(NonCacheable, ReadWrite, NonShareable), 0x6450_0053);
        assert_eq!(small(Device, ReadWrite, Shareable), 0x6450_0017);
        assert_eq!(small(StronglyOrdered, ReadWrite, Shareable), 0x6450_0013);
        let large = |m, a, s| L2Desc::large(BASE, m, a, s).raw();
        // 01 | B=2 | C=3 | AP[1:0]=01 at 4 | AP[2]=9 | S=10 | TEX=001 at 12 | XN=15
        assert_eq!(large(WriteBack, ReadWrite, Shareable), 0x6450_941d);
        assert_eq!(large(NonCacheable, ReadWrite, NonShareable), 0x6450_9011);
        assert_eq!(large(WriteBack, ReadExecute, NonShareable), 0x6450_121d);
    }

    #[test]
    fn a_table_pointer_is_pinned_to_the_manual() {
        assert_eq!(L1Desc::table(PhysAddr::new(0x6001_2400)).raw(), 0x6001_2401);
        assert_eq!(L1Desc::from_raw(0x6001_2401).decode(), L1Entry::Table(PhysAddr::new(0x6001_2400)));
        // PXN=2.
        assert_eq!(L1Desc::user_table(PhysAddr::new(0x6001_2400), false).raw(), 0x6001_2401);
        assert_eq!(L1Desc::user_table(PhysAddr::new(0x6001_2400), true).raw(), 0x6001_2405);
    }

    #[test]
    fn pages_of_users_are_pinned_to_the_manual() {
        let user = |m, a, s| L2Desc::user(BASE, m, a, s).raw();
        // 1x | XN=0 | B=2 | C=3 | AP[1:0] at 4 | TEX=001 at 6 | AP[2]=9 | S=10 | nG=11
        assert_eq!(user(WriteBack, UserAccess::Read, Shareable), 0x6450_0c6f);
        assert_eq!(user(WriteBack, UserAccess::ReadWrite, Shareable), 0x6450_0c7f);
        assert_eq!(user(NonCacheable, UserAccess::Read, NonShareable), 0x6450_0863);
        assert_eq!(user(NonCacheable, UserAccess::ReadWrite, Shareable), 0x6450_0c73);
        assert_eq!(L2Desc::user_code(BASE, Shareable).raw(), 0x6450_0e7e);
        assert_eq!(L2Desc::user_code(BASE, NonShareable).raw(), 0x6450_0a7e);
    }

    #[test]
    fn decoding_gives_back_what_a_user_got() {
        for shareability in [Shareable, NonShareable] {
            for memory in [WriteBack, NonCacheable] {
                for access in [UserAccess::Read, UserAccess::ReadWrite] {
                    let desc = L2Desc::user(BASE, memory, access, shareability);
                    let leaf = UserLeaf { base: BASE, memory, access: Some(access), shareability };
                    assert_eq!((desc.decode_user(), desc.decode()), (Some(leaf), L2Entry::Foreign(desc.raw())));
                }
            }
            let code = UserLeaf { base: BASE, memory: WriteBack, access: None, shareability };
            assert_eq!(L2Desc::user_code(BASE, shareability).decode_user(), Some(code));
        }
        // Fault; global; writable and executable by the user; a large page; the kernel's.
        for word in [0, 0x6450_047f, 0x6450_0c7e, 0x6450_9c7d, L2Desc::small(BASE, WriteBack, Read, Shareable).raw()] {
            assert_eq!(L2Desc::from_raw(word).decode_user(), None, "{word:#010x}");
        }
    }

    #[test]
    fn decoding_gives_back_what_was_encoded() {
        for memory in [WriteBack, NonCacheable, Device, StronglyOrdered] {
            for access in [Read, ReadWrite, ReadExecute] {
                for share in [Shareable, NonShareable] {
                    let shareability = if matches!(memory, WriteBack | NonCacheable) { share } else { NonShareable };
                    let leaf = |size| Leaf { base: BASE, size, memory, access, shareability };
                    assert_eq!(
                        L1Desc::section(BASE, memory, access, share).decode(),
                        L1Entry::Section(leaf(SECTION_SIZE))
                    );
                    assert_eq!(L2Desc::small(BASE, memory, access, share).decode(), L2Entry::Page(leaf(FRAME_SIZE)));
                    assert_eq!(
                        L2Desc::large(BASE, memory, access, share).decode(),
                        L2Entry::Page(leaf(LARGE_PAGE_SIZE))
                    );
                }
            }
        }
    }

    #[test]
    fn what_no_constructor_makes_is_foreign() {
        // Writable and executable; user access; supersection; another domain; write-through; not-global.
        for word in [0x6451_140e, 0x6451_1c1e, 0x6455_141e, 0x6451_143e, 0x6451_141a & !0x1000, 0x6453_141e] {
            assert_eq!(L1Desc::from_raw(word).decode(), L1Entry::Foreign(word), "{word:#010x}");
        }
        // Writable and executable; user access; write-through; not-global; a large page with bit 6 set.
        for word in [0x6450_045e, 0x6450_047f, 0x6450_041b, 0x6450_0c5f, 0x6450_945d] {
            assert_eq!(L2Desc::from_raw(word).decode(), L2Entry::Foreign(word), "{word:#010x}");
        }
    }
}
