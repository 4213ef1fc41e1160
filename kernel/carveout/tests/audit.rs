//! The audit on tables planted word by word: each finding comes from its fault, and from nothing else.

use carveout::addr::{Frame, FrameRange, PhysAddr, VirtAddr};
use carveout::machine::{Mmu, Registers};
use carveout::vm::alias::{Alias, Aliases};
use carveout::vm::attr::{Access, LeafSize, MemoryType, Shareability};
use carveout::vm::audit::{Expect, Finding, Findings, KernelMap, Report, audit};
use carveout::vm::desc::{L1_ENTRIES, L1Desc, L2_ENTRIES, L2_TABLE_SIZE, L2Desc};
use carveout::vm::ledger::{Carved, Cell, Ledger};
use carveout::vm::range::VirtRange;
use carveout::vm::registers::RegisterError;
use carveout::vm::walk::{self, Attributes, Caching, Domain, First, Memory, Sharing, Ttbr};
use proptest::prelude::*;
use std::collections::HashMap;
use std::ptr::NonNull;

use Access::{Read, ReadExecute, ReadWrite};
use MemoryType::{Device, NonCacheable, StronglyOrdered, WriteBack};
use Shareability::{NonShareable, Shareable};

const L1: u32 = 0x6000_4000;
const L2: u32 = 0x6000_8000;
const TABLES: u32 = 8;
/// Where a process's first-level table stands, which is smaller: 16 KiB / 2^N.
const PROCESS: PhysAddr = PhysAddr::new(0x6000_c000);

/// Tables and nothing else: no TLB, no cache, no rule. The words alone are judged.
struct Tables {
    words: HashMap<u32, u32>,
    /// Second-level tables in use.
    used: u32,
    registers: Registers,
}

// SAFETY: there is no memory behind these tables: `reach` gives nothing, and nobody translates by them.
unsafe impl Mmu for Tables {
    fn publish(&self, _: PhysAddr, _: &[u32]) {
        unreachable!("the audit writes nothing")
    }

    fn invalidate_tlb(&self, _: VirtAddr, _: u32, _: LeafSize) {
        unreachable!("the audit changes nothing")
    }

    fn invalidate_tlb_all(&self) {
        unreachable!("the audit changes nothing")
    }

    fn reach(&self, _: VirtAddr, _: u32) -> *mut u8 {
        unreachable!("the audit reads no memory but tables")
    }

    fn reach_to_overwrite(&self, _: VirtAddr, _: u32) -> *mut u8 {
        unreachable!("the audit writes no memory")
    }

    fn registers(&self) -> Registers {
        self.registers
    }

    fn table(&self, _: PhysAddr, _: u32) -> Option<NonNull<u32>> {
        unreachable!("the audit reads words")
    }

    fn table_word(&self, at: PhysAddr) -> Option<u32> {
        let known = [L1..L2 + TABLES * L2_TABLE_SIZE, PROCESS.raw()..PROCESS.raw() + 0x4000];
        let known = known.iter().any(|known| known.contains(&at.raw()));
        known.then(|| self.words.get(&at.raw()).copied().unwrap_or(0))
    }
}

impl Tables {
    fn new() -> Self {
        Self { words: HashMap::new(), used: 0, registers: Registers::plain(PhysAddr::new(L1)) }
    }

    fn set_l1(&mut self, va: u32, word: u32) {
        assert!(va >> 20 < L1_ENTRIES as u32);
        self.words.insert(L1 + 4 * (va >> 20), word);
    }

    /// Writes a second-level entry, in a table of its section's own.
    fn set_l2(&mut self, va: u32, word: u32) {
        let entry = L1 + 4 * (va >> 20);
        let used = &mut self.used;
        let pointer = *self.words.entry(entry).or_insert_with(|| {
            *used += 1;
            assert!(*used <= TABLES);
            L1Desc::table(PhysAddr::new(L2 + (*used - 1) * L2_TABLE_SIZE)).raw()
        });
        assert_eq!(pointer & 3, 1, "{va:#x} is in a section");
        self.words.insert((pointer & !0x3ff) + 4 * ((va >> 12) % L2_ENTRIES as u32), word);
    }

    fn section(&mut self, va: u32, pa: u32, memory: MemoryType, access: Access) {
        self.set_l1(va, L1Desc::section(PhysAddr::new(pa), memory, access, Shareable).raw());
    }

    fn large(&mut self, va: u32, pa: u32, memory: MemoryType, access: Access) {
        let word = L2Desc::large(PhysAddr::new(pa), memory, access, Shareable).raw();
        (0..16).for_each(|n| self.set_l2(va + n * 4096, word));
    }

    fn small(&mut self, va: u32, pa: u32, memory: MemoryType, access: Access) {
        self.set_l2(va, L2Desc::small(PhysAddr::new(pa), memory, access, Shareable).raw());
    }
}

/// RAM of 16 MiB, text of 128 KiB in its first MiB, an area of 4 MiB, firmware's 64 KiB above it.
const RAM: FrameRange = FrameRange::within(0x6000_0000, 16 << 20);
const TEXT: FrameRange = FrameRange::within(0x6001_0000, 128 << 10);
const AREA: FrameRange = FrameRange::within(0x6040_0000, 4 << 20);
const FIRMWARE: FrameRange = FrameRange::within(0x6080_0000, 64 << 10);
/// Where carved frames may be mapped: buffers, and lent frames.
const WINDOW: VirtRange = VirtRange::new(0xc000_0000, 768);
/// What the kernel's own map is to be.
const KERNEL: KernelMap<'static> = KernelMap { ram: &[RAM], text: TEXT };
/// A page in each region that the clean setup leaves unmapped.
const DIRECT_PAGE: u32 = 0x8000_5000;
const WINDOW_PAGE: u32 = 0xc000_5000;
const DEVICE_PAGE: u32 = 0xf000_5000;
/// Frames of each kind.
const PLAIN: u32 = 0x6000_1000;
const TEXT_FRAME: u32 = 0x6001_3000;
const FREE: u32 = 0x6043_3000;
const WRITTEN_BACK: u32 = 0x6041_0000;
const REGISTER: u32 = 0x1000_9000;

/// RAM at address 0 again.
fn aliases() -> Aliases {
    let mut aliases = Aliases::default();
    aliases.add(Alias { frames: FrameRange::within(0, RAM.bytes()), of: RAM }).unwrap();
    aliases
}

struct Bench {
    tables: Tables,
    ledger: Ledger<'static>,
}

impl Bench {
    /// A kernel as it should be: direct map, window with three buffers, loan window with one, devices, image.
    fn clean() -> Self {
        let mut tables = Tables::new();
        let cells = vec![Cell::default(); Ledger::cells_needed([AREA].into_iter())].leak();
        let mut ledger = Ledger::new([AREA].into_iter(), aliases(), cells).unwrap();
        // The first MiB but for text, by pages; three more by sections; then the area is missing.
        tables.large(0x8000_0000 + 0x3_0000, 0x6003_0000, WriteBack, ReadWrite);
        for n in 1..4 {
            tables.section(0x8000_0000 + (n << 20), 0x6000_0000 + (n << 20), WriteBack, ReadWrite);
        }
        // The image.
        tables.large(0xff01_0000, 0x6001_0000, WriteBack, ReadExecute);
        tables.small(0xff02_0000, 0x6002_0000, WriteBack, Read);
        // Buffers, in the window from its first section on.
        tables.large(0xc001_0000, WRITTEN_BACK, WriteBack, ReadWrite);
        tables.small(0xc000_1000, 0x6040_0000, NonCacheable, ReadWrite);
        tables.section(0xc010_0000, 0x6050_0000, NonCacheable, ReadWrite);
        tables.small(0xe000_0000, 0x6060_0000, WriteBack, ReadWrite);
        for (frames, memory) in [
            (FrameRange::within(0x6041_0000, 0x1_0000), WriteBack),
            (FrameRange::within(0x6040_0000, 0x1000), NonCacheable),
            (FrameRange::within(0x6050_0000, 0x10_0000), NonCacheable),
            (FrameRange::within(0x6060_0000, 0x1000), WriteBack),
        ] {
            ledger.claim(frames, memory).unwrap();
        }
        // Registers.
        tables.section(0xf010_0000, 0x1000_0000, Device, ReadWrite);
        tables.small(0xf000_0000, 0x1e00_0000, StronglyOrdered, ReadWrite);
        Self { tables, ledger }
    }

    fn audit(&mut self) -> Result<Report, Findings> {
        self.audit_all().0
    }

    /// The verdict, and every finding in turn.
    fn audit_all(&mut self) -> (Result<Report, Findings>, Vec<Finding>) {
        self.audit_with(&[])
    }

    fn audit_with(&mut self, roots: &[PhysAddr]) -> (Result<Report, Findings>, Vec<Finding>) {
        self.audit_beside(roots, &[])
    }

    fn audit_beside(
        &mut self,
        roots: &[PhysAddr],
        cores: &[(u32, Registers)],
    ) -> (Result<Report, Findings>, Vec<Finding>) {
        let expect = Expect { kernel: Some(KERNEL), firmware: &[FIRMWARE], roots, cores, users: None };
        let mut all = Vec::new();
        let verdict = audit(&self.tables, &expect, WINDOW, &mut self.ledger, |finding| all.push(finding));
        assert_eq!(verdict.map_or_else(|findings| findings.total() as usize, |_| 0), all.len(), "each is shown once");
        assert_eq!(verdict.err().map(|findings| findings.first), all.first().copied());
        (verdict, all)
    }
}

fn frame(at: u32) -> Frame {
    Frame::containing(PhysAddr::new(at))
}

/// One fault in an otherwise clean kernel: this finding, this line, and others of its kind alone.
#[track_caller]
fn found(plant: impl FnOnce(&mut Bench), finding: Finding, line: &str) {
    let all = findings(plant);
    assert_eq!(all[0], finding);
    assert_eq!(finding.to_string(), line);
    let kind = core::mem::discriminant(&finding);
    assert!(all.iter().all(|other| core::mem::discriminant(other) == kind), "{all:?}");
}

/// One fault in an otherwise clean kernel, and all that is found of it.
#[track_caller]
fn findings(plant: impl FnOnce(&mut Bench)) -> Vec<Finding> {
    let mut b = Bench::clean();
    b.audit().expect("clean before the fault");
    plant(&mut b);
    let found = b.audit_all();
    assert!(found.0.is_err(), "nothing found");
    assert_eq!(b.audit_all(), found, "an audit leaves nothing behind that changes the next");
    found.1
}

/// A change that is nobody's fault.
#[track_caller]
fn clean(plant: impl FnOnce(&mut Bench)) -> Report {
    let mut b = Bench::clean();
    plant(&mut b);
    b.audit().unwrap_or_else(|findings| panic!("{findings}"))
}

#[test]
fn a_clean_kernel_is_reported_in_exact_numbers() {
    let report = Bench::clean().audit().unwrap();
    let expected = Report {
        kernel: true,
        sections: 5,
        large_pages: 3,
        small_pages: 4,
        direct_frames: 16 + 3 * 256 + 16 + 1,
        window_frames: 16 + 1 + 256 + 1,
        user_pages: 0,
        carved_frames: 1024,
        text_frames: 16,
    };
    assert_eq!(report, expected);
    assert_eq!(
        report.to_string(),
        "clean: 5 sections, 3 large and 4 small pages; of 1024 carved frames 274 mapped, none in the direct map; \
         W^X holds, 16 frames execute"
    );
}

