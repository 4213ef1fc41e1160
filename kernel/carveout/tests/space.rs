//! `Region` against a naive map of pages, with the words the walker reads as the judge. The fake beneath refuses what
//! a TLB or a walk cache could make wrong.

use carveout::addr::{FrameRange, PhysAddr, VirtAddr};
use carveout::fake::{Fake, Op};
use carveout::machine::Mmu;
use carveout::vm::attr::{Access, MemoryType, Shareability};
use carveout::vm::desc::{L1_ENTRIES, L1Desc, L1Entry, L2_ENTRIES, L2Desc, L2Entry, L2Table, Leaf};
use carveout::vm::mapped::Mapped;
use carveout::vm::range::VirtRange;
use carveout::vm::space::{MapError, OnDemand, OneEach, Region};
use carveout::vm::tables::{Roots, Window};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use Access::ReadWrite;
use MemoryType::{NonCacheable, WriteBack};

const RAM: PhysAddr = PhysAddr::new(0x6000_0000);
const RAM_BYTES: u32 = 16 << 20;
const L1: PhysAddr = PhysAddr::new(0x6000_4000);
const L2: PhysAddr = PhysAddr::new(0x6001_0000);
/// The root in force, and two of other processes.
const ROOTS: [PhysAddr; 3] = [L1, PhysAddr::new(0x6000_8000), PhysAddr::new(0x6002_0000)];
const SHARE: Shareability = Shareability::Shareable;
const SECTIONS: u32 = 4;
const PAGES: u32 = SECTIONS * 256;
/// The first frame tests map: the second MiB of RAM.
const FIRST: u32 = 0x60100;

/// A region of either kind.
enum Made {
    OneEach(Region<'static, OneEach>),
    OnDemand(Region<'static, OnDemand<'static>>),
}

struct Bench {
    fake: Fake,
    region: Made,
}

impl Made {
    fn range(&self) -> VirtRange {
        match self {
            Self::OneEach(region) => region.range(),
            Self::OnDemand(region) => region.range(),
        }
    }

    fn unmap(&mut self, fake: &Fake, mapped: Mapped) -> FrameRange {
        match self {
            Self::OneEach(region) => region.unmap(fake, mapped),
            Self::OnDemand(region) => region.unmap(fake, mapped),
        }
    }

