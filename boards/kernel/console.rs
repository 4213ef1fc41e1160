//! The console: one UART, for lines of the kernel and of the `log` crate.
//!
//! Guarantees:
//!
//! - Lines are not mixed.
//! - If a buffer was lost, a line that says so comes before the next line.
//! - A fault report is printed even if the interrupted code was printing.
//! - Once the command line is known, there is no semihosting call unless the command line says `semihosting`. On a
//!   board without a debugger, the program then ends with a line, and the core waits. Before that, a semihosting call
//!   is tried when there is no console. If nobody answers, the call takes the kernel's own vector, and the core waits
//!   too.

use super::rank;
use crate::drivers::uart::Uart;
use aarch32_cpu::{asm, interrupt};
use carveout::dma::Dma;
use carveout::sync::{self, Lock};
use carveout_armv7a::mmu::Armv7a;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use log::{LevelFilter, Log, Metadata, Record};
use spin::Once;

/// Writes text for a terminal: a carriage return goes before each line feed.
struct Terminal<'u>(&'u mut dyn Uart);

impl Write for Terminal<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.0.write_byte(b'\r');
            }
            self.0.write_byte(byte);
        }
        Ok(())
    }
}

static UART: Lock<Option<&'static mut dyn Uart>> = Lock::new(rank::CONSOLE, None);

/// The DMA API whose lost buffers are reported.
static LOSSES: Once<&'static Dma<Armv7a>> = Once::new();

/// Whether a debugger or an emulator may be asked to print or to end the program.
static SEMIHOSTING: AtomicBool = AtomicBool::new(true);

/// Gives the console its UART.
pub fn set(uart: &'static mut dyn Uart) {
    *UART.lock() = Some(uart);
}

/// Makes the console print a line for each buffer that `dma` loses from now on.
pub fn tell_losses(dma: &'static Dma<Armv7a>) {
    LOSSES.call_once(|| dma);
}

/// Sets whether a debugger or an emulator answers semihosting calls.
pub fn set_semihosting(answered: bool) {
    SEMIHOSTING.store(answered, Ordering::Relaxed);
}

/// Prints text. First it prints a line for each buffer that was lost since the last call: the drop itself prints
/// nothing, because it may happen under any lock. Interrupts are masked until the UART has taken the text.
pub fn print(args: fmt::Arguments<'_>) {
    let mut uart = UART.lock();
    let mut write = |args: fmt::Arguments<'_>| match uart.as_mut() {
        // Writing cannot fail: a UART takes every byte.
        Some(uart) => drop(Terminal(&mut **uart).write_fmt(args)),
        None if SEMIHOSTING.load(Ordering::Relaxed) => semihosting::eprint!("{args}"),
        None => {}
    };
    while let Some(lost) = LOSSES.get().and_then(|dma| dma.next_quarantined()) {
        if log::max_level() >= LevelFilter::Warn {
            write(format_args!(
                "warn: carveout::dma: {lost} was dropped: it is lost until reset, for the device may still use it\n"
            ));
        }
    }
    write(args);
}

/// Writes bytes as they are: those of a line editor, whose line ends are a terminal's already.
pub fn write(bytes: &[u8]) {
    if let Some(uart) = UART.lock().as_mut() {
        for &byte in bytes {
            uart.write_byte(byte);
        }
    }
}

/// Returns a byte that came, if there is one.
pub fn try_read() -> Option<u8> {
    UART.lock().as_mut().and_then(|uart| uart.try_read())
}

/// Waits for a byte.
pub fn read() -> u8 {
    loop {
        if let Some(byte) = try_read() {
            return byte;
        }
        carveout::cpu::relax();
    }
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => { $crate::kernel::console::print(format_args!("{}\n", format_args!($($arg)*))) };
}

/// Takes the console from its holder. If that is another core, it first gets the time of one line to finish.
///
/// # Safety
///
/// The code that this core was running never runs again, and the program ends. A core that holds the console for longer
/// than a line is not waited for: its output may be mixed with what is printed from here on.
pub unsafe fn seize() {
    sync::abandon();
    // At 115200 baud a line of 200 bytes takes 17 ms, in which a core of 1 GHz reads a flag some million times.
    for _ in 0..1 << 20 {
        if UART.try_lock().is_some() {
            return;
        }
        carveout::cpu::relax();
    }
    // SAFETY: the holder is this core, whose code never runs again by this function's contract, or another that was
    // waited for long enough. Both then write the UART's data register, which takes each byte as it comes.
    unsafe { UART.force_unlock() };
}

/// Ends the program. An emulator exits with `code`. A board prints it and waits to be switched off.
pub fn exit(code: i32) -> ! {
    if SEMIHOSTING.load(Ordering::Relaxed) {
        semihosting::process::exit(code);
    }
    print(format_args!("halted: exit code {code}; the board can be switched off\n"));
    interrupt::disable();
    loop {
        asm::wfi();
    }
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
    // This cannot fail: the logger is set only here.
    let _ = log::set_logger(&Logger);
    log::set_max_level(level);
}
