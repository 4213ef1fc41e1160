//! What is asked for: areas, devices, use cases, sets of buffers, and the memory that there is. Pure data.
//!
//! Guarantees: a [`Problem`] that [`input`](crate::input) made names nothing that is not in it. Memory is counted in
//! frames of 4 KiB, by their numbers.

use std::ops::Range;
use std::rc::Rc;

use crate::errors::{Fault, Source};

/// Bytes of a frame.
pub const FRAME: u32 = 4096;
/// Frames of a section, which maps a MiB by one word.
pub const SECTION: u32 = 256;

/// Everything that a plan must respect.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The file of the use cases.
    pub source: Rc<Source>,
    /// Bytes from the start of RAM that are the kernel's.
    pub kernel: u64,
    /// The memory where a new area may lie: RAM that nobody holds, in order.
    pub free: Vec<Range<u32>>,
    /// The areas.
    pub areas: Vec<AreaWish>,
    /// The bus masters.
    pub devices: Vec<Device>,
    /// The use cases.
    pub cases: Vec<UseCase>,
    /// The sets of buffers.
    pub sets: Vec<Set>,
    /// The loans that the system would like.
    pub loans: Vec<Loan>,
}

/// An area that is to be.
#[derive(Clone, Debug)]
pub struct AreaWish {
    /// The region's name without its unit address; `cma` for the default area of the command line.
    pub name: String,
    /// Whether idle frames may be lent.
    pub lendable: bool,
    /// Its runs, if the tree's own place stays. Otherwise a place is to be found.
    pub fixed: Option<Fixed>,
    /// The frames that a place may be found in.
    pub within: Range<u32>,
    /// Where the file names it.
    pub span: Range<usize>,
}

/// An area whose place is the tree's.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// The region's name with its unit address.
    pub node: String,
    /// Its runs of frames.
    pub runs: Vec<Range<u32>>,
}

/// A bus master.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// The path of its node, if the file says.
    pub node: Option<String>,
    /// The area that it allocates from.
    pub area: usize,
    /// The last bus address that it drives.
    pub mask: u32,
    /// Where it sees memory. There is one window at least.
    pub windows: Vec<Window>,
    /// No buffer crosses a multiple of so many bytes on the bus, a power of two.
    pub boundary: Option<u32>,
    /// Where the file names it.
    pub span: Range<usize>,
}

/// A window of a bus: `bytes` from `bus` on are the memory from `phys` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// The first bus address.
    pub bus: u32,
    /// The CPU's address of the same byte.
    pub phys: u32,
    /// Bytes.
    pub bytes: u64,
}

impl Window {
    /// The bus that sees memory where the CPU does.
    pub const IDENTITY: Self = Self { bus: 0, phys: 0, bytes: 1 << 32 };
}

/// A use case.
#[derive(Clone, Debug)]
pub struct UseCase {
    /// Its name.
    pub name: String,
    /// For each use case, whether the two never run together.
    pub excludes: Vec<bool>,
}

/// A set of buffers of one shape.
#[derive(Clone, Debug)]
pub struct Set {
    /// What they are for.
    pub name: String,
    /// Whose they are.
    pub device: usize,
    /// The use cases that have them, in order. They are kept while any of these runs.
    pub cases: Vec<usize>,
    /// How many.
    pub count: u32,
    /// Bytes of each.
    pub bytes: u32,
    /// The bus address of each is a multiple of this, a power of two of a frame or more.
    pub align: u32,
    /// Who writes them and who reads them.
    pub direction: Direction,
    /// Where the file declares them.
    pub span: Range<usize>,
}

/// Who writes a buffer, and who reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The CPU writes, the device reads.
    ToDevice,
    /// The device writes, the CPU reads.
    FromDevice,
    /// Both write and read.
    Both,
    /// Devices alone.
    DeviceOnly,
}

impl Set {
    /// Returns the frames of each buffer.
    pub const fn frames(&self) -> u32 {
        self.bytes.div_ceil(FRAME)
    }

    /// Returns the frames of all its buffers.
    pub const fn total(&self) -> u32 {
        self.frames().saturating_mul(self.count)
    }
}

/// A loan that the system would like to have.
#[derive(Clone, Debug)]
pub struct Loan {
    /// The area that lends.
    pub area: usize,
    /// Whether recalled pages move and keep their contents, or are forgotten.
    pub movable: bool,
    /// The most pages that it takes.
    pub pages: u32,
    /// The pages that must be there for it whatever runs.
    pub least: u32,
    /// Where the file asks for it.
    pub span: Range<usize>,
}

impl Problem {
    /// Returns whether buffers of the two sets may exist at the same time. Buffers of one set do.
    pub fn together(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.sets[a], &self.sets[b]);
        a.cases.iter().any(|&x| b.cases.iter().any(|&y| x == y || !self.cases[x].excludes[y]))
    }

    /// Yields the numbers of the sets whose buffers lie in an area.
    pub fn sets_of(&self, area: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.sets.len()).filter(move |&set| self.devices[self.sets[set].device].area == area)
    }

    /// Returns a fault at a place of the file.
    pub fn fault(&self, span: &Range<usize>, what: impl Into<String>) -> Fault {
        self.source.fault(span.clone(), what)
    }
}

/// Returns bytes as the kernel's reports write them.
pub fn bytes(bytes: u64) -> String {
    carveout::addr::Bytes(bytes).to_string()
}

/// Returns the bytes of so many frames as people write them.
pub fn frames(count: u32) -> String {
    bytes(u64::from(count) * u64::from(FRAME))
}

/// Returns the address of a frame.
pub fn address(frame: u32) -> String {
    format!("{:#010x}", u64::from(frame) * u64::from(FRAME))
}
