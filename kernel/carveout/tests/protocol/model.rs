//! The model: one line of one frame, two cores, a device and an adversary. `docs/src/protocol.md` describes it.

use carveout::dma::Holder;
use carveout::protocol::{
    self, Due, Knowledge, LineStep, MAP, MAP_USERS, MapStep, Op, Span, Transition, UNMAP, UNMAP_USERS, When,
};
use carveout::vm::attr::MemoryType::{self, NonCacheable, WriteBack};
use carveout::vm::ledger::Residue;
use stateright::{Checker, Model, Path, Property};
use std::fmt::{self, Write as _};

/// What a copy of the line holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Data {
    /// What an owner before this one left.
    Former,
    /// Something this owner or its device wrote, but not last.
    Stale,
    /// What was written last.
    Fresh,
}
use Data::{Former, Fresh, Stale};

/// The line in the inner caches. They snoop each other: all copies are equal, a dirty one is the only one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Inner {
    /// One bit a core.
    cores: u8,
    data: Data,
    dirty: bool,
}

/// The line in the outer cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Outer {
    data: Data,
    dirty: bool,
}

/// Where a frame can be mapped: at its buffer's address, at the port's, in the loan window, where the kernel had it, in
/// users' address spaces, to read or to write. For users these two are one address, and one descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Place {
    Own,
    Port,
    Lane,
    Kernels,
    Reader,
    Writer,
}
use Place::{Kernels, Lane, Own, Port, Reader, Writer};

const PLACES: [Place; 6] = [Own, Port, Lane, Kernels, Reader, Writer];
/// The places whose tables are somebody else's, and are there all the time.
const OTHERS: u8 = 1 << Kernels as u8 | 1 << Reader as u8 | 1 << Writer as u8;
/// The owner runs its transitions on core 0, the port on core 1; views are used on both.
const CORES: [usize; 2] = [0, 1];

/// Translations, as a set: one bit for each place and type.
const fn entry(place: Place, memory: MemoryType) -> u16 {
    (match memory {
        WriteBack => 1,
        _ => 2,
    }) << (2 * place as u8)
}
/// All write-back ones.
const CACHEABLE: u16 = entry(Own, WriteBack)
    | entry(Port, WriteBack)
    | entry(Lane, WriteBack)
    | entry(Kernels, WriteBack)
    | entry(Reader, WriteBack)
    | entry(Writer, WriteBack);
/// All of a place.
const fn entries(place: Place) -> u16 {
    entry(place, WriteBack) | entry(place, NonCacheable)
}

/// Which way a stream goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Direction {
    cpu_writes: bool,
    device_writes: bool,
}
const DIRECTIONS: [Direction; 3] = [
    Direction { cpu_writes: true, device_writes: false },
    Direction { cpu_writes: false, device_writes: true },
    Direction { cpu_writes: true, device_writes: true },
];

/// What view of its stream the CPU has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum View {
    None,
    Read,
    /// Writable, of the line.
    Line,
    /// Writable, of another part of the buffer.
    Elsewhere,
}

/// A buffer is the line and something else.
const LINE: Span = Span { start: 0, end: 1 };
const ELSEWHERE: Span = Span { start: 1, end: 2 };
const EVERYTHING: Span = Span { start: 0, end: 2 };

const fn holds_line(span: Span) -> bool {
    span.start < LINE.end && LINE.start < span.end
}

/// What a borrower's page is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Page {
    /// Never written: it must read as zeros.
    New,
    /// Its borrower's bytes, or zeros for it.
    Kept,
    /// Being overwritten, and not read before that is done.
    Overwritten,
}

/// The value of the API that exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Phase {
    /// The kernel's own RAM. `given`: it was given back and the kernel mapped it not yet.
    Kernels {
        given: bool,
    },
    Free,
    /// Free, and mapped as the coherent buffer was that it is of.
    Warm,
    /// `used`: it was in a state, so what the frame holds is its owner's.
    Contiguous {
        used: bool,
    },
    Lent {
        page: Page,
        open: bool,
    },
    /// `told`: a device may access, and the CPU does not; `exposed`: one was told; `wrote`: the CPU wrote since.
    Coherent {
        told: bool,
        exposed: bool,
        wrote: bool,
    },
    Cpu {
        direction: Direction,
        view: View,
    },
    /// `wrote`: the device wrote the line since the hand-over.
    Device {
        direction: Direction,
        wrote: bool,
    },
    DeviceOnly,
    Quarantined,
    /// A pool of streams has the buffer, and the line is one of its blocks, which nobody holds.
    FreeBlock {
        direction: Direction,
    },
    CpuBlock {
        direction: Direction,
        view: View,
    },
    /// `wrote`: the device wrote the line since the hand-over.
    DeviceBlock {
        direction: Direction,
        wrote: bool,
    },
    /// Users share the buffer, and the line is nobody's now.
    SharedIdle {
        uncached: bool,
    },
    /// The line is the users': they may write it, or read it alone.
    SharedCpu {
        uncached: bool,
        writes: bool,
    },
    SharedDevice {
        uncached: bool,
    },
}

impl Phase {
    /// A device wrote the line.
    fn note_write(&mut self) {
        if let Self::Device { wrote, .. } | Self::DeviceBlock { wrote, .. } = self {
            *wrote = true;
        }
    }

    /// A device may access, and no CPU but as a device. Of a block only the types say so.
    const fn is_device(self) -> bool {
        matches!(self, Self::Device { .. } | Self::DeviceOnly | Self::Quarantined | Self::SharedDevice { .. })
    }
}

/// What the owner calls, with its arguments.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Call {
    IntoCoherent,
    IntoStream(Direction),
    IntoDevice,
    Look(View),
    /// `many`: it is so large that whole caches are emptied.
    ForDevice {
        many: bool,
    },
    Grant,
    ForCpu(Span),
    IntoContiguous,
    Free,
    Quarantine,
    Warm,
    Reuse,
    FillWarm,
    Evict,
    Tell,
    OpenPort,
    ClosePort,
    OpenNewPage,
    OpenPage(Page),
    ClosePage,
    FillReserve,
    Take,
    GiveBack,
    /// To the device, or else to the pool.
    GiveBlock {
        to_device: bool,
    },
    TakeBlock(Span),
    /// A stream that nobody looked at becomes a buffer that users share.
    Share {
        uncached: bool,
    },
    Show {
        writes: bool,
    },
    ShowUncached {
        writes: bool,
    },
    Hide,
}

impl Call {
    const fn transition(self) -> Transition {
        match self {
            Self::IntoCoherent => Transition::IntoCoherent,
            Self::IntoStream(_) => Transition::IntoStream,
            Self::IntoDevice => Transition::IntoDevice,
            Self::Look(_) => Transition::Look,
            Self::ForDevice { .. } => Transition::ForDevice,
            Self::Grant => Transition::Grant,
            Self::ForCpu(_) => Transition::ForCpu,
            Self::IntoContiguous | Self::Share { .. } => Transition::IntoContiguous,
            Self::Free => Transition::Free,
            Self::Quarantine => Transition::Quarantine,
            Self::Warm => Transition::Warm,
            Self::Reuse => Transition::Reuse,
            Self::FillWarm => Transition::FillWarm,
            Self::Evict => Transition::Evict,
            Self::Tell => Transition::Tell,
            Self::OpenPort => Transition::OpenPort,
            Self::ClosePort => Transition::ClosePort,
            Self::OpenNewPage => Transition::OpenNewPage,
            Self::OpenPage(_) => Transition::OpenPage,
            Self::ClosePage => Transition::ClosePage,
            Self::FillReserve => Transition::FillReserve,
            Self::Take => Transition::Take,
            Self::GiveBack => Transition::GiveBack,
            Self::GiveBlock { .. } => Transition::GiveBlock,
            Self::TakeBlock(_) => Transition::TakeBlock,
            Self::Show { .. } => Transition::Show,
            Self::ShowUncached { .. } => Transition::ShowUncached,
            Self::Hide => Transition::Hide,
        }
    }
}

