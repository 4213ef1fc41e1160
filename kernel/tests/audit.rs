//! The audit on tables planted word by word: each finding comes from its fault, and from nothing else.

use carveout::addr::{Frame, FrameRange, PhysAddr, VirtAddr};
use carveout::arch::{Mmu, Root};
use carveout::vm::alias::{Alias, Aliases};
use carveout::vm::attr::{Access, MemoryType, Shareability};
use carveout::vm::audit::{Expect, Finding, Report, audit};
use carveout::vm::desc::{L1_ENTRIES, L1Desc, L2_ENTRIES, L2_TABLE_SIZE, L2Desc};
use carveout::vm::layout::VirtRange;
use carveout::vm::ledger::{Carved, Cell, Ledger};
use std::collections::HashMap;

use Access::{Read, ReadExecute, ReadWrite};
use MemoryType::{Device, NonCacheable, StronglyOrdered, WriteBack};
use Shareability::{NonShareable, Shareable};

const L1: u32 = 0x6000_4000;
const L2: u32 = 0x6000_8000;
const TABLES: u32 = 8;

/// Tables and nothing else: no TLB, no cache, no rule. The words alone are judged.
struct Tables {
    words: HashMap<u32, u32>,
    /// Second-level tables in use.
    used: u32,
    root: Root,
}

// SAFETY: there is no memory behind these tables: `reach` gives nothing, and nobody translates by them.
unsafe impl Mmu for Tables {
    fn publish(&self, _: PhysAddr, _: &[u32]) {
        unreachable!("the audit writes nothing")
    }

    fn invalidate_tlb(&self, _: VirtAddr, _: u32) {
        unreachable!("the audit changes nothing")
    }

    fn reach(&self, _: VirtAddr) -> *mut u8 {
        unreachable!("the audit reads no memory but tables")
    }

    fn reach_to_overwrite(&self, _: VirtAddr, _: u32) -> *mut u8 {
        unreachable!("the audit writes no memory")
    }

    fn root(&self) -> Root {
        self.root
    }

    fn table_word(&self, at: PhysAddr) -> Option<u32> {
        let known = L1..L2 + TABLES * L2_TABLE_SIZE;
        known.contains(&at.raw()).then(|| self.words.get(&at.raw()).copied().unwrap_or(0))
    }
}

