//! Drivers of virtio-drivers over `carveout-virtio`, with QEMU's devices. This program does not use the board's own
//! disk. It needs the disk, the entropy source and the network that tests/cases/adapters.toml attaches.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use carveout::addr::VirtAddr;
use carveout::dma::{Device, FromDevice, Stream, ToDevice};
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::drivers::wait::until;
use carveout_boards::kernel::state::Kernel;
use carveout_boards::kernel::{devices, known};
use carveout_virtio::{DeviceMemory, DmaHal, Guarded, Provider};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use on_target::{Verdict, address_of, checks, ensure, ensure_eq, is_unmapped};
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::mmio::MmioTransport;

checks![
    i4_a_disk_takes_slices_and_streams_that_nothing_maps,
    an_entropy_source_fills_slices_and_streams,
    i4_packets_go_out_bounced_and_come_into_a_stream,
];

/// Bytes of the largest request here.
const MOST: usize = 32 << 10;

/// The memory of the device under test.
static MEMORY: AtomicPtr<DeviceMemory<Armv7a>> = AtomicPtr::new(ptr::null_mut());

struct Own;

// SAFETY: `with` makes the memory for one device, which is driven through `Guarded`, and takes it back after its driver
// is gone (I4).
unsafe impl Provider for Own {
    type Machine = Armv7a;

    fn memory() -> &'static DeviceMemory<Armv7a> {
        // SAFETY: as above. The memory lives, and it changes only through its own methods.
        unsafe { MEMORY.load(Ordering::Relaxed).as_ref() }.expect("there while a device is under test")
    }
}

#[expect(clippy::needless_pass_by_value, reason = "passed to map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}

