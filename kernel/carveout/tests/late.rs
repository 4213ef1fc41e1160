//! Late carve-out and the way back, on the fake: an area is the kernel's RAM for a time (I1, I2, I3, I5).

use carveout::addr::{FRAME_SIZE, Frame, FrameRange, PhysAddr, VirtAddr};
use carveout::carve_out::CarveOut;
use carveout::dma::{
    AllocError, AreaId, Coherent, Contract, ContractError, ContractSet, Discardable, FromDevice, GiveBackError, Holder,
    LOAN_PAGE, LendError, Loan, LoanPriority, Movable, Stream, TakeError, ToDevice, WiderMapping,
};
use carveout::fake::Fake;
use carveout::machine::Mmu;
use carveout::setup::{CARVED, DIRECT, L1, RAM, Setup};
use carveout::vm::attr::{Access, MemoryType, Shareability};
use carveout::vm::audit::Finding;
use carveout::vm::desc::{L1Desc, L2Desc};
use proptest::prelude::*;
use std::convert::Infallible;

/// A small area: the fake looks at every byte.
const PAGES: u32 = 24;
const LEN: u32 = PAGES * FRAME_SIZE;

/// A machine whose area is the kernel's at first, or ours.
struct Bench {
    s: Setup,
    area: AreaId,
    frames: FrameRange,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let s = Setup::with_area(seed, LEN);
        let area = s.dma.area("test").unwrap();
        Self { s, area, frames: FrameRange::within(CARVED.raw().into(), LEN.into()) }
    }

    /// Gives the area back; the kernel maps it and finds zeros (I5).
    fn kernel_gets(&self) -> &'static mut [u8] {
        self.s.dma.give_back_area(self.area).unwrap();
        assert_eq!(self.s.fake.device_read(CARVED, LEN as usize), vec![0; LEN as usize], "a device of the kernel's");
        let bytes = self.kernel_maps();
        assert!(bytes.iter().all(|&byte| byte == 0), "I5: the kernel reads zeros");
        bytes
    }

    fn kernel_maps(&self) -> &'static mut [u8] {
        let at = self.s.fake.reach(self.s.kernel_maps(self.frames), self.frames.bytes() as u32);
        // SAFETY: the kernel just mapped it, and has it alone until it unmaps it.
        unsafe { core::slice::from_raw_parts_mut(at, LEN as usize) }
    }

    /// Takes the area from a kernel that ends its mapping.
    fn take(&self) {
        // SAFETY: the kernel's only mapping ends, and it uses the frames no more (I2).
        unsafe { self.s.dma.take_area(self.area, &[], |frames| self.s.kernel_unmaps(frames)) }.unwrap();
    }

    /// Tries to take the area from a kernel that ends no mapping.
    fn take_mapped(&self, roots: &[PhysAddr]) -> Result<(), TakeError<Infallible>> {
        // SAFETY: it is refused if a mapping is left, and the kernel uses the frames no more otherwise (I2).
        unsafe { self.s.dma.take_area(self.area, roots, |_| Ok(())) }
    }

    fn free(&self) -> u64 {
        self.s.dma.free_bytes(self.area).0
    }

    fn coherent(&self) -> Coherent<Fake> {
        self.s.dma.alloc(&self.s.master("camera"), LEN, 1).unwrap().into_coherent()
    }
}

