//! Drivers of virtio-drivers over the fake machine, each with a device whose every access is the fake's.

mod device;

use carveout::addr::{BusAddr, PhysAddr};
use carveout::dma::{AllocError, Aperture, Bidirectional, BlockShape, FromDevice, StreamPool, ToDevice};
use carveout::machine::Cache;
use carveout::setup::CARVED;
use carveout_virtio::{DmaHal, Guarded, HandError, MemoryError, Provider};
use device::{Bench, DISK, Kind, Own, Wire};
use proptest::prelude::*;
use std::ptr::NonNull;
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::Transport;
use virtio_drivers::{BufferDirection, Error, Hal};

const PAGE: u32 = 4096;
type Disk = VirtIOBlk<DmaHal<Own>, Guarded<Own, Wire>>;

fn bench(kind: Kind) -> Bench {
    Bench::new(kind, |master| master, 8 * PAGE, 64 << 10).unwrap()
}

fn disk(bench: &Bench) -> Disk {
    Disk::new(Guarded::new(bench.wire())).unwrap()
}

/// A bus on which memory lies elsewhere than for the CPU.
fn shifted(master: carveout::dma::Master) -> carveout::dma::Master {
    let aperture = Aperture { bus: BusAddr::new(0xc000_0000), phys: PhysAddr::new(0x6000_0000), bytes: 16 << 20 };
    master.with_apertures(&[aperture]).unwrap()
}