impl Tables {
    fn new() -> Self {
        let l1 = PhysAddr::new(L1);
        Self { words: HashMap::new(), used: 0, root: Root { ttbr0: l1, ttbr1: l1, n: 1 } }
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
const WINDOWS: [VirtRange; 2] = [VirtRange::new(0xc000_0000, 512), VirtRange::new(0xe000_0000, 1)];
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

    fn audit(&mut self) -> Result<Report, Finding> {
        let expect = Expect { ram: &[RAM], firmware: &[FIRMWARE], text: TEXT, share: Shareable };
        audit(&self.tables, &expect, &WINDOWS, &mut self.ledger)
    }
}

fn frame(at: u32) -> Frame {
    Frame::containing(PhysAddr::new(at))
}

/// One fault in an otherwise clean kernel: this finding, this line.
#[track_caller]
fn found(plant: impl FnOnce(&mut Bench), finding: Finding, line: &str) {
    let mut b = Bench::clean();
    b.audit().expect("clean before the fault");
    plant(&mut b);
    assert_eq!(b.audit(), Err(finding));
    assert_eq!(finding.to_string(), line);
    assert_eq!(b.audit(), Err(finding), "an audit leaves nothing behind that changes the next");
}

#[test]
fn a_clean_kernel_is_reported_in_exact_numbers() {
    let report = Bench::clean().audit().unwrap();
    let expected = Report {
        sections: 5,
        large_pages: 3,
        small_pages: 4,
        direct_frames: 16 + 3 * 256 + 16 + 1,
        window_frames: 16 + 1 + 256 + 1,
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
    assert_eq!(b.audit(), Ok(Report::default()));
}

#[test]
fn split() {
    found(|b| b.tables.root.n = 0, Finding::Split { n: 0 }, "TTBCR.N is 0, not 1");
    found(|b| b.tables.root.n = 2, Finding::Split { n: 2 }, "TTBCR.N is 2, not 1");
}

#[test]
fn a_table_in_unknown_memory() {
    let at = PhysAddr::new(0x7000_0000);
    let line = "a table at 0x70000000, where no known memory is";
    found(|b| b.tables.root.ttbr0 = at, Finding::UnknownTable { at }, line);
    // The upper half goes by TTBR1: its entries start in the middle of the table.
    let upper = PhysAddr::new(0x7000_2000);
    let line = "a table at 0x70002000, where no known memory is";
    found(|b| b.tables.root.ttbr1 = at, Finding::UnknownTable { at: upper }, line);
    let line = "a table at 0x70000400, where no known memory is";
    let second = PhysAddr::new(0x7000_0400);
    let plant = |b: &mut Bench| b.tables.set_l1(0x9000_0000, L1Desc::table(second).raw());
    found(plant, Finding::UnknownTable { at: second }, line);
}

#[test]
fn the_lower_half_is_walked_too() {
    // Any finding will do: it is the table that matters.
    let at = VirtAddr::new(0x0040_0000);
    found(
        |b| b.tables.section(at.raw(), AREA.base().raw(), WriteBack, ReadWrite),
        Finding::CarvedOutside { va: at, frame: frame(AREA.base().raw()) },
        "I2: carved frame 0x60400000 is mapped at 0x00400000, outside the windows",
    );
}

#[test]
fn foreign_descriptors() {
    // A supersection; a section, writable and executable; a table of another domain.
    for word in [0x6004_141e, 0x6001_140e, L2 | 0x21] {
        let finding = Finding::Foreign { va: VirtAddr::new(0x9000_0000), word };
        let line = format!("0x90000000: descriptor {word:#010x} is none of ours");
        found(|b| b.tables.set_l1(0x9000_0000, word), finding, &line);
    }
    // A small page, writable and executable; one for users.
    for word in [0x6000_145e, 0x6000_147f] {
        let finding = Finding::Foreign { va: VirtAddr::new(DIRECT_PAGE), word };
        let line = format!("0x80005000: descriptor {word:#010x} is none of ours");
        found(|b| b.tables.set_l2(DIRECT_PAGE, word), finding, &line);
    }
}

#[test]
fn what_executes_and_is_not_text() {
    let executes = |va, at| Finding::Executable { va: VirtAddr::new(va), frame: frame(at) };
    found(
        |b| b.tables.small(DIRECT_PAGE, PLAIN, WriteBack, ReadExecute),
        executes(DIRECT_PAGE, PLAIN),
        "W^X: 0x80005000 executes frame 0x60001000, which is not the kernel's text",
    );
    found(
        |b| b.tables.small(0xff03_0000, 0x6003_0000, WriteBack, ReadExecute),
        executes(0xff03_0000, 0x6003_0000),
        "W^X: 0xff030000 executes frame 0x60030000, which is not the kernel's text",
    );
    // A carved frame, mapped as the ledger says but for this; and a register.
    found(
        |b| b.tables.small(0xc000_1000, 0x6040_0000, NonCacheable, ReadExecute),
        executes(0xc000_1000, 0x6040_0000),
        "W^X: 0xc0001000 executes frame 0x60400000, which is not the kernel's text",
    );
    found(
        |b| b.tables.small(DEVICE_PAGE, REGISTER, Device, ReadExecute),
        executes(DEVICE_PAGE, REGISTER),
        "W^X: 0xf0005000 executes frame 0x10009000, which is not the kernel's text",
    );
}

#[test]
fn text_that_can_be_written() {
    found(
        |b| b.tables.small(DIRECT_PAGE, TEXT_FRAME, WriteBack, ReadWrite),
        Finding::WritableText { va: VirtAddr::new(DIRECT_PAGE), frame: frame(TEXT_FRAME) },
        "W^X: 0x80005000 can write the kernel's text at 0x60013000",
    );
    // In the middle of a section: the page is named.
    found(
        |b| b.tables.section(0x9000_0000, 0x6000_0000, WriteBack, ReadWrite),
        Finding::WritableText { va: VirtAddr::new(0x9001_0000), frame: frame(0x6001_0000) },
        "W^X: 0x90010000 can write the kernel's text at 0x60010000",
    );
    let mut b = Bench::clean();
    b.tables.small(DIRECT_PAGE, TEXT_FRAME, WriteBack, Read);
    b.audit().expect("a second mapping that only reads is no fault");
}

#[test]
fn i2_carved_frames_outside_the_windows() {
    for at in [AREA.base().raw(), FREE, AREA.last_byte().unwrap().raw() & !0xfff, FIRMWARE.base().raw(), 0x6080_f000] {
        for (va, memory) in [(DIRECT_PAGE, WriteBack), (0xff03_0000, WriteBack), (DEVICE_PAGE, NonCacheable)] {
            let line = format!("I2: carved frame {at:#010x} is mapped at {va:#010x}, outside the windows");
            let finding = Finding::CarvedOutside { va: VirtAddr::new(va), frame: frame(at) };
            found(|b| b.tables.small(va, at, memory, Read), finding, &line);
        }
    }
    // Firmware's frames have no place in a window either.
    let finding = Finding::CarvedOutside { va: VirtAddr::new(WINDOW_PAGE), frame: frame(0x6080_0000) };
    let mut b = Bench::clean();
    b.tables.small(WINDOW_PAGE, 0x6080_0000, WriteBack, ReadWrite);
    assert_eq!(b.audit(), Err(finding));
}

#[test]
fn i1_a_mapping_that_is_not_the_ledgers() {
    let alias = |at, has, ledger| Finding::Alias { va: VirtAddr::new(WINDOW_PAGE), frame: frame(at), has, ledger };
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
    assert!(matches!(b.audit(), Err(Finding::Alias { .. })));
}

#[test]
fn i1_more_translations_than_frames_or_fewer() {
    found(
        |b| b.tables.small(WINDOW_PAGE, WRITTEN_BACK, WriteBack, ReadWrite),
        Finding::Count { ledger: 274, found: 275 },
        "I1: the ledger has 274 frames mapped once each, the tables hold 275 translations of them",
    );
    found(
        |b| b.tables.set_l2(0xc000_1000, 0),
        Finding::Count { ledger: 274, found: 273 },
        "I1: the ledger has 274 frames mapped once each, the tables hold 273 translations of them",
    );
    // One frame twice and another not at all: the counts agree.
    found(
        |b| {
            b.tables.set_l2(0xe000_0000, 0);
            b.tables.small(WINDOW_PAGE, WRITTEN_BACK, WriteBack, ReadWrite);
        },
        Finding::Unreached { frame: frame(0x6060_0000) },
        "I1: the ledger has frame 0x60600000 mapped, and no translation reaches it",
    );
}

#[test]
fn i1_ram_and_registers_of_the_wrong_type() {
    for (memory, name) in [(NonCacheable, "non-cacheable"), (Device, "device"), (StronglyOrdered, "strongly-ordered")] {
        let finding = Finding::WrongType { va: VirtAddr::new(DIRECT_PAGE), frame: frame(PLAIN), has: memory };
        let line = format!("I1: 0x80005000 maps frame 0x60001000 {name}");
        found(|b| b.tables.small(DIRECT_PAGE, PLAIN, memory, ReadWrite), finding, &line);
    }
    for (memory, name) in [(NonCacheable, "non-cacheable"), (WriteBack, "write-back")] {
        let finding = Finding::WrongType { va: VirtAddr::new(DEVICE_PAGE), frame: frame(REGISTER), has: memory };
        let line = format!("I1: 0xf0005000 maps frame 0x10009000 {name}");
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
                let finding =
                    Finding::SecondName { va: VirtAddr::new(va), frame: frame(second), of: frame(of), has: memory };
                let line = format!(
                    "I1: {va:#010x} maps frame {second:#010x} {type_name}, which is frame {of:#010x} by another name"
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
        let finding = Finding::WrongShareability { va: VirtAddr::new(va), frame: frame(at) };
        let line = format!("I1: {va:#010x} maps frame {at:#010x} with the wrong S bit");
        found(|b| b.tables.set_l2(va, word), finding, &line);
    }
    // One core: what was right is wrong, and the other way round.
    let (mut b, single) = (Bench::clean(), NonShareable);
    let expect = Expect { ram: &[RAM], firmware: &[FIRMWARE], text: TEXT, share: single };
    let first = Finding::WrongShareability { va: VirtAddr::new(0x8003_0000), frame: frame(0x6003_0000) };
    assert_eq!(audit(&b.tables, &expect, &WINDOWS, &mut b.ledger), Err(first));
}
