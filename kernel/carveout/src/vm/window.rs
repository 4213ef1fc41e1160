//! The window: the addresses at which carved frames are mapped.
//!
//! An *image* is the carved memory laid out once: every carved run, in order, at addresses that equal the physical ones
//! modulo 1 MiB. After each run there is at least one page that nobody has. The window holds up to [`IMAGES`] images,
//! one after another. The window's end may cut the last one short. A buffer is mapped in one image at a time.
//!
//! Guarantees:
//!
//! - **No buffer ever lacks addresses,** if the window holds one whole image. Proof: a frame's address in an image is
//!   the start of its run in that image, plus the frame's offset in the run. No other frame has that address, in
//!   whatever image. So a mapping of other frames is never in the way of a buffer's, and its own frames have one
//!   mapping at most (I1). There is nothing to search, nothing to run out of and nothing to fragment.
//! - **Every buffer has guards,** if the window holds three whole images. Proof: in an image, the page before a
//!   buffer's addresses is that of the frame before, or nobody's if a run begins there. The page after is likewise.
//!   Such a page is mapped only if the neighbour's buffer has its addresses in that image. There are two neighbours at
//!   most, so of three images at least one has neither.
//! - **In a smaller window, a guard is given up only where it must be.** A buffer takes an image in which neither
//!   neighbour is, if there is one. Otherwise it takes another, and is counted. A buffer has addresses from its first
//!   mapping that outlasts a call, until it is freed, and they do not change. Outside that time it is in no image, and
//!   its pages are guards to its neighbours.

use crate::addr::{FRAME_SHIFT, Frame, FrameRange, SECTION_SIZE, VirtAddr};
use crate::vm::range::VirtRange;
use alloc::vec::Vec;

/// The number of images that give every buffer its guards. A window holds no more.
pub const IMAGES: u32 = 3;

/// Frames of a section.
const SECTION_FRAMES: u32 = SECTION_SIZE >> FRAME_SHIFT;

/// Returns the sections that one image of these runs takes: those that each run touches, and one more for the unused
/// page where the run ends with a section.
pub fn image_sections(carved: impl Iterator<Item = FrameRange>) -> u32 {
    carved.map(|run| run.end() / SECTION_FRAMES + 1 - run.start() / SECTION_FRAMES).sum()
}

/// Knows where a window has its images. All counts are of pages.
#[derive(Debug)]
pub(crate) struct Images {
    /// Each carved run, and its place in the first image, counted from the window's start.
    runs: Vec<(FrameRange, u32)>,
    start: VirtAddr,
    /// The distance from an image to the next.
    stride: u32,
    /// The pages of the window, without the last one. That is the guard of what ends before it.
    pages: u32,
    /// Whether all images are whole.
    whole: bool,
}

/// The addresses that some frames have in the images.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Homes {
    first: VirtAddr,
    /// The distance from an image to the next, in bytes.
    stride: u32,
    /// The images that have all of the frames, a bit each.
    pub(crate) images: u32,
}

impl Homes {
    /// Returns the address of the first frame in an image.
    pub(crate) const fn address(self, image: u32) -> VirtAddr {
        VirtAddr::new(self.first.raw() + image * self.stride)
    }
}

impl Images {
    /// The bytes of heap that each run takes, in one list.
    pub(crate) const RUN_BYTES: usize = size_of::<(FrameRange, u32)>();

    /// Lays out the images of these runs in a window that has room for one.
    /// `runs` is an empty list, with room for them.
    #[cold]
    pub(crate) fn new(
        mut runs: Vec<(FrameRange, u32)>,
        carved: impl Iterator<Item = FrameRange>,
        window: VirtRange,
    ) -> Self {
        let mut sections = 0;
        for run in carved {
            let first = sections * SECTION_FRAMES + run.start() % SECTION_FRAMES;
            runs.push((run, first));
            sections += image_sections(core::iter::once(run));
        }
        debug_assert!(sections <= window.sections());
        let pages = (window.sections() * SECTION_FRAMES).saturating_sub(1);
        let whole = window.sections() >= sections * IMAGES;
        Self { runs, start: window.start(), stride: sections * SECTION_FRAMES, pages, whole }
    }

    /// Returns whether the window has all images.
    pub(crate) const fn are_whole(&self) -> bool {
        self.whole
    }

