//! The shape of a pool's blocks, and why a pool was not made.
//!
//! Guarantees: blocks that are placed one after another by a [`BlockShape`] have its size, alignment and boundary, and
//! take [`span`](BlockShape::span) bytes.

use crate::cma::area::AllocError;
use core::fmt;

/// The shape of a pool's blocks, in bytes, at the addresses that the device sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockShape {
    /// The size of a block, 1 or more.
    pub size: u32,
    /// A power of two. The bus address of each block is a multiple of it.
    pub align: u32,
    /// A power of two, `size` or more. No block crosses a multiple of it. With `None` a block may cross any.
    pub boundary: Option<u32>,
}

impl BlockShape {
    pub(super) fn check(self) -> Result<(), PoolError> {
        let Self { size, align, boundary } = self;
        if size == 0 {
            return Err(PoolError::ZeroSize);
        }
        if !align.is_power_of_two() {
            return Err(PoolError::Alignment { align });
        }
        match boundary {
            Some(boundary) if !boundary.is_power_of_two() => Err(PoolError::Boundary { boundary }),
            Some(boundary) if size > boundary => Err(PoolError::Crossing { size, boundary }),
            _ => Ok(()),
        }
    }

    /// Returns the first place for a block at bus address `from` or after.
    pub(super) fn place(self, from: u64) -> u64 {
        let start = from.next_multiple_of(self.align.into());
        match self.boundary.map(u64::from) {
            // A block that would cross a boundary moves up to it. A boundary is coarser than the alignment then, so the
            // block stays aligned.
            Some(boundary) if start % boundary + u64::from(self.size) > boundary => start.next_multiple_of(boundary),
            _ => start,
        }
    }

    /// Returns the bytes that `blocks`, 1 or more, take from a multiple of both alignment and boundary on.
    pub(super) fn span(self, blocks: u32) -> u64 {
        let (size, align) = (u64::from(self.size), u64::from(self.align));
        let stride = size.next_multiple_of(align);
        let (together, period) = match self.boundary.map(u64::from) {
            Some(boundary) if boundary > align => ((boundary - size) / stride + 1, boundary),
            _ => (1, stride),
        };
        let last = u64::from(blocks) - 1;
        last / together * period + last % together * stride + size
    }
}

/// Why a pool was not made. It keeps no memory. A pool takes its buffers one after another, so loans may have been
/// recalled for those that came before the refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolError {
    /// The blocks would have no bytes.
    ZeroSize,
    /// The pool would have no blocks.
    NoBlocks,
    /// The alignment is not a power of two.
    Alignment {
        /// What was asked for, in bytes.
        align: u32,
    },
    /// The boundary is not a power of two.
    Boundary {
        /// What was asked for, in bytes.
        boundary: u32,
    },
    /// Every block would cross the boundary.
    Crossing {
        /// Bytes of a block.
        size: u32,
        /// The boundary, in bytes.
        boundary: u32,
    },
    /// The heap has no room for the pool's lists.
    Heap {
        /// The blocks asked for.
        blocks: u32,
    },
    /// The area refused the memory.
    Alloc(AllocError),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroSize => write!(f, "pool of blocks of no bytes"),
            Self::NoBlocks => write!(f, "pool of no blocks"),
            Self::Alignment { align } => write!(f, "pool: alignment of {align:#x} bytes is not a power of two"),
            Self::Boundary { boundary } => write!(f, "pool: boundary of {boundary:#x} bytes is not a power of two"),
            Self::Crossing { size, boundary } => {
                write!(f, "pool: a block of {size:#x} bytes crosses every boundary of {boundary:#x} bytes")
            }
            Self::Heap { blocks } => write!(f, "pool: no heap left to keep {blocks} blocks in"),
            Self::Alloc(error) => write!(f, "pool: {error}"),
        }
    }
}

impl core::error::Error for PoolError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_span_is_what_placing_one_by_one_takes() {
        for size in [1, 7, 16, 24, 100, 4096] {
            for align in [1, 8, 64, 8192] {
                for boundary in [None, Some(128), Some(4096), Some(1 << 16)] {
                    let shape = BlockShape { size, align, boundary };
                    if shape.check().is_err() {
                        continue;
                    }
                    let mut end = 1 << 20;
                    for blocks in 1..200 {
                        end = shape.place(end) + u64::from(size);
                        assert_eq!(shape.span(blocks), end - (1 << 20), "{blocks} of {shape:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn refusals_are_one_clear_line() {
        let check = |size, align, boundary| BlockShape { size, align, boundary }.check().unwrap_err().to_string();
        assert_eq!(check(0, 1, None), "pool of blocks of no bytes");
        assert_eq!(check(1, 0, None), "pool: alignment of 0x0 bytes is not a power of two");
        assert_eq!(check(1, 24, None), "pool: alignment of 0x18 bytes is not a power of two");
        assert_eq!(check(1, 1, Some(0)), "pool: boundary of 0x0 bytes is not a power of two");
        assert_eq!(check(17, 1, Some(16)), "pool: a block of 0x11 bytes crosses every boundary of 0x10 bytes");
        assert_eq!(PoolError::NoBlocks.to_string(), "pool of no blocks");
        assert_eq!(
            PoolError::Alloc(AllocError::NoArea(None)).to_string(),
            "pool: the device has no area to allocate from; give it one, or make one the default"
        );
    }
}
