//! Ports: a bus master's access to memory, for devices that the CPU plays. These are the mock devices.
//!
//! Guarantees: a port reaches only buffers that their device was given. It maps them non-cacheable, while no other
//! mapping exists and only then (I1). It drops what the caches hold of them before its first access (I3). What it
//! spends on that is the mock's cost: it is counted here, not in the buffer's [`Effort`](super::Effort).

use crate::addr::{BusAddr, FRAME_SHIFT, FrameRange, VirtAddr};
use crate::dma::exec::{Books, Done, Subject, run};
use crate::dma::master::Master;
use crate::dma::records::{BufferSlot, Kept};
use crate::dma::registry::Dma;
use crate::holder::Holder;
use crate::machine::{Lines, Machine};
use crate::protocol::{Knowledge, Transition};
use crate::vm::attr::MemoryType;
use crate::vm::ledger::{LedgerError, Residue};
use crate::vm::mapped::Mapped;
use core::cell::Cell;
use core::fmt;

/// Why a port cannot reach memory. On a real bus it would be a decode error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortError {
    /// There are no bytes, or they are out of the master's reach.
    Length {
        /// First address.
        at: BusAddr,
        /// Bytes.
        len: u32,
    },
    /// The bytes are not all in one buffer.
    NoBuffer {
        /// First address.
        at: BusAddr,
        /// Bytes.
        len: u32,
    },
    /// The buffer is not the device's now (I4).
    NotGranted {
        /// The buffer.
        frames: FrameRange,
        /// Who holds it.
        holder: Holder,
    },
    /// The port has the buffer mapped already.
    InUse {
        /// The buffer.
        frames: FrameRange,
    },
    /// The ledger refused a second mapping (I1).
    Mapped(LedgerError),
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { at, len } => write!(f, "bus access of {len} bytes at {at} is out of the master's reach"),
            Self::NoBuffer { at, len } => write!(f, "bus access of {len} bytes at {at}: no one buffer holds them"),
            Self::NotGranted { frames, holder } => write!(f, "bus access to {frames}, which is {holder}"),
            Self::InUse { frames } => write!(f, "bus access to {frames}, which the port has open"),
            Self::Mapped(error) => write!(f, "bus access: {error}"),
        }
    }
}

impl core::error::Error for PortError {}

/// The port of one bus master.
#[derive(Debug)]
pub struct Port<M: Machine + 'static> {
    dma: &'static Dma<M>,
    master: Master,
    lines: Cell<Lines>,
}

impl<M: Machine> Port<M> {
    /// Makes the port of `master`.
    ///
    /// # Safety
    ///
    /// The caller plays a device and keeps a device's promise (I4): while a value that [`open`](Self::open) returned
    /// lives, the buffer it is of is not dropped, released or handed back, and a coherent one not accessed otherwise.
    pub const unsafe fn new(dma: &'static Dma<M>, master: Master) -> Self {
        Self { dma, master, lines: Cell::new(Lines { inner: 0, outer: 0 }) }
    }

    /// Returns how many lines the port dropped from the caches before its accesses: the mock's cost.
    pub fn lines(&self) -> Lines {
        self.lines.get()
    }

    /// Opens `len` bytes at bus address `at`, until the value returned is dropped.
    ///
    /// # Errors
    ///
    /// [`PortError::Length`] if there are no bytes, or the master does not reach them. [`PortError::NoBuffer`] if they
    /// are not all in one buffer. [`PortError::NotGranted`] if the buffer is not the device's now (I4).
    /// [`PortError::InUse`] if a port has the buffer open. [`PortError::Mapped`] if the ledger refuses the mapping
    /// (I1).
    #[expect(clippy::missing_panics_doc, reason = "a coherent buffer is mapped for as long as it lives")]
    pub fn open(&self, at: BusAddr, len: u32) -> Result<PortView<M>, PortError> {
        let last = len.checked_sub(1).and_then(|more| at.checked_add(more));
        let (Some(first), Some(last)) = (self.master.phys(at), last.and_then(|last| self.master.phys(last))) else {
            return Err(PortError::Length { at, len });
        };
        let wanted = FrameRange::between(first.raw() >> FRAME_SHIFT, (last.raw() >> FRAME_SHIFT) + 1)
            .ok_or(PortError::Length { at, len })?;
        let mut books = Books::locked(self.dma);
        let state = books.state();
        let found = state.buffers().find(|(_, _, kept)| kept.extent.frames().covers(wanted));
        let Some((slot, record, &Kept { extent, ported, .. })) = found else {
            return Err(PortError::NoBuffer { at, len });
        };
        let (frames, va, (holder, residue)) = (extent.frames(), record.standing.va(), record.standing.get());
        if ported {
            return Err(PortError::InUse { frames });
        }
        let offset = first.raw() - frames.base().raw();
        let own = match holder {
            // A coherent buffer has the one mapping that it may have. The port uses that.
            Holder::Both => {
                state.kept_mut(slot).ported = true;
                None
            }
            Holder::Device => {
                let knows = Knowledge::new(residue);
                let mut passage = Passage { books, slot, frames, mapped: None, knows, lines: Cell::default() };
                run(&mut passage, Transition::OpenPort).map_err(PortError::Mapped)?;
                self.lines.set(self.lines.get() + passage.lines.get());
                passage.mapped
            }
            _ => {
                let mapped = state.ledger.refusal(frames, MemoryType::NonCacheable);
                return Err(mapped.map_or(PortError::NotGranted { frames, holder }, PortError::Mapped));
            }
        };
        let va = own.as_ref().map(Mapped::va).or(va).expect("a coherent buffer is mapped");
        Ok(PortView { dma: self.dma, slot, frames, own, va, offset, len })
    }
}

