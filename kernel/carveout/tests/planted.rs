//! Planted bugs: each wrong order of a careless allocator, driven on the fake directly, is caught whatever the seed.
//!
//! The fake judges the DMA API; these tests judge the fake. The careful orders beside the careless ones show that it
//! refuses nothing that is right.

use carveout::addr::{FrameRange, PhysAddr, VirtAddr};
use carveout::fake::{Fake, POISON};
use carveout::machine::{Cache, Mmu, Registers};
use carveout::vm::alias::Aliases;
use carveout::vm::attr::{Access, LeafSize, MemoryType, Shareability};
use carveout::vm::desc::{L1_ENTRIES, L2Desc};
use carveout::vm::ledger::{Cell, Ledger, LedgerError};
use carveout::vm::mapped::Mapped;
use carveout::vm::range::VirtRange;
use carveout::vm::space::{OneEach, Region};
use carveout::vm::tables::{Roots, Window};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use Access::ReadWrite;
use MemoryType::{NonCacheable, WriteBack};
use Shareability::{NonShareable, Shareable};

const RAM: PhysAddr = PhysAddr::new(0x6000_0000);
const RAM_BYTES: u32 = 8 << 20;
const L1: PhysAddr = PhysAddr::new(0x6000_4000);
const L2: PhysAddr = PhysAddr::new(0x6001_0000);
const SECTIONS: u32 = 4;
const WINDOW: VirtRange = VirtRange::new(0xc000_0000, SECTIONS);
const SEEDS: u64 = 20;

/// What the careless code does where a TLB invalidate belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tlb {
    Right,
    Missing,
    TooLarge,
    WrongAddress,
}

/// The fake's MMU in careless hands.
struct Careless {
    fake: Fake,
    tlb: Tlb,
}

// SAFETY: where `tlb` is not `Right` this breaks the trait's contract, which is the point: the fake must notice before
// anything goes wrong, and its pointers are good while it lives.
unsafe impl Mmu for Careless {
    fn publish(&self, at: PhysAddr, words: &[u32]) {
        self.fake.publish(at, words);
    }

    fn invalidate_tlb(&self, va: VirtAddr, bytes: u32, leaf: LeafSize) {
        match self.tlb {
            Tlb::Right => self.fake.invalidate_tlb(va, bytes, leaf),
            Tlb::Missing => {}
            Tlb::TooLarge => self.fake.invalidate_tlb(va, bytes, LeafSize::LargePage),
            Tlb::WrongAddress => self.fake.invalidate_tlb(VirtAddr::new(va.raw() + bytes), bytes, leaf),
        }
    }

    fn invalidate_tlb_all(&self) {
        match self.tlb {
            Tlb::Right => self.fake.invalidate_tlb_all(),
            Tlb::Missing | Tlb::TooLarge | Tlb::WrongAddress => {}
        }
    }

    fn reach(&self, va: VirtAddr, bytes: u32) -> *mut u8 {
        self.fake.reach(va, bytes)
    }

    fn reach_to_overwrite(&self, va: VirtAddr, bytes: u32) -> *mut u8 {
        self.fake.reach_to_overwrite(va, bytes)
    }

    fn registers(&self) -> Registers {
        self.fake.registers()
    }

    fn table(&self, at: PhysAddr, bytes: u32) -> Option<NonNull<u32>> {
        self.fake.table(at, bytes)
    }

    fn table_word(&self, at: PhysAddr) -> Option<u32> {
        self.fake.table_word(at)
    }
}

