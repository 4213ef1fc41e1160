//! Files in the root of a disk's first partition, which holds a FAT16, by the crate embedded-sdmmc.
//!
//! Guarantees: a file that is read comes whole, or an error says why. A file that [`Files::write`] wrote is whole on the
//! disk when it returns `Ok`. Nothing else of the disk changes but the directory and the tables that lead to the file,
//! and nothing outside of the partition, whatever its tables say. A partition whose description does not add up is
//! refused before the crate sees it: the crate computes with what is written there.
//!
//! Names are short ones: eight letters, a dot and three, in any case.
//!
//! embedded-sdmmc serves because it is `no_std` without an allocator, is kept by the Rust embedded community, and reads
//! partition tables. Of fatfs the last release that needs no `std` wants `core_io`, which follows nightly compilers; it
//! is what the tests compare with. Embedded-sdmmc moves one sector at a time, so a few blocks are kept here, and one goes
//! to the disk when another takes its place.

use super::{BLOCK, Backing, BlockError, SECTOR};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use arrayvec::ArrayVec;
use core::cell::RefCell;
use core::fmt;
use core::ops::Range;
use embedded_sdmmc::{
    Block, BlockCount, BlockDevice, BlockIdx, Directory, Error, Mode, RawVolume, TimeSource, Timestamp, VolumeIdx,
    VolumeManager,
};

