//! Streams: buffers that belong to the CPU and to the device in turns.

use crate::addr::BusAddr;
use crate::dma::buffer::direction::{
    Cpu, DataDirection, Device, Direction, DirectionError, Owner, TypedDirection, Yes,
};
use crate::dma::buffer::raw::Raw;
use crate::dma::handle::{BufferState, Handle, HandleError};
use crate::dma::registry::Dma;
use crate::heap::turned;
use crate::machine::Machine;
use crate::protocol::{Knowledge, Op, Span, Transition, When};
use crate::vm::mapped::Mapped;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A buffer that goes back and forth. It is mapped write-back while it is the CPU's, and unmapped while it is the
/// device's.
///
/// Its direction `D` is a type, or [`DataDirection`], a value. Its owner `O` is [`Cpu`] or [`Device`].
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
    pub(super) direction: D,
    pub(super) owner: PhantomData<O>,
}

impl<M: Machine, D: Direction, O> Stream<M, D, O> {
    /// Returns the direction as a value.
    pub fn direction(&self) -> DataDirection {
        self.direction.value()
    }

    /// Makes the direction a value.
    pub fn untyped(self) -> Stream<M, DataDirection, O> {
        let direction = self.direction();
        Stream { raw: self.raw, direction, owner: PhantomData }
    }

    /// Makes the direction a type.
    ///
    /// # Errors
    ///
    /// [`DirectionError::Other`] and the stream itself if it has another direction.
    pub fn typed<T: TypedDirection>(self) -> Result<Stream<M, T, O>, (DirectionError, Self)> {
        match T::of(self.direction()) {
            Ok(direction) => Ok(Stream { raw: self.raw, direction, owner: PhantomData }),
            Err(error) => Err((error, self)),
        }
    }
}

impl<M: Machine, D: Direction, O: Owner> Stream<M, D, O> {
    const STATE: BufferState = if O::IS_DEVICE { BufferState::DeviceStream } else { BufferState::CpuStream };

    /// Puts the stream away under its handle, as it is: a device that owns it goes on, and views of the CPU end.
    pub fn into_raw(self) -> Handle {
        let direction = self.direction();
        self.raw.put_away(Self::STATE, Some(direction))
    }

    /// Takes out a stream that was put away, of this owner and direction. [`DataDirection`] takes out any direction.
    ///
    /// # Errors
    ///
    /// [`HandleError`] if no stream is put away under this handle, or one of another owner or direction.
    #[expect(clippy::missing_panics_doc, reason = "streams are put away with their directions")]
    pub fn from_raw(dma: &'static Dma<M>, handle: Handle) -> Result<Self, HandleError> {
        let accept = |has: Option<DataDirection>| D::of(has.expect("a stream has a direction"));
        let (raw, direction) = Raw::take_out(dma, handle, Self::STATE, accept)?;
        Ok(Self { raw, direction, owner: PhantomData })
    }
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
    ///
    /// If the lines to maintain are many times those of whole caches ([`FLUSH_FROM`](crate::protocol::FLUSH_FROM)), and
    /// the machine can, whole caches are emptied after the unmap instead. Then the CPU's next look finds no stale line,
    /// and costs none.
    pub fn for_device(self) -> Stream<M, D, Device> {
        if self.raw.dma.empties_caches_for(self.bytes_due()) {
            self.expect_flush();
        }
        self.raw.run(Transition::ForDevice);
        self.granted()
    }

    /// Returns the bytes whose lines would be maintained one by one: now, and at the CPU's next look.
    fn bytes_due(&self) -> u64 {
        self.raw.knows.get().bytes_due(if self.direction().device_writes() { self.raw.bytes } else { 0 })
    }

    /// Takes note that the hand-over will empty whole caches.
    fn expect_flush(&self) {
        self.raw.knows.set(Knowledge { many: true, ..self.raw.knows.get() });
    }

