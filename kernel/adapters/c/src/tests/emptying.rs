//! Whole caches, where C permits that they are emptied.

use super::*;
use crate::buffer::*;
use crate::emptying::*;
use carveout::fake::Op;
use core::sync::atomic::{AtomicU32, Ordering};

/// A kernel whose cores do the work one after another: `context` says how many.
unsafe extern "C" fn each(context: *mut c_void, work: unsafe extern "C" fn(*mut c_void), argument: *mut c_void) {
    for _ in 0..context.addr() {
        // SAFETY: the argument is the one that came with it.
        unsafe { work(argument) };
    }
}

const fn others(count: u32) -> OtherCores {
    OtherCores { count, each: Some(each), context: ptr::without_provenance_mut(count as usize) }
}

/// Returns whether a stream of so many bytes has whole caches emptied when the device gets it.
fn empties(machine: &Machine, bytes: usize) -> bool {
    let camera = device(c"camera");
    let mut handle = MaybeUninit::uninit();
    let buffer = carveout_alloc_noncoherent(Some(&camera), bytes, Some(&mut handle), 0, None);
    // SAFETY: it was written.
    let handle = unsafe { handle.assume_init() };
    machine.take_log();
    assert_eq!(carveout_sync_single_for_device(Some(&camera), handle, bytes, 0, None), Error::Ok);
    let empties = machine.take_log().iter().any(|op| matches!(op, Op::Flush));
    assert_eq!(carveout_sync_single_for_cpu(Some(&camera), handle, bytes, 0, None), Error::Ok);
    assert_eq!(carveout_free_noncoherent(Some(&camera), bytes, buffer, handle, 0, None), Error::Ok);
    empties
}

#[test]
fn whole_caches_are_emptied_once_c_permits_it() {
    alone(|| {
        let machine = start();
        assert!(!empties(machine, CARVED_BYTES as usize), "nobody permitted it");
        let (code, line) =
            refused(|why| carveout_permit_emptying(Some(&OtherCores { each: None, ..others(1) }), Some(why)));
        assert_eq!((code, line.as_str()), (Error::NullPointer, "others.each is NULL, and is needed"));
        assert_eq!(carveout_permit_emptying(None, None), Error::Ok);
        assert!(empties(machine, CARVED_BYTES as usize));
        assert!(!empties(machine, 4096), "fewer lines than the caches");
        let (code, line) = refused(|why| carveout_permit_emptying(None, Some(why)));
        assert_eq!(code, Error::Emptying);
        assert_eq!(line, "whole caches may be emptied already: it is permitted once");
    });
    alone(|| {
        let (code, _) = refused(|why| carveout_permit_emptying(None, Some(why)));
        assert_eq!(code, Error::NotReady);
    });
}

#[test]
fn other_cores_count_and_are_asked() {
    alone(|| {
        let machine = start();
        assert_eq!(carveout_permit_emptying(None, None), Error::Ok);
        assert!(empties(machine, 256 << 10));
    });
    alone(|| {
        let machine = start();
        assert_eq!(carveout_permit_emptying(Some(&others(7)), None), Error::Ok);
        assert!(!empties(machine, 256 << 10), "eight cores have as many lines");
    });
    let asked = others(3).checked().unwrap();
    let done = AtomicU32::new(0);
    asked.each(&|| {
        done.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!((asked.count(), done.into_inner()), (3, 3));
}
