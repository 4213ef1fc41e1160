//! Makes a trace of a run's events, in the format that Chrome's tracing and Perfetto (ui.perfetto.dev) open.
//!
//! Guarantees: each span that begins ends, and times do not go back. What the rings lost is said, and no span is made of
//! an end whose beginning is lost.
//!
//! The tracks: each core with what happened on it; each device with the buffers that it has; each buffer with its life;
//! each area with the memory that buffers hold and that is lent, as counters.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::failure::{Context, Failure, Result};

/// The processes of the trace: groups of tracks.
const CORES: u32 = 1;
const DEVICES: u32 = 2;
const BUFFERS: u32 = 3;
const AREAS: u32 = 4;

const FRAME: u64 = 4096;
/// The place of `Holder::Device` among the holders of the module.
const DEVICE: u32 = 2;

/// The first line of a record.
const FIRST: &str = "carveout-events 1";

/// What a line of the record says.
struct Event<'r> {
    core: u32,
    nanos: u64,
    kind: &'r str,
    detail: u32,
    buffer: u32,
    first: u32,
    amount: u32,
    master: &'r str,
}

/// Frames of an area.
struct Range<'r> {
    first: u32,
    count: u32,
    area: &'r str,
}

#[derive(Default)]
struct Record<'r> {
    ranges: Vec<Range<'r>>,
    events: Vec<Event<'r>>,
    lost: Vec<(u32, u32)>,
}

/// Reads a record, and writes the trace of it.
pub(crate) fn write(record: &Path, trace: &Path) -> Result<()> {
    let text = fs::read_to_string(record).doing("the record of the run, which the kernel writes at its end")?;
    let made = trace_of(&parse(&text)?);
    fs::write(trace, made.to_string()).doing(trace.display())
}

fn parse(text: &str) -> Result<Record<'_>> {
    let mut lines = text.lines();
    if lines.next() != Some(FIRST) {
        return Err(Failure::new(format!("the record does not begin with '{FIRST}'")));
    }
    let mut record = Record::default();
    for (n, line) in lines.enumerate() {
        let wrong = || Failure::new(format!("line {} of the record is none of its lines: {line}", n + 2));
        match line.split(' ').next() {
            Some("area") => record.ranges.push(range(line).ok_or_else(wrong)?),
            Some("lost") => record.lost.push(lost(line).ok_or_else(wrong)?),
            Some("event") => record.events.push(event(line).ok_or_else(wrong)?),
            _ => return Err(wrong()),
        }
    }
    // Cores take turns in one order. Of one core's, the order is the record's.
    record.events.sort_by_key(|event| event.nanos);
    Ok(record)
}

fn number<T: std::str::FromStr>(word: Option<&str>) -> Option<T> {
    word?.parse().ok()
}

fn range(line: &str) -> Option<Range<'_>> {
    let mut words = line.splitn(4, ' ').skip(1);
    Some(Range { first: number(words.next())?, count: number(words.next())?, area: words.next()? })
}

fn lost(line: &str) -> Option<(u32, u32)> {
    let mut words = line.split(' ').skip(1);
    Some((number(words.next())?, number(words.next())?))
}

fn event(line: &str) -> Option<Event<'_>> {
    let mut words = line.splitn(9, ' ').skip(1);
    Some(Event {
        core: number(words.next())?,
        nanos: number(words.next())?,
        kind: words.next()?,
        detail: number(words.next())?,
        buffer: number(words.next())?,
        first: number(words.next())?,
        amount: number(words.next())?,
        master: words.next().unwrap_or(""),
    })
}

/// A buffer that lives.
struct Life {
    name: String,
    master: String,
    area: Option<usize>,
    bytes: u64,
    /// Whether the device has it.
    lent: bool,
}

