//! The file of use cases, with the board's tree beside it.
//!
//! Guarantees: what this returns is complete and consistent: every name is declared once, every number is in its range,
//! and every buffer could lie somewhere if it were alone. Anything else is refused with the line and what would help.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use serde::Deserialize;
use serde::de::{Error as _, Visitor};
use toml::Spanned;

use crate::board::{Board, CMA, base_name};
use crate::errors::{Fault, Result, Source};
use crate::problem::{AreaWish, Device, Direction, FRAME, Fixed, Loan, Problem, Set, UseCase, Window};

/// The largest alignment that the kernel gives.
const MOST_ALIGN: u64 = carveout::dma::MAX_ALIGN as u64;
/// The most buffers of a set, and of all sets.
const MOST_BUFFERS: u64 = 4096;
/// The most letters of an area's name: a node's has 31, its unit address with them.
const MOST_NAME: usize = 22;
/// Bytes that are the kernel's, from the start of the first bank, unless the file says otherwise.
const KERNEL: u64 = 16 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    board: BoardTable,
    #[serde(default)]
    exclusive: Vec<Vec<Spanned<String>>>,
    #[serde(default, rename = "area")]
    areas: Vec<AreaTable>,
    #[serde(default, rename = "device")]
    devices: Vec<DeviceTable>,
    #[serde(default, rename = "case")]
    cases: Vec<CaseTable>,
    #[serde(default, rename = "loan")]
    loans: Vec<LoanTable>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BoardTable {
    kernel: Option<Spanned<Size>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AreaTable {
    name: Spanned<String>,
    #[serde(default = "yes")]
    lend: bool,
    place: Option<Spanned<String>>,
    within: Option<Spanned<[Size; 2]>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceTable {
    name: Spanned<String>,
    node: Option<Spanned<String>>,
    area: Option<Spanned<String>>,
    mask: Option<Spanned<Size>>,
    windows: Option<Spanned<Vec<WindowTable>>>,
    boundary: Option<Spanned<Size>>,
    align: Option<Spanned<Size>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowTable {
    bus: Size,
    phys: Size,
    size: Size,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseTable {
    name: Spanned<String>,
    #[serde(default)]
    buffers: Vec<Spanned<SetTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetTable {
    name: Option<String>,
    device: Spanned<String>,
    count: Spanned<u64>,
    size: Spanned<Size>,
    align: Option<Spanned<Size>>,
    direction: Direction,
    #[serde(default)]
    also: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoanTable {
    area: Spanned<String>,
    kind: Kind,
    size: Spanned<Size>,
    least: Option<Spanned<Size>>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Movable,
    Discardable,
}

const fn yes() -> bool {
    true
}

/// A number of bytes, or an address: a number, or a text such as `16M`, `0x1000` or `640*480*2`.
#[derive(Clone, Copy)]
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes, as 4096, \"16M\", \"0x1000\" or \"640*480*2\"")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> std::result::Result<Size, E> {
                u64::try_from(number).map(Size).map_err(|_| E::custom("bytes are not negative"))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Size, E> {
                let size = size(text).map(Size);
                size.ok_or_else(|| {
                    E::custom(format!("{text:?} is no number of bytes, as \"16M\", \"0x1000\" or \"640*480*2\""))
                })
            }
        }
        from.deserialize_any(Bytes).map_err(D::Error::custom)
    }
}

/// Reads a number of bytes: a product of numbers, each in decimal or after `0x`, with `K`, `M` or `G`.
pub fn size(text: &str) -> Option<u64> {
    text.split('*').try_fold(1_u64, |product, factor| {
        let factor = factor.trim();
        let shift = match factor.as_bytes().last()? {
            b'K' => 10,
            b'M' => 20,
            b'G' => 30,
            _ => 0,
        };
        let digits = if shift > 0 { &factor[..factor.len() - 1] } else { factor };
        if !digits.starts_with(|first: char| first.is_ascii_digit()) {
            return None;
        }
        let number = match digits.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok()?,
            None => digits.parse().ok()?,
        };
        product.checked_mul(number.checked_mul(1 << shift)?)
    })
}

/// Reads the use cases of a board.
///
/// # Errors
///
/// The first fault of the file, or of the tree as the file uses it.
pub fn read(board: &Board, source: &Rc<Source>) -> Result<Problem> {
    let file: File = toml::from_str(&source.text).map_err(|error| {
        let what = error.message().lines().next().unwrap_or_default().to_owned();
        source.fault(error.span().unwrap_or_default(), what).help("docs/src/plan.md has the words of this file")
    })?;
    Reader { board, source }.problem(&file)
}

struct Reader<'a> {
    board: &'a Board,
    source: &'a Rc<Source>,
}

/// The place of each name.
type Names<'a> = BTreeMap<&'a str, usize>;

impl Reader<'_> {
    fn fault<T>(&self, at: &Spanned<T>, what: impl Into<String>) -> Fault {
        self.source.fault(at.span(), what)
    }

    fn names<'t>(&self, what: &str, all: impl Iterator<Item = &'t Spanned<String>>) -> Result<Names<'t>> {
        let mut names = Names::new();
        for (number, name) in all.enumerate() {
            let good = |char: char| char.is_ascii_alphanumeric() || "-_,.+".contains(char);
            let text = name.get_ref().as_str();
            if text.is_empty() || !text.chars().all(good) {
                return Err(self
                    .fault(name, format!("{text:?} is no name of {what}"))
                    .help("names are of letters, digits and - _ , . +"));
            }
            if names.insert(text, number).is_some() {
                return Err(self
                    .fault(name, format!("there are two of {what} {text}"))
                    .label("the second")
                    .help("give one of them another name"));
            }
        }
        Ok(names)
    }

    fn find(&self, what: &str, names: &Names<'_>, name: &Spanned<String>) -> Result<usize> {
        names.get(name.get_ref().as_str()).copied().ok_or_else(|| {
            let known: Vec<&str> = names.keys().copied().collect();
            let fault = self.fault(name, format!("there is no {what} {}", name.get_ref())).label("named here");
            if known.is_empty() {
                fault.help(format!("add [[{what}]] with this name"))
            } else {
                fault.help(format!("those that there are: {}", known.join(", ")))
            }
        })
    }

    fn problem(&self, file: &File) -> Result<Problem> {
        let areas = self.names("area", file.areas.iter().map(|area| &area.name))?;
        let devices = self.names("device", file.devices.iter().map(|device| &device.name))?;
        let cases = self.names("case", file.cases.iter().map(|case| &case.name))?;
        if file.cases.iter().all(|case| case.buffers.is_empty()) {
            return Err(self.source.fault(0..1, "no use case has a buffer").help("add [[case]] with its buffers"));
        }
        let kernel = file.board.kernel.as_ref().map_or(KERNEL, |size| size.get_ref().0);
        let (free, wishes) = self.areas(file, kernel)?;
        let device = |table| self.device(table, &areas);
        let devices_read = file.devices.iter().map(device).collect::<Result<Vec<_>>>()?;
        let mut problem = Problem {
            source: self.source.clone(),
            kernel,
            free,
            areas: wishes,
            devices: devices_read,
            cases: self.cases(file, &cases)?,
            sets: Vec::new(),
            loans: Vec::new(),
        };
        for (case, table) in file.cases.iter().enumerate() {
            for set in &table.buffers {
                let set = self.set(set, case, file, &devices, &cases)?;
                problem.sets.push(set);
            }
        }
        if problem.sets.iter().map(|set| u64::from(set.count)).sum::<u64>() > MOST_BUFFERS {
            return Err(self
                .source
                .fault(0..1, format!("there are more than {MOST_BUFFERS} buffers"))
                .help("small buffers are a pool's: declare the pool's buffer"));
        }
        for (area, wish) in problem.areas.iter().enumerate() {
            let least = file.loans.iter().any(|loan| loan.area.get_ref() == &wish.name && loan.least.is_some());
            if problem.sets_of(area).next().is_none() && !least {
                let fault = self.source.fault(wish.span.clone(), format!("nothing needs area {}", wish.name));
                return Err(fault.help("leave it out, or let a device with buffers allocate from it"));
            }
        }
        problem.loans = file.loans.iter().map(|loan| self.loan(loan, &areas, &problem)).collect::<Result<_>>()?;
        Ok(problem)
    }

    /// Returns the free memory, and the areas.
    fn areas(&self, file: &File, kernel: u64) -> Result<(Vec<Range<u32>>, Vec<AreaWish>)> {
        let new: Vec<&str> =
            file.areas.iter().filter(|area| area.place.is_none()).map(|area| area.name.get_ref().as_str()).collect();
        let memory = self.board.without(&new)?.memory(kernel).map_err(|fault| match &file.board.kernel {
            Some(size) => self.fault(size, fault.what),
            None => fault.help("[board] kernel = \"4M\" says how many bytes from the start of RAM are the kernel's"),
        })?;
        let mut wishes = Vec::new();
        for table in &file.areas {
            let name = table.name.get_ref();
            if name.len() > MOST_NAME {
                return Err(self
                    .fault(&table.name, "the name is too long")
                    .help(format!("it has {MOST_NAME} letters at most")));
            }
            let fixed = match &table.place {
                None => None,
                Some(place) if place.get_ref() == "tree" => {
                    let found = memory.areas.iter().find(|area| base_name(&area.name) == name);
                    let found = found.ok_or_else(|| {
                        let fault = self.fault(&table.name, format!("the tree has no area {name}"));
                        let lines = memory.refused.iter().filter(|line| line.contains(name.as_str()));
                        let known: Vec<&str> = memory.areas.iter().map(|area| area.name.as_str()).collect();
                        let fault = lines.fold(fault, |fault, line| fault.note(format!("the kernel says: {line}")));
                        fault.help(format!(
                            "{}; without place = \"tree\" a place is found",
                            if known.is_empty() {
                                "it has none".to_owned()
                            } else {
                                format!("it has {}", known.join(", "))
                            }
                        ))
                    })?;
                    if found.lendable != table.lend {
                        return Err(self
                            .fault(
                                &table.name,
                                format!("the tree says {} of area {name}", crate::board::flag(found.lendable)),
                            )
                            .help(format!("write lend = {}", found.lendable)));
                    }
                    Some(Fixed { node: found.name.clone(), runs: found.runs.clone() })
                }
                Some(place) => {
                    let what = format!("{:?} is no place", place.get_ref());
                    return Err(self.fault(place, what).help("place = \"tree\", or none: then a place is found"));
                }
            };
            if name == CMA && !table.lend {
                return Err(self
                    .fault(&table.name, "the area of cma= is always lendable")
                    .help("give the area a name of its own"));
            }
            let within = match &table.within {
                None => 0..1 << 20,
                Some(within) => {
                    let [Size(low), Size(high)] = within.get_ref();
                    if low >= high || *high > 1 << 32 || low % u64::from(FRAME) + high % u64::from(FRAME) > 0 {
                        return Err(self
                            .fault(within, "this is no range of whole frames below 4 GiB")
                            .help("the lower address comes first; both are multiples of 4 KiB"));
                    }
                    (low / u64::from(FRAME)) as u32..(high / u64::from(FRAME)) as u32
                }
            };
            wishes.push(AreaWish { name: name.clone(), lendable: table.lend, fixed, within, span: table.name.span() });
        }
        Ok((memory.free, wishes))
    }

    fn power(&self, size: Option<&Spanned<Size>>, what: &str, least: u64, most: u64) -> Result<Option<u32>> {
        let Some(size) = size else { return Ok(None) };
        let Size(bytes) = *size.get_ref();
        if !bytes.is_power_of_two() || !(least..=most).contains(&bytes) {
            let range = format!("{} to {}", crate::problem::bytes(least), crate::problem::bytes(most));
            return Err(self
                .fault(size, format!("{bytes} is no {what}"))
                .help(format!("it is a power of two, {range}")));
        }
        Ok(Some(bytes as u32))
    }

    fn device(&self, table: &DeviceTable, areas: &Names<'_>) -> Result<Device> {
        let mut windows = vec![Window::IDENTITY];
        let mut regions = Vec::new();
        if let Some(node) = &table.node {
            let read = self.board.windows(node.get_ref()).map_err(|line| {
                self.fault(node, line).help("the kernel takes such a device to see no memory: mend the tree")
            })?;
            windows = read.ok_or_else(|| {
                self.fault(node, format!("{} has no node {}", self.board.name, node.get_ref())).help(
                    "a path begins with a slash and has the unit addresses; a node that is not okay does not count",
                )
            })?;
            regions = self.board.regions_of(node.get_ref());
        }
        if let Some(given) = &table.windows {
            windows.clear();
            for WindowTable { bus: Size(bus), phys: Size(phys), size: Size(bytes) } in given.get_ref() {
                let fits = |base: u64| base.checked_add(*bytes).is_some_and(|end| end <= 1 << 32);
                if *bytes == 0 || !fits(*bus) || !fits(*phys) || bus % u64::from(FRAME) != phys % u64::from(FRAME) {
                    return Err(self
                        .fault(given, format!("{bytes:#x} bytes from bus {bus:#x} at {phys:#x} are no window"))
                        .help("a window has bytes, ends below 4 GiB, and shifts memory by whole frames"));
                }
                windows.push(Window { bus: *bus as u32, phys: *phys as u32, bytes: *bytes });
            }
            if windows.is_empty() || windows.len() > carveout::dma::MAX_APERTURES {
                let most = carveout::dma::MAX_APERTURES;
                return Err(self
                    .fault(given, format!("{} windows", windows.len()))
                    .help(format!("there are 1 to {most}")));
            }
        }
        let area = if let Some(area) = &table.area {
            self.find("area", areas, area)?
        } else {
            let mut named = regions.iter().map(String::as_str).chain([CMA]);
            named.find_map(|name| areas.get(name)).copied().ok_or_else(|| {
                self.fault(&table.name, format!("device {} has no area", table.name.get_ref()))
                    .help("say area = \"NAME\", or declare [[area]] name = \"cma\"")
            })?
        };
        let mask = match &table.mask {
            None => u32::MAX,
            Some(mask) => u32::try_from(mask.get_ref().0).map_err(|_| {
                self.fault(mask, "a mask has 32 bits at most").help("it is the last address that the device drives")
            })?,
        };
        Ok(Device {
            name: table.name.get_ref().clone(),
            node: table.node.as_ref().map(|node| node.get_ref().clone()),
            area,
            mask,
            windows,
            boundary: self.power(table.boundary.as_ref(), "boundary", FRAME.into(), 1 << 31)?,
            span: table.name.span(),
        })
    }

    fn cases(&self, file: &File, names: &Names<'_>) -> Result<Vec<UseCase>> {
        let count = file.cases.len();
        let mut cases: Vec<UseCase> = file
            .cases
            .iter()
            .map(|case| UseCase { name: case.name.get_ref().clone(), excludes: vec![false; count] })
            .collect();
        for group in &file.exclusive {
            let group =
                group.iter().map(|name| Ok((name, self.find("case", names, name)?))).collect::<Result<Vec<_>>>()?;
            for &(name, a) in &group {
                if group.iter().filter(|other| other.1 == a).count() > 1 {
                    return Err(self
                        .fault(name, format!("{} cannot exclude itself", name.get_ref()))
                        .help("name it once in the list"));
                }
                for &(_, b) in group.iter().filter(|other| other.1 != a) {
                    cases[a].excludes[b] = true;
                }
            }
        }
        Ok(cases)
    }

    fn set(
        &self,
        table: &Spanned<SetTable>,
        case: usize,
        file: &File,
        devices: &Names<'_>,
        cases: &Names<'_>,
    ) -> Result<Set> {
        let (span, table) = (table.span(), table.get_ref());
        let device = self.find("device", devices, &table.device)?;
        let count = *table.count.get_ref();
        if !(1..=MOST_BUFFERS).contains(&count) {
            return Err(self
                .fault(&table.count, format!("{count} buffers"))
                .help(format!("a set has 1 to {MOST_BUFFERS}")));
        }
        let Size(bytes) = *table.size.get_ref();
        if bytes == 0 || bytes > 1 << 31 {
            return Err(self
                .fault(&table.size, format!("a buffer of {bytes} bytes"))
                .help("a buffer has 1 byte to 2 GiB"));
        }
        let align = table.align.as_ref().or(file.devices[device].align.as_ref());
        let align = self.power(align, "alignment", 1, MOST_ALIGN)?.unwrap_or(FRAME).max(FRAME);
        let mut all = vec![case];
        for name in &table.also {
            let other = self.find("case", cases, name)?;
            if all.contains(&other) {
                return Err(self
                    .fault(name, format!("the buffers are those of {} already", name.get_ref()))
                    .help("name the further use cases once each"));
            }
            all.push(other);
        }
        all.sort_unstable();
        let name = table.name.clone().unwrap_or_else(|| table.device.get_ref().clone());
        if name.chars().any(char::is_control) {
            return Err(self.source.fault(span, "a name with control characters").help("leave them out"));
        }
        Ok(Set {
            name,
            device,
            cases: all,
            count: count as u32,
            bytes: bytes as u32,
            align,
            direction: table.direction,
            span,
        })
    }

    fn loan(&self, table: &LoanTable, areas: &Names<'_>, problem: &Problem) -> Result<Loan> {
        let area = self.find("area", areas, &table.area)?;
        if !problem.areas[area].lendable {
            let what = format!("area {} is never lent", table.area.get_ref());
            return Err(self
                .fault(&table.area, what)
                .help("write lend = true in its table: then the node says reusable"));
        }
        let pages = |size: &Spanned<Size>| {
            let pages = u32::try_from(size.get_ref().0 / u64::from(FRAME)).ok().filter(|&pages| pages <= 1 << 20);
            pages.ok_or_else(|| self.fault(size, "a loan of more than 4 GiB").help("no area is larger"))
        };
        let least = table.least.as_ref().map_or(Ok(0), pages)?;
        Ok(Loan {
            area,
            movable: table.kind == Kind::Movable,
            pages: pages(&table.size)?,
            least,
            span: table.area.span(),
        })
    }
}
