//! Helpers for the on-target tests. Each file of `tests/` is a separate kernel, which boots like any other.
//!
//! Guarantees: a program of [`checks!`] prints one line for each check, `NAME: ok` or `NAME: FAILED: why`. It exits
//! with 0 only if every check ran and passed. After each check the audit must be clean (I1, I2, W^X) and all memory of
//! the areas must be free again.
#![no_std]
#![expect(clippy::missing_errors_doc, reason = "a check's error says what was found in place of its first line")]

extern crate alloc;

pub mod tables;

use alloc::format;
use alloc::string::String;
use carveout::addr::{Frame, VirtAddr};
use carveout::dma::{AfterFree, Contiguous, Master};
use carveout::vm::attr::Shareability;
use carveout_armv7a::cores::registers;
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::kernel::console;
use carveout_boards::kernel::{bring_up, state::Kernel};
use carveout_boards::println;
use carveout_rt::address_space::direct_map;
use carveout_rt::fault::{Access, Fault, FaultStatus};
use carveout_rt::probe::{probe_exec, probe_read32, probe_write32};
use carveout_rt::start::BootHandover;

/// The result of a check: nothing, or a text with what was found and what was expected.
pub type Verdict = Result<(), String>;

/// A check and its name.
pub type Check = (&'static str, fn(&'static Kernel) -> Verdict);

/// Makes a test program of functions from `&'static Kernel` to [`Verdict`]. They run in the order given.
#[macro_export]
macro_rules! checks {
    ($($check:ident),+ $(,)?) => {
        carveout_rt::entry!(main);

        fn main(handover: carveout_rt::start::BootHandover) -> ! {
            $crate::run(handover, &[$((stringify!($check), $check)),+])
        }
    };
}

/// Ends a check unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(alloc::format!($($why)+));
        }
    };
}

/// Ends a check unless two values are equal.
#[macro_export]
macro_rules! ensure_eq {
    ($is:expr, $must:expr, $($what:tt)+) => {
        match (&$is, &$must) {
            (is, must) => {
                $crate::ensure!(*is == *must, "{}: {is:?}, not {must:?}", format_args!($($what)+));
            }
        }
    };
}

/// Boots and runs the checks, except those that a boot argument `skip=NAME` names. With `after-free=keep-mapped`,
/// coherent buffers that are freed stay mapped. See [`checks!`].
pub fn run(handover: BootHandover, checks: &[Check]) -> ! {
    let kernel = bring_up::start(handover);
    let mut failed = 0;
    if let Err(why) = audit(kernel) {
        println!("boot: FAILED: {why}");
        failed += 1;
    }
    if kernel.info.bootargs().get("after-free").is_some_and(|arg| arg.value == Some("keep-mapped")) {
        kernel.dma.set_after_free(AfterFree::KeepMapped);
    }
    let before = spendable(kernel);
    let skipped = |name| kernel.info.bootargs().iter().any(|arg| arg.name == "skip" && arg.value == Some(name));
    for (name, check) in checks.iter().filter(|(name, _)| !skipped(name)) {
        let verdict = check(kernel).and_then(|()| audit(kernel)).and_then(|()| {
            ensure_eq!(spendable(kernel), before, "bytes free in the areas, or in quarantine");
            Ok(())
        });
        match verdict {
            Ok(()) => println!("{name}: ok"),
            Err(why) => {
                println!("{name}: FAILED: {why}");
                failed += 1;
            }
        }
    }
    console::exit(i32::from(failed > 0))
}

/// Returns the steps of a random walk: those of the boot argument `walk=N`, or else `steps`.
pub fn walk(kernel: &Kernel, steps: u32) -> u32 {
    kernel.info.bootargs().get("walk").and_then(|arg| arg.value?.parse().ok()).unwrap_or(steps)
}

/// Returns the bytes that are free or known to be lost.
fn spendable(kernel: &Kernel) -> u64 {
    let areas = (0..kernel.layout.areas().len()).filter_map(|area| kernel.dma.area_at(area));
    areas.map(|area| kernel.dma.free_bytes(area).0).sum::<u64>() + kernel.dma.stats().quarantined
}

