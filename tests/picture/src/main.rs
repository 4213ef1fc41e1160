//! Makes the test pictures, computes what the screen must show of a JPEG, and compares that with a screenshot.
//!
//! Everything here is the host's own: the decoder is not the one the mock codec uses, and the scaling is done in
//! floating point over areas, so an error shared by the picture on the screen and the picture expected is unlikely.

use std::process::ExitCode;

mod compare;
mod encoder;
mod expect;
mod image;
mod scene;

const USAGE: &str = "\
usage: picture generate OUT.jpg [--size WxH] [--mode grey|444|422|440|420] [--progressive] [--quality 1..100] [--seed N]
       picture unusual KIND OUT.jpg TWIN.jpg [--size WxH] [--seed N]
       picture expect IN.jpg OUT.png
       picture compare A.png B.png --tolerance MEAN,MAX
       picture frame IN.raw OUT.png
       picture bmp IN.bmp OUT.png
       picture corrupt IN.jpg OUT.jpg

generate  a picture for the demo; the defaults are 1600x1200, 420, quality 90, seed 0
unusual   a legal file as few encoders write it, and the same picture, to the coefficient, as all of them do; KIND is one
          of no-dht, dnl, app-between-scans, 444-as-2x1, 440-as-2x2, restarts, wide-tables
expect    what the demo shows of IN: inside 640x480 with its aspect ratio, never enlarged, centred on black
compare   exit code 1 if the mean or the largest difference of a colour channel (0..255) is beyond the tolerance
frame     what stood in memory for a display: 640x480 words 0x00RRGGBB, little endian
bmp       what was written to a memory card: a BMP of 24 bits a pixel, its rows from the bottom
corrupt   a copy whose first Huffman table lists more codes than exist, which every decoder must refuse";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("picture: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &[&str]) -> Result<ExitCode, String> {
    match *args {
        ["generate", out, ref options @ ..] => {
            let (picture, encoding) = generate_options(options)?;
            write(out, &encoding.encode(&picture.paint())?)?;
        }
        ["unusual", kind, out, twin, ref options @ ..] => {
            let (picture, _) = generate_options(options)?;
            let (shape, plain) = unusual(kind).ok_or_else(|| format!("no kind '{kind}'\n{USAGE}"))?;
            write(out, &encode(&picture.paint(), &shape)?)?;
            write(twin, &encode(&picture.paint(), &plain)?)?;
        }
        ["expect", input, out] => {
            let shown = expect::on_screen(&image::decode_jpeg(&read(input)?).map_err(|e| format!("{input}: {e}"))?);
            write(out, &shown.to_png()?)?;
        }
        ["compare", a, b, "--tolerance", tolerance] => {
            let tolerance: compare::Tolerance = tolerance.parse()?;
            let open = |path| image::Image::from_png(&read(path)?).map_err(|e| format!("{path}: {e}"));
            let difference = compare::Difference::between(&open(a)?, &open(b)?)?;
            let verdict = if difference.within(&tolerance) { "equal enough" } else { "too different" };
            println!("{verdict}: {difference}; tolerated: {tolerance}");
            return Ok(ExitCode::from(u8::from(!difference.within(&tolerance))));
        }
        ["frame", input, out] => {
            let shown = image::Image::from_frame(&read(input)?, 640, 480).map_err(|e| format!("{input}: {e}"))?;
            write(out, &shown.to_png()?)?;
        }
        ["bmp", input, out] => {
            let shown = image::Image::from_bmp(&read(input)?).map_err(|e| format!("{input}: {e}"))?;
            write(out, &shown.to_png()?)?;
        }
        ["corrupt", input, out] => write(out, &corrupt(read(input)?).map_err(|e| format!("{input}: {e}"))?)?,
        ["--help"] => println!("{USAGE}"),
        _ => return Err(format!("bad command line\n{USAGE}")),
    }
    Ok(ExitCode::SUCCESS)
}

