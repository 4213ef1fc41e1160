//! The console: the first UART, and how the program ends.
//!
//! Guarantees: a line is printed as it is written, byte by byte, in any state of the kernel, for nothing here waits for
//! a lock. A panic prints where it happened and ends the program with exit code 1.

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use semihosting::process;
use zynq7000::uart::{Control, Fifo, MmioRegisters, Registers};

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($words:tt)*) => { $crate::console::line(format_args!($($words)*)) };
}

/// The UART, for one line.
struct Uart(MmioRegisters<'static>);

/// Returns the registers. Each line has its own, for one core prints one line at a time, or a panic's line in another.
fn uart() -> Uart {
    // SAFETY: nothing else uses this UART, and writes to it are independent of each other.
    Uart(unsafe { Registers::new_mmio_fixed_0() })
}

/// Turns the transmitter on. Its clock, pins and speed are the boot loader's work.
pub fn init() {
    let on = Control::new_with_raw_value(0).with_tx_enable(true).with_rx_disable(true);
    uart().0.write_control(on);
}

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while self.0.read_status().tx_full() {}
            self.0.write_fifo(Fifo::new_with_raw_value(byte.into()));
        }
        Ok(())
    }
}

/// Prints a line. The macro `println` calls it.
pub fn line(words: fmt::Arguments<'_>) {
    // The UART never fails.
    let _ = writeln!(uart(), "{words}\r");
}

/// Ends the program, once everything is printed.
pub fn exit(code: i32) -> ! {
    while !uart().0.read_status().tx_empty() {}
    process::exit(code)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    line(format_args!("panic: {info}"));
    exit(1)
}
