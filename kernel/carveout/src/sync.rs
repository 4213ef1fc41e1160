//! The lock around what cores and interrupt handlers share.
//!
//! Guarantees: while a [`Guard`] lives, its core takes no interrupt. So a handler may take any lock: the code that it
//! interrupted holds none. Guards may be dropped in any order: interrupts stay masked until the last one is dropped. A
//! core takes locks in rising order of [`Rank`]. A lock that is taken out of order, or twice, is a panic that says
//! where both were taken. It is never a deadlock.
//!
//! # Lock order
//!
//! | rank | lock | held over |
//! |---|---|---|
//! | 0 to 3 | the embedding kernel's, inside of which it may call this crate | |
//! | 4 | [`DMA`](Rank::DMA): all of [`Dma`](crate::dma::Dma) but who holds each buffer | updates of indexes, ledger, records and descriptors, with their TLB invalidate; and the audit |
//! | 5 | [`OUTER_CACHE`](Rank::OUTER_CACHE): the PL310's registers | a page of line operations, or one operation by way |
//! | 5 | [`SHARES`](Rank::SHARES): the book of shared buffers ([`Shares`](crate::dma::Shares)); nothing is called while it is held | updates of the book |
//! | 5 | [`USER`](Rank::USER): the tables of a process | updates of them, with their TLB invalidate |
//! | 6, 7 | the embedding kernel's, inside of which it calls nothing of this crate | |
//!
//! None of them is held over zeroing, copying or maintenance of a buffer. The work lane
//! ([`Borrower`](crate::dma::Borrower)) is waited for without a lock, before [`DMA`](Rank::DMA) is taken. Its turns
//! come in the order in which they were asked for. A turn is a batch of at most 15 pages copied or 31 pages zeroed. Of
//! n cores, one waits for at most n - 1 turns, with interrupts masked. Interrupts are masked by CPSR.I, so fast ones
//! are not masked.
//!
//! Nothing in this crate prints or logs. So the only lock of the embedding kernel that it takes is the heap's. Only
//! calls that are documented to use the heap take that ([`dma`](crate::dma)). What the crate has to report waits until
//! it is asked for: [`Dma::next_quarantined`](crate::dma::Dma::next_quarantined).
//!
//! # The longest wait
//!
//! While a core waits for it, a lock is never just freed. Its holder offers it to the next waiting core in rising
//! order, and after the last core to the first. So a core waits for **at most one turn of each other core**, the turn
//! under way included. With four cores these are three turns. The table says what a turn covers. The argument:
//!
//! - Each turn ends with an offer to the next waiting core after its own. Offers move in one direction round the cores.
//!   They pass by no core that waits and comes. Before an offer comes to a core, each other core had one turn at most.
//! - While anybody waits, the lock is held or offered. So `try_lock` fails then, and a core that begins to wait
//!   overtakes nobody.
//! - Exclusive stores must succeed in the end. The architecture promises no bound for that, for any lock.
//! - Suppose that a core was offered the lock and does not come, though others look 64 times. That core does not run:
//!   an emulator or a hypervisor took it off, or it was stopped. The others go round it (`CoreState::gone_round` counts
//!   this), or all would stand still with it. It keeps its place, and waits for one more turn of each other core.
//!
//! While a core waits, its interrupts are served as they were before the call. They are masked only while the core has
//! a place among those who wait. If a handler ran then, the lock would be offered to the code that it interrupted. A
//! handler that wants this lock would wait for code that waits for it. So the core reads ISR, a register of the
//! Security Extensions. When an interrupt is pending, the core leaves its place, takes the interrupt, and begins to
//! wait again. An offer that came just then goes on to the next core. It follows:
//!
//! - A handler may take the lock that its core waits for. Its core has no place then, so the handler waits as any other
//!   code would.
//! - A core that is stopped by an interrupt, because another one panicked, has no place. A core that is stopped by
//!   other means is gone round. A core that is stopped while it holds a lock never frees it; `Lock::force_unlock` does.
//! - The bound is for a wait without interrupts. After each interrupt that a core takes while it waits, the wait begins
//!   again.
//! - The function of `on_wait` runs while its core has a place, with interrupts masked. If it ends the program, it
//!   first calls `abandon`, which leaves the place.
//!
//! The host has threads and no interrupts. There, ranks are not checked, and a thread waits for at most 24 turns while
//! no more than 24 wait.

