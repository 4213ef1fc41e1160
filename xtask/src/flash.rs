//! Makes the image of an SD card from which a board's own U-Boot boots the kernel: see docs/src/boards.md. Guarantees
//! that the image is whole or not there, and that nothing of Debian's armhf packages is installed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lexopt::{Arg, ValueExt};

use crate::boards::{Board, Card};
use crate::boot::{in_a_folder, make_picture, move_to};
use crate::build::Toolchain;
use crate::failure::{Context, Failure, Result};
use crate::{image, project, scratch};

/// The exit code where Debian's armhf packages cannot be had.
pub(crate) const ABSENT: u8 = 3;
/// Emulators take cards of a power of two only.
const CARD_MIB: u32 = 64;
const SECTORS_A_MIB: u32 = 2048;

/// Runs the command `flash`.
pub(crate) fn command(mut args: lexopt::Parser) -> Result<u8> {
    let (mut board, mut out) = (String::new(), PathBuf::new());
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Long("board") => board = args.value()?.string()?,
            Arg::Long("out") => out = args.value()?.into(),
            other => return Err(other.unexpected().into()),
        }
    }
    let boards = Board::all()?;
    let names: Vec<&str> = boards.iter().filter(|board| board.card().is_some()).map(Board::name).collect();
    if board.is_empty() {
        return Err(Failure::new(format!("no board given: --board {}", names.join(" or --board "))));
    }
    let card = boards.iter().find(|other| other.name() == board).and_then(Board::card);
    let card =
        card.ok_or_else(|| Failure::new(format!("no card for board '{board}'; there are: {}", names.join(" "))))?;
    if out.as_os_str().is_empty() {
        return Err(Failure::new("no file given: --out CARD.img"));
    }
    in_a_folder(&out)?;
    if out.exists() && !out.is_file() {
        let out = out.display();
        return Err(Failure::new(format!("not a file: {out}; make an image first, then write it to the card with dd")));
    }

    let store = Store::new();
    let loader = store.fetch(&card.package, &[format!("./usr/lib/u-boot/{}/*", card.folder)])?;
    let tree = store.fetch_trees(&boards)?.join(&card.tree);
    let toolchain = Toolchain::chosen()?;
    let photo = scratch::folder()?.join("photo.jpg");
    make_picture(&toolchain, &photo)?;
    let loader = loader.join("usr/lib/u-boot").join(&card.folder);
    let made = make(card, &loader, &[&tree, &photo], &toolchain.demo()?)?;
    move_to(&made, &out)?;

    let raw: Vec<String> = card.raw.iter().map(|raw| format!("{}@{}", raw.file, raw.at_kib)).collect();
    eprintln!(
        "made: {}, {CARD_MIB} MiB: {} (KiB), FAT from {} MiB with zImage, {}, photo.jpg, extlinux/extlinux.conf",
        out.display(),
        raw.join(" "),
        card.partition_mib,
        card.tree
    );
    Ok(0)
}

// --- what Debian has ------------------------------------------------------------------------------------------------

/// Debian's packages for armhf, of which some files are kept in `target/distribution`.
struct Store(PathBuf);

/// A device tree with video memory, for the tests.
const VIDEO_TREE: &str = "vexpress-v2p-ca9.dtb";
/// The trees of boards that have no card here, for the tests.
const OTHER_TREES: [&str; 2] = [VIDEO_TREE, "sun8i-h3-orangepi-pc.dtb"];

fn absent(reason: impl std::fmt::Display) -> Failure {
    Failure::with_code(format!("Debian's armhf packages cannot be had: {reason}"), ABSENT)
}

/// Returns the path of a device tree of Debian's kernel that a card was made with.
pub(crate) fn distribution_tree(name: &str) -> Result<PathBuf> {
    let Store(store) = Store::new();
    let kernels = fs::read_dir(&store).doing(store.display())?;
    let mut trees: Vec<PathBuf> = kernels.filter_map(|kernel| trees(&kernel.ok()?.path())).collect();
    trees.sort();
    let folder = trees.pop().ok_or_else(|| Failure::new(format!("no device trees in {}", store.display())))?;
    Ok(folder.join(name))
}

