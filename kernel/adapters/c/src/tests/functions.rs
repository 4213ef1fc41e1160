//! Each function by itself: what it does, and what it refuses.

use super::*;
use crate::area::*;
use crate::audit::*;
use crate::blocks::{MAX_POOLS, Pool};
use crate::buffer::*;
use crate::contract::*;
use crate::cores::*;
use crate::device::Aperture;
use crate::failure::*;
use crate::init::{KernelNeeds, carveout_needs};
use crate::kernel::Alias;
use crate::pool::*;
use crate::report::*;
use crate::written::Sums;
use carveout::addr::PhysAddr;
use std::format;
use std::string::ToString;
use std::vec::Vec;

const FROM_DEVICE: u32 = Direction::CarveoutFromDevice as u32;
const TO_DEVICE: u32 = Direction::CarveoutToDevice as u32;
const BOTH: u32 = Direction::CarveoutBidirectional as u32;

fn coherent(dev: &Device, size: usize) -> (*mut c_void, DmaHandle) {
    let (at, handle, code, line) = call(|to, why| carveout_alloc_coherent(Some(dev), size, Some(to), Some(why)));
    assert_eq!((code, line.as_str()), (Error::Ok, ""));
    (at, handle)
}

fn stream(dev: &Device, size: usize, dir: u32) -> (*mut c_void, DmaHandle) {
    let (at, handle, code, line) =
        call(|to, why| carveout_alloc_noncoherent(Some(dev), size, Some(to), dir, Some(why)));
    assert_eq!((code, line.as_str()), (Error::Ok, ""));
    (at, handle)
}

fn free(bytes: u64) {
    let (answer, room, ..) = call(|to, why| carveout_area_room(0, Some(to), Some(why)));
    assert_eq!((answer, room), (Error::Ok, Room { bytes, largest: bytes }));
}

fn place_of(cpu_addr: *const c_void) -> Place {
    // SAFETY: no line.
    unsafe { carveout_place_of(cpu_addr, None, ptr::null_mut(), 0) }
}

#[test]
fn every_error_has_a_text_of_its_own() {
    let text = |number: i32| {
        // SAFETY: a text that ends with a NUL.
        unsafe { CStr::from_ptr(carveout_strerror(number)) }.to_str().unwrap()
    };
    let mut texts: Vec<_> = TEXTS.iter().map(|&(error, _)| text(error as i32)).collect();
    for (n, (error, own)) in TEXTS.iter().enumerate() {
        assert_eq!((*error as usize, own.to_str().unwrap()), (n, texts[n]));
    }
    texts.push(text(-1));
    assert_eq!(text(i32::MAX), text(-1));
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), TEXTS.len() + 1);
    // All of the enum are in the list: the last of them is.
    let last = include_str!("../failure.rs").split("pub enum Error {").nth(1).unwrap().split("\n}").next().unwrap();
    assert_eq!(last.matches(" = ").count(), TEXTS.len());
}

#[test]
fn a_line_is_cut_off_where_its_room_ends() {
    let mut line = [1; 6];
    write_line(&mut line, "carve");
    assert_eq!(text_of(&line), "carve");
    write_line(&mut line, format_args!("{}{}", "carv", "eout"));
    assert_eq!(text_of(&line), "carve");
    write_line(&mut [], "nothing");
    let mut one = [1];
    write_line(&mut one, "x");
    assert_eq!(one, [0]);
}

#[test]
fn before_init_everything_is_refused() {
    alone(|| {
        let camera = device(c"camera");
        let dev = Some(&camera);
        let mut out = MaybeUninit::uninit();
        let refusals = [
            refused(|why| carveout_alloc_coherent(dev, 1, Some(&mut out), Some(why))),
            refused(|why| carveout_alloc_noncoherent(dev, 1, Some(&mut out), BOTH, Some(why))),
            refused(|why| carveout_alloc_device_only(dev, 1, Some(&mut out), Some(why))),
            refused(|why| carveout_free_coherent(dev, 1, ptr::null_mut(), NONE, Some(why))),
            refused(|why| carveout_free_noncoherent(dev, 1, ptr::null_mut(), NONE, BOTH, Some(why))),
            refused(|why| carveout_free_device_only(dev, 1, NONE, Some(why))),
            refused(|why| carveout_sync_single_for_device(dev, NONE, 1, BOTH, Some(why))),
            refused(|why| carveout_sync_single_for_cpu(dev, NONE, 1, BOTH, Some(why))),
            refused(|why| carveout_sync_single_range_for_cpu(dev, NONE, 0, 1, BOTH, Some(why))),
            refused(|why| carveout_quarantine(dev, NONE, Some(why))),
            refused(|why| carveout_pool_create(dev, 1, 1, 0, 1, Some(why))),
            refused(|why| carveout_pool_alloc(Pool { id: 1 }, Some(&mut out), Some(why))),
            refused(|why| carveout_pool_free(Pool { id: 1 }, ptr::null_mut(), NONE, Some(why))),
            refused(|why| carveout_pool_destroy(Pool { id: 1 }, Some(why))),
            // SAFETY: NULL.
            refused(|why| unsafe { carveout_contract_create(dev, ptr::null(), 0, Some(why)) }),
            refused(|why| carveout_contract_destroy(Contract { id: 1 }, Some(why))),
            // SAFETY: NULL.
            refused(|why| unsafe { carveout_for_each_holder(None, ptr::null_mut(), Some(why)) }),
            // SAFETY: NULL.
            refused(|why| unsafe { carveout_audit(None, None, ptr::null_mut(), None, Some(why)) }),
            refused(|why| carveout_retire(dev, Some(why))),
            refused(|why| carveout_area_room(0, None, Some(why))),
            refused(|why| carveout_count(None, Some(why))),
            refused(|why| carveout_check_core(Some(why))),
            refused(|why| carveout_give_back_area(0, Some(why))),
            // SAFETY: NULL.
            refused(|why| unsafe { carveout_take_area(0, ptr::null(), 0, None, ptr::null_mut(), Some(why)) }),
        ];
        assert_eq!(refusals.map(|(code, _)| code), [Error::NotReady; 24]);
        assert_eq!(place_of(ptr::null()), Place::NotOurs);
        // SAFETY: no line.
        assert_eq!(unsafe { carveout_place_of_phys(0, None, ptr::null_mut(), 0) }, Place::NotOurs);
        assert!(!carveout_next_quarantined(None));
        carveout_dma_wmb();
        carveout_dma_rmb();
        carveout_wmb();
    });
}

