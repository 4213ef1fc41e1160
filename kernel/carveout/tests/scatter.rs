//! Scatter-gather on the fake: one hand-over of many buffers, and the segments a device is given.

use carveout::addr::{BusAddr, FrameRange, PhysAddr};
use carveout::dma::{
    Aperture, Bidirectional, Cpu, Device, Direction, Dma, FaultPlace, FromDevice, Holder, Master, ScatterError,
    ScatterTable, Segment, Stream, ToDevice, TypedDirection,
};
use carveout::fake::{Fake, Op};
use carveout::machine::Lines;
use carveout::setup::{self, Setup as Bench};
use carveout::vm::ledger::Carved;
use proptest::prelude::*;

const CARVED: u64 = setup::CARVED.raw() as u64;
/// A small area: what is taken from it soon shows.
const CARVED_BYTES: u64 = 1 << 20;

struct Setup {
    fake: &'static Fake,
    dma: &'static Dma<Fake>,
    master: Master,
}

impl Setup {
    fn new(seed: u64) -> Self {
        let bench = Bench::with_area(seed, CARVED_BYTES as u32);
        let (fake, dma, master) = (bench.fake, bench.dma, bench.master("dma-engine"));
        Self { fake, dma, master }
    }

    fn stream<D: TypedDirection>(&self, bytes: u32) -> Stream<Fake, D, Cpu> {
        self.dma.alloc(&self.master, bytes, 1).unwrap().into_stream()
    }

    fn table<D: TypedDirection>(&self, bytes: &[u32]) -> ScatterTable<Fake, D, Cpu> {
        ScatterTable::new(bytes.iter().map(|&bytes| self.stream(bytes)).collect())
    }

    /// A device that goes through its segments, as a descriptor list makes it.
    fn device_write(&self, segments: &[Segment], data: &[u8]) {
        let mut left = data;
        for segment in segments {
            let (now, later) = left.split_at(segment.bytes as usize);
            self.fake.device_write(PhysAddr::new(segment.bus.raw()), now);
            left = later;
        }
        assert!(left.is_empty());
    }

    fn device_read(&self, segments: &[Segment]) -> Vec<u8> {
        let read = |segment: &Segment| self.fake.device_read(PhysAddr::new(segment.bus.raw()), segment.bytes as usize);
        segments.iter().flat_map(read).collect()
    }
}

fn segments<D: Direction>(table: &ScatterTable<Fake, D, Device>, master: &Master) -> Vec<Segment> {
    table.segments(master).unwrap().collect()
}

fn back<D: Direction>(table: ScatterTable<Fake, D, Device>) -> ScatterTable<Fake, D, Cpu> {
    // SAFETY: the fake's device accesses are over when the calls return.
    unsafe { table.for_cpu() }
}

fn pattern(len: u64, salt: u8) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8 ^ salt).collect()
}

fn at(base: u64, bytes: u32) -> Segment {
    Segment { bus: BusAddr::new(base as u32), bytes }
}

#[test]
fn one_barrier_ends_the_hand_over_of_all() {
    let s = Setup::new(1);
    let mut table = s.table::<ToDevice>(&[4096, 8192, 100, 4096]);
    for view in table.views_mut() {
        view.fill(9);
    }
    s.fake.take_log();
    let owned = table.for_device();
    let log = s.fake.take_log();
    assert_eq!(log.iter().filter(|&&op| op == Op::Barrier).count(), 1);
    assert_eq!(log.last(), Some(&Op::Barrier), "after all cleans and unmaps");
    let cleans = log.iter().filter(|op| matches!(op, Op::Clean(_))).count();
    assert_eq!(cleans, 4);
    assert_eq!(s.device_read(&segments(&owned, &s.master)), vec![9; 16484]);
    s.fake.take_log();
    back(back(owned).for_device());
    assert_eq!(s.fake.take_log(), [], "it was due for all, and is due for none");
}

