//! The audit of the tables that one [`Dma`] maps its buffers and lent frames by.
//!
//! Guarantees: the ledger does not change while it runs. The lock is held over the whole walk.

use crate::dma::registry::Dma;
use crate::machine::Machine;
use crate::vm::audit::{Expect, Finding, Findings, Report, audit};

impl<M: Machine> Dma<M> {
    /// Walks the live tables and compares them with the ledger (I1, I2, W^X). Shows `each` every finding.
    ///
    /// `each` runs under the lock. So it must not print if the console's lock comes before the lock's rank
    /// ([`sync`](crate::sync)), and it must call nothing of this crate. It can keep what is to be printed.
    ///
    /// # Errors
    ///
    /// The first finding, and how many there are of each kind.
    pub fn audit(&self, expect: &Expect<'_>, each: impl FnMut(Finding)) -> Result<Report, Findings> {
        let mut state = self.state.lock();
        let window = state.window.range();
        audit(self.machine, expect, window, &mut state.ledger, each)
    }
}
