//! The protocol: what is done to a carved frame, in which order. One table.
//!
//! Guarantees: the code has no other sequence. `dma::exec` runs the rows of [`Transition`] for buffers, blocks of
//! pools, ports, lent pages, the reserve and areas that come and go. `vm::space` runs [`MAP`] and [`UNMAP`]. A machine
//! runs [`clean`], [`invalidate`], [`discard`] and [`flush`]. The explorer in `kernel/carveout/tests/protocol` takes
//! its steps from here. So it explores what the code does: every interleaving with two cores' TLBs and caches, a
//! device, and an adversary that speculates and evicts. `docs/src/protocol.md` has what it found.

use crate::holder::Holder;
use crate::vm::attr::MemoryType;
use crate::vm::ledger::Residue;

/// A step of a mapping's life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MapStep {
    /// The ledger gives the frames to this mapping alone, or refuses (I1).
    Claim,
    /// The descriptors are written. Nothing was mapped there.
    Describe,
    /// The words written are visible to every walk from now on.
    Publish,
    /// Every core forgets a pointer to a table, if a section takes its place.
    ForgetTable,
    /// Fault descriptors are written.
    Erase,
    /// Every core forgets its translations of the range, and no access through one is in flight.
    InvalidateTlb,
    /// The ledger takes the claim back.
    Release,
}

/// The steps that make a mapping. Entries go from fault to valid, so no translation is to be forgotten.
pub const MAP: [MapStep; 4] = [MapStep::Claim, MapStep::Describe, MapStep::Publish, MapStep::ForgetTable];
/// The steps that end a mapping.
pub const UNMAP: [MapStep; 4] = [MapStep::Erase, MapStep::Publish, MapStep::InvalidateTlb, MapStep::Release];
/// The steps that give users pages which the kernel has mapped. The kernel's claim covers them.
pub const MAP_USERS: [MapStep; 2] = [MapStep::Describe, MapStep::Publish];
/// The steps that take users' pages from them, in every address space.
pub const UNMAP_USERS: [MapStep; 3] = [MapStep::Erase, MapStep::Publish, MapStep::InvalidateTlb];

/// A row of steps as `vm::space` takes it. It takes the steps on descriptors section by section, so that each
/// descriptor is found once.
pub(crate) struct MapRow {
    /// The steps for all frames, before any descriptor.
    pub(crate) before: &'static [MapStep],
    /// The steps for the frames of each section.
    pub(crate) by_section: &'static [MapStep],
    /// The steps for all frames, after all descriptors.
    pub(crate) after: &'static [MapStep],
}

impl MapRow {
    /// Splits a row in three, in its order.
    pub(crate) const fn of(row: &'static [MapStep]) -> Self {
        use MapStep::{Describe, Erase, ForgetTable, Publish};
        let mut parts = [0; 3];
        let (mut part, mut n) = (0, 0);
        while n < row.len() {
            let by_section = matches!(row[n], Describe | Publish | ForgetTable | Erase);
            if by_section != (part == 1) {
                part += 1;
            }
            assert!(part < 3, "the steps on descriptors stand together");
            parts[part] += 1;
            n += 1;
        }
        let (before, rest) = row.split_at(parts[0]);
        let (by_section, after) = rest.split_at(parts[1]);
        Self { before, by_section, after }
    }
}

/// A step of cache maintenance on one level. One step starts operations on lines, and another waits until they are
/// complete. Levels are numbered outward: level 0 is all that belongs to the cores, and the last one is next to memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LineStep {
    /// Dirty lines of the level, on every core, are written to the next level. The last level writes them to memory.
    Clean(usize),
    /// Lines of the level, on every core, are dropped.
    Invalidate(usize),
    /// All lines of the level, on every core and whatever memory they are of, are dropped. Dirty ones are written to
    /// the next level first. The operations go by set and way, or by way, so they need no translation.
    Flush(usize),
    /// Waits for the level's operations: a DSB, a controller's sync.
    Wait(usize),
}

/// Returns the steps by which what the CPU wrote goes to memory, level 0 first. Data that leaves a level lands in the
/// next one. If that one had been cleaned before, the data would stay there. The device barrier completes the last
/// level's operations. It must follow before a device is told. Level 0 is waited for even if it is the last: its
/// operations need a translation, which may end next.
pub fn clean(levels: usize) -> impl Iterator<Item = LineStep> {
    let steps = if levels > 1 { 2 * levels - 1 } else { 2 * levels };
    (0..levels).flat_map(|level| [LineStep::Clean(level), LineStep::Wait(level)]).take(steps)
}

