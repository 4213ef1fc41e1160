//! Areas that are taken from a kernel, and given back.

use super::*;
use crate::area::*;
use crate::buffer::*;
use crate::report::*;
use carveout::addr::{PhysAddr, SECTION_SIZE};
use carveout::machine::Mmu;
use carveout::setup::{L1, RAM};
use carveout::vm::attr::{Access, MemoryType, Shareability};
use carveout::vm::desc::L1Desc;

/// Where this kernel maps its RAM.
const DIRECT: u32 = 0x8000_0000;

/// Maps the area, or ends that.
fn kernel_maps(machine: &Machine, is_mapped: bool) {
    for at in (CARVED.raw()..CARVED.raw() + CARVED_BYTES).step_by(SECTION_SIZE as usize) {
        let (memory, access, share) = (MemoryType::WriteBack, Access::ReadWrite, Shareability::Shareable);
        let section = L1Desc::section(PhysAddr::new(at), memory, access, share);
        let word = if is_mapped { section.raw() } else { 0 };
        let n = (DIRECT + at - RAM.raw()) / SECTION_SIZE;
        machine.publish(PhysAddr::new(L1.raw() + 4 * n), &[word]);
    }
}

/// Returns the kernel's own pointer to the area.
fn kernels(machine: &Machine) -> *mut u8 {
    machine.reach(carveout::addr::VirtAddr::new(DIRECT + CARVED.raw() - RAM.raw()), CARVED_BYTES)
}

/// A kernel whose only area is late.
fn start_late() -> &'static Machine {
    start_late_of(CARVED_BYTES)
}

/// A kernel whose only area is late, and has so many of the bytes that the kernel maps.
fn start_late_of(bytes: u32) -> &'static Machine {
    let ranges = [Range { base: CARVED.raw(), bytes }];
    let areas = [Area { name: c"media".as_ptr(), ranges: ranges.as_ptr(), range_count: 1, late: 1 }];
    let machine = start_with(&Kernel { areas: areas.as_ptr(), ..kernel() });
    kernel_maps(machine, true);
    machine
}

fn take(unmap: Option<unsafe extern "C" fn(*mut c_void, u32, usize) -> bool>, context: *mut c_void) -> (Error, String) {
    let take = |why: &mut MaybeUninit<Failure>| {
        // SAFETY: no roots; `unmap` takes the context.
        unsafe { carveout_take_area(0, ptr::null(), 0, unmap, context, Some(why)) }
    };
    let (answer, (), code, line) = call(|_, why| take(why));
    assert_eq!(answer, code);
    (code, line)
}

fn alloc() -> Error {
    let mut handle = MaybeUninit::uninit();
    let (_, (), code, _) =
        call(|_, why| carveout_alloc_coherent(Some(&device(c"camera")), 4096, Some(&mut handle), Some(why)));
    if code == Error::Ok {
        // SAFETY: it was written.
        let handle = unsafe { handle.assume_init() };
        let at = carveout_free_coherent(Some(&device(c"camera")), 4096, ptr::null_mut(), handle, None);
        assert_eq!(at, Error::Address);
        let mut record = MaybeUninit::<Record>::uninit();
        // SAFETY: no line.
        unsafe { carveout_place_of_phys(handle.addr, Some(&mut record), ptr::null_mut(), 0) };
        // SAFETY: it was written.
        let at = unsafe { record.assume_init() }.cpu_addr;
        let at = instance::ready().unwrap().pointer(carveout::addr::VirtAddr::new(at.addr() as u32));
        assert_eq!(carveout_free_coherent(Some(&device(c"camera")), 4096, at.cast(), handle, None), Error::Ok);
    }
    code
}

/// What `unmap` was called with.
struct Kernels {
    machine: &'static Machine,
    calls: std::vec::Vec<(u32, usize)>,
    refuses: bool,
}

unsafe extern "C" fn unmap(context: *mut c_void, phys: u32, bytes: usize) -> bool {
    // SAFETY: the context is one, and nobody else has it now.
    let kernels = unsafe { &mut *context.cast::<Kernels>() };
    kernels.calls.push((phys, bytes));
    if !kernels.refuses {
        kernel_maps(kernels.machine, false);
    }
    !kernels.refuses
}

