//! The search for what maps some frames, in tables of any kernel: the check that nothing does, and the end of what
//! does.
//!
//! Guarantees: if [`find`] returns `Ok`, no descriptor of the tables that it was told of translates to any of the
//! frames, by whatever name of theirs. It reads words as the hardware does ([`super::walk`]), and trusts no
//! bookkeeping. Tables are of the short format: [`Builder`](crate::embed::Builder) takes over no others. One of the 16
//! words of a large page or of a supersection counts for all that it may translate.
//!
//! [`erase`] writes fault descriptors over those that translate to the frames, and to nothing else.

use crate::addr::{FRAME_SHIFT, Frame, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use crate::machine::{Mmu, Registers};
use crate::vm::alias::Aliases;
use crate::vm::desc::L2_ENTRIES;
use crate::vm::walk::{self, First, Pointer, Translation, Ttbr};
use core::slice;

/// A table stands where no known memory is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UnknownTable {
    pub(crate) at: PhysAddr,
}

/// What stands in the way of calling frames unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Obstacle {
    /// An address translates to one of the frames.
    Mapped { va: VirtAddr, frame: Frame },
    /// A table stands where no known memory is mapped.
    UnknownTable { at: PhysAddr },
}

impl From<UnknownTable> for Obstacle {
    fn from(UnknownTable { at }: UnknownTable) -> Self {
        Self::UnknownTable { at }
    }
}

/// What stands in the way of ending what maps some frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Uneven {
    /// A leaf translates to some of the frames, and to others.
    Wider { va: VirtAddr, bytes: u32 },
    /// A table stands where no known memory is mapped.
    UnknownTable { at: PhysAddr },
}

impl From<UnknownTable> for Uneven {
    fn from(UnknownTable { at }: UnknownTable) -> Self {
        Self::UnknownTable { at }
    }
}

/// Tables, and frames that they may map: those of this core's registers, and the `roots` that TTBR0 holds at other
/// times or on other cores.
pub(crate) struct Tables<'t, M> {
    pub(crate) mmu: &'t M,
    pub(crate) roots: &'t [PhysAddr],
    pub(crate) aliases: &'t Aliases,
}

/// Looks for translations of these frames. Returns the first that it finds.
///
/// # Errors
///
/// What it found.
#[cold]
pub(crate) fn find<M: Mmu>(tables: &Tables<'_, M>, frames: FrameRange) -> Result<(), Obstacle> {
    tables.each(frames, &mut |met| Err(Obstacle::Mapped { va: met.va, frame: met.frame }))
}

/// Looks for leaves that translate to some of these frames and to others as well. Returns the first that it finds.
/// [`erase`] cannot end those.
///
/// # Errors
///
/// What it found.
#[cold]
pub(crate) fn find_uneven<M: Mmu>(tables: &Tables<'_, M>, frames: FrameRange) -> Result<(), Uneven> {
    tables.each(frames, &mut |met| {
        let wider = Uneven::Wider { va: met.first, bytes: met.size };
        if met.count << FRAME_SHIFT == met.size { Ok(()) } else { Err(wider) }
    })
}

/// Writes a fault descriptor over each that translates to these frames, and publishes it. The TLBs hold what they held.
///
/// # Safety
///
/// Nobody accesses memory by those translations from here on, and nobody else writes the tables meanwhile.
///
/// # Errors
///
/// [`Uneven`], and then some may have been ended.
#[cold]
pub(crate) unsafe fn erase<M: Mmu>(tables: &Tables<'_, M>, frames: FrameRange) -> Result<(), Uneven> {
    find_uneven(tables, frames)?;
    tables.each(frames, &mut |met| {
        let word = tables.mmu.table(met.word, 4).ok_or(UnknownTable { at: met.word })?;
        // SAFETY: a word of a table, which `Mmu::table` reaches, and which nobody uses, as this function demands.
        unsafe { word.write_volatile(0) };
        // SAFETY: as above.
        tables.mmu.publish(met.word, unsafe { slice::from_raw_parts(word.as_ptr(), 1) });
        Ok(())
    })
}

/// A word of a table that may translate to some of the frames.
struct Met {
    /// Where the word stands.
    word: PhysAddr,
    /// The first address that its leaf translates, and how many bytes from there on.
    first: VirtAddr,
    size: u32,
    /// The first of the frames that it translates to, and the address at which it does.
    frame: Frame,
    va: VirtAddr,
    /// How many of the frames it translates to.
    count: u32,
}

