//! The DMA API on the fake: ownership, least maintenance, and what each invariant means for a buffer.

use carveout::addr::{BusAddr, Bytes, Frame, PhysAddr, VirtAddr};
use carveout::dma::{
    AllocError, Aperture, Bidirectional, BlockShape, Contiguous, ContractSet, Cpu, Device, Direction, Dma, FaultPlace,
    FromDevice, Holder, Master, NoRun, Pool, PoolError, Port, PortError, Reach, Stream, ToDevice,
};
use carveout::fake::{Fake, Op};
use carveout::machine::{Cache, Lines, Mmu};
use carveout::protocol::FLUSH_FROM;
use carveout::setup::{CARVED, CARVED_BYTES, L2, Setup as Bench, WINDOW};
use carveout::vm::attr::{Access, MemoryType, Shareability};
use carveout::vm::audit::{Finding, Findings};
use carveout::vm::desc::L2Desc;
use carveout::vm::ledger::{Carved, LedgerError};
use proptest::prelude::*;

/// The shared setting, with one master.
struct Setup {
    bench: Bench,
    fake: &'static Fake,
    dma: &'static Dma<Fake>,
    master: Master,
}

impl Setup {
    fn new(seed: u64) -> Self {
        let bench = Bench::new(seed);
        let (fake, dma, master) = (bench.fake, bench.dma, bench.master("camera"));
        Self { bench, fake, dma, master }
    }

    /// Frames mapped, if the audit is clean.
    fn audit(&self) -> Result<u32, Findings> {
        self.bench.audit().map(|report| report.window_frames)
    }
}

fn phys<D: Direction>(stream: &Stream<Fake, D, Device>) -> PhysAddr {
    PhysAddr::new(stream.bus().raw())
}

/// The CPU's side of a device that has finished: the fake's devices are done when their calls return.
fn back<D: Direction>(stream: Stream<Fake, D, Device>) -> Stream<Fake, D, Cpu> {
    // SAFETY: the fake's device accesses are over when the calls return.
    unsafe { stream.for_cpu() }
}

/// Large enough for a large page, small enough for a fake that looks at every byte.
const REUSED: u32 = 17 << 12;
const PAGES: u32 = 5;
const LEN: u32 = PAGES * 4096 - 100;
/// Lines of the bytes asked for.
const LINES: u64 = LEN.div_ceil(32) as u64;
/// Lines of all the buffer's pages: what the port drops, which knows no more.
const PAGE_LINES: u64 = (PAGES * 4096 / 32) as u64;

#[test]
fn a_first_capture_maintains_no_line() {
    let s = Setup::new(1);
    let stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<FromDevice>().for_device();
    let data: Vec<u8> = (0..LEN).map(|n| (n % 251) as u8).collect();
    s.fake.device_write(phys(&stream), &data);
    let stream = back(stream);
    assert_eq!(stream.bytes(), data);
    assert_eq!(stream.effort().lines(), Lines::default(), "never mapped write-back before: no line can exist");
}

/// The device writes the stream full of a value, and the CPU finds it.
fn captured(s: &Setup, stream: Stream<Fake, FromDevice, Cpu>, value: u8) -> Stream<Fake, FromDevice, Cpu> {
    let owned = stream.for_device();
    let data = vec![value; LEN as usize];
    s.fake.device_write(phys(&owned), &data);
    let stream = back(owned);
    assert_eq!(stream.bytes(), data);
    stream
}

#[test]
fn a_capture_cycle_is_one_pass_not_two() {
    let s = Setup::new(2);
    let mut stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<FromDevice>();
    for cycle in 0..4u8 {
        stream = captured(&s, stream, cycle + 1);
        let lines = Lines { inner: LINES * u64::from(cycle), outer: 0 };
        assert_eq!(stream.effort().lines(), lines, "cycle {cycle}: one invalidate, and none for the first");
    }
}

#[test]
fn whole_caches_are_emptied_from_eight_times_their_lines_on() {
    for (lines, flushes) in [(LINES / FLUSH_FROM + 1, 0), (LINES / FLUSH_FROM, 3)] {
        let s = Setup::new(2);
        s.fake.can_flush(lines as u32);
        let mut stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<FromDevice>();
        for cycle in 0..4 {
            stream = captured(&s, stream, cycle + 1);
        }
        assert_eq!(s.dma.stats().flushes, flushes, "none for the first cycle, which leaves no line");
        let each = if flushes > 0 { lines } else { LINES };
        assert_eq!(stream.effort().lines(), Lines { inner: 3 * each, outer: 0 }, "nothing is due at the look");
    }
}

