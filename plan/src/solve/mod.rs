//! Places: the smallest areas, and a slot for every buffer.
//!
//! Guarantees: slots of sets that may be held at one time are disjoint. Each slot lies in its area and in its device's
//! reach, is aligned on the bus, and crosses no boundary. An area that is said to be the smallest is: no arrangement of
//! its slots from its base on is shorter. Where the search was given up, the plan says how far it may be from that.
//! The same input gives the same plan.
//!
//! - `shape`: where a buffer may lie, and the lowest place of one beside others;
//! - `clique`: sets that must all lie apart, whose sum no area can undercut;
//! - `greedy`: arrangements by an order of the sets, the best of many orders;
//! - `exact`: all arrangements that could be shorter, as far as a budget of steps goes;
//! - `relax`: what would make an impossible set of wishes possible.
//!
//! The search is our own. pumpkin-solver 0.5 would do it too, but brings 111 crates and minutes of building to
//! everybody who runs the tests. `plan/tests/brute_force.rs` compares with all arrangements of small problems.

mod clique;
mod exact;
mod greedy;
mod relax;
mod shape;

use std::ops::Range;

use self::shape::{Layer, Shape};
use crate::errors::Result;
use crate::problem::{Problem, SECTION, address, bytes, frames};

pub use self::clique::maximal as maximal_cliques;

/// The bases that are tried from the end of a run of free memory down.
const TRIES: u32 = 16;

/// An area with its slots.
#[derive(Clone, Debug)]
pub struct Packing {
    /// The area's number.
    pub area: usize,
    /// Its runs of frames: one, unless they are the tree's.
    pub runs: Vec<Range<u32>>,
    /// The frames from its start on that the slots need, and the loans that must always be there.
    pub needed: u32,
    /// The frames that no arrangement can undercut, for some sets must lie apart.
    pub bound: u32,
    /// The sets whose buffers alone need that.
    pub bound_sets: Vec<usize>,
    /// Whether no arrangement from this base on is shorter.
    pub proven: bool,
    /// The frames of all buffers together, as if nothing were shared.
    pub sum: u32,
    /// For each set that lies here, the first frame of each slot.
    pub slots: Vec<(usize, Vec<u32>)>,
}

/// How hard to try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effort {
    /// A few orders of the sets.
    Quick,
    /// Many orders, and then all arrangements, as far as the budgets go.
    Full,
}

/// Finds places for all areas.
///
/// # Errors
///
/// A fault if an area has no place: the constraint that is in the way, and changes that would help.
pub fn plan(problem: &Problem, effort: Effort) -> Result<Vec<Packing>> {
    let mut free = problem.free.clone();
    let mut packings = Vec::new();
    for area in order(problem) {
        match pack(problem, area, &free, effort) {
            Some(packing) => {
                packing.runs.iter().for_each(|run| take(&mut free, run));
                packings.push(packing);
            }
            None if effort == Effort::Quick => return Err(problem.fault(&problem.areas[area].span, "no place")),
            None => return Err(relax::why_not(problem, area, &free)),
        }
    }
    packings.sort_by_key(|packing| packing.area);
    Ok(packings)
}

/// Returns the areas in the order in which they are placed: those of the tree, then from the shortest reach on.
fn order(problem: &Problem) -> Vec<usize> {
    let mut order: Vec<usize> = (0..problem.areas.len())
        .filter(|&area| problem.sets_of(area).next().is_some() || has_loan(problem, area))
        .collect();
    let room = |area: usize| {
        let reach = |set: usize| {
            let parts = Shape::of(problem, set, &problem.free).parts;
            parts.iter().map(|part| part.frames.len()).sum::<usize>()
        };
        problem.sets_of(area).map(reach).min().unwrap_or(usize::MAX)
    };
    order.sort_by_key(|&area| (problem.areas[area].fixed.is_none(), room(area)));
    order
}

fn has_loan(problem: &Problem, area: usize) -> bool {
    problem.loans.iter().any(|loan| loan.area == area && loan.least > 0)
}

