//! Promises that only several cores, several machines, or a heap that is full can break: the worst wait of a recall
//! (I6), handles that are good with one borrower, and refusals that change nothing. Cores are the host's threads, on a
//! machine that has memory and tables but no caches.

#[macro_use]
mod uncached;

use carveout::addr::{FRAME_SIZE, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use carveout::carve_out::CarveOut;
use carveout::dma::{
    AreaId, Bidirectional, BlockShape, ContractError, ContractSet, Discardable, Dma, FaultPlace, LendError, LoanError,
    LoanPriority, Master, Movable, Pool, PoolError, ScatterTable,
};
use carveout::embed::{Builder, EmbedError, Needs, Roots, Window, WindowError};
use carveout::machine::{Mmu, Registers};
use carveout::vm::attr::LeafSize;
use carveout::vm::desc::{L1_ENTRIES, L2_ENTRIES};
use carveout::vm::range::VirtRange;
use carveout::vm::space::Region;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// The heap, which a test may have refuse one of its thread's requests.
struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

thread_local! {
    /// Requests that are granted before one is refused.
    static GRANTED: Cell<Option<u32>> = const { Cell::new(None) };
    /// Bytes that this thread has taken and not given back.
    static TAKEN: Cell<usize> = const { Cell::new(0) };
    /// What is asked at each request of this thread whether its lock is held.
    static WATCHED: Cell<Option<&'static Dma<Machine>>> = const { Cell::new(None) };
    /// Requests made meanwhile, and those of them under the lock.
    static SEEN: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
    /// Where this thread says 1 when it is about to reach memory, and waits for 2.
    static HELD_UP: Cell<Option<&'static AtomicU32>> = const { Cell::new(None) };
}

// SAFETY: the system's heap, but that some requests are refused, as any heap may.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match GRANTED.get() {
            Some(0) => return std::ptr::null_mut(),
            Some(left) => GRANTED.set(Some(left - 1)),
            None => {}
        }
        TAKEN.set(TAKEN.get().wrapping_add(layout.size()));
        if let Some(dma) = WATCHED.get() {
            let (requests, under) = SEEN.get();
            let held = dma.place_of(VirtAddr::new(WINDOW)) == FaultPlace::Busy;
            SEEN.set((requests + 1, under + u32::from(held)));
        }
        // SAFETY: `System` asks of a layout what this trait asks of it: that it is not of size 0.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        TAKEN.set(TAKEN.get().wrapping_sub(layout.size()));
        // SAFETY: what `alloc` gave for that layout.
        unsafe { System.dealloc(at, layout) }
    }
}

const RAM: u32 = 0x6000_0000;
/// Frames of each of two areas, from RAM's start on.
const FRAMES: u32 = 512;
const NAMES: [&str; 2] = ["one", "two"];
const WINDOW: u32 = 0xc000_0000;
/// Where the first-level table is said to be; the second-level tables of a section stand `L2_TABLE_SIZE` apart from
/// `L2`.
const L1: u32 = 0x7000_0000;
const L2: u32 = 0x7100_0000;

/// Memory, and a walk of the tables that were published. All cores see the same at once: there are no caches.
struct Machine {
    first: Vec<AtomicU32>,
    second: Vec<AtomicU32>,
    first_copy: AtomicPtr<u32>,
    second_copy: AtomicPtr<u32>,
    ram: AtomicPtr<u8>,
}

