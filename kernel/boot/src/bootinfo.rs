//! What the boot loader says of the machine: a device tree, read and checked.
//!
//! Guarantees: no sequence of bytes makes [`BootInfo::parse`] panic, loop or recurse. What it returns has been checked
//! node by node. A node that asks for something impossible becomes one of the [refusals](BootInfo::refusals), each a
//! value that prints as one line. Only a tree that cannot be walked, or one without memory, stops the boot.
//!
//! It fails safe. Somebody uses the memory that a reservation names. So every address of a reservation that can be read
//! is reserved, whatever else is wrong with the node, and `no-map` memory stays out of the direct map. Only a service
//! is refused: an area, or a place to be found. Reservations, regions and bindings are read from the tree whenever they
//! are asked for. So no list of them can be full.
//!
//! | `/reserved-memory` child | becomes |
//! |---|---|
//! | `status = "disabled"` | nothing: as if it were not there |
//! | any other `status` than `okay` or `ok` | reserved; a pool is no area |
//! | `reg`, one or more entries | that place; entries of one node form one area over several ranges, of which those that touch are one |
//! | `size`, with `alignment` and `alloc-ranges` | a place found at boot; ignored beside a `reg`, as the binding says |
//! | neither `no-map` nor `reusable`, no pool | [`RegionKind::Plain`]: reserved, stays in the direct map |
//! | `no-map`, no pool | [`RegionKind::Firmware`]: out of the direct map, never an area |
//! | `compatible = "shared-dma-pool"`, `no-map` | [`RegionKind::Area`], never lent |
//! | `compatible = "shared-dma-pool"`, `reusable` | [`RegionKind::Area`], lendable, and out of the direct map too |
//! | `compatible = "shared-dma-pool"`, neither | refused as an area, reserved |
//! | `no-map` and `reusable` | refused as an area, for the binding makes them exclusive; out of the direct map |
//! | `reusable`, no pool | [`RegionKind::Plain`], and a line that says so |
//! | a `reg` of no whole number of entries | reserved as far as it can be read; a pool is no area |
//! | `linux,cma-default` | on an area: the default one; the first such area wins |
//! | `memory-region` of another node | a [`Binding`] of that device to each region named |
//!
//! `#address-cells` and `#size-cells` may be 1 or 2. `/reserved-memory` needs both and an empty `ranges`, as in Linux.
//! If it has not, one line says so. Its children are then reserved by the cells that it does declare, and by the root's
//! where it declares none. None of them is an area. Where its `ranges` is not empty, the addresses that it translates
//! to are reserved too.
//!
//! | `/chosen` | becomes |
//! |---|---|
//! | `bootargs` | [`BootInfo::bootargs`] |
//! | `stdout-path` | [`BootInfo::stdout_path`] |
//! | `linux,initrd-start`, `linux,initrd-end`, of one or two cells | [`BootInfo::initrd`], reserved |
//! | `linux,elfcorehdr` | [`BootInfo::elfcorehdr`], reserved |
//! | `linux,usable-memory-range` | RAM outside of its ranges is withheld |
//!
//! | child of the root | becomes |
//! |---|---|
//! | `compatible = "carveout,ram-alias"`, `reg`, `carveout,alias-of` | an [`Alias`]: at `reg`, one entry, the board's address decoder shows the RAM at `carveout,alias-of`, an address, a second time. It is no property of the memory node because boot loaders write that one anew. Whatever names RAM by its second name is refused, reservations excepted: they are made by its first |
//!
//! A node is memory if it has `device_type = "memory"`, whatever its name. Addresses past 4 GiB are out of reach.

#![forbid(unsafe_code)]

mod binding;
pub mod bus;
mod refusal;
mod region;
mod structure;

#[cfg(test)]
pub(super) mod dts;

use arrayvec::ArrayVec;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

use self::binding::{AskingNodes, MemoryInside};
pub use self::binding::{Binding, DevicePath};
pub use self::refusal::{BootError, Holder, Reason, Refusal, Refusals, Subject};
pub(crate) use self::region::AreaRuns;
use self::region::Parent;
pub use self::region::{Dynamic, Region};
use super::bootargs::BootArgs;
use crate::byte_range::ByteRange;
use carveout::addr::{FRAME_SIZE, FrameRange, SECTION_SIZE};
use carveout::vm::alias::{Alias, Aliases};

/// The most RAM banks that are used. Further ones are counted and stay unused.
pub const MAX_BANKS: usize = 16;
/// The most refusals that are kept. Further ones are counted.
pub const MAX_REFUSALS: usize = 24;
/// The most names in a device's path. No driver finds a device below more nodes.
pub const MAX_DEPTH: usize = 24;
/// The largest `alignment` a region may ask for: 256 MiB.
pub const MAX_ALIGNMENT: u64 = 256 << 20;

/// The use that is made of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionKind {
    /// Reserved, and in the direct map like other RAM.
    Plain,
    /// Out of the direct map, and not used.
    Firmware,
    /// Out of the direct map, for buffers.
    Area {
        /// Whether idle frames may be lent.
        lendable: bool,
    },
}

