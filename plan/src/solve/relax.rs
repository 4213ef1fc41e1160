//! What is in the way of an area, and what would make it possible.

use std::ops::Range;

use super::shape::Shape;
use super::{Demand, Effort, common, pack, room};
use crate::errors::Fault;
use crate::problem::{FRAME, Problem, Window, address, bytes, frames};

/// The most changes that are named.
const MOST: usize = 4;

/// Says why an area has no place in free memory: the constraint that is in the way, and the nearest changes that help.
pub(super) fn why_not(problem: &Problem, area: usize, free: &[Range<u32>]) -> Fault {
    let wish = &problem.areas[area];
    let runs = match &wish.fixed {
        Some(fixed) => fixed.runs.clone(),
        None => common(free, std::slice::from_ref(&wish.within)),
    };
    let fault = alone(problem, area, &runs).unwrap_or_else(|| {
        let demand = Demand::of(problem, area);
        let needed = demand.area(demand.slots);
        let what = format!("area {} has no place for all its buffers", wish.name);
        let names: Vec<_> = demand.bound_sets.iter().map(|&set| problem.sets[set].name.as_str()).collect();
        let fault = problem.fault(&wish.span, what).label(format!("it needs {} at least", frames(needed)));
        let fault = fault.note(format!("{} must lie apart: {}", frames(demand.slots), names.join(", ")));
        fault.note(match &wish.fixed {
            Some(fixed) => format!(
                "the tree gives it {}",
                bytes(fixed.runs.iter().map(|run| run.len() as u64 * u64::from(FRAME)).sum())
            ),
            None => room(&runs),
        })
    });
    let helps = changes(problem, area, free);
    if helps.is_empty() {
        return fault
            .help("no single change of a mask, a boundary, an alignment, a count or a pair of use cases helps");
    }
    helps.into_iter().take(MOST).fold(fault, Fault::help)
}

/// Returns the fault of the first buffer that would have no place even if it were alone.
fn alone(problem: &Problem, area: usize, runs: &[Range<u32>]) -> Option<Fault> {
    problem.sets_of(area).find_map(|number| {
        let set = &problem.sets[number];
        let mut one = problem.clone();
        one.sets[number].count = 1;
        let layer = super::Layer::new(&one, &[number], runs);
        if layer.lowest(0, &[], 0, u32::MAX, &mut 0).is_some() {
            return None;
        }
        let device = &problem.devices[set.device];
        let parts = Shape::of(problem, number, runs).parts;
        let what = format!("a buffer of {} has no place, even alone", set.name);
        let fault = problem.fault(&set.span, what).label(format!("{} for {}", bytes(set.bytes.into()), device.name));
        let largest = parts.iter().max_by_key(|part| part.frames.len());
        Some(match (largest, device.boundary) {
            (None, _) => fault.note(format!(
                "device {} reaches nothing of the memory where area {} may lie",
                device.name, problem.areas[area].name
            )),
            (Some(_), Some(boundary)) if boundary < set.bytes => {
                fault.note(format!("it would cross a multiple of {}, the device's boundary", bytes(boundary.into())))
            }
            (Some(part), _) => fault.note(format!(
                "the largest run that device {} reaches is {} at {}",
                device.name,
                frames(part.frames.len() as u32),
                address(part.frames.start)
            )),
        })
    })
}

/// Returns the single changes that would make the area possible, the nearest of each kind.
fn changes(problem: &Problem, area: usize, free: &[Range<u32>]) -> Vec<String> {
    let helps = |change: &dyn Fn(&mut Problem)| {
        let mut changed = problem.clone();
        change(&mut changed);
        pack(&changed, area, free, Effort::Quick).is_some()
    };
    let sets: Vec<usize> = problem.sets_of(area).collect();
    let mut devices: Vec<usize> = sets.iter().map(|&set| problem.sets[set].device).collect();
    devices.sort_unstable();
    devices.dedup();
    let mut found = Vec::new();
    // Fewer buffers: the change that gives up least.
    let fewer = sets.iter().filter_map(|&set| {
        let (count, size) = (problem.sets[set].count, problem.sets[set].frames());
        let fits = |count: u32| helps(&move |problem| problem.sets[set].count = count);
        if count < 2 || !fits(1) {
            return None;
        }
        let (mut low, mut high) = (1, count);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if fits(middle) { low = middle } else { high = middle }
        }
        Some((
            (count - low) * size,
            format!("{low} buffers of {} in place of {count} would fit", problem.sets[set].name),
        ))
    });
    found.extend(fewer.min_by_key(|found| found.0).map(|found| found.1));
    for a in 0..problem.cases.len() {
        for b in a + 1..problem.cases.len() {
            let exclude = |problem: &mut Problem| {
                problem.cases[a].excludes[b] = true;
                problem.cases[b].excludes[a] = true;
            };
            if !problem.cases[a].excludes[b] && helps(&exclude) {
                let (a, b) = (&problem.cases[a].name, &problem.cases[b].name);
                found.push(format!("it fits if {a} and {b} never run together: exclusive = [[{a:?}, {b:?}]]"));
            }
        }
    }
    for &device in &devices {
        let of = &problem.devices[device];
        let wider =
            (of.mask.trailing_ones()..=32).map(|bits| ((1_u64 << bits) - 1) as u32).filter(|&mask| mask > of.mask);
        if let Some(mask) = wider.into_iter().find(|&mask| helps(&move |problem| problem.devices[device].mask = mask)) {
            found.push(format!("it fits if {} drives addresses up to {mask:#x}, not {:#x}", of.name, of.mask));
        }
        if of.boundary.is_some() && helps(&|problem| problem.devices[device].boundary = None) {
            found.push(format!("it fits without the boundary of {}", of.name));
        }
        if of.windows != [Window::IDENTITY]
            && helps(&|problem| problem.devices[device].windows = vec![Window::IDENTITY])
        {
            found.push(format!("it fits if {} reached all memory, without its windows", of.name));
        }
    }
    for &set in &sets {
        if problem.sets[set].align > FRAME && helps(&|problem| problem.sets[set].align = FRAME) {
            found.push(format!("it fits if {} need no alignment", problem.sets[set].name));
        }
    }
    if problem.areas[area].fixed.is_some() && helps(&|problem| problem.areas[area].fixed = None) {
        found.push("it fits elsewhere in RAM: leave out place = \"tree\"".to_owned());
    }
    if problem.areas[area].within != (0..1 << 20) && helps(&|problem| problem.areas[area].within = 0..1 << 20) {
        found.push("it fits elsewhere in RAM: leave out within".to_owned());
    }
    found
}
