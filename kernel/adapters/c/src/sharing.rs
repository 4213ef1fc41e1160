//! Who shares buffers: processes and drivers, as clients.
//!
//! Guarantees: `carveout_share_init` takes all the memory that sharing takes. A client that is gone is named by no
//! number again.

use crate::failure::{Error, Failure, Refusal, answer, told};
use crate::instance::{self, Instance};
use crate::machine::Machine;
use crate::space::{Called, Space, SpacePlace};
use crate::table::Table;
use crate::text;
use alloc::sync::Arc;
use alloc::vec::Vec;
use carveout::cpu;
use carveout::dma::{self, ClientId, DeviceLease, Shares, UserSpace};
use carveout::machine::Mmu;
use carveout::name::Name;
use carveout::sync::{Lock, Rank};
use core::ffi::c_char;
use core::mem::MaybeUninit;

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
    fn new(instance: &Instance, limits: ShareLimits) -> Result<Self, Refusal> {
        let ShareLimits { clients, handles, buffers, leases } = limits;
        let count = usize::from(clients);
        let limits = dma::ShareLimits { clients, grants: handles, buffers };
        let shares = Shares::new(instance.dma(), limits).map_err(|_| Refusal::Heap("shared buffers"))?;
        let leases = Table::new("lease", leases.into())?;
        let mut spaces = Vec::new();
        spaces.try_reserve_exact(count).map_err(|_| Refusal::Heap("address spaces"))?;
        // An `Arc` cannot be refused memory, so it is seen first that there is enough.
        let mut enough = Vec::<(usize, usize, SpacePlace)>::new();
        enough.try_reserve_exact(count).map_err(|_| Refusal::Heap("address spaces"))?;
        drop(enough);
        let share = instance.machine().registers().shareability();
        spaces.resize_with(count, || Place { space: Arc::new(SpacePlace { called: None, share }), client: 0 });
        Ok(Self { shares, leases, spaces: Lock::new(RANK, spaces) })
    }

    /// Adds a client.
    fn add(&self, name: &Name, space: Option<&Space>, quota: u64) -> Result<Client, Refusal> {
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
    fn wait_for_space(&self, client: Client) {
        let is_used = |place: &mut Place| place.client == client.id && Arc::get_mut(&mut place.space).is_none();
        while self.spaces.lock().iter_mut().any(is_used) {
            cpu::relax();
        }
    }
}

/// Makes sharing possible, with so many clients, handles, buffers and leases at a time. It is called once. It uses the
/// kernel's `alloc` and `free`; no other function of sharing does.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_share_init(limits: Option<&ShareLimits>, why: Option<&mut MaybeUninit<Failure>>) -> Error {
    answer(why, || {
        let instance = instance::ready()?;
        let limits = limits.ok_or(Refusal::Null("limits"))?;
        instance.share(|| Sharing::new(instance, *limits))
    })
}

/// Adds a client: a process with its address space, or a driver, whose `space` is NULL. It makes no buffer by which it
/// would pay for more than `quota` bytes. `name` is UTF-8, at most 31 bytes.
///
/// Returns a client whose `id` is 0 if it refused.
///
/// # Safety
///
/// `name` is NULL, or a string that ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn carveout_client_add(
    name: *const c_char,
    space: Option<&Space>,
    quota: u64,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Client {
    let done = told(why, || {
        let sharing = instance::ready()?.sharing()?;
        // SAFETY: NULL or a string, as this function demands.
        let name = unsafe { text::name("client", name) }?;
        sharing.add(&name, space, quota)
    });
    done.unwrap_or(Client { id: 0 })
}

/// Removes a client that is gone, and gives up all that it had. What it has mapped is unmapped. When this returns no
/// function of its address space runs, and none is called again. Buffers that others have handles of live on.
///
/// Writes to `handles` how many it gave up.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_client_remove(
    client: Client,
    handles: Option<&mut MaybeUninit<u32>>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let sharing = instance::ready()?.sharing()?;
        let given_up = sharing.shares.remove_client(client.named()?)?;
        sharing.wait_for_space(client);
        if let Some(to) = handles {
            to.write(given_up);
        }
        Ok(())
    })
}

/// Writes to `bytes` what a client pays for.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_client_paid(
    client: Client,
    bytes: Option<&mut MaybeUninit<u64>>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let sharing = instance::ready()?.sharing()?;
        let to = bytes.ok_or(Refusal::Null("bytes"))?;
        to.write(sharing.shares.paid(client.named()?)?);
        Ok(())
    })
}
