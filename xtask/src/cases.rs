//! Cases as data (`tests/cases/*.toml`): what is booted, how, and what it must print. Guarantees that a table with an
//! unknown word is refused.
//!
//! A table has a `prefix` of all names, `lines` that several cases name by `@NAME`, `defaults` for all its cases, and
//! the cases. Their fields are those of [`Case`].

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::boards::{self, Emulated};
use crate::check::{Booted, Check, Job, Kit, Verdict, out_of_order, wrong};
use crate::failure::{Context, Failure, Result};
use crate::project::{self, CASES};
use crate::{flash, image};

/// Where QEMU's own loader and ours put the kernel of a vexpress-a9, and where ours puts the device tree.
const KERNEL_AT: u32 = 0x6001_0000;
const TREE_AT: u32 = 0x6800_0000;

/// How long a guest may take, in seconds. On an idle machine every guest takes much less, but the machine may be busy.
const LIMIT: u32 = 900;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    lines: HashMap<String, String>,
    #[serde(default)]
    defaults: toml::Table,
    #[serde(rename = "case")]
    cases: Vec<toml::Table>,
}

/// A boot, and its expected result.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Case {
    pub(crate) name: String,
    /// `--quick` leaves it out.
    #[serde(default)]
    pub(crate) long: bool,

    /// How the guest starts.
    #[serde(default)]
    pub(crate) start: Start,
    #[serde(default = "vexpress")]
    pub(crate) board: String,
    /// The demo or a program of the on-target tests; with `thumb/` before it, built in Thumb instructions.
    #[serde(default = "demo")]
    pub(crate) program: String,
    pub(crate) disk: Option<Disk>,
    /// The device tree. The default is the board's own.
    pub(crate) tree: Option<Tree>,
    /// Boot arguments. `\xHH` is a byte. A kernel that starts as by `./qemu-run.sh` gets them in addition to its usual
    /// ones.
    #[serde(default)]
    pub(crate) append: String,
    pub(crate) memory: Option<String>,
    pub(crate) smp: Option<u32>,
    /// The bytes of a card that the boot ROM starts, if the card has more or fewer than the image.
    pub(crate) card_bytes: Option<u64>,
    /// The limit in seconds.
    pub(crate) timeout: Option<u32>,
    /// Instructions at which some cores start.
    pub(crate) code: Option<Code>,
    /// Further words for QEMU. `{disk}` is the disk's file. If it is used, only these words attach the disk.
    #[serde(default)]
    pub(crate) qemu: Vec<String>,

    /// The guest's exit code.
    #[serde(default)]
    pub(crate) exit: i32,
    /// Patterns. Each must match exactly one whole line. Each complaint among the lines must match a pattern. The lines
    /// of a card come in this order.
    #[serde(default)]
    pub(crate) lines: Vec<String>,
    /// Whether the program's own tests judge. At least one must be ok.
    #[serde(default)]
    pub(crate) own_tests: bool,
    /// The screen is compared with what the host expects, with this tolerance: mean and largest difference.
    pub(crate) screen: Option<String>,
}

fn vexpress() -> String {
    "vexpress-a9".to_owned()
}

fn demo() -> String {
    project::DEMO.to_owned()
}

/// How a guest starts.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Start {
    /// As by `./qemu-run.sh`.
    #[default]
    Command,
    /// By QEMU's -kernel, with the tree and the boot arguments as they are.
    Kernel,
    /// Kernel and tree are in memory, and QEMU knows of neither.
    Memory,
    /// By the board's U-Boot, from its card.
    Card,
    /// By the board's boot ROM, from its card.
    BootRom,
}

/// The contents of the disk.
#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(crate) enum Disk {
    Made(MadeDisk),
    /// A JPEG that the tool for pictures makes with these options. Only `cut` bytes of it are there, or its frame has
    /// another marker.
    #[serde(rename_all = "kebab-case")]
    Generated {
        generate: String,
        cut: Option<u64>,
        marker: Option<u8>,
    },
    /// A JPEG that few encoders write.
    Unusual {
        unusual: String,
    },
    Zeros {
        zeros: u64,
    },
    Path {
        path: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MadeDisk {
    Small,
    Corrupt,
    /// A frame header with 240 lines, and a height of 239 after the scan.
    WithTwoHeights,
    Text,
    /// The Cubieboard's card.
    Card,
}

/// A device tree.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Tree {
    /// The board's, with more source after it.
    Dts(String),
    /// The board's, with children of /reserved-memory.
    Reserved(String),
    /// The board's, with more source after it and forty reservations in its header.
    FortyReservations(String),
    Made(MadeTree),
    /// The source of a whole tree, in the checkout.
    File(PathBuf),
    /// A tree of Debian's kernel.
    Distribution(String),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MadeTree {
    TwoHundredNodes,
    SixtyFourRanges,
    EighteenBanks,
    ThirtyLevels,
    /// A JPEG.
    Garbage,
    /// The header is there, and part of the contents that it names.
    Truncated,
}

/// Instructions in memory, and the cores that start there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Code {
    at: u32,
    words: Vec<u32>,
    cores: Vec<u32>,
}

