//! Pools of streams on the fake: what CPU and device see, what it costs, and that each step is needed.

use carveout::addr::PhysAddr;
use carveout::dma::{
    Bidirectional, BlockShape, BlocksOut, Cpu, DataDirection, Device, Direction, DirectionError, Dma, FromDevice,
    Holder, Master, PoolError, PoolExhausted, StreamBlock, StreamPool, ToDevice,
};
use carveout::fake::{Fake, LINE, Op};
use carveout::machine::Lines;
use carveout::setup::Setup as Bench;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

const AREA: u64 = 1 << 20;
/// An Ethernet frame and a bit, which is no multiple of the line.
const SHAPE: BlockShape = BlockShape { size: 1530, align: 2, boundary: None };

struct Setup {
    bench: Bench,
    fake: &'static Fake,
    dma: &'static Dma<Fake>,
    master: Master,
}

impl Setup {
    fn new(seed: u64) -> Self {
        let bench = Bench::with_area(seed, AREA as u32);
        let (fake, dma, master) = (bench.fake, bench.dma, bench.master("ethernet"));
        Self { bench, fake, dma, master }
    }

    fn free_bytes(&self) -> u64 {
        self.bench.free_bytes()
    }

    fn device_write(&self, packet: &StreamBlock<Fake, impl Direction, Device>, at: u32, bytes: &[u8]) {
        self.fake.device_write(PhysAddr::new(packet.bus().raw() + at), bytes);
    }

    fn device_read(&self, packet: &StreamBlock<Fake, impl Direction, Device>) -> Vec<u8> {
        self.fake.device_read(PhysAddr::new(packet.bus().raw()), packet.len())
    }
}

fn back<D: Direction>(packet: StreamBlock<Fake, D, Device>) -> StreamBlock<Fake, D, Cpu> {
    // SAFETY: the fake's device accesses are over when the calls return (I4).
    unsafe { packet.for_cpu() }
}

#[test]
fn i1_i3_neighbours_in_a_page_belong_to_the_cpu_and_to_the_device_at_once() {
    for seed in 0..20 {
        let s = Setup::new(seed);
        let pool = StreamPool::<_, Bidirectional>::new(s.dma, &s.master, SHAPE, 4).unwrap();
        let [mut first, second, mut third, fourth] = [0; 4].map(|_| pool.alloc().unwrap());
        first.bytes_mut().fill(1);
        let second = second.for_device();
        third.bytes_mut().fill(3);
        let fourth = fourth.for_device();
        s.device_write(&second, 0, &[2; 1530]);
        s.fake.disturb();
        first.bytes_mut()[1529] = 11;
        s.device_write(&fourth, 1529, &[4]);
        let third = third.for_device();
        assert_eq!(s.device_read(&third), [3; 1530]);
        let (second, fourth) = (back(second), back(fourth));
        assert_eq!((second.bytes(), fourth.bytes()[1529]), (&[2; 1530][..], 4));
        assert_eq!((first.bytes()[0], first.bytes()[1529], fourth.bytes()[0]), (1, 11, 0));
        assert_eq!(s.device_read(&first.for_device())[1529], 11);
        s.bench.audit().expect("one attribute a frame");
        drop(back(third));
    }
}