#[test]
fn null_pointers_are_refused() {
    alone(|| {
        start();
        let camera = device(c"camera");
        let dev = Some(&camera);
        let (at, ring) = coherent(&camera, 4096);
        let mut out = MaybeUninit::uninit();
        let refusals = [
            refused(|why| carveout_alloc_coherent(None, 1, Some(&mut out), Some(why))),
            refused(|why| carveout_alloc_coherent(dev, 1, None, Some(why))),
            refused(|why| carveout_alloc_noncoherent(None, 1, Some(&mut out), BOTH, Some(why))),
            refused(|why| carveout_alloc_noncoherent(dev, 1, None, BOTH, Some(why))),
            refused(|why| carveout_alloc_device_only(None, 1, Some(&mut out), Some(why))),
            refused(|why| carveout_alloc_device_only(dev, 1, None, Some(why))),
            refused(|why| carveout_free_coherent(None, 4096, at, ring, Some(why))),
            refused(|why| carveout_pool_create(None, 1, 1, 0, 1, Some(why))),
            refused(|why| carveout_pool_alloc(Pool { id: 1 }, None, Some(why))),
            // SAFETY: NULL.
            refused(|why| unsafe { carveout_contract_create(None, ptr::null(), 0, Some(why)) }),
            // SAFETY: NULL.
            refused(|why| unsafe { carveout_contract_create(dev, ptr::null(), 3, Some(why)) }),
            // SAFETY: NULL.
            refused(|why| unsafe { carveout_for_each_holder(None, ptr::null_mut(), Some(why)) }),
            // SAFETY: NULL.
            refused(|why| unsafe { carveout_audit(None, None, ptr::null_mut(), None, Some(why)) }),
            refused(|why| carveout_retire(None, Some(why))),
            refused(|why| carveout_area_room(0, None, Some(why))),
            refused(|why| carveout_count(None, Some(why))),
            refused(|why| carveout_init(None, Some(why))),
            refused(|why| carveout_needs(None, None, Some(why))),
            refused(|why| carveout_needs(Some(&kernel()), None, Some(why))),
        ];
        for (code, line) in refusals {
            assert_eq!(code, Error::NullPointer, "{line}");
            assert!(line.ends_with(" is NULL, and is needed"), "{line}");
        }
        // Nobody has to want the reason.
        assert!(carveout_alloc_coherent(None, 1, None, None).is_null());
        assert_eq!(carveout_free_coherent(dev, 4096, ptr::null_mut(), ring, None), Error::Address);
        assert_eq!(carveout_free_coherent(dev, 4096, at, ring, None), Error::Ok);
    });
}

