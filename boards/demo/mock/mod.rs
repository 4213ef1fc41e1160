//! Mock multimedia devices: a JPEG codec, a scaler and a camera, as an SoC would have them.
//!
//! Guarantees: a driver and its device share a register file and nothing else. The driver's side never sees a byte of a
//! picture. The device's side knows memory only by bus address and length, and reaches it only through a [`BusMaster`].
//! It reports an access that it was not granted as a bus error, as hardware does. `run` may be called at any moment. It
//! does at most one job, and asks for the interrupt at most once.
//!
//! "Stopped" means, for a device that does one job at a time, that `STATUS.BUSY` reads 0. The device clears this bit
//! last, after its accesses, and only the driver sets it. The camera has finished with a buffer when the slot's `STATE`
//! reads `Done`. There is no other way to stop these devices. If a driver gives up a job, the job and its memory stay
//! the device's (I4).
//!
//! Each device has three types. `Registers` is the register file, which contexts may share. `Driver` is the CPU's end,
//! with typed accesses to registers. `Hardware` is the block: a call of its `run` stands for time that passes on real
//! hardware. A register file is for one driver and one device.

pub mod camera;
pub mod codec;
#[cfg(test)]
#[path = "../../../tests/picture/src/encoder.rs"]
mod encoder;
mod jpeg;
pub mod scaler;

use core::{
    fmt,
    marker::PhantomData,
    sync::atomic::{AtomicU32, Ordering},
};

use carveout::addr::BusAddr;
use tock_registers::{
    RegisterLongName,
    interfaces::{ReadWriteable, Readable, Writeable},
    register_bitfields,
};

/// Memory as a bus master names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// The first byte.
    pub at: BusAddr,
    /// Bytes.
    pub len: u32,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {}", self.len, self.at)
    }
}

/// Why the bus refused a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BusFault {
    /// A byte of the window is not in a buffer that this master owns in this direction.
    NotGranted,
    /// The window extends past the end of the bus's address space.
    PastTheEnd,
    /// Source and destination share bytes.
    Overlap,
}

/// A transfer that the bus refused. No byte of it was moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusError {
    /// What was asked for.
    pub window: Window,
    /// Why the bus refused it.
    pub reason: BusFault,
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.reason {
            BusFault::NotGranted => "not granted to this bus master",
            BusFault::PastTheEnd => "past the end of the bus's addresses",
            BusFault::Overlap => "shared by source and destination",
        };
        write!(f, "{}: {reason}", self.window)
    }
}

impl core::error::Error for BusError {}

/// A device's port to memory. It refuses a window that is not wholly granted to this master, and then does not run the
/// closure.
pub trait BusMaster {
    /// Runs `f` on the bytes of a window that the device reads.
    ///
    /// # Errors
    ///
    /// [`BusError`] with [`BusFault::NotGranted`] if a byte of the window is not this master's, or with
    /// [`BusFault::PastTheEnd`] if the window leaves the bus's address space.
    fn read<R>(&mut self, from: Window, f: impl FnOnce(&[u8]) -> R) -> Result<R, BusError>;

    /// Runs `f` on the bytes of a window that the device writes.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    fn write<R>(&mut self, to: Window, f: impl FnOnce(&mut [u8]) -> R) -> Result<R, BusError>;

    /// Runs `f` on a window that the device reads and another that it writes.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read), and [`BusFault::Overlap`] if the two windows share a byte.
    fn read_write<R>(&mut self, from: Window, to: Window, f: impl FnOnce(&[u8], &mut [u8]) -> R)
    -> Result<R, BusError>;
}

/// The device is still at work. The requested job was not started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device is busy")
    }
}

register_bitfields! [u32,
    /// The STATUS register of a device that does one job after the other.
    STATUS [
        /// The driver sets this bit to start the job that the other registers describe. The device clears it at the
        /// job's end.
        BUSY OFFSET(0) NUMBITS(1) [],
        /// The device sets this bit at a job's end. The driver clears it. It is the interrupt's level.
        DONE OFFSET(1) NUMBITS(1) [],
        /// With DONE: 0 for success, or the device's error code.
        ERROR OFFSET(8) NUMBITS(8) []
    ],
];

/// One 32-bit register of a mock device. Accesses are ordered like those to device memory: whoever reads the value that
/// was written here also sees all earlier writes.
struct Register<R: RegisterLongName = ()> {
    bits: AtomicU32,
    layout: PhantomData<fn() -> R>,
}

impl<R: RegisterLongName> Register<R> {
    const fn new() -> Self {
        Self { bits: AtomicU32::new(0), layout: PhantomData }
    }
}

impl<R: RegisterLongName> Readable for Register<R> {
    type T = u32;
    type R = R;

    fn get(&self) -> u32 {
        self.bits.load(Ordering::Acquire)
    }
}

impl<R: RegisterLongName> Writeable for Register<R> {
    type T = u32;
    type R = R;

    fn set(&self, value: u32) {
        self.bits.store(value, Ordering::Release);
    }
}

/// The registers that every job-at-a-time device has.
struct Job {
    status: Register<STATUS::Register>,
    source_at: Register,
    source_len: Register,
    destination_at: Register,
    destination_len: Register,
    /// With an error: a number that describes it, such as the faulting bus address.
    detail: Register,
}

