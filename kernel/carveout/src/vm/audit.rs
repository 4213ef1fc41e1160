//! The audit: it walks the live tables as the hardware would, and compares them with what must be true.
//!
//! Guarantees, when [`audit`] returns a [`Report`]:
//!
//! - Every carved frame is mapped exactly as the ledger says and nowhere else (I1). None is mapped outside the window
//!   (I2), by its second name, with NS set, or executable.
//! - Users reach no table, and no carved frame but what [`Expect::users`] permits: in the lower half, not global, never
//!   executable, and with the attribute that the ledger has (I1). What users may do otherwise is their kernel's
//!   business.
//! - The registers of every core in [`Expect::cores`] give this crate's descriptors the meaning that this crate relies
//!   on.
//!
//! And if [`Expect::kernel`] says what the kernel's own map is to be:
//!
//! - All other RAM is mapped write-back only. No register is mapped as memory. No RAM is mapped by its second name.
//! - Nothing of the kernel's is both writable and executable, and only the kernel's text executes (W^X).
//!
//! Otherwise a descriptor that can reach no carved frame is the kernel's business, whatever it says.
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
use crate::vm::attr::MemoryType;
use crate::vm::desc::{L1_ENTRIES, L2_ENTRIES, L2_TABLE_SIZE};
use crate::vm::ledger::{Carved, Ledger};
use crate::vm::range::VirtRange;
use crate::vm::registers::{self, Difference, RegisterError};
use crate::vm::user::{UserAccess, UserPages};
use crate::vm::walk::{self, Attributes, Caching, Domain, First, Memory, Pointer, Sharing, Translation, Ttbr};
use core::fmt;
use core::ops::Range;

/// What the audit compares the tables with.
#[derive(Clone, Copy, Debug)]
pub struct Expect<'a> {
    /// What the kernel's own map is to be, or `None` if that is the kernel's business.
    pub kernel: Option<KernelMap<'a>>,
    /// Carved runs of firmware, which are no area. Nothing may map them.
    pub firmware: &'a [FrameRange],
    /// First-level tables that TTBR0 does not hold now: those of the processes that do not run. Each is walked as if
    /// TTBR0 held it. Words that it shares with TTBR0's own table, at one index, are checked only once.
    pub roots: &'a [PhysAddr],
    /// The registers of cores, by the number of the core. Each core read its own: when it came up, or just now, or
    /// both. The audit walks by the registers of the core that it runs on, so those of all cores must mean the same.
    /// Only TTBR0 may differ: it may name one of `roots`.
    pub cores: &'a [(u32, Registers)],
    /// Who knows which carved pages users may have, or `None` if they may have none.
    pub users: Option<&'a dyn UserPages>,
}

impl Expect<'_> {
    /// Nothing beside what this crate itself promises of carved frames.
    pub const CARVED: Self = Self { kernel: None, firmware: &[], roots: &[], cores: &[], users: None };
}

/// A kernel's own map as it is to be: RAM is write-back, registers are Device memory, and only text executes.
#[derive(Clone, Copy, Debug)]
pub struct KernelMap<'a> {
    /// Every run of RAM that the board has, carved or not.
    pub ram: &'a [FrameRange],
    /// The kernel's text.
    pub text: FrameRange,
}

/// What was found to be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Whether the kernel's own map was judged too ([`Expect::kernel`]).
    pub kernel: bool,
    /// Sections of 1 MiB. A supersection counts as 16.
    pub sections: u32,
    /// Large pages of 64 KiB.
    pub large_pages: u32,
    /// Small pages of 4 KiB.
    pub small_pages: u32,
    /// Frames of RAM mapped write-back outside the window, if the kernel's map was judged.
    pub direct_frames: u32,
    /// Carved frames mapped in the window.
    pub window_frames: u32,
    /// Pages of carved frames that users have.
    pub user_pages: u32,
    /// Carved frames in all.
    pub carved_frames: u32,
    /// Frames of text that may be executed, if the kernel's map was judged.
    pub text_frames: u32,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "clean: {} sections, {} large and {} small pages; of {} carved frames {} mapped, none ",
            self.sections, self.large_pages, self.small_pages, self.carved_frames, self.window_frames
        )?;
        if self.kernel {
            write!(f, "in the direct map; W^X holds, {} frames execute", self.text_frames)
        } else {
            f.write_str("outside the window; the kernel's own map was not judged")
        }?;
        if self.user_pages > 0 { write!(f, "; users have {} pages, as permitted", self.user_pages) } else { Ok(()) }
    }
}

