//! What was counted, by machine and key.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;

/// A figure's distribution.
#[derive(Clone, Debug)]
pub(crate) enum Figure {
    /// All samples, in rising order.
    Samples(Vec<u64>),
    /// What is known of somebody else's.
    Summary { min: u64, median: u64, p99: u64, max: u64, samples: u64 },
}

impl Figure {
    /// Returns the least value that so many percent of the samples are not above.
    fn at(&self, percent: usize) -> u64 {
        match self {
            Self::Samples(samples) => samples[(samples.len() * percent / 100).min(samples.len() - 1)],
            Self::Summary { min, median, p99, max, .. } => match percent {
                0 => *min,
                50 => *median,
                99 => *p99,
                _ => *max,
            },
        }
    }

    pub(crate) fn min(&self) -> u64 {
        self.at(0)
    }

    pub(crate) fn median(&self) -> u64 {
        self.at(50)
    }

    pub(crate) fn p99(&self) -> u64 {
        self.at(99)
    }

    pub(crate) fn max(&self) -> u64 {
        self.at(100)
    }

    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Samples(samples) => samples.len() as u64,
            Self::Summary { samples, .. } => *samples,
        }
    }

    /// Returns all samples, in rising order; of a summary none.
    pub(crate) fn samples(&self) -> &[u64] {
        match self {
            Self::Samples(samples) => samples,
            Self::Summary { .. } => &[],
        }
    }

    pub(crate) fn mean(&self) -> f64 {
        let samples = self.samples();
        samples.iter().sum::<u64>() as f64 / samples.len().max(1) as f64
    }

    /// Returns the standard deviation of the samples, as that of the population they are drawn from is estimated.
    pub(crate) fn deviation(&self) -> f64 {
        let (mean, samples) = (self.mean(), self.samples());
        let squares: f64 = samples.iter().map(|&value| (value as f64 - mean).powi(2)).sum();
        (squares / samples.len().saturating_sub(1).max(1) as f64).sqrt()
    }
}

/// The figures of one machine, by key.
pub(crate) type Figures = BTreeMap<String, Figure>;

/// The figures of all machines.
#[derive(Default)]
pub(crate) struct Machines(BTreeMap<String, Figures>);

impl Machines {
    /// Adds a program's output: lines `bench KEY COST...`, `COSTxN` for N equal ones, and `count KEY VALUE`.
    pub(crate) fn add(&mut self, machine: &str, log: &str) -> Result<(), Box<dyn Error>> {
        let figures = self.0.entry(machine.to_owned()).or_default();
        for line in log.lines() {
            let mut words = line.split_whitespace();
            let (Some("bench" | "count"), Some(key)) = (words.next(), words.next()) else { continue };
            let mut samples = Vec::new();
            for word in words {
                let (value, times) = word.split_once('x').unwrap_or((word, "1"));
                let value: u64 = value.parse().map_err(|_| format!("{machine}: not a cost: {line}"))?;
                samples.extend(std::iter::repeat_n(value, times.parse()?));
            }
            samples.sort_unstable();
            if !samples.is_empty() && figures.insert(key.to_owned(), Figure::Samples(samples)).is_some() {
                return Err(format!("{machine}: two series of {key}").into());
            }
        }
        Ok(())
    }

    /// Adds what is known of Linux: lines `KEY;MIN;MEDIAN;P99;MAX;SAMPLES;FILE`.
    pub(crate) fn add_linux(&mut self, text: &str) -> Result<(), Box<dyn Error>> {
        let figures = self.0.entry("linux".to_owned()).or_default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let [key, min, median, p99, max, samples, _file] = line.split(';').collect::<Vec<_>>()[..] else {
                return Err(format!("not a line of linux.csv: {line}").into());
            };
            let (min, median, p99, max) = (min.parse()?, median.parse()?, p99.parse()?, max.parse()?);
            let figure = Figure::Summary { min, median, p99, max, samples: samples.parse()? };
            figures.insert(key.to_owned(), figure);
        }
        Ok(())
    }

    /// Returns the figure that `MACHINE:KEY` names.
    pub(crate) fn get(&self, name: &str) -> Option<&Figure> {
        let (machine, key) = name.split_once(':')?;
        self.0.get(machine)?.get(key)
    }

    /// Returns the figures of one machine.
    pub(crate) fn of(&self, machine: &str) -> impl Iterator<Item = (&str, &Figure)> {
        self.0.get(machine).into_iter().flatten().map(|(key, figure)| (key.as_str(), figure))
    }

    /// Returns all that was counted, in a line each.
    pub(crate) fn csv(&self) -> String {
        let mut csv = String::from("machine,key,min,median,mean,p99,max,samples\n");
        for (machine, figures) in self.0.iter().filter(|(machine, _)| *machine != "linux") {
            for (key, figure) in figures {
                let [min, median, p99, max] = [figure.min(), figure.median(), figure.p99(), figure.max()];
                let (mean, count) = (figure.mean(), figure.count());
                let _ = writeln!(csv, "{machine},{key},{min},{median},{mean:.1},{p99},{max},{count}");
            }
        }
        csv
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_costs_are_written_once() {
        let mut machines = Machines::default();
        machines.add("m", "hello\nbench a 20 10x3\ncount b 7\n").unwrap();
        let a = machines.get("m:a").unwrap();
        assert_eq!((a.samples(), a.median(), a.p99(), a.mean()), (&[10, 10, 10, 20][..], 10, 20, 12.5));
        assert_eq!(a.deviation(), 5.0);
        assert_eq!(machines.get("m:b").map(Figure::max), Some(7));
        assert!(machines.add("m", "count b 8\n").is_err(), "two of a key");
        assert!(machines.add("m", "bench c ten\n").is_err());
    }
}
