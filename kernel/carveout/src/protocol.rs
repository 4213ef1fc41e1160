//! The protocol: what is done to a carved frame, in which order. One table.
//!
//! Guarantees: the [DMA API](crate::dma) executes [`Transition::row`] and nothing else, and A machine
//! executes [`CLEAN`], [`INVALIDATE`] and [`DISCARD`]; what `vm::space` does to descriptors is compared with [`MAP`]
//! and [`UNMAP`] by test, and so is what the port, loans and the reserve do with their rows. So the explorer in
//! `kernel/tests/protocol`, which takes its steps from here, explores what the code does: every interleaving with two
//! cores' TLBs and caches, a device and an adversary that speculates and evicts. `docs/src/protocol.md` is what it
//! found.

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
    /// Where a section takes the place of a pointer to a table: every core forgets the pointer.
    ForgetTable,
    /// Fault descriptors are written.
    Erase,
    /// Every core forgets its translations of the range, and no access through one is in flight.
    InvalidateTlb,
    /// The ledger takes the claim back.
    Release,
}

/// A mapping is made. Fault to valid: no translation is to be forgotten.
pub const MAP: [MapStep; 4] = [MapStep::Claim, MapStep::Describe, MapStep::Publish, MapStep::ForgetTable];
/// A mapping ends.
pub const UNMAP: [MapStep; 4] = [MapStep::Erase, MapStep::Publish, MapStep::InvalidateTlb, MapStep::Release];

/// A step of cache maintenance. Operations on lines are started by one and complete when waited for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LineStep {
    /// Dirty lines of the inner levels, on every core, to the outer one.
    CleanInner,
    /// Dirty lines of the outer level to memory.
    CleanOuter,
    /// Lines of the inner levels, on every core, are dropped.
    InvalidateInner,
    /// Lines of the outer level are dropped.
    InvalidateOuter,
    /// Waits for the inner operations: a DSB.
    WaitInner,
    /// Waits for the outer operations: the controller's sync.
    WaitOuter,
}

/// What the CPU wrote goes to memory: what leaves the inner level lands in the outer one, and would stay there if that
/// had been cleaned before. The outer operations complete by the device barrier, which must follow before a device
/// is told.
pub const CLEAN: [LineStep; 3] = [LineStep::CleanInner, LineStep::WaitInner, LineStep::CleanOuter];

/// Lines that a device made stale go, while a write-back mapping exists: the other way round, an inner line would be
/// refilled from an outer one that is stale. None is dirty.
pub const INVALIDATE: [LineStep; 4] =
    [LineStep::InvalidateOuter, LineStep::WaitOuter, LineStep::InvalidateInner, LineStep::WaitInner];

/// Lines of former owners go, dirty ones too, while no write-back mapping exists: nothing refills, but a dirty inner
/// line evicted after the outer level's turn would stay there and be written later, over whatever came meanwhile.
pub const DISCARD: [LineStep; 4] =
    [LineStep::InvalidateInner, LineStep::WaitInner, LineStep::InvalidateOuter, LineStep::WaitOuter];

/// What a transition consists of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// The frames are mapped: [`MAP`].
    Map(MemoryType),
    /// The mapping ends: [`UNMAP`].
    Unmap,
    /// What the CPU may have written: [`CLEAN`].
    Clean,
    /// What a device may have written: [`INVALIDATE`].
    Invalidate,
    /// All frames: [`DISCARD`].
    Discard,
    /// The CPU writes zeros through the mapping (I5).
    Zero,
    /// All that was written and cleaned is seen by bus masters before a device is told.
    DeviceBarrier,
    /// The records say from now on who may touch the bytes: one store, without the lock of mappings.
    Hold(Holder),
    /// The ledger says from now on what the caches may hold of frames that are no buffer's.
    Mark(Residue),
}

