//! What is pasted into the board's tree and its boot arguments; and the proof that the kernel takes it.
//!
//! Guarantee: a plan that is printed was given to `carveout-boot` with the board's own tree, and came back as the same
//! areas.

use std::fmt::Write as _;

use crate::board::{Board, CMA, NewArea, base_name, bytes_of, cma_argument, flag, node_name};
use crate::errors::{Fault, Result};
use crate::problem::{Problem, address};
use crate::solve::Packing;

/// Returns the areas that are not in the tree yet.
pub fn new_areas<'a>(problem: &'a Problem, packings: &[Packing]) -> Vec<NewArea<'a>> {
    let new = packings.iter().filter(|packing| problem.areas[packing.area].fixed.is_none());
    new.filter_map(|packing| {
        let wish = &problem.areas[packing.area];
        let own = problem.devices.iter().filter(|device| device.area == packing.area);
        let devices = own.filter_map(|device| device.node.as_deref()).collect();
        Some(NewArea { name: &wish.name, frames: packing.runs.first()?.clone(), lendable: wish.lendable, devices })
    })
    .collect()
}

/// Returns the nodes of `/reserved-memory` as source, with the devices that name them.
pub fn source(areas: &[NewArea<'_>]) -> String {
    let mut text = String::new();
    let named: Vec<_> = areas.iter().filter(|area| area.name != CMA).collect();
    if named.is_empty() {
        return text;
    }
    text.push_str("/ {\n\treserved-memory {\n\t\t#address-cells = <1>;\n\t\t#size-cells = <1>;\n\t\tranges;\n");
    for area in &named {
        let (base, size) = bytes_of(&area.frames);
        let label = label(area.name);
        let _ = write!(
            text,
            "\n\t\t{label}: {} {{\n\t\t\tcompatible = \"shared-dma-pool\";\n\t\t\treg = <{base:#x} {size:#x}>;\n\t\t\t{};\n\t\t}};\n",
            node_name(area),
            flag(area.lendable)
        );
    }
    text.push_str("\t};\n};\n");
    for area in &named {
        for device in &area.devices {
            let _ = write!(text, "\n&{{{device}}} {{\n\tmemory-region = <&{}>;\n}};\n", label(area.name));
        }
    }
    text
}

/// Returns the boot argument of the default area, if the plan has one.
pub fn argument(areas: &[NewArea<'_>]) -> Option<String> {
    areas.iter().find(|area| area.name == CMA).map(|area| cma_argument(&area.frames))
}

fn label(name: &str) -> String {
    let label = name.replace(|char: char| !char.is_ascii_alphanumeric(), "_");
    if label.starts_with(|first: char| first.is_ascii_digit()) { format!("area_{label}") } else { label }
}

/// Returns the board's tree with the plan's areas, after the kernel's own plan of its memory had them as they are.
///
/// # Errors
///
/// A fault with the kernel's words, if its plan differs.
pub fn prove(board: &Board, problem: &Problem, packings: &[Packing], kernel: u64) -> Result<Board> {
    let new = new_areas(problem, packings);
    let names: Vec<&str> = new.iter().map(|area| area.name).collect();
    let tree = board.without(&names)?.with(&new)?;
    let memory = tree.memory(kernel)?;
    for packing in packings {
        let wish = &problem.areas[packing.area];
        let made = memory.areas.iter().find(|area| base_name(&area.name) == wish.name);
        if made.is_none_or(|made| made.runs != packing.runs || made.lendable != wish.lendable) {
            let fault = Fault::new(format!(
                "the kernel does not make area {} at {} of the tree that was written",
                wish.name,
                address(packing.runs.first().map_or(0, |run| run.start))
            ));
            let said = memory.refused.iter().map(|line| format!("the kernel says: {line}"));
            return Err(said.fold(fault, Fault::note).help("mend what it refuses, or move the area by within = [...]"));
        }
    }
    Ok(tree)
}
