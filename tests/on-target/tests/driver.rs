//! What a driver writer gets, on the real MMU and the real cache operations: parts, large buffers, pools,
//! scatter-gather, barriers, and who holds what.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use carveout::addr::{BusAddr, FRAME_SIZE};
use carveout::dma::{Bidirectional, BlockShape, FromDevice, Pool, Port, ScatterTable, ToDevice};
use carveout::machine::{Cache, Lines};
use carveout::protocol::FLUSH_FROM;
use carveout_armv7a::l2c310::L2c310;
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::kernel::state::Kernel;
use on_target::{Verdict, alloc, checks, ensure, ensure_eq, master};

checks![
    caches_are_what_the_core_says,
    a_hand_over_maintains_the_lines_of_the_part_that_was_written,
    a_large_buffer_costs_its_lines_or_those_of_whole_caches,
    a_pool_gives_blocks_that_a_device_reaches,
    a_table_hands_over_all_its_streams,
    who_holds_what_is_told,
];

fn port(kernel: &'static Kernel) -> Port<Armv7a> {
    // SAFETY: the tests keep a device's promise: a port is closed before its buffer changes hands.
    unsafe { Port::new(kernel.dma, master(kernel)) }
}

/// What the device reads there.
fn device_reads(kernel: &'static Kernel, at: BusAddr, len: usize) -> Result<Vec<u8>, alloc::string::String> {
    port(kernel).open(at, len as u32).map(|opened| opened.bytes().to_vec()).map_err(|error| error.to_string())
}

fn caches_are_what_the_core_says(kernel: &'static Kernel) -> Verdict {
    let caches = kernel.machine.caches();
    let line = match Armv7a::core().0 {
        "Cortex-A7" | "Cortex-A8" | "Cortex-A15" => 64,
        "Cortex-A9" => 32,
        other => return Err(format!("{other} is not known to this test")),
    };
    ensure_eq!(caches.smallest_line(), line, "bytes of the smallest line, by CTR");
    let lines: Vec<u32> = caches.geometries().iter().map(|level| level.line).collect();
    ensure_eq!(lines.first(), Some(&line), "bytes of a line of the first level, by CCSIDR");
    ensure_eq!(lines.iter().min(), Some(&line), "the smallest of all levels");
    ensure!(kernel.machine.second_level_is_on(), "the second level is off");
    Ok(())
}

fn a_hand_over_maintains_the_lines_of_the_part_that_was_written(kernel: &'static Kernel) -> Verdict {
    let line = kernel.machine.caches().smallest_line();
    let outer = u64::from(kernel.outer.is_some());
    let mut stream = alloc(kernel, 4 * FRAME_SIZE)?.into_stream::<ToDevice>();
    let before = stream.effort().lines();
    let range = 5000..5000 + 3 * line as usize;
    stream.part_mut(range.clone()).ok_or("a part inside was refused")?.fill(0x77);
    let stream = stream.for_device();
    // 5000 is in the middle of a line: one more is touched.
    let lines = before + Lines { inner: 4, outer: 4 * outer };
    ensure_eq!(stream.effort().lines(), lines, "lines of the hand-over");
    let seen = device_reads(kernel, stream.bus(), 4 * FRAME_SIZE as usize)?;
    let right = seen.iter().enumerate().all(|(n, &byte)| byte == if range.contains(&n) { 0x77 } else { 0 });
    ensure!(right, "the device read something else than the part, and zeros");
    // SAFETY: the device is the port, and it is closed.
    drop(unsafe { stream.for_cpu() });
    Ok(())
}

fn a_large_buffer_costs_its_lines_or_those_of_whole_caches(kernel: &'static Kernel) -> Verdict {
    // The outer lines are those of the whole cache, once, not of the buffer; there are none without such a cache.
    let (outer, _) = kernel.outer.map_or((0, 0), L2c310::geometry);
    let bytes = outer.max(128 << 10);
    let mut stream = alloc(kernel, 2 * bytes)?.into_stream::<Bidirectional>();
    // What former owners of the frames left in the caches went when they were zeroed.
    let before = stream.effort().lines();
    let flushes = kernel.dma.stats().flushes;
    stream.bytes_mut().fill(0x31);
    let stream = stream.for_device();
    let inner = u64::from(2 * bytes / kernel.machine.caches().smallest_line());
    let outer = u64::from(outer / 32);
    let all = kernel.machine.flush_lines().map(u64::from);
    // Whole caches are emptied once, and leave nothing to invalidate. Otherwise there are two passes by address.
    let (clean, invalidate) = match all.filter(|all| inner >= FLUSH_FROM * all) {
        Some(all) => (Lines { inner: all - outer, outer }, Lines::default()),
        None => (Lines { inner, outer }, Lines { inner, outer }),
    };
    let flushed = u64::from(invalidate == Lines::default());
    ensure_eq!(stream.effort().lines(), before + clean, "lines of the clean");
    ensure_eq!(kernel.dma.stats().flushes, flushes + flushed, "times that whole caches were emptied");
    let seen = device_reads(kernel, stream.bus(), 2 * bytes as usize)?;
    ensure!(seen.iter().all(|&byte| byte == 0x31), "the device read something else");
    // SAFETY: the device is the port, and it is closed.
    let stream = unsafe { stream.for_cpu() };
    ensure!(stream.bytes().iter().all(|&byte| byte == 0x31), "the CPU read something else");
    ensure_eq!(stream.effort().lines(), before + clean + invalidate, "lines of clean and invalidate");
    Ok(())
}

