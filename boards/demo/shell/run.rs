//! The run of the shell: line after line until the command `exit`.
//!
//! Guarantees: a run that ends well gave all memory back, and its last audit is clean.

use super::session::Session;
use super::{commands, line};
use crate::demo::failure::Failure;
use crate::kernel::report;
use crate::kernel::state::Kernel;
use crate::println;

/// Runs the shell.
pub(in crate::demo) fn run(kernel: &'static Kernel) -> Result<(), Failure> {
    println!("shell: help lists the commands; exit ends the kernel");
    let mut session = Session::begin(kernel);
    line::serve(|words| commands::run(&mut session, words));
    let ended = session.end();
    if report::audit(kernel) { ended } else { Err(Failure::Audit) }
}
