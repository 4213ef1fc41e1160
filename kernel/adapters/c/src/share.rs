//! Buffers that processes and drivers share: handles with rights, domains by page, leases of devices.
//!
//! Guarantees: a handle gives its client the pages and the rights that it was granted, and nobody else anything. Pages
//! that a device has are mapped for nobody (I4). A lease is finished once.

use crate::buffer::{DirectionNumber, direction};
use crate::device::Device;
use crate::failure::{Error, Failure, Refusal, answer, told, write_line, write_line_at};
use crate::instance;
use crate::sharing::{Client, Sharing};
use crate::text;
use carveout::addr::VirtAddr;
use carveout::dma::{self, ShareFault, ShareHandle, ShareHolder, ShareRights, UserAccess, UserView};
use carveout::machine::Lines;
use core::ffi::{c_char, c_void};
use core::mem::MaybeUninit;
use core::ops::Range;

/// What a client's handle gives it of a shared buffer, or nothing if `id` is 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Its identity, which no other handle gets later.
    pub(crate) id: u64,
}

impl Share {
    fn named(self) -> Result<ShareHandle, Refusal> {
        ShareHandle::from_bits(self.id).ok_or(Refusal::Gone("handle of a shared buffer"))
    }
}

/// Pages that a device has, or none if `id` is 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Its identity, which no other lease gets later.
    pub(crate) id: u64,
    /// The bus address to program into the device.
    pub(crate) addr: u32,
}

/// What a client may do with pages. Functions take sums of these numbers.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// Its programs read them, and devices that work for it.
    Read = 1,
    /// They write them.
    Write = 2,
    /// It grants them to others, with rights that it has itself.
    Reshare = 4,
}

fn rights(number: u32) -> Result<ShareRights, Refusal> {
    ShareRights::from_bits(number).ok_or(Refusal::NoRights(number))
}

fn access_of(number: u32) -> Result<UserAccess, Refusal> {
    let all = [UserAccess::Read, UserAccess::ReadWrite];
    let named = all.into_iter().find(|&access| ShareRights::from(access).to_bits() == number);
    named.ok_or(Refusal::NoAccess(number))
}

/// How a buffer is mapped, for the kernel and for every process, as long as it lives.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// Write-back.
    Cached = 0,
    /// Normal memory, non-cacheable: writes combine, and no line is maintained.
    WriteCombining = 1,
}

/// A number that C passes for a view.
pub type ViewNumber = u32;

fn view(number: ViewNumber) -> Result<UserView, Refusal> {
    match number {
        n if n == View::Cached as u32 => Ok(UserView::Cached),
        n if n == View::WriteCombining as u32 => Ok(UserView::WriteCombining),
        n => Err(Refusal::NoView(n)),
    }
}

/// Pages for another client.
#[repr(C)]
#[derive(Debug)]
pub struct Offer {
    /// Who gets them.
    pub(crate) to: Client,
    /// What it may do: a sum of `carveout_right`.
    pub(crate) rights: u32,
    /// The first page, counted from the first one of the handle that they come from.
    pub(crate) first: u32,
    /// How many there are, 1 or more.
    pub(crate) count: u32,
    /// The name by which it finds them, in UTF-8, at most 31 bytes.
    pub(crate) name: *const c_char,
}

/// Returns a run of pages. One that does not end below 2^32 is outside of any buffer.
const fn pages(first: u32, count: u32) -> Range<u32> {
    first..first.saturating_add(count)
}

fn sharing() -> Result<&'static Sharing, Refusal> {
    instance::ready()?.sharing()
}

