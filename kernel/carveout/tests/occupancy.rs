//! The map of an area against a naive one, frame by frame.

use carveout::addr::{FRAME_SIZE, Frame, FrameRange, PhysAddr};
use carveout::carve_out::CarveOut;
use carveout::dma::{
    AfterFree, AreaId, Borrower, Coherent, Contiguous, Contract, ContractSet, Discardable, FaultPlace, Loan,
    LoanPriority, Movable, Occupant, PlacedSet,
};
use carveout::fake::Fake;
use carveout::setup::{CARVED, Setup};
use carveout::vm::ledger::Carved;
use proptest::prelude::*;

/// The frames of the two ranges of the area. They lie apart, and touch no block of 32 frames together.
const RANGES: [(u32, u32); 2] = [(0, 600), (610, 300)];
/// The frames of each place of the contract.
const SLOT: u32 = 12;

fn ranges() -> [FrameRange; 2] {
    RANGES.map(|(first, count)| FrameRange::new(CARVED.raw() / FRAME_SIZE + first, count).unwrap())
}

/// A buffer, or the loan of one of the borrowers.
enum Had {
    Plain(Contiguous<Fake>),
    Coherent(Coherent<Fake>),
    Forgotten(Loan),
    Moved(Loan),
}

struct World {
    setup: Setup,
    area: AreaId,
    cache: Borrower<Fake, Discardable>,
    store: Borrower<Fake, Movable>,
    contract: Option<Contract<Fake>>,
    places: Vec<PhysAddr>,
    had: Vec<Had>,
}

impl World {
    fn new() -> Self {
        // SAFETY: the fake maps nothing but what its window maps (I2).
        let carved = unsafe { CarveOut::assume("test", &ranges(), true) };
        let setup = Setup::with_carve_out(7, carved);
        setup.dma.set_after_free(AfterFree::KeepMapped);
        let area = setup.dma.area("test").unwrap();
        let cache = setup.dma.borrower(area, "cache", 900, LoanPriority::Low).unwrap();
        let store = setup.dma.borrower(area, "store", 200, LoanPriority::Low).unwrap();
        Self { setup, area, cache, store, contract: None, places: Vec::new(), had: Vec::new() }
    }

    fn step(&mut self, step: Step) {
        let (dma, master) = (self.setup.dma, self.setup.master("camera"));
        match step {
            Step::Plain(frames) => {
                self.had.extend(dma.alloc(&master, frames * FRAME_SIZE, 1).ok().map(Had::Plain));
            }
            Step::Coherent(frames) => {
                self.had.extend(dma.alloc_coherent(&master, frames * FRAME_SIZE, 1).ok().map(Had::Coherent));
            }
            Step::Promised => {
                let contract = self.contract.as_ref();
                let buffer = contract.and_then(|contract| contract.alloc(SLOT * FRAME_SIZE, 1).ok());
                self.had.extend(buffer.map(Had::Plain));
            }
            Step::Contract(at) => {
                self.contract = None;
                let at = [0, 2].map(|more| PhysAddr::new(CARVED.raw() + (at + more * SLOT) * FRAME_SIZE));
                let set = PlacedSet { bytes: SLOT * FRAME_SIZE, align: 1, at: &at };
                self.contract = dma.contract_at(&master, &[set]).ok();
                self.places = at.into_iter().filter(|_| self.contract.is_some()).collect();
            }
            Step::End => self.contract = None,
            Step::Lend(pages, moved) => self.had.extend(if moved {
                self.store.borrow(pages).ok().map(Had::Moved)
            } else {
                self.cache.borrow(pages).ok().map(Had::Forgotten)
            }),
            Step::Free(which) => {
                if !self.had.is_empty() {
                    match self.had.swap_remove(which % self.had.len()) {
                        Had::Plain(buffer) => drop(buffer),
                        Had::Coherent(buffer) => drop(buffer),
                        Had::Forgotten(loan) => self.cache.give_back(loan).unwrap(),
                        Had::Moved(loan) => self.store.give_back(loan).unwrap(),
                    }
                }
            }
        }
    }