    fn map(
        &mut self,
        fake: &Fake,
        va: VirtAddr,
        frames: FrameRange,
        as_what: (MemoryType, Access),
    ) -> Result<Mapped, MapError> {
        let (memory, access) = as_what;
        match self {
            // SAFETY: the fake judges I1.
            Self::OneEach(region) => unsafe { region.map(fake, va, frames, memory, access) },
            // SAFETY: the fake judges I1.
            Self::OnDemand(region) => unsafe { region.map(fake, va, frames, memory, access) },
        }
    }
}

fn l1_at(range: VirtRange) -> PhysAddr {
    PhysAddr::new(L1.raw() + 4 * (range.start().raw() >> 20))
}

fn storage(sections: u32, tables: u32) -> (&'static mut [L1Desc], &'static mut [L2Table]) {
    let l1 = vec![L1Desc::FAULT; sections as usize].leak();
    // As a boot loader leaves memory: not cleared.
    let junk = L2Desc::from_raw(0xdead_beef);
    (l1, vec![[junk; L2_ENTRIES]; tables as usize].leak())
}

/// A window, whose tables are as a boot loader leaves memory: not cleared.
fn window(fake: &Fake, range: VirtRange, roots: Roots<'static>, tables: PhysAddr) -> Window<'static> {
    let junk = vec![0xdead_beef; range.sections() as usize * L2_ENTRIES];
    fake.publish(tables, &junk);
    // SAFETY: the fake judges I1; nothing else uses these tables.
    unsafe { Window::assume(range, roots, tables) }
}

impl Bench {
    fn one_each(seed: u64, roots: Roots<'static>) -> Self {
        let (fake, range) = (Fake::new(RAM, RAM_BYTES, L1, seed), VirtRange::new(0xc000_0000, SECTIONS));
        let region = Region::one_each(&fake, &window(&fake, range, roots, L2)).unwrap();
        Self { fake, region: Made::OneEach(region) }
    }

    fn on_demand(seed: u64, tables: u32) -> Self {
        let (fake, range) = (Fake::new(RAM, RAM_BYTES, L1, seed), VirtRange::new(0xf000_0000, SECTIONS));
        let (l1, l2) = storage(SECTIONS, tables);
        // SAFETY: the fake judges I1; nothing else uses these tables.
        let region = unsafe { Region::on_demand(range, SHARE, l1, l1_at(range), l2, L2) };
        Self { fake, region: Made::OnDemand(region) }
    }

    fn page(&self, n: u32) -> VirtAddr {
        VirtAddr::new(self.region.range().start().raw() + (n << 12))
    }

    fn map(&mut self, va: VirtAddr, frames: FrameRange) -> Result<Mapped, MapError> {
        self.region.map(&self.fake, va, frames, (WriteBack, ReadWrite))
    }

    /// What the walker reads of page `n`: the leaf, and the page's frame.
    fn walk(&self, n: u32) -> Option<(Leaf, u32)> {
        let va = self.page(n).raw();
        let word = |at| self.fake.table_word(PhysAddr::new(at)).unwrap();
        let leaf = match L1Desc::from_raw(word(L1.raw() + 4 * (va >> 20))).decode() {
            L1Entry::Fault => return None,
            L1Entry::Section(leaf) => leaf,
            L1Entry::Table(table) => match L2Desc::from_raw(word(table.raw() + 4 * ((va >> 12) & 0xff))).decode() {
                L2Entry::Fault => return None,
                L2Entry::Page(leaf) => leaf,
                L2Entry::Foreign(word) => panic!("{word:#010x}"),
            },
            L1Entry::Foreign(word) => panic!("{word:#010x}"),
        };
        Some((leaf, (leaf.base.raw() + va % leaf.size) >> 12))
    }

    fn l1_word(&self, section: u32) -> L1Entry {
        let at = l1_at(self.region.range()).raw() + 4 * section;
        L1Desc::from_raw(self.fake.table_word(PhysAddr::new(at)).unwrap()).decode()
    }
}

fn frames(start: u32, count: u32) -> FrameRange {
    FrameRange::new(FIRST + start, count).unwrap()
}

/// A mapping as asked for: pages of the region, frames, type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wanted {
    page: u32,
    frame: u32,
    count: u32,
    memory: MemoryType,
    access: Access,
}

impl Wanted {
    /// Bytes of the descriptor that must translate page `n`: the largest whose aligned block lies in the mapping.
    fn size_at(&self, n: u32, has_section: bool) -> u32 {
        let fits = |pages: u32| {
            let block = n - n % pages;
            let congruent = self.frame % pages == self.page % pages;
            congruent && block >= self.page && block + pages <= self.page + self.count
        };
        match (fits(256) && has_section, fits(16)) {
            (true, _) => 1 << 20,
            (false, true) => 64 << 10,
            (false, false) => 4096,
        }
    }
}

/// The naive model: each page of the region by itself.
#[derive(Default)]
struct Model {
    pages: BTreeMap<u32, Wanted>,
    /// Sections with a second-level table, and how many a region on demand has; `None` if there is one for each.
    tables: BTreeSet<u32>,
    limit: Option<u32>,
    /// Whether first-level entries may change.
    no_sections: bool,
}

impl Model {
    fn has_section(&self, n: u32) -> bool {
        !self.no_sections && (self.limit.is_none() || !self.tables.contains(&(n / 256)))
    }

    fn refusal(&self, b: &Bench, w: Wanted) -> Option<MapError> {
        let run = w.page..w.page + w.count;
        if w.count == 0 {
            return Some(MapError::Empty);
        }
        if run.end > PAGES {
            return Some(MapError::OutsideRegion {
                va: b.page(w.page),
                frames: FrameRange::new(w.frame, w.count).unwrap(),
            });
        }
        if let Some(n) = run.clone().find(|n| self.pages.contains_key(n)) {
            return Some(MapError::Occupied { va: b.page(n) });
        }
        let limit = self.limit?;
        let needs: BTreeMap<u32, u32> = self.needs(w).into_iter().rev().collect();
        let lacking = needs.into_iter().nth((limit as usize).saturating_sub(self.tables.len()));
        lacking.map(|(_, n)| MapError::NoTable { va: b.page(n), tables: limit })
    }

    /// Sections that need a table for this, each with the first page that does.
    fn needs(&self, w: Wanted) -> Vec<(u32, u32)> {
        let run = w.page..w.page + w.count;
        run.filter(|&n| w.size_at(n, self.has_section(n)) != 1 << 20 && !self.tables.contains(&(n / 256)))
            .map(|n| (n / 256, n))
            .collect()
    }

    fn insert(&mut self, w: Wanted) {
        if self.limit.is_some() {
            self.tables.extend(self.needs(w).into_iter().map(|(section, _)| section));
        }
        self.pages.extend((w.page..w.page + w.count).map(|n| (n, w)));
    }