mod turns;

#[cfg(not(all(test, loom)))]
use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
#[cfg(not(all(test, loom)))]
use turns::{Poll, Turns};

#[cfg(target_arch = "arm")]
pub use self::by_core::{CoreState, abandon, cores, on_wait};

/// A lock's place in the order in which a core takes locks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank(u8);

impl Rank {
    /// The number of ranks.
    pub const COUNT: usize = 8;
    /// The rank of the lock of [`Dma`](crate::dma::Dma).
    pub const DMA: Self = Self(4);
    /// The rank of the lock of the outer cache's controller.
    pub const OUTER_CACHE: Self = Self(5);
    /// The rank of the lock of a book of shared buffers.
    pub const SHARES: Self = Self(5);

    /// The rank of the lock of [`UserTables`](crate::vm::user_tables::UserTables). It is taken inside of all others but
    /// the heap's, and never with [`OUTER_CACHE`](Self::OUTER_CACHE).
    pub const USER: Self = Self(5);

    /// Makes the rank `n`.
    ///
    /// # Panics
    ///
    /// If `n` is not below [`COUNT`](Self::COUNT). Where a lock is a static, this is at compile time.
    pub const fn new(n: u8) -> Self {
        assert!(n < Self::COUNT as u8, "there are eight ranks");
        Self(n)
    }
}

/// A value that only one core at a time may access. Interrupt handlers of that core may not access it meanwhile.
///
/// ```
/// use carveout::sync::{Lock, Rank};
///
/// static FRAMES: Lock<u32> = Lock::new(Rank::new(2), 0);
///
/// let mut frames = FRAMES.lock();
/// *frames += 1;
/// assert!(FRAMES.try_lock().is_none(), "it is held");
/// drop(frames);
/// assert_eq!(*FRAMES.lock(), 1);
/// ```
pub struct Lock<T> {
    #[cfg_attr(not(target_arch = "arm"), expect(dead_code, reason = "the host has no ranks"))]
    rank: Rank,
    #[cfg(not(all(test, loom)))]
    turns: Turns,
    #[cfg(not(all(test, loom)))]
    value: UnsafeCell<T>,
    #[cfg(all(test, loom))]
    inner: loom::sync::Mutex<T>,
}

// SAFETY: a reference to the value is a guard's, and one guard at a time lives (what `Turns` guarantees). So sharing
// the lock gives the value from core to core, which `Send` permits.
#[cfg(not(all(test, loom)))]
unsafe impl<T: Send> Sync for Lock<T> {}

/// Access to the value of a [`Lock`], until it is dropped. It stays on its core:
///
/// ```compile_fail,E0277
/// fn sent<T: Send>() {}
/// sent::<carveout::sync::Guard<'static, u32>>();
/// ```
pub struct Guard<'l, T> {
    #[cfg(not(all(test, loom)))]
    lock: &'l Lock<T>,
    #[cfg(all(test, loom))]
    inner: loom::sync::MutexGuard<'l, T>,
    /// It is dropped after the lock is free: interrupts stay masked until then.
    #[cfg(target_arch = "arm")]
    _held: by_core::Held,
    /// The place at which this thread waited.
    #[cfg(not(any(target_arch = "arm", all(test, loom))))]
    place: u32,
    _on_this_core: PhantomData<*mut ()>,
}

#[cfg(not(all(test, loom)))]
impl<T> Lock<T> {
    /// Makes a free lock of that rank.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, turns: Turns::new(), value: UnsafeCell::new(value) }
    }
}

