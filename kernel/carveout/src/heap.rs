//! Lists from the heap, of lengths that a caller named.
//!
//! Guarantees: if the heap has no room, the caller gets an error. `vec!` and `collect` would end the program.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::mem::ManuallyDrop;

/// Makes an empty list with room for `count`.
pub(crate) fn room<T>(count: usize) -> Result<Vec<T>, TryReserveError> {
    let mut list = Vec::new();
    list.try_reserve_exact(count)?;
    Ok(list)
}

/// Makes a list of `count` values, of which each is made of its place. It stays for good.
#[inline(never)]
pub(crate) fn lasting<T>(count: usize, make: impl FnMut(usize) -> T) -> Result<&'static mut [T], TryReserveError> {
    let mut list = room(count)?;
    list.extend((0..count).map(make));
    Ok(list.leak())
}

/// Makes a list of `count` times `value`.
pub(crate) fn filled<T: Clone>(count: usize, value: T) -> Result<Vec<T>, TryReserveError> {
    let mut list = room(count)?;
    list.resize(count, value);
    Ok(list)
}

/// Turns each element into one of another type, where it stands. `collect` may ask the heap, and ends the program if
/// the heap is full. If `turn` panics, the list is lost with all its elements, and none of them is dropped.
pub(crate) fn turned<T, U>(list: Vec<T>, mut turn: impl FnMut(T) -> U) -> Vec<U> {
    const { assert!(size_of::<T>() == size_of::<U>() && align_of::<T>() == align_of::<U>()) };
    let mut list = ManuallyDrop::new(list);
    let (first, count, capacity) = (list.as_mut_ptr(), list.len(), list.capacity());
    for n in 0..count {
        let place = first.wrapping_add(n);
        // SAFETY: an element of the list, which nothing else names and which is read once.
        let turned = turn(unsafe { place.read() });
        // SAFETY: the place of the element that was read, of the same size and alignment.
        unsafe { place.cast::<U>().write(turned) };
    }
    // SAFETY: the list's own memory, which nothing else frees; each element was written, with the layout of `T`.
    unsafe { Vec::from_raw_parts(first.cast(), count, capacity) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn elements_are_turned_in_their_order_where_they_stand() {
        let list: Vec<u32> = (0..5).collect();
        let (first, capacity) = (list.as_ptr().addr(), list.capacity());
        let turned = turned(list, |n| char::from_digit(n, 10).expect("a digit"));
        assert_eq!(turned, ['0', '1', '2', '3', '4']);
        assert_eq!((turned.as_ptr().addr(), turned.capacity()), (first, capacity));
    }
}
