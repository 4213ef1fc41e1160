//! The calls on shared buffers, each in its turn on the buffer.
//!
//! Guarantees: while a call has the turn on a buffer, nobody else maps, unmaps or hands over any page of it. A handle
//! is looked up in that turn, so what was revoked before is refused.

use crate::addr::{BusAddr, FRAME_SHIFT, VirtAddr};
use crate::dma::buffer::direction::DataDirection;
use crate::dma::buffer::shared::{Shared, UserView, Users, overlap, within};
use crate::dma::master::Master;
use crate::dma::registry::Dma;
use crate::dma::share::book::{Book, Grant, Offer, ShareLimits, UserMapping};
use crate::dma::share::error::ShareError;
use crate::dma::share::rights::{ClientId, ShareHandle, ShareRights};
use crate::heap::room;
use crate::machine::Machine;
use crate::name::Name;
use crate::sync::{Lock, Rank};
use crate::vm::mapped::Mapped;
use crate::vm::user::{UserAccess, UserSpace};
use alloc::collections::TryReserveError;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::mutex::{TicketMutex, TicketMutexGuard};
use spin::relax::RelaxStrategy;

/// Waits for a turn on a buffer as every wait of this crate does.
pub(super) struct Relax;

impl RelaxStrategy for Relax {
    fn relax() {
        crate::cpu::relax();
    }
}

/// A buffer, while it is there. Turns on it come in the order in which they were asked for.
type Place<M> = TicketMutex<Option<Shared<M>>, Relax>;
type Turn<'s, M> = TicketMutexGuard<'s, Option<Shared<M>>>;

/// What was counted since the shares were made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShareStats {
    /// Calls that changed the domain of pages.
    pub changes: u32,
    /// Calls that found pages in the domain that they asked for, so that nothing was due.
    pub free: u32,
    /// Runs of pages that were mapped for users.
    pub mapped: u32,
    /// Runs of pages that were unmapped. A run is not always unmapped as it was mapped.
    pub unmapped: u32,
}

#[derive(Default)]
struct Counters {
    changes: AtomicU32,
    free: AtomicU32,
    mapped: AtomicU32,
    unmapped: AtomicU32,
}

/// The buffers of a [`Dma`] that are shared, and who has what of them.
pub struct Shares<M: Machine + 'static> {
    dma: &'static Dma<M>,
    /// It is taken while a turn on a buffer is held, and never the other way round. No lock is taken inside of it.
    pub(super) book: Lock<Book>,
    pub(super) buffers: Vec<Place<M>>,
    counters: Counters,
}

impl<M: Machine> Shares<M> {
    /// Makes room for so many clients, grants and buffers.
    ///
    /// # Errors
    ///
    /// The heap has no room.
    pub fn new(dma: &'static Dma<M>, limits: ShareLimits) -> Result<Self, TryReserveError> {
        let mut buffers = room(limits.buffers.into())?;
        buffers.resize_with(limits.buffers.into(), || Place::new(None));
        let book = Lock::new(Rank::SHARES, Book::new(limits)?);
        Ok(Self { dma, book, buffers, counters: Counters::default() })
    }

    /// Adds a client: a process with its address space, or a driver, which has none. `quota` is the most bytes of the
    /// buffers that it makes.
    ///
    /// # Errors
    ///
    /// [`ShareError::Full`] if there are as many as there may be.
    pub fn add_client(
        &self,
        name: &str,
        space: Option<Arc<dyn UserSpace>>,
        quota: u64,
    ) -> Result<ClientId, ShareError> {
        let frames = u32::try_from(quota >> FRAME_SHIFT).unwrap_or(u32::MAX);
        self.book.lock().add_client(Name::new(name), space, frames)
    }

    /// Removes a client that is gone, and gives up all that it had, its address space too. Returns how many handles
    /// that were. Buffers that others have grants of live on.
    ///
    /// # Errors
    ///
    /// [`ShareError::NoClient`] if it was removed before.
    pub fn remove_client(&self, client: ClientId) -> Result<u32, ShareError> {
        let mut swept = 0;
        self.book.lock().name_of(client)?;
        let space = loop {
            // Nobody grants it anything between the last look and its end.
            let next = self.book.lock().any_of_or_remove(client);
            match next {
                Ok(handle) => swept += u32::from(self.end(handle)),
                Err(space) => break space,
            }
        };
        drop(space);
        Ok(swept)
    }

