//! The picture the project makes for itself: a lake at dusk under a test card.
//!
//! It is there to be looked at, and to show errors at a glance: the name reads from left to right and the corner marks
//! differ (orientation, mirroring), the bars are labelled by place (swapped channels), the sun is a circle (aspect),
//! the sky is a slow gradient (lost bits) and the fans of lines are finer than the screen (scaling). The seed moves
//! sun, ridges and hue, so that no two test pictures can be mistaken for each other. Same arguments, same bytes.

#![expect(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "coordinates and colours, not counts")]

use crate::image::Image;

/// A picture to paint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) seed: u32,
}

type Colour = [f32; 3];

/// Height of the waterline and of the upper edge of the colour bars, from the top, as shares of the height.
const WATERLINE: f32 = 0.66;
const BARS_TOP: f32 = 0.91;

/// The seven-colour bars of a test card, and black: white to black by falling luminance.
const BARS: [Colour; 8] = [
    [1.0, 1.0, 1.0],
    [1.0, 1.0, 0.0],
    [0.0, 1.0, 1.0],
    [0.0, 1.0, 0.0],
    [1.0, 0.0, 1.0],
    [1.0, 0.0, 0.0],
    [0.0, 0.0, 1.0],
    [0.0, 0.0, 0.0],
];

/// CARVEOUT, five columns by seven rows a letter, the top row first, the leftmost column in bit 4.
const NAME: [[u8; 7]; 8] = [
    [0x0e, 0x11, 0x10, 0x10, 0x10, 0x11, 0x0e],
    [0x0e, 0x11, 0x11, 0x1f, 0x11, 0x11, 0x11],
    [0x1e, 0x11, 0x11, 0x1e, 0x14, 0x12, 0x11],
    [0x11, 0x11, 0x11, 0x11, 0x11, 0x0a, 0x04],
    [0x1f, 0x10, 0x10, 0x1e, 0x10, 0x10, 0x1f],
    [0x0e, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0e],
    [0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0e],
    [0x1f, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04],
];

impl Scene {
    pub(crate) fn paint(self) -> Image {
        let mut image = Image::black(self.width, self.height);
        for y in 0..self.height {
            for x in 0..self.width {
                // Both in units of the height, so that circles are round.
                let colour = self.colour((x as f32 + 0.5) / self.height as f32, (y as f32 + 0.5) / self.height as f32);
                image.set(x, y, colour.map(|c| (c.clamp(0.0, 1.0) * 255.0).round() as u8));
            }
        }
        image
    }

    fn aspect(self) -> f32 {
        self.width as f32 / self.height as f32
    }

    fn colour(self, x: f32, y: f32) -> Colour {
        if y >= BARS_TOP {
            return BARS[((x / self.aspect() * 8.0) as usize).min(7)];
        }
        let mut colour = if y < WATERLINE {
            self.land_and_sky(x, y)
        } else {
            // The reflection: mirrored, stretched, stirred by waves that widen towards the viewer, and darker.
            let depth = y - WATERLINE;
            let wave = (depth * 420.0 / (1.0 + depth * 9.0) + 3.0 * noise(x * 9.0, depth * 40.0, self.seed)).sin();
            let mirrored = self.land_and_sky(x + wave * (0.003 + depth * 0.03), WATERLINE - depth * 1.9);
            mix(mirrored, [0.03, 0.09, 0.17], 0.25 + depth * 1.1)
        };
        if let Some(ink) = self.name(x, y) {
            colour = mix(colour, [1.0, 0.97, 0.9], ink);
        }
        if let Some(mark) = self.corner_mark(x, y) {
            colour = mark;
        }
        colour
    }

    /// The sun's centre and radius, in units of the height.
    fn sun(self) -> (f32, f32, f32) {
        (self.aspect() * (0.38 + 0.3 * hash(self.seed, 1, 7)), WATERLINE - 0.17, 0.085)
    }

    fn land_and_sky(self, x: f32, y: f32) -> Colour {
        for (layer, (height, rough, tint)) in
            [(0.05, 6.0, [0.05, 0.08, 0.12]), (0.13, 3.5, [0.16, 0.14, 0.26]), (0.22, 2.2, [0.38, 0.25, 0.42])]
                .into_iter()
                .enumerate()
        {
            let layer = layer as u32;
            let ridge = WATERLINE - height * fractal(x * rough + 31.0 * layer as f32, self.seed.wrapping_add(layer));
            if y > ridge {
                // Haze gathers at the foot of the far ranges.
                return mix(tint, [0.93, 0.55, 0.42], (y - ridge) * 1.4 * layer as f32);
            }
        }
        let turn = hash(self.seed, 3, 11) * if self.seed == 0 { 0.0 } else { 0.5 };
        let zenith = [0.07 + 0.25 * turn, 0.13 + 0.1 * turn, 0.38 - 0.1 * turn];
        let sky = mix(zenith, mix([0.98, 0.62, 0.36], [0.55, 0.75, 0.85], turn), (y / WATERLINE).powf(1.6));
        let cloud = fractal2(x * 2.3, y * 11.0, self.seed);
        let sky = mix(sky, [1.0, 0.72, 0.6], ((cloud - 0.52) * 2.2).clamp(0.0, 0.55));
        let (sun_x, sun_y, radius) = self.sun();
        let distance = (x - sun_x).hypot(y - sun_y);
        let disc = ((radius - distance) * 400.0).clamp(0.0, 1.0);
        let glow = (-distance * 4.5).exp() * 0.75;
        mix(mix(sky, [1.0, 0.8, 0.45], glow), [1.0, 0.96, 0.78], disc)
    }

