//! The plan of the memory: who gets which part of it. It is made before the direct map is.
//!
//! Guarantees: a frame of an area belongs to nobody else: not to the kernel image, the device tree, the initrd,
//! `/memreserve/`, a reservation or another area. It will not be in the direct map (I2): RAM is marked so, and what is
//! no RAM never was in it. A request that cannot be granted is refused before anything is entered for it. The refusal
//! is a value that prints as one line, and the plan goes on. All claims are by the RAM's first names. A reservation by
//! a second name holds the RAM that it means. An area by a second name is refused (I1).
//!
//! Nothing that was to be kept is lost. A refused region's memory stays reserved, and out of the direct map if the
//! region says `no-map`. Reservations are read from the tree as often as they are asked for. So no list of them can be
//! full, except memblock's lists of disjoint runs: if one of those is full, the boot ends with a line. An area is
//! refused, and its memory kept, if there are too many areas or too many ranges of an area.
//!
//! The order of decisions: first image and device tree; then RAM that is withheld; `/memreserve/`, what `/chosen`
//! names, reservations and refused regions; static areas; dynamic regions, from the top down, so that low memory stays
//! whole; last the default area of the command line. Within each group, the tree's order counts.
//!
//! The default area is decided as in Linux. A well-formed `cma=` takes over from `linux,cma-default`, whatever its size
//! (also 0) and whether or not it can be placed. The region of `linux,cma-default` is then no area, and its devices
//! have none. A malformed `cma=` is refused and otherwise ignored. Without either there is no default area.
//!
//! RAM that the command line or `linux,usable-memory-range` withholds is neither memory for memblock nor for an area. A
//! device tree that lies there stays mapped, read-only. An image that lies there ends the boot.
//!
//! An area outside RAM, in video memory or SRAM, is never in the direct map. It must be `no-map`. No node may have
//! registers there, except the node that names the region, and nodes of such memory.

#![forbid(unsafe_code)]

use core::fmt;

use arrayvec::ArrayVec;
use dtoolkit::Node;

use super::bootargs::{BootArgs, Cma, CmaPlace, CmaRequest, Ram};
use super::bootinfo::{
    AreaRuns, Binding, BootInfo, DevicePath, Dynamic, Holder, MAX_DEPTH, Reason, Refusals, Region, RegionKind, Subject,
    area_alignment, bus,
};
use super::byte_range::ByteRange;
use super::direct_map::DirectMap;
use super::memblock::{Direction, Memblock, MemblockError, RUNS};
use carveout::addr::{FRAME_SHIFT, FRAME_SIZE, FrameRange};
use carveout::carve_out::CarveOut;
use carveout::vm::alias::Alias;

/// The most places that are found at boot, for regions and for `cma=`.
pub const MAX_PLACED: usize = 64;

/// Why there is no plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayoutError<'dtb> {
    /// The kernel image is not in RAM: the tree does not describe this machine.
    ImageOutsideRam(FrameRange),
    /// The kernel image is in RAM that must not be used.
    ImageWithheld {
        /// The image.
        image: FrameRange,
        /// Who withholds it.
        by: Holder<'dtb>,
    },
    /// The boot loader put the device tree where RAM answers by its second name. The tree is read by that name, and the
    /// direct map would have it by the first (I1).
    TreeBySecondName(Alias),
    /// Memblock refused an entry.
    Memblock(MemblockError),
}

impl fmt::Display for LayoutError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ImageOutsideRam(image) => write!(f, "the kernel image at {image} is not in the RAM the tree names"),
            Self::ImageWithheld { image, by } => write!(f, "the kernel image at {image} is in RAM that {by} withholds"),
            Self::TreeBySecondName(alias) => write!(f, "the device tree at {alias}: load it there"),
            Self::Memblock(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for LayoutError<'_> {}

impl From<MemblockError> for LayoutError<'_> {
    fn from(error: MemblockError) -> Self {
        Self::Memblock(error)
    }
}

/// The use that is made of claimed memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimKind {
    /// Reserved, in the direct map.
    Reserved,
    /// Out of the direct map, and left to firmware. Memory of a refused area is left to nobody.
    Firmware,
    /// Not to be used at all, and out of the direct map.
    Withheld,
    /// Out of the direct map, part of an area.
    Area,
}

impl ClaimKind {
    const fn of(kind: RegionKind) -> Self {
        match kind {
            RegionKind::Plain => Self::Reserved,
            RegionKind::Firmware => Self::Firmware,
            RegionKind::Area { .. } => Self::Area,
        }
    }
}

/// A range somebody holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim<'dtb> {
    /// The range.
    pub range: FrameRange,
    /// Who holds it.
    pub holder: Holder<'dtb>,
    /// What becomes of it.
    pub kind: ClaimKind,
}

/// An area to be made: carved out of the direct map, with buffers to come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AreaPlan<'dtb> {
    /// Its node's name with the unit address, or `cma`.
    pub name: &'dtb str,
    /// Its ranges, disjoint, in the order of the node's `reg`.
    pub ranges: AreaRuns,
    /// Whether idle frames may be lent.
    pub lendable: bool,
    /// Whether it serves the devices that name no area. At most one area does.
    pub default: bool,
    /// Whether it is no RAM.
    pub outside_ram: bool,
    /// Its place in [`BootInfo::regions`], if it is a region.
    region: Option<usize>,
}

impl AreaPlan<'_> {
    /// Returns the bytes in all ranges.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.bytes()).sum()
    }
}

/// Why a device that names memory of its own has no area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost<'dtb> {
    /// Its `memory-region` is no list of phandles.
    Malformed,
    /// Its node is deeper than [`MAX_DEPTH`].
    TooDeep,
    /// No region has this phandle.
    NoSuchRegion(u32),
    /// The region was to be an area and was refused.
    Refused {
        /// The region's name.
        region: &'dtb str,
        /// The reason, if it is still known.
        reason: Option<Reason<'dtb>>,
    },
    /// None of the regions that it names asks to be an area. This is the first of them.
    NoArea(&'dtb str),
}

impl fmt::Display for Lost<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("memory-region is malformed"),
            Self::TooDeep => write!(f, "a node more than {MAX_DEPTH} deep is no device"),
            Self::NoSuchRegion(phandle) => write!(f, "memory-region names {phandle:#x}, which is no usable region"),
            Self::Refused { region, reason: Some(reason) } => {
                write!(f, "its reserved-memory/{region} was refused: {reason}")
            }
            Self::Refused { region, reason: None } => write!(f, "its reserved-memory/{region} was refused"),
            Self::NoArea(region) => write!(f, "its reserved-memory/{region} is no shared-dma-pool"),
        }
    }
}

/// Why a request was not entered.
enum Stop<'dtb> {
    Refused(Reason<'dtb>),
    Full(MemblockError),
}

impl<'dtb> From<Reason<'dtb>> for Stop<'dtb> {
    fn from(reason: Reason<'dtb>) -> Self {
        Self::Refused(reason)
    }
}

impl From<MemblockError> for Stop<'_> {
    fn from(error: MemblockError) -> Self {
        Self::Full(error)
    }
}

/// Gives `each` the parts of `range` that are in no hole, in order. `hole` finds the lowest hole in what is left.
fn parts_outside(range: FrameRange, hole: impl Fn(FrameRange) -> FrameRange, mut each: impl FnMut(FrameRange)) {
    let mut rest = range;
    while !rest.is_empty() {
        let hole = hole(rest);
        let (start, end) = if hole.is_empty() { (rest.end(), rest.end()) } else { (hole.start(), hole.end()) };
        if let Some(part) = FrameRange::between(rest.start(), start).filter(|part| !part.is_empty()) {
            each(part);
        }
        rest = FrameRange::between(end, rest.end()).unwrap_or(FrameRange::EMPTY);
    }
}

/// Returns the lowest part of `range` that is in one of `runs`.
fn lowest(range: FrameRange, runs: impl Iterator<Item = FrameRange>) -> FrameRange {
    let met = runs.map(|run| run.intersection(range)).filter(|part| !part.is_empty());
    met.min_by_key(|part| part.start()).unwrap_or(FrameRange::EMPTY)
}

/// Who holds what so far: what was decided here, and what the tree says.
#[derive(Debug)]
struct Book<'dtb> {
    info: BootInfo<'dtb>,
    image: FrameRange,
    dtb: FrameRange,
    /// The start of the RAM that the image is in.
    ram: u32,
    areas: ArrayVec<AreaPlan<'dtb>, { CarveOut::MAX }>,
    placed: ArrayVec<Claim<'dtb>, MAX_PLACED>,
    /// The plan has decided on regions before this one, of those that are to be areas.
    decided: usize,
}

impl<'dtb> Book<'dtb> {
    /// Gives `each` every claim: the image, the tree, what the device tree reserves, then the places that were found.
    fn each_claim(&self, mut each: impl FnMut(Claim<'dtb>)) {
        each(Claim { range: self.image, holder: Holder::KernelImage, kind: ClaimKind::Reserved });
        each(Claim { range: self.dtb, holder: Holder::DeviceTree, kind: ClaimKind::Reserved });
        self.each_withheld(|range, holder| self.hold(range, holder, ClaimKind::Withheld, &mut each));
        for range in self.info.memreserves() {
            self.hold(range, Holder::Memreserve, ClaimKind::Reserved, &mut each);
        }
        let chosen = [(self.info.initrd(), Holder::Initrd), (self.info.elfcorehdr(), Holder::Elfcorehdr)];
        for (range, holder) in chosen {
            let range = range.map_or(FrameRange::EMPTY, |range| FrameRange::covering(range.base, range.size));
            self.hold(range, holder, ClaimKind::Reserved, &mut each);
        }
        for (index, region) in self.info.regions().enumerate().filter(|(_, region)| region.dynamic.is_none()) {
            self.each_of_region(index, &region, &mut each);
        }
        self.placed.iter().copied().for_each(each);
    }

    /// Gives `each` what a region with a `reg` holds: an area's ranges, or what is kept of a region that is no area.
    fn each_of_region(&self, index: usize, region: &Region<'dtb>, each: &mut impl FnMut(Claim<'dtb>)) {
        let holder = Holder::Region(region.name);
        if let Some(area) = self.areas.iter().find(|area| area.region == Some(index)) {
            return area.ranges.iter().for_each(|&range| each(Claim { range, holder, kind: ClaimKind::Area }));
        }
        if matches!(region.kind, RegionKind::Area { .. }) && index >= self.decided {
            return;
        }
        for range in region.kept() {
            self.hold(range, holder, ClaimKind::of(region.kind_if_refused()), each);
        }
    }

