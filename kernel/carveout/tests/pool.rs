//! Pools of coherent blocks on the fake: shape, zeros, exhaustion, and who gets the memory back.

use carveout::addr::{BusAddr, FrameRange, PhysAddr};
use carveout::dma::{
    AllocError, Aperture, BlockShape, BlocksOut, Dma, Master, Pool, PoolBlock, PoolError, PoolExhausted,
};
use carveout::fake::{Fake, Op};
use carveout::machine::Cache;
use carveout::setup::{self, Setup as Bench};
use proptest::prelude::*;

const CARVED: u64 = setup::CARVED.raw() as u64;
/// A small area: what is taken from it soon shows.
const CARVED_BYTES: u64 = 1 << 20;

struct Setup {
    bench: Bench,
    fake: &'static Fake,
    dma: &'static Dma<Fake>,
    master: Master,
}

impl Setup {
    fn new(seed: u64) -> Self {
        let bench = Bench::with_area(seed, CARVED_BYTES as u32);
        let (fake, dma, master) = (bench.fake, bench.dma, bench.master("dma-engine"));
        Self { bench, fake, dma, master }
    }

    fn free_bytes(&self) -> u64 {
        self.bench.free_bytes()
    }

    fn pool(&self, shape: BlockShape, blocks: u32) -> Pool<Fake> {
        Pool::new(self.dma, &self.master, shape, blocks).unwrap()
    }
}

const SHAPE: BlockShape = BlockShape { size: 24, align: 16, boundary: Some(4096) };

/// The block's bytes as the CPU sees them.
fn bytes(block: &PoolBlock<Fake>) -> Vec<u8> {
    let mut bytes = vec![0xee; block.len()];
    assert_eq!(block.read_at(0, &mut bytes), block.len());
    bytes
}

fn free(block: PoolBlock<Fake>) {
    // SAFETY: the fake's device accesses are over when the calls return.
    unsafe { block.free() }
}

#[test]
fn i5_a_block_is_zeroed_for_its_next_owner_and_the_device_finds_the_zeros() {
    let s = Setup::new(1);
    let pool = s.pool(SHAPE, 2);
    let mut block = pool.alloc().unwrap();
    let at = block.bus();
    block.write_at(0, &[7; 24]);
    s.fake.device_barrier();
    s.fake.device_write(PhysAddr::new(at.raw()), &[8; 12]);
    assert_eq!(bytes(&block), [[8; 12], [7; 12]].concat());
    free(block);
    let block = pool.alloc().unwrap();
    assert_eq!(block.bus(), at, "last in, first out");
    assert_eq!(bytes(&block), [0; 24]);
    s.fake.device_barrier();
    assert_eq!(s.fake.device_read(PhysAddr::new(at.raw()), 24), [0; 24]);
    free(block);
}

#[test]
#[should_panic(expected = "I4: a device reads")]
fn i4_zeros_are_not_the_device_s_before_the_barrier() {
    let s = Setup::new(2);
    let pool = s.pool(SHAPE, 1);
    let mut block = pool.alloc().unwrap();
    block.write_at(0, &[7; 24]);
    s.fake.device_barrier();
    drop(block);
    let block = pool.alloc().unwrap();
    s.fake.device_read(PhysAddr::new(block.bus().raw()), 1);
}

#[test]
fn allocating_and_freeing_map_nothing_and_maintain_no_line() {
    let s = Setup::new(3);
    let pool = s.pool(SHAPE, 300);
    let before = s.dma.stats();
    s.fake.take_log();
    for _ in 0..2 {
        let blocks: Vec<_> = (0..300).map(|_| pool.alloc().unwrap()).collect();
        assert!(pool.alloc().is_err());
        blocks.into_iter().for_each(free);
    }
    assert_eq!(s.dma.stats(), before);
    assert_eq!(s.fake.take_log(), [], "neither tables, TLB, caches nor barriers");
}

#[test]
fn blocks_go_back_to_their_own_pool_whoever_frees_them() {
    let s = Setup::new(4);
    let (one, two) = (s.pool(SHAPE, 1), s.pool(SHAPE, 1));
    let (a, b) = (one.alloc().unwrap(), two.alloc().unwrap());
    let (at_a, at_b) = (a.bus(), b.bus());
    free(b);
    assert_eq!((one.held(), two.held()), (1, 0));
    assert!(one.alloc().is_err(), "a block of the other pool does not end up here");
    free(a);
    assert_eq!((one.alloc().unwrap().bus(), two.alloc().unwrap().bus()), (at_a, at_b));
}

