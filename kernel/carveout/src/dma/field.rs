//! Fields of records in coherent memory: descriptors of a ring, by their names.
//!
//! Guarantees: a [`Field`] has the place and the type that the record's definition gives it, both known to the
//! compiler. It is read and written by one access, as a [`Word`] is. Nothing here makes a reference to memory that a
//! device may change. A record has a layout that its definition fixes (`repr(C)`) and no padding.
//!
//! ```
//! use carveout::field;
//! use carveout::setup::Setup;
//! use zerocopy::IntoBytes;
//!
//! /// A receive descriptor.
//! #[derive(IntoBytes)]
//! #[repr(C)]
//! struct Descriptor {
//!     address: u32,
//!     length: u16,
//!     flags: u16,
//! }
//! const VALID: u16 = 1;
//!
//! let setup = Setup::new(1);
//! let mut ring = setup.dma.alloc(&setup.master("ethernet"), 4096, 1)?.into_coherent();
//! ring.write_field(7, field!(Descriptor, address), 0x6020_0000);
//! ring.write_field(7, field!(Descriptor, length), 1536);
//! ring.dma_wmb(); // before the word that makes it valid
//! ring.write_field(7, field!(Descriptor, flags), VALID);
//! assert_eq!(ring.read_word::<u32>(7 * 8 + 4), u32::from(VALID) << 16 | 1536);
//! # Ok::<(), carveout::dma::AllocError>(())
//! ```
//!
//! ```compile_fail,E0277
//! # use zerocopy::IntoBytes;
//! #[derive(IntoBytes)]
//! #[repr(C)]
//! struct Descriptor {
//!     address: u64,
//! }
//! let no_word_that_two_accesses_make = carveout::field!(Descriptor, address);
//! ```
//!
//! ```compile_fail,E0599
//! struct OrderedByTheCompiler {
//!     address: u32,
//!     flags: u16,
//! }
//! let flags = carveout::field!(OrderedByTheCompiler, flags);
//! ```

use crate::dma::word::Word;
use core::fmt;
use core::marker::PhantomData;
use zerocopy::IntoBytes;

/// A field of type `W` of a record of type `T`. [`field!`](crate::field) makes one.
pub struct Field<T, W> {
    offset: usize,
    of: PhantomData<fn(&T) -> &W>,
}

impl<T, W> Clone for Field<T, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, W> Copy for Field<T, W> {}

impl<T: IntoBytes, W: Word> Field<T, W> {
    /// Makes a field of this offset in bytes. [`field!`](crate::field) finds both.
    #[doc(hidden)]
    pub const fn new(offset: usize, _: fn(&T) -> &W) -> Self {
        Self { offset, of: PhantomData }
    }

    /// Returns the bytes before this field of the record of this number. A place past all memory is inside of no
    /// buffer.
    pub(super) const fn place(self, record: usize) -> usize {
        record.saturating_mul(size_of::<T>()).saturating_add(self.offset)
    }
}

impl<T, W> fmt::Debug for Field<T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field").field("offset", &self.offset).finish()
    }
}
