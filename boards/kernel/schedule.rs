//! The scheduler: a table of processes, and a loop on each core.
//!
//! Guarantees: a process runs on one core at a time, because that core takes the process out of the table. The lock of
//! the table is held to look up and move processes, never while a process runs. A process runs for at most a slice of
//! time before another takes its turn, if the board has a timer that interrupts the core. A process that does something
//! forbidden is killed, with one line. The others continue.
//!
//! The calls of a process: r7 says which, r0 to r5 are its arguments, and r0 is the answer.
//!
//! | r7 | call | arguments | answer |
//! |---|---|---|---|
//! | 0 | exit | code | none |
//! | 1 | write | address and length of at most 120 bytes of its own memory | 0; a line is printed |
//! | 2 | yield | | 0 |
//! | 3 | time | | microseconds since boot, modulo 2^32 |
//! | 4 | sleep | microseconds | 0 |
//! | 5 | wait | number of another process | 0, when that has ended |
//! | 6 to 15 | those of [`Calls`] | | |
//!
//! A refused call is answered with [`REFUSED`]. The number of a process is its place in the order of [`spawn`], from 0.

use super::cores;
use super::interrupts;
use super::known;
use super::process::{Process, Wake};
use super::rank;
use super::report;
use super::state::Kernel;
use crate::drivers::intc::irq::IrqId;
use crate::drivers::timer::Alarm;
use crate::println;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use carveout::addr::VirtAddr;
use carveout::cpu::{self, wait_for_interrupt};
use carveout::machine::Cache;
use carveout::sync::Lock;
use carveout::vm::desc::UserLeaf;
use carveout_rt::fault::Fault;
use carveout_rt::user::{Event, enter};
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

/// The most processes.
pub const MAX: usize = 8;
/// The answer to a call that is refused.
pub const REFUSED: u32 = u32::MAX;
/// How long a process runs before another takes its turn, in microseconds.
const SLICE: u32 = 2_000;
/// How long a core without work sleeps before it looks again, in microseconds.
const NAP: u32 = 500;
/// The most bytes of a line.
const LINE: usize = 120;
/// The exit code of a process that was killed.
const KILLED: u32 = 255;

const EXIT: u32 = 0;
const WRITE: u32 = 1;
const YIELD: u32 = 2;
const TIME: u32 = 3;
const SLEEP: u32 = 4;
const WAIT: u32 = 5;
/// The first call that belongs to [`Calls`].
pub const FIRST_OTHER: u32 = 6;

/// What happens to a process after a fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AfterFault {
    /// It is killed. The text says what is at the address.
    Kill(String),
    /// It repeats the access when it wakes.
    Again(Wake),
}

/// What processes can do beyond the scheduler's own calls.
pub trait Calls: Sync {
    /// Does call `number`, from [`FIRST_OTHER`] on, and returns the answer. It may set when the process wakes.
    fn call(&self, process: &mut Process, number: u32, args: [u32; 6]) -> u32;

    /// Decides what happens to a process that faulted.
    fn fault(&self, process: &mut Process, fault: &Fault) -> AfterFault {
        AfterFault::Kill(place(process, fault))
    }

    /// Takes back what a process had. The process has ended.
    fn ended(&self, _process: &Process) {}

    /// Returns how many events came from devices, modulo 2^32. It is asked before each turn, on every core, and may see
    /// to devices that have finished. A process that waits for an event ([`Wake::AfterEvents`]) runs after it.
    fn events(&self) -> u32 {
        0
    }
}

/// Processes that have no further calls.
impl Calls for () {
    fn call(&self, _: &mut Process, _: u32, _: [u32; 6]) -> u32 {
        REFUSED
    }
}

/// A place of the table.
enum Slot {
    Free,
    Ready(Box<Process>),
    Running,
    Ended(u32),
}

struct Table {
    slots: [Slot; MAX],
    /// The slot after the one that ran last.
    next: usize,
}

static TABLE: Lock<Table> = Lock::new(rank::PROCESSES, Table { slots: [const { Slot::Free }; MAX], next: 0 });