/// One thing that was found to be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    /// A register of the core that the audit runs on. It goes on and walks the tables nevertheless, except after
    /// [`LongFormat`](RegisterError::LongFormat) and [`BigEndian`](RegisterError::BigEndian).
    Register(RegisterError),
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
    /// A carved frame is mapped outside the window (I2).
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
    /// A carved frame is mapped for users who may not have it, or not so, or in the window for one address space alone
    /// (I4).
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
const KINDS: [&str; 25] = [
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
    "carved frames outside the window (I2)",
    "aliases (I1)",
    "second mappings (I1)",
    "carved frames for users (I4)",
    "tables for users (I1)",
    "carved frames not mapped as the ledger has them (I1)",
    "second names (I1)",
    "NS mappings (I1)",
    "types and shareability (I1)",
    "cores that are coherent in part (I3)",
];

impl Finding {
    /// Returns its place in [`KINDS`]. Types and shareability have one place.
    const fn kind(&self) -> usize {
        match self {
            Self::Register(error) => match error {
                RegisterError::LongFormat => 0,
                RegisterError::BigEndian => 1,
                RegisterError::Off => 2,
                RegisterError::CacheOff { .. } => 3,
                RegisterError::Remap { .. } => 4,
                RegisterError::WalkAttributes { .. } => 5,
                RegisterError::WalksOff { .. } => 6,
                RegisterError::Domain { .. } => 8,
                RegisterError::Coherency { .. } => 24,
            },
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
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(error) => error.fmt(f),
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
                write!(f, "I2: carved frame {} is mapped at {va}, outside the window; unmap it", frame.base())
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
                "I4: {va} maps carved frame {} for users or for one address space alone, and nobody permits that; unmap it",
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
/// Carved frames may be mapped in `window` only.
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
    window: VirtRange,
    ledger: &mut Ledger<'_>,
    each: impl FnMut(Finding),
) -> Result<Report, Findings> {
    let registers = mmu.registers();
    let share = registers.shareability();
    let carved_frames = ledger.carved().map(FrameRange::count).sum();
    let report = Report { kernel: expect.kernel.is_some(), carved_frames, ..Report::default() };
    ledger.unsee();
    let mut audit = Audit {
        mmu,
        expect,
        window,
        ledger,
        write_back: walk::meaning(MemoryType::WriteBack, share, &registers).sharing,
        non_cacheable: walk::meaning(MemoryType::NonCacheable, share, &registers).sharing,
        registers,
        root: PhysAddr::new(0),
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
    window: VirtRange,
    ledger: &'a mut Ledger<'l>,
    registers: Registers,
    /// The shareability of this crate's write-back mappings under these registers, and of its non-cacheable ones.
    write_back: Sharing,
    non_cacheable: Sharing,
    /// The first-level table that is walked.
    root: PhysAddr,
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
        // TTBR0's table comes first, then TTBR1's: this is the order of addresses.
        let both = [Ttbr::Ttbr0, Ttbr::Ttbr1];
        let used = if registers.translates(Ttbr::Ttbr1) { &both[..] } else { &both[..1] };
        let of_window = [registers.ttbr_of(self.window.start())];
        let (types, tables) =
            if self.expect.kernel.is_some() { (&TYPES[..], used) } else { (&TYPES[..NORMAL], &of_window[..]) };
        let mut legible = true;
        registers::each_error(&registers, types, tables, &mut |error| {
            legible &= !matches!(error, RegisterError::LongFormat | RegisterError::BigEndian);
            self.found.add(Finding::Register(error));
        });
        if !legible {
            return;
        }
        for &ttbr in used {
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
        for Difference { register, has, other } in registers::differences(has, &here, known) {
            self.found.add(Finding::OtherCore { core, register, has, here: other });
        }
    }

    /// Walks a first-level table, without the words that it has in common with `but_for`.
    fn table(&mut self, table: PhysAddr, ttbr: Ttbr, but_for: Option<PhysAddr>) {
        self.root = table;
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
            match first {
                First::Table(pointer) => self.second_level(pointer, va),
                First::Beyond if self.expect.kernel.is_some() => {
                    if self.torn(table, section, group, word) == Some(true) {
                        self.found.add(Finding::Torn { va: unit, size });
                    }
                    self.found.add(Finding::Beyond { va, word });
                }
                First::Leaf(leaf) => {
                    if let Some(torn) = self.torn(table, section, group, word) {
                        self.report.sections += size / SECTION_SIZE;
                        self.leaf(unit, word, &leaf, torn);
                    }
                }
                First::Fault | First::Beyond => {}
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
            let group = group(page, leaf.size / FRAME_SIZE);
            let Some(torn) = self.torn(table, page, group, word) else { continue };
            if leaf.size == FRAME_SIZE {
                self.report.small_pages += 1;
            } else {
                self.report.large_pages += 1;
            }
            self.leaf(unit, word, &leaf, torn);
        }
    }

    /// Returns whether the words of entry `n`'s group differ, if the entry is the first of them with its word. Then
    /// nobody has judged yet what the word may translate. Otherwise returns `None`.
    fn torn(&self, table: PhysAddr, n: u32, group: Range<u32>, word: u32) -> Option<bool> {
        let all = group.len();
        if all == 1 {
            return Some(false);
        }
        let mut same = group.filter(|&other| self.word(table, other) == Some(word));
        (same.next() == Some(n)).then(|| same.count() + 1 < all)
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

    /// Returns whether all that a leaf says is to be judged: the kernel's own map is, or the leaf may reach a carved
    /// frame, by whatever name.
    fn concerns(&self, leaf: &Translation) -> bool {
        let range = FrameRange::covering(leaf.base.raw().into(), leaf.size.into());
        let carved = |range: FrameRange| {
            self.ledger.carved().chain(self.expect.firmware.iter().copied()).any(|run| run.overlaps(range))
        };
        self.expect.kernel.is_some() || self.ledger.aliases().first_names(range).any(carved) || carved(range)
    }

    /// Checks a leaf, whose memory begins at `va`. It is `torn` if not all descriptors of its group are alike.
    fn leaf(&mut self, va: VirtAddr, word: u32, leaf: &Translation, torn: bool) {
        let each = |page: u32| {
            let offset = page << FRAME_SHIFT;
            (VirtAddr::new(va.raw() + offset), Frame::containing(PhysAddr::new(leaf.base.raw() + offset)))
        };
        let pages = (0..leaf.size >> FRAME_SHIFT).map(each);
        if !self.concerns(leaf) {
            // Users may reach a table through it nevertheless.
            if leaf.users.any() {
                pages.for_each(|(va, frame)| self.exposure(va, frame));
            }
            return;
        }
        if torn {
            self.found.add(Finding::Torn { va, size: leaf.size });
        }
        let domain = leaf.domain;
        if !domain.is_checked() && self.unchecked >> domain.number & 1 == 0 {
            self.unchecked |= 1 << domain.number;
            self.found.add(Finding::Unchecked { va, domain });
        }
        if leaf.reserved_rights {
            self.found.add(Finding::ReservedRights { va, word });
        }
        pages.for_each(|(va, frame)| self.frame(va, frame, leaf));
    }

    /// Checks one frame of a leaf.
    fn frame(&mut self, va: VirtAddr, frame: Frame, leaf: &Translation) {
        let Attributes { memory: has, sharing } = leaf.attributes;
        let kernel = self.expect.kernel;
        let holds = |runs: &[FrameRange], frame: Frame| runs.iter().any(|run| run.contains(frame));
        let is_firmwares = |frame| holds(self.expect.firmware, frame);
        if let Some(of) = self.ledger.aliases().first_name(frame) {
            if kernel.is_some() || is_firmwares(of) || self.ledger.state(of).is_some() {
                self.found.add(Finding::SecondName { va, frame, of, has });
            } else if leaf.users.any() {
                self.exposure(va, frame);
            }
            return;
        }
        let (state, firmwares) = (self.ledger.state(frame), is_firmwares(frame));
        let ram = state.is_some() || kernel.is_some_and(|kernel| holds(kernel.ram, frame));
        if kernel.is_some() || state.is_some() || firmwares {
            self.rights(va, frame, leaf);
        }
        if leaf.users.any() {
            self.exposure(va, frame);
        }
        if leaf.non_secure && ram {
            self.found.add(Finding::NonSecure { va, frame });
        }
        if firmwares {
            return self.found.add(Finding::CarvedOutside { va, frame });
        }
        if let Some(ledger) = state {
            let theirs = leaf.users.any() && !self.window.contains(va) && self.expect.users.is_some();
            if !self.window.contains(va) && !theirs {
                return self.found.add(Finding::CarvedOutside { va, frame });
            }
            if theirs && !self.permits(va, frame, leaf) || !theirs && (leaf.users.any() || !leaf.global) {
                self.found.add(Finding::Exposed { va, frame });
            }
            let right = matches!(ledger, Carved::Mapped(memory) if has == memory.into());
            if !right {
                return self.found.add(Finding::Alias { va, frame, has, ledger });
            }
            if theirs {
                // The kernel's own mapping is the one that is counted.
                self.report.user_pages += 1;
            } else {
                if self.ledger.see(frame) {
                    self.found.add(Finding::Twice { va, frame });
                }
                self.report.window_frames += 1;
            }
        } else if ram {
            if has != WRITE_BACK {
                return self.found.add(Finding::WrongType { va, frame, has });
            }
            self.report.direct_frames += 1;
        } else if kernel.is_none() {
            return;
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

    /// Returns whether users may have a carved frame so.
    fn permits(&self, va: VirtAddr, frame: Frame, leaf: &Translation) -> bool {
        let permitted = self.expect.users.and_then(|users| users.permitted(self.root, va, frame));
        let writes = permitted == Some(UserAccess::ReadWrite) || !leaf.users.write;
        let lower = self.registers.ttbr_of(va) == Ttbr::Ttbr0;
        permitted.is_some() && writes && lower && !leaf.global && !leaf.users.execute && !leaf.kernel.execute
    }

    /// Checks the rights: W^X.
    fn rights(&mut self, va: VirtAddr, frame: Frame, leaf: &Translation) {
        let executes = leaf.kernel.execute || leaf.users.execute;
        let writes = leaf.kernel.write || leaf.users.write;
        let users = leaf.users.any();
        if self.expect.kernel.is_some_and(|kernel| kernel.text.contains(frame)) {
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
    }

    /// Checks a frame that users reach, by whatever name.
    fn exposure(&mut self, va: VirtAddr, frame: Frame) {
        let frame = self.ledger.aliases().first_name(frame).unwrap_or(frame);
        if self.holds_a_table(frame) {
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

/// The types of memory that a kernel maps: first those of carved frames.
const TYPES: [MemoryType; 4] =
    [MemoryType::NonCacheable, MemoryType::WriteBack, MemoryType::Device, MemoryType::StronglyOrdered];
/// How many of them are Normal memory.
const NORMAL: usize = 2;
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
