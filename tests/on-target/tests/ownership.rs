//! I4 and I5: what is the device's cannot be reached by the CPU, whoever gets a frame finds zeros in it, and guards
//! stand between buffers. Also: refusals of the allocator, one of each kind.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use carveout::addr::{BusAddr, FRAME_SIZE, Frame, FrameRange, SECTION_SIZE, VirtAddr};
use carveout::dma::{
    AllocError, Bidirectional, BlockShape, ContractSet, Discardable, FaultPlace, FromDevice, Holder, LoanPriority,
    MAX_ALIGN, Master, Movable, NoRun, Pool, Port, Reach, ScatterTable, Stream, ToDevice,
};
use carveout::sync::{Lock, Rank};
use carveout::vm::attr::MemoryType;
use carveout::vm::ledger::Carved;
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::kernel::state::Kernel;
use on_target::{
    RETURN, Verdict, address_of, after, alloc, checks, direct_map_place, ensure, ensure_eq, is_execute_never,
    is_unmapped, master, read,
};

checks![
    a_stream_the_device_owns_is_unmapped,
    the_device_reads_what_the_cpu_wrote,
    a_device_only_buffer_is_never_mapped,
    a_coherent_buffer_is_one_memory_for_both,
    a_guard_follows_every_buffer,
    buffers_side_by_side_in_memory_are_apart_in_the_window,
    buffers_are_execute_never,
    whoever_gets_a_frame_reads_zeros,
    refusals_say_why,
    a_dropped_device_owned_buffer_is_never_reused,
    nothing_takes_a_lock_of_the_kernel_around_it,
];

/// Sizes that are mapped by small pages, by large pages, and by sections.
const SIZES: [u32; 4] = [FRAME_SIZE, 3 * FRAME_SIZE, 64 << 10, 2 * SECTION_SIZE];

fn port(kernel: &'static Kernel) -> Port<Armv7a> {
    // SAFETY: the tests keep a device's promise: a port is closed before its buffer changes hands.
    unsafe { Port::new(kernel.dma, master(kernel)) }
}

/// A byte that differs from that of its neighbours, and of the same place a page further on.
const fn pattern(n: usize) -> u8 {
    (n ^ n >> 8 ^ n >> 16) as u8 | 1
}

fn has_pattern(bytes: &[u8]) -> Verdict {
    match bytes.iter().enumerate().find(|&(n, &byte)| byte != pattern(n)) {
        None => Ok(()),
        Some((n, byte)) => Err(format!("byte {n:#x} is {byte:#04x}, not {:#04x}", pattern(n))),
    }
}

fn put_pattern(bytes: &mut [u8]) {
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = pattern(n);
    }
}

/// No page of a buffer at `va` is mapped.
fn is_all_unmapped(va: VirtAddr, frames: FrameRange) -> Verdict {
    for page in 0..frames.count() {
        is_unmapped(after(va, page * FRAME_SIZE))?;
    }
    is_unmapped(after(va, frames.count() * FRAME_SIZE - 4))
}

fn a_stream_the_device_owns_is_unmapped(kernel: &'static Kernel) -> Verdict {
    for bytes in SIZES {
        let buffer = alloc(kernel, bytes)?.into_stream::<FromDevice>();
        let va = address_of(buffer.bytes());
        ensure_eq!(read(va), Ok(0), "the CPU's own view of a new buffer");
        let buffer = buffer.for_device();
        is_all_unmapped(va, buffer.frames())?;
        {
            let port = port(kernel);
            let mut open = port.open(buffer.bus(), bytes).map_err(|error| format!("{error}"))?;
            put_pattern(open.bytes_mut());
            // The port has a mapping of its own, elsewhere.
            is_all_unmapped(va, buffer.frames())?;
        }
        // SAFETY: the device is the port, and it is closed.
        let buffer = unsafe { buffer.for_cpu() };
        // Not before the CPU looks.
        is_all_unmapped(va, buffer.frames())?;
        has_pattern(buffer.bytes())?;
        ensure_eq!(address_of(buffer.bytes()), va, "the buffer's address");
    }
    Ok(())
}

