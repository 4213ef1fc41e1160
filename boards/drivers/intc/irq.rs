//! Interrupts by number, as the board's controller counts them.

use core::fmt;

/// An interrupt's number at the controller. At a GIC: 0-15 from software, 16-31 private to the core, then shared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IrqId(u16);

impl IrqId {
    /// Valid numbers are below this one. At a GIC, numbers from here on say that nothing is pending (IHI 0048A, 3.2.5).
    pub const LIMIT: u16 = 1020;

    /// Returns the interrupt of that number, or `None` from [`LIMIT`](Self::LIMIT) on.
    pub const fn new(number: u16) -> Option<Self> {
        if number < Self::LIMIT { Some(Self(number)) } else { None }
    }

    /// Returns the shared peripheral interrupt that a device tree for a GIC calls `n`, or `None` past the last one.
    pub const fn shared(n: u16) -> Option<Self> {
        if n < Self::LIMIT - 32 { Some(Self(n + 32)) } else { None }
    }

    /// Returns whether this is a software interrupt of a GIC. Software raises it on the cores that it names.
    pub const fn is_software(self) -> bool {
        self.0 < 16
    }

    /// Returns the interrupt that one interrupt specifier of a device tree names. The controllers of the A10 and AM335x
    /// take one cell, the number. A GIC takes three cells, of which the first is 0 for a shared interrupt and 1 for a
    /// private one.
    pub fn from_specifier(cells: &[u32]) -> Option<Self> {
        match *cells {
            [n] => Self::new(u16::try_from(n).ok()?),
            [0, n, _] => Self::shared(u16::try_from(n).ok()?),
            [1, n @ 0..16, _] => Self::new(n as u16 + 16),
            _ => None,
        }
    }

    /// Returns the number, counted from the controller's first interrupt.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Returns the index of this interrupt's register in an array of 32-bit registers with a bit for each interrupt.
    pub const fn word(self) -> usize {
        self.0 as usize / 32
    }

    /// Returns this interrupt's bit in that register.
    pub const fn bit(self) -> u32 {
        1 << (self.0 % 32)
    }
}

impl fmt::Display for IrqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupt {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_numbers_end_before_the_special_ones() {
        let last = IrqId::shared(987).unwrap();
        assert_eq!((last.number(), last.word(), last.bit()), (1019, 31, 1 << 27));
        assert_eq!((IrqId::shared(988), IrqId::new(1020)), (None, None));
    }

    #[test]
    fn a_specifier_is_one_cell_or_a_gics_three() {
        let number = |cells: &[u32]| IrqId::from_specifier(cells).map(IrqId::number);
        assert_eq!(number(&[56]), Some(56));
        assert_eq!(number(&[0, 44, 4]), Some(76));
        assert_eq!(number(&[1, 11, 0x101]), Some(27));
        let wrong: [&[u32]; 6] = [&[], &[0, 1], &[2, 1, 4], &[1, 16, 4], &[0, 988, 4], &[1 << 16]];
        assert_eq!(wrong.map(number), [None; 6]);
    }
}