/// I3: whatever lines the kernel left, on every seed, devices and the CPU see each other's bytes; and the kernel sees
/// zeros each time that it gets the area back (I5).
#[test]
fn i3_i5_devices_and_kernel_find_nothing_of_each_other() {
    for seed in 1..12 {
        let b = Bench::new(seed);
        for turn in 1..4u8 {
            b.kernel_gets().fill(turn);
            b.s.fake.disturb();
            b.take();
            assert_eq!(b.s.audit().unwrap().window_frames, 0);
            let mut coherent = b.coherent();
            assert_eq!(b.s.fake.device_read(CARVED, LEN as usize), vec![0; LEN as usize], "I5");
            b.s.fake.device_write(CARVED, &[turn + 10; 100]);
            assert_eq!(coherent.read_word::<u8>(99), turn + 10);
            coherent.write_at(0, &[turn + 20; 50]);
            coherent.device_barrier();
            assert_eq!(b.s.fake.device_read(CARVED, 100), [[turn + 20; 50], [turn + 10; 50]].concat());
            // SAFETY: the fake's device is done.
            let stream = unsafe { coherent.release() }.into_stream::<FromDevice>();
            let stream = stream.for_device();
            b.s.fake.device_write(CARVED, &vec![turn + 30; LEN as usize]);
            // SAFETY: the fake's device is done.
            assert_eq!(unsafe { stream.for_cpu() }.bytes(), vec![turn + 30; LEN as usize]);
        }
    }
}

/// I5: idle time zeroes frames and the kernel finds them so, without another pass; nothing is cached of them.
#[test]
fn what_idle_time_zeroed_is_given_back_as_it_is() {
    let b = Bench::new(1);
    b.s.dma.set_reserve(b.area, LEN.into());
    assert_eq!(b.s.dma.idle_work(b.area, PAGES), PAGES);
    let before = b.s.dma.stats();
    b.kernel_gets();
    let after = b.s.dma.stats();
    assert_eq!((after.zeroed, after.invalidated), (before.zeroed, before.invalidated));
    // The reserve that was set has nothing to do while the area is the kernel's, and prepares it afterwards.
    assert_eq!(b.s.dma.idle_work(b.area, PAGES), 0);
    b.take();
    assert_eq!(b.s.dma.idle_work(b.area, PAGES), PAGES);
}

/// I2: while the area is the kernel's, nobody gets a frame of it, and each refusal says why.
#[test]
fn i2_what_is_the_kernels_is_given_to_nobody() {
    let b = Bench::new(2);
    let camera = b.s.master("camera");
    b.kernel_gets().fill(0x5a);
    let set = [ContractSet { count: 1, bytes: 4096, align: 1 }];
    let cache = b.s.dma.borrower::<Discardable>(b.area, "cache", 8, LoanPriority::Low).unwrap();
    assert_eq!(b.s.dma.alloc(&camera, 1, 1).unwrap_err(), AllocError::NotTaken);
    assert_eq!(
        AllocError::NotTaken.to_string(),
        "the device's area is the kernel's now; it can be had once it is taken"
    );
    assert!(matches!(
        b.s.dma.contract(&camera, &set),
        Err(ContractError::Set { error: AllocError::NotTaken, placed: 0, .. })
    ));
    assert!(matches!(cache.borrow(1), Ok(loan) if loan.len() == 1), "of the refuge, which is not the area's");
    assert_eq!(b.s.dma.lent(b.area).unlent, 0);
    assert_eq!((b.free(), b.s.dma.free_bytes(b.area).1), (0, 0));
    assert_eq!(b.s.dma.idle_work(b.area, 100), 0);
    assert_eq!(b.s.dma.place_of_frame(Frame::containing(CARVED)), None, "ordinary RAM");
    assert_eq!(b.s.dma.give_back_area(b.area), Err(GiveBackError::NotOurs));
    // The audit takes it for ordinary RAM, mapped write-back outside the windows.
    let report = b.s.audit().unwrap();
    assert_eq!((report.direct_frames, report.carved_frames), (PAGES, 0));
    b.take();
    assert_eq!(b.take_mapped(&[]), Err(TakeError::NotKernels));
    assert_eq!(b.free(), LEN.into());
    assert_eq!(b.s.audit().unwrap().carved_frames, PAGES);
    // A kernel that maps it again: a finding (I2).
    b.s.kernel_maps(b.frames);
    let findings = b.s.audit().unwrap_err();
    let frame = Frame::containing(CARVED);
    let va = VirtAddr::new(DIRECT.raw() + (CARVED.raw() - RAM.raw()));
    assert_eq!((findings.first, findings.total()), (Finding::CarvedOutside { va, frame }, PAGES));
}

