//! What lies in the way of a request that was refused.
//!
//! Guarantees: what is said to help, helps. Once all that it names is free, the window is free. Nothing that is smaller
//! in sum would do.

use alloc::vec::Vec;
use carveout::addr::FrameRange;

/// Returns the window of `count` frames, in one of the `ranges`, in whose way the least lies, by the frames of all
/// obstacles that overlap it. Returns `None` if no range is as long. The obstacles do not overlap each other.
pub(super) fn cheapest_window(ranges: &[FrameRange], obstacles: &[FrameRange], count: u32) -> Option<FrameRange> {
    let mut best: Option<(u32, FrameRange)> = None;
    // A window that begins elsewhere has no less in its way than the one that begins with the end of the last obstacle
    // before it, or with its range.
    let starts = ranges.iter().map(|range| range.start()).chain(obstacles.iter().map(|obstacle| obstacle.end()));
    let mut windows: Vec<FrameRange> = starts.filter_map(|start| FrameRange::new(start, count)).collect();
    windows.sort_unstable_by_key(|window| window.start());
    for window in windows {
        if !ranges.iter().any(|range| range.covers(window)) {
            continue;
        }
        let cost = in_the_way(window, obstacles).map(FrameRange::count).sum();
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, window));
        }
    }
    best.map(|(_, window)| window)
}

/// Yields the obstacles that overlap a window.
fn in_the_way(window: FrameRange, obstacles: &[FrameRange]) -> impl Iterator<Item = FrameRange> + '_ {
    obstacles.iter().copied().filter(move |obstacle| obstacle.overlaps(window))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(from: u32, to: u32) -> FrameRange {
        FrameRange::between(from, to).unwrap()
    }

    fn cost(window: FrameRange, obstacles: &[FrameRange]) -> u32 {
        in_the_way(window, obstacles).map(FrameRange::count).sum()
    }

    proptest! {
        #[test]
        fn no_window_is_cheaper(
            runs in prop::collection::vec((0..9u32, 1..9u32), 0..12),
            split in 0..60u32,
            count in 1..40u32,
        ) {
            let mut obstacles = Vec::new();
            let mut at = 100;
            for (gap, length) in runs {
                // No obstacle is of both ranges.
                let start = if (at + gap..at + gap + length).contains(&(100 + split)) { 100 + split } else { at + gap };
                obstacles.push(frames(start, start + length));
                at = start + length;
            }
            let ranges = [frames(100, 100 + split), frames(100 + split, at.max(100 + split) + 5)];
            let all = (100..at + 100).map(|start| FrameRange::new(start, count).unwrap());
            let naive = all
                .filter(|window| ranges.iter().any(|range| range.covers(*window)))
                .map(|window| cost(window, &obstacles))
                .min();
            let found = cheapest_window(&ranges, &obstacles, count);
            prop_assert_eq!(found.map(|window| cost(window, &obstacles)), naive);
            prop_assert!(found.is_none_or(|window| ranges.iter().any(|range| range.covers(window))));
        }
    }
}
