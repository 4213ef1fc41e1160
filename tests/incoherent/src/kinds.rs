//! Bugs of whole kinds: a program without any instruction, or any order to the outer controller, of one kind.
//!
//! Guarantees: of a kind that a program executes on a machine, the table says by which seed that was caught, or that it
//! was not; a kind that is not executed there is no bug.

use crate::campaign::{Guest, Run, Settings};
use crate::image::{Image, Op};
use crate::model::Model;
use crate::pl310::OuterOp;
use crate::report::Outcome;

/// Runs that go on for this many times as long as the whole program are stuck.
const PATIENCE: u64 = 4;

/// What is left out.
pub struct Kind {
    /// What `--suppress` calls it.
    pub name: &'static str,
    ops: &'static [Op],
    outer: Option<OuterOp>,
}

const fn inner(name: &'static str, ops: &'static [Op]) -> Kind {
    Kind { name, ops, outer: None }
}

const fn outer(name: &'static str, op: OuterOp) -> Kind {
    Kind { name, ops: &[], outer: Some(op) }
}

/// All of them.
pub static KINDS: [Kind; 9] = [
    inner("clean", &[Op::Clean]),
    inner("clean-to-unification", &[Op::CleanToUnification]),
    inner("invalidate", &[Op::Invalidate, Op::Flush]),
    inner("tlbi", &[Op::TlbPage, Op::TlbAll]),
    inner("dsb", &[Op::Dsb]),
    inner("dmb", &[Op::Dmb]),
    outer("outer-clean", OuterOp::Clean),
    outer("outer-invalidate", OuterOp::Invalidate),
    outer("outer-sync", OuterOp::Sync),
];

impl Kind {
    /// The kind of that name.
    pub fn find(name: &str) -> Result<&'static Self, String> {
        let found = KINDS.iter().find(|kind| kind.name == name);
        found.ok_or_else(|| format!("nothing to suppress is called '{name}'"))
    }

    /// Leaves it out.
    pub fn leave_out(&self, image: &mut Image, settings: &mut Settings) {
        for at in self.ops.iter().flat_map(|&op| image.sites(op)).collect::<Vec<_>>() {
            image.suppress(at);
        }
        settings.without.extend(self.outer);
    }
}

/// Leaves out each kind, or those named in `only`, and runs seed after seed until that is caught. Whether all were that
/// are executed, and the whole programs pass.
pub fn table(
    settings: &Settings,
    guests: &[Guest],
    machines: &[(&'static Model, Option<Vec<u8>>)],
    seeds: &[u64],
    only: &[String],
) -> Result<bool, String> {
    let mut good = true;
    let only = only.iter().map(|name| Kind::find(name)).collect::<Result<Vec<_>, _>>()?;
    let kinds = if only.is_empty() { KINDS.iter().collect() } else { only };
    for guest in guests {
        for (model, tree) in machines {
            let whole = Run { image: &guest.image, model, tree: tree.as_deref(), seed: seeds[0], without_site: None };
            let ran = settings.run(&whole);
            if !ran.outcome.is_pass() {
                println!("{} on {}: the whole program does not pass: {}", guest.name, model.name, ran.outcome);
                good = false;
                continue;
            }
            let (mut caught, mut missed) = (0, 0);
            for kind in &kinds {
                let sites = kind.ops.iter().flat_map(|&op| guest.image.sites(op));
                let inside = sites.filter_map(|at| ran.visits.get(&at)).sum::<u32>();
                let outside = ran.outer_sites.iter().filter(|((_, op), _)| Some(*op) == kind.outer);
                if inside + outside.map(|(_, count)| count).sum::<u32>() == 0 {
                    println!("not run     {}", kind.name);
                    continue;
                }
                let (mut image, mut settings) = (guest.image.clone(), settings.clone());
                settings.limit = ran.time * PATIENCE;
                kind.leave_out(&mut image, &mut settings);
                let run = |seed| settings.run(&Run { image: &image, seed, ..whole }).outcome;
                let found = seeds.iter().find_map(|&seed| match run(seed) {
                    outcome if outcome.is_pass() => None,
                    Outcome::Violation(found) => Some((seed, found.rule.to_string())),
                    outcome => Some((seed, format!("the guest: {outcome}"))),
                });
                if let Some((seed, by)) = found {
                    caught += 1;
                    println!("caught      {}, seed {seed}: {by}", kind.name);
                } else {
                    missed += 1;
                    good = false;
                    println!("NOT CAUGHT  {}", kind.name);
                }
            }
            println!("{} on {}: {caught} kinds caught, {missed} not caught", guest.name, model.name);
        }
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::MAINTENANCE;

    #[test]
    fn every_operation_is_of_one_kind() {
        for op in MAINTENANCE {
            assert_eq!(KINDS.iter().filter(|kind| kind.ops.contains(&op)).count(), 1, "{op:?}");
        }
    }
}
