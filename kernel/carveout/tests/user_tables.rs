//! `UserTables` against a naive map of pages, with the words that the walker reads as the judge (I1, I3). The fake
//! beneath refuses what a TLB, of any address space, could make wrong.

use carveout::addr::{FRAME_SIZE, Frame, FrameRange, PhysAddr, VirtAddr};
use carveout::fake::{Fake, Op};
use carveout::vm::attr::{Access, MemoryType};
use carveout::vm::mapped::Mapped;
use carveout::vm::user::{Asid, UserAccess, UserSpace};
use carveout::vm::user_tables::UserTables;
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

use UserAccess::{Read, ReadWrite};

const RAM: PhysAddr = PhysAddr::new(0x6000_0000);
const L1: PhysAddr = PhysAddr::new(0x6000_4000);
/// The tables of the first process, and of another one.
const TABLES: [u64; 2] = [0x6001_0000, 0x6001_8000];
/// The first frame that tests map.
const FIRST: u32 = 0x60100;

fn asid(number: u8) -> Asid {
    Asid::new(number).unwrap()
}

fn machine(seed: u64) -> &'static Fake {
    Box::leak(Box::new(Fake::new(RAM, 16 << 20, L1, seed)))
}

/// The address space of a process that some core runs, with so many frames of memory.
fn space(fake: &'static Fake, process: usize, number: u8, frames: u32) -> UserTables<Fake> {
    let memory = FrameRange::within(TABLES[process], (frames * FRAME_SIZE).into());
    // SAFETY: nothing else uses the memory; the fake judges the numbers; it stays on this thread.
    let space = unsafe { UserTables::new(fake, asid(number), memory) }.unwrap();
    fake.begin_user(space.root());
    space
}

/// What the kernel would have mapped: frames, counted from the first that tests map.
fn buffer(first: u32, count: u32, memory: MemoryType) -> Mapped {
    let frames = FrameRange::new(FIRST + first, count).unwrap();
    // SAFETY: no operation on lines uses it; the fake judges I1.
    unsafe { Mapped::assume(VirtAddr::new(0xc000_0000), frames, memory) }
}

fn page(va: VirtAddr, n: u32) -> VirtAddr {
    VirtAddr::new(va.raw() + n * FRAME_SIZE)
}

/// The message of a panic.
fn refusal<R>(work: impl FnOnce() -> R) -> String {
    let payload = catch_unwind(AssertUnwindSafe(work)).err().expect("no refusal");
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Reserve(u32),
    Release(usize),
    /// Of a reservation: from which of its pages on, how many, and from which frame on.
    Map(usize, u32, u32, u32, bool),
    Unmap(usize, u32, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..300u32).prop_map(Step::Reserve),
        (0..8usize).prop_map(Step::Release),
        (0..8usize, 0..300u32, 1..60u32, 0..64u32, any::<bool>())
            .prop_map(|(at, from, pages, frame, write)| Step::Map(at, from, pages, frame, write)),
        (0..8usize, 0..300u32, 1..60u32).prop_map(|(at, from, pages)| Step::Unmap(at, from, pages)),
    ];
    prop::collection::vec(step, 1..40)
}

