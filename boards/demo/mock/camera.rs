//! The mock camera: fills a ring of buffers with frames.
//!
//! Guarantees: frames are numbered without gaps from the start. Each frame goes to the buffer that was queued first. If
//! no buffer is queued, the frame is lost and counted as an overrun. Buffers come back in the order in which they were
//! queued, each once. A buffer comes back with the number and the checksum of the frame in it, or with the reason why
//! it has no frame. After a stop every buffer comes back. The checksum is computed from what the sensor sent, not from
//! memory. So if a reader of the buffer finds another checksum, it has not read what the device wrote.

use core::fmt;

use carveout::addr::BusAddr;
use tock_registers::{
    interfaces::{Readable, Writeable},
    register_bitfields,
};

use super::{BusMaster, Register, Window};

/// Buffers that can be queued at once.
pub const RING: usize = 8;

const ID: u32 = 0x4341_0001;

register_bitfields! [u32,
    CTRL [STREAM OFFSET(0) NUMBITS(1) []],
    SLOT [
        /// The owner of the slot.
        STATE OFFSET(0) NUMBITS(2) [Free = 0, Queued = 1, Done = 2],
        /// With Done: 0 for a frame, or the reason why there is none.
        ERROR OFFSET(8) NUMBITS(8) []
    ],
];

/// Returns the FNV-1a hash of 32 bits. The camera computes it over a frame's bytes, and the CPU over the bytes that it
/// reads. A single changed byte always changes it.
pub fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().copied().fold(BASIS, fnv)
}

const BASIS: u32 = 0x811c_9dc5;

fn fnv(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
}

/// Returns the frame's word `index`, little endian. A frame whose length is not a multiple of four ends within a word.
fn word(seed: u32, frame: u32, index: u32) -> u32 {
    // Only odd factors and shifts are used. So for a given seed and frame no two words are equal.
    let mixed = (index ^ seed).wrapping_add(frame.wrapping_mul(0x9e37_79b1)).wrapping_mul(0x85eb_ca6b);
    mixed ^ mixed >> 15
}

/// Why a buffer came back without a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// It has fewer bytes than a frame.
    TooSmall,
    /// The bus refused the buffer.
    Bus,
    /// The stream was stopped first.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooSmall => "the buffer is smaller than a frame",
            Self::Bus => "bus error",
            Self::Stopped => "the stream was stopped",
        })
    }
}

impl Error {
    const fn code(self) -> u32 {
        match self {
            Self::TooSmall => 1,
            Self::Bus => 2,
            Self::Stopped => 3,
        }
    }

    const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::TooSmall,
            2 => Self::Bus,
            _ => Self::Stopped,
        }
    }
}

/// A frame in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its number since the start, 0 first; lost frames count.
    pub number: u32,
    /// [`checksum`] of its bytes.
    pub checksum: u32,
}

/// A buffer that is the CPU's again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The buffer, as it was queued.
    pub buffer: Window,
    /// What is in it.
    pub frame: Result<Frame, Error>,
}

/// All slots of the ring hold buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {RING} slots of the camera's ring are taken")
    }
}

/// A descriptor of the ring.
struct Slot {
    state: Register<SLOT::Register>,
    at: Register,
    len: Register,
    number: Register,
    checksum: Register,
}

/// The register file.
pub struct Registers {
    id: Register,
    ctrl: Register<CTRL::Register>,
    seed: Register,
    frame_bytes: Register,
    overruns: Register,
    slots: [Slot; RING],
}

impl Registers {
    /// Makes the register file as it is after reset.
    #[expect(clippy::new_without_default, reason = "made in statics")]
    pub const fn new() -> Self {
        Self {
            id: Register::new(),
            ctrl: Register::new(),
            seed: Register::new(),
            frame_bytes: Register::new(),
            overruns: Register::new(),
            slots: [const {
                Slot {
                    state: Register::new(),
                    at: Register::new(),
                    len: Register::new(),
                    number: Register::new(),
                    checksum: Register::new(),
                }
            }; RING],
        }
    }
}

/// The CPU's end.
pub struct Driver<'r> {
    registers: &'r Registers,
    /// The slot for the next buffer.
    head: usize,
    /// The slot that comes back next.
    tail: usize,
}

impl<'r> Driver<'r> {
    /// Returns the driver of a camera that was just powered up, or `None` if the ID register is not a camera's.
    pub fn new(registers: &'r Registers) -> Option<Self> {
        (registers.id.get() == ID).then_some(Self { registers, head: 0, tail: 0 })
    }

    /// Starts a stream of frames of `frame_bytes` bytes. Their contents follow from `seed` and the frame's number. The
    /// next frame is frame 0. Has no effect on a stream that runs.
    pub fn start(&mut self, seed: u32, frame_bytes: u32) {
        let registers = self.registers;
        if !registers.ctrl.is_set(CTRL::STREAM) {
            registers.seed.set(seed);
            registers.frame_bytes.set(frame_bytes);
            registers.ctrl.write(CTRL::STREAM::SET);
        }
    }

