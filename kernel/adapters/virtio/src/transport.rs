//! The transport around a transport: it orders memory before the device is told, and sees the device stop.
//!
//! Guarantees:
//!
//! - A device is notified only after rings and requests are in memory. virtio-drivers leaves it at a DMB, which does
//!   not order writes to Normal memory with one to a device's register (ARM ARM A3.8.3; Linux's `writel` has the
//!   barrier in it), and does not reach the buffers of an outer controller.
//! - A device counts as stopped only after 0 was written to its status and read back. A device that was reset has
//!   forgotten its queues and the requests in them (virtio 1.1, 2.1 and 4.2.2).
//! - A request has no indirect descriptors (virtio 1.1, 2.6.5.3). A table of them would lie in the driver's memory and
//!   be bounced; descriptors of a ring are coherent as they stand.

use crate::hal::Provider;
use core::fmt;
use core::marker::PhantomData;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// How many times the status is read after a reset. A device that does not say by then that it was reset keeps its
/// rings: they go into quarantine.
pub const RESET_POLLS: u32 = 1_000_000;

/// The feature bit of indirect descriptors (virtio 1.1, 6).
const INDIRECT: u64 = 1 << 28;

/// A transport of the device whose memory `P` names.
pub struct Guarded<P, T> {
    inner: T,
    provider: PhantomData<fn() -> P>,
}

impl<P: Provider, T: Transport> Guarded<P, T> {
    /// Puts the guard around a transport.
    pub const fn new(inner: T) -> Self {
        Self { inner, provider: PhantomData }
    }

    /// Resets the device, and returns whether it says that it was reset.
    fn reset(&mut self) -> bool {
        self.inner.set_status(DeviceStatus::empty());
        let stopped = (0..RESET_POLLS).any(|_| self.inner.get_status().is_empty());
        if stopped {
            P::memory().device_stopped();
        }
        stopped
    }
}

impl<P: Provider, T: Transport> Transport for Guarded<P, T> {
    fn notify(&mut self, queue: u16) {
        P::memory().device_barrier();
        self.inner.notify(queue);
    }

    fn read_device_features(&mut self) -> u64 {
        self.inner.read_device_features() & !INDIRECT
    }

    fn set_status(&mut self, status: DeviceStatus) {
        if status.is_empty() {
            self.reset();
        } else {
            self.inner.set_status(status);
        }
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        P::memory().device_starts();
        P::memory().device_barrier();
        self.inner.queue_set(queue, size, descriptors, driver_area, device_area);
    }

    /// Takes a queue out of use: the last call of a driver for it, before it frees the rings. This resets the device. A
    /// device that was not reset is asked no more: it might never say that the queue is out of use.
    fn queue_unset(&mut self, queue: u16) {
        if self.reset() {
            self.inner.queue_unset(queue);
        }
    }

    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.inner.write_driver_features(driver_features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.inner.max_queue_size(queue)
    }

    fn get_status(&self) -> DeviceStatus {
        self.inner.get_status()
    }

    fn set_guest_page_size(&mut self, guest_page_size: u32) {
        self.inner.set_guest_page_size(guest_page_size);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.inner.requires_legacy_layout()
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.inner.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.inner.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.inner.read_config_generation()
    }

    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> Result<V> {
        self.inner.read_config_space(offset)
    }

    fn write_config_space<V: IntoBytes + Immutable>(&mut self, offset: usize, value: V) -> Result<()> {
        self.inner.write_config_space(offset, value)
    }
}

impl<P, T> fmt::Debug for Guarded<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").finish_non_exhaustive()
    }
}
