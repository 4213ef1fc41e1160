//! The way from the boot loader to `main`: the image's head, and what it hands over.
//!
//! Guarantees, when `main` begins:
//!
//! - It runs in Supervisor mode on a stack of 128 KiB above unmapped guard pages. Interrupts are masked. Asynchronous
//!   aborts are not, where the secure world lets a non-secure one choose. [`exceptions`](super::exceptions) has every
//!   vector.
//! - MMU, caches and branch prediction are on.
//! - The image and the device tree are mapped, and nothing else is, so I2 holds from the instruction that turned the
//!   MMU on. (That one ran by another table, which has the page of the head at its physical address.) Text is
//!   executable and read-only, constants are read-only, and the rest of the image is writable. Neither of the last two
//!   is executable. The device tree is read-only.
//! - All of it is Normal write-back write-allocate memory, Shareable on cores with the Multiprocessing Extensions (I1).
//!
//! # Contract with the boot loader
//!
//! The contract is that of 32-bit ARM Linux. The raw image, a zImage by its header, is entered at its first byte, in a
//! privileged mode. An outer cache is off or empty. r2 is the physical address of the device tree, or anything else.
//! MMU and data caches are off, and hold nothing that memory still needs. Or they are on, and the MMU changes no
//! address of the image: then the head writes every dirty line back and turns them off. U-Boot's `bootz` and QEMU's
//! `-kernel` keep this contract. In addition:
//!
//! - the load address is a multiple of 32 bytes;
//! - there is RAM for the image, `.bss` included, at the first address from there upward that is 0x10000 modulo 1 MiB
//!   and clear of the device tree: the image moves itself there;
//! - that address is below `0xFE00_0000`.
//!
//! A core that is entered in Hyp mode leaves it for good: nothing is trapped there, and the second stage of translation
//! is off. Hyp mode's own MMU and caches must be off. An HVC afterwards goes where the boot loader's vectors say.
//!
//! Only the first core boots. Others that enter with it wait where the image was loaded, with MMU and caches off, until
//! [`secondary`](super::secondary) lets them in. If the image had to move, somebody else may get that memory. So a boot
//! loader that releases all cores at once must load the image where it stays.
//!
//! On a core of [`CORES`](carveout_armv7a::ids::CORES) the head does what coherency needs: the SCU, ACTLR.SMP and
//! ACTLR.FW of Cortex-A5 and Cortex-A9, ACTLR.SMP of the later ones, the second-level cache of Cortex-A8. A core that
//! is not in that list runs as it was found, and alone. A core is refused if it says that it has no Security
//! Extensions. In the [non-secure world](World) the head writes nothing that only the secure one may write. The
//! firmware must have written it.
//!
//! At an exception before `main`, the head prints the vector's name over semihosting and exits with 101. On a machine
//! where nobody answers semihosting the core parks, without a message: there is no console yet.

use core::arch::global_asm;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use carveout::addr::{FrameRange, PhysAddr, VirtAddr};
use carveout::cpu::MAX_CORES;
use carveout::vm::attr::{Access, MemoryType, Shareability};
use carveout::vm::desc::{L1Desc, L2_TABLE_SIZE, L2Desc};
use carveout_armv7a::cores::World;
use carveout_armv7a::errata::TABLE;
use carveout_armv7a::ids::{CORE_MASK, CORE_TABLE};
use carveout_boot::upper_half::{FIXMAP, IMAGE};

/// Second-level tables of the image's window; they come first.
const IMAGE_TABLES: u32 = IMAGE.sections();
/// Second-level tables of the fixmap; they come next.
const FIXMAP_TABLES: u32 = FIXMAP.sections();
/// All second-level tables. The last one is for the page of the head at its physical address. It belongs to the table
/// that turns the MMU on.
const TABLES: u32 = IMAGE_TABLES + FIXMAP_TABLES + 1;

// The head's codes for what it did with the device tree.
const DTB_FOUND: u32 = 0;
const DTB_ABSENT: u32 = 1;
const DTB_MISALIGNED: u32 = 2;
const DTB_UNREADABLE: u32 = 3;
const DTB_BAD_MAGIC: u32 = 4;
const DTB_BAD_SIZE: u32 = 5;

/// Returns the descriptor of a page of Normal write-back memory at physical address 0.
const fn page(access: Access, share: Shareability) -> u32 {
    L2Desc::small(PhysAddr::new(0), MemoryType::WriteBack, access, share).raw()
}

global_asm!(
    include_str!("head.s"),
    page_rx = const page(Access::ReadExecute, Shareability::NonShareable),
    page_ro = const page(Access::Read, Shareability::NonShareable),
    page_rw = const page(Access::ReadWrite, Shareability::NonShareable),
    page_s = const page(Access::Read, Shareability::Shareable) ^ page(Access::Read, Shareability::NonShareable),
    coarse = const L1Desc::table(PhysAddr::new(0)).raw(),
    image_window = const IMAGE.start().raw(),
    fixmap_window = const FIXMAP.start().raw(),
    image_tables = const IMAGE_TABLES,
    fixmap_tables = const FIXMAP_TABLES,
    tables = const TABLES,
    cores = const MAX_CORES,
    core_mask = const CORE_MASK,
    dtb_found = const DTB_FOUND,
    dtb_absent = const DTB_ABSENT,
    dtb_misaligned = const DTB_MISALIGNED,
    dtb_unreadable = const DTB_UNREADABLE,
    dtb_bad_magic = const DTB_BAD_MAGIC,
    dtb_bad_size = const DTB_BAD_SIZE,
);

