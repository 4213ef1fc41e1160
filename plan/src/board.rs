//! The board's device tree, by the kernel's own reading of it.
//!
//! Guarantees: which memory is free, which areas there are and where a device sees memory is what `carveout-boot` and
//! the minimal kernel make of the same tree. A tree that they refuse is refused here, in their words.

use std::ops::Range;
use std::path::Path;
use std::process::Command;

use carveout::addr::FrameRange;
use carveout_boards::kernel::devices;
use carveout_boot::bootinfo::{BootInfo, DevicePath, bus};
use carveout_boot::layout::Layout;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};

use crate::errors::{Fault, Result};
use crate::problem::{FRAME, Window};

/// The area of the command line.
pub const CMA: &str = "cma";

/// Frames that the boot loader's copy of the tree takes, beside the kernel.
const TREE: u32 = 16;

/// A flattened device tree that the kernel can read.
#[derive(Clone, Debug)]
pub struct Board {
    /// The file's name.
    pub name: String,
    dtb: Vec<u8>,
}

/// What the kernel makes of the tree's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// RAM that nobody holds, in order.
    pub free: Vec<Range<u32>>,
    /// The areas.
    pub areas: Vec<TreeArea>,
    /// What the tree asks for and does not get, a line each.
    pub refused: Vec<String>,
}

/// An area as the kernel would make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeArea {
    /// The region's name with its unit address, or [`CMA`].
    pub name: String,
    /// Its runs of frames.
    pub runs: Vec<Range<u32>>,
    /// Whether idle frames may be lent.
    pub lendable: bool,
}

/// An area to be written into the tree.
#[derive(Clone, Debug)]
pub struct NewArea<'a> {
    /// The region's name without its unit address, or [`CMA`].
    pub name: &'a str,
    /// Its frames.
    pub frames: Range<u32>,
    /// Whether idle frames may be lent.
    pub lendable: bool,
    /// The paths of the devices that are to allocate from it.
    pub devices: Vec<&'a str>,
}

/// Returns a node's name without its unit address.
pub fn base_name(name: &str) -> &str {
    name.split('@').next().unwrap_or_default()
}

fn frames(range: FrameRange) -> Range<u32> {
    range.start()..range.end()
}

