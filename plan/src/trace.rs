//! A recorded run, replayed in areas of many sizes.
//!
//! Guarantees: each allocator gets the same run, and the alignment that it would get of its own kernel. A buffer whose
//! allocation was refused is not freed. No area is called large enough in which anything was refused.
//!
//! A run is a text of lines. `alloc,ID,BYTES` or `alloc,ID,BYTES,ALIGN` asks for a buffer, `free,ID` gives it back. An
//! empty line and one that begins with `#` say nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::ops::Range;
use std::rc::Rc;

use carveout::cma::{Index, Node};
use peers::{Buddy, CMA_ALIGNMENT, FirstFit, Owned, Runs, Segregated};
use serde_json::{Value, json};

use crate::errors::{Fault, Result, Source};
use crate::input::size;
use crate::problem::{FRAME, frames};

/// The areas that are tried are so many parts of the most that was held larger, each than the one before.
const STEPS: u32 = 64;
/// No area is tried that is so many times larger than the most that was held.
const MOST: u32 = 8;
/// The points of a curve.
const POINTS: u32 = 10;
/// The most frames of a buffer and of all: 1 GiB.
const MOST_FRAMES: u64 = 1 << 18;
/// From so many frames on, the kernel would like an order of 64 KiB.
const LIKED: (u32, u8) = (16, 4);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Alloc { buffer: usize, frames: u32, order: u8 },
    Free { buffer: usize },
}

/// A recorded run.
#[derive(Clone, Debug)]
pub struct Trace {
    steps: Vec<Step>,
    buffers: usize,
    /// For each shape, (bytes, alignment), the most that were held at a time.
    shapes: BTreeMap<Shape, u32>,
    /// Shapes of which buffers were held at one time.
    together: BTreeSet<[Shape; 2]>,
    /// The most frames that were held at a time.
    peak: u32,
}

/// Bytes and alignment of a buffer.
type Shape = (u64, u64);

impl Trace {
    /// Reads a run.
    ///
    /// # Errors
    ///
    /// A fault at the first line that says nothing, or what cannot be.
    pub fn read(source: &Rc<Source>) -> Result<Self> {
        let mut trace =
            Self { steps: Vec::new(), buffers: 0, shapes: BTreeMap::new(), together: BTreeSet::new(), peak: 0 };
        let mut live: HashMap<&str, (usize, u32, Shape)> = HashMap::new();
        let mut held: BTreeMap<Shape, u32> = BTreeMap::new();
        let (mut all, mut at) = (0_u64, 0);
        for line in source.text.split_inclusive('\n') {
            let (start, text) = (at, line.trim());
            at += line.len();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let span = start..start + line.trim_end().len();
            let fault = |what: String| source.fault(span.clone(), what);
            let words: Vec<&str> = text.split(',').map(str::trim).collect();
            match words[..] {
                ["free", id] => {
                    let (buffer, frames, shape) = live.remove(id).ok_or_else(|| {
                        fault(format!("buffer {id} is not held")).help("a buffer is freed once, after its alloc")
                    })?;
                    all -= u64::from(frames);
                    held.entry(shape).and_modify(|count| *count -= 1);
                    trace.steps.push(Step::Free { buffer });
                }
                ["alloc", id, bytes, ref align @ ..] if align.len() < 2 => {
                    let shape = shape(bytes, align.first().copied())
                        .map_err(|what| fault(what).help("as in alloc,7,614400,4096"))?;
                    let frames = shape.0.div_ceil(u64::from(FRAME));
                    all += frames;
                    if all > MOST_FRAMES {
                        return Err(fault("more than 1 GiB is held at a time".to_owned()));
                    }
                    let buffer = trace.buffers;
                    if live.insert(id, (buffer, frames as u32, shape)).is_some() {
                        return Err(fault(format!("buffer {id} is held already"))
                            .help("each buffer that is held has an ID of its own"));
                    }
                    let count = held.entry(shape).or_default();
                    *count += 1;
                    let count = *count;
                    let beside = held.iter().filter(|&(_, &count)| count > 0);
                    trace.together.extend(beside.map(|(&other, _)| [shape.min(other), shape.max(other)]));
                    let most = trace.shapes.entry(shape).or_default();
                    *most = (*most).max(count);
                    trace.peak = trace.peak.max(all as u32);
                    trace.buffers += 1;
                    let order = (shape.1.trailing_zeros().max(12) - 12) as u8;
                    trace.steps.push(Step::Alloc { buffer, frames: frames as u32, order });
                }
                _ => {
                    return Err(fault("this is no step of a run".to_owned())
                        .help("alloc,ID,BYTES or alloc,ID,BYTES,ALIGN or free,ID"));
                }
            }
        }
        if trace.buffers == 0 {
            return Err(
                Fault::new(format!("{} allocates nothing", source.name)).help("lines of alloc,ID,BYTES and free,ID")
            );
        }
        Ok(trace)
    }
}

