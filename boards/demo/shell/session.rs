//! What the shell has: buffers, contracts, loans, and the last refusal.
//!
//! Guarantees: the end of a session frees all of it, and looks whether as much is free as before.

use crate::demo::failure::Failure;
use crate::demo::memory::{CAMERA, CODEC, SCALER, free_bytes, master};
use crate::kernel::devices;
use crate::kernel::state::Kernel;
use crate::println;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use carveout::addr::{Bytes, FRAME_SIZE, FrameRange};
use carveout::dma::{AfterFree, AllocError, AreaId, Borrower, Coherent, Contract, Discardable, Loan, Master};
use carveout_armv7a::mmu::Armv7a;

/// The masters, by their names here, and the `compatible` of each. A tree that has no such device gets one.
const MASTERS: [(&str, &str); 3] = [("camera", CAMERA), ("codec", CODEC), ("scaler", SCALER)];

/// A master that buffers are allocated for.
#[derive(Clone)]
pub(super) struct Requester {
    pub(super) name: &'static str,
    pub(super) master: Master,
    /// The place of its area among the carve-outs.
    pub(super) area: Option<usize>,
}

/// An area.
pub(super) struct AreaOf {
    pub(super) name: &'static str,
    pub(super) id: AreaId,
    pub(super) ranges: Vec<FrameRange>,
}

/// A buffer of `alloc`.
pub(super) struct Held {
    pub(super) number: u32,
    pub(super) name: &'static str,
    pub(super) buffer: Coherent<Armv7a>,
    /// Whether a contract that still exists gave it.
    pub(super) promised: bool,
}

/// A contract of `contract`.
pub(super) struct Promise {
    pub(super) name: &'static str,
    pub(super) count: u32,
    pub(super) bytes: u32,
    pub(super) contract: Contract<Armv7a>,
}

/// The cache of `lend`, and its loans.
pub(super) struct Cache {
    pub(super) borrower: Borrower<Armv7a, Discardable>,
    pub(super) loans: Vec<Loan>,
}

/// A request that was refused.
pub(super) struct Refusal {
    pub(super) requester: Requester,
    pub(super) bytes: u32,
    pub(super) error: AllocError,
}

/// What the shell has.
pub(super) struct Session {
    pub(super) kernel: &'static Kernel,
    pub(super) requesters: Vec<Requester>,
    pub(super) held: Vec<Held>,
    pub(super) promises: Vec<Promise>,
    pub(super) cache: Option<Cache>,
    pub(super) refusal: Option<Refusal>,
    /// Whether the last command was `exit`.
    pub(super) over: bool,
    /// Whether `trace on` began the record of events.
    #[cfg(feature = "events")]
    pub(super) traces: bool,
    /// How many buffers `alloc` gave, and how often `stress` ran.
    pub(super) numbers: u32,
    pub(super) stresses: u32,
    free_before: u64,
}

impl Session {
    /// Begins a session. Mappings of freed buffers stay while it lasts, so that the map has some.
    pub(super) fn begin(kernel: &'static Kernel) -> Self {
        let requester = |(name, compatible)| {
            let named = devices::find(&kernel.info, compatible).map(|found| kernel.layout.area_of(&found.path));
            let default = kernel.layout.areas().iter().position(|area| area.default);
            let area = match named {
                None | Some(Ok(None)) => default,
                Some(Ok(area)) => area,
                Some(Err(_)) => None,
            };
            Requester { name, master: master(kernel, compatible, name), area }
        };
        kernel.dma.set_after_free(AfterFree::KeepMapped);
        Self {
            kernel,
            requesters: MASTERS.into_iter().map(requester).collect(),
            held: Vec::new(),
            promises: Vec::new(),
            cache: None,
            refusal: None,
            over: false,
            #[cfg(feature = "events")]
            traces: false,
            numbers: 0,
            stresses: 0,
            free_before: free_bytes(kernel),
        }
    }

    /// Returns the master of that name.
    pub(super) fn requester(&self, name: &str) -> Result<&Requester, String> {
        let found = self.requesters.iter().find(|requester| requester.name == name);
        found.ok_or_else(|| format!("'{name}' is no master; there are {}", MASTERS.map(|(name, _)| name).join(", ")))
    }

    /// Yields the areas.
    pub(super) fn areas(&self) -> impl Iterator<Item = AreaOf> + use<> {
        let kernel = self.kernel;
        kernel.layout.areas().iter().enumerate().filter_map(|(n, area)| {
            let id = kernel.dma.area_at(n)?;
            Some(AreaOf { name: area.name, id, ranges: area.ranges.iter().copied().collect() })
        })
    }

    /// Returns the area of that name.
    pub(super) fn area(&self, name: &str) -> Result<AreaOf, String> {
        self.areas().find(|area| area.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.areas().map(|area| area.name).collect();
            if names.is_empty() {
                return format!("'{name}' is no area; there is none: cma=64M at the next boot makes one");
            }
            format!("'{name}' is no area; there is {}", names.join(", "))
        })
    }

    /// Returns the bytes that were recalled from the cache since boot.
    pub(super) fn recalled(&self) -> u64 {
        self.cache.as_ref().map_or(0, |cache| cache.borrower.stats().recalled * u64::from(FRAME_SIZE))
    }

    /// Takes all loans back.
    pub(super) fn unlend(&mut self) {
        if let Some(Cache { borrower, loans }) = &mut self.cache {
            for loan in loans.drain(..) {
                borrower.give_back(loan).expect("the cache's own loan, which no closure has open");
            }
        }
    }

    /// Ends the session.
    pub(super) fn end(mut self) -> Result<(), Failure> {
        let (buffers, contracts) = (self.held.len(), self.promises.len());
        self.unlend();
        self.held.clear();
        self.promises.clear();
        self.kernel.dma.set_after_free(AfterFree::Unmap);
        let (before, after) = (self.free_before, free_bytes(self.kernel));
        if before != after {
            println!("{}", self.kernel.dma.holders());
            return Err(Failure::Leak { free: (before, after) });
        }
        println!("shell: freed buffers: {buffers}; ended contracts: {contracts}; {} free, as before", Bytes(after));
        Ok(())
    }
}
