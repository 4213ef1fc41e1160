//! What becomes of an exception: a line that says where it happened, and for an address of Carveout's whose it is.
//!
//! Guarantees: the program ends with exit code 1. No lock is waited for.

use core::fmt;
use core::sync::atomic::{AtomicPtr, Ordering};

use aarch32_cpu::register::{Dfar, Ifar};
use aarch32_rt::exception;
use carveout::addr::{Frame, PhysAddr, VirtAddr};
use carveout::dma::Dma;
use carveout_armv7a::mmu::Armv7a;

use crate::console::exit;
use crate::println;

static DMA: AtomicPtr<Dma<Armv7a>> = AtomicPtr::new(core::ptr::null_mut());

/// Has later reports name buffers of this `dma`.
pub fn name_buffers_of(dma: &'static Dma<Armv7a>) {
    DMA.store(core::ptr::from_ref(dma).cast_mut(), Ordering::Release);
}

#[exception(DataAbort)]
fn data_abort(addr: usize) -> ! {
    report("data abort", addr, Some(Dfar::read().0))
}

#[exception(PrefetchAbort)]
fn prefetch_abort(addr: usize) -> ! {
    report("prefetch abort", addr, Some(Ifar::read().0))
}

#[exception(Undefined)]
fn undefined(addr: usize) -> ! {
    report("undefined instruction", addr, None)
}

fn report(what: &str, pc: usize, address: Option<u32>) -> ! {
    match address {
        Some(at) => println!("exception: {what} at {pc:#010x}, address {at:#010x}{}", Whose(at)),
        None => println!("exception: {what} at {pc:#010x}"),
    }
    exit(1)
}

/// What Carveout knows of an address: of one in its window, and of one that is a carved frame's physical address.
struct Whose(u32);

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dma = DMA.load(Ordering::Acquire);
        // SAFETY: null, or what `name_buffers_of` was given, which lives for ever.
        let Some(dma) = (unsafe { dma.as_ref() }) else { return Ok(()) };
        let va = VirtAddr::new(self.0);
        if dma.window().contains(va) {
            return write!(f, ": {}", dma.place_of(va));
        }
        let frame = Frame::containing(PhysAddr::new(self.0));
        dma.place_of_frame(frame).map_or(Ok(()), |place| write!(f, ": {place}"))
    }
}