/// Returns the steps that drop lines which a device made stale, the last level first. A write-back mapping exists. None
/// of the lines is dirty. In the other order, a line would be refilled from the next level, which is stale.
pub fn invalidate(levels: usize) -> impl Iterator<Item = LineStep> {
    (0..levels).rev().flat_map(|level| [LineStep::Invalidate(level), LineStep::Wait(level)])
}

/// Returns the steps that drop lines of former owners, dirty ones too, level 0 first. No write-back mapping exists, so
/// nothing refills. In the other order, a dirty line could be evicted after the next level's turn. It would stay there
/// and be written later, over whatever came meanwhile.
pub fn discard(levels: usize) -> impl Iterator<Item = LineStep> {
    (0..levels).flat_map(|level| [LineStep::Invalidate(level), LineStep::Wait(level)])
}

/// Returns the steps that empty whole caches, level 0 first, as [`discard`] and for its reasons: dirty lines matter
/// here, and each level takes what the one before it drops. Lines that a write-back mapping of other memory brings back
/// in meanwhile are no concern of the caller. Of frames without such a mapping none is left, and memory has their data.
pub fn flush(levels: usize) -> impl Iterator<Item = LineStep> {
    (0..levels).flat_map(|level| [LineStep::Flush(level), LineStep::Wait(level)])
}

/// How many times the lines of whole caches must be due one by one before whole caches are emptied instead. Emptying
/// them takes from everybody, and what is needed again is fetched again.
pub const FLUSH_FROM: u64 = 8;

/// One operation of a transition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// The frames are mapped: [`MAP`].
    Map(MemoryType),
    /// The mapping ends: [`UNMAP`].
    Unmap,
    /// What the CPU may have written is cleaned: [`clean`].
    Clean,
    /// What a device may have written is invalidated: [`invalidate`].
    Invalidate,
    /// The lines of all frames are dropped: [`discard`].
    Discard,
    /// Whole caches are emptied, what is dirty into memory: [`flush`]. No mapping of the frames exists, so none of
    /// their lines comes back.
    Flush,
    /// The CPU writes zeros through the mapping (I5).
    Zero,
    /// Bus masters see all that was written and cleaned, before a device is told.
    DeviceBarrier,
    /// The records say from now on who may access the bytes: one store, without the lock of mappings.
    Hold(Holder),
    /// The ledger says from now on what the caches may hold of these frames, which are no buffer's.
    Mark(Residue),
    /// Every mapping of the kernel's ends: [`UNMAP`]. The kernel takes the steps on descriptors. Every core forgets all
    /// its translations, for nobody knows at which addresses the kernel had the frames.
    Break,
    /// The ledger gives the claim to the kernel, which may map the frames from now on.
    Yield,
    /// Users get pages of the frames, with the attribute of the kernel's mapping: [`MAP_USERS`].
    MapUsers,
    /// No user has pages of the frames any more: [`UNMAP_USERS`].
    UnmapUsers,
}

/// The condition under which an operation is due, by what is known of the frames.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum When {
    /// It is due in any case.
    Always,
    /// A mapping exists.
    Mapped,
    /// No mapping exists.
    Unmapped,
    /// The caches may hold lines.
    Lines,
    /// Memory may hold other bytes than zeros.
    Unzeroed,
    /// The CPU may have written since the last clean, and no flush comes that would clean it.
    Written,
    /// The caches may hold lines, so many that whole caches are emptied rather.
    ManyLines,
    /// A device may have written since the last invalidate, while lines may have been cached.
    Stale,
    /// The CPU wrote to memory, itself or by a clean, with no device barrier since.
    Unordered,
    /// Users may have pages of the frames.
    Shared,
}

/// An operation, and when it is due.
pub type Due = (When, Op);