struct Bench {
    machine: Careless,
    window: Region<'static, OneEach>,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let machine = Careless { fake: Fake::new(RAM, RAM_BYTES, L1, seed), tlb: Tlb::Right };
        // SAFETY: the fake judges I1; nothing else uses these tables.
        let window = Region::one_each(&machine, &unsafe { Window::assume(WINDOW, Roots::One, L2) }).unwrap();
        Self { machine, window }
    }

    fn fake(&self) -> &Fake {
        &self.machine.fake
    }

    fn map(&mut self, va: VirtAddr, frames: FrameRange, memory: MemoryType) -> Mapped {
        // SAFETY: the fake judges I1.
        unsafe { self.window.map(&self.machine, va, frames, memory, ReadWrite) }.unwrap()
    }

    fn unmap(&mut self, mapped: Mapped) {
        self.window.unmap(&self.machine, mapped);
    }

    fn view(&mut self, mapped: &Mapped) -> &mut [u8] {
        let start = self.machine.reach(mapped.va(), mapped.bytes());
        // SAFETY: `reach` gives the CPU's copy of the run that starts there, and a `Mapped` is one run.
        unsafe { core::slice::from_raw_parts_mut(start, mapped.bytes() as usize) }
    }

    fn device_sees(&self, frames: FrameRange) -> Vec<u8> {
        self.fake().device_read(frames.base(), frames.bytes() as usize)
    }
}

/// Address of the first-level entry of the window's section `n`.
fn l1_entry(n: u32) -> PhysAddr {
    assert!(n < SECTIONS && (WINDOW.start().raw() >> 20) + n < L1_ENTRIES as u32);
    PhysAddr::new(L1.raw() + 4 * ((WINDOW.start().raw() >> 20) + n))
}

/// Page `n` of the window.
fn page(n: u32) -> VirtAddr {
    VirtAddr::new(WINDOW.start().raw() + n * 4096)
}

/// `count` frames from the fourth MiB of RAM, where no table stands.
fn frames(count: u32) -> FrameRange {
    FrameRange::new((RAM.raw() >> 12) + 0x400, count).unwrap()
}

/// Runs careless code on every seed: the fake panics each time, with a message that starts like this.
fn caught(expected: &str, careless: impl Fn(&mut Bench)) {
    for seed in 0..SEEDS {
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| careless(&mut Bench::new(seed)))) else {
            panic!("seed {seed}: not caught, expected {expected:?}");
        };
        let said = panic.downcast_ref::<String>().map_or_else(|| "not a formatted message", String::as_str);
        assert!(said.starts_with(expected), "seed {seed}: said {said:?}, expected {expected:?}");
    }
}

#[test]
fn i1_a_write_back_and_a_non_cacheable_mapping() {
    caught("I1: frame 0x60400 mapped", |b| {
        b.map(page(0), frames(1), WriteBack);
        b.map(page(8), frames(1), NonCacheable);
    });
    // The other way round, and hidden in a larger mapping.
    caught("I1: frame 0x60403 mapped", |b| {
        b.map(page(0), FrameRange::new(frames(1).start() + 3, 1).unwrap(), NonCacheable);
        b.map(page(8), frames(5), WriteBack);
    });
}

#[test]
fn i1_the_ledger_refuses_what_the_fake_would_catch() {
    let mut cells = [Cell::default()];
    let mut ledger = Ledger::new([frames(16)].into_iter(), Aliases::default(), &mut cells).unwrap();
    ledger.claim(frames(1), WriteBack).unwrap();
    let frame = frames(1).iter().next().unwrap();
    let refused = LedgerError::Mapped { frames: frames(5), frame, has: WriteBack, wants: NonCacheable };
    assert_eq!(ledger.claim(frames(5), NonCacheable), Err(refused));
}

#[test]
fn i1_two_shareabilities() {
    caught("I1: frame 0x60400 mapped", |b| {
        b.map(page(0), frames(1), WriteBack);
        let word = L2Desc::small(frames(1).base(), WriteBack, ReadWrite, NonShareable).raw();
        b.fake().publish(PhysAddr::new(L2.raw() + 4 * 8), &[word]);
    });
}

#[test]
fn i1_an_alias_in_a_stale_tlb_entry() {
    caught("I1: frame 0x60400 mapped", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.machine.tlb = Tlb::Missing;
        b.unmap(mapped);
        b.map(page(8), frames(1), NonCacheable);
    });
}

#[test]
fn i3_mapped_again_at_an_address_still_in_the_tlb() {
    caught("I3: page 0xc0000 mapped", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.machine.tlb = Tlb::Missing;
        b.unmap(mapped);
        b.map(page(0), FrameRange::new(frames(1).start() + 1, 1).unwrap(), WriteBack);
    });
}

