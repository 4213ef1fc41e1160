//! Memory that the kernel uses as its own RAM, until it is taken for buffers, and again after it is given back.

use crate::blk::{Disk, Transfer};
use crate::by_hand::{Hand, fill, has, pointer};
use crate::careless::{Bug, Careless, Stage};
use crate::{BYTES, has_words, word};
use alloc::string::{String, ToString};
use carveout::addr::FrameRange;
use carveout::dma::{AreaId, Contiguous, Dma, FromDevice, Master, ToDevice};
use carveout::machine::Cache;
use carveout::vm::attr::MemoryType;
use carveout::vm::mapped::Mapped;
use core::convert::Infallible;
use core::hint::black_box;
use on_target::{Verdict, ensure};

/// How often the memory is taken and given back.
const TURNS: u32 = 2;

/// Accesses to other memory between a flush that comes too early and the unmap.
const WHILE: u32 = 200;

/// An area that belongs to the kernel at first.
pub(crate) struct Late<'d> {
    pub(crate) dma: &'static Dma<Careless>,
    pub(crate) area: AreaId,
    pub(crate) frames: FrameRange,
    /// How the kernel maps it.
    pub(crate) hand: &'d mut Hand,
    pub(crate) disk: &'d mut Disk,
}

impl Late<'_> {
    fn machine(&self) -> &'static Careless {
        self.hand.machine
    }

    /// Takes the area and gives it back: the kernel writes all of it, the disk and the CPU use it, and the kernel finds
    /// zeros.
    pub(crate) fn comes_and_goes(&mut self) -> Verdict {
        for turn in 0..TURNS {
            let kernels = self.hand.map(0, self.frames, MemoryType::WriteBack);
            if turn > 0 {
                // Nothing that a device or the CPU wrote is left.
                self.is_zeros(&kernels)?;
            }
            fill(self.machine(), kernels.all(), turn);
            has(self.machine(), kernels.all(), turn)?;
            self.take(kernels)?;
            self.machine().stage.set(Stage::InUse);
            self.a_device_uses_it(8 * turn)?;
            self.machine().stage.set(Stage::Leaving);
            self.dma.give_back_area(self.area).map_err(|error| error.to_string())?;
            self.machine().stage.set(Stage::Elsewhere);
        }
        Ok(())
    }

    fn take(&mut self, kernels: Mapped) -> Verdict {
        let (machine, hand) = (self.machine(), &mut *self.hand);
        if machine.has(Bug::LateFlushBefore) {
            machine.clean(kernels.all());
            machine.invalidate(kernels.all());
            // The kernel continues for some time, and so does speculation.
            (0..WHILE).for_each(|n| _ = black_box(n));
        }
        let mut kernels = Some(kernels);
        machine.stage.set(Stage::Breaking);
        let unmap = |_| {
            match kernels.take() {
                // The mapping stays for ever.
                Some(_) if machine.has(Bug::LateNoBreak) => {}
                Some(kernels) => hand.unmap(kernels),
                None => {}
            }
            machine.stage.set(Stage::Taking);
            Ok::<_, Infallible>(())
        };
        // SAFETY: only this program has the frames. It has one mapping of them, and no longer uses it (I2). Or the
        // program is `late-no-break`.
        unsafe { self.dma.take_area(self.area, &[], unmap) }.map_err(|error| error.to_string())
    }

    fn is_zeros(&self, kernels: &Mapped) -> Verdict {
        for n in 0..kernels.bytes() / size_of::<u32>() as u32 {
            // SAFETY: a word of a mapping that exists (`Mapped`) and is the caller's.
            let found = unsafe { pointer(self.machine(), kernels.all(), n * 4).read_volatile() };
            ensure!(found == 0, "word {n} that the kernel got back is {found:#010x}");
        }
        Ok(())
    }

    fn alloc(&self, master: &Master) -> Result<Contiguous<Careless>, String> {
        self.dma.alloc(master, BYTES, 1).map_err(|error| error.to_string())
    }

    /// Uses the area by a coherent buffer and by streams. Lines of both directions are left.
    fn a_device_uses_it(&mut self, salt: u32) -> Verdict {
        let master = Master::new("virtio-blk", Some(self.area));
        let mut buffer = self.alloc(&master)?.into_coherent();
        let mut source = self.alloc(&master)?.into_stream::<ToDevice>();
        let mut target = self.alloc(&master)?.into_stream::<FromDevice>();
        // This is soon after the memory was taken, so lines that were left are still in the caches.
        for stream in [source.values::<u32>(), target.values()] {
            ensure!(stream.iter().all(|&word| word == 0), "a stream of memory that was just taken is not zeros");
        }
        let words = 0..BYTES as usize / size_of::<u32>();
        words.clone().for_each(|n| buffer.write_word(4 * n, word(n, salt)));
        self.disk.transfer(Transfer::Out, buffer.bus(), BYTES)?;
        words.clone().for_each(|n| buffer.write_word(4 * n, word(n, salt + 1)));
        self.disk.transfer(Transfer::In, buffer.bus(), BYTES)?;
        has_words(words.clone().map(|n| (n, buffer.read_word(4 * n))), salt)?;
        // SAFETY: the disk is done with it.
        drop(unsafe { buffer.release() });
        words.for_each(|n| source.values_mut::<u32>()[n] = word(n, salt + 2));
        let lent = source.for_device();
        self.disk.transfer(Transfer::Out, lent.bus(), BYTES)?;
        // SAFETY: the disk is done with it.
        source = unsafe { lent.for_cpu() };
        let lent = target.for_device();
        self.disk.transfer(Transfer::In, lent.bus(), BYTES)?;
        // SAFETY: the disk is done with it.
        target = unsafe { lent.for_cpu() };
        has_words(target.values().iter().copied().enumerate(), salt + 2)?;
        source.values_mut().fill(salt);
        Ok(())
    }
}
