//! Counts instructions: what each step of the DMA API costs, on a machine whose clock counts them.
//!
//! Run by tests/bench.sh under `-icount shift=0`, where an instruction takes a nanosecond of virtual time. The global
//! timer's tick is 10 ns, so that a figure is exact to 10 instructions, and reading the timer costs none but its own
//! few. A line of the output is `bench KEY MIN MEDIAN P99 MAX SAMPLES`, in instructions, or `count KEY VALUE`.
//! Without that option the lines are of the same form and mean nothing.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use carveout::addr::{FRAME_SHIFT, FRAME_SIZE, FrameRange};
use carveout::cma::{Index, Node};
use carveout::dma::{
    AreaId, Borrower, Coherent, Contiguous, Cpu, Device, Discardable, FromDevice, Loan, LoanKind, LoanPriority, Master,
    Movable, SPARES, Stream,
};
use carveout::vm::ledger::{Cell, Ledger};
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::drivers::timer::a9_global::A9GlobalTimer;
use carveout_boards::kernel::bring_up;
use carveout_boards::kernel::console;
use carveout_boards::kernel::state::{self, Kernel};
use carveout_boards::println;
use carveout_rt::start::BootHandover;
use core::any::Any;
use core::hint::black_box;

carveout_rt::entry!(main);

/// Instructions in a tick of the timer: it runs at 100 MHz, a nanosecond is an instruction.
const TICK: u64 = 10;
const SAMPLES: usize = 33;
const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;
const LARGEST: u32 = 8 * MIB;
/// Bytes kept unlent where the reserve is said to be full: all idle frames are zeroed then.
const RESERVE: u32 = 12 * MIB;

fn main(handover: BootHandover) -> ! {
    let kernel = bring_up::start(handover);
    let clock: Option<&dyn Any> = kernel.clock.as_deref().map(|clock| clock as _);
    let Some(timer) = clock.and_then(<dyn Any>::downcast_ref::<A9GlobalTimer>) else {
        console::die(format_args!("bench: this board has no global timer"))
    };
    let bench = Bench { kernel, now: &|| timer.count(), master: kernel.master("bench") };
    // The first thing a driver does.
    let first = bench.alloc(64 * KIB).into_coherent();
    println!("count boot {}", timer.count() * TICK);
    drop(first);

    bench.metadata();
    bench.by_size();
    bench.streams();
    bench.refusal();
    for slots in [128, 256, 384, 448, 512] {
        bench.trace(slots, 0);
    }
    bench.by_fragmentation();
    bench.reserve();
    for slots in [384, 448, 512] {
        bench.trace(slots, RESERVE);
    }
    kernel.dma.set_reserve(bench.area(), 0);
    bench.loans();
    bench.growth();
    println!("bench: ok");
    console::exit(0)
}

/// Where a profile begins: tests/bench/profile.sh knows it by its name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bench_profile_on() {
    black_box(());
}

/// Where it ends.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bench_profile_off() {
    // Unlike the other, or the linker makes them one.
    black_box(1);
}

/// Costs of one thing, in ticks.
struct Series {
    key: String,
    costs: Vec<u64>,
}

impl Series {
    fn new(key: String) -> Self {
        Self { key, costs: Vec::new() }
    }

    fn print(mut self) {
        self.costs.sort_unstable();
        let (key, costs) = (self.key, self.costs);
        let at = |part: usize| costs[(costs.len() * part / 100).min(costs.len() - 1)] * TICK;
        if !costs.is_empty() {
            println!("bench {key} {} {} {} {} {}", at(0), at(50), at(99), at(100), costs.len());
        }
        if key == profile() {
            console::exit(0);
        }
    }
}

fn name(bytes: u32) -> String {
    if bytes < MIB { format!("{}K", bytes / KIB) } else { format!("{}M", bytes / MIB) }
}

struct Bench<'k> {
    kernel: &'static Kernel,
    now: &'k dyn Fn() -> u64,
    master: Master,
}

/// The key of what is to be profiled, and then all there is to do.
fn profile() -> &'static str {
    let kernel = state::kernel().expect("it runs");
    kernel.info.bootargs().get("profile").and_then(|arg| arg.value).unwrap_or("")
}

