//! Warm mappings: a coherent buffer that was freed keeps its mapping until somebody else gets its frames.
//!
//! The fake panics at a second attribute of a frame, at a missing TLB invalidate and at a stale line; the audit
//! compares the tables with the ledger after each step.

use carveout::addr::{FRAME_SIZE, PhysAddr};
use carveout::dma::{
    AfterFree, AllocError, Borrower, Coherent, Contiguous, Contract, ContractSet, DeviceOnly, Discardable, FaultPlace,
    FromDevice, HandleError, LOAN_PAGE, Loan, LoanPriority, Master, Movable, Stream, ToDevice,
};
use carveout::fake::{Fake, Op};
use carveout::setup::{CARVED_BYTES, Setup};
use proptest::prelude::*;

const KIB64: u32 = 64 << 10;

/// A machine that keeps mappings, and shelves.
fn shelving(seed: u64) -> Setup {
    let setup = Setup::new(seed);
    setup.dma.set_after_free(AfterFree::KeepMapped);
    setup
}

/// A machine that keeps mappings, and more than half of its area in use, so that no shelf is used.
fn warm(seed: u64) -> (Setup, Contiguous<Fake>) {
    let setup = shelving(seed);
    let most = setup.dma.alloc(&setup.master("most"), CARVED_BYTES / 2 + KIB64, 1).unwrap();
    (setup, most)
}

fn at(buffer: &Coherent<Fake>) -> PhysAddr {
    buffer.frames().base()
}

fn give_up(buffer: Coherent<Fake>) {
    // SAFETY: no device uses it.
    unsafe { buffer.give_up() };
}

fn window_frames(setup: &Setup) -> u32 {
    setup.audit().unwrap().window_frames
}

#[test]
fn the_next_buffer_of_the_frames_finds_them_mapped_and_zeroed() {
    let (setup, most) = warm(1);
    let master = setup.master("camera");
    let mut buffer = setup.dma.alloc_coherent(&master, KIB64, 1).unwrap();
    buffer.write_at(0, &[7; 100]);
    let (frames, va) = (buffer.frames(), buffer.as_ptr());
    give_up(buffer);
    let free = CARVED_BYTES - most.len() as u32;
    assert_eq!((window_frames(&setup), setup.free_bytes()), (16, free.into()), "mapped, and free");
    setup.fake.take_log();
    let buffer = setup.dma.alloc_coherent(&setup.master("codec"), KIB64, 1).unwrap();
    assert_eq!((buffer.frames(), buffer.as_ptr()), (frames, va));
    assert_eq!(setup.fake.take_log(), [Op::Barrier], "nothing is mapped, and no line maintained");
    assert_eq!(setup.fake.device_read(at(&buffer), 100), [0; 100], "I5");
    assert_eq!((buffer.effort().map_changes, setup.dma.stats().reused), (0, 1));
    let mut holders = Vec::new();
    setup.dma.holders().for_each(|record| holders.push(format!("{} of {}", record.bytes, record.owner)));
    assert_eq!(holders, [format!("{} of most", most.len()), "65536 of codec".into()]);
}

#[test]
fn a_mapping_ends_at_once_unless_a_kernel_says_otherwise() {
    let (setup, _most) = warm(1);
    setup.dma.set_after_free(AfterFree::Unmap);
    give_up(setup.dma.alloc_coherent(&setup.master("camera"), KIB64, 1).unwrap());
    assert_eq!((window_frames(&setup), setup.dma.stats().warm), (0, 0));
    setup.dma.set_after_free(AfterFree::KeepMapped);
    give_up(setup.dma.alloc_coherent(&setup.master("camera"), KIB64, 1).unwrap());
    assert_eq!((window_frames(&setup), setup.dma.stats().warm), (16, 1));
    setup.dma.set_after_free(AfterFree::Unmap);
    assert_eq!((window_frames(&setup), setup.dma.stats().warm), (0, 0));
}