impl Machine {
    fn new() -> &'static Self {
        let words = |count: usize| (0..count).map(|_| AtomicU32::new(0)).collect();
        let bytes = 2 * FRAMES as usize * FRAME_SIZE as usize;
        // Words of eight bytes, so that copies find them aligned.
        let ram = vec![0u64; bytes / 8].leak().as_mut_ptr().cast();
        let copy = |count: usize| AtomicPtr::new(vec![0; count].leak().as_mut_ptr());
        let (first, second) = (L1_ENTRIES, 64 * L2_ENTRIES);
        Box::leak(Box::new(Self {
            first: words(first),
            second: words(second),
            first_copy: copy(first),
            second_copy: copy(second),
            ram: AtomicPtr::new(ram),
        }))
    }

    fn word(&self, at: u32) -> &AtomicU32 {
        match at.checked_sub(L2) {
            Some(offset) => &self.second[offset as usize / 4],
            None => &self.first[(at - L1) as usize / 4],
        }
    }

    fn translate(&self, va: u32) -> u32 {
        let first = self.word(L1 + 4 * (va / SECTION_SIZE)).load(Ordering::Acquire);
        if first & 3 == 2 {
            return (first & 0xfff0_0000) + va % SECTION_SIZE;
        }
        assert_eq!(first & 3, 1, "{va:#x} is not mapped");
        let second = self.word((first & !0x3ff) + 4 * (va % SECTION_SIZE / FRAME_SIZE)).load(Ordering::Acquire);
        assert_ne!(second & 3, 0, "{va:#x} is not mapped");
        if second & 2 == 2 { (second & !0xfff) + va % FRAME_SIZE } else { (second & !0xffff) + va % 0x1_0000 }
    }
}

// SAFETY: words are read as published; `reach` gives the byte of RAM that they lead to. The tests map no frame twice.
unsafe impl Mmu for Machine {
    fn publish(&self, at: PhysAddr, words: &[u32]) {
        for (at, &word) in (at.raw()..).step_by(4).zip(words) {
            self.word(at).store(word, Ordering::Release);
        }
    }

    fn invalidate_tlb(&self, _: VirtAddr, _: u32, _: LeafSize) {}

    fn invalidate_tlb_all(&self) {}

    fn reach(&self, va: VirtAddr, _: u32) -> *mut u8 {
        if let Some(step) = HELD_UP.take() {
            step.store(1, Ordering::Release);
            while step.load(Ordering::Acquire) == 1 {
                thread::yield_now();
            }
        }
        self.ram.load(Ordering::Relaxed).wrapping_add((self.translate(va.raw()) - RAM) as usize)
    }

    fn reach_to_overwrite(&self, va: VirtAddr, bytes: u32) -> *mut u8 {
        self.reach(va, bytes)
    }

    fn registers(&self) -> Registers {
        Registers::plain(PhysAddr::new(L1))
    }

    /// The cores' copy of the tables, which no walk reads.
    fn table(&self, at: PhysAddr, _: u32) -> Option<NonNull<u32>> {
        let (first, offset) = match at.raw().checked_sub(L2) {
            Some(offset) => (&self.second_copy, offset),
            None => (&self.first_copy, at.raw() - L1),
        };
        NonNull::new(first.load(Ordering::Relaxed).wrapping_add(offset as usize / 4))
    }

    fn table_word(&self, at: PhysAddr) -> Option<u32> {
        Some(self.word(at.raw()).load(Ordering::Acquire))
    }
}

uncached!(Machine);

fn carve_outs() -> Vec<CarveOut> {
    let areas = (0..).zip(NAMES).map(|(n, name)| (name, FrameRange::new((RAM >> 12) + n * FRAMES, FRAMES).unwrap()));
    // SAFETY: nothing is mapped but by the test's window.
    areas.map(|(name, frames)| unsafe { CarveOut::assume(name, &[frames], true) }).collect()
}

fn build(machine: &'static Machine) -> Result<Dma<Machine>, EmbedError> {
    let granted = GRANTED.take();
    let carved = carve_outs();
    let range = VirtRange::new(WINDOW, Needs::of(&carved, Builder::RECORDS).sections);
    GRANTED.set(granted);
    // SAFETY: nothing else names these addresses and tables.
    Builder::new(machine, carved, unsafe { Window::assume(range, Roots::One, PhysAddr::new(L2)) }).build()
}

/// A machine with two areas.
fn setup() -> (&'static Dma<Machine>, [AreaId; 2]) {
    let machine = Machine::new();
    let dma: &'static Dma<Machine> = Box::leak(Box::new(build(machine).unwrap()));
    (dma, NAMES.map(|name| dma.area(name).unwrap()))
}

