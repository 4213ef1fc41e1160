//! The book of shared buffers: clients, what each was granted, and who pays.
//!
//! Guarantees: a grant gives no more than its parent's: neither pages nor rights. A number that named a client or a
//! grant names nothing else later. A client that makes buffers pays for their frames, up to its quota. Nothing here
//! maps, waits, or takes memory once the book is made.

use crate::addr::{FRAME_SHIFT, Frame, FrameRange, PhysAddr, VirtAddr};
use crate::dma::share::error::ShareError;
use crate::dma::share::rights::{ClientId, ShareHandle, ShareRights, Ticket};
use crate::heap::room;
use crate::name::Name;
use crate::vm::user::{UserAccess, UserSpace};
use alloc::collections::TryReserveError;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

/// A table whose places are used again, each time with another generation.
struct Table<T> {
    places: Vec<(u64, Option<T>)>,
}

impl<T> Table<T> {
    fn new(count: usize) -> Result<Self, TryReserveError> {
        let mut places = room(count)?;
        places.resize_with(count, || (0, None));
        Ok(Self { places })
    }

    fn free_place(&self) -> Option<usize> {
        self.places.iter().position(|(_, thing)| thing.is_none())
    }

    fn put(&mut self, place: usize, thing: T) -> Ticket {
        let (generation, at) = &mut self.places[place];
        *at = Some(thing);
        Ticket::new(place, *generation)
    }

    fn get(&self, ticket: Ticket) -> Option<&T> {
        let (generation, thing) = self.places.get(ticket.place())?;
        thing.as_ref().filter(|_| Ticket::new(ticket.place(), *generation) == ticket)
    }

    fn get_mut(&mut self, ticket: Ticket) -> Option<&mut T> {
        let (generation, thing) = self.places.get_mut(ticket.place())?;
        let generation = *generation;
        thing.as_mut().filter(|_| Ticket::new(ticket.place(), generation) == ticket)
    }

    fn take(&mut self, ticket: Ticket) -> Option<T> {
        self.get(ticket)?;
        let (generation, thing) = &mut self.places[ticket.place()];
        *generation += 1;
        thing.take()
    }

    fn iter(&self) -> impl Iterator<Item = (Ticket, &T)> {
        self.places.iter().enumerate().filter_map(|(place, (generation, thing))| {
            thing.as_ref().map(|thing| (Ticket::new(place, *generation), thing))
        })
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = (Ticket, &mut T)> {
        self.places.iter_mut().enumerate().filter_map(|(place, (generation, thing))| {
            thing.as_mut().map(|thing| (Ticket::new(place, *generation), thing))
        })
    }
}

/// A client.
struct Client {
    name: Name,
    space: Option<Arc<dyn UserSpace>>,
    /// In frames.
    quota: u32,
    /// What was revoked last while it was mapped: where, how many pages, and the buffer's name.
    lost: Option<(VirtAddr, u32, Name)>,
}

/// What a client was granted.
#[derive(Clone, Copy)]
pub(super) struct Grant {
    /// The buffer's place.
    pub(super) buffer: usize,
    pub(super) client: ClientId,
    pub(super) rights: ShareRights,
    /// Which of the buffer's pages.
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) name: Name,
    /// The grant that it was made from, while that is there.
    parent: Option<ShareHandle>,
    /// Where its client has it mapped.
    pub(super) at: Option<VirtAddr>,
    /// How many grants were made before it.
    born: u64,
    /// Whether it is revoked. It ends as soon as its pages are unmapped, and gives no right until then.
    pub(super) revoked: bool,
}

impl Grant {
    pub(super) const fn pages(&self) -> Range<u32> {
        self.first..self.first + self.count
    }

    /// Returns the pages of the buffer that are pages `part` of the grant, or `None` if they are not all inside.
    pub(super) fn pages_of(&self, part: &Range<u32>) -> Option<Range<u32>> {
        let inside = part.start < part.end && part.end <= self.count;
        inside.then(|| self.first + part.start..self.first + part.end)
    }
}

/// A mapping of a client's. It is dropped while the book is not locked, for it may be the last that has the space.
pub(super) struct UserMapping {
    pub(super) space: Arc<dyn UserSpace>,
    pub(super) va: VirtAddr,
    pub(super) first: u32,
    pub(super) count: u32,
    /// The most that the client may do.
    pub(super) most: UserAccess,
}

