//! The machine in careless hands: what an old kernel got wrong, at the seam between the DMA API and the core.
//!
//! Guarantees: without a [`Bug`] it does what [`Armv7a`] does and nothing else; with one it differs in that alone.

use carveout::addr::{PhysAddr, VirtAddr};
use carveout::machine::{Cache, Lines, Mmu, Registers};
use carveout::vm::mapped::Part;
use carveout_armv7a::mmu::Armv7a;
use core::arch::asm;
use core::cell::Cell;
use core::ptr::NonNull;

/// One rule broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    /// The frames keep a write-back mapping beside the one that a buffer has (I1).
    Alias,
    /// Frames that become non-cacheable are cleaned and invalidated before they are unmapped, and not after (I3).
    FlushBeforeUnmap,
    /// What is unmapped stays in the TLB (I3).
    NoTlbi,
    /// Nothing is cleaned (I3).
    NoClean,
    /// Nothing is invalidated after a device wrote (I3).
    NoInvalidate,
    /// Cleans reach the point of unification, not that of coherency (I3).
    CleanToUnification,
    /// Away from a device the inner level is invalidated before the outer one (I3).
    InnerFirst,
    /// The device is told to go while cleans are under way (I3).
    NoDsb,
    /// The device is told to go while non-cacheable writes are under way (ARM ARM A3.8.3).
    NoBarrier,
    /// A buffer begins and ends inside lines of the CPU's own data (I3).
    SharedLine,
    /// Memory that was used write-back is carved out without being flushed (I3).
    NeverFlushed,
    /// Descriptors are not cleaned to where walks read (ARM ARM B3.10.1).
    WalkNotCleaned,
    /// The CPU writes through a pointer it kept to what a device owns (I4).
    RawPointer,
    /// A device that the CPU plays does not drop the lines of its buffer first (I3).
    PortNoFlush,
}

/// What the boot argument `plant=` calls them.
pub(crate) const BUGS: [(&str, Bug); 14] = [
    ("alias", Bug::Alias),
    ("flush-before-unmap", Bug::FlushBeforeUnmap),
    ("no-tlbi", Bug::NoTlbi),
    ("no-clean", Bug::NoClean),
    ("no-invalidate", Bug::NoInvalidate),
    ("clean-to-unification", Bug::CleanToUnification),
    ("inner-first", Bug::InnerFirst),
    ("no-dsb", Bug::NoDsb),
    ("no-barrier", Bug::NoBarrier),
    ("shared-line", Bug::SharedLine),
    ("never-flushed", Bug::NeverFlushed),
    ("walk-not-cleaned", Bug::WalkNotCleaned),
    ("raw-pointer", Bug::RawPointer),
    ("port-no-flush", Bug::PortNoFlush),
];

// The outer controller's registers (L2C-310 TRM, table 3-1).
const SYNC: usize = 0x730;
const INVALIDATE_LINE: usize = 0x770;
const CLEAN_LINE: usize = 0x7b0;
/// Bytes of an outer line.
const OUTER_LINE: usize = 32;

/// The machine.
pub(crate) struct Careless {
    machine: &'static Armv7a,
    bug: Option<Bug>,
    /// The outer controller, if there is one: mapped, and on.
    outer: Option<NonNull<u32>>,
    /// Whether what is asked is asked by a port.
    pub(crate) at_port: Cell<bool>,
}

impl Careless {
    /// The machine, with at most one bug.
    ///
    /// # Safety
    ///
    /// `outer` is a mapping of the outer controller's 4 KiB of registers that lasts.
    pub(crate) const unsafe fn new(machine: &'static Armv7a, bug: Option<Bug>, outer: Option<NonNull<u32>>) -> Self {
        Self { machine, bug, outer, at_port: Cell::new(false) }
    }

    /// Whether this is what is wrong.
    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Starts cleaning, level by level, and does not wait.
    pub(crate) fn start_clean(&self, part: Part<'_>) {
        self.each_inner_line(part, clean_to_coherency);
        self.each_outer_line(part, CLEAN_LINE);
    }

    fn each_inner_line(&self, part: Part<'_>, operate: fn(u32)) {
        let (line, start) = (self.machine.caches().line(), part.va().raw());
        for at in (start & !(line - 1)..start + part.bytes()).step_by(line as usize) {
            operate(at);
        }
    }

