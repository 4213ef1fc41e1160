//! Loans and contracts against naive models, on the fake: whatever is lent, devices get their memory, movable pages
//! keep their bytes, and nobody reads another's (I1, I3, I5, I6, I7).

use carveout::addr::{FRAME_SIZE, Frame, FrameRange, PhysAddr};
use carveout::dma::{
    AllocError, Borrower, Coherent, Contiguous, Contract, ContractError, ContractSet, DeviceOnly, Discardable,
    FaultPlace, FromDevice, LOAN_PAGE, LendError, LentFrames, Loan, LoanError, LoanKind, LoanPriority, MAX_BUDGET,
    Movable, PlacedSet, Stream,
};
use carveout::fake::Fake;
use carveout::setup::{CARVED, Setup};
use proptest::prelude::*;

const KINDS: u8 = 4;

/// A buffer of any state, as its device left it.
enum Held {
    Bare(Contiguous<Fake>),
    Both(Coherent<Fake>),
    Device(DeviceOnly<Fake>),
    Filming(Stream<Fake, FromDevice, carveout::dma::Device>),
}

impl Held {
    /// Takes a fresh buffer, finds zeros in it (I5), and lets its device write all over it.
    fn new(setup: &Setup, buffer: Contiguous<Fake>, kind: u8) -> Self {
        let at = buffer.frames().base();
        let bytes = buffer.frames().bytes() as usize;
        let zeros =
            || assert!(setup.fake.device_read(at, bytes).iter().all(|&byte| byte == 0), "I5: a device reads zeros");
        let scribble = || setup.fake.device_write(at, &vec![0xa5; bytes]);
        match kind % KINDS {
            0 => Self::Bare(buffer),
            1 => {
                let mut buffer = buffer.into_coherent();
                let mut found = vec![1; buffer.len()];
                buffer.read_at(0, &mut found);
                assert!(found.iter().all(|&byte| byte == 0), "I5: the CPU reads zeros");
                zeros();
                buffer.write_at(0, &vec![0x5a; found.len()]);
                Self::Both(buffer)
            }
            2 => {
                let buffer = buffer.into_device();
                zeros();
                scribble();
                Self::Device(buffer)
            }
            _ => {
                // The CPU looks, so that lines are left, and the device writes under them.
                let buffer = buffer.into_stream::<FromDevice>();
                assert!(buffer.bytes().iter().all(|&byte| byte == 0), "I5: the CPU reads zeros");
                let buffer = buffer.for_device();
                scribble();
                Self::Filming(buffer)
            }
        }
    }

    fn frames(&self) -> FrameRange {
        match self {
            Self::Bare(buffer) => buffer.frames(),
            Self::Both(buffer) => buffer.frames(),
            Self::Device(buffer) => buffer.frames(),
            Self::Filming(buffer) => buffer.frames(),
        }
    }

    fn free(self) {
        match self {
            Self::Bare(buffer) => drop(buffer),
            // SAFETY: the tests' devices do nothing unless told.
            Self::Both(buffer) => drop(unsafe { buffer.release() }),
            // SAFETY: as above.
            Self::Device(buffer) => drop(unsafe { buffer.release() }),
            // SAFETY: as above.
            Self::Filming(buffer) => drop(unsafe { buffer.for_cpu() }),
        }
    }
}

/// A loan and what its pages must hold; `None` once recalled.
struct Model {
    loan: Loan,
    pages: Vec<Option<Vec<u8>>>,
}

/// A borrower beside a naive model of it.
struct Party<K: LoanKind> {
    borrower: Borrower<Fake, K>,
    loans: Vec<Model>,
    recalled: u64,
    survives: bool,
}

impl<K: LoanKind> Party<K> {
    fn new(setup: &Setup, name: &'static str, pages: u32, priority: LoanPriority, survives: bool) -> Self {
        let area = setup.dma.area("test").unwrap();
        let borrower = setup.dma.borrower::<K>(area, name, pages, priority).unwrap();
        Self { borrower, loans: Vec::new(), recalled: 0, survives }
    }

    fn borrow(&mut self, count: u32) -> Result<u32, LendError> {
        let loan = self.borrower.borrow(count)?;
        assert!(loan.len() >= 1 && loan.len() <= count);
        self.loans.push(Model { loan, pages: vec![Some(vec![0; LOAN_PAGE]); loan.len() as usize] });
        Ok(loan.len())
    }

