//! Bus masters: what a device reaches, which area its buffers come from, and what shape they must have.
//!
//! Guarantees: the device can drive each [`BusAddr`] that the DMA API hands out, up to the last byte of the buffer it
//! belongs to, through one aperture of its bus's `dma-ranges`. No buffer crosses the device's boundary.
//!
//! Where the idea is Linux's, the name is too: `dma_mask`, `dma_get_seg_boundary`, `dma_get_max_seg_size`,
//! `dma-ranges`, `memory-region`.

use crate::addr::{BusAddr, Bytes, FRAME_SHIFT, FRAME_SIZE, FrameRange, PhysAddr};
use crate::cma::area::AllocError;
use crate::cma::reach::{Reach, Reachable};
use crate::events::name_master;
use crate::name::Name;
use crate::vm::mapped::RegionId;
use arrayvec::ArrayVec;
use core::fmt;
use core::num::NonZeroU32;
use core::slice;
use core::sync::atomic::{AtomicU32, Ordering};

/// The most apertures of `dma-ranges` that a master can have.
pub const MAX_APERTURES: usize = 4;

/// The name of an area of one [`Dma`](super::Dma). To another `Dma` it names no area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AreaId(pub(super) usize, pub(super) RegionId);

/// One entry of a bus's `dma-ranges`: the bus addresses `[bus, bus + bytes)` reach the memory from `phys` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Aperture {
    /// The first bus address.
    pub bus: BusAddr,
    /// The first byte of the memory behind it.
    pub phys: PhysAddr,
    /// The number of bytes, 1 to 4 GiB.
    pub bytes: u64,
}

impl Aperture {
    /// The aperture of a bus without `dma-ranges`: all of the 32-bit space, at the CPU's addresses.
    pub const IDENTITY: Self = Self { bus: BusAddr::new(0), phys: PhysAddr::new(0), bytes: 1 << 32 };

    /// Returns the memory that the aperture reaches by bus addresses up to `mask`, in whole frames.
    fn reach(&self, mask: BusAddr) -> Option<Reachable> {
        let driven = (u64::from(mask.raw()) + 1).saturating_sub(self.bus.raw().into());
        let frames = FrameRange::within(self.phys.raw().into(), driven.min(self.bytes));
        let shift = (self.bus.raw() >> FRAME_SHIFT).wrapping_sub(self.phys.raw() >> FRAME_SHIFT);
        (!frames.is_empty()).then_some(Reachable { frames, shift })
    }
}

/// Why a description of a bus master was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MasterError {
    /// The aperture has no bytes, passes 4 GiB on one of its sides, overlaps another one in memory or on the bus, or
    /// shifts memory by part of a frame.
    Aperture(Aperture),
    /// There are more apertures than [`MAX_APERTURES`].
    TooManyApertures,
    /// The boundary is not a power of two of at least a frame.
    Boundary(u32),
    /// The largest segment holds less than a frame.
    Segment(u32),
}

impl fmt::Display for MasterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aperture(Aperture { bus, phys, bytes }) => {
                write!(f, "dma-ranges: {bytes:#x} bytes from bus {bus} at {phys} are no aperture of this bus")
            }
            Self::TooManyApertures => write!(f, "dma-ranges: more than {MAX_APERTURES} apertures"),
            Self::Boundary(bytes) => write!(f, "boundary of {bytes:#x} bytes is not a power of two of 4 KiB or more"),
            Self::Segment(bytes) => write!(f, "largest segment of {} is less than a frame", Bytes((*bytes).into())),
        }
    }
}

impl core::error::Error for MasterError {}

/// A bus master: a device that accesses memory by itself.
///
/// ```
/// use carveout::addr::{BusAddr, PhysAddr};
/// use carveout::dma::{Aperture, Master};
///
/// let soc = Aperture { bus: BusAddr::new(0xc000_0000), phys: PhysAddr::new(0x4000_0000), bytes: 512 << 20 };
/// let codec = Master::new("codec", None)
///     .with_apertures(&[soc])? // its bus's `dma-ranges`
///     .with_boundary(1 << 20)?;
/// assert_eq!(codec.bus(PhysAddr::new(0x4000_1000)), Some(BusAddr::new(0xc000_1000)));
/// assert_eq!(codec.bus(PhysAddr::new(0x8000_0000)), None, "out of its reach");
/// # Ok::<(), carveout::dma::MasterError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Master {
    name: Name,
    /// The area that it allocates from. If it names one that was refused, the reason.
    area: Result<AreaId, Option<&'static str>>,
    mask: BusAddr,
    apertures: ArrayVec<Aperture, MAX_APERTURES>,
    /// The memory that it reaches by its mask, aperture by aperture.
    reach: ArrayVec<Reachable, MAX_APERTURES>,
    boundary: Option<u32>,
    max_segment: u32,
    stamp: Stamp,
}

