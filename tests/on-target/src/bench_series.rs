//! A series: the cost of one thing, sample by sample, with marks where its samples begin and end.
//!
//! Guarantees: a line of the output holds all samples of a series, so a reader has the distribution. The line is `bench
//! KEY COST...`, in instructions, with `COSTxN` for N equal ones; or it is `count KEY VALUE`. For a plugin of QEMU,
//! each sample is between two functions that the plugin knows by name. The line `windows KEY N...` says which samples
//! belong to this series.

use alloc::string::String;
use alloc::vec::Vec;
use carveout_boards::kernel::{console, state};
use carveout_boards::println;
use core::fmt::Write as _;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering};

/// Instructions in a tick of the timer. The timer runs at 100 MHz, and an instruction takes a nanosecond.
pub(crate) const TICK: u64 = 10;

/// Marks the first buffer. A plugin counts from reset to here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bench_first_buffer() {
    black_box(2);
}

/// Marks the start of a sample.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bench_profile_on() {
    black_box(());
}

/// Marks the end of a sample.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bench_profile_off() {
    // This body differs from the other one. Otherwise the linker would merge the two functions.
    black_box(1);
}

/// Calls the mark of the first buffer.
pub(crate) fn first_buffer() {
    bench_first_buffer();
}

/// Returns the value of a boot argument, or an empty text.
pub(crate) fn argument(name: &str) -> &'static str {
    let kernel = state::kernel().expect("it runs");
    kernel.info.bootargs().get(name).and_then(|arg| arg.value).unwrap_or("")
}

/// The samples that a plugin sees.
pub(crate) enum Marked {
    None,
    Of(&'static str),
    All,
}

impl Marked {
    /// Returns the samples that the boot arguments ask for: those of `profile=KEY`, after which the program ends, or
    /// all with `windows`.
    pub(crate) fn asked() -> Self {
        match argument("profile") {
            "" if argument("suite") == "locks" => Self::All,
            "" => Self::None,
            key => Self::Of(key),
        }
    }
}

/// The costs of one thing, in ticks.
pub(crate) struct Series {
    key: String,
    pub(crate) costs: Vec<u64>,
    windows: Vec<u32>,
}

impl Series {
    pub(crate) fn new(key: String) -> Self {
        Self { key, costs: Vec::new(), windows: Vec::new() }
    }

    /// Does `work` and adds its cost by this clock.
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
