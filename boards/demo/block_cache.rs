//! A cache of a disk's blocks in lent frames. The cache may lose blocks that the disk has. It keeps written blocks that
//! are not on the disk yet.
//!
//! Guarantees: a read gives what was written last, whatever was recalled meanwhile, and however many lent pages are
//! open. A recall does not wait for the disk, because blocks that are not on the disk yet belong to a movable borrower.
//! Clean blocks belong to a discardable borrower. They are read in clusters of 64 KiB, one loan each.

use crate::drivers::storage::{BLOCK, Backing};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use carveout::dma::{Borrower, Discardable, LendError, Loan, LoanError, Movable};
use carveout::machine::Machine;
use core::fmt;

/// Blocks read at a time.
const CLUSTER: u32 = 16;

/// Why a block was not read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheError<E> {
    /// The disk failed.
    Disk(E),
    /// The block is in memory and not on the disk yet, and no further lent page can be opened now. Try again.
    Busy,
}

impl<E: fmt::Display> fmt::Display for CacheError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => error.fmt(f),
            Self::Busy => write!(f, "no further lent page can be opened now; try again"),
        }
    }
}

impl<E: core::error::Error> core::error::Error for CacheError<E> {}

/// Checks a copy to or from a page of the cache that is never recalled.
fn kept<E>(result: Result<(), LoanError>) -> Result<(), CacheError<E>> {
    match result {
        Ok(()) => Ok(()),
        Err(LoanError::TooManyOpen) => Err(CacheError::Busy),
        Err(error) => unreachable!("a movable page of the cache's own loan: {error}"),
    }
}

/// Counters since the cache was made, in blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hits {
    /// Found in memory.
    pub hits: u64,
    /// Read from the disk.
    pub misses: u64,
}

impl Hits {
    /// Returns the share of hits, in per cent.
    pub fn rate(self) -> u64 {
        (self.hits * 100).checked_div(self.hits + self.misses).unwrap_or(0)
    }
}

/// The cache.
pub struct BlockCache<M: Machine + 'static, D> {
    disk: D,
    clean: Borrower<M, Discardable>,
    dirty: Borrower<M, Movable>,
    clusters: BTreeMap<u32, Loan>,
    /// The clusters, the one that was read first at the front.
    order: VecDeque<u32>,
    written: BTreeMap<u32, Loan>,
    hits: Hits,
    /// The buffer for a cluster that is read.
    buffer: Vec<u8>,
}

impl<M: Machine, D: Backing> BlockCache<M, D> {
    /// Makes an empty cache of `disk`.
    pub fn new(disk: D, clean: Borrower<M, Discardable>, dirty: Borrower<M, Movable>) -> Self {
        Self {
            disk,
            clean,
            dirty,
            clusters: BTreeMap::new(),
            order: VecDeque::new(),
            written: BTreeMap::new(),
            hits: Hits::default(),
            buffer: vec![0; CLUSTER as usize * BLOCK],
        }
    }

    /// Returns the counters.
    pub const fn hits(&self) -> Hits {
        self.hits
    }

    /// Returns the disk.
    pub const fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Returns the number of blocks that were written and are not on the disk yet.
    pub fn unwritten(&self) -> usize {
        self.written.len()
    }

    /// Reads a block.
    ///
    /// # Errors
    ///
    /// [`CacheError::Disk`] if the disk does not read the block. [`CacheError::Busy`] if the block is only in memory,
    /// and no further lent page can be opened now.
    pub fn read(&mut self, block: u32, to: &mut [u8; BLOCK]) -> Result<(), CacheError<D::Error>> {
        if let Some(&loan) = self.written.get(&block) {
            kept(self.dirty.read(loan, 0, 0, to))?;
            self.hits.hits += 1;
            return Ok(());
        }
        let (cluster, page) = (block / CLUSTER, block % CLUSTER);
        if let Some(&loan) = self.clusters.get(&cluster)
            && page < loan.len()
        {
            match self.clean.read(loan, page, 0, to) {
                Ok(()) => {
                    self.hits.hits += 1;
                    return Ok(());
                }
                // The disk has the block too.
                Err(LoanError::Recalled { .. } | LoanError::TooManyOpen) => {}
                Err(error) => unreachable!("the cache's own loan: {error}"),
            }
        }
        self.hits.misses += 1;
        let mut buffer = core::mem::take(&mut self.buffer);
        let result = self.disk.read(cluster * CLUSTER, &mut buffer);
        if result.is_ok() {
            to.copy_from_slice(&buffer[page as usize * BLOCK..][..BLOCK]);
            self.keep(cluster, &buffer);
        }
        self.buffer = buffer;
        result.map_err(CacheError::Disk)
    }

