//! A kernel that makes the fault that the boot argument `fault=` names, so that a test can check its last lines.
//! tests/cases/faults.toml says what they must be.
#![no_std]
#![no_main]

use carveout::addr::{FRAME_SIZE, Frame, VirtAddr};
use carveout::dma::FromDevice;
use carveout::sync::{Lock, Rank};
use carveout_boards::kernel::{bring_up, state::Kernel};
use carveout_boards::kernel::{console, cores};
use carveout_boards::println;
use carveout_rt::start::{BootHandover, ImageMap};
use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, Ordering};
use on_target::{address_of, after, alloc, direct_map_place};

carveout_rt::entry!(main);

/// The exit code of a program that survived its fault.
const SURVIVED: i32 = 3;

fn main(handover: BootHandover) -> ! {
    let kernel = bring_up::start(handover);
    let fault = kernel.info.bootargs().get("fault").and_then(|arg| arg.value).unwrap_or("");
    match fault {
        "undefined" => undefined(),
        "owned" => owned(kernel, |_, va| after(va, FRAME_SIZE)),
        "owned-direct" => owned(kernel, |frame, _| place(frame)),
        "hole" => hole(kernel),
        "guard" => guard(kernel),
        "stack" => println!("sum: {}", overflow(kernel.heap.count())),
        "exec" => exec(),
        "text" => write(ImageMap::get().text.start),
        "null" => read(VirtAddr::new(0)),
        "panic" => panic!("as told"),
        "lock-order" => lock_order(kernel),
        "lock-twice" => lock_twice(),
        "deadlock" => deadlock(),
        _ => console::die(format_args!("fault={fault}: no such fault")),
    }
    println!("fault={fault}: survived");
    console::exit(SURVIVED)
}

fn read(va: VirtAddr) {
    println!("reading {va}");
    // SAFETY: none: the pointer is stray on purpose, and the access must fault.
    let word = unsafe { (va.raw() as *const u32).read_volatile() };
    println!("read {word:#010x}");
}

fn write(va: VirtAddr) {
    println!("writing {va}");
    // SAFETY: none: the pointer is stray on purpose, and the access must fault.
    unsafe { (va.raw() as *mut u32).write_volatile(0) };
}

fn undefined() {
    // The instruction's address ends in 0, so a report with another instruction's address differs. SAFETY: none: the
    // instruction is permanently undefined (ARM ARM A5.4), and must fault.
    unsafe { asm!(".balign 16", "udf #0") };
}

/// Reads a buffer that a device owns. `stray` gives the address, from the buffer's first frame and the pointer that was
/// valid while the CPU had the buffer.
fn owned(kernel: &'static Kernel, stray: impl FnOnce(Frame, VirtAddr) -> VirtAddr) {
    let buffer = alloc(kernel, 2 * FRAME_SIZE).unwrap_or_else(|error| console::die(format_args!("{error}")));
    let buffer = buffer.into_stream::<FromDevice>();
    let va = address_of(buffer.bytes());
    let buffer = buffer.for_device();
    read(stray(Frame::containing(buffer.frames().base()), va));
}

fn hole(kernel: &'static Kernel) {
    let Some(area) = kernel.layout.areas().first() else { console::die(format_args!("no area")) };
    read(place(Frame::containing(area.ranges[0].base())));
}

fn place(frame: Frame) -> VirtAddr {
    direct_map_place(frame).unwrap_or_else(|| console::die(format_args!("no place in the direct map")))
}

fn guard(kernel: &'static Kernel) {
    let buffer = alloc(kernel, FRAME_SIZE).unwrap_or_else(|error| console::die(format_args!("{error}")));
    let buffer = buffer.into_coherent();
    write(VirtAddr::new(buffer.as_ptr().addr().get() as u32 + FRAME_SIZE));
}

/// Recurses deeper than any stack, and not by a tail call.
fn overflow(depth: u32) -> u32 {
    let frame = black_box([depth; 64]);
    if depth == 0 { 0 } else { overflow(depth - 1).wrapping_add(black_box(frame)[7]) }
}

static LOCK: Lock<()> = Lock::new(Rank::new(7), ());

/// Calls the DMA API inside a lock that comes after the API's own.
fn lock_order(kernel: &'static Kernel) {
    let _guard = LOCK.lock();
    println!("{:?}", kernel.default_area().map(|area| kernel.dma.free_bytes(area)));
}

fn lock_twice() {
    let _first = LOCK.lock();
    let _second = LOCK.lock();
}

/// Makes a deadlock: core 1 holds a lock until core 2 sends a word, and core 2 waits for the lock.
fn deadlock() {
    let (taken, said) = (AtomicBool::new(false), AtomicBool::new(false));
    cores::on_all(&|core| match core.index() {
        1 => {
            let _guard = LOCK.lock();
            taken.store(true, Ordering::Release);
            while !said.load(Ordering::Acquire) {
                core::hint::spin_loop();
            }
        }
        2 => {
            while !taken.load(Ordering::Acquire) {
                core::hint::spin_loop();
            }
            drop(LOCK.lock());
            said.store(true, Ordering::Release);
        }
        _ => {}
    });
}

/// Calls data.
fn exec() {
    let code = black_box([on_target::RETURN]);
    println!("calling {}", address_of(&code));
    // SAFETY: none: the array is `bx lr`, but on the stack, and the fetch must fault.
    let call = unsafe { core::mem::transmute::<*const u32, extern "C" fn()>(code.as_ptr()) };
    call();
}