#[test]
fn whole_caches_are_emptied_once_for_all() {
    let s = Setup::new(1);
    // None of the buffers has as many lines alone.
    s.fake.can_flush(16484 / 32 / 8);
    let mut table = s.table::<Bidirectional>(&[4096, 8192, 100, 4096]);
    for view in table.views_mut() {
        view.fill(9);
    }
    s.fake.take_log();
    let owned = table.for_device();
    let log = s.fake.take_log();
    assert_eq!(log.iter().filter(|&&op| op == Op::Flush).count(), 1);
    let last_unmap = log.iter().rposition(|&op| op == Op::InvalidateTlb);
    assert!(last_unmap < log.iter().position(|&op| op == Op::Flush), "after all unmaps");
    assert_eq!(log.iter().filter(|op| matches!(op, Op::Clean(_))).count(), 0);
    assert_eq!(s.device_read(&segments(&owned, &s.master)), vec![9; 16484]);
    s.fake.take_log();
    let back = back(owned);
    assert_eq!(back.views().map(<[u8]>::len).sum::<usize>(), 16484);
    assert!(!s.fake.take_log().iter().any(|op| matches!(op, Op::Invalidate(_))), "no line is stale");
}

/// A buffer without lines, in a list whose other buffers have many, is weighed anew the next time.
#[test]
fn a_list_that_was_flushed_leaves_nothing_to_the_next_hand_over() {
    let s = Setup::new(1);
    s.fake.can_flush(8192 / 32 / 8);
    let (mut full, never_seen) = (s.stream::<Bidirectional>(8192), s.stream::<Bidirectional>(4096));
    full.bytes_mut().fill(9);
    let owned = ScatterTable::new(vec![never_seen, full]).for_device();
    assert_eq!(s.dma.stats().flushes, 1);
    let mut streams = back(owned).into_streams();
    let mut small = streams.swap_remove(0);
    small.part_mut(0..32).unwrap().fill(7);
    s.fake.take_log();
    let owned = small.for_device();
    assert!(s.fake.take_log().iter().any(|op| matches!(op, Op::Clean(_))), "few lines go one by one");
    assert_eq!(s.dma.stats().flushes, 1);
    assert_eq!(s.fake.device_read(PhysAddr::new(owned.bus().raw()), 32), [7; 32]);
}

#[test]
fn i3_buffers_of_two_machines_get_the_barrier_of_each() {
    let (a, b) = (Setup::new(31), Setup::new(32));
    let filled = |s: &Setup| {
        let mut stream = s.stream::<ToDevice>(4096);
        stream.bytes_mut().fill(7);
        stream
    };
    let table = ScatterTable::new(vec![filled(&a), filled(&a), filled(&b), filled(&b), filled(&a)]);
    for s in [&a, &b] {
        s.fake.take_log();
    }
    let owned = table.for_device();
    for s in [&a, &b] {
        assert_eq!(s.fake.take_log().last(), Some(&Op::Barrier));
    }
    for (s, stream) in [&a, &a, &b, &b, &a].into_iter().zip(owned.into_streams()) {
        // The fake finds what was cleaned and not ordered.
        assert_eq!(s.fake.device_read(PhysAddr::new(stream.bus().raw()), 4096), [7; 4096]);
        // SAFETY: the fake's device accesses are over when the calls return.
        drop(unsafe { stream.for_cpu() });
    }
}

#[test]
fn only_buffers_the_cpu_wrote_are_cleaned_and_only_those_it_looks_at_are_invalidated() {
    let s = Setup::new(2);
    let mut table = s.table::<Bidirectional>(&[4096, 8192, 4096]);
    table.views_mut().next().unwrap()[0] = 1;
    assert_eq!(table.views().nth(1).unwrap()[0], 0);
    let owned = table.for_device();
    assert_eq!(owned.effort().lines(), Lines { inner: 128, outer: 0 }, "the first one's, dirty");
    s.device_write(&segments(&owned, &s.master), &pattern(16384, 3));
    s.fake.take_log();
    let table = back(owned);
    assert_eq!(s.fake.take_log(), [], "nothing until the CPU looks");
    assert_eq!(table.views().last().unwrap().len(), 4096);
    let lines = Lines { inner: 128 + 128 + 256, outer: 0 };
    assert_eq!(table.effort().lines(), lines, "the third was never mapped write-back before");
    assert_eq!(table.views().collect::<Vec<_>>().concat(), pattern(16384, 3));
    assert_eq!(table.effort().lines(), lines);
}

