//! The state of the memory and of the network, as JSON: what the page draws.
//!
//! Guarantees: it names areas, devices, borrowers and counters, and holds no byte of any buffer. Lists have a fixed
//! most; what is left out is counted. No lock is held while text is written.

use super::load::Tally;
use super::server::Counts;
use super::text::{Quoted, Text};
use crate::drivers::net::Traffic;
use crate::kernel::state::Kernel;
use carveout::addr::FRAME_SHIFT;
use carveout::dma::{AreaId, FaultPlace, PageKind};
use carveout::holder::Holder;
use core::fmt::{self, Write};

/// Bytes of the longest state.
pub(super) const STATE_BYTES: usize = 15 << 10;
/// The most areas that are told of.
const AREAS: usize = 4;
/// The most buffers, borrowers and refusals that are told of.
const HOLDERS: usize = 40;
const BORROWERS: usize = 8;
const REFUSALS: usize = 8;
/// Cells of an area's map.
const CELLS: u64 = 128;

/// What the state tells of beside the memory.
pub(super) struct Beside<'a> {
    /// Frames received and frames sent.
    pub(super) traffic: (Traffic, Traffic),
    /// The server's counts.
    pub(super) counts: &'a Counts,
    /// What became of the devices' requests.
    pub(super) tally: Tally,
}

/// Writes commas between the items of a list.
struct List<'t> {
    to: &'t mut Text,
    result: fmt::Result,
    any: bool,
}

impl<'t> List<'t> {
    const fn new(to: &'t mut Text) -> Self {
        Self { to, result: Ok(()), any: false }
    }

    fn item(&mut self, item: fmt::Arguments<'_>) {
        let comma = if self.any { "," } else { "" };
        self.any = true;
        if self.result.is_ok() {
            self.result = write!(self.to, "{comma}{item}");
        }
    }
}

/// Writes the state.
///
/// # Errors
///
/// [`fmt::Error`] if it does not fit.
pub(super) fn write(kernel: &'static Kernel, beside: &Beside<'_>, to: &mut Text) -> fmt::Result {
    write!(to, "{{\"board\":{},", Quoted(kernel.info.model().unwrap_or("nameless")))?;
    write!(to, "\"millis\":{},\"heap_free\":{},\"areas\":[", kernel.micros() / 1000, kernel.heap_free())?;
    for (place, plan) in kernel.layout.areas().iter().enumerate().take(AREAS) {
        let Some(area) = kernel.dma.area_at(place) else { continue };
        let (free, largest) = kernel.dma.free_bytes(area);
        let lent = kernel.dma.lent(area);
        write!(to, "{}{{\"name\":{},", if place > 0 { "," } else { "" }, Quoted(plan.name))?;
        write!(to, "\"bytes\":{},\"free\":{free},\"largest\":{largest},", plan.bytes())?;
        write!(to, "\"lent\":{},\"reserve\":{},", bytes(lent.lent), bytes(lent.reserve))?;
        write!(to, "\"lendable\":{},\"cells\":\"", plan.lendable)?;
        cells(kernel, place, to)?;
        to.write_str("\",\"borrowers\":[")?;
        borrowers(kernel, area, to)?;
        to.write_str("]}")?;
    }
    to.write_str("],\"holders\":[")?;
    let left_out = holders(kernel, to)?;
    let refusals = kernel.layout.refusals();
    write!(to, "],\"more_holders\":{left_out},\"refused_at_boot\":{},\"refusals\":[", refusals.iter().count())?;
    let mut list = List::new(to);
    for refusal in refusals.iter().take(REFUSALS) {
        list.item(format_args!("{}", Quoted(refusal)));
    }
    list.result?;
    let stats = kernel.dma.stats();
    write!(to, "],\"dma\":{{\"allocations\":{},\"zeroed\":{},", stats.allocations, stats.zeroed)?;
    write!(to, "\"map_changes\":{},\"quarantined\":{},", stats.map_changes, stats.quarantined)?;
    write!(to, "\"cleaned\":{},", stats.cleaned.inner + stats.cleaned.outer)?;
    write!(to, "\"invalidated\":{}}},", stats.invalidated.inner + stats.invalidated.outer)?;
    let Tally { allocated, failures, hog: (hog, why) } = beside.tally;
    write!(to, "\"load\":{{\"allocated\":{allocated},\"failures\":{failures},\"hog_refused\":{hog},\"hog_why\":")?;
    match why {
        Some(why) => write!(to, "{}}},", Quoted(why))?,
        None => to.write_str("null},")?,
    }
    let (received, sent) = beside.traffic;
    for (name, Traffic { frames, bytes }) in [("received", received), ("sent", sent)] {
        write!(to, "\"{name}\":{{\"frames\":{frames},\"bytes\":{bytes}}},")?;
    }
    write!(to, "\"http\":{{{}}}}}", beside.counts.json())
}