/// Returns bytes and alignment, or what is wrong with them.
fn shape(bytes: &str, align: Option<&str>) -> std::result::Result<(u64, u64), String> {
    let read = size(bytes).filter(|&bytes| bytes > 0 && bytes <= MOST_FRAMES * u64::from(FRAME));
    let read = read.ok_or_else(|| format!("{bytes:?} is no size of a buffer: 1 byte to 1 GiB"))?;
    let align = align.unwrap_or("4096");
    let most = u64::from(carveout::dma::MAX_ALIGN);
    let power = size(align).filter(|&align| align.is_power_of_two() && align <= most);
    let power = power.ok_or_else(|| format!("{align:?} is no alignment: a power of two, 16 MiB at most"))?;
    Ok((read, power.max(u64::from(FRAME))))
}

/// This kernel's index of free runs, with its choice of alignment.
struct Runs32(Index<'static>);

impl Runs for Runs32 {
    fn alloc(&mut self, count: u32, order: u8) -> Option<usize> {
        let liked = if count >= LIKED.0 { order.max(LIKED.1) } else { order };
        let found = self.0.alloc(count, liked, 0..u32::MAX).or_else(|| self.0.alloc(count, order, 0..u32::MAX));
        found.map(|at| at as usize)
    }

    fn free(&mut self, at: usize, count: u32, _: u8) {
        self.0.free(at as u32, count).expect("frames that were allocated");
    }
}

/// The allocators.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Ours,
    FirstFit,
    Buddy,
    Tlsf,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Ours, "carveout"),
    (Kind::FirstFit, "Linux CMA, first fit"),
    (Kind::Buddy, "buddies"),
    (Kind::Tlsf, "TLSF"),
];

impl Kind {
    fn fresh(self, count: u32) -> Option<Box<dyn Runs>> {
        Some(match self {
            Self::Ours => {
                let nodes = vec![Node::EMPTY; Index::nodes_needed(0, count)?];
                Box::new(Runs32(Index::new(0, count, nodes.leak()).ok()?))
            }
            Self::FirstFit => Box::new(FirstFit::new(count, 0, false)),
            Self::Buddy => Box::new(Owned::<Buddy>::buddy(count)?),
            Self::Tlsf => Box::new(Owned::<Segregated>::segregated(count)?),
        })
    }

    /// Returns the alignment that its own kernel would ask for.
    fn order(self, count: u32, order: u8) -> u8 {
        if self == Self::FirstFit { order.max(peers::order(count, CMA_ALIGNMENT)) } else { order }
    }

