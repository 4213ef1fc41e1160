//! What the bench program counted, as a table beside Linux's figures, a CSV and plots.
//!
//! `bench-report ROWS OUT MACHINE=LOG...` reads the rows of the table and the program's output on each machine, writes
//! OUT/results.csv and OUT/*.svg, prints the table in Markdown, and ends with 1 if a figure is past its limit: the
//! budget or, where that is known to be missed, what it was.

use plotters::prelude::*;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

/// A figure's distribution over its samples; of a count, five times the count.
#[derive(Clone, Copy)]
struct Figure {
    min: u64,
    median: u64,
    p99: u64,
    max: u64,
    samples: u64,
}

/// Figures of one machine, by key.
type Figures = BTreeMap<String, Figure>;

fn read(log: &str) -> Result<Figures, Box<dyn Error>> {
    let mut figures = Figures::new();
    for line in log.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |n: usize| words[n].parse::<u64>();
        let (key, figure) = match words.as_slice() {
            ["bench", key, _, _, _, _, _] => {
                let [min, median, p99, max, samples] = [number(2)?, number(3)?, number(4)?, number(5)?, number(6)?];
                (key, Figure { min, median, p99, max, samples })
            }
            ["count", key, _] => {
                let value = number(2)?;
                (key, Figure { min: value, median: value, p99: value, max: value, samples: 1 })
            }
            _ => continue,
        };
        figures.insert((*key).to_owned(), figure);
    }
    Ok(figures)
}

/// What a row of the table shows of its figure, and how it compares.
enum Unit {
    Median,
    P99,
    /// A count that is better the larger it is.
    Least,
    /// Successes of all tries, in percent.
    Share,
}

struct Row<'r> {
    what: &'r str,
    machine: &'r str,
    key: &'r str,
    unit: Unit,
    linux: Option<f64>,
    source: &'r str,
    budget: Option<f64>,
    /// What it is known to be while it misses the budget.
    known: Option<f64>,
    floor: Option<f64>,
    floor_is: &'r str,
}

fn rows(text: &str) -> Result<Vec<Row<'_>>, Box<dyn Error>> {
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let cells: Vec<&str> = line.split(';').collect();
        let [what, machine, key, unit, linux, source, budget, known, floor, floor_is] = cells[..] else {
            return Err(format!("not a row: {line}").into());
        };
        let unit = match unit {
            "n" => Unit::Median,
            "p99" => Unit::P99,
            "least" => Unit::Least,
            "share" => Unit::Share,
            _ => return Err(format!("no such unit: {line}").into()),
        };
        let number = |cell: &str| if cell.is_empty() { Ok(None) } else { cell.parse().map(Some) };
        let (linux, budget, known, floor) = (number(linux)?, number(budget)?, number(known)?, number(floor)?);
        rows.push(Row { what, machine, key, unit, linux, source, budget, known, floor, floor_is });
    }
    Ok(rows)
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Another compiler may take a few more instructions than the one a figure was recorded with.
const SLACK: f64 = 1.05;

