//! The cores other than core 0: each is started, and then idles until all cores get work.
//!
//! Guarantees: a core of the device tree that does not start is reported in one line, and the boot continues. A core
//! that starts later than that stays out. [`on_all`] returns when every core has done the work, so work may borrow.
//! A core that waits for a lock for too long ends the program. One line for each core says what it holds and what it
//! waits for.

use super::devices::{self, MAX_CPUS, Pen};
use super::state::{CAME, Kernel, came, kernel, numbered};
use super::{console, flush, interrupts, stores};
use crate::drivers::intc::irq::IrqId;
use crate::drivers::smp::{psci, scu, sysreg};
use crate::println;
use aarch32_cpu::interrupt;
use arrayvec::ArrayVec;
use carveout::addr::PhysAddr;
use carveout::cpu::wait_for_interrupt;
use carveout::cpu::{self, CoreId, MAX_CORES};
use carveout::machine::Cache;
use carveout::sync;
use carveout::vm::audit::{Findings, Report};
use carveout_armv7a::cores::{self, Alone};
use carveout_rt::secondary;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use spin::Once;

/// How long the other cores may take to start, in microseconds.
const PATIENCE: u64 = 1_000_000;

// The states of a core: not started by this kernel, told to start, running, given up.
const OUT: u32 = 0;
const SENT_FOR: u32 = 1;
const IN: u32 = 2;
const GIVEN_UP: u32 = 3;
static STATES: [AtomicU32; MAX_CORES] = [const { AtomicU32::new(OUT) }; MAX_CORES];

/// Work that every core does at once.
type Work<'w> = &'w (dyn Fn(CoreId) + Sync);

/// What each core has to do: a pointer to a [`Work`] on the stack of [`on_all`]. The core stores null here when it is
/// done.
static WORK: [AtomicPtr<()>; MAX_CORES] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CORES];

/// Why a core was not started.
enum Refused<'dtb> {
    Method(&'dtb str),
    NoReleaseAddress,
    Unmapped(PhysAddr),
    NoBoard,
    Firmware(i32),
    Silent,
}

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method(name) => write!(f, "enable-method \"{name}\" is not known"),
            Self::NoReleaseAddress => write!(f, "cpu-release-addr is missing, no multiple of 4, or above 4 GiB"),
            Self::Unmapped(at) => write!(f, "cpu-release-addr {at} is in memory that was carved out"),
            Self::NoBoard => {
                write!(f, "it has no enable-method, and the kernel does not know how this board starts it")
            }
            Self::Firmware(answer) => write!(f, "the firmware answers PSCI's CPU_ON with {answer}"),
            Self::Silent => write!(f, "it was told to start, and did not start within {} ms", PATIENCE / 1000),
        }
    }
}

/// Starts the other cores and waits until they run. If every existing core runs, whole caches may be emptied.
pub fn start(kernel: &'static Kernel) {
    if start_others(kernel) {
        let running = online().fold(0, |mask, core| mask | core.bit());
        // SAFETY: no other core is coherent (`start_others`), and each that runs handles interrupts.
        unsafe { flush::permit(kernel.info.bootargs(), kernel.machine, running) };
    }
}

