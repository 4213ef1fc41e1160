//! The minimal kernel.
#![no_std]
