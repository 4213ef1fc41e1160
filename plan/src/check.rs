//! The checker of certificates. It is small, works in bytes, and knows nothing of how places are found.
//!
//! What it verifies suffices for a contract's promise. A request of a declared size takes an idle slot of its class,
//! and a class has as many slots as buffers that it declares. So no order of declared requests can fail, if
//!
//! 1. each set that the use cases declare is there once, with a slot for each buffer;
//! 2. each slot lies in one run of its device's area;
//! 3. each slot is in the device's reach, at consecutive bus addresses, aligned there, and crosses no boundary;
//! 4. slots of two sets are disjoint, unless no use case of the one ever runs together with one of the other;
//! 5. areas are disjoint, and are free memory or what the tree gives them.
//!
//! 6. The bound holds if the sets that are named for it may all be held beside each other in pairs.

use serde::Deserialize;

use crate::problem::{Device, Problem, Set};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    #[serde(rename = "certificate")]
    kind: String,
    areas: Vec<Area>,
    sets: Vec<Slots>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Area {
    name: String,
    runs: Vec<Run>,
    needs: u64,
    apart: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    base: u64,
    bytes: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slots {
    set: String,
    cases: Vec<String>,
    device: String,
    area: String,
    bytes: u32,
    at: Vec<u64>,
}

impl Run {
    fn holds(self, at: u64, bytes: u64) -> bool {
        at >= self.base && at - self.base <= self.bytes && bytes <= self.bytes - (at - self.base)
    }

    fn meets(self, other: Self) -> bool {
        u128::from(self.base) < u128::from(other.base) + u128::from(other.bytes)
            && u128::from(other.base) < u128::from(self.base) + u128::from(self.bytes)
    }
}

/// Whole frames of a buffer.
fn whole(set: &Set) -> u64 {
    u64::from(set.bytes).next_multiple_of(4096)
}

/// Checks a certificate of what `problem` declares. Returns the number of slots.
///
/// # Errors
///
/// The first thing that is wrong with it, in one line.
pub fn check(problem: &Problem, certificate: &str) -> Result<usize, String> {
    let given: Certificate =
        serde_json::from_str(certificate).map_err(|error| format!("it cannot be read: {error}"))?;
    if given.kind != crate::certificate::KIND {
        return Err(format!("it is a {:?}", given.kind));
    }
    let slots = slots(problem, &given)?;
    for (n, &(a, one)) in slots.iter().enumerate() {
        for &(b, other) in &slots[..n] {
            if one.meets(other) && beside(problem, &problem.sets[a], &problem.sets[b]) {
                return Err(format!(
                    "slots of {} at {:#x} and {} at {:#x} overlap, and may be held at one time",
                    problem.sets[a].name, one.base, problem.sets[b].name, other.base
                ));
            }
        }
    }
    areas(problem, &given)?;
    Ok(slots.len())
}

/// Points 1 to 3. Returns the slots with the numbers of their sets.
fn slots(problem: &Problem, given: &Certificate) -> Result<Vec<(usize, Run)>, String> {
    if given.sets.len() != problem.sets.len() {
        return Err(format!("it has {} sets, and {} are declared", given.sets.len(), problem.sets.len()));
    }
    let mut all = Vec::new();
    for (number, (set, slots)) in problem.sets.iter().zip(&given.sets).enumerate() {
        let device = &problem.devices[set.device];
        let cases = set.cases.iter().map(|&case| &problem.cases[case].name);
        let same = slots.set == set.name
            && slots.bytes == set.bytes
            && slots.device == device.name
            && slots.area == problem.areas[device.area].name
            && cases.eq(slots.cases.iter())
            && slots.at.len() as u64 == u64::from(set.count);
        if !same {
            let (got, declared) = (slots.at.len(), set.count);
            return Err(format!(
                "its set {number} is {got} x {}, and {declared} x {} is declared",
                slots.set, set.name
            ));
        }
        let area = given.areas.iter().find(|area| area.name == slots.area);
        let area = area.ok_or_else(|| format!("it has no area {}", slots.area))?;
        for &at in &slots.at {
            let wrong = if area.runs.iter().any(|run| run.holds(at, whole(set))) {
                unfit(device, set, at)
            } else {
                Some(format!("is not in area {}", area.name))
            };
            match wrong {
                Some(wrong) => return Err(format!("the slot of {} at {at:#x} {wrong}", set.name)),
                None => all.push((number, Run { base: at, bytes: whole(set) })),
            }
        }
    }
    Ok(all)
}

/// Point 3: returns why a device cannot have a buffer there.
fn unfit(device: &Device, set: &Set, at: u64) -> Option<String> {
    let bytes = whole(set);
    let seen = device.windows.iter().find_map(|window| {
        let offset = at.checked_sub(window.phys.into())?;
        (offset.checked_add(bytes)? <= window.bytes).then(|| u64::from(window.bus) + offset)
    });
    let Some(bus) = seen.filter(|bus| bus + bytes - 1 <= device.mask.into()) else {
        return Some(format!("is out of reach of {}", device.name));
    };
    if bus % u64::from(set.align) != 0 {
        return Some(format!("is not aligned to {:#x}", set.align));
    }
    let parts = |boundary: u32| bus / u64::from(boundary) != (bus + bytes - 1) / u64::from(boundary);
    device.boundary.is_some_and(parts).then(|| "crosses a boundary".to_owned())
}

/// Returns whether two sets may be held at one time, by the declarations.
fn beside(problem: &Problem, a: &Set, b: &Set) -> bool {
    let mut pairs = a.cases.iter().flat_map(|&x| b.cases.iter().map(move |&y| (x, y)));
    pairs.any(|(x, y)| x == y || !problem.cases[x].excludes[y] || !problem.cases[y].excludes[x])
}

/// Points 5 and 6.
fn areas(problem: &Problem, given: &Certificate) -> Result<(), String> {
    let frame = |run: &std::ops::Range<u32>| Run {
        base: u64::from(run.start) << 12,
        bytes: (u64::from(run.end) - u64::from(run.start)) << 12,
    };
    let runs: Vec<Run> = given.areas.iter().flat_map(|area| &area.runs).copied().collect();
    for (n, run) in runs.iter().enumerate() {
        if run.base % 4096 + run.bytes % 4096 > 0 || runs[..n].iter().any(|other| run.meets(*other)) {
            return Err(format!("the run at {:#x} is no run of whole frames of one area", run.base));
        }
    }
    for area in &given.areas {
        let wish = problem.areas.iter().find(|wish| wish.name == area.name);
        let wish = wish.ok_or_else(|| format!("its area {} is not declared", area.name))?;
        let good = |run: &Run| match &wish.fixed {
            Some(fixed) => fixed.runs.iter().any(|given| frame(given) == *run),
            None => {
                frame(&wish.within).holds(run.base, run.bytes)
                    && problem.free.iter().any(|hole| frame(hole).holds(run.base, run.bytes))
            }
        };
        if let Some(run) = area.runs.iter().find(|run| !good(run)) {
            let (name, base) = (&area.name, run.base);
            return Err(format!("area {name}: the memory at {base:#x} is reserved, absent or not where it may lie"));
        }
        let sets: Option<Vec<&Set>> = area.apart.iter().map(|&set| problem.sets.get(set)).collect();
        let sets = sets.ok_or("its bound names a set that is not declared")?;
        let apart = (0..sets.len())
            .all(|n| (0..n).all(|m| area.apart[n] != area.apart[m] && beside(problem, sets[n], sets[m])));
        let sum: u64 = sets.iter().map(|set| whole(set) * u64::from(set.count)).sum();
        if !apart || sum > area.needs || area.needs > area.runs.iter().map(|run| run.bytes).sum() {
            return Err(format!("the bound of area {} does not hold", area.name));
        }
    }
    Ok(())
}
