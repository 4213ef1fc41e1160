//! Virtual memory: what may be mapped, how, and the proof that it is mapped.
//!
//! Data flows one way. [`attr`] names what a mapping can be, and [`desc`] encodes it as the table walker reads it.
//! [`space`] writes it to tables and makes a [`mapped`] of it. [`window`] says where buffers are mapped. [`alias`]
//! knows which physical addresses are second names. [`ledger`] keeps each carved frame's one attribute (I1). [`walk`]
//! decodes any word as the hardware does. [`user`] says how users get pages, and [`user_tables`] has tables for them.
//! [`audit`] walks the live tables and compares. `absence` looks for what still maps frames that a kernel gave up.

pub(crate) mod absence;
pub mod alias;
pub mod attr;
#[cfg(feature = "audit")]
pub mod audit;
pub mod desc;
pub mod ledger;
pub mod mapped;
pub mod range;
pub mod registers;
mod sections;
pub mod space;
pub mod tables;
pub mod user;
pub mod user_tables;
pub mod walk;
pub mod window;
