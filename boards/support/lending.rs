//! Memory that is lent while devices with contracts come and go: the workload of `demo=loans` and of the on-target
//! stress.
//!
//! Guarantees, when [`churn`] returns a [`Tally`]: every allocation that a contract declares succeeded, every buffer was
//! found zeroed, every value of the movable store was whole by its hash, and the audits were clean.

use super::block::BlockError;
use super::block_cache::{BLOCK, BlockCache};
use super::bring_up::Kernel;
use super::clock::Clock;
use super::demo::{self, Failure, Hop};
use super::disk::{Blocks, Disk, DiskError};
use super::mock::camera::checksum;
use super::store::{Found, Store};
use crate::println;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use carveout::addr::{Bytes, FRAME_SHIFT, FRAME_SIZE};
use carveout::arch::armv7a::mmu::Armv7a;
use carveout::cma::area::AllocError;
use carveout::cma::contract::Set;
use carveout::cma::loan::{LendError, LoanStats, Priority};
use carveout::dma::buffer::{Coherent, Contiguous, Device, DeviceOnly, FromDevice, Stream, ToDevice};
use carveout::dma::contract::Contract;
use carveout::dma::loan::{Discardable, Lent, LoanKind, Movable};
use carveout::dma::master::Master;
use carveout::dma::port::Port;
use core::fmt;

/// Marsaglia's xorshift, 32 bits.
pub struct Random(u32);

impl Random {
    /// Any seed but 0 will do.
    pub const fn new(seed: u32) -> Self {
        Self(if seed == 0 { 1 } else { seed })
    }

    /// A number below `bound`.
    pub const fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % bound
    }
}

/// How much [`churn`] does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Allocations and frees.
    pub steps: u32,
    /// Steps between two audits.
    pub audit_every: u32,
    /// Pages of the movable store.
    pub store: u32,
    /// Of the workload.
    pub seed: u32,
}

/// What came of it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// Buffers allocated by contract, and by a device that has none.
    pub allocated: (u32, u32),
    /// Allocations that recalled something.
    pub recalls: u32,
    /// The longest of those, in nanoseconds, or instructions where the emulator counts them, and pages it recalled.
    pub worst: (u64, u64),
    /// Allocations refused though promised or though there was room.
    pub failures: u32,
    /// What the area lent at the end, with the area as full of loans as it could be.
    pub lent: Lent,
    /// Of the movable store.
    pub store: LoanStats,
    /// Of the discardable one.
    pub scratch: LoanStats,
    /// Reads of the discardable store that found their value, and all.
    pub hits: (u64, u64),
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = |count: u32| Bytes(u64::from(count) << FRAME_SHIFT);
        let Lent { lent, unlent, reserve, refuge: (refuge, used) } = self.lent;
        let share = u64::from(lent) * 100 / u64::from((lent + unlent).max(1));
        writeln!(f, "loans: idle               {}", pages(lent + unlent))?;
        writeln!(f, "loans: lent               {}, {share} % of it", pages(lent))?;
        writeln!(f, "loans: in the reserve     {}", pages(reserve))?;
        writeln!(f, "loans: refuge             {}, {} in use", pages(refuge), pages(used))?;
        writeln!(
            f,
            "loans: {:<18} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "borrower, pages", "in area", "in refuge", "lent", "recalled", "discarded", "moved"
        )?;
        let mut all = LoanStats::default();
        for (name, stats) in [("store, movable", self.store), ("scratch", self.scratch)] {
            let LoanStats { in_area, in_refuge, lent, recalled, discarded, moved } = stats;
            writeln!(
                f,
                "loans: {name:<18} {in_area:>9} {in_refuge:>9} {lent:>9} {recalled:>9} {discarded:>9} {moved:>9}"
            )?;
            all.recalled += recalled;
            all.discarded += discarded;
            all.moved += moved;
        }
        writeln!(f, "loans: recalled           {} pages", all.recalled)?;
        writeln!(f, "loans: discarded          {} pages", all.discarded)?;
        writeln!(f, "loans: moved              {} pages", all.moved)?;
        writeln!(f, "loans: buffers            {} by contract, {} without", self.allocated.0, self.allocated.1)?;
        let (worst, of) = self.worst;
        writeln!(f, "loans: worst recall       {worst} instructions, of {of} pages; {} recalls", self.recalls)?;
        write!(f, "loans: failures           {}", self.failures)
    }
}

