//! The builder: each refusal comes from its fault, with its line, before a table is written. And what a kernel of other
//! habits gives is taken: TTBCR.N = 0, several roots, tables anywhere.

use carveout::addr::{FRAME_SIZE, FrameRange, PhysAddr, VirtAddr};
use carveout::carve_out::CarveOut;
use carveout::dma::{Dma, Master};
use carveout::embed::{Builder, CoreError, EmbedError, Needs, Roots, Window, WindowError};
use carveout::fake::{Fake, Op};
use carveout::machine::{Cache, Lines, Mmu, Registers};
use carveout::vm::alias::{Alias, Aliases};
use carveout::vm::attr::{LeafSize, MemoryType};
use carveout::vm::audit::Expect;
use carveout::vm::ledger::LedgerError;
use carveout::vm::mapped::Part;
use carveout::vm::range::VirtRange;
use carveout::vm::registers::RegisterError;
use carveout::vm::walk::Ttbr;
use std::cell::Cell;
use std::ptr::NonNull;

const RAM: PhysAddr = PhysAddr::new(0x6000_0000);
const RAM_BYTES: u32 = 8 << 20;
const L1: PhysAddr = PhysAddr::new(0x6000_4000);
const L2: PhysAddr = PhysAddr::new(0x6001_0000);
const AREA: FrameRange = FrameRange::within(0x6020_0000, 2 << 20);
/// Three images of two sections and a guard's, and a section for lent frames.
const SECTIONS: u32 = 3 * 3 + 1;
const WINDOW: u32 = 0xc000_0000;

/// The fake, with registers of one's own.
#[derive(Debug)]
struct Machine {
    fake: Fake,
    /// Those of the core that asks.
    registers: Cell<Registers>,
}

// SAFETY: the fake's duties are its own; the tests say of which table the registers are.
unsafe impl Mmu for Machine {
    fn publish(&self, at: PhysAddr, words: &[u32]) {
        self.fake.publish(at, words);
    }

    fn invalidate_tlb(&self, va: VirtAddr, bytes: u32, leaf: LeafSize) {
        self.fake.invalidate_tlb(va, bytes, leaf);
    }

    fn invalidate_tlb_all(&self) {
        self.fake.invalidate_tlb_all();
    }

    fn reach(&self, va: VirtAddr, bytes: u32) -> *mut u8 {
        self.fake.reach(va, bytes)
    }

    fn reach_to_overwrite(&self, va: VirtAddr, bytes: u32) -> *mut u8 {
        self.fake.reach_to_overwrite(va, bytes)
    }

    fn registers(&self) -> Registers {
        self.registers.get()
    }

    fn table(&self, at: PhysAddr, bytes: u32) -> Option<NonNull<u32>> {
        self.fake.table(at, bytes)
    }

    fn table_word(&self, at: PhysAddr) -> Option<u32> {
        self.fake.table_word(at)
    }
}

// SAFETY: the fake's.
unsafe impl Cache for Machine {
    fn line(&self) -> u32 {
        self.fake.line()
    }

    fn clean(&self, part: Part<'_>) -> Lines {
        self.fake.clean(part)
    }

    fn invalidate(&self, part: Part<'_>) -> Lines {
        self.fake.invalidate(part)
    }

    fn discard(&self, part: Part<'_>) -> Lines {
        self.fake.discard(part)
    }

    fn device_barrier(&self) {
        self.fake.device_barrier();
    }

    fn dma_wmb(&self) {
        self.fake.dma_wmb();
    }

    fn dma_rmb(&self) {
        self.fake.dma_rmb();
    }
}

/// What a kernel gives. Each test changes one thing of it.
#[derive(Clone)]
struct Kernel {
    registers: Registers,
    areas: Vec<Vec<FrameRange>>,
    sections: u32,
    start: u32,
    roots: Roots<'static>,
    tables: PhysAddr,
    records: usize,
    aliases: Aliases,
    /// Words that stand in memory before.
    words: Vec<(u32, u32)>,
}

impl Kernel {
    fn new() -> Self {
        Self {
            registers: Registers::plain(L1),
            areas: vec![vec![AREA]],
            sections: SECTIONS,
            start: WINDOW,
            roots: Roots::One,
            tables: L2,
            records: 16,
            aliases: Aliases::default(),
            words: Vec::new(),
        }
    }

