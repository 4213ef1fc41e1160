//! Helpers for the drivers' tests: registers and mock devices. The registers are memory on the host. A test writes and
//! reads them by the offsets that the manual lists.

use super::mmio::Mmio;
use super::wait::Wait;
use core::cell::{Cell, RefCell, RefMut};
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use std::boxed::Box;
use std::sync::Arc;

/// A block of registers. A [`Played`] device sets their values.
pub(crate) struct Block<R> {
    words: NonNull<u32>,
    count: usize,
    given_back: Arc<AtomicU32>,
    registers: PhantomData<R>,
}

/// Returns `bytes` of zeros, which last for ever, as a driver's registers.
pub(crate) fn block<R>(bytes: usize) -> Block<R> {
    assert!(size_of::<R>() <= bytes);
    let words = Box::leak(std::vec![0u32; bytes.div_ceil(4)].into_boxed_slice());
    let given_back = Arc::default();
    Block { count: words.len(), words: NonNull::from(words).cast(), given_back, registers: PhantomData }
}

impl<R> Block<R> {
    /// Returns the registers for the driver.
    pub(crate) fn mmio(&self) -> Mmio<R> {
        let given_back = self.given_back.clone();
        let give_back = move || {
            given_back.fetch_add(1, Ordering::Relaxed);
        };
        // SAFETY: memory that lasts for ever, at least as large as `R`; registers are cells of integers, for which
        // zeros are valid. Beside the driver only its test uses it, in the same thread.
        unsafe { Mmio::new(self.words.cast(), Some(Box::new(give_back))) }
    }

    /// Returns how often a driver gave it back.
    pub(crate) fn given_back(&self) -> u32 {
        self.given_back.load(Ordering::Relaxed)
    }

    /// Returns the count of [`given_back`](Self::given_back). It outlives the block and its device.
    pub(crate) fn returns(&self) -> Arc<AtomicU32> {
        self.given_back.clone()
    }

    fn word(&self, offset: usize) -> NonNull<u32> {
        assert!(offset.is_multiple_of(4) && offset / 4 < self.count);
        // SAFETY: inside the allocation, by the assertion.
        unsafe { self.words.add(offset / 4) }
    }

    /// Returns the word at a byte offset.
    pub(crate) fn read(&self, offset: usize) -> u32 {
        // SAFETY: the word is this block's, is never freed, and each test uses one thread.
        unsafe { self.word(offset).read_volatile() }
    }

    /// Sets the word at a byte offset.
    pub(crate) fn write(&self, offset: usize, value: u32) {
        // SAFETY: as in `read`.
        unsafe { self.word(offset).write_volatile(value) }
    }
}

/// A device that a test plays, with its clock. Each read of the clock or of the interrupt takes a millisecond. In this
/// time the device takes a step.
pub(crate) struct Played<D> {
    device: RefCell<D>,
    /// Takes a step at this time, and returns whether the interrupt is raised.
    step: fn(&mut D, u64) -> bool,
    now: Cell<u64>,
    told: Cell<bool>,
}

impl<D> Played<D> {
    pub(crate) fn new(device: D, step: fn(&mut D, u64) -> bool) -> Self {
        Self { device: RefCell::new(device), step, now: Cell::new(0), told: Cell::new(false) }
    }

    pub(crate) fn device(&self) -> RefMut<'_, D> {
        self.device.borrow_mut()
    }

    fn pass(&self) {
        self.now.set(self.now.get() + 1000);
        let raised = (self.step)(&mut self.device(), self.now.get());
        self.told.set(self.told.get() | raised);
    }
}

impl<D> Wait for Played<D> {
    fn listen(&self) {
        self.told.set(false);
    }

    fn told(&self) -> bool {
        self.pass();
        self.told.replace(false)
    }

    fn micros(&self) -> u64 {
        self.pass();
        self.now.get()
    }
}
