//! The outer cache's controller (ARM DDI 0246): what its registers have the caches do, and which orders a planted bug
//! leaves out.

use crate::cache::{Caches, Maintain};
use std::collections::BTreeMap;

/// What a store to the outer controller asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum OuterOp {
    /// Clean, by line or way.
    Clean,
    /// Invalidate, or clean and invalidate, by line or way.
    Invalidate,
    /// Cache sync.
    Sync,
}

/// The controller, if the board has one.
pub struct Pl310 {
    base: Option<u32>,
    control: u32,
    /// Planted bugs: what the controller is not told, by kind.
    pub without: Vec<OuterOp>,
    /// The same, by the address of the store.
    pub without_site: Option<u32>,
    /// Which stores told it what, and how often.
    pub sites: BTreeMap<(u32, OuterOp), u32>,
}

impl Pl310 {
    /// Off.
    pub const fn new(base: Option<u32>) -> Self {
        Self { base, control: 0, without: Vec::new(), without_site: None, sites: BTreeMap::new() }
    }

    fn offset(&self, at: u32) -> Option<u32> {
        let offset = at.wrapping_sub(self.base?);
        (offset < 0x1000).then_some(offset)
    }

    /// A load, if a register of it is at this address.
    pub fn read(&self, at: u32, caches: &mut Caches) -> Option<u32> {
        Some(match self.offset(at)? {
            // Cache ID: r3p2. Auxiliary control: 8 ways of 16 KiB.
            0 => 0x4100_00c8,
            0x100 => self.control,
            0x104 => 0x0202_0000,
            // The ways an operation has not ended for.
            0x77c | 0x7bc | 0x7fc => u32::from(caches.poll_ways()) * 0xff,
            _ => 0,
        })
    }

    /// A store. Whether a register of it is at this address. Operations by line are atomic, those by way go on in the
    /// background, a sync is complete when all buffers are empty (DDI 0246, 3.3.10 and table 3-1).
    pub fn write(&mut self, at: u32, value: u32, caches: &mut Caches) -> bool {
        let Some(offset) = self.offset(at) else { return false };
        let (operation, kind) = match offset {
            0x100 => {
                self.control = value;
                caches.set_outer(value & 1 != 0);
                return true;
            }
            0x730 => (Maintain::Clean, OuterOp::Sync),
            0x770 | 0x77c => (Maintain::Invalidate, OuterOp::Invalidate),
            0x7b0 | 0x7bc => (Maintain::Clean, OuterOp::Clean),
            0x7f0 | 0x7fc => (Maintain::Flush, OuterOp::Invalidate),
            _ => return true,
        };
        *self.sites.entry((caches.pc, kind)).or_insert(0) += 1;
        if self.without.contains(&kind) || self.without_site == Some(caches.pc) {
            return true;
        }
        match offset {
            0x730 => caches.order_sync(),
            0x770 | 0x7b0 | 0x7f0 => caches.order_line(operation, value),
            _ => caches.order_ways(operation),
        }
        true
    }
}
