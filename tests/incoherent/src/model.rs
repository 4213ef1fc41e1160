//! The machines that are modelled: a core, its caches and the board it stands on.

use unicorn_engine::ArmCpuModel;

/// What stands between the inner cache and memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outer {
    /// Nothing.
    None,
    /// A PL310, told what to do by its registers.
    Controller,
    /// A level of the core's own, which operations by address to the point of coherency go through.
    Integrated,
}

/// A machine.
#[derive(Clone, Copy)]
pub struct Model {
    /// What `--model` calls it.
    pub name: &'static str,
    /// The emulator's core.
    pub core: ArmCpuModel,
    /// Whether the core has the Multiprocessing Extensions: TLB operations in the inner shareable form, PERIPHBASE.
    pub multiprocessing: bool,
    /// Bytes of a line.
    pub line: u32,
    /// The second level.
    pub outer: Outer,
    /// First address of RAM.
    pub ram: u32,
    /// The GIC's CPU interface.
    pub gic_cpu: u32,
    /// The board's device tree source.
    pub board: &'static str,
    /// Added to the board's device tree source: what this machine has more than QEMU's, or less.
    pub nodes: &'static str,
}

/// The transport of the disk, as QEMU writes it into the tree of vexpress-a9.
macro_rules! disk {
    () => {
        "/ { virtio@10013600 { compatible = \"virtio,mmio\"; reg = <0x10013600 0x200>; interrupts = <0 43 1>; }; };\n"
    };
}

const VEXPRESS_A9: &str = include_str!("../../../boards/vexpress-a9/vexpress-a9.dts");

/// Of its four cores one is modelled.
macro_rules! one_core {
    () => {
        "/ { cpus { /delete-node/ cpu@1; /delete-node/ cpu@2; /delete-node/ cpu@3; }; };\n"
    };
}

/// All of them.
pub static MODELS: [Model; 3] = [
    Model {
        name: "a9",
        core: ArmCpuModel::CORTEX_A9,
        multiprocessing: true,
        line: 32,
        outer: Outer::None,
        ram: 0x6000_0000,
        gic_cpu: 0x1e00_0100,
        board: VEXPRESS_A9,
        // The same board without its outer cache.
        nodes: concat!(
            disk!(),
            one_core!(),
            "/ { cpus { cpu@0 { /delete-property/ next-level-cache; }; }; };\n/delete-node/ &l2;\n"
        ),
    },
    Model {
        name: "a9-pl310",
        core: ArmCpuModel::CORTEX_A9,
        multiprocessing: true,
        line: 32,
        outer: Outer::Controller,
        ram: 0x6000_0000,
        gic_cpu: 0x1e00_0100,
        board: VEXPRESS_A9,
        nodes: concat!(disk!(), one_core!()),
    },
    Model {
        name: "a8",
        core: ArmCpuModel::CORTEX_A8,
        multiprocessing: false,
        line: 64,
        outer: Outer::Integrated,
        ram: 0x7000_0000,
        gic_cpu: 0x1e00_0000,
        board: include_str!("../../../boards/realview-pb-a8/realview-pb-a8.dts"),
        // A disk, which the board does not have, in place of its card; one bank, without the alias, and no PL081.
        nodes: concat!(
            disk!(),
            "/ { /delete-node/ ram@20000000; /delete-node/ ram-alias@0; /delete-node/ reserved-memory;\n",
            "/delete-node/ mmc@10005000; /delete-node/ dma-controller@10030000;\n",
            "clcd@10020000 { /delete-property/ memory-region; }; };\n"
        ),
    },
];

/// The machine of that name.
pub fn find(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}