    /// Gives `each` the claims of a holder of `range`, by first names. What an area has is the area's own. Image and
    /// tree stay mapped.
    fn hold(&self, range: FrameRange, holder: Holder<'dtb>, kind: ClaimKind, each: &mut impl FnMut(Claim<'dtb>)) {
        let ours = [self.image, self.dtb];
        let ours = if kind == ClaimKind::Reserved { &[][..] } else { &ours[..] };
        let areas = || self.areas.iter().flat_map(|area| area.ranges.iter());
        for range in self.info.aliases().first_names(range) {
            let hole = |rest| lowest(rest, areas().chain(ours).copied());
            parts_outside(range, hole, |range| each(Claim { range, holder, kind }));
        }
    }

    /// Gives `each` the RAM that must not be used, and who says so.
    fn each_withheld(&self, mut each: impl FnMut(FrameRange, Holder<'dtb>)) {
        let args = self.info.bootargs();
        if let Some(first) = limits(args).next() {
            let usable = |rest| lowest(rest, self.usable_by_args().map(|(_, range)| range));
            for &bank in self.info.banks() {
                parts_outside(bank, usable, |range| each(range, Holder::Argument(first)));
            }
        }
        for &bank in self.info.banks() {
            let usable = |rest| self.info.usable().map_or(rest, |ranges| lowest(rest, ranges));
            parts_outside(bank, usable, |range| each(range, Holder::UsableRange));
            for arg in args.ram() {
                if let Some(Ram::Withhold(range)) = arg.says {
                    let named = FrameRange::covering(range.base, range.size);
                    for range in self.info.aliases().first_names(named).map(|range| range.intersection(bank)) {
                        each(range, Holder::Argument(arg.text));
                    }
                }
            }
        }
    }

    /// Yields the RAM that the command line lets the kernel use, each with its argument. It yields nothing if the
    /// command line does not limit RAM.
    fn usable_by_args(&self) -> impl Iterator<Item = (&'dtb str, FrameRange)> + '_ {
        let args = self.info.bootargs();
        let exact = is_exact(args);
        let ranges = args.ram().filter_map(move |arg| {
            let range = match arg.says? {
                Ram::First(size) => ByteRange { base: u64::from(self.ram) << FRAME_SHIFT, size },
                Ram::Use(range) => range,
                Ram::Map(range) if exact => range,
                Ram::Map(_) | Ram::Exact | Ram::Withhold(_) => return None,
            };
            Some((arg.text, FrameRange::within(range.base, range.size)))
        });
        ranges.flat_map(|(text, range)| self.info.aliases().first_names(range).map(move |range| (text, range)))
    }

    /// Checks that `range` is clear of all claims.
    fn check_overlap(&self, range: FrameRange) -> Result<(), Reason<'dtb>> {
        let mut met = None;
        self.each_claim(|claim| {
            if met.is_none() && claim.range.overlaps(range) {
                met = Some(Reason::Overlap { range, holder: claim.holder, held: claim.range });
            }
        });
        met.map_or(Ok(()), Err)
    }

    /// Checks that no node has its `reg` at `range`, which is no RAM. A driver would map it as Device memory, and it
    /// would have two attributes (I1). Nodes of memory do not count. The node that names the region may have registers
    /// there: it uses one or the other.
    fn check_registers(&self, range: FrameRange, region: &Region<'dtb>) -> Result<(), Reason<'dtb>> {
        let mut met = None;
        bus::walk(self.info.root(), &mut |node, buses| {
            let in_reserved = buses.get(1).unwrap_or(node).name_without_address() == "reserved-memory";
            if met.is_some() || in_reserved || is_memory_like(node) {
                return;
            }
            let at = |(base, size): (u32, u32)| FrameRange::covering(base.into(), size.into());
            let names_it = || {
                let path = DevicePath::to(node, buses);
                let mut bindings = self.info.bindings();
                bindings.any(|binding| {
                    Some(&binding.device) == path.as_ref()
                        && binding.phandles().any(|phandle| region.is_called(phandle))
                })
            };
            if bus::blocks(node, buses).any(|block| at(block).overlaps(range)) && !names_it() {
                met = Some(Reason::Registers { range, node: node.name() });
            }
        });
        met.map_or(Ok(()), Err)
    }
}

/// Returns whether a node is memory other than RAM that is mapped as Normal memory.
fn is_memory_like(node: &dtoolkit::fdt::FdtNode<'_>) -> bool {
    const MEMORY: [&str; 4] = ["mmio-sram", "arm,vexpress-vram", "arm,vexpress-psram", "mtd-ram"];
    let named = node.compatible().is_some_and(|mut all| all.any(|name| MEMORY.contains(&name)));
    // By the binding of mmio-sram, this property says that the SRAM takes Device memory.
    named && node.property("no-memory-wc").is_none()
}

/// Yields the texts of the arguments that limit RAM to what they name.
fn limits(args: BootArgs<'_>) -> impl Iterator<Item = &str> {
    let limits = |says| matches!(says, Ram::First(_) | Ram::Use(_) | Ram::Exact);
    args.ram().filter(move |arg| arg.says.is_some_and(limits)).map(|arg| arg.text)
}

fn is_exact(args: BootArgs<'_>) -> bool {
    args.ram().any(|arg| arg.says == Some(Ram::Exact))
}

/// The plan of the memory, with the direct map. [`mapped`](Self::mapped) hands the memory out, once.
#[derive(Debug)]
pub struct Layout<'dtb> {
    memblock: Memblock<RUNS>,
    map: DirectMap,
    book: Book<'dtb>,
    refusals: Refusals<'dtb>,
    in_force: bool,
}

impl<'dtb> Layout<'dtb> {
    /// Plans the memory of the machine that `info` describes, with the kernel in `image` and the tree in `dtb`.
    ///
    /// # Errors
    ///
    /// [`LayoutError::ImageOutsideRam`] and [`LayoutError::ImageWithheld`] if the kernel lies where it may not.
    /// [`LayoutError::TreeBySecondName`] if the tree lies at a second name of RAM. [`LayoutError::Memblock`] if there
    /// are more than [`RUNS`] disjoint runs of anything.
    pub fn plan(info: &BootInfo<'dtb>, image: FrameRange, dtb: FrameRange) -> Result<Self, LayoutError<'dtb>> {
        let mut place = None;
        Self::plan_at(info, image, dtb, &mut place)?;
        Ok(place.unwrap_or_else(|| unreachable!("it was planned there")))
    }

    /// Plans as [`plan`](Self::plan) does, at the place where the layout is to stay: it is large.
    ///
    /// # Errors
    ///
    /// As [`plan`](Self::plan). What is at the place then is no plan.
    pub fn plan_at<'p>(
        info: &BootInfo<'dtb>,
        image: FrameRange,
        dtb: FrameRange,
        place: &'p mut Option<Self>,
    ) -> Result<&'p mut Self, LayoutError<'dtb>> {
        let mut info = info.clone();
        let refusals = info.take_refusals();
        let (areas, placed) = (ArrayVec::new(), ArrayVec::new());
        let book = Book { info, image, dtb, ram: 0, areas, placed, decided: 0 };
        let (memblock, map) = (Memblock::new(), DirectMap::default());
        let plan = place.insert(Self { memblock, map, book, refusals, in_force: false });
        for &bank in plan.book.info.banks() {
            plan.memblock.add(bank)?;
        }
        let Some(ram) = plan.memblock.memory().find(|run| run.covers(image)) else {
            return Err(LayoutError::ImageOutsideRam(image));
        };
        plan.book.ram = ram.start();
        if let Some(alias) = plan.book.info.aliases().find(dtb) {
            return Err(LayoutError::TreeBySecondName(alias));
        }
        plan.say_of_limits();
        let mut withheld = None;
        plan.book.each_withheld(|range, holder| {
            if range.overlaps(image) {
                withheld.get_or_insert(holder);
            }
        });
        if let Some(by) = withheld {
            return Err(LayoutError::ImageWithheld { image, by });
        }
        plan.enter_reservations()?;

        let cma = plan.book.info.bootargs().cma().unwrap_or_else(|error| {
            plan.refusals.push(Subject::Argument(error.text), Reason::Argument(error.problem));
            None
        });
        for (index, region) in plan.book.info.regions().enumerate() {
            plan.book.decided = index;
            if matches!(region.kind, RegionKind::Area { .. }) && region.dynamic.is_none() {
                plan.enter_static(index, &region, cma.is_some())?;
            }
        }
        plan.book.decided = usize::MAX;
        for (index, region) in plan.book.info.regions().enumerate() {
            if let Some(dynamic) = &region.dynamic {
                let entered = plan.enter_dynamic(index, &region, dynamic, cma.is_some());
                plan.or_refuse(Subject::Region(region.name), entered)?;
            }
        }
        if let Some(Cma::Request(request)) = cma {
            let entered = plan.enter_cma(&request);
            plan.or_refuse(Subject::Argument(request.text), entered)?;
        }
        plan.plan_direct_map()?;
        Ok(plan)
    }

    /// Plans the direct map without the carve-outs, and reserves RAM that it has no room for.
    #[inline(never)] // Copies of a direct map are large for the boot's stack.
    fn plan_direct_map(&mut self) -> Result<(), MemblockError> {
        let Self { memblock, map, book, .. } = self;
        let areas = book.areas.iter().flat_map(|area| area.ranges.iter().copied());
        *map = DirectMap::beside(areas, || memblock.memory(), || memblock.mapped_ranges(), book.image);
        let unmapped = |free| {
            let mut first = None;
            let mapped = |rest| lowest(rest, map.runs().map(|run| run.frames));
            parts_outside(free, mapped, |part| first = first.or(Some(part)));
            first
        };
        loop {
            let part = memblock.free_ranges().find_map(unmapped);
            let Some(part) = part else { return Ok(()) };
            memblock.reserve(part)?;
        }
    }

    /// Returns the memory map: RAM that may be used, everything claimed, and what the direct map leaves out.
    pub const fn memblock(&self) -> &Memblock<RUNS> {
        &self.memblock
    }

    /// Returns the plan of the direct map.
    pub const fn direct_map(&self) -> &DirectMap {
        &self.map
    }

    /// Says that the layout is in force. Returns whether it was not in force before.
    pub(super) const fn come_into_force(&mut self) -> bool {
        !core::mem::replace(&mut self.in_force, true)
    }

    pub(super) const fn memblock_mut(&mut self) -> &mut Memblock<RUNS> {
        &mut self.memblock
    }

