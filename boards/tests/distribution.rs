//! The device trees of a distribution's kernel, as they are: what the drivers ask them for, and what the boot makes of
//! their memory. A check (xtask/src/check/cards.rs) names the folder.

use carveout::addr::FrameRange;
use carveout_boards::BOARDS;
use carveout_boards::kernel::devices::{Block, Found, find, find_all, stdout_path};
use carveout_boot::bootinfo::{BootError, BootInfo};
use carveout_boot::layout::Layout;

fn tree(name: &str) -> Vec<u8> {
    let folder = std::env::var("CARVEOUT_TREES").expect("CARVEOUT_TREES names a folder of device trees");
    std::fs::read(std::path::Path::new(&folder).join(name)).unwrap()
}

fn first(found: &Found<'_>) -> (u32, u32) {
    let Block { at, bytes } = found.blocks[0];
    (at.raw(), bytes)
}

fn console<'dtb>(info: &BootInfo<'dtb>, compatible: &str) -> Found<'dtb> {
    let (mut named, stdout) = (None, stdout_path(info));
    find_all(info, compatible, |found| {
        if Some(&found.path) == stdout.as_ref() {
            named = Some(found);
        }
    });
    named.expect("stdout-path names one")
}

fn is_known(info: &BootInfo<'_>) -> bool {
    info.compatible().any(|name| BOARDS.iter().any(|board| board.compatible == name))
}

#[test]
#[ignore = "needs a distribution's device trees: tests/run.sh --filter card:"]
fn a_cubieboards() {
    let tree = tree("sun4i-a10-cubieboard.dtb");
    // A boot loader adds the memory: this tree has none of its own.
    assert!(BootInfo::parse(&tree).is_err());
    let tree = with_memory(&tree, [0x4000_0000, 0x4000_0000]).unwrap();
    let info = BootInfo::parse(&tree).unwrap();
    assert!(is_known(&info));
    let uart = console(&info, "snps,dw-apb-uart");
    assert_eq!((first(&uart), uart.reg_shift, uart.reg_io_width), ((0x01c2_8000, 0x400), Some(2), Some(4)));
    assert_eq!(first(&find(&info, "allwinner,sun4i-a10-ic").unwrap()), (0x01c2_0400, 0x400));
    let timer = find(&info, "allwinner,sun4i-a10-timer").unwrap();
    assert_eq!((first(&timer), timer.irqs[0].number(), timer.hertz), ((0x01c2_0c00, 0x90), 22, Some(24_000_000)));
    let sata = find(&info, "allwinner,sun4i-a10-ahci").unwrap();
    assert_eq!((first(&sata), sata.irqs[0].number()), ((0x01c1_8000, 0x1000), 56));
    assert_eq!(info.regions().map(|region| region.name).collect::<Vec<_>>(), ["default-pool"]);
    assert_eq!(info.refusals().iter().count(), 0);
}

#[test]
#[ignore = "needs a distribution's device trees: tests/run.sh --filter card:"]
fn a_beaglebone_blacks() {
    let tree = tree("am335x-boneblack.dtb");
    let info = BootInfo::parse(&tree).unwrap();
    assert!(is_known(&info));
    let ram = FrameRange::covering(0x8000_0000, 0x2000_0000);
    assert_eq!(info.banks(), [ram]);
    let uart = console(&info, "ti,am3352-uart");
    assert_eq!((first(&uart).0, uart.reg_shift, uart.irqs[0].number()), (0x44e0_9000, None, 72));
    assert_eq!(first(&find(&info, "ti,am33xx-intc").unwrap()), (0x4820_0000, 0x1000));
    let timer = find(&info, "ti,am335x-timer").unwrap();
    assert_eq!((first(&timer), timer.irqs[0].number()), ((0x4804_0000, 0x400), 68), "DMTIMER2, which U-Boot runs");
    assert_eq!(info.refusals().iter().count(), 0);
}

