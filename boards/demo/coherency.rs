//! What only a board can show: whether maintenance by address, through a non-cacheable mapping and from one core,
//! reaches the lines that each core has of the frames. I3 rests on it. The boot argument `demo=coherency` runs this.
//!
//! Guarantees: each line printed is of one core and one operation, and says what memory held without the operation too.
//! If that was everything already, the caches held nothing, as in QEMU, and nothing is shown. No frame ever has two
//! mappings (I1). What a test leaves in the caches is dropped before the frames are given back; they are not given back
//! if an operation did not reach it.

use super::failure::Failure;
use super::memory;
use crate::kernel::cores;
use crate::kernel::state::Kernel;
use crate::println;
use carveout::addr::{FRAME_SIZE, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use carveout::cpu::CoreId;
use carveout::machine::{Cache, Mmu};
use carveout::vm::attr::{Access, MemoryType};
use carveout::vm::desc::{L1Desc, L2_ENTRIES, L2Desc, L2Table};
use carveout::vm::mapped::Part;
use carveout::vm::range::VirtRange;
use carveout::vm::space::Region;
use carveout::vm::walk::Ttbr;
use carveout_armv7a::mmu::Armv7a;
use carveout_rt::start::translate_image;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Bytes of a line, at most: one word in each is written and read.
const STRIDE: u32 = 64;
/// Lines of the test, which any first level holds.
const LINES: u32 = FRAME_SIZE / STRIDE;
/// A section of the lower half, which is nobody's.
const SECTION: VirtAddr = VirtAddr::new(0x4000_0000);

/// The section's second-level table.
#[repr(C, align(1024))]
struct Table(UnsafeCell<L2Table>);

// SAFETY: `region` alone names it, and gets past its first lines once.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([L2Desc::FAULT; L2_ENTRIES]));

/// What is tried.
#[derive(Clone, Copy)]
enum Operation {
    /// What another core wrote, to memory.
    Clean,
    /// What another core read before memory changed, away.
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
    region: Region<'static>,
    frames: FrameRange,
}

/// Tries both operations on the lines of every core that is in.
///
/// # Errors
///
/// [`Failure::NoRoom`] if there is no page to try them on. [`Failure::Incoherent`] if one did not reach a core's lines.
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
/// If it was called before: its tables have one name.
fn region(kernel: &'static Kernel) -> Region<'static> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    assert!(!TAKEN.swap(true, Ordering::Relaxed), "the caches are tried once");
    let table = TABLE.0.get();
    let image = VirtAddr::new(table.addr() as u32);
    let table_at = translate_image(image).expect("part of the image");
    // One table serves both halves, and it is in the image.
    let entry_at = kernel.machine.registers().table(Ttbr::Ttbr1).raw() + 4 * (SECTION.raw() / SECTION_SIZE);
    let entry = entry_at.wrapping_sub(table_at.raw()).wrapping_add(image.raw()) as *mut L1Desc;
    // SAFETY: the entry of the head's table, mapped with the image for good; the kernel's regions are all above it.
    let l1 = unsafe { core::slice::from_raw_parts_mut(entry, 1) };
    // SAFETY: this function alone names the table, and comes here once (`TAKEN`).
    let l2 = unsafe { core::slice::from_raw_parts_mut(table, 1) };
    let (range, share) = (VirtRange::new(SECTION.raw(), 1), Armv7a::shareability());
    // SAFETY: the entry and the table are named here alone, as just said, and the addresses are theirs.
    unsafe { Region::one_each(kernel.machine, range, share, l1, PhysAddr::new(entry_at), l2, table_at) }
        .expect("heap for a section")
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
        // SAFETY: no other mapping of the frames exists: they are a device's, and each mapping here ends below (I1).
        let mapped = unsafe { self.region.map(self.machine, SECTION, self.frames, memory, Access::ReadWrite) };
        let mapped = mapped.expect("the page is free");
        let result = work(mapped.all());
        self.machine.device_barrier();
        self.region.unmap(self.machine, mapped);
        result
    }
}

/// Has one core work.
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
    machine.reach(part.va()).wrapping_add((line * STRIDE) as usize).cast()
}
