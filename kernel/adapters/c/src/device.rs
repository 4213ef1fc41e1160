//! Devices: what a kernel in C says of a bus master.
//!
//! Guarantees: a description is looked at in each call, and kept by none. What no bus master can be is refused there.

use crate::failure::Refusal;
use crate::instance::Instance;
use crate::promise::Contract;
use crate::text;
use carveout::addr::{BusAddr, PhysAddr};
use carveout::dma::{self, Master};
use carveout::name::Name;
use core::ffi::c_char;
use core::slice;

/// One entry of a bus's `dma-ranges`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Aperture {
    /// The first bus address.
    pub(crate) bus: u32,
    /// The first byte of the memory behind it.
    pub(crate) phys: u32,
    /// The number of bytes, 1 to 4 GiB.
    pub(crate) bytes: u64,
}

/// A device that accesses memory by itself: what Linux keeps in `struct device`. The kernel fills it in. All zeros but
/// for the name is a device that drives 32 bits of address, on a bus without translation, with the first area.
#[repr(C)]
#[derive(Debug)]
pub struct Device {
    /// Its name in tables and reports, in UTF-8: at most 31 bytes, unlike the name of any other device. What needs it
    /// later copies it.
    pub(crate) name: *const c_char,
    /// The area that its buffers come from: a place among the areas that `carveout_init` got.
    pub(crate) area: u32,
    /// The last bus address that it can drive, Linux's `dma_mask`; 0 stands for 0xffffffff.
    pub(crate) dma_mask: u32,
    /// The alignment of its buffers on the bus, a power of two in bytes; 0 stands for a page of 4 KiB.
    pub(crate) align: u32,
    /// None of its buffers crosses a multiple of this on the bus, a power of two of 4 KiB or more; 0 stands for no
    /// limit. It is one more than Linux's `dma_get_seg_boundary`.
    pub(crate) boundary: u32,
    /// The `dma-ranges` of its bus; NULL stands for bus addresses that are physical ones.
    pub(crate) apertures: *const Aperture,
    /// How many there are, at most 4.
    pub(crate) aperture_count: usize,
    /// The contract that its buffers come from; all zeros stands for none.
    pub(crate) contract: Contract,
}

impl Device {
    /// Returns its name.
    pub(crate) fn name(&self) -> Result<Name, Refusal> {
        // SAFETY: the name is NULL or a string, as the header says of it.
        unsafe { text::name("device", self.name) }
    }

    /// Returns the bus master that it describes.
    pub(crate) fn master(&self, instance: &Instance) -> Result<Master, Refusal> {
        let dma = instance.dma();
        let area = dma.area_at(self.area as usize);
        let area = area.ok_or(Refusal::Area { number: self.area, areas: instance.areas() })?;
        let mut master = Master::new(&self.name()?, Some(area));
        if !self.apertures.is_null() {
            // SAFETY: it points to as many apertures, as the header says of it.
            let apertures = unsafe { slice::from_raw_parts(self.apertures, self.aperture_count.min(MORE_THAN_ANY)) };
            let mut list = [dma::Aperture::IDENTITY; MORE_THAN_ANY];
            for (to, from) in list.iter_mut().zip(apertures) {
                let (bus, phys) = (BusAddr::new(from.bus), PhysAddr::new(from.phys));
                *to = dma::Aperture { bus, phys, bytes: from.bytes };
            }
            master = master.with_apertures(&list[..apertures.len()])?;
        }
        if self.dma_mask != 0 {
            master = master.with_mask(BusAddr::new(self.dma_mask));
        }
        if self.boundary != 0 {
            master = master.with_boundary(self.boundary)?;
        }
        Ok(master)
    }

    /// Returns the alignment of its buffers, as an allocation takes it.
    pub(crate) fn align(&self) -> u32 {
        self.align.max(1)
    }
}

/// More apertures than a master may have.
const MORE_THAN_ANY: usize = dma::MAX_APERTURES + 1;
