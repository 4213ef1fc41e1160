//! The machine: of the board, or the host's fake one.
//!
//! Guarantees: it lives for ever, in memory of the kernel's `alloc`.

use crate::failure::Refusal;
#[cfg(target_arch = "arm")]
use crate::heap;
use crate::kernel::Functions;
use crate::outer::Outer;
#[cfg(target_arch = "arm")]
use alloc::alloc::Layout;
use alloc::vec::Vec;
#[cfg(target_arch = "arm")]
use carveout::addr::{FrameRange, VirtAddr};
#[cfg(target_arch = "arm")]
use carveout_armv7a::{cores::World, l2c310::L2c310};
#[cfg(target_arch = "arm")]
use core::ptr::NonNull;

/// The machine of the board.
#[cfg(target_arch = "arm")]
pub(crate) use carveout_armv7a::mmu::Armv7a as Machine;

/// The host's fake machine.
#[cfg(not(target_arch = "arm"))]
pub(crate) use carveout::fake::Fake as Machine;

/// The blocks of heap that a machine takes, in bytes, the outer cache's last.
#[cfg(target_arch = "arm")]
pub(crate) const HEAP_BYTES: [usize; 3] = [size_of::<Functions>(), size_of::<Machine>(), OUTER_BYTES];

/// The most bytes that an outer cache takes.
#[cfg(target_arch = "arm")]
const OUTER_BYTES: usize = {
    let (registers, called) = (size_of::<L2c310>(), size_of::<crate::outer::Called>());
    if registers > called { registers } else { called }
};

/// The blocks of heap that a machine takes, in bytes.
#[cfg(not(target_arch = "arm"))]
pub(crate) const HEAP_BYTES: [usize; 1] = [size_of::<Machine>()];

/// Keeps a value for ever, on the heap.
pub(crate) fn leaked<T>(value: T) -> Result<&'static T, Refusal> {
    let mut one = Vec::new();
    one.try_reserve_exact(1).map_err(|_| Refusal::Heap("module"))?;
    one.push(value);
    one.leak().first().ok_or(Refusal::Heap("module"))
}

#[cfg(target_arch = "arm")]
impl carveout::machine::LinearMap for Functions {
    fn va_of(&self, frames: FrameRange) -> Option<VirtAddr> {
        let at = self.phys_to_virt(frames.base().raw(), frames.bytes() as usize);
        (!at.is_null()).then(|| VirtAddr::new(at.addr() as u32))
    }
}

/// Makes the machine. From here on the heap is the kernel's.
#[cfg(target_arch = "arm")]
pub(crate) fn machine(functions: Functions, outer: Option<Outer>) -> Result<&'static Machine, Refusal> {
    use carveout_armv7a::levels::CacheLevel;

    // The first block, which the functions themselves lie in.
    let place = functions.alloc(Layout::new::<Functions>()).cast::<Functions>();
    if place.is_null() {
        return Err(Refusal::Heap("module"));
    }
    // SAFETY: memory of the kernel's of this layout, which nobody else has.
    unsafe { place.write(functions) };
    // SAFETY: it was written just now, and is never given back.
    let functions = unsafe { &*place };
    heap::take_by(functions);
    // SAFETY: the kernel has all that memory mapped write-back for good, as the header says of it (I1).
    let machine = leaked(unsafe { Machine::new(functions) })?;
    let outer: &'static dyn CacheLevel = match outer {
        None => return Ok(machine),
        Some(Outer::Called(called)) => leaked(called)?,
        Some(Outer::Pl310(registers, non_secure)) => {
            let world = if non_secure { World::NonSecure } else { World::Secure };
            let registers = NonNull::new(registers.cast()).ok_or(Refusal::Null("outer_cache.pl310"))?;
            // SAFETY: the registers are mapped as Device memory for good and only the module's, as the header says.
            leaked(unsafe { L2c310::enable(registers, world) }.map_err(Refusal::Outer)?)?
        }
    };
    // SAFETY: nothing was made over this machine yet (I3).
    unsafe { machine.set_outer(outer) };
    Ok(machine)
}

/// Makes the fake machine. Its RAM and its first-level table are where `carveout::setup` has them. It has no outer
/// cache.
#[cfg(not(target_arch = "arm"))]
pub(crate) fn machine(_: Functions, _: Option<Outer>) -> Result<&'static Machine, Refusal> {
    use carveout::setup::{L1, RAM, RAM_BYTES};

    leaked(Machine::new(RAM, RAM_BYTES, L1, 1))
}