    /// Keeps as much of a cluster as there is room for.
    fn keep(&mut self, cluster: u32, bytes: &[u8]) {
        self.forget(cluster);
        let loan = loop {
            match self.clean.borrow(CLUSTER) {
                Ok(loan) => break loan,
                Err(LendError::Spent { .. }) => {
                    let Some(oldest) = self.order.front().copied() else { return };
                    self.forget(oldest);
                }
                // There is no room, so the cluster is not kept.
                Err(_) => return,
            }
        };
        for (page, bytes) in (0..loan.len()).zip(bytes.chunks_exact(BLOCK)) {
            match self.clean.write(loan, page, 0, bytes) {
                // If it was recalled already, the next read finds that.
                Ok(()) | Err(LoanError::Recalled { .. }) => {}
                // The page would read as zeros.
                Err(_) => return self.end(loan),
            }
        }
        self.clusters.insert(cluster, loan);
        self.order.push_back(cluster);
    }

    fn forget(&mut self, cluster: u32) {
        if let Some(loan) = self.clusters.remove(&cluster) {
            self.order.retain(|&other| other != cluster);
            self.end(loan);
        }
    }

    fn end(&self, clean: Loan) {
        self.clean.give_back(clean).expect("the cache's own loan, which no closure has open");
    }

    /// Writes a block to memory. It goes to the disk later: when there are too many such blocks, or at
    /// [`flush`](Self::flush). If there is no room in memory, or its page cannot be opened, the block goes to the disk
    /// at once.
    ///
    /// # Errors
    ///
    /// [`CacheError::Disk`] if the disk does not write this block, or an older block whose place it needs.
    pub fn write(&mut self, block: u32, from: &[u8; BLOCK]) -> Result<(), CacheError<D::Error>> {
        let mut loan = self.written.get(&block).copied().or_else(|| self.dirty.borrow(1).ok());
        if loan.is_none() {
            match self.flush() {
                // No block can be read from memory now, so none can be written there.
                Ok(()) | Err(CacheError::Busy) => {}
                Err(error) => return Err(error),
            }
            loan = self.dirty.borrow(1).ok();
        }
        let Some(loan) = loan else { return self.write_through(block, from) };
        match kept(self.dirty.write(loan, 0, 0, from)) {
            Ok(()) => {
                self.written.insert(block, loan);
                Ok(())
            }
            Err(CacheError::Busy) => {
                let result = self.write_through(block, from);
                // If the disk refused the new bytes, the old ones stay.
                if result.is_ok() || !self.written.contains_key(&block) {
                    self.written.remove(&block);
                    self.end_dirty(loan);
                }
                result
            }
            Err(error) => Err(error),
        }
    }

    fn write_through(&mut self, block: u32, from: &[u8]) -> Result<(), CacheError<D::Error>> {
        // The cluster that was read before is now old, even if the disk took only a part of the block.
        self.forget(block / CLUSTER);
        self.disk.write(block, from).map_err(CacheError::Disk)
    }