impl Board {
    /// Reads a flattened tree, or a source, which `dtc` compiles.
    ///
    /// # Errors
    ///
    /// A fault if the file cannot be read, if `dtc` refuses it, or as [`from_bytes`](Self::from_bytes).
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let unread = |error: std::io::Error| Fault::new(format!("cannot read {name}: {error}"));
        if path.extension().is_none_or(|end| end != "dts") {
            return Self::from_bytes(&name, std::fs::read(path).map_err(unread)?);
        }
        std::fs::metadata(path).map_err(unread)?;
        let made = Command::new("dtc").args(["-q", "-I", "dts", "-O", "dtb"]).arg(path).output();
        let made = made.map_err(|error| {
            Fault::new(format!("cannot run dtc: {error}")).help("install device-tree-compiler, or give a .dtb")
        })?;
        if !made.status.success() {
            let said = String::from_utf8_lossy(&made.stderr);
            return Err(Fault::new(format!("dtc refuses {name}")).note(said.trim_end().to_owned()));
        }
        Self::from_bytes(&name, made.stdout)
    }

    /// Takes a flattened tree.
    ///
    /// # Errors
    ///
    /// A fault in the kernel's words, if the kernel could not boot with the tree.
    pub fn from_bytes(name: &str, dtb: Vec<u8>) -> Result<Self> {
        let refused = BootInfo::parse(&dtb).err().map(|error| error.to_string());
        match refused {
            None => Ok(Self { name: name.to_owned(), dtb }),
            Some(error) => {
                Err(Fault::new(format!("{name}: {error}")).help("a flattened device tree is wanted (dtc makes one)"))
            }
        }
    }

    /// Returns the tree's bytes.
    pub fn dtb(&self) -> &[u8] {
        &self.dtb
    }

    fn info(&self) -> BootInfo<'_> {
        BootInfo::parse(&self.dtb).expect("the tree was read before, and no byte of it changed")
    }

    fn model(&self) -> DeviceTree {
        DeviceTree::from_fdt(&Fdt::new(&self.dtb).expect("the tree was read before, and no byte of it changed"))
    }

    /// Returns what the kernel makes of the tree's memory, if `kernel` bytes from the start of the first bank are the
    /// kernel's.
    ///
    /// # Errors
    ///
    /// A fault if that is not all RAM, or in the kernel's words.
    pub fn memory(&self, kernel: u64) -> Result<Memory> {
        let info = self.info();
        let of = |error: String| Fault::new(format!("{}: {error}", self.name));
        let start = info.banks().iter().map(|bank| bank.start()).min().unwrap_or_default();
        let count = u32::try_from(kernel / u64::from(FRAME)).unwrap_or(u32::MAX).max(2 * TREE);
        let kept = FrameRange::new(start, count).ok_or_else(|| of("the kernel's part ends past 4 GiB".to_owned()))?;
        let (image, tree) = kept.split_at(count - TREE).unwrap_or((kept, FrameRange::EMPTY));
        let plan = Layout::plan(&info, image, tree).map_err(|error| of(error.to_string()))?;
        let area = |area: &carveout_boot::layout::AreaPlan<'_>| TreeArea {
            name: area.name.to_owned(),
            runs: area.ranges.iter().copied().map(frames).collect(),
            lendable: area.lendable,
        };
        Ok(Memory {
            free: plan.memblock().free_ranges().map(frames).collect(),
            areas: plan.areas().iter().map(area).collect(),
            refused: plan.refusals().iter().map(ToString::to_string).collect(),
        })
    }

    /// Returns where the device at that path sees memory. Returns `None` if no node is there.
    ///
    /// # Errors
    ///
    /// A line, if the kernel cannot read the `dma-ranges` above it.
    pub fn windows(&self, path: &str) -> std::result::Result<Option<Vec<Window>>, String> {
        let info = self.info();
        let mut there = false;
        let Some(wanted) = DevicePath::parse(path) else { return Ok(None) };
        bus::walk(info.root(), &mut |node, buses| there |= DevicePath::to(node, buses).as_ref() == Some(&wanted));
        if !there {
            return Ok(None);
        }
        let apertures = devices::bus_apertures(&info, &wanted).map_err(|error| error.to_string())?;
        let window = |of: &carveout::dma::Aperture| Window { bus: of.bus.raw(), phys: of.phys.raw(), bytes: of.bytes };
        Ok(Some(apertures.map_or_else(|| vec![Window::IDENTITY], |all| all.iter().map(window).collect())))
    }

    /// Returns the names of the regions that the device at that path names, without their unit addresses.
    pub fn regions_of(&self, path: &str) -> Vec<String> {
        let info = self.info();
        let mut named = info.bindings().filter(|binding| binding.device.to_string() == path);
        let phandles: Vec<u32> = named.next().map(|binding| binding.phandles().collect()).unwrap_or_default();
        let regions = info.regions().filter(|region| phandles.iter().any(|&phandle| region.is_called(phandle)));
        regions.map(|region| base_name(region.name).to_owned()).collect()
    }

    /// Returns the tree without the regions of these names, and without `cma=` if [`CMA`] is among them.
    ///
    /// # Errors
    ///
    /// A fault if the kernel refuses what is left.
    pub fn without(&self, names: &[&str]) -> Result<Self> {
        let mut tree = self.model();
        if let Some(reserved) = tree.root.child_mut("reserved-memory") {
            let all: Vec<String> = reserved.children().map(|node| node.name().to_owned()).collect();
            for gone in all.iter().filter(|name| names.contains(&base_name(name))) {
                reserved.remove_child(gone);
            }
        }
        if names.contains(&CMA) {
            set_cma(&mut tree, None);
        }
        Self::from_bytes(&self.name, tree.to_dtb())
    }

    /// Returns the tree with these areas: nodes of `/reserved-memory` that devices name, and `cma=`.
    ///
    /// # Errors
    ///
    /// A fault if the kernel refuses the tree.
    pub fn with(&self, areas: &[NewArea<'_>]) -> Result<Self> {
        let mut tree = self.model();
        let mut phandle = highest_phandle(&tree.root);
        for area in areas {
            if area.name == CMA {
                set_cma(&mut tree, Some(&cma_argument(&area.frames)));
                continue;
            }
            phandle += 1;
            let cells = (cells_of(&tree.root, "#address-cells", 2), cells_of(&tree.root, "#size-cells", 1));
            let reserved = reserved_memory(&mut tree.root, cells);
            let cells = (cells_of(reserved, "#address-cells", cells.0), cells_of(reserved, "#size-cells", cells.1));
            let mut node = DeviceTreeNode::new_unchecked(node_name(area));
            let (base, size) = bytes_of(&area.frames);
            node.add_property(property("compatible", b"shared-dma-pool\0"));
            node.add_property(property("reg", &[cells_from(base, cells.0), cells_from(size, cells.1)].concat()));
            node.add_property(property(flag(area.lendable), &[]));
            node.add_property(property("phandle", &phandle.to_be_bytes()));
            reserved.add_child(node);
            for path in &area.devices {
                if let Some(device) = tree.find_node_mut(path) {
                    device.remove_property("memory-region");
                    device.add_property(property("memory-region", &phandle.to_be_bytes()));
                }
            }
        }
        Self::from_bytes(&self.name, tree.to_dtb())
    }
}

