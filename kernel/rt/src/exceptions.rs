//! Exception vectors: every fault becomes an [`Exception`] that a person can read. Interrupts reach one function.
//!
//! Guarantees: each fault is reported on a stack of its own, with all registers as they were at the instruction that
//! caused it. This holds also if the fault is a stack's that ran into its guard page. A fault during a report ends in a
//! shorter report, and another one parks the core, so reporting never loops. Fault handlers return only to [`probe`]s.
//! What interrupts User mode is no fault of the kernel's: it becomes an [`Event`](crate::user::Event).
//!
//! The vectors save no floating-point registers: the target's code uses none.

use core::arch::global_asm;
use core::fmt::{self, Write};
use core::mem;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use aarch32_cpu::register::{Dfar, Dfsr, Ifar, Ifsr};
use arrayvec::ArrayString;

use crate::fault::{Fault, FaultFrame};
use crate::probe;
use carveout::addr::VirtAddr;
use carveout::cpu::{CoreId, MAX_CORES};

// Each fault vector leaves a `FaultFrame` on the stack of Abort mode: SRS stores the return address and the saved
// status there whatever mode took the exception. Interrupts use the stack of Supervisor mode, which is where they
// interrupt. An exception from User mode, an interrupt too, leaves its frame on Abort mode's stack for a moment, and
// user.rs takes it from there.
global_asm!(
    r#"
    .syntax unified
    .arm

    .macro fault_vector kind, correction
    sub     lr, lr, #\correction
    srsdb   sp!, #0x17
    cpsid   if, #0x17
    sub     sp, sp, #8
    push    {r0-r12}
    mov     r0, #\kind
    b       fault_common
    .endm

    .section .text.carveout_vectors, "ax", %progbits
    .balign 32
    .global carveout_vectors
carveout_vectors:
    b       vector_reset
    b       vector_undefined
    b       vector_svc
    b       vector_prefetch_abort
    b       vector_data_abort
    b       vector_reserved
    b       vector_irq
    b       vector_fiq

vector_reset:
    fault_vector 0, 0
vector_undefined:
    fault_vector 1, 4
vector_svc:
    fault_vector 2, 4
vector_prefetch_abort:
    fault_vector 3, 4
vector_data_abort:
    fault_vector 4, 8
vector_reserved:
    fault_vector 5, 0
vector_user_irq:
    fault_vector 6, 4
vector_fiq:
    fault_vector 7, 4

fault_common:
    @ The interrupted mode's sp and lr are banked: visit it, unless it is Abort mode itself.
    add     r4, sp, #13 * 4                 @ FaultFrame.sp
    ldr     r1, [r4, #12]                   @ FaultFrame.cpsr
    and     r1, r1, #0x1f
    mrs     r3, cpsr
    cmp     r1, #0x10                       @ User shares its registers with System
    moveq   r1, #0x1f
    orr     r1, r1, #0xc0
    add     r5, r4, #16
    mov     r6, lr
    cmp     r1, #0xd7
    beq     1f
    msr     cpsr_c, r1
    mov     r5, sp
    mov     r6, lr
    msr     cpsr_c, r3
1:  stm     r4, {r5, r6}
    ldr     r1, [r4, #12]
    cmp     r0, #7                          @ nobody unmasked a fast interrupt
    beq     1f
    tst     r1, #0xf                        @ User mode alone has none of these bits
    beq     carveout_user_exit
1:  mov     r1, sp
    mov     r5, sp
    bic     sp, sp, #7
    bl      carveout_fault
    mov     sp, r5
    clrex
    pop     {r0-r12}
    add     sp, sp, #8
    rfeia   sp!

    @ This mode's own sp has no other use. User mode alone has none of these bits.
vector_irq:
    mrs     sp, spsr
    tst     sp, #0xf
    beq     vector_user_irq
    sub     lr, lr, #4
    srsdb   sp!, #0x13
    cps     #0x13
    push    {r0-r3, r12, lr}
    and     r1, sp, #4
    sub     sp, sp, r1
    push    {r1, r2}
    bl      carveout_irq
    pop     {r1, r2}
    add     sp, sp, r1
    pop     {r0-r3, r12, lr}
    clrex
    rfeia   sp!
    "#,
    options(raw)
);

unsafe extern "C" {
    /// Prints `message`, which ends in a zero byte, over semihosting and exits with 101 (head.s). Without semihosting
    /// the SVC comes back here as an exception.
    fn carveout_die(message: *const u8) -> !;
    /// Masks everything and waits for ever (head.s).
    safe fn carveout_park() -> !;
}

/// The vector by which an exception came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vector {
    /// A branch to the reset vector or the reserved one. No exception comes by these.
    Stray,
    /// An instruction that this core does not have, or does not have in this mode.
    Undefined,
    /// An SVC of the kernel's own. A semihosting call that nobody answered looks like this.
    SupervisorCall,
    /// An instruction that could not be fetched.
    PrefetchAbort(Fault),
    /// A load, store or maintenance operation that could not be done.
    DataAbort(Fault),
    /// A fast interrupt, which nothing here uses.
    Fiq,
}

/// An exception, and the state that it interrupted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exception {
    /// The vector by which it came.
    pub vector: Vector,
    /// The registers r0 to r12.
    pub r: [u32; 13],
    /// The stack pointer of the interrupted mode.
    pub sp: u32,
    /// The link register of the interrupted mode. The exception overwrote it if that mode handles the exception: an SVC
    /// from Supervisor mode, an abort from Abort mode.
    pub lr: u32,
    /// The instruction that caused it. After an asynchronous abort or a fast interrupt it is the next one to run.
    pub pc: VirtAddr,
    /// The interrupted CPSR.
    pub cpsr: u32,
}

