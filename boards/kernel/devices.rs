//! Finds devices in the device tree by `compatible`, with their registers at the addresses that the CPU uses.
//!
//! Guarantees: a register's address is translated through every `ranges` between its node and the root. An address that
//! a device uses is translated through every `dma-ranges`. A node that is not `okay`, or whose registers the CPU cannot
//! reach, is not found.

use crate::drivers::intc::irq::IrqId;
use crate::drivers::smp::psci::Conduit;
use arrayvec::ArrayVec;
use carveout::addr::{BusAddr, PhysAddr};
use carveout::dma::{Aperture, MAX_APERTURES};
use carveout_boot::bootinfo::{BootInfo, DevicePath, bus};
use core::fmt;
use dtoolkit::fdt::FdtNode;
use dtoolkit::standard::{NodeStandard, Range};
use dtoolkit::{Node, Property};

/// The most register blocks that are kept of a device.
pub const MAX_BLOCKS: usize = 2;

/// The most cores that are kept of a tree.
pub const MAX_CPUS: usize = 8;

/// The most interrupts that are kept of a device.
const MAX_IRQS: usize = 4;

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
    /// Its node's path.
    pub path: DevicePath<'dtb>,
    /// Its register blocks, in the order of `reg`.
    pub blocks: ArrayVec<Block, MAX_BLOCKS>,
    /// The first of its `interrupts`, each in as many cells as their controller takes.
    pub irqs: ArrayVec<IrqId, MAX_IRQS>,
    /// The rate of the first of its `clocks`, if that is a fixed one.
    pub hertz: Option<u32>,
    /// `reg-shift`, if the node has it.
    pub reg_shift: Option<u32>,
    /// `reg-io-width`, in bytes, if the node has it.
    pub reg_io_width: Option<u32>,
}

/// How a core waits to be started, as its node or `/cpus` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pen<'dtb> {
    /// No `enable-method`: the board's registers start the core.
    Board,
    /// `spin-table`: the core polls the word at `cpu-release-addr` until this word holds the address to run at.
    SpinTable(PhysAddr),
    /// `spin-table`, but `cpu-release-addr` is missing, at 4 GiB or above, or not a multiple of 4.
    NoAddress,
    /// `psci`: the firmware starts it, called as `/psci` says.
    Psci(Conduit),
    /// Another method, or `psci` of before version 0.2. It is not supported.
    Unknown(&'dtb str),
}

/// A core of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu<'dtb> {
    /// Its node's name.
    pub name: &'dtb str,
    /// `reg`: the affinity bits of its MPIDR.
    pub reg: u32,
    /// Where it waits.
    pub pen: Pen<'dtb>,
}

/// Returns the cores of `/cpus` in the tree's order, [`MAX_CPUS`] at most.
pub fn cpus<'dtb>(info: &BootInfo<'dtb>) -> ArrayVec<Cpu<'dtb>, MAX_CPUS> {
    let Some(cpus) = info.root().children().find(|node| node.name() == "cpus") else { return ArrayVec::new() };
    let text = |node: &FdtNode<'dtb>, name| node.property(name)?.value_as::<&'dtb str>().ok();
    let cpu = |node: FdtNode<'dtb>| {
        (text(&node, "device_type") == Some("cpu") && is_okay(&node)).then_some(())?;
        let pen = match text(&node, "enable-method").or_else(|| text(&cpus, "enable-method")) {
            None => Pen::Board,
            // Two cells, whatever the bus (Devicetree Specification 0.4, 3.8.1).
            Some("spin-table") => match (cell(&node, "cpu-release-addr", 0), cell(&node, "cpu-release-addr", 1)) {
                (Some(0), Some(at)) if at.is_multiple_of(4) => Pen::SpinTable(PhysAddr::new(at)),
                _ => Pen::NoAddress,
            },
            Some("psci") => conduit(info).map_or(Pen::Unknown("psci"), Pen::Psci),
            Some(other) => Pen::Unknown(other),
        };
        Some(Cpu { name: node.name(), reg: cell(&node, "reg", 0)?, pen })
    };
    cpus.children().filter_map(cpu).take(MAX_CPUS).collect()
}

