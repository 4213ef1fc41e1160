//! From the head's handover to a running kernel: one function, in the order of the data's flow.
//!
//! Guarantees: when [`start`] returns, the direct map holds no carved frame (I2), the identity map is gone, every
//! carve-out is an area of the one [`Dma`], console, log, heap and interrupts work, and the other cores are in. Bad input was refused in one
//! line each and listed; the boot goes on wherever it can. A device's registers have one holder at a time.

use super::a9_timer::A9GlobalTimer;
use super::clock::Clock;
use super::console::{self, Uart, die};
use super::cores;
use super::devices::{self, Found};
use super::dm_timer::DmTimer;
use super::gic::Gic;
use super::interrupts::{self, Controller};
use super::ns16550::{Ns16550, Wiring};
use super::omap_intc::OmapIntc;
use super::pl011::Pl011;
use super::rank;
use super::report;
use super::sp804::Sp804;
use super::sun4i_intc::Sun4iIntc;
use super::sun4i_timer::Sun4iTimer;
use crate::BOARDS;
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use carveout::addr::{Bytes, FRAME_SHIFT, FRAME_SIZE, FrameRange, PhysAddr};
use carveout::arch::Registers;
use carveout::arch::armv7a::address_space::{AddressSpace, DeviceBlock};
use carveout::arch::armv7a::cores::{MAX_CORES, World};
use carveout::arch::armv7a::exceptions;
use carveout::arch::armv7a::l2c310::{L2c310, Unusable};
use carveout::arch::armv7a::mmu::Armv7a;
use carveout::arch::armv7a::start::{BootHandover, ImageMap, translate_image};
use carveout::boot::bootinfo::{BootInfo, DevicePath};
use carveout::boot::layout::Layout;
use carveout::boot::memory::BootMemory;
use carveout::dma::Dma;
use carveout::dma::master::{AreaId, Master};
use carveout::sync::Lock;
use carveout::vm::audit::{Expect, Findings, Report};
use core::alloc::GlobalAlloc;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use linked_list_allocator::Heap;
use spin::Once;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(Lock::new(rank::HEAP, Heap::empty()));

struct LockedHeap(Lock<Heap>);

// SAFETY: `Heap` gives bytes for a layout to one request until they are freed; the lock keeps cores apart.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: core::alloc::Layout) -> *mut u8 {
        self.0.lock().allocate_first_fit(layout).map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: core::alloc::Layout) {
        let Some(at) = NonNull::new(at) else { return };
        // SAFETY: as `GlobalAlloc::dealloc` asks: `alloc` above gave it, with this layout.
        unsafe { self.0.lock().deallocate(at, layout) };
    }
}

/// The heap's share of the RAM that is left, and its limit in bytes.
const HEAP_SHARE: u64 = 2;
const HEAP_LIMIT: u64 = 256 << 20;

static KERNEL: Once<Kernel> = Once::new();
static MACHINE: Once<Armv7a> = Once::new();
static DMA: Once<Dma<Armv7a>> = Once::new();

/// What the rest of the program needs of the boot.
pub struct Kernel {
    /// The device tree.
    pub info: BootInfo<'static>,
    /// Who got which memory.
    pub layout: &'static Layout<'static>,
    /// The world that this runs in.
    pub world: World,
    /// The core and its caches.
    pub machine: &'static Armv7a,
    /// The areas and their buffers.
    pub dma: &'static Dma<Armv7a>,
    /// The heap's frames.
    pub heap: FrameRange,
    /// A counter, if the board has one that is known here.
    pub clock: Option<Clock>,
    /// The kernel's half of the address space.
    pub space: Lock<AddressSpace>,
    default_area: Option<AreaId>,
    /// What nothing may map: firmware's, and what is withheld.
    unmapped: Vec<FrameRange>,
    text: FrameRange,
}

/// The kernel, once it runs.
pub fn kernel() -> Option<&'static Kernel> {
    KERNEL.get()
}