/// A call under way: the op and the step of it that come next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Running {
    call: Call,
    op: u8,
    step: u8,
}

/// Who runs a call: its core has the same number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Context {
    Owner,
    Mock,
}
use Context::{Mock, Owner};

/// A step of an op.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Step {
    Map(MapStep, MemoryType),
    Line(LineStep),
    Zero,
    DeviceBarrier,
    Hold(Holder),
    Mark(Residue),
    Yield,
    /// On the tables and translations of users.
    Users(MapStep),
}

/// An op's step of that number.
pub(crate) fn step_of(op: Op, n: usize) -> Option<Step> {
    let only = |step| (n == 0).then_some(step);
    match op {
        Op::Map(memory) => MAP.get(n).map(|&step| Step::Map(step, memory)),
        Op::Unmap | Op::Break => UNMAP.get(n).map(|&step| Step::Map(step, NonCacheable)),
        Op::Clean => protocol::clean(LEVELS).nth(n).map(Step::Line),
        Op::Invalidate => protocol::invalidate(LEVELS).nth(n).map(Step::Line),
        Op::Discard => protocol::discard(LEVELS).nth(n).map(Step::Line),
        Op::Flush => protocol::flush(LEVELS).nth(n).map(Step::Line),
        Op::Zero => only(Step::Zero),
        Op::DeviceBarrier => only(Step::DeviceBarrier),
        Op::Hold(holder) => only(Step::Hold(holder)),
        Op::Mark(residue) => only(Step::Mark(residue)),
        Op::Yield => only(Step::Yield),
        Op::MapUsers => MAP_USERS.get(n).copied().map(Step::Users),
        Op::UnmapUsers => UNMAP_USERS.get(n).copied().map(Step::Users),
    }
}

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Fault {
    /// Two translations with different types.
    I1,
    /// Memory is accessed non-cacheable while a line of it is left.
    I3Line,
    /// The CPU reads something that was overwritten.
    I3CpuReads,
    /// The device reads something that was overwritten.
    I3DeviceReads,
    /// A translation exists while a device owns the frame.
    I4,
    /// Data of a former owner is read.
    I5,
    /// An access or an operation of the owner, or of the port, finds no translation.
    Unmapped,
    /// The owner, or the port of the device that owns the frame, is refused.
    Refused,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::I1 => "I1: two translations with different types",
            Self::I3Line => "I3: a line is left under a non-cacheable access",
            Self::I3CpuReads => "I3: the CPU reads what was overwritten",
            Self::I3DeviceReads => "I3: the device reads what was overwritten",
            Self::I4 => "I4: a translation is left while the device owns the frame",
            Self::I5 => "I5: data of a former owner is read",
            Self::Unmapped => "fault: an access or operation finds no translation",
            Self::Refused => "refused: who owns the frame may not map it",
        })
    }
}

/// What counts as wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Judge {
    /// Any fault, at the first state that has it.
    Invariants,
    /// Only what a program sees: wrong data, an access that faults, a call refused. A stray pointer may write.
    Consequences,
    /// Only I1, with a driver that hands buffers back while a port is open: here a refusal is what must come.
    Careless,
}

/// What is changed in the table: op and step by their numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutation {
    None,
    /// The step is left out.
    Drop(Transition, u8, u8),
    /// The step works on the core alone that takes it.
    Local(Transition, u8, u8),
    /// Inner operations become outer ones and the other way round.
    Reverse(Transition, u8),
    /// The op changes places with the next.
    Swap(Transition, u8),
    /// Who takes a frame that stayed mapped evicts nothing.
    ForgetEviction,
    /// Whole caches are emptied while the mapping exists.
    FlushMapped,
    /// What is dirty is dropped where whole caches are emptied: DCISW in place of DCCISW.
    FlushDrops,
    /// Users get pages with another attribute than the kernel's mapping has.
    OtherAttribute,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Protocol {
    pub(crate) judge: Judge,
    pub(crate) mutation: Mutation,
    /// There is an outer cache.
    pub(crate) outer: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    inner: Option<Inner>,
    outer: Option<Outer>,
    /// A non-cacheable write on its way to memory.
    buffer: Option<Data>,
    memory: Data,
    /// Maintenance started and not complete, by context: one bit an `Operation`.
    pending: [u8; 2],
    /// Descriptors as written, and as a walk reads them.
    written: [Option<MemoryType>; PLACES.len()],
    seen: [Option<MemoryType>; PLACES.len()],
    /// All translations that each core may hold: any it could have walked since the last invalidate.
    tlb: [u16; 2],
    /// Mappings are sections, which take one step more than pages: where one is, a pointer to an empty table was, and
    /// the core may hold it still. One bit a place.
    pointers: [u8; 2],
    claimed: bool,
    /// What the ledger says the caches may hold of the free frame.
    freed: Residue,
    record: (Holder, Residue),
    knows: Knowledge,
    phase: Phase,
    running: Option<Running>,
    port: Option<Running>,
    port_open: bool,
    port_knows: Knowledge,
    pub(crate) fault: Option<Fault>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Action {
    Alloc,
    Lend,
    /// What was lent is idle again: recalled, or given back.
    Recall,
    /// A block of the pool is allocated.
    AllocBlock,
    /// The CPU begins to use its block otherwise, which costs no step.
    ViewBlock(View),
    Begin(Context, Call),
    Take(Context),
    Read(usize),
    Write(usize),
    /// A user's program runs at any time, and stops where it faults.
    UserRead(usize),
    UserWrite(usize),
    PortRead,
    PortWrite,
    DeviceRead,
    DeviceWrite,
    DeviceDone,
    /// A device is told of a coherent buffer that the CPU did not write: no barrier is the driver's duty.
    Expose,
    /// The kernel maps what it was given back, as it maps all its RAM.
    KernelMaps,
    /// A pointer that outlived its mapping is written through.
    Stray(usize, Place, MemoryType),
    /// A descriptor reaches the walker before it is published.
    Arrive(Place),
    /// Maintenance completes before it is waited for.
    Complete(Context, Operation),
    FillInner(usize),
    FillOuter(usize),
    /// A dirty line is shared with the other core: it goes outward.
    Share(usize),
    EvictInner(usize),
    EvictOuter,
    Drain,
}

/// Cache levels, by number. One that the model is without takes its steps and does nothing.
const LEVELS: usize = 2;
pub(crate) const INNER: usize = 0;
const OUTER: usize = 1;

/// Maintenance that completes at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Operation {
    Clean(usize),
    Invalidate(usize),
    /// One core's caches are emptied. The cores do so each at its own pace, and a line may move between them.
    FlushCore(usize),
    FlushOuter,
}
const OPERATIONS: [Operation; 7] = [
    Operation::Clean(INNER),
    Operation::Clean(OUTER),
    Operation::Invalidate(INNER),
    Operation::Invalidate(OUTER),
    Operation::FlushCore(0),
    Operation::FlushCore(1),
    Operation::FlushOuter,
];