    /// What the model says of a page's outcome; `true` if the page is there.
    fn settle<T>(&mut self, at: usize, page: usize, result: Result<T, LoanError>) -> Option<T> {
        let known = &mut self.loans[at].pages[page];
        match result {
            Ok(value) => {
                assert!(known.is_some(), "a recalled page came back");
                Some(value)
            }
            Err(LoanError::Recalled { page: said }) => {
                assert_eq!(said as usize, page);
                assert!(!self.survives, "I6: a movable page was lost");
                if known.take().is_some() {
                    self.recalled += 1;
                }
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn touch(&mut self, at: usize, page: usize, offset: usize, bytes: &[u8], how: u8) {
        let loan = self.loans[at].loan;
        match how % 3 {
            0 => {
                let done = self.borrower.write(loan, page as u32, offset, bytes);
                if self.settle(at, page, done).is_some() {
                    let model = self.loans[at].pages[page].as_mut().unwrap();
                    model[offset..offset + bytes.len()].copy_from_slice(bytes);
                }
            }
            1 => {
                let mut found = vec![0xee; bytes.len()];
                let done = self.borrower.read(loan, page as u32, offset, &mut found);
                if self.settle(at, page, done).is_some() {
                    let model = self.loans[at].pages[page].as_ref().unwrap();
                    assert!(found == model[offset..offset + bytes.len()], "page {page} of loan {at}");
                }
            }
            _ => {
                let before = self.loans[at].pages[page].clone();
                let done = self.borrower.with(loan, page as u32, |found| {
                    assert!(before.as_deref() == Some(&found[..]), "page {page} of loan {at}");
                    found[offset..offset + bytes.len()].copy_from_slice(bytes);
                });
                if self.settle(at, page, done).is_some() {
                    let model = self.loans[at].pages[page].as_mut().unwrap();
                    model[offset..offset + bytes.len()].copy_from_slice(bytes);
                }
            }
        }
    }

    /// Does something while a closure has a page open, if there is one to open. The page stays as it is.
    fn inside<R>(&self, Inside { loan, page, .. }: &Inside, run: impl FnOnce() -> R) -> R {
        if self.loans.is_empty() {
            return run();
        }
        let Model { loan, pages } = &self.loans[loan.index(self.loans.len())];
        let page = page.index(pages.len());
        let mut run = Some(run);
        let result = self.borrower.with(*loan, page as u32, |found| {
            let result = run.take().map(|run| run());
            assert!(pages[page].as_deref() == Some(&found[..]), "page {page} changed under a closure");
            result
        });
        match (result, run) {
            (Ok(Some(result)), _) => result,
            (Err(LoanError::Recalled { .. }), Some(run)) => run(),
            (other, _) => panic!("{:?}", other.map(drop)),
        }
    }

    fn give_back(&mut self, at: usize) {
        let Model { loan, pages } = self.loans.swap_remove(at);
        let left = self.borrower.left(loan).unwrap() as usize;
        let known = pages.iter().flatten().count();
        assert!(left <= known);
        self.recalled += (known - left) as u64;
        assert!(!self.survives || left == known, "I6: a movable page was lost");
        self.borrower.give_back(loan).unwrap();
        assert_eq!(self.borrower.give_back(loan), Err(LoanError::Stale));
        assert_eq!(self.borrower.read(loan, 0, 0, &mut [0]), Err(LoanError::Stale));
    }

    /// Reads everything back and ends all loans; nothing was lost or discarded without being counted.
    fn finish(&mut self) {
        for at in 0..self.loans.len() {
            for page in 0..self.loans[at].pages.len() {
                self.touch(at, page, 0, &[0; LOAN_PAGE], 1);
            }
        }
        while !self.loans.is_empty() {
            self.give_back(0);
        }
        let stats = self.borrower.stats();
        assert_eq!(stats.discarded, self.recalled, "each discard is reported, once");
        assert_eq!((stats.in_area, stats.in_refuge), (0, 0));
        assert_eq!(stats.recalled, stats.discarded + stats.moved);
    }
}

/// Which page a closure has open meanwhile.
#[derive(Clone, Debug)]
struct Inside {
    who: u8,
    loan: prop::sample::Index,
    page: prop::sample::Index,
}

#[derive(Clone, Debug)]
enum Op {
    Alloc {
        frames: u32,
        align: u32,
        kind: u8,
        inside: Option<Inside>,
    },
    Free(prop::sample::Index),
    Contract {
        class: prop::sample::Index,
        kind: u8,
        inside: Option<Inside>,
    },
    Borrow {
        who: u8,
        count: u32,
    },
    Touch {
        who: u8,
        loan: prop::sample::Index,
        page: prop::sample::Index,
        offset: usize,
        len: usize,
        byte: u8,
        how: u8,
    },
    GiveBack {
        who: u8,
        loan: prop::sample::Index,
    },
    Idle(u32),
}

fn ops(count: usize) -> impl Strategy<Value = Vec<Op>> {
    let index = any::<prop::sample::Index>;
    let frames = prop_oneof![3 => 1..6u32, 2 => 6..40u32, 1 => 40..130u32];
    let inside = || {
        let one = (any::<u8>(), index(), index()).prop_map(|(who, loan, page)| Inside { who, loan, page });
        prop::option::weighted(0.3, one)
    };
    let op = prop_oneof![
        5 => (frames, prop_oneof![3 => Just(0u32), 1 => 12..17u32], any::<u8>(), inside())
            .prop_map(|(frames, order, kind, inside)| Op::Alloc { frames, align: 1 << order, kind, inside }),
        4 => index().prop_map(Op::Free),
        4 => (index(), any::<u8>(), inside())
            .prop_map(|(class, kind, inside)| Op::Contract { class, kind, inside }),
        4 => (any::<u8>(), 1..100u32).prop_map(|(who, count)| Op::Borrow { who, count }),
        9 => (any::<u8>(), index(), index(), 0..LOAN_PAGE, prop_oneof![1..100usize, Just(LOAN_PAGE)], any::<u8>(), any::<u8>())
            .prop_map(|(who, loan, page, offset, len, byte, how)| {
                let offset = if len == LOAN_PAGE { 0 } else { offset };
                Op::Touch { who, loan, page, offset, len: len.min(LOAN_PAGE - offset), byte, how }
            }),
        2 => (any::<u8>(), index()).prop_map(|(who, loan)| Op::GiveBack { who, loan }),
        1 => (1..64u32).prop_map(Op::Idle),
    ];
    prop::collection::vec(op, 1..count)
}

const FRAMES: u32 = 160;

/// Whether buffers, and the frame that is open, leave `count` frames at the alignment: what is lent does not count.
fn has_room(held: &[Held], open: Option<PhysAddr>, count: u32, align: u32) -> bool {
    let open = open.map(Frame::containing);
    let first = carveout::setup::CARVED.raw() / FRAME_SIZE;
    let order = (align / FRAME_SIZE).max(1);
    let fits = |start: u32| {
        let run = FrameRange::new(start, count).unwrap();
        start.is_multiple_of(order)
            && held.iter().all(|held| !held.frames().overlaps(run))
            && !open.is_some_and(|frame| run.contains(frame))
    };
    count <= FRAMES && (first..=first + FRAMES - count).any(fits)
}

struct World {
    setup: Setup,
    stills: Party<Discardable>,
    films: Party<Discardable>,
    store: Party<Movable>,
    held: Vec<Held>,
}

impl World {
    fn new(seed: u64, reserve: u32) -> Self {
        let setup = Setup::with_area(seed, FRAMES * FRAME_SIZE);
        let area = setup.dma.area("test").unwrap();
        setup.dma.set_reserve(area, u64::from(reserve * FRAME_SIZE));
        let stills = Party::new(&setup, "stills", 300, LoanPriority::Low, false);
        let films = Party::new(&setup, "films", 60, LoanPriority::High, false);
        let store = Party::new(&setup, "store", 90, LoanPriority::High, true);
        Self { setup, stills, films, store, held: Vec::new() }
    }

    /// Does something, perhaps while a closure has a page open.
    fn inside<R>(&self, inside: Option<&Inside>, run: impl FnOnce() -> R) -> R {
        match inside {
            None => run(),
            Some(at @ Inside { who, .. }) => match who % 3 {
                0 => self.stills.inside(at, run),
                1 => self.films.inside(at, run),
                _ => self.store.inside(at, run),
            },
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Alloc { frames, align, kind, ref inside } => {
                let master = self.setup.master("device");
                let room = |open| has_room(&self.held, open, frames, align);
                match self.inside(inside.as_ref(), || self.setup.dma.alloc(&master, frames * FRAME_SIZE, align)) {
                    Ok(buffer) => {
                        assert!(room(None), "frames of another buffer");
                        self.held.push(Held::new(&self.setup, buffer, kind));
                    }
                    Err(AllocError::Open { frame, .. }) => {
                        assert!(inside.is_some() && room(None) && !room(Some(frame)), "{frame} is not in the way");
                    }
                    Err(error) => assert!(!room(None), "I6: refused although buffers leave room: {error}"),
                }
            }
            Op::Free(index) => {
                if !self.held.is_empty() {
                    let at = index.index(self.held.len());
                    self.held.swap_remove(at).free();
                }
            }
            Op::Contract { .. } => {}
            Op::Borrow { who, count } => {
                let got = match who % 3 {
                    0 => self.stills.borrow(count),
                    1 => self.films.borrow(count),
                    _ => self.store.borrow(count),
                };
                let refused = matches!(got, Err(LendError::Spent { .. }))
                    || who % 3 != 2 && matches!(got, Err(LendError::NothingIdle));
                assert!(got.is_ok() || refused, "{got:?}");
            }
            Op::Touch { who, loan, page, offset, len, byte, how } => {
                let bytes: Vec<u8> = (0..len).map(|n| byte.wrapping_add(n as u8)).collect();
                macro_rules! touch {
                    ($party:expr) => {
                        if !$party.loans.is_empty() {
                            let at = loan.index($party.loans.len());
                            let page = page.index($party.loans[at].pages.len());
                            $party.touch(at, page, offset, &bytes, how);
                        }
                    };
                }
                match who % 3 {
                    0 => touch!(self.stills),
                    1 => touch!(self.films),
                    _ => touch!(self.store),
                }
            }
            Op::GiveBack { who, loan } => {
                macro_rules! give_back {
                    ($party:expr) => {
                        if !$party.loans.is_empty() {
                            let at = loan.index($party.loans.len());
                            $party.give_back(at);
                        }
                    };
                }
                match who % 3 {
                    0 => give_back!(self.stills),
                    1 => give_back!(self.films),
                    _ => give_back!(self.store),
                }
            }
            Op::Idle(frames) => {
                let area = self.setup.dma.area("test").unwrap();
                assert!(self.setup.dma.idle_work(area, frames) <= frames);
            }
        }
    }

    fn finish(mut self) {
        self.setup.audit().unwrap();
        self.store.finish();
        self.stills.finish();
        self.films.finish();
        self.held.drain(..).for_each(Held::free);
        self.setup.audit().unwrap();
        assert_eq!(self.setup.free_bytes(), u64::from(FRAMES * FRAME_SIZE));
        let all = self.setup.dma.alloc(&self.setup.master("device"), FRAMES * FRAME_SIZE, 1).unwrap();
        Held::new(&self.setup, all, 2).free();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 300, ..ProptestConfig::default() })]

    /// A device's allocation fails only if buffers leave no room, whatever is lent; movable pages keep their bytes,
    /// discards are reported, buffers read as zeros.
    #[test]
    fn i6_recalls_never_fail(seed in any::<u64>(), reserve in prop_oneof![Just(0u32), 1..60u32], ops in ops(120)) {
        let mut world = World::new(seed, reserve);
        for (n, op) in ops.iter().enumerate() {
            world.step(op);
            if n % 16 == 0 {
                world.setup.audit().unwrap();
            }
        }
        world.finish();
    }
}

#[derive(Clone, Debug)]
struct Deal {
    sets: Vec<(u32, u32, u32)>,
}

fn deals() -> impl Strategy<Value = Vec<Deal>> {
    let set = (1..4u32, prop_oneof![1..5u32, 5..30u32], prop_oneof![3 => Just(0u32), 1 => 12..17u32]);
    prop::collection::vec(prop::collection::vec(set, 1..4).prop_map(|sets| Deal { sets }), 1..4)
}

/// Buffers of a contract: (frames, alignment in bytes, declared, held).
type Class = (u32, u32, u32, Vec<Held>);

/// A declared contract, how many of each class are held, and the buffers.
struct Party2 {
    contract: Contract<Fake>,
    classes: Vec<Class>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 300, ..ProptestConfig::default() })]

    /// Random contracts, declared amid random loans and buffers; then everybody takes what he can get, and each buffer
    /// that was declared can be allocated, in any order, at any time, also from within a closure over any page.
    #[test]
    fn i7_contracts_hold(seed in any::<u64>(), deals in deals(), before in ops(30), ops in ops(120)) {
        let mut world = World::new(seed, 16);
        for op in &before {
            world.step(op);
        }
        let mut parties: Vec<Party2> = Vec::new();
        for deal in &deals {
            let sets: Vec<ContractSet> = deal
                .sets
                .iter()
                .map(|&(count, frames, order)| ContractSet { count, bytes: frames * FRAME_SIZE - 5, align: 1 << order })
                .collect();
            let free = world.setup.free_bytes();
            match world.setup.dma.contract(&world.setup.master("camera"), &sets) {
                Ok(contract) => {
                    let mut classes: Vec<Class> = Vec::new();
                    for &(count, frames, order) in &deal.sets {
                        // A frame is aligned to itself.
                        let align = FRAME_SIZE.max(1 << order);
                        match classes.iter_mut().find(|class| (class.0, class.1) == (frames, align)) {
                            Some(class) => class.2 += count,
                            None => classes.push((frames, align, count, Vec::new())),
                        }
                    }
                    parties.push(Party2 { contract, classes });
                }
                Err(error) => {
                    prop_assert_eq!(world.setup.free_bytes(), free, "{}", error);
                }
            }
        }
        // Hogs.
        let hog = world.setup.master("hog");
        while let Ok(buffer) = world.setup.dma.alloc(&hog, FRAME_SIZE, 1) {
            world.held.push(Held::new(&world.setup, buffer, 2));
        }
        for (n, op) in ops.iter().enumerate() {
            match op {
                Op::Contract { class, kind, inside } if !parties.is_empty() => {
                    let party = n % parties.len();
                    let Party2 { contract, classes } = &mut parties[party];
                    let at = class.index(classes.len());
                    let (frames, align, declared, held) = &mut classes[at];
                    let bytes = *frames * FRAME_SIZE - u32::from(*kind);
                    let found = world.inside(inside.as_ref(), || contract.alloc(bytes, *align));
                    if (held.len() as u32) < *declared {
                        let buffer = found.expect("I7: the contract declares it");
                        prop_assert_eq!(buffer.frames().count(), *frames);
                        prop_assert!(buffer.frames().base().is_aligned(*align), "{buffer:?} aligned to {align:#x}");
                        held.push(Held::new(&world.setup, buffer, *kind));
                    } else {
                        let wanted = u64::from(*frames * FRAME_SIZE);
                        prop_assert_eq!(found.unwrap_err(), AllocError::ContractExceeded { wanted, declared: *declared });
                        held.remove(usize::from(*kind) % held.len()).free();
                    }
                }
                // What buffers leave is not known beside contracts' slots.
                Op::Alloc { frames, align, kind, inside } => {
                    let alloc = || world.setup.dma.alloc(&hog, frames * FRAME_SIZE, *align);
                    if let Ok(buffer) = world.inside(inside.as_ref(), alloc) {
                        for held in world.held.iter().chain(parties.iter().flat_map(|p| p.classes.iter().flat_map(|c| &c.3))) {
                            prop_assert!(!held.frames().overlaps(buffer.frames()));
                        }
                        world.held.push(Held::new(&world.setup, buffer, *kind));
                    }
                }
                op => world.step(op),
            }
            if n % 16 == 0 {
                world.setup.audit().unwrap();
            }
        }
        // All of each, at once.
        for Party2 { contract, classes } in &mut parties {
            for (frames, align, declared, held) in classes {
                while (held.len() as u32) < *declared {
                    let buffer = contract.alloc(*frames * FRAME_SIZE, *align).expect("I7: the contract declares it");
                    held.push(Held::new(&world.setup, buffer, 1));
                }
            }
        }
        world.setup.audit().unwrap();
        // The contracts end, some before their buffers.
        for (n, Party2 { contract, classes }) in parties.into_iter().enumerate() {
            let buffers = classes.into_iter().flat_map(|class| class.3);
            if n % 2 == 0 {
                drop(contract);
                buffers.for_each(Held::free);
            } else {
                buffers.for_each(Held::free);
                drop(contract);
            }
        }
        world.finish();
    }
}

