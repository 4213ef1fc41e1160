//! Pages of a device's stream that the CPU has for a while, and the rest stays the device's.
//!
//! Guarantees: while the CPU has the pages they are mapped, and nothing else of the buffer is (I4). Before it looks,
//! the lines that a device made stale are dropped. Before the device has the pages back, what the CPU wrote is in
//! memory, and no mapping exists (I3). The pages go through the rows of a whole stream: `Look`, `ForDevice`, `Grant`.

use crate::addr::{FRAME_SIZE, FrameRange};
use crate::dma::buffer::direction::{DataDirection, Device, Direction, DirectionError, Yes};
use crate::dma::buffer::raw::Raw;
use crate::dma::buffer::stream::Stream;
use crate::dma::exec::{Done, Subject, run};
use crate::dma::registry::Dma;
use crate::holder::Holder;
use crate::machine::Machine;
use crate::protocol::{Knowledge, Span, Transition};
use crate::vm::attr::MemoryType;
use crate::vm::ledger::LedgerError;
use crate::vm::mapped::Mapped;
use core::fmt;
use core::ops::Range;

/// Why the CPU did not get pages of a device's stream. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PagesError {
    /// The range is not in order, or not inside of the buffer.
    Outside {
        /// The range's start, in bytes.
        start: usize,
        /// The range's end, in bytes.
        end: usize,
        /// The bytes of the buffer.
        bytes: usize,
    },
    /// The range does not begin at a page, or ends neither at a page nor with the buffer.
    NotWholePages {
        /// The range's start, in bytes.
        start: usize,
        /// The range's end, in bytes.
        end: usize,
    },
    /// The direction forbids it.
    Direction(DirectionError),
    /// A port has the buffer mapped.
    Mapped(LedgerError),
}

impl fmt::Display for PagesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside { start, end, bytes } => {
                write!(f, "bytes {start}..{end} are not in a buffer of {bytes} bytes")
            }
            Self::NotWholePages { start, end } => {
                write!(f, "bytes {start}..{end} are no whole pages: they must begin and end at multiples of 4096")
            }
            Self::Direction(error) => write!(f, "{error}"),
            Self::Mapped(error) => write!(f, "pages of a device's buffer: {error}"),
        }
    }
}

impl core::error::Error for PagesError {}

impl<M: Machine, D: Direction> Stream<M, D, Device> {
    /// Lends whole pages of the buffer to the CPU while `work` runs. The rest stays the device's, which goes on. The
    /// range is in bytes. It begins at a multiple of 4 KiB, and ends at one or with the buffer.
    ///
    /// This is for one large buffer that a device fills page by page. Packets that are smaller than a page come from a
    /// [`StreamPool`](crate::dma::StreamPool).
    ///
    /// ```
    /// use carveout::dma::FromDevice;
    /// # use carveout::{addr::PhysAddr, setup::Setup};
    /// # let setup = Setup::new(1);
    /// # let dsp = setup.master("dsp");
    /// let mut ring = setup.dma.alloc(&dsp, 16 << 12, 1)?.into_stream::<FromDevice>().for_device();
    /// setup.fake.device_write(PhysAddr::new(ring.bus().raw() + (3 << 12)), b"period 3");
    ///
    /// // SAFETY: the device is past page 3, and comes to it again after the page is released (I4).
    /// let first = unsafe { ring.with_pages(3 << 12..4 << 12, |period| period[0]) }?;
    /// assert_eq!(first, b'p');
    /// # drop(unsafe { ring.for_cpu() });
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`PagesError::Outside`] and [`PagesError::NotWholePages`] if the range is wrong. [`PagesError::Mapped`] if a
    /// port has the buffer open.
    ///
    /// # Safety
    ///
    /// I4: the device has finished with these pages, and said so, as for [`for_cpu`](Self::for_cpu). It does not access
    /// them until this call returns.
    pub unsafe fn with_pages<R>(
        &mut self,
        range: Range<usize>,
        work: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, PagesError> {
        let pages = Pages::open(&self.raw, self.direction(), &range)?;
        let bytes = pages.pointer();
        // SAFETY: the pages are mapped write-back until `pages` is dropped; no device accesses them (what the caller
        // promises, I4); zeroed (I5).
        let bytes = unsafe { core::slice::from_raw_parts(bytes, range.end - range.start) };
        Ok(work(bytes))
    }
}