/// Tells the other cores to end when it is dropped, also where a check failed.
struct Ends<'d>(&'d AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// I6: of two cores, one recalls and the other does idle work without end: no recall waits for more than the turn that
/// is under way.
#[test]
fn i6_a_recall_waits_for_one_turn_of_each_other_core() {
    const ROUNDS: u8 = 150;
    let (dma, [one, two]) = setup();
    let store = dma.borrower::<Movable>(one, "store", 64, LoanPriority::Low).unwrap();
    dma.set_reserve(two, 1 << 30);
    let (idle, device) = (Master::new("idle", Some(two)), Master::new("device", Some(one)));
    let done = AtomicBool::new(false);
    let mut worked = 0;
    thread::scope(|scope| {
        let idle = scope.spawn(|| {
            let mut worked = 0;
            while !done.load(Ordering::Relaxed) {
                // Freed, they are to be zeroed again.
                drop(dma.alloc(&idle, FRAMES * FRAME_SIZE, 1).unwrap().into_coherent());
                while let frames @ 1.. = dma.idle_work(two, u32::MAX) {
                    worked += frames;
                }
            }
            worked
        });
        let ends = Ends(&done);
        for round in 0..ROUNDS {
            let loan = store.borrow(64).unwrap();
            (0..64).for_each(|page| store.write(loan, page, 0, &[round, page as u8]).unwrap());
            let all = dma.alloc(&device, FRAMES * FRAME_SIZE, 1).unwrap();
            let mut found = [0; 2];
            for page in 0..64 {
                store.read(loan, page, 0, &mut found).unwrap();
                assert_eq!(found, [round, page as u8]);
            }
            store.give_back(loan).unwrap();
            drop(all);
        }
        drop(ends);
        worked = idle.join().unwrap();
    });
    assert!(worked > 0, "the other core did nothing");
    assert_eq!(store.stats().moved, u64::from(ROUNDS) * 64);
    let worst = dma.stats().worst_wait;
    assert!(worst <= 1, "a recall waited for {worst} turns of the one other core");
}

/// I7: a contract's allocation waits for the copy that is under way in its one slot, here until the test lets it go on,
/// and for none that begins later, though another core begins new ones without end.
#[test]
fn i7_an_allocation_that_waits_for_its_slot_waits_for_no_later_copy() {
    static STEP: AtomicU32 = AtomicU32::new(0);
    let (dma, [one, _]) = setup();
    let device = Master::new("device", Some(one));
    let contract = dma.contract(&device, &[ContractSet { count: 1, bytes: FRAMES * FRAME_SIZE, align: 1 }]).unwrap();
    let cache = dma.borrower::<Discardable>(one, "cache", 2, LoanPriority::Low).unwrap();
    let loan = cache.borrow(2).unwrap();
    let (copies, done) = (AtomicU32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let slow = scope.spawn(|| {
            HELD_UP.set(Some(&STEP));
            cache.write(loan, 0, 0, b"slow")
        });
        while STEP.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
        let later = scope.spawn(|| {
            let mut outcome = Ok(());
            while outcome.is_ok() && !done.load(Ordering::Relaxed) {
                outcome = cache.write(loan, 1, 0, b"later");
                copies.fetch_add(1, Ordering::Relaxed);
            }
            outcome
        });
        while copies.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        let allocated = scope.spawn(|| contract.alloc(FRAMES * FRAME_SIZE, 1).is_ok());
        // From some time on no copy begins.
        let mut left = 100;
        let stopped = loop {
            let before = copies.load(Ordering::Relaxed);
            thread::sleep(Duration::from_millis(200));
            left -= 1;
            if copies.load(Ordering::Relaxed) == before || left == 0 {
                break left > 0;
            }
        };
        done.store(!stopped, Ordering::Relaxed);
        STEP.store(2, Ordering::Release);
        assert_eq!(slow.join().unwrap(), Ok(()));
        assert!(allocated.join().unwrap());
        assert!(stopped, "other copies went on beside the allocation that waits");
        assert_eq!(later.join().unwrap(), Err(LoanError::Recalled { page: 1 }));
    });
}

