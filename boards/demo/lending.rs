//! A workload that lends memory while devices with contracts come and go. `demo=loans` and the on-target stress run it.
//!
//! Guarantees, when [`churn`] returns a [`Tally`]: every allocation that a contract declares succeeded, every buffer
//! was found zeroed, every value of the movable store was whole by its hash, and the audits were clean.

use super::block_cache::{BlockCache, CacheError};
use super::ending::end;
use super::failure::Failure;
use super::hops::{Hop, print_table};
use super::memory;
use super::mock::camera::checksum;
use super::picture::show_file;
use super::random::Random;
use super::store::{Found, PutError, Store};
use crate::drivers::storage::{BLOCK, Writable};
use crate::kernel::state::Kernel;
use crate::println;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use carveout::addr::{Bytes, FRAME_SHIFT, FRAME_SIZE};
use carveout::dma::{
    AreaId, Coherent, Contiguous, Contract, ContractSet, Device, DeviceOnly, Discardable, FromDevice, LendError,
    LentFrames, LoanKind, LoanPriority, LoanStats, Master, Movable, Port, Stream, ToDevice,
};
use carveout_armv7a::mmu::Armv7a;
use core::fmt;

/// The size of the workload of [`churn`].
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Allocations and frees.
    pub steps: u32,
    /// Steps between two audits.
    pub audit_every: u32,
    /// Pages of the movable store.
    pub store: u32,
    /// The seed of the workload.
    pub seed: u32,
}

/// The result of [`churn`].
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// Buffers allocated by contract, and by a device that has none.
    pub allocated: (u32, u32),
    /// Allocations that recalled something.
    pub recalls: u32,
    /// The longest of these: its nanoseconds, which are instructions if the emulator counts them, and the pages that it
    /// recalled.
    pub worst: (u64, u64),
    /// Allocations that were refused although they were promised, or although there was room.
    pub failures: u32,
    /// What the area lent at the end, when it was as full of loans as possible.
    pub lent: LentFrames,
    /// Counters of the movable store.
    pub store: LoanStats,
    /// Counters of the discardable store.
    pub scratch: LoanStats,
    /// Reads of the discardable store: those that found their value, and all reads.
    pub hits: (u64, u64),
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = |count: u32| Bytes(u64::from(count) << FRAME_SHIFT);
        let LentFrames { lent, unlent, reserve, refuge: (refuge, used) } = self.lent;
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

/// A buffer that a device owns.
enum Job {
    Only(DeviceOnly<Armv7a>),
    Film(Stream<Armv7a, FromDevice, Device>),
    Ring(Coherent<Armv7a>),
}

/// The buffers that a device declares: their number, their pages, and how often the device wants one.
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
    fn new(kernel: &'static Kernel, master: Master, classes: &'static [Class]) -> Result<Self, String> {
        let sets: Vec<ContractSet> = classes
            .iter()
            .map(|&Class { pages, count, .. }| ContractSet { count, bytes: pages * FRAME_SIZE, align: 1 })
            .collect();
        let contract = kernel.dma.contract(&master, &sets).map_err(|error| format!("{}: {error}", master.name()))?;
        // SAFETY: `Job::new` opens a buffer by the port and closes it before it returns, and owns it meanwhile (I4).
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

/// Looks at words of a buffer, or at all words of a small buffer. Then writes to the buffer. The next owner must not
/// find what was written.
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
            // SAFETY: its device is a port, which `Job::new` closed (I4).
            Self::Only(buffer) => unsafe { buffer.give_up() },
            // SAFETY: as above.
            Self::Film(buffer) => drop(unsafe { buffer.for_cpu() }),
            // SAFETY: as above.
            Self::Ring(buffer) => unsafe { buffer.give_up() },
        }
    }
}

/// Returns the value that belongs to a key.
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