#[test]
fn a_kernel_that_gives_the_wrong_things_is_refused() {
    /// A kernel, for one thread.
    struct Given(Kernel);

    // SAFETY: it never changes, and neither does what it points to.
    unsafe impl Send for Given {}

    let of = |change: &dyn Fn(&mut Kernel)| {
        let mut kernel = kernel();
        change(&mut kernel);
        let given = Given(kernel);
        alone(move || {
            let Given(kernel) = { given };
            let found = refused(|why| carveout_init(Some(&kernel), Some(why)));
            assert!(instance::ready().is_err());
            found
        })
    };
    let areas = |area: Area| Box::leak(Box::new([area])).as_ptr();
    let ranges = |ranges: &[Range]| Vec::leak(ranges.to_vec()).as_ptr();
    let line = |(code, line): (Error, String)| {
        assert_eq!(code, Error::Kernel, "{line}");
        line
    };
    assert_eq!(of(&|kernel| kernel.areas = ptr::null()).0, Error::NullPointer);
    assert_eq!(of(&|kernel| kernel.area_count = 0).0, Error::NullPointer);
    assert_eq!(of(&|kernel| kernel.alloc = None).1, "alloc is NULL, and is needed");
    assert_eq!(of(&|kernel| kernel.free = None).1, "free is NULL, and is needed");
    assert_eq!(of(&|kernel| kernel.phys_to_virt = None).1, "phys_to_virt is NULL, and is needed");
    assert_eq!(of(&|kernel| kernel.areas = areas(Area { name: ptr::null(), ..area() })).0, Error::NullPointer);
    assert_eq!(of(&|kernel| kernel.areas = areas(Area { ranges: ptr::null(), ..area() })).0, Error::NullPointer);
    assert_eq!(of(&|kernel| kernel.areas = areas(Area { range_count: 0, ..area() })).0, Error::NullPointer);
    let long = c"a name of more than thirty-one bytes";
    assert_eq!(of(&|kernel| kernel.areas = areas(Area { name: long.as_ptr(), ..area() })).0, Error::Name);
    assert_eq!(of(&|kernel| kernel.areas = areas(Area { name: c"\xff".as_ptr(), ..area() })).0, Error::Name);
    for range in [(0x6020_0800, 0x1000), (0x6020_0000, 0x1800), (0x6020_0000, 0), (0xffff_f000, 0x2000)] {
        let (base, bytes) = range;
        let ranges = ranges(&[Range { base, bytes }]);
        let line = line(of(&|kernel| kernel.areas = areas(Area { ranges, ..area() })));
        assert_eq!(line, format!("{bytes:#x} bytes at {base:#x} are no run of whole pages below 4 GiB"));
    }
    let page = |n: u32| Range { base: CARVED.raw() + n * 0x2000, bytes: 0x1000 };
    let nine = ranges(&(0..9).map(page).collect::<Vec<_>>());
    let (code, text) = of(&|kernel| kernel.areas = areas(Area { ranges: nine, range_count: 9, ..area() }));
    assert_eq!((code, text.as_str()), (Error::NoRecord, "all 8 records of ranges of an area are in use"));
    let overlapping = ranges(&[page(0), page(0)]);
    line(of(&|kernel| kernel.areas = areas(Area { ranges: overlapping, range_count: 2, ..area() })));

    line(of(&|kernel| kernel.window += 0x1000));
    line(of(&|kernel| kernel.window_sections = 4096));
    line(of(&|kernel| kernel.window_sections = 3));
    line(of(&|kernel| kernel.tables += 4));
    line(of(&|kernel| kernel.tables = CARVED.raw()));
    line(of(&|kernel| kernel.buffers = u32::MAX));
    let alias = |range: Range, of: u32| Box::leak(Box::new([Alias { range, of }])).as_ptr();
    let (second, first) = (alias(page(0), 0x6000_0800), alias(page(0), CARVED.raw()));
    line(of(&|kernel| (kernel.aliases, kernel.alias_count) = (second, 1)));
    line(of(&|kernel| (kernel.aliases, kernel.alias_count) = (first, 1)));
    let root = Box::leak(Box::new([0x6000_8000])).as_ptr();
    line(of(&|kernel| (kernel.roots, kernel.root_count) = (root, 1)));
}

fn area() -> Area {
    let ranges = Box::leak(Box::new([Range { base: CARVED.raw(), bytes: CARVED_BYTES }]));
    Area { name: c"media".as_ptr(), ranges: ranges.as_ptr(), range_count: 1, late: 0 }
}

#[test]
fn there_is_one_module() {
    alone(|| {
        start();
        let (code, _) = refused(|why| carveout_init(Some(&kernel()), Some(why)));
        assert_eq!(code, Error::Ready);
        free(CARVED_BYTES.into());
    });
}

#[test]
fn a_kernel_is_told_what_it_needs() {
    alone(|| {
        let kernel = kernel();
        let of = |buffers: u32| {
            let kernel = Kernel { buffers, ..kernel };
            let (answer, needs, ..) =
                call::<KernelNeeds, _>(|to, why| carveout_needs(Some(&kernel), Some(to), Some(why)));
            assert_eq!(answer, Error::Ok);
            needs
        };
        let (few, default, many) = (of(16), of(0), of(4096));
        assert_eq!((default.window_sections, of(1024)), (SECTIONS, default));
        assert!(default.least_sections < SECTIONS);
        assert!(few.heap_bytes < default.heap_bytes && default.heap_bytes < many.heap_bytes);
        let checked = Kernel { check_writes: 1, ..kernel };
        let (_, needs, ..) = call::<KernelNeeds, _>(|to, why| carveout_needs(Some(&checked), Some(to), Some(why)));
        assert_eq!(needs.heap_bytes, default.heap_bytes + Sums::heap_bytes(1024));
        assert_eq!(needs.heap_blocks, default.heap_blocks + 1);
    });
}

#[test]
fn coherent_memory_is_shared_and_freed_once() {
    alone(|| {
        let machine = start();
        let camera = device(c"camera");
        let dev = Some(&camera);
        let (at, ring) = coherent(&camera, 100);
        assert_eq!((at.addr() % 4096, ring.addr % 4096), (0, 0));
        // SAFETY: the buffer is the CPU's too (I4), and has 100 bytes.
        unsafe { at.cast::<u32>().write_volatile(0x1234_5678) };
        carveout_dma_wmb();
        carveout_wmb();
        assert_eq!(machine.device_read(PhysAddr::new(ring.addr), 8), [0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0]);
        free(u64::from(CARVED_BYTES) - 4096);

        let codec = device(c"codec");
        let of = |dev: &Device, size: usize, at: *mut c_void, handle: DmaHandle| {
            refused(|why| carveout_free_coherent(Some(dev), size, at, handle, Some(why)))
        };
        let (code, line) = of(&codec, 100, at, ring);
        assert_eq!((code, line.as_str()), (Error::OtherDevice, "a buffer of camera was named as one of codec"));
        let (code, line) = of(&camera, 4096, at, ring);
        assert_eq!((code, line.as_str()), (Error::Size, "a buffer of 100 bytes was named as one of 4096"));
        assert_eq!(of(&camera, 100, at.wrapping_byte_add(4), ring).0, Error::Address);
        assert_eq!(of(&camera, 100, at, DmaHandle { addr: ring.addr + 4, ..ring }).0, Error::Address);
        assert_eq!(of(&camera, 100, at, DmaHandle { id: ring.id ^ 1 << 40, ..ring }).0, Error::Stale);
        assert_eq!(of(&camera, 100, at, NONE).0, Error::Stale);
        let (code, _) = refused(|why| carveout_free_noncoherent(dev, 100, at, ring, BOTH, Some(why)));
        assert_eq!(code, Error::Kind);
        let (code, _) = refused(|why| carveout_sync_single_for_device(dev, ring, 100, BOTH, Some(why)));
        assert_eq!(code, Error::Kind);
        let (code, _) = refused(|why| carveout_free_device_only(dev, 100, ring, Some(why)));
        assert_eq!(code, Error::Kind);

        assert_eq!(carveout_free_coherent(dev, 100, at, ring, None), Error::Ok);
        assert_eq!(of(&camera, 100, at, ring).0, Error::Stale);
        // What comes to its place later is not freed by its handle.
        let (again, other) = coherent(&camera, 100);
        assert_eq!((again, other.addr), (at, ring.addr));
        assert_eq!(of(&camera, 100, at, ring).0, Error::Stale);
        assert_eq!(carveout_free_coherent(dev, 100, again, other, None), Error::Ok);
        free(CARVED_BYTES.into());
    });
}