    /// Hands several over. For each run of buffers of one machine one barrier is passed, if it is due for any of them,
    /// and whole caches are emptied once, if all of them have so many lines.
    pub(in crate::dma) fn all_for_device(streams: Vec<Self>) -> Vec<Stream<M, D, Device>> {
        let due = streams.iter().map(Self::bytes_due).sum();
        for stream in &streams {
            if stream.raw.dma.empties_caches_for(due) {
                stream.expect_flush();
            }
            stream.raw.run(Transition::ForDevice);
        }
        // The machines that passed a barrier last, and that emptied its caches last, after all were cleaned and
        // unmapped.
        let (mut ordered, mut emptied) = (None::<&'static M>, None::<&'static M>);
        turned(streams, |stream| {
            let machine = stream.raw.dma.machine;
            if emptied.is_some_and(|emptied| ptr::eq(emptied, machine)) {
                stream.raw.knows.set(stream.raw.knows.get().after(Op::Flush));
            } else if stream.raw.knows.get().due(When::ManyLines) {
                emptied = Some(machine);
            }
            if ordered.is_some_and(|ordered| ptr::eq(ordered, machine)) {
                stream.raw.knows.set(stream.raw.knows.get().after(Op::DeviceBarrier));
            } else if stream.raw.knows.get().due(When::Unordered) {
                ordered = Some(machine);
            }
            stream.granted()
        })
    }

    /// Returns a span of the bytes, which is inside, for the CPU to write.
    fn written(&mut self, span: Span) -> &mut [u8] {
        let bytes = self.raw.open_mut(span).wrapping_add(span.start as usize);
        // SAFETY: as in `bytes`; and `self` is borrowed mutably, so this is the only view. The span is inside.
        unsafe { core::slice::from_raw_parts_mut(bytes, (span.end - span.start) as usize) }
    }

    /// Ends the hand-over. From here on the buffer is the device's.
    fn granted(self) -> Stream<M, D, Device> {
        self.raw.run(Transition::Grant);
        self.raw.exposed.set(true);
        Stream { raw: self.raw, direction: self.direction, owner: PhantomData }
    }

    /// Returns the address at which the device will find the buffer once it is handed over, for a descriptor that is
    /// written before. It is what [`bus`](Stream::bus) returns then. The device must not be told of it before
    /// [`for_device`](Self::for_device), and not at all if the stream ends otherwise: no type looks after that (I4).
    pub fn future_bus(&self) -> BusAddr {
        self.raw.bus
    }
}

impl<M: Machine> Stream<M, DataDirection, Cpu> {
    /// Maps the stream and hands out its mapping, through which the blocks of a pool go back and forth. The device
    /// finds the zeros in memory. Nothing but [`end_blocks`](Self::end_blocks) may be done with the stream meanwhile.
    pub(in crate::dma) fn open_for_blocks(&self) -> Mapped {
        self.raw.run(Transition::Look);
        self.raw.run(Transition::GiveBlock);
        self.raw.mapped.take().expect("it was just mapped")
    }

    /// Takes back what [`open_for_blocks`](Self::open_for_blocks) handed out. `lost`: a device may still use a block,
    /// so the drop quarantines the stream.
    pub(in crate::dma) fn end_blocks(&self, mapped: Mapped, lost: bool) {
        self.raw.mapped.set(Some(mapped));
        self.raw.exposed.set(lost);
    }

    /// Returns the bytes, writable, if the CPU writes in this direction.
    ///
    /// # Errors
    ///
    /// [`DirectionError::ReadOnly`] if it does not.
    pub fn try_bytes_mut(&mut self) -> Result<&mut [u8], DirectionError> {
        self.direction.check_writable()?;
        Ok(self.written(self.raw.asked()))
    }

    /// Returns a part of the bytes, writable, if the CPU writes in this direction, or `None` if it is not inside.
    ///
    /// # Errors
    ///
    /// [`DirectionError::ReadOnly`] if the CPU does not write.
    pub fn try_part_mut(&mut self, range: Range<usize>) -> Result<Option<&mut [u8]>, DirectionError> {
        self.direction.check_writable()?;
        let span = self.raw.inside(&range);
        Ok(span.map(|span| self.written(span)))
    }
}

impl<M: Machine, D: Direction<CpuWrites = Yes>> Stream<M, D, Cpu> {
    /// Returns the bytes, writable. The caches may hold dirty lines of them afterwards, and the hand-over cleans them
    /// all.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.written(self.raw.asked())
    }

    /// Returns a part of the bytes, writable, or `None` if it is not inside. The hand-over cleans only the lines of
    /// this part.
    pub fn part_mut(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        let span = self.raw.inside(&range)?;
        Some(self.written(span))
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
        Stream { raw: self.raw, direction: self.direction, owner: PhantomData }
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
        Stream { raw: self.raw, direction: self.direction, owner: PhantomData }
    }

    /// Makes the buffer the CPU's again. The device wrote at most `written` of it.
    fn take_back(&self, written: Span) {
        if self.direction().device_writes() {
            self.raw.knows.set(self.raw.knows.get().device_wrote(written));
        }
        self.raw.run(Transition::ForCpu);
        self.raw.exposed.set(false);
    }
}