/// The transitions of a buffer, of a page that is lent, of the reserve, of an area that is the kernel's for a time, and
/// of a pool's block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Transition {
    /// A contiguous buffer becomes coherent.
    IntoCoherent,
    /// A contiguous buffer becomes the CPU's stream.
    IntoStream,
    /// A contiguous buffer becomes the devices' alone.
    IntoDevice,
    /// The CPU is about to access its stream.
    Look,
    /// The stream is no longer the CPU's.
    ForDevice,
    /// The stream is the device's, which may be told.
    Grant,
    /// The stream is the CPU's again.
    ForCpu,
    /// A coherent buffer, the CPU's stream or devices' memory goes back to no state.
    IntoContiguous,
    /// A buffer ends that no device may access. Its frames are free afterwards.
    Free,
    /// A buffer ends that a device may still access.
    Quarantine,
    /// A coherent buffer ends that no device may access. Its frames are free afterwards, and stay mapped until somebody
    /// else gets them.
    Warm,
    /// A coherent buffer begins, of frames that stayed mapped for it.
    Reuse,
    /// Frames that stayed mapped are prepared for their next owner.
    FillWarm,
    /// The mapping ends of frames that stayed mapped, for somebody else gets them, or one that overlaps them.
    Evict,
    /// The CPU is about to tell a device of what it wrote to coherent memory.
    Tell,
    /// A device that the CPU plays gains access to a device's buffer.
    OpenPort,
    /// A device that the CPU plays loses access to a device's buffer.
    ClosePort,
    /// A borrower is about to access part of a page that it never wrote, in a frame of unknown content.
    OpenNewPage,
    /// A borrower is about to access a page that it wrote, or one that holds zeros, or to overwrite all of one. A page
    /// that moves is opened twice in this way: where it was and where it will be.
    OpenPage,
    /// A borrower is done with a page. From here on the frame can be recalled, with no further step.
    ClosePage,
    /// Idle frames are prepared for their next owner.
    FillReserve,
    /// Frames that the kernel maps write-back, and may have written, become an area's.
    Take,
    /// Idle frames of an area become the kernel's. They hold zeros.
    GiveBack,
    /// A block of a pool of streams is no longer the CPU's. The device may be told, or the block is free. The pool's
    /// memory stays mapped.
    GiveBlock,
    /// A block of a pool of streams is the CPU's again.
    TakeBlock,
    /// Users get pages of a buffer that they share, through the caches.
    Show,
    /// Users get pages of a buffer that they share, past the caches.
    ShowUncached,
    /// Pages of a shared buffer are nobody's for now.
    Hide,
}

impl Transition {
    /// All transitions.
    pub const ALL: [Self; 28] = [
        Self::IntoCoherent,
        Self::IntoStream,
        Self::IntoDevice,
        Self::Look,
        Self::ForDevice,
        Self::Grant,
        Self::ForCpu,
        Self::IntoContiguous,
        Self::Free,
        Self::Quarantine,
        Self::Warm,
        Self::Reuse,
        Self::FillWarm,
        Self::Evict,
        Self::Tell,
        Self::OpenPort,
        Self::ClosePort,
        Self::OpenNewPage,
        Self::OpenPage,
        Self::ClosePage,
        Self::FillReserve,
        Self::Take,
        Self::GiveBack,
        Self::GiveBlock,
        Self::TakeBlock,
        Self::Show,
        Self::ShowUncached,
        Self::Hide,
    ];

    /// The number of steps of the longest row.
    pub const LONGEST: usize = {
        let (mut longest, mut n) = (0, 0);
        while n < Self::ALL.len() {
            let steps = Self::ALL[n].row().len();
            longest = if steps > longest { steps } else { longest };
            n += 1;
        }
        longest
    };