#[test]
fn i3_a_tlb_invalidate_of_the_wrong_address() {
    caught("I1: frame 0x60400 mapped", |b| {
        let mapped = b.map(page(0), frames(4), WriteBack);
        b.machine.tlb = Tlb::WrongAddress;
        b.unmap(mapped);
        b.map(page(8), frames(4), NonCacheable);
    });
    // All pages but the last.
    caught("I1: frame 0x60403 mapped", |b| {
        let mapped = b.map(page(0), frames(4), WriteBack);
        b.machine.tlb = Tlb::Missing;
        b.unmap(mapped);
        b.fake().invalidate_tlb(page(0), 3 * 4096, LeafSize::Page);
        b.map(page(8), frames(4), NonCacheable);
    });
}

/// One address for sixteen small pages, as if a large page had mapped them.
#[test]
fn i3_a_tlb_invalidate_of_too_few_addresses() {
    caught("I1: frame 0x60402 mapped", |b| {
        let ragged = frames(17).split_at(1).expect("17 frames").1;
        let mapped = b.map(page(16), ragged, WriteBack);
        b.machine.tlb = Tlb::TooLarge;
        b.unmap(mapped);
        b.map(page(32), ragged, NonCacheable);
    });
}

#[test]
fn i3_a_translation_changed_in_place() {
    caught("break-before-make: page 0xc0000", |b| {
        b.map(page(0), frames(1), WriteBack);
        let word = L2Desc::small(frames(1).base(), NonCacheable, ReadWrite, Shareable).raw();
        b.fake().publish(L2, &[word]);
    });
    // Same frames, same attributes, other sizes: a TLB may hold both.
    caught("break-before-make: page 0xc0000", |b| {
        b.map(page(0), frames(16), WriteBack);
        let pages: Vec<u32> =
            frames(16).iter().map(|frame| L2Desc::small(frame.base(), WriteBack, ReadWrite, Shareable).raw()).collect();
        b.fake().publish(L2, &pages);
    });
}

#[test]
fn i3_a_section_over_a_table_without_a_tlb_invalidate() {
    for maintain in [false, true] {
        caught("I3: a walk cache may hold an old table for 0xc0000000", |b| {
            b.machine.tlb = Tlb::Missing;
            let mapped = b.map(page(0), frames(256), WriteBack);
            if maintain {
                b.fake().clean(mapped.all());
            } else {
                b.view(&mapped);
            }
        });
    }
}

#[test]
fn a_large_page_that_stands_in_too_few_entries() {
    caught("page 0xc0000: a large page's descriptor", |b| {
        let word = L2Desc::large(frames(16).base(), WriteBack, ReadWrite, Shareable).raw();
        b.fake().publish(L2, &[word; 15]);
    });
}

#[test]
fn a_descriptor_that_is_none_of_ours() {
    let large_with_bit_6 = L2Desc::large(frames(16).base(), WriteBack, ReadWrite, Shareable).raw() | 1 << 6;
    caught("page 0xc0000: foreign descriptor", |b| b.fake().publish(L2, &[large_with_bit_6]));
    caught("page 0xc0000: foreign descriptor", |b| b.fake().publish(l1_entry(0), &[0b11]));
}