#[test]
fn a_block_nobody_was_told_of_goes_back_when_dropped_and_another_is_lost() {
    let s = Setup::new(5);
    let pool = s.pool(SHAPE, 2);
    drop(pool.alloc().unwrap());
    assert_eq!((pool.held(), pool.lost()), (0, 0));
    let told = pool.alloc().unwrap();
    let at = told.bus();
    drop(told);
    assert_eq!((pool.held(), pool.lost()), (0, 1));
    let other = pool.alloc().unwrap();
    assert_ne!(other.bus(), at, "the device may still use it");
    let refused = pool.alloc().unwrap_err();
    assert_eq!(refused, PoolExhausted { owner: "dma-engine".into(), blocks: 2, lost: 1 });
    assert_eq!(refused.to_string(), "all 2 blocks of the pool of dma-engine are out, 1 of them lost");
    free(other);
}

#[test]
fn destroying_frees_the_memory_once_all_blocks_are_back() {
    let s = Setup::new(6);
    let before = s.free_bytes();
    let pool = s.pool(SHAPE, 10);
    assert_eq!(s.free_bytes(), before - 4096);
    let block = pool.alloc().unwrap();
    let _ = block.bus();
    let (refused, pool) = pool.destroy().unwrap_err();
    assert_eq!(refused, BlocksOut { owner: "dma-engine".into(), held: 1, lost: 0 });
    assert_eq!(refused.to_string(), "the pool of dma-engine has 1 blocks held and 0 lost");
    free(block);
    pool.destroy().unwrap();
    assert_eq!(s.free_bytes(), before);
    assert_eq!(s.dma.stats().quarantined, 0);
}

#[test]
fn a_block_outlives_its_pool_and_its_bytes_stay() {
    let s = Setup::new(7);
    let before = s.free_bytes();
    let pool = s.pool(SHAPE, 2);
    let mut block = pool.alloc().unwrap();
    drop(pool);
    block.write_at(20, &[1, 2, 3, 4, 5]);
    assert_eq!(bytes(&block)[20..], [1, 2, 3, 4]);
    s.fake.device_barrier();
    assert_eq!(s.fake.device_read(PhysAddr::new(block.bus().raw() + 20), 4), [1, 2, 3, 4]);
    assert_eq!(s.free_bytes(), before - 4096);
    free(block);
    assert_eq!(s.free_bytes(), before);
}

#[test]
fn i4_only_buffers_with_lost_blocks_are_quarantined() {
    let s = Setup::new(8);
    let before = s.free_bytes();
    let master = s.master.clone().with_boundary(4096).unwrap();
    let shape = BlockShape { size: 2048, align: 1, boundary: None };
    let pool = Pool::new(s.dma, &master, shape, 6).unwrap();
    assert_eq!(s.free_bytes(), before - 3 * 4096);
    let blocks: Vec<_> = (0..6).map(|_| pool.alloc().unwrap()).collect();
    let lost_at = blocks[2].bus();
    for (n, block) in blocks.into_iter().enumerate() {
        if n == 2 { drop(block) } else { free(block) }
    }
    let (refused, pool) = pool.destroy().unwrap_err();
    assert_eq!(refused, BlocksOut { owner: "dma-engine".into(), held: 0, lost: 1 });
    drop(pool);
    assert_eq!(s.dma.stats().quarantined, 4096);
    assert_eq!(s.free_bytes(), before - 4096);
    let all: Vec<_> = core::iter::from_fn(|| s.dma.alloc(&s.master, 1, 1).ok()).collect();
    let lost = FrameRange::covering(lost_at.raw().into(), 1);
    assert!(all.iter().all(|buffer| !buffer.frames().overlaps(lost)), "never given out again");
}

