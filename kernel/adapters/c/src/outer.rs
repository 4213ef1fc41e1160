//! The outer cache: one that the cores' own maintenance does not reach.
//!
//! Guarantees: it is asked by physical addresses, for ranges of which each byte is a buffer's. What C describes wrongly
//! is refused, before anything is asked of it.

use crate::failure::Refusal;
use carveout::vm::mapped::Part;
use carveout_armv7a::levels::CacheLevel;
use core::ffi::c_void;

/// A cache between the cores and memory that the cores' own maintenance does not reach: a PL310, by its registers, or
/// one that other functions operate. Those may call a monitor of the secure world.
#[repr(C)]
#[derive(Debug)]
pub struct OuterCache {
    /// Where the kernel has the registers of a PL310 mapped as Device memory, for good, and only the module writes
    /// them. It is turned on if it is off. NULL stands for none: then the three functions are called.
    pub(crate) pl310: *mut c_void,
    /// Whether the kernel runs in the non-secure world, which may not turn a PL310 on: 0 or 1.
    pub(crate) non_secure: u32,
    /// The bytes of a line, for the functions: a power of two from 4 to 4096.
    pub(crate) line: u32,
    /// Starts to write the dirty lines of `bytes` bytes from a physical address on to memory. Both are multiples of
    /// `line`.
    pub(crate) clean: Option<unsafe extern "C" fn(context: *mut c_void, phys: u32, bytes: usize)>,
    /// Starts to drop all lines of these bytes, dirty ones too.
    pub(crate) invalidate: Option<unsafe extern "C" fn(context: *mut c_void, phys: u32, bytes: usize)>,
    /// Returns when all that was started is done, and no buffer of the cache holds an access that came before.
    pub(crate) wait: Option<unsafe extern "C" fn(context: *mut c_void)>,
    /// The first argument of each of the three. Any core may call them at any time, with interrupts masked.
    pub(crate) context: *mut c_void,
}

/// An outer cache as it can be used.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(any(target_arch = "arm", test)), expect(dead_code, reason = "the host's machine has none"))]
pub(crate) enum Outer {
    /// A PL310: where its registers are, and whether this is the non-secure world.
    Pl310(*mut c_void, bool),
    Called(Called),
}

/// An outer cache that the kernel's functions operate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Called {
    line: u32,
    clean: unsafe extern "C" fn(*mut c_void, u32, usize),
    invalidate: unsafe extern "C" fn(*mut c_void, u32, usize),
    wait: unsafe extern "C" fn(*mut c_void),
    context: *mut c_void,
}

impl OuterCache {
    /// Returns what it is, or what is wrong with it.
    pub(crate) fn checked(&self) -> Result<Outer, Refusal> {
        let &Self { pl310, non_secure, line, clean, invalidate, wait, context } = self;
        let functions = [clean.is_some(), invalidate.is_some(), wait.is_some()];
        if !pl310.is_null() {
            let alone = !functions.contains(&true);
            return if alone { Ok(Outer::Pl310(pl310, non_secure != 0)) } else { Err(Refusal::TwoOuterCaches) };
        }
        let (Some(clean), Some(invalidate), Some(wait)) = (clean, invalidate, wait) else {
            let names = ["outer_cache.clean", "outer_cache.invalidate", "outer_cache.wait"];
            let missing = names.into_iter().zip(functions).find(|&(_, is_there)| !is_there);
            return Err(Refusal::Null(missing.map_or("outer_cache.pl310", |(name, _)| name)));
        };
        if !line.is_power_of_two() || !(4..=4096).contains(&line) {
            return Err(Refusal::OuterLine(line));
        }
        Ok(Outer::Called(Called { line, clean, invalidate, wait, context }))
    }
}

impl Called {
    /// Returns the lines that hold a part: the first byte of the first, and the bytes of all.
    fn lines(&self, part: Part<'_>) -> (u32, usize) {
        let (at, line) = (part.pa().raw(), self.line);
        let first = at & !(line - 1);
        (first, (part.bytes() + (at - first)).next_multiple_of(line) as usize)
    }

    fn count(&self, bytes: usize) -> u64 {
        bytes as u64 / u64::from(self.line)
    }
}

// SAFETY: any core may call the functions, and `context` is the kernel's own business, as the header says of them.
unsafe impl Sync for Called {}

// SAFETY: the functions do what the header asks of them, of whole lines that hold the part.
unsafe impl CacheLevel for Called {
    fn line(&self) -> u32 {
        self.line
    }

    fn clean(&self, part: Part<'_>) -> u64 {
        let (first, bytes) = self.lines(part);
        // SAFETY: the kernel passed it for this.
        unsafe { (self.clean)(self.context, first, bytes) };
        self.count(bytes)
    }

    fn invalidate(&self, part: Part<'_>) -> u64 {
        let (first, bytes) = self.lines(part);
        // SAFETY: the kernel passed it for this.
        unsafe { (self.invalidate)(self.context, first, bytes) };
        self.count(bytes)
    }

    fn wait(&self) {
        // SAFETY: the kernel passed it for this.
        unsafe { (self.wait)(self.context) };
    }
}
