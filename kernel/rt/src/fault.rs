//! Faults, decoded from the core's registers.
//!
//! Guarantees: a fault status is read by the short-descriptor format (ARM ARM B3.13, table B3-23; B4.1, DFSR and IFSR),
//! and words from the manual are checked. aarch32-cpu's `Dfsr` decodes the long-descriptor layout, so only its raw
//! value is used.

use carveout::addr::VirtAddr;
use core::fmt;

/// The frame that the vectors leave on the stack.
#[cfg(target_arch = "arm")]
#[derive(Clone)]
#[repr(C)]
pub(crate) struct FaultFrame {
    pub(crate) r: [u32; 13],
    pub(crate) sp: u32,
    pub(crate) lr: u32,
    pub(crate) pc: u32,
    pub(crate) cpsr: u32,
}

/// CPSR.T: the core executes Thumb instructions.
#[cfg(target_arch = "arm")]
pub(crate) const CPSR_T: u32 = 1 << 5;

#[cfg(target_arch = "arm")]
impl FaultFrame {
    /// Corrects the address of an instruction that was undefined or an SVC. The vectors take an ARM instruction's 4
    /// bytes off the return address. Of a Thumb one 2 were added (ARM ARM B1.8.3).
    pub(crate) const fn correct_thumb(&mut self) {
        if self.cpsr & CPSR_T != 0 {
            self.pc += 2;
        }
    }
}

/// The level of the table walk at which a fault arose: 1 for sections, 2 for pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// First-level descriptor.
    First,
    /// Second-level descriptor.
    Second,
}

/// Fault status of the short-descriptor format (ARM ARM table B3-23).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultStatus {
    /// Alignment: an unaligned access that the instruction or the memory type does not allow.
    Alignment,
    /// Debug event.
    Debug,
    /// Access flag clear. SCTLR.AFE = 0 rules it out here.
    AccessFlag(Level),
    /// Instruction cache maintenance.
    InstructionCacheMaintenance,
    /// No valid descriptor.
    Translation(Level),
    /// Domain without access.
    Domain(Level),
    /// Permission fault: the descriptor forbids the access. It was a write to read-only memory, or a fetch from
    /// execute-never memory.
    Permission(Level),
    /// External abort of the access itself, synchronous.
    External,
    /// External abort of a table walk, synchronous.
    ExternalOnWalk(Level),
    /// Parity error of the access itself, synchronous.
    Parity,
    /// Parity error of a table walk, synchronous.
    ParityOnWalk(Level),
    /// External abort that arrived later. Neither the address nor the instruction is known.
    AsynchronousExternal,
    /// Parity error that arrived later.
    AsynchronousParity,
    /// Two TLB entries for an address.
    TlbConflict,
    /// Lockdown, IMPLEMENTATION DEFINED.
    Lockdown,
    /// Coprocessor abort, IMPLEMENTATION DEFINED.
    Coprocessor,
    /// A reserved value of the five-bit field.
    Reserved(u8),
}

impl FaultStatus {
    /// Decodes the five-bit fault status FS (bit 10 and bits 3 to 0 of DFSR or IFSR).
    pub const fn from_bits(fs: u8) -> Self {
        use Level::{First, Second};
        match fs {
            0b00001 => Self::Alignment,
            0b00010 => Self::Debug,
            0b00011 => Self::AccessFlag(First),
            0b00100 => Self::InstructionCacheMaintenance,
            0b00101 => Self::Translation(First),
            0b00110 => Self::AccessFlag(Second),
            0b00111 => Self::Translation(Second),
            0b01000 => Self::External,
            0b01001 => Self::Domain(First),
            0b01011 => Self::Domain(Second),
            0b01100 => Self::ExternalOnWalk(First),
            0b01101 => Self::Permission(First),
            0b01110 => Self::ExternalOnWalk(Second),
            0b01111 => Self::Permission(Second),
            0b10000 => Self::TlbConflict,
            0b10100 => Self::Lockdown,
            0b10110 => Self::AsynchronousExternal,
            0b11000 => Self::AsynchronousParity,
            0b11001 => Self::Parity,
            0b11010 => Self::Coprocessor,
            0b11100 => Self::ParityOnWalk(First),
            0b11110 => Self::ParityOnWalk(Second),
            other => Self::Reserved(other),
        }
    }

    /// Returns whether the fault address register has the address (ARM ARM B3.13.2). A debug event leaves it UNKNOWN.
    const fn has_address(self) -> bool {
        !matches!(self, Self::AsynchronousExternal | Self::AsynchronousParity | Self::Debug)
    }
}