const fn bit(operation: Operation) -> u8 {
    1 << match operation {
        Operation::Clean(level) => level,
        Operation::Invalidate(level) => LEVELS + level,
        Operation::FlushCore(core) => 2 * LEVELS + core,
        Operation::FlushOuter => 2 * LEVELS + CORES.len(),
    }
}

/// What a step starts: on all cores, or on one alone.
fn started(step: LineStep, alone: Option<usize>) -> u8 {
    match step {
        LineStep::Clean(level) => bit(Operation::Clean(level)),
        LineStep::Invalidate(level) => bit(Operation::Invalidate(level)),
        LineStep::Flush(INNER) => {
            let cores = CORES.iter().filter(|&&core| alone.is_none_or(|alone| alone == core));
            cores.fold(0, |all, &core| all | bit(Operation::FlushCore(core)))
        }
        LineStep::Flush(_) => bit(Operation::FlushOuter),
        LineStep::Wait(_) => 0,
    }
}

/// What a DSB waits for.
const INSIDE: u8 = bit(Operation::Clean(INNER))
    | bit(Operation::Invalidate(INNER))
    | bit(Operation::FlushCore(0))
    | bit(Operation::FlushCore(1));

/// The memory system.
impl State {
    /// Something is written: no copy is the last any more.
    fn overwrite(&mut self) {
        let age = |data: &mut Data| *data = if *data == Fresh { Stale } else { *data };
        age(&mut self.memory);
        self.inner.iter_mut().for_each(|line| age(&mut line.data));
        self.outer.iter_mut().for_each(|line| age(&mut line.data));
        self.buffer.iter_mut().for_each(age);
    }

    /// An owner or a borrower that used the frame is done with it: whatever is there is a former one's.
    fn leave(&mut self) {
        self.memory = Former;
        self.inner.iter_mut().for_each(|line| line.data = Former);
        self.outer.iter_mut().for_each(|line| line.data = Former);
        self.buffer.iter_mut().for_each(|data| *data = Former);
    }

    /// Data leaves the inner caches.
    fn outward(&mut self, model: Protocol, data: Data) {
        if model.outer {
            self.outer = Some(Outer { data, dirty: true });
        } else {
            self.write_back(data);
        }
    }

    /// Data leaves the caches. What was written before through another mapping does not come later.
    fn write_back(&mut self, data: Data) {
        self.memory = data;
        self.buffer = None;
    }

    /// What is found beyond the inner caches.
    fn beyond(&self) -> Data {
        self.outer.map(|line| line.data).or(self.buffer).unwrap_or(self.memory)
    }

    fn complete(&mut self, model: Protocol, context: Context, operation: Operation) {
        self.pending[context as usize] &= !bit(operation);
        let local = model.is_local(self, context, operation).then_some(context as usize);
        match operation {
            Operation::Clean(INNER) => {
                if let Some(line) = &mut self.inner
                    && line.dirty
                    && local.is_none_or(|core| line.cores == 1 << core)
                {
                    line.dirty = false;
                    let data = line.data;
                    self.outward(model, data);
                }
            }
            Operation::Invalidate(INNER) => {
                let keep = local.map_or(0, |core| !(1 << core));
                self.keep_inner(keep);
            }
            Operation::Clean(OUTER) => {
                if let Some(Outer { data, dirty: true }) = self.outer {
                    self.outer = Some(Outer { data, dirty: false });
                    self.write_back(data);
                }
            }
            Operation::Invalidate(OUTER) => self.outer = None,
            Operation::FlushCore(core) => {
                if let Some(line) = self.inner.filter(|line| line.cores & 1 << core != 0) {
                    self.keep_inner(!(1 << core));
                    if line.dirty && model.mutation != Mutation::FlushDrops {
                        self.outward(model, line.data);
                    }
                }
            }
            Operation::FlushOuter => {
                if let Some(Outer { data, dirty: true }) = self.outer.take() {
                    self.write_back(data);
                }
            }
            Operation::Clean(_) | Operation::Invalidate(_) => unreachable!("there are two levels"),
        }
    }

    fn complete_all(&mut self, model: Protocol, context: Context, which: u8) {
        for operation in OPERATIONS {
            if self.pending[context as usize] & which & bit(operation) != 0 {
                self.complete(model, context, operation);
            }
        }
    }

    fn keep_inner(&mut self, cores: u8) {
        self.inner = self.inner.map(|line| Inner { cores: line.cores & cores, ..line }).filter(|line| line.cores != 0);
    }

    /// Every core walks whatever there is to walk.
    fn walk(&mut self) {
        for place in PLACES {
            for core in CORES {
                match self.seen[place as usize] {
                    Some(memory) => self.tlb[core] |= entry(place, memory),
                    // How the kernel maps, and which tables users have, is their own matter.
                    None => self.pointers[core] |= (1 << place as u8) & !OTHERS,
                }
            }
        }
    }

    /// The kernel maps the frame, and does it right.
    fn map_for_kernel(&mut self) {
        self.written[Kernels as usize] = Some(WriteBack);
        self.seen[Kernels as usize] = Some(WriteBack);
        self.walk();
    }

    /// A core accesses a place: the translations it may use.
    fn access(&mut self, model: Protocol, core: usize, place: Place) -> u16 {
        let found = self.tlb[core] & entries(place);
        if found == 0 || self.pointers[core] & (1 << place as u8) != 0 {
            self.fault = self.fault.or(Some(Fault::Unmapped));
        }
        if found & !CACHEABLE != 0 && (self.inner.is_some() || self.outer.is_some()) && model.judge == Judge::Invariants
        {
            self.fault = self.fault.or(Some(Fault::I3Line));
        }
        found
    }

    fn cpu_reads(&mut self, model: Protocol, core: usize, place: Place) {
        let found = self.access(model, core, place);
        let mut data = Vec::new();
        if found & CACHEABLE != 0 {
            data.push(self.inner.map_or(self.beyond(), |line| line.data));
        }
        if found & !CACHEABLE != 0 {
            // A line that is left may be hit or not.
            data.push(self.buffer.unwrap_or(self.memory));
            data.extend(self.inner.map(|line| line.data));
            data.extend(self.outer.map(|line| line.data));
        }
        self.judge(data, Fault::I3CpuReads);
    }

    /// Where a context maps.
    fn place(&self, context: Context) -> Place {
        match (context, self.phase) {
            (Owner, Phase::Kernels { .. }) => Kernels,
            (Owner, Phase::Free | Phase::Lent { .. }) => Lane,
            (Owner, _) => Own,
            (Mock, _) => Port,
        }
    }

    /// Where an open port accesses: a coherent buffer at its owner's address.
    const fn port_place(&self) -> Place {
        if self.port_knows.mapped { Port } else { Own }
    }

