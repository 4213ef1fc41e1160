//! The camera's film: a ring of streaming buffers that the camera fills and the CPU reads back by checksum.

use super::failure::Failure;
use super::hops::Hop;
use super::line::Line;
use super::memory::{CAMERA, alloc, master};
use super::mock::Window;
use super::mock::camera::{self, Full};
use super::port::DevicePort;
use crate::kernel::state::Kernel;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use carveout::dma::{Cpu, Device, Effort, FromDevice, Stream};
use carveout_armv7a::mmu::Armv7a;

/// The camera's frames: 640x480 at two bytes a pixel.
const FRAME_BYTES: u32 = 640 * 480 * 2;
const FRAMES: u32 = 12;
const RING: usize = 4;
/// The seed of the camera's pictures. Any number serves.
const SEED: u32 = 2010;
/// The camera fills a ring; the CPU reads each frame, compares checksums, and queues the buffer again.
pub(super) fn film(kernel: &'static Kernel, hops: &mut Vec<Hop>) -> Result<(), Failure> {
    static REGISTERS: camera::Registers = camera::Registers::new();
    let mut hardware = camera::Hardware::new(&REGISTERS);
    let mut driver = camera::Driver::new(&REGISTERS).ok_or(Failure::NoDevice("camera"))?;
    let master = master(kernel, CAMERA, "camera");
    // SAFETY: the device works inside `Line::wait` alone, while the ring owns its buffers (I4).
    let mut port = unsafe { DevicePort::new(kernel.dma, master.clone()) };
    let line = Line::of(kernel, CAMERA, "camera")?;

    // All buffers are made before the camera gets the first: it would have to give that back if there were no room.
    let buffers: Vec<_> =
        (0..RING).map(|_| alloc(kernel, &master, FRAME_BYTES, "camera frame")).collect::<Result<_, _>>()?;
    let mut ring = VecDeque::new();
    for buffer in buffers {
        let buffer = buffer.into_stream::<FromDevice>().for_device();
        driver.queue(Window { at: buffer.bus(), len: FRAME_BYTES }).map_err(|Full| line.silent())?;
        ring.push_back(buffer);
    }
    driver.start(SEED, FRAME_BYTES);
    let mut result = Ok(());
    for _ in 0..FRAMES {
        let done = line.wait(|mut irq| hardware.run(&mut port, &mut irq), || driver.finish())?;
        let buffer = take_back(&mut ring, done.buffer).ok_or_else(|| line.silent())?;
        result = match done.frame {
            Ok(frame) if camera::checksum(buffer.bytes()) == frame.checksum => Ok(()),
            Ok(frame) => Err(Failure::Checksum { frame: frame.number }),
            Err(error) => Err(Failure::Camera(error)),
        };
        let buffer = buffer.for_device();
        driver.queue(Window { at: buffer.bus(), len: FRAME_BYTES }).map_err(|Full| line.silent())?;
        ring.push_back(buffer);
        if result.is_err() {
            break;
        }
    }
    driver.stop();
    let effort = ring.iter().fold(Effort::default(), |sum, buffer| sum + buffer.effort());
    while !ring.is_empty() {
        // The stopped camera gives every buffer back, without a frame. What it keeps goes into quarantine.
        let done = line.wait(|mut irq| hardware.run(&mut port, &mut irq), || driver.finish())?;
        drop(take_back(&mut ring, done.buffer).ok_or_else(|| line.silent())?);
    }
    let bytes = FRAME_BYTES as usize * FRAMES as usize;
    hops.push(Hop::new("camera", "4 x Stream", bytes, effort, port.lines()));
    result
}

/// Returns the buffer of the ring that the camera has finished with. Returns `None` if the camera names another.
fn take_back(
    ring: &mut VecDeque<Stream<Armv7a, FromDevice, Device>>,
    done: Window,
) -> Option<Stream<Armv7a, FromDevice, Cpu>> {
    let place = ring.iter().position(|buffer| buffer.bus() == done.at)?;
    let buffer = ring.remove(place)?;
    // SAFETY: the camera's slot of this very buffer reads `Done`, so it has finished with it (I4).
    Some(unsafe { buffer.for_cpu() })
}