    fn check(&self, b: &Bench) -> Result<(), TestCaseError> {
        for n in 0..PAGES {
            let expected = self.pages.get(&n).map(|w| {
                let (size, frame) = (w.size_at(n, self.has_section(n)), w.frame + n - w.page);
                let shareability = if w.memory == MemoryType::Device { Shareability::NonShareable } else { SHARE };
                let base = PhysAddr::new((frame << 12) & !(size - 1));
                (Leaf { base, size, memory: w.memory, access: w.access, shareability }, frame)
            });
            prop_assert_eq!(b.walk(n), expected, "page {}", n);
        }
        for section in 0..SECTIONS {
            let unmapped = (section * 256..section * 256 + 256).all(|n| !self.pages.contains_key(&n));
            if self.limit.is_none() && unmapped {
                let table = PhysAddr::new(L2.raw() + section * 1024);
                prop_assert_eq!(b.l1_word(section), L1Entry::Table(table), "section {}", section);
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Map(Wanted),
    /// By number among those that stand.
    Unmap(usize),
}

/// Sizes and places that make sections, large and small pages, edges and overlaps likely.
fn step() -> impl Strategy<Value = Step> {
    let place = |pages: u32| {
        let aligned = move |unit: u32| (0..pages / unit).prop_map(move |n| n * unit);
        prop_oneof![3 => aligned(256), 3 => aligned(16), 2 => 0..pages]
    };
    let count = prop_oneof![1 => Just(0u32), 4 => 1..40u32, 2 => Just(16u32), 2 => Just(256u32), 3 => 200..900u32];
    let memory = prop_oneof![Just(WriteBack), Just(NonCacheable), Just(MemoryType::Device)];
    let access = prop_oneof![Just(Access::Read), Just(ReadWrite), Just(Access::ReadExecute)];
    let map = (place(PAGES), place(1024), count, memory, access).prop_map(|(page, frame, count, memory, access)| {
        Step::Map(Wanted { page, frame: FIRST + frame, count, memory, access })
    });
    prop_oneof![3 => map, 2 => any::<usize>().prop_map(Step::Unmap)]
}

fn follow(mut b: Bench, mut model: Model, steps: Vec<Step>) -> Result<Bench, TestCaseError> {
    let mut standing: Vec<(Mapped, Wanted)> = Vec::new();
    model.check(&b)?;
    for step in steps {
        match step {
            Step::Map(w) => {
                let run = FrameRange::new(w.frame, w.count).unwrap();
                if standing.iter().any(|(mapped, _)| mapped.frames().overlaps(run)) {
                    // The ledger's business: a region does not know of frames.
                    continue;
                }
                let expected = model.refusal(&b, w);
                b.fake.take_log();
                match b.region.map(&b.fake, b.page(w.page), run, (w.memory, w.access)) {
                    Ok(mapped) => {
                        prop_assert_eq!(None, expected);
                        prop_assert_eq!((mapped.va(), mapped.frames()), (b.page(w.page), run));
                        prop_assert_eq!((mapped.bytes(), mapped.memory()), (w.count << 12, w.memory));
                        model.insert(w);
                        standing.push((mapped, w));
                    }
                    Err(error) => {
                        prop_assert_eq!(Some(error), expected);
                        prop_assert!(b.fake.take_log().is_empty(), "a refusal writes nothing");
                    }
                }
            }
            Step::Unmap(_) if standing.is_empty() => {}
            Step::Unmap(n) => {
                let (mapped, w) = standing.swap_remove(n % standing.len());
                b.fake.take_log();
                prop_assert_eq!(b.region.unmap(&b.fake, mapped), FrameRange::new(w.frame, w.count).unwrap());
                prop_assert_eq!(b.fake.take_log().pop(), Some(Op::InvalidateTlb), "the last thing done");
                (w.page..w.page + w.count).for_each(|n| assert!(model.pages.remove(&n).is_some()));
            }
        }
        model.check(&b)?;
        // A walk cache that may hold an old table pointer makes this panic.
        for (mapped, w) in standing.iter().filter(|(_, w)| w.memory == WriteBack) {
            for n in (0..w.count).step_by(256) {
                b.fake.reach(VirtAddr::new(mapped.va().raw() + (n << 12)), 1);
            }
        }
    }
    Ok(b)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With a table for each section no mapping ever lacks one, and the tables come back when a section goes.
    #[test]
    fn one_each_is_a_map_of_pages(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..24)) {
        follow(Bench::one_each(seed, Roots::One), Model::default(), steps)?;
    }

    /// With several roots no first-level word changes after the region is made, so a copy of a root needs no word
    /// later.
    #[test]
    fn several_roots_keep_their_words(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..24)) {
        let b = Bench::one_each(seed, Roots::Each(&ROOTS));
        let words = |b: &Bench| {
            let at = |root: PhysAddr, n: u32| PhysAddr::new(root.raw() + 4 * n);
            let all = |root| (0..L1_ENTRIES as u32).map(move |n| at(root, n));
            ROOTS.into_iter().flat_map(all).map(|at| b.fake.table_word(at)).collect::<Vec<_>>()
        };
        let before = words(&b);
        let pointers = before.iter().filter(|&&word| word != Some(0)).count();
        prop_assert_eq!(pointers, SECTIONS as usize * ROOTS.len());
        let b = follow(b, Model { no_sections: true, ..Model::default() }, steps)?;
        prop_assert!(words(&b) == before, "a first-level word changed");
    }

    #[test]
    fn on_demand_is_a_map_of_pages(
        seed in any::<u64>(),
        tables in 0u32..5,
        steps in prop::collection::vec(step(), 1..24),
    ) {
        follow(Bench::on_demand(seed, tables), Model { limit: Some(tables), ..Model::default() }, steps)?;
    }
}

#[test]
fn a_section_stands_in_for_its_table_and_gives_it_back() {
    let mut b = Bench::one_each(1, Roots::One);
    let small = b.map(b.page(3), frames(3, 1)).unwrap();
    b.region.unmap(&b.fake, small);
    let mapped = b.map(b.page(0), frames(0, 256)).unwrap();
    assert!(matches!(b.l1_word(0), L1Entry::Section(_)));
    b.fake.reach(b.page(0), 1);
    b.region.unmap(&b.fake, mapped);
    assert_eq!(b.l1_word(0), L1Entry::Table(L2));
    let again = b.map(b.page(5), frames(3, 1)).unwrap();
    assert_eq!(b.walk(5).map(|(_, frame)| frame), Some(FIRST + 3));
    b.region.unmap(&b.fake, again);
}

#[test]
fn i6_fault_to_valid_costs_no_tlb_invalidate() {
    let mut b = Bench::one_each(2, Roots::One);
    b.fake.take_log();
    b.map(b.page(1), frames(1, 40)).unwrap();
    assert!(!b.fake.take_log().contains(&Op::InvalidateTlb), "pages: fault to valid (I3)");
    b.map(b.page(256), frames(256, 256)).unwrap();
    let replaced = b.fake.take_log().iter().filter(|&&op| op == Op::InvalidateTlb).count();
    assert_eq!(replaced, 1, "a section replaces a table pointer, which a walk cache may hold");
}

#[test]
fn refusals_are_one_clear_line_each() {
    let mut b = Bench::on_demand(3, 1);
    let mut refused = |va: u32, run: FrameRange, line: &str| {
        b.fake.take_log();
        let error = b.map(VirtAddr::new(va), run).unwrap_err();
        assert_eq!(error.to_string(), line);
        assert!(b.fake.take_log().is_empty());
        error
    };
    let (va, mib) = (VirtAddr::new, 256);
    assert_eq!(refused(0xf000_0000, FrameRange::EMPTY, "cannot map: no frames"), MapError::Empty);
    assert_eq!(
        refused(0xf000_0800, frames(0, 1), "cannot map at 0xf0000800: not a multiple of 4 KiB"),
        MapError::Misaligned { va: va(0xf000_0800) }
    );
    for (at, run, line) in [
        (0xf03f_f000, frames(0, 2), "cannot map 0x60100000-0x60102000 (8 KiB) at 0xf03ff000: outside the region"),
        (0xefff_f000, frames(0, 2), "cannot map 0x60100000-0x60102000 (8 KiB) at 0xeffff000: outside the region"),
        (0xf040_0000, frames(0, 1), "cannot map 0x60100000-0x60101000 (4 KiB) at 0xf0400000: outside the region"),
        (0xf000_0000, FrameRange::ALL, "cannot map 0x00000000-0x100000000 (4 GiB) at 0xf0000000: outside the region"),
        (0x0000_0000, frames(0, 1), "cannot map 0x60100000-0x60101000 (4 KiB) at 0x00000000: outside the region"),
    ] {
        assert_eq!(refused(at, run, line), MapError::OutsideRegion { va: va(at), frames: run });
    }
    // One table: the second section that needs one is refused, in the middle of a run too, and the first got none.
    let line = "cannot map at 0xf0100000: all 1 second-level tables of the region are in use; unmap something, or give \
                it more";
    let no_table = MapError::NoTable { va: va(0xf010_0000), tables: 1 };
    assert_eq!(refused(0xf00f_f000, frames(0, 2), line), no_table);
    assert_eq!(b.l1_word(0), L1Entry::Fault);
    b.map(va(0xf000_2000), frames(2, 2)).unwrap();
    let mut refused = |at: u32, run: FrameRange| b.map(va(at), run).unwrap_err();
    assert_eq!(refused(0xf010_0000, frames(9, 1)), no_table);
    let occupied = refused(0xf000_0000, frames(8, 3));
    assert_eq!(occupied, MapError::Occupied { va: va(0xf000_2000) });
    assert_eq!(occupied.to_string(), "cannot map at 0xf0002000: already mapped; unmap it first");
    // A section needs none.
    b.map(va(0xf010_0000), frames(mib, mib)).unwrap();
}

#[test]
fn entries_of_others_are_left_alone() {
    let (fake, range) = (Fake::new(RAM, RAM_BYTES, L1, 4), VirtRange::new(0xf000_0000, 3));
    let (l1, l2) = storage(3, 2);
    // The head's: a section, and a table that is not the region's.
    let foreign = PhysAddr::new(L2.raw() + 0x8000);
    l1[0] = L1Desc::section(PhysAddr::new(0x6030_0000), WriteBack, ReadWrite, SHARE);
    l1[1] = L1Desc::table(foreign);
    fake.publish(l1_at(range), &[l1[0].raw(), l1[1].raw()]);
    // SAFETY: the fake judges I1; nothing else uses these tables.
    let mut region = unsafe { Region::on_demand(range, SHARE, l1, l1_at(range), l2, L2) };
    for at in [0xf000_5000, 0xf010_5000] {
        let at = VirtAddr::new(at);
        // SAFETY: the fake judges I1.
        let refused = unsafe { region.map(&fake, at, frames(0, 1), WriteBack, ReadWrite) };
        assert_eq!(refused, Err(MapError::Occupied { va: at }));
    }
    // SAFETY: the fake judges I1.
    unsafe { region.map(&fake, VirtAddr::new(0xf020_0000), frames(0, 1), WriteBack, ReadWrite) }.unwrap();
    let word = |n: u32| fake.table_word(PhysAddr::new(l1_at(range).raw() + 4 * n)).unwrap();
    assert_eq!(L1Desc::from_raw(word(1)).decode(), L1Entry::Table(foreign));
    assert_eq!(L1Desc::from_raw(word(2)).decode(), L1Entry::Table(L2));
    assert!((range.start().raw() >> 20) + 2 < L1_ENTRIES as u32);
}

#[test]
fn i3_only_the_region_that_made_a_mapping_ends_it() {
    let (mut a, mut b) = (Bench::one_each(5, Roots::One), Bench::one_each(6, Roots::One));
    let va = a.page(0);
    let (theirs, mine) = (a.map(va, frames(0, 1)).unwrap(), b.map(va, frames(7, 1)).unwrap());
    b.fake.take_log();
    let refused = catch_unwind(AssertUnwindSafe(|| b.region.unmap(&b.fake, theirs)));
    assert!(refused.is_err(), "a mapping of another region at the same addresses");
    assert_eq!(b.fake.take_log(), [], "nothing is written before the refusal");
    assert_eq!((a.walk(0).map(|at| at.1), b.walk(0).map(|at| at.1)), (Some(FIRST), Some(FIRST + 7)));
    assert_eq!(b.region.unmap(&b.fake, mine), frames(7, 1));
    // Nor does one beside it, on the same machine.
    let (first, second) = (VirtRange::new(0xc000_0000, 1), VirtRange::new(0xc010_0000, 1));
    let fake = Fake::new(RAM, RAM_BYTES, L1, 7);
    let region = |range: VirtRange, tables: u32| {
        let tables = PhysAddr::new(L2.raw() + tables);
        Region::one_each(&fake, &window(&fake, range, Roots::One, tables)).unwrap()
    };
    let (mut low, mut high) = (region(first, 0), region(second, 0x400));
    // SAFETY: the fake judges I1.
    let mapped = unsafe { low.map(&fake, first.start(), frames(0, 1), WriteBack, ReadWrite) }.unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| high.unmap(&fake, mapped))).is_err(), "a mapping beside the region");
}
