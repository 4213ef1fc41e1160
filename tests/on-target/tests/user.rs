//! User mode on the machine itself: what interrupts a program, what it keeps over that, and what it cannot reach (I1,
//! I2, I5).
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use carveout::addr::{FRAME_SIZE, VirtAddr};
use carveout::vm::attr::MemoryType;
use carveout::vm::mapped::Mapped;
use carveout::vm::user::{Asid, UserAccess, UserSpace};
use carveout::vm::user_tables::UserTables;
use carveout_armv7a::mmu::Armv7a;
use carveout_armv7a::user::in_space;
use carveout_boards::kernel::frames::Frames;
use carveout_boards::kernel::state::Kernel;
use carveout_boards::kernel::{interrupts, known, process, schedule};
use carveout_boards::println;
use carveout_rt::fault::{Access, Fault, FaultStatus, Level};
use carveout_rt::user::{Context, Event, enter};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering};
use on_target::{Verdict, address_of, after, alloc, checks, ensure, ensure_eq, is_unmapped, read};

checks![
    a_call_has_its_number_and_its_arguments,
    an_undefined_instruction_is_told_at_its_address,
    thumb_code_runs_and_is_told_at_its_address,
    a_program_has_no_vector_registers,
    registers_are_kept_over_an_interrupt,
    what_programs_compute_does_not_depend_on_their_turns,
    a_process_waits_for_an_event,
    the_kernel_is_out_of_reach,
    code_is_not_written_and_data_not_executed,
    a_page_of_carved_memory_has_the_rights_it_was_given,
    an_unmapped_page_is_gone_from_the_tlb,
    a_process_does_not_see_another,
];

// Programs without absolute addresses, which are copied to pages of a process. Each begins at a label.
global_asm!(
    r#"
    .syntax unified
    .arm
    .section .rodata.user_programs, "a", %progbits
    .balign 4
    .global user_programs, user_call, user_undefined, user_vector, user_read, user_write
    .global user_jump, user_spin, user_thumb, user_compute, user_compute_end, user_programs_end
user_programs:
user_call:
    mov     r0, #1
    mov     r1, #2
    mov     r2, #3
    mov     r3, #4
    mov     r4, #5
    mov     r5, #6
    mov     r7, #42
    svc     #0
    add     r0, r0, #1
    mov     r7, #43
    svc     #0
    b       user_call
user_undefined:
    nop
    udf     #1
user_vector:
    .word   0xee000b10                      @ vmov.32 d0[0], r0
user_read:
    ldr     r0, [r0]
    svc     #0
user_write:
    str     r1, [r0]
    svc     #0
user_jump:
    bx      r0
user_spin:
    b       user_spin
    @ A number that depends on every register and on the flags in every step: r0 in the end. r1: steps.
user_compute:
    mov     r2, r0
    mov     r3, r0
    mov     r4, r0
    mov     r5, r0
    mov     r6, r0
    mov     r7, r0
    mov     r8, r0
    mov     r9, r0
    mov     r10, r0
    mov     r11, r0
    mov     r12, r0
    mov     lr, r0
1:  adcs    r2, r2, r3, ror #7
    adcs    r3, r3, r4, ror #9
    adcs    r4, r4, r5
    adcs    r5, r5, r6, ror #3
    eors    r6, r6, r7
    adcs    r7, r7, r8, ror #11
    adcs    r8, r8, r9
    adcs    r9, r9, r10, ror #5
    eors    r10, r10, r11
    adcs    r11, r11, r12
    adcs    r12, r12, lr, ror #13
    adcs    lr, lr, sp
    adc     sp, sp, r2, ror #1
    sub     r1, r1, #1
    teq     r1, #0                          @ the carry goes round, for an emulator interrupts at branches
    bne     1b
    eor     r0, r2, r3
    eor     r0, r0, r4
    eor     r0, r0, r5
    eor     r0, r0, r6
    eor     r0, r0, r7
    eor     r0, r0, r8
    eor     r0, r0, r9
    eor     r0, r0, r10
    eor     r0, r0, r11
    eor     r0, r0, r12
    eor     r0, r0, lr
    eor     r0, r0, sp
    mov     r7, #0
    svc     #0
user_compute_end:
    .thumb
user_thumb:
    movs    r7, #7
    svc     #0
    movs    r7, #8
    udf     #1
    nop
    .balign 4
user_programs_end:
    .arm
    "#,
    options(raw)
);

