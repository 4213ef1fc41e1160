//! The disk that the picture comes from: whichever of the board's bus masters has one.

use super::ahci::{AhciError, BoardDisk};
use super::bring_up::Kernel;
use super::disk::{Disk, DiskError};
use carveout::dma::buffer::{Cpu, Device, FromDevice, Stream};
use carveout::dma::master::Master;
use carveout_armv7a::mmu::Armv7a;
use core::fmt;

/// A disk.
pub enum BlockDevice {
    /// An emulator's.
    Virtio(Disk),
    /// A SATA disk.
    Ahci(BoardDisk),
}

/// Why the disk is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockError {
    /// Of virtio.
    Virtio(DiskError),
    /// Of SATA.
    Ahci(AhciError),
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Virtio(error) => error.fmt(f),
            Self::Ahci(error) => error.fmt(f),
        }
    }
}

impl BlockDevice {
    /// Opens the first disk that answers, if there is one.
    pub fn open(kernel: &'static Kernel) -> Result<Option<Self>, BlockError> {
        if let Some(disk) = Disk::open(kernel).map_err(BlockError::Virtio)? {
            return Ok(Some(Self::Virtio(disk)));
        }
        Ok(BoardDisk::open(kernel).map_err(BlockError::Ahci)?.map(Self::Ahci))
    }

    /// What the table of hops calls it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Virtio(_) => "virtio-blk",
            Self::Ahci(_) => "AHCI",
        }
    }

    /// The bus master, whose buffers the disk reads into.
    pub fn master(&self) -> &Master {
        match self {
            Self::Virtio(_) => Disk::master(),
            Self::Ahci(disk) => disk.master(),
        }
    }

    /// Bytes on the disk.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Virtio(disk) => disk.bytes(),
            Self::Ahci(disk) => disk.bytes(),
        }
    }

    /// Reads from the start of the disk into a buffer, as much as the buffer holds, and gives the buffer back. After an
    /// error it goes back to its area, unless the device keeps it: then it is in quarantine.
    pub fn read(
        &mut self,
        buffer: Stream<Armv7a, FromDevice, Device>,
    ) -> Result<Stream<Armv7a, FromDevice, Cpu>, BlockError> {
        match self {
            Self::Virtio(disk) => disk.read(buffer).map_err(|failed| BlockError::Virtio(failed.error)),
            Self::Ahci(disk) => disk.read(buffer).map_err(|failed| BlockError::Ahci(failed.error)),
        }
    }
}