#[test]
fn empty_tables_and_an_empty_ledger_are_clean() {
    let mut b =
        Bench { tables: Tables::new(), ledger: Ledger::new([].into_iter(), Aliases::default(), &mut []).unwrap() };
    assert_eq!(b.audit(), Ok(Report { kernel: true, ..Report::default() }));
}

#[test]
fn a_table_in_unknown_memory() {
    let at = PhysAddr::new(0x7000_0000);
    let line = |at: PhysAddr| {
        format!(
            "a table at {at}, where no known memory is: what it translates is unknown (I1); keep tables in RAM that is not \
             carved out"
        )
    };
    found(|b| b.tables.registers.ttbr0 = at.raw() | 0x6a, Finding::UnknownTable { at }, &line(at));
    let all = findings(|b| b.tables.registers.ttbr1 = at.raw() | 0x6a);
    assert_eq!(all[0], Finding::UnknownTable { at });
    assert_eq!(all.len(), 1 + 274, "nothing that the ledger has mapped is reached");
    // A part of a first-level table in a carve-out: the second of its frames, and the last.
    for frames in [FrameRange::within(0x6000_6000, 0x1000), FrameRange::within(0x6000_7000, 0x1000)] {
        let cells = vec![Cell::default(); Ledger::cells_needed([frames].into_iter())].leak();
        let ledger = Ledger::new([frames].into_iter(), Aliases::default(), cells).unwrap();
        let mut b = Bench { tables: Tables::new(), ledger };
        assert_eq!(b.audit_all().1, [Finding::UnknownTable { at: PhysAddr::new(L1) }]);
    }
    // One that nobody can read, and one that can be read but is in a carve-out, or in firmware's.
    for second in [0x7000_0400, AREA.base().raw(), FIRMWARE.base().raw() + 0x400] {
        let at = PhysAddr::new(second);
        let plant = |b: &mut Bench| b.tables.set_l1(0x9000_0000, L1Desc::table(at).raw());
        found(plant, Finding::UnknownTable { at }, &line(at));
    }
}

#[test]
fn the_lower_half_is_walked_too() {
    // Any finding will do: it is the table that matters.
    let at = VirtAddr::new(0x0040_0000);
    found(
        |b| b.tables.section(at.raw(), AREA.base().raw(), WriteBack, ReadWrite),
        Finding::CarvedOutside { va: at, frame: frame(AREA.base().raw()) },
        "I2: carved frame 0x60400000 is mapped at 0x00400000, outside the window; unmap it",
    );
}

#[test]
fn what_executes_and_is_not_text() {
    let executes = |va, at| Finding::Executable { va: VirtAddr::new(va), frame: frame(at) };
    found(
        |b| b.tables.small(DIRECT_PAGE, PLAIN, WriteBack, ReadExecute),
        executes(DIRECT_PAGE, PLAIN),
        "W^X: 0x80005000 executes frame 0x60001000, which is not the kernel's text; set XN",
    );
    found(
        |b| b.tables.small(0xff03_0000, 0x6003_0000, WriteBack, ReadExecute),
        executes(0xff03_0000, 0x6003_0000),
        "W^X: 0xff030000 executes frame 0x60030000, which is not the kernel's text; set XN",
    );
    // A carved frame, mapped as the ledger says but for this; and a register.
    found(
        |b| b.tables.small(0xc000_1000, 0x6040_0000, NonCacheable, ReadExecute),
        executes(0xc000_1000, 0x6040_0000),
        "W^X: 0xc0001000 executes frame 0x60400000, which is not the kernel's text; set XN",
    );
    found(
        |b| b.tables.small(DEVICE_PAGE, REGISTER, Device, ReadExecute),
        executes(DEVICE_PAGE, REGISTER),
        "W^X: 0xf0005000 executes frame 0x10009000, which is not the kernel's text; set XN",
    );
}

#[test]
fn text_that_can_be_written() {
    found(
        |b| b.tables.small(DIRECT_PAGE, TEXT_FRAME, WriteBack, ReadWrite),
        Finding::WritableText { va: VirtAddr::new(DIRECT_PAGE), frame: frame(TEXT_FRAME) },
        "W^X: 0x80005000 can write the kernel's text at 0x60013000; map it read-only",
    );
    // In the middle of a section: the page is named.
    found(
        |b| b.tables.section(0x9000_0000, 0x6000_0000, WriteBack, ReadWrite),
        Finding::WritableText { va: VirtAddr::new(0x9001_0000), frame: frame(0x6001_0000) },
        "W^X: 0x90010000 can write the kernel's text at 0x60010000; map it read-only",
    );
    let mut b = Bench::clean();
    b.tables.small(DIRECT_PAGE, TEXT_FRAME, WriteBack, Read);
    b.audit().expect("a second mapping that only reads is no fault");
}

#[test]
fn i2_carved_frames_outside_the_windows() {
    for at in [AREA.base().raw(), FREE, AREA.last_byte().unwrap().raw() & !0xfff, FIRMWARE.base().raw(), 0x6080_f000] {
        for (va, memory) in [(DIRECT_PAGE, WriteBack), (0xff03_0000, WriteBack), (DEVICE_PAGE, NonCacheable)] {
            let line = format!("I2: carved frame {at:#010x} is mapped at {va:#010x}, outside the window; unmap it");
            let finding = Finding::CarvedOutside { va: VirtAddr::new(va), frame: frame(at) };
            found(|b| b.tables.small(va, at, memory, Read), finding, &line);
        }
    }
    // Firmware's frames have no place in a window either.
    let finding = Finding::CarvedOutside { va: VirtAddr::new(WINDOW_PAGE), frame: frame(0x6080_0000) };
    let mut b = Bench::clean();
    b.tables.small(WINDOW_PAGE, 0x6080_0000, WriteBack, ReadWrite);
    assert_eq!(b.audit().unwrap_err().first, finding);
}

#[test]
fn i1_a_mapping_that_is_not_the_ledgers() {
    let alias = |at, has, ledger| Finding::Alias {
        va: VirtAddr::new(WINDOW_PAGE),
        frame: frame(at),
        has: MemoryType::into(has),
        ledger,
    };
    found(
        |b| b.tables.small(WINDOW_PAGE, FREE, WriteBack, ReadWrite),
        alias(FREE, WriteBack, Carved::Unmapped),
        "I1: 0xc0005000 maps carved frame 0x60433000 write-back, but the ledger has it unmapped",
    );
    // The second, non-cacheable mapping of a frame that is mapped write-back: what the whole project is about.
    found(
        |b| b.tables.small(WINDOW_PAGE, WRITTEN_BACK, NonCacheable, ReadWrite),
        alias(WRITTEN_BACK, NonCacheable, Carved::Mapped(WriteBack)),
        "I1: 0xc0005000 maps carved frame 0x60410000 non-cacheable, but the ledger has it write-back",
    );
    for (memory, name) in [(Device, "device"), (StronglyOrdered, "strongly-ordered")] {
        let line = format!("I1: 0xc0005000 maps carved frame 0x60410000 {name}, but the ledger has it write-back");
        let finding = alias(WRITTEN_BACK, memory, Carved::Mapped(WriteBack));
        found(|b| b.tables.small(WINDOW_PAGE, WRITTEN_BACK, memory, ReadWrite), finding, &line);
    }
    // In the loan window too.
    let mut b = Bench::clean();
    b.tables.small(0xe000_1000, FREE, NonCacheable, ReadWrite);
    assert!(matches!(b.audit().unwrap_err().first, Finding::Alias { .. }));
}

#[test]
fn i1_more_translations_than_frames_or_fewer() {
    // The buffer's own mapping comes after the second one: whichever is met first, one finding.
    let twice = |va| Finding::Twice { va: VirtAddr::new(va), frame: frame(WRITTEN_BACK) };
    found(
        |b| b.tables.small(WINDOW_PAGE, WRITTEN_BACK, WriteBack, ReadWrite),
        twice(0xc001_0000),
        "I1: 0xc0010000 maps carved frame 0x60410000, which is mapped elsewhere too; unmap it",
    );
    let unreached = |at| Finding::Unreached { frame: frame(at) };
    found(
        |b| b.tables.set_l2(0xc000_1000, 0),
        unreached(0x6040_0000),
        "I1: the ledger has frame 0x60400000 mapped, and no translation maps it so",
    );
    // One frame twice and another not at all.
    let all = findings(|b| {
        b.tables.set_l2(0xe000_0000, 0);
        b.tables.small(WINDOW_PAGE, WRITTEN_BACK, WriteBack, ReadWrite);
    });
    assert_eq!(all, [twice(0xc001_0000), unreached(0x6060_0000)]);
}

#[test]
fn i1_ram_and_registers_of_the_wrong_type() {
    for (memory, name) in [(NonCacheable, "non-cacheable"), (Device, "device"), (StronglyOrdered, "strongly-ordered")] {
        let finding = Finding::WrongType { va: VirtAddr::new(DIRECT_PAGE), frame: frame(PLAIN), has: memory.into() };
        let line =
            format!("I1: 0x80005000 maps frame 0x60001000 {name}; RAM is write-back, and registers are device memory");
        found(|b| b.tables.small(DIRECT_PAGE, PLAIN, memory, ReadWrite), finding, &line);
    }
    for (memory, name) in [(NonCacheable, "non-cacheable"), (WriteBack, "write-back")] {
        let finding = Finding::WrongType { va: VirtAddr::new(DEVICE_PAGE), frame: frame(REGISTER), has: memory.into() };
        let line =
            format!("I1: 0xf0005000 maps frame 0x10009000 {name}; RAM is write-back, and registers are device memory");
        found(|b| b.tables.small(DEVICE_PAGE, REGISTER, memory, ReadWrite), finding, &line);
    }
}

#[test]
fn i1_ram_by_a_second_name() {
    // Whatever the type and wherever: of carved frames, mapped and not, of firmware's and of others.
    for (memory, type_name) in [(NonCacheable, "non-cacheable"), (WriteBack, "write-back"), (Device, "device")] {
        for of in [0x6040_0000, FREE, 0x6080_0000, PLAIN] {
            for va in [WINDOW_PAGE, DIRECT_PAGE, DEVICE_PAGE] {
                let second = of - 0x6000_0000;
                let finding = Finding::SecondName {
                    va: VirtAddr::new(va),
                    frame: frame(second),
                    of: frame(of),
                    has: memory.into(),
                };
                let line = format!(
                    "I1: {va:#010x} maps frame {second:#010x} {type_name}, which is frame {of:#010x} by another name; \
                     map that one"
                );
                found(|b| b.tables.small(va, second, memory, ReadWrite), finding, &line);
            }
        }
    }
}

