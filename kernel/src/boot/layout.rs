//! Who gets which memory, decided before the MMU is on.
//!
//! Guarantees: a frame of an area is RAM, is nobody else's (not of the kernel image, the device tree, `/memreserve/`,
//! a reservation or another area) and is marked to stay out of the direct map (I2); a request that cannot be granted
//! is refused before anything is entered for it, as a value that prints as one line, and the plan goes on. All claims
//! are by the RAM's first names: a reservation by a second name holds the RAM it means, an area by one is refused (I1).
//!
//! The order: image, device tree and `/memreserve/`; regions that firmware holds; static areas; dynamic regions, top
//! down, so that low memory stays whole; the default area of the command line last. Within each the tree's order.
//!
//! The default area is decided as in Linux: a well-formed `cma=` takes over from `linux,cma-default` whatever its
//! size (also 0) and whether or not it can be placed; that region is then left as ordinary memory, its devices
//! unbound. A malformed `cma=` is refused and otherwise ignored. With neither there is no default area.

#![forbid(unsafe_code)]

use core::fmt;

use arrayvec::ArrayVec;

use super::bootargs::{Cma, CmaRequest, Place};
use super::bootinfo::{
    Binding, BootInfo, ByteRange, DevicePath, Holder, MAX_BANKS, MAX_BINDINGS, MAX_MEMRESERVES, MAX_RANGES,
    MAX_REGIONS, Reason, Refusals, Region, RegionKind, RegionPlace, Subject, area_alignment,
};
use super::memblock::{Direction, List, Memblock, MemblockError};
use crate::addr::{FRAME_SHIFT, FRAME_SIZE, FrameRange};
use crate::vm::alias::{Alias, Aliases};

/// Areas there can be: one a region, and that of the command line.
pub const MAX_AREAS: usize = MAX_REGIONS + 1;
/// Claims there can be: the image, the device tree, the reservation block, each range of each region, `cma=`.
pub const MAX_CLAIMS: usize = 2 + MAX_MEMRESERVES + MAX_REGIONS * MAX_RANGES + 1;

/// Runs in each list of the plan's memory map. A claim adds one run at most, so that the plan always fits.
const RUNS: usize = 128;
const _: () = assert!(MAX_CLAIMS <= RUNS);

/// Why there is no plan at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayoutError {
    /// The kernel image is not in RAM: the tree does not describe this machine.
    ImageOutsideRam(FrameRange),
    /// The boot loader put the device tree where RAM answers by its second name: it is read by that name, and would be
    /// in the direct map by the first (I1).
    TreeBySecondName(Alias),
    /// The memory map did not take an entry.
    Memblock(MemblockError),
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ImageOutsideRam(image) => write!(f, "the kernel image at {image} is not in the RAM the tree names"),
            Self::TreeBySecondName(alias) => write!(f, "the device tree at {alias}: load it there"),
            Self::Memblock(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for LayoutError {}

impl From<MemblockError> for LayoutError {
    fn from(error: MemblockError) -> Self {
        Self::Memblock(error)
    }
}

/// What becomes of claimed memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimKind {
    /// Reserved, in the direct map.
    Reserved,
    /// Out of the direct map, left to firmware.
    Firmware,
    /// Out of the direct map, part of an area.
    Area,
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
    pub ranges: ArrayVec<FrameRange, MAX_RANGES>,
    /// Whether idle frames may be lent.
    pub lendable: bool,
    /// Whether it serves the devices that name no area. True of at most one.
    pub default: bool,
}

impl AreaPlan<'_> {
    /// Bytes in all ranges.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.bytes()).sum()
    }
}

/// When a region is entered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Reservations,
    StaticAreas,
    Dynamic,
}