    fn build(self) -> Result<(&'static Machine, &'static Dma<Machine>), EmbedError> {
        let machine = Machine { fake: Fake::new(RAM, RAM_BYTES, L1, 1), registers: Cell::new(self.registers) };
        let machine: &'static Machine = Box::leak(Box::new(machine));
        for (at, word) in self.words {
            machine.fake.publish(PhysAddr::new(at), &[word]);
        }
        machine.fake.take_log();
        // SAFETY: the fake maps nothing but what the window maps.
        let carved = self.areas.iter().map(|ranges| unsafe { CarveOut::assume("area", ranges, true) });
        let range = VirtRange::new(self.start, self.sections);
        // SAFETY: nothing else uses these addresses and tables.
        let window = unsafe { Window::assume(range, self.roots, self.tables) };
        let builder = Builder::new(machine, carved.collect::<Vec<_>>(), window);
        let dma = builder.records(self.records).aliases(self.aliases).build();
        let dma = dma.inspect_err(|_| assert_eq!(machine.fake.take_log(), [], "a refusal writes nothing"))?;
        Ok((machine, Box::leak(Box::new(dma))))
    }
}

/// The refusal of a kernel that is right but for one thing.
fn refused(change: impl FnOnce(&mut Kernel)) -> (EmbedError, String) {
    let mut kernel = Kernel::new();
    change(&mut kernel);
    let error = kernel.build().map(drop).unwrap_err();
    (error, error.to_string())
}

/// A buffer is made, written, seen by a device and freed.
fn is_of_use(machine: &Machine, dma: &'static Dma<Machine>) {
    let device = Master::new("device", dma.area("area"));
    for bytes in [FRAME_SIZE, 1 << 20] {
        let mut buffer = dma.alloc(&device, bytes, bytes / FRAME_SIZE).unwrap().into_coherent();
        buffer.write_word(0, 0x600d_f00d_u32);
        machine.device_barrier();
        let at = PhysAddr::new(buffer.bus().raw());
        assert_eq!(machine.fake.device_read(at, 4), 0x600d_f00d_u32.to_le_bytes());
        // SAFETY: the device is the test, and it is done (I4).
        drop(unsafe { buffer.release() });
    }
    let others = match machine.registers().n() {
        0 => &ROOTS[..],
        _ => &[],
    };
    let report = dma.audit(&Expect { roots: others, ..Expect::CARVED }, |_| {}).unwrap();
    assert_eq!((report.carved_frames, report.window_frames), (AREA.count(), 0));
}

#[test]
fn what_is_right_is_taken() {
    let (machine, dma) = Kernel::new().build().unwrap();
    assert!(dma.is_guarded());
    assert_eq!((dma.window().sections(), dma.lanes().start()), (9, VirtAddr::new(WINDOW + (9 << 20))));
    is_of_use(machine, dma);
}

/// I1: TTBCR.N = 0 has one root for all addresses; the window may be below 2 GiB.
#[test]
fn a_kernel_with_one_table_for_all_addresses_is_taken() {
    for start in [0x1000_0000, WINDOW] {
        let mut kernel = Kernel { start, ..Kernel::new() };
        kernel.registers.ttbcr = 0;
        // Nothing of TTBR1 matters.
        kernel.registers.ttbr1 = 0;
        let (machine, dma) = kernel.build().unwrap();
        is_of_use(machine, dma);
    }
}

/// With N = 2, TTBR0's table has 1024 entries and stands on a multiple of 4 KiB.
#[test]
fn a_window_in_the_table_of_ttbr0_is_taken() {
    let mut kernel = Kernel { start: 0x1000_0000, ..Kernel::new() };
    kernel.registers.ttbcr = 2;
    // TTBR1's walks are off.
    kernel.registers.ttbcr |= 1 << 5;
    let (machine, dma) = kernel.build().unwrap();
    is_of_use(machine, dma);
}

