//! The children of `/reserved-memory`.
//!
//! Guarantees: whatever is wrong with a node, [`Region::kept`] holds every address that can be read of its `reg`, and
//! `no-map` stays `no-map`. A fault costs the node only its service: an area, or a place to be found. Where the parent
//! translates addresses, both readings are kept: the address as it stands, as Linux reads it, and the address that the
//! parent's `ranges` makes of it.

use arrayvec::ArrayVec;
use dtoolkit::Node;
use dtoolkit::fdt::FdtNode;

use super::refusal::Reason;
use super::{Cells, Entries, MAX_ALIGNMENT, RegionKind, Status, area_alignment, big_endian, strings, value};
use crate::byte_range::ByteRange;
use carveout::addr::{FRAME_SIZE, FrameRange};
use carveout::carve_out::CarveOut;

/// The runs of an area. Runs that touch are merged.
pub(crate) type AreaRuns = ArrayVec<FrameRange, { CarveOut::RANGES }>;

/// What holds for all children of a `/reserved-memory`.
#[derive(Clone, Copy)]
pub(super) struct Parent<'dtb> {
    cells: Cells,
    root: Cells,
    ranges: Ranges<'dtb>,
    is_sound: bool,
}

impl<'dtb> Parent<'dtb> {
    /// Reads the node `parent`, below a root with the cells `root`. Returns it with the reason why it is malformed, if
    /// it is.
    pub(super) fn read(parent: FdtNode<'dtb>, root: Cells) -> (Self, Option<Reason<'dtb>>) {
        let (cells, declared) = Cells::declared(parent, root);
        let ranges = value(parent, "ranges");
        let fault = if !declared {
            Some(Reason::Cells)
        } else if ranges.is_none_or(|ranges| !ranges.is_empty()) {
            Some(Reason::Ranges)
        } else {
            None
        };
        let ranges = Ranges { bytes: ranges.unwrap_or_default(), cells, parent_address: root.address };
        (Self { cells, root, ranges, is_sound: fault.is_none() }, fault)
    }
}

/// A `ranges` that is not empty: triples of the child's address, the parent's address and a size (Devicetree
/// Specification 0.4, 2.3.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Ranges<'dtb> {
    bytes: &'dtb [u8],
    cells: Cells,
    parent_address: usize,
}

impl<'dtb> Ranges<'dtb> {
    /// Returns where the parent sees the parts of `range` that the triples translate.
    fn of(self, range: ByteRange) -> impl Iterator<Item = ByteRange> + use<'dtb> {
        let (address, size) = (4 * self.cells.address, 4 * self.cells.size);
        let triples = self.bytes.chunks_exact(address + 4 * self.parent_address + size);
        triples.filter_map(move |triple| {
            let (child, rest) = triple.split_at(address);
            let (parent, bytes) = rest.split_at(rest.len() - size);
            let (child, parent, bytes) = (big_endian(child), big_endian(parent), big_endian(bytes));
            let start = range.base.max(child);
            let end = range.base.saturating_add(range.size).min(child.saturating_add(bytes));
            (start < end).then(|| ByteRange { base: parent.saturating_add(start - child), size: end - start })
        })
    }
}

/// A child of `/reserved-memory`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region<'dtb> {
    /// The node's name, with its unit address.
    pub name: &'dtb str,
    /// The use that is made of it. A pool that is refused is no [`RegionKind::Area`].
    pub kind: RegionKind,
    /// Whether `linux,cma-default` stands on it and it is an area.
    pub default: bool,
    /// Why the node does not get what it asks for, whether an area or a place. Its addresses are kept even then.
    pub refused: Option<Reason<'dtb>>,
    /// Whether it is a `shared-dma-pool`. A device that names one wants an area.
    pub is_pool: bool,
    /// The place that is to be found for it, if its node names none.
    pub dynamic: Option<Dynamic<'dtb>>,
    reg: Entries<'dtb>,
    ranges: Ranges<'dtb>,
    phandle: Option<u32>,
}

/// A place to be found at boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dynamic<'dtb> {
    /// The size in bytes: whole frames, not 0.
    pub size: u64,
    /// Alignment in bytes: a power of two, from a frame to [`MAX_ALIGNMENT`].
    pub align: u32,
    within: Option<Entries<'dtb>>,
}

impl<'dtb> Dynamic<'dtb> {
    /// Yields the ranges where it may lie, in the order in which they are tried. At least one is large enough.
    pub fn within(&self) -> impl Iterator<Item = FrameRange> + use<'dtb> {
        let anywhere = self.within.is_none().then_some(FrameRange::ALL);
        let listed = self.within.into_iter().flat_map(Entries::whole);
        anywhere.into_iter().chain(listed.map(|entry| FrameRange::within(entry.base, entry.size)))
    }

    fn read(node: FdtNode<'dtb>, cells: Cells, is_area: bool) -> Result<Self, Reason<'dtb>> {
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
        let within = value(node, "alloc-ranges").map(|bytes| Entries { bytes, cells });
        if within.is_some_and(|entries| !entries.are_whole()) {
            return Err(Reason::Malformed("alloc-ranges"));
        }
        let found = Self { size, align, within };
        let room = |range: FrameRange| {
            let start = u64::from(range.start()) * u64::from(FRAME_SIZE);
            (start + range.bytes()).saturating_sub(start.next_multiple_of(u64::from(align)))
        };
        match found.within().map(room).max().unwrap_or(0) {
            largest if largest < size => Err(Reason::AllocRangesTooSmall { size, largest }),
            _ => Ok(found),
        }
    }
}