#[cfg(target_arch = "arm")]
impl<T> Lock<T> {
    /// Waits for the lock and takes it.
    ///
    /// # Panics
    ///
    /// If this core holds a lock of that rank or a later one.
    #[track_caller]
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        let site = core::panic::Location::caller();
        let held = by_core::Held::new(self.rank, site);
        let held = if self.turns.take() { held } else { by_core::wait(held, self.rank, site, &self.turns) };
        held.count();
        Guard { lock: self, _held: held, _on_this_core: PhantomData }
    }

    /// Takes the lock if it is free and nobody waits for it. This is allowed at any time, whatever else this core
    /// holds.
    #[track_caller]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let held = by_core::Held::tried(self.rank, core::panic::Location::caller());
        self.turns.take().then(|| Guard { lock: self, _held: held, _on_this_core: PhantomData })
    }

    /// Frees the lock, whoever holds it.
    ///
    /// # Safety
    ///
    /// If the lock is held, its holder never uses its guard again.
    pub unsafe fn force_unlock(&self) {
        self.turns.pass(by_core::place());
    }
}

#[cfg(not(any(target_arch = "arm", all(test, loom))))]
impl<T> Lock<T> {
    /// Waits for the lock and takes it.
    pub fn lock(&self) -> Guard<'_, T> {
        let mut place = 0;
        if !self.turns.take()
            && let Some(mut wait) = self.turns.join(place)
        {
            place = wait.place();
            loop {
                match self.turns.poll(&mut wait) {
                    Poll::Taken => break,
                    Poll::Waits => turns::relax(),
                    Poll::Ignored(_) => self.turns.go_round(&wait),
                }
            }
        }
        Guard { lock: self, place, _on_this_core: PhantomData }
    }

    /// Takes the lock if it is free and nobody waits for it.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.turns.take().then(|| Guard { lock: self, place: 0, _on_this_core: PhantomData })
    }
}

#[cfg(all(test, loom))]
impl<T> Lock<T> {
    /// Makes a free lock of that rank.
    pub fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: loom::sync::Mutex::new(value) }
    }

    /// Waits for the lock and takes it.
    pub fn lock(&self) -> Guard<'_, T> {
        Guard { inner: self.inner.lock().expect("no holder panicked"), _on_this_core: PhantomData }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        Some(Guard { inner: self.inner.try_lock().ok()?, _on_this_core: PhantomData })
    }
}

/// Keeps its core's interrupts masked while it lives. It stands around code that other cores wait for without a lock: a
/// handler on this core would wait for that code for ever.
pub(crate) struct Masked {
    #[cfg(target_arch = "arm")]
    _mask: by_core::Mask,
    _on_this_core: PhantomData<*mut ()>,
}

impl Masked {
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(target_arch = "arm")]
            _mask: by_core::Mask::new(),
            _on_this_core: PhantomData,
        }
    }
}

#[cfg(not(all(test, loom)))]
impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if !self.lock.turns.free() {
            #[cfg(target_arch = "arm")]
            let place = by_core::place();
            #[cfg(not(target_arch = "arm"))]
            let place = self.place;
            self.lock.turns.pass(place);
        }
    }
}

#[cfg(not(all(test, loom)))]
impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard has the lock, so no other names the value (what `Turns` guarantees).
        unsafe { &*self.lock.value.get() }
    }
}

#[cfg(not(all(test, loom)))]
impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

#[cfg(all(test, loom))]
impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

#[cfg(all(test, loom))]
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

/// The locks that each core holds and waits for. Only that core writes its record. Whoever reports reads it.
#[cfg(target_arch = "arm")]
mod by_core {
    use super::{Poll, Rank, Turns};
    use crate::cpu::{CoreId, MAX_CORES};
    use crate::cpu::{interrupt_pends, isb, mask_interrupts, unmask_interrupts};
    use crate::events::{self, EventKind};
    use core::fmt;
    use core::marker::PhantomData;
    use core::mem;
    use core::panic::Location;
    use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

    type Site = &'static Location<'static>;

    /// The lowest bit of ranks in a record's `held`. The ranks are the highest bits, so that a shift leaves a rank and
    /// all after it.
    const RANKS: u32 = 24;
    /// What one [`Mask`] adds to `held`. There is room for more of them than fit on a stack.
    const MASKED: u32 = 1 << 8;
    /// The bits of `held` that count [`Mask`]s.
    const ALL_MASKED: u32 = (1 << RANKS) - MASKED;
    /// The bits of `held` that are set for ranks of which several locks are held.
    const SEVERAL: u32 = MASKED - 1;