impl Job {
    const fn new() -> Self {
        Self {
            status: Register::new(),
            source_at: Register::new(),
            source_len: Register::new(),
            destination_at: Register::new(),
            destination_len: Register::new(),
            detail: Register::new(),
        }
    }

    /// Returns `Ok` if the driver may describe a job now. A result that was not taken counts as a job.
    fn idle(&self) -> Result<(), Busy> {
        if self.status.any_matching_bits_set(STATUS::BUSY::SET + STATUS::DONE::SET) { Err(Busy) } else { Ok(()) }
    }

    /// Returns whether the device is idle. An idle device accesses no memory. The driver calls this.
    fn is_stopped(&self) -> bool {
        !self.status.is_set(STATUS::BUSY)
    }

    fn set_source(&self, window: Window) {
        self.source_at.set(window.at.raw());
        self.source_len.set(window.len);
    }

    fn set_destination(&self, window: Window) {
        self.destination_at.set(window.at.raw());
        self.destination_len.set(window.len);
    }

    fn source(&self) -> Window {
        Window { at: BusAddr::new(self.source_at.get()), len: self.source_len.get() }
    }

    fn destination(&self) -> Window {
        Window { at: BusAddr::new(self.destination_at.get()), len: self.destination_len.get() }
    }

    /// Starts the job. The driver calls it last, after it wrote the other registers.
    fn start(&self) {
        self.status.write(STATUS::BUSY::SET);
    }

    /// Returns whether the driver has started a job. The device calls this.
    fn started(&self) -> bool {
        self.status.is_set(STATUS::BUSY)
    }

    /// Ends the job. The device calls it last, after it wrote the other registers. An `error` of 0 is success.
    fn complete(&self, error: u8, detail: u32) {
        self.detail.set(detail);
        self.status.write(STATUS::DONE::SET + STATUS::ERROR.val(error.into()));
    }

    /// Takes the result, `(error, detail)`, for the driver, and clears the interrupt's line.
    fn take(&self) -> Option<(u8, u32)> {
        let status = self.status.extract();
        if !status.is_set(STATUS::DONE) {
            return None;
        }
        let detail = self.detail.get();
        self.status.modify(STATUS::DONE::CLEAR);
        Some((status.read(STATUS::ERROR) as u8, detail))
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A bus for the host's tests. It is as strict as [`BusMaster`] requires.

    use std::vec::Vec;

    use super::*;

    /// The transfers that a buffer is granted for.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) enum Grant {
        Read,
        Write,
    }

    /// Memory in pieces, each granted for one direction. There is no memory between the pieces.
    #[derive(Default)]
    pub(crate) struct Bus {
        buffers: Vec<(Window, Grant, Vec<u8>)>,
        pub(crate) transfers: u32,
    }

    impl Bus {
        pub(crate) fn grant(&mut self, at: u32, grant: Grant, bytes: &[u8]) -> Window {
            let window = Window { at: BusAddr::new(at), len: bytes.len() as u32 };
            self.buffers.push((window, grant, bytes.to_vec()));
            window
        }

        pub(crate) fn bytes(&self, window: Window) -> &[u8] {
            &self.buffers.iter().find(|b| b.0.at == window.at).unwrap().2
        }

        fn find(&mut self, window: Window, grant: Grant) -> Result<&mut [u8], BusError> {
            let refuse = |reason| BusError { window, reason };
            window.at.checked_add(window.len).ok_or(refuse(BusFault::PastTheEnd))?;
            for (have, granted, bytes) in &mut self.buffers {
                let offset = window.at.raw().wrapping_sub(have.at.raw());
                if *granted == grant && offset < have.len && window.len <= have.len - offset {
                    return Ok(&mut bytes[offset as usize..][..window.len as usize]);
                }
            }
            Err(refuse(BusFault::NotGranted))
        }
    }

    impl BusMaster for Bus {
        fn read<R>(&mut self, from: Window, f: impl FnOnce(&[u8]) -> R) -> Result<R, BusError> {
            let result = f(self.find(from, Grant::Read)?);
            self.transfers += 1;
            Ok(result)
        }

        fn write<R>(&mut self, to: Window, f: impl FnOnce(&mut [u8]) -> R) -> Result<R, BusError> {
            let result = f(self.find(to, Grant::Write)?);
            self.transfers += 1;
            Ok(result)
        }

        fn read_write<R>(
            &mut self,
            from: Window,
            to: Window,
            f: impl FnOnce(&[u8], &mut [u8]) -> R,
        ) -> Result<R, BusError> {
            let source = self.find(from, Grant::Read)?.to_vec();
            let result = f(&source, self.find(to, Grant::Write)?);
            self.transfers += 1;
            Ok(result)
        }
    }

    #[test]
    fn the_bus_refuses_what_it_did_not_grant() {
        let mut bus = Bus::default();
        let window = bus.grant(0x1000, Grant::Read, &[7; 16]);
        assert_eq!(bus.read(window, <[u8]>::len), Ok(16));
        let longer = Window { len: 17, ..window };
        let error = bus.read(longer, |_| ()).unwrap_err();
        assert_eq!(std::format!("{error}"), "17 bytes at 0x00001000: not granted to this bus master");
        assert_eq!(bus.write(window, |_| ()).unwrap_err().reason, BusFault::NotGranted);
        let wrapping = Window { at: BusAddr::new(0xffff_fff0), len: 0x20 };
        assert_eq!(bus.read(wrapping, |_| ()).unwrap_err().reason, BusFault::PastTheEnd);
    }
}
