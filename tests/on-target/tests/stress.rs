//! Random allocations, hand-overs, writes and frees against a model of who owns what and what is in it.
//!
//! The model knows of each buffer its size, its frames, its state and its contents; every step that looks at a buffer
//! compares, and the audit runs every 100 steps.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use carveout::addr::{FRAME_SIZE, Frame, FrameRange, SECTION_SIZE};
use carveout::dma::{
    AllocError, AreaId, Bidirectional, Coherent, Contiguous, Cpu, Device, DeviceOnly, FaultPlace, NoRun, Port, Stream,
};
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::demo::random::Random;
use carveout_boards::kernel::state::Kernel;
use carveout_boards::println;
use on_target::{Verdict, audit, checks, ensure, ensure_eq, master};

checks![random_steps_agree_with_the_model];

/// For each seed, where no boot argument `walk=N` says how many.
const STEPS: u32 = 2000;
const AUDIT_EVERY: u32 = 100;
/// Any will do but 0; the same ones make the same runs.
const SEEDS: [u32; 4] = [1, 0x2026, 0xc0ff_ee00, 0x9e37_79b9];

/// Words between those that are compared: none of a page's first and last is left out.
const STRIDE: usize = 31;

/// Word `n` of contents number `tag`; contents number 0 are zeros.
const fn word(tag: u32, n: usize) -> u32 {
    if tag == 0 { 0 } else { (n as u32).wrapping_mul(0x9e37_79b9) ^ tag }
}

fn places(bytes: usize) -> impl Iterator<Item = usize> {
    let page = FRAME_SIZE as usize / 4;
    let looked_at = move |n: &usize| n.is_multiple_of(STRIDE) || n.is_multiple_of(page) || n % page == page - 1;
    (0..bytes / 4).filter(looked_at)
}

fn fill(bytes: &mut [u8], tag: u32) {
    for (n, place) in bytes.chunks_exact_mut(4).enumerate() {
        place.copy_from_slice(&word(tag, n).to_le_bytes());
    }
}

fn compare(bytes: &[u8], tag: u32) -> Verdict {
    for n in places(bytes.len()) {
        let found = u32::from_le_bytes([bytes[4 * n], bytes[4 * n + 1], bytes[4 * n + 2], bytes[4 * n + 3]]);
        ensure!(found == word(tag, n), "word {n:#x} is {found:#010x}, not {:#010x}", word(tag, n));
    }
    Ok(())
}

enum Buffer {
    Raw(Contiguous<Armv7a>),
    Cpu(Stream<Armv7a, Bidirectional, Cpu>),
    Device(Stream<Armv7a, Bidirectional, Device>),
    Only(DeviceOnly<Armv7a>),
    Coherent(Coherent<Armv7a>),
}

struct Item {
    buffer: Buffer,
    frames: FrameRange,
    bytes: u32,
    tag: u32,
}

impl Item {
    fn frames(&self) -> FrameRange {
        match &self.buffer {
            Buffer::Raw(buffer) => buffer.frames(),
            Buffer::Cpu(buffer) => buffer.frames(),
            Buffer::Device(buffer) => buffer.frames(),
            Buffer::Only(buffer) => buffer.frames(),
            Buffer::Coherent(buffer) => buffer.frames(),
        }
    }

    /// To a next state: any of the three from the first, to and fro between the stream's, back from the others.
    fn hand_over(self, random: &mut Random) -> Self {
        let Self { buffer, frames, bytes, mut tag } = self;
        let buffer = match buffer {
            Buffer::Raw(buffer) => {
                tag = 0;
                match random.below(3) {
                    0 => Buffer::Cpu(buffer.into_stream()),
                    1 => Buffer::Only(buffer.into_device()),
                    _ => Buffer::Coherent(buffer.into_coherent()),
                }
            }
            Buffer::Cpu(buffer) => Buffer::Device(buffer.for_device()),
            // SAFETY: the device is a port, and none is open between two steps.
            Buffer::Device(buffer) => Buffer::Cpu(unsafe { buffer.for_cpu() }),
            // SAFETY: as above.
            Buffer::Only(buffer) => Buffer::Raw(unsafe { buffer.release() }),
            // SAFETY: as above.
            Buffer::Coherent(buffer) => Buffer::Raw(unsafe { buffer.release() }),
        };
        Self { buffer, frames, bytes, tag }
    }

    /// Whoever owns the buffer compares its contents with the model, and then, sometimes, writes others.
    fn look(&mut self, port: &Port<Armv7a>, random: &mut Random) -> Verdict {
        let (tag, change) = (self.tag, random.below(3) > 0);
        let new = if change { random.below(u32::MAX) } else { tag };
        self.tag = new;
        let at = match &mut self.buffer {
            Buffer::Raw(_) => {
                self.tag = tag;
                return Ok(());
            }
            Buffer::Cpu(buffer) => {
                compare(buffer.bytes(), tag)?;
                if change {
                    fill(buffer.bytes_mut(), new);
                }
                return Ok(());
            }
            Buffer::Device(buffer) => buffer.bus(),
            Buffer::Only(buffer) => buffer.bus(),
            Buffer::Coherent(buffer) => {
                // The CPU looks at its ends, the device at all of it.
                for n in [0, self.bytes as usize / 4 - 1] {
                    ensure_eq!(buffer.read_word::<u32>(4 * n), word(tag, n), "word {n:#x} of the CPU's view");
                }
                buffer.bus()
            }
        };
        let mut open = port.open(at, self.bytes).map_err(|error| format!("{error}"))?;
        compare(open.bytes(), tag)?;
        if change {
            fill(open.bytes_mut(), new);
        }
        Ok(())
    }

