//! Sufficiency and necessity: each path of the DMA API, of loans and of the reserve passes as it is, and fails when any
//! single operation of it on TLB, caches or barriers is left out.
//!
//! The paths run on the fake, whose rules hold on every seed. What an operation is for is only visible if something
//! follows that rests on it, so each path goes on until then. And each path's operations are pinned, so that none is
//! added without notice.

use carveout::addr::{BusAddr, FrameRange, PhysAddr};
use carveout::dma::{
    Bidirectional, Discardable, FromDevice, LOAN_PAGE, LoanPriority, Movable, Port, Stream, ToDevice, TypedDirection,
};
use carveout::fake::Op;
use carveout::machine::Mmu;
use carveout::setup::{CARVED, Setup};
use std::panic::{AssertUnwindSafe, catch_unwind};

const LEN: u32 = 3 * 4096;

/// What a path leaves out without harm, and why it is there all the same.
const IDLE: [(&str, Op, &str); 4] = [
    ("mock", Op::Barrier, "the mock device is the CPU: no barrier stands between it and itself; `output` shows it"),
    ("mock", Op::Barrier, "as above, in the second turn"),
    ("mock", INVALIDATE, "the port dropped the lines for its own access, which a real device does not; see `turns`"),
    ("mock", INVALIDATE, "as above, in the second turn"),
];
const INVALIDATE: Op = Op::Invalidate(FrameRange::EMPTY);

/// While no buffer is the CPU's, nothing is mapped (I4).
fn nothing_mapped(s: &Setup) {
    assert_eq!(s.audit().unwrap().window_frames, 0);
}

/// The frames come from an owner whose device left its data in them.
fn former_owner(s: &Setup) {
    let only = s.dma.alloc(&s.master("former"), LEN, 1).unwrap().into_device();
    s.fake.device_write(at(only.bus()), &[0xa5; LEN as usize]);
    // SAFETY: the fake's device is done.
    drop(unsafe { only.release() });
}

/// The frames go to an owner who shares them with a device: whatever a path left behind would show.
fn next_owner(s: &Setup) {
    let coherent = s.dma.alloc(&s.master("next"), LEN, 1).unwrap().into_coherent();
    assert_eq!(s.fake.device_read(at(coherent.bus()), LEN as usize), [0; LEN as usize]);
    assert_eq!(s.audit().unwrap().window_frames, LEN / 4096);
}

fn new<D: TypedDirection>(s: &Setup) -> Stream<carveout::fake::Fake, D, carveout::dma::Cpu> {
    s.dma.alloc(&s.master("device"), LEN, 1).unwrap().into_stream::<D>()
}

fn at(bus: BusAddr) -> PhysAddr {
    PhysAddr::new(bus.raw())
}

/// The CPU writes, the device reads, twice.
fn output(s: &Setup) {
    let mut stream = new::<ToDevice>(s);
    for turn in 1..3 {
        stream.bytes_mut().fill(turn);
        let owned = stream.for_device();
        nothing_mapped(s);
        assert_eq!(s.fake.device_read(at(owned.bus()), LEN as usize), [turn; LEN as usize]);
        // SAFETY: the fake's device is done.
        stream = unsafe { owned.for_cpu() };
    }
}

/// The device writes, the CPU reads, three times; then another owner.
fn capture(s: &Setup) {
    let mut stream = new::<FromDevice>(s);
    for turn in 1..4 {
        let owned = stream.for_device();
        nothing_mapped(s);
        s.fake.device_write(at(owned.bus()), &[turn; LEN as usize]);
        // SAFETY: the fake's device is done.
        stream = unsafe { owned.for_cpu() };
        assert_eq!(stream.bytes(), [turn; LEN as usize]);
    }
}

/// Both write, in turns.
fn turns(s: &Setup) {
    let mut stream = new::<Bidirectional>(s);
    for turn in 1..4u8 {
        stream.bytes_mut()[..100].fill(turn);
        let owned = stream.for_device();
        nothing_mapped(s);
        assert_eq!(s.fake.device_read(at(owned.bus()), 100), [turn; 100]);
        s.fake.device_write(at(owned.bus()), &[turn + 100; 50]);
        // SAFETY: the fake's device is done.
        stream = unsafe { owned.for_cpu() };
        assert_eq!(stream.bytes()[..100], [[turn + 100; 50], [turn; 50]].concat());
    }
}

