//! What drivers of dma-api do, over the fake machine, with a device whose every access is the fake's.

mod machine;

use carveout::addr::{BusAddr, FRAME_SIZE, PhysAddr};
use carveout::dma::{AllocError, Aperture, Dma, Master};
use carveout::machine::Cache;
use carveout::setup::{CARVED, CARVED_BYTES, dma_over};
use carveout_dma_api::{DeviceMemory, Refusal};
use dma_api::{
    CpuDmaBuffer, DeviceDma, DmaAddr, DmaAllocHandle, DmaCoherency, DmaConstraints, DmaDeviceInfo, DmaDirection,
    DmaDomainId, DmaError, DmaMapHandle, DmaOp,
};
use machine::Pinned;
use proptest::prelude::*;
use std::alloc::Layout;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

const PAGE: usize = FRAME_SIZE as usize;
const BOTH: DmaDirection = DmaDirection::Bidirectional;
const DIRECTIONS: [DmaDirection; 3] = [DmaDirection::ToDevice, DmaDirection::FromDevice, BOTH];
const ANY: DmaConstraints = DmaConstraints::new(u64::MAX);

/// A machine with an area, and a device's memory.
struct Bench {
    machine: &'static Pinned,
    dma: &'static Dma<Pinned>,
    memory: &'static DeviceMemory<Pinned>,
    device: DeviceDma,
}