/// What the boot loader says of the machine. See the [module](self).
#[derive(Clone, Debug)]
pub struct BootInfo<'dtb> {
    fdt: Fdt<'dtb>,
    bootargs: BootArgs<'dtb>,
    stdout_path: Option<&'dtb str>,
    aliases: Aliases,
    banks: ArrayVec<FrameRange, MAX_BANKS>,
    /// The cells of the root's children.
    cells: Cells,
    /// The `/reserved-memory` of a tree in order.
    reserved: Reserved<'dtb>,
    initrd: Option<ByteRange>,
    elfcorehdr: Option<ByteRange>,
    usable: Option<Entries<'dtb>>,
    refusals: Refusals<'dtb>,
}

impl<'dtb> BootInfo<'dtb> {
    /// Reads the flattened device tree at the start of `dtb`. What follows the tree is ignored.
    ///
    /// # Errors
    ///
    /// A [`BootError`] if the tree is truncated or corrupt, or if it names no memory.
    pub fn parse(dtb: &'dtb [u8]) -> Result<Self, BootError> {
        let fdt = structure::check(dtb)?;
        let mut info = Self {
            fdt,
            bootargs: BootArgs::default(),
            stdout_path: None,
            aliases: Aliases::default(),
            banks: ArrayVec::new(),
            cells: Cells::default(),
            reserved: Reserved::None,
            initrd: None,
            elfcorehdr: None,
            usable: None,
            refusals: Refusals::default(),
        };
        let root = fdt.root();
        match Cells::of(root) {
            Ok(cells) => {
                info.cells = cells;
                info.read_aliases(root, cells);
                info.read_memory(root, cells);
            }
            Err(reason) => info.refusals.push(Subject::Node(root.name()), reason),
        }
        if info.banks.is_empty() {
            return Err(BootError::NoMemory);
        }
        for node in root.children() {
            match base_name(node.name()) {
                "chosen" => info.read_chosen(node),
                RESERVED_MEMORY => info.reserved = info.reserved.and(node),
                _ => {}
            }
        }
        info.judge_regions();
        for MemoryInside(name) in AskingNodes::new(info.dtb()).filter_map(Result::err) {
            info.refusals.push(Subject::Node(name), Reason::NotAtRoot);
        }
        Ok(info)
    }

