//! The kernel's own table, with TTBCR.N = 0: one first-level table translates all addresses.
//!
//! Guarantees: the kernel maps sections alone, at equal virtual and physical addresses. Text executes and is not
//! writable, and nothing else executes. RAM is write-back and Shareable, registers are Device memory. No section lies
//! in the carve-out, from the instruction on that turns the MMU on (I2).

use core::arch::asm;
use core::cell::UnsafeCell;

use aarch32_cpu::asm::{dsb, isb};
use aarch32_cpu::cache::invalidate_l1_data_cache;
use aarch32_cpu::mmu::{
    AccessPermissions, L1Section, MemoryRegionAttributes, NUM_L1_PAGE_TABLE_ENTRIES, SectionAttributes,
};
use aarch32_cpu::register::{Actlr, BpIAll, Dacr, Iciallu, Sctlr, TlbIAll, Ttbr0};
use aarch32_rt::sections::Section;
use aarch32_rt::stacks::Stack;
use arbitrary_int::u4;
use carveout::addr::{FrameRange, SECTION_SIZE, VirtAddr};
use zynq7000::mpcore::ScuRegisters;

use crate::board::{CARVED, DEVICES, HEAP, TABLES};

/// The first-level table. Carveout writes the entries of its window, and reads all for its audit.
#[repr(C, align(16384))]
struct Table(UnsafeCell<[L1Section; NUM_L1_PAGE_TABLE_ENTRIES]>);

// SAFETY: one core runs this kernel, and `enable` alone names the table. It is called once.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([L1Section::new_with_raw_value(0); NUM_L1_PAGE_TABLE_ENTRIES]));

/// What a section may be used for.
#[derive(Clone, Copy)]
enum Use {
    Text,
    Constants,
    Data,
    Registers,
}

impl Use {
    const fn attributes(self) -> SectionAttributes {
        use MemoryRegionAttributes::{OuterAndInnerWriteBackWriteAlloc, ShareableDevice};
        let (access, memory) = match self {
            Self::Text | Self::Constants => (AccessPermissions::PrivilegedReadOnly, OuterAndInnerWriteBackWriteAlloc),
            Self::Data => (AccessPermissions::PrivilegedOnly, OuterAndInnerWriteBackWriteAlloc),
            Self::Registers => (AccessPermissions::PrivilegedOnly, ShareableDevice),
        };
        SectionAttributes {
            non_global: false,
            p_bit: false,
            shareable: !matches!(self, Self::Registers),
            access,
            memory_attrs: memory.as_raw(),
            domain: u4::new(0),
            execute_never: !matches!(self, Self::Text),
        }
    }
}

/// Returns the frames of the image's text, vectors included.
pub fn text() -> FrameRange {
    between(Section::VectorTable.bottom(), Section::Text.top())
}

/// Returns the frames of the whole image, which is mapped without a gap.
pub fn image() -> FrameRange {
    let end = Stack::Sys.top(0).expect("core 0 has a stack").cast();
    between(Section::VectorTable.bottom(), end)
}

/// Returns the frames of the sections that hold `[start, end)`.
fn between(start: *const u8, end: *const u8) -> FrameRange {
    let bytes = (end.addr() - start.addr()).next_multiple_of(SECTION_SIZE as usize);
    FrameRange::covering(start.addr() as u64, bytes as u64)
}

/// Returns where the kernel reaches frames: where they are, if it maps them as RAM.
pub fn kernel_address(frames: FrameRange) -> Option<VirtAddr> {
    let mapped = [image(), HEAP, TABLES].iter().any(|mapped| mapped.covers(frames));
    mapped.then(|| VirtAddr::new(frames.base().raw()))
}

/// Maps the sections that hold these frames.
fn map(table: &mut [L1Section; NUM_L1_PAGE_TABLE_ENTRIES], frames: FrameRange, used: Use) {
    assert!(!frames.overlaps(CARVED), "the kernel would map the carve-out (I2)");
    for frame in frames.iter().step_by((SECTION_SIZE >> 12) as usize) {
        let at = frame.base().raw();
        table[(at / SECTION_SIZE) as usize] = L1Section::new_with_addr_and_attrs(at, used.attributes());
    }
}

/// Fills the first-level table, and turns MMU and caches on.
///
/// # Safety
///
/// This is called once, by the only core that runs, with MMU and caches off as the boot loader left them.
pub unsafe fn enable() {
    // SAFETY: no other reference exists: this function is called once.
    let table = unsafe { &mut *TABLE.0.get() };
    let constants = between(Section::Rodata.bottom(), Section::Rodata.top());
    map(table, image(), Use::Data);
    map(table, HEAP, Use::Data);
    map(table, TABLES, Use::Data);
    map(table, text(), Use::Text);
    map(table, constants, Use::Constants);
    for base in DEVICES {
        map(table, FrameRange::covering(base.into(), SECTION_SIZE.into()), Use::Registers);
    }

    // The SCU keeps what is Shareable coherent, with other masters of the cores' cluster too (DDI 0407 2.2).
    // SAFETY: nothing else uses the SCU.
    let mut scu = unsafe { ScuRegisters::new_mmio_fixed() };
    scu.write_invalidate_all_regs_in_secure_state(0xffff);
    scu.modify_control(|control| control | 1);
    // SMP and FW: the core takes part in coherency, and its maintenance is broadcast (DDI 0388 4.3.10).
    let actlr = Actlr(Actlr::read().0 | 0x41);
    // SAFETY: no cache is on yet.
    unsafe { Actlr::write(actlr) };

    // After reset a cache holds anything. A Zynq's data cache has 4 ways of 256 sets of 32 bytes.
    invalidate_l1_data_cache::<2, 5, 8>();
    Iciallu::write();
    BpIAll::write();
    TlbIAll::write();
    dsb();

    // Walks are write-back and Shareable (IRGN = RGN = 01, S = 1), as RAM is mapped.
    let ttbr0 = Ttbr0::new_with_raw_value(TABLE.0.get().addr() as u32 | 0x4a);
    // SAFETY: it is the table that was filled.
    unsafe { Ttbr0::write(ttbr0) };
    // SAFETY: TTBCR = 0, so TTBR0's table translates all addresses (ARM ARM B4.1.153).
    unsafe { asm!("mcr p15, 0, {0}, c2, c0, 2", in(reg) 0, options(nostack, preserves_flags)) };
    // Domain 0 is a client's: permissions are checked.
    Dacr::write(Dacr::new_with_raw_value(1));
    isb();
    Sctlr::modify(|sctlr| {
        sctlr.set_m(true);
        sctlr.set_c(true);
        sctlr.set_i(true);
        sctlr.set_z(true);
    });
}
