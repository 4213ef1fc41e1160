//! An SD card behind the Allwinner A10's SD/MMC controller (A10 User Manual V1.20, "SD/MMC Controller";
//! `allwinner,sun4i-a10-mmc`): a bus master that reads a chain of descriptors from memory, and moves the card's data
//! between the card and the buffers that they name.
//!
//! Guarantees: data goes straight between the card and a [`Stream`] that the device owns, in state and in fact: no
//! mapping of it exists meanwhile (I4). The descriptors are one coherent page. A buffer comes back only after the
//! controller has stopped.
//!
//! What "stopped" means:
//! - Of one command with data: `RISR` has the end of the data, or of the stop command that follows several blocks, and
//!   no error; and `IDST` has the interrupt of the one descriptor that may raise one, the last. The controller's DMA
//!   closes a descriptor after the last access to its buffer. The interrupt alone is no proof: the end of the data and
//!   of the DMA raise one line.
//! - Of the controller, after anything else: `DMAC` was written without its on bit, and the three resets of `GCTL` read
//!   0 after they were set. A reset controller knows no command and no descriptor.
//!
//! A command that fails or does not end resets the controller. The next one selects the card afresh. A controller that
//! does not reset keeps the buffer, and at the end its page: both go into quarantine.
//!
//! Power, pins and the module's clock are as the boot loader left them, with which it read this kernel. The card is
//! identified at 1/510 of that clock, which is at most 200 MHz, so at 400 kHz or less. It is then read at half of it,
//! because U-Boot leaves it at 50 MHz at most, and a card that was selected afresh takes 25. One data line is used.
//!
//! This driver is ours: a search of the documentation of crates found none for this controller.

use super::blocks::{Blocks, Moved, Sectors};
use super::sd::{self, Answer, CardError, Selected, command};
use super::{Backing, BlockDevice, BlockError, SECTOR, Writable};
use crate::drivers::mmio::Mmio;
use crate::drivers::wait::{Failed, Wait, until};
use alloc::boxed::Box;
use carveout::addr::{BusAddr, FRAME_SIZE};
use carveout::dma::{
    AllocError, Bidirectional, Coherent, Cpu, Device, Direction, Dma, FromDevice, Master, Stream, Yes,
};
use carveout::machine::Machine;
use core::fmt;
use tock_registers::{
    interfaces::{ReadWriteable, Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite},
};

register_bitfields! [u32,
    /// GCTL.
    CONTROL [
        RESET OFFSET(0) NUMBITS(3) [Controller = 1, Queue = 2, Dma = 4, All = 7],
        INTERRUPTS OFFSET(4) NUMBITS(1) [],
        DMA OFFSET(5) NUMBITS(1) [],
    ],
    /// CKCR. A divider of n divides by 2 n, one of 0 by 1.
    CLOCK [DIVIDER OFFSET(0) NUMBITS(8) [], ON OFFSET(16) NUMBITS(1) []],
    /// CMDR.
    COMMAND [
        INDEX OFFSET(0) NUMBITS(6) [],
        RESPONSE OFFSET(6) NUMBITS(1) [],
        LONG OFFSET(7) NUMBITS(1) [],
        CHECKED OFFSET(8) NUMBITS(1) [],
        DATA OFFSET(9) NUMBITS(1) [],
        WRITE OFFSET(10) NUMBITS(1) [],
        STOP OFFSET(12) NUMBITS(1) [],
        AFTER_DATA OFFSET(13) NUMBITS(1) [],
        INITIAL_CLOCKS OFFSET(15) NUMBITS(1) [],
        CLOCK_ONLY OFFSET(21) NUMBITS(1) [],
        LOAD OFFSET(31) NUMBITS(1) [],
    ],
    /// RISR and IMKR: a command's end, its answer included; the end of its data; the end of the stop command after it.
    EVENTS [
        ANSWERED OFFSET(2) NUMBITS(1) [],
        DATA_END OFFSET(3) NUMBITS(1) [],
        STOPPED OFFSET(14) NUMBITS(1) [],
    ],
    /// STAR: the card holds its first data line low.
    STATUS [BUSY OFFSET(9) NUMBITS(1) []],
    DMAC [RESET OFFSET(0) NUMBITS(1) [], FIXED_BURST OFFSET(1) NUMBITS(1) [], ON OFFSET(7) NUMBITS(1) []],
    /// IDST and IDIE.
    DMA_EVENTS [
        SENT OFFSET(0) NUMBITS(1) [],
        RECEIVED OFFSET(1) NUMBITS(1) [],
        BUS_ERROR OFFSET(2) NUMBITS(1) [],
        NO_DESCRIPTOR OFFSET(4) NUMBITS(1) [],
        CARD_ERROR OFFSET(5) NUMBITS(1) [],
    ],
];

