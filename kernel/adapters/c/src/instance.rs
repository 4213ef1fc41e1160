//! The one module of the machine, once `carveout_init` has made it.
//!
//! Guarantees: before that, every other function is refused. There is one for the whole machine; in the host's tests,
//! one for each thread.

use crate::blocks::{MAX_POOLS, PoolBlocks};
use crate::failure::Refusal;
use crate::machine::{Machine, leaked};
use crate::promise::{MAX_CONTRACTS, Promise};
use crate::sharing::Sharing;
use crate::table::Table;
use crate::written::Sums;
use carveout::addr::VirtAddr;
use carveout::dma::Dma;
use carveout::machine::Mmu;
use core::sync::atomic::{AtomicBool, Ordering};

/// What all functions work on.
pub(crate) struct Instance {
    machine: &'static Machine,
    dma: &'static Dma<Machine>,
    areas: usize,
    pools: Table<PoolBlocks>,
    contracts: Table<Promise>,
    sums: Option<Sums>,
    empties: AtomicBool,
    sharing: spin::Once<Sharing>,
}

impl Instance {
    /// The blocks of heap that it takes, in bytes, beside what it is made of.
    pub(crate) const HEAP_BYTES: [usize; 3] =
        [size_of::<Self>(), Table::<PoolBlocks>::heap_bytes(MAX_POOLS), Table::<Promise>::heap_bytes(MAX_CONTRACTS)];

    pub(crate) fn new(
        machine: &'static Machine,
        dma: &'static Dma<Machine>,
        areas: usize,
        sums: Option<Sums>,
    ) -> Result<Self, Refusal> {
        Ok(Self {
            machine,
            dma,
            areas,
            pools: Table::new("pool", MAX_POOLS)?,
            contracts: Table::new("contract", MAX_CONTRACTS)?,
            sums,
            empties: AtomicBool::new(false),
            sharing: spin::Once::new(),
        })
    }

    pub(crate) const fn machine(&self) -> &'static Machine {
        self.machine
    }

    pub(crate) const fn dma(&self) -> &'static Dma<Machine> {
        self.dma
    }

    /// Returns the number of areas.
    pub(crate) const fn areas(&self) -> usize {
        self.areas
    }

    pub(crate) const fn pools(&self) -> &Table<PoolBlocks> {
        &self.pools
    }

    pub(crate) const fn contracts(&self) -> &Table<Promise> {
        &self.contracts
    }

    /// Returns the sums of streams, if the CPU's writes are looked for.
    pub(crate) const fn sums(&self) -> Option<&Sums> {
        self.sums.as_ref()
    }

    /// Permits that whole caches are emptied, unless that was permitted before.
    pub(crate) fn permit_emptying_once(
        &self,
        permit: impl FnOnce(&'static Machine) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        if self.empties.swap(true, Ordering::Relaxed) {
            return Err(Refusal::Permitted);
        }
        permit(self.machine).inspect_err(|_| self.empties.store(false, Ordering::Relaxed))
    }

    /// Makes sharing possible, unless it is.
    pub(crate) fn share(&self, make: impl FnOnce() -> Result<Sharing, Refusal>) -> Result<(), Refusal> {
        if self.sharing.is_completed() {
            return Err(Refusal::Sharing);
        }
        self.sharing.try_call_once(make).map(drop)
    }

    /// Returns what sharing works on.
    pub(crate) fn sharing(&self) -> Result<&Sharing, Refusal> {
        self.sharing.get().ok_or(Refusal::NotSharing)
    }

    /// Returns the pointer by which C has a buffer at this address. Nothing is accessed.
    pub(crate) fn pointer(&self, va: VirtAddr) -> *mut u8 {
        self.machine.reach(va, 0)
    }
}

#[cfg(target_arch = "arm")]
static INSTANCE: spin::Once<&'static Instance> = spin::Once::new();

/// Returns the module.
#[cfg(target_arch = "arm")]
pub(crate) fn ready() -> Result<&'static Instance, Refusal> {
    INSTANCE.get().copied().ok_or(Refusal::NotReady)
}

/// Makes the module, unless there is one.
#[cfg(target_arch = "arm")]
pub(crate) fn make(make: impl FnOnce() -> Result<Instance, Refusal>) -> Result<(), Refusal> {
    if ready().is_ok() {
        return Err(Refusal::Ready);
    }
    let instance = leaked(make()?)?;
    INSTANCE.call_once(|| instance);
    Ok(())
}

#[cfg(not(target_arch = "arm"))]
std::thread_local! {
    static INSTANCE: core::cell::OnceCell<&'static Instance> = const { core::cell::OnceCell::new() };
}

/// Returns the module of this thread.
#[cfg(not(target_arch = "arm"))]
pub(crate) fn ready() -> Result<&'static Instance, Refusal> {
    INSTANCE.with(|instance| instance.get().copied()).ok_or(Refusal::NotReady)
}

/// Makes the module of this thread, unless there is one.
#[cfg(not(target_arch = "arm"))]
pub(crate) fn make(make: impl FnOnce() -> Result<Instance, Refusal>) -> Result<(), Refusal> {
    if ready().is_ok() {
        return Err(Refusal::Ready);
    }
    let instance = leaked(make()?)?;
    INSTANCE.with(|place| place.set(instance)).map_err(|_| Refusal::Ready)
}
