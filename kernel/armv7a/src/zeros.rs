//! Zeros: which stores write them.
//!
//! Guarantees: every byte of the frames is written, and no register keeps another value than it had. Vector registers
//! are used only where they were chosen, and only on a core that has them on at that moment. Elsewhere the core's own
//! registers are used.

use core::arch::asm;
use core::fmt;

/// The stores that write zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stores {
    /// `stm` of eight of the core's registers: 32 bytes.
    Core,
    /// `vstm` of sixteen vector registers: 128 bytes. The registers are saved on the stack, which takes 128 bytes, and
    /// given back.
    Vector,
}

/// Why vector registers cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoVectors {
    /// CPACR denies them to this core, or the core has none.
    Denied {
        /// CPACR. Its bits 22 and 20 allow them to the kernel. If bits 23 and 21 are set too, users have them.
        cpacr: u32,
    },
    /// FPEXC.EN is clear.
    Off {
        /// FPEXC.
        fpexc: u32,
    },
}

impl fmt::Display for NoVectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied { cpacr } => {
                write!(
                    f,
                    "no vector registers: CPACR is {cpacr:#010x}, and needs bits 22 and 20; set them, on every core"
                )
            }
            Self::Off { fpexc } => {
                write!(f, "no vector registers: FPEXC is {fpexc:#010x}, and needs bit 30; set it, on every core")
            }
        }
    }
}

impl core::error::Error for NoVectors {}

/// Writes zeros to whole frames, at least one, that are valid for writes.
pub(super) type ZeroFrames = unsafe fn(at: *mut u8, bytes: usize);

/// Returns what writes zeros by these stores.
pub(super) fn by(stores: Stores) -> Result<ZeroFrames, NoVectors> {
    match stores {
        Stores::Core => Ok(by_core),
        Stores::Vector => vectors_are_on().map(|()| by_vector as ZeroFrames),
    }
}

/// Looks whether this core has vector registers on.
fn vectors_are_on() -> Result<(), NoVectors> {
    const KERNEL: u32 = 0b0101 << 20;
    const EN: u32 = 1 << 30;
    let (cpacr, fpexc): (u32, u32);
    // SAFETY: reads CPACR.
    unsafe { asm!("mrc p15, 0, {0}, c1, c0, 2", out(reg) cpacr, options(nomem, nostack, preserves_flags)) };
    if cpacr & KERNEL != KERNEL {
        return Err(NoVectors::Denied { cpacr });
    }
    // SAFETY: reads FPEXC, which CPACR allows.
    unsafe { asm!(".fpu vfpv3-d16", "vmrs {0}, fpexc", out(reg) fpexc, options(nomem, nostack, preserves_flags)) };
    if fpexc & EN == 0 { Err(NoVectors::Off { fpexc }) } else { Ok(()) }
}

/// Writes zeros by [`Stores::Core`].
///
/// # Safety
///
/// As [`ZeroFrames`] says.
pub(super) unsafe fn by_core(at: *mut u8, bytes: usize) {
    // Eight registers a store are a line, which write buffer and bus take as one burst; 130 instructions a frame. Of
    // the registers a compiler leaves to assembly these are the most that do not split a line. SAFETY: stores to bytes
    // that are valid for them, as this function demands; a turn is a frame.
    unsafe {
        asm!(
            "2:",
            carveout::sixty_four_times!(
                "stm {at}!, {{r0, r1, r2, r3, r4, r5, r8, r10}}"
                "stm {at}!, {{r0, r1, r2, r3, r4, r5, r8, r10}}"
            ),
            "cmp {at}, {end}",
            "bne 2b",
            at = inout(reg) at => _,
            end = in(reg) at.wrapping_add(bytes),
            in("r0") 0, in("r1") 0, in("r2") 0, in("r3") 0, in("r4") 0, in("r5") 0, in("r8") 0, in("r10") 0,
            options(nostack)
        );
    }
}

/// Writes zeros by [`Stores::Vector`] if the vector registers are on, else by the core's.
///
/// # Safety
///
/// As [`ZeroFrames`] says.
unsafe fn by_vector(at: *mut u8, bytes: usize) {
    if vectors_are_on().is_err() {
        // SAFETY: as this function demands.
        return unsafe { by_core(at, bytes) };
    }
    // 34 instructions a frame. SAFETY: stores to bytes that are valid for them, as this function demands; a turn is a
    // frame. The registers are on, and each is given back.
    unsafe {
        asm!(
            ".fpu vfpv3-d16",
            "vpush {{d0-d15}}",
            "vmov d0, {zero}, {zero}",
            "vmov d1, {zero}, {zero}",
            "vmov d2, {zero}, {zero}",
            "vmov d3, {zero}, {zero}",
            "vmov d4, {zero}, {zero}",
            "vmov d5, {zero}, {zero}",
            "vmov d6, {zero}, {zero}",
            "vmov d7, {zero}, {zero}",
            "vmov d8, {zero}, {zero}",
            "vmov d9, {zero}, {zero}",
            "vmov d10, {zero}, {zero}",
            "vmov d11, {zero}, {zero}",
            "vmov d12, {zero}, {zero}",
            "vmov d13, {zero}, {zero}",
            "vmov d14, {zero}, {zero}",
            "vmov d15, {zero}, {zero}",
            "2:",
            carveout::eight_times!(
                "vstmia {at}!, {{d0-d15}}"
                "vstmia {at}!, {{d0-d15}}"
                "vstmia {at}!, {{d0-d15}}"
                "vstmia {at}!, {{d0-d15}}"
            ),
            "cmp {at}, {end}",
            "bne 2b",
            "vpop {{d0-d15}}",
            at = inout(reg) at => _,
            end = in(reg) at.wrapping_add(bytes),
            zero = in(reg) 0,
        );
    }
}