    /// Returns what the device tree says.
    pub const fn info(&self) -> &BootInfo<'dtb> {
        &self.book.info
    }

    /// Tells `each` who holds what: the image and the device tree, then what is withheld and reserved, in the tree's
    /// order, then the places found at boot. An area's claims overlap no other claim. Reservations may overlap.
    pub fn each_claim(&self, each: impl FnMut(Claim<'dtb>)) {
        self.book.each_claim(each);
    }

    /// Tells `each` every range of RAM that nothing may map: what is withheld, and what is carved out for firmware.
    /// Outside RAM a driver may map such a range, for its registers may be there.
    pub fn each_unmapped(&self, mut each: impl FnMut(FrameRange)) {
        self.each_claim(|claim| {
            if matches!(claim.kind, ClaimKind::Firmware | ClaimKind::Withheld) {
                let parts = self.book.info.banks().iter().map(|bank| bank.intersection(claim.range));
                parts.filter(|part| !part.is_empty()).for_each(&mut each);
            }
        });
    }

    /// Returns the areas to be made, in the order in which they were decided.
    pub fn areas(&self) -> &[AreaPlan<'dtb>] {
        &self.book.areas
    }

    /// Yields the devices whose `memory-region` names the area at place `area` of [`Layout::areas`].
    pub fn devices(&self, area: usize) -> impl Iterator<Item = DevicePath<'dtb>> + '_ {
        let region = self.areas().get(area).and_then(|area| area.region);
        let region = region.and_then(|index| self.book.info.regions().nth(index));
        self.book.info.bindings().filter(|binding| self.area_named(binding).is_ok()).filter_map(move |binding| {
            let named = binding.phandles().any(|phandle| region.is_some_and(|region| region.is_called(phandle)));
            named.then_some(binding.device)
        })
    }

    /// Returns the place in [`Layout::areas`] of the area that the device names. If it names several, this is the
    /// first. Returns `None` if it names no memory.
    ///
    /// # Errors
    ///
    /// A [`Lost`] if one of the regions that it names was to be an area and is none. The device may have no other area.
    pub fn area_of(&self, device: &DevicePath<'_>) -> Result<Option<usize>, Lost<'dtb>> {
        let mut bindings = self.book.info.bindings();
        bindings
            .find(|binding| !binding.too_deep && binding.device == *device)
            .map(|own| self.area_named(&own))
            .transpose()
    }

    /// Yields the devices that name an area and have none, with the reason.
    pub fn devices_without(&self) -> impl Iterator<Item = (DevicePath<'dtb>, Lost<'dtb>)> + '_ {
        self.book.info.bindings().filter_map(|binding| match self.area_named(&binding) {
            Ok(_) | Err(Lost::NoArea(_)) => None,
            Err(lost) => Some((binding.device, lost)),
        })
    }

    fn area_named(&self, binding: &Binding<'dtb>) -> Result<usize, Lost<'dtb>> {
        if binding.too_deep {
            return Err(Lost::TooDeep);
        }
        if !binding.is_well_formed() {
            return Err(Lost::Malformed);
        }
        let mut first = None;
        let mut idle = None;
        for phandle in binding.phandles() {
            let found = self.book.info.regions().enumerate().find(|(_, region)| region.is_called(phandle));
            let (index, region) = found.ok_or(Lost::NoSuchRegion(phandle))?;
            match self.areas().iter().position(|area| area.region == Some(index)) {
                Some(area) => first = first.or(Some(area)),
                None if region.is_pool => {
                    let subject = Subject::Region(region.name);
                    let said = self.refusals.iter().find(|refusal| refusal.subject == subject);
                    let reason = region.refused.or(said.map(|refusal| refusal.reason));
                    return Err(Lost::Refused { region: region.name, reason });
                }
                None => idle = idle.or(Some(region.name)),
            }
        }
        first.ok_or(Lost::NoArea(idle.unwrap_or_default()))
    }

    /// Returns everything that was asked for and not granted, the tree's own refusals first.
    pub const fn refusals(&self) -> &Refusals<'dtb> {
        &self.refusals
    }

    /// Refuses what is wrong in the command line about RAM.
    fn say_of_limits(&mut self) {
        let Self { book, refusals, .. } = self;
        for arg in book.info.bootargs().ram() {
            if let Some(problem) = arg.problem {
                refusals.push(Subject::Argument(arg.text), Reason::Argument(problem));
            }
        }
        for (text, range) in book.usable_by_args() {
            let ram = |rest| lowest(rest, book.info.banks().iter().copied());
            parts_outside(range, ram, |range| refusals.push(Subject::Argument(text), Reason::NotNamed(range)));
        }
    }

    /// Returns what was entered. Keeps a refusal and returns `None`. Passes on an error that stops the plan.
    fn or_refuse<T>(
        &mut self,
        subject: Subject<'dtb>,
        entered: Result<T, Stop<'dtb>>,
    ) -> Result<Option<T>, LayoutError<'dtb>> {
        match entered {
            Ok(entered) => Ok(Some(entered)),
            Err(Stop::Refused(reason)) => {
                self.refusals.push(subject, reason);
                Ok(None)
            }
            Err(Stop::Full(error)) => Err(error.into()),
        }
    }

    /// Enters all that needs no decision: everything but areas and places to be found.
    fn enter_reservations(&mut self) -> Result<(), LayoutError<'dtb>> {
        let Self { memblock, book, refusals, .. } = self;
        for region in book.info.regions().filter(|region| region.kind == RegionKind::Firmware) {
            // All of it is withheld, except what the boot needs.
            let ours = [(book.image, Holder::KernelImage), (book.dtb, Holder::DeviceTree)];
            for range in region.kept().flat_map(|range| book.info.aliases().first_names(range)) {
                if let Some(&(held, holder)) = ours.iter().find(|(held, _)| held.overlaps(range)) {
                    refusals.push(Subject::Region(region.name), Reason::Overlap { range, holder, held });
                    break;
                }
            }
        }
        let mut entered = Ok(());
        book.each_claim(|claim| {
            if entered.is_ok() {
                entered = enter(memblock, claim);
            }
        });
        Ok(entered?)
    }

    /// Decides on an area with a `reg`.
    fn enter_static(&mut self, index: usize, region: &Region<'dtb>, has_cma: bool) -> Result<(), LayoutError<'dtb>> {
        match self.judge_static(region, has_cma) {
            Ok((ranges, outside_ram)) => self.add_area(index, region, ranges, outside_ram),
            Err(reason) => self.refusals.push(Subject::Region(region.name), reason),
        }
        let Self { memblock, book, .. } = self;
        book.decided = index + 1;
        let mut entered = Ok(());
        book.each_of_region(index, region, &mut |claim| {
            if entered.is_ok() {
                entered = enter(memblock, claim);
            }
        });
        Ok(entered?)
    }

    /// Returns an area's ranges, and whether one of them is no RAM. Otherwise returns why the region is no area.
    fn judge_static(&self, region: &Region<'dtb>, has_cma: bool) -> Result<(AreaRuns, bool), Reason<'dtb>> {
        if region.default && has_cma {
            return Err(Reason::DefaultFromCommandLine { kept: true });
        }
        self.room_for_area()?;
        let lendable = matches!(region.kind, RegionKind::Area { lendable: true });
        let ranges = region.runs()?;
        let mut outside_ram = false;
        for (index, &range) in ranges.iter().enumerate() {
            if !self.book.info.banks().iter().any(|bank| bank.overlaps(range)) && self.is_first_name(range).is_ok() {
                if lendable {
                    return Err(Reason::ReusableOutsideRam(range));
                }
                self.book.check_overlap(range)?;
                self.book.check_registers(range, region)?;
                outside_ram = true;
            } else {
                self.check_free(range)?;
            }
            if let Some(&held) = ranges[..index].iter().find(|other| other.overlaps(range)) {
                return Err(Reason::Overlap { range, holder: Holder::Region(region.name), held });
            }
        }
        Ok((ranges, outside_ram))
    }

    fn room_for_area(&self) -> Result<(), Reason<'dtb>> {
        if self.book.areas.is_full() { Err(Reason::TooMany { what: "areas", kept: CarveOut::MAX }) } else { Ok(()) }
    }

    fn add_area(&mut self, index: usize, region: &Region<'dtb>, ranges: AreaRuns, outside_ram: bool) {
        let first = self.book.areas.iter().find(|area| area.default).map(|area| area.name);
        if let (true, Some(first)) = (region.default, first) {
            self.refusals.push(Subject::Region(region.name), Reason::SecondDefault(first));
        }
        let default = region.default && first.is_none();
        let lendable = matches!(region.kind, RegionKind::Area { lendable: true });
        let name = region.name;
        self.book.areas.push(AreaPlan { name, ranges, lendable, default, outside_ram, region: Some(index) });
    }

    /// Finds a place for a region and enters it there.
    fn enter_dynamic(
        &mut self,
        index: usize,
        region: &Region<'dtb>,
        dynamic: &Dynamic<'dtb>,
        has_cma: bool,
    ) -> Result<(), Stop<'dtb>> {
        if region.default && has_cma {
            return Err(Reason::DefaultFromCommandLine { kept: false }.into());
        }
        let is_area = matches!(region.kind, RegionKind::Area { .. });
        if is_area {
            self.room_for_area()?;
        }
        let holder = Holder::Region(region.name);
        let range = self.place(dynamic.size, dynamic.align, dynamic.within(), holder, ClaimKind::of(region.kind))?;
        if is_area {
            self.add_area(index, region, AreaRuns::from_iter([range]), false);
        }
        Ok(())
    }

    /// Enters the default area of the command line.
    fn enter_cma(&mut self, request: &CmaRequest<'dtb>) -> Result<(), Stop<'dtb>> {
        let size = request.size;
        if !size.is_multiple_of(u64::from(FRAME_SIZE)) {
            return Err(Reason::UnalignedSize(size).into());
        }
        self.room_for_area()?;
        let (holder, kind) = (Holder::CommandLine, ClaimKind::Area);
        let within = |window: FrameRange| core::iter::once(window);
        let range = match request.place {
            CmaPlace::At(base) => {
                self.fits_ram(size)?;
                let range = ByteRange { base, size }.frames()?;
                self.check_free(range)?;
                self.claim_place(range, holder, kind)?;
                range
            }
            CmaPlace::Anywhere => self.place(size, area_alignment(size), within(FrameRange::ALL), holder, kind)?,
            CmaPlace::Within { start, end } => {
                let window = FrameRange::within(start, end - start);
                self.place(size, area_alignment(size), within(window), holder, kind)?
            }
        };
        let ranges = AreaRuns::from_iter([range]);
        let area = AreaPlan { name: "cma", ranges, lendable: true, default: true, outside_ram: false, region: None };
        self.book.areas.push(area);
        Ok(())
    }

    fn is_first_name(&self, range: FrameRange) -> Result<(), Reason<'dtb>> {
        self.book.info.aliases().find(range).map_or(Ok(()), |alias| Err(Reason::SecondName(alias)))
    }

    /// Checks that all of `range` is RAM that nobody holds.
    fn check_free(&self, range: FrameRange) -> Result<(), Reason<'dtb>> {
        self.is_first_name(range)?;
        let ram = |rest| lowest(rest, self.book.info.banks().iter().copied());
        let mut outside = false;
        parts_outside(range, ram, |_| outside = true);
        if outside { Err(Reason::OutsideRam(range)) } else { self.book.check_overlap(range) }
    }

    fn fits_ram(&self, size: u64) -> Result<(), Reason<'dtb>> {
        let ram = self.memblock.memory().map(FrameRange::bytes).sum();
        if size <= ram { Ok(()) } else { Err(Reason::LargerThanRam { size, ram }) }
    }

    /// Finds `size` bytes, whole frames, in the first of `within` that has room, and enters them.
    fn place(
        &mut self,
        size: u64,
        align: u32,
        within: impl Iterator<Item = FrameRange>,
        holder: Holder<'dtb>,
        kind: ClaimKind,
    ) -> Result<FrameRange, Stop<'dtb>> {
        self.fits_ram(size)?;
        let frames = (size >> FRAME_SHIFT) as u32;
        let mut most = 0;
        for window in within {
            match self.memblock.phys_alloc_range(frames, align >> FRAME_SHIFT, window, Direction::TopDown) {
                Ok(range) => {
                    if let Err(stop) = self.claim_place(range, holder, kind) {
                        self.memblock.free(range)?;
                        return Err(stop);
                    }
                    return Ok(range);
                }
                Err(MemblockError::NoSpace { largest, .. }) => most = most.max(largest),
                Err(error) => return Err(error.into()),
            }
        }
        Err(Reason::NoRun { size, align: u64::from(align), largest: u64::from(most) << FRAME_SHIFT }.into())
    }

    fn claim_place(&mut self, range: FrameRange, holder: Holder<'dtb>, kind: ClaimKind) -> Result<(), Stop<'dtb>> {
        let claim = Claim { range, holder, kind };
        let full = Reason::TooMany { what: "places found at boot", kept: MAX_PLACED };
        self.book.placed.try_push(claim).map_err(|_| full)?;
        Ok(enter(&mut self.memblock, claim)?)
    }
}