impl Exception {
    /// Returns the interrupted mode's name.
    pub const fn mode(&self) -> &'static str {
        match self.cpsr & 0x1f {
            0x10 => "User",
            0x11 => "FIQ",
            0x12 => "IRQ",
            0x13 => "Supervisor",
            0x16 => "Monitor",
            0x17 => "Abort",
            0x1a => "Hyp",
            0x1b => "Undefined",
            0x1f => "System",
            _ => "reserved",
        }
    }

    /// Returns the abort's cause, if it was an abort.
    pub const fn fault(&self) -> Option<&Fault> {
        match &self.vector {
            Vector::PrefetchAbort(fault) | Vector::DataAbort(fault) => Some(fault),
            _ => None,
        }
    }
}

impl fmt::Display for Exception {
    /// Writes a line that says what happened, then three lines of registers, without a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.vector {
            Vector::Stray => f.write_str("branch to the reset or the reserved vector")?,
            Vector::Undefined => f.write_str("undefined instruction")?,
            Vector::SupervisorCall => f.write_str("supervisor call")?,
            Vector::PrefetchAbort(fault) => write!(f, "prefetch abort: {fault}")?,
            Vector::DataAbort(fault) => write!(f, "data abort: {fault}")?,
            Vector::Fiq => f.write_str("fast interrupt")?,
        }
        write!(f, ", in {} mode, pc {}", self.mode(), self.pc)?;
        for (number, value) in self.r.iter().enumerate() {
            let before = if number % 6 == 0 { "\n " } else { "" };
            write!(f, "{before} r{number:<2} {value:08x}")?;
        }
        write!(f, " sp  {:08x} lr  {:08x} psr {:08x}", self.sp, self.lr, self.cpsr)
    }
}

/// The function that faults are reported to. Null means [`report_by_semihosting`].
static FAULT_HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// The function that interrupts go to. Null means none.
static IRQ_HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// The number of faults that each core took so far, without those of probes.
static DEPTH: [AtomicU32; MAX_CORES] = [const { AtomicU32::new(0) }; MAX_CORES];