    /// Returns how many allocations are refused in an area of so many frames. Tells `each` the buffers that are held
    /// after each step, and where.
    fn refused(self, trace: &Trace, area: u32, mut each: impl FnMut(&[Option<(usize, u32, u8)>])) -> Option<u32> {
        let mut runs = self.fresh(area)?;
        let mut held = vec![None; trace.buffers];
        let mut refused = 0;
        for step in &trace.steps {
            match *step {
                Step::Alloc { buffer, frames, order } => {
                    let order = self.order(frames, order);
                    held[buffer] = runs.alloc(frames, order).map(|at| (at, frames, order));
                    refused += u32::from(held[buffer].is_none());
                }
                Step::Free { buffer } => {
                    if let Some((at, frames, order)) = held[buffer].take() {
                        runs.free(at, frames, order);
                    }
                }
            }
            each(&held);
        }
        Some(refused)
    }
}

/// What an allocator needs and refuses.
#[derive(Clone, Debug)]
pub struct Need {
    /// The allocator.
    pub name: &'static str,
    /// The frames of the smallest area, of those that were tried, in which nothing was refused.
    pub smallest: Option<u32>,
    /// Refusals in areas of each size of [`Replay::sizes`].
    pub refused: Vec<u32>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The most frames that were held at a time: no area can be smaller.
    pub peak: u32,
    /// The allocations.
    pub allocations: u32,
    /// The frames between two areas that were tried.
    pub step: u32,
    /// The sizes of the curve, in frames.
    pub sizes: Vec<u32>,
    /// Each allocator, this one first.
    pub needs: Vec<Need>,
    /// For points in time, of this allocator in its smallest area: steps done, free frames, frames of the largest run.
    pub over_time: Vec<(usize, u32, u32)>,
    /// Sets of contracts that would serve the run: count, bytes, alignment.
    pub contracts: Vec<(u32, u64, u64)>,
    /// Of those, by their numbers, two that were never held at one time.
    pub apart: Vec<[usize; 2]>,
}

/// Replays a run.
pub fn replay(trace: &Trace) -> Replay {
    let step = trace.peak.div_ceil(STEPS);
    let sizes: Vec<u32> = (0..=POINTS).map(|n| (trace.peak / 2 + trace.peak / POINTS * n).max(1)).collect();
    let needs: Vec<Need> = KINDS
        .iter()
        .map(|&(kind, name)| {
            let mut areas = (0..=STEPS * (MOST - 1)).map(|n| trace.peak + n * step);
            let smallest = areas.find(|&area| kind.refused(trace, area, |_| ()) == Some(0));
            let refused = sizes.iter().map(|&area| kind.refused(trace, area, |_| ()).unwrap_or(u32::MAX)).collect();
            Need { name, smallest, refused }
        })
        .collect();
    let mut over_time = Vec::new();
    if let Some(area) = needs.first().and_then(|need| need.smallest) {
        let every = trace.steps.len().div_ceil(POINTS as usize);
        let mut done = 0;
        Kind::Ours.refused(trace, area, |held| {
            done += 1;
            if done % every == 0 {
                let (free, largest) = free_of(held, area);
                over_time.push((done, free, largest));
            }
        });
    }
    let shapes: Vec<(Shape, u32)> = trace.shapes.iter().rev().map(|(&shape, &count)| (shape, count)).collect();
    let pairs = (0..shapes.len()).flat_map(|a| (a + 1..shapes.len()).map(move |b| [a, b]));
    let apart = pairs.filter(|&[a, b]| !trace.together.contains(&[shapes[b].0, shapes[a].0])).collect();
    Replay {
        peak: trace.peak,
        allocations: trace.buffers as u32,
        step,
        sizes,
        needs,
        over_time,
        contracts: shapes.into_iter().map(|((bytes, align), count)| (count, bytes, align)).collect(),
        apart,
    }
}

/// Returns the free frames of an area, and those of the largest run.
fn free_of(held: &[Option<(usize, u32, u8)>], area: u32) -> (u32, u32) {
    let mut taken: Vec<Range<u32>> =
        held.iter().flatten().map(|&(at, count, _)| at as u32..at as u32 + count).collect();
    taken.sort_unstable_by_key(|run| run.start);
    let (mut free, mut largest, mut at) = (0, 0, 0);
    for run in taken.into_iter().chain(std::iter::once(area..area)) {
        free += run.start - at;
        largest = largest.max(run.start - at);
        at = run.end;
    }
    (free, largest)
}