// Words as DFSR and IFSR hold them, checked against the manual (ARM ARM B4.1).
const _: () = {
    let at = VirtAddr::new(0x8000_0000);
    let write = Fault::from_dfsr(0x0000_0807, at);
    assert!(matches!(write.status, FaultStatus::Translation(Level::Second)) && matches!(write.access, Access::Write));
    let read = Fault::from_dfsr(0x0000_00d9, at);
    assert!(matches!(read.status, FaultStatus::Domain(Level::First)) && matches!(read.access, Access::Read));
    assert!(read.domain == 13 && read.address.is_some() && !read.external_type);
    let late = Fault::from_dfsr(0x0000_1c06, at);
    assert!(matches!(late.status, FaultStatus::AsynchronousExternal) && late.address.is_none() && late.external_type);
    let fetch = Fault::from_ifsr(0x0000_040c, at);
    assert!(matches!(fetch.status, FaultStatus::ParityOnWalk(Level::First)) && matches!(fetch.access, Access::Execute));
};

impl fmt::Display for FaultStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, level) = match *self {
            Self::Alignment => ("alignment fault", None),
            Self::Debug => ("debug event", None),
            Self::AccessFlag(level) => ("access flag fault", Some(level)),
            Self::InstructionCacheMaintenance => ("instruction cache maintenance fault", None),
            Self::Translation(level) => ("translation fault", Some(level)),
            Self::Domain(level) => ("domain fault", Some(level)),
            Self::Permission(level) => ("permission fault", Some(level)),
            Self::External => ("external abort", None),
            Self::ExternalOnWalk(level) => ("external abort on a table walk", Some(level)),
            Self::Parity => ("parity error", None),
            Self::ParityOnWalk(level) => ("parity error on a table walk", Some(level)),
            Self::AsynchronousExternal => ("asynchronous external abort", None),
            Self::AsynchronousParity => ("asynchronous parity error", None),
            Self::TlbConflict => ("TLB conflict", None),
            Self::Lockdown => ("lockdown fault", None),
            Self::Coprocessor => ("coprocessor abort", None),
            Self::Reserved(bits) => return write!(f, "reserved fault status {bits:#07b}"),
        };
        f.write_str(text)?;
        match level {
            Some(Level::First) => f.write_str(", first level"),
            Some(Level::Second) => f.write_str(", second level"),
            None => Ok(()),
        }
    }
}

/// An abort's cause, from DFSR or IFSR and the fault address register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What went wrong.
    pub status: FaultStatus,
    /// What the instruction was doing.
    pub access: Access,
    /// The address, unless the fault is asynchronous or a debug event.
    pub address: Option<VirtAddr>,
    /// The domain, 0 to 15. It is UNKNOWN except for a data abort whose walk found a descriptor with a domain.
    pub domain: u8,
    /// `ExT`: the bus's class of an external abort, IMPLEMENTATION DEFINED. On Cortex-A9, clear means a decode error.
    pub external_type: bool,
}

/// What an aborted instruction was doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store, or a maintenance operation by address. DFSR.WnR is set for both.
    Write,
    /// An instruction fetch.
    Execute,
}

impl Fault {
    /// Decodes a data abort, from DFSR and DFAR.
    pub const fn from_dfsr(dfsr: u32, dfar: VirtAddr) -> Self {
        let access = if dfsr & (1 << 11) == 0 { Access::Read } else { Access::Write };
        Self::new(dfsr, access, ((dfsr >> 4) & 0xf) as u8, dfar)
    }

    /// Decodes a prefetch abort, from IFSR and IFAR. IFSR names no domain.
    pub const fn from_ifsr(ifsr: u32, ifar: VirtAddr) -> Self {
        Self::new(ifsr, Access::Execute, 0, ifar)
    }

    const fn new(fsr: u32, access: Access, domain: u8, far: VirtAddr) -> Self {
        let status = FaultStatus::from_bits(((fsr >> 6) & 0x10 | fsr & 0xf) as u8);
        let address = if status.has_address() { Some(far) } else { None };
        Self { status, access, address, domain, external_type: fsr & (1 << 12) != 0 }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::Execute => "fetch",
        };
        match self.address {
            Some(address) => write!(f, "{} on a {access} at {address}", self.status)?,
            None => write!(f, "{}, address unknown", self.status)?,
        }
        match self.status {
            FaultStatus::Domain(_) => write!(f, ", domain {}", self.domain),
            FaultStatus::External | FaultStatus::ExternalOnWalk(_) | FaultStatus::AsynchronousExternal => {
                write!(f, ", ExT {}", u8::from(self.external_type))
            }
            _ => Ok(()),
        }
    }
}
