//! What is wrong, where, and what would help.
//!
//! Guarantees: each fault of a text names its file and line, and shows the line, as rustc does. No input makes the tool
//! panic: what it cannot read, it refuses with one of these.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};

/// A text that was read.
#[derive(Debug)]
pub struct Source {
    /// The file's name, as it was given.
    pub name: String,
    /// All of it.
    pub text: String,
}

impl Source {
    /// Makes a source of a file's name and text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Rc<Self> {
        Rc::new(Self { name: name.into(), text: text.into() })
    }

    /// Returns the line of a byte, counted from 1.
    pub fn line(&self, at: usize) -> usize {
        self.text.char_indices().take_while(|&(place, _)| place < at).filter(|&(_, char)| char == '\n').count() + 1
    }

    /// Returns a fault at these bytes.
    pub fn fault(self: &Rc<Self>, span: Range<usize>, what: impl Into<String>) -> Fault {
        let place = Place { source: self.clone(), span, label: String::new() };
        Fault { what: what.into(), place: Some(place), notes: Vec::new(), helps: Vec::new() }
    }
}

/// Where a fault lies.
#[derive(Clone, Debug)]
struct Place {
    source: Rc<Source>,
    span: Range<usize>,
    label: String,
}

/// Something that is wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What is wrong, in one line.
    pub what: String,
    place: Option<Place>,
    notes: Vec<String>,
    helps: Vec<String>,
}

/// The result of what may be refused.
pub type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    /// Returns a fault that lies in no line of a text.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), place: None, notes: Vec::new(), helps: Vec::new() }
    }

    /// Adds what is to be said of the very place.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        if let Some(place) = &mut self.place {
            place.label = label.into();
        }
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds what would help.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.helps.push(help.into());
        self
    }

    /// Returns what would help.
    pub fn helps(&self) -> &[String] {
        &self.helps
    }

    /// Returns the fault for a program to read.
    pub fn json(&self) -> Value {
        let place = self.place.as_ref();
        json!({
            "error": self.what,
            "file": place.map(|place| place.source.name.as_str()),
            "line": place.map(|place| place.source.line(place.span.start)),
            "label": place.map(|place| place.label.as_str()),
            "notes": self.notes,
            "help": self.helps,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = Level::ERROR.primary_title(self.what.as_str());
        let mut first = match &self.place {
            Some(place) => {
                // A span of nothing would show nothing.
                let span = place.span.start..place.span.end.max(place.span.start + 1).min(place.source.text.len());
                let mark = AnnotationKind::Primary.span(span).label(place.label.as_str());
                title.element(
                    Snippet::source(place.source.text.as_str()).path(place.source.name.as_str()).annotation(mark),
                )
            }
            None => Group::with_title(title),
        };
        first = first.elements(self.notes.iter().map(|note| Level::NOTE.message(note.as_str())));
        first = first.elements(self.helps.iter().map(|help| Level::HELP.message(help.as_str())));
        f.write_str(&Renderer::plain().render(&[first]))
    }
}

impl std::error::Error for Fault {}
