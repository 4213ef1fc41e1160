//! A SATA disk behind an AHCI controller (AHCI 1.3.1), as on the Cubieboard: a bus master that reads its command, its
//! table and its list of buffers from memory, and writes the disk's data where they say.
//!
//! Guarantees: data goes straight between the disk and a [`Stream`] that the device owns, in state and in fact: no
//! mapping of it exists meanwhile (I4). What the controller reads of commands is one coherent page. A buffer comes back
//! only after the controller has stopped.
//!
//! What "stopped" means (AHCI 1.3.1):
//! - Of one command: its bit of `PxCI` reads 0 while `PxCMD.ST` is 1, and neither `PxIS` nor `PxTFD` has an error. The
//!   controller clears the bit when the disk has said that the command is complete, after its data (3.3.14). The
//!   interrupt alone is no proof: it may be an earlier one, or that of a part of the command.
//! - Of the port, after anything else: `PxCMD.ST` is cleared and `PxCMD.CR` reads 0, so the engine for commands and
//!   data does not run; then `PxCMD.FRE` is cleared and `PxCMD.FR` reads 0, so nothing is received (3.3.7, 10.3).
//!   Clearing `PxCMD.ST` clears `PxCI` too, which then says nothing.
//!
//! A command that fails or does not end stops the port. The next command starts it again. A port that does not stop
//! keeps the buffer, and at the end its page: both go into quarantine.
//!
//! Power, clocks and the link's PHY are as the boot loader left them, as U-Boot's `scsi scan` does.
//!
//! This driver is ours because a crate such as simple-ahci takes a buffer by its CPU address, and here a device's
//! buffer has none (I4).

use super::{BlockDevice, BlockError, SECTOR};
use crate::drivers::mmio::Mmio;
use crate::drivers::wait::{Failed, Wait, until};
use alloc::boxed::Box;
use carveout::addr::{BusAddr, FRAME_SIZE};
use carveout::dma::{AllocError, Coherent, Cpu, Device, Dma, FromDevice, Master, Stream};
use carveout::machine::Machine;
use core::fmt;
use tock_registers::{
    interfaces::{ReadWriteable, Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite},
};

register_bitfields! [u32,
    GHC [INTERRUPTS OFFSET(1) NUMBITS(1) [], AHCI OFFSET(31) NUMBITS(1) []],
    /// PxCMD (AHCI 1.3.1, 3.3.7).
    CMD [
        START OFFSET(0) NUMBITS(1) [],
        SPIN_UP OFFSET(1) NUMBITS(1) [],
        POWER_ON OFFSET(2) NUMBITS(1) [],
        FIS_RECEIVE OFFSET(4) NUMBITS(1) [],
        FIS_RUNNING OFFSET(14) NUMBITS(1) [],
        LIST_RUNNING OFFSET(15) NUMBITS(1) [],
    ],
    /// PxIS and PxIE (3.3.5): a register FIS came, a PIO setup FIS, and what goes wrong.
    EVENTS [
        REGISTERS OFFSET(0) NUMBITS(1) [],
        PIO_SETUP OFFSET(1) NUMBITS(1) [],
        ERRORS OFFSET(26) NUMBITS(5) [All = 0x1f],
    ],
    TFD [ERROR OFFSET(0) NUMBITS(1) [], DRQ OFFSET(3) NUMBITS(1) [], BUSY OFFSET(7) NUMBITS(1) []],
    SSTS [DETECTED OFFSET(0) NUMBITS(4) [LinkUp = 3]],
];

register_structs! {
    /// The controller's registers and those of port 0 (AHCI 1.3.1, 3.1 and 3.3).
    pub Registers {
        (0x000 => _capabilities),
        (0x004 => control: ReadWrite<u32, GHC::Register>),
        (0x008 => events: ReadWrite<u32>),
        (0x00c => ports: ReadOnly<u32>),
        (0x010 => _reserved0),
        (0x100 => list: ReadWrite<u32>),
        (0x104 => list_high: ReadWrite<u32>),
        (0x108 => received: ReadWrite<u32>),
        (0x10c => received_high: ReadWrite<u32>),
        (0x110 => port_events: ReadWrite<u32, EVENTS::Register>),
        (0x114 => port_interrupts: ReadWrite<u32, EVENTS::Register>),
        (0x118 => command: ReadWrite<u32, CMD::Register>),
        (0x11c => _reserved1),
        (0x120 => task_file: ReadOnly<u32, TFD::Register>),
        (0x124 => _signature),
        (0x128 => link: ReadOnly<u32, SSTS::Register>),
        (0x12c => _reserved2),
        (0x130 => link_errors: ReadWrite<u32>),
        (0x134 => _reserved3),
        (0x138 => issued: ReadWrite<u32>),
        (0x13c => @END),
    }
}

