//! Devices as the device tree names them: by `compatible`, with their registers as the CPU addresses them.
//!
//! Guarantees: addresses are translated through every `ranges` between a node and the root; a node that is not
//! `okay`, or whose registers the CPU cannot reach, is not found.

use arrayvec::ArrayVec;
use carveout::addr::PhysAddr;
use carveout::boot::bootinfo::{BootInfo, MAX_DEPTH};
use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};

/// Register blocks of a device that are kept.
pub const MAX_BLOCKS: usize = 2;

/// A block of registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// First byte.
    pub at: PhysAddr,
    /// Bytes.
    pub bytes: u32,
}

/// A device of the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found<'dtb> {
    /// Its node's name, with the unit address.
    pub name: &'dtb str,
    /// Its register blocks, in the order of `reg`.
    pub blocks: ArrayVec<Block, MAX_BLOCKS>,
    /// The first shared peripheral interrupt of `interrupts`, in the GIC's three cells.
    pub spi: Option<u16>,
}

/// The first device that is `compatible`.
pub fn find<'dtb>(info: &BootInfo<'dtb>, compatible: &str) -> Option<Found<'dtb>> {
    let mut found = None;
    find_all(info, compatible, |device| {
        found.get_or_insert(device);
    });
    found
}

/// Every device that is `compatible`, in the tree's order.
pub fn find_all<'dtb>(info: &BootInfo<'dtb>, compatible: &str, mut each: impl FnMut(Found<'dtb>)) {
    let mut buses = ArrayVec::new();
    walk(info.root(), &mut buses, compatible, &mut each);
}

fn walk<'dtb>(
    bus: FdtNode<'dtb>,
    buses: &mut ArrayVec<FdtNode<'dtb>, MAX_DEPTH>,
    compatible: &str,
    each: &mut dyn FnMut(Found<'dtb>),
) {
    if buses.try_push(bus).is_err() {
        return;
    }
    for node in bus.children() {
        if !is_okay(&node) {
            continue;
        }
        if node.compatible().is_some_and(|mut all| all.any(|one| one == compatible)) {
            let blocks = blocks(&node, buses);
            let without_reg = node.property("reg").is_none();
            if without_reg || !blocks.is_empty() {
                each(Found { name: node.name(), blocks, spi: spi(&node) });
            }
        }
        walk(node, buses, compatible, each);
    }
    buses.pop();
}

fn is_okay(node: &FdtNode<'_>) -> bool {
    node.property("status").is_none_or(|status| matches!(status.value_as::<&str>(), Ok("okay" | "ok")))
}

fn blocks(node: &FdtNode<'_>, buses: &[FdtNode<'_>]) -> ArrayVec<Block, MAX_BLOCKS> {
    let Ok(Some(reg)) = node.reg() else { return ArrayVec::new() };
    let block = |reg: dtoolkit::standard::Reg<'_>| {
        let (at, bytes) = (reg.address::<u64>().ok()?, reg.size::<u64>().ok()?);
        let at = translate(at, bytes, buses)?;
        Some(Block { at: PhysAddr::new(u32::try_from(at).ok()?), bytes: u32::try_from(bytes).ok()? })
    };
    reg.map_while(block).take(MAX_BLOCKS).collect()
}

/// Where the CPU sees what the innermost bus calls `at`. The root has no `ranges`: its addresses are the CPU's.
fn translate(mut at: u64, bytes: u64, buses: &[FdtNode<'_>]) -> Option<u64> {
    for bus in buses.iter().skip(1).rev() {
        let ranges = bus.property("ranges")?;
        if ranges.value().is_empty() {
            continue;
        }
        at = bus.ranges().ok()??.find_map(|range| {
            let child = range.child_bus_address::<u64>().ok()?;
            let parent = range.parent_bus_address::<u64>().ok()?;
            let length = range.length::<u64>().ok()?;
            let offset = at.checked_sub(child)?;
            (offset.checked_add(bytes)? <= length).then(|| parent.checked_add(offset))?
        })?;
    }
    Some(at)
}

fn spi(node: &FdtNode<'_>) -> Option<u16> {
    let interrupts = node.property("interrupts")?;
    let cell = |n: usize| {
        let word = interrupts.value().get(4 * n..4 * n + 4)?;
        Some(u32::from_be_bytes(word.try_into().ok()?))
    };
    (cell(0)? == 0).then(|| u16::try_from(cell(1)?).ok())?
}