/// The number of a description of a master, while there are numbers. Descriptions with one number are copies of each
/// other.
#[derive(Clone, Copy, Debug)]
struct Stamp(Option<NonZeroU32>);

impl Stamp {
    /// Returns a number that no description has yet.
    fn next() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| last.checked_add(1));
        Self(last.ok().and_then(|last| NonZeroU32::new(last + 1)))
    }
}

/// Two descriptions are equal if they say the same.
impl PartialEq for Stamp {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Stamp {}

impl Master {
    /// Describes a master that drives all 32 address bits, sees memory where the CPU does, and allocates from `area`.
    /// That is the area of its `memory-region`, or the default one if it names none.
    pub fn new(name: &str, area: Option<AreaId>) -> Self {
        Self::with_area(name, area.ok_or(None))
    }

    /// Describes a master that may use no area, because the one that its `memory-region` names was refused. It may not
    /// reach another one. `why` names the area and the reason. Each allocation for this master fails with
    /// [`AllocError::NoArea`], whose text has it.
    pub fn without_area(name: &str, why: &'static str) -> Self {
        Self::with_area(name, Err(Some(why)))
    }

    fn with_area(name: &str, area: Result<AreaId, Option<&'static str>>) -> Self {
        let mask = BusAddr::new(u32::MAX);
        let (apertures, reach) = (ArrayVec::new(), ArrayVec::new());
        let master = Self {
            name: name.into(),
            area,
            mask,
            apertures,
            reach,
            boundary: None,
            max_segment: u32::MAX,
            stamp: Stamp(None),
        };
        master.reaching(mask, core::iter::once(Aperture::IDENTITY).collect())
    }

    /// Limits the master to bus addresses up to `last`, that byte included: its DMA mask.
    #[must_use]
    pub fn with_mask(self, last: BusAddr) -> Self {
        let apertures = self.apertures.clone();
        self.reaching(last, apertures)
    }

    /// Puts the master on a bus with these `dma-ranges`. It cannot reach memory outside of them.
    ///
    /// # Errors
    ///
    /// [`MasterError::Aperture`] if an aperture has no bytes, ends past 4 GiB, overlaps another one, or shifts memory
    /// by part of a frame. [`MasterError::TooManyApertures`] if there are more than [`MAX_APERTURES`].
    pub fn with_apertures(self, apertures: &[Aperture]) -> Result<Self, MasterError> {
        for (n, aperture) in apertures.iter().enumerate() {
            let fits = |base: u32| aperture.bytes <= (1 << 32) - u64::from(base);
            let apart = |a: u32, b: u32, bytes: u64| {
                u64::from(a) + aperture.bytes <= b.into() || u64::from(b) + bytes <= a.into()
            };
            if aperture.bytes == 0 || !fits(aperture.bus.raw()) || !fits(aperture.phys.raw()) {
                return Err(MasterError::Aperture(*aperture));
            }
            let clear = apertures[..n].iter().all(|other| {
                apart(aperture.bus.raw(), other.bus.raw(), other.bytes)
                    && apart(aperture.phys.raw(), other.phys.raw(), other.bytes)
            });
            // With a shift by part of a frame, a frame of memory would lie in two frames of the bus.
            let whole = aperture.bus.raw() % FRAME_SIZE == aperture.phys.raw() % FRAME_SIZE;
            if !clear || !whole {
                return Err(MasterError::Aperture(*aperture));
            }
        }
        let apertures = ArrayVec::try_from(apertures).map_err(|_| MasterError::TooManyApertures)?;
        let mask = self.mask;
        Ok(self.reaching(mask, apertures))
    }

    fn reaching(self, mask: BusAddr, apertures: ArrayVec<Aperture, MAX_APERTURES>) -> Self {
        let reach = apertures.iter().filter_map(|aperture| aperture.reach(mask)).collect();
        Self { mask, apertures, reach, ..self }.stamped()
    }

    /// Gives the description a number that no other one has.
    fn stamped(self) -> Self {
        let master = Self { stamp: Stamp::next(), ..self };
        name_master(master.number(), master.name);
        master
    }

    /// Keeps the master's buffers and segments from crossing a multiple of `bytes` on the bus, a power of two.
    ///
    /// # Errors
    ///
    /// [`MasterError::Boundary`] if `bytes` is not a power of two of at least 4 KiB.
    pub fn with_boundary(self, bytes: u32) -> Result<Self, MasterError> {
        if !bytes.is_power_of_two() || bytes < FRAME_SIZE {
            return Err(MasterError::Boundary(bytes));
        }
        Ok(Self { boundary: Some(bytes), ..self }.stamped())
    }

