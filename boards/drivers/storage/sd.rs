//! How an SD memory card is found and selected, whatever controller it is behind (SD Physical Layer Simplified
//! Specification, 4.2 and 4.3).
//!
//! Guarantees: a card that is selected said how many blocks it has, and was told their length. No card is an answer, and
//! a card that does not answer is an error.
//!
//! This is ours: the crate embedded-sdmmc knows cards behind SPI only. It serves for the files, see `fat.rs`.

use super::SECTOR;
use carveout::addr::Bytes;
use core::fmt;

/// The commands in use. `OP_COND` is one that `APP` announces.
pub(super) mod command {
    pub(crate) const IDLE: u32 = 0;
    pub(crate) const ALL_SEND_CID: u32 = 2;
    pub(crate) const SEND_ADDRESS: u32 = 3;
    pub(crate) const SELECT: u32 = 7;
    pub(crate) const IF_COND: u32 = 8;
    pub(crate) const SEND_CSD: u32 = 9;
    pub(crate) const SEND_STATUS: u32 = 13;
    pub(crate) const BLOCK_LENGTH: u32 = 16;
    pub(crate) const READ_BLOCK: u32 = 17;
    pub(crate) const READ_BLOCKS: u32 = 18;
    pub(crate) const WRITE_BLOCK: u32 = 24;
    pub(crate) const WRITE_BLOCKS: u32 = 25;
    pub(crate) const OP_COND: u32 = 41;
    pub(crate) const APP: u32 = 55;
}

/// 2.7 to 3.6 V, and a pattern for the card to repeat.
const IF_COND: u32 = 0x1aa;
/// High capacity is understood; 2.7 to 3.6 V.
const OP_COND: u32 = 0x40ff_8000;
/// Of the answer: powered up, and of high capacity.
const READY: u32 = 1 << 31;
const HIGH_CAPACITY: u32 = 1 << 30;
/// Times a card is asked whether it has powered up, which takes it a second at most.
const POWER_UP: u32 = 10_000;

/// Of the status that most commands are answered with: what the card says was wrong (4.10.1).
pub(super) const STATUS_ERRORS: u32 = 0xfdff_e008;
/// Of the status: it takes data, and it waits for commands, selected.
const READY_FOR_DATA: u32 = 1 << 8;
const STATE: u32 = 0xf << 9;
const TRANSFER: u32 = 4 << 9;

/// What a command is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    None,
    Short,
    /// Without a checksum that the controller knows.
    Unchecked,
    Long,
}

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

/// A card that was selected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Selected {
    /// How many blocks of [`SECTOR`] bytes it has.
    pub(super) blocks: u32,
    /// What a block's number is multiplied by in commands.
    pub(super) unit: u32,
    /// What it is called by in commands.
    pub(super) address: u32,
}

/// Wakes a card up and selects it. `give` gives it a command and returns the answer's words, the first first. A short
/// answer is the first word. Returns `None` if there is no card.
pub(super) fn select(
    give: impl Fn(u32, u32, Answer) -> Result<[u32; 4], CardError>,
) -> Result<Option<Selected>, CardError> {
    give(command::IDLE, 0, Answer::None)?;
    // A card of before version 2 does not know this one, but then neither may there be a card.
    let version_2 = give(command::IF_COND, IF_COND, Answer::Short).is_ok();
    if give(command::APP, 0, Answer::Short).is_err() {
        return Ok(None);
    }
    let condition = power_up(&give, if version_2 { OP_COND } else { OP_COND & !HIGH_CAPACITY })?;
    let unit = if condition & HIGH_CAPACITY != 0 { 1 } else { SECTOR as u32 };
    give(command::ALL_SEND_CID, 0, Answer::Long)?;
    let address = give(command::SEND_ADDRESS, 0, Answer::Short)?[0] & 0xffff_0000;
    let blocks = blocks(give(command::SEND_CSD, address, Answer::Long)?)?;
    give(command::SELECT, address, Answer::Short)?;
    give(command::BLOCK_LENGTH, SECTOR as u32, Answer::Short)?;
    Ok(Some(Selected { blocks, unit, address }))
}

