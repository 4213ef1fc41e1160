//! PL081 DMA controller (Arm DDI 0218): copies by linked lists, on its first channel.
//!
//! Guarantees: the controller touches only the bytes that a list names, from [`Pl081::start`] until it has stopped. It
//! is a bus master without an IOMMU. For that time the device owns the buffers and the list.
//!
//! "Stopped" means (DDI 0218, 3.4) that the channel's bit of `DMACEnbldChns` reads 0 and that bit 17 (Active) of its
//! `DMACCxConfiguration` reads 0. The controller clears the first bit at the end of a list and after a bus error. The
//! driver clears it by the Enable bit of `DMACCxConfiguration`, and then the transfer on the bus ends first. The second
//! bit says that the channel's FIFO has nothing left to write. An interrupt alone is no proof.
//!
//! A transfer moves words, the most that a channel moves at a time. So addresses and lengths are multiples of four
//! bytes.
//!
//! This driver is ours, because a search of the documentation of crates found no driver to use.

use crate::drivers::mmio::Mmio;
use alloc::vec::Vec;
use carveout::addr::BusAddr;
use carveout::dma::Segment;
use core::fmt;
use tock_registers::{
    interfaces::{Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite, WriteOnly},
};

register_bitfields! [u32,
    CHANNELS [FIRST OFFSET(0) NUMBITS(1) []],
    CONFIGURATION [ENABLE OFFSET(0) NUMBITS(1) [], BIG_ENDIAN OFFSET(1) NUMBITS(1) []],
    /// DMACCxControl, and the last word of a list's item.
    CONTROL [
        TRANSFER_SIZE OFFSET(0) NUMBITS(12) [],
        SOURCE_BURST OFFSET(12) NUMBITS(3) [Of4 = 1],
        DESTINATION_BURST OFFSET(15) NUMBITS(3) [Of4 = 1],
        SOURCE_WIDTH OFFSET(18) NUMBITS(3) [Word = 2],
        DESTINATION_WIDTH OFFSET(21) NUMBITS(3) [Word = 2],
        SOURCE_INCREMENT OFFSET(26) NUMBITS(1) [],
        DESTINATION_INCREMENT OFFSET(27) NUMBITS(1) [],
        TERMINAL_COUNT_INTERRUPT OFFSET(31) NUMBITS(1) []
    ],
    /// DMACCxConfiguration.
    CHANNEL [
        ENABLE OFFSET(0) NUMBITS(1) [],
        ACTIVE OFFSET(17) NUMBITS(1) [],
        FLOW OFFSET(11) NUMBITS(3) [MemoryToMemory = 0],
        ERROR_INTERRUPT OFFSET(14) NUMBITS(1) [],
        TERMINAL_COUNT_INTERRUPT OFFSET(15) NUMBITS(1) []
    ],
];

register_structs! {
    /// The register block (DDI 0218, 3.2), as far as the first channel's.
    pub Registers {
        (0x000 => int_status: ReadOnly<u32, CHANNELS::Register>),
        (0x004 => int_tc_status: ReadOnly<u32, CHANNELS::Register>),
        (0x008 => int_tc_clear: WriteOnly<u32, CHANNELS::Register>),
        (0x00c => int_error_status: ReadOnly<u32, CHANNELS::Register>),
        (0x010 => int_error_clear: WriteOnly<u32, CHANNELS::Register>),
        (0x014 => _raw_status),
        (0x01c => enabled_channels: ReadOnly<u32, CHANNELS::Register>),
        (0x020 => _requests),
        (0x030 => configuration: ReadWrite<u32, CONFIGURATION::Register>),
        (0x034 => _reserved0),
        (0x100 => source: ReadWrite<u32>),
        (0x104 => destination: ReadWrite<u32>),
        (0x108 => next: ReadWrite<u32>),
        (0x10c => control: ReadWrite<u32, CONTROL::Register>),
        (0x110 => channel: ReadWrite<u32, CHANNEL::Register>),
        (0x114 => @END),
    }
}

