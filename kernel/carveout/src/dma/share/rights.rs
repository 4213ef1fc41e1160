//! Names of clients and of what they were granted, and rights.
//!
//! Guarantees: a number names one thing, and nothing else after that is gone. Rights are one closed set.

use crate::vm::user::UserAccess;
use core::fmt;
use core::num::NonZeroU64;
use core::ops::BitOr;

/// Bits of a number that say which place of its table it is. All above them are the place's generation.
const PLACE_BITS: u32 = 16;

/// The number of a thing in a table: its place, and which of the things it is that had this place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Ticket(NonZeroU64);

impl Ticket {
    pub(super) fn new(place: usize, generation: u64) -> Self {
        Self(NonZeroU64::new((generation + 1) << PLACE_BITS | place as u64).expect("a generation is counted from 1"))
    }

    pub(super) const fn place(self) -> usize {
        (self.0.get() & ((1 << PLACE_BITS) - 1)) as usize
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub(super) Ticket);

        impl $name {
            /// Returns the number, for who keeps numbers alone. It is never 0.
            pub const fn to_bits(self) -> u64 {
                self.0.0.get()
            }

            /// Returns the value of this number, or `None` for 0. Whether it names anything is seen when it is used.
            pub const fn from_bits(bits: u64) -> Option<Self> {
                match NonZeroU64::new(bits) {
                    Some(bits) => Some(Self(Ticket(bits))),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.to_bits())
            }
        }
    };
}

number! {
    /// The name of a client: a process, or a driver. It names nobody else after the client is gone.
    ClientId
}
number! {
    /// The name of what a client was granted of a shared buffer. It is good for this client alone, and names nothing
    /// else once the grant is given up or revoked.
    ShareHandle
}

/// What a client may do with its pages of a shared buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ShareRights(u8);

impl ShareRights {
    /// Its programs, and devices that work for it, read the pages.
    pub const READ: Self = Self(1);
    /// They write the pages.
    pub const WRITE: Self = Self(2);
    /// It grants pages to others, with rights that it has itself.
    pub const RESHARE: Self = Self(4);
    /// All of these.
    pub const ALL: Self = Self(7);

    /// Returns them as a number, for who keeps numbers alone: the sum of 1 to read, 2 to write, 4 to share on.
    pub const fn to_bits(self) -> u32 {
        self.0 as u32
    }

    /// Returns the rights of a number, or `None` if it is more than the sum of all.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits <= Self::ALL.0 as u32 { Some(Self(bits as u8)) } else { None }
    }

    /// Returns whether all of `wanted` are among them.
    pub const fn include(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Returns the most that programs with these rights may do. They read at least, or have nothing mapped.
    pub(super) const fn most(self) -> UserAccess {
        if self.include(Self::WRITE) { UserAccess::ReadWrite } else { UserAccess::Read }
    }
}

impl BitOr for ShareRights {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for ShareRights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(["---", "r--", "-w-", "rw-", "--s", "r-s", "-ws", "rws"][usize::from(self.0)])
    }
}

impl From<UserAccess> for ShareRights {
    fn from(access: UserAccess) -> Self {
        match access {
            UserAccess::Read => Self::READ,
            UserAccess::ReadWrite => Self::READ | Self::WRITE,
        }
    }
}
