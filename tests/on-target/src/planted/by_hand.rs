//! The methods of kernels before the API: mappings that change their type or outlive a transfer, with maintenance by
//! hand. They are correct as long as nothing is forgotten, and so is this code without a bug.

use crate::blk::{Disk, SECTOR, Transfer};
use crate::careless::{Bug, Careless};
use crate::{BYTES, has_words, word};
use carveout::addr::{BusAddr, FRAME_SIZE, FrameRange, PhysAddr};
use carveout::dma::Master;
use carveout::machine::{Cache, Mmu};
use carveout::vm::attr::{Access, MemoryType};
use carveout::vm::mapped::{Mapped, Part};
use carveout::vm::space::{OneEach, Region};
use on_target::{Verdict, ensure_eq};

/// Bytes between the words that are used. Every line of any cache here holds such a word.
const STRIDE: u32 = 32;
/// How often frames change their type. A refill must hit a window of a few accesses, so this is repeated.
const CHANGES: u32 = 24;
/// How often a page that stays mapped is transferred.
const TRANSFERS: u32 = 6;

/// A region for mappings by hand.
pub(crate) struct Hand {
    /// The machine.
    pub(crate) machine: &'static Careless,
    /// One section.
    pub(crate) region: Region<'static, OneEach>,
    /// The disk.
    pub(crate) master: Master,
}

/// Writes a word to each line.
pub(crate) fn fill(machine: &Careless, part: Part<'_>, salt: u32) {
    for n in 0..part.bytes() / STRIDE {
        // SAFETY: a word of a mapping that exists (`Part`) and is the caller's.
        unsafe { pointer(machine, part, n * STRIDE).write_volatile(word(n as usize, salt)) };
    }
}

/// Checks that the word of each line is the one that [`fill`] wrote.
pub(crate) fn has(machine: &Careless, part: Part<'_>, salt: u32) -> Verdict {
    // SAFETY: a word of a mapping that exists (`Part`) and is the caller's.
    let read = |n| unsafe { pointer(machine, part, n * STRIDE).read_volatile() };
    has_words((0..part.bytes() / STRIDE).map(|n| (n as usize, read(n))), salt)
}

/// Returns the CPU's pointer to a byte of a part.
pub(crate) fn pointer(machine: &Careless, part: Part<'_>, offset: u32) -> *mut u32 {
    machine.reach(part.va(), part.bytes()).wrapping_add(offset as usize).cast()
}

impl Hand {
    /// Maps frames from that page of the region on. Nothing may be mapped there.
    pub(crate) fn map(&mut self, page: u32, frames: FrameRange, memory: MemoryType) -> Mapped {
        let va = on_target::after(self.region.range().start(), page * FRAME_SIZE);
        // SAFETY: no other mapping of the frames exists (I1), or the program is `alias`.
        let mapped = unsafe { self.region.map(self.machine, va, frames, memory, Access::ReadWrite) };
        mapped.expect("the page is free")
    }

    /// Ends a mapping.
    pub(crate) fn unmap(&mut self, mapped: Mapped) {
        self.region.unmap(self.machine, mapped);
    }

    fn bus(&self, at: PhysAddr) -> BusAddr {
        self.master.bus(at).expect("the disk reaches all memory")
    }

    /// Changes frames from write-back to non-cacheable and back, at one address, exactly as I3 says.
    pub(crate) fn frames_change_their_type(&mut self, frames: FrameRange) -> Verdict {
        for salt in 0..CHANGES {
            let cached = self.map(0, frames, MemoryType::WriteBack);
            fill(self.machine, cached.all(), salt);
            self.machine.clean(cached.all());
            if self.machine.has(Bug::FlushBeforeUnmap) {
                self.machine.invalidate(cached.all());
            }
            self.unmap(cached);
            let plain = self.map(0, frames, MemoryType::NonCacheable);
            if !self.machine.has(Bug::FlushBeforeUnmap) {
                self.machine.invalidate(plain.all());
            }
            has(self.machine, plain.all(), salt)?;
            fill(self.machine, plain.all(), !salt);
            self.unmap(plain);
            let cached = self.map(0, frames, MemoryType::WriteBack);
            has(self.machine, cached.all(), !salt)?;
            self.unmap(cached);
        }
        Ok(())
    }

    /// Writes one page to the disk and reads it back into another. Both stay mapped write-back. The CPU does not touch
    /// them while the disk works on them.
    pub(crate) fn pages_stay_mapped(&mut self, frames: FrameRange, disk: &mut Disk) -> Verdict {
        let (source, target) = frames.split_at(1).ok_or("too few frames")?;
        let source = self.map(0, source, MemoryType::WriteBack);
        let target = self.map(1, target, MemoryType::WriteBack);
        let (from, to) = (self.bus(source.all().pa()), self.bus(target.all().pa()));
        for salt in 0..TRANSFERS {
            fill(self.machine, source.all(), salt);
            if !self.machine.has(Bug::NoDsb) {
                // The disk may look as soon as the index arrives. The DMB before the index does not drain the outer
                // controller's buffers, so the index can arrive before their contents.
                self.machine.clean(source.all());
                self.machine.device_barrier();
            }
            disk.prepare(Transfer::Out, from, BYTES);
            if self.machine.has(Bug::NoDsb) {
                // The disk looks at its queue only when it is told.
                self.machine.start_clean(source.all());
            }
            disk.go();
            self.stray_write(&source);
            disk.wait()?;
            disk.prepare(Transfer::In, to, BYTES);
            disk.go();
            self.stray_write(&target);
            disk.wait()?;
            self.machine.invalidate(target.all());
            has(self.machine, target.all(), salt)?;
        }
        self.unmap(source);
        self.unmap(target);
        Ok(())
    }

    /// Writes to the last lines, which the disk reaches last.
    fn stray_write(&self, mapped: &Mapped) {
        if self.machine.has(Bug::RawPointer)
            && let Some(last) = mapped.part(mapped.bytes() - 4 * STRIDE, mapped.bytes())
        {
            fill(self.machine, last, !0);
        }
    }

    /// Writes the CPU's own data before and after a buffer while the disk writes the buffer. The data are in separate
    /// lines.
    pub(crate) fn a_buffer_lies_between_data(&mut self, frames: FrameRange, disk: &mut Disk) -> Verdict {
        let mapped = self.map(0, frames, MemoryType::WriteBack);
        // A line has 64 bytes at most.
        let start = if self.machine.has(Bug::SharedLine) { STRIDE / 2 } else { 64 };
        let end = start + SECTOR;
        let buffer = mapped.part(start, end).ok_or("too few bytes")?;
        let data = [0, end].map(|offset| pointer(self.machine, mapped.all(), offset));
        for salt in 0..TRANSFERS {
            self.machine.clean(buffer);
            self.machine.device_barrier();
            disk.prepare(Transfer::In, self.bus(buffer.pa()), SECTOR);
            disk.go();
            for place in data {
                // SAFETY: the word is in the mapping, and not in the buffer.
                unsafe { place.write_volatile(salt) };
            }
            disk.wait()?;
            self.machine.invalidate(buffer);
            has(self.machine, buffer, TRANSFERS - 1)?;
            // SAFETY: the word is in the mapping, and not in the buffer.
            let found = data.map(|place| unsafe { place.read_volatile() });
            ensure_eq!(found, [salt; 2], "the data beside the buffer");
        }
        self.unmap(mapped);
        Ok(())
    }
}