unsafe extern "C" {
    static user_programs: u32;
    static user_programs_end: u32;
    static user_call: u32;
    static user_undefined: u32;
    static user_vector: u32;
    static user_read: u32;
    static user_write: u32;
    static user_jump: u32;
    static user_spin: u32;
    static user_thumb: u32;
    static user_compute: u32;
    static user_compute_end: u32;
}

/// Where a program's address is in a process.
macro_rules! entry {
    ($label:ident) => {
        after(CODE, (&raw const $label) as u32 - (&raw const user_programs) as u32)
    };
}

const CODE: VirtAddr = VirtAddr::new(0x0010_0000);
const DATA: VirtAddr = VirtAddr::new(0x0020_1000);
const STACK: VirtAddr = after(DATA, FRAME_SIZE);

/// A process. Its tables go before its frames.
struct Process {
    tables: UserTables<Armv7a>,
    _memory: [Frames; 2],
    data: Frames,
}

impl Process {
    /// Makes a process of all programs, with a page of data.
    fn new(kernel: &'static Kernel, asid: u8) -> Result<Self, String> {
        let frames = |count, align| Frames::take(count, align).ok_or("the heap is full");
        let (tables, mut code, data) = (frames(3, 2 * FRAME_SIZE)?, frames(1, 1)?, frames(1, 1)?);
        let programs = words(&raw const user_programs, &raw const user_programs_end);
        code.words()[..programs.len()].copy_from_slice(programs);
        kernel.machine.publish_code(code.words());
        let asid = Asid::new(asid).ok_or("no ASID")?;
        // SAFETY: the memory is held by the process for longer than the tables. Each check drops its processes, and
        // gives those that it has at once different numbers.
        let space = unsafe { UserTables::new(kernel.machine, asid, tables.frames()) }.ok_or("the heap is full")?;
        // SAFETY: the process's frames, held for longer than the tables; the direct map has them write-back; published.
        let mapped = unsafe { space.map_own(CODE, code.frames(), None) };
        ensure!(mapped, "no room for the code");
        // SAFETY: as above; zeroed.
        let mapped = unsafe { space.map_own(DATA, data.frames(), Some(UserAccess::ReadWrite)) };
        ensure!(mapped, "no room for the data");
        Ok(Self { tables: space, _memory: [tables, code], data })
    }

    /// Runs a program with r0 and r1 set.
    fn run(&self, entry: VirtAddr, r0: VirtAddr, r1: u32) -> Event {
        let mut context = Context::new(entry, STACK);
        context.set(0, r0.raw());
        context.set(1, r1);
        enter(&mut context, self.tables.root())
    }
}

fn a_call_has_its_number_and_its_arguments(kernel: &'static Kernel) -> Verdict {
    let process = Process::new(kernel, 1)?;
    let mut context = Context::new(entry!(user_call), STACK);
    for round in 0..1000 {
        let event = enter(&mut context, process.tables.root());
        ensure_eq!(event, Event::Call { number: 42, args: [1, 2, 3, 4, 5, 6] }, "the first call");
        context.set(0, round);
        let event = enter(&mut context, process.tables.root());
        ensure_eq!(event, Event::Call { number: 43, args: [round + 1, 2, 3, 4, 5, 6] }, "the call after the answer");
    }
    Ok(())
}

fn an_undefined_instruction_is_told_at_its_address(kernel: &'static Kernel) -> Verdict {
    let process = Process::new(kernel, 1)?;
    let mut context = Context::new(entry!(user_undefined), STACK);
    ensure_eq!(enter(&mut context, process.tables.root()), Event::Undefined, "the event");
    ensure_eq!(context.pc(), after(entry!(user_undefined), 4), "its address");
    Ok(())
}

