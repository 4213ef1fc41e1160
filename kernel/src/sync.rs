//! The lock of what cores and interrupt handlers share.
//!
//! Guarantees: while a [`Guard`] lives, its core takes no interrupt, so a handler may take any lock: none is held by the
//! code it interrupted. A core takes locks in rising order of [`Rank`]; one taken out of order, or twice, is a panic
//! that says where both were taken, and never a deadlock. While a core waits, interrupts are as they were before the
//! call.
//!
//! # Lock order
//!
//! | rank | lock | held over |
//! |---|---|---|
//! | 0 to 3 | the embedding kernel's, inside of which it may call this crate | |
//! | 4 | [`DMA`](Rank::DMA): all of [`Dma`](crate::dma::Dma) but who holds each buffer | updates of indexes, ledger, records and descriptors, with their TLB invalidate; and the audit |
//! | 5 | [`OUTER_CACHE`](Rank::OUTER_CACHE): the PL310's registers | a page of line operations, or one operation by way |
//! | 6, 7 | the embedding kernel's, inside of which it calls nothing of this crate | |
//!
//! Neither is held over zeroing, copying or maintenance of a buffer. The lane of recalls ([`dma::loan`](crate::dma::loan))
//! is waited for without a lock: who has it masks interrupts for a batch of at most 15 pages copied or 31 zeroed.
//! Interrupts are masked by CPSR.I: fast ones are not.
//!
//! On the host, which has threads and no interrupts, it is a plain lock without ranks.

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

#[cfg(target_arch = "arm")]
pub use self::by_core::{CoreState, abandon, cores, on_wait};

/// A lock's place in the order in which a core takes locks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank(u8);

impl Rank {
    /// How many there are.
    pub const COUNT: usize = 8;
    /// Of [`Dma`](crate::dma::Dma).
    pub const DMA: Self = Self(4);
    /// Of the outer cache's controller.
    pub const OUTER_CACHE: Self = Self(5);

    /// The rank `n`.
    ///
    /// # Panics
    ///
    /// If `n` is not below [`COUNT`](Self::COUNT): at compile time where a lock is a static.
    pub const fn new(n: u8) -> Self {
        assert!(n < Self::COUNT as u8, "there are eight ranks");
        Self(n)
    }
}

#[cfg(not(loom))]
type Inner<T> = spin::Mutex<T>;
#[cfg(not(loom))]
type InnerGuard<'l, T> = spin::MutexGuard<'l, T>;
#[cfg(loom)]
type Inner<T> = loom::sync::Mutex<T>;
#[cfg(loom)]
type InnerGuard<'l, T> = loom::sync::MutexGuard<'l, T>;

/// A value that one core at a time has, and none of its interrupt handlers meanwhile.
pub struct Lock<T> {
    #[cfg_attr(not(target_arch = "arm"), expect(dead_code, reason = "the host has no ranks"))]
    rank: Rank,
    inner: Inner<T>,
}

/// The value of a [`Lock`], until it is dropped. It stays on its core:
///
/// ```compile_fail,E0277
/// fn sent<T: Send>() {}
/// sent::<carveout::sync::Guard<'static, u32>>();
/// ```
pub struct Guard<'l, T> {
    /// Dropped first: interrupts stay masked until the lock is free.
    inner: InnerGuard<'l, T>,
    #[cfg(target_arch = "arm")]
    _held: by_core::Held,
    _on_this_core: PhantomData<*mut ()>,
}

