//! Work of several cores together: memory changes hands by set and way on each of them, and words go from core to core
//! with a lock and without one. Each step ends with a check of the result.
//!
//! An operation by set and way works only on the cache of the core that executes it (ARM ARM B2.2.7). A dirty line may
//! move to another core's cache for as long as any core may look at it. So these operations are done on every core
//! after nothing maps the frames write-back any more, and the outer cache comes after them.

use crate::blk::{Disk, Transfer};
use crate::by_hand::{Hand, pointer};
use crate::careless::{Bug, Careless, by_set_and_way, dsb};
use crate::{BYTES, has_words, word};
use carveout::addr::FrameRange;
use carveout::cpu::CoreId;
use carveout::machine::{Cache, Mmu};
use carveout::vm::attr::MemoryType;
use carveout::vm::mapped::Part;
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::kernel::cores;
use core::sync::atomic::{AtomicU32, Ordering};
use on_target::{Verdict, ensure_eq};

/// How often memory changes hands.
const CHANGES: u32 = 4;
/// How often each core takes the lock.
const TURNS: u32 = 256;
/// How often a block goes to the next core.
const HAND_OVERS: u32 = 192;

/// Returns whether this core is the only one.
pub(crate) fn is_alone() -> bool {
    cores::online().nth(1).is_none()
}

/// The cores, and the things that they share.
pub(crate) struct Many<'d> {
    /// The machine without a bug.
    pub(crate) machine: &'static Armv7a,
    /// The region whose mappings change.
    pub(crate) hand: &'d mut Hand,
    /// The disk, which reads and writes the frames beside the cores.
    pub(crate) disk: &'d mut Disk,
}

/// Returns the words of a mapping, for a core that may have speculated there before the mapping was made.
///
/// # Safety
///
/// The mapping lasts for as long as the words are used.
unsafe fn words<'w>(machine: &Armv7a, part: Part<'w>) -> &'w [AtomicU32] {
    let first = machine.reach(part.va(), part.bytes()).cast();
    // SAFETY: these are whole frames that are mapped (`Part`), for as long as this function's contract says.
    unsafe { core::slice::from_raw_parts(first, part.bytes() as usize / size_of::<u32>()) }
}

/// Words between two words that a core looks at, which are one in each line of any cache here.
const STRIDE: usize = 8;