/// What the head found out. It writes this with the MMU off, after `.bss` was cleared: the image's physical minus its
/// linked address; r2; the device tree's size, or 0 if there is none; what became of the tree, a `DTB_*`; and the
/// world, a `World`.
#[unsafe(no_mangle)]
static CARVEOUT_BOOT: [AtomicU32; 5] = [const { AtomicU32::new(0) }; 5];

/// The errata of Cortex-A9. The head reads it with the MMU off, at the place where the image was loaded.
#[unsafe(no_mangle)]
static CARVEOUT_ERRATA: [[u32; 3]; TABLE.len()] = TABLE;

/// The cores that are known. The head reads it with the MMU off, at the place where the image was loaded.
#[unsafe(no_mangle)]
static CARVEOUT_CORES: [[u32; 3]; CORE_TABLE.len()] = CORE_TABLE;

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __svc_guard: u8;
    static __svc_stack: u8;
    static __fault_guard: u8;
    static __fault_stack: u8;
    static __fault_stack_top: u8;
    static __image_end: u8;
    static carveout_l1: u8;
    static carveout_l2: u8;
}

/// Gives the address of a linker's symbol.
macro_rules! symbol {
    ($name:ident) => {
        VirtAddr::new((&raw const $name) as u32)
    };
}

unsafe extern "Rust" {
    /// The kernel's `main`. [`entry!`](crate::entry) defines it, with this type.
    safe fn carveout_main(handover: BootHandover) -> !;
}

/// Names the function with which a kernel begins: `carveout_rt::entry!(main)`, where `main` is a
/// `fn(BootHandover) -> !`. A program uses it once.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        const _: () = {
            #[unsafe(no_mangle)]
            fn carveout_main(handover: $crate::start::BootHandover) -> ! {
                let main: fn($crate::start::BootHandover) -> ! = $main;
                main(handover)
            }
        };
    };
}

/// Why there is no device tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DtbFault {
    /// r2 was 0.
    Absent,
    /// r2 is not a multiple of four.
    Misaligned(PhysAddr),
    /// A read at r2 aborts.
    Unreadable(PhysAddr),
    /// The bytes at r2 are not the magic 0xd00dfeed.
    BadMagic(PhysAddr),
    /// Its `totalsize` is below 0x28 or above 1 MiB, or reaches past 4 GiB.
    BadSize(PhysAddr),
}

impl DtbFault {
    /// Returns the fault that a code of the head stands for. The code is not `DTB_FOUND`.
    fn from_code(code: u32, r2: PhysAddr) -> Self {
        match code {
            DTB_MISALIGNED => Self::Misaligned(r2),
            DTB_UNREADABLE => Self::Unreadable(r2),
            DTB_BAD_MAGIC => Self::BadMagic(r2),
            DTB_BAD_SIZE => Self::BadSize(r2),
            _ => Self::Absent,
        }
    }
}

impl fmt::Display for DtbFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no device tree: r2 was 0 at entry; pass its address in r2"),
            Self::Misaligned(at) => write!(f, "no device tree: r2 = {at} at entry is not a multiple of 4"),
            Self::Unreadable(at) => {
                write!(f, "no device tree: reading {at}, where r2 pointed at entry, aborts; put the tree into RAM")
            }
            Self::BadMagic(at) => write!(f, "no device tree: no magic at {at}, where r2 pointed at entry"),
            Self::BadSize(at) => {
                write!(f, "no device tree: the one at {at} states a size below 40 bytes or above 1 MiB; load it again")
            }
        }
    }
}

impl core::error::Error for DtbFault {}

/// A translation table, by the address where the CPU writes it and the one where the MMU walks it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableAt {
    /// Its address in the image's window.
    pub virt: VirtAddr,
    /// Its address for descriptors and TTBRs.
    pub phys: PhysAddr,
}

impl TableAt {
    fn new(virt: VirtAddr, offset: u32) -> Self {
        Self { virt, phys: PhysAddr::new(virt.raw().wrapping_add(offset)) }
    }

    fn nth_l2(self, index: u32) -> Self {
        let bytes = index * L2_TABLE_SIZE;
        Self { virt: VirtAddr::new(self.virt.raw() + bytes), phys: PhysAddr::new(self.phys.raw() + bytes) }
    }
}

/// The tables in use when `main` begins. They lie in the image's `.bss`. Nothing else refers to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootTables {
    /// The first-level table, 16 KiB. It is in both TTBR0 and TTBR1, with TTBCR.N = 1.
    pub l1: TableAt,
    /// The second-level tables of first-level slots 0xFF0 to 0xFF3.
    pub image: [TableAt; IMAGE_TABLES as usize],
    /// The second-level tables of first-level slots 0xFE0 and 0xFE1. They are there whether or not there is a device
    /// tree.
    pub fixmap: [TableAt; FIXMAP_TABLES as usize],
}

