//! Virtual memory: what may be mapped, how, and the proof that it is.
//!
//! Data flows one way: [`attr`] names what a mapping can be, [`desc`] encodes it as the walker reads it, [`space`]
//! writes it to tables, [`ledger`] knows each carved frame's one attribute (I1), [`audit`] walks the live tables and
//! compares.

pub mod attr;
pub mod audit;
pub mod desc;
pub mod layout;
pub mod ledger;
pub mod space;
