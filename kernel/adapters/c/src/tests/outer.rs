//! The outer cache that a kernel's functions operate.

use super::*;
use crate::outer::*;
use carveout::addr::{FrameRange, VirtAddr};
use carveout::protocol;
use carveout::vm::attr::MemoryType;
use carveout::vm::mapped::Mapped;
use carveout_armv7a::levels::{CacheLevel, run};
use std::vec::Vec;

/// What the functions were asked for: which of them, and of what.
type Asked = Vec<(char, u32, usize)>;

fn note(context: *mut c_void, what: (char, u32, usize)) {
    // SAFETY: the context is the list, and nobody else has it now.
    unsafe { &mut *context.cast::<Asked>() }.push(what);
}

unsafe extern "C" fn clean(context: *mut c_void, phys: u32, bytes: usize) {
    note(context, ('c', phys, bytes));
}

unsafe extern "C" fn invalidate(context: *mut c_void, phys: u32, bytes: usize) {
    note(context, ('i', phys, bytes));
}

unsafe extern "C" fn wait(context: *mut c_void) {
    note(context, ('w', 0, 0));
}

fn functions(line: u32, context: *mut c_void) -> OuterCache {
    OuterCache {
        pl310: ptr::null_mut(),
        non_secure: 0,
        line,
        clean: Some(clean),
        invalidate: Some(invalidate),
        wait: Some(wait),
        context,
    }
}

#[test]
fn i3_functions_are_asked_in_the_protocols_order_of_whole_lines() {
    let mut asked = Asked::new();
    let Ok(Outer::Called(called)) = functions(64, ptr::from_mut(&mut asked).cast()).checked() else {
        panic!("functions of an outer cache")
    };
    let frames = FrameRange::within(0x6020_0000, 0x1000);
    // SAFETY: nothing accesses it.
    let mapped = unsafe { Mapped::assume(VirtAddr::new(0xc000_0000), frames, MemoryType::WriteBack) };
    let levels: [&dyn CacheLevel; 1] = [&called];
    let odd = mapped.part(40, 200).unwrap();
    let lines = [run(protocol::clean, &levels, odd), run(protocol::invalidate, &levels, mapped.all())];
    // The only level of this machine counts as the inner one.
    assert_eq!(lines.map(|lines| (lines.inner, lines.outer)), [(4, 0), (64, 0)]);
    assert_eq!((called.line(), asked[0]), (64, ('c', 0x6020_0000, 256)));
    assert_eq!(asked[asked.len() - 2..], [('i', 0x6020_0000, 0x1000), ('w', 0, 0)]);
}

#[test]
fn an_outer_cache_that_cannot_be_is_refused() {
    let of = |change: &dyn Fn(&mut OuterCache)| {
        let mut outer = functions(32, ptr::null_mut());
        change(&mut outer);
        let line = outer.checked().err().map(|refusal| (refusal.code(), std::string::ToString::to_string(&refusal)));
        line.map_or((Error::Ok, String::new()), |line| line)
    };
    let registers = ptr::without_provenance_mut(0x1e00_a000);
    assert_eq!(of(&|_| {}).0, Error::Ok);
    assert_eq!(of(&|outer| outer.clean = None).1, "outer_cache.clean is NULL, and is needed");
    assert_eq!(of(&|outer| outer.invalidate = None).1, "outer_cache.invalidate is NULL, and is needed");
    assert_eq!(of(&|outer| outer.wait = None), (Error::NullPointer, "outer_cache.wait is NULL, and is needed".into()));
    assert_eq!(of(&|outer| outer.pl310 = registers).0, Error::OuterCache);
    for line in [0, 2, 48, 8192] {
        let wanted =
            std::format!("an outer cache with lines of {line} bytes: a power of two from 4 to 4096 is possible");
        assert_eq!(of(&|outer| outer.line = line), (Error::OuterCache, wanted));
    }
    let pl310 = OuterCache { pl310: registers, clean: None, invalidate: None, wait: None, ..functions(0, registers) };
    assert!(matches!(pl310.checked(), Ok(Outer::Pl310(at, false)) if at == registers));
    assert!(matches!(OuterCache { non_secure: 1, ..pl310 }.checked(), Ok(Outer::Pl310(_, true))));

    // Before anything of the kernel's is used.
    alone(|| {
        let outer = functions(3, ptr::null_mut());
        let (code, _) =
            refused(|why| carveout_init(Some(&Kernel { outer_cache: &raw const outer, ..kernel() }), Some(why)));
        assert_eq!(code, Error::OuterCache);
        start();
    });
}
