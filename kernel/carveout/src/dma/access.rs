//! The accesses that a coherent buffer and a pool's coherent block have in common.
//!
//! Guarantees: both have each of them, and with the same meaning: that of [`word`](crate::dma::word).

/// Gives a type the accesses to its coherent memory. It has a method `access`, which names its [`Bytes`].
macro_rules! coherent_access {
    ($name:ident) => {
        impl<M: crate::machine::Machine> $name<M> {
            /// Reads the word at `offset` by one access. So it is never half old and half new where the device writes
            /// it.
            ///
            /// # Panics
            ///
            /// If the word is not inside of the memory, or its address is not a multiple of its size.
            pub fn read_word<W: crate::dma::word::Word>(&self, offset: usize) -> W {
                self.access().read_word(offset)
            }

            /// Writes the word at `offset` by one access. So the device never sees it half written.
            ///
            /// # Panics
            ///
            /// If the word is not inside of the memory, or its address is not a multiple of its size.
            pub fn write_word<W: crate::dma::word::Word>(&mut self, offset: usize, word: W) {
                self.access().write_word(offset, word);
            }

            /// Reads a field of the record of this number by one access. Records lie one after another, from the first
            /// byte on.
            ///
            /// # Panics
            ///
            /// If the field is not inside of the memory, or its address is not a multiple of its size.
            pub fn read_field<T: zerocopy::IntoBytes, W: crate::dma::word::Word>(
                &self,
                record: usize,
                field: crate::dma::field::Field<T, W>,
            ) -> W {
                self.access().read_word(field.place(record))
            }

            /// Writes a field of the record of this number by one access. Records lie one after another, from the first
            /// byte on. Where CPU and device both write fields of the same aligned eight bytes,
            /// [`dma_wmb`](Self::dma_wmb) stands after each write (erratum 794074 of Cortex-A9).
            ///
            /// # Panics
            ///
            /// If the field is not inside of the memory, or its address is not a multiple of its size.
            pub fn write_field<T: zerocopy::IntoBytes, W: crate::dma::word::Word>(
                &mut self,
                record: usize,
                field: crate::dma::field::Field<T, W>,
                word: W,
            ) {
                self.access().write_word(field.place(record), word);
            }

            /// Copies bytes out, from `offset` on, up to the end of the memory or of `to`. Returns how many. This is
            /// for bytes in bulk, and goes by words wherever words fit. Use [`read_word`](Self::read_word) for a word
            /// that the CPU polls and the device writes.
            pub fn read_at(&self, offset: usize, to: &mut [u8]) -> usize {
                self.access().read_at(offset, to)
            }

            /// Copies bytes in, from `offset` on, up to the end of the memory or of `from`. Returns how many. This is
            /// for bytes in bulk, and goes by words wherever words fit. Use [`write_word`](Self::write_word) for a word
            /// that the device polls.
            pub fn write_at(&mut self, offset: usize, from: &[u8]) -> usize {
                self.access().write_at(offset, from)
            }
        }
    };
}

pub(super) use coherent_access;
