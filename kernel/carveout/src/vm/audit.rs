//! The audit: it walks the live tables as the hardware would, and compares them with what must be true.
//!
//! Guarantees, when [`audit`] returns a [`Report`]:
//!
//! - Every carved frame is mapped exactly as the ledger says and nowhere else (I1). None is mapped outside the windows
//!   made for them (I2).
//! - All other RAM is mapped write-back only. No register is mapped as memory. No RAM is mapped by its second name.
//! - Nothing of the kernel's is both writable and executable, and only the kernel's text executes (W^X).
//! - Users reach neither a carved frame nor a table. What users may do otherwise is their kernel's business.
//! - The registers of every core in [`Expect::cores`] give this crate's descriptors the meaning that this crate relies
//!   on.
//!
//! A descriptor counts for all that it may translate, and not only for its place in the table: one entry of a large
//! page covers 64 KiB, one of a supersection 16 MiB. A table whose walks are off counts as walked, for the TLB may
//! still hold it.
//!
//! The audit reads registers and descriptors from the machine and decodes every word ([`super::walk`]). It trusts no
//! bookkeeping of [`super::space`]. It goes on after a finding. Each finding is shown to the caller, and counted by
//! kind. A finding about a register or a descriptor counts once. A finding about memory counts once a frame.

use crate::addr::{FRAME_SHIFT, FRAME_SIZE, Frame, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use crate::machine::{Mmu, Registers};
use crate::vm::attr::{MemoryType, Shareability};
use crate::vm::desc::{L1_ENTRIES, L2_ENTRIES, L2_TABLE_SIZE};
use crate::vm::ledger::{Carved, Ledger};
use crate::vm::range::VirtRange;
use crate::vm::walk::{self, Attributes, Caching, Domain, First, Memory, Pointer, Sharing, Translation, Ttbr, bit};
use core::fmt;
use core::ops::Range;

/// What the audit compares the tables with.
#[derive(Clone, Copy, Debug)]
pub struct Expect<'a> {
    /// Every run of RAM that the board has, carved or not.
    pub ram: &'a [FrameRange],
    /// Carved runs of firmware, which are no area. Nothing may map them.
    pub firmware: &'a [FrameRange],
    /// The kernel's text.
    pub text: FrameRange,
    /// The shareability that Normal memory must have.
    pub share: Shareability,
    /// First-level tables that TTBR0 does not hold now: those of the processes that do not run. Each is walked as if
    /// TTBR0 held it. Words that it shares with TTBR0's own table, at one index, are checked only once.
    pub roots: &'a [PhysAddr],
    /// The registers of cores, by the number of the core. Each core read its own: when it came up, or just now, or
    /// both. The audit walks by the registers of the core that it runs on, so those of all cores must mean the same.
    /// Only TTBR0 may differ: it may name one of `roots`.
    pub cores: &'a [(u32, Registers)],
}

/// What was found to be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Sections of 1 MiB. A supersection counts as 16.
    pub sections: u32,
    /// Large pages of 64 KiB.
    pub large_pages: u32,
    /// Small pages of 4 KiB.
    pub small_pages: u32,
    /// Frames of RAM mapped write-back outside the windows.
    pub direct_frames: u32,
    /// Carved frames mapped in a window.
    pub window_frames: u32,
    /// Carved frames in all.
    pub carved_frames: u32,
    /// Frames of text that may be executed.
    pub text_frames: u32,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "clean: {} sections, {} large and {} small pages; of {} carved frames {} mapped, none in the direct map; \
             W^X holds, {} frames execute",
            self.sections, self.large_pages, self.small_pages, self.carved_frames, self.window_frames, self.text_frames
        )
    }
}