fn thumb_code_runs_and_is_told_at_its_address(kernel: &'static Kernel) -> Verdict {
    let process = Process::new(kernel, 1)?;
    let mut context = Context::new(after(entry!(user_thumb), 1), STACK);
    let event = enter(&mut context, process.tables.root());
    ensure_eq!(event, Event::Call { number: 7, args: [0; 6] }, "the call");
    ensure_eq!(context.pc(), after(entry!(user_thumb), 4), "the instruction after it");
    ensure_eq!(enter(&mut context, process.tables.root()), Event::Undefined, "the event");
    ensure_eq!(context.pc(), after(entry!(user_thumb), 6), "its address");
    ensure_eq!(context.registers()[7], 8, "r7");
    Ok(())
}

/// Also where the kernel has them for itself (`stores=vector`): nobody would keep them.
fn a_program_has_no_vector_registers(kernel: &'static Kernel) -> Verdict {
    let process = Process::new(kernel, 1)?;
    ensure_eq!(process.run(entry!(user_vector), DATA, 0), Event::Undefined, "the event");
    Ok(())
}

/// The words between two labels.
fn words(first: *const u32, end: *const u32) -> &'static [u32] {
    // SAFETY: the labels stand around words of this image, which nothing writes.
    unsafe { core::slice::from_raw_parts(first, (end.addr() - first.addr()) / 4) }
}

fn registers_are_kept_over_an_interrupt(kernel: &'static Kernel) -> Verdict {
    let Some((alarm, irq)) = known::alarm(kernel) else {
        println!("user: no timer that interrupts");
        return Ok(());
    };
    let process = Process::new(kernel, 1)?;
    let mut context = Context::new(entry!(user_spin), STACK);
    for n in 0..13 {
        context.set(n, 0x1000_0001 * n as u32);
    }
    let before = all_of(&context);
    for round in 0..100 {
        alarm.start(200);
        interrupts::enable_once(irq);
        // One of a device, or of another core, may come before.
        while !alarm.is_over() {
            let event = enter(&mut context, process.tables.root());
            ensure_eq!(event, Event::Interrupt, "round {round}");
            ensure_eq!(all_of(&context), before, "the registers in round {round}");
        }
        alarm.stop();
        ensure!(interrupts::take(irq), "round {round}: the kernel did not take the interrupt");
    }
    Ok(())
}

/// The registers, but for CPSR.A. In the non-secure world nobody may clear that where SCR.AW is clear (ARM ARM
/// B4.1.129), and QEMU sets it at every exception nevertheless: on cubieboard.
fn all_of(context: &Context) -> String {
    format!("{context:?}").replace("cpsr 150", "cpsr 50")
}

/// On as many cores as there are, preempted wherever their time is over.
fn what_programs_compute_does_not_depend_on_their_turns(kernel: &'static Kernel) -> Verdict {
    let program = words(&raw const user_compute, &raw const user_compute_end);
    let start = |n: u32| {
        let process = process::Process::new(kernel, "compute", program, [n, STEPS, 0, 0]);
        process.ok_or_else(|| String::from("the heap is full"))
    };
    let mut must = [None; schedule::MAX];
    for (n, must) in must.iter_mut().enumerate() {
        let mut alone = start(n as u32)?;
        let Event::Call { number: 0, args: [result, ..] } = enter(&mut alone.context, alone.space.root()) else {
            return Err("it was interrupted".into());
        };
        *must = Some(result);
    }
    for n in 0..schedule::MAX {
        schedule::spawn(start(n as u32)?).map_err(|_| "the table is full")?;
    }
    let counts = schedule::Counts::default();
    let found = schedule::run(kernel, &(), &counts);
    let preempted = counts.preempted.load(Ordering::Relaxed);
    println!("user: {} programs, {preempted} times preempted", found.len());
    ensure_eq!(found, must, "what they computed");
    Ok(())
}

/// A device that finishes at the last of so many looks at it.
#[derive(Default)]
struct Slow {
    looks: AtomicU32,
    finished: AtomicU32,
    faults: AtomicU32,
    finished_at_last_fault: AtomicU32,
}

impl Slow {
    const LOOKS: u32 = 20;
}

impl schedule::Calls for Slow {
    fn call(&self, _: &mut process::Process, _: u32, _: [u32; 6]) -> u32 {
        schedule::REFUSED
    }

