//! A store of values in lent frames, which checks them by hash. With a movable borrower it is a RAM store. With a
//! discardable borrower it is a cache whose values may be lost.
//!
//! Guarantees: [`Store::read`] gives exactly the bytes that were put, or an error that names the corrupt value. A value
//! that cannot be read at the moment is not reported as corrupt. A value that cannot be written at the moment is not
//! put.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use carveout::addr::FRAME_SIZE;
use carveout::dma::{Borrower, LendError, Loan, LoanError, LoanKind, LoanStats};
use carveout::machine::Machine;
use core::fmt;

const PAGE: usize = FRAME_SIZE as usize;

/// A hash of bytes, a word at a time: FNV-1a's step, and a rotation for the upper bits.
fn hash(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let step = |hash: u32, word: u32| (hash.rotate_left(5) ^ word).wrapping_mul(0x0100_0193);
    let hash = words.iter().fold(bytes.len() as u32, |hash, word| step(hash, u32::from_le_bytes(*word)));
    rest.iter().fold(hash, |hash, &byte| step(hash, byte.into()))
}

/// A value: its pages, in one loan for each run that was lent together.
struct Value {
    loans: Vec<Loan>,
    bytes: usize,
    hash: u32,
}

/// The result of a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// The value was read.
    Whole,
    /// No value was put, or its pages were recalled.
    Nothing,
}

/// Why a value was not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadError {
    /// The value differs from what was put.
    Corrupt {
        /// Which.
        key: u32,
    },
    /// No further lent page can be opened now. Try again. The value is unchanged.
    Busy,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt { key } => write!(f, "value {key:#x} is not what was put"),
            Self::Busy => write!(f, "no further lent page can be opened now; try again"),
        }
    }
}

impl core::error::Error for ReadError {}

/// Why a value was not put. The store has no value with this key now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutError {
    /// There is no room.
    Room(LendError),
    /// No further lent page can be opened now. Try again.
    Busy,
}

impl fmt::Display for PutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room(error) => error.fmt(f),
            Self::Busy => ReadError::Busy.fmt(f),
        }
    }
}

impl core::error::Error for PutError {}

/// Values by number.
pub struct Store<M: Machine + 'static, K: LoanKind> {
    borrower: Borrower<M, K>,
    values: BTreeMap<u32, Value>,
}

impl<M: Machine, K: LoanKind> Store<M, K> {
    /// Makes an empty store in the pages that `borrower` gets.
    pub const fn new(borrower: Borrower<M, K>) -> Self {
        Self { borrower, values: BTreeMap::new() }
    }

    /// Returns the counters of the store's borrower.
    pub fn stats(&self) -> LoanStats {
        self.borrower.stats()
    }

    /// Returns the keys, in order. This includes keys whose values were recalled.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.values.keys().copied()
    }

    /// Puts a value, in place of an older one with the same key. The old value is lost, even if the new one is refused.
    ///
    /// # Errors
    ///
    /// [`PutError::Room`] if no more frames are lent. [`PutError::Busy`] if no further lent page can be opened now.
    pub fn put(&mut self, key: u32, bytes: &[u8]) -> Result<(), PutError> {
        self.remove(key);
        let mut value = Value { loans: Vec::new(), bytes: bytes.len(), hash: hash(bytes) };
        let mut left = bytes;
        while !left.is_empty() {
            match self.borrower.borrow(left.len().div_ceil(PAGE) as u32) {
                Ok(loan) => {
                    value.loans.push(loan);
                    let (now, later) = left.split_at((loan.len() as usize * PAGE).min(left.len()));
                    for (page, bytes) in now.chunks(PAGE).enumerate() {
                        match self.borrower.write(loan, page as u32, 0, bytes) {
                            // If the page was recalled already, the next read finds that.
                            Ok(()) | Err(LoanError::Recalled { .. }) => {}
                            Err(LoanError::TooManyOpen) => {
                                self.give_back(value);
                                return Err(PutError::Busy);
                            }
                            Err(error) => unreachable!("the store's own loan: {error}"),
                        }
                    }
                    left = later;
                }
                Err(error) => {
                    self.give_back(value);
                    return Err(PutError::Room(error));
                }
            }
        }
        self.values.insert(key, value);
        Ok(())
    }

    /// Reads a value into `to`, and replaces its old bytes.
    ///
    /// # Errors
    ///
    /// [`ReadError::Corrupt`] if the value differs from what was put. [`ReadError::Busy`] if no further lent page can
    /// be opened now.
    pub fn read(&mut self, key: u32, to: &mut Vec<u8>) -> Result<Found, ReadError> {
        to.clear();
        let Some(value) = self.values.get(&key) else { return Ok(Found::Nothing) };
        to.resize(value.bytes, 0);
        let mut left = &mut to[..];
        for &loan in &value.loans {
            for page in 0..loan.len() {
                let (now, later) = left.split_at_mut(PAGE.min(left.len()));
                left = later;
                match self.borrower.read(loan, page, 0, now) {
                    Ok(()) => {}
                    Err(LoanError::Recalled { .. }) => {
                        self.remove(key);
                        return Ok(Found::Nothing);
                    }
                    Err(LoanError::TooManyOpen) => return Err(ReadError::Busy),
                    Err(error) => unreachable!("the store's own loan: {error}"),
                }
            }
        }
        if hash(to) == value.hash { Ok(Found::Whole) } else { Err(ReadError::Corrupt { key }) }
    }

    /// Forgets a value.
    pub fn remove(&mut self, key: u32) {
        if let Some(value) = self.values.remove(&key) {
            self.give_back(value);
        }
    }

    fn give_back(&self, value: Value) {
        for loan in value.loans {
            self.borrower.give_back(loan).expect("the store's own loan, which no closure has open");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::fake::with_all_open;
    use carveout::dma::{LoanPriority, Movable};
    use carveout::setup::Setup;
    use std::vec;

    #[test]
    fn a_value_that_cannot_be_opened_is_neither_corrupt_nor_put() {
        let setup = Setup::new(1);
        let area = setup.dma.area("test").unwrap();
        let mut store = Store::new(setup.dma.borrower::<Movable>(area, "store", 16, LoanPriority::Low).unwrap());
        let bytes = vec![7; 2 * PAGE + 5];
        store.put(1, &bytes).unwrap();
        let mut found = Vec::new();
        with_all_open(&setup, &mut || {
            assert_eq!(store.read(1, &mut found), Err(ReadError::Busy));
            assert_eq!(store.put(2, &bytes), Err(PutError::Busy));
            assert_eq!(store.read(2, &mut found), Ok(Found::Nothing));
        });
        assert_eq!(store.read(1, &mut found), Ok(Found::Whole));
        assert_eq!(found, bytes);
        assert_eq!(store.stats().in_area, 3, "what was refused took nothing");
    }
}