impl Pass {
    const fn of(region: &Region<'_>) -> Self {
        match (&region.place, region.kind) {
            (RegionPlace::Dynamic { .. }, _) => Self::Dynamic,
            (RegionPlace::Static(_), RegionKind::Area { .. }) => Self::StaticAreas,
            (RegionPlace::Static(_), RegionKind::Plain | RegionKind::Firmware) => Self::Reservations,
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

/// The plan.
#[derive(Clone, Debug)]
pub struct Layout<'dtb> {
    memblock: Memblock<RUNS>,
    aliases: Aliases,
    claims: ArrayVec<Claim<'dtb>, MAX_CLAIMS>,
    areas: ArrayVec<AreaPlan<'dtb>, MAX_AREAS>,
    /// `region` is the place in `areas` here.
    bindings: ArrayVec<Binding<'dtb>, MAX_BINDINGS>,
    refusals: Refusals<'dtb>,
}

impl<'dtb> Layout<'dtb> {
    /// Plans the memory of the machine `info` describes, with the kernel in `image` and the tree in `dtb`.
    ///
    /// # Errors
    ///
    /// An image outside RAM, or a tree at a second name of RAM. That the memory map is full cannot happen within the
    /// limits of [`BootInfo`], but for reservations that an alias cuts in pieces.
    pub fn plan(info: &BootInfo<'dtb>, image: FrameRange, dtb: FrameRange) -> Result<Self, LayoutError> {
        let mut plan = Self {
            memblock: Memblock::new(),
            aliases: info.aliases().clone(),
            claims: ArrayVec::new(),
            areas: ArrayVec::new(),
            bindings: ArrayVec::new(),
            refusals: info.refusals().clone(),
        };
        for &bank in info.banks() {
            plan.memblock.add(bank)?;
        }
        if !plan.memblock.is_memory(image) {
            return Err(LayoutError::ImageOutsideRam(image));
        }
        if let Some(alias) = plan.aliases.find(dtb) {
            return Err(LayoutError::TreeBySecondName(alias));
        }
        plan.claim(image, Holder::KernelImage, ClaimKind::Reserved)?;
        plan.claim(dtb, Holder::DeviceTree, ClaimKind::Reserved)?;
        for &range in info.memreserves() {
            plan.claim(range, Holder::Memreserve, ClaimKind::Reserved)?;
        }

        let cma = info.bootargs().cma().unwrap_or_else(|error| {
            plan.refusals.push(Subject::Argument(error.text), Reason::Argument(error.problem));
            None
        });
        let mut area_of = [None; MAX_REGIONS];
        for pass in [Pass::Reservations, Pass::StaticAreas, Pass::Dynamic] {
            for (region, area) in info.regions().iter().zip(&mut area_of) {
                if pass == Pass::of(region) {
                    let entered = plan.enter(region, cma.is_some());
                    *area = plan.or_refuse(Subject::Region(region.name), entered)?.flatten();
                }
            }
        }
        if let Some(Cma::Request(request)) = cma {
            let entered = plan.enter_cma(&request);
            plan.or_refuse(Subject::Argument(request.text), entered)?;
        }
        for binding in info.bindings() {
            if let Some(area) = area_of[binding.region] {
                plan.bindings.push(Binding { device: binding.device.clone(), region: area });
            }
        }
        Ok(plan)
    }

    /// The memory map: RAM, everything claimed, and what the direct map leaves out.
    pub const fn memblock(&self) -> &Memblock<RUNS> {
        &self.memblock
    }

    /// The memory map, for allocations to come.
    pub const fn memblock_mut(&mut self) -> &mut Memblock<RUNS> {
        &mut self.memblock
    }

    /// Who holds what, in the order it was decided. An area's claims overlap no other; reservations may overlap.
    pub fn claims(&self) -> &[Claim<'dtb>] {
        &self.claims
    }

    /// The areas to be made, in the order they were decided.
    pub fn areas(&self) -> &[AreaPlan<'dtb>] {
        &self.areas
    }

    /// What is carved out for firmware: never mapped, never an area.
    pub fn firmware(&self) -> impl Iterator<Item = Claim<'dtb>> + '_ {
        self.claims.iter().copied().filter(|claim| claim.kind == ClaimKind::Firmware)
    }

    /// The devices whose `memory-region` names the area at place `area` of [`Layout::areas`].
    pub fn devices(&self, area: usize) -> impl Iterator<Item = &DevicePath<'dtb>> {
        self.bindings.iter().filter(move |binding| binding.region == area).map(|binding| &binding.device)
    }

    /// The areas that the device at node `name` (with its unit address) names, in its order, by their places.
    pub fn areas_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = usize> + use<'a, 'dtb> {
        self.bindings.iter().filter(move |binding| binding.device.name() == name).map(|binding| binding.region)
    }

    /// Everything that was asked for and not granted, the tree's own refusals first.
    pub const fn refusals(&self) -> &Refusals<'dtb> {
        &self.refusals
    }

