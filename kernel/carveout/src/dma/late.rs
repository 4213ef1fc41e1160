//! Late carve-out, and the way back: an area that the kernel maps and uses as its own RAM until it is taken.
//!
//! The area is declared when the [`Dma`] is made ([`CarveOut::late`](crate::carve_out::CarveOut::late)). So window,
//! ledger and indexes know its frames from the start, and taking it takes nothing from the heap. Any area can be given
//! to the kernel, and be taken again, as often as wanted.
//!
//! Guarantees, by the rows `Take` and `GiveBack` of the [`protocol`](crate::protocol):
//!
//! - **I1, I2** No frame is given out before the kernel's last translation of it is gone, from all tables and from
//!   every core's TLB. The kernel ends its mappings, for it alone writes its tables. This module then reads the tables,
//!   and refuses the area if they still name a frame of it. The whole TLB is invalidated, for nobody knows at which
//!   addresses the kernel had the frames.
//! - **I3** Whatever lines the kernel left, dirty ones too, are noted as residue. Each frame's first owner drops them,
//!   inner before outer, through its own non-cacheable mapping. So taking an area costs no cache work, however large it
//!   is. Nothing could refill a line meanwhile: nothing maps the frames.
//! - **I3, I5** What the kernel gets back is zeros in memory. No line of it is left, for the frames were mapped
//!   non-cacheable or not at all since their lines were dropped. No mapping of this crate is left either, in tables or
//!   TLBs.
//! - **I6** What is lent of the area is recalled when it is given back, as for a device.
//! - While the area is the kernel's, nothing here touches a frame of it: no allocation, no loan, no idle work. The
//!   audit takes its frames for ordinary RAM.

use crate::addr::{Frame, FrameRange, PhysAddr, VirtAddr};
use crate::cma::area::Whose;
use crate::dma::exec::{Books, Done, Subject, run};
use crate::dma::master::AreaId;
use crate::dma::registry::{Book, BufferRecord, Dma, State};
use crate::machine::Machine;
use crate::protocol::{Knowledge, Transition};
use crate::vm::absence::{self, Obstacle, Tables};
use crate::vm::attr::MemoryType;
use crate::vm::ledger::Residue;
use crate::vm::mapped::Mapped;
use core::convert::Infallible;
use core::fmt;

/// Why an area was not taken from the kernel. It is the kernel's as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakeError<E> {
    /// The area is another `Dma`'s.
    NoArea,
    /// The area is not the kernel's: it was taken before, or it is on its way.
    NotKernels,
    /// The kernel did not end its mappings.
    Unmap(E),
    /// A table still maps a frame of the area (I2).
    StillMapped {
        /// The address at which it is mapped.
        va: VirtAddr,
        /// The frame, by its first name.
        frame: Frame,
    },
    /// A table stands where the machine knows no memory, so nobody can say what it maps.
    UnknownTable {
        /// The table's address.
        at: PhysAddr,
    },
}

impl<E: fmt::Display> fmt::Display for TakeError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "area not taken: ")?;
        match self {
            Self::NoArea => write!(f, "it is another `Dma`'s"),
            Self::NotKernels => write!(f, "it is not the kernel's now; an area that was given back can be taken"),
            Self::Unmap(error) => error.fmt(f),
            Self::StillMapped { va, frame } => {
                write!(f, "{va} still maps its frame {} (I2); end every mapping of the area", frame.base())
            }
            Self::UnknownTable { at } => {
                write!(
                    f,
                    "a table at {at}, where no known memory is, may map it (I2); keep tables where they can be read"
                )
            }
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for TakeError<E> {}

impl<E> From<Obstacle> for TakeError<E> {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::Mapped { va, frame } => Self::StillMapped { va, frame },
            Obstacle::UnknownTable { at } => Self::UnknownTable { at },
        }
    }
}

/// Why an area was not given back to the kernel. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GiveBackError {
    /// The area is another `Dma`'s.
    NoArea,
    /// The area is not ours: it is the kernel's, or it is on its way.
    NotOurs,
    /// A buffer has frames of it, or a device may still use a buffer that was lost.
    Held(BufferRecord),
    /// A contract promises frames of it (I7).
    Promised {
        /// The frames of an idle slot.
        frames: FrameRange,
    },
    /// A page of it is open just now: to a closure, or to another core's copy.
    Open {
        /// The frame.
        frame: Frame,
    },
}

impl fmt::Display for GiveBackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "area not given back: ")?;
        match self {
            Self::NoArea => write!(f, "it is another `Dma`'s"),
            Self::NotOurs => write!(f, "it is the kernel's, or on its way"),
            Self::Held(record) => write!(f, "it has the {record}"),
            Self::Promised { frames } => write!(f, "a contract promises {frames} of it (I7); end the contract first"),
            Self::Open { frame } => write!(f, "its lent frame {} is open just now; try again", frame.base()),
        }
    }
}