/// I2: each kind of leaf that still maps one frame is found, before anything of the area is touched.
#[test]
fn i2_a_mapping_that_is_left_is_refused_with_its_address() {
    const TABLE: PhysAddr = PhysAddr::new(0x6010_0000);
    const ROOT: PhysAddr = PhysAddr::new(0x6011_0000);
    let (memory, access, share) = (MemoryType::WriteBack, Access::ReadWrite, Shareability::Shareable);
    let last = Frame::from_number((CARVED.raw() + LEN) / FRAME_SIZE - 1).unwrap();
    let first = Frame::containing(CARVED);
    let section = L1Desc::section(CARVED, memory, access, share).raw();
    let supersection = L1Desc::section(RAM, memory, access, share).raw() | 1 << 18;
    let page = L2Desc::small(last.base(), memory, access, share).raw();
    let large = L2Desc::large(PhysAddr::new(CARVED.raw() + 0x1_0000), memory, access, share).raw();
    let middle = Frame::from_number(first.number() + 16).unwrap();
    let pointer = L1Desc::table(TABLE).raw();
    for (n, word, second, va, frame) in [
        // A section, whose first frame is the area's first.
        (0x700, section, None, 0x7000_0000, first),
        (0xfff, pointer, Some((255, page)), 0xffff_f000, last),
        // One of the 16 words counts for all of them.
        (0x123, pointer, Some((0x2f, large)), 0x1232_0000, middle),
        (0x12f, supersection, None, 0x1220_0000, first),
    ] {
        let b = Bench::new(3);
        let bytes = b.kernel_gets();
        bytes.fill(0x77);
        let put = |at: PhysAddr, n: u32, word: u32| b.s.fake.publish(PhysAddr::new(at.raw() + 4 * n), &[word]);
        // A root of a process that does not run: the fake's TLB knows nothing of it.
        if n < 0x800 {
            if let Some((page, word)) = second {
                put(TABLE, page, word);
            }
            put(ROOT, n, word);
            let mut calls = 0;
            let unmap = |frames| {
                calls += 1;
                b.s.kernel_unmaps(frames)
            };
            let left = TakeError::StillMapped { va: VirtAddr::new(va), frame };
            // SAFETY: it is refused.
            assert_eq!(unsafe { b.s.dma.take_area(b.area, &[PhysAddr::new(0x6012_0000), ROOT], unmap) }, Err(left));
            assert_eq!(calls, 1);
            // It is the kernel's as before, with all its bytes.
            assert_eq!(b.s.dma.alloc(&b.s.master("camera"), 1, 1).unwrap_err(), AllocError::NotTaken);
            assert_eq!(b.kernel_maps(), vec![0x77; LEN as usize]);
            put(ROOT, n, 0);
        } else if let Some((page, word)) = second {
            // An alias in the live table.
            put(TABLE, page, word);
            put(L1, n, pointer);
            let unmap = |frames| b.s.kernel_unmaps(frames);
            let left = TakeError::StillMapped { va: VirtAddr::new(va), frame };
            // SAFETY: it is refused.
            assert_eq!(unsafe { b.s.dma.take_area(b.area, &[], unmap) }, Err(left));
            put(TABLE, page, 0);
            b.s.fake.invalidate_tlb_all();
            b.kernel_maps();
        }
        b.take();
        b.coherent();
    }
}

