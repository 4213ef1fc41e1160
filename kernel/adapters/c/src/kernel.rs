//! What a kernel gives the module.
//!
//! Guarantees: each list that C passed is read as far as C says, and what it says wrongly is refused.

use crate::failure::Refusal;
use crate::outer::{Outer, OuterCache};
use crate::text;
use alloc::alloc::Layout;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use carveout::addr::{FRAME_SIZE, FrameRange, PhysAddr, SECTION_SIZE};
use carveout::carve_out::CarveOut;
use carveout::vm::alias::{self, Aliases};
use carveout::vm::range::VirtRange;
use core::ffi::{c_char, c_void};
use core::slice;

/// A run of physical memory in whole pages of 4 KiB.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The first byte.
    pub(crate) base: u32,
    /// The number of bytes, 1 page or more.
    pub(crate) bytes: u32,
}

impl Range {
    /// Returns its frames.
    pub(crate) fn frames(self) -> Result<FrameRange, Refusal> {
        let Self { base, bytes } = self;
        let whole = base.is_multiple_of(FRAME_SIZE) && bytes.is_multiple_of(FRAME_SIZE) && bytes > 0;
        let frames = FrameRange::within(base.into(), bytes.into());
        if whole && frames.bytes() == bytes.into() { Ok(frames) } else { Err(Refusal::NoRange { base, bytes }) }
    }
}

/// An area: memory that is the module's alone. No table maps any of it, from the instruction that turned the MMU on. Or
/// it is late: the kernel's own RAM, mapped as the kernel likes, until `carveout_take_area`.
#[repr(C)]
#[derive(Debug)]
pub struct Area {
    /// Its name in reports, in UTF-8, at most 31 bytes.
    pub(crate) name: *const c_char,
    /// Its runs of memory: one, or one for each bank of RAM that it lies in.
    pub(crate) ranges: *const Range,
    /// How many there are, 1 to 8.
    pub(crate) range_count: usize,
    /// Whether it is late: 0 or 1.
    pub(crate) late: u32,
}

/// RAM that answers at a second range of physical addresses.
#[repr(C)]
#[derive(Debug)]
pub struct Alias {
    /// The second addresses.
    pub(crate) range: Range,
    /// The first of the addresses that the kernel uses for that RAM.
    pub(crate) of: u32,
}

/// What a kernel gives the module. It may throw this away, and all that it points to, when `carveout_init` returned.
#[repr(C)]
#[derive(Debug)]
pub struct Kernel {
    /// The areas. Functions name an area by its place in this list.
    pub(crate) areas: *const Area,
    /// How many there are, 1 to 32.
    pub(crate) area_count: usize,
    /// The board's aliases. NULL stands for none.
    pub(crate) aliases: *const Alias,
    /// How many there are, at most 4.
    pub(crate) alias_count: usize,
    /// The first of the addresses that buffers are mapped at, a multiple of 1 MiB. Nothing else uses these addresses:
    /// the first-level table has zeros for them, and only the module writes there from here on.
    pub(crate) window: u32,
    /// The number of addresses in MiB: what `carveout_needs` says.
    pub(crate) window_sections: u32,
    /// The physical address of the second-level tables of these addresses, a multiple of 1 KiB: 1 KiB for each MiB.
    /// Only the module uses them.
    pub(crate) tables: u32,
    /// The physical addresses of all first-level tables that translate the window, where there is one for each process.
    /// Tables that are copied from one of them later need not be named. NULL stands for one table for all, which TTBR0
    /// or TTBR1 has now.
    pub(crate) roots: *const u32,
    /// How many there are.
    pub(crate) root_count: usize,
    /// The buffers for which there are records from the start. 0 stands for 1024. More records are asked of `alloc`
    /// when few are left.
    pub(crate) buffers: u32,
    /// The outer cache. NULL stands for none, or for one that is off.
    pub(crate) outer_cache: *const OuterCache,
    /// Whether the window may be too small for an unmapped page on either side of every buffer: 0 or 1.
    pub(crate) spare_guards: u32,
    /// Whether the module looks for writes of the CPU to streams that are `CARVEOUT_FROM_DEVICE`: 0 or 1. It then reads
    /// such a stream whenever the CPU gets it, and once more whenever the device gets it. That costs time, and is for
    /// finding mistakes. It looks at as many streams as `buffers` says.
    pub(crate) check_writes: u32,
    /// Returns where the kernel has `bytes` from a physical address on: mapped write-back and writable, one after
    /// another, for good. Returns NULL where it does not. It is asked for the memory that tables are in, which is never
    /// an area's.
    pub(crate) phys_to_virt: Option<unsafe extern "C" fn(context: *mut c_void, phys: u32, bytes: usize) -> *mut c_void>,
    /// Gives `size` bytes of the kernel's memory, at a multiple of `align`, or NULL. It is called by `carveout_init`
    /// and by the functions that say so, with interrupts masked by some. It calls nothing of the module.
    pub(crate) alloc: Option<unsafe extern "C" fn(context: *mut c_void, size: usize, align: usize) -> *mut c_void>,
    /// Takes back what `alloc` gave.
    pub(crate) free: Option<unsafe extern "C" fn(context: *mut c_void, memory: *mut c_void, size: usize, align: usize)>,
    /// The first argument of each of the three.
    pub(crate) context: *mut c_void,
}