#[test]
fn i3_maintenance_of_what_is_not_mapped() {
    for clean in [true, false] {
        caught("I3: maintenance of 0xc0001000, which translates to None", |b| {
            let mapped = b.map(page(0), frames(3), WriteBack);
            b.fake().publish(PhysAddr::new(L2.raw() + 4), &[0]);
            b.fake().invalidate_tlb(page(1), 4096, LeafSize::Page);
            if clean {
                b.fake().clean(mapped.all())
            } else {
                b.fake().invalidate(mapped.all())
            };
        });
    }
    // Mapped, but with another type.
    caught("I3: maintenance of 0xc0000000, which translates to Some", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.fake().publish(L2, &[0]);
        b.fake().invalidate_tlb(page(0), 4096, LeafSize::Page);
        let word = L2Desc::small(frames(1).base(), NonCacheable, ReadWrite, Shareable);
        b.fake().publish(L2, &[word.raw()]);
        b.fake().invalidate(mapped.all());
    });
    // Mapped, but to another frame.
    caught("I3: maintenance of 0xc0000000, which translates to Some", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.fake().publish(L2, &[0]);
        b.fake().invalidate_tlb(page(0), 4096, LeafSize::Page);
        let word = L2Desc::small(RAM, WriteBack, ReadWrite, Shareable);
        b.fake().publish(L2, &[word.raw()]);
        b.fake().clean(mapped.all());
    });
}

/// The CPU writes through a write-back mapping, and cleans and invalidates before it unmaps, not after.
fn flushed_before_the_unmap(b: &mut Bench) {
    let mapped = b.map(page(0), frames(2), WriteBack);
    b.view(&mapped).fill(7);
    b.fake().clean(mapped.all());
    b.fake().invalidate(mapped.all());
    b.unmap(mapped);
    b.fake().device_barrier();
}

#[test]
fn i3_a_flush_before_the_unmap_only() {
    caught("I3: the CPU may read a stale line at 0x60401000", |b| {
        flushed_before_the_unmap(b);
        b.fake().device_write(PhysAddr::new(frames(1).base().raw() + 4096), &[9; 64]);
        let mapped = b.map(page(0), frames(2), WriteBack);
        b.view(&mapped);
    });
    caught("I3: non-cacheable access to 0x60400000", |b| {
        flushed_before_the_unmap(b);
        let mapped = b.map(page(0), frames(2), NonCacheable);
        b.view(&mapped);
    });
}

#[test]
fn i3_a_non_cacheable_first_use_with_residue() {
    caught("I3: non-cacheable access to 0x60400000", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.unmap(mapped);
        let mapped = b.map(page(0), frames(1), NonCacheable);
        b.view(&mapped);
    });
    // Cleaning is not enough.
    caught("I3: non-cacheable access to 0x60400000", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.unmap(mapped);
        let mapped = b.map(page(0), frames(1), NonCacheable);
        b.fake().clean(mapped.all());
        b.view(&mapped);
    });
    // One frame of the two was forgotten.
    caught("I3: non-cacheable access to 0x60401000", |b| {
        let mapped = b.map(page(0), frames(2), WriteBack);
        b.unmap(mapped);
        let mapped = b.map(page(0), frames(1), NonCacheable);
        b.fake().invalidate(mapped.all());
        b.unmap(mapped);
        let mapped = b.map(page(0), frames(2), NonCacheable);
        b.view(&mapped);
    });
}

#[test]
fn i3_no_invalidate_after_a_device_wrote() {
    caught("I3: the CPU may read a stale line at 0x60400fe0", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.unmap(mapped);
        b.fake().device_write(PhysAddr::new(frames(1).base().raw() + 4064), &[9]);
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.view(&mapped);
    });
    // The invalidate came too early: before the device had written.
    caught("I3: the CPU may read a stale line at 0x60400000", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.fake().invalidate(mapped.all());
        b.fake().device_write(frames(1).base(), &[9]);
        b.view(&mapped);
    });
    // A clean drops no line.
    caught("I3: the CPU may read a stale line at 0x60400000", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.fake().device_write(frames(1).base(), &[9]);
        b.fake().clean(mapped.all());
        b.view(&mapped);
    });
}