    fn fault(&self, process: &mut process::Process, fault: &Fault) -> schedule::AfterFault {
        let finished = self.finished.load(Ordering::Relaxed);
        self.finished_at_last_fault.store(finished, Ordering::Relaxed);
        match self.faults.fetch_add(1, Ordering::Relaxed) {
            0 => schedule::AfterFault::Again(process::Wake::AfterEvents(finished)),
            _ => schedule::AfterFault::Kill(schedule::place(process, fault)),
        }
    }

    fn events(&self) -> u32 {
        let waits = self.faults.load(Ordering::Relaxed) > 0;
        if waits && self.looks.fetch_add(1, Ordering::Relaxed) == Self::LOOKS {
            self.finished.store(1, Ordering::Relaxed);
        }
        self.finished.load(Ordering::Relaxed)
    }
}

/// It is not tried before the event, and not more than once after it.
fn a_process_waits_for_an_event(kernel: &'static Kernel) -> Verdict {
    let program = words(&raw const user_read, &raw const user_write);
    let nowhere = after(CODE, 64 << 20).raw();
    let process = process::Process::new(kernel, "waits", program, [nowhere, 0, 0, 0]).ok_or("the heap is full")?;
    schedule::spawn(process).map_err(|_| "the table is full")?;
    let device = Slow::default();
    let codes = schedule::run(kernel, &device, &schedule::Counts::default());
    ensure_eq!(codes[0], Some(255), "how it ended");
    ensure_eq!(device.faults.into_inner(), 2, "its faults");
    ensure_eq!(device.finished_at_last_fault.into_inner(), 1, "events before the second one");
    Ok(())
}

/// Steps of a program: several slices.
const STEPS: u32 = 400_000;

fn data_abort(event: Event) -> Result<Fault, String> {
    let Event::DataAbort(fault) = event else { return Err(format!("no data abort: {event:?}")) };
    Ok(fault)
}

/// A fault's status, what was tried, and where.
fn what(fault: Fault) -> (FaultStatus, Access, Option<VirtAddr>) {
    (fault.status, fault.access, fault.address)
}

fn the_kernel_is_out_of_reach(kernel: &'static Kernel) -> Verdict {
    let process = Process::new(kernel, 1)?;
    let mut heap = alloc::boxed::Box::new(0x1234_5678_u32);
    let coherent = alloc(kernel, 1)?.into_coherent();
    let buffer = VirtAddr::new(coherent.as_ptr().addr().get() as u32);
    let text = VirtAddr::new(data_abort as *const () as u32 & !3);
    for va in [address_of(&*heap), address_of(&NOTHING), text, buffer] {
        let fault = data_abort(process.run(entry!(user_read), va, 0))?;
        let denied = matches!(fault.status, FaultStatus::Permission(_));
        ensure!(denied && fault.address == Some(va) && fault.access == Access::Read, "a read of {va}: {fault}");
        let fault = data_abort(process.run(entry!(user_write), va, 1))?;
        let denied = matches!(fault.status, FaultStatus::Permission(_));
        ensure!(denied && fault.address == Some(va) && fault.access == Access::Write, "a write of {va}: {fault}");
    }
    let Event::PrefetchAbort(fault) = process.run(entry!(user_jump), text, 0) else { return Err("a jump".into()) };
    ensure!(matches!(fault.status, FaultStatus::Permission(_)) && fault.address == Some(text), "a jump: {fault}");
    *heap += 1;
    ensure_eq!(*heap, 0x1234_5679, "the kernel's word");
    // SAFETY: no device was told.
    drop(unsafe { coherent.release() });
    // And nothing of the process is the kernel's.
    is_unmapped(CODE)
}

static NOTHING: [u32; 4] = [7; 4];