/// Returns the property that says whether an area's idle frames may be lent.
pub const fn flag(lendable: bool) -> &'static str {
    if lendable { "reusable" } else { "no-map" }
}

/// Returns an area's node's name.
pub fn node_name(area: &NewArea<'_>) -> String {
    format!("{}@{:x}", area.name, bytes_of(&area.frames).0)
}

/// Returns the argument that puts the default area there.
pub fn cma_argument(frames: &Range<u32>) -> String {
    let (base, size) = bytes_of(frames);
    format!("cma={}K@{base:#x}", size >> 10)
}

/// Returns the first byte and the number of bytes.
pub fn bytes_of(frames: &Range<u32>) -> (u64, u64) {
    let frame = u64::from(FRAME);
    (u64::from(frames.start) * frame, u64::from(frames.end - frames.start) * frame)
}

fn property(name: &str, value: &[u8]) -> DeviceTreeProperty {
    DeviceTreeProperty::new_unchecked(name, value.to_vec())
}

fn cells_from(value: u64, cells: u32) -> Vec<u8> {
    let all = value.to_be_bytes();
    all[8 - 4 * cells.clamp(1, 2) as usize..].to_vec()
}

fn cells_of(node: &DeviceTreeNode, name: &str, default: u32) -> u32 {
    let word = node.property(name).and_then(|property| property.value().try_into().ok());
    word.map_or(default, u32::from_be_bytes)
}

/// Returns the node `/reserved-memory`, which is made if it is not there.
fn reserved_memory(root: &mut DeviceTreeNode, cells: (u32, u32)) -> &mut DeviceTreeNode {
    const NAME: &str = "reserved-memory";
    if root.child(NAME).is_none() {
        let mut made = DeviceTreeNode::new_unchecked(NAME);
        made.add_property(property("#address-cells", &cells.0.to_be_bytes()));
        made.add_property(property("#size-cells", &cells.1.to_be_bytes()));
        made.add_property(property("ranges", &[]));
        root.add_child(made);
    }
    root.child_mut(NAME).expect("it was there or was made")
}

fn highest_phandle(node: &DeviceTreeNode) -> u32 {
    let own = cells_of(node, "phandle", 0).min(u32::MAX - 64);
    node.children().map(highest_phandle).fold(own, u32::max)
}

/// Takes `cma=` out of the boot arguments, and puts another in.
fn set_cma(tree: &mut DeviceTree, argument: Option<&str>) {
    if tree.root.child("chosen").is_none() {
        tree.root.add_child(DeviceTreeNode::new_unchecked("chosen"));
    }
    let chosen = tree.root.child_mut("chosen").expect("it was there or was made");
    let old = chosen.property("bootargs").map(|old| old.value().to_vec()).unwrap_or_default();
    let old = String::from_utf8_lossy(&old).trim_end_matches('\0').to_owned();
    let kept = old.split_whitespace().filter(|word| !word.starts_with("cma="));
    // What follows `--` is no argument of the kernel's.
    let line: Vec<&str> = argument.into_iter().chain(kept).collect();
    chosen.remove_property("bootargs");
    chosen.add_property(property("bootargs", &[line.join(" ").as_bytes(), &[0]].concat()));
}
