//! Which way data goes, and whose a stream is: closed sets of types.

mod sealed {
    pub trait Sealed {}
}

/// Which way a stream's data goes: a closed set of types.
pub trait Direction: sealed::Sealed {
    /// Marks a direction in which the CPU writes and the device reads.
    type CpuWrites;
    /// Whether the device writes, so that the CPU's lines are stale afterwards.
    const DEVICE_WRITES: bool;
}

/// Said of a direction: yes.
#[derive(Debug)]
pub enum Yes {}
/// Said of a direction: no.
#[derive(Debug)]
pub enum No {}

/// The CPU writes, the device reads.
#[derive(Debug)]
pub enum ToDevice {}
/// The device writes, the CPU reads.
#[derive(Debug)]
pub enum FromDevice {}
/// Both write and read, in turns.
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
