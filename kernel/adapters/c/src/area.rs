//! Areas that come and go: late carve-out, and the way back.
//!
//! Guarantees: a late area has no buffer before `carveout_take_area` has succeeded. The module reads the tables itself
//! then, and refuses the area if one still maps a page of it (I2). What the kernel gets back holds zeros (I5).

use crate::failure::{Error, Failure, Refusal, StillWanted, answer};
use crate::instance::{self, Instance};
use crate::kernel;
use carveout::addr::FrameRange;
use carveout::dma::AreaId;
use core::ffi::c_void;
use core::mem::MaybeUninit;

/// Returns the area of this number.
fn area(instance: &Instance, number: u32) -> Result<AreaId, Refusal> {
    let area = instance.dma().area_at(number as usize);
    area.ok_or(Refusal::Area { number, areas: instance.areas() })
}

/// Takes an area from the kernel: a place among the areas that `carveout_init` got, which is late or was given back.
/// From here on its memory can be allocated. Nothing of the kernel's is there, and no device uses it. What it holds is
/// lost.
///
/// `unmap` is called with each range of the area, and ends the kernel's mappings of it: it writes zeros over their
/// descriptors, cleans those where walks do not look in the data cache, and passes a DSB. It invalidates no TLB. It
/// returns `true`, or `false` if it cannot: then the area is refused. It calls nothing of the module.
///
/// If `unmap` is NULL, the module does so itself. Then each descriptor that maps some of the area must map no more than
/// one range of it: sections of 1 MiB, for an area of whole sections. The module writes to the tables that
/// `phys_to_virt` reaches, and nobody else does meanwhile.
///
/// Either way the module then reads all tables, and refuses the area if one still maps a page of it. Then it
/// invalidates the TLBs of all cores. If it refused, the area is the kernel's as before, which may map again what was
/// unmapped.
///
/// `roots` are the physical addresses of the first-level tables that TTBR0 does not hold now and may hold later: those
/// of the processes that do not run, and of other cores. NULL stands for none. This is not for
/// interrupt handlers.
///
/// # Safety
///
/// `roots` is NULL, or points to `root_count` addresses. `unmap` is NULL, or may be called with `context`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn carveout_take_area(
    area: u32,
    roots: *const u32,
    root_count: usize,
    unmap: Option<unsafe extern "C" fn(context: *mut c_void, phys: u32, bytes: usize) -> bool>,
    context: *mut c_void,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let instance = instance::ready()?;
        let area = self::area(instance, area)?;
        // SAFETY: it is NULL or points to as many addresses, as this function demands.
        let roots = unsafe { kernel::roots(roots, root_count) };
        let Some(unmap) = unmap else {
            // SAFETY: nothing of the kernel's is there, and nobody else writes its tables, as the header demands (I2).
            return Ok(unsafe { instance.dma().take_mapped_area(area, roots) }?);
        };
        let unmap = |run: FrameRange| {
            // SAFETY: it may be called so, as this function demands.
            let done = unsafe { unmap(context, run.base().raw(), run.bytes() as usize) };
            if done { Ok(()) } else { Err(StillWanted { run }) }
        };
        // SAFETY: nothing of the kernel's is there, as the header demands, and `unmap` ends what maps it (I2).
        Ok(unsafe { instance.dma().take_area(area, roots, unmap) }?)
    })
}

/// Gives an area to the kernel, which may map it from here on, and use it as any RAM. It holds zeros. No buffer and no
/// contract may have a part of it. It can be taken again. This is not for interrupt handlers.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_give_back_area(area: u32, why: Option<&mut MaybeUninit<Failure>>) -> Error {
    answer(why, || {
        let instance = instance::ready()?;
        Ok(instance.dma().give_back_area(self::area(instance, area)?)?)
    })
}