    /// Makes a buffer of zeros that `client` pays for. `master` says from which area, and which device must reach it.
    /// `bytes` are rounded up to whole pages. The client has all rights to all pages, which are nobody's at first.
    ///
    /// # Errors
    ///
    /// [`ShareError::Quota`] if the client may not pay for it. [`ShareError::Full`] if there are as many buffers or
    /// grants as there may be. [`ShareError::Alloc`] if there is no memory. [`ShareError::NoClient`].
    pub fn create(
        &self,
        client: ClientId,
        master: &Master,
        bytes: u32,
        view: UserView,
        name: &str,
    ) -> Result<ShareHandle, ShareError> {
        let frames = bytes.div_ceil(1 << FRAME_SHIFT);
        let (handle, place) = self.book.lock().begin(client, frames, Name::new(name))?;
        let mut turn = self.buffers[place].lock();
        match self.dma.alloc_stream_of(master, bytes, 1, DataDirection::Bidirectional) {
            Ok(stream) => {
                let mut book = self.book.lock();
                // The client may be gone meanwhile. Then the stream is freed.
                book.grant(client, handle)?;
                book.place_frames(place, stream.frames());
                drop(book);
                *turn = Some(Shared::new(stream, view));
            }
            Err(error) => {
                let mut book = self.book.lock();
                book.end(handle);
                book.forget(place);
                return Err(error.into());
            }
        }
        Ok(handle)
    }

    /// Grants pages to another client, which finds them by their name ([`find`](Self::find)) or is told the handle.
    ///
    /// # Errors
    ///
    /// [`ShareError::Rights`] if the handle has not the right to do so, or not the rights that are offered.
    /// [`ShareError::Outside`] if the pages are not all inside. [`ShareError::Full`] if there are as many grants as
    /// there may be. [`ShareError::Stale`], [`ShareError::NoClient`].
    pub fn share(&self, client: ClientId, handle: ShareHandle, offer: &Offer<'_>) -> Result<ShareHandle, ShareError> {
        self.book.lock().share(client, handle, offer)
    }

    /// Returns the handle of what was granted to a client last under a name.
    ///
    /// # Errors
    ///
    /// [`ShareError::NoName`] if nothing was. [`ShareError::NoClient`].
    pub fn find(&self, client: ClientId, name: &str) -> Result<ShareHandle, ShareError> {
        self.book.lock().find(client, name)
    }

    /// Gives up what a client was granted. What it granted to others stays theirs. The buffer is freed with its last
    /// grant, or kept in quarantine if a device has pages of it then.
    ///
    /// # Errors
    ///
    /// [`ShareError::Stale`], [`ShareError::NoClient`].
    pub fn close(&self, client: ClientId, handle: ShareHandle) -> Result<(), ShareError> {
        self.book.lock().grant(client, handle)?;
        self.end(handle);
        Ok(())
    }

    /// Revokes all that was granted from this handle, by whomever. Returns how many grants that were. None of them
    /// gives a right from the start of this call on, so their clients cannot grant faster than this revokes. When it
    /// returns, no core translates to the buffer for any of those clients.
    ///
    /// # Errors
    ///
    /// [`ShareError::Stale`], [`ShareError::NoClient`].
    pub fn revoke(&self, client: ClientId, handle: ShareHandle) -> Result<u32, ShareError> {
        let (place, revoked) = {
            let mut book = self.book.lock();
            (book.grant(client, handle)?.buffer, book.revoke_from(handle))
        };
        loop {
            let Some(grant) = self.book.lock().any_revoked(place) else { break };
            self.end(grant);
        }
        Ok(revoked)
    }

    /// Maps what a client was granted into its address space. Returns the address of its first page, which stays the
    /// same until it is unmapped. Pages are there while they are the CPU's: writable if the client has the right and
    /// the domain says so.
    ///
    /// # Errors
    ///
    /// [`ShareError::NoSpace`] for a driver. [`ShareError::NoRoom`] if the address space has no room.
    /// [`ShareError::Mapped`] if it is mapped. [`ShareError::Rights`] if the client may not read.
    /// [`ShareError::Stale`], [`ShareError::NoClient`].
    pub fn map(&self, client: ClientId, handle: ShareHandle) -> Result<VirtAddr, ShareError> {
        self.on_buffer(client, handle, ShareRights::READ, |shared, grant| {
            if grant.at.is_some() {
                return Err(ShareError::Mapped { handle });
            }
            let space = self.book.lock().space_of(client)?;
            let pages = grant.count;
            let va = space.reserve(pages).ok_or(ShareError::NoRoom { pages })?;
            self.book.lock().set_mapped(handle, Some(va));
            shared.admit(&grant.pages(), |first, part, access| {
                space.map(address(va, grant.first, first), part, access.min(grant.rights.most()));
                self.counters.mapped.fetch_add(1, Ordering::Relaxed);
            });
            Ok(va)
        })
    }