/// Reads all tables, in the order of their names.
pub(crate) fn all() -> Result<Vec<Case>> {
    let folder = project::root().join(CASES);
    let entries = fs::read_dir(&folder).doing(folder.display())?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).doing(file.display())?;
        cases.extend(table(&text).doing(file.display())?);
    }
    Ok(cases)
}

fn table(text: &str) -> std::result::Result<Vec<Case>, String> {
    let table: Table = toml::from_str(text).map_err(|error| error.to_string())?;
    let case = |own: toml::Table| {
        let name = own.get("name").and_then(toml::Value::as_str).unwrap_or("a case without a name").to_owned();
        let fields: toml::Table = table.defaults.clone().into_iter().chain(own).collect();
        let mut case: Case = fields.try_into().map_err(|error| format!("{name}: {error}"))?;
        case.name.insert_str(0, &table.prefix);
        for line in &mut case.lines {
            if let Some(of_all) = line.strip_prefix('@') {
                let found = table.lines.get(of_all).ok_or_else(|| format!("{name}: no line @{of_all}"))?;
                line.clone_from(found);
            }
        }
        Ok(case)
    };
    table.cases.into_iter().map(case).collect()
}

impl Case {
    /// Returns a case of an on-target test, which judges itself.
    pub(crate) fn of_own_tests(name: String, board: &str, program: &str, append: &str, smp: Option<u32>) -> Self {
        let (board, program, append) = (board.to_owned(), program.to_owned(), append.to_owned());
        Self { name, board, program, append, smp, own_tests: true, ..Self::default() }
    }

    /// Returns the check that boots it.
    pub(crate) fn check(self, kit: &'static Kit) -> Check {
        Check::new(self.name.clone(), move |job| self.run(kit, job))
    }

    fn run(&self, kit: &Kit, job: &mut Job) -> Result<Verdict> {
        if let (Some(Tree::Distribution(_)), _) | (_, Start::Card | Start::BootRom) = (&self.tree, self.start)
            && let Some(reason) = kit.cards.absent()
        {
            return Ok(Verdict::Skipped(reason.to_owned()));
        }
        let rom_emulator = match self.start {
            Start::BootRom => match kit.cards.rom_emulator() {
                Ok(qemu) => qemu,
                Err(reason) => return Ok(Verdict::Skipped(reason.to_owned())),
            },
            _ => Path::new(""),
        };
        if let Some(reason) = kit.unbuildable(&self.program) {
            return Ok(Verdict::Skipped(reason));
        }
        let tree = self.tree.as_ref().map(|tree| self.made_tree(tree, kit, job)).transpose()?;
        let disk = self.disk.as_ref().map(|disk| made_disk(disk, kit, job)).transpose()?;
        // What is wrong with what a card's boot left, and with the order of its lines.
        let mut beside = Vec::new();
        let (exit, output) = match self.start {
            Start::Command => job.output(&mut self.by_command(kit, job, tree.as_deref(), disk.as_deref())?)?,
            Start::Card | Start::BootRom => {
                let booted = match self.start {
                    Start::Card => kit.cards.boot(&self.board, job),
                    _ => kit.cards.boot_by_rom(rom_emulator, &self.board, self.card_bytes, job),
                };
                let Booted { said, wrong } = booted?;
                beside = wrong;
                (0, said)
            }
            _ => job.output(&mut self.by_qemu(kit, job, tree.as_deref(), disk.as_deref())?)?,
        };
        if self.own_tests {
            let ok = output.lines().any(|line| line.contains(": ok"));
            let silent = (!ok).then(|| "no test says that it is ok".to_owned());
            let ended = (exit != 0).then(|| format!("exit code {exit}, expected 0"));
            return job.judged(&ended.into_iter().chain(silent).collect::<Vec<_>>());
        }
        if let Start::Card | Start::BootRom = self.start {
            beside.extend(out_of_order(&output, &self.lines));
        }
        beside.extend(wrong(exit, &output, self.exit, &self.lines));
        match job.judged(&beside)? {
            Verdict::Passed(_) => self
                .screen
                .as_ref()
                .map_or(Ok(Verdict::Passed(None)), |tolerance| compare(&self.name, tolerance, kit, job)),
            other => Ok(other),
        }
    }

