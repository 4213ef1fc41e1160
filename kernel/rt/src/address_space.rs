//! The kernel's half of the address space, which begins with the head's tables.
//!
//! Guarantees: the direct map holds what the plan says and no more (I2). The memory is handed out after it is mapped.
//! Registers are mapped as Device memory, and never over RAM or over an area outside RAM (I1). Each byte of them has
//! one holder at a time.

use crate::start::{BootHandover, BootTables, DtbFault, below_stacks, translate_image};
use arrayvec::ArrayVec;
use carveout::addr::{FRAME_SIZE, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use carveout::carve_out::CarveOut;
use carveout::embed::{Roots, Window};
use carveout::machine::{LinearMap, Mmu};
use carveout::vm::alias::MAX_ALIASES;
use carveout::vm::attr::{Access, MemoryType};
use carveout::vm::desc::{L1_ENTRIES, L1Desc, L2_ENTRIES, L2_TABLE_SIZE, L2Desc, L2Table};
use carveout::vm::range::VirtRange;
use carveout::vm::space::{MapError, OnDemand, Region};
use carveout_armv7a::mmu::Armv7a;
use carveout_boot::bootinfo::{BootError, BootInfo, MAX_BANKS};
use carveout_boot::direct_map::{DirectMap, MAX_RAGGED, Run};
use carveout_boot::layout::{Layout, LayoutError};
use carveout_boot::memory::{BootMemory, BootRam};
use carveout_boot::upper_half::DEVICES;
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use spin::Once;

/// Second-level tables for sections that the direct map maps in part: as many as a plan uses.
const DIRECT_TABLES: usize = MAX_RAGGED;
/// Second-level tables for devices, enough for 16 MiB of registers.
const DEVICE_TABLES: usize = 16;
/// The most blocks of registers that are mapped.
const MAX_BLOCKS: usize = 64;

/// Room in the image. It has second-level tables for what is mapped before there is any RAM to take, and the layout,
/// which is large for a stack.
#[repr(C, align(1024))]
struct Reserve {
    direct: UnsafeCell<[L2Table; DIRECT_TABLES]>,
    devices: UnsafeCell<[L2Table; DEVICE_TABLES]>,
    layout: UnsafeCell<MaybeUninit<Option<Layout<'static>>>>,
}

// SAFETY: only `AddressSpace::adopt` touches it, and that runs once, by the one `BootHandover`.
unsafe impl Sync for Reserve {}

const NO_TABLE: L2Table = [L2Desc::FAULT; L2_ENTRIES];

static RESERVE: Reserve = Reserve {
    direct: UnsafeCell::new([NO_TABLE; DIRECT_TABLES]),
    devices: UnsafeCell::new([NO_TABLE; DEVICE_TABLES]),
    // Not `None`, whose bytes are not zeros: all of this stays in .bss.
    layout: UnsafeCell::new(MaybeUninit::uninit()),
};

static DIRECT_MAP: Once<DirectMap> = Once::new();

/// Returns the direct map, once it is mapped.
pub fn direct_map() -> Option<&'static DirectMap> {
    DIRECT_MAP.get()
}

/// The memory that the kernel has mapped for good: its image below the stacks, and the direct map once that is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelMemory;

impl LinearMap for KernelMemory {
    fn va_of(&self, frames: FrameRange) -> Option<VirtAddr> {
        below_stacks(frames).or_else(|| direct_map()?.va_of(frames))
    }
}

/// Makes the machine that this runs on.
pub fn machine() -> Armv7a {
    // SAFETY: the head mapped the image below the stacks, and nothing unmaps it. The direct map is noted once every run
    // of it is mapped, and no method of `AddressSpace` unmaps any (I1). The head refuses a core without the Security
    // Extensions.
    unsafe { Armv7a::new(&KernelMemory) }
}

/// Why there is no address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootFault {
    /// There is no device tree.
    NoTree(DtbFault),
    /// The device tree cannot be used.
    Tree(BootError),
    /// There is no plan for the memory that it describes.
    Layout(LayoutError<'static>),
    /// A run of the direct map was not mapped.
    DirectMap {
        /// The run.
        frames: FrameRange,
        /// Why.
        error: MapError,
    },
}

