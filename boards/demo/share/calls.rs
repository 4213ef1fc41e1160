//! The calls by which processes share buffers, and what becomes of a process that faults in one.
//!
//! Guarantees: a process has what its handles give it and no more. A process that faults in a page of a device waits
//! until a device has finished. The process [`HASTY`] is not waited for: it is killed. A fault in a page that nobody asked for makes the page the CPU's. Any other fault ends
//! the process. All that a process had is taken back when it ends.
//!
//! | r7 | call | arguments | answer |
//! |---|---|---|---|
//! | 6 | create | bytes, address and length of a name | a number for the handle |
//! | 7 | find | address and length of a name | the same |
//! | 8 | share | handle, process, rights, first page and last page plus one (low and high half), name | 0 |
//! | 9 | map | handle | address |
//! | 10 | set for the CPU | handle, first page, last page plus one, 0 to read or 1 to write | 0 |
//! | 11 | show | handle | 0; the scaler has the buffer for a while |
//! | 12 | close | handle | 0 |

use super::HASTY;
use super::screen::{Picture, Screen};
use crate::kernel::process::{Process, Wake};
use crate::kernel::schedule::{AfterFault, Calls, FIRST_OTHER, REFUSED, place};
use crate::kernel::state::Kernel;
use crate::println;
use alloc::string::ToString;
use alloc::sync::Arc;
use arrayvec::ArrayVec;
use carveout::addr::{FRAME_SHIFT, PhysAddr, VirtAddr};
use carveout::dma::{
    ClientId, DataDirection, DeviceLease, Effort, Master, Offer, ShareError, ShareFault, ShareHandle, ShareRights,
    Shares, UserAccess, UserSpace, UserView,
};
use carveout_armv7a::mmu::Armv7a;
use carveout_rt::fault::{Access, Fault};
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Mutex;

/// The most processes that share, and the most handles of each.
const CLIENTS: usize = 8;
const HANDLES: usize = 4;
/// The bytes of buffers that a process may make.
const QUOTA: u64 = 4 << 20;
/// How long the scaler has a picture before it begins, in microseconds. A real one takes longer than a mock.
const SCALING: u64 = 10_000;
/// The most bytes of a name.
const NAME: usize = 31;

/// A process that shares.
struct Client {
    name: &'static str,
    id: ClientId,
    space: PhysAddr,
    handles: [Option<ShareHandle>; HANDLES],
}

/// A picture that the scaler has.
struct Job {
    lease: DeviceLease<Armv7a>,
    until: u64,
}

/// What was seen.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    /// Faults in pages that a device had: the process waited.
    pub(super) waited: u32,
    /// Faults in pages that nobody had asked for: they became the CPU's.
    pub(super) served: u32,
    /// Pictures shown.
    pub(super) shown: u32,
    /// What the last picture's buffer took, when its process ended.
    pub(super) effort: Effort,
    /// Whether an audit of all tables, while processes ran, found all as it must be.
    pub(super) audited: Option<bool>,
}

struct State {
    clients: ArrayVec<Client, CLIENTS>,
    job: Option<Job>,
    screen: Screen,
    seen: Seen,
}

/// The calls.
pub(super) struct ShareCalls {
    kernel: &'static Kernel,
    shares: &'static Shares<Armv7a>,
    scaler: Master,
    state: Mutex<State>,
    /// How many times a device has finished. It changes under the lock of the state.
    events: AtomicU32,
}

impl ShareCalls {
    /// Makes them for a screen.
    pub(super) fn new(
        kernel: &'static Kernel,
        shares: &'static Shares<Armv7a>,
        scaler: Master,
        screen: Screen,
    ) -> Self {
        let state = State { clients: ArrayVec::new(), job: None, screen, seen: Seen::default() };
        Self { kernel, shares, scaler, state: Mutex::new(state), events: AtomicU32::new(0) }
    }

    /// Ends what is under way. Returns the screen, and what was seen.
    pub(super) fn end(self) -> (Screen, Seen) {
        self.poll(&mut self.state.lock(), u64::MAX);
        let State { screen, seen, .. } = self.state.into_inner();
        (screen, seen)
    }

