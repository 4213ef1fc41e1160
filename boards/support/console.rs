//! The console: one UART, for lines of the kernel and of the `log` crate.
//!
//! Guarantees: lines are not mixed; a fault report is printed whatever the interrupted code was printing. Before a
//! UART is found, and only then, lines go out over semihosting.

use super::pl011::Pl011;
use core::fmt::{self, Write};
use log::{LevelFilter, Log, Metadata, Record};
use spin::Mutex;

static UART: Mutex<Option<Pl011>> = Mutex::new(None);

/// Gives the console its UART.
pub fn set(uart: Pl011) {
    *UART.lock() = Some(uart);
}

/// Prints without a newline. Not for interrupt handlers.
pub fn print(args: fmt::Arguments<'_>) {
    match UART.lock().as_mut() {
        // A UART takes every byte.
        Some(uart) => drop(uart.write_fmt(args)),
        None => semihosting::eprint!("{args}"),
    }
}

/// Waits for a byte.
pub fn read() -> u8 {
    loop {
        if let Some(byte) = UART.lock().as_mut().and_then(Pl011::try_read) {
            return byte;
        }
        core::hint::spin_loop();
    }
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => { $crate::support::console::print(format_args!("{}\n", format_args!($($arg)*))) };
}

/// Takes the console from whoever holds it.
///
/// # Safety
///
/// The caller's duty: the code that may hold the console never runs again.
pub unsafe fn seize() {
    if UART.is_locked() {
        // SAFETY: the holder never runs again (the caller's duty).
        unsafe { UART.force_unlock() };
    }
}

/// Ends the program: the emulator exits with `code`.
pub fn exit(code: i32) -> ! {
    semihosting::process::exit(code)
}

/// Prints a line and ends the program as failed.
pub fn die(args: fmt::Arguments<'_>) -> ! {
    print(format_args!("error: {args}\n"));
    exit(1)
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            crate::println!("{}: {}: {}", record.level().as_str().to_ascii_lowercase(), record.target(), record.args());
        }
    }

    fn flush(&self) {}
}

/// Sends the `log` crate's lines of at least this severity to the console.
pub fn start_log(level: LevelFilter) {
    // It is set once, here.
    let _ = log::set_logger(&Logger);
    log::set_max_level(level);
}
