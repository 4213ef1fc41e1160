//! The table of planted bugs: programs that break one rule each, on every machine where it is a bug.

use crate::campaign::{Guest, Run, Settings};
use crate::model::Model;
use crate::report::Outcome;
use crate::{model, tree};
use std::path::Path;

/// Of a hundred runs, as many must be caught.
const ENOUGH: usize = 95;

/// A bug that a program plants when told `plant=NAME`.
pub struct Plant {
    name: String,
    models: Vec<&'static Model>,
    what: String,
}

fn first_word(text: &str) -> Option<(&str, &str)> {
    text.split_once(char::is_whitespace).map(|(word, rest)| (word, rest.trim_start()))
}

/// Reads a list: a line each of name, models with commas between, and a description. `#` begins a comment.
pub fn read(path: &Path) -> Result<Vec<Plant>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut plants = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words = first_word(line).and_then(|(name, rest)| Some((name, first_word(rest)?)));
        let (name, (models, what)) =
            words.ok_or_else(|| format!("{}: '{line}' is not a name, models and a description", path.display()))?;
        let find = |name| model::find(name).ok_or_else(|| format!("{}: no model '{name}'", path.display()));
        let models = models.split(',').map(find).collect::<Result<Vec<_>, _>>()?;
        plants.push(Plant { name: name.into(), models, what: what.into() });
    }
    Ok(plants)
}

/// Leaves those of each list that are wanted: all, if none is named.
pub fn choose(lists: &mut [Vec<Plant>], only: &[String]) -> Result<(), String> {
    if let Some(name) = only.iter().find(|name| lists.iter().flatten().all(|plant| plant.name != **name)) {
        return Err(format!("no bug is called '{name}'"));
    }
    if !only.is_empty() {
        lists.iter_mut().for_each(|list| list.retain(|plant| only.contains(&plant.name)));
    }
    Ok(())
}

/// The models that a list names, of those that are wanted: all, if none is named.
pub fn models(plants: &[Plant], wanted: &[&'static Model]) -> Vec<&'static Model> {
    let is_in = |models: &[&Model], model: &Model| models.iter().any(|one| one.name == model.name);
    let named = |model: &&Model| plants.iter().any(|plant| is_in(&plant.models, model));
    let chosen = |model: &&Model| wanted.is_empty() || is_in(wanted, model);
    model::MODELS.iter().filter(named).filter(chosen).collect()
}

/// What came of a program with one bug, or none, on one machine.
struct Column {
    /// Runs in which a rule was broken, and in which the guest found something itself.
    judged: usize,
    noticed: usize,
    /// The first of either, with its seed.
    first: Option<(u64, Outcome)>,
}

impl Column {
    const fn caught(&self) -> usize {
        self.judged + self.noticed
    }
}

/// What all columns share.
struct Planting<'a> {
    settings: &'a Settings,
    append: &'a str,
    seeds: &'a [u64],
}

impl Planting<'_> {
    fn run(&self, guest: &Guest, model: &'static Model, name: &str) -> Result<Column, String> {
        let tree = tree::compile(model, &format!("{} plant={name}", self.append))?;
        let run = |&seed| Run { image: &guest.image, model, tree: tree.as_deref(), seed, without_site: None };
        let runs: Vec<Run<'_>> = self.seeds.iter().map(run).collect();
        let mut column = Column { judged: 0, noticed: 0, first: None };
        self.settings.run_all(&runs, |run, ran| {
            match ran.outcome {
                Outcome::Violation(_) => column.judged += 1,
                _ if ran.outcome.is_pass() => return,
                _ => column.noticed += 1,
            }
            column.first.get_or_insert((run.seed, ran.outcome));
        });
        Ok(column)
    }

    /// A row of the table, and whether each column has as many as it must.
    fn row(&self, guest: &Guest, plant: &Plant, models: &[&'static Model]) -> Result<bool, String> {
        let mut good = true;
        print!("| {} (`{}`) |", plant.what, plant.name);
        for model in models {
            if !plant.models.iter().any(|one| one.name == model.name) {
                print!(" - |");
                continue;
            }
            let column = self.run(guest, model, &plant.name)?;
            good &= column.caught() * 100 >= self.seeds.len() * ENOUGH;
            print!(" {}/{}", column.caught(), self.seeds.len());
            if column.noticed > 0 {
                print!(", {} by the guest itself", column.noticed);
            }
            print!(" |");
        }
        println!();
        Ok(good)
    }
}

/// Runs all, and prints the table. Whether every bug was caught often enough.
///
/// The program without a bug is run first, on every machine: where that fails, so would anything, and what follows
/// would say nothing. Then there is no table.
pub fn table(
    settings: &Settings,
    guests: &[Guest],
    plants: &[Plant],
    models: &[&'static Model],
    append: &str,
    seeds: &[u64],
) -> Result<bool, String> {
    let planting = Planting { settings, append, seeds };
    let mut good = true;
    for guest in guests {
        for model in models {
            let column = planting.run(guest, model, "none")?;
            if let Some((seed, outcome)) = &column.first {
                println!(
                    "void: without a bug {} fails on {}, {} of {} runs, first at seed {seed}: {outcome}",
                    guest.name,
                    model.name,
                    column.caught(),
                    seeds.len()
                );
                return Ok(false);
            }
        }
        println!("| planted bug | {} |", models.iter().map(|model| model.name).collect::<Vec<_>>().join(" | "));
        println!("|---|{}", "---|".repeat(models.len()));
        for plant in plants {
            good &= planting.row(guest, plant, models)?;
        }
        println!("| the correct program (`none`) |{}", format!(" 0/{} |", seeds.len()).repeat(models.len()));
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;

    #[test]
    fn where_the_correct_program_fails_the_table_is_void() {
        // A branch to itself.
        let image = Image::of_words(0x6001_0000, [0xeaff_fffe].into_iter());
        let guests = [Guest { name: "still".into(), path: "still".into(), image }];
        let models = [model::find("a9").unwrap()];
        let run = |enough| {
            let settings = Settings { disk: None, period: 8, limit: 1000, enough, without: Vec::new(), jobs: 1 };
            table(&settings, &guests, &[], &models, "", &[1, 2])
        };
        assert_eq!(run(u64::MAX), Ok(false));
        assert_eq!(run(100), Ok(true), "the same, had it passed");
    }
}