/// I5: borrowers of one area, of two and of two machines get loans of the same pages. Each handle is good with its own.
#[test]
fn i5_a_loan_is_no_other_borrowers_whatever_its_area_or_machine() {
    let mut loans = Vec::new();
    for (machine, (dma, areas)) in [setup(), setup()].into_iter().enumerate() {
        for (place, area) in areas.into_iter().enumerate() {
            for name in ["a", "b"] {
                let borrower = dma.borrower::<Movable>(area, name, 4, LoanPriority::Low).unwrap();
                let secret = format!("{machine} {place} {name}");
                // The second of its pages: the number of times they were lent is the same, too.
                borrower.give_back(borrower.borrow(4).unwrap()).unwrap();
                let loan = borrower.borrow(4).unwrap();
                borrower.write(loan, 0, 0, secret.as_bytes()).unwrap();
                loans.push((borrower, loan, secret));
            }
        }
    }
    assert_eq!(loans.len(), 8);
    for (of, (borrower, own, secret)) in loans.iter().enumerate() {
        for (_, loan, _) in loans.iter().enumerate().filter(|&(n, _)| n != of).map(|(_, loan)| loan) {
            assert_ne!(own, loan);
            assert_eq!(borrower.read(*loan, 0, 0, &mut [0]), Err(LoanError::Stale));
            assert_eq!(borrower.write(*loan, 0, 0, b"!"), Err(LoanError::Stale));
            assert_eq!(borrower.with(*loan, 0, |_| ()), Err(LoanError::Stale));
            assert_eq!(borrower.left(*loan), Err(LoanError::Stale));
            assert_eq!(borrower.give_back(*loan), Err(LoanError::Stale));
        }
        let mut found = [0; 5];
        borrower.read(*own, 0, 0, &mut found).unwrap();
        assert_eq!(&found, secret.as_bytes());
    }
    let stale = "the loan was given back, or is another borrower's";
    assert_eq!(LoanError::Stale.to_string(), stale);
}

/// Refuses one request to the heap after another until `attempt` is granted: before that each attempt is refused by
/// `is_refusal` and leaves the heap as it was. How many refusals there were.
fn refuse_each<T, E: std::fmt::Debug>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_refusal: impl Fn(&E) -> bool,
    leaks: bool,
) -> (T, u32) {
    for granted in 0.. {
        let before = TAKEN.get();
        GRANTED.set(Some(granted));
        let result = attempt();
        GRANTED.set(None);
        match result {
            Ok(got) => return (got, granted),
            Err(error) => {
                assert!(is_refusal(&error), "{error:?}");
                assert!(
                    leaks || TAKEN.get() == before,
                    "refusal {granted} kept {} bytes",
                    TAKEN.get().wrapping_sub(before)
                );
            }
        }
    }
    unreachable!("it is granted at last")
}

/// Whoever waits for the lock does so with interrupts masked, and a refuge is large.
#[test]
fn a_borrowers_memory_is_taken_without_the_lock() {
    let (dma, [area, _]) = setup();
    WATCHED.set(Some(dma));
    let store = dma.borrower::<Movable>(area, "store", 300, LoanPriority::Low);
    WATCHED.set(None);
    let (requests, under) = SEEN.get();
    assert!(store.is_ok() && requests >= 4, "{requests} requests");
    assert_eq!(under, 0, "of {requests} requests");
}

/// Whoever has a lock of the heap's may be stopped by a handler that waits for this one.
#[test]
fn further_records_are_taken_without_the_lock() {
    let (dma, [area, _]) = setup();
    let device = Master::new("device", Some(area));
    let mut held = Vec::with_capacity(200);
    WATCHED.set(Some(dma));
    held.extend((0..200).map(|_| dma.alloc(&device, FRAME_SIZE, 1)));
    WATCHED.set(None);
    let (requests, under) = SEEN.get();
    assert!(held.iter().all(Result::is_ok) && requests >= 9, "{requests} requests");
    assert_eq!(under, 0, "of {requests} requests");
}

