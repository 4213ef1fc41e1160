//! Reports of shared buffers: what lies at a user's address, and who has what.

use crate::addr::{Frame, PhysAddr, VirtAddr};
use crate::dma::buffer::Effort;
use crate::dma::buffer::shared::ShareDomain;
use crate::dma::share::error::ShareError;
use crate::dma::share::rights::{ClientId, ShareHandle, ShareRights};
use crate::dma::share::shares::Shares;
use crate::machine::Machine;
use crate::name::Name;
use crate::vm::user::{UserAccess, UserPages};
use core::fmt;
use core::ops::Range;

/// Why a user's access to a page of a shared buffer faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShareFault {
    /// A device has the page. The kernel may wait until it has finished, or end the process.
    Device {
        /// The buffer's name, as the client knows it.
        name: Name,
        /// The device.
        master: Name,
    },
    /// The page is not in the domain for this access. [`Shares::set_cpu`] of this page makes the access succeed.
    Domain {
        /// The buffer's name.
        name: Name,
        /// The handle.
        handle: ShareHandle,
        /// The page, counted from the first one of the grant.
        page: u32,
        /// The access that is wanted.
        access: UserAccess,
    },
    /// The client may not do this.
    Rights {
        /// The buffer's name.
        name: Name,
        /// The client that pays for the buffer.
        owner: Name,
        /// The rights that it has.
        has: ShareRights,
    },
    /// What the client had there was revoked.
    Revoked {
        /// The buffer's name.
        name: Name,
    },
    /// The access is permitted: another core changed the domain since.
    Again,
}

impl fmt::Display for ShareFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { name, master } => write!(f, "a page of {name}, which {master} has"),
            Self::Domain { name, page, access: UserAccess::Read, .. } => {
                write!(f, "page {page} of {name}, which nobody made the CPU's")
            }
            Self::Domain { name, page, access: UserAccess::ReadWrite, .. } => {
                write!(f, "page {page} of {name}, which nobody made the CPU's to write")
            }
            Self::Rights { name, owner, has } => {
                write!(f, "a page of {name}, a buffer of {owner}, to which it has no more rights than {has}")
            }
            Self::Revoked { name } => write!(f, "{name}, which was revoked"),
            Self::Again => f.write_str("a page that it may access"),
        }
    }
}

impl<M: Machine> Shares<M> {
    /// Returns why an access of a client to a user's address faulted, or `None` if no page of a shared buffer is or was
    /// there. It waits for the call under way on the buffer.
    pub fn fault(&self, client: ClientId, va: VirtAddr, access: UserAccess) -> Option<ShareFault> {
        let found = self.book.lock().grant_at(client, va);
        let Some((handle, grant, page)) = found else {
            return self.book.lock().lost_at(client, va).map(|name| ShareFault::Revoked { name });
        };
        let name = grant.name;
        if grant.revoked {
            return Some(ShareFault::Revoked { name });
        }
        if !grant.rights.include(access.into()) {
            let owner = self.book.lock().owner(&grant);
            return Some(ShareFault::Rights { name, owner, has: grant.rights });
        }
        let domain = self.buffers[grant.buffer].lock().as_ref()?.domain(page)?;
        Some(match domain {
            ShareDomain::Device { master, .. } => ShareFault::Device { name, master },
            domain if domain.serves(access) => ShareFault::Again,
            _ => ShareFault::Domain { name, handle, page: page - grant.first, access },
        })
    }

    /// Returns a table of who has what: a line for each grant.
    pub const fn holders(&self) -> ShareHolders<'_, M> {
        ShareHolders { shares: self }
    }

    /// Calls `each` with the runs of pages of what a client was granted, and with the domain of each.
    ///
    /// # Errors
    ///
    /// [`ShareError::Stale`], [`ShareError::NoClient`].
    pub fn for_each_domain(
        &self,
        client: ClientId,
        handle: ShareHandle,
        each: impl FnMut(Range<u32>, ShareDomain),
    ) -> Result<(), ShareError> {
        self.on_buffer(client, handle, ShareRights::default(), |shared, _| {
            shared.for_each_domain(each);
            Ok(())
        })
    }

    /// Returns the effort that a client's buffer took so far.
    ///
    /// # Errors
    ///
    /// [`ShareError::Stale`], [`ShareError::NoClient`].
    pub fn effort(&self, client: ClientId, handle: ShareHandle) -> Result<Effort, ShareError> {
        self.on_buffer(client, handle, ShareRights::default(), |shared, _| Ok(shared.effort()))
    }
}

/// The audit asks while it has the lock of the books of the [`Dma`](crate::dma::Dma).
impl<M: Machine> UserPages for Shares<M> {
    fn permitted(&self, root: PhysAddr, va: VirtAddr, frame: Frame) -> Option<UserAccess> {
        self.book.lock().permitted(root, va, frame)
    }
}

impl<M: Machine> fmt::Debug for Shares<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// What a client has of a shared buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShareHolder {
    /// The client's name.
    pub client: Name,
    /// The buffer's name, as the client knows it.
    pub buffer: Name,
    /// The pages, counted from the buffer's first one.
    pub pages: Range<u32>,
    /// What the client may do with them.
    pub rights: ShareRights,
    /// Where it has them mapped, if it has.
    pub at: Option<VirtAddr>,
    /// The name of the client that pays for the buffer.
    pub paid_by: Name,
}

/// A table of grants: client, name, pages, rights, address, and who pays. Going through it takes the lock of the book
/// once for each possible grant, and never while anything is called or written.
pub struct ShareHolders<'s, M: Machine + 'static> {
    shares: &'s Shares<M>,
}

impl<M: Machine> ShareHolders<'_, M> {
    /// Calls `each` with each grant until it fails. A grant that comes or goes meanwhile may be among them or not.
    ///
    /// # Errors
    ///
    /// That of `each`.
    pub fn try_for_each<E>(&self, mut each: impl FnMut(ShareHolder) -> Result<(), E>) -> Result<(), E> {
        let places = self.shares.book.lock().places();
        for place in 0..places {
            let row = self.shares.book.lock().row(place);
            if let Some((grant, client, paid_by)) = row {
                let (buffer, pages, rights, at) = (grant.name, grant.pages(), grant.rights, grant.at);
                each(ShareHolder { client, buffer, pages, rights, at, paid_by })?;
            }
        }
        Ok(())
    }
}

impl<M: Machine> fmt::Display for ShareHolders<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<12} {:<16} {:>11} {:<6} {:<10}  paid by", "client", "buffer", "pages", "rights", "mapped")?;
        self.try_for_each(|ShareHolder { client, buffer, pages: Range { start, end }, rights, at, paid_by }| {
            write!(f, "\n{client:<12} {buffer:<16} {start:>5}-{:<5} {rights:<6} ", end - 1)?;
            match at {
                Some(va) => write!(f, "{va}  {paid_by}"),
                None => write!(f, "{:<10}  {paid_by}", "-"),
            }
        })
    }
}

impl<M: Machine> fmt::Debug for ShareHolders<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
