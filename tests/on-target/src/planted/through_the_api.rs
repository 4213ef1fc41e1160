//! Buffers of the DMA API in each of their states, between the CPU and the disk.

use crate::blk::{Disk, SECTOR, Transfer};
use crate::careless::Careless;
use crate::{BYTES, has_words, word};
use alloc::string::{String, ToString};
use carveout::dma::{
    Bidirectional, BlockShape, Contiguous, Cpu, Dma, FromDevice, Master, Port, StreamBlock, StreamPool, ToDevice,
};
use carveout::machine::Cache;
use on_target::{Verdict, ensure_eq};

/// The resources of the workload.
pub(crate) struct Bench<'d> {
    /// The machine.
    pub(crate) machine: &'static Careless,
    /// The area that bugs are planted in.
    pub(crate) dma: &'static Dma<Careless>,
    /// The disk as a bus master of that area.
    pub(crate) master: Master,
    /// The disk.
    pub(crate) disk: &'d mut Disk,
}

fn put(words: &mut [u32], salt: u32) {
    for (n, place) in words.iter_mut().enumerate() {
        *place = word(n, salt);
    }
}

/// The number of flushes: hand-overs of streams that the CPU wrote or looked at, and streams in whose frames former
/// owners left lines.
const FLUSHES: u64 = 5 + 2;

/// A sector and some more bytes, so that blocks end inside a line.
const PACKET: u32 = SECTOR + 16;

type Packet = StreamBlock<Careless, Bidirectional, Cpu>;

fn put_packet(packet: &mut Packet, salt: u32) {
    for (n, place) in packet.bytes_mut().as_chunks_mut().0.iter_mut().enumerate() {
        *place = word(n, salt).to_ne_bytes();
    }
}

fn packet_has(packet: &Packet, salt: u32, bytes: u32) -> Verdict {
    let words = packet.bytes()[..bytes as usize].as_chunks().0;
    has_words(words.iter().map(|&bytes| u32::from_ne_bytes(bytes)).enumerate(), salt)
}

fn has(words: &[u32], salt: u32) -> Verdict {
    has_words(words.iter().copied().enumerate(), salt)
}