    /// Ends what [`map`](Self::map) mapped.
    ///
    /// # Errors
    ///
    /// [`ShareError::Stale`], [`ShareError::NoClient`].
    pub fn unmap(&self, client: ClientId, handle: ShareHandle) -> Result<(), ShareError> {
        self.on_buffer(client, handle, ShareRights::default(), |_, grant| {
            if let Some(va) = grant.at {
                let space = self.book.lock().space_of(client)?;
                space.unmap(va, grant.count);
                self.counters.unmapped.fetch_add(1, Ordering::Relaxed);
                self.book.lock().set_mapped(handle, None);
                space.release(va, grant.count);
            }
            Ok(())
        })
    }

    /// Makes pages the CPU's, for programs that will read them, or write them too. Every client that has them mapped
    /// gets them. Pages count from the first one of the grant.
    ///
    /// A program that only writes asks for [`UserAccess::ReadWrite`] too: what it does not overwrite must be there.
    ///
    /// # Errors
    ///
    /// [`ShareError::Device`] if a device has some of them. [`ShareError::Rights`] if the client may not access them
    /// so. [`ShareError::Outside`], [`ShareError::TooManyParts`], [`ShareError::Stale`], [`ShareError::NoClient`].
    pub fn set_cpu(
        &self,
        client: ClientId,
        handle: ShareHandle,
        pages: Range<u32>,
        access: UserAccess,
    ) -> Result<(), ShareError> {
        self.on_buffer(client, handle, access.into(), |shared, grant| {
            let pages = inside(&grant, &pages)?;
            let changed = shared.set_cpu(&pages, access, &UsersOf { shares: self, buffer: grant.buffer })?;
            let counter = if changed { &self.counters.changes } else { &self.counters.free };
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Makes pages a device's, and returns the proof, with the address for the device. From here on nothing maps them.
    /// A device that only reads them may have them together with others that do, if all have the same pages. Pages
    /// count from the first one of the grant.
    ///
    /// # Errors
    ///
    /// [`ShareError::Device`] if a device has some of them otherwise. [`ShareError::OutOfReach`] if `master` does not
    /// reach them, in one run of addresses. [`ShareError::Rights`] if the client may not have a device do so.
    /// [`ShareError::Outside`], [`ShareError::TooManyParts`], [`ShareError::Stale`], [`ShareError::NoClient`].
    pub fn lend(
        &'static self,
        client: ClientId,
        handle: ShareHandle,
        pages: Range<u32>,
        master: &Master,
        direction: DataDirection,
    ) -> Result<DeviceLease<M>, ShareError> {
        let write = if direction.device_writes() { ShareRights::WRITE } else { ShareRights::READ };
        self.on_buffer(client, handle, write, |shared, grant| {
            let pages = inside(&grant, &pages)?;
            let frames = shared.frames(&pages).ok_or(ShareError::Stale { handle })?;
            let (bus, bytes) = master.bus_run(frames.base()).ok_or(ShareError::OutOfReach { master: master.name() })?;
            if bytes < frames.bytes() {
                return Err(ShareError::OutOfReach { master: master.name() });
            }
            shared.lend(&pages, master.name(), direction, &UsersOf { shares: self, buffer: grant.buffer })?;
            self.counters.changes.fetch_add(1, Ordering::Relaxed);
            let buffer = grant.buffer;
            Ok(DeviceLease { shares: self, buffer, id: shared.id(), pages, bus })
        })
    }

    /// Returns what was counted.
    pub fn stats(&self) -> ShareStats {
        let get = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
        let Counters { changes, free, mapped, unmapped } = &self.counters;
        ShareStats { changes: get(changes), free: get(free), mapped: get(mapped), unmapped: get(unmapped) }
    }

    /// Returns the bytes that a client pays for.
    ///
    /// # Errors
    ///
    /// [`ShareError::NoClient`].
    pub fn paid(&self, client: ClientId) -> Result<u64, ShareError> {
        Ok(u64::from(self.book.lock().paid(client)?) << FRAME_SHIFT)
    }

    /// Does something in a turn on the buffer of a handle, if the handle is good and gives `rights`.
    pub(super) fn on_buffer<R>(
        &self,
        client: ClientId,
        handle: ShareHandle,
        rights: ShareRights,
        work: impl FnOnce(&mut Shared<M>, Grant) -> Result<R, ShareError>,
    ) -> Result<R, ShareError> {
        let place = self.book.lock().grant(client, handle)?.buffer;
        let mut turn = self.buffers[place].lock();
        // It may have been revoked while the turn was waited for.
        let grant = self.book.lock().grant(client, handle)?;
        let has = grant.rights;
        if !has.include(rights) {
            return Err(ShareError::Rights { handle, has, wanted: rights });
        }
        work(turn.as_mut().ok_or(ShareError::Stale { handle })?, grant)
    }

    /// Ends a grant, and its buffer if it was the last. Returns whether it was there.
    fn end(&self, handle: ShareHandle) -> bool {
        let Some(place) = self.book.lock().buffer_of(handle) else { return false };
        let mut turn: Turn<'_, M> = self.buffers[place].lock();
        // The pages go before the right to them, and the addresses after it.
        let mapping = self.book.lock().mapping_of(handle);
        if let Some(UserMapping { space, va, count, .. }) = &mapping {
            space.unmap(*va, *count);
            self.counters.unmapped.fetch_add(1, Ordering::Relaxed);
        }
        let Some(last) = self.book.lock().end(handle) else { return false };
        if let Some(UserMapping { space, va, count, .. }) = mapping {
            space.release(va, count);
        }
        if last {
            if let Some(shared) = turn.take() {
                shared.end(&UsersOf { shares: self, buffer: place });
            }
            self.book.lock().forget(place);
        }
        true
    }
}

/// Returns the pages of the buffer that are `pages` of a grant.
fn inside(grant: &Grant, pages: &Range<u32>) -> Result<Range<u32>, ShareError> {
    let &Range { start, end } = pages;
    grant.pages_of(pages).ok_or(ShareError::Outside { start, end, pages: grant.count })
}

/// Returns where a user has a page of the buffer, whose page `first` it has at `va`.
const fn address(va: VirtAddr, first: u32, page: u32) -> VirtAddr {
    VirtAddr::new(va.raw() + ((page - first) << FRAME_SHIFT))
}

/// The users of a buffer, as the turn on it finds them.
struct UsersOf<'s, M: Machine + 'static> {
    shares: &'s Shares<M>,
    buffer: usize,
}

impl<M: Machine> UsersOf<'_, M> {
    /// Calls `each` with what each user may have of some pages.
    fn for_each(&self, pages: &Range<u32>, mut each: impl FnMut(&UserMapping, Range<u32>)) {
        for n in 0.. {
            // Nobody maps or unmaps anything of this buffer meanwhile: that takes a turn on it.
            let Some(mapping) = self.shares.book.lock().mapping_at(self.buffer, n) else { break };
            if let Some(common) = overlap(&(mapping.first..mapping.first + mapping.count), pages) {
                each(&mapping, common);
            }
        }
    }
}

impl<M: Machine> Users for UsersOf<'_, M> {
    fn map(&self, pages: Range<u32>, mapped: &Mapped, access: UserAccess) {
        self.for_each(&pages, |mapping, common| {
            let part = within(mapped, pages.start, &common);
            mapping.space.map(address(mapping.va, mapping.first, common.start), part, access.min(mapping.most));
            self.shares.counters.mapped.fetch_add(1, Ordering::Relaxed);
        });
    }

    fn unmap(&self, pages: Range<u32>) {
        self.for_each(&pages, |mapping, common| {
            mapping.space.unmap(address(mapping.va, mapping.first, common.start), common.end - common.start);
            self.shares.counters.unmapped.fetch_add(1, Ordering::Relaxed);
        });
    }
}

/// Pages of a shared buffer that a device has. Dropping it leaves them the device's for good: the buffer is kept in
/// quarantine when its last client gives it up.
#[must_use = "a device keeps the pages until it is finished"]
pub struct DeviceLease<M: Machine + 'static> {
    shares: &'static Shares<M>,
    buffer: usize,
    /// Which of the buffers that have this place, one after another.
    id: u64,
    pages: Range<u32>,
    bus: BusAddr,
}

impl<M: Machine> DeviceLease<M> {
    /// Returns the address to program into the device.
    pub const fn bus(&self) -> BusAddr {
        self.bus
    }

    /// Returns the number of bytes.
    pub const fn bytes(&self) -> u32 {
        (self.pages.end - self.pages.start) << FRAME_SHIFT
    }

    /// Takes the pages back from the device. They are nobody's until a client asks for them.
    ///
    /// # Safety
    ///
    /// I4: the device has finished with the pages, and said so. It will not access them until they are lent again.
    pub unsafe fn finish(self) {
        let (shares, buffer) = (self.shares, self.buffer);
        let mut turn = shares.buffers[buffer].lock();
        // A buffer that is gone is in quarantine.
        if let Some(shared) = turn.as_mut().filter(|shared| shared.id() == self.id) {
            shared.take_back(&self.pages, &UsersOf { shares, buffer });
        }
    }
}
