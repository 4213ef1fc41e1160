//! What may go from core to core, and what several cores may use at once. `kernel/rt/tests/threads.rs` looks for each
//! public type in these lists.
//!
//! C passes what it likes from core to core. The types with pointers are what C fills in; the functions read them, and
//! keep none.

use carveout_c::audit::{AuditReport, Expected};
use carveout_c::blocks::Pool;
use carveout_c::buffer::Direction;
use carveout_c::contract::Set;
use carveout_c::device::{Aperture, Device};
use carveout_c::dma_handle::DmaHandle;
use carveout_c::failure::{Error, Failure};
use carveout_c::init::KernelNeeds;
use carveout_c::kernel::{Alias, Area, Kernel, Range};
use carveout_c::outer::OuterCache;
use carveout_c::promise::Contract;
use carveout_c::report::{Counts, Holder, Place, Record, Room};
use carveout_c::share::{Fault, FaultPage, Lease, Offer, Right, Share, ShareCounts, ShareEffort, ShareRecord, View};
use carveout_c::sharing::{Client, ShareLimits};
use carveout_c::space::Space;
use static_assertions::{assert_impl_all, assert_not_impl_any};

macro_rules! shared {
    ($($type:ty),* $(,)?) => {$(assert_impl_all!($type: Send, Sync);)*};
}

macro_rules! stays {
    ($($type:ty),* $(,)?) => {$(assert_not_impl_any!($type: Send, Sync);)*};
}

shared![
    Alias,
    Aperture,
    AuditReport,
    Client,
    Contract,
    Counts,
    Direction,
    DmaHandle,
    Error,
    Failure,
    Fault,
    FaultPage,
    Holder,
    KernelNeeds,
    Lease,
    Place,
    Pool,
    Range,
    Right,
    Room,
    Set,
    Share,
    ShareCounts,
    ShareEffort,
    ShareLimits,
    ShareRecord,
    View,
];

stays![Area, Device, Expected, Kernel, Offer, OuterCache, Record, Space];
