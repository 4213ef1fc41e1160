//! The kernel's half of the address space, from the head's tables on.
//!
//! Guarantees: the direct map holds what the plan says and no more (I2); registers are mapped as Device and never over
//! RAM, nor over an area outside RAM (I1).

use crate::addr::{FRAME_SHIFT, FRAME_SIZE, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use crate::arch::armv7a::mmu::Armv7a;
use crate::arch::armv7a::start::{BootHandover, BootTables, translate_image};
use crate::boot::bootinfo::MAX_BANKS;
use crate::boot::directmap::{CarveOut, DirectMap, MAX_RAGGED};
use crate::boot::layout::MAX_AREAS;
use crate::boot::memblock::{Direction, Memblock};
use crate::vm::alias::MAX_ALIASES;
use crate::vm::attr::{Access, MemoryType};
use crate::vm::desc::{L1_ENTRIES, L1Desc, L2_ENTRIES, L2_TABLE_SIZE, L2Desc, L2Table};
use crate::vm::layout::{DEVICES, LOAN_WINDOW, VirtRange};
use crate::vm::space::{MapError, Region};
use arrayvec::ArrayVec;
use core::cell::UnsafeCell;
use core::fmt;

/// Second-level tables for ragged edges of the direct map: as many as a plan takes.
const DIRECT_TABLES: usize = MAX_RAGGED;
/// Second-level tables for devices: 16 MiB of registers.
const DEVICE_TABLES: usize = 16;

/// Second-level tables in the image, for what is mapped before any RAM is.
#[repr(C, align(1024))]
struct Reserve {
    direct: UnsafeCell<[L2Table; DIRECT_TABLES]>,
    devices: UnsafeCell<[L2Table; DEVICE_TABLES]>,
}

// SAFETY: only `AddressSpace::adopt` touches it, and that runs once, by the one `BootHandover`.
unsafe impl Sync for Reserve {}

const NO_TABLE: L2Table = [L2Desc::FAULT; L2_ENTRIES];

static RESERVE: Reserve =
    Reserve { direct: UnsafeCell::new([NO_TABLE; DIRECT_TABLES]), devices: UnsafeCell::new([NO_TABLE; DEVICE_TABLES]) };

/// Why registers were not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceError {
    /// The range is RAM, or touches it: registers are never mapped over memory (I1).
    OverRam {
        /// What was asked for.
        registers: FrameRange,
        /// The bank it touches, or the alias of one.
        bank: FrameRange,
    },
    /// The range touches an area outside RAM, whose buffers are mapped as Normal memory (I1).
    OverArea {
        /// What was asked for.
        registers: FrameRange,
        /// The area's range.
        area: FrameRange,
    },
    /// No bytes were asked for, or the region for devices is full.
    Map(MapError),
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OverRam { registers, bank } => {
                write!(f, "registers at {registers} not mapped: they overlap RAM at {bank} (I1)")
            }
            Self::OverArea { registers, area } => {
                write!(f, "registers at {registers} not mapped: they overlap the area at {area} (I1)")
            }
            Self::Map(error) => write!(f, "registers not mapped: {error}"),
        }
    }
}

/// RAM taken from memblock for good, and where the direct map has it.
#[derive(Debug)]
pub struct BootRam {
    bytes: &'static mut [u8],
    frames: FrameRange,
}

impl BootRam {
    /// The frames behind it.
    pub const fn frames(&self) -> FrameRange {
        self.frames
    }

    /// The bytes, as they were.
    pub const fn into_bytes(self) -> &'static mut [u8] {
        self.bytes
    }
}

/// First-level entries of everything above the lower half, by region.
#[derive(Debug)]
pub struct AddressSpace {
    machine: &'static Armv7a,
    direct: Region<'static>,
    devices: Region<'static>,
    next_device: VirtAddr,
    ram: ArrayVec<FrameRange, { MAX_BANKS + MAX_ALIASES }>,
    /// Areas outside RAM.
    areas: ArrayVec<FrameRange, { MAX_AREAS * CarveOut::RANGES }>,
    window: Option<Window>,
    loans: Option<Window>,
}

/// A window that was not taken yet: its first-level entries, and where they are.
#[derive(Debug)]
struct Window {
    range: VirtRange,
    entries: &'static mut [L1Desc],
    at: PhysAddr,
}