/// Whoever gets the frames next, in whatever state.
#[test]
fn i3_what_former_owners_left_goes_with_whole_caches_if_it_is_eight_times_their_lines() {
    const BYTES: u32 = PAGES * 4096;
    let ends: [fn(Contiguous<Fake>); 3] = [
        |buffer| drop(buffer.into_coherent()),
        |buffer| drop(buffer.into_stream::<ToDevice>()),
        |buffer| {
            // SAFETY: the fake's device is done.
            drop(unsafe { buffer.into_device().release() });
        },
    ];
    // The bytes with lines: all of the next owner's, or all but a page.
    for (left, lines, by_flush) in [
        (BYTES, PAGE_LINES / FLUSH_FROM, true),
        (BYTES, PAGE_LINES / FLUSH_FROM + 1, false),
        (BYTES - 4096, PAGE_LINES / FLUSH_FROM, false),
    ] {
        for end in ends {
            let s = Bench::with_area(2, BYTES);
            let master = s.master("camera");
            let mut former = s.dma.alloc(&master, left, 1).unwrap().into_stream::<ToDevice>();
            former.bytes_mut().fill(7);
            drop(former);
            s.fake.can_flush(lines as u32);
            let next = s.dma.alloc(&master, BYTES, 1).unwrap();
            let at = next.frames().base();
            s.fake.take_log();
            end(next);
            let log = s.fake.take_log();
            let by_line = log.iter().any(|op| matches!(op, Op::Invalidate(_)));
            assert_eq!((log.contains(&Op::Flush), by_line), (by_flush, !by_flush), "{left} bytes, {lines} lines");
            s.fake.device_barrier();
            assert_eq!(s.fake.device_read(at, BYTES as usize), vec![0; BYTES as usize], "I5");
        }
    }
}

#[test]
fn i3_what_the_cpu_wrote_before_a_flush_reaches_the_device() {
    let s = Setup::new(2);
    s.fake.can_flush(1);
    let mut stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<Bidirectional>();
    stream.bytes_mut().fill(1);
    s.fake.take_log();
    let owned = stream.for_device();
    let log = s.fake.take_log();
    assert_eq!(
        log[..],
        [Op::Publish, Op::InvalidateTlb, Op::Flush, Op::Barrier],
        "nothing is cleaned before the unmap"
    );
    assert_eq!(s.fake.device_read(phys(&owned), LEN as usize), vec![1; LEN as usize]);
    // A line or two of a larger buffer go by address.
    s.fake.can_flush(16);
    let mut stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<ToDevice>();
    stream.part_mut(0..64).unwrap().fill(2);
    s.fake.take_log();
    let owned = stream.for_device();
    assert!(!s.fake.take_log().contains(&Op::Flush));
    assert_eq!(s.fake.device_read(phys(&owned), 64), [2; 64]);
}

#[test]
fn the_cpu_looking_twice_costs_nothing_more() {
    let s = Setup::new(3);
    let stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<FromDevice>();
    let _ = stream.bytes();
    let stream = back(stream.for_device());
    let _ = stream.bytes();
    let once = stream.effort();
    let _ = stream.bytes();
    assert_eq!(stream.effort(), once);
}

#[test]
fn to_device_cleans_what_was_written_and_only_then() {
    let s = Setup::new(4);
    let mut stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<ToDevice>();
    stream.bytes_mut().copy_from_slice(&vec![7; LEN as usize]);
    let owned = stream.for_device();
    assert_eq!(s.fake.device_read(phys(&owned), LEN as usize), vec![7; LEN as usize]);
    assert_eq!(owned.effort().lines(), Lines { inner: LINES, outer: 0 });
    // The CPU only reads: the device's next read needs no clean, and the CPU's next read no invalidate.
    let stream = back(owned);
    assert_eq!(stream.bytes()[0], 7);
    let owned = stream.for_device();
    assert_eq!(s.fake.device_read(phys(&owned), 1), [7]);
    let stream = back(owned);
    assert_eq!(stream.bytes()[0], 7);
    assert_eq!(stream.effort().lines(), Lines { inner: LINES, outer: 0 });
}