    /// Returns the place of a process among the clients. It becomes one at its first call.
    fn client(&self, state: &mut State, process: &Process) -> Result<usize, Refused> {
        if let Some(place) = state.clients.iter().position(|client| client.name == process.name) {
            return Ok(place);
        }
        let space: Arc<dyn UserSpace> = process.space.clone();
        let (table, id) = (space.first_level(), self.shares.add_client(process.name, Some(space), QUOTA)?);
        let client = Client { name: process.name, id, space: table, handles: [None; HANDLES] };
        state.clients.try_push(client).map_err(|_| Refused::Full)?;
        Ok(state.clients.len() - 1)
    }

    /// Does a call.
    fn answer(&self, state: &mut State, process: &Process, number: u32, args: [u32; 6]) -> Result<u32, Refused> {
        let place = self.client(state, process)?;
        let id = state.clients[place].id;
        let text = |at: u32, bytes: u32| Text::read(process, at, bytes);
        let handle = |state: &State, number: u32| {
            let handles = state.clients[place].handles;
            handles.get(number as usize).copied().flatten().ok_or(Refused::NoHandle(number))
        };
        let keep = |state: &mut State, handle: ShareHandle| {
            let free = state.clients[place].handles.iter_mut().enumerate().find(|(_, kept)| kept.is_none());
            let (number, kept) = free.ok_or(Refused::Full)?;
            *kept = Some(handle);
            Ok(number as u32)
        };
        match number - FIRST_OTHER {
            0 => {
                let name = text(args[1], args[2]);
                let made = self.shares.create(id, &self.scaler, args[0], UserView::Cached, name.as_str())?;
                keep(state, made)
            }
            1 => {
                let found = self.shares.find(id, text(args[0], args[1]).as_str())?;
                keep(state, found)
            }
            2 => {
                let to = Self::number(state, args[1])?;
                let rights = ShareRights::from_bits(args[2]).ok_or(Refused::NoRights(args[2]))?;
                let (pages, name) = ((args[3] & 0xffff, args[3] >> 16), text(args[4], args[5]));
                let offer = Offer { to, rights, pages, name: name.as_str() };
                self.shares.share(id, handle(state, args[0])?, &offer)?;
                Ok(0)
            }
            3 => Ok(self.shares.map(id, handle(state, args[0])?)?.raw()),
            4 => {
                let access = if args[3] == 0 { UserAccess::Read } else { UserAccess::ReadWrite };
                self.shares.set_cpu(id, handle(state, args[0])?, args[1]..args[2], access)?;
                Ok(0)
            }
            5 => {
                let handle = handle(state, args[0])?;
                self.show(state, id, handle)
            }
            6 => {
                let handle = handle(state, args[0])?;
                self.shares.close(id, handle)?;
                state.clients[place].handles[args[0] as usize] = None;
                Ok(0)
            }
            _ => Err(Refused::NoCall),
        }
    }

    /// Returns the client that is process `number`. Processes become clients in any order.
    fn number(state: &State, number: u32) -> Result<ClientId, Refused> {
        let name = super::NAMES.get(number as usize).copied().unwrap_or_default();
        let client = state.clients.iter().find(|client| client.name == name);
        client.map(|client| client.id).ok_or(Refused::NoProcess(number))
    }

    /// Gives a picture to the scaler, for a while.
    fn show(&self, state: &mut State, id: ClientId, handle: ShareHandle) -> Result<u32, Refused> {
        if state.job.is_some() {
            return Err(Refused::Busy);
        }
        if state.seen.audited.is_none() {
            let roots: ArrayVec<_, CLIENTS> = state.clients.iter().map(|client| client.space).collect();
            let report = self.kernel.audit_users(&roots, self.shares);
            match &report {
                Ok(report) => println!("audit: {report}"),
                Err(findings) => println!("audit: FAILED: {findings}"),
            }
            println!("{}", self.shares.holders());
            self.domains(id, handle)?;
            state.seen.audited = Some(report.is_ok());
        }
        let lease = self.shares.lend(id, handle, 0..Picture::PAGES, &self.scaler, DataDirection::ToDevice)?;
        if state.seen.shown == 0 {
            self.domains(id, handle)?;
        }
        state.job = Some(Job { lease, until: self.kernel.micros() + SCALING });
        Ok(0)
    }

    /// Prints whose the pages of a buffer are.
    fn domains(&self, id: ClientId, handle: ShareHandle) -> Result<(), Refused> {
        Ok(self.shares.for_each_domain(id, handle, |pages, domain| {
            println!("domain: pages {}-{}: {domain}", pages.start, pages.end - 1);
        })?)
    }