/// Finds a device of a kind, and gives its transport to `test`. The driver is gone when `test` returns.
fn with(
    kernel: &'static Kernel,
    kind: DeviceType,
    test: impl FnOnce(Guarded<Own, MmioTransport<'static>>, &DeviceMemory<Armv7a>) -> Verdict,
) -> Verdict {
    let mut found = None;
    devices::find_all(&kernel.info, "virtio,mmio", |device| {
        found = found.take().or_else(|| known::virtio_transport(kernel, &device, kind));
    });
    let transport = found.ok_or_else(|| format!("there is no {kind:?}"))?;
    let memory = DeviceMemory::new(kernel.dma, kernel.master("virtio"), 2 * MOST as u32, MOST).map_err(text)?;
    let memory = Box::into_raw(Box::new(memory));
    MEMORY.store(memory, Ordering::Relaxed);
    let verdict = test(Guarded::new(transport), Own::memory());
    MEMORY.store(ptr::null_mut(), Ordering::Relaxed);
    // SAFETY: the memory was a box. The driver is gone, so nothing uses the memory any more.
    drop(unsafe { Box::from_raw(memory) });
    verdict
}

/// A stream that the device owns.
type Given<D> = Stream<Armv7a, D, Device>;

/// Fills a stream, and hands it over. Also returns the CPU's address of the stream.
fn filled(memory: &DeviceMemory<Armv7a>, fill: impl Fn(usize) -> u8) -> Result<(Given<ToDevice>, VirtAddr), String> {
    let mut stream = memory.dma().alloc(memory.master(), MOST as u32, 1).map_err(text)?.into_stream();
    stream.bytes_mut().iter_mut().enumerate().for_each(|(n, byte)| *byte = fill(n));
    let va = address_of(stream.bytes());
    Ok((stream.for_device(), va))
}

fn empty(memory: &DeviceMemory<Armv7a>) -> Result<Given<FromDevice>, String> {
    Ok(memory.dma().alloc(memory.master(), MOST as u32, 1).map_err(text)?.into_stream().for_device())
}

fn i4_a_disk_takes_slices_and_streams_that_nothing_maps(kernel: &'static Kernel) -> Verdict {
    with(kernel, DeviceType::Block, |transport, memory| {
        let mut disk = VirtIOBlk::<DmaHal<Own>, _>::new(transport).map_err(text)?;
        let written: [u8; 1024] = core::array::from_fn(|n| (n * 7) as u8);
        disk.write_blocks(2, &written).map_err(text)?;
        let mut read = vec![0xee; 4096];
        disk.read_blocks(0, &mut read).map_err(text)?;
        ensure!(read[1024..2048] == written, "the disk holds something else than was written");
        ensure!(read[2048..].iter().all(|&byte| byte == 0), "the disk was written elsewhere");

        let byte = |n: usize| (n / 512 * 3 + n % 249) as u8;
        let (source, va) = filled(memory, byte)?;
        is_unmapped(va)?;
        disk.write_blocks(8, &memory.source(&source, 0..MOST).map_err(text)?).map_err(text)?;
        let target = empty(memory)?;
        disk.read_blocks(8, &mut memory.target(&target, 0..MOST).map_err(text)?).map_err(text)?;
        // SAFETY: both requests are complete (I4).
        let target = unsafe { target.for_cpu() };
        ensure!(target.bytes().iter().enumerate().all(|(n, &is)| is == byte(n)), "something else was read");
        // SAFETY: as above.
        drop(unsafe { source.for_cpu() });
        disk.flush().map_err(text)
    })
}

fn an_entropy_source_fills_slices_and_streams(kernel: &'static Kernel) -> Verdict {
    with(kernel, DeviceType::EntropySource, |transport, memory| {
        let mut source = VirtIORng::<DmaHal<Own>, _>::new(transport).map_err(text)?;
        let mut random = [[0; 64]; 2];
        for bytes in &mut random {
            let got = source.request_entropy(bytes).map_err(text)?;
            ensure!(got > 0 && bytes[..got].iter().any(|&byte| byte != 0), "no entropy in {got} bytes");
        }
        ensure!(random[0] != random[1], "the same bytes twice");
        let target = empty(memory)?;
        let got = source.request_entropy(&mut memory.target(&target, 0..256).map_err(text)?).map_err(text)?;
        // SAFETY: the request is complete, and the device wrote so many bytes (I4).
        let target = unsafe { target.for_cpu_part(0..got) };
        ensure!(target.bytes()[..got].iter().any(|&byte| byte != 0), "no entropy in the stream's {got} bytes");
        ensure!(target.bytes()[256..].iter().all(|&byte| byte == 0), "more was written than was asked for");
        Ok(())
    })
}

/// Asks for the address of the gateway (RFC 826).
fn i4_packets_go_out_bounced_and_come_into_a_stream(kernel: &'static Kernel) -> Verdict {
    const OURS: [u8; 4] = [10, 0, 2, 15];
    const GATEWAY: [u8; 4] = [10, 0, 2, 2];
    with(kernel, DeviceType::Network, |transport, memory| {
        let mut net = VirtIONetRaw::<DmaHal<Own>, _, 16>::new(transport).map_err(text)?;
        let mac = net.mac_address();
        let who_has = [
            &[0xff; 6][..],
            &mac,
            &[8, 6], // to all, from us, ARP
            &[0, 1, 8, 0, 6, 4, 0, 1],
            &mac,
            &OURS,
            &[0; 6],
            &GATEWAY,
            &[0; 18], // the least that Ethernet carries
        ]
        .concat();
        let target = empty(memory)?;
        let mut room = memory.target(&target, 0..2048).map_err(text)?;
        // SAFETY: nobody accesses the room before the request is complete or the driver is gone.
        let token = unsafe { net.receive_begin(&mut room) }.map_err(text)?;
        net.send(&who_has).map_err(text)?;
        let came = until(|| kernel.micros(), 10_000_000, || net.poll_receive() == Some(token));
        ensure!(came, "no packet came in ten seconds");
        // SAFETY: this is the room of `receive_begin`.
        let (header, bytes) = unsafe { net.receive_complete(token, &mut room) }.map_err(text)?;
        drop(room);
        // SAFETY: the request is complete, and the device wrote so many bytes (I4).
        let target = unsafe { target.for_cpu_part(0..header + bytes) };
        let packet = target.bytes().get(header..header + bytes).ok_or("a packet longer than its room")?;
        ensure!(packet.len() >= 42, "a packet of {bytes} bytes");
        ensure_eq!(packet[..6], mac, "to whom the answer goes");
        ensure_eq!(packet[12..22], [8, 6, 0, 1, 8, 0, 6, 4, 0, 2], "an ARP answer");
        ensure_eq!(packet[28..32], GATEWAY, "whose address the answer tells");
        ensure_eq!(packet[38..42], OURS, "who had asked");
        Ok(())
    })
}