/// Returns the folder of device trees of an unpacked kernel package.
fn trees(package: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(package.join("usr/lib")).ok()?;
    folders.filter_map(|folder| Some(folder.ok()?.path())).find(|folder| folder.join(VIDEO_TREE).is_file())
}

impl Store {
    fn new() -> Self {
        Self(project::target_dir().join("distribution"))
    }

    /// Returns an apt command with a state of its own, for another architecture than the system's.
    fn armhf(&self, command: &str) -> Command {
        let Self(store) = self;
        let mut apt = Command::new(command);
        for (name, path) in [("State", "apt"), ("State::status", "apt/status"), ("Cache", "apt/cache")] {
            apt.arg("-o").arg(format!("Dir::{name}={}", store.join(path).display()));
        }
        apt.args(["-o", "APT::Architecture=armhf", "-o", "APT::Architectures=armhf", "-o", "APT::Sandbox::User="]);
        apt.args(["-o", "Acquire::Languages=none"]);
        apt
    }

    /// Puts the files of a package, named by patterns, into a folder, unless they are there. Returns the folder.
    fn fetch(&self, package: &str, patterns: &[String]) -> Result<PathBuf> {
        let Self(store) = self;
        let (folder, noted) = (store.join(package), store.join(format!("{package}.files")));
        let wanted = patterns.join(" ");
        // Another version of this code may have wanted other files.
        if folder.is_dir() && fs::read_to_string(&noted).is_ok_and(|text| text.trim_end() == wanted) {
            return Ok(folder);
        }
        for folder in ["apt/lists/partial", "apt/cache/archives/partial"] {
            fs::create_dir_all(store.join(folder)).doing(store.display())?;
        }
        fs::write(store.join("apt/status"), "").doing(store.display())?;
        eprintln!("fetching: {package} for armhf");
        let work = scratch::folder()?;
        let files = work.join("files");
        fs::create_dir(&files).doing(files.display())?;
        let download = || run(self.armhf("apt-get").args(["-qq", "download", package]).current_dir(&work));
        if download().is_err() {
            // The usual cause is a package list that is old or was never fetched. One that fails may not be needed.
            let _ = run(self.armhf("apt-get").args(["-qq", "update"]));
            download().map_err(|reason| absent(format!("{package}: {reason}")))?;
        }
        unpack(&work, &files, patterns).map_err(|_| absent(format!("{package} has no {wanted}")))?;
        // All or nothing: the folder's existence says that it is whole.
        if folder.exists() {
            fs::remove_dir_all(&folder).doing(folder.display())?;
        }
        run(Command::new("mv").arg("--").args([&files, &folder])).doing(folder.display())?;
        fs::write(&noted, wanted).doing(noted.display())?;
        Ok(folder)
    }

    /// Returns the folder of the trees of the current kernel, whose package another one depends on.
    fn fetch_trees(&self, boards: &[Board]) -> Result<PathBuf> {
        let meta = "linux-image-armmp";
        self.fetch(meta, &["./usr/share/doc/*".to_owned()])?;
        let depends = self.armhf("apt-cache").args(["depends", meta]).output().doing("apt-cache")?;
        let depends = String::from_utf8_lossy(&depends.stdout);
        let of_kernel = |line: &str| {
            let package = line.trim_start().strip_prefix("Depends: ")?;
            (package.starts_with("linux-image-") && package.ends_with("-armmp")).then(|| package.to_owned())
        };
        let kernel = depends.lines().find_map(of_kernel).ok_or_else(|| absent(format!("{meta} names no kernel")))?;
        let names = boards.iter().filter_map(|board| Some(board.card()?.tree.as_str())).chain(OTHER_TREES);
        let patterns: Vec<String> = names.map(|name| format!("./usr/lib/linux-image-*/{name}")).collect();
        let package = self.fetch(&kernel, &patterns)?;
        trees(&package).ok_or_else(|| absent(format!("{kernel} has no device trees")))
    }
}