/// Returns as many values as C says that there are.
///
/// # Safety
///
/// `first` is NULL, or points to as many values, which do not change while the slice lives.
pub(crate) unsafe fn list<'a, T>(first: *const T, count: usize) -> &'a [T] {
    // SAFETY: it points to as many, as this function demands.
    if first.is_null() { &[] } else { unsafe { slice::from_raw_parts(first, count) } }
}

/// Returns the first-level tables that C names by their addresses.
///
/// # Safety
///
/// `first` is NULL, or points to as many addresses, which do not change while the slice lives.
pub(crate) unsafe fn roots<'a>(first: *const u32, count: usize) -> &'a [PhysAddr] {
    // SAFETY: as this function demands; an address is a number, and has its layout.
    unsafe { list(first.cast(), count) }
}

/// The functions of a kernel, which the module calls for as long as it lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Functions {
    phys_to_virt: unsafe extern "C" fn(*mut c_void, u32, usize) -> *mut c_void,
    alloc: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void, usize, usize),
    context: *mut c_void,
}

// SAFETY: any core may call them, and their `context` is the kernel's own business, as the header says of them.
unsafe impl Sync for Functions {}

#[cfg_attr(not(target_arch = "arm"), expect(dead_code, reason = "the host's machine and heap are its own"))]
impl Functions {
    /// Returns where the kernel has these bytes mapped, or NULL.
    pub(crate) fn phys_to_virt(&self, phys: u32, bytes: usize) -> *mut u8 {
        // SAFETY: the kernel passed it for this.
        unsafe { (self.phys_to_virt)(self.context, phys, bytes) }.cast()
    }

    /// Returns memory of the kernel's, or NULL.
    pub(crate) fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the kernel passed it for this.
        unsafe { (self.alloc)(self.context, layout.size(), layout.align()) }.cast()
    }

    /// Gives memory back.
    ///
    /// # Safety
    ///
    /// [`alloc`](Self::alloc) gave it for this layout, and nobody uses it any more.
    pub(crate) unsafe fn free(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the kernel passed it for this, and gave this memory.
        unsafe { (self.free)(self.context, memory.cast(), layout.size(), layout.align()) };
    }
}

impl Kernel {
    /// Returns its functions.
    pub(crate) fn functions(&self) -> Result<Functions, Refusal> {
        Ok(Functions {
            phys_to_virt: self.phys_to_virt.ok_or(Refusal::Null("phys_to_virt"))?,
            alloc: self.alloc.ok_or(Refusal::Null("alloc"))?,
            free: self.free.ok_or(Refusal::Null("free"))?,
            context: self.context,
        })
    }