#[test]
#[ignore = "needs a distribution's device trees: tests/run.sh --filter card:"]
fn a_versatile_expresss() {
    let tree = tree("vexpress-v2p-ca9.dtb");
    let info = BootInfo::parse(&tree).unwrap();
    assert_eq!(info.refusals().iter().count(), 0);
    let (image, dtb) = (FrameRange::covering(0x6001_0000, 0x20_0000), FrameRange::covering(0x6800_0000, 0x1_0000));
    let layout = Layout::plan(&info, image, dtb).unwrap();
    assert_eq!(layout.refusals().iter().count() + layout.devices_without().count(), 0);
    let [vram] = layout.areas() else { panic!("{:?}", layout.areas()) };
    let at = FrameRange::covering(0x4c00_0000, 0x80_0000);
    assert_eq!(
        (vram.name, vram.ranges.as_slice(), vram.lendable, vram.outside_ram),
        ("vram@4c000000", &[at][..], false, true)
    );
    let mut displays = Vec::new();
    find_all(&info, "arm,pl111", |found| displays.push((first(&found).0, layout.area_of(&found.path))));
    assert_eq!(displays, [(0x1001_f000, Ok(Some(0))), (0x1002_0000, Ok(None))]);
}

/// Of whatever trees are in the folder, with memory where a boot loader would add it: all are read, and what they
/// reserve stays reserved.
#[test]
#[ignore = "needs a distribution's device trees: tests/run.sh --filter card:"]
fn all_are_read_and_what_they_reserve_is_kept() {
    let folder = std::env::var("CARVEOUT_TREES").expect("CARVEOUT_TREES names a folder of device trees");
    let mut trees = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|end| end != "dtb") {
            continue;
        }
        let mut tree = std::fs::read(&path).unwrap();
        let without = BootInfo::parse(&tree).err();
        if let Some(error) = without {
            assert_eq!(error, BootError::NoMemory, "{}", path.display());
            // What adds the memory here refuses some trees whole, for the length of a name.
            let Some(more) = with_memory(&tree, [0x4000_0000, 0x4000_0000]) else { continue };
            tree = more;
        }
        let info = BootInfo::parse(&tree).unwrap();
        trees += 1;
        // Where nobody is: the trees know nothing of this kernel.
        let bank = *info.banks().iter().max_by_key(|bank| bank.count()).unwrap();
        let taken =
            |range: FrameRange| info.regions().flat_map(|region| region.kept()).any(|kept| kept.overlaps(range));
        let places = (0..bank.count() / 256).filter_map(|n| FrameRange::new(bank.start() + n * 256, 256));
        let mut places = places.filter(|&range| !taken(range));
        let (image, dtb) = (places.next().unwrap(), places.next().unwrap());
        let layout = Layout::plan(&info, image, dtb).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for line in layout.refusals().iter() {
            println!("{}: {line}", path.display());
        }
        for (device, lost) in layout.devices_without() {
            println!("{}: {device}: no area: {lost}", path.display());
        }
        let free: Vec<FrameRange> = layout.memblock().free_ranges().collect();
        for region in info.regions() {
            for kept in region.kept() {
                assert!(!free.iter().any(|run| run.overlaps(kept)), "{}: {}", path.display(), region.name);
            }
        }
    }
    assert!(trees > 0);
}

/// The tree with a node of memory, as a boot loader would add it.
fn with_memory(tree: &[u8], reg: [u32; 2]) -> Option<Vec<u8>> {
    use dtoolkit::fdt::Fdt;
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
    use dtoolkit::{Node, Property};
    let fdt = Fdt::new(tree).ok()?;
    let two = |name| fdt.root().property(name).is_some_and(|cells| cells.value() == [0, 0, 0, 2]);
    let wide = [two("#address-cells"), two("#size-cells")];
    let mut tree = DeviceTree::from_fdt(&fdt);
    let mut memory = DeviceTreeNode::new("memory@40000000").unwrap();
    memory.add_property(DeviceTreeProperty::new("device_type", b"memory\0".to_vec()).unwrap());
    let cells = reg.iter().zip(wide).flat_map(|(&cell, wide)| if wide { vec![0, cell] } else { vec![cell] });
    let cells: Vec<u8> = cells.flat_map(u32::to_be_bytes).collect();
    memory.add_property(DeviceTreeProperty::new("reg", cells).unwrap());
    tree.root.add_child(memory);
    Some(tree.to_dtb())
}
