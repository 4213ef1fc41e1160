//! Directions and owners of streams: closed sets.
//!
//! A direction is a type ([`ToDevice`], [`FromDevice`], [`Bidirectional`]), and then wrong use does not compile. Where
//! it is known only at run time, as in C, it is a value of [`DataDirection`], and wrong use is a [`DirectionError`].
//! Both go through the one protocol.

use core::fmt;

mod sealed {
    pub trait Sealed {}
}

/// The direction of a stream's data. The set of types is closed.
pub trait Direction: Copy + sealed::Sealed {
    /// Marks a direction in which the CPU writes and the device reads: [`Yes`] or [`No`], or [`DirectionError`] where
    /// that is a question to the value.
    type CpuWrites;

    /// Returns this direction as a value.
    fn value(self) -> DataDirection;

    /// Returns the direction of this value.
    ///
    /// # Errors
    ///
    /// [`DirectionError::Other`] if the type is that of another direction.
    fn of(value: DataDirection) -> Result<Self, DirectionError>;
}

/// A direction that is known to the compiler. The set of types is closed.
pub trait TypedDirection: Direction + Default {
    /// The direction as a value.
    const VALUE: DataDirection;
}

/// The answer yes, about a direction.
#[derive(Debug)]
pub enum Yes {}
/// The answer no, about a direction.
#[derive(Debug)]
pub enum No {}

/// A direction known only at run time: Linux's `dma_data_direction`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DataDirection {
    /// The CPU writes and the device reads.
    ToDevice,
    /// The device writes and the CPU reads.
    FromDevice,
    /// CPU and device write and read, in turns.
    Bidirectional,
}

impl DataDirection {
    /// Returns whether the CPU writes.
    pub const fn cpu_writes(self) -> bool {
        !matches!(self, Self::FromDevice)
    }

    /// Refuses a direction in which the CPU does not write.
    pub(in crate::dma) const fn check_writable(self) -> Result<(), DirectionError> {
        if self.cpu_writes() { Ok(()) } else { Err(DirectionError::ReadOnly { has: self }) }
    }

    /// Returns whether the device writes. The CPU's lines are stale afterwards.
    pub const fn device_writes(self) -> bool {
        !matches!(self, Self::ToDevice)
    }
}

impl fmt::Display for DataDirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ToDevice => "to the device",
            Self::FromDevice => "from the device",
            Self::Bidirectional => "in both directions",
        })
    }
}

impl sealed::Sealed for DataDirection {}

impl Direction for DataDirection {
    type CpuWrites = DirectionError;

    fn value(self) -> DataDirection {
        self
    }

    fn of(value: DataDirection) -> Result<Self, DirectionError> {
        Ok(value)
    }
}

macro_rules! typed {
    ($($(#[$doc:meta])* $name:ident: $cpu_writes:ty),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Default, Debug)]
        pub struct $name;

        impl sealed::Sealed for $name {}

        impl Direction for $name {
            type CpuWrites = $cpu_writes;

            fn value(self) -> DataDirection {
                Self::VALUE
            }

            fn of(has: DataDirection) -> Result<Self, DirectionError> {
                let wanted = Self::VALUE;
                if has == wanted { Ok(Self) } else { Err(DirectionError::Other { has, wanted }) }
            }
        }

        impl TypedDirection for $name {
            const VALUE: DataDirection = DataDirection::$name;
        }
    )*};
}

typed! {
    /// The direction in which the CPU writes and the device reads.
    ToDevice: Yes,
    /// The direction in which the device writes and the CPU reads.
    FromDevice: No,
    /// Both directions: CPU and device write and read, in turns.
    Bidirectional: Yes
}

/// Why a stream whose direction is a value refused what its direction forbids. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirectionError {
    /// The CPU does not write to a stream of this direction.
    ReadOnly {
        /// The stream's direction.
        has: DataDirection,
    },
    /// The stream has another direction than the one that was named.
    Other {
        /// The stream's direction.
        has: DataDirection,
        /// The direction that was named.
        wanted: DataDirection,
    },
}

impl fmt::Display for DirectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadOnly { has } => write!(f, "a stream {has} is not written by the CPU: its views are read-only"),
            Self::Other { has, wanted } => write!(f, "a stream {has} was named as one {wanted}: use its own direction"),
        }
    }
}

impl core::error::Error for DirectionError {}

/// The owner of a stream. The set of types is closed.
pub trait Owner: sealed::Sealed {
    /// Whether it is the device.
    const IS_DEVICE: bool;
}

/// Owner of a stream: the CPU.
#[derive(Debug)]
pub enum Cpu {}
/// Owner of a stream: the device.
#[derive(Debug)]
pub enum Device {}

impl sealed::Sealed for Cpu {}
impl sealed::Sealed for Device {}

impl Owner for Cpu {
    const IS_DEVICE: bool = false;
}

impl Owner for Device {
    const IS_DEVICE: bool = true;
}
