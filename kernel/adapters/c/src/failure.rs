//! Refusals: how a function tells C what was wrong.
//!
//! Guarantees: a refusal changed nothing. It has a code, which is one of a closed set with a text each, and a line that
//! says what was asked for and what there is. The line is made only for a caller that gave room for it.

use carveout::addr::FrameRange;
use carveout::dma::{
    AllocError, BufferState, ContractError, GiveBackError, HandleError, MasterError, PoolError, PoolExhausted,
    ShareError, TakeError, WiderMapping,
};
use carveout::embed::{CoreError, EmbedError};
use carveout::name::Name;
use carveout::vm::alias::AliasError;
use carveout::vm::audit::Findings;
#[cfg(target_arch = "arm")]
use carveout_armv7a::l2c310::Unusable;
#[cfg(target_arch = "arm")]
use carveout_armv7a::whole::UnnamedLevel;
use core::ffi::{CStr, c_char};
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::slice;

/// What a function answers. `carveout_strerror` has a text for each.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Error {
    /// It did what it was asked for.
    Ok = 0,
    /// A pointer that it needs is NULL.
    NullPointer = 1,
    /// `carveout_init` has not succeeded yet.
    NotReady = 2,
    /// `carveout_init` has succeeded before.
    Ready = 3,
    /// A name is not UTF-8, or has more than 31 bytes.
    Name = 4,
    /// The kernel's registers, tables or ranges are not as the module needs them.
    Kernel = 5,
    /// The kernel's `alloc` gave no memory.
    Heap = 6,
    /// No bus master is like the description of the device.
    Device = 7,
    /// There is no such area.
    Area = 8,
    /// No bytes were asked for.
    ZeroSize = 9,
    /// The alignment is not a power of two, or too large.
    Alignment = 10,
    /// Too few bytes are free.
    NoCapacity = 11,
    /// Enough bytes are free, and no run of them is long enough.
    Fragmented = 12,
    /// There is a run, and the device does not reach it.
    OutOfReach = 13,
    /// All records of the kind are in use: of buffers, pools or contracts.
    NoRecord = 14,
    /// The contract declares no such buffer.
    NotDeclared = 15,
    /// All buffers of the size that the contract declares are allocated.
    ContractExceeded = 16,
    /// The contract cannot be promised.
    Contract = 17,
    /// The handle names nothing: it was freed, or never given.
    Stale = 18,
    /// The handle names something of another kind.
    Kind = 19,
    /// The buffer's direction is another one, or the number is no direction.
    Direction = 20,
    /// The buffer was allocated for another device.
    OtherDevice = 21,
    /// The buffer has another size.
    Size = 22,
    /// The buffer lies at another address.
    Address = 23,
    /// The device owns the buffer.
    DeviceOwns = 24,
    /// The CPU owns the buffer.
    CpuOwns = 25,
    /// The buffer is in quarantine.
    Quarantined = 26,
    /// Another core has the buffer in hand just now.
    Busy = 27,
    /// Bytes are named that the buffer does not have.
    Range = 28,
    /// No pool can have blocks like that.
    PoolShape = 29,
    /// All blocks of the pool are out.
    PoolExhausted = 30,
    /// Blocks of the pool did not come back.
    BlocksOut = 31,
    /// Buffers of the device did not come back.
    BuffersOut = 32,
    /// The audit found something wrong.
    Audit = 33,
    /// The outer cache cannot be used.
    OuterCache = 34,
    /// The core's registers are not those of the core that called `carveout_init`.
    Core = 35,
    /// The area is not the kernel's: it was taken.
    Taken = 36,
    /// The area is the kernel's: it was not taken yet, or was given back.
    NotTaken = 37,
    /// The kernel's mappings of the area were not ended.
    Unmap = 38,
    /// A table still maps a page of the area, or may.
    StillMapped = 39,
    /// A buffer or a contract has a part of the area.
    Held = 40,
    /// The CPU wrote to a stream that only the device writes.
    Written = 41,
    /// Whole caches cannot be emptied, or may be already.
    Emptying = 42,
    /// `carveout_share_init` has not succeeded yet.
    NotSharing = 43,
    /// `carveout_share_init` has succeeded before.
    Sharing = 44,
    /// Nothing of the name was granted to the client.
    NoName = 45,
    /// The handle does not give the rights, or the number stands for none.
    Rights = 46,
    /// The client would pay for more bytes than its quota.
    Quota = 47,
    /// The client has no address space.
    NoSpace = 48,
    /// The client's address space has no room.
    NoRoom = 49,
    /// The client has the pages mapped already.
    Mapped = 50,
    /// The buffer would fall into too many parts.
    TooManyParts = 51,
    /// The number is no view.
    View = 52,
}