    /// Ends the stream. The buffers still queued come back as [`Error::Stopped`].
    pub fn stop(&mut self) {
        self.registers.ctrl.write(CTRL::STREAM::CLEAR);
    }

    /// Hands a buffer over. It is the device's until [`finish`](Self::finish) returns it.
    ///
    /// # Errors
    ///
    /// [`Full`] if the ring has no free slot.
    pub fn queue(&mut self, buffer: Window) -> Result<(), Full> {
        let slot = &self.registers.slots[self.head];
        if !slot.state.matches_all(SLOT::STATE::Free) {
            return Err(Full);
        }
        slot.at.set(buffer.at.raw());
        slot.len.set(buffer.len);
        slot.state.write(SLOT::STATE::Queued);
        self.head = (self.head + 1) % RING;
        Ok(())
    }

    /// Returns the oldest buffer that came back, or `None` if none did. Several may come back with one interrupt.
    pub fn finish(&mut self) -> Option<Completion> {
        let slot = &self.registers.slots[self.tail];
        let state = slot.state.extract();
        if !state.matches_all(SLOT::STATE::Done) {
            return None;
        }
        let frame = match state.read(SLOT::ERROR) {
            0 => Ok(Frame { number: slot.number.get(), checksum: slot.checksum.get() }),
            code => Err(Error::from_code(code)),
        };
        let buffer = Window { at: BusAddr::new(slot.at.get()), len: slot.len.get() };
        slot.state.write(SLOT::STATE::Free);
        self.tail = (self.tail + 1) % RING;
        Some(Completion { buffer, frame })
    }

    /// Returns the number of frames since the start that were lost because no buffer was queued.
    pub fn overruns(&self) -> u32 {
        self.registers.overruns.get()
    }
}

/// The device's end.
pub struct Hardware<'r> {
    registers: &'r Registers,
    /// The slot to be filled next.
    next: usize,
    /// The number of the next frame, if a stream runs.
    frame: Option<u32>,
}

impl<'r> Hardware<'r> {
    /// Powers the camera up.
    pub fn new(registers: &'r Registers) -> Self {
        registers.id.set(ID);
        Self { registers, next: 0, frame: None }
    }

    /// Lets one frame's time pass, and asks for the interrupt if a buffer came back.
    pub fn run(&mut self, port: &mut impl BusMaster, irq: &mut impl FnMut()) {
        let registers = self.registers;
        let mut returned = false;
        if registers.ctrl.is_set(CTRL::STREAM) {
            let number = self.frame.unwrap_or_else(|| {
                registers.overruns.set(0);
                0
            });
            self.frame = Some(number.wrapping_add(1));
            if let Some(slot) = self.take() {
                complete(slot, expose(registers, slot, number, port));
                returned = true;
            } else {
                registers.overruns.set(registers.overruns.get().wrapping_add(1));
            }
        } else {
            self.frame = None;
            while let Some(slot) = self.take() {
                complete(slot, Err(Error::Stopped));
                returned = true;
            }
        }
        if returned {
            irq();
        }
    }

    /// Returns the buffer that was queued first.
    fn take(&mut self) -> Option<&'r Slot> {
        let slot = &self.registers.slots[self.next];
        if !slot.state.matches_all(SLOT::STATE::Queued) {
            return None;
        }
        self.next = (self.next + 1) % RING;
        Some(slot)
    }
}

/// Sends frame `number` to the slot's buffer.
fn expose(registers: &Registers, slot: &Slot, number: u32, port: &mut impl BusMaster) -> Result<Frame, Error> {
    let (seed, len) = (registers.seed.get(), registers.frame_bytes.get());
    if slot.len.get() < len {
        return Err(Error::TooSmall);
    }
    let window = Window { at: BusAddr::new(slot.at.get()), len };
    let checksum = port.write(window, |to| {
        let mut hash = BASIS;
        for (index, bytes) in to.chunks_mut(4).enumerate() {
            let word = word(seed, number, index as u32).to_le_bytes();
            let word = &word[..bytes.len()];
            bytes.copy_from_slice(word);
            hash = word.iter().copied().fold(hash, fnv);
        }
        hash
    });
    checksum.map(|checksum| Frame { number, checksum }).map_err(|_| Error::Bus)
}

