//! Memory for the demo's devices.

use super::failure::Failure;
use crate::kernel::devices;
use crate::kernel::state::Kernel;
use carveout::dma::{Contiguous, Master};
use carveout_armv7a::mmu::Armv7a;

/// The mock devices' `compatible`.
pub(super) const CODEC: &str = "carveout,mock-codec";
pub(super) const SCALER: &str = "carveout,mock-scaler";
pub(super) const CAMERA: &str = "carveout,mock-camera";
/// Returns the bus master that is `compatible`, or one called `name` if the tree describes none.
pub(super) fn master(kernel: &'static Kernel, compatible: &str, name: &'static str) -> Master {
    let found = devices::find(&kernel.info, compatible);
    found.map_or_else(|| kernel.master(name), |found| kernel.master_at(found.name, &found.path))
}

/// Allocates a buffer for `what`. A refusal names `what`.
pub(super) fn alloc(
    kernel: &'static Kernel,
    master: &Master,
    bytes: u32,
    what: &'static str,
) -> Result<Contiguous<Armv7a>, Failure> {
    kernel.dma.alloc(master, bytes, 1).map_err(|error| Failure::NoRoom { what, error })
}

/// Returns the bytes that are free in all areas.
pub(super) fn free_bytes(kernel: &Kernel) -> u64 {
    let areas = (0..kernel.layout.areas().len()).filter_map(|area| kernel.dma.area_at(area));
    areas.map(|area| kernel.dma.free_bytes(area).0).sum()
}
