//! Counts instructions: the cost of each step of the DMA API, on a machine whose clock counts instructions.
//!
//! tests/bench.sh boots this program once for each suite. The boot argument `suite` says what is counted. Under
//! `-icount shift=0` an instruction takes a nanosecond of virtual time. The global timer's tick is 10 ns, so a figure
//! is exact to 10 instructions. Reading the timer costs only its own few instructions, which the series `nothing`
//! counts. Without that option the lines have the same form and mean nothing.
#![no_std]
#![no_main]

extern crate alloc;

mod bench_growth;
mod bench_peers;
mod bench_series;
mod bench_trace;
mod bench_warm;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bench_series::{Marked, Series, TICK, argument, first_buffer};
use carveout::addr::{FRAME_SHIFT, FRAME_SIZE};
use carveout::dma::{
    AreaId, Borrower, Coherent, Contiguous, Cpu, Device, Discardable, FromDevice, Loan, LoanKind, LoanPriority, Master,
    Movable, SPARES, Stream,
};
use carveout::sync;
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::drivers::timer::Counter;
use carveout_boards::drivers::timer::a9_global::A9GlobalTimer;
use carveout_boards::kernel::bring_up;
use carveout_boards::kernel::console;
use carveout_boards::kernel::state::Kernel;
use carveout_boards::println;
use carveout_rt::start::BootHandover;
use core::any::Any;
use core::hint::black_box;

carveout_rt::entry!(main);

const SAMPLES: usize = 33;
const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;
const LARGEST: u32 = 8 * MIB;
const SIZES: [u32; 8] = [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 2 * MIB, 4 * MIB, LARGEST];
/// Bytes that are kept unlent in series with a full reserve. Then all idle frames are zeroed.
const RESERVE: u32 = 12 * MIB;

fn main(handover: BootHandover) -> ! {
    let kernel = bring_up::start(handover);
    let clock: Option<&dyn Any> = kernel.clock.as_deref().map(|clock| clock as _);
    let Some(timer) = clock.and_then(<dyn Any>::downcast_ref::<A9GlobalTimer>) else {
        console::die(format_args!("bench: this board has no global timer"))
    };
    let bench = Bench { kernel, now: &|| timer.ticks(), master: kernel.master("bench"), marked: Marked::asked() };
    let suite = argument("suite");
    // This is the first thing that a driver does.
    let start = timer.ticks();
    let first = bench.coherent(4 * KIB);
    let cold = timer.ticks() - start;
    first_buffer();
    if suite == "boot" {
        console::exit(0);
    }
    println!("count cold/4K {}", cold * TICK);
    drop(first);

    match suite {
        "locks" => bench.calls(),
        "growth" => bench.by_area(),
        "streams" => {
            bench.streams();
            bench.loans();
        }
        "zeros" => bench.of_size(LARGEST),
        _ => {
            bench.metadata();
            bench.calls();
            for slots in [384, 448, 512] {
                bench.trace(slots, 0);
                bench.trace(slots, RESERVE);
            }
            bench.set_reserve(0);
            bench.by_fragmentation();
            bench.lent();
            bench.peers();
            bench.index();
        }
    }
    println!("bench: ok");
    console::exit(0)
}

fn name(bytes: u32) -> String {
    if bytes < MIB { format!("{}K", bytes / KIB) } else { format!("{}M", bytes / MIB) }
}

struct Bench<'k> {
    kernel: &'static Kernel,
    now: &'k dyn Fn() -> u64,
    master: Master,
    marked: Marked,
}

