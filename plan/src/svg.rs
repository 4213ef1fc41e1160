//! A picture of the areas: a row for each use case, a box for each slot, by address.
//!
//! Guarantee: what lies above and below each other in a picture is the same memory.

use svg::Document;
use svg::node::element::{Group, Rectangle, Text, Title};

use crate::problem::{Problem, address, frames};
use crate::solve::Packing;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 150.0;
const ROW: f64 = 26.0;
const HEAD: f64 = 34.0;
const LETTER: f64 = 6.5;
/// Fills of devices, one after another: light enough for black letters.
const FILLS: [&str; 8] = ["#8dd3c7", "#ffffb3", "#bebada", "#fb8072", "#80b1d3", "#fdb462", "#b3de69", "#fccde5"];

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn text(x: f64, y: f64, what: impl Into<String>) -> Text {
    Text::new(what).set("x", x).set("y", y)
}

/// Returns the picture.
pub fn picture(problem: &Problem, packings: &[Packing]) -> String {
    let each = HEAD + number(problem.cases.len()) * ROW + 30.0;
    let height = each * number(packings.len()) + 10.0;
    let mut document = Document::new()
        .set("viewBox", (0, 0, WIDTH + LEFT + 20.0, height))
        .set("font-family", "sans-serif")
        .set("font-size", 12)
        .add(Rectangle::new().set("width", "100%").set("height", "100%").set("fill", "white"));
    for (n, packing) in packings.iter().enumerate() {
        document = document.add(area(problem, packing).set("transform", format!("translate(0 {})", number(n) * each)));
    }
    format!("{document}\n")
}

/// Draws an area. Its runs stand beside each other.
fn area(problem: &Problem, packing: &Packing) -> Group {
    let total: u32 = packing.runs.iter().map(|run| run.end - run.start).sum();
    let scale = WIDTH / f64::from(total.max(1));
    let left_of = |frame: u32| {
        let below = packing.runs.iter().map(|run| run.end.min(frame).saturating_sub(run.start)).sum::<u32>();
        LEFT + f64::from(below) * scale
    };
    let start = packing.runs.first().map_or(0, |run| run.start);
    let end = packing.runs.last().map_or(0, |run| run.end);
    let name = &problem.areas[packing.area].name;
    let title = format!("{name}: {} from {} to {}", frames(total), address(start), address(end));
    let mut group = Group::new().add(text(LEFT, 20.0, title).set("font-weight", "bold"));
    for (row, case) in problem.cases.iter().enumerate() {
        let y = HEAD + number(row) * ROW;
        let frame = Rectangle::new().set("x", LEFT).set("y", y).set("width", WIDTH).set("height", ROW - 4.0);
        group = group.add(frame.set("fill", "#f4f4f4").set("stroke", "#999999"));
        group = group.add(text(8.0, y + 15.0, case.name.as_str()));
        for (set, slots) in packing.slots.iter().filter(|(set, _)| problem.sets[*set].cases.contains(&row)) {
            let set = &problem.sets[*set];
            for &at in slots {
                let (x, width) = (left_of(at), f64::from(set.frames()) * scale);
                let tip = format!(
                    "{} ({}): {} at {}",
                    set.name,
                    problem.devices[set.device].name,
                    frames(set.frames()),
                    address(at)
                );
                let slot = Rectangle::new().set("x", x).set("y", y).set("width", width).set("height", ROW - 4.0);
                let slot =
                    slot.set("fill", FILLS[set.device % FILLS.len()]).set("stroke", "black").set("stroke-width", 0.5);
                group = group.add(slot.add(Title::new(tip)));
                let short: String = set
                    .name
                    .chars()
                    .enumerate()
                    .take_while(|&(n, _)| number(n + 1) * LETTER <= width)
                    .map(|(_, char)| char)
                    .collect();
                if short.len() >= 3 {
                    group =
                        group.add(text(x + 2.0, y + 15.0, short).set("font-size", 10).set("pointer-events", "none"));
                }
            }
        }
    }
    group
}