/// Dirty frames go to an owner who shares them with a device, and back to one who streams.
fn reuse(s: &Setup) {
    let mut stream = new::<ToDevice>(s);
    stream.bytes_mut().fill(0x5a);
    drop(stream);
    let mut coherent = s.dma.alloc(&s.master("device"), LEN, 1).unwrap().into_coherent();
    assert_eq!(s.fake.device_read(at(coherent.bus()), LEN as usize), [0; LEN as usize]);
    coherent.write_at(7, &[1, 2, 3]);
    coherent.device_barrier();
    assert_eq!(s.fake.device_read(at(coherent.bus()), 10)[7..], [1, 2, 3]);
    // SAFETY: the fake's device is done.
    let contiguous = unsafe { coherent.release() };
    nothing_mapped(s);
    let mut stream = contiguous.into_stream::<ToDevice>();
    nothing_mapped(s);
    assert_eq!(stream.bytes(), [0; LEN as usize]);
    stream.bytes_mut().fill(1);
    // Given up while dirty, by its owner: the next state finds zeros.
    let only = stream.into_contiguous().into_device();
    nothing_mapped(s);
    assert_eq!(s.fake.device_read(at(only.bus()), LEN as usize), [0; LEN as usize]);
    // SAFETY: the fake's device is done.
    drop(unsafe { only.release() });
    let stream = new::<FromDevice>(s);
    assert_eq!(stream.bytes(), [0; LEN as usize]);
}

/// The three above on a machine that empties whole caches for buffers of this size.
fn output_by_flush(s: &Setup) {
    s.fake.can_flush(1);
    output(s);
}

fn capture_by_flush(s: &Setup) {
    s.fake.can_flush(1);
    capture(s);
}

fn turns_by_flush(s: &Setup) {
    s.fake.can_flush(1);
    turns(s);
}

/// The same of what a former owner of the frames left.
fn reuse_by_flush(s: &Setup) {
    s.fake.can_flush(1);
    reuse(s);
}

/// A mock device reads and writes through its port between two looks of the CPU.
fn mock(s: &Setup) {
    // SAFETY: the tests keep a device's promise: a port is closed before its buffer changes hands.
    let port = unsafe { Port::new(s.dma, s.master("device")) };
    let mut stream = new::<Bidirectional>(s);
    for turn in 1..3u8 {
        stream.bytes_mut().fill(turn);
        let owned = stream.for_device();
        nothing_mapped(s);
        let mut opened = port.open(owned.bus(), LEN).unwrap();
        assert_eq!(opened.bytes(), [turn; LEN as usize]);
        opened.bytes_mut().fill(turn + 10);
        drop(opened);
        // A real device, after the mock.
        assert_eq!(s.fake.device_read(at(owned.bus()), LEN as usize), [turn + 10; LEN as usize]);
        // SAFETY: the port is closed.
        stream = unsafe { owned.for_cpu() };
        assert_eq!(stream.bytes(), [turn + 10; LEN as usize]);
    }
}

/// A borrower writes part of each page, reads them, and writes all of one.
fn lent(s: &Setup) {
    let area = s.dma.area("test").unwrap();
    let cache = s.dma.borrower::<Discardable>(area, "cache", LEN / 4096, LoanPriority::Low).unwrap();
    let loan = cache.borrow(LEN / 4096).unwrap();
    let mut found = [0; LOAN_PAGE];
    for page in 0..LEN / 4096 {
        cache.write(loan, page, 100, b"part").unwrap();
    }
    for page in 0..LEN / 4096 {
        cache.read(loan, page, 0, &mut found).unwrap();
        assert_eq!([&found[..100], &found[104..]].concat(), [0; LOAN_PAGE - 4], "I5: the rest reads as zeros");
        assert_eq!(&found[100..104], b"part");
    }
    cache.write(loan, 0, 0, &[1; LOAN_PAGE]).unwrap();
    cache.give_back(loan).unwrap();
}