impl Bench<'_> {
    /// Counts single calls, whose samples a plugin may look at.
    fn calls(&self) {
        let mut nothing = Series::new(String::from("nothing"));
        for _ in 0..SAMPLES {
            self.time(&mut nothing, || ());
        }
        nothing.print();
        self.by_size();
        self.one_turn();
        self.locks();
        self.streams();
        self.refusal();
        self.reserve();
        self.warm();
        self.loans();
    }

    /// Does `work` and adds its cost to the series.
    fn time<T>(&self, series: &mut Series, work: impl FnOnce() -> T) -> T {
        series.time(self.now, &self.marked, work)
    }

    /// Returns the series `key/SIZE`.
    fn sized(key: &str, bytes: u32) -> Series {
        Series::new(format!("{key}/{}", name(bytes)))
    }

    fn alloc(&self, bytes: u32) -> Contiguous<Armv7a> {
        let buffer = self.kernel.dma.alloc(&self.master, bytes, 1);
        buffer.unwrap_or_else(|error| console::die(format_args!("bench: {error}")))
    }

    fn coherent(&self, bytes: u32) -> Coherent<Armv7a> {
        self.alloc(bytes).into_coherent()
    }

    fn try_coherent(&self, bytes: u32, align: u32) -> Option<Coherent<Armv7a>> {
        self.kernel.dma.alloc(&self.master, bytes, align).ok().map(Contiguous::into_coherent)
    }

    fn free(buffer: Coherent<Armv7a>) {
        // SAFETY: no device was ever told of the buffer.
        drop(unsafe { buffer.release() });
    }

    fn set_reserve(&self, bytes: u32) {
        self.kernel.dma.set_reserve(self.area(), bytes.into());
    }

    /// Counts the locks that pairs take.
    fn locks(&self) {
        Self::locks_of("locks-pair/4K", || Self::free(self.coherent(4 * KIB)));
    }

    /// Counts the locks that one pair takes, an allocation and its free, after another pair like it.
    fn locks_of(key: &str, pair: impl Fn()) {
        let taken = || sync::cores().map(|(_, core)| core.taken).sum::<u32>();
        pair();
        let before = taken();
        pair();
        println!("count {key} {}", taken() - before);
    }

    /// Counts allocations and frees, in pairs.
    fn by_size(&self) {
        for bytes in SIZES {
            self.of_size(bytes);
        }
    }

    fn of_size(&self, bytes: u32) {
        let mut bare = Self::sized("alloc-only", bytes);
        let (mut alloc, mut free) = (Self::sized("alloc-empty", bytes), Self::sized("free", bytes));
        for _ in 0..SAMPLES {
            drop(self.time(&mut bare, || self.alloc(bytes)));
            let buffer = self.time(&mut alloc, || self.coherent(bytes));
            self.time(&mut free, || Self::free(buffer));
        }
        bare.print();
        alloc.print();
        free.print();
        // The buffer that was allocated last is not used here, because its free undoes the work that the index put off.
        let mut first = Self::sized("free-first", bytes);
        for _ in 0..SAMPLES {
            let (one, other) = (self.alloc(bytes).into_coherent(), self.alloc(bytes));
            self.time(&mut first, || Self::free(one));
            drop(other);
        }
        first.print();
    }

    fn streams(&self) {
        for bytes in [4 * KIB, 64 * KIB, MIB, LARGEST] {
            let (mut cycle, mut hop) = (Self::sized("capture-cycle", bytes), Self::sized("hand-over", bytes));
            let mut buffer: Stream<Armv7a, FromDevice, Device> = self.alloc(bytes).into_stream().for_device();
            for n in 0..=SAMPLES {
                // The first look finds no line in any cache, so a capture cycle begins after it.
                let mut first = Series::new(String::new());
                buffer = self.time(if n == 0 { &mut first } else { &mut cycle }, || {
                    // SAFETY: no device uses it.
                    let cpu: Stream<Armv7a, FromDevice, Cpu> = unsafe { buffer.for_cpu() };
                    black_box(cpu.bytes());
                    cpu.for_device()
                });
                buffer = self.time(&mut hop, || {
                    // SAFETY: no device uses it.
                    unsafe { buffer.for_cpu() }.for_device()
                });
            }
            cycle.print();
            hop.print();
            // SAFETY: no device uses it.
            drop(unsafe { buffer.for_cpu() });
        }
    }

    /// Counts requests that a full area refuses.
    fn refusal(&self) {
        let mut held: Vec<Contiguous<Armv7a>> = Vec::new();
        for bytes in [LARGEST, MIB, 64 * KIB, 4 * KIB] {
            while let Ok(buffer) = self.kernel.dma.alloc(&self.master, bytes, 1) {
                held.push(buffer);
            }
        }
        let refused = |key: &str| {
            let mut series = Series::new(String::from(key));
            for _ in 0..SAMPLES {
                let given = self.time(&mut series, || self.kernel.dma.alloc(&self.master, MIB, 1).is_ok());
                assert!(!given, "the area has no such run");
            }
            series.print();
        };
        refused("refusal/full");
        // Then with every second buffer free, but none as long as a mebibyte.
        held.retain(|buffer| buffer.frames().count() > 16);
        let mut small: Vec<_> = Vec::new();
        held.truncate(held.len().saturating_sub(1));
        while let Ok(buffer) = self.kernel.dma.alloc(&self.master, 64 * KIB, 1) {
            small.push(buffer);
        }
        let mut n = 0;
        small.retain(|_| {
            n += 1;
            n % 2 == 0
        });
        refused("refusal/fragmented");
    }

    fn area(&self) -> AreaId {
        self.kernel.default_area().expect("an area")
    }

    /// Does the work of the idle loop. Returns how many frames it went through.
    fn idle(&self) -> u32 {
        let mut frames = 0;
        while let done @ 1.. = self.kernel.dma.idle_work(self.area(), 64) {
            frames += done;
        }
        frames
    }

    /// Counts allocations that idle time prepared, with all idle frames zeroed before each, and the cost of zeroing a
    /// frame.
    fn reserve(&self) {
        let mut refill = Series::new(String::from("reserve-refill"));
        for bytes in SIZES {
            let mut alloc = Self::sized("alloc-reserve", bytes);
            let mut free = Self::sized("free-reserve", bytes);
            self.set_reserve(0);
            self.set_reserve(RESERVE);
            for _ in 0..SAMPLES {
                let start = (self.now)();
                let frames = self.idle();
                if frames > 0 {
                    refill.costs.push(((self.now)() - start) / u64::from(frames));
                }
                let buffer = self.time(&mut alloc, || self.coherent(bytes));
                self.time(&mut free, || Self::free(buffer));
            }
            alloc.print();
            free.print();
        }
        refill.print();
    }

    fn borrower<K: LoanKind>(&self, name: &'static str, frames: u32) -> Borrower<Armv7a, K> {
        let borrower = self.kernel.dma.borrower(self.area(), name, frames, LoanPriority::Low);
        borrower.unwrap_or_else(|error| console::die(format_args!("bench: {error}")))
    }

    /// Lends `percent` of the area, and writes every page.
    fn lend<K: LoanKind>(&self, borrower: &Borrower<Armv7a, K>, percent: u32) -> Vec<Loan> {
        let mut left = self.free_frames() * percent / 100;
        let mut loans = Vec::new();
        while let Ok(loan) = borrower.borrow(left.min(64)) {
            for page in 0..loan.len() {
                borrower.write(loan, page, 0, &page.to_le_bytes()).expect("just lent");
            }
            left -= loan.len();
            loans.push(loan);
        }
        loans
    }

    fn free_frames(&self) -> u32 {
        (self.kernel.dma.free_bytes(self.area()).0 >> FRAME_SHIFT) as u32
    }

    /// Counts allocations from an area that is lent as a whole.
    fn loans(&self) {
        let frames = self.free_frames();
        self.recalls("loans-discard", &self.borrower::<Discardable>("cache", frames), 100);
        let movable = self.borrower::<Movable>("heap", frames);
        self.recalls("loans-move", &movable, 100);
        self.stubborn(&movable);
    }

    /// Counts allocations while more and more of the area is lent.
    fn lent(&self) {
        let frames = self.free_frames();
        let (cache, heap) =
            (self.borrower::<Discardable>("cache-2", frames), self.borrower::<Movable>("heap-2", frames));
        for percent in [0, 25, 50, 75, 100] {
            self.recalls(&format!("lent-discard-{percent}"), &cache, percent);
            self.recalls(&format!("lent-move-{percent}"), &heap, percent);
        }
    }

    fn recalls<K: LoanKind>(&self, key: &str, borrower: &Borrower<Armv7a, K>, percent: u32) {
        for bytes in [64 * KIB, MIB, LARGEST] {
            let mut alloc = Self::sized(key, bytes);
            // Lending all of an area takes the emulator a second.
            for _ in 0..if percent == 100 && bytes == LARGEST { SAMPLES / 3 } else { 3 } {
                let loans = self.lend(borrower, percent);
                let buffer = self.time(&mut alloc, || self.coherent(bytes));
                Self::free(buffer);
                for loan in loans {
                    borrower.give_back(loan).expect("a loan");
                }
            }
            alloc.print();
        }
    }

    /// Takes 8 MiB as often as the area holds them. All of the area is lent, and one page in each 8 MiB is in use:
    /// between the allocations, or during all of them, for as many pages as can be open.
    fn stubborn(&self, store: &Borrower<Armv7a, Movable>) {
        let attempts = self.kernel.dma.free_bytes(self.area()).0 as u32 / LARGEST;
        for (key, throughout) in [("stubborn/8M", false), ("open/8M", true)] {
            let loans = self.lend(store, 100);
            let each = loans.len() / attempts as usize;
            // The pages are in the middle of each 8 MiB, so that no 8 MiB lie between two of them.
            let pages: Vec<Loan> = loans.iter().skip(each / 2).step_by(each).copied().collect();
            let alloc = || self.try_coherent(LARGEST, 1);
            let mut held: Vec<Coherent<Armv7a>> = Vec::new();
            for _ in 0..attempts {
                for &page in &pages {
                    store.with(page, 0, |bytes| bytes[4] += 1).expect("it survives");
                }
                let open = if throughout { &pages[..SPARES as usize] } else { &[] };
                Self::with_all(store, open, &mut || held.extend(alloc()));
            }
            println!("count {key} {}", held.len());
            for &page in &pages {
                let uses = store.with(page, 0, |bytes| bytes[4]);
                assert_eq!(uses.map(u32::from), Ok(attempts), "it survived");
            }
            held.into_iter().for_each(Self::free);
            for loan in loans {
                store.give_back(loan).expect("a loan");
            }
        }
    }

    /// Runs `run` while these pages are open, each in a closure inside that of the page before.
    fn with_all(store: &Borrower<Armv7a, Movable>, pages: &[Loan], run: &mut dyn FnMut()) {
        match pages {
            [] => run(),
            [first, rest @ ..] => {
                store.with(*first, 0, |_| Self::with_all(store, rest, run)).expect("it is lent");
            }
        }
    }

    /// Counts one pair while more and more of the area's frames are taken singly, every second one.
    fn by_fragmentation(&self) {
        let all = self.free_frames();
        let mut singles: Vec<Contiguous<Armv7a>> = Vec::new();
        let mut kept: Vec<Contiguous<Armv7a>> = Vec::new();
        for percent in [0u32, 1, 2, 4, 6] {
            while (kept.len() as u32) < all * percent / 100 / 2 {
                kept.push(self.alloc(FRAME_SIZE));
                singles.push(self.alloc(FRAME_SIZE));
            }
            singles.clear();
            for bytes in [4 * KIB, 64 * KIB, MIB] {
                let series = |kind: &str| Self::sized(&format!("fragmented-{kind}-{percent}"), bytes);
                let (mut alloc, mut free) = (series("alloc"), series("free"));
                for _ in 0..SAMPLES {
                    let buffer = self.time(&mut alloc, || self.alloc(bytes));
                    self.time(&mut free, || drop(buffer));
                }
                alloc.print();
                free.print();
            }
        }
    }
}