#[test]
fn i1_normal_memory_with_the_wrong_s_bit() {
    for (va, at, memory) in [(DIRECT_PAGE, PLAIN, WriteBack), (0xc000_1000, 0x6040_0000, NonCacheable)] {
        let word = L2Desc::small(PhysAddr::new(at), memory, ReadWrite, NonShareable).raw();
        let finding =
            Finding::WrongShareability { va: VirtAddr::new(va), frame: frame(at), has: Sharing::NonShareable };
        let line = format!("I1: {va:#010x} maps frame {at:#010x} non-shareable, with the wrong S bit or remap");
        found(|b| b.tables.set_l2(va, word), finding, &line);
    }
    // One core: what was right is wrong, and the other way round.
    let mut b = Bench::clean();
    b.tables.registers.multiprocessing = false;
    let expect = Expect { kernel: Some(KERNEL), firmware: &[FIRMWARE], ..Expect::CARVED };
    let mut all = Vec::new();
    audit(&b.tables, &expect, WINDOW, &mut b.ledger, |finding| all.push(finding)).unwrap_err();
    let page =
        Finding::WrongShareability { va: VirtAddr::new(0x8003_0000), frame: frame(0x6003_0000), has: Sharing::Outer };
    assert!(matches!(
        all[..2],
        [
            Finding::Register(RegisterError::WalkAttributes { ttbr: Ttbr::Ttbr0, .. }),
            Finding::Register(RegisterError::WalkAttributes { .. })
        ]
    ));
    assert_eq!(all[2], page);
}

// --- kernels that are not ours --------------------------------------------------------------------------------------

/// AP 11 of a section: users read and write.
const USERS: u32 = 0b11 << 10;
/// AP 10 of a section: users read, the kernel writes.
const USERS_READ: u32 = 0b10 << 10;
const AP_OF_SECTION: u32 = 1 << 15 | 0b11 << 10;
const SECTION_XN: u32 = 1 << 4;
const SUPERSECTION: u32 = 1 << 18;

fn section_word(at: u32, memory: MemoryType, access: Access) -> u32 {
    L1Desc::section(PhysAddr::new(at), memory, access, Shareable).raw()
}

/// What a user's table holds is its kernel's business.
#[test]
fn users_may_have_what_is_theirs() {
    // RAM beside text, tables and area: users write it and execute it; a domain of its own; not global; AP 00.
    let plain = section_word(0x6030_0000, WriteBack, ReadWrite);
    let small = L2Desc::small(PhysAddr::new(0x6030_1000), WriteBack, ReadWrite, Shareable).raw();
    for word in [
        plain | USERS,
        (plain | USERS) & !SECTION_XN,
        plain & !AP_OF_SECTION | USERS_READ,
        plain & !AP_OF_SECTION,
        plain | USERS | 1 << 17,
        plain | 1 << 5,
        plain | USERS | 15 << 5,
        // Write-back without write-allocate: hints do not count.
        plain & !(1 << 12) | USERS,
        // Cacheable memory in TEX's own way: outer and inner write-back.
        plain & !(7 << 12 | 0xc) | 0b101 << 12 | 1 << 2 | USERS,
        // Registers, both kinds of device memory.
        section_word(0x1000_0000, Device, ReadWrite) | USERS,
        section_word(0x1000_0000, StronglyOrdered, ReadWrite) | 2 << 12 | USERS,
        // Reserved where there is no PXN: it faults.
        section_word(AREA.base().raw(), WriteBack, ReadWrite) | 1,
    ] {
        clean(|b| {
            b.tables.registers.dacr = 0x5555_5555 & !(3 << 30);
            b.tables.set_l1(0x0010_0000, word);
        });
    }
    for word in [small | 0x30, (small | 0x30) & !1, small & !0x230 | 0x20, small | 1 << 11] {
        clean(|b| b.tables.set_l2(0x0010_5000, word));
    }
    // A supersection, its 16 words alike: from the direct map's last MiB to beyond RAM.
    clean(|b| {
        let word = section_word(0x1000_0000, Device, ReadWrite) | SUPERSECTION | USERS;
        (0..16).for_each(|n| b.tables.set_l1(0x0100_0000 + (n << 20), word));
    });
}

#[test]
fn i2_users_reach_no_carved_frame() {
    let va = VirtAddr::new(0x0010_0000);
    let finding = Finding::CarvedOutside { va, frame: frame(AREA.base().raw()) };
    let line = "I2: carved frame 0x60400000 is mapped at 0x00100000, outside the window; unmap it";
    let word = section_word(AREA.base().raw(), WriteBack, ReadWrite) | USERS;
    found(|b| b.tables.set_l1(va.raw(), word), finding, line);
    // Another domain, even one without access: a write of DACR gives it.
    for dacr in [0x5, 0x1] {
        found(
            |b| {
                b.tables.registers.dacr = dacr;
                b.tables.set_l1(va.raw(), word | 1 << 5);
            },
            finding,
            line,
        );
    }
    // Where PXN is known, the encoding that is reserved elsewhere.
    found(
        |b| {
            b.tables.registers.pxn = true;
            b.tables.set_l1(va.raw(), word | 1);
        },
        finding,
        line,
    );
    // One page of a supersection.
    let all = findings(|b| {
        let word = section_word(0x6000_0000, WriteBack, ReadWrite) | SUPERSECTION | USERS;
        (0..16).for_each(|n| b.tables.set_l1(0x0100_0000 + (n << 20), word));
    });
    let carved = |finding: &&Finding| matches!(finding, Finding::CarvedOutside { .. });
    assert_eq!(all.iter().filter(carved).count(), 1024 + 16);
    assert!(all.contains(&Finding::CarvedOutside { va: VirtAddr::new(0x0140_0000), frame: frame(0x6040_0000) }));
    assert!(all.contains(&Finding::WritableText { va: VirtAddr::new(0x0101_0000), frame: frame(0x6001_0000) }));
    assert!(all.contains(&Finding::TableExposed { va: VirtAddr::new(0x0100_4000), frame: frame(L1) }));
    // In a window, where the ledger has it so: but for users, or for one address space.
    let exposed = Finding::Exposed { va: VirtAddr::new(0xc000_1000), frame: frame(0x6040_0000) };
    let ours = L2Desc::small(PhysAddr::new(0x6040_0000), NonCacheable, ReadWrite, Shareable).raw();
    for word in [ours | 0x30, ours & !0x30 | 0x20, ours | 1 << 11] {
        found(
            |b| b.tables.set_l2(0xc000_1000, word),
            exposed,
            "I4: 0xc0001000 maps carved frame 0x60400000 for users or for one address space alone, and nobody permits that; unmap it",
        );
    }
}

#[test]
fn users_reach_no_table() {
    // The first-level table's four frames, and the second-level tables'.
    for at in [L1, L1 + 0x3000, L2] {
        let finding = Finding::TableExposed { va: VirtAddr::new(0x0010_5000), frame: frame(at) };
        let line = format!("I1: users reach a table, in frame {at:#010x}, at 0x00105000; unmap it");
        let word = L2Desc::small(PhysAddr::new(at), WriteBack, ReadWrite, Shareable).raw();
        for word in [word | 0x30, word & !0x30 | 0x20] {
            found(|b| b.tables.set_l2(0x0010_5000, word), finding, &line);
        }
        clean(|b| b.tables.set_l2(0x0010_5000, word));
    }
    // Not what is beside them.
    let beside = L2Desc::small(PhysAddr::new(L1 + 0x7000), WriteBack, ReadWrite, Shareable).raw() | 0x30;
    clean(|b| b.tables.set_l2(0x0010_5000, beside));
}

#[test]
fn wx_of_users_above_the_split() {
    let executes = |va| Finding::Executable { va: VirtAddr::new(va), frame: frame(0x6030_0000) };
    let line = "W^X: 0x90000000 executes frame 0x60300000, which is not the kernel's text; set XN";
    let word = section_word(0x6030_0000, WriteBack, ReadWrite) & !SECTION_XN;
    // Ours before: a section, writable and executable, for the kernel alone; it is one in the lower half too.
    found(|b| b.tables.set_l1(0x9000_0000, word), executes(0x9000_0000), line);
    assert_eq!(findings(|b| b.tables.set_l1(0x0010_0000, word)).len(), 256);
    found(|b| b.tables.set_l1(0x9000_0000, word | USERS), executes(0x9000_0000), line);
    clean(|b| b.tables.set_l1(0x0010_0000, word | USERS));
    // What users execute and nobody writes, as a page of vectors.
    clean(|b| b.tables.set_l1(0x9000_0000, word | 1 << 15 | USERS));
    // WXN makes writable memory execute-never.
    clean(|b| {
        b.tables.registers.sctlr |= 1 << 19;
        b.tables.set_l1(0x9000_0000, word);
    });
    // The text, for users to write.
    found(
        |b| {
            b.tables.set_l2(
                0x0010_5000,
                L2Desc::small(PhysAddr::new(TEXT_FRAME), WriteBack, Read, Shareable).raw() & !0x200 | 0x30,
            );
        },
        Finding::WritableText { va: VirtAddr::new(0x0010_5000), frame: frame(TEXT_FRAME) },
        "W^X: 0x00105000 can write the kernel's text at 0x60013000; map it read-only",
    );
}

#[test]
fn torn_large_pages_and_supersections() {
    let torn = |va, size| Finding::Torn { va: VirtAddr::new(va), size };
    // One entry of a large page alone: its translation may be held for all 64 KiB.
    let word = L2Desc::large(PhysAddr::new(0x6003_0000), WriteBack, ReadWrite, Shareable).raw();
    for n in [0, 5, 15] {
        found(
            |b| b.tables.set_l2(0x9000_0000 + n * 4096, word),
            torn(0x9000_0000, 64 << 10),
            "I1: 0x90000000: the 16 descriptors of 64 KiB are not alike, and each may translate all of it; write one word \
             16 times",
        );
        // One missing; one with another bit.
        found(
            |b| b.tables.set_l2(0x8003_0000 + n * 4096, 0),
            torn(0x8003_0000, 64 << 10),
            &torn(0x8003_0000, 64 << 10).to_string(),
        );
        found(
            |b| b.tables.set_l2(0x8003_0000 + n * 4096, word | 1 << 11),
            torn(0x8003_0000, 64 << 10),
            &torn(0x8003_0000, 64 << 10).to_string(),
        );
    }
    let word = section_word(0x1000_0000, Device, ReadWrite) | SUPERSECTION;
    found(
        |b| (0..15).for_each(|n| b.tables.set_l1(0x0100_0000 + (n << 20), word)),
        torn(0x0100_0000, 16 << 20),
        "I1: 0x01000000: the 16 descriptors of 16384 KiB are not alike, and each may translate all of it; write one word \
         16 times",
    );
    let all = findings(|b| (0..16).for_each(|n| b.tables.set_l1(0x0100_0000 + (n << 20), word | 1 << 20)));
    assert_eq!(all.len(), 16);
    assert_eq!(
        all[0].to_string(),
        format!(
            "I1: 0x01000000: supersection {:#010x} is above 4 GiB, where no memory is known; unmap it",
            word | 1 << 20
        )
    );
    assert!(matches!(
        findings(|b| b.tables.set_l1(0x0100_0000, word | 1 << 8))[..],
        [Finding::Torn { .. }, Finding::Beyond { .. }]
    ));
}