    /// Ends the scaler's job if its time has come.
    fn poll(&self, state: &mut State, now: u64) {
        let Some(Job { lease, .. }) = state.job.take_if(|job| job.until <= now) else { return };
        state.seen.shown += u32::from(state.screen.show(lease.bus()));
        // SAFETY: the scaler works inside of `show` alone (I4).
        unsafe { lease.finish() };
        self.events.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why a call was refused.
enum Refused {
    /// The shares refused it.
    Share(ShareError),
    /// The process has no handle of this number.
    NoHandle(u32),
    /// No process of this number shares anything yet.
    NoProcess(u32),
    /// There are as many processes that share, or handles of this one, as there may be.
    Full,
    /// The number stands for no rights.
    NoRights(u32),
    /// The scaler has a picture already.
    Busy,
    /// There is no call of this number.
    NoCall,
}

impl From<ShareError> for Refused {
    fn from(error: ShareError) -> Self {
        Self::Share(error)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(error) => error.fmt(f),
            Self::NoHandle(number) => write!(f, "it has no handle {number}"),
            Self::NoProcess(number) => write!(f, "process {number} shares nothing yet"),
            Self::Full => f.write_str("there are as many processes that share, or handles, as there may be"),
            Self::NoRights(number) => write!(f, "{number} are no rights"),
            Self::Busy => f.write_str("the scaler has a picture"),
            Self::NoCall => f.write_str("there is no such call"),
        }
    }
}

/// A short text of a process, or nothing if it is none.
struct Text {
    bytes: [u8; NAME],
    len: usize,
}

impl Text {
    fn read(process: &Process, at: u32, bytes: u32) -> Self {
        let (mut text, len) = ([0; NAME], bytes as usize);
        let read = text.get_mut(..len).and_then(|text| process.read(VirtAddr::new(at), text));
        Self { bytes: text, len: if read.is_some() { len } else { 0 } }
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl Calls for ShareCalls {
    fn call(&self, process: &mut Process, number: u32, args: [u32; 6]) -> u32 {
        let state = &mut *self.state.lock();
        self.poll(state, self.kernel.micros());
        self.answer(state, process, number, args).unwrap_or_else(|error| {
            log::debug!("{process}: call {number}: {error}");
            REFUSED
        })
    }

    fn fault(&self, process: &mut Process, fault: &Fault) -> AfterFault {
        let access = match fault.access {
            Access::Read => UserAccess::Read,
            Access::Write => UserAccess::ReadWrite,
            Access::Execute => return AfterFault::Kill(place(process, fault)),
        };
        let state = &mut *self.state.lock();
        self.poll(state, self.kernel.micros());
        let (Some(at), Ok(client)) = (fault.address, self.client(state, process)) else {
            return AfterFault::Kill(place(process, fault));
        };
        let id = state.clients[client].id;
        match self.shares.fault(id, at, access) {
            Some(ShareFault::Device { .. }) if process.name != HASTY => {
                state.seen.waited += 1;
                AfterFault::Again(Wake::AfterEvents(self.events.load(Ordering::Relaxed)))
            }
            Some(ShareFault::Domain { handle, page, access, .. }) => {
                state.seen.served += 1;
                match self.shares.set_cpu(id, handle, page..page + 1, access) {
                    Ok(()) => AfterFault::Again(Wake::Now),
                    Err(error) => AfterFault::Kill(error.to_string()),
                }
            }
            Some(ShareFault::Again) => AfterFault::Again(Wake::Now),
            Some(fault) => AfterFault::Kill(fault.to_string()),
            None => AfterFault::Kill(place(process, fault)),
        }
    }

    fn events(&self) -> u32 {
        // If another core has the state, that core sees to the device.
        if let Some(mut state) = self.state.try_lock() {
            self.poll(&mut state, self.kernel.micros());
        }
        self.events.load(Ordering::Relaxed)
    }

    fn ended(&self, process: &Process) {
        let state = &mut *self.state.lock();
        let Some(place) = state.clients.iter().position(|client| client.name == process.name) else { return };
        let client = state.clients.remove(place);
        if let Some(handle) = client.handles[0]
            && let Ok(effort) = self.shares.effort(client.id, handle)
        {
            state.seen.effort = effort;
        }
        if let Err(error) = self.shares.remove_client(client.id) {
            log::warn!("{process}: {error}");
        }
    }
}

const _: () = assert!(Picture::BYTES <= Picture::PAGES << FRAME_SHIFT);
