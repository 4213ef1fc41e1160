//! Pages of a device's stream that the CPU has for a while, on the fake.

use carveout::addr::{PhysAddr, VirtAddr};
use carveout::dma::{
    Bidirectional, DataDirection, Device, Direction, DirectionError, Dma, FaultPlace, FromDevice, Holder, PagesError,
    Port, PortError, Stream, ToDevice,
};
use carveout::fake::{Fake, LINE, Op};
use carveout::machine::Mmu;
use carveout::setup::Setup;
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

const PAGE: usize = 4096;

fn pages(range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    range.start * PAGE..range.end * PAGE
}

fn device_write(s: &Setup, stream: &Stream<Fake, impl Direction, Device>, at: usize, bytes: &[u8]) {
    s.fake.device_write(PhysAddr::new(stream.bus().raw() + at as u32), bytes);
}

fn device_read(s: &Setup, stream: &Stream<Fake, impl Direction, Device>, at: usize, len: usize) -> Vec<u8> {
    s.fake.device_read(PhysAddr::new(stream.bus().raw() + at as u32), len)
}

#[test]
fn i4_the_rest_stays_the_device_s_and_unmapped() {
    for seed in 0..10 {
        let s = Setup::new(seed);
        // Of sections and pages.
        let bytes = (1 << 20) + 3 * PAGE;
        let mut ring =
            s.dma.alloc(&s.master("dsp"), bytes as u32, 1 << 20).unwrap().into_stream::<FromDevice>().for_device();
        let bus = ring.bus();
        for n in [3, 0, 257, 3] {
            device_write(&s, &ring, n * PAGE, &[n as u8 + 1; PAGE]);
            let next = PhysAddr::new(bus.raw() + ((n + 1) * PAGE) as u32);
            let mut at = None;
            // SAFETY: the fake's device wrote this page before, and writes others meanwhile (I4).
            let seen = unsafe {
                ring.with_pages(pages(n..n + 1), |bytes| {
                    // The device goes on with the next page.
                    s.fake.device_write(next, &[0xee; PAGE]);
                    s.fake.disturb();
                    at = Some(VirtAddr::new(s.dma.holders_va() + (n * PAGE) as u32));
                    bytes.to_vec()
                })
            };
            assert_eq!(seen.unwrap(), [n as u8 + 1; PAGE]);
            let (record_va, va) = (s.dma.holders_va(), at.unwrap());
            assert_eq!(record_va + (n * PAGE) as u32, va.raw(), "a buffer's addresses do not change");
            assert!(catch_unwind(AssertUnwindSafe(|| s.fake.reach(va, 1))).is_err(), "unmapped again");
            assert!(matches!(s.dma.place_of(va), FaultPlace::Buffer(record) if record.holder == Holder::Device));
            assert_eq!(ring.bus(), bus);
        }
        s.audit().expect("I1");
        // SAFETY: the fake's device accesses are over (I4).
        let ring = unsafe { ring.for_cpu() };
        assert_eq!((ring.bytes()[3 * PAGE], ring.bytes()[4 * PAGE], ring.bytes()[257 * PAGE]), (4, 0xee, 2));
    }
}

trait HoldersVa {
    fn holders_va(&self) -> u32;
}

impl HoldersVa for Dma<Fake> {
    /// The address of the only buffer.
    fn holders_va(&self) -> u32 {
        let mut found = None;
        self.holders().for_each(|record| found = record.va);
        found.expect("it has addresses").raw()
    }
}

#[test]
fn i3_the_device_finds_what_the_cpu_wrote_to_a_page() {
    let s = Setup::new(1);
    let mut stream = s.dma.alloc(&s.master("dsp"), 3 * PAGE as u32 + 5, 1).unwrap().into_stream::<Bidirectional>();
    stream.bytes_mut().fill(1);
    let mut stream = stream.for_device();
    // SAFETY: the fake's device does nothing meanwhile (I4).
    unsafe { stream.with_pages_mut(pages(1..2), |bytes| bytes.fill(2)) }.unwrap();
    // SAFETY: as above.
    unsafe { stream.with_pages_mut(3 * PAGE..3 * PAGE + 5, |bytes| bytes.fill(3)) }.unwrap();
    let found = device_read(&s, &stream, 0, 3 * PAGE + 5);
    let expected = [&[1; PAGE][..], &[2; PAGE], &[1; PAGE], &[3; 5]].concat();
    assert_eq!(found, expected);
    device_write(&s, &stream, PAGE, &[4; PAGE]);
    // SAFETY: the fake's device accesses are over (I4).
    let stream = unsafe { stream.for_cpu() };
    assert_eq!(stream.bytes()[..3 * PAGE], [[1; PAGE], [4; PAGE], [1; PAGE]].concat());
}