/// One descriptor of 16, wherever it stands, is judged over all that it may translate.
#[test]
fn i1_torn_descriptors_cover_what_they_may_translate() {
    let torn = |va, size| Finding::Torn { va: VirtAddr::new(va), size };
    let outside = |va, at| Finding::CarvedOutside { va: VirtAddr::new(va), frame: frame(at) };
    let large = |at| L2Desc::large(PhysAddr::new(at), WriteBack, ReadWrite, Shareable).raw();
    for n in [0, 6, 15] {
        let all = findings(|b| b.tables.set_l2(0x9000_0000 + n * 4096, large(0x6040_0000)));
        let covered = (0..16).map(|page| outside(0x9000_0000 + page * 4096, 0x6040_0000 + page * 4096));
        let expected: Vec<_> = core::iter::once(torn(0x9000_0000, 64 << 10)).chain(covered).collect();
        assert_eq!(all, expected, "entry {n}");
    }
    // What the one entry itself translates is no carved frame, and the 15 beside it are.
    let carved = FrameRange::within(0x6040_1000, 0xf000);
    let cells = vec![Cell::default(); Ledger::cells_needed([carved].into_iter())].leak();
    let ledger = Ledger::new([carved].into_iter(), Aliases::default(), cells).unwrap();
    let mut b = Bench { tables: Tables::new(), ledger };
    b.tables.set_l2(0x8000_0000, large(0x6040_0000));
    let all = b.audit_all().1;
    assert_eq!((all[0], all[1], all.len()), (torn(0x8000_0000, 64 << 10), outside(0x8000_1000, 0x6040_1000), 16));
    // In a window: a buffer's 15 entries reach the frame that the ledger has unmapped, through the one that is left
    // out.
    let all = findings(|b| {
        b.tables.set_l2(0xc001_f000, 0);
        b.ledger.release(FrameRange::within(0x6041_f000, 0x1000));
    });
    let (va, at) = (VirtAddr::new(0xc001_f000), frame(0x6041_f000));
    let alias = Finding::Alias { va, frame: at, has: MemoryType::into(WriteBack), ledger: Carved::Unmapped };
    assert_eq!(all, [torn(0xc001_0000, 64 << 10), alias]);
    // Two large pages in one place: each covers it. Beside small pages of the same frames: two translations.
    let all = findings(|b| {
        b.tables.set_l2(0x9000_0000, large(0x6040_0000));
        b.tables.set_l2(0x9000_1000, large(0x6041_0000));
    });
    assert_eq!(all.len(), 2 * 17);
    assert!(all.contains(&outside(0x9000_1000, 0x6040_1000)) && all.contains(&outside(0x9000_0000, 0x6041_0000)));
    let all = findings(|b| b.tables.small(0xc001_5000, 0x6041_5000, WriteBack, ReadWrite));
    assert_eq!(all[1..], [Finding::Twice { va: VirtAddr::new(0xc001_5000), frame: frame(0x6041_5000) }]);
    // What users reach of tables, and what executes, by one entry.
    let exposed = Finding::TableExposed { va: VirtAddr::new(0x0010_4000), frame: frame(L1) };
    assert!(findings(|b| b.tables.set_l2(0x0010_0000, large(0x6000_0000) | 0x30)).contains(&exposed));
    assert_eq!(findings(|b| b.tables.set_l2(0x9000_0000, large(0x6030_0000) & !(1 << 15))).len(), 17);
    // One word of a supersection: as much as all 16 of them, and torn.
    let word = section_word(0x6000_0000, WriteBack, ReadWrite) | SUPERSECTION | USERS;
    let whole = findings(|b| (0..16).for_each(|n| b.tables.set_l1(0x0100_0000 + (n << 20), word)));
    for n in [0, 9, 15] {
        let one = findings(|b| b.tables.set_l1(0x0100_0000 + (n << 20), word));
        assert_eq!((one[0], &one[1..]), (torn(0x0100_0000, 16 << 20), &whole[..]), "entry {n}");
    }
    // A process's, that has 15 of the 16 words of the table in use in common.
    let word = section_word(0x1000_0000, Device, ReadWrite) | SUPERSECTION | USERS;
    let mut b = Bench::clean();
    b.tables.registers.ttbcr = 4;
    for n in 0..16 {
        b.tables.set_l1(n << 20, word);
        b.tables.words.insert(PROCESS.raw() + 4 * n, word);
    }
    assert!(b.audit_with(&[PROCESS]).0.is_ok());
    b.tables.words.insert(PROCESS.raw() + 4 * 7, 0);
    assert_eq!(b.audit_with(&[PROCESS]).1, [torn(0, 16 << 20)]);
}

#[test]
fn types_that_this_crate_never_writes() {
    let plain = section_word(0x6030_0000, WriteBack, ReadWrite) & !(7 << 12 | 0xc);
    for (tex, c, b, name) in [
        (0b000, 1, 0, "write-through"),
        (0b001, 0, 1, "of a reserved type"),
        (0b001, 1, 0, "of a reserved type"),
        (0b010, 0, 0, "device"),
        (0b011, 1, 1, "of a reserved type"),
        (0b100, 0, 0, "non-cacheable"),
        (0b100, 0, 1, "inner write-back and outer non-cacheable"),
        (0b111, 1, 0, "inner write-through and outer write-back"),
    ] {
        let line =
            format!("I1: 0x00100000 maps frame 0x60300000 {name}; RAM is write-back, and registers are device memory");
        let all = findings(|bench| bench.tables.set_l1(0x0010_0000, plain | tex << 12 | c << 3 | b << 2 | USERS));
        assert_eq!((all.len(), all[0].to_string()), (256, line));
    }
    // A register with a type that may be anything.
    let word = section_word(0x1000_0000, Device, ReadWrite) | 1 << 12;
    assert_eq!(findings(|b| b.tables.set_l1(0x0010_0000, word)).len(), 256);
    // NS, of a section and of a table; and rights that nobody knows.
    let all = findings(|b| b.tables.set_l1(0x0010_0000, section_word(0x6030_0000, WriteBack, ReadWrite) | 1 << 19));
    assert_eq!(
        all[0].to_string(),
        "I1: 0x00100000 maps frame 0x60300000 with NS set, a second name of its lines; clear NS"
    );
    let all = findings(|b| {
        b.tables.small(DIRECT_PAGE, PLAIN, WriteBack, ReadWrite);
        let pointer = b.tables.words[&(L1 + 4 * (DIRECT_PAGE >> 20))];
        b.tables.set_l1(DIRECT_PAGE, pointer | 1 << 3);
    });
    assert!(all.contains(&Finding::NonSecure { va: VirtAddr::new(DIRECT_PAGE), frame: frame(PLAIN) }));
    let word = section_word(0x6030_0000, WriteBack, ReadWrite) & !AP_OF_SECTION | 1 << 15;
    found(
        |b| b.tables.set_l1(0x0010_0000, word),
        Finding::ReservedRights { va: VirtAddr::new(0x0010_0000), word },
        &format!("W^X: 0x00100000: descriptor {word:#010x} has AP 0b100, which is reserved; choose another"),
    );
}

// --- registers ------------------------------------------------------------------------------------------------------

const TRE: u32 = 1 << 28;
const AFE: u32 = 1 << 29;

/// Linux's PRRR and NMRR make device memory of what this crate maps non-cacheable, and memory of its registers.
#[test]
fn i1_tex_remap_that_changes_what_we_say() {
    let all = findings(|b| {
        b.tables.registers.sctlr |= TRE;
        (b.tables.registers.prrr, b.tables.registers.nmrr) = (0xff0a_81a8, 0x40e0_40e0);
    });
    let remap = |memory, means, sharing| {
        Finding::Register(RegisterError::Remap { memory, means: Attributes { memory: means, sharing } })
    };
    let non_cacheable = NonCacheable.into();
    assert_eq!(all[0], remap(NonCacheable, Memory::Device, Sharing::Inner));
    assert_eq!(all[1], remap(Device, non_cacheable, Sharing::NonShareable));
    assert_eq!(
        all[0].to_string(),
        "I1: SCTLR.TRE is 1, and by PRRR and NMRR what this crate maps non-cacheable is device; clear TRE, or make \
         region 4 non-cacheable"
    );
    // And what follows from it, frame by frame.
    let (va, frame) = (VirtAddr::new(0xc000_1000), frame(0x6040_0000));
    assert!(all.contains(&Finding::Alias { va, frame, has: Memory::Device, ledger: Carved::Mapped(NonCacheable) }));
    let registers =
        Finding::WrongType { va: VirtAddr::new(0xf010_0000), frame: self::frame(0x1000_0000), has: non_cacheable };
    assert!(all.contains(&registers));

    // Values under which our words mean what we say, whatever else they make.
    let ours = |prrr, nmrr| {
        move |b: &mut Bench| {
            b.tables.registers.sctlr |= TRE;
            (b.tables.registers.prrr, b.tables.registers.nmrr) = (prrr, nmrr);
        }
    };
    // Regions 0 strongly-ordered, 1 device, 4 and 7 normal; 7 write-back; NS1 shareable.
    clean(ours(0x0008_8204, 0x4000_4000));
    clean(ours(0xff0a_bef4, 0xfcff_fcff));
    // NS1 clear: what has S set is not shared; NS0 set: what has it clear is.
    let all = findings(ours(0x0000_8204, 0x4000_4000));
    assert_eq!(all[0], remap(NonCacheable, non_cacheable, Sharing::NonShareable));
    // Write-through in place of write-back; the outer cache only.
    let inner_only = Memory::Normal { inner: Caching::WriteBack, outer: Caching::WriteThrough };
    assert_eq!(findings(ours(0x0008_8204, 0x8000_4000))[0], remap(WriteBack, inner_only, Sharing::Outer));
    // A reserved type.
    assert_eq!(findings(ours(0x0008_8304, 0x4000_4000))[0], remap(NonCacheable, Memory::Reserved, Sharing::Outer));
    // Without TRE they mean nothing.
    clean(|b| (b.tables.registers.prrr, b.tables.registers.nmrr) = (0xff0a_81a8, 0x40e0_40e0));
}

/// AP[0] becomes the access flag, AP[2:1] the rights: what is users' changes, what is ours does not.
#[test]
fn the_access_flag() {
    clean(|b| b.tables.registers.sctlr |= AFE);
    // AP 000 maps for nobody without it, and for the kernel with it; a clear access flag is set by a fault.
    let word = section_word(0x6030_0000, WriteBack, ReadWrite) & !AP_OF_SECTION & !SECTION_XN;
    let plant = |afe: u32, word: u32| {
        move |b: &mut Bench| {
            b.tables.registers.sctlr |= afe;
            b.tables.set_l1(0x9000_0000, word);
        }
    };
    clean(plant(0, word));
    assert_eq!(findings(plant(AFE, word)).len(), 256, "the kernel executes what it writes");
    // AP 100 is reserved without it, and read-only with it.
    assert!(matches!(findings(plant(0, word | 1 << 15))[0], Finding::ReservedRights { .. }));
    assert!(matches!(findings(plant(AFE, word | 1 << 15))[0], Finding::Executable { .. }));
    clean(plant(AFE, word | 1 << 15 | SECTION_XN));
    // AP 010 lets users read without it, and write with it: the text.
    let text = L2Desc::small(PhysAddr::new(TEXT_FRAME), WriteBack, Read, Shareable).raw() & !0x230 | 0x220;
    let plant = |afe: u32, word: u32| {
        move |b: &mut Bench| {
            b.tables.registers.sctlr |= afe;
            b.tables.set_l2(0x0010_5000, word);
        }
    };
    clean(plant(AFE, text));
    clean(plant(0, text));
    assert!(matches!(findings(plant(AFE, text & !0x200))[0], Finding::WritableText { .. }));
}

