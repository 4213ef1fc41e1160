//! An area: the frames of one carve-out and which of them are free.
//!
//! Guarantees: only a [`CarveOut`] becomes an area (I2); frames given out are the caller's alone until given back;
//! a refusal says why and changes nothing. The index of free frames stands outside the carved memory, which nobody
//! can read while it is idle.

use crate::addr::{Bytes, FRAME_SHIFT, FRAME_SIZE, FrameRange};
use crate::boot::directmap::CarveOut;
use crate::cma::index::{Index, MAX_ALIGN_ORDER, Node};
use alloc::vec;
use arrayvec::{ArrayString, ArrayVec};
use core::fmt;

/// The largest alignment an allocation can ask for, in bytes.
pub const MAX_ALIGN: u32 = FRAME_SIZE << MAX_ALIGN_ORDER;

/// Why an allocation was refused. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocError {
    /// No bytes were asked for.
    ZeroSize,
    /// The alignment is not a power of two, or larger than [`MAX_ALIGN`].
    Alignment {
        /// What was asked for, in bytes.
        align: u32,
    },
    /// The device's area does not exist.
    NoArea,
    /// Fewer bytes are free than asked for.
    NoCapacity {
        /// Bytes asked for, in whole frames.
        wanted: u64,
        /// Bytes free.
        free: u64,
    },
    /// Enough is free, but no run of it is long enough at that alignment.
    Fragmented {
        /// Bytes asked for, in whole frames.
        wanted: u64,
        /// Bytes free.
        free: u64,
        /// The largest free run, in bytes.
        largest: u64,
    },
    /// There would be a run, but not one that the device reaches to its last byte, or not without crossing its
    /// boundary.
    OutOfReach {
        /// Bytes asked for, in whole frames.
        wanted: u64,
        /// The largest free run that it does reach, in bytes.
        largest: u64,
    },
    /// No addresses are left in the window for its mapping.
    NoWindow {
        /// Bytes asked for, in whole frames.
        wanted: u64,
    },
    /// As many buffers exist as there are records for.
    TooManyBuffers {
        /// The number.
        limit: usize,
    },
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ZeroSize => write!(f, "allocation of no bytes"),
            Self::Alignment { align } => {
                let most = Bytes(MAX_ALIGN.into());
                write!(f, "alignment of {align:#x} bytes is not a power of two up to {most}")
            }
            Self::NoArea => write!(f, "the device has no area to allocate from"),
            Self::NoCapacity { wanted, free } => {
                write!(f, "no room for {}: {} free in the area", Bytes(wanted), Bytes(free))
            }
            Self::Fragmented { wanted, free, largest } => write!(
                f,
                "no run of {}: {} free in the area, the largest run {}",
                Bytes(wanted),
                Bytes(free),
                Bytes(largest)
            ),
            Self::OutOfReach { wanted, largest } => write!(
                f,
                "no run of {} within the device's mask, windows and boundary; the largest there is {}",
                Bytes(wanted),
                Bytes(largest)
            ),
            Self::NoWindow { wanted } => write!(f, "no addresses left in the window for {}", Bytes(wanted)),
            Self::TooManyBuffers { limit } => write!(f, "all {limit} buffer records are in use"),
        }
    }
}

/// An index whose nodes are taken from the heap, once and for good.
///
/// # Panics
///
/// If there are no units, or more than an index holds: a carve-out of ARMv7-A has fewer.
pub(crate) fn heap_index(first: u32, units: u32) -> Index<'static> {
    let nodes = Index::nodes_needed(first, units).expect("a number of units that an index holds");
    Index::new(first, units, vec![Node::EMPTY; nodes].leak()).expect("storage as large as asked for")
}

/// Free and taken frames of one carve-out.
#[derive(Debug)]
pub struct Area {
    name: ArrayString<{ CarveOut::NAME }>,
    runs: ArrayVec<(FrameRange, Index<'static>), { CarveOut::RANGES }>,
    lendable: bool,
}

impl Area {
    /// Makes a carve-out allocatable. The index is taken from the heap once, here, and never given back.
    pub fn new(carved: &CarveOut) -> Self {
        let index = |&frames: &FrameRange| (frames, heap_index(frames.start(), frames.count()));
        let mut name = ArrayString::new();
        name.push_str(carved.name());
        Self { name, runs: carved.ranges().iter().map(index).collect(), lendable: carved.is_lendable() }
    }

