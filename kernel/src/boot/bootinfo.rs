//! What the boot loader says of the machine: a device tree, read once and judged.
//!
//! Guarantees: no sequence of bytes makes [`BootInfo::parse`] panic, loop or recurse; what it returns has been checked
//! node by node, and a node that asks for something that cannot be is not in it but among the
//! [refusals](BootInfo::refusals), each a value that prints as one line. Only a tree that cannot be walked, or one
//! without memory, stops the boot.
//!
//! Reservations are honoured as far as they go (somebody is using that memory); requests for an area are granted
//! whole or refused.
//!
//! | `/reserved-memory` child | becomes |
//! |---|---|
//! | `status` other than `okay` or `ok` | nothing: as if it were not there |
//! | `reg`, one or more entries | that place; entries of one node form one area over several ranges |
//! | `size`, with `alignment` and `alloc-ranges` | a place found at boot; ignored beside a `reg`, as the binding says |
//! | neither `no-map` nor `reusable`, no pool | [`RegionKind::Plain`]: reserved, stays in the direct map |
//! | `no-map`, no pool | [`RegionKind::Firmware`]: out of the direct map, never an area |
//! | `compatible = "shared-dma-pool"`, `no-map` | [`RegionKind::Area`], never lent |
//! | `compatible = "shared-dma-pool"`, `reusable` | [`RegionKind::Area`], lendable, and out of the direct map all the same |
//! | `compatible = "shared-dma-pool"`, neither | refused |
//! | `no-map` and `reusable` | refused: the binding makes them exclusive |
//! | `reusable`, no pool | [`RegionKind::Plain`], and a line that says so |
//! | `linux,cma-default` | on an area: the default one; the first such area wins |
//! | `memory-region` of another node | a [`Binding`] of that device to each region named |
//!
//! | child of the root | becomes |
//! |---|---|
//! | `compatible = "carveout,ram-alias"`, `reg`, `carveout,alias-of` | an [`Alias`]: at `reg`, one entry, the board's address decoder shows the RAM at `carveout,alias-of`, an address, a second time. It is no property of the memory node because boot loaders write that one anew. Whatever names RAM by its second name is refused, reservations excepted: they are made by its first |
//!
//! `#address-cells` and `#size-cells` of 1 and 2 are read; `/reserved-memory` needs an empty `ranges`, as in Linux.
//! Memory is what has `device_type = "memory"`, whatever its name. Addresses past 4 GiB are out of reach.

#![forbid(unsafe_code)]

mod refusal;
mod structure;

#[cfg(test)]
pub(super) mod dts;

use core::fmt;

use arrayvec::ArrayVec;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

pub use self::refusal::{BootError, ByteRange, Holder, Reason, Refusal, Refusals, Subject};
use super::bootargs::BootArgs;
use crate::addr::{FRAME_SIZE, FrameRange, SECTION_SIZE};
use crate::vm::alias::{Alias, Aliases};

/// RAM banks a tree may name.
pub const MAX_BANKS: usize = 8;
/// Entries of the memory reservation block that are kept.
pub const MAX_MEMRESERVES: usize = 16;
/// Regions below `/reserved-memory`.
pub const MAX_REGIONS: usize = 16;
/// Ranges of one region, placed or to be placed.
pub const MAX_RANGES: usize = 4;
/// Devices with a `memory-region`, counted once for each region named.
pub const MAX_BINDINGS: usize = 16;
/// Refusals kept; further ones are counted.
pub const MAX_REFUSALS: usize = 24;
/// Nodes below each other that are looked into.
pub const MAX_DEPTH: usize = 10;
/// The largest `alignment` a region may ask for: 256 MiB.
pub const MAX_ALIGNMENT: u64 = 256 << 20;

/// What becomes of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionKind {
    /// Reserved, and in the direct map like other RAM.
    Plain,
    /// Out of the direct map and left alone.
    Firmware,
    /// Out of the direct map, for buffers.
    Area {
        /// Whether idle frames may be lent.
        lendable: bool,
    },
}

/// Where a region lies or may lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RegionPlace {
    /// There; all of a region's ranges together. None if a reservation lies wholly past 4 GiB.
    Static(ArrayVec<FrameRange, MAX_RANGES>),
    /// To be found.
    Dynamic {
        /// Bytes: whole frames, not 0.
        size: u64,
        /// Alignment in bytes: a power of two, from a frame to [`MAX_ALIGNMENT`].
        align: u32,
        /// In one of these, tried in order. At least one is large enough.
        within: ArrayVec<FrameRange, MAX_RANGES>,
    },
}

/// A child of `/reserved-memory` whose own properties make sense.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region<'dtb> {
    /// The node's name, with its unit address.
    pub name: &'dtb str,
    /// What becomes of it.
    pub kind: RegionKind,
    /// Where.
    pub place: RegionPlace,
    /// `linux,cma-default`, on an area.
    pub default: bool,
    phandle: Option<u32>,
}

/// The path of a device's node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DevicePath<'dtb>(ArrayVec<&'dtb str, MAX_DEPTH>);

impl<'dtb> DevicePath<'dtb> {
    /// The node's own name, with its unit address.
    pub fn name(&self) -> &'dtb str {
        self.0.last().copied().unwrap_or_default()
    }
}

impl fmt::Display for DevicePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

/// A device whose `memory-region` names a region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binding<'dtb> {
    /// The device.
    pub device: DevicePath<'dtb>,
    /// The region, by its place in [`BootInfo::regions`].
    pub region: usize,
}

