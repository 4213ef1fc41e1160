//! Reports for people: what the boot did with the memory, and what is at a faulting address.

use super::state::{Kernel, kernel};
use super::{console, cores};
use crate::println;
use carveout::addr::{Bytes, VirtAddr};
use carveout_armv7a::l2c310::L2c310;
use carveout_armv7a::mmu::Armv7a;
use carveout_boot::upper_half::{DEVICES, FIXMAP, IMAGE, SHARED};
use carveout_rt::address_space::direct_map;
use carveout_rt::exceptions::Exception;
use carveout_rt::start::ImageMap;
use core::fmt;

/// The exit code after an exception.
const FAULTED: i32 = 101;

/// Prints what the boot found of the machine: board, banks, reservations, carve-outs, direct map, refusals.
pub fn boot(kernel: &Kernel) {
    let (core, variant, revision) = Armv7a::core();
    println!("board: {}, {core} r{variant}p{revision}", kernel.info.model().unwrap_or("nameless"));
    let caches = kernel.machine.caches();
    for geometry in caches.geometries() {
        let on = if geometry.level < 2 || kernel.machine.second_level_is_on() { "" } else { ", off" };
        println!("cache: {geometry}{on}");
    }
    if let Some((bytes, ways)) = kernel.outer.map(L2c310::geometry) {
        println!("cache: PL310 {}, {ways} ways", Bytes(bytes.into()));
    }
    if cores::online().count() > 1 {
        println!("cores: {} run", cores::online().count());
    }
    for bank in kernel.info.banks() {
        println!("RAM bank: {bank}");
    }
    for alias in kernel.info.aliases().iter() {
        println!("RAM alias: {alias}");
    }
    kernel.layout.each_claim(|claim| {
        use carveout_boot::layout::ClaimKind::{Area, Firmware, Reserved, Withheld};
        let what = match claim.kind {
            Reserved => "reserved for",
            Firmware => "carved out for firmware:",
            Withheld => "withheld by",
            Area => "carved out for",
        };
        println!("memblock: {} {what} {}", claim.range, claim.holder);
    });
    println!("memblock: {} reserved for the heap", kernel.heap);
    for (n, area) in kernel.layout.areas().iter().enumerate() {
        let kind = if area.lendable { "no-map and reusable" } else { "no-map" };
        let default = if area.default { ", the default" } else { "" };
        let outside = if area.outside_ram { ", outside RAM" } else { "" };
        println!("carve-out: {}, {}, {kind}{default}{outside}", area.name, Bytes(area.bytes()));
        for device in kernel.layout.devices(n) {
            println!("carve-out: {} serves {device}", area.name);
        }
    }
    for refusal in kernel.layout.refusals().iter() {
        println!("refused: {refusal}");
    }
    if kernel.layout.refusals().more() > 0 {
        println!("refused: {} more", kernel.layout.refusals().more());
    }
    for (device, lost) in kernel.layout.devices_without() {
        println!("refused: {device}: no area: {lost}");
    }
    if let Some(map) = direct_map() {
        for run in map.runs() {
            println!("direct map: {} at {}, write-back, rw-", run.frames, run.va);
        }
        for frames in map.left_out() {
            println!("direct map: no room for {frames}");
        }
        if map.more_left_out() > 0 {
            println!("direct map: no room for {} more", Bytes(map.more_left_out()));
        }
    }
    let window = kernel.dma.window();
    let guards =
        if kernel.dma.is_guarded() { "a guard page on either side of each" } else { "guard pages where there is room" };
    println!("window: {} from {} for buffers, {guards}", Bytes(window.bytes()), window.start());
    let image = ImageMap::get();
    for (range, access) in [(&image.text, "r-x"), (&image.rodata, "r--"), (&image.data, "rw-")] {
        println!("image: {}-{}, write-back, {access}", range.start, range.end);
    }
}

/// Prints the audit's verdict. Returns false if it found something.
pub fn audit(kernel: &Kernel) -> bool {
    match cores::audit(kernel) {
        Ok(report) => println!("audit: {report}"),
        Err(finding) => {
            println!("audit: FAILED: {finding}");
            return false;
        }
    }
    true
}

/// What lies at an address.
pub(super) struct At(pub(super) VirtAddr);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(va) = *self;
        let Some(kernel) = kernel() else { return write!(f, "not known yet: the kernel is booting") };
        if kernel.dma.window().contains(va) {
            return write!(f, "CMA window: {}", kernel.dma.place_of(va));
        }
        if kernel.dma.lanes().contains(va) {
            return f.write_str("loan window: no page is open there");
        }
        if SHARED.contains(va) {
            let Some((frame, held)) = direct_map().and_then(|map| map.frame_at(va)) else {
                return write!(f, "direct map: no RAM there");
            };
            let base = frame.base();
            if held {
                return write!(f, "direct map: frame {base}");
            }
            return match kernel.dma.place_of_frame(frame) {
                Some(place) => write!(f, "hole in the direct map, carved out: {place}"),
                None => write!(f, "hole in the direct map: frame {base} of the image or of firmware"),
            };
        }
        if IMAGE.contains(va) {
            let image = ImageMap::get();
            for (core, [stack, faults]) in image.guards.iter().enumerate() {
                for (guard, of) in [(stack, "stack"), (faults, "fault stack")] {
                    if guard.contains(&va) {
                        return write!(f, "guard page of the {of} of core {core}");
                    }
                }
            }
            let parts =
                [(&image.text, "kernel text"), (&image.rodata, "kernel constants"), (&image.data, "kernel data")];
            let part = parts.iter().find(|(range, _)| range.contains(&va));
            return f.write_str(part.map_or("unused part of the image's window", |(_, name)| name));
        }
        f.write_str(match va {
            _ if DEVICES.contains(va) => "devices' registers",
            _ if FIXMAP.contains(va) => "the device tree",
            _ if va.raw() < SHARED.start().raw() => "lower half: no process is mapped",
            _ => "an unused part of the kernel's half",
        })
    }
}

/// Prints which exception happened and what is at its address, and ends the program. This is the hook for exceptions.
pub fn exception(exception: &Exception) -> ! {
    // SAFETY: the interrupted code never runs again, because this function does not return.
    unsafe { console::seize() };
    println!("exception: {exception}");
    if let Some(va) = exception.fault().and_then(|fault| fault.address) {
        println!("exception: at {va}: {}", At(va));
    }
    console::exit(FAULTED)
}