#[test]
fn a_freed_buffer_is_nobodys_in_reports() {
    let (setup, _most) = warm(1);
    let master = setup.master("camera");
    let buffer = setup.dma.alloc_coherent(&master, KIB64, 1).unwrap();
    let (frame, va) = (buffer.frames().iter().next().unwrap(), buffer.as_ptr());
    let Some(FaultPlace::Buffer(record)) = setup.dma.place_of_frame(frame) else { panic!("it is the camera's") };
    let address = record.va.unwrap();
    let _ = va;
    give_up(buffer);
    assert_eq!(setup.dma.place_of_frame(frame), Some(FaultPlace::FreeFrame(frame)));
    assert_eq!(setup.dma.place_of(address), FaultPlace::FreeFrame(frame));
    setup.dma.retire(&master).expect("it has nothing");
}

/// Each taker of frames, after all of the area was freed warm.
#[test]
fn every_taker_evicts_first() {
    type Taker = (&'static str, fn(&Setup, &Master));
    let takers: [Taker; 9] = [
        ("another place", |s, m| drop(s.dma.alloc_coherent(m, CARVED_BYTES, 1).unwrap())),
        ("no state", |s, m| drop(s.dma.alloc(m, CARVED_BYTES, 1).unwrap())),
        ("a stream", |s, m| {
            let mut stream = s.dma.alloc_stream::<ToDevice>(m, CARVED_BYTES, 1).unwrap();
            stream.bytes_mut().fill(1);
        }),
        ("a device's", |s, m| {
            let only = s.dma.alloc_device(m, CARVED_BYTES, 1).unwrap();
            // SAFETY: no device.
            unsafe { only.give_up() };
        }),
        ("a discardable loan", |s, _| {
            let area = s.dma.area("test").unwrap();
            let cache = s.dma.borrower::<Discardable>(area, "cache", 1024, LoanPriority::Low).unwrap();
            let loan = cache.borrow(1024).unwrap();
            (0..1024).for_each(|page| cache.write(loan, page, 0, &[1; LOAN_PAGE]).unwrap());
        }),
        ("a contract", |s, m| {
            let set = ContractSet { count: 64, bytes: KIB64, align: 1 };
            let contract = s.dma.contract(m, &[set]).unwrap();
            assert_eq!(contract.alloc(KIB64, 1).unwrap().into_stream::<FromDevice>().bytes()[0], 0, "I5");
        }),
        ("idle time", |s, _| {
            let area = s.dma.area("test").unwrap();
            s.dma.set_reserve(area, CARVED_BYTES.into());
            while s.dma.idle_work(area, 7) > 0 {}
        }),
        ("the kernel", |s, _| s.dma.give_back_area(s.dma.area("test").unwrap()).unwrap()),
        ("a kernel that wants none", |s, _| s.dma.set_after_free(AfterFree::Unmap)),
    ];
    for (name, take) in takers {
        let (setup, most) = warm(3);
        let master = setup.master("camera");
        let all: Vec<_> = (0..4).map(|_| setup.dma.alloc_coherent(&master, KIB64, 1).unwrap()).collect();
        all.into_iter().for_each(give_up);
        drop(most);
        assert_eq!(setup.dma.stats().warm, 4);
        take(&setup, &master);
        setup.audit().unwrap();
        assert!(setup.dma.stats().evicted > 0, "{name} evicted nothing");
    }
}

#[test]
fn a_contracts_slot_stays_mapped_until_it_is_lent_or_the_contract_ends() {
    let setup = shelving(5);
    let master = setup.master("camera");
    let set = ContractSet { count: 2, bytes: KIB64, align: 1 };
    let contract = setup.dma.contract(&master, &[set]).unwrap();
    let mut frames = Vec::new();
    for n in 0..5u8 {
        let mut one = contract.alloc_coherent(KIB64, 1).unwrap();
        assert_eq!(setup.fake.device_read(at(&one), 9), [0; 9], "I5");
        one.write_at(0, &[n + 1; 9]);
        frames.push(one.frames());
        give_up(one);
        // Others come and go elsewhere.
        give_up(setup.dma.alloc_coherent(&master, 3 * KIB64, 1).unwrap());
        setup.audit().unwrap();
    }
    let stats = setup.dma.stats();
    assert!(stats.reused >= 4, "{stats:?}");
    let area = setup.dma.area("test").unwrap();
    let cache = setup.dma.borrower::<Discardable>(area, "cache", 1024, LoanPriority::Low).unwrap();
    let loan = cache.borrow(1024).unwrap();
    (0..loan.len()).for_each(|page| cache.write(loan, page, 0, &[1; LOAN_PAGE]).unwrap());
    setup.audit().unwrap();
    assert_eq!(setup.dma.stats().warm, 0, "all is lent");
    let one = contract.alloc_coherent(KIB64, 1).unwrap();
    assert_eq!(setup.fake.device_read(at(&one), 9), [0; 9], "I5");
    give_up(one);
    drop(contract);
    setup.audit().unwrap();
}

#[test]
fn idle_time_zeroes_what_stays_mapped_and_ends_what_nobody_will_want() {
    let (setup, _most) = warm(7);
    let (area, master) = (setup.dma.area("test").unwrap(), setup.master("camera"));
    setup.dma.set_reserve(area, 1 << 20);
    while setup.dma.idle_work(area, 64) > 0 {}
    let mut one = setup.dma.alloc_coherent(&master, 40 * FRAME_SIZE, 1).unwrap();
    one.write_at(0, &[9; 4096]);
    give_up(one);
    while setup.dma.idle_work(area, 64) > 0 {}
    let zeroed = setup.dma.stats().zeroed;
    setup.fake.take_log();
    let one = setup.dma.alloc_coherent(&master, 40 * FRAME_SIZE, 1).unwrap();
    assert_eq!((setup.fake.take_log(), setup.dma.stats().zeroed), (vec![], zeroed), "nothing is left to do");
    assert_eq!(setup.fake.device_read(at(&one), 4096), [0; 4096], "I5");
    // Where the next request of this kind goes now, it will find nothing mapped.
    let other = setup.dma.alloc_coherent(&master, 7 * FRAME_SIZE, 1).unwrap();
    let hole = setup.dma.alloc_coherent(&master, 7 * FRAME_SIZE, 1).unwrap();
    let wall = setup.dma.alloc(&master, FRAME_SIZE, 1).unwrap();
    give_up(hole);
    let fill = setup.dma.alloc(&master, 6 * FRAME_SIZE, 1).unwrap();
    give_up(other);
    drop(fill);
    while setup.dma.idle_work(area, 64) > 0 {}
    setup.audit().unwrap();
    drop((wall, one));
}

#[test]
fn a_shelf_serves_the_same_master_without_the_lock_and_gives_way_to_any_request() {
    let setup = shelving(9);
    let (camera, codec) = (setup.master("camera"), setup.master("codec"));
    let mut one = setup.dma.alloc_coherent(&camera, KIB64, 1).unwrap();
    one.write_at(0, &[7; 100]);
    let (frames, handle) = (one.frames(), one.into_raw());
    give_up(Coherent::from_raw(setup.dma, handle).unwrap());
    let stats = setup.dma.stats();
    assert_eq!((stats.shelved, stats.served, stats.warm), (16, 0, 0));
    setup.dma.retire(&camera).expect("it has nothing");

    let other = setup.dma.alloc_coherent(&codec, KIB64, 1).unwrap();
    assert_ne!(other.frames(), frames, "it is kept for its own master");
    let one = setup.dma.alloc_coherent(&camera, KIB64 - 5, 1).unwrap();
    assert_eq!((one.frames(), one.len(), setup.dma.stats().served), (frames, KIB64 as usize - 5, 1));
    assert_eq!(setup.fake.device_read(at(&one), 100), [0; 100], "I5");
    assert!(matches!(Coherent::from_raw(setup.dma, handle), Err(HandleError::Stale { .. })), "another life");
    let mut held = Vec::new();
    setup.dma.holders().for_each(|record| held.push((record.owner.to_string(), record.bytes)));
    assert_eq!(held, [("camera".into(), KIB64 - 5), ("codec".into(), KIB64)]);

    give_up(one);
    give_up(other);
    assert_eq!(setup.dma.stats().shelved, 32);
    let all = setup.dma.alloc(&camera, CARVED_BYTES, 1).expect("no request is refused while anything is on a shelf");
    assert_eq!(setup.dma.stats().shelved, 0);
    assert_eq!(window_frames(&setup), 0);
    drop(all);
}

#[test]
fn shelves_are_used_while_most_is_idle_and_hold_a_quarter() {
    let setup = shelving(9);
    let camera = setup.master("camera");
    let some: Vec<_> = (0..12).map(|n| setup.dma.alloc_coherent(&camera, KIB64, 1 << (n % 4)).unwrap()).collect();
    some.into_iter().for_each(give_up);
    assert!(setup.dma.stats().shelved <= 256, "{:?}", setup.dma.stats());
    assert!(setup.dma.stats().shelved > 0);
    let _most = setup.dma.alloc(&camera, CARVED_BYTES / 2 + 4096, 1).unwrap();
    let shelved = setup.dma.stats().shelved;
    give_up(setup.dma.alloc_coherent(&camera, 5 * FRAME_SIZE, 1).unwrap());
    assert_eq!(setup.dma.stats().shelved, shelved, "too little is idle");
}

/// Whatever is done with an area, in whatever order.
enum Held {
    Contiguous(Contiguous<Fake>),
    Coherent(Coherent<Fake>),
    Cpu(Stream<Fake, ToDevice, carveout::dma::Cpu>),
    Device(DeviceOnly<Fake>),
}

struct World {
    setup: Setup,
    masters: [Master; 2],
    held: Vec<Held>,
    contracts: Vec<Contract<Fake>>,
    cache: Borrower<Fake, Discardable>,
    store: Borrower<Fake, Movable>,
    loans: Vec<(bool, Loan)>,
    reads: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let setup = shelving(seed);
        let area = setup.dma.area("test").unwrap();
        let cache = setup.dma.borrower(area, "cache", 512, LoanPriority::Low).unwrap();
        let store = setup.dma.borrower(area, "store", 256, LoanPriority::Low).unwrap();
        let masters = [setup.master("camera"), setup.master("codec").with_boundary(1 << 20).unwrap()];
        Self { setup, masters, held: vec![], contracts: vec![], cache, store, loans: vec![], reads: 0 }
    }

    fn zeros(&mut self, at: PhysAddr, bytes: usize) {
        assert!(self.setup.fake.device_read(at, bytes).iter().all(|&byte| byte == 0), "I5");
        self.reads += 1;
    }

    fn step(&mut self, what: u8, n: u32, pages: u32) {
        let (dma, master) = (self.setup.dma, &self.masters[n as usize % 2]);
        let bytes = pages * FRAME_SIZE - n % 100;
        let area = dma.area("test").unwrap();
        match what {
            0..4 => {
                if let Ok(mut one) = dma.alloc_coherent(master, bytes, 1 << (n % 17)) {
                    self.zeros(at(&one), bytes as usize);
                    one.write_at(0, &[0xa5; 16]);
                    self.held.push(Held::Coherent(one));
                }
            }
            4 => self.held.extend(dma.alloc(master, bytes, 1).ok().map(Held::Contiguous)),
            5 => {
                if let Ok(mut one) = dma.alloc_stream(master, bytes, 1) {
                    assert!(one.bytes().iter().all(|&byte| byte == 0), "I5");
                    one.bytes_mut().fill(0x5a);
                    self.held.push(Held::Cpu(one));
                }
            }
            6 => {
                if let Ok(one) = dma.alloc_device(master, bytes, 1) {
                    self.setup.fake.device_write(PhysAddr::new(one.bus().raw()), &[0x3c; 64]);
                    self.held.push(Held::Device(one));
                }
            }
            7..12 if !self.held.is_empty() => match self.held.swap_remove(n as usize % self.held.len()) {
                Held::Contiguous(one) => drop(one),
                Held::Coherent(one) if n.is_multiple_of(5) => drop(one),
                Held::Coherent(one) => give_up(one),
                Held::Cpu(one) => drop(one),
                // SAFETY: the fake's device is done.
                Held::Device(one) => unsafe { one.give_up() },
            },
            12 => dma.set_reserve(area, u64::from(n % 3) << 20),
            13..16 => drop(dma.idle_work(area, pages)),
            16 => {
                let set = ContractSet { count: 1 + n % 3, bytes, align: 1 };
                if self.contracts.len() < 3 {
                    self.contracts.extend(dma.contract(master, &[set]).ok());
                }
            }
            17 | 18 if !self.contracts.is_empty() => {
                let place = n as usize % self.contracts.len();
                match self.contracts[place].alloc_coherent(1, 1) {
                    Ok(mut one) => {
                        self.zeros(at(&one), 4096);
                        one.write_at(0, &[0xa5; 1]);
                        self.held.push(Held::Coherent(one));
                    }
                    Err(error) => assert!(matches!(error, AllocError::ContractExceeded { .. }), "{error}"),
                }
            }
            19 if !self.contracts.is_empty() => {
                drop(self.contracts.swap_remove(n as usize % self.contracts.len()));
            }
            20 => self.loans.extend(self.cache.borrow(pages).ok().map(|loan| (true, loan))),
            21 => self.loans.extend(self.store.borrow(pages).ok().map(|loan| (false, loan))),
            22 | 23 => {
                for (discardable, loan) in &self.loans {
                    let page = n % loan.len();
                    let wrote = if *discardable {
                        self.cache.write(*loan, page, 0, &[n as u8; LOAN_PAGE])
                    } else {
                        self.store.write(*loan, page, 0, &[n as u8; 100])
                    };
                    assert!(*discardable || wrote.is_ok());
                }
            }
            24 if !self.loans.is_empty() => {
                let (discardable, loan) = self.loans.swap_remove(n as usize % self.loans.len());
                if discardable {
                    self.cache.give_back(loan).unwrap();
                } else {
                    self.store.give_back(loan).unwrap();
                }
            }
            25 if self.held.is_empty() && self.contracts.is_empty() => drop(dma.give_back_area(area)),
            // SAFETY: this kernel maps none of it (I2).
            26 => drop(unsafe { dma.take_area(area, &[], |_| Ok::<_, core::convert::Infallible>(())) }),
            27 if n.is_multiple_of(4) => {
                dma.set_after_free(AfterFree::Unmap);
                dma.set_after_free(AfterFree::KeepMapped);
            }
            _ => {}
        }
        self.setup.audit().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The audit after every step, zeros for every owner, and a fake that refuses a second attribute.
    #[test]
    fn whoever_takes_frames_evicts_first(
        seed in any::<u64>(),
        steps in prop::collection::vec((0u8..28, any::<u32>(), 1u32..80), 1..120),
    ) {
        let mut world = World::new(seed);
        for (what, n, pages) in steps {
            world.step(what, n, pages);
        }
        let World { setup, held, contracts, .. } = world;
        for one in held {
            match one {
                // SAFETY: the fake's device is done.
                Held::Device(one) => unsafe { one.give_up() },
                one => drop(one),
            }
        }
        drop(contracts);
        setup.audit().unwrap();
    }
}