#[test]
fn wx_a_domain_that_nobody_checks() {
    let all = findings(|b| b.tables.registers.dacr = 3);
    let finding = Finding::Unchecked { va: VirtAddr::new(0x8003_0000), domain: Domain { number: 0, access: 3 } };
    assert_eq!(all[0], finding);
    assert_eq!(
        finding.to_string(),
        "W^X: 0x80030000 is in domain 0, and DACR has 0b11 for it: no permission is checked; make it a client's, 0b01"
    );
    assert_eq!(all.iter().filter(|found| matches!(found, Finding::Unchecked { .. })).count(), 1, "once a domain");
    let text = Finding::WritableText { va: VirtAddr::new(0xff01_0000), frame: frame(0x6001_0000) };
    assert!(all.contains(&text));
    assert!(
        matches!(findings(|b| b.tables.registers.dacr = 2)[0], Finding::Unchecked { .. }),
        "reserved: nobody knows"
    );
    // Domains that nothing is in may be anything; without access counts as a client's.
    clean(|b| b.tables.registers.dacr = 0xffff_fffd);
    clean(|b| b.tables.registers.dacr = 0);
    // By a table's domain too.
    let all = findings(|b| {
        b.tables.registers.dacr = 0xd;
        b.tables.small(0x0010_5000, PLAIN, WriteBack, ReadWrite);
        let pointer = b.tables.words[&(L1 + 4)];
        b.tables.set_l1(0x0010_0000, pointer | 1 << 5);
    });
    assert_eq!(all, [Finding::Unchecked { va: VirtAddr::new(0x0010_5000), domain: Domain { number: 1, access: 3 } }]);
}

#[test]
fn registers_under_which_nothing_can_be_said() {
    found(
        |b| b.tables.registers.ttbcr |= 1 << 31,
        Finding::Register(RegisterError::LongFormat),
        "TTBCR.EAE is 1: the tables have the long format, which is not decoded; use short descriptors",
    );
    found(
        |b| b.tables.registers.sctlr |= 1 << 25,
        Finding::Register(RegisterError::BigEndian),
        "SCTLR.EE is 1: walks read big-endian words, and this crate writes little-endian ones; clear EE",
    );
    found(
        |b| b.tables.registers.sctlr &= !1,
        Finding::Register(RegisterError::Off),
        "SCTLR.M is 0: the MMU is off, so that no table holds I1, I2 or W^X; set M",
    );
}

#[test]
fn i1_walks_that_read_tables_otherwise_than_they_are_written() {
    for (flags, name) in [
        (0x00, "non-cacheable, non-shareable"),
        (0x22, "non-cacheable, inner shareable"),
        (0x68, "write-back, non-shareable"),
        (0x2a, "inner non-cacheable and outer write-back, inner shareable"),
        (0x62, "inner write-back and outer non-cacheable, inner shareable"),
        (0x33, "write-through, inner shareable"),
    ] {
        let finding = |registers: &Registers, ttbr| {
            Finding::Register(RegisterError::WalkAttributes { ttbr, has: registers.walk_attributes(ttbr) })
        };
        let registers = Registers { ttbr1: L1 | flags, ..Registers::plain(PhysAddr::new(L1)) };
        found(
            |b| b.tables.registers = registers,
            finding(&registers, Ttbr::Ttbr1),
            &format!(
                "I1: TTBR1 has tables walked {name}, and RAM is mapped otherwise; set its IRGN, RGN and S to write-back, \
                 and to Shareable on an MPCore"
            ),
        );
    }
    // Other hints, and the other domain of shareability.
    for flags in [0x4a, 0x5b, 0x7a] {
        clean(|b| b.tables.registers.ttbr0 = L1 | flags);
    }
}

/// Walks that are off: the TLB may hold what the table says, so that it is judged.
#[test]
fn i1_walks_that_are_off() {
    for (n, ttbr) in [(0, Ttbr::Ttbr0), (1, Ttbr::Ttbr1)] {
        found(
            |b| b.tables.registers.ttbcr |= 1 << (4 + n),
            Finding::Register(RegisterError::WalksOff { ttbr }),
            &format!(
                "I1: TTBCR.PD{n} is 1: TTBR{n}'s table is not walked, and the TLB may hold what it said; clear PD{n}, and \
                 empty the table instead"
            ),
        );
    }
    let (va, word) = (VirtAddr::new(0x0010_0000), section_word(AREA.base().raw(), WriteBack, ReadWrite));
    let all = findings(|b| {
        b.tables.set_l1(va.raw(), word);
        b.tables.registers.ttbcr |= 1 << 4;
    });
    let outside = Finding::CarvedOutside { va, frame: frame(AREA.base().raw()) };
    assert_eq!(
        (all[0], all[1], all.len()),
        (Finding::Register(RegisterError::WalksOff { ttbr: Ttbr::Ttbr0 }), outside, 257)
    );
    // N = 0 gives TTBR1 no addresses: PD1 says nothing.
    clean(|b| b.tables.registers.ttbcr = 1 << 5);
}

#[test]
fn i1_caches_that_are_off() {
    for (bit, fetches, line) in [
        (2, false, "I1: SCTLR.C is 0: this core accesses past its caches what is mapped write-back; set C"),
        (12, true, "I1: SCTLR.I is 0: this core fetches past its caches what is mapped write-back; set I"),
    ] {
        found(
            |b| b.tables.registers.sctlr &= !(1 << bit),
            Finding::Register(RegisterError::CacheOff { fetches }),
            line,
        );
    }
    // Branch prediction, vectors, alignment: nothing that the tables mean.
    clean(|b| b.tables.registers.sctlr &= !(1 << 11));
    clean(|b| b.tables.registers.sctlr |= 1 << 13 | 1 << 22 | 1 << 1);
}

/// The registers of every core that is named are this core's, as far as tables mean something by them.
#[test]
fn i1_registers_of_other_cores() {
    let plain = Registers::plain(PhysAddr::new(L1));
    let beside = |other: Registers| Bench::clean().audit_beside(&[PROCESS], &[(0, plain), (2, other)]).1;
    assert_eq!(beside(plain), []);
    let process = PROCESS.raw() | 0x6a;
    for (register, has, other) in [
        ("SCTLR", plain.sctlr & !1, Registers { sctlr: plain.sctlr & !1, ..plain }),
        ("SCTLR", plain.sctlr & !4, Registers { sctlr: plain.sctlr & !4, ..plain }),
        ("SCTLR", plain.sctlr & !0x1000, Registers { sctlr: plain.sctlr & !0x1000, ..plain }),
        ("SCTLR", plain.sctlr | 1 << 19, Registers { sctlr: plain.sctlr | 1 << 19, ..plain }),
        ("SCTLR", plain.sctlr | 1 << 20, Registers { sctlr: plain.sctlr | 1 << 20, ..plain }),
        ("SCTLR", plain.sctlr | 1 << 25, Registers { sctlr: plain.sctlr | 1 << 25, ..plain }),
        ("SCTLR", plain.sctlr | TRE, Registers { sctlr: plain.sctlr | TRE, ..plain }),
        ("SCTLR", plain.sctlr | AFE, Registers { sctlr: plain.sctlr | AFE, ..plain }),
        ("TTBCR", 2, Registers { ttbcr: 2, ..plain }),
        ("TTBCR", 0x11, Registers { ttbcr: 0x11, ..plain }),
        ("TTBCR", 0x21, Registers { ttbcr: 0x21, ..plain }),
        ("TTBCR", 1 << 31 | 1, Registers { ttbcr: 1 << 31 | 1, ..plain }),
        // Another walk of the same table, and of a process's; a table that nobody named.
        ("TTBR0", L1, Registers { ttbr0: L1, ..plain }),
        ("TTBR0", PROCESS.raw(), Registers { ttbr0: PROCESS.raw(), ..plain }),
        ("TTBR0", 0x6001_006a, Registers { ttbr0: 0x6001_006a, ..plain }),
        ("TTBR1", process, Registers { ttbr1: process, ..plain }),
        ("TTBR1", L1 | 0x68, Registers { ttbr1: L1 | 0x68, ..plain }),
        ("DACR", 3, Registers { dacr: 3, ..plain }),
        ("DACR", 0x8000_0001, Registers { dacr: 0x8000_0001, ..plain }),
        ("ACTLR", 1, Registers { actlr: 1, ..plain }),
        ("MPIDR[31]", 0, Registers { multiprocessing: false, ..plain }),
        ("ID_MMFR0[2]", 1, Registers { pxn: true, ..plain }),
    ] {
        let all = beside(other);
        let [Finding::OtherCore { core: 2, register: found, has: holds, .. }] = all[..] else { panic!("{all:?}") };
        assert_eq!((found, holds), (register, has));
    }
    assert_eq!(
        beside(Registers { dacr: 3, ..plain })[0].to_string(),
        "I1: core 2 has DACR 0x00000003, and this core 0x00000001: tables may mean one thing there and another here; make \
         them the same"
    );
    // A process of its own, which is walked here; a domain that has no access; what nothing depends on.
    assert_eq!(beside(Registers { ttbr0: process, ..plain }), []);
    assert_eq!(beside(Registers { dacr: 0x5555_5554, ..plain }), []);
    assert_eq!(beside(Registers { sctlr: plain.sctlr ^ (1 << 13 | 1 << 11), prrr: 5, ..plain }), []);
    // Where the types are remapped, the map counts; where N is 0, TTBR1 does not.
    let remap = Registers { sctlr: plain.sctlr | TRE, prrr: 0x0008_8204, nmrr: 0x4000_4000, ..plain };
    let mut b = Bench::clean();
    b.tables.registers = remap;
    let all = b.audit_beside(&[], &[(0, remap), (1, Registers { nmrr: 0x8000_4000, ..remap })]).1;
    assert_eq!(all, [Finding::OtherCore { core: 1, register: "NMRR", has: 0x8000_4000, here: 0x4000_4000 }]);
    let whole = Registers { ttbcr: 0, ..plain };
    b.tables.registers = whole;
    assert!(b.audit_beside(&[], &[(1, Registers { ttbr1: 0, ..whole })]).0.is_ok());
}

