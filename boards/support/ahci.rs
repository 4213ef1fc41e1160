//! A SATA disk behind an AHCI controller (AHCI 1.3.1), as on the Cubieboard: a bus master that reads its command, its
//! table and its list of buffers from memory, and writes the disk's data where they say.
//!
//! Guarantees: data goes straight between the disk and a [`Stream`] that the device owns, in state and in fact: no
//! mapping of it exists meanwhile (I4). What the controller reads of commands is one coherent page. The end of a command
//! is told by its interrupt. A command that fails or does not end stops the port's engines; only if these do not stop
//! may the controller still write, and [`AhciError::may_still_write`] says so.
//!
//! Power, clocks and the link's PHY are as the boot loader left them, as U-Boot's `scsi scan` does.

use super::bring_up::{DeviceRegisters, Kernel};
use super::clock::Clock;
use super::devices;
use super::interrupts;
use super::irq::IrqId;
use carveout::addr::{BusAddr, FRAME_SIZE};
use carveout::arch::armv7a::mmu::Armv7a;
use carveout::cma::area::AllocError;
use carveout::dma::buffer::{Coherent, Device, FromDevice, Stream};
use carveout::dma::master::Master;
use core::fmt;
use tock_registers::{
    interfaces::{ReadWriteable, Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite},
};

/// Bytes of a sector.
pub const SECTOR: usize = 512;

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
    Registers {
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
    /// No interrupt came; the controller's engines were stopped.
    Silent {
        /// The ATA command.
        command: u8,
    },
    /// The engines do not stop.
    Hung,
}

impl AhciError {
    /// Whether the controller may still write to the buffer of the command that failed.
    pub const fn may_still_write(&self) -> bool {
        matches!(self, Self::Hung)
    }
}

impl fmt::Display for AhciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom(error) => error.fmt(f),
            Self::NoInterrupt => f.write_str("the SATA controller has no interrupt, or the board no counter"),
            Self::Refused { command, task_file, events } => {
                write!(f, "SATA command {command:#04x} failed: task file {task_file:#x}, port events {events:#x}")
            }
            Self::Silent { command } => write!(f, "SATA command {command:#04x} did not end"),
            Self::Hung => f.write_str("the SATA port does not stop"),
        }
    }
}

/// A disk at port 0.
pub struct AhciDisk {
    registers: &'static Registers,
    /// Given back when the disk is dropped.
    _held: DeviceRegisters<'static, Registers>,
    page: Option<Coherent<Armv7a>>,
    clock: &'static Clock,
    irq: IrqId,
    sectors: u64,
    master: Master,
}

impl AhciDisk {
    /// Opens the disk at the first controller that has one, if there is such a controller and nobody else has it.
    pub fn open(kernel: &'static Kernel) -> Result<Option<Self>, AhciError> {
        let Some(found) = devices::find(&kernel.info, "allwinner,sun4i-a10-ahci") else { return Ok(None) };
        let block = found.blocks.first();
        let registers = block.and_then(|block| kernel.registers::<Registers>(block.at, block.bytes));
        let Some(held) = registers else { return Ok(None) };
        // SAFETY: the tree says that these are an AHCI controller's; they are mapped for good, and nobody else's until
        // `_held` is dropped with the disk.
        let registers = unsafe { held.pointer().as_ref() };
        registers.control.modify(GHC::AHCI::SET);
        if registers.ports.get() & 1 == 0 || !registers.link.matches_all(SSTS::DETECTED::LinkUp) {
            return Ok(None);
        }
        let (Some(irq), Some(clock)) = (found.irq, kernel.clock.as_ref()) else { return Err(AhciError::NoInterrupt) };
        let master = kernel.master_at(found.name, &found.path);
        let page = kernel.dma.alloc(&master, FRAME_SIZE, 1).map_err(AhciError::NoRoom)?;
        let page = page.into_coherent();
        let mut disk = Self { registers, _held: held, page: Some(page), clock, irq, sectors: 0, master };
        disk.start()?;
        disk.sectors = disk.identify()?;
        Ok(Some(disk))
    }