/// Words of the largest transfer: the count has 12 bits.
const MOST: u32 = 4095;

/// Bytes of the largest transfer, and so of the largest segment for this controller.
pub const MAX_SEGMENT: u32 = 4 * MOST;

/// Bytes of an item of a list. It starts on a word.
pub const ITEM_BYTES: usize = 16;

/// Why this controller cannot copy some segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListError {
    /// A segment does not start and end on a word.
    Ragged(Segment),
    /// One side has these bytes left when the other has none.
    Uneven(Segment),
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ragged(Segment { bus, bytes }) => write!(f, "{bytes} bytes at {bus} are not whole words"),
            Self::Uneven(Segment { bus, bytes }) => {
                write!(f, "{bytes} bytes at {bus} have no counterpart: source and destination differ in length")
            }
        }
    }
}

impl core::error::Error for ListError {}

/// One run of words on both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    from: BusAddr,
    to: BusAddr,
    words: u32,
}

impl Transfer {
    /// Returns the transfer as an item of a list, in the order of its words: source, destination, next item, control.
    /// The last item has no next one, and raises the interrupt at its end.
    fn item(self, next: Option<BusAddr>) -> [u32; 4] {
        let control = CONTROL::TRANSFER_SIZE.val(self.words)
            + CONTROL::SOURCE_BURST::Of4
            + CONTROL::DESTINATION_BURST::Of4
            + CONTROL::SOURCE_WIDTH::Word
            + CONTROL::DESTINATION_WIDTH::Word
            + CONTROL::SOURCE_INCREMENT::SET
            + CONTROL::DESTINATION_INCREMENT::SET
            + CONTROL::TERMINAL_COUNT_INTERRUPT.val(u32::from(next.is_none()));
        [self.from.raw(), self.to.raw(), next.map_or(0, BusAddr::raw), control.value]
    }

    /// Returns the transfer as item `n` of a list of `count` items at `list`, in the words that the controller reads
    /// there. Returns `None` past the end of the bus's addresses.
    pub fn item_in(self, list: BusAddr, n: usize, count: usize) -> Option<[u32; ITEM_BYTES / 4]> {
        let next = if n + 1 < count { Some(list.checked_add(((n + 1) * ITEM_BYTES) as u32)?) } else { None };
        Some(self.item(next))
    }
}

/// A side of a copy, and how far it has come.
struct Side<I> {
    rest: I,
    now: Option<Segment>,
}

impl<I: Iterator<Item = Segment>> Side<I> {
    /// Returns the part of the side that comes next.
    fn now(&mut self) -> Result<Option<Segment>, ListError> {
        if self.now.is_none() {
            self.now = self.rest.next();
        }
        match self.now {
            Some(ragged) if !ragged.bus.is_aligned(4) || ragged.bytes % 4 != 0 => Err(ListError::Ragged(ragged)),
            now => Ok(now),
        }
    }

    fn advance(&mut self, bytes: u32) {
        self.now = self.now.and_then(|now| {
            let left = now.bytes - bytes;
            Some(Segment { bus: now.bus.checked_add(bytes)?, bytes: left }).filter(|_| left > 0)
        });
    }
}

/// Turns two lists of segments into transfers. A transfer ends where a segment of either side ends, or where the
/// transfer is full.
///
/// # Errors
///
/// [`ListError`] if this controller cannot do the copy. Then start nothing of it.
pub fn transfers(
    from: impl Iterator<Item = Segment>,
    to: impl Iterator<Item = Segment>,
) -> Result<Vec<Transfer>, ListError> {
    let (mut from, mut to) = (Side { rest: from, now: None }, Side { rest: to, now: None });
    let mut all = Vec::new();
    loop {
        match (from.now()?, to.now()?) {
            (Some(source), Some(destination)) => {
                let bytes = source.bytes.min(destination.bytes).min(MAX_SEGMENT);
                all.push(Transfer { from: source.bus, to: destination.bus, words: bytes / 4 });
                from.advance(bytes);
                to.advance(bytes);
            }
            (None, None) => return Ok(all),
            (Some(left), None) | (None, Some(left)) => return Err(ListError::Uneven(left)),
        }
    }
}