impl Error {
    /// Returns the error of a number, or `None` if none has it.
    fn of(number: i32) -> Option<Self> {
        TEXTS.iter().map(|&(error, _)| error).find(|&error| error as i32 == number)
    }
}

/// Every error and its text, in the order of their numbers.
pub(crate) const TEXTS: [(Error, &CStr); 53] = [
    (Error::Ok, c"no error"),
    (Error::NullPointer, c"a pointer that is needed is NULL"),
    (Error::NotReady, c"carveout_init has not succeeded yet"),
    (Error::Ready, c"carveout_init has succeeded before"),
    (Error::Name, c"a name is not UTF-8, or too long"),
    (Error::Kernel, c"the kernel's registers, tables or ranges are not as the module needs them"),
    (Error::Heap, c"the kernel's alloc gave no memory"),
    (Error::Device, c"no bus master is like the description of the device"),
    (Error::Area, c"no such area"),
    (Error::ZeroSize, c"no bytes were asked for"),
    (Error::Alignment, c"the alignment is not a power of two, or too large"),
    (Error::NoCapacity, c"too few bytes are free"),
    (Error::Fragmented, c"no free run is long enough"),
    (Error::OutOfReach, c"the device does not reach a free run that is long enough"),
    (Error::NoRecord, c"all records of the kind are in use"),
    (Error::NotDeclared, c"the contract declares no such buffer"),
    (Error::ContractExceeded, c"all buffers of the size that the contract declares are allocated"),
    (Error::Contract, c"the contract cannot be promised"),
    (Error::Stale, c"the handle names nothing: it was freed, or never given"),
    (Error::Kind, c"the handle names something of another kind"),
    (Error::Direction, c"the buffer has another direction"),
    (Error::OtherDevice, c"the buffer was allocated for another device"),
    (Error::Size, c"the buffer has another size"),
    (Error::Address, c"the buffer lies at another address"),
    (Error::DeviceOwns, c"the device owns the buffer"),
    (Error::CpuOwns, c"the CPU owns the buffer"),
    (Error::Quarantined, c"the buffer is in quarantine"),
    (Error::Busy, c"another core has the buffer in hand just now"),
    (Error::Range, c"the buffer does not have these bytes"),
    (Error::PoolShape, c"no pool can have blocks like that"),
    (Error::PoolExhausted, c"all blocks of the pool are out"),
    (Error::BlocksOut, c"blocks of the pool did not come back; free them first"),
    (Error::BuffersOut, c"buffers of the device did not come back"),
    (Error::Audit, c"the audit found something wrong"),
    (Error::OuterCache, c"the outer cache cannot be used"),
    (Error::Core, c"the core's registers are not those of the core that called carveout_init"),
    (Error::Taken, c"the area is not the kernel's"),
    (Error::NotTaken, c"the area is the kernel's"),
    (Error::Unmap, c"the kernel's mappings of the area were not ended"),
    (Error::StillMapped, c"a table still maps a page of the area"),
    (Error::Held, c"a part of the area is in use"),
    (Error::Written, c"the CPU wrote to a stream that only the device writes"),
    (Error::Emptying, c"whole caches cannot be emptied, or may be already"),
    (Error::NotSharing, c"carveout_share_init has not succeeded yet"),
    (Error::Sharing, c"carveout_share_init has succeeded before"),
    (Error::NoName, c"nothing of the name was granted to the client"),
    (Error::Rights, c"the handle does not give the rights"),
    (Error::Quota, c"the client would pay for more than its quota"),
    (Error::NoSpace, c"the client has no address space"),
    (Error::NoRoom, c"the client's address space has no room"),
    (Error::Mapped, c"the client has the pages mapped already"),
    (Error::TooManyParts, c"the buffer would fall into too many parts"),
    (Error::View, c"no such view"),
];