    /// Gives the buffer back, from whatever state.
    fn free(self) {
        match self.buffer {
            Buffer::Raw(buffer) => drop(buffer),
            Buffer::Cpu(buffer) => drop(buffer),
            // SAFETY: the device is a port, and none is open between two steps.
            Buffer::Device(buffer) => drop(unsafe { buffer.for_cpu() }),
            // SAFETY: as above.
            Buffer::Only(buffer) => unsafe { buffer.give_up() },
            // SAFETY: as above.
            Buffer::Coherent(buffer) => unsafe { buffer.give_up() },
        }
    }
}

/// Mostly some pages, sometimes some hundred KiB, seldom some MiB; whole words.
fn size(random: &mut Random) -> u32 {
    let most = match random.below(20) {
        0 | 1 => 8 * SECTION_SIZE,
        2..7 => 512 << 10,
        _ => 64 << 10,
    };
    4 * (1 + random.below(most / 4))
}

/// Allocates; whether that may be refused, the model knows.
fn allocate(kernel: &'static Kernel, items: &mut Vec<Item>, free: u64, random: &mut Random) -> Result<bool, String> {
    let (bytes, align) = (size(random), 1 << random.below(18));
    let wanted = u64::from(bytes.div_ceil(FRAME_SIZE) * FRAME_SIZE);
    let buffer = match kernel.dma.alloc(&master(kernel), bytes, align) {
        Ok(buffer) => buffer,
        Err(AllocError::NoCapacity { .. }) if wanted > free => return Ok(false),
        Err(AllocError::Fragmented(NoRun { largest, .. })) if largest < wanted => return Ok(false),
        Err(error) => return Err(format!("{bytes:#x} bytes aligned to {align:#x}, {free:#x} free: {error}")),
    };
    let frames = buffer.frames();
    ensure_eq!((frames.bytes(), frames.base().raw() % align), (wanted, 0), "bytes and alignment of {frames}");
    let other = items.iter().find(|item| item.frames.overlaps(frames));
    ensure!(other.is_none(), "{frames} was given out, of which another buffer holds some");
    items.push(Item { buffer: Buffer::Raw(buffer), frames, bytes, tag: 0 });
    Ok(true)
}

fn random_steps_agree_with_the_model(kernel: &'static Kernel) -> Verdict {
    for seed in SEEDS {
        let mut items = Vec::new();
        let area = kernel.default_area().ok_or("no default area")?;
        let before = kernel.dma.free_bytes(area);
        let walked = walk(kernel, area, Random::new(seed), &mut items);
        items.into_iter().for_each(Item::free);
        walked.map_err(|why| format!("seed {seed:#x}: {why}"))?;
        ensure_eq!(
            kernel.dma.free_bytes(area),
            before,
            "seed {seed:#x}: bytes free, and in the largest run, at the end"
        );
    }
    Ok(())
}

fn walk(kernel: &'static Kernel, area: AreaId, mut random: Random, items: &mut Vec<Item>) -> Verdict {
    // SAFETY: the tests keep a device's promise: a port is closed before its buffer changes hands.
    let port = unsafe { Port::new(kernel.dma, master(kernel)) };
    let all = kernel.dma.free_bytes(area).0;
    let mut did = [0u32; 5];
    for step in 1..=on_target::walk(kernel, STEPS) {
        let free = all - items.iter().map(|item| item.frames.bytes()).sum::<u64>();
        ensure_eq!(kernel.dma.free_bytes(area).0, free, "step {step}: bytes free");
        let one = if items.is_empty() { None } else { Some(random.below(items.len() as u32) as usize) };
        let result = match (random.below(8), one) {
            (0, Some(one)) => {
                did[0] += 1;
                items.swap_remove(one).free();
                Ok(())
            }
            (1..4, _) | (_, None) => allocate(kernel, items, free, &mut random).map(|given| {
                did[if given { 1 } else { 2 }] += 1;
            }),
            (4..6, Some(one)) => {
                did[3] += 1;
                let item = items.swap_remove(one).hand_over(&mut random);
                items.push(item);
                Ok(())
            }
            (_, Some(one)) => {
                did[4] += 1;
                items[one].look(&port, &mut random)
            }
        };
        result.map_err(|why| format!("step {step}: {why}"))?;
        if step % AUDIT_EVERY == 0 {
            audit(kernel).map_err(|why| format!("step {step}: {why}"))?;
            for item in &*items {
                ensure_eq!(item.frames(), item.frames, "step {step}: a buffer's frames");
                let place = kernel.dma.place_of_frame(Frame::containing(item.frames.base()));
                let known = matches!(place, Some(FaultPlace::Buffer(record)) if record.frames == item.frames);
                ensure!(known, "step {step}: {} is {place:?}", item.frames);
            }
        }
    }
    let [freed, given, refused, handed, looked] = did;
    println!("stress: {given} given, {refused} refused, {freed} freed, {handed} handed over, {looked} looked at");
    ensure!(did.iter().all(|&times| times > 0), "a kind of step never came: {did:?}");
    Ok(())
}
