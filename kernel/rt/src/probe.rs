//! Probes: accesses that may fault and report it. Tests show with them that an address is out of reach.
//!
//! Guarantees: a probe either does exactly one access of the kind named, or returns the [`Fault`] that it met and
//! changes nothing. It works in Supervisor mode, with interrupts masked or not. It uses no memory but the address
//! probed.

use core::arch::global_asm;

use crate::fault::{Fault, FaultFrame};
use carveout::addr::VirtAddr;

// Each returns r0 = 0 and the value in r1, or r0 = 1 and the fault status register in r1. The abort handler knows the
// two instructions by their addresses. It knows a fetch by the return address that the call left.
global_asm!(
    r#"
    .syntax unified
    .arm
    .section .text.carveout_probe, "ax", %progbits
    .global carveout_probe_read, carveout_probe_write, carveout_probe_exec
    .global carveout_probe_exec_return, carveout_probe_fault, carveout_probe_exec_fault
    @ Called from Thumb too.
    .type carveout_probe_read, %function
    .type carveout_probe_write, %function
    .type carveout_probe_exec, %function
carveout_probe_read:
    ldr     r1, [r0]
    mov     r0, #0
    bx      lr
carveout_probe_write:
    str     r1, [r0]
    mov     r0, #0
    bx      lr
carveout_probe_fault:
    mov     r0, #1
    bx      lr
carveout_probe_exec:
    push    {r4, lr}
    blx     r0
carveout_probe_exec_return:
    mov     r0, #0
    pop     {r4, pc}
carveout_probe_exec_fault:
    mov     r0, #1
    pop     {r4, pc}
    "#,
    options(raw)
);

unsafe extern "C" {
    fn carveout_probe_read(addr: u32) -> u64;
    fn carveout_probe_write(addr: u32, value: u32) -> u64;
    fn carveout_probe_exec(addr: u32) -> u64;
    safe fn carveout_probe_exec_return();
    safe fn carveout_probe_fault();
    safe fn carveout_probe_exec_fault();
}

/// Reads the word at `addr`.
///
/// # Safety
///
/// A read of `addr` that succeeds must have no side effects: no device register that reading changes.
///
/// # Errors
///
/// The [`Fault`] of the read.
pub unsafe fn probe_read32(addr: VirtAddr) -> Result<u32, Fault> {
    // SAFETY: a read that succeeds has no side effects, as this function demands; one that aborts is resumed by
    // `resume_access`, and changes nothing.
    let outcome = unsafe { carveout_probe_read(addr.raw()) };
    value_or(outcome, |dfsr| Fault::from_dfsr(dfsr, addr))
}

/// Writes `value` to the word at `addr`.
///
/// # Safety
///
/// If `addr` can be written, the word there belongs to the caller, and no Rust reference to it is alive.
///
/// # Errors
///
/// The [`Fault`] of the write. Nothing was written.
pub unsafe fn probe_write32(addr: VirtAddr, value: u32) -> Result<(), Fault> {
    // SAFETY: if the write succeeds no reference to the word is alive, as this function demands; one that aborts is
    // resumed by `resume_access`, and changes nothing.
    let outcome = unsafe { carveout_probe_write(addr.raw(), value) };
    value_or(outcome, |dfsr| Fault::from_dfsr(dfsr, addr)).map(|_| ())
}

/// Calls the function at `addr`.
///
/// # Safety
///
/// If `addr` can be executed, a function is there that keeps the procedure call standard, takes nothing and returns.
/// Bit 0 of `addr` is set if it is Thumb code.
///
/// # Errors
///
/// The [`Fault`] of the fetch. Nothing was executed.
pub unsafe fn probe_exec(addr: VirtAddr) -> Result<(), Fault> {
    // SAFETY: code that can be fetched keeps the procedure call standard and returns, as this function demands; a fetch
    // that aborts is resumed by `resume_fetch`.
    let outcome = unsafe { carveout_probe_exec(addr.raw()) };
    value_or(outcome, |ifsr| Fault::from_ifsr(ifsr, addr)).map(|_| ())
}

fn value_or(outcome: u64, fault: impl FnOnce(u32) -> Fault) -> Result<u32, Fault> {
    let (failed, word) = (outcome as u32 != 0, (outcome >> 32) as u32);
    if failed { Err(fault(word)) } else { Ok(word) }
}

/// Makes a probe whose load or store aborted return the fault. Returns whether it was a probe's.
pub(super) fn resume_access(frame: &mut FaultFrame, dfsr: u32) -> bool {
    let probes = [carveout_probe_read as *const () as u32, carveout_probe_write as *const () as u32];
    let hit = probes.contains(&frame.pc);
    if hit {
        frame.r[1] = dfsr;
        frame.pc = carveout_probe_fault as *const () as u32;
    }
    hit
}

/// Makes a probe whose call could not be fetched return the fault. Returns whether it was a probe's.
pub(super) fn resume_fetch(frame: &mut FaultFrame, ifsr: u32) -> bool {
    let hit = frame.pc == frame.r[0] & !1 && frame.lr == carveout_probe_exec_return as *const () as u32;
    if hit {
        frame.r[1] = ifsr;
        frame.pc = carveout_probe_exec_fault as *const () as u32;
    }
    hit
}
