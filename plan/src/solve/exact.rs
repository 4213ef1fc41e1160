//! All arrangements that could be shorter than the best one that is known.
//!
//! Call an arrangement *settled* if no slot alone could move to a lower place. Each arrangement becomes a settled one
//! that is not longer, by moves downward, which end. Take the slots of a settled arrangement by their starts, and those
//! with one start by their sets. Then each lies at the lowest place that those before it leave: a lower place would be
//! free of those after it too, because they start later. So it suffices to try, from each state, each set whose lowest
//! place does not come before the last slot's. Each settled arrangement is met once.
//!
//! A state is given up if some sets that must all lie apart cannot end in time: what they still need does not fit
//! between the last slot's start and the limit, less what their slots have there already.

use super::clique;
use super::shape::{Arrangement, Layer, Slot};

/// The slots that may be looked at.
const BUDGET: u64 = 30_000_000;
/// Groups of sets that are compared with the limit.
const GROUPS: usize = 64;

/// Returns the best arrangement, and whether it is proven to be the shortest. `known` is the best that is known. No
/// arrangement ends before `least`.
pub(super) fn improve(layer: &Layer, least: u32, known: Option<Arrangement>) -> (Option<Arrangement>, bool) {
    let left: Vec<u32> = layer.shapes.iter().map(|shape| shape.count).collect();
    let weight = |group: &Vec<usize>| {
        group.iter().map(|&set| u64::from(left[set]) * u64::from(layer.shapes[set].frames)).sum::<u64>()
    };
    let mut groups = clique::maximal(left.len(), |a, b| layer.apart[a][b]);
    groups.sort_by_key(|group| std::cmp::Reverse(weight(group)));
    groups.truncate(GROUPS);
    let mut search = Search { layer, groups, least, best: known, placed: Vec::new(), left, steps: 0 };
    let whole = search.descend();
    (search.best, whole)
}

struct Search<'a> {
    layer: &'a Layer,
    groups: Vec<Vec<usize>>,
    least: u32,
    best: Option<Arrangement>,
    placed: Vec<Slot>,
    /// Buffers of each set that have no place yet.
    left: Vec<u32>,
    steps: u64,
}

impl Search<'_> {
    /// Tries all that comes after the slots that have places. Returns `false` if the budget did not suffice.
    fn descend(&mut self) -> bool {
        if self.left.iter().all(|&left| left == 0) {
            let end = self.placed.iter().map(|slot| slot.end).max().unwrap_or(0);
            if self.limit() >= end {
                self.best = Some(Arrangement { placed: self.placed.clone(), end });
            }
            return true;
        }
        if self.hopeless() {
            return true;
        }
        let last = self.placed.last().map_or((0, 0), |slot| (slot.start, slot.set));
        let mut next: Vec<(u32, usize)> = Vec::new();
        for set in (0..self.left.len()).filter(|&set| self.left[set] > 0) {
            match self.layer.lowest(set, &self.placed, 0, self.limit(), &mut self.steps) {
                // It has no place now, so none later.
                None => return true,
                Some(start) if (start, set) >= last => next.push((start, set)),
                Some(_) => {}
            }
        }
        // What comes first leaves most to those after it; of equal starts, large ones are hard to place later.
        next.sort_by_key(|&(start, set)| (start, std::cmp::Reverse(self.layer.shapes[set].frames)));
        for (start, set) in next {
            if self.steps > BUDGET {
                return false;
            }
            let end = start + self.layer.shapes[set].frames;
            if end > self.limit() {
                continue;
            }
            self.placed.push(Slot { set, start, end });
            self.left[set] -= 1;
            let whole = self.descend();
            self.left[set] += 1;
            self.placed.pop();
            if !whole {
                return false;
            }
        }
        true
    }

    /// Returns the last end that would be an improvement.
    fn limit(&self) -> u32 {
        match &self.best {
            Some(best) if best.end <= self.least => 0,
            Some(best) => best.end - 1,
            None => u32::MAX,
        }
    }

    /// Returns whether some sets that must lie apart cannot all end in time.
    fn hopeless(&mut self) -> bool {
        let (from, limit) = (self.placed.last().map_or(0, |slot| slot.start), self.limit());
        self.steps += (self.groups.len() * (self.placed.len() + 1)) as u64;
        self.groups.iter().any(|group| {
            let frames = |&set: &usize| u64::from(self.left[set]) * u64::from(self.layer.shapes[set].frames);
            let need: u64 = group.iter().map(frames).sum();
            let ours = self.placed.iter().filter(|slot| group.contains(&slot.set));
            let taken: u64 = ours.map(|slot| u64::from(slot.end.saturating_sub(slot.start.max(from)))).sum();
            need > 0 && u64::from(from) + taken + need > u64::from(limit)
        })
    }
}