fn area(setup: &Setup) -> carveout::dma::AreaId {
    setup.dma.area("test").unwrap()
}

#[test]
fn i1_a_page_cannot_be_opened_twice_nor_recalled_while_it_is_open() {
    let setup = Setup::with_area(1, 8 * FRAME_SIZE);
    let cache = setup.dma.borrower::<Discardable>(area(&setup), "cache", 8, LoanPriority::Low).unwrap();
    let device = setup.master("device");
    let loan = cache.borrow(8).unwrap();
    cache.write(loan, 3, 0, b"open").unwrap();
    let refused = cache.with(loan, 3, |page| {
        assert_eq!(cache.read(loan, 3, 0, &mut [0]), Err(LoanError::InUse { page: 3 }));
        assert_eq!(cache.give_back(loan), Err(LoanError::InUse { page: 3 }));
        // Round it there is room.
        let around = setup.dma.alloc(&device, 4 * FRAME_SIZE, 1).unwrap();
        assert_eq!(&page[..4], b"open");
        setup.audit().unwrap();
        drop(around);
        setup.dma.alloc(&device, 8 * FRAME_SIZE, 1).unwrap_err()
    });
    let frame = PhysAddr::new(carveout::setup::CARVED.raw() + 3 * FRAME_SIZE);
    let open = AllocError::Open { wanted: u64::from(8 * FRAME_SIZE), frame };
    assert_eq!(refused, Ok(open));
    assert_eq!(open.to_string(), "no run of 32 KiB until the lent frame 0x60203000 is closed, which is open just now");
    assert!(setup.dma.alloc(&device, 8 * FRAME_SIZE, 1).is_ok(), "closed, it can be recalled");
}