/// Boots. Ends the program where nothing can be done: no device tree, no RAM, no console.
pub fn start(handover: BootHandover) -> &'static Kernel {
    exceptions::on_fault(report::exception);
    let world = handover.world();
    let text = {
        let text = ImageMap::get().text;
        let start = translate_image(text.start).map_or(0, PhysAddr::raw);
        FrameRange::covering(start.into(), (text.end.raw() - text.start.raw()).into())
    };

    // The outer cache stays off until the direct map stands: what is cached inside only needs no outer maintenance.
    let machine = MACHINE.call_once(|| {
        // SAFETY: both come from the handover, which nobody but the head can make or change: the head mapped the frames below
        // the stacks, all of them, and nothing unmaps them.
        unsafe { Armv7a::new(handover.image_below_stacks(), handover.image_phys_offset()) }
    });
    let adopted = AddressSpace::adopt(machine, handover);
    let (mut space, mut memory) = adopted.unwrap_or_else(|fault| die(format_args!("{fault}")));
    let info = memory.layout().info().clone();
    let window = memory.layout().direct_map().window();

    start_console(&info, &mut space);
    if world == World::NonSecure {
        crate::println!("world: non-secure: coherency, errata and caches are as the secure world's firmware left them");
    }
    if let Some(block) = devices::find(&info, "arm,pl310-cache").and_then(|found| found.blocks.first().copied())
        && let Some(registers) = map(&mut space, block.at, block.bytes)
    {
        // SAFETY: the tree says that these are a PL310's; `map` gave them to nobody else, for good.
        match unsafe { L2c310::enable(registers, world) } {
            // SAFETY: the one `Dma` over this machine is made below.
            Ok(outer) => unsafe { machine.set_outer(outer) },
            Err(error @ Unusable::Off) => crate::println!("refused: outer cache: {error}"),
            Err(error) => die(format_args!("outer cache: {error}")),
        }
    }

    let heap = start_heap(&mut memory);
    let needed = Dma::<Armv7a>::window_sections(memory.carved().iter());
    let sections = needed.min(window.sections());
    let tables = memory.take_ram(sections.div_ceil(4).max(1), 1);
    let window = tables.and_then(|tables| space.take_window(sections, tables));
    let window = window.unwrap_or_else(|| no_ram(&memory, "the tables of the CMA window", sections.div_ceil(4)));
    let tables = memory.take_ram(1, 1);
    let loans = tables.and_then(|tables| space.take_loan_window(tables));
    let loans = loans.unwrap_or_else(|| no_ram(&memory, "the table of the loan window", 1));
    let (layout, carved) = memory.into_parts();
    let take_over = if sections < needed { Dma::sparing_guards } else { Dma::new };
    let dma = take_over(machine, carved.into_iter(), info.aliases().clone(), window, loans);
    let dma = dma.unwrap_or_else(|error| die(format_args!("{error}")));
    let dma = DMA.call_once(|| dma);
    let default_area = layout.areas().iter().position(|area| area.default).and_then(|area| dma.area_at(area));
    let mut unmapped = Vec::new();
    layout.each_unmapped(|range| unmapped.push(range));

    start_interrupts(&info, &mut space);
    let clock = start_clock(&info, &mut space);
    let space = Lock::new(rank::SPACE, space);
    let kernel = KERNEL.call_once(|| Kernel {
        info,
        layout,
        world,
        machine,
        dma,
        heap,
        clock,
        space,
        default_area,
        unmapped,
        text,
    });
    cores::start(kernel);
    kernel
}

/// A device's registers and where they are mapped. `None`, and a line, if they are refused.
fn take<R>(space: &mut AddressSpace, at: PhysAddr, bytes: u32) -> Option<(DeviceBlock, NonNull<R>)> {
    match space.map_device(at, bytes) {
        Ok(block) => {
            let Some(first) = block.pointer() else {
                crate::println!("refused: registers at {at}: {bytes} bytes there are too few or misaligned");
                space.give_back(block);
                return None;
            };
            Some((block, first))
        }
        Err(error) => {
            crate::println!("refused: {error}");
            None
        }
    }
}

