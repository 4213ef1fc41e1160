//! What may go from core to core, and what several cores may use at once: said of every public type, on purpose.
//!
//! The last test reads the sources, so that a new type must be put in one of the lists. Those that exist on the target
//! alone stand in `tests/on-target/tests/four_cores.rs`, where they exist; those of an adapter in its
//! `tests/threads.rs`.

mod sources;

use carveout::addr::{BusAddr, Bytes, Frame, FrameRange, PhysAddr, VirtAddr};
use carveout::carve_out::CarveOut;
use carveout::cma::{Area, Index, IndexError, Node};
use carveout::dma::{
    AfterFree, AllocError, Aperture, AreaId, Bidirectional, BlockShape, BlocksOut, Borrower, BufferRecord, BufferState,
    ClientId, Coherent, Contiguous, Contract, ContractError, ContractSet, Cpu, DataDirection, Device, DeviceLease,
    DeviceOnly, DirectionError, Discardable, Dma, DmaStats, Effort, FaultPlace, Field, FromDevice, GiveBackError,
    Handle, HandleError, Holder, Holders, LendError, LentFrames, Loan, LoanError, LoanPriority, LoanStats, Master,
    MasterError, Movable, No, NoRun, Occupant, Offer, PageKind, PagesError, PlacedSet, Plan, PlanDiffers, PlannedArea,
    PlannedContract, Pool, PoolBlock, PoolError, PoolExhausted, Port, PortError, PortView, RawRecord, Reach,
    ScatterError, ScatterTable, Segment, ShareDomain, ShareError, ShareFault, ShareHandle, ShareHolder, ShareHolders,
    ShareLimits, ShareRights, ShareStats, Shares, Stream, StreamBlock, StreamPool, TakeError, ToDevice, UserAccess,
    UserView, WiderMapping, Yes,
};
use carveout::embed::{Builder, CoreError, EmbedError, Needs, Roots, Window, WindowError};
use carveout::events::{Event, EventKind, EventLog};
use carveout::fake::{Fake, Op};
use carveout::machine::{Cache, Lines, Mmu, Registers};
use carveout::name::Name;
use carveout::protocol::{Knowledge, LineStep, MapStep, Span, Transition, When};
use carveout::setup::Setup;
use carveout::sync::{Guard, Lock, Rank};
use carveout::vm::alias::{Alias, AliasError, Aliases};
use carveout::vm::attr::{Access, LeafSize, MemoryType, Shareability};
use carveout::vm::audit::{Expect, Finding, Findings, KernelMap, Report};
use carveout::vm::desc::{L1Desc, L1Entry, L2Desc, L2Entry, Leaf, UserLeaf};
use carveout::vm::ledger::{Carved, Cell, Ledger, LedgerError, Residue};
use carveout::vm::mapped::{Mapped, Part};
use carveout::vm::range::VirtRange;
use carveout::vm::registers::{Difference, RegisterError};
use carveout::vm::space::{MapError, OnDemand, OneEach, Region};
use carveout::vm::user::{Asid, UserRoot};
use carveout::vm::user_tables::UserTables;
use carveout::vm::walk::{Attributes, Caching, Domain, First, Memory, Pointer, Rights, Sharing, Ttbr};
use carveout_armv7a::ids::{Core, Geometry};
use carveout_boot::bootargs::{Arg, ArgError, ArgProblem, BootArgs, Cma, CmaPlace, CmaRequest, Ram, RamArg};
use carveout_boot::bootinfo::{
    Binding, BootError, BootInfo, DevicePath, Dynamic, Holder as Claimant, Reason, Refusal, Refusals,
    Region as TreeRegion, RegionKind, Subject,
};
use carveout_boot::byte_range::ByteRange;
use carveout_boot::direct_map::{DirectMap, Run};
use carveout_boot::layout::{AreaPlan, Claim, ClaimKind, Layout, LayoutError, Lost};
use carveout_boot::memblock::{Direction, List, Memblock, MemblockError};
use carveout_rt::fault::{Access as FaultAccess, Fault, FaultStatus, Level};
use static_assertions::{assert_impl_all, assert_not_impl_any};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::ptr::NonNull;

/// Any machine that cores share: what is said of it holds for all of them. There is no value of it.
enum Machine {}