/// What the boot loader says of the machine. See the module's documentation.
#[derive(Clone, Debug)]
pub struct BootInfo<'dtb> {
    fdt: Fdt<'dtb>,
    bootargs: BootArgs<'dtb>,
    stdout_path: Option<&'dtb str>,
    aliases: Aliases,
    banks: ArrayVec<FrameRange, MAX_BANKS>,
    memreserves: ArrayVec<FrameRange, MAX_MEMRESERVES>,
    regions: ArrayVec<Region<'dtb>, MAX_REGIONS>,
    bindings: ArrayVec<Binding<'dtb>, MAX_BINDINGS>,
    refusals: Refusals<'dtb>,
}

impl<'dtb> BootInfo<'dtb> {
    /// Reads a flattened device tree at the start of `dtb`; what follows it is ignored.
    ///
    /// # Errors
    ///
    /// A tree that is truncated or corrupt, or that names no memory.
    pub fn parse(dtb: &'dtb [u8]) -> Result<Self, BootError> {
        let fdt = structure::check(dtb)?;
        let mut info = Self {
            fdt,
            bootargs: BootArgs::default(),
            stdout_path: None,
            aliases: Aliases::default(),
            banks: ArrayVec::new(),
            memreserves: ArrayVec::new(),
            regions: ArrayVec::new(),
            bindings: ArrayVec::new(),
            refusals: Refusals::default(),
        };
        let root = fdt.root();
        match Cells::of(root) {
            Ok(cells) => {
                info.read_aliases(root, cells);
                info.read_memory(root, cells);
            }
            Err(reason) => info.refusals.push(Subject::Node(root.name()), reason),
        }
        if info.banks.is_empty() {
            return Err(BootError::NoMemory);
        }
        info.read_memreserves();
        for node in root.children() {
            match node.name() {
                "chosen" => info.read_chosen(node),
                RESERVED_MEMORY => info.read_regions(node),
                _ => {}
            }
        }
        info.read_devices(root);
        Ok(info)
    }

    /// The tree's bytes, as long as its header says.
    pub fn dtb(&self) -> &'dtb [u8] {
        self.fdt.data()
    }

    /// The root node. The tree was checked: going through nodes, names and properties does not panic, as long as a
    /// child iterator is not asked again after its end. Numbers of cells are unchecked but for those read here.
    pub fn root(&self) -> FdtNode<'dtb> {
        self.fdt.root()
    }

    /// The board's name.
    pub fn model(&self) -> Option<&'dtb str> {
        string(value(self.root(), "model")?)
    }

    /// What the board is compatible with, the closest first.
    pub fn compatible(&self) -> impl Iterator<Item = &'dtb str> {
        strings(value(self.root(), "compatible").unwrap_or_default())
    }

    /// The command line; empty if there is none.
    pub const fn bootargs(&self) -> BootArgs<'dtb> {
        self.bootargs
    }

    /// `/chosen/stdout-path`, options and all.
    pub const fn stdout_path(&self) -> Option<&'dtb str> {
        self.stdout_path
    }

    /// RAM, in the tree's order, by its first addresses. At least one bank; banks may touch or overlap.
    pub fn banks(&self) -> &[FrameRange] {
        &self.banks
    }

    /// Second addresses of RAM.
    pub const fn aliases(&self) -> &Aliases {
        &self.aliases
    }

    /// The memory reservation block, rounded outward.
    pub fn memreserves(&self) -> &[FrameRange] {
        &self.memreserves
    }

    /// The usable children of `/reserved-memory`, in the tree's order.
    pub fn regions(&self) -> &[Region<'dtb>] {
        &self.regions
    }

    /// Devices and the regions they name, in the order of the tree and of each `memory-region`.
    pub fn bindings(&self) -> &[Binding<'dtb>] {
        &self.bindings
    }

    /// What the tree asks for and does not get. [`super::layout::Layout::refusals`] repeats these.
    pub const fn refusals(&self) -> &Refusals<'dtb> {
        &self.refusals
    }

    fn read_aliases(&mut self, root: FdtNode<'dtb>, cells: Cells) {
        for node in root.children().filter(|&node| is_available(node)) {
            if strings(value(node, "compatible").unwrap_or_default()).any(|name| name == "carveout,ram-alias") {
                let entered = read_alias(node, cells).and_then(|alias| self.aliases.add(alias).map_err(Reason::Alias));
                if let Err(reason) = entered {
                    self.refusals.push(Subject::Node(node.name()), reason);
                }
            }
        }
    }

    fn read_memory(&mut self, root: FdtNode<'dtb>, cells: Cells) {
        for node in root.children().filter(|&node| is_memory(node) && is_available(node)) {
            let subject = Subject::Node(node.name());
            let entries = match cells.entries(node, "reg") {
                Some(Ok(entries)) => entries,
                Some(Err(reason)) => {
                    self.refusals.push(subject, reason);
                    continue;
                }
                None => {
                    self.refusals.push(subject, Reason::Missing("reg"));
                    continue;
                }
            };
            for range in entries {
                if range.past_four_gib() {
                    self.refusals.push(subject, Reason::PastFourGib(range));
                }
                // A placeholder for the boot loader to fill in has size 0.
                let bank = FrameRange::within(range.base, range.size);
                if let Some(alias) = self.aliases.find(bank) {
                    self.refusals.push(subject, Reason::SecondName(alias));
                    continue;
                }
                if !bank.is_empty() && self.banks.try_push(bank).is_err() {
                    self.refusals.push(subject, Reason::TooMany { what: "RAM banks", kept: MAX_BANKS });
                }
            }
        }
    }

    fn read_memreserves(&mut self) {
        for entry in self.fdt.memory_reservations() {
            let range = FrameRange::covering(entry.address(), entry.size());
            if !range.is_empty() && self.memreserves.try_push(range).is_err() {
                let reason = Reason::TooMany { what: "entries", kept: MAX_MEMRESERVES };
                self.refusals.push(Subject::Memreserve, reason);
                break;
            }
        }
    }

    fn read_chosen(&mut self, chosen: FdtNode<'dtb>) {
        self.stdout_path = value(chosen, "stdout-path").and_then(string);
        if let Some(bytes) = value(chosen, "bootargs") {
            match string(bytes) {
                Some(line) => self.bootargs = BootArgs::new(line),
                None => self.refusals.push(Subject::Node(chosen.name()), Reason::Malformed("bootargs")),
            }
        }
    }

    fn read_regions(&mut self, parent: FdtNode<'dtb>) {
        let cells = match Cells::of(parent) {
            Ok(cells) if value(parent, "ranges").is_some_and(<[u8]>::is_empty) => cells,
            Ok(_) => return self.refusals.push(Subject::Node(parent.name()), Reason::Ranges),
            Err(reason) => return self.refusals.push(Subject::Node(parent.name()), reason),
        };
        for node in parent.children().filter(|&node| is_available(node)) {
            let subject = Subject::Region(node.name());
            match Region::read(node, cells, &mut self.refusals) {
                Ok(region) => {
                    if self.regions.try_push(region).is_err() {
                        self.refusals.push(subject, Reason::TooMany { what: "regions", kept: MAX_REGIONS });
                    }
                }
                Err(reason) => self.refusals.push(subject, reason),
            }
        }
    }

    /// Walks all nodes but `/reserved-memory`, with a stack of its own: a tree's depth is not the kernel's to trust.
    fn read_devices(&mut self, root: FdtNode<'dtb>) {
        let mut path = DevicePath(ArrayVec::new());
        let mut stack = ArrayVec::<_, MAX_DEPTH>::new();
        stack.push(root.children());
        while let Some(level) = stack.last_mut() {
            let Some(node) = level.next() else {
                stack.pop();
                path.0.pop();
                continue;
            };
            let at_root = path.0.is_empty();
            if !is_available(node) || (at_root && node.name() == RESERVED_MEMORY) {
                continue;
            }
            if !at_root && is_memory(node) {
                self.refusals.push(Subject::Node(node.name()), Reason::NotAtRoot);
            }
            path.0.push(node.name());
            self.read_bindings(node, &path);
            if !stack.is_full() {
                stack.push(node.children());
                continue;
            }
            if node.children().next().is_some() {
                self.refusals.push(Subject::Node(node.name()), Reason::TooDeep);
            }
            path.0.pop();
        }
    }

    fn read_bindings(&mut self, node: FdtNode<'dtb>, path: &DevicePath<'dtb>) {
        let Some(bytes) = value(node, "memory-region") else { return };
        let subject = Subject::Node(node.name());
        let (phandles, rest) = bytes.as_chunks();
        if phandles.is_empty() || !rest.is_empty() {
            return self.refusals.push(subject, Reason::Malformed("memory-region"));
        }
        for phandle in phandles.iter().copied().map(u32::from_be_bytes) {
            match self.regions.iter().position(|region| region.phandle == Some(phandle)) {
                None => self.refusals.push(subject, Reason::NoSuchRegion(phandle)),
                Some(region) => {
                    if self.bindings.try_push(Binding { device: path.clone(), region }).is_err() {
                        let reason = Reason::TooMany { what: "uses of memory-region", kept: MAX_BINDINGS };
                        return self.refusals.push(subject, reason);
                    }
                }
            }
        }
    }
}

