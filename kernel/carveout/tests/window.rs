//! The window at full size: whatever is carved and whatever comes and goes, no buffer lacks addresses, and a guard is
//! given up only where there is no other way. On a machine whose memory is all one, for nothing here looks at a byte.

#[macro_use]
mod uncached;

use carveout::addr::{FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use carveout::carve_out::CarveOut;
use carveout::dma::{
    AllocError, Bidirectional, Coherent, Contiguous, ContractSet, Cpu, DeviceOnly, Dma, Master, NoRun, Port, Stream,
};
use carveout::embed::{Builder, EmbedError, Needs, Roots, Window};
use carveout::machine::{Mmu, Registers};
use carveout::vm::attr::LeafSize;
use carveout::vm::desc::{L1_ENTRIES, L2_ENTRIES};
use carveout::vm::range::VirtRange;
use carveout::vm::window::image_sections;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// What a direct map and the window share in `carveout-boot`.
const SHARED: VirtRange = VirtRange::new(0x8000_0000, 0x6ff);

/// Tables that nobody walks, zeros at every address, no caches.
#[derive(Debug)]
struct Nothing {
    /// The tables, from physical address 0 on: a root, and a table for each section of the largest window.
    tables: AtomicPtr<u32>,
}

/// Where the second-level tables begin.
const L2: PhysAddr = PhysAddr::new(0x4000);

impl Nothing {
    fn new() -> &'static Self {
        let words = L1_ENTRIES + SHARED.sections() as usize * L2_ENTRIES;
        Box::leak(Box::new(Self { tables: AtomicPtr::new(vec![0; words].leak().as_mut_ptr()) }))
    }
}

/// Bytes of the largest buffer.
const LARGEST: usize = 192 << 20;
static ZEROS: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; LARGEST]);

// SAFETY: no test writes through what it gives.
unsafe impl Mmu for Nothing {
    fn publish(&self, _: PhysAddr, _: &[u32]) {}

    fn invalidate_tlb(&self, _: VirtAddr, _: u32, _: LeafSize) {}

    fn invalidate_tlb_all(&self) {}

    fn reach(&self, _: VirtAddr, _: u32) -> *mut u8 {
        ZEROS.as_ptr().cast_mut()
    }

    fn reach_to_overwrite(&self, va: VirtAddr, bytes: u32) -> *mut u8 {
        self.reach(va, bytes)
    }

    unsafe fn zero(&self, _: *mut u8, _: usize) {}

    fn registers(&self) -> Registers {
        Registers::plain(PhysAddr::new(0))
    }

    fn table(&self, at: PhysAddr, _: u32) -> Option<NonNull<u32>> {
        NonNull::new(self.tables.load(Ordering::Relaxed).wrapping_add(at.raw() as usize / 4))
    }
}

uncached!(Nothing);

const MIB: u32 = 1 << 20;
const RAM: u32 = 0x6000_0000;
const NAMES: [&str; 4] = ["one", "two", "three", "four"];
/// Where the tests' windows begin, low enough for the largest.
const WINDOW: u32 = 0x8000_0000;

/// Areas of `mib` in all, from RAM's start on, with a frame between any two.
fn areas(mib: u32, count: u32) -> Vec<FrameRange> {
    let frames = mib * 256 / count;
    (0..count).map(|n| FrameRange::new((RAM >> 12) + n * (frames + 1), frames).unwrap()).collect()
}

fn carve(areas: &[FrameRange]) -> Vec<CarveOut> {
    // SAFETY: nothing is mapped but by the test's window.
    areas.iter().zip(NAMES).map(|(&area, name)| unsafe { CarveOut::assume(name, &[area], false) }).collect()
}

/// With all guards, or with those there is room for, in so many sections for buffers and one for lent frames.
fn dma(areas: &[FrameRange], sections: u32, all_guards: bool) -> Result<&'static Dma<Nothing>, EmbedError> {
    // SAFETY: nobody walks these tables.
    let window = unsafe { Window::assume(VirtRange::new(WINDOW, sections + 1), Roots::One, L2) };
    let builder = Builder::new(Nothing::new(), carve(areas), window);
    let dma = if all_guards { builder.build() } else { builder.sparing_guards().build() };
    Ok(Box::leak(Box::new(dma?)))
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % u64::from(limit)) as u32
    }
}

/// A buffer in a state.
enum Held {
    Fresh(Contiguous<Nothing>),
    Coherent(Coherent<Nothing>),
    Stream(Stream<Nothing, Bidirectional, Cpu>),
    Device(DeviceOnly<Nothing>),
}

