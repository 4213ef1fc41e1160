//! What the first core asks of the hardware to let further cores in.

pub mod psci;
pub mod scu;
pub mod sysreg;