fn the_device_reads_what_the_cpu_wrote(kernel: &'static Kernel) -> Verdict {
    for bytes in SIZES {
        let mut buffer = alloc(kernel, bytes)?.into_stream::<ToDevice>();
        put_pattern(buffer.bytes_mut());
        let buffer = buffer.for_device();
        has_pattern(port(kernel).open(buffer.bus(), bytes).map_err(|error| format!("{error}"))?.bytes())?;
        // SAFETY: the device is the port, and it is closed.
        drop(unsafe { buffer.for_cpu() });
    }
    Ok(())
}

fn a_device_only_buffer_is_never_mapped(kernel: &'static Kernel) -> Verdict {
    for bytes in SIZES {
        let mapped = || kernel.audit().map(|report| report.window_frames).map_err(|finding| format!("{finding}"));
        let before = mapped()?;
        let buffer = alloc(kernel, bytes)?.into_device();
        ensure_eq!(mapped()?, before, "carved frames that are mapped");
        for frame in buffer.frames().iter() {
            ensure_eq!(kernel.dma.state_of(frame), Some(Carved::Unmapped), "the state of frame {}", frame.base());
        }
        let Some(FaultPlace::Buffer(record)) = kernel.dma.place_of_frame(Frame::containing(buffer.frames().base()))
        else {
            return Err("no buffer is known to be there".into());
        };
        ensure_eq!((record.holder, record.owner), (Holder::Device, "test-master".into()), "holder and owner");
        ensure_eq!(record.va, None, "the addresses that it has");
        // SAFETY: no device was told its address.
        drop(unsafe { buffer.release() });
    }
    Ok(())
}

fn a_coherent_buffer_is_one_memory_for_both(kernel: &'static Kernel) -> Verdict {
    for bytes in SIZES {
        let mut buffer = alloc(kernel, bytes)?.into_coherent();
        let (port, frame) = (port(kernel), Frame::containing(buffer.frames().base()));
        ensure_eq!(
            kernel.dma.state_of(frame),
            Some(Carved::Mapped(MemoryType::NonCacheable)),
            "the first frame's state"
        );
        let mut expected: Vec<u8> = (0..bytes as usize).map(pattern).collect();
        ensure_eq!(buffer.write_at(0, &expected), expected.len(), "bytes written");
        {
            let mut open = port.open(buffer.bus(), bytes).map_err(|error| format!("{error}"))?;
            has_pattern(open.bytes())?;
            for byte in open.bytes_mut() {
                *byte = !*byte;
            }
        }
        let mut found = alloc::vec![0; bytes as usize];
        ensure_eq!(buffer.read_at(0, &mut found), found.len(), "bytes read");
        for byte in &mut expected {
            *byte = !*byte;
        }
        ensure!(found == expected, "the CPU does not read what the device wrote");
        // SAFETY: the device is the port, and it is closed.
        drop(unsafe { buffer.release() });
    }
    Ok(())
}

/// Several of each size at once, so that there is a next buffer to run into.
fn a_guard_follows_every_buffer(kernel: &'static Kernel) -> Verdict {
    let mut buffers = Vec::new();
    for bytes in SIZES.into_iter().flat_map(|bytes| [bytes; 4]) {
        buffers.push(alloc(kernel, bytes)?.into_coherent());
    }
    for buffer in &buffers {
        let end = after(VirtAddr::new(buffer.as_ptr().addr().get() as u32), buffer.len() as u32);
        ensure!(read(after(end, 0u32.wrapping_sub(4))).is_ok(), "the last word below {end} cannot be read");
        is_unmapped(end)?;
        let place = kernel.dma.place_of(end);
        ensure!(matches!(place, FaultPlace::Guard(record) if record.frames == buffer.frames()), "{end} is {place}");
    }
    Ok(())
}

