//! The commands: one table, from which help and completion come.
//!
//! Guarantees: a word that is no command, and a command with the wrong words, are refused in one line.

use super::line::Next;
use super::session::Session;
use super::{alloc_free, reports, stress, trace, why};
use crate::println;
use alloc::format;
use alloc::string::String;

/// Why a command did nothing.
pub(super) enum Refused {
    /// The words after it are not those that it takes.
    Usage,
    /// For a reason of its own.
    Because(String),
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self::Because(why)
    }
}

/// A command.
pub(super) struct Command {
    /// Its first word.
    pub(super) name: &'static str,
    /// The words that follow: in capitals what is to be replaced, in brackets what may be left out.
    arguments: &'static str,
    help: &'static str,
    run: Run,
}

/// What a command does.
#[derive(Clone, Copy)]
enum Run {
    /// It takes no words.
    Alone(fn(&mut Session)),
    /// It takes the words that follow.
    With(fn(&mut Session, &[&str]) -> Result<(), Refused>),
}

/// The commands, in the order of the help.
pub(super) static COMMANDS: [Command; 14] = [
    command("areas", "", "say who has how much of each area", Run::Alone(reports::areas)),
    command("map", "AREA", "draw who has which part of an area", Run::With(reports::map)),
    command("holders", "", "list the buffers of all devices", Run::Alone(reports::holders)),
    command("alloc", "MASTER SIZE", "allocate a buffer for a device", Run::With(alloc_free::alloc)),
    command("free", "[NUMBER|all]", "free a buffer, or list those of alloc", Run::With(alloc_free::free)),
    command("lend", "[SIZE|none]", "lend idle memory to a cache, or take it back", Run::With(alloc_free::lend)),
    command(
        "contract",
        "MASTER none|COUNT SIZE",
        "promise buffers to a device, or end that",
        Run::With(alloc_free::contract),
    ),
    command("contracts", "", "list the contracts", Run::Alone(reports::contracts)),
    command("why", "", "explain the last refusal", Run::Alone(why::why)),
    command("stress", "STEPS", "allocate, hand over, free; look at all bytes", Run::With(stress::stress)),
    command("audit", "", "compare all page tables with the books", Run::Alone(reports::audit)),
    command("trace", "[on|off]", "record events, or list the last of them", Run::With(trace::trace)),
    command("help", "[COMMAND]", "list the commands, or show one", Run::With(help)),
    command("exit", "", "free everything and end the kernel", Run::Alone(exit)),
];

const fn command(name: &'static str, arguments: &'static str, help: &'static str, run: Run) -> Command {
    Command { name, arguments, help, run }
}

/// Runs a line.
pub(super) fn run(session: &mut Session, words: &[&str]) -> Next {
    let [name, words @ ..] = words else { return Next::Line };
    let Some(command) = COMMANDS.iter().find(|command| command.name == *name) else {
        println!("refused: {}", unknown(name));
        return Next::Line;
    };
    let done = match (command.run, words) {
        (Run::Alone(run), []) => {
            run(session);
            Ok(())
        }
        (Run::Alone(_), _) => Err(Refused::Usage),
        (Run::With(run), words) => run(session, words),
    };
    match done {
        Ok(()) => {}
        Err(Refused::Because(why)) => println!("refused: {why}"),
        Err(Refused::Usage) => {
            let takes = if command.arguments.is_empty() { "no words" } else { command.arguments };
            println!("refused: {name} takes {takes}, not '{}'", words.join(" "));
        }
    }
    if session.over { Next::End } else { Next::Line }
}

const fn exit(session: &mut Session) {
    session.over = true;
}

fn help(_: &mut Session, words: &[&str]) -> Result<(), Refused> {
    let only = match words {
        [] => None,
        [name] => Some(*name),
        _ => return Err(Refused::Usage),
    };
    if let Some(name) = only
        && !COMMANDS.iter().any(|command| command.name == name)
    {
        return Err(unknown(name).into());
    }
    for Command { name, arguments, help, .. } in
        COMMANDS.iter().filter(|command| only.is_none_or(|name| command.name == name))
    {
        println!("{:<32} {help}", format!("{name} {arguments}"));
    }
    Ok(())
}

fn unknown(name: &str) -> String {
    format!("'{name}' is no command; help lists the {} that there are", COMMANDS.len())
}
