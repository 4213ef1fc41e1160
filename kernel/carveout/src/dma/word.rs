//! The CPU's accesses to coherent memory: by words, and in bulk.
//!
//! Guarantees: a [`Word`] is read or written by one access of its size, of which no bus master sees a half (ARM ARM
//! A3.5.3). Bytes in bulk go by words too, and by smaller accesses only at ends where no word fits. Eight words are
//! read by one instruction: a burst on the bus, where single reads would each wait for memory. All accesses are
//! volatile: each happens once, in the order of the program, except that an interrupt may have a burst read again. No
//! access leaves the bytes of its buffer or block.
//!
//! A Cortex-A9 may repeat a write on the bus until a DMB, if another write to the same aligned eight bytes follows
//! (erratum 794074). So code that writes a word which a device changes too must pass `dma_wmb` before the next write to
//! those eight bytes.
//!
//! ```compile_fail,E0277
//! use carveout::{dma::Coherent, machine::Machine};
//! fn no_word_that_two_accesses_make<M: Machine>(ring: &Coherent<M>) -> u64 {
//!     ring.read_word(0)
//! }
//! ```

use zerocopy::{FromBytes, IntoBytes};

mod sealed {
    pub trait Sealed {}
}

/// A type that a core reads and writes by one access: `u8`, `u16` and `u32`, in the CPU's byte order.
pub trait Word: Copy + sealed::Sealed {}

impl sealed::Sealed for u8 {}
impl sealed::Sealed for u16 {}
impl sealed::Sealed for u32 {}

impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}

/// The words that one instruction reads.
const BURST: usize = 8;

/// Reads the words of a burst, in their order.
///
/// # Safety
///
/// `at` is valid for reads of so many words, and aligned.
unsafe fn read_burst(at: *const u32) -> [u32; BURST] {
    #[cfg(target_arch = "arm")]
    {
        let mut words = [0; BURST];
        // SAFETY: loads of the words at `at`, which is valid for them, as this function demands. The registers are
        // named, and memory is a clobber.
        unsafe {
            core::arch::asm!(
                "ldm {at}, {{r2, r3, r4, r5, r8, r9, r10, r12}}",
                at = in(reg) at,
                out("r2") words[0], out("r3") words[1], out("r4") words[2], out("r5") words[3],
                out("r8") words[4], out("r9") words[5], out("r10") words[6], out("r12") words[7],
                options(nostack, preserves_flags)
            );
        }
        words
    }
    #[cfg(not(target_arch = "arm"))]
    // SAFETY: words that `at` is valid for, as this function demands.
    core::array::from_fn(|n| unsafe { at.wrapping_add(n).read_volatile() })
}

/// Coherent bytes, for one access.
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    first: *mut u8,
    len: usize,
}

impl Bytes {
    /// Names `len` bytes from `first` on.
    ///
    /// # Safety
    ///
    /// The bytes are mapped non-cacheable and writable while the value lives. No reference to any of them exists.
    pub(super) const unsafe fn new(first: *mut u8, len: usize) -> Self {
        Self { first, len }
    }

    /// Returns the place of a word.
    ///
    /// # Panics
    ///
    /// If the word is not all inside, or not aligned.
    fn place<W: Word>(self, offset: usize) -> *mut W {
        let at = self.first.wrapping_add(offset).cast::<W>();
        let inside = self.len.checked_sub(offset).is_some_and(|left| left >= size_of::<W>());
        assert!(inside, "a word of coherent memory outside of its buffer");
        assert!(at.is_aligned(), "a word of coherent memory that is not aligned");
        at
    }

    pub(super) fn read_word<W: Word>(self, offset: usize) -> W {
        let at = self.place::<W>(offset);
        // SAFETY: `place` found the word inside of what `new` was given, and aligned; each bit pattern is a `Word`.
        unsafe { at.read_volatile() }
    }

    pub(super) fn write_word<W: Word>(self, offset: usize, word: W) {
        let at = self.place::<W>(offset);
        // SAFETY: `place` found the word inside of what `new` was given, and aligned.
        unsafe { at.write_volatile(word) }
    }

    /// Returns how many of `wanted` bytes there are from `offset` on.
    fn clip(self, offset: usize, wanted: usize) -> usize {
        wanted.min(self.len.saturating_sub(offset))
    }