/// I3: it is not enough to unmap: the fake's TLB holds what was mapped, at every address, until it is told.
#[test]
fn an_error_of_the_kernels_leaves_it_the_area() {
    let b = Bench::new(4);
    b.kernel_gets().fill(3);
    let failed: Result<(), TakeError<&str>> =
        // SAFETY: it is refused.
        unsafe { b.s.dma.take_area(b.area, &[], |_| Err("no table to split a section")) };
    assert_eq!(failed, Err(TakeError::Unmap("no table to split a section")));
    assert_eq!(failed.unwrap_err().to_string(), "area not taken: no table to split a section");
    let va = VirtAddr::new(DIRECT.raw() + (CARVED.raw() - RAM.raw()));
    let left = TakeError::StillMapped { va, frame: Frame::containing(CARVED) };
    assert_eq!(b.take_mapped(&[]), Err(left));
    assert_eq!(
        left.to_string(),
        "area not taken: 0x80200000 still maps its frame 0x60200000 (I2); end every mapping of the area"
    );
    let at = PhysAddr::new(0x1000_0000);
    assert_eq!(b.take_mapped(&[at]), Err(left), "this core's tables come first");
    let Ok(()) = b.s.kernel_unmaps(b.frames);
    assert_eq!(b.take_mapped(&[at]), Err(TakeError::UnknownTable { at }));
    assert_eq!(b.take_mapped(&[]), Ok(()));
    assert_eq!(b.take_mapped(&[]), Err(TakeError::NotKernels));
    let other = Bench::new(5);
    assert_eq!(other.s.dma.give_back_area(b.area), Err(GiveBackError::NoArea));
    // SAFETY: it is refused.
    let refused = unsafe { other.s.dma.take_area(b.area, &[], |_| Ok::<_, Infallible>(())) };
    assert_eq!(refused, Err(TakeError::NoArea));
}

/// I2: what maps an area is ended by this crate, in each kind of table: and then no word of a table translates to it.
#[test]
fn i2_mappings_of_the_area_alone_are_ended() {
    const ROOT: PhysAddr = PhysAddr::new(0x6011_0000);
    const TABLE: PhysAddr = PhysAddr::new(0x6010_0000);
    let (memory, access, share) = (MemoryType::WriteBack, Access::ReadWrite, Shareability::Shareable);
    let large = |at: u32| L2Desc::large(PhysAddr::new(at), memory, access, share).raw();
    let page = |at: u32| L2Desc::small(PhysAddr::new(at), memory, access, share).raw();
    let runs = [(CARVED.raw(), 17 * FRAME_SIZE), (CARVED.raw() + 0x10_0000, 0x10_0000)];
    let runs = runs.map(|(base, size)| FrameRange::within(base.into(), size.into()));
    let s = Setup::with_carve_out(8, CarveOut::late("test", &runs, false));
    let area = s.dma.area("test").unwrap();
    for run in runs {
        s.kernel_maps(run);
    }
    let put = |at: PhysAddr, n: u32, word: u32| s.fake.publish(PhysAddr::new(at.raw() + 4 * n), &[word]);
    // A process that does not run has a large page and a page of the first run, a section of the second, and a page
    // that is not the area's.
    (0..16).for_each(|n| put(TABLE, 0x20 + n, large(CARVED.raw())));
    put(TABLE, 0x30, page(CARVED.raw() + 0x1_0000));
    let other = page(CARVED.raw() - FRAME_SIZE);
    put(TABLE, 0x31, other);
    put(ROOT, 0x40, L1Desc::table(TABLE).raw());
    put(ROOT, 0x41, L1Desc::section(runs[1].base(), memory, access, share).raw());

    // Two words too wide: a large page that goes on after the first run's last frame, a section that the second begins
    // in.
    let refused = |va, bytes| Err(TakeError::Unmap(WiderMapping { va: VirtAddr::new(va), bytes }));
    for (table, n, word, va, bytes) in [
        (TABLE, 0x40, large(CARVED.raw() + 0x1_0000), 0x0404_0000, 0x1_0000),
        (ROOT, 0x42, L1Desc::section(CARVED, memory, access, share).raw(), 0x0420_0000, 0x10_0000),
        (ROOT, 0x42, L1Desc::section(RAM, memory, access, share).raw() | 1 << 18, 0x0400_0000, 0x100_0000),
    ] {
        put(table, n, word);
        let before = s.audit().unwrap().direct_frames;
        // SAFETY: it is refused.
        assert_eq!(unsafe { s.dma.take_mapped_area(area, &[ROOT]) }, refused(va, bytes), "{word:#x}");
        assert_eq!(s.audit().unwrap().direct_frames, before, "no table has changed");
        assert_eq!(s.fake.table_word(PhysAddr::new(TABLE.raw() + 4 * 0x20)), Some(large(CARVED.raw())));
        put(table, n, 0);
    }
    let text = "area not taken: one descriptor maps 64 KiB at 0x04040000, and they are not all of its range; split that, or \
                give whole sections";
    assert_eq!(refused(0x0404_0000, 0x1_0000).unwrap_err().to_string(), text);
    let unknown = PhysAddr::new(0x1000_0000);
    // SAFETY: it is refused.
    let nowhere = unsafe { s.dma.take_mapped_area(area, &[unknown]) };
    assert_eq!(nowhere, Err(TakeError::UnknownTable { at: unknown }));
    assert_eq!(s.audit().unwrap().carved_frames, 0, "it is the kernel's as before");

    // SAFETY: nothing of the kernel is there (I2).
    unsafe { s.dma.take_mapped_area(area, &[ROOT]) }.unwrap();
    let word = |table: PhysAddr, n: u32| s.fake.table_word(PhysAddr::new(table.raw() + 4 * n)).unwrap();
    assert!((0x20..0x31).all(|n| word(TABLE, n) == 0));
    assert_eq!((word(TABLE, 0x31), word(ROOT, 0x41)), (other, 0));
    let report = s.audit().unwrap();
    assert_eq!((report.direct_frames, report.carved_frames), (0, 17 + 256));
    // SAFETY: it is refused.
    assert_eq!(unsafe { s.dma.take_mapped_area(area, &[ROOT]) }, Err(TakeError::NotKernels));
    let coherent = s.dma.alloc(&s.master("camera"), 0x10_0000, 1).unwrap().into_coherent();
    assert_eq!(s.fake.device_read(coherent.frames().base(), 100), [0; 100], "I5");
}

