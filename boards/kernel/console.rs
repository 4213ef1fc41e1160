//! The console: one UART, for lines of the kernel and of the `log` crate.
//!
//! Guarantees: lines are not mixed. The next line after a buffer is lost comes with one that says so. A fault report is
//! printed whatever the interrupted code was printing. Once the command line is known nothing semihosts unless it says
//! `semihosting`: on a board without a debugger the program ends in a line and a core that waits. Before, when there is
//! nobody else to tell, a semihosting call is tried; where nobody answers, it comes to the kernel's own vector, and the
//! core waits as well.

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

/// Text for a terminal: a carriage return goes before each line feed.
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

/// Who tells of buffers that are lost.
static LOSSES: Once<&'static Dma<Armv7a>> = Once::new();

/// Whether a debugger or an emulator may be asked to print or to end the program.
static SEMIHOSTING: AtomicBool = AtomicBool::new(true);

/// Gives the console its UART.
pub fn set(uart: &'static mut dyn Uart) {
    *UART.lock() = Some(uart);
}

/// Has each buffer that `dma` lost told of in a line, from here on.
pub fn tell_losses(dma: &'static Dma<Armv7a>) {
    LOSSES.call_once(|| dma);
}

/// Says whether somebody answers semihosting calls.
pub fn set_semihosting(answered: bool) {
    SEMIHOSTING.store(answered, Ordering::Relaxed);
}

/// Prints text. Before it, prints a line for each buffer that was lost since the last call: the drop itself prints
/// nothing, because it may happen under any lock. Interrupts are masked meanwhile, for as long as the UART takes.
pub fn print(args: fmt::Arguments<'_>) {
    let mut uart = UART.lock();
    let mut write = |args: fmt::Arguments<'_>| match uart.as_mut() {
        // A UART takes every byte.
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

/// Waits for a byte.
pub fn read() -> u8 {
    loop {
        if let Some(byte) = UART.lock().as_mut().and_then(|uart| uart.try_read()) {
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

/// Takes the console from whoever holds it: another core has the time of a line to give it up.
///
/// # Safety
///
/// The code that this core was running never runs again, and the program ends. Another core that holds the console for
/// longer than a line is given up: what it prints may be mixed with what is printed from here on.
pub unsafe fn seize() {
    sync::abandon();
    // At 115200 baud a line of 200 bytes takes 17 ms, in which a core of 1 GHz reads a flag some million times.
    for _ in 0..1 << 20 {
        if UART.try_lock().is_some() {
            return;
        }
        carveout::cpu::relax();
    }
    // SAFETY: the holder is this core, whose code never runs again by this function's contract, or one that is given
    // up: what both then touch is the UART's data register, which takes each byte as it comes.
    unsafe { UART.force_unlock() };
}

/// Ends the program: the emulator exits with `code`, a board says it and waits to be switched off.
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
    // It is set once, here.
    let _ = log::set_logger(&Logger);
    log::set_max_level(level);
}