impl<'dtb> Region<'dtb> {
    /// Reads a node and tells `say` its faults. Returns `None` if its `status` withdraws it.
    pub(super) fn read(node: FdtNode<'dtb>, parent: Parent<'dtb>, say: &mut dyn FnMut(Reason<'dtb>)) -> Option<Self> {
        let status = Status::of(value(node, "status"));
        if status == Status::Disabled {
            return None;
        }
        let has = |name| value(node, name).is_some();
        let is_pool = strings(value(node, "compatible").unwrap_or_default()).any(|name| name == "shared-dma-pool");
        let (no_map, reusable) = (has("no-map"), has("reusable"));
        let reg = value(node, "reg").map(|bytes| Entries { bytes, cells: parent.cells }.or_by(parent.root));
        let mut region = Self {
            name: node.name(),
            kind: if no_map { RegionKind::Firmware } else { RegionKind::Plain },
            default: false,
            refused: None,
            is_pool,
            dynamic: None,
            reg: reg.unwrap_or_default(),
            ranges: parent.ranges,
            phandle: ["phandle", "linux,phandle"]
                .into_iter()
                .find_map(|name| Some(u32::from_be_bytes(value(node, name)?.try_into().ok()?))),
        };
        let flags = match (is_pool, no_map, reusable) {
            (_, true, true) => Err(Reason::NoMapAndReusable),
            (true, false, false) => Err(Reason::PoolInDirectMap),
            _ => Ok(()),
        };
        let status = if status == Status::Okay || !is_pool { Ok(()) } else { Err(Reason::NotOkay) };
        let place = match reg {
            Some(_) => region.check_reg(is_pool),
            None => Dynamic::read(node, parent.cells, is_pool).map(|dynamic| region.dynamic = Some(dynamic)),
        };
        let sound = if parent.is_sound || (reg.is_some() && !is_pool) { Ok(()) } else { Err(Reason::Parent) };
        match sound.and(flags).and(status).and(place) {
            Ok(()) if is_pool => region.kind = RegionKind::Area { lendable: reusable },
            Ok(()) if reusable => say(Reason::ReusableWithoutPool),
            Ok(()) => {}
            // The parent's fault was reported once. It is no fault of a reservation, which needs neither area nor
            // place.
            Err(Reason::Parent) => region.refuse(Reason::Parent),
            Err(fault) if reg.is_some() && !is_pool => say(fault),
            Err(fault) => {
                say(fault);
                region.refuse(fault);
            }
        }
        if has("linux,cma-default") && region.refused.is_none() {
            region.default = is_pool;
            if !is_pool {
                say(Reason::DefaultIsNoArea);
            }
        }
        Some(region)
    }

    fn refuse(&mut self, why: Reason<'dtb>) {
        self.refused = Some(why);
        self.dynamic = None;
    }

    /// Checks `reg`, and returns the first thing that is wrong with it.
    fn check_reg(&self, is_area: bool) -> Result<(), Reason<'dtb>> {
        if !self.reg.are_whole() {
            return Err(Reason::Malformed("reg"));
        }
        for entry in self.reg.whole() {
            if is_area {
                entry.frames()?;
            } else if entry.size == 0 {
                return Err(Reason::ZeroSize);
            } else if entry.past_four_gib() {
                return Err(Reason::PastFourGib(entry));
            }
        }
        if is_area { self.runs().map(drop) } else { Ok(()) }
    }

    /// Yields every frame that its `reg` touches, as far as that can be read. An address whose size cannot be read
    /// counts as one frame. What lies past 4 GiB is cut off.
    pub fn kept(&self) -> impl Iterator<Item = FrameRange> + use<'dtb> {
        let cut = self.reg.cut().map(|base| ByteRange { base, size: 1 });
        let touched = |entry: ByteRange| FrameRange::covering(entry.base, entry.size);
        let ranges = self.ranges;
        let readings = move |entry: ByteRange| core::iter::once(entry).chain(ranges.of(entry));
        self.reg.whole().chain(cut).flat_map(readings).map(touched).filter(|range| !range.is_empty())
    }

    /// Returns the use that is made of its memory if it is not the area it asks to be.
    pub const fn kind_if_refused(&self) -> RegionKind {
        match self.kind {
            RegionKind::Area { lendable: true } => RegionKind::Plain,
            RegionKind::Area { lendable: false } => RegionKind::Firmware,
            kind => kind,
        }
    }

    /// Returns the runs of an area with a `reg`. Runs that touch are merged. There are none if the place is to be
    /// found.
    pub(crate) fn runs(&self) -> Result<AreaRuns, Reason<'dtb>> {
        let mut runs = AreaRuns::new();
        for range in self.kept() {
            match runs.iter().position(|run| run.end() == range.start() || range.end() == run.start()) {
                Some(at) => {
                    let (start, end) = (runs[at].start().min(range.start()), runs[at].end().max(range.end()));
                    runs[at] = FrameRange::between(start, end).unwrap_or(range);
                }
                None if runs.is_full() => {
                    return Err(Reason::TooMany { what: "ranges in an area", kept: CarveOut::RANGES });
                }
                None => runs.push(range),
            }
        }
        Ok(runs)
    }

    /// Returns whether `phandle` is its own.
    pub fn is_called(&self, phandle: u32) -> bool {
        self.phandle == Some(phandle)
    }
}
