//! The line: editing, history and completion are those of the crate `embedded-cli`.
//!
//! Guarantees: each line is given on as its words. A line has at most [`LINE`] bytes: what is typed beyond them is
//! neither taken nor echoed.

use super::commands::COMMANDS;
use crate::kernel::console;
use crate::println;
use alloc::vec::Vec;
use core::convert::Infallible;
use embedded_cli::arguments::Arg;
use embedded_cli::autocomplete::{Autocompletion, Request};
use embedded_cli::cli::{CliBuilder, CliHandle};
use embedded_cli::command::RawCommand;
use embedded_cli::service::{Autocomplete, Help};
use embedded_io::{ErrorType, Write};

/// The most bytes of a line, and the bytes of all lines that are kept.
const LINE: usize = 128;
const HISTORY: usize = 1024;
const PROMPT: &str = "carveout> ";

/// What a terminal sends for its backspace key, and what the crate takes for it.
const DELETE: u8 = 0x7f;
const BACKSPACE: u8 = 0x08;

/// Whether the shell goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Line,
    End,
}

/// The console, as the crate writes to it: its line ends are a terminal's already.
struct Terminal;

impl ErrorType for Terminal {
    type Error = Infallible;
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        console::write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The first word of a line, completed from the table of commands.
struct Names;

impl Autocomplete for Names {
    fn autocomplete(request: Request<'_>, completion: &mut Autocompletion<'_>) {
        if let Request::CommandName(start) = request {
            // The crate itself completes `help`.
            let names = COMMANDS.iter().map(|command| command.name).filter(|&name| name != "help");
            names.filter_map(|name| name.strip_prefix(start)).for_each(|rest| completion.merge_autocompletion(rest));
        }
    }
}

impl Help for Names {}

/// Gives each line to `each` until that says that it was the last.
pub(super) fn serve(mut each: impl FnMut(&[&str]) -> Next) {
    let cli = CliBuilder::default().writer(Terminal).command_buffer([0; LINE]).history_buffer([0; HISTORY]);
    let Ok(mut cli) = cli.prompt(PROMPT).build();
    let mut next = Next::Line;
    while next == Next::Line {
        let byte = match console::read() {
            DELETE => BACKSPACE,
            byte => byte,
        };
        let mut processor = RawCommand::processor(|handle: &mut CliHandle<'_, Terminal, Infallible>, line| {
            let Some(words) = words(&line) else {
                println!("refused: a word begins with '-': commands have no options, and no number is negative");
                return Ok(());
            };
            next = each(&words);
            if next == Next::End {
                handle.set_prompt("");
            }
            Ok(())
        });
        let Ok(()) = cli.process_byte::<Names, _>(byte, &mut processor);
    }
}

/// Returns the words of a line, or `None` if one of them begins with a minus sign: the crate takes that for an option.
fn words<'l>(line: &RawCommand<'l>) -> Option<Vec<&'l str>> {
    let arguments = line.args();
    let rest = arguments.args().map(|word| match word {
        Ok(Arg::Value(word)) => Some(word),
        _ => None,
    });
    core::iter::once(Some(line.name())).chain(rest).collect()
}