/// Who keeps an area is named; loans do not keep one (I6).
#[test]
fn an_area_is_given_back_when_nobody_holds_it() {
    let b = Bench::new(6);
    let camera = b.s.master("camera");
    let buffer = b.s.dma.alloc(&camera, 5 * FRAME_SIZE, 1).unwrap().into_stream::<ToDevice>().for_device();
    let held = |b: &Bench| match b.s.dma.give_back_area(b.area) {
        Err(GiveBackError::Held(record)) => (record.owner, record.holder),
        other => panic!("{other:?}"),
    };
    assert_eq!(held(&b), ("camera".into(), Holder::Device));
    assert_eq!(
        b.s.dma.give_back_area(b.area).unwrap_err().to_string(),
        "area not given back: it has the device-owned buffer 0x60200000-0x60205000 (20 KiB) of camera"
    );
    // SAFETY: the fake's device is done.
    drop(unsafe { buffer.for_cpu() });
    let contract = b.s.dma.contract(&camera, &[ContractSet { count: 2, bytes: 4096, align: 1 }]).unwrap();
    let promised = b.s.dma.give_back_area(b.area).unwrap_err();
    assert!(matches!(promised, GiveBackError::Promised { frames } if frames.count() == 1), "{promised}");
    drop(contract);
    let store = b.s.dma.borrower::<Movable>(b.area, "store", PAGES, LoanPriority::Low).unwrap();
    let cache = b.s.dma.borrower::<Discardable>(b.area, "cache", PAGES, LoanPriority::Low).unwrap();
    let (kept, forgotten) = (store.borrow(PAGES / 2).unwrap(), cache.borrow(PAGES / 4).unwrap());
    for page in 0..PAGES / 2 {
        store.write(kept, page, 0, &[page as u8; LOAN_PAGE]).unwrap();
    }
    let open = store.with(kept, 3, |_| b.s.dma.give_back_area(b.area)).unwrap();
    assert!(matches!(open, Err(GiveBackError::Open { .. })), "{open:?}");
    b.kernel_gets().fill(0xee);
    assert_eq!(cache.left(forgotten), Ok(0));
    let mut found = [0; LOAN_PAGE];
    for page in 0..PAGES / 2 {
        store.read(kept, page, 0, &mut found).unwrap();
        assert_eq!(found, [page as u8; LOAN_PAGE], "its bytes are in the refuge");
    }
    b.take();
    assert_eq!(b.free(), LEN.into());
    // Quarantine is for ever.
    let lost = b.s.dma.alloc(&camera, 1, 1).unwrap().into_device();
    b.s.fake.device_write(PhysAddr::new(lost.bus().raw()), &[1]);
    drop(lost);
    assert_eq!(held(&b), ("camera".into(), Holder::Quarantine));
}