    /// The record of one core. It has cache lines of its own, for only that core writes it.
    #[repr(align(64))]
    struct Record {
        /// What the core holds. From bit [`RANKS`] on there is a bit for each rank held. From bit 0 on there is a bit
        /// for each rank of which several locks are held. Between them is the number of [`Mask`]s. While the word is
        /// not zero, interrupts are masked.
        held: AtomicU32,
        /// Whether interrupts were masked when `held` became non-zero.
        masked_before: AtomicU32,
        /// For each rank, the locks held beyond the first. Those were taken by `try_lock`.
        more: [AtomicU32; Rank::COUNT],
        /// Where each rank held was taken.
        sites: [AtomicPtr<Location<'static>>; Rank::COUNT],
        /// The place in the program where the core waits, and the rank it waits for. It is null if the core does not
        /// wait.
        waits: AtomicPtr<Location<'static>>,
        waits_for: AtomicU32,
        /// The lock that it waits for, at `place`. It is null if the core does not wait, or left its place.
        queue: AtomicPtr<Turns>,
        place: AtomicU32,
        /// How often others went round this core. The others write it.
        gone_round: AtomicU32,
        /// The number of locks taken, of those that were not free at once, and of rounds waited for them.
        taken: AtomicU32,
        contended: AtomicU32,
        rounds: AtomicU32,
    }

    static RECORDS: [Record; MAX_CORES] = [const {
        Record {
            held: AtomicU32::new(0),
            masked_before: AtomicU32::new(0),
            more: [const { AtomicU32::new(0) }; Rank::COUNT],
            sites: [const { AtomicPtr::new(core::ptr::null_mut()) }; Rank::COUNT],
            waits: AtomicPtr::new(core::ptr::null_mut()),
            waits_for: AtomicU32::new(0),
            queue: AtomicPtr::new(core::ptr::null_mut()),
            place: AtomicU32::new(0),
            gone_round: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            contended: AtomicU32::new(0),
            rounds: AtomicU32::new(0),
        }
    }; MAX_CORES];

    /// The function of [`on_wait`], or null.
    static ON_WAIT: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

    /// The rounds of waiting between two calls of [`on_wait`]'s function.
    const ROUNDS: u32 = 1 << 12;

    /// Sets the function that is called now and then while a core waits for a lock: a watchdog, say. Its argument is
    /// how often it was called before for this wait. Interrupts are masked meanwhile. The function takes no lock. If it
    /// ends the program, it calls [`abandon`] first, and may take locks then.
    pub fn on_wait(hook: fn(u32)) {
        ON_WAIT.store(hook as *mut (), Ordering::Release);
    }

    /// Forgets all locks that this core holds or waits for, for a last report, after which the program ends. The locks
    /// that it holds stay taken. It waits for no lock afterwards, so none is passed to it.
    pub fn abandon() {
        let record = record();
        let queue = record.queue.swap(core::ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: `wait` stored it, which borrows the lock until it stores null: this is called from within.
        if let Some(turns) = unsafe { queue.as_ref() } {
            turns.leave(record.place.load(Ordering::Relaxed));
        }
        record.held.store(record.held.load(Ordering::Relaxed) & ALL_MASKED, Ordering::Relaxed);
        for more in &record.more {
            more.store(0, Ordering::Relaxed);
        }
    }

    impl Record {
        /// Changes `held`, once the caller has masked interrupts. `masked` says whether they were masked before.
        #[inline]
        fn begin(&self, held: u32, now: u32, masked: bool) {
            if held == 0 {
                self.masked_before.store(masked.into(), Ordering::Relaxed);
            }
            self.held.store(now, Ordering::Relaxed);
        }

        /// Changes `held`. When the last reason to mask interrupts is gone, restores what was before the first.
        #[inline]
        fn end(&self, left: u32) {
            self.held.store(left, Ordering::Relaxed);
            if left == 0 && self.masked_before.load(Ordering::Relaxed) == 0 {
                unmask_interrupts();
            }
        }
    }

    fn record() -> &'static Record {
        &RECORDS[CoreId::current().index()]
    }

    /// Returns the place at which this core waits, for whatever lock.
    pub(super) fn place() -> u32 {
        CoreId::current().index() as u32
    }