    fn judge(&mut self, data: impl IntoIterator<Item = Data>, stale: Fault) {
        for data in data {
            self.fault = self.fault.or(match data {
                Former => Some(Fault::I5),
                Stale => Some(stale),
                Fresh => None,
            });
        }
    }

    fn cpu_writes(&mut self, core: usize, memory: MemoryType, data: Data) {
        if data == Fresh {
            self.overwrite();
        }
        if memory == WriteBack {
            self.inner = Some(Inner { cores: 1 << core, data, dirty: true });
        } else {
            self.buffer = Some(data);
        }
    }
}

/// The sequences.
impl Protocol {
    /// The row's op of that number.
    fn op(self, transition: Transition, n: usize) -> Option<Due> {
        let n = match self.mutation {
            Mutation::Swap(which, op) if which == transition && n == usize::from(op) => n + 1,
            Mutation::Swap(which, op) if which == transition && n == usize::from(op) + 1 => n - 1,
            Mutation::FlushMapped if transition == Transition::ForDevice => match n {
                2 => return Some((When::ManyLines, Op::Flush)),
                3 => 2,
                _ => n,
            },
            _ => n,
        };
        transition.row().get(n).copied()
    }

    /// The step that comes next, with its place, or `None` if the call is over.
    fn next(self, mut at: Running, knows: &Knowledge) -> Option<(Running, Op, Step)> {
        let transition = at.call.transition();
        loop {
            let (when, op) = self.op(transition, at.op.into())?;
            let due = at.step > 0 || knows.due(when);
            match step_of(op, at.step.into()).filter(|_| due) {
                Some(step) => return Some((at, op, self.reversed(transition, at.op, step))),
                None => at = Running { op: at.op + 1, step: 0, ..at },
            }
        }
    }

    fn reversed(self, transition: Transition, op: u8, step: Step) -> Step {
        let other = |level: usize| LEVELS - 1 - level;
        match step {
            Step::Line(step) if self.mutation == Mutation::Reverse(transition, op) => Step::Line(match step {
                LineStep::Clean(level) => LineStep::Clean(other(level)),
                LineStep::Invalidate(level) => LineStep::Invalidate(other(level)),
                LineStep::Flush(level) => LineStep::Flush(other(level)),
                LineStep::Wait(level) => LineStep::Wait(other(level)),
            }),
            step => step,
        }
    }

    /// Whether a pending operation was started by a step made local.
    fn is_local(self, state: &State, context: Context, operation: Operation) -> bool {
        let Mutation::Local(transition, op, n) = self.mutation else { return false };
        let running = if context == Owner { state.running } else { state.port };
        running.is_some_and(|at| at.call.transition() == transition)
            && matches!(step_of(transition.row()[usize::from(op)].1, n.into()),
                Some(Step::Line(step)) if started(step, None) & bit(operation) != 0)
    }

    /// The lock of the records is held over each mapping and its end, and while the port asks for its grant.
    fn holds_lock(self, running: Option<Running>, knows: &Knowledge) -> bool {
        running.and_then(|at| self.next(at, knows)).is_some_and(|(at, op, _)| {
            matches!(op, Op::Map(_) | Op::Unmap) && (at.step > 0 || at.call == Call::OpenPort)
        })
    }

    /// Whether a context may take its next step.
    fn may_step(self, state: &State, context: Context) -> bool {
        let [(mine, knows), (other, others)] = match context {
            Owner => [(state.running, &state.knows), (state.port, &state.port_knows)],
            Mock => [(state.port, &state.port_knows), (state.running, &state.knows)],
        };
        mine.is_some_and(|at| match self.next(at, knows) {
            Some((_, Op::Map(_) | Op::Unmap, _)) => !self.holds_lock(other, others),
            _ => true,
        })
    }

    /// Takes the next step of a call, and what follows from its being the last of an op or of the call.
    fn step(self, state: &mut State, context: Context) {
        let (running, mut knows) = match context {
            Owner => (state.running, state.knows),
            Mock => (state.port, state.port_knows),
        };
        let Some(running) = running else { return };
        let Some((at, op, step)) = self.next(running, &knows) else { return self.end(state, context, running.call) };
        let transition = at.call.transition();
        if self.mutation != Mutation::Drop(transition, at.op, at.step) {
            let local = self.mutation == Mutation::Local(transition, at.op, at.step);
            if !self.perform(state, context, op, step, local) {
                // The owner stops there, a port gives up.
                if context == Mock {
                    state.port = None;
                }
                return;
            }
        }
        let mut next = Running { step: at.step + 1, ..at };
        if step_of(op, next.step.into()).is_none() {
            knows = knows.after(op);
            next = Running { op: at.op + 1, step: 0, ..at };
        }
        let over = self.next(next, &knows).is_none();
        match context {
            Owner => (state.running, state.knows) = (Some(next), knows),
            Mock => (state.port, state.port_knows) = (Some(next), knows),
        }
        if over {
            self.end(state, context, at.call);
        }
    }

    /// Does a step. `false` if it is refused.
    fn perform(self, state: &mut State, context: Context, op: Op, step: Step, local: bool) -> bool {
        let (place, core) = (state.place(context), context as usize);
        let cores = if local { core..core + 1 } else { 0..CORES.len() };
        match step {
            Step::Map(step, memory) => match step {
                MapStep::Claim => {
                    if state.claimed {
                        let due = context == Owner || state.phase.is_device();
                        state.fault = state.fault.or(due.then_some(Fault::Refused));
                        return false;
                    }
                    state.claimed = true;
                }
                MapStep::Describe => state.written[place as usize] = Some(memory),
                MapStep::Erase => state.written[place as usize] = None,
                MapStep::Publish => {
                    state.seen[place as usize] = state.written[place as usize];
                    // It ends in a DSB.
                    state.complete_all(self, context, INSIDE);
                }
                MapStep::ForgetTable => {
                    for core in cores {
                        state.pointers[core] &= !(1 << place as u8);
                    }
                }
                MapStep::InvalidateTlb => {
                    for core in cores {
                        state.tlb[core] &= !entries(place);
                        state.pointers[core] &= !(1 << place as u8);
                    }
                    state.complete_all(self, context, INSIDE);
                }
                MapStep::Release => state.claimed = false,
            },
            Step::Line(step) => {
                let knows = if context == Owner { state.knows } else { state.port_knows };
                let span = match op {
                    Op::Clean => knows.written,
                    Op::Invalidate => knows.stale,
                    _ => EVERYTHING,
                };
                match step {
                    LineStep::Wait(INNER) => state.complete_all(self, context, INSIDE),
                    LineStep::Wait(OUTER) => state.complete_all(self, context, !0),
                    _ => {
                        let started = started(step, local.then_some(core));
                        let by_address = !matches!(step, LineStep::Flush(_));
                        let mapped = state.tlb[core] & entries(place) != 0;
                        let walked = state.pointers[core] & 1 << place as u8 == 0;
                        if by_address && started & INSIDE != 0 && !(mapped && walked) {
                            state.fault = state.fault.or(Some(Fault::Unmapped));
                        }
                        if holds_line(span) && (self.outer || started & INSIDE != 0) {
                            state.pending[core] |= started;
                        }
                    }
                }
            }
            Step::Zero => {
                let found = state.access(self, core, place);
                let memory = if found & !CACHEABLE != 0 { NonCacheable } else { WriteBack };
                state.cpu_writes(core, memory, Fresh);
            }
            Step::DeviceBarrier => {
                state.complete_all(self, context, !0);
                if let Some(data) = state.buffer.take() {
                    state.memory = data;
                }
            }
            Step::Hold(holder) => state.record = (holder, state.knows.residue),
            Step::Mark(residue) => state.freed = residue,
            Step::Yield => {
                state.fault = state.fault.or(state.claimed.then_some(Fault::Refused));
                state.claimed = true;
            }
            Step::Users(step) => match step {
                MapStep::Describe => {
                    let writes = matches!(state.phase, Phase::SharedCpu { writes: true, .. });
                    let other = |memory| if memory == WriteBack { NonCacheable } else { WriteBack };
                    let memory = state.written[Own as usize];
                    let memory = if self.mutation == Mutation::OtherAttribute { memory.map(other) } else { memory };
                    let [reader, writer] = if writes { [None, memory] } else { [memory, None] };
                    (state.written[Reader as usize], state.written[Writer as usize]) = (reader, writer);
                }
                MapStep::Erase => (state.written[Reader as usize], state.written[Writer as usize]) = (None, None),
                MapStep::Publish => {
                    for place in [Reader, Writer] {
                        state.seen[place as usize] = state.written[place as usize];
                    }
                    state.complete_all(self, context, INSIDE);
                }
                MapStep::InvalidateTlb => {
                    for core in cores {
                        state.tlb[core] &= !(entries(Reader) | entries(Writer));
                    }
                    state.complete_all(self, context, INSIDE);
                }
                MapStep::Claim | MapStep::ForgetTable | MapStep::Release => unreachable!("the kernel's own"),
            },
        }
        true
    }

