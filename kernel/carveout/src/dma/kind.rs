//! Kinds of request: which requests one buffer can serve.
//!
//! Guarantees: two requests of one kind are of one description of a master, so a buffer of the one has the owner's name
//! and the bus address that the other would give it.

use crate::addr::{FRAME_SHIFT, FRAME_SIZE};
use crate::cma::area::shape;
pub(super) use crate::cma::reserve::Kind;
use crate::dma::master::Master;

impl Kind {
    /// Returns the kind of a request, or `None` if the request is wrong or the master has no number.
    #[inline]
    pub(super) fn of(master: &Master, bytes: u32, align: u32) -> Option<Self> {
        if bytes == 0 || align > FRAME_SIZE || !align.is_power_of_two() {
            return Self::aligned(master, bytes, align);
        }
        Some(Self::new(master.stamp()?, ((bytes - 1) >> FRAME_SHIFT) + 1, 0))
    }

    #[cold]
    fn aligned(master: &Master, bytes: u32, align: u32) -> Option<Self> {
        let (count, order) = shape(bytes, align).ok()?;
        Some(Self::new(master.stamp()?, count, order))
    }
}
