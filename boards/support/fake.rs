//! What the tests share: registers, which are memory on the host, written and read by offset as a manual lists them; and
//! lent pages that are all open.

use super::wait::Wait;
use carveout::cma::loan::{Loan, Priority, SPARES};
use carveout::dma::loan::{Borrower, Movable};
use carveout::fake::Fake;
use carveout::setup::Setup;
use core::cell::{Cell, RefCell, RefMut};
use core::marker::PhantomData;
use core::ptr::NonNull;
use std::boxed::Box;
use std::rc::Rc;

/// A block of registers. It answers as a [`Played`] device makes it answer.
pub(super) struct Block<R> {
    words: NonNull<u32>,
    count: usize,
    registers: PhantomData<R>,
}

/// `bytes` of zeros, for ever, that a driver takes for its registers.
pub(super) fn block<R>(bytes: usize) -> Block<R> {
    assert!(size_of::<R>() <= bytes);
    let words = Box::leak(std::vec![0u32; bytes.div_ceil(4)].into_boxed_slice());
    Block { count: words.len(), words: NonNull::from(words).cast(), registers: PhantomData }
}

impl<R> Block<R> {
    /// What the driver is given.
    pub(super) fn base(&self) -> NonNull<R> {
        self.words.cast()
    }

    fn word(&self, offset: usize) -> NonNull<u32> {
        assert!(offset.is_multiple_of(4) && offset / 4 < self.count);
        // SAFETY: inside the allocation, by the assertion.
        unsafe { self.words.add(offset / 4) }
    }

    /// The word at a byte offset.
    pub(super) fn read(&self, offset: usize) -> u32 {
        // SAFETY: the word is this block's, leaked, and its tests are of one thread.
        unsafe { self.word(offset).read_volatile() }
    }

    /// Sets the word at a byte offset.
    pub(super) fn write(&self, offset: usize, value: u32) {
        // SAFETY: as in `read`.
        unsafe { self.word(offset).write_volatile(value) }
    }
}

/// Runs with as many lent pages open as can be.
pub(super) fn with_all_open(setup: &Setup, run: &mut dyn FnMut()) {
    fn nest(other: &Borrower<Fake, Movable>, loan: Loan, page: u32, run: &mut dyn FnMut()) {
        if page == SPARES {
            run();
        } else {
            other.with(loan, page, |_| nest(other, loan, page + 1, run)).unwrap();
        }
    }
    let area = setup.dma.area("test").unwrap();
    let other = setup.dma.borrower(area, "other", SPARES, Priority::Low).unwrap();
    nest(&other, other.borrow(SPARES).unwrap(), 0, run);
}

/// A device that a test plays, and the time. Each look at the clock or at the interrupt takes a millisecond, in which the
/// device takes a step.
pub(super) struct Played<D> {
    device: RefCell<D>,
    /// Takes a step at this time, and returns whether the interrupt is raised.
    step: fn(&mut D, u64) -> bool,
    now: Cell<u64>,
    told: Cell<bool>,
    /// The driver keeps the registers for good. Shared, for a driver says so when it is dropped.
    pub(super) kept: Rc<Cell<bool>>,
}

impl<D> Played<D> {
    pub(super) fn new(device: D, step: fn(&mut D, u64) -> bool) -> Self {
        Self { device: RefCell::new(device), step, now: Cell::new(0), told: Cell::new(false), kept: Rc::default() }
    }

    pub(super) fn device(&self) -> RefMut<'_, D> {
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

    fn keep_registers(&mut self) {
        self.kept.set(true);
    }
}
