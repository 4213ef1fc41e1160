//! On-target tests.
#![no_std]