/// A reservation, and what each page of it must be: a frame and a right.
struct Reserved {
    va: VirtAddr,
    pages: Vec<Option<(u32, UserAccess)>>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_process_finds_what_was_mapped_and_nothing_else(seed: u64, steps in steps()) {
        let fake = machine(seed);
        let space = space(fake, 0, 3, 4);
        let mut all: Vec<Reserved> = Vec::new();
        for step in steps {
            match step {
                Step::Reserve(pages) => {
                    if let Some(va) = space.reserve(pages) {
                        // No neighbour touches it, and no null pointer is in it.
                        prop_assert!(va.raw() >= 1 << 20);
                        for other in &all {
                            let (start, end) = (va.raw(), page(va, pages).raw());
                            let (from, to) = (other.va.raw(), page(other.va, other.pages.len() as u32).raw());
                            prop_assert!(end < from || to < start, "{va} of {pages} pages, {} is there", other.va);
                        }
                        all.push(Reserved { va, pages: vec![None; pages as usize] });
                    } else {
                        // All eight tables are free.
                        prop_assert!(!all.is_empty(), "{pages} pages refused");
                    }
                }
                Step::Release(at) if at < all.len() => {
                    let gone = all.swap_remove(at);
                    space.unmap(gone.va, gone.pages.len() as u32);
                    space.release(gone.va, gone.pages.len() as u32);
                }
                Step::Map(at, from, pages, frame, write) if at < all.len() => {
                    let one = &mut all[at];
                    let free = one.pages.iter().skip(from as usize).take_while(|page| page.is_none()).count() as u32;
                    let pages = pages.min(free);
                    if pages > 0 {
                        let access = if write { ReadWrite } else { Read };
                        let buffer = buffer(frame, pages + 2, MemoryType::WriteBack);
                        let part = buffer.part(FRAME_SIZE, (pages + 1) * FRAME_SIZE).unwrap();
                        space.map(page(one.va, from), part, access);
                        for n in 0..pages {
                            one.pages[(from + n) as usize] = Some((FIRST + frame + 1 + n, access));
                        }
                    }
                }
                Step::Unmap(at, from, pages) if at < all.len() => {
                    let one = &mut all[at];
                    let pages = pages.min((one.pages.len() as u32).saturating_sub(from));
                    if pages > 0 {
                        space.unmap(page(one.va, from), pages);
                        one.pages[from as usize..(from + pages) as usize].fill(None);
                    }
                }
                _ => {}
            }
            for one in &all {
                for beside in [VirtAddr::new(one.va.raw() - FRAME_SIZE), page(one.va, one.pages.len() as u32)] {
                    prop_assert_eq!(fake.user_page(asid(3), beside), None);
                }
                for (n, &must) in one.pages.iter().enumerate() {
                    let va = page(one.va, n as u32);
                    let found = fake.user_page(asid(3), va);
                    let access = found.map(|leaf| if leaf.access == Access::Read { Read } else { ReadWrite });
                    let frame = found.map(|leaf| Frame::containing(leaf.base).number());
                    prop_assert_eq!(frame.zip(access), must, "{}", va);
                    let told = space.translate(va).map(|(at, leaf)| (at, leaf.access));
                    let must = must.map(|(frame, access)| (PhysAddr::new(frame << 12), Some(access)));
                    prop_assert_eq!(told, must, "{}", va);
                }
            }
        }
        fake.end_user(asid(3));
    }
}

/// A process writes what another one reads, at different addresses and with different rights.
#[test]
fn two_processes_have_one_frame() {
    let fake = machine(1);
    let (one, other) = (space(fake, 0, 1, 3), space(fake, 1, 2, 3));
    let buffer = buffer(0, 2, MemoryType::WriteBack);
    let (here, there) = (one.reserve(2).unwrap(), other.reserve(40).unwrap());
    one.map(here, buffer.all(), ReadWrite);
    other.map(page(there, 7), buffer.part(FRAME_SIZE, 2 * FRAME_SIZE).unwrap(), Read);
    let to = fake.reach_user(asid(1), page(here, 1), 1, ReadWrite);
    // SAFETY: valid for writes until the page is unmapped.
    unsafe { to.write(0xca) };
    let from = fake.reach_user(asid(2), page(there, 7), 1, Read);
    // SAFETY: valid for reads until the page is unmapped.
    assert_eq!(unsafe { from.read() }, 0xca);
    let refused = refusal(|| fake.reach_user(asid(2), page(there, 7), 4, ReadWrite));
    assert_eq!(refused, "fault: ASID 2 has no rw- at 0x00107000");
    refusal(|| fake.reach_user(asid(2), page(there, 6), 4, Read));
    // One goes, and the other stays.
    drop(one);
    fake.end_user(asid(1));
    assert_eq!(fake.user_page(asid(1), here), None);
    assert!(fake.user_page(asid(2), page(there, 7)).is_some());
}

