//! Address spaces of processes, which the kernel's functions map and unmap pages in.
//!
//! Guarantees: C is given whole descriptors, which agree with the kernel's own mapping of the page (I1), are not global
//! and never execute. The addresses are those that `reserve` gave, and nothing is mapped at them twice.

use crate::failure::Refusal;
use carveout::addr::{FRAME_SHIFT, PhysAddr, VirtAddr};
use carveout::dma::{UserAccess, UserSpace};
use carveout::vm::attr::Shareability;
use carveout::vm::desc::L2Desc;
use carveout::vm::mapped::Part;
use core::ffi::c_void;

/// The address space of a process. What C passes is copied. Each of its functions may be called by several cores at a
/// time, with interrupts as they are. None calls the module. All bytes are whole pages of 4 KiB.
#[repr(C)]
#[derive(Debug)]
pub struct Space {
    /// The physical address of the first-level table that TTBR0 holds while the process runs.
    pub(crate) first_level: u32,
    /// Reserves `bytes` of the process's addresses, and what tables their pages need. It returns the first one, a
    /// multiple of 4 KiB, or 0 if there is no room.
    pub(crate) reserve: Option<unsafe extern "C" fn(context: *mut c_void, bytes: usize) -> u32>,
    /// Gives back what was reserved, at which nothing is mapped.
    pub(crate) release: Option<unsafe extern "C" fn(context: *mut c_void, va: u32, bytes: usize)>,
    /// Writes descriptors of small pages for reserved addresses, at which nothing is mapped: `descriptor` for the first
    /// page, and 0x1000 more for each page after it. Type, rights, nG and XN are in it, and none is changed (I1). It
    /// cleans them where walks do not look in the data cache, and passes a DSB and an ISB. It does not fail.
    pub(crate) map: Option<unsafe extern "C" fn(context: *mut c_void, va: u32, descriptor: u32, bytes: usize)>,
    /// Writes zeros over the descriptors of these addresses, some of which may be zeros. It cleans them where walks do
    /// not look in the data cache, passes a DSB, invalidates the TLBs of all cores for these addresses of the process
    /// (its ASID), and passes a DSB and an ISB. It does not fail.
    pub(crate) unmap: Option<unsafe extern "C" fn(context: *mut c_void, va: u32, bytes: usize)>,
    /// The first argument of each of the four.
    pub(crate) context: *mut c_void,
}

/// An address space as it can be used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Called {
    first_level: PhysAddr,
    reserve: unsafe extern "C" fn(*mut c_void, usize) -> u32,
    release: unsafe extern "C" fn(*mut c_void, u32, usize),
    map: unsafe extern "C" fn(*mut c_void, u32, u32, usize),
    unmap: unsafe extern "C" fn(*mut c_void, u32, usize),
    context: *mut c_void,
}

impl Space {
    /// Returns how it is used, or what is missing.
    pub(crate) fn checked(&self) -> Result<Called, Refusal> {
        let &Self { first_level, reserve, release, map, unmap, context } = self;
        Ok(Called {
            first_level: PhysAddr::new(first_level),
            reserve: reserve.ok_or(Refusal::Null("space.reserve"))?,
            release: release.ok_or(Refusal::Null("space.release"))?,
            map: map.ok_or(Refusal::Null("space.map"))?,
            unmap: unmap.ok_or(Refusal::Null("space.unmap"))?,
            context,
        })
    }
}

/// A place for an address space, made before there is a client for it, so that a client takes no memory.
pub(crate) struct SpacePlace {
    /// None if no client has had the place yet.
    pub(crate) called: Option<Called>,
    /// The shareability of the machine's Normal memory.
    pub(crate) share: Shareability,
}

// SAFETY: any core may call the functions, and `context` is the kernel's own business, as the header says of them.
unsafe impl Sync for SpacePlace {}
// SAFETY: as above.
unsafe impl Send for SpacePlace {}

const fn bytes(pages: u32) -> usize {
    (pages as usize) << FRAME_SHIFT
}

// SAFETY: the functions reserve, map and unmap as the header says of them. The descriptors have the part's type and the
// machine's shareability, are not global and never execute.
unsafe impl UserSpace for SpacePlace {
    fn first_level(&self) -> PhysAddr {
        self.called.map_or(PhysAddr::new(0), |called| called.first_level)
    }

    fn reserve(&self, pages: u32) -> Option<VirtAddr> {
        let called = self.called?;
        // SAFETY: the kernel passed it for this.
        let va = unsafe { (called.reserve)(called.context, bytes(pages)) };
        (va != 0).then(|| VirtAddr::new(va))
    }

    fn release(&self, va: VirtAddr, pages: u32) {
        let Some(called) = self.called else { return };
        // SAFETY: the kernel passed it for this.
        unsafe { (called.release)(called.context, va.raw(), bytes(pages)) };
    }

    fn map(&self, va: VirtAddr, part: Part<'_>, access: UserAccess) {
        let Some(called) = self.called else { return };
        let first = L2Desc::user(part.pa(), part.mapped().memory(), access, self.share).raw();
        // SAFETY: the kernel passed it for this.
        unsafe { (called.map)(called.context, va.raw(), first, part.bytes() as usize) };
    }

    fn unmap(&self, va: VirtAddr, pages: u32) {
        let Some(called) = self.called else { return };
        // SAFETY: the kernel passed it for this.
        unsafe { (called.unmap)(called.context, va.raw(), bytes(pages)) };
    }
}