#[test]
fn a_full_heap_refuses_a_borrower_and_nothing_has_changed() {
    let (dma, [area, _]) = setup();
    let is_refusal = |error: &LendError| *error == LendError::Heap { pages: 300 };
    let lent = dma.lent(area);
    let refused = |of| assert_eq!(dma.lent(area), of, "as before");
    let (store, refusals) = refuse_each(
        || {
            let result = dma.borrower::<Movable>(area, "store", 300, LoanPriority::Low);
            result.inspect_err(|_| refused(lent))
        },
        is_refusal,
        false,
    );
    assert!(refusals >= 8, "{refusals}");
    assert_eq!(dma.lent(area).refuge, (307, 0));
    let loan = store.borrow(300).unwrap();
    store.write(loan, 299, 0, b"kept").unwrap();
    // Others of the area: the lists of borrowers grow, and stay so.
    for name in ["two", "three", "four", "five", "six"] {
        let attempt = || dma.borrower::<Movable>(area, name, 300, LoanPriority::Low);
        assert!(refuse_each(attempt, is_refusal, true).1 >= 4);
    }
    let all = dma.alloc(&Master::new("device", Some(area)), FRAMES * FRAME_SIZE, 1).unwrap();
    let mut bytes = [0; 4];
    store.read(loan, 299, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"kept");
    drop(all);
    assert_eq!(LendError::Heap { pages: 300 }.to_string(), "no heap left for a borrower of 300 pages");
}

#[test]
fn a_full_heap_refuses_a_contract_and_discards_no_loan() {
    let (dma, [area, _]) = setup();
    let cache = dma.borrower::<Discardable>(area, "cache", FRAMES, LoanPriority::Low).unwrap();
    let loan = cache.borrow(FRAMES).unwrap();
    let device = Master::new("device", Some(area));
    let sets = [
        ContractSet { count: 3, bytes: 16 * FRAME_SIZE, align: 1 },
        ContractSet { count: 40, bytes: FRAME_SIZE, align: 1 },
    ];
    let attempt = || {
        let result = dma.contract(&device, &sets);
        result.inspect_err(|_| assert_eq!(cache.left(loan), Ok(FRAMES), "all loans stand"))
    };
    // Indexes of an area's slots stay for the next contract, and so does room in the list of contracts.
    let is_refusal = |error: &ContractError| *error == ContractError::Heap { wanted: 43 };
    let (contract, refusals) = refuse_each(attempt, is_refusal, true);
    assert!(refusals >= 6, "{refusals}");
    assert_eq!(cache.left(loan), Ok(FRAMES - 88));
    let held: Vec<_> = (0..3).map(|_| contract.alloc(16 * FRAME_SIZE, 1).unwrap()).collect();
    let error = ContractError::Heap { wanted: 43 };
    assert_eq!(error.to_string(), "contract refused: no heap left for the books of 43 buffers");
    // A drop takes nothing from the heap.
    GRANTED.set(Some(0));
    drop(contract);
    GRANTED.set(None);
    drop(held);
}

#[test]
fn a_full_heap_refuses_the_machine() {
    let machine = Machine::new();
    let (_, refusals) = refuse_each(|| build(machine), |error| *error == EmbedError::Heap, true);
    let needs = Needs::of(&carve_outs(), Builder::RECORDS);
    assert_eq!(refusals as usize, needs.heap_blocks, "as many blocks as were told");
    assert_eq!(EmbedError::Heap.to_string(), "no heap left for the books of the carve-outs");
}