    /// Also waits, but not for the inner level.
    fn each_outer_line(&self, part: Part<'_>, register: usize) {
        let Some(block) = self.outer else { return };
        let write = |register: usize, value: u32| {
            // SAFETY: a register of the controller, mapped for good (the contract of `new`).
            unsafe { block.as_ptr().wrapping_byte_add(register).write_volatile(value) };
        };
        let start = part.pa().raw();
        for at in (start & !(OUTER_LINE as u32 - 1)..start + part.bytes()).step_by(OUTER_LINE) {
            write(register, at);
        }
        write(SYNC, 0);
    }
}

fn clean_to_coherency(va: u32) {
    // SAFETY: DCCMVAC, of a `Part`, so mapped; a clean changes no data.
    unsafe { asm!("mcr p15, 0, {0}, c7, c10, 1", in(reg) va, options(nostack, preserves_flags)) };
}

fn clean_to_unification(va: u32) {
    // SAFETY: DCCMVAU, of a `Part`, so mapped; a clean changes no data.
    unsafe { asm!("mcr p15, 0, {0}, c7, c11, 1", in(reg) va, options(nostack, preserves_flags)) };
}

fn invalidate(va: u32) {
    // SAFETY: DCIMVAC, of a `Part` whose lines are dead: the caller of `Cache::invalidate` says so.
    unsafe { asm!("mcr p15, 0, {0}, c7, c6, 1", in(reg) va, options(nostack, preserves_flags)) };
}

fn dsb() {
    // SAFETY: a barrier; memory is a clobber.
    unsafe { asm!("dsb", options(nostack, preserves_flags)) };
}

// SAFETY: the duties are `Armv7a`'s, which does the work. `NoTlbi` and `WalkNotCleaned` break them: that is the point.
unsafe impl Mmu for Careless {
    fn publish(&self, at: PhysAddr, words: &[u32]) {
        if self.has(Bug::WalkNotCleaned) {
            dsb();
        } else {
            self.machine.publish(at, words);
        }
    }

    fn invalidate_tlb(&self, va: VirtAddr, bytes: u32) {
        if !self.has(Bug::NoTlbi) {
            self.machine.invalidate_tlb(va, bytes);
        }
    }

    fn reach(&self, va: VirtAddr) -> *mut u8 {
        self.machine.reach(va)
    }

    fn reach_to_overwrite(&self, va: VirtAddr, bytes: u32) -> *mut u8 {
        self.machine.reach_to_overwrite(va, bytes)
    }

    unsafe fn zero(&self, at: *mut u8, bytes: usize) {
        // SAFETY: the machine's `zero` asks for what this one asks for.
        unsafe { self.machine.zero(at, bytes) };
    }

    fn registers(&self) -> Registers {
        self.machine.registers()
    }

    fn table_word(&self, at: PhysAddr) -> Option<u32> {
        self.machine.table_word(at)
    }
}

// SAFETY: as above; the bugs named here break the duties, and that is the point.
unsafe impl Cache for Careless {
    fn clean(&self, part: Part<'_>) -> Lines {
        match self.bug {
            Some(Bug::NoClean) => Lines::default(),
            Some(Bug::CleanToUnification) => {
                self.each_inner_line(part, clean_to_unification);
                dsb();
                Lines::default()
            }
            _ => self.machine.clean(part),
        }
    }

    fn invalidate(&self, part: Part<'_>) -> Lines {
        match self.bug {
            Some(Bug::NoInvalidate) => Lines::default(),
            Some(Bug::InnerFirst) => {
                self.each_inner_line(part, invalidate);
                dsb();
                self.each_outer_line(part, INVALIDATE_LINE);
                dsb();
                Lines::default()
            }
            _ => self.machine.invalidate(part),
        }
    }

    fn discard(&self, part: Part<'_>) -> Lines {
        match self.bug {
            Some(Bug::PortNoFlush) if self.at_port.get() => Lines::default(),
            _ => self.machine.discard(part),
        }
    }

    fn device_barrier(&self) {
        if !self.has(Bug::NoBarrier) {
            self.machine.device_barrier();
        }
    }

    fn dma_wmb(&self) {
        self.machine.dma_wmb();
    }

    fn dma_rmb(&self) {
        self.machine.dma_rmb();
    }
}
