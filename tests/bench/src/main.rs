//! Makes tables in Markdown, a CSV and plots of what the bench programs counted.
//!
//! Guarantees: a row shows the figure that its key names, or the report fails: no row is made up, none is left out in
//! silence. Whether a budget is held is shown and is no failure.
//!
//! `bench-report DATA OUT MACHINE=LOG...` reads DATA/rows.csv, DATA/linux.csv and the programs' output, prints the
//! tables, and writes OUT/results.csv and OUT/*.svg.

mod figures;
mod plots;
mod rows;

use figures::Machines;
use std::error::Error;
use std::process::ExitCode;

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, out, logs @ ..] = arguments.as_slice() else {
        return Err("usage: bench-report DATA-FOLDER OUT-FOLDER MACHINE=LOG...".into());
    };
    let mut machines = Machines::default();
    machines.add_linux(&std::fs::read_to_string(format!("{data}/linux.csv"))?)?;
    for argument in logs {
        let (machine, log) = argument.split_once('=').ok_or("a log is MACHINE=FILE")?;
        machines.add(machine, &std::fs::read_to_string(log)?)?;
    }
    std::fs::write(format!("{out}/results.csv"), machines.csv())?;
    plots::write(out, &machines)?;
    let (tables, missing) = rows::tables(&std::fs::read_to_string(format!("{data}/rows.csv"))?, &machines)?;
    print!("{tables}");
    if missing.is_empty() { Ok(()) } else { Err(format!("no figure of: {}", missing.join(", ")).into()) }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
