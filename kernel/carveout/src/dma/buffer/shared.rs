//! A buffer that users share, page by page.
//!
//! Guarantees: each page is in one domain. The CPU's pages are mapped for the kernel, and users have them through
//! mappings that begin after that one and end before it (I1). A device's pages are mapped for nobody (I4). What is due
//! when pages change domains is decided by the protocol's rows, from what these pages went through (I3).
//!
//! The pages form parts: runs of one history. A call that names other pages than one part splits parts or joins them.

use crate::addr::{FRAME_SHIFT, FRAME_SIZE, FrameRange};
use crate::dma::buffer::direction::{Cpu, DataDirection};
use crate::dma::buffer::effort::Effort;
use crate::dma::buffer::raw::Raw;
use crate::dma::buffer::stream::Stream;
use crate::dma::exec::{Done, Subject, run};
use crate::dma::registry::Dma;
use crate::holder::Holder;
use crate::machine::Machine;
use crate::name::Name;
use crate::protocol::{Knowledge, Span, Transition, When};
use crate::vm::attr::MemoryType;
use crate::vm::ledger::{LedgerError, Residue};
use crate::vm::mapped::{Mapped, Part};
use crate::vm::user::UserAccess;
use arrayvec::ArrayVec;
use core::fmt;
use core::ops::Range;

/// The most parts of a shared buffer.
pub const MAX_PARTS: usize = 16;

/// How users, and the kernel, have the pages of a shared buffer mapped. It is one choice for the buffer's life (I1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum UserView {
    /// Through the caches, write-back. Pages are cleaned and invalidated where they change domains.
    Cached,
    /// Past the caches: Normal memory, non-cacheable. Writes combine. No line is maintained.
    WriteCombining,
}

/// Who may access pages of a shared buffer now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShareDomain {
    /// Nobody: no program asked for them since the last device gave them back.
    Nobody,
    /// The users' programs, to read alone or to write too. Pages that they may write are cleaned before a device gets
    /// them.
    Cpu(UserAccess),
    /// Devices: one that may write, or any number that read.
    Device {
        /// The one that came first.
        master: Name,
        /// How many there are.
        count: u16,
        /// Whether it may write.
        writes: bool,
    },
}

impl fmt::Display for ShareDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::Cpu(access) => write!(f, "programs, {access}"),
            Self::Device { master, writes, .. } => write!(f, "{master}, {}", if *writes { "-w-" } else { "r--" }),
        }
    }
}

/// Who maps pages for users, and takes them away.
pub(in crate::dma) trait Users {
    /// Gives each user what it may have of these pages of the buffer, which `mapped` maps for the kernel.
    fn map(&self, pages: Range<u32>, mapped: &Mapped, access: UserAccess);

    /// Takes these pages of the buffer from each user that may have some.
    fn unmap(&self, pages: Range<u32>);
}

/// Why pages did not change domains. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::dma) enum PartError {
    /// A device has some of the pages.
    Device(Name),
    /// The buffer would fall into too many parts.
    TooMany,
}

/// A run of pages with one history.
#[derive(Debug)]
struct SharedPart {
    first: u32,
    count: u32,
    domain: ShareDomain,
    /// Spans count from the part's first byte on.
    knows: Knowledge,
    mapped: Option<Mapped>,
}

impl SharedPart {
    const fn pages(&self) -> Range<u32> {
        self.first..self.first + self.count
    }

    const fn bytes(&self) -> u32 {
        self.count << FRAME_SHIFT
    }

    const fn whole(&self) -> Span {
        Span { start: 0, end: self.bytes() }
    }
}

/// A buffer that users share.
pub(in crate::dma) struct Shared<M: Machine + 'static> {
    raw: Raw<M>,
    view: UserView,
    parts: ArrayVec<SharedPart, MAX_PARTS>,
}

impl<M: Machine> Shared<M> {
    /// Makes it of a stream of whole pages that the CPU has.
    pub(in crate::dma) fn new(stream: Stream<M, DataDirection, Cpu>, view: UserView) -> Self {
        let raw = stream.raw;
        raw.run(Transition::IntoContiguous);
        let knows = Knowledge { written: Span::EMPTY, ..raw.knows.get() };
        let mut parts = ArrayVec::new();
        let count = raw.frames().count();
        parts.push(SharedPart { first: 0, count, domain: ShareDomain::Nobody, knows, mapped: None });
        Self { raw, view, parts }
    }

    /// Returns a number that no other buffer has.
    pub(in crate::dma) fn id(&self) -> u64 {
        self.raw.standing.born()
    }