/// Makes a buffer of zeros that `client` pays for, in whole pages, which are nobody's at first. The client gets all
/// rights to all pages. `dev` says from which area, and what must reach it; its `align` and `contract` do not count.
///
/// Returns a handle whose `id` is 0 if it refused.
///
/// # Safety
///
/// `name` is NULL, or a string that ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn carveout_share_create(
    client: Client,
    dev: Option<&Device>,
    size: usize,
    view: ViewNumber,
    name: *const c_char,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Share {
    let done = told(why, || {
        let (instance, sharing) = (instance::ready()?, sharing()?);
        let master = dev.ok_or(Refusal::Null("dev"))?.master(instance)?;
        let bytes = u32::try_from(size).map_err(|_| Refusal::TooLarge { bytes: size })?;
        // SAFETY: NULL or a string, as this function demands.
        let name = unsafe { text::name("buffer", name) }?;
        let made = sharing.shares.create(client.named()?, &master, bytes, self::view(view)?, &name)?;
        Ok(Share { id: made.to_bits() })
    });
    done.unwrap_or(Share { id: 0 })
}

/// Grants pages to another client, which finds them by their name or is told the handle.
///
/// Returns the other client's handle, whose `id` is 0 if it refused.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_share_offer(
    client: Client,
    share: Share,
    offer: Option<&Offer>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Share {
    let done = told(why, || {
        let sharing = sharing()?;
        let offer = offer.ok_or(Refusal::Null("offer"))?;
        // SAFETY: it is NULL or a string, as the header says of it.
        let name = unsafe { text::name("offer", offer.name) }?;
        let Range { start, end } = pages(offer.first, offer.count);
        let (to, rights) = (offer.to.named()?, rights(offer.rights)?);
        let offer = dma::Offer { to, rights, pages: (start, end), name: &name };
        Ok(Share { id: sharing.shares.share(client.named()?, share.named()?, &offer)?.to_bits() })
    });
    done.unwrap_or(Share { id: 0 })
}

/// Returns the handle of what was granted to a client last under a name. Its `id` is 0 if it refused.
///
/// # Safety
///
/// `name` is NULL, or a string that ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn carveout_share_find(
    client: Client,
    name: *const c_char,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Share {
    let done = told(why, || {
        let sharing = sharing()?;
        // SAFETY: NULL or a string, as this function demands.
        let name = unsafe { text::name("buffer", name) }?;
        Ok(Share { id: sharing.shares.find(client.named()?, &name)?.to_bits() })
    });
    done.unwrap_or(Share { id: 0 })
}

/// Gives up what a client was granted. What it granted to others stays theirs. The last one that gives a buffer up
/// frees it, or leaves it in quarantine if a device has pages of it.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_share_close(client: Client, share: Share, why: Option<&mut MaybeUninit<Failure>>) -> Error {
    answer(why, || Ok(sharing()?.shares.close(client.named()?, share.named()?)?))
}

/// Ends all that was granted from this handle, by whomever. When it returns, no core translates to the buffer for any
/// of those clients.
///
/// Writes to `revoked` how many handles that were.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_share_revoke(
    client: Client,
    share: Share,
    revoked: Option<&mut MaybeUninit<u32>>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let count = sharing()?.shares.revoke(client.named()?, share.named()?)?;
        if let Some(to) = revoked {
            to.write(count);
        }
        Ok(())
    })
}

/// Maps all pages of a handle into its client's address space. They are there while they are the CPU's: writable if the
/// client has the right, and somebody asked for that.
///
/// Writes to `va` the address of the first page, which stays the same until `carveout_share_unmap`.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_share_map(
    client: Client,
    share: Share,
    va: Option<&mut MaybeUninit<u32>>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let sharing = sharing()?;
        let to = va.ok_or(Refusal::Null("va"))?;
        to.write(sharing.shares.map(client.named()?, share.named()?)?.raw());
        Ok(())
    })
}

/// Ends what `carveout_share_map` mapped, if anything is mapped.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_share_unmap(client: Client, share: Share, why: Option<&mut MaybeUninit<Failure>>) -> Error {
    answer(why, || Ok(sharing()?.shares.unmap(client.named()?, share.named()?)?))
}

/// Makes `count` pages from `first` on the CPU's, for programs that read (`CARVEOUT_RIGHT_READ`), or read and write
/// (`CARVEOUT_RIGHT_READ + CARVEOUT_RIGHT_WRITE`). Every client that has them mapped gets them. Pages count from the
/// first one of the handle.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_share_set_cpu(
    client: Client,
    share: Share,
    first: u32,
    count: u32,
    access: u32,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let sharing = sharing()?;
        let access = access_of(access)?;
        Ok(sharing.shares.set_cpu(client.named()?, share.named()?, pages(first, count), access)?)
    })
}