fn power_up(give: &impl Fn(u32, u32, Answer) -> Result<[u32; 4], CardError>, condition: u32) -> Result<u32, CardError> {
    for _ in 0..POWER_UP {
        give(command::APP, 0, Answer::Short)?;
        let [answer, ..] = give(command::OP_COND, condition, Answer::Unchecked)?;
        if answer & READY != 0 {
            return Ok(answer);
        }
    }
    Err(CardError::PowerUp)
}

/// Returns whether a card of this status has finished what it was told, and takes the next command.
pub(super) const fn is_ready(status: u32) -> bool {
    status & READY_FOR_DATA != 0 && status & STATE == TRANSFER
}

/// Blocks on the card that describes itself so, bits 127 to 0 of its CSD (5.3).
fn blocks(csd: [u32; 4]) -> Result<u32, CardError> {
    let bits = csd.iter().fold(0u128, |bits, &word| bits << 32 | u128::from(word));
    let field = |high: u32, low: u32| (bits >> low) as u32 & ((1 << (high - low + 1)) - 1);
    match field(127, 126) {
        // (C_SIZE + 1) * 2^(C_SIZE_MULT + 2) of 2^READ_BL_LEN bytes, 512 to 2048.
        0 if (9..=11).contains(&field(83, 80)) => {
            Ok((field(73, 62) + 1) << (field(49, 47) + 2 + field(83, 80) - SECTOR.ilog2()))
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

    /// What a card of 1 GiB of before version 2 answers, or one of 8 GiB, by the commands it is given.
    fn answer(large: bool, index: u32) -> Result<[u32; 4], CardError> {
        Ok(match index {
            command::IF_COND if !large => return Err(CardError::Command(index)),
            command::OP_COND if large => [READY | HIGH_CAPACITY, 0, 0, 0],
            command::OP_COND => [READY, 0, 0, 0],
            command::SEND_ADDRESS => [0x4567_0500, 0, 0, 0],
            command::SEND_CSD if large => [0x400e_0032, 0x5b59_0000, 0x3fff_7f80, 0x0a40_0001],
            command::SEND_CSD => [0x002e_0032, 0x5b59_83ff, 0xffff_ff80, 0x1640_0001],
            _ => [0; 4],
        })
    }

    #[test]
    fn a_card_is_selected_by_what_it_is() {
        let asked = core::cell::RefCell::new(std::vec::Vec::new());
        let card = |large| {
            asked.borrow_mut().clear();
            select(|index, argument, _| {
                asked.borrow_mut().push((index, argument));
                answer(large, index)
            })
        };
        assert_eq!(card(true), Ok(Some(Selected { blocks: 1 << 24, unit: 1, address: 0x4567_0000 })));
        assert!(asked.borrow().contains(&(command::OP_COND, OP_COND)));
        assert!(asked.borrow().contains(&(command::SELECT, 0x4567_0000)));
        assert_eq!(card(false), Ok(Some(Selected { blocks: 4096 << 9, unit: 512, address: 0x4567_0000 })));
        assert!(asked.borrow().contains(&(command::OP_COND, OP_COND & !HIGH_CAPACITY)), "an old one is not asked more");
        assert_eq!(asked.borrow().last(), Some(&(command::BLOCK_LENGTH, 512)));
    }

    #[test]
    fn no_card_is_an_answer_and_a_silent_one_an_error() {
        let silent_from = |first: u32| {
            select(move |index, _, _| if index >= first { Err(CardError::Command(index)) } else { answer(true, index) })
        };
        assert_eq!(silent_from(8), Ok(None));
        assert_eq!(
            select(|index, _, _| if index == 9 { Err(CardError::Command(9)) } else { answer(true, index) }),
            Err(CardError::Command(9))
        );
        let never_ready =
            select(|index, _, _| if index == command::OP_COND { Ok([0; 4]) } else { answer(true, index) });
        assert_eq!(never_ready, Err(CardError::PowerUp));
    }

    #[test]
    fn a_card_is_ready_when_it_waits_for_commands() {
        assert!(is_ready(0x900) && !is_ready(0x800) && !is_ready(0xf00) && !is_ready(0xb00));
    }

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