#[test]
fn streams_go_back_and_forth_in_turn() {
    alone(|| {
        let machine = start();
        let camera = device(c"camera");
        let dev = Some(&camera);
        let (at, frame) = stream(&camera, 8192, FROM_DEVICE);
        let for_cpu = |dir| carveout_sync_single_for_cpu(dev, frame, 8192, dir, None);
        let for_device = |dir| carveout_sync_single_for_device(dev, frame, 8192, dir, None);
        assert_eq!(for_cpu(FROM_DEVICE), Error::CpuOwns);
        assert_eq!(for_device(TO_DEVICE), Error::Direction);
        assert_eq!(for_device(BOTH), Error::Direction);
        assert_eq!(for_device(3), Error::Direction);
        assert_eq!(carveout_sync_single_for_device(dev, frame, 8193, FROM_DEVICE, None), Error::Range);
        assert_eq!(carveout_free_noncoherent(dev, 8192, at, frame, TO_DEVICE, None), Error::Direction);
        assert_eq!(carveout_sync_single_for_device(dev, frame, 8192, FROM_DEVICE, None), Error::Ok);

        assert_eq!(for_device(FROM_DEVICE), Error::DeviceOwns);
        assert_eq!(for_cpu(TO_DEVICE), Error::Direction);
        assert_eq!(carveout_free_noncoherent(dev, 8192, at, frame, FROM_DEVICE, None), Error::DeviceOwns);
        assert_eq!(carveout_sync_single_range_for_cpu(dev, frame, 8000, 193, FROM_DEVICE, None), Error::Range);
        assert_eq!(carveout_sync_single_range_for_cpu(dev, frame, 1, usize::MAX, FROM_DEVICE, None), Error::Range);
        machine.device_write(PhysAddr::new(frame.addr + 4096), b"a picture");
        assert_eq!(carveout_sync_single_range_for_cpu(dev, frame, 4096, 9, FROM_DEVICE, None), Error::Ok);
        // SAFETY: the buffer is the CPU's (I4), and has 8192 bytes.
        let bytes = unsafe { core::slice::from_raw_parts(at.cast::<u8>(), 8192) };
        assert_eq!(&bytes[4096..4105], b"a picture");
        assert_eq!(carveout_free_noncoherent(dev, 8192, at, frame, FROM_DEVICE, None), Error::Ok);
        assert_eq!(for_device(FROM_DEVICE), Error::Stale);

        let (at, samples) = stream(&camera, 4096, TO_DEVICE);
        for turn in [b"tone", b"note"] {
            // SAFETY: the buffer is the CPU's (I4), and has 4096 bytes.
            unsafe { at.cast::<[u8; 4]>().write_volatile(*turn) };
            assert_eq!(carveout_sync_single_for_device(dev, samples, 4096, TO_DEVICE, None), Error::Ok);
            assert_eq!(machine.device_read(PhysAddr::new(samples.addr), 4), turn);
            assert_eq!(carveout_sync_single_for_cpu(dev, samples, 0, TO_DEVICE, None), Error::Ok);
        }
        assert_eq!(carveout_free_noncoherent(dev, 4096, at, samples, TO_DEVICE, None), Error::Ok);
        free(CARVED_BYTES.into());
    });
}

#[test]
fn what_c_gave_may_be_thrown_away() {
    alone(|| {
        let mut texts = [*b"media\0", *b"camra\0"];
        let at = |texts: &[[u8; 6]; 2], n: usize| texts[n].as_ptr().cast::<c_char>();
        let mut ranges = [Range { base: CARVED.raw(), bytes: CARVED_BYTES }];
        let mut areas = [Area { name: at(&texts, 0), ranges: ranges.as_ptr(), range_count: 1, late: 0 }];
        let mut given = Kernel { areas: areas.as_ptr(), ..kernel() };
        assert_eq!(carveout_init(Some(&given), None), Error::Ok);
        given = Kernel { areas: ptr::null(), alloc: None, free: None, phys_to_virt: None, ..given };
        (ranges[0], areas[0].name) = (Range { base: 0, bytes: 0 }, ptr::null());
        assert_eq!((given.alloc.is_none(), ranges[0].bytes, areas[0].name.is_null()), (true, 0, true));

        let camera = Device { name: at(&texts, 1), ..device(c"") };
        let set = [Set { count: 1, bytes: 4096, align: 0 }];
        // SAFETY: one set.
        let contract = unsafe { carveout_contract_create(Some(&camera), set.as_ptr(), 1, None) };
        let promised = Device { contract, name: at(&texts, 1), ..device(c"") };
        let (ring, first) = coherent(&camera, 4096);
        texts = [*b"xxxxx\0"; 2];
        assert_eq!(holders(), [("camra".to_string(), Holder::Both, 4096)]);
        let mut out = MaybeUninit::uninit();
        let (_, line) = refused(|why| carveout_alloc_coherent(Some(&promised), 4096, Some(&mut out), Some(why)));
        assert_eq!(line, "a buffer of camra was named as one of xxxxx");
        assert_eq!(at(&texts, 1), camera.name);
        assert_eq!(carveout_free_coherent(Some(&device(c"camra")), 4096, ring, first, None), Error::Ok);
    });
}

