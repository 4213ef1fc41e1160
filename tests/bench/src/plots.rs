//! Plots: costs against size, and distributions.

use crate::figures::{Figure, Machines};
use crate::rows::grouped;
use plotters::prelude::*;
use std::error::Error;

/// A curve's name and its points.
type Curve = (String, Vec<(f64, f64)>);

/// What the axes of a plot say.
struct Axes<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
}

/// Writes a plot with both axes logarithmic, as costs go over decades.
fn by_decades(path: &str, axes: &Axes<'_>, curves: &[Curve]) -> Result<(), Box<dyn Error>> {
    let Some(((left, right), (low, high))) = bounds(curves) else { return Ok(()) };
    let area = SVGBackend::new(path, (900, 560)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(axes.title, ("sans-serif", 20))
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(90)
        .build_cartesian_2d((left..right).log_scale(), (low * 0.7..high * 1.4).log_scale())?;
    chart.configure_mesh().x_desc(axes.x).y_desc(axes.y).x_label_formatter(&shown).y_label_formatter(&shown).draw()?;
    for (n, (name, points)) in curves.iter().enumerate() {
        let colour = Palette99::pick(n).to_rgba();
        let line = chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3))?;
        line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}

/// Writes distributions: the share of samples that are at most x, in percent. The horizontal axis is logarithmic if
/// `log`.
fn distributions(path: &str, axes: &Axes<'_>, log: bool, curves: &[Curve]) -> Result<(), Box<dyn Error>> {
    let Some(((left, right), _)) = bounds(curves) else { return Ok(()) };
    let area = SVGBackend::new(path, (900, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut builder = ChartBuilder::on(&area);
    builder.caption(axes.title, ("sans-serif", 20)).margin(14).x_label_area_size(40).y_label_area_size(60);
    // The two kinds of axis are two types.
    macro_rules! draw {
        ($across:expr) => {{
            let mut chart = builder.build_cartesian_2d($across, 0.0..100.0)?;
            let mut mesh = chart.configure_mesh();
            mesh.x_desc(axes.x).y_desc(axes.y).x_label_formatter(&shown).y_label_formatter(&shown).draw()?;
            for (n, (name, points)) in curves.iter().enumerate() {
                let colour = Palette99::pick(n).to_rgba();
                let line = chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
                line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            }
            let labels = &mut chart.configure_series_labels();
            labels.position(SeriesLabelPosition::LowerRight);
            labels.background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
        }};
    }
    if log {
        draw!((left * 0.9..right * 1.1).log_scale());
    } else {
        draw!(left..right);
    }
    area.present()?;
    Ok(())
}

/// Returns what an axis says of a value.
fn shown(value: &f64) -> String {
    grouped(*value)
}

/// Returns the bounds of all points, or nothing if they are all at one x.
fn bounds(curves: &[Curve]) -> Option<((f64, f64), (f64, f64))> {
    let points = || curves.iter().flat_map(|(_, points)| points.iter().copied());
    let of = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (across, up) = (of(&mut points().map(|point| point.0)), of(&mut points().map(|point| point.1)));
    (across.0 < across.1).then_some((across, up))
}

/// Returns a size as the bench programs write it, in KiB.
fn kib(size: &str) -> Option<f64> {
    let (digits, unit) = size.split_at(size.len().checked_sub(1)?);
    let number: f64 = digits.parse().ok()?;
    match unit {
        "K" => Some(number),
        "M" => Some(number * 1024.0),
        _ => None,
    }
}

/// Returns what `of` makes of the keys PREFIX/SIZE, over the size in KiB.
fn by_size(machines: &Machines, machine: &str, prefix: &str, of: fn(&Figure) -> u64) -> Vec<(f64, f64)> {
    let prefix = format!("{prefix}/");
    let point = |(key, figure): (&str, &Figure)| Some((kib(key.strip_prefix(&prefix)?)?, of(figure) as f64));
    let mut points: Vec<_> = machines.of(machine).filter_map(point).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

/// Returns the distribution of a figure as a staircase.
fn staircase(figure: &Figure) -> Vec<(f64, f64)> {
    let samples = figure.samples();
    let mut points = Vec::new();
    let (mut below, mut share) = (0, 0.0);
    for equal in samples.chunk_by(|a, b| a == b) {
        points.push((equal[0] as f64, share));
        below += equal.len();
        share = 100.0 * below as f64 / samples.len() as f64;
        points.push((equal[0] as f64, share));
    }
    points
}

/// Returns the distributions that `MACHINE:KEY` name, of those that there are.
fn named(machines: &Machines, names: &[(&str, &str)]) -> Vec<Curve> {
    let curve = |&(name, title): &(&str, &str)| Some((title.to_owned(), staircase(machines.get(name)?)));
    names.iter().filter_map(curve).collect()
}

/// Writes all plots into a folder.
pub(crate) fn write(out: &str, machines: &Machines) -> Result<(), Box<dyn Error>> {
    let sizes = |names: &[(&str, &str, &str)]| -> Vec<Curve> {
        let curve = |&(machine, prefix, title): &(&str, &str, &str)| {
            (title.to_owned(), by_size(machines, machine, prefix, Figure::median))
        };
        names.iter().map(curve).filter(|(_, points)| points.len() > 1).collect()
    };
    for (file, title, names) in [
        (
            "alloc",
            "A coherent allocation, medians",
            &[
                ("a9", "alloc-reserve", "ours, prepared in idle time, zeroed"),
                ("a9", "alloc-empty", "ours, nothing prepared, zeroed"),
                ("a9", "tlsf/alloc", "TLSF over mapped memory, not zeroed"),
                ("a9", "tlsf/zeroed", "TLSF, zeroed"),
                ("a9", "buddy/alloc", "buddies over mapped memory, not zeroed"),
                ("linux", "E/alloc", "Linux E, zeroed"),
                ("linux", "F/alloc", "Linux F, zeroed"),
                ("linux", "G/alloc", "Linux G, not zeroed"),
            ][..],
        ),
        (
            "free",
            "Its free, medians",
            &[
                ("a9", "free", "ours"),
                ("a9", "free-first", "ours, not the last allocated"),
                ("a9", "tlsf/free", "TLSF"),
                ("a9", "buddy/free", "buddies"),
                ("linux", "E/free", "Linux E"),
                ("linux", "F/free", "Linux F"),
                ("linux", "G/free", "Linux G"),
            ][..],
        ),
    ] {
        let axes = Axes { title, x: "KiB", y: "instructions" };
        by_decades(&format!("{out}/{file}.svg"), &axes, &sizes(names))?;
    }

    let costs = |title| Axes { title, x: "instructions", y: "percent of calls that take no more" };
    for (file, title, names) in [
        (
            "trace-alloc",
            "An allocation of the trace of 512 slots",
            &[
                ("a9:trace-alloc-reserve/512", "ours, idle time between"),
                ("a9:trace-alloc/512", "ours, nothing prepared"),
                ("a9:tlsf/trace-alloc/512", "TLSF, not zeroed"),
                ("a9:buddy/trace-alloc/512", "buddies, not zeroed"),
            ][..],
        ),
        (
            "trace-free",
            "A free of the trace of 512 slots",
            &[
                ("a9:trace-free-reserve/512", "ours, idle time between"),
                ("a9:trace-free/512", "ours"),
                ("a9:tlsf/trace-free/512", "TLSF"),
                ("a9:buddy/trace-free/512", "buddies"),
            ][..],
        ),
    ] {
        distributions(&format!("{out}/{file}.svg"), &costs(title), true, &named(machines, names))?;
    }
    let refused = [
        ("host:module-idle/refused-64K/512", "ours, idle time between"),
        ("host:module/refused-64K/512", "ours"),
        ("host:E/refused-64K/512", "Linux E: first fit in a bitmap"),
        ("host:F/refused-own/512", "Linux F: powers of two"),
        ("host:G/refused-own/512", "Linux G"),
        ("host:buddy/refused-own/512", "buddies"),
        ("host:tlsf/refused-64K/512", "TLSF"),
    ];
    let axes = Axes {
        title: "Refused of the trace of 512 slots, over 40 seeds",
        x: "allocations refused",
        y: "percent of seeds with no more",
    };
    distributions(&format!("{out}/refused.svg"), &axes, false, &named(machines, &refused))?;

    let mut growth = Vec::new();
    for kind in ["alloc", "free", "refused"] {
        for (of, name) in [(Figure::max as fn(&Figure) -> u64, "worst"), (Figure::median, "median")] {
            let points = by_size(machines, "a9", &format!("index-{kind}"), of);
            growth.push((format!("{kind}, {name}"), points.into_iter().map(|(kib, y)| (kib / 1024.0, y)).collect()));
        }
    }
    let axes = Axes { title: "The index alone, fragmented by adversaries", x: "MiB of area", y: "instructions" };
    by_decades(&format!("{out}/growth.svg"), &axes, &growth)?;
    let mut lent: Vec<Curve> = Vec::new();
    for kind in ["discard", "move"] {
        for size in ["64K", "1M", "8M"] {
            let point = |percent: u32| {
                let figure = machines.get(&format!("a9:lent-{kind}-{percent}/{size}"))?;
                Some((f64::from(percent + 1), figure.median() as f64))
            };
            lent.push((format!("{kind} {size}"), [0, 25, 50, 75, 100].into_iter().filter_map(point).collect()));
        }
    }
    let axes = Axes {
        title: "A coherent allocation, by the share of the area that is lent",
        x: "1 + percent lent",
        y: "instructions",
    };
    by_decades(&format!("{out}/lent.svg"), &axes, &lent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staircase_ends_at_a_hundred_percent() {
        let steps = staircase(&Figure::Samples(vec![10, 10, 20, 40]));
        assert_eq!(steps, [(10.0, 0.0), (10.0, 50.0), (20.0, 50.0), (20.0, 75.0), (40.0, 75.0), (40.0, 100.0)]);
    }

    #[test]
    fn sizes_are_in_kib() {
        assert_eq!(["4K", "8M", "512"].map(kib), [Some(4.0), Some(8192.0), None]);
    }
}
