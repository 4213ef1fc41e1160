//! The other cores of an `MPCore`: how they come in.
//!
//! Guarantees, when the function given to [`entry`] begins on a core: Supervisor mode on stacks of its own above
//! unmapped guard pages, interrupts masked, [`exceptions`](super::exceptions) in charge of every vector; the core takes
//! part in coherency (its own caches were emptied first, then the bits of ACTLR set that its
//! [`Core`](carveout_armv7a::ids::Core) names, and only then the MMU and the caches turned on) and translates by the
//! very tables of the first core, so that I1 and I2 hold for it as they do there. It never ran by any other but the one
//! that has the page of the head at its physical address.
//!
//! A core is let in by whoever holds it: this module opens the pen of the head, where cores wait that entered along
//! with the first one. Any other pen is the board's, or is named by the device tree; all of them are told the address
//! that [`entry`] returns.

use core::arch::asm;
use core::mem;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::start::translate_image;
use carveout::addr::{PhysAddr, VirtAddr};
use carveout::cpu::CoreId;
use carveout::machine::Cache;
use carveout_armv7a::mmu::Armv7a;

unsafe extern "C" {
    /// head.s: where a core enters, at its physical address. Never called.
    fn carveout_secondary();
}

/// Read by the head at the place the image was loaded to, with the MMU off, before `.bss` is cleared: so in `.data`.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.carveout_pen")]
static CARVEOUT_PEN: AtomicU32 = AtomicU32::new(0);

/// What a core runs once it is in: a `fn(CoreId) -> !`.
static MAIN: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Where the other cores are to be sent, with the MMU and caches off; there they come to `main`.
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

/// Writes a word to memory where a core finds it whose MMU and caches are off, and wakes it from a WFE: the release
/// address of a pen. `false`, and nothing is written, if the word is neither in the image nor in the direct map.
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
    // Past the outer cache too: a core whose caches are off looks in memory, and erratum 769419 of the PL310 keeps
    // there what nobody drains.
    machine.device_barrier();
    // SAFETY: a hint.
    unsafe { asm!("sev", options(nomem, nostack, preserves_flags)) };
}

/// Where the head ends on a core other than the first.
#[unsafe(no_mangle)]
extern "C" fn carveout_secondary_start() -> ! {
    let main = MAIN.load(Ordering::Acquire);
    // A core that nobody sent for has nothing to run.
    assert!(!main.is_null(), "{} came before it was sent for", CoreId::current());
    // SAFETY: only `entry` stores here, a function of this type.
    let main = unsafe { mem::transmute::<*mut (), fn(CoreId) -> !>(main) };
    main(CoreId::current())
}