/// One thing that was found to be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
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
    /// TTBCR.PD0 or PD1 is set: a miss faults, while the TLB may hold what the table said before (I1). The audit walks
    /// the table nevertheless.
    WalksOff {
        /// The register whose table it is.
        ttbr: Ttbr,
    },
    /// A core's registers may give the tables another meaning than those of the core that the audit runs on (I1).
    OtherCore {
        /// The core's number in [`Expect::cores`].
        core: u32,
        /// The register.
        register: &'static str,
        /// Its value on that core.
        has: u32,
        /// Its value on this core.
        here: u32,
    },
    /// A domain is in use whose permissions the hardware does not check (W^X).
    Unchecked {
        /// The first address found in it.
        va: VirtAddr,
        /// The domain.
        domain: Domain,
    },
    /// A table, or a part of it, stands where no known memory is mapped, or in a carve-out. So nobody can say what it
    /// holds.
    UnknownTable {
        /// The address in the register or descriptor.
        at: PhysAddr,
    },
    /// The 16 descriptors of a large page or of a supersection are not equal. Each may translate all of it, and is
    /// judged as if it did (I1). This counts once for each word that differs.
    Torn {
        /// The first address of the 16.
        va: VirtAddr,
        /// Bytes that one of them may translate.
        size: u32,
    },
    /// A supersection above 4 GiB.
    Beyond {
        /// The address that it translates.
        va: VirtAddr,
        /// The word.
        word: u32,
    },
    /// A descriptor whose AP bits are reserved (W^X).
    ReservedRights {
        /// The address that it translates.
        va: VirtAddr,
        /// The word.
        word: u32,
    },
    /// Memory is writable and executable, or executable outside the kernel's text (W^X).
    Executable {
        /// The address.
        va: VirtAddr,
        /// The frame that executes there.
        frame: Frame,
    },
    /// The kernel's text is writable through this mapping (W^X).
    WritableText {
        /// The address.
        va: VirtAddr,
        /// The frame of text.
        frame: Frame,
    },
    /// A carved frame is mapped outside the windows (I2).
    CarvedOutside {
        /// The address.
        va: VirtAddr,
        /// The frame.
        frame: Frame,
    },
    /// A carved frame has a translation that the ledger does not know (I1).
    Alias {
        /// The address.
        va: VirtAddr,
        /// The frame.
        frame: Frame,
        /// The type found.
        has: Memory,
        /// The state in the ledger.
        ledger: Carved,
    },
    /// A carved frame has a second translation, of the right type (I1).
    Twice {
        /// The address.
        va: VirtAddr,
        /// The frame.
        frame: Frame,
    },
    /// A carved frame is mapped in a window for users, or for one address space alone (I4).
    Exposed {
        /// The address.
        va: VirtAddr,
        /// The frame.
        frame: Frame,
    },
    /// Users can reach a table (I1 to I5 rest on it).
    TableExposed {
        /// The address.
        va: VirtAddr,
        /// The frame in which the table is.
        frame: Frame,
    },
    /// The ledger has a frame as mapped, and no translation maps it so (I1).
    Unreached {
        /// The frame.
        frame: Frame,
    },
    /// RAM is mapped by its second name, through a physical alias, whatever the type. The cache lines of the one name
    /// are not those of the other (I1).
    SecondName {
        /// The address.
        va: VirtAddr,
        /// The second name.
        frame: Frame,
        /// The first.
        of: Frame,
        /// The type found.
        has: Memory,
    },
    /// RAM is mapped through a descriptor with NS set. In the Secure state its lines are not those of the address
    /// without NS (I1).
    NonSecure {
        /// The address.
        va: VirtAddr,
        /// The frame.
        frame: Frame,
    },
    /// RAM is not mapped write-back, or registers are mapped as Normal memory (I1).
    WrongType {
        /// The address.
        va: VirtAddr,
        /// The frame.
        frame: Frame,
        /// The type found.
        has: Memory,
    },
    /// Normal memory is mapped with the wrong S bit. Shareability is part of I1.
    WrongShareability {
        /// The address.
        va: VirtAddr,
        /// The frame.
        frame: Frame,
        /// The shareability found.
        has: Sharing,
    },
}

/// The kinds of finding, in the order of [`Finding`].
const KINDS: [&str; 24] = [
    "long-format tables",
    "byte order of walks",
    "MMU off",
    "caches off (I1)",
    "TEX remap (I1)",
    "attributes of walks (I1)",
    "walks off (I1)",
    "registers of other cores (I1)",
    "unchecked domains (W^X)",
    "tables out of reach (I1)",
    "torn large pages and supersections (I1)",
    "supersections above 4 GiB",
    "reserved rights (W^X)",
    "executable frames (W^X)",
    "writable frames of text (W^X)",
    "carved frames outside the windows (I2)",
    "aliases (I1)",
    "second mappings (I1)",
    "carved frames for users (I4)",
    "tables for users (I1)",
    "carved frames not mapped as the ledger has them (I1)",
    "second names (I1)",
    "NS mappings (I1)",
    "types and shareability (I1)",
];