#[test]
fn what_the_window_has_too_much_is_left_alone() {
    let (machine, dma) = Kernel { sections: SECTIONS + 3, ..Kernel::new() }.build().unwrap();
    let word = |section: u32| machine.table_word(PhysAddr::new(L1.raw() + 4 * (WINDOW / (1 << 20) + section)));
    assert_eq!((word(SECTIONS - 1), word(SECTIONS)), (Some((L2.raw() + (SECTIONS - 1) * 1024) | 1), Some(0)));
    is_of_use(machine, dma);
}

#[test]
fn registers_that_say_something_else_are_refused() {
    let register = |change: fn(&mut Registers)| refused(move |kernel| change(&mut kernel.registers)).0;
    let is = |error| EmbedError::Register(error);
    assert_eq!(register(|r| r.ttbcr |= 1 << 31), is(RegisterError::LongFormat));
    assert_eq!(register(|r| r.sctlr |= 1 << 25), is(RegisterError::BigEndian));
    assert_eq!(register(|r| r.sctlr &= !1), is(RegisterError::Off));
    assert_eq!(register(|r| r.sctlr &= !4), is(RegisterError::CacheOff { fetches: false }));
    assert_eq!(register(|r| r.sctlr &= !(1 << 12)), is(RegisterError::CacheOff { fetches: true }));
    assert_eq!(register(|r| r.ttbcr |= 1 << 5), is(RegisterError::WalksOff { ttbr: Ttbr::Ttbr1 }));
    for access in [0b00, 0b10, 0b11] {
        let (error, line) = refused(|kernel| kernel.registers.dacr = access);
        assert_eq!(error, is(RegisterError::Domain { access }));
        assert!(line.starts_with("DACR has 0b"), "{line}");
    }
    let walks = register(|r| r.ttbr1 &= !0x40);
    assert!(matches!(walks, EmbedError::Register(RegisterError::WalkAttributes { ttbr: Ttbr::Ttbr1, .. })), "{walks}");
    // On a single core they are not Shareable.
    let walks = register(|r| r.multiprocessing = false);
    assert!(matches!(walks, EmbedError::Register(RegisterError::WalkAttributes { .. })), "{walks}");
    // The registers of the other half do not matter, nor does the access flag.
    let mut kernel = Kernel::new();
    (kernel.registers.ttbr0, kernel.registers.sctlr) = (L1.raw(), kernel.registers.sctlr | 1 << 29);
    kernel.registers.ttbcr |= 1 << 4;
    assert!(kernel.build().is_ok());
}

/// Cortex-A9: SMP without FW would have maintenance stay on the core (I3). A core without SMP runs alone.
#[test]
fn i3_coherency_in_part_is_refused() {
    for actlr in [0x40, 0x01] {
        let (error, line) = refused(|kernel| kernel.registers.actlr = actlr);
        assert_eq!(error, EmbedError::Register(RegisterError::Coherency { actlr, needed: 0x41 }));
        assert_eq!(
            line,
            format!("I3: ACTLR is {actlr:#010x}: this core is coherent with others in part only; set all bits of 0x41")
        );
    }
    for actlr in [0, 0x8, 0x41, 0x49] {
        let mut kernel = Kernel::new();
        kernel.registers.actlr = actlr;
        assert!(kernel.build().is_ok(), "{actlr:#x}");
    }
}

/// I1: TEX remap is taken if by it this crate's descriptors mean what it means, and refused otherwise.
#[test]
fn i1_tex_remap_is_understood_or_refused() {
    // Linux's values (arch/arm/mm/proc-v7-2level.S).
    let (error, line) = refused(|kernel| {
        let registers = &mut kernel.registers;
        (registers.sctlr, registers.prrr, registers.nmrr) = (registers.sctlr | 1 << 28, 0xff0a_81a8, 0x40e0_40e0);
    });
    let EmbedError::Register(RegisterError::Remap { memory, .. }) = error else { panic!("{error}") };
    assert_eq!(memory, MemoryType::NonCacheable);
    assert_eq!(
        line,
        "I1: SCTLR.TRE is 1, and by PRRR and NMRR what this crate maps non-cacheable is device; clear TRE, or make region \
         4 non-cacheable"
    );
    // Region 4 is Normal non-cacheable, region 7 Normal write-back, S means Shareable for Normal memory.
    let mut kernel = Kernel::new();
    let registers = &mut kernel.registers;
    registers.sctlr |= 1 << 28;
    (registers.prrr, registers.nmrr) = (0b10 << 8 | 0b10 << 14 | 1 << 19, 0b11 << 14 | 0b11 << 30);
    let (machine, dma) = kernel.build().unwrap();
    is_of_use(machine, dma);
}