fn generate_options(mut options: &[&str]) -> Result<(scene::Scene, image::Encoding), String> {
    let mut scene = scene::Scene { width: 1600, height: 1200, seed: 0 };
    let mut encoding = image::Encoding { mode: image::Mode::Chroma420, progressive: false, quality: 90 };
    while let [option, rest @ ..] = options {
        options = rest;
        if *option == "--progressive" {
            encoding.progressive = true;
            continue;
        }
        let [value, rest @ ..] = rest else { return Err(format!("{option}: unknown, or its value is missing")) };
        options = rest;
        let bad = || format!("{option}: bad value '{value}'");
        match *option {
            "--size" => {
                let (w, h) = value.split_once('x').ok_or_else(bad)?;
                scene.width = w.parse().ok().filter(|&w| w > 0).ok_or_else(bad)?;
                scene.height = h.parse().ok().filter(|&h| h > 0).ok_or_else(bad)?;
            }
            "--mode" => encoding.mode = image::Mode::from_name(value).ok_or_else(bad)?,
            "--quality" => {
                encoding.quality = value.parse().ok().filter(|q| (1..=100).contains(q)).ok_or_else(bad)?;
            }
            "--seed" => scene.seed = value.parse().map_err(|_| bad())?,
            _ => return Err(format!("{option}: unknown")),
        }
    }
    Ok((scene, encoding))
}

/// A kind of file, and its twin that any decoder takes.
fn unusual(kind: &str) -> Option<(encoder::Shape, encoder::Shape)> {
    let plain = |luma, chroma| encoder::Shape {
        factors: vec![luma, chroma, chroma],
        ids: vec![1, 2, 3],
        dht: true,
        dnl: false,
        restart: 0,
        wide: false,
        fill: false,
        progressive: false,
        between: false,
    };
    let (full, half) = (plain((1, 1), (1, 1)), plain((2, 1), (1, 1)));
    let shape = match kind {
        "no-dht" => encoder::Shape { dht: false, ..half.clone() },
        "dnl" => encoder::Shape { dnl: true, ..half.clone() },
        "app-between-scans" => encoder::Shape { progressive: true, between: true, ..half.clone() },
        "restarts" => encoder::Shape { restart: 5, fill: true, ..half.clone() },
        "wide-tables" => encoder::Shape { wide: true, ..half.clone() },
        // By ratio each is a usual sampling.
        "444-as-2x1" => return Some((plain((2, 1), (2, 1)), full)),
        "440-as-2x2" => return Some((plain((2, 2), (2, 1)), plain((1, 2), (1, 1)))),
        _ => return None,
    };
    Some((shape, half))
}

/// A picture in such a file. The Huffman tables are those of the other encoder, which are annex K's.
fn encode(picture: &image::Image, shape: &encoder::Shape) -> Result<Vec<u8>, String> {
    let usual = image::Encoding { mode: image::Mode::Grey, progressive: false, quality: 90 };
    let file = usual.encode(&image::Image::black(8, 8))?;
    let tables = encoder::Tables::of(&file).ok_or("the other encoder writes no tables")?;
    // JFIF's conversion.
    let sample = |component: usize, x: usize, y: usize| {
        let [r, g, b] = picture.pixel(x, y).map(f64::from);
        match component {
            0 => 0.299 * r + 0.587 * g + 0.114 * b,
            1 => 128.0 - 0.168_736 * r - 0.331_264 * g + 0.5 * b,
            _ => 128.0 + 0.5 * r - 0.418_688 * g - 0.081_312 * b,
        }
    };
    Ok(encoder::encode((picture.width, picture.height), shape, &tables, sample))
}

/// Overwrites the code counts of the first Huffman table (ITU-T T.81, B.2.4.2): 255 codes of each length.
fn corrupt(mut jpeg: Vec<u8>) -> Result<Vec<u8>, String> {
    const MARKER: [u8; 2] = [0xff, 0xc4];
    const COUNTS: std::ops::Range<usize> = 5..21;
    let table = jpeg.windows(2).position(|w| w == MARKER).ok_or("no Huffman table")?;
    jpeg[table..].get_mut(COUNTS).ok_or("ends within a Huffman table")?.fill(0xff);
    Ok(jpeg)
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{path}: {e}"))
}