/// Gives the slot back.
fn complete(slot: &Slot, frame: Result<Frame, Error>) {
    let error = match frame {
        Ok(frame) => {
            slot.number.set(frame.number);
            slot.checksum.set(frame.checksum);
            0
        }
        Err(error) => error.code(),
    };
    slot.state.write(SLOT::STATE::Done + SLOT::ERROR.val(error));
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, format, vec, vec::Vec};

    use proptest::prelude::*;

    use super::{
        super::testing::{Bus, Grant},
        *,
    };

    const FRAME: u32 = 37;

    fn pattern(seed: u32, frame: u32) -> Vec<u8> {
        (0..FRAME.div_ceil(4)).flat_map(|i| word(seed, frame, i).to_le_bytes()).take(FRAME as usize).collect()
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Queue(Kind),
        Frame,
        Finish,
        Stop,
        Start,
    }

    #[derive(Clone, Copy, Debug)]
    enum Kind {
        Good,
        Small,
        Ungranted,
    }

    fn step() -> impl Strategy<Value = Step> {
        let kind = prop_oneof![8 => Just(Kind::Good), 1 => Just(Kind::Small), 1 => Just(Kind::Ungranted)];
        prop_oneof![
            10 => kind.prop_map(Step::Queue),
            10 => Just(Step::Frame),
            8 => Just(Step::Finish),
            1 => Just(Step::Stop),
            3 => Just(Step::Start),
        ]
    }

    proptest! {
        #[test]
        fn equals_a_queue(steps in prop::collection::vec(step(), 0..200), seed: u32) {
            let registers = Registers::new();
            prop_assert!(Driver::new(&registers).is_none(), "a device without power has no ID");
            let mut hardware = Hardware::new(&registers);
            let mut driver = Driver::new(&registers).unwrap();
            let mut bus = Bus::default();
            // The model: buffers at the device, completions not yet taken, the stream's next frame, frames lost.
            let mut queued: VecDeque<(Window, Kind)> = VecDeque::new();
            let mut done: VecDeque<Completion> = VecDeque::new();
            let (mut streaming, mut next, mut lost) = (false, None, 0);
            for (i, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Queue(kind) => {
                        let at = 0x1000 * (i as u32 + 1);
                        let buffer = match kind {
                            Kind::Good => bus.grant(at, Grant::Write, &[0; FRAME as usize + 3]),
                            Kind::Small => bus.grant(at, Grant::Write, &[0; FRAME as usize - 1]),
                            Kind::Ungranted => bus.grant(at, Grant::Read, &[0; FRAME as usize]),
                        };
                        let full = queued.len() + done.len() == RING;
                        prop_assert_eq!(driver.queue(buffer), if full { Err(Full) } else { Ok(()) });
                        if !full {
                            queued.push_back((buffer, kind));
                        }
                    }
                    Step::Frame => {
                        let before = done.len();
                        if streaming {
                            let number = next.unwrap_or(0);
                            lost = if next.is_none() { 0 } else { lost };
                            next = Some(number + 1);
                            if let Some((buffer, kind)) = queued.pop_front() {
                                let frame = match kind {
                                    Kind::Good => Ok(Frame { number, checksum: checksum(&pattern(seed, number)) }),
                                    Kind::Small => Err(Error::TooSmall),
                                    Kind::Ungranted => Err(Error::Bus),
                                };
                                done.push_back(Completion { buffer, frame });
                            } else {
                                lost += 1;
                            }
                        } else {
                            next = None;
                            done.extend(queued.drain(..).map(|q| Completion { buffer: q.0, frame: Err(Error::Stopped) }));
                        }
                        let mut interrupts = 0;
                        hardware.run(&mut bus, &mut || interrupts += 1);
                        prop_assert_eq!(interrupts, u32::from(done.len() > before));
                        prop_assert_eq!(driver.overruns(), lost);
                    }
                    Step::Finish => {
                        let completion = driver.finish();
                        prop_assert_eq!(completion, done.pop_front());
                        if let Some(Completion { buffer, frame: Ok(frame) }) = completion {
                            let (written, rest) = bus.bytes(buffer).split_at(FRAME as usize);
                            prop_assert_eq!(written, &pattern(seed, frame.number)[..]);
                            prop_assert_eq!(checksum(written), frame.checksum);
                            prop_assert_eq!(rest, &[0; 3]);
                        }
                    }
                    Step::Stop => {
                        driver.stop();
                        streaming = false;
                    }
                    Step::Start => {
                        driver.start(seed, FRAME);
                        streaming = true;
                    }
                }
            }
        }

        #[test]
        fn a_changed_byte_shows(mut bytes in prop::collection::vec(any::<u8>(), 1..200), at: prop::sample::Index, by in 1..=255u8) {
            let before = checksum(&bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            prop_assert_ne!(checksum(&bytes), before);
        }
    }

    #[test]
    fn the_checksum_is_fnv_1a() {
        assert_eq!(checksum(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn frames_differ() {
        let mut frames: Vec<_> = (0..64).map(|n| pattern(1, n)).chain([pattern(2, 0)]).collect();
        frames.sort();
        frames.dedup();
        assert_eq!(frames.len(), 65);
    }

    #[test]
    fn each_error_has_its_line() {
        let lines: Vec<_> = [Error::TooSmall, Error::Bus, Error::Stopped].map(|e| format!("{e}")).into();
        assert_eq!(lines, vec!["the buffer is smaller than a frame", "bus error", "the stream was stopped"]);
        assert_eq!(format!("{Full}"), "all 8 slots of the camera's ring are taken");
    }
}
