//! What one thing costs, sample by sample, and where its samples begin and end.
//!
//! Guarantees: a line of the output holds all samples of a series, so that whoever reads it has the distribution. It is
//! `bench KEY COST...`, in instructions, with `COSTxN` for N that are equal; or `count KEY VALUE`. Where a plugin of
//! QEMU looks on, each sample stands between two functions that it knows by name, and `windows KEY N...` says which of
//! them were this series' own.

use alloc::string::String;
use alloc::vec::Vec;
use carveout_boards::kernel::{console, state};
use carveout_boards::println;
use core::fmt::Write as _;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering};

/// Instructions in a tick of the timer: it runs at 100 MHz, a nanosecond is an instruction.
pub(crate) const TICK: u64 = 10;

/// Where the first buffer is there: a plugin counts from reset to here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bench_first_buffer() {
    black_box(2);
}

/// Where a sample begins.
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

/// Says that the first buffer is there.
pub(crate) fn first_buffer() {
    bench_first_buffer();
}

/// Returns the value of a boot argument, or nothing.
pub(crate) fn argument(name: &str) -> &'static str {
    let kernel = state::kernel().expect("it runs");
    kernel.info.bootargs().get(name).and_then(|arg| arg.value).unwrap_or("")
}

/// Which samples a plugin is to see.
pub(crate) enum Marked {
    None,
    Of(&'static str),
    All,
}

impl Marked {
    /// Returns what the boot arguments ask for: `profile=KEY`, after which the program ends, or all with `windows`.
    pub(crate) fn asked() -> Self {
        match argument("profile") {
            "" if argument("suite") == "locks" => Self::All,
            "" => Self::None,
            key => Self::Of(key),
        }
    }
}

/// Costs of one thing, in ticks.
pub(crate) struct Series {
    key: String,
    pub(crate) costs: Vec<u64>,
    windows: Vec<u32>,
}

impl Series {
    pub(crate) fn new(key: String) -> Self {
        Self { key, costs: Vec::new(), windows: Vec::new() }
    }

    /// Does something and adds what it cost by this clock.
    #[inline]
    pub(crate) fn time<T>(&mut self, now: &dyn Fn() -> u64, marked: &Marked, work: impl FnOnce() -> T) -> T {
        static WINDOWS: AtomicU32 = AtomicU32::new(0);
        let seen = match marked {
            Marked::None => false,
            Marked::Of(key) => *key == self.key,
            Marked::All => true,
        };
        if seen {
            self.windows.push(WINDOWS.fetch_add(1, Ordering::Relaxed));
            bench_profile_on();
        }
        let start = now();
        let result = black_box(work());
        let cost = now() - start;
        if seen {
            bench_profile_off();
        }
        self.costs.push(cost);
        result
    }

    pub(crate) fn print(mut self) {
        self.costs.sort_unstable();
        let mut line = String::new();
        for equal in self.costs.chunk_by(|a, b| a == b) {
            let _ = write!(line, " {}", equal[0] * TICK);
            if equal.len() > 1 {
                let _ = write!(line, "x{}", equal.len());
            }
        }
        if !line.is_empty() {
            println!("bench {}{line}", self.key);
        }
        if !self.windows.is_empty() {
            line.clear();
            for window in &self.windows {
                let _ = write!(line, " {window}");
            }
            println!("windows {}{line}", self.key);
        }
        if self.key == argument("profile") {
            console::exit(0);
        }
    }
}