/// The image's mappings. Each range starts and ends on a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageMap {
    /// Read-only and executable. The head comes first.
    pub text: Range<VirtAddr>,
    /// Read-only, execute-never.
    pub rodata: Range<VirtAddr>,
    /// Writable, execute-never: `.data`, `.bss` and stacks, without [`guards`](Self::guards).
    pub data: Range<VirtAddr>,
    /// Never mapped: for each core the pages below its stack and those below the stack of its fault handlers.
    pub guards: [[Range<VirtAddr>; 2]; MAX_CORES],
}

impl ImageMap {
    /// Returns the mappings of the running image.
    pub fn get() -> Self {
        let stride = symbol!(__fault_stack_top).raw() - symbol!(__svc_guard).raw();
        let of_core = |core: usize, range: Range<VirtAddr>| {
            let of_core = |va: VirtAddr| VirtAddr::new(va.raw() + core as u32 * stride);
            of_core(range.start)..of_core(range.end)
        };
        let guards = |core| {
            let below = [symbol!(__svc_guard)..symbol!(__svc_stack), symbol!(__fault_guard)..symbol!(__fault_stack)];
            below.map(|range| of_core(core, range))
        };
        Self {
            text: symbol!(__image_start)..symbol!(__text_end),
            rodata: symbol!(__rodata_start)..symbol!(__rodata_end),
            data: symbol!(__data_start)..symbol!(__image_end),
            guards: core::array::from_fn(guards),
        }
    }
}

/// What the head hands to `main`, once. Nobody else can make or change one.
#[derive(Debug)]
pub struct BootHandover {
    pub(super) image: FrameRange,
    world: World,
    /// The device tree, as many bytes as its header says. Its magic and its size were checked.
    pub(super) dtb: Result<&'static [u8], DtbFault>,
    pub(super) dtb_frames: FrameRange,
    /// The tables behind all this. Whoever holds the handover may take them over.
    pub(super) tables: BootTables,
}

impl BootHandover {
    /// Returns the image's frames, with `.bss`, stacks and their guards.
    pub const fn image(&self) -> FrameRange {
        self.image
    }

    /// Returns the world that the kernel runs in, which the head found out.
    pub const fn world(&self) -> World {
        self.world
    }
}

/// Returns the physical address of something in the image, or `None` if `addr` is outside of it.
pub fn translate_image(addr: VirtAddr) -> Option<PhysAddr> {
    let image = symbol!(__image_start)..symbol!(__image_end);
    image.contains(&addr).then(|| PhysAddr::new(addr.raw().wrapping_add(phys_offset())))
}

/// Returns the address of frames of the image below the stacks. All of these are mapped, while the guards among the
/// stacks are not.
pub(super) fn below_stacks(frames: FrameRange) -> Option<VirtAddr> {
    let (start, end) = (symbol!(__image_start).raw(), symbol!(__svc_guard).raw());
    let image = FrameRange::covering(start.wrapping_add(phys_offset()).into(), (end - start).into());
    image.covers(frames).then(|| VirtAddr::new(frames.base().raw().wrapping_sub(phys_offset())))
}

fn phys_offset() -> u32 {
    CARVEOUT_BOOT[0].load(Ordering::Relaxed)
}

/// Runs `main`, when the head is done.
#[unsafe(no_mangle)]
extern "C" fn carveout_start() -> ! {
    carveout_main(handover())
}

fn handover() -> BootHandover {
    let [offset, r2, dtb_bytes, dtb_code, world] = CARVEOUT_BOOT.each_ref().map(|word| word.load(Ordering::Relaxed));
    let image_phys = symbol!(__image_start).raw().wrapping_add(offset);
    let image_bytes = symbol!(__image_end).raw() - symbol!(__image_start).raw();
    let l2 = TableAt::new(symbol!(carveout_l2), offset);

    let dtb = if dtb_code == DTB_FOUND {
        let first = (FIXMAP.start().raw() + (r2 & 0xfff)) as *const u8;
        // SAFETY: the head mapped these bytes there, read-only, and found them clear of the image. They stay as they
        // are: every plan of the memory reserves `dtb_frames`.
        Ok(unsafe { core::slice::from_raw_parts(first, dtb_bytes as usize) })
    } else {
        Err(DtbFault::from_code(dtb_code, PhysAddr::new(r2)))
    };

    BootHandover {
        image: FrameRange::covering(u64::from(image_phys), u64::from(image_bytes)),
        world: if world == 0 { World::Secure } else { World::NonSecure },
        dtb,
        dtb_frames: FrameRange::covering(u64::from(r2), u64::from(dtb_bytes)),
        tables: BootTables {
            l1: TableAt::new(symbol!(carveout_l1), offset),
            image: core::array::from_fn(|index| l2.nth_l2(index as u32)),
            fixmap: core::array::from_fn(|index| l2.nth_l2(IMAGE_TABLES + index as u32)),
        },
    }
}