impl Finding {
    /// Returns its place in [`KINDS`]. Types and shareability have one place.
    const fn kind(&self) -> usize {
        match self {
            Self::LongFormat => 0,
            Self::BigEndian => 1,
            Self::Off => 2,
            Self::CacheOff { .. } => 3,
            Self::Remap { .. } => 4,
            Self::WalkAttributes { .. } => 5,
            Self::WalksOff { .. } => 6,
            Self::OtherCore { .. } => 7,
            Self::Unchecked { .. } => 8,
            Self::UnknownTable { .. } => 9,
            Self::Torn { .. } => 10,
            Self::Beyond { .. } => 11,
            Self::ReservedRights { .. } => 12,
            Self::Executable { .. } => 13,
            Self::WritableText { .. } => 14,
            Self::CarvedOutside { .. } => 15,
            Self::Alias { .. } => 16,
            Self::Twice { .. } => 17,
            Self::Exposed { .. } => 18,
            Self::TableExposed { .. } => 19,
            Self::Unreached { .. } => 20,
            Self::SecondName { .. } => 21,
            Self::NonSecure { .. } => 22,
            Self::WrongType { .. } | Self::WrongShareability { .. } => 23,
        }
    }
}

impl fmt::Display for Finding {
    #[expect(clippy::too_many_lines, reason = "a sentence for each finding")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LongFormat => {
                write!(
                    f,
                    "TTBCR.EAE is 1: the tables have the long format, which is not decoded; use short descriptors"
                )
            }
            Self::BigEndian => {
                write!(
                    f,
                    "SCTLR.EE is 1: walks read big-endian words, and this crate writes little-endian ones; clear EE"
                )
            }
            Self::Off => write!(f, "SCTLR.M is 0: the MMU is off, so that no table holds I1, I2 or W^X; set M"),
            Self::CacheOff { fetches: false } => {
                write!(f, "I1: SCTLR.C is 0: this core accesses past its caches what is mapped write-back; set C")
            }
            Self::CacheOff { fetches: true } => {
                write!(f, "I1: SCTLR.I is 0: this core fetches past its caches what is mapped write-back; set I")
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
            Self::OtherCore { core, register, has, here } => write!(
                f,
                "I1: core {core} has {register} {has:#010x}, and this core {here:#010x}: tables may mean one thing there \
                 and another here; make them the same"
            ),
            Self::Unchecked { va, domain: Domain { number, access } } => write!(
                f,
                "W^X: {va} is in domain {number}, and DACR has {access:#04b} for it: no permission is checked; make it a \
                 client's, 0b01"
            ),
            Self::UnknownTable { at } => write!(
                f,
                "a table at {at}, where no known memory is: what it translates is unknown (I1); keep tables in RAM that is \
                 not carved out"
            ),
            Self::Torn { va, size } => write!(
                f,
                "I1: {va}: the 16 descriptors of {} KiB are not alike, and each may translate all of it; write one word \
                 16 times",
                size >> 10
            ),
            Self::Beyond { va, word } => {
                write!(f, "I1: {va}: supersection {word:#010x} is above 4 GiB, where no memory is known; unmap it")
            }
            Self::ReservedRights { va, word } => {
                write!(f, "W^X: {va}: descriptor {word:#010x} has AP 0b100, which is reserved; choose another")
            }
            Self::Executable { va, frame } => {
                write!(f, "W^X: {va} executes frame {}, which is not the kernel's text; set XN", frame.base())
            }
            Self::WritableText { va, frame } => {
                write!(f, "W^X: {va} can write the kernel's text at {}; map it read-only", frame.base())
            }
            Self::CarvedOutside { va, frame } => {
                write!(f, "I2: carved frame {} is mapped at {va}, outside the windows; unmap it", frame.base())
            }
            Self::Alias { va, frame, has, ledger } => {
                write!(f, "I1: {va} maps carved frame {} {has}, but the ledger has it ", frame.base())?;
                match ledger {
                    Carved::Unmapped => write!(f, "unmapped"),
                    Carved::Mapped(memory) => write!(f, "{memory}"),
                }
            }
            Self::Twice { va, frame } => {
                write!(f, "I1: {va} maps carved frame {}, which is mapped elsewhere too; unmap it", frame.base())
            }
            Self::Exposed { va, frame } => write!(
                f,
                "I4: {va} maps carved frame {} for users or for one address space alone; unmap it",
                frame.base()
            ),
            Self::TableExposed { va, frame } => {
                write!(f, "I1: users reach a table, in frame {}, at {va}; unmap it", frame.base())
            }
            Self::Unreached { frame } => {
                write!(f, "I1: the ledger has frame {} mapped, and no translation maps it so", frame.base())
            }
            Self::SecondName { va, frame, of, has } => {
                let (frame, of) = (frame.base(), of.base());
                write!(f, "I1: {va} maps frame {frame} {has}, which is frame {of} by another name; map that one")
            }
            Self::NonSecure { va, frame } => {
                write!(f, "I1: {va} maps frame {} with NS set, a second name of its lines; clear NS", frame.base())
            }
            Self::WrongType { va, frame, has } => {
                write!(
                    f,
                    "I1: {va} maps frame {} {has}; RAM is write-back, and registers are device memory",
                    frame.base()
                )
            }
            Self::WrongShareability { va, frame, has } => {
                write!(f, "I1: {va} maps frame {} {has}, with the wrong S bit or remap", frame.base())
            }
        }
    }
}