impl core::error::Error for GiveBackError {}

impl<M: Machine> Dma<M> {
    /// Takes an area from the kernel, so that its frames can be allocated and lent. `unmap` is called with each run of
    /// the area, and ends the kernel's mappings of it: it writes the descriptors, and makes that visible to walks
    /// ([`Mmu::publish`](crate::machine::Mmu::publish)). It need not invalidate a TLB. Where a section or a large page
    /// holds more than the run, `unmap` splits it, by break-before-make (ARM ARM B3.10.1). `roots` are the first-level
    /// tables that TTBR0 may hold beside the one that it holds on this core.
    ///
    /// What the kernel wrote there is lost. Every buffer that is allocated afterwards reads as zeros.
    ///
    /// This reads all tables and invalidates the TLB of every core. It is not for interrupt handlers.
    ///
    /// ```
    /// use carveout::dma::AllocError;
    /// use carveout::setup::Setup;
    /// use std::convert::Infallible;
    ///
    /// let setup = Setup::new(1);
    /// let (dma, camera) = (setup.dma, setup.master("camera"));
    /// let area = dma.area("test").unwrap();
    /// dma.give_back_area(area)?; // from here on it is the kernel's RAM like any other
    /// assert_eq!(dma.alloc(&camera, 4096, 1).unwrap_err(), AllocError::NotTaken);
    ///
    /// // SAFETY: this kernel has mapped none of it, and uses none of it from here on (I2).
    /// unsafe { dma.take_area(area, &[], |_| Ok::<_, Infallible>(())) }.unwrap();
    /// assert!(dma.alloc(&camera, 4096, 1).is_ok());
    /// # Ok::<(), carveout::dma::GiveBackError>(())
    /// ```
    ///
    /// # Safety
    ///
    /// I2 holds for each run from the moment `unmap` returns for it, until [`give_back_area`](Self::give_back_area)
    /// returns without an error, or this returns with one. That means:
    ///
    /// - Nothing of the kernel is in these frames, neither data nor a table, and no device uses them.
    /// - No translation of these frames exists in any table, through any physical alias, and nothing but this crate
    ///   will make one. Every first-level table that any core may hold in TTBR0 is this core's or one of `roots`. TTBR1
    ///   holds one table on every core.
    /// - No other [`CarveOut`](crate::carve_out::CarveOut) holds any of these frames, by whichever of their physical
    ///   names.
    ///
    /// # Errors
    ///
    /// [`TakeError::NoArea`] and [`TakeError::NotKernels`] if the area cannot be taken: `unmap` is not called then.
    /// [`TakeError::Unmap`] if `unmap` fails. [`TakeError::StillMapped`] and [`TakeError::UnknownTable`] if a table
    /// still maps a frame, or might. All of the area is the kernel's then, as before, and it may map again what it
    /// unmapped.
    #[expect(clippy::missing_panics_doc, reason = "nobody maps a run while its area is on its way")]
    pub unsafe fn take_area<E>(
        &self,
        area: AreaId,
        roots: &[PhysAddr],
        mut unmap: impl FnMut(FrameRange) -> Result<(), E>,
    ) -> Result<(), TakeError<E>> {
        let mut books = Books::locked(self);
        let memory = books.state().area_mut(area).ok_or(TakeError::NoArea)?;
        if !memory.begin_taking() {
            return Err(TakeError::NotKernels);
        }
        let runs = memory.runs();
        let (mut taken, mut count) = (Ok(()), 0);
        for &frames in &runs {
            let knows = Knowledge { mapped: true, ..Knowledge::new(Residue::Dirty) };
            let mut handover = Handover { books, frames, mapped: None, knows, roots, unmap: &mut unmap };
            taken = run(&mut handover, Transition::Take);
            books = handover.books;
            if taken.is_err() {
                break;
            }
            count += 1;
        }
        let State { areas, ledger, .. } = books.state();
        if taken.is_ok() {
            areas[area.0].end_taking();
        } else {
            for &frames in &runs[..count] {
                ledger.yield_to_kernel(frames).ok().expect("a run that was just taken");
            }
            areas[area.0].leave_to_kernel();
        }
        taken
    }