impl<T> Lock<T> {
    /// A free lock of that rank.
    #[cfg(not(loom))]
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: Inner::new(value) }
    }

    /// A free lock of that rank.
    #[cfg(loom)]
    pub fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: Inner::new(value) }
    }

    /// Waits for the lock and takes it.
    ///
    /// # Panics
    ///
    /// If this core holds a lock of the same rank or a later one.
    #[cfg(target_arch = "arm")]
    #[track_caller]
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        let site = core::panic::Location::caller();
        let held = by_core::Held::new(self.rank, site);
        match self.inner.try_lock() {
            Some(inner) => {
                held.count(0);
                Guard { inner, _held: held, _on_this_core: PhantomData }
            }
            None => self.wait_for(held, site),
        }
    }

    #[cfg(target_arch = "arm")]
    #[cold]
    #[inline(never)]
    fn wait_for(&self, mut held: by_core::Held, site: &'static core::panic::Location<'static>) -> Guard<'_, T> {
        let mut waited = 0;
        loop {
            drop(held);
            waited += by_core::wait(self.rank, site, || self.inner.is_locked());
            held = by_core::Held::new(self.rank, site);
            if let Some(inner) = self.inner.try_lock() {
                held.count(waited);
                return Guard { inner, _held: held, _on_this_core: PhantomData };
            }
        }
    }

    /// Waits for the lock and takes it.
    #[cfg(not(any(target_arch = "arm", loom)))]
    pub fn lock(&self) -> Guard<'_, T> {
        Guard { inner: self.inner.lock(), _on_this_core: PhantomData }
    }

    /// Waits for the lock and takes it.
    #[cfg(loom)]
    pub fn lock(&self) -> Guard<'_, T> {
        Guard { inner: self.inner.lock().expect("no holder panicked"), _on_this_core: PhantomData }
    }

    /// Takes the lock if it is free: at any time, whatever else this core holds.
    #[cfg(not(loom))]
    #[track_caller]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        #[cfg(target_arch = "arm")]
        let held = by_core::Held::tried(self.rank, core::panic::Location::caller());
        let inner = self.inner.try_lock()?;
        Some(Guard {
            inner,
            #[cfg(target_arch = "arm")]
            _held: held,
            _on_this_core: PhantomData,
        })
    }

    /// Frees the lock, whoever holds it.
    ///
    /// # Safety
    ///
    /// The caller's duty: the holder never runs again.
    #[cfg(target_arch = "arm")]
    pub unsafe fn force_unlock(&self) {
        if self.inner.is_locked() {
            // SAFETY: the caller's duty.
            unsafe { self.inner.force_unlock() };
        }
    }
}

#[cfg(loom)]
impl<T> Lock<T> {
    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        Some(Guard { inner: self.inner.try_lock().ok()?, _on_this_core: PhantomData })
    }
}

/// While it lives, its core takes no interrupt: around what other cores wait for without a lock, and what a handler on
/// this one would wait for in vain.
pub(crate) struct Masked {
    #[cfg(target_arch = "arm")]
    before: bool,
    _on_this_core: PhantomData<*mut ()>,
}

