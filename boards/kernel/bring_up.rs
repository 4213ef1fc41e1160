//! The boot: from the head's handover to a running kernel, in one function.
//!
//! Guarantees: when [`start`] returns,
//!
//! - the direct map holds no carved frame (I2), and the identity map is gone;
//! - every carve-out is an area of the one [`Dma`];
//! - console, log, heap and interrupts work, and the other cores run.
//!
//! Bad input was refused, in one line each. The boot continues where it can.

use super::console::{self, die};
use super::devices;
use super::known;
use super::registers::map;
use super::state::{self, Kernel};
use super::{cores, heap, interrupts, rank, report, stores};
use crate::drivers::timer::Counter;
use crate::{BOARDS, println};
use alloc::boxed::Box;
use alloc::vec::Vec;
use carveout::addr::{Bytes, FRAME_SHIFT, FRAME_SIZE, FrameRange, PhysAddr};
use carveout::dma::Dma;
use carveout::embed::{Builder, Needs};
use carveout::sync::Lock;
use carveout_armv7a::cores::World;
use carveout_armv7a::l2c310::{L2c310, Unusable};
use carveout_armv7a::mmu::Armv7a;
use carveout_boot::bootinfo::BootInfo;
use carveout_boot::memory::BootMemory;
use carveout_rt::address_space::{self, AddressSpace};
use carveout_rt::exceptions;
use carveout_rt::start::{BootHandover, ImageMap, translate_image};
use spin::Once;

/// The heap gets one part in this many of the largest free run of RAM, up to a limit in bytes.
const HEAP_SHARE: u64 = 2;
const HEAP_LIMIT: u64 = 256 << 20;

static MACHINE: Once<Armv7a> = Once::new();
static DMA: Once<Dma<Armv7a>> = Once::new();
static OUTER: Once<L2c310> = Once::new();

/// Boots the machine and returns the kernel. Ends the program if there is no device tree, no RAM or no console.
pub fn start(handover: BootHandover) -> &'static Kernel {
    exceptions::on_fault(report::exception);
    let world = handover.world();
    let text = {
        let text = ImageMap::get().text;
        let start = translate_image(text.start).map_or(0, PhysAddr::raw);
        FrameRange::covering(start.into(), (text.end.raw() - text.start.raw()).into())
    };

    // The outer cache stays off until the direct map is complete. Until then, maintenance of the inner levels is
    // enough.
    let machine = MACHINE.call_once(address_space::machine);
    let adopted = AddressSpace::adopt(machine, handover);
    let (mut space, mut memory) = adopted.unwrap_or_else(|fault| die(format_args!("{fault}")));
    let info = memory.layout().info().clone();
    let window = memory.layout().direct_map().window();

    start_console(&info, &mut space);
    stores::choose(info.bootargs(), machine);
    if world == World::NonSecure {
        println!("world: non-secure: coherency, errata and caches are as the secure world's firmware left them");
    }
    if let Some(block) = devices::find(&info, "arm,pl310-cache").and_then(|found| found.blocks.first().copied())
        && let Some(registers) = map(&mut space, block)
    {
        // SAFETY: the tree says that these are a PL310's registers. `map` gives them to nobody else, ever.
        match unsafe { L2c310::enable(registers, world) } {
            // SAFETY: the one `Dma` over this machine is made below.
            Ok(outer) => unsafe { machine.set_outer(OUTER.call_once(|| outer)) },
            Err(error @ Unusable::Off) => println!("refused: outer cache: {error}"),
            Err(error) => die(format_args!("outer cache: {error}")),
        }
    }

    let heap = start_heap(&mut memory);
    let sections = Needs::of(memory.carved(), Builder::RECORDS).sections.min(window.sections());
    let frames = sections.div_ceil(4);
    let window = memory.take_ram(frames, 1).and_then(|tables| space.take_window(sections, tables));
    let window = window.unwrap_or_else(|| no_ram(&memory, "the tables of the CMA window", frames));
    let (layout, carved) = memory.into_parts();
    let dma = Builder::new(machine, carved, window).aliases(info.aliases().clone()).sparing_guards().build();
    let dma = dma.unwrap_or_else(|error| die(format_args!("{error}")));
    let dma = DMA.call_once(|| dma);
    let default_area = layout.areas().iter().position(|area| area.default).and_then(|area| dma.area_at(area));
    let mut unmapped = Vec::new();
    layout.each_unmapped(|range| unmapped.push(range));

    start_interrupts(&info, &mut space);
    let clock = start_clock(&info, &mut space);
    let space = Lock::new(rank::SPACE, space);
    let kernel = state::set(Kernel {
        info,
        layout,
        world,
        machine,
        outer: OUTER.get(),
        dma,
        heap,
        clock,
        space,
        default_area,
        unmapped,
        text,
    });
    console::tell_losses(dma);
    cores::start(kernel);
    kernel
}

