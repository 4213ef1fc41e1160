//! The least kernel that takes the module: one area, one coherent buffer.
//!
//! It is linked and measured, never booted. `xtask/src/size.rs` builds it once for each row of its table. A panic prints
//! its message, as a kernel's does, so what the messages cost counts.
#![no_std]
#![no_main]

#[cfg(any(feature = "audit", not(feature = "rt")))]
use carveout::addr::FrameRange;
use carveout::addr::PhysAddr;
use carveout::carve_out::CarveOut;
use carveout::dma::{Dma, Master};
use carveout::vm::alias::Aliases;
use carveout::vm::desc::{L1Desc, L2_ENTRIES, L2Desc, L2Table};
use carveout::vm::range::VirtRange;
use carveout::vm::space::Region;
use carveout_armv7a::mmu::Armv7a;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Memory that one function uses, once.
#[repr(C, align(4096))]
struct Once<T>(UnsafeCell<T>);

// SAFETY: one core runs this program.
unsafe impl<T> Sync for Once<T> {}

impl<T> Once<T> {
    const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// # Safety
    ///
    /// It is called once.
    #[expect(clippy::mut_from_ref, reason = "its contract")]
    unsafe fn take(&self) -> &mut T {
        // SAFETY: the only reference, as this function demands.
        unsafe { &mut *self.0.get() }
    }
}

const HEAP_BYTES: usize = 1 << 20;
static HEAP: Once<[u8; HEAP_BYTES]> = Once::new([0; HEAP_BYTES]);

/// Gives memory, and takes none back.
struct Bump(AtomicUsize);

// SAFETY: each layout gets bytes of its own of the heap, aligned as it says.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let at = self.0.load(Ordering::Relaxed).next_multiple_of(layout.align());
        if layout.size() > HEAP_BYTES - at.min(HEAP_BYTES) {
            return ptr::null_mut();
        }
        self.0.store(at + layout.size(), Ordering::Relaxed);
        HEAP.0.get().cast::<u8>().wrapping_add(at)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static GLOBAL: Bump = Bump(AtomicUsize::new(0));

/// The UART of a Versatile Express.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let data = 0x1000_9000 as *mut u32;
            // SAFETY: the UART's data register.
            unsafe { data.write_volatile(byte.into()) };
        }
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(Console, "{info}");
    stop()
}

fn stop() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

const WINDOW: VirtRange = VirtRange::new(0xc000_0000, 15);
const LOANS: VirtRange = VirtRange::new(0xd000_0000, 1);

/// The tables of a window, as many as it has sections.
struct Tables<const N: usize> {
    l2: [L2Table; N],
    l1: [L1Desc; N],
}

impl<const N: usize> Tables<N> {
    const FAULTS: Self = Self { l2: [[L2Desc::FAULT; L2_ENTRIES]; N], l1: [L1Desc::FAULT; N] };

    fn region(&'static mut self, machine: &Armv7a, range: VirtRange) -> Region<'static> {
        let at = |table: *const u8| PhysAddr::new(table as u32);
        let (l1_at, l2_at) = (at(self.l1.as_ptr().cast()), at(self.l2.as_ptr().cast()));
        let share = Armv7a::shareability();
        // SAFETY: no other name of the tables exists. They would stand in the first-level table.
        let region = unsafe { Region::one_each(machine, range, share, &mut self.l1, l1_at, &mut self.l2, l2_at) };
        region.unwrap_or_else(|_| panic!("no heap left"))
    }
}

static WINDOW_TABLES: Once<Tables<15>> = Once::new(Tables::FAULTS);
static LOAN_TABLES: Once<Tables<1>> = Once::new(Tables::FAULTS);
static MACHINE: Once<MaybeUninit<Armv7a>> = Once::new(MaybeUninit::uninit());
static DMA: Once<MaybeUninit<Dma<Armv7a>>> = Once::new(MaybeUninit::uninit());

fn machine(machine: Armv7a) -> &'static Armv7a {
    // SAFETY: the entry calls this, once.
    unsafe { MACHINE.take() }.write(machine)
}

/// The kernel did its own reservation.
#[cfg(not(feature = "boot"))]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    // SAFETY: the image is empty.
    let machine = machine(unsafe { Armv7a::new(FrameRange::EMPTY, 0) });
    // SAFETY: I2 holds in a program that is never booted.
    let carved = unsafe { CarveOut::assume("dma", &[FrameRange::within(0x6020_0000, 4 << 20)], true) };
    run(machine, [carved].into_iter(), Aliases::default())
}

