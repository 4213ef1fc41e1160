//! A buffer that a process shares with the disk, in an address space of its own. One process comes after another, by
//! one number (ASID). A program's accesses are the kernel's own, at the program's addresses.

use crate::blk::{Disk, Transfer};
use crate::careless::{Bug, Careless, Stage};
use crate::{BYTES, has_words, word};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use carveout::addr::{FRAME_SIZE, FrameRange, PhysAddr, VirtAddr};
use carveout::dma::{
    ClientId, DataDirection, Dma, Master, Offer, ShareError, ShareHandle, ShareLimits, ShareRights, Shares, UserAccess,
    UserSpace, UserView,
};
use carveout::vm::attr::MemoryType;
use carveout::vm::mapped::{Mapped, Part};
use carveout::vm::user::Asid;
use carveout::vm::user_tables::UserTables;
use carveout_armv7a::user::in_space;
use carveout_boards::kernel::frames::Frames;
use carveout_rt::probe::{probe_read32, probe_write32};
use on_target::{Verdict, after, ensure};

/// Processes, one after another.
const PROCESSES: u32 = 4;
/// How often each gives its pages to the disk.
const TURNS: u32 = 2;
/// Bytes between the words used: every line of any cache here holds one.
const STRIDE: u32 = 32;
/// Pages of the buffer. The process has the first two, and the third by another handle.
const PAGES: u32 = 4;
/// Where a process has a page of its own, in the section in which it is given pages.
const OWN: VirtAddr = VirtAddr::new(0x0010_0000);
const LIMITS: ShareLimits = ShareLimits { clients: 2, grants: 4, buffers: 1 };

/// An address space that may map its pages wrongly.
struct CarelessSpace {
    tables: UserTables<Careless>,
    /// Whether it chooses another attribute than the kernel has.
    other: bool,
    /// How many pages it maps that it was not told of.
    more: u32,
}

// SAFETY: the duties are those of `UserTables`, which does the work. What a bug breaks is the point.
unsafe impl UserSpace for CarelessSpace {
    fn first_level(&self) -> PhysAddr {
        self.tables.first_level()
    }

    fn reserve(&self, pages: u32) -> Option<VirtAddr> {
        self.tables.reserve(pages + self.more)
    }

    fn release(&self, va: VirtAddr, pages: u32) {
        self.tables.release(va, pages + self.more);
    }

    fn map(&self, va: VirtAddr, part: Part<'_>, access: UserAccess) {
        if !self.other && self.more == 0 {
            return self.tables.map(va, part, access);
        }
        let memory = match part.mapped().memory() {
            MemoryType::WriteBack if self.other => MemoryType::NonCacheable,
            _ if self.other => MemoryType::WriteBack,
            memory => memory,
        };
        let bytes = part.bytes() + self.more * FRAME_SIZE;
        let frames = FrameRange::covering(part.pa().raw().into(), bytes.into());
        // SAFETY: it is not so, or not for all of them: that is the bug.
        let wrong = unsafe { Mapped::assume(part.va(), frames, memory) };
        self.tables.map(va, wrong.all(), access);
    }

    fn unmap(&self, va: VirtAddr, pages: u32) {
        self.tables.unmap(va, pages + self.more);
    }
}

/// What the processes share.
pub(crate) struct Shared<'d> {
    /// The machine.
    pub(crate) machine: &'static Careless,
    /// The area that bugs are planted in.
    pub(crate) dma: &'static Dma<Careless>,
    /// The disk's part in it.
    pub(crate) master: Master,
    /// The disk.
    pub(crate) disk: &'d mut Disk,
}

/// A process, while it is there.
struct Process {
    space: Arc<CarelessSpace>,
    client: ClientId,
}

fn refused(error: ShareError) -> String {
    error.to_string()
}

