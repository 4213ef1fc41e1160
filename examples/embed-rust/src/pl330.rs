//! The DMA controller: a PL330, which fetches its program from memory (DDI 0424).
//!
//! Guarantees: a copy has ended when [`Engine::copy`] returns, and the controller does not access the buffers any more
//! (I4). Its program lies in a coherent buffer, which it alone reads.

use core::fmt;

use arbitrary_int::u3;
use carveout::addr::BusAddr;
use carveout::dma::{Coherent, Device, DeviceOnly, FromDevice, Master, Stream, ToDevice};
use carveout_armv7a::mmu::Armv7a;
use zynq7000::dmac::{DbgCommand, DbgInst0, DbgInst1, DebugThread, MmioRegisters, Registers};

use crate::memory::Memory;

/// Bytes of a burst: 16 words of 8 bytes, the most that the controller does at once.
pub const BURST: u32 = 128;

/// What the controller may read.
pub trait Source {
    /// Returns the address of the first byte, and the number of bytes.
    fn source(&self) -> (BusAddr, usize);
}

/// What the controller may write.
pub trait Target {
    /// Returns the address of the first byte, and the number of bytes.
    fn target(&mut self) -> (BusAddr, usize);
}

impl Source for DeviceOnly<Armv7a> {
    fn source(&self) -> (BusAddr, usize) {
        (self.bus(), self.len())
    }
}

impl Target for DeviceOnly<Armv7a> {
    fn target(&mut self) -> (BusAddr, usize) {
        (self.bus(), self.len())
    }
}

impl Source for Stream<Armv7a, ToDevice, Device> {
    fn source(&self) -> (BusAddr, usize) {
        (self.bus(), self.len())
    }
}

impl Target for Stream<Armv7a, FromDevice, Device> {
    fn target(&mut self) -> (BusAddr, usize) {
        (self.bus(), self.len())
    }
}

/// Why a copy was not made, or not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyError {
    /// The bytes are not whole bursts, do not begin at one, or are not inside of both buffers.
    Shape {
        /// What was to be copied, in bytes.
        bytes: u32,
    },
    /// The program is longer than the buffer for it.
    TooLong {
        /// What was to be copied, in bytes.
        bytes: u32,
    },
    /// The controller stopped for an error: the word of FTR0 (DDI 0424 3.3.10).
    Fault(u32),
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape { bytes } => write!(f, "copy of {bytes} bytes: not whole bursts of {BURST} inside the buffers"),
            Self::TooLong { bytes } => write!(f, "copy of {bytes} bytes: its program does not fit"),
            Self::Fault(word) => write!(f, "copy: the DMA controller stopped, FTR0 is {word:#010x}"),
        }
    }
}

impl core::error::Error for CopyError {}

/// The controller. It uses one channel, the first.
pub struct Engine {
    registers: MmioRegisters<'static>,
    program: Coherent<Armv7a>,
}

impl Engine {
    /// Takes the controller.
    ///
    /// # Safety
    ///
    /// This is called once.
    pub unsafe fn new(memory: Memory) -> Self {
        let master = Master::new("pl330", Some(memory.area));
        let program = memory.dma.alloc(&master, 4096, 1).unwrap_or_else(|error| panic!("{error}")).into_coherent();
        // SAFETY: nothing else uses the controller: this is called once.
        Self { registers: unsafe { Registers::new_mmio_fixed_s() }, program }
    }

    /// Copies bytes from a place in one buffer to a place in another, and waits until that has ended.
    ///
    /// # Errors
    ///
    /// [`CopyError`], one variant a cause.
    pub fn copy(
        &mut self,
        from: &impl Source,
        from_at: u32,
        to: &mut impl Target,
        to_at: u32,
        bytes: u32,
    ) -> Result<(), CopyError> {
        let (source, target) = (from.source(), to.target());
        let place = |(bus, len): (BusAddr, usize), at: u32| {
            let inside = at.checked_add(bytes).is_some_and(|end| end as usize <= len);
            (inside && (at | bytes).is_multiple_of(BURST) && bytes > 0).then(|| bus.raw() + at)
        };
        let (Some(source), Some(target)) = (place(source, from_at), place(target, to_at)) else {
            return Err(CopyError::Shape { bytes });
        };
        let program = Program::copy(source, target, bytes / BURST).ok_or(CopyError::TooLong { bytes })?;
        self.program.write_at(0, program.bytes());
        // The program is in memory before the controller is told.
        self.program.device_barrier();
        let [a, b, c, d] = self.program.bus().raw().to_le_bytes();
        // DMAGO of channel 0, in the secure state.
        self.instruct(DebugThread::Manager, [0xa0, 0, a, b, c, d]);
        while self.is_running() {
            if self.registers.read_channel_fault_status().faulting() & 1 == 1 {
                let fault = self.registers.read_channel_fault_type(0).map_or(0, |fault| fault.raw_value());
                // DMAKILL: the only way out of a fault.
                self.instruct(DebugThread::Channel, [0x01, 0, 0, 0, 0, 0]);
                while self.is_running() {}
                return Err(CopyError::Fault(fault));
            }
        }
        Ok(())
    }

