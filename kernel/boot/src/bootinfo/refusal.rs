//! What the boot can refuse, and the words for it: one line each.

use core::fmt;

use arrayvec::ArrayVec;

use super::{MAX_ALIGNMENT, MAX_BANKS, MAX_REFUSALS};
use crate::bootargs::ArgProblem;
use crate::byte_range::ByteRange;
use carveout::addr::{Bytes, FRAME_SIZE, FrameRange};
use carveout::vm::alias::{Alias, AliasError};

/// Why a device tree cannot be used at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootError {
    /// The tree is shorter than its header, or than its header says.
    Truncated {
        /// Bytes it should have.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The first word is not 0xd00dfeed.
    Magic(u32),
    /// The tree cannot be read as version 17 of the format.
    Version(u32),
    /// The header names a block that is out of bounds or misaligned.
    Header(&'static str),
    /// The structure block ends early or is malformed at this byte of the tree.
    Structure(usize),
    /// No node with `device_type = "memory"` names any memory.
    NoMemory,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("device tree: ")?;
        match *self {
            Self::Truncated { expected, found } => write!(f, "truncated: {found} bytes of {expected}"),
            Self::Magic(word) => write!(f, "no device tree: the first word is {word:#010x}, not 0xd00dfeed"),
            Self::Version(version) => write!(f, "version {version} is not readable as version 17"),
            Self::Header(block) => write!(f, "the {block} block is misaligned or out of bounds"),
            Self::Structure(offset) => write!(f, "corrupt at byte {offset:#x}"),
            Self::NoMemory => f.write_str("no node with device_type \"memory\" names any RAM"),
        }
    }
}

impl core::error::Error for BootError {}

/// What a refusal is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject<'dtb> {
    /// A node, by its name with the unit address.
    Node(&'dtb str),
    /// A child of `/reserved-memory`, by its name.
    Region(&'dtb str),
    /// An argument of the command line, by its text.
    Argument(&'dtb str),
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Node("") => f.write_str("/"),
            Self::Node(name) | Self::Argument(name) => f.write_str(name),
            Self::Region(name) => write!(f, "reserved-memory/{name}"),
        }
    }
}

impl ByteRange {
    /// Returns the range as frames, or the reason why it is not exactly frames.
    pub(crate) fn frames<'dtb>(self) -> Result<FrameRange, Reason<'dtb>> {
        let frame = u64::from(FRAME_SIZE);
        if self.size == 0 {
            Err(Reason::ZeroSize)
        } else if !self.base.is_multiple_of(frame) || !self.size.is_multiple_of(frame) {
            Err(Reason::Unaligned(self))
        } else if self.past_four_gib() {
            Err(Reason::PastFourGib(self))
        } else {
            Ok(FrameRange::within(self.base, self.size))
        }
    }
}

/// Who holds memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder<'dtb> {
    /// The kernel's own image.
    KernelImage,
    /// The device tree.
    DeviceTree,
    /// An entry of the memory reservation block.
    Memreserve,
    /// A child of `/reserved-memory`, by its name.
    Region(&'dtb str),
    /// The initial RAM disk.
    Initrd,
    /// The ELF header of a kernel that crashed.
    Elfcorehdr,
    /// An argument of the command line that withholds RAM, by its text.
    Argument(&'dtb str),
    /// `linux,usable-memory-range`, which does not name the memory.
    UsableRange,
    /// The default area, by the command line.
    CommandLine,
}

impl fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::KernelImage => f.write_str("the kernel image"),
            Self::DeviceTree => f.write_str("the device tree"),
            Self::Memreserve => f.write_str("/memreserve/"),
            Self::Region(name) => write!(f, "reserved-memory/{name}"),
            Self::Initrd => f.write_str("the initrd"),
            Self::Elfcorehdr => f.write_str("linux,elfcorehdr"),
            Self::Argument(text) => f.write_str(text),
            Self::UsableRange => f.write_str("linux,usable-memory-range"),
            Self::CommandLine => f.write_str("cma="),
        }
    }
}

/// A request that was not granted, with the reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal<'dtb> {
    /// Who asked.
    pub subject: Subject<'dtb>,
    /// Why not.
    pub reason: Reason<'dtb>,
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.reason)
    }
}

