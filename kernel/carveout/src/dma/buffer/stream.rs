//! Streams: buffers that belong to the CPU and to the device in turns.

use crate::addr::BusAddr;
use crate::dma::buffer::direction::{Cpu, Device, Direction, Yes};
use crate::dma::buffer::raw::Raw;
use crate::heap::turned;
use crate::machine::Machine;
use crate::protocol::{Op, Span, Transition, When};
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A buffer that goes back and forth. It is mapped write-back while it is the CPU's, and unmapped while it is the
/// device's.
///
/// ```
/// use carveout::dma::ToDevice;
/// # use carveout::{addr::PhysAddr, setup::Setup};
/// # let setup = Setup::new(1);
/// # let dsp = setup.master("dsp");
///
/// let mut samples = setup.dma.alloc(&dsp, 4096, 1)?.into_stream::<ToDevice>();
/// samples.bytes_mut()[..4].copy_from_slice(b"tone");
/// let samples = samples.for_device(); // cleans the lines, unmaps the buffer
/// assert_eq!(setup.fake.device_read(PhysAddr::new(samples.bus().raw()), 4), b"tone");
///
/// // SAFETY: the device said that it is done (I4).
/// let samples = unsafe { samples.for_cpu() };
/// # drop(samples);
/// # Ok::<(), carveout::dma::AllocError>(())
/// ```
pub struct Stream<M: Machine + 'static, D: Direction, O> {
    pub(super) raw: Raw<M>,
    pub(super) state: PhantomData<(D, O)>,
}

impl<M: Machine, D: Direction> Stream<M, D, Cpu> {
    /// Returns the bytes, read-only. The caches may hold clean lines of them afterwards.
    pub fn bytes(&self) -> &[u8] {
        let bytes = self.raw.open();
        // SAFETY: the buffer is mapped write-back for its whole length and stays so while `self` is borrowed, for
        // every transition takes it by value; no device accesses it (what `Stream<_, Cpu>` proves, I4); zeroed (I5).
        unsafe { core::slice::from_raw_parts(bytes, self.len()) }
    }

    /// Returns the bytes as values of plain old data, as many as fit, read-only.
    ///
    /// The buffer starts on a page, so any `T` of alignment up to 4 KiB is aligned.
    pub fn values<T: FromBytes + Immutable>(&self) -> &[T] {
        let count = self.len().checked_div(size_of::<T>()).unwrap_or(0);
        <[T]>::ref_from_prefix_with_elems(self.bytes(), count).map_or(&[], |(values, _)| values)
    }

    /// Hands the buffer to the device. This cleans what the CPU may have written, and unmaps.
    ///
    /// After this, the device reads what the CPU wrote, and no line is evicted over what the device writes.
    pub fn for_device(self) -> Stream<M, D, Device> {
        self.raw.run(Transition::ForDevice);
        self.granted()
    }

    /// Hands several over, with one barrier for each run of buffers of one machine, if it is due for any of them.
    pub(in crate::dma) fn all_for_device(streams: Vec<Self>) -> Vec<Stream<M, D, Device>> {
        for stream in &streams {
            stream.raw.run(Transition::ForDevice);
        }
        // The machine that passed a barrier last, after all were cleaned.
        let mut ordered: Option<&'static M> = None;
        turned(streams, |stream| {
            let machine = stream.raw.dma.machine;
            if ordered.is_some_and(|ordered| ptr::eq(ordered, machine)) {
                stream.raw.knows.set(stream.raw.knows.get().after(Op::DeviceBarrier));
            } else if stream.raw.knows.get().due(When::Unordered) {
                ordered = Some(machine);
            }
            stream.granted()
        })
    }

    /// Ends the hand-over. From here on the buffer is the device's.
    fn granted(self) -> Stream<M, D, Device> {
        self.raw.run(Transition::Grant);
        self.raw.exposed.set(true);
        Stream { raw: self.raw, state: PhantomData }
    }
}

impl<M: Machine, D: Direction<CpuWrites = Yes>> Stream<M, D, Cpu> {
    /// Returns the bytes, writable. The caches may hold dirty lines of them afterwards, and the hand-over cleans them
    /// all.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = self.raw.open_mut(self.raw.asked());
        // SAFETY: as in `bytes`; and `self` is borrowed mutably, so this is the only view.
        unsafe { core::slice::from_raw_parts_mut(bytes, self.len()) }
    }

    /// Returns a part of the bytes, writable, or `None` if it is not inside. The hand-over cleans only the lines of
    /// this part.
    pub fn part_mut(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        let span = self.raw.inside(&range)?;
        let bytes = self.raw.open_mut(span).wrapping_add(range.start);
        // SAFETY: as in `bytes_mut`; the range is inside.
        Some(unsafe { core::slice::from_raw_parts_mut(bytes, range.len()) })
    }

    /// Returns the bytes as values of plain old data, as many as fit, writable.
    pub fn values_mut<T: FromBytes + IntoBytes + Immutable + KnownLayout>(&mut self) -> &mut [T] {
        let count = self.len().checked_div(size_of::<T>()).unwrap_or(0);
        <[T]>::mut_from_prefix_with_elems(self.bytes_mut(), count).map_or(&mut [], |(values, _)| values)
    }
}

impl<M: Machine, D: Direction> Stream<M, D, Device> {
    /// Returns the address to program into the device.
    pub fn bus(&self) -> BusAddr {
        self.raw.bus
    }

    /// Takes the buffer back for the CPU. This costs nothing yet: it is mapped and invalidated at the CPU's first look.
    ///
    /// # Safety
    ///
    /// I4: the device has finished with the buffer. It said so in a register, or in memory that was read before this
    /// call. It will not access the buffer until it is handed over again.
    pub unsafe fn for_cpu(self) -> Stream<M, D, Cpu> {
        self.take_back(self.raw.asked());
        Stream { raw: self.raw, state: PhantomData }
    }

    /// Takes several back for the CPU.
    ///
    /// # Safety
    ///
    /// As [`for_cpu`](Self::for_cpu), of each.
    pub(in crate::dma) unsafe fn all_for_cpu(streams: Vec<Self>) -> Vec<Stream<M, D, Cpu>> {
        // SAFETY: the device has finished with each (I4), as this function demands.
        turned(streams, |stream| unsafe { stream.for_cpu() })
    }

    /// Takes the buffer back for the CPU from a device that wrote only `written` of the bytes, such as a packet that
    /// filled part of its buffer. Lines elsewhere still equal memory, and the invalidate leaves them alone. A range
    /// that is not inside counts as all.
    ///
    /// # Safety
    ///
    /// As [`for_cpu`](Self::for_cpu), and the device wrote nothing outside the range.
    pub unsafe fn for_cpu_part(self, written: Range<usize>) -> Stream<M, D, Cpu> {
        let span = self.raw.inside(&written).unwrap_or_else(|| self.raw.asked());
        self.take_back(span);
        Stream { raw: self.raw, state: PhantomData }
    }

    /// Makes the buffer the CPU's again. The device wrote at most `written` of it.
    fn take_back(&self, written: Span) {
        if D::DEVICE_WRITES {
            self.raw.knows.set(self.raw.knows.get().device_wrote(written));
        }
        self.raw.run(Transition::ForCpu);
        self.raw.exposed.set(false);
    }
}