#[test]
fn frames_that_no_ledger_can_have_are_refused() {
    let low = FrameRange::within(0x6010_0000, 1 << 20);
    let over = FrameRange::within(0x601f_f000, 8192);
    let (error, line) = refused(|kernel| kernel.areas.push(vec![low, over]));
    assert_eq!(error, EmbedError::CarveOut(LedgerError::Overlap { frames: over, other: AREA }));
    assert_eq!(
        line,
        "carved 0x601ff000-0x60201000 (8 KiB) overlaps carved 0x60200000-0x60400000 (2 MiB); give each frame to one \
         carve-out"
    );
    let (error, line) = refused(|kernel| kernel.areas.push(vec![low, FrameRange::EMPTY]));
    assert_eq!(error, EmbedError::CarveOut(LedgerError::Empty { place: 2 }));
    assert_eq!(line, "carved run 2 has no frame; leave it out");
    let mut aliases = Aliases::default();
    let alias = Alias {
        frames: FrameRange::within(0, RAM_BYTES.into()),
        of: FrameRange::within(RAM.raw().into(), RAM_BYTES.into()),
    };
    aliases.add(alias).unwrap();
    let (error, line) = refused(|kernel| {
        kernel.aliases = aliases.clone();
        kernel.areas.push(vec![FrameRange::within(0x0010_0000, 4096)]);
    });
    let EmbedError::CarveOut(LedgerError::SecondName { .. }) = error else { panic!("{error}") };
    assert_eq!(
        line,
        "mapping 0x00100000-0x00101000 (4 KiB) refused: 0x00100000-0x00101000 (4 KiB) is 0x60100000-0x60101000 (4 KiB) by another name (I1)"
    );
    let many = || (0..33).map(|n| vec![FrameRange::within(0x6040_0000 + n * 4096, 4096)]);
    let (error, line) = refused(|kernel| kernel.areas = many().collect());
    assert_eq!(error, EmbedError::TooManyAreas { given: 33 });
    assert_eq!(line, "33 carve-outs; 32 are possible: give one several ranges");
}

#[test]
fn records_are_between_one_and_the_most() {
    for given in [0, Builder::MOST_RECORDS + 1, usize::MAX] {
        let (error, line) = refused(|kernel| kernel.records = given);
        assert_eq!(error, EmbedError::Records { given });
        assert_eq!(line, format!("records for {given} buffers; between 1 and 65535 are possible"));
    }
    let (machine, dma) = Kernel { records: 1, ..Kernel::new() }.build().unwrap();
    is_of_use(machine, dma);
    let device = Master::new("device", dma.area("area"));
    // Further ones come from the heap, until there is no frame left.
    let all: Vec<_> = core::iter::from_fn(|| dma.alloc(&device, 4096, 1).ok()).collect();
    assert_eq!((all.len() as u32, dma.free_bytes(dma.area("area").unwrap()).0), (AREA.count(), 0));
}