impl Many<'_> {
    fn careless(&self) -> &'static Careless {
        self.hand.machine
    }

    fn has(&self, bug: Bug) -> bool {
        self.careless().has(bug)
    }

    /// Does all steps.
    pub(crate) fn work(&mut self, frames: FrameRange) -> Verdict {
        self.memory_changes_hands_by_set_and_way(frames)?;
        self.a_lock_guards_words()?;
        self.blocks_go_from_core_to_core()
    }

    /// Passes memory from all cores to the disk, from the disk to the CPU past its caches, and back.
    fn memory_changes_hands_by_set_and_way(&mut self, frames: FrameRange) -> Verdict {
        let (frames, _) = frames.split_at(1).ok_or("too few frames")?;
        for salt in 0..CHANGES {
            let cached = self.hand.map(0, frames, MemoryType::WriteBack);
            let part = cached.all();
            let at = self.hand.master.bus(part.pa()).ok_or("the disk does not reach it")?;
            self.every_core_writes(part, salt);
            if self.has(Bug::SetWayWhileMapped) {
                self.flush(frames);
            }
            self.hand.unmap(cached);
            if !self.has(Bug::SetWayWhileMapped) {
                self.flush(frames);
            }
            self.disk.transfer(Transfer::Out, at, BYTES)?;
            self.disk.transfer(Transfer::In, at, BYTES)?;
            let plain = self.hand.map(0, frames, MemoryType::NonCacheable);
            let read = |n| {
                // SAFETY: the word is in a mapping that exists.
                unsafe { pointer(self.careless(), plain.all(), 4 * n as u32).read_volatile() }
            };
            has_words((0..BYTES as usize / 4).map(|n| (n, read(n))), salt)?;
            self.hand.unmap(plain);
        }
        Ok(())
    }

    /// Has each core write its own words, between those of the others, and look at all words. So lines move between
    /// cores.
    fn every_core_writes(&self, part: Part<'_>, salt: u32) {
        let (machine, count) = (self.machine, cores::online().count());
        cores::on_all(&|core: CoreId| {
            // SAFETY: the part is mapped until all cores are done.
            let words = unsafe { words(machine, part) };
            for (n, place) in words.iter().enumerate().filter(|(n, _)| n % count == core.index()) {
                place.store(word(n, salt), Ordering::Relaxed);
            }
            let seen = words.iter().step_by(STRIDE).fold(0, |all, place| all | place.load(Ordering::Relaxed));
            core::hint::black_box(seen);
        });
    }

    /// Has every core clean and drop all its lines. Then has the outer cache clean and drop the lines of the frames.
    /// The correct program does this as the kernel does.
    fn flush(&self, frames: FrameRange) {
        if !self.careless().is_wrong_by_set_and_way() {
            self.machine.flush();
            return;
        }
        let (start, bytes) = (frames.base().raw(), frames.bytes() as u32);
        if self.has(Bug::SetWayOuterFirst) {
            self.careless().flush_outer(start, bytes);
        }
        let careless = self.careless();
        let (one, drops) = (careless.has(Bug::SetWayOneCore), careless.has(Bug::SetWayInvalidate));
        let late = careless.late_core();
        let machine = self.machine;
        cores::on_all(&|core: CoreId| {
            if Some(core) != late && !(one && core.index() > 0) {
                flush_own(machine, drops);
            }
        });
        if !self.has(Bug::SetWayOuterFirst) {
            self.careless().flush_outer(start, bytes);
        }
        self.careless().device_barrier();
    }

    /// Has the cores count up words under a lock, one core at a time.
    fn a_lock_guards_words(&self) -> Verdict {
        static LOCK: Line<1> = Line::new();
        static WORDS: Line<24> = Line::new();
        let (acquire, release) = orders(self.has(Bug::LockNoBarrier));
        let lock = &LOCK.0[0];
        cores::on_all(&|_| {
            for _ in 0..TURNS {
                while lock.compare_exchange_weak(0, 1, acquire, Ordering::Relaxed).is_err() {
                    core::hint::spin_loop();
                }
                for place in &WORDS.0 {
                    place.store(place.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                }
                lock.store(0, release);
            }
        });
        let turns = TURNS * cores::online().count() as u32;
        for (n, place) in WORDS.0.iter().enumerate() {
            ensure_eq!(place.load(Ordering::Relaxed), turns, "turns that word {n} counted");
        }
        Ok(())
    }

    /// Passes a block from core to core. Each core takes the block that the core before left, checks it, and leaves it
    /// for the next core.
    fn blocks_go_from_core_to_core(&self) -> Verdict {
        static SHELF: Line<1> = Line::new();
        static BLOCK: Line<24> = Line::new();
        static WRONG: Line<1> = Line::new();
        let (acquire, release) = orders(self.has(Bug::ShelfNoOrder));
        let (shelf, count) = (&SHELF.0[0], cores::online().count() as u32);
        cores::on_all(&|core: CoreId| {
            for turn in (0..HAND_OVERS).filter(|turn| turn % count == core.index() as u32) {
                while shelf.load(acquire) != turn {
                    core::hint::spin_loop();
                }
                for place in &BLOCK.0 {
                    if place.load(Ordering::Relaxed) != turn {
                        WRONG.0[0].fetch_add(1, Ordering::Relaxed);
                    }
                    place.store(turn + 1, Ordering::Relaxed);
                }
                shelf.store(turn + 1, release);
            }
        });
        ensure_eq!(WRONG.0[0].load(Ordering::Relaxed), 0, "words of a block that are not what the core before wrote");
        Ok(())
    }
}

/// Words that share no line with others.
#[repr(align(64))]
struct Line<const N: usize>([AtomicU32; N]);

impl<const N: usize> Line<N> {
    const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; N])
    }
}

/// Returns the orderings of a load that finds something and of the store that left it. With `missing` they are relaxed.
const fn orders(missing: bool) -> (Ordering, Ordering) {
    if missing { (Ordering::Relaxed, Ordering::Relaxed) } else { (Ordering::Acquire, Ordering::Release) }
}

/// Cleans and drops all lines of this core's first level, or drops them only.
fn flush_own(machine: &Armv7a, drops: bool) {
    let Some(geometry) = machine.caches().geometries().first() else { return };
    for way in 0..geometry.ways {
        for set in 0..geometry.sets {
            // Level 1 is 0 (ARM ARM B4.2.1).
            by_set_and_way(geometry.way_bits(way) | (set * geometry.line), drops);
        }
    }
    dsb();
}