/// Takes a run out of free memory.
fn take(free: &mut Vec<Range<u32>>, run: &Range<u32>) {
    *free = free
        .iter()
        .flat_map(|hole| [hole.start..hole.end.min(run.start), hole.start.max(run.end)..hole.end])
        .filter(|hole| hole.start < hole.end)
        .collect();
}

/// Returns the parts of runs that lie in others.
fn common(runs: &[Range<u32>], others: &[Range<u32>]) -> Vec<Range<u32>> {
    let cut = |a: &Range<u32>, b: &Range<u32>| a.start.max(b.start)..a.end.min(b.end);
    let all = runs.iter().flat_map(|a| others.iter().map(move |b| cut(a, b)));
    let mut parts: Vec<_> = all.filter(|part| part.start < part.end).collect();
    parts.sort_by_key(|part| part.start);
    parts
}

/// What an area must hold, whatever its place.
struct Demand {
    sets: Vec<usize>,
    sum: u32,
    /// Frames of slots that no arrangement can undercut, and the sets that need them.
    slots: u32,
    bound_sets: Vec<usize>,
    /// Frames that are to be lent whatever runs, and the frames that buffers hold at most.
    least: u32,
    held: u32,
}

impl Demand {
    fn of(problem: &Problem, area: usize) -> Self {
        let sets: Vec<usize> = problem.sets_of(area).collect();
        let together = |a: usize, b: usize| problem.together(sets[a], sets[b]);
        let weight = |clique: &Vec<usize>| clique.iter().map(|&at| problem.sets[sets[at]].total()).sum::<u32>();
        let heaviest = maximal_cliques(sets.len(), together).into_iter().max_by_key(weight).unwrap_or_default();
        let least = problem.loans.iter().filter(|loan| loan.area == area).map(|loan| loan.least).sum();
        let held = running(problem).iter().map(|cases| held(problem, area, cases)).max().unwrap_or(0);
        Self {
            sum: sets.iter().map(|&set| problem.sets[set].total()).sum(),
            slots: weight(&heaviest),
            bound_sets: heaviest.into_iter().map(|at| sets[at]).collect(),
            sets,
            least,
            held,
        }
    }

    /// Returns the frames of an area whose slots need so many.
    fn area(&self, slots: u32) -> u32 {
        slots.max(self.held.saturating_add(self.least)).max(1)
    }
}

/// Returns the largest groups of use cases that may run together.
pub fn running(problem: &Problem) -> Vec<Vec<usize>> {
    maximal_cliques(problem.cases.len(), |a, b| !problem.cases[a].excludes[b])
}

/// Returns the frames of an area that buffers hold while these use cases run.
pub fn held(problem: &Problem, area: usize, cases: &[usize]) -> u32 {
    let runs = |&set: &usize| problem.sets[set].cases.iter().any(|case| cases.contains(case));
    problem.sets_of(area).filter(runs).map(|set| problem.sets[set].total()).sum()
}