fn memory(dma: &'static Dma<Pinned>, master: Master) -> &'static DeviceMemory<Pinned> {
    // SAFETY: the tests are the device. They access nothing that was freed (I4).
    Box::leak(Box::new(unsafe { DeviceMemory::new(dma, master) }))
}

impl Bench {
    fn new(bus: impl FnOnce(Master) -> Master) -> Self {
        let machine = Pinned::new(23);
        let dma = dma_over(machine, CARVED_BYTES);
        let memory = memory(dma, bus(Master::new("nvme", dma.area("test"))));
        Self { machine, dma, memory, device: memory.device() }
    }

    fn phys(&self, at: DmaAddr) -> PhysAddr {
        let bus = BusAddr::new(u32::try_from(at.as_u64()).expect("an address of 32 bits"));
        self.memory.master().phys(bus).expect("an address that the device reaches")
    }

    /// What the device reads.
    fn read(&self, at: DmaAddr, bytes: usize) -> Vec<u8> {
        self.machine.fake().device_read(self.phys(at), bytes)
    }

    /// What the device writes.
    fn write(&self, at: DmaAddr, bytes: &[u8]) {
        self.machine.fake().device_write(self.phys(at), bytes);
    }

    /// Bytes that are neither free nor in quarantine, and those in quarantine.
    fn out(&self) -> (u64, u64) {
        let free = self.dma.area("test").map_or(0, |area| self.dma.free_bytes(area).0);
        let lost = self.dma.stats().quarantined;
        (u64::from(CARVED_BYTES) - free - lost, lost)
    }

    fn alloc(&self, bytes: usize) -> DmaAllocHandle {
        let layout = Layout::from_size_align(bytes, 1).unwrap();
        // SAFETY: the tests give it back, or look at what becomes of it.
        unsafe { self.memory.alloc_contiguous(ANY, layout) }.unwrap()
    }
}

fn plain() -> Bench {
    Bench::new(|master| master)
}

/// A bus on which memory lies elsewhere than for the CPU.
fn shifted(master: Master) -> Master {
    let aperture = Aperture { bus: BusAddr::new(0xc000_0000), phys: PhysAddr::new(0x6000_0000), bytes: 16 << 20 };
    master.with_apertures(&[aperture]).unwrap()
}

#[test]
fn i1_arrays_go_both_ways_without_a_line_of_maintenance() {
    for bus in [shifted, |master| master] {
        let bench = Bench::new(bus);
        let mut ring = bench.device.coherent_array_zero::<u32>(16).unwrap();
        ring.set_cpu(3, 0x1234_5678);
        // A driver's own barrier.
        bench.machine.device_barrier();
        assert_eq!(bench.read(ring.dma_addr(), 64)[12..16], 0x1234_5678_u32.to_le_bytes());
        bench.write(ring.dma_addr(), &7_u32.to_le_bytes());
        assert_eq!(ring.read_cpu(0), Some(7));

        let mut data = bench.device.contiguous_array_zero::<u8>(3 * PAGE, BOTH).unwrap();
        let sent: Vec<u8> = (0..3 * PAGE).map(|n| n as u8 ^ 0x55).collect();
        data.copy_to_device_from_slice(&sent);
        assert_eq!(bench.read(data.dma_addr(), 3 * PAGE), sent);
        bench.write(data.dma_addr(), &[9; 100]);
        data.complete_for_cpu(0..100);
        assert_eq!(data.as_slice_cpu()[..100], [9; 100]);
        assert_eq!(data.as_slice_cpu()[100..], sent[100..]);
        assert_eq!(ring.try_release(), Ok(()));
        drop(data);
        assert_eq!(bench.out(), (0, 0));
        let stats = bench.dma.stats();
        assert_eq!((stats.cleaned + stats.invalidated).inner, 0);
    }
}

/// As nvme-driver 0.8 does with what IDENTIFY answers: the array is zeroed, and no sync hands it to the device.
#[test]
fn i3_a_driver_that_forgets_a_sync_reads_no_stale_line() {
    let bench = plain();
    let answer = bench.device.contiguous_array_zero_with_align::<u8>(PAGE, PAGE, DmaDirection::FromDevice).unwrap();
    bench.machine.device_barrier();
    bench.write(answer.dma_addr(), &[0xa5; PAGE]);
    answer.read_from_device(PAGE, |bytes| assert_eq!(bytes, [0xa5; PAGE]));
    // It is the device's once more, and the driver writes between two requests without a word.
    bench.write(answer.dma_addr(), &[0x11; PAGE]);
    assert_eq!(answer.read_cpu(7), Some(0x11));
}

#[test]
fn i5_memory_is_zeros_whoever_had_it() {
    let bench = plain();
    for n in 0..4 {
        let handle = bench.alloc(CARVED_BYTES as usize - PAGE * n);
        // SAFETY: so many bytes, which are this test's.
        let bytes = unsafe { std::slice::from_raw_parts_mut(handle.as_ptr().as_ptr(), handle.size()) };
        assert!(bytes.iter().all(|&byte| byte == 0));
        bytes.fill(0xee);
        // SAFETY: as `alloc` gave it, and no device was told.
        unsafe { bench.memory.dealloc_contiguous(handle) };
    }
    assert_eq!(bench.out(), (0, 0));
}

#[test]
fn i4_a_driver_s_own_slice_is_never_the_device_s() {
    let bench = plain();
    for direction in DIRECTIONS {
        let mut own: Vec<u8> = (0..5000).map(|n: usize| (n * 7) as u8).collect();
        let before = own.clone();
        let (first, mut map) = (own.as_ptr(), bench.device.map_streaming_slice(&mut own, 512, direction).unwrap());
        assert_ne!(map.bounce_ptr().unwrap().as_ptr().cast_const(), first);
        assert_eq!(map.dma_addr().as_u64() % 512, 0);
        map.prepare_for_device(0..5000);
        assert_eq!(bench.read(map.dma_addr(), 5000), before);
        bench.write(map.dma_addr().checked_add(1000).unwrap(), &[0x42; 3000]);
        assert_eq!(map.to_vec_cpu(), before, "the device wrote to the driver's own bytes");
        map.complete_for_cpu(1000..2000);
        let mut after = before.clone();
        if direction != DmaDirection::ToDevice {
            after[1000..2000].fill(0x42);
        }
        assert_eq!(map.to_vec_cpu(), after, "{direction:?}: no more than the part that was synced");
        map.complete_for_cpu(0..5000);
        if direction != DmaDirection::ToDevice {
            after[1000..4000].fill(0x42);
        }
        assert_eq!(map.to_vec_cpu(), after, "{direction:?}: what the device did not write is as it was");
        map.set_cpu(4999, 0x99);
        map.prepare_for_device(4990..5000);
        assert_eq!(bench.read(map.dma_addr(), 5000)[4999], 0x99);
        drop(map);
        assert_eq!(bench.out(), (0, 0));
    }
    assert_eq!(bench.dma.stats().cleaned.inner, 0);
}

#[test]
fn a_sync_of_bytes_that_are_not_inside_does_nothing() {
    let bench = plain();
    let mut own = [1_u8; 64];
    let at = NonNull::from(&mut own).cast();
    let size = NonZeroUsize::new(64).unwrap();
    // SAFETY: the bytes live as long as the mapping, and only the syncs access them.
    let handle = unsafe { bench.memory.map_streaming(ANY, at, size, BOTH) }.unwrap();
    for (offset, size) in [(0, 65), (65, 0), (64, 1), (usize::MAX, 2), (1, usize::MAX)] {
        bench.memory.sync_map_for_device(&handle, offset, size, BOTH, DmaCoherency::NonCoherent);
        bench.memory.sync_map_for_cpu(&handle, offset, size, BOTH, DmaCoherency::NonCoherent);
    }
    assert_eq!(bench.read(handle.dma_addr(), 128), [0; 128]);
    bench.memory.sync_map_for_device(&handle, 63, 1, BOTH, DmaCoherency::Coherent);
    assert_eq!(bench.read(handle.dma_addr(), 65)[62..], [0, 1, 0]);
    assert_eq!(own, [1; 64]);
    // SAFETY: as `map_streaming` gave it.
    unsafe { bench.memory.unmap_streaming(handle) };
    assert_eq!(bench.out(), (0, 0));
}

/// The device would read what is still in the write buffer otherwise, and the fake would panic.
#[test]
fn i4_each_call_that_tells_the_device_passes_the_barrier() {
    let bench = plain();
    let handle = bench.alloc(PAGE);
    let at = handle.as_ptr();
    let calls: [&dyn Fn(); 5] = [
        &|| bench.memory.flush(at, 4),
        &|| bench.memory.flush_invalidate(at, 4),
        &|| bench.memory.sync_alloc_for_device(&handle, 0, 4, DmaDirection::ToDevice),
        &|| bench.memory.sync_alloc_for_device(&handle, 0, 4, DmaDirection::FromDevice),
        &|| bench.memory.sync_alloc_for_device(&handle, 0, 4, BOTH),
    ];
    for (n, call) in calls.iter().enumerate() {
        // SAFETY: a byte of the buffer, which is this test's.
        unsafe { at.write_volatile(n as u8 + 1) };
        call();
        assert_eq!(bench.read(handle.dma_addr(), 1), [n as u8 + 1]);
    }
    bench.write(handle.dma_addr(), &[0x77]);
    bench.memory.invalidate(at, 1);
    for direction in DIRECTIONS {
        bench.memory.sync_alloc_for_cpu(&handle, 0, 1, direction);
    }
    // SAFETY: as above.
    assert_eq!(unsafe { at.read_volatile() }, 0x77);
    // SAFETY: as `alloc` gave it.
    assert_eq!(unsafe { bench.memory.dealloc_coherent(handle) }, Ok(()));
    assert_eq!(bench.memory.page_size(), PAGE);
}

#[test]
fn i4_a_free_that_fails_quarantines() {
    let bench = plain();
    let other = NonNull::from(&mut [0_u8; 8]).cast();
    let sized = |bytes| Layout::from_size_align(bytes, 1).unwrap();
    let lost = Err(DmaError::CoherentReleaseFailed);
    let handle = bench.alloc(3 * PAGE);
    let (at, bus) = (handle.as_ptr(), handle.dma_addr());
    // SAFETY: none of these is what was given out, and this test looks at what becomes of it.
    let named = |at, bus, bytes| unsafe { DmaAllocHandle::new(at, at, bus, sized(bytes)) };

    for nobodys in [DmaAddr::from(0), bus.checked_add(u64::from(FRAME_SIZE)).unwrap(), DmaAddr::from(u64::MAX)] {
        // SAFETY: as above.
        assert_eq!(unsafe { bench.memory.dealloc_coherent(named(at, nobodys, 3 * PAGE)) }, lost);
        assert_eq!(bench.out(), (3 * PAGE as u64, 0), "it is as it was");
    }
    // SAFETY: as above.
    assert_eq!(unsafe { bench.memory.dealloc_coherent(named(at, bus, PAGE)) }, lost);
    assert_eq!(bench.out(), (0, 3 * PAGE as u64));
    // SAFETY: as above.
    assert_eq!(unsafe { bench.memory.dealloc_coherent(handle) }, lost, "in quarantine it stays");

    let handle = bench.alloc(PAGE);
    // SAFETY: as above.
    unsafe { bench.memory.dealloc_contiguous(named(other, handle.dma_addr(), PAGE)) };
    assert_eq!(bench.out(), (0, 4 * PAGE as u64));

    let mut own = [0_u8; 16];
    let (first, size) = (NonNull::from(&mut own).cast(), NonZeroUsize::new(16).unwrap());
    // SAFETY: the bytes live, and nobody accesses them.
    let map = unsafe { bench.memory.map_streaming(ANY, first, size, BOTH) }.unwrap();
    // SAFETY: as above.
    let wrong = unsafe { DmaMapHandle::new(first, map.dma_addr(), map.layout(), Some(other)) };
    // SAFETY: as above.
    unsafe { bench.memory.unmap_streaming(wrong) };
    assert_eq!(bench.out(), (0, 5 * PAGE as u64));
    assert_eq!(bench.dma.next_quarantined().map(|record| record.owner), Some("nvme".into()));

    let handle = bench.alloc(PAGE);
    // SAFETY: as `alloc` gave it.
    unsafe { bench.memory.dealloc_contiguous(handle) };
    // SAFETY: it is freed already: nothing is freed.
    assert_eq!(unsafe { bench.memory.dealloc_coherent(handle) }, lost, "freed twice");
    assert_eq!(bench.out(), (0, 5 * PAGE as u64));
}

#[test]
fn i4_a_request_that_is_given_up_in_flight_is_never_free() {
    let bench = plain();
    let size = NonZeroUsize::new(PAGE).unwrap();
    let buffer = CpuDmaBuffer::new_zero(&bench.device, size, 1, DmaDirection::FromDevice).unwrap();
    // SAFETY: the device has it from here on.
    let flight = unsafe { buffer.prepare_for_device().into_in_flight() };
    let at = flight.dma_addr();
    assert_eq!(flight.quarantine().len(), size);
    assert_eq!(bench.out(), (PAGE as u64, 0));
    bench.write(at, &[1; PAGE]);
    let leaks = bench.dma.retire(bench.memory.master()).err().map(|holders| holders.to_string());
    assert!(leaks.is_some_and(|table| table.contains("nvme")), "it is on the list of who went away with what");

    let buffer = CpuDmaBuffer::new_zero(&bench.device, size, 1, DmaDirection::FromDevice).unwrap();
    // SAFETY: as above.
    let flight = unsafe { buffer.prepare_for_device().into_in_flight() };
    bench.write(flight.dma_addr(), &[2; PAGE]);
    let mut read = [0; PAGE];
    // SAFETY: the device has finished.
    unsafe { flight.complete_after_quiesce() }.copy_to_slice_cpu(&mut read);
    assert_eq!(read, [2; PAGE]);
}

#[test]
fn what_no_buffer_can_satisfy_is_refused_and_told() {
    let bench = Bench::new(|master| master.with_max_segment(1 << 20).unwrap().with_boundary(2 << 20).unwrap());
    let refused = |constraints: DmaConstraints, bytes, align, text: &str| {
        let layout = Layout::from_size_align(bytes, align).unwrap();
        // SAFETY: nothing is allocated.
        assert!(unsafe { bench.memory.alloc_coherent(constraints, layout) }.is_none(), "{text}");
        assert_eq!(bench.memory.take_refusal().expect("it is told").to_string(), text);
        assert_eq!(bench.memory.take_refusal(), None, "told once");
    };
    let line = "a request of 1048577 bytes is longer than a segment of 1048576 bytes: ask for several";
    refused(ANY, (1 << 20) + 1, 1, line);
    let line = "a request of 4097 bytes is longer than a segment of 4096 bytes: ask for several";
    refused(ANY.with_max_segment_size(PAGE), PAGE + 1, 1, line);
    let line = "a request of 513 bytes fits no boundary of 0x200 bytes, which must be a power of two and hold it";
    refused(ANY.with_boundary(512), 513, 1, line);
    let line = "a request of 1 bytes fits no boundary of 0x3000 bytes, which must be a power of two and hold it";
    refused(ANY.with_boundary(3 * PAGE), 1, 1, line);
    refused(ANY, 0, 1, &AllocError::ZeroSize.to_string());
    refused(ANY, 1, 2 << 30, &AllocError::Alignment { align: 2 << 30 }.to_string());
    refused(ANY.with_align(3), 1, 2, &AllocError::Alignment { align: 3 }.to_string());

    let below = DmaConstraints::new(u64::from(CARVED.raw()) - 1);
    let device = bench.device.with_constraints(below);
    assert_eq!(device.coherent_array_zero::<u8>(1).err(), Some(DmaError::NoMemory));
    assert!(matches!(bench.memory.take_refusal(), Some(Refusal::Alloc(AllocError::OutOfReach { .. }))));
    let mut own = [0_u8; 16];
    let device = bench.device.with_constraints(ANY.with_max_segment_size(15));
    let error = device.map_streaming_slice(&mut own, 1, BOTH).err();
    assert_eq!(error, Some(DmaError::SegmentTooLarge { size: 16, max: 15 }));
    let device = bench.device.with_constraints(ANY.with_boundary(8));
    let error = device.map_streaming_slice(&mut own, 1, BOTH).err();
    assert_eq!(error, Some(DmaError::BoundaryCross { addr: DmaAddr::from(0), size: 16, boundary: 8 }));
    assert!(matches!(bench.device.map_streaming_slice(&mut own, 3, BOTH).err(), Some(DmaError::LayoutError(_))));
    assert_eq!(bench.device.map_streaming_slice::<u8>(&mut [], 1, BOTH).err(), Some(DmaError::ZeroSizedBuffer));
    let mut long = vec![0_u8; 1 << 20];
    let taken: Vec<_> = (0..4).map(|_| bench.alloc(1 << 20)).collect();
    assert_eq!(bench.device.map_streaming_slice(&mut long, 1, BOTH).err(), Some(DmaError::NoMemory));
    assert!(matches!(bench.memory.take_refusal(), Some(Refusal::Alloc(AllocError::NoCapacity { .. }))));
    // SAFETY: as `alloc` gave them.
    taken.into_iter().for_each(|handle| unsafe { bench.memory.dealloc_contiguous(handle) });
    assert_eq!(bench.out(), (0, 0));
}

#[test]
fn a_device_is_told_as_it_is() {
    let bench = Bench::new(|master| {
        let master = master.with_mask(BusAddr::new(0x63ff_ffff)).with_boundary(64 << 10).unwrap();
        master.with_max_segment(32 << 10).unwrap()
    });
    let (info, other) = (bench.device.info(), memory(bench.dma, Master::new("usb", bench.dma.area("test"))).device());
    let wanted = DmaConstraints::new(0x63ff_ffff).with_boundary(64 << 10).with_max_segment_size(32 << 10);
    assert_eq!(info.constraints(), wanted);
    assert_eq!(info.coherency(), DmaCoherency::NonCoherent);
    assert_ne!(info.domain(), other.info().domain(), "what one device reaches another may not");
    assert_eq!(info.domain(), bench.memory.device().info().domain());
    assert_eq!(bench.device.page_size(), PAGE);

    // Who says that the device is coherent loses nothing.
    let info = DmaDeviceInfo::new(DmaDomainId::Direct, DmaCoherency::Coherent, ANY);
    let coherent = DeviceDma::new(info, bench.memory);
    let array = coherent.coherent_array_zero::<u8>(64).unwrap();
    bench.machine.device_barrier();
    bench.write(array.dma_addr(), &[3; 64]);
    assert_eq!(array.as_slice_cpu(), [3; 64]);
    drop(array);
    assert_eq!(bench.out(), (0, 0));
}

/// Whether some run of free frames satisfies a request, if the first `taken` bytes of the area are not free: a search
/// that looks at every place.
fn naive(constraints: DmaConstraints, bytes: usize, align: usize, taken: usize) -> bool {
    let (start, end) = (u64::from(CARVED.raw()) + taken as u64, u64::from(CARVED.raw()) + u64::from(CARVED_BYTES));
    let align = align.max(constraints.align) as u64;
    let fits = |at: u64| {
        let last = at + bytes as u64 - 1;
        let frames_end = at + bytes.next_multiple_of(PAGE) as u64;
        let within = frames_end <= end && last <= constraints.addr_mask;
        let apart = constraints.boundary.is_none_or(|boundary| at / boundary as u64 == last / boundary as u64);
        within && apart && at.is_multiple_of(align)
    };
    (start..end).step_by(PAGE).any(fits) && constraints.max_segment_size.is_none_or(|most| bytes <= most)
}

/// The last byte of a frame of the area.
fn last_of(frame: u32) -> u64 {
    u64::from(CARVED.raw() + frame * FRAME_SIZE + FRAME_SIZE - 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn constraints_are_kept_and_nothing_else_is_refused(
        bytes in prop_oneof![1usize..3 << 20, 1usize..128 << 10, 1usize..16 << 10],
        mask in prop_oneof![Just(u64::MAX), (0u32..CARVED_BYTES / FRAME_SIZE).prop_map(last_of), 0u64..1 << 31],
        (boundary, align, segment) in (prop::option::weighted(0.8, 9u32..24), 0u32..21, prop::option::of(1usize..3 << 20)),
        (own, reach) in (prop::option::weighted(0.8, 12u32..24), prop_oneof![Just(1023), 0u32..CARVED_BYTES / FRAME_SIZE]),
        pages in 0usize..700,
    ) {
        let bench = Bench::new(|master| {
            let master = master.with_mask(BusAddr::new(last_of(reach) as u32));
            own.map_or(master.clone(), |own| master.with_boundary(1 << own).unwrap())
        });
        let boundary = boundary.map(|bits| 1 << bits);
        let constraints = DmaConstraints { addr_mask: mask, align: 1 << align, boundary, max_segment_size: segment };
        let both = [boundary, own.map(|bits| 1 << bits)].into_iter().flatten().min();
        let master = Master::new("first", bench.dma.area("test"));
        let first = (pages > 0).then(|| bench.dma.alloc(&master, (pages * PAGE) as u32, 1).unwrap());
        let layout = Layout::from_size_align(bytes, 1).unwrap();
        // SAFETY: it is given back below.
        let handle = unsafe { bench.memory.alloc_contiguous(constraints, layout) };
        // Buffers are whole frames, and so is what a device reaches.
        let mask_is_whole = mask % PAGE as u64 == PAGE as u64 - 1;
        let mask = mask.min(last_of(reach));
        let exists = naive(DmaConstraints { addr_mask: mask, boundary: both, ..constraints }, bytes, 1, pages * PAGE);
        if let Some(handle) = handle {
            let (first, last) = (handle.dma_addr().as_u64(), handle.dma_addr().as_u64() + bytes as u64 - 1);
            prop_assert!(exists && last <= mask && first % (1 << align) == 0);
            prop_assert!(both.is_none_or(|boundary| first / boundary as u64 == last / boundary as u64));
            prop_assert!(segment.is_none_or(|most| bytes <= most));
            prop_assert_eq!(bench.memory.take_refusal(), None);
            // SAFETY: as it was given out.
            unsafe { bench.memory.dealloc_contiguous(handle) };
        } else {
            prop_assert!(!exists || !mask_is_whole, "refused: {}", bench.memory.take_refusal().unwrap());
        }
        drop(first);
        prop_assert_eq!(bench.out(), (0, 0));
    }
}