    /// A call is over: what it returns.
    fn end(self, state: &mut State, context: Context, call: Call) {
        if context == Mock {
            state.port = None;
            state.port_open = call == Call::OpenPort;
            if !state.port_open {
                state.port_knows = Knowledge::new(Residue::Nothing);
            }
            return;
        }
        state.running = None;
        state.phase = match (call, state.phase) {
            (Call::IntoCoherent | Call::Reuse, _) => Phase::Coherent { told: false, exposed: false, wrote: false },
            (Call::Tell, _) => Phase::Coherent { told: true, exposed: true, wrote: false },
            (Call::IntoStream(direction), _) | (Call::ForCpu(_), Phase::Device { direction, .. }) => {
                Phase::Cpu { direction, view: View::None }
            }
            (Call::IntoDevice, _) => Phase::DeviceOnly,
            (Call::Look(view), Phase::Cpu { direction, .. }) => {
                match view {
                    View::Line => state.knows = state.knows.writable(LINE),
                    View::Elsewhere => state.knows = state.knows.writable(ELSEWHERE),
                    View::None | View::Read => {}
                }
                Phase::Cpu { direction, view }
            }
            (Call::ForDevice { .. }, phase) => {
                self.begin(state, Owner, Call::Grant);
                phase
            }
            (Call::Share { uncached }, _)
            | (Call::ForCpu(_), Phase::SharedDevice { uncached })
            | (Call::Look(_), Phase::SharedIdle { uncached })
            | (Call::Hide, Phase::SharedCpu { uncached, .. } | Phase::SharedIdle { uncached }) => {
                Phase::SharedIdle { uncached }
            }
            (Call::Show { writes } | Call::ShowUncached { writes }, phase) => {
                state.knows = match (call, writes) {
                    (_, false) => state.knows,
                    (Call::Show { .. }, true) => state.knows.writable(EVERYTHING),
                    _ => state.knows.writable_uncached(),
                };
                phase
            }
            (Call::Grant, Phase::SharedCpu { uncached, .. } | Phase::SharedIdle { uncached }) => {
                Phase::SharedDevice { uncached }
            }
            (Call::Grant, Phase::Cpu { direction, .. }) => Phase::Device { direction, wrote: false },
            (Call::IntoContiguous, _) => Phase::Contiguous { used: true },
            (Call::Free, phase) => {
                if phase != (Phase::Contiguous { used: false }) {
                    state.leave();
                }
                state.freed = state.knows.residue;
                state.knows = Knowledge::new(Residue::Nothing);
                state.record = (Holder::Nobody, Residue::Nothing);
                Phase::Free
            }
            (Call::Warm, _) => {
                state.leave();
                state.freed = state.knows.residue;
                Phase::Warm
            }
            (Call::FillWarm, _) => Phase::Warm,
            (Call::OpenNewPage, _) => Phase::Lent { page: Page::Kept, open: true },
            (Call::OpenPage(page), _) => Phase::Lent { page, open: true },
            (Call::ClosePage, Phase::Lent { page, .. }) => {
                state.knows = Knowledge::new(Residue::Nothing);
                Phase::Lent { page, open: false }
            }
            (Call::FillReserve | Call::Evict, _) => {
                state.knows = Knowledge::new(Residue::Nothing);
                Phase::Free
            }
            (Call::Take, _) => {
                state.leave();
                state.knows = Knowledge::new(Residue::Nothing);
                Phase::Free
            }
            (Call::GiveBack, _) => {
                state.knows = Knowledge::new(Residue::Nothing);
                Phase::Kernels { given: true }
            }
            (Call::GiveBlock { to_device }, Phase::Cpu { direction, .. } | Phase::CpuBlock { direction, .. }) => {
                if to_device {
                    Phase::DeviceBlock { direction, wrote: false }
                } else {
                    Phase::FreeBlock { direction }
                }
            }
            (Call::TakeBlock(_), Phase::DeviceBlock { direction, .. }) => {
                Phase::CpuBlock { direction, view: View::Read }
            }
            (Call::Quarantine, _) => {
                state.record.0 = Holder::Quarantine;
                Phase::Quarantined
            }
            (call, phase) => unreachable!("{call:?} in {phase:?}"),
        };
    }

    /// A call begins.
    fn begin(self, state: &mut State, context: Context, call: Call) {
        let running = Running { call, op: 0, step: 0 };
        if context == Mock {
            if call == Call::OpenPort {
                match state.record {
                    (Holder::Device, residue) => state.port_knows = Knowledge::new(residue),
                    (Holder::Both, _) => {
                        // It has the one mapping it may have.
                        state.port_open = true;
                        return;
                    }
                    _ => {
                        state.fault = state.fault.or(Some(Fault::Refused));
                        return;
                    }
                }
            }
            (state.port, state.port_open) = (Some(running), false);
            return;
        }
        match (call, &mut state.phase) {
            (Call::ForCpu(span), Phase::Device { direction, .. }) if direction.device_writes => {
                state.knows = state.knows.device_wrote(span);
            }
            (Call::TakeBlock(span), Phase::DeviceBlock { direction, .. }) if direction.device_writes => {
                state.knows = state.knows.device_wrote(span);
            }
            (Call::ForCpu(span), Phase::SharedDevice { .. }) => state.knows = state.knows.device_wrote(span),
            // What a program does from the first page on counts.
            (Call::Show { writes } | Call::ShowUncached { writes }, phase) => {
                *phase = Phase::SharedCpu { uncached: matches!(call, Call::ShowUncached { .. }), writes };
            }
            (Call::ForDevice { many }, Phase::SharedCpu { .. } | Phase::SharedIdle { .. }) => state.knows.many = many,
            (_, Phase::Cpu { view, .. }) => {
                *view = View::None;
                if let Call::ForDevice { many } = call {
                    state.knows.many = many;
                }
            }
            (Call::Reuse | Call::FillWarm | Call::Evict, _) => {
                state.knows = Knowledge { mapped: true, ..Knowledge::new(state.freed) };
            }
            (Call::OpenNewPage | Call::OpenPage(_) | Call::FillReserve | Call::GiveBack, _) => {
                state.knows = Knowledge::new(state.freed);
            }
            _ => {}
        }
        state.running = Some(running);
        if self.next(running, &state.knows).is_none() {
            // Nothing of it is due.
            self.end(state, Owner, call);
        }
    }