/// Starts the other cores and waits until they run. Returns true if no core runs, now or later, except those that this
/// kernel counts as running.
fn start_others(kernel: &'static Kernel) -> bool {
    let this = CoreId::current();
    CAME[this.index()].call_once(cores::registers);
    STATES[this.index()].store(IN, Ordering::Relaxed);
    sync::on_wait(watch);
    let cpus = devices::cpus(&kernel.info);
    let there = cores_there(kernel);
    let mut others = ArrayVec::<_, MAX_CPUS>::new();
    for cpu in &cpus {
        match CoreId::from_reg(cpu.reg) {
            Some(core) if core == this => {}
            Some(core) if core.index() < there => others.push((cpu, core)),
            _ => {}
        }
    }
    let absent = cpus.len().saturating_sub(others.len() + 1);
    if absent > 0 {
        println!("cores: {absent} of the {} in the device tree are not there", cpus.len());
    }
    if others.is_empty() {
        return true;
    }
    if let Some(why) = Alone::current(kernel.world) {
        println!("refused: {} more cores: {why}", others.len());
        return true;
    }
    let entry = secondary::entry(run);
    for (_, core) in &others {
        STATES[core.index()].store(SENT_FOR, Ordering::Release);
    }
    secondary::open_pen(kernel.machine);
    let mut by_board = others.iter().filter(|(cpu, _)| cpu.pen == Pen::Board).map(|(_, core)| core.bit()).peekable();
    let board_told = by_board.peek().is_some() && tell_board(kernel, entry);
    if board_told {
        interrupts::send(WAKE, by_board.fold(0, |mask, core| mask | core));
    }
    let tell = |cpu: &devices::Cpu<'static>| match cpu.pen {
        Pen::Board => (!board_told).then_some(Refused::NoBoard),
        Pen::SpinTable(at) => (!tell_spin_table(kernel, at, entry)).then_some(Refused::Unmapped(at)),
        Pen::NoAddress => Some(Refused::NoReleaseAddress),
        // SAFETY: at `entry` stands code (`secondary::entry`), and the tree says that the firmware answers.
        Pen::Psci(conduit) => match unsafe { psci::start(conduit, cpu.reg, entry) } {
            0 => None,
            answer => Some(Refused::Firmware(answer)),
        },
        Pen::Unknown(method) => Some(Refused::Method(method)),
    };
    let told: ArrayVec<_, MAX_CPUS> = others.iter().map(|(cpu, _)| tell(cpu)).collect();

    let wanted = others.len() + 1;
    let deadline = kernel.micros() + PATIENCE;
    for ((cpu, core), why) in others.into_iter().zip(told) {
        let state = &STATES[core.index()];
        while state.load(Ordering::Acquire) == SENT_FOR {
            cpu::relax();
            // After this the core stays out, even if it starts later. Its boot loader may have sent it through the
            // head.
            if kernel.micros() > deadline
                && state.compare_exchange(SENT_FOR, GIVEN_UP, Ordering::Relaxed, Ordering::Acquire).is_ok()
            {
                println!("refused: {}: {}", cpu.name, why.as_ref().unwrap_or(&Refused::Silent));
            }
        }
    }
    online().count() == wanted
}

/// How long a core waits for a lock before that counts as a deadlock, in microseconds. Core 0 waits twice as long for
/// work that takes no locks.
const STALL: u64 = 10_000_000;

/// The exit code after a deadlock.
const STALLED: i32 = 103;

/// The time at which [`watch`] first saw each core wait.
static WAITS_SINCE: [AtomicU64; MAX_CORES] = [const { AtomicU64::new(0) }; MAX_CORES];

/// Ends the program if a core waits for a lock for too long. The core may be deadlocked, so this takes no lock.
fn watch(round: u32) {
    flush::answer();
    let Some(kernel) = kernel() else { return };
    let (this, now) = (CoreId::current(), kernel.micros());
    let since = &WAITS_SINCE[this.index()];
    if round == 1 {
        since.store(now, Ordering::Relaxed);
    } else if now.saturating_sub(since.load(Ordering::Relaxed)) > STALL {
        stalled(format_args!("{this} has waited for a lock"));
    }
}

/// Prints what each core does and holds, and ends the program. If several cores find a deadlock, one of them prints.
fn stalled(who: fmt::Arguments<'_>) -> ! {
    static FIRST: AtomicBool = AtomicBool::new(true);
    while !FIRST.swap(false, Ordering::Relaxed) {
        wait_for_interrupt();
    }
    // SAFETY: this core's interrupted code never runs again, and the program ends here.
    unsafe { console::seize() };
    println!("deadlock: {who} for more than {} s", STALL / 1_000_000);
    for (core, locks) in sync::cores() {
        let state = match STATES[core.index()].load(Ordering::Relaxed) {
            IN if core.index() == 0 => "works",
            IN if WORK[core.index()].load(Ordering::Relaxed).is_null() => "is idle",
            IN => "works",
            _ => continue,
        };
        println!("deadlock: {core} {state}, {locks}");
    }
    console::exit(STALLED)
}

/// The software interrupt that ends a WFI. It has no hook.
const WAKE: IrqId = IrqId::new(0).expect("there are 16");

/// Returns the number of cores that the SCU counts. A core of the tree beyond that number cannot start.
fn cores_there(kernel: &'static Kernel) -> usize {
    let Some(found) = devices::find(&kernel.info, "arm,cortex-a9-scu") else { return MAX_CORES };
    // SAFETY: the tree says that these are the SCU's registers.
    unsafe { kernel.first(&found) }.map_or(MAX_CORES, |registers| scu::cores(&registers))
}

/// Starts the cores of a Versatile Express, by the flags of its system registers.
fn tell_board(kernel: &'static Kernel, entry: PhysAddr) -> bool {
    let Some(found) = devices::find(&kernel.info, "arm,vexpress-sysreg") else { return false };
    // SAFETY: the tree says that these are the board's system registers.
    let Some(registers) = (unsafe { kernel.first(&found) }) else { return false };
    // SAFETY: there is code at `entry` (`secondary::entry`).
    unsafe { sysreg::set_entry(&registers, entry) };
    true
}