    /// Returns the frames of some of its pages.
    pub(in crate::dma) fn frames(&self, pages: &Range<u32>) -> Option<FrameRange> {
        self.raw.frames().part(pages.start, pages.end.checked_sub(pages.start)?)
    }

    /// Returns the place of the part that is these pages, if there is one.
    fn place(&self, pages: &Range<u32>) -> Option<usize> {
        self.parts.iter().position(|part| part.pages() == *pages)
    }

    /// Returns the effort that it took so far.
    pub(in crate::dma) fn effort(&self) -> Effort {
        self.raw.effort()
    }

    /// Returns the domain of a page.
    pub(in crate::dma) fn domain(&self, page: u32) -> Option<ShareDomain> {
        self.parts.iter().find(|part| part.pages().contains(&page)).map(|part| part.domain)
    }

    /// Calls `each` with the domain of each part.
    pub(in crate::dma) fn for_each_domain(&self, mut each: impl FnMut(Range<u32>, ShareDomain)) {
        self.parts.iter().for_each(|part| each(part.pages(), part.domain));
    }

    /// Makes pages the CPU's, for programs that will read or write them. Returns whether anything was due.
    pub(in crate::dma) fn set_cpu(
        &mut self,
        pages: &Range<u32>,
        access: UserAccess,
        users: &dyn Users,
    ) -> Result<bool, PartError> {
        self.check(pages, false)?;
        let runs = self.without(pages, access);
        for run in &runs {
            let n = self.gather(run, users)?;
            self.parts[n].domain = ShareDomain::Cpu(access);
            self.show(n, users);
        }
        self.restore(users);
        self.note_holder();
        Ok(!runs.is_empty())
    }

    /// Returns the runs of these pages that programs cannot access so.
    fn without(&self, pages: &Range<u32>, access: UserAccess) -> ArrayVec<Range<u32>, MAX_PARTS> {
        let mut runs = ArrayVec::<Range<u32>, MAX_PARTS>::new();
        for part in self.parts.iter().filter(|part| !part.domain.serves(access)) {
            match (overlap(&part.pages(), pages), runs.last_mut()) {
                (Some(common), Some(last)) if last.end == common.start => last.end = common.end,
                (Some(common), _) => runs.push(common),
                (None, _) => {}
            }
        }
        runs
    }

    /// Makes pages a device's, which is to be told of them afterwards.
    pub(in crate::dma) fn lend(
        &mut self,
        pages: &Range<u32>,
        master: Name,
        direction: DataDirection,
        users: &dyn Users,
    ) -> Result<(), PartError> {
        let writes = direction.device_writes();
        self.check(pages, !writes)?;
        if let Some(n) = self.place(pages)
            && let ShareDomain::Device { count, .. } = &mut self.parts[n].domain
        {
            // Devices that read come together: nothing is due for the second.
            *count += 1;
            return Ok(());
        }
        let n = self.gather(pages, users)?;
        if self.parts[n].knows.due(When::Written) && self.parts[n].mapped.is_none() {
            // It was split or joined since it was written, so no mapping is left to clean it by.
            self.run(n, Transition::Look, users);
        }
        let part = &mut self.parts[n];
        let due = part.knows.bytes_due(if writes { part.bytes() } else { 0 });
        part.knows.many = self.raw.dma.empties_caches_for(due);
        self.run(n, Transition::ForDevice, users);
        self.run(n, Transition::Grant, users);
        self.parts[n].domain = ShareDomain::Device { master, count: 1, writes };
        self.restore(users);
        self.note_holder();
        Ok(())
    }

    /// Takes pages back from a device, which has finished with them. They are the pages that one call lent.
    pub(in crate::dma) fn take_back(&mut self, pages: &Range<u32>, users: &dyn Users) {
        let n = self.place(pages).expect("a part that a device has stays one");
        let part = &mut self.parts[n];
        let ShareDomain::Device { count, writes, .. } = &mut part.domain else { unreachable!("a device has it") };
        *count -= 1;
        if *count > 0 {
            return;
        }
        if *writes {
            part.knows = part.knows.device_wrote(part.whole());
        }
        part.domain = ShareDomain::Nobody;
        self.run(n, Transition::ForCpu, users);
        self.note_holder();
    }