    /// Returns how many of the `left` bytes at `at` the next accesses take: all that fill words, or a half-word or byte
    /// where no word fits.
    fn step(at: *mut u8, left: usize) -> usize {
        match (at.addr() % 4, left) {
            (0, 4..) => left / 4 * 4,
            (0 | 2, 2..) => 2,
            _ => 1,
        }
    }

    #[expect(clippy::cast_ptr_alignment, reason = "`step` says what is aligned")]
    pub(super) fn read_at(self, offset: usize, to: &mut [u8]) -> usize {
        let count = self.clip(offset, to.len());
        let (mut at, mut left) = (self.first.wrapping_add(offset), &mut to[..count]);
        while !left.is_empty() {
            let (now, later) = left.split_at_mut(Self::step(at, left.len()));
            match now {
                // SAFETY: inside of what `new` was given: `clip` cut it so.
                [byte] => *byte = unsafe { at.read_volatile() },
                [_, _] => {
                    // SAFETY: as above, and aligned: `step` says so.
                    let word = unsafe { at.cast::<u16>().read_volatile() };
                    now.copy_from_slice(&word.to_ne_bytes());
                }
                _ => {
                    let (bursts, words) = now.as_chunks_mut::<{ 4 * BURST }>();
                    let first = at.cast::<u32>();
                    let behind = first.wrapping_add(bursts.len() * BURST);
                    // SAFETY: as above.
                    let burst = |n| unsafe { read_burst(first.wrapping_add(n * BURST)) };
                    match <[[u32; BURST]]>::mut_from_bytes(bursts.as_flattened_mut()) {
                        Ok(bursts) => bursts.iter_mut().enumerate().for_each(|(n, to)| *to = burst(n)),
                        Err(unaligned) => {
                            let bytes = unaligned.into_src().as_chunks_mut::<{ 4 * BURST }>().0;
                            let copy = |(n, to): (usize, &mut [u8; 4 * BURST])| to.copy_from_slice(burst(n).as_bytes());
                            bytes.iter_mut().enumerate().for_each(copy);
                        }
                    }
                    // SAFETY: as above.
                    let word = |n| unsafe { behind.wrapping_add(n).read_volatile() };
                    words.as_chunks_mut().0.iter_mut().enumerate().for_each(|(n, to)| *to = word(n).to_ne_bytes());
                }
            }
            at = at.wrapping_add(now.len());
            left = later;
        }
        count
    }

