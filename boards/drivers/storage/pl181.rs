//! PL181 multimedia card interface (Arm DDI 0205) with an SD memory card, read by the CPU.
//!
//! Guarantees: a card is read whole blocks at a time, or an error says what went wrong; no command is waited for longer
//! than it takes to look at the status [`PATIENCE`] times. The controller is no bus master: the CPU takes each word out
//! of its queue, and `MCIDataCtrl` never has its DMA bit. So there is nothing to stop: no buffer is ever the device's
//! (I4). Commands and responses: SD Physical Layer Simplified Specification, 4.7 and 4.9.
//!
//! This driver is ours: a search of the documentation of crates found none to use.

use crate::drivers::mmio::Mmio;
use carveout::addr::Bytes;
use core::fmt;
use tock_registers::{
    interfaces::{Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite, WriteOnly},
};

register_bitfields! [u32,
    POWER [CTRL OFFSET(0) NUMBITS(2) [On = 3], OPEN_DRAIN OFFSET(6) NUMBITS(1) []],
    CLOCK [DIVIDER OFFSET(0) NUMBITS(8) [], ENABLE OFFSET(8) NUMBITS(1) []],
    COMMAND [
        INDEX OFFSET(0) NUMBITS(6) [], RESPONSE OFFSET(6) NUMBITS(1) [], LONG OFFSET(7) NUMBITS(1) [],
        ENABLE OFFSET(10) NUMBITS(1) []
    ],
    DATA_CTRL [
        ENABLE OFFSET(0) NUMBITS(1) [], FROM_CARD OFFSET(1) NUMBITS(1) [], LOG2_BLOCK OFFSET(4) NUMBITS(4) []
    ],
    STATUS [
        CMD_CRC_FAIL OFFSET(0) NUMBITS(1) [], DATA_CRC_FAIL OFFSET(1) NUMBITS(1) [],
        CMD_TIME_OUT OFFSET(2) NUMBITS(1) [], DATA_TIME_OUT OFFSET(3) NUMBITS(1) [],
        RX_OVERRUN OFFSET(5) NUMBITS(1) [], CMD_RESP_END OFFSET(6) NUMBITS(1) [],
        CMD_SENT OFFSET(7) NUMBITS(1) [], DATA_END OFFSET(8) NUMBITS(1) [],
        RX_DATA_AVAILABLE OFFSET(21) NUMBITS(1) []
    ],
];

register_structs! {
    /// The register block (DDI 0205, 3.2).
    pub Registers {
        (0x000 => power: ReadWrite<u32, POWER::Register>),
        (0x004 => clock: ReadWrite<u32, CLOCK::Register>),
        (0x008 => argument: ReadWrite<u32>),
        (0x00c => command: ReadWrite<u32, COMMAND::Register>),
        (0x010 => _response_command),
        (0x014 => response: [ReadOnly<u32>; 4]),
        (0x024 => data_timer: ReadWrite<u32>),
        (0x028 => data_length: ReadWrite<u32>),
        (0x02c => data_ctrl: ReadWrite<u32, DATA_CTRL::Register>),
        (0x030 => _data_count),
        (0x034 => status: ReadOnly<u32, STATUS::Register>),
        (0x038 => clear: WriteOnly<u32, STATUS::Register>),
        (0x03c => mask: [ReadWrite<u32>; 2]),
        (0x044 => _reserved0),
        (0x080 => fifo: ReadOnly<u32>),
        (0x084 => @END),
    }
}

/// Bytes of a block.
pub const BLOCK: usize = 512;
/// Looks at the status before a command, or a word, is given up. A card answers within 64 of its clocks, and begins to
/// send within 100 ms.
const PATIENCE: u32 = 10_000_000;
/// Times a card is asked whether it has powered up, which takes it a second at most.
const POWER_UP: u32 = 10_000;

/// The commands in use. Of those marked ACMD each is announced by `APP`.
mod command {
    pub(super) const IDLE: u32 = 0;
    pub(super) const ALL_SEND_CID: u32 = 2;
    pub(super) const SEND_ADDRESS: u32 = 3;
    pub(super) const SELECT: u32 = 7;
    pub(super) const IF_COND: u32 = 8;
    pub(super) const SEND_CSD: u32 = 9;
    pub(super) const BLOCK_LENGTH: u32 = 16;
    pub(super) const READ_BLOCK: u32 = 17;
    /// ACMD41.
    pub(super) const OP_COND: u32 = 41;
    pub(super) const APP: u32 = 55;
}

/// 2.7 to 3.6 V, and a pattern for the card to repeat.
const IF_COND: u32 = 0x1aa;
/// High capacity is understood; 2.7 to 3.6 V.
const OP_COND: u32 = 0x40ff_8000;
/// Of the answer: powered up, and of high capacity.
const READY: u32 = 1 << 31;
const HIGH_CAPACITY: u32 = 1 << 30;

