//! The description in a board's folder (`boards/NAME/board.toml`), and the words of QEMU's command line that follow
//! from it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::failure::{Context, Failure, Result};
use crate::project::{self, BOARDS};

/// A board.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Board {
    #[serde(skip)]
    name: String,
    qemu: Option<Qemu>,
    card: Option<Card>,
}

/// How QEMU emulates a board.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Qemu {
    machine: String,
    pub(crate) memory: String,
    #[serde(default)]
    options: Vec<String>,
    disk: Disk,
    /// The boot arguments of the on-target tests.
    #[serde(default)]
    pub(crate) on_target: Option<String>,
}

/// Where a board's one disk is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Disk {
    Virtio,
    Sata,
    SdCard,
}

/// The contents of an SD card that a board's ROM and U-Boot look for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Card {
    /// Debian's package of U-Boot, and the folder in it.
    pub(crate) package: String,
    pub(crate) folder: String,
    /// The device tree of Debian's kernel.
    pub(crate) tree: String,
    /// Files before the partition.
    pub(crate) raw: Vec<Raw>,
    /// Where the partition starts.
    pub(crate) partition_mib: u32,
    pub(crate) append: String,
}

/// A file at a fixed place of a card.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Raw {
    pub(crate) file: String,
    pub(crate) at_kib: u32,
}

/// A board that QEMU has.
#[derive(Debug)]
pub(crate) struct Emulated {
    pub(crate) board: Board,
    pub(crate) qemu: Qemu,
}

impl Board {
    /// Reads all boards, in the order of their names.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let folder = project::root().join(BOARDS);
        let mut boards = Vec::new();
        for entry in fs::read_dir(&folder).doing(folder.display())? {
            let file = entry.doing(folder.display())?.path().join("board.toml");
            let Some(name) = file.parent().and_then(Path::file_name) else { continue };
            if file.is_file() {
                let text = fs::read_to_string(&file).doing(file.display())?;
                let board: Self = toml::from_str(&text).doing(file.display())?;
                boards.push(Self { name: name.to_string_lossy().into_owned(), ..board });
            }
        }
        boards.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(boards)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn card(&self) -> Option<&Card> {
        self.card.as_ref()
    }

    /// Returns the source of the board's device tree.
    pub(crate) fn tree(&self) -> Result<String> {
        let file = project::root().join(BOARDS).join(&self.name).join(format!("{}.dts", self.name));
        fs::read_to_string(&file).doing(file.display())
    }
}

impl Emulated {
    /// Returns all boards that QEMU has, in the order of their names.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let emulated = |mut board: Board| board.qemu.take().map(|qemu| Self { board, qemu });
        Ok(Board::all()?.into_iter().filter_map(emulated).collect())
    }

    /// Returns the board of that name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let mut all = Self::all()?;
        let Some(n) = all.iter().position(|emulated| emulated.board.name == name) else {
            let names: Vec<&str> = all.iter().map(|emulated| emulated.board.name()).collect();
            return Err(Failure::new(format!("no board '{name}'; there are: {}", names.join(" "))));
        };
        Ok(all.swap_remove(n))
    }

    /// Returns the words that name the machine. Options of a command line come later and take precedence.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let machine = ["-machine", &self.qemu.machine, "-m", &self.qemu.memory];
        machine.into_iter().map(OsString::from).chain(self.qemu.options.iter().map(OsString::from)).collect()
    }

    /// Returns whether the machine takes devices of virtio.
    pub(crate) fn has_virtio(&self) -> bool {
        matches!(self.qemu.disk, Disk::Virtio)
    }

    /// Returns the words that attach `file` as the only disk. May put a copy into `scratch`. The guest's writes to the
    /// disk are lost.
    pub(crate) fn disk_words(&self, file: &Path, scratch: &Path) -> Result<Vec<OsString>> {
        let file = file.canonicalize().doing(file.display())?;
        Ok(match self.qemu.disk {
            Disk::Virtio => attached(&file, "virtio-blk-device,drive=disk"),
            Disk::Sata => attached(&file, "ide-hd,drive=disk"),
            Disk::SdCard => {
                let card = card_of(&file, scratch)?;
                vec!["-drive".into(), value("if=sd,format=raw,file=", &card)]
            }
        })
    }
}

fn attached(file: &Path, device: &str) -> Vec<OsString> {
    let drive = value("if=none,id=disk,format=raw,snapshot=on,file=", file);
    vec!["-drive".into(), drive, "-device".into(), device.into()]
}

/// Returns `start` and the file's name with doubled commas, because a single comma ends a value on QEMU's command line.
fn value(start: &str, file: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    let mut bytes = start.as_bytes().to_vec();
    for &byte in file.as_os_str().as_bytes() {
        bytes.extend(std::iter::repeat_n(byte, if byte == b',' { 2 } else { 1 }));
    }
    OsString::from_vec(bytes)
}

/// Copies a file into a card image for QEMU. Its size is a power of two, 256 KiB or more, and zeros follow the file.
fn card_of(file: &Path, scratch: &Path) -> Result<PathBuf> {
    let card = scratch.join("card.img");
    let bytes = fs::read(file).doing(file.display())?;
    fs::write(&card, &bytes).doing(card.display())?;
    let image = fs::File::options().write(true).open(&card).doing(card.display())?;
    image.set_len((bytes.len() as u64).next_power_of_two().max(256 << 10)).doing(card.display())?;
    Ok(card)
}

/// Returns QEMU's command, with the console on its standard input and output. It ends after `limit` seconds, 0 for
/// never.
pub(crate) fn qemu(limit: u32, display: &str) -> Command {
    let mut qemu = Command::new("timeout");
    qemu.args(["--foreground", "--kill-after=5", &limit.to_string(), "qemu-system-arm", "-display", display]);
    qemu.args(["-serial", "stdio", "-monitor", "none", "-semihosting-config", "enable=on,target=native"]);
    qemu
}

/// The options that make an instruction take a nanosecond of the board's clock.
pub(crate) const COUNTING: [&str; 4] = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"];

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: &[OsString]) -> String {
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_board_is_its_words() {
        let board = Emulated::named("cubieboard").unwrap();
        assert_eq!(text(&board.words()), "-machine cubieboard -m 1G");
        let board = Emulated::named("vexpress-a9").unwrap();
        assert!(text(&board.words()).starts_with("-machine vexpress-a9 -m 1G -global virtio-mmio.force-legacy=false"));
    }

    #[test]
    fn an_unknown_board_is_answered_with_those_there_are() {
        let failure = Emulated::named("toaster").unwrap_err();
        let mut names: Vec<_> = fs::read_dir(project::root().join(BOARDS))
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| {
                fs::read_to_string(entry.path().join("board.toml")).is_ok_and(|text| text.contains("[qemu]"))
            })
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert!(names.contains(&"vexpress-a9".to_owned()));
        assert_eq!(failure.to_string(), format!("no board 'toaster'; there are: {}", names.join(" ")));
    }

    #[test]
    fn a_comma_in_a_file_name_is_doubled() {
        assert_eq!(value("file=", Path::new("/a,b")), "file=/a,,b");
    }

    #[test]
    fn disks_are_where_the_board_has_them() {
        let file = std::env::current_exe().unwrap();
        let words = |name| text(&Emulated::named(name).unwrap().disk_words(&file, Path::new("/")).unwrap());
        assert!(words("vexpress-a9").ends_with("-device virtio-blk-device,drive=disk"));
        assert!(words("cubieboard").ends_with("-device ide-hd,drive=disk"));
    }
}