/// An area of several runs that was the kernel's from the start: a run that cannot be had leaves all of it the
/// kernel's.
#[test]
fn a_late_area_of_several_runs_is_taken_whole_or_not_at_all() {
    let runs = [(CARVED.raw(), 3 * FRAME_SIZE), (CARVED.raw() + 0x10_0000, 0x10_0000)];
    let runs = runs.map(|(base, size)| FrameRange::within(base.into(), size.into()));
    let s = Setup::with_carve_out(7, CarveOut::late("test", &runs, true));
    let area = s.dma.area("test").unwrap();
    let camera = s.master("camera");
    assert_eq!(s.dma.alloc(&camera, 1, 1).unwrap_err(), AllocError::NotTaken);
    let pattern = |run: FrameRange| vec![run.count() as u8; run.bytes() as usize];
    let at = runs.map(|run| s.fake.reach(s.kernel_maps(run), run.bytes() as u32));
    for (run, at) in runs.into_iter().zip(at) {
        // SAFETY: the kernel just mapped it, and has it alone.
        unsafe { core::slice::from_raw_parts_mut(at, run.bytes() as usize) }.copy_from_slice(&pattern(run));
    }
    assert_eq!(s.audit().unwrap().direct_frames, 3 + 256);
    let unmap = |run| if run == runs[0] { s.kernel_unmaps(run).map_err(|never| match never {}) } else { Err("no") };
    // SAFETY: it is refused.
    assert_eq!(unsafe { s.dma.take_area(area, &[], unmap) }, Err(TakeError::Unmap("no")));
    assert_eq!(s.dma.alloc(&camera, 1, 1).unwrap_err(), AllocError::NotTaken);
    assert_eq!(s.audit().unwrap().carved_frames, 0);
    s.kernel_maps(runs[0]);
    for (run, at) in runs.into_iter().zip(at) {
        let again = VirtAddr::new(DIRECT.raw() + (run.base().raw() - RAM.raw()));
        assert_eq!(s.fake.reach(again, run.bytes() as u32), at);
        // SAFETY: the kernel mapped it, and nobody writes it.
        assert_eq!(unsafe { core::slice::from_raw_parts(at, run.bytes() as usize) }, pattern(run));
    }
    // SAFETY: the kernel's only mappings end, and it uses the frames no more (I2).
    unsafe { s.dma.take_area(area, &[], |run| s.kernel_unmaps(run)) }.unwrap();
    assert_eq!(s.audit().unwrap().carved_frames, 3 + 256);
    // A section of it, which the kernel had as one too.
    let coherent = s.dma.alloc(&camera, 0x10_0000, 0x10_0000).unwrap().into_coherent();
    assert_eq!(s.fake.device_read(coherent.frames().base(), 100), [0; 100]);
    // SAFETY: the fake's device is done.
    drop(unsafe { coherent.release() });
    s.dma.give_back_area(area).unwrap();
    assert_eq!(s.fake.device_read(runs[1].base(), 0x10_0000), vec![0; 0x10_0000]);
}

