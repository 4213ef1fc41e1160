//! PL181 multimedia card interface (Arm DDI 0205) with an SD memory card, read by the CPU.
//!
//! Guarantees: a card is read whole blocks at a time, or an error says what went wrong; no command is waited for longer
//! than it takes to look at the status [`PATIENCE`] times. The controller is no bus master: the CPU takes each word out
//! of its queue, and `MCIDataCtrl` never has its DMA bit. So there is nothing to stop: no buffer is ever the device's
//! (I4).
//!
//! This driver is ours: a search of the documentation of crates found none to use.

use super::SECTOR;
use super::sd::{self, Answer, CardError, Selected, command};
use crate::drivers::mmio::Mmio;
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

/// Looks at the status before a command, or a word, is given up. A card answers within 64 of its clocks, and begins to
/// send within 100 ms.
const PATIENCE: u32 = 10_000_000;

/// A memory card in its slot.
pub struct Card {
    registers: Mmio<Registers>,
    card: Selected,
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
        let Some(card) = sd::select(|index, argument, answer| give(&registers, index, argument, answer))? else {
            return Ok(None);
        };
        registers.clock.write(CLOCK::ENABLE::SET);
        Ok(Some(Self { registers, card }))
    }

    /// Returns the bytes on the card.
    pub fn bytes(&self) -> u64 {
        u64::from(self.card.blocks) * SECTOR as u64
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
        to.chunks_mut(SECTOR).enumerate().try_for_each(|(n, bytes)| self.read_block(n as u32, bytes))
    }

    fn read_block(&self, block: u32, to: &mut [u8]) -> Result<(), CardError> {
        let registers = &*self.registers;
        registers.clear.set(u32::MAX);
        registers.data_timer.set(u32::MAX);
        registers.data_length.set(SECTOR as u32);
        let block_size = DATA_CTRL::LOG2_BLOCK.val(SECTOR.ilog2());
        // Ready before the card begins to send.
        registers.data_ctrl.write(DATA_CTRL::ENABLE::SET + DATA_CTRL::FROM_CARD::SET + block_size);
        let result = give(registers, command::READ_BLOCK, block * self.card.unit, Answer::Short).and_then(|_| {
            let mut parts = to.chunks_mut(4);
            for _ in 0..SECTOR / 4 {
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
}

/// Gives the card a command, and returns its answer.
fn give(registers: &Registers, index: u32, argument: u32, answer: Answer) -> Result<[u32; 4], CardError> {
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
            return Ok([0, 1, 2, 3].map(|n| registers.response[n].get()));
        }
        if status.any_matching_bits_set(STATUS::CMD_TIME_OUT::SET + STATUS::CMD_CRC_FAIL::SET) {
            break;
        }
    }
    Err(CardError::Command(index))
}