#[test]
fn refusals_say_why_and_take_nothing() {
    let s = Setup::new(9);
    let before = s.free_bytes();
    let fails = |master: &Master, shape, blocks| Pool::new(s.dma, master, shape, blocks).unwrap_err();
    assert_eq!(fails(&s.master, BlockShape { size: 0, ..SHAPE }, 1), PoolError::ZeroSize);
    assert_eq!(fails(&s.master, SHAPE, 0), PoolError::NoBlocks);
    assert_eq!(fails(&s.master, BlockShape { align: 12, ..SHAPE }, 1), PoolError::Alignment { align: 12 });
    assert_eq!(fails(&s.master, BlockShape { boundary: Some(96), ..SHAPE }, 1), PoolError::Boundary { boundary: 96 });
    let crossing = PoolError::Crossing { size: 4097, boundary: 4096 };
    assert_eq!(fails(&s.master, BlockShape { size: 4097, ..SHAPE }, 1), crossing);
    let align = 1 << 30;
    let alignment = PoolError::Alloc(AllocError::Alignment { align });
    assert_eq!(fails(&s.master, BlockShape { align, ..SHAPE }, 1), alignment);
    let full = fails(&s.master, BlockShape { size: 4096, align: 1, boundary: None }, 257);
    let (wanted, free) = (257 << 12, CARVED_BYTES);
    assert_eq!(full, PoolError::Alloc(AllocError::NoCapacity { wanted, free }));
    assert_eq!(full.to_string(), "pool: no room for 1028 KiB: 1 MiB free in the area");
    assert!(matches!(fails(&s.master, SHAPE, u32::MAX), PoolError::Alloc(AllocError::NoCapacity { .. })));
    // Refused half-way: what was taken is freed, not quarantined, for nobody was told of it.
    // Three runs of two pages are free, and four pages apart: three blocks find a place, the fourth does not.
    let mut pages: Vec<_> = (0..256).map(|_| s.dma.alloc(&s.master, 4096, 1).unwrap()).collect();
    pages.retain(|page| !matches!(page.frames().start() - (CARVED >> 12) as u32, 0..6 | 8 | 10 | 12 | 14));
    let narrow = s.master.clone().with_boundary(8192).unwrap();
    let halfway = fails(&narrow, BlockShape { size: 8192, align: 1, boundary: None }, 4);
    assert_eq!(
        halfway.to_string(),
        "pool: no run of 8 KiB without crossing a multiple of 8 KiB: 16 KiB free in the area, the largest such run 4 KiB, \
         the largest of any kind 4 KiB"
    );
    assert!(matches!(halfway, PoolError::Alloc(AllocError::Fragmented(_))));
    assert_eq!(s.free_bytes(), 10 * 4096);
    drop(pages);
    // The bus shifts memory by a page: blocks are aligned where the device sees them.
    let (bus, phys) = (BusAddr::new(0x1000), PhysAddr::new(CARVED as u32));
    let odd = s.master.clone().with_apertures(&[Aperture { bus, phys, bytes: CARVED_BYTES }]).unwrap();
    let pool = Pool::new(s.dma, &odd, BlockShape { size: 8192, align: 8192, boundary: None }, 3).unwrap();
    for block in [pool.alloc(), pool.alloc(), pool.alloc()].map(Result::unwrap) {
        assert!(block.bus().is_aligned(8192), "{}", block.bus());
        // SAFETY: no device was told of it.
        unsafe { block.free() };
    }
    drop(pool);
    assert_eq!((s.free_bytes(), s.dma.stats().quarantined), (before, 0));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc,
    Free(usize),
    /// Told or not.
    Drop(usize, bool),
    CpuWrite(usize, u8),
    DeviceWrite(usize, u8),
    Disturb,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Alloc),
        2 => any::<usize>().prop_map(Step::Free),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(n, told)| Step::Drop(n, told)),
        3 => any::<(usize, u8)>().prop_map(|(n, value)| Step::CpuWrite(n, value)),
        2 => any::<(usize, u8)>().prop_map(|(n, value)| Step::DeviceWrite(n, value)),
        1 => Just(Step::Disturb),
    ]
}

fn shape() -> impl Strategy<Value = BlockShape> {
    let size = prop_oneof![1..80u32, 1..5000u32];
    (size, 0..14u32, prop::option::of(0..5u32)).prop_map(|(size, align, boundary)| {
        let boundary = boundary.map(|more| size.next_power_of_two() << more);
        BlockShape { size, align: 1 << align, boundary }
    })
}