#[test]
fn device_to_device_costs_no_line_and_no_mapping() {
    let s = Setup::new(5);
    let stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<Bidirectional>().for_device();
    let before = stream.effort();
    s.fake.device_write(phys(&stream), &[9; 64]);
    let stream = back(stream).for_device();
    assert_eq!(s.fake.device_read(phys(&stream), 64), [9; 64]);
    assert_eq!(stream.effort().lines(), before.lines());
    assert_eq!(stream.effort().map_changes, before.map_changes);

    let only = s.dma.alloc(&s.master, LEN, 1).unwrap().into_device();
    let before = only.effort();
    s.fake.device_write(PhysAddr::new(only.bus().raw()), &[3; 64]);
    assert_eq!(s.fake.device_read(PhysAddr::new(only.bus().raw()), 64), [3; 64]);
    assert_eq!(only.effort(), before);
    assert_eq!(only.effort().lines(), Lines::default());
}

#[test]
fn a_bidirectional_turn_cleans_before_and_invalidates_after() {
    let s = Setup::new(6);
    let mut stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<Bidirectional>();
    stream.bytes_mut()[0] = 1;
    s.fake.take_log();
    let owned = stream.for_device();
    let frames = owned.frames();
    let clean = s.fake.take_log();
    assert_eq!(clean.first(), Some(&Op::Clean(frames)), "the clean comes before the unmap");
    assert_eq!(clean.last(), Some(&Op::Barrier));
    assert!(clean.contains(&Op::InvalidateTlb));
    s.fake.device_write(phys(&owned), &[2; 32]);
    let stream = back(owned);
    assert!(s.fake.take_log().is_empty(), "nothing until the CPU looks");
    assert_eq!(stream.bytes()[..32], [2; 32]);
    assert_eq!(s.fake.take_log(), [Op::Publish, Op::Invalidate(frames)], "mapped, then invalidated, once");
    let (once, stats) = (Lines { inner: LINES, outer: 0 }, s.dma.stats());
    assert_eq!((stream.effort().cleaned, stream.effort().invalidated), (once, once), "counted by operation");
    assert_eq!((stats.cleaned, stats.invalidated), (once, once));
}

#[test]
fn i4_no_mapping_exists_while_a_device_owns() {
    let s = Setup::new(7);
    let mut stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<ToDevice>();
    stream.bytes_mut()[0] = 1;
    assert_eq!(s.audit(), Ok(PAGES));
    let owned = stream.for_device();
    assert_eq!(s.audit(), Ok(0));
    for frame in owned.frames().iter() {
        assert_eq!(s.dma.state_of(frame), Some(Carved::Unmapped));
    }
}

#[test]
fn i5_a_new_owner_reads_zeros() {
    let s = Setup::new(8);
    let mut stream = s.dma.alloc(&s.master, REUSED, 1).unwrap().into_stream::<ToDevice>();
    stream.bytes_mut().fill(0x5a);
    drop(stream);
    let coherent = s.dma.alloc(&s.master, REUSED, 1).unwrap().into_coherent();
    let mut read = vec![1; REUSED as usize];
    coherent.read_at(0, &mut read);
    assert!(read.iter().all(|&byte| byte == 0));
    drop(coherent);
    let only = s.dma.alloc(&s.master, REUSED, 1).unwrap().into_device();
    assert!(s.fake.device_read(PhysAddr::new(only.bus().raw()), REUSED as usize).iter().all(|&byte| byte == 0));
}

#[test]
fn dropping_what_a_device_owns_quarantines_it() {
    let s = Setup::new(9);
    let area = s.dma.area("test").unwrap();
    let (free, _) = s.dma.free_bytes(area);
    drop(s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<FromDevice>().for_device());
    let lost = u64::from(PAGES) * 4096;
    assert_eq!(s.dma.free_bytes(area).0, free - lost);
    assert_eq!(s.dma.stats().quarantined, lost);
    // A coherent buffer whose address nobody was told is just freed; one whose address was told needs `release`.
    drop(s.dma.alloc(&s.master, LEN, 1).unwrap().into_coherent());
    assert_eq!(s.dma.stats().quarantined, lost);
    let told = s.dma.alloc(&s.master, LEN, 1).unwrap().into_coherent();
    let _ = told.bus();
    // SAFETY: there is no such device.
    drop(unsafe { told.release() });
    assert_eq!(s.dma.stats().quarantined, lost);
    let told = s.dma.alloc(&s.master, LEN, 1).unwrap().into_coherent();
    let _ = told.bus();
    drop(told);
    assert_eq!(s.dma.stats().quarantined, 2 * lost);
}

