//! Scatter-gather: several streams handed over as one; Linux's `dma_map_sg` and `sg_table`.
//!
//! Guarantees: all buffers of a [`ScatterTable`] are the CPU's or all are the device's. Each hand-over does the least
//! maintenance for each buffer, as [`Stream`] does. It passes at most one device barrier for all buffers of a machine.
//! The [`Segment`]s of all of them are as few as [`segment`](super::segment) makes them. While the device owns the
//! buffers no mapping exists (I4). A hand-over takes nothing from the heap.
//!
//! ```compile_fail,E0599
//! use carveout::{dma::{Device, FromDevice, ScatterTable}, machine::Machine};
//! fn read_while_the_device_owns_it<M: Machine>(table: ScatterTable<M, FromDevice, Device>) {
//!     let _ = table.views();
//! }
//! ```
//!
//! ```compile_fail,E0599
//! use carveout::{dma::{Cpu, Master, ScatterTable, ToDevice}, machine::Machine};
//! fn tell_the_device_before_the_hand_over<M: Machine>(table: ScatterTable<M, ToDevice, Cpu>, master: &Master) {
//!     let _ = table.segments(master);
//! }
//! ```
//!
//! ```compile_fail,E0599
//! use carveout::{dma::{Cpu, FromDevice, ScatterTable}, machine::Machine};
//! fn write_what_only_the_device_writes<M: Machine>(mut table: ScatterTable<M, FromDevice, Cpu>) {
//!     let _ = table.views_mut();
//! }
//! ```
//!
//! ```compile_fail,E0505
//! use carveout::{dma::{Cpu, ScatterTable, ToDevice}, machine::Machine};
//! fn keep_a_view_across_the_hand_over<M: Machine>(table: ScatterTable<M, ToDevice, Cpu>) -> usize {
//!     let views = table.views();
//!     let _device = table.for_device();
//!     views.count()
//! }
//! ```

use crate::dma::buffer::{Cpu, Device, Direction, Effort, Stream, Yes};
use crate::dma::master::Master;
use crate::dma::segment::{ScatterError, Segment, runs, segments};
use crate::machine::Machine;
use alloc::vec::Vec;

/// Buffers of one direction with one owner, in the order of the transfer.
///
/// Dropping it drops its streams: those that a device owns are quarantined.
#[derive(Debug)]
pub struct ScatterTable<M: Machine + 'static, D: Direction, O> {
    streams: Vec<Stream<M, D, O>>,
}

impl<M: Machine, D: Direction, O> ScatterTable<M, D, O> {
    /// Returns the bytes that were asked for, of all buffers.
    pub fn bytes(&self) -> u64 {
        self.streams.iter().map(|stream| stream.len() as u64).sum()
    }

    /// Returns the effort that the buffers took so far.
    pub fn effort(&self) -> Effort {
        self.streams.iter().map(Stream::effort).fold(Effort::default(), core::ops::Add::add)
    }

    /// Takes the table apart, into its buffers.
    pub fn into_streams(self) -> Vec<Stream<M, D, O>> {
        self.streams
    }
}

impl<M: Machine, D: Direction> ScatterTable<M, D, Cpu> {
    /// Makes a table of these buffers, in this order.
    pub const fn new(streams: Vec<Stream<M, D, Cpu>>) -> Self {
        Self { streams }
    }

    /// Yields the bytes, read-only, buffer by buffer. A buffer is opened when the iterator comes to it. A buffer that
    /// it does not come to costs nothing.
    pub fn views(&self) -> impl Iterator<Item = &[u8]> {
        self.streams.iter().map(Stream::bytes)
    }

    /// Hands all buffers to the device (`dma_map_sg`, `dma_sync_sg_for_device`). This cleans those that the CPU may
    /// have written and unmaps those that are mapped. Then it passes one barrier for all, if one is due for any.
    pub fn for_device(self) -> ScatterTable<M, D, Device> {
        ScatterTable { streams: Stream::all_for_device(self.streams) }
    }
}

impl<M: Machine, D: Direction<CpuWrites = Yes>> ScatterTable<M, D, Cpu> {
    /// Yields the bytes, writable, buffer by buffer. Only buffers that the iterator comes to are cleaned at the
    /// hand-over.
    pub fn views_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.streams.iter_mut().map(Stream::bytes_mut)
    }
}

impl<M: Machine, D: Direction> ScatterTable<M, D, Device> {
    /// Yields what to program into the device, a segment at a time. `count()` of the iterator says how many entries the
    /// device's list needs. A segment begins where the one before ended, if that was full. So a device that wants
    /// aligned segments must have an aligned [`max_segment`](Master::max_segment).
    ///
    /// # Errors
    ///
    /// [`ScatterError::OutOfReach`] if `master` does not reach a byte of a buffer. All buffers are checked first, so
    /// that no driver programs half a list.
    pub fn segments(&self, master: &Master) -> Result<impl Iterator<Item = Segment>, ScatterError> {
        segments(master, move || {
            self.streams.iter().flat_map(move |stream| runs(master, stream.frames(), stream.len()))
        })
    }

    /// Takes all buffers back for the CPU (`dma_unmap_sg`, `dma_sync_sg_for_cpu`). This costs nothing yet: each buffer
    /// is mapped and invalidated at the CPU's first look at it.
    ///
    /// # Safety
    ///
    /// I4: the device has finished with every buffer. It said so in a register, or in memory that was read before this
    /// call. It will not access any of them until they are handed over again.
    pub unsafe fn for_cpu(self) -> ScatterTable<M, D, Cpu> {
        // SAFETY: the device has finished with every buffer (I4), as this function demands.
        ScatterTable { streams: unsafe { Stream::all_for_cpu(self.streams) } }
    }
}