    /// Returns the tree's bytes, as many as its header says.
    pub fn dtb(&self) -> &'dtb [u8] {
        self.fdt.data()
    }

    /// Returns the root node. The tree was checked. So going through nodes, names and properties does not panic, as
    /// long as nobody asks a child iterator again after its end. Numbers of cells are checked only where this crate
    /// reads them.
    pub fn root(&self) -> FdtNode<'dtb> {
        self.fdt.root()
    }

    /// Returns the board's name.
    pub fn model(&self) -> Option<&'dtb str> {
        string(value(self.root(), "model")?)
    }

    /// Yields what the board is compatible with, the closest first.
    pub fn compatible(&self) -> impl Iterator<Item = &'dtb str> {
        strings(value(self.root(), "compatible").unwrap_or_default())
    }

    /// Returns the command line, which is empty if there is none.
    pub const fn bootargs(&self) -> BootArgs<'dtb> {
        self.bootargs
    }

    /// Returns `/chosen/stdout-path`, with its options.
    pub const fn stdout_path(&self) -> Option<&'dtb str> {
        self.stdout_path
    }

    /// Returns the banks of RAM in the tree's order, by their first addresses. There is at least one. Banks may touch
    /// or overlap.
    pub fn banks(&self) -> &[FrameRange] {
        &self.banks
    }

    /// Returns the second addresses of RAM.
    pub const fn aliases(&self) -> &Aliases {
        &self.aliases
    }

    /// Yields the entries of the memory reservation block, rounded outward to frames.
    pub fn memreserves(&self) -> impl Iterator<Item = FrameRange> + use<'dtb> {
        let entries = self.fdt.memory_reservations();
        entries.map(|entry| FrameRange::covering(entry.address(), entry.size())).filter(|range| !range.is_empty())
    }

    /// Yields the children of `/reserved-memory` in the tree's order, without those that are disabled.
    pub fn regions(&self) -> impl Iterator<Item = Region<'dtb>> + use<'dtb> {
        let cells = self.cells;
        self.reserved.nodes(self.root()).flat_map(move |node| {
            let (parent, _) = Parent::read(node, cells);
            node.children().filter_map(move |child| Region::read(child, parent, &mut |_| ()))
        })
    }

    /// Yields the devices that name regions, in the tree's order.
    pub fn bindings(&self) -> impl Iterator<Item = Binding<'dtb>> + use<'dtb> {
        AskingNodes::new(self.dtb()).filter_map(Result::ok)
    }

    /// Returns where the boot loader put the initial RAM disk. Its frames are reserved, and in the direct map.
    pub const fn initrd(&self) -> Option<ByteRange> {
        self.initrd
    }

    /// Returns where a kernel that crashed left the ELF header of its memory. Its frames are reserved, and in the
    /// direct map.
    pub const fn elfcorehdr(&self) -> Option<ByteRange> {
        self.elfcorehdr
    }

    /// Yields the only RAM that may be used. Returns `None` if `/chosen` does not limit it.
    pub fn usable(&self) -> Option<impl Iterator<Item = FrameRange> + use<'dtb>> {
        let whole = self.usable?.whole();
        Some(whole.map(|range| FrameRange::within(range.base, range.size)))
    }

    /// Returns what the tree asks for and does not get. [`super::layout::Layout::refusals`] holds these too.
    pub const fn refusals(&self) -> &Refusals<'dtb> {
        &self.refusals
    }

    /// Takes the refusals out, so that others can be added to them.
    pub(crate) fn take_refusals(&mut self) -> Refusals<'dtb> {
        core::mem::take(&mut self.refusals)
    }

    fn read_aliases(&mut self, root: FdtNode<'dtb>, cells: Cells) {
        let is_alias = |value: &[u8]| strings(value).any(|name| name == "carveout,ram-alias");
        bus::walk_tree_where(self.fdt.data(), root, "compatible", &is_alias, &mut |&node, buses| {
            if buses.len() == 1 {
                let entered = read_alias(node, cells).and_then(|alias| self.aliases.add(alias).map_err(Reason::Alias));
                if let Err(reason) = entered {
                    self.refusals.push(Subject::Node(node.name()), reason);
                }
            }
        });
    }

    fn read_memory(&mut self, root: FdtNode<'dtb>, cells: Cells) {
        let mut spare = None;
        let is_memory = |value: &[u8]| string(value) == Some("memory");
        bus::walk_tree_where(self.fdt.data(), root, "device_type", &is_memory, &mut |&node, buses| {
            if buses.len() > 1 {
                return;
            }
            let subject = Subject::Node(node.name());
            let entries = match cells.entries(node, "reg") {
                Some(Ok(entries)) => entries,
                Some(Err(reason)) => return self.refusals.push(subject, reason),
                None => return self.refusals.push(subject, Reason::Missing("reg")),
            };
            for range in entries {
                if range.past_four_gib() {
                    self.refusals.push(subject, Reason::PastFourGib(range));
                }
                // An entry that the boot loader was to fill in has size 0.
                let bank = FrameRange::within(range.base, range.size);
                if let Some(alias) = self.aliases.find(bank) {
                    self.refusals.push(subject, Reason::SecondName(alias));
                    continue;
                }
                if !bank.is_empty() && self.banks.try_push(bank).is_err() {
                    spare.get_or_insert((subject, 0)).1 += 1;
                }
            }
        });
        if let Some((subject, banks)) = spare {
            self.refusals.push(subject, Reason::SpareBanks(banks));
        }
    }

    fn read_chosen(&mut self, chosen: FdtNode<'dtb>) {
        self.stdout_path = value(chosen, "stdout-path").and_then(string);
        if let Some(bytes) = value(chosen, "bootargs") {
            let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            self.bootargs = BootArgs::new(&bytes[..end]);
            for error in self.bootargs.unreadable() {
                self.refusals.push(Subject::Argument(error.text), Reason::Argument(error.problem));
            }
        }
        let subject = Subject::Node(chosen.name());
        match read_initrd(chosen) {
            Ok(Some(range)) if range.past_four_gib() => {
                self.refusals.push(subject, Reason::PastFourGib(range));
                self.initrd = Some(range);
            }
            Ok(range) => self.initrd = range,
            Err(reason) => self.refusals.push(subject, reason),
        }
        let mut entries = |name, several| {
            let entries = Entries::by_length(value(chosen, name)?, self.cells, several);
            if !entries.are_whole() {
                self.refusals.push(subject, Reason::Malformed(name));
            }
            Some(entries)
        };
        self.elfcorehdr = entries("linux,elfcorehdr", false).and_then(|entries| entries.whole().next());
        self.usable = entries("linux,usable-memory-range", true).filter(|entries| entries.whole().next().is_some());
    }

    /// Refuses what is wrong with the regions. This is done once.
    fn judge_regions(&mut self) {
        for node in self.reserved.nodes(self.root()) {
            let (parent, fault) = Parent::read(node, self.cells);
            if let Some(reason) = fault {
                self.refusals.push(Subject::Node(node.name()), reason);
            }
            for child in node.children() {
                let subject = Subject::Region(child.name());
                Region::read(child, parent, &mut |reason| self.refusals.push(subject, reason));
            }
        }
    }
}