/// Each is told once, whoever had it, and whoever asks.
#[test]
fn who_asks_is_told_of_each_lost_buffer_once() {
    let s = Setup::new(9);
    assert_eq!(s.dma.next_quarantined(), None);
    let stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<FromDevice>().for_device();
    let coherent = s.dma.alloc(&s.master, LEN, 1).unwrap().into_coherent();
    let device = s.dma.alloc(&s.master, LEN, 1).unwrap().into_device();
    let kept = s.dma.alloc(&s.master, LEN, 1).unwrap().into_coherent();
    let _ = (coherent.bus(), device.bus(), kept.bus());
    let mut lost = [stream.frames(), coherent.frames(), device.frames()];
    drop((stream, coherent, device));
    let mut told: Vec<_> = core::iter::from_fn(|| s.dma.next_quarantined()).collect();
    assert!(told.iter().all(|record| record.holder == Holder::Quarantine && record.owner == s.master.name()));
    assert_eq!(told[0].to_string(), format!("quarantined buffer {} of {}", told[0].frames, s.master.name()));
    told.sort_by_key(|record| record.frames.start());
    lost.sort_by_key(|frames| frames.start());
    assert!(told.iter().map(|record| record.frames).eq(lost));
    drop(kept);
    assert!(s.dma.next_quarantined().is_some() && s.dma.next_quarantined().is_none());
}

#[test]
fn the_port_reaches_what_the_device_was_given_and_nothing_else() {
    let s = Setup::new(10);
    // SAFETY: the tests keep a device's promise: a port is closed before its buffer changes hands.
    let port = unsafe { Port::new(s.dma, s.master.clone()) };
    let mut stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<Bidirectional>();
    stream.bytes_mut()[100] = 42;
    let (at, frames) = (BusAddr::new(stream.frames().base().raw()), stream.frames());

    // I1: the CPU's write-back mapping stands, so a second one is refused by the ledger.
    let refused = port.open(at, 16).unwrap_err();
    let has = MemoryType::WriteBack;
    let first = frames.iter().next().unwrap();
    let wants = MemoryType::NonCacheable;
    assert_eq!(refused, PortError::Mapped(LedgerError::Mapped { frames, frame: first, has, wants }));

    let owned = stream.for_device();
    {
        let mut opened = port.open(BusAddr::new(at.raw() + 100), 2).unwrap();
        assert_eq!(opened.bytes()[0], 42);
        opened.bytes_mut()[1] = 43;
        assert_eq!(port.open(at, 1).unwrap_err(), PortError::InUse { frames });
    }
    assert_eq!(s.fake.device_read(phys(&owned), 102)[100..], [42, 43], "the port's writes are ordered at its end");
    assert_eq!(port.lines(), Lines { inner: PAGE_LINES, outer: 0 }, "the mock pays for its own mapping");
    let len = PAGES * 4096;
    assert_eq!(port.open(at, len + 1).unwrap_err(), PortError::NoBuffer { at, len: len + 1 });
    assert_eq!(port.open(at, 0).unwrap_err(), PortError::Length { at, len: 0 });
    let stream = back(owned);
    assert_eq!(port.open(at, 1).unwrap_err(), PortError::NotGranted { frames, holder: Holder::Cpu });
    assert_eq!(&stream.bytes()[100..102], [42, 43]);
    assert_eq!(s.audit(), Ok(PAGES));
}

#[test]
fn the_port_shares_the_mapping_of_a_coherent_buffer() {
    let s = Setup::new(11);
    // SAFETY: the tests keep a device's promise: a port is closed before its buffer changes hands.
    let port = unsafe { Port::new(s.dma, s.master.clone()) };
    let mut buffer = s.dma.alloc(&s.master, LEN, 1).unwrap().into_coherent();
    buffer.write_at(5, b"hello");
    let mut opened = port.open(buffer.bus(), 10).unwrap();
    assert_eq!(&opened.bytes()[5..], b"hello");
    opened.bytes_mut()[0] = b'>';
    drop(opened);
    let mut read = [0; 1];
    assert_eq!(buffer.read_at(0, &mut read), 1);
    assert_eq!(read, *b">");
    assert_eq!(s.audit(), Ok(PAGES), "one mapping, before and after");
    // SAFETY: the port is closed.
    drop(unsafe { buffer.release() });
}