register_structs! {
    /// The register block.
    pub Registers {
        (0x00 => control: ReadWrite<u32, CONTROL::Register>),
        (0x04 => clock: ReadWrite<u32, CLOCK::Register>),
        (0x08 => timeout: ReadWrite<u32>),
        (0x0c => width: ReadWrite<u32>),
        (0x10 => block_size: ReadWrite<u32>),
        (0x14 => byte_count: ReadWrite<u32>),
        (0x18 => command: ReadWrite<u32, COMMAND::Register>),
        (0x1c => argument: ReadWrite<u32>),
        (0x20 => answer: [ReadOnly<u32>; 4]),
        (0x30 => mask: ReadWrite<u32, EVENTS::Register>),
        (0x34 => _masked),
        (0x38 => events: ReadWrite<u32, EVENTS::Register>),
        (0x3c => status: ReadOnly<u32, STATUS::Register>),
        (0x40 => queue_levels: ReadWrite<u32>),
        (0x44 => _function),
        (0x80 => dma: ReadWrite<u32, DMAC::Register>),
        (0x84 => list: ReadWrite<u32>),
        (0x88 => dma_events: ReadWrite<u32, DMA_EVENTS::Register>),
        (0x8c => dma_interrupts: ReadWrite<u32, DMA_EVENTS::Register>),
        (0x90 => @END),
    }
}

// Of a descriptor's first word. The last three concern the one that ends a chain, and all but that.
const OWNED: u32 = 1 << 31;
const CHAINED: u32 = 1 << 4;
const FIRST: u32 = 1 << 3;
const END_OF_RING: u32 = 1 << 5;
const LAST: u32 = 1 << 2;
const SILENT: u32 = 1 << 1;
/// Bytes of a descriptor, and of the buffer that one names. There is room for 8 KiB, written as 0.
const DESCRIPTOR: usize = 16;
const REGION: usize = 4096;
/// Bytes of a command at most: as many descriptors as the page holds.
const REQUEST: usize = FRAME_SIZE as usize / DESCRIPTOR * REGION;
/// Bytes of the buffer for single blocks.
const BLOCKS: u32 = 64 << 10;

/// Dividers of the clock: while a card is identified, and then.
const SLOW: u32 = 255;
const FAST: u32 = 1;
/// The levels at which the queue is filled and emptied: a burst of 8 words, of a queue of 16.
const LEVELS: u32 = 0x2007_0008;

/// Microseconds for: an answer, a change of the clock, or a reset; a command's data, of which a card may take half a
/// second a block; a card that keeps busy after it.
const SOON: u64 = 1_000_000;
const PATIENCE: u64 = 20_000_000;

/// Why the card is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MmcError {
    /// The area has no room for descriptors, or for a buffer.
    NoRoom(AllocError),
    /// The controller has no interrupt, or the board no counter to wait by.
    NoInterrupt,
    /// There was a card, and there is none any more.
    Gone,
    /// The card cannot be selected.
    Card(CardError),
    /// There are no such sectors.
    PastTheEnd {
        /// The first that was asked for.
        sector: u64,
    },
    /// The controller or the card reports an error.
    Refused {
        /// The SD command.
        command: u32,
        /// RISR: events of the controller.
        events: u32,
        /// IDST: events of its DMA.
        dma: u32,
        /// What the card answered.
        status: u32,
    },
    /// It did not end in time, whether or not an interrupt came; the controller was reset.
    Silent {
        /// The SD command.
        command: u32,
    },
    /// The controller does not reset.
    Hung,
}

impl core::error::Error for MmcError {}

impl fmt::Display for MmcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom(error) => error.fmt(f),
            Self::NoInterrupt => f.write_str("the SD controller has no interrupt, or the board no counter"),
            Self::Gone => f.write_str("the card is gone"),
            Self::Card(error) => error.fmt(f),
            Self::PastTheEnd { sector } => write!(f, "sector {sector} is past the end of the card"),
            Self::Refused { command, events, dma, status } => {
                write!(f, "SD command {command} failed: events {events:#x}, DMA {dma:#x}, card {status:#010x}")
            }
            Self::Silent { command } => write!(f, "SD command {command} did not end"),
            Self::Hung => f.write_str("the SD controller does not reset"),
        }
    }
}

/// A card in its slot.
pub struct SdDisk<M: Machine + 'static, W: Wait> {
    registers: Mmio<Registers>,
    /// The descriptors; there until it is dropped.
    page: Option<Coherent<M>>,
    wait: W,
    card: Selected,
    /// It is selected: no error reset the controller since.
    selected: bool,
    master: Master,
    dma: &'static Dma<M>,
}