#[test]
fn i2_a_late_area_is_the_kernels_until_it_is_taken() {
    for by_the_kernel in [false, true] {
        alone(move || {
            let machine = start_late();
            assert_eq!(alloc(), Error::NotTaken);
            let mut kernels_own = Kernels { machine, calls: std::vec![], refuses: false };
            let context = ptr::from_mut(&mut kernels_own).cast();
            for turn in 1..4u8 {
                // SAFETY: the kernel has it mapped, and it is the kernel's.
                unsafe { kernels(machine).write_bytes(turn, CARVED_BYTES as usize) };
                machine.disturb();
                let unmap = by_the_kernel.then_some(unmap as unsafe extern "C" fn(_, _, _) -> _);
                assert_eq!(take(unmap, context), (Error::Ok, String::new()));
                assert_eq!(alloc(), Error::Ok);
                let (code, line) = take(unmap, context);
                assert_eq!(code, Error::Taken, "{line}");
                assert_eq!(carveout_give_back_area(0, None), Error::Ok);
                assert_eq!(alloc(), Error::NotTaken);
                kernel_maps(machine, true);
                // SAFETY: as above.
                let bytes = unsafe { core::slice::from_raw_parts(kernels(machine), CARVED_BYTES as usize) };
                assert!(bytes.iter().all(|&byte| byte == 0), "I5");
            }
            let calls = if by_the_kernel { 3 } else { 0 };
            assert_eq!(kernels_own.calls, std::vec![(CARVED.raw(), CARVED_BYTES as usize); calls]);
        });
    }
}

unsafe extern "C" fn lies(_: *mut c_void, _: u32, _: usize) -> bool {
    true
}

#[test]
fn an_area_that_cannot_be_taken_or_given_back_stays_where_it_is() {
    alone(|| {
        let machine = start_late();
        let (code, line) = refused(|why| carveout_give_back_area(0, Some(why)));
        assert_eq!((code, line.as_str()), (Error::NotTaken, "area not given back: it is the kernel's, or on its way"));
        assert_eq!(carveout_give_back_area(1, None), Error::Area);
        // SAFETY: it is refused.
        let none = unsafe { carveout_take_area(1, ptr::null(), 0, None, ptr::null_mut(), None) };
        assert_eq!(none, Error::Area);
        let roots = [0x4000];
        // SAFETY: one root; it is refused.
        let unknown = unsafe { carveout_take_area(0, roots.as_ptr(), 1, None, ptr::null_mut(), None) };
        assert_eq!(unknown, Error::StillMapped);

        let mut kernels_own = Kernels { machine, calls: std::vec![], refuses: true };
        let context = ptr::from_mut(&mut kernels_own).cast();
        let (code, line) = take(Some(unmap), context);
        let wanted = "area not taken: `unmap` answered false for 0x60200000-0x60600000 (4 MiB)";
        assert_eq!((code, line.as_str()), (Error::Unmap, wanted));
        let (code, line) = take(Some(lies), ptr::null_mut());
        assert_eq!(code, Error::StillMapped, "{line}");
        assert_eq!(alloc(), Error::NotTaken);

        assert_eq!(take(None, ptr::null_mut()).0, Error::Ok);
        let mut handle = MaybeUninit::uninit();
        let ring = carveout_alloc_coherent(Some(&device(c"camera")), 4096, Some(&mut handle), None);
        assert!(!ring.is_null());
        let (code, line) = refused(|why| carveout_give_back_area(0, Some(why)));
        let wanted = "area not given back: it has the coherent buffer 0x60200000-0x60201000 (4 KiB) of camera";
        assert_eq!((code, line.as_str()), (Error::Held, wanted));
    });
    // A section of 1 MiB maps the area, and as much beside it.
    alone(|| {
        start_late_of(CARVED_BYTES - SECTION_SIZE / 2);
        let (code, line) = take(None, ptr::null_mut());
        assert_eq!(code, Error::Unmap);
        assert!(line.starts_with("area not taken: one descriptor maps 1024 KiB at 0x80500000"), "{line}");
        assert_eq!(alloc(), Error::NotTaken);
    });
}