impl Bench<'_> {
    fn alloc(&self) -> Result<Contiguous<Careless>, String> {
        self.dma.alloc(&self.master, BYTES, 1).map_err(|error| error.to_string())
    }

    /// Sends a stream to the disk and back. The second pass finds lines of the first.
    pub(crate) fn streams_go_there_and_back(&mut self, round: u32) -> Verdict {
        let mut source = self.alloc()?.into_stream::<ToDevice>();
        let mut target = self.alloc()?.into_stream::<FromDevice>();
        for salt in [8 * round, 8 * round + 1] {
            put(source.values_mut(), salt);
            let lent = source.for_device();
            self.disk.transfer(Transfer::Out, lent.bus(), BYTES)?;
            // SAFETY: the disk is done with it.
            source = unsafe { lent.for_cpu() };
            let lent = target.for_device();
            self.disk.transfer(Transfer::In, lent.bus(), BYTES)?;
            // SAFETY: the disk is done with it.
            target = unsafe { lent.for_cpu() };
            has(target.values(), salt)?;
        }
        Ok(())
    }

    /// Uses a stream in both directions: the device overwrites what the CPU wrote.
    pub(crate) fn a_stream_goes_both_ways(&mut self, round: u32) -> Verdict {
        let (first, second) = (8 * round + 2, 8 * round + 3);
        let mut stream = self.alloc()?.into_stream::<Bidirectional>();
        put(stream.values_mut(), first);
        let lent = stream.for_device();
        self.disk.transfer(Transfer::Out, lent.bus(), BYTES)?;
        // SAFETY: the disk is done with it.
        stream = unsafe { lent.for_cpu() };
        has(stream.values(), first)?;
        put(stream.values_mut(), second);
        let lent = stream.for_device();
        self.disk.transfer(Transfer::In, lent.bus(), BYTES)?;
        // SAFETY: the disk is done with it.
        stream = unsafe { lent.for_cpu() };
        has(stream.values(), first)
    }

    /// Runs streams on a machine that empties whole caches for them.
    pub(crate) fn whole_caches_are_emptied(&mut self, round: u32) -> Verdict {
        self.machine.by_flush.set(true);
        let before = self.dma.stats().flushes;
        self.streams_go_there_and_back(round)?;
        self.a_stream_goes_both_ways(round + 1)?;
        let flushes = self.dma.stats().flushes - before;
        let due = if self.machine.flush_lines().is_some() { FLUSHES } else { 0 };
        self.machine.by_flush.set(false);
        ensure_eq!(flushes, due, "whole caches emptied");
        Ok(())
    }

    /// Uses a coherent buffer, whatever its frames were before.
    pub(crate) fn coherent_memory_is_one_for_both(&mut self, round: u32) -> Verdict {
        let (first, second) = (8 * round + 4, 8 * round + 5);
        let mut buffer = self.alloc()?.into_coherent();
        let words = 0..buffer.len() / size_of::<u32>();
        words.clone().for_each(|n| buffer.write_word(4 * n, word(n, first)));
        self.disk.transfer(Transfer::Out, buffer.bus(), BYTES)?;
        words.clone().for_each(|n| buffer.write_word(4 * n, word(n, second)));
        self.disk.transfer(Transfer::In, buffer.bus(), BYTES)?;
        has_words(words.map(|n| (n, buffer.read_word(4 * n))), first)?;
        // SAFETY: the disk is done with it.
        drop(unsafe { buffer.release() });
        Ok(())
    }

    /// Reads and writes a stream by a port, as the mock devices do.
    pub(crate) fn the_cpu_may_play_a_device(&mut self, round: u32) -> Verdict {
        let (first, second) = (8 * round + 6, 8 * round + 7);
        // SAFETY: the port is closed before the buffer changes hands.
        let port = unsafe { Port::new(self.dma, self.master.clone()) };
        let mut stream = self.alloc()?.into_stream::<Bidirectional>();
        put(stream.values_mut(), first);
        let lent = stream.for_device();
        self.machine.at_port.set(true);
        let mut open = port.open(lent.bus(), BYTES).map_err(|error| error.to_string())?;
        self.machine.at_port.set(false);
        for (n, bytes) in open.bytes_mut().chunks_exact_mut(size_of::<u32>()).enumerate() {
            has_words(core::iter::once((n, u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))), first)?;
            bytes.copy_from_slice(&word(n, second).to_le_bytes());
        }
        drop(open);
        // SAFETY: the port is closed.
        stream = unsafe { lent.for_cpu() };
        has(stream.values(), second)
    }

    /// Has the disk read and write one block of a pool, while the CPU writes the block before it.
    pub(crate) fn packets_share_a_page(&mut self, round: u32) -> Verdict {
        self.machine.at_pool.set(true);
        let shape = BlockShape { size: PACKET, align: 4, boundary: None };
        let pool = StreamPool::<_, Bidirectional>::new(self.dma, &self.master, shape, 2).map_err(|e| e.to_string())?;
        let mut neighbour = pool.alloc().map_err(|error| error.to_string())?;
        let mut packet = pool.alloc().map_err(|error| error.to_string())?;
        for salt in [8 * round, 8 * round + 1] {
            put_packet(&mut packet, salt);
            let lent = packet.for_device();
            self.disk.prepare(Transfer::Out, lent.bus(), SECTOR);
            self.disk.go();
            put_packet(&mut neighbour, !salt);
            self.disk.wait()?;
            // SAFETY: the disk is done with it.
            packet = unsafe { lent.for_cpu() };
            packet_has(&packet, salt, PACKET)?;
            // What the device writes goes over what the CPU wrote.
            put_packet(&mut packet, !salt);
            let lent = packet.for_device();
            self.disk.prepare(Transfer::In, lent.bus(), SECTOR);
            self.disk.go();
            put_packet(&mut neighbour, salt);
            self.disk.wait()?;
            // SAFETY: the disk has finished with the block, and wrote a sector.
            packet = unsafe { lent.for_cpu_part(0..SECTOR as usize) };
            packet_has(&packet, salt, SECTOR)?;
            packet_has(&neighbour, salt, PACKET)?;
        }
        self.machine.at_pool.set(false);
        Ok(())
    }
}