/// The table, and what is worse than its budget or, where that is known to be missed, than it was.
fn table(rows: &[Row<'_>], machines: &BTreeMap<&str, Figures>) -> (String, Vec<String>) {
    let mut text = String::from("| what | ours: median (min to max, samples) | Linux | ratio | budget | | floor |\n");
    text += "|---|---|---|---|---|---|---|\n";
    let mut missed = Vec::new();
    for row in rows {
        let figures = machines.get(row.machine);
        let figure = figures.and_then(|figures| figures.get(row.key));
        let (ours, shown) = match (figure, &row.unit) {
            (None, _) => (None, "-".to_owned()),
            (Some(figure), Unit::Median) if figure.samples == 1 => {
                (Some(figure.median as f64), grouped(figure.median as f64))
            }
            (Some(figure), Unit::Median) => {
                let [min, median, max] = [figure.min, figure.median, figure.max].map(|value| grouped(value as f64));
                (Some(figure.median as f64), format!("{median} ({min} to {max}, {})", figure.samples))
            }
            (Some(figure), Unit::P99) => {
                let [median, p99, max] = [figure.median, figure.p99, figure.max].map(|value| grouped(value as f64));
                (Some(figure.p99 as f64), format!("{p99} (median {median}, max {max}, {})", figure.samples))
            }
            (Some(figure), Unit::Least) => (Some(figure.median as f64), grouped(figure.median as f64)),
            (Some(figure), Unit::Share) => {
                let failed = row.key.replace("-ok", "-failed");
                let failed = figures.and_then(|figures| figures.get(&failed)).map_or(0, |figure| figure.median);
                let share = 100.0 * figure.median as f64 / (figure.median + failed) as f64;
                (Some(share), format!("{share:.2} % ({failed} of {} failed)", figure.median + failed))
            }
        };
        let better_is_more = matches!(row.unit, Unit::Least | Unit::Share);
        let verdict = match (ours, row.budget) {
            (Some(ours), Some(budget)) if (if better_is_more { ours >= budget } else { ours <= budget }) => "held",
            (Some(_), Some(_)) => "MISSED",
            _ => "",
        };
        let limit = row.known.or(row.budget);
        if let (Some(ours), Some(limit)) = (ours, limit)
            && (if better_is_more { ours < limit } else { ours > limit * SLACK })
        {
            missed.push(format!("{}: {shown}, limit {}", row.what, grouped(limit)));
        }
        let number = |value: Option<f64>| match (value, &row.unit) {
            (None, _) => String::new(),
            (Some(value), Unit::Share) => format!("{value} %"),
            (Some(value), _) => grouped(value),
        };
        let ratio = match (ours, row.linux) {
            (Some(ours), Some(linux)) if !better_is_more && ours > 0.0 => {
                let ratio = linux / ours;
                if ratio < 10.0 { format!("1/{ratio:.1}") } else { format!("1/{}", grouped(ratio)) }
            }
            _ => String::new(),
        };
        let with = |value: String, note: &str| if note.is_empty() { value } else { format!("{value} ({note})") };
        let (linux, floor) = (with(number(row.linux), row.source), with(number(row.floor), row.floor_is));
        let (what, budget) = (row.what, number(row.budget));
        let _ = writeln!(text, "| {what} | {shown} | {linux} | {ratio} | {budget} | {verdict} | {floor} |");
    }
    (text, missed)
}

/// A curve's name and its points.
type Curve = (String, Vec<(f64, f64)>);

/// A plot with both axes logarithmic, as costs go over decades.
fn plot(path: &str, title: &str, x: &str, curves: &[Curve]) -> Result<(), Box<dyn Error>> {
    let points = || curves.iter().flat_map(|(_, points)| points.iter().copied());
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (left, right) = bounds(&mut points().map(|point| point.0));
    let (low, high) = bounds(&mut points().map(|point| point.1));
    if left >= right {
        return Ok(());
    }
    let area = SVGBackend::new(path, (900, 560)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(90)
        .build_cartesian_2d((left..right).log_scale(), (low * 0.7..high * 1.4).log_scale())?;
    chart.configure_mesh().x_desc(x).y_desc("instructions").draw()?;
    for (n, (name, points)) in curves.iter().enumerate() {
        let colour = Palette99::pick(n).to_rgba();
        let line = chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3))?;
        line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}

/// A size as the bench program writes it, in KiB.
fn kib(size: &str) -> Option<f64> {
    let (digits, unit) = size.split_at(size.len().checked_sub(1)?);
    let number: f64 = digits.parse().ok()?;
    match unit {
        "K" => Some(number),
        "M" => Some(number * 1024.0),
        _ => None,
    }
}

/// Medians of the keys PREFIX/SIZE, over the size.
fn by_size(figures: &Figures, prefix: &str) -> Vec<(f64, f64)> {
    let prefix = format!("{prefix}/");
    let point = |(key, figure): (&String, &Figure)| Some((kib(key.strip_prefix(&prefix)?)?, figure.median as f64));
    let mut points: Vec<_> = figures.iter().filter_map(point).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

/// Medians of the keys PREFIX-NUMBER/SIZE, over the number plus one: a logarithmic axis has no 0.
fn by_number(figures: &Figures, prefix: &str, size: &str) -> Vec<(f64, f64)> {
    let prefix = format!("{prefix}-");
    let point = |(key, figure): (&String, &Figure)| {
        let (number, of) = key.strip_prefix(&prefix)?.split_once('/')?;
        Some((number.parse::<f64>().ok().filter(|_| of == size)? + 1.0, figure.median as f64))
    };
    let mut points: Vec<_> = figures.iter().filter_map(point).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

fn plots(out: &str, figures: &Figures, linux: &str) -> Result<(), Box<dyn Error>> {
    let named = |prefix: &str, name: &str| (name.to_owned(), by_size(figures, prefix));
    let mut curves = vec![
        named("alloc-reserve", "coherent alloc, reserve full"),
        named("alloc-empty", "coherent alloc, reserve empty"),
        named("free", "free"),
        named("capture-cycle", "capture cycle"),
        named("hand-over", "device-to-device hand-over"),
    ];
    for (key, name) in [("alloc", "Linux E: coherent alloc"), ("free", "Linux E: free")] {
        let point = |line: &str| {
            let mut words = line.split(';');
            (words.next()? == key).then(|| Some((kib(words.next()?)?, words.next()?.parse().ok()?)))?
        };
        curves.push((name.to_owned(), linux.lines().filter_map(point).collect()));
    }
    curves.retain(|(_, points)| points.len() > 1);
    plot(&format!("{out}/size.svg"), "Cost against size", "KiB", &curves)?;
    for (file, prefix, title, x) in [
        ("fragmentation", "fragmented", "Cost against fragmentation", "1 + percent of frames taken, singly"),
        ("lent", "lent", "Cost against lent share", "1 + percent of the area lent"),
        ("area", "area", "The index alone, fragmented by an adversary", "1 + MiB of area"),
    ] {
        let mut curves = Vec::new();
        for kind in ["alloc", "free", "discard", "move"] {
            for size in ["4K", "64K", "1M", "8M"] {
                curves.push((format!("{kind} {size}"), by_number(figures, &format!("{prefix}-{kind}"), size)));
            }
        }
        curves.retain(|(_, points)| points.len() > 1);
        plot(&format!("{out}/{file}.svg"), title, x, &curves)?;
    }
    Ok(())
}

fn run() -> Result<bool, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, out, logs @ ..] = arguments.as_slice() else {
        return Err("usage: bench-report DATA-FOLDER OUT-FOLDER MACHINE=LOG...".into());
    };
    let mut machines = BTreeMap::new();
    let mut csv = String::from("machine,key,min,median,p99,max,samples\n");
    for argument in logs {
        let (machine, log) = argument.split_once('=').ok_or("a log is MACHINE=FILE")?;
        let figures = read(&std::fs::read_to_string(log)?)?;
        for (key, Figure { min, median, p99, max, samples }) in &figures {
            writeln!(csv, "{machine},{key},{min},{median},{p99},{max},{samples}")?;
        }
        machines.insert(machine, figures);
    }
    std::fs::write(format!("{out}/results.csv"), csv)?;
    let text = std::fs::read_to_string(format!("{data}/rows.csv"))?;
    let (table, missed) = table(&rows(&text)?, &machines);
    print!("{table}");
    if let Some(figures) = machines.get("a9") {
        plots(out, figures, &std::fs::read_to_string(format!("{data}/linux.csv"))?)?;
    }
    for miss in &missed {
        eprintln!("past its limit: {miss}");
    }
    Ok(missed.is_empty())
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
