//! Physical aliases: RAM that answers at a second range of physical addresses.
//!
//! Caches are tagged by physical address (ARM ARM B3.11.1). So two names of one frame are two lines for one memory,
//! whatever their attributes. It would not be enough that the attributes agree, which is I1. Hence only one name of
//! each frame is used, the one that the RAM banks use. Guarantees: a second name is nobody's first name, so a name
//! leads to its frame in one step. Wherever a physical address comes in, in the plan, the ledger and the audit,
//! [`Aliases`] is asked.

use crate::addr::{Frame, FrameRange};
use arrayvec::ArrayVec;
use core::fmt;

/// The most aliases that a board can have.
pub const MAX_ALIASES: usize = 4;

/// A range of addresses at which RAM answers that has other addresses too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alias {
    /// The second names.
    pub frames: FrameRange,
    /// The first names of that RAM, as many.
    pub of: FrameRange,
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {} by another name", self.frames, self.of)
    }
}

impl Alias {
    /// Returns the part of the alias within `frames`.
    fn within(self, frames: FrameRange) -> Option<Self> {
        let met = self.frames.intersection(frames);
        let skipped = met.start().checked_sub(self.frames.start())?;
        let of = FrameRange::new(self.of.start() + skipped, met.count())?;
        (!met.is_empty()).then_some(Self { frames: met, of })
    }
}

/// Why an alias was not entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AliasError {
    /// There are [`MAX_ALIASES`] already.
    TooMany,
    /// There are more of the one kind of name than of the other, or there are none.
    Counts,
    /// These frames would be both a first and a second name, or a second name twice.
    Ambiguous(FrameRange),
}

impl fmt::Display for AliasError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(f, "more than {MAX_ALIASES} aliases are not supported"),
            Self::Counts => {
                write!(f, "an alias has as many frames as what it is an alias of, and some; mend its length")
            }
            Self::Ambiguous(frames) => write!(f, "{frames} cannot be named twice; leave one alias out"),
        }
    }
}

impl core::error::Error for AliasError {}

/// The aliases of a board. Most boards have none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Aliases(ArrayVec<Alias, MAX_ALIASES>);

impl Aliases {
    /// Enters an alias.
    ///
    /// # Errors
    ///
    /// [`AliasError::Counts`] if the names are not as many on both sides. [`AliasError::Ambiguous`] if a name would be
    /// given twice. [`AliasError::TooMany`] if there is no room.
    pub fn add(&mut self, alias: Alias) -> Result<(), AliasError> {
        if alias.frames.count() != alias.of.count() || alias.frames.is_empty() {
            return Err(AliasError::Counts);
        }
        let ambiguous = |a: FrameRange, b: FrameRange| match a.intersection(b) {
            FrameRange::EMPTY => Ok(()),
            both => Err(AliasError::Ambiguous(both)),
        };
        ambiguous(alias.frames, alias.of)?;
        for known in &self.0 {
            ambiguous(alias.frames, known.frames)?;
            ambiguous(alias.frames, known.of)?;
            ambiguous(alias.of, known.frames)?;
        }
        self.0.try_push(alias).map_err(|_| AliasError::TooMany)
    }

