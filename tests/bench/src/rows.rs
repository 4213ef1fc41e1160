//! The tables: a row of rows.csv each, beside the hardest of its peers.

use crate::figures::{Figure, Machines};
use std::error::Error;
use std::fmt::Write as _;

/// What a row shows of its figure, and which of two is better.
#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Median,
    P99,
    Max,
    Mean,
    /// A share in hundredths.
    Hundredths,
    /// A count that is better the larger it is.
    Least,
}

impl Unit {
    fn of(self, figure: &Figure) -> f64 {
        match self {
            Self::Median | Self::Least => figure.median() as f64,
            Self::Hundredths => figure.median() as f64 / 100.0,
            Self::P99 => figure.p99() as f64,
            Self::Max => figure.max() as f64,
            Self::Mean => figure.mean(),
        }
    }

    fn shown(self, value: f64) -> String {
        match self {
            Self::Mean => format!("{value:.1}"),
            Self::Hundredths => format!("{value:.2}"),
            _ => grouped(value),
        }
    }

    /// Returns the value, and what else is known of the distribution.
    fn with_distribution(self, figure: &Figure) -> String {
        let value = self.shown(self.of(figure));
        if figure.count() == 1 {
            return value;
        }
        let [min, median, max] = [figure.min(), figure.median(), figure.max()].map(|value| grouped(value as f64));
        let count = grouped(figure.count() as f64);
        match self {
            Self::P99 => format!("{value} (median {median}, max {max}, {count})"),
            Self::Max => format!("{value} (median {median}, {count})"),
            Self::Mean => format!("{value} ± {:.1} ({min} to {max}, {count})", figure.deviation()),
            _ => format!("{value} ({min} to {max}, {count})"),
        }
    }
}

/// Returns a number with its thousands apart.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns whose figure a peer's name means: `MACHINE:WHO/...`.
fn who(peer: &str) -> String {
    let who = peer.split_once(':').map_or(peer, |(_, key)| key).split('/').next().unwrap_or_default();
    match who {
        "tlsf" => "TLSF".to_owned(),
        "C" | "E" | "F" | "G" => format!("Linux {who}"),
        "module" | "module-idle" | "module-warm" => "the host".to_owned(),
        other => other.to_owned(),
    }
}

/// A row as rows.csv has it.
struct Row<'r> {
    what: &'r str,
    name: &'r str,
    unit: Unit,
    peers: Vec<&'r str>,
    budget: Option<f64>,
    floor: Option<f64>,
    floor_is: &'r str,
}

impl<'r> Row<'r> {
    fn read(line: &'r str) -> Result<Self, Box<dyn Error>> {
        let [what, name, unit, peers, budget, floor, floor_is] = line.split(';').collect::<Vec<_>>()[..] else {
            return Err(format!("not a row: {line}").into());
        };
        let unit = match unit {
            "median" => Unit::Median,
            "p99" => Unit::P99,
            "max" => Unit::Max,
            "mean" => Unit::Mean,
            "hundredths" => Unit::Hundredths,
            "least" => Unit::Least,
            _ => return Err(format!("no such unit: {line}").into()),
        };
        let number = |cell: &str| if cell.is_empty() { Ok(None) } else { cell.parse().map(Some) };
        let (budget, floor) = (number(budget)?, number(floor)?);
        Ok(Self { what, name, unit, peers: peers.split_whitespace().collect(), budget, floor, floor_is })
    }

    /// Returns the row in Markdown. Names that have no figure go to `missing`.
    fn shown(&self, machines: &Machines, missing: &mut Vec<String>) -> String {
        let ours = machines.get(self.name);
        if ours.is_none() {
            missing.push(self.name.to_owned());
        }
        let value = ours.map(|figure| self.unit.of(figure));
        // A mean is held as it is shown.
        let rounded = value.map(|value| if self.unit == Unit::Mean { (value * 10.0).round() / 10.0 } else { value });
        let better_is_more = self.unit == Unit::Least;
        let mut peers = Vec::new();
        for peer in &self.peers {
            match machines.get(peer) {
                Some(figure) => peers.push((who(peer), self.unit.of(figure), figure)),
                None => missing.push((*peer).to_owned()),
            }
        }
        // The hardest first.
        peers.sort_by(|a, b| if better_is_more { b.1.total_cmp(&a.1) } else { a.1.total_cmp(&b.1) });
        let ratio = match (value, peers.first()) {
            (Some(ours), Some(&(_, hardest, _))) if !better_is_more && ours > 0.0 && hardest > 0.0 => {
                ratio(ours / hardest)
            }
            _ => String::new(),
        };
        let said = |(who, value, figure): &(String, f64, &Figure)| match self.unit {
            Unit::Mean => format!("{who} {value:.1} ± {:.1}", figure.deviation()),
            unit => format!("{who} {}", unit.shown(*value)),
        };
        let peers = peers.iter().map(said).collect::<Vec<_>>().join(", ");
        let verdict = match (rounded, self.budget) {
            (Some(ours), Some(budget)) if (if better_is_more { ours >= budget } else { ours <= budget }) => "held",
            (_, Some(_)) => "MISSED",
            _ => "",
        };
        let number = |value: Option<f64>| value.map(|value| self.unit.shown(value)).unwrap_or_default();
        let floor = match self.floor {
            Some(floor) => format!("{} ({})", self.unit.shown(floor), self.floor_is),
            None => String::new(),
        };
        let shown = ours.map_or("-".to_owned(), |figure| self.unit.with_distribution(figure));
        let (what, budget) = (self.what, number(self.budget));
        format!("| {what} | {shown} | {budget} | {verdict} | {floor} | {peers} | {ratio} |\n")
    }
}