/// A page moves out of a device's way, and keeps its bytes.
fn moved(s: &Setup) {
    let area = s.dma.area("test").unwrap();
    let store = s.dma.borrower::<Movable>(area, "store", 1, LoanPriority::Low).unwrap();
    let loan = store.borrow(1).unwrap();
    store.write(loan, 0, 0, &[7; LOAN_PAGE]).unwrap();
    let coherent = s.dma.alloc(&s.master("device"), LEN, 1).unwrap().into_coherent();
    assert_eq!(s.fake.device_read(at(coherent.bus()), LEN as usize), [0; LEN as usize]);
    let mut found = [0; LOAN_PAGE];
    store.read(loan, 0, 0, &mut found).unwrap();
    assert_eq!(found, [7; LOAN_PAGE]);
    // SAFETY: the fake's device is done.
    drop(unsafe { coherent.release() });
    nothing_mapped(s);
}

/// Idle time prepares frames that were left dirty: who gets them has nothing to do but map them.
fn reserve(s: &Setup) {
    let mut stream = new::<ToDevice>(s);
    stream.bytes_mut().fill(0x5a);
    drop(stream);
    let area = s.dma.area("test").unwrap();
    s.dma.set_reserve(area, LEN.into());
    assert_eq!(s.dma.idle_work(area, LEN / 4096), LEN / 4096);
    let coherent = s.dma.alloc(&s.master("device"), LEN, 1).unwrap().into_coherent();
    assert_eq!(s.fake.device_read(at(coherent.bus()), LEN as usize), [0; LEN as usize]);
    assert_eq!(coherent.read_word::<u32>(0), 0);
    // SAFETY: the fake's device is done.
    let contiguous = unsafe { coherent.release() };
    nothing_mapped(s);
    let stream = contiguous.into_stream::<ToDevice>();
    assert_eq!(stream.bytes(), [0; LEN as usize]);
}

/// The kernel uses the frames as its RAM, and leaves lines of them; then a device has them.
fn late(s: &Setup) {
    given_back(s);
    let frames = FrameRange::within(CARVED.raw().into(), LEN.into());
    let kernels = s.fake.reach(s.kernel_maps(frames), LEN);
    // SAFETY: the kernel just mapped it, and nobody else has it.
    unsafe { kernels.write_bytes(0xa5, LEN as usize) };
    s.fake.disturb();
    // SAFETY: that was the kernel's only mapping, and it uses the frames no more (I2).
    unsafe { s.dma.take_area(s.dma.area("test").unwrap(), &[], |frames| s.kernel_unmaps(frames)) }.unwrap();
    nothing_mapped(s);
    let coherent = s.dma.alloc(&s.master("device"), LEN, 1).unwrap().into_coherent();
    assert_eq!(s.fake.device_read(at(coherent.bus()), LEN as usize), [0; LEN as usize]);
    s.fake.device_write(at(coherent.bus()), &[1; LEN as usize]);
    assert_eq!(coherent.read_word::<u32>(0), 0x0101_0101);
    // SAFETY: the fake's device is done.
    drop(unsafe { coherent.release() });
    nothing_mapped(s);
}

/// What a device and the CPU left goes to the kernel: it, and a device of its own, find zeros (I5).
fn given_back(s: &Setup) {
    let stream = new::<Bidirectional>(s);
    assert_eq!(stream.bytes(), [0; LEN as usize]);
    let owned = stream.for_device();
    nothing_mapped(s);
    s.fake.device_write(at(owned.bus()), &[7; LEN as usize]);
    // SAFETY: the fake's device is done.
    let mut stream = unsafe { owned.for_cpu() };
    stream.bytes_mut()[..100].fill(8);
    drop(stream);
    s.dma.give_back_area(s.dma.area("test").unwrap()).unwrap();
    nothing_mapped(s);
    assert_eq!(s.fake.device_read(CARVED, LEN as usize), [0; LEN as usize]);
}