    /// Gives an area to the kernel, which may map its frames from now on, and use them as any RAM. They hold zeros.
    /// What is lent of them is recalled. A reserve that was set stays set, for the time when the area is taken again.
    ///
    /// This zeroes all frames that idle time has not zeroed. It is not for interrupt handlers.
    ///
    /// # Errors
    ///
    /// [`GiveBackError::NoArea`] and [`GiveBackError::NotOurs`] if the area is not there to be given.
    /// [`GiveBackError::Held`], [`GiveBackError::Promised`] and [`GiveBackError::Open`] if somebody has a frame of it.
    #[expect(clippy::missing_panics_doc, reason = "as for `take_area`")]
    pub fn give_back_area(&self, area: AreaId) -> Result<(), GiveBackError> {
        // While this core has the turn, nobody has frames in hand that no record tells of.
        let turn = self.work.wait();
        self.empty_shelves();
        let mut books = Books::locked(self);
        let memory = books.state().area_mut(area).ok_or(GiveBackError::NoArea)?;
        let Some(moves) = memory.begin_leaving() else { return Err(keeper(books.state(), area)) };
        let runs = memory.runs();
        for &frames in &runs {
            self.evict_from(books.state(), frames);
        }
        books.unlock();
        drop(turn);
        for &frames in &runs {
            if moves {
                self.move_out(area, frames);
            }
            let knows = Knowledge::new(books.state().ledger.residue(frames));
            let unmap = &mut |_| Ok::<_, Infallible>(());
            let mut handover = Handover { books, frames, mapped: None, knows, roots: &[], unmap };
            run(&mut handover, Transition::GiveBack).ok().expect("a row without a step that is refused");
            books = handover.books;
        }
        books.state().areas[area.0].leave_to_kernel();
        Ok(())
    }
}

/// Says why an area cannot be given back.
#[cold]
fn keeper(state: &State, area: AreaId) -> GiveBackError {
    let memory = &state.areas[area.0];
    if memory.whose() != Whose::Ours {
        return GiveBackError::NotOurs;
    }
    if let Some((_, record, kept)) = state.buffers().find(|(_, _, kept)| kept.area == area) {
        return GiveBackError::Held(record.of(kept));
    }
    let here = |frames: &FrameRange| memory.ranges().any(|run| run.covers(*frames));
    let promised = state.contracts.iter().flat_map(Book::idle).find(here);
    match (promised, memory.open_frame()) {
        (Some(frames), _) => GiveBackError::Promised { frames },
        (None, Some(frame)) => GiveBackError::Open { frame },
        (None, None) => unreachable!("frames are a buffer's, a contract's, lent or idle"),
    }
}

/// A run of an area on its way from the kernel, or to it.
struct Handover<'d, 'u, M: Machine + 'static, F> {
    books: Books<'d, M>,
    frames: FrameRange,
    /// This crate's mapping of it.
    mapped: Option<Mapped>,
    knows: Knowledge,
    roots: &'u [PhysAddr],
    unmap: &'u mut F,
}

impl<M: Machine, E, F: FnMut(FrameRange) -> Result<(), E>> Subject<M> for Handover<'_, '_, M, F> {
    type Refused = TakeError<E>;

    fn dma(&self) -> &Dma<M> {
        self.books.dma()
    }

    fn knows(&self) -> Knowledge {
        self.knows
    }

    fn learn(&mut self, knows: Knowledge) {
        self.knows = knows;
    }

    /// Maps the run in the first image, which has all of it.
    fn map(&mut self, memory: MemoryType) -> Result<Mapped, TakeError<E>> {
        let (dma, frames) = (self.books.dma(), self.frames);
        let state = self.books.state();
        let place = state.ledger.place(frames).expect("a run of the area");
        let va = state.images.homes(place.run(), frames).address(0);
        let mapped = dma.map_carved(state, va, place, memory);
        Ok(mapped.ok().expect("a run of which nothing is mapped"))
    }

    fn unmap(&mut self, mapped: Mapped) {
        let dma = self.books.dma();
        let state = self.books.state();
        let place = state.ledger.place(mapped.frames()).expect("a run of the area");
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

    fn for_each_residue(&self, frames: FrameRange, each: impl FnMut(FrameRange, Residue)) {
        self.books.dma().for_each_residue(frames, each);
    }

    fn count(&self, done: Done) {
        done.add_to(&self.books.dma().counters, 0);
    }

    fn mark(&mut self, residue: Residue) {
        let frames = self.frames;
        self.books.state().ledger.set_residue(frames, residue);
    }

    fn end_kernels(&mut self) -> Result<(), TakeError<E>> {
        let (machine, frames) = (self.books.dma().machine, self.frames);
        let aliases = self.books.state().ledger.aliases().clone();
        self.books.unlock();
        (self.unmap)(frames).map_err(TakeError::Unmap)?;
        let tables = Tables { mmu: machine, roots: self.roots, aliases: &aliases };
        let absent = absence::find(&tables, frames);
        // Also if the area is refused: then the kernel may map the run again as it likes.
        machine.invalidate_tlb_all();
        absent?;
        self.books.state().ledger.take_from_kernel(frames);
        Ok(())
    }

    fn yield_to_kernel(&mut self) {
        let frames = self.frames;
        self.books.state().ledger.yield_to_kernel(frames).ok().expect("a run of which nothing is mapped");
    }
}
