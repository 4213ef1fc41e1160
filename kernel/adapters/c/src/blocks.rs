//! The blocks of a pool, as C names them.
//!
//! Guarantees: a handle names one block from one `alloc` to its `free`. Any other is refused, and nothing changes.

use crate::dma_handle::DmaHandle;
use crate::failure::Refusal;
use crate::machine::Machine;
use crate::table::{births_and_place, number};
use alloc::vec::Vec;
use carveout::dma::{self, PoolBlock};

/// The most pools that there may be at a time.
pub(crate) const MAX_POOLS: usize = 32;

/// A pool of small coherent blocks for a device, or none if `id` is 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pool {
    /// Its identity, which no other pool gets later.
    pub(crate) id: u64,
}

/// A pool and its blocks.
pub(crate) struct PoolBlocks {
    pool: dma::Pool<Machine>,
    /// In the order of their addresses.
    blocks: Vec<Block>,
    out: u32,
}

struct Block {
    at: usize,
    /// How often it was handed out.
    births: u32,
    /// The block, while C has it.
    held: Option<PoolBlock<Machine>>,
}

impl PoolBlocks {
    /// Takes over a pool of `count` blocks, of which none is out.
    pub(crate) fn of(pool: dma::Pool<Machine>, count: u32) -> Result<Self, Refusal> {
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(count as usize).map_err(|_| Refusal::Heap("blocks"))?;
        // Each is taken once, so that its address is known.
        while let Ok(block) = pool.alloc() {
            blocks.push(Block { at: block.as_ptr().addr().get(), births: 0, held: Some(block) });
        }
        blocks.sort_unstable_by_key(|block| block.at);
        for block in &mut blocks {
            block.held = None;
        }
        Ok(Self { pool, blocks, out: 0 })
    }

    /// Hands a block out.
    pub(crate) fn alloc(&mut self) -> Result<(*mut u8, DmaHandle), Refusal> {
        let block = self.pool.alloc()?;
        let at = block.as_ptr();
        let place = self.blocks.binary_search_by_key(&at.addr().get(), |block| block.at);
        let place = place.map_err(|_| Refusal::Gone("block"))?;
        let kept = &mut self.blocks[place];
        kept.births = kept.births.wrapping_add(1);
        let handle = DmaHandle { id: number(kept.births, place), addr: block.bus().raw() };
        kept.held = Some(block);
        self.out += 1;
        Ok((at.as_ptr(), handle))
    }

    /// Takes back the block of this handle.
    pub(crate) fn free(&mut self, cpu_addr: usize, dma_handle: DmaHandle) -> Result<PoolBlock<Machine>, Refusal> {
        let (births, place) = births_and_place(dma_handle.id);
        let block = place.and_then(|place| self.blocks.get_mut(place));
        let kept = block.filter(|block| block.births == births).ok_or(Refusal::Gone("block"))?;
        let addr = kept.held.as_ref().ok_or(Refusal::Gone("block"))?.bus().raw();
        if kept.at != cpu_addr {
            return Err(Refusal::Address { has: kept.at, named: cpu_addr });
        }
        if addr != dma_handle.addr {
            return Err(Refusal::Address { has: addr as usize, named: dma_handle.addr as usize });
        }
        let block = kept.held.take().ok_or(Refusal::Gone("block"))?;
        self.out -= 1;
        Ok(block)
    }

    /// Returns how many blocks C has.
    pub(crate) const fn out(&self) -> u32 {
        self.out
    }
}
