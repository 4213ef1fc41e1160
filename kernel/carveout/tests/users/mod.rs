//! Address spaces of users on the fake: each has a MiB of the lower half, and a second-level table of its own.

use carveout::addr::{FRAME_SHIFT, FRAME_SIZE, PhysAddr, VirtAddr};
use carveout::fake::Fake;
use carveout::machine::Mmu;
use carveout::setup::L1;
use carveout::vm::attr::{Access, LeafSize, MemoryType, Shareability};
use carveout::vm::desc::{L1Desc, L2_TABLE_SIZE, L2Desc, L2Entry};
use carveout::vm::mapped::Part;
use carveout::vm::user::{UserAccess, UserSpace};
use std::sync::{Arc, Mutex};

/// The second-level tables of spaces, in RAM that nothing else uses.
const TABLES: u32 = 0x6019_0000;
const PAGES: usize = 256;

/// What a space leaves out or does wrong, to see that somebody notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    None,
    /// It maps non-cacheable, whatever the kernel has.
    OtherAttribute,
    /// It invalidates no TLB.
    NoInvalidate,
    /// It maps a page more than it was told.
    PageTooMany,
}

/// A user's address space.
pub(crate) struct TestSpace {
    fake: &'static Fake,
    base: u32,
    table: u32,
    taken: Mutex<[bool; PAGES]>,
    plant: Plant,
}

// SAFETY: the tests have one thread.
unsafe impl Sync for TestSpace {}
// SAFETY: as above.
unsafe impl Send for TestSpace {}

impl TestSpace {
    pub(crate) fn new(fake: &'static Fake, number: u32, plant: Plant) -> Arc<Self> {
        let (base, table) = (0x1000_0000 + (number << 20), TABLES + number * L2_TABLE_SIZE);
        fake.publish(PhysAddr::new(L1.raw() + 4 * (base >> 20)), &[L1Desc::table(PhysAddr::new(table)).raw()]);
        let taken = Mutex::new([false; PAGES]);
        Arc::new(Self { fake, base, table, taken, plant })
    }

    fn page(&self, va: VirtAddr) -> u32 {
        (va.raw() - self.base) >> FRAME_SHIFT
    }

    fn word(&self, page: u32) -> PhysAddr {
        PhysAddr::new(self.table + 4 * page)
    }

    /// Returns what a user finds at an address: the frame's address, and whether it may write.
    pub(crate) fn finds(&self, va: VirtAddr) -> Option<(PhysAddr, bool)> {
        let word = self.fake.table_word(self.word(self.page(va))).expect("a word of RAM");
        match L2Desc::from_raw(word).decode() {
            L2Entry::Page(leaf) => Some((leaf.base, leaf.access == Access::ReadWrite)),
            _ => None,
        }
    }

    /// Reads a byte as a user does.
    pub(crate) fn read(&self, va: VirtAddr) -> u8 {
        // SAFETY: the fake gives a pointer to the byte, or panics.
        unsafe { self.fake.reach(va, 1).read_volatile() }
    }

    /// Writes a byte as a user does.
    pub(crate) fn write(&self, va: VirtAddr, byte: u8) {
        assert!(self.finds(va).is_some_and(|(_, writable)| writable), "a fault: {va} is not writable");
        // SAFETY: the fake gives a pointer to the byte, or panics.
        unsafe { self.fake.reach(va, 1).write_volatile(byte) };
    }
}

// SAFETY: but for what is planted, descriptors are the part's frames with its type, and their TLB entries are
// invalidated.
unsafe impl UserSpace for TestSpace {
    fn first_level(&self) -> PhysAddr {
        L1
    }

    fn reserve(&self, pages: u32) -> Option<VirtAddr> {
        let (mut taken, pages) = (self.taken.lock().unwrap(), pages as usize);
        // A page on either side stays free.
        let fits = |first: &usize| first + pages < PAGES && taken[first - 1..=first + pages].iter().all(|taken| !taken);
        let first = (1..PAGES).find(fits)?;
        taken[first..first + pages].fill(true);
        Some(VirtAddr::new(self.base + ((first as u32) << FRAME_SHIFT)))
    }

    fn release(&self, va: VirtAddr, pages: u32) {
        let (mut taken, first) = (self.taken.lock().unwrap(), self.page(va) as usize);
        assert!(taken[first..][..pages as usize].iter().all(|&taken| taken));
        assert!((0..pages).all(|n| self.finds(VirtAddr::new(va.raw() + (n << FRAME_SHIFT))).is_none()), "mapped still");
        taken[first..][..pages as usize].fill(false);
    }

    fn map(&self, va: VirtAddr, part: Part<'_>, access: UserAccess) {
        let access = match access {
            UserAccess::Read => Access::Read,
            UserAccess::ReadWrite => Access::ReadWrite,
        };
        let memory = match self.plant {
            Plant::OtherAttribute => MemoryType::NonCacheable,
            _ => part.mapped().memory(),
        };
        let pages = part.bytes() / FRAME_SIZE + u32::from(self.plant == Plant::PageTooMany);
        let first = self.page(va);
        for n in 0..pages {
            let at = PhysAddr::new(part.pa().raw() + (n << FRAME_SHIFT));
            let word = self.word(first + n);
            assert_eq!(self.fake.table_word(word), Some(0), "mapped twice");
            self.fake.publish(word, &[L2Desc::small(at, memory, access, Shareability::Shareable).raw()]);
        }
    }

    fn unmap(&self, va: VirtAddr, pages: u32) {
        for page in self.page(va)..self.page(va) + pages {
            if self.fake.table_word(self.word(page)) != Some(0) {
                self.fake.publish(self.word(page), &[0]);
                if self.plant != Plant::NoInvalidate {
                    let va = VirtAddr::new(self.base + (page << FRAME_SHIFT));
                    self.fake.invalidate_tlb(va, FRAME_SIZE, LeafSize::Page);
                }
            }
        }
    }
}