/// Why something was not granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason<'dtb> {
    /// There are more of these than there is room for. The one refused is the first that has none.
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many are kept.
        kept: usize,
    },
    /// A property's value is not of the form the binding gives it.
    Malformed(&'static str),
    /// A property that must be there is not.
    Missing(&'static str),
    /// `#address-cells` or `#size-cells` of other than 1 or 2.
    Cells,
    /// `ranges` of `/reserved-memory` is missing or translates.
    Ranges,
    /// Memory that is not a child of the root: its address would need translation.
    NotAtRoot,
    /// There are this many RAM banks more than [`MAX_BANKS`]. The one refused is the first of them.
    SpareBanks(usize),
    /// The end of an initrd lies before its start.
    InitrdOrder {
        /// `linux,initrd-start`.
        start: u64,
        /// `linux,initrd-end`.
        end: u64,
    },
    /// A pool whose `status` is neither "okay" nor "disabled".
    NotOkay,
    /// Its parent, `/reserved-memory`, is malformed.
    Parent,
    /// A size of 0.
    ZeroSize,
    /// Neither `reg` nor `size`.
    NoPlace,
    /// An alignment that is not a power of two.
    AlignmentNotPowerOfTwo(u64),
    /// An alignment above [`MAX_ALIGNMENT`].
    AlignmentTooLarge(u64),
    /// A range that does not start and end with a frame.
    Unaligned(ByteRange),
    /// A size that is not a multiple of the frame size.
    UnalignedSize(u64),
    /// A range that does not end below 4 GiB.
    PastFourGib(ByteRange),
    /// No entry of `alloc-ranges` can hold the region.
    AllocRangesTooSmall {
        /// Bytes asked for.
        size: u64,
        /// Bytes from the first aligned frame to the end of the roomiest entry.
        largest: u64,
    },
    /// `no-map` and `reusable` at once.
    NoMapAndReusable,
    /// A `shared-dma-pool` that is neither `no-map` nor `reusable`.
    PoolInDirectMap,
    /// `reusable` without `shared-dma-pool`.
    ReusableWithoutPool,
    /// `linux,cma-default` on a region that is no area.
    DefaultIsNoArea,
    /// Another area is the default already.
    SecondDefault(&'dtb str),
    /// `cma=` decides on the default area.
    DefaultFromCommandLine {
        /// Whether the region names its place, which stays reserved.
        kept: bool,
    },
    /// An alias that cannot be entered.
    Alias(AliasError),
    /// RAM by its second name (I1).
    SecondName(Alias),
    /// A range that is not all RAM.
    OutsideRam(FrameRange),
    /// An area outside RAM that asks to be lent.
    ReusableOutsideRam(FrameRange),
    /// An area outside RAM where a device has its registers, or where memory is mapped as registers are (I1).
    Registers {
        /// What was asked for.
        range: FrameRange,
        /// The device's node.
        node: &'dtb str,
    },
    /// RAM that is to be used and that the tree does not name.
    NotNamed(FrameRange),
    /// Somebody holds part of the range.
    Overlap {
        /// What was asked for.
        range: FrameRange,
        /// Who holds part of it.
        holder: Holder<'dtb>,
        /// The range that the holder has.
        held: FrameRange,
    },
    /// The request is larger than all RAM.
    LargerThanRam {
        /// Bytes asked for.
        size: u64,
        /// Bytes of RAM.
        ram: u64,
    },
    /// No free run where it may lie is large enough.
    NoRun {
        /// Bytes asked for.
        size: u64,
        /// Alignment in bytes.
        align: u64,
        /// Bytes in the largest run, counted from its first aligned frame.
        largest: u64,
    },
    /// An argument that was not understood.
    Argument(ArgProblem<'dtb>),
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooMany { what, kept } => write!(f, "more than {kept} {what} are not supported"),
            Self::Malformed(property) => write!(f, "{property} is malformed"),
            Self::Missing(property) => write!(f, "{property} is missing"),
            Self::Cells => f.write_str("#address-cells and #size-cells must be 1 or 2"),
            Self::Ranges => f.write_str("ranges must be there and empty; its children are kept, and none is an area"),
            Self::NotAtRoot => f.write_str("memory that is not a child of the root is ignored; move it to the root"),
            Self::SpareBanks(more) => {
                write!(f, "more than {MAX_BANKS} RAM banks are not supported; {more} from here on are not used")
            }
            Self::InitrdOrder { start, end } => {
                write!(f, "linux,initrd-end {end:#x} is below linux,initrd-start {start:#x}")
            }
            Self::NotOkay => f.write_str("its status is neither \"okay\" nor \"disabled\": kept reserved, no area"),
            Self::Parent => f.write_str("/reserved-memory is malformed"),
            Self::ZeroSize => f.write_str("size is 0"),
            Self::NoPlace => f.write_str("neither reg nor size"),
            Self::AlignmentNotPowerOfTwo(align) => write!(f, "alignment {align:#x} is not a power of two"),
            Self::AlignmentTooLarge(align) => {
                write!(f, "alignment {} is more than {}", Bytes(align), Bytes(MAX_ALIGNMENT))
            }
            Self::Unaligned(range) => {
                write!(f, "{range} does not start and end at a multiple of {}", Bytes(u64::from(FRAME_SIZE)))
            }
            Self::UnalignedSize(size) => {
                write!(f, "size {size:#x} is not a multiple of {}", Bytes(u64::from(FRAME_SIZE)))
            }
            Self::PastFourGib(range) => write!(f, "{range} is out of reach: past 4 GiB; move it below"),
            Self::AllocRangesTooSmall { size, largest } => {
                write!(f, "alloc-ranges are too small: {} asked for, room for {}", Bytes(size), Bytes(largest))
            }
            Self::NoMapAndReusable => f.write_str("no-map and reusable exclude each other; keep one of them"),
            Self::PoolInDirectMap => f.write_str("a shared-dma-pool must be no-map or reusable"),
            Self::ReusableWithoutPool => {
                f.write_str("reusable without compatible \"shared-dma-pool\": kept reserved, not lent")
            }
            Self::DefaultIsNoArea => f.write_str("linux,cma-default on what is no area is ignored"),
            Self::SecondDefault(first) => {
                write!(f, "linux,cma-default is ignored: reserved-memory/{first} is the default")
            }
            Self::DefaultFromCommandLine { kept: false } => {
                f.write_str("linux,cma-default gives way to cma=; left as ordinary memory")
            }
            Self::DefaultFromCommandLine { kept: true } => {
                f.write_str("linux,cma-default gives way to cma=; kept reserved, no area")
            }
            Self::Alias(error) => error.fmt(f),
            Self::SecondName(alias) => alias.fmt(f),
            Self::OutsideRam(range) => write!(f, "{range} is not all RAM; choose RAM that the tree names"),
            Self::ReusableOutsideRam(range) => {
                write!(f, "{range} is no RAM, so it cannot be reusable: no-map is what fits")
            }
            Self::Registers { range, node } => write!(f, "{range} is no RAM and meets the registers of {node} (I1)"),
            Self::NotNamed(range) => write!(f, "{range} is not RAM that the device tree names; not used"),
            Self::Overlap { range, holder, held } => write!(f, "{range} overlaps {holder} at {held}"),
            Self::LargerThanRam { size, ram } => {
                write!(f, "{} asked for, but all RAM is {}", Bytes(size), Bytes(ram))
            }
            Self::NoRun { size, align, largest } => write!(
                f,
                "no free run of {} aligned to {}; the largest is {}",
                Bytes(size),
                Bytes(align),
                Bytes(largest)
            ),
            Self::Argument(problem) => problem.fmt(f),
        }
    }
}

/// Refusals in the order in which they were found: the first [`MAX_REFUSALS`], and how many more.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Refusals<'dtb> {
    kept: ArrayVec<Refusal<'dtb>, MAX_REFUSALS>,
    more: usize,
}

impl<'dtb> Refusals<'dtb> {
    pub(crate) fn push(&mut self, subject: Subject<'dtb>, reason: Reason<'dtb>) {
        if self.kept.try_push(Refusal { subject, reason }).is_err() {
            self.more += 1;
        }
    }

    /// Yields the refusals that were kept.
    pub fn iter(&self) -> impl Iterator<Item = &Refusal<'dtb>> {
        self.kept.iter()
    }

    /// Returns how many were not kept.
    pub const fn more(&self) -> usize {
        self.more
    }
}
