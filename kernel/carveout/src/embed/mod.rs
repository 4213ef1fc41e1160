//! Embedding: how a kernel that this crate did not boot gives it memory, addresses and tables.
//!
//! Guarantees: [`Builder::build`] looks at what the kernel gives, and at the registers of the core that it runs on,
//! before a table is written. A refusal names what was found, what is needed and what helps. Nothing here
//! panics on bad input.
//!
//! A kernel has four things to give:
//!
//! - its machine: an [`Mmu`](crate::machine::Mmu) and a [`Cache`](crate::machine::Cache), or `Armv7a` of the crate
//!   `carveout-armv7a`;
//! - its memory: [`CarveOut`]s. Those that it maps itself at first are [late](CarveOut::late);
//! - addresses and tables: a [`Window`], as large as [`Needs`] says;
//! - a global allocator with room for the bytes that [`Needs`] says.
//!
//! ```
//! use carveout::addr::{FrameRange, PhysAddr};
//! use carveout::carve_out::CarveOut;
//! use carveout::dma::Master;
//! use carveout::embed::{Builder, Needs, Roots, Window};
//! use carveout::vm::range::VirtRange;
//! # use carveout::fake::Fake;
//! # const L1: PhysAddr = PhysAddr::new(0x6000_4000);
//! # let machine: &'static Fake = Box::leak(Box::new(Fake::new(PhysAddr::new(0x6000_0000), 8 << 20, L1, 1)));
//!
//! // SAFETY: no table of this kernel maps these frames, from the instruction that turned the MMU on (I2).
//! let camera = unsafe { CarveOut::assume("camera", &[FrameRange::within(0x6020_0000, 4 << 20)], true) };
//! let carved = [camera];
//! let needs = Needs::of(&carved, Builder::RECORDS);
//! assert_eq!((needs.sections, needs.table_bytes()), (16, 16 << 10));
//!
//! // SAFETY: nothing else uses these addresses, or these 16 KiB of tables.
//! let window = unsafe { Window::assume(VirtRange::new(0xc000_0000, 16), Roots::One, PhysAddr::new(0x6001_0000)) };
//! let dma = Builder::new(machine, carved, window).build()?;
//! # let dma: &'static carveout::dma::Dma<Fake> = Box::leak(Box::new(dma));
//!
//! let device = Master::new("camera", dma.area("camera"));
//! let buffer = dma.alloc(&device, 640 * 480 * 2, 1)?;
//! # drop(buffer);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod core;
mod error;
mod needs;

pub use self::core::CoreError;
pub use crate::vm::tables::{Roots, Window, WindowError};
pub use error::EmbedError;
pub use needs::Needs;

use crate::addr::FrameRange;
use crate::carve_out::CarveOut;
use crate::dma::{AfterFree, BuiltBy, Dma};
use crate::heap::filled;
use crate::machine::Machine;
use crate::vm::alias::Aliases;
use crate::vm::desc::L2_TABLE_SIZE;
use crate::vm::ledger::{Cell, Ledger};
use crate::vm::registers::first_error;
use crate::vm::space::Region;
use crate::vm::walk::Ttbr;
use crate::vm::window::{IMAGES, image_sections};
use ::core::iter;

/// Takes over what a kernel gives, once everything was found to be right.
#[derive(Debug)]
pub struct Builder<'r, M: 'static, C> {
    machine: &'static M,
    carved: C,
    window: Window<'r>,
    aliases: Aliases,
    records: usize,
    sparing: bool,
    after_free: AfterFree,
}

impl Builder<'_, (), ()> {
    /// The buffers for which there are records from the start, where a kernel says nothing else.
    pub const RECORDS: usize = 16;
    /// The most buffers that can exist at a time.
    pub const MOST_RECORDS: usize = needs::MOST_RECORDS;
}

impl<'r, M: Machine, C: AsRef<[CarveOut]> + IntoIterator<Item = CarveOut>> Builder<'r, M, C> {
    /// Begins with a machine, carve-outs in whatever list, and the window in which their buffers will be mapped.
    pub fn new(machine: &'static M, carved: C, window: Window<'r>) -> Self {
        let records = Builder::RECORDS;
        Self {
            machine,
            carved,
            window,
            aliases: Aliases::default(),
            records,
            sparing: false,
            after_free: AfterFree::Unmap,
        }
    }