/// Whether an op is due, by what is known of the frames.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum When {
    /// In any case.
    Always,
    /// A mapping exists.
    Mapped,
    /// None exists.
    Unmapped,
    /// The caches may hold lines.
    Lines,
    /// Memory may hold other bytes than zeros.
    Unzeroed,
    /// The CPU may have written since the last clean.
    Written,
    /// A device may have written since the last invalidate, while lines may have been cached.
    Stale,
    /// The CPU wrote to memory, itself or by a clean, with no device barrier since.
    Unordered,
}

/// An op and when it is due.
pub type Due = (When, Op);

/// Transitions of a buffer, of a page that is lent, and of the reserve.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Transition {
    /// Contiguous to coherent.
    IntoCoherent,
    /// Contiguous to the CPU's stream.
    IntoStream,
    /// Contiguous to devices only.
    IntoDevice,
    /// The CPU is about to access its stream.
    Look,
    /// The stream is no longer the CPU's.
    ForDevice,
    /// The stream is the device's, which may be told.
    Grant,
    /// The stream is the CPU's again.
    ForCpu,
    /// No state any more: what a coherent buffer, the CPU's stream or devices' memory goes back to.
    IntoContiguous,
    /// The end, of a buffer that no device may access: its frames are free afterwards.
    Free,
    /// The end, of a buffer that a device may access still.
    Quarantine,
    /// The CPU is about to tell a device of what it wrote to coherent memory.
    Tell,
    /// A device that the CPU plays gains access to a device's buffer.
    OpenPort,
    /// It loses it.
    ClosePort,
    /// A borrower is about to access part of a page that it never wrote, in a frame of unknown content.
    OpenNewPage,
    /// It is about to access one that it wrote, or that holds zeros, or to overwrite all of one: a page that moves is
    /// opened twice so, where it was and where it will be.
    OpenPage,
    /// It is done. From here on the frame can be recalled: no more is done to it then.
    ClosePage,
    /// Idle frames are prepared for whoever comes next.
    FillReserve,
}

impl Transition {
    /// All of them.
    pub const ALL: [Self; 17] = [
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
        Self::Tell,
        Self::OpenPort,
        Self::ClosePort,
        Self::OpenNewPage,
        Self::OpenPage,
        Self::ClosePage,
        Self::FillReserve,
    ];

    /// Steps of the longest row.
    pub const LONGEST: usize = {
        let (mut longest, mut n) = (0, 0);
        while n < Self::ALL.len() {
            let steps = Self::ALL[n].row().len();
            longest = if steps > longest { steps } else { longest };
            n += 1;
        }
        longest
    };

    /// What it does, in this order.
    pub const fn row(self) -> &'static [Due] {
        use MemoryType::{NonCacheable, WriteBack};
        use Op::{Clean, DeviceBarrier, Discard, Hold, Invalidate, Map, Mark, Unmap, Zero};
        use When::{Always, Lines, Mapped, Stale, Unmapped, Unordered, Unzeroed, Written};
        match self {
            Self::IntoCoherent => &[
                (Always, Map(NonCacheable)),
                (Lines, Discard),
                (Unzeroed, Zero),
                (Unordered, DeviceBarrier),
                (Always, Hold(Holder::Both)),
            ],
            Self::IntoStream => &[
                (Unzeroed, Map(NonCacheable)),
                (Lines, Discard),
                (Unzeroed, Zero),
                (Mapped, Unmap),
                (Always, Hold(Holder::Cpu)),
            ],
            Self::IntoDevice => &[
                (Unzeroed, Map(NonCacheable)),
                (Lines, Discard),
                (Unzeroed, Zero),
                (Unordered, DeviceBarrier),
                (Mapped, Unmap),
                (Always, Hold(Holder::Device)),
            ],
            Self::Look => &[(Unmapped, Map(WriteBack)), (Stale, Invalidate)],
            Self::ForDevice => &[(Written, Clean), (Mapped, Unmap)],
            Self::Grant => &[(Unordered, DeviceBarrier), (Always, Hold(Holder::Device))],
            Self::ForCpu => &[(Always, Hold(Holder::Cpu))],
            Self::IntoContiguous => &[(Mapped, Unmap), (Always, Hold(Holder::Nobody))],
            Self::Free | Self::Quarantine => &[(Mapped, Unmap)],
            Self::Tell => &[(Always, DeviceBarrier)],
            Self::OpenPort => &[(Unmapped, Map(NonCacheable)), (Lines, Discard)],
            Self::ClosePort => &[(Always, DeviceBarrier), (Mapped, Unmap)],
            // Former lines may stay: the zeros, or what is written over all of the page, take their place.
            Self::OpenNewPage => &[(Always, Mark(Residue::Dirty)), (Always, Map(WriteBack)), (Always, Zero)],
            Self::OpenPage => &[(Always, Mark(Residue::Dirty)), (Always, Map(WriteBack))],
            Self::ClosePage => &[(Always, Unmap)],
            Self::FillReserve => &[
                (Always, Map(NonCacheable)),
                (Lines, Discard),
                (Unzeroed, Zero),
                (Always, DeviceBarrier),
                (Always, Unmap),
                (Always, Mark(Residue::Zeroed)),
            ],
        }
    }
}

