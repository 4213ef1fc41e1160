//! Contracts: sets of buffers declared up front, which can be allocated for ever after (I7). Pure bookkeeping.
//!
//! A contract *assigns places beforehand*. When it is declared, each buffer of each set gets a *slot* and a buffer
//! record. A slot is a run of frames that nobody else's allocation can have until the contract ends. It needs no
//! addresses beforehand: a run of frames always has some ([`window`](crate::vm::window)). A slot is held by one buffer,
//! or idle. While it is idle its frames may be lent.
//!
//! Guarantees: slots of one size and alignment are a class. An allocation takes an idle slot of the smallest class that
//! serves its size and alignment. If several are as small, it takes the least aligned. It never takes a slot of another
//! class. So an allocation's outcome depends only on how many slots of its own class are held. docs/src/loans.md has
//! the proof that it cannot fail.

use crate::addr::{Bytes, FRAME_SHIFT, FRAME_SIZE, FrameRange, PhysAddr};
use crate::cma::area::AllocError;
use crate::cma::extent::Extent;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::fmt;

/// Declares `count` buffers of `bytes`, aligned to `align`. A [contract](crate::dma::Contract) promises them.
///
/// ```
/// use carveout::dma::{ContractError, ContractSet};
/// use carveout::setup::Setup;
///
/// let setup = Setup::new(1); // an area of 4 MiB
/// let frames = ContractSet { count: 5, bytes: 1 << 20, align: 4096 };
/// let refused = setup.dma.contract(&setup.master("camera"), &[frames]).unwrap_err();
/// assert!(matches!(refused, ContractError::Set { placed: 4, .. }), "four of the five have a place");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContractSet {
    /// Buffers that may be allocated at a time.
    pub count: u32,
    /// Bytes of each, rounded up to whole frames.
    pub bytes: u32,
    /// A power of two in bytes, at most [`MAX_ALIGN`](crate::cma::area::MAX_ALIGN), that the device's address of each
    /// is a multiple of; 1 means a frame.
    pub align: u32,
}

impl fmt::Display for ContractSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.count, Bytes(self.bytes.into()))
    }
}

/// Declares buffers of `bytes`, aligned to `align`, at places that are chosen already: one for each of `at`. A
/// [planned contract](crate::dma::Dma::contract_at) promises them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlacedSet<'a> {
    /// Bytes of each, as [`ContractSet::bytes`].
    pub bytes: u32,
    /// As [`ContractSet::align`].
    pub align: u32,
    /// The first byte of each buffer's place.
    pub at: &'a [PhysAddr],
}

impl PlacedSet<'_> {
    /// Returns the declaration without the places.
    pub const fn set(&self) -> ContractSet {
        ContractSet { count: self.at.len() as u32, bytes: self.bytes, align: self.align }
    }
}

/// Says why a contract was refused. Nobody lost anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContractError {
    /// The contract declares no buffers, or a set of none.
    NoBuffers,
    /// Not all buffers of this set have a place.
    Set {
        /// The set.
        set: ContractSet,
        /// How many buffers of the contract had got a place. The largest get theirs first.
        placed: u32,
        /// Why the next buffer has no place beside them.
        error: AllocError,
    },
    /// A buffer of this set cannot have the place that was chosen for it. The place is held, or not in the device's
    /// area, or out of its reach, or not aligned.
    Place {
        /// The set.
        set: ContractSet,
        /// The first byte of the place.
        at: PhysAddr,
    },
    /// It declares more buffers than there are records for.
    Records {
        /// Buffers declared.
        wanted: u64,
        /// Records that no buffer and no contract has.
        free: u32,
        /// Records in all.
        limit: u32,
    },
    /// The heap has no room for its books.
    Heap {
        /// Buffers declared.
        wanted: u64,
    },
}

impl fmt::Display for ContractError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBuffers => write!(f, "contract refused: it declares no buffers"),
            Self::Set { set, placed: 0, error } => write!(f, "contract refused: {set}: {error}"),
            Self::Set { set, placed, error } => {
                write!(f, "contract refused: {set}: with {placed} of its buffers placed, {error}")
            }
            Self::Place { set, at } => write!(
                f,
                "contract refused: {set}: the place at {at} is held, or not where the device can have such a buffer"
            ),
            Self::Records { wanted, free, limit } => write!(
                f,
                "contract refused: it declares {wanted} buffers, and of the {limit} records for buffers {free} are free"
            ),
            Self::Heap { wanted } => write!(f, "contract refused: no heap left for the books of {wanted} buffers"),
        }
    }
}

impl core::error::Error for ContractError {}

/// The place of a contract's buffer: its slot, with the slot's class and contract.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotId {
    pub(crate) contract: usize,
    class: usize,
    slot: usize,
}

/// The frames and the buffer record `S` that a slot has until its contract ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ContractSlot<S> {
    pub(crate) extent: Extent,
    pub(crate) record: S,
}

