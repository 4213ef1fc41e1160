//! Changes to the live translation tables by hand. A test plants a descriptor that the kernel would never make, and has
//! the audit find it.
//!
//! Guarantees: a [`Plant`] is in the tables, and every walk sees it, for as long as it lives. Afterwards the old word
//! is back, and no TLB holds the planted translation.

use alloc::string::String;
use carveout::addr::{FRAME_SIZE, PhysAddr, SECTION_SIZE, VirtAddr};
use carveout::machine::{Mmu, Registers};
use carveout::vm::attr::{Access, LeafSize, MemoryType};
use carveout::vm::audit::{Finding, Findings, Report};
use carveout::vm::desc::{L1Desc, L1Entry};
use carveout::vm::walk::Ttbr;
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::kernel::state::Kernel;
use carveout_boot::upper_half::DEVICES;
use core::arch::asm;
use core::ptr::NonNull;

use crate::{Verdict, after, audit, ensure_eq, share};

/// The place of a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The first address that it translates.
    va: VirtAddr,
    /// The bytes that it translates.
    bytes: u32,
    /// The physical address of the word.
    at: PhysAddr,
}

impl Place {
    /// Returns the place of the first-level descriptor for the section of `va`.
    pub fn first_level(kernel: &Kernel, va: VirtAddr) -> Self {
        let section = va.raw() / SECTION_SIZE;
        // One table serves both halves.
        let at = PhysAddr::new(kernel.machine.registers().table(Ttbr::Ttbr1).raw() + 4 * section);
        Self { va: VirtAddr::new(section * SECTION_SIZE), bytes: SECTION_SIZE, at }
    }

    /// Returns the place of the second-level descriptor for the page of `va`, if its section has a table.
    pub fn second_level(kernel: &Kernel, va: VirtAddr) -> Option<Self> {
        let first = Self::first_level(kernel, va);
        let L1Entry::Table(table) = L1Desc::from_raw(first.word(kernel)?).decode() else { return None };
        let page = va.raw() % SECTION_SIZE / FRAME_SIZE;
        let at = PhysAddr::new(table.raw() + 4 * page);
        Some(Self { va: VirtAddr::new(va.raw() & !(FRAME_SIZE - 1)), bytes: FRAME_SIZE, at })
    }

    /// Returns the word at this place.
    pub fn word(&self, kernel: &Kernel) -> Option<u32> {
        kernel.machine.table_word(self.at)
    }

    /// Returns the physical address of the word.
    pub const fn at(&self) -> PhysAddr {
        self.at
    }

    /// Returns the pointer through which the CPU writes the word.
    pub fn pointer(&self, kernel: &Kernel) -> Option<NonNull<u32>> {
        kernel.machine.table(self.at, 4)
    }
}

/// A word that was put into the live tables. Dropping this puts the old word back.
#[derive(Debug)]
pub struct Plant {
    machine: &'static Armv7a,
    place: Place,
    word: NonNull<u32>,
    before: u32,
}

impl Plant {
    /// Writes `word` at `place`. Returns `None` if the place is in no table that the CPU can write.
    ///
    /// # Safety
    ///
    /// While the value lives, nothing maps or unmaps in that section, only probes access what the word translates, and
    /// code and data in use stay mapped. An alias of two types is UNPREDICTABLE once it is accessed (ARM ARM A3.5.7).
    /// The tests plant it, have the audit find it, and remove it.
    pub unsafe fn new(kernel: &'static Kernel, place: Place, word: u32) -> Option<Self> {
        let before = place.word(kernel)?;
        let plant = Self { machine: kernel.machine, place, word: place.pointer(kernel)?, before };
        plant.write(word);
        plant.machine.invalidate_tlb(place.va, place.bytes, LeafSize::Page);
        Some(plant)
    }

    /// Puts the old word back without a TLB invalidate, like a kernel that forgets the invalidate. The drop that
    /// follows does it.
    pub fn withdraw_from_memory_only(&self) {
        self.write(self.before);
    }

    fn write(&self, word: u32) {
        // SAFETY: this is a word of a live table, which stays mapped writable. The contract of `new` says who may use
        // it meanwhile.
        unsafe { self.word.write_volatile(word) };
        // SAFETY: as above. The reference ends with this call, in which nothing writes.
        let written = unsafe { self.word.as_ref() };
        self.machine.publish(self.place.at, core::slice::from_ref(written));
    }
}

impl Drop for Plant {
    fn drop(&mut self) {
        self.write(self.before);
        self.machine.invalidate_tlb(self.place.va, self.place.bytes, LeafSize::Page);
    }
}

/// Returns an unused section between the devices and the device tree.
pub fn nobodys() -> VirtAddr {
    after(DEVICES.start(), DEVICES.sections() * SECTION_SIZE)
}

/// Returns the descriptor of a section as the kernel would make it.
pub fn section(base: PhysAddr, memory: MemoryType, access: Access) -> u32 {
    L1Desc::section(base, memory, access, share()).raw()
}

/// Plants a word, and checks that the audit reports this finding and no other kind. Removes the word, and checks that
/// the audit reports nothing.
///
/// # Safety
///
/// As for [`Plant::new`].
pub unsafe fn finds(kernel: &'static Kernel, place: Place, word: u32, expected: Finding) -> Verdict {
    audit(kernel)?;
    // SAFETY: `Plant::new` asks for what this function asks for.
    let plant = unsafe { Plant::new(kernel, place, word) }.ok_or("the table cannot be written")?;
    let found = kernel.audit();
    drop(plant);
    let findings = must_find(found)?;
    ensure_eq!(findings.first, expected, "the audit of {word:#010x} at {place:?}");
    ensure_eq!(findings.like(&expected), findings.total(), "findings of that kind, of {word:#010x} at {place:?}");
    audit(kernel)
}

/// Returns the findings of an audit. It is an error if the audit found nothing.
pub fn must_find(verdict: Result<Report, Findings>) -> Result<Findings, String> {
    verdict.err().ok_or_else(|| String::from("the audit found nothing"))
}

/// Writes the registers that give this core's tables their meaning, except ACTLR, and invalidates the TLB entries that
/// the old values made.
///
/// # Safety
///
/// Under the new values, text, stack, data and tables are reached as before, and nothing uses a mapping that they
/// change until the old ones are back.
pub unsafe fn set_registers(registers: &Registers) {
    let &Registers { sctlr, ttbr0, ttbr1, ttbcr, dacr, prrr, nmrr, .. } = registers;
    // SAFETY: the contract above.
    unsafe {
        asm!(
            "dsb",
            "mcr p15, 0, {prrr}, c10, c2, 0",
            "mcr p15, 0, {nmrr}, c10, c2, 1",
            "mcr p15, 0, {dacr}, c3, c0, 0",
            "mcr p15, 0, {ttbr0}, c2, c0, 0",
            "mcr p15, 0, {ttbr1}, c2, c0, 1",
            "mcr p15, 0, {ttbcr}, c2, c0, 2",
            "mcr p15, 0, {sctlr}, c1, c0, 0",
            "isb",
            "mcr p15, 0, {zero}, c8, c7, 0",
            "dsb",
            "isb",
            prrr = in(reg) prrr,
            nmrr = in(reg) nmrr,
            dacr = in(reg) dacr,
            ttbr0 = in(reg) ttbr0,
            ttbr1 = in(reg) ttbr1,
            ttbcr = in(reg) ttbcr,
            sctlr = in(reg) sctlr,
            zero = in(reg) 0,
            options(nostack, preserves_flags)
        );
    }
}