    /// Says of one frame what the map must say, by what the test has and by what other reports say.
    fn naive(&self, frame: Frame) -> Occupant {
        let has = |had: &Had| match had {
            Had::Plain(buffer) => buffer.frames().contains(frame),
            Had::Coherent(buffer) => buffer.frames().contains(frame),
            Had::Forgotten(_) | Had::Moved(_) => false,
        };
        if self.had.iter().any(has) {
            return Occupant::Held;
        }
        if matches!(self.setup.dma.place_of_frame(frame), Some(FaultPlace::Lent(..))) {
            return Occupant::Lent;
        }
        let of = |at: &PhysAddr| FrameRange::within(at.raw().into(), (SLOT * FRAME_SIZE).into()).contains(frame);
        if self.contract.is_some() && self.places.iter().any(of) {
            return Occupant::Contract;
        }
        match self.setup.dma.state_of(frame) {
            Some(Carved::Mapped(_)) => Occupant::Warm,
            _ => Occupant::Idle,
        }
    }

    fn look(&self) {
        let mut map = Vec::new();
        self.setup.dma.for_each_run(self.area, |frames, occupant| map.push((frames, occupant)));
        let mut wanted: Vec<(FrameRange, Occupant)> = Vec::new();
        for range in ranges() {
            for frame in range.iter() {
                let occupant = self.naive(frame);
                let number = frame.number();
                match wanted.last_mut() {
                    Some((run, before)) if *before == occupant && number > range.start() => {
                        *run = FrameRange::between(run.start(), number + 1).unwrap();
                    }
                    _ => wanted.push((FrameRange::new(number, 1).unwrap(), occupant)),
                }
            }
        }
        assert_eq!(map, wanted);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Plain(u32),
    Coherent(u32),
    Promised,
    Contract(u32),
    End,
    Lend(u32, bool),
    Free(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..80u32).prop_map(Step::Plain),
        4 => (1..80u32).prop_map(Step::Coherent),
        2 => Just(Step::Promised),
        1 => (0..500u32).prop_map(Step::Contract),
        1 => Just(Step::End),
        2 => (1..300u32, any::<bool>()).prop_map(|(pages, moved)| Step::Lend(pages, moved)),
        5 => any::<usize>().prop_map(Step::Free),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_map_says_of_each_frame_who_has_it(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.look();
        }
    }
}

/// Nothing is lent of such an area, so its idle contract slots are in no index.
#[test]
fn an_area_that_is_not_lendable_has_contracts_too() {
    // SAFETY: as above.
    let carved = unsafe { CarveOut::assume("test", &ranges(), false) };
    let setup = Setup::with_carve_out(7, carved);
    let set = ContractSet { count: 2, bytes: SLOT * FRAME_SIZE, align: 1 };
    let contract = setup.dma.contract(&setup.master("camera"), &[set]).unwrap();
    let buffer = contract.alloc(1, 1).unwrap();
    let count = |wanted| {
        let mut frames = 0;
        setup.dma.for_each_run(setup.dma.area("test").unwrap(), |run, occupant| {
            frames += if occupant == wanted { run.count() } else { 0 };
        });
        frames
    };
    assert_eq!([Occupant::Held, Occupant::Contract, Occupant::Idle].map(count), [SLOT, SLOT, 900 - 2 * SLOT]);
    drop((contract, buffer));
    assert_eq!(count(Occupant::Idle), 900);
}

#[test]
fn the_kernel_has_all_of_an_area_that_was_given_back() {
    let setup = Setup::new(1);
    let area = setup.dma.area("test").unwrap();
    setup.dma.give_back_area(area).unwrap();
    let mut map = Vec::new();
    setup.dma.for_each_run(area, |frames, occupant| map.push((frames.bytes(), occupant)));
    assert_eq!(map, [(4 << 20, Occupant::Kernel)]);
    setup.dma.for_each_run(Setup::new(1).dma.area("test").unwrap(), |_, _| panic!("another `Dma`'s area"));
}