/// I1: a second attribute of a frame is refused by the fake, whatever address space has it.
#[test]
fn a_second_attribute_is_found() {
    let fake = machine(2);
    let (one, other) = (space(fake, 0, 1, 3), space(fake, 1, 2, 3));
    let (here, there) = (one.reserve(1).unwrap(), other.reserve(1).unwrap());
    one.map(here, buffer(0, 1, MemoryType::NonCacheable).all(), Read);
    let refused = refusal(|| other.map(there, buffer(0, 1, MemoryType::WriteBack).all(), Read));
    assert!(refused.starts_with("I1: frame 0x60100 mapped"), "{refused}");
}

/// I3: the frame may not have another translation while a TLB may hold the old one.
#[test]
fn an_unmap_without_the_invalidate_is_found() {
    let fake = machine(3);
    let space = space(fake, 0, 1, 3);
    let va = space.reserve(4).unwrap();
    let buffer = buffer(0, 4, MemoryType::WriteBack);
    space.map(va, buffer.all(), Read);
    fake.take_log();
    // After the publish comes the invalidate.
    fake.leave_out(1);
    space.unmap(va, 4);
    assert_eq!(fake.take_log(), [Op::Publish, Op::InvalidateTlb]);
    let refused = refusal(|| space.map(va, buffer.all(), Read));
    assert!(refused.starts_with("I3: page 0x100100 mapped"), "{refused}");
}

/// I3: a number goes to another process when every core forgot the first one.
#[test]
fn a_number_that_is_used_again_too_early_is_found() {
    let fake = machine(4);
    for left_out in [false, true] {
        let space = space(fake, 0, 7, 3);
        let va = space.reserve(1).unwrap();
        space.map(va, buffer(0, 1, MemoryType::WriteBack).all(), Read);
        fake.take_log();
        if left_out {
            fake.leave_out(1);
        }
        drop(space);
        assert_eq!(fake.take_log(), [Op::Publish, Op::InvalidateTlb]);
        fake.end_user(asid(7));
    }
    let refused = refusal(|| space(fake, 1, 7, 3));
    assert_eq!(refused, "I3: ASID 7 is given to a process while a TLB may hold translations of another one");
}

#[test]
fn tables_are_given_back() {
    let fake = machine(5);
    let space = space(fake, 0, 1, 3);
    for _ in 0..10 {
        // Four tables: a MiB each.
        let all: Vec<_> = std::iter::from_fn(|| space.reserve(255)).take(10).collect();
        assert_eq!(all.len(), 4);
        assert_eq!(space.reserve(1024), None);
        for va in all {
            space.release(va, 255);
        }
    }
    assert_eq!((space.reserve(0), space.reserve(u32::MAX)), (None, None));
}

#[test]
fn memory_of_its_own_is_where_it_was_asked_for() {
    let fake = machine(6);
    let space = space(fake, 0, 1, 3);
    let (code, data) = (FrameRange::new(FIRST, 2).unwrap(), FrameRange::new(FIRST + 2, 1).unwrap());
    let at = VirtAddr::new(0x0010_0000);
    // SAFETY: nothing else has the frames.
    assert!(unsafe { space.map_own(at, code, None) });
    // SAFETY: it is refused.
    assert!(!unsafe { space.map_own(page(at, 1), data, Some(ReadWrite)) }, "the second page is in use");
    // SAFETY: it is refused.
    assert!(!unsafe { space.map_own(VirtAddr::new(0x000f_f000), data, Some(ReadWrite)) }, "in the first MiB");
    // SAFETY: nothing else has the frame.
    assert!(unsafe { space.map_own(page(at, 2), data, Some(ReadWrite)) });
    assert_eq!(fake.user_page(asid(1), page(at, 1)).unwrap().access, Access::ReadExecute);
    assert_eq!(space.translate(VirtAddr::new(0x0010_1234)).unwrap().0, PhysAddr::new((FIRST + 1) << 12 | 0x234));
    refusal(|| fake.reach_user(asid(1), at, 4, ReadWrite));
    assert_eq!(space.reserve(1), Some(page(at, 4)), "a free page stands between");
}