/// A refusal, for whoever wants to know more than its number.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// What was wrong. It is `Ok` if nothing was.
    pub(crate) code: Error,
    /// A line that says it with the figures, in UTF-8. It is empty if nothing was wrong, and cut off if it is too long.
    pub(crate) line: [c_char; 192],
}

/// The kernel's `unmap` did not end its mappings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StillWanted {
    pub(crate) run: FrameRange,
}

impl fmt::Display for StillWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`unmap` answered false for {}", self.run)
    }
}

impl core::error::Error for StillWanted {}

/// Why a function refused. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// An argument or a field is NULL, or a list without entries.
    Null(&'static str),
    /// No run of whole pages.
    NoRange {
        base: u32,
        bytes: u32,
    },
    /// No run of whole sections.
    NoWindow {
        start: u32,
        sections: u32,
    },
    Alias(AliasError),
    Embed(EmbedError),
    NotReady,
    Ready,
    /// The name of this thing is not UTF-8, or too long.
    Name(&'static str),
    Master(MasterError),
    Area {
        number: u32,
        areas: usize,
    },
    /// More bytes than an area can have.
    TooLarge {
        bytes: usize,
    },
    Alloc(AllocError),
    Contract(ContractError),
    Pool(PoolError),
    PoolExhausted(PoolExhausted),
    /// Blocks of a pool that did not come back.
    BlocksHeld {
        held: u32,
    },
    Handle(HandleError),
    /// The number that C passed is no direction.
    NoDirection(u32),
    OtherDevice {
        owner: Name,
        named: Name,
    },
    Size {
        has: usize,
        named: usize,
    },
    Address {
        has: usize,
        named: usize,
    },
    Range {
        offset: usize,
        size: usize,
        has: usize,
    },
    /// All records of a kind are in use.
    Full {
        what: &'static str,
        limit: usize,
    },
    /// The heap has no room for a record.
    Heap(&'static str),
    /// A pool, a block or a contract that is not, or not any more.
    Gone(&'static str),
    BuffersOut {
        owner: Name,
        buffers: usize,
    },
    Audit(Findings),
    /// The PL310 that C names.
    #[cfg(target_arch = "arm")]
    Outer(Unusable),
    /// A PL310, and functions too.
    TwoOuterCaches,
    /// The outer cache has no such lines.
    OuterLine(u32),
    Core(CoreError),
    Take(TakeError<StillWanted>),
    TakeMapped(TakeError<WiderMapping>),
    GiveBack(GiveBackError),
    /// The CPU wrote to a stream from a device.
    Written {
        owner: Name,
    },
    /// The core does not name all its caches.
    #[cfg(target_arch = "arm")]
    Unnamed(UnnamedLevel),
    /// Whole caches may be emptied already.
    Permitted,
    NotSharing,
    Sharing,
    Share(ShareError),
    /// The number that C passed stands for no rights.
    NoRights(u32),
    /// The number that C passed is no access of a program's.
    NoAccess(u32),
    /// The number that C passed is no view.
    NoView(u32),
}

impl Refusal {
    /// Returns the number for C.
    pub(crate) const fn code(&self) -> Error {
        match self {
            Self::Null(_) => Error::NullPointer,
            Self::Embed(EmbedError::Heap) | Self::Pool(PoolError::Heap { .. }) | Self::Heap(_) => Error::Heap,
            Self::NoRange { .. } | Self::NoWindow { .. } | Self::Alias(_) | Self::Embed(_) => Error::Kernel,
            Self::NotReady => Error::NotReady,
            Self::Ready => Error::Ready,
            Self::Name(_) => Error::Name,
            Self::Master(_) => Error::Device,
            Self::Area { .. } => Error::Area,
            Self::TooLarge { .. } => Error::NoCapacity,
            Self::Alloc(error) | Self::Pool(PoolError::Alloc(error)) => of_alloc(error),
            Self::Contract(error) => match error {
                ContractError::NoBuffers | ContractError::Place { .. } => Error::Contract,
                ContractError::Set { error, .. } => of_alloc(error),
                ContractError::Records { .. } => Error::NoRecord,
                ContractError::Heap { .. } => Error::Heap,
            },
            Self::Pool(_) => Error::PoolShape,
            Self::PoolExhausted(_) => Error::PoolExhausted,
            Self::BlocksHeld { .. } => Error::BlocksOut,
            Self::Handle(error) => match error {
                HandleError::Foreign { .. } | HandleError::Stale { .. } => Error::Stale,
                HandleError::Taken { .. } => Error::Busy,
                HandleError::Quarantined { .. } => Error::Quarantined,
                HandleError::Direction { .. } => Error::Direction,
                HandleError::State { has: BufferState::DeviceStream, wanted: BufferState::CpuStream, .. } => {
                    Error::DeviceOwns
                }
                HandleError::State { has: BufferState::CpuStream, wanted: BufferState::DeviceStream, .. } => {
                    Error::CpuOwns
                }
                HandleError::State { .. } => Error::Kind,
            },
            Self::NoDirection(_) => Error::Direction,
            Self::OtherDevice { .. } => Error::OtherDevice,
            Self::Size { .. } => Error::Size,
            Self::Address { .. } => Error::Address,
            Self::Range { .. } => Error::Range,
            Self::Full { .. } => Error::NoRecord,
            Self::Gone(_) => Error::Stale,
            Self::BuffersOut { .. } => Error::BuffersOut,
            Self::Audit(_) => Error::Audit,
            #[cfg(target_arch = "arm")]
            Self::Outer(_) => Error::OuterCache,
            Self::TwoOuterCaches | Self::OuterLine(_) => Error::OuterCache,
            Self::Core(_) => Error::Core,
            Self::Take(error) => of_take(error),
            Self::TakeMapped(error) => of_take(error),
            Self::GiveBack(error) => match error {
                GiveBackError::NoArea => Error::Area,
                GiveBackError::NotOurs => Error::NotTaken,
                GiveBackError::Held(_) | GiveBackError::Promised { .. } | GiveBackError::Open { .. } => Error::Held,
            },
            Self::Written { .. } => Error::Written,
            #[cfg(target_arch = "arm")]
            Self::Unnamed(_) => Error::Emptying,
            Self::Permitted => Error::Emptying,
            Self::NotSharing => Error::NotSharing,
            Self::Sharing => Error::Sharing,
            Self::Share(error) => of_share(error),
            Self::NoRights(_) | Self::NoAccess(_) => Error::Rights,
            Self::NoView(_) => Error::View,
        }
    }
}

const fn of_alloc(error: &AllocError) -> Error {
    match error {
        AllocError::ZeroSize => Error::ZeroSize,
        AllocError::Alignment { .. } => Error::Alignment,
        AllocError::NoArea(_) => Error::Area,
        AllocError::NotTaken => Error::NotTaken,
        AllocError::NoCapacity { .. } => Error::NoCapacity,
        AllocError::Fragmented(_) | AllocError::Open { .. } => Error::Fragmented,
        AllocError::OutOfReach(_) => Error::OutOfReach,
        AllocError::ContractExceeded { .. } => Error::ContractExceeded,
        AllocError::NotDeclared { .. } => Error::NotDeclared,
        AllocError::TooManyBuffers { .. } => Error::NoRecord,
    }
}

const fn of_share(error: &ShareError) -> Error {
    match error {
        ShareError::NoClient { .. } | ShareError::Stale { .. } => Error::Stale,
        ShareError::NoSpace { .. } => Error::NoSpace,
        ShareError::NoName { .. } => Error::NoName,
        ShareError::Rights { .. } => Error::Rights,
        ShareError::Outside { .. } => Error::Range,
        ShareError::Quota { .. } => Error::Quota,
        ShareError::Full { .. } => Error::NoRecord,
        ShareError::Device { .. } => Error::DeviceOwns,
        ShareError::TooManyParts => Error::TooManyParts,
        ShareError::OutOfReach { .. } => Error::OutOfReach,
        ShareError::NoRoom { .. } => Error::NoRoom,
        ShareError::Mapped { .. } => Error::Mapped,
        ShareError::Alloc(error) => of_alloc(error),
    }
}

const fn of_take<E>(error: &TakeError<E>) -> Error {
    match error {
        TakeError::NoArea => Error::Area,
        TakeError::NotKernels => Error::Taken,
        TakeError::Unmap(_) => Error::Unmap,
        TakeError::StillMapped { .. } | TakeError::UnknownTable { .. } => Error::StillMapped,
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null(what) => write!(f, "{what} is NULL, and is needed"),
            Self::NoRange { base, bytes } => {
                write!(f, "{bytes:#x} bytes at {base:#x} are no run of whole pages below 4 GiB")
            }
            Self::NoWindow { start, sections } => {
                write!(
                    f,
                    "{sections} MiB at {start:#x} are no window: it begins at a multiple of 1 MiB, and ends by 4 GiB"
                )
            }
            Self::Alias(error) => write!(f, "{error}"),
            Self::Embed(error) => write!(f, "{error}"),
            Self::NotReady => write!(f, "carveout_init has not succeeded yet: call it first"),
            Self::Ready => write!(f, "carveout_init has succeeded before: there is one module for the whole machine"),
            Self::Name(of) => write!(f, "the name of the {of} is not UTF-8, or has more than {} bytes", Name::MAX),
            Self::Master(error) => write!(f, "{error}"),
            Self::Area { number, areas } => write!(f, "area {number}: there are {areas}, from 0 on"),
            Self::TooLarge { bytes } => write!(f, "no room for {bytes} bytes: no area has as many"),
            Self::Alloc(error) => write!(f, "{error}"),
            Self::Contract(error) => write!(f, "{error}"),
            Self::Pool(error) => write!(f, "{error}"),
            Self::PoolExhausted(error) => write!(f, "{error}"),
            Self::BlocksHeld { held } => write!(f, "{held} blocks of the pool did not come back; free them first"),
            Self::Handle(error) => write!(f, "{error}"),
            Self::NoDirection(number) => {
                write!(f, "{number} is no direction: 0 is both, 1 to the device, 2 from the device")
            }
            Self::OtherDevice { owner, named } => write!(f, "a buffer of {owner} was named as one of {named}"),
            Self::Size { has, named } => write!(f, "a buffer of {has} bytes was named as one of {named}"),
            Self::Address { has, named } => write!(f, "a buffer at {has:#x} was named as one at {named:#x}"),
            Self::Range { offset, size, has } => {
                write!(f, "{size} bytes from {offset} on are not inside of a buffer of {has} bytes")
            }
            Self::Full { what, limit } => write!(f, "all {limit} records of {what} are in use"),
            Self::Heap(what) => write!(f, "no heap left for the records of {what}"),
            Self::Gone(what) => write!(f, "the handle names no {what}: it was given back, or there never was one"),
            Self::BuffersOut { owner, buffers } => write!(f, "{owner} still has {buffers} buffers"),
            Self::Audit(findings) => write!(f, "{findings}"),
            #[cfg(target_arch = "arm")]
            Self::Outer(error) => write!(f, "outer cache: {error}"),
            Self::TwoOuterCaches => f.write_str("outer_cache has both a PL310 and functions: give one of them"),
            Self::OuterLine(line) => {
                write!(f, "an outer cache with lines of {line} bytes: a power of two from 4 to 4096 is possible")
            }
            Self::Core(error) => write!(f, "{error}"),
            Self::Take(error) => write!(f, "{error}"),
            Self::TakeMapped(error) => write!(f, "{error}"),
            Self::GiveBack(error) => write!(f, "{error}"),
            Self::Written { owner } => write!(
                f,
                "the CPU wrote to a stream that {owner} alone writes: its lines could go over what the device writes; make it \
                 bidirectional, or free it"
            ),
            #[cfg(target_arch = "arm")]
            Self::Unnamed(error) => write!(f, "{error}"),
            Self::Permitted => f.write_str("whole caches may be emptied already: it is permitted once"),
            Self::NotSharing => write!(f, "carveout_share_init has not succeeded yet: call it first"),
            Self::Sharing => write!(f, "carveout_share_init has succeeded before: it is called once"),
            Self::Share(error) => write!(f, "{error}"),
            Self::NoRights(number) => {
                write!(f, "{number} are no rights: they are the sum of 1 to read, 2 to write, 4 to share on")
            }
            Self::NoAccess(number) => write!(f, "{number} is no access of a program's: 1 reads, 3 reads and writes"),
            Self::NoView(number) => write!(f, "{number} is no view: 0 is cached, 1 write-combining"),
        }
    }
}

impl core::error::Error for Refusal {}

macro_rules! wraps {
    ($($error:ident: $variant:ident),*) => {$(
        impl From<$error> for Refusal {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )*};
}

wraps!(
    MasterError: Master,
    AllocError: Alloc,
    ContractError: Contract,
    PoolError: Pool,
    PoolExhausted: PoolExhausted,
    HandleError: Handle,
    EmbedError: Embed,
    GiveBackError: GiveBack,
    ShareError: Share
);

impl From<TakeError<StillWanted>> for Refusal {
    fn from(error: TakeError<StillWanted>) -> Self {
        Self::Take(error)
    }
}

impl From<TakeError<WiderMapping>> for Refusal {
    fn from(error: TakeError<WiderMapping>) -> Self {
        Self::TakeMapped(error)
    }
}

/// Runs what a function does. Returns what came of it, after C was told of a refusal, or that there was none, if it
/// gave room for that.
pub(crate) fn told<T>(
    why: Option<&mut MaybeUninit<Failure>>,
    work: impl FnOnce() -> Result<T, Refusal>,
) -> Result<T, Error> {
    let done = work();
    let code = done.as_ref().map_or_else(Refusal::code, |_| Error::Ok);
    if let Some(why) = why {
        let failure = why.write(Failure { code, line: [0; 192] });
        if let Err(refusal) = &done {
            write_line(&mut failure.line, refusal);
        }
    }
    done.map_err(|_| code)
}

/// Runs what a function does that answers with a number alone.
pub(crate) fn answer(why: Option<&mut MaybeUninit<Failure>>, work: impl FnOnce() -> Result<(), Refusal>) -> Error {
    told(why, work).map_or_else(|error| error, |()| Error::Ok)
}

/// Writes a line that ends with a NUL, as much of it as there is room for.
pub(crate) fn write_line(to: &mut [c_char], line: impl fmt::Display) {
    let mut line_to = Line { to, used: 0 };
    // What is too long is cut off.
    let _ = write!(line_to, "{line}");
    let Line { to, used } = line_to;
    if let Some(end) = to.get_mut(used) {
        *end = 0;
    }
}

/// Writes a line to the characters that C has for one, if it has any.
///
/// # Safety
///
/// `to` is NULL, or points to `size` characters.
pub(crate) unsafe fn write_line_at(to: *mut c_char, size: usize, line: impl fmt::Display) {
    if !to.is_null() && size > 0 {
        // SAFETY: it points to as many characters, as this function demands; zeros are characters.
        unsafe { to.write_bytes(0, size) };
        // SAFETY: as above, and they were written just now.
        let to = unsafe { slice::from_raw_parts_mut(to, size) };
        write_line(to, line);
    }
}

/// Text on its way into C's characters. The last one is left for the NUL.
struct Line<'l> {
    to: &'l mut [c_char],
    used: usize,
}

impl Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.to.len().saturating_sub(self.used + 1);
        for (to, &from) in self.to[self.used..].iter_mut().zip(text.as_bytes().iter().take(room)) {
            *to = c_char::from_ne_bytes([from]);
            self.used += 1;
        }
        if text.len() > room { Err(fmt::Error) } else { Ok(()) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TEXTS[*self as usize].1.to_str().unwrap_or_default())
    }
}

impl core::error::Error for Error {}

/// A number that C passes for an error.
pub type ErrorNumber = i32;

/// Returns the text of an error. The text is never NULL, and lasts for ever.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_strerror(error: ErrorNumber) -> *const c_char {
    Error::of(error).map_or(c"no error of carveout's", |error| TEXTS[error as usize].1).as_ptr()
}