    /// Returns this program's own command that boots it.
    fn by_command(&self, kit: &Kit, job: &Job, tree: Option<&Path>, disk: Option<&Path>) -> Result<Command> {
        let mut boot = kit.xtask("boot");
        boot.args(["--timeout", &self.timeout.unwrap_or(LIMIT).to_string(), "--board", &self.board]);
        if let Some(tree) = tree {
            boot.arg("--dtb").arg(tree);
        }
        if let Some(disk) = disk {
            boot.arg("--image").arg(disk);
        }
        if !self.append.is_empty() {
            boot.arg("--append").arg(bytes(&self.append));
        }
        if let Some(memory) = &self.memory {
            boot.args(["--memory", memory]);
        }
        if let Some(cores) = self.smp {
            boot.args(["--smp", &cores.to_string()]);
        }
        if self.screen.is_some() {
            boot.arg("--screenshot").arg(job.folder().join("screen.png"));
        }
        boot.args(&self.qemu).arg(kit.program(&self.program)?);
        Ok(boot)
    }

    /// Returns QEMU's command.
    fn by_qemu(&self, kit: &Kit, job: &Job, tree: Option<&Path>, disk: Option<&Path>) -> Result<Command> {
        let emulated = Emulated::named(&self.board)?;
        let file = |name| job.folder().join(name);
        let kernel = file("kernel.bin");
        image::flatten(kit.program(&self.program)?, &kernel)?;
        let own_tree = file("board.dtb");
        if tree.is_none() {
            image::compile_tree(&emulated.board.tree()?, &own_tree)?;
        }
        let tree = tree.unwrap_or(&own_tree);

        let mut qemu = boards::qemu(self.timeout.unwrap_or(LIMIT), "none");
        qemu.args(emulated.words());
        let attached_by_hand = self.qemu.iter().any(|word| word.contains("{disk}"));
        if let Some(disk) = disk.filter(|_| !attached_by_hand) {
            qemu.args(emulated.disk_words(disk, job.folder())?);
        }
        if let Some(cores) = self.smp {
            qemu.args(["-smp", &cores.to_string()]);
        }
        match self.start {
            Start::Memory => qemu.args(loaded(&kernel, KERNEL_AT)).args(loaded(tree, TREE_AT)),
            _ => qemu.arg("-kernel").arg(&kernel).arg("-dtb").arg(tree).arg("-append").arg(bytes(&self.append)),
        };
        if let Some(code) = &self.code {
            let words: Vec<u8> = code.words.iter().flat_map(|word| word.to_le_bytes()).collect();
            fs::write(file("code"), words).doing("the code")?;
            qemu.args(loaded(&file("code"), code.at));
            for core in &code.cores {
                qemu.args(["-device", &format!("loader,addr={:#x},cpu-num={core}", code.at)]);
            }
        }
        let disk = disk.map(|disk| disk.display().to_string()).unwrap_or_default();
        qemu.args(self.qemu.iter().map(|word| word.replace("{disk}", &disk)));
        Ok(qemu)
    }

    /// Makes the tree's blob. Returns its path.
    fn made_tree(&self, tree: &Tree, kit: &Kit, job: &Job) -> Result<PathBuf> {
        let blob = job.folder().join("variant.dtb");
        let board = Emulated::named(&self.board)?.board.tree()?;
        // This is for trees that QEMU does not know. In other trees QEMU writes its own.
        let board = format!("{board}\n/ {{ chosen {{ bootargs = \"semihosting\"; }}; }};\n");
        let source = match tree {
            Tree::Dts(more) => format!("{board}{more}"),
            Tree::Reserved(children) => format!("{board}{}", reserved(children)),
            Tree::FortyReservations(more) => {
                let header = (0..40).fold("/dts-v1/;".to_owned(), |mut header, n| {
                    let _ = write!(header, " /memreserve/ {:#x} 0x1000;", 0x9f00_0000_u32 + n * 0x2000);
                    header
                });
                format!("{board}{more}").replacen("/dts-v1/;", &header, 1)
            }
            Tree::Made(MadeTree::Garbage) => {
                kit.picture(job, &["generate", "variant.dtb", "--size", "320x240"])?;
                return Ok(blob);
            }
            Tree::Made(MadeTree::Truncated) => {
                image::compile_tree(&board, &blob)?;
                shorten(&blob, 700)?;
                return Ok(blob);
            }
            Tree::Made(made) => format!("{board}{}", made.source()),
            Tree::File(file) => {
                let file = project::root().join(file);
                fs::read_to_string(&file).doing(file.display())?
            }
            Tree::Distribution(name) => return flash::distribution_tree(name),
        };
        image::compile_tree(&source, &blob)?;
        Ok(blob)
    }
}

