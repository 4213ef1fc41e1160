//! Every error of the module is one to whoever handles errors.
//!
//! Guarantees: a public type whose name ends in `Error` is a `core::error::Error`.

mod sources;

/// Returns the name of the error that a line declares, if it declares a public one.
fn error_of(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub enum ").or_else(|| line.strip_prefix("pub struct "))?;
    rest.split([' ', '<', '(', ';']).next().filter(|name| name.ends_with("Error"))
}

#[test]
fn every_error_is_one() {
    let mut errors = 0;
    for (name, text) in sources::of_the_module() {
        for error in text.lines().filter_map(error_of) {
            let named = |line: &str| line.contains(&format!("core::error::Error for {error}"));
            assert!(text.lines().any(named), "{name}: {error} is no core::error::Error");
            errors += 1;
        }
    }
    assert!(errors > 15, "{errors} errors");
}
