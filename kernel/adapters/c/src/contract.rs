//! Contracts: a device's buffers, promised beforehand (I7).

use crate::device::Device;
use crate::failure::{Error, Failure, Refusal, answer, told};
use crate::instance::{self, Instance};
use crate::machine::Machine;
use crate::promise::{Contract, Promise};
use carveout::dma::{Contiguous, ContractSet};
use core::mem::MaybeUninit;
use core::slice;

/// Equal buffers that a contract promises.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Set {
    /// How many, 1 or more.
    pub(crate) count: u32,
    /// The bytes of each.
    pub(crate) bytes: u32,
    /// The alignment of each on the bus, a power of two in bytes; 0 stands for a page of 4 KiB.
    pub(crate) align: u32,
}

/// The most sets of one contract.
pub(crate) const MAX_SETS: usize = 16;

/// Promises the device that these buffers can always be allocated, whatever others take. Each gets its place now. A
/// `carveout_device` whose `contract` it is allocates by it. `set_count` is at most 16.
///
/// Returns a contract whose `id` is 0 if it refused. It uses the kernel's `alloc` and `free`, with interrupts masked.
///
/// # Safety
///
/// `sets` is NULL, or points to `set_count` sets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn carveout_contract_create(
    dev: Option<&Device>,
    sets: *const Set,
    set_count: usize,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Contract {
    let done = told(why, || {
        let instance = instance::ready()?;
        let dev = dev.ok_or(Refusal::Null("dev"))?;
        if sets.is_null() {
            return Err(Refusal::Null("sets"));
        }
        if set_count > MAX_SETS {
            return Err(Refusal::Full { what: "sets of a contract", limit: MAX_SETS });
        }
        // SAFETY: it points to as many sets, as this function demands.
        let sets = unsafe { slice::from_raw_parts(sets, set_count) };
        let mut list = [ContractSet { count: 0, bytes: 0, align: 0 }; MAX_SETS];
        for (to, from) in list.iter_mut().zip(sets) {
            *to = ContractSet { count: from.count, bytes: from.bytes, align: from.align.max(1) };
        }
        let contract = instance.dma().contract(&dev.master(instance)?, &list[..set_count])?;
        let promise = Promise { contract, owner: dev.name()? };
        let id = instance.contracts().keep(promise).map_err(|(refusal, _)| refusal)?;
        Ok(Contract { id })
    });
    done.unwrap_or(Contract { id: 0 })
}

/// Ends a contract. Buffers that were allocated by it live on. It uses the kernel's `free`.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_contract_destroy(contract: Contract, why: Option<&mut MaybeUninit<Failure>>) -> Error {
    answer(why, || {
        let instance = instance::ready()?;
        drop(instance.contracts().take(contract.id, |_| Ok(()))?);
        Ok(())
    })
}

/// Allocates by the device's contract.
pub(crate) fn alloc(instance: &'static Instance, dev: &Device, bytes: u32) -> Result<Contiguous<Machine>, Refusal> {
    let named = dev.name()?;
    instance.contracts().with(dev.contract.id, |promise| {
        if promise.owner != named {
            return Err(Refusal::OtherDevice { owner: promise.owner, named });
        }
        Ok(promise.contract.alloc(bytes, dev.align())?)
    })
}
