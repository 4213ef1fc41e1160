//! Processes: a program, its registers and its memory.
//!
//! Guarantees: a process has only its own frames, which were zeroed before, and what was mapped for it (I5). Nobody
//! else gets its number (ASID) until its tables are gone and no TLB holds an entry of them. A program is copied to
//! pages that nobody writes afterwards.
//!
//! ```text
//! 0x00100000  code: read and execute
//! 0x00180000  data and stack: read and write; the stack begins at the upper end
//! elsewhere below 2 GiB: what is mapped later, with an unmapped page on either side
//! ```

use super::frames::Frames;
use super::state::Kernel;
use alloc::boxed::Box;
use alloc::sync::Arc;
use arrayvec::ArrayVec;
use carveout::addr::{FRAME_SIZE, FrameRange, PhysAddr, VirtAddr};
use carveout::machine::LinearMap;
use carveout::vm::mapped::Part;
use carveout::vm::user::{Asid, UserAccess, UserSpace};
use carveout::vm::user_tables::UserTables;
use carveout_armv7a::mmu::Armv7a;
use carveout_rt::address_space::direct_map;
use carveout_rt::user::Context;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::{AtomicU32, Ordering};

const CODE: VirtAddr = VirtAddr::new(0x0010_0000);
const DATA: VirtAddr = VirtAddr::new(0x0018_0000);
/// Frames of data and stack.
const DATA_FRAMES: u32 = 2;
/// Frames of tables: the first-level table and eight others, each for 1 MiB of addresses.
const TABLE_FRAMES: u32 = 4;

/// The numbers (ASIDs) in use, a bit each. Bit 0 is the kernel's.
static NUMBERS: AtomicU32 = AtomicU32::new(1);

/// A number that is in use until this value is dropped.
#[derive(Debug)]
struct Number(Asid);

impl Number {
    fn take() -> Option<Self> {
        let first = |used: u32| (used != u32::MAX).then(|| used | (used + 1));
        let used = NUMBERS.fetch_update(Ordering::Acquire, Ordering::Relaxed, first).ok()?;
        Asid::new(used.trailing_ones() as u8).map(Self)
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        NUMBERS.fetch_and(!(1 << self.0.number()), Ordering::Release);
    }
}

/// The address space of a process. Whoever maps something in the space holds a reference to it, so its memory stays.
#[derive(Debug)]
pub struct Space {
    // Fields are dropped in this order: the tables, then what they translate, then their number.
    tables: UserTables<Armv7a>,
    _memory: ArrayVec<Frames, 3>,
    _number: Number,
}

impl Deref for Space {
    type Target = UserTables<Armv7a>;

    fn deref(&self) -> &Self::Target {
        &self.tables
    }
}

impl Space {
    /// Makes the space of a program. Returns `None` if the heap is full or all numbers are in use.
    fn new(machine: &'static Armv7a, program: &[u32]) -> Option<Self> {
        let number = Number::take()?;
        let tables = Frames::take(TABLE_FRAMES, 2 * FRAME_SIZE)?;
        let mut code = Frames::take((size_of_val(program) as u32).div_ceil(FRAME_SIZE), 1)?;
        let data = Frames::take(DATA_FRAMES, 1)?;
        code.words()[..program.len()].copy_from_slice(program);
        machine.publish_code(code.words());
        // SAFETY: the memory and the number are the space's, and outlive the tables.
        let space = unsafe { UserTables::new(machine, number.0, tables.frames()) }?;
        // SAFETY: the frames are the space's and outlive the tables. The direct map maps them write-back. They hold
        // zeros and the program, which was published.
        let has_code = unsafe { space.map_own(CODE, code.frames(), None) };
        // SAFETY: as above.
        let has_data = unsafe { space.map_own(DATA, data.frames(), Some(UserAccess::ReadWrite)) };
        let memory = ArrayVec::from([tables, code, data]);
        (has_code && has_data).then_some(Self { tables: space, _memory: memory, _number: number })
    }
}

// SAFETY: the tables do what the trait asks for, and exist as long as the space.
unsafe impl UserSpace for Space {
    fn first_level(&self) -> PhysAddr {
        self.tables.first_level()
    }

    fn reserve(&self, pages: u32) -> Option<VirtAddr> {
        self.tables.reserve(pages)
    }

    fn release(&self, va: VirtAddr, pages: u32) {
        self.tables.release(va, pages);
    }

    fn map(&self, va: VirtAddr, part: Part<'_>, access: UserAccess) {
        self.tables.map(va, part, access);
    }

    fn unmap(&self, va: VirtAddr, pages: u32) {
        self.tables.unmap(va, pages);
    }
}

/// When a process runs again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// When its turn comes.
    Now,
    /// At a time in microseconds since boot.
    At(u64),
    /// When another process has ended.
    AfterEnd(usize),
    /// When more events came from devices than these ([`Calls::events`](super::schedule::Calls::events)).
    AfterEvents(u32),
}

/// A process. It does not run, or it runs on the core that has this value.
#[derive(Debug)]
pub struct Process {
    /// Its name, for the console.
    pub name: &'static str,
    /// Its registers.
    pub context: Context,
    /// Its address space.
    pub space: Arc<Space>,
    /// When it runs again.
    pub wake: Wake,
}

impl Process {
    /// Makes a process of a program without absolute addresses. Its registers r0 to r3 start as `args`. Returns `None`
    /// if the heap is full or if all numbers are in use.
    pub fn new(kernel: &Kernel, name: &'static str, program: &[u32], args: [u32; 4]) -> Option<Box<Self>> {
        let space = Arc::new(Space::new(kernel.machine, program)?);
        let stack = VirtAddr::new(DATA.raw() + DATA_FRAMES * FRAME_SIZE);
        let mut context = Context::new(CODE, stack);
        for (n, arg) in args.into_iter().enumerate() {
            context.set(n, arg);
        }
        Some(Box::new(Self { name, context, space, wake: Wake::Now }))
    }

    /// Copies bytes of the process's own memory. Returns `None` if some of the bytes are not the process's own; others
    /// may have been copied. The kernel follows no pointer of a process: it looks up the bytes in the tables.
    pub fn read(&self, va: VirtAddr, to: &mut [u8]) -> Option<()> {
        let mut at = va;
        let mut left = to;
        while !left.is_empty() {
            let in_page = (FRAME_SIZE - at.raw() % FRAME_SIZE) as usize;
            let count = in_page.min(left.len());
            let (now, later) = left.split_at_mut(count);
            let (pa, _) = self.space.translate(at)?;
            let page = direct_map()?.va_of(FrameRange::covering(pa.raw().into(), 1))?;
            let from = (page.raw() + pa.raw() % FRAME_SIZE) as *const u8;
            // SAFETY: these are bytes of a frame that the direct map always maps, and that the process has until it
            // ends. The process does not run, and no Rust value is in its memory.
            unsafe { from.copy_to_nonoverlapping(now.as_mut_ptr(), count) };
            at = at.checked_add(count as u32)?;
            left = later;
        }
        Some(())
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
