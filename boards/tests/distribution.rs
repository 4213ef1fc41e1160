//! The device trees of a distribution's kernel, as they are: what the drivers ask them for, and what the boot makes of
//! their memory. tests/cards.sh fetches the trees and names their folder.

use carveout::addr::FrameRange;
use carveout::boot::bootinfo::BootInfo;
use carveout_boards::BOARDS;
use carveout_boards::support::devices::{Block, Found, find, find_all};

fn tree(name: &str) -> Vec<u8> {
    let folder = std::env::var("CARVEOUT_TREES").expect("CARVEOUT_TREES names a folder of device trees");
    std::fs::read(std::path::Path::new(&folder).join(name)).unwrap()
}

fn first(found: &Found<'_>) -> (u32, u32) {
    let Block { at, bytes } = found.blocks[0];
    (at.raw(), bytes)
}

fn console<'dtb>(info: &BootInfo<'dtb>, compatible: &str) -> Found<'dtb> {
    let mut named = None;
    find_all(info, compatible, |found| {
        if found.stdout {
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
    let tree = with_memory(&tree, [0x4000_0000, 0x4000_0000]);
    let info = BootInfo::parse(&tree).unwrap();
    assert!(is_known(&info));
    let uart = console(&info, "snps,dw-apb-uart");
    assert_eq!((first(&uart), uart.reg_shift, uart.reg_io_width), ((0x01c2_8000, 0x400), Some(2), Some(4)));
    assert_eq!(first(&find(&info, "allwinner,sun4i-a10-ic").unwrap()), (0x01c2_0400, 0x400));
    let timer = find(&info, "allwinner,sun4i-a10-timer").unwrap();
    assert_eq!((first(&timer), timer.irq.unwrap().number(), timer.hertz), ((0x01c2_0c00, 0x90), 22, Some(24_000_000)));
    let sata = find(&info, "allwinner,sun4i-a10-ahci").unwrap();
    assert_eq!((first(&sata), sata.irq.unwrap().number()), ((0x01c1_8000, 0x1000), 56));
    assert_eq!(info.regions().iter().map(|region| region.name).collect::<Vec<_>>(), ["default-pool"]);
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
    assert_eq!((first(&uart).0, uart.reg_shift, uart.irq.unwrap().number()), (0x44e0_9000, None, 72));
    assert_eq!(first(&find(&info, "ti,am33xx-intc").unwrap()), (0x4820_0000, 0x1000));
    let timer = find(&info, "ti,am335x-timer").unwrap();
    assert_eq!((first(&timer), timer.irq.unwrap().number()), ((0x4804_0000, 0x400), 68), "DMTIMER2, which U-Boot runs");
    assert_eq!(info.refusals().iter().count(), 0);
}

/// The tree with a node of memory, as a boot loader would add it.
fn with_memory(tree: &[u8], reg: [u32; 2]) -> Vec<u8> {
    use dtoolkit::fdt::Fdt;
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
    let mut tree = DeviceTree::from_fdt(&Fdt::new(tree).unwrap());
    let mut memory = DeviceTreeNode::new("memory@40000000").unwrap();
    memory.add_property(DeviceTreeProperty::new("device_type", b"memory\0".to_vec()).unwrap());
    let cells: Vec<u8> = reg.iter().flat_map(|cell| cell.to_be_bytes()).collect();
    memory.add_property(DeviceTreeProperty::new("reg", cells).unwrap());
    tree.root.add_child(memory);
    tree.to_dtb()
}