    /// What the owner may call.
    fn calls(self, state: &State, calls: &mut Vec<Call>) {
        // What a port's driver promises, and a careless one does not keep.
        let closed = state.port.is_none() && !state.port_open || self.judge == Judge::Careless;
        match state.phase {
            Phase::Kernels { .. } => calls.push(Call::Take),
            Phase::Free => calls.extend([Call::FillReserve, Call::GiveBack]),
            Phase::Warm => calls.extend([Call::Reuse, Call::FillWarm, Call::Evict]),
            Phase::Lent { open: false, page } => {
                let zeroed = page == Page::New && state.freed == Residue::Zeroed;
                calls.push(match page {
                    Page::New if !zeroed => Call::OpenNewPage,
                    _ => Call::OpenPage(Page::Kept),
                });
                calls.push(Call::OpenPage(Page::Overwritten));
            }
            Phase::Lent { open: true, page: Page::Kept } => calls.push(Call::ClosePage),
            Phase::Contiguous { .. } => {
                calls.extend([Call::IntoCoherent, Call::IntoDevice, Call::Free]);
                calls.extend(DIRECTIONS.map(Call::IntoStream));
            }
            Phase::Coherent { told: true, .. } if closed => calls.push(Call::Quarantine),
            // A device that was told is done, and who frees the buffer says so.
            Phase::Coherent { told: false, .. } => {
                calls.extend([Call::Tell, Call::IntoContiguous, Call::Free, Call::Warm]);
            }
            Phase::Cpu { direction, view } => {
                let all = [View::Read, View::Line, View::Elsewhere];
                let views = if direction.cpu_writes { &all[..] } else { &all[..1] };
                calls.extend(views.iter().filter(|&&wanted| wanted != view).map(|&wanted| Call::Look(wanted)));
                calls.extend([Call::ForDevice { many: false }, Call::IntoContiguous, Call::Free]);
                // Where there is no line, none are many.
                calls.extend((state.knows.residue > Residue::Nothing).then_some(Call::ForDevice { many: true }));
                // Users are to share it.
                let new = direction == DIRECTIONS[2] && state.knows.residue <= Residue::Nothing && !state.knows.mapped;
                calls.extend([false, true].iter().filter(|_| new).map(|&uncached| Call::Share { uncached }));
                // A pool takes over.
                calls.extend((view == View::Read).then_some(Call::GiveBlock { to_device: false }));
            }
            Phase::Device { wrote, .. } if closed => {
                calls.extend([Call::ForCpu(EVERYTHING), Call::Quarantine]);
                calls.extend((!wrote).then_some(Call::ForCpu(ELSEWHERE)));
            }
            Phase::DeviceOnly if closed => calls.extend([Call::IntoContiguous, Call::Quarantine]),
            // The pool ends.
            Phase::FreeBlock { .. } => calls.push(Call::Free),
            Phase::SharedIdle { uncached } | Phase::SharedCpu { uncached, .. } => {
                let show = |writes| if uncached { Call::ShowUncached { writes } } else { Call::Show { writes } };
                let writes = matches!(state.phase, Phase::SharedCpu { writes: true, .. });
                calls.extend([false, true].iter().filter(|&&more| more || !writes).map(|&more| show(more)));
                let idle = matches!(state.phase, Phase::SharedIdle { .. });
                let unseen = idle && !state.knows.mapped;
                let (written, stale) = (state.knows.due(When::Written), state.knows.due(When::Stale));
                if unseen && (written || stale) {
                    // It was split or joined since.
                    calls.push(Call::Look(View::None));
                }
                if !(unseen && written) {
                    calls.push(Call::ForDevice { many: false });
                    calls.extend((state.knows.residue > Residue::Nothing).then_some(Call::ForDevice { many: true }));
                }
                calls.push(if idle && unseen { Call::Free } else { Call::Hide });
            }
            Phase::SharedDevice { .. } if closed => calls.extend([Call::ForCpu(EVERYTHING), Call::Quarantine]),
            Phase::CpuBlock { .. } => calls.extend([true, false].map(|to_device| Call::GiveBlock { to_device })),
            Phase::DeviceBlock { wrote, .. } => {
                // The pool ends while a device has the block.
                calls.extend([Call::TakeBlock(EVERYTHING), Call::Quarantine]);
                calls.extend((!wrote).then_some(Call::TakeBlock(ELSEWHERE)));
            }
            _ => {}
        }
    }

    /// What programs and devices may do.
    fn uses(self, state: &State, actions: &mut Vec<Action>) {
        let port_closed = state.port.is_none() && !state.port_open;
        match state.phase {
            Phase::Kernels { given: true } => actions.extend([Action::KernelMaps, Action::DeviceRead]),
            Phase::Kernels { given: false } => {
                actions.extend(CORES.iter().flat_map(|&core| [Action::Read(core), Action::Write(core)]));
            }
            Phase::Free => actions.extend([Action::Alloc, Action::Lend]),
            Phase::Warm if self.mutation == Mutation::ForgetEviction => actions.extend([Action::Alloc, Action::Lend]),
            Phase::Warm | Phase::Contiguous { .. } | Phase::SharedIdle { .. } | Phase::SharedCpu { .. } => {}
            Phase::Lent { open: false, .. } => actions.push(Action::Recall),
            Phase::Lent { page, .. } => {
                actions.extend(CORES.map(Action::Write));
                actions.extend(CORES.iter().filter(|_| page == Page::Kept).map(|&core| Action::Read(core)));
            }
            Phase::Coherent { told: false, wrote, .. } => {
                actions.extend(CORES.iter().flat_map(|&core| [Action::Read(core), Action::Write(core)]));
                actions.extend((!wrote).then_some(Action::Expose));
            }
            Phase::Coherent { told: true, .. } if port_closed => {
                actions.extend([Action::DeviceRead, Action::DeviceWrite, Action::DeviceDone]);
            }
            Phase::Cpu { view, .. } => {
                actions.extend(CORES.iter().filter(|_| view != View::None).map(|&core| Action::Read(core)));
                actions.extend(CORES.iter().filter(|_| view == View::Line).map(|&core| Action::Write(core)));
            }
            Phase::FreeBlock { .. } => actions.push(Action::AllocBlock),
            Phase::CpuBlock { direction, view } => {
                let views = if direction.cpu_writes { &[View::Line, View::Elsewhere][..] } else { &[] };
                actions.extend(views.iter().filter(|&&new| new != view).map(|&new| Action::ViewBlock(new)));
                actions.extend(CORES.map(Action::Read));
                actions.extend(CORES.iter().filter(|_| view == View::Line).map(|&core| Action::Write(core)));
            }
            Phase::DeviceBlock { direction, .. } => {
                actions.push(Action::DeviceRead);
                actions.extend(direction.device_writes.then_some(Action::DeviceWrite));
            }
            Phase::Coherent { .. }
            | Phase::Device { .. }
            | Phase::DeviceOnly
            | Phase::Quarantined
            | Phase::SharedDevice { .. } => {
                let writes = !matches!(state.phase, Phase::Device { direction, .. } if !direction.device_writes);
                if port_closed {
                    actions.push(Action::DeviceRead);
                    actions.extend(writes.then_some(Action::DeviceWrite));
                } else if state.port_open {
                    actions.push(Action::PortRead);
                    actions.extend(writes.then_some(Action::PortWrite));
                }
                if self.judge == Judge::Consequences && state.phase.is_device() {
                    for core in CORES {
                        for place in PLACES {
                            for memory in [WriteBack, NonCacheable] {
                                let left =
                                    state.tlb[core] & entry(place, memory) != 0 && (place != Port || port_closed);
                                actions.extend(left.then_some(Action::Stray(core, place, memory)));
                            }
                        }
                    }
                }
            }
        }
    }

