//! Pools of small coherent blocks.
//!
//! Guarantees: a block that was freed, one of another pool or at another address is refused, and nothing changes.

use crate::blocks::{Pool, PoolBlocks};
use crate::device::Device;
use crate::dma_handle::DmaHandle;
use crate::failure::{Error, Failure, Refusal, answer, told};
use crate::instance;
use carveout::dma::{self, BlockShape};
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr;

/// Makes a pool of `blocks` blocks of `size` bytes: Linux's `dma_pool_create`. It takes all its memory now. The bus
/// address of each block is a multiple of `align`, a power of two. No block crosses a multiple of `boundary`, a power
/// of two; 0 stands for no limit. The device's `align` and `contract` do not count.
///
/// Returns a pool whose `id` is 0 if it refused. It uses the kernel's `alloc` and `free`.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_pool_create(
    dev: Option<&Device>,
    size: usize,
    align: usize,
    boundary: usize,
    blocks: u32,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Pool {
    let done = told(why, || {
        let instance = instance::ready()?;
        let dev = dev.ok_or(Refusal::Null("dev"))?;
        let word = |bytes: usize| u32::try_from(bytes).map_err(|_| Refusal::TooLarge { bytes });
        let boundary = (boundary != 0).then(|| word(boundary)).transpose()?;
        let shape = BlockShape { size: word(size)?, align: word(align)?, boundary };
        let pool = dma::Pool::new(instance.dma(), &dev.master(instance)?, shape, blocks)?;
        let id = instance.pools().keep(PoolBlocks::of(pool, blocks)?).map_err(|(refusal, _)| refusal)?;
        Ok(Pool { id })
    });
    done.unwrap_or(Pool { id: 0 })
}

/// Takes a block, filled with zeros: Linux's `dma_pool_zalloc`, which has `gfp` for `why`. It maps nothing and waits
/// for nobody but who uses a pool just now, so an interrupt handler may call it.
///
/// Returns its first byte for the CPU, and writes to `dma_handle` where the device finds it. Returns NULL if it
/// refused.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_pool_alloc(
    pool: Pool,
    dma_handle: Option<&mut MaybeUninit<DmaHandle>>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> *mut c_void {
    let done = told(why, || {
        let instance = instance::ready()?;
        let to = dma_handle.ok_or(Refusal::Null("dma_handle"))?;
        let (at, handle) = instance.pools().with(pool.id, PoolBlocks::alloc)?;
        to.write(handle);
        Ok(at.cast())
    });
    done.unwrap_or(ptr::null_mut())
}

/// Puts a block back: Linux's `dma_pool_free`. The device has finished with it, and forgot its address.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_pool_free(
    pool: Pool,
    cpu_addr: *mut c_void,
    dma_handle: DmaHandle,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let instance = instance::ready()?;
        let block = instance.pools().with(pool.id, |blocks| blocks.free(cpu_addr.addr(), dma_handle))?;
        // SAFETY: the device has finished, as C says by this call (I4).
        unsafe { block.free() };
        Ok(())
    })
}

/// Ends a pool and frees its memory: Linux's `dma_pool_destroy`. All its blocks must be back. It
/// uses the kernel's `free`.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_pool_destroy(pool: Pool, why: Option<&mut MaybeUninit<Failure>>) -> Error {
    answer(why, || {
        let instance = instance::ready()?;
        let back = |blocks: &PoolBlocks| match blocks.out() {
            0 => Ok(()),
            held => Err(Refusal::BlocksHeld { held }),
        };
        drop(instance.pools().take(pool.id, back)?);
        Ok(())
    })
}
