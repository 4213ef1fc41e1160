//! Copies from buffer to buffer by the board's DMA controller. The CPU sees none of the bytes.
//!
//! Guarantees: a copy is complete when [`Copier::copy`] returns `Ok`. The driver learns that from the controller's
//! interrupt. Buffers come back only after the registers that [`pl081`] names show that the controller has stopped. The
//! controller's list is one coherent page in its reach. The buffers and the list of a controller that does not stop go
//! into quarantine.

pub mod pl081;

use super::wait::{Failed, Wait, until};
use alloc::vec::Vec;
use carveout::addr::FRAME_SIZE;
use carveout::dma::{
    AllocError, Coherent, Device, DeviceOnly, Dma, Master, ScatterError, ScatterTable, Segment, TypedDirection,
};
use carveout::machine::Machine;
use core::fmt;
use pl081::{BusError, ITEM_BYTES, ListError, MAX_SEGMENT, Pl081, Transfer, transfers};

/// The most items of a list: they fill a page.
const ITEMS: usize = FRAME_SIZE as usize / ITEM_BYTES;
/// The microseconds that a list of at most 4 MiB may take.
const PATIENCE: u64 = 2_000_000;
/// The microseconds that the controller may take to stop. It only has to end a burst on the bus.
const STOP: u64 = 10_000;

/// Why a copy failed. Some bytes may have been copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyError {
    /// The area has no room for the list.
    NoRoom(AllocError),
    /// The controller does not reach a buffer.
    Reach(ScatterError),
    /// The controller cannot do this copy.
    List(ListError),
    /// A transfer failed.
    Bus(BusError),
    /// The copy did not end in time, with or without an interrupt. The controller was stopped.
    Silent,
    /// The controller does not stop.
    Hung,
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom(error) => error.fmt(f),
            Self::Reach(error) => error.fmt(f),
            Self::List(error) => error.fmt(f),
            Self::Bus(error) => error.fmt(f),
            Self::Silent => f.write_str("the copy did not end"),
            Self::Hung => f.write_str("the controller does not stop; reset the board"),
        }
    }
}

impl core::error::Error for CopyError {}

/// Memory that a device may access, as source or destination of a copy.
///
/// # Safety
///
/// The bytes that `list` gives belong to the value's buffer or buffers. The device may access them while the value
/// lives (I4).
pub unsafe trait Granted {
    /// Lists its bytes for `master`.
    ///
    /// # Errors
    ///
    /// `master` does not reach all of them.
    fn list(&self, master: &Master) -> Result<Vec<Segment>, ScatterError>;

    /// Whether a device may write this memory. After a write to other memory, the CPU could read stale lines.
    const WRITABLE: bool;
}

// SAFETY: the segments are the buffer's, which no CPU code maps while this type has it.
unsafe impl<M: Machine> Granted for DeviceOnly<M> {
    fn list(&self, master: &Master) -> Result<Vec<Segment>, ScatterError> {
        Ok(self.segments(master)?.collect())
    }

    const WRITABLE: bool = true;
}

// SAFETY: the segments are the buffer's, which CPU and device share.
unsafe impl<M: Machine> Granted for Coherent<M> {
    fn list(&self, master: &Master) -> Result<Vec<Segment>, ScatterError> {
        Ok(self.segments(master)?.collect())
    }

    const WRITABLE: bool = true;
}

// SAFETY: the segments are the table's buffers', all of which the device owns.
unsafe impl<M: Machine, D: TypedDirection> Granted for ScatterTable<M, D, Device> {
    fn list(&self, master: &Master) -> Result<Vec<Segment>, ScatterError> {
        Ok(self.segments(master)?.collect())
    }

    const WRITABLE: bool = D::VALUE.device_writes();
}

/// The board's DMA controller.
pub struct Copier<M: Machine + 'static, W: Wait> {
    controller: Pl081,
    master: Master,
    wait: W,
    /// The list. It is `Some` until the copier is dropped.
    list: Option<Coherent<M>>,
}

impl<M: Machine, W: Wait> Copier<M, W> {
    /// Takes the controller over. `wait` is its interrupt, and `master` is the controller as a bus master. Its list
    /// comes from the area of `master`.
    ///
    /// # Errors
    ///
    /// [`CopyError::NoRoom`] if the area has no room for the list.
    #[expect(clippy::missing_panics_doc, reason = "the largest segment is more than a frame")]
    pub fn new(controller: Pl081, wait: W, master: Master, dma: &'static Dma<M>) -> Result<Self, CopyError> {
        let master = master.with_max_segment(MAX_SEGMENT).expect("more than a frame");
        let list = dma.alloc_coherent(&master, FRAME_SIZE, 1).map_err(CopyError::NoRoom)?;
        Ok(Self { controller, master, wait, list: Some(list) })
    }

