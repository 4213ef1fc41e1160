//! What a run comes to, and how a violation is told.

use crate::cache::Event;
use std::fmt;

/// A rule broken: an invariant of the design (I1 to I7) and what the ARM ARM says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// A frame may be translated with two memory types at once.
    Alias {
        /// A virtual address with the one type.
        first: u32,
        /// A virtual address with the other.
        second: u32,
    },
    /// An access that bypasses the caches meets a line they hold.
    UncachedWhileCached {
        /// The level that holds the line.
        level: u8,
    },
    /// A read returns what a coherent machine would not.
    StaleRead {
        /// Whether through a cacheable mapping.
        cacheable: bool,
    },
    /// A load past the caches may have been done before a device's write that the CPU knows is done.
    EarlyLoad,
    /// A bus master reads what is not the newest data.
    DeviceReadsStale {
        /// It waits in a write buffer.
        buffered: bool,
    },
    /// A bus master writes where a dirty line, or a buffered write, may go over it.
    DeviceWritesOverDirty {
        /// A buffered write.
        buffered: bool,
    },
    /// A descriptor became valid while the TLB may hold another translation of its address.
    StaleTranslation {
        /// The address.
        va: u32,
    },
    /// A walk for an access reads an old descriptor: the new one was not cleaned.
    StaleWalk {
        /// The address accessed.
        va: u32,
    },
    /// Maintenance by address where there is no translation.
    Unmapped {
        /// The address.
        va: u32,
    },
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alias { first, second } => write!(
                f,
                "I1: mismatched memory attributes (ARM ARM A3.5.7): the frame is cacheable at {first:#010x} and not at \
                 {second:#010x}, or the TLB may still say so"
            ),
            Self::UncachedWhileCached { level } => {
                write!(f, "I3: an access that bypasses the caches meets a line that level {level} holds")
            }
            Self::StaleRead { cacheable: true } => write!(f, "I3, I5: stale read from a cache line"),
            Self::StaleRead { cacheable: false } => {
                write!(f, "I3, I5: stale read from memory: the newest data never came here, or was overwritten")
            }
            Self::EarlyLoad => write!(
                f,
                "I3: a load of what a device wrote may be older than the load that told of it: no barrier between them \
                "
            ),
            Self::DeviceReadsStale { buffered: false } => {
                write!(f, "I3: a device reads memory that a dirty line, or a lost one, is newer than")
            }
            Self::DeviceReadsStale { buffered: true } => write!(
                f,
                "I3: a device reads memory whose newest data is still in a write buffer: no barrier before it was told \
                 to (ARM ARM A3.8.3)"
            ),
            Self::DeviceWritesOverDirty { buffered: false } => write!(
                f,
                "I3: a device writes memory while a cache holds its line dirty: an eviction overwrites the data"
            ),
            Self::DeviceWritesOverDirty { buffered: true } => {
                write!(f, "I3: a device writes memory while a write to it is in a buffer: it overwrites the data")
            }
            Self::StaleTranslation { va } => write!(
                f,
                "I3: {va:#010x} is mapped while the TLB may hold its former translation: no TLB invalidate named it, or \
                 none is complete (ARM ARM B3.10.1)"
            ),
            Self::StaleWalk { va } => write!(
                f,
                "I3: the walk for {va:#010x} reads an old descriptor: the new one was not cleaned to the point of \
                 unification"
            ),
            Self::Unmapped { va } => {
                write!(f, "I3: cache maintenance by address at {va:#010x}, which nothing translates (ARM ARM B2.2.6)")
            }
        }
    }
}

/// A violation and where it happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// What was broken.
    pub rule: Rule,
    /// The physical line, or the frame of an alias.
    pub line: u32,
    /// The core.
    pub core: usize,
    /// The instruction, as executed.
    pub pc: u32,
    /// Instructions executed before.
    pub instruction: u64,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// The guest exited with this code.
    Exit(u32),
    /// A rule was broken; the run ended there.
    Violation(Violation),
    /// The guest exited with 0, and what is at a device's other end complains.
    Refused(String),
    /// No rule was broken in as many instructions as were wanted.
    Enough,
    /// The guest went where the machine cannot follow, or for too long.
    Stuck(String),
}

impl Outcome {
    /// Whether nothing is wrong.
    pub const fn is_pass(&self) -> bool {
        matches!(self, Self::Exit(0) | Self::Enough)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(0) => f.write_str("exit 0"),
            Self::Exit(code) => write!(f, "exit {code}: the guest's own checks failed"),
            Self::Violation(found) => write!(f, "{}", found.rule),
            Self::Refused(why) => write!(f, "exit 0, but the client complains: {why}"),
            Self::Enough => f.write_str("no rule broken so far"),
            Self::Stuck(why) => write!(f, "stuck: {why}"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |write: bool| if write { "store" } else { "load" };
        match *self {
            Self::Cacheable { write } => write!(f, "{} through a cacheable mapping", kind(write)),
            Self::Uncached { write } => write!(f, "{} past the caches", kind(write)),
            Self::Issued(operation) => write!(f, "{operation:?} by address, issued"),
            Self::Done(operation) => write!(f, "{operation:?} by address, done"),
            Self::DoneBySet(operation) => write!(f, "{operation:?} by set and way, done"),
            Self::Moved => write!(f, "it moves from another core, dirty"),
            Self::Shared => write!(f, "it comes from another core, which cleans it"),
            Self::Filled(level) => write!(f, "adversary: speculative fill of level {level}"),
            Self::Evicted(level, dirty) => {
                write!(f, "adversary: eviction from level {level}{}", if dirty { ", dirty" } else { "" })
            }
            Self::Device { write } => write!(f, "{} by a bus master", if write { "write" } else { "read" }),
            Self::Ordered(operation) => write!(f, "{operation:?} ordered from the outer controller"),
            Self::Outer(operation) => write!(f, "{operation:?} by the outer controller, done"),
            Self::Drained => write!(f, "a buffered write reaches memory"),
        }
    }
}
