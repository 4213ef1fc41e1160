//! Buffers in no state, and the ways from there into each state and back.

use crate::dma::body::Body;
use crate::dma::buffer::coherent::Coherent;
use crate::dma::buffer::device_only::DeviceOnly;
use crate::dma::buffer::direction::{Cpu, DataDirection, Direction, TypedDirection};
use crate::dma::buffer::raw::Raw;
use crate::dma::buffer::stream::Stream;
use crate::dma::exec::Books;
use crate::dma::registry::Dma;
use crate::machine::Machine;
use crate::protocol::Transition;
use core::marker::PhantomData;

/// Contiguous frames of an area, in no state yet. Nobody can access them. Dropping it frees them.
pub struct Contiguous<M: Machine + 'static> {
    pub(super) raw: Raw<M>,
}

impl<M: Machine> Contiguous<M> {
    /// Makes a buffer of a body that has its frames.
    #[inline]
    pub(in crate::dma) const fn new(dma: &'static Dma<M>, body: &'static mut Body) -> Self {
        Self { raw: Raw { dma, body: Some(body) } }
    }

    /// Zeroes the buffer and maps it non-cacheable, for CPU and device to share.
    ///
    /// Here and in the other states, lines that former owners left are dropped first. If they are many times those of
    /// whole caches ([`FLUSH_FROM`](crate::protocol::FLUSH_FROM)), and the machine can, whole caches are emptied
    /// instead.
    pub fn into_coherent(self) -> Coherent<M> {
        let mut books = self.raw.books();
        self.coherent_in(&mut books)
    }

    /// Makes it coherent, in the turn of the lock that the books have.
    #[inline]
    pub(in crate::dma) fn coherent_in(self, books: &mut Books<'static, M>) -> Coherent<M> {
        self.raw.weigh(books);
        self.raw.run_in(books, Transition::IntoCoherent);
        Coherent { raw: self.raw }
    }

    /// Zeroes the buffer and makes it a stream, which is the CPU's at first. It is mapped when the CPU first looks at
    /// it.
    pub fn into_stream<D: TypedDirection>(self) -> Stream<M, D, Cpu> {
        let mut books = self.raw.books();
        self.stream_in(&mut books, D::default())
    }

    /// Zeroes the buffer and makes it a stream, as [`into_stream`](Self::into_stream) does, whose direction is a value.
    pub fn into_stream_of(self, direction: DataDirection) -> Stream<M, DataDirection, Cpu> {
        let mut books = self.raw.books();
        self.stream_in(&mut books, direction)
    }

    /// Makes it a stream, in the turn of the lock that the books have.
    #[inline]
    pub(in crate::dma) fn stream_in<D: Direction>(
        self,
        books: &mut Books<'static, M>,
        direction: D,
    ) -> Stream<M, D, Cpu> {
        self.raw.weigh(books);
        self.raw.run_in(books, Transition::IntoStream);
        Stream { raw: self.raw, direction, owner: PhantomData }
    }

    /// Zeroes the buffer and gives it to devices for good. It is never mapped for the CPU.
    pub fn into_device(self) -> DeviceOnly<M> {
        let mut books = self.raw.books();
        self.device_in(&mut books)
    }

    /// Gives it to devices, in the turn of the lock that the books have.
    #[inline]
    pub(in crate::dma) fn device_in(self, books: &mut Books<'static, M>) -> DeviceOnly<M> {
        self.raw.weigh(books);
        self.raw.run_in(books, Transition::IntoDevice);
        DeviceOnly { raw: self.raw }
    }
}

impl<M: Machine> Coherent<M> {
    /// Makes a buffer of a body whose mapping waited for it.
    #[inline]
    pub(in crate::dma) const fn new(dma: &'static Dma<M>, body: &'static mut Body) -> Self {
        Self { raw: Raw { dma, body: Some(body) } }
    }

    /// Takes the buffer back from the device.
    ///
    /// # Safety
    ///
    /// I4: the device will not access the buffer any more, and forgot its address.
    pub unsafe fn release(self) -> Contiguous<M> {
        self.raw.run(Transition::IntoContiguous);
        self.raw.exposed.set(false);
        Contiguous { raw: self.raw }
    }

    /// Takes the buffer back from the device and frees it, in one turn of the lock.
    ///
    /// # Safety
    ///
    /// As [`release`](Self::release).
    pub unsafe fn give_up(self) {
        // The drop frees it.
        self.raw.exposed.set(false);
    }
}

impl<M: Machine, D: Direction> Stream<M, D, Cpu> {
    /// Gives up the stream for another state, in which the bytes are zeros. Owning the stream proves that no device has
    /// it.
    pub fn into_contiguous(self) -> Contiguous<M> {
        self.raw.run(Transition::IntoContiguous);
        Contiguous { raw: self.raw }
    }
}

impl<M: Machine> DeviceOnly<M> {
    /// Takes the buffer back from its devices.
    ///
    /// # Safety
    ///
    /// I4: no device will access the buffer any more.
    pub unsafe fn release(self) -> Contiguous<M> {
        self.raw.run(Transition::IntoContiguous);
        self.raw.exposed.set(false);
        Contiguous { raw: self.raw }
    }

    /// Takes the buffer back from its devices and frees it, in one turn of the lock.
    ///
    /// # Safety
    ///
    /// As [`release`](Self::release).
    pub unsafe fn give_up(self) {
        // The drop frees it.
        self.raw.exposed.set(false);
    }
}
