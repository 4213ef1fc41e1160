//! The table of drivers: for each kind of device, from a node's `compatible` to its driver.
//!
//! A new driver is a row here. A row says by its types what registers the device has, opens the driver with them, and
//! gives `None` if the node lacks what the driver needs.

use super::devices::{self, Block, Found};
use super::interrupts;
use super::registers::{first, map};
use super::state::{Kernel, kernel};
use crate::drivers::display::{Display, pl111::Pl111};
use crate::drivers::dma::pl081::Pl081;
use crate::drivers::dma::{Copier, CopyError};
use crate::drivers::intc::irq::IrqId;
use crate::drivers::intc::{InterruptController, gic::Gic, omap::OmapIntc, sun4i::Sun4iIntc};
use crate::drivers::mmio::Mmio;
use crate::drivers::net::virtio_net::{NetError, Nic};
use crate::drivers::storage::ahci::{AhciDisk, AhciError};
use crate::drivers::storage::pl181::Card;
use crate::drivers::storage::sd::CardError;
use crate::drivers::storage::sun4i_mmc::{MmcError, SdDisk};
use crate::drivers::storage::{BlockDevice, BlockError, virtio_blk};
use crate::drivers::timer::a9_private::A9PrivateTimer;
use crate::drivers::timer::generic::GenericTimer;
use crate::drivers::timer::sp804::{Sp804, Sp804Alarm};
use crate::drivers::timer::sun4i::{Sun4iAlarm, Sun4iTimer};
use crate::drivers::timer::{Alarm, Counter, a9_global::A9GlobalTimer, dm::DmTimer};
use crate::drivers::uart::Uart;
use crate::drivers::uart::ns16550::{Ns16550, Wiring};
use crate::drivers::uart::pl011::Pl011;
use crate::drivers::wait::Wait;
use alloc::boxed::Box;
use alloc::vec::Vec;
use carveout::addr::PhysAddr;
use carveout_armv7a::mmu::Armv7a;
use carveout_boot::bootinfo::BootInfo;
use carveout_rt::address_space::AddressSpace;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::{Mutex, MutexGuard};
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::mmio::MmioTransport;