/// Finds a place for an area in free memory, and for its slots in the area.
fn pack(problem: &Problem, area: usize, free: &[Range<u32>], effort: Effort) -> Option<Packing> {
    let demand = Demand::of(problem, area);
    let wish = &problem.areas[area];
    if let Some(fixed) = &wish.fixed {
        return arrange(problem, area, &demand, &fixed.runs, effort);
    }
    let holes = common(free, std::slice::from_ref(&wish.within));
    let reach = |set: usize| {
        let parts = Shape::of(problem, set, &holes).parts;
        parts.into_iter().map(|part| part.frames).collect::<Vec<_>>()
    };
    // Where every device reaches everything, any place in the area serves any buffer.
    let mut all = holes.clone();
    for &set in &demand.sets {
        all = common(&all, &reach(set));
    }
    let step = |needed: u32| {
        let aligned = demand.sets.iter().map(|&set| Shape::of(problem, set, &holes).align).max().unwrap_or(1);
        if needed >= SECTION { aligned.max(SECTION) } else { aligned }
    };
    let least = demand.area(demand.slots);
    for hole in all.iter().rev() {
        let low = hole.start.next_multiple_of(step(least));
        if low.checked_add(least).is_none_or(|end| end > hole.end) {
            continue;
        }
        let in_hole = |base: u32| arrange(problem, area, &demand, std::slice::from_ref(&(base..hole.end)), effort);
        let Some(first) = in_hole(low) else { continue };
        // As high as it goes: low memory stays whole.
        let (high, step) = ((hole.end - first.needed) / step(first.needed), step(first.needed));
        let mut bases = (0..TRIES).map_while(|n| high.checked_sub(n)).map(|n| n * step).take_while(|&base| base > low);
        return Some(bases.find_map(|base| Some(cut(in_hole(base)?, base))).unwrap_or_else(|| cut(first, low)));
    }
    // Else the area lies across reaches: each device has a part of it.
    let bases = holes.iter().rev().flat_map(|hole| {
        let ends = demand.sets.iter().flat_map(|&set| reach(set)).map(|part| part.end.min(hole.end));
        let from_ends = ends.filter_map(|end| end.checked_sub(least)).map(move |base| base.max(hole.start));
        let mut bases: Vec<u32> =
            from_ends.chain([hole.start]).map(|base| base.next_multiple_of(step(least))).collect();
        bases.sort_unstable();
        bases.dedup();
        bases.into_iter().rev().filter(|&base| hole.contains(&base)).map(|base| base..hole.end)
    });
    let packings = bases
        .filter_map(|run| Some(cut(arrange(problem, area, &demand, std::slice::from_ref(&run), effort)?, run.start)));
    packings.min_by_key(|packing| packing.needed)
}

/// Cuts an area that was given all of a hole to what it needs.
fn cut(mut packing: Packing, base: u32) -> Packing {
    packing.runs.clear();
    packing.runs.push(base..base + packing.needed);
    packing
}

/// Arranges an area's slots in these runs, from the lowest frame on.
fn arrange(problem: &Problem, area: usize, demand: &Demand, runs: &[Range<u32>], effort: Effort) -> Option<Packing> {
    let layer = Layer::new(problem, &demand.sets, runs);
    // The frames of the area below an end.
    let depth = |end: u32| runs.iter().map(|run| run.end.min(end).saturating_sub(run.start)).sum::<u32>();
    let room = depth(u32::MAX);
    let least_end = runs.iter().scan(demand.slots, |left, run| {
        let here = (*left).min(run.end - run.start);
        *left -= here;
        Some(if here == 0 { 0 } else { run.start + here })
    });
    let least_end = least_end.max().unwrap_or(0);
    let found = greedy::arrange(&layer, least_end, effort);
    let (found, proven) = match found {
        Some(found) if found.end <= least_end => (Some(found), true),
        found if effort == Effort::Full => exact::improve(&layer, least_end, found),
        found => (found, false),
    };
    let found = found?;
    let needed = demand.area(depth(found.end));
    if needed > room {
        return None;
    }
    let mut slots: Vec<(usize, Vec<u32>)> = demand.sets.iter().map(|&set| (set, Vec::new())).collect();
    found.placed.iter().for_each(|slot| slots[slot.set].1.push(slot.start));
    for slot in &mut slots {
        slot.1.sort_unstable();
    }
    Some(Packing {
        area,
        runs: runs.to_vec(),
        needed,
        bound: demand.area(demand.slots),
        bound_sets: demand.bound_sets.clone(),
        proven,
        sum: demand.sum,
        slots,
    })
}

/// Says how much memory there is, for a fault.
fn room(free: &[Range<u32>]) -> String {
    match free.iter().max_by_key(|hole| hole.end - hole.start) {
        None => "no memory is free".to_owned(),
        Some(hole) => format!(
            "{} are free, the largest run is {} at {}",
            bytes(free.iter().map(|hole| u64::from(hole.end - hole.start) << 12).sum()),
            frames(hole.end - hole.start),
            address(hole.start)
        ),
    }
}