fn buffers_side_by_side_in_memory_are_apart_in_the_window(kernel: &'static Kernel) -> Verdict {
    let mut buffers = Vec::new();
    for _ in 0..16 {
        buffers.push(alloc(kernel, FRAME_SIZE)?.into_coherent());
    }
    let at = |n: usize| VirtAddr::new(buffers[n].as_ptr().addr().get() as u32);
    let mut side_by_side = 0;
    for n in 0..buffers.len() {
        is_unmapped(after(at(n), FRAME_SIZE))?;
        for m in 0..buffers.len() {
            side_by_side += usize::from(buffers[n].frames().end() == buffers[m].frames().start());
            let apart = at(n).raw().abs_diff(at(m).raw());
            ensure!(n == m || apart >= 2 * FRAME_SIZE, "{} and {} are too close", at(n), at(m));
        }
    }
    ensure!(side_by_side > 0, "no two buffers are side by side in memory");
    Ok(())
}

fn buffers_are_execute_never(kernel: &'static Kernel) -> Verdict {
    for bytes in SIZES {
        let mut coherent = alloc(kernel, bytes)?.into_coherent();
        coherent.write_word(0, RETURN);
        is_execute_never(VirtAddr::new(coherent.as_ptr().addr().get() as u32))?;
        let mut stream = alloc(kernel, bytes)?.into_stream::<Bidirectional>();
        stream.bytes_mut()[..4].copy_from_slice(&RETURN.to_le_bytes());
        is_execute_never(address_of(stream.bytes()))?;
    }
    Ok(())
}

/// I5, by way of each state a frame can be left in and each it can come back in.
fn whoever_gets_a_frame_reads_zeros(kernel: &'static Kernel) -> Verdict {
    let zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    for bytes in SIZES {
        for (left, back) in (0..3).flat_map(|left| (0..3).map(move |back| (left, back))) {
            let buffer = alloc(kernel, bytes)?;
            let frames = buffer.frames();
            match left {
                0 => put_pattern(buffer.into_stream::<Bidirectional>().bytes_mut()),
                1 => {
                    let mut buffer = buffer.into_coherent();
                    buffer.write_at(0, &(0..bytes as usize).map(pattern).collect::<Vec<_>>());
                }
                _ => {
                    let buffer = buffer.into_device();
                    put_pattern(
                        port(kernel).open(buffer.bus(), bytes).map_err(|error| format!("{error}"))?.bytes_mut(),
                    );
                    // SAFETY: the device is the port, and it is closed.
                    drop(unsafe { buffer.release() });
                }
            }
            let buffer = alloc(kernel, bytes)?;
            ensure_eq!(buffer.frames(), frames, "the frames of the next buffer of {bytes:#x} bytes");
            let clean = match back {
                0 => zero(buffer.into_stream::<Bidirectional>().bytes()),
                1 => {
                    let mut all = alloc::vec![0xff; bytes as usize];
                    buffer.into_coherent().read_at(0, &mut all);
                    zero(&all)
                }
                _ => {
                    let buffer = buffer.into_device();
                    let clean =
                        zero(port(kernel).open(buffer.bus(), bytes).map_err(|error| format!("{error}"))?.bytes());
                    // SAFETY: the device is the port, and it is closed.
                    drop(unsafe { buffer.release() });
                    clean
                }
            };
            ensure!(clean, "{bytes:#x} bytes left in state {left} are not zero in state {back}");
        }
    }
    Ok(())
}

