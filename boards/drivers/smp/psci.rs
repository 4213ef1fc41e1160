//! The firmware's call that starts a core (Arm DEN 0022, PSCI 0.2 and later; `arm,psci-0.2`).
//!
//! This is ours: the crate smccc writes the call as an instruction of the ARM set, which is another in a Thumb build.

#[cfg(target_arch = "arm")]
use carveout::addr::PhysAddr;
#[cfg(target_arch = "arm")]
use core::arch::asm;

/// How the firmware is called, as `/psci` says in `method`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// A call of the secure monitor.
    Smc,
    /// A call of the hypervisor.
    Hvc,
}

impl Conduit {
    /// Returns the conduit of that name.
    pub fn named(method: &str) -> Option<Self> {
        match method {
            "smc" => Some(Self::Smc),
            "hvc" => Some(Self::Hvc),
            _ => None,
        }
    }
}

/// `CPU_ON` for callers of 32 bits (5.6).
#[cfg(target_arch = "arm")]
const CPU_ON: u32 = 0x8400_0003;

/// Starts the core with these affinity bits at `entry`. Returns the firmware's answer, 0 if it does so.
///
/// # Safety
///
/// At `entry` stands code that a core may run with its MMU off, and firmware answers the conduit.
#[cfg(target_arch = "arm")]
pub unsafe fn start(conduit: Conduit, core: u32, entry: PhysAddr) -> i32 {
    let mut answer = CPU_ON;
    match conduit {
        // SAFETY: the firmware keeps all registers but the first four (Arm DEN 0028), and starts the core with what was
        // written before.
        Conduit::Smc => unsafe {
            asm!(".arch_extension sec", "dsb", "smc #0", inout("r0") answer, inout("r1") core => _,
                inout("r2") entry.raw() => _, inout("r3") 0 => _, options(nostack));
        },
        // SAFETY: as above.
        Conduit::Hvc => unsafe {
            asm!(".arch_extension virt", "dsb", "hvc #0", inout("r0") answer, inout("r1") core => _,
                inout("r2") entry.raw() => _, inout("r3") 0 => _, options(nostack));
        },
    }
    answer.cast_signed()
}
