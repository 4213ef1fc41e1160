//! The PL310 outer cache controller (L2C-310 TRM, DDI 0246).
//!
//! Guarantees: an [`L2c310`] is on. It is not exclusive of the core's own level, and it is free of what its release
//! does wrong. Its operations are done when they return. What they wrote is in memory after [`wait`](CacheLevel::wait):
//! a cache sync, which empties the controller's buffers (TRM 3.3.10). It goes by physical addresses, for the controller
//! knows only those. A range as large as the cache is maintained by ways, so no operation costs more than one pass over
//! the cache.
//!
//! Errata, by the RTL release in the cache ID register:
//! - 727915 (r2p0 to r3p0): the background clean-and-invalidate by way can corrupt data; the debug register holds back
//!   linefills and write-backs while it runs. The non-secure world may not write it: there, invalidates go by line.
//! - 753970 (r3p0): a cache sync can hang the store buffer; the write goes to a register without effect instead.
//! - 588369 (before r2p0): clean-and-invalidate, by way too, leaves clean lines: there, invalidates go by line.
//! - 752271 (r3p0 to r3p1) and 765569 (all): [`outer_prefetch`] gives the prefetch control register that is right.
//! - 769419 (before r3p2): the store buffer does not drain by itself. Whatever another master shall see is followed by
//!   a sync: [`Cache::device_barrier`](carveout::machine::Cache::device_barrier).
//!
//! Only the secure world may write control, auxiliary control, prefetch control and debug (TRM 3.3): a write from the
//! other world aborts. There the controller must be on already, and right.
//!
//! Unless bit 22 of the auxiliary control register is set, shared non-cacheable accesses look up this cache (TRM
//! 2.3.2). That does no harm here, because no line of such a frame is left (I3).

mod unusable;

pub use unusable::Unusable;

use crate::cores::World;
use crate::errata::{PL310_R2P0, PL310_R3P0, outer_prefetch};
use crate::ids::{self, ACTLR_EXCL};
use crate::levels::CacheLevel;
use aarch32_cpu::register::{Actlr, Midr};
use carveout::addr::FRAME_SIZE;
use carveout::sync::{Lock, Rank};
use carveout::vm::mapped::Part;
use core::ptr::NonNull;
use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

/// Bytes of a line, which are fixed in this controller.
const LINE: u32 = 32;

register_bitfields! [u32,
    CacheId [
        RTL_RELEASE OFFSET(0) NUMBITS(6) [],
        PART OFFSET(6) NUMBITS(4) [Pl310 = 3],
        IMPLEMENTER OFFSET(24) NUMBITS(8) [Arm = 0x41]
    ],
    Control [
        ENABLE OFFSET(0) NUMBITS(1) []
    ],
    Auxiliary [
        /// Exclusive cache configuration.
        EXCLUSIVE OFFSET(12) NUMBITS(1) [],
        ASSOCIATIVITY OFFSET(16) NUMBITS(1) [Ways8 = 0, Ways16 = 1],
        WAY_SIZE OFFSET(17) NUMBITS(3) []
    ],
    Debug [
        /// Disable cache linefill.
        DCL OFFSET(0) NUMBITS(1) [],
        /// Disable write-back, which forces write-through.
        DWB OFFSET(1) NUMBITS(1) []
    ],
];

register_structs! {
    /// The registers used here (TRM table 3-1).
    #[allow(missing_docs)]
    pub Registers {
        (0x000 => id: ReadOnly<u32, CacheId::Register>),
        (0x004 => _type),
        (0x100 => control: ReadWrite<u32, Control::Register>),
        (0x104 => auxiliary: ReadWrite<u32, Auxiliary::Register>),
        (0x108 => _latency),
        (0x730 => sync: ReadWrite<u32>),
        (0x734 => _unused0),
        /// A register without effect, whose write drains like a sync: erratum 753970.
        (0x740 => dummy: ReadWrite<u32>),
        (0x744 => _unused1),
        (0x770 => invalidate_line: ReadWrite<u32>),
        (0x774 => _unused2),
        (0x77c => invalidate_way: ReadWrite<u32>),
        (0x780 => _unused3),
        (0x7b0 => clean_line: ReadWrite<u32>),
        (0x7b4 => _unused4),
        (0x7bc => clean_way: ReadWrite<u32>),
        (0x7c0 => _unused5),
        (0x7fc => flush_way: ReadWrite<u32>),
        (0x800 => _unused6),
        (0xf40 => debug: ReadWrite<u32, Debug::Register>),
        (0xf44 => _unused7),
        /// The prefetch control register, since r2p0.
        (0xf60 => prefetch: ReadWrite<u32>),
        (0xf64 => @END),
    }
}