impl AddressSpace {
    /// Takes over the head's tables, for the direct map of this plan and the window beside it. `ram` are the board's banks
    /// and its aliases of them, `areas` the ranges of areas that are no RAM.
    ///
    /// The handover is consumed: it is the proof that this runs once.
    #[expect(clippy::needless_pass_by_value, reason = "consumed: there is one address space")]
    pub fn adopt(
        machine: &'static Armv7a,
        handover: BootHandover,
        plan: &DirectMap,
        ram: impl Iterator<Item = FrameRange>,
        areas: impl Iterator<Item = FrameRange>,
    ) -> Self {
        let BootTables { l1, .. } = handover.tables;
        // SAFETY: the head made the table, 16 KiB in the image's .bss, and handed it over once, by this value; the
        // walker reads it too, which `Mmu::publish` accounts for.
        let table = unsafe { &mut *(l1.virt.raw() as *mut [L1Desc; L1_ENTRIES]) };
        let at = |slot: usize| PhysAddr::new(l1.phys.raw() + 4 * slot as u32);

        let (mut rest, mut first) = (table.as_mut_slice(), 0);
        // From the lowest.
        let mut take = |range: VirtRange| {
            let slot = (range.start().raw() / SECTION_SIZE) as usize;
            let (_, above) = core::mem::take(&mut rest).split_at_mut(slot - first);
            let (entries, above) = above.split_at_mut(range.sections() as usize);
            (rest, first) = (above, slot + entries.len());
            Window { range, entries, at: at(slot) }
        };
        let [direct, window, loans, devices] = [plan.range(), plan.window(), LOAN_WINDOW, DEVICES].map(&mut take);

        // SAFETY: this function runs once, and nothing else touches the reserve.
        let direct_tables = unsafe { &mut *RESERVE.direct.get() };
        // SAFETY: as above.
        let device_tables = unsafe { &mut *RESERVE.devices.get() };
        let image = |table: *const L2Table| {
            translate_image(VirtAddr::new(table as u32)).expect("the reserve is part of the image")
        };
        let (direct_at, devices_at) = (image(direct_tables.as_ptr()), image(device_tables.as_ptr()));
        let share = Armv7a::shareability();
        Self {
            machine,
            // SAFETY: entries and tables are those of the table in use, split off once; addresses as the head gave them.
            direct: unsafe {
                Region::on_demand(direct.range, share, direct.entries, direct.at, direct_tables, direct_at)
            },
            // SAFETY: entries and tables are those of the table in use, split off once; addresses as the head gave them.
            devices: unsafe {
                Region::on_demand(devices.range, share, devices.entries, devices.at, device_tables, devices_at)
            },
            next_device: DEVICES.start(),
            ram: ram.collect(),
            areas: areas.collect(),
            window: Some(window),
            loans: Some(loans),
        }
    }

    /// Maps the direct map as planned. Runs that find no second-level table are returned, unmapped.
    pub fn map_direct(&mut self, plan: &DirectMap) -> impl Iterator<Item = (FrameRange, MapError)> {
        let (machine, direct) = (self.machine, &mut self.direct);
        plan.runs().filter_map(move |run| {
            // SAFETY: the plan holds each frame once, no carved one and none of the image (I1, I2).
            let mapped = unsafe { direct.map(machine, run.va, run.frames, MemoryType::WriteBack, Access::ReadWrite) };
            mapped.err().map(|error| (run.frames, error))
        })
    }

    /// Maps `bytes` of registers at `at` as Device memory, for good; returns the address of the first.
    pub fn map_device(&mut self, at: PhysAddr, bytes: u32) -> Result<VirtAddr, DeviceError> {
        let registers = FrameRange::covering(at.raw().into(), bytes.into());
        if let Some(&bank) = self.ram.iter().find(|bank| bank.overlaps(registers)) {
            return Err(DeviceError::OverRam { registers, bank });
        }
        if let Some(&area) = self.areas.iter().find(|area| area.overlaps(registers)) {
            return Err(DeviceError::OverArea { registers, area });
        }
        let va = self.next_device;
        // SAFETY: the frames are no RAM, and registers are mapped as Device only (I1).
        let mapped = unsafe { self.devices.map(self.machine, va, registers, MemoryType::Device, Access::ReadWrite) };
        let mapped = mapped.map_err(DeviceError::Map)?;
        // A guard page between blocks.
        self.next_device = VirtAddr::new(va.raw() + mapped.bytes() + FRAME_SIZE);
        Ok(VirtAddr::new(va.raw() + at.raw() % FRAME_SIZE))
    }

    /// Takes `count` frames of free, mapped RAM for good, aligned to `align` frames. `None` if there is no such run.
    pub fn take_ram<const N: usize>(&self, memblock: &mut Memblock<N>, count: u32, align: u32) -> Option<BootRam> {
        let plan = self.machine.direct_map()?;
        // Bottom-up, where the direct map surely reaches.
        let frames = memblock.phys_alloc_range(count, align, FrameRange::ALL, Direction::BottomUp).ok()?;
        let va = plan.va_of(frames)?;
        let length = (frames.count() as usize) << FRAME_SHIFT;
        // SAFETY: the direct map holds the frames write-back, for good; memblock gave them to this call alone.
        let bytes = unsafe { core::slice::from_raw_parts_mut(va.raw() as *mut u8, length) };
        Some(BootRam { bytes, frames })
    }

    /// The window of the areas, the first `sections` of it, with a second-level table each in `tables`: as many KiB as
    /// sections. `None` if it was taken before or the tables are too few.
    pub fn take_window(&mut self, sections: u32, tables: BootRam) -> Option<Region<'static>> {
        self::window(self.machine, sections, &mut self.window, tables)
    }

    /// Takes the whole window for lent frames, with a table for each of its sections.
    pub fn take_loan_window(&mut self, tables: BootRam) -> Option<Region<'static>> {
        self::window(self.machine, LOAN_WINDOW.sections(), &mut self.loans, tables)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "consumed: the frames are tables from here on")]
fn window(machine: &Armv7a, sections: u32, window: &mut Option<Window>, tables: BootRam) -> Option<Region<'static>> {
    let range = window.as_ref()?.range.first(sections);
    let count = range.sections() as usize;
    if tables.bytes.len() < count * L2_TABLE_SIZE as usize {
        return None;
    }
    let Window { entries, at, .. } = window.take()?;
    #[expect(clippy::cast_ptr_alignment, reason = "whole frames")]
    let first = tables.bytes.as_mut_ptr().cast::<L2Table>();
    debug_assert!(first.addr().is_multiple_of(L2_TABLE_SIZE as usize));
    // SAFETY: `BootRam` owns the bytes, they are enough, aligned to a page, and any word is a descriptor.
    let l2 = unsafe { core::slice::from_raw_parts_mut(first, count) };
    let share = Armv7a::shareability();
    // SAFETY: entries and tables are those of the table in use, split off once; addresses as the head gave them.
    Some(unsafe { Region::one_each(machine, range, share, &mut entries[..count], at, l2, tables.frames.base()) })
}
