//! Checks the book and the other documents: each chapter stands in the summary once and its code is compiled, each
//! relative link leads to a file and a heading, and each path of the repository that the text names exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// Documents outside of the book, which link to it and to each other.
const OUTSIDE: [&str; 5] = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "BENCH.md", "tests/incoherent/README.md"];

/// Folders that builds make, and that the text may name.
const MADE: [&str; 1] = ["target"];

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("this package lies in the repository")
}

/// What a document links to, what can be linked to in it, and which paths it names.
#[derive(Default)]
struct Document {
    links: Vec<String>,
    anchors: BTreeSet<String>,
    paths: Vec<String>,
}

impl Document {
    fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self::parse(&text, &fs::read_dir(root()).unwrap().map(|entry| name(&entry.unwrap().path())).collect())
    }

    /// Reads a document. A code span names a path if it begins with one of the `tops` and a slash.
    fn parse(text: &str, tops: &BTreeSet<String>) -> Self {
        let (mut document, mut heading) = (Self::default(), None::<String>);
        let mut times = BTreeMap::<String, usize>::new();
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let id = anchor(&heading.take().expect("it was begun"));
                    let count = times.entry(id.clone()).or_default();
                    document.anchors.insert(if *count == 0 { id } else { format!("{id}-{count}") });
                    *count += 1;
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push(dest_url.to_string());
                }
                Event::Text(words) | Event::Code(words) if heading.is_some() => {
                    heading.get_or_insert_default().push_str(&words);
                }
                Event::Code(words) => document.paths.extend(path(&words, tops)),
                _ => {}
            }
        }
        document
    }
}

/// Returns the last part of a path.
fn name(path: &Path) -> String {
    path.file_name().expect("an entry has a name").to_string_lossy().into_owned()
}

/// Returns the anchor that mdBook and GitHub give a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|&char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'));
    kept.map(|char| if char == ' ' { '-' } else { char }).collect::<String>().to_lowercase()
}

/// Returns the path of the repository that a code span begins with: its first word, up to a name in capitals or a
/// pattern.
fn path(code: &str, tops: &BTreeSet<String>) -> Option<String> {
    let word = code.split_whitespace().next()?;
    let word = word.strip_prefix("./").unwrap_or(word);
    let (top, _) = word.split_once('/')?;
    if !tops.contains(top) || MADE.contains(&top) {
        return None;
    }
    let part = |part: &&str| !part.is_empty() && !part.contains(['*', '?']) && part.chars().any(char::is_lowercase);
    Some(word.split('/').take_while(part).collect::<Vec<_>>().join("/"))
}

/// Returns the chapters' files as the summary names them, in its order.
fn chapters() -> Vec<String> {
    Document::read(&root().join("docs/src/SUMMARY.md")).links
}

/// Returns all documents by their path from the root.
fn documents() -> BTreeMap<PathBuf, Document> {
    let book = chapters().into_iter().map(|chapter| Path::new("docs/src").join(chapter));
    book.chain(OUTSIDE.map(PathBuf::from)).map(|file| (file.clone(), Document::read(&root().join(&file)))).collect()
}

#[test]
fn each_chapter_is_in_the_summary_once() {
    let named = chapters();
    let files: BTreeSet<_> = fs::read_dir(root().join("docs/src"))
        .unwrap()
        .map(|entry| name(&entry.unwrap().path()))
        .filter(|file| Path::new(file).extension().is_some_and(|end| end == "md") && file != "SUMMARY.md")
        .collect();
    assert_eq!(files, named.iter().cloned().collect());
    assert_eq!(files.len(), named.len(), "a chapter is named twice");
}

#[test]
fn the_code_of_each_chapter_is_compiled() {
    let mut files = ["../README.md", "../kernel/carveout/README.md"].map(str::to_owned).to_vec();
    files.extend(chapters().iter().map(|chapter| format!("src/{chapter}")));
    assert_eq!(book::COMPILED, files, "book.rs names the READMEs and the summary's chapters in order");
}

#[test]
fn each_link_leads_somewhere() {
    let (root, documents) = (root(), documents());
    let mut broken = Vec::new();
    for (file, document) in &documents {
        for link in document.links.iter().filter(|link| !link.contains("://")) {
            let (target, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if target.is_empty() { file.clone() } else { file.parent().unwrap().join(target) };
            let Ok(place) = root.join(&target).canonicalize() else {
                broken.push(format!("{}: no file: {link}", file.display()));
                continue;
            };
            let place = place.strip_prefix(&root).unwrap_or(&place);
            if file.starts_with("docs/src") && !place.starts_with("docs/src") {
                broken.push(format!("{}: leads out of the book: {link}", file.display()));
            }
            if !heading.is_empty() && documents.get(place).is_none_or(|there| !there.anchors.contains(heading)) {
                broken.push(format!("{}: no such heading: {link}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn each_path_that_is_named_exists() {
    let root = root();
    let named =
        |(file, document): (PathBuf, Document)| document.paths.into_iter().map(move |path| (file.clone(), path));
    let lost: Vec<_> = documents()
        .into_iter()
        .flat_map(named)
        .filter(|(_, path)| !root.join(path).exists())
        .map(|(file, path)| format!("{}: {path}", file.display()))
        .collect();
    assert!(lost.is_empty(), "no such file:\n{}", lost.join("\n"));
}

/// The parser's own test: what it takes for a heading, a link and a path.
#[test]
fn a_document_is_read_as_its_readers_see_it() {
    let tops = ["kernel", "tests", "target"].map(str::to_owned).into();
    let text = "# One `code`, two\n## Again\n## Again\n[a](b.md#c) ![d](e.png)\n\n    [no](link)\n\n\
                `kernel/src/a.rs`, `./tests/run.sh --quick`, `tests/cases/*.toml`, `boot/NAME`, `kernel/NAME/x`, `target/x`\n";
    let document = Document::parse(text, &tops);
    assert_eq!(document.anchors, ["one-code-two", "again", "again-1"].map(str::to_owned).into());
    assert_eq!(document.links, ["b.md#c", "e.png"]);
    assert_eq!(document.paths, ["kernel/src/a.rs", "tests/run.sh", "tests/cases", "kernel"]);
}