#[derive(Clone, Debug)]
enum Op {
    Alloc(u32, bool),
    Free(prop::sample::Index),
    Borrow(bool, u32),
    Write(prop::sample::Index, u32),
    Idle(u32),
    Contract(u32),
    GiveBack,
    Take { unmapped: bool },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (1..9u32, any::<bool>()).prop_map(|(pages, streams)| Op::Alloc(pages, streams)),
        5 => any::<prop::sample::Index>().prop_map(Op::Free),
        2 => (any::<bool>(), 1..9u32).prop_map(|(moves, pages)| Op::Borrow(moves, pages)),
        3 => (any::<prop::sample::Index>(), 0..9u32).prop_map(|(loan, page)| Op::Write(loan, page)),
        1 => (1..9u32).prop_map(Op::Idle),
        1 => (1..4u32).prop_map(Op::Contract),
        4 => Just(Op::GiveBack),
        4 => any::<bool>().prop_map(|unmapped| Op::Take { unmapped }),
    ];
    prop::collection::vec(op, 1..60)
}

/// What holds frames of the area.
#[allow(clippy::large_enum_variant, reason = "a few of them, in a test")]
enum Held {
    Both(Coherent<Fake>),
    Film(Stream<Fake, FromDevice, carveout::dma::Device>),
    Promise(Contract<Fake>),
}

impl Held {
    fn free(self) {
        match self {
            // SAFETY: the fake's device is done.
            Self::Both(coherent) => drop(unsafe { coherent.release() }),
            // SAFETY: as above.
            Self::Film(stream) => drop(unsafe { stream.for_cpu() }),
            Self::Promise(contract) => drop(contract),
        }
    }
}