#[test]
fn refusals_say_why() {
    let s = Setup::new(12);
    let fails = |bytes, align| s.dma.alloc(&s.master, bytes, align).unwrap_err();
    let wanted = 5 << 20;
    assert_eq!(fails(0, 1), AllocError::ZeroSize);
    assert_eq!(fails(1, 3), AllocError::Alignment { align: 3 });
    assert_eq!(fails(5 << 20, 1), AllocError::NoCapacity { wanted, free: CARVED_BYTES.into() });
    assert_eq!(fails(5 << 20, 1).to_string(), "no room for 5 MiB: 4 MiB free in the area");
    let homeless = Master::new("orphan", None);
    assert_eq!(s.dma.alloc(&homeless, 1, 1).unwrap_err(), AllocError::NoArea(None));
    // The last byte counts: a mask that ends one byte short of the buffer's end refuses it.
    let reach = CARVED.raw() + 0xffff;
    let near = s.master.clone().with_mask(BusAddr::new(reach));
    assert_eq!(s.dma.alloc(&near, 0x10000, 1).unwrap().frames().last_byte(), Some(PhysAddr::new(reach)));
    let short = s.master.clone().with_mask(BusAddr::new(reach - 1));
    let limits = Reach { last: BusAddr::new(reach - 1), ..Reach::ALL };
    let (free, any) = (u64::from(CARVED_BYTES), u64::from(CARVED_BYTES));
    let no_run = NoRun { wanted: 0x10000, align: 4096, reach: limits, free, largest: 0xf000, any };
    let refused = s.dma.alloc(&short, 0x10000, 1).unwrap_err();
    assert_eq!(refused, AllocError::OutOfReach(no_run));
    assert_eq!(
        refused.to_string(),
        "no run of 64 KiB at bus addresses up to 0x6020fffe: 4 MiB free in the area, the largest such run 60 KiB, the \
         largest of any kind 4 MiB"
    );
    // What would have fitted is what fits.
    assert!(s.dma.alloc(&short, 0xf000, 1).is_ok());
    let refused = s.dma.alloc(&short, 0x10000, 0x8000).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no run of 64 KiB aligned to 32 KiB at bus addresses up to 0x6020fffe: 4 MiB free in the area, the largest such run \
         at that alignment 60 KiB, the largest of any kind 4 MiB"
    );
    // The area begins and ends between two multiples of 16 MiB.
    let refused = fails(4096, 16 << 20);
    let no_run = NoRun { wanted: 4096, align: 16 << 20, reach: Reach::ALL, free, largest: 0, any };
    assert_eq!(refused, AllocError::Fragmented(no_run));
    assert_eq!(
        refused.to_string(),
        "no run of 4 KiB aligned to 16 MiB: 4 MiB free in the area, the largest run at that alignment 0 B, the largest of \
         any kind 4 MiB"
    );
    // Two free runs of 2 MiB less a page, none of 3 MiB.
    let buffers: Vec<_> = (0..1024).map(|_| s.dma.alloc(&s.master, 1, 1).unwrap()).collect();
    let (mut keep, mut go) = (Vec::new(), Vec::new());
    for buffer in buffers {
        let middle = buffer.frames().start() == (CARVED.raw() >> 12) + 512;
        if middle { keep.push(buffer) } else { go.push(buffer) }
    }
    drop(go);
    assert_eq!(keep.len(), 1);
    let (free, largest) = (u64::from(CARVED_BYTES) - 4096, 2 << 20);
    let fragmented = fails(3 << 20, 1);
    let no_run = NoRun { wanted: 3 << 20, align: 4096, reach: Reach::ALL, free, largest, any: largest };
    assert_eq!(fragmented, AllocError::Fragmented(no_run));
    let text = format!("no run of 3 MiB: {} free in the area, the largest run 2 MiB", Bytes(free));
    assert_eq!(fragmented.to_string(), text);
}

#[test]
fn places_are_named_for_fault_reports() {
    let s = Setup::new(13);
    let stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<FromDevice>();
    let first = stream.frames().iter().next().unwrap();
    let record = || match s.dma.place_of_frame(first) {
        Some(FaultPlace::Buffer(record)) => record,
        other => panic!("{other:?}, not a buffer"),
    };
    assert_eq!((record().holder, record().va), (Holder::Cpu, None), "zeroed in passing");
    let _ = stream.bytes();
    let stream = stream.for_device();
    let record = record();
    assert_eq!((record.owner, record.holder), ("camera".into(), Holder::Device));
    let va = record.va.expect("the CPU looked");
    assert_eq!(s.dma.place_of(va), FaultPlace::Buffer(record));
    let guard = VirtAddr::new(va.raw() + PAGES * 4096);
    assert_eq!(s.dma.place_of(guard), FaultPlace::Guard(record));
    assert_eq!(record.to_string(), format!("device-owned buffer {} of camera", stream.frames()));
    let _ = back(stream);
}