/// Returns the initial RAM disk. One end without the other is refused. Equal ends mean that there is none.
fn read_initrd(chosen: FdtNode<'_>) -> Result<Option<ByteRange>, Reason<'_>> {
    const ENDS: [&str; 2] = ["linux,initrd-start", "linux,initrd-end"];
    let [start, end] = ENDS.map(|name| match value(chosen, name) {
        None => Ok(None),
        Some(bytes) if matches!(bytes.len(), 4 | 8) => Ok(Some(big_endian(bytes))),
        Some(_) => Err(Reason::Malformed(name)),
    });
    match (start?, end?) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(Reason::Missing(ENDS[1])),
        (None, Some(_)) => Err(Reason::Missing(ENDS[0])),
        (Some(start), Some(end)) if start > end => Err(Reason::InitrdOrder { start, end }),
        (Some(base), Some(end)) => Ok((base < end).then_some(ByteRange { base, size: end - base })),
    }
}

/// The root's children called `reserved-memory`. A tree in order has one, which is looked for once.
#[derive(Clone, Copy, Debug)]
enum Reserved<'dtb> {
    None,
    One(FdtNode<'dtb>),
    /// They are looked for each time.
    Several,
}

impl<'dtb> Reserved<'dtb> {
    /// Returns what there is with one node more.
    const fn and(self, node: FdtNode<'dtb>) -> Self {
        match self {
            Self::None => Self::One(node),
            Self::One(_) | Self::Several => Self::Several,
        }
    }

    /// Yields the nodes, in order.
    fn nodes(self, root: FdtNode<'dtb>) -> impl Iterator<Item = FdtNode<'dtb>> {
        let (one, all) = match self {
            Self::None => (None, None),
            Self::One(node) => (Some(node), None),
            Self::Several => (None, Some(root.children())),
        };
        let named = all.into_iter().flatten().filter(|node| base_name(node.name()) == RESERVED_MEMORY);
        one.into_iter().chain(named)
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

/// Returns the alignment in bytes of an area of `size` bytes that asks for none. From a section up it is a section, so
/// that sections map it.
pub(super) const fn area_alignment(size: u64) -> u32 {
    if size >= SECTION_SIZE as u64 { SECTION_SIZE } else { FRAME_SIZE }
}

const RESERVED_MEMORY: &str = "reserved-memory";

/// The number of cells that the children of a node use for an address and for a size: 1 or 2 each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cells {
    address: usize,
    size: usize,
}

impl Default for Cells {
    /// Returns the default of the Devicetree Specification, 2.3.5.
    fn default() -> Self {
        Self { address: 2, size: 1 }
    }
}

impl Cells {
    /// Returns the cells that `node` declares for its children, or the default where it declares none.
    fn of(node: FdtNode<'_>) -> Result<Self, Reason<'_>> {
        let Self { address, size } = Self::default();
        let read =
            |name, default| value(node, name).map_or(Ok(default), |value| cell_count(value).ok_or(Reason::Cells));
        Ok(Self { address: read("#address-cells", address)?, size: read("#size-cells", size)? })
    }

    /// Returns the cells that `node` declares for its children, and whether it declares both. What it does not declare
    /// is as in `root`.
    fn declared(node: FdtNode<'_>, root: Self) -> (Self, bool) {
        let read = |name| value(node, name).and_then(cell_count);
        let (address, size) = (read("#address-cells"), read("#size-cells"));
        let cells = Self { address: address.unwrap_or(root.address), size: size.unwrap_or(root.size) };
        (cells, address.is_some() && size.is_some())
    }

    const fn entry_bytes(self) -> usize {
        (self.address + self.size) * 4
    }

    /// Returns the property `name` of `node` as pairs of address and size, at least one.
    fn entries<'dtb>(
        self,
        node: FdtNode<'dtb>,
        name: &'static str,
    ) -> Option<Result<impl Iterator<Item = ByteRange> + use<'dtb>, Reason<'dtb>>> {
        let entries = Entries { bytes: value(node, name)?, cells: self };
        Some(if entries.are_whole() { Ok(entries.whole()) } else { Err(Reason::Malformed(name)) })
    }

    /// Returns the property `name` of `node` as one size.
    fn size<'dtb>(self, node: FdtNode<'dtb>, name: &'static str) -> Result<Option<u64>, Reason<'dtb>> {
        match value(node, name) {
            None => Ok(None),
            Some(bytes) if bytes.len() == self.size * 4 => Ok(Some(big_endian(bytes))),
            Some(_) => Err(Reason::Malformed(name)),
        }
    }
}

fn cell_count(value: &[u8]) -> Option<usize> {
    match value {
        &[0, 0, 0, cells @ (1 | 2)] => Some(usize::from(cells)),
        _ => None,
    }
}

/// A property's value as pairs of address and size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Entries<'dtb> {
    bytes: &'dtb [u8],
    cells: Cells,
}

impl<'dtb> Entries<'dtb> {
    /// Reads `bytes` by the root's cells if that makes one entry, or `several` where there may be more. Otherwise it
    /// reads them as one entry, of as many cells as its length needs.
    fn by_length(bytes: &'dtb [u8], root: Cells, several: bool) -> Self {
        let both = |cells| Cells { address: cells, size: cells };
        let guess = if bytes.len() == both(1).entry_bytes() { both(1) } else { both(2) };
        let by_root = Self { bytes, cells: root };
        let is_one = bytes.len() == root.entry_bytes();
        if is_one || several { by_root.or_by(guess) } else { Self { bytes, cells: guess }.or_by(root) }
    }