#[test]
fn each_half_has_the_table_that_n_gives_it() {
    let carved = section_word(AREA.base().raw(), WriteBack, ReadWrite) | USERS;
    for n in 1..8 {
        let entries = 4096 >> n;
        let outside = |entry: u32| Finding::CarvedOutside { va: VirtAddr::new(entry << 20), frame: frame(0x6040_0000) };
        let plant = |entry: u32| {
            move |b: &mut Bench| {
                b.tables.registers.ttbcr = n;
                b.tables.registers.ttbr0 = PROCESS.raw() | 0x6a;
                b.tables.words.insert(PROCESS.raw() + 4 * entry, carved);
            }
        };
        assert_eq!(findings(plant(entries - 1))[0], outside(entries - 1), "N = {n}");
        // From there on by TTBR1's table, and before it by TTBR0's alone.
        clean(plant(entries));
        clean(|b| {
            plant(entries)(b);
            b.tables.set_l1((entries - 1) << 20, carved);
        });
        if n > 1 {
            let all = findings(|b| {
                plant(entries)(b);
                b.tables.set_l1(entries << 20, carved);
            });
            assert_eq!(all[0], outside(entries), "N = {n}");
        }
    }
    // N = 0: one table for all, and TTBR1 is not looked at.
    clean(|b| {
        b.tables.registers.ttbcr = 0;
        b.tables.registers.ttbr1 = 0x7000_0000;
    });
}

/// The tables of processes that do not run are walked as if they did.
#[test]
fn roots_of_other_processes() {
    let mut b = Bench::clean();
    b.tables.registers.ttbcr = 4;
    let va = VirtAddr::new(0x0010_0000);
    assert!(b.audit_with(&[PROCESS]).0.is_ok());
    b.tables.words.insert(PROCESS.raw() + 4, section_word(AREA.base().raw(), WriteBack, ReadWrite) | USERS);
    assert!(b.audit_with(&[]).0.is_ok());
    let (verdict, all) = b.audit_with(&[PROCESS]);
    assert_eq!(all[0], Finding::CarvedOutside { va, frame: frame(AREA.base().raw()) });
    assert_eq!(
        verdict.unwrap_err().to_string(),
        "I2: carved frame 0x60400000 is mapped at 0x00100000, outside the window; unmap it; findings: 256: 256 carved \
         frames outside the window (I2)"
    );
    // Its table is one that no other process may reach.
    b.tables.words.insert(PROCESS.raw() + 4, 0);
    b.tables.set_l2(0x0020_5000, L2Desc::small(PROCESS, WriteBack, ReadWrite, Shareable).raw() | 0x30);
    assert!(b.audit_with(&[]).0.is_ok());
    let exposed = Finding::TableExposed { va: VirtAddr::new(0x0020_5000), frame: frame(PROCESS.raw()) };
    assert_eq!(b.audit_with(&[PROCESS]).1, [exposed]);
    // What it has in common with the table in use is looked at once.
    b.tables.set_l2(0x0020_5000, 0);
    let shared = b.tables.words[&(L1 + 8)];
    b.tables.words.insert(PROCESS.raw() + 8, shared);
    b.tables.small(0x0020_6000, 0x6040_3000, WriteBack, ReadWrite);
    assert_eq!(b.audit_with(&[PROCESS]).1.len(), 1);
    // One that nobody can read.
    let at = PhysAddr::new(0x7000_0000);
    assert!(b.audit_with(&[at]).1.contains(&Finding::UnknownTable { at }));
}

// --- the naive model ------------------------------------------------------------------------------------------------

/// A second decoder, written from the manual's tables and from nothing else, one address at a time.
mod naive {
    use carveout::machine::Registers;

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[expect(clippy::struct_excessive_bools, reason = "bits of a descriptor")]
    pub(crate) struct Page {
        pub(crate) pa: u64,
        /// As the manual's tables name it: SO, DEV, or the inner and the outer cacheability; UNP for the rest.
        pub(crate) memory: (&'static str, &'static str),
        pub(crate) shared: bool,
        pub(crate) inner_shareable: bool,
        /// "rwx" at PL1 and at PL0, '-' for what is missing.
        pub(crate) rights: [[bool; 3]; 2],
        pub(crate) global: bool,
        pub(crate) ns: bool,
        pub(crate) domain: u32,
        pub(crate) reserved_rights: bool,
        /// Bytes that the descriptor maps.
        pub(crate) size: u32,
    }

    fn bits(word: u32, high: u32, low: u32) -> u32 {
        (word << (31 - high)) >> (31 - high + low)
    }

    /// Table B3-10, by TEX, C, B; the entries for TEX = 1BB are made of table B3-11.
    const PLAIN: [(&str, &str); 16] = [
        ("SO", ""),
        ("DEV", ""),
        ("WT", "WT"),
        ("WB", "WB"),
        ("NC", "NC"),
        ("UNP", ""),
        ("UNP", ""),
        ("WB", "WB"),
        ("DEV", ""),
        ("UNP", ""),
        ("UNP", ""),
        ("UNP", ""),
        ("UNP", ""),
        ("UNP", ""),
        ("UNP", ""),
        ("UNP", ""),
    ];
    const CACHE: [&str; 4] = ["NC", "WB", "WT", "WB"];

    /// Table B3-8: what AP[2:0] lets PL1 and PL0 do.
    const AP: [(&str, &str); 8] = [
        ("--", "--"),
        ("rw", "--"),
        ("rw", "r-"),
        ("rw", "rw"),
        ("rw", "rw"),
        ("r-", "--"),
        ("r-", "r-"),
        ("r-", "r-"),
    ];
    /// Table B3-9, by AP[2:1].
    const AP_AFE: [(&str, &str); 4] = [("rw", "--"), ("rw", "rw"), ("r-", "--"), ("r-", "r-")];

    #[expect(clippy::too_many_arguments, reason = "the fields of a descriptor, in the figures' order")]
    fn page(
        registers: &Registers,
        (pa, size): (u64, u32),
        tex: u32,
        cb: u32,
        s: u32,
        ap: u32,
        (xn, pxn): (bool, bool),
        (ng, ns): (u32, u32),
        domain: u32,
    ) -> Page {
        let sctlr = |n| bits(registers.sctlr, n, n) == 1;
        let (memory, shared, inner_shareable) = if sctlr(28) {
            let n = bits(tex, 0, 0) * 4 + cb;
            let field = |word, low| bits(word, low + 1, low);
            let memory = match field(registers.prrr, 2 * n) {
                _ if n == 6 => ("UNP", ""),
                0 => ("SO", ""),
                1 => ("DEV", ""),
                2 => (CACHE[field(registers.nmrr, 2 * n) as usize], CACHE[field(registers.nmrr, 2 * n + 16) as usize]),
                _ => ("UNP", ""),
            };
            let ns = if s == 1 { bits(registers.prrr, 19, 19) } else { bits(registers.prrr, 18, 18) };
            (memory, ns == 1, bits(registers.prrr, 24 + n, 24 + n) == 1)
        } else if tex >= 4 {
            ((CACHE[cb as usize], CACHE[(tex - 4) as usize]), s == 1, false)
        } else {
            (PLAIN[(tex * 4 + cb) as usize], s == 1, false)
        };
        let dacr = bits(registers.dacr, 2 * domain + 1, 2 * domain);
        let has = |text: &str, what| text.contains(what);
        let (pl1, pl0) = if sctlr(29) { AP_AFE[(ap >> 1) as usize] } else { AP[ap as usize] };
        let (wxn, uwxn) = (sctlr(19), sctlr(20));
        let x1 = has(pl1, 'r') && !(xn || pxn || wxn && has(pl1, 'w') || uwxn && has(pl0, 'w'));
        let x0 = has(pl0, 'r') && !(xn || wxn && has(pl0, 'w'));
        let rights = if dacr >= 2 {
            [[true; 3]; 2]
        } else {
            [[has(pl1, 'r'), has(pl1, 'w'), x1], [has(pl0, 'r'), has(pl0, 'w'), x0]]
        };
        Page {
            pa,
            memory,
            shared,
            inner_shareable,
            rights,
            global: ng == 0,
            ns: ns == 1,
            domain,
            reserved_rights: dacr < 2 && !sctlr(29) && ap == 4,
            size,
        }
    }

    /// What `va` is translated to, and the words that say so.
    pub(crate) fn translate(registers: &Registers, read: impl Fn(u32) -> u32, va: u32) -> Option<Page> {
        let n = bits(registers.ttbcr, 2, 0);
        let lower = n == 0 || u64::from(va) < (1u64 << 32) >> n;
        if bits(registers.ttbcr, 4, 4) == 1 && lower || bits(registers.ttbcr, 5, 5) == 1 && !lower {
            return None;
        }
        let table =
            if lower { registers.ttbr0 / (0x4000 >> n) * (0x4000 >> n) } else { registers.ttbr1 / 0x4000 * 0x4000 };
        let word = read(table + bits(va, 31, 20) * 4);
        let b = |high, low| bits(word, high, low);
        let first_level = |pa, size, domain| {
            let ap = b(15, 15) * 4 + b(11, 10);
            let never = (b(4, 4) == 1, b(0, 0) == 1);
            page(registers, (pa, size), b(14, 12), b(3, 2), b(16, 16), ap, never, (b(17, 17), b(19, 19)), domain)
        };
        match b(1, 0) {
            0 => None,
            3 if !registers.pxn => None,
            1 => {
                let second = read(b(31, 10) * 0x400 + bits(va, 19, 12) * 4);
                let c = |high, low| bits(second, high, low);
                let pxn = registers.pxn && b(2, 2) == 1;
                let ap = c(9, 9) * 4 + c(5, 4);
                let page = |at, tex, xn: u32| {
                    let never = (xn == 1, pxn);
                    page(registers, at, tex, c(3, 2), c(10, 10), ap, never, (c(11, 11), b(3, 3)), b(8, 5))
                };
                match c(1, 0) {
                    0 => None,
                    1 => {
                        let pa = u64::from(c(31, 16)) * 0x1_0000 + u64::from(va % 0x1_0000);
                        Some(page((pa, 0x1_0000), c(14, 12), c(15, 15)))
                    }
                    _ => {
                        let pa = u64::from(c(31, 12)) * 0x1000 + u64::from(va % 0x1000);
                        Some(page((pa, 0x1000), c(8, 6), c(0, 0)))
                    }
                }
            }
            _ if b(18, 18) == 0 => {
                let pa = u64::from(b(31, 20)) * 0x10_0000 + u64::from(va % 0x10_0000);
                Some(first_level(pa, 0x10_0000, b(8, 5)))
            }
            _ => {
                let high = u64::from(b(8, 5)) << 36 | u64::from(b(23, 20)) << 32;
                let pa = high | u64::from(b(31, 24)) << 24 | u64::from(va % 0x100_0000);
                Some(first_level(pa, 0x100_0000, 0))
            }
        }
    }
}