#[test]
fn a_lent_frame_is_told_from_a_free_one_with_its_borrower() {
    let setup = Setup::with_area(1, 8 * FRAME_SIZE);
    let cache = setup.dma.borrower::<Discardable>(area(&setup), "cache", 3, LoanPriority::Low).unwrap();
    let store = setup.dma.borrower::<Movable>(area(&setup), "store", 1, LoanPriority::Low).unwrap();
    cache.borrow(3).unwrap();
    store.borrow(1).unwrap();
    let device = setup.dma.alloc(&setup.master("camera"), FRAME_SIZE, 1).unwrap();
    assert_eq!(device.frames().base(), PhysAddr::new(0x6020_4000));
    let first = carveout::setup::CARVED.raw();
    let place = |page| setup.dma.place_of_frame(Frame::containing(PhysAddr::new(first + page * FRAME_SIZE))).unwrap();
    assert_eq!(place(2).to_string(), "carved frame 0x60202000, lent to cache");
    assert_eq!(place(3).to_string(), "carved frame 0x60203000, lent to store");
    assert_eq!(place(4).to_string(), "allocated buffer 0x60204000-0x60205000 (4 KiB) of camera");
    assert_eq!(place(5).to_string(), "free carved frame 0x60205000");
    drop(device);
    // What was recalled is its buffer's, not its borrower's.
    let all = setup.dma.alloc(&setup.master("camera"), 8 * FRAME_SIZE, 1).unwrap();
    assert!(matches!(place(3), FaultPlace::Buffer(record) if record.owner == "camera"));
    drop(all);
    assert_eq!(place(3).to_string(), "free carved frame 0x60203000");
}

