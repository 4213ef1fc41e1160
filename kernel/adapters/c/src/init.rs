//! The beginning: what a kernel needs, and `carveout_init`, which takes over what it gives.
//!
//! Guarantees: what a kernel gives is checked before the first table is written. A refusal leaves everything as it was,
//! but for memory that the kernel's `alloc` gave.

use crate::failure::{Error, Failure, Refusal, answer};
use crate::instance::{self, Instance};
use crate::kernel::{self, Kernel};
use crate::machine::{self, Machine, leaked};
use crate::written::Sums;
use arrayvec::ArrayVec;
use carveout::addr::PhysAddr;
use carveout::carve_out::CarveOut;
use carveout::dma::Dma;
use carveout::embed::{Builder, Needs, Roots, Window};
use core::mem::MaybeUninit;

/// What a kernel must have ready.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelNeeds {
    /// The MiB of addresses that the window needs for an unmapped page on either side of every buffer.
    pub(crate) window_sections: u32,
    /// The fewest MiB of addresses that it can do with, where `spare_guards` is 1.
    pub(crate) least_sections: u32,
    /// The bytes that `carveout_init` asks of `alloc`. What pools, contracts and sharing ask for comes on top.
    pub(crate) heap_bytes: usize,
    /// The blocks in which it asks for them.
    pub(crate) heap_blocks: usize,
}

/// Returns what these areas need, the adapter's own part with it.
fn needs(kernel: &Kernel, carved: &[CarveOut]) -> KernelNeeds {
    let needs = Needs::of(carved, kernel.records());
    let sums = if kernel.check_writes == 0 { 0 } else { Sums::heap_bytes(kernel.records()) };
    let lists = [size_of_val(carved), sums];
    let of_dma = [size_of::<Dma<Machine>>()];
    let own = || {
        machine::HEAP_BYTES
            .into_iter()
            .chain(lists)
            .chain(of_dma)
            .chain(Instance::HEAP_BYTES)
            .filter(|&bytes| bytes > 0)
    };
    KernelNeeds {
        window_sections: needs.sections,
        least_sections: needs.least_sections,
        heap_bytes: own().fold(needs.heap_bytes, usize::saturating_add),
        heap_blocks: needs.heap_blocks + own().count(),
    }
}

/// Makes the module.
fn make(kernel: &Kernel) -> Result<Instance, Refusal> {
    kernel.each_carve_out(drop)?;
    let (aliases, range) = (kernel.aliases()?, kernel.window_range()?);
    let machine = machine::machine(kernel.functions()?, kernel.outer_cache()?)?;
    let carved = kernel.carve_outs()?;
    let areas = carved.len();
    // SAFETY: it is NULL or points to as many addresses, as the header says of it.
    let roots = unsafe { kernel::roots(kernel.roots, kernel.root_count) };
    let roots = if roots.is_empty() { Roots::One } else { Roots::Each(roots) };
    // SAFETY: nothing else uses the addresses or the tables, as the header says of them.
    let window = unsafe { Window::assume(range, roots, PhysAddr::new(kernel.tables)) };
    let mut builder = Builder::new(machine, carved, window).aliases(aliases).records(kernel.records());
    if kernel.spare_guards != 0 {
        builder = builder.sparing_guards();
    }
    let dma: &'static Dma<Machine> = leaked(builder.build()?)?;
    let sums = (kernel.check_writes != 0).then(|| Sums::new(kernel.records())).transpose()?;
    Instance::new(machine, dma, areas, sums)
}

/// Writes to `needs` what a kernel must have ready for its areas: `areas`, `area_count`, `buffers` and `check_writes`
/// count. It may be called before `carveout_init`, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_needs(
    kernel: Option<&Kernel>,
    needs: Option<&mut MaybeUninit<KernelNeeds>>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let kernel = kernel.ok_or(Refusal::Null("kernel"))?;
        let to = needs.ok_or(Refusal::Null("needs"))?;
        let mut carved = ArrayVec::<CarveOut, { CarveOut::MAX }>::new();
        kernel.each_carve_out(|area| carved.push(area))?;
        to.write(self::needs(kernel, &carved));
        Ok(())
    })
}

/// Takes over what a kernel gives. The MMU and the caches are on, and this runs on one core while no other calls the
/// module. The first buffer can be allocated at once, from an area that is not late. It needs 8 KiB of stack.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_init(kernel: Option<&Kernel>, why: Option<&mut MaybeUninit<Failure>>) -> Error {
    answer(why, || {
        let kernel = kernel.ok_or(Refusal::Null("kernel"))?;
        instance::make(|| make(kernel))
    })
}