    /// A core's locks. It may be out of date.
    #[derive(Clone, Copy, Debug)]
    pub struct CoreState {
        /// The rank it waits for, and the place in the program.
        pub waits: Option<(Rank, Site)>,
        /// Where in the program it took the locks it holds, by rank. Of several locks of a rank it is the last.
        pub held: [Option<Site>; Rank::COUNT],
        /// The number of locks taken, modulo 2^32.
        pub taken: u32,
        /// How many of them were held by somebody else, modulo 2^32.
        pub contended: u32,
        /// The rounds of the loop that waited for them, modulo 2^32.
        pub rounds: u32,
        /// How often it was offered a lock and did not come, because it was not running. Counted modulo 2^32.
        pub gone_round: u32,
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

    /// Yields each core's locks.
    pub fn cores() -> impl Iterator<Item = (CoreId, CoreState)> {
        // SAFETY: only references to `Location`s of this program are stored, or null.
        let site = |at: &AtomicPtr<Location<'static>>| unsafe { at.load(Ordering::Acquire).as_ref() };
        CoreId::all().zip(&RECORDS).map(move |(core, record)| {
            let held = record.held.load(Ordering::Acquire) >> RANKS;
            let taken_at = |rank: usize| if held >> rank & 1 == 1 { site(&record.sites[rank]) } else { None };
            let rank = Rank(record.waits_for.load(Ordering::Relaxed) as u8);
            let state = CoreState {
                waits: site(&record.waits).map(|site| (rank, site)),
                held: core::array::from_fn(taken_at),
                taken: record.taken.load(Ordering::Relaxed),
                contended: record.contended.load(Ordering::Relaxed),
                rounds: record.rounds.load(Ordering::Relaxed),
                gone_round: record.gone_round.load(Ordering::Relaxed),
            };
            (core, state)
        })
    }