fn read_alias(node: FdtNode<'_>, cells: Cells) -> Result<Alias, Reason<'_>> {
    let mut entries = cells.entries(node, "reg").ok_or(Reason::Missing("reg"))??;
    let (Some(at), None) = (entries.next(), entries.next()) else { return Err(Reason::Malformed("reg")) };
    let of = value(node, "carveout,alias-of").ok_or(Reason::Missing("carveout,alias-of"))?;
    if of.len() != cells.address * 4 {
        return Err(Reason::Malformed("carveout,alias-of"));
    }
    let of = ByteRange { base: big_endian(of), size: at.size };
    Ok(Alias { frames: at.frames()?, of: of.frames()? })
}

impl<'dtb> Region<'dtb> {
    fn read(node: FdtNode<'dtb>, cells: Cells, refusals: &mut Refusals<'dtb>) -> Result<Self, Reason<'dtb>> {
        let has = |name| value(node, name).is_some();
        let subject = Subject::Region(node.name());
        let pool = strings(value(node, "compatible").unwrap_or_default()).any(|name| name == "shared-dma-pool");
        let kind = match (pool, has("no-map"), has("reusable")) {
            (_, true, true) => return Err(Reason::NoMapAndReusable),
            (true, false, false) => return Err(Reason::PoolInDirectMap),
            (true, _, lendable) => RegionKind::Area { lendable },
            (false, true, false) => RegionKind::Firmware,
            (false, false, reusable) => {
                if reusable {
                    refusals.push(subject, Reason::ReusableWithoutPool);
                }
                RegionKind::Plain
            }
        };
        let is_area = matches!(kind, RegionKind::Area { .. });
        let place = match cells.entries(node, "reg") {
            Some(entries) => RegionPlace::Static(static_ranges(entries?, is_area, subject, refusals)?),
            None => dynamic_place(node, cells, is_area)?,
        };
        let default = has("linux,cma-default");
        if default && !is_area {
            refusals.push(subject, Reason::DefaultIsNoArea);
        }
        let phandle = value(node, "phandle").and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
        Ok(Self { name: node.name(), kind, place, default: default && is_area, phandle })
    }
}