/// A buffer, as the book has it.
struct Entry {
    frames: u32,
    /// Its first frame, once it is allocated.
    first: Option<Frame>,
    payer: ClientId,
}

/// An offer of pages to another client.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'o> {
    /// Who gets them.
    pub to: ClientId,
    /// What it may do.
    pub rights: ShareRights,
    /// Which pages, counted from the first one of the grant that they come from.
    pub pages: (u32, u32),
    /// The name by which it finds them.
    pub name: &'o str,
}

/// How many there can be of each. All memory is taken when the book is made.
#[derive(Clone, Copy, Debug)]
pub struct ShareLimits {
    /// Clients.
    pub clients: u16,
    /// Grants, of all buffers and clients together.
    pub grants: u16,
    /// Shared buffers.
    pub buffers: u16,
}

pub(super) struct Book {
    clients: Table<Client>,
    grants: Table<Grant>,
    buffers: Vec<Option<Entry>>,
    born: u64,
}

impl Book {
    pub(super) fn new(limits: ShareLimits) -> Result<Self, TryReserveError> {
        let (clients, grants) = (Table::new(limits.clients.into())?, Table::new(limits.grants.into())?);
        let mut buffers = room(limits.buffers.into())?;
        buffers.resize_with(limits.buffers.into(), || None);
        Ok(Self { clients, grants, buffers, born: 0 })
    }

    pub(super) fn add_client(
        &mut self,
        name: Name,
        space: Option<Arc<dyn UserSpace>>,
        quota: u32,
    ) -> Result<ClientId, ShareError> {
        let place = self.clients.free_place().ok_or(ShareError::Full { what: "clients" })?;
        Ok(ClientId(self.clients.put(place, Client { name, space, quota, lost: None })))
    }

    /// Returns a handle of a client. If it has none, forgets the client and returns its address space, which is dropped
    /// while the book is not locked.
    pub(super) fn any_of_or_remove(&mut self, client: ClientId) -> Result<ShareHandle, Option<Arc<dyn UserSpace>>> {
        let any = self.grants.iter().find(|(_, grant)| grant.client == client).map(|(ticket, _)| ShareHandle(ticket));
        any.ok_or_else(|| self.clients.take(client.0).and_then(|client| client.space))
    }

    fn client(&self, client: ClientId) -> Result<&Client, ShareError> {
        self.clients.get(client.0).ok_or(ShareError::NoClient { client })
    }

    pub(super) fn name_of(&self, client: ClientId) -> Result<Name, ShareError> {
        Ok(self.client(client)?.name)
    }

    pub(super) fn space_of(&self, client: ClientId) -> Result<Arc<dyn UserSpace>, ShareError> {
        self.client(client)?.space.clone().ok_or(ShareError::NoSpace { client })
    }

    /// Enters a buffer of so many frames, for which `client` pays, and grants all of it. Returns the buffer's place
    /// too.
    pub(super) fn begin(
        &mut self,
        client: ClientId,
        frames: u32,
        name: Name,
    ) -> Result<(ShareHandle, usize), ShareError> {
        let (quota, paid) = (self.client(client)?.quota, self.paid(client)?);
        if frames > quota.saturating_sub(paid) {
            return Err(ShareError::Quota { frames, paid, quota });
        }
        let buffer = self.buffers.iter().position(Option::is_none).ok_or(ShareError::Full { what: "buffers" })?;
        let (rights, first, count, born) = (ShareRights::ALL, 0, frames, self.born);
        let grant = Grant { buffer, client, rights, first, count, name, parent: None, at: None, born, revoked: false };
        let handle = self.add(grant)?;
        self.buffers[buffer] = Some(Entry { frames, first: None, payer: client });
        Ok((handle, buffer))
    }

    /// Takes note of a buffer's frames.
    pub(super) fn place_frames(&mut self, buffer: usize, frames: FrameRange) {
        if let Some(entry) = &mut self.buffers[buffer] {
            entry.first = Frame::from_number(frames.start());
        }
    }