#[test]
fn a_hand_over_maps_nothing_and_does_the_least_that_suffices() {
    let s = Setup::new(1);
    let pool = StreamPool::<_, Bidirectional>::new(s.dma, &s.master, SHAPE, 2).unwrap();
    let lines = SHAPE.size.div_ceil(LINE as u32).into();
    s.fake.take_log();
    let before = s.dma.stats();
    let counted = || {
        let now = s.dma.stats();
        (now.cleaned.inner - before.cleaned.inner, now.invalidated.inner - before.invalidated.inner)
    };
    let packet = pool.alloc().unwrap().for_device();
    assert_eq!((counted(), s.fake.take_log()), ((0, 0), vec![]), "nothing was written");
    let mut packet = back(packet);
    assert_eq!(counted(), (0, lines), "the CPU may have speculated while the device wrote");
    packet.part_mut(100..101).unwrap()[0] = 1;
    let packet = packet.for_device();
    assert_eq!(counted(), (1, lines), "the line of the byte that was written");
    // SAFETY: the device wrote nothing outside of these (I4).
    let mut packet = unsafe { packet.for_cpu_part(0..64) };
    assert_eq!(counted(), (1, lines + 2));
    packet.bytes_mut();
    drop(packet);
    assert_eq!(counted(), (1 + lines, lines + 2), "a free block has nothing to be written");
    let packet = pool.alloc().unwrap();
    packet.bytes();
    drop(packet);
    assert_eq!(counted(), (1 + lines, lines + 2));
    let log = s.fake.take_log();
    assert!(log.iter().all(|op| matches!(op, Op::Clean(_) | Op::Invalidate(_) | Op::Barrier)), "{log:?}");
    assert_eq!(s.dma.stats().map_changes, before.map_changes);
}

#[test]
fn i3_a_block_to_the_device_is_never_invalidated() {
    let s = Setup::new(2);
    let pool = StreamPool::<_, ToDevice>::new(s.dma, &s.master, SHAPE, 1).unwrap();
    let invalidated = s.dma.stats().invalidated;
    for n in 0..4 {
        let mut packet = pool.alloc().unwrap();
        packet.bytes_mut().fill(n);
        let packet = packet.for_device();
        assert_eq!(s.device_read(&packet), [n; 1530]);
        drop(back(packet));
    }
    assert_eq!(s.dma.stats().invalidated, invalidated);
}

#[test]
fn i5_fresh_blocks_are_zeros_for_cpu_and_device_and_the_next_owner_of_the_memory_finds_zeros() {
    let s = Setup::new(3);
    let dirty = s.dma.alloc(&s.master, AREA as u32, 1).unwrap();
    let mut dirty = dirty.into_stream::<Bidirectional>();
    dirty.bytes_mut().fill(0xa5);
    drop(dirty);
    let pool = StreamPool::<_, Bidirectional>::new(s.dma, &s.master, SHAPE, 40).unwrap();
    let packets: Vec<_> = (0..40).map(|_| pool.alloc().unwrap()).collect();
    for mut packet in packets {
        assert_eq!(packet.bytes(), [0; 1530]);
        let device = packet.for_device();
        assert_eq!(s.device_read(&device), [0; 1530]);
        s.device_write(&device, 0, &[0x5a; 1530]);
        packet = back(device);
        packet.bytes_mut()[7] = 1;
    }
    pool.destroy().unwrap();
    let next = s.dma.alloc(&s.master, AREA as u32, 1).unwrap().into_stream::<FromDevice>();
    assert!(next.bytes().iter().all(|&byte| byte == 0));
}

#[test]
fn i4_a_block_that_a_device_owns_is_lost_when_dropped_and_its_memory_is_quarantined() {
    let s = Setup::new(4);
    let pool = StreamPool::<_, FromDevice>::new(s.dma, &s.master, SHAPE, 2).unwrap();
    let (lost, other) = (pool.alloc().unwrap().for_device(), pool.alloc().unwrap());
    let at = lost.bus();
    drop(lost);
    drop(other);
    assert_eq!((pool.held(), pool.lost()), (0, 1));
    let other = pool.alloc().unwrap();
    assert_ne!(other.future_bus(), at);
    let refused = pool.alloc().unwrap_err();
    assert_eq!(refused, PoolExhausted { owner: "ethernet".into(), blocks: 2, lost: 1 });
    drop(other);
    let (refused, pool) = pool.destroy().unwrap_err();
    assert_eq!(refused, BlocksOut { owner: "ethernet".into(), held: 0, lost: 1 });
    drop(pool);
    assert_eq!(s.dma.stats().quarantined, 4096);
    assert_eq!(s.free_bytes(), AREA - 4096);
    // The device goes on.
    s.fake.device_write(PhysAddr::new(at.raw()), &[1; 1530]);
    s.bench.audit().expect("nothing maps it");
    assert_eq!(s.dma.next_quarantined().unwrap().holder, Holder::Quarantine);
}