fn static_ranges<'dtb>(
    entries: impl Iterator<Item = ByteRange>,
    is_area: bool,
    subject: Subject<'dtb>,
    refusals: &mut Refusals<'dtb>,
) -> Result<ArrayVec<FrameRange, MAX_RANGES>, Reason<'dtb>> {
    let mut ranges = ArrayVec::new();
    for entry in entries {
        let range = if is_area {
            entry.frames()?
        } else {
            if entry.size == 0 {
                return Err(Reason::ZeroSize);
            }
            if entry.past_four_gib() {
                refusals.push(subject, Reason::PastFourGib(entry));
            }
            FrameRange::covering(entry.base, entry.size)
        };
        if !range.is_empty() && ranges.try_push(range).is_err() {
            return Err(Reason::TooMany { what: "ranges in a region", kept: MAX_RANGES });
        }
    }
    Ok(ranges)
}

fn dynamic_place(node: FdtNode<'_>, cells: Cells, is_area: bool) -> Result<RegionPlace, Reason<'_>> {
    let size = cells.size(node, "size")?.ok_or(Reason::NoPlace)?;
    if size == 0 {
        return Err(Reason::ZeroSize);
    }
    if size % u64::from(FRAME_SIZE) != 0 {
        return Err(Reason::UnalignedSize(size));
    }
    let mut align = if is_area { area_alignment(size) } else { FRAME_SIZE };
    if let Some(asked) = cells.size(node, "alignment")? {
        if !asked.is_power_of_two() {
            return Err(Reason::AlignmentNotPowerOfTwo(asked));
        }
        if asked > MAX_ALIGNMENT {
            return Err(Reason::AlignmentTooLarge(asked));
        }
        align = align.max(asked as u32);
    }
    let mut within = ArrayVec::new();
    match cells.entries(node, "alloc-ranges") {
        None => within.push(FrameRange::ALL),
        Some(entries) => {
            let mut largest = 0;
            for entry in entries? {
                let range = FrameRange::within(entry.base, entry.size);
                let start = u64::from(range.start()) * u64::from(FRAME_SIZE);
                let end = start + range.bytes();
                largest = largest.max(end.saturating_sub(start.next_multiple_of(u64::from(align))));
                if within.try_push(range).is_err() {
                    return Err(Reason::TooMany { what: "alloc-ranges", kept: MAX_RANGES });
                }
            }
            if largest < size {
                return Err(Reason::AllocRangesTooSmall { size, largest });
            }
        }
    }
    Ok(RegionPlace::Dynamic { size, align, within })
}

/// The alignment in bytes an area of `size` bytes gets unasked: from a section up it is mapped by sections.
pub(super) const fn area_alignment(size: u64) -> u32 {
    if size >= SECTION_SIZE as u64 { SECTION_SIZE } else { FRAME_SIZE }
}

const RESERVED_MEMORY: &str = "reserved-memory";

/// How many cells the children of a node take for an address and for a size: 1 or 2 each.
#[derive(Clone, Copy)]
struct Cells {
    address: usize,
    size: usize,
}

impl Cells {
    /// Those of the children of `node`; 2 and 1 where it does not say (Devicetree Specification 2.3.5).
    fn of(node: FdtNode<'_>) -> Result<Self, Reason<'_>> {
        let read = |name, default| match value(node, name) {
            None => Ok(default),
            Some(&[0, 0, 0, cells @ (1 | 2)]) => Ok(usize::from(cells)),
            Some(_) => Err(Reason::Cells),
        };
        Ok(Self { address: read("#address-cells", 2)?, size: read("#size-cells", 1)? })
    }

    /// The property `name` of `node` as pairs of address and size; at least one.
    fn entries<'dtb>(
        self,
        node: FdtNode<'dtb>,
        name: &'static str,
    ) -> Option<Result<impl Iterator<Item = ByteRange> + 'dtb, Reason<'dtb>>> {
        let bytes = value(node, name)?;
        let entry = (self.address + self.size) * 4;
        if bytes.is_empty() || bytes.len() % entry != 0 {
            return Some(Err(Reason::Malformed(name)));
        }
        Some(Ok(bytes.chunks_exact(entry).map(move |entry| {
            let (base, size) = entry.split_at(self.address * 4);
            ByteRange { base: big_endian(base), size: big_endian(size) }
        })))
    }

    /// The property `name` of `node` as one size.
    fn size<'dtb>(self, node: FdtNode<'dtb>, name: &'static str) -> Result<Option<u64>, Reason<'dtb>> {
        match value(node, name) {
            None => Ok(None),
            Some(bytes) if bytes.len() == self.size * 4 => Ok(Some(big_endian(bytes))),
            Some(_) => Err(Reason::Malformed(name)),
        }
    }
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn value<'dtb>(node: FdtNode<'dtb>, name: &str) -> Option<&'dtb [u8]> {
    node.property(name)?.value_as().ok()
}

/// The string in `bytes`, up to its NUL.
fn string(bytes: &[u8]) -> Option<&str> {
    core::ffi::CStr::from_bytes_until_nul(bytes).ok()?.to_str().ok()
}

/// The strings in `bytes`, up to the first that is none.
fn strings(mut bytes: &[u8]) -> impl Iterator<Item = &str> {
    core::iter::from_fn(move || {
        let first = string(bytes)?;
        bytes = &bytes[first.len() + 1..];
        Some(first)
    })
}

fn is_memory(node: FdtNode<'_>) -> bool {
    value(node, "device_type").and_then(string) == Some("memory")
}

/// Whether a node counts, by Linux's reading of `status`.
fn is_available(node: FdtNode<'_>) -> bool {
    value(node, "status").is_none_or(|status| matches!(string(status), Some("okay" | "ok")))
}