    /// What the device tree or `cma=` calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether idle frames may be lent.
    pub const fn is_lendable(&self) -> bool {
        self.lendable
    }

    /// The carved frames.
    pub fn ranges(&self) -> impl Iterator<Item = FrameRange> + '_ {
        self.runs.iter().map(|&(frames, _)| frames)
    }

    /// Bytes free.
    pub fn free_bytes(&self) -> u64 {
        self.runs.iter().map(|(_, index)| u64::from(index.free_units()) << FRAME_SHIFT).sum()
    }

    /// Bytes of the largest free run.
    pub fn largest_run(&self) -> u64 {
        self.runs.iter().map(|(_, index)| u64::from(index.largest_run()) << FRAME_SHIFT).max().unwrap_or(0)
    }

    /// Takes a run of frames for `bytes`, more than 0, aligned to `align`, within one of the places that `places` finds
    /// in a run of the area: what the device reaches of it, cut at its boundary. The first that has room is taken.
    ///
    /// Runs of 64 KiB and more are aligned to 64 KiB where that costs nothing, for large pages and sections.
    pub fn alloc<P: Iterator<Item = FrameRange>>(
        &mut self,
        bytes: u32,
        align: u32,
        places: impl Fn(FrameRange) -> P,
    ) -> Result<FrameRange, AllocError> {
        if bytes == 0 {
            return Err(AllocError::ZeroSize);
        }
        if !align.is_power_of_two() || align > MAX_ALIGN {
            return Err(AllocError::Alignment { align });
        }
        let count = bytes.div_ceil(FRAME_SIZE);
        let (wanted, free) = (u64::from(count) << FRAME_SHIFT, self.free_bytes());
        if free < wanted {
            return Err(AllocError::NoCapacity { wanted, free });
        }
        let order = (align.trailing_zeros().max(FRAME_SHIFT) - FRAME_SHIFT) as u8;
        let liked = if count >= 16 { order.max(4) } else { order };
        let mut find = |order| {
            self.runs.iter_mut().find_map(|(run, index)| {
                let mut large = places(*run).filter(|place| place.count() >= count);
                large.find_map(|place| index.alloc(count, order, place.start()..place.end()))
            })
        };
        let found = find(liked).or_else(|| if liked == order { None } else { find(order) });
        match found {
            Some(start) => Ok(FrameRange::new(start, count).expect("inside the area")),
            None => Err(self.why_not(count, order, places)),
        }
    }

    /// Why there is no room, although enough is free.
    fn why_not<P: Iterator<Item = FrameRange>>(
        &mut self,
        count: u32,
        order: u8,
        places: impl Fn(FrameRange) -> P,
    ) -> AllocError {
        let (free, largest) = (self.free_bytes(), self.largest_run());
        let wanted = u64::from(count) << FRAME_SHIFT;
        if self.runs.iter_mut().any(|(_, index)| index.has(count, order)) {
            let free_runs = |run: FrameRange, index: &Index<'static>| {
                let part = |free: core::ops::Range<u32>| FrameRange::between(free.start, free.end);
                let largest = |place: FrameRange| {
                    index.runs().filter_map(part).map(|free| free.intersection(place).bytes()).max().unwrap_or(0)
                };
                places(run).map(largest).max().unwrap_or(0)
            };
            let largest = self.runs.iter().map(|(run, index)| free_runs(*run, index)).max().unwrap_or(0);
            AllocError::OutOfReach { wanted, largest }
        } else {
            AllocError::Fragmented { wanted, free, largest }
        }
    }

    /// Gives a run back.
    ///
    /// # Panics
    ///
    /// If the frames are not the area's or not taken: a run is given back once, by the one value that owns it.
    pub fn give_back(&mut self, frames: FrameRange) {
        let (_, index) = self.runs.iter_mut().find(|(run, _)| run.covers(frames)).expect("frames of this area");
        index.free(frames.start(), frames.count()).expect("frames that were taken");
    }
}
