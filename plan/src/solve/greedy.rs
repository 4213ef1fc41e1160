//! Arrangements by an order of the sets: each slot gets the lowest place that is left.

use std::cmp::Reverse;

use super::Effort;
use super::shape::{Arrangement, Layer, Slot};

/// The slots that may be looked at.
const BUDGET: u64 = 20_000_000;
/// The orders that are tried at most.
const ORDERS: u32 = 4000;

/// Returns the shortest arrangement that was found. Stops when one ends at `least`.
pub(super) fn arrange(layer: &Layer, least: u32, effort: Effort) -> Option<Arrangement> {
    let sets = layer.shapes.len();
    let total = |set: usize| u64::from(layer.shapes[set].frames) * u64::from(layer.shapes[set].count);
    let beside = |set: usize| (0..sets).filter(|&other| layer.apart[set][other]).map(total).sum::<u64>();
    let room = |set: usize| layer.shapes[set].parts.iter().map(|part| part.frames.len()).sum::<usize>();
    let mut steps = 0;
    let mut best: Option<(Arrangement, Vec<usize>)> = None;
    let mut try_order = |order: Vec<usize>, best: &mut Option<(Arrangement, Vec<usize>)>| {
        let limit = best.as_ref().map_or(u32::MAX, |best| best.0.end);
        if let Some(found) = by_order(layer, &order, limit, &mut steps) {
            *best = Some((found, order));
        }
        steps < BUDGET && best.as_ref().is_none_or(|best| best.0.end > least)
    };
    let shape = |set: usize| &layer.shapes[set];
    let keys: [&dyn Fn(usize) -> (usize, u64, u64); 5] = [
        &|set| (room(set), u64::MAX - u64::from(shape(set).frames), 0),
        &|set| (0, u64::MAX - u64::from(shape(set).align), u64::MAX - u64::from(shape(set).frames)),
        &|set| (0, u64::MAX - total(set), 0),
        &|set| (0, u64::MAX - beside(set), u64::MAX - total(set)),
        &|set| (room(set), u64::MAX - beside(set), u64::from(shape(set).frames)),
    ];
    for key in keys {
        let mut order: Vec<usize> = (0..sets).collect();
        order.sort_by_key(|&set| (key(set), Reverse(set)));
        if !try_order(order, &mut best) {
            return best.map(|best| best.0);
        }
    }
    if effort == Effort::Quick || sets < 2 {
        return best.map(|best| best.0);
    }
    // From the best order, others: two sets change places, or one moves to the front.
    let mut seed = 0x2010_u64;
    let mut below = |limit: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % limit
    };
    for _ in 0..ORDERS {
        let mut order = best.as_ref().map_or_else(|| (0..sets).collect(), |best| best.1.clone());
        for _ in 0..=below(3) {
            let (a, b) = (below(sets), below(sets));
            if below(2) == 0 { order.swap(a, b) } else { order[..=a].rotate_right(1) }
        }
        if !try_order(order, &mut best) {
            break;
        }
    }
    best.map(|best| best.0)
}

/// Places the sets in this order. Returns `None` if that would not end before `limit`.
fn by_order(layer: &Layer, order: &[usize], limit: u32, steps: &mut u64) -> Option<Arrangement> {
    let mut placed: Vec<Slot> = Vec::new();
    for &set in order {
        // What is too low for one buffer of the set is too low for the next.
        let mut from = 0;
        for _ in 0..layer.shapes[set].count {
            let start = layer.lowest(set, &placed, from, limit.saturating_sub(1), steps)?;
            from = start;
            placed.push(Slot { set, start, end: start + layer.shapes[set].frames });
        }
    }
    let end = placed.iter().map(|slot| slot.end).max().unwrap_or(0);
    Some(Arrangement { placed, end })
}