#[test]
fn i4_no_clean_before_a_device_reads() {
    caught("I4: a device reads 0x60400040, which the CPU wrote and nothing cleaned", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.view(&mapped)[64] = 7;
        b.unmap(mapped);
        b.fake().device_barrier();
        b.device_sees(frames(1));
    });
    // That the line happened to be evicted is luck, not a clean.
    caught("I4: a device reads 0x60400040, which the CPU wrote and nothing cleaned", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.view(&mapped)[64] = 7;
        for _ in 0..200 {
            b.fake().disturb();
        }
        b.fake().device_barrier();
        b.device_sees(frames(1));
    });
    // Cleaned, then written again.
    caught("I4: a device reads 0x60400040, which the CPU wrote and nothing cleaned", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        let byte = b.view(&mapped).as_mut_ptr().wrapping_add(64);
        b.fake().clean(mapped.all());
        // SAFETY: still mapped, so the pointer is good.
        unsafe { byte.write_volatile(7) };
        b.unmap(mapped);
        b.fake().device_barrier();
        b.device_sees(frames(1));
    });
}

#[test]
fn i4_a_device_writes_under_a_dirty_line() {
    caught("I4: a device writes 0x60400040, which the CPU wrote and nothing cleaned", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.view(&mapped)[64] = 7;
        b.unmap(mapped);
        b.fake().device_write(frames(1).base(), &[1; 4096]);
    });
}

const NO_BARRIER: &str = "I4: a device reads 0x60400040, with no barrier since the CPU prepared it";

#[test]
fn i4_no_barrier_before_the_device() {
    // Non-cacheable writes wait in a write buffer.
    caught(NO_BARRIER, |b| {
        let mapped = b.map(page(0), frames(1), NonCacheable);
        b.view(&mapped)[64] = 7;
        b.device_sees(frames(1));
    });
    // The end of the mapping is no barrier.
    caught(NO_BARRIER, |b| {
        let mapped = b.map(page(0), frames(1), NonCacheable);
        b.view(&mapped)[64] = 7;
        b.unmap(mapped);
        b.fake().device_read(PhysAddr::new(frames(1).base().raw() + 64), 1);
    });
    // The barrier came before the last write.
    caught(NO_BARRIER, |b| {
        let mapped = b.map(page(0), frames(1), NonCacheable);
        let byte = b.view(&mapped).as_mut_ptr().wrapping_add(64);
        b.fake().device_barrier();
        // SAFETY: still mapped, so the pointer is good.
        unsafe { byte.write_volatile(7) };
        b.device_sees(frames(1));
    });
    caught("I4: a device writes 0x60400040, with no barrier", |b| {
        let mapped = b.map(page(0), frames(1), NonCacheable);
        b.view(&mapped)[64] = 7;
        b.fake().device_write(frames(1).base(), &[1; 4096]);
    });
    // Nor is a clean a barrier.
    caught("I4: a device reads 0x60400000, with no barrier", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.view(&mapped)[64] = 7;
        b.fake().clean(mapped.all());
        b.device_sees(frames(1));
    });
}

#[test]
fn i4_a_pointer_that_outlived_its_mapping() {
    for memory in [WriteBack, NonCacheable] {
        caught("I4: 0x60400040 was written through a pointer that outlived its mapping", |b| {
            let mapped = b.map(page(0), frames(1), memory);
            let byte = b.view(&mapped).as_mut_ptr().wrapping_add(64);
            if memory == WriteBack {
                b.fake().invalidate(mapped.all());
            }
            b.unmap(mapped);
            // Lines that were speculated in are evicted, sooner or later.
            (0..100).for_each(|_| b.fake().disturb());
            // SAFETY: the fake's memory is there while it lives.
            assert_eq!(unsafe { byte.read_volatile() }, POISON);
            // SAFETY: as above.
            unsafe { byte.write_volatile(1) };
            b.map(page(8), frames(1), memory);
        });
    }
    caught("fault: 0xc0000000 does not translate", |b| {
        let mapped = b.map(page(0), frames(1), WriteBack);
        b.unmap(mapped);
        b.machine.reach(page(0), 1);
    });
}