impl<M: Machine, D: Direction<CpuWrites = Yes>> Stream<M, D, Device> {
    /// Lends whole pages to the CPU as [`with_pages`](Self::with_pages) does, writable.
    ///
    /// # Errors
    ///
    /// As [`with_pages`](Self::with_pages).
    ///
    /// # Safety
    ///
    /// As [`with_pages`](Self::with_pages).
    pub unsafe fn with_pages_mut<R>(
        &mut self,
        range: Range<usize>,
        work: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, PagesError> {
        // SAFETY: as this method demands.
        unsafe { self.written(range, work) }
    }
}

impl<M: Machine> Stream<M, DataDirection, Device> {
    /// Lends whole pages to the CPU as [`with_pages`](Self::with_pages) does, writable if the CPU writes in this
    /// direction.
    ///
    /// # Errors
    ///
    /// [`PagesError::Direction`] if the CPU does not write. Otherwise as [`with_pages`](Self::with_pages).
    ///
    /// # Safety
    ///
    /// As [`with_pages`](Self::with_pages).
    pub unsafe fn try_with_pages_mut<R>(
        &mut self,
        range: Range<usize>,
        work: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, PagesError> {
        self.direction.check_writable().map_err(PagesError::Direction)?;
        // SAFETY: as this method demands.
        unsafe { self.written(range, work) }
    }
}

impl<M: Machine, D: Direction> Stream<M, D, Device> {
    /// Lends whole pages to the CPU, which writes.
    ///
    /// # Safety
    ///
    /// As [`with_pages`](Self::with_pages).
    unsafe fn written<R>(&mut self, range: Range<usize>, work: impl FnOnce(&mut [u8]) -> R) -> Result<R, PagesError> {
        let mut pages = Pages::open(&self.raw, self.direction(), &range)?;
        let len = range.end - range.start;
        pages.knows = pages.knows.writable(Span { start: 0, end: len as u32 });
        let bytes = pages.pointer();
        // SAFETY: as in `with_pages`; and the stream is borrowed mutably, so this is the only view.
        let bytes = unsafe { core::slice::from_raw_parts_mut(bytes, len) };
        Ok(work(bytes))
    }
}

/// Pages of a device's stream, which the CPU has. Dropping it gives them back to the device. Spans count from the first
/// of them on.
struct Pages<'r, M: Machine + 'static> {
    raw: &'r Raw<M>,
    /// Which page of the buffer is the first of them.
    first: u32,
    frames: FrameRange,
    mapped: Option<Mapped>,
    knows: Knowledge,
}

impl<'r, M: Machine> Pages<'r, M> {
    fn open(raw: &'r Raw<M>, direction: DataDirection, range: &Range<usize>) -> Result<Self, PagesError> {
        let &Range { start, end } = range;
        let Some(span) = raw.inside(range) else {
            return Err(PagesError::Outside { start, end, bytes: raw.bytes as usize });
        };
        let ends = span.end.is_multiple_of(FRAME_SIZE) || span.end == raw.bytes;
        let whole = span.start.is_multiple_of(FRAME_SIZE) && ends && !span.is_empty();
        let (first, count) = (span.start / FRAME_SIZE, (span.end - span.start).div_ceil(FRAME_SIZE));
        let frames = raw.frames().part(first, count);
        let (true, Some(frames)) = (whole, frames) else { return Err(PagesError::NotWholePages { start, end }) };
        let mut knows = Knowledge::new(raw.knows.get().residue);
        if direction.device_writes() {
            knows = knows.device_wrote(Span { start: 0, end: span.end - span.start });
        }
        let mut pages = Self { raw, first, frames, mapped: None, knows };
        run(&mut pages, Transition::Look).map_err(PagesError::Mapped)?;
        Ok(pages)
    }

    fn pointer(&self) -> *mut u8 {
        let mapped = self.mapped.as_ref().expect("mapped until it is dropped");
        self.raw.dma.machine.reach(mapped.va(), mapped.bytes())
    }
}

impl<M: Machine> Subject<M> for Pages<'_, M> {
    type Refused = LedgerError;

    fn dma(&self) -> &Dma<M> {
        self.raw.dma
    }

    fn knows(&self) -> Knowledge {
        self.knows
    }

    fn learn(&mut self, knows: Knowledge) {
        self.knows = knows;
    }

    /// Maps them where they are whenever the whole buffer is mapped.
    fn map(&mut self, memory: MemoryType) -> Result<Mapped, LedgerError> {
        self.raw.map_pages(self.first, self.frames, memory)
    }

    fn unmap(&mut self, mapped: Mapped) {
        self.raw.unmap_pages(mapped);
    }

    fn take_mapping(&mut self) -> Option<Mapped> {
        self.mapped.take()
    }

    fn keep(&mut self, mapped: Mapped) {
        self.mapped = Some(mapped);
    }

    fn count(&self, done: Done) {
        self.raw.count(done);
    }

    /// The device has had the rest of the buffer all the time. From now on the caches may hold lines of these pages.
    fn hold(&mut self, holder: Holder) {
        let mut whole = self.raw.knows.get();
        whole.residue = whole.residue.max(self.knows.residue);
        self.raw.knows.set(whole);
        self.raw.standing.set(holder, whole.residue);
        self.raw.transitions.set(self.raw.transitions.get() + 1);
    }
}

impl<M: Machine> Drop for Pages<'_, M> {
    fn drop(&mut self) {
        if self.mapped.is_some() {
            run(self, Transition::ForDevice).expect("it maps nothing");
            run(self, Transition::Grant).expect("it maps nothing");
        }
    }
}