/// What the model knows of a block: where the device sees it, and what it holds.
struct Known {
    block: PoolBlock<Fake>,
    at: u64,
    bytes: Vec<u8>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Against a list of who has which bytes: blocks have the shape, share no byte with any that is out or lost, are
    /// zeroed, keep what was written last, and run out exactly when all are out.
    #[test]
    fn blocks_are_shaped_apart_zeroed_and_as_many_as_asked_for(
        seed in any::<u64>(),
        shape in shape(),
        blocks in 1..24u32,
        master_boundary in prop::option::of(12..16u32),
        shift in 0..4u32,
        ahead in 0..4u32,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let s = Setup::new(seed);
        // So that the pool's memory does not begin at whatever it wants to be aligned to.
        let _ahead: Vec<_> = (0..ahead).map(|_| s.dma.alloc(&s.master, 1, 1).unwrap()).collect();
        let before = s.free_bytes();
        let (bus, phys) = (BusAddr::new(0x4000_0000 + (shift << 13)), PhysAddr::new(CARVED as u32));
        let mut master = s.master.clone().with_apertures(&[Aperture { bus, phys, bytes: CARVED_BYTES }]).unwrap();
        if let Some(order) = master_boundary.filter(|&order| shape.size <= 1 << order) {
            master = master.with_boundary(1 << order).unwrap();
        }
        let pool = Pool::new(s.dma, &master, shape, blocks).unwrap();
        let size = u64::from(shape.size);
        let to_phys = |at: u64| PhysAddr::new((at - u64::from(bus.raw())) as u32 + phys.raw());
        let (mut out, mut lost): (Vec<Known>, Vec<u64>) = (Vec::new(), Vec::new());
        for step in steps {
            let one_of = |n: usize| n.checked_rem(out.len());
            match step {
                Step::Alloc => match pool.alloc() {
                    Ok(block) => {
                        let at = u64::from(block.bus().raw());
                        prop_assert_eq!(at % u64::from(shape.align), 0);
                        for boundary in shape.boundary.into_iter().chain(master.boundary()).map(u64::from) {
                            prop_assert_eq!(at / boundary, (at + size - 1) / boundary);
                        }
                        for &other in out.iter().map(|known| &known.at).chain(&lost) {
                            prop_assert!(at + size <= other || other + size <= at, "{:#x} and {:#x}", at, other);
                        }
                        prop_assert_eq!(block.as_ptr().align_offset(shape.align.min(4096) as usize), 0);
                        let bytes = vec![0; block.len()];
                        out.push(Known { block, at, bytes });
                    }
                    Err(refused) => {
                        prop_assert_eq!(refused.lost as usize, lost.len());
                        prop_assert_eq!(out.len() + lost.len(), blocks as usize);
                    }
                },
                Step::Free(n) => {
                    if let Some(n) = one_of(n) {
                        free(out.swap_remove(n).block);
                    }
                }
                Step::Drop(n, told) => {
                    if let Some(n) = one_of(n) {
                        let Known { block, at, .. } = out.swap_remove(n);
                        if told {
                            lost.push(at);
                            drop(block);
                        } else {
                            free(block);
                            // Its address was told, and forgotten; the one allocated now was told to nobody.
                            drop(pool.alloc().unwrap());
                        }
                    }
                }
                Step::CpuWrite(n, value) => {
                    if let Some(n) = one_of(n) {
                        let Known { block, bytes, .. } = &mut out[n];
                        let from = value as usize % bytes.len();
                        prop_assert_eq!(block.write_at(from, &[value; 9]), (bytes.len() - from).min(9));
                        bytes.iter_mut().skip(from).take(9).for_each(|byte| *byte = value);
                    }
                }
                Step::DeviceWrite(n, value) => {
                    s.fake.device_barrier();
                    if let Some(n) = one_of(n) {
                        let Known { at, bytes, .. } = &mut out[n];
                        s.fake.device_write(to_phys(*at), &[value]);
                        bytes[0] = value;
                        prop_assert_eq!(&s.fake.device_read(to_phys(*at), bytes.len()), bytes);
                    }
                }
                Step::Disturb => s.fake.disturb(),
            }
            prop_assert_eq!((pool.held() as usize, pool.lost() as usize), (out.len(), lost.len()));
            for known in &out {
                prop_assert_eq!(&bytes(&known.block), &known.bytes);
            }
        }
        prop_assert!(!s.fake.take_log().is_empty(), "the pool was mapped");
        let map_changes = s.dma.stats().map_changes;
        for known in out {
            free(known.block);
        }
        let rest: Vec<_> = core::iter::from_fn(|| pool.alloc().ok()).collect();
        prop_assert_eq!(rest.len() + lost.len(), blocks as usize);
        drop(rest);
        prop_assert_eq!(s.dma.stats().map_changes, map_changes);
        prop_assert!(s.fake.take_log().iter().all(|&op| op == Op::Barrier));
        match pool.destroy() {
            Ok(()) => prop_assert!(lost.is_empty()),
            Err((refused, _)) => prop_assert_eq!((refused.held, refused.lost as usize), (0, lost.len())),
        }
        prop_assert_eq!(s.free_bytes() + s.dma.stats().quarantined, before);
        prop_assert_eq!(s.dma.stats().quarantined > 0, !lost.is_empty());
    }
}