/// A device's registers, for good: nobody gets them a second time. `None`, and a line, if they are refused.
fn map<R>(space: &mut AddressSpace, at: PhysAddr, bytes: u32) -> Option<NonNull<R>> {
    take(space, at, bytes).map(|(_, first)| first)
}

/// The UART that `/chosen/stdout-path` names, else the first one there is a driver for.
fn start_console(info: &BootInfo<'_>, space: &mut AddressSpace) {
    console::set_semihosting(info.bootargs().get("semihosting").is_some());
    let mut uarts = ArrayVec::<(Found<'_>, OpenUart), 8>::new();
    for (compatible, open) in UARTS {
        devices::find_all(info, compatible, |found| drop(uarts.try_push((found, open))));
    }
    let chosen = uarts.iter().find(|(found, _)| found.stdout).or(uarts.first());
    if let Some(uart) = chosen.and_then(|(found, open)| open(space, found)) {
        console::set(uart);
    }
    let level = info.bootargs().loglevel().unwrap_or_else(|error| {
        crate::println!("refused: {error}");
        None
    });
    console::start_log(level.unwrap_or(log::LevelFilter::Warn));
    let known = |name: &str| BOARDS.iter().any(|board| board.compatible == name);
    if !info.compatible().any(known) {
        crate::println!("refused: board {}: not known, going by its devices", info.compatible().next().unwrap_or("?"));
    }
}

fn start_heap(memory: &mut BootMemory<'_, '_>) -> FrameRange {
    let largest = memory.layout().memblock().free_ranges().map(FrameRange::bytes).max().unwrap_or(0);
    let frames = (largest / HEAP_SHARE).min(HEAP_LIMIT) / u64::from(FRAME_SIZE);
    let ram = memory.take_ram(frames as u32, 1);
    let ram = ram.unwrap_or_else(|| no_ram(memory, "the heap", 1));
    let (frames, bytes) = (ram.frames(), ram.into_bytes());
    // SAFETY: `BootRam` gave the bytes to this call alone, for good, and the heap starts once: there is one handover.
    unsafe { HEAP.0.lock().init(bytes.as_mut_ptr(), bytes.len()) };
    frames
}

/// Ends the program: no free run holds so many frames.
fn no_ram(memory: &BootMemory<'_, '_>, what: &str, frames: u32) -> ! {
    let free = || memory.layout().memblock().free_ranges().map(FrameRange::bytes);
    let (wanted, largest) = (Bytes(u64::from(frames) << FRAME_SHIFT), Bytes(free().max().unwrap_or(0)));
    let free = Bytes(free().sum());
    die(format_args!("no RAM left for {what}: {wanted} wanted, the largest free run is {largest}, of {free} free"))
}

fn start_interrupts(info: &BootInfo<'_>, space: &mut AddressSpace) {
    let known = CONTROLLERS.into_iter().find_map(|(name, open)| Some((devices::find(info, name)?, open)));
    let Some((found, open)) = known else {
        crate::println!("refused: interrupts: no controller that is known");
        return;
    };
    match open(space, &found) {
        // SAFETY: this is the boot, on core 0: no lock is held, and nothing has masked interrupts to be undisturbed.
        Some(controller) => unsafe { interrupts::start(controller) },
        None => crate::println!("refused: {}: register blocks are missing", found.name),
    }
}

fn start_clock(info: &BootInfo<'_>, space: &mut AddressSpace) -> Option<Clock> {
    CLOCKS.into_iter().find_map(|(name, open)| open(space, &devices::find(info, name)?))
}

/// Maps the first register block of a device.
fn first<R>(space: &mut AddressSpace, found: &Found<'_>) -> Option<NonNull<R>> {
    found.blocks.first().and_then(|block| map(space, block.at, block.bytes))
}

type OpenUart = fn(&mut AddressSpace, &Found<'_>) -> Option<Uart>;

/// The UARTs there are drivers for.
const UARTS: [(&str, OpenUart); 5] = [
    ("arm,pl011", |space, found| {
        let registers = first(space, found)?;
        // SAFETY: the tree says that these are a PL011's; `map` gave them to nobody else, for good.
        Some(Uart::Pl011(unsafe { Pl011::new(registers) }))
    }),
    ("snps,dw-apb-uart", |space, found| open_16550(space, found, 0)),
    ("ns16550a", |space, found| open_16550(space, found, 0)),
    // Their bindings have no reg-shift: the registers are always words apart.
    ("ti,am3352-uart", |space, found| open_16550(space, found, 2)),
    ("ti,omap3-uart", |space, found| open_16550(space, found, 2)),
];

fn open_16550(space: &mut AddressSpace, found: &Found<'_>, shift: u8) -> Option<Uart> {
    let shift = found.reg_shift.map_or(Some(shift), |shift| u8::try_from(shift).ok())?;
    let wiring = Wiring { shift, words: found.reg_io_width == Some(4) };
    let block = found.blocks.first().filter(|block| wiring.bytes().is_some_and(|bytes| bytes <= block.bytes))?;
    let registers = map(space, block.at, block.bytes)?;
    // SAFETY: the tree says that these are a 16550's; `map` gave them to nobody else, for good. They are enough, as just
    // looked up, and where the bus takes words, UARTs stand at multiples of their size.
    Some(Uart::Ns16550(unsafe { Ns16550::new(registers, wiring) }))
}

type OpenController = fn(&mut AddressSpace, &Found<'_>) -> Option<Controller>;

/// The interrupt controllers there are drivers for.
const CONTROLLERS: [(&str, OpenController); 4] = [
    ("arm,cortex-a9-gic", open_gic),
    ("arm,pl390", open_gic),
    ("allwinner,sun4i-a10-ic", |space, found| {
        let registers = first(space, found)?;
        // SAFETY: the tree says whose these are; `map` gave them to nobody else, for good. The SoC has one core.
        Some(Controller::Sun4i(unsafe { Sun4iIntc::new(registers) }))
    }),
    ("ti,am33xx-intc", |space, found| {
        let registers = first(space, found)?;
        // SAFETY: the tree says whose these are; `map` gave them to nobody else, for good. The SoC has one core.
        Some(Controller::Omap(unsafe { OmapIntc::new(registers) }))
    }),
];

fn open_gic(space: &mut AddressSpace, found: &Found<'_>) -> Option<Controller> {
    let [distributor, cpu] = found.blocks.as_slice() else { return None };
    let distributor = map(space, distributor.at, distributor.bytes)?;
    let cpu = map(space, cpu.at, cpu.bytes)?;
    // SAFETY: the tree says that these are a GIC's two blocks; `map` gave them to nobody else, for good. The boot runs on
    // core 0.
    Some(Controller::Gic(unsafe { Gic::new(distributor, cpu) }))
}

type OpenClock = fn(&mut AddressSpace, &Found<'_>) -> Option<Clock>;

/// The counters there are drivers for, the best first.
const CLOCKS: [(&str, OpenClock); 4] = [
    ("arm,cortex-a9-global-timer", |space, found| {
        let (hertz, registers) = (found.hertz?, first(space, found)?);
        // SAFETY: the tree says whose these are; `map` gave them to nobody else, for good.
        Some(Clock::Global { timer: unsafe { A9GlobalTimer::new(registers) }, hertz })
    }),
    ("arm,sp804", |space, found| {
        let registers = first(space, found)?;
        // SAFETY: the tree says whose these are; `map` gave them to nobody else, for good.
        Some(Clock::Sp804(unsafe { Sp804::new(registers) }))
    }),
    ("allwinner,sun4i-a10-timer", |space, found| {
        let registers = first(space, found)?;
        // SAFETY: the tree says whose these are; `map` gave them to nobody else, for good.
        Some(Clock::Sun4i(unsafe { Sun4iTimer::new(registers) }))
    }),
    ("ti,am335x-timer", |space, found| {
        let registers = first(space, found)?;
        // SAFETY: the tree says whose these are; `map` gave them to nobody else, for good. The first that a tree names is
        // the one that U-Boot counts with, so its clocks run.
        Some(Clock::Dm(unsafe { DmTimer::new(registers) }))
    }),
];

/// A device's registers, in one hand: until this is dropped, nobody else gets them.
pub struct DeviceRegisters<'k, R> {
    kernel: &'k Kernel,
    /// `None` from `drop` on.
    block: Option<DeviceBlock>,
    first: NonNull<R>,
}

impl<R> DeviceRegisters<'_, R> {
    /// Where they are mapped, for good.
    pub const fn pointer(&self) -> NonNull<R> {
        self.first
    }

    /// Where they are mapped. They are the caller's for good: nobody gets them a second time.
    pub fn keep(mut self) -> NonNull<R> {
        self.block = None;
        self.first
    }
}

impl<R> Drop for DeviceRegisters<'_, R> {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.kernel.space.lock().give_back(block);
        }
    }
}

