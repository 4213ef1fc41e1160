//! The rings of events, one for each core.
//!
//! Guarantees: an event is written by its core to its core's ring, without a lock. A reader gets whole events.

use super::kind::EventKind;
use crate::addr::FrameRange;
use crate::cpu::{MAX_CORES, core_index, masked};
use crate::heap::lasting;
use crate::name::Name;
use alloc::collections::TryReserveError;
use arrayvec::ArrayVec;
use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering, fence};
use spin::Mutex;

/// What happened, when, and to what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What the clock said.
    pub time: u64,
    /// What happened.
    pub kind: EventKind,
    /// A number whose meaning depends on the kind.
    pub detail: u16,
    /// The buffer: how many were allocated before it, modulo 2^32. It is 0 where the event is of no buffer.
    pub buffer: u32,
    /// The frames, if it is known which. They may be none.
    pub frames: FrameRange,
    /// How many, or how much.
    pub amount: u32,
}

/// The words of an event in its ring: what and whose, the time's two, the buffer, the first frame, the amount.
const WORDS: usize = 6;
const KINDS: usize = EventKind::ALL.len() + 1;

type Place = [AtomicU32; WORDS];

struct CoreLog {
    /// How many events were begun.
    next: AtomicU32,
    counts: [AtomicU32; KINDS],
    /// As many places as a power of two, or none.
    ring: &'static [Place],
}

/// The events of all cores.
pub struct EventLog {
    pub(super) clock: fn() -> u64,
    cores: &'static [CoreLog],
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "events of {} cores", self.cores.len())
    }
}

/// The most names of masters that are kept.
const NAMES: usize = 64;

/// The names of masters, by their numbers. The lock is held with interrupts masked, so a handler may make a master.
static MASTERS: Mutex<ArrayVec<(u16, Name), NAMES>> = Mutex::new(ArrayVec::new_const());

/// Keeps the name of a master. The oldest name goes if there are too many.
pub(super) fn name_master(number: u16, name: Name) {
    masked(|| {
        let mut masters = MASTERS.lock();
        if masters.is_full() {
            masters.remove(0);
        }
        masters.push((number, name));
    });
}

static LOG: AtomicPtr<EventLog> = AtomicPtr::new(ptr::null_mut());

impl EventLog {
    /// Begins to record, in place of what was recorded before. Each core keeps its last `events` events, rounded up to
    /// a power of two. With 0 it only counts. `clock` says the time, in a unit of its own. It is called for each event,
    /// in any context, and must take no lock. The memory is taken from the heap and stays for good.
    ///
    /// # Errors
    ///
    /// If the heap has no room.
    pub fn begin(events: u32, clock: fn() -> u64) -> Result<&'static Self, TryReserveError> {
        let places = if events == 0 { 0 } else { events.next_power_of_two() as usize };
        let mut rings = [const { &[] as &[Place] }; MAX_CORES];
        for ring in &mut rings {
            *ring = lasting(places, |_| Place::default())?;
        }
        let core = |n: usize| CoreLog { next: AtomicU32::new(0), counts: Default::default(), ring: rings[n] };
        let cores = lasting(MAX_CORES, core)?;
        let [log] = lasting(1, |_| Self { clock, cores })? else { unreachable!("one") };
        LOG.store(ptr::from_ref(log).cast_mut(), Ordering::Release);
        Ok(log)
    }

    /// Ends recording. What was recorded can still be read.
    pub fn end() {
        LOG.store(ptr::null_mut(), Ordering::Release);
    }

    /// Returns the log that is being written, or `None` if nothing is recorded.
    #[inline]
    pub fn current() -> Option<&'static Self> {
        let log = LOG.load(Ordering::Relaxed);
        if log.is_null() {
            return None;
        }
        fence(Ordering::Acquire);
        // SAFETY: `begin` put it there: a value that stays for good and is shared since.
        Some(unsafe { &*log })
    }

    /// Returns how many events of a kind there were on all cores, modulo 2^32.
    pub fn count(&self, kind: EventKind) -> u32 {
        let of = |core: &CoreLog| core.counts[kind as usize].load(Ordering::Relaxed);
        self.cores.iter().fold(0, |sum, core| sum.wrapping_add(of(core)))
    }

    /// Returns how many events of a core are lost, because the ring has no place for so many.
    pub fn lost(&self, core: usize) -> u32 {
        let Some(core) = self.cores.get(core) else { return 0 };
        core.next.load(Ordering::Relaxed).saturating_sub(core.ring.len() as u32)
    }

    /// Returns the name of the master of a number, if it is known.
    pub fn master(number: u16) -> Option<Name> {
        masked(|| MASTERS.lock().iter().rev().find(|(of, _)| *of == number).map(|(_, name)| *name))
    }

    /// Calls `each` with the events that a core's ring holds, from the first on.
    pub fn for_each(&self, core: usize, mut each: impl FnMut(Event)) {
        let Some(core) = self.cores.get(core).filter(|core| !core.ring.is_empty()) else { return };
        let end = core.next.load(Ordering::Acquire);
        for n in end.saturating_sub(core.ring.len() as u32)..end {
            let place = &core.ring[n as usize & (core.ring.len() - 1)];
            let [what, words @ ..] = place;
            let before = what.load(Ordering::Acquire);
            let [low, high, buffer, first, amount] = words.each_ref().map(|word| word.load(Ordering::Acquire));
            let kind = EventKind::ALL.get((before & 0xff).wrapping_sub(1) as usize);
            // The turn of the ring, modulo 256, is among the word that is written last, and first made invalid.
            let (Some(&kind), true) = (kind, what.load(Ordering::Relaxed) == before) else { continue };
            if before >> 8 & 0xff != core.turn(n) {
                continue;
            }
            let (time, detail) = (u64::from(high) << 32 | u64::from(low), (before >> 16) as u16);
            let frames = FrameRange::new(first, amount).filter(|_| kind.is_of_frames()).unwrap_or(FrameRange::EMPTY);
            each(Event { time, kind, detail, buffer, frames, amount });
        }
    }

    pub(super) fn write(&self, kind: EventKind, detail: u16, buffer: u32, (first, amount): (u32, u32)) {
        let Some(core) = self.cores.get(core_index()) else { return };
        core.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
        if core.ring.is_empty() {
            return;
        }
        let n = core.next.fetch_add(1, Ordering::Relaxed);
        let [what, low, high, whose, start, count] = &core.ring[n as usize & (core.ring.len() - 1)];
        let time = (self.clock)();
        what.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        low.store(time as u32, Ordering::Relaxed);
        high.store((time >> 32) as u32, Ordering::Relaxed);
        whose.store(buffer, Ordering::Relaxed);
        start.store(first, Ordering::Relaxed);
        count.store(amount, Ordering::Relaxed);
        what.store(u32::from(detail) << 16 | core.turn(n) << 8 | kind as u32, Ordering::Release);
    }
}

impl CoreLog {
    /// Returns which turn of the ring an event is of, modulo 256.
    #[inline]
    const fn turn(&self, n: u32) -> u32 {
        n >> self.ring.len().trailing_zeros() & 0xff
    }
}