    /// Limits the master's scatter-gather segments to `bytes` each.
    ///
    /// # Errors
    ///
    /// [`MasterError::Segment`] if `bytes` is less than 4 KiB.
    pub fn with_max_segment(self, bytes: u32) -> Result<Self, MasterError> {
        if bytes < FRAME_SIZE {
            return Err(MasterError::Segment(bytes));
        }
        Ok(Self { max_segment: bytes, ..self })
    }

    /// Returns the number of this description, if it has one. Copies have one number.
    pub(super) const fn stamp(&self) -> Option<NonZeroU32> {
        self.stamp.0
    }

    /// Returns the number that events have of it. Copies of a description have one number. It is 0 if there were no
    /// more numbers.
    pub fn number(&self) -> u32 {
        self.stamp.0.map_or(0, NonZeroU32::get)
    }

    /// Returns its name in tables and reports.
    pub const fn name(&self) -> Name {
        self.name
    }

    /// Returns the limits of where its buffers may lie, for refusals.
    pub(super) fn limits(&self) -> Reach {
        let ranges = self.apertures.as_slice() != [Aperture::IDENTITY];
        Reach { last: self.mask, ranges, boundary: self.boundary }
    }

    pub(super) fn area(&self) -> Result<AreaId, AllocError> {
        self.area.map_err(AllocError::NoArea)
    }

    /// Returns the last bus address that the master drives.
    pub const fn mask(&self) -> BusAddr {
        self.mask
    }

    /// Returns the boundary that no buffer or segment crosses, in bytes.
    pub const fn boundary(&self) -> Option<u32> {
        self.boundary
    }

    /// Returns the bytes of the largest segment.
    pub const fn max_segment(&self) -> u32 {
        self.max_segment
    }

    /// Yields the parts of `run` where a buffer may lie: within reach, and without crossing a boundary.
    pub(super) fn places(&self, run: FrameRange) -> Places<'_> {
        Places {
            boundary: self.boundary,
            apertures: self.reach.iter(),
            run,
            left: Reachable::unshifted(FrameRange::EMPTY),
        }
    }

    /// Returns the bus address at which the master sees physical address `at`, or `None` if it does not reach it.
    #[inline]
    pub fn bus(&self, at: PhysAddr) -> Option<BusAddr> {
        match self.apertures[..] {
            [Aperture::IDENTITY] if at.raw() <= self.mask.raw() => Some(BusAddr::new(at.raw())),
            _ => self.bus_run(at).map(|(bus, _)| bus),
        }
    }

    /// Returns the bus address at which the master sees physical address `at`, and how many bytes from there on are
    /// consecutive on both sides.
    pub(super) fn bus_run(&self, at: PhysAddr) -> Option<(BusAddr, u64)> {
        let (bus, left) = self.apertures.iter().find_map(|aperture| {
            let offset = at.raw().checked_sub(aperture.phys.raw())?;
            let left = aperture.bytes.checked_sub(offset.into())?;
            (left > 0).then(|| (BusAddr::new(aperture.bus.raw() + offset), left))
        })?;
        let driven = (u64::from(self.mask.raw()) + 1).checked_sub(bus.raw().into())?;
        (driven > 0).then(|| (bus, left.min(driven)))
    }

    /// Returns the physical address behind a bus address, or `None` if there is no memory or the master cannot drive
    /// the address.
    pub fn phys(&self, at: BusAddr) -> Option<PhysAddr> {
        if at > self.mask {
            return None;
        }
        self.apertures.iter().find_map(|aperture| {
            let offset = at.raw().checked_sub(aperture.bus.raw())?;
            (u64::from(offset) < aperture.bytes).then(|| PhysAddr::new(aperture.phys.raw() + offset))
        })
    }
}

/// The iterator of [`Master::places`].
pub(super) struct Places<'m> {
    boundary: Option<u32>,
    apertures: slice::Iter<'m, Reachable>,
    run: FrameRange,
    /// The part of the current aperture that was not yielded yet.
    left: Reachable,
}

