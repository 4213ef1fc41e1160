//! What is served: bytes that lie where no CPU can reach them.
//!
//! Guarantees: a [`Content`] is in device-only memory (I4). The CPU sees its bytes piece by piece, in a stream that the
//! DMA controller filled.

use core::fmt;

use carveout::addr::BusAddr;
use carveout::dma::{AllocError, Cpu, DeviceOnly, FromDevice, Master, Stream, ToDevice};
use carveout_armv7a::mmu::Armv7a;

use crate::board::LINE;
use crate::memory::Memory;
use crate::pl330::{BURST, CopyError, Engine};

/// Bytes that go through a stream at once.
pub const PIECE: u32 = 64 << 10;

/// Why there is no content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreError {
    /// There is no memory for it.
    Alloc(AllocError),
    /// The DMA controller did not copy.
    Copy(CopyError),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alloc(error) => write!(f, "{error}"),
            Self::Copy(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for StoreError {}

impl From<AllocError> for StoreError {
    fn from(error: AllocError) -> Self {
        Self::Alloc(error)
    }
}

impl From<CopyError> for StoreError {
    fn from(error: CopyError) -> Self {
        Self::Copy(error)
    }
}

/// Bytes in device-only memory.
pub struct Content {
    /// It is there until the drop.
    memory: Option<DeviceOnly<Armv7a>>,
    bytes: u32,
}

impl Content {
    /// Returns the number of bytes.
    pub const fn bytes(&self) -> u32 {
        self.bytes
    }

    fn memory(&mut self) -> &mut DeviceOnly<Armv7a> {
        self.memory.as_mut().expect("until the drop")
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            // SAFETY: only the DMA controller was told of it, and a copy has ended when `Engine::copy` returns (I4).
            drop(unsafe { memory.release() });
        }
    }
}

/// Makes contents, and fetches them piece by piece.
pub struct Store {
    memory: Memory,
    master: Master,
    engine: Engine,
    /// What the CPU writes and the engine reads, and the other way round. Each is there, except during a copy.
    written: Option<Stream<Armv7a, ToDevice, Cpu>>,
    fetched: Option<Stream<Armv7a, FromDevice, Cpu>>,
    /// What `fetched` has: the bus address of the piece.
    current: Option<BusAddr>,
    /// Whether the CPU has looked at `fetched`: from then on lines of it may be cached.
    looked: bool,
    /// Lines of one cache level that the protocol has cleaned for it, and invalidated.
    pub cleaned: u64,
    /// See `cleaned`.
    pub invalidated: u64,
}

impl Store {
    /// Makes a store that uses this engine.
    pub fn new(memory: Memory, engine: Engine) -> Self {
        let master = Master::new("store", Some(memory.area));
        let alloc = || memory.dma.alloc(&master, PIECE, 1).unwrap_or_else(|error| panic!("{error}"));
        let (written, fetched) = (Some(alloc().into_stream()), Some(alloc().into_stream()));
        Self { memory, master, engine, written, fetched, current: None, looked: false, cleaned: 0, invalidated: 0 }
    }

    /// Makes a content of `bytes`: the words of xorshift32 from seed 1 on, little-endian. It is written to a stream
    /// piece by piece, copied from there to device-only memory, and from there to other device-only memory.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if there is no memory for it twice, or if a copy fails.
    pub fn make(&mut self, bytes: u32) -> Result<Content, StoreError> {
        self.current = None;
        let mut first = self.reserve(bytes)?;
        let mut second = self.reserve(bytes)?;
        let mut random = 1u32;
        let all = bytes.next_multiple_of(BURST);
        for at in (0..all).step_by(PIECE as usize) {
            let size = PIECE.min(all - at);
            let mut piece = self.written.take().expect("no copy goes on");
            for word in piece.part_mut(0..size as usize).expect("a piece at most").as_chunks_mut().0 {
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                *word = random.to_le_bytes();
            }
            let piece = piece.for_device();
            self.cleaned += lines(size);
            let copied = self.engine.copy(&piece, 0, first.memory(), at, size);
            // SAFETY: a copy has ended when `Engine::copy` returns (I4).
            self.written = Some(unsafe { piece.for_cpu() });
            copied?;
        }
        self.engine.copy(first.memory(), 0, second.memory(), 0, all)?;
        Ok(second)
    }

    /// Takes memory that no CPU reaches.
    fn reserve(&mut self, bytes: u32) -> Result<Content, StoreError> {
        // Whole bursts, for no copy goes past the bytes that were asked for.
        let whole = bytes.div_ceil(BURST).saturating_mul(BURST);
        let memory = self.memory.dma.alloc(&self.master, whole, 1)?.into_device();
        Ok(Content { memory: Some(memory), bytes })
    }

    /// Takes back what the engine and the CPU share.
    pub fn stop(self) {
        self.engine.stop();
    }

    /// Returns bytes of a content from `at` on, as many as its piece has. Fetches the piece, unless it is the last one
    /// that was fetched.
    ///
    /// # Errors
    ///
    /// [`StoreError::Copy`] if the copy fails.
    pub fn read(&mut self, content: &mut Content, at: u32) -> Result<&[u8], StoreError> {
        let start = at - at % PIECE;
        let wanted = PIECE.min(content.bytes - start);
        let place = content.memory().bus().checked_add(start);
        if self.current != place {
            self.current = None;
            let size = wanted.next_multiple_of(BURST);
            let mut piece = self.fetched.take().expect("no copy goes on").for_device();
            let copied = self.engine.copy(content.memory(), start, &mut piece, 0, size);
            // Of a buffer that the CPU never saw, no line is cached.
            self.invalidated += if self.looked { lines(size) } else { 0 };
            self.looked = true;
            // SAFETY: a copy has ended when `Engine::copy` returns, and it wrote so much (I4).
            self.fetched = Some(unsafe { piece.for_cpu_part(0..size as usize) });
            copied?;
            self.current = place;
        }
        let piece = self.fetched.as_ref().expect("no copy goes on").bytes();
        Ok(&piece[(at - start) as usize..wanted as usize])
    }
}

/// Returns the lines of so many bytes from the start of a buffer.
fn lines(bytes: u32) -> u64 {
    (bytes as usize).div_ceil(LINE) as u64
}
