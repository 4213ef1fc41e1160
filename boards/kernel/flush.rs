//! Whole caches: each core empties its own when another one asks for it.
//!
//! Guarantees: caches are emptied as a whole only if every core that may hold lines answers, or if there is only one
//! core. A core answers from its interrupt handler, while it waits for a lock, and while it asks others itself. So two
//! cores that ask at the same time both get their answers, whatever locks they hold. The boot argument `flush=lines`
//! forbids emptying: then caches are maintained line by line.
//!
//! A core answers at the latest when it unmasks interrupts, or after 4,096 rounds of waiting for a lock.

use super::interrupts;
use super::state::kernel;
use crate::drivers::intc::irq::IrqId;
use crate::drivers::timer::Counter;
use crate::println;
use carveout::cpu::{CoreId, MAX_CORES, relax};
use carveout_armv7a::mmu::Armv7a;
use carveout_armv7a::whole::{AskCores, OtherCores};
use carveout_boot::bootargs::BootArgs;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// The software interrupt that asks.
const ASK: IrqId = IrqId::new(1).expect("there are 16");

/// What a core asks for: a pointer to it on the stack of [`Others::each`].
type Work<'w> = &'w (dyn Fn() + Sync);

/// What a core asks of others.
struct Request {
    work: AtomicPtr<()>,
    /// The cores that have not answered yet, a bit each.
    open: AtomicU32,
}

/// The requests, by the core that asks.
static REQUESTS: [Request; MAX_CORES] =
    [const { Request { work: AtomicPtr::new(core::ptr::null_mut()), open: AtomicU32::new(0) } }; MAX_CORES];

/// The cores that are coherent, a bit each. [`permit`] sets them.
static COHERENT: AtomicU32 = AtomicU32::new(0);

/// What a core did for others.
struct Answered {
    times: AtomicU32,
    nanos: AtomicU64,
}

/// The answers, by the core that answers. No other core writes there.
static ANSWERED: [Answered; MAX_CORES] =
    [const { Answered { times: AtomicU32::new(0), nanos: AtomicU64::new(0) } }; MAX_CORES];

/// Returns how often a core emptied its caches because another one asked, and the nanoseconds that this took by the
/// board's counter. Without a counter these are 0.
pub fn answered(core: CoreId) -> (u32, u64) {
    let Answered { times, nanos } = &ANSWERED[core.index()];
    (times.load(Ordering::Relaxed), nanos.load(Ordering::Relaxed))
}

/// Does the work that other cores ask of this core.
pub(super) fn answer() {
    let this = CoreId::current();
    for request in &REQUESTS {
        if request.open.load(Ordering::Acquire) & this.bit() != 0 {
            let now = || kernel().and_then(|kernel| kernel.clock.as_deref()).map_or(0, Counter::nanos);
            let start = now();
            // SAFETY: `each` stored a pointer to a `Work`, which lives until no bit is left.
            let work = unsafe { *request.work.load(Ordering::Relaxed).cast::<Work<'_>>() };
            work();
            let Answered { times, nanos } = &ANSWERED[this.index()];
            times.fetch_add(1, Ordering::Relaxed);
            nanos.fetch_add(now() - start, Ordering::Relaxed);
            request.open.fetch_and(!this.bit(), Ordering::Release);
        }
    }
}

struct Others;

// SAFETY: `permit` was given all cores that are coherent, each of which has interrupts on or waits in a loop that
// answers. The interrupt wakes a core that sleeps in WFI. So no core keeps a line (I3).
unsafe impl AskCores for Others {
    fn count(&self) -> u32 {
        COHERENT.load(Ordering::Relaxed).count_ones() - 1
    }

    fn each(&self, work: Work<'_>) {
        let this = CoreId::current();
        let others = COHERENT.load(Ordering::Relaxed) & !this.bit();
        let request = &REQUESTS[this.index()];
        request.work.store((&raw const work).cast_mut().cast(), Ordering::Relaxed);
        request.open.store(others, Ordering::Release);
        interrupts::send(ASK, others);
        while request.open.load(Ordering::Acquire) != 0 {
            answer();
            relax();
        }
    }
}

/// Permits that whole caches are emptied, unless the command line forbids it. `cores` are the coherent cores, a bit
/// each.
///
/// # Safety
///
/// No core other than `cores` is or becomes coherent. Each of `cores` has a handler for software interrupts.
pub(super) unsafe fn permit(args: BootArgs<'_>, machine: &Armv7a, cores: u32) {
    match args.get("flush").map(|arg| (arg.value, arg.text)) {
        Some((Some("lines"), _)) => return,
        // An unknown value forbids emptying too: whoever gave it wanted to forbid something.
        Some((_, text)) => {
            return println!("refused: {text}: only flush=lines is known; caches are maintained line by line");
        }
        None => {}
    }
    COHERENT.store(cores, Ordering::Relaxed);
    let others = if cores == CoreId::current().bit() { OtherCores::None } else { OtherCores::Asked(&Others) };
    interrupts::on_software(ASK, answer);
    // SAFETY: no other core is coherent, or all are asked (this function's contract).
    if let Err(error) = unsafe { machine.permit_emptying(others) } {
        log::info!("{error}");
    }
}
