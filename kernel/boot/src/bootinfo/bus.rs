//! The CPU's addresses of a node's registers.
//!
//! Guarantees: addresses are translated through every `ranges` between a node and the root. A node that is not `okay`,
//! or lies below one that is not, is not visited.

use arrayvec::ArrayVec;
use dtoolkit::fdt::FdtNode;
use dtoolkit::standard::Reg;
use dtoolkit::{Node, Property};

use super::structure::{Event, Events};
use super::{BootInfo, MAX_DEPTH, Status, is_available};

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

/// Visits those nodes that [`walk`] visits and that have a property `name` whose value passes `test`. Only these nodes
/// are looked up, so this costs a small part of a walk.
pub fn walk_where<'dtb>(info: &BootInfo<'dtb>, name: &str, test: &dyn Fn(&[u8]) -> bool, visit: Visit<'_, 'dtb>) {
    walk_tree_where(info.dtb(), info.root(), name, test, visit);
}

/// Does so before there is a [`BootInfo`].
pub(super) fn walk_tree_where<'dtb>(
    dtb: &'dtb [u8],
    root: FdtNode<'dtb>,
    name: &str,
    test: &dyn Fn(&[u8]) -> bool,
    visit: Visit<'_, 'dtb>,
) {
    /// A node whose properties come now.
    struct Open {
        okay: Option<bool>,
        passes: Option<bool>,
    }
    // The number of each node among its siblings, from the root down to the node that began last.
    let mut path = ArrayVec::<usize, { MAX_DEPTH + 1 }>::new();
    let (mut depth, mut next, mut hidden, mut open) = (0, 0, None, None::<Open>);
    let mut finish = |open: &mut Option<Open>, path: &[usize], depth: usize, hidden: &mut Option<usize>| {
        let Some(open) = open.take() else { return };
        if hidden.is_none() && depth > 1 && open.okay == Some(false) {
            *hidden = Some(depth);
        }
        if hidden.is_some() || open.passes != Some(true) || !(2..MAX_DEPTH + 2).contains(&depth) {
            return;
        }
        let mut buses = Buses::new();
        let mut node = root;
        for &number in &path[1..] {
            let Some(child) = node.children().nth(number) else { return };
            buses.push(node);
            node = child;
        }
        visit(&node, &buses);
    };
    for event in Events::new(dtb) {
        match event {
            Event::Property(property, value) => {
                let Some(open) = &mut open else { continue };
                if property.is("status") {
                    open.okay.get_or_insert(Status::of(Some(value)) == Status::Okay);
                } else if property.is(name) {
                    open.passes.get_or_insert_with(|| test(value));
                }
            }
            Event::Begin(_) => {
                finish(&mut open, &path, depth, &mut hidden);
                depth += 1;
                let _ = path.try_push(next);
                next = 0;
                open = Some(Open { okay: None, passes: None });
            }
            Event::End => {
                finish(&mut open, &path, depth, &mut hidden);
                if hidden == Some(depth) {
                    hidden = None;
                }
                if depth == path.len() {
                    next = path.pop().map_or(0, |number| number + 1);
                }
                depth -= 1;
            }
        }
    }
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
