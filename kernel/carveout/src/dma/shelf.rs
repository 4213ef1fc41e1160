//! Shelves: freed coherent buffers that wait, mapped, for the next request of their kind on their core.
//!
//! Guarantees:
//!
//! - A shelf is a core's own. Taking from it and putting on it takes no lock of the books: interrupts are masked, and a
//!   core that finds its shelf in another's hands goes the long way.
//! - A buffer on a shelf is a buffer for the index, which is not told of it. So shelves are used only while half of
//!   the area is idle besides, each holds at most a quarter of it, and they are emptied, those of all cores, before a
//!   request is refused. Idle work may have a buffer of a shelf in hand: then it has the work lane, which a request
//!   waits for before it is refused. What is on the shelf of a core that never comes back is lost to nobody.
//! - A buffer goes to the master that it was of, so its record has its true owner, and its bus address is right.
//! - **I5** Whoever gets one finds zeros: written in idle time or by the allocation, through the mapping.

use crate::cpu::{MAX_CORES, core_index, masked, relax};
use crate::dma::body::Body;
use crate::dma::kind::Kind;
use crate::dma::warm::CAN_KEEP;
use crate::heap::lasting;
use alloc::collections::TryReserveError;
use arrayvec::ArrayVec;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The shelves: one for each core.
const SHELVES: usize = if CAN_KEEP { MAX_CORES } else { 0 };
/// Kinds of request on a shelf.
const KINDS: usize = 8;
/// Buffers of a kind.
const DEPTH: usize = 4;
/// Shelves are used while at least one part in so many of the area is idle.
const PLENTY: u32 = 2;
/// A shelf holds at most one part in so many of the area.
pub(super) const SHARE: u32 = 4;

/// A buffer of a shelf.
pub(super) enum Shelved {
    /// It holds zeros, and what its last owner did is forgotten.
    Zeroed(&'static mut Body),
    /// It may hold its last owner's bytes.
    Used(&'static mut Body),
}

/// The buffers of a kind.
#[derive(Debug)]
struct Stack {
    kind: Kind,
    zeroed: ArrayVec<&'static mut Body, DEPTH>,
    used: ArrayVec<&'static mut Body, DEPTH>,
}

impl Stack {
    const fn new(kind: Kind) -> Self {
        Self { kind, zeroed: ArrayVec::new_const(), used: ArrayVec::new_const() }
    }

    #[inline]
    const fn count(&self) -> usize {
        self.zeroed.len() + self.used.len()
    }

    #[inline]
    fn pop(&mut self) -> Option<Shelved> {
        match self.zeroed.pop() {
            Some(body) => Some(Shelved::Zeroed(body)),
            None => self.used.pop().map(Shelved::Used),
        }
    }
}

/// The shelf of a core.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    taken: AtomicBool,
    /// The frames on it, and how many buffers came from it. Whoever has the shelf writes them.
    frames: AtomicU32,
    served: AtomicU32,
    stacks: UnsafeCell<ArrayVec<Stack, KINDS>>,
}

// SAFETY: the stacks are used by whoever took the shelf alone, and are given from core to core with it.
unsafe impl Sync for Shelf {}

impl Shelf {
    /// Works with the shelf, with interrupts masked. Returns `None` if another core has it.
    #[inline]
    fn try_with<R>(&self, work: impl FnOnce(&mut ArrayVec<Stack, KINDS>) -> R) -> Option<R> {
        masked(|| {
            if self.taken.swap(true, Ordering::Acquire) {
                return None;
            }
            // SAFETY: this core took the shelf, and no handler runs meanwhile. So nothing else names the stacks.
            let result = work(unsafe { &mut *self.stacks.get() });
            self.taken.store(false, Ordering::Release);
            Some(result)
        })
    }

    /// Notes that so many frames came, or went. The caller has the shelf.
    #[inline]
    fn note(&self, change: i32) {
        let frames = self.frames.load(Ordering::Relaxed).wrapping_add_signed(change);
        self.frames.store(frames, Ordering::Relaxed);
    }

    /// Works with the shelf once no other core has it: none has it for more than a few instructions.
    fn with<R>(&self, mut work: impl FnMut(&mut ArrayVec<Stack, KINDS>) -> R) -> R {
        loop {
            if let Some(result) = self.try_with(&mut work) {
                return result;
            }
            relax();
        }
    }
}

/// The shelves of all cores.
#[derive(Debug)]
pub(super) struct Shelves {
    by_core: &'static [Shelf; SHELVES],
    /// The areas, a bit each, of which enough is idle.
    pub(super) plenty: AtomicU32,
}

impl Shelves {
    /// The bytes that they take of the heap.
    pub(super) const BYTES: usize = SHELVES * size_of::<Shelf>();

    /// Makes a shelf for each core.
    pub(super) fn new() -> Result<Self, TryReserveError> {
        let shelves: &'static [Shelf] = lasting(SHELVES, |_| Shelf::default())?;
        let by_core = shelves.first_chunk().expect("one for each core");
        Ok(Self { by_core, plenty: AtomicU32::new(0) })
    }

