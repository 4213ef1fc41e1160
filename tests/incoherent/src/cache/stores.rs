//! Stores of one core as the others see them: late, and in an order of their own.
//!
//! Guarantees: a core sees its own stores at once. Another sees one once it was performed, and perhaps not before its
//! next DMB or DSB: a load of it may have been done early. Stores of a core are performed in any order, but that of
//! DMBs between them and that of stores to the same bytes; a DSB has all of them performed. All cores see stores to the
//! same bytes in one order. A store of the exclusive kind is performed at once, if no other store to the line was since
//! the load. An exception is taken, and an interrupt waited for, with nothing loaded early.
//!
//! ARMv7 allows all of this (ARM ARM A3.8.3) but one thing: of two loads the second may be early here although its
//! address depends on the first. Rust's orders have no such dependency.

use super::{Caches, LINE_MAX};

/// A store to Normal memory that no other core sees yet.
pub(super) struct Store {
    core: usize,
    /// Through the caches, or past them.
    cacheable: bool,
    at: usize,
    bytes: [u8; 8],
    len: usize,
    /// DMBs of the core before it.
    fence: u32,
}

/// A store that was performed, and that some cores may have been too early for.
pub(super) struct Late {
    cacheable: bool,
    at: usize,
    bytes: [u8; 8],
    len: usize,
    /// A bit for each core that does not see it yet.
    unseen: u8,
}

const fn meets(at: usize, len: usize, other: usize, other_len: usize) -> bool {
    at < other + other_len && other < at + len
}

/// Stores that a core's buffer holds at most.
const STORES_MAX: usize = 8;
/// Performed stores that loads may be too early for, at most.
const LATE_MAX: usize = 32;

impl Caches {
    /// A core stores, through its cache or past it: it sees that at once, and others do later, unless it is of the
    /// exclusive kind.
    pub(super) fn store(&mut self, at: usize, bytes: &[u8], cacheable: bool) {
        let core = self.core;
        self.show(core, at, bytes.len());
        let mut copy = [0; 8];
        copy[..bytes.len()].copy_from_slice(bytes);
        self.stores.push(Store { core, cacheable, at, bytes: copy, len: bytes.len(), fence: self.fences[core] });
        if core::mem::take(&mut self.atomic) {
            self.perform_store(self.stores.len() - 1);
        } else if self.stores.iter().filter(|one| one.core == core).count() > STORES_MAX
            && let Some(oldest) = self.stores.iter().position(|one| one.core == core)
        {
            self.perform_store(oldest);
        }
    }

    /// A store is performed, after those of its core that must go before it: older ones of the same bytes, and those
    /// that a DMB stands between. From here on any core may see it, and must after a DMB of its own.
    pub(super) fn perform_store(&mut self, mut n: usize) -> usize {
        let mut gone = 1;
        let (core, at, len, fence) = (self.stores[n].core, self.stores[n].at, self.stores[n].len, self.stores[n].fence);
        let before = |one: &Store| one.core == core && (meets(one.at, one.len, at, len) || one.fence < fence);
        while let Some(first) = self.stores[..n].iter().position(before) {
            let went = self.perform_store(first);
            (n, gone) = (n - went, gone + went);
        }
        // What others stored there before is before it, for its core too.
        self.show(core, at, len);
        let Store { cacheable, bytes, .. } = self.stores.remove(n);
        for line in at / self.line..=(at + len - 1) / self.line {
            if cacheable {
                if !self.inner.is_held(line) {
                    self.fill_outer(line);
                }
                self.inner.own(core, line);
            }
            self.unmark_others(core, line);
        }
        self.cpu.put(at, &bytes[..len]);
        self.ideal.put(at, &bytes[..len]);
        if !cacheable {
            // No level holds it: every copy equals memory, and what was cached before is no core's news any more.
            (0..self.cores).for_each(|core| self.show(core, at, len));
            let copies = [&mut self.memory].into_iter().chain(&mut self.outer).chain(&mut self.views);
            copies.for_each(|copy| copy.put(at, &bytes[..len]));
            let mut line = [0; LINE_MAX];
            line[..len].copy_from_slice(&bytes[..len]);
            self.buffer(at, line, len, Some((core, fence)));
        }
        let unseen = ((1 << self.cores) - 1) & !(1 << core);
        self.late.push(Late { cacheable, at, bytes, len, unseen });
        if self.late.len() > LATE_MAX {
            let (at, len) = (self.late[0].at, self.late[0].len);
            (0..self.cores).for_each(|core| self.show(core, at, len));
        }
        gone
    }