/// Returns the region of PRRR and NMRR that this crate's descriptors of a type select: TEX\[0\], C, B.
const fn region(memory: MemoryType) -> u32 {
    match memory {
        MemoryType::WriteBack => 7,
        MemoryType::NonCacheable => 4,
        MemoryType::Device => 1,
        MemoryType::StronglyOrdered => 0,
    }
}

/// All that was found to be wrong: the first finding, and how many there are of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Findings {
    /// The first finding.
    pub first: Finding,
    counts: [u32; KINDS.len()],
}

impl Findings {
    /// Returns the number of findings.
    pub fn total(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// Returns the number of findings of the kind of `finding`.
    pub const fn like(&self, finding: &Finding) -> u32 {
        self.counts[finding.kind()]
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        let total = self.total();
        if total > 1 {
            write!(f, "; findings: {total}")?;
            let mut mark = ": ";
            for (kind, count) in KINDS.iter().zip(self.counts).filter(|&(_, count)| count > 0) {
                write!(f, "{mark}{count} {kind}")?;
                mark = ", ";
            }
        }
        Ok(())
    }
}

impl core::error::Error for Findings {}

/// Walks the tables in use and those of [`Expect::roots`], and compares each translation. Shows `each` every finding.
/// Carved frames may be mapped in `windows` only.
///
/// Two translations of one carved frame cannot both pass. Each that is found in a window must be the ledger's, and the
/// second one is a finding. The ledger is changed only in its marks of what was seen.
///
/// # Errors
///
/// The first finding, and how many there are of each kind.
pub fn audit<M: Mmu>(
    mmu: &M,
    expect: &Expect<'_>,
    windows: &[VirtRange],
    ledger: &mut Ledger<'_>,
    each: impl FnMut(Finding),
) -> Result<Report, Findings> {
    let registers = mmu.registers();
    let report = Report { carved_frames: ledger.ranges().map(FrameRange::count).sum(), ..Report::default() };
    ledger.unsee();
    let mut audit = Audit {
        mmu,
        expect,
        windows,
        ledger,
        write_back: walk::meaning(MemoryType::WriteBack, expect.share, &registers).sharing,
        non_cacheable: walk::meaning(MemoryType::NonCacheable, expect.share, &registers).sharing,
        registers,
        unchecked: 0,
        tables: None,
        report,
        found: Found { each, findings: None },
    };
    audit.walk();
    match audit.found.findings {
        Some(findings) => Err(findings),
        None => Ok(audit.report),
    }
}

/// Counts the findings, and shows them.
struct Found<F> {
    each: F,
    findings: Option<Findings>,
}

impl<F: FnMut(Finding)> Found<F> {
    fn add(&mut self, finding: Finding) {
        let findings = self.findings.get_or_insert(Findings { first: finding, counts: [0; KINDS.len()] });
        let count = &mut findings.counts[finding.kind()];
        *count = count.saturating_add(1);
        (self.each)(finding);
    }
}

/// One audit under way.
struct Audit<'a, 'l, M, F> {
    mmu: &'a M,
    expect: &'a Expect<'a>,
    windows: &'a [VirtRange],
    ledger: &'a mut Ledger<'l>,
    registers: Registers,
    /// The shareability of this crate's write-back mappings under these registers, and of its non-cacheable ones.
    write_back: Sharing,
    non_cacheable: Sharing,
    /// The domains that were found unchecked, a bit each.
    unchecked: u16,
    /// The places of tables, once they were asked for.
    tables: Option<TablePlaces>,
    report: Report,
    found: Found<F>,
}

impl<M: Mmu, F: FnMut(Finding)> Audit<'_, '_, M, F> {
    fn walk(&mut self) {
        let registers = self.registers;
        if registers.ttbcr >> 31 == 1 {
            return self.found.add(Finding::LongFormat);
        }
        if bit(registers.sctlr, walk::EE) == 1 {
            return self.found.add(Finding::BigEndian);
        }
        self.meanings();
        // TTBR0's table comes first, then TTBR1's: this is the order of addresses.
        let used = [Ttbr::Ttbr0, Ttbr::Ttbr1].into_iter().filter(|&ttbr| registers.translates(ttbr));
        for ttbr in used.clone() {
            if registers.walks_are_off(ttbr) {
                self.found.add(Finding::WalksOff { ttbr });
            }
            let has = registers.walk_attributes(ttbr);
            let shared = has.sharing != Sharing::NonShareable;
            if has.memory != WRITE_BACK || shared != (self.expect.share == Shareability::Shareable) {
                self.found.add(Finding::WalkAttributes { ttbr, has });
            }
        }
        for ttbr in used {
            self.table(registers.table(ttbr), ttbr, None);
        }
        let own = registers.table(Ttbr::Ttbr0);
        for &root in self.expect.roots.iter().filter(|&&root| root != own) {
            self.table(root, Ttbr::Ttbr0, Some(own));
        }
        for (frame, _) in self.ledger.mapped().filter(|&(_, seen)| !seen) {
            self.found.add(Finding::Unreached { frame });
        }
        for (core, has) in self.expect.cores {
            self.other_core(*core, has);
        }
    }