/// Why a file was not read or written.
#[derive(Debug)]
pub enum FileError {
    /// The first partition holds no FAT16.
    NoPartition(&'static str),
    /// Anything else.
    Failed(Error<DiskFailed>),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPartition(why) => write!(f, "no FAT16 in the first partition: {why}"),
            Self::Failed(Error::DeviceError(error)) => error.fmt(f),
            Self::Failed(Error::DiskFull | Error::NotEnoughSpace) => f.write_str("the FAT partition is full"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for FileError {}

impl From<Error<DiskFailed>> for FileError {
    fn from(error: Error<DiskFailed>) -> Self {
        match error {
            Error::FormatError(why) => Self::NoPartition(why),
            other => Self::Failed(other),
        }
    }
}

/// What the disk says was wrong.
#[derive(Debug)]
pub struct DiskFailed(BlockError);

impl fmt::Display for DiskFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for DiskFailed {}

/// There is no clock that knows the date: files are of 1 January 2000.
struct NoClock;

impl TimeSource for NoClock {
    fn get_timestamp(&self) -> Timestamp {
        Timestamp { year_since_1970: 30, zero_indexed_month: 0, zero_indexed_day: 0, hours: 0, minutes: 0, seconds: 0 }
    }
}

/// The disk by sectors, as embedded-sdmmc wants it, of which a few blocks are kept.
struct Kept<B>(RefCell<Inner<B>>);

/// Blocks that are kept: the data's, those of the tables, and the directory's.
const SLOTS: usize = 4;

struct Inner<B> {
    disk: B,
    /// How many the disk has, and which of them are the partition's.
    sectors: u32,
    partition: Range<u32>,
    /// The one used last is the last.
    slots: ArrayVec<Slot, SLOTS>,
}

/// A block that is kept.
struct Slot {
    block: u32,
    bytes: Box<[u8]>,
    changed: bool,
}

impl Slot {
    /// Writes the block, if it changed.
    fn flush(&mut self, disk: &mut impl Backing<Error = BlockError>) -> Result<(), DiskFailed> {
        if self.changed {
            disk.write(self.block, &self.bytes).map_err(DiskFailed)?;
            self.changed = false;
        }
        Ok(())
    }
}

impl<B: Backing<Error = BlockError>> Inner<B> {
    /// Writes what changed.
    fn flush(&mut self) -> Result<(), DiskFailed> {
        self.slots.iter_mut().try_for_each(|slot| slot.flush(&mut self.disk))
    }

    /// Returns the slot of a block, which is kept from here on.
    fn slot(&mut self, block: u32) -> Result<&mut Slot, DiskFailed> {
        let mut slot = match self.slots.iter().position(|slot| slot.block == block) {
            Some(n) => self.slots.remove(n),
            None if self.slots.is_full() => {
                self.slots[0].flush(&mut self.disk)?;
                self.slots.remove(0)
            }
            None => Slot { block: u32::MAX, bytes: vec![0; BLOCK].into(), changed: false },
        };
        if slot.block != block {
            self.disk.read(block, &mut slot.bytes).map_err(DiskFailed)?;
            slot.block = block;
        }
        self.slots.push(slot);
        Ok(self.slots.last_mut().expect("it was just pushed"))
    }

    /// Returns a sector as it is kept; it is to be written later if it `changes`.
    fn sector(&mut self, sector: u32, changes: bool) -> Result<&mut [u8], DiskFailed> {
        if sector >= self.sectors {
            return Err(DiskFailed(format!("sector {sector} is past the end of the disk").into()));
        }
        if changes && !self.partition.contains(&sector) {
            return Err(DiskFailed(format!("sector {sector} is not the partition's").into()));
        }
        let per_block = (BLOCK / SECTOR) as u32;
        let slot = self.slot(sector / per_block)?;
        slot.changed |= changes;
        let at = (sector % per_block) as usize * SECTOR;
        Ok(&mut slot.bytes[at..at + SECTOR])
    }
}

impl<B: Backing<Error = BlockError>> BlockDevice for Kept<B> {
    type Error = DiskFailed;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), DiskFailed> {
        let mut inner = self.0.borrow_mut();
        blocks.iter_mut().zip(start.0..).try_for_each(|(to, sector)| {
            to.contents.copy_from_slice(inner.sector(sector, false)?);
            Ok(())
        })
    }

    fn write(&self, blocks: &[Block], start: BlockIdx) -> Result<(), DiskFailed> {
        let mut inner = self.0.borrow_mut();
        blocks.iter().zip(start.0..).try_for_each(|(from, sector)| {
            inner.sector(sector, true)?.copy_from_slice(&from.contents);
            Ok(())
        })
    }

    fn num_blocks(&self) -> Result<BlockCount, DiskFailed> {
        Ok(BlockCount(self.0.borrow().sectors))
    }
}

/// Returns the sectors of the first partition, which lies on the disk and whose description adds up.
fn partition_of<B: Backing<Error = BlockError>>(disk: &mut Inner<B>) -> Result<Range<u32>, FileError> {
    let refused = |why| Err(FileError::NoPartition(why));
    let table = disk.sector(0, false).map_err(Error::DeviceError)?;
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let half =
        |bytes: &[u8], at: usize| u32::from(u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes")));
    if half(table, 510) != 0xaa55 {
        return refused("the disk has no partition table");
    }
    if ![0x04, 0x06, 0x0e].contains(&table[450]) {
        return refused("it is of another type");
    }
    let (start, count) = (word(table, 454), word(table, 458));
    let Some(end) = start.checked_add(count).filter(|&end| end <= disk.sectors) else {
        return refused("it reaches past the end of the disk");
    };
    // What FAT's specification calls BPB (3.1), by offset.
    let bpb = disk.sector(start, false).map_err(Error::DeviceError)?;
    let (reserved, tables, entries, table_sectors) = (half(bpb, 14), u32::from(bpb[16]), half(bpb, 17), half(bpb, 22));
    let sectors = if half(bpb, 19) == 0 { word(bpb, 32) } else { half(bpb, 19) };
    let per_cluster = u32::from(bpb[13]);
    let before = reserved + tables * table_sectors + entries / 16;
    let is_whole = half(bpb, 510) == 0xaa55
        && half(bpb, 11) == SECTOR as u32
        && per_cluster.is_power_of_two()
        && reserved > 0
        && (1..=2).contains(&tables)
        && entries > 0
        && entries.is_multiple_of(16)
        && before < sectors
        && sectors <= count;
    if !is_whole {
        return refused("its description is damaged, or is of another format");
    }
    let clusters = (sectors - before) / per_cluster;
    // The specification's bounds of FAT16 (3.5), and a table that has an entry for each, of two bytes.
    if !(4085..65525).contains(&clusters) || table_sectors * 256 < clusters + 2 {
        return refused("it is a FAT of another width");
    }
    Ok(start..end)
}

type Manager<B> = VolumeManager<Kept<B>, NoClock, 1, 1, 1>;

/// The files in the root of a FAT partition.
pub struct Files<B: Backing<Error = BlockError>> {
    manager: Manager<B>,
    volume: RawVolume,
}

impl<B: Backing<Error = BlockError>> Files<B> {
    /// Opens the first partition of a disk of so many bytes.
    ///
    /// # Errors
    ///
    /// [`FileError::NoPartition`] if it holds no FAT. [`FileError::Failed`] if the disk cannot be read.
    pub fn open(disk: B, bytes: u64) -> Result<Self, FileError> {
        let sectors = u32::try_from(bytes / SECTOR as u64).unwrap_or(u32::MAX);
        let mut inner = Inner { disk, sectors, partition: 0..0, slots: ArrayVec::new() };
        inner.partition = partition_of(&mut inner)?;
        let manager = Manager::new_with_limits(Kept(RefCell::new(inner)), NoClock, 0);
        let volume = manager.open_raw_volume(VolumeIdx(0))?;
        Ok(Self { manager, volume })
    }

    fn root(&self) -> Result<Directory<'_, Kept<B>, NoClock, 1, 1, 1>, FileError> {
        Ok(self.manager.open_root_dir(self.volume)?.to_directory(&self.manager))
    }

    /// Returns the bytes of a file. Returns `None` if there is no such file.
    ///
    /// # Errors
    ///
    /// [`FileError::Failed`] if the directory cannot be read.
    pub fn size(&self, name: &str) -> Result<Option<u32>, FileError> {
        match self.root()?.find_directory_entry(name) {
            Ok(entry) => Ok((!entry.attributes.is_directory()).then_some(entry.size)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a file from its start on until `to` is full.
    ///
    /// # Errors
    ///
    /// [`FileError::Failed`] if there is no such file, if it is shorter, or if it cannot be read.
    pub fn read(&self, name: &str, to: &mut [u8]) -> Result<(), FileError> {
        let root = self.root()?;
        let file = root.open_file_in_dir(name, Mode::ReadOnly)?;
        let mut done = 0;
        while done < to.len() {
            match file.read(&mut to[done..])? {
                0 => return Err(Error::EndOfFile.into()),
                bytes => done += bytes,
            }
        }
        Ok(())
    }

    /// Writes a file, in place of any of that name: its pieces, one after another.
    ///
    /// # Errors
    ///
    /// [`FileError::Failed`] if the partition is full, or if the disk refuses. The file is then of no use.
    pub fn write<P: AsRef<[u8]>>(&self, name: &str, pieces: impl IntoIterator<Item = P>) -> Result<(), FileError> {
        let root = self.root()?;
        let file = root.open_file_in_dir(name, Mode::ReadWriteCreateOrTruncate)?;
        for piece in pieces {
            file.write(piece.as_ref())?;
        }
        file.close()?;
        self.manager.device(|disk| disk.0.get_mut().flush()).map_err(|error| Error::DeviceError(error).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Cursor, Read, Write};
    use std::rc::Rc;
    use std::string::{String, ToString};
    use std::vec::Vec;

    /// A disk in memory, of which some blocks cannot be written.
    #[derive(Clone)]
    struct Plate {
        bytes: Rc<RefCell<Vec<u8>>>,
        writable: u32,
    }

    impl Backing for Plate {
        type Error = BlockError;

        fn read(&mut self, first: u32, to: &mut [u8]) -> Result<(), BlockError> {
            let at = first as usize * BLOCK;
            to.copy_from_slice(&self.bytes.borrow()[at..at + to.len()]);
            Ok(())
        }

        fn write(&mut self, first: u32, from: &[u8]) -> Result<(), BlockError> {
            if first >= self.writable {
                return Err("the disk is worn".into());
            }
            let at = first as usize * BLOCK;
            self.bytes.borrow_mut()[at..at + from.len()].copy_from_slice(from);
            Ok(())
        }
    }

    const DISK: usize = 8 << 20;
    const START: usize = 1 << 20;

    type Judge<'d> = fatfs::FileSystem<Cursor<&'d mut [u8]>>;

    /// A disk of 8 MiB with a partition from 1 MiB, which another crate formatted and wrote a photo into.
    fn disk(photo: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; DISK];
        // An entry of the table: FAT16 by sector numbers, from where, how many.
        bytes[450] = 0x0e;
        bytes[454..458].copy_from_slice(&(START as u32 / 512).to_le_bytes());
        bytes[458..462].copy_from_slice(&((DISK - START) as u32 / 512).to_le_bytes());
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        let options = fatfs::FormatVolumeOptions::new().fat_type(fatfs::FatType::Fat16).bytes_per_cluster(1024);
        fatfs::format_volume(Cursor::new(&mut bytes[START..]), options).unwrap();
        judged(&mut bytes, |disk| disk.root_dir().create_file("photo.jpg").unwrap().write_all(photo).unwrap());
        bytes
    }

    /// Looks at the partition by the other crate.
    fn judged<R>(bytes: &mut [u8], look: impl FnOnce(&Judge<'_>) -> R) -> R {
        let disk = fatfs::FileSystem::new(Cursor::new(&mut bytes[START..]), fatfs::FsOptions::new()).unwrap();
        let result = look(&disk);
        disk.unmount().unwrap();
        result
    }

    fn file(disk: &Judge<'_>, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        disk.root_dir().open_file(name).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn open(bytes: Vec<u8>) -> (Plate, Result<Files<Plate>, FileError>) {
        let plate = Plate { bytes: Rc::new(RefCell::new(bytes)), writable: u32::MAX };
        (plate.clone(), Files::open(plate, DISK as u64))
    }

    fn numbers(count: usize) -> Vec<u8> {
        (0..count).map(|n| (n * 7 + n / 256) as u8).collect()
    }

    #[test]
    fn a_file_is_read_whole() {
        for bytes in [0, 1, 512, 1024, 5000, 300_001] {
            let photo = numbers(bytes);
            let files = open(disk(&photo)).1.unwrap();
            assert_eq!(files.size("photo.jpg").unwrap(), Some(bytes as u32));
            let mut read = vec![0; bytes];
            files.read("Photo.JPG", &mut read).unwrap();
            assert!(read == photo, "{bytes} bytes");
            let short = files.read("photo.jpg", &mut vec![0; bytes + 1]).unwrap_err();
            assert_eq!(short.to_string(), "end of file");
            assert_eq!(files.size("screen.bmp").unwrap(), None);
        }
    }

    #[test]
    fn a_file_that_was_written_is_whole_and_the_other_is_as_it_was() {
        let photo = numbers(50_000);
        let (plate, files) = open(disk(&photo));
        let files = files.unwrap();
        let before = plate.bytes.borrow()[..START].to_vec();
        // A larger file, a smaller one in its place, and a larger one again.
        for bytes in [400_000, 3, 600_001] {
            let wanted = numbers(bytes);
            files.write("screen.bmp", wanted.chunks(1920)).unwrap();
            let mut now = plate.bytes.borrow().clone();
            let (screen, same) = judged(&mut now, |disk| (file(disk, "screen.bmp"), file(disk, "photo.jpg")));
            assert!(screen == wanted && same == photo, "{bytes} bytes");
            assert_eq!(files.size("screen.bmp").unwrap(), Some(bytes as u32));
        }
        let mut now = plate.bytes.borrow().clone();
        assert!(now[..START] == before, "nothing before the partition");
        // What the smaller file did not need is free again: of 1 KiB clusters those of the two files are taken.
        let stats = judged(&mut now, |disk| disk.stats().unwrap());
        assert_eq!(
            stats.total_clusters() - stats.free_clusters(),
            50_000_u32.div_ceil(1024) + 600_001_u32.div_ceil(1024)
        );
    }

    #[test]
    fn a_full_partition_and_a_worn_disk_are_told() {
        let (_, files) = open(disk(&numbers(10)));
        let too_large = files.unwrap().write("screen.bmp", [vec![7; DISK]]).unwrap_err();
        assert_eq!(too_large.to_string(), "the FAT partition is full");
        let mut plate = Plate { bytes: Rc::new(RefCell::new(disk(&[]))), writable: 0 };
        let refused = |plate: &Plate| {
            let files = Files::open(plate.clone(), DISK as u64).unwrap();
            files.write("screen.bmp", [numbers(600_000)]).unwrap_err().to_string()
        };
        assert_eq!(refused(&plate), "the disk is worn");
        // The tables and the directory can be written, but not the last blocks of the file.
        plate.writable = (START + 300_000) as u32 / BLOCK as u32;
        assert_eq!(refused(&plate), "the disk is worn");
    }

    #[test]
    fn the_last_block_of_a_file_reaches_the_disk() {
        let photo = numbers(10);
        let plate = Plate { bytes: Rc::new(RefCell::new(disk(&photo))), writable: u32::MAX };
        let files = Files::open(plate.clone(), DISK as u64).unwrap();
        files.write("screen.bmp", [numbers(5)]).unwrap();
        // The files are open still: nothing waits for them to be closed.
        let mut now = plate.bytes.borrow().clone();
        assert_eq!(judged(&mut now, |disk| file(disk, "screen.bmp")), numbers(5));
    }

    #[test]
    fn nothing_outside_the_partition_is_written() {
        let files = open(disk(&[])).1.unwrap();
        let write = |sector: usize| {
            let block = [Block::new()];
            files.manager.device(|disk| disk.write(&block, BlockIdx(sector as u32)))
        };
        assert!(write(START / SECTOR).is_ok() && write(DISK / SECTOR - 1).is_ok());
        let before = write(START / SECTOR - 1).unwrap_err();
        assert_eq!(before.to_string(), "sector 2047 is not the partition's");
        assert_eq!(write(DISK / SECTOR).unwrap_err().to_string(), "sector 16384 is past the end of the disk");
    }

    #[test]
    fn what_is_no_partition_is_told() {
        let told = |bytes: Vec<u8>| open(bytes).1.err().map_or_else(String::new, |error| error.to_string());
        assert_eq!(told(vec![0; DISK]), "no FAT16 in the first partition: the disk has no partition table");
        let mut other = disk(&[]);
        other[450] = 0x83;
        assert_eq!(told(other), "no FAT16 in the first partition: it is of another type");
        let mut beyond = disk(&[]);
        beyond[454..458].copy_from_slice(&0x7fff_0000_u32.to_le_bytes());
        assert_eq!(told(beyond), "no FAT16 in the first partition: it reaches past the end of the disk");
        // A card cut short has no sector of its description.
        let mut short = disk(&[]);
        short.truncate(START / 2);
        let plate = Plate { bytes: Rc::new(RefCell::new(short)), writable: u32::MAX };
        let refused = Files::open(plate, START as u64 / 2).err().unwrap();
        assert_eq!(refused.to_string(), "no FAT16 in the first partition: it reaches past the end of the disk");
        // Bytes a sector, sectors a cluster, tables, entries of the root, sectors of a table, sectors.
        for (at, byte) in [(12, 4), (13, 3), (13, 0), (14, 0), (16, 0), (16, 9), (17, 1), (19, 0xff), (511, 0)] {
            let mut damaged = disk(&[]);
            damaged[START + at] = byte;
            let line = "no FAT16 in the first partition: its description is damaged, or is of another format";
            assert_eq!(told(damaged), line, "byte {at} is {byte}");
        }
        let mut small = disk(&[]);
        small[START + 13] = 64;
        assert_eq!(told(small), "no FAT16 in the first partition: it is a FAT of another width");
        let mut few = disk(&[]);
        few[START + 22] = 1;
        assert_eq!(told(few), "no FAT16 in the first partition: it is a FAT of another width");
    }

    proptest! {
        /// A damaged card is an error, or what the damage left: never a panic, and it ends.
        #[test]
        fn damage_is_no_panic(damage in prop::collection::vec((0_usize..70_000, any::<u8>()), 1..6), table in any::<bool>()) {
            let mut bytes = disk(&numbers(20_000));
            for (at, byte) in damage {
                // The first bytes of the partition are its description, the tables and the directory.
                bytes[if table { 446 + at % 66 } else { START + if at < 20_000 { at % 64 } else { at - 20_000 } }] = byte;
            }
            if let Ok(files) = open(bytes).1 {
                let _ = files.size("photo.jpg").map(|size| files.read("photo.jpg", &mut vec![0; size.unwrap_or(0).min(1 << 20) as usize]));
                let _ = files.write("screen.bmp", [numbers(30_000)]);
            }
        }
    }
}