#[test]
fn a_core_like_the_first_may_use_the_module() {
    alone(|| {
        start();
        assert_eq!(carveout_check_core(None), Error::Ok);
    });
}

#[test]
fn a_write_to_a_stream_that_a_device_alone_writes_is_found() {
    alone(|| {
        let machine = start_with(&Kernel { check_writes: 1, ..kernel() });
        let camera = device(c"camera");
        let dev = Some(&camera);
        let (at, frame) = stream(&camera, 5001, FROM_DEVICE);
        let for_device =
            || refused_or_ok(|why| carveout_sync_single_for_device(dev, frame, 5001, FROM_DEVICE, Some(why)));
        let for_cpu = || carveout_sync_single_for_cpu(dev, frame, 5001, FROM_DEVICE, None);
        let wrote = "the CPU wrote to a stream that camera alone writes: its lines could go over what the device writes; \
                     make it bidirectional, or free it";
        for turn in 1..4 {
            assert_eq!(for_device(), (Error::Ok, String::new()));
            machine.device_write(PhysAddr::new(frame.addr), &[turn; 5001]);
            assert_eq!(for_cpu(), Error::Ok);
        }
        // A byte in the first word, in another, and the last one, which is in no whole word.
        for offset in [0, 4097, 5000] {
            let byte = at.wrapping_byte_add(offset).cast::<u8>();
            // SAFETY: the stream is the CPU's, and nobody else's (I4).
            let before = unsafe { byte.replace(0xa5) };
            assert_eq!(for_device(), (Error::Written, wrote.to_string()), "byte {offset}");
            assert_eq!(for_cpu(), Error::CpuOwns, "nothing changed");
            // SAFETY: as above.
            unsafe { byte.write(before) };
            assert_eq!(for_device(), (Error::Ok, String::new()), "byte {offset} as it was");
            assert_eq!(for_cpu(), Error::Ok);
        }
        // SAFETY: as above.
        unsafe { at.cast::<u8>().write(77) };
        assert_eq!(for_device().0, Error::Written);
        assert_eq!(carveout_free_noncoherent(dev, 5001, at, frame, FROM_DEVICE, None), Error::Ok);
        // Whoever comes to the place later is not asked for what was there, and streams that the CPU writes are not.
        for dir in [FROM_DEVICE, BOTH, TO_DEVICE] {
            let (at, frame) = stream(&camera, 5001, dir);
            // SAFETY: as above.
            unsafe { at.cast::<u8>().write(u8::from(dir != FROM_DEVICE)) };
            assert_eq!(carveout_sync_single_for_device(dev, frame, 5001, dir, None), Error::Ok);
            assert_eq!(carveout_sync_single_for_cpu(dev, frame, 5001, dir, None), Error::Ok);
            assert_eq!(carveout_free_noncoherent(dev, 5001, at, frame, dir, None), Error::Ok);
        }
        free(CARVED_BYTES.into());
    });
}

/// Runs a call that may be refused. Returns the error and the line.
fn refused_or_ok<R>(work: impl FnOnce(&mut MaybeUninit<Failure>) -> R) -> (Error, String) {
    let (_, (), code, line) = call(|_, why| work(why));
    (code, line)
}

#[test]
fn devices_have_buffers_of_their_own() {
    alone(|| {
        let machine = start();
        let camera = device(c"camera");
        let dev = Some(&camera);
        let (answer, picture, ..) = call(|to, why| carveout_alloc_device_only(dev, 8192, Some(to), Some(why)));
        assert_eq!(answer, Error::Ok);
        let at = PhysAddr::new(picture.addr);
        assert_eq!(machine.device_read(at, 8192), [0; 8192]);
        machine.device_write(at, &[7; 64]);
        assert_eq!(machine.device_read(at, 64), [7; 64]);
        assert_eq!(carveout_free_coherent(dev, 8192, ptr::null_mut(), picture, None), Error::Kind);
        assert_eq!(carveout_sync_single_for_cpu(dev, picture, 8192, BOTH, None), Error::Kind);
        assert_eq!(carveout_free_device_only(dev, 4096, picture, None), Error::Size);
        assert_eq!(carveout_free_device_only(dev, 8192, picture, None), Error::Ok);
        assert_eq!(carveout_free_device_only(dev, 8192, picture, None), Error::Stale);
    });
}