/// Makes `count` pages from `first` on a device's. From here on nothing maps them. A device that only reads them may
/// have them together with others that do, if all have the same pages.
///
/// Returns the lease, whose `addr` is for the device. Its `id` is 0 if it refused.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_share_lend(
    client: Client,
    share: Share,
    first: u32,
    count: u32,
    dev: Option<&Device>,
    dir: DirectionNumber,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Lease {
    let done = told(why, || {
        let (instance, sharing) = (instance::ready()?, sharing()?);
        let master = dev.ok_or(Refusal::Null("dev"))?.master(instance)?;
        let (client, share, direction) = (client.named()?, share.named()?, direction(dir)?);
        let id = sharing.leases.keep(None).map_err(|(refusal, _)| refusal)?;
        match sharing.shares.lend(client, share, pages(first, count), &master, direction) {
            Ok(lease) => {
                let addr = lease.bus().raw();
                sharing.leases.with(id, |place| {
                    *place = Some(lease);
                    Ok(Lease { id, addr })
                })
            }
            Err(error) => {
                sharing.leases.take(id, |_| Ok(()))?;
                Err(error.into())
            }
        }
    });
    done.unwrap_or(Lease { id: 0, addr: 0 })
}

/// Takes the pages of a lease back from the device, which has finished with them, and said so. They are nobody's until
/// a client asks for them. A lease that was finished is refused.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_share_finish(lease: Lease, why: Option<&mut MaybeUninit<Failure>>) -> Error {
    answer(why, || {
        let there = |place: &Option<_>| if place.is_some() { Ok(()) } else { Err(Refusal::Gone("lease")) };
        if let Some(lease) = sharing()?.leases.take(lease.id, there)? {
            // SAFETY: the device has finished, as C says by this call (I4).
            unsafe { lease.finish() };
        }
        Ok(())
    })
}

/// Why a program's access faulted.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// No page of a shared buffer is there, or was. The kernel ends the process.
    NotShared = 0,
    /// A device has the page. The kernel may wait until that has finished, or end the process.
    Device = 1,
    /// The page is in another domain. `carveout_share_set_cpu` of this page makes the access succeed.
    Domain = 2,
    /// The client has not the right. The kernel ends the process.
    Rights = 3,
    /// What the client had there was revoked. The kernel ends the process.
    Revoked = 4,
    /// The access is permitted: another core changed the domain since. The program goes on.
    Again = 5,
}

/// The page of a fault that is `CARVEOUT_FAULT_DOMAIN`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultPage {
    /// The handle.
    pub(crate) share: Share,
    /// The page, counted from the first one of the handle.
    pub(crate) page: u32,
    /// What `carveout_share_set_cpu` is to be asked for.
    pub(crate) access: u32,
}

/// Returns why an access of a client's program to `va` faulted: a read, or a write if `writes` is 1. It waits for the
/// call under way on the buffer.
///
/// Of `CARVEOUT_FAULT_DOMAIN` it writes the page to `page`. It writes a line about the place to `line`, which has room
/// for `line_size` characters. Either may be NULL. Nothing is written if no page of a shared buffer is there.
///
/// # Safety
///
/// `line` is NULL, or points to `line_size` characters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn carveout_share_fault(
    client: Client,
    va: u32,
    writes: u32,
    page: Option<&mut MaybeUninit<FaultPage>>,
    line: *mut c_char,
    line_size: usize,
) -> Fault {
    let (Ok(sharing), Ok(client)) = (sharing(), client.named()) else { return Fault::NotShared };
    let access = if writes == 0 { UserAccess::Read } else { UserAccess::ReadWrite };
    let Some(fault) = sharing.shares.fault(client, VirtAddr::new(va), access) else { return Fault::NotShared };
    // SAFETY: `line` has as many characters, as this function demands.
    unsafe { write_line_at(line, line_size, fault) };
    match fault {
        ShareFault::Device { .. } => Fault::Device,
        ShareFault::Domain { handle, page: number, access, .. } => {
            if let Some(to) = page {
                let share = Share { id: handle.to_bits() };
                to.write(FaultPage { share, page: number, access: ShareRights::from(access).to_bits() });
            }
            Fault::Domain
        }
        ShareFault::Rights { .. } => Fault::Rights,
        ShareFault::Revoked { .. } => Fault::Revoked,
        ShareFault::Again => Fault::Again,
    }
}