/// Returns how the firmware is called that starts cores.
fn conduit(info: &BootInfo<'_>) -> Option<Conduit> {
    let psci = info.root().children().find(|node| node.name() == "psci")?;
    let is_known = |name: &str| name == "arm,psci-0.2" || name == "arm,psci-1.0";
    psci.compatible()?.any(is_known).then(|| Conduit::named(psci.property("method")?.value_as::<&str>().ok()?))?
}

/// Returns the first device that is `compatible`.
pub fn find<'dtb>(info: &BootInfo<'dtb>, compatible: &str) -> Option<Found<'dtb>> {
    let [found] = find_each(info, [compatible]);
    found
}

/// Returns for each of the names the first device that is compatible with it.
pub fn find_each<'dtb, const N: usize>(info: &BootInfo<'dtb>, names: [&str; N]) -> [Option<Found<'dtb>>; N] {
    let mut all = [const { None }; N];
    each_compatible(info, &names, &mut |name, node, buses| {
        if all[name].is_none() {
            all[name] = device(info, node, buses);
        }
    });
    all
}

/// Calls `each` with every device that is `compatible`, in the tree's order.
pub fn find_all<'dtb>(info: &BootInfo<'dtb>, compatible: &str, mut each: impl FnMut(Found<'dtb>)) {
    each_compatible(info, &[compatible], &mut |_, node, buses| {
        if let Some(found) = device(info, node, buses) {
            each(found);
        }
    });
}

/// Returns a device that is compatible with one of the names, and the place of that name. The device at `path` is
/// preferred. Otherwise an earlier name is preferred, and of one name the first device in the tree.
pub fn find_preferred<'dtb>(
    info: &BootInfo<'dtb>,
    names: &[&str],
    path: Option<&DevicePath<'_>>,
) -> Option<(usize, Found<'dtb>)> {
    let mut best: Option<((bool, usize), FdtNode<'dtb>, bus::Buses<'dtb>)> = None;
    each_compatible(info, names, &mut |name, node, buses| {
        let rank = (path.is_none() || DevicePath::to(node, buses).as_ref() != path, name);
        if best.as_ref().is_none_or(|(other, ..)| rank < *other) && blocks(node, buses).is_some() {
            best = Some((rank, *node, buses.iter().copied().collect()));
        }
    });
    let ((_, name), node, buses) = best?;
    Some((name, device(info, &node, &buses)?))
}

/// A function that takes the place of a name, a node that is compatible with it, and the buses above the node.
type VisitNamed<'v, 'dtb> = &'v mut dyn FnMut(usize, &FdtNode<'dtb>, &[FdtNode<'dtb>]);

fn each_compatible<'dtb>(info: &BootInfo<'dtb>, names: &[&str], visit: VisitNamed<'_, 'dtb>) {
    let is_named = |one: &[u8]| names.iter().any(|name| name.as_bytes() == one);
    let may_be = |value: &[u8]| value.split(|&byte| byte == 0).any(is_named);
    bus::walk_where(info, "compatible", &may_be, &mut |node, buses| {
        for (n, name) in names.iter().enumerate() {
            if node.compatible().is_some_and(|mut all| all.any(|one| one == *name)) {
                visit(n, node, buses);
            }
        }
    });
}

/// Returns the registers of a device, or `None` if the CPU cannot reach them.
fn blocks<'dtb>(node: &FdtNode<'dtb>, buses: &[FdtNode<'dtb>]) -> Option<ArrayVec<Block, MAX_BLOCKS>> {
    let all = bus::blocks(node, buses).map(|(at, bytes)| Block { at: PhysAddr::new(at), bytes });
    let blocks: ArrayVec<_, MAX_BLOCKS> = all.take(MAX_BLOCKS).collect();
    (!blocks.is_empty() || node.property("reg").is_none()).then_some(blocks)
}

/// Returns what the tree says of a device, or `None` if the CPU cannot reach its registers.
fn device<'dtb>(info: &BootInfo<'dtb>, node: &FdtNode<'dtb>, buses: &[FdtNode<'dtb>]) -> Option<Found<'dtb>> {
    let blocks = blocks(node, buses)?;
    Some(Found {
        name: node.name(),
        path: DevicePath::to(node, buses).unwrap_or_default(),
        blocks,
        irqs: irqs(info, node, buses).unwrap_or_default(),
        hertz: hertz(info, node),
        reg_shift: cell(node, "reg-shift", 0),
        reg_io_width: cell(node, "reg-io-width", 0),
    })
}