impl<M: Machine, W: Wait> SdDisk<M, W> {
    /// Selects the card, with a page of `master`'s area for descriptors. `wait` is the controller's interrupt. Returns
    /// `None` if there is no card.
    ///
    /// # Errors
    ///
    /// [`MmcError::NoRoom`] if the area has no page. [`MmcError::Card`] if there is a card that does not say what it is.
    /// [`MmcError::Hung`] if the controller does not reset.
    pub fn open(
        registers: Mmio<Registers>,
        wait: W,
        master: Master,
        dma: &'static Dma<M>,
    ) -> Result<Option<Self>, MmcError> {
        let page = dma.alloc_coherent(&master, FRAME_SIZE, 1).map_err(MmcError::NoRoom)?;
        let card = Selected::default();
        let mut disk = Self { registers, page: Some(page), wait, card, selected: false, master, dma };
        match disk.ready() {
            Ok(()) => Ok(Some(disk)),
            Err(MmcError::Gone) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns whether a condition comes true within so many microseconds.
    fn until(&self, micros: u64, done: impl FnMut() -> bool) -> bool {
        until(|| self.wait.micros(), micros, done)
    }

    /// Resets the controller: when it returns `Ok`, the controller accesses no memory.
    fn stop(&mut self) -> Result<(), MmcError> {
        self.selected = false;
        let registers = &*self.registers;
        registers.mask.set(0);
        registers.dma_interrupts.set(0);
        registers.dma.set(0);
        registers.control.modify(CONTROL::RESET::All + CONTROL::DMA::CLEAR + CONTROL::INTERRUPTS::CLEAR);
        let reset = self.until(SOON, || registers.control.read(CONTROL::RESET) == 0);
        if reset { Ok(()) } else { Err(MmcError::Hung) }
    }

    /// Selects the card, unless it is.
    fn ready(&mut self) -> Result<(), MmcError> {
        if self.selected {
            return Ok(());
        }
        self.stop()?;
        let registers = &*self.registers;
        registers.control.modify(CONTROL::INTERRUPTS::SET);
        registers.timeout.set(u32::MAX);
        registers.width.set(0);
        registers.queue_levels.set(LEVELS);
        self.set_clock(SLOW).map_err(MmcError::Card)?;
        let card = sd::select(|index, argument, answer| self.give(index, argument, answer)).map_err(MmcError::Card)?;
        let card = card.ok_or(MmcError::Gone)?;
        self.set_clock(FAST).map_err(MmcError::Card)?;
        self.card = card;
        self.selected = true;
        Ok(())
    }

    /// Sets the card's clock. It is off while it changes.
    fn set_clock(&self, divider: u32) -> Result<(), CardError> {
        let registers = &*self.registers;
        for clock in [CLOCK::ON::CLEAR, CLOCK::DIVIDER.val(divider), CLOCK::DIVIDER.val(divider) + CLOCK::ON::SET] {
            registers.clock.write(clock);
            registers.command.write(COMMAND::LOAD::SET + COMMAND::CLOCK_ONLY::SET + COMMAND::AFTER_DATA::SET);
            if !self.until(SOON, || !registers.command.is_set(COMMAND::LOAD)) {
                return Err(CardError::PowerUp);
            }
        }
        Ok(())
    }

    /// Gives the card a command without data. Returns its answer, the first word first.
    fn give(&self, index: u32, argument: u32, answer: Answer) -> Result<[u32; 4], CardError> {
        let registers = &*self.registers;
        registers.events.set(u32::MAX);
        registers.argument.set(argument);
        let set = |condition: bool| u32::from(condition);
        registers.command.write(
            COMMAND::LOAD::SET
                + COMMAND::INDEX.val(index)
                + COMMAND::RESPONSE.val(set(answer != Answer::None))
                + COMMAND::LONG.val(set(answer == Answer::Long))
                + COMMAND::CHECKED.val(set(matches!(answer, Answer::Short | Answer::Long)))
                + COMMAND::INITIAL_CLOCKS.val(set(index == command::IDLE))
                + COMMAND::AFTER_DATA::SET,
        );
        let ended = self.until(SOON, || failed(registers) || registers.events.is_set(EVENTS::ANSWERED));
        // Where an answer says that it is busy, it holds a data line.
        if !ended || failed(registers) || !self.until(SOON, || !registers.status.is_set(STATUS::BUSY)) {
            return Err(CardError::Command(index));
        }
        let [low, .., high] = &registers.answer;
        Ok(if answer == Answer::Long {
            [high.get(), registers.answer[2].get(), registers.answer[1].get(), low.get()]
        } else {
            [low.get(), 0, 0, 0]
        })
    }

    /// Moves whole sectors between the card and a buffer. `take` is called only if the controller has finished with the
    /// buffer, or was never told of it.
    fn transfer<D: Direction>(
        &mut self,
        sector: u64,
        bytes: usize,
        buffer: Stream<M, D, Device>,
        write: bool,
        take: impl FnOnce(Stream<M, D, Device>) -> Stream<M, D, Cpu>,
    ) -> Moved<MmcError, M, D> {
        let bytes = bytes.min(buffer.len()) / SECTOR * SECTOR;
        let ready = if bytes == 0 { Ok(()) } else { self.ready() };
        let end = sector.checked_add((bytes / SECTOR) as u64).filter(|&end| end <= self.card.blocks.into());
        let refused = match ready {
            Ok(()) if bytes == 0 => return Ok(take(buffer)),
            Ok(()) if end.is_none() => Some(MmcError::PastTheEnd { sector }),
            other => other.err(),
        };
        if let Some(error) = refused {
            return Err(Failed { error, given: Some(take(buffer)) });
        }
        let result = (0..bytes).step_by(REQUEST).try_for_each(|offset| {
            let at = BusAddr::new(buffer.bus().raw() + offset as u32);
            self.request(sector as u32 + (offset / SECTOR) as u32, at, (bytes - offset).min(REQUEST), write)
        });
        match result {
            Ok(()) => Ok(take(buffer)),
            // Dropped as the device's: into quarantine.
            Err(MmcError::Hung) => Err(Failed { error: MmcError::Hung, given: None }),
            Err(error) => Err(Failed { error, given: Some(take(buffer)) }),
        }
    }

    /// One command with data, from its descriptors to its end.
    fn request(&mut self, sector: u32, to: BusAddr, bytes: usize, write: bool) -> Result<(), MmcError> {
        self.describe(to, bytes);
        let several = bytes > SECTOR;
        let index = match (write, several) {
            (false, false) => command::READ_BLOCK,
            (false, true) => command::READ_BLOCKS,
            (true, false) => command::WRITE_BLOCK,
            (true, true) => command::WRITE_BLOCKS,
        };
        let registers = &*self.registers;
        registers.block_size.set(SECTOR as u32);
        registers.byte_count.set(bytes as u32);
        registers.control.modify(CONTROL::DMA::SET + CONTROL::RESET::Dma);
        if !self.until(SOON, || registers.control.read(CONTROL::RESET) == 0) {
            return self.give_up(MmcError::Silent { command: index });
        }
        registers.dma.write(DMAC::RESET::SET);
        registers.dma_events.set(u32::MAX);
        registers.events.set(u32::MAX);
        let moved = if write { DMA_EVENTS::SENT::SET } else { DMA_EVENTS::RECEIVED::SET };
        registers.dma_interrupts.write(moved + DMA_EVENTS::BUS_ERROR::SET);
        registers.dma.write(DMAC::FIXED_BURST::SET + DMAC::ON::SET);
        let ends = if several { EVENTS::STOPPED::SET } else { EVENTS::DATA_END::SET };
        registers.mask.set(ends.value | ERRORS);
        self.wait.listen();
        registers.argument.set(sector * self.card.unit);
        registers.command.write(
            COMMAND::LOAD::SET
                + COMMAND::INDEX.val(index)
                + COMMAND::RESPONSE::SET
                + COMMAND::CHECKED::SET
                + COMMAND::DATA::SET
                + COMMAND::WRITE.val(write.into())
                + COMMAND::STOP.val(several.into())
                + COMMAND::AFTER_DATA::SET,
        );
        // An interrupt may be of a part of the command: then the end is still to come.
        let mut told = false;
        let ended = self.until(PATIENCE, || {
            told |= self.wait.told();
            let data = registers.events.any_matching_bits_set(ends);
            told && (failed(registers)
                || dma_failed(registers)
                || data && registers.dma_events.any_matching_bits_set(moved))
        });
        let (events, dma, status) = (registers.events.get(), registers.dma_events.get(), registers.answer[0].get());
        let refused = failed(registers) || dma_failed(registers) || status & sd::STATUS_ERRORS != 0;
        registers.mask.set(0);
        registers.dma_interrupts.set(0);
        registers.events.set(events);
        registers.dma_events.set(dma);
        if refused {
            return self.give_up(MmcError::Refused { command: index, events, dma, status });
        }
        if !ended {
            return self.give_up(MmcError::Silent { command: index });
        }
        registers.dma.set(0);
        registers.control.modify(CONTROL::DMA::CLEAR);
        if write && !self.settled() {
            return self.give_up(MmcError::Silent { command: command::SEND_STATUS });
        }
        self.page().dma_rmb();
        Ok(())
    }

    /// Waits until the card has written what it was sent.
    fn settled(&self) -> bool {
        let status = || self.give(command::SEND_STATUS, self.card.address, Answer::Short);
        self.until(PATIENCE, || status().is_ok_and(|[status, ..]| sd::is_ready(status)))
    }

    /// Resets the controller after a command that did not end well. Returns `why`, or that it does not reset.
    fn give_up(&mut self, why: MmcError) -> Result<(), MmcError> {
        self.stop().and(Err(why))
    }

    fn page(&mut self) -> &mut Coherent<M> {
        self.page.as_mut().expect("there is a page until the disk is dropped")
    }

    /// Writes the descriptors of a run of memory.
    fn describe(&mut self, to: BusAddr, bytes: usize) {
        let page = self.page();
        let bus = page.bus().raw();
        let count = bytes.div_ceil(REGION);
        for n in 0..count {
            let (is_first, is_last) = (n == 0, n + 1 == count);
            let flags =
                OWNED | CHAINED | if is_first { FIRST } else { 0 } | if is_last { LAST | END_OF_RING } else { SILENT };
            let length = (bytes - n * REGION).min(REGION) as u32;
            let next = if is_last { 0 } else { bus + ((n + 1) * DESCRIPTOR) as u32 };
            for (word, value) in [flags, length, to.raw() + (n * REGION) as u32, next].into_iter().enumerate() {
                page.write_word(n * DESCRIPTOR + 4 * word, value.to_le());
            }
        }
        // They are in memory before the controller is told of them.
        page.device_barrier();
        self.registers.list.set(bus);
    }
}

/// What goes wrong, of RISR: the answer in error, its checksum, that of the data, no answer, no data, the queue, a write
/// to a locked register, the start bit, the end bit.
const ERRORS: u32 = 1 << 1 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 15;

/// Returns whether a command failed.
fn failed(registers: &Registers) -> bool {
    registers.events.get() & ERRORS != 0
}

/// Returns whether the DMA failed.
fn dma_failed(registers: &Registers) -> bool {
    let errors = DMA_EVENTS::BUS_ERROR::SET + DMA_EVENTS::NO_DESCRIPTOR::SET + DMA_EVENTS::CARD_ERROR::SET;
    registers.dma_events.any_matching_bits_set(errors)
}

impl<M: Machine, W: Wait> Drop for SdDisk<M, W> {
    fn drop(&mut self) {
        // The page of a controller that does not reset is the device's: dropped, it goes into quarantine.
        if self.stop().is_ok()
            && let Some(page) = self.page.take()
        {
            // SAFETY: `stop` saw the controller reset, so it neither reads nor writes the page (I4).
            unsafe { page.give_up() };
        } else {
            self.registers.keep();
        }
    }
}

impl<M: Machine, W: Wait> Sectors<M> for SdDisk<M, W> {
    type Error = MmcError;

    fn bytes(&self) -> u64 {
        u64::from(self.card.blocks) * SECTOR as u64
    }

    fn read_at<D: Direction>(
        &mut self,
        sector: u64,
        bytes: usize,
        buffer: Stream<M, D, Device>,
    ) -> Moved<MmcError, M, D> {
        // SAFETY: called only if the controller has finished with the buffer, or was never told of it: the module's
        // documents say by which registers (I4).
        self.transfer(sector, bytes, buffer, false, |buffer| unsafe { buffer.for_cpu_part(0..bytes) })
    }

    fn write_at<D: Direction<CpuWrites = Yes>>(
        &mut self,
        sector: u64,
        bytes: usize,
        buffer: Stream<M, D, Device>,
    ) -> Moved<MmcError, M, D> {
        // SAFETY: as in `read_at`. It read the buffer and wrote nothing.
        self.transfer(sector, bytes, buffer, true, |buffer| unsafe { buffer.for_cpu_part(0..0) })
    }
}

impl<M: Machine, W: Wait> BlockDevice<M> for SdDisk<M, W> {
    fn name(&self) -> &'static str {
        "SD card"
    }

    fn master(&self) -> &Master {
        &self.master
    }

    fn bytes(&self) -> u64 {
        Sectors::bytes(self)
    }

    fn read(&mut self, buffer: Stream<M, FromDevice, Device>) -> Result<Stream<M, FromDevice, Cpu>, BlockError> {
        self.read_at(0, buffer.len(), buffer).map_err(|failed| Box::new(failed.error).into())
    }

    fn as_writable(&mut self) -> Option<&mut dyn Writable> {
        Some(self)
    }
}

impl<M: Machine, W: Wait> Writable for SdDisk<M, W> {
    fn bytes(&self) -> u64 {
        Sectors::bytes(self)
    }