#[test]
fn a_page_costs_its_own_lines_and_a_panic_gives_it_back() {
    let s = Setup::new(2);
    let mut stream =
        s.dma.alloc(&s.master("dsp"), 8 * PAGE as u32, 1).unwrap().into_stream::<FromDevice>().for_device();
    let lines = |stream: &Stream<Fake, FromDevice, Device>| stream.effort().invalidated.inner;
    let look = |stream: &mut Stream<Fake, FromDevice, Device>| {
        // SAFETY: the fake's device does nothing meanwhile (I4).
        unsafe { stream.with_pages(pages(2..3), |bytes| bytes[0]) }.unwrap()
    };
    look(&mut stream);
    assert_eq!(lines(&stream), 0, "the CPU never saw the buffer: nothing can be stale");
    look(&mut stream);
    assert_eq!(lines(&stream), (PAGE / LINE) as u64);
    let boom = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: as above.
        let _ = unsafe { stream.with_pages(pages(0..8), |_| panic!("boom")) };
    }));
    assert!(boom.is_err());
    device_write(&s, &stream, 2 * PAGE, &[9]);
    assert_eq!(look(&mut stream), 9);
    // SAFETY: the fake's device accesses are over (I4).
    drop(unsafe { stream.for_cpu() });
    assert_eq!((s.free_bytes(), s.dma.stats().quarantined), (u64::from(carveout::setup::CARVED_BYTES), 0));
}

#[test]
fn bad_ranges_and_open_ports_are_refused_and_nothing_changes() {
    let s = Setup::new(3);
    let master = s.master("dsp");
    let mut stream =
        s.dma.alloc(&master, 2 * PAGE as u32 + 1, 1).unwrap().into_stream_of(DataDirection::FromDevice).for_device();
    let before = s.dma.stats();
    let mut fails = |range: std::ops::Range<usize>| {
        // SAFETY: the fake's device does nothing meanwhile (I4).
        unsafe { stream.with_pages(range, <[u8]>::len) }.unwrap_err()
    };
    let bytes = 2 * PAGE + 1;
    assert_eq!(fails(0..bytes + 1), PagesError::Outside { start: 0, end: bytes + 1, bytes });
    #[expect(clippy::reversed_empty_ranges, reason = "a range that is not in order")]
    let reversed = fails(PAGE..0);
    assert_eq!(reversed.to_string(), "bytes 4096..0 are not in a buffer of 8193 bytes");
    for range in [0..1, 1..PAGE, PAGE..PAGE, bytes..bytes, 0..2 * PAGE - 1] {
        let (start, end) = (range.start, range.end);
        assert_eq!(fails(range), PagesError::NotWholePages { start, end });
    }
    let why = PagesError::NotWholePages { start: 0, end: 1 }.to_string();
    assert_eq!(why, "bytes 0..1 are no whole pages: they must begin and end at multiples of 4096");
    // SAFETY: as above.
    let refused = unsafe { stream.try_with_pages_mut(0..PAGE, |_| ()) }.unwrap_err();
    assert_eq!(refused, PagesError::Direction(DirectionError::ReadOnly { has: DataDirection::FromDevice }));
    assert_eq!(s.dma.stats(), before);
    // SAFETY: the port is closed before the buffer changes hands.
    let port = unsafe { Port::new(s.dma, master) };
    let open = port.open(stream.bus(), 1).unwrap();
    // SAFETY: as above.
    let refused = unsafe { stream.with_pages(0..PAGE, |_| ()) }.unwrap_err();
    assert!(matches!(refused, PagesError::Mapped(_)), "{refused}");
    drop(open);
    // SAFETY: as above.
    unsafe {
        stream.with_pages(0..PAGE, |_| {
            let refused = port.open(s.dma_bus(), 1).unwrap_err();
            assert!(matches!(refused, PortError::Mapped(_)), "{refused}");
        })
    }
    .unwrap();
    drop(port.open(stream.bus(), 1).expect("the device has all of it again"));
    // SAFETY: the fake's device accesses are over (I4).
    drop(unsafe { stream.for_cpu() });
}

trait DmaBus {
    fn dma_bus(&self) -> carveout::addr::BusAddr;
}

impl DmaBus for Setup {
    /// The bus address of the only buffer.
    fn dma_bus(&self) -> carveout::addr::BusAddr {
        let mut found = None;
        self.dma.holders().for_each(|record| found = Some(record.frames.base()));
        carveout::addr::BusAddr::new(found.expect("there is one").raw())
    }
}

