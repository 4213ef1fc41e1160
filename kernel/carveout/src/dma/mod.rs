//! The DMA API: contiguous buffers in states, with the least maintenance that suffices.
//!
//! Guarantees:
//!
//! - A buffer's frames have at most one mapping, with one attribute (I1).
//! - The ledger is asked before a mapping is made, and told after it is gone from every TLB (I3).
//! - While a device owns a buffer, no value of this API names its bytes and no mapping of them exists (I4).
//! - Whoever gets a buffer finds zeros in it (I5).
//! - The lock is held over updates of indexes, ledger and descriptors, and never over zeroing, copying or cache work. A
//!   change of hands that maps and unmaps nothing takes no lock.
//!
//! Any core may call anything here at any time. So may interrupt handlers, for the lock masks interrupts
//! ([`sync`](crate::sync)). A call takes as long in a handler as elsewhere: making a buffer zeroes it, and a hand-over
//! maintains its lines. These calls are not for handlers: [making the `Dma`](crate::embed), making and ending contracts
//! and pools, making borrowers and scatter tables, for they use the heap; [loans](Borrower), for they may have to wait;
//! [`Dma::take_area`], [`Dma::take_mapped_area`] and [`Dma::give_back_area`], for they go through all tables or all of
//! an area; and the audit, for it walks all tables with interrupts masked.
//!
//! Nothing here prints or logs, and only the calls just named use the heap, and allocations that find few records left.
//! Those do so only where interrupts are not masked. So all others may be made under the embedding kernel's locks of
//! ranks 0 to 3, whatever rank its console has. Drops are among them. [`Dma::next_quarantined`] tells of a buffer that
//! was lost, when it is asked.
//!
//! A coherent buffer that is freed may keep its mapping for the next one ([`AfterFree`]), and wait on a shelf of its
//! core.

mod access;
mod alloc;
mod at_lane;
#[cfg(feature = "audit")]
mod audit;
mod body;
pub(crate) mod buffer;
pub(crate) mod contract;
mod exec;
mod field;
mod handle;
mod handles;
mod idle;
mod kind;
mod lanes;
mod late;
#[cfg(feature = "loans")]
pub(crate) mod loan;
#[cfg(not(feature = "loans"))]
#[path = "loan/left_out.rs"]
mod loan;
mod mapped_area;
pub(crate) mod master;
mod occupancy;
mod plan;
pub(crate) mod pool;
pub(crate) mod port;
mod records;
mod registry;
mod report;
pub(crate) mod scatter;
pub(crate) mod segment;
pub(crate) mod share;
mod shelf;
mod spare;
mod standing;
mod warm;
pub(crate) mod word;

pub use crate::cma::area::{AllocError, MAX_ALIGN, NoRun, Occupant};
pub use crate::cma::contract::{ContractError, ContractSet, PlacedSet};
#[cfg(feature = "loans")]
pub use crate::cma::loan::{
    LendError, Loan, LoanError, LoanPriority, LoanStats, MAX_BORROWERS, MAX_BUDGET, PageKind, SPARES,
};
pub use crate::cma::reach::Reach;
pub use crate::holder::Holder;
pub use crate::vm::user::{UserAccess, UserSpace};
pub use buffer::{
    Bidirectional, Coherent, Contiguous, Cpu, DataDirection, Device, DeviceOnly, Direction, DirectionError, Effort,
    FromDevice, MAX_PARTS, No, Owner, PagesError, ShareDomain, Stream, ToDevice, TypedDirection, UserView, Yes,
};
pub use contract::Contract;
pub use field::Field;
pub use handle::{BufferState, Handle, HandleError};
pub use handles::RawRecord;
pub use late::{GiveBackError, TakeError};
#[cfg(feature = "loans")]
pub use loan::{Borrower, Discardable, LOAN_PAGE, LentFrames, LoanKind, Movable};
pub use mapped_area::WiderMapping;
pub use master::{Aperture, AreaId, MAX_APERTURES, Master, MasterError};
pub use plan::{Plan, PlanDiffers, PlannedArea, PlannedContract};
pub use pool::{BlockShape, BlocksOut, Pool, PoolBlock, PoolError, PoolExhausted, StreamBlock, StreamPool};
pub use port::{Port, PortError, PortView};
pub(crate) use registry::{BookSizes, BuiltBy};
pub use registry::{BufferRecord, Dma, DmaStats};
pub use report::{FaultPlace, Holders};
pub use scatter::ScatterTable;
pub use segment::{ScatterError, Segment};
pub use share::{
    ClientId, DeviceLease, Offer, ShareError, ShareFault, ShareHandle, ShareHolder, ShareHolders, ShareLimits,
    ShareRights, ShareStats, Shares,
};
pub use warm::AfterFree;
pub use word::Word;

/// Names a field of a record, for [`Coherent::read_field`](crate::dma::Coherent::read_field) and its like: the record's
/// type, and the field, which may lie in a field that is a record itself. The record implements
/// [`IntoBytes`](zerocopy::IntoBytes), and the field is a [`Word`](crate::dma::Word).
///
/// ```
/// # use zerocopy::IntoBytes;
/// #[derive(IntoBytes)]
/// #[repr(C)]
/// struct Entry {
///     address: [u32; 2],
///     state: State,
/// }
///
/// #[derive(IntoBytes)]
/// #[repr(C)]
/// struct State {
///     length: u32,
///     flags: u32,
/// }
///
/// const FLAGS: carveout::dma::Field<Entry, u32> = carveout::field!(Entry, state.flags);
/// ```
#[macro_export]
macro_rules! field {
    ($record:ty, $($field:tt)+) => {
        $crate::dma::Field::<$record, _>::new(::core::mem::offset_of!($record, $($field)+), |record| &record.$($field)+)
    };
}
