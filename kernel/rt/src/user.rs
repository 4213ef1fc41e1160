//! User mode: a program runs until something interrupts it, and that is told as an [`Event`].
//!
//! Guarantees: [`enter`] returns on the core and on the stack that called it. The program's registers are in its
//! [`Context`] then, as they were when it was interrupted, and the kernel's are as it left them. A context runs in User
//! mode only, with no interrupt masked but fast ones, whatever the program did. While the kernel runs, nothing of a
//! process is mapped ([`in_space`]).
//!
//! A context has no floating-point registers. The kernel uses none, so they are off, and an instruction that names one
//! is [`Event::Undefined`]. A kernel that turns them on for itself (`Stores::Vector` of `carveout-armv7a`) allows them
//! to User mode in CPACR only if it keeps them for each process.

use core::arch::{asm, global_asm};
use core::fmt;

use aarch32_cpu::register::{Dfar, Dfsr, Ifar, Ifsr};

use crate::fault::{CPSR_T, Fault, FaultFrame};
use carveout::addr::VirtAddr;
use carveout::vm::user::UserRoot;
use carveout_armv7a::user::in_space;

// `carveout_user_enter` leaves what it must find again on top of the stack of Supervisor mode, where it stays until an
// exception comes from User mode. `fault_common` (exceptions.rs) then branches to `carveout_user_exit`, in Abort mode
// with interrupts masked: r0 is the vector, and sp the frame with the program's registers.
global_asm!(
    r#"
    .syntax unified
    .arm
    .section .text.carveout_user, "ax", %progbits
    .global carveout_user_enter, carveout_user_exit
    @ Called from Thumb too.
    .type carveout_user_enter, %function
carveout_user_enter:
    mrs     r1, cpsr
    push    {r0, r1, r4-r12, lr}
    ldr     r1, [r0, #16 * 4]               @ FaultFrame.cpsr
    msr     spsr_cxsf, r1
    ldr     lr, [r0, #15 * 4]               @ FaultFrame.pc
    clrex
    ldm     r0, {r0-r14}^                   @ User mode's sp and lr
    movs    pc, lr

carveout_user_exit:
    mov     r1, sp
    add     sp, sp, #17 * 4
    cps     #0x13
    pop     {r2, r3}                        @ the context, and the kernel's CPSR
    ldm     r1!, {r4-r11}
    stm     r2!, {r4-r11}
    ldm     r1!, {r4-r11}
    stm     r2!, {r4-r11}
    ldr     r1, [r1]
    str     r1, [r2]
    msr     cpsr_cxsf, r3
    pop     {r4-r12, lr}
    clrex
    bx      lr
    "#,
    options(raw)
);

unsafe extern "C" {
    /// Runs a frame in User mode, and returns the vector by which it was interrupted. Interrupts are masked.
    fn carveout_user_enter(frame: &mut FaultFrame) -> u32;
}

/// CPSR of a program that begins: User mode, ARM instructions, fast interrupts masked.
const CPSR_USER: u32 = 1 << 6 | 0x10;

/// A program's registers while it does not run.
#[derive(Clone)]
pub struct Context {
    frame: FaultFrame,
    /// TPIDRURW, which User mode may write.
    thread: u32,
}

impl Context {
    /// Makes the registers of a program that begins at `entry` with this stack pointer. Bit 0 of `entry` is set if it
    /// is Thumb code. All other registers are 0.
    pub const fn new(entry: VirtAddr, stack: VirtAddr) -> Self {
        let thumb = if entry.raw() & 1 == 1 { CPSR_T } else { 0 };
        let frame = FaultFrame { r: [0; 13], sp: stack.raw(), lr: 0, pc: entry.raw() & !1, cpsr: CPSR_USER | thumb };
        Self { frame, thread: 0 }
    }

    /// Returns the address of the instruction that comes next.
    pub const fn pc(&self) -> VirtAddr {
        VirtAddr::new(self.frame.pc)
    }

    /// Returns the registers r0 to r12.
    pub const fn registers(&self) -> &[u32; 13] {
        &self.frame.r
    }

    /// Sets one of the registers r0 to r12.
    ///
    /// # Panics
    ///
    /// If `n` is above 12.
    pub const fn set(&mut self, n: usize, value: u32) {
        self.frame.r[n] = value;
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r {:x?} sp {:x} lr {:x}", self.frame.r, self.frame.sp, self.frame.lr)?;
        write!(f, " pc {:x} cpsr {:x}", self.frame.pc, self.frame.cpsr)
    }
}

/// What interrupted a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An SVC. The program goes on after it.
    Call {
        /// Which call: r7. The number in the instruction is not looked at.
        number: u32,
        /// The registers r0 to r5.
        args: [u32; 6],
    },
    /// An interrupt. It is pending, and the kernel takes it as soon as it is not masked.
    Interrupt,
    /// An instruction that could not be fetched. It is the next one.
    PrefetchAbort(Fault),
    /// A load or a store that could not be done. It is the next instruction, unless the fault is asynchronous.
    DataAbort(Fault),
    /// An instruction that this core does not have, or does not have in User mode. It is the next one.
    Undefined,
}

/// Runs a program in User mode until something interrupts it.
///
/// # Panics
///
/// If a fast interrupt was let through to User mode, which [`Context::new`] does not.
pub fn enter(context: &mut Context, root: UserRoot<'_>) -> Event {
    in_space(root, || {
        // SAFETY: writes a register that the kernel does not use.
        unsafe {
            asm!("mcr p15, 0, {0}, c13, c0, 2", in(reg) context.thread, options(nomem, nostack, preserves_flags));
        }
        // SAFETY: the CPSR is one of User mode: `Context::new` or the core itself made it. What User mode reaches is
        // what the tables of a `UserRoot` give users. Interrupts are masked in `in_space`.
        let vector = unsafe { carveout_user_enter(&mut context.frame) };
        // SAFETY: reads the same register.
        unsafe {
            asm!("mrc p15, 0, {0}, c13, c0, 2", out(reg) context.thread, options(nomem, nostack, preserves_flags));
        };
        event(vector, &mut context.frame)
    })
}

/// Reads what happened, before another exception may come. Corrects the address of the next instruction.
fn event(vector: u32, frame: &mut FaultFrame) -> Event {
    match vector {
        1 => {
            frame.correct_thumb();
            Event::Undefined
        }
        2 => {
            // What the vector took off: the return address was the next instruction's, in ARM and in Thumb.
            frame.pc += 4;
            let [r0, r1, r2, r3, r4, r5, _, number, ..] = frame.r;
            Event::Call { number, args: [r0, r1, r2, r3, r4, r5] }
        }
        3 => Event::PrefetchAbort(Fault::from_ifsr(Ifsr::read().raw_value(), VirtAddr::new(Ifar::read().0))),
        4 => Event::DataAbort(Fault::from_dfsr(Dfsr::read().raw_value(), VirtAddr::new(Dfar::read().0))),
        6 => Event::Interrupt,
        _ => unreachable!("User mode took vector {vector}"),
    }
}