impl Held {
    fn frames(&self) -> FrameRange {
        match self {
            Self::Fresh(buffer) => buffer.frames(),
            Self::Coherent(buffer) => buffer.frames(),
            Self::Stream(buffer) => buffer.frames(),
            Self::Device(buffer) => buffer.frames(),
        }
    }

    /// Returns the buffer in the state of that number; the CPU looks at a stream.
    fn into_state(self, state: u32) -> Self {
        let buffer = match self {
            Self::Fresh(buffer) => buffer,
            // SAFETY: there is no device.
            Self::Coherent(buffer) => unsafe { buffer.release() },
            Self::Stream(buffer) => buffer.into_contiguous(),
            // SAFETY: there is no device.
            Self::Device(buffer) => unsafe { buffer.release() },
        };
        match state {
            0 => Self::Fresh(buffer),
            1 => Self::Coherent(buffer.into_coherent()),
            2 => {
                let stream = buffer.into_stream();
                let _ = stream.bytes().as_ptr();
                Self::Stream(stream)
            }
            _ => Self::Device(buffer.into_device()),
        }
    }
}

/// The naive model: which page of the window is whose, by the buffers' first frames.
struct Model<'a> {
    areas: &'a [FrameRange],
    window: VirtRange,
    pages: BTreeMap<u32, u32>,
    /// Buffers with addresses, by their first frames.
    at: BTreeMap<u32, (u32, u32)>,
    unguarded: u64,
}

impl Model<'_> {
    /// Every address that the frames may have, as pages.
    fn homes(&self, frames: FrameRange) -> Vec<u32> {
        let before = self.areas.iter().copied().take_while(|area| !area.covers(frames));
        let area = self.areas.iter().find(|area| area.covers(frames)).unwrap();
        let first = image_sections(before) * 256 + area.start() % 256 + (frames.start() - area.start());
        let stride = image_sections(self.areas.iter().copied()) * 256;
        let starts = (0..3).map(|image| first + image * stride);
        let fits = |start: &u32| start + frames.count() < self.window.sections() * 256;
        starts.filter(fits).map(|start| (self.window.start().raw() >> 12) + start).collect()
    }

    fn has_guards(&self, page: u32, count: u32) -> bool {
        !self.pages.contains_key(&(page - 1)) && !self.pages.contains_key(&(page + count))
    }

    fn forget(&mut self, frames: FrameRange) {
        if let Some((page, count)) = self.at.remove(&frames.start()) {
            for page in page..page + count {
                self.pages.remove(&page);
            }
        }
    }

    /// The buffer's record says that it has these addresses, or none.
    fn look(&mut self, frames: FrameRange, va: Option<VirtAddr>) {
        let Some(va) = va else {
            return assert!(!self.at.contains_key(&frames.start()), "a buffer keeps its addresses in every state");
        };
        let (page, count) = (va.raw() >> 12, frames.count());
        if let Some(&has) = self.at.get(&frames.start()) {
            assert_eq!(has, (page, count), "a buffer's address does not change");
            return;
        }
        assert_eq!(va.raw() % SECTION_SIZE, frames.base().raw() % SECTION_SIZE, "sections map it");
        let homes = self.homes(frames);
        assert!(homes.contains(&page), "{va} is no home of {frames}");
        if !self.has_guards(page, count) {
            self.unguarded += 1;
            let other = homes.iter().find(|&&home| self.has_guards(home, count));
            assert_eq!(other, None, "{frames} at {va} gave up a guard, and had a place with both");
        }
        for page in page..page + count {
            assert_eq!(self.pages.insert(page, frames.start()), None, "two buffers at page {page:#x}");
        }
        self.at.insert(frames.start(), (page, count));
    }
}