/// Opens a UART.
pub(super) type OpenUart = fn(&mut AddressSpace, &Found<'_>) -> Option<&'static mut dyn Uart>;

/// The UARTs.
pub(super) const UARTS: [(&str, OpenUart); 5] = [
    ("arm,pl011", |space, found| {
        static PLACE: Mutex<Option<Pl011>> = Mutex::new(None);
        // SAFETY: the tree says that these are a PL011's.
        let registers = unsafe { first(space, found) }?;
        Some(put(&PLACE, Pl011::new(registers))?)
    }),
    ("snps,dw-apb-uart", |space, found| open_16550(space, found, 0)),
    ("ns16550a", |space, found| open_16550(space, found, 0)),
    // These bindings have no reg-shift: the registers are always one word apart.
    ("ti,am3352-uart", |space, found| open_16550(space, found, 2)),
    ("ti,omap3-uart", |space, found| open_16550(space, found, 2)),
];

/// Stores a UART for ever, without a heap. Returns `None` if one is stored already.
fn put<U>(place: &'static Mutex<Option<U>>, uart: U) -> Option<&'static mut U> {
    Some(MutexGuard::leak(place.try_lock()?).insert(uart))
}

fn open_16550(space: &mut AddressSpace, found: &Found<'_>, shift: u8) -> Option<&'static mut dyn Uart> {
    static PLACE: Mutex<Option<Ns16550>> = Mutex::new(None);
    let shift = found.reg_shift.map_or(Some(shift), |shift| u8::try_from(shift).ok())?;
    let wiring = Wiring { shift, words: found.reg_io_width == Some(4) };
    found.blocks.first().filter(|block| wiring.bytes().is_some_and(|bytes| bytes <= block.bytes))?;
    // SAFETY: the tree says that these are a 16550's.
    let registers = unsafe { first(space, found) }?;
    // SAFETY: the whole block is this driver's. It is large enough, as just checked. On a bus that takes words, a
    // UART's address is a multiple of its size.
    Some(put(&PLACE, unsafe { Ns16550::new(registers, wiring) })?)
}

type OpenController = fn(&mut AddressSpace, &Found<'_>) -> Option<Box<dyn InterruptController>>;

/// The interrupt controllers. The boot runs on core 0.
pub(super) const CONTROLLERS: [(&str, OpenController); 6] = [
    ("arm,cortex-a9-gic", open_gic),
    ("arm,cortex-a15-gic", open_gic),
    ("arm,gic-400", open_gic),
    ("arm,pl390", open_gic),
    ("allwinner,sun4i-a10-ic", |space, found| {
        // SAFETY: the tree says whose these are.
        let registers = unsafe { first(space, found) }?;
        Some(Box::new(Sun4iIntc::new(registers)))
    }),
    ("ti,am33xx-intc", |space, found| {
        // SAFETY: the tree says whose these are.
        let registers = unsafe { first(space, found) }?;
        Some(Box::new(OmapIntc::new(registers)))
    }),
];

fn open_gic(space: &mut AddressSpace, found: &Found<'_>) -> Option<Box<dyn InterruptController>> {
    let &[distributor, cpu] = found.blocks.as_slice() else { return None };
    let (distributor, cpu) = (map(space, distributor)?, map(space, cpu)?);
    // SAFETY: the tree says that this is a GIC's distributor. `map` gives it to nobody else, ever.
    let distributor = unsafe { Mmio::new(distributor, None) };
    // SAFETY: as above, for its CPU interface.
    let cpu = unsafe { Mmio::new(cpu, None) };
    Some(Box::new(Gic::new(distributor, cpu)))
}

/// The timers of an Allwinner A10. One counts, and another one interrupts.
const SUN4I: &str = "allwinner,sun4i-a10-timer";
/// A timer that counts or interrupts. Boards have several.
const SP804: &str = "arm,sp804";

type OpenCounter = fn(&mut AddressSpace, &Found<'_>) -> Option<Box<dyn Counter>>;

/// The Generic Timer, which cores have or do not have.
const GENERIC: &str = "arm,armv7-timer";

/// Returns the cores' own count, if they have one and the tree names it. The tree is not asked for cores without one.
pub(super) fn cores_counter(info: &BootInfo<'_>) -> Option<Box<dyn Counter>> {
    let timer = GenericTimer::new()?;
    devices::find(info, GENERIC)?;
    Some(Box::new(timer))
}

/// The counters beside the cores' own, the best first.
pub(super) const COUNTERS: [(&str, OpenCounter); 4] = [
    ("arm,cortex-a9-global-timer", |space, found| {
        let hertz = found.hertz?;
        // SAFETY: the tree says whose these are.
        let registers = unsafe { first(space, found) }?;
        Some(Box::new(A9GlobalTimer::new(registers, hertz)))
    }),
    (SP804, |space, found| {
        // SAFETY: the tree says whose these are.
        let registers = unsafe { first(space, found) }?;
        Some(Box::new(Sp804::new(registers)))
    }),
    (SUN4I, |space, found| {
        let at = map(space, sun4i_timer(found, Sun4iTimer::AT)?)?;
        // SAFETY: the tree says whose these are; `map` gave them to nobody else, for good.
        let registers = unsafe { Mmio::new(at, None) };
        Some(Box::new(Sun4iTimer::new(registers)))
    }),
    ("ti,am335x-timer", |space, found| {
        // SAFETY: the tree says whose these are.
        let registers = unsafe { first(space, found) }?;
        // SAFETY: the first timer that a tree names is the one that U-Boot counts with, so its clocks run.
        Some(Box::new(unsafe { DmTimer::new(registers) }))
    }),
];

/// Returns the part of an Allwinner A10's timers that is at these bytes: each of its drivers has its own.
fn sun4i_timer(found: &Found<'_>, bytes: Range<u32>) -> Option<Block> {
    let all = found.blocks.first().filter(|all| all.bytes >= bytes.end)?;
    Some(Block { at: PhysAddr::new(all.at.raw() + bytes.start), bytes: bytes.end - bytes.start })
}

type OpenAlarm = fn(&'static Kernel, &Found<'_>) -> Option<Box<dyn Alarm>>;

/// The timers that interrupt, the best first, and which of their interrupts that is.
const ALARMS: [(&str, usize, OpenAlarm); 4] = [
    ("arm,cortex-a9-twd-timer", 0, |kernel, found| {
        let hertz = found.hertz?;
        // SAFETY: the tree says whose these are.
        let registers = unsafe { kernel.first(found) }?;
        Some(Box::new(A9PrivateTimer::new(registers, hertz)))
    }),
    // Secure, non-secure, virtual.
    (GENERIC, 2, |_, _| Some(Box::new(GenericTimer::new()?))),
    (SP804, 0, |kernel, found| {
        // SAFETY: the tree says whose these are.
        let registers = unsafe { kernel.first(found) }?;
        Some(Box::new(Sp804Alarm::new(registers)))
    }),
    (SUN4I, 0, |kernel, found| {
        let part = sun4i_timer(found, Sun4iAlarm::AT)?;
        // SAFETY: the tree says whose these are.
        let registers = unsafe { kernel.registers(part.at, part.bytes) }?;
        Some(Box::new(Sun4iAlarm::new(registers)))
    }),
];

/// Takes a timer that interrupts, and its interrupt, if the board has one. The first timer of a kind may be the
/// kernel's counter, so the last one is taken.
pub fn alarm(kernel: &'static Kernel) -> Option<(Box<dyn Alarm>, IrqId)> {
    ALARMS.iter().find_map(|&(name, irq, open)| {
        let mut all = Vec::new();
        devices::find_all(&kernel.info, name, |found| all.push(found));
        // An SP804 counts or interrupts. The other kinds do both.
        let found = all.get(usize::from(name == SP804)..)?.last()?;
        Some((open(kernel, found)?, *found.irqs.get(irq)?))
    })
}

/// A disk of the board.
pub type Disk = Box<dyn BlockDevice<Armv7a>>;

type OpenDisk = fn(&'static Kernel, &Found<'static>) -> Result<Option<Disk>, BlockError>;

/// The disks, the best first.
const DISKS: [(&str, OpenDisk); 2] = [
    ("virtio,mmio", |kernel, found| {
        static OPENED: AtomicBool = AtomicBool::new(false);
        if OPENED.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Some(transport) = virtio_transport(kernel, found, DeviceType::Block) else { return Ok(None) };
        OPENED.store(true, Ordering::Relaxed);
        let master = kernel.master_at("virtio-blk", &found.path);
        let disk = virtio_blk::Disk::open(transport, master, kernel.dma, micros)?;
        Ok(Some(Box::new(disk)))
    }),
    ("allwinner,sun4i-a10-ahci", |kernel, found| {
        // SAFETY: the tree says that these are an AHCI controller's.
        let Some(registers) = (unsafe { kernel.first(found) }) else { return Ok(None) };
        if !AhciDisk::<Armv7a, Interrupt>::is_there(&registers) {
            return Ok(None);
        }
        let wait = Interrupt::of(kernel, found).ok_or(AhciError::NoInterrupt)?;
        let master = kernel.master_at(found.name, &found.path);
        Ok(Some(Box::new(AhciDisk::open(registers, wait, master, kernel.dma)?)))
    }),
];

/// The memory cards whose controller is a bus master.
const CARDS: [(&str, OpenDisk); 2] = [("allwinner,sun4i-a10-mmc", open_card), ("allwinner,sun7i-a20-mmc", open_card)];

fn open_card(kernel: &'static Kernel, found: &Found<'static>) -> Result<Option<Disk>, BlockError> {
    // SAFETY: the tree says that these are such a controller's.
    let Some(registers) = (unsafe { kernel.first(found) }) else { return Ok(None) };
    let wait = Interrupt::of(kernel, found).ok_or(MmcError::NoInterrupt)?;
    let master = kernel.master_at(found.name, &found.path);
    let card = SdDisk::<Armv7a, Interrupt>::open(registers, wait, master, kernel.dma)?;
    Ok(card.map(|card| Box::new(card) as Disk))
}

/// Opens the first disk that answers and that no other driver has.
///
/// # Errors
///
/// The driver's error, if a disk answers but cannot be opened.
pub fn disk(kernel: &'static Kernel) -> Result<Option<Disk>, BlockError> {
    first_that_answers(kernel, &DISKS)
}

/// Opens the first memory card that is there and that no other driver has, of controllers that are bus masters.
///
/// # Errors
///
/// As [`disk`].
pub fn card_disk(kernel: &'static Kernel) -> Result<Option<Disk>, BlockError> {
    first_that_answers(kernel, &CARDS)
}

fn first_that_answers(kernel: &'static Kernel, disks: &[(&'static str, OpenDisk)]) -> Result<Option<Disk>, BlockError> {
    for &(compatible, open) in disks {
        let mut all = Vec::new();
        devices::find_all(&kernel.info, compatible, |found| all.push(found));
        for found in all {
            if let Some(disk) = open(kernel, &found)? {
                return Ok(Some(disk));
            }
        }
    }
    Ok(None)
}

/// Takes the transport of a `virtio,mmio` node if its device is of that kind. The caller drives it.
pub fn virtio_transport(
    kernel: &'static Kernel,
    found: &Found<'_>,
    kind: DeviceType,
) -> Option<MmioTransport<'static>> {
    let bytes = found.blocks.first()?.bytes as usize;
    // SAFETY: the tree says that these are a virtio transport's.
    let registers = unsafe { kernel.first(found) }?;
    virtio_blk::transport(registers, bytes, kind)
}

/// Opens the first network device that is there.
///
/// # Errors
///
/// [`NetError`] if there is a device but it cannot be used.
pub fn network(kernel: &'static Kernel) -> Result<Option<Nic>, NetError> {
    let mut all = Vec::new();
    devices::find_all(&kernel.info, "virtio,mmio", |found| all.push(found));
    let device =
        all.into_iter().find_map(|found| Some((virtio_transport(kernel, &found, DeviceType::Network)?, found.path)));
    let Some((transport, path)) = device else { return Ok(None) };
    Nic::open(transport, kernel.master_at("virtio-net", &path), kernel.dma).map(Some)
}

/// Opens the memory card, if a controller has one.
///
/// # Errors
///
/// [`CardError`] if there is a card but it does not start.
pub fn card(kernel: &'static Kernel) -> Result<Option<Card>, CardError> {
    let Some(found) = devices::find(&kernel.info, "arm,pl181") else { return Ok(None) };
    // SAFETY: the tree says that these are a PL181's.
    let Some(registers) = (unsafe { kernel.first(&found) }) else { return Ok(None) };
    Card::open(registers)
}

type OpenDisplay = fn(&'static Kernel, &Found<'_>) -> Option<Box<dyn Display>>;

/// The displays.
const DISPLAYS: [(&str, OpenDisplay); 1] = [("arm,pl111", |kernel, found| {
    // SAFETY: the tree says that these are a PL111's.
    let registers = unsafe { kernel.first(found) }?;
    Some(Box::new(Pl111::new(registers)))
})];

/// A display of the tree, to be opened.
pub struct KnownDisplay {
    /// Its node.
    pub found: Found<'static>,
    open: OpenDisplay,
}

impl KnownDisplay {
    /// Opens it. Returns `None`, and prints a line, if it has too few registers or another driver has them.
    pub fn open(&self, kernel: &'static Kernel) -> Option<Box<dyn Display>> {
        (self.open)(kernel, &self.found)
    }
}

/// Returns the displays of the tree.
pub fn displays(kernel: &Kernel) -> Vec<KnownDisplay> {
    let mut all = Vec::new();
    for (compatible, open) in DISPLAYS {
        devices::find_all(&kernel.info, compatible, |found| all.push(KnownDisplay { found, open }));
    }
    all
}

/// The DMA controller of a board.
pub type BoardCopier = Copier<Armv7a, Interrupt>;

/// Takes the DMA controller. Returns `None` if the board has none, or if it was taken before.
///
/// # Errors
///
/// [`CopyError::NoRoom`] if the area has no room for the controller's list.
pub fn copier(kernel: &'static Kernel) -> Result<Option<BoardCopier>, CopyError> {
    let Some(found) = devices::find(&kernel.info, "arm,pl081") else { return Ok(None) };
    let Some(&irq) = found.irqs.first() else { return Ok(None) };
    // SAFETY: the tree says that these are a PL081's.
    let Some(registers) = (unsafe { kernel.first(&found) }) else { return Ok(None) };
    let master = kernel.master_at(found.name, &found.path);
    Copier::new(Pl081::new(registers), Interrupt(irq), master, kernel.dma).map(Some)
}

/// A device's interrupt on a board.
pub struct Interrupt(IrqId);

impl Interrupt {
    /// Returns the interrupt of a device. Returns `None` if the device has no interrupt or the board has no counter.
    fn of(kernel: &Kernel, found: &Found<'_>) -> Option<Self> {
        kernel.clock.as_ref().and(found.irqs.first().copied()).map(Self)
    }
}

impl Wait for Interrupt {
    fn listen(&self) {
        interrupts::enable_once(self.0);
    }

    fn told(&self) -> bool {
        interrupts::take(self.0)
    }

    fn micros(&self) -> u64 {
        micros()
    }
}

/// The time since boot.
fn micros() -> u64 {
    kernel().map_or(0, Kernel::micros)
}
