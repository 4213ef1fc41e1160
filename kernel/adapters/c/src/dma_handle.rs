//! What C keeps of a buffer or a block.

/// Where a device finds a buffer or a block, and which one it is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaHandle {
    /// Its identity, which no other buffer or block gets later. 0 is none.
    pub(crate) id: u64,
    /// The bus address to program into the device. A stream's must not be told to the device before
    /// `carveout_sync_single_for_device`.
    pub(crate) addr: u32,
}