#[cfg(test)]
mod tests {
    use std::string::{String, ToString};
    use std::vec::Vec;
    use std::{format, vec};

    use proptest::prelude::*;

    use dtoolkit::Node as _;

    use super::dts::{Node, blob, board, memory, pool, reserved};
    use super::*;

    fn frames(base: u64, size: u64) -> FrameRange {
        FrameRange::covering(base, size)
    }

    fn lines(info: &BootInfo<'_>) -> Vec<String> {
        info.refusals().iter().map(ToString::to_string).collect()
    }

    /// The one line that a board with this region gets.
    fn refusal(region: Node) -> String {
        let dtb = blob(&board("").child(reserved([region])), &[]);
        let info = BootInfo::parse(&dtb).unwrap();
        let lines = lines(&info);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.into_iter().next().unwrap()
    }

    /// A tree with a bit of everything.
    fn everything() -> Node {
        board("loglevel=7 cma=16M")
            .child(memory("ram@20000000", &[0x2000_0000, 0x1000_0000, 0x3000_0000, 0x800_0000]))
            .child(reserved([
                Node::new("secure@60100000").cells("reg", &[0x6010_0000, 0x1800]).flag("no-map"),
                Node::new("log@60200000").cells("reg", &[0x6020_0800, 0x1000]),
                pool("video@68000000", "reusable")
                    .cells("reg", &[0x6800_0000, 0x200_0000, 0x2000_0000, 0x100_0000])
                    .cells("phandle", &[7]),
                pool("camera", "no-map")
                    .cells("size", &[0x40_0000])
                    .cells("alignment", &[0x40_0000])
                    .cells("alloc-ranges", &[0x7000_0000, 0x1000_0000])
                    .cells("phandle", &[8]),
                pool("off", "reusable").cells("size", &[0]).text("status", "disabled"),
                pool("default", "reusable").cells("size", &[0x10_1000]).flag("linux,cma-default"),
            ]))
            .child(
                Node::new("soc")
                    .child(Node::new("codec@10010000").cells("memory-region", &[8, 7]))
                    .child(Node::new("camera@10020000").cells("memory-region", &[8]))
                    .child(Node::new("dead").cells("memory-region", &[8]).text("status", "disabled")),
            )
    }

    /// A tree whose first 256 MiB of RAM answer at 0 too, with more nodes.
    fn aliased(more: impl IntoIterator<Item = Node>) -> Node {
        let alias = Node::new("ram-alias@0").text("compatible", "carveout,ram-alias").cells("reg", &[0, 0x1000_0000]);
        board("").child(alias.cells("carveout,alias-of", &[0x6000_0000])).children(more)
    }

    #[test]
    fn i1_ram_with_a_second_name() {
        let dtb = blob(&aliased([]), &[]);
        let info = BootInfo::parse(&dtb).unwrap();
        let alias = Alias { frames: frames(0, 0x1000_0000), of: frames(0x6000_0000, 0x1000_0000) };
        assert_eq!(info.aliases().iter().collect::<Vec<_>>(), [alias]);
        assert_eq!(lines(&info), Vec::<String>::new());
    }

    #[test]
    fn a_bank_by_its_second_name_is_refused() {
        let dtb = blob(&aliased([memory("ram@8000000", &[0x0800_0000, 0x1000_0000])]), &[]);
        let info = BootInfo::parse(&dtb).unwrap();
        assert_eq!(info.banks(), [frames(0x6000_0000, 0x4000_0000)]);
        let line = "ram@8000000: 0x08000000-0x10000000 (128 MiB) is 0x68000000-0x70000000 (128 MiB) by another name";
        assert_eq!(lines(&info), [line]);
    }

    #[test]
    fn an_alias_that_cannot_be_is_refused_in_one_line() {
        let node = || Node::new("x").text("compatible", "carveout,ram-alias");
        let whole = |reg: &[u32], of: &[u32]| node().cells("reg", reg).cells("carveout,alias-of", of);
        for (alias, message) in [
            (node().cells("carveout,alias-of", &[0x6000_0000]), "reg is missing"),
            (node().cells("reg", &[0, 0x1000]), "carveout,alias-of is missing"),
            (whole(&[0, 0x1000, 0x8000, 0x1000], &[0x6000_0000]), "reg is malformed"),
            (whole(&[0], &[0x6000_0000]), "reg is malformed"),
            (whole(&[0, 0x1000], &[0, 0x6000_0000]), "carveout,alias-of is malformed"),
            (whole(&[0, 0], &[0x6000_0000]), "size is 0"),
            (
                whole(&[0, 0x1000], &[0x6000_0800]),
                "0x60000800-0x60001800 (4 KiB) does not start and end at a multiple of 4 KiB",
            ),
            (whole(&[0, 0x2000], &[0xffff_f000]), "0xfffff000-0x100001000 (8 KiB) is out of reach: past 4 GiB"),
            (whole(&[0x6000_1000, 0x2000], &[0x6000_0000]), "0x60001000-0x60002000 (4 KiB) cannot be named twice"),
        ] {
            let dtb = blob(&board("").child(alias), &[]);
            let info = BootInfo::parse(&dtb).unwrap();
            assert_eq!(lines(&info), [format!("x: {message}")]);
            assert_eq!(info.aliases().iter().count(), 0);
            assert_eq!(info.banks(), [frames(0x6000_0000, 0x4000_0000)]);
        }
    }