/// The findings, in words, sorted: what the naive model can say too.
fn in_words(finding: &Finding) -> Option<String> {
    Some(match finding {
        Finding::Executable { va, .. } => format!("{va} executes"),
        Finding::WritableText { va, .. } => format!("{va} writes text"),
        Finding::CarvedOutside { va, .. } => format!("{va} carved"),
        Finding::Alias { va, .. } => format!("{va} alias"),
        Finding::Exposed { va, .. } => format!("{va} exposed"),
        Finding::TableExposed { va, .. } => format!("{va} table"),
        Finding::SecondName { va, .. } => format!("{va} second name"),
        Finding::NonSecure { va, .. } => format!("{va} ns"),
        Finding::WrongType { va, .. } => format!("{va} type"),
        Finding::WrongShareability { va, .. } => format!("{va} sharing"),
        Finding::Unchecked { domain, .. } => format!("domain {}", domain.number),
        Finding::Beyond { va, .. } => format!("{va} beyond"),
        Finding::ReservedRights { va, .. } => format!("{va} rights"),
        Finding::Torn { va, .. } => format!("{va} torn"),
        Finding::Unreached { frame } => format!("{} unreached", frame.base()),
        Finding::Twice { frame, .. } => format!("{} twice", frame.base()),
        _ => return None,
    })
}

/// The entries that stand together with entry `n` in groups of 16.
fn beside(n: u32) -> impl Iterator<Item = u32> + Clone {
    (n & !15)..(n & !15) + 16
}

/// Every translation that the TLB may hold, a page at a time: by the words that stand in the page's own place, and by
/// those of large pages and supersections beside it. With each: whether its 16 words are alike, and whether it stands
/// in the page's own place.
fn translations(registers: &Registers, read: impl Fn(u32) -> u32) -> Vec<(u32, naive::Page, bool, bool)> {
    let mut all = Vec::new();
    // The word itself, and once each those of the others that reach as far.
    let candidates = |own: u32, others: Vec<u32>, reaches: &dyn Fn(u32) -> bool| {
        let mut words: Vec<u32> = others.into_iter().filter(|&word| word != own && reaches(word)).collect();
        words.sort_unstable();
        words.dedup();
        words.push(own);
        words
    };
    for section in 0..4096u32 {
        let place = L1 + 4 * section;
        let firsts: Vec<u32> = beside(section).map(|n| read(L1 + 4 * n)).collect();
        if firsts.iter().all(|&word| word == 0) {
            continue;
        }
        let supersection = |word| {
            let page = naive::translate(registers, |at| if at == place { word } else { read(at) }, section << 20);
            page.is_some_and(|page| page.size == 0x100_0000)
        };
        for first in candidates(read(place), firsts.clone(), &supersection) {
            for page in 0..256u32 {
                let table = (first & 3 == 1).then_some(first & !0x3ff);
                let word = |n| table.map_or(0, |table| read(table + 4 * n));
                let seconds: Vec<u32> = beside(page).map(word).collect();
                for second in candidates(word(page), seconds.clone(), &|word| word & 3 == 1) {
                    let read = |at| match table {
                        _ if at == place => first,
                        Some(table) if at == table + 4 * page => second,
                        _ => read(at),
                    };
                    let va = section << 20 | page << 12;
                    let Some(found) = naive::translate(registers, read, va) else { continue };
                    let alike = match found.size {
                        0x1_0000 => seconds.iter().all(|&word| word == second),
                        0x100_0000 => firsts.iter().all(|&word| word == first),
                        _ => true,
                    };
                    all.push((va, found, alike, first == firsts[section as usize % 16]));
                }
            }
        }
    }
    all
}

/// What must be said of these tables, page by page.
#[expect(clippy::too_many_lines, reason = "the rules, one after the other")]
fn expected(b: &Bench) -> Vec<String> {
    // Tables whose walks are off are judged too: PD0, PD1.
    let registers = Registers { ttbcr: b.tables.registers.ttbcr & 7, ..b.tables.registers };
    let read = |at| b.tables.words.get(&at).copied().unwrap_or(0);
    let mut said = Vec::new();
    let (mut domains, mut reached) = (Vec::new(), Vec::new());
    let tables: Vec<u32> = {
        let second = (0..4096).map(|n| read(L1 + 4 * n)).filter(|word| word & 3 == 1).map(|word| word >> 12);
        (L1 >> 12..(L1 >> 12) + 4).chain(second).collect()
    };
    // What a page of ours, write-back and non-cacheable, is shared like: the domain is the same for all that agree.
    let ours = |cb: u32| {
        let word = 0x6030_0000 | 1 << 10 | 1 << 6 | cb << 2 | 0x12;
        let read = |at| if at == 0x4000 { 0x8001 } else { word };
        let plain = Registers { ttbr0: 0x4000, ttbr1: 0x4000, ttbcr: 0, ..registers };
        let page = naive::translate(&plain, read, 0).unwrap();
        (page.shared, page.shared && page.inner_shareable)
    };
    for (va, found, alike, in_place) in translations(&registers, read) {
        let at = VirtAddr::new(va);
        let starts = va % found.size == 0;
        if !alike && starts {
            said.push(format!("{at} torn"));
        }
        if found.pa >> 32 != 0 {
            if in_place && va % 0x10_0000 == 0 {
                said.push(format!("{at} beyond"));
            }
            continue;
        }
        if registers.dacr >> (2 * found.domain) & 2 != 0 && !domains.contains(&found.domain) {
            domains.push(found.domain);
            said.push(format!("domain {}", found.domain));
        }
        if found.reserved_rights && starts {
            said.push(format!("{at} rights"));
        }
        let pa = u32::try_from(found.pa).unwrap();
        if pa < 16 << 20 {
            said.push(format!("{at} second name"));
            continue;
        }
        let n = registers.ttbcr & 7;
        let above = n != 0 && u64::from(va) >= (1u64 << 32) >> n;
        let [kernel, users] = found.rights;
        let any = users.contains(&true);
        let (w, x) = (kernel[1] || users[1], kernel[2] || users[2]);
        if TEXT.contains(frame(pa)) {
            if w {
                said.push(format!("{at} writes text"));
            }
        } else if x && (!any || w && above) {
            said.push(format!("{at} executes"));
        }
        if any && tables.contains(&(pa >> 12)) {
            said.push(format!("{at} table"));
        }
        let ram = (0x6000_0000..0x6100_0000).contains(&pa);
        if found.ns && ram {
            said.push(format!("{at} ns"));
        }
        if (0x6080_0000..0x6081_0000).contains(&pa) {
            said.push(format!("{at} carved"));
            continue;
        }
        let carved = (0x6040_0000..0x6080_0000).contains(&pa);
        let (normal, sharing) =
            (!matches!(found.memory.0, "SO" | "DEV"), (found.shared, found.shared && found.inner_shareable));
        if carved {
            if !(0xc000_0000..0xf000_0000).contains(&va) {
                said.push(format!("{at} carved"));
                continue;
            }
            if any || !found.global {
                said.push(format!("{at} exposed"));
            }
            let ledger = match b.ledger.state(frame(pa)) {
                Some(Carved::Mapped(WriteBack)) => ("WB", "WB"),
                Some(Carved::Mapped(NonCacheable)) => ("NC", "NC"),
                _ => ("", ""),
            };
            if found.memory != ledger {
                said.push(format!("{at} alias"));
                continue;
            }
            if reached.contains(&pa) {
                said.push(format!("{} twice", PhysAddr::new(pa)));
            }
            reached.push(pa);
        } else if ram && found.memory != ("WB", "WB") || !ram && normal {
            said.push(format!("{at} type"));
            continue;
        }
        let wanted = match found.memory {
            ("WB", "WB") => ours(3),
            ("NC", "NC") => ours(0),
            _ => continue,
        };
        if sharing != wanted {
            said.push(format!("{at} sharing"));
        }
    }
    for frame in AREA.iter() {
        if b.ledger.state(frame) != Some(Carved::Unmapped) && !reached.contains(&frame.base().raw()) {
            said.push(format!("{} unreached", frame.base()));
        }
    }
    said.sort();
    said
}

/// Words of any kind, with addresses that are worth finding.
fn any_word() -> impl Strategy<Value = u32> {
    let base = prop::sample::select(vec![
        0u32,
        0x1000_0000,
        0x6000_0000,
        0x6010_0000,
        0x6040_0000,
        0x6050_0000,
        0x6080_0000,
        0x7000_0000,
    ]);
    (base, any::<u32>(), any::<bool>())
        .prop_map(|(base, low, near)| base | if near { low & 0x000f_ffff } else { low & 0x00ff_ffff })
}