// SAFETY: there is nothing to call it on.
unsafe impl Mmu for Machine {
    fn publish(&self, _: PhysAddr, _: &[u32]) {
        match *self {}
    }
    fn invalidate_tlb(&self, _: VirtAddr, _: u32, _: LeafSize) {
        match *self {}
    }
    fn invalidate_tlb_all(&self) {
        match *self {}
    }
    fn reach(&self, _: VirtAddr, _: u32) -> *mut u8 {
        match *self {}
    }
    fn reach_to_overwrite(&self, _: VirtAddr, _: u32) -> *mut u8 {
        match *self {}
    }
    fn registers(&self) -> Registers {
        match *self {}
    }
    fn table(&self, _: PhysAddr, _: u32) -> Option<NonNull<u32>> {
        match *self {}
    }
}

// SAFETY: as above.
unsafe impl Cache for Machine {
    fn line(&self) -> u32 {
        32
    }

    fn clean(&self, _: Part<'_>) -> Lines {
        match *self {}
    }
    fn invalidate(&self, _: Part<'_>) -> Lines {
        match *self {}
    }
    fn discard(&self, _: Part<'_>) -> Lines {
        match *self {}
    }
    fn device_barrier(&self) {
        match *self {}
    }
    fn dma_wmb(&self) {
        match *self {}
    }
    fn dma_rmb(&self) {
        match *self {}
    }
}

/// Values: any core may look at one, and be given it.
macro_rules! shared {
    ($($type:ty),* $(,)?) => {$(assert_impl_all!($type: Send, Sync);)*};
}

/// One owner at a time, who may be on another core later: what a buffer went through is kept in cells, without a lock.
macro_rules! handed_on {
    ($($type:ty),* $(,)?) => {$(
        assert_impl_all!($type: Send);
        assert_not_impl_any!($type: Sync);
    )*};
}

/// Bound to the core that made it.
macro_rules! stays {
    ($($type:ty),* $(,)?) => {$(assert_not_impl_any!($type: Send, Sync);)*};
}

shared![
    PhysAddr,
    VirtAddr,
    BusAddr,
    Frame,
    FrameRange,
    Bytes,
    Registers,
    Lines,
    Geometry,
    Core,
    BootArgs<'static>,
    Arg<'static>,
    Cma<'static>,
    CmaRequest<'static>,
    CmaPlace,
    RamArg<'static>,
    Ram,
    ArgError<'static>,
    ArgProblem<'static>,
    RegionKind,
    Dynamic<'static>,
    TreeRegion<'static>,
    DevicePath<'static>,
    Binding<'static>,
    BootInfo<'static>,
    BootError,
    Subject<'static>,
    ByteRange,
    Claimant<'static>,
    Refusal<'static>,
    Reason<'static>,
    Refusals<'static>,
    Direction,
    List,
    MemblockError,
    Memblock<8>,
    LayoutError<'static>,
    Lost<'static>,
    ClaimKind,
    Claim<'static>,
    AreaPlan<'static>,
    Layout<'static>,
    DirectMap,
    Run,
    CarveOut,
    Rank,
    MemoryType,
    Access,
    LeafSize,
    Shareability,
    Residue,
    Carved,
    LedgerError,
    Cell,
    Report,
    Finding,
    Findings,
    Caching,
    Memory,
    Sharing,
    Attributes,
    Rights,
    Domain,
    First,
    Pointer,
    Ttbr,
    carveout::vm::walk::Translation,
    VirtRange,
    Leaf,
    UserLeaf,
    UserAccess,
    EventKind,
    Event,
    &'static EventLog,
    Asid,
    UserRoot<'static>,
    L1Entry,
    L2Entry,
    L1Desc,
    L2Desc,
    Alias,
    AliasError,
    Aliases,
    MapError,
    BlockShape,
    PagesError,
    ClientId,
    Offer<'static>,
    ShareDomain,
    ShareError,
    ShareFault,
    ShareHandle,
    ShareHolder,
    ShareLimits,
    ShareRights,
    ShareStats,
    UserView,
    Field<u32, u32>,
    PoolError,
    PoolExhausted,
    BlocksOut,
    Segment,
    ScatterError,
    Holder,
    Name,
    BufferRecord,
    DmaStats,
    FaultPlace,
    PortError,
    AreaId,
    Aperture,
    MasterError,
    EmbedError,
    CoreError,
    KernelMap<'static>,
    WindowError,
    RegisterError,
    Difference,
    Needs,
    Roots<'static>,
    Window<'static>,
    Builder<'static, Machine, [CarveOut; 1]>,
    Master,
    Yes,
    No,
    ToDevice,
    FromDevice,
    Bidirectional,
    Cpu,
    Device,
    Effort,
    Knowledge,
    LineStep,
    MapStep,
    Span,
    Transition,
    When,
    Node,
    IndexError,
    AfterFree,
    AllocError,
    NoRun,
    Occupant,
    Reach,
    Op,
    PageKind,
    LendError,
    LentFrames,
    LoanStats,
    GiveBackError,
    LoanError,
    TakeError<core::convert::Infallible>,
    WiderMapping,
    LoanPriority,
    Discardable,
    Movable,
    ContractSet,
    PlacedSet<'static>,
    Plan,
    PlannedArea,
    PlannedContract,
    PlanDiffers,
    ContractError,
    DataDirection,
    DirectionError,
    Handle,
    BufferState,
    HandleError,
    RawRecord,
    FaultAccess,
    Fault,
    FaultStatus,
    Level,
];

