//! The free list of a pool's blocks.
//!
//! Guarantees: a block has one owner. To take one and to put one back changes one entry, however many blocks there are,
//! without a lock, in whatever context.

use alloc::vec::Vec;
#[cfg(not(all(test, loom)))]
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What follows the last free block in the list.
const END: u32 = u32::MAX;
/// The mark of a block that never comes back. No block has this number: a pool that large has no memory.
const LOST: u32 = u32::MAX - 1;

/// The numbers of free blocks, last in first out.
#[derive(Debug)]
pub(super) struct FreeList {
    /// The first free block and, in the upper half, a count of changes. Without the count, an update could succeed
    /// although others took that block and gave it back meanwhile, and would bring back an old list. With it, that
    /// takes exactly 2^32 changes meanwhile.
    head: AtomicU64,
    /// The next free block, for each free block.
    next: Vec<AtomicU32>,
}

impl FreeList {
    /// Makes a list of all blocks, or returns `None` if the heap has no room for it.
    pub(super) fn new(blocks: u32) -> Option<Self> {
        let mut next = Vec::new();
        next.try_reserve_exact(blocks as usize).ok()?;
        next.extend((1..=blocks).map(|n| AtomicU32::new(if n < blocks { n } else { END })));
        Some(Self { head: AtomicU64::new(0), next })
    }

    const fn changed(head: u64, first: u32) -> u64 {
        ((head >> 32).wrapping_add(1) << 32) | first as u64
    }

    /// Takes a free block, if there is one.
    pub(super) fn pop(&self) -> Option<u32> {
        let after = |head: u64| {
            let next = self.next.get(head as u32 as usize)?.load(Ordering::Relaxed);
            Some(Self::changed(head, next))
        };
        // Acquire: what was done to the block before it was freed comes first.
        self.head.fetch_update(Ordering::Acquire, Ordering::Acquire, after).ok().map(|head| head as u32)
    }

    /// Puts back a block that was popped and not pushed since.
    pub(super) fn push(&self, block: u32) {
        let before = |head: u64| {
            self.next[block as usize].store(head as u32, Ordering::Relaxed);
            Some(Self::changed(head, block))
        };
        self.head.fetch_update(Ordering::Release, Ordering::Relaxed, before).expect("there is always a head");
    }

    /// Returns how many blocks there are.
    pub(super) fn len(&self) -> u32 {
        self.next.len() as u32
    }

    /// Marks a block that was popped as lost. It is never pushed again.
    pub(super) fn lose(&self, block: u32) {
        self.next[block as usize].store(LOST, Ordering::Relaxed);
    }

    /// Yields the numbers of lost blocks.
    pub(super) fn lost(&self) -> impl Iterator<Item = usize> + '_ {
        self.next.iter().enumerate().filter_map(|(n, next)| (next.load(Ordering::Relaxed) == LOST).then_some(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn an_allocation_and_a_free_touch_one_entry_whatever_the_number_of_blocks() {
        let list = FreeList::new(1 << 16).unwrap();
        let taken: Vec<_> = (0..3).map_while(|_| list.pop()).collect();
        assert_eq!(taken, [0, 1, 2]);
        // Whoever walks on from any entry but the one at the head now meets a number that is no block.
        for n in 4..1 << 16 {
            list.next[n].store(1 << 20, Ordering::Relaxed);
        }
        list.push(1);
        assert_eq!(list.pop(), Some(1));
        assert_eq!(list.pop(), Some(3));
        list.push(3);
        list.push(0);
        assert_eq!((list.pop(), list.pop()), (Some(0), Some(3)));
    }

    #[test]
    fn a_pop_that_slept_through_others_does_not_revive_an_old_list() {
        let list = FreeList::new(3).unwrap();
        let slept = list.head.load(Ordering::Relaxed);
        let (first, second) = (list.pop().unwrap(), list.pop());
        list.push(first);
        assert_eq!((second, list.head.load(Ordering::Relaxed) as u32), (Some(1), slept as u32));
        // The sleeper would now make block 1 the first, which is out.
        let wakes =
            list.head.compare_exchange(slept, FreeList::changed(slept, 1), Ordering::Relaxed, Ordering::Relaxed);
        assert!(wakes.is_err());
    }

    #[test]
    fn no_block_has_two_owners_on_two_cores() {
        let list = FreeList::new(3).unwrap();
        let out: Vec<_> = (0..3).map(|_| AtomicBool::new(false)).collect();
        let work = || {
            for n in 0..50_000 {
                let taken: Vec<_> = (0..=n % 2).filter_map(|_| list.pop()).collect();
                for &block in &taken {
                    assert!(!out[block as usize].swap(true, Ordering::Relaxed), "block {block} has two owners");
                }
                for block in taken {
                    out[block as usize].store(false, Ordering::Relaxed);
                    list.push(block);
                }
            }
        };
        std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(work))));
        let mut free: Vec<_> = core::iter::from_fn(|| list.pop()).collect();
        free.sort_unstable();
        assert_eq!(free, [0, 1, 2]);
    }
}

/// Every interleaving of a few threads (crate loom), by `tests/run.sh`.
#[cfg(all(test, loom))]
mod interleavings {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::thread;

    /// Two threads take blocks, use them as their own and put them back: with as many blocks as make an update sleep
    /// while others take and give back the block it saw.
    fn explore(blocks: u32, list: impl Fn(u32) -> FreeList + Sync + Send + 'static) {
        loom::model(move || {
            let list = loom::sync::Arc::new(list(blocks));
            let bytes: Vec<_> = (0..blocks).map(UnsafeCell::new).collect();
            let bytes = loom::sync::Arc::new(bytes);
            let work = |most: usize| {
                let (list, bytes) = (list.clone(), bytes.clone());
                move || {
                    let taken: Vec<_> = (0..most).filter_map(|_| list.pop()).collect();
                    for &block in &taken {
                        // SAFETY: the block is this thread's; loom panics if another uses it now.
                        bytes[block as usize].with_mut(|bytes| unsafe { *bytes += 1 });
                    }
                    for block in taken {
                        list.push(block);
                    }
                }
            };
            let other = thread::spawn(work(2));
            work(1)();
            other.join().unwrap();
            let mut free: Vec<_> = core::iter::from_fn(|| list.pop()).collect();
            free.sort_unstable();
            assert_eq!(free, (0..blocks).collect::<Vec<_>>());
        });
    }

    #[test]
    fn no_block_has_two_owners() {
        explore(2, |blocks| FreeList::new(blocks).unwrap());
        explore(3, |blocks| FreeList::new(blocks).unwrap());
    }
}