fn reserved(children: &str) -> String {
    format!("/ {{ reserved-memory {{ #address-cells = <1>; #size-cells = <1>; ranges; {children} }}; }};")
}

impl MadeTree {
    fn source(self) -> String {
        let each = |count: u32, one: &dyn Fn(u32) -> String| (0..count).map(one).collect::<String>();
        match self {
            Self::TwoHundredNodes => {
                let node = |n| format!("q{n} {{ no-map; reg = <{:#x} 0x1000>; }};", 0x7000_0000 + n * 0x10_2000);
                reserved(&format!("{} tz@9e000000 {{ no-map; reg = <0x9e000000 0x400000>; }};", each(200, &node)))
            }
            Self::SixtyFourRanges => {
                let range = |n| format!(" {:#x} 0x1000", 0x9e00_0000 + n * 0x3000);
                reserved(&format!("tz@9e000000 {{ no-map; reg = <{}>; }};", each(64, &range)))
            }
            Self::EighteenBanks => {
                let bank = |n| format!("ram@{n} {{ device_type = \"memory\"; reg = <0x60000000 0x40000000>; }};");
                format!("/ {{ {} }};", each(18, &bank))
            }
            Self::ThirtyLevels => {
                let levels = each(30, &|n| format!("n{} {{ ", n + 1));
                format!("/ {{ {levels} {} }};", "}; ".repeat(30))
            }
            Self::Garbage | Self::Truncated => String::new(),
        }
    }
}

/// Returns the words that put a file into memory.
fn loaded(file: &Path, at: u32) -> [String; 2] {
    ["-device".to_owned(), format!("loader,file={},addr={at:#x},force-raw=on", file.display())]
}

/// Returns the text with each `\xHH` replaced by that byte.
fn bytes(text: &str) -> OsString {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend(before.as_bytes());
        match after.get(..2).map(|digits| u8::from_str_radix(digits, 16)) {
            Some(Ok(byte)) => bytes.push(byte),
            _ => bytes.extend(b"\\x"),
        }
        rest = after.get(2..).unwrap_or_default();
    }
    bytes.extend(rest.as_bytes());
    OsString::from_vec(bytes)
}

fn shorten(file: &Path, length: u64) -> Result<()> {
    fs::File::options().write(true).open(file).and_then(|file| file.set_len(length)).doing(file.display())
}

// --- disks ----------------------------------------------------------------------------------------------------------

/// Makes the disk's file. Returns its path.
fn made_disk(disk: &Disk, kit: &Kit, job: &Job) -> Result<PathBuf> {
    let file = job.folder().join("picture.jpg");
    let path = file.display();
    match disk {
        Disk::Path { path } => return Ok(path.clone()),
        Disk::Zeros { zeros } => fs::write(&file, vec![0; *zeros as usize]).doing(path)?,
        Disk::Unusual { unusual } => {
            kit.picture(job, &["unusual", unusual, "picture.jpg", "twin.jpg", "--size", "320x240"])?;
        }
        Disk::Generated { generate, cut, marker } => {
            let options = generate.split_whitespace();
            kit.picture(job, &["generate", "picture.jpg"].into_iter().chain(options).collect::<Vec<_>>())?;
            if let Some(marker) = marker {
                let of_frame = |marker| [0xff, marker, 0x00, 0x11];
                replace(&file, of_frame(0xc0), of_frame(*marker))?;
            }
            if let Some(cut) = cut {
                shorten(&file, *cut)?;
            }
        }
        Disk::Made(MadeDisk::Small) => kit.picture(job, &["generate", "picture.jpg", "--size", "320x240"])?,
        Disk::Made(MadeDisk::Text) => fs::write(&file, "This is no picture.\n").doing(path)?,
        Disk::Made(MadeDisk::Card) => return Ok(kit.cards.image("cubieboard")),
        Disk::Made(MadeDisk::Corrupt) => {
            kit.picture(job, &["generate", "whole.jpg", "--size", "320x240"])?;
            kit.picture(job, &["corrupt", "whole.jpg", "picture.jpg"])?;
        }
        Disk::Made(MadeDisk::WithTwoHeights) => {
            kit.picture(job, &["unusual", "restarts", "other.jpg", "picture.jpg", "--size", "320x240"])?;
            let mut bytes = fs::read(&file).doing(&path)?;
            bytes.truncate(bytes.len().saturating_sub(2));
            bytes.extend([0xff, 0xdc, 0x00, 0x04, 0x00, 0xef, 0xff, 0xd9]);
            fs::write(&file, bytes).doing(path)?;
        }
    }
    Ok(file)
}