#[test]
fn a_block_outlives_its_pool_and_then_all_is_free_again() {
    let s = Setup::new(5);
    let pool = StreamPool::<_, ToDevice>::new(s.dma, &s.master, SHAPE, 3).unwrap();
    let mut packet = pool.alloc().unwrap();
    drop(pool);
    packet.bytes_mut().fill(9);
    let packet = packet.for_device();
    assert_eq!(s.device_read(&packet), [9; 1530]);
    assert_eq!(s.free_bytes(), AREA - 8192);
    drop(back(packet));
    assert_eq!((s.free_bytes(), s.dma.stats().quarantined), (AREA, 0));
}

#[test]
fn no_block_shares_a_line_whatever_the_shape() {
    for size in [1, 31, 32, 33, 64, 100, 1536, 4096, 5000] {
        for (align, boundary) in [(1, None), (16, None), (128, None), (8192, None), (1, Some(8192)), (4, Some(1 << 14))]
        {
            let s = Setup::new(6);
            let shape = BlockShape { size, align, boundary };
            let pool = StreamPool::<_, FromDevice>::new(s.dma, &s.master, shape, 9).unwrap();
            let blocks: Vec<_> = (0..9).map(|_| pool.alloc().unwrap()).collect();
            let mut at: Vec<_> = blocks.iter().map(|block| block.future_bus().raw()).collect();
            at.sort_unstable();
            assert!(at.iter().all(|at| at % align.max(LINE as u32) == 0), "{shape:?}: {at:x?}");
            assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= size), "{shape:?}: {at:x?}");
        }
    }
}

#[test]
fn bad_requests_are_refused_before_anything_is_taken() {
    let s = Setup::new(7);
    let fails = |shape, blocks| StreamPool::<_, ToDevice>::new(s.dma, &s.master, shape, blocks).unwrap_err();
    assert_eq!(fails(BlockShape { align: 12, ..SHAPE }, 1), PoolError::Alignment { align: 12 });
    assert_eq!(fails(BlockShape { size: 0, ..SHAPE }, 1), PoolError::ZeroSize);
    assert_eq!(fails(SHAPE, 0), PoolError::NoBlocks);
    let boundary = Some(1024);
    assert_eq!(fails(BlockShape { boundary, ..SHAPE }, 1), PoolError::Crossing { size: 1530, boundary: 1024 });
    assert!(matches!(fails(SHAPE, 1 << 20), PoolError::Alloc(_)));
    assert_eq!((s.free_bytes(), s.dma.stats().map_changes), (AREA, 0));
}

#[test]
fn i4_a_direction_that_is_a_value_refuses_what_the_types_forbid() {
    let s = Setup::new(8);
    let pool = StreamPool::of(s.dma, &s.master, DataDirection::FromDevice, SHAPE, 1).unwrap();
    let mut packet = pool.alloc().unwrap();
    let refused = DirectionError::ReadOnly { has: DataDirection::FromDevice };
    assert_eq!(packet.try_bytes_mut().unwrap_err(), refused);
    assert_eq!(packet.try_part_mut(0..1).unwrap_err(), refused);
    assert_eq!(packet.direction(), DataDirection::FromDevice);
    let pool = StreamPool::of(s.dma, &s.master, DataDirection::ToDevice, SHAPE, 1).unwrap();
    let mut packet = pool.alloc().unwrap();
    packet.try_bytes_mut().unwrap().fill(5);
    packet.try_part_mut(1..2).unwrap().unwrap().fill(6);
    #[expect(clippy::reversed_empty_ranges, reason = "a range that is not in order")]
    let out = [1529..1531, 2..1, 1531..1531];
    assert!(out.into_iter().all(|range| packet.try_part_mut(range).unwrap().is_none()));
    assert_eq!(s.device_read(&packet.for_device())[..3], [5, 6, 5]);
}