    fn blocks(&mut self) -> Result<Box<dyn Backing<Error = BlockError> + '_>, BlockError> {
        let buffer = self.dma.alloc(&self.master, BLOCKS, 1).map_err(MmcError::NoRoom)?;
        Ok(Box::new(Blocks::new(self, buffer.into_stream::<Bidirectional>())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::fake::{Block, Played, block};
    use carveout::addr::PhysAddr;
    use carveout::fake::Fake;
    use carveout::setup::Setup;
    use core::sync::atomic::Ordering;
    use std::string::ToString;
    use std::vec::Vec;

    // By offset, as the manual lists them.
    const GCTL: usize = 0x00;
    const CKCR: usize = 0x04;
    const BKSR: usize = 0x10;
    const BYCR: usize = 0x14;
    const CMDR: usize = 0x18;
    const CAGR: usize = 0x1c;
    const RESP: usize = 0x20;
    const IMKR: usize = 0x30;
    const RISR: usize = 0x38;
    const STAR: usize = 0x3c;
    const DMAC: usize = 0x80;
    const DLBA: usize = 0x84;
    const IDST: usize = 0x88;
    const IDIE: usize = 0x8c;
    const LOAD: u32 = 1 << 31;

    /// What the controller and its card do with a command that has data.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Answer {
        /// They end it.
        Whole,
        /// The data ends, with an interrupt, half a second before the DMA does.
        DmaLast,
        /// The data ends, and the DMA does not say so.
        NoDma,
        /// It ends without an interrupt.
        NoInterrupt,
        /// Nothing at all.
        Nothing,
        /// The data is damaged.
        Damaged,
        /// The card says that it is write protected.
        Protected,
        /// The DMA finds no descriptor of its own.
        NoDescriptor,
        /// The card is busy half a second with what it was sent.
        Busy,
        /// The card never gets ready again.
        BusyForEver,
    }

    /// A controller with a card of 1 MiB.
    struct Controller {
        block: Block<Registers>,
        setup: Setup,
        bytes: Vec<u8>,
        answer: Answer,
        /// The resets do not end.
        stuck: bool,
        /// So do not those after the next command with data.
        gets_stuck: bool,
        present: bool,
        /// The time, and when what is under way began.
        now: u64,
        since: Option<u64>,
        /// Commands with data, and how often the card was told to be idle.
        requests: Vec<(u32, u32, u32)>,
        idled: u32,
        dividers: Vec<u32>,
        busy_until: u64,
    }

    impl Controller {
        fn step(&mut self, now: u64) -> bool {
            self.now = now;
            let resets = self.block.read(GCTL) & 7;
            if resets != 0 && !self.stuck {
                self.block.write(GCTL, self.block.read(GCTL) & !7);
                if resets & 1 != 0 {
                    self.since = None;
                    self.block.write(CMDR, 0);
                }
            }
            if self.block.read(CMDR) & LOAD == 0 {
                return false;
            }
            let command = self.block.read(CMDR);
            if command & 1 << 21 != 0 {
                self.block.write(CMDR, command & !LOAD);
                if self.block.read(CKCR) & 1 << 16 != 0 {
                    self.dividers.push(self.block.read(CKCR) & 0xff);
                }
                return false;
            }
            if command & 1 << 9 != 0 { self.data(command) } else { self.plain(command) }
        }

        /// A command without data.
        fn plain(&mut self, command: u32) -> bool {
            let block = &self.block;
            block.write(CMDR, command & !LOAD);
            let index = command & 0x3f;
            self.idled += u32::from(index == 0);
            let busy = self.now < self.busy_until;
            let words = match index {
                55 if !self.present => {
                    block.write(RISR, 1 << 8);
                    return false;
                }
                41 => [0xc0ff_8000, 0, 0, 0],
                3 => [0x1234_0500, 0, 0, 0],
                // 2 times 512 KiB less one: 1 MiB, the last word first.
                9 => [0x0a40_0001, 0x0001_7f80, 0x5b59_0000, 0x400e_0032],
                13 if block.read(CAGR) == 0x1234_0000 => [if busy { 0xe00 } else { 0x900 }, 0, 0, 0],
                _ => [0; 4],
            };
            for (n, word) in words.into_iter().enumerate() {
                block.write(RESP + 4 * n, word);
            }
            block.write(RISR, 1 << 2);
            false
        }

        /// A command with data; whether the interrupt is raised.
        fn data(&mut self, command: u32) -> bool {
            let first = self.since.is_none();
            let since = *self.since.get_or_insert(self.now);
            self.stuck |= self.gets_stuck;
            if first {
                let block = &self.block;
                self.requests.push((command & 0x3f, block.read(CAGR), block.read(BYCR)));
                assert_eq!((block.read(BKSR), block.read(DMAC)), (512, 0x82));
                assert_eq!(block.read(GCTL) & 0x37, 0x30, "interrupts and DMA are on");
                let several = block.read(BYCR) > 512;
                assert_eq!(command >> 12 & 1, u32::from(several), "a stop follows several blocks");
                assert_eq!(block.read(IMKR), 0xbbc2 | if several { 1 << 14 } else { 1 << 3 });
                assert_eq!(block.read(IDIE) & 3, if command >> 10 & 1 == 1 { 1 } else { 2 });
                block.write(RISR, 0);
                block.write(IDST, 0);
                block.write(RESP, 0x900);
            }
            let (write, end) = (command >> 10 & 1 == 1, if command >> 12 & 1 == 1 { 1 << 14 } else { 0 } | 1 << 3);
            let moved = if write { 1 } else { 2 };
            let done = |events: u32, dma: u32| {
                self.block.write(RISR, events | 1 << 2);
                self.block.write(IDST, dma);
            };
            match self.answer {
                Answer::Nothing => return false,
                Answer::DmaLast if self.now - since < 500_000 => {
                    done(end, 0);
                    return first;
                }
                Answer::NoDma => {
                    done(end, 0);
                    return first;
                }
                Answer::Damaged => done(1 << 7, 0),
                Answer::NoDescriptor => done(0, 1 << 4),
                Answer::Protected => {
                    self.block.write(RESP, 1 << 26 | 0x900);
                    done(end, moved);
                }
                _ => {
                    self.transfer(write);
                    let lasts = match self.answer {
                        Answer::Busy => 500_000,
                        Answer::BusyForEver => u64::MAX - self.now,
                        _ => 0,
                    };
                    self.busy_until = self.now + lasts;
                    self.block.write(RISR, end | 1 << 2);
                    self.block.write(IDST, moved);
                }
            }
            self.block.write(CMDR, command & !LOAD);
            self.since = None;
            self.answer != Answer::NoInterrupt
        }

        /// Follows the chain of descriptors, as the controller does.
        fn transfer(&mut self, write: bool) {
            let word = |at: u32| {
                let bytes = self.setup.fake.device_read(PhysAddr::new(at), 4);
                u32::from_le_bytes(bytes.try_into().unwrap())
            };
            let (mut at, mut left) = (self.block.read(DLBA), self.block.read(BYCR) as usize);
            let mut place = self.block.read(CAGR) as usize * 512;
            let mut first = true;
            loop {
                let [flags, length, to, next] = [0, 4, 8, 12].map(|offset| word(at + offset));
                assert_eq!(
                    (flags >> 31, flags >> 3 & 1),
                    (1, u32::from(first)),
                    "its own, and marked if it is the first"
                );
                let length = length as usize;
                assert!((1..=8192).contains(&length) && length <= left);
                if write {
                    let from = self.setup.fake.device_read(PhysAddr::new(to), length);
                    self.bytes[place..place + length].copy_from_slice(&from);
                } else {
                    self.setup.fake.device_write(PhysAddr::new(to), &self.bytes[place..place + length]);
                }
                (left, place, first) = (left - length, place + length, false);
                if flags & 1 << 2 != 0 {
                    assert_eq!(flags & 1 << 1, 0, "the last one tells");
                    break;
                }
                assert_ne!(flags & 1 << 1, 0, "the others do not");
                at = next;
            }
            assert_eq!(left, 0);
        }
    }

    type Disk = SdDisk<Fake, Played<Controller>>;

    fn open(present: bool, stuck: bool) -> Result<Option<Disk>, MmcError> {
        let block = block::<Registers>(0x90);
        block.write(STAR, 0x100);
        let registers = block.mmio();
        let setup = Setup::new(1);
        let (master, dma) = (setup.master("sd"), setup.dma);
        let bytes = (0..1 << 20).map(|n: u32| (n / 512 + n) as u8).collect();
        let controller = Controller {
            block,
            setup,
            bytes,
            answer: Answer::Whole,
            stuck,
            gets_stuck: false,
            present,
            now: 0,
            since: None,
            requests: Vec::new(),
            idled: 0,
            dividers: Vec::new(),
            busy_until: 0,
        };
        Disk::open(registers, Played::new(controller, Controller::step), master, dma)
    }

    fn disk(answer: Answer) -> Disk {
        let disk = open(true, false).unwrap().unwrap();
        assert_eq!(Sectors::bytes(&disk), 1 << 20);
        disk.wait.device().answer = answer;
        disk
    }

    /// A transfer of so many bytes at a sector. What is written is all of one byte.
    fn moved(disk: &mut Disk, sector: u64, bytes: u32, write: bool) -> Moved<MmcError, Fake, Bidirectional> {
        let master = disk.master().clone();
        let mut buffer = disk.dma.alloc(&master, bytes, 1).unwrap().into_stream::<Bidirectional>();
        if write {
            buffer.bytes_mut().fill(0x5a);
            disk.write_at(sector, bytes as usize, buffer.for_device())
        } else {
            disk.read_at(sector, bytes as usize, buffer.for_device())
        }
    }

    fn quarantined(disk: &Disk) -> u64 {
        disk.dma.stats().quarantined
    }

    #[test]
    fn a_card_is_identified_slowly_and_read_faster() {
        let disk = disk(Answer::Whole);
        assert_eq!(disk.wait.device().dividers, [SLOW, FAST]);
        assert!(matches!(open(false, false), Ok(None)), "no card");
        assert!(matches!(open(true, true), Err(MmcError::Hung)));
    }

    #[test]
    fn data_goes_where_the_descriptors_say() {
        for answer in [Answer::Whole, Answer::DmaLast, Answer::Busy] {
            let mut disk = disk(answer);
            // Pages and a part of one; a sector; as many descriptors as there are.
            for (sector, bytes) in [(3, 3 * 4096 + 512), (2047, 512), (0, 1 << 20)] {
                let buffer = moved(&mut disk, sector, bytes, false).unwrap();
                let at = sector as usize * 512;
                assert!(buffer.bytes()[..bytes as usize] == disk.wait.device().bytes[at..at + bytes as usize]);
            }
            drop(moved(&mut disk, 5, 1024, true).unwrap());
            let device = disk.wait.device();
            assert!(device.bytes[5 * 512..7 * 512].iter().all(|&byte| byte == 0x5a));
            assert_eq!((device.bytes[5 * 512 - 1], device.bytes[7 * 512]), (3, 7));
            assert_eq!(
                device.requests,
                [(18, 3, 3 * 4096 + 512), (17, 2047, 512), (18, 0, 1 << 20), (25, 5, 1024)],
                "{answer:?}"
            );
            drop(device);
            let (dma, returns) = (disk.dma, disk.wait.device().block.returns());
            drop(disk);
            assert_eq!(returns.load(Ordering::Relaxed), 1, "the registers are anybody's");
            assert_eq!(dma.stats().quarantined, 0);
            assert_eq!(dma.free_bytes(dma.area("test").unwrap()).0, 4 << 20, "the page too came back");
        }
    }

    #[test]
    fn a_card_is_blocks_too() {
        let mut disk = disk(Answer::Whole);
        let written: Vec<u8> = (0..20 * 4096).map(|n: u32| (n / 4096 + 1) as u8).collect();
        let mut read = std::vec![0xff; 21 * 4096];
        {
            let mut blocks = disk.blocks().unwrap();
            blocks.write(236, &written).unwrap();
            // The last 20 blocks, and one past the end.
            blocks.read(236, &mut read).unwrap();
            assert!(read[..20 * 4096] == written && read[20 * 4096..].iter().all(|&byte| byte == 0));
            let past = blocks.write(255, &written[..2 * 4096]).unwrap_err();
            assert_eq!(past.to_string(), "block 256 begins past the end of the disk");
        }
        // A request is the buffer's 64 KiB at most.
        let requests: Vec<_> = disk.wait.device().requests.iter().map(|&(index, _, bytes)| (index, bytes)).collect();
        assert_eq!(requests, [(25, 64 << 10), (25, 16 << 10), (18, 64 << 10), (18, 16 << 10)]);
        disk.wait.device().gets_stuck = true;
        disk.wait.device().answer = Answer::Nothing;
        let mut blocks = disk.blocks().unwrap();
        assert_eq!(blocks.read(0, &mut read[..4096]).unwrap_err().to_string(), "the SD controller does not reset");
        let kept = blocks.read(0, &mut read[..4096]).unwrap_err();
        assert_eq!(kept.to_string(), "the disk kept its buffer when a transfer did not end");
    }

    #[test]
    fn what_the_card_does_not_have_is_not_asked_for() {
        let mut disk = disk(Answer::Whole);
        for (sector, bytes) in [(2048, 512), (2047, 1024), (u64::MAX, 512)] {
            let failed = moved(&mut disk, sector, bytes, false).unwrap_err();
            assert_eq!((failed.error, failed.given.is_some()), (MmcError::PastTheEnd { sector }, true));
        }
        assert_eq!(disk.wait.device().requests, []);
    }

    /// I4: the controller was reset when the buffer is the CPU's again, and the next command selects the card afresh.
    #[test]
    fn a_command_that_fails_resets_the_controller() {
        let silent = "SD command 18 did not end";
        let all = [
            (Answer::NoDma, false, silent),
            (Answer::NoInterrupt, false, silent),
            (Answer::Nothing, false, silent),
            (Answer::Damaged, false, "SD command 18 failed: events 0x84, DMA 0x0, card 0x00000900"),
            (Answer::NoDescriptor, false, "SD command 18 failed: events 0x4, DMA 0x10, card 0x00000900"),
            (Answer::Protected, true, "SD command 25 failed: events 0x400c, DMA 0x1, card 0x04000900"),
            (Answer::BusyForEver, true, "SD command 13 did not end"),
        ];
        for (answer, write, line) in all {
            let mut disk = disk(answer);
            let failed = moved(&mut disk, 0, 4096, write).unwrap_err();
            assert_eq!(failed.error.to_string(), line, "{answer:?}");
            assert_eq!(disk.wait.device().block.read(DMAC), 0, "{answer:?}: the DMA is off");
            assert!(failed.given.is_some(), "{answer:?}: the buffer");
            drop(failed);
            assert_eq!(quarantined(&disk), 0, "{answer:?}");
            (disk.wait.device().answer, disk.wait.device().busy_until) = (Answer::Whole, 0);
            assert!(moved(&mut disk, 0, 4096, write).is_ok(), "{answer:?}: the next command");
            assert_eq!(disk.wait.device().idled, 2, "{answer:?}: the card was selected afresh");
        }
    }

    /// I4: whatever made the driver reset it, a controller that does not reset keeps what it was given.
    #[test]
    fn a_controller_that_does_not_reset_keeps_the_buffer() {
        for answer in [Answer::NoDma, Answer::NoInterrupt, Answer::Nothing, Answer::Damaged, Answer::NoDescriptor] {
            let mut disk = disk(answer);
            let master = disk.master().clone();
            let buffer = disk.dma.alloc(&master, 4096, 1).unwrap().into_stream::<Bidirectional>().for_device();
            disk.wait.device().gets_stuck = true;
            let failed = disk.read_at(0, 4096, buffer).unwrap_err();
            assert_eq!(failed.error.to_string(), "the SD controller does not reset");
            assert!(failed.given.is_none());
            assert_eq!(quarantined(&disk), 4096, "{answer:?}: the buffer");
            // What it was not told of it does not keep.
            let before = disk.wait.device().requests.len();
            let failed = moved(&mut disk, 0, 4096, false).unwrap_err();
            assert_eq!(failed.error, MmcError::Hung);
            assert_eq!(disk.wait.device().requests.len(), before);
            let (dma, returns) = (disk.dma, disk.wait.device().block.returns());
            drop(disk);
            assert_eq!(returns.load(Ordering::Relaxed), 0, "{answer:?}: nobody else gets the registers");
            assert!(dma.stats().quarantined >= 8192, "{answer:?}: the page");
        }
    }
}