fn write(path: &str, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(path, bytes).map_err(|e| format!("{path}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let error = |options: &[&str]| generate_options(options).err().unwrap();
        assert_eq!(error(&["--size", "0x5"]), "--size: bad value '0x5'");
        assert_eq!(error(&["--size", "5"]), "--size: bad value '5'");
        assert_eq!(error(&["--quality", "101"]), "--quality: bad value '101'");
        assert_eq!(error(&["--mode", "411"]), "--mode: bad value '411'");
        assert_eq!(error(&["--seed"]), "--seed: unknown, or its value is missing");
        assert_eq!(error(&["--sed", "1"]), "--sed: unknown");
    }

    #[test]
    fn every_kind_of_file_keeps_the_picture() {
        for mode in ["grey", "444", "422", "440", "420"] {
            for progressive in [false, true] {
                for size in ["1x1", "17x9", "160x120"] {
                    let mut options = vec!["--mode", mode, "--size", size, "--quality", "95"];
                    if progressive {
                        options.push("--progressive");
                    }
                    let (scene, encoding) = generate_options(&options).unwrap();
                    let painted = scene.paint();
                    let decoded = image::decode_jpeg(&encoding.encode(&painted).unwrap()).unwrap();
                    // Luminance, since subsampled chroma rightly differs at every edge.
                    let difference = compare::Difference::between(&painted.to_grey(), &decoded.to_grey()).unwrap();
                    assert!(difference.mean < 8.0, "{mode} {progressive} {size}: {difference}");
                    assert_eq!(decoded == decoded.to_grey(), mode == "grey", "{mode} {progressive} {size}");
                }
            }
        }
    }

    /// The other crate's decoder takes the twins, and the files too where it knows their kind.
    #[test]
    fn unusual_files_are_the_picture_of_their_twins() {
        let painted = generate_options(&["--size", "75x51"]).unwrap().0.paint();
        for (kind, known) in [
            ("no-dht", false),
            ("dnl", false),
            ("app-between-scans", true),
            ("restarts", true),
            ("wide-tables", true),
            ("444-as-2x1", true),
            ("440-as-2x2", true),
        ] {
            let (shape, plain) = unusual(kind).unwrap();
            let twin = image::decode_jpeg(&encode(&painted, &plain).unwrap()).unwrap();
            let difference = compare::Difference::between(&painted.to_grey(), &twin.to_grey()).unwrap();
            assert!(difference.mean < 8.0, "{kind}: {difference}");
            let file = image::decode_jpeg(&encode(&painted, &shape).unwrap());
            assert_eq!(file.is_ok(), known, "{kind}: {:?}", file.as_ref().err());
            if let Ok(file) = file {
                assert!(file == twin, "{kind}");
            }
        }
        assert!(unusual("plain").is_none());
    }

    /// The largest tolerance of tests/run.sh would not let these pass.
    #[test]
    fn a_shift_and_swapped_channels_show() {
        let tolerance: compare::Tolerance = "0.25,6".parse().unwrap();
        let shown = expect::on_screen(&generate_options(&["--size", "641x479"]).unwrap().0.paint());
        let mut shifted = shown.clone();
        shifted.rgb.rotate_right(3);
        let mut swapped = shown.clone();
        swapped.rgb.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
        let mut dimmed = shown.clone();
        dimmed.rgb.iter_mut().for_each(|value| *value -= *value / 64);
        for wrong in [shifted, swapped, dimmed] {
            let difference = compare::Difference::between(&shown, &wrong).unwrap();
            assert!(!difference.within(&tolerance), "{difference}");
        }
        assert!(compare::Difference::between(&shown, &shown).unwrap().within(&tolerance));
    }

    #[test]
    fn a_corrupt_picture_is_refused() {
        let (scene, encoding) = generate_options(&["--size", "32x32"]).unwrap();
        let jpeg = encoding.encode(&scene.paint()).unwrap();
        assert!(image::decode_jpeg(&jpeg).is_ok());
        assert!(image::decode_jpeg(&corrupt(jpeg).unwrap()).is_err());
        assert_eq!(corrupt(vec![0xff, 0xd8]).unwrap_err(), "no Huffman table");
        assert_eq!(corrupt(vec![0xff, 0xc4]).unwrap_err(), "ends within a Huffman table");
    }
}
