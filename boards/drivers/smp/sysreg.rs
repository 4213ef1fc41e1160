//! System registers of a Versatile Express motherboard (Arm DUI 0447, 4.3): the flags that its boot monitor polls.
//!
//! In the boot monitor every core except the first waits for an interrupt. Then it goes to the address in `SYS_FLAGS`
//! if that is not 0. QEMU's raw boot does the same.
//!
//! This driver is ours, because a search of the documentation of crates found no driver to use.

use crate::drivers::mmio::Mmio;
use carveout::addr::PhysAddr;
use tock_registers::{interfaces::Writeable, register_structs, registers::WriteOnly};

register_structs! {
    /// The registers that are written here.
    pub Registers {
        (0x000 => _unused),
        /// `SYS_FLAGSSET`. A read of it gives `SYS_FLAGS`.
        (0x030 => flags_set: WriteOnly<u32>),
        /// `SYS_FLAGSCLR`.
        (0x034 => flags_clear: WriteOnly<u32>),
        (0x038 => @END),
    }
}

/// Sends the waiting cores to `entry` at their next interrupt.
///
/// # Safety
///
/// The code at `entry` may run on these cores.
pub unsafe fn set_entry(registers: &Mmio<Registers>, entry: PhysAddr) {
    registers.flags_clear.set(u32::MAX);
    registers.flags_set.set(entry.raw());
}