#[test]
fn a_refusal_has_the_reason_and_the_figures() {
    alone(|| {
        start();
        let of = |dev: &Device, size: usize| {
            let mut out = MaybeUninit::uninit();
            refused(|why| carveout_alloc_coherent(Some(dev), size, Some(&mut out), Some(why)))
        };
        let camera = || device(c"camera");
        let (code, line) = of(&camera(), 8 << 20);
        assert_eq!((code, line.as_str()), (Error::NoCapacity, "no room for 8 MiB: 4 MiB free in the area"));
        assert_eq!(of(&camera(), 0).0, Error::ZeroSize);
        assert_eq!(of(&camera(), usize::MAX).0, Error::NoCapacity);
        assert_eq!(of(&Device { align: 24, ..camera() }, 4096).0, Error::Alignment);
        let (code, line) = of(&Device { area: 1, ..camera() }, 4096);
        assert_eq!((code, line.as_str()), (Error::Area, "area 1: there are 1, from 0 on"));
        assert_eq!(of(&Device { dma_mask: 0x00ff_ffff, ..camera() }, 4096).0, Error::OutOfReach);
        assert_eq!(of(&Device { boundary: 24, ..camera() }, 4096).0, Error::Device);
        assert_eq!(of(&Device { name: ptr::null(), ..camera() }, 4096).0, Error::NullPointer);
        assert_eq!(of(&Device { name: c"\xff".as_ptr(), ..camera() }, 4096).0, Error::Name);
        assert_eq!(of(&Device { contract: Contract { id: 77 }, ..camera() }, 4096).0, Error::Stale);
        let apertures = [Aperture { bus: 0, phys: CARVED.raw(), bytes: 0x1000 }; 6];
        let many = |count| Device { apertures: apertures.as_ptr(), aperture_count: count, ..camera() };
        assert_eq!(of(&many(2), 4096).0, Error::Device);
        assert_eq!(of(&many(6), 4096).0, Error::Device);
        let (_, handle) = coherent(&many(1), 4096);
        assert_eq!(handle.addr, 0, "the aperture shifts the memory");
        free(u64::from(CARVED_BYTES) - 4096);
    });
}

#[test]
fn there_are_more_buffers_than_records_from_the_start() {
    alone(|| {
        start_with(&Kernel { buffers: 2, ..kernel() });
        let camera = device(c"camera");
        let many: Vec<_> = (0..200).map(|_| coherent(&camera, 4096)).collect();
        for (at, handle) in many {
            assert_eq!(carveout_free_coherent(Some(&camera), 4096, at, handle, None), Error::Ok);
        }
    });
}

#[test]
fn a_pool_has_blocks_that_are_freed_once() {
    alone(|| {
        let machine = start();
        let (camera, codec) = (device(c"camera"), device(c"codec"));
        let pool = carveout_pool_create(Some(&camera), 24, 32, 0, 3, None);
        let other = carveout_pool_create(Some(&codec), 24, 32, 0, 3, None);
        assert_ne!((pool.id, other.id), (0, 0));
        let mut taken = Vec::new();
        for _ in 0..3 {
            let (at, handle, code, _) = call(|to, why| carveout_pool_alloc(pool, Some(to), Some(why)));
            assert_eq!((code, handle.addr % 32), (Error::Ok, 0));
            taken.push((at, handle));
        }
        let mut out = MaybeUninit::uninit();
        let (code, line) = refused(|why| carveout_pool_alloc(pool, Some(&mut out), Some(why)));
        assert_eq!(
            (code, line.as_str()),
            (Error::PoolExhausted, "all 3 blocks of the pool of camera are out, 0 of them lost")
        );
        let (at, block) = taken[1];
        // SAFETY: the block is the CPU's too (I4), and has 24 bytes.
        unsafe { at.cast::<u32>().write_volatile(7) };
        carveout_wmb();
        assert_eq!(machine.device_read(PhysAddr::new(block.addr), 4), [7, 0, 0, 0]);

        assert_eq!(carveout_pool_free(other, at, block, None), Error::Stale);
        assert_eq!(carveout_pool_free(Pool { id: 0 }, at, block, None), Error::Stale);
        assert_eq!(carveout_pool_free(pool, at, NONE, None), Error::Stale);
        assert_eq!(carveout_pool_free(pool, at, taken[0].1, None), Error::Address);
        assert_eq!(carveout_pool_free(pool, at, DmaHandle { addr: block.addr + 4, ..block }, None), Error::Address);
        let (code, line) = refused(|why| carveout_pool_destroy(pool, Some(why)));
        assert_eq!(
            (code, line.as_str()),
            (Error::BlocksOut, "3 blocks of the pool did not come back; free them first")
        );
        for &(at, block) in &taken {
            assert_eq!(carveout_pool_free(pool, at, block, None), Error::Ok);
            assert_eq!(carveout_pool_free(pool, at, block, None), Error::Stale);
        }
        // Who has the place next is not freed by the old handle.
        let (again, next, ..) = call(|to, why| carveout_pool_alloc(pool, Some(to), Some(why)));
        let old = taken.iter().find(|(at, _)| *at == again).expect("a block of the pool").1;
        assert_eq!(carveout_pool_free(pool, again, old, None), Error::Stale);
        assert_eq!(carveout_pool_free(pool, again, next, None), Error::Ok);
        assert_eq!(carveout_pool_destroy(pool, None), Error::Ok);
        assert_eq!(carveout_pool_destroy(pool, None), Error::Stale);
        // Nor is a pool that has its place next.
        let next = carveout_pool_create(Some(&camera), 24, 32, 0, 3, None);
        assert_eq!(carveout_pool_destroy(pool, None), Error::Stale);
        assert_eq!(carveout_pool_destroy(next, None), Error::Ok);
        assert_eq!(carveout_pool_destroy(other, None), Error::Ok);
        free(CARVED_BYTES.into());
    });
}

