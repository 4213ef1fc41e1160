//! The table of planted bugs: programs that break one rule each, on every machine where it is a bug.

use crate::campaign::{Guest, Run, Settings};
use crate::model::{MODELS, Model};
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

/// Reads the list: a line each of name, models with commas between, and a description. `#` begins a comment.
pub fn read(path: &Path, only: &[String]) -> Result<Vec<Plant>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut plants = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words = first_word(line).and_then(|(name, rest)| Some((name, first_word(rest)?)));
        let (name, (models, what)) =
            words.ok_or_else(|| format!("{}: '{line}' is not a name, models and a description", path.display()))?;
        let find = |name| model::find(name).ok_or_else(|| format!("{}: no model '{name}'", path.display()));
        let models = models.split(',').map(find).collect::<Result<Vec<_>, _>>()?;
        if only.is_empty() || only.iter().any(|one| one == name) {
            plants.push(Plant { name: name.into(), models, what: what.into() });
        }
    }
    if let Some(name) = only.iter().find(|name| plants.iter().all(|plant| plant.name != **name)) {
        return Err(format!("{}: no bug is called '{name}'", path.display()));
    }
    Ok(plants)
}

/// Runs all, and the program without a bug, and prints the table. Whether every bug was caught often enough, and nothing
/// where there is none.
pub fn table(
    settings: &Settings,
    guests: &[Guest],
    plants: &[Plant],
    models: &[&'static Model],
    append: &str,
    seeds: &[u64],
) -> Result<bool, String> {
    let mut good = true;
    for guest in guests {
        println!("| planted bug | {} |", models.iter().map(|model| model.name).collect::<Vec<_>>().join(" | "));
        println!("|---|{}", "---|".repeat(models.len()));
        let none = Plant { name: "none".into(), models: MODELS.iter().collect(), what: "the correct program".into() };
        for plant in plants.iter().chain([&none]) {
            let wrong = plant.name != "none";
            print!("| {} (`{}`) |", plant.what, plant.name);
            for model in models {
                if !plant.models.iter().any(|one| one.name == model.name) {
                    print!(" - |");
                    continue;
                }
                let tree = tree::compile(model, &format!("{append} plant={}", plant.name))?;
                let image = &guest.image;
                let run = |&seed| Run { image, model, tree: &tree, seed, without_site: None };
                let runs: Vec<Run<'_>> = seeds.iter().map(run).collect();
                let (mut judged, mut noticed, mut unexpected) = (0, 0, Vec::new());
                settings.run_all(&runs, |run, ran| {
                    match ran.outcome {
                        Outcome::Violation(_) => judged += 1,
                        _ if ran.outcome.is_pass() => return,
                        _ => noticed += 1,
                    }
                    if !wrong {
                        unexpected.push((run.seed, ran.outcome));
                    }
                });
                let caught = judged + noticed;
                good &= if wrong { caught * 100 >= seeds.len() * ENOUGH } else { caught == 0 };
                print!(" {caught}/{}", seeds.len());
                if noticed > 0 {
                    print!(", {noticed} by the guest itself");
                }
                print!(" |");
                for (seed, outcome) in unexpected {
                    eprintln!("{} without a bug on {}, seed {seed}: {outcome}", guest.name, model.name);
                }
            }
            println!();
        }
    }
    Ok(good)
}