/// The bus answered a transfer with an error. What was copied is undefined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusError {
    /// Where the source was.
    pub from: BusAddr,
    /// Where the destination was.
    pub to: BusAddr,
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bus error while copying from {} to {}", self.from, self.to)
    }
}

impl core::error::Error for BusError {}

/// A DMA controller.
pub struct Pl081 {
    registers: Mmio<Registers>,
}

impl Pl081 {
    /// Takes the controller over, makes it little endian, and tells its first channel to stop.
    pub fn new(registers: Mmio<Registers>) -> Self {
        registers.channel.set(0);
        registers.configuration.write(CONFIGURATION::ENABLE::SET);
        Self { registers }
    }

    /// Starts the list at `list`, whose first item is `first`. An interrupt reports the end.
    ///
    /// # Safety
    ///
    /// [`stop`](Self::stop) returned true, or [`finish`](Self::finish) a result, since the last list. Until the
    /// controller has stopped again, the list and all that it names are the device's (I4).
    pub unsafe fn start(&mut self, list: BusAddr, first: Transfer, count: usize) {
        let registers = &*self.registers;
        let next = if count > 1 { list.checked_add(ITEM_BYTES as u32) } else { None };
        let [source, destination, next, control] = first.item(next);
        registers.source.set(source);
        registers.destination.set(destination);
        registers.next.set(next);
        registers.control.set(control);
        registers.channel.write(
            CHANNEL::ENABLE::SET
                + CHANNEL::FLOW::MemoryToMemory
                + CHANNEL::ERROR_INTERRUPT::SET
                + CHANNEL::TERMINAL_COUNT_INTERRUPT::SET,
        );
        // QEMU 7.2 moves the data while the channel is enabled, and looks at its interrupt's line only when a register
        // of the whole controller is written. Writing zero clears nothing.
        registers.int_error_clear.set(0);
    }

    /// Returns the result of the list when there is one, and clears the interrupt.
    pub fn finish(&mut self) -> Option<Result<(), BusError>> {
        // The channel may still be writing at the last item's terminal count, and at an error.
        if !self.is_stopped() {
            return None;
        }
        let registers = &*self.registers;
        if registers.int_error_status.is_set(CHANNELS::FIRST) {
            let [from, to] = [&registers.source, &registers.destination].map(|register| BusAddr::new(register.get()));
            registers.int_error_clear.write(CHANNELS::FIRST::SET);
            return Some(Err(BusError { from, to }));
        }
        if !registers.int_tc_status.is_set(CHANNELS::FIRST) {
            return None;
        }
        registers.int_tc_clear.write(CHANNELS::FIRST::SET);
        Some(Ok(()))
    }

    /// Tells the channel to stop, and returns whether it has stopped. After that no interrupt is pending. Otherwise, an
    /// interrupt of a list that did not end would count as the end of the next list.
    pub fn stop(&mut self) -> bool {
        let registers = &*self.registers;
        registers.channel.set(0);
        let stopped = self.is_stopped();
        if stopped {
            registers.int_tc_clear.write(CHANNELS::FIRST::SET);
            registers.int_error_clear.write(CHANNELS::FIRST::SET);
        }
        stopped
    }

    /// Keeps the registers for ever, so that nobody else gets them. Called if the controller was not seen to stop.
    pub fn keep(&mut self) {
        self.registers.keep();
    }