    /// Returns what a client with this first-level table may do with a frame at an address.
    pub(super) fn permitted(&self, root: PhysAddr, va: VirtAddr, frame: Frame) -> Option<UserAccess> {
        self.grants.iter().find_map(|(_, grant)| {
            let space = self.clients.get(grant.client.0)?.space.as_ref()?;
            let page = va.raw().checked_sub(grant.at?.raw())? >> FRAME_SHIFT;
            let first = self.buffers[grant.buffer].as_ref()?.first?;
            let there = page < grant.count && frame.number() == first.number() + grant.first + page;
            (there && space.first_level() == root).then(|| grant.rights.most())
        })
    }

    fn add(&mut self, grant: Grant) -> Result<ShareHandle, ShareError> {
        let place = self.grants.free_place().ok_or(ShareError::Full { what: "grants" })?;
        self.born += 1;
        Ok(ShareHandle(self.grants.put(place, grant)))
    }

    /// Returns what `client` was granted under this handle.
    pub(super) fn grant(&self, client: ClientId, handle: ShareHandle) -> Result<Grant, ShareError> {
        self.client(client)?;
        match self.grants.get(handle.0) {
            Some(grant) if grant.client == client && !grant.revoked => Ok(*grant),
            _ => Err(ShareError::Stale { handle }),
        }
    }

    /// Grants pages to another client.
    pub(super) fn share(
        &mut self,
        client: ClientId,
        handle: ShareHandle,
        offer: &Offer<'_>,
    ) -> Result<ShareHandle, ShareError> {
        let from = self.grant(client, handle)?;
        let wanted = offer.rights | ShareRights::RESHARE;
        if !from.rights.include(wanted) {
            return Err(ShareError::Rights { handle, has: from.rights, wanted });
        }
        self.client(offer.to)?;
        let (start, end) = offer.pages;
        let pages = from.pages_of(&(start..end)).ok_or(ShareError::Outside { start, end, pages: from.count })?;
        let grant = Grant {
            client: offer.to,
            rights: offer.rights,
            first: pages.start,
            count: pages.end - pages.start,
            name: Name::new(offer.name),
            parent: Some(handle),
            at: None,
            born: self.born,
            ..from
        };
        self.add(grant)
    }

    /// Returns the handle of what was granted to `client` last under this name.
    pub(super) fn find(&self, client: ClientId, name: &str) -> Result<ShareHandle, ShareError> {
        self.client(client)?;
        let is_named = |grant: &Grant| grant.client == client && grant.name == *name && !grant.revoked;
        let named = self.grants.iter().filter(|(_, grant)| is_named(grant));
        let last = named.max_by_key(|(_, grant)| grant.born).map(|(ticket, _)| ShareHandle(ticket));
        last.ok_or(ShareError::NoName { name: Name::new(name) })
    }

    /// Revokes all grants that were made from this one, directly or not: they give no right from now on. Returns how
    /// many there were.
    pub(super) fn revoke_from(&mut self, handle: ShareHandle) -> u32 {
        let mut revoked = 0;
        loop {
            let is_due = |grant: &Grant| {
                let from = grant.parent.and_then(|parent| self.grants.get(parent.0)).is_some_and(|from| from.revoked);
                !grant.revoked && (grant.parent == Some(handle) || from)
            };
            let next = self.grants.iter().find(|(_, grant)| is_due(grant)).map(|(ticket, _)| ticket);
            let Some(grant) = next.and_then(|ticket| self.grants.get_mut(ticket)) else { return revoked };
            grant.revoked = true;
            revoked += 1;
        }
    }

    /// Returns a grant of a buffer that is revoked, if there is one.
    pub(super) fn any_revoked(&self, buffer: usize) -> Option<ShareHandle> {
        let is = |grant: &Grant| grant.buffer == buffer && grant.revoked;
        self.grants.iter().find(|(_, grant)| is(grant)).map(|(ticket, _)| ShareHandle(ticket))
    }

    /// Returns the buffer that a handle is of, whosever it is.
    pub(super) fn buffer_of(&self, handle: ShareHandle) -> Option<usize> {
        self.grants.get(handle.0).map(|grant| grant.buffer)
    }

    /// Takes note where a client has mapped its pages, or that it has not.
    pub(super) fn set_mapped(&mut self, handle: ShareHandle, at: Option<VirtAddr>) {
        if let Some(grant) = self.grants.get_mut(handle.0) {
            grant.at = at;
        }
    }

