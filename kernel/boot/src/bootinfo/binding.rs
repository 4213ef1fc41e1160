//! Which devices name memory of their own.
//!
//! Guarantees: every `memory-region` of the tree is found, at whatever depth, and is reported with the device's whole
//! path. None is kept in a list that could be full.

use core::fmt;

use arrayvec::ArrayVec;
use dtoolkit::Node;
use dtoolkit::fdt::FdtNode;

use super::structure::{Event, Events};
use super::{MAX_DEPTH, RESERVED_MEMORY, Status, base_name, string};

/// The path of a device's node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DevicePath<'dtb>(ArrayVec<&'dtb str, MAX_DEPTH>);

impl<'dtb> DevicePath<'dtb> {
    /// Returns the path of `node`, below `buses` from the root on, or `None` if it has more names than [`MAX_DEPTH`].
    pub fn to(node: &FdtNode<'dtb>, buses: &[FdtNode<'dtb>]) -> Option<Self> {
        let mut path = ArrayVec::new();
        for node in buses.iter().skip(1).chain([node]) {
            path.try_push(node.name()).ok()?;
        }
        Some(Self(path))
    }

    /// Parses a path such as `/soc/codec@10010000`. Returns `None` if `text` does not begin with a slash, or has more
    /// names than [`MAX_DEPTH`].
    pub fn parse(text: &'dtb str) -> Option<Self> {
        let mut path = ArrayVec::new();
        for name in text.strip_prefix('/')?.split('/') {
            path.try_push(name).ok()?;
        }
        Some(Self(path))
    }

    /// Returns the node's own name, with its unit address.
    pub fn name(&self) -> &'dtb str {
        self.0.last().copied().unwrap_or_default()
    }
}

impl fmt::Display for DevicePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

/// A device that names memory of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binding<'dtb> {
    /// The device's path. For a node deeper than [`MAX_DEPTH`] it is the path down to that depth.
    pub device: DevicePath<'dtb>,
    /// Whether the node is deeper than [`MAX_DEPTH`]. No driver finds it then.
    pub too_deep: bool,
    phandles: &'dtb [u8],
}

impl<'dtb> Binding<'dtb> {
    /// Yields the phandles in its `memory-region`.
    pub fn phandles(&self) -> impl Iterator<Item = u32> + use<'dtb> {
        self.phandles.as_chunks().0.iter().copied().map(u32::from_be_bytes)
    }

    /// Returns whether its `memory-region` is phandles and nothing else, at least one.
    pub const fn is_well_formed(&self) -> bool {
        !self.phandles.is_empty() && self.phandles.len().is_multiple_of(4)
    }
}

/// The name of a node that asks to be RAM and is no child of the root.
pub(super) struct MemoryInside<'dtb>(pub(super) &'dtb str);

/// An iterator over all nodes that ask for something, without those of `/reserved-memory`. A node that is not `okay`
/// asks for nothing, and nothing below it does.
#[derive(Clone, Debug)]
pub(super) struct AskingNodes<'dtb> {
    events: Events<'dtb>,
    path: DevicePath<'dtb>,
    depth: usize,
    /// The depth of the node below which nothing counts.
    hidden: Option<usize>,
    /// What was read so far of the node whose properties come now.
    open: Option<Read<'dtb>>,
    /// What is still to be yielded of the node that was just read.
    memory: Option<&'dtb str>,
}

#[derive(Clone, Debug)]
struct Read<'dtb> {
    name: &'dtb str,
    status: Status,
    memory: bool,
    phandles: Option<&'dtb [u8]>,
}

impl<'dtb> AskingNodes<'dtb> {
    pub(super) fn new(dtb: &'dtb [u8]) -> Self {
        let path = DevicePath::default();
        Self { events: Events::new(dtb), path, depth: 0, hidden: None, open: None, memory: None }
    }

    /// Ends a node's properties, which stand before its children. Returns its binding, if it has one.
    fn finish(&mut self) -> Option<Binding<'dtb>> {
        let read = self.open.take()?;
        if self.hidden.is_some() || self.depth < 2 {
            return None;
        }
        if read.status != Status::Okay || (self.depth == 2 && base_name(read.name) == RESERVED_MEMORY) {
            self.hidden = Some(self.depth);
            return None;
        }
        self.memory = (read.memory && self.depth > 2).then_some(read.name);
        let too_deep = self.depth - 1 > MAX_DEPTH;
        Some(Binding { device: self.path.clone(), too_deep, phandles: read.phandles? })
    }
}

impl<'dtb> Iterator for AskingNodes<'dtb> {
    type Item = Result<Binding<'dtb>, MemoryInside<'dtb>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(name) = self.memory.take() {
                return Some(Err(MemoryInside(name)));
            }
            let binding = match self.events.next()? {
                Event::Property(name, value) => {
                    if let Some(read) = &mut self.open {
                        if name.is("status") {
                            read.status = Status::of(Some(value));
                        } else if name.is("device_type") {
                            read.memory = string(value) == Some("memory");
                        } else if name.is("memory-region") {
                            read.phandles = Some(value);
                        }
                    }
                    None
                }
                Event::Begin(name) => {
                    let name = core::str::from_utf8(name).unwrap_or_default();
                    let parent = self.finish();
                    self.depth += 1;
                    if (2..MAX_DEPTH + 2).contains(&self.depth) {
                        self.path.0.push(name);
                    }
                    self.open = Some(Read { name, status: Status::Okay, memory: false, phandles: None });
                    parent
                }
                Event::End => {
                    let node = self.finish();
                    if self.hidden == Some(self.depth) {
                        self.hidden = None;
                    }
                    if (2..MAX_DEPTH + 2).contains(&self.depth) {
                        self.path.0.pop();
                    }
                    self.depth -= 1;
                    node
                }
            };
            if let Some(binding) = binding {
                return Some(Ok(binding));
            }
        }
    }
}
