//! Judges a guest's output. Guarantees that no line of complaint passes unless a pattern expects it.

use wildmatch::WildMatch;

/// The starts of lines that complain.
const COMPLAINTS: [&str; 6] = ["refused:", "error:", "warn:", "panic:", "exception:", "audit: FAILED:"];

/// Says what is wrong, a line each: another exit code, a pattern that does not match exactly one whole line, a
/// complaint that no pattern matches. In a pattern `*` is any text and `?` any character.
pub(crate) fn wrong(exit: i32, output: &str, want: i32, patterns: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    if exit != want {
        wrong.push(format!("exit code {exit}, expected {want}"));
    }
    // The console ends its lines with CR LF.
    let lines: Vec<&str> = output.lines().map(|line| line.trim_end_matches('\r')).collect();
    let matchers: Vec<WildMatch> = patterns.iter().map(|pattern| WildMatch::new(pattern)).collect();
    for (pattern, matcher) in patterns.iter().zip(&matchers) {
        let matches = lines.iter().filter(|line| matcher.matches(line)).count();
        if matches != 1 {
            wrong.push(format!("{matches} lines, not one, match: {pattern}"));
        }
    }
    let complaints = lines.iter().filter(|line| COMPLAINTS.iter().any(|start| line.starts_with(start)));
    let unexpected = complaints.filter(|line| !matchers.iter().any(|matcher| matcher.matches(line)));
    wrong.extend(unexpected.map(|line| format!("unexpected: {line}")));
    wrong
}

/// Says which pattern has a line only before the line of the pattern before it.
pub(crate) fn out_of_order(output: &str, patterns: &[String]) -> Vec<String> {
    let mut lines = output.lines().map(|line| line.trim_end_matches('\r'));
    let first = patterns.iter().find(|pattern| {
        let matcher = WildMatch::new(pattern);
        !lines.any(|line| matcher.matches(line))
    });
    first.map(|pattern| format!("not after the lines before it: {pattern}")).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(output: &str, patterns: &[&str]) -> Vec<String> {
        wrong(0, output, 0, &patterns.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>())
    }

    const NOTHING: [&str; 0] = [];

    #[test]
    fn a_pattern_is_a_whole_line() {
        assert_eq!(of("demo: ok\r\n", &["demo: ok"]), NOTHING);
        assert_eq!(of("the demo: ok\n", &["demo: ok"]), ["0 lines, not one, match: demo: ok"]);
        assert_eq!(of("a 12 b\n", &["a * b"]), NOTHING);
        assert_eq!(of("pc 0xff01\n", &["pc 0xff0?"]), NOTHING);
        assert_eq!(of("pc 0xff012\n", &["pc 0xff0?"]), ["0 lines, not one, match: pc 0xff0?"]);
        assert_eq!(of("memory [1]\n", &["memory [1]"]), NOTHING);
    }

    #[test]
    fn just_one_line_matches() {
        assert_eq!(of("ok\nok\n", &["ok"]), ["2 lines, not one, match: ok"]);
    }

    #[test]
    fn lines_come_in_their_order() {
        let of = |patterns: &[&str]| {
            out_of_order("SPL\r\nU-Boot\r\nours\r\n", &patterns.iter().map(|&one| one.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["SPL", "U-*", "ours"]), NOTHING);
        assert_eq!(of(&["SPL", "ours", "U-*"]), ["not after the lines before it: U-*"]);
    }

    #[test]
    fn complaints_are_expected_or_wrong() {
        let two = "refused: a\nrefused: b\n";
        assert_eq!(of(two, &["refused: a"]), ["unexpected: refused: b"]);
        assert_eq!(of(two, &["refused: a", "refused: b"]), NOTHING);
        for start in COMPLAINTS {
            assert_eq!(of(&format!("{start} x\n"), &[]).len(), 1, "{start}");
        }
        assert_eq!(of("the error: x\n", &[]), NOTHING);
    }

    #[test]
    fn exit_codes_differ() {
        assert_eq!(wrong(3, "", 1, &[]), ["exit code 3, expected 1"]);
    }
}