    /// Returns the transition's operations, in their order.
    pub const fn row(self) -> &'static [Due] {
        use MemoryType::{NonCacheable, WriteBack};
        use Op::{
            Break, Clean, DeviceBarrier, Discard, Flush, Hold, Invalidate, Map, MapUsers, Mark, Unmap, UnmapUsers,
        };
        use Op::{Yield, Zero};
        use When::{Always, Lines, ManyLines, Mapped, Shared, Stale, Unmapped, Unordered, Unzeroed, Written};
        match self {
            // Nothing maps the frames write-back. So what is emptied stays so.
            Self::IntoCoherent => &[
                (Always, Map(NonCacheable)),
                (ManyLines, Flush),
                (Lines, Discard),
                (Unzeroed, Zero),
                (Unordered, DeviceBarrier),
                (Always, Hold(Holder::Both)),
            ],
            Self::IntoStream => &[
                (Unzeroed, Map(NonCacheable)),
                (ManyLines, Flush),
                (Lines, Discard),
                (Unzeroed, Zero),
                (Mapped, Unmap),
                (Always, Hold(Holder::Cpu)),
            ],
            Self::IntoDevice => &[
                (Unzeroed, Map(NonCacheable)),
                (ManyLines, Flush),
                (Lines, Discard),
                (Unzeroed, Zero),
                (Unordered, DeviceBarrier),
                (Mapped, Unmap),
                (Always, Hold(Holder::Device)),
            ],
            Self::Look => &[(Unmapped, Map(WriteBack)), (Stale, Invalidate)],
            // Users go first: what one of them writes after the clean would stay in a dirty line.
            Self::ForDevice => &[(Shared, UnmapUsers), (Written, Clean), (Mapped, Unmap)],
            // Nothing maps the frames from `ForDevice` on. So what is dropped here stays dropped, and the CPU's next
            // look finds no stale line.
            Self::Grant => &[(ManyLines, Flush), (Unordered, DeviceBarrier), (Always, Hold(Holder::Device))],
            Self::ForCpu => &[(Always, Hold(Holder::Cpu))],
            Self::IntoContiguous => &[(Mapped, Unmap), (Always, Hold(Holder::Nobody))],
            Self::Free | Self::Quarantine => &[(Mapped, Unmap)],
            Self::Warm => &[(Always, Hold(Holder::Nobody))],
            Self::Reuse => &[(Unzeroed, Zero), (Unordered, DeviceBarrier), (Always, Hold(Holder::Both))],
            Self::FillWarm => &[(Unzeroed, Zero), (Always, DeviceBarrier), (Always, Mark(Residue::Zeroed))],
            Self::Tell => &[(Always, DeviceBarrier)],
            Self::OpenPort => &[(Unmapped, Map(NonCacheable)), (Lines, Discard)],
            Self::ClosePort => &[(Always, DeviceBarrier), (Mapped, Unmap)],
            // Former lines may stay: the zeros, or what is written over all of the page, take their place.
            Self::OpenNewPage => &[(Always, Mark(Residue::Dirty)), (Always, Map(WriteBack)), (Always, Zero)],
            Self::OpenPage => &[(Always, Mark(Residue::Dirty)), (Always, Map(WriteBack))],
            Self::ClosePage | Self::Evict => &[(Always, Unmap)],
            Self::FillReserve => &[
                (Always, Map(NonCacheable)),
                (Lines, Discard),
                (Unzeroed, Zero),
                (Always, DeviceBarrier),
                (Always, Unmap),
                (Always, Mark(Residue::Zeroed)),
            ],
            // The kernel's lines stay, dirty ones too. The next owner drops them, as those of any owner before it.
            Self::Take => &[(Always, Break), (Always, Mark(Residue::Dirty))],
            Self::GiveBack => &[
                (Unzeroed, Map(NonCacheable)),
                (Lines, Discard),
                (Unzeroed, Zero),
                (Unordered, DeviceBarrier),
                (Mapped, Unmap),
                (Always, Yield),
            ],
            // The block's lines stay mapped, so any of them may be cached at any time. Clean ones do no harm to what a
            // device writes, and are dropped before the CPU looks again.
            Self::GiveBlock => &[(Written, Clean), (Unordered, DeviceBarrier)],
            Self::TakeBlock => &[(Stale, Invalidate)],
            // A user's rights may change, so its pages are taken away first.
            Self::Show => &[(Shared, UnmapUsers), (Unmapped, Map(WriteBack)), (Stale, Invalidate), (Always, MapUsers)],
            Self::ShowUncached => &[(Shared, UnmapUsers), (Unmapped, Map(NonCacheable)), (Always, MapUsers)],
            // The kernel's mapping covers those of users, so it ends after them.
            Self::Hide => &[(Shared, UnmapUsers), (Mapped, Unmap)],
        }
    }
}

/// A run of a buffer's bytes: the smallest that holds all that was added. It is empty if `start` is `end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

impl Span {
    /// The span of no bytes.
    pub const EMPTY: Self = Self { start: 0, end: 0 };

    /// Returns whether it holds no byte.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Returns the span of as many bytes that begins so many bytes later.
    #[must_use]
    pub const fn moved_by(self, bytes: u32) -> Self {
        if self.is_empty() { self } else { Self { start: self.start + bytes, end: self.end + bytes } }
    }