    /// Keeps a refusal; passes on what stops the plan.
    fn or_refuse<T>(
        &mut self,
        subject: Subject<'dtb>,
        entered: Result<T, Stop<'dtb>>,
    ) -> Result<Option<T>, LayoutError> {
        match entered {
            Ok(entered) => Ok(Some(entered)),
            Err(Stop::Refused(reason)) => {
                self.refusals.push(subject, reason);
                Ok(None)
            }
            Err(Stop::Full(error)) => Err(error.into()),
        }
    }

    fn claim(&mut self, range: FrameRange, holder: Holder<'dtb>, kind: ClaimKind) -> Result<(), MemblockError> {
        for range in self.aliases.first_names(range) {
            let claim = Claim { range, holder, kind };
            let full = MemblockError::Full { list: List::Reserved, range, capacity: MAX_CLAIMS };
            self.claims.try_push(claim).map_err(|_| full)?;
            self.memblock.reserve(range)?;
            if kind != ClaimKind::Reserved {
                // Firmware's range may reach beyond RAM, where there is nothing to leave out.
                let banks: ArrayVec<_, MAX_BANKS> = self.memblock.memory().map(|run| run.intersection(range)).collect();
                for part in banks {
                    self.memblock.mark_nomap(part)?;
                }
            }
        }
        Ok(())
    }