    /// Compares the registers that decide what tables mean: another core's with this one's.
    fn other_core(&mut self, core: u32, has: &Registers) {
        let here = self.registers;
        let table = has.table(Ttbr::Ttbr0);
        let known = table == here.table(Ttbr::Ttbr0) || self.expect.roots.contains(&table);
        let all_if = |matters| if matters { u32::MAX } else { 0 };
        let upper = all_if(here.translates(Ttbr::Ttbr1));
        let remap = all_if(bit(has.sctlr | here.sctlr, walk::TRE) == 1);
        for (register, mask, has, here) in [
            ("SCTLR", walk::SCTLR_BITS, has.sctlr, here.sctlr),
            ("TTBCR", walk::TTBCR_BITS, has.ttbcr, here.ttbcr),
            ("TTBR0", if known { walk::TTBR_BITS } else { u32::MAX }, has.ttbr0, here.ttbr0),
            ("TTBR1", upper, has.ttbr1, here.ttbr1),
            ("DACR", walk::DACR_BITS, has.dacr, here.dacr),
            ("PRRR", remap, has.prrr, here.prrr),
            ("NMRR", remap, has.nmrr, here.nmrr),
            ("ACTLR", u32::MAX, has.actlr, here.actlr),
            ("MPIDR[31]", u32::MAX, has.multiprocessing.into(), here.multiprocessing.into()),
            ("ID_MMFR0[2]", u32::MAX, has.pxn.into(), here.pxn.into()),
        ] {
            if (has ^ here) & mask != 0 {
                self.found.add(Finding::OtherCore { core, register, has, here });
            }
        }
    }