// The books: changed through `&mut` or under the lock alone.
shared![
    Index<'static>,
    Area,
    Ledger<'static>,
    Region<'static, OneEach>,
    Region<'static, OnDemand<'static>>,
    Mapped,
    Part<'static>
];

// The machine and what stands over it: whatever core, whatever context.
shared![
    Dma<Machine>,
    UserTables<Machine>,
    Contract<Machine>,
    PortView<Machine>,
    Holders<'static, Machine>,
    Borrower<Machine, Discardable>,
    Borrower<Machine, Movable>,
    Loan,
    Pool<Machine>,
    StreamPool<Machine, FromDevice>,
    Shares<Machine>,
    ShareHolders<'static, Machine>,
    DeviceLease<Machine>,
    Lock<u32>,
    Lock<std::cell::Cell<u32>>
];

handed_on![
    Contiguous<Machine>,
    Coherent<Machine>,
    Stream<Machine, ToDevice, Cpu>,
    Stream<Machine, FromDevice, Device>,
    DeviceOnly<Machine>,
    PoolBlock<Machine>,
    StreamBlock<Machine, ToDevice, Cpu>,
    ScatterTable<Machine, ToDevice, Cpu>,
    Port<Machine>,
];

// The fake is a machine of one core. What the audit compares with is made where it runs.
stays![Guard<'static, u32>, Lock<*const u32>, Fake, Setup, Dma<Fake>, Expect<'static>];

#[test]
fn every_public_type_is_in_a_list() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = sources::of_the_module();
    let here = fs::read_to_string(root.join("tests/threads.rs")).unwrap();
    let there = fs::read_to_string(root.join("../../tests/on-target/tests/four_cores.rs")).unwrap();
    let adapters = sources::adapters();
    let adapters = adapters.iter().map(|adapter| fs::read_to_string(adapter.join("tests/threads.rs")).unwrap());
    let there = adapters.fold(there, |all, one| all + &one);
    let mut listed = BTreeSet::new();
    for (text, open, close) in [
        (&here, "\nshared![", "];"),
        (&here, "\nhanded_on![", "];"),
        (&here, "\nstays![", "];"),
        (&there, "\n    shared::<(", ")>"),
        (&there, "\n    handed_on::<(", ")>"),
        (&there, "\nshared![", "];"),
        (&there, "\nstays![", "];"),
    ] {
        let lists = text.split(open).skip(1).map(|from| from.split(close).next().unwrap());
        listed.extend(lists.flat_map(|list| list.split(|c: char| !c.is_alphanumeric() && c != '_')));
    }
    let declared = all.iter().flat_map(|(_, text)| text.lines()).filter_map(|line| {
        let line = line.trim_start();
        let rest = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "))?;
        rest.split(|c: char| !c.is_alphanumeric()).next().filter(|name| !name.is_empty())
    });
    let missing: Vec<_> = declared.filter(|&name| !listed.contains(name)).collect();
    assert!(missing.is_empty(), "say of these whether cores may share them: {missing:?}");
}

/// Errata 754327 and 761319 of Cortex-A9: whoever waits for another core passes a DMB in each turn.
#[test]
fn every_loop_that_waits_for_a_core_passes_a_barrier() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for folder in ["kernel", "boards"].map(|folder| root.join(folder)) {
        for path in sources::below(&folder) {
            // On the host `relax` is the hint; this file names it.
            let allowed = path.ends_with("carveout/src/cpu.rs") || path.ends_with("rt/tests/threads.rs");
            let source = fs::read_to_string(folder.join(&path)).expect("a source");
            assert!(allowed || !source.contains("spin_loop"), "{}: cpu::relax, not the hint alone", path.display());
        }
    }
}