/// A buffer in a device's hands.
enum Job {
    Only(DeviceOnly<Armv7a>),
    Film(Stream<Armv7a, FromDevice, Device>),
    Ring(Coherent<Armv7a>),
}

/// Buffers a device declares: so many of so many pages, and how often it wants one.
struct Class {
    pages: u32,
    count: u32,
    weight: u32,
}

struct Party {
    contract: Contract<Armv7a>,
    classes: &'static [Class],
    held: Vec<Vec<Job>>,
    port: Port<Armv7a>,
}

const CAMERA: &[Class] = &[Class { pages: 150, count: 4, weight: 1 }, Class { pages: 4, count: 8, weight: 31 }];
const CODEC: &[Class] = &[Class { pages: 512, count: 1, weight: 1 }, Class { pages: 8, count: 8, weight: 63 }];
const SCALER: &[Class] = &[Class { pages: 75, count: 2, weight: 1 }, Class { pages: 1, count: 8, weight: 31 }];

impl Party {
    fn new(kernel: &'static Kernel, name: &'static str, classes: &'static [Class]) -> Result<Self, String> {
        let sets: Vec<Set> = classes
            .iter()
            .map(|&Class { pages, count, .. }| Set { count, bytes: pages * FRAME_SIZE, align: 1 })
            .collect();
        let master = kernel.master(name);
        let contract = kernel.dma.contract(&master, &sets).map_err(|error| format!("{name}: {error}"))?;
        // SAFETY: the workload keeps a device's promise: a port is closed before its buffer changes hands.
        let port = unsafe { Port::new(kernel.dma, master) };
        Ok(Self { contract, classes, held: classes.iter().map(|_| Vec::new()).collect(), port })
    }

    fn pick(&self, random: &mut Random) -> usize {
        let mut at = random.below(self.classes.iter().map(|class| class.weight).sum());
        self.classes
            .iter()
            .position(|class| {
                let here = at < class.weight;
                at = at.saturating_sub(class.weight);
                here
            })
            .unwrap_or(0)
    }
}

/// Looks at words of a buffer, all of a small one, and then leaves traces in it for the next owner not to find.
fn inspect(bytes: &mut [u8]) -> Result<(), String> {
    let stride = if bytes.len() <= 16 * PAGE { 4 } else { 32 };
    for offset in (0..bytes.len() - 3).step_by(stride) {
        let word = &bytes[offset..offset + 4];
        if word != [0; 4] {
            return Err(format!("I5: a fresh buffer holds {word:02x?} at {offset:#x}"));
        }
    }
    bytes.iter_mut().step_by(64).for_each(|byte| *byte = 0xa5);
    Ok(())
}

const PAGE: usize = FRAME_SIZE as usize;

impl Job {
    /// Takes a fresh buffer as one of the three kinds.
    fn new(buffer: Contiguous<Armv7a>, port: &Port<Armv7a>, kind: u32) -> Result<Self, String> {
        let bytes = buffer.len() as u32;
        let play = |bus| {
            port.open(bus, bytes).map_err(|error| format!("{error}")).and_then(|mut open| inspect(open.bytes_mut()))
        };
        match kind {
            0 => {
                let buffer = buffer.into_device();
                let bus = buffer.bus();
                play(bus).map(|()| Self::Only(buffer))
            }
            1 => {
                // The CPU looks first, so that lines are there when the device writes.
                let buffer = buffer.into_stream::<FromDevice>();
                if buffer.bytes().iter().step_by(32).any(|&byte| byte != 0) {
                    return Err(String::from("I5: a fresh stream is not zeroed"));
                }
                let buffer = buffer.for_device();
                play(buffer.bus()).map(|()| Self::Film(buffer))
            }
            _ => {
                let buffer = buffer.into_coherent();
                play(buffer.bus()).map(|()| Self::Ring(buffer))
            }
        }
    }

