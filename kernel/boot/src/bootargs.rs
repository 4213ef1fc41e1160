//! The kernel's command line.
//!
//! Guarantees: the line is split as Linux splits it. Blanks separate arguments. Double quotes hold an argument together
//! and are dropped around a value. `--` ends the kernel's part. `-` and `_` are one character in a name. The last of
//! several arguments of a name counts. The values read here are read strictly: where Linux ignores what follows a
//! number, the argument is refused and its text named. An argument that withholds RAM is obeyed as far as it can be
//! read, even if it is refused. An argument with bytes that are no text is dropped, and no other with it. Nothing here
//! panics or allocates.

#![forbid(unsafe_code)]

use core::fmt;

use log::LevelFilter;

use crate::byte_range::ByteRange;
use carveout::addr::Bytes;

/// A command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BootArgs<'a>(&'a [u8]);

/// One argument of the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arg<'a> {
    /// The argument as it stands in the line, with its quotes.
    pub text: &'a str,
    /// What stands before the first `=`, or the whole argument.
    pub name: &'a str,
    /// What stands after the first `=`, without the quotes around it.
    pub value: Option<&'a str>,
}

impl<'a> BootArgs<'a> {
    /// Takes `line` as a command line. Its bytes need not be text.
    pub const fn new(line: &'a [u8]) -> Self {
        Self(line)
    }

    /// Yields the arguments in order, up to a lone `--`, without those that are no text.
    pub fn iter(self) -> impl Iterator<Item = Arg<'a>> {
        self.split().filter_map(Result::ok)
    }

    /// Yields the arguments that are no text (UTF-8), each by what stands before its first bad byte.
    pub fn unreadable(self) -> impl Iterator<Item = ArgError<'a>> {
        self.split().filter_map(Result::err)
    }

    fn split(self) -> impl Iterator<Item = Result<Arg<'a>, ArgError<'a>>> {
        let mut rest = self.0;
        core::iter::from_fn(move || split_first(&mut rest)).take_while(|arg| !matches!(arg, Ok(Arg { text: "--", .. })))
    }

    /// Returns the last argument called `name`.
    pub fn get(self, name: &str) -> Option<Arg<'a>> {
        let plain = |byte: u8| if byte == b'-' { b'_' } else { byte };
        self.iter().filter(|arg| arg.name.bytes().map(plain).eq(name.bytes().map(plain))).last()
    }

    /// Reads `cma=nn[KMG]@[start[KMG][-end[KMG]]]`: the size of the default area, and where it may lie.
    ///
    /// # Errors
    ///
    /// An [`ArgError`] if the argument is not wholly of this form.
    pub fn cma(self) -> Result<Option<Cma<'a>>, ArgError<'a>> {
        self.get("cma").map(parse_cma).transpose()
    }

    /// Yields what the line says of RAM, in its order. Unlike elsewhere, a later argument does not replace an earlier
    /// one.
    ///
    /// - `mem=nn[KMG]`: only the `nn` bytes from the start of the RAM that the kernel is in are used. With `@ss[KMG]`,
    ///   the `nn` bytes from `ss` on are used. Several arguments add up. This is what Linux takes on ARM.
    /// - `memmap=`, a list with commas: `nn$ss`, `nn#ss` and `nn!ss` withhold a range. With `exactmap`, only what
    ///   `nn@ss` names is used. Linux takes it on other architectures.
    pub fn ram(self) -> impl Iterator<Item = RamArg<'a>> {
        self.iter().flat_map(|arg| {
            let is_map = arg.name == "memmap";
            let value = (is_map || arg.name == "mem").then_some(arg.value.unwrap_or_default());
            // `mem=` is no list, and no value holds a NUL.
            let items = value.into_iter().flat_map(move |value| value.split(if is_map { ',' } else { '\0' }));
            items.map(move |item| {
                let (says, problem) = if is_map { parse_memmap(item) } else { parse_mem(item) };
                RamArg { text: arg.text, says, problem }
            })
        })
    }

    /// Reads `loglevel=n`, with n from 0 to 8. As in Linux, messages below n are printed: an error is 3, a warning 4, a
    /// notice 5, information 6 and debugging 7. `log` has nothing above an error and no notice. 8 lets everything
    /// through, also what `log` calls `trace`.
    ///
    /// # Errors
    ///
    /// An [`ArgError`] if the value is anything but one digit from 0 to 8.
    pub fn loglevel(self) -> Result<Option<LevelFilter>, ArgError<'a>> {
        let Some(arg) = self.get("loglevel") else { return Ok(None) };
        let level = match arg.value {
            Some("0" | "1" | "2" | "3") => LevelFilter::Off,
            Some("4") => LevelFilter::Error,
            Some("5" | "6") => LevelFilter::Warn,
            Some("7") => LevelFilter::Info,
            Some("8") => LevelFilter::Trace,
            _ => return Err(ArgError { text: arg.text, problem: ArgProblem::Level }),
        };
        Ok(Some(level))
    }
}

