//! Hardware by which the first core finds and starts further cores.

pub mod psci;
pub mod scu;
pub mod sysreg;
