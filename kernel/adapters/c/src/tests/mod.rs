//! Every function, over the fake machine: what it does, and each refusal.

mod areas;
mod emptying;
mod functions;
mod outer;
mod sequences;
mod share;

use crate::device::Device;
use crate::dma_handle::DmaHandle;
use crate::failure::{Error, Failure};
use crate::init::carveout_init;
use crate::instance;
use crate::kernel::{Area, Kernel, Range};
use crate::machine::Machine;
use crate::promise::Contract;
use carveout::setup::{CARVED, CARVED_BYTES, L2, WINDOW};
use core::ffi::{CStr, c_char, c_void};
use core::mem::MaybeUninit;
use core::ptr;
use std::boxed::Box;
use std::string::String;

/// The window of [`start`], in MiB.
const SECTIONS: u32 = 16;

unsafe extern "C" fn phys_to_virt(_: *mut c_void, _: u32, _: usize) -> *mut c_void {
    ptr::null_mut()
}

unsafe extern "C" fn no_memory(_: *mut c_void, _: usize, _: usize) -> *mut c_void {
    ptr::null_mut()
}

unsafe extern "C" fn no_free(_: *mut c_void, _: *mut c_void, _: usize, _: usize) {}

/// Returns what a kernel gives that has one area of 4 MiB. The host's heap is Rust's own.
fn kernel() -> Kernel {
    let ranges = Box::leak(Box::new([Range { base: CARVED.raw(), bytes: CARVED_BYTES }]));
    let area = Area { name: c"media".as_ptr(), ranges: ranges.as_ptr(), range_count: 1, late: 0 };
    let areas = Box::leak(Box::new([area]));
    Kernel {
        areas: areas.as_ptr(),
        area_count: 1,
        aliases: ptr::null(),
        alias_count: 0,
        window: WINDOW.raw(),
        window_sections: SECTIONS,
        tables: L2.raw(),
        roots: ptr::null(),
        root_count: 0,
        buffers: 0,
        spare_guards: 0,
        check_writes: 0,
        outer_cache: ptr::null(),
        phys_to_virt: Some(phys_to_virt),
        alloc: Some(no_memory),
        free: Some(no_free),
        context: ptr::null_mut(),
    }
}

/// Makes this thread's module. Returns its machine.
fn start() -> &'static Machine {
    start_with(&kernel())
}

/// Makes this thread's module of what a kernel gives. Returns its machine.
fn start_with(kernel: &Kernel) -> &'static Machine {
    assert_eq!(carveout_init(Some(kernel), None), Error::Ok);
    instance::ready().expect("made just now").machine()
}

/// Returns a device of the first area.
fn device(name: &'static CStr) -> Device {
    Device {
        name: name.as_ptr(),
        area: 0,
        dma_mask: 0,
        align: 0,
        boundary: 0,
        apertures: ptr::null(),
        aperture_count: 0,
        contract: Contract { id: 0 },
    }
}

/// Runs a call that has room for the reason and for what it hands out. Returns what it answered, what it handed out if
/// that was anything, and the reason.
fn call<T: Copy, R>(work: impl FnOnce(&mut MaybeUninit<T>, &mut MaybeUninit<Failure>) -> R) -> (R, T, Error, String) {
    let (mut out, mut why) = (MaybeUninit::<T>::zeroed(), MaybeUninit::uninit());
    let answer = work(&mut out, &mut why);
    // SAFETY: every call writes it.
    let Failure { code, line } = unsafe { why.assume_init() };
    // SAFETY: the tests' types are numbers, of which zeros are some.
    let out = unsafe { out.assume_init() };
    assert!(line.contains(&0), "every line ends with a NUL");
    (answer, out, code, text_of(&line))
}

/// Returns the text in C's characters, up to a NUL or to their end.
fn text_of(line: &[c_char]) -> String {
    let bytes = line.iter().map(|c| c.to_ne_bytes()[0]).take_while(|&byte| byte != 0);
    String::from_utf8(bytes.collect()).expect("UTF-8")
}

/// Runs a call that must be refused. Returns the error and the line.
fn refused<R>(work: impl FnOnce(&mut MaybeUninit<Failure>) -> R) -> (Error, String) {
    let (_, (), code, line) = call(|_, why| work(why));
    assert_ne!(code, Error::Ok);
    (code, line)
}

const NONE: DmaHandle = DmaHandle { id: 0, addr: 0 };

/// Runs a test in a thread of its own, which has a module of its own.
fn alone<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}