/// Checks the live tables by the audit.
pub fn audit(kernel: &Kernel) -> Verdict {
    kernel.audit().map(drop).map_err(|finding| format!("audit: {finding}"))
}

/// Returns the bus master that the tests play.
pub fn master(kernel: &Kernel) -> Master {
    kernel.master("test-master")
}

/// Allocates from the default area.
pub fn alloc(kernel: &'static Kernel, bytes: u32) -> Result<Contiguous<Armv7a>, String> {
    kernel.dma.alloc(&master(kernel), bytes, 1).map_err(|error| format!("{error}"))
}

/// Returns the address `bytes` after `va`.
pub const fn after(va: VirtAddr, bytes: u32) -> VirtAddr {
    VirtAddr::new(va.raw().wrapping_add(bytes))
}

/// Returns the S bit of Normal memory on this core.
pub fn share() -> Shareability {
    registers().shareability()
}

/// Returns the address of a value or function of this program.
pub fn address_of<T: ?Sized>(thing: &T) -> VirtAddr {
    VirtAddr::new(core::ptr::from_ref(thing).cast::<u8>().addr() as u32)
}

/// Returns the direct map's address for a frame, whether the map holds the frame or not. Returns `None` if the frame is
/// in no bank of RAM.
pub fn direct_map_place(frame: Frame) -> Option<VirtAddr> {
    let map = direct_map()?;
    map.runs().find_map(|run| {
        let bytes = frame.base().raw().wrapping_sub(run.frames.base().raw());
        let va = after(run.va, bytes);
        map.frame_at(va).is_some_and(|(there, _)| there == frame).then_some(va)
    })
}

/// Reads a word of memory through the present translation.
pub fn read(va: VirtAddr) -> Result<u32, Fault> {
    // SAFETY: no test reads where registers are mapped, and reading memory has no side effects.
    unsafe { probe_read32(va) }
}

/// Checks that no descriptor translates `va`, neither for a read nor for a write.
pub fn is_unmapped(va: VirtAddr) -> Verdict {
    let found = read(va);
    ensure!(is_translation_fault(found.as_ref().err(), Access::Read, va), "a read of {va}: {found:?}");
    // SAFETY: a read just faulted, so a write faults too. If it does not, the test fails, and the program ends.
    let found = unsafe { probe_write32(va, 0xdead_beef) };
    ensure!(is_translation_fault(found.as_ref().err(), Access::Write, va), "a write of {va}: {found:?}");
    Ok(())
}

fn is_translation_fault(fault: Option<&Fault>, access: Access, va: VirtAddr) -> bool {
    fault.is_some_and(|fault| {
        matches!(fault.status, FaultStatus::Translation(_)) && fault.access == access && fault.address == Some(va)
    })
}

/// Checks that `va` can be read and not written.
pub fn is_read_only(va: VirtAddr) -> Verdict {
    let word = read(va).map_err(|fault| format!("{fault}"))?;
    // SAFETY: a write that succeeds writes the same word.
    let found = unsafe { probe_write32(va, word) };
    let denied = |fault: &Fault| matches!(fault.status, FaultStatus::Permission(_)) && fault.access == Access::Write;
    ensure!(found.as_ref().is_err_and(denied), "a write of {va}: {found:?}");
    Ok(())
}

/// `bx lr`, which returns at once to a probe that can execute it.
pub const RETURN: u32 = 0xe12f_ff1e;

/// Checks that `va`, where [`RETURN`] is, cannot be executed.
pub fn is_execute_never(va: VirtAddr) -> Verdict {
    ensure_eq!(read(va), Ok(RETURN), "the word at {va}");
    // SAFETY: if it can be executed, it is a function that returns at once.
    let found = unsafe { probe_exec(va) };
    let denied = |fault: &Fault| matches!(fault.status, FaultStatus::Permission(_)) && fault.access == Access::Execute;
    ensure!(found.as_ref().is_err_and(denied), "a fetch from {va}: {found:?}");
    Ok(())
}