/// Puts a process in the table. Returns its number, or the process if the table is full.
///
/// # Errors
///
/// The process, if there are [`MAX`].
pub fn spawn(process: Box<Process>) -> Result<usize, Box<Process>> {
    let table = &mut *TABLE.lock();
    match table.slots.iter().position(|slot| matches!(slot, Slot::Free)) {
        Some(number) => {
            table.slots[number] = Slot::Ready(process);
            Ok(number)
        }
        None => Err(process),
    }
}

/// What a core does next.
enum Next {
    Run(usize, Box<Process>),
    Wait,
    Done,
}

impl Table {
    /// Takes the next process that can run, in turn.
    fn next(&mut self, now: u64, events: u32) -> Next {
        let mut others = false;
        for number in (0..MAX).map(|n| (self.next + n) % MAX) {
            let ready = match &self.slots[number] {
                Slot::Ready(process) => match process.wake {
                    Wake::Now => true,
                    Wake::At(time) => time <= now,
                    Wake::AfterEvents(seen) => events != seen,
                    // A process that waits for itself would never wake, so it is ready.
                    Wake::AfterEnd(other) => {
                        other == number || !matches!(self.slots[other], Slot::Ready(_) | Slot::Running)
                    }
                },
                Slot::Running => false,
                Slot::Free | Slot::Ended(_) => continue,
            };
            others = true;
            if ready && let Slot::Ready(process) = core::mem::replace(&mut self.slots[number], Slot::Running) {
                self.next = (number + 1) % MAX;
                return Next::Run(number, process);
            }
        }
        if others { Next::Wait } else { Next::Done }
    }
}

/// What was counted while processes ran.
#[derive(Debug, Default)]
pub struct Counts {
    /// Times that a process was taken off its core because its time was over.
    pub preempted: AtomicU32,
    /// Calls.
    pub calls: AtomicU32,
    /// Processes that were killed.
    pub killed: AtomicU32,
}

/// A slice's end.
enum End {
    /// The process goes on when it wakes.
    Off,
    /// It has ended, with this code.
    Ended(u32),
}

/// Runs what was spawned, on all cores, until every process has ended. Returns the exit codes of the processes in their
/// order. A process that was killed has 255. Without a timer that interrupts, a process runs until it calls.
///
/// # Panics
///
/// If a core other than core 0 calls it.
pub fn run(kernel: &'static Kernel, calls: &dyn Calls, counts: &Counts) -> [Option<u32>; MAX] {
    let alarm = known::alarm(kernel);
    if alarm.is_none() {
        println!("processes: no known timer interrupts the core, so each process runs until it makes a call");
    }
    let alarm = alarm.as_ref().map(|(alarm, irq)| (&**alarm, *irq));
    cores::on_all(&|_| {
        let core = Core { kernel, calls, counts, alarm };
        loop {
            let events = calls.events();
            let next = TABLE.lock().next(kernel.micros(), events);
            match next {
                Next::Run(number, process) => core.turn(number, process),
                Next::Wait => core.nap(),
                Next::Done => break,
            }
        }
    });
    let table = &mut *TABLE.lock();
    table.next = 0;
    table.slots.each_mut().map(|slot| match core::mem::replace(slot, Slot::Free) {
        Slot::Ended(code) => Some(code),
        _ => None,
    })
}

/// A core that runs processes.
struct Core<'r> {
    kernel: &'static Kernel,
    calls: &'r dyn Calls,
    counts: &'r Counts,
    alarm: Option<(&'r dyn Alarm, IrqId)>,
}