    /// Returns the controller as a bus master. Segments are made for it.
    pub const fn master(&self) -> &Master {
        &self.master
    }

    /// Copies `from` to `to`, and returns both. The controller has finished with them. Both have the same total length.
    /// They may be buffers or tables of buffers.
    ///
    /// # Errors
    ///
    /// A [`CopyError`]. The controller has finished with buffers that come back with it. Otherwise they are in
    /// quarantine.
    pub fn copy<F: Granted, T: Granted>(&mut self, from: F, to: T) -> Result<(F, T), Failed<CopyError, (F, T)>> {
        const { assert!(T::WRITABLE, "the device writes where the copy goes") };
        let all = match self.prepare(&from, &to) {
            Ok(all) => all,
            // The controller was told of neither.
            Err(error) => return Err(Failed { error, given: Some((from, to)) }),
        };
        match all.chunks(ITEMS).try_for_each(|list| self.run(list)) {
            Ok(()) => Ok((from, to)),
            // Both are dropped while the device owns them, so they go into quarantine.
            Err(CopyError::Hung) => Err(Failed { error: CopyError::Hung, given: None }),
            Err(error) => Err(Failed { error, given: Some((from, to)) }),
        }
    }

    /// Returns the transfers of a copy. First stops the controller, because a boot loader may have left it running.
    fn prepare(&mut self, from: &impl Granted, to: &impl Granted) -> Result<Vec<Transfer>, CopyError> {
        let from = from.list(&self.master).map_err(CopyError::Reach)?;
        let to = to.list(&self.master).map_err(CopyError::Reach)?;
        let all = transfers(from.into_iter(), to.into_iter()).map_err(CopyError::List)?;
        self.stop()?;
        Ok(all)
    }

    /// Runs one list, from its first item to the moment when the controller has stopped.
    fn run(&mut self, list: &[Transfer]) -> Result<(), CopyError> {
        let Some(&first) = list.first() else { return Ok(()) };
        let page = self.list.as_mut().expect("there is a list until the copier is dropped");
        let at = page.bus();
        for (n, transfer) in list.iter().enumerate() {
            let item = transfer.item_in(at, n, list.len()).expect("a page of bus addresses");
            for (word, value) in item.into_iter().enumerate() {
                page.write_word(n * ITEM_BYTES + 4 * word, value.to_le());
            }
        }
        page.device_barrier();
        self.wait.listen();
        // SAFETY: `prepare`, or the run of the list before, saw the controller stop. Until it has stopped again, `copy`
        // owns the buffers and `self` owns the list. If it does not stop, both go into quarantine (I4).
        unsafe { self.controller.start(at, first, list.len()) };
        let (mut told, mut result) = (false, None);
        until(
            || self.wait.micros(),
            PATIENCE,
            || {
                told |= self.wait.told();
                if told {
                    result = self.controller.finish();
                }
                result.is_some()
            },
        );
        match result {
            Some(result) => result.map_err(CopyError::Bus),
            None => self.stop().and(Err(CopyError::Silent)),
        }
    }

    /// Stops the controller. After `Ok` the controller accesses no memory.
    fn stop(&mut self) -> Result<(), CopyError> {
        let stopped = until(|| self.wait.micros(), STOP, || self.controller.stop());
        if stopped { Ok(()) } else { Err(CopyError::Hung) }
    }
}