    /// Calls `each` with what the kernel has mapped of these pages, for a user that comes to it.
    pub(in crate::dma) fn admit(&mut self, pages: &Range<u32>, mut each: impl FnMut(u32, Part<'_>, UserAccess)) {
        for part in &mut self.parts {
            let (Some(mapped), ShareDomain::Cpu(access)) = (&part.mapped, part.domain) else { continue };
            let Some(common) = overlap(&part.pages(), pages) else { continue };
            part.knows.shared = true;
            each(common.start, within(mapped, part.first, &common), access);
        }
    }

    /// Ends what users and the kernel have mapped of it. What no device may still use is freed with the value.
    pub(in crate::dma) fn end(mut self, users: &dyn Users) {
        for n in 0..self.parts.len() {
            self.run(n, Transition::Hide, users);
        }
        let most = self.parts.iter().map(|part| part.knows.residue).max().unwrap_or(Residue::Dirty);
        let lent = self.parts.iter().any(|part| matches!(part.domain, ShareDomain::Device { .. }));
        let raw = &self.raw;
        raw.knows.set(Knowledge::new(most));
        raw.exposed.set(lent);
    }

    /// Refuses pages that a device has, and pages that would make too many parts. If `reads`, another device that only
    /// reads, and has the very same pages, is no reason.
    fn check(&self, pages: &Range<u32>, reads: bool) -> Result<(), PartError> {
        let mut added = 0;
        for part in &self.parts {
            let Some(common) = overlap(&part.pages(), pages) else { continue };
            added += usize::from(common.start > part.first) + usize::from(common.end < part.pages().end);
            if let ShareDomain::Device { master, writes, .. } = part.domain
                && (!reads || writes || part.pages() != *pages)
            {
                return Err(PartError::Device(master));
            }
        }
        if self.parts.len() + added > MAX_PARTS { Err(PartError::TooMany) } else { Ok(()) }
    }

    /// Makes one part of these pages, none of which a device has. Returns its place. If it was more than one, or part
    /// of one, it is not mapped. Its domain is for the caller to say.
    fn gather(&mut self, pages: &Range<u32>, users: &dyn Users) -> Result<usize, PartError> {
        self.split(pages.start, users);
        self.split(pages.end, users);
        let from = self.parts.iter().position(|part| part.first == pages.start).ok_or(PartError::TooMany)?;
        let of = |part: &SharedPart| part.first < pages.end;
        let count = self.parts[from..].iter().take_while(|part| of(part)).count();
        if count == 1 {
            return Ok(from);
        }
        let group = from..from + count;
        let any = |when| self.parts[group.clone()].iter().any(|part| part.knows.due(when));
        // A span of several parts would hold what lies between them. Lines that are to be dropped must not be among
        // those that are to be cleaned.
        let mixed = any(When::Stale) && any(When::Written);
        for n in group.clone() {
            if mixed && self.parts[n].knows.due(When::Stale) {
                self.run(n, Transition::Look, users);
            }
            self.run(n, Transition::Hide, users);
        }
        let mut joined = self.parts.remove(from);
        for _ in 1..count {
            let next = self.parts.remove(from);
            let shift = |span: Span| span.moved_by(joined.bytes());
            joined.knows = Knowledge {
                residue: joined.knows.residue.max(next.knows.residue),
                written: joined.knows.written.with(shift(next.knows.written)),
                stale: joined.knows.stale.with(shift(next.knows.stale)),
                unordered: joined.knows.unordered || next.knows.unordered,
                ..joined.knows
            };
            joined.count += next.count;
        }
        self.parts.insert(from, joined);
        Ok(from)
    }

    /// Maps a part of the CPU's, for the kernel and for users.
    fn show(&mut self, n: usize, users: &dyn Users) {
        let row = match self.view {
            UserView::Cached => Transition::Show,
            UserView::WriteCombining => Transition::ShowUncached,
        };
        self.run(n, row, users);
        let part = &mut self.parts[n];
        if part.domain.serves(UserAccess::ReadWrite) {
            part.knows = match self.view {
                UserView::Cached => part.knows.writable(part.whole()),
                UserView::WriteCombining => part.knows.writable_uncached(),
            };
        }
    }

    /// Maps again what is the CPU's and lost its mapping because other pages of its part went elsewhere.
    fn restore(&mut self, users: &dyn Users) {
        for n in 0..self.parts.len() {
            if self.parts[n].mapped.is_none() && self.parts[n].domain.serves(UserAccess::Read) {
                self.show(n, users);
            }
        }
    }

    /// Splits the part that has this page behind its first one. There is room for one more.
    fn split(&mut self, page: u32, users: &dyn Users) {
        let inside = |part: &SharedPart| part.first < page && page < part.pages().end;
        let Some(n) = self.parts.iter().position(inside) else { return };
        self.run(n, Transition::Hide, users);
        let part = &mut self.parts[n];
        let (count, at) = (page - part.first, (page - part.first) << FRAME_SHIFT);
        let below = |span: Span| Span { start: span.start.min(at), end: span.end.min(at) };
        let above = |span: Span| Span { start: span.start.max(at) - at, end: span.end.max(at) - at };
        let known = part.knows;
        let rest = SharedPart {
            first: page,
            count: part.count - count,
            domain: part.domain,
            knows: Knowledge { written: above(known.written), stale: above(known.stale), ..known },
            mapped: None,
        };
        part.knows = Knowledge { written: below(known.written), stale: below(known.stale), ..known };
        part.count = count;
        self.parts.insert(n + 1, rest);
    }

    /// Does what is due of a transition of a part.
    fn run(&mut self, n: usize, transition: Transition, users: &dyn Users) {
        let part = &mut self.parts[n];
        let done = run(&mut PartPassage { raw: &self.raw, part, users }, transition);
        // A port has no buffer that is shared, and no other mapping is made of its frames.
        done.expect("the frames of a shared buffer are mapped by it alone (I1)");
    }

    /// Tells the records who has the buffer: a device, if one has any of it.
    fn note_holder(&self) {
        let rank = |part: &SharedPart| match part.domain {
            ShareDomain::Nobody => Holder::Nobody,
            ShareDomain::Cpu(_) => Holder::Cpu,
            ShareDomain::Device { .. } => Holder::Device,
        };
        let holders = |wanted| self.parts.iter().any(|part| rank(part) == wanted);
        let holder = [Holder::Device, Holder::Cpu].into_iter().find(|&holder| holders(holder));
        let residue = self.parts.iter().map(|part| part.knows.residue).max().unwrap_or(Residue::Dirty);
        self.raw.standing.set(holder.unwrap_or(Holder::Nobody), residue);
    }
}

impl ShareDomain {
    /// Returns whether the users' programs may access in this way.
    pub(in crate::dma) fn serves(self, access: UserAccess) -> bool {
        matches!(self, Self::Cpu(has) if has >= access)
    }
}

/// Returns the pages that two runs have in common.
pub(in crate::dma) fn overlap(a: &Range<u32>, b: &Range<u32>) -> Option<Range<u32>> {
    let common = a.start.max(b.start)..a.end.min(b.end);
    (common.start < common.end).then_some(common)
}

/// Returns the mapping of some pages, which are in what is mapped from page `first` on.
pub(in crate::dma) fn within<'m>(mapped: &'m Mapped, first: u32, pages: &Range<u32>) -> Part<'m> {
    let at = |page: u32| (page - first) * FRAME_SIZE;
    mapped.part(at(pages.start), at(pages.end)).expect("pages of what is mapped")
}