/// Runs a command, which must end well. The failure is the last line of its output, or what apt says was wrong.
fn run(command: &mut Command) -> std::result::Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let of_apt = text.lines().find(|line| line.starts_with("E:"));
    Err(of_apt.or(text.lines().last()).unwrap_or("it failed").to_owned())
}

/// Unpacks the files that match, of the one package in a folder.
fn unpack(folder: &Path, to: &Path, patterns: &[String]) -> io::Result<()> {
    let packages = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let package = packages.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
    let package = package.ok_or(io::ErrorKind::NotFound)?;
    let mut archive = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(package).stdout(Stdio::piped()).spawn()?;
    let mut tar = Command::new("tar");
    tar.arg("-x").arg("-C").arg(to).arg("--wildcards").args(patterns).stderr(Stdio::null());
    if let Some(bytes) = archive.stdout.take() {
        tar.stdin(bytes);
    }
    let unpacked = tar.status()?;
    if archive.wait()?.success() && unpacked.success() { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

// --- the card -------------------------------------------------------------------------------------------------------

/// Makes the image in a scratch folder, with these files beside the kernel. Returns its path.
fn make(card: &Card, loader: &Path, files: &[&Path], elf: &Path) -> Result<PathBuf> {
    let work = scratch::folder()?;
    let path = work.join("card.img");
    let image = File::create_new(&path).doing(path.display())?;
    image.set_len(u64::from(CARD_MIB) << 20).doing(path.display())?;

    // One partition, FAT16 by sector numbers.
    let mut sfdisk = Command::new("sfdisk")
        .args(["--quiet", "--label", "dos"])
        .arg(&path)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing("sfdisk")?;
    if let Some(mut stdin) = sfdisk.stdin.take() {
        writeln!(stdin, "start={}MiB, type=e, bootable", card.partition_mib).doing("sfdisk")?;
    }
    let output = sfdisk.wait_with_output().doing("sfdisk")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::new(format!("sfdisk made no partition: {}", reason.trim_end())));
    }

    // The partition table.
    let mut end = 1024;
    for raw in &card.raw {
        let (file, at) = (loader.join(&raw.file), u64::from(raw.at_kib) << 10);
        let bytes = fs::read(&file).doing(file.display())?;
        if at < end {
            return Err(Failure::new(format!("{} at {at} would overwrite what ends at {end}", file.display())));
        }
        image.write_all_at(&bytes, at).doing(path.display())?;
        end = at + bytes.len() as u64;
        if end > u64::from(card.partition_mib) << 20 {
            return Err(Failure::new(format!("{} ends at {end}, in the partition", file.display())));
        }
    }
    drop(image);

    let (kernel, extlinux) = (work.join("zImage"), work.join("extlinux.conf"));
    image::flatten(elf, &kernel)?;
    let (tree_name, append) = (&card.tree, &card.append);
    let menu = format!(
        "default carveout\ntimeout 10\nlabel carveout\n    kernel /zImage\n    fdt /{tree_name}\n    append {append}\n"
    );
    fs::write(&extlinux, menu).doing(extlinux.display())?;
    let fat = format!("{}@@{}M", path.display(), card.partition_mib);
    let sectors = ((CARD_MIB - card.partition_mib) * SECTORS_A_MIB).to_string();
    let mtools = |program: &str, words: &[&str], files: &[&Path], to: &str| {
        let mut command = Command::new(program);
        command.args(["-i", &fat]).args(words).args(files).arg(to);
        run(&mut command).doing(program)
    };
    mtools("mformat", &["-T", &sectors, "-h", "64", "-s", "32", "-v", "CARVEOUT", "-N", "0"], &[], "::")?;
    mtools("mmd", &[], &[], "::extlinux")?;
    mtools("mcopy", &[], &[&kernel], "::")?;
    mtools("mcopy", &[], files, "::")?;
    mtools("mcopy", &[], &[&extlinux], "::extlinux")?;
    Ok(path)
}
