//! A careless machine: mistakes of old kernels, at the seam between the DMA API and the core.
//!
//! Guarantees: without a [`Bug`] the machine does exactly what [`Armv7a`] does. With a bug it differs only in that.

use carveout::addr::{PhysAddr, VirtAddr};
use carveout::cpu::{CoreId, isb};
use carveout::machine::{Cache, Lines, Mmu, Registers};
use carveout::vm::attr::LeafSize;
use carveout::vm::mapped::Part;
use carveout::vm::user::Asid;
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::kernel::cores;
use core::arch::asm;
use core::cell::Cell;
use core::ptr::NonNull;

/// A rule that is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    /// The frames keep a write-back mapping beside the one that a buffer has (I1).
    Alias,
    /// Frames that become non-cacheable are cleaned and invalidated before they are unmapped, and not after (I3).
    FlushBeforeUnmap,
    /// Translations of unmapped memory stay in the TLB (I3).
    NoTlbi,
    /// Nothing is cleaned (I3).
    NoClean,
    /// Nothing is invalidated after a device wrote (I3).
    NoInvalidate,
    /// Cleans reach the point of unification, not that of coherency (I3).
    CleanToUnification,
    /// When a device gives memory back, the inner level is invalidated before the outer one (I3).
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
    /// The CPU writes to a device's buffer through a pointer that it kept (I4).
    RawPointer,
    /// A mock device does not first drop the lines of its buffer (I3).
    PortNoFlush,
    /// The kernel does not end its mapping of memory that is taken from it (I2).
    LateNoBreak,
    /// The kernel erases its descriptors, but does not clean them to where walks read (ARM ARM B3.10.1).
    LateNotPublished,
    /// The kernel's translations of memory that is taken from it stay in the TLB (I3).
    LateNoTlbi,
    /// The kernel's lines of memory that is taken from it are not dropped (I3).
    LateNoDiscard,
    /// The kernel's lines are dropped outer level first, as if none were dirty (I3).
    LateOuterFirst,
    /// The kernel's lines are cleaned and dropped through its own mapping, before that ends, and not after (I3).
    LateFlushBefore,
    /// Nobody waits until the kernel's lines are dropped (I3).
    LateNoWait,
    /// Lines of memory that is given back to the kernel are not dropped (I3).
    BackNoDiscard,
    /// Translations of memory that is given back to the kernel stay in the TLB (I1, I3).
    BackNoTlbi,
    /// Nothing of a pool's block is cleaned (I3).
    PoolNoClean,
    /// Nothing of a pool's block is invalidated after a device wrote (I3).
    PoolNoInvalidate,
    /// The blocks of a pool begin and end inside lines (I3).
    PoolSharedLine,
    /// Frames that stayed mapped non-cacheable go to somebody else, and that mapping remains (I1). The ledger would
    /// refuse a module that forgot the eviction, so the machine forgets it.
    WarmNoEviction,
    /// A process has pages of a shared buffer with another attribute than the kernel has (I1).
    ShareAttribute,
    /// What a process had of a shared buffer is revoked, and its translations stay in the TLB (I3).
    ShareNoTlbi,
    /// A process gets the number (ASID) of another one whose translations stay in the TLB (I3).
    ShareAsidReused,
    /// A process gets one page more of a shared buffer than it was granted (I4).
    ShareLongRange,
    /// Memory changes hands by set and way on one core of several (I3).
    SetWayOneCore,
    /// Memory changes hands by set and way on all cores, while it is mapped write-back (I3).
    SetWayWhileMapped,
    /// The outer cache is cleaned before the cores' own are (I3).
    SetWayOuterFirst,
    /// Lines that may be dirty are dropped by set and way, lines of other owners too (I3).
    SetWayInvalidate,
    /// The last core is not asked, because it started after the cores were counted. It keeps lines and translations
    /// (I3).
    CoreJoinsLate,
    /// A TLB invalidate that reaches one core of several (I3).
    LocalTlbi,
    /// A lock has no barriers, so its holder's accesses can move out of the critical section (ARM ARM A3.8.3).
    LockNoBarrier,
    /// A block is left for another core before the writes to the block are visible (ARM ARM A3.8.3).
    ShelfNoOrder,
}