#[test]
fn device_to_device_costs_no_line_no_mapping_and_no_barrier() {
    let s = Setup::new(3);
    let owned = s.table::<Bidirectional>(&[4096, 5000]).for_device();
    let before = owned.effort();
    s.device_write(&segments(&owned, &s.master), &pattern(9096, 1));
    s.fake.take_log();
    let owned = back(owned).for_device();
    assert_eq!(s.fake.take_log(), [], "not even a barrier: the CPU did nothing");
    assert_eq!(s.device_read(&segments(&owned, &s.master)), pattern(9096, 1));
    assert_eq!((owned.effort().lines(), owned.effort().map_changes), (before.lines(), before.map_changes));
    back(owned);
}

#[test]
fn i4_all_buffers_are_the_device_s_or_none_is() {
    let s = Setup::new(4);
    let mut table = s.table::<ToDevice>(&[4096, 8192]);
    table.views_mut().for_each(|view| view[0] = 1);
    let owned = table.for_device();
    let streams = owned.into_streams();
    for frame in streams.iter().flat_map(|stream| stream.frames().iter()) {
        assert_eq!(s.dma.state_of(frame), Some(Carved::Unmapped));
        let Some(FaultPlace::Buffer(record)) = s.dma.place_of_frame(frame) else { panic!("no buffer at {frame:?}") };
        assert_eq!(record.holder, Holder::Device);
    }
    drop(streams);
    assert_eq!(s.dma.stats().quarantined, 3 * 4096, "dropped while the device's");
}

#[test]
fn buffers_adjacent_on_the_bus_share_a_segment_and_a_part_page_ends_one() {
    let s = Setup::new(5);
    let owned = s.table::<FromDevice>(&[4096, 8192, 100, 4096, 7]).for_device();
    let all = segments(&owned, &s.master);
    assert_eq!(all, [at(CARVED, 4096 + 8192 + 100), at(CARVED + 0x4000, 4096 + 7)], "the last byte asked for ends it");
    // In another order they are not adjacent.
    let mut streams = back(owned).into_streams();
    streams.swap(0, 1);
    let owned = ScatterTable::new(streams).for_device();
    let all = segments(&owned, &s.master);
    let swapped = [at(CARVED + 0x1000, 8192), at(CARVED, 4096), at(CARVED + 0x3000, 100), at(CARVED + 0x4000, 4103)];
    assert_eq!(all, swapped);
    assert_eq!(owned.bytes(), 4096 + 8192 + 100 + 4096 + 7);
    back(owned);
}

#[test]
fn segments_stop_at_the_largest_and_at_boundaries() {
    let s = Setup::new(6);
    let owned = s.table::<FromDevice>(&[0x3000, 0x3000]).for_device();
    let master = s.master.clone().with_max_segment(0x1800).unwrap();
    let all = segments(&owned, &master);
    assert_eq!(all, (0..4).map(|n| at(CARVED + n * 0x1800, 0x1800)).collect::<Vec<_>>());
    let master = master.with_boundary(0x4000).unwrap();
    let all = segments(&owned, &master);
    let cut = [(0, 0x1800), (0x1800, 0x1800), (0x3000, 0x1000), (0x4000, 0x1800), (0x5800, 0x800)];
    assert_eq!(all, cut.map(|(offset, bytes)| at(CARVED + offset, bytes)));
    back(owned);
}

#[test]
fn a_table_of_no_buffers_has_no_segments_and_costs_nothing() {
    let s = Setup::new(7);
    s.fake.take_log();
    let owned = s.table::<ToDevice>(&[]).for_device();
    assert_eq!(owned.segments(&s.master).unwrap().count(), 0);
    assert_eq!(s.fake.take_log(), []);
}