/// The request that `cma=` makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cma<'a> {
    /// `cma=0`: no default area, whatever the device tree says.
    Disabled,
    /// An area.
    Request(CmaRequest<'a>),
}

/// A well-formed `cma=` of some size. [`super::layout`] says whether it fits the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CmaRequest<'a> {
    /// The argument's text, for messages.
    pub text: &'a str,
    /// Bytes asked for, not 0.
    pub size: u64,
    /// Where the area may lie.
    pub place: CmaPlace,
}

/// Where `cma=` wants its area, in physical byte addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CmaPlace {
    /// Wherever it fits.
    Anywhere,
    /// Exactly there. A range of exactly the size means this too, as in Linux.
    At(u64),
    /// Wherever it fits in `start..end`, which is larger than the area.
    Within {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
}

/// One argument, or one item of its list, about RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamArg<'a> {
    /// The argument's text.
    pub text: &'a str,
    /// What it asks for, as far as that can be read.
    pub says: Option<Ram>,
    /// What is wrong with it.
    pub problem: Option<ArgProblem<'a>>,
}

/// RAM by the command line, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ram {
    /// `mem=nn`: use this many bytes, from the start of the RAM that the kernel is in.
    First(u64),
    /// `mem=nn@ss`: use this range.
    Use(ByteRange),
    /// `memmap=nn@ss`: use this range. It counts where [`Ram::Exact`] is said too.
    Map(ByteRange),
    /// `memmap=exactmap`: use nothing else.
    Exact,
    /// `memmap=nn$ss`: leave this range alone.
    Withhold(ByteRange),
}

/// An argument that was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArgError<'a> {
    /// The argument's text.
    pub text: &'a str,
    /// What is wrong with it.
    pub problem: ArgProblem<'a>,
}

/// What is wrong with an argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArgProblem<'a> {
    /// The part named has no digits.
    Missing(&'static str),
    /// This text follows a number and should not.
    Unexpected(&'a str),
    /// A number of 2^64 or more.
    Overflow,
    /// The end is not above the start.
    Order {
        /// The start.
        start: u64,
        /// The end.
        end: u64,
    },
    /// The range is smaller than the area.
    Narrow {
        /// Bytes asked for.
        size: u64,
        /// Bytes in the range.
        room: u64,
    },
    /// Not a log level.
    Level,
    /// A size of 0.
    ZeroSize,
    /// This byte is no text.
    NotText(u8),
}

impl fmt::Display for ArgError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.text, self.problem)
    }
}

impl fmt::Display for ArgProblem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Missing(part) => write!(f, "the {part} is missing"),
            Self::Unexpected(text) => write!(f, "unexpected \"{text}\""),
            Self::Overflow => f.write_str("a number is too large"),
            Self::Order { start, end } => write!(f, "the end {end:#x} is not above the start {start:#x}"),
            Self::Narrow { size, room } => {
                write!(f, "{} do not fit a range of {}", Bytes(size), Bytes(room))
            }
            Self::Level => f.write_str("not a level from 0 to 8"),
            Self::ZeroSize => f.write_str("the size is 0"),
            Self::NotText(byte) => write!(f, "byte {byte:#04x} follows, which is no text; the argument is ignored"),
        }
    }
}

impl core::error::Error for ArgError<'_> {}

/// Takes the first argument from the front of `rest`.
fn split_first<'a>(rest: &mut &'a [u8]) -> Option<Result<Arg<'a>, ArgError<'a>>> {
    let is_blank = |byte: u8| byte.is_ascii_whitespace() || byte == b'\x0b';
    let start = rest.iter().position(|&byte| !is_blank(byte))?;
    let line = rest.get(start..)?;
    let mut quoted = false;
    let end = line.iter().position(|&byte| {
        quoted ^= byte == b'"';
        is_blank(byte) && !quoted
    });
    let (text, after) = line.split_at(end.unwrap_or(line.len()));
    *rest = after;
    Some(core::str::from_utf8(text).map(read_arg).map_err(|error| {
        let (good, bad) = text.split_at(error.valid_up_to());
        let problem = ArgProblem::NotText(bad.first().copied().unwrap_or_default());
        ArgError { text: core::str::from_utf8(good).unwrap_or_default(), problem }
    }))
}

