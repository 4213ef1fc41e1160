//! How much memory do a board's devices need? A compiler for contracts.
//!
//! Guarantees: a plan that this prints was checked twice by code that did not make it: its certificate by [`check`],
//! its areas by the kernel's own reading of the tree that was written. Bad input is refused with its line and what
//! would help.
//!
//! ```text
//! tree + use cases -> board, input -> problem -> solve -> certificate -> check
//!                                                      -> report, nodes, svg, table
//! trace -> trace
//! ```
#![forbid(unsafe_code)]

pub mod board;
pub mod certificate;
pub mod check;
pub mod cost;
pub mod errors;
pub mod input;
pub mod nodes;
pub mod problem;
pub mod report;
pub mod solve;
pub mod svg;
pub mod table;
pub mod trace;