#[test]
fn another_device_is_given_all_of_it_or_nothing() {
    let s = Setup::new(8);
    let owned = s.table::<Bidirectional>(&[4096, 5000]).for_device();
    let reach = |last: u64| Master::new("old-engine", None).with_mask(BusAddr::new(last as u32));
    // The last byte asked for counts, not the last of its page.
    assert_eq!(segments(&owned, &reach(CARVED + 9095)), [at(CARVED, 9096)]);
    let refused = owned.segments(&reach(CARVED + 9094)).map(|_| ()).unwrap_err();
    let frames = FrameRange::within(CARVED + 4096, 8192);
    let byte = PhysAddr::new((CARVED + 9095) as u32);
    assert_eq!(refused, ScatterError::OutOfReach { master: "old-engine".into(), frames, at: byte });
    let text = "old-engine does not reach 0x60202387 in buffer 0x60201000-0x60203000 (8 KiB)";
    assert_eq!(refused.to_string(), text);
    back(owned);
}

#[test]
fn a_single_buffer_has_segments_too() {
    let s = Setup::new(8);
    let engine = s.master.clone().with_max_segment(4095 * 4).unwrap();
    let only = s.dma.alloc(&s.master, 40_000, 1).unwrap().into_device();
    let first = u64::from(only.frames().base().raw());
    let listed: Vec<_> = only.segments(&engine).unwrap().collect();
    assert_eq!(listed, [at(first, 16380), at(first + 16380, 16380), at(first + 32760, 7240)]);
    // A device that does not reach it is told nothing, and so a drop frees.
    let short = s.master.clone().with_mask(BusAddr::new(first as u32 + 0xfff));
    let coherent = s.dma.alloc(&s.master, 8192, 1).unwrap().into_coherent();
    let last = coherent.frames().base();
    let refused = coherent.segments(&short).map(drop).unwrap_err();
    assert_eq!(refused, ScatterError::OutOfReach { master: "dma-engine".into(), frames: coherent.frames(), at: last });
    drop(coherent);
    assert_eq!(s.dma.stats().quarantined, 0);
    // One that has it may use it until it says otherwise.
    drop(only);
    assert_eq!(s.dma.stats().quarantined, 40_960);
}

#[test]
fn a_hole_between_windows_is_not_bridged() {
    let s = Setup::new(9);
    let owned = s.table::<FromDevice>(&[0x3000]).for_device();
    let window = |offset: u32, bus: u32| Aperture {
        bus: BusAddr::new(bus),
        phys: PhysAddr::new(CARVED as u32 + offset),
        bytes: 0x1000,
    };
    // First and last page where they would be if the middle one were between them.
    let windows = [window(0, 0x1000), window(0x1000, 0x8000), window(0x2000, 0x3000)];
    let master = Master::new("codec", None).with_apertures(&windows).unwrap();
    assert_eq!(segments(&owned, &master), [at(0x1000, 0x1000), at(0x8000, 0x1000), at(0x3000, 0x1000)]);
    let master = Master::new("codec", None).with_apertures(&[windows[0], windows[2]]).unwrap();
    let refused = owned.segments(&master).map(|_| ()).unwrap_err();
    let (frames, hole) = (FrameRange::within(CARVED, 0x3000), PhysAddr::new(CARVED as u32 + 0x1000));
    assert_eq!(refused, ScatterError::OutOfReach { master: "codec".into(), frames, at: hole });
    back(owned);
}

/// Segments byte by byte: a byte joins the one before it if it legally can.
fn naive(buffers: &[(FrameRange, usize)], master: &Master) -> Option<Vec<Segment>> {
    let mut segments: Vec<Segment> = Vec::new();
    for &(frames, len) in buffers {
        for n in 0..len as u32 {
            let bus = master.bus(PhysAddr::new(frames.base().raw() + n))?;
            let begins = master.boundary().is_some_and(|boundary| bus.is_aligned(boundary));
            match segments.last_mut() {
                Some(last)
                    if !begins
                        && last.bytes < master.max_segment()
                        && last.bus.checked_add(last.bytes) == Some(bus) =>
                {
                    last.bytes += 1;
                }
                _ => segments.push(Segment { bus, bytes: 1 }),
            }
        }
    }
    Some(segments)
}