fn read_arg(text: &str) -> Arg<'_> {
    fn close(part: &str) -> &str {
        part.strip_suffix('"').unwrap_or(part)
    }
    let (body, whole) = text.strip_prefix('"').map_or((text, false), |body| (body, true));
    // A name is not empty: a leading '=' belongs to it.
    let equals = body.bytes().skip(1).position(|byte| byte == b'=').map(|at| at + 1);
    let (name, value) = match equals.and_then(|at| body.split_at_checked(at)) {
        Some((name, value)) => (name, Some(value.strip_prefix('=').unwrap_or(value))),
        None => (if whole { close(body) } else { body }, None),
    };
    let value = value.map(|value| match value.strip_prefix('"') {
        Some(inner) => close(inner),
        None if whole => close(value),
        None => value,
    });
    Arg { text, name, value }
}

type RamSaid<'a> = (Option<Ram>, Option<ArgProblem<'a>>);

/// Reads `nn[KMG]`, which must be more than 0. Returns it and the rest.
fn size_of_ram(text: &str) -> Result<(u64, &str), ArgProblem<'_>> {
    match read_number(text, "size")? {
        (0, _) => Err(ArgProblem::ZeroSize),
        sized => Ok(sized),
    }
}

/// Returns the problem if anything is left after all was read.
fn junk(rest: &str) -> Option<ArgProblem<'_>> {
    (!rest.is_empty()).then_some(ArgProblem::Unexpected(rest))
}

fn parse_mem(text: &str) -> RamSaid<'_> {
    let (size, rest) = match size_of_ram(text) {
        Ok(sized) => sized,
        Err(problem) => return (None, Some(problem)),
    };
    let Some(start) = rest.strip_prefix('@') else { return (Some(Ram::First(size)), junk(rest)) };
    match read_number(start, "start address") {
        Ok((base, rest)) => (Some(Ram::Use(ByteRange { base, size })), junk(rest)),
        Err(problem) => (None, Some(problem)),
    }
}

fn parse_memmap(text: &str) -> RamSaid<'_> {
    if text == "exactmap" {
        return (Some(Ram::Exact), None);
    }
    let read = || {
        let (size, rest) = size_of_ram(text)?;
        let kind = match rest.as_bytes().first() {
            None => return Err(ArgProblem::Missing("start address")),
            Some(b'@') => Ram::Map as fn(ByteRange) -> Ram,
            Some(b'$' | b'#' | b'!') => Ram::Withhold,
            Some(_) => return Err(ArgProblem::Unexpected(rest)),
        };
        let (base, rest) = read_number(&rest[1..], "start address")?;
        Ok((kind(ByteRange { base, size }), rest))
    };
    match read() {
        Ok((says, rest)) => (Some(says), junk(rest)),
        Err(problem) => (None, Some(problem)),
    }
}

fn parse_cma(arg: Arg<'_>) -> Result<Cma<'_>, ArgError<'_>> {
    let refuse = |problem| ArgError { text: arg.text, problem };
    let (size, rest) = read_number(arg.value.unwrap_or_default(), "size").map_err(refuse)?;
    if rest.is_empty() {
        return Ok(match size {
            0 => Cma::Disabled,
            _ => Cma::Request(CmaRequest { text: arg.text, size, place: CmaPlace::Anywhere }),
        });
    }
    let place = match rest.strip_prefix('@') {
        Some(place) if size > 0 => place,
        _ => return Err(refuse(ArgProblem::Unexpected(rest))),
    };
    let (start, rest) = read_number(place, "start address").map_err(refuse)?;
    let place = match rest.strip_prefix('-') {
        None if rest.is_empty() => CmaPlace::At(start),
        None => return Err(refuse(ArgProblem::Unexpected(rest))),
        Some(rest) => {
            let (end, rest) = read_number(rest, "end address").map_err(refuse)?;
            if !rest.is_empty() {
                return Err(refuse(ArgProblem::Unexpected(rest)));
            }
            match end.checked_sub(start) {
                None | Some(0) => return Err(refuse(ArgProblem::Order { start, end })),
                Some(room) if room < size => return Err(refuse(ArgProblem::Narrow { size, room })),
                Some(room) if room == size => CmaPlace::At(start),
                Some(_) => CmaPlace::Within { start, end },
            }
        }
    };
    Ok(Cma::Request(CmaRequest { text: arg.text, size, place }))
}