impl Bug {
    /// Returns whether the bug needs several cores.
    pub(crate) const fn is_of_many(self) -> bool {
        self as usize >= Self::SetWayOneCore as usize
    }
}

/// The present step for the area that is taken from the kernel and given back, for frames that stayed mapped, or for what
/// a process has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Nothing.
    Elsewhere,
    /// The kernel ends its mapping, and leaves the TLB to the module.
    Breaking,
    /// The module takes the area.
    Taking,
    /// Devices and CPU use the area.
    InUse,
    /// The module gives the area back.
    Leaving,
    /// Somebody takes frames that stayed mapped. No other mapping ends meanwhile.
    Evicting,
    /// What a process had of a shared buffer is revoked.
    Revoking,
    /// The tables of a process that is gone end.
    Ending,
}

/// The names of the bugs in the boot argument `plant=`.
pub(crate) const BUGS: [(&str, Bug); 39] = [
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
    ("late-no-break", Bug::LateNoBreak),
    ("late-not-published", Bug::LateNotPublished),
    ("late-no-tlbi", Bug::LateNoTlbi),
    ("late-no-discard", Bug::LateNoDiscard),
    ("late-outer-first", Bug::LateOuterFirst),
    ("late-flush-before", Bug::LateFlushBefore),
    ("late-no-wait", Bug::LateNoWait),
    ("back-no-discard", Bug::BackNoDiscard),
    ("back-no-tlbi", Bug::BackNoTlbi),
    ("pool-no-clean", Bug::PoolNoClean),
    ("pool-no-invalidate", Bug::PoolNoInvalidate),
    ("pool-shared-line", Bug::PoolSharedLine),
    ("warm-no-eviction", Bug::WarmNoEviction),
    ("share-attribute", Bug::ShareAttribute),
    ("share-no-tlbi", Bug::ShareNoTlbi),
    ("share-asid-reused", Bug::ShareAsidReused),
    ("share-long-range", Bug::ShareLongRange),
    ("set-way-one-core", Bug::SetWayOneCore),
    ("set-way-while-mapped", Bug::SetWayWhileMapped),
    ("set-way-outer-first", Bug::SetWayOuterFirst),
    ("set-way-invalidate", Bug::SetWayInvalidate),
    ("core-joins-late", Bug::CoreJoinsLate),
    ("local-tlbi", Bug::LocalTlbi),
    ("lock-no-barrier", Bug::LockNoBarrier),
    ("shelf-no-order", Bug::ShelfNoOrder),
];

// The outer controller's registers (L2C-310 TRM, table 3-1).
const SYNC: usize = 0x730;
const INVALIDATE_LINE: usize = 0x770;
const CLEAN_LINE: usize = 0x7b0;
const FLUSH_LINE: usize = 0x7f0;
/// Bytes of an outer line.
const OUTER_LINE: usize = 32;

/// The machine.
pub(crate) struct Careless {
    machine: &'static Armv7a,
    bug: Option<Bug>,
    /// The outer controller's registers, if there is one that is mapped and on.
    outer: Option<NonNull<u32>>,
    /// Whether a port makes the present calls.
    pub(crate) at_port: Cell<bool>,
    /// The present step.
    pub(crate) stage: Cell<Stage>,
    /// Whether the present calls are for a pool's blocks.
    pub(crate) at_pool: Cell<bool>,
    /// Whether whole caches are emptied for buffers of any size, if the machine can do that.
    pub(crate) by_flush: Cell<bool>,
}