#[test]
fn a_window_whose_tables_cannot_be_used_is_refused() {
    let window = |change: &dyn Fn(&mut Kernel)| match refused(change) {
        (EmbedError::Window(error), line) => (error, line),
        (error, _) => panic!("{error}"),
    };
    let (error, line) = window(&|kernel| kernel.start = 0x7fb0_0000);
    assert_eq!(error, WindowError::Straddles { range: VirtRange::new(0x7fb0_0000, SECTIONS), n: 1 });
    assert_eq!(
        line,
        "a window of 10 sections at 0x7fb00000 has a part in either half of the addresses with TTBCR.N = 1; move it"
    );
    let (error, line) = window(&|kernel| kernel.tables = PhysAddr::new(0x6001_0200));
    assert_eq!(error, WindowError::Misaligned { at: PhysAddr::new(0x6001_0200), to: 1024 });
    assert_eq!(line, "the table at 0x60010200 is not a multiple of 1024 bytes; align it");
    for tables in [0x5000_0000, 0x607f_f000, 0xffff_fc00] {
        let (error, line) = window(&|kernel| kernel.tables = PhysAddr::new(tables));
        assert_eq!(error, WindowError::OutOfReach { at: PhysAddr::new(tables), bytes: 10 << 10 });
        assert_eq!(
            line,
            format!("the table at {tables:#010x}, of 10240 bytes: the machine has no address for it; map it for good")
        );
    }
    let (error, line) = window(&|kernel| kernel.tables = PhysAddr::new(0x6000_7c00));
    assert_eq!(error, WindowError::Overlap { tables: PhysAddr::new(0x6000_7c00), root: L1 });
    assert_eq!(line, "the second-level tables at 0x60007c00 lie over the first-level table at 0x60004000; move them");
    // A section of the kernel's in the window's last entry.
    let entry = L1.raw() + 4 * (WINDOW / (1 << 20) + SECTIONS - 1);
    let word = 0x6000_041e | 1 << 12;
    let (error, line) = window(&|kernel| kernel.words = vec![(entry, word)]);
    let va = VirtAddr::new(WINDOW + ((SECTIONS - 1) << 20));
    assert_eq!(error, WindowError::Used { va, root: L1, word });
    assert_eq!(
        line,
        "the entry of 0xc0900000 in the table at 0x60004000 is 0x6000141e, and must be 0; choose other addresses"
    );
}

const ROOTS: [PhysAddr; 3] = [PhysAddr::new(0x6000_8000), L1, PhysAddr::new(0x6002_0000)];

#[test]
fn every_root_is_looked_at() {
    const OTHERS: [PhysAddr; 1] = [PhysAddr::new(0x6000_8000)];
    const CROOKED: [PhysAddr; 2] = [L1, PhysAddr::new(0x6000_9000)];
    const ABSENT: [PhysAddr; 2] = [L1, PhysAddr::new(0x7000_0000)];
    let several = |change: &dyn Fn(&mut Kernel)| {
        refused(|kernel| {
            (kernel.roots, kernel.registers.ttbcr) = (Roots::Each(&ROOTS), 0);
            change(kernel);
        })
    };
    for root in ROOTS {
        let entry = root.raw() + 4 * (WINDOW / (1 << 20));
        // The fake walks its own root alone, and knows no word of others.
        let (error, _) = several(&|kernel| kernel.words = vec![(entry, 0x6001_0001)]);
        let va = VirtAddr::new(WINDOW);
        assert_eq!(error, EmbedError::Window(WindowError::Used { va, root, word: 0x6001_0001 }));
    }
    let (error, line) = several(&|kernel| kernel.roots = Roots::Each(&OTHERS));
    assert_eq!(error, EmbedError::Window(WindowError::NotInForce { ttbr: Ttbr::Ttbr0, root: L1 }));
    assert_eq!(line, "TTBR0 has the table at 0x60004000, which is not given; give it");
    let (error, _) = several(&|kernel| kernel.roots = Roots::Each(&CROOKED));
    assert_eq!(error, EmbedError::Window(WindowError::Misaligned { at: CROOKED[1], to: 16 << 10 }));
    let (error, _) = several(&|kernel| kernel.roots = Roots::Each(&ABSENT));
    assert_eq!(error, EmbedError::Window(WindowError::OutOfReach { at: ABSENT[1], bytes: 16 << 10 }));
}

#[test]
fn i2_no_table_is_in_a_carve_out() {
    let (error, line) = refused(|kernel| kernel.tables = PhysAddr::new(0x601f_f000));
    assert_eq!(error, EmbedError::TableCarved { at: PhysAddr::new(0x601f_f000), frames: AREA });
    assert_eq!(
        line,
        "I2: the table at 0x601ff000 lies in carved 0x60200000-0x60400000 (2 MiB); put it in RAM that is not carved out"
    );
    let low = FrameRange::within(0x6000_7000, 4096);
    let (error, _) = refused(|kernel| kernel.areas = vec![vec![low]]);
    assert_eq!(error, EmbedError::TableCarved { at: L1, frames: low });
}