    /// A core sees what was stored there, and whatever must be seen with it, for stores to the same bytes are seen in
    /// their order.
    pub(super) fn show(&mut self, core: usize, at: usize, len: usize) {
        let (mut from, mut to) = (at, at + len);
        let unseen = |one: &Late| one.unseen & 1 << core != 0;
        if !self.late.iter().any(|one| unseen(one) && meets(one.at, one.len, from, to - from)) {
            return;
        }
        loop {
            let met = self.late.iter().filter(|one| unseen(one) && meets(one.at, one.len, from, to - from));
            let (first, last) = met.fold((from, to), |(from, to), one| (from.min(one.at), to.max(one.at + one.len)));
            if (first, last) == (from, to) {
                break;
            }
            (from, to) = (first, last);
        }
        for one in self.late.iter_mut().filter(|one| unseen(one) && meets(one.at, one.len, from, to - from)) {
            one.unseen &= !(1 << core);
            let views = if one.cacheable { &mut self.views } else { &mut self.past };
            views[core].put(one.at, &one.bytes[..one.len]);
        }
        self.show_own(core, from, to - from);
        self.late.retain(|one| one.unseen != 0);
    }

    /// A core's own stores are newer than all others, until they are performed.
    pub(super) fn show_own(&mut self, core: usize, at: usize, len: usize) {
        for one in self.stores.iter().filter(|one| one.core == core && meets(one.at, one.len, at, len)) {
            let views = if one.cacheable { &mut self.views } else { &mut self.past };
            views[core].put(one.at, &one.bytes[..one.len]);
        }
    }

    /// Writes what all cores see past the caches.
    pub(super) fn put_past(&mut self, at: usize, bytes: &[u8]) {
        (0..self.past.len()).for_each(|core| self.show(core, at, bytes.len()));
        self.memory.put(at, bytes);
        self.past.iter_mut().for_each(|view| view.put(at, bytes));
    }

    /// A core sees everything that was performed: after a barrier, or when it begins anew.
    pub fn show_all(&mut self, core: usize) {
        while let Some(one) = self.late.iter().find(|one| one.unseen & 1 << core != 0) {
            let (at, len) = (one.at, one.len);
            self.show(core, at, len);
        }
    }

    /// All stores of a core are performed.
    pub fn perform_stores(&mut self, core: usize) {
        while let Some(n) = self.stores.iter().position(|one| one.core == core) {
            self.perform_store(n);
        }
    }

    /// All stores to these bytes are performed, and every core sees them.
    pub(super) fn settle(&mut self, at: usize, len: usize) {
        while let Some(n) = self.stores.iter().position(|one| meets(one.at, one.len, at, len)) {
            self.perform_store(n);
        }
        if !self.late.is_empty() {
            (0..self.cores).for_each(|core| self.show(core, at, len));
        }
    }

    /// Whether a store to these bytes was not performed yet, and then whether it is one through the caches.
    pub(super) fn is_stored(&self, at: usize, len: usize) -> Option<bool> {
        self.stores.iter().find(|one| meets(one.at, one.len, at, len)).map(|one| one.cacheable)
    }

    /// Whether a core may find there what is not the newest: its own store that is not performed, or not another's that
    /// was.
    pub(super) fn is_early(&self, core: usize, at: usize, len: usize) -> bool {
        self.stores.iter().any(|one| one.core == core && meets(one.at, one.len, at, len))
            || self.late.iter().any(|one| one.unseen & 1 << core != 0 && meets(one.at, one.len, at, len))
    }