/// The kernel looks at what it was given back.
fn back(s: &Setup) {
    given_back(s);
    let frames = FrameRange::within(CARVED.raw().into(), LEN.into());
    let kernels = s.fake.reach(s.kernel_maps(frames), LEN);
    // SAFETY: the kernel just mapped it, and nobody writes it.
    let bytes = unsafe { core::slice::from_raw_parts(kernels, LEN as usize) };
    assert_eq!(bytes, [0; LEN as usize]);
    // SAFETY: that was the kernel's only mapping, and it uses the frames no more (I2).
    unsafe { s.dma.take_area(s.dma.area("test").unwrap(), &[], |frames| s.kernel_unmaps(frames)) }.unwrap();
}

/// Publish, TLB invalidate, clean, invalidate, barrier, flush.
const fn letter(op: &Op) -> char {
    match op {
        Op::Publish => 'P',
        Op::InvalidateTlb => 'T',
        Op::Clean(_) => 'C',
        Op::Invalidate(_) => 'I',
        Op::Barrier => 'B',
        Op::Flush => 'F',
    }
}

/// A path, on a fresh machine.
type Path = fn(&Setup);

/// What a path does, as it is.
fn log_of(path: Path) -> Vec<Op> {
    let s = Setup::with_area(1, LEN);
    former_owner(&s);
    s.fake.take_log();
    path(&s);
    s.fake.take_log()
}

/// Whether a run of a path goes wrong with one operation left out.
fn fails(path: Path, left_out: usize, seed: u64) -> bool {
    let s = Setup::with_area(seed, LEN);
    former_owner(&s);
    s.fake.leave_out(left_out);
    let run = || {
        path(&s);
        next_owner(&s);
    };
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

#[test]
fn each_path_suffices_and_each_operation_of_it_is_necessary() {
    let paths: [(&str, Path, &str); 14] = [
        ("output", output, "PPTPCPTBPCPTB"),
        ("capture", capture, "PPTBPPTPIPTPIPT"),
        ("turns", turns, "PPTPCPTBPICPTBPICPTBPIPT"),
        ("output by flush", output_by_flush, "PPTPPTFBPPTF"),
        ("capture by flush", capture_by_flush, "PPTBPPTFPPTFPPT"),
        ("turns by flush", turns_by_flush, "PPTPPTFBPPTFPPTFPPT"),
        ("reuse", reuse, "PPTPPTPIBBPTPPTPPTPIBPTPPTPPT"),
        ("reuse by flush", reuse_by_flush, "PPTPPTPFBBPTPPTPPTPFBPTPPTPPT"),
        ("mock", mock, "PPTPCPTBPIBPTPICPTBPIBPTPIPT"),
        ("lent", lent, "PPTPPTPPTPPTPPTPPTPPT"),
        ("moved", moved, "PPTPPTPIBPT"),
        ("reserve", reserve, "PPTPPTPIBPTPPTPPTPPT"),
        ("late", late, "PPTPPTBPIPTPIBPTPPPTPIBPT"),
        ("back", back, "PPTPPTBPIPTPIBPTPPPT"),
    ];
    for (name, path, least) in paths {
        assert_eq!(log_of(path).iter().map(letter).collect::<String>(), least, "{name}: the least, and no more");
    }
    let mut idle = Vec::new();
    // A panic is the expected end of most runs.
    std::panic::set_hook(Box::new(|_| {}));
    for (name, path, _) in paths {
        let log = log_of(path);
        for (n, op) in log.iter().enumerate() {
            if !(1..4).any(|seed| fails(path, n, seed)) {
                let op = if matches!(op, Op::Invalidate(_)) { INVALIDATE } else { *op };
                idle.push((name, op));
            }
        }
        for seed in 1..20 {
            assert!(!fails(path, usize::MAX, seed), "{name} suffices, on seed {seed}");
        }
    }
    drop(std::panic::take_hook());
    let mut known: Vec<_> = IDLE.iter().map(|(name, op, _)| (*name, *op)).collect();
    known.sort_by_key(|row| format!("{row:?}"));
    idle.sort_by_key(|row| format!("{row:?}"));
    assert_eq!(idle, known, "operations that can be left out, found and known");
}
