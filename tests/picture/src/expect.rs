//! What the demo must show of a picture: inside the screen with its aspect ratio, never enlarged, centred on black.

use crate::image::Image;

/// The demo's screen, in pixels.
pub(crate) const SCREEN: (usize, usize) = (640, 480);

/// The size at which a picture of `width` by `height` is shown, each side rounded to the nearest, at least 1.
pub(crate) fn fit(width: usize, height: usize) -> (usize, usize) {
    let (max_w, max_h) = SCREEN;
    let scaled = |side: usize, num: usize, den: usize| ((2 * side * num + den) / (2 * den)).max(1);
    if width <= max_w && height <= max_h {
        (width, height)
    } else if width * max_h >= height * max_w {
        (max_w, scaled(height, max_w, width))
    } else {
        (scaled(width, max_h, height), max_h)
    }
}

/// The screen showing `picture`.
pub(crate) fn on_screen(picture: &Image) -> Image {
    let (width, height) = fit(picture.width, picture.height);
    let (left, top) = ((SCREEN.0 - width) / 2, (SCREEN.1 - height) / 2);
    let columns = spans(picture.width, width);
    let rows = spans(picture.height, height);
    let mut screen = Image::black(SCREEN.0, SCREEN.1);
    for (y, row) in rows.iter().enumerate() {
        for (x, column) in columns.iter().enumerate() {
            screen.set(left + x, top + y, average(picture, column, row));
        }
    }
    screen
}

/// The source pixels that one destination pixel covers along one side: the first, and the share of each.
struct Span {
    first: usize,
    shares: Vec<f64>,
}

/// Cuts `from` pixels into `to` spans of equal length.
#[expect(clippy::cast_precision_loss, reason = "a JPEG's sides are below 65536")]
fn spans(from: usize, to: usize) -> Vec<Span> {
    (0..to)
        .map(|i| {
            // The span is [i * from, (i + 1) * from) in units of 1/to of a source pixel: exact in integers.
            let (start, end) = (i * from, (i + 1) * from);
            let (first, last) = (start / to, (end - 1) / to);
            let share = |p: usize| (end.min((p + 1) * to) - start.max(p * to)) as f64 / from as f64;
            Span { first, shares: (first..=last).map(share).collect() }
        })
        .collect()
}

/// The mean colour of a rectangle with fractional edges, rounded to the nearest.
fn average(picture: &Image, column: &Span, row: &Span) -> [u8; 3] {
    let mut sum = [0.0; 3];
    for (dy, share_y) in row.shares.iter().enumerate() {
        for (dx, share_x) in column.shares.iter().enumerate() {
            let pixel = picture.pixel(column.first + dx, row.first + dy);
            for (sum, channel) in sum.iter_mut().zip(pixel) {
                *sum += share_x * share_y * f64::from(channel);
            }
        }
    }
    #[expect(clippy::cast_sign_loss, reason = "a mean of values 0..=255; the cast saturates")]
    sum.map(|channel: f64| channel.round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_inside_the_screen_and_never_enlarges() {
        let cases = [
            ((1, 1), (1, 1)),
            ((640, 480), (640, 480)),
            ((641, 480), (640, 479)), // 479.25
            ((640, 481), (639, 480)), // 638.67
            ((1600, 1200), (640, 480)),
            ((1000, 1000), (480, 480)),
            ((3000, 4000), (360, 480)),
            ((1280, 1), (640, 1)),  // 0.5 rounds up
            ((65535, 1), (640, 1)), // 0.0098, at least 1
            ((1, 65535), (1, 480)),
            ((4256, 2832), (640, 426)), // 425.86
        ];
        for ((w, h), shown) in cases {
            assert_eq!(fit(w, h), shown, "{w}x{h}");
        }
    }

    #[test]
    fn shares_of_a_span_add_up_and_every_pixel_counts_the_same() {
        for (from, to) in [(1, 1), (7, 3), (641, 640), (1201, 480), (5, 5)] {
            let mut weight = vec![0.0; from];
            for span in spans(from, to) {
                assert!((span.shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                for (i, share) in span.shares.iter().enumerate() {
                    weight[span.first + i] += share;
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let each = to as f64 / from as f64;
            assert!(weight.iter().all(|w| (w - each).abs() < 1e-9), "{from} to {to}");
        }
    }

    #[test]
    fn small_pictures_are_centred_untouched() {
        let picture = Image { width: 3, height: 1, rgb: (1..=9).collect() };
        let screen = on_screen(&picture);
        for (x, colour) in [(317, [0; 3]), (318, [1, 2, 3]), (319, [4, 5, 6]), (320, [7, 8, 9]), (321, [0; 3])] {
            assert_eq!(screen.pixel(x, 239), colour, "{x}");
        }
        assert_eq!(screen.rgb.iter().filter(|&&byte| byte != 0).count(), 9);
    }

    #[test]
    fn halving_takes_the_mean_of_four() {
        let mut picture = Image::black(1280, 960);
        picture.set(0, 0, [255, 2, 0]);
        picture.set(1, 1, [255, 3, 0]);
        picture.set(1279, 959, [0, 0, 200]);
        let screen = on_screen(&picture);
        assert_eq!(screen.pixel(0, 0), [128, 1, 0]); // 127.5 and 1.25
        assert_eq!(screen.pixel(639, 479), [0, 0, 50]);
        assert_eq!(screen.pixel(1, 0), [0; 3]);
    }
}