#[test]
fn pools_that_cannot_be_are_refused() {
    alone(|| {
        start();
        let camera = device(c"camera");
        let of = |size, align, boundary, blocks| {
            refused(|why| {
                let pool = carveout_pool_create(Some(&camera), size, align, boundary, blocks, Some(why));
                assert_eq!(pool.id, 0);
            })
            .0
        };
        assert_eq!(of(0, 1, 0, 1), Error::PoolShape);
        assert_eq!(of(64, 64, 0, 0), Error::PoolShape);
        assert_eq!(of(64, 24, 0, 1), Error::PoolShape);
        assert_eq!(of(64, 0, 0, 1), Error::PoolShape);
        assert_eq!(of(64, 64, 32, 1), Error::PoolShape);
        assert_eq!(of(64, 64, 96, 1), Error::PoolShape);
        assert_eq!(of(4096, 1, 0, 4096), Error::NoCapacity);
        assert_eq!(of(usize::MAX, 1, 0, 1), Error::NoCapacity);
        let pools: Vec<_> = (0..MAX_POOLS).map(|_| carveout_pool_create(Some(&camera), 64, 64, 0, 1, None)).collect();
        assert_eq!(of(64, 64, 0, 1), Error::NoRecord);
        for pool in pools {
            assert_eq!(carveout_pool_destroy(pool, None), Error::Ok);
        }
        free(CARVED_BYTES.into());
    });
}

#[test]
fn a_contract_holds() {
    alone(|| {
        start();
        let camera = device(c"camera");
        let sets = [Set { count: 2, bytes: 600 << 10, align: 0 }, Set { count: 1, bytes: 4096, align: 65536 }];
        // SAFETY: two sets.
        let contract = unsafe { carveout_contract_create(Some(&camera), sets.as_ptr(), 2, None) };
        assert_ne!(contract.id, 0);
        let (hog, promised) = (device(c"gpu"), Device { contract, ..device(c"camera") });
        let mut hogged = Vec::new();
        loop {
            let (at, handle, code, _) =
                call(|to, why| carveout_alloc_coherent(Some(&hog), 64 << 10, Some(to), Some(why)));
            if code != Error::Ok {
                break;
            }
            hogged.push((at, handle));
        }
        let frames = [coherent(&promised, 600 << 10), coherent(&promised, 600 << 10)];
        let of = |dev: &Device, size: usize| {
            let mut out = MaybeUninit::uninit();
            refused(|why| carveout_alloc_coherent(Some(dev), size, Some(&mut out), Some(why))).0
        };
        assert_eq!(of(&promised, 600 << 10), Error::ContractExceeded);
        assert_eq!(of(&promised, 700 << 10), Error::NotDeclared);
        assert_eq!(of(&Device { contract, ..device(c"codec") }, 4096), Error::OtherDevice);
        let (_, aligned) = coherent(&Device { align: 65536, ..promised }, 4096);
        assert_eq!(aligned.addr % 65536, 0);
        for (at, handle) in frames {
            assert_eq!(carveout_free_coherent(Some(&promised), 600 << 10, at, handle, None), Error::Ok);
        }
        assert_eq!(carveout_contract_destroy(contract, None), Error::Ok);
        assert_eq!(carveout_contract_destroy(contract, None), Error::Stale);
        assert_eq!(of(&promised, 4096), Error::Stale);
    });
}

#[test]
fn contracts_that_cannot_be_promised_are_refused() {
    alone(|| {
        start();
        let camera = device(c"camera");
        let of = |sets: &[Set]| {
            refused(|why| {
                // SAFETY: as many sets.
                let contract = unsafe { carveout_contract_create(Some(&camera), sets.as_ptr(), sets.len(), Some(why)) };
                assert_eq!(contract.id, 0);
            })
            .0
        };
        let set = |count, bytes| Set { count, bytes, align: 0 };
        assert_eq!(of(&[]), Error::Contract);
        assert_eq!(of(&[set(0, 4096)]), Error::Contract);
        assert_eq!(of(&[set(1, 0)]), Error::ZeroSize);
        assert_eq!(of(&[set(3, 2 << 20)]), Error::NoCapacity);
        assert_eq!(of(&[set(5000, 4096)]), Error::NoCapacity);
        assert_eq!(of(&[set(1, 4096); MAX_SETS + 1]), Error::NoRecord);
        free(CARVED_BYTES.into());
    });
}

#[test]
fn a_lost_buffer_is_told_of_once() {
    alone(|| {
        start();
        let camera = device(c"camera");
        let dev = Some(&camera);
        let (_, ring) = coherent(&camera, 4096);
        let (_, frame) = stream(&camera, 4096, FROM_DEVICE);
        let (_, picture, ..) = call(|to, why| carveout_alloc_device_only(dev, 4096, Some(to), Some(why)));
        assert_eq!(carveout_quarantine(dev, frame, None), Error::CpuOwns);
        assert_eq!(carveout_sync_single_for_device(dev, frame, 4096, FROM_DEVICE, None), Error::Ok);
        for handle in [ring, frame, picture] {
            assert_eq!(carveout_quarantine(dev, handle, None), Error::Ok);
            assert_eq!(carveout_quarantine(dev, handle, None), Error::Quarantined);
        }
        assert!(!carveout_next_quarantined(None));
        let mut record = MaybeUninit::uninit();
        for _ in 0..3 {
            assert!(carveout_next_quarantined(Some(&mut record)));
            // SAFETY: it was written.
            assert_eq!(unsafe { record.assume_init() }.holder, Holder::Quarantine);
        }
        assert!(!carveout_next_quarantined(Some(&mut record)));
        let (_, counts, ..) = call::<Counts, _>(|to, why| carveout_count(Some(to), Some(why)));
        assert_eq!((counts.quarantined, counts.allocations), (3 * 4096, 3));
        assert_eq!(refused(|why| carveout_retire(dev, Some(why))).1, "camera still has 3 buffers");
    });
}

