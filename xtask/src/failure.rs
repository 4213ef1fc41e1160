//! The failure of a command: one line for people, and the exit code.

use std::fmt;

/// The exit code if the command line, a file or the machine is at fault.
const AT_FAULT: u8 = 2;

/// A command's failure.
#[derive(Debug)]
pub(crate) struct Failure {
    line: String,
    code: u8,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// Returns a failure of the caller or the machine: exit code 2.
    pub(crate) fn new(line: impl Into<String>) -> Self {
        Self::with_code(line, AT_FAULT)
    }

    /// Returns a failure with another exit code.
    pub(crate) fn with_code(line: impl Into<String>, code: u8) -> Self {
        Self { line: line.into(), code }
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        match error {
            lexopt::Error::UnexpectedOption(option) => Self::new(format!("unknown option {option}; see --help")),
            lexopt::Error::MissingValue { option: Some(option) } => Self::new(format!("{option} needs a value")),
            other => Self::new(format!("{other}; see --help")),
        }
    }
}

/// Adds to an error the action that failed.
pub(crate) trait Context<T> {
    /// Returns the value, or the failure "WHAT: ERROR".
    fn doing(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failure::new(format!("{what}: {error}")))
    }
}
