//! Streams from a device that the CPU wrote to all the same.
//!
//! Guarantees: if the CPU changed one word of such a stream between a hand-over to it and the next one to the device,
//! that is found. Each step of the sum can be undone, so one change always shows. Several may cancel each other, which
//! one pair in 2^32 does.

use crate::failure::Refusal;
use alloc::vec::Vec;
use carveout::dma::Handle;
use carveout::sync::{Lock, Rank};

/// As of the tables: its lock is never held while another is taken.
const RANK: Rank = Rank::new(3);

/// The sums of the streams that the CPU has and only a device writes.
pub(crate) struct Sums(Lock<Vec<(Handle, u32)>>);

impl Sums {
    /// Returns the bytes of heap that so many sums take, in one block.
    pub(crate) const fn heap_bytes(streams: usize) -> usize {
        streams.saturating_mul(size_of::<(Handle, u32)>())
    }

    /// Makes room for so many.
    pub(crate) fn new(streams: usize) -> Result<Self, Refusal> {
        let mut sums = Vec::new();
        sums.try_reserve_exact(streams).map_err(|_| Refusal::Heap("sums of streams"))?;
        Ok(Self(Lock::new(RANK, sums)))
    }

    /// Keeps the sum of a stream that the CPU gets with these bytes.
    pub(crate) fn keep(&self, stream: Handle, bytes: &[u8]) {
        let sum = sum(bytes);
        let mut sums = self.0.lock();
        if let Some((_, kept)) = sums.iter_mut().find(|(kept, _)| *kept == stream) {
            *kept = sum;
        } else if sums.len() < sums.capacity() {
            // Streams past those that it was made for are not looked at.
            sums.push((stream, sum));
        }
    }

    /// Returns whether the CPU left the bytes as it got them.
    pub(crate) fn are_as_kept(&self, stream: Handle, bytes: &[u8]) -> bool {
        let sum = sum(bytes);
        self.0.lock().iter().find(|(kept, _)| *kept == stream).is_none_or(|&(_, kept)| kept == sum)
    }

    /// Forgets a stream that is no more.
    pub(crate) fn forget(&self, stream: Handle) {
        self.0.lock().retain(|(kept, _)| *kept != stream);
    }
}

/// Returns the sum of some bytes, whose first is aligned as a page is.
fn sum(bytes: &[u8]) -> u32 {
    let step = |sum: u32, word: u32| (sum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b1);
    let (words, rest) = bytes.as_chunks();
    let sum = words.iter().fold(1, |sum, &word| step(sum, u32::from_le_bytes(word)));
    rest.iter().fold(sum, |sum, &byte| step(sum, byte.into()))
}