// Where things stand in the coherent page, with the alignments that AHCI asks for: 1 KiB, 256 and 128 bytes.
const LIST: usize = 0;
const RECEIVED: usize = 0x400;
const TABLE: usize = 0x800;
/// The list of buffers, in the table.
const REGIONS: usize = TABLE + 0x80;
/// What IDENTIFY says.
const IDENTITY: usize = 0xc00;

/// Bytes of one entry of the list of buffers at most (AHCI 1.3.1, 4.2.3.3).
const REGION: usize = 4 << 20;
/// Entries used.
const MAX_REGIONS: usize = 8;

// ATA commands (ACS-2, 7).
const IDENTIFY: u8 = 0xec;
const READ_DMA_EXT: u8 = 0x25;

/// Microseconds a command may take; a disk that spins up takes seconds.
const PATIENCE: u64 = 10_000_000;
/// Microseconds the engines may take to stop: AHCI allows 500 ms (10.1.2).
const STOP: u64 = 500_000;

/// Why the disk is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AhciError {
    /// The area has no room for the commands.
    NoRoom(AllocError),
    /// The controller has no interrupt, or the board no counter to wait by.
    NoInterrupt,
    /// The disk or the controller reports an error.
    Refused {
        /// The ATA command.
        command: u8,
        /// PxTFD: status and error of the disk.
        task_file: u32,
        /// PxIS: events of the port.
        events: u32,
    },
    /// It did not end in time, whether or not an interrupt came; the controller's engines were stopped.
    Silent {
        /// The ATA command.
        command: u8,
    },
    /// The engines do not stop.
    Hung,
}

impl core::error::Error for AhciError {}

impl fmt::Display for AhciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom(error) => error.fmt(f),
            Self::NoInterrupt => f.write_str("the SATA controller has no interrupt, or the board no counter"),
            Self::Refused { command, task_file, events } => {
                write!(f, "SATA command {command:#04x} failed: task file {task_file:#x}, port events {events:#x}")
            }
            Self::Silent { command } => write!(f, "SATA command {command:#04x} did not end"),
            Self::Hung => f.write_str("the SATA port does not stop; reset the board"),
        }
    }
}

/// A disk at port 0.
pub struct AhciDisk<M: Machine + 'static, W: Wait> {
    registers: Mmio<Registers>,
    /// There until it is dropped.
    page: Option<Coherent<M>>,
    wait: W,
    sectors: u64,
    master: Master,
}

/// What a read gives.
type Read<M> = Result<Stream<M, FromDevice, Cpu>, Failed<AhciError, Stream<M, FromDevice, Cpu>>>;

impl<M: Machine, W: Wait> AhciDisk<M, W> {
    /// Returns whether a disk is at port 0.
    pub fn is_there(registers: &Mmio<Registers>) -> bool {
        registers.control.modify(GHC::AHCI::SET);
        registers.ports.get() & 1 != 0 && registers.link.matches_all(SSTS::DETECTED::LinkUp)
    }

    /// Starts port 0 with a page of `master`'s area for its commands, and asks the disk for its size. `wait` is the
    /// controller's interrupt.
    ///
    /// # Errors
    ///
    /// [`AhciError::NoRoom`] if the area has no page. [`AhciError::Refused`], [`AhciError::Silent`] and
    /// [`AhciError::Hung`] if the disk does not say its size.
    pub fn open(registers: Mmio<Registers>, wait: W, master: Master, dma: &'static Dma<M>) -> Result<Self, AhciError> {
        let page = dma.alloc_coherent(&master, FRAME_SIZE, 1).map_err(AhciError::NoRoom)?;
        let mut disk = Self { registers, page: Some(page), wait, sectors: 0, master };
        disk.start()?;
        disk.sectors = disk.identify()?;
        Ok(disk)
    }

