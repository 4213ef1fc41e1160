//! The one module of the machine, once `carveout_init` has made it.
//!
//! Guarantees: before that, every other function is refused. There is one for the whole machine; in the host's tests,
//! one for each thread.

use crate::blocks::{MAX_POOLS, PoolBlocks};
use crate::failure::Refusal;
use crate::machine::{Machine, leaked};
use crate::promise::{MAX_CONTRACTS, Promise};
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
    pools: Table<PoolBlocks, MAX_POOLS>,
    contracts: Table<Promise, MAX_CONTRACTS>,
    sums: Option<Sums>,
    empties: AtomicBool,
}

impl Instance {
    /// The blocks of heap that it takes, in bytes, beside what it is made of.
    pub(crate) const HEAP_BYTES: [usize; 3] =
        [size_of::<Self>(), Table::<PoolBlocks, MAX_POOLS>::HEAP_BYTES, Table::<Promise, MAX_CONTRACTS>::HEAP_BYTES];

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
            pools: Table::new("pool")?,
            contracts: Table::new("contract")?,
            sums,
            empties: AtomicBool::new(false),
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

    pub(crate) const fn pools(&self) -> &Table<PoolBlocks, MAX_POOLS> {
        &self.pools
    }

    pub(crate) const fn contracts(&self) -> &Table<Promise, MAX_CONTRACTS> {
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
