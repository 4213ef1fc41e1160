//! What sharing works on: the shares, the leases of devices, and the address spaces of clients.
//!
//! Guarantees: `Sharing::new` takes all the memory that sharing takes. No later client has the number of one that is
//! gone.

use crate::failure::Refusal;
use crate::machine::Machine;
use crate::space::{Called, Space, SpacePlace};
use crate::table::Table;
use alloc::sync::Arc;
use alloc::vec::Vec;
use carveout::cpu;
use carveout::dma::{self, ClientId, DeviceLease, Dma, Shares, UserSpace};
use carveout::machine::Mmu;
use carveout::name::Name;
use carveout::sync::{Lock, Rank};

/// As of the tables: its lock is never held while another is taken.
const RANK: Rank = Rank::new(3);

/// How many there can be of each at a time.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareLimits {
    /// Clients: processes and drivers.
    pub(crate) clients: u16,
    /// Handles, of all buffers and clients together.
    pub(crate) handles: u16,
    /// Shared buffers.
    pub(crate) buffers: u16,
    /// Leases of devices.
    pub(crate) leases: u16,
}

/// A client that shares buffers, or none if `id` is 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client {
    /// Its identity, which no other client gets later.
    pub(crate) id: u64,
}

impl Client {
    pub(crate) fn named(self) -> Result<ClientId, Refusal> {
        ClientId::from_bits(self.id).ok_or(Refusal::Gone("client"))
    }
}

/// What sharing works on.
pub(crate) struct Sharing {
    pub(crate) shares: Shares<Machine>,
    /// Each is kept before its pages are lent, so that a full table refuses before anything changes.
    pub(crate) leases: Table<Option<DeviceLease<Machine>>>,
    spaces: Lock<Vec<Place>>,
}

/// A place for an address space, and the number of the client that has it, or 0.
struct Place {
    space: Arc<SpacePlace>,
    client: u64,
}

impl Sharing {
    pub(crate) fn new(dma: &'static Dma<Machine>, limits: ShareLimits) -> Result<Self, Refusal> {
        let ShareLimits { clients, handles, buffers, leases } = limits;
        let count = usize::from(clients);
        let limits = dma::ShareLimits { clients, grants: handles, buffers };
        let shares = Shares::new(dma, limits).map_err(|_| Refusal::Heap("shared buffers"))?;
        let leases = Table::new("lease", leases.into())?;
        let mut spaces = Vec::new();
        spaces.try_reserve_exact(count).map_err(|_| Refusal::Heap("address spaces"))?;
        // An `Arc` cannot be refused memory, so it is seen first that there is enough.
        let mut enough = Vec::<(usize, usize, SpacePlace)>::new();
        enough.try_reserve_exact(count).map_err(|_| Refusal::Heap("address spaces"))?;
        drop(enough);
        let share = dma.machine().registers().shareability();
        spaces.resize_with(count, || Place { space: Arc::new(SpacePlace { called: None, share }), client: 0 });
        Ok(Self { shares, leases, spaces: Lock::new(RANK, spaces) })
    }

    /// Adds a client.
    pub(crate) fn add(&self, name: &Name, space: Option<&Space>, quota: u64) -> Result<Client, Refusal> {
        let space = space.map(|space| self.place(space.checked()?)).transpose()?;
        let shared = space.clone().map(|space| -> Arc<dyn UserSpace> { space });
        let id = self.shares.add_client(name, shared, quota)?.to_bits();
        if let Some(space) = space {
            self.spaces.lock().iter_mut().filter(|place| Arc::ptr_eq(&place.space, &space)).for_each(|p| p.client = id);
        }
        Ok(Client { id })
    }

    /// Returns a place that has this address space from now on.
    fn place(&self, called: Called) -> Result<Arc<SpacePlace>, Refusal> {
        let mut spaces = self.spaces.lock();
        let free = spaces.iter_mut().find_map(|place| {
            Arc::get_mut(&mut place.space)?.called = Some(called);
            Some(Arc::clone(&place.space))
        });
        free.ok_or(Refusal::Full { what: "client", limit: spaces.len() })
    }

    /// Waits until no core uses the address space of a client that was removed: another may be in a call of its own
    /// that ends a mapping there.
    pub(crate) fn wait_for_space(&self, client: Client) {
        let is_used = |place: &mut Place| place.client == client.id && Arc::get_mut(&mut place.space).is_none();
        while self.spaces.lock().iter_mut().any(is_used) {
            cpu::relax();
        }
    }
}
