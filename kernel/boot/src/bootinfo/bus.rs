//! The CPU's addresses of a node's registers.
//!
//! Guarantees: addresses are translated through every `ranges` between a node and the root. A node that is not `okay`,
//! or lies below one that is not, is not visited.

use arrayvec::ArrayVec;
use dtoolkit::fdt::FdtNode;
use dtoolkit::standard::Reg;
use dtoolkit::{Node, Property};

use super::{MAX_DEPTH, is_available};

/// The buses from the root down to a node, the root first.
pub type Buses<'dtb> = ArrayVec<FdtNode<'dtb>, MAX_DEPTH>;

/// A function that takes a node, and the buses from the root down to it.
pub type Visit<'v, 'dtb> = &'v mut dyn FnMut(&FdtNode<'dtb>, &[FdtNode<'dtb>]);

/// Visits every node below `root` that is `okay`, down to [`MAX_DEPTH`].
pub fn walk<'dtb>(root: FdtNode<'dtb>, visit: Visit<'_, 'dtb>) {
    visit_below(root, &mut Buses::new(), visit);
}

fn visit_below<'dtb>(bus: FdtNode<'dtb>, buses: &mut Buses<'dtb>, visit: Visit<'_, 'dtb>) {
    if buses.try_push(bus).is_err() {
        return;
    }
    for node in bus.children().filter(|&node| is_available(node)) {
        visit(&node, buses);
        visit_below(node, buses, visit);
    }
    buses.pop();
}

/// Yields the blocks of a node's `reg` in order, each as address and size for the CPU, up to the first that the CPU
/// cannot reach.
pub fn blocks<'dtb>(node: &FdtNode<'dtb>, buses: &[FdtNode<'dtb>]) -> impl Iterator<Item = (u32, u32)> {
    let reg = node.reg().ok().flatten();
    let block = move |reg: Reg<'_>| {
        let (at, bytes) = (reg.address::<u64>().ok()?, reg.size::<u64>().ok()?);
        let at = translate(at, bytes, buses)?;
        Some((u32::try_from(at).ok()?, u32::try_from(bytes).ok()?))
    };
    reg.into_iter().flatten().map_while(block)
}

/// Returns where the CPU sees what the innermost bus calls `at`. The root has no `ranges`: its addresses are the CPU's.
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