    /// Returns whether channel 0 does anything: its state is not `Stopped`.
    fn is_running(&mut self) -> bool {
        let channel = self.registers.channel_status(0).expect("there are eight channels");
        channel.read_status().raw_value() & 0xf != 0
    }

    /// Has a thread execute one instruction, once the instruction before it was taken (DDI 0424 2.13).
    fn instruct(&mut self, thread: DebugThread, bytes: [u8; 6]) {
        while self.registers.read_debug_status().busy() {}
        let first = DbgInst0::new_with_raw_value(0).with_thread(thread).with_channel(u3::new(0));
        let first = first.with_instruction_byte_0(bytes[0]).with_instruction_byte_1(bytes[1]);
        let rest = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
        self.registers.write_debug_instruction_0(first);
        self.registers.write_debug_instruction_1(DbgInst1::new_with_raw_value(rest));
        self.registers.write_debug_command(DbgCommand::new_with_raw_value(0));
    }

    /// Takes the program's buffer back. The controller keeps its address, and does not use it: no channel runs.
    pub fn stop(self) {
        // SAFETY: no channel runs, for each copy waited until its channel had stopped (I4).
        drop(unsafe { self.program.release() });
    }
}

/// A program of the controller (DDI 0424 chapter 4).
struct Program {
    bytes: [u8; Self::MOST],
    len: usize,
}

impl Program {
    /// Bytes of the longest program. It copies 72 MiB.
    const MOST: usize = 128;

    /// Bursts of [`BURST`] bytes at both ends, addresses that count up, no swap, not cached (DDI 0424 3.3.13).
    const CONTROL: u32 = 1 | 3 << 1 | 15 << 4 | 1 << 14 | 3 << 15 | 15 << 18;

    /// Writes the program that copies so many bursts. Returns `None` if it is too long.
    fn copy(source: u32, target: u32, bursts: u32) -> Option<Self> {
        let mut program = Self { bytes: [0; Self::MOST], len: 0 };
        // DMAMOV to the registers 0, SAR; 2, DAR; 1, CCR.
        for (register, value) in [(0, source), (2, target), (1, Self::CONTROL)] {
            let [a, b, c, d] = value.to_le_bytes();
            program.push(&[0xbc, register, a, b, c, d])?;
        }
        let mut left = bursts;
        while left > 0 {
            // A loop counts to 256, and two may be nested.
            let (outer, inner) = if left < 256 { (1, left) } else { ((left / 256).min(256), 256) };
            let [outer_less_1, inner_less_1] = [outer - 1, inner - 1].map(|turns| turns as u8);
            program.push(&[0x22, outer_less_1])?; // DMALP, loop counter 1
            program.push(&[0x20, inner_less_1])?; // DMALP, loop counter 0
            program.push(&[0x04, 0x08])?; // DMALD, DMAST
            program.push(&[0x38, 2])?; // DMALPEND of counter 0, 2 bytes back
            program.push(&[0x3c, 6])?; // DMALPEND of counter 1, 6 bytes back
            left -= outer * inner;
        }
        program.push(&[0x13, 0x00])?; // DMAWMB: all stores are done. DMAEND.
        Some(program)
    }

    fn push(&mut self, instruction: &[u8]) -> Option<()> {
        let end = self.len + instruction.len();
        self.bytes.get_mut(self.len..end)?.copy_from_slice(instruction);
        self.len = end;
        Some(())
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