    fn end(self) {
        match self {
            // SAFETY: the device is a port that is closed.
            Self::Only(buffer) => drop(unsafe { buffer.release() }),
            // SAFETY: as above.
            Self::Film(buffer) => drop(unsafe { buffer.for_cpu() }),
            // SAFETY: as above.
            Self::Ring(buffer) => drop(unsafe { buffer.release() }),
        }
    }
}

/// The value that belongs to a key.
fn value(key: u32, to: &mut Vec<u8>) {
    let pages = 1 + key as usize % 8;
    to.resize(pages * PAGE, 0);
    let (words, _) = to.as_chunks_mut::<4>();
    let mut word = key.wrapping_mul(0x9e37_79b9) | 1;
    for place in words {
        *place = word.to_le_bytes();
        word = word.wrapping_add(0x6d2b_79f5);
    }
}

/// Fills a store with as much as it gets.
fn fill<K: LoanKind>(store: &mut Store<Armv7a, K>, next: &mut u32, most: u32, buffer: &mut Vec<u8>) {
    for _ in 0..most {
        value(*next, buffer);
        match store.put(*next, buffer) {
            Ok(()) => *next += 1,
            Err(LendError::Spent { .. }) => {
                // Oldest first: mostly they are gone anyway.
                let oldest = store.keys().next();
                match oldest {
                    Some(oldest) => store.remove(oldest),
                    None => return,
                }
            }
            Err(_) => return,
        }
    }
}

/// Reads every value of the store. Each must be whole.
fn check_all(store: &mut Store<Armv7a, Movable>, buffer: &mut Vec<u8>) -> Result<(), String> {
    for key in store.keys().collect::<Vec<_>>() {
        match store.read(key, buffer) {
            Ok(Found::Whole) => {}
            Ok(Found::Nothing) => return Err(format!("I6: movable value {key:#x} is gone")),
            Err(corrupt) => return Err(format!("I6: {corrupt}")),
        }
    }
    Ok(())
}

/// Pages that an allocation recalled.
fn recalled(store: &Store<Armv7a, Movable>, scratch: &Store<Armv7a, Discardable>) -> u64 {
    store.stats().recalled + scratch.stats().recalled
}

