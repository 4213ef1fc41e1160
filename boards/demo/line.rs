//! The interrupt lines of mock devices.

use super::failure::Failure;
use crate::drivers::intc::irq::IrqId;
use crate::kernel::state::Kernel;
use crate::kernel::{devices, interrupts};

/// The number of times that a device may work before it is given up.
const PATIENCE: usize = 16;

/// The interrupt line of a mock device. A device that is not in the tree has no line, so the driver asks it after each
/// step.
pub(super) struct Line {
    device: &'static str,
    id: Option<IrqId>,
}

impl Line {
    /// Enables the line that the device's node names.
    pub(super) fn of(kernel: &Kernel, compatible: &str, device: &'static str) -> Result<Self, Failure> {
        let Some(found) = devices::find(&kernel.info, compatible) else { return Ok(Self { device, id: None }) };
        let id = *found.irqs.first().ok_or(Failure::NoDevice(device))?;
        interrupts::enable(id);
        Ok(Self { device, id: Some(id) })
    }

    /// Lets the device work until the driver has a result. The driver looks before the first step, because one
    /// interrupt may tell of several results, and then after each interrupt.
    pub(super) fn wait<T>(
        &self,
        mut hardware: impl FnMut(&mut dyn FnMut()),
        mut finish: impl FnMut() -> Option<T>,
    ) -> Result<T, Failure> {
        if let Some(result) = finish() {
            return Ok(result);
        }
        for _ in 0..PATIENCE {
            hardware(&mut || self.id.into_iter().for_each(interrupts::raise));
            if self.id.is_none_or(interrupts::take)
                && let Some(result) = finish()
            {
                return Ok(result);
            }
        }
        Err(self.silent())
    }

    /// Returns the failure of a device that raised no interrupt.
    pub(super) const fn silent(&self) -> Failure {
        Failure::NoInterrupt(self.device)
    }
}
