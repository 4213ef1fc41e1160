//! The window at full size: whatever is carved and whatever comes and goes, no buffer lacks addresses, and a guard is
//! given up only where there is no other way. On a machine whose memory is all one, for nothing here looks at a byte.

use carveout::addr::{FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use carveout::carve_out::CarveOut;
use carveout::dma::{
    AllocError, Bidirectional, Coherent, Contiguous, ContractSet, Cpu, DeviceOnly, Dma, DmaError, MAX_BUFFERS, Master,
    NoRun, Port, Stream,
};
use carveout::machine::{Cache, Lines, Mmu, Registers};
use carveout::vm::alias::Aliases;
use carveout::vm::attr::Shareability;
use carveout::vm::desc::{L1Desc, L2_ENTRIES, L2Desc};
use carveout::vm::mapped::Part;
use carveout::vm::range::VirtRange;
use carveout::vm::space::Region;
use carveout::vm::window::image_sections;
use std::collections::BTreeMap;
use std::sync::LazyLock;

const LOAN_WINDOW: VirtRange = VirtRange::new(0xefe0_0000, 1);
/// What a direct map and the window of the areas share in `carveout-boot`.
const SHARED: VirtRange = VirtRange::new(0x8000_0000, 0x6fe);

/// Tables that nobody walks, zeros at every address, no caches.
#[derive(Debug)]
struct Nothing;

/// Bytes of the largest buffer.
const LARGEST: usize = 192 << 20;
static ZEROS: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; LARGEST]);

// SAFETY: no test writes through what it gives.
unsafe impl Mmu for Nothing {
    fn publish(&self, _: PhysAddr, _: &[u32]) {}

    fn invalidate_tlb(&self, _: VirtAddr, _: u32) {}

    fn reach(&self, _: VirtAddr) -> *mut u8 {
        ZEROS.as_ptr().cast_mut()
    }

    fn reach_to_overwrite(&self, va: VirtAddr, _: u32) -> *mut u8 {
        self.reach(va)
    }

    unsafe fn zero(&self, _: *mut u8, _: usize) {}

    fn registers(&self) -> Registers {
        Registers::plain(PhysAddr::new(0))
    }

    fn table_word(&self, _: PhysAddr) -> Option<u32> {
        None
    }
}

// SAFETY: there is no cache.
unsafe impl Cache for Nothing {
    fn clean(&self, _: Part<'_>) -> Lines {
        Lines::default()
    }

    fn invalidate(&self, _: Part<'_>) -> Lines {
        Lines::default()
    }

    fn discard(&self, _: Part<'_>) -> Lines {
        Lines::default()
    }

    fn device_barrier(&self) {}

    fn dma_wmb(&self) {}

    fn dma_rmb(&self) {}
}

const MIB: u32 = 1 << 20;
const RAM: u32 = 0x6000_0000;
const NAMES: [&str; 4] = ["one", "two", "three", "four"];
/// Where the tests' windows begin, low enough for the largest.
const WINDOW: u32 = 0x8000_0000;

fn region(range: VirtRange) -> Region<'static> {
    let l1 = vec![L1Desc::FAULT; range.sections() as usize].leak();
    let l2 = vec![[L2Desc::FAULT; L2_ENTRIES]; range.sections() as usize].leak();
    // SAFETY: nobody walks these tables.
    unsafe { Region::one_each(&Nothing, range, Shareability::Shareable, l1, PhysAddr::new(0), l2, PhysAddr::new(0)) }
        .unwrap()
}

/// Areas of `mib` in all, from RAM's start on, with a frame between any two.
fn areas(mib: u32, count: u32) -> Vec<FrameRange> {
    let frames = mib * 256 / count;
    (0..count).map(|n| FrameRange::new((RAM >> 12) + n * (frames + 1), frames).unwrap()).collect()
}

fn carve(areas: &[FrameRange]) -> Vec<CarveOut> {
    // SAFETY: nothing is mapped but by the test's window.
    areas.iter().zip(NAMES).map(|(&area, name)| unsafe { CarveOut::assume(name, &[area], false) }).collect()
}

/// With all guards, or with those there is room for.
fn dma(areas: &[FrameRange], sections: u32, all_guards: bool) -> Result<&'static Dma<Nothing>, DmaError> {
    let window = region(VirtRange::new(WINDOW, sections));
    let new = if all_guards { Dma::new } else { Dma::sparing_guards };
    let dma = new(&Nothing, carve(areas).into_iter(), Aliases::default(), window, region(LOAN_WINDOW))?;
    Ok(Box::leak(Box::new(dma)))
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
        let Some(va) = va else { return self.forget(frames) };
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
                    Err(AllocError::TooManyBuffers { .. }) => assert_eq!(held.len(), MAX_BUFFERS),
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
                let buffer = buffer.into_state(random.below(4));
                let va = record(buffer.frames()).va;
                assert!(!matches!(buffer, Held::Device(_)) || va.is_none(), "a device's buffer takes no addresses");
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
    three.min(SHARED.sections() - 1 - (1024 - mib))
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
    assert_eq!(Dma::<Nothing>::window_sections(carve(&areas).iter()), 99);
    for given in [0, 96, 98] {
        let error = dma(&areas, given, true).unwrap_err();
        assert_eq!(error, DmaError::Window { given, needed: 99, least: 33 });
        assert_eq!(
            error.to_string(),
            format!(
                "the window of the areas has {given} sections of 1 MiB; it needs 99 for a guard on either side of every \
                 buffer, or 33 where guards may be given up"
            )
        );
    }
    assert!(dma(&areas, 99, true).is_ok());
    let error = dma(&areas, 32, false).unwrap_err();
    assert_eq!(error, DmaError::Window { given: 32, needed: 33, least: 33 });
    assert_eq!(
        error.to_string(),
        "the window of the areas has 32 sections of 1 MiB; it needs 33 to have each carved frame once"
    );
    assert!(dma(&areas, 33, false).is_ok());

    let (window, loans) = (region(VirtRange::new(WINDOW, 99)), region(LOAN_WINDOW.first(0)));
    let error = Dma::new(&Nothing, carve(&areas).into_iter(), Aliases::default(), window, loans).unwrap_err();
    assert_eq!(error.to_string(), "the window of lent frames has 0 sections of 1 MiB; it needs 1");
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
