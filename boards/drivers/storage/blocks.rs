//! A disk by blocks of 4 KiB, through a buffer of its own.
//!
//! Guarantees: what is read is what the disk gave, and zeros past its end. A write past the end is an error. A buffer
//! that the disk keeps is never used again.

use super::{BLOCK, Backing, BlockError, on_disk};
use crate::drivers::wait::Failed;
use alloc::boxed::Box;
use carveout::dma::{Bidirectional, Cpu, Device, Direction, Stream, Yes};
use carveout::machine::Machine;
use core::fmt;

/// What comes back of a transfer.
pub type Moved<E, M, D> = Result<Stream<M, D, Cpu>, Failed<E, Stream<M, D, Cpu>>>;

/// A disk that moves whole sectors between itself and a buffer that it owns meanwhile.
pub trait Sectors<M: Machine + 'static> {
    /// What goes wrong.
    type Error: core::error::Error + 'static;

    /// Returns the bytes on the disk.
    fn bytes(&self) -> u64;

    /// Reads `bytes` from a sector on into a buffer, as many whole sectors as the buffer holds of them.
    ///
    /// # Errors
    ///
    /// The driver's own error, and the buffer, unless the device keeps it.
    fn read_at<D: Direction>(
        &mut self,
        sector: u64,
        bytes: usize,
        buffer: Stream<M, D, Device>,
    ) -> Moved<Self::Error, M, D>;

    /// Writes `bytes` from a sector on, as many whole sectors of them as the buffer holds.
    ///
    /// # Errors
    ///
    /// As [`read_at`](Self::read_at).
    fn write_at<D: Direction<CpuWrites = Yes>>(
        &mut self,
        sector: u64,
        bytes: usize,
        buffer: Stream<M, D, Device>,
    ) -> Moved<Self::Error, M, D>;
}

/// Why the disk was not asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlocksError {
    /// The disk kept the buffer of an earlier transfer.
    Kept,
    /// A block begins past the end of the disk.
    PastTheEnd(u64),
}

impl fmt::Display for BlocksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("the disk kept its buffer when a transfer did not end"),
            Self::PastTheEnd(block) => write!(f, "block {block} begins past the end of the disk"),
        }
    }
}

impl core::error::Error for BlocksError {}

/// A disk by blocks.
pub struct Blocks<'d, M: Machine + 'static, S> {
    disk: &'d mut S,
    /// There until the device keeps it: then every request is refused.
    buffer: Option<Stream<M, Bidirectional, Cpu>>,
    /// Bytes of a request at most: the buffer's.
    request: usize,
}

impl<'d, M: Machine, S: Sectors<M>> Blocks<'d, M, S> {
    /// Makes blocks of a disk and a buffer, of one block or more, from the disk's area.
    pub fn new(disk: &'d mut S, buffer: Stream<M, Bidirectional, Cpu>) -> Self {
        Self { disk, request: buffer.len() / BLOCK * BLOCK, buffer: Some(buffer) }
    }

    /// Keeps what came back of a transfer.
    fn keep(
        &mut self,
        result: Moved<S::Error, M, Bidirectional>,
    ) -> Result<&Stream<M, Bidirectional, Cpu>, BlockError> {
        match result {
            Ok(buffer) => Ok(self.buffer.insert(buffer)),
            Err(Failed { error, given }) => {
                self.buffer = given;
                Err(Box::new(error))
            }
        }
    }
}

impl<M: Machine, S: Sectors<M>> Backing for Blocks<'_, M, S> {
    type Error = BlockError;

    fn read(&mut self, first: u32, to: &mut [u8]) -> Result<(), BlockError> {
        let firsts = (u64::from(first)..).step_by(self.request / BLOCK);
        for (first, to) in firsts.zip(to.chunks_mut(self.request)) {
            let (sector, there) = on_disk(first, to.len(), self.disk.bytes());
            let buffer = self.buffer.take().ok_or(BlocksError::Kept)?;
            let result = self.disk.read_at(sector, there, buffer.for_device());
            let buffer = self.keep(result)?;
            let (known, beyond) = to.split_at_mut(there);
            known.copy_from_slice(&buffer.bytes()[..there]);
            beyond.fill(0);
        }
        Ok(())
    }

    fn write(&mut self, first: u32, from: &[u8]) -> Result<(), BlockError> {
        let firsts = (u64::from(first)..).step_by(self.request / BLOCK);
        for (first, from) in firsts.zip(from.chunks(self.request)) {
            let (sector, there) = on_disk(first, from.len(), self.disk.bytes());
            // Bytes of the last block may lie past the end; a block of them alone would be lost.
            if there.next_multiple_of(BLOCK) < from.len() {
                return Err(BlocksError::PastTheEnd(first + (there / BLOCK) as u64).into());
            }
            let mut buffer = self.buffer.take().ok_or(BlocksError::Kept)?;
            if let Some(part) = buffer.part_mut(0..from.len()) {
                part.copy_from_slice(from);
            }
            let result = self.disk.write_at(sector, there, buffer.for_device());
            self.keep(result)?;
        }
        Ok(())
    }
}
