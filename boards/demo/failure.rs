//! Why the demo ended early.

use super::mock::{camera, codec, scaler};
use crate::drivers::display::ScanOutError;
use crate::drivers::dma::CopyError;
use crate::drivers::storage::BlockError;
use crate::drivers::storage::fat::FileError;
use crate::drivers::storage::sd::CardError;
use alloc::string::String;
use carveout::addr::Bytes;
use carveout::dma::AllocError;
use core::fmt;

/// Why the demo ended early.
#[derive(Debug)]
pub enum Failure {
    /// No known bus master has a disk, and there is no memory card.
    NoDisk,
    /// A device is not in the tree, or not at its place.
    NoDevice(&'static str),
    /// The disk could not be read.
    Disk(BlockError),
    /// The memory card could not be read.
    Card(CardError),
    /// A file of the memory card could not be read or written.
    Photo(FileError),
    /// The memory card has no such file.
    NoPhoto(&'static str),
    /// The DMA controller did not copy the picture.
    Copy(CopyError),
    /// The display does not show the picture.
    Display(ScanOutError),
    /// The area has no room for a buffer.
    NoRoom {
        /// What the buffer is for.
        what: &'static str,
        /// Why.
        error: AllocError,
    },
    /// The codec refused or could not read the picture.
    Codec(codec::Error),
    /// The scaler refused.
    Scaler(scaler::Error),
    /// The camera failed.
    Camera(camera::Error),
    /// The CPU read other bytes than the camera wrote.
    Checksum {
        /// The frame's number.
        frame: u32,
    },
    /// A device did not finish.
    NoInterrupt(&'static str),
    /// Maintenance did not reach a core's lines.
    Incoherent,
    /// Lending broke a promise.
    Lending(String),
    /// There is no network, or its boot arguments are wrong.
    Net(String),
    /// A process did not do what it must.
    Share(String),
    /// The audit found something.
    Audit,
    /// Memory was not given back.
    Leak {
        /// Bytes free in all areas, before and after.
        free: (u64, u64),
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDisk => f.write_str("no disk: none on virtio or SATA, and no memory card"),
            Self::NoDevice(name) => write!(f, "no {name} in the device tree"),
            Self::Disk(error) => write!(f, "disk: {error}"),
            Self::Card(error) => write!(f, "memory card: {error}"),
            Self::Photo(error) => write!(f, "memory card: {error}"),
            Self::NoPhoto(name) => write!(f, "memory card: no {name} in its first partition"),
            Self::Copy(error) => write!(f, "DMA controller: {error}"),
            Self::Display(error) => write!(f, "display: {error}"),
            Self::NoRoom { what, error } => write!(f, "{what}: {error}"),
            Self::Codec(error) => write!(f, "codec: {error}"),
            Self::Scaler(error) => write!(f, "scaler: {error}"),
            Self::Camera(error) => write!(f, "camera: {error}"),
            Self::Checksum { frame } => write!(f, "camera: frame {frame} has another checksum than the camera says"),
            Self::NoInterrupt(name) => write!(f, "{name}: no interrupt came"),
            Self::Incoherent => f.write_str("maintenance through a non-cacheable mapping does not reach every cache"),
            Self::Lending(what) | Self::Share(what) => f.write_str(what),
            Self::Net(what) => write!(f, "network: {what}"),
            Self::Audit => f.write_str("the audit found a violation"),
            Self::Leak { free: (before, after) } => {
                write!(f, "memory was not given back: {} were free before, {} are after", Bytes(*before), Bytes(*after))
            }
        }
    }
}