/// Why the addresses at which a device sees memory are unknown. The device must be taken to see no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangesError<'dtb> {
    /// The bus's `dma-ranges` is not a whole number of entries.
    Malformed(&'dtb str),
    /// No entry of the bus's `dma-ranges` is an aperture below 4 GiB on both sides, or no entry passes an aperture of
    /// the bus below it.
    NoAperture(&'dtb str),
    /// The bus's `dma-ranges` has more apertures than are kept.
    TooMany(&'dtb str),
}

impl fmt::Display for RangesError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(bus) => write!(f, "dma-ranges of {bus} is not a whole number of entries"),
            Self::NoAperture(bus) => {
                write!(f, "dma-ranges of {bus} has no aperture below 4 GiB that goes on to memory")
            }
            Self::TooMany(bus) => write!(f, "dma-ranges of {bus} has more than {MAX_APERTURES} apertures"),
        }
    }
}

impl core::error::Error for RangesError<'_> {}

type Apertures = ArrayVec<Aperture, MAX_APERTURES>;

/// Returns where the device at that path sees memory: all `dma-ranges` above it, composed. Returns `None` if none of
/// these has entries. Then the device sees memory where the CPU does. Memory that one bus does not pass to the next is
/// left out.
///
/// # Errors
///
/// [`RangesError::Malformed`] if an entry cannot be read. [`RangesError::NoAperture`] if nothing is left of a bus's
/// apertures. [`RangesError::TooMany`] if a bus has more than [`MAX_APERTURES`]. An unreadable constraint is always an
/// error.
pub fn bus_apertures<'dtb>(
    info: &BootInfo<'dtb>,
    path: &DevicePath<'_>,
) -> Result<Option<Apertures>, RangesError<'dtb>> {
    let mut apertures = Ok(None);
    bus::walk(info.root(), &mut |node, buses| {
        if DevicePath::to(node, buses).as_ref() == Some(path) {
            apertures = apertures_through(buses);
        }
    });
    apertures
}

fn apertures_through<'dtb>(buses: &[FdtNode<'dtb>]) -> Result<Option<Apertures>, RangesError<'dtb>> {
    let mut through: Option<Apertures> = None;
    for (above, bus) in buses.iter().zip(buses.iter().skip(1)).rev() {
        if bus.property("dma-ranges").is_none_or(|property| property.value().is_empty()) {
            continue;
        }
        let cells = bus.address_cells().is_ok() && bus.size_cells().is_ok() && above.address_cells().is_ok();
        let ranges = bus.dma_ranges().ok().flatten().filter(|_| cells).ok_or(RangesError::Malformed(bus.name()))?;
        let mut passed = Apertures::new();
        for aperture in ranges.filter_map(aperture_of) {
            passed.try_push(aperture).map_err(|_| RangesError::TooMany(bus.name()))?;
        }
        let apertures = match &mut through {
            None => through.insert(passed),
            Some(apertures) => {
                // Addresses that leave the inner bus enter this one.
                apertures.retain(|aperture| {
                    let (at, bytes) = (u64::from(aperture.phys.raw()), aperture.bytes);
                    let onward = passed.iter().find_map(|outer| {
                        let offset = at.checked_sub(outer.bus.raw().into())?;
                        (offset.checked_add(bytes)? <= outer.bytes).then(|| outer.phys.checked_add(offset as u32))?
                    });
                    aperture.phys = onward.unwrap_or(aperture.phys);
                    onward.is_some()
                });
                apertures
            }
        };
        if apertures.is_empty() {
            return Err(RangesError::NoAperture(bus.name()));
        }
    }
    Ok(through)
}

#[expect(clippy::needless_pass_by_value, reason = "passed to filter_map")]
fn aperture_of(range: Range<'_>) -> Option<Aperture> {
    let bus = u32::try_from(range.child_bus_address::<u64>().ok()?).ok()?;
    let phys = u32::try_from(range.parent_bus_address::<u64>().ok()?).ok()?;
    let bytes = range.length::<u64>().ok()?;
    Some(Aperture { bus: BusAddr::new(bus), phys: PhysAddr::new(phys), bytes })
}

fn is_okay(node: &FdtNode<'_>) -> bool {
    node.property("status").is_none_or(|status| matches!(status.value_as::<&str>(), Ok("okay" | "ok")))
}

