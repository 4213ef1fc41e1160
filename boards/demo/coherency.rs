//! An experiment for real boards. Maintenance by address, from one core and through a non-cacheable mapping, must reach
//! the lines that each core holds of the frames: I3 rests on that. The boot argument `demo=coherency` tests it.
//!
//! Guarantees: each printed line is about one core and one operation. It also says what memory held without the
//! operation. If memory held everything already, the caches held nothing, as in QEMU, and the line says `nothing
//! shown`. No frame ever has two mappings (I1). The lines that a test leaves in the caches are dropped before the
//! frames are given back. If an operation did not reach the lines, the frames are kept.

use super::failure::Failure;
use super::memory;
use crate::kernel::cores;
use crate::kernel::state::Kernel;
use crate::println;
use carveout::addr::{FRAME_SIZE, FrameRange, VirtAddr};
use carveout::cpu::CoreId;
use carveout::embed::{Roots, Window};
use carveout::machine::{Cache, Mmu};
use carveout::vm::attr::{Access, MemoryType};
use carveout::vm::desc::{L2_ENTRIES, L2Desc, L2Table};
use carveout::vm::mapped::Part;
use carveout::vm::range::VirtRange;
use carveout::vm::space::{OneEach, Region};
use carveout_armv7a::mmu::Armv7a;
use carveout_rt::start::translate_image;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The most bytes of a line. One word in each line is written and read.
const STRIDE: u32 = 64;
/// Lines of the test. Any first-level cache can hold so many.
const LINES: u32 = FRAME_SIZE / STRIDE;
/// A section of the lower half, which nothing else uses.
const SECTION: VirtAddr = VirtAddr::new(0x4000_0000);

/// The section's second-level table.
#[repr(C, align(1024))]
struct Table(UnsafeCell<L2Table>);

// SAFETY: only `region` uses it, and `TAKEN` lets only one call do so.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([L2Desc::FAULT; L2_ENTRIES]));

/// The operation that is tried.
#[derive(Clone, Copy)]
enum Operation {
    /// A clean: lines that another core wrote go to memory.
    Clean,
    /// An invalidate: lines that another core read before memory changed are dropped.
    Invalidate,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clean => "clean",
            Self::Invalidate => "invalidate",
        })
    }
}

struct Bench {
    machine: &'static Armv7a,
    region: Region<'static, OneEach>,
    frames: FrameRange,
}

/// Tries both operations on the lines of every core that runs.
///
/// # Errors
///
/// [`Failure::NoRoom`] if there is no page for the test. [`Failure::Incoherent`] if an operation did not reach a core's
/// lines.
pub fn run(kernel: &'static Kernel) -> Result<(), Failure> {
    let buffer = memory::alloc(kernel, &kernel.master("coherency"), FRAME_SIZE, "the page")?.into_device();
    let mut bench = Bench { machine: kernel.machine, region: region(kernel), frames: buffer.frames() };
    let (mut shown, mut tried, mut failed) = (0, 0, 0);
    for core in cores::online() {
        for operation in [Operation::Clean, Operation::Invalidate] {
            let without = bench.lines_that_are_new(operation, core, false);
            let with = bench.lines_that_are_new(operation, core, true);
            let held = LINES - without;
            let verdict = if with < LINES {
                failed += 1;
                "NOT REACHED"
            } else if held == 0 {
                "nothing shown, no line was held"
            } else {
                shown += 1;
                "reached"
            };
            tried += 1;
            println!(
                "coherency: {core}, {operation}: {held} of {LINES} lines were held, {} after it: {verdict}",
                LINES - with
            );
        }
    }
    println!("coherency: {shown} of {tried} shown, {failed} failed");
    if failed > 0 {
        return Err(Failure::Incoherent);
    }
    // SAFETY: no device was told of the page.
    drop(unsafe { buffer.release() });
    Ok(())
}

/// Returns the section, as a region of one page.
///
/// # Panics
///
/// If it was called before. Only one region may use its tables.
fn region(kernel: &'static Kernel) -> Region<'static, OneEach> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    assert!(!TAKEN.swap(true, Ordering::Relaxed), "the caches are tried once");
    let table = translate_image(VirtAddr::new(TABLE.0.get().addr() as u32)).expect("part of the image");
    // SAFETY: all regions of the kernel are above these addresses. Only this function uses the table, and only once
    // (`TAKEN`).
    let window = unsafe { Window::assume(VirtRange::new(SECTION.raw(), 1), Roots::One, table) };
    Region::one_each(kernel.machine, &window).expect("a section and its table")
}

impl Bench {
    /// Returns how many lines show the newer word.
    fn lines_that_are_new(&mut self, operation: Operation, core: CoreId, with: bool) -> u32 {
        const OLD: u32 = 0x0110_0110;
        const NEW: u32 = 0x1ee1_1ee1;
        let machine = self.machine;
        self.mapped(MemoryType::NonCacheable, |part| {
            machine.discard(part);
            write(machine, part, OLD);
        });
        match operation {
            Operation::Clean => {
                self.mapped(MemoryType::WriteBack, |part| on(core, || write(machine, part, NEW)));
                self.mapped(MemoryType::NonCacheable, |part| {
                    if with {
                        machine.clean(part);
                        machine.device_barrier();
                    }
                    count(machine, part, NEW)
                })
            }
            Operation::Invalidate => {
                self.mapped(MemoryType::WriteBack, |part| {
                    on(core, || {
                        count(machine, part, OLD);
                    });
                });
                self.mapped(MemoryType::NonCacheable, |part| {
                    write(machine, part, NEW);
                    if with {
                        machine.invalidate(part);
                    }
                });
                let new = AtomicU32::new(0);
                self.mapped(MemoryType::WriteBack, |part| {
                    on(core, || new.store(count(machine, part, NEW), Ordering::Relaxed));
                });
                self.mapped(MemoryType::NonCacheable, |part| machine.discard(part));
                new.into_inner()
            }
        }
    }

    fn mapped<T>(&mut self, memory: MemoryType, work: impl FnOnce(Part<'_>) -> T) -> T {
        // SAFETY: no other mapping of the frames exists: a device owns them, and each mapping that is made here ends
        // below (I1).
        let mapped = unsafe { self.region.map(self.machine, SECTION, self.frames, memory, Access::ReadWrite) };
        let mapped = mapped.expect("the page is free");
        let result = work(mapped.all());
        self.machine.device_barrier();
        self.region.unmap(self.machine, mapped);
        result
    }
}

/// Runs the work on one core.
fn on(core: CoreId, work: impl Fn() + Sync) {
    cores::on_all(&|this| {
        if this == core {
            work();
        }
    });
}

fn write(machine: &Armv7a, part: Part<'_>, word: u32) {
    for line in 0..LINES {
        // SAFETY: a word of the page, which `Part` proves to be mapped; no reference to it exists.
        unsafe { place(machine, part, line).write_volatile(word) };
    }
    machine.device_barrier();
}

fn count(machine: &Armv7a, part: Part<'_>, word: u32) -> u32 {
    // SAFETY: a word of the page, which `Part` proves to be mapped.
    (0..LINES).filter(|&line| unsafe { place(machine, part, line).read_volatile() } == word).count() as u32
}

fn place(machine: &Armv7a, part: Part<'_>, line: u32) -> *mut u32 {
    machine.reach(part.va(), part.bytes()).wrapping_add((line * STRIDE) as usize).cast()
}