    /// Tells of the board's physical aliases. By them refusals and the audit know second names of a frame. I1 does not
    /// rest on them, for what a [`CarveOut`] proves holds by every name.
    #[must_use]
    pub fn aliases(self, aliases: Aliases) -> Self {
        Self { aliases, ..self }
    }

    /// Makes records for so many buffers from the start, 1 to [`MOST_RECORDS`](Builder::MOST_RECORDS). Further ones are
    /// taken from the heap when few are left, by an allocation that finds interrupts not masked: so in no handler, and
    /// under no lock of [`sync`](crate::sync). A kernel whose allocations all run with interrupts masked says here how
    /// many buffers it has at a time.
    #[must_use]
    pub fn records(self, records: usize) -> Self {
        Self { records, ..self }
    }

    /// Permits a window that is too small for a guard on either side of every buffer. No allocation is refused for want
    /// of a guard. If a buffer's neighbours leave it no place with guards, it lies right beside one of them, and
    /// [`DmaStats::unguarded`](crate::dma::DmaStats::unguarded) counts it.
    #[must_use]
    pub fn sparing_guards(self) -> Self {
        Self { sparing: true, ..self }
    }

    /// Says what becomes of the mappings of coherent buffers that are freed. If nothing is said, they end. A kernel can
    /// say otherwise at any time later ([`Dma::set_after_free`]).
    #[must_use]
    pub fn after_free(self, after_free: AfterFree) -> Self {
        Self { after_free, ..self }
    }

    /// Takes everything over. There is one [`Dma`] for a machine. The first buffer can be made at once.
    ///
    /// # Errors
    ///
    /// [`EmbedError`] says what was found, what is needed, and what helps. No table was written. What was taken of the
    /// heap is lost.
    #[cold]
    pub fn build(self) -> Result<Dma<M>, EmbedError> {
        let Self { machine, carved, window, aliases, records, sparing, after_free } = self;
        let registers = machine.registers();
        let ttbr = registers.ttbr_of(window.range().start());
        first_error(&registers, ttbr).map_err(EmbedError::Register)?;
        if !(1..=Builder::MOST_RECORDS).contains(&records) {
            return Err(EmbedError::Records { given: records });
        }
        let areas = carved.as_ref().len();
        if areas > CarveOut::MAX {
            return Err(EmbedError::TooManyAreas { given: areas });
        }
        let mut ledger = ledger(carved.as_ref(), aliases)?;
        for &run in carved.as_ref().iter().filter(|carved| carved.is_late()).flat_map(CarveOut::ranges) {
            ledger.yield_to_kernel(run)?;
        }
        let (given, one) = (window.range().sections(), image_sections(ledger.ranges()));
        let (needed, least) = (Needs::with_lanes(one, IMAGES), Needs::with_lanes(one, 1));
        if given < if sparing { least } else { needed } {
            return Err(EmbedError::TooFewSections { given, needed: if sparing { least } else { needed }, least });
        }
        // What more it has would be of no use.
        let window = window.first(needed);
        window.check(machine)?;
        let root = registers.table(ttbr);
        let roots = window.roots().of(&root).iter().map(|&root| (root, registers.table_bytes(ttbr)));
        for (at, bytes) in iter::once((window.tables(), given * L2_TABLE_SIZE)).chain(roots) {
            let table = FrameRange::covering(at.raw().into(), bytes.into());
            if let Some(frames) = ledger.ranges().find(|range| range.overlaps(table)) {
                return Err(EmbedError::TableCarved { at, frames });
            }
            if let Some(alias) = ledger.aliases().find(table) {
                return Err(EmbedError::TableAlias { at, alias });
            }
        }
        let any_root = ttbr == Ttbr::Ttbr1 || matches!(window.roots(), Roots::Each(_));
        let by = BuiltBy { registers, any_root };
        Dma::assemble(machine, carved.into_iter(), ledger, records, by, after_free, || {
            Ok(Region::one_each(machine, &window)?)
        })
    }
}

/// Makes the ledger of all carved runs.
fn ledger(carved: &[CarveOut], aliases: Aliases) -> Result<Ledger<'static>, EmbedError> {
    let runs = carved.iter().flat_map(|carved| carved.ranges().iter().copied());
    let cells = Ledger::cells_needed(runs.clone());
    let cells = filled(cells, Cell::default())?.leak();
    Ok(Ledger::new(runs, aliases, cells)?)
}
