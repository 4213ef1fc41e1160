//! Events: what the memory work did, and when, core by core.
//!
//! Guarantees:
//!
//! - Without the feature `events`, nothing of it is in the program. With it, nothing is recorded before
//!   `EventLog::begin` and after `EventLog::end`.
//! - An event is written by the core on which it happened, to that core's ring. No lock is taken, and nothing is waited
//!   for. A handler that interrupts the writing of an event writes its own to the next place.
//! - A reader gets whole events. One that is being written, or written over, is left out.
//!
//! A ring holds the last events of its core. The counts are of all of them since the beginning, modulo 2^32.

mod kind;
#[cfg(feature = "events")]
mod log;

pub use kind::EventKind;
#[cfg(feature = "events")]
pub use log::{Event, EventLog};

use crate::addr::FrameRange;
use crate::name::Name;

/// Records an event on this core, if events are recorded. `what` is the first frame, or 0, and the amount.
#[inline]
pub(crate) fn note(kind: EventKind, detail: u32, buffer: u64, what: (u32, u32)) {
    #[cfg(feature = "events")]
    if let Some(log) = EventLog::current() {
        log.write(kind, detail as u16, buffer as u32, what);
    }
    #[cfg(not(feature = "events"))]
    let _ = (kind, detail, buffer, what);
}

/// Records an event of frames, as [`note`] does.
#[inline]
pub(crate) fn note_frames(kind: EventKind, detail: u32, buffer: u64, frames: FrameRange) {
    note(kind, detail, buffer, (frames.start(), frames.count()));
}

/// Returns the time, or 0 if nothing is recorded.
#[cfg_attr(not(target_arch = "arm"), expect(dead_code, reason = "on the host no lock is waited for"))]
#[inline]
pub(crate) fn now() -> u64 {
    #[cfg(feature = "events")]
    return EventLog::current().map_or(0, |log| (log.clock)());
    #[cfg(not(feature = "events"))]
    0
}

/// Keeps the name of a master for those who read its number in events.
#[inline]
pub(crate) fn name_master(number: u32, name: Name) {
    #[cfg(feature = "events")]
    log::name_master(number as u16, name);
    #[cfg(not(feature = "events"))]
    let _ = (number, name);
}