impl Bench<'_> {
    /// Does something and adds what it cost.
    fn time<T>(&self, series: &mut Series, work: impl FnOnce() -> T) -> T {
        let profiled = profile() == series.key;
        if profiled {
            bench_profile_on();
        }
        let start = (self.now)();
        let result = black_box(work());
        series.costs.push((self.now)() - start);
        if profiled {
            bench_profile_off();
        }
        result
    }

    /// Costs of what is called `key/SIZE`.
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

    fn free(buffer: Coherent<Armv7a>) {
        // SAFETY: no device was ever told of it.
        drop(unsafe { buffer.release() });
    }

    /// Hundredths of a byte a frame that index and ledger take; the window takes none.
    fn metadata(&self) {
        let area = self.kernel.default_area().expect("an area");
        let frames = (self.kernel.dma.free_bytes(area).0 >> FRAME_SHIFT) as u32;
        let run = FrameRange::new(0x60000, frames).expect("a run");
        let index = Index::nodes_needed(run.start(), frames).expect("an index") * size_of::<Node>();
        let ledger = Ledger::cells_needed(core::iter::once(run)) * size_of::<Cell>();
        println!("count metadata {}", (index + ledger) * 100 / frames as usize);
    }

    /// Allocations and frees, in pairs.
    fn by_size(&self) {
        for bytes in [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 2 * MIB, 4 * MIB, LARGEST] {
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
            // Not the buffer that was allocated last, whose free undoes what the index put off.
            let mut first = Self::sized("free-first", bytes);
            for _ in 0..SAMPLES {
                let (one, other) = (self.alloc(bytes).into_coherent(), self.alloc(bytes));
                self.time(&mut first, || Self::free(one));
                drop(other);
            }
            first.print();
        }
    }

    fn streams(&self) {
        for bytes in [4 * KIB, 64 * KIB, MIB, LARGEST] {
            let (mut cycle, mut hop) = (Self::sized("capture-cycle", bytes), Self::sized("hand-over", bytes));
            let mut buffer: Stream<Armv7a, FromDevice, Device> = self.alloc(bytes).into_stream().for_device();
            for n in 0..=SAMPLES {
                // The first look finds no line anywhere: a capture cycle begins after it.
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

    /// Asks a full area.
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

    /// What the idle loop does; how many frames it went through.
    fn idle(&self) -> u32 {
        let mut frames = 0;
        while let done @ 1.. = self.kernel.dma.idle_work(self.area(), 64) {
            frames += done;
        }
        frames
    }

    /// Allocations that idle time prepared, all idle frames zeroed before each, and what zeroing costs a frame.
    fn reserve(&self) {
        let mut refill = Series::new(String::from("reserve-refill"));
        for bytes in [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 2 * MIB, 4 * MIB, LARGEST] {
            let mut alloc = Self::sized("alloc-reserve", bytes);
            let mut free = Self::sized("free-reserve", bytes);
            self.kernel.dma.set_reserve(self.area(), 0);
            self.kernel.dma.set_reserve(self.area(), RESERVE.into());
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

    /// Lends `percent` of the area, every page written.
    fn lend<K: LoanKind>(&self, borrower: &Borrower<Armv7a, K>, percent: u32) -> Vec<Loan> {
        let mut left = (self.kernel.dma.free_bytes(self.area()).0 >> FRAME_SHIFT) as u32 * percent / 100;
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

    /// Allocations from memory that is lent, all of it and parts of it.
    fn loans(&self) {
        let frames = (self.kernel.dma.free_bytes(self.area()).0 >> FRAME_SHIFT) as u32;
        self.recalls("discard", &self.borrower::<Discardable>("cache", frames));
        let movable = self.borrower::<Movable>("heap", frames);
        self.recalls("move", &movable);
        self.stubborn(&movable);
    }

    /// Takes 8 MiB as often as the area holds them, all of it lent and one page in each 8 MiB in use: between the
    /// allocations, or, as many of them as can be, throughout.
    fn stubborn(&self, store: &Borrower<Armv7a, Movable>) {
        let attempts = self.kernel.dma.free_bytes(self.area()).0 as u32 / LARGEST;
        for (key, throughout) in [("stubborn/8M", false), ("open/8M", true)] {
            let loans = self.lend(store, 100);
            let each = loans.len() / attempts as usize;
            // From the middle of each 8 MiB, so that no 8 MiB are between two of them.
            let pages: Vec<Loan> = loans.iter().skip(each / 2).step_by(each).copied().collect();
            let alloc = || self.kernel.dma.alloc(&self.master, LARGEST, 1).ok().map(Contiguous::into_coherent);
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

    /// Runs something while these pages are open, each in a closure inside that of the one before.
    fn with_all(store: &Borrower<Armv7a, Movable>, pages: &[Loan], run: &mut dyn FnMut()) {
        match pages {
            [] => run(),
            [first, rest @ ..] => {
                store.with(*first, 0, |_| Self::with_all(store, rest, run)).expect("it is lent");
            }
        }
    }

    /// The index alone, of areas of all sizes, each fragmented by an adversary: in every 64 frames a request has a run
    /// to look at that does not fit. Allocations and frees, the tree told of each.
    fn growth(&self) {
        for mib in [16u32, 64, 256, 1024, 4096, 16384] {
            let frames = mib << (20 - FRAME_SHIFT);
            let needed = Index::nodes_needed(0, frames).expect("an index");
            let mut nodes = Vec::new();
            if nodes.try_reserve_exact(needed).is_err() {
                println!("bench: no heap for an index of {mib} MiB");
                return;
            }
            nodes.resize(needed, Node::EMPTY);
            let mut index = Index::new(0, frames, &mut nodes).expect("storage as large as asked for");
            // Runs of 16 to 31 frames that hold no 16 aligned ones, and a long one at the end.
            for block in (0..frames - 1024).step_by(64) {
                index.take(block, 1).expect("free");
                index.take(block + 16, 1).expect("free");
                let end = 32 + (block / 64) % 15;
                index.take(block + end, 64 - end).expect("free");
            }
            for (count, order) in [(1, 3), (16, 4), (256, 4)] {
                let series = |kind| Self::sized(&format!("area-{kind}-{mib}"), count << FRAME_SHIFT);
                let (mut alloc, mut free) = (series("alloc"), series("free"));
                for _ in 0..SAMPLES {
                    let at = self.time(&mut alloc, || {
                        let at = index.alloc(count, order, 0..u32::MAX);
                        index.settle();
                        at
                    });
                    let at = at.expect("there is one such run");
                    self.time(&mut free, || {
                        let freed = index.free(at, count);
                        index.settle();
                        freed
                    })
                    .expect("it was taken");
                }
                alloc.print();
                free.print();
            }
        }
    }

    fn recalls<K: LoanKind>(&self, kind: &str, borrower: &Borrower<Armv7a, K>) {
        for percent in [0, 25, 50, 75, 100] {
            for bytes in [64 * KIB, MIB, LARGEST] {
                let all = percent == 100;
                let key = if all { format!("loans-{kind}") } else { format!("lent-{kind}-{percent}") };
                let mut alloc = Self::sized(&key, bytes);
                for _ in 0..if all && bytes == LARGEST { SAMPLES } else { 3 } {
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
    }

    /// The mixed-size trace of the peers' figures: 64 MiB whose first 64 frames are taken, alignment to the size's next
    /// power of two, 64 KiB at most.
    /// With a reserve, for which an idle loop prepares before each allocation.
    fn trace(&self, slots: u32, reserve: u32) {
        const SIZES: [u32; 16] = [1, 1, 2, 3, 4, 5, 8, 12, 16, 25, 32, 64, 100, 128, 256, 375];
        let kernel = self.kernel;
        kernel.dma.set_reserve(self.area(), 0);
        let taken = self.alloc(64 * FRAME_SIZE);
        kernel.dma.set_reserve(self.area(), reserve.into());
        let mut held: Vec<Option<Coherent<Armv7a>>> = (0..slots).map(|_| None).collect();
        let mut x = 12345u32;
        let mut next = || {
            x = x.wrapping_mul(1664525).wrapping_add(1013904223);
            x >> 8
        };
        let kind = if reserve > 0 { "-reserve" } else { "" };
        let series = |key: &str| Series::new(format!("{key}{kind}/{slots}"));
        let (mut bare, mut alloc, mut free) = (series("trace-bare"), series("trace-alloc"), series("trace-free"));
        let (mut refused, mut idle) = (series("trace-refused"), series("trace-idle"));
        let (mut frames, mut instructions) = (0, 0);
        for _ in 0..6000 {
            let slot = &mut held[(next() % slots) as usize];
            if let Some(buffer) = slot.take() {
                self.time(&mut free, || Self::free(buffer));
                continue;
            }
            let count = SIZES[(next() % 16) as usize];
            let align = count.next_power_of_two().min(16) * FRAME_SIZE;
            if reserve > 0 {
                self.time(&mut idle, || self.idle());
            }
            let given = self.time(&mut bare, || kernel.dma.alloc(&self.master, count * FRAME_SIZE, align));
            let Ok(given) = given else {
                refused.costs.extend(bare.costs.pop());
                continue;
            };
            *slot = Some(self.time(&mut alloc, || given.into_coherent()));
            // Both steps together.
            if let (Some(first), Some(both)) = (bare.costs.last(), alloc.costs.last_mut()) {
                *both += first;
                frames += count;
                instructions += *both * TICK;
            }
        }
        println!("count trace-ok{kind}/{slots} {}", alloc.costs.len());
        println!("count trace-failed{kind}/{slots} {}", refused.costs.len());
        println!("count trace-alloc-a-page{kind}/{slots} {}", instructions / u64::from(frames));
        bare.print();
        alloc.print();
        refused.print();
        idle.print();
        free.print();
        held.into_iter().flatten().for_each(Self::free);
        drop(taken);
    }

    /// The same pair while more and more of the area's frames are taken singly, every second one.
    fn by_fragmentation(&self) {
        let area = self.kernel.default_area().expect("an area");
        let all = (self.kernel.dma.free_bytes(area).0 >> FRAME_SHIFT) as u32;
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