/// One operation after the other is left out of a round trip; the fake must notice each time.
#[test]
fn i3_i4_each_operation_of_a_round_trip_is_needed() {
    let trip = |seed: u64, left_out: Option<usize>| {
        let s = Setup::new(seed);
        let pool = StreamPool::<_, Bidirectional>::new(s.dma, &s.master, SHAPE, 2).unwrap();
        let (mut packet, mut dropped) = (pool.alloc().unwrap(), pool.alloc().unwrap());
        s.fake.take_log();
        if let Some(count) = left_out {
            s.fake.leave_out(count);
        }
        packet.bytes_mut().fill(1);
        let packet = packet.for_device();
        assert_eq!(s.device_read(&packet), [1; 1530]);
        s.device_write(&packet, 0, &[2; 1530]);
        let packet = back(packet);
        assert_eq!(packet.bytes(), [2; 1530]);
        // A block that is free has nothing dirty, so that nothing is evicted over what its next device writes.
        dropped.bytes_mut().fill(3);
        drop(dropped);
        let next = pool.alloc().unwrap().for_device();
        s.device_write(&next, 0, &[4; 1530]);
        assert_eq!(back(next).bytes(), [4; 1530]);
        s.fake.take_log()
    };
    let log = trip(1, None);
    let what: Vec<_> = log.iter().map(|op| matches!(op, Op::Invalidate(_))).collect();
    assert_eq!((log.len(), what), (6, vec![false, false, true, false, false, true]));
    for (left_out, op) in log.iter().enumerate() {
        let missed = |seed| catch_unwind(AssertUnwindSafe(|| trip(seed, Some(left_out)))).is_ok();
        let seeds: Vec<_> = (0..20).filter(|&seed| missed(seed)).collect();
        assert_eq!(seeds, [], "{op:?}, number {left_out}, is left out and nothing went wrong");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc,
    CpuWrite(usize, u8),
    ForDevice(usize),
    DeviceWrite(usize, u8),
    ForCpu(usize),
    Drop(usize),
    Disturb,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Alloc),
        3 => any::<(usize, u8)>().prop_map(|(n, value)| Step::CpuWrite(n, value)),
        3 => any::<usize>().prop_map(Step::ForDevice),
        3 => any::<(usize, u8)>().prop_map(|(n, value)| Step::DeviceWrite(n, value)),
        3 => any::<usize>().prop_map(Step::ForCpu),
        1 => any::<usize>().prop_map(Step::Drop),
        1 => Just(Step::Disturb),
    ]
}

enum Owned {
    Cpu(StreamBlock<Fake, DataDirection, Cpu>),
    Device(StreamBlock<Fake, DataDirection, Device>),
}