/// Fills the default area with loans and lets three devices with contracts, and one without, take and free buffers.
pub fn churn(kernel: &'static Kernel, plan: Plan) -> Result<Tally, String> {
    let area = kernel.default_area().ok_or("no default area")?;
    let now = || kernel.clock.as_ref().map_or(0, Clock::nanos);
    let mut random = Random::new(plan.seed);
    let refused = |error: LendError| format!("{error}");
    let pages = (kernel.dma.free_bytes(area).0 >> FRAME_SHIFT) as u32;
    let store = kernel.dma.borrower(area, "store", plan.store, Priority::High).map_err(refused)?;
    let scratch = kernel.dma.borrower(area, "scratch", 2 * pages, Priority::Low).map_err(refused)?;
    let (mut store, mut scratch): (Store<Armv7a, Movable>, _) = (Store::new(store), Store::new(scratch));
    let (mut kept, mut next, mut buffer) = (0, 0x1000_0000, Vec::new());
    kernel.dma.set_reserve(area, 1 << 20);

    // Half of the loans stand before the contracts are made, which then recall some.
    while kept * 5 < plan.store {
        value(kept, &mut buffer);
        store.put(kept, &buffer).map_err(refused)?;
        kept += 1;
    }
    fill(&mut scratch, &mut next, pages / 9, &mut buffer);
    let mut parties = Vec::new();
    for (name, classes) in [("camera", CAMERA), ("codec", CODEC), ("scaler", SCALER)] {
        parties.push(Party::new(kernel, name, classes)?);
    }
    fill(&mut scratch, &mut next, u32::MAX >> 8, &mut buffer);
    let hog = Hog::new(kernel);
    let mut others: Vec<Job> = Vec::new();
    let mut tally = Tally::default();

    for step in 0..plan.steps {
        let before = recalled(&store, &scratch);
        let start = now();
        let (buffer_got, port, held) = if random.below(8) == 0 {
            if !others.is_empty() && (others.len() == 16 || random.below(2) == 0) {
                others.swap_remove(random.below(others.len() as u32) as usize).end();
                continue;
            }
            let bytes = (1 + random.below(32)) * FRAME_SIZE;
            (kernel.dma.alloc(&hog.master, bytes, 1), &hog.port, &mut others)
        } else {
            let party = &mut parties[random.below(3) as usize];
            let class = party.pick(&mut random);
            let held = &mut party.held[class];
            let Class { pages, count, .. } = party.classes[class];
            if held.len() as u32 == count || !held.is_empty() && random.below(2) == 0 {
                held.swap_remove(random.below(held.len() as u32) as usize).end();
                continue;
            }
            (party.contract.alloc(pages * FRAME_SIZE), &party.port, held)
        };
        let took = now() - start;
        let by_contract = !core::ptr::eq(port, &raw const hog.port);
        match buffer_got {
            Ok(got) => {
                let job = Job::new(got, port, random.below(3)).map_err(|why| format!("step {step}: {why}"))?;
                held.push(job);
                tally.allocated.0 += u32::from(by_contract);
                tally.allocated.1 += u32::from(!by_contract);
            }
            Err(AllocError::NoWindow { .. } | AllocError::TooManyBuffers { .. }) if !by_contract => {}
            Err(error) => {
                println!("loans: step {step}: {error}");
                tally.failures += 1;
            }
        }
        let of = recalled(&store, &scratch) - before;
        if of > 0 {
            tally.recalls += 1;
            tally.worst = tally.worst.max((took, of));
        }
        // The borrowers use what is free again, and look at what they have.
        fill(&mut scratch, &mut next, 3, &mut buffer);
        let key = random.below(kept);
        match store.read(key, &mut buffer) {
            Ok(Found::Whole) => {}
            found => return Err(format!("step {step}: I6: movable value {key:#x}: {found:?}")),
        }
        let newest = scratch.keys().next_back().unwrap_or(0);
        let key = newest.saturating_sub(random.below(4096)).max(0x1000_0000);
        tally.hits.1 += 1;
        match scratch.read(key, &mut buffer) {
            Ok(found) => tally.hits.0 += u64::from(found == Found::Whole),
            Err(corrupt) => return Err(format!("step {step}: {corrupt}")),
        }
        if step % 16 == 0 {
            kernel.dma.idle_work(area, 8);
        }
        if step % plan.audit_every == 0 {
            kernel.audit().map_err(|finding| format!("step {step}: audit: {finding}"))?;
        }
    }

    kernel.audit().map_err(|finding| format!("audit: {finding}"))?;
    others.into_iter().for_each(Job::end);
    parties.into_iter().flat_map(|party| party.held.into_iter().flatten()).for_each(Job::end);
    check_all(&mut store, &mut buffer)?;
    kernel.dma.set_reserve(area, 0);
    fill(&mut scratch, &mut next, u32::MAX >> 8, &mut buffer);
    (tally.lent, tally.store, tally.scratch) = (kernel.dma.lent(area), store.stats(), scratch.stats());
    kernel.audit().map_err(|finding| format!("audit: {finding}"))?;
    for key in store.keys().collect::<Vec<_>>() {
        store.remove(key);
    }
    for key in scratch.keys().collect::<Vec<_>>() {
        scratch.remove(key);
    }
    if tally.failures > 0 {
        println!("{tally}");
        return Err(format!("{} allocations failed", tally.failures));
    }
    Ok(tally)
}

/// A device without a contract.
struct Hog {
    master: Master,
    port: Port<Armv7a>,
}

