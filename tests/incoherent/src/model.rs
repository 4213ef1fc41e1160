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

/// A core, as its identification registers describe it.
#[derive(Clone, Copy)]
pub struct Core {
    /// The emulator's.
    pub emulated: ArmCpuModel,
    /// Whether it has the Multiprocessing Extensions: TLB operations in the inner shareable form.
    pub multiprocessing: bool,
    /// Whether table walks look in its caches: `ID_MMFR3[23:20]`.
    pub coherent_walks: bool,
    /// Whether it tells the domains of barriers, and loads from stores.
    pub domains: bool,
    /// Bytes of a line.
    pub line: u32,
    /// Sets and ways of the first level, as CCSIDR has them.
    pub sets: u32,
    /// The latter.
    pub ways: u32,
}

const CORTEX_A7: Core = Core { emulated: ArmCpuModel::CORTEX_A7, ..CORTEX_A15 };
const CORTEX_A8: Core = Core {
    emulated: ArmCpuModel::CORTEX_A8,
    multiprocessing: false,
    coherent_walks: false,
    domains: false,
    line: 64,
    sets: 64,
    ways: 4,
};
const CORTEX_A9: Core =
    Core { emulated: ArmCpuModel::CORTEX_A9, multiprocessing: true, line: 32, sets: 128, ..CORTEX_A8 };
const CORTEX_A15: Core = Core {
    emulated: ArmCpuModel::CORTEX_A15,
    multiprocessing: true,
    coherent_walks: true,
    domains: true,
    line: 64,
    sets: 256,
    ways: 2,
};

/// Where registers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Board {
    /// vexpress-a9 and realview-pb-a8.
    Arm,
    /// xilinx-zynq-a9.
    Zynq,
    /// QEMU's virt.
    Virt,
}

/// How a program gets into memory.
#[derive(Clone, Copy)]
pub enum Boot {
    /// As U-Boot loads a zImage: one piece at a place of its own, with a device tree.
    Image {
        /// The board's device tree source.
        board: &'static str,
        /// Added to it: what this machine has more than QEMU's, or less.
        nodes: &'static str,
    },
    /// By the addresses in the ELF, and nothing is passed.
    Elf,
}

/// A machine.
#[derive(Clone, Copy)]
pub struct Model {
    /// What `--model` calls it.
    pub name: &'static str,
    /// The core.
    pub core: Core,
    /// How many there are: with several, programs see themselves on an MPCore, else on a core that is alone.
    pub cores: usize,
    /// The second level.
    pub outer: Outer,
    /// First address of RAM.
    pub ram: u32,
    /// Where registers are.
    pub board: Board,
    /// How a program gets into memory.
    pub boot: Boot,
}

/// Bytes of RAM, as much as the smallest board has that the on-target tests run on.
pub const RAM: u32 = 128 << 20;

/// The transport of the disk, as QEMU writes it into the tree of vexpress-a9.
macro_rules! disk {
    () => {
        "/ { virtio@10013600 { compatible = \"virtio,mmio\"; reg = <0x10013600 0x200>; interrupts = <0 43 1>; }; };\n"
    };
}

const VEXPRESS_A9: &str = include_str!("../../../boards/vexpress-a9/vexpress-a9.dts");

/// Of its four cores some are not there.
macro_rules! one_core {
    () => {
        concat!("/ { cpus { /delete-node/ cpu@1; }; };\n", two_cores!())
    };
}
macro_rules! two_cores {
    () => {
        "/ { cpus { /delete-node/ cpu@2; /delete-node/ cpu@3; }; };\n"
    };
}

const A9_PL310: Model = Model {
    name: "a9-pl310",
    core: CORTEX_A9,
    cores: 1,
    outer: Outer::Controller,
    ram: 0x6000_0000,
    board: Board::Arm,
    boot: Boot::Image { board: VEXPRESS_A9, nodes: concat!(disk!(), one_core!()) },
};

const VIRT_A15: Model = Model {
    name: "virt-a15",
    core: CORTEX_A15,
    cores: 1,
    outer: Outer::Integrated,
    ram: 0x4000_0000,
    board: Board::Virt,
    boot: Boot::Elf,
};

const A9X4_PL310: Model =
    Model { name: "a9x4-pl310", cores: 4, boot: Boot::Image { board: VEXPRESS_A9, nodes: disk!() }, ..A9_PL310 };

/// All of them.
pub static MODELS: [Model; 8] = [
    Model {
        name: "a9",
        outer: Outer::None,
        boot: Boot::Image {
            board: VEXPRESS_A9,
            // The same board without its outer cache.
            nodes: concat!(
                disk!(),
                one_core!(),
                "/ { cpus { cpu@0 { /delete-property/ next-level-cache; }; }; };\n/delete-node/ &l2;\n"
            ),
        },
        ..A9_PL310
    },
    A9_PL310,
    Model {
        name: "a8",
        core: CORTEX_A8,
        cores: 1,
        outer: Outer::Integrated,
        ram: 0x7000_0000,
        board: Board::Arm,
        boot: Boot::Image {
            board: include_str!("../../../boards/realview-pb-a8/realview-pb-a8.dts"),
            // A disk, which the board does not have, in place of its card; one bank, without the alias, and no PL081.
            nodes: concat!(
                disk!(),
                "/ { /delete-node/ ram@20000000; /delete-node/ ram-alias@0; /delete-node/ reserved-memory;\n",
                "/delete-node/ mmc@10005000; /delete-node/ dma-controller@10030000;\n",
                "clcd@10020000 { /delete-property/ memory-region; }; };\n"
            ),
        },
    },
    Model {
        name: "a9x2",
        cores: 2,
        outer: Outer::None,
        boot: Boot::Image {
            board: VEXPRESS_A9,
            nodes: concat!(
                disk!(),
                two_cores!(),
                "/ { cpus { cpu@0 { /delete-property/ next-level-cache; }; cpu@1 { /delete-property/ \
                 next-level-cache; }; }; };\n/delete-node/ &l2;\n"
            ),
        },
        ..A9_PL310
    },
    A9X4_PL310,
    Model { name: "zynq", ram: 0, board: Board::Zynq, boot: Boot::Elf, ..A9_PL310 },
    Model { name: "virt-a7", core: CORTEX_A7, ..VIRT_A15 },
    VIRT_A15,
];

/// The machine of that name.
pub fn find(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}