    #[test]
    fn a_whole_tree() {
        let mut dtb = blob(&everything(), &[(0x6000_0000, 0x1001), (0x7000_0000, 0)]);
        let length = dtb.len();
        dtb.extend([0xaa; 100]);
        let info = BootInfo::parse(&dtb).unwrap();
        assert_eq!(info.dtb().len(), length);
        assert_eq!(info.model(), Some("A board"));
        assert_eq!(info.compatible().collect::<Vec<_>>(), ["maker,board", "arm,vexpress"]);
        assert_eq!(info.bootargs().as_str(), "loglevel=7 cma=16M");
        assert_eq!(info.stdout_path(), Some("serial0:38400n8"));
        let banks = [(0x6000_0000, 0x4000_0000), (0x2000_0000, 0x1000_0000), (0x3000_0000, 0x800_0000)];
        assert_eq!(info.banks(), banks.map(|(base, size)| frames(base, size)));
        assert_eq!(info.memreserves(), [frames(0x6000_0000, 0x2000)]);
        assert_eq!(lines(&info), Vec::<String>::new());

        let regions: Vec<_> = info.regions().iter().map(|region| (region.name, region.kind, region.default)).collect();
        assert_eq!(
            regions,
            [
                ("secure@60100000", RegionKind::Firmware, false),
                ("log@60200000", RegionKind::Plain, false),
                ("video@68000000", RegionKind::Area { lendable: true }, false),
                ("camera", RegionKind::Area { lendable: false }, false),
                ("default", RegionKind::Area { lendable: true }, true),
            ]
        );
        let at = |ranges: &[FrameRange]| RegionPlace::Static(ranges.iter().copied().collect());
        let found = |size, align, within| RegionPlace::Dynamic { size, align, within: ArrayVec::from_iter([within]) };
        let places: Vec<_> = info.regions().iter().map(|region| region.place.clone()).collect();
        assert_eq!(
            places,
            [
                at(&[frames(0x6010_0000, 0x2000)]),
                at(&[frames(0x6020_0000, 0x2000)]),
                at(&[frames(0x6800_0000, 0x200_0000), frames(0x2000_0000, 0x100_0000)]),
                found(0x40_0000, 0x40_0000, frames(0x7000_0000, 0x1000_0000)),
                found(0x10_1000, 0x10_0000, FrameRange::ALL),
            ]
        );
        let bindings: Vec<_> =
            info.bindings().iter().map(|binding| (binding.device.to_string(), binding.region)).collect();
        assert_eq!(
            bindings,
            [
                ("/soc/codec@10010000".to_string(), 3),
                ("/soc/codec@10010000".to_string(), 2),
                ("/soc/camera@10020000".to_string(), 3),
            ]
        );
        assert_eq!(info.bindings()[0].device.name(), "codec@10010000");
    }

    #[test]
    fn regions_that_make_no_sense_are_refused_by_name() {
        let node = || pool("pool@68000000", "reusable");
        let at = |base, size| node().cells("reg", &[base, size]);
        let sized = |size| node().cells("size", &[size]);
        for (region, message) in [
            (at(0x6800_0000, 0), "size is 0"),
            (sized(0), "size is 0"),
            (Node::new("pool@68000000").cells("reg", &[0x6800_0000, 0]), "size is 0"),
            (sized(0x1001), "size 0x1001 is not a multiple of 4 KiB"),
            (sized(0x1000).cells("alignment", &[0]), "alignment 0x0 is not a power of two"),
            (sized(0x1000).cells("alignment", &[0x3000]), "alignment 0x3000 is not a power of two"),
            (sized(0x1000).cells("alignment", &[0x2000_0000]), "alignment 512 MiB is more than 256 MiB"),
            (at(0x6800_0800, 0x1000), "0x68000800-0x68001800 (4 KiB) does not start and end at a multiple of 4 KiB"),
            (at(0x6800_0000, 0x1800), "0x68000000-0x68001800 (6 KiB) does not start and end at a multiple of 4 KiB"),
            (at(0xffff_f000, 0x2000), "0xfffff000-0x100001000 (8 KiB) is out of reach: past 4 GiB"),
            (
                sized(0x200_0000).cells("alloc-ranges", &[0x6000_0000, 0x100_0000, 0x6800_0800, 0x200_0000]),
                "alloc-ranges are too small: 32 MiB asked for, room for 31 MiB",
            ),
            (node().flag("no-map").cells("size", &[0x1000]), "no-map and reusable exclude each other"),
            (
                Node::new("pool@68000000").text("compatible", "shared-dma-pool").cells("size", &[0x1000]),
                "a shared-dma-pool must be no-map or reusable",
            ),
            (node(), "neither reg nor size"),
            (node().cells("reg", &[0x6800_0000]), "reg is malformed"),
            (node().cells("reg", &[]), "reg is malformed"),
            (node().bytes("size", &[0, 1, 0]), "size is malformed"),
            (node().cells("size", &[0, 0x1000]), "size is malformed"),
            (sized(0x1000).cells("alignment", &[0, 0x1000]), "alignment is malformed"),
            (sized(0x1000).cells("alloc-ranges", &[1, 2, 3]), "alloc-ranges is malformed"),
            (
                node().cells("reg", &[1, 2, 3, 4, 5].map(|i| [0x6000_0000 + i * 0x1000, 0x1000]).concat()),
                "more than 4 ranges in a region are not supported",
            ),
            (
                Node::new("pool@68000000").flag("reusable").cells("reg", &[0x6800_0000, 0x1000]),
                "reusable without compatible \"shared-dma-pool\": kept reserved, not lent",
            ),
            (
                Node::new("pool@68000000").flag("linux,cma-default").cells("reg", &[0x6800_0000, 0x1000]),
                "linux,cma-default on what is no area is ignored",
            ),
        ] {
            assert_eq!(refusal(region), format!("reserved-memory/pool@68000000: {message}"));
        }
    }