impl Owned {
    fn at(&self) -> u32 {
        match self {
            Self::Cpu(packet) => packet.future_bus().raw(),
            Self::Device(packet) => packet.bus().raw(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Against a list of who owns which block and what it holds: both sides see what was written last, blocks share no
    /// byte, a block's address never changes, and blocks run out exactly when all are out (I3, I4, I5).
    #[test]
    fn both_sides_see_what_was_written_last(
        seed in any::<u64>(),
        direction in prop::sample::select(&[
            DataDirection::ToDevice, DataDirection::FromDevice, DataDirection::Bidirectional
        ][..]),
        size in prop_oneof![1..80u32, 1..5000u32],
        align in 0..13u32,
        blocks in 1..9u32,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let s = Setup::new(seed);
        let shape = BlockShape { size, align: 1 << align, boundary: None };
        let pool = StreamPool::of(s.dma, &s.master, direction, shape, blocks).unwrap();
        let mut out: Vec<(Owned, Vec<u8>)> = Vec::new();
        // What blocks of the pool hold that are free, by their address.
        let mut left: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut lost = Vec::new();
        for step in steps {
            let one_of = |n: usize| n.checked_rem(out.len());
            match step {
                Step::Alloc => match pool.alloc() {
                    Ok(packet) => {
                        let at = packet.future_bus().raw();
                        prop_assert!(!lost.contains(&at));
                        prop_assert!(out.iter().all(|(other, _)| other.at().abs_diff(at) >= size));
                        let bytes = left.remove(&at).unwrap_or_else(|| vec![0; size as usize]);
                        prop_assert_eq!(packet.bytes(), &bytes[..]);
                        out.push((Owned::Cpu(packet), bytes));
                    }
                    Err(refused) => {
                        prop_assert_eq!(refused.lost as usize, lost.len());
                        prop_assert_eq!(out.len() + lost.len(), blocks as usize);
                    }
                },
                Step::CpuWrite(n, value) => {
                    if let Some((Owned::Cpu(packet), bytes)) = one_of(n).map(|n| &mut out[n]) {
                        let from = usize::from(value) % bytes.len();
                        let to = bytes.len().min(from + 9);
                        if let Ok(part) = packet.try_part_mut(from..to) {
                            part.expect("inside").fill(value);
                            bytes[from..to].fill(value);
                        } else {
                            prop_assert_eq!(direction, DataDirection::FromDevice);
                        }
                    }
                }
                Step::ForDevice(n) => {
                    if let Some(n) = one_of(n) {
                        let (owned, bytes) = out.swap_remove(n);
                        let at = owned.at();
                        let packet = match owned {
                            Owned::Cpu(packet) => packet.for_device(),
                            Owned::Device(packet) => packet,
                        };
                        prop_assert_eq!(packet.bus().raw(), at);
                        prop_assert_eq!(&s.device_read(&packet), &bytes);
                        out.push((Owned::Device(packet), bytes));
                    }
                }
                Step::DeviceWrite(n, value) => {
                    if let Some((Owned::Device(packet), bytes)) = one_of(n).map(|n| &mut out[n])
                        && direction.device_writes()
                    {
                        let from = usize::from(value) % bytes.len();
                        let to = bytes.len().min(from + 40);
                        bytes[from..to].fill(value);
                        s.device_write(packet, from as u32, &bytes[from..to]);
                    }
                }
                Step::ForCpu(n) => {
                    if let Some(n) = one_of(n) {
                        let (owned, bytes) = out.swap_remove(n);
                        let packet = match owned {
                            Owned::Cpu(packet) => packet,
                            Owned::Device(packet) => back(packet),
                        };
                        out.push((Owned::Cpu(packet), bytes));
                    }
                }
                Step::Drop(n) => {
                    if let Some(n) = one_of(n) {
                        let (owned, bytes) = out.swap_remove(n);
                        match &owned {
                            Owned::Cpu(_) => drop(left.insert(owned.at(), bytes)),
                            Owned::Device(_) => lost.push(owned.at()),
                        }
                    }
                }
                Step::Disturb => s.fake.disturb(),
            }
            prop_assert_eq!((pool.held() as usize, pool.lost() as usize), (out.len(), lost.len()));
            for (owned, bytes) in &out {
                match owned {
                    Owned::Cpu(packet) => prop_assert_eq!(packet.bytes(), &bytes[..]),
                    Owned::Device(packet) => prop_assert_eq!(&s.device_read(packet), bytes),
                }
            }
        }
        prop_assert!(s.bench.audit().is_ok());
        for (owned, _) in out {
            if let Owned::Device(packet) = owned {
                drop(back(packet));
            }
        }
        drop(pool);
        prop_assert_eq!(s.free_bytes() + s.dma.stats().quarantined, AREA);
        prop_assert_eq!(s.dma.stats().quarantined > 0, !lost.is_empty());
    }
}

#[test]
fn statistics_count_lines_of_blocks_too() {
    let s = Setup::new(9);
    let pool = StreamPool::<_, ToDevice>::new(s.dma, &s.master, SHAPE, 1).unwrap();
    let mut packet = pool.alloc().unwrap();
    packet.bytes_mut().fill(1);
    let before = s.dma.stats().cleaned;
    drop(back(packet.for_device()));
    assert_eq!(s.dma.stats().cleaned, before + Lines { inner: 48, outer: 0 });
}