fn a_pool_gives_blocks_that_a_device_reaches(kernel: &'static Kernel) -> Verdict {
    let shape = BlockShape { size: 48, align: 64, boundary: Some(FRAME_SIZE) };
    let pool = Pool::new(kernel.dma, &master(kernel), shape, 100).map_err(|error| error.to_string())?;
    let changes = kernel.dma.stats().map_changes;
    let mut blocks = Vec::new();
    for n in 0..100u8 {
        let mut block = pool.alloc().map_err(|error| error.to_string())?;
        block.write_at(0, &[n; 48]);
        blocks.push(block);
    }
    ensure!(pool.alloc().is_err(), "a block more than the pool has");
    ensure_eq!(kernel.dma.stats().map_changes, changes, "map changes, as blocks are taken");
    for (n, block) in blocks.into_iter().enumerate() {
        block.device_barrier();
        ensure!(block.bus().is_aligned(64), "a block at {}", block.bus());
        ensure_eq!(device_reads(kernel, block.bus(), 48)?, vec![n as u8; 48], "what the device reads in block {n}");
        // SAFETY: the device is the port, and it is closed.
        unsafe { block.free() };
    }
    ensure!(pool.destroy().is_ok(), "a block was out");
    Ok(())
}

fn a_table_hands_over_all_its_streams(kernel: &'static Kernel) -> Verdict {
    let sizes = [FRAME_SIZE, 3 * FRAME_SIZE - 100, 40_000];
    let mut streams = Vec::new();
    for (n, &bytes) in sizes.iter().enumerate() {
        let mut stream = alloc(kernel, bytes)?.into_stream::<ToDevice>();
        stream.bytes_mut().fill(n as u8 + 1);
        streams.push(stream);
    }
    let table = ScatterTable::new(streams).for_device();
    let master = master(kernel);
    let mut seen = Vec::new();
    for segment in table.segments(&master).map_err(|error| error.to_string())? {
        // A segment may go over several buffers, which the port opens one at a time.
        let mut at = segment.bus;
        let mut left = segment.bytes;
        while left > 0 {
            let step = left.min(FRAME_SIZE - at.raw() % FRAME_SIZE);
            seen.extend(device_reads(kernel, at, step as usize)?);
            left -= step;
            at = at.checked_add(step).ok_or("past the end")?;
        }
    }
    let wanted: Vec<u8> = sizes.iter().enumerate().flat_map(|(n, &bytes)| vec![n as u8 + 1; bytes as usize]).collect();
    ensure!(seen == wanted, "the device read something else, or in another order");
    // SAFETY: the device is the port, and it is closed.
    drop(unsafe { table.for_cpu() });
    Ok(())
}

fn who_holds_what_is_told(kernel: &'static Kernel) -> Verdict {
    let stream = alloc(kernel, 1000)?.into_stream::<FromDevice>().for_device();
    let row = kernel.dma.retire(&master(kernel)).err().map(|leak| leak.to_string()).unwrap_or_default();
    ensure!(row.contains("test-master") && row.contains("device-owned"), "the leak report reads: {row}");
    // SAFETY: there is no such device.
    drop(unsafe { stream.for_cpu() });
    ensure!(kernel.dma.retire(&master(kernel)).is_ok(), "a leak where there is none");
    let zeroed = kernel.dma.stats().zeroed;
    let only = alloc(kernel, FRAME_SIZE)?.into_device();
    ensure_eq!(kernel.dma.stats().zeroed, zeroed + u64::from(FRAME_SIZE), "bytes zeroed");
    drop(only);
    ensure_eq!(format!("{}", kernel.dma.holders()).lines().count(), 2, "lines of an empty table");
    Ok(())
}