    /// Returns the areas, 1 to 32.
    fn areas(&self) -> Result<&[Area], Refusal> {
        // SAFETY: it is NULL or points to as many areas, as the header says of it.
        match unsafe { list(self.areas, self.area_count) } {
            [] => Err(Refusal::Null("areas")),
            areas if areas.len() > CarveOut::MAX => Err(Refusal::Full { what: "areas", limit: CarveOut::MAX }),
            areas => Ok(areas),
        }
    }

    /// Calls `each` with one carve-out after another, of the areas.
    pub(crate) fn each_carve_out(&self, mut each: impl FnMut(CarveOut)) -> Result<(), Refusal> {
        for area in self.areas()? {
            // SAFETY: the name is NULL or a string, as the header says of it.
            let name = unsafe { text::name("area", area.name) }?;
            if area.ranges.is_null() {
                return Err(Refusal::Null("ranges"));
            }
            // SAFETY: it points to as many ranges, as the header says of it.
            let given = unsafe { list(area.ranges, area.range_count) };
            let mut ranges = ArrayVec::<FrameRange, { CarveOut::RANGES }>::new();
            for range in given {
                let frames = range.frames()?;
                ranges
                    .try_push(frames)
                    .map_err(|_| Refusal::Full { what: "ranges of an area", limit: CarveOut::RANGES })?;
            }
            if ranges.is_empty() {
                return Err(Refusal::Null("ranges"));
            }
            each(if area.late == 0 {
                // SAFETY: no table maps the area, as the header says of it (I2).
                unsafe { CarveOut::assume(&name, &ranges, false) }
            } else {
                CarveOut::late(&name, &ranges, false)
            });
        }
        Ok(())
    }

    /// Returns the areas as carve-outs, in memory of the heap.
    pub(crate) fn carve_outs(&self) -> Result<Vec<CarveOut>, Refusal> {
        let mut carved = Vec::new();
        carved.try_reserve_exact(self.areas()?.len()).map_err(|_| Refusal::Heap("areas"))?;
        self.each_carve_out(|area| carved.push(area))?;
        Ok(carved)
    }

    /// Returns the outer cache, if there is one.
    pub(crate) fn outer_cache(&self) -> Result<Option<Outer>, Refusal> {
        // SAFETY: it is NULL or points to one, as the header says of it.
        unsafe { self.outer_cache.as_ref() }.map(OuterCache::checked).transpose()
    }

    /// Returns the board's aliases.
    pub(crate) fn aliases(&self) -> Result<Aliases, Refusal> {
        // SAFETY: it is NULL or points to as many aliases, as the header says of it.
        let given = unsafe { list(self.aliases, self.alias_count) };
        let mut aliases = Aliases::default();
        for alias in given {
            let frames = alias.range.frames()?;
            let of = Range { base: alias.of, bytes: alias.range.bytes }.frames()?;
            aliases.add(alias::Alias { frames, of }).map_err(Refusal::Alias)?;
        }
        Ok(aliases)
    }

    /// Returns the buffers for which there are records from the start: 1024 where the kernel says nothing else.
    pub(crate) fn records(&self) -> usize {
        if self.buffers == 0 { 1024 } else { self.buffers as usize }
    }

    /// Returns the addresses of the window.
    pub(crate) fn window_range(&self) -> Result<VirtRange, Refusal> {
        let &Self { window: start, window_sections: sections, .. } = self;
        let whole = start.is_multiple_of(SECTION_SIZE);
        let most = 4096 - start / SECTION_SIZE;
        if whole && sections <= most {
            Ok(VirtRange::new(start, sections))
        } else {
            Err(Refusal::NoWindow { start, sections })
        }
    }
}
