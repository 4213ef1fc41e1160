//! Buffers in no state, and the ways from there into each state and back.

use crate::dma::body::{Body, NO_LINES};
use crate::dma::buffer::coherent::Coherent;
use crate::dma::buffer::device_only::DeviceOnly;
use crate::dma::buffer::direction::{Cpu, Direction};
use crate::dma::buffer::raw::Raw;
use crate::dma::buffer::stream::Stream;
use crate::dma::master::Master;
use crate::dma::registry::{BufferSlot, Dma};
use crate::machine::Machine;
use crate::protocol::{Knowledge, Transition};
use crate::vm::ledger::Residue;
use core::marker::PhantomData;

/// Contiguous frames of an area, in no state yet. Nobody can access them. Dropping it frees them.
pub struct Contiguous<M: Machine + 'static> {
    pub(super) raw: Raw<M>,
}

impl<M: Machine> Contiguous<M> {
    /// Makes a buffer of a body that has its frames.
    pub(in crate::dma) fn new(
        dma: &'static Dma<M>,
        slot: BufferSlot,
        master: &Master,
        body: &'static mut Body,
        residue: Residue,
    ) -> Self {
        body.bus = master.bus(body.frames.base()).expect("frames within the reach it was allocated in");
        body.mapped.set(None);
        body.knows.set(Knowledge::new(residue));
        body.in_ledger.set(true);
        body.exposed.set(false);
        body.placed.set(false);
        body.cleaned.set(NO_LINES);
        body.invalidated.set(NO_LINES);
        body.transitions.set(0);
        body.map_changes.set(0);
        Self { raw: Raw { dma, slot, body: Some(body) } }
    }

    /// Zeroes the buffer and maps it non-cacheable, for CPU and device to share.
    pub fn into_coherent(self) -> Coherent<M> {
        self.raw.run(Transition::IntoCoherent);
        Coherent { raw: self.raw }
    }

    /// Zeroes the buffer and makes it a stream, which is the CPU's at first. It is mapped when the CPU first looks at
    /// it.
    pub fn into_stream<D: Direction>(self) -> Stream<M, D, Cpu> {
        self.raw.run(Transition::IntoStream);
        Stream { raw: self.raw, state: PhantomData }
    }

    /// Zeroes the buffer and gives it to devices for good. It is never mapped for the CPU.
    pub fn into_device(self) -> DeviceOnly<M> {
        self.raw.run(Transition::IntoDevice);
        if self.raw.placed.replace(false) {
            self.raw.dma.give_up_addresses(self.raw.slot);
        }
        DeviceOnly { raw: self.raw }
    }
}

impl<M: Machine> Coherent<M> {
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
}