impl fmt::Display for BootFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTree(fault) => fault.fmt(f),
            Self::Tree(error) => error.fmt(f),
            Self::Layout(error) => error.fmt(f),
            Self::DirectMap { frames, error } => write!(f, "direct map: {frames}: {error}"),
        }
    }
}

impl core::error::Error for BootFault {}

/// Why registers were not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceError {
    /// The range touches RAM. Registers are never mapped over memory (I1).
    OverRam {
        /// What was asked for.
        registers: FrameRange,
        /// The bank that it touches, or the alias of one.
        bank: FrameRange,
    },
    /// The range touches an area outside RAM, whose buffers are mapped as Normal memory (I1).
    OverArea {
        /// What was asked for.
        registers: FrameRange,
        /// The area's range.
        area: FrameRange,
    },
    /// Somebody holds some of these registers already.
    Held {
        /// The first byte asked for.
        at: PhysAddr,
        /// The first byte of the block that is held.
        held: PhysAddr,
        /// The bytes of that block.
        bytes: u32,
    },
    /// There is no room for one more block.
    TooMany,
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
            Self::Held { at, held, bytes } => {
                write!(f, "registers at {at} not mapped: {bytes} bytes at {held} are in use")
            }
            Self::TooMany => write!(f, "registers not mapped: {MAX_BLOCKS} blocks are mapped already"),
            Self::Map(error) => write!(f, "registers not mapped: {error}"),
        }
    }
}

impl core::error::Error for DeviceError {}

/// A block of registers, mapped as Device memory for good. Whoever has this value is the only holder of its bytes.
#[derive(Debug)]
pub struct DeviceBlock {
    at: PhysAddr,
    va: VirtAddr,
    bytes: u32,
}

impl DeviceBlock {
    /// Returns the CPU's address of the registers, or `None` unless the block is as large as an `R` and aligned as one.
    pub fn pointer<R>(&self) -> Option<NonNull<R>> {
        let first = NonNull::new(self.va.raw() as *mut R)?;
        (first.is_aligned() && self.bytes as usize >= size_of::<R>()).then_some(first)
    }
}

/// A block that was mapped, and whether somebody has its [`DeviceBlock`].
#[derive(Debug)]
struct Block {
    at: PhysAddr,
    va: VirtAddr,
    bytes: u32,
    held: bool,
}

impl Block {
    fn overlaps(&self, at: PhysAddr, bytes: u32) -> bool {
        let end = |at: PhysAddr, bytes: u32| u64::from(at.raw()) + u64::from(bytes);
        u64::from(at.raw()) < end(self.at, self.bytes) && u64::from(self.at.raw()) < end(at, bytes)
    }
}

/// The first-level entries of the upper half, by region.
#[derive(Debug)]
pub struct AddressSpace {
    machine: &'static Armv7a,
    direct: Region<'static, OnDemand<'static>>,
    devices: Region<'static, OnDemand<'static>>,
    next_device: VirtAddr,
    blocks: ArrayVec<Block, MAX_BLOCKS>,
    ram: ArrayVec<FrameRange, { MAX_BANKS + MAX_ALIASES }>,
    /// The areas outside RAM.
    areas: ArrayVec<FrameRange, { CarveOut::MAX * CarveOut::RANGES }>,
    /// The addresses of the window, until they are taken.
    window: Option<VirtRange>,
}

/// First-level entries, and their address.
struct Entries {
    range: VirtRange,
    words: &'static mut [L1Desc],
    at: PhysAddr,
}