    /// Returns the shelf of this core.
    #[inline]
    fn mine(&self) -> Option<&'static Shelf> {
        self.by_core.get(core_index())
    }

    /// Returns the frames on all shelves.
    pub(super) fn frames(&self) -> u32 {
        self.by_core.iter().map(|shelf| shelf.frames.load(Ordering::Relaxed)).sum()
    }

    /// Returns how many buffers came from a shelf.
    pub(super) fn served(&self) -> u32 {
        self.by_core.iter().fold(0, |served, shelf| served.wrapping_add(shelf.served.load(Ordering::Relaxed)))
    }

    /// Takes a buffer of a kind from this core's shelf.
    #[inline]
    pub(super) fn take(&self, kind: Kind) -> Option<Shelved> {
        let shelf = self.mine()?;
        if shelf.frames.load(Ordering::Relaxed) == 0 {
            return None;
        }
        shelf.try_with(|stacks| {
            let shelved = stacks.iter_mut().find(|stack| stack.kind == kind)?.pop()?;
            let (Shelved::Zeroed(body) | Shelved::Used(body)) = &shelved;
            shelf.note(-(body.frames().count().cast_signed()));
            shelf.served.store(shelf.served.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            Some(shelved)
        })?
    }

    /// Puts a buffer of which nothing is zeroed on this core's shelf. Returns it if it has no place there.
    #[inline]
    pub(super) fn put(&self, kind: Kind, most: u32, body: &'static mut Body) -> Result<(), &'static mut Body> {
        let Some(shelf) = self.mine() else { return Err(body) };
        let count = body.frames().count();
        if shelf.frames.load(Ordering::Relaxed) + count > most {
            return Err(body);
        }
        let mut given = Some(body);
        let _put = shelf.try_with(|stacks| {
            let stack = match stacks.iter_mut().position(|stack| stack.kind == kind) {
                Some(at) => &mut stacks[at],
                None => stack_for(stacks, kind)?,
            };
            if stack.count() < DEPTH {
                stack.used.push(given.take()?);
                shelf.note(count.cast_signed());
            }
            Some(())
        });
        given.map_or(Ok(()), Err)
    }

    /// Takes a buffer that waits, whoever's shelf it is on: one that may not be zeroed, or else (`zeroed`) one that is.
    /// Returns the core whose shelf it is.
    pub(super) fn take_any(&self, zeroed: bool) -> Option<(usize, &'static mut Body)> {
        let taken = |stack: &mut Stack| stack.used.pop().or_else(|| if zeroed { stack.zeroed.pop() } else { None });
        self.by_core.iter().enumerate().find_map(|(core, shelf)| {
            if shelf.frames.load(Ordering::Relaxed) == 0 {
                return None;
            }
            shelf.with(|stacks| {
                let body = stacks.iter_mut().find_map(taken)?;
                shelf.note(-(body.frames().count().cast_signed()));
                Some((core, body))
            })
        })
    }

    /// Puts a buffer back on a core's shelf. Returns it if its place is gone.
    pub(super) fn put_back(&self, core: usize, kind: Kind, body: &'static mut Body) -> Result<(), &'static mut Body> {
        let (count, shelf) = (body.frames().count(), &self.by_core[core]);
        let mut given = Some(body);
        shelf.with(|stacks| {
            let stack = stacks.iter_mut().find(|stack| stack.kind == kind && stack.count() < DEPTH);
            if let Some((stack, body)) = stack.and_then(|stack| Some((stack, given.take()?))) {
                if body.is_zeroed() {
                    body.renew();
                    stack.zeroed.push(body);
                } else {
                    stack.used.push(body);
                }
                shelf.note(count.cast_signed());
            }
        });
        given.map_or(Ok(()), Err)
    }

    /// Takes note of how much of an area is idle.
    #[inline]
    pub(super) fn note_idle(&self, area: usize, idle: u32, all: u32) {
        let (bit, before) = (1 << area, self.plenty.load(Ordering::Relaxed));
        let plenty = idle >= all / PLENTY;
        let after = if plenty { before | bit } else { before & !bit };
        if after != before {
            self.plenty.store(after, Ordering::Relaxed);
        }
    }
}

/// Returns an empty stack for a kind that has none.
#[cold]
fn stack_for(stacks: &mut ArrayVec<Stack, KINDS>, kind: Kind) -> Option<&mut Stack> {
    if let Err(full) = stacks.try_push(Stack::new(kind)) {
        let stack = stacks.iter_mut().find(|stack| stack.count() == 0)?;
        *stack = full.element();
        return Some(stack);
    }
    stacks.last_mut()
}

/// Returns the most frames of an area of so many that are on a core's shelf.
pub(super) const fn most_shelved(frames: u32) -> u32 {
    frames / SHARE
}