    #[expect(clippy::cast_ptr_alignment, reason = "`step` says what is aligned")]
    pub(super) fn write_at(self, offset: usize, from: &[u8]) -> usize {
        let count = self.clip(offset, from.len());
        let (mut at, mut left) = (self.first.wrapping_add(offset), &from[..count]);
        while !left.is_empty() {
            let (now, later) = left.split_at(Self::step(at, left.len()));
            match *now {
                // SAFETY: inside of what `new` was given: `clip` cut it so.
                [byte] => unsafe { at.write_volatile(byte) },
                // SAFETY: as above, and aligned: `step` says so.
                [low, high] => unsafe { at.cast::<u16>().write_volatile(u16::from_ne_bytes([low, high])) },
                _ => {
                    // SAFETY: as above.
                    let write = |n, word| unsafe { at.cast::<u32>().wrapping_add(n).write_volatile(word) };
                    if let Ok(words) = <[u32]>::ref_from_bytes(now) {
                        words.iter().enumerate().for_each(|(n, &word)| write(n, word));
                    } else {
                        let bytes = now.as_chunks().0.iter().enumerate();
                        bytes.for_each(|(n, &bytes)| write(n, u32::from_ne_bytes(bytes)));
                    }
                }
            }
            at = at.wrapping_add(now.len());
            left = later;
        }
        count
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::panic::catch_unwind;
    use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
    use std::vec::Vec;

    #[repr(C, align(8))]
    struct Memory([u8; 40]);

    fn bytes(memory: &mut Memory) -> Bytes {
        // SAFETY: the tests access the memory by what this returns alone while they use it.
        unsafe { Bytes::new(memory.0.as_mut_ptr(), memory.0.len()) }
    }

    #[test]
    fn bulk_bytes_go_from_anywhere_to_anywhere() {
        let from: [u8; 48] = core::array::from_fn(|n| n as u8 + 1);
        for (offset, skip, len) in
            (0..=41).flat_map(|at| (0..5).flat_map(move |skip| (0..43).map(move |len| (at, skip, len))))
        {
            let mut memory = Memory([0xee; 40]);
            let mut expected = memory.0;
            let count = len.min(40usize.saturating_sub(offset));
            assert_eq!(bytes(&mut memory).write_at(offset, &from[skip..skip + len]), count);
            if count > 0 {
                expected[offset..offset + count].copy_from_slice(&from[skip..skip + count]);
            }
            assert_eq!(memory.0, expected, "{len} bytes from {skip} to {offset}");
            let mut to = [0xdd; 48];
            assert_eq!(bytes(&mut memory).read_at(offset, &mut to[skip..skip + len]), count);
            let mut back = [0xdd; 48];
            back[skip..skip + count].copy_from_slice(&expected[offset.min(40)..][..count]);
            assert_eq!(to, back, "{len} bytes from {offset} to {skip}");
        }
    }

    #[test]
    fn a_bulk_access_takes_all_words_at_once() {
        let mut memory = Memory([0; 40]);
        for (offset, len, steps) in [
            (0, 40, &[40][..]),
            (1, 39, &[1, 2, 36]),
            (2, 9, &[2, 4, 2, 1]),
            (3, 2, &[1, 1]),
            (4, 3, &[2, 1]),
            (6, 2, &[2]),
        ] {
            let (mut at, mut left, mut found) = (memory.0.as_mut_ptr().wrapping_add(offset), len, Vec::new());
            while left > 0 {
                found.push(Bytes::step(at, left));
                (at, left) = (at.wrapping_add(found[found.len() - 1]), left - found[found.len() - 1]);
            }
            assert_eq!(found, steps, "{len} bytes from {offset}");
        }
    }

    #[test]
    fn what_is_no_word_of_the_buffer_is_refused() {
        let refused = |offset: usize, wide: bool| {
            let access = move || {
                let bytes = bytes(&mut Memory([0; 40]));
                if wide { bytes.read_word::<u32>(offset) } else { bytes.read_word::<u16>(offset).into() }
            };
            catch_unwind(access).is_err()
        };
        let odd: Vec<_> = (0..44).filter(|&offset| refused(offset, true)).collect();
        assert_eq!(odd, (0..44).filter(|n| n % 4 != 0 || *n > 36).collect::<Vec<_>>());
        assert!(refused(1, false) && refused(39, false) && refused(40, false) && refused(usize::MAX, false));
        assert!(!refused(38, false));
    }

    /// A device that polls sees the word before or the word after.
    #[test]
    fn no_word_is_torn() {
        let (word, half, over) = (AtomicU32::new(0), AtomicU16::new(0), AtomicBool::new(false));
        // SAFETY: atomics may be written by others at any time.
        let word_bytes = || unsafe { Bytes::new(word.as_ptr().cast(), 4) };
        // SAFETY: as above.
        let half_bytes = || unsafe { Bytes::new(half.as_ptr().cast(), 2) };
        std::thread::scope(|scope| {
            let polling = scope.spawn(|| {
                // Until it saw so many changes: the two do run at once.
                let (mut torn, mut changes, mut last) = (None, 0, (0, 0));
                while torn.is_none() && changes < 10_000 {
                    let seen = (word.load(Ordering::Relaxed), half.load(Ordering::Relaxed));
                    torn = (![0, u32::MAX].contains(&seen.0) || ![0, u16::MAX].contains(&seen.1)).then_some(seen);
                    changes += usize::from(seen != last);
                    last = seen;
                }
                over.store(true, Ordering::Relaxed);
                torn
            });
            let mut all = 0u32;
            while !over.load(Ordering::Relaxed) {
                all = !all;
                word_bytes().write_word(0, all);
                half_bytes().write_word(0, all as u16);
                all = !all;
                word_bytes().write_at(0, &all.to_ne_bytes());
                half_bytes().write_at(0, &(all as u16).to_ne_bytes());
            }
            assert_eq!(polling.join().unwrap(), None, "a torn word or half-word");
        });
    }
}
