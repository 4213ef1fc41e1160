//! What a kernel must have ready for its carve-outs.

use crate::addr::FrameRange;
use crate::carve_out::CarveOut;
use crate::cma::Area;
use crate::dma::BookSizes;
use crate::vm::desc::L2_TABLE_SIZE;
use crate::vm::ledger::{Cell, Ledger};
use crate::vm::window::{IMAGES, Images, image_sections};

/// What carve-outs need of addresses, tables and heap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Needs {
    /// The sections of 1 MiB that the window has if every buffer is to have a guard on either side, for ever. Three
    /// images of the carve-outs are in them ([`window`](crate::vm::window)), and one section for lent frames.
    pub sections: u32,
    /// The fewest sections that the window can have: one image, and the section for lent frames.
    pub least_sections: u32,
    /// The bytes that are asked of the heap from the start. Nothing is given back, and what the heap itself keeps of a
    /// block is not counted.
    pub heap_bytes: usize,
    /// The blocks in which they are asked for. None is aligned to more than 8 bytes.
    pub heap_blocks: usize,
}

/// The largest number of records that a kernel can ask for.
pub(super) const MOST_RECORDS: usize = BookSizes::MOST_RECORDS;

impl Needs {
    /// The sections of the window that are for lent frames, and for frames that idle time prepares.
    pub const LANES: u32 = BookSizes::LANES;

    /// The bytes that each buffer takes of the heap, when more exist at a time than there were records for from the
    /// start. They are asked for in blocks of 64 records, and kept.
    pub const RECORD_BYTES: usize = BookSizes::RECORD[0] + BookSizes::RECORD[1] + BookSizes::RECORD[2];

    /// Returns what these carve-outs need, with records for so many buffers from the start.
    pub fn of(carved: &[CarveOut], records: usize) -> Self {
        let runs = || carved.iter().flat_map(|carved| carved.ranges().iter().copied());
        let one = image_sections(runs());
        let sections = Self::with_lanes(one, IMAGES);
        let lists = [
            Ledger::cells_needed(runs()) * size_of::<Cell>(),
            runs().count() * Ledger::RUN_BYTES,
            runs().count() * Images::RUN_BYTES,
            carved.len() * size_of::<Area>(),
            sections as usize * size_of::<u16>(),
        ];
        let frames = runs().map(FrameRange::count).fold(0, u32::saturating_add);
        let by_frames = BookSizes::by_frames(records, frames);
        let records = BookSizes::RECORD.map(|bytes| records.saturating_mul(bytes));
        let of_areas = carved.iter().flat_map(|carved| [carved.ranges().len() * Area::RUN_BYTES, Area::KINDS_BYTES]);
        let indexes = runs().map(Area::index_bytes).chain(of_areas);
        let blocks = || {
            lists
                .into_iter()
                .chain(BookSizes::SPARE)
                .chain(by_frames)
                .chain(records)
                .chain(indexes.clone())
                .filter(|&bytes| bytes > 0)
        };
        let heap_bytes = blocks().fold(0, usize::saturating_add);
        Self { sections, least_sections: Self::with_lanes(one, 1), heap_bytes, heap_blocks: blocks().count() }
    }

    /// Returns the sections for so many images, and for the lanes.
    pub(super) const fn with_lanes(one: u32, images: u32) -> u32 {
        one.saturating_mul(images).saturating_add(Self::LANES)
    }

    /// Returns the bytes of second-level tables that [`sections`](Self::sections) take: 1 KiB for each.
    pub const fn table_bytes(&self) -> u32 {
        self.sections.saturating_mul(L2_TABLE_SIZE)
    }
}