/// 20,000 random steps.
fn churn(mib: u32, count: u32, sections: u32, all_guards: bool) {
    let areas = areas(mib, count);
    let dma = dma(&areas, sections, all_guards).unwrap();
    assert_eq!(dma.is_guarded(), sections >= 3 * image_sections(areas.iter().copied()));
    let masters: Vec<_> = NAMES[..count as usize].iter().map(|name| Master::new(name, dma.area(name))).collect();
    let mut model =
        Model { areas: &areas, window: dma.window(), pages: BTreeMap::new(), at: BTreeMap::new(), unguarded: 0 };
    let mut random = Random(u64::from(mib) << 32 | u64::from(sections) << 8 | u64::from(count) | 1 << 63);
    let mut held: Vec<Held> = Vec::new();
    let record = |frames: FrameRange| {
        let Some(carveout::dma::FaultPlace::Buffer(record)) = dma.place_of_frame(frames.iter().next().unwrap()) else {
            panic!("no buffer at {frames}");
        };
        record
    };
    for step in 0..20_000 {
        match random.below(8) {
            0..4 => {
                let bytes = match random.below(8) {
                    0..3 => 1 + random.below(16 << 12),
                    3..6 => 1 + random.below(2 * MIB),
                    _ => 1 + random.below(mib / count * MIB / 4),
                };
                let master = &masters[random.below(count) as usize];
                match dma.alloc(master, bytes, 1 << random.below(17)) {
                    Ok(buffer) => {
                        let buffer = Held::Fresh(buffer).into_state(random.below(4));
                        model.look(buffer.frames(), record(buffer.frames()).va);
                        held.push(buffer);
                    }
                    Err(AllocError::NoCapacity { wanted, free }) => assert!(free < wanted),
                    Err(AllocError::Fragmented(NoRun { wanted, largest, .. })) => assert!(largest < wanted),
                    Err(error) => panic!("step {step}: {error}"),
                }
            }
            4..6 if !held.is_empty() => {
                let buffer = held.swap_remove(random.below(held.len() as u32) as usize);
                model.forget(buffer.frames());
                drop(buffer);
            }
            _ if !held.is_empty() => {
                let buffer = held.swap_remove(random.below(held.len() as u32) as usize);
                let before = record(buffer.frames()).va;
                let buffer = buffer.into_state(random.below(4));
                let va = record(buffer.frames()).va;
                assert!(!matches!(buffer, Held::Device(_)) || va == before, "a device's buffer takes no addresses");
                assert!(!matches!(buffer, Held::Coherent(_) | Held::Stream(_)) || va.is_some(), "it is mapped");
                model.look(buffer.frames(), va);
                held.push(buffer);
            }
            _ => {}
        }
    }
    assert_eq!(dma.stats().unguarded, model.unguarded);
    assert!(!dma.is_guarded() || model.unguarded == 0);
    let (whole, least) = (dma.window().sections(), image_sections(areas.iter().copied()));
    println!("{mib} MiB, {count} areas, window {whole} ({least} an image): {} unguarded", model.unguarded);
}

/// What a machine with 1 GiB of RAM has for a window: the plan of the direct map leaves it that.
fn on_a_board(mib: u32, count: u32) -> u32 {
    let three = 3 * image_sections(areas(mib, count).into_iter());
    three.min(SHARED.sections() - 2 - (1024 - mib))
}

#[test]
fn no_allocation_lacks_addresses_32_to_171_mib() {
    for mib in [32, 100, 171] {
        (1..=4).for_each(|count| churn(mib, count, on_a_board(mib, count), true));
    }
}

#[test]
fn no_allocation_lacks_addresses_256_mib() {
    (1..=4).for_each(|count| churn(256, count, on_a_board(256, count), true));
}

#[test]
fn no_allocation_lacks_addresses_512_to_768_mib() {
    for mib in [512, 768] {
        (1..=4).for_each(|count| churn(mib, count, on_a_board(mib, count), false));
    }
}

#[test]
fn one_image_and_any_part_of_others_will_do() {
    let one = image_sections(areas(64, 2).into_iter());
    for sections in [one, one + 1, one + one / 2, 2 * one - 1, 2 * one, 3 * one - 1, 3 * one, 3 * one + 9] {
        churn(64, 2, sections, false);
    }
}

#[test]
fn a_window_that_is_too_small_is_a_typed_error() {
    let areas = [FrameRange::within(RAM.into(), 32 << 20)];
    assert_eq!(Needs::of(&carve(&areas), 1).sections, 100);
    for given in [1, 97, 99] {
        let error = dma(&areas, given - 1, true).unwrap_err();
        assert_eq!(error, EmbedError::TooFewSections { given, needed: 100, least: 34 });
        assert_eq!(
            error.to_string(),
            format!(
                "the window has {given} sections of 1 MiB; it needs 100 for a guard on either side of every buffer, or 34 \
                 where guards may be given up"
            )
        );
    }
    assert!(dma(&areas, 99, true).is_ok());
    let error = dma(&areas, 32, false).unwrap_err();
    assert_eq!(error, EmbedError::TooFewSections { given: 33, needed: 34, least: 34 });
    assert_eq!(error.to_string(), "the window has 33 sections of 1 MiB; it needs 34 to have each carved frame once");
    assert!(dma(&areas, 33, false).is_ok());
}