    /// Enters `region`; returns the place of the area it became, if it became one.
    fn enter(&mut self, region: &Region<'dtb>, has_cma: bool) -> Result<Option<usize>, Stop<'dtb>> {
        if region.default && has_cma {
            return Err(Reason::DefaultFromCommandLine.into());
        }
        let ranges = match &region.place {
            RegionPlace::Static(ranges) => {
                self.check_static(region.name, ranges, region.kind)?;
                ranges.clone()
            }
            RegionPlace::Dynamic { size, align, within } => {
                ArrayVec::from_iter([self.allocate(*size, *align, within)?])
            }
        };
        let kind = match region.kind {
            RegionKind::Plain => ClaimKind::Reserved,
            RegionKind::Firmware => ClaimKind::Firmware,
            RegionKind::Area { .. } => ClaimKind::Area,
        };
        for &range in &ranges {
            self.claim(range, Holder::Region(region.name), kind)?;
        }
        let RegionKind::Area { lendable } = region.kind else { return Ok(None) };
        let first = self.areas.iter().find(|area| area.default).map(|area| area.name);
        if let (true, Some(first)) = (region.default, first) {
            self.refusals.push(Subject::Region(region.name), Reason::SecondDefault(first));
        }
        let default = region.default && first.is_none();
        self.areas.push(AreaPlan { name: region.name, ranges, lendable, default });
        Ok(Some(self.areas.len() - 1))
    }

    /// Enters the default area of the command line.
    fn enter_cma(&mut self, request: &CmaRequest<'dtb>) -> Result<(), Stop<'dtb>> {
        let size = request.size;
        if !size.is_multiple_of(u64::from(FRAME_SIZE)) {
            return Err(Reason::UnalignedSize(size).into());
        }
        let range = match request.place {
            Place::At(base) => {
                self.fits_ram(size)?;
                let range = ByteRange { base, size }.frames()?;
                self.check_free(range)?;
                range
            }
            Place::Anywhere => self.allocate(size, area_alignment(size), &[FrameRange::ALL])?,
            Place::Within { start, end } => {
                let window = FrameRange::within(start, end - start);
                self.allocate(size, area_alignment(size), &[window])?
            }
        };
        self.claim(range, Holder::CommandLine, ClaimKind::Area)?;
        let ranges = ArrayVec::from_iter([range]);
        self.areas.push(AreaPlan { name: "cma", ranges, lendable: true, default: true });
        Ok(())
    }

    fn check_static(&self, name: &'dtb str, ranges: &[FrameRange], kind: RegionKind) -> Result<(), Reason<'dtb>> {
        for (index, &range) in ranges.iter().enumerate() {
            match kind {
                RegionKind::Plain => {}
                // Reservations may overlap each other, but to unmap the kernel would end the boot.
                RegionKind::Firmware => {
                    let boots = |holder| matches!(holder, Holder::KernelImage | Holder::DeviceTree);
                    self.aliases.first_names(range).try_for_each(|range| self.check_overlap(range, boots))?;
                }
                RegionKind::Area { .. } => {
                    self.check_free(range)?;
                    if let Some(&held) = ranges[..index].iter().find(|other| other.overlaps(range)) {
                        return Err(Reason::Overlap { range, holder: Holder::Region(name), held });
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether all of `range` is RAM that nobody holds.
    fn check_free(&self, range: FrameRange) -> Result<(), Reason<'dtb>> {
        if let Some(alias) = self.aliases.find(range) {
            return Err(Reason::SecondName(alias));
        }
        if self.memblock.is_memory(range) {
            self.check_overlap(range, |_| true)
        } else {
            Err(Reason::OutsideRam(range))
        }
    }

    /// Whether `range` is clear of the claims of those that `matters` picks.
    fn check_overlap(&self, range: FrameRange, matters: impl Fn(Holder<'dtb>) -> bool) -> Result<(), Reason<'dtb>> {
        match self.claims.iter().find(|claim| matters(claim.holder) && claim.range.overlaps(range)) {
            Some(claim) => Err(Reason::Overlap { range, holder: claim.holder, held: claim.range }),
            None => Ok(()),
        }
    }

    fn fits_ram(&self, size: u64) -> Result<(), Reason<'dtb>> {
        let ram = self.memblock.memory().map(FrameRange::bytes).sum();
        if size <= ram { Ok(()) } else { Err(Reason::LargerThanRam { size, ram }) }
    }

    /// Finds and reserves `size` bytes, a number of frames, in the first of `within` that has room.
    fn allocate(&mut self, size: u64, align: u32, within: &[FrameRange]) -> Result<FrameRange, Stop<'dtb>> {
        self.fits_ram(size)?;
        let frames = (size >> FRAME_SHIFT) as u32;
        let mut most = 0;
        for &window in within {
            match self.memblock.phys_alloc_range(frames, align >> FRAME_SHIFT, window, Direction::TopDown) {
                Ok(range) => return Ok(range),
                Err(MemblockError::NoSpace { largest, .. }) => most = most.max(largest),
                Err(error) => return Err(error.into()),
            }
        }
        Err(Reason::NoRun { size, align: u64::from(align), largest: u64::from(most) << FRAME_SHIFT }.into())
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
            let devices = layout.devices(index).map(ToString::to_string).collect();
            (area.name.to_string(), area.ranges.to_vec(), area.lendable, area.default, devices)
        };
        Outcome {
            areas: layout.areas().iter().enumerate().map(area).collect(),
            firmware: layout.firmware().map(|claim| claim.range).collect(),
            nomap: layout.memblock().nomap().collect(),
            lines: layout.refusals().iter().map(ToString::to_string).collect(),
        }
    }

    /// The module's guarantees, frame by frame where it matters.
    fn check_invariants(layout: &Layout<'_>) {
        let memblock = layout.memblock();
        for (index, claim) in layout.claims().iter().enumerate() {
            assert!(memblock.reserved().any(|run| run.covers(claim.range)), "{claim:?} is not reserved");
            let nomap = memblock.nomap().any(|run| run.covers(claim.range));
            match claim.kind {
                ClaimKind::Area => {
                    assert!(memblock.is_memory(claim.range) && nomap);
                    for (other, claim2) in layout.claims().iter().enumerate() {
                        assert!(other == index || !claim.range.overlaps(claim2.range), "{claim:?} and {claim2:?}");
                    }
                }
                ClaimKind::Firmware => assert!(nomap || !memblock.is_memory(claim.range)),
                ClaimKind::Reserved => {}
            }
        }
        for run in memblock.nomap() {
            let carved = |frame| {
                layout.claims().iter().any(|claim| claim.kind != ClaimKind::Reserved && claim.range.contains(frame))
            };
            assert!(run.iter().step_by(16).all(carved), "{run} is carved out for nobody");
        }
        let claimed: Vec<_> =
            layout.claims().iter().filter(|claim| claim.kind == ClaimKind::Area).map(|claim| claim.range).collect();
        let planned: Vec<_> = layout.areas().iter().flat_map(|area| area.ranges.iter().copied()).collect();
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
        assert_eq!(layout.areas_of("codec@10010000").collect::<Vec<_>>(), [0, 1]);
        assert_eq!(layout.areas_of("tee").count(), 0);
        assert_eq!(layout.areas()[0].bytes(), 48 * MIB);
        let holders: Vec<_> = layout.claims().iter().map(|claim| claim.holder.to_string()).collect();
        assert_eq!(
            holders,
            [
                "the kernel image",
                "the device tree",
                "/memreserve/",
                "reserved-memory/log@60400000",
                "reserved-memory/secure@5ffff000",
                "reserved-memory/video@64000000",
                "reserved-memory/video@64000000",
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
            ("cma=64M@0x9d000000", "0x9d000000-0xa1000000 (64 MiB) is not all RAM"),
            ("cma=64M@0", "0x00000000-0x04000000 (64 MiB) is not all RAM"),
            ("cma=64M@4095M", "0xfff00000-0x103f00000 (64 MiB) is out of reach: past 4 GiB"),
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
            (at(0x9fff_f000, 0x2000), "0x9ffff000-0xa0001000 (8 KiB) is not all RAM"),
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
            // A refused region must not keep the next one, at the same place, from its memory.
            let first = pool("first", "no-map").cells("reg", &[0x6100_1000, 0x1000]);
            let last = pool("last", "no-map").cells("reg", &[0x6200_0000, 0x1000]);
            let outcome = plan(&board("").child(reserved([first, region, last])), &[(0x7000_0000, 0x1000)]);
            assert_eq!(outcome.lines, [format!("reserved-memory/pool: {message}")]);
            let carved = [bytes(0x6100_1000, 0x1000), bytes(0x6200_0000, 0x1000)];
            assert_eq!(outcome.nomap, carved);
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
        let outcome = plan(&aliased("").child(reserved([at(0x0100_0000), at(0x6100_0000)])), &[]);
        assert_eq!(outcome.lines, [format!("reserved-memory/pool: {message}")]);
        assert_eq!(outcome.nomap, [bytes(0x6100_0000, 2 * MIB)], "the one by its first name is granted");
        let outcome = plan(&aliased("cma=2M@0x1000000"), &[]);
        assert_eq!(outcome.lines, [format!("cma=2M@0x1000000: {message}")]);
        // Half of it is no alias and no RAM either.
        let outcome = plan(&aliased("").child(reserved([at(0x0ff0_0000)])), &[]);
        let message = "0x0ff00000-0x10000000 (1 MiB) is 0x6ff00000-0x70000000 (1 MiB) by another name";
        assert_eq!(outcome.lines, [format!("reserved-memory/pool: {message}")]);
        // Where the RAM is not said to have a second name, there is just no RAM.
        let outcome = plan(&board("").child(reserved([at(0x0100_0000)])), &[]);
        assert_eq!(outcome.lines, ["reserved-memory/pool: 0x01000000-0x01200000 (2 MiB) is not all RAM"]);
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
        assert!(size_of::<BootInfo<'_>>() < 12 << 10, "{}", size_of::<BootInfo<'_>>());
        assert!(size_of::<Layout<'_>>() < 16 << 10, "{}", size_of::<Layout<'_>>());
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

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
            let granted = layout.claims().iter().filter(|claim| region(claim.holder)).count();
            prop_assert!(granted + layout.refusals().iter().count() >= asked);
        }
    }
}