/// What a client has of a shared buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ShareRecord {
    /// The client's name.
    pub(crate) client: [c_char; 32],
    /// The buffer's name, as the client knows it.
    pub(crate) buffer: [c_char; 32],
    /// The name of the client that pays for the buffer.
    pub(crate) paid_by: [c_char; 32],
    /// The first page, counted from the buffer's first one.
    pub(crate) first: u32,
    /// How many pages there are.
    pub(crate) count: u32,
    /// A sum of `carveout_right`.
    pub(crate) rights: u32,
    /// Where the client has the pages mapped; 0 if it has not.
    pub(crate) va: u32,
}

impl ShareRecord {
    fn of(holder: &ShareHolder) -> Self {
        let ShareHolder { client, buffer, pages, rights, at, paid_by } = holder;
        let text = |name: &dyn core::fmt::Display| {
            let mut text = [0; 32];
            write_line(&mut text, name);
            text
        };
        Self {
            client: text(client),
            buffer: text(buffer),
            paid_by: text(paid_by),
            first: pages.start,
            count: pages.end - pages.start,
            rights: rights.to_bits(),
            va: at.map_or(0, VirtAddr::raw),
        }
    }
}

/// Calls `each` with what every client has of every shared buffer, in no particular order, and `context`. A handle that
/// comes or goes meanwhile may be among them or not. `each` may call every function of the module.
///
/// # Safety
///
/// `each` may be called with `context`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn carveout_for_each_share(
    each: Option<unsafe extern "C" fn(context: *mut c_void, record: &ShareRecord)>,
    context: *mut c_void,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let sharing = sharing()?;
        let each = each.ok_or(Refusal::Null("each"))?;
        sharing.shares.holders().try_for_each(|holder| {
            let record = ShareRecord::of(&holder);
            // SAFETY: it may be called so, as this function demands.
            unsafe { each(context, &record) };
            Ok(())
        })
    })
}

/// What changes of domains took.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareCounts {
    /// Calls that changed the domain of pages.
    pub(crate) changes: u32,
    /// Calls that found pages in the domain that they asked for, so that nothing was due.
    pub(crate) free: u32,
    /// Mappings of processes made.
    pub(crate) mapped: u32,
    /// Mappings of processes ended.
    pub(crate) unmapped: u32,
}

/// Writes to `counts` what was counted since `carveout_share_init`.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_share_count(
    counts: Option<&mut MaybeUninit<ShareCounts>>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let sharing = sharing()?;
        let to = counts.ok_or(Refusal::Null("counts"))?;
        let dma::ShareStats { changes, free, mapped, unmapped } = sharing.shares.stats();
        to.write(ShareCounts { changes, free, mapped, unmapped });
        Ok(())
    })
}

/// The cache lines that a buffer took, inside and outside of the cores.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareEffort {
    /// Lines cleaned.
    pub(crate) cleaned: u64,
    /// Lines invalidated.
    pub(crate) invalidated: u64,
}

/// Writes to `effort` what a client's buffer took so far.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_share_effort(
    client: Client,
    share: Share,
    effort: Option<&mut MaybeUninit<ShareEffort>>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let sharing = sharing()?;
        let to = effort.ok_or(Refusal::Null("effort"))?;
        let done = sharing.shares.effort(client.named()?, share.named()?)?;
        let all = |lines: Lines| lines.inner + lines.outer;
        to.write(ShareEffort { cleaned: all(done.cleaned), invalidated: all(done.invalidated) });
        Ok(())
    })
}