/// I7: where no buffer has a guard to itself, contracts are kept, and ports reach their buffers.
#[test]
fn contracts_and_ports_lack_no_addresses() {
    let areas = areas(8, 1);
    let dma = dma(&areas, image_sections(areas.iter().copied()), false).unwrap();
    let master = Master::new("camera", dma.area("one"));
    let contract = dma.contract(&master, &[ContractSet { count: 256, bytes: 4096, align: 1 }]).unwrap();
    let others: Vec<_> = core::iter::from_fn(|| Some(dma.alloc(&master, 16 << 12, 1).ok()?.into_coherent())).collect();
    assert_eq!(others.len(), (8 * 256 - 256) / 16);
    let kept: Vec<_> = (0..256).map(|_| contract.alloc(4096, 1).unwrap().into_stream::<Bidirectional>()).collect();
    for stream in &kept {
        let _ = stream.bytes().as_ptr();
    }
    // SAFETY: the test keeps a device's promise: a port is closed before its buffer changes hands.
    let port = unsafe { Port::new(dma, master) };
    for stream in kept {
        let owned = stream.for_device();
        drop(port.open(owned.bus(), 4096).unwrap());
        // SAFETY: the device is the port, and it is closed.
        drop(unsafe { owned.for_cpu() });
    }
}

/// There is a record for each buffer, whatever their number, and it is free again afterwards.
#[test]
fn each_page_of_64_mib_may_be_a_buffer() {
    let areas = areas(64, 1);
    let dma = dma(&areas, 3 * image_sections(areas.iter().copied()), true).unwrap();
    let device = Master::new("device", dma.area("one"));
    for _ in 0..2 {
        let all: Vec<_> = core::iter::from_fn(|| dma.alloc_coherent(&device, 4096, 1).ok()).collect();
        assert_eq!(all.len(), 16384);
        let refused = dma.alloc_coherent(&device, 4096, 1).unwrap_err();
        assert_eq!(refused, AllocError::NoCapacity { wanted: 4096, free: 0 });
        let mut records = 0;
        dma.holders().for_each(|_| records += 1);
        assert_eq!(records, 16384);
    }
}

/// Mappings that outlive their buffers.
#[cfg(feature = "warm")]
mod kept_mappings {
    use super::*;
    use carveout::dma::AfterFree;

    /// Requests that the mixed-size trace of BENCH.md is refused, of 6,000 steps on 64 MiB.
    fn refused_of_trace(after_free: AfterFree, slots: u32, seed: u32) -> u32 {
        const SIZES: [u32; 16] = [1, 1, 2, 3, 4, 5, 8, 12, 16, 25, 32, 64, 100, 128, 256, 375];
        let areas = areas(64, 1);
        let dma = dma(&areas, 3 * image_sections(areas.iter().copied()), true).unwrap();
        dma.set_after_free(after_free);
        let device = Master::new("device", dma.area("one"));
        let _taken = dma.alloc(&device, 64 * 4096, 1).unwrap();
        let mut held: Vec<Option<Coherent<Nothing>>> = (0..slots).map(|_| None).collect();
        let (mut x, mut refused) = (seed, 0);
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x >> 8
        };
        for _ in 0..6000 {
            let slot = &mut held[(next() % slots) as usize];
            if let Some(buffer) = slot.take() {
                // SAFETY: no device.
                unsafe { buffer.give_up() };
                continue;
            }
            let count = SIZES[(next() % 16) as usize];
            let align = count.next_power_of_two().min(16) * 4096;
            *slot = dma.alloc_coherent(&device, count * 4096, align).ok();
            refused += u32::from(slot.is_none());
        }
        refused
    }

    /// What is kept mapped, and what is on shelves, is no reason to refuse. The figures are means of 40 seeds.
    #[test]
    fn shelves_and_kept_mappings_cost_no_success() {
        const SEEDS: u32 = 40;
        for slots in [384, 448, 512] {
            let mean = |after_free| {
                let seeds = (0..SEEDS).map(|n| 12345 + n * 7919);
                f64::from(seeds.map(|seed| refused_of_trace(after_free, slots, seed)).sum::<u32>()) / f64::from(SEEDS)
            };
            let (plain, kept) = (mean(AfterFree::Unmap), mean(AfterFree::KeepMapped));
            println!("{slots} slots: {plain:.1} refused, {kept:.1} with shelves and kept mappings");
            assert!(kept <= plain * 1.02, "{slots} slots: {kept} refused, and {plain} without");
        }
    }
}