    /// Reads from the start of the disk into a buffer, as many whole sectors as the buffer holds.
    fn read_start(&mut self, buffer: Stream<M, FromDevice, Device>) -> Read<M> {
        if let Err(error) = self.ready() {
            // SAFETY: the controller was never told of this buffer (I4).
            let buffer = unsafe { buffer.for_cpu() };
            return Err(Failed { error, given: Some(buffer) });
        }
        let bytes = buffer.len() / SECTOR * SECTOR;
        let mut parts = (0..bytes).step_by(MAX_REGIONS * REGION);
        let result = parts.try_for_each(|offset| {
            let length = (bytes - offset).min(MAX_REGIONS * REGION);
            let at = buffer.bus().raw() + offset as u32;
            self.command(READ_DMA_EXT, (offset / SECTOR) as u64, BusAddr::new(at), length)
        });
        if result == Err(AhciError::Hung) {
            // Dropped as the device's: into quarantine.
            return Err(Failed { error: AhciError::Hung, given: None });
        }
        // SAFETY: each command ended, or `command` stopped the port: the module's documents say by which registers
        // (I4).
        let buffer = unsafe { buffer.for_cpu() };
        match result {
            Ok(()) => Ok(buffer),
            Err(error) => Err(Failed { error, given: Some(buffer) }),
        }
    }

    fn page(&mut self) -> &mut Coherent<M> {
        self.page.as_mut().expect("there is a page until the disk is dropped")
    }

    /// Waits for a condition; `None` if it does not come true in so many microseconds.
    fn until(&self, micros: u64, done: impl FnMut() -> bool) -> Option<()> {
        until(|| self.wait.micros(), micros, done).then_some(())
    }

    /// Stops the port's engines: when it returns `Ok`, the controller accesses no memory for this port.
    fn stop(&self) -> Result<(), AhciError> {
        let registers = &*self.registers;
        registers.command.modify(CMD::START::CLEAR);
        self.until(STOP, || !registers.command.is_set(CMD::LIST_RUNNING)).ok_or(AhciError::Hung)?;
        registers.command.modify(CMD::FIS_RECEIVE::CLEAR);
        self.until(STOP, || !registers.command.is_set(CMD::FIS_RUNNING)).ok_or(AhciError::Hung)
    }

    /// Starts the port again if an error stopped it.
    fn ready(&mut self) -> Result<(), AhciError> {
        if self.registers.command.is_set(CMD::START) { Ok(()) } else { self.start() }
    }

    fn start(&mut self) -> Result<(), AhciError> {
        self.stop()?;
        let page = self.page();
        let bus = page.bus().raw();
        page.device_barrier();
        let registers = &*self.registers;
        registers.list.set(bus + LIST as u32);
        registers.list_high.set(0);
        registers.received.set(bus + RECEIVED as u32);
        registers.received_high.set(0);
        registers.link_errors.set(u32::MAX);
        registers.port_events.set(u32::MAX);
        registers.events.set(1);
        registers.command.modify(CMD::POWER_ON::SET + CMD::SPIN_UP::SET + CMD::FIS_RECEIVE::SET);
        let idle = || !registers.task_file.is_set(TFD::BUSY) && !registers.task_file.is_set(TFD::DRQ);
        self.until(PATIENCE, idle).ok_or(AhciError::Silent { command: 0 })?;
        registers.command.modify(CMD::START::SET);
        registers.port_interrupts.write(EVENTS::REGISTERS::SET + EVENTS::PIO_SETUP::SET + EVENTS::ERRORS::All);
        registers.control.modify(GHC::INTERRUPTS::SET);
        Ok(())
    }

    /// The disk's sectors, by 48-bit addresses (ACS-2, 7.18.7: words 100 to 103).
    fn identify(&mut self) -> Result<u64, AhciError> {
        let to = BusAddr::new(self.page().bus().raw() + IDENTITY as u32);
        self.command(IDENTIFY, 0, to, SECTOR)?;
        let mut sectors = [0; 8];
        self.page().read_at(IDENTITY + 2 * 100, &mut sectors);
        Ok(u64::from_le_bytes(sectors))
    }