/// Bytes of a buffer, as one run: the smallest that holds all that was added. Empty if `start` is `end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

impl Span {
    /// No byte.
    pub const EMPTY: Self = Self { start: 0, end: 0 };

    /// Whether it holds no byte.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The smallest run that holds both.
    #[must_use]
    pub fn with(self, more: Self) -> Self {
        match (self.is_empty(), more.is_empty()) {
            (_, true) => self,
            (true, _) => more,
            _ => Self { start: self.start.min(more.start), end: self.end.max(more.end) },
        }
    }
}

/// What is known of frames: by this alone it is decided what is due.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Knowledge {
    /// Whether a mapping exists.
    pub mapped: bool,
    /// What the caches may hold.
    pub residue: Residue,
    /// What the CPU may have written since the last clean.
    pub written: Span,
    /// What a device may have written since the last invalidate, while lines of it may be cached.
    pub stale: Span,
    /// The CPU wrote to memory, itself or by a clean, with no device barrier since.
    pub unordered: bool,
}

impl Knowledge {
    /// Of frames that nothing maps and former owners left so.
    pub const fn new(residue: Residue) -> Self {
        Self { mapped: false, residue, written: Span::EMPTY, stale: Span::EMPTY, unordered: false }
    }

    /// Whether an op is due.
    #[inline]
    pub fn due(&self, when: When) -> bool {
        match when {
            When::Always => true,
            When::Mapped => self.mapped,
            When::Unmapped => !self.mapped,
            When::Lines => self.residue > Residue::Nothing,
            When::Unzeroed => self.residue > Residue::Zeroed,
            When::Written => !self.written.is_empty(),
            When::Stale => !self.stale.is_empty(),
            When::Unordered => self.unordered,
        }
    }

    /// The same after an op.
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
            Op::Unmap => self.mapped = false,
            Op::Clean => {
                self.written = Span::EMPTY;
                self.residue = Residue::Clean;
                self.unordered = true;
            }
            Op::Invalidate => self.stale = Span::EMPTY,
            Op::Discard => {
                self.residue = Residue::Nothing;
                self.written = Span::EMPTY;
                self.stale = Span::EMPTY;
            }
            Op::Zero => self.unordered = true,
            Op::DeviceBarrier => self.unordered = false,
            // Whoever holds it writes it.
            Op::Hold(_) => self.residue = self.residue.max(Residue::Nothing),
            Op::Mark(residue) => self.residue = residue,
        }
        self
    }

    /// The same once the CPU has a writable view of a span.
    #[must_use]
    pub fn writable(mut self, span: Span) -> Self {
        self.residue = Residue::Dirty;
        self.written = self.written.with(span);
        self
    }

    /// The same after a device may have written a span. Without lines, none is stale.
    #[must_use]
    pub fn device_wrote(mut self, span: Span) -> Self {
        if self.residue > Residue::Nothing {
            self.stale = self.stale.with(span);
        }
        self
    }
}