impl Iterator for Places<'_> {
    type Item = Reachable;

    #[inline]
    fn next(&mut self) -> Option<Reachable> {
        while self.left.frames.is_empty() {
            let &Reachable { frames, shift } = self.apertures.next()?;
            self.left = Reachable { frames: frames.intersection(self.run), shift };
        }
        let Reachable { frames, shift } = self.left;
        let count = match self.boundary {
            Some(boundary) => {
                let pages = boundary >> FRAME_SHIFT;
                (pages - frames.start().wrapping_add(shift) % pages).min(frames.count())
            }
            None => frames.count(),
        };
        let (frames, left) = frames.split_at(count)?;
        self.left.frames = left;
        Some(Reachable { frames, shift })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    const SOC: Aperture =
        Aperture { bus: BusAddr::new(0xc000_0000), phys: PhysAddr::new(0x4000_0000), bytes: 0x2000_0000 };

    #[test]
    fn addresses_go_through_the_aperture_and_back() {
        let master = Master::new("ve", None).with_apertures(&[SOC]).unwrap();
        assert_eq!(master.bus(PhysAddr::new(0x4000_1000)), Some(BusAddr::new(0xc000_1000)));
        assert_eq!(master.phys(BusAddr::new(0xdfff_ffff)), Some(PhysAddr::new(0x5fff_ffff)));
        assert_eq!(master.bus(PhysAddr::new(0x6000_0000)), None);
        assert_eq!(master.phys(BusAddr::new(0x4000_1000)), None);
    }

    #[test]
    fn a_mask_cuts_apertures_to_the_last_byte() {
        let master = Master::new("ve", None).with_apertures(&[SOC]).unwrap().with_mask(BusAddr::new(0xc000_2fff));
        let reach = |bytes| [Reachable { frames: FrameRange::within(0x4000_0000, bytes), shift: 0x80000 }];
        assert_eq!(master.reach.to_vec(), reach(0x3000));
        let short = master.with_mask(BusAddr::new(0xc000_2ffe));
        assert_eq!(short.reach.to_vec(), reach(0x2000));
        let none = short.with_mask(BusAddr::new(0xbfff_ffff));
        assert_eq!(none.reach.len(), 0);
        assert_eq!(Master::new("all", None).reach.to_vec(), [Reachable::unshifted(FrameRange::ALL)]);
    }

    #[test]
    fn boundaries_are_the_bus_s() {
        let odd = Aperture { bus: BusAddr::new(0x0000_3000), phys: PhysAddr::new(0x4000_0000), bytes: 0x10_0000 };
        let master = Master::new("ac97", None).with_apertures(&[odd]).unwrap().with_boundary(0x4000).unwrap();
        let within = FrameRange::within(0x4000_0000, 0x7000);
        let parts: Vec<_> = master.places(within).map(|part| (part.frames.start(), part.frames.end())).collect();
        assert_eq!(parts, [(0x40000, 0x40001), (0x40001, 0x40005), (0x40005, 0x40007)]);
    }

    #[test]
    fn a_master_whose_area_was_refused_has_no_other() {
        let (why, area) = ("its reserved-memory/bank was refused: size is 0", AreaId(1, RegionId::NONE));
        assert_eq!(Master::without_area("mfc", why).area(), Err(AllocError::NoArea(Some(why))));
        assert_eq!(Master::new("mfc", Some(area)).area(), Ok(area));
        let line = "the device has no area to allocate from: its reserved-memory/bank was refused: size is 0";
        assert_eq!(AllocError::NoArea(Some(why)).to_string(), line);
    }

    #[test]
    fn refusals_are_one_clear_line() {
        let long = Aperture { bytes: 0x8000_0000, ..SOC };
        let refused = Master::new("x", None).with_apertures(&[long]).unwrap_err();
        let text = "dma-ranges: 0x80000000 bytes from bus 0xc0000000 at 0x40000000 are no aperture of this bus";
        assert_eq!(refused.to_string(), text);
        let shifted = Aperture { bus: BusAddr::new(0xc000_0200), ..SOC };
        let endless = Aperture { bytes: u64::MAX, ..SOC };
        assert_eq!(Master::new("x", None).with_apertures(&[endless]).unwrap_err(), MasterError::Aperture(endless));
        assert_eq!(Master::new("x", None).with_apertures(&[shifted]).unwrap_err(), MasterError::Aperture(shifted));
        assert_eq!(Master::new("x", None).with_apertures(&[SOC; 2]).unwrap_err(), MasterError::Aperture(SOC), "twice");
        let many: [_; 5] = core::array::from_fn(|n| {
            let base = n as u32 * 0x1000_0000;
            Aperture { bus: BusAddr::new(base), phys: PhysAddr::new(base), bytes: 0x1000_0000 }
        });
        assert_eq!(Master::new("x", None).with_apertures(&many).unwrap_err(), MasterError::TooManyApertures);
        let boundary = Master::new("x", None).with_boundary(0x3000).unwrap_err();
        assert_eq!(boundary.to_string(), "boundary of 0x3000 bytes is not a power of two of 4 KiB or more");
        let segment = Master::new("x", None).with_max_segment(512).unwrap_err();
        assert_eq!(segment.to_string(), "largest segment of 512 B is less than a frame");
    }
}