    /// Checks that the registers give this crate's own descriptors their meaning.
    fn meanings(&mut self) {
        let sctlr = self.registers.sctlr;
        if bit(sctlr, walk::M) == 0 {
            self.found.add(Finding::Off);
        }
        for (n, fetches) in [(walk::C, false), (walk::I, true)] {
            if bit(sctlr, n) == 0 {
                self.found.add(Finding::CacheOff { fetches });
            }
        }
        let share = self.expect.share;
        for memory in [MemoryType::NonCacheable, MemoryType::WriteBack, MemoryType::Device, MemoryType::StronglyOrdered]
        {
            let means = walk::meaning(memory, share, &self.registers);
            let shared = means.sharing != Sharing::NonShareable;
            let normal = matches!(memory, MemoryType::WriteBack | MemoryType::NonCacheable);
            if means.memory != memory.into() || normal && shared != (share == Shareability::Shareable) {
                self.found.add(Finding::Remap { memory, means });
            }
        }
    }

    /// Walks a first-level table, without the words that it has in common with `but_for`.
    fn table(&mut self, table: PhysAddr, ttbr: Ttbr, but_for: Option<PhysAddr>) {
        let sections = self.sections(ttbr);
        let (start, end) = ((4 * sections.start) & !(FRAME_SIZE - 1), 4 * sections.end);
        if !(start..end).step_by(FRAME_SIZE as usize).all(|offset| self.holds_tables(at(table, offset))) {
            return self.found.add(Finding::UnknownTable { at: table });
        }
        for section in sections {
            let Some(word) = self.mmu.table_word(entry(table, section)) else {
                return self.found.add(Finding::UnknownTable { at: table });
            };
            let first = walk::first_level(word, &self.registers);
            let size = match first {
                First::Fault => continue,
                First::Beyond => walk::SUPERSECTION_SIZE,
                First::Leaf(leaf) => leaf.size,
                First::Table(_) => SECTION_SIZE,
            };
            // The meaning of a word depends on the words of its group.
            let group = group(section, size / SECTION_SIZE);
            if but_for.is_some_and(|other| group.clone().all(|n| self.word(other, n) == self.word(table, n))) {
                continue;
            }
            let va = VirtAddr::new(section * SECTION_SIZE);
            let unit = VirtAddr::new(va.raw() & !(size - 1));
            let new = self.is_new(table, section, group, word, unit, size);
            match first {
                First::Table(pointer) => self.second_level(pointer, va),
                First::Beyond => self.found.add(Finding::Beyond { va, word }),
                First::Leaf(leaf) if new => {
                    self.report.sections += size / SECTION_SIZE;
                    self.leaf(unit, word, &leaf);
                }
                _ => {}
            }
        }
    }

    fn second_level(&mut self, pointer: Pointer, section: VirtAddr) {
        let table = pointer.at;
        if !self.holds_tables(table) {
            return self.found.add(Finding::UnknownTable { at: table });
        }
        for page in 0..L2_ENTRIES as u32 {
            let Some(word) = self.mmu.table_word(entry(table, page)) else {
                return self.found.add(Finding::UnknownTable { at: table });
            };
            let Some(leaf) = walk::second_level(word, pointer, &self.registers) else { continue };
            let unit = VirtAddr::new((section.raw() + page * FRAME_SIZE) & !(leaf.size - 1));
            if !self.is_new(table, page, group(page, leaf.size / FRAME_SIZE), word, unit, leaf.size) {
                continue;
            }
            if leaf.size == FRAME_SIZE {
                self.report.small_pages += 1;
            } else {
                self.report.large_pages += 1;
            }
            self.leaf(unit, word, &leaf);
        }
    }

    /// Returns whether entry `n` is the first of its group with this word. Then nobody has judged yet what the word may
    /// translate: `size` bytes from `va` on. If the words of the group are not equal, that is a finding.
    fn is_new(&mut self, table: PhysAddr, n: u32, group: Range<u32>, word: u32, va: VirtAddr, size: u32) -> bool {
        let all = group.len();
        if all == 1 {
            return true;
        }
        let mut same = group.filter(|&other| self.word(table, other) == Some(word));
        if same.next() != Some(n) {
            return false;
        }
        if same.count() + 1 < all {
            self.found.add(Finding::Torn { va, size });
        }
        true
    }