impl Careless {
    /// Makes the machine, with at most one bug.
    ///
    /// # Safety
    ///
    /// `outer` is a mapping of the outer controller's 4 KiB of registers that lasts.
    pub(crate) const unsafe fn new(machine: &'static Armv7a, bug: Option<Bug>, outer: Option<NonNull<u32>>) -> Self {
        Self {
            machine,
            bug,
            outer,
            at_port: Cell::new(false),
            at_pool: Cell::new(false),
            by_flush: Cell::new(false),
            stage: Cell::new(Stage::Elsewhere),
        }
    }

    /// Returns whether the machine has this bug.
    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Returns whether the bug concerns operations by set and way.
    pub(crate) const fn is_wrong_by_set_and_way(&self) -> bool {
        use Bug::{CoreJoinsLate, SetWayInvalidate, SetWayOneCore, SetWayOuterFirst, SetWayWhileMapped};
        matches!(
            self.bug,
            Some(SetWayOneCore | SetWayWhileMapped | SetWayOuterFirst | SetWayInvalidate | CoreJoinsLate)
        )
    }

    /// Returns whether the machine has this bug and is at this stage.
    fn has_at(&self, bug: Bug, stage: Stage) -> bool {
        self.has(bug) && self.stage.get() == stage
    }

    /// Cleans and drops the outer cache's lines of frames that no core holds any more, and waits.
    pub(crate) fn flush_outer(&self, start: u32, bytes: u32) {
        dsb();
        self.each_outer_line_of(start, bytes, FLUSH_LINE);
        dsb();
    }

    /// Returns the core that started after the cores were counted.
    pub(crate) fn late_core(&self) -> Option<CoreId> {
        cores::online().last().filter(|core| self.has(Bug::CoreJoinsLate) && core.index() > 0)
    }

    /// Starts cleaning, level by level, without waiting.
    pub(crate) fn start_clean(&self, part: Part<'_>) {
        self.each_inner_line(part, clean_to_coherency);
        self.each_outer_line(part, CLEAN_LINE);
    }

    fn each_inner_line(&self, part: Part<'_>, operate: fn(u32)) {
        let (line, start) = (self.machine.caches().smallest_line(), part.va().raw());
        for at in (start & !(line - 1)..start + part.bytes()).step_by(line as usize) {
            operate(at);
        }
    }

    /// Does an operation on each outer line. Also waits, but not for the inner level.
    fn each_outer_line(&self, part: Part<'_>, register: usize) {
        self.each_outer_line_of(part.pa().raw(), part.bytes(), register);
    }

    fn each_outer_line_of(&self, start: u32, bytes: u32, register: usize) {
        let Some(block) = self.outer else { return };
        let write = |register: usize, value: u32| {
            // SAFETY: this is a register of the controller, which stays mapped (the contract of `new`).
            unsafe { block.as_ptr().wrapping_byte_add(register).write_volatile(value) };
        };
        for at in (start & !(OUTER_LINE as u32 - 1)..start + bytes).step_by(OUTER_LINE) {
            write(register, at);
        }
        write(SYNC, 0);
    }
}

/// Cleans and drops, or only drops, the line of this core's cache that a set and a way name.
pub(crate) fn by_set_and_way(word: u32, drops: bool) {
    if drops {
        // SAFETY: DCISW loses data. That is this bug.
        unsafe { asm!("mcr p15, 0, {0}, c7, c6, 2", in(reg) word, options(nostack, preserves_flags)) };
    } else {
        // SAFETY: DCCISW changes no data.
        unsafe { asm!("mcr p15, 0, {0}, c7, c14, 2", in(reg) word, options(nostack, preserves_flags)) };
    }
}

