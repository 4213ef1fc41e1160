//! The first levels of all cores, which the snoop control unit keeps coherent (DDI 0407, 2.2): of each line who holds
//! it.
//!
//! Guarantees: copies of a line are equal. A dirty one is alone: it moves to another core, or is shared once it was
//! written to the next level. What set and way name is in one core's cache and in no other.

use super::CORES_MAX;

/// Who holds which line.
pub(super) struct Inner {
    /// A bit for each core that holds the line, and [`Inner::DIRTY`].
    pub(super) lines: Vec<u8>,
    /// Lines that each core holds of each frame, and of all.
    of_frames: Vec<[u16; CORES_MAX]>,
    pub(super) of_all: [u32; CORES_MAX],
    per_frame: usize,
}

impl Inner {
    const DIRTY: u8 = 1 << 7;

    pub(super) fn new(lines: usize, per_frame: usize) -> Self {
        let of_frames = vec![[0; CORES_MAX]; lines / per_frame];
        Self { lines: vec![0; lines], of_frames, of_all: [0; CORES_MAX], per_frame }
    }

    fn set(&mut self, line: usize, holders: u8) {
        let changed = (self.lines[line] ^ holders) & !Self::DIRTY;
        self.lines[line] = holders;
        if changed == 0 {
            return;
        }
        for core in (0..CORES_MAX).filter(|core| changed & 1 << core != 0) {
            let (frame, all) = (&mut self.of_frames[line / self.per_frame][core], &mut self.of_all[core]);
            if holders & 1 << core != 0 {
                (*frame, *all) = (*frame + 1, *all + 1);
            } else {
                (*frame, *all) = (*frame - 1, *all - 1);
            }
        }
    }

    pub(super) fn is_held(&self, line: usize) -> bool {
        self.lines[line] != 0
    }

    pub(super) fn is_dirty(&self, line: usize) -> bool {
        self.lines[line] & Self::DIRTY != 0
    }

    pub(super) fn is_held_by(&self, core: usize, line: usize) -> bool {
        self.lines[line] & 1 << core != 0
    }

    /// One more core holds it, clean as all copies are.
    pub(super) fn share(&mut self, core: usize, line: usize) {
        self.set(line, self.lines[line] | 1 << core);
    }

    /// One core alone holds it, dirty.
    pub(super) fn own(&mut self, core: usize, line: usize) {
        self.set(line, 1 << core | Self::DIRTY);
    }

    pub(super) fn clean(&mut self, line: usize) {
        self.set(line, self.lines[line] & !Self::DIRTY);
    }

    /// This core drops it, dirty or not.
    pub(super) fn leave(&mut self, core: usize, line: usize) {
        let left = self.lines[line] & !(1 << core);
        self.set(line, if left == Self::DIRTY { 0 } else { left });
    }

    /// The lines that a core holds among those with this number modulo so many sets.
    pub(super) fn of_set(&self, core: usize, set: usize, sets: usize) -> Vec<usize> {
        if self.of_all[core] == 0 {
            return Vec::new();
        }
        let frames = self.of_frames.iter().enumerate().filter(|(_, held)| held[core] > 0);
        let lines = frames.flat_map(|(frame, _)| {
            let first = frame * self.per_frame;
            let offset = (set + sets - first % sets) % sets;
            (first + offset..first + self.per_frame).step_by(sets)
        });
        lines.filter(|&line| self.is_held_by(core, line)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two frames of 128 lines.
    fn inner() -> Inner {
        Inner::new(256, 128)
    }

    #[test]
    fn a_dirty_line_is_alone() {
        let mut inner = inner();
        inner.share(0, 5);
        inner.share(3, 5);
        inner.own(1, 5);
        assert!(inner.is_dirty(5) && inner.is_held_by(1, 5));
        assert!(!inner.is_held_by(0, 5) && !inner.is_held_by(3, 5));
        inner.clean(5);
        inner.share(0, 5);
        inner.leave(1, 5);
        assert!(inner.is_held(5) && !inner.is_dirty(5), "core 0 still has it");
        inner.own(2, 5);
        inner.leave(2, 5);
        assert!(!inner.is_held(5) && !inner.is_dirty(5));
    }

    #[test]
    fn a_set_has_the_lines_of_one_core() {
        let mut inner = inner();
        inner.own(0, 7);
        inner.share(1, 128 + 7);
        inner.share(1, 8);
        assert_eq!((inner.of_set(0, 7, 128), inner.of_set(1, 7, 128)), (vec![7], vec![135]));
        assert_eq!(inner.of_set(1, 7, 256), [], "of 256 sets each frame has half");
        assert_eq!(inner.of_set(1, 135, 256), [135]);
        inner.leave(1, 135);
        assert_eq!((inner.of_set(1, 7, 128), inner.of_all), (vec![], [1, 1, 0, 0]));
    }
}