    /// What the hardware may do of its own accord.
    fn whims(self, state: &State, actions: &mut Vec<Action>) {
        let late = |place: &Place| state.written[*place as usize] != state.seen[*place as usize];
        actions.extend(PLACES.into_iter().filter(late).map(Action::Arrive));
        for context in [Owner, Mock] {
            let pending = |operation: &Operation| state.pending[context as usize] & bit(*operation) != 0;
            let completed = |operation| Action::Complete(context, operation);
            actions.extend(OPERATIONS.into_iter().filter(pending).map(completed));
        }
        for core in CORES {
            let holds = |line: Inner| line.cores & (1 << core) != 0;
            if state.tlb[core] & CACHEABLE != 0 {
                if !state.inner.is_some_and(holds) {
                    actions.push(Action::FillInner(core));
                    actions.extend(state.inner.filter(|line| line.dirty).map(|_| Action::Share(core)));
                }
                actions.extend((self.outer && state.outer.is_none()).then_some(Action::FillOuter(core)));
            }
            actions.extend(state.inner.is_some_and(holds).then_some(Action::EvictInner(core)));
        }
        actions.extend(state.outer.map(|_| Action::EvictOuter));
        actions.extend(state.buffer.map(|_| Action::Drain));
    }

    /// What must hold of a state, whatever comes next.
    fn inspect(self, state: &mut State) {
        let all = state.tlb[0] | state.tlb[1];
        if self.judge != Judge::Consequences && all & CACHEABLE != 0 && all & !CACHEABLE != 0 {
            state.fault = state.fault.or(Some(Fault::I1));
        }
        if self.judge == Judge::Invariants && state.phase.is_device() {
            let port_closed = state.port.is_none() && !state.port_open;
            let left = all & entries(Own) != 0 && state.running.is_none()
                || all & entries(Port) != 0 && port_closed
                || all & (entries(Lane) | entries(Reader) | entries(Writer)) != 0;
            state.fault = state.fault.or(left.then_some(Fault::I4));
        }
    }
}