    /// Returns where the images have these frames, of the carved run of that number.
    #[inline]
    pub(crate) fn homes(&self, number: usize, frames: FrameRange) -> Homes {
        let (run, place) = self.runs[number];
        debug_assert!(run.covers(frames), "frames of that run");
        let first = place + (frames.start() - run.start());
        let images = if self.whole { (1 << IMAGES) - 1 } else { self.images_up_to(first + frames.count()) };
        let address = VirtAddr::new(self.start.raw() + (first << FRAME_SHIFT));
        Homes { first: address, stride: self.stride << FRAME_SHIFT, images }
    }

    /// Returns the frame that has this address in an image, or `None` if none has it.
    pub(crate) fn frame_at(&self, va: VirtAddr) -> Option<Frame> {
        let page = va.raw().checked_sub(self.start.raw())? >> FRAME_SHIFT;
        if page >= self.pages || page / self.stride >= IMAGES {
            return None;
        }
        let place = page % self.stride;
        let has = |&(run, first): &(FrameRange, u32)| {
            let offset = place.checked_sub(first)?;
            (offset < run.count()).then(|| run.start() + offset)
        };
        self.runs.iter().find_map(has).and_then(Frame::from_number)
    }

    /// Returns the images, a bit each, that the window does not cut before this page of an image.
    fn images_up_to(&self, end: u32) -> u32 {
        (1..IMAGES).fold(1, |images, image| images | u32::from(end + image * self.stride <= self.pages) << image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::vec::Vec;

    fn run(start: u32, count: u32) -> FrameRange {
        FrameRange::new(start, count).unwrap()
    }

    #[test]
    fn an_image_takes_what_its_runs_touch_and_a_guard() {
        let sections = |start, count| image_sections([run(start, count)].into_iter());
        assert_eq!(sections(0x60000, 32 * 256), 33, "it ends with a section: one more");
        assert_eq!(sections(0x60000, 255), 1, "its last page is the guard");
        assert_eq!(sections(0x60001, 255), 2);
        assert_eq!(sections(0x600ff, 2), 2);
        assert_eq!(image_sections([run(0x60000, 256), run(0x70001, 1)].into_iter()), 3);
        assert_eq!(image_sections(core::iter::empty()), 0);
    }

    proptest! {
        /// Random runs and windows, page by page: one frame an address, inside the window, a guard after each run.
        #[test]
        fn each_frame_has_addresses_of_its_own(
            runs in prop::collection::vec((1u32..600, 1u32..900), 1..5),
            more in 0u32..24,
        ) {
            let mut at = 0x60000;
            let runs: Vec<_> = runs.into_iter().map(|(gap, count)| {
                at += gap + count;
                run(at - count, count)
            }).collect();
            let one = image_sections(runs.iter().copied());
            let window = VirtRange::new(0xc000_0000, one + more);
            let images = Images::new(Vec::new(), runs.iter().copied(), window);
            let mut has = HashMap::new();
            for (number, frame) in runs.iter().enumerate().flat_map(|(n, run)| run.iter().map(move |frame| (n, frame))) {
                let homes = images.homes(number, run(frame.number(), 1));
                let whole = (one + more) / one;
                prop_assert!(homes.images.count_ones() >= whole.min(IMAGES));
                for image in (0..IMAGES).filter(|image| homes.images & 1 << image != 0) {
                    let va = homes.address(image);
                    prop_assert_eq!(va.raw() % SECTION_SIZE, frame.base().raw() % SECTION_SIZE);
                    prop_assert!(window.contains(va));
                    prop_assert_eq!(has.insert(va.raw() >> FRAME_SHIFT, frame.number()), None, "two frames at {}", va);
                }
            }
            let first = window.start().raw() >> FRAME_SHIFT;
            for page in first - 1..=first + window.sections() * SECTION_FRAMES {
                let found = images.frame_at(VirtAddr::new(page << FRAME_SHIFT)).map(Frame::number);
                prop_assert_eq!(found, has.get(&page).copied(), "page {:#x}", page);
            }
            for (&page, &frame) in &has {
                let after = has.get(&(page + 1));
                prop_assert!(after.is_none_or(|&after| after == frame + 1), "no guard after a run");
                prop_assert!(window.contains(VirtAddr::new((page + 1) << FRAME_SHIFT)), "none at the window's end");
            }
            // All of a buffer is in an image, or none of it.
            for (number, &run) in runs.iter().enumerate() {
                let all = images.homes(number, run);
                for frame in run.iter() {
                    let one = images.homes(number, FrameRange::new(frame.number(), 1).unwrap());
                    prop_assert_eq!(one.images & all.images, all.images);
                    prop_assert_eq!(one.address(0).raw() - all.address(0).raw(), (frame.number() - run.start()) << FRAME_SHIFT);
                }
            }
        }
    }
}