    #[test]
    fn a_reservation_past_four_gib_is_kept_up_to_there() {
        let root = Node::new("").child(memory("memory@0", &[0, 0, 0x4000_0000])).child(
            reserved([
                Node::new("a").cells("reg", &[0, 0xffff_f000, 0, 0x2000]),
                Node::new("b").cells("reg", &[1, 0, 0, 0x2000]).flag("no-map"),
            ])
            .cells("#address-cells", &[2])
            .cells("#size-cells", &[2]),
        );
        let dtb = blob(&root, &[]);
        let info = BootInfo::parse(&dtb).unwrap();
        assert_eq!(
            lines(&info),
            [
                "reserved-memory/a: 0xfffff000-0x100001000 (8 KiB) is out of reach: past 4 GiB",
                "reserved-memory/b: 0x100000000-0x100002000 (8 KiB) is out of reach: past 4 GiB",
            ]
        );
        let places: Vec<_> = info.regions().iter().map(|region| region.place.clone()).collect();
        let at = |ranges: &[FrameRange]| RegionPlace::Static(ranges.iter().copied().collect());
        assert_eq!(places, [at(&[frames(0xffff_f000, 0x1000)]), at(&[])]);
    }

    #[test]
    fn nodes_that_make_no_sense_are_refused_by_name() {
        let deep =
            (0..=MAX_DEPTH).rev().fold(Node::new("leaf"), |child, level| Node::new(&format!("n{level}")).child(child));
        for (root, message) in [
            (
                board("").child(reserved([]).cells("#address-cells", &[3])),
                "reserved-memory: #address-cells and #size-cells must be 1 or 2",
            ),
            (
                board("").child(reserved([]).cells("#size-cells", &[0x4000_0000])),
                "reserved-memory: #address-cells and #size-cells must be 1 or 2",
            ),
            (
                board("").child(reserved([]).cells("ranges", &[0, 0, 0])),
                "reserved-memory: ranges must be there and empty; no child is read",
            ),
            (board("").child(Node::new("ram").text("device_type", "memory")), "ram: reg is missing"),
            (board("").child(memory("ram", &[1, 2, 3])), "ram: reg is malformed"),
            (
                board("").child(memory("ram", &[0xc000_0000, 0x4000_1000])),
                "ram: 0xc0000000-0x100001000 (1048580 KiB) is out of reach: past 4 GiB",
            ),
            (
                board("").child(Node::new("soc").child(memory("sram", &[0, 0x1000]))),
                "sram: memory that is not a child of the root is ignored",
            ),
            (
                board("").child(Node::new("camera@1").cells("memory-region", &[5])),
                "camera@1: memory-region names 0x5, which is no usable region",
            ),
            (
                board("").child(Node::new("camera@1").bytes("memory-region", &[0, 0, 5])),
                "camera@1: memory-region is malformed",
            ),
            (board("").child(deep), "n9: nodes more than 10 deep are ignored"),
            (
                board("")
                    .children((0..MAX_BANKS as u32).map(|i| memory(&format!("ram@{i}"), &[i * 0x10_0000, 0x1000]))),
                "ram@7: more than 8 RAM banks are not supported",
            ),
        ] {
            let dtb = blob(&root, &[]);
            let info = BootInfo::parse(&dtb).unwrap();
            assert_eq!(lines(&info), [message]);
        }
        let bad_line = board("").child(Node::new("chosen").bytes("bootargs", b"cma=1M"));
        let dtb = blob(&bad_line, &[(0x6000_0000, 0x1000); MAX_MEMRESERVES + 1]);
        let info = BootInfo::parse(&dtb).unwrap();
        assert_eq!(
            lines(&info),
            ["/memreserve/: more than 16 entries are not supported", "chosen: bootargs is malformed"]
        );
    }

    #[test]
    fn regions_and_refusals_past_the_limit_are_counted() {
        let region = |i: usize| pool(&format!("p{i}"), "no-map").cells("size", &[0x1000]);
        let dtb = blob(&board("").child(reserved((0..MAX_REGIONS + MAX_REFUSALS + 3).map(region))), &[]);
        let info = BootInfo::parse(&dtb).unwrap();
        assert_eq!(info.regions().len(), MAX_REGIONS);
        assert_eq!(lines(&info)[0], "reserved-memory/p16: more than 16 regions are not supported");
        assert_eq!((info.refusals().iter().count(), info.refusals().more()), (MAX_REFUSALS, 3));
    }