    fn word(&self, table: PhysAddr, n: u32) -> Option<u32> {
        self.mmu.table_word(entry(table, n))
    }

    /// Returns the entries of a register's table that translate.
    fn sections(&self, ttbr: Ttbr) -> Range<u32> {
        let split = self.registers.table_bytes(Ttbr::Ttbr0) / 4;
        match ttbr {
            Ttbr::Ttbr0 => 0..split,
            Ttbr::Ttbr1 => split..L1_ENTRIES as u32,
        }
    }

    /// Returns whether a table at `at` can be trusted: the CPU reads it there, by its first name, and in no carve-out.
    fn holds_tables(&self, at: PhysAddr) -> bool {
        let frame = Frame::containing(at);
        self.ledger.state(frame).is_none()
            && self.ledger.aliases().first_name(frame).is_none()
            && !self.expect.firmware.iter().any(|run| run.contains(frame))
            && self.mmu.table_word(at).is_some()
    }

    /// Checks a leaf, whose memory begins at `va`.
    fn leaf(&mut self, va: VirtAddr, word: u32, leaf: &Translation) {
        let domain = leaf.domain;
        if !domain.is_checked() && self.unchecked >> domain.number & 1 == 0 {
            self.unchecked |= 1 << domain.number;
            self.found.add(Finding::Unchecked { va, domain });
        }
        if leaf.reserved_rights {
            self.found.add(Finding::ReservedRights { va, word });
        }
        for page in 0..leaf.size >> FRAME_SHIFT {
            let offset = page << FRAME_SHIFT;
            let frame = Frame::containing(PhysAddr::new(leaf.base.raw() + offset));
            self.frame(VirtAddr::new(va.raw() + offset), frame, leaf);
        }
    }

    /// Checks one frame of a leaf.
    fn frame(&mut self, va: VirtAddr, frame: Frame, leaf: &Translation) {
        let Attributes { memory: has, sharing } = leaf.attributes;
        if let Some(of) = self.ledger.aliases().first_name(frame) {
            return self.found.add(Finding::SecondName { va, frame, of, has });
        }
        self.rights(va, frame, leaf);
        let holds = |runs: &[FrameRange]| runs.iter().any(|run| run.contains(frame));
        let state = self.ledger.state(frame);
        let ram = state.is_some() || holds(self.expect.ram);
        if leaf.non_secure && ram {
            self.found.add(Finding::NonSecure { va, frame });
        }
        if holds(self.expect.firmware) {
            return self.found.add(Finding::CarvedOutside { va, frame });
        }
        if let Some(ledger) = state {
            if !self.windows.iter().any(|window| window.contains(va)) {
                return self.found.add(Finding::CarvedOutside { va, frame });
            }
            if leaf.users.any() || !leaf.global {
                self.found.add(Finding::Exposed { va, frame });
            }
            let right = matches!(ledger, Carved::Mapped(memory) if has == memory.into());
            if !right {
                return self.found.add(Finding::Alias { va, frame, has, ledger });
            }
            if self.ledger.see(frame) {
                self.found.add(Finding::Twice { va, frame });
            }
            self.report.window_frames += 1;
        } else if ram {
            if has != WRITE_BACK {
                return self.found.add(Finding::WrongType { va, frame, has });
            }
            self.report.direct_frames += 1;
        } else if has.may_be_normal() {
            return self.found.add(Finding::WrongType { va, frame, has });
        }
        let wanted = match has {
            WRITE_BACK => self.write_back,
            NON_CACHEABLE => self.non_cacheable,
            _ => return,
        };
        if sharing != wanted {
            self.found.add(Finding::WrongShareability { va, frame, has: sharing });
        }
    }