/// Reads a number as Linux's `memparse` does: decimal, octal after `0`, hexadecimal after `0x`, then K, M or G in
/// either case. Returns it and what follows it. `part` names the number if there is none.
///
/// # Errors
///
/// [`ArgProblem::Missing`] if the text does not begin with a digit. [`ArgProblem::Overflow`] if the number has more
/// than 64 bits.
pub fn read_number<'a>(text: &'a str, part: &'static str) -> Result<(u64, &'a str), ArgProblem<'a>> {
    let (radix, digits) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if digits.starts_with(|c: char| c.is_ascii_hexdigit()) => (16, digits),
        _ if text.starts_with('0') => (8, text),
        _ => (10, text),
    };
    let (digits, rest) = digits.split_at(digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len()));
    if digits.is_empty() {
        return Err(ArgProblem::Missing(part));
    }
    let value = u64::from_str_radix(digits, radix).map_err(|_| ArgProblem::Overflow)?;
    let (unit, rest) = match rest.as_bytes().first() {
        Some(b'K' | b'k') => (1 << 10, &rest[1..]),
        Some(b'M' | b'm') => (1 << 20, &rest[1..]),
        Some(b'G' | b'g') => (1 << 30, &rest[1..]),
        _ => (1, rest),
    };
    Ok((value.checked_mul(unit).ok_or(ArgProblem::Overflow)?, rest))
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::{String, ToString};
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn pairs(line: &str) -> Vec<(&str, Option<&str>)> {
        BootArgs::new(line.as_bytes()).iter().map(|arg| (arg.name, arg.value)).collect()
    }

    #[test]
    fn splits_as_linux_does() {
        assert_eq!(pairs("  quiet\tcma=64M \n"), [("quiet", None), ("cma", Some("64M"))]);
        assert_eq!(
            pairs(r#"a="b c" "d=e f" "g h" i=j"k l"m"#),
            [("a", Some("b c")), ("d", Some("e f")), ("g h", None), ("i", Some("j\"k l\"m")),]
        );
        assert_eq!(pairs("root==x =y a= b"), [("root", Some("=x")), ("=y", None), ("a", Some("")), ("b", None)]);
        assert_eq!(pairs(r#"a="never closed b"#), [("a", Some("never closed b"))]);
        assert_eq!(pairs("a -- cma=1M"), [("a", None)]);
        assert_eq!(pairs(r#"a=" "#), [("a", Some(" "))]);
        assert_eq!(pairs(r#"""#), [("", None)]);
    }

    #[test]
    fn the_last_wins_and_dashes_are_underscores() {
        let args = BootArgs::new(b"log-level=1 cma=8M log_level=2 cma=16M");
        assert_eq!(args.get("log-level").unwrap().value, Some("2"));
        assert_eq!(args.get("cma").unwrap().value, Some("16M"));
        assert_eq!(args.get("cm"), None);
    }

    fn cma(line: &str) -> Result<Option<Cma<'_>>, String> {
        BootArgs::new(line.as_bytes()).cma().map_err(|error| error.to_string())
    }

    fn request(line: &str) -> (u64, CmaPlace) {
        match cma(line) {
            Ok(Some(Cma::Request(request))) => (request.size, request.place),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn cma_as_linux_takes_it() {
        assert_eq!(cma("quiet"), Ok(None));
        assert_eq!(cma("cma=0"), Ok(Some(Cma::Disabled)));
        assert_eq!(cma("cma=0M"), Ok(Some(Cma::Disabled)));
        assert_eq!(request("cma=64M"), (64 << 20, CmaPlace::Anywhere));
        assert_eq!(request("cma=0x10000k@0X60000000"), (64 << 20, CmaPlace::At(0x6000_0000)));
        assert_eq!(request("cma=010"), (8, CmaPlace::Anywhere));
        assert_eq!(request("cma=16m@1536M-2g"), (16 << 20, CmaPlace::Within { start: 0x6000_0000, end: 0x8000_0000 }));
        assert_eq!(request("cma=512M@1536M-2G"), (512 << 20, CmaPlace::At(0x6000_0000)));
        assert_eq!(request("cma=64M@0"), (64 << 20, CmaPlace::At(0)));
        assert_eq!(request("cma=\"64M\""), (64 << 20, CmaPlace::Anywhere));
    }

    #[test]
    fn cma_refused_by_name() {
        for (line, message) in [
            ("cma", "cma: the size is missing"),
            ("cma=", "cma=: the size is missing"),
            ("cma=M", "cma=M: the size is missing"),
            ("cma=-1", "cma=-1: the size is missing"),
            ("cma=@0x60000000", "cma=@0x60000000: the size is missing"),
            ("cma=64MB", "cma=64MB: unexpected \"B\""),
            ("cma=64T", "cma=64T: unexpected \"T\""),
            ("cma=08", "cma=08: unexpected \"8\""),
            ("cma=0x", "cma=0x: unexpected \"x\""),
            ("cma=0@1M", "cma=0@1M: unexpected \"@1M\""),
            ("cma=64M-128M", "cma=64M-128M: unexpected \"-128M\""),
            ("cma=64M@", "cma=64M@: the start address is missing"),
            ("cma=64M@-2G", "cma=64M@-2G: the start address is missing"),
            ("cma=64M@1G,", "cma=64M@1G,: unexpected \",\""),
            ("cma=64M@1G-", "cma=64M@1G-: the end address is missing"),
            ("cma=64M@1G-2Gx", "cma=64M@1G-2Gx: unexpected \"x\""),
            ("cma=64M@1G-1G", "cma=64M@1G-1G: the end 0x40000000 is not above the start 0x40000000"),
            ("cma=64M@2G-1G", "cma=64M@2G-1G: the end 0x40000000 is not above the start 0x80000000"),
            ("cma=64M@1G-1056M", "cma=64M@1G-1056M: 64 MiB do not fit a range of 32 MiB"),
            ("cma=18446744073709551616", "cma=18446744073709551616: a number is too large"),
            ("cma=17179869184G", "cma=17179869184G: a number is too large"),
            ("cma=64M\u{e9}", "cma=64M\u{e9}: unexpected \"\u{e9}\""),
        ] {
            assert_eq!(cma(line), Err(message.to_string()));
        }
        // The last argument counts, well formed or not.
        assert!(cma("cma=64M cma=x").is_err());
    }

    #[test]
    fn loglevels() {
        let level = |line: &'static str| BootArgs::new(line.as_bytes()).loglevel();
        assert_eq!(level("quiet"), Ok(None));
        for (line, filter) in [
            ("loglevel=0", LevelFilter::Off),
            ("loglevel=3", LevelFilter::Off),
            ("loglevel=4", LevelFilter::Error),
            ("loglevel=5", LevelFilter::Warn),
            ("loglevel=6", LevelFilter::Warn),
            ("loglevel=7", LevelFilter::Info),
            ("loglevel=8", LevelFilter::Trace),
        ] {
            assert_eq!(level(line), Ok(Some(filter)), "{line}");
        }
        for line in ["loglevel", "loglevel=", "loglevel=9", "loglevel=07", "loglevel=+7", "loglevel=debug"] {
            assert_eq!(level(line).unwrap_err().to_string(), format!("{line}: not a level from 0 to 8"));
        }
    }

    proptest! {
        #[test]
        fn arguments_come_back_as_they_were_quoted(
            args in prop::collection::vec(("[a-z][a-z_.0-9]{0,8}", prop::option::of("[a-z =@\t-]{0,12}")), 0..8),
        ) {
            let line: Vec<String> = args
                .iter()
                .map(|(name, value)| value.as_ref().map_or(name.clone(), |value| format!("{name}=\"{value}\"")))
                .collect();
            let line = line.join(" ");
            let expected: Vec<_> = args.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
            prop_assert_eq!(pairs(&line), expected);
        }

        #[test]
        fn no_line_panics(line in any::<String>(), tail in "[0-9xKMG@\"= -]{0,20}") {
            let line = format!("{line} cma={tail}");
            let args = BootArgs::new(line.as_bytes());
            let _ = (args.cma(), args.loglevel(), args.iter().count());
        }

        #[test]
        fn cma_numbers_mean_what_they_say(size in 1..u64::MAX, start in any::<u32>(), more in 1..u32::MAX) {
            let (start, more) = (u64::from(start), u64::from(more));
            prop_assert_eq!(request(&format!("cma={size}@0{start:o}")), (size, CmaPlace::At(start)));
            let size = u64::from(more as u32).div_ceil(2);
            let line = format!("cma={size:#x}@{start}-{}", start + size + more);
            prop_assert_eq!(request(&line), (size, CmaPlace::Within { start, end: start + size + more }));
        }
    }
}