/// Why the card is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CardError {
    /// It does not answer this command, or its answer is damaged.
    Command(u32),
    /// It answers the first commands, and never that it has powered up.
    PowerUp,
    /// Its registers are of a version that is not known: this is their first word.
    Csd(u32),
    /// The data of this block did not come, or came damaged.
    Data(u32),
    /// There is no such block.
    PastTheEnd {
        /// Bytes from the start that were asked for.
        wanted: u64,
        /// Bytes on the card.
        bytes: u64,
    },
}

impl fmt::Display for CardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Command(index) => write!(f, "the card does not answer command {index}"),
            Self::PowerUp => f.write_str("the card does not power up"),
            Self::Csd(word) => write!(f, "the card describes itself in an unknown form: {word:#010x}"),
            Self::Data(block) => write!(f, "block {block} of the card cannot be read"),
            Self::PastTheEnd { wanted, bytes } => {
                write!(f, "{} asked for, but the card has {}", Bytes(wanted), Bytes(bytes))
            }
        }
    }
}

impl core::error::Error for CardError {}

/// What a command is answered with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    None,
    Short,
    /// Without a checksum that the controller knows.
    Unchecked,
    Long,
}

/// A memory card in its slot.
pub struct Card {
    registers: Mmio<Registers>,
    blocks: u32,
    /// What a block's number is multiplied by in commands.
    unit: u32,
}

impl Card {
    /// Wakes the card up. Returns `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`CardError::Command`] if the card does not answer a command. [`CardError::PowerUp`] if it does not power up.
    /// [`CardError::Csd`] if its registers are of an unknown version.
    pub fn open(registers: Mmio<Registers>) -> Result<Option<Self>, CardError> {
        for mask in &registers.mask {
            mask.set(0);
        }
        registers.data_ctrl.set(0);
        registers.power.write(POWER::CTRL::On);
        // A quarter of a MHz or so while the card is identified, from the board's 24 MHz.
        registers.clock.write(CLOCK::ENABLE::SET + CLOCK::DIVIDER.val(47));
        let mut card = Self { registers, blocks: 0, unit: 1 };
        card.command(command::IDLE, 0, Answer::None)?;
        // A card of before version 2 does not know this one, but then neither may there be a card.
        let version_2 = card.command(command::IF_COND, IF_COND, Answer::Short).is_ok();
        if card.command(command::APP, 0, Answer::Short).is_err() {
            return Ok(None);
        }
        let condition = card.power_up(if version_2 { OP_COND } else { OP_COND & !HIGH_CAPACITY })?;
        card.unit = if condition & HIGH_CAPACITY != 0 { 1 } else { BLOCK as u32 };
        card.command(command::ALL_SEND_CID, 0, Answer::Long)?;
        card.command(command::SEND_ADDRESS, 0, Answer::Short)?;
        let address = card.registers.response[0].get() & 0xffff_0000;
        card.command(command::SEND_CSD, address, Answer::Long)?;
        card.blocks = blocks([0, 1, 2, 3].map(|n| card.registers.response[n].get()))?;
        card.command(command::SELECT, address, Answer::Short)?;
        card.command(command::BLOCK_LENGTH, BLOCK as u32, Answer::Short)?;
        card.registers.clock.write(CLOCK::ENABLE::SET);
        Ok(Some(card))
    }

    fn power_up(&self, condition: u32) -> Result<u32, CardError> {
        for _ in 0..POWER_UP {
            self.command(command::APP, 0, Answer::Short)?;
            self.command(command::OP_COND, condition, Answer::Unchecked)?;
            let answer = self.registers.response[0].get();
            if answer & READY != 0 {
                return Ok(answer);
            }
        }
        Err(CardError::PowerUp)
    }

    /// Bytes on the card.
    pub fn bytes(&self) -> u64 {
        u64::from(self.blocks) * BLOCK as u64
    }

    /// Reads from the start of the card into `to`, of which the last block may be a part.
    ///
    /// # Errors
    ///
    /// [`CardError::PastTheEnd`] if the card has fewer bytes. [`CardError::Command`] and [`CardError::Data`] if a block
    /// does not come whole.
    pub fn read(&mut self, to: &mut [u8]) -> Result<(), CardError> {
        if to.len() as u64 > self.bytes() {
            return Err(CardError::PastTheEnd { wanted: to.len() as u64, bytes: self.bytes() });
        }
        to.chunks_mut(BLOCK).enumerate().try_for_each(|(n, bytes)| self.read_block(n as u32, bytes))
    }

