//! The photo on a memory card, and the screen's picture that goes back beside it: a result for who has no display.
//!
//! Guarantees: of the card nothing is written but the file `SCREEN.BMP` in the root of its first partition, and that
//! only if `photo.jpg` is there.

use super::bmp;
use super::failure::Failure;
use super::memory::{CODEC, alloc, master};
use crate::drivers::display::Mode;
use crate::drivers::storage::fat::Files;
use crate::drivers::storage::{Backing, BlockError};
use crate::kernel::known::Disk;
use crate::kernel::state::Kernel;
use crate::println;
use alloc::boxed::Box;
use carveout::dma::{Coherent, Cpu, Stream, ToDevice};
use carveout_armv7a::mmu::Armv7a;

const PHOTO: &str = "photo.jpg";
const SCREEN: &str = "SCREEN.BMP";

type CardFiles<'d> = Files<Box<dyn Backing<Error = BlockError> + 'd>>;

/// Opens the card's first partition.
fn files(card: &mut Disk) -> Result<CardFiles<'_>, Failure> {
    let bytes = card.bytes();
    let card = card.as_writable().ok_or(Failure::NoDevice("memory card that can be written"))?;
    Files::open(card.blocks().map_err(Failure::Disk)?, bytes).map_err(Failure::Photo)
}

/// Returns the bytes of the photo.
pub(super) fn size(card: &mut Disk) -> Result<u32, Failure> {
    files(card)?.size(PHOTO).map_err(Failure::Photo)?.ok_or(Failure::NoPhoto(PHOTO))
}

/// Reads the photo. The CPU writes what the codec reads, because a file may lie in pieces.
pub(super) fn read(kernel: &'static Kernel, card: &mut Disk) -> Result<Stream<Armv7a, ToDevice, Cpu>, Failure> {
    let bytes = size(card)?;
    let mut photo = alloc(kernel, &master(kernel, CODEC, "codec"), bytes, "photo")?.into_stream::<ToDevice>();
    let photo_bytes = &mut photo.bytes_mut()[..bytes as usize];
    files(card)?.read(PHOTO, photo_bytes).map_err(Failure::Photo)?;
    Ok(photo)
}

/// Writes the screen's picture to the card.
pub(super) fn keep(card: &mut Disk, frame: &Coherent<Armv7a>) -> Result<(), Failure> {
    let (width, height) = (Mode::VGA.horizontal.visible, Mode::VGA.vertical.visible);
    let mut sum = crc32fast::Hasher::new();
    let mut words = alloc::vec![0; width as usize * 4];
    let header = core::iter::once(bmp::header(width, height).to_vec());
    let rows = (0..height as usize).rev().map(|n| {
        frame.read_at(n * words.len(), &mut words);
        bmp::row(&words)
    });
    let mut bytes = 0;
    let pieces = header.chain(rows).inspect(|piece| {
        sum.update(piece);
        bytes += piece.len();
    });
    files(card)?.write(SCREEN, pieces).map_err(Failure::Photo)?;
    println!("card: {SCREEN} written: {bytes} bytes, CRC-32 {:08x}", sum.finalize());
    Ok(())
}