/// Returns a cost as a share of a peer's.
fn ratio(times: f64) -> String {
    match times {
        _ if times >= 10.0 => format!("{} times", grouped(times)),
        _ if times >= 1.0 => format!("{times:.1} times"),
        _ if times > 0.1 => format!("1/{:.1}", 1.0 / times),
        _ => format!("1/{}", grouped(1.0 / times)),
    }
}

/// Returns the tables of rows.csv, and the names of figures that there are none of.
///
/// A line that begins with `##` is a heading, one with `>` a sentence below it; a table follows.
pub(crate) fn tables(text: &str, machines: &Machines) -> Result<(String, Vec<String>), Box<dyn Error>> {
    let (mut tables, mut missing) = (String::new(), Vec::new());
    let mut in_table = false;
    for line in text.lines().filter(|line| !line.is_empty() && (!line.starts_with('#') || line.starts_with("##"))) {
        if line.starts_with("##") {
            let _ = write!(tables, "{}{line}\n\n", if tables.is_empty() { "" } else { "\n" });
            in_table = false;
        } else if let Some(sentence) = line.strip_prefix("> ") {
            let _ = writeln!(tables, "{sentence}");
        } else {
            if !in_table {
                tables += "\n| what | ours | budget | | floor | peers, the hardest first | ours to that |\n";
                tables += "|---|---|---|---|---|---|---|\n";
            }
            in_table = true;
            tables += &Row::read(line)?.shown(machines, &mut missing);
        }
    }
    Ok((tables, missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machines() -> Machines {
        let mut machines = Machines::default();
        machines.add("a9", "bench alloc/4K 100x2 300\ncount tlsf/alloc/4K 50\ncount open 1\n").unwrap();
        machines.add_linux("F/alloc/4K;1;2000;3;4;5;F.res\n").unwrap();
        machines
    }

    fn row(line: &str) -> (String, Vec<String>) {
        let mut missing = Vec::new();
        (Row::read(line).unwrap().shown(&machines(), &mut missing), missing)
    }

    #[test]
    fn the_hardest_peer_comes_first() {
        let (row, missing) = row("alloc;a9:alloc/4K;median;linux:F/alloc/4K a9:tlsf/alloc/4K;90;32;zeros");
        assert_eq!(
            row,
            "| alloc | 100 (100 to 300, 3) | 90 | MISSED | 32 (zeros) | TLSF 50, Linux F 2,000 | 2.0 times |\n"
        );
        assert!(missing.is_empty());
    }

    #[test]
    fn a_budget_is_held_from_the_side_that_is_better() {
        assert!(row("a;a9:alloc/4K;median;;100;;").0.contains("| held |"));
        assert!(row("a;a9:open;least;;2;;").0.contains("| MISSED |"));
        assert!(row("a;a9:open;least;;1;;").0.contains("| held |"));
        assert!(row("a;a9:open;median;;;;").0.contains("| 1 |  |  |"));
    }

    #[test]
    fn a_figure_that_is_not_there_is_named() {
        let (row, missing) = row("a;a9:alloc/8K;median;linux:F/alloc/8K;1;;");
        assert!(row.contains("| - | 1 | MISSED |"));
        assert_eq!(missing, ["a9:alloc/8K", "linux:F/alloc/8K"]);
    }

    #[test]
    fn a_ratio_has_two_digits() {
        assert_eq!([12.4, 2.04, 0.4, 0.01].map(ratio), ["12 times", "2.0 times", "1/2.5", "1/100"]);
    }
}
