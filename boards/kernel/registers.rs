//! Mappings of devices' registers for their drivers.

use crate::drivers::mmio::Mmio;
use crate::kernel::devices::{Block, Found};
use crate::println;
use carveout::addr::PhysAddr;
use carveout_rt::address_space::{AddressSpace, DeviceBlock};
use core::ptr::NonNull;

/// Takes a device's registers, and returns where they are mapped. Returns `None`, and prints a line, if they are
/// refused.
pub(super) fn take<R>(space: &mut AddressSpace, at: PhysAddr, bytes: u32) -> Option<(DeviceBlock, NonNull<R>)> {
    match space.map_device(at, bytes) {
        Ok(block) => {
            let Some(first) = block.pointer() else {
                println!("refused: registers at {at}: {bytes} bytes are too few, or the address is misaligned");
                space.give_back(block);
                return None;
            };
            Some((block, first))
        }
        Err(error) => {
            println!("refused: {error}");
            None
        }
    }
}

/// Takes a device's registers for ever, so that no other call gets them. Returns `None`, and prints a line, if they are
/// refused.
pub(super) fn map<R>(space: &mut AddressSpace, block: Block) -> Option<NonNull<R>> {
    take(space, block.at, block.bytes).map(|(_, first)| first)
}

/// Takes the first register block of a device for ever.
///
/// # Safety
///
/// The device has registers that are laid out as `R` there.
pub(super) unsafe fn first<R>(space: &mut AddressSpace, found: &Found<'_>) -> Option<Mmio<R>> {
    let base = map(space, *found.blocks.first()?)?;
    // SAFETY: `map` gives the registers to nobody else, ever. They are laid out as `R` (contract of `first`).
    Some(unsafe { Mmio::new(base, None) })
}
