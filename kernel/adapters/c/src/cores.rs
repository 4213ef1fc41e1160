//! Several cores.
//!
//! Guarantees: a core that passes the check translates and caches every address as the one does that called
//! `carveout_init` (I1, I2).

use crate::failure::{Error, Failure, Refusal, answer};
use crate::instance;
use core::mem::MaybeUninit;

/// Checks that the core which this runs on may use the module: that its registers give the tables the meaning that they
/// have on the core that called `carveout_init`. Each further core calls it once, when its MMU and its caches are on,
/// before it touches a buffer. It changes nothing.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_check_core(why: Option<&mut MaybeUninit<Failure>>) -> Error {
    answer(why, || instance::ready()?.dma().check_core().map_err(Refusal::Core))
}
