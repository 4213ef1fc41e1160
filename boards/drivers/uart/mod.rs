//! UARTs: the console's bytes, polled.

pub mod ns16550;
pub mod pl011;

/// A UART that is ready to send and receive.
pub trait Uart: Send {
    /// Sends one byte unchanged. Waits until there is room for it.
    fn write_byte(&mut self, byte: u8);

    /// Returns the next byte received, if there is one. A caller cannot distinguish line errors from data.
    fn try_read(&mut self) -> Option<u8>;
}