#[test]
fn i4_a_disk_reads_into_a_stream_that_nothing_maps() {
    for bus in [shifted, |master| master] {
        let bench = Bench::new(Kind::Disk, bus, PAGE, 64 << 10).unwrap();
        let mut disk = disk(&bench);
        let memory = bench.memory;
        let stream = memory.dma().alloc(memory.master(), 48 << 10, 1).unwrap().into_stream::<FromDevice>().for_device();
        let mut handed = memory.target(&stream, 4096..40 << 10).unwrap();
        disk.read_blocks(3, &mut handed).unwrap();
        assert!(handed.iter().all(|&byte| byte == 0), "the stand-in was written");
        drop(handed);
        let at = u64::from(stream.bus().raw()) + 4096;
        assert_eq!(bench.device.borrow().data_at, [at], "the stream's own address");
        bench.audit();
        // SAFETY: the request is complete (I4).
        let stream = unsafe { stream.for_cpu() };
        assert_eq!(stream.bytes()[4096..40 << 10], bench.device.borrow().disk[3 * 512..][..36 << 10]);
        assert!(stream.bytes()[..4096].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn i4_a_disk_writes_from_a_stream_what_the_cpu_wrote_before() {
    let bench = bench(Kind::Disk);
    let (mut disk, memory) = (disk(&bench), bench.memory);
    let mut stream = memory.dma().alloc(memory.master(), 8192, 1).unwrap().into_stream::<ToDevice>();
    stream.bytes_mut().iter_mut().enumerate().for_each(|(n, byte)| *byte = n as u8 ^ 0x33);
    let stream = stream.for_device();
    disk.write_blocks(8, &memory.source(&stream, 0..8192).unwrap()).unwrap();
    // SAFETY: the request is complete (I4).
    let stream = unsafe { stream.for_cpu() };
    assert_eq!(stream.bytes(), &bench.device.borrow().disk[8 * 512..][..8192]);
}

#[test]
fn slices_of_the_driver_s_own_are_bounced_both_ways() {
    let bench = bench(Kind::Disk);
    let mut disk = disk(&bench);
    let mut sectors = [0xee; 1024];
    disk.read_blocks(1, &mut sectors).unwrap();
    assert_eq!(sectors, bench.device.borrow().disk[512..1536]);
    disk.write_blocks(5, &[0x44; 512]).unwrap();
    assert_eq!(bench.device.borrow().disk[5 * 512..6 * 512], [0x44; 512]);
    let mut id = [0xff; 20];
    assert_eq!(disk.device_id(&mut id), Ok(6));
    assert_eq!(&id[..7], b"a disk\0");
    assert_eq!(id[7..], [0xff; 13], "what the device did not write is as it was");
    assert_eq!(bench.device.borrow().indirect, 0);
}

#[test]
fn what_an_entropy_source_did_not_write_is_as_it_was() {
    let bench = bench(Kind::Entropy(100));
    let mut entropy = VirtIORng::<DmaHal<Own>, _>::new(Guarded::<Own, _>::new(bench.wire())).unwrap();
    for bytes in [1, 64, 100, 101, 1000, 32 << 10] {
        let mut random = vec![0x11; bytes];
        let got = entropy.request_entropy(&mut random).unwrap();
        assert_eq!(got, bytes.min(100));
        assert!(random[..got].iter().all(|&byte| byte == 0x5a));
        assert!(random[got..].iter().all(|&byte| byte == 0x11));
    }
}

#[test]
fn i4_rings_of_a_device_that_was_reset_are_free_again() {
    let bench = bench(Kind::Disk);
    let before = bench.out();
    for n in 1..10 {
        drop(disk(&bench));
        assert_eq!(bench.out(), before);
        assert_eq!(bench.device.borrow().unset, n);
    }
    bench.audit();
}

#[test]
fn i4_rings_of_a_device_that_does_not_reset_are_quarantined() {
    let bench = bench(Kind::Disk);
    let (mut disk, (before, _)) = (disk(&bench), bench.out());
    bench.device.borrow_mut().works = false;
    let mut request = (BlkReq::default(), [0; 512], BlkResp::default());
    // SAFETY: nobody touches these before the driver is gone, and the device is never told of them.
    unsafe { disk.read_blocks_nb(0, &mut request.0, &mut request.1, &mut request.2) }.unwrap();
    bench.device.borrow_mut().resets = false;
    let rings = before - 8 * u64::from(PAGE);
    drop(disk);
    assert_eq!(bench.out(), (before - rings, rings));
    assert_eq!(bench.device.borrow().unset, 0, "it might never say that the queue is out of use");
    assert_eq!(bench.dma.next_quarantined().map(|record| record.owner), Some("virtio".into()));
    // It comes to its senses, and another driver takes it.
    bench.device.borrow_mut().resets = true;
    bench.device.borrow_mut().works = true;
    let mut again = Disk::new(Guarded::new(bench.wire())).unwrap();
    again.read_blocks(0, &mut request.1).unwrap();
    drop(again);
    assert_eq!(bench.out(), (before - rings, rings), "the second driver's rings are free, the first one's never");
}

#[test]
fn i4_a_driver_that_gives_up_half_way_leaves_what_its_device_was_told() {
    let bench = bench(Kind::Network);
    // The driver makes the queue of its packets to send first.
    bench.device.borrow_mut().lacks = Some(0);
    let (before, _) = bench.out();
    let refused = VirtIONetRaw::<DmaHal<Own>, _, 16>::new(Guarded::<Own, _>::new(bench.wire()));
    assert_eq!(refused.err(), Some(Error::InvalidParam));
    assert_eq!(bench.out(), (before, 2 * u64::from(PAGE)));
}

#[test]
fn i4_a_ring_whose_device_nobody_watched_is_quarantined() {
    let bench = bench(Kind::Disk);
    let (before, _) = bench.out();
    let (at, bytes) = DmaHal::<Own>::dma_alloc(3, BufferDirection::Both);
    assert_eq!(at % u64::from(PAGE), 0);
    // SAFETY: three pages, just allocated (I5).
    assert!(unsafe { bytes.cast::<[u8; 3 * 4096]>().as_ref() }.iter().all(|&byte| byte == 0));
    // SAFETY: as `dma_alloc` gave them.
    assert_eq!(unsafe { DmaHal::<Own>::dma_dealloc(at, bytes, 3) }, 0);
    assert_eq!(bench.out(), (before, 3 * u64::from(PAGE)));
    // SAFETY: nothing is freed.
    assert_eq!(unsafe { DmaHal::<Own>::dma_dealloc(at, bytes, 3) }, -1, "a ring freed twice");
}

#[test]
fn an_area_without_room_says_so_and_nothing_is_lost() {
    let bench = bench(Kind::Disk);
    let before = bench.out();
    let all = bench.dma.alloc(bench.memory.master(), bench.setup.free_bytes() as u32 - PAGE, 1).unwrap();
    let refused = Disk::new(Guarded::new(bench.wire()));
    assert_eq!(refused.err(), Some(Error::DmaError));
    assert!(matches!(bench.memory.take_refusal(), Some(AllocError::NoCapacity { .. })));
    assert_eq!(bench.memory.take_refusal(), None, "told once");
    drop(all);
    assert_eq!(bench.out(), before, "the first half of the ring went back");
    let (at, _) = DmaHal::<Own>::dma_alloc(usize::MAX, BufferDirection::Both);
    assert_eq!(at, 0);
    assert!(bench.memory.take_refusal().is_some());
    let none = Bench::new(Kind::Disk, |master| master, 1 << 30, 0).err().unwrap();
    assert_eq!(none.to_string(), "no room for 1 GiB: 4 MiB free in the area");
    assert!(matches!(none, MemoryError::Alloc(_)));
    let none = Bench::new(Kind::Disk, |master| master, PAGE, 1 << 62).err().unwrap();
    let line = "no heap left for a stand-in of 4611686018427387904 bytes and a bounce buffer of 4096 bytes";
    assert_eq!(none.to_string(), line);
}

#[test]
fn a_reset_frees_the_slots_of_requests_under_way() {
    let bench = Bench::new(Kind::Disk, |master| master, PAGE, 0).unwrap();
    bench.device.borrow_mut().works = false;
    for _ in 0..40 {
        let mut disk = disk(&bench);
        let mut requests: Vec<_> = (0..5).map(|_| (BlkReq::default(), [0; 512], BlkResp::default())).collect();
        for (header, data, status) in &mut requests {
            // SAFETY: nobody touches these before the driver is gone, and the device is never told of them.
            unsafe { disk.read_blocks_nb(0, header, data, status) }.unwrap();
        }
        drop(disk);
    }
}

#[test]
#[should_panic(expected = "bounce buffer of virtio: no run for 4097 bytes; 4096 of its 4096 are free")]
fn a_bounce_buffer_that_is_too_small_is_told() {
    let bench = Bench::new(Kind::Entropy(1), |master| master, PAGE, 0).unwrap();
    let mut entropy = VirtIORng::<DmaHal<Own>, _>::new(Guarded::<Own, _>::new(bench.wire())).unwrap();
    let _ = entropy.request_entropy(&mut [0; 4097]);
}

#[test]
fn i4_a_packet_is_received_into_a_block_of_a_pool_and_sent_from_one() {
    for bus in [shifted, |master| master] {
        let bench = Bench::new(Kind::Disk, bus, PAGE, 4096).unwrap();
        let (mut disk, memory) = (disk(&bench), bench.memory);
        let shape = BlockShape { size: 1024, align: 1, boundary: None };
        let pool = StreamPool::<_, FromDevice>::new(memory.dma(), memory.master(), shape, 4).unwrap();
        let block = pool.alloc().unwrap().for_device();
        let mut handed = memory.target_block(&block, 512..1024).unwrap();
        assert_eq!(memory.source_block(&block, 0..1).err(), Some(HandError::Busy));
        disk.read_blocks(3, &mut handed).unwrap();
        assert!(handed.iter().all(|&byte| byte == 0), "the stand-in was written");
        drop(handed);
        let outside = HandError::Outside { start: 1000, end: 1025, bytes: 1024 };
        assert_eq!(memory.target_block(&block, 1000..1025).err(), Some(outside));
        let at = u64::from(block.bus().raw()) + 512;
        assert_eq!(bench.device.borrow().data_at, [at], "the block's own address");
        bench.audit();
        // SAFETY: the request is complete (I4).
        let block = unsafe { block.for_cpu_part(512..1024) };
        assert_eq!(block.bytes()[512..], bench.device.borrow().disk[3 * 512..][..512]);

        let pool = StreamPool::<_, ToDevice>::new(memory.dma(), memory.master(), shape, 4).unwrap();
        let mut block = pool.alloc().unwrap();
        block.bytes_mut().fill(0x5a);
        let block = block.for_device();
        let refused = memory.target_block(&block, 0..512).err().unwrap().to_string();
        assert_eq!(refused, "stand-in: the device does not write a stream to the device");
        disk.write_blocks(9, &memory.source_block(&block, 0..512).unwrap()).unwrap();
        assert_eq!(bench.device.borrow().disk[9 * 512..][..512], [0x5a; 512]);
        // SAFETY: as above.
        drop(unsafe { block.for_cpu() });
    }
}

#[test]
fn a_stream_is_handed_out_in_bounds_and_once() {
    let bench = Bench::new(Kind::Disk, |master| master, PAGE, 4096).unwrap();
    let memory = bench.memory;
    let stream = memory.dma().alloc(memory.master(), 5000, 1).unwrap().into_stream::<Bidirectional>().for_device();
    let refused = |range: std::ops::Range<usize>| memory.source(&stream, range).err().unwrap().to_string();
    assert_eq!(refused(4000..5001), "stand-in: bytes 4000 to 5001 are no part of a stream of 5000 bytes");
    assert_eq!(refused(7..7), "stand-in: bytes 7 to 7 are no part of a stream of 5000 bytes");
    assert_eq!(refused(0..5000), "stand-in: a request of 5000 bytes is longer than its 4096 bytes");
    let handed = memory.source(&stream, 904..5000).unwrap();
    assert_eq!(handed.len(), 4096);
    assert_eq!(memory.target(&stream, 0..1).err(), Some(HandError::Busy));
    assert_eq!(refused(0..1), "stand-in: another stream has it");
    drop(handed);
    assert_eq!(memory.target(&stream, 0..1).unwrap().len(), 1);
    // SAFETY: no device was told of it.
    drop(unsafe { stream.for_cpu() });
    let stream = memory.dma().alloc(memory.master(), 16, 1).unwrap().into_stream::<ToDevice>().for_device();
    let refused = memory.target(&stream, 0..16).err().unwrap().to_string();
    assert_eq!(refused, "stand-in: the device does not write a stream to the device");
    // SAFETY: no device was told of it.
    drop(unsafe { stream.for_cpu() });
}

#[test]
fn i4_memory_that_is_given_up_is_the_device_s_until_it_stopped() {
    let bench = bench(Kind::Disk);
    let before = bench.out();
    drop(bench.another());
    assert_eq!(bench.out(), before, "no device was told of it");
    let device = bench.another();
    // SAFETY: the byte is not accessed meanwhile.
    unsafe { DmaHal::<Own>::share(NonNull::from(&mut [0_u8][..]), BufferDirection::DriverToDevice) };
    drop(device);
    assert_eq!(bench.out(), (before.0, u64::from(PAGE)), "it was told, and never stopped");
    let device = bench.another();
    drop(disk(&bench));
    drop(device);
    assert_eq!(bench.out(), (before.0, u64::from(PAGE)), "it was told, and reset");
}

#[test]
#[should_panic(expected = "no registers are mapped for 0x10000000, 4096 bytes")]
fn registers_that_the_provider_does_not_know_are_told() {
    // SAFETY: nothing is mapped, and nothing is accessed.
    unsafe { DmaHal::<Own>::mmio_phys_to_virt(0x1000_0000, 4096) };
}

#[test]
#[should_panic(expected = "I4: a device reads")]
fn i4_without_the_guard_the_device_is_told_too_early() {
    let bench = bench(Kind::Disk);
    let mut wire = bench.wire();
    let (at, ring) = DmaHal::<Own>::dma_alloc(1, BufferDirection::Both);
    wire.queue_set(0, 16, at, at, at);
    // SAFETY: the ring's own byte.
    unsafe { ring.write_volatile(1) };
    wire.notify(0);
}

/// A step of the model: share so many bytes, or end the n-th that is shared.
#[derive(Clone, Debug)]
enum Step {
    Share(usize, BufferDirection),
    Unshare(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let direction = prop_oneof![
        Just(BufferDirection::DriverToDevice),
        Just(BufferDirection::DeviceToDriver),
        Just(BufferDirection::Both)
    ];
    let share = (1usize..700, direction).prop_map(|(bytes, direction)| Step::Share(bytes, direction));
    prop::collection::vec(prop_oneof![2 => share, 1 => (0usize..64).prop_map(Step::Unshare)], 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn i5_what_is_shared_arrives_whole_wherever_it_is_bounced(steps in steps()) {
        let bench = bench(Kind::Disk);
        let fake = bench.setup.fake;
        let mut shared: Vec<(u64, Vec<u8>, Vec<u8>, BufferDirection)> = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Share(bytes, direction) => {
                    let mut own: Vec<u8> = (0..bytes).map(|at| (at * 3 + n) as u8).collect();
                    let slice = NonNull::from(own.as_mut_slice());
                    // SAFETY: the bytes are not accessed meanwhile.
                    let at = unsafe { DmaHal::<Own>::share(slice, direction) };
                    fake.device_barrier();
                    let place = PhysAddr::new(at as u32);
                    prop_assert!(place >= CARVED);
                    prop_assert_eq!(&fake.device_read(place, bytes), &own);
                    let answer: Vec<u8> = (0..bytes).map(|at| (at * 5 + n) as u8).collect();
                    if direction != BufferDirection::DriverToDevice {
                        fake.device_write(place, &answer);
                    }
                    shared.push((at, own, answer, direction));
                }
                Step::Unshare(pick) if !shared.is_empty() => {
                    let (at, mut own, answer, direction) = shared.swap_remove(pick % shared.len());
                    let before = own.clone();
                    // SAFETY: as `share` gave it; the device is done.
                    unsafe { DmaHal::<Own>::unshare(at, NonNull::from(own.as_mut_slice()), direction) };
                    let read = direction != BufferDirection::DriverToDevice;
                    prop_assert_eq!(own, if read { answer } else { before });
                }
                Step::Unshare(_) => {}
            }
        }
    }
}

#[test]
fn the_disk_is_as_large_as_it_says() {
    assert_eq!(disk(&bench(Kind::Disk)).capacity(), DISK as u64 / 512);
    assert_eq!(Own::registers(0, 0), None);
}
