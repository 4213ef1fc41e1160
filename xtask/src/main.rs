//! Builds, boots, checks and measures Carveout.
//!
//! The project's scripts start this program, after they found the tools and chose the toolchain (`tests/setup.sh`). A
//! command ends with exit code 2 and one line if the command line, a file or the machine is at fault.

mod bench;
mod boards;
mod boot;
mod build;
mod cases;
mod check;
mod content;
mod failure;
mod flash;
mod image;
mod incoherent;
mod mutants;
mod project;
mod scratch;
mod size;
mod trace;

use std::process::ExitCode;

use failure::{Failure, Result};

fn main() -> ExitCode {
    let code = scratch::removed_at_the_end(run).unwrap_or_else(|failure| {
        eprintln!("error: {failure}");
        failure.code()
    });
    ExitCode::from(code)
}

/// Runs the command that the first argument names. Returns the exit code.
fn run() -> Result<u8> {
    let mut args = lexopt::Parser::from_env();
    let Some(lexopt::Arg::Value(name)) = args.next()? else {
        return Err(Failure::new("no command given; the project's scripts give one"));
    };
    match name.to_str() {
        Some("bench") => bench::command(args),
        Some("boot") => boot::command(args),
        Some("check") => check::command(args),
        Some("flash") => flash::command(args),
        Some("incoherent") => incoherent::command(args),
        Some("mutants") => mutants::command(args),
        Some("profile") => bench::profile(args),
        _ => Err(Failure::new(format!("no command '{}'", name.display()))),
    }
}