/// Takes a claim's frames out of what is free, and out of the direct map if the claim says so.
fn enter(memblock: &mut Memblock<RUNS>, claim: Claim<'_>) -> Result<(), MemblockError> {
    let range = claim.range;
    match claim.kind {
        ClaimKind::Withheld => return memblock.remove(range),
        ClaimKind::Reserved => return memblock.reserve(range),
        ClaimKind::Firmware | ClaimKind::Area => memblock.reserve(range)?,
    }
    // The claim may reach beyond RAM, where there is nothing to leave out.
    let mut rest = range;
    loop {
        let part = lowest(rest, memblock.memory());
        if part.is_empty() {
            return Ok(());
        }
        memblock.mark_nomap(part)?;
        rest = FrameRange::between(part.end(), range.end()).unwrap_or(FrameRange::EMPTY);
    }
}

#[cfg(test)]
mod tests {
    use std::string::{String, ToString};
    use std::vec::Vec;
    use std::{format, vec};

    use proptest::prelude::*;

    use super::super::bootinfo::dts::{Node, blob, board, memory, pool, reserved};
    use super::*;

    const MIB: u64 = 1 << 20;

    fn bytes(base: u64, size: u64) -> FrameRange {
        FrameRange::covering(base, size)
    }

    fn image() -> FrameRange {
        bytes(0x6001_0000, 0x20_0000)
    }

    fn dtb_at() -> FrameRange {
        bytes(0x6800_0000, 0x4000)
    }

    /// Name, ranges, lendable, default, devices.
    type AreaSeen = (String, Vec<FrameRange>, bool, bool, Vec<String>);

