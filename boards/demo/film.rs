//! The camera's film: a ring of streaming buffers that the camera fills and the CPU reads back by checksum.

use super::failure::Failure;
use super::hops::Hop;
use super::line::Line;
use super::memory::{CAMERA, alloc, master};
use super::mock::Window;
use super::mock::camera::{self, Full};
use super::port::DevicePort;
use crate::kernel::state::Kernel;
use crate::println;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use carveout::dma::{Cpu, Device, Effort, FromDevice, Stream};
use carveout_armv7a::mmu::Armv7a;

/// The width and height of the camera's frames without the boot argument `camera=WIDTHxHEIGHT`. A pixel takes two
/// bytes.
const SIZE: (u32, u32) = (640, 480);
/// The largest width or height.
const MOST: u32 = 8192;
const FRAMES: u32 = 12;
const RING: usize = 4;
/// The seed of the camera's pictures. Any number will do.
const SEED: u32 = 2010;

/// Returns the bytes of one of the camera's frames.
fn frame_bytes(kernel: &Kernel) -> u32 {
    let arg = kernel.info.bootargs().get("camera");
    let sizes = arg.and_then(|arg| arg.value).and_then(|value| value.split_once('x'));
    let pixels = |text: &str| text.parse().ok().filter(|pixels| (1..=MOST).contains(pixels));
    let asked = sizes.and_then(|(width, height)| Some((pixels(width)?, pixels(height)?)));
    if let (Some(arg), None) = (arg, asked) {
        println!(
            "refused: {}: write camera=WIDTHxHEIGHT, each at most {MOST}; the camera uses {}x{}",
            arg.text, SIZE.0, SIZE.1
        );
    }
    let (width, height) = asked.unwrap_or(SIZE);
    width * height * 2
}

/// Has the camera fill a ring. The CPU reads each frame, compares checksums, and queues the buffer again.
pub(super) fn film(kernel: &'static Kernel, hops: &mut Vec<Hop>) -> Result<(), Failure> {
    static REGISTERS: camera::Registers = camera::Registers::new();
    let mut hardware = camera::Hardware::new(&REGISTERS);
    let mut driver = camera::Driver::new(&REGISTERS).ok_or(Failure::NoDevice("camera"))?;
    let master = master(kernel, CAMERA, "camera");
    let frame_bytes = frame_bytes(kernel);
    // SAFETY: the device works inside `Line::wait` alone, while the ring owns its buffers (I4).
    let mut port = unsafe { DevicePort::new(kernel.dma, master.clone()) };
    let line = Line::of(kernel, CAMERA, "camera")?;

    // All buffers are made before the camera gets the first one. Otherwise, if there were no room, the camera would
    // have to give buffers back.
    let buffers: Vec<_> =
        (0..RING).map(|_| alloc(kernel, &master, frame_bytes, "camera frame")).collect::<Result<_, _>>()?;
    let mut ring = VecDeque::new();
    for buffer in buffers {
        let buffer = buffer.into_stream::<FromDevice>().for_device();
        driver.queue(Window { at: buffer.bus(), len: frame_bytes }).map_err(|Full| line.silent())?;
        ring.push_back(buffer);
    }
    driver.start(SEED, frame_bytes);
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
        driver.queue(Window { at: buffer.bus(), len: frame_bytes }).map_err(|Full| line.silent())?;
        ring.push_back(buffer);
        if result.is_err() {
            break;
        }
    }
    driver.stop();
    let effort = ring.iter().fold(Effort::default(), |sum, buffer| sum + buffer.effort());
    while !ring.is_empty() {
        // The stopped camera gives every buffer back, without a frame. A buffer that it keeps goes into quarantine.
        let done = line.wait(|mut irq| hardware.run(&mut port, &mut irq), || driver.finish())?;
        drop(take_back(&mut ring, done.buffer).ok_or_else(|| line.silent())?);
    }
    let bytes = frame_bytes as usize * FRAMES as usize;
    hops.push(Hop::new("camera", "4 x Stream", bytes, effort, port.lines()));
    result
}

/// Returns the buffer of the ring that the camera has finished with. Returns `None` if the camera names another buffer.
fn take_back(
    ring: &mut VecDeque<Stream<Armv7a, FromDevice, Device>>,
    done: Window,
) -> Option<Stream<Armv7a, FromDevice, Cpu>> {
    let place = ring.iter().position(|buffer| buffer.bus() == done.at)?;
    let buffer = ring.remove(place)?;
    // SAFETY: the slot of this very buffer reads `Done`, so the camera has finished with the buffer (I4).
    Some(unsafe { buffer.for_cpu() })
}