    /// Yields all aliases.
    pub fn iter(&self) -> impl Iterator<Item = Alias> + '_ {
        self.0.iter().copied()
    }

    /// Returns the lowest part of `frames` that is a second name.
    pub fn find(&self, frames: FrameRange) -> Option<Alias> {
        self.iter().filter_map(|alias| alias.within(frames)).min_by_key(|alias| alias.frames.start())
    }

    /// Returns the first name of the frame that `frame` is a second name of, or `None` if it is no second name.
    pub fn first_name(&self, frame: Frame) -> Option<Frame> {
        let alias = self.find(FrameRange::new(frame.number(), 1)?)?;
        Frame::from_number(alias.of.start())
    }

    /// Yields these frames by their first names, in the order of `frames`. Each run is as long as one alias goes.
    pub fn first_names(&self, frames: FrameRange) -> impl Iterator<Item = FrameRange> + '_ {
        let mut rest = frames;
        core::iter::from_fn(move || {
            let alias = self.find(rest);
            let end = match alias {
                _ if rest.is_empty() => return None,
                Some(alias) if alias.frames.start() == rest.start() => alias.frames.end(),
                Some(alias) => alias.frames.start(),
                None => rest.end(),
            };
            let named = alias.filter(|alias| alias.frames.start() == rest.start()).map(|alias| alias.of);
            let (part, left) = rest.split_at(end - rest.start())?;
            rest = left;
            Some(named.unwrap_or(part))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec::Vec;

    fn run(start: u32, count: u32) -> FrameRange {
        FrameRange::new(start, count).unwrap()
    }

    fn alias(start: u32, of: u32, count: u32) -> Alias {
        Alias { frames: run(start, count), of: run(of, count) }
    }

    #[test]
    fn names_stay_unambiguous() {
        let mut aliases = Aliases::default();
        aliases.add(alias(0, 0x70000, 0x10000)).unwrap();
        let refused = |mut aliases: Aliases, alias| aliases.add(alias).unwrap_err().to_string();
        for (alias, message) in [
            (alias(0xffff, 0x20000, 2), "0x0ffff000-0x10000000 (4 KiB) cannot be named twice; leave one alias out"),
            (alias(0x7ffff, 0x20000, 2), "0x7ffff000-0x80000000 (4 KiB) cannot be named twice; leave one alias out"),
            (alias(0x90000, 0x0, 1), "0x00000000-0x00001000 (4 KiB) cannot be named twice; leave one alias out"),
            (alias(0x90000, 0x90001, 3), "0x90001000-0x90003000 (8 KiB) cannot be named twice; leave one alias out"),
            (
                alias(0x90000, 0xa0000, 0),
                "an alias has as many frames as what it is an alias of, and some; mend its length",
            ),
        ] {
            assert_eq!(refused(aliases.clone(), alias), message);
        }
        let uneven = Alias { frames: run(0x90000, 2), of: run(0xa0000, 1) };
        assert_eq!(aliases.add(uneven), Err(AliasError::Counts));
        // A third name of the same RAM is in order.
        aliases.add(alias(0x40000, 0x70000, 0x10000)).unwrap();
        aliases.add(alias(0x50000, 0x70000, 1)).unwrap();
        aliases.add(alias(0x50001, 0x70000, 1)).unwrap();
        assert_eq!(refused(aliases, alias(0x50002, 0x70000, 1)), "more than 4 aliases are not supported");
    }

    #[test]
    fn a_run_over_an_edge_is_named_in_parts() {
        let mut aliases = Aliases::default();
        aliases.add(alias(0x100, 0x70000, 0x10)).unwrap();
        aliases.add(alias(0x120, 0x90000, 0x10)).unwrap();
        let named: Vec<_> = aliases.first_names(run(0xff, 0x30)).collect();
        assert_eq!(named, [run(0xff, 1), run(0x70000, 0x10), run(0x110, 0x10), run(0x90000, 0xf)]);
        assert_eq!(
            aliases.find(run(0x108, 0x40)).unwrap().to_string().split(' ').next(),
            Some("0x00108000-0x00110000")
        );
    }

    proptest! {
        /// I1: against one name at a time.
        #[test]
        fn runs_are_named_as_their_frames_are(
            parts in prop::collection::vec((0..64u32, 64..128u32, 0..24u32), 0..6),
            start in 0..140u32,
            count in 0..80u32,
        ) {
            let mut aliases = Aliases::default();
            let mut first: Vec<u32> = (0..256).collect();
            for (start, of, count) in parts {
                if aliases.add(alias(start, of, count)).is_ok() {
                    for n in 0..count {
                        prop_assert_eq!(first[(start + n) as usize], start + n, "named twice");
                        first[(start + n) as usize] = of + n;
                    }
                }
            }
            for name in &first {
                prop_assert_eq!(first[*name as usize], *name, "a first name has none itself");
            }
            let named: Vec<_> = aliases.first_names(run(start, count)).flat_map(FrameRange::iter).map(Frame::number).collect();
            prop_assert_eq!(&named[..], &first[start as usize..(start + count) as usize]);
            for n in start..start + count {
                let other = aliases.first_name(Frame::from_number(n).unwrap()).map(Frame::number);
                prop_assert_eq!(other.unwrap_or(n), first[n as usize]);
            }
        }
    }
}