/// Sets the function that is called at each fault, in Abort mode on the stack of faults (16 KiB), with interrupts
/// masked. What it prints must not wait for a lock that the interrupted code may hold. Before this call, faults are
/// printed over semihosting and end the program with 101.
pub fn on_fault(hook: fn(&Exception) -> !) {
    FAULT_HOOK.store(hook as *mut (), Ordering::Release);
}

/// Sets the function that is called at each interrupt, in Supervisor mode on the interrupted stack, with interrupts
/// masked. It asks the interrupt controller which interrupt it is, and acknowledges it. An interrupt before this call
/// is a fault of the program: it panics.
pub fn on_irq(hook: fn()) {
    IRQ_HOOK.store(hook as *mut (), Ordering::Release);
}

/// Handles a fault, for the fault vectors. It returns only when a probe faulted, with the frame changed so that the
/// probe goes on.
#[unsafe(no_mangle)]
extern "C" fn carveout_fault(kind: u32, frame: &mut FaultFrame) {
    if matches!(kind, 1 | 2) {
        frame.correct_thumb();
    }
    let vector = match kind {
        1 => Vector::Undefined,
        2 => Vector::SupervisorCall,
        3 => {
            let (ifsr, ifar) = (Ifsr::read().raw_value(), Ifar::read().0);
            if probe::resume_fetch(frame, ifsr) {
                return;
            }
            Vector::PrefetchAbort(Fault::from_ifsr(ifsr, VirtAddr::new(ifar)))
        }
        4 => {
            let (dfsr, dfar) = (Dfsr::read().raw_value(), Dfar::read().0);
            if probe::resume_access(frame, dfsr) {
                return;
            }
            Vector::DataAbort(Fault::from_dfsr(dfsr, VirtAddr::new(dfar)))
        }
        7 => Vector::Fiq,
        _ => Vector::Stray,
    };
    let exception =
        Exception { vector, r: frame.r, sp: frame.sp, lr: frame.lr, pc: VirtAddr::new(frame.pc), cpsr: frame.cpsr };
    match (DEPTH[CoreId::current().index()].fetch_add(1, Ordering::Relaxed), exception.vector) {
        (0, _) => {
            let hook = FAULT_HOOK.load(Ordering::Acquire);
            if hook.is_null() {
                report_by_semihosting(&exception)
            }
            // SAFETY: only `on_fault` stores here, a function of this type.
            let hook = unsafe { mem::transmute::<*mut (), fn(&Exception) -> !>(hook) };
            hook(&exception)
        }
        // Nobody answered a semihosting call of the report. So the report is printed already, or it cannot be.
        (1, Vector::SupervisorCall) => carveout_park(),
        (1, _) => report_by_semihosting(&exception),
        _ => carveout_park(),
    }
}

/// Prints `exception` over semihosting and ends the program with 101. Parks the core where nobody answers.
fn report_by_semihosting(exception: &Exception) -> ! {
    let mut message = ArrayString::<512>::new();
    // The longest exception takes some 400 bytes. One that does not fit is cut, and its beginning is printed.
    let _ = write!(message, "carveout: {exception}");
    let end = message.len().min(message.capacity() - 2);
    message.truncate(end);
    message.push_str("\n\0");
    // SAFETY: the message ends in a zero byte.
    unsafe { carveout_die(message.as_ptr()) }
}

/// Handles an interrupt, for the interrupt vector.
#[unsafe(no_mangle)]
extern "C" fn carveout_irq() {
    let hook = IRQ_HOOK.load(Ordering::Acquire);
    assert!(!hook.is_null(), "an interrupt, but exceptions::on_irq was never called");
    // SAFETY: only `on_irq` stores here, a function of this type.
    let hook = unsafe { mem::transmute::<*mut (), fn()>(hook) };
    hook();
}
