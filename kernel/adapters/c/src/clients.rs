//! Clients of shared buffers, for C.
//!
//! Guarantees: sharing begins once. No client is made before, and the number of a removed client names nobody.

use crate::failure::{Error, Failure, Refusal, answer, told};
use crate::instance;
use crate::sharing::{Client, ShareLimits, Sharing};
use crate::space::Space;
use crate::text;
use core::ffi::c_char;
use core::mem::MaybeUninit;

/// Makes sharing possible, with so many clients, handles, buffers and leases at a time. It is called once. It uses the
/// kernel's `alloc` and `free`; no other function of sharing does.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_share_init(limits: Option<&ShareLimits>, why: Option<&mut MaybeUninit<Failure>>) -> Error {
    answer(why, || {
        let instance = instance::ready()?;
        let limits = limits.ok_or(Refusal::Null("limits"))?;
        instance.share(|| Sharing::new(instance.dma(), *limits))
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
