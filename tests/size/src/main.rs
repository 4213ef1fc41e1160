//! The least kernel that takes the module: one area, one coherent buffer.
//!
//! It is linked and measured, never booted. `xtask/src/size.rs` builds it once for each row of its table. A panic
//! prints its message, as a kernel's does, so what the messages cost counts.
#![no_std]
#![no_main]

#[cfg(any(feature = "audit", not(feature = "rt")))]
use carveout::addr::FrameRange;
use carveout::addr::PhysAddr;
#[cfg(not(feature = "rt"))]
use carveout::addr::VirtAddr;
use carveout::carve_out::CarveOut;
use carveout::dma::{Dma, Master};
use carveout::embed::{Builder, Roots, Window};
use carveout::vm::alias::Aliases;
use carveout::vm::desc::{L2_ENTRIES, L2Desc, L2Table};
use carveout::vm::range::VirtRange;
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

const WINDOW: VirtRange = VirtRange::new(0xc000_0000, 16);

/// The tables of the window, as many as it has sections.
#[repr(C, align(1024))]
struct Tables(UnsafeCell<[L2Table; 16]>);

// SAFETY: the module alone names them.
unsafe impl Sync for Tables {}

static TABLES: Tables = Tables(UnsafeCell::new([[L2Desc::FAULT; L2_ENTRIES]; 16]));

/// Where the kernel reaches its memory.
#[cfg(not(feature = "rt"))]
fn kernel_address(frames: FrameRange) -> Option<VirtAddr> {
    Some(VirtAddr::new(frames.base().raw()))
}

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
    // SAFETY: the kernel would map its memory there.
    let machine = machine(unsafe { Armv7a::new(&kernel_address) });
    // SAFETY: I2 holds in a program that is never booted.
    let carved = unsafe { CarveOut::assume("dma", &[FrameRange::within(0x6020_0000, 4 << 20)], true) };
    run(machine, [carved], Aliases::default())
}

/// The kernel boots itself, by the plan.
#[cfg(all(feature = "boot", not(feature = "rt")))]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    use carveout_boot::bootinfo::BootInfo;
    use carveout_boot::layout::Layout;

    let (image, tree) = (FrameRange::within(0x6001_0000, 1 << 20), FrameRange::within(0x6100_0000, 1 << 16));
    // SAFETY: the kernel would map its memory there.
    let machine = machine(unsafe { Armv7a::new(&kernel_address) });
    // SAFETY: the device tree would lie there.
    let dtb = unsafe { core::slice::from_raw_parts(tree.base().raw() as *const u8, tree.bytes() as usize) };
    let info = BootInfo::parse(dtb).unwrap_or_else(|error| panic!("{error}"));
    let mut layout = Layout::plan(&info, image, tree).unwrap_or_else(|error| panic!("{error}"));
    // SAFETY: this program is never booted.
    let memory = unsafe { layout.mapped() };
    let (layout, carved) = memory.into_parts();
    run(machine, carved, layout.info().aliases().clone())
}

#[cfg(feature = "rt")]
carveout_rt::entry!(booted);

/// The head of `carveout-rt` booted.
#[cfg(feature = "rt")]
fn booted(handover: carveout_rt::start::BootHandover) -> ! {
    let machine = machine(carveout_rt::address_space::machine());
    let adopted = carveout_rt::address_space::AddressSpace::adopt(machine, handover);
    let (_, memory) = adopted.unwrap_or_else(|fault| panic!("{fault}"));
    let (layout, carved) = memory.into_parts();
    run(machine, carved, layout.info().aliases().clone())
}

fn run<C>(machine: &'static Armv7a, carved: C, aliases: Aliases) -> !
where
    C: AsRef<[CarveOut]> + IntoIterator<Item = CarveOut>,
{
    #[cfg(feature = "pl310")]
    enable_outer_cache(machine);
    let tables = PhysAddr::new(TABLES.0.get().addr() as u32);
    // SAFETY: nothing else uses these addresses and tables.
    let window = unsafe { Window::assume(WINDOW, Roots::One, tables) };
    let builder = Builder::new(machine, carved, window).aliases(aliases);
    #[cfg(feature = "warm")]
    let builder = builder.after_free(carveout::dma::AfterFree::KeepMapped);
    let made = builder.build();
    #[cfg(feature = "events")]
    let log = carveout::events::EventLog::begin(64, || 0).unwrap_or_else(|error| panic!("{error}"));
    // SAFETY: this function runs once, so it is taken once.
    let dma = unsafe { DMA.take() };
    let dma: &'static Dma<Armv7a> = dma.write(made.unwrap_or_else(|error| panic!("{error}")));
    let device = Master::new("device", dma.area("dma"));
    let mut buffer = dma.alloc_coherent(&device, 4096, 1).unwrap_or_else(|error| panic!("{error}"));
    buffer.write_word(0, 1u32);
    drop(buffer);
    #[cfg(feature = "audit")]
    audit(dma);
    #[cfg(feature = "loans")]
    lend(dma);
    #[cfg(feature = "events")]
    tell(log);
    stop()
}

/// The outer cache, as a kernel enables it.
#[cfg(feature = "pl310")]
fn enable_outer_cache(machine: &Armv7a) {
    use carveout_armv7a::cores::World;
    use carveout_armv7a::l2c310::L2c310;

    static OUTER: Once<MaybeUninit<L2c310>> = Once::new(MaybeUninit::uninit());

    let registers = ptr::NonNull::new(0x1e00_a000 as *mut _).expect("the controller of a Versatile Express");
    // SAFETY: they would be mapped there.
    let outer = unsafe { L2c310::enable(registers, World::Secure) };
    // SAFETY: this function is called once.
    let outer = unsafe { OUTER.take() }.write(outer.unwrap_or_else(|error| panic!("{error}")));
    // SAFETY: no `Dma` was made yet.
    unsafe { machine.set_outer(outer) };
}

/// The audit, its findings printed.
#[cfg(feature = "audit")]
fn audit(dma: &Dma<Armv7a>) {
    use carveout::vm::audit::Expect;

    let found = dma.audit(&Expect::CARVED, |finding| writeln!(Console, "{finding}").unwrap_or_default());
    match found {
        Ok(report) => writeln!(Console, "{report}").unwrap_or_default(),
        Err(findings) => panic!("{findings}"),
    }
}

/// Prints what happened.
#[cfg(feature = "events")]
fn tell(log: &carveout::events::EventLog) {
    log.for_each(0, |event| {
        let _ = writeln!(Console, "{} {} {}", event.time, event.kind, event.frames);
    });
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