impl Hog {
    fn new(kernel: &'static Kernel) -> Self {
        let master = kernel.master("hog");
        // SAFETY: as in `Party::new`.
        let port = unsafe { Port::new(kernel.dma, master.clone()) };
        Self { master, port }
    }
}

fn disk_failed(error: DiskError) -> Failure {
    Failure::Disk(BlockError::Virtio(error))
}

/// Pages of the cache of the disk: those that can be read again, and those not written yet.
const CACHE: (u32, u32) = (4096, 64);

/// The demo: a picture whose file is read through a cache in lent memory, blocks written that are not on the disk yet,
/// and devices that take and free memory around them.
pub(super) fn demo(kernel: &'static Kernel, disk: &mut Disk) -> Result<(), Failure> {
    let area = kernel.default_area().ok_or(Failure::NoDevice("default area"))?;
    let bytes = disk.bytes() as usize;
    let blocks = (bytes / BLOCK) as u32;
    let refused = |error: LendError| Failure::Lending(format!("{error}"));
    let (clean, dirty) = CACHE;
    let clean = kernel.dma.borrower(area, "disk, clean", clean, Priority::High).map_err(refused)?;
    let dirty = kernel.dma.borrower(area, "disk, unwritten", dirty, Priority::High).map_err(refused)?;
    let mut cache = BlockCache::new(Blocks::new(disk).map_err(disk_failed)?, clean, dirty);
    let failed = |error| disk_failed(DiskError::Device(error));
    let mut block = vec![0; BLOCK].into_boxed_slice();
    let block: &mut [u8; BLOCK] = block.as_mut().try_into().map_err(|_| Failure::NoDisk)?;

    // The file, twice: the second time from memory.
    let mut file = demo::alloc(kernel, "codec", bytes as u32, "JPEG file")?.into_stream::<ToDevice>();
    for _ in 0..2 {
        for (n, part) in (0..).zip(file.bytes_mut().chunks_mut(BLOCK)) {
            cache.read(n, block).map_err(failed)?;
            part.copy_from_slice(&block[..part.len()]);
        }
    }
    println!(
        "cache: {} of {} in lent memory, {} % hits",
        Bytes(bytes as u64),
        Bytes(bytes as u64),
        cache.hits().rate()
    );
    let mut hops: Vec<Hop> = Vec::new();
    let screen = demo::show_file(kernel, "cache", file, &mut hops)?;

    // What is written stays in memory while everything around it is recalled.
    let last = blocks.saturating_sub(8)..blocks;
    let old: Vec<u32> = last
        .clone()
        .map(|n| {
            cache.read(n, block).map_err(failed)?;
            let sum = checksum(&block[..]);
            block.iter_mut().for_each(|byte| *byte ^= 0xff);
            cache.write(n, block).map_err(failed)?;
            Ok(sum)
        })
        .collect::<Result<_, Failure>>()?;
    let plan = Plan { steps: 4000, audit_every: 500, store: 1024, seed: 2026 };
    let tally = churn(kernel, plan).map_err(Failure::Lending)?;
    let unwritten = cache.unwritten();
    cache.flush().map_err(failed)?;
    cache.shrink();
    let intact = last.clone().zip(&old).map(|(n, &sum)| {
        cache.read(n, block).map_err(failed)?;
        block.iter_mut().for_each(|byte| *byte ^= 0xff);
        Ok(checksum(&block[..]) == sum)
    });
    let intact = intact.collect::<Result<Vec<bool>, Failure>>()?;
    if intact.contains(&false) {
        return Err(Failure::Lending(String::from("a block written is not on the disk")));
    }
    cache.shrink();
    println!("cache: {unwritten} blocks written in memory, on the disk now, intact; {} % hits", cache.hits().rate());
    println!("{tally}");
    let (found, of) = tally.hits;
    println!("loans: scratch hit rate   {} %", found * 100 / of.max(1));
    demo::print_table(kernel.dma, &hops);
    drop(cache);
    let result = demo::end(kernel, true);
    screen.off();
    result
}