fn any_registers() -> impl Strategy<Value = Registers> {
    let bits = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let maps =
        prop_oneof![Just((0xff0a_81a8, 0x40e0_40e0)), Just((0x0008_8204, 0x4000_4000)), (any::<u32>(), any::<u32>()),];
    (bits, maps, any::<u32>(), 0..8u32, 0..4u32).prop_map(|((tre, afe, wxn, uwxn, pxn), (prrr, nmrr), dacr, n, pd)| {
        let plain = Registers::plain(PhysAddr::new(L1));
        Registers {
            sctlr: plain.sctlr
                | u32::from(tre) << 28
                | u32::from(afe) << 29
                | u32::from(wxn) << 19
                | u32::from(uwxn) << 20,
            // One walk or the other is off now and then.
            ttbcr: n | (if pd == 3 { dacr & 0x30 } else { 0 }),
            dacr,
            prrr,
            nmrr,
            pxn,
            ..plain
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// I1, I2, I4 and W^X: any words, in any entries, under any registers, against a decoder a page at a time.
    #[test]
    fn any_tables_are_judged_as_the_manual_has_them(
        registers in any_registers(),
        firsts in prop::collection::vec((0..4096u32, any_word(), any::<bool>()), 0..6),
        seconds in prop::collection::vec((0..1024u32, any_word(), any::<bool>()), 0..12),
    ) {
        let mut b = Bench::clean();
        b.tables.registers = registers;
        // Pages of the four regions that have tables, some in groups of 16.
        for (at, word, group) in seconds {
            let section = [DIRECT_PAGE, 0xc000_0000, 0xe000_0000, 0xf000_0000][(at / 256) as usize] & !0xf_ffff;
            let page = at % 256;
            let pages = if group { page & !15..(page & !15) + 16 } else { page..page + 1 };
            pages.for_each(|page| b.tables.set_l2(section | page << 12, word));
        }
        for (section, word, group) in firsts {
            // No pointers to tables of random words but the one in use elsewhere.
            let word = if word & 3 == 1 { L2 | word & 0x3fd } else { word };
            let sections = if group { section & !15..(section & !15) + 16 } else { section..section + 1 };
            sections.for_each(|section| b.tables.set_l1(section << 20, word));
        }
        // TTBR0's table is the first entries of the one that all share, wherever the split is.
        let (_, all) = b.audit_all();
        let mut said: Vec<_> = all.iter().filter_map(in_words).collect();
        said.sort();
        prop_assert_eq!(said, expected(&b));
    }
}

// --- kernels whose own map is their business ------------------------------------------------------------------------

/// The verdict on carved frames alone, and every finding in turn.
fn carved(b: &mut Bench, roots: &[PhysAddr]) -> (Result<Report, Findings>, Vec<Finding>) {
    let expect = Expect { firmware: &[FIRMWARE], roots, ..Expect::CARVED };
    let mut all = Vec::new();
    let verdict = audit(&b.tables, &expect, WINDOW, &mut b.ledger, |finding| all.push(finding));
    assert_eq!(verdict.map_or_else(|findings| findings.total() as usize, |_| 0), all.len(), "each is shown once");
    (verdict, all)
}

#[test]
fn carved_frames_alone_are_reported_as_such() {
    let report = carved(&mut Bench::clean(), &[]).0.unwrap();
    assert_eq!((report.kernel, report.carved_frames, report.window_frames), (false, 1024, 274));
    assert_eq!((report.direct_frames, report.text_frames), (0, 0));
    assert_eq!(
        report.to_string(),
        "clean: 5 sections, 3 large and 4 small pages; of 1024 carved frames 274 mapped, none outside the window; the \
         kernel's own map was not judged"
    );
}

/// A change to an otherwise clean kernel.
type Change = fn(&mut Bench);
/// Whether a finding is the right one.
type Judge = fn(&Finding) -> bool;

/// What a kernel may do as it likes with what is not carved. The judge of the kernel's own map finds each of them.
const ITS_BUSINESS: [(&str, Change); 16] = [
    ("RAM that is written and executed", |b| {
        let word = L2Desc::small(PhysAddr::new(PLAIN), WriteBack, ReadWrite, Shareable).raw();
        b.tables.set_l2(DIRECT_PAGE, word & !1);
    }),
    ("RAM that is not cached", |b| b.tables.small(DIRECT_PAGE, PLAIN, NonCacheable, ReadWrite)),
    ("RAM as Device memory", |b| b.tables.small(DIRECT_PAGE, PLAIN, Device, ReadWrite)),
    ("registers as memory", |b| b.tables.small(DEVICE_PAGE, REGISTER, WriteBack, ReadWrite)),
    ("text that can be written", |b| b.tables.small(DIRECT_PAGE, TEXT_FRAME, WriteBack, ReadWrite)),
    ("RAM that is not Shareable", |b| {
        b.tables.set_l2(DIRECT_PAGE, L2Desc::small(PhysAddr::new(PLAIN), WriteBack, ReadWrite, NonShareable).raw());
    }),
    ("RAM by its second name", |b| b.tables.small(DIRECT_PAGE, PLAIN - 0x6000_0000, WriteBack, ReadWrite)),
    ("RAM with NS set", |b| {
        b.tables.section(0x8090_0000, 0x6090_0000, WriteBack, ReadWrite);
        let entry = L1 + 4 * 0x809;
        *b.tables.words.get_mut(&entry).unwrap() |= 1 << 19;
    }),
    ("a domain that nobody checks", |b| {
        b.tables.registers.dacr |= 0b11 << 6;
        let word = L1Desc::section(PhysAddr::new(0x6090_0000), WriteBack, ReadWrite, Shareable).raw();
        b.tables.set_l1(0x8090_0000, word | 3 << 5);
    }),
    ("a supersection above 4 GiB", |b| b.tables.set_l1(0xf800_0000, 0x0014_0402)),
    ("a supersection that stands in one entry", |b| b.tables.set_l1(0xf800_0000, 0x7004_0412)),
    ("reserved rights", |b| {
        let word = L2Desc::small(PhysAddr::new(PLAIN), WriteBack, Read, Shareable).raw();
        b.tables.set_l2(DIRECT_PAGE, word & !(3 << 4));
    }),
    ("a large page that stands in one entry", |b| {
        b.tables.set_l2(DIRECT_PAGE, L2Desc::large(PhysAddr::new(0x6030_0000), WriteBack, ReadWrite, Shareable).raw());
    }),
    ("walks of the other half that are off", |b| b.tables.registers.ttbcr |= 1 << 4),
    ("walks of the other half with other attributes", |b| b.tables.registers.ttbr0 &= !0x40),
    ("Device memory that remap takes for something else", |b| {
        b.tables.registers.sctlr |= 1 << 28;
        // Regions 4 and 7 are right, and 0 and 1 are Normal memory too.
        b.tables.registers.prrr = 0b10 | 0b10 << 2 | 0b10 << 8 | 0b10 << 14 | 1 << 19;
        b.tables.registers.nmrr = 0b11 << 14 | 0b11 << 30;
    }),
];

#[test]
fn what_reaches_no_carved_frame_is_the_kernels_business() {
    for (what, change) in ITS_BUSINESS {
        let mut b = Bench::clean();
        change(&mut b);
        assert!(b.audit().is_err(), "{what}: the kernel's map is judged where that is asked for");
        let (verdict, _) = carved(&mut b, &[]);
        assert_eq!(verdict.map(|report| report.window_frames), Ok(274), "{what}");
    }
}

/// I1, I2, I4: of carved frames nothing is anybody's business.
#[test]
fn what_reaches_a_carved_frame_is_found_whoevers_map_it_is_in() {
    let kinds: [(&str, Change, Judge); 12] = [
        (
            "I2, in the kernel's map",
            |b| b.tables.section(0x8090_0000, 0x6040_0000, WriteBack, ReadWrite),
            |found| matches!(found, Finding::CarvedOutside { .. }),
        ),
        (
            "I2, of firmware's",
            |b| b.tables.small(DIRECT_PAGE, 0x6080_0000, WriteBack, ReadWrite),
            |found| matches!(found, Finding::CarvedOutside { .. }),
        ),
        (
            "I1, an alias of a free frame",
            |b| b.tables.small(WINDOW_PAGE, FREE, NonCacheable, ReadWrite),
            |found| matches!(found, Finding::Alias { .. }),
        ),
        (
            "I1, twice",
            |b| b.tables.small(WINDOW_PAGE, WRITTEN_BACK, WriteBack, ReadWrite),
            |found| matches!(found, Finding::Twice { .. }),
        ),
        (
            "I1, by its second name",
            |b| b.tables.small(DIRECT_PAGE, FREE - 0x6000_0000, WriteBack, ReadWrite),
            |found| matches!(found, Finding::SecondName { .. }),
        ),
        (
            "I1, firmware's by its second name",
            |b| b.tables.small(DIRECT_PAGE, 0x0080_0000, WriteBack, ReadWrite),
            |found| matches!(found, Finding::SecondName { .. }),
        ),
        (
            "I1, in a supersection",
            |b| (0..16).for_each(|n| b.tables.set_l1(0xf800_0000 + (n << 20), 0x6004_0412)),
            |found| matches!(found, Finding::CarvedOutside { .. }),
        ),
        (
            "I1, in a torn large page",
            |b| {
                b.tables.set_l2(
                    DIRECT_PAGE,
                    L2Desc::large(PhysAddr::new(0x6044_0000), WriteBack, ReadWrite, Shareable).raw(),
                );
            },
            |found| matches!(found, Finding::Torn { .. } | Finding::CarvedOutside { .. }),
        ),
        (
            "W^X of a buffer",
            |b| {
                let word = L2Desc::small(PhysAddr::new(0x6040_0000), NonCacheable, ReadWrite, Shareable).raw();
                b.tables.set_l2(0xc000_1000, word & !1);
            },
            |found| matches!(found, Finding::Executable { .. }),
        ),
        (
            "I1, a frame that nothing maps",
            |b| b.tables.set_l2(0xc000_1000, 0),
            |found| matches!(found, Finding::Unreached { .. }),
        ),
        (
            "I1, a table in a carve-out",
            |b| b.tables.set_l1(0x8090_0000, FREE | 1),
            |found| matches!(found, Finding::UnknownTable { .. }),
        ),
        (
            "I1, a table for users by its second name",
            |b| {
                let word = L2Desc::small(PhysAddr::new(L2 - 0x6000_0000), WriteBack, ReadWrite, Shareable).raw();
                b.tables.set_l2(0x0000_5000, word | 0b11 << 4);
            },
            |found| matches!(found, Finding::TableExposed { .. }),
        ),
    ];
    for (what, change, is_right) in kinds {
        let mut b = Bench::clean();
        change(&mut b);
        let (_, all) = carved(&mut b, &[]);
        assert!(!all.is_empty() && all.iter().all(is_right), "{what}: {all:?}");
    }
}

/// One root for all addresses, and a root for each process, which has a copy of the kernel's half.
#[test]
fn a_kernel_with_one_table_for_all_addresses_is_audited() {
    let mut b = Bench::clean();
    b.tables.registers.ttbcr = 0;
    // It names no table.
    b.tables.registers.ttbr1 = 0xffff_ffff;
    assert_eq!(b.audit(), Bench::clean().audit());
    assert_eq!(carved(&mut b, &[]), carved(&mut Bench::clean(), &[]));
    let words: Vec<_> = (0..L1_ENTRIES as u32).filter_map(|n| Some((n, *b.tables.words.get(&(L1 + 4 * n))?))).collect();
    b.tables.words.extend(words.into_iter().map(|(n, word)| (PROCESS.raw() + 4 * n, word)));
    assert_eq!(carved(&mut b, &[PROCESS]), carved(&mut Bench::clean(), &[]));
    // A process has a page of its own: the kernel's business, unless it is carved.
    let section = |at: u32| L1Desc::section(PhysAddr::new(at), WriteBack, ReadWrite, Shareable).raw() | USERS;
    b.tables.words.insert(PROCESS.raw() + 4, section(0x6090_0000));
    assert!(carved(&mut b, &[PROCESS]).0.is_ok());
    b.tables.words.insert(PROCESS.raw() + 4, section(0x6040_0000));
    let (_, all) = carved(&mut b, &[PROCESS]);
    let first = Finding::CarvedOutside { va: VirtAddr::new(0x0010_0000), frame: frame(0x6040_0000) };
    assert!(all.contains(&first) && carved(&mut b, &[]).0.is_ok(), "{all:?}");
}

proptest! {
    /// Whatever first-level words a kernel has beside the window: a finding comes if, and only if, one of them may
    /// reach a carved frame, or lets users reach a table.
    #[test]
    fn any_words_that_reach_no_carved_frame_are_clean(
        words in prop::collection::vec((0u32..0xc00, any::<u32>(), any::<bool>()), 1..6),
        n in 0u32..2,
    ) {
        let mut b = Bench::clean();
        b.tables.registers.ttbcr = n;
        let registers = b.tables.registers;
        let mut reaches = false;
        for (section, word, near) in words {
            // No table: where it stands is judged elsewhere. Half of them are in the first GiB or in RAM.
            let word = if word & 3 == 1 { word & !1 } else { word };
            let word = if near { word & 0x00ff_ffff | 0x6000_0000 } else { word };
            if b.tables.words.contains_key(&(L1 + 4 * section)) {
                continue;
            }
            b.tables.set_l1(section << 20, word);
            if let First::Leaf(leaf) = walk::first_level(word, &registers) {
                let (start, end) = (u64::from(leaf.base.raw()), u64::from(leaf.base.raw()) + u64::from(leaf.size));
                let meets = |from: u64, to: u64| [0, 0x6000_0000].iter().any(|&name| {
                    let (from, to) = (from - 0x6000_0000 + name, to - 0x6000_0000 + name);
                    start < to && from < end
                });
                reaches |= meets(0x6040_0000, 0x6080_0000);
                reaches |= meets(0x6080_0000, 0x6081_0000);
                reaches |= leaf.users.any() && meets(0x6000_4000, 0x6000_a000);
            }
        }
        let (verdict, all) = carved(&mut b, &[]);
        prop_assert_eq!(verdict.is_err(), reaches, "{:?}", all);
    }
}
