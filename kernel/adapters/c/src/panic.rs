//! A panic: a broken promise of the module's own, which bad input never causes.
//!
//! Guarantees: `carveout_panic` is the only symbol that the library leaves to the kernel.

use crate::failure::write_line;
use core::ffi::c_char;
use core::panic::PanicInfo;

unsafe extern "C" {
    /// Ends the program, after it told somebody of `message`. The kernel defines it. The module calls it if it finds
    /// that one of its own promises is broken, and never for what it is passed. It does not return.
    pub fn carveout_panic(message: *const c_char) -> !;
}

// What a compiler of C names in every object that it makes for this ABI. Nothing unwinds, so nobody calls it. It gives
// way to a kernel's own.
core::arch::global_asm!(
    ".weak __aeabi_unwind_cpp_pr0",
    ".type __aeabi_unwind_cpp_pr0, %function",
    "__aeabi_unwind_cpp_pr0:",
    "bx lr"
);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut line = [0; 256];
    write_line(&mut line, info);
    // SAFETY: a text that ends with a NUL.
    unsafe { carveout_panic(line.as_ptr()) }
}