#[test]
fn the_audit_finds_a_planted_alias() {
    let s = Setup::new(14);
    let coherent = s.dma.alloc(&s.master, 4096, 1).unwrap().into_coherent();
    assert_eq!(s.audit(), Ok(1));
    // A second translation of the buffer's frame, non-cacheable too: legal for the fake, a finding for the audit.
    let base = coherent.frames().base();
    let share = Shareability::Shareable;
    let plant = |at: u32, memory| {
        let word = L2Desc::small(base, memory, Access::ReadWrite, share).raw();
        s.fake.publish(PhysAddr::new(at), &[word]);
    };
    // The last page of the window's first section.
    plant(L2.raw() + 4 * 255, MemoryType::NonCacheable);
    let second = VirtAddr::new(WINDOW.raw() + 255 * 4096);
    let finding = Finding::Twice { va: second, frame: Frame::containing(base) };
    assert_eq!(s.audit().map_err(|findings| (findings.first, findings.total())), Err((finding, 1)));
}

#[test]
fn a_part_written_is_the_part_cleaned() {
    let s = Setup::new(15);
    let mut stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<ToDevice>();
    stream.part_mut(100..164).unwrap().fill(1);
    assert_eq!(stream.part_mut(LEN as usize - 1..LEN as usize + 1), None);
    let owned = stream.for_device();
    assert_eq!(owned.effort().lines().inner, 3, "bytes 100 to 163 touch the lines at 96, 128 and 160");
    assert_eq!(s.fake.device_read(phys(&owned), 164)[99..], [&[0][..], &[1; 64]].concat());
    // Two parts: the lines between them go too, as one run.
    let mut stream = back(owned);
    stream.part_mut(0..1).unwrap().fill(2);
    stream.part_mut(128..129).unwrap().fill(3);
    assert_eq!(back(stream.for_device()).effort().lines().inner, 3 + 5);
}

#[test]
fn a_part_the_device_wrote_is_the_part_invalidated() {
    let s = Setup::new(16);
    let stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<FromDevice>();
    let _ = stream.bytes();
    let owned = stream.for_device();
    s.fake.device_write(PhysAddr::new(owned.bus().raw() + 4096), &[5; 1500]);
    // SAFETY: the fake's device is done, and wrote only that.
    let stream = unsafe { owned.for_cpu_part(4096..4096 + 1500) };
    assert_eq!(&stream.bytes()[4095..4096 + 1501], [&[0][..], &[5; 1500], &[0]].concat());
    assert_eq!(stream.effort().lines().inner, 47, "1500 bytes from a line's start");
    // Two turns without a look between them: what either wrote is stale.
    let owned = stream.for_device();
    s.fake.device_write(phys(&owned), &[6; 32]);
    // SAFETY: as above.
    let owned = unsafe { owned.for_cpu_part(0..32) }.for_device();
    s.fake.device_write(PhysAddr::new(owned.bus().raw() + 64), &[7; 32]);
    // SAFETY: as above.
    let stream = unsafe { owned.for_cpu_part(64..96) };
    assert_eq!(stream.bytes()[..96], [[6; 32], [0; 32], [7; 32]].concat());
    assert_eq!(stream.effort().lines().inner, 47 + 3);
}

#[test]
fn views_are_of_plain_old_data() {
    let s = Setup::new(17);
    let mut stream = s.dma.alloc(&s.master, 4098, 1).unwrap().into_stream::<Bidirectional>();
    let values = stream.values_mut::<u32>();
    assert_eq!(values.len(), 1024, "as many as fit");
    values[1] = 0x0403_0201;
    assert_eq!(stream.bytes()[4..8], [1, 2, 3, 4]);
    assert_eq!(stream.values::<[u16; 2]>()[1], [0x0201, 0x0403]);
    assert_eq!(stream.values::<()>(), []);
}

#[test]
fn what_one_owner_reuses_is_not_zeroed_again_and_what_another_gets_is() {
    let s = Setup::new(18);
    let only = s.dma.alloc(&s.master, LEN, 1).unwrap().into_device();
    let at = PhysAddr::new(only.bus().raw());
    s.fake.device_write(at, &[9; 100]);
    s.fake.take_log();
    let zeroed = s.dma.stats().zeroed;
    assert_eq!(zeroed, u64::from(PAGES) * 4096);
    assert_eq!(s.fake.device_read(at, 100), [9; 100], "the next job finds the last one's data");
    assert_eq!(s.fake.take_log(), [], "and nothing was done for it");
    // SAFETY: the fake's device is done.
    let again = unsafe { only.release() }.into_device();
    assert_eq!(s.fake.device_read(PhysAddr::new(again.bus().raw()), 100), [0; 100]);
    assert_eq!(s.dma.stats().zeroed, 2 * zeroed);
}