/// A part on its way through a transition.
struct PartPassage<'p, M: Machine + 'static> {
    raw: &'p Raw<M>,
    part: &'p mut SharedPart,
    users: &'p dyn Users,
}

impl<M: Machine> Subject<M> for PartPassage<'_, M> {
    type Refused = LedgerError;

    fn dma(&self) -> &Dma<M> {
        self.raw.dma
    }

    fn knows(&self) -> Knowledge {
        self.part.knows
    }

    fn learn(&mut self, knows: Knowledge) {
        self.part.knows = knows;
    }

    /// Maps the pages where they are whenever the kernel has the buffer mapped.
    fn map(&mut self, memory: MemoryType) -> Result<Mapped, LedgerError> {
        let &mut SharedPart { first, count, .. } = self.part;
        let frames = self.raw.frames().part(first, count).expect("a part of the buffer");
        self.raw.map_pages(first, frames, memory)
    }

    fn unmap(&mut self, mapped: Mapped) {
        self.raw.unmap_pages(mapped);
    }

    fn take_mapping(&mut self) -> Option<Mapped> {
        self.part.mapped.take()
    }

    fn keep(&mut self, mapped: Mapped) {
        self.part.mapped = Some(mapped);
    }

    fn count(&self, done: Done) {
        self.raw.count(done);
    }

    /// The records tell of the whole buffer ([`Shared::note_holder`]).
    fn hold(&mut self, _: Holder) {
        self.raw.transitions.set(self.raw.transitions.get() + 1);
    }

    fn map_users(&self, mapped: &Mapped) {
        if let ShareDomain::Cpu(access) = self.part.domain {
            self.users.map(self.part.pages(), mapped, access);
        }
    }

    fn unmap_users(&mut self) {
        self.users.unmap(self.part.pages());
    }
}