#[test]
fn i7_contract_memory_cannot_be_pinned() {
    let setup = Setup::with_area(2, 8 * FRAME_SIZE);
    let device = setup.master("device");
    let contract = setup.dma.contract(&device, &[ContractSet { count: 1, bytes: 8 * FRAME_SIZE, align: 1 }]).unwrap();
    let cache = setup.dma.borrower::<Discardable>(area(&setup), "cache", 8, LoanPriority::Low).unwrap();
    let loan = cache.borrow(8).unwrap();
    assert_eq!(setup.dma.lent(area(&setup)).lent, 8, "contract memory is lent while unused");
    cache.write(loan, 3, 0, b"open").unwrap();
    let bytes = cache.with(loan, 3, |page| {
        let all = contract.alloc(8 * FRAME_SIZE, 1).expect("I7: in a closure over what was contract memory");
        Held::new(&setup, all, 2).free();
        page[..4].to_vec()
    });
    assert_eq!(bytes.as_deref(), Ok(&b"open"[..]));
    assert_eq!((cache.stats().in_area, cache.stats().in_refuge), (0, 1));
}

#[test]
fn closures_nest_to_a_limit_and_others_get_their_refusal() {
    fn nest(cache: &Borrower<Fake, Discardable>, loan: Loan, page: u32) -> u32 {
        match cache.with(loan, page, |_| nest(cache, loan, page + 1)) {
            Ok(depth) => depth + 1,
            Err(error) => {
                assert_eq!(error, LoanError::TooManyOpen);
                0
            }
        }
    }
    let setup = Setup::new(3);
    let cache = setup.dma.borrower::<Discardable>(area(&setup), "cache", 20, LoanPriority::Low).unwrap();
    let loan = cache.borrow(20).unwrap();
    assert_eq!(nest(&cache, loan, 0), 7);
    assert_eq!(nest(&cache, loan, 0), 7, "they close");
    let other = setup.dma.borrower::<Movable>(area(&setup), "other", 20, LoanPriority::Low).unwrap();
    assert_eq!(other.read(loan, 0, 0, &mut [0]), Err(LoanError::Stale), "another's loan");
    let range = LoanError::Range { page: 20, offset: 0, len: 0 };
    assert_eq!(cache.read(loan, 20, 0, &mut [0]), Err(range));
    let range = LoanError::Range { page: 1, offset: 4000, len: 97 };
    assert_eq!(cache.write(loan, 1, 4000, &[0; 97]), Err(range));
    assert_eq!(range.to_string(), "97 bytes from 4000 of page 1 are not all in the loan");
    assert_eq!(cache.borrow(1), Err(LendError::Spent { pages: 20 }));
    for pages in [0, MAX_BUDGET + 1] {
        let refused = setup.dma.borrower::<Movable>(area(&setup), "none", pages, LoanPriority::Low);
        assert_eq!(refused.unwrap_err(), LendError::Budget { pages });
    }
}

#[test]
fn a_handle_is_stale_although_its_pages_are_lent_again() {
    let setup = Setup::new(10);
    let cache = setup.dma.borrower::<Discardable>(area(&setup), "cache", 8, LoanPriority::Low).unwrap();
    let old = cache.borrow(8).unwrap();
    cache.give_back(old).unwrap();
    let new = cache.borrow(8).unwrap();
    assert_eq!(cache.write(old, 0, 0, b"old"), Err(LoanError::Stale));
    assert_eq!(cache.give_back(old), Err(LoanError::Stale));
    assert_eq!(cache.left(new), Ok(8));
}

#[test]
fn i5_a_page_never_written_reads_as_zeros() {
    let setup = Setup::with_area(4, 4 * FRAME_SIZE);
    let device = setup.master("device");
    let secret = setup.dma.alloc(&device, 4 * FRAME_SIZE, 1).unwrap();
    Held::new(&setup, secret, 3).free();
    let cache = setup.dma.borrower::<Discardable>(area(&setup), "cache", 4, LoanPriority::Low).unwrap();
    let loan = cache.borrow(4).unwrap();
    let mut bytes = [1; LOAN_PAGE];
    cache.read(loan, 0, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; LOAN_PAGE]);
    cache.write(loan, 1, 17, b"x").unwrap();
    cache.read(loan, 1, 0, &mut bytes).unwrap();
    assert_eq!((bytes[16], bytes[17], bytes[18]), (0, b'x', 0));
    assert!(cache.with(loan, 2, |page| *page == [0; LOAN_PAGE]).unwrap());
}

#[test]
fn discards_come_before_moves_uncached_before_cached_and_low_priority_first() {
    let setup = Setup::with_area(5, 64 * FRAME_SIZE);
    let device = setup.master("device");
    let store = setup.dma.borrower::<Movable>(area(&setup), "store", 16, LoanPriority::Low).unwrap();
    let high = setup.dma.borrower::<Discardable>(area(&setup), "high", 16, LoanPriority::High).unwrap();
    let cached = setup.dma.borrower::<Discardable>(area(&setup), "cached", 16, LoanPriority::Low).unwrap();
    let fresh = setup.dma.borrower::<Discardable>(area(&setup), "fresh", 16, LoanPriority::Low).unwrap();
    let kept = store.borrow(16).unwrap();
    for borrower in [&high, &cached, &fresh] {
        borrower.borrow(16).unwrap();
    }
    let loans = cached.borrow(1);
    assert_eq!(loans, Err(LendError::Spent { pages: 16 }));
    for page in 0..16 {
        store.write(kept, page, 0, &[page as u8; LOAN_PAGE]).unwrap();
    }
    let discarded = || [fresh.stats().discarded, cached.stats().discarded, high.stats().discarded, store.stats().moved];
    let mut held = Vec::new();
    for want in [[16, 0, 0, 0], [16, 16, 0, 0], [16, 16, 16, 0], [16, 16, 16, 16]] {
        held.push(setup.dma.alloc(&device, 16 * FRAME_SIZE, 1).unwrap());
        // None of these pages was ever opened, so nothing but priority tells `high` from the others.
        let found = discarded();
        assert_eq!(found.iter().sum::<u64>(), want.iter().sum::<u64>());
        assert_eq!((found[2], found[3]), (want[2], want[3]));
    }
    assert_eq!(store.stats().in_refuge, 16);
    let mut bytes = [0; LOAN_PAGE];
    for page in 0..16 {
        store.read(kept, page, 0, &mut bytes).unwrap();
        assert_eq!(bytes, [page as u8; LOAN_PAGE]);
    }
}

