//! The other cores of an `MPCore`, and how they are let in.
//!
//! Guarantees, when the function given to [`entry`] begins on a core:
//!
//! - It runs in Supervisor mode, on stacks of its own above unmapped guard pages, with interrupts masked.
//!   [`exceptions`](super::exceptions) has every vector.
//! - The core takes part in coherency. Its own caches were emptied first. Then the bits of ACTLR were set that its
//!   [`Core`](carveout_armv7a::ids::Core) names. Only then were the MMU and the caches turned on.
//! - It translates by the tables of the first core, so I1 and I2 hold for it as they do there. Before, it translated
//!   only by the table that has the page of the head at its physical address.
//!
//! A core waits in a pen, and whoever owns the pen lets it in. This module opens the pen of the head, where cores wait
//! that entered along with the first one. Any other pen is the board's, or is named by the device tree. All cores are
//! told the address that [`entry`] returns.

use core::arch::asm;
use core::mem;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::start::translate_image;
use carveout::addr::{PhysAddr, VirtAddr};
use carveout::cpu::CoreId;
use carveout::machine::Cache;
use carveout_armv7a::mmu::Armv7a;

unsafe extern "C" {
    /// The place where a core enters, at its physical address (head.s). It is never called.
    fn carveout_secondary();
}

/// The pen of the head. The head reads it at the place where the image was loaded, with the MMU off, before `.bss` is
/// cleared. So it is in `.data`.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.carveout_pen")]
static CARVEOUT_PEN: AtomicU32 = AtomicU32::new(0);

/// The function that a core runs once it is in: a `fn(CoreId) -> !`.
static MAIN: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Returns the address to which the other cores are to be sent, with MMU and caches off. From there they come to
/// `main`.
///
/// A core may come at any time after this call.
///
/// # Panics
///
/// If the linker script left the head out of the image.
pub fn entry(main: fn(CoreId) -> !) -> PhysAddr {
    MAIN.store(main as *mut (), Ordering::Release);
    let entry = VirtAddr::new(carveout_secondary as *const () as u32);
    translate_image(entry).expect("the head is part of the image")
}

/// Lets in the cores that wait in the head, if any do. Call it after [`entry`].
///
/// # Panics
///
/// If the pen is not in the image that `machine` was made with.
pub fn open_pen(machine: &Armv7a) {
    let pen = VirtAddr::new(CARVEOUT_PEN.as_ptr() as u32);
    let at = translate_image(pen).expect("the pen is part of the image");
    // SAFETY: `AtomicU32` is aligned to 4; the word is this module's, and only the head reads it.
    let told = unsafe { tell(machine, at, 1) };
    assert!(told, "the image is mapped");
}

/// Writes a word where a core with MMU and caches off finds it, and wakes that core from a WFE. The word is the release
/// address of a pen. Returns `false`, and writes nothing, if the word is neither in the image nor in the direct map.
///
/// # Safety
///
/// `at` is a multiple of 4. The word there is for this use: no Rust reference to it exists, and no other code writes
/// it.
pub unsafe fn tell(machine: &Armv7a, at: PhysAddr, word: u32) -> bool {
    // SAFETY: `at` is aligned, and the word is given to this use: as this function demands.
    let written = unsafe { machine.write_through(at, word) };
    wake(machine);
    written
}

/// Wakes all cores that wait for an event, after what was written so far is in memory.
pub fn wake(machine: &Armv7a) {
    // The words must leave the outer cache too. A core whose caches are off looks in memory, and by erratum 769419 the
    // PL310 may keep what it is not made to drain.
    machine.device_barrier();
    // SAFETY: a hint.
    unsafe { asm!("sev", options(nomem, nostack, preserves_flags)) };
}

/// Runs the function of [`entry`], on a core other than the first, when the head is done.
#[unsafe(no_mangle)]
extern "C" fn carveout_secondary_start() -> ! {
    let main = MAIN.load(Ordering::Acquire);
    // A core that came before it was sent for has nothing to run.
    assert!(!main.is_null(), "{} came before it was sent for", CoreId::current());
    // SAFETY: only `entry` stores here, a function of this type.
    let main = unsafe { mem::transmute::<*mut (), fn(CoreId) -> !>(main) };
    main(CoreId::current())
}
