//! What kernels did before there was the API: mappings that change their type or outlive a transfer, with the
//! maintenance done by hand. It is right as long as nothing is forgotten, and so is this without a bug.

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

/// Bytes between the words used: every line of any cache here holds one, and that is enough to meet it.
const STRIDE: u32 = 32;
/// How often frames change their type: the window for a refill is a few accesses wide.
const CHANGES: u32 = 24;
/// How often a page is transferred that stays mapped.
const TRANSFERS: u32 = 6;

/// A region, and who maps there.
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

/// The word of each line is what [`fill`] wrote.
pub(crate) fn has(machine: &Careless, part: Part<'_>, salt: u32) -> Verdict {
    // SAFETY: a word of a mapping that exists (`Part`) and is the caller's.
    let read = |n| unsafe { pointer(machine, part, n * STRIDE).read_volatile() };
    has_words((0..part.bytes() / STRIDE).map(|n| (n as usize, read(n))), salt)
}

/// Where the CPU reaches a byte of a part.
pub(crate) fn pointer(machine: &Careless, part: Part<'_>, offset: u32) -> *mut u32 {
    machine.reach(part.va(), part.bytes()).wrapping_add(offset as usize).cast()
}

impl Hand {
    /// Maps frames from that page of the region on, where nothing is mapped.
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

    /// From write-back to non-cacheable and back, at one address: I3 in its own words.
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

    /// One page goes to the disk and comes back to another; both stay mapped write-back, and the CPU leaves them alone
    /// while the disk works on them.
    pub(crate) fn pages_stay_mapped(&mut self, frames: FrameRange, disk: &mut Disk) -> Verdict {
        let (source, target) = frames.split_at(1).ok_or("too few frames")?;
        let source = self.map(0, source, MemoryType::WriteBack);
        let target = self.map(1, target, MemoryType::WriteBack);
        let (from, to) = (self.bus(source.all().pa()), self.bus(target.all().pa()));
        for salt in 0..TRANSFERS {
            fill(self.machine, source.all(), salt);
            if !self.machine.has(Bug::NoDsb) {
                // The disk may look as soon as its index arrives, which the DMB before that does not keep behind what
                // is in the outer controller's buffers.
                self.machine.clean(source.all());
                self.machine.device_barrier();
            }
            disk.prepare(Transfer::Out, from, BYTES);
            if self.machine.has(Bug::NoDsb) {
                // The disk looks at its queue when it is told.
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

    /// To the last lines: the disk comes to them last.
    fn stray_write(&self, mapped: &Mapped) {
        if self.machine.has(Bug::RawPointer)
            && let Some(last) = mapped.part(mapped.bytes() - 4 * STRIDE, mapped.bytes())
        {
            fill(self.machine, last, !0);
        }
    }

    /// The CPU's own data before and behind a buffer, written while the disk writes that: of lines of their own.
    pub(crate) fn a_buffer_lies_between_data(&mut self, frames: FrameRange, disk: &mut Disk) -> Verdict {
        let mapped = self.map(0, frames, MemoryType::WriteBack);
        // Lines are of 64 bytes at most.
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
                // SAFETY: a word of the mapping, and not of the buffer.
                unsafe { place.write_volatile(salt) };
            }
            disk.wait()?;
            self.machine.invalidate(buffer);
            has(self.machine, buffer, TRANSFERS - 1)?;
            // SAFETY: a word of the mapping, and not of the buffer.
            let found = data.map(|place| unsafe { place.read_volatile() });
            ensure_eq!(found, [salt; 2], "the data beside the buffer");
        }
        self.unmap(mapped);
        Ok(())
    }
}