#[test]
fn the_refuge_serves_discardable_borrowers_until_it_is_needed() {
    let setup = Setup::with_area(6, 16 * FRAME_SIZE);
    let device = setup.master("device");
    let store = setup.dma.borrower::<Movable>(area(&setup), "store", 16, LoanPriority::Low).unwrap();
    let cache = setup.dma.borrower::<Discardable>(area(&setup), "cache", 64, LoanPriority::Low).unwrap();
    let kept = store.borrow(16).unwrap();
    store.write(kept, 0, 0, b"kept").unwrap();
    let loan = cache.borrow(64).unwrap();
    assert_eq!((loan.len(), cache.stats().in_refuge), (23, 23), "16 of the store's, 7 spares");
    cache.write(loan, 22, 0, b"guest").unwrap();
    let all = setup.dma.alloc(&device, 16 * FRAME_SIZE, 1).unwrap();
    assert_eq!((store.stats().in_refuge, cache.stats().discarded), (16, 16));
    let mut bytes = [0; 4];
    store.read(kept, 0, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"kept");
    assert_eq!(cache.left(loan), Ok(7));
    drop(all);
}

#[test]
fn a_contract_is_refused_with_the_reason_and_nobody_loses_anything() {
    let setup = Setup::new(7);
    let device = setup.master("device");
    let cache = setup.dma.borrower::<Discardable>(area(&setup), "cache", 1024, LoanPriority::Low).unwrap();
    let loan = cache.borrow(1024).unwrap();
    let set = |count, bytes, align| ContractSet { count, bytes, align };
    let refused = |sets: &[ContractSet]| setup.dma.contract(&device, sets).map(drop).unwrap_err().to_string();
    assert_eq!(refused(&[]), "contract refused: it declares no buffers");
    assert_eq!(refused(&[set(0, 4096, 1)]), "contract refused: it declares no buffers");
    assert_eq!(refused(&[set(1, 0, 1)]), "contract refused: 1 x 0 B: allocation of no bytes");
    assert_eq!(
        refused(&[set(1, 4096, 3)]),
        "contract refused: 1 x 4 KiB: alignment of 0x3 bytes is not a power of two up to 16 MiB"
    );
    assert_eq!(
        refused(&[set(2, 4096, 1), set(3, 2 << 20, 1)]),
        "contract refused: 3 x 2 MiB: with 2 of its buffers placed, no room for 2 MiB: 0 B free in the area"
    );
    assert_eq!(
        refused(&[set(1, 3 << 20, 2 << 20), set(1, 1 << 20, 2 << 20)]),
        "contract refused: 1 x 1 MiB: with 1 of its buffers placed, no run of 1 MiB aligned to 2 MiB: 1 MiB free in the \
         area, the largest run at that alignment 0 B, the largest of any kind 1 MiB"
    );
    assert_eq!(
        refused(&[set(65536, 4096, 1)]),
        "contract refused: it declares 65536 buffers, and of the 65535 records for buffers 65535 are free"
    );
    let held = setup.dma.alloc(&device, 4096, 1).unwrap();
    assert_eq!(
        refused(&[set(65535, 1, 1)]),
        "contract refused: it declares 65535 buffers, and of the 65535 records for buffers 65534 are free"
    );
    drop(held);
    assert_eq!(cache.left(loan), Ok(1023), "the one frame that was allocated");
    cache.give_back(loan).unwrap();
    let loan = cache.borrow(1024).unwrap();
    let near = device.clone().with_mask(carveout::addr::BusAddr::new(0x602f_ffff));
    let far = setup.dma.contract(&near, &[set(1, 2 << 20, 1)]).map(drop).unwrap_err();
    assert!(matches!(far, ContractError::Set { error: AllocError::OutOfReach(_), placed: 0, .. }));
    assert_eq!(
        far.to_string(),
        "contract refused: 1 x 2 MiB: no run of 2 MiB at bus addresses up to 0x602fffff: 4 MiB free in the area, the largest \
         such run 1 MiB, the largest of any kind 4 MiB"
    );
    assert_eq!(cache.left(loan), Ok(1024), "refusals recall nothing");

    let contract = setup.dma.contract(&device, &[set(2, 1 << 20, 1), set(1, 8192, 1)]).unwrap();
    assert_eq!(cache.left(loan), Ok(1024 - 514));
    assert_eq!(contract.alloc(0, 1).unwrap_err(), AllocError::ZeroSize);
    let error = contract.alloc((1 << 20) + 1, 1).unwrap_err();
    assert_eq!(error.to_string(), "no buffer of 1028 KiB is declared: the contract's largest are of 1 MiB");
    let one = contract.alloc(1, 1).unwrap();
    assert_eq!(one.len(), 1);
    let error = contract.alloc(4096, 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no room for 4 KiB: all 1 that the contract declares are allocated",
        "it never spills"
    );
}