#[test]
fn who_holds_what_is_a_table_and_a_device_that_goes_away_leaves_none() {
    let s = Setup::new(19);
    let codec = s.bench.master("codec");
    let stream = s.dma.alloc(&s.master, LEN, 1).unwrap().into_stream::<FromDevice>().for_device();
    let coherent = s.dma.alloc(&codec, 4096, 1).unwrap().into_coherent();
    let table = s.dma.holders().to_string();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines[0], "device            bytes state           age  frames");
    let mine = format!("camera            20380 device-owned      2  {}", stream.frames());
    assert_eq!(lines[1], mine);
    assert_eq!(lines[2], format!("codec              4096 coherent          1  {}", coherent.frames()));
    assert_eq!(lines[3], "2 buffers, 24 KiB");
    let leak = s.dma.retire(&s.master).unwrap_err().to_string();
    assert_eq!(leak.lines().collect::<Vec<_>>(), [lines[0], &mine, "1 buffers, 20 KiB"]);
    drop(back(stream));
    assert!(s.dma.retire(&s.master).is_ok());
    drop(coherent);
    assert!(s.dma.retire(&codec).is_ok());
}

#[test]
fn a_bus_with_apertures_is_told_its_own_addresses() {
    let s = Setup::new(20);
    let window = Aperture { bus: BusAddr::new(0x1000), phys: PhysAddr::new(CARVED.raw() + 0x1000), bytes: 0x4000 };
    let master = s.master.clone().with_apertures(&[window]).unwrap();
    let buffer = s.dma.alloc(&master, 0x4000, 1).unwrap().into_device();
    assert_eq!((buffer.bus(), buffer.frames().base()), (BusAddr::new(0x1000), window.phys));
    let full = s.dma.alloc(&master, 1, 1).unwrap_err();
    assert!(matches!(full, AllocError::OutOfReach(_)));
    assert_eq!(
        full.to_string(),
        "no run of 4 KiB within its dma-ranges: 4080 KiB free in the area, the largest such run 0 B, the largest of any kind \
         4076 KiB"
    );
    // The port of such a master takes its addresses, and the mapping is of the memory behind them.
    // SAFETY: the tests keep a device's promise: a port is closed before its buffer changes hands.
    let port = unsafe { Port::new(s.dma, master) };
    port.open(BusAddr::new(0x1000), 4).unwrap().bytes_mut().copy_from_slice(b"here");
    assert_eq!(s.fake.device_read(window.phys, 4), b"here");
    // SAFETY: the port is closed.
    drop(unsafe { buffer.release() });
}

#[test]
fn an_area_of_another_machine_is_none() {
    let (a, b) = (Bench::new(23), Bench::new(24));
    let (theirs, free) = (a.dma.area("test").unwrap(), b.free_bytes());
    let line = "the device has no area to allocate from: the one it has is another `Dma`'s";
    let refused = b.dma.alloc(&a.master("camera"), 4096, 1).unwrap_err();
    assert_eq!(refused.to_string(), line);
    let set = ContractSet { count: 1, bytes: 4096, align: 1 };
    let refused = b.dma.contract(&a.master("camera"), &[set]).map(drop).unwrap_err();
    assert_eq!(refused.to_string(), format!("contract refused: 1 x 4 KiB: {line}"));
    let shape = BlockShape { size: 64, align: 64, boundary: None };
    let refused = Pool::new(b.dma, &a.master("camera"), shape, 1).map(drop).unwrap_err();
    assert!(matches!(refused, PoolError::Alloc(AllocError::NoCapacity { free: 0, .. } | AllocError::NoArea(_))));
    b.dma.set_reserve(theirs, 4096);
    assert_eq!((b.dma.free_bytes(theirs), b.dma.idle_work(theirs, 64)), ((0, 0), 0));
    assert_eq!((b.free_bytes(), b.dma.stats().zeroed), (free, 0), "nothing was taken or prepared");
    assert_eq!((a.dma.area_at(0), b.dma.area_at(0) == Some(theirs)), (Some(theirs), false));
}