/// A device's buffer on its way into a port, or out of it.
struct Passage<'d, M: Machine + 'static> {
    books: Books<'d, M>,
    slot: BufferSlot,
    frames: FrameRange,
    mapped: Option<Mapped>,
    knows: Knowledge,
    /// The lines that were dropped on the way.
    lines: Cell<Lines>,
}

impl<M: Machine> Subject<M> for Passage<'_, M> {
    type Refused = LedgerError;

    fn dma(&self) -> &Dma<M> {
        self.books.dma()
    }

    fn knows(&self) -> Knowledge {
        self.knows
    }

    fn learn(&mut self, knows: Knowledge) {
        self.knows = knows;
    }

    /// Maps the buffer for the port. If the window has another image of it, this is not where its own mapping would be,
    /// so a stray pointer of the CPU still faults. It has guards if an image is left for that.
    fn map(&mut self, memory: MemoryType) -> Result<Mapped, LedgerError> {
        let (dma, frames) = (self.books.dma(), self.frames);
        let state = self.books.state();
        let own = state.ledger.image_of(frames);
        let place = state.ledger.place(frames).expect("a buffer's frames");
        let homes = state.images.homes(place.run(), frames);
        let best = [homes.images & !own & !state.ledger.images_near(frames), homes.images & !own, homes.images];
        let images = best.into_iter().find(|&images| images != 0).expect("each frame has a home");
        let va = homes.address(images.trailing_zeros());
        let mapped = dma.map_carved(state, va, place, memory);
        state.kept_mut(self.slot).ported |= mapped.is_ok();
        mapped
    }

    fn unmap(&mut self, mapped: Mapped) {
        let dma = self.books.dma();
        let state = self.books.state();
        let place = state.ledger.place(mapped.frames()).expect("a buffer's frames");
        dma.unmap_carved(state, place, mapped);
    }

    fn take_mapping(&mut self) -> Option<Mapped> {
        self.mapped.take()
    }

    fn keep(&mut self, mapped: Mapped) {
        self.mapped = Some(mapped);
    }

    fn unlock(&mut self) {
        self.books.unlock();
    }

    fn for_each_residue(&self, frames: FrameRange, mut each: impl FnMut(FrameRange, Residue)) {
        each(frames, self.knows.residue);
    }

    fn count(&self, done: Done) {
        if let Done::Dropped(lines) = done {
            self.lines.set(self.lines.get() + lines);
        }
    }
}

/// A buffer that the port has open. Dropping it ends the mapping.
#[derive(Debug)]
pub struct PortView<M: Machine + 'static> {
    dma: &'static Dma<M>,
    slot: BufferSlot,
    frames: FrameRange,
    own: Option<Mapped>,
    va: VirtAddr,
    offset: u32,
    len: u32,
}

impl<M: Machine> PortView<M> {
    fn start(&self) -> *mut u8 {
        self.dma.machine.reach(VirtAddr::new(self.va.raw() + self.offset), self.len)
    }

    /// Returns the bytes that the device reads.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for its whole length while this value lives; the port has it open once (`ported`), and by the
        // contract of `Port::new` nobody else writes it or ends its mapping meanwhile (I4).
        unsafe { core::slice::from_raw_parts(self.start(), self.len as usize) }
    }

    /// Returns the bytes that the device writes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; and `self` is borrowed mutably, so this is the only view.
        unsafe { core::slice::from_raw_parts_mut(self.start(), self.len as usize) }
    }
}

impl<M: Machine> Drop for PortView<M> {
    /// Closes the port. What the device wrote is in memory before its completion is seen.
    fn drop(&mut self) {
        let &mut Self { dma, slot, frames, .. } = self;
        let mapped = self.own.take();
        // Its lines were dropped when it was opened.
        let knows = Knowledge { mapped: mapped.is_some(), ..Knowledge::new(Residue::Nothing) };
        let mut passage = Passage { books: Books::unlocked(dma), slot, frames, mapped, knows, lines: Cell::default() };
        run(&mut passage, Transition::ClosePort).expect("it maps nothing");
        passage.books.state().kept_mut(slot).ported = false;
    }
}