impl Protocol {
    /// A user's program reads or writes. Where it has no translation it faults, and stops. It must not once the call is
    /// over that gave it the page.
    fn user_accesses(self, state: &mut State, core: usize, writes: bool) -> Option<()> {
        let [reader, writer] = [Reader, Writer].map(|place| state.tlb[core] & entries(place) != 0);
        let over = state.running.is_none();
        if !(over || writer || reader && !writes) {
            return None;
        }
        // The reader's descriptor may be the one that the core uses, if it has both.
        let place = if reader && !writes { Reader } else { Writer };
        if !writes {
            state.cpu_reads(self, core, place);
            return Some(());
        }
        let found = state.access(self, core, place);
        if reader && over {
            state.fault = state.fault.or(Some(Fault::Unmapped));
        }
        let memory = if found & CACHEABLE != 0 { WriteBack } else { NonCacheable };
        state.cpu_writes(core, memory, Fresh);
        Some(())
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    /// A frame never used; and one that the kernel maps, of which each core's TLB may know.
    fn init_states(&self) -> Vec<State> {
        let unused = State {
            inner: None,
            outer: None,
            buffer: None,
            memory: Former,
            pending: [0; 2],
            written: [None; PLACES.len()],
            seen: [None; PLACES.len()],
            tlb: [0; 2],
            pointers: [!OTHERS; 2],
            claimed: false,
            freed: Residue::Nothing,
            record: (Holder::Nobody, Residue::Nothing),
            knows: Knowledge::new(Residue::Nothing),
            phase: Phase::Free,
            running: None,
            port: None,
            port_open: false,
            port_knows: Knowledge::new(Residue::Nothing),
            fault: None,
        };
        let mut kernels = State { memory: Fresh, claimed: true, phase: Phase::Kernels { given: false }, ..unused };
        kernels.map_for_kernel();
        vec![unused, kernels]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() {
            return;
        }
        if state.running.is_some() {
            actions.extend(self.may_step(state, Owner).then_some(Action::Take(Owner)));
        } else {
            let mut calls = Vec::new();
            self.calls(state, &mut calls);
            actions.extend(calls.into_iter().map(|call| Action::Begin(Owner, call)));
            self.uses(state, actions);
        }
        if let Phase::SharedCpu { writes, .. } = state.phase {
            for core in CORES {
                actions.push(Action::UserRead(core));
                actions.extend(writes.then_some(Action::UserWrite(core)));
            }
        }
        if state.port.is_some() {
            actions.extend(self.may_step(state, Mock).then_some(Action::Take(Mock)));
        } else if state.port_open {
            actions.push(Action::Begin(Mock, Call::ClosePort));
        } else {
            // Who has no grant is refused and nothing changes; who has one must not be. While the owner takes a buffer
            // back, only a careless driver opens it.
            let promised = state.running.is_none()
                || self.judge == Judge::Careless && !self.holds_lock(state.running, &state.knows);
            let granted = state.record.0 == Holder::Device;
            let due = matches!(
                state.phase,
                Phase::Device { .. }
                    | Phase::DeviceOnly
                    | Phase::Coherent { told: true, .. }
                    | Phase::SharedDevice { .. }
            );
            actions.extend((promised && (granted || due)).then_some(Action::Begin(Mock, Call::OpenPort)));
        }
        self.whims(state, actions);
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = *before;
        match action {
            Action::Alloc => {
                state.phase = Phase::Contiguous { used: false };
                state.knows = Knowledge::new(state.freed);
                state.record = (Holder::Nobody, state.freed);
            }
            Action::AllocBlock => {
                let Phase::FreeBlock { direction } = state.phase else { return None };
                state.phase = Phase::CpuBlock { direction, view: View::Read };
                state.knows = Knowledge::new(Residue::Nothing).after(Op::Map(WriteBack));
            }
            Action::ViewBlock(new) => {
                let Phase::CpuBlock { view, .. } = &mut state.phase else { return None };
                *view = new;
                state.knows = state.knows.writable(if new == View::Line { LINE } else { ELSEWHERE });
            }
            Action::Begin(context, call) => self.begin(&mut state, context, call),
            Action::Take(context) => self.step(&mut state, context),
            Action::Lend => state.phase = Phase::Lent { page: Page::New, open: false },
            Action::Recall => {
                if state.phase != (Phase::Lent { page: Page::New, open: false }) {
                    state.leave();
                }
                state.phase = Phase::Free;
            }
            Action::Read(core) => state.cpu_reads(*self, core, state.place(Owner)),
            Action::PortRead => state.cpu_reads(*self, Mock as usize, state.port_place()),
            Action::UserRead(core) | Action::UserWrite(core) => {
                self.user_accesses(&mut state, core, matches!(action, Action::UserWrite(_)))?;
            }
            Action::Write(core) => {
                let found = state.access(*self, core, state.place(Owner));
                let memory = if found & CACHEABLE != 0 { WriteBack } else { NonCacheable };
                state.cpu_writes(core, memory, Fresh);
                match &mut state.phase {
                    Phase::Coherent { wrote, .. } => *wrote = true,
                    Phase::Lent { page, .. } => *page = Page::Kept,
                    _ => {}
                }
            }
            Action::PortWrite => {
                state.access(*self, Mock as usize, state.port_place());
                state.cpu_writes(Mock as usize, NonCacheable, Fresh);
                state.phase.note_write();
            }
            Action::DeviceRead => state.judge([state.memory], Fault::I3DeviceReads),
            Action::DeviceWrite => {
                state.overwrite();
                state.memory = Fresh;
                state.phase.note_write();
            }
            Action::DeviceDone => state.phase = Phase::Coherent { told: false, exposed: true, wrote: false },
            Action::Expose => state.phase = Phase::Coherent { told: true, exposed: true, wrote: false },
            Action::KernelMaps => {
                state.phase = Phase::Kernels { given: false };
                state.map_for_kernel();
            }
            Action::Stray(core, _, memory) => state.cpu_writes(core, memory, Stale),
            Action::Arrive(place) => state.seen[place as usize] = state.written[place as usize],
            Action::Complete(context, operation) => state.complete(*self, context, operation),
            Action::FillInner(core) => {
                let beyond = state.beyond();
                let line = state.inner.unwrap_or(Inner { cores: 0, data: beyond, dirty: false });
                // A dirty line moves, a clean one is shared.
                let others = if line.dirty { 0 } else { line.cores };
                state.inner = Some(Inner { cores: others | 1 << core, ..line });
            }
            Action::Share(core) => {
                let line = state.inner?;
                state.outward(*self, line.data);
                state.inner = Some(Inner { cores: line.cores | 1 << core, data: line.data, dirty: false });
            }
            Action::FillOuter(_) => {
                let data = state.buffer.unwrap_or(state.memory);
                state.outer = Some(Outer { data, dirty: false });
            }
            Action::EvictInner(core) => {
                let line = state.inner?;
                state.keep_inner(!(1 << core));
                if line.dirty {
                    state.outward(*self, line.data);
                }
            }
            Action::EvictOuter => {
                if let Some(Outer { data, dirty: true }) = state.outer.take() {
                    state.write_back(data);
                }
            }
            Action::Drain => state.memory = state.buffer.take()?,
        }
        state.walk();
        self.inspect(&mut state);
        if self.judge == Judge::Careless {
            state.fault = state.fault.filter(|&fault| fault == Fault::I1);
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("no fault", |_, state: &State| state.fault.is_none())]
    }
}

/// What an exploration found.
pub(crate) struct Found {
    pub(crate) states: usize,
    pub(crate) transitions: usize,
    pub(crate) depth: usize,
    /// The shortest way to a fault.
    pub(crate) path: Option<Path<State, Action>>,
}

/// Explores all of it, or up to the first fault: breadth first and by one thread, so the shortest.
pub(crate) fn explore(model: Protocol) -> Found {
    let checker = model.checker().spawn_bfs().join();
    Found {
        states: checker.unique_state_count(),
        transitions: checker.state_count(),
        depth: checker.max_depth(),
        path: checker.discovery("no fault"),
    }
}

/// A trace in words.
pub(crate) fn narrate(model: Protocol, path: &Path<State, Action>) -> String {
    let mut lines = String::new();
    for (n, (state, action)) in path.clone().into_vec().into_iter().enumerate() {
        let Some(action) = action else {
            writeln!(lines, "    => {}\n", state.fault.expect("the end of a trace")).expect("a string");
            break;
        };
        let line = match action {
            Action::Alloc => "the frame is allocated".into(),
            Action::Lend => "the frame is lent".into(),
            Action::Recall => "the frame is recalled".into(),
            Action::AllocBlock => "the block is allocated".into(),
            Action::ViewBlock(view) => format!("core 0 views the block: {view:?}"),
            Action::Begin(Owner, call) => format!("core 0 begins {call:?}"),
            Action::Begin(Mock, call) => format!("core 1 begins {call:?}"),
            Action::Take(context) => {
                let (running, knows) = match context {
                    Owner => (state.running, state.knows),
                    Mock => (state.port, state.port_knows),
                };
                let (at, _, step) = running.and_then(|at| model.next(at, &knows)).expect("it takes a step");
                let step = match step {
                    Step::Map(step @ MapStep::Describe, memory) => format!("{step:?} {memory}"),
                    Step::Map(step, _) => format!("{step:?}"),
                    Step::Line(step) => format!("{step:?}"),
                    step => format!("{step:?}"),
                };
                let place = (at.call.transition(), at.op, at.step);
                let what = match model.mutation {
                    Mutation::Drop(t, op, step) if (t, op, step) == place => ", left out",
                    Mutation::Local(t, op, step) if (t, op, step) == place => ", on this core alone",
                    _ => "",
                };
                format!("core {}:     {step}{what}", context as usize)
            }
            Action::Read(core) => format!("core {core} reads"),
            Action::Write(core) => format!("core {core} writes"),
            Action::UserRead(core) => format!("a user on core {core} reads"),
            Action::UserWrite(core) => format!("a user on core {core} writes"),
            Action::PortRead => "core 1 reads through the port".into(),
            Action::PortWrite => "core 1 writes through the port".into(),
            Action::DeviceRead => "device reads".into(),
            Action::DeviceWrite => "device writes".into(),
            Action::DeviceDone => "device is done".into(),
            Action::Expose => "device is told".into(),
            Action::KernelMaps => "the kernel maps the frame".into(),
            Action::Stray(core, _, memory) => format!("core {core} writes through a stray pointer, {memory}"),
            Action::Arrive(_) => "whim: a descriptor reaches the walkers early".into(),
            Action::Complete(context, operation) => {
                format!("whim: {operation:?} of core {} completes", context as usize)
            }
            Action::FillInner(core) => format!("whim: core {core} speculates the line in"),
            Action::FillOuter(core) => format!("whim: core {core} speculates the line into the outer cache"),
            Action::Share(core) => format!("whim: core {core} takes a copy, and the dirty line goes outward"),
            Action::EvictInner(core) => format!("whim: core {core} evicts the line"),
            Action::EvictOuter => "whim: the outer cache evicts the line".into(),
            Action::Drain => "whim: the write buffer drains".into(),
        };
        writeln!(lines, "{:6}  {line}", n + 1).expect("a string");
    }
    lines
}