impl AddressSpace {
    /// Plans the memory by the device tree that was handed over, takes over the head's tables and maps the direct map.
    /// Only then is there memory to hand out.
    ///
    /// The handover is consumed. There is only one, so only one plan of the machine's memory comes into force.
    ///
    /// # Errors
    ///
    /// [`BootFault::NoTree`] if there is no device tree. [`BootFault::Tree`] if it cannot be used.
    /// [`BootFault::Layout`] if there is no plan for its memory. [`BootFault::DirectMap`] if a run cannot be mapped.
    pub fn adopt(
        machine: &'static Armv7a,
        handover: BootHandover,
    ) -> Result<(Self, BootMemory<'static, 'static>), BootFault> {
        // SAFETY: this function runs once, for it consumes the one handover, and nothing else touches the reserve.
        let place = unsafe { &mut *RESERVE.layout.get() };
        let layout = plan(&handover, place.write(None))?;
        let mut space = Self::new(machine, handover, layout);
        space.map_direct(layout.direct_map())?;
        DIRECT_MAP.call_once(|| layout.direct_map().clone());
        // SAFETY: the layout is of the tree, the image and the places that the head found on this machine. Each run was
        // just mapped. The head's tables translate to nothing else but image and tree, and of what `space` maps later
        // `map_device` refuses RAM and areas; its windows are for buffers. The handover was consumed, so no other
        // layout comes into force.
        Ok((space, unsafe { layout.mapped() }))
    }

    /// Takes over the head's tables, for the direct map of this layout and the window beside it.
    #[expect(clippy::needless_pass_by_value, reason = "consumed: there is one address space")]
    fn new(machine: &'static Armv7a, handover: BootHandover, layout: &Layout<'_>) -> Self {
        let (info, map) = (layout.info(), layout.direct_map());
        let ram = info.banks().iter().copied().chain(info.aliases().iter().map(|alias| alias.frames));
        let outside_ram = layout.areas().iter().filter(|area| area.outside_ram);
        let areas = outside_ram.flat_map(|area| area.ranges.iter().copied());
        let BootTables { l1, .. } = handover.tables;
        // SAFETY: the head made the table, 16 KiB in the image's .bss, and handed it over once, by this value; the
        // walker reads it too, which `Mmu::publish` accounts for.
        let table = unsafe { &mut *(l1.virt.raw() as *mut [L1Desc; L1_ENTRIES]) };
        let at = |slot: usize| PhysAddr::new(l1.phys.raw() + 4 * slot as u32);

        let (mut rest, mut first) = (table.as_mut_slice(), 0);
        // The entries are taken from the lowest on.
        let mut take = |range: VirtRange| {
            let slot = (range.start().raw() / SECTION_SIZE) as usize;
            let (_, above) = core::mem::take(&mut rest).split_at_mut(slot - first);
            let (entries, above) = above.split_at_mut(range.sections() as usize);
            (rest, first) = (above, slot + entries.len());
            Entries { range, words: entries, at: at(slot) }
        };
        let [direct, devices] = [map.range(), DEVICES].map(&mut take);

        // SAFETY: this function runs once, for it consumes the one handover, and nothing else touches the reserve.
        let direct_tables = unsafe { &mut *RESERVE.direct.get() };
        // SAFETY: as above.
        let device_tables = unsafe { &mut *RESERVE.devices.get() };
        let image = |table: *const L2Table| {
            translate_image(VirtAddr::new(table as u32)).expect("the reserve is part of the image")
        };
        let (direct_at, devices_at) = (image(direct_tables.as_ptr()), image(device_tables.as_ptr()));
        let share = machine.registers().shareability();
        Self {
            machine,
            // SAFETY: entries and tables are those of the table in use, split off once; addresses as the head gave
            // them.
            direct: unsafe {
                Region::on_demand(direct.range, share, direct.words, direct.at, direct_tables, direct_at)
            },
            // SAFETY: entries and tables are those of the table in use, split off once; addresses as the head gave
            // them.
            devices: unsafe {
                Region::on_demand(devices.range, share, devices.words, devices.at, device_tables, devices_at)
            },
            next_device: DEVICES.start(),
            blocks: ArrayVec::new(),
            ram: ram.collect(),
            areas: areas.collect(),
            window: Some(map.window()),
        }
    }

    fn map_direct(&mut self, map: &DirectMap) -> Result<(), BootFault> {
        for Run { va, frames } in map.runs() {
            // SAFETY: the plan holds each frame once, no carved one and none of the image (I1, I2).
            let mapped = unsafe { self.direct.map(self.machine, va, frames, MemoryType::WriteBack, Access::ReadWrite) };
            mapped.map_err(|error| BootFault::DirectMap { frames, error })?;
        }
        Ok(())
    }