fn refusals_say_why(kernel: &'static Kernel) -> Verdict {
    let area = kernel.default_area().ok_or("no default area")?;
    let (free, largest) = kernel.dma.free_bytes(area);
    let refused = |master: &Master, bytes, align| kernel.dma.alloc(master, bytes, align).map(drop).err();
    let test = master(kernel);
    ensure_eq!(refused(&test, 0, 1), Some(AllocError::ZeroSize), "no bytes");
    for align in [0, 3, 2 * MAX_ALIGN] {
        ensure_eq!(refused(&test, 1, align), Some(AllocError::Alignment { align }), "alignment {align:#x}");
    }
    ensure_eq!(refused(&Master::new("homeless", None), 1, 1), Some(AllocError::NoArea(None)), "a master without area");
    let wanted = free + u64::from(FRAME_SIZE);
    ensure_eq!(refused(&test, wanted as u32, 1), Some(AllocError::NoCapacity { wanted, free }), "more than all");
    let short = test.clone().with_mask(BusAddr::new(kernel.info.banks()[0].base().raw()));
    let out_of_reach = matches!(refused(&short, 1, 1), Some(AllocError::OutOfReach(NoRun { largest: 0, .. })));
    ensure!(out_of_reach, "a mask below the area: {:?}", refused(&short, 1, 1));

    // Every other quarter of the area.
    ensure_eq!(largest, free, "the largest run of an area without buffers");
    let quarter = free / 4;
    let mut quarters = Vec::new();
    for _ in 0..4 {
        quarters.push(alloc(kernel, quarter as u32)?);
    }
    quarters.sort_by_key(|buffer| buffer.frames().start());
    drop(quarters.swap_remove(0));
    drop(quarters.swap_remove(2));
    let (wanted, align, reach) = (2 * quarter, FRAME_SIZE, Reach::ALL);
    let no_run = NoRun { wanted, align, reach, free: wanted, largest: quarter, any: quarter };
    let fragmented = AllocError::Fragmented(no_run);
    ensure_eq!(refused(&test, 2 * quarter as u32, 1), Some(fragmented), "two quarters apart");
    drop(quarters);

    let mut all = Vec::new();
    let refusal = loop {
        match kernel.dma.alloc(&test, 1, 1) {
            Ok(buffer) => all.push(buffer),
            Err(error) => break error,
        }
    };
    // Records grow with the buffers that there are, as far as there is heap for them.
    let one_too_many = matches!(refusal, AllocError::NoCapacity { free: 0, .. } | AllocError::TooManyBuffers { .. });
    ensure!(one_too_many && all.len() > 1024, "after {} buffers: {refusal}", all.len());
    Ok(())
}

fn a_dropped_device_owned_buffer_is_never_reused(kernel: &'static Kernel) -> Verdict {
    let lost = alloc(kernel, FRAME_SIZE)?.into_stream::<FromDevice>();
    let va = address_of(lost.bytes());
    let lost = lost.for_device();
    let (frames, before) = (lost.frames(), kernel.dma.stats().quarantined);
    drop(lost);
    ensure_eq!(kernel.dma.stats().quarantined, before + u64::from(FRAME_SIZE), "bytes in quarantine");
    is_unmapped(va)?;
    let next = alloc(kernel, FRAME_SIZE)?;
    ensure!(!next.frames().overlaps(frames), "{frames} was given out again");
    let frame = Frame::containing(frames.base());
    let place = kernel.dma.place_of_frame(frame);
    ensure!(
        matches!(place, Some(FaultPlace::Buffer(record)) if record.holder == Holder::Quarantine),
        "the frame is {place:?}"
    );
    ensure!(direct_map_place(frame).is_some_and(|va| is_unmapped(va).is_ok()), "the frame can be reached");
    Ok(())
}

