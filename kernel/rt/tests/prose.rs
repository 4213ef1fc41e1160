//! Documents that stand alone: each public function of the module opens with a verb in the third person.
//!
//! Guarantees: a public function whose document begins otherwise fails the test ("The number of ...", "Whether ...").
//! A comment that begins a sentence with "The same" fails it too, for such a sentence does not stand alone. So does a
//! line of a comment that has more than 120 columns. The compiler refuses a public function without a document.

mod sources;

/// The columns that a line of a comment has at most.
const COLUMNS: usize = 120;
/// Nouns that end as a verb does.
const NOUNS: [&str; 9] = ["Addresses", "Blocks", "Bytes", "Cells", "Counters", "Frames", "Lines", "Pages", "Sections"];

/// Returns whether a document opens with a verb in the third person.
fn opens_with_a_verb(document: &str) -> bool {
    let word = document.split_whitespace().next().unwrap_or_default();
    let word = word.trim_end_matches(',');
    let is_word = word.chars().all(|letter| letter.is_ascii_alphabetic());
    is_word
        && word.starts_with(|first: char| first.is_ascii_uppercase())
        && word.ends_with('s')
        && !NOUNS.contains(&word)
}

/// Returns the name of the public function that a line declares, if it declares one. All functions of a public trait
/// are public.
fn public_function(line: &str, in_trait: bool) -> Option<&str> {
    let mut words = line.split_whitespace();
    let mut is_public = in_trait;
    loop {
        match words.next()? {
            "pub" => is_public = true,
            "const" | "unsafe" | "extern" | "\"C\"" => {}
            "fn" if is_public => return words.next()?.split(['(', '<']).next(),
            _ => return None,
        }
    }
}

/// Returns what is wrong in a source, a line for each.
fn wrong(name: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut document, mut in_trait, mut in_attribute) = (None, false, false);
    for (n, line) in text.lines().enumerate() {
        let bare = line.trim_start();
        let comment = bare.strip_prefix("//").unwrap_or_default();
        if comment.contains(". The same ") || comment.trim_start_matches(['/', '!', ' ']).starts_with("The same ") {
            wrong.push(format!("{name}:{}: \"The same\"", n + 1));
        }
        // A row of a table stands in one line.
        if !comment.is_empty() && line.chars().count() > COLUMNS && !comment.contains("! |") && !comment.contains("/ |")
        {
            wrong.push(format!("{name}:{}: more than {COLUMNS} columns", n + 1));
        }
        if let Some(more) = bare.strip_prefix("///") {
            document = document.or(Some(more));
            continue;
        }
        if let (Some(function), Some(document)) = (public_function(bare, in_trait), document)
            && !opens_with_a_verb(document)
        {
            wrong.push(format!("{name}:{}: {function}: \"{}\"", n + 1, document.trim()));
        }
        if line.starts_with("pub trait ") || line.starts_with("pub unsafe trait ") {
            in_trait = true;
        } else if line.starts_with('}') {
            in_trait = false;
        }
        // Attributes stand between a document and its function.
        in_attribute |= bare.starts_with("#[");
        if !in_attribute && !bare.starts_with("//") {
            document = None;
        }
        in_attribute &= !bare.ends_with(']');
    }
    wrong
}

#[test]
fn each_public_function_says_what_it_does() {
    let sources = sources::of_the_module();
    let all: Vec<_> = sources.iter().flat_map(|(name, text)| wrong(name, text)).collect();
    assert!(all.is_empty(), "{all:#?}");
    assert!(sources.len() > 50, "{} sources", sources.len());
}

#[test]
fn a_document_that_leans_on_something_else_is_found() {
    let long = format!("// {}", "word ".repeat(COLUMNS / 5));
    assert_eq!(wrong("source", &long).len(), 1, "{long}");
    for text in [
        "/// The number of them.\npub fn count(&self) -> u32 {",
        "/// Whether it is.\n#[inline]\npub const fn is(&self) -> bool {",
        "    /// Bytes in all.\n    #[expect(\n        reason = \"one\"\n    )]\n    pub unsafe fn bytes(&self) -> u32 {",
        "pub trait Word {\n    /// A word.\n    fn word(&self);\n}",
        "/// It is so. The same of others.",
        "// The same again.",
    ] {
        assert_eq!(wrong("source", text).len(), 1, "{text}");
    }
    for text in [
        "/// Returns the number of them.\n///\n/// # Panics\n///\n/// If there are none.\npub fn count(&self) -> u32 {",
        "/// Its number.\npub(crate) fn number(&self) -> u32 {",
        "/// The number.\npub number: u32,\npub fn undocumented() {}",
        "trait Word {\n    /// A word.\n    fn word(&self);\n}",
        "/// It means the same.",
    ] {
        assert_eq!(wrong("source", text), [""; 0], "{text}");
    }
}
