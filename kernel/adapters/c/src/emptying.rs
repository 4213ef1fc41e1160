//! Whole caches, emptied where that costs less than to go by lines.
//!
//! Guarantees: none is emptied before the kernel permits it. Then every other core that the kernel has is asked (I3).

use crate::failure::{Error, Failure, Refusal, answer};
use crate::instance;
use crate::machine::{Machine, leaked};
#[cfg(target_arch = "arm")]
use carveout_armv7a::whole;
use core::ffi::c_void;
use core::mem::MaybeUninit;

/// The other cores, which may hold lines of a buffer, and how to have each of them do something.
#[repr(C)]
#[derive(Debug)]
pub struct OtherCores {
    /// How many there are at most, besides the one that asks.
    pub(crate) count: u32,
    /// Has every other core that is coherent call `work(argument)`, with its interrupts masked and after what it was
    /// doing before, and returns when all have done so: by an interrupt to each of them. A core that sleeps and did not
    /// empty its caches is woken. One that becomes coherent later empties its caches before. It is called with
    /// interrupts masked, and by two cores at a time: a core that waits in it does meanwhile what the other asks.
    pub(crate) each: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            work: unsafe extern "C" fn(argument: *mut c_void),
            argument: *mut c_void,
        ),
    >,
    /// The first argument of `each`.
    pub(crate) context: *mut c_void,
}

/// The other cores as they can be asked.
#[derive(Debug)]
#[cfg_attr(not(any(target_arch = "arm", test)), expect(dead_code, reason = "the host's machine asks none"))]
pub(crate) struct Asked {
    count: u32,
    each: unsafe extern "C" fn(*mut c_void, unsafe extern "C" fn(*mut c_void), *mut c_void),
    context: *mut c_void,
}

impl OtherCores {
    /// Returns how they are asked, or what is missing.
    pub(crate) fn checked(&self) -> Result<Asked, Refusal> {
        let &Self { count, each, context } = self;
        Ok(Asked { count, each: each.ok_or(Refusal::Null("others.each"))?, context })
    }
}

/// What is to be done, as a core gets it.
#[cfg(any(target_arch = "arm", test))]
type Work<'w> = &'w (dyn Fn() + Sync);

#[cfg(any(target_arch = "arm", test))]
unsafe extern "C" fn work(argument: *mut c_void) {
    // SAFETY: `each` of `Asked` passed a pointer to it, and waits until nobody calls this any more.
    let work = unsafe { *argument.cast::<Work<'_>>() };
    work();
}

// SAFETY: any core may call `each`, and `context` is the kernel's own business, as the header says of them.
unsafe impl Sync for Asked {}

impl Asked {
    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    /// Has every other core run `done`, and waits for them.
    #[cfg(any(target_arch = "arm", test))]
    pub(crate) fn each(&self, done: Work<'_>) {
        // SAFETY: the kernel passed it for this.
        unsafe { (self.each)(self.context, work, (&raw const done).cast_mut().cast()) };
    }
}

// SAFETY: every other core that is coherent does the work before `each` of C returns, as the header says of it (I3).
#[cfg(target_arch = "arm")]
unsafe impl whole::AskCores for Asked {
    fn count(&self) -> u32 {
        self.count()
    }

    fn each(&self, done: Work<'_>) {
        self.each(done);
    }
}

/// Permits that whole caches are emptied, of this core and of the others.
#[cfg(target_arch = "arm")]
fn permit(machine: &Machine, others: Option<&'static Asked>) -> Result<(), Refusal> {
    let others = others.map_or(whole::OtherCores::None, |asked| whole::OtherCores::Asked(asked));
    // SAFETY: without others, no core is ever coherent with this one, as the header says (I3).
    unsafe { machine.permit_emptying(others) }.map_err(Refusal::Unnamed)
}

/// Permits that the fake machine's caches are emptied. Each of its cores is to have so many lines.
#[cfg(not(target_arch = "arm"))]
#[expect(clippy::unnecessary_wraps, reason = "the board's may be refused")]
fn permit(machine: &Machine, others: Option<&'static Asked>) -> Result<(), Refusal> {
    machine.can_flush(FAKE_LINES * (1 + others.map_or(0, Asked::count)));
    Ok(())
}

/// The lines of a core of the fake machine.
#[cfg(not(target_arch = "arm"))]
const FAKE_LINES: u32 = 512;

/// Permits that whole caches are emptied where a stream that changes hands has at least eight times their lines. What
/// it then costs does not grow with the stream. Without this call lines go one by one. A kernel that cannot wait for
/// other cores does not call it. It is called once, when all cores that are to run do.
///
/// `others` is NULL on a machine of one core: then no other core is ever coherent with it. With an outer cache that
/// functions operate lines go one by one all the same. This uses the kernel's `alloc`.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_permit_emptying(
    others: Option<&OtherCores>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let instance = instance::ready()?;
        let asked = others.map(OtherCores::checked).transpose()?;
        instance.permit_emptying_once(|machine| {
            let asked = asked.map(leaked).transpose()?;
            permit(machine, asked)
        })
    })
}
