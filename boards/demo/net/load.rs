//! The load beside the network: a camera with a contract, a cache that borrows what is idle, and a device that asks for
//! too much.
//!
//! Guarantees: every allocation that the contract declares is made, and counted if it is refused. At the end all memory
//! is given back.

use super::super::failure::Failure;
use super::super::memory::{self, CAMERA};
use super::super::random::Random;
use crate::kernel::state::Kernel;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;
use carveout::addr::{FRAME_SHIFT, FRAME_SIZE};
use carveout::dma::{
    AllocError, AreaId, Borrower, Contract, ContractSet, DeviceOnly, Discardable, Loan, LoanPriority, MAX_BUDGET,
    Master,
};
use carveout_armv7a::mmu::Armv7a;

/// The buffers that the camera declares: frames and tables. Each is a number of buffers, and the pages of one.
const SETS: [(u32, u32); 2] = [(4, 150), (8, 16)];
/// Microseconds between two steps of the devices.
const STEP: u64 = 50_000;
/// The steps between two requests for too much.
const HOG_STEPS: u64 = 60;
/// Pages of a loan.
const LOAN: u32 = 64;
/// Bytes that are kept from the cache, so that the next buffer need recall nothing.
const RESERVE: u64 = 1 << 20;

/// What became of the requests so far.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Tally {
    /// The camera's buffers.
    pub(super) allocated: u64,
    /// The camera's requests that were refused. The contract forbids it.
    pub(super) failures: u64,
    /// The requests for too much that were refused, and why the last one was.
    pub(super) hog: (u64, Option<AllocError>),
}

/// The devices and the borrower.
pub(super) struct Load {
    kernel: &'static Kernel,
    area: AreaId,
    contract: Contract<Armv7a>,
    held: [Vec<DeviceOnly<Armv7a>>; SETS.len()],
    cache: Borrower<Armv7a, Discardable>,
    loans: VecDeque<Loan>,
    hog: Master,
    random: Random,
    next: u64,
    steps: u64,
    /// What became of the requests so far.
    pub(super) tally: Tally,
}

impl Load {
    /// Makes the contract, and registers the borrower.
    ///
    /// # Errors
    ///
    /// [`Failure::Lending`] if the default area has no room for the contract, or lends nothing.
    pub(super) fn new(kernel: &'static Kernel) -> Result<Self, Failure> {
        let area = kernel.default_area().ok_or(Failure::NoDevice("default area"))?;
        let camera = memory::master(kernel, CAMERA, "camera");
        let sets = SETS.map(|(count, pages)| ContractSet { count, bytes: pages * FRAME_SIZE, align: 1 });
        let contract = kernel.dma.contract(&camera, &sets);
        let contract = contract.map_err(|error| Failure::Lending(format!("camera: {error}")))?;
        let pages = (kernel.dma.free_bytes(area).0 >> FRAME_SHIFT) as u32;
        let cache = kernel.dma.borrower(area, "cache", pages.clamp(1, MAX_BUDGET), LoanPriority::Low);
        let cache = cache.map_err(|error| Failure::Lending(format!("cache: {error}")))?;
        kernel.dma.set_reserve(area, RESERVE);
        // More loans than the budget has pages there never are.
        let loans = VecDeque::with_capacity(pages.div_ceil(LOAN) as usize + 1);
        let held = SETS.map(|(count, _)| Vec::with_capacity(count as usize));
        let (hog, random) = (kernel.master("hog"), Random::new(2026));
        let tally = Tally::default();
        Ok(Self { kernel, area, contract, held, cache, loans, hog, random, next: 0, steps: 0, tally })
    }

    /// Does what is due: a step of the devices each [`STEP`], and a loan.
    pub(super) fn turn(&mut self, now: u64) {
        if now < self.next {
            return;
        }
        self.next = now + STEP;
        self.steps += 1;
        for (set, (count, pages)) in SETS.into_iter().enumerate() {
            let held = &mut self.held[set];
            if held.len() as u32 == count || !held.is_empty() && self.random.below(2) == 0 {
                let buffer = held.swap_remove(self.random.below(held.len() as u32) as usize);
                // SAFETY: no device was told of it (I4).
                unsafe { buffer.give_up() };
                continue;
            }
            match self.contract.alloc(pages * FRAME_SIZE, 1) {
                Ok(buffer) => {
                    held.push(buffer.into_device());
                    self.tally.allocated += 1;
                }
                Err(error) => {
                    log::error!("net: the camera's contract does not hold: {error}");
                    self.tally.failures += 1;
                }
            }
        }
        if self.steps.is_multiple_of(HOG_STEPS) {
            // As much as is free, and a page of the contract's too: there is no such run.
            let all = self.kernel.dma.free_bytes(self.area).0.saturating_add(u64::from(FRAME_SIZE));
            if let Err(error) = self.kernel.dma.alloc(&self.hog, u32::try_from(all).unwrap_or(u32::MAX), 1) {
                self.tally.hog = (self.tally.hog.0 + 1, Some(error));
            }
        }
        self.lend();
        self.kernel.dma.idle_work(self.area, 8);
    }

    /// Borrows some of what is idle. If there is nothing, forgets a loan of which pages were recalled.
    fn lend(&mut self) {
        for _ in 0..8 {
            if self.loans.len() < self.loans.capacity()
                && let Ok(loan) = self.cache.borrow(LOAN)
            {
                self.loans.push_back(loan);
                continue;
            }
            let Some(oldest) = self.loans.pop_front() else { return };
            if self.cache.left(oldest).is_ok_and(|left| left == LOAN) {
                self.loans.push_back(oldest);
                return;
            }
            self.forget(oldest);
        }
    }

    fn forget(&self, loan: Loan) {
        if let Err(error) = self.cache.give_back(loan) {
            log::error!("net: the cache's loan: {error}");
        }
    }

    /// Gives all memory back. Returns what became of the requests.
    pub(super) fn end(mut self) -> Tally {
        for buffer in self.held.iter_mut().flat_map(core::mem::take) {
            // SAFETY: no device was told of it (I4).
            unsafe { buffer.give_up() };
        }
        while let Some(loan) = self.loans.pop_front() {
            self.forget(loan);
        }
        self.kernel.dma.set_reserve(self.area, 0);
        self.tally
    }
}
