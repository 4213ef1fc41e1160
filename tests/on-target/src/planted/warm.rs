//! Coherent buffers that are freed and stay mapped, and every kind of user that may get their frames next.

use crate::blk::{Disk, Transfer};
use crate::careless::{Careless, Stage};
use crate::{BYTES, has_words, word};
use alloc::string::{String, ToString};
use carveout::addr::FRAME_SIZE;
use carveout::dma::{
    AfterFree, AreaId, Bidirectional, Borrower, Coherent, Contiguous, ContractSet, Discardable, Dma, LOAN_PAGE,
    LoanPriority, Master, Port,
};
use on_target::{Verdict, ensure_eq};

/// How often each user gets the frame.
const ROUNDS: u32 = 2;

/// The resources that the users share. Only one frame of the area is free, so all of them get that frame, and no shelf
/// is used.
pub(crate) struct Warm<'d> {
    /// The machine.
    pub(crate) machine: &'static Careless,
    /// The area that bugs are planted in.
    pub(crate) dma: &'static Dma<Careless>,
    /// The disk as a bus master of that area.
    pub(crate) master: Master,
    /// The disk.
    pub(crate) disk: &'d mut Disk,
}

impl Warm<'_> {
    /// Does all steps.
    pub(crate) fn work(&mut self) -> Verdict {
        let area = self.dma.area("planted").ok_or("no area")?;
        let others = self.dma.free_bytes(area).1 as u32 - BYTES;
        let others = self.dma.alloc(&self.master, others, 1).map_err(|error| error.to_string())?;
        let cache = self.dma.borrower::<Discardable>(area, "cache", 1, LoanPriority::Low);
        let cache = cache.map_err(|error| error.to_string())?;
        self.dma.set_after_free(AfterFree::KeepMapped);
        let went = (0..ROUNDS).try_for_each(|round| {
            let salt = 16 * round;
            self.a_coherent_buffer_is_next(area, salt)?;
            self.a_stream_is_next(salt + 2)?;
            self.a_device_is_next(salt + 4)?;
            self.a_borrower_is_next(&cache, salt + 6)?;
            self.a_contract_is_next(salt + 8)
        });
        self.dma.set_after_free(AfterFree::Unmap);
        drop(others);
        went
    }

    /// Has the disk read what the CPU wrote to a coherent buffer.
    fn write_out(&mut self, buffer: &mut Coherent<Careless>, salt: u32) -> Verdict {
        for n in 0..buffer.len() / size_of::<u32>() {
            buffer.write_word(4 * n, word(n, salt));
        }
        self.disk.transfer(Transfer::Out, buffer.bus(), BYTES)
    }

    /// Allocates a coherent buffer and frees it. It stays mapped.
    fn one_stays_mapped(&mut self, salt: u32) -> Verdict {
        let mut buffer = self.coherent()?;
        self.write_out(&mut buffer, salt)?;
        // SAFETY: the disk is done with it.
        unsafe { buffer.give_up() };
        ensure_eq!(self.dma.stats().warm, 1, "buffers that stay mapped");
        Ok(())
    }

    fn coherent(&self) -> Result<Coherent<Careless>, String> {
        self.dma.alloc_coherent(&self.master, BYTES, 1).map_err(|error| error.to_string())
    }

    /// Has `take` take the frame, and checks that the mapping ended.
    fn taken<T>(&self, take: impl FnOnce() -> T) -> Result<T, String> {
        let before = self.dma.stats().evicted;
        self.machine.stage.set(Stage::Evicting);
        let taken = take();
        self.machine.stage.set(Stage::Elsewhere);
        ensure_eq!(self.dma.stats().evicted - before, 1, "mappings ended");
        Ok(taken)
    }

    fn alloc(&self) -> Result<Contiguous<Careless>, String> {
        self.taken(|| self.dma.alloc(&self.master, BYTES, 1))?.map_err(|error| error.to_string())
    }

    /// Allocates a coherent buffer next. No mapping ends, and idle time zeroes the frame where it is mapped.
    fn a_coherent_buffer_is_next(&mut self, area: AreaId, salt: u32) -> Verdict {
        self.one_stays_mapped(salt)?;
        self.dma.set_reserve(area, FRAME_SIZE.into());
        while self.dma.idle_work(area, 1) > 0 {}
        self.dma.set_reserve(area, 0);
        let buffer = self.coherent()?;
        for n in 0..buffer.len() / size_of::<u32>() {
            ensure_eq!(buffer.read_word::<u32>(4 * n), 0, "word {n} of the next owner");
        }
        self.disk.transfer(Transfer::In, buffer.bus(), BYTES)?;
        has_words((0..buffer.len() / size_of::<u32>()).map(|n| (n, buffer.read_word(4 * n))), salt)?;
        // SAFETY: the disk is done with it.
        unsafe { buffer.give_up() };
        Ok(())
    }

    /// Uses a buffer in both directions: the CPU writes, the disk reads and writes, and the CPU looks.
    fn goes_both_ways(&mut self, buffer: Contiguous<Careless>, salt: u32) -> Verdict {
        let mut stream = buffer.into_stream::<Bidirectional>();
        stream.values_mut::<u32>().iter_mut().enumerate().for_each(|(n, place)| *place = word(n, salt));
        let lent = stream.for_device();
        self.disk.transfer(Transfer::Out, lent.bus(), BYTES)?;
        self.disk.transfer(Transfer::In, lent.bus(), BYTES)?;
        // SAFETY: the disk is done with it.
        let stream = unsafe { lent.for_cpu() };
        has_words(stream.values::<u32>().iter().copied().enumerate(), salt)
    }

    fn a_stream_is_next(&mut self, salt: u32) -> Verdict {
        self.one_stays_mapped(salt)?;
        let buffer = self.alloc()?;
        self.goes_both_ways(buffer, salt + 1)
    }

    /// Has the disk write a device's buffer, which the CPU reads by a port, as mock devices do.
    fn a_device_is_next(&mut self, salt: u32) -> Verdict {
        self.one_stays_mapped(salt)?;
        let only = self.alloc()?.into_device();
        self.disk.transfer(Transfer::In, only.bus(), BYTES)?;
        // SAFETY: the port is closed before the buffer changes hands.
        let port = unsafe { Port::new(self.dma, self.master.clone()) };
        let open = port.open(only.bus(), BYTES).map_err(|error| error.to_string())?;
        let words = open.bytes().as_chunks().0;
        has_words(words.iter().map(|&bytes| u32::from_ne_bytes(bytes)).enumerate(), salt)?;
        drop(open);
        // SAFETY: the port is closed, and the disk is done with it.
        unsafe { only.give_up() };
        Ok(())
    }

    /// Has a borrower write the frame, and a stream take the frame from the borrower.
    fn a_borrower_is_next(&mut self, cache: &Borrower<Careless, Discardable>, salt: u32) -> Verdict {
        self.one_stays_mapped(salt)?;
        let loan = self.taken(|| cache.borrow(1))?.map_err(|error| error.to_string())?;
        let mut page = [0; LOAN_PAGE];
        cache.read(loan, 0, 0, &mut page).map_err(|error| error.to_string())?;
        ensure_eq!(page, [0; LOAN_PAGE], "a page never written");
        cache.write(loan, 0, 0, &[0x5a; LOAN_PAGE]).map_err(|error| error.to_string())?;
        cache.read(loan, 0, 0, &mut page).map_err(|error| error.to_string())?;
        ensure_eq!(page, [0x5a; LOAN_PAGE], "a page that was written");
        let buffer = self.dma.alloc(&self.master, BYTES, 1).map_err(|error| error.to_string())?;
        self.goes_both_ways(buffer, salt + 1)?;
        cache.give_back(loan).map_err(|error| error.to_string())
    }

    /// Makes a contract that gets the frame. Its slot stays mapped, too, until the contract ends.
    fn a_contract_is_next(&mut self, salt: u32) -> Verdict {
        self.one_stays_mapped(salt)?;
        let set = [ContractSet { count: 1, bytes: BYTES, align: 1 }];
        let contract = self.taken(|| self.dma.contract(&self.master, &set))?.map_err(|error| error.to_string())?;
        let buffer = contract.alloc(BYTES, 1).map_err(|error| error.to_string())?;
        self.goes_both_ways(buffer, salt + 1)?;
        let mut buffer = contract.alloc_coherent(BYTES, 1).map_err(|error| error.to_string())?;
        self.write_out(&mut buffer, salt)?;
        // SAFETY: the disk is done with it.
        unsafe { buffer.give_up() };
        self.taken(|| drop(contract))
    }
}