    /// Returns the bytes as read by `other` cells, if they are whole entries by those and not by their own.
    fn or_by(self, other: Cells) -> Self {
        let other = Self { cells: other, ..self };
        if !self.are_whole() && other.are_whole() { other } else { self }
    }

    /// Returns whether the bytes are whole entries, at least one.
    const fn are_whole(&self) -> bool {
        !self.bytes.is_empty() && self.bytes.len().is_multiple_of(self.cells.entry_bytes())
    }

    /// Yields the entries that are whole.
    fn whole(self) -> impl Iterator<Item = ByteRange> + use<'dtb> {
        self.bytes.chunks_exact(self.cells.entry_bytes()).map(move |entry| {
            let (base, size) = entry.split_at(self.cells.address * 4);
            ByteRange { base: big_endian(base), size: big_endian(size) }
        })
    }

    /// Returns the address of a last entry that is cut off, if the address itself is whole.
    fn cut(self) -> Option<u64> {
        let rest = self.bytes.chunks_exact(self.cells.entry_bytes()).remainder();
        rest.get(..self.cells.address * 4).map(big_endian)
    }
}

/// The meaning of a node's `status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    /// The node counts.
    Okay,
    /// The node is withdrawn.
    Disabled,
    /// The status is neither.
    Other,
}

impl Status {
    /// Reads a status. "reserved" means that the node is for somebody else to use (Devicetree Specification 0.4,
    /// 2.3.4). A status that cannot be read says nothing.
    fn of(status: Option<&[u8]>) -> Self {
        match status.map(string) {
            None | Some(Some("okay" | "ok")) => Self::Okay,
            Some(Some("disabled")) => Self::Disabled,
            Some(_) => Self::Other,
        }
    }
}

/// Returns a node's name without its unit address.
fn base_name(name: &str) -> &str {
    name.split('@').next().unwrap_or_default()
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn value<'dtb>(node: FdtNode<'dtb>, name: &str) -> Option<&'dtb [u8]> {
    node.property(name)?.value_as().ok()
}

/// Returns the string in `bytes`, up to its NUL.
fn string(bytes: &[u8]) -> Option<&str> {
    core::ffi::CStr::from_bytes_until_nul(bytes).ok()?.to_str().ok()
}

/// Yields the strings in `bytes`, up to the first that is none.
fn strings(mut bytes: &[u8]) -> impl Iterator<Item = &str> {
    core::iter::from_fn(move || {
        let first = string(bytes)?;
        bytes = &bytes[first.len() + 1..];
        Some(first)
    })
}