/// Replaces four bytes of a file, which must be there.
fn replace(file: &Path, old: [u8; 4], new: [u8; 4]) -> Result<()> {
    let mut bytes = fs::read(file).doing(file.display())?;
    let place = bytes.windows(4).position(|window| window == old);
    let place = place.ok_or_else(|| Failure::new(format!("{} has no such marker", file.display())))?;
    bytes[place..place + 4].copy_from_slice(&new);
    fs::write(file, bytes).doing(file.display())
}

/// Compares the screen with what the host expects of the picture, or of its twin that all decoders take.
fn compare(name: &str, tolerance: &str, kit: &Kit, job: &mut Job) -> Result<Verdict> {
    if job.folder().join("screen.bmp").exists() {
        kit.picture(job, &["bmp", "screen.bmp", "screen.png"])?;
    }
    let twin = job.folder().join("twin.jpg").exists();
    kit.picture(job, &["expect", if twin { "twin.jpg" } else { "picture.jpg" }, "expected.png"])?;
    // The pictures are kept beside the logs, so that a person can look at them.
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let kept: String = name.trim_start_matches("demo: ").chars().map(plain).collect();
    for (made, kept) in [("screen.png", format!("{kept}.png")), ("expected.png", format!("{kept}.expected.png"))] {
        fs::copy(job.folder().join(made), kit.logs.join(&kept)).doing(kept)?;
    }
    let mut compare = kit.picture_tool(job)?;
    compare.args(["compare", "screen.png", "expected.png", "--tolerance", tolerance]);
    let (exit, output) = job.output(&mut compare)?;
    let line = output.trim_end().to_owned();
    Ok(if exit == 0 { Verdict::Passed(Some(line)) } else { Verdict::Failed(line) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_read() {
        let cases = all().unwrap();
        let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        let count = names.len();
        assert!(count > 170, "{count} cases");
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "two cases of one name");
    }

    #[test]
    fn a_table_has_defaults_and_lines() {
        let text = "
            prefix = 'a: '
            [lines]
            no = 'error: no'
            [defaults]
            board = 'cubieboard'
            exit = 1
            [[case]]
            name = 'b'
            lines = ['@no', 'demo: ok']
            [[case]]
            name = 'c'
            exit = 0";
        let cases = table(text).unwrap();
        assert_eq!(cases[0].name, "a: b");
        assert_eq!(cases[0].lines, ["error: no", "demo: ok"]);
        assert_eq!((cases[0].board.as_str(), cases[0].exit), ("cubieboard", 1));
        assert_eq!(cases[1].exit, 0);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let refusal = |case: &str| table(&format!("[[case]]\nname = 'x'\n{case}")).unwrap_err();
        assert!(refusal("lime = ['demo: ok']").contains("unknown field `lime`"));
        assert!(refusal("tree.made = 'tall'").contains("tall"));
        assert!(refusal("lines = ['@no']").contains("no line @no"));
    }

    #[test]
    fn a_byte_may_be_no_text() {
        assert_eq!(bytes("root=/de\\xff/sda").into_vec(), b"root=/de\xff/sda");
        assert_eq!(bytes("a\\xgg").into_vec(), b"a\\xgg".to_vec().into_iter().take(3).collect::<Vec<_>>());
    }

    #[test]
    fn made_trees_have_as_many_nodes_as_their_names_say() {
        assert_eq!(MadeTree::TwoHundredNodes.source().matches("no-map").count(), 201);
        assert_eq!(MadeTree::SixtyFourRanges.source().matches("0x1000").count(), 64);
        assert_eq!(MadeTree::EighteenBanks.source().matches("ram@").count(), 18);
        assert_eq!(MadeTree::ThirtyLevels.source().matches("n3").count(), 2);
    }
}