/// Fills a store with as many pages as it can borrow.
fn fill<K: LoanKind>(store: &mut Store<Armv7a, K>, next: &mut u32, most: u32, buffer: &mut Vec<u8>) {
    for _ in 0..most {
        value(*next, buffer);
        match store.put(*next, buffer) {
            Ok(()) => *next += 1,
            Err(PutError::Room(LendError::Spent { .. })) => {
                // The oldest values go first, because most of them were recalled already.
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
            Err(error) => return Err(format!("I6: {error}")),
        }
    }
    Ok(())
}

/// The first key of the discardable store. The keys, and so the values, of the two stores differ.
const SCRATCH: u32 = 0x1000_0000;

/// The borrowers, and what they stored.
struct Lenders {
    store: Store<Armv7a, Movable>,
    scratch: Store<Armv7a, Discardable>,
    /// The movable store has the keys from 0 to this one, excluded.
    kept: u32,
    /// The next key of the discardable store.
    next: u32,
    buffer: Vec<u8>,
}

impl Lenders {
    fn new(kernel: &'static Kernel, area: AreaId, plan: Plan) -> Result<Self, PutError> {
        let pages = (kernel.dma.free_bytes(area).0 >> FRAME_SHIFT) as u32;
        let store = kernel.dma.borrower(area, "store", plan.store, LoanPriority::High).map_err(PutError::Room)?;
        let scratch = kernel.dma.borrower(area, "scratch", 2 * pages, LoanPriority::Low).map_err(PutError::Room)?;
        let (mut store, scratch) = (Store::new(store), Store::new(scratch));
        let (mut kept, mut buffer) = (0, Vec::new());
        while kept * 5 < plan.store {
            value(kept, &mut buffer);
            store.put(kept, &buffer)?;
            kept += 1;
        }
        Ok(Self { store, scratch, kept, next: SCRATCH, buffer })
    }

    fn fill(&mut self, most: u32) {
        fill(&mut self.scratch, &mut self.next, most, &mut self.buffer);
    }

    /// Returns the pages that were recalled since the workload began.
    fn recalled(&self) -> u64 {
        self.store.stats().recalled + self.scratch.stats().recalled
    }

    /// Borrows frames that are free again, and checks a value of each store.
    fn turn(&mut self, random: &mut Random, tally: &mut Tally) -> Result<(), String> {
        self.fill(3);
        let key = random.below(self.kept);
        match self.store.read(key, &mut self.buffer) {
            Ok(Found::Whole) => {}
            found => return Err(format!("I6: movable value {key:#x}: {found:?}")),
        }
        let key = self.next.saturating_sub(random.below(4096)).max(SCRATCH);
        tally.hits.1 += 1;
        let found = self.scratch.read(key, &mut self.buffer).map_err(|error| format!("{error}"))?;
        tally.hits.0 += u64::from(found == Found::Whole);
        Ok(())
    }

    fn end(&mut self) {
        for key in self.store.keys().collect::<Vec<_>>() {
            self.store.remove(key);
        }
        for key in self.scratch.keys().collect::<Vec<_>>() {
            self.scratch.remove(key);
        }
    }
}

/// The devices, and what they hold.
struct Devices {
    kernel: &'static Kernel,
    parties: Vec<Party>,
    hog: Hog,
    others: Vec<Job>,
}

impl Devices {
    fn new(kernel: &'static Kernel) -> Result<Self, String> {
        let all =
            [(memory::CAMERA, "camera", CAMERA), (memory::CODEC, "codec", CODEC), (memory::SCALER, "scaler", SCALER)];
        let parties = all
            .into_iter()
            .map(|(compatible, name, classes)| Party::new(kernel, memory::master(kernel, compatible, name), classes));
        Ok(Self { kernel, parties: parties.collect::<Result<_, _>>()?, hog: Hog::new(kernel), others: Vec::new() })
    }

    /// Takes a buffer or frees one. Returns the nanoseconds that an allocation took.
    fn turn(&mut self, random: &mut Random, tally: &mut Tally) -> Result<Option<u64>, String> {
        let now = || self.kernel.clock.as_ref().map_or(0, |clock| clock.nanos());
        let start;
        let (got, port, held, count) = if random.below(8) == 0 {
            let held = &mut self.others;
            if !held.is_empty() && (held.len() == 16 || random.below(2) == 0) {
                held.swap_remove(random.below(held.len() as u32) as usize).end();
                return Ok(None);
            }
            let bytes = (1 + random.below(32)) * FRAME_SIZE;
            start = now();
            (self.kernel.dma.alloc(&self.hog.master, bytes, 1), &self.hog.port, held, &mut tally.allocated.1)
        } else {
            let party = &mut self.parties[random.below(3) as usize];
            let class = party.pick(random);
            let held = &mut party.held[class];
            let Class { pages, count, .. } = party.classes[class];
            if held.len() as u32 == count || !held.is_empty() && random.below(2) == 0 {
                held.swap_remove(random.below(held.len() as u32) as usize).end();
                return Ok(None);
            }
            start = now();
            (party.contract.alloc(pages * FRAME_SIZE, 1), &party.port, held, &mut tally.allocated.0)
        };
        let took = now() - start;
        match got {
            Ok(got) => {
                held.push(Job::new(got, port, random.below(3))?);
                *count += 1;
            }
            Err(error) => {
                println!("loans: {error}");
                tally.failures += 1;
            }
        }
        Ok(Some(took))
    }

    fn end(self) {
        self.others.into_iter().for_each(Job::end);
        self.parties.into_iter().flat_map(|party| party.held.into_iter().flatten()).for_each(Job::end);
    }
}

/// Fills the default area with loans and lets three devices with contracts, and one without, take and free buffers.
///
/// # Errors
///
/// A line that says what went wrong: a refusal, a finding of the audit, a value that differs from the stored one, or an
/// allocation that failed.
pub fn churn(kernel: &'static Kernel, plan: Plan) -> Result<Tally, String> {
    let area = kernel.default_area().ok_or("no default area")?;
    let mut random = Random::new(plan.seed);
    kernel.dma.set_reserve(area, 1 << 20);
    // Some loans are made before the contracts, so that the contracts recall some of them.
    let mut lenders = Lenders::new(kernel, area, plan).map_err(|error| format!("{error}"))?;
    lenders.fill(1000);
    let mut devices = Devices::new(kernel)?;
    lenders.fill(u32::MAX >> 8);

    let mut tally = Tally::default();
    for step in 0..plan.steps {
        let at = |why| format!("step {step}: {why}");
        let before = lenders.recalled();
        if let Some(took) = devices.turn(&mut random, &mut tally).map_err(at)? {
            let of = lenders.recalled() - before;
            if of > 0 {
                tally.recalls += 1;
                tally.worst = tally.worst.max((took, of));
            }
            lenders.turn(&mut random, &mut tally).map_err(at)?;
        }
        if step % 16 == 0 {
            kernel.dma.idle_work(area, 8);
        }
        if step % plan.audit_every == 0 {
            kernel.audit().map_err(|finding| at(format!("audit: {finding}")))?;
        }
    }

    let audited = || kernel.audit().map_err(|finding| format!("audit: {finding}"));
    audited()?;
    devices.end();
    check_all(&mut lenders.store, &mut lenders.buffer)?;
    kernel.dma.set_reserve(area, 0);
    lenders.fill(u32::MAX >> 8);
    tally.lent = kernel.dma.lent(area);
    (tally.store, tally.scratch) = (lenders.store.stats(), lenders.scratch.stats());
    audited()?;
    lenders.end();
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

fn invert(block: &mut [u8; BLOCK]) {
    for byte in block {
        *byte ^= 0xff;
    }
}

/// The pages of the disk's cache: for blocks that can be read again, and for blocks that are not on the disk yet.
const CACHE: (u32, u32) = (4096, 64);

/// Runs the demo. A picture's file is read through a cache in lent memory. Blocks are written that are not on the disk
/// yet. Meanwhile, devices take and free memory.
pub(super) fn demo(kernel: &'static Kernel, disk: &mut dyn Writable) -> Result<(), Failure> {
    let area = kernel.default_area().ok_or(Failure::NoDevice("default area"))?;
    let bytes = disk.bytes() as usize;
    let blocks = (bytes / BLOCK) as u32;
    let refused = |error: LendError| Failure::Lending(format!("{error}"));
    let (clean, dirty) = CACHE;
    let clean = kernel.dma.borrower(area, "disk, clean", clean, LoanPriority::High).map_err(refused)?;
    let dirty = kernel.dma.borrower(area, "disk, unwritten", dirty, LoanPriority::High).map_err(refused)?;
    let mut cache = BlockCache::new(disk.blocks().map_err(Failure::Disk)?, clean, dirty);
    let failed = |error| match error {
        CacheError::Disk(error) => Failure::Disk(error),
        CacheError::Busy => Failure::Lending(format!("{error}")),
    };
    let mut block = vec![0; BLOCK].into_boxed_slice();
    let block: &mut [u8; BLOCK] = block.as_mut().try_into().map_err(|_| Failure::NoDisk)?;

    // The file is read twice, the second time from memory.
    let mut file = memory::alloc(kernel, &memory::master(kernel, memory::CODEC, "codec"), bytes as u32, "JPEG file")?
        .into_stream::<ToDevice>();
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
    let screen = show_file(kernel, "cache", file, &mut hops)?;

    // The written blocks stay in memory while everything around them is recalled.
    let last = blocks.saturating_sub(8)..blocks;
    let old: Vec<u32> = last
        .clone()
        .map(|n| {
            cache.read(n, block).map_err(failed)?;
            let sum = checksum(&block[..]);
            invert(block);
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
        invert(block);
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
    print_table(kernel.dma, &hops);
    drop(cache);
    let result = end(kernel, true);
    screen.off();
    result
}