impl Masked {
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(target_arch = "arm")]
            before: crate::arch::armv7a::mmu::mask_interrupts(),
            _on_this_core: PhantomData,
        }
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        #[cfg(target_arch = "arm")]
        if !self.before {
            crate::arch::armv7a::mmu::unmask_interrupts();
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Guard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// What each core holds and waits for: written by that core alone, read by whoever reports.
#[cfg(target_arch = "arm")]
mod by_core {
    use super::Rank;
    use crate::arch::armv7a::cores::{CoreId, MAX_CORES};
    use crate::arch::armv7a::mmu::{mask_interrupts, unmask_interrupts};
    use core::fmt;
    use core::marker::PhantomData;
    use core::mem;
    use core::panic::Location;
    use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

    type Site = &'static Location<'static>;

    /// Of one core; in lines of its own, for only that core writes it.
    #[repr(align(64))]
    struct Record {
        /// A bit a rank.
        held: AtomicU32,
        /// Where each rank held was taken.
        sites: [AtomicPtr<Location<'static>>; Rank::COUNT],
        /// Where the core waits, and for which rank; null if it does not.
        waits: AtomicPtr<Location<'static>>,
        waits_for: AtomicU32,
        /// Locks taken, those of them not at once, and rounds waited for them.
        taken: AtomicU32,
        contended: AtomicU32,
        rounds: AtomicU32,
    }

    static RECORDS: [Record; MAX_CORES] = [const {
        Record {
            held: AtomicU32::new(0),
            sites: [const { AtomicPtr::new(core::ptr::null_mut()) }; Rank::COUNT],
            waits: AtomicPtr::new(core::ptr::null_mut()),
            waits_for: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            contended: AtomicU32::new(0),
            rounds: AtomicU32::new(0),
        }
    }; MAX_CORES];

    /// The function of [`on_wait`], or null.
    static ON_WAIT: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

    /// Rounds of waiting between two calls of [`on_wait`]'s function.
    const ROUNDS: u32 = 1 << 12;

    /// Has `hook` called now and then while a core waits for a lock, with how often it was called for this wait: the
    /// place for a watchdog. It must not take a lock that it may be waiting for.
    pub fn on_wait(hook: fn(u32)) {
        ON_WAIT.store(hook as *mut (), Ordering::Release);
    }

    /// Has this core's order begin anew, whatever it holds: for a last report, after which the program ends. The locks
    /// stay taken.
    pub fn abandon() {
        RECORDS[CoreId::current().index()].held.store(0, Ordering::Relaxed);
    }

    /// A core's locks, at a moment that may have passed.
    #[derive(Clone, Copy, Debug)]
    pub struct CoreState {
        /// The rank it waits for, and where.
        pub waits: Option<(Rank, Site)>,
        /// Where it took those it holds, by rank.
        pub held: [Option<Site>; Rank::COUNT],
        /// Locks taken, modulo 2^32.
        pub taken: u32,
        /// How many of them were held by somebody else, modulo 2^32.
        pub contended: u32,
        /// Rounds of the loop that waited for them, modulo 2^32.
        pub rounds: u32,
    }

    impl fmt::Display for CoreState {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self.waits {
                Some((Rank(rank), site)) => write!(f, "waits at {site} for the lock of rank {rank}")?,
                None => f.write_str("waits for no lock")?,
            }
            f.write_str(", holds ")?;
            let mut none = true;
            for (rank, site) in self.held.iter().enumerate().filter_map(|(rank, site)| Some((rank, (*site)?))) {
                write!(f, "{}rank {rank} since {site}", if mem::take(&mut none) { "" } else { ", " })?;
            }
            if none { f.write_str("none") } else { Ok(()) }
        }
    }

    /// Each core's locks.
    pub fn cores() -> impl Iterator<Item = (CoreId, CoreState)> {
        // SAFETY: only references to `Location`s of this program are stored, or null.
        let site = |at: &AtomicPtr<Location<'static>>| unsafe { at.load(Ordering::Acquire).as_ref() };
        CoreId::all().zip(&RECORDS).map(move |(core, record)| {
            let held = record.held.load(Ordering::Acquire);
            let taken_at = |rank: usize| if held >> rank & 1 == 1 { site(&record.sites[rank]) } else { None };
            let rank = Rank(record.waits_for.load(Ordering::Relaxed) as u8);
            let state = CoreState {
                waits: site(&record.waits).map(|site| (rank, site)),
                held: core::array::from_fn(taken_at),
                taken: record.taken.load(Ordering::Relaxed),
                contended: record.contended.load(Ordering::Relaxed),
                rounds: record.rounds.load(Ordering::Relaxed),
            };
            (core, state)
        })
    }

    /// Adds to a counter that only this core writes.
    fn count(counter: &AtomicU32, more: u32) {
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Interrupts are masked, and the rank is in this core's record. Dropping it undoes both.
    ///
    /// The record's stores are not ordered: this core needs no order, and a report is of a core that has stood still for
    /// long. In a short window it may name a lock's last site for this one.
    pub(super) struct Held {
        record: &'static Record,
        /// The rank's; none if the record had it before: of a lock that was only tried.
        bit: u32,
        masked: bool,
        _on_this_core: PhantomData<*mut ()>,
    }

    impl Held {
        /// To take a lock in its order.
        #[inline]
        pub(super) fn new(rank: Rank, site: Site) -> Self {
            let masked = mask_interrupts();
            let record = &RECORDS[CoreId::current().index()];
            let held = record.held.load(Ordering::Relaxed);
            if held >> rank.0 != 0 {
                out_of_order(record, held, rank, site);
            }
            Self::note(record, held, rank, site, masked)
        }

        /// To take a lock that nobody waits for.
        pub(super) fn tried(rank: Rank, site: Site) -> Self {
            let masked = mask_interrupts();
            let record = &RECORDS[CoreId::current().index()];
            let held = record.held.load(Ordering::Relaxed);
            if held >> rank.0 & 1 == 1 {
                return Self { record, bit: 0, masked, _on_this_core: PhantomData };
            }
            Self::note(record, held, rank, site, masked)
        }

        #[inline]
        fn note(record: &'static Record, held: u32, rank: Rank, site: Site, masked: bool) -> Self {
            let bit = 1 << rank.0;
            record.sites[usize::from(rank.0)].store(core::ptr::from_ref(site).cast_mut(), Ordering::Relaxed);
            record.held.store(held | bit, Ordering::Relaxed);
            Self { record, bit, masked, _on_this_core: PhantomData }
        }

        /// The lock was taken, after so many rounds of waiting.
        #[inline]
        pub(super) fn count(&self, waited: u32) {
            count(&self.record.taken, 1);
            if waited > 0 {
                count(&self.record.contended, 1);
                count(&self.record.rounds, waited);
            }
        }
    }

    impl Drop for Held {
        #[inline]
        fn drop(&mut self) {
            let held = &self.record.held;
            held.store(held.load(Ordering::Relaxed) & !self.bit, Ordering::Relaxed);
            if !self.masked {
                unmask_interrupts();
            }
        }
    }

    #[cold]
    fn out_of_order(record: &Record, held: u32, wanted: Rank, site: Site) -> ! {
        let rank = held.ilog2();
        // SAFETY: only references to `Location`s of this program are stored, or null.
        let since = unsafe { record.sites[rank as usize].load(Ordering::Relaxed).as_ref() };
        match since {
            Some(since) => {
                panic!("lock order: rank {} at {site}, while rank {rank} is held since {since}", wanted.0)
            }
            None => panic!("lock order: rank {} at {site}, while rank {rank} is held", wanted.0),
        }
    }

    /// Waits until the lock looks free; returns the rounds it took.
    #[cold]
    pub(super) fn wait(rank: Rank, site: Site, is_locked: impl Fn() -> bool) -> u32 {
        let record = &RECORDS[CoreId::current().index()];
        // A handler that waits in the middle of this leaves it as it was.
        let outer = record.waits.load(Ordering::Relaxed);
        let outer_rank = record.waits_for.load(Ordering::Relaxed);
        record.waits_for.store(rank.0.into(), Ordering::Relaxed);
        record.waits.store(core::ptr::from_ref(site).cast_mut(), Ordering::Release);
        let mut rounds = 1;
        while is_locked() {
            crate::arch::relax();
            rounds += 1;
            if rounds % ROUNDS == 0 {
                let hook = ON_WAIT.load(Ordering::Acquire);
                if !hook.is_null() {
                    // SAFETY: only `on_wait` stores here, a function of this type.
                    let hook = unsafe { mem::transmute::<*mut (), fn(u32)>(hook) };
                    hook(rounds / ROUNDS);
                }
            }
        }
        record.waits.store(outer, Ordering::Release);
        record.waits_for.store(outer_rank, Ordering::Relaxed);
        rounds
    }
}

/// Every interleaving of a few threads (crate loom), by `tests/run.sh`.
#[cfg(all(test, loom))]
mod interleavings {
    use super::{Lock, Rank};
    use crate::cma::index::{Index, Node};
    use alloc::vec;
    use alloc::vec::Vec;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    const UNITS: u32 = 6;

    fn index() -> Index<'static> {
        let nodes = Index::nodes_needed(0, UNITS).unwrap();
        Index::new(0, UNITS, vec![Node::EMPTY; nodes].leak()).unwrap()
    }

    /// What keeps threads out of an index while one is at it.
    trait Shared: Send + Sync + 'static {
        fn with<R>(&self, act: impl FnOnce(&mut Index<'static>) -> R) -> R;
    }

    impl Shared for Lock<Index<'static>> {
        fn with<R>(&self, act: impl FnOnce(&mut Index<'static>) -> R) -> R {
            act(&mut self.lock())
        }
    }

    /// The planted bug: nothing does.
    struct NoLock(UnsafeCell<Index<'static>>);

    // SAFETY: none: it is wrong, and loom must find out before the second access is made.
    unsafe impl Sync for NoLock {}
    // SAFETY: as above.
    unsafe impl Send for NoLock {}

    impl Shared for NoLock {
        fn with<R>(&self, act: impl FnOnce(&mut Index<'static>) -> R) -> R {
            // SAFETY: none: loom panics if another thread is at it.
            self.0.with_mut(|index| act(unsafe { &mut *index }))
        }
    }

    /// Two threads take runs, use what they got as their own, and give it back; a third looks on.
    fn explore<S: Shared>(make: fn() -> S) {
        loom::model(move || {
            let index = Arc::new(make());
            let bytes: Arc<Vec<UnsafeCell<u32>>> = Arc::new((0..UNITS).map(UnsafeCell::new).collect());
            let work = |count: u32, order: u8| {
                let (index, bytes) = (Arc::clone(&index), Arc::clone(&bytes));
                move || {
                    let Some(first) = index.with(|index| index.alloc(count, order, 0..u32::MAX)) else { return };
                    for unit in first..first + count {
                        // SAFETY: this thread was given the unit; loom panics if another uses it now.
                        bytes[unit as usize].with_mut(|unit| unsafe { *unit += 1 });
                    }
                    index.with(|index| index.free(first, count)).expect("what was given");
                }
            };
            let threads = [thread::spawn(work(3, 0)), thread::spawn(work(2, 1))];
            let seen = index.with(|index| index.free_units());
            assert!(seen <= UNITS);
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(index.with(|index| (index.free_units(), index.largest_run())), (UNITS, UNITS));
        });
    }

    #[test]
    fn an_index_under_the_lock_gives_each_unit_to_one() {
        explore(|| Lock::new(Rank::DMA, index()));
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn a_missing_lock_is_found() {
        explore(|| NoLock(UnsafeCell::new(index())));
    }
}
