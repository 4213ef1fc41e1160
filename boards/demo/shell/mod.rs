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
#[cfg(any(target_arch = "arm", test))]
mod map;
#[cfg(target_arch = "arm")]
mod reports;
#[cfg(target_arch = "arm")]
mod run;
#[cfg(target_arch = "arm")]
mod session;
#[cfg(target_arch = "arm")]
mod stress;
#[cfg(target_arch = "arm")]
mod trace;
#[cfg(any(target_arch = "arm", test))]
mod way;
#[cfg(target_arch = "arm")]
mod why;
#[cfg(any(target_arch = "arm", test))]
mod words;

#[cfg(target_arch = "arm")]
pub(super) use run::run;