    /// Returns whether the channel has stopped moving data.
    fn is_stopped(&self) -> bool {
        !self.registers.enabled_channels.is_set(CHANNELS::FIRST) && !self.registers.channel.is_set(CHANNEL::ACTIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::fake;
    use proptest::prelude::*;
    use std::string::ToString;

    fn segment(bus: u32, bytes: u32) -> Segment {
        Segment { bus: BusAddr::new(bus), bytes }
    }

    fn listed(from: &[Segment], to: &[Segment]) -> Result<Vec<Transfer>, ListError> {
        transfers(from.iter().copied(), to.iter().copied())
    }

    #[test]
    fn registers_and_items_are_pinned_to_the_manual() {
        let block = fake::block::<Registers>(0x114);
        let registers = block.mmio();
        let mut controller = Pl081::new(block.mmio());
        assert_eq!(registers.configuration.get(), 1);
        let list = listed(&[segment(0x7000_1000, 16392)], &[segment(0x2000_0004, 16392)]).unwrap();
        // SAFETY: the registers are memory, not a controller: nothing is read or written.
        unsafe { controller.start(BusAddr::new(0x7100_0000), list[0], list.len()) };
        let channel =
            [&registers.source, &registers.destination, &registers.next].map(tock_registers::interfaces::Readable::get);
        assert_eq!(channel, [0x7000_1000, 0x2000_0004, 0x7100_0010]);
        assert_eq!((registers.control.get(), registers.channel.get()), (0x0c48_9fff, 0xc001));
        let item = list[1].item_in(BusAddr::new(0x7100_0000), 1, 2).unwrap();
        assert_eq!(item, [0x7000_4ffc, 0x2000_4000, 0, 0x8c48_9003]);
        assert_eq!(list[0].item_in(BusAddr::new(0x7100_0000), 0, 2).unwrap()[2], 0x7100_0010);
        assert_eq!(controller.finish(), None, "neither interrupt is there");
    }

    #[test]
    fn what_is_no_copy_is_refused_in_one_line() {
        let refused = |from: &[Segment], to: &[Segment]| listed(from, to).unwrap_err().to_string();
        let (whole, more) = ([segment(0x1000, 8)], [segment(0x2000, 8), segment(0x3000, 4)]);
        assert_eq!(refused(&[segment(0x1002, 8)], &more), "8 bytes at 0x00001002 are not whole words");
        assert_eq!(refused(&whole, &[segment(0x2000, 7)]), "7 bytes at 0x00002000 are not whole words");
        let uneven = "4 bytes at 0x00003000 have no counterpart: source and destination differ in length";
        assert_eq!(refused(&whole, &more), uneven);
        assert_eq!(refused(&more, &whole), uneven);
        assert_eq!(listed(&[], &[]), Ok(Vec::new()));
    }

    /// Cuts `words` at `cuts`, each piece at a place of its own.
    fn cut(base: u32, words: u32, cuts: &[u32]) -> Vec<Segment> {
        let mut ends: Vec<u32> = cuts.iter().map(|cut| cut % words).filter(|&cut| cut > 0).collect();
        ends.push(words);
        ends.sort_unstable();
        ends.dedup();
        let starts = core::iter::once(0).chain(ends.iter().copied());
        let piece = |(n, (start, end)): (usize, (u32, &u32))| segment(base + n as u32 * 0x10_0000, 4 * (end - start));
        starts.zip(&ends).enumerate().map(piece).collect()
    }

    proptest! {
        /// Compares transfers with a copy of one word at a time.
        #[test]
        fn each_word_goes_where_it_belongs(
            words in 1..20_000u32,
            cuts in prop::array::uniform2(prop::collection::vec(any::<u32>(), 0..6)),
        ) {
            let (from, to) = (cut(0x7000_0000, words, &cuts[0]), cut(0x2000_0000, words, &cuts[1]));
            let each = |side: &[Segment]| -> Vec<u32> {
                side.iter().flat_map(|s| (0..s.bytes / 4).map(|n| s.bus.raw() + 4 * n)).collect()
            };
            let list = listed(&from, &to).unwrap();
            prop_assert!(list.iter().all(|one| (1..=4095).contains(&one.words)));
            let moved: Vec<(u32, u32)> = list
                .iter()
                .flat_map(|one| (0..one.words).map(|n| (one.from.raw() + 4 * n, one.to.raw() + 4 * n)))
                .collect();
            let wanted: Vec<(u32, u32)> = each(&from).into_iter().zip(each(&to)).collect();
            prop_assert_eq!(moved, wanted);
        }
    }
}
