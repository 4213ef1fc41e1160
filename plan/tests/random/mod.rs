//! Random problems: a few sets of three use cases, in one area.

use carveout_plan::errors::Source;
use carveout_plan::problem::{AreaWish, Device, Direction, FRAME, Problem, Set, UseCase, Window};

/// Where memory begins: the area of the fake machine.
pub(crate) const START: u32 = 0x60200;

/// A set: device, use case, count, frames, order of alignment.
pub(crate) type RandomSet = (usize, usize, u32, u32, u32);

/// A device: the frames that it reaches, how far its bus is shifted, the order of its boundary.
pub(crate) type RandomDevice = (Option<u32>, u32, Option<u32>);

/// Returns a problem with so many free frames. The use cases 0 and 1, 0 and 2, 1 and 2 exclude each other as `exclusive`
/// says.
pub(crate) fn problem(room: u32, devices: &[RandomDevice], exclusive: &[bool], sets: &[RandomSet]) -> Problem {
    let cases = 3;
    let apart = |a: usize, b: usize| a != b && exclusive[a + b - 1];
    Problem {
        source: Source::new("random.toml", " "),
        kernel: 1 << 20,
        free: std::iter::once(START..START + room).collect(),
        areas: vec![AreaWish { name: "test".to_owned(), lendable: true, fixed: None, within: 0..1 << 20, span: 0..1 }],
        devices: devices
            .iter()
            .enumerate()
            .map(|(n, &(reach, shift, boundary))| Device {
                name: format!("device-{n}"),
                node: None,
                area: 0,
                mask: reach.map_or(u32::MAX, |frames| (START + shift + frames) * FRAME - 1),
                windows: vec![Window { bus: (START + shift) * FRAME, phys: START * FRAME, bytes: 1 << 22 }],
                boundary: boundary.map(|order| FRAME << order),
                span: 0..1,
            })
            .collect(),
        cases: (0..cases)
            .map(|a| UseCase { name: format!("case-{a}"), excludes: (0..cases).map(|b| apart(a, b)).collect() })
            .collect(),
        sets: sets
            .iter()
            .enumerate()
            .map(|(n, &(device, case, count, frames, order))| Set {
                name: format!("set-{n}"),
                device: device % devices.len(),
                cases: vec![case],
                count,
                bytes: frames * FRAME - 100,
                align: FRAME << order,
                direction: Direction::Both,
                span: 0..1,
            })
            .collect(),
        loans: Vec::new(),
    }
}