    /// Writes all blocks to the disk that are not on it yet.
    ///
    /// # Errors
    ///
    /// [`CacheError::Disk`] if the disk does not write a block. [`CacheError::Busy`] if no further lent page can be
    /// opened now. Blocks that were not written stay in memory.
    pub fn flush(&mut self) -> Result<(), CacheError<D::Error>> {
        while let Some((&block, &loan)) = self.written.first_key_value() {
            let mut buffer = core::mem::take(&mut self.buffer);
            let bytes = &mut buffer[..BLOCK];
            let result = kept(self.dirty.read(loan, 0, 0, bytes)).and_then(|()| self.write_through(block, bytes));
            self.buffer = buffer;
            result?;
            self.written.remove(&block);
            self.end_dirty(loan);
        }
        Ok(())
    }

    fn end_dirty(&self, loan: Loan) {
        self.dirty.give_back(loan).expect("the cache's own loan, which no closure has open");
    }

    /// Forgets all blocks that can be read again, and gives their frames back.
    pub fn shrink(&mut self) {
        while let Some(&cluster) = self.order.front() {
            self.forget(cluster);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::fake::with_all_open;
    use carveout::dma::{Contiguous, LoanPriority};
    use carveout::fake::Fake;
    use carveout::setup::Setup;
    use proptest::prelude::*;
    use std::boxed::Box;

    const BLOCKS: u32 = 100;

    /// A disk whose writes may fail.
    struct Plates {
        bytes: Vec<u8>,
        broken: bool,
    }

    impl Backing for Plates {
        type Error = &'static str;

        fn read(&mut self, first: u32, to: &mut [u8]) -> Result<(), Self::Error> {
            to.fill(0);
            let from = &self.bytes[first as usize * BLOCK..];
            let count = from.len().min(to.len());
            to[..count].copy_from_slice(&from[..count]);
            Ok(())
        }

        fn write(&mut self, first: u32, from: &[u8]) -> Result<(), Self::Error> {
            if self.broken {
                return Err("broken");
            }
            self.bytes[first as usize * BLOCK..][..from.len()].copy_from_slice(from);
            Ok(())
        }
    }

    fn cache(setup: &Setup, clean: u32, dirty: u32) -> BlockCache<Fake, Plates> {
        let area = setup.dma.area("test").unwrap();
        let clean = setup.dma.borrower(area, "clean", clean, LoanPriority::Low).unwrap();
        let dirty = setup.dma.borrower(area, "dirty", dirty, LoanPriority::High).unwrap();
        let bytes = (0..BLOCKS as usize * BLOCK).map(|n| (n / BLOCK * 7 + n) as u8).collect();
        BlockCache::new(Plates { bytes, broken: false }, clean, dirty)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Reads give what was written last, while devices take and free the area. A flush writes all of it to the disk
        /// (I6).
        #[test]
        fn reads_give_what_was_written_last(
            seed in any::<u64>(),
            ops in prop::collection::vec((0..4u8, 0..BLOCKS, any::<u8>(), 1..60u32), 1..80),
        ) {
            let setup = Setup::with_area(seed, 64 * 4096);
            let mut cache = cache(&setup, 70, 6);
            let mut model = cache.disk.bytes.clone();
            let mut held = Vec::new();
            for (op, block, byte, frames) in ops {
                match op {
                    0 => {
                        let mut found = [0; BLOCK];
                        cache.read(block, &mut found).unwrap();
                        prop_assert!(found[..] == model[block as usize * BLOCK..][..BLOCK], "block {}", block);
                    }
                    1 => {
                        cache.write(block, &[byte; BLOCK]).unwrap();
                        model[block as usize * BLOCK..][..BLOCK].fill(byte);
                    }
                    2 => {
                        let device = setup.master("device");
                        held.extend(setup.dma.alloc(&device, frames * 4096, 1).map(Contiguous::into_coherent));
                    }
                    _ => drop(held.pop()),
                }
            }
            cache.flush().unwrap();
            prop_assert!(cache.disk.bytes == model);
            setup.audit().unwrap();
        }
    }

    #[test]
    fn what_the_disk_refuses_stays_in_memory() {
        let setup = Setup::new(1);
        let mut cache = cache(&setup, 64, 2);
        cache.disk.broken = true;
        cache.write(5, &[5; BLOCK]).unwrap();
        cache.write(6, &[6; BLOCK]).unwrap();
        assert_eq!(cache.write(7, &[7; BLOCK]), Err(CacheError::Disk("broken")), "no room for a third");
        let mut block = Box::new([0; BLOCK]);
        cache.read(5, &mut block).unwrap();
        assert_eq!(*block, [5; BLOCK]);
        cache.disk.broken = false;
        cache.write(7, &[7; BLOCK]).unwrap();
        assert_eq!(cache.unwritten(), 1);
        assert_eq!(cache.disk.bytes[6 * BLOCK], 6);
    }

    /// Others have all lanes: no block in memory can be read or written.
    #[test]
    fn reads_and_writes_are_right_while_no_page_can_be_opened() {
        let setup = Setup::new(3);
        let mut cache = cache(&setup, 64, 2);
        let mut model = cache.disk.bytes.clone();
        let mut write = |cache: &mut BlockCache<Fake, Plates>, block: u32, byte: u8| {
            model[block as usize * BLOCK..][..BLOCK].fill(byte);
            cache.write(block, &[byte; BLOCK])
        };
        let mut found = Box::new([0; BLOCK]);
        cache.read(0, &mut found).unwrap();
        write(&mut cache, 40, 1).unwrap();
        write(&mut cache, 41, 1).unwrap();
        with_all_open(&setup, &mut || {
            assert_eq!(cache.read(3, &mut found), Ok(()), "a block that is in memory and on the disk");
            assert_eq!(cache.read(20, &mut found), Ok(()), "one that is on the disk alone");
            assert_eq!(cache.read(40, &mut found), Err(CacheError::Busy), "one that is in memory alone");
            assert_eq!(cache.flush(), Err(CacheError::Busy));
            // The writes go to a block that was read before, one that was written before, and one that was neither,
            // while both dirty pages are in use or free.
            for block in [3, 50, 40, 40, 51] {
                assert_eq!(write(&mut cache, block, 2), Ok(()));
                assert_eq!(cache.read(block, &mut found), Ok(()), "block {block}");
                assert_eq!(*found, [2; BLOCK], "block {block}");
            }
            cache.disk.broken = true;
            assert_eq!(cache.write(41, &[3; BLOCK]), Err(CacheError::Disk("broken")));
            assert_eq!(cache.write(60, &[3; BLOCK]), Err(CacheError::Disk("broken")));
            cache.disk.broken = false;
        });
        for block in 0..BLOCKS {
            cache.read(block, &mut found).unwrap();
            assert!(*found == model[block as usize * BLOCK..][..BLOCK], "block {block}");
        }
        cache.flush().unwrap();
        assert!(cache.disk.bytes == model);
        assert!((0..2).all(|_| cache.dirty.borrow(1).is_ok()), "a page was lost");
    }

    /// A block that is written directly to the disk is not read from an old cluster in memory.
    #[test]
    fn a_write_straight_through_ends_what_was_read_before() {
        let setup = Setup::with_area(4, 64 * 4096);
        let mut cache = cache(&setup, 16, 1);
        cache.dirty.borrow(1).unwrap();
        let mut found = Box::new([0; BLOCK]);
        cache.read(5, &mut found).unwrap();
        cache.write(5, &[9; BLOCK]).unwrap();
        assert_eq!(cache.unwritten(), 0);
        cache.read(5, &mut found).unwrap();
        assert_eq!(*found, [9; BLOCK]);
    }

    #[test]
    fn the_second_read_is_from_memory() {
        let setup = Setup::new(2);
        let mut cache = cache(&setup, 64, 2);
        let mut block = [0; BLOCK];
        for _ in 0..2 {
            for n in 0..BLOCKS {
                cache.read(n, &mut block).unwrap();
            }
        }
        // 64 pages hold four of the seven clusters, so each cluster is forgotten before it is read again.
        assert_eq!(cache.hits(), Hits { hits: 186, misses: 14 });
        assert_eq!(cache.hits().rate(), 93);
    }
}