fn cell(node: &FdtNode<'_>, property: &str, n: usize) -> Option<u32> {
    let property = node.property(property)?;
    let word = property.value().get(4 * n..4 * n + 4)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}

/// Returns the path that `/chosen/stdout-path` names. The UART's settings after a colon are left out. A text that does
/// not start with a slash is the name of an alias.
pub fn stdout_path<'dtb>(info: &BootInfo<'dtb>) -> Option<DevicePath<'dtb>> {
    let root = info.root();
    let text = |node: &str, property: &str| -> Option<&'dtb str> {
        let node = root.children().find(|child| child.name() == node)?;
        node.property(property)?.value_as::<&'dtb str>().ok()
    };
    let path = text("chosen", "stdout-path")?;
    let path = path.split(':').next()?;
    DevicePath::parse(if path.starts_with('/') { path } else { text("aliases", path)? })
}

/// The most cells of an interrupt specifier.
const MAX_SPECIFIER: usize = 3;

/// Returns the first interrupts of the node, at the controller that the node or the nearest bus above it names.
fn irqs(info: &BootInfo<'_>, node: &FdtNode<'_>, buses: &[FdtNode<'_>]) -> Option<ArrayVec<IrqId, MAX_IRQS>> {
    let property = node.property("interrupts")?;
    let named = core::iter::once(node).chain(buses.iter().rev());
    let phandle = named.into_iter().find_map(|node| cell(node, "interrupt-parent", 0))?;
    let width = cell_at(info, phandle, "#interrupt-cells");
    let width = usize::try_from(width?).ok().filter(|&width| width <= MAX_SPECIFIER)?;
    let specifier = |bytes: &[u8]| {
        let words = bytes.as_chunks().0.iter();
        let cells: ArrayVec<u32, MAX_SPECIFIER> = words.map(|&word| u32::from_be_bytes(word)).collect();
        // A specifier of another length belongs to an `interrupt-map`, which is not followed.
        IrqId::from_specifier(&cells)
    };
    let whole = (width > 0).then(|| property.value().chunks_exact(4 * width))?;
    Some(whole.take(MAX_IRQS).map_while(specifier).collect())
}

fn hertz(info: &BootInfo<'_>, node: &FdtNode<'_>) -> Option<u32> {
    cell_at(info, cell(node, "clocks", 0)?, "clock-frequency")
}

/// Returns the first cell of a property of the node that has this phandle. If several nodes have it, the last one
/// counts.
fn cell_at(info: &BootInfo<'_>, phandle: u32, property: &str) -> Option<u32> {
    let mut found = None;
    let is_it = |value: &[u8]| value.starts_with(&phandle.to_be_bytes());
    bus::walk_where(info, "phandle", &is_it, &mut |node, _| found = cell(node, property, 0));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtoolkit::fdt::Fdt;
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn cells(values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_be_bytes()).collect()
    }

    fn node(name: &str, properties: &[(&str, Vec<u8>)]) -> DeviceTreeNode {
        let build = |node: DeviceTreeNode, (name, value): &(&str, Vec<u8>)| {
            let mut node = node;
            node.add_property(DeviceTreeProperty::new(*name, value.clone()).unwrap());
            node
        };
        properties.iter().fold(DeviceTreeNode::new(name).unwrap(), build)
    }

    /// A device behind two buses, each of which shifts registers up and memory down.
    fn tree() -> Vec<u8> {
        let one = || cells(&[1]);
        let shape =
            |more: &[(&'static str, Vec<u8>)]| [&[("#address-cells", one()), ("#size-cells", one())], more].concat();
        let mut tree = DeviceTree::new();
        for (name, value) in shape(&[("compatible", b"test\0".to_vec())]) {
            tree.root.add_property(DeviceTreeProperty::new(name, value).unwrap());
        }
        let memory = [("device_type", b"memory\0".to_vec()), ("reg", cells(&[0x4000_0000, 0x1000_0000]))];
        tree.root.add_child(node("memory@40000000", &memory));
        let text = |text: &str| [text.as_bytes(), b"\0"].concat();
        tree.root.add_child(node("aliases", &[("serial0", text("/soc/apb/device@1000"))]));
        tree.root.add_child(node("chosen", &[("stdout-path", text("serial0:115200n8"))]));
        let controller = [("phandle", cells(&[9])), ("#interrupt-cells", cells(&[3]))];
        tree.root.add_child(node("interrupt-controller", &controller));
        let clock = [("phandle", cells(&[7])), ("clock-frequency", cells(&[24_000_000]))];
        tree.root.add_child(node("clock", &clock));
        let ranges = |child: u32, parent: u32| cells(&[child, parent, 0x0100_0000]);
        let mut outer = node(
            "soc",
            &shape(&[
                ("ranges", ranges(0, 0x1000_0000)),
                ("interrupt-parent", cells(&[9])),
                ("dma-ranges", cells(&[0x8000_0000, 0x4000_0000, 0x1000_0000])),
            ]),
        );
        let mut inner = node(
            "apb",
            &shape(&[
                ("ranges", ranges(0, 0x0080_0000)),
                ("dma-ranges", cells(&[0, 0x8100_0000, 0x0200_0000, 0xc000_0000, 0x7000_0000, 0x1000])),
            ]),
        );
        let device = [
            ("compatible", b"test,device\0".to_vec()),
            ("reg", cells(&[0x1000, 0x100])),
            ("interrupts", cells(&[0, 41, 4])),
            ("clocks", cells(&[7])),
            ("reg-shift", cells(&[2])),
            ("reg-io-width", cells(&[4])),
        ];
        inner.add_child(node("device@1000", &device));
        let off = [&device[..], &[("status", b"disabled\0".to_vec())]].concat();
        inner.add_child(node("device@2000", &off));
        let far = [("compatible", b"test,device\0".to_vec()), ("reg", cells(&[0x0200_0000, 0x100]))];
        inner.add_child(node("device@2000000", &far));
        outer.add_child(inner);
        tree.root.add_child(outer);
        tree.to_dtb()
    }

    #[test]
    fn registers_go_through_every_bus() {
        let tree = tree();
        assert!(Fdt::new(&tree).is_ok());
        let info = BootInfo::parse(&tree).unwrap();
        let mut all = Vec::new();
        find_all(&info, "test,device", |found| all.push(found));
        let block = Block { at: PhysAddr::new(0x1080_1000), bytes: 0x100 };
        let found = Found {
            name: "device@1000",
            path: DevicePath::parse("/soc/apb/device@1000").unwrap(),
            blocks: core::iter::once(block).collect(),
            irqs: IrqId::shared(41).into_iter().collect(),
            hertz: Some(24_000_000),
            reg_shift: Some(2),
            reg_io_width: Some(4),
        };
        assert_eq!(all, [found], "neither what is disabled nor what no bus reaches");
    }

    /// Makes [`tree`] with another value for one property of its device, and with the console named by its path.
    fn device_with(property: &'static str, value: Vec<u8>) -> Vec<u8> {
        let blob = tree();
        let mut tree = DeviceTree::from_fdt(&Fdt::new(&blob).unwrap());
        let device = tree.find_node_mut("/soc/apb/device@1000").unwrap();
        device.add_property(DeviceTreeProperty::new(property, value).unwrap());
        let chosen = tree.find_node_mut("/chosen").unwrap();
        let path = b"/soc/apb/device@1000:9600\0".to_vec();
        chosen.add_property(DeviceTreeProperty::new("stdout-path", path).unwrap());
        tree.to_dtb()
    }

    #[test]
    fn the_console_is_named_by_path_or_alias() {
        let stdout = |tree: &[u8]| {
            let info = BootInfo::parse(tree).unwrap();
            find(&info, "test,device").map(|found| found.path) == stdout_path(&info)
        };
        assert!(stdout(&tree()));
        assert!(stdout(&device_with("status", b"okay\0".to_vec())));
    }

    #[test]
    fn an_interrupt_has_as_many_cells_as_its_controller_takes() {
        let irqs = |value: &[u32]| {
            let tree = device_with("interrupts", cells(value));
            find(&BootInfo::parse(&tree).unwrap(), "test,device").unwrap().irqs.to_vec()
        };
        let [first, second] = [41, 42].map(|n| IrqId::shared(n).unwrap());
        assert_eq!(irqs(&[0, 41, 4, 0, 42, 4]), [first, second]);
        assert_eq!(irqs(&[0, 41, 4, 0, 42]), [first], "the second lacks a cell");
        assert_eq!(irqs(&[0, 41, 4].repeat(5)), [first; MAX_IRQS]);
        assert_eq!(irqs(&[5]), [], "one cell is for an interrupt-map");
        assert_eq!(irqs(&[]), []);
        let tree = device_with("interrupt-parent", cells(&[7]));
        assert_eq!(
            find(&BootInfo::parse(&tree).unwrap(), "test,device").unwrap().irqs.to_vec(),
            [],
            "a clock is no controller"
        );
    }

    #[test]
    fn cores_say_where_they_wait() {
        let mut tree = DeviceTree::new();
        let shape = [("#address-cells", cells(&[1])), ("#size-cells", cells(&[1])), ("compatible", b"test\0".to_vec())];
        for (name, value) in shape {
            tree.root.add_property(DeviceTreeProperty::new(name, value).unwrap());
        }
        let memory = [("device_type", b"memory\0".to_vec()), ("reg", cells(&[0x4000_0000, 0x1000_0000]))];
        tree.root.add_child(node("memory@40000000", &memory));
        let mut cpus = node("cpus", &[("#address-cells", cells(&[1])), ("#size-cells", cells(&[0]))]);
        let method = |name: &str| ("enable-method", name.bytes().chain([0]).collect());
        let at = |cells_: &[u32]| ("cpu-release-addr", cells(cells_));
        let mut add = |name: &str, reg: u32, more: &[(&'static str, Vec<u8>)]| {
            let own = [("device_type", b"cpu\0".to_vec()), ("reg", cells(&[reg]))];
            cpus.add_child(node(name, &[&own, more].concat()));
        };
        add("cpu@0", 0, &[]);
        add("cpu@1", 1, &[method("spin-table"), at(&[0, 0x4fff_fff8])]);
        add("cpu@2", 2, &[method("spin-table")]);
        add("cpu@3", 3, &[method("spin-table"), at(&[1, 0])]);
        add("cpu@4", 4, &[method("psci")]);
        add("cpu@5", 5, &[("status", b"disabled\0".to_vec())]);
        add("cpu@6", 6, &[method("spin-table"), at(&[0, 0x4fff_fffa])]);
        cpus.add_child(node("cpu-map", &[]));
        tree.root.add_child(cpus);
        let tree = tree.to_dtb();
        let info = BootInfo::parse(&tree).unwrap();
        let cores = self::cpus(&info);
        let found: Vec<_> = cores.iter().map(|cpu| (cpu.reg, cpu.pen)).collect();
        let release = Pen::SpinTable(PhysAddr::new(0x4fff_fff8));
        let (board, none, psci) = (Pen::Board, Pen::NoAddress, Pen::Unknown("psci"));
        assert_eq!(found, [(0, board), (1, release), (2, none), (3, none), (4, psci), (6, none)]);
        assert_eq!(cores[1].name, "cpu@1");
    }

    #[test]
    fn the_firmware_is_called_as_its_node_says() {
        let pen = |compatible: &str, method: &str| {
            let text = |text: &str| [text.as_bytes(), b"\0"].concat();
            let mut tree = DeviceTree::new();
            for name in ["#address-cells", "#size-cells"] {
                tree.root.add_property(DeviceTreeProperty::new(name, cells(&[1])).unwrap());
            }
            let memory = [("device_type", text("memory")), ("reg", cells(&[0x4000_0000, 0x1000_0000]))];
            tree.root.add_child(node("memory@40000000", &memory));
            tree.root.add_child(node("psci", &[("compatible", text(compatible)), ("method", text(method))]));
            let mut cpus = node("cpus", &[("#address-cells", cells(&[1])), ("#size-cells", cells(&[0]))]);
            let cpu = [("device_type", text("cpu")), ("reg", cells(&[1])), ("enable-method", text("psci"))];
            cpus.add_child(node("cpu@1", &cpu));
            tree.root.add_child(cpus);
            let tree = tree.to_dtb();
            let info = BootInfo::parse(&tree).unwrap();
            let pen = self::cpus(&info)[0].pen;
            std::format!("{pen:?}")
        };
        assert_eq!(pen("arm,psci-0.2", "smc"), "Psci(Smc)");
        assert_eq!(pen("arm,psci-1.0", "hvc"), "Psci(Hvc)");
        // Before 0.2 the tree names the calls by numbers of its own.
        assert_eq!(pen("arm,psci", "smc"), "Unknown(\"psci\")");
        assert_eq!(pen("arm,psci-1.0", "svc"), "Unknown(\"psci\")");
    }

    #[test]
    fn memory_goes_through_every_bus_and_back() {
        let tree = tree();
        let info = BootInfo::parse(&tree).unwrap();
        let aperture = Aperture { bus: BusAddr::new(0), phys: PhysAddr::new(0x4100_0000), bytes: 0x0200_0000 };
        let apertures = |path| bus_apertures(&info, &DevicePath::parse(path).unwrap()).unwrap();
        assert_eq!(apertures("/soc/apb/device@1000").unwrap().as_slice(), [aperture], "the second is not passed on");
        assert_eq!(apertures("/memory@40000000"), None);
        assert_eq!(apertures("/device@1000"), None, "a name is no path");
    }

    /// Makes [`tree`] with other `dma-ranges` for its two buses, the outer one first, and with other properties of the
    /// inner bus.
    fn apertures_of(
        outer: &[u32],
        inner: &[u32],
        more: &[(&'static str, Vec<u8>)],
    ) -> Result<Option<Apertures>, String> {
        let blob = tree();
        let mut tree = DeviceTree::from_fdt(&Fdt::new(&blob).unwrap());
        for (path, value) in [("/soc", outer), ("/soc/apb", inner)] {
            let bus = tree.find_node_mut(path).unwrap();
            bus.add_property(DeviceTreeProperty::new("dma-ranges", cells(value)).unwrap());
        }
        for (name, value) in more {
            let bus = tree.find_node_mut("/soc/apb").unwrap();
            bus.add_property(DeviceTreeProperty::new(*name, value.clone()).unwrap());
        }
        let tree = tree.to_dtb();
        let path = DevicePath::parse("/soc/apb/device@1000").unwrap();
        bus_apertures(&BootInfo::parse(&tree).unwrap(), &path).map_err(|error| error.to_string())
    }

    #[test]
    fn dma_ranges_that_are_lost_are_not_no_dma_ranges() {
        let two = || cells(&[2]);
        let wide = [("#address-cells", two()), ("#size-cells", two())];
        let refused = |outer: &[u32], inner: &[u32], more: &[_]| apertures_of(outer, inner, more).unwrap_err();
        // Above 4 GiB on the bus, or in memory. Entries of 1 + 1 + 1 cells cannot hold such a number, those of 2 + 1 +
        // 2 can.
        let none = "dma-ranges of apb has no aperture below 4 GiB that goes on to memory";
        assert_eq!(refused(&[], &[1, 0, 0x4000_0000, 0, 0x1000], &wide), none);
        // As on a PCI bus, whose addresses have three cells.
        let three = [("#address-cells", cells(&[3]))];
        assert_eq!(refused(&[], &[0x0200_0000, 0, 0, 0x4000_0000, 0x1000], &three), none);
        let outside = refused(&[0, 0x4000_0000, 0x1000], &[0, 0x1000, 0x1000], &[]);
        assert_eq!(outside, "dma-ranges of soc has no aperture below 4 GiB that goes on to memory");
        let malformed = "dma-ranges of apb is not a whole number of entries";
        assert_eq!(refused(&[], &[0, 0x4000_0000], &[]), malformed);
        assert_eq!(refused(&[], &[0; 4], &[("#address-cells", Vec::from([1]))]), malformed, "cells that are no number");
        let many: Vec<u32> = (0..5).flat_map(|n| [n << 16, n << 16, 0x1000]).collect();
        assert_eq!(refused(&[], &many, &[]), "dma-ranges of apb has more than 4 apertures");
        // Without entries, every address is passed on.
        assert_eq!(apertures_of(&[], &[], &[]), Ok(None));
        let one = Aperture { bus: BusAddr::new(0), phys: PhysAddr::new(0x4000_0000), bytes: 0x1000 };
        let both = apertures_of(&[], &[0, 0, 0x4000_0000, 0, 0x1000, 1, 0, 0x5000_0000, 0, 0x1000], &wide);
        assert_eq!(both.unwrap().unwrap().as_slice(), [one], "what can be had of two");
    }
}
