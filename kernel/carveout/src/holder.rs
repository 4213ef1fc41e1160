//! Who may access a buffer, in whatever state.

use core::fmt;

/// Who may access a buffer's bytes now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Holder {
    /// Nobody: the buffer is allocated, and in no state yet.
    Nobody,
    /// The CPU.
    Cpu,
    /// The device, and nobody else.
    Device,
    /// CPU and device, through non-cacheable memory.
    Both,
    /// A device, perhaps: the buffer was dropped while a device owned it. Its memory is never reused.
    Quarantine,
}

impl Holder {
    pub(crate) const ALL: [Self; 5] = [Self::Nobody, Self::Cpu, Self::Device, Self::Both, Self::Quarantine];
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nobody => "allocated",
            Self::Cpu => "CPU-owned",
            Self::Device => "device-owned",
            Self::Both => "coherent",
            Self::Quarantine => "quarantined",
        })
    }
}