    fn mapping(&self, grant: &Grant) -> Option<UserMapping> {
        let (space, va) = (self.clients.get(grant.client.0)?.space.as_ref()?, grant.at?);
        let Grant { first, count, rights, .. } = *grant;
        Some(UserMapping { space: space.clone(), va, first, count, most: rights.most() })
    }

    /// Returns what a grant's client has mapped of it.
    pub(super) fn mapping_of(&self, handle: ShareHandle) -> Option<UserMapping> {
        self.mapping(self.grants.get(handle.0)?)
    }

    /// Returns the mapping of a buffer that comes after so many others.
    pub(super) fn mapping_at(&self, buffer: usize, n: usize) -> Option<UserMapping> {
        let of = |(_, grant): (Ticket, &Grant)| if grant.buffer == buffer { self.mapping(grant) } else { None };
        self.grants.iter().filter_map(of).nth(n)
    }

    /// Ends a grant, whosever it is. What was granted from it counts as granted by its parent. Returns whether it was
    /// the buffer's last one, or `None` if it was gone.
    pub(super) fn end(&mut self, handle: ShareHandle) -> Option<bool> {
        let grant = self.grants.take(handle.0)?;
        for (_, child) in self.grants.iter_mut().filter(|(_, other)| other.parent == Some(handle)) {
            child.parent = grant.parent;
        }
        if let (Some(va), true) = (grant.at, grant.revoked)
            && let Some(client) = self.clients.get_mut(grant.client.0)
        {
            client.lost = Some((va, grant.count, grant.name));
        }
        // Who pays is somebody who has a grant: the one that has one for longest.
        let left = || self.grants.iter().map(|(_, other)| other).filter(|other| other.buffer == grant.buffer);
        let entry = self.buffers[grant.buffer].as_mut().expect("a grant is of a buffer");
        let oldest = left().min_by_key(|other| other.born).map(|other| other.client);
        if let Some(heir) = oldest
            && left().all(|other| other.client != entry.payer)
        {
            entry.payer = heir;
        }
        Some(oldest.is_none())
    }

    /// Forgets a buffer that is freed.
    pub(super) fn forget(&mut self, buffer: usize) {
        self.buffers[buffer] = None;
    }

    /// Returns the grant whose pages `client` has mapped at an address, and which of the buffer's pages is there.
    pub(super) fn grant_at(&self, client: ClientId, va: VirtAddr) -> Option<(ShareHandle, Grant, u32)> {
        self.grants.iter().find_map(|(ticket, grant)| {
            let page = va.raw().checked_sub(grant.at?.raw())? >> FRAME_SHIFT;
            (grant.client == client && page < grant.count).then(|| (ShareHandle(ticket), *grant, grant.first + page))
        })
    }

    /// Returns the name of the buffer that `client` had mapped at an address until it was revoked, if it was the last
    /// one.
    pub(super) fn lost_at(&self, client: ClientId, va: VirtAddr) -> Option<Name> {
        let (first, count, name) = self.client(client).ok()?.lost?;
        let page = va.raw().checked_sub(first.raw())? >> FRAME_SHIFT;
        (page < count).then_some(name)
    }

    /// Returns the name of who pays for the buffer of a grant.
    pub(super) fn owner(&self, grant: &Grant) -> Name {
        let payer = self.buffers[grant.buffer].as_ref().map_or(grant.client, |entry| entry.payer);
        self.name_of(payer).unwrap_or(Name::new("?"))
    }

    /// Returns how many grants there can be.
    pub(super) fn places(&self) -> usize {
        self.grants.places.len()
    }

    /// Returns the grant in this place of the table, with the names of its client and of who pays.
    pub(super) fn row(&self, place: usize) -> Option<(Grant, Name, Name)> {
        let grant = self.grants.places[place].1?;
        Some((grant, self.name_of(grant.client).unwrap_or(Name::new("?")), self.owner(&grant)))
    }

    /// Returns the frames that a client pays for.
    pub(super) fn paid(&self, client: ClientId) -> Result<u32, ShareError> {
        self.client(client)?;
        Ok(self.buffers.iter().flatten().filter(|entry| entry.payer == client).map(|entry| entry.frames).sum())
    }
}