/// The kernel boots itself, by the plan.
#[cfg(all(feature = "boot", not(feature = "rt")))]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    use carveout_boot::bootinfo::BootInfo;
    use carveout_boot::layout::Layout;

    let (image, tree) = (FrameRange::within(0x6001_0000, 1 << 20), FrameRange::within(0x6100_0000, 1 << 16));
    // SAFETY: the image is empty.
    let machine = machine(unsafe { Armv7a::new(FrameRange::EMPTY, 0) });
    // SAFETY: the device tree would lie there.
    let dtb = unsafe { core::slice::from_raw_parts(tree.base().raw() as *const u8, tree.bytes() as usize) };
    let info = BootInfo::parse(dtb).unwrap_or_else(|error| panic!("{error}"));
    let mut layout = Layout::plan(&info, image, tree).unwrap_or_else(|error| panic!("{error}"));
    // SAFETY: this program is never booted.
    let memory = unsafe { layout.mapped() };
    let (layout, carved) = memory.into_parts();
    run(machine, carved.into_iter(), layout.info().aliases().clone())
}

#[cfg(feature = "rt")]
carveout_rt::entry!(booted);

/// The head of `carveout-rt` booted.
#[cfg(feature = "rt")]
fn booted(handover: carveout_rt::start::BootHandover) -> ! {
    // SAFETY: the handover's image is mapped.
    let machine = machine(unsafe { Armv7a::new(handover.image_below_stacks(), handover.image_phys_offset()) });
    let adopted = carveout_rt::address_space::AddressSpace::adopt(machine, handover);
    let (_, memory) = adopted.unwrap_or_else(|fault| panic!("{fault}"));
    let (layout, carved) = memory.into_parts();
    run(machine, carved.into_iter(), layout.info().aliases().clone())
}

fn run(machine: &'static Armv7a, carved: impl Iterator<Item = CarveOut>, aliases: Aliases) -> ! {
    #[cfg(feature = "pl310")]
    enable_outer_cache(machine);
    // SAFETY: this function runs once, so each is taken once.
    let (dma, window, loans) = unsafe { (DMA.take(), WINDOW_TABLES.take(), LOAN_TABLES.take()) };
    let (window, loans) = (window.region(machine, WINDOW), loans.region(machine, LOANS));
    let made = Dma::new(machine, carved, aliases, window, loans);
    let dma: &'static Dma<Armv7a> = dma.write(made.unwrap_or_else(|error| panic!("{error}")));
    let device = Master::new("device", dma.area("dma"));
    let buffer = dma.alloc(&device, 4096, 1).unwrap_or_else(|error| panic!("{error}"));
    let mut buffer = buffer.into_coherent();
    buffer.write_word(0, 1u32);
    drop(buffer);
    #[cfg(feature = "audit")]
    audit(dma);
    #[cfg(feature = "loans")]
    lend(dma);
    stop()
}

/// The outer cache, as a kernel enables it.
#[cfg(feature = "pl310")]
fn enable_outer_cache(machine: &Armv7a) {
    use carveout_armv7a::cores::World;
    use carveout_armv7a::l2c310::L2c310;

    let registers = ptr::NonNull::new(0x1e00_a000 as *mut _).expect("the controller of a Versatile Express");
    // SAFETY: they would be mapped there.
    let outer = unsafe { L2c310::enable(registers, World::Secure) };
    // SAFETY: no `Dma` was made yet.
    unsafe { machine.set_outer(outer.unwrap_or_else(|error| panic!("{error}"))) };
}

/// The audit, its findings printed.
#[cfg(feature = "audit")]
fn audit(dma: &Dma<Armv7a>) {
    use carveout::vm::audit::Expect;

    let ram = [FrameRange::within(0x6000_0000, 1 << 30)];
    let share = Armv7a::shareability();
    let expect = Expect { ram: &ram, firmware: &[], text: FrameRange::EMPTY, share, roots: &[], cores: &[] };
    let found = dma.audit(&expect, |finding| writeln!(Console, "{finding}").unwrap_or_default());
    match found {
        Ok(report) => writeln!(Console, "{report}").unwrap_or_default(),
        Err(findings) => panic!("{findings}"),
    }
}

/// A borrower that writes and reads a page.
#[cfg(feature = "loans")]
fn lend(dma: &'static Dma<Armv7a>) {
    use carveout::dma::{Discardable, LoanPriority};

    let area = dma.area("dma").expect("the area of the buffer");
    let cache = dma.borrower::<Discardable>(area, "cache", 256, LoanPriority::Low);
    let cache = cache.unwrap_or_else(|error| panic!("{error}"));
    let loan = cache.borrow(1).unwrap_or_else(|error| panic!("{error}"));
    let mut byte = [1];
    cache.write(loan, 0, 0, &byte).unwrap_or_else(|error| panic!("{error}"));
    cache.read(loan, 0, 0, &mut byte).unwrap_or_else(|error| panic!("{error}"));
    cache.give_back(loan).unwrap_or_else(|error| panic!("{error}"));
}
