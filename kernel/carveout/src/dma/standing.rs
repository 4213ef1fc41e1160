//! The part of a buffer's record that is written without the lock of the books.
//!
//! Guarantees: whoever has the buffer writes it, and reports and ports read it.

use crate::addr::VirtAddr;
use crate::events::{EventKind, note};
use crate::holder::Holder;
use crate::vm::ledger::Residue;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// The part of a buffer's record that is written without the lock: who may access its bytes, what the caches may hold
/// of them, and which life of the record it is. The buffer's value writes it, and reports and ports read it.
#[derive(Debug)]
pub(super) struct Standing {
    word: AtomicU8,
    bytes: AtomicU32,
    born: AtomicU64,
    /// The address of its mappings, or 0, where no window begins.
    va: AtomicU32,
}

impl Standing {
    const RESIDUES: [Residue; 4] = [Residue::Zeroed, Residue::Nothing, Residue::Clean, Residue::Dirty];
    /// The bit of a buffer that nobody has: its mapping waits for the next one.
    const SPARE: u8 = 1 << 7;

    pub(super) const fn new() -> Self {
        Self { word: AtomicU8::new(0), bytes: AtomicU32::new(0), born: AtomicU64::new(0), va: AtomicU32::new(0) }
    }

    /// Begins a life: of a buffer of so many bytes, born after so many others.
    #[inline]
    pub(super) fn begin(&self, bytes: u32, born: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.born.store(born, Ordering::Relaxed);
    }

    /// Says who may access the bytes, and what the caches may hold of them.
    #[inline]
    pub(super) fn set(&self, holder: Holder, residue: Residue) {
        self.word.store((holder as u8) << 2 | residue as u8, Ordering::Release);
        if holder != Holder::Nobody {
            note(EventKind::Hold, holder as u32, self.born(), (0, 0));
        }
    }

    /// Says that there is no buffer, and that nothing is mapped.
    pub(super) fn end(&self) {
        self.set(Holder::Nobody, Residue::Nothing);
    }

    /// Says that nobody has the buffer, whose mapping waits for the next one.
    #[inline]
    pub(super) fn set_spare(&self) {
        self.word.store(Self::SPARE, Ordering::Release);
    }

    pub(super) fn get(&self) -> (Holder, Residue) {
        let word = usize::from(self.word.load(Ordering::Acquire) & !Self::SPARE);
        (Holder::ALL[word >> 2], Self::RESIDUES[word & 3])
    }

    /// Returns whether nobody has the buffer.
    pub(super) fn is_spare(&self) -> bool {
        self.word.load(Ordering::Acquire) & Self::SPARE != 0
    }

    /// Says at which address it is mapped from now on whenever it is mapped, or that it has no address.
    #[inline]
    pub(super) fn set_va(&self, va: Option<VirtAddr>) {
        self.va.store(va.map_or(0, VirtAddr::raw), Ordering::Relaxed);
    }

    /// Returns the address at which it is mapped whenever it is mapped, if it has one.
    #[inline]
    pub(super) fn va(&self) -> Option<VirtAddr> {
        let va = self.va.load(Ordering::Relaxed);
        (va != 0).then_some(VirtAddr::new(va))
    }

    pub(super) fn bytes(&self) -> u32 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn born(&self) -> u64 {
        self.born.load(Ordering::Relaxed)
    }
}