/// I7 too: a contract's slots are placed by the same search.
#[test]
fn alignment_is_that_of_the_address_the_device_is_told() {
    let s = Setup::new(22);
    // Two windows: one shifts by a page, the other by 64 KiB.
    let window =
        |bus, offset, bytes| Aperture { bus: BusAddr::new(bus), phys: PhysAddr::new(CARVED.raw() + offset), bytes };
    let windows = [window(0x1000, 0, 1 << 20), window(0x4001_0000, 1 << 20, 3 << 20)];
    let master = s.master.clone().with_apertures(&windows).unwrap();
    let (mut told, mut frames) = (Vec::new(), 0);
    let refused = loop {
        match s.dma.alloc(&master, 0x10000, 0x20000) {
            Ok(buffer) => told.push(buffer.into_coherent()),
            Err(error) => break error,
        }
    };
    for buffer in &told {
        assert!(buffer.bus().is_aligned(0x20000), "64 KiB aligned to 128 KiB at {}", buffer.bus());
        frames += buffer.frames().count();
    }
    // Of the first window 1 MiB from bus 0x1000 on, of the second 3 MiB from 0x40010000 on, each second 64 KiB.
    assert_eq!((told.len(), frames), (7 + 24, 31 * 16));
    let NoRun { align, largest, .. } = match refused {
        AllocError::OutOfReach(no_run) | AllocError::Fragmented(no_run) => no_run,
        error => panic!("{error}"),
    };
    // The last 128 KiB of the first window begin at bus 0xe0000 + 0x20000 and lack a page.
    assert_eq!((align, largest), (0x20000, 0x1000));
    for buffer in told {
        // SAFETY: no device was told.
        drop(unsafe { buffer.release() });
    }
    let sets = [
        ContractSet { count: 3, bytes: 8192, align: 0x4000 },
        ContractSet { count: 1, bytes: 0x20000, align: 0x20000 },
    ];
    let contract = s.dma.contract(&master.clone().with_mask(BusAddr::new(0xf_ffff)), &sets).unwrap();
    let mut held = Vec::new();
    for (bytes, align) in [(8192, 0x4000), (8192, 0x4000), (8192, 0x4000), (0x20000, 0x20000)] {
        let buffer = contract.alloc(bytes, align).unwrap().into_stream::<ToDevice>().for_device();
        assert!(buffer.bus().is_aligned(align), "{bytes:#x} bytes aligned to {align:#x} at {}", buffer.bus());
        held.push(back(buffer));
    }
}

#[test]
fn buffers_do_not_cross_a_boundary() {
    let s = Setup::new(21);
    let master = s.master.clone().with_boundary(0x10000).unwrap();
    let buffers: Vec<_> = (0..40).map(|_| s.dma.alloc(&master, 0x6000, 1).unwrap().into_device()).collect();
    for buffer in &buffers {
        let (first, last) = (buffer.frames().base().raw(), buffer.frames().last_byte().unwrap().raw());
        assert_eq!(first >> 16, last >> 16, "{buffer:?}");
    }
    assert!(s.dma.alloc(&master, 0x11000, 1).is_err(), "larger than the boundary");
}

/// What a random walk may do with one buffer.
#[derive(Clone, Copy, Debug)]
enum Step {
    CpuWrite(u8),
    CpuRead,
    DeviceWrite(u8),
    DeviceRead,
    Recreate,
    Disturb,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u8>().prop_map(Step::CpuWrite),
        Just(Step::CpuRead),
        any::<u8>().prop_map(Step::DeviceWrite),
        Just(Step::DeviceRead),
        Just(Step::Recreate),
        Just(Step::Disturb),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Random hand-overs, accesses and evictions: the bytes are always those last written, by whoever wrote them.
    #[test]
    fn data_survives_every_walk(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..40)) {
        let s = Setup::new(seed);
        if seed % 2 == 1 {
            // Around the number from which on whole caches are emptied.
            s.fake.can_flush(24 + (seed % 16) as u32);
        }
        let new = || s.dma.alloc(&s.master, 4096 * 2, 1).unwrap().into_stream::<Bidirectional>();
        let mut model = vec![0u8; 8192];
        let mut stream = new();
        for (n, step) in steps.into_iter().enumerate() {
            let place = (n * 1237) % 8000;
            match step {
                Step::CpuWrite(value) => {
                    stream.bytes_mut()[place..place + 70].fill(value);
                    model[place..place + 70].fill(value);
                }
                Step::CpuRead => prop_assert_eq!(stream.bytes(), &model[..]),
                Step::DeviceWrite(value) => {
                    let owned = stream.for_device();
                    let at = PhysAddr::new(owned.bus().raw() + place as u32);
                    s.fake.device_write(at, &[value; 70]);
                    model[place..place + 70].fill(value);
                    stream = back(owned);
                }
                Step::DeviceRead => {
                    let owned = stream.for_device();
                    prop_assert_eq!(&s.fake.device_read(phys(&owned), 8192)[..], &model[..]);
                    stream = back(owned);
                }
                Step::Recreate => {
                    drop(stream);
                    stream = new();
                    model.fill(0);
                }
                Step::Disturb => s.fake.disturb(),
            }
            prop_assert!(s.audit().is_ok());
        }
    }
}
