//! The PL310 outer cache controller (L2C-310 TRM, DDI 0246).
//!
//! Guarantees: an [`L2c310`] is on; its operations are done when they return, and what they wrote is in memory after
//! [`wait`](Level::wait): a cache sync, which empties the controller's buffers (TRM 3.3.10). Physical addresses
//! throughout: what it caches is known by them alone. A range as large as the cache is maintained by ways, so that no
//! operation costs more than one pass over the cache.
//!
//! Errata, by the RTL release in the cache ID register:
//! - 727915 (r2p0 to r3p0): the background clean-and-invalidate by way can corrupt data; the debug register holds back
//!   linefills and write-backs while it runs.
//! - 753970 (r3p0): a cache sync can hang the store buffer; the write goes to a register without effect instead.
//! - 588369 (before r2p0): clean-and-invalidate, by way too, leaves clean lines: there, invalidates go by line.
//!
//! Unless bit 22 of the auxiliary control register is set, shared non-cacheable accesses look up this cache (TRM 2.3.2):
//! that is right here because no line of such a frame is left (I3).

use crate::addr::FRAME_SIZE;
use crate::arch::levels::Level;
use crate::sync::{Lock, Rank};
use crate::vm::space::Part;
use core::ptr::NonNull;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

/// Bytes of a line: fixed in this controller.
const LINE: u32 = 32;

register_bitfields! [u32,
    CacheId [
        RTL_RELEASE OFFSET(0) NUMBITS(6) []
    ],
    Control [
        ENABLE OFFSET(0) NUMBITS(1) []
    ],
    Auxiliary [
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
        (0xf44 => @END),
    }
}

/// RTL releases in the cache ID (TRM 3.3.1).
const R2P0: u32 = 0x4;
const R3P0: u32 = 0x5;

/// The controller, on.
#[derive(Debug)]
pub struct L2c310 {
    registers: NonNull<Registers>,
    /// Held over operations of a page, or one by way.
    operation: Lock<()>,
    size: u32,
    ways: u32,
    sync_by_dummy: bool,
    hold_while_flushing: bool,
    flush_keeps_clean: bool,
}

// SAFETY: the registers are a mapping that lasts; each write is one operation of the controller, and ranges go through the lock.
unsafe impl Send for L2c310 {}
// SAFETY: as above.
unsafe impl Sync for L2c310 {}

impl L2c310 {
    /// Turns the controller on, unless a boot loader did: then nothing is invalidated, for the lines are in use.
    ///
    /// # Safety
    ///
    /// The caller's duty: `registers` is a mapping of a PL310 as Device memory that lasts and is nobody else's.
    pub unsafe fn enable(registers: NonNull<Registers>) -> Self {
        // SAFETY: the caller's duty.
        let block = unsafe { registers.as_ref() };
        let ways = if block.auxiliary.is_set(Auxiliary::ASSOCIATIVITY) { 16 } else { 8 };
        // Way sizes go from 16 KiB, code 1, to 512 KiB, code 6; codes 0 and 7 mean the nearest (TRM 3.3.4).
        let way = (8 << 10) << block.auxiliary.read(Auxiliary::WAY_SIZE).clamp(1, 6);
        let release = block.id.read(CacheId::RTL_RELEASE);
        if !block.control.is_set(Control::ENABLE) {
            let all = (1 << ways) - 1;
            block.invalidate_way.set(all);
            while block.invalidate_way.get() & all != 0 {}
            if release == R3P0 {
                block.dummy.set(0);
            } else {
                block.sync.set(0);
            }
            block.control.write(Control::ENABLE::SET);
        }
        Self {
            registers,
            operation: Lock::new(Rank::OUTER_CACHE, ()),
            size: way * ways,
            ways,
            sync_by_dummy: release == R3P0,
            hold_while_flushing: (R2P0..=R3P0).contains(&release),
            flush_keeps_clean: release < R2P0,
        }
    }

    /// Bytes in all, and ways.
    pub const fn geometry(&self) -> (u32, u32) {
        (self.size, self.ways)
    }

    /// Its registers, which it alone uses.
    pub const fn registers(&self) -> NonNull<Registers> {
        self.registers
    }

    const fn block(&self) -> &Registers {
        // SAFETY: `enable`'s contract: the mapping lasts.
        unsafe { self.registers.as_ref() }
    }

    /// Line operations are atomic: a write waits until the one before is done (TRM 3.3.10). The lock keeps those by way
    /// apart from them, and is given up after each page, so that nobody waits for a large range.
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

    /// An operation by way runs in the background until its bits are clear; nothing else may be asked of the
    /// controller meanwhile, which the lock sees to.
    fn all_ways(&self, register: impl Fn(&Registers) -> &ReadWrite<u32>) -> u64 {
        let _guard = self.operation.lock();
        let block = self.block();
        let all = (1 << self.ways) - 1;
        if self.hold_while_flushing {
            block.debug.write(Debug::DCL::SET + Debug::DWB::SET);
        }
        register(block).set(all);
        while register(block).get() & all != 0 {}
        if self.hold_while_flushing {
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
        super::mmu::dsb();
    }
}

impl Level for L2c310 {
    fn clean(&self, part: Part<'_>) -> u64 {
        if part.bytes() >= self.size {
            return self.all_ways(|block| &block.clean_way);
        }
        self.each_line(part, |block, line| block.clean_line.set(line))
    }

    /// By ways others' dirty lines must survive, so the cache is cleaned and invalidated: the caller's dirty lines are
    /// dead and may as well be written.
    fn invalidate(&self, part: Part<'_>) -> u64 {
        if part.bytes() >= self.size && !self.flush_keeps_clean {
            return self.all_ways(|block| &block.flush_way);
        }
        self.each_line(part, |block, line| block.invalidate_line.set(line))
    }

    fn wait(&self) {
        // Nothing may be written to the controller while an operation by way goes on (TRM 3.1), on any core.
        let _guard = self.operation.lock();
        self.drain(self.block());
    }
}