    fn read_block(&self, block: u32, to: &mut [u8]) -> Result<(), CardError> {
        let registers = &*self.registers;
        registers.clear.set(u32::MAX);
        registers.data_timer.set(u32::MAX);
        registers.data_length.set(BLOCK as u32);
        let block_size = DATA_CTRL::LOG2_BLOCK.val(BLOCK.ilog2());
        // Ready before the card begins to send.
        registers.data_ctrl.write(DATA_CTRL::ENABLE::SET + DATA_CTRL::FROM_CARD::SET + block_size);
        let result = self.command(command::READ_BLOCK, block * self.unit, Answer::Short).and_then(|()| {
            let mut parts = to.chunks_mut(4);
            for _ in 0..BLOCK / 4 {
                self.wait(STATUS::RX_DATA_AVAILABLE::SET, CardError::Data(block))?;
                let word = registers.fifo.get().to_le_bytes();
                if let Some(part) = parts.next() {
                    part.copy_from_slice(&word[..part.len()]);
                }
            }
            self.wait(STATUS::DATA_END::SET, CardError::Data(block))
        });
        registers.data_ctrl.set(0);
        result
    }

    fn wait(
        &self,
        wanted: tock_registers::fields::FieldValue<u32, STATUS::Register>,
        error: CardError,
    ) -> Result<(), CardError> {
        let failed = STATUS::DATA_CRC_FAIL::SET + STATUS::DATA_TIME_OUT::SET + STATUS::RX_OVERRUN::SET;
        for _ in 0..PATIENCE {
            let status = self.registers.status.extract();
            if status.any_matching_bits_set(wanted) {
                return Ok(());
            }
            if status.any_matching_bits_set(failed) {
                break;
            }
        }
        Err(error)
    }

    fn command(&self, index: u32, argument: u32, answer: Answer) -> Result<(), CardError> {
        let registers = &*self.registers;
        registers.clear.set(u32::MAX);
        registers.argument.set(argument);
        registers.command.write(
            COMMAND::ENABLE::SET
                + COMMAND::INDEX.val(index)
                + COMMAND::RESPONSE.val(u32::from(answer != Answer::None))
                + COMMAND::LONG.val(u32::from(answer == Answer::Long)),
        );
        for _ in 0..PATIENCE {
            let status = registers.status.extract();
            let answered = status.is_set(STATUS::CMD_RESP_END)
                || (answer == Answer::None && status.is_set(STATUS::CMD_SENT))
                || (answer == Answer::Unchecked && status.is_set(STATUS::CMD_CRC_FAIL));
            if answered {
                return Ok(());
            }
            if status.any_matching_bits_set(STATUS::CMD_TIME_OUT::SET + STATUS::CMD_CRC_FAIL::SET) {
                break;
            }
        }
        Err(CardError::Command(index))
    }
}

/// Blocks on the card that describes itself so, bits 127 to 0 of its CSD (SD specification, 5.3).
fn blocks(csd: [u32; 4]) -> Result<u32, CardError> {
    let bits = csd.iter().fold(0u128, |bits, &word| bits << 32 | u128::from(word));
    let field = |high: u32, low: u32| (bits >> low) as u32 & ((1 << (high - low + 1)) - 1);
    match field(127, 126) {
        // (C_SIZE + 1) * 2^(C_SIZE_MULT + 2) of 2^READ_BL_LEN bytes, 512 to 2048.
        0 if (9..=11).contains(&field(83, 80)) => {
            Ok((field(73, 62) + 1) << (field(49, 47) + 2 + field(83, 80) - BLOCK.ilog2()))
        }
        // (C_SIZE + 1) * 512 KiB.
        1 => Ok((field(69, 48) + 1) << 10),
        _ => Err(CardError::Csd(csd[0])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn capacities_are_those_of_the_specification() {
        // A card of 1 GiB and one of 2 GiB, whose blocks are of 1 KiB.
        assert_eq!(blocks([0x002e_0032, 0x5b59_83ff, 0xffff_ff80, 0x1640_0001]), Ok(4096 << 9));
        assert_eq!(blocks([0x002e_0032, 0x5b5a_83ff, 0xffff_ff80, 0x1640_0001]), Ok(4096 << 10));
        // The smallest of version 1, and of version 2.
        assert_eq!(blocks([0, 9 << 16, 7 << 15, 0]), Ok(512));
        assert_eq!(blocks([0x400e_0032, 0x5b59_0000, 0x1d69_7f80, 0x0a40_0001]), Ok((0x1d69 + 1) << 10));
        let unknown = blocks([0xc000_0000, 0, 0, 0]).unwrap_err();
        assert_eq!(unknown.to_string(), "the card describes itself in an unknown form: 0xc0000000");
        assert_eq!(blocks([0, 0, 0, 0]), Err(CardError::Csd(0)), "blocks of a byte");
    }
}
