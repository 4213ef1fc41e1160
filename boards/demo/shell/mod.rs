//! A shell on the console, which shows the memory and works with it. The boot argument `demo=shell` starts it.
//!
//! Guarantees: what a line asks for is done, or refused in one line that says what was found and what is needed. At its
//! end all memory that it took is free again, which is looked at, and the audit runs.

#[cfg(target_arch = "arm")]
mod alloc_free;
#[cfg(target_arch = "arm")]
mod commands;
#[cfg(target_arch = "arm")]
mod line;
mod map;
#[cfg(target_arch = "arm")]
mod reports;
#[cfg(target_arch = "arm")]
mod session;
#[cfg(target_arch = "arm")]
mod stress;
#[cfg(target_arch = "arm")]
mod trace;
mod way;
#[cfg(target_arch = "arm")]
mod why;
mod words;

#[cfg(target_arch = "arm")]
pub(super) use arm::run;

#[cfg(target_arch = "arm")]
mod arm {
    use super::session::Session;
    use super::{commands, line};
    use crate::demo::failure::Failure;
    use crate::kernel::report;
    use crate::kernel::state::Kernel;
    use crate::println;

    /// Runs the shell until the command `exit`.
    pub(crate) fn run(kernel: &'static Kernel) -> Result<(), Failure> {
        println!("shell: help lists the commands; exit ends the kernel");
        let mut session = Session::begin(kernel);
        line::serve(|words| commands::run(&mut session, words));
        let ended = session.end();
        if report::audit(kernel) { ended } else { Err(Failure::Audit) }
    }
}
