//! A store of values in lent frames, which checks them by hash: with a movable borrower a RAM store, with a discardable
//! one a cache whose values may be gone.
//!
//! Guarantees: what [`Store::read`] gives is what was put, to the last byte, or it says which it is not.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use carveout::addr::FRAME_SIZE;
use carveout::arch::Machine;
use carveout::cma::loan::{LendError, Loan, LoanError, LoanStats};
use carveout::dma::loan::{Borrower, LoanKind};
use core::fmt;

const PAGE: usize = FRAME_SIZE as usize;

/// A hash of bytes, a word at a time: FNV-1a's step, and a rotation for the upper bits.
fn hash(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let step = |hash: u32, word: u32| (hash.rotate_left(5) ^ word).wrapping_mul(0x0100_0193);
    let hash = words.iter().fold(bytes.len() as u32, |hash, word| step(hash, u32::from_le_bytes(*word)));
    rest.iter().fold(hash, |hash, &byte| step(hash, byte.into()))
}

/// A value: its pages, in loans of as many as there were together.
struct Value {
    loans: Vec<Loan>,
    bytes: usize,
    hash: u32,
}

/// What became of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// It was read.
    Whole,
    /// None was put, or its pages were recalled.
    Nothing,
}

/// A value is not what was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corrupt {
    /// Which.
    pub key: u32,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "value {:#x} is not what was put", self.key)
    }
}

/// Values by number.
pub struct Store<M: Machine + 'static, K: LoanKind> {
    borrower: Borrower<M, K>,
    values: BTreeMap<u32, Value>,
}

impl<M: Machine, K: LoanKind> Store<M, K> {
    /// An empty store in what `borrower` gets.
    pub const fn new(borrower: Borrower<M, K>) -> Self {
        Self { borrower, values: BTreeMap::new() }
    }

    /// What its borrower has, and what became of it.
    pub fn stats(&self) -> LoanStats {
        self.borrower.stats()
    }

    /// The keys, in order, also of values that are gone by now.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.values.keys().copied()
    }

    /// Puts a value in place of any of that key. Refused, with the old value gone, if there is no room.
    pub fn put(&mut self, key: u32, bytes: &[u8]) -> Result<(), LendError> {
        self.remove(key);
        let mut value = Value { loans: Vec::new(), bytes: bytes.len(), hash: hash(bytes) };
        let mut left = bytes;
        while !left.is_empty() {
            match self.borrower.borrow(left.len().div_ceil(PAGE) as u32) {
                Ok(loan) => {
                    value.loans.push(loan);
                    let (now, later) = left.split_at((loan.len() as usize * PAGE).min(left.len()));
                    for (page, bytes) in now.chunks(PAGE).enumerate() {
                        // Recalled already: then it is gone, which the next read finds.
                        let _ = self.borrower.write(loan, page as u32, 0, bytes);
                    }
                    left = later;
                }
                Err(error) => {
                    self.give_back(value);
                    return Err(error);
                }
            }
        }
        self.values.insert(key, value);
        Ok(())
    }

    /// Reads a value into `to`, whose old bytes are lost.
    pub fn read(&mut self, key: u32, to: &mut Vec<u8>) -> Result<Found, Corrupt> {
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
                    Err(_) => return Err(Corrupt { key }),
                }
            }
        }
        if hash(to) == value.hash { Ok(Found::Whole) } else { Err(Corrupt { key }) }
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