    #[test]
    fn trees_without_memory_stop_the_boot() {
        let message = "device tree: no node with device_type \"memory\" names any RAM";
        for root in [
            Node::new(""),
            Node::new("").child(memory("memory", &[0, 0, 0])),
            Node::new("").child(memory("memory", &[0, 0x6000_0000, 0x1000]).text("status", "disabled")),
            Node::new("").child(memory("memory", &[1, 0, 0x1000])),
            board("").cells("#address-cells", &[0]),
        ] {
            let error = BootInfo::parse(&blob(&root, &[])).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn trees_that_are_none_stop_the_boot() {
        let good = blob(&board(""), &[]);
        let with = |offset: usize, word: u32| {
            let mut dtb = good.clone();
            dtb[offset..offset + 4].copy_from_slice(&word.to_be_bytes());
            dtb
        };
        for (dtb, message) in [
            (vec![], "truncated: 0 bytes of 40"),
            (good[..39].to_vec(), "truncated: 39 bytes of 40"),
            (good[..100].to_vec(), &*format!("truncated: 100 bytes of {}", good.len())),
            (with(0, 0x464c_457f), "no device tree: the first word is 0x464c457f, not 0xd00dfeed"),
            (with(4, 39), "the header block is misaligned or out of bounds"),
            (with(20, 16), "version 16 is not readable as version 17"),
            (with(24, 18), "version 17 is not readable as version 17"),
            (with(8, 58), "the structure block is misaligned or out of bounds"),
            (with(36, u32::MAX), "the structure block is misaligned or out of bounds"),
            (with(12, u32::MAX), "the strings block is misaligned or out of bounds"),
            (with(16, 44), "the memory reservation block is misaligned or out of bounds"),
            (with(56, 4), "corrupt at byte 0x38"),
            // The length of the first property: dtoolkit alone would go round in circles on a 32-bit target.
            (with(68, 0xffff_fff4), "corrupt at byte 0x40"),
            (with(72, 0xffff_0000), "corrupt at byte 0x40"),
        ] {
            let error = BootInfo::parse(&dtb).unwrap_err();
            assert_eq!(error.to_string(), format!("device tree: {message}"));
        }
    }

    #[test]
    fn structure_no_writer_makes_stops_the_boot() {
        const NAME: u32 = 0x6100_0000;
        // A good tree first: FDT_BEGIN_NODE "", FDT_END_NODE, FDT_END.
        for (words, at) in [
            (&[1, 0, 2, 9][..], None),
            (&[1, 0, 3, 0, 0, 1, NAME, 2, 4, 2, 4, 9], None),
            // The root must begin the block.
            (&[4, 1, 0, 2, 9], Some(56)),
            (&[9], Some(56)),
            // A property after a child, and one after the root.
            (&[1, 0, 1, NAME, 2, 3, 0, 0, 2, 9], Some(76)),
            (&[1, 0, 2, 3, 0, 0, 9], Some(68)),
            // A second root; an end too many, and one too few.
            (&[1, 0, 2, 1, 0, 2, 9], Some(68)),
            (&[1, 0, 2, 2, 9], Some(68)),
            (&[1, 0, 9], Some(64)),
            // No end; no such token; a name and a value that run out of the block.
            (&[1, 0, 2], Some(68)),
            (&[1, 0, 5, 2, 9], Some(64)),
            (&[1, 0, 1, 0x6161_6161], Some(64)),
            (&[1, 0, 3, 9, 0, 2, 9], Some(64)),
            // A name past the strings.
            (&[1, 0, 3, 0, 2, 2, 9], Some(64)),
        ] {
            let (length, strings) = (words.len() * 4, *b"a\0");
            let (end, total) = (56 + length, 56 + length + strings.len());
            let header = [0xd00d_feed, total, 56, end, 40, 17, 16, 0, strings.len(), length, 0, 0, 0, 0];
            let header = header.iter().map(|&word| word as u32);
            let mut dtb: Vec<u8> = header.chain(words.iter().copied()).flat_map(u32::to_be_bytes).collect();
            dtb.extend(strings);
            let expected = at.map_or(BootError::NoMemory, BootError::Structure);
            assert_eq!(BootInfo::parse(&dtb).unwrap_err(), expected, "{words:x?}");
        }
    }

    #[test]
    fn names_longer_than_the_specification_allows_are_read() {
        let long = "a-label-that-some-overlay-needs-and-nobody-shortened";
        let root = board("").child(Node::new("__symbols__").text(long, "/soc")).child(Node::new(long));
        assert!(BootInfo::parse(&blob(&root, &[])).is_ok());
    }

    /// Reads all of a tree that was accepted, as drivers will.
    fn read_all(node: FdtNode<'_>, depth: usize) -> usize {
        let properties: usize = node.properties().map(|property| property.value().len() + property.name().len()).sum();
        let children: usize =
            if depth < 40 { node.children().map(|child| read_all(child, depth + 1)).sum() } else { 0 };
        node.name().len() + properties + children
    }

    /// Parses `dtb`, and uses whatever comes of it.
    fn must_not_panic(dtb: &[u8]) {
        if let Ok(info) = BootInfo::parse(dtb) {
            read_all(info.root(), 0);
            let _ = (info.model(), info.compatible().count(), info.bootargs().cma(), lines(&info));
            let _ = format!("{info:?}");
            assert!(!info.banks().is_empty());
        }
    }

    #[test]
    fn no_truncation_panics() {
        let dtb = blob(&everything(), &[(0x6000_0000, 0x1000)]);
        for length in 0..dtb.len() {
            must_not_panic(&dtb[..length]);
            let mut short = dtb[..length].to_vec();
            if length >= 8 {
                short[4..8].copy_from_slice(&(length as u32).to_be_bytes());
            }
            must_not_panic(&short);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn no_mutation_panics(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            words in prop::collection::vec(
                (any::<prop::sample::Index>(), prop_oneof![0..16_u32, Just(u32::MAX), Just(0xffff_fff4), any::<u32>()]),
                0..6,
            ),
        ) {
            let mut dtb = blob(&everything(), &[(0x6000_0000, 0x1000)]);
            for (at, byte) in edits {
                let at = at.index(dtb.len());
                dtb[at] = byte;
            }
            for (at, word) in words {
                let at = at.index(dtb.len() / 4) * 4;
                dtb[at..at + 4].copy_from_slice(&word.to_be_bytes());
            }
            must_not_panic(&dtb);
        }

        #[test]
        fn no_garbage_panics(
            tokens in prop::collection::vec(prop_oneof![4 => 0..10_u32, 1 => any::<u32>()], 0..60),
            strings in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let length = tokens.len() * 4;
            let total = 56 + length + strings.len();
            let header = [0xd00d_feed, total, 56, 56 + length, 40, 17, 16, 0, strings.len(), length, 0, 0, 0, 0];
            let words = header.iter().map(|&word| word as u32).chain(tokens);
            let mut dtb: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
            dtb.extend(strings);
            must_not_panic(&dtb);
        }
    }
}