/// The owners that [`carveout_for_each_holder`] names.
fn holders() -> Vec<(String, Holder, u32)> {
    unsafe extern "C" fn each(context: *mut c_void, record: &Record) {
        // SAFETY: the context is the list.
        let list = unsafe { &mut *context.cast::<Vec<(String, Holder, u32)>>() };
        list.push((text_of(&record.owner), record.holder, record.size));
    }
    let mut list: Vec<(String, Holder, u32)> = Vec::new();
    // SAFETY: `each` takes the list.
    let answer = unsafe { carveout_for_each_holder(Some(each), ptr::from_mut(&mut list).cast(), None) };
    assert_eq!(answer, Error::Ok);
    list.sort_by(|a, b| a.0.cmp(&b.0));
    list
}

#[test]
fn who_holds_what_is_told() {
    alone(|| {
        start();
        let (camera, display) = (device(c"camera"), device(c"display"));
        let (at, ring) = coherent(&camera, 100);
        let (_, frame) = stream(&display, 5000, TO_DEVICE);
        assert_eq!(carveout_sync_single_for_device(Some(&display), frame, 5000, TO_DEVICE, None), Error::Ok);
        let of = |name: &str, holder, size| (name.to_string(), holder, size);
        assert_eq!(holders(), [of("camera", Holder::Both, 100), of("display", Holder::Device, 5000)]);

        let place = |phys: u32| {
            let (mut record, mut line) = (MaybeUninit::<Record>::zeroed(), [1; 64]);
            // SAFETY: the line has as many characters.
            let place = unsafe { carveout_place_of_phys(phys, Some(&mut record), line.as_mut_ptr(), line.len()) };
            // SAFETY: zeros are a record, and so is what was written.
            let record = unsafe { record.assume_init() };
            (place, record, text_of(&line))
        };
        let (kind, record, line) = place(frame.addr + 4096);
        assert_eq!((kind, record.size, record.bytes, record.phys), (Place::Buffer, 5000, 8192, frame.addr));
        assert!(line.starts_with("device-owned buffer ") && line.ends_with(" of display"), "{line}");
        // By the addresses at which the CPU has it, or had.
        let va = record.cpu_addr;
        assert_eq!(place_of(va), Place::Buffer);
        assert_eq!(place_of(va.wrapping_byte_add(8192)), Place::Guard);
        assert_eq!(place_of(va.wrapping_byte_add(1 << 20)), Place::Unused);
        assert_eq!(place_of(ptr::null()), Place::NotOurs);
        assert_eq!(place(CARVED.raw() + (3 << 20)).0, Place::Free);
        let (kind, _, line) = place(CARVED.raw() - 1);
        assert_eq!((kind, line.len()), (Place::NotOurs, 64), "nothing was written");
        assert_eq!(carveout_retire(Some(&device(c"codec")), None), Error::Ok);
        assert_eq!(carveout_free_coherent(Some(&camera), 100, at, ring, None), Error::Ok);
        assert_eq!(carveout_retire(Some(&camera), None), Error::Ok);
    });
}

#[test]
fn the_audit_looks_at_the_live_tables() {
    use carveout::setup::{RAM, RAM_BYTES};

    unsafe extern "C" fn each(context: *mut c_void, line: *const c_char) {
        // SAFETY: the context is the list.
        let list = unsafe { &mut *context.cast::<Vec<String>>() };
        // SAFETY: a line that ends with a NUL.
        list.push(unsafe { CStr::from_ptr(line) }.to_str().unwrap().to_string());
    }
    alone(|| {
        start();
        let ram = [Range { base: RAM.raw(), bytes: RAM_BYTES }];
        let page = Range { base: RAM.raw(), bytes: 4096 };
        let expected = |ram: &[Range]| Expected {
            ram: ram.as_ptr(),
            ram_count: ram.len(),
            text: page,
            roots: ptr::null(),
            root_count: 0,
        };
        let audit = |expected: &Expected| {
            let mut lines: Vec<String> = Vec::new();
            let context = ptr::from_mut(&mut lines).cast();
            let (_, report, code, line) = call::<AuditReport, _>(|to, why| {
                // SAFETY: `each` takes the list.
                unsafe { carveout_audit(Some(expected), Some(each), context, Some(to), Some(why)) }
            });
            (report, code, line, lines)
        };
        let camera = device(c"camera");
        coherent(&camera, 5000);
        let (report, code, line, lines) = audit(&expected(&ram));
        assert_eq!((code, line.as_str(), lines.len()), (Error::Ok, "", 0));
        assert_eq!((report.window_frames, report.carved_frames, report.small_pages), (2, 1024, 2));
        let (_, code, ..) = audit(&expected(&[page; 17]));
        assert_eq!(code, Error::NoRecord);
        let (_, code, ..) = audit(&expected(&[Range { base: 1, bytes: 4096 }]));
        assert_eq!(code, Error::Kernel);
        let (_, code, ..) = audit(&Expected { text: Range { base: 0, bytes: 0 }, ..expected(&ram) });
        assert_eq!(code, Error::Kernel);
        let roots = [0x4000];
        let (_, code, line, lines) = audit(&Expected { roots: roots.as_ptr(), root_count: 1, ..expected(&ram) });
        assert_eq!(code, Error::Audit, "{line}");
        assert!(lines[0].starts_with("a table at 0x00004000, where no known memory is"), "{lines:?}");
        assert!(line.starts_with(&lines[0][..64]), "{line}");
    });
}
