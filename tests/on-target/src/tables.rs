//! The live translation tables, by hand: how a test plants what the kernel would never make, and has the audit find it.
//!
//! Guarantees: a [`Plant`] is in the tables, and every walk sees it, for as long as it lives; afterwards the word is
//! what it was and no TLB holds the translation.

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

/// Where a descriptor stands.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// What it translates, first address.
    va: VirtAddr,
    /// Bytes of it.
    bytes: u32,
    /// The word, as the walker finds it.
    at: PhysAddr,
}

impl Place {
    /// The first-level descriptor of the section that holds `va`.
    pub fn first_level(kernel: &Kernel, va: VirtAddr) -> Self {
        let section = va.raw() / SECTION_SIZE;
        // One table serves both halves.
        let at = PhysAddr::new(kernel.machine.registers().table(Ttbr::Ttbr1).raw() + 4 * section);
        Self { va: VirtAddr::new(section * SECTION_SIZE), bytes: SECTION_SIZE, at }
    }

    /// The second-level descriptor of the page that holds `va`, if its section has a table.
    pub fn second_level(kernel: &Kernel, va: VirtAddr) -> Option<Self> {
        let first = Self::first_level(kernel, va);
        let L1Entry::Table(table) = L1Desc::from_raw(first.word(kernel)?).decode() else { return None };
        let page = va.raw() % SECTION_SIZE / FRAME_SIZE;
        let at = PhysAddr::new(table.raw() + 4 * page);
        Some(Self { va: VirtAddr::new(va.raw() & !(FRAME_SIZE - 1)), bytes: FRAME_SIZE, at })
    }

    /// The word that stands there.
    pub fn word(&self, kernel: &Kernel) -> Option<u32> {
        kernel.machine.table_word(self.at)
    }

    /// Where the walker finds the word.
    pub const fn at(&self) -> PhysAddr {
        self.at
    }

    /// Through which address the CPU writes the word.
    pub fn pointer(&self, kernel: &Kernel) -> Option<NonNull<u32>> {
        kernel.machine.table(self.at, 4)
    }
}

/// A word put into the live tables; dropping it puts back what was there.
#[derive(Debug)]
pub struct Plant {
    machine: &'static Armv7a,
    place: Place,
    word: NonNull<u32>,
    before: u32,
}

impl Plant {
    /// Writes `word` at `place`. `None` if the place is in no table that the CPU can write.
    ///
    /// # Safety
    ///
    /// While it lives nothing maps or unmaps in that section, nothing accesses what the word translates but by a
    /// probe, and code and data in use stay mapped. An alias of two types is UNPREDICTABLE once it is accessed (ARM
    /// ARM A3.5.7): the tests plant it, have the audit find it, and take it away.
    pub unsafe fn new(kernel: &'static Kernel, place: Place, word: u32) -> Option<Self> {
        let before = place.word(kernel)?;
        let plant = Self { machine: kernel.machine, place, word: place.pointer(kernel)?, before };
        plant.write(word);
        plant.machine.invalidate_tlb(place.va, place.bytes, LeafSize::Page);
        Some(plant)
    }

    /// Puts back what was there, and leaves the TLB as it is: what a kernel that forgets the invalidate does. The drop
    /// that follows makes up for it.
    pub fn withdraw_from_memory_only(&self) {
        self.write(self.before);
    }

    fn write(&self, word: u32) {
        // SAFETY: a word of a live table, mapped writable for good; who may use it meanwhile is the contract of `new`.
        unsafe { self.word.write_volatile(word) };
        // SAFETY: as above; the reference ends with this call, in which nothing writes.
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

/// A section between the devices and the device tree, which is nobody's.
pub fn nobodys() -> VirtAddr {
    after(DEVICES.start(), DEVICES.sections() * SECTION_SIZE)
}

/// The descriptor of a section as the kernel would make it.
pub fn section(base: PhysAddr, memory: MemoryType, access: Access) -> u32 {
    L1Desc::section(base, memory, access, share()).raw()
}

/// Plants a word, expects the finding and none of another kind, takes the word away, expects none.
///
/// # Safety
///
/// That of [`Plant::new`].
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

/// What an audit found, which must be something.
pub fn must_find(verdict: Result<Report, Findings>) -> Result<Findings, String> {
    verdict.err().ok_or_else(|| String::from("the audit found nothing"))
}

/// Writes the registers that give this core's tables their meaning, ACTLR not, and has its TLB forget what it holds by
/// the old ones.
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
