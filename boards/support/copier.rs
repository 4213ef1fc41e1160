//! Copies from buffer to buffer by the board's DMA controller: the CPU sees none of the bytes.
//!
//! Guarantees: a copy is whole when [`Copier::copy`] returns `Ok`, which it learns by the controller's interrupt; when it
//! returns at all the controller has finished with the buffers. Its list is one coherent page, in the controller's reach.

use super::bring_up::{DeviceRegisters, Kernel};
use super::clock::Clock;
use super::devices;
use super::interrupts;
use super::irq::IrqId;
use super::pl081::{BusError, ITEM_BYTES, ListError, MAX_SEGMENT, Pl081, Registers, Transfer, transfers};
use carveout::addr::FRAME_SIZE;
use carveout::arch::armv7a::mmu::Armv7a;
use carveout::cma::area::AllocError;
use carveout::dma::buffer::Coherent;
use carveout::dma::master::Master;
use carveout::dma::scatter::{ScatterError, Segment};
use core::fmt;

/// Items of a list that are started at once: a page of them.
const ITEMS: usize = FRAME_SIZE as usize / ITEM_BYTES;
/// Microseconds a list of at most 4 MiB may take.
const PATIENCE: u64 = 2_000_000;
/// Looks at the clock of a board without one.
const LOOKS: u64 = 1 << 28;

/// Why nothing, or not all, was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyError {
    /// The area has no room for the list.
    NoRoom(AllocError),
    /// The controller does not reach a buffer.
    Reach(ScatterError),
    /// It is no copy that the controller can do.
    List(ListError),
    /// A transfer failed.
    Bus(BusError),
    /// No interrupt told of the end. The controller was stopped.
    Silent,
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom(error) => error.fmt(f),
            Self::Reach(error) => error.fmt(f),
            Self::List(error) => error.fmt(f),
            Self::Bus(error) => error.fmt(f),
            Self::Silent => f.write_str("no interrupt came"),
        }
    }
}

/// The board's DMA controller.
pub struct Copier {
    kernel: &'static Kernel,
    controller: Pl081,
    /// Given back after the controller, which uses them.
    _registers: DeviceRegisters<'static, Registers>,
    master: Master,
    irq: IrqId,
    list: Coherent<Armv7a>,
}

impl Copier {
    /// Takes the controller over; `None` if the board has none, or another `Copier` has it.
    pub fn open(kernel: &'static Kernel) -> Result<Option<Self>, CopyError> {
        let Some(found) = devices::find(&kernel.info, "arm,pl081") else { return Ok(None) };
        let (Some(block), Some(irq)) = (found.blocks.first(), found.irq) else {
            return Ok(None);
        };
        let Some(registers) = kernel.registers(block.at, block.bytes) else { return Ok(None) };
        let master =
            kernel.master_at(found.name, &found.path).with_max_segment(MAX_SEGMENT).expect("more than a frame");
        let list = kernel.dma.alloc(&master, FRAME_SIZE, 1).map_err(CopyError::NoRoom)?.into_coherent();
        // SAFETY: the tree says that these are a PL081's; they are mapped for good, and nobody else's until `_registers` is
        // dropped, after the controller.
        let controller = unsafe { Pl081::new(registers.pointer()) };
        Ok(Some(Self { kernel, controller, _registers: registers, master, irq, list }))
    }

    /// The controller as a bus master: what segments are made for.
    pub const fn master(&self) -> &Master {
        &self.master
    }

    /// Copies `from` to `to`, segment by segment, which together are as long. The caller has handed both to the device.
    pub fn copy(
        &mut self,
        from: Result<impl Iterator<Item = Segment>, ScatterError>,
        to: Result<impl Iterator<Item = Segment>, ScatterError>,
    ) -> Result<(), CopyError> {
        let (from, to) = (from.map_err(CopyError::Reach)?, to.map_err(CopyError::Reach)?);
        let all = transfers(from, to).map_err(CopyError::List)?;
        all.chunks(ITEMS).try_for_each(|list| self.run(list))
    }

    fn run(&mut self, list: &[Transfer]) -> Result<(), CopyError> {
        let at = self.list.bus();
        for (n, transfer) in list.iter().enumerate() {
            let item = transfer.item_in(at, n, list.len()).expect("a page of bus addresses");
            self.list.write_at(n * ITEM_BYTES, &item);
        }
        let Some(&first) = list.first() else { return Ok(()) };
        self.list.device_barrier();
        interrupts::enable_once(self.irq);
        self.controller.start(at, first, list.len());
        let start = self.kernel.clock.as_ref().map(Clock::micros);
        let mut told = false;
        for _ in 0..LOOKS {
            told |= interrupts::take(self.irq);
            if told && let Some(result) = self.controller.finish() {
                return result.map_err(CopyError::Bus);
            }
            let waited = self.kernel.clock.as_ref().zip(start).map(|(clock, start)| clock.micros() - start);
            if waited.is_some_and(|waited| waited > PATIENCE) {
                break;
            }
        }
        self.controller.stop();
        Err(CopyError::Silent)
    }

    /// Gives the list back.
    pub fn close(self) {
        // SAFETY: no list is under way: `copy` waits for its end, or stops the controller.
        drop(unsafe { self.list.release() });
    }
}