    /// How much of the name's ink lies here.
    fn name(self, x: f32, y: f32) -> Option<f32> {
        let cell = self.aspect() * 0.5 / 47.0; // eight letters of five columns and seven gaps
        let column = ((x - self.aspect() * 0.25) / cell).floor();
        let row = ((y - 0.09) / cell).floor();
        if !(0.0..47.0).contains(&column) || !(0.0..7.0).contains(&row) {
            return None;
        }
        let (column, row) = (column as usize, row as usize);
        let lit = column % 6 < 5 && NAME[column / 6][row] & (0x10 >> (column % 6)) != 0;
        lit.then_some(0.92)
    }

    /// Upper left: a red quarter disc. Upper right: a green square. Above the bars, left: upright lines that narrow to
    /// the right; right: level lines that narrow downwards, both down to one pixel of a picture 1200 high.
    fn corner_mark(self, x: f32, y: f32) -> Option<Colour> {
        const SIZE: f32 = 0.07;
        let right = self.aspect() - x;
        if x.hypot(y) < SIZE {
            return Some([0.85, 0.1, 0.1]);
        }
        if right < SIZE && y < SIZE {
            return Some([0.1, 0.7, 0.2]);
        }
        let rise = BARS_TOP - 0.02 - y;
        let lines = |t: f32| {
            // The phase is the integral of the frequency, which grows from 20 to 600 lines in the picture's height.
            let phase = 0.16 * (20.0 * t + 290.0 * t * t);
            if phase.fract() < 0.5 { [0.95; 3] } else { [0.05; 3] }
        };
        if (0.0..0.06).contains(&rise) && (0.02..0.18).contains(&x) {
            return Some(lines((x - 0.02) / 0.16));
        }
        if (0.0..0.16).contains(&rise) && (0.02..0.08).contains(&right) {
            return Some(lines(1.0 - rise / 0.16));
        }
        None
    }
}

fn mix(a: Colour, b: Colour, t: f32) -> Colour {
    let t = t.clamp(0.0, 1.0);
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * t)
}

/// A number in 0..1 that looks random (`MurmurHash3`'s finaliser).
fn hash(a: u32, b: u32, c: u32) -> f32 {
    let mut h = a.wrapping_mul(0x9e37_79b1) ^ b.wrapping_mul(0x85eb_ca77) ^ c.wrapping_mul(0xc2b2_ae3d);
    for factor in [0x85eb_ca6b, 0xc2b2_ae35] {
        h = (h ^ (h >> 15)).wrapping_mul(factor);
    }
    (h >> 8) as f32 / (1 << 24) as f32
}

/// Value noise in 0..1, smooth over cells of size 1.
fn noise(x: f32, y: f32, seed: u32) -> f32 {
    let corner = |dx: i32, dy: i32| hash((x.floor() as i32 + dx) as u32, (y.floor() as i32 + dy) as u32, seed);
    let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
    let (tx, ty) = (smooth(x - x.floor()), smooth(y - y.floor()));
    let top = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * tx;
    let bottom = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * tx;
    top + (bottom - top) * ty
}

/// Five octaves of noise, each twice as fine and half as strong, in 0..1.
fn fractal2(x: f32, y: f32, seed: u32) -> f32 {
    let octave = |i: u32| noise(x * (1 << i) as f32, y * (1 << i) as f32, seed.wrapping_add(i)) / (1 << i) as f32;
    (0..5).map(octave).sum::<f32>() / 1.9375
}

fn fractal(x: f32, seed: u32) -> f32 {
    0.25 + 0.75 * fractal2(x, 0.5, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_same_every_time_and_differs_by_seed() {
        let scene = Scene { width: 64, height: 48, seed: 1 };
        assert_eq!(scene.paint(), scene.paint());
        assert_ne!(scene.paint(), Scene { seed: 2, ..scene }.paint());
    }

    #[test]
    fn no_mirroring_or_turning_leaves_it_unchanged() {
        let size = 48;
        let image = Scene { width: size, height: size, seed: 0 }.paint();
        let last = size - 1;
        for moved in ["mirrored", "upside down", "transposed"] {
            let mut other = Image::black(size, size);
            for y in 0..size {
                for x in 0..size {
                    let (from_x, from_y) = match moved {
                        "mirrored" => (last - x, y),
                        "upside down" => (x, last - y),
                        _ => (y, x),
                    };
                    other.set(x, y, image.pixel(from_x, from_y));
                }
            }
            let difference = crate::compare::Difference::between(&image, &other).unwrap();
            assert!(difference.max > 200 && difference.mean > 5.0, "{moved}: {difference}");
        }
    }

    #[test]
    fn bars_stand_in_order_at_the_foot() {
        let image = Scene { width: 160, height: 120, seed: 5 }.paint();
        let bar = |i: usize| image.pixel(i * 20 + 10, 115);
        assert_eq!((bar(0), bar(5), bar(6), bar(7)), ([255; 3], [255, 0, 0], [0, 0, 255], [0; 3]));
    }
}