/// Under an embedding kernel's lock of the last rank that allows it, and with the log wide open, the whole API is used,
/// and buffers are lost in each way. A line printed from within would take the console's lock, which comes before that
/// one.
fn nothing_takes_a_lock_of_the_kernel_around_it(kernel: &'static Kernel) -> Verdict {
    static AROUND: Lock<()> = Lock::new(Rank::new(3), ());
    let (dma, test) = (kernel.dma, master(kernel));
    let area = kernel.default_area().ok_or("no default area")?;
    let pages = (dma.free_bytes(area).0 / u64::from(FRAME_SIZE)) as u32;
    while dma.next_quarantined().is_some() {}
    let level = log::max_level();
    log::set_max_level(log::LevelFilter::Trace);
    let lost = {
        let _around = AROUND.lock();
        let around = || -> Result<Vec<FrameRange>, alloc::string::String> {
            let mut lost = Vec::new();
            // Handed over, looked at, taken back, freed; refused.
            let mut stream = alloc(kernel, 3 * FRAME_SIZE)?.into_stream::<Bidirectional>();
            stream.bytes_mut().fill(1);
            let stream = stream.for_device();
            let segments = alloc(kernel, FRAME_SIZE)?.into_device();
            for (bytes, align) in [(0, 1), (FRAME_SIZE, 3), (u32::MAX, 1), (FRAME_SIZE, MAX_ALIGN)] {
                drop(dma.alloc(&test, bytes, align).map_err(|error| format!("{error}")));
            }
            drop(dma.alloc(&Master::new("nobody", None), FRAME_SIZE, 1));
            // SAFETY: no device was told.
            drop(unsafe { stream.for_cpu() });
            // SAFETY: there is no such device.
            drop(unsafe { segments.release() });
            // Lost in each way.
            let stream = alloc(kernel, FRAME_SIZE)?.into_stream::<FromDevice>().for_device();
            lost.push(stream.frames());
            drop(stream);
            let coherent = alloc(kernel, FRAME_SIZE)?.into_coherent();
            let _ = coherent.bus();
            lost.push(coherent.frames());
            drop(coherent);
            let device = alloc(kernel, FRAME_SIZE)?.into_device();
            let _ = device.bus();
            lost.push(device.frames());
            drop(device);
            let streams = vec![alloc(kernel, FRAME_SIZE)?.into_stream(), alloc(kernel, FRAME_SIZE)?.into_stream()];
            lost.extend(streams.iter().map(Stream::frames));
            drop(ScatterTable::<_, ToDevice, _>::new(streams).for_device());
            let shape = BlockShape { size: 64, align: 64, boundary: None };
            let pool = Pool::new(dma, &test, shape, 8).map_err(|error| format!("{error}"))?;
            let block = pool.alloc().map_err(|error| format!("{error}"))?;
            lost.push(FrameRange::within(block.bus().raw().into(), FRAME_SIZE.into()));
            drop((block, pool));
            let contract = dma.contract(&test, &[ContractSet { count: 2, bytes: FRAME_SIZE, align: 1 }]);
            let contract = contract.map_err(|error| format!("{error}"))?;
            let buffer = contract.alloc(1, 1).map_err(|error| format!("{error}"))?.into_coherent();
            let _ = buffer.bus();
            lost.push(buffer.frames());
            drop((buffer, contract));
            // Lent, used, recalled, given back.
            let cache = dma.borrower::<Discardable>(area, "cache", pages, LoanPriority::Low);
            let cache = cache.map_err(|error| format!("{error}"))?;
            let store = dma.borrower::<Movable>(area, "store", 32, LoanPriority::High);
            let store = store.map_err(|error| format!("{error}"))?;
            let kept = store.borrow(32).map_err(|error| format!("{error}"))?;
            let cached = cache.borrow(pages).map_err(|error| format!("{error}"))?;
            for page in 0..32 {
                store.write(kept, page, 0, b"kept").map_err(|error| format!("{error}"))?;
                store.with(kept, page, |bytes| bytes[4] = 1).map_err(|error| format!("{error}"))?;
            }
            let half = (pages / 2 * FRAME_SIZE) & !(SECTION_SIZE - 1);
            drop((alloc(kernel, half), alloc(kernel, half)));
            dma.idle_work(area, 64);
            store.give_back(kept).map_err(|error| format!("{error}"))?;
            cache.give_back(cached).map_err(|error| format!("{error}"))?;
            // Told, and not told.
            drop((dma.stats(), dma.lent(area), format!("{}", dma.holders()), dma.retire(&test).is_ok()));
            Ok(lost)
        };
        around()
    };
    log::set_max_level(level);
    let mut told: Vec<_> = core::iter::from_fn(|| dma.next_quarantined()).map(|record| record.frames).collect();
    let mut lost = lost?;
    told.sort_by_key(|frames| frames.start());
    lost.sort_by_key(|frames| frames.start());
    ensure_eq!(told, lost, "buffers of which one is told");
    Ok(())
}