fn master() -> impl Strategy<Value = Master> {
    let windows = prop_oneof![
        Just(None),
        // Two windows that meet or leave a hole, in memory and on the bus; not all of them within pages.
        (0..24u32 << 10, 0..2u32, prop::sample::select(vec![0u32, 0, 0x1000, 0x5_0000]))
            .prop_map(|(middle, hole, apart)| Some((middle, hole, apart)))
    ];
    let max_segment = prop_oneof![Just(u32::MAX), 4096..40_000u32];
    (windows, max_segment, prop::option::of(12..17u32), prop::option::of(0..30u32 << 12)).prop_map(
        |(windows, max_segment, boundary, mask)| {
            let mut master = Master::new("engine", None).with_max_segment(max_segment).unwrap();
            let (base, end) = (CARVED as u32, CARVED_BYTES as u32);
            let mut bus = base;
            if let Some((middle, hole, apart)) = windows {
                bus = 0x1000_0000;
                let (from, to) = (BusAddr::new(bus), BusAddr::new(bus + middle + hole + apart));
                let low = Aperture { bus: from, phys: PhysAddr::new(base), bytes: u64::from(middle) };
                let high = PhysAddr::new(base + middle + hole);
                let high = Aperture { bus: to, phys: high, bytes: u64::from(end - middle - hole) };
                let windows = [low, high];
                master = master.with_apertures(&windows[usize::from(middle == 0)..]).unwrap();
            }
            if let Some(order) = boundary {
                master = master.with_boundary(1 << order).unwrap();
            }
            match mask {
                Some(last) => master.with_mask(BusAddr::new(bus + (20 << 12) + last)),
                None => master,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Whatever the buffers, their order and the device: exactly the bytes asked for, in order, and as few segments as
    /// its reach, its largest segment and its boundary permit; or a refusal, where a byte is out of reach.
    #[test]
    fn segments_are_those_of_the_naive_model(
        lens in prop::collection::vec((prop_oneof![(1..4u32).prop_map(|pages| pages << 12), 1..12_000u32], any::<u16>(), any::<bool>()), 0..10),
        masters in prop::collection::vec(master(), 4),
    ) {
        let s = Setup::new(0);
        let mut streams: Vec<_> = lens
            .into_iter()
            .map(|(len, order, keep)| (if keep { order } else { 0 }, s.stream::<FromDevice>(len)))
            .collect();
        streams.sort_by_key(|&(order, _)| order);
        let buffers: Vec<_> = streams.iter().map(|(_, stream)| (stream.frames(), stream.len())).collect();
        let owned = ScatterTable::new(streams.into_iter().map(|(_, stream)| stream).collect()).for_device();
        for master in masters {
            match (owned.segments(&master), naive(&buffers, &master)) {
                (Ok(found), Some(wanted)) => prop_assert_eq!(found.collect::<Vec<_>>(), wanted),
                (Err(ScatterError::OutOfReach { frames, at, .. }), None) => {
                    prop_assert_eq!(master.bus(at), None);
                    let first = naive(&[(frames, (at.raw() - frames.base().raw()) as usize)], &master);
                    prop_assert!(first.is_some(), "{} is not the first byte out of reach", at);
                }
                (found, wanted) => prop_assert!(false, "{:?}, but {:?}", found.map(Iterator::collect::<Vec<_>>), wanted),
            }
        }
        back(owned);
    }

    /// The bytes survive: what the CPU wrote view by view is what the device reads segment by segment, and back.
    #[test]
    fn data_survives_both_ways_in_order(seed in any::<u64>(), lens in prop::collection::vec(1..9000u32, 1..6)) {
        let s = Setup::new(seed);
        let master = s.master.clone().with_max_segment(5000).unwrap();
        let mut table = s.table::<Bidirectional>(&lens);
        for turn in 0..3 {
            let data = pattern(table.bytes(), turn);
            let mut left = &data[..];
            for view in table.views_mut() {
                let (now, later) = left.split_at(view.len());
                view.copy_from_slice(now);
                left = later;
            }
            let owned = table.for_device();
            let all = segments(&owned, &master);
            prop_assert_eq!(s.device_read(&all), data);
            let answer = pattern(owned.bytes(), 0x80 | turn);
            s.device_write(&all, &answer);
            table = back(owned);
            prop_assert_eq!(table.views().collect::<Vec<_>>().concat(), answer);
        }
    }
}