/// A buffer's whole life, in the right order, at a place and of a size that gives sections, large or small pages.
fn careful(b: &mut Bench, seed: u64) {
    let (count, at) = match seed % 40 {
        0 => (258, page(512)),
        n if n % 2 == 0 => (33, page(256)),
        _ => (5, page(1)),
    };
    let all = frames(count);
    let bytes = all.bytes() as usize;
    // Each page has a byte of its own, and no byte is zero.
    let pattern = |k: usize| {
        let mut data = vec![0; bytes];
        for (n, page) in data.chunks_mut(4096).enumerate() {
            page.fill(((n * 13 + k * 29 + seed as usize) % 251) as u8 + 1);
        }
        data
    };

    // Coherent: no residue, so nothing to maintain.
    let mapped = b.map(at, all, NonCacheable);
    b.view(&mapped).copy_from_slice(&pattern(1));
    b.fake().device_barrier();
    assert_eq!(b.device_sees(all), pattern(1));
    b.fake().device_write(all.base(), &pattern(2)[..100]);
    assert_eq!(b.view(&mapped)[..100], pattern(2)[..100]);
    assert_eq!(b.view(&mapped)[100..], pattern(1)[100..]);
    b.unmap(mapped);

    // To the device and back, twice.
    for turn in 3..7 {
        let mapped = b.map(at, all, WriteBack);
        if turn > 3 {
            b.fake().invalidate(mapped.all());
            assert_eq!(b.view(&mapped), pattern(turn - 1));
        }
        b.view(&mapped).copy_from_slice(&pattern(turn + 10));
        b.fake().disturb();
        assert_eq!(b.view(&mapped), pattern(turn + 10));
        b.fake().clean(mapped.all());
        b.unmap(mapped);
        b.fake().device_barrier();
        assert_eq!(b.device_sees(all), pattern(turn + 10));
        b.fake().device_write(all.base(), &pattern(turn));
        assert_eq!(b.device_sees(all), pattern(turn));
    }

    // A new owner: dirty lines of the old one are dead.
    let mapped = b.map(at, all, WriteBack);
    b.fake().invalidate(mapped.all());
    b.view(&mapped).fill(0xee);
    b.unmap(mapped);
    let mapped = b.map(at, all, NonCacheable);
    b.fake().invalidate(mapped.all());
    b.view(&mapped).fill(0);
    b.fake().device_barrier();
    (0..20).for_each(|_| b.fake().disturb());
    assert!(b.view(&mapped).iter().all(|&byte| byte == 0));
    b.unmap(mapped);
    assert!(b.device_sees(all).iter().all(|&byte| byte == 0));
}

#[test]
fn the_right_order_passes_on_every_seed() {
    for seed in 0..200 {
        careful(&mut Bench::new(seed), seed);
    }
}

/// What one history of speculation and eviction shows, with no rule broken before the last look.
fn history(seed: u64) -> (bool, Vec<u8>) {
    let mut b = Bench::new(seed);
    let mapped = b.map(page(0), frames(1), WriteBack);
    b.view(&mapped)[0..4].fill(7);
    (0..3).for_each(|_| b.fake().disturb());
    // Read past the rules: a table walk sees memory as it is.
    let evicted = b.fake().table_word(frames(1).base()) == Some(0x0707_0707);
    b.fake().clean(mapped.all());
    b.fake().device_barrier();
    let view = b.view(&mapped).as_mut_ptr();
    b.fake().device_write(frames(1).base(), &[9; 4096]);
    // SAFETY: still mapped; the fake has not been told, so it does not refuse.
    let seen = unsafe { core::slice::from_raw_parts(view, 4096) }.to_vec();
    (evicted, seen)
}

#[test]
fn the_adversary_fills_and_evicts_and_goes_by_its_seed() {
    let histories: Vec<_> = (0..SEEDS).map(history).collect();
    assert!(histories.iter().any(|(evicted, _)| *evicted), "a dirty line is evicted on some seed");
    assert!(histories.iter().any(|(evicted, _)| !evicted), "and not on another");
    let stale = |seen: &[u8]| seen.iter().filter(|&&byte| byte != 9).count();
    assert!(histories.iter().all(|(_, seen)| stale(seen) > 0 && stale(seen) < 4096), "some lines are stale, not all");
    assert!(histories.windows(2).all(|pair| pair[0] != pair[1]), "seeds differ");
    assert_eq!(histories, (0..SEEDS).map(history).collect::<Vec<_>>(), "a seed is a history");
}