impl Shared<'_> {
    /// All of it.
    pub(crate) fn work(&mut self) -> Verdict {
        let shares: &'static Shares<Careless> =
            Box::leak(Box::new(Shares::new(self.dma, LIMITS).map_err(|_| "the heap is full")?));
        let take = |count, align| Frames::take(count, align).ok_or("the heap is full");
        // Two sets: nothing of a process is where the one before it had it.
        let mut memory = [(take(3, 2 * FRAME_SIZE)?, take(1, 1)?), (take(3, 2 * FRAME_SIZE)?, take(1, 1)?)];
        for round in 0..PROCESSES {
            let (tables, own) = &mut memory[round as usize % 2];
            self.process(shares, tables, own, round)?;
        }
        Ok(())
    }

    /// A process comes, shares a buffer with the disk, loses it, gets other pages of it, and goes.
    fn process(&mut self, shares: &'static Shares<Careless>, tables: &Frames, own: &mut Frames, round: u32) -> Verdict {
        own.words()[0] = round;
        let asid = Asid::new(1).ok_or("no ASID")?;
        // SAFETY: the memory is held for longer than the tables; the process before it, which had the number, is gone.
        let tables = unsafe { UserTables::new(self.machine, asid, tables.frames()) }.ok_or("the heap is full")?;
        // SAFETY: held for longer than the tables, and the direct map has it write-back.
        let mapped = unsafe { tables.map_own(OWN, own.frames(), Some(UserAccess::ReadWrite)) };
        ensure!(mapped, "no room for a page of its own");
        let other = self.machine.has(Bug::ShareAttribute);
        let space = Arc::new(CarelessSpace { tables, other, more: self.machine.has(Bug::ShareLongRange).into() });
        let driver = shares.add_client("driver", None, (PAGES * FRAME_SIZE).into()).map_err(refused)?;
        let client = shares.add_client("process", Some(space.clone()), 0).map_err(refused)?;
        let process = Process { space, client };

        let view = if round.is_multiple_of(2) { UserView::Cached } else { UserView::WriteCombining };
        let film = shares.create(driver, &self.master, PAGES * FRAME_SIZE, view, "film").map_err(refused)?;
        self.shared(shares, &process, (driver, film), round)?;

        shares.remove_client(client).map_err(refused)?;
        self.machine.stage.set(Stage::Ending);
        drop(process);
        self.machine.stage.set(Stage::Elsewhere);
        shares.remove_client(driver).map_err(refused)?;
        Ok(())
    }

    fn shared(
        &mut self,
        shares: &'static Shares<Careless>,
        process: &Process,
        (driver, film): (ClientId, ShareHandle),
        round: u32,
    ) -> Verdict {
        let offer = |pages, name| {
            let rights = ShareRights::READ | ShareRights::WRITE;
            shares.share(driver, film, &Offer { to: process.client, rights, pages, name }).map_err(refused)
        };
        let part = offer((0, 2), "part")?;
        let at = shares.map(process.client, part).map_err(refused)?;
        ensure!(process.read(OWN) == Some(round), "the process's own page");
        for turn in 0..TURNS {
            let salt = 64 + TURNS * round + turn;
            shares.set_cpu(process.client, part, 0..2, UserAccess::ReadWrite).map_err(refused)?;
            process.fill(at, 2, salt);
            let both = shares.lend(driver, film, 0..2, &self.master, DataDirection::Bidirectional).map_err(refused)?;
            let second = both.bus().checked_add(BYTES).ok_or("the end of the bus")?;
            self.disk.transfer(Transfer::Out, both.bus(), BYTES)?;
            self.disk.transfer(Transfer::In, second, BYTES)?;
            // SAFETY: the disk is done with it.
            unsafe { both.finish() };
            shares.set_cpu(process.client, part, 0..2, UserAccess::Read).map_err(refused)?;
            process.has(at, salt)?;
            process.has(after(at, FRAME_SIZE), salt)?;
        }
        let reached = self.a_page_beyond(shares, process, (driver, film), after(at, 2 * FRAME_SIZE))?;

        self.machine.stage.set(Stage::Revoking);
        let revoked = shares.revoke(driver, film);
        self.machine.stage.set(Stage::Elsewhere);
        ensure!(revoked == Ok(1), "revoked: {revoked:?}");
        // The address is free, and what comes there next is another page.
        let tail = offer((2, 3), "tail")?;
        let next = shares.map(process.client, tail).map_err(refused)?;
        ensure!(next == at, "the addresses that are free are used again");
        shares.set_cpu(process.client, tail, 0..1, UserAccess::Read).map_err(refused)?;
        process.has(next, 64 + TURNS * round + TURNS - 1)?;
        ensure!(!reached, "the process wrote to a page that it was not given");
        Ok(())
    }

    /// The disk writes the page behind those of the process, which tries to write it too. Returns whether it could.
    fn a_page_beyond(
        &mut self,
        shares: &'static Shares<Careless>,
        process: &Process,
        (driver, film): (ClientId, ShareHandle),
        beyond: VirtAddr,
    ) -> Result<bool, String> {
        let lease = shares.lend(driver, film, 2..3, &self.master, DataDirection::FromDevice).map_err(refused)?;
        self.disk.prepare(Transfer::In, lease.bus(), BYTES);
        let reached = process.fill(beyond, 1, 1);
        self.disk.go();
        self.disk.wait()?;
        // SAFETY: the disk is done with it.
        unsafe { lease.finish() };
        Ok(reached)
    }
}

impl Process {
    /// Writes a word to each line of some pages, as far as it can. Returns whether it could at all.
    fn fill(&self, at: VirtAddr, pages: u32, salt: u32) -> bool {
        in_space(self.space.tables.root(), || {
            let lines = 0..pages * FRAME_SIZE / STRIDE;
            // SAFETY: the address is the process's, whose pages are nobody else's, or it faults.
            let write = |n: u32| unsafe { probe_write32(after(at, n * STRIDE), word(n as usize, salt)) };
            lines.fold(false, |reached, n| reached | write(n).is_ok())
        })
    }

    fn read(&self, at: VirtAddr) -> Option<u32> {
        // SAFETY: a read of an address of the process's, or a fault.
        in_space(self.space.tables.root(), || unsafe { probe_read32(at) }).ok()
    }

    /// The words of a page's lines are what [`fill`](Self::fill) wrote to the first page.
    fn has(&self, at: VirtAddr, salt: u32) -> Verdict {
        let mut words = [None; (FRAME_SIZE / STRIDE) as usize];
        in_space(self.space.tables.root(), || {
            for (n, found) in (0..).zip(&mut words) {
                // SAFETY: a read of an address of the process's, or a fault.
                *found = unsafe { probe_read32(after(at, n * STRIDE)) }.ok();
            }
        });
        ensure!(!words.contains(&None), "a line of the page at {at} is out of reach");
        has_words(words.into_iter().flatten().enumerate(), salt)
    }
}