impl<M: Machine, W: Wait> Drop for Copier<M, W> {
    fn drop(&mut self) {
        // If the controller does not stop, the list is dropped while the device owns it, so it goes into quarantine.
        if self.stop().is_ok()
            && let Some(list) = self.list.take()
        {
            // SAFETY: `stop` saw the controller stop, so it reads no list (I4).
            unsafe { list.give_up() };
        } else {
            self.controller.keep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::pl081::Registers;
    use super::*;
    use crate::drivers::fake::{Block, Played, block};
    use carveout::addr::{BusAddr, PhysAddr};
    use carveout::dma::{FromDevice, ToDevice};
    use carveout::fake::Fake;
    use carveout::setup::Setup;
    use core::sync::atomic::Ordering;
    use std::string::ToString;

    // By offset, as the manual lists them.
    const TC_STATUS: usize = 0x004;
    const TC_CLEAR: usize = 0x008;
    const ERROR_STATUS: usize = 0x00c;
    const ERROR_CLEAR: usize = 0x010;
    const ENABLED: usize = 0x01c;
    const SOURCE: usize = 0x100;
    const CONTROL: usize = 0x10c;
    const CHANNEL: usize = 0x110;
    const ACTIVE: u32 = 1 << 17;

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Answer {
        /// Copies, then interrupts.
        Whole,
        /// Interrupts, and copies half a second later.
        EarlyInterrupt,
        /// Interrupts, and stays enabled.
        StaysEnabled,
        /// Interrupts, and its FIFO stays full.
        StaysActive,
        /// Ends without an interrupt.
        NoInterrupt,
        /// Does nothing at all.
        Nothing,
        /// Reports a bus error, which disables the channel.
        Error,
        /// Reports a bus error, and the channel stays enabled.
        ErrorStaysEnabled,
    }

    struct Controller {
        block: Block<Registers>,
        setup: Setup,
        answer: Answer,
        /// The channel does not stop when told to.
        stuck: bool,
        since: Option<u64>,
    }

    impl Controller {
        fn step(&mut self, now: u64) -> bool {
            let block = &self.block;
            for (clear, status) in [(TC_CLEAR, TC_STATUS), (ERROR_CLEAR, ERROR_STATUS)] {
                block.write(status, block.read(status) & !block.read(clear));
                block.write(clear, 0);
            }
            let end = |status, enabled| {
                block.write(status, 1);
                block.write(ENABLED, enabled);
                block.write(CHANNEL, block.read(CHANNEL) & !1 | enabled);
            };
            if block.read(CHANNEL) & 1 == 0 {
                if self.since.is_some() && !self.stuck {
                    block.write(ENABLED, 0);
                    self.since = None;
                }
                return false;
            }
            let first = self.since.is_none();
            let since = *self.since.get_or_insert(now);
            block.write(ENABLED, 1);
            match self.answer {
                Answer::EarlyInterrupt if now - since < 500_000 => {
                    block.write(TC_STATUS, 1);
                    return first;
                }
                Answer::Whole | Answer::EarlyInterrupt => {
                    self.move_words();
                    end(TC_STATUS, 0);
                    self.since = None;
                }
                Answer::StaysEnabled => end(TC_STATUS, 1),
                Answer::StaysActive => {
                    block.write(CHANNEL, block.read(CHANNEL) | ACTIVE);
                    block.write(ENABLED, 0);
                    block.write(TC_STATUS, 1);
                }
                Answer::NoInterrupt => {
                    end(TC_STATUS, 0);
                    self.since = None;
                    return false;
                }
                Answer::Nothing => return false,
                Answer::Error => {
                    end(ERROR_STATUS, 0);
                    self.since = None;
                }
                Answer::ErrorStaysEnabled => end(ERROR_STATUS, 1),
            }
            true
        }

        /// Moves the words that the first item names.
        fn move_words(&self) {
            let [from, to] = [SOURCE, SOURCE + 4].map(|register| PhysAddr::new(self.block.read(register)));
            let bytes = self.block.read(CONTROL) as usize % 4096 * 4;
            self.setup.fake.device_write(to, &self.setup.fake.device_read(from, bytes));
        }
    }

    type Played081 = Copier<Fake, Played<Controller>>;

    fn copier(answer: Answer, stuck: bool) -> Played081 {
        let block = block::<Registers>(0x114);
        let setup = Setup::new(1);
        let controller = Pl081::new(block.mmio());
        let (master, dma) = (setup.master("dma"), setup.dma);
        let device = Controller { block, setup, answer, stuck, since: None };
        Copier::new(controller, Played::new(device, Controller::step), master, dma).unwrap()
    }

    type Tables = (ScatterTable<Fake, ToDevice, Device>, ScatterTable<Fake, FromDevice, Device>);

    fn copy(copier: &mut Played081, bytes: [u32; 2]) -> Result<Tables, Failed<CopyError, Tables>> {
        let master = copier.master().clone();
        let dma = copier.wait.device().setup.dma;
        let [from, to] = bytes.map(|bytes| dma.alloc(&master, bytes, 1).unwrap());
        let mut from = from.into_stream::<ToDevice>();
        from.bytes_mut().fill(0x3c);
        let to = to.into_stream::<FromDevice>();
        copier.copy(ScatterTable::new(std::vec![from]).for_device(), ScatterTable::new(std::vec![to]).for_device())
    }

    /// Frees the tables as their owner does.
    fn free((from, to): Tables) {
        // SAFETY: the copier gave them back.
        drop(unsafe { from.for_cpu() });
        // SAFETY: as above.
        let to = unsafe { to.for_cpu() };
        drop(to);
    }

    fn quarantined(copier: &Played081) -> u64 {
        copier.wait.device().setup.dma.stats().quarantined
    }

    #[test]
    fn a_copy_that_ends_is_whole() {
        for answer in [Answer::Whole, Answer::EarlyInterrupt] {
            let mut copier = copier(answer, false);
            let (from, to) = copy(&mut copier, [8192, 8192]).unwrap();
            // SAFETY: the copier gave it back.
            let to = unsafe { to.for_cpu() };
            assert!(to.views().all(|view| view.iter().all(|&byte| byte == 0x3c)), "{answer:?}");
            // SAFETY: as above.
            drop(unsafe { from.for_cpu() });
            let dma = copier.wait.device().setup.dma;
            let returns = copier.wait.device().block.returns();
            drop(copier);
            let returns = returns.load(Ordering::Relaxed);
            assert_eq!((dma.stats().quarantined, returns), (0, 1), "{answer:?}: the registers are anybody's");
        }
    }

    /// I4: the channel has stopped when the buffers come back.
    #[test]
    fn a_copy_that_fails_stops_the_channel() {
        let silent = "the copy did not end";
        let all = [
            (Answer::StaysEnabled, silent),
            (Answer::NoInterrupt, silent),
            (Answer::Nothing, silent),
            (Answer::Error, "bus error while copying from 0x"),
            (Answer::ErrorStaysEnabled, silent),
        ];
        for (answer, line) in all {
            let mut copier = copier(answer, false);
            let failed = copy(&mut copier, [4096, 4096]).unwrap_err();
            assert!(failed.error.to_string().starts_with(line), "{answer:?}: {}", failed.error);
            let device = copier.wait.device();
            assert_eq!((device.block.read(ENABLED), device.block.read(CHANNEL) & 1), (0, 0), "{answer:?}");
            drop(device);
            free(failed.given.unwrap());
            assert_eq!(quarantined(&copier), 0, "{answer:?}");
            copier.wait.device().answer = Answer::Whole;
            free(copy(&mut copier, [4096, 4096]).unwrap());
        }
    }

    /// I4: a channel that does not stop keeps what it was given.
    #[test]
    fn a_channel_that_does_not_stop_keeps_the_buffers() {
        for answer in [Answer::StaysEnabled, Answer::Nothing, Answer::ErrorStaysEnabled] {
            let mut copier = copier(answer, true);
            let failed = copy(&mut copier, [8192, 8192]).unwrap_err();
            assert_eq!((failed.error, failed.given.is_none()), (CopyError::Hung, true), "{answer:?}");
            assert_eq!(quarantined(&copier), 16384, "{answer:?}");
            let dma = copier.wait.device().setup.dma;
            let returns = copier.wait.device().block.returns();
            drop(copier);
            assert_eq!(dma.stats().quarantined, 20480, "{answer:?}: the list");
            assert_eq!(returns.load(Ordering::Relaxed), 0, "{answer:?}: nobody else gets the registers");
        }
    }

    /// After the interrupt, data may still be in the channel's FIFO and not in memory.
    #[test]
    fn a_full_fifo_is_not_the_end() {
        let mut copier = copier(Answer::StaysActive, false);
        let failed = copy(&mut copier, [4096, 4096]).unwrap_err();
        // When the driver disabled the channel, the channel dropped what it held. The driver's write cleared the bit,
        // as the manual says.
        assert_eq!(failed.error, CopyError::Silent);
        free(failed.given.unwrap());
    }

    #[test]
    fn what_is_no_copy_comes_back_untold() {
        let mut copier = copier(Answer::Whole, false);
        let failed = copy(&mut copier, [8, 12]).unwrap_err();
        assert!(failed.error.to_string().starts_with("4 bytes at 0x"), "{}", failed.error);
        free(failed.given.unwrap());
        copier.master = copier.master.clone().with_mask(BusAddr::new(0xfff));
        let dma = copier.wait.device().setup.dma;
        let master = copier.wait.device().setup.master("far");
        let [from, to] = [(); 2].map(|()| dma.alloc(&master, 4096, 1).unwrap().into_device());
        let failed = copier.copy(from, to).unwrap_err();
        assert!(matches!(failed.error, CopyError::Reach(_)), "{}", failed.error);
        drop(failed);
        assert_eq!(copier.wait.device().block.read(CHANNEL), 0, "nothing was started");
        assert_eq!(quarantined(&copier), 0);
    }
}