/// Returns whether a node counts, by Linux's reading of `status`.
fn is_available(node: FdtNode<'_>) -> bool {
    Status::of(value(node, "status")) == Status::Okay
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
            (
                whole(&[0, 0x2000], &[0xffff_f000]),
                "0xfffff000-0x100001000 (8 KiB) is out of reach: past 4 GiB; move it below",
            ),
            (
                whole(&[0x6000_1000, 0x2000], &[0x6000_0000]),
                "0x60001000-0x60002000 (4 KiB) cannot be named twice; leave one alias out",
            ),
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
        assert_eq!(info.bootargs().iter().map(|arg| arg.text).collect::<Vec<_>>(), ["loglevel=7", "cma=16M"]);
        assert_eq!(info.stdout_path(), Some("serial0:38400n8"));
        let banks = [(0x6000_0000, 0x4000_0000), (0x2000_0000, 0x1000_0000), (0x3000_0000, 0x800_0000)];
        assert_eq!(info.banks(), banks.map(|(base, size)| frames(base, size)));
        assert_eq!(info.memreserves().collect::<Vec<_>>(), [frames(0x6000_0000, 0x2000)]);
        assert_eq!(lines(&info), Vec::<String>::new());

        let regions: Vec<_> = info.regions().map(|region| (region.name, region.kind, region.default)).collect();
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
        let kept: Vec<_> = info.regions().map(|region| region.kept().collect::<Vec<_>>()).collect();
        assert_eq!(
            kept,
            [
                vec![frames(0x6010_0000, 0x2000)],
                vec![frames(0x6020_0000, 0x2000)],
                vec![frames(0x6800_0000, 0x200_0000), frames(0x2000_0000, 0x100_0000)],
                vec![],
                vec![],
            ]
        );
        let found: Vec<_> = info.regions().filter_map(|region| region.dynamic).collect();
        let found: Vec<_> = found.iter().map(|at| (at.size, at.align, at.within().collect::<Vec<_>>())).collect();
        assert_eq!(
            found,
            [
                (0x40_0000, 0x40_0000, vec![frames(0x7000_0000, 0x1000_0000)]),
                (0x10_1000, 0x10_0000, vec![FrameRange::ALL]),
            ]
        );
        let bindings: Vec<_> =
            info.bindings().map(|own| (own.device.to_string(), own.phandles().collect::<Vec<_>>())).collect();
        assert_eq!(
            bindings,
            [("/soc/codec@10010000".to_string(), vec![8, 7]), ("/soc/camera@10020000".to_string(), vec![8])]
        );
        assert_eq!(info.bindings().next().unwrap().device.name(), "codec@10010000");
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
            (at(0xffff_f000, 0x2000), "0xfffff000-0x100001000 (8 KiB) is out of reach: past 4 GiB; move it below"),
            (
                sized(0x200_0000).cells("alloc-ranges", &[0x6000_0000, 0x100_0000, 0x6800_0800, 0x200_0000]),
                "alloc-ranges are too small: 32 MiB asked for, room for 31 MiB",
            ),
            (
                node().flag("no-map").cells("size", &[0x1000]),
                "no-map and reusable exclude each other; keep one of them",
            ),
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
                node().cells("reg", &[1, 2, 3, 4, 5, 6, 7, 8, 9].map(|i| [0x6000_0000 + i * 0x2000, 0x1000]).concat()),
                "more than 8 ranges in an area are not supported",
            ),
            (
                node().cells("reg", &[0x6800_0000, 0x1000]).text("status", "reserved"),
                "its status is neither \"okay\" nor \"disabled\": kept reserved, no area",
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
                "reserved-memory/a: 0xfffff000-0x100001000 (8 KiB) is out of reach: past 4 GiB; move it below",
                "reserved-memory/b: 0x100000000-0x100002000 (8 KiB) is out of reach: past 4 GiB; move it below",
            ]
        );
        let kept: Vec<_> = info.regions().map(|region| region.kept().collect::<Vec<_>>()).collect();
        assert_eq!(kept, [vec![frames(0xffff_f000, 0x1000)], vec![]]);
    }

    #[test]
    fn nodes_that_make_no_sense_are_refused_by_name() {
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
                "reserved-memory: ranges must be there and empty; its children are kept, and none is an area",
            ),
            (board("").child(Node::new("ram").text("device_type", "memory")), "ram: reg is missing"),
            (board("").child(memory("ram", &[1, 2, 3])), "ram: reg is malformed"),
            (
                board("").child(memory("ram", &[0xc000_0000, 0x4000_1000])),
                "ram: 0xc0000000-0x100001000 (1048580 KiB) is out of reach: past 4 GiB; move it below",
            ),
            (
                board("").child(Node::new("soc").child(memory("sram", &[0, 0x1000]))),
                "sram: memory that is not a child of the root is ignored; move it to the root",
            ),
            (
                // Two too many, beside the board's own.
                board("")
                    .children((0..=MAX_BANKS as u32).map(|i| memory(&format!("ram@{i}"), &[i * 0x10_0000, 0x1000]))),
                "ram@15: more than 16 RAM banks are not supported; 2 from here on are not used",
            ),
        ] {
            let dtb = blob(&root, &[]);
            let info = BootInfo::parse(&dtb).unwrap();
            assert_eq!(lines(&info), [message]);
        }
    }

    #[test]
    fn depth_is_no_fault_and_loses_nothing() {
        let nested =
            |leaf: Node, depth: usize| (1..depth).rev().fold(leaf, |child, n| Node::new(&format!("n{n}")).child(child));
        let asks = || Node::new("dsp").cells("memory-region", &[7]);
        let bindings = |root: Node| {
            let dtb = blob(&root, &[]);
            let info = BootInfo::parse(&dtb).unwrap();
            assert_eq!(lines(&info), Vec::<String>::new());
            info.bindings().map(|own| (own.device.name().to_string(), own.too_deep)).collect::<Vec<_>>()
        };
        assert_eq!(bindings(board("").child(nested(Node::new("leaf"), MAX_DEPTH + 100))), []);
        assert_eq!(bindings(board("").child(nested(asks(), MAX_DEPTH))), [("dsp".to_string(), false)]);
        let root = board("").child(nested(asks(), MAX_DEPTH + 1)).child(asks());
        let last = format!("n{MAX_DEPTH}");
        assert_eq!(
            bindings(root),
            [(last, true), ("dsp".to_string(), false)],
            "the path stops at the last that is kept"
        );
        let hidden = Node::new("soc").text("status", "disabled").child(asks());
        assert_eq!(bindings(board("").child(hidden).child(asks())), [("dsp".to_string(), false)]);
    }

    #[test]
    fn one_bad_byte_drops_one_argument() {
        let chosen = |line: &[u8]| {
            let dtb = blob(&board("").child(Node::new("chosen").bytes("bootargs", line)), &[]);
            let info = BootInfo::parse(&dtb).unwrap();
            let args = info.bootargs().iter().map(|arg| arg.text.to_string()).collect::<Vec<_>>();
            (args, lines(&info))
        };
        let complaint = "root=/de: byte 0xff follows, which is no text; the argument is ignored".to_string();
        assert_eq!(
            chosen(b"cma=1M root=/de\xff/sda quiet\0"),
            (vec!["cma=1M".to_string(), "quiet".to_string()], vec![complaint])
        );
        // Without its NUL the line is as long as the property.
        assert_eq!(chosen(b"cma=1M"), (vec!["cma=1M".to_string()], vec![]));
    }

    #[test]
    fn what_chosen_names_is_read_in_any_cells() {
        let chosen = |node: Node| {
            let dtb = blob(&board("").child(node), &[]);
            let info = BootInfo::parse(&dtb).unwrap();
            (info.initrd(), info.elfcorehdr(), info.usable().map(Iterator::collect::<Vec<_>>), lines(&info))
        };
        let node = || Node::new("chosen");
        let at = |base, size| Some(ByteRange { base, size });
        let initrd = |start: &[u32], end: &[u32]| {
            chosen(node().cells("linux,initrd-start", start).cells("linux,initrd-end", end))
        };
        assert_eq!(initrd(&[0x6200_0000], &[0x6280_0001]), (at(0x6200_0000, 0x80_0001), None, None, vec![]));
        assert_eq!(initrd(&[0, 0x6200_0000], &[0x6280_0000]).0, at(0x6200_0000, 0x80_0000));
        assert_eq!(initrd(&[0], &[0]), (None, None, None, vec![]), "no initrd, as some boot loaders say it");
        for (node, line) in [
            (node().cells("linux,initrd-start", &[1]), "linux,initrd-end is missing"),
            (node().cells("linux,initrd-end", &[1]), "linux,initrd-start is missing"),
            (
                node().cells("linux,initrd-start", &[1, 2, 3]).cells("linux,initrd-end", &[1]),
                "linux,initrd-start is malformed",
            ),
            (
                node().cells("linux,initrd-start", &[2]).cells("linux,initrd-end", &[1]),
                "linux,initrd-end 0x1 is below linux,initrd-start 0x2",
            ),
            (node().cells("linux,elfcorehdr", &[1]), "linux,elfcorehdr is malformed"),
        ] {
            assert_eq!(chosen(node), (None, None, None, vec![format!("chosen: {line}")]));
        }
        for cells in [&[0x6400_0000, 0x1000][..], &[0, 0x6400_0000, 0, 0x1000]] {
            assert_eq!(chosen(node().cells("linux,elfcorehdr", cells)).1, at(0x6400_0000, 0x1000), "{cells:x?}");
        }
        // By the root's cells: there may be several.
        let usable = |cells: &[u32]| chosen(node().cells("linux,usable-memory-range", cells)).2;
        let two = vec![frames(0x6400_0000, 0x1000), frames(0x6600_0000, 0x2000)];
        assert_eq!(usable(&[0x6400_0000, 0x1000, 0x6600_0000, 0x2000]), Some(two));
        assert_eq!(usable(&[0x6400_0000]), None);
        let ends = initrd(&[0, 0xf000_0000], &[1, 0x1000]);
        let line = "chosen: 0xf0000000-0x100001000 (262148 KiB) is out of reach: past 4 GiB; move it below";
        assert_eq!((ends.0, ends.3), (at(0xf000_0000, 0x1000_1000), vec![line.to_string()]));
    }

    #[test]
    fn what_can_be_read_of_a_reg_is_kept() {
        let kept = |parent: Node, child: Node| {
            let dtb = blob(&board("").child(parent.children([child])), &[]);
            let info = BootInfo::parse(&dtb).unwrap();
            let regions: Vec<_> =
                info.regions().map(|region| (region.kind, region.kept().collect::<Vec<_>>())).collect();
            (regions, lines(&info))
        };
        let node = || Node::new("tz").flag("no-map");
        let parent = || Node::new("reserved-memory");
        let sound = || reserved([]);
        let is = |ranges: &[(u64, u64)]| {
            vec![(RegionKind::Firmware, ranges.iter().map(|&(base, size)| frames(base, size)).collect::<Vec<_>>())]
        };
        let tz = is(&[(0x6800_0000, 0x10_0000)]);
        let cut = |cells: &[u32]| node().cells("reg", cells);
        let malformed = vec!["reserved-memory/tz: reg is malformed".to_string()];
        // Cut off within a second entry: its address is there, or it is not.
        let second = is(&[(0x6800_0000, 0x10_0000), (0x6900_0000, 1)]);
        assert_eq!(kept(sound(), cut(&[0x6800_0000, 0x10_0000, 0x6900_0000])), (second, malformed.clone()));
        let mut bytes = [0x68, 0, 0, 0, 0, 0x10, 0, 0].to_vec();
        bytes.extend([0x69, 0]);
        assert_eq!(kept(sound(), node().bytes("reg", &bytes)), (tz.clone(), malformed.clone()));
        assert_eq!(kept(sound(), cut(&[])), (is(&[]), malformed));
        // Written by the root's cells, whatever the parent declares, or whether it does.
        let reg = || cut(&[0x6800_0000, 0x10_0000]);
        let cells = || vec!["reserved-memory: #address-cells and #size-cells must be 1 or 2".to_string()];
        assert_eq!(kept(parent().flag("ranges"), reg()), (tz.clone(), cells()));
        let three = parent().flag("ranges").cells("#address-cells", &[3]).cells("#size-cells", &[1]);
        assert_eq!(kept(three, reg()), (tz.clone(), cells()));
        let wide = || parent().flag("ranges").cells("#address-cells", &[2]).cells("#size-cells", &[2]);
        assert_eq!(kept(wide(), reg()), (tz.clone(), vec![]));
        assert_eq!(kept(wide(), cut(&[0, 0x6800_0000, 0, 0x10_0000])), (tz.clone(), vec![]));
        let address = parent().cells("#address-cells", &[2]).cells("#size-cells", &[2]);
        let ranges = "reserved-memory: ranges must be there and empty; its children are kept, and none is an area";
        assert_eq!(kept(address, cut(&[0, 0x6800_0000, 0, 0x10_0000])), (tz.clone(), vec![ranges.to_string()]));
        // Translated by the parent, which Linux does not read: both addresses are kept, the second as far as it is
        // mapped.
        let through = |cells: &[u32]| reserved([]).cells("ranges", cells);
        let low = cut(&[0x800_0000, 0x10_0000]);
        let both = is(&[(0x800_0000, 0x10_0000), (0x6800_0000, 0x10_0000)]);
        assert_eq!(kept(through(&[0, 0x6000_0000, 0x4000_0000]), low.clone()), (both, vec![ranges.to_string()]));
        let two = [0x700_0000, 0x6700_0000, 0x108_0000, 0x808_0000, 0x9000_0000, 0x100_0000];
        let halves = is(&[(0x800_0000, 0x10_0000), (0x6800_0000, 0x8_0000), (0x9000_0000, 0x8_0000)]);
        assert_eq!(kept(through(&two), low.clone()), (halves, vec![ranges.to_string()]));
        let none = is(&[(0x800_0000, 0x10_0000)]);
        assert_eq!(kept(through(&[0x810_0000, 0x6000_0000, 0x10_0000]), low), (none, vec![ranges.to_string()]));
        // By another name of the parent, and of a status that says whose it is.
        let unit =
            Node::new("reserved-memory@0").flag("ranges").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
        assert_eq!(kept(unit, reg().text("status", "reserved")), (tz, vec![]));
    }

    #[test]
    fn refusals_past_the_limit_are_counted_and_regions_have_none() {
        let region = |i: u32| Node::new(&format!("p{i}")).cells("reg", &[0x6000_0000 + i * 0x2000, 0]).flag("no-map");
        let sound = |i: u32| Node::new(&format!("q{i}")).cells("reg", &[0x7000_0000 + i * 0x2000, 0x1000]);
        let nodes = (0..MAX_REFUSALS as u32 + 3).map(region).chain((0..500).map(sound));
        let dtb = blob(&board("").child(reserved(nodes)), &[(0x6000_0000, 0x1000); 500]);
        let info = BootInfo::parse(&dtb).unwrap();
        assert_eq!(info.regions().flat_map(|region| region.kept()).count(), 500);
        assert_eq!(info.memreserves().count(), 500);
        assert_eq!(lines(&info)[0], "reserved-memory/p0: size is 0");
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

    /// What the two walks visit must be the same nodes, below the same buses, in the same order.
    fn compare_walks(info: &BootInfo<'_>) {
        for name in ["compatible", "reg", "phandle", "status", "memory-region"] {
            let test = |value: &[u8]| value.len() % 8 == 4;
            let visited = |node: &FdtNode<'_>, buses: &[FdtNode<'_>]| {
                let path: Vec<_> = buses.iter().map(|bus| bus.name().to_string()).collect();
                (path, node.name().to_string(), value(*node, name).map(<[u8]>::to_vec))
            };
            let (mut all, mut found) = (Vec::new(), Vec::new());
            bus::walk(info.root(), &mut |node, buses| {
                if value(*node, name).is_some_and(test) {
                    all.push(visited(node, buses));
                }
            });
            bus::walk_where(info, name, &test, &mut |node, buses| found.push(visited(node, buses)));
            assert_eq!(all, found, "{name}");
        }
    }

    #[test]
    fn a_node_far_down_is_visited_by_both_walks_or_by_none() {
        for depth in [MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, MAX_DEPTH + 2] {
            let leaf = Node::new("leaf").cells("reg", &[1]);
            let chain = (0..depth - 1).fold(leaf, |node, _| Node::new("bus").child(Node::new("before")).child(node));
            let dtb = blob(&board("").child(chain).child(Node::new("after").cells("reg", &[2])), &[]);
            compare_walks(&BootInfo::parse(&dtb).unwrap());
        }
    }

    /// Parses `dtb`, and uses whatever comes of it.
    fn must_not_panic(dtb: &[u8]) {
        if let Ok(info) = BootInfo::parse(dtb) {
            read_all(info.root(), 0);
            compare_walks(&info);
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
