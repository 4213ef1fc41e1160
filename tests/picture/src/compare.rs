//! How far two pictures lie apart.

use std::fmt;
use std::str::FromStr;

use crate::image::Image;

/// Absolute differences over all colour channels of all pixels, in steps of 1/255.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Difference {
    pub(crate) mean: f64,
    pub(crate) max: u8,
    /// Column and row of the first pixel with the largest difference.
    worst: (usize, usize),
}

impl Difference {
    /// Pictures of different sizes are an error: no scaling hides a wrong size.
    pub(crate) fn between(a: &Image, b: &Image) -> Result<Self, String> {
        if (a.width, a.height) != (b.width, b.height) {
            return Err(format!("sizes differ: {}x{} and {}x{}", a.width, a.height, b.width, b.height));
        }
        let (mut sum, mut max, mut worst) = (0u64, 0, 0);
        for (i, (&x, &y)) in a.rgb.iter().zip(&b.rgb).enumerate() {
            let difference = x.abs_diff(y);
            sum += u64::from(difference);
            if difference > max {
                (max, worst) = (difference, i / 3);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let mean = sum as f64 / a.rgb.len().max(1) as f64;
        Ok(Self { mean, max, worst: (worst % a.width.max(1), worst / a.width.max(1)) })
    }

    pub(crate) fn within(&self, tolerance: &Tolerance) -> bool {
        self.mean <= tolerance.mean && self.max <= tolerance.max
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mean {:.3}, max {} at ({}, {})", self.mean, self.max, self.worst.0, self.worst.1)
    }
}

/// The largest differences to accept, written `MEAN,MAX`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tolerance {
    mean: f64,
    max: u8,
}

impl FromStr for Tolerance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("a tolerance is MEAN,MAX such as 0.5,8, not '{text}'");
        let (mean, max) = text.split_once(',').ok_or_else(bad)?;
        let mean = mean.parse().ok().filter(|m: &f64| m.is_finite() && *m >= 0.0).ok_or_else(bad)?;
        Ok(Self { mean, max: max.parse().map_err(|_| bad())? })
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mean {}, max {}", self.mean, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures() {
        let a = Image::black(4, 2);
        let mut b = a.clone();
        b.set(1, 1, [0, 6, 18]);
        let difference = Difference::between(&a, &b).unwrap();
        assert_eq!(difference.to_string(), "mean 1.000, max 18 at (1, 1)");
        let within = |text: &str| difference.within(&text.parse().unwrap());
        assert!(within("1,18"));
        assert!(!within("0.99,18"));
        assert!(!within("1,17"));
    }

    #[test]
    fn refuses() {
        let error = Difference::between(&Image::black(4, 2), &Image::black(2, 4)).unwrap_err();
        assert_eq!(error, "sizes differ: 4x2 and 2x4");
        for text in ["", "1", "1,256", "-1,2", "nan,2", "1,2,3"] {
            assert!(text.parse::<Tolerance>().is_err(), "{text}");
        }
    }
}
