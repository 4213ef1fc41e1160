//! Lists from the heap, of lengths that a caller named.
//!
//! Guarantees: if the heap has no room, the caller gets an error. `vec!` and `collect` would end the program.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

/// Makes an empty list with room for `count`.
pub(crate) fn room<T>(count: usize) -> Result<Vec<T>, TryReserveError> {
    let mut list = Vec::new();
    list.try_reserve_exact(count)?;
    Ok(list)
}

/// Makes a list of `count` times `value`.
pub(crate) fn filled<T: Clone>(count: usize, value: T) -> Result<Vec<T>, TryReserveError> {
    let mut list = room(count)?;
    list.resize(count, value);
    Ok(list)
}

/// Makes a list of values whose making may itself find no room.
pub(crate) fn collected<T>(each: impl Iterator<Item = Result<T, TryReserveError>>) -> Result<Vec<T>, TryReserveError> {
    let mut list = Vec::new();
    for one in each {
        list.try_reserve(1)?;
        list.push(one?);
    }
    Ok(list)
}