/// The heap gives what was told in advance, to the byte: whatever is carved, and however many records there are.
#[test]
fn the_heap_gives_what_was_told() {
    for (records, mib) in [(1, &[1][..]), (7, &[1, 2, 3]), (1024, &[4]), (Builder::MOST_RECORDS, &[1, 8])] {
        let mut at = RAM;
        let mut carve = |&mib: &u32| {
            // An odd number of frames, and a hole.
            let runs = [
                FrameRange::within(at.into(), u64::from(mib << 20) - 4096),
                FrameRange::within(u64::from(at) + (32 << 20), 4096),
            ];
            at += mib << 20;
            // SAFETY: nothing is mapped but by the test's window.
            unsafe { CarveOut::assume("area", &runs, true) }
        };
        let carved: Vec<_> = mib.iter().map(&mut carve).collect();
        let needs = Needs::of(&carved, records);
        let range = VirtRange::new(WINDOW, needs.sections);
        // SAFETY: nothing else names these addresses and tables.
        let window = unsafe { Window::assume(range, Roots::One, PhysAddr::new(L2)) };
        let machine = Machine::new();
        let list = carved.capacity() * size_of::<CarveOut>();
        let before = TAKEN.get();
        let dma = Builder::new(machine, carved, window).records(records).build().unwrap();
        // The list of carve-outs is given back.
        assert_eq!(TAKEN.get().wrapping_sub(before.wrapping_sub(list)), needs.heap_bytes, "{records} records, {mib:?}");
        std::mem::forget(dma);
    }
}

#[test]
fn a_full_heap_refuses_a_pool() {
    let (dma, [area, _]) = setup();
    let device = Master::new("device", Some(area)).with_boundary(FRAME_SIZE).unwrap();
    let shape = BlockShape { size: 1024, align: 1, boundary: None };
    // What grows with the number of buffers is there already, and stays.
    drop((0..64).map(|_| dma.alloc(&device, FRAME_SIZE, 1).unwrap()).collect::<Vec<_>>());
    let free = dma.free_bytes(area);
    // Two lists of blocks, what the blocks share, a list of buffers, which grows, and what the blocks use of each.
    let attempt = || {
        let result = Pool::new(dma, &device, shape, 64);
        result.inspect_err(|_| assert_eq!(dma.free_bytes(area), free))
    };
    let (pool, refusals) = refuse_each(attempt, |error| *error == PoolError::Heap { blocks: 64 }, false);
    assert_eq!(refusals, 7);
    // The store goes with the last share, whoever has it.
    let (taken, block) = (TAKEN.get(), pool.alloc().unwrap());
    assert_eq!(pool.held(), 1);
    drop(pool);
    assert_ne!(dma.free_bytes(area), free);
    drop(block);
    assert_eq!(dma.free_bytes(area), free);
    assert!(TAKEN.get() < taken, "what the pool took is given back");
}

#[test]
fn a_full_heap_refuses_a_region_and_nothing_is_written() {
    let (machine, range) = (Machine::new(), VirtRange::new(WINDOW, 2));
    let at = PhysAddr::new(L1 + 4 * (WINDOW / SECTION_SIZE));
    GRANTED.set(Some(0));
    // SAFETY: nothing else names these addresses and tables.
    let window = unsafe { Window::assume(range, Roots::One, PhysAddr::new(L2)) };
    let region = Region::one_each(machine, &window);
    GRANTED.set(None);
    assert_eq!(region.map(drop), Err(WindowError::Heap));
    assert_eq!(machine.table_word(at), Some(0));
}

/// A hand-over cannot be refused, so it asks for nothing.
#[test]
fn a_full_heap_stops_no_hand_over_of_a_table() {
    let (dma, [area, _]) = setup();
    let device = Master::new("device", Some(area));
    let stream = |_| dma.alloc(&device, FRAME_SIZE, 1).unwrap().into_stream::<Bidirectional>();
    let mut table = ScatterTable::new((0..5).map(stream).collect());
    table.views_mut().for_each(|bytes| bytes.fill(0xa5));
    GRANTED.set(Some(0));
    let table = table.for_device();
    // SAFETY: there is no device.
    let table = unsafe { table.for_cpu() };
    GRANTED.set(None);
    assert!(table.views().all(|bytes| bytes.iter().all(|&byte| byte == 0xa5)));
    let taken = TAKEN.get();
    drop(table);
    assert!(TAKEN.get() < taken, "the list is given back");
}