    /// One command in slot 0, from its table to its interrupt.
    fn command(&mut self, command: u8, lba: u64, to: BusAddr, bytes: usize) -> Result<(), AhciError> {
        let sectors = if command == IDENTIFY { 0 } else { bytes / SECTOR };
        let regions = bytes.div_ceil(REGION);
        let page = self.page();
        let table = page.bus().raw() + TABLE as u32;
        // Five words of FIS; the count of regions; bytes moved; where the table is.
        for (n, word) in [5 | (regions as u32) << 16, 0, table, 0].into_iter().enumerate() {
            page.write_word(LIST + 4 * n, word.to_le());
        }
        page.write_at(TABLE, &host_to_device(command, lba, sectors as u16));
        for n in 0..regions {
            let (at, length) = (to.raw() + (n * REGION) as u32, (bytes - n * REGION).min(REGION));
            for (word, value) in [at, 0, 0, length as u32 - 1].into_iter().enumerate() {
                page.write_word(REGIONS + 16 * n + 4 * word, value.to_le());
            }
        }
        // The table is in memory before the controller is told of it.
        page.device_barrier();
        let registers = &*self.registers;
        let errors = || registers.port_events.read(EVENTS::ERRORS) != 0;
        self.wait.listen();
        registers.issued.set(1);
        // An interrupt may be of an earlier event, or of a part of the command: then the end is still to come.
        let mut told = false;
        let ended = self.until(PATIENCE, || {
            told |= self.wait.told();
            told && (errors() || registers.issued.get() & 1 == 0)
        });
        let failed = errors() || ended.is_some() && registers.task_file.is_set(TFD::ERROR);
        let (events, task_file) = (registers.port_events.get(), registers.task_file.get());
        // The port's events first, then the controller's, which is their sum (AHCI 1.3.1, 10.7.2.1).
        registers.port_events.set(events);
        registers.events.set(1);
        if ended.is_some() && !failed {
            self.page().dma_rmb();
            return Ok(());
        }
        self.stop()?;
        Err(if failed { AhciError::Refused { command, task_file, events } } else { AhciError::Silent { command } })
    }
}

impl<M: Machine, W: Wait> Drop for AhciDisk<M, W> {
    fn drop(&mut self) {
        // The page of an engine that does not stop is the device's: dropped, it goes into quarantine.
        if self.stop().is_ok()
            && let Some(page) = self.page.take()
        {
            // SAFETY: `stop` saw the engines stop, so the controller neither reads nor writes the page (I4).
            unsafe { page.give_up() };
        } else {
            self.registers.keep();
        }
    }
}

impl<M: Machine, W: Wait> BlockDevice<M> for AhciDisk<M, W> {
    fn name(&self) -> &'static str {
        "AHCI"
    }

    fn master(&self) -> &Master {
        &self.master
    }

    fn bytes(&self) -> u64 {
        self.sectors * SECTOR as u64
    }

    fn read(&mut self, buffer: Stream<M, FromDevice, Device>) -> Result<Stream<M, FromDevice, Cpu>, BlockError> {
        self.read_start(buffer).map_err(|failed| Box::new(failed.error).into())
    }
}