fn code_is_not_written_and_data_not_executed(kernel: &'static Kernel) -> Verdict {
    let process = Process::new(kernel, 1)?;
    let fault = data_abort(process.run(entry!(user_write), CODE, 0))?;
    let denied = FaultStatus::Permission(Level::Second);
    ensure_eq!(what(fault), (denied, Access::Write, Some(CODE)), "a write of code");
    let Event::PrefetchAbort(fault) = process.run(entry!(user_jump), DATA, 0) else { return Err("it ran".into()) };
    ensure_eq!(what(fault), (denied, Access::Execute, Some(DATA)), "a jump to data");
    for va in [VirtAddr::new(0), after(DATA, FRAME_SIZE), after(CODE, FRAME_SIZE)] {
        let fault = data_abort(process.run(entry!(user_read), va, 0))?;
        ensure!(matches!(fault.status, FaultStatus::Translation(_)), "a read of {va}: {fault}");
    }
    // The kernel neither, by the process's address (W^X).
    let wrote = in_space(process.tables.root(), || {
        // SAFETY: a write that succeeds changes the first instruction of a program that is over.
        unsafe { carveout_rt::probe::probe_write32(CODE, 0) }
    });
    ensure_eq!(wrote.map_err(what), Err((denied, Access::Write, Some(CODE))), "the kernel's write of code");
    Ok(())
}

fn a_page_of_carved_memory_has_the_rights_it_was_given(kernel: &'static Kernel) -> Verdict {
    let process = Process::new(kernel, 1)?;
    let tables = &process.tables;
    let mut coherent = alloc(kernel, 3 * FRAME_SIZE)?.into_coherent();
    for page in 0..3 {
        coherent.write_word(page * FRAME_SIZE as usize, 0x100 + page as u32);
    }
    let va = tables.reserve(1).ok_or("no room")?;
    let buffer = VirtAddr::new(coherent.as_ptr().addr().get() as u32);
    // SAFETY: the buffer is mapped so until it is released, below.
    let mapped = unsafe { Mapped::assume(buffer, coherent.frames(), MemoryType::NonCacheable) };
    let second = mapped.part(FRAME_SIZE, 2 * FRAME_SIZE).ok_or("three pages")?;
    for (access, fails) in [(UserAccess::Read, true), (UserAccess::ReadWrite, false)] {
        tables.map(va, second, access);
        on_target::audit(kernel)?;
        let mut context = Context::new(entry!(user_read), STACK);
        context.set(0, va.raw());
        ensure!(matches!(enter(&mut context, tables.root()), Event::Call { args: [0x101, ..], .. }), "a read");
        let wrote = process.run(entry!(user_write), va, 0x101);
        ensure_eq!(data_abort(wrote).is_ok(), fails, "a write with {access}");
        for beside in [va.raw() - 4, va.raw() + FRAME_SIZE].map(VirtAddr::new) {
            let fault = data_abort(process.run(entry!(user_read), beside, 0))?;
            ensure!(matches!(fault.status, FaultStatus::Translation(_)), "a read of {beside}: {fault}");
        }
        let jumped = process.run(entry!(user_jump), va, 0);
        ensure!(matches!(jumped, Event::PrefetchAbort(_)), "a jump: {jumped:?}");
        tables.unmap(va, 1);
    }
    tables.release(va, 1);
    // SAFETY: no device was told.
    drop(unsafe { coherent.release() });
    Ok(())
}

/// I3: while the process's table is in force, so that its translations are in the TLB, also in QEMU's.
fn an_unmapped_page_is_gone_from_the_tlb(kernel: &'static Kernel) -> Verdict {
    let mut process = Process::new(kernel, 1)?;
    process.data.words()[3] = 0xcafe;
    let at = after(DATA, 12);
    in_space(process.tables.root(), || {
        ensure_eq!(read(at), Ok(0xcafe), "the process's word");
        process.tables.unmap(DATA, 1);
        is_unmapped(at)
    })?;
    process.tables.release(DATA, 1);
    Ok(())
}

fn a_process_does_not_see_another(kernel: &'static Kernel) -> Verdict {
    let processes = [Process::new(kernel, 1)?, Process::new(kernel, 2)?];
    for round in 0..100 {
        for (n, process) in processes.iter().enumerate() {
            let before = match round {
                0 => 0,
                _ => 1000 * n as u32 + round - 1,
            };
            let found = process.run(entry!(user_read), DATA, 0);
            ensure!(matches!(found, Event::Call { args: [word, ..], .. } if word == before), "{n}: {found:?}");
            process.run(entry!(user_write), DATA, 1000 * n as u32 + round);
        }
    }
    Ok(())
}
