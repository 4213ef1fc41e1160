//! A contract, as C names it.

use crate::machine::Machine;
use carveout::dma;
use carveout::name::Name;

/// The most contracts that there may be at a time.
pub(crate) const MAX_CONTRACTS: usize = 32;

/// A contract, or none if `id` is 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contract {
    /// Its identity, which no other contract gets later.
    pub(crate) id: u64,
}

impl Contract {
    pub(crate) const fn is_one(self) -> bool {
        self.id != 0
    }
}

/// A contract and whose it is.
pub(crate) struct Promise {
    pub(crate) contract: dma::Contract<Machine>,
    pub(crate) owner: Name,
}