/// Invalidates all translations, on this core alone.
fn forget_here() {
    dsb();
    // SAFETY: TLBIALL: forgetting translations is always allowed.
    unsafe { asm!("mcr p15, 0, {0}, c8, c7, 0", in(reg) 0, options(nostack, preserves_flags)) };
    dsb();
    isb();
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

/// Waits until everything before is complete.
pub(crate) fn dsb() {
    // SAFETY: a barrier; memory is a clobber.
    unsafe { asm!("dsb", options(nostack, preserves_flags)) };
}

// SAFETY: `Armv7a` does the work and meets the duties. `NoTlbi` and `WalkNotCleaned` break them on purpose.
unsafe impl Mmu for Careless {
    fn publish(&self, at: PhysAddr, words: &[u32]) {
        if self.has(Bug::WalkNotCleaned)
            || self.has_at(Bug::LateNotPublished, Stage::Breaking)
            || self.has_at(Bug::WarmNoEviction, Stage::Evicting)
        {
            dsb();
        } else {
            self.machine.publish(at, words);
        }
    }

    fn invalidate_tlb(&self, va: VirtAddr, bytes: u32, leaf: LeafSize) {
        if self.has(Bug::LocalTlbi) {
            return forget_here();
        }
        if let Some(late) = self.late_core() {
            return cores::on_all(&|core| {
                if core != late {
                    forget_here();
                }
            });
        }
        let left = self.has(Bug::NoTlbi)
            || self.has_at(Bug::BackNoTlbi, Stage::Leaving)
            || self.has_at(Bug::WarmNoEviction, Stage::Evicting);
        if !left && self.stage.get() != Stage::Breaking {
            self.machine.invalidate_tlb(va, bytes, leaf);
        }
    }

    fn invalidate_tlb_all(&self) {
        if !self.has(Bug::LateNoTlbi) {
            self.machine.invalidate_tlb_all();
        }
    }

    fn invalidate_user(&self, asid: Asid, va: VirtAddr, bytes: u32) {
        if !self.has_at(Bug::ShareNoTlbi, Stage::Revoking) {
            self.machine.invalidate_user(asid, va, bytes);
        }
    }

    fn invalidate_asid(&self, asid: Asid) {
        if !self.has_at(Bug::ShareAsidReused, Stage::Ending) {
            self.machine.invalidate_asid(asid);
        }
    }

    fn reach(&self, va: VirtAddr, bytes: u32) -> *mut u8 {
        self.machine.reach(va, bytes)
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

    fn table(&self, at: PhysAddr, bytes: u32) -> Option<NonNull<u32>> {
        self.machine.table(at, bytes)
    }

    fn table_word(&self, at: PhysAddr) -> Option<u32> {
        // Otherwise the area would be refused.
        if self.has_at(Bug::LateNoBreak, Stage::Taking) { Some(0) } else { self.machine.table_word(at) }
    }
}

// SAFETY: as above. The bugs that are named here break the duties on purpose.
unsafe impl Cache for Careless {
    fn line(&self) -> u32 {
        if self.has(Bug::PoolSharedLine) { 4 } else { self.machine.line() }
    }

    fn clean(&self, part: Part<'_>) -> Lines {
        match self.bug {
            Some(Bug::NoClean) => Lines::default(),
            Some(Bug::PoolNoClean) if self.at_pool.get() => Lines::default(),
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
            Some(Bug::PoolNoInvalidate) if self.at_pool.get() => Lines::default(),
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
        match (self.bug, self.stage.get()) {
            (Some(Bug::PortNoFlush), _) if self.at_port.get() => {}
            (Some(Bug::LateNoDiscard | Bug::LateFlushBefore), Stage::InUse)
            | (Some(Bug::BackNoDiscard), Stage::Leaving) => {}
            (Some(Bug::LateOuterFirst), Stage::InUse) => {
                self.each_outer_line(part, INVALIDATE_LINE);
                dsb();
                self.each_inner_line(part, invalidate);
                dsb();
            }
            (Some(Bug::LateNoWait), Stage::InUse) => {
                self.each_inner_line(part, invalidate);
                self.each_outer_line(part, INVALIDATE_LINE);
            }
            _ => return self.machine.discard(part),
        }
        Lines::default()
    }

    /// Returns so few lines that each buffer has many times as many.
    fn flush_lines(&self) -> Option<u32> {
        self.machine.flush_lines().filter(|_| self.by_flush.get()).map(|_| 1)
    }

    fn flush(&self) -> Lines {
        self.machine.flush()
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