    /// Checks the rights: W^X, and what users may reach.
    fn rights(&mut self, va: VirtAddr, frame: Frame, leaf: &Translation) {
        let executes = leaf.kernel.execute || leaf.users.execute;
        let writes = leaf.kernel.write || leaf.users.write;
        let users = leaf.users.any();
        if self.expect.text.contains(frame) {
            if writes {
                self.found.add(Finding::WritableText { va, frame });
            } else if executes {
                self.report.text_frames += 1;
            }
        } else if executes {
            // What users execute is their kernel's business. But an address above the split is in every address space,
            // and there nothing may be both written and executed.
            let theirs = users && !(writes && self.registers.ttbr_of(va) == Ttbr::Ttbr1);
            if !theirs {
                self.found.add(Finding::Executable { va, frame });
            }
        }
        if users && self.holds_a_table(frame) {
            self.found.add(Finding::TableExposed { va, frame });
        }
    }

    /// Returns whether a table that can be walked is in the frame.
    fn holds_a_table(&mut self, frame: Frame) -> bool {
        let section = frame.base().raw() / SECTION_SIZE;
        let mut places = self.tables.take().unwrap_or_else(|| {
            let mut places = TablePlaces { sections: [0; L1_ENTRIES / 32], in_detail: None, frames: [0; 8] };
            self.each_table(|at| places.note_section(at));
            places
        });
        let mut found = false;
        if places.sections[section as usize / 32] >> (section % 32) & 1 == 1 {
            if places.in_detail != Some(section) {
                (places.in_detail, places.frames) = (Some(section), [0; 8]);
                self.each_table(|at| places.note_frame(at));
            }
            let page = frame.number() % 256;
            found = places.frames[page as usize / 32] >> (page % 32) & 1 == 1;
        }
        self.tables = Some(places);
        found
    }

    /// Calls `each` with the place of every table: of each first-level one frame by frame, and of all second-level
    /// ones.
    fn each_table(&self, mut each: impl FnMut(PhysAddr)) {
        let registers = &self.registers;
        let roots = self.expect.roots.iter().map(|&root| (root, Ttbr::Ttbr0));
        let own = [Ttbr::Ttbr0, Ttbr::Ttbr1].map(|ttbr| (registers.table(ttbr), ttbr));
        // Tables whose walks are off count too: a write of TTBCR turns walks on.
        for (table, ttbr) in own.into_iter().chain(roots).filter(|&(_, ttbr)| !self.sections(ttbr).is_empty()) {
            // All of TTBR1's table counts, though no walk reads its first entries.
            (0..registers.table_bytes(ttbr)).step_by(FRAME_SIZE as usize).for_each(|offset| each(at(table, offset)));
            for section in self.sections(ttbr) {
                let Some(word) = self.mmu.table_word(entry(table, section)) else { break };
                if let First::Table(pointer) = walk::first_level(word, registers) {
                    each(pointer.at);
                }
            }
        }
    }
}

const WRITE_BACK: Memory = Memory::Normal { inner: Caching::WriteBack, outer: Caching::WriteBack };
const NON_CACHEABLE: Memory = Memory::Normal { inner: Caching::NonCacheable, outer: Caching::NonCacheable };

const fn at(table: PhysAddr, offset: u32) -> PhysAddr {
    PhysAddr::new(table.raw().wrapping_add(offset))
}

/// Returns the entries that form a group with entry `n`: 16 of them, or itself alone.
const fn group(n: u32, count: u32) -> Range<u32> {
    let first = n & !(count - 1);
    first..first + count
}

/// Returns the address of entry `n` of a table.
const fn entry(table: PhysAddr, n: u32) -> PhysAddr {
    at(table, 4 * n)
}

/// The places of tables. For each MiB it keeps whether a table is there, and for one MiB at a time which frames hold
/// tables. So it needs one amount of room, however many tables there are.
struct TablePlaces {
    sections: [u32; L1_ENTRIES / 32],
    in_detail: Option<u32>,
    frames: [u32; 8],
}

impl TablePlaces {
    const fn note_section(&mut self, at: PhysAddr) {
        let section = at.raw() / SECTION_SIZE;
        self.sections[section as usize / 32] |= 1 << (section % 32);
    }

    fn note_frame(&mut self, at: PhysAddr) {
        if self.in_detail == Some(at.raw() / SECTION_SIZE) {
            let page = at.raw() / FRAME_SIZE % 256;
            self.frames[page as usize / 32] |= 1 << (page % 32);
        }
    }
}

const _: () = assert!(L2_TABLE_SIZE <= FRAME_SIZE, "a second-level table is in one frame");