/// The trace as it grows.
struct Trace<'r> {
    record: &'r Record<'r>,
    out: Vec<Value>,
    lives: BTreeMap<u32, Life>,
    /// Bytes of each area that buffers hold, by the area's name.
    held: BTreeMap<&'r str, u64>,
    /// The frames that are lent.
    lent: BTreeSet<u32>,
    /// When the record has all of every core.
    whole: bool,
}

fn trace_of(record: &Record<'_>) -> Value {
    let whole = record.lost.is_empty();
    let mut trace =
        Trace { record, out: Vec::new(), lives: BTreeMap::new(), held: BTreeMap::new(), lent: BTreeSet::new(), whole };
    for (process, name) in [(CORES, "cores"), (DEVICES, "devices"), (BUFFERS, "buffers"), (AREAS, "areas")] {
        trace.out.push(json!({"ph": "M", "pid": process, "name": "process_name", "args": {"name": name}}));
    }
    let cores: BTreeSet<u32> = record.events.iter().map(|event| event.core).collect();
    for core in cores {
        let args = json!({"name": format!("core {core}")});
        trace.out.push(json!({"ph": "M", "pid": CORES, "tid": core, "name": "thread_name", "args": args}));
    }
    for event in &record.events {
        trace.add(event);
    }
    let end = record.events.last().map_or(0, |event| event.nanos);
    for (buffer, life) in std::mem::take(&mut trace.lives) {
        trace.end(buffer, &life, end);
    }
    let lost: BTreeMap<String, u32> = record.lost.iter().map(|(core, lost)| (format!("core {core}"), *lost)).collect();
    json!({"displayTimeUnit": "ns", "otherData": {"lost events": lost}, "traceEvents": trace.out})
}

/// Returns a time in the unit of the format: microseconds.
fn micros(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64() * 1e6
}

