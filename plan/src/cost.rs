//! What an area costs: recalls, books, addresses; and what it leaves to be lent.
//!
//! Guarantees: recalls are by the formula of docs/src/loans.md, books and window by `carveout`'s own `Needs`.

use carveout::addr::FrameRange;
use carveout::carve_out::CarveOut;
use carveout::dma::SPARES;
use carveout::embed::Needs;

use crate::problem::Problem;
use crate::solve::{Packing, held, running};

/// Instructions of the promises of docs/src/loans.md: F, for an area of so many blocks, and a page's.
const RECALL: u64 = 4000;
const RECALL_BLOCK: u64 = 90;
const CACHED: u64 = 400;
const MOVED: u64 = 1000;
/// Frames of a block.
const BLOCK: u64 = 32;

/// What an area leaves to be lent, in frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToLend {
    /// While the use cases run that hold most. These are their numbers.
    pub least: (u32, Vec<usize>),
    /// While nothing runs.
    pub most: u32,
}

/// Returns what an area leaves to be lent, or `None` if it is never lent.
pub fn to_lend(problem: &Problem, packing: &Packing) -> Option<ToLend> {
    if !problem.areas[packing.area].lendable {
        return None;
    }
    let all: u32 = packing.runs.iter().map(|run| run.end - run.start).sum();
    let left = |cases: Vec<usize>| (all.saturating_sub(held(problem, packing.area, &cases)), cases);
    let least = running(problem).into_iter().map(left).min_by_key(|left| left.0);
    Some(ToLend { least: least.unwrap_or((all, Vec::new())), most: all })
}

/// The dearest recall for a buffer of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recall {
    /// Frames of the largest buffer.
    pub frames: u32,
    /// Of those, pages that are copied elsewhere, at most.
    pub moved: u32,
    /// Instructions promised.
    pub instructions: u64,
}

/// Returns the dearest recall, by the loans that the file asks for. Returns `None` if the area lends nothing.
pub fn recall(problem: &Problem, packing: &Packing) -> Option<Recall> {
    let loans = || problem.loans.iter().filter(|loan| loan.area == packing.area);
    let frames = packing.slots.iter().map(|(set, _)| problem.sets[*set].frames()).max()?;
    loans().next()?;
    let movable: u32 = loans().filter(|loan| loan.movable).map(|loan| loan.pages).sum();
    let lent: u32 = loans().map(|loan| loan.pages).sum();
    let moved = movable.min(frames);
    let forgotten = (lent - movable).min(frames - moved);
    let all: u64 = packing.runs.iter().map(|run| u64::from(run.end - run.start)).sum();
    let search = RECALL + RECALL_BLOCK * all.div_ceil(BLOCK);
    let instructions = search + MOVED * u64::from(moved) + CACHED * u64::from(forgotten);
    Some(Recall { frames, moved, instructions })
}

/// Returns the frames of ordinary memory that movable loans bring to an area's refuge.
pub fn refuge(problem: &Problem, packing: &Packing) -> u32 {
    let movable = problem.loans.iter().filter(|loan| loan.area == packing.area && loan.movable);
    let pages: u32 = movable.map(|loan| loan.pages).sum();
    if pages == 0 { 0 } else { pages + SPARES }
}

/// Returns what the kernel must have ready for these areas, with a record for each slot.
pub fn needs(problem: &Problem, packings: &[Packing]) -> Needs {
    let carved: Vec<CarveOut> = packings
        .iter()
        .map(|packing| {
            let runs: Vec<_> = packing.runs.iter().filter_map(|run| FrameRange::between(run.start, run.end)).collect();
            // What a carve-out needs does not depend on whose its frames are at first.
            CarveOut::late("plan", &runs, problem.areas[packing.area].lendable)
        })
        .collect();
    let slots = packings.iter().flat_map(|packing| &packing.slots).map(|(_, at)| at.len()).sum();
    Needs::of(&carved, slots)
}