/// A register FIS from host to device (SATA 3.1, 10.5.5) for a command with 48-bit addresses. No sectors mean none, or
/// 65536.
fn host_to_device(command: u8, lba: u64, sectors: u16) -> [u8; 20] {
    let (lba, count) = (lba.to_le_bytes(), sectors.to_le_bytes());
    let mut fis = [0; 20];
    // Its type, that it is a command, which, and that the address is one of sectors.
    fis[..3].copy_from_slice(&[0x27, 0x80, command]);
    fis[7] = 0x40;
    fis[4..7].copy_from_slice(&lba[..3]);
    fis[8..11].copy_from_slice(&lba[3..6]);
    fis[12..14].copy_from_slice(&count);
    fis
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

    // By offset, as the manual lists them.
    const CONTROL: usize = 0x004;
    const PORTS: usize = 0x00c;
    const LIST_AT: usize = 0x100;
    const EVENTS_AT: usize = 0x110;
    const COMMAND: usize = 0x118;
    const TASK_FILE: usize = 0x120;
    const LINK: usize = 0x128;
    const ISSUED: usize = 0x138;
    const ST: u32 = 1;
    const FRE: u32 = 1 << 4;
    const FR: u32 = 1 << 14;
    const CR: u32 = 1 << 15;
    const REGISTER_FIS: u32 = 1;
    const SETUP_FIS: u32 = 2;
    const TASK_FILE_ERROR: u32 = 1 << 30;

    /// What the disk does with a command.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Answer {
        /// Ends it, its data first.
        Whole,
        /// Interrupts, and ends it half a second later.
        EarlyInterrupt,
        /// Interrupts, and does not end it.
        KeepsItsBit,
        /// Ends it without an interrupt.
        NoInterrupt,
        /// Nothing at all.
        Nothing,
        /// Says that it failed.
        Error,
        /// Says so after the interrupt of a part of it.
        LateError,
        /// Says so in the disk's status alone, and clears the bit, as QEMU does.
        ErrorInStatus,
    }

    /// A controller with a disk of 8 sectors: what it does with commands after the first, and which of `CR` and `FR`
    /// stays.
    struct Controller {
        block: Block<Registers>,
        setup: Setup,
        answer: Answer,
        stuck: u32,
        /// When the command under way was found.
        since: Option<u64>,
        commands: u32,
    }

    impl Controller {
        /// Lets time pass; whether it raises its interrupt.
        fn step(&mut self, now: u64) -> bool {
            let block = &self.block;
            let command = block.read(COMMAND);
            let running = if command & ST == 0 { command & CR & self.stuck } else { CR }
                | if command & FRE == 0 { command & FR & self.stuck } else { FR };
            block.write(COMMAND, command & !(CR | FR) | running);
            if command & ST == 0 {
                // Clearing it clears the commands' bits.
                block.write(ISSUED, 0);
                self.since = None;
            }
            if block.read(ISSUED) & 1 == 0 {
                return false;
            }
            let first = self.since.is_none();
            let since = *self.since.get_or_insert(now);
            if first {
                self.commands += 1;
                block.write(EVENTS_AT, 0);
                block.write(TASK_FILE, 0x50);
            }
            let end = |events: u32, status: u32, issued: u32| {
                block.write(EVENTS_AT, events);
                block.write(TASK_FILE, status);
                block.write(ISSUED, issued);
            };
            let answer = if self.commands == 1 { Answer::Whole } else { self.answer };
            match answer {
                Answer::EarlyInterrupt if now - since < 500_000 => {
                    block.write(EVENTS_AT, SETUP_FIS);
                    return first;
                }
                Answer::Whole | Answer::EarlyInterrupt => {
                    self.fill();
                    end(REGISTER_FIS, 0x50, 0);
                }
                Answer::KeepsItsBit => {
                    block.write(EVENTS_AT, REGISTER_FIS);
                    return first;
                }
                Answer::NoInterrupt => end(0, 0x50, 0),
                Answer::Nothing => {}
                Answer::LateError if now - since < 500_000 => block.write(EVENTS_AT, SETUP_FIS),
                Answer::Error | Answer::LateError => end(REGISTER_FIS | TASK_FILE_ERROR, 0x4051, 1),
                Answer::ErrorInStatus => end(REGISTER_FIS, 0x4051, 0),
            }
            if self.block.read(ISSUED) & 1 == 0 {
                self.since = None;
            }
            !matches!(answer, Answer::NoInterrupt | Answer::Nothing)
        }

        /// Writes a command's data where its table says.
        fn fill(&self) {
            let word = |at: u32| {
                let bytes = self.setup.fake.device_read(PhysAddr::new(at), 4);
                u32::from_le_bytes(bytes.try_into().unwrap())
            };
            let table = word(self.block.read(LIST_AT) + 8);
            let (to, bytes) = (word(table + 0x80), word(table + 0x8c) + 1);
            let mut data = std::vec![0xd1; bytes as usize];
            if word(table) >> 16 & 0xff == u32::from(IDENTIFY) {
                data[200..208].copy_from_slice(&8u64.to_le_bytes());
            }
            self.setup.fake.device_write(PhysAddr::new(to), &data);
        }
    }

    type Disk = AhciDisk<Fake, Played<Controller>>;

    fn disk(answer: Answer, stuck: u32) -> Disk {
        let block = block::<Registers>(0x140);
        for (register, value) in [(CONTROL, 1 << 31), (PORTS, 1), (LINK, 0x113), (TASK_FILE, 0x50)] {
            block.write(register, value);
        }
        let registers = block.mmio();
        assert!(Disk::is_there(&registers));
        let setup = Setup::new(1);
        let (master, dma) = (setup.master("sata"), setup.dma);
        let controller = Controller { block, setup, answer, stuck, since: None, commands: 0 };
        let disk = Disk::open(registers, Played::new(controller, Controller::step), master, dma).unwrap();
        assert_eq!(disk.bytes(), 4096);
        disk
    }

    /// A read of the disk into a fresh buffer.
    fn read(disk: &mut Disk) -> Read<Fake> {
        let master = disk.master().clone();
        let buffer = disk.wait.device().setup.dma.alloc(&master, 4096, 1).unwrap();
        disk.read_start(buffer.into_stream().for_device())
    }

    fn quarantined(disk: &Disk) -> u64 {
        disk.wait.device().setup.dma.stats().quarantined
    }

    #[test]
    fn a_command_that_ends_gives_its_data() {
        for answer in [Answer::Whole, Answer::EarlyInterrupt] {
            let mut disk = disk(answer, 0);
            let buffer = read(&mut disk).unwrap();
            assert!(buffer.bytes().iter().all(|&byte| byte == 0xd1), "{answer:?}");
            drop(buffer);
            let free = disk.wait.device().setup.free_bytes();
            let dma = disk.wait.device().setup.dma;
            let returns = disk.wait.device().block.returns();
            drop(disk);
            assert_eq!(returns.load(Ordering::Relaxed), 1, "{answer:?}: the registers are anybody's");
            assert_eq!((dma.stats().quarantined, free), (0, (4 << 20) - 4096));
            assert_eq!(dma.free_bytes(dma.area("test").unwrap()).0, 4 << 20, "the page too came back");
        }
    }

    /// I4: the port has stopped when the buffer is the CPU's again, and the next command starts it.
    #[test]
    fn a_command_that_fails_stops_the_port() {
        let refused = "SATA command 0x25 failed: task file 0x4051, port events 0x40000001";
        let silent = "SATA command 0x25 did not end";
        let all = [
            (Answer::KeepsItsBit, silent),
            (Answer::NoInterrupt, silent),
            (Answer::Nothing, silent),
            (Answer::Error, refused),
            (Answer::LateError, refused),
            (Answer::ErrorInStatus, "SATA command 0x25 failed: task file 0x4051, port events 0x1"),
        ];
        for (answer, line) in all {
            let mut disk = disk(answer, 0);
            let failed = read(&mut disk).unwrap_err();
            assert_eq!(failed.error.to_string(), line, "{answer:?}");
            assert_eq!(disk.wait.device().block.read(COMMAND) & (ST | CR | FRE | FR), 0, "{answer:?}: engines run");
            assert!(failed.given.is_some(), "{answer:?}: the buffer");
            drop(failed);
            assert_eq!(quarantined(&disk), 0, "{answer:?}");
            disk.wait.device().answer = Answer::Whole;
            assert!(read(&mut disk).is_ok(), "{answer:?}: the next command");
        }
    }

    /// I4: whatever made the driver stop it, a port that does not stop keeps what it was given.
    #[test]
    fn a_port_that_does_not_stop_keeps_the_buffer() {
        for answer in [Answer::KeepsItsBit, Answer::NoInterrupt, Answer::Nothing, Answer::Error, Answer::LateError] {
            for stuck in [CR, FR, CR | FR] {
                let mut disk = disk(answer, stuck);
                let failed = read(&mut disk).unwrap_err();
                assert_eq!(failed.error.to_string(), "the SATA port does not stop; reset the board");
                assert!(failed.given.is_none());
                assert_eq!(quarantined(&disk), 4096, "{answer:?}, {stuck:#x}: the buffer");
                // What it was not told of it does not keep, and no command is written while it runs.
                let before = disk.wait.device().commands;
                let failed = read(&mut disk).unwrap_err();
                assert_eq!((failed.error, failed.given.is_some()), (AhciError::Hung, true));
                drop(failed);
                assert_eq!((quarantined(&disk), disk.wait.device().commands), (4096, before));
                let dma = disk.wait.device().setup.dma;
                let returns = disk.wait.device().block.returns();
                drop(disk);
                let returns = returns.load(Ordering::Relaxed);
                assert_eq!(returns, 0, "{answer:?}, {stuck:#x}: nobody else gets the registers");
                assert_eq!(dma.stats().quarantined, 8192, "{answer:?}, {stuck:#x}: the page");
            }
        }
    }
}