/// One operation after the other is left out; the fake must notice each time.
#[test]
fn i3_i4_each_operation_is_needed() {
    let trip = |seed: u64, left_out: Option<usize>| {
        let s = Setup::new(seed);
        let mut stream = s.dma.alloc(&s.master("dsp"), 2 * PAGE as u32, 1).unwrap().into_stream::<Bidirectional>();
        stream.bytes_mut().fill(1);
        let mut stream = stream.for_device();
        device_write(&s, &stream, 0, &[2; PAGE]);
        s.fake.take_log();
        if let Some(count) = left_out {
            s.fake.leave_out(count);
        }
        for n in 3..5 {
            // SAFETY: the fake's device does nothing meanwhile (I4).
            let found = unsafe {
                stream.with_pages_mut(pages(0..1), |bytes| {
                    let found = bytes[PAGE - 1];
                    bytes.fill(n);
                    found
                })
            };
            assert_eq!(found, Ok(n - 1));
            s.audit().expect("nothing maps it");
            assert_eq!(device_read(&s, &stream, 0, PAGE), [n; PAGE]);
            device_write(&s, &stream, 0, &[n; PAGE]);
        }
        let log = s.fake.take_log();
        // SAFETY: the fake's device accesses are over (I4).
        assert_eq!(unsafe { stream.for_cpu() }.bytes()[0], 4);
        log
    };
    let log = trip(1, None);
    let one = [Op::Publish, log[1], log[2], Op::Publish, Op::InvalidateTlb, Op::Barrier];
    assert!(matches!((log[1], log[2]), (Op::Invalidate(_), Op::Clean(_))), "{log:?}");
    assert_eq!(log, [one, one].concat());
    for (left_out, op) in log.iter().enumerate() {
        let missed = |seed| catch_unwind(AssertUnwindSafe(|| trip(seed, Some(left_out)))).is_ok();
        let seeds: Vec<_> = (0..20).filter(|&seed| missed(seed)).collect();
        assert_eq!(seeds, [], "{op:?}, number {left_out}, is left out and nothing went wrong");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    DeviceWrite(usize, u8),
    Look(usize, usize),
    Write(usize, usize, u8),
    Round,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<(usize, u8)>().prop_map(|(at, value)| Step::DeviceWrite(at, value)),
        3 => any::<(usize, usize)>().prop_map(|(first, count)| Step::Look(first, count)),
        3 => any::<(usize, usize, u8)>().prop_map(|(first, count, value)| Step::Write(first, count, value)),
        1 => Just(Step::Round),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against an array of bytes: whoever looks at a page sees what was written last, CPU or device (I3, I4).
    #[test]
    fn both_sides_see_what_was_written_last(
        seed in any::<u64>(),
        more in 1..PAGE,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let s = Setup::new(seed);
        let len = 5 * PAGE + more;
        let mut model = vec![0; len];
        let stream = s.dma.alloc(&s.master("dsp"), len as u32, 1).unwrap().into_stream::<Bidirectional>();
        let mut stream = stream.for_device();
        let range = |first: usize, count: usize| {
            let first = first % 6;
            first * PAGE..len.min((first + 1 + count % (6 - first)) * PAGE)
        };
        for step in steps {
            match step {
                Step::DeviceWrite(at, value) => {
                    let at = at % len;
                    let end = len.min(at + 300);
                    model[at..end].fill(value);
                    device_write(&s, &stream, at, &model[at..end]);
                }
                Step::Look(first, count) => {
                    let range = range(first, count);
                    // SAFETY: the fake's device does nothing meanwhile (I4).
                    let same = unsafe { stream.with_pages(range.clone(), |bytes| bytes == &model[range]) };
                    prop_assert_eq!(same, Ok(true));
                }
                Step::Write(first, count, value) => {
                    let range = range(first, count);
                    // SAFETY: as above.
                    let same = unsafe {
                        stream.with_pages_mut(range.clone(), |bytes| {
                            let same = bytes == &model[range.clone()];
                            bytes.fill(value);
                            same
                        })
                    };
                    prop_assert_eq!(same, Ok(true));
                    model[range].fill(value);
                }
                Step::Round => {
                    // SAFETY: as above.
                    let cpu = unsafe { stream.for_cpu() };
                    prop_assert_eq!(cpu.bytes(), &model[..]);
                    stream = cpu.for_device();
                }
            }
            prop_assert_eq!(&device_read(&s, &stream, 0, len), &model);
        }
        prop_assert!(s.audit().is_ok());
        // SAFETY: as above.
        drop(unsafe { stream.for_cpu() });
    }
}

#[test]
fn a_stream_to_the_device_is_not_invalidated() {
    let s = Setup::new(4);
    let mut stream = s.dma.alloc(&s.master("dsp"), 2 * PAGE as u32, 1).unwrap().into_stream::<ToDevice>().for_device();
    for n in 0..3 {
        // SAFETY: the fake's device does nothing meanwhile (I4).
        unsafe { stream.with_pages_mut(pages(0..1), |bytes| bytes.fill(n)) }.unwrap();
        assert_eq!(device_read(&s, &stream, 0, PAGE), [n; PAGE]);
    }
    assert_eq!(stream.effort().invalidated.inner, 0);
    // SAFETY: the fake's device accesses are over (I4).
    drop(unsafe { stream.for_cpu() });
}
