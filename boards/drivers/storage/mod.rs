//! Storage: disks and memory cards that are bus masters, a memory card that the CPU reads, and files.

pub mod ahci;
pub mod blocks;
pub mod fat;
pub mod pl181;
pub mod sd;
pub mod sun4i_mmc;
#[cfg(target_arch = "arm")]
pub mod virtio_blk;

use alloc::boxed::Box;
use carveout::addr::FRAME_SIZE;
use carveout::dma::{Cpu, Device, FromDevice, Master, Stream};
use carveout::machine::Machine;

/// Why a disk is of no use: the error of its driver, in one line.
pub type BlockError = Box<dyn core::error::Error>;

/// A disk that is a bus master.
pub trait BlockDevice<M: Machine + 'static> {
    /// Returns what the table of hops calls it.
    fn name(&self) -> &'static str;

    /// Returns the bus master. The disk reads into its buffers.
    fn master(&self) -> &Master;

    /// Returns the bytes on the disk.
    fn bytes(&self) -> u64;

    /// Reads from the start of the disk into a buffer, as much as the buffer holds, and gives the buffer back.
    ///
    /// # Errors
    ///
    /// The driver's own error. The buffer goes back to its area, unless the device keeps it: then it is in quarantine.
    fn read(&mut self, buffer: Stream<M, FromDevice, Device>) -> Result<Stream<M, FromDevice, Cpu>, BlockError>;

    /// Returns the disk for writing too, if its driver writes.
    fn as_writable(&mut self) -> Option<&mut dyn Writable> {
        None
    }
}

/// A disk whose driver reads and writes anywhere.
pub trait Writable {
    /// Returns the bytes on the disk.
    fn bytes(&self) -> u64;

    /// Lends the disk by blocks, through a buffer that it takes from the disk's area.
    ///
    /// # Errors
    ///
    /// The driver's own error: the area has no room for the buffer.
    fn blocks(&mut self) -> Result<Box<dyn Backing<Error = BlockError> + '_>, BlockError>;
}

/// Bytes of a block.
pub const BLOCK: usize = FRAME_SIZE as usize;
/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// A disk, by blocks of 4 KiB. What lies past its end reads as zeros.
pub trait Backing {
    /// What goes wrong.
    type Error;
    /// Reads whole blocks.
    ///
    /// # Errors
    ///
    /// What the disk says was wrong. `to` holds nothing of use then.
    fn read(&mut self, first: u32, to: &mut [u8]) -> Result<(), Self::Error>;
    /// Writes whole blocks.
    ///
    /// # Errors
    ///
    /// What the disk says was wrong, or that a block begins past its end.
    fn write(&mut self, first: u32, from: &[u8]) -> Result<(), Self::Error>;
}

impl<B: Backing + ?Sized> Backing for Box<B> {
    type Error = B::Error;

    fn read(&mut self, first: u32, to: &mut [u8]) -> Result<(), Self::Error> {
        (**self).read(first, to)
    }

    fn write(&mut self, first: u32, from: &[u8]) -> Result<(), Self::Error> {
        (**self).write(first, from)
    }
}

/// Returns the sector at which block `first` begins, and how many of `bytes` from there on a disk of `disk` bytes has.
pub fn on_disk(first: u64, bytes: usize, disk: u64) -> (u64, usize) {
    let left = disk.saturating_sub(first.saturating_mul(BLOCK as u64));
    (first.saturating_mul((BLOCK / SECTOR) as u64), left.min(bytes as u64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lie_where_they_are_on_disks_of_any_size() {
        const TIB: u64 = 1 << 40;
        assert_eq!(on_disk(0, BLOCK, 0), (0, 0));
        assert_eq!(on_disk(1, 3 * BLOCK, 5000), (8, 904));
        // Their first byte has no number of 32 bits.
        assert_eq!(on_disk(1 << 20, BLOCK, 1 << 32), (8 << 20, 0));
        assert_eq!(on_disk(1 << 20, BLOCK, (1 << 32) + 512), (8 << 20, 512));
        assert_eq!(on_disk((1 << 29) + 1, BLOCK, 4 * TIB), ((1 << 32) + 8, BLOCK));
        assert_eq!(on_disk(u64::MAX, BLOCK, TIB).1, 0);
    }
}
