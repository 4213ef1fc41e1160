//! What stands for loans in a build without the feature `loans`: nothing is lent.

use crate::addr::FrameRange;
use crate::dma::master::AreaId;
use crate::dma::registry::Dma;

impl<M> Dma<M> {
    /// Does nothing: no page is in the way.
    #[expect(clippy::unused_self, reason = "a build with loans calls it alike")]
    pub(super) const fn move_out(&self, _: AreaId, _: FrameRange) {}
}
