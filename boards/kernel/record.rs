//! The record of a run: events of the memory work, written to a file of the host by semihosting at the end.
//!
//! Guarantees: nothing is recorded unless the boot arguments ask for it. `events=N` keeps the last N events of each
//! core, and `events=count` counts them. `record=FILE` writes what was kept; `xtask` makes a trace of it.

use super::state::Kernel;
use crate::drivers::timer::Counter;
use crate::println;
use alloc::collections::TryReserveError;
use carveout::cpu::CoreId;
use carveout::events::{EventKind, EventLog};
use core::fmt::{self, Write as _};
use semihosting::fs::File;
use semihosting::io::Write as _;
use spin::Once;

/// The longest name of a file.
const NAME: usize = 255;
/// What is written at once: a call of the host takes long.
const CHUNK: usize = 4096;

static CLOCK: Once<&'static dyn Counter> = Once::new();

/// Returns the ticks of the board's counter: to make nanoseconds of them would cost more than the rest of an event.
fn ticks() -> u64 {
    CLOCK.get().map_or(0, |clock| clock.ticks())
}

/// Returns the nanoseconds of an event's time.
pub fn nanos(ticks: u64) -> u64 {
    CLOCK.get().map_or(0, |clock| clock.nanos_of(ticks))
}

/// Begins to record, whatever the boot arguments say, with the kernel's clock. Each core keeps its last `events`.
///
/// # Errors
///
/// As [`EventLog::begin`].
pub fn start(kernel: &'static Kernel, events: u32) -> Result<&'static EventLog, TryReserveError> {
    if let Some(clock) = kernel.clock.as_deref() {
        CLOCK.call_once(|| clock);
    }
    EventLog::begin(events, ticks)
}

/// Begins to record, if `events=` asks for it. What it says is wrong is refused in a line.
pub fn begin(kernel: &'static Kernel) {
    let Some(value) = kernel.info.bootargs().get("events").and_then(|arg| arg.value) else { return };
    let events =
        if value == "count" { Some(0) } else { value.parse().ok().filter(|events| (1..=1 << 16).contains(events)) };
    let Some(events) = events else {
        println!("refused: events={value}: there is events=count, and events=N, of 65536 at most; nothing is recorded");
        return;
    };
    if start(kernel, events).is_err() {
        println!("refused: events={value}: the heap has no room for as many; nothing is recorded");
    }
}

/// Ends recording, prints how often what happened, and writes the record if `record=` asks for it.
pub fn end(kernel: &Kernel) {
    let Some(log) = EventLog::current() else { return };
    EventLog::end();
    println!("events: {}", Counts(log));
    let args = kernel.info.bootargs();
    let Some(path) = args.get("record").and_then(|arg| arg.value) else { return };
    let written = if args.get("semihosting").is_some() { write(kernel, log, path) } else { Err(Refused::NoHost) };
    if let Err(error) = written {
        println!("refused: record={path}: {error}; nothing is written");
    }
}

/// How often what happened, in a line.
pub struct Counts<'l>(pub &'l EventLog);

impl fmt::Display for Counts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = EventKind::ALL.into_iter().map(|kind| (kind, self.0.count(kind)));
        for (n, (kind, count)) in counts.filter(|(_, count)| *count > 0).enumerate() {
            write!(f, "{}{count} {kind}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Why there is no record.
enum Refused {
    NoHost,
    Name,
    Host(semihosting::io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHost => f.write_str("no emulator or debugger takes it without semihosting"),
            Self::Name => write!(f, "a name of at most {NAME} bytes is possible"),
            Self::Host(error) => write!(f, "the host says {error:?}"),
        }
    }
}

impl From<semihosting::io::Error> for Refused {
    fn from(error: semihosting::io::Error) -> Self {
        Self::Host(error)
    }
}

/// A file of the host, written in chunks. The first error stays.
struct Record {
    file: File,
    text: arrayvec::ArrayString<CHUNK>,
    error: Option<semihosting::io::Error>,
}

impl Record {
    fn flush(&mut self) {
        if self.error.is_none() {
            self.error = self.file.write_all(self.text.as_bytes()).err();
        }
        self.text.clear();
    }
}

impl fmt::Write for Record {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.text.remaining_capacity() < text.len() {
            self.flush();
        }
        self.text.try_push_str(text).map_err(|_| fmt::Error)
    }
}

/// Writes a line for each area's range, each lost event's core, and each event.
fn write(kernel: &Kernel, log: &EventLog, path: &str) -> Result<(), Refused> {
    let mut name = [0; NAME + 1];
    name.get_mut(..path.len()).filter(|name| name.len() <= NAME).ok_or(Refused::Name)?.copy_from_slice(path.as_bytes());
    let name = core::ffi::CStr::from_bytes_until_nul(&name).map_err(|_| Refused::Name)?;
    let mut to = Record { file: File::create(name)?, text: arrayvec::ArrayString::new(), error: None };
    // Each line is shorter than a chunk.
    let _ = header(kernel, &mut to);
    for core in CoreId::all().map(CoreId::index) {
        if log.lost(core) > 0 {
            let _ = writeln!(to, "lost {core} {}", log.lost(core));
        }
        log.for_each(core, |event| {
            let master = match event.kind {
                EventKind::Alloc | EventKind::Refusal | EventKind::Contract => EventLog::master(event.detail),
                _ => None,
            };
            let (time, kind, first) = (nanos(event.time), event.kind, event.frames.start());
            let amount = if kind == EventKind::LockWait { nanos(event.amount.into()) } else { event.amount.into() };
            let _ = write!(to, "event {core} {time} {kind} {} {} {first} {amount}", event.detail, event.buffer);
            let _ = match master {
                Some(name) => writeln!(to, " {name}"),
                None => writeln!(to),
            };
        });
    }
    to.flush();
    to.error.map_or(Ok(()), |error| Err(error.into()))
}

fn header(kernel: &Kernel, to: &mut Record) -> fmt::Result {
    writeln!(to, "carveout-events 1")?;
    for area in kernel.layout.areas() {
        for range in &area.ranges {
            writeln!(to, "area {} {} {}", range.start(), range.count(), area.name)?;
        }
    }
    Ok(())
}
