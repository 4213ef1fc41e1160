//! The end of a demo.

use super::failure::Failure;
use crate::kernel::state::Kernel;
use crate::kernel::{console, report};
use crate::println;

/// Waits for a key if the boot argument `hold` is given, and runs the audit.
pub(super) fn end(kernel: &'static Kernel, displayed: bool) -> Result<(), Failure> {
    if kernel.info.bootargs().get("hold").is_some() {
        println!("demo: picture {}, waiting for a key", if displayed { "on screen" } else { "in memory" });
        console::read();
    }
    if report::audit(kernel) { Ok(()) } else { Err(Failure::Audit) }
}
