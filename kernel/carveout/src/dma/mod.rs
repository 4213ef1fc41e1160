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
//! maintains its lines. These calls are not for handlers: [`Dma::new`], making and ending contracts and pools, making
//! borrowers and scatter tables, for they use the heap; [loans](Borrower), for they may have to wait; and the audit,
//! for it walks all tables with interrupts masked.
//!
//! Nothing here prints or logs, and only the calls just named use the heap. So all others may be made under the
//! embedding kernel's locks of ranks 0 to 3, whatever rank its console has. Drops are among them.
//! [`Dma::next_quarantined`] tells of a buffer that was lost, when it is asked.

mod alloc;
mod at_lane;
#[cfg(feature = "audit")]
mod audit;
mod body;
pub(crate) mod buffer;
pub(crate) mod contract;
mod exec;
mod idle;
mod lanes;
#[cfg(feature = "loans")]
pub(crate) mod loan;
#[cfg(not(feature = "loans"))]
#[path = "loan/left_out.rs"]
mod loan;
pub(crate) mod master;
pub(crate) mod pool;
pub(crate) mod port;
mod registry;
mod report;
pub(crate) mod scatter;
pub(crate) mod segment;
pub(crate) mod word;

pub use crate::cma::area::{AllocError, MAX_ALIGN, NoRun};
pub use crate::cma::contract::{ContractError, ContractSet};
#[cfg(feature = "loans")]
pub use crate::cma::loan::{
    LendError, Loan, LoanError, LoanPriority, LoanStats, MAX_BORROWERS, MAX_BUDGET, PageKind, SPARES,
};
pub use crate::cma::reach::Reach;
pub use crate::holder::Holder;
pub use buffer::{
    Bidirectional, Coherent, Contiguous, Cpu, Device, DeviceOnly, Direction, Effort, FromDevice, No, Stream, ToDevice,
    Yes,
};
pub use contract::Contract;
#[cfg(feature = "loans")]
pub use loan::{Borrower, Discardable, LOAN_PAGE, LentFrames, LoanKind, Movable};
pub use master::{Aperture, AreaId, MAX_APERTURES, Master, MasterError};
pub use pool::{BlockShape, BlocksOut, Pool, PoolBlock, PoolError, PoolExhausted};
pub use port::{Port, PortError, PortView};
pub use registry::{BufferRecord, Dma, DmaError, DmaStats, MAX_BUFFERS};
pub use report::{FaultPlace, Holders};
pub use scatter::ScatterTable;
pub use segment::{ScatterError, Segment};
pub use word::Word;