impl Kernel {
    /// Gives a device's registers to the caller. `None`, and a line, if they are too few for `R`, overlap RAM (I1), or
    /// somebody has some of them.
    pub fn registers<R>(&self, at: PhysAddr, bytes: u32) -> Option<DeviceRegisters<'_, R>> {
        let (block, first) = take(&mut self.space.lock(), at, bytes)?;
        Some(DeviceRegisters { kernel: self, block: Some(block), first })
    }

    /// A bus master of the device tree, by its path: its area is the first that its `memory-region` names, or the default
    /// one if it names none; it has none if one of those was refused. It sees memory through the `dma-ranges` above it.
    /// Where these are refused, in one line, it reaches nothing.
    ///
    /// A `name` that is no path, but for its first slash, is that of a master the tree knows nothing of.
    pub fn master(&self, name: &'static str) -> Master {
        match DevicePath::parse(name) {
            Some(path) => self.master_at(path.name(), &path),
            None => Master::new(name, self.default_area),
        }
    }

    /// As [`master`](Self::master), by the path itself, called `name` in tables and reports.
    pub fn master_at(&self, name: &'static str, path: &DevicePath<'static>) -> Master {
        let master = match self.layout.area_of(path) {
            Ok(None) => Master::new(name, self.default_area),
            Ok(Some(area)) => Master::new(name, self.dma.area_at(area)),
            Err(lost) => Master::without_area(name, Box::leak(format!("{lost}").into_boxed_str())),
        };
        let refused = |error: &dyn fmt::Display| {
            crate::println!("refused: {path}: {error}");
            master.clone().with_windows(&[]).expect("no windows are well formed")
        };
        match devices::bus_windows(&self.info, path) {
            Ok(None) => master,
            Ok(Some(windows)) => master.clone().with_windows(&windows).unwrap_or_else(|error| refused(&error)),
            Err(error) => refused(&error),
        }
    }

    /// The default area.
    pub const fn default_area(&self) -> Option<AreaId> {
        self.default_area
    }

    /// Bytes of heap that are free.
    pub fn heap_free(&self) -> usize {
        HEAP.0.lock().free()
    }

    /// Microseconds since boot; without a clock, a count that grows.
    pub fn micros(&self) -> u64 {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        self.clock.as_ref().map_or_else(|| ASKED.fetch_add(1, Ordering::Relaxed).into(), Clock::micros)
    }

    /// Walks the live tables by this core's registers (I1, I2, W^X), which must be those that each core came with. What the
    /// others have now is seen by [`cores::audit`].
    pub fn audit(&self) -> Result<Report, Findings> {
        let cores: ArrayVec<_, MAX_CORES> = cores::came().collect();
        self.audit_beside(&cores)
    }

    /// Walks the live tables by this core's registers, which must be the same as these, by the number of their core.
    pub(super) fn audit_beside(&self, cores: &[(u32, Registers)]) -> Result<Report, Findings> {
        let (ram, firmware) = (self.info.banks(), &self.unmapped);
        let share = Armv7a::shareability();
        let expect = Expect { ram, firmware, text: self.text, share, roots: &[], cores };
        self.dma.audit(&expect, |_| {})
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the code that panicked never runs again, for this does not return.
    unsafe { console::seize() };
    crate::println!("panic: {info}");
    console::exit(FAILED)
}

/// The exit code after a panic.
const FAILED: i32 = 102;
