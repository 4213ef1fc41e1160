//! Buffers that processes and drivers share: by handles with rights, page by page, with the least maintenance.
//!
//! Guarantees:
//!
//! - **Who may.** A [`ShareHandle`] is good for one client, for the pages and the rights that it was granted. A client
//!   that may, grants others less or as much. What was granted can be revoked, whatever the other does: this needs no
//!   memory, fails never, and waits for the call under way on the same buffer alone.
//! - **I1** A user's page has the attribute of the kernel's mapping of it, begins after that and ends before it.
//! - **I3** What is due when pages change [domains](ShareDomain) is decided by the protocol's rows, from what these
//!   pages went through. Users lose their pages before lines are maintained.
//! - **I4** No user and no kernel has a page mapped that a device has. A user that touches it faults, and
//!   [`Shares::fault`] says whose it is.
//! - **I5** A buffer is zeroed when it is made, and freed by its last client. Nobody reads what a former owner left.
//!
//! A domain says what pages are for: [`Shares::set_cpu`] makes them the users', [`Shares::lend`] a device's. Where
//! pages are in the domain that is asked for, nothing is due: so further clients that read cost nothing.
//!
//! No call here is for interrupt handlers: each waits for its turn on the buffer, with interrupts as they are. Where
//! cores ask each other to empty caches, the caller has them on: who has the turn may ask who waits. Nothing uses the
//! heap but [`Shares::new`].
//!
//! ```
//! use carveout::dma::{UserAccess, DataDirection, Offer, ShareLimits, ShareRights, Shares, UserView};
//! # use carveout::setup::Setup;
//! # let setup = Setup::new(1);
//! # let camera = setup.master("camera");
//! let limits = ShareLimits { clients: 4, grants: 8, buffers: 2 };
//! let shares: &Shares<_> = Box::leak(Box::new(Shares::new(setup.dma, limits)?));
//! let painter = shares.add_client("painter", None, 1 << 20)?; // a driver: it has no address space
//! let viewer = shares.add_client("viewer", None, 0)?;
//!
//! let picture = shares.create(painter, &camera, 8 << 12, UserView::Cached, "picture")?;
//! shares.share(painter, picture, &Offer { to: viewer, rights: ShareRights::READ, pages: (2, 4), name: "strip" })?;
//! let strip = shares.find(viewer, "strip")?;
//!
//! let lease = shares.lend(painter, picture, 0..8, &camera, DataDirection::FromDevice)?; // nothing maps it now
//! assert!(shares.set_cpu(viewer, strip, 0..2, UserAccess::Read).is_err(), "the camera has it");
//! // SAFETY: the camera has finished (I4).
//! unsafe { lease.finish() };
//! shares.set_cpu(viewer, strip, 0..2, UserAccess::Read)?;
//! assert!(shares.set_cpu(viewer, strip, 0..3, UserAccess::Read).is_err(), "not its page");
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```

mod book;
mod error;
mod report;
mod rights;
mod shares;

pub use book::{Offer, ShareLimits};
pub use error::ShareError;
pub use report::{ShareFault, ShareHolder, ShareHolders};
pub use rights::{ClientId, ShareHandle, ShareRights};
pub use shares::{DeviceLease, ShareStats, Shares};