impl<M: Mmu> Tables<'_, M> {
    /// Calls `each` with every word of the tables that may translate to some of these frames.
    fn each<E: From<UnknownTable>>(
        &self,
        frames: FrameRange,
        each: &mut dyn FnMut(Met) -> Result<(), E>,
    ) -> Result<(), E> {
        let registers = &self.mmu.registers();
        let mut search = Search { mmu: self.mmu, registers, aliases: self.aliases, frames, each };
        let own = [Ttbr::Ttbr0, Ttbr::Ttbr1].map(|ttbr| (registers.table(ttbr), ttbr));
        let roots = self.roots.iter().map(|&root| (root, Ttbr::Ttbr0));
        own.into_iter()
            .filter(|&(_, ttbr)| registers.translates(ttbr))
            .chain(roots)
            .try_for_each(|(table, ttbr)| search.table(table, ttbr))
    }
}

/// A search under way.
struct Search<'a, M, E> {
    mmu: &'a M,
    registers: &'a Registers,
    aliases: &'a Aliases,
    frames: FrameRange,
    each: &'a mut dyn FnMut(Met) -> Result<(), E>,
}

impl<M: Mmu, E: From<UnknownTable>> Search<'_, M, E> {
    /// Searches a first-level table: the entries that translate where this register's table does.
    fn table(&mut self, table: PhysAddr, ttbr: Ttbr) -> Result<(), E> {
        let split = self.registers.table_bytes(Ttbr::Ttbr0) / 4;
        let entries = match ttbr {
            Ttbr::Ttbr0 => 0..split,
            Ttbr::Ttbr1 => split..self.registers.table_bytes(Ttbr::Ttbr1) / 4,
        };
        for n in entries {
            let ((at, word), va) = (self.word(table, n)?, n * SECTION_SIZE);
            // Most words are zero.
            match if word == 0 { First::Fault } else { walk::first_level(word, self.registers) } {
                // No memory of a board is above 4 GiB by these frames' names.
                First::Fault | First::Beyond => {}
                First::Leaf(leaf) => self.leaf(at, va, &leaf)?,
                First::Table(pointer) => self.second_level(va, pointer)?,
            }
        }
        Ok(())
    }

    fn second_level(&mut self, section: u32, pointer: Pointer) -> Result<(), E> {
        for page in 0..L2_ENTRIES as u32 {
            let (at, word) = self.word(pointer.at, page)?;
            if word != 0
                && let Some(leaf) = walk::second_level(word, pointer, self.registers)
            {
                self.leaf(at, section + (page << FRAME_SHIFT), &leaf)?;
            }
        }
        Ok(())
    }

    /// Returns where the word stands, and the word.
    fn word(&self, table: PhysAddr, n: u32) -> Result<(PhysAddr, u32), UnknownTable> {
        let at = PhysAddr::new(table.raw().wrapping_add(4 * n));
        let word = self.mmu.table_word(at).ok_or(UnknownTable { at: table })?;
        Ok((at, word))
    }

    /// Looks at a leaf, one of whose words translates `va`.
    fn leaf(&mut self, word: PhysAddr, va: u32, leaf: &Translation) -> Result<(), E> {
        let all = FrameRange::within(leaf.base.raw().into(), leaf.size.into());
        let first = va & !(leaf.size - 1);
        let (mut before, mut count, mut found) = (0, 0, None);
        for part in self.aliases.first_names(all) {
            let met = part.intersection(self.frames);
            if let Some(frame) = met.iter().next() {
                let at = first + ((before + met.start() - part.start()) << FRAME_SHIFT);
                found.get_or_insert((frame, VirtAddr::new(at)));
            }
            count += met.count();
            before += part.count();
        }
        let Some((frame, va)) = found else { return Ok(()) };
        (self.each)(Met { word, first: VirtAddr::new(first), size: leaf.size, frame, va, count })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::vm::alias::Alias;
    use crate::vm::attr::LeafSize;
    use core::ptr::NonNull;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::vec;
    use std::vec::Vec;

    /// Words in memory: 0 where none was put, and none above `END`.
    struct Words {
        registers: Registers,
        words: HashMap<u32, u32>,
    }

    const TTBR0: u32 = 0x6000_4000;
    const TTBR1: u32 = 0x6000_8000;
    const ROOT: u32 = 0x6000_c000;
    /// Second-level tables.
    const TABLES: u32 = 0x6001_0000;
    const END: u32 = 0x6100_0000;

    // SAFETY: nothing here maps memory: these are words of a test.
    unsafe impl Mmu for Words {
        fn publish(&self, _: PhysAddr, _: &[u32]) {
            unreachable!("a search changes nothing")
        }
        fn invalidate_tlb(&self, _: VirtAddr, _: u32, _: LeafSize) {
            unreachable!("a search changes nothing")
        }
        fn invalidate_tlb_all(&self) {
            unreachable!("a search changes nothing")
        }
        fn reach(&self, _: VirtAddr, _: u32) -> *mut u8 {
            unreachable!("a search accesses nothing")
        }
        fn reach_to_overwrite(&self, _: VirtAddr, _: u32) -> *mut u8 {
            unreachable!("a search accesses nothing")
        }
        fn registers(&self) -> Registers {
            self.registers
        }
        fn table(&self, _: PhysAddr, _: u32) -> Option<NonNull<u32>> {
            unreachable!("a search reads word by word")
        }
        fn table_word(&self, at: PhysAddr) -> Option<u32> {
            (at.raw() < END).then(|| self.words.get(&at.raw()).copied().unwrap_or(0))
        }
    }

    fn words(n: u32) -> Words {
        let registers =
            Registers { ttbr0: TTBR0 | 0x6a, ttbr1: TTBR1 | 0x6a, ttbcr: n, ..Registers::plain(PhysAddr::new(0)) };
        Words { registers, words: HashMap::new() }
    }

    /// Whether a leaf that a word makes, alone, names one of these frames.
    fn names(leaf: &Translation, aliases: &Aliases, frames: FrameRange) -> bool {
        (0..leaf.size >> FRAME_SHIFT).any(|page| {
            let frame = Frame::containing(PhysAddr::new(leaf.base.raw() + (page << FRAME_SHIFT)));
            frames.contains(aliases.first_name(frame).unwrap_or(frame))
        })
    }

    #[test]
    fn i2_tables_that_cannot_be_read_are_not_trusted() {
        let frames = FrameRange::new(0x64000, 16).unwrap();
        let aliases = &Aliases::default();
        let look = |mmu: &Words, roots: &[PhysAddr]| find(&Tables { mmu, roots, aliases }, frames);
        let mut all = words(1);
        assert_eq!(look(&all, &[]), Ok(()));
        let far = PhysAddr::new(END + 0x4000);
        assert_eq!(look(&all, &[far]), Err(Obstacle::UnknownTable { at: far }));
        all.words.insert(TTBR1 + 4 * 0xfff, END | 1);
        assert_eq!(look(&all, &[]), Err(Obstacle::UnknownTable { at: PhysAddr::new(END) }));
    }

    proptest! {
        /// Against a look at each word and each frame that it names: in the tables of both registers, in a root, for
        /// any N, with a physical alias.
        #[test]
        fn i2_what_maps_a_frame_is_found(
            n in 0..4u32,
            firsts in prop::collection::vec((0..3usize, 0..4096u32, any::<u32>(), any::<bool>()), 0..12),
            seconds in prop::collection::vec((0..2u32, 0..256u32, any::<u32>()), 0..6),
            start in 0x64000..0x64400u32,
            count in 1..700u32,
        ) {
            let mut all = words(n);
            let mut aliases = Aliases::default();
            let alias = |start, of| Alias { frames: start, of };
            let run = |start| FrameRange::new(start, 0x1000).unwrap();
            aliases.add(alias(run(0x10000), run(0x64000))).unwrap();
            // Leaves near the frames, by either name, or pointers.
            let near = |word: u32| word & 0x003f_ffff | if word >> 31 == 1 { 0x6400_0000 } else { 0x1000_0000 };
            for &(table, index, word, pointer) in &firsts {
                let table = [TTBR0, TTBR1, ROOT][table];
                let word = if pointer { (TABLES + (word % 2) * 0x400) | 1 } else { near(word) & !3 | 2 };
                all.words.insert(table + 4 * index, word);
            }
            for &(table, index, word) in &seconds {
                all.words.insert(TABLES + table * 0x400 + 4 * index, near(word));
            }
            let frames = FrameRange::new(start, count).unwrap();
            let registers = all.registers;
            let split = 4096 >> n;
            let mut roots = vec![(TTBR0, 0..split), (ROOT, 0..split)];
            if n > 0 {
                roots.push((TTBR1, split..4096));
            }
            // Each address by which a word translates to a frame of the area.
            let mut mapped = Vec::new();
            let word = |at: u32| all.words.get(&at).copied().unwrap_or(0);
            for (table, sections) in roots {
                for section in sections {
                    match walk::first_level(word(table + 4 * section), &registers) {
                        First::Leaf(leaf) if names(&leaf, &aliases, frames) => mapped.push(section << 20 & !(leaf.size - 1)),
                        First::Table(pointer) => {
                            for page in 0..256 {
                                let leaf = walk::second_level(word(pointer.at.raw() + 4 * page), pointer, &registers);
                                let va = section << 20 | page << 12;
                                mapped.extend(leaf.filter(|leaf| names(leaf, &aliases, frames)).map(|leaf| va & !(leaf.size - 1)));
                            }
                        }
                        _ => {}
                    }
                }
            }
            let tables = Tables { mmu: &all, roots: &[PhysAddr::new(ROOT)], aliases: &aliases };
            match find(&tables, frames) {
                Ok(()) => prop_assert!(mapped.is_empty(), "{mapped:x?}"),
                Err(Obstacle::Mapped { va, frame }) => {
                    prop_assert!(frames.contains(frame));
                    // In a supersection's 16 MiB at most, above the first address of its leaf.
                    prop_assert!(mapped.iter().any(|&first| va.raw() >= first && va.raw() - first < 16 << 20));
                }
                Err(other) => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
