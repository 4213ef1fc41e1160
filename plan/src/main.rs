//! The command: `carveout-plan --help` says how it is called.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use carveout_plan::board::Board;
use carveout_plan::certificate::certificate;
use carveout_plan::errors::{Fault, Result, Source};
use carveout_plan::solve::{Effort, plan};
use carveout_plan::trace::{self, Trace};
use carveout_plan::{check, input, nodes, report, svg, table};

const HELP: &str = include_str!("help.txt");

#[derive(Default)]
struct Options {
    files: Vec<PathBuf>,
    json: bool,
    check: Option<PathBuf>,
    certificate: Option<PathBuf>,
    svg: Option<PathBuf>,
    dtb: Option<PathBuf>,
    rust: Option<PathBuf>,
    trace: Option<PathBuf>,
    cases: Option<PathBuf>,
}

fn main() -> ExitCode {
    let mut json = false;
    match run(&mut json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) if json => {
            println!("{:#}", fault.json());
            ExitCode::FAILURE
        }
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

fn run(json: &mut bool) -> Result<()> {
    let Some(options) = options(json).map_err(|error| Fault::new(error.to_string()).help("carveout-plan --help"))?
    else {
        print!("{HELP}");
        return Ok(());
    };
    if let (Some(file), []) = (&options.trace, &options.files[..]) {
        let trace = Trace::read(&Source::new(file.display().to_string(), read(file)?))?;
        let replay = trace::replay(&trace);
        if let Some(file) = &options.cases {
            write(file, replay.suggestion().as_bytes())?;
        }
        if options.json {
            println!("{:#}", replay.json());
        } else {
            print!("{}", replay.text());
        }
        return Ok(());
    }
    let [tree, cases] = &options.files[..] else {
        return Err(Fault::new("two files are wanted: the board's tree and its use cases").help("carveout-plan --help"));
    };
    let board = Board::read(tree)?;
    let source = Source::new(cases.display().to_string(), read(cases)?);
    let problem = input::read(&board, &source)?;
    if let Some(file) = &options.check {
        return verify(&problem, file);
    }
    let packings = plan(&problem, Effort::Full)?;
    let certificate = format!("{:#}\n", certificate(&problem, &packings));
    check::check(&problem, &certificate).map_err(|line| {
        Fault::new(format!("the plan does not pass its own check: {line}")).help("this is a mistake of the tool")
    })?;
    let tree = nodes::prove(&board, &problem, &packings, problem.kernel)?;
    for (file, text) in [(&options.certificate, certificate.as_bytes()), (&options.dtb, tree.dtb())] {
        file.as_ref().map_or(Ok(()), |file| write(file, text))?;
    }
    if let Some(file) = &options.svg {
        write(file, svg::picture(&problem, &packings).as_bytes())?;
    }
    if let Some(file) = &options.rust {
        write(file, table::table(&problem, &packings).as_bytes())?;
    }
    if options.json {
        println!("{:#}", report::json(&problem, &packings));
    } else {
        print!("{}", report::text(&problem, &packings));
    }
    Ok(())
}

fn verify(problem: &carveout_plan::problem::Problem, file: &Path) -> Result<()> {
    let slots = check::check(problem, &read(file)?)
        .map_err(|line| Fault::new(format!("{}: {line}", file.display())).help("make it anew with --certificate"))?;
    println!("{}: holds: {slots} slots, no order of declared requests can fail", file.display());
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    let bytes = std::fs::read(file).map_err(|error| Fault::new(format!("cannot read {}: {error}", file.display())))?;
    String::from_utf8(bytes).map_err(|_| Fault::new(format!("{} is no text in UTF-8", file.display())))
}

fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(file, bytes).map_err(|error| Fault::new(format!("cannot write {}: {error}", file.display())))
}

/// Returns `None` if help is wanted.
fn options(json: &mut bool) -> std::result::Result<Option<Options>, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options::default();
    let mut parser = lexopt::Parser::from_env();
    let file = |value: OsString| Some(PathBuf::from(value));
    while let Some(word) = parser.next()? {
        match word {
            Long("help") | Short('h') => return Ok(None),
            Long("json") => (*json, options.json) = (true, true),
            Long("check") => options.check = file(parser.value()?),
            Long("certificate") => options.certificate = file(parser.value()?),
            Long("svg") => options.svg = file(parser.value()?),
            Long("rust") => options.rust = file(parser.value()?),
            Long("trace") => options.trace = file(parser.value()?),
            Long("cases") => options.cases = file(parser.value()?),
            Long("dtb") => options.dtb = file(parser.value()?),
            Value(value) => options.files.push(PathBuf::from(value)),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(options))
}