/// Starts the console at the UART that `/chosen/stdout-path` names, or else at the first one that has a driver.
fn start_console(info: &BootInfo<'_>, space: &mut AddressSpace) {
    console::set_semihosting(info.bootargs().get("semihosting").is_some());
    let uarts = known::UARTS.map(|(name, _)| name);
    let chosen = devices::find_preferred(info, &uarts, devices::stdout_path(info).as_ref());
    if let Some(uart) = chosen.and_then(|(row, found)| (known::UARTS[row].1)(space, &found)) {
        console::set(uart);
    }
    let level = info.bootargs().loglevel().unwrap_or_else(|error| {
        println!("refused: {error}");
        None
    });
    console::start_log(level.unwrap_or(log::LevelFilter::Warn));
    let known = |name: &str| BOARDS.iter().any(|board| board.compatible == name);
    if !info.compatible().any(known) {
        println!(
            "refused: board {}: not known; its devices are used as the tree describes them",
            info.compatible().next().unwrap_or("?")
        );
    }
}

fn start_heap(memory: &mut BootMemory<'_, '_>) -> FrameRange {
    let largest = memory.layout().memblock().free_ranges().map(FrameRange::bytes).max().unwrap_or(0);
    let frames = (largest / HEAP_SHARE).min(HEAP_LIMIT) / u64::from(FRAME_SIZE);
    let ram = memory.take_ram(frames as u32, 1);
    let ram = ram.unwrap_or_else(|| no_ram(memory, "the heap", 1));
    let (frames, bytes) = (ram.frames(), ram.into_bytes());
    // SAFETY: there is one handover, and so one start.
    unsafe { heap::start(bytes) };
    frames
}

/// Ends the program because no free run holds so many frames.
fn no_ram(memory: &BootMemory<'_, '_>, what: &str, frames: u32) -> ! {
    let free = || memory.layout().memblock().free_ranges().map(FrameRange::bytes);
    let (wanted, largest) = (Bytes(u64::from(frames) << FRAME_SHIFT), Bytes(free().max().unwrap_or(0)));
    let free = Bytes(free().sum());
    die(format_args!("no RAM left for {what}: {wanted} wanted, the largest free run is {largest}, of {free} free"))
}

fn start_interrupts(info: &BootInfo<'_>, space: &mut AddressSpace) {
    let found = devices::find_each(info, known::CONTROLLERS.map(|(name, _)| name));
    let known = found.iter().zip(known::CONTROLLERS).find_map(|(found, (_, open))| Some((found.as_ref()?, open)));
    let Some((found, open)) = known else {
        println!("refused: interrupts: the device tree has no controller that is known");
        return;
    };
    match open(space, found) {
        // SAFETY: this is the boot, on core 0: no lock is held, and no critical section has masked interrupts.
        Some(controller) => unsafe { interrupts::start(controller) },
        None => println!("refused: {}: register blocks are missing", found.name),
    }
}

fn start_clock(info: &BootInfo<'_>, space: &mut AddressSpace) -> Option<Box<dyn Counter>> {
    let mut of_board = known::COUNTERS.iter();
    known::cores_counter(info).or_else(|| of_board.find_map(|(name, open)| open(space, &devices::find(info, name)?)))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the code that panicked never runs again, because this function does not return.
    unsafe { console::seize() };
    println!("panic: {info}");
    console::exit(FAILED)
}

/// The exit code after a panic.
const FAILED: i32 = 102;