/// A controller that is on.
#[derive(Debug)]
pub struct L2c310 {
    registers: NonNull<Registers>,
    /// The lock that is held over line operations of a page, or over one operation by way.
    operation: Lock<()>,
    size: u32,
    ways: u32,
    sync_by_dummy: bool,
    hold_while_flushing: bool,
    invalidate_by_line: bool,
}

// SAFETY: any core may use the registers: `enable` was given a mapping that lasts, and the controller is one for all.
unsafe impl Send for L2c310 {}
// SAFETY: each write to the registers is one operation of the controller, which queues them; what must not meet another
// goes through `operation`.
unsafe impl Sync for L2c310 {}

impl L2c310 {
    /// Turns the controller on, unless a boot loader did: then nothing is invalidated, for the lines are in use.
    ///
    /// # Safety
    ///
    /// `registers` is a mapping of a PL310's registers as Device memory that is never unmapped, and no other code
    /// writes to them. `world` is the one that this runs in.
    ///
    /// # Errors
    ///
    /// [`Unusable::Absent`] if no PL310 answers there; nothing is written. [`Unusable::Off`] if the controller is off
    /// and this is the non-secure world. [`Unusable::Exclusive`] if the core puts what it drops into this cache, or the
    /// controller was left on so. [`Unusable::Prefetch`] if it was left on with a prefetch control register that an
    /// erratum makes wrong.
    pub unsafe fn enable(registers: NonNull<Registers>, world: World) -> Result<Self, Unusable> {
        // SAFETY: `registers` is mapped for ever, and a register may be read and written by shared reference.
        let block = unsafe { registers.as_ref() };
        if !block.id.matches_all(CacheId::IMPLEMENTER::Arm + CacheId::PART::Pl310) {
            return Err(Unusable::Absent { id: block.id.get() });
        }
        let ways = if block.auxiliary.is_set(Auxiliary::ASSOCIATIVITY) { 16 } else { 8 };
        // Way sizes go from 16 KiB, code 1, to 512 KiB, code 6; codes 0 and 7 mean the nearest (TRM 3.3.4).
        let way = (8 << 10) << block.auxiliary.read(Auxiliary::WAY_SIZE).clamp(1, 6);
        let release = block.id.read(CacheId::RTL_RELEASE);
        let has = if release < PL310_R2P0 { 0 } else { block.prefetch.get() };
        let needs = outer_prefetch(release, has);
        if core_is_exclusive() {
            return Err(Unusable::Exclusive);
        }
        if block.control.is_set(Control::ENABLE) {
            // Auxiliary control must not be written while the controller is on (TRM 3.3.4).
            if block.auxiliary.is_set(Auxiliary::EXCLUSIVE) {
                return Err(Unusable::Exclusive);
            }
            if needs != has {
                return Err(Unusable::Prefetch { has, needs });
            }
        } else {
            if world == World::NonSecure {
                return Err(Unusable::Off);
            }
            if block.auxiliary.is_set(Auxiliary::EXCLUSIVE) {
                block.auxiliary.modify(Auxiliary::EXCLUSIVE::CLEAR);
            }
            if needs != has {
                block.prefetch.set(needs);
            }
            let all = (1 << ways) - 1;
            block.invalidate_way.set(all);
            while block.invalidate_way.get() & all != 0 {}
            if release == PL310_R3P0 {
                block.dummy.set(0);
            } else {
                block.sync.set(0);
            }
            block.control.write(Control::ENABLE::SET);
        }
        let holds = (PL310_R2P0..=PL310_R3P0).contains(&release);
        Ok(Self {
            registers,
            operation: Lock::new(Rank::OUTER_CACHE, ()),
            size: way * ways,
            ways,
            sync_by_dummy: release == PL310_R3P0,
            hold_while_flushing: holds,
            invalidate_by_line: release < PL310_R2P0 || holds && world == World::NonSecure,
        })
    }