/// A contract at chosen places recalls what is lent there. A place that a buffer cannot have is refused by name, and
/// nobody loses anything.
#[test]
fn i7_a_contract_has_the_places_that_were_chosen() {
    let setup = Setup::new(7);
    let device = setup.master("device");
    let cache = setup.dma.borrower::<Discardable>(area(&setup), "cache", 1024, LoanPriority::Low).unwrap();
    let loan = cache.borrow(1024).unwrap();
    let at = |bytes: u32| PhysAddr::new(CARVED.raw() + bytes);
    let declare = |bytes, align, at: &[PhysAddr]| setup.dma.contract_at(&device, &[PlacedSet { bytes, align, at }]);
    let refused = |bytes, align, places: &[PhysAddr], wrong: PhysAddr| {
        let error = declare(bytes, align, places).map(drop).unwrap_err();
        assert!(matches!(error, ContractError::Place { at, .. } if at == wrong), "{error}");
        assert_eq!(cache.left(loan), Ok(1024), "refusals recall nothing");
    };
    refused(8192, 1, &[at(0), at(4096)], at(4096));
    refused(8192, 1, &[at(2048)], at(2048));
    refused(8192, 16384, &[at(16384), at(8192)], at(8192));
    refused(8192, 1, &[at((4 << 20) - 4096)], at((4 << 20) - 4096));
    refused(4096, 1, &[PhysAddr::new(0xffff_f000)], PhysAddr::new(0xffff_f000));
    let near = device.clone().with_mask(carveout::addr::BusAddr::new(CARVED.raw() + 0xffff));
    let far = [PlacedSet { bytes: 8192, align: 1, at: &[at(0), at(0xf000)] }];
    let error = setup.dma.contract_at(&near, &far).map(drop).unwrap_err();
    let line = format!(
        "contract refused: 2 x 8 KiB: the place at {} is held, or not where the device can have such a buffer",
        at(0xf000)
    );
    assert_eq!(error.to_string(), line);
    assert_eq!(declare(8192, 1, &[]).map(drop).unwrap_err(), ContractError::NoBuffers);

    let contract = declare(8192, 1, &[at(12288), at(1 << 20)]).unwrap();
    assert_eq!(cache.left(loan), Ok(1020), "four pages were recalled");
    let held = [contract.alloc(8192, 1), contract.alloc(1, 1)].map(Result::unwrap);
    let mut bases = held.each_ref().map(|buffer| buffer.frames().base());
    bases.sort_unstable();
    assert_eq!(bases, [at(12288), at(1 << 20)]);
    let beside = declare(8192, 1, &[at(16384)]).map(drop).unwrap_err();
    assert!(matches!(beside, ContractError::Place { .. }), "{beside}");
    drop((contract, held));
    assert!(declare(8192, 1, &[at(16384)]).is_ok(), "the contract and its buffers have ended");
}

/// What is declared at an alignment is not had by who asks for less, nor the other way round.
#[test]
fn i7_a_contract_keeps_alignments_apart() {
    let setup = Setup::new(21);
    let device = setup.master("camera");
    // So that what comes first is not aligned by chance.
    let hog = setup.dma.alloc(&device, 4096, 1).unwrap();
    let set = |count, bytes, align| ContractSet { count, bytes, align };
    let sets = [set(1, 8192, 1 << 20), set(2, 8192, 1), set(1, 8192, 1 << 14), set(1, 4096, 1 << 16)];
    let contract = setup.dma.contract(&device, &sets).unwrap();
    let alloc = |bytes, align| contract.alloc(bytes, align);
    let plain: Vec<_> = (0..2).map(|_| alloc(8192, 1).unwrap()).collect();
    let error = alloc(8192, 1).unwrap_err();
    assert_eq!(error.to_string(), "no room for 8 KiB: all 2 that the contract declares are allocated");
    let buffers = [alloc(8192, 1 << 20), alloc(8000, 1 << 13), alloc(1, 1 << 16)].map(Result::unwrap);
    for (buffer, align) in buffers.iter().zip([1 << 20, 1 << 14, 1 << 16]) {
        assert!(buffer.frames().base().is_aligned(align), "{buffer:?} aligned to {align:#x}");
    }
    let error = alloc(16384, 1 << 15).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no buffer of 16 KiB aligned to 32 KiB is declared: the contract's largest at that alignment are of 8 KiB"
    );
    assert_eq!(alloc(8192, 3).unwrap_err(), AllocError::Alignment { align: 3 });
    drop((hog, plain, buffers));
    assert!(alloc(8192, 1 << 20).unwrap().frames().base().is_aligned(1 << 20), "the slot came back to its class");
}

/// Idle work until there is none; the frames it went through.
fn idle(setup: &Setup) -> u32 {
    let mut frames = 0;
    while let done @ 1.. = setup.dma.idle_work(area(setup), 100) {
        assert!(done <= 100);
        frames += done;
        assert!(frames <= 1 << 20, "it ends");
    }
    frames
}

#[test]
fn the_reserve_makes_allocations_that_touch_no_page() {
    let setup = Setup::new(8);
    let device = setup.master("device");
    let secret = setup.dma.alloc(&device, 4 << 20, 1).unwrap();
    Held::new(&setup, secret, 3).free();
    assert_eq!(idle(&setup), 0, "none is wanted");
    setup.dma.set_reserve(area(&setup), 1 << 20);
    assert_eq!((idle(&setup), idle(&setup)), (1024, 0), "all that is idle, once");
    let before = setup.dma.stats();
    let buffer = setup.dma.alloc(&device, 1 << 20, 1).unwrap().into_device();
    assert_eq!(setup.dma.stats().zeroed, before.zeroed);
    assert_eq!((buffer.effort().map_changes, buffer.effort().lines().inner), (0, 0));
    let read = setup.fake.device_read(buffer.frames().base(), 1 << 20);
    assert!(read.iter().all(|&byte| byte == 0), "I5");
    // SAFETY: no device was told of it.
    drop(unsafe { buffer.release() });
    // What becomes idle is gone through again, whatever it holds.
    let secret = setup.dma.alloc(&device, 5 * FRAME_SIZE, 1).unwrap();
    Held::new(&setup, secret, 3).free();
    assert_eq!((idle(&setup), idle(&setup)), (256, 0));
    let before = setup.dma.stats();
    let all = setup.dma.alloc(&device, 4 << 20, 1).unwrap().into_coherent();
    assert_eq!(setup.dma.stats().zeroed, before.zeroed);
    drop(all);
}