    /// Returns the smallest span that holds both.
    #[must_use]
    pub fn with(self, more: Self) -> Self {
        match (self.is_empty(), more.is_empty()) {
            (_, true) => self,
            (true, _) => more,
            _ => Self { start: self.start.min(more.start), end: self.end.max(more.end) },
        }
    }
}

/// What is known of frames. This alone decides what is due.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is the answer to a question of `When`")]
pub struct Knowledge {
    /// Whether a mapping exists.
    pub mapped: bool,
    /// What the caches may hold.
    pub residue: Residue,
    /// What the CPU may have written since the last clean.
    pub written: Span,
    /// What a device may have written since the last invalidate, while lines of it may be cached.
    pub stale: Span,
    /// Whether the CPU wrote to memory, itself or by a clean, with no device barrier since.
    pub unordered: bool,
    /// Whether the lines that the caches may hold are so many that whole caches are emptied: at the hand-over, or
    /// before the first use of what others had.
    pub many: bool,
    /// Whether users may have pages of the frames.
    pub shared: bool,
}

impl Knowledge {
    /// Makes the knowledge of frames that nothing maps, and that former owners left with this residue.
    pub const fn new(residue: Residue) -> Self {
        let (written, stale) = (Span::EMPTY, Span::EMPTY);
        Self { mapped: false, residue, written, stale, unordered: false, many: false, shared: false }
    }

    /// Returns whether an operation is due.
    #[inline]
    pub fn due(&self, when: When) -> bool {
        match when {
            When::Always => true,
            When::Mapped => self.mapped,
            When::Unmapped => !self.mapped,
            When::Lines => self.residue > Residue::Nothing,
            When::Unzeroed => self.residue > Residue::Zeroed,
            When::Written => !self.written.is_empty() && !self.many,
            When::ManyLines => self.many && self.residue > Residue::Nothing,
            When::Stale => !self.stale.is_empty(),
            When::Unordered => self.unordered,
            When::Shared => self.shared,
        }
    }

    /// Returns the bytes whose lines go one by one, now and at the CPU's next look, where the buffer is handed over to
    /// a device that may write so many.
    pub fn bytes_due(&self, device_writes: u32) -> u64 {
        let bytes = u64::from(self.written.end - self.written.start) + u64::from(device_writes);
        if self.residue > Residue::Nothing { bytes } else { 0 }
    }

    /// Returns what is known after an operation.
    #[must_use]
    #[inline]
    pub fn after(mut self, op: Op) -> Self {
        match op {
            Op::Map(memory) => {
                self.mapped = true;
                if memory == MemoryType::WriteBack {
                    // From here on the CPU may speculate lines in.
                    self.residue = self.residue.max(Residue::Clean);
                }
            }
            Op::Unmap | Op::Break => self.mapped = false,
            Op::Clean => {
                self.written = Span::EMPTY;
                self.residue = Residue::Clean;
                self.unordered = true;
            }
            Op::Invalidate => self.stale = Span::EMPTY,
            Op::Discard | Op::Flush => {
                self.residue = Residue::Nothing;
                self.written = Span::EMPTY;
                self.stale = Span::EMPTY;
                self.many = false;
            }
            Op::Zero => self.unordered = true,
            Op::DeviceBarrier => self.unordered = false,
            Op::Hold(_) => {
                // Its holder may write it, so it is not known to be zeros.
                self.residue = self.residue.max(Residue::Nothing);
                // The next hand-over is weighed anew.
                self.many = false;
            }
            Op::Mark(residue) => self.residue = residue,
            Op::MapUsers => self.shared = true,
            Op::UnmapUsers => self.shared = false,
            Op::Yield => {}
        }
        self
    }

    /// Returns what is known once the CPU has a writable view of a span.
    #[must_use]
    pub fn writable(mut self, span: Span) -> Self {
        self.residue = Residue::Dirty;
        self.written = self.written.with(span);
        self
    }

    /// Returns what is known once the CPU, or a user, may write past the caches.
    #[must_use]
    pub const fn writable_uncached(mut self) -> Self {
        self.unordered = true;
        self
    }

    /// Returns what is known after a device may have written a span. If the caches hold no lines, none is stale.
    #[must_use]
    pub fn device_wrote(mut self, span: Span) -> Self {
        if self.residue > Residue::Nothing {
            self.stale = self.stale.with(span);
        }
        self
    }
}