/// A loan as its borrower remembers it: the byte that fills each page.
struct Lent {
    loan: Loan,
    moves: bool,
    pages: Vec<u8>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 300, ..ProptestConfig::default() })]

    /// Against a naive model: the area is the kernel's or ours; a list of what is held; and the bytes that each owner
    /// wrote, which are its own as long as it has them (I5).
    #[test]
    fn an_area_comes_and_goes_as_a_naive_model_says(seed in any::<u64>(), ops in ops()) {
        let b = Bench::new(seed);
        let camera = b.s.master("camera");
        let store = b.s.dma.borrower::<Movable>(b.area, "store", PAGES, LoanPriority::Low).unwrap();
        let cache = b.s.dma.borrower::<Discardable>(b.area, "cache", PAGES, LoanPriority::High).unwrap();
        b.s.dma.set_reserve(b.area, 0);
        // The kernel's bytes, if the area is its own.
        let mut kernels: Option<(&'static mut [u8], u8)> = None;
        let mut held: Vec<(u32, Held)> = Vec::new();
        let mut lent: Vec<Lent> = Vec::new();
        for (n, op) in ops.into_iter().enumerate() {
            let salt = n as u8 + 1;
            let taken: u32 = held.iter().map(|(pages, _)| pages).sum();
            match op {
                Op::Alloc(pages, streams) => match b.s.dma.alloc(&camera, pages * FRAME_SIZE, 1) {
                    Ok(buffer) => {
                        prop_assert!(kernels.is_none() && taken + pages <= PAGES);
                        let (at, bytes) = (buffer.frames().base(), (pages * FRAME_SIZE) as usize);
                        let buffer = if streams {
                            let stream = buffer.into_stream::<FromDevice>();
                            prop_assert!(stream.bytes().iter().all(|&byte| byte == 0), "I5");
                            Held::Film(stream.for_device())
                        } else {
                            Held::Both(buffer.into_coherent())
                        };
                        prop_assert!(b.s.fake.device_read(at, bytes).iter().all(|&byte| byte == 0), "I5");
                        b.s.fake.device_write(at, &vec![salt; bytes]);
                        held.push((pages, buffer));
                    }
                    Err(AllocError::NotTaken) => prop_assert!(kernels.is_some()),
                    Err(AllocError::NoCapacity { .. }) => prop_assert!(kernels.is_none() && taken + pages > PAGES),
                    Err(AllocError::Fragmented(_)) => prop_assert!(kernels.is_none() && !held.is_empty()),
                    Err(error) => prop_assert!(false, "{error}"),
                },
                Op::Free(nth) if !held.is_empty() => held.swap_remove(nth.index(held.len())).1.free(),
                Op::Borrow(moves, pages) => {
                    let loan = if moves { store.borrow(pages) } else { cache.borrow(pages) };
                    match loan {
                        Ok(loan) => lent.push(Lent { loan, moves, pages: vec![0; loan.len() as usize] }),
                        Err(error) => {
                            let (spent, none) = (LendError::Spent { pages: PAGES }, LendError::NothingIdle);
                            prop_assert!(error == spent || error == none, "{}", error);
                        }
                    }
                }
                Op::Write(nth, page) if !lent.is_empty() => {
                    let which = nth.index(lent.len());
                    let Lent { loan, moves, pages } = &mut lent[which];
                    let page = page as usize % pages.len();
                    let (number, bytes) = (page as u32, [salt; LOAN_PAGE]);
                    let wrote =
                        if *moves { store.write(*loan, number, 0, &bytes) } else { cache.write(*loan, number, 0, &bytes) };
                    prop_assert!(wrote.is_ok() || !*moves);
                    pages[page] = salt;
                }
                Op::Idle(frames) => {
                    b.s.dma.set_reserve(b.area, (frames * FRAME_SIZE).into());
                    let done = b.s.dma.idle_work(b.area, frames);
                    prop_assert!(done == 0 || kernels.is_none());
                }
                Op::Contract(count) => {
                    match b.s.dma.contract(&camera, &[ContractSet { count, bytes: 2 * FRAME_SIZE, align: 1 }]) {
                        Ok(contract) => {
                            prop_assert!(kernels.is_none());
                            held.push((count * 2, Held::Promise(contract)));
                        }
                        Err(ContractError::Set { error: AllocError::NotTaken, .. }) => prop_assert!(kernels.is_some()),
                        Err(_) => prop_assert!(kernels.is_none() && !held.is_empty()),
                    }
                }
                Op::GiveBack => match b.s.dma.give_back_area(b.area) {
                    Ok(()) => {
                        prop_assert!(kernels.is_none() && held.is_empty());
                        let bytes = b.kernel_maps();
                        prop_assert!(bytes.iter().all(|&byte| byte == 0), "I5");
                        bytes.fill(salt);
                        kernels = Some((bytes, salt));
                    }
                    Err(GiveBackError::NotOurs) => prop_assert!(kernels.is_some()),
                    Err(GiveBackError::Held(_) | GiveBackError::Promised { .. }) => prop_assert!(!held.is_empty()),
                    Err(error) => prop_assert!(false, "{error}"),
                },
                Op::Take { unmapped: true } if kernels.is_some() => {
                    kernels = None;
                    b.take();
                }
                Op::Take { .. } => match b.take_mapped(&[]) {
                    Err(TakeError::NotKernels) => prop_assert!(kernels.is_none()),
                    Err(TakeError::StillMapped { .. }) => prop_assert!(kernels.is_some()),
                    other => prop_assert!(false, "{other:?}"),
                },
                Op::Free(_) | Op::Write(..) => {}
            }
            b.s.fake.disturb();
            if let Some((bytes, salt)) = &kernels {
                prop_assert!(bytes.iter().all(|byte| byte == salt), "what the kernel wrote is its own");
                prop_assert_eq!(b.free(), 0);
            }
            let mut found = [0; LOAN_PAGE];
            for Lent { loan, moves, pages } in &lent {
                for (page, &byte) in pages.iter().enumerate() {
                    let page = page as u32;
                    let read =
                        if *moves { store.read(*loan, page, 0, &mut found) } else { cache.read(*loan, page, 0, &mut found) };
                    // What is moved survives; what is forgotten says so.
                    prop_assert!(read.is_ok() && found == [byte; LOAN_PAGE] || read.is_err() && !*moves);
                }
            }
        }
        b.s.audit().unwrap();
    }
}