const fn bytes(frames: u32) -> u64 {
    (frames as u64) << FRAME_SHIFT
}

/// Writes a letter for each cell of an area: what lies at the frame in the middle of the cell. `.` is free, `L` lent,
/// `C` the CPU's, `D` a device's, `S` both's, `Q` in quarantine, `?` not known at this moment.
fn cells(kernel: &'static Kernel, place: usize, to: &mut Text) -> fmt::Result {
    let ranges = &kernel.layout.areas()[place].ranges;
    let frames: u64 = ranges.iter().map(|range| u64::from(range.count())).sum();
    for cell in 0..CELLS {
        let mut at = (2 * cell + 1) * frames / (2 * CELLS);
        let frame = ranges.iter().find_map(|range| {
            let inside = at < u64::from(range.count());
            let frame = inside.then(|| range.iter().nth(at as usize)).flatten();
            at = at.saturating_sub(range.count().into());
            frame
        });
        to.write_char(match frame.and_then(|frame| kernel.dma.place_of_frame(frame)) {
            Some(FaultPlace::FreeFrame(_)) => '.',
            Some(FaultPlace::Lent(..)) => 'L',
            Some(FaultPlace::Buffer(record)) => letter(record.holder),
            _ => '?',
        })?;
    }
    Ok(())
}

const fn letter(holder: Holder) -> char {
    match holder {
        Holder::Cpu => 'C',
        Holder::Device => 'D',
        Holder::Quarantine => 'Q',
        _ => 'S',
    }
}

fn borrowers(kernel: &'static Kernel, area: AreaId, to: &mut Text) -> fmt::Result {
    let mut list = List::new(to);
    let mut place = 0;
    kernel.dma.for_each_borrower(area, |(name, kind, stats)| {
        place += 1;
        if place <= BORROWERS {
            let kind = if kind == PageKind::Movable { "movable" } else { "discardable" };
            list.item(format_args!(
                "{{\"name\":{},\"kind\":\"{kind}\",\"in_area\":{},\"lent\":{},\"recalled\":{},\"discarded\":{},\"moved\":{}}}",
                Quoted(name),
                stats.in_area,
                stats.lent,
                stats.recalled,
                stats.discarded,
                stats.moved
            ));
        }
    });
    list.result
}

/// Writes the buffers. Returns how many were left out.
fn holders(kernel: &'static Kernel, to: &mut Text) -> Result<usize, fmt::Error> {
    let mut list = List::new(to);
    let mut found = 0;
    kernel.dma.holders().for_each(|record| {
        found += 1;
        if found <= HOLDERS {
            list.item(format_args!(
                "{{\"owner\":{},\"holder\":{},\"at\":{},\"bytes\":{},\"frames\":{},\"born\":{}}}",
                Quoted(record.owner),
                Quoted(record.holder),
                record.frames.base().raw(),
                record.bytes,
                record.frames.count(),
                record.born
            ));
        }
    });
    list.result?;
    Ok(found.saturating_sub(HOLDERS))
}