/// Starts a core by writing its word of a holding pen. The word is in RAM that the tree reserves, or in memory outside
/// RAM.
fn tell_spin_table(kernel: &'static Kernel, at: PhysAddr, entry: PhysAddr) -> bool {
    // SAFETY: the tree names this word for starting the core, as it names memory.
    if unsafe { secondary::tell(kernel.machine, at, entry.raw()) } {
        return true;
    }
    // SAFETY: the tree names this word for starting the core, and every bit pattern is a `u32`.
    let Some(word) = (unsafe { kernel.registers::<u32>(at, 4) }) else { return false };
    // SAFETY: the word is aligned, is not RAM, and stays mapped. Nobody else has it meanwhile, and the tree names it
    // for starting the core.
    unsafe { word.pointer().write_volatile(entry.raw()) };
    secondary::wake(kernel.machine);
    true
}

/// Runs on each further core, from the head on.
fn run(this: CoreId) -> ! {
    CAME[this.index()].call_once(cores::registers);
    stores::follow();
    let state = &STATES[this.index()];
    // SAFETY: this core has just come from the head: it holds no lock, and nothing runs on it.
    let served = unsafe { interrupts::start_core() };
    let welcome = served && state.compare_exchange(SENT_FOR, IN, Ordering::Release, Ordering::Relaxed).is_ok();
    if !welcome {
        interrupt::disable();
        loop {
            wait_for_interrupt();
        }
    }
    let work = &WORK[this.index()];
    loop {
        interrupt::disable();
        let task = work.load(Ordering::Acquire);
        if task.is_null() {
            // Erratum 769419 of the PL310: what this core wrote to coherent memory would stay in the store buffer.
            if let Some(kernel) = kernel() {
                kernel.machine.device_barrier();
            }
            // A wake that came since is pending, and ends the wait.
            wait_for_interrupt();
        }
        // SAFETY: no critical section is under way: this is the idle loop.
        unsafe { interrupt::enable() };
        if !task.is_null() {
            // SAFETY: `on_all` stored a pointer to a `Work`, which lives until null is stored below.
            let task = unsafe { *task.cast::<Work<'_>>() };
            task(this);
            work.store(core::ptr::null_mut(), Ordering::Release);
        }
    }
}

/// Returns the cores that run.
pub fn online() -> impl Iterator<Item = CoreId> {
    CoreId::all().filter(|core| STATES[core.index()].load(Ordering::Acquire) == IN)
}

/// Does the work on every core that runs, at once. Returns when all have done it.
///
/// # Panics
///
/// If a core other than core 0 calls it. Work must not call it, because the call would wait for itself.
pub fn on_all(work: Work<'_>) {
    let this = CoreId::current();
    assert_eq!(this.index(), 0, "core 0 gives out work");
    let others: ArrayVec<CoreId, MAX_CORES> = online().filter(|&core| core != this).collect();
    let task = (&raw const work).cast_mut().cast::<()>();
    for core in &others {
        WORK[core.index()].store(task, Ordering::Release);
    }
    interrupts::send(WAKE, others.iter().fold(0, |mask, core| mask | core.bit()));
    work(this);
    let locks_taken = || sync::cores().fold(0u32, |sum, (_, locks)| sum.wrapping_add(locks.taken));
    for core in others {
        let mut last = (0, 0);
        let mut rounds = 0u32;
        while !WORK[core.index()].load(Ordering::Acquire).is_null() {
            cpu::relax();
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(4096)
                && let Some(kernel) = kernel()
            {
                let (taken, now) = (locks_taken(), kernel.micros());
                if last.1 == 0 || last.0 != taken {
                    last = (taken, now);
                } else if now.saturating_sub(last.1) > 2 * STALL {
                    stalled(format_args!("{core} has made no progress"));
                }
            }
        }
    }
}

/// Runs the audit for every core. Core 0 walks the tables. The registers that each core started with, and those that it
/// has now, must give the tables the same meaning. Only core 0 calls it, and not from within work.
///
/// # Errors
///
/// The first finding, and the number of findings of each kind.
pub fn audit(kernel: &Kernel) -> Result<Report, Findings> {
    let now = [const { Once::new() }; MAX_CORES];
    on_all(&|core| {
        now[core.index()].call_once(cores::registers);
    });
    let both: ArrayVec<_, { 2 * MAX_CORES }> = came().chain(numbered(&now)).collect();
    kernel.audit_beside(&both)
}