    /// Time passes: some store may be performed, and some core may see one.
    pub(super) fn move_stores(&mut self) {
        match self.random.below(8) {
            0 if !self.stores.is_empty() => {
                let one = self.random.below(self.stores.len() as u32) as usize;
                self.perform_store(one);
            }
            1 if !self.late.is_empty() => {
                let one = &self.late[self.random.below(self.late.len() as u32) as usize];
                let (at, len) = (one.at, one.len);
                let core = self.random.below(self.cores as u32) as usize;
                self.show(core, at, len);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Rule;

    const BASE: u32 = 0x6000_0000;
    const FLAG: u32 = BASE + 0x100;

    /// Two cores that see zeros, with a still adversary of caches.
    fn caches(seed: u64) -> Caches {
        let mut caches = Caches::new(crate::model::find("a9x2").unwrap(), 2 << 12, seed, 1 << 30);
        caches.put(BASE, &[0; 4096]);
        (0..2).for_each(|core| caches.join(core, true, true));
        caches
    }

    fn store(caches: &mut Caches, core: usize, pa: u32, value: u32) {
        caches.core = core;
        caches.access(pa, 4, Some(value.into()), true, true).unwrap();
        caches.views[core].put((pa - BASE) as usize, &value.to_le_bytes());
    }

    fn load(caches: &mut Caches, core: usize, pa: u32) -> u32 {
        caches.core = core;
        caches.access(pa, 4, None, true, true).unwrap();
        caches.read_word(pa, true)
    }

    fn fence(caches: &mut Caches, core: usize) {
        caches.core = core;
        caches.fence(true);
    }

    /// The same past the caches, where the data is.
    fn store_past(caches: &mut Caches, core: usize, pa: u32, value: u32) {
        caches.core = core;
        caches.access(pa, 4, Some(value.into()), false, true).unwrap();
        caches.past[core].put((pa - BASE) as usize, &value.to_le_bytes());
    }

    fn load_past(caches: &mut Caches, core: usize, pa: u32) -> u32 {
        caches.core = core;
        caches.access(pa, 4, None, false, true).unwrap();
        caches.read_word(pa, false)
    }

    /// Of 200 seeds, how often the data is old where the flag is new.
    fn old(writer: bool, reader: bool, cached: bool) -> usize {
        type Access = (fn(&mut Caches, usize, u32, u32), fn(&mut Caches, usize, u32) -> u32);
        let (store_data, load_data): Access = if cached { (store, load) } else { (store_past, load_past) };
        let is_old = |&seed: &u64| {
            let mut caches = caches(seed);
            // Both were seen before.
            load_data(&mut caches, 1, BASE);
            load(&mut caches, 1, FLAG);
            store_data(&mut caches, 0, BASE, 7);
            if writer {
                fence(&mut caches, 0);
            }
            store(&mut caches, 0, FLAG, 1);
            while load(&mut caches, 1, FLAG) == 0 {}
            if reader {
                fence(&mut caches, 1);
            }
            load_data(&mut caches, 1, BASE) != 7
        };
        (0..200).filter(is_old).count()
    }

    #[test]
    fn a_message_needs_a_barrier_on_both_sides() {
        for cached in [false, true] {
            assert_eq!(old(true, true, cached), 0);
            for (writer, reader) in [(false, true), (true, false), (false, false)] {
                let count = old(writer, reader, cached);
                assert!(count > 20, "{writer} {reader} {cached}: {count}");
            }
        }
    }

    #[test]
    fn a_core_sees_its_own_stores_and_all_see_one_order() {
        for seed in 0..200 {
            let mut caches = caches(seed);
            store(&mut caches, 0, BASE, 1);
            assert_eq!(load(&mut caches, 0, BASE), 1);
            store(&mut caches, 1, BASE, 2);
            store(&mut caches, 0, BASE, 3);
            assert_eq!((load(&mut caches, 0, BASE), load(&mut caches, 1, BASE)).0, 3);
            (0..2).for_each(|core| caches.perform_stores(core));
            (0..2).for_each(|core| fence(&mut caches, core));
            let seen = (load(&mut caches, 0, BASE), load(&mut caches, 1, BASE), caches.word(BASE, true));
            assert!(seen == (2, 2, 2) || seen == (3, 3, 3), "{seen:?}");
        }
    }

    #[test]
    fn what_was_seen_once_is_seen_again() {
        for seed in 0..200 {
            let mut caches = caches(seed);
            for value in 1..20 {
                store(&mut caches, 0, BASE, value);
                let first = load(&mut caches, 1, BASE);
                assert!(load(&mut caches, 1, BASE) >= first);
            }
        }
    }

    #[test]
    fn a_lock_is_taken_by_one() {
        for seed in 0..200 {
            let mut caches = caches(seed);
            // Both mark the line and find the lock free; the first to store takes the other's mark.
            for core in 0..2 {
                caches.core = core;
                caches.mark();
                assert_eq!(load(&mut caches, core, BASE), 0);
            }
            caches.core = 1;
            assert!(caches.unmark());
            caches.atomic = true;
            store(&mut caches, 1, BASE, 1);
            caches.core = 0;
            assert!(!caches.unmark(), "the store took it");
            caches.mark();
            assert_eq!(load(&mut caches, 0, BASE), 1, "and was performed at once");
        }
    }

    #[test]
    fn a_plain_store_takes_marks_when_it_is_performed() {
        let mut caches = caches(1);
        caches.mark();
        load(&mut caches, 0, BASE);
        store(&mut caches, 1, BASE + 4, 1);
        caches.perform_stores(1);
        caches.core = 0;
        assert!(!caches.unmark());
    }

    #[test]
    fn a_device_that_was_told_does_not_find_what_is_not_performed() {
        let mut caches = caches(1);
        store(&mut caches, 0, BASE, 1);
        let stale = Err((Rule::DeviceReadsStale { buffered: false }, BASE));
        assert_eq!(caches.device_read(BASE, 4, true), stale);
        store_past(&mut caches, 0, FLAG, 1);
        let stale = Err((Rule::DeviceReadsStale { buffered: true }, FLAG));
        assert_eq!(caches.device_read(FLAG, 4, true), stale);
        caches.complete(&mut |_| Ok(())).unwrap();
        assert_eq!(caches.device_read(FLAG, 4, true), Ok(1));
    }
}