impl Trace<'_> {
    fn add(&mut self, event: &Event<'_>) {
        let Event { core, nanos, kind, detail, buffer, first, amount, master } = *event;
        let mut args = json!({"amount": amount, "detail": detail});
        if let Some(life) = self.lives.get(&buffer).filter(|_| kind != "move") {
            args["buffer"] = json!(life.name);
        }
        if !master.is_empty() {
            args["master"] = json!(master);
        }
        self.out.push(
            json!({"ph": "i", "s": "t", "pid": CORES, "tid": core, "ts": micros(nanos), "name": kind, "args": args}),
        );
        match kind {
            "alloc" => self.begin(event),
            "hold" => self.hold(buffer, nanos, detail == DEVICE),
            "free" => {
                if let Some(life) = self.lives.remove(&buffer) {
                    self.end(buffer, &life, nanos);
                    self.count(life.area, nanos, |held| held.saturating_sub(life.bytes));
                }
            }
            "loan" => self.lend(nanos, first..first + amount, true),
            "recall" | "give-back" => self.lend(nanos, first..first + amount, false),
            // In place of the buffer stands the frame that the first one moved to, or 0 for memory of no area.
            "move" => {
                self.lend(nanos, first..first + amount, false);
                if buffer != 0 {
                    self.lend(nanos, buffer..buffer + amount, true);
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, event: &Event<'_>) {
        let bytes = u64::from(event.amount) * FRAME;
        let master = if event.master.is_empty() { format!("master {}", event.detail) } else { event.master.to_owned() };
        let name = format!("{master} #{}, {} KiB", event.buffer, bytes >> 10);
        let area = self.area(event.first);
        self.span("b", BUFFERS, event.buffer, &name, event.nanos);
        self.count(area, event.nanos, |held| held + bytes);
        self.lives.insert(event.buffer, Life { name, master, area, bytes, lent: false });
    }

    fn hold(&mut self, buffer: u32, nanos: u64, device: bool) {
        let Some(life) = self.lives.get_mut(&buffer) else { return };
        if life.lent != device {
            life.lent = device;
            let name = life.master.clone();
            self.span(if device { "b" } else { "e" }, DEVICES, buffer, &name, nanos);
        }
    }

    fn end(&mut self, buffer: u32, life: &Life, nanos: u64) {
        if life.lent {
            self.span("e", DEVICES, buffer, &life.master, nanos);
        }
        self.span("e", BUFFERS, buffer, &life.name, nanos);
    }

    /// Begins (`b`) or ends (`e`) a span of a buffer's.
    fn span(&mut self, phase: &str, process: u32, buffer: u32, name: &str, nanos: u64) {
        let category = if process == DEVICES { "device" } else { "buffer" };
        self.out.push(json!({"ph": phase, "pid": process, "tid": 0, "cat": category, "id": buffer, "name": name, "ts": micros(nanos)}));
    }

    /// Returns the place of the range that has a frame.
    fn area(&self, frame: u32) -> Option<usize> {
        self.record.ranges.iter().position(|range| (range.first..range.first + range.count).contains(&frame))
    }

    /// Takes note that frames are lent, or no longer.
    fn lend(&mut self, nanos: u64, frames: std::ops::Range<u32>, lent: bool) {
        let area = self.area(frames.start);
        if lent {
            self.lent.extend(frames);
        } else {
            self.lent.retain(|frame| !frames.contains(frame));
        }
        self.count(area, nanos, |held| held);
    }

    /// Counts what buffers hold of an area, and what is lent of it. Without the first events nobody knows.
    fn count(&mut self, area: Option<usize>, nanos: u64, change: impl FnOnce(u64) -> u64) {
        let Some(area) = area.filter(|_| self.whole).map(|area| self.record.ranges[area].area) else { return };
        let held = self.held.entry(area).or_default();
        *held = change(*held);
        let ranges = self.record.ranges.iter().filter(|range| range.area == area);
        let lent: u64 =
            ranges.map(|range| self.lent.range(range.first..range.first + range.count).count() as u64).sum();
        let args = json!({"held by buffers, KiB": *held >> 10, "lent, KiB": (lent * FRAME) >> 10});
        self.out.push(json!({"ph": "C", "pid": AREAS, "name": area, "ts": micros(nanos), "args": args}));
    }
}

/// Returns what is wrong with a trace: spans that do not end, times that go back, counters that end at no memory held.
pub(crate) fn faults(trace: &Value) -> Vec<String> {
    let Some(events) = trace["traceEvents"].as_array() else { return vec!["it has no traceEvents".to_owned()] };
    let (mut open, mut last, mut wrong) = (BTreeMap::new(), 0.0, Vec::new());
    for event in events.iter().filter(|event| event["ph"] != "M") {
        let time = event["ts"].as_f64().unwrap_or(-1.0);
        if time < last {
            wrong.push(format!("the time goes back: {event}"));
        }
        last = time;
        let key = (event["pid"].as_u64(), event["id"].as_u64());
        let began = match event["ph"].as_str() {
            Some("b") => open.insert(key, event["name"].clone()).is_none(),
            Some("e") => open.remove(&key).as_ref() == Some(&event["name"]),
            Some("i" | "C") => true,
            _ => false,
        };
        if !began {
            wrong.push(format!("it does not match what began: {event}"));
        }
    }
    wrong.extend(open.values().map(|name| format!("it does not end: {name}")));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "carveout-events 1
area 100 16 pool
event 0 1000 alloc 7 3 102 2 camera
event 0 2000 map 0 0 102 2
event 0 3000 hold 2 3 0 0
event 1 2500 refusal 7 0 0 9000000 camera
event 0 4500 hold 1 3 0 0
event 0 5000 alloc 9 4 104 1
event 0 6000 free 0 3 102 2
event 0 7000 hold 2 4 0 0
";

    fn of(trace: &Value, phase: &str, process: u32) -> Vec<(f64, String)> {
        let all = trace["traceEvents"].as_array().unwrap().iter();
        let is = |event: &&Value| event["ph"] == phase && event["pid"] == process;
        all.filter(is)
            .map(|event| (event["ts"].as_f64().unwrap(), event["name"].as_str().unwrap().to_owned()))
            .collect()
    }

    #[test]
    fn a_trace_has_a_track_for_each_core_device_buffer_and_area() {
        let trace = trace_of(&parse(RECORD).unwrap());
        assert_eq!(faults(&trace), [""; 0]);
        assert_eq!(of(&trace, "i", CORES).len(), 8);
        assert_eq!(of(&trace, "i", CORES)[2], (2.5, "refusal".to_owned()), "in the order of time");
        let spans = |phase, process| of(&trace, phase, process);
        assert_eq!(spans("b", DEVICES), [(3.0, "camera".to_owned()), (7.0, "master 9".to_owned())]);
        assert_eq!(spans("e", DEVICES), [(4.5, "camera".to_owned()), (7.0, "master 9".to_owned())], "to the end");
        assert_eq!(spans("b", BUFFERS)[0], (1.0, "camera #3, 8 KiB".to_owned()));
        assert_eq!(spans("e", BUFFERS)[0], (6.0, "camera #3, 8 KiB".to_owned()));
        let held: Vec<_> = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "C").collect();
        let held: Vec<_> = held.iter().map(|event| event["args"]["held by buffers, KiB"].as_u64().unwrap()).collect();
        assert_eq!(held, [8, 12, 4]);
    }

    #[test]
    fn what_is_lent_is_counted_until_it_is_recalled_moved_or_given_back() {
        let record = "carveout-events 1
area 100 16 pool
event 0 10 loan 0 0 100 8
event 0 20 recall 0 0 100 2
event 0 30 move 0 110 100 2
event 0 40 move 0 0 110 1
event 0 50 give-back 0 0 102 6
event 0 60 give-back 0 0 111 1
";
        let trace = trace_of(&parse(record).unwrap());
        assert_eq!(faults(&trace), [""; 0]);
        let all = trace["traceEvents"].as_array().unwrap().iter();
        let lent: Vec<_> = all.filter_map(|event| event["args"]["lent, KiB"].as_u64()).collect();
        // A move ends a loan and begins another one.
        assert_eq!(lent, [32, 24, 24, 32, 28, 4, 0]);
    }

    #[test]
    fn what_the_rings_lost_is_said_and_makes_no_span() {
        let record =
            "carveout-events 1\narea 100 16 pool\nlost 0 12\nevent 0 10 hold 2 3 0 0\nevent 0 20 free 0 3 102 2\n";
        let trace = trace_of(&parse(record).unwrap());
        assert_eq!(faults(&trace), [""; 0]);
        assert_eq!(trace["otherData"]["lost events"]["core 0"], 12);
        assert!(of(&trace, "b", DEVICES).is_empty() && of(&trace, "C", AREAS).is_empty());
    }

    #[test]
    fn faults_are_found() {
        let trace = |events: Value| faults(&json!({"traceEvents": events}));
        let span = |phase: &str, ts: u32| json!({"ph": phase, "pid": 3, "id": 1, "name": "x", "ts": ts});
        assert!(trace(json!([span("b", 1), span("e", 2)])).is_empty());
        assert_eq!(trace(json!([span("b", 1)])), ["it does not end: \"x\""]);
        assert_eq!(trace(json!([span("e", 1)])).len(), 1);
        assert_eq!(trace(json!([span("b", 2), span("e", 1)])).len(), 1, "back in time");
        assert_eq!(faults(&json!({})), ["it has no traceEvents"]);
    }

    #[test]
    fn a_record_that_is_none_is_refused() {
        let refused = |text: &str| parse(text).err().unwrap().to_string();
        assert_eq!(refused("hello"), "the record does not begin with 'carveout-events 1'");
        assert_eq!(
            refused("carveout-events 1\nevent 0 x alloc"),
            "line 2 of the record is none of its lines: event 0 x alloc"
        );
    }
}