    /// Maps `bytes` of registers at `at` as Device memory and gives them to the caller. A block that was mapped before
    /// and given back is not mapped again.
    ///
    /// # Errors
    ///
    /// [`DeviceError::OverRam`] and [`DeviceError::OverArea`] if memory is there (I1). [`DeviceError::Held`] if
    /// somebody holds some of the registers. [`DeviceError::TooMany`] and [`DeviceError::Map`] if there is no room, or
    /// no bytes were asked for.
    pub fn map_device(&mut self, at: PhysAddr, bytes: u32) -> Result<DeviceBlock, DeviceError> {
        let registers = FrameRange::covering(at.raw().into(), bytes.into());
        if let Some(&bank) = self.ram.iter().find(|bank| bank.overlaps(registers)) {
            return Err(DeviceError::OverRam { registers, bank });
        }
        if let Some(&area) = self.areas.iter().find(|area| area.overlaps(registers)) {
            return Err(DeviceError::OverArea { registers, area });
        }
        if let Some(other) = self.blocks.iter().find(|block| block.held && block.overlaps(at, bytes)) {
            return Err(DeviceError::Held { at, held: other.at, bytes: other.bytes });
        }
        if let Some(known) = self.blocks.iter_mut().find(|block| (block.at, block.bytes) == (at, bytes)) {
            known.held = true;
            return Ok(DeviceBlock { at, va: known.va, bytes });
        }
        if self.blocks.is_full() {
            return Err(DeviceError::TooMany);
        }
        let page = self.next_device;
        // SAFETY: the frames are no RAM and no area's, and registers are mapped as Device only (I1).
        let mapped = unsafe { self.devices.map(self.machine, page, registers, MemoryType::Device, Access::ReadWrite) };
        let mapped = mapped.map_err(DeviceError::Map)?;
        // A guard page stays between blocks.
        self.next_device = VirtAddr::new(page.raw() + mapped.bytes() + FRAME_SIZE);
        let va = VirtAddr::new(page.raw() + at.raw() % FRAME_SIZE);
        self.blocks.push(Block { at, va, bytes, held: true });
        Ok(DeviceBlock { at, va, bytes })
    }

    /// Takes registers back, so that somebody else can have them. They stay mapped.
    #[expect(clippy::needless_pass_by_value, reason = "consumed: the holder has them no more")]
    pub fn give_back(&mut self, block: DeviceBlock) {
        let DeviceBlock { at, bytes, .. } = block;
        if let Some(known) = self.blocks.iter_mut().find(|known| (known.at, known.bytes) == (at, bytes)) {
            known.held = false;
        }
    }

    /// Takes the first `sections` of the window. `tables` has room for a second-level table of each: as many KiB as
    /// sections. Returns `None` if the window was taken before, or if the tables are too few.
    #[expect(clippy::needless_pass_by_value, reason = "consumed: from now on these bytes are tables")]
    pub fn take_window(&mut self, sections: u32, tables: BootRam) -> Option<Window<'static>> {
        let range = self.window?.first(sections);
        if tables.frames().bytes() < u64::from(range.sections() * L2_TABLE_SIZE) {
            return None;
        }
        self.window = None;
        let at = tables.frames().base();
        // SAFETY: the window's entries stand in no region of this value, the head's table serves both halves and every
        // process (TTBCR.N = 1), and the window is taken once. `BootRam` owned the tables, in the direct map.
        Some(unsafe { Window::assume(range, Roots::One, at) })
    }
}

/// Plans the memory of the machine that the head handed over.
#[inline(never)] // Copies of a layout are large for the boot's stack, and gone when this returns.
fn plan(
    handover: &BootHandover,
    place: &'static mut Option<Layout<'static>>,
) -> Result<&'static mut Layout<'static>, BootFault> {
    let info = BootInfo::parse(handover.dtb.map_err(BootFault::NoTree)?).map_err(BootFault::Tree)?;
    Layout::plan_at(&info, handover.image, handover.dtb_frames, place).map_err(BootFault::Layout)
}