    /// Adds to a counter that only this core writes.
    fn count(counter: &AtomicU32, more: u32) {
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// A rank that is entered in this core's record while interrupts are masked. Dropping it undoes both.
    ///
    /// The record's stores are not ordered. This core needs no order, and a report is about a core that has stood still
    /// for long. For a short time a report may name the place where a lock was taken last for the one where it is taken
    /// now.
    pub(super) struct Held {
        record: &'static Record,
        /// The bit of the rank.
        bit: u32,
        _on_this_core: PhantomData<*mut ()>,
    }

    impl Held {
        /// Enters a rank, for a lock that is taken in its order.
        #[inline]
        pub(super) fn new(rank: Rank, site: Site) -> Self {
            let masked = mask_interrupts();
            let record = record();
            let held = record.held.load(Ordering::Relaxed);
            if held >> RANKS >> rank.0 != 0 {
                out_of_order(record, held, rank, site);
            }
            Self::note(record, held, rank, site, masked)
        }

        /// Enters a rank, for a lock that is tried and not waited for.
        pub(super) fn tried(rank: Rank, site: Site) -> Self {
            let masked = mask_interrupts();
            let record = record();
            let held = record.held.load(Ordering::Relaxed);
            let this = Self::note(record, held, rank, site, masked);
            if held & this.bit != 0 {
                count(&record.more[usize::from(rank.0)], 1);
                record.held.store(held | 1 << rank.0, Ordering::Relaxed);
            }
            this
        }

        #[inline]
        fn note(record: &'static Record, held: u32, rank: Rank, site: Site, masked: bool) -> Self {
            let bit = 1 << RANKS << rank.0;
            record.sites[usize::from(rank.0)].store(core::ptr::from_ref(site).cast_mut(), Ordering::Relaxed);
            record.begin(held, held | bit, masked);
            Self { record, bit, _on_this_core: PhantomData }
        }

        /// Counts the lock as taken.
        #[inline]
        pub(super) fn count(&self) {
            count(&self.record.taken, 1);
        }

        /// Returns whether the core holds another lock of the rank. If so, it counts one less.
        #[cold]
        fn is_one_of_several(&self, held: u32) -> bool {
            let rank = (self.bit >> RANKS).trailing_zeros();
            if held >> rank & 1 == 0 {
                return false;
            }
            let more = &self.record.more[rank as usize];
            let left = more.load(Ordering::Relaxed) - 1;
            more.store(left, Ordering::Relaxed);
            if left == 0 {
                self.record.held.store(held & !(1 << rank), Ordering::Relaxed);
            }
            true
        }
    }

    impl Drop for Held {
        #[inline]
        fn drop(&mut self) {
            let held = self.record.held.load(Ordering::Relaxed);
            if held & SEVERAL == 0 || !self.is_one_of_several(held) {
                self.record.end(held & !self.bit);
            }
        }
    }

    /// An entry in this core's record while interrupts are masked. Dropping it undoes both.
    pub(super) struct Mask(&'static Record);

    impl Mask {
        pub(super) fn new() -> Self {
            let masked = mask_interrupts();
            let record = record();
            let held = record.held.load(Ordering::Relaxed);
            record.begin(held, held + MASKED, masked);
            Self(record)
        }
    }

    impl Drop for Mask {
        fn drop(&mut self) {
            self.0.end(self.0.held.load(Ordering::Relaxed) - MASKED);
        }
    }

    #[cold]
    fn out_of_order(record: &Record, held: u32, wanted: Rank, site: Site) -> ! {
        let rank = held.ilog2() - RANKS;
        // SAFETY: only references to `Location`s of this program are stored, or null.
        let since = unsafe { record.sites[rank as usize].load(Ordering::Relaxed).as_ref() };
        match since {
            Some(since) => {
                panic!("lock order: rank {} at {site}, while rank {rank} is held since {since}", wanted.0)
            }
            None => panic!("lock order: rank {} at {site}, while rank {rank} is held", wanted.0),
        }
    }

    /// Waits for the lock and takes it. `held` is given up while this waits.
    #[cold]
    #[inline(never)]
    pub(super) fn wait(held: Held, rank: Rank, site: Site, turns: &Turns) -> Held {
        drop(held);
        let masked = mask_interrupts();
        let (record, since) = (record(), events::now());
        // This may run in a handler that interrupted another wait. That wait's words are put back at the end.
        let outer = (record.waits.load(Ordering::Relaxed), record.waits_for.load(Ordering::Relaxed));
        let mut rounds = 0;
        // At each turn of this loop interrupts are masked and the core has no place.
        while let Some(mut wait) = turns.join(place()) {
            record.place.store(wait.place(), Ordering::Relaxed);
            record.queue.store(core::ptr::from_ref(turns).cast_mut(), Ordering::Relaxed);
            record.waits_for.store(rank.0.into(), Ordering::Relaxed);
            record.waits.store(core::ptr::from_ref(site).cast_mut(), Ordering::Release);
            let taken = loop {
                match turns.poll(&mut wait) {
                    Poll::Taken => break true,
                    Poll::Waits => super::turns::relax(),
                    Poll::Ignored(other) => {
                        // The count comes before the round, so that a reader never finds too few.
                        if let Some(record) = RECORDS.get(other as usize) {
                            record.gone_round.fetch_add(1, Ordering::Relaxed);
                        }
                        turns.go_round(&wait);
                    }
                }
                rounds += 1;
                if rounds % ROUNDS == 0 {
                    call_hook(rounds / ROUNDS);
                }
                if !masked && interrupt_pends() {
                    turns.leave(wait.place());
                    break false;
                }
            };
            record.queue.store(core::ptr::null_mut(), Ordering::Relaxed);
            if taken {
                break;
            }
            unmask_interrupts();
            // The ISB stands between the two, so that the interrupt is taken here.
            isb();
            mask_interrupts();
        }
        record.waits.store(outer.0, Ordering::Release);
        record.waits_for.store(outer.1, Ordering::Relaxed);
        count(&record.contended, 1);
        count(&record.rounds, rounds + 1);
        events::note(EventKind::LockWait, rank.0.into(), 0, (0, (events::now() - since) as u32));
        Held::note(record, record.held.load(Ordering::Relaxed), rank, site, masked)
    }

    fn call_hook(time: u32) {
        let hook = ON_WAIT.load(Ordering::Acquire);
        if !hook.is_null() {
            // SAFETY: only `on_wait` stores here, a function of this type.
            let hook = unsafe { mem::transmute::<*mut (), fn(u32)>(hook) };
            hook(time);
        }
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