/// The first-level words that the builder writes are equal in all roots, and none changes afterwards.
#[test]
fn several_roots_have_the_same_words_for_good() {
    let mut kernel = Kernel { roots: Roots::Each(&ROOTS), ..Kernel::new() };
    kernel.registers.ttbcr = 0;
    let (machine, dma) = kernel.build().unwrap();
    let words = |root: PhysAddr| {
        let at = |n: u32| PhysAddr::new(root.raw() + 4 * n);
        (0..4096).map(|n| machine.table_word(at(n)).unwrap()).collect::<Vec<_>>()
    };
    let before = ROOTS.map(words);
    assert!(before[0] == before[1] && before[1] == before[2]);
    assert_eq!(before[0].iter().filter(|&&word| word != 0).count(), SECTIONS as usize);
    let published = machine.fake.take_log().len();
    is_of_use(machine, dma);
    assert!(published > 0 && machine.fake.take_log().contains(&Op::Publish));
    assert!(before == ROOTS.map(words), "a first-level word changed");
}

#[test]
fn what_is_needed_is_told_without_a_heap() {
    // SAFETY: nothing maps it.
    let carved = [unsafe { CarveOut::assume("area", &[AREA], true) }];
    let needs = Needs::of(&carved, 16);
    assert_eq!((needs.sections, needs.least_sections, needs.table_bytes()), (SECTIONS, 4, 10 << 10));
    let empty = Needs::of(&[], 1);
    assert_eq!((empty.sections, empty.least_sections), (1, 1));
    // SAFETY: nothing maps it. What cannot be carved needs no panic.
    let nothing = [unsafe { CarveOut::assume("nothing", &[FrameRange::EMPTY], true) }];
    assert!(Needs::of(&nothing, usize::MAX).heap_bytes == usize::MAX);
}

/// I1: a further core translates and caches as the first one does, or must not use the buffers.
#[test]
fn i1_a_core_that_translates_otherwise_is_refused() {
    let core = |kernel: Kernel, change: fn(&mut Registers)| {
        let (machine, dma) = kernel.build().unwrap();
        let mut registers = machine.registers();
        change(&mut registers);
        machine.registers.set(registers);
        machine.fake.take_log();
        let verdict = dma.check_core();
        assert_eq!(machine.fake.take_log(), [], "it changes nothing");
        verdict
    };
    let plain = |change| core(Kernel::new(), change);
    assert_eq!(plain(|_| {}), Ok(()));
    // The window is TTBR1's: each core may run another process.
    assert_eq!(plain(|r| r.ttbr0 = 0x6002_006a), Ok(()));
    assert_eq!(plain(|r| r.sctlr &= !4), Err(CoreError::Register(RegisterError::CacheOff { fetches: false })));
    assert_eq!(
        plain(|r| r.actlr = 0x40),
        Err(CoreError::Register(RegisterError::Coherency { actlr: 0x40, needed: 0x41 }))
    );
    let ttbr1 = plain(|r| r.ttbr1 = 0x6002_006a).unwrap_err();
    assert_eq!(ttbr1, CoreError::Differs { register: "TTBR1", has: 0x6002_006a, first: 0x6000_406a });
    assert_eq!(
        ttbr1.to_string(),
        "I1: this core has TTBR1 0x6002006a, and the first one 0x6000406a: tables may mean one thing there and another \
         here; make them the same"
    );
    // It is coherent with nobody.
    assert_eq!(plain(|r| r.actlr = 0), Err(CoreError::Differs { register: "ACTLR", has: 0, first: 0x41 }));
    // With one root for all addresses it is every core's; with several, each may have its own.
    let whole = |roots| {
        let mut kernel = Kernel { roots, ..Kernel::new() };
        kernel.registers.ttbcr = 0;
        core(kernel, |r| r.ttbr0 = 0x6002_006a)
    };
    assert_eq!(whole(Roots::Each(&ROOTS)), Ok(()));
    let only = CoreError::Differs { register: "TTBR0", has: 0x6002_006a, first: 0x6000_406a };
    assert_eq!(whole(Roots::One), Err(only));
}