    fn claims<'dtb>(layout: &Layout<'dtb>) -> Vec<Claim<'dtb>> {
        let mut claims = Vec::new();
        layout.each_claim(|claim| claims.push(claim));
        claims
    }

    /// What a test looks at, free of the tree's lifetime.
    #[derive(PartialEq, Debug)]
    struct Outcome {
        areas: Vec<AreaSeen>,
        firmware: Vec<FrameRange>,
        nomap: Vec<FrameRange>,
        lines: Vec<String>,
    }

    fn plan(root: &Node, reservations: &[(u64, u64)]) -> Outcome {
        let dtb = blob(root, reservations);
        let info = BootInfo::parse(&dtb).unwrap();
        let layout = Layout::plan(&info, image(), dtb_at()).unwrap();
        check_invariants(&layout);
        let area = |(index, area): (usize, &AreaPlan<'_>)| {
            let devices = layout.devices(index).map(|device| device.to_string()).collect();
            (area.name.to_string(), area.ranges.to_vec(), area.lendable, area.default, devices)
        };
        Outcome {
            areas: layout.areas().iter().enumerate().map(area).collect(),
            firmware: of_kind(&layout, ClaimKind::Firmware),
            nomap: layout.memblock().nomap().collect(),
            lines: layout.refusals().iter().map(ToString::to_string).collect(),
        }
    }

    fn of_kind(layout: &Layout<'_>, kind: ClaimKind) -> Vec<FrameRange> {
        claims(layout).into_iter().filter(|claim| claim.kind == kind).map(|claim| claim.range).collect()
    }

    /// The module's guarantees, frame by frame where it matters.
    fn check_invariants(layout: &Layout<'_>) {
        let memblock = layout.memblock();
        let claims = claims(layout);
        for (index, claim) in claims.iter().enumerate() {
            let reserved = memblock.reserved().any(|run| run.covers(claim.range));
            let met = |runs: &mut dyn Iterator<Item = FrameRange>| {
                runs.map(|run| run.intersection(claim.range).count()).sum::<u32>()
            };
            let unmapped = met(&mut memblock.nomap()) == met(&mut memblock.memory());
            match claim.kind {
                ClaimKind::Area => {
                    assert!(reserved && unmapped, "{claim:?}");
                    for (other, claim2) in claims.iter().enumerate() {
                        assert!(other == index || !claim.range.overlaps(claim2.range), "{claim:?} and {claim2:?}");
                    }
                }
                ClaimKind::Firmware => assert!(reserved && unmapped, "{claim:?}"),
                ClaimKind::Withheld => assert!(memblock.memory().all(|run| !run.overlaps(claim.range)), "{claim:?}"),
                ClaimKind::Reserved => assert!(reserved, "{claim:?}"),
            }
        }
        for run in memblock.nomap() {
            let carved = |frame| {
                let out = |kind| matches!(kind, ClaimKind::Area | ClaimKind::Firmware);
                claims.iter().any(|claim| out(claim.kind) && claim.range.contains(frame))
            };
            assert!(run.iter().step_by(16).all(carved), "{run} is carved out for nobody");
        }
        let mut claimed = of_kind(layout, ClaimKind::Area);
        let mut planned: Vec<_> = layout.areas().iter().flat_map(|area| area.ranges.iter().copied()).collect();
        claimed.sort();
        planned.sort();
        assert_eq!(claimed, planned);
        assert!(layout.areas().iter().filter(|area| area.default).count() <= 1);
    }

    /// The areas and lines of the plain board with this command line.
    fn cma(line: &str) -> (Vec<FrameRange>, Vec<String>) {
        let outcome = plan(&board(line), &[(0x7000_0000, 0x1000)]);
        (outcome.areas.iter().flat_map(|area| area.1.clone()).collect(), outcome.lines)
    }

    #[test]
    fn a_whole_plan() {
        let root = board("")
            .child(memory("ram@20000000", &[0x2000_0000, 0x1000_0000]))
            .child(reserved([
                pool("camera", "no-map")
                    .cells("size", &[0x40_0000])
                    .cells("alloc-ranges", &[0x7000_0000, 0x1000_0000])
                    .cells("phandle", &[8]),
                pool("video@64000000", "reusable")
                    .cells("reg", &[0x6400_0000, 0x200_0000, 0x2000_0000, 0x100_0000])
                    .cells("phandle", &[7]),
                Node::new("log@60400000").cells("reg", &[0x6040_0800, 0x1000]),
                // Reaches out of the RAM, and lies over a plain reservation: firmware may.
                Node::new("secure@5ffff000").cells("reg", &[0x5fff_f000, 0x3000]).flag("no-map").cells("phandle", &[9]),
                pool("small", "no-map").cells("size", &[0x3000]),
                pool("default", "reusable").cells("size", &[0x180_0000]).flag("linux,cma-default"),
            ]))
            .child(
                Node::new("soc")
                    .child(Node::new("codec@10010000").cells("memory-region", &[7, 8]))
                    .child(Node::new("tee").cells("memory-region", &[9])),
            );
        let video = [bytes(0x6400_0000, 0x200_0000), bytes(0x2000_0000, 0x100_0000)];
        let camera = bytes(0x7fc0_0000, 0x40_0000);
        let small = bytes(0x9fff_d000, 0x3000);
        let default = bytes(0x9e70_0000, 0x180_0000);
        let firmware = bytes(0x5fff_f000, 0x3000);
        let codec = || vec!["/soc/codec@10010000".to_string()];
        assert_eq!(
            plan(&root, &[(0x6000_1000, 0x1000)]),
            Outcome {
                areas: vec![
                    ("video@64000000".into(), video.to_vec(), true, false, codec()),
                    ("camera".into(), vec![camera], false, false, codec()),
                    ("small".into(), vec![small], false, false, vec![]),
                    ("default".into(), vec![default], true, true, vec![]),
                ],
                firmware: vec![firmware],
                nomap: vec![video[1], bytes(0x6000_0000, 0x2000), video[0], camera, default, small],
                lines: vec![],
            }
        );
        let dtb = blob(&root, &[(0x6000_1000, 0x1000)]);
        let info = BootInfo::parse(&dtb).unwrap();
        let layout = Layout::plan(&info, image(), dtb_at()).unwrap();
        let area_of = |path| layout.area_of(&DevicePath::parse(path).unwrap());
        assert_eq!(area_of("/soc/codec@10010000"), Ok(Some(0)), "the first that it names");
        assert_eq!(area_of("/codec@10010000"), Ok(None), "a name is no path");
        assert_eq!(area_of("/soc/tee"), Err(Lost::NoArea("secure@5ffff000")));
        assert_eq!(layout.areas()[0].bytes(), 48 * MIB);
        let holders: Vec<_> = claims(&layout).iter().map(|claim| claim.holder.to_string()).collect();
        assert_eq!(
            holders,
            [
                "the kernel image",
                "the device tree",
                "/memreserve/",
                "reserved-memory/video@64000000",
                "reserved-memory/video@64000000",
                "reserved-memory/log@60400000",
                "reserved-memory/secure@5ffff000",
                "reserved-memory/camera",
                "reserved-memory/small",
                "reserved-memory/default",
            ]
        );
    }

    #[test]
    fn cma_goes_where_it_is_asked() {
        let placed = |line| {
            let (areas, lines) = cma(line);
            assert_eq!(lines, Vec::<String>::new());
            areas
        };
        assert_eq!(placed(""), []);
        assert_eq!(placed("cma=0"), []);
        assert_eq!(placed("cma=64M"), [bytes(0x9c00_0000, 64 * MIB)]);
        assert_eq!(placed("cma=16K"), [bytes(0x9fff_c000, 16 << 10)]);
        assert_eq!(placed("cma=64M@0x61001000"), [bytes(0x6100_1000, 64 * MIB)]);
        assert_eq!(placed("cma=64M@0x60000000-0x70000000"), [bytes(0x6c00_0000, 64 * MIB)]);
        // Exactly as large as its range: no alignment beyond a frame is added, as there is no choice.
        assert_eq!(placed("cma=2M@0x61001000-0x61201000"), [bytes(0x6100_1000, 2 * MIB)]);
    }

    #[test]
    fn cma_that_cannot_be_is_refused_in_one_line() {
        for (line, message) in [
            ("cma=64Q", "unexpected \"Q\""),
            ("cma=2G", "2 GiB asked for, but all RAM is 1 GiB"),
            ("cma=2G@0x60000000", "2 GiB asked for, but all RAM is 1 GiB"),
            ("cma=5000", "size 0x1388 is not a multiple of 4 KiB"),
            ("cma=64M@0x61000800", "0x61000800-0x65000800 (64 MiB) does not start and end at a multiple of 4 KiB"),
            ("cma=64M@0x9d000000", "0x9d000000-0xa1000000 (64 MiB) is not all RAM; choose RAM that the tree names"),
            ("cma=64M@0", "0x00000000-0x04000000 (64 MiB) is not all RAM; choose RAM that the tree names"),
            ("cma=64M@4095M", "0xfff00000-0x103f00000 (64 MiB) is out of reach: past 4 GiB; move it below"),
            ("cma=64M@8G-16G", "no free run of 64 MiB aligned to 1 MiB; the largest is 0 B"),
            (
                "cma=64M@0x60000000",
                "0x60000000-0x64000000 (64 MiB) overlaps the kernel image at 0x60010000-0x60210000 (2 MiB)",
            ),
            (
                "cma=64M@0x67000000",
                "0x67000000-0x6b000000 (64 MiB) overlaps the device tree at 0x68000000-0x68004000 (16 KiB)",
            ),
            (
                "cma=64M@0x6ff00000",
                "0x6ff00000-0x73f00000 (64 MiB) overlaps /memreserve/ at 0x70000000-0x70001000 (4 KiB)",
            ),
            ("cma=800M", "no free run of 800 MiB aligned to 1 MiB; the largest is 767 MiB"),
            ("cma=64M@0x67000000-0x6b800000", "no free run of 64 MiB aligned to 1 MiB; the largest is 55 MiB"),
        ] {
            let (areas, lines) = cma(line);
            assert_eq!(areas, []);
            assert_eq!(lines, [format!("{line}: {message}")]);
        }
    }

    #[test]
    fn regions_that_cannot_be_are_refused_in_one_line() {
        let at = |base, size| pool("pool", "reusable").cells("reg", &[base, size]);
        let sized = |size| pool("pool", "no-map").cells("size", &[size]);
        for (region, message) in [
            (at(0x9fff_f000, 0x2000), "0x9ffff000-0xa0001000 (8 KiB) is not all RAM; choose RAM that the tree names"),
            (
                at(0x6020_f000, 0x2000),
                "0x6020f000-0x60211000 (8 KiB) overlaps the kernel image at 0x60010000-0x60210000 (2 MiB)",
            ),
            (
                at(0x6800_0000, 0x1000),
                "0x68000000-0x68001000 (4 KiB) overlaps the device tree at 0x68000000-0x68004000 (16 KiB)",
            ),
            (
                at(0x7000_0000, 0x1000),
                "0x70000000-0x70001000 (4 KiB) overlaps /memreserve/ at 0x70000000-0x70001000 (4 KiB)",
            ),
            (
                at(0x6100_0000, 0x2000),
                "0x61000000-0x61002000 (8 KiB) overlaps reserved-memory/first at 0x61001000-0x61002000 (4 KiB)",
            ),
            (
                pool("pool", "reusable").cells("reg", &[0x6200_0000, 0x2000, 0x6200_1000, 0x1000]),
                "0x62001000-0x62002000 (4 KiB) overlaps reserved-memory/pool at 0x62000000-0x62002000 (8 KiB)",
            ),
            (
                Node::new("pool").flag("no-map").cells("reg", &[0x6020_f000, 0x2000]),
                "0x6020f000-0x60211000 (8 KiB) overlaps the kernel image at 0x60010000-0x60210000 (2 MiB)",
            ),
            (sized(0x4000_1000), "1048580 KiB asked for, but all RAM is 1 GiB"),
            (sized(0x3000_0000), "no free run of 768 MiB aligned to 1 MiB; the largest is 767 MiB"),
            (
                sized(0x10_0000).cells("alloc-ranges", &[0x6000_0000, 0x20_0000, 0x1000_0000, 0x1000_0000]),
                "no free run of 1 MiB aligned to 1 MiB; the largest is 64 KiB",
            ),
        ] {
            let first = pool("first", "no-map").cells("reg", &[0x6100_1000, 0x1000]);
            let last = pool("last", "no-map").cells("reg", &[0x6300_0000, 0x1000]);
            let outcome = plan(&board("").child(reserved([first, region, last])), &[(0x7000_0000, 0x1000)]);
            assert_eq!(outcome.lines, [format!("reserved-memory/pool: {message}")]);
            let areas: Vec<_> = outcome.areas.iter().map(|area| area.0.as_str()).collect();
            assert_eq!(areas, ["first", "last"], "{message}");
        }
    }

    #[test]
    fn the_default_area_is_chosen_as_linux_does() {
        let root = |line| {
            board(line).child(reserved([
                pool("one", "reusable").cells("size", &[0x20_0000]).flag("linux,cma-default").cells("phandle", &[1]),
                pool("two", "reusable").cells("reg", &[0x6400_0000, 0x10_0000]),
            ]))
        };
        let defaults = |line| {
            let outcome = plan(&root(line).child(Node::new("camera").cells("memory-region", &[1])), &[]);
            let names: Vec<_> = outcome.areas.into_iter().map(|area| (area.0, area.3, area.4.len())).collect();
            (names, outcome.lines)
        };
        let two = || ("two".to_string(), false, 0);
        let bypassed = "reserved-memory/one: linux,cma-default gives way to cma=; left as ordinary memory";
        assert_eq!(defaults(""), (vec![two(), ("one".into(), true, 1)], vec![]));
        assert_eq!(defaults("cma=8M"), (vec![two(), ("cma".into(), true, 0)], vec![bypassed.into()]));
        assert_eq!(defaults("cma=0"), (vec![two()], vec![bypassed.into()]));
        assert_eq!(
            defaults("cma=2G"),
            (vec![two()], vec![bypassed.into(), "cma=2G: 2 GiB asked for, but all RAM is 1 GiB".into()])
        );
        // What is malformed is as if it were not there.
        assert_eq!(
            defaults("cma=8MB"),
            (vec![two(), ("one".into(), true, 1)], vec!["cma=8MB: unexpected \"B\"".into()])
        );

        let both = board("").child(reserved(
            ["one", "two"].map(|name| pool(name, "reusable").cells("size", &[0x10_0000]).flag("linux,cma-default")),
        ));
        let outcome = plan(&both, &[]);
        assert_eq!(outcome.areas.iter().map(|area| area.3).collect::<Vec<_>>(), [true, false]);
        assert_eq!(
            outcome.lines,
            ["reserved-memory/two: linux,cma-default is ignored: reserved-memory/one is the default"]
        );
    }

    /// The plain board, whose first 256 MiB answer at 0 too.
    fn aliased(line: &str) -> Node {
        let alias = Node::new("ram-alias@0").text("compatible", "carveout,ram-alias").cells("reg", &[0, 0x1000_0000]);
        board(line).child(alias.cells("carveout,alias-of", &[0x6000_0000]))
    }

    #[test]
    fn i1_an_area_by_a_second_name_is_refused() {
        let message = "0x01000000-0x01200000 (2 MiB) is 0x61000000-0x61200000 (2 MiB) by another name";
        let at = |base| pool("pool", "reusable").cells("reg", &[base, 0x20_0000]);
        let outcome = plan(&aliased("").child(reserved([at(0x0100_0000), at(0x6200_0000)])), &[]);
        assert_eq!(outcome.lines, [format!("reserved-memory/pool: {message}")]);
        assert_eq!(outcome.nomap, [bytes(0x6200_0000, 2 * MIB)], "the one by its first name is granted");
        let outcome = plan(&aliased("cma=2M@0x1000000"), &[]);
        assert_eq!(outcome.lines, [format!("cma=2M@0x1000000: {message}")]);
        // Half of it is no alias and no RAM either.
        let outcome = plan(&aliased("").child(reserved([at(0x0ff0_0000)])), &[]);
        let message = "0x0ff00000-0x10000000 (1 MiB) is 0x6ff00000-0x70000000 (1 MiB) by another name";
        assert_eq!(outcome.lines, [format!("reserved-memory/pool: {message}")]);
        // Where the RAM is not said to have a second name, there is just no RAM.
        let outcome = plan(&board("").child(reserved([at(0x0100_0000)])), &[]);
        assert_eq!(
            outcome.lines,
            [
                "reserved-memory/pool: 0x01000000-0x01200000 (2 MiB) is no RAM, so it cannot be reusable: no-map is what fits"
            ]
        );
    }

    #[test]
    fn a_reservation_by_a_second_name_holds_the_ram_it_means() {
        let at = |base| pool("pool", "reusable").cells("reg", &[base, 0x20_0000]);
        let firmware = |base: u32| Node::new("firmware").flag("no-map").cells("reg", &[base, 0x10_0000]);
        let root = aliased("").child(reserved([firmware(0x0110_0000), at(0x6100_0000), at(0x6200_0000)]));
        let outcome = plan(&root, &[(0x0210_0000, 0x1000)]);
        assert_eq!(
            outcome.lines,
            [
                "reserved-memory/pool: 0x61000000-0x61200000 (2 MiB) overlaps reserved-memory/firmware at \
                 0x61100000-0x61200000 (1 MiB)",
                "reserved-memory/pool: 0x62000000-0x62200000 (2 MiB) overlaps /memreserve/ at \
                 0x62100000-0x62101000 (4 KiB)"
            ]
        );
        assert_eq!((outcome.firmware, outcome.nomap.len()), (vec![bytes(0x6110_0000, MIB)], 1));
        // Over the image, which is at 0x60010000.
        let outcome = plan(&aliased("").child(reserved([firmware(0x0010_0000)])), &[]);
        assert_eq!(
            outcome.lines,
            ["reserved-memory/firmware: 0x60100000-0x60200000 (1 MiB) overlaps the kernel image at \
              0x60010000-0x60210000 (2 MiB)"]
        );
    }

    #[test]
    fn i1_a_tree_by_a_second_name_stops_the_plan() {
        let dtb = blob(&aliased(""), &[]);
        let info = BootInfo::parse(&dtb).unwrap();
        let error = Layout::plan(&info, image(), bytes(0x0800_0000, 0x4000)).unwrap_err();
        let message = "the device tree at 0x08000000-0x08004000 (16 KiB) is 0x68000000-0x68004000 (16 KiB) by another \
                       name: load it there";
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn an_image_outside_ram_stops_the_plan() {
        let dtb = blob(&board(""), &[]);
        let info = BootInfo::parse(&dtb).unwrap();
        let error = Layout::plan(&info, bytes(0x8000, 0x1000), dtb_at()).unwrap_err();
        let message = "the kernel image at 0x00008000-0x00009000 (4 KiB) is not in the RAM the tree names";
        assert_eq!(error.to_string(), message);
    }

    /// The boot stack is 128 KiB, and holds both at once, with copies as they are moved.
    #[test]
    fn the_plan_is_small() {
        assert!(size_of::<BootInfo<'_>>() < 3 << 10, "{}", size_of::<BootInfo<'_>>());
        assert!(size_of::<Layout<'_>>() < 25 << 10, "{}", size_of::<Layout<'_>>());
    }

    /// A region of any kind, sensible or not, in a small world where they collide.
    fn any_region() -> impl Strategy<Value = Node> {
        let frame = || (0..0x600_u32).prop_map(|n| 0x6000_0000 + n * 0x1000);
        let size = || prop_oneof![(1..0x80_u32).prop_map(|n| n * 0x1000), (1..5_u32).prop_map(|n| n << 20)];
        let fixed = prop::collection::vec((frame(), size()), 1..4)
            .prop_map(|reg| ("reg", reg.into_iter().flat_map(|(base, size)| [base, size]).collect::<Vec<_>>()));
        let place = prop_oneof![fixed, size().prop_map(|size| ("size", vec![size]))];
        (place, any::<[bool; 4]>(), 10..24_u32, prop::option::of((frame(), size()))).prop_map(
            |((property, value), [pool, no_map, reusable, default], shift, window)| {
                let node = Node::new("region").cells(property, &value).cells("alignment", &[1 << shift]);
                let node = if pool { node.text("compatible", "shared-dma-pool") } else { node };
                let node = if no_map { node.flag("no-map") } else { node };
                let node = if reusable && !no_map { node.flag("reusable") } else { node };
                let node = if default { node.flag("linux,cma-default") } else { node };
                window.map_or(node.clone(), |(base, size)| node.cells("alloc-ranges", &[base, size]))
            },
        )
    }

    /// A plan with everything in it that was made of these nodes.
    struct Seen {
        areas: Vec<(String, Vec<FrameRange>)>,
        firmware: Vec<FrameRange>,
        withheld: Vec<FrameRange>,
        free: Vec<FrameRange>,
        mapped: Vec<FrameRange>,
        lines: Vec<String>,
    }

    impl Seen {
        fn of(root: &Node, reservations: &[(u64, u64)]) -> Self {
            let dtb = blob(root, reservations);
            let info = BootInfo::parse(&dtb).unwrap();
            let layout = Layout::plan(&info, image(), dtb_at()).unwrap();
            check_invariants(&layout);
            Self {
                areas: layout.areas().iter().map(|area| (area.name.to_string(), area.ranges.to_vec())).collect(),
                firmware: of_kind(&layout, ClaimKind::Firmware),
                withheld: of_kind(&layout, ClaimKind::Withheld),
                free: layout.memblock().free_ranges().collect(),
                mapped: layout.direct_map().runs().map(|run| run.frames).collect(),
                lines: layout.refusals().iter().map(ToString::to_string).collect(),
            }
        }

        fn is_free(&self, range: FrameRange) -> bool {
            self.free.iter().any(|run| run.overlaps(range))
                || self.areas.iter().any(|area| area.1.iter().any(|run| run.overlaps(range)))
        }

        fn is_mapped(&self, range: FrameRange) -> bool {
            self.mapped.iter().any(|run| run.overlaps(range))
        }
    }

    #[test]
    fn no_number_of_reservations_loses_one() {
        let at = |n: u32| 0x7000_0000 + n * 0x10_1000;
        let nodes = (0..200).map(|n| Node::new(&format!("q{n}")).flag("no-map").cells("reg", &[at(n), 0x1000]));
        let many: Vec<u32> = (0..64).flat_map(|n| [0x8000_0000 + n * 0x2000, 0x1000]).collect();
        let ranges = Node::new("sixty-four").flag("no-map").cells("reg", &many);
        let memreserves: Vec<(u64, u64)> = (0..40).map(|n| (0x9000_0000 + n * 0x2000, 0x1000)).collect();
        let seen =
            Seen::of(&board("cma=64M@0x70000000-0x90000000").child(reserved(nodes.chain([ranges]))), &memreserves);
        assert_eq!(seen.lines, Vec::<String>::new());
        for n in 0..200 {
            let node = bytes(u64::from(at(n)), 0x1000);
            assert!(!seen.is_free(node) && !seen.is_mapped(node), "q{n}");
        }
        for n in 0..64 {
            let range = bytes(0x8000_0000 + n * 0x2000, 0x1000);
            assert!(!seen.is_free(range) && !seen.is_mapped(range), "range {n}");
        }
        for (base, size) in memreserves {
            assert!(!seen.is_free(bytes(base, size)));
        }
        assert_eq!(seen.areas.len(), 1, "and there is room for cma= besides");
    }

    #[test]
    fn too_many_disjoint_runs_end_the_boot_with_a_line() {
        let nodes =
            (0..=RUNS as u32).map(|n| Node::new(&format!("q{n}")).cells("reg", &[0x7000_0000 + n * 0x2000, 0x1000]));
        let dtb = blob(&board("").child(reserved(nodes)), &[]);
        let info = BootInfo::parse(&dtb).unwrap();
        let error = Layout::plan(&info, image(), dtb_at()).unwrap_err();
        let line = "memblock: no room for 0x702fc000-0x702fd000 (4 KiB) in the reserved list of 384 runs";
        assert_eq!(error.to_string(), line);
    }

    #[test]
    fn a_refused_area_keeps_its_memory() {
        let refused = |node: Node, range: FrameRange, unmapped: bool| {
            let seen = Seen::of(&board("cma=64M").child(reserved([node.clone()])), &[]);
            assert_eq!(seen.lines.len(), 1, "{node:?}: {:?}", seen.lines);
            assert_eq!(seen.areas.len(), 1, "cma= alone: {node:?}");
            assert!(!seen.is_free(range), "{node:?}");
            assert_eq!(seen.is_mapped(range), !unmapped, "{node:?}");
            assert_eq!(seen.firmware.iter().any(|held| held.covers(range)), unmapped, "{node:?}");
        };
        let top = bytes(0x9e00_0000, 0x40_0000);
        let at = |node: Node| node.cells("reg", &[0x9e00_0000, 0x40_0000]);
        let bare = || Node::new("pool").text("compatible", "shared-dma-pool");
        refused(at(bare()), top, false);
        refused(at(bare().flag("no-map").flag("reusable")), top, true);
        refused(at(Node::new("odd").flag("no-map").flag("reusable")), top, true);
        refused(at(bare().flag("no-map").text("status", "fail")), top, true);
        refused(at(bare().flag("reusable").flag("linux,cma-default")), top, false);
        refused(bare().flag("no-map").cells("reg", &[0x9e00_0800, 0x3f_f000]), top, true);
        refused(bare().flag("reusable").cells("reg", &[0x9e00_0000, 0x40_0000, 0x9f00_0000, 0]), top, false);
        refused(bare().flag("no-map").cells("reg", &[0x9e00_0000, 0x40_0000, 7]), top, true);
        let over: Vec<u32> = (0..9).flat_map(|n| [0x9e00_0000 + n * 0x10_0000, 0x1000]).collect();
        refused(bare().flag("no-map").cells("reg", &over), bytes(0x9e80_0000, 0x1000), true);
        let ram = bytes(0x9ff0_0000, 0x10_0000);
        refused(bare().flag("no-map").cells("reg", &[0x9ff0_0000, 0x20_0000]), ram, true);
        refused(bare().flag("reusable").cells("reg", &[0x9ff0_0000, 0x20_0000]), ram, false);
        let image = bytes(0x6000_0000, 0x1_0000);
        refused(bare().flag("no-map").cells("reg", &[0x6000_0000, 0x10_0000]), image, true);
        refused(Node::new("tee").flag("no-map").cells("reg", &[0x6000_0000, 0x10_0000]), image, true);
        let tree = bytes(0x6800_4000, 0xf_c000);
        refused(Node::new("tee").flag("no-map").cells("reg", &[0x6800_0000, 0x10_0000]), tree, true);
    }

    #[test]
    fn of_overlapping_areas_the_first_is_one_and_the_rest_is_kept() {
        let at = |name, base| pool(name, "no-map").cells("reg", &[base, 0x20_0000]);
        let seen = Seen::of(&board("").child(reserved([at("a", 0x7000_0000), at("b", 0x7010_0000)])), &[]);
        assert_eq!(seen.areas, [("a".to_string(), vec![bytes(0x7000_0000, 2 * MIB)])]);
        assert_eq!(seen.firmware, [bytes(0x7020_0000, MIB)], "what is left to b");
        assert!(!seen.is_mapped(bytes(0x7020_0000, MIB)));
    }

    #[test]
    fn more_areas_than_there_can_be_are_kept() {
        let at = |n: u32| 0x7000_0000 + n * 0x20_0000;
        let nodes =
            (0..=CarveOut::MAX as u32).map(|n| pool(&format!("p{n}"), "no-map").cells("reg", &[at(n), 0x10_0000]));
        let seen = Seen::of(&board("").child(reserved(nodes)), &[]);
        assert_eq!(seen.lines, ["reserved-memory/p32: more than 32 areas are not supported"]);
        let last = bytes(u64::from(at(32)), MIB);
        assert_eq!((seen.areas.len(), seen.firmware.as_slice()), (CarveOut::MAX, &[last][..]));
        assert!(!seen.is_free(last) && !seen.is_mapped(last));
        let nodes = (0..=MAX_PLACED as u32).map(|n| Node::new(&format!("d{n}")).cells("size", &[0x1000]));
        let seen = Seen::of(&board("").child(reserved(nodes)), &[]);
        assert_eq!(seen.lines, ["reserved-memory/d64: more than 64 places found at boot are not supported"]);
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let regs: Vec<u32> = (0..64).rev().flat_map(|n| [0x7000_0000 + n * 0x1000, 0x1000]).collect();
        let seen = Seen::of(&board("").child(reserved([pool("p", "no-map").cells("reg", &regs)])), &[]);
        assert_eq!(seen.areas, [("p".to_string(), vec![bytes(0x7000_0000, 0x4_0000)])]);
    }

    #[test]
    fn what_chosen_names_is_reserved() {
        let chosen = Node::new("chosen")
            .text("bootargs", "cma=64M")
            .cells("linux,initrd-start", &[0x9e00_0800])
            .cells("linux,initrd-end", &[0x9e80_0001])
            .cells("linux,elfcorehdr", &[0x9f00_0000, 0x400]);
        let pool = pool("p", "reusable").cells("reg", &[0x9e80_0000, 0x1000]);
        let seen = Seen::of(&board("").child(chosen).child(reserved([pool])), &[]);
        let line =
            "reserved-memory/p: 0x9e800000-0x9e801000 (4 KiB) overlaps the initrd at 0x9e000000-0x9e801000 (8196 KiB)";
        assert_eq!(seen.lines, [line]);
        for range in [bytes(0x9e00_0000, 0x80_1000), bytes(0x9f00_0000, 0x1000)] {
            assert!(!seen.is_free(range) && seen.is_mapped(range));
        }
    }

    #[test]
    fn what_is_withheld_is_no_memory() {
        let root = |line: &str| board("").child(Node::new("chosen").text("bootargs", line));
        let withheld = |line: &str, expected: &[FrameRange], lines: &[&str]| {
            let seen = Seen::of(&root(line), &[]);
            assert_eq!(seen.withheld, expected, "{line}");
            assert_eq!(seen.lines, lines, "{line}");
            for &range in expected {
                assert!(!seen.is_free(range) && !seen.is_mapped(range), "{line}");
            }
            assert_eq!(seen.areas.len(), 1, "{line}");
        };
        let upper = bytes(0x8000_0000, 0x2000_0000);
        withheld("cma=64M mem=512M", &[upper], &[]);
        withheld("cma=64M mem=512M@0x60000000", &[upper], &[]);
        withheld("cma=64M mem=1G", &[], &[]);
        withheld(
            "cma=64M mem=64M mem=64M@0x70000000",
            &[bytes(0x6400_0000, 0x400_0000), bytes(0x6800_4000, 0x7ff_c000), bytes(0x7400_0000, 0x2c00_0000)],
            &[],
        );
        withheld("cma=64M mem=512MB", &[upper], &["mem=512MB: unexpected \"B\""]);
        withheld(
            "cma=64M mem=2G",
            &[],
            &["mem=2G: 0xa0000000-0xe0000000 (1 GiB) is not RAM that the device tree names; not used"],
        );
        withheld("cma=64M mem", &[], &["mem: the size is missing"]);
        withheld("cma=64M mem=0", &[], &["mem=0: the size is 0"]);
        withheld("cma=64M mem=64M@", &[], &["mem=64M@: the start address is missing"]);
        withheld("cma=64M mem=nopentium", &[], &["mem=nopentium: the size is missing"]);
        let two = [bytes(0x9e00_0000, 0x40_0000), bytes(0x9f00_0000, 0x1000)];
        withheld("cma=64M memmap=4M$0x9e000000,1K#0x9f000000", &two, &[]);
        withheld("cma=64M memmap=4M$0x9e000000 memmap=1!0x9f000fff", &two, &[]);
        withheld("cma=64M memmap=exactmap memmap=512M@0x60000000", &[upper], &[]);
        withheld("cma=64M memmap=512M@0x60000000", &[], &[]);
        for (line, message) in [
            ("memmap", "the size is missing"),
            ("memmap=64M", "the start address is missing"),
            ("memmap=64M$", "the start address is missing"),
            ("memmap=64M%0x60000000-1", "unexpected \"%0x60000000-1\""),
            ("memmap=0$0x60000000", "the size is 0"),
        ] {
            withheld(&format!("cma=64M {line}"), &[], &[&format!("{line}: {message}")]);
        }
        // A tree that lies there stays mapped; an image that does ends the boot.
        withheld("cma=16M mem=64M", &[bytes(0x6400_0000, 0x400_0000), bytes(0x6800_4000, 0x37ff_c000)], &[]);
        let stop = |line: &str| {
            let dtb = blob(&root(line), &[]);
            let info = BootInfo::parse(&dtb).unwrap();
            Layout::plan(&info, image(), dtb_at()).unwrap_err().to_string()
        };
        for line in ["mem=1M", "mem=64M@0x70000000", "memmap=exactmap", "memmap=4K$0x60010000"] {
            let by = line.split(' ').next().unwrap();
            let message = "the kernel image at 0x60010000-0x60210000 (2 MiB) is in RAM that";
            assert_eq!(stop(line), format!("{message} {by} withholds"));
        }
        let usable = |cells: &[u32]| {
            let chosen = Node::new("chosen").text("bootargs", "cma=64M").cells("linux,usable-memory-range", cells);
            Seen::of(&board("").child(chosen), &[]).withheld
        };
        assert_eq!(usable(&[0x6000_0000, 0x2000_0000]), [upper]);
        let rest = [bytes(0x7000_0000, 0x1000_0000), bytes(0x9000_0000, 0x1000_0000)];
        assert_eq!(usable(&[0x6000_0000, 0x1000_0000, 0x8000_0000, 0x1000_0000]), rest);
    }

    #[test]
    fn nothing_is_granted_in_what_is_withheld() {
        let at = pool("p", "no-map").cells("reg", &[0x9000_0000, 0x10_0000]);
        let sized = pool("q", "no-map").cells("size", &[0x10_0000]).cells("alloc-ranges", &[0x8000_0000, 0x2000_0000]);
        let seen = Seen::of(&board("mem=512M cma=600M").child(reserved([at, sized])), &[]);
        assert_eq!(
            seen.lines,
            [
                "reserved-memory/p: 0x90000000-0x90100000 (1 MiB) overlaps mem=512M at 0x80000000-0xa0000000 (512 MiB)",
                "reserved-memory/q: no free run of 1 MiB aligned to 1 MiB; the largest is 0 B",
                "cma=600M: 600 MiB asked for, but all RAM is 512 MiB",
            ]
        );
        assert_eq!(seen.areas, []);
    }

    #[test]
    fn a_device_whose_area_was_refused_has_none() {
        let regions = || {
            reserved([
                pool("good", "no-map").cells("reg", &[0x7000_0000, 0x10_0000]).cells("phandle", &[1]),
                pool("bad", "no-map").cells("reg", &[0x9ff0_0000, 0x20_0000]).cells("phandle", &[2]),
                Node::new("firmware").flag("no-map").cells("reg", &[0x7100_0000, 0x10_0000]).cells("phandle", &[3]),
                pool("off", "no-map").cells("size", &[0x1000]).cells("phandle", &[4]).text("status", "disabled"),
                pool("neither", "x").cells("reg", &[0x7200_0000, 0x10_0000]).cells("linux,phandle", &[5]),
            ])
        };
        let lost = |cells: &[u32]| {
            let root = board("cma=64M")
                .child(regions())
                .child(Node::new("soc").child(Node::new("dev").cells("memory-region", cells)));
            let dtb = blob(&root, &[]);
            let info = BootInfo::parse(&dtb).unwrap();
            let layout = Layout::plan(&info, image(), dtb_at()).unwrap();
            assert_eq!(layout.area_of(&DevicePath::parse("/dev").unwrap()), Ok(None), "of that name, elsewhere");
            let own = layout.area_of(&DevicePath::parse("/soc/dev").unwrap()).map_err(|lost| lost.to_string());
            (own, layout.devices_without().map(|(device, lost)| format!("{device}: {lost}")).collect::<Vec<_>>())
        };
        let why_bad = "its reserved-memory/bad was refused: 0x9ff00000-0xa0100000 (2 MiB) is not all RAM; choose RAM that \
                       the tree names";
        let none = |why: &str| (Err(why.to_string()), vec![format!("/soc/dev: {why}")]);
        assert_eq!(lost(&[1]), (Ok(Some(0)), vec![]));
        assert_eq!(lost(&[3, 1]), (Ok(Some(0)), vec![]), "firmware's memory besides");
        assert_eq!(lost(&[2]), none(why_bad));
        assert_eq!(lost(&[1, 2]), none(why_bad), "one of two is lost");
        assert_eq!(lost(&[2, 1]), none(why_bad));
        assert_eq!(lost(&[1, 9]), none("memory-region names 0x9, which is no usable region"));
        assert_eq!(lost(&[4]), none("memory-region names 0x4, which is no usable region"));
        assert_eq!(lost(&[]), none("memory-region is malformed"));
        let neither = "its reserved-memory/neither was refused: a shared-dma-pool must be no-map or reusable";
        assert_eq!(lost(&[5]), none(neither));
        // It asked for no area, so nothing is refused; but the default one is not what it named.
        assert_eq!(lost(&[3]), (Err("its reserved-memory/firmware is no shared-dma-pool".into()), vec![]));
    }

    #[test]
    fn memory_outside_ram_is_a_carve_out_by_nature() {
        let vram = |flag: &str| pool("vram", flag).cells("reg", &[0x4c00_0000, 0x80_0000]).cells("phandle", &[1]);
        let bus = |children: Vec<Node>| {
            let bus = Node::new("bus").cells("#address-cells", &[2]).cells("#size-cells", &[1]);
            bus.cells("ranges", &[3, 0, 0x4c00_0000, 0x400_0000]).children(children)
        };
        let seen = |region: Node, more: Node| Seen::of(&board("").child(reserved([region])).child(more), &[]);
        let device = |name: &str| Node::new(name).cells("reg", &[3, 0x10_0000, 0x1000]);
        let whole = [("vram".to_string(), vec![bytes(0x4c00_0000, 8 * MIB)])];
        let granted = seen(vram("no-map"), bus(vec![]));
        assert_eq!((granted.areas, granted.lines), (whole.to_vec(), vec![]));
        // Its owner, by its kind, and the device that names it.
        for owner in [
            device("sram").text("compatible", "mmio-sram"),
            device("vram").text("compatible", "arm,vexpress-vram"),
            device("m4").cells("memory-region", &[1]),
            Node::new("far").cells("reg", &[3, 0x80_0000, 0x1000]),
            device("off").text("status", "disabled"),
        ] {
            let granted = seen(vram("no-map"), bus(vec![owner.clone()]));
            assert_eq!((granted.areas, granted.lines), (whole.to_vec(), vec![]), "{owner:?}");
        }
        for (owner, name) in [
            (device("uart"), "uart"),
            (device("sram").text("compatible", "mmio-sram").flag("no-memory-wc"), "sram"),
            (device("m4").cells("memory-region", &[2]), "m4"),
        ] {
            let refused = seen(vram("no-map"), bus(vec![owner]));
            let line = format!(
                "reserved-memory/vram: 0x4c000000-0x4c800000 (8 MiB) is no RAM and meets the registers of {name} (I1)"
            );
            assert_eq!((refused.areas, refused.lines), (vec![], vec![line]));
        }
        let refused = seen(vram("reusable"), bus(vec![]));
        let line = "reserved-memory/vram: 0x4c000000-0x4c800000 (8 MiB) is no RAM, so it cannot be reusable: no-map is what fits";
        assert_eq!((refused.areas, refused.lines), (vec![], vec![line.to_string()]));
        // What was refused there keeps nobody from registers, for it is no RAM.
        let dtb = blob(&board("").child(reserved([vram("reusable").flag("no-map")])), &[]);
        let info = BootInfo::parse(&dtb).unwrap();
        let layout = Layout::plan(&info, image(), dtb_at()).unwrap();
        assert_eq!(of_kind(&layout, ClaimKind::Firmware), [bytes(0x4c00_0000, 8 * MIB)]);
        layout.each_unmapped(|range| panic!("{range} may be mapped"));
        // Two, of which the second would have a frame of the first; and firmware's.
        let twice = Seen::of(
            &board("").child(reserved([vram("no-map"), pool("b", "no-map").cells("reg", &[0x4c00_0000, 0x1000])])),
            &[],
        );
        assert_eq!((twice.areas.len(), twice.lines.len()), (1, 1));
        let firmware = Node::new("tz").flag("no-map").cells("reg", &[0x4c00_0000, 0x1000]);
        let twice = Seen::of(&board("").child(reserved([vram("no-map"), firmware])), &[]);
        assert_eq!((twice.areas.len(), twice.lines.len()), (0, 1));
    }

    /// A node of `/reserved-memory` as somebody wrote it, and what can be read of it.
    #[derive(Clone, Debug)]
    #[expect(clippy::struct_excessive_bools, reason = "properties that are there or not")]
    struct Written {
        entries: Vec<(u32, u32)>,
        /// Bytes that its `reg` lacks.
        cut: usize,
        pool: bool,
        no_map: bool,
        reusable: bool,
        status: Option<&'static str>,
        junk: bool,
    }

    impl Written {
        fn node(&self, index: usize) -> Node {
            let reg: Vec<u8> =
                self.entries.iter().flat_map(|&(at, size)| [at, size]).flat_map(u32::to_be_bytes).collect();
            let node = Node::new(&format!("n{index}")).bytes("reg", &reg[..reg.len().saturating_sub(self.cut)]);
            let node = if self.pool { node.text("compatible", "shared-dma-pool") } else { node };
            let node = if self.no_map { node.flag("no-map") } else { node };
            let node = if self.reusable { node.flag("reusable") } else { node };
            let node =
                if self.junk { node.cells("alignment", &[3]).cells("size", &[0]).bytes("phandle", &[1]) } else { node };
            self.status.map_or(node.clone(), |status| node.text("status", status))
        }

        /// Addresses that were written whole, with their sizes.
        fn readable(&self) -> impl Iterator<Item = FrameRange> {
            let whole = (self.entries.len() * 8).saturating_sub(self.cut) / 8;
            let counts = self.status != Some("disabled");
            let entries = self.entries.iter().take(if counts { whole } else { 0 });
            entries.map(|&(at, size)| FrameRange::covering(at.into(), size.into()))
        }

        /// Whether it is an area if its place is to be had.
        fn is_sound_pool(&self) -> bool {
            let frames = |&(at, size): &(u32, u32)| at % 4096 == 0 && size % 4096 == 0 && size > 0;
            let okay = matches!(self.status, None | Some("okay"));
            // Eight bytes are a whole entry: the others are as good as before.
            let whole =
                self.cut.is_multiple_of(8) && self.entries[..self.entries.len() - self.cut / 8].iter().all(frames);
            self.pool && self.no_map != self.reusable && okay && whole
        }
    }

    fn written() -> impl Strategy<Value = Written> {
        // In a world of 6 MiB of RAM, 2 MiB of nothing on either side.
        let at =
            prop_oneof![3 => (0..0xa00_u32).prop_map(|n| 0x5fe0_0000 + n * 0x1000), 1 => 0x5fe0_0000..0x6080_0000_u32];
        let size = prop_oneof![4 => (0..0x60_u32).prop_map(|n| n * 0x1000), 1 => 0..0x4_0000_u32];
        let status = prop_oneof![
            6 => Just(None), 1 => Just(Some("okay")), 1 => Just(Some("disabled")), 1 => Just(Some("reserved")), 1 => Just(Some(""))
        ];
        let cut = prop_oneof![5 => Just(0), 1 => 0..12_usize];
        (prop::collection::vec((at, size), 1..12), cut, any::<[bool; 4]>(), status).prop_map(
            |(entries, cut, [pool, no_map, reusable, junk], status)| Written {
                entries,
                cut,
                pool,
                no_map,
                reusable,
                status,
                junk,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        /// Whatever is wrong with a reservation, no frame of it that can be read is free, another's, or mapped against
        /// its `no-map`. The model knows the nodes, not how they are read.
        #[test]
        fn i2_no_readable_reservation_is_given_away(
            nodes in prop::collection::vec(written(), 0..14),
            parent in 0..6_u32,
            memreserves in prop::collection::vec((0x6000_0000_u64..0x6060_0000, 0..0x8000_u64), 0..4),
            initrd in prop::option::of((0x6000_0000_u32..0x6060_0000, 0..0x1_0000_u32)),
            limit in prop::option::of(4..6_u32),
            kept in prop::option::of((0x6030_0000_u32..0x6060_0000, 1..0x2_0000_u32)),
        ) {
            let parent_node = match parent {
                0 => Node::new("reserved-memory").cells("#address-cells", &[1]).cells("#size-cells", &[1]),
                1 => Node::new("reserved-memory").flag("ranges"),
                2 => reserved([]).cells("#address-cells", &[0]),
                _ => reserved([]),
            };
            let limits = limit.map_or(String::new(), |limit| format!("mem={limit}M"));
            let keeps = kept.map_or(String::new(), |(at, size)| format!("memmap={size}${at:#x}"));
            let line = format!("cma=64K {limits} {keeps}");
            let mut chosen = Node::new("chosen").text("bootargs", &line);
            if let Some((at, size)) = initrd {
                chosen = chosen.cells("linux,initrd-start", &[at]).cells("linux,initrd-end", &[at + size]);
            }
            let root = Node::new("")
                .cells("#address-cells", &[1])
                .cells("#size-cells", &[1])
                .child(memory("memory", &[0x6000_0000, 0x60_0000]))
                .child(chosen)
                .child(parent_node.children(nodes.iter().enumerate().map(|(index, node)| node.node(index))));
            let dtb = blob(&root, &memreserves);
            let info = BootInfo::parse(&dtb).unwrap();
            let (image, dtb) = (bytes(0x6001_0000, 0x2_0000), bytes(0x6008_0000, 0x1000));
            let layout = Layout::plan(&info, image, dtb).unwrap();
            check_invariants(&layout);
            let map = layout.direct_map();
            prop_assert!(map.left_out().is_empty());
            let free: Vec<_> = layout.memblock().free_ranges().collect();
            let mapped: Vec<_> = map.runs().map(|run| run.frames).collect();
            let holds = |runs: &[FrameRange], frame| runs.iter().any(|run| run.contains(frame));
            let area_of = |frame| layout.areas().iter().find(|area| holds(&area.ranges, frame)).map(|area| area.name.to_string());

            for (index, node) in nodes.iter().enumerate() {
                for frame in node.readable().flat_map(FrameRange::iter) {
                    prop_assert!(!holds(&free, frame), "n{index}: {frame:?} is free");
                    if let Some(area) = area_of(frame) {
                        let earlier = (0..=index).any(|other| area == format!("n{other}"));
                        let whole = parent > 2 && node.is_sound_pool();
                        prop_assert!(whole && earlier, "n{index}: {frame:?} is {area}'s");
                    }
                    if node.no_map && !image.contains(frame) && !dtb.contains(frame) {
                        prop_assert!(!holds(&mapped, frame), "n{index}: {frame:?} is in the direct map");
                    }
                }
            }
            let also = memreserves.iter().map(|&(at, size)| FrameRange::covering(at, size));
            let also = also.chain(initrd.map(|(at, size)| FrameRange::covering(at.into(), size.into())));
            for frame in also.flat_map(FrameRange::iter) {
                prop_assert!(!holds(&free, frame) && area_of(frame).is_none(), "{frame:?} was reserved");
            }
            let withheld = kept.map(|(at, size)| FrameRange::covering(at.into(), size.into()));
            let withheld = withheld.into_iter().chain(limit.map(|limit| bytes(0x6000_0000 + u64::from(limit) * MIB, 64 * MIB)));
            for frame in withheld.flat_map(FrameRange::iter).filter(|&frame| !dtb.contains(frame)) {
                prop_assert!(!holds(&free, frame) && !holds(&mapped, frame), "{frame:?} was withheld");
                let outside = frame.number() >= 0x6_0600;
                prop_assert!(outside || area_of(frame).is_none(), "{frame:?} was withheld");
            }
        }

        /// I2's plan: whatever the tree asks for, the guarantees hold and every region is granted or refused.
        #[test]
        fn the_guarantees_hold_for_any_regions(
            regions in prop::collection::vec(any_region(), 0..12),
            banks in prop::collection::vec((0..6_u32, 1..3_u32), 0..3),
            line in prop_oneof![
                Just(String::new()),
                (1..6_u32).prop_map(|n| format!("cma={n}M")),
                (1..6_u32, 0..0x600_u32).prop_map(|(n, at)| format!("cma={n}M@{:#x}", 0x6000_0000 + at * 0x1000)),
            ],
        ) {
            let asked = regions.len();
            let root = Node::new("")
                .cells("#address-cells", &[1])
                .cells("#size-cells", &[1])
                .child(memory("memory", &[0x6000_0000, 0x30_0000]))
                .children(banks.iter().enumerate().map(|(index, &(at, size))| {
                    memory(&format!("ram@{index}"), &[0x6000_0000 + (at << 20), size << 20])
                }))
                .child(Node::new("chosen").text("bootargs", &line))
                .child(reserved(regions));
            let dtb = blob(&root, &[(0x6010_0000, 0x1000)]);
            let info = BootInfo::parse(&dtb).unwrap();
            let at = bytes(0x6001_0000, 0x2_0000);
            let layout = Layout::plan(&info, at, bytes(0x6008_0000, 0x1000)).unwrap();
            check_invariants(&layout);
            for area in layout.areas() {
                prop_assert!(!area.ranges.is_empty());
            }
            let region = |holder| matches!(holder, Holder::Region(_));
            let granted = claims(&layout).iter().filter(|claim| region(claim.holder)).count();
            prop_assert!(granted + layout.refusals().iter().count() >= asked);
        }
    }
}