#[test]
fn idle_work_ends_however_many_runs_are_idle() {
    let setup = Setup::with_area(10, 128 * FRAME_SIZE);
    setup.dma.set_reserve(area(&setup), u64::from(128 * FRAME_SIZE));
    let device = setup.master("device");
    let mut all: Vec<_> = (0..128).map(|_| Some(setup.dma.alloc(&device, FRAME_SIZE, 1).unwrap())).collect();
    all.iter_mut().step_by(2).for_each(|buffer| *buffer = None);
    assert_eq!((idle(&setup), idle(&setup)), (64, 0));
    let zeroed = setup.dma.stats().zeroed;
    let again: Vec<_> = (0..64).map(|_| setup.dma.alloc(&device, FRAME_SIZE, 1).unwrap().into_coherent()).collect();
    assert_eq!(setup.dma.stats().zeroed, zeroed);
    assert_eq!(idle(&setup), 0);
    drop((all, again));
}

#[test]
fn the_reserve_is_never_lent_and_refilled_from_discardable_loans() {
    let setup = Setup::with_area(9, 64 * FRAME_SIZE);
    setup.dma.set_reserve(area(&setup), u64::from(16 * FRAME_SIZE));
    let cache = setup.dma.borrower::<Discardable>(area(&setup), "cache", 200, LoanPriority::Low).unwrap();
    let loan = cache.borrow(200).unwrap();
    assert_eq!(cache.stats().in_area, 48, "what the reserve lacks is not lent");
    assert_eq!(setup.dma.idle_work(area(&setup), 100), 16);
    let buffer = setup.dma.alloc(&setup.master("device"), 16 * FRAME_SIZE, 1).unwrap();
    assert_eq!(cache.left(loan), Ok(loan.len()), "the reserve comes first");
    assert_eq!(setup.dma.idle_work(area(&setup), 100), 16);
    assert_eq!(cache.stats().discarded, 16);
    drop(buffer);
}

/// What is idle is none of what the reserve lacks, wherever it is and however cheap; and what must be moved is not for
/// it.
#[test]
fn the_reserve_is_refilled_from_dearer_loans_while_some_frames_are_idle() {
    let setup = Setup::with_area(9, 64 * FRAME_SIZE);
    setup.dma.set_reserve(area(&setup), u64::from(16 * FRAME_SIZE));
    let cache = setup.dma.borrower::<Discardable>(area(&setup), "cache", 48, LoanPriority::Low).unwrap();
    let loan = cache.borrow(48).unwrap();
    for page in 0..48 {
        cache.with(loan, page, |bytes| bytes.fill(1)).unwrap();
    }
    idle(&setup);
    let buffer = setup.dma.alloc(&setup.master("device"), 8 * FRAME_SIZE, 1).unwrap();
    idle(&setup);
    assert_eq!((cache.stats().discarded, setup.dma.lent(area(&setup)).unlent), (8, 16));
    drop(buffer);

    let setup = Setup::with_area(9, 64 * FRAME_SIZE);
    setup.dma.set_reserve(area(&setup), u64::from(16 * FRAME_SIZE));
    let store = setup.dma.borrower::<Movable>(area(&setup), "store", 48, LoanPriority::Low).unwrap();
    store.borrow(48).unwrap();
    let buffer = setup.dma.alloc(&setup.master("device"), 8 * FRAME_SIZE, 1).unwrap();
    idle(&setup);
    assert_eq!((store.stats().moved, setup.dma.lent(area(&setup)).unlent), (0, 8));
    drop(buffer);
}

/// The example of docs/src/loans.md, "A recall, step by step".
#[test]
fn the_worked_example_of_a_recall_is_right() {
    let setup = Setup::with_area(1, 8 * FRAME_SIZE);
    let area = setup.dma.area("test").unwrap();
    let first = carveout::setup::CARVED.raw() / FRAME_SIZE;
    let store = setup.dma.borrower::<Movable>(area, "store", 2, LoanPriority::Low).unwrap();
    let cache = setup.dma.borrower::<Discardable>(area, "cache", 4, LoanPriority::Low).unwrap();
    let m1 = store.borrow(1).unwrap();
    let held = setup.dma.alloc(&setup.master("gpu"), FRAME_SIZE, 1).unwrap();
    assert_eq!(held.frames().start(), first + 1);
    let (d1_to_d3, m2, d4) = (cache.borrow(3).unwrap(), store.borrow(1).unwrap(), cache.borrow(1).unwrap());
    store.write(m2, 0, 0, b"m2").unwrap();
    let lent = |n| setup.dma.place_of_frame(Frame::from_number(first + n).unwrap());
    let names = [0, 2, 3, 4, 5, 6].map(|n| match lent(n) {
        Some(FaultPlace::Lent(_, name)) => name,
        other => panic!("{other:?}"),
    });
    assert_eq!(names, ["store", "cache", "cache", "cache", "store", "cache"]);

    let window = setup.dma.alloc(&setup.master("camera"), 4 * FRAME_SIZE, 4 * FRAME_SIZE).unwrap();
    assert_eq!((window.frames().start(), window.frames().count()), (first + 4, 4));
    let mut bytes = [0; 2];
    let forgotten = |page| Err(LoanError::Recalled { page });
    assert_eq!([0, 1, 2].map(|page| cache.read(d1_to_d3, page, 0, &mut [])), [Ok(()), Ok(()), forgotten(2)]);
    assert_eq!(cache.read(d4, 0, 0, &mut bytes), forgotten(0));
    store.read(m2, 0, 0, &mut bytes).unwrap();
    assert_eq!((&bytes, store.left(m1), store.stats().in_refuge), (b"m2", Ok(1), 1));
}

#[test]
fn an_area_of_another_machine_lends_nothing() {
    let (a, b) = (Setup::new(23), Setup::new(24));
    let theirs = a.dma.area("test").unwrap();
    let borrower = b.dma.borrower::<Discardable>(theirs, "cache", 4, LoanPriority::Low);
    assert_eq!(borrower.map(drop).unwrap_err(), LendError::NoArea);
    assert_eq!(b.dma.lent(theirs), LentFrames::default());
}