#[derive(Debug)]
struct SlotClass<S> {
    /// Frames of each, and the order of their alignment in frames.
    shape: (u32, u8),
    slots: Vec<ContractSlot<S>>,
    /// Numbers of those that no buffer holds. There is room for all, so the list never grows.
    idle: Vec<usize>,
}

/// The books of one contract.
#[derive(Debug)]
pub(crate) struct ContractBook<S> {
    /// The classes from the smallest on. Of equal sizes, the least aligned comes first.
    classes: Vec<SlotClass<S>>,
    /// Slots that a buffer holds.
    held: u32,
    ended: bool,
}

impl<S: Copy> ContractBook<S> {
    /// Makes the book of a contract with these slots, all idle, each with the order of its alignment in frames.
    pub(crate) fn new(slots: impl Iterator<Item = (u8, ContractSlot<S>)>) -> Result<Self, TryReserveError> {
        let mut classes: Vec<SlotClass<S>> = Vec::new();
        for (order, slot) in slots {
            let shape = (slot.extent.frames().count(), order);
            let known = classes.iter().position(|class| class.shape == shape);
            if known.is_none() {
                classes.try_reserve(1)?;
                classes.push(SlotClass { shape, slots: Vec::new(), idle: Vec::new() });
            }
            let at = known.unwrap_or(classes.len() - 1);
            let class = &mut classes[at];
            class.slots.try_reserve(1)?;
            class.idle.try_reserve(1)?;
            class.idle.push(class.slots.len());
            class.slots.push(slot);
        }
        classes.sort_unstable_by_key(|class| class.shape);
        Ok(Self { classes, held: 0, ended: false })
    }

    /// Takes the idle slot whose loans cost least, for a buffer of this shape, (frames, order). `cost` returns `None`
    /// for a slot that must not be taken now. If that is so for all of them, this returns `Ok(None)`.
    pub(crate) fn take(
        &mut self,
        contract: usize,
        (frames, order): (u32, u8),
        cost: impl Fn(FrameRange) -> Option<u32>,
    ) -> Result<Option<(SlotId, ContractSlot<S>)>, AllocError> {
        let bytes = |frames: u32| u64::from(frames) << FRAME_SHIFT;
        let wanted = bytes(frames);
        let aligned = |class: &SlotClass<S>| class.shape.1 >= order;
        let found = self.classes.iter_mut().enumerate().find(|(_, class)| class.shape.0 >= frames && aligned(class));
        let Some((number, class)) = found else {
            let largest = self.classes.iter().rfind(|class| aligned(class)).map_or(0, |class| bytes(class.shape.0));
            return Err(AllocError::NotDeclared { wanted, align: FRAME_SIZE << order, largest });
        };
        if class.idle.is_empty() {
            return Err(AllocError::ContractExceeded { wanted, declared: class.slots.len() as u32 });
        }
        let mut best: Option<(u32, usize)> = None;
        for (at, &slot) in class.idle.iter().enumerate().rev() {
            let Some(cost) = cost(class.slots[slot].extent.frames()) else { continue };
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, at));
            }
            if cost == 0 {
                break;
            }
        }
        let Some((_, at)) = best else { return Ok(None) };
        let slot = class.idle.swap_remove(at);
        self.held += 1;
        Ok(Some((SlotId { contract, class: number, slot }, class.slots[slot])))
    }

    /// Takes a slot back whose buffer was freed. Returns whether the slot stays the contract's.
    pub(crate) fn give_back(&mut self, id: SlotId) -> bool {
        self.held -= 1;
        if !self.ended {
            self.classes[id.class].idle.push(id.slot);
        }
        !self.ended
    }

    /// Yields the frames of the slots that no buffer holds.
    pub(crate) fn idle(&self) -> impl Iterator<Item = FrameRange> + '_ {
        self.classes.iter().flat_map(|class| class.idle.iter().map(|&slot| class.slots[slot].extent.frames()))
    }

    /// Yields the frames and the records of the slots that no buffer holds.
    pub(crate) fn idle_slots(&self) -> impl Iterator<Item = (FrameRange, S)> + '_ {
        self.classes.iter().flat_map(|class| {
            class.idle.iter().map(|&slot| (class.slots[slot].extent.frames(), class.slots[slot].record))
        })
    }

    /// Returns whether the contract has ended and all its buffers are freed.
    pub(crate) const fn is_over(&self) -> bool {
        self.ended && self.held == 0
    }

    /// Ends the contract. Yields its idle slots, which end now. The others end when their buffers are freed.
    pub(crate) fn end(&mut self) -> impl Iterator<Item = ContractSlot<S>> + '_ {
        self.ended = true;
        self.classes.iter_mut().flat_map(|class| {
            let slots = &class.slots;
            class.idle.drain(..).map(|slot| slots[slot])
        })
    }
}
