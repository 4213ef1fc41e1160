//! A kernel with a first buffer: it boots, has its memory planned by the device tree and the command line, and gives a
//! device 600 KiB in one piece.
#![no_std]
#![no_main]

use carveout::dma::{Dma, FromDevice, Master};
use carveout::embed::{Builder, Needs};
use carveout_armv7a::mmu::Armv7a;
use carveout_rt::address_space::{self, AddressSpace};
use carveout_rt::start::BootHandover;
use linked_list_allocator::LockedHeap;
use semihosting::{println, process};
use spin::Once;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();
static MACHINE: Once<Armv7a> = Once::new();
static DMA: Once<Dma<Armv7a>> = Once::new();

carveout_rt::entry!(main);

fn main(handover: BootHandover) -> ! {
    let dma = start(handover);
    // A device has a name, and an area that its memory comes from: the one that cma= on the command line asks for.
    let camera = Master::new("camera", dma.area_at(0));
    let buffer = dma.alloc(&camera, 640 * 480 * 2, 1).unwrap_or_else(|error| panic!("{error}"));

    let frame = buffer.into_stream::<FromDevice>().for_device(); // the camera's: nothing maps it now
    println!("the camera may write to {}", frame.bus());
    // SAFETY: no device writes there any more: this machine has no camera.
    let frame = unsafe { frame.for_cpu() };
    println!("the first bytes are {:?}", &frame.bytes()[..4]);
    process::exit(0)
}

/// Maps memory, starts the heap, and gives what was carved out to the allocator.
fn start(handover: BootHandover) -> &'static Dma<Armv7a> {
    let machine = MACHINE.call_once(address_space::machine);
    let (mut space, mut memory) = AddressSpace::adopt(machine, handover).unwrap_or_else(|fault| panic!("{fault}"));

    let heap = memory.take_ram(1024, 1).expect("4 MiB of RAM for the heap").into_bytes();
    // SAFETY: this function runs once, and the bytes are the heap's alone.
    unsafe { HEAP.lock().init(heap.as_mut_ptr(), heap.len()) };

    // The addresses at which buffers are mapped, and their tables: 1 KiB for each section.
    let sections = Needs::of(memory.carved(), Builder::RECORDS).sections;
    let tables = memory.take_ram(sections.div_ceil(4), 1).expect("RAM for the tables");
    let window = space.take_window(sections, tables).expect("nobody took it before");
    let aliases = memory.layout().info().aliases().clone();
    let (_, carved) = memory.into_parts();
    let dma = Builder::new(machine, carved, window).aliases(aliases).build();
    DMA.call_once(|| dma.unwrap_or_else(|error| panic!("{error}")))
}