impl Core<'_> {
    /// Runs a process for one turn, and puts it back in the table.
    fn turn(&self, number: usize, mut process: Box<Process>) {
        process.wake = Wake::Now;
        let end = self.slice(&mut process);
        let slot = match end {
            End::Off => Slot::Ready(process),
            End::Ended(code) => {
                self.calls.ended(&process);
                drop(process);
                Slot::Ended(code)
            }
        };
        TABLE.lock().slots[number] = slot;
    }

    /// Runs a process until its time is over, until it waits, or until it ends.
    fn slice(&self, process: &mut Process) -> End {
        self.set_alarm(SLICE);
        let end = loop {
            let event = enter(&mut process.context, process.space.root());
            let end = match event {
                Event::Interrupt => self.alarm.is_some_and(|(alarm, _)| alarm.is_over()).then(|| {
                    self.counts.preempted.fetch_add(1, Ordering::Relaxed);
                    End::Off
                }),
                Event::Call { number, args } => {
                    self.counts.calls.fetch_add(1, Ordering::Relaxed);
                    self.call(process, number, args)
                }
                Event::DataAbort(fault) | Event::PrefetchAbort(fault) => match self.calls.fault(process, &fault) {
                    AfterFault::Kill(place) => Some(self.kill(process, &fault, &format!(": {place}"))),
                    AfterFault::Again(wake) => {
                        process.wake = wake;
                        Some(End::Off)
                    }
                },
                Event::Undefined => Some(self.kill(process, &"undefined instruction", "")),
            };
            if let Some(end) = end {
                break end;
            }
        };
        if let Some((alarm, _)) = self.alarm {
            alarm.stop();
        }
        end
    }

    /// Does a call. Returns how the slice ends, if the call ends it.
    fn call(&self, process: &mut Process, number: u32, args: [u32; 6]) -> Option<End> {
        let [first, second, ..] = args;
        let mut off = false;
        let answer = match number {
            EXIT => return Some(End::Ended(first)),
            WRITE => write(process, VirtAddr::new(first), second),
            YIELD => {
                off = true;
                0
            }
            TIME => self.kernel.micros() as u32,
            SLEEP => {
                process.wake = Wake::At(self.kernel.micros() + u64::from(first));
                0
            }
            WAIT if (first as usize) < MAX => {
                process.wake = Wake::AfterEnd(first as usize);
                0
            }
            FIRST_OTHER.. => self.calls.call(process, number, args),
            _ => REFUSED,
        };
        process.context.set(0, answer);
        (off || process.wake != Wake::Now).then_some(End::Off)
    }

    /// Prints a line that says why a process is killed.
    fn kill(&self, process: &Process, why: &dyn fmt::Display, place: &str) -> End {
        println!("killed: {process}: {why}, pc {}{place}", process.context.pc());
        self.counts.killed.fetch_add(1, Ordering::Relaxed);
        End::Ended(KILLED)
    }

    fn set_alarm(&self, micros: u32) {
        if let Some((alarm, irq)) = self.alarm {
            alarm.start(micros);
            interrupts::enable_once(irq);
        }
    }

    /// Waits for a short time, because another process may wake.
    fn nap(&self) {
        let Some((alarm, _)) = self.alarm else { return cpu::relax() };
        self.set_alarm(NAP);
        cpu::masked(|| {
            // An interrupt that comes from here on is pending, and ends the wait.
            if !alarm.is_over() {
                // Erratum 769419 of the PL310: what this core wrote to coherent memory would stay in the store buffer.
                self.kernel.machine.device_barrier();
                wait_for_interrupt();
            }
        });
        alarm.stop();
    }
}

/// Prints a line of a process.
fn write(process: &Process, text: VirtAddr, bytes: u32) -> u32 {
    let mut line = [0; LINE];
    let line = line.get_mut(..bytes as usize).and_then(|line| process.read(text, line).map(|()| &*line));
    match line.map(core::str::from_utf8) {
        Some(Ok(line)) => {
            println!("{process}: {}", line.escape_debug());
            0
        }
        _ => REFUSED,
    }
}

/// Returns what is at the address of a fault: for the process below 2 GiB, for the kernel above.
pub fn place(process: &Process, fault: &Fault) -> String {
    let Some(at) = fault.address else { return "no address".into() };
    if at.raw() >= 1 << 31 {
        return format!("{}", report::At(at));
    }
    match process.space.translate(at) {
        Some((at, UserLeaf { access: Some(access), .. })) => format!("{at}, which it has {access}"),
        Some((at, _)) => format!("{at}, its code"),
        None => "nothing is mapped there".into(),
    }
}