impl Replay {
    /// Returns use cases that promise what the run needed: a file for this very tool, to be refined. Shapes that were
    /// never held at one time share memory.
    pub fn suggestion(&self) -> String {
        let name = |n: usize| format!("shape-{}", n + 1);
        let pairs: Vec<_> = self.apart.iter().map(|&[a, b]| format!("    [{:?}, {:?}],\n", name(a), name(b))).collect();
        let mut out = format!("exclusive = [\n{}]\n", pairs.concat());
        out.push_str("\n[[area]]\nname = \"cma\"\n\n[[device]]\nname = \"device\"\n");
        for (n, (count, bytes, align)) in self.contracts.iter().enumerate() {
            let set =
                format!("device = \"device\", count = {count}, size = {bytes}, align = {align}, direction = \"both\"");
            let _ = write!(out, "\n[[case]]\nname = {:?}\nbuffers = [{{ {set} }}]\n", name(n));
        }
        out
    }

    /// Returns it for people to read.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{} allocations, at most {} at a time", self.allocations, frames(self.peak));
        let _ = writeln!(out, "\nthe smallest area that refuses nothing, of those tried {} apart:", frames(self.step));
        for need in &self.needs {
            let smallest = need.smallest.map_or_else(
                || format!("more than {}", frames(self.peak * MOST)),
                |smallest| {
                    format!(
                        "{}, {:.2} times the most held",
                        frames(smallest),
                        f64::from(smallest) / f64::from(self.peak)
                    )
                },
            );
            let _ = writeln!(out, "    {:<22} {smallest}", need.name);
        }
        out.push_str("\nrefused of them in an area of\n    ");
        let _ = write!(out, "{:<12}", "");
        for need in &self.needs {
            let _ = write!(out, "{:>22}", need.name);
        }
        out.push('\n');
        for (n, &size) in self.sizes.iter().enumerate() {
            let _ = write!(out, "    {:<12}", frames(size));
            for need in &self.needs {
                let _ = write!(out, "{:>22}", need.refused[n]);
            }
            out.push('\n');
        }
        out.push_str("\nover time, in carveout's smallest area: steps, free, largest run, fragmentation\n");
        for &(done, free, largest) in &self.over_time {
            let fragmentation = if free == 0 { 0.0 } else { 1.0 - f64::from(largest) / f64::from(free) };
            let _ = writeln!(out, "    {done:>8}  {:>10}  {:>10}  {fragmentation:.2}", frames(free), frames(largest));
        }
        out.push_str("\ncontracts that would serve it, whatever the order; --cases OUT writes them:\n");
        for (count, bytes, align) in &self.contracts {
            let _ = writeln!(out, "    {count:>4} x {bytes} bytes, aligned to {align}");
        }
        out
    }

    /// Returns it for programs to read.
    pub fn json(&self) -> Value {
        let byte = |frames: u32| u64::from(frames) * u64::from(FRAME);
        let needs = self.needs.iter().map(
            |need| json!({ "allocator": need.name, "smallest": need.smallest.map(byte), "refused": need.refused }),
        );
        let time = self
            .over_time
            .iter()
            .map(|&(done, free, largest)| json!({ "steps": done, "free": byte(free), "largest": byte(largest) }));
        let contracts = self
            .contracts
            .iter()
            .map(|(count, bytes, align)| json!({ "count": count, "bytes": bytes, "align": align }));
        json!({
            "allocations": self.allocations,
            "most_held": byte(self.peak),
            "step": byte(self.step),
            "sizes": self.sizes.iter().copied().map(byte).collect::<Vec<_>>(),
            "allocators": needs.collect::<Vec<_>>(),
            "over_time": time.collect::<Vec<_>>(),
            "contracts": contracts.collect::<Vec<_>>(),
            "suggestion": self.suggestion(),
        })
    }
}
