//! Directions and owners of streams: closed sets of types.

mod sealed {
    pub trait Sealed {}
}

/// The direction of a stream's data. The set of types is closed.
pub trait Direction: sealed::Sealed {
    /// Marks a direction in which the CPU writes and the device reads.
    type CpuWrites;
    /// Whether the device writes. The CPU's lines are stale afterwards.
    const DEVICE_WRITES: bool;
}

/// The answer yes, about a direction.
#[derive(Debug)]
pub enum Yes {}
/// The answer no, about a direction.
#[derive(Debug)]
pub enum No {}

/// The direction in which the CPU writes and the device reads.
#[derive(Debug)]
pub enum ToDevice {}
/// The direction in which the device writes and the CPU reads.
#[derive(Debug)]
pub enum FromDevice {}
/// Both directions: CPU and device write and read, in turns.
#[derive(Debug)]
pub enum Bidirectional {}

impl sealed::Sealed for ToDevice {}
impl sealed::Sealed for FromDevice {}
impl sealed::Sealed for Bidirectional {}

impl Direction for ToDevice {
    type CpuWrites = Yes;
    const DEVICE_WRITES: bool = false;
}
impl Direction for FromDevice {
    type CpuWrites = No;
    const DEVICE_WRITES: bool = true;
}
impl Direction for Bidirectional {
    type CpuWrites = Yes;
    const DEVICE_WRITES: bool = true;
}

/// Owner of a stream: the CPU.
#[derive(Debug)]
pub enum Cpu {}
/// Owner of a stream: the device.
#[derive(Debug)]
pub enum Device {}