    /// Returns the size in bytes, and the number of ways.
    pub const fn geometry(&self) -> (u32, u32) {
        (self.size, self.ways)
    }

    /// Returns its registers, which it alone uses.
    pub const fn registers(&self) -> NonNull<Registers> {
        self.registers
    }

    const fn block(&self) -> &Registers {
        // SAFETY: `enable` was given a mapping that is never unmapped.
        unsafe { self.registers.as_ref() }
    }

    /// Operates on each line of a part. Line operations are atomic: a write waits until the one before is done (TRM
    /// 3.3.10). The lock keeps operations by way apart from them. It is given up after each page, so that nobody waits
    /// for a large range.
    fn each_line(&self, part: Part<'_>, operate: impl Fn(&Registers, u32)) -> u64 {
        let block = self.block();
        let (at, bytes) = (part.pa().raw(), u64::from(part.bytes()));
        let first = at & !(LINE - 1);
        let lines = (u64::from(at - first) + bytes).div_ceil(u64::from(LINE));
        let mut next = 0;
        while next < lines {
            let end = lines.min(next + u64::from(FRAME_SIZE / LINE));
            let _guard = self.operation.lock();
            for n in next..end {
                operate(block, first + n as u32 * LINE);
            }
            next = end;
        }
        lines
    }

    /// Operates on all ways. The operation runs in the background until its bits are clear. Nothing else may be asked
    /// of the controller meanwhile, and the lock sees to that.
    fn all_ways(&self, register: impl Fn(&Registers) -> &ReadWrite<u32>, hold: bool) -> u64 {
        let _guard = self.operation.lock();
        let block = self.block();
        let all = (1 << self.ways) - 1;
        if hold {
            block.debug.write(Debug::DCL::SET + Debug::DWB::SET);
        }
        register(block).set(all);
        while register(block).get() & all != 0 {}
        if hold {
            // Erratum 727915: what the operation wrote back is out before write-backs are let go.
            self.drain(block);
            block.debug.set(0);
        }
        u64::from(self.size / LINE)
    }

    fn drain(&self, block: &Registers) {
        if self.sync_by_dummy {
            block.dummy.set(0);
        } else {
            block.sync.set(0);
        }
        carveout::cpu::dsb();
    }
}

// SAFETY: line operations are atomic, and operations by way end before `all_ways` returns; `wait` is a cache sync,
// which empties the controller's buffers (TRM 3.3.10). No dirty line of others is dropped: by way, lines are cleaned
// too.
unsafe impl CacheLevel for L2c310 {
    fn line(&self) -> u32 {
        LINE
    }

    fn clean(&self, part: Part<'_>) -> u64 {
        if part.bytes() >= self.size {
            return self.all_ways(|block| &block.clean_way, false);
        }
        self.each_line(part, |block, line| block.clean_line.set(line))
    }

    /// An operation by ways meets the lines of others, whose dirty data must survive. So it cleans and invalidates. The
    /// caller's dirty lines are dead and may be written too.
    fn invalidate(&self, part: Part<'_>) -> u64 {
        if part.bytes() >= self.size && !self.invalidate_by_line {
            return self.all_ways(|block| &block.flush_way, self.hold_while_flushing);
        }
        self.each_line(part, |block, line| block.invalidate_line.set(line))
    }

    fn all_lines(&self) -> Option<u32> {
        (!self.invalidate_by_line).then_some(self.size / LINE)
    }

    fn flush(&self) -> u64 {
        assert!(!self.invalidate_by_line, "errata 588369 and 727915: this cache is not emptied by way");
        self.all_ways(|block| &block.flush_way, self.hold_while_flushing)
    }

    fn wait(&self) {
        // Nothing may be written to the controller while an operation by way goes on (TRM 3.1), on any core.
        let _guard = self.operation.lock();
        self.drain(self.block());
    }
}

/// Returns whether the core puts what it drops into the outer cache: ACTLR.EXCL, which the head clears in the secure
/// world.
fn core_is_exclusive() -> bool {
    let clear = ids::core(Midr::read().raw_value()).map_or(0, |core| core.clear);
    Actlr::read().0 & clear & ACTLR_EXCL != 0
}