    /// The controller as a bus master.
    pub const fn master(&self) -> &Master {
        &self.master
    }

    /// Bytes on the disk.
    pub const fn bytes(&self) -> u64 {
        self.sectors * SECTOR as u64
    }

    /// Reads from the start of the disk into a buffer that the device owns, as many whole sectors as the buffer holds.
    pub fn read(&mut self, buffer: &Stream<Armv7a, FromDevice, Device>) -> Result<(), AhciError> {
        let bytes = buffer.len() / SECTOR * SECTOR;
        for offset in (0..bytes).step_by(MAX_REGIONS * REGION) {
            let length = (bytes - offset).min(MAX_REGIONS * REGION);
            let at = buffer.bus().raw() + offset as u32;
            self.command(READ_DMA_EXT, (offset / SECTOR) as u64, BusAddr::new(at), length)?;
        }
        Ok(())
    }

    fn page(&mut self) -> &mut Coherent<Armv7a> {
        self.page.as_mut().expect("there is a page until the disk is dropped")
    }

    /// Stops the port's engines (AHCI 1.3.1, 10.1.2).
    fn stop(&self) -> Result<(), AhciError> {
        let registers = self.registers;
        registers.command.modify(CMD::START::CLEAR);
        self.until(STOP, || !registers.command.is_set(CMD::LIST_RUNNING)).ok_or(AhciError::Hung)?;
        registers.command.modify(CMD::FIS_RECEIVE::CLEAR);
        self.until(STOP, || !registers.command.is_set(CMD::FIS_RUNNING)).ok_or(AhciError::Hung)
    }

    fn start(&mut self) -> Result<(), AhciError> {
        self.stop()?;
        let page = self.page();
        let bus = page.bus().raw();
        page.device_barrier();
        let registers = self.registers;
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
            page.write_at(LIST + 4 * n, &word.to_le_bytes());
        }
        page.write_at(TABLE, &host_to_device(command, lba, sectors as u16));
        for n in 0..regions {
            let (at, length) = (to.raw() + (n * REGION) as u32, (bytes - n * REGION).min(REGION));
            for (word, value) in [at, 0, 0, length as u32 - 1].into_iter().enumerate() {
                page.write_at(REGIONS + 16 * n + 4 * word, &value.to_le_bytes());
            }
        }
        // The table is in memory before the controller is told of it.
        page.device_barrier();
        interrupts::enable_once(self.irq);
        self.registers.issued.set(1);
        let came = self.until(PATIENCE, || interrupts::take(self.irq));
        let events = self.registers.port_events.extract();
        let task_file = self.registers.task_file.extract();
        // The port's events first, then the controller's, which is their sum (AHCI 1.3.1, 10.7.2.1).
        self.registers.port_events.set(events.get());
        self.registers.events.set(1);
        if came.is_some() && events.read(EVENTS::ERRORS) == 0 && !task_file.is_set(TFD::ERROR) {
            // A PIO setup FIS comes before the data it announces.
            let ended = self.until(PATIENCE, || self.registers.issued.get() & 1 == 0);
            self.page().dma_rmb();
            return ended.ok_or(AhciError::Silent { command });
        }
        self.stop()?;
        Err(match came {
            Some(()) => AhciError::Refused { command, task_file: task_file.get(), events: events.get() },
            None => AhciError::Silent { command },
        })
    }

    /// Waits for a condition; `None` if it does not come true in so many microseconds.
    fn until(&self, micros: u64, mut done: impl FnMut() -> bool) -> Option<()> {
        let start = self.clock.micros();
        loop {
            if done() {
                return Some(());
            }
            if self.clock.micros().saturating_sub(start) > micros {
                return None;
            }
            core::hint::spin_loop();
        }
    }
}

impl Drop for AhciDisk {
    fn drop(&mut self) {
        // A page of an engine that does not stop is the device's: dropped, it goes into quarantine.
        if self.stop().is_ok()
            && let Some(page) = self.page.take()
        {
            // SAFETY: the engines are stopped, so the controller neither reads nor writes the page.
            drop(unsafe { page.release() });
        }
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
