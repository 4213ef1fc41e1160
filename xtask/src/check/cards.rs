//! Looks at the cards that `boards/flash.sh` makes, by other means than those they were made by, and boots the
//! Cubieboard's: by Debian's U-Boot that is on it, and, where there is a QEMU with the boot ROM, as a board does.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Check, Job, Kit, Options, Verdict, wrong};
use crate::failure::{Context, Failure, Result};
use crate::project::{self, DEMO, KERNEL};
use crate::{boot, flash, image};

/// The cards, made when the first check asks for them.
pub(crate) struct Cards {
    flash: PathBuf,
    logs: PathBuf,
    /// Why there are none.
    absent: OnceLock<Option<String>>,
    /// A QEMU with the boot ROM, or why there is none.
    rom: OnceLock<std::result::Result<PathBuf, String>>,
}

impl Cards {
    /// `xtask` is this program.
    pub(super) fn new(xtask: &Path, logs: &Path) -> Self {
        Self { flash: xtask.to_owned(), logs: logs.to_owned(), absent: OnceLock::new(), rom: OnceLock::new() }
    }

    /// Returns the reason where Debian's packages cannot be had.
    pub(crate) fn absent(&self) -> Option<&str> {
        self.absent
            .get_or_init(|| ["cubieboard", "beaglebone-black"].into_iter().find_map(|board| self.make(board)))
            .as_deref()
    }

    fn make(&self, board: &str) -> Option<String> {
        let output = Command::new(&self.flash)
            .args(["flash", "--board", board, "--out"])
            .arg(self.image(board))
            .stdin(Stdio::null())
            .output()
            .ok()?;
        // Another failure is a card that is not there, which its check finds.
        let text = String::from_utf8_lossy(&output.stderr);
        let reason = text.lines().last().unwrap_or_default().to_owned();
        (output.status.code() == Some(i32::from(flash::ABSENT))).then_some(reason)
    }

    pub(crate) fn image(&self, board: &str) -> PathBuf {
        self.logs.join(format!("{board}.img"))
    }

    /// Returns a QEMU that has the A10's boot ROM, or why there is none.
    pub(crate) fn rom_emulator(&self) -> std::result::Result<&Path, &str> {
        self.rom.get_or_init(rom_emulator).as_deref().map_err(String::as_str)
    }

    /// Boots a card by the U-Boot that is on it, until the kernel says that it has halted. Returns what was said, and
    /// what is wrong with the card afterwards.
    ///
    /// QEMU 7.2 has no boot ROM to load the SPL and no DRAM controller for it to set up: U-Boot's second part is put
    /// where the SPL would put it, less the header of 64 bytes that told the SPL where.
    pub(crate) fn boot(&self, board: &str, job: &mut Job) -> Result<Booted> {
        let (was, card) = self.copy(board, job)?;
        let loader = job.folder().join("u-boot.bin");
        let at = 8192 + 0x8000 + 64;
        fs::write(&loader, &was[at..at + (1 << 20)]).doing(loader.display())?;
        let mut qemu = emulator(Path::new("qemu-system-arm"), board, &card);
        qemu.arg("-device").arg(format!("loader,file={},addr=0x4a000000,force-raw=on,cpu-num=0", loader.display()));
        let said = until_it_ends(qemu, job, || Ok(()))?;
        let wrong = left_on(&card, &was, &said, job)?;
        Ok(Booted { said, wrong })
    }

    /// Boots a card as a board does: QEMU's boot ROM loads what is on it, and nothing is loaded by hand. Of another
    /// size, it has the image's bytes, as many as fit, and then none that was ever written. Returns what was said, and
    /// what is wrong with the kernel in memory, or with the card afterwards.
    pub(crate) fn boot_by_rom(&self, qemu: &Path, board: &str, bytes: Option<u64>, job: &mut Job) -> Result<Booted> {
        let (mut was, card) = self.copy(board, job)?;
        if let Some(bytes) = bytes {
            let file = File::options().write(true).open(&card).doing(card.display())?;
            file.set_len(bytes).doing(card.display())?;
            was.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        let (socket, memory) = (job.folder().join("qmp"), job.folder().join("memory"));
        let mut command = emulator(qemu, board, &card);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        let said = until_it_ends(command, job, || boot::save_memory(&socket, &memory, KERNEL_FROM, KERNEL_BYTES))?;
        let mut wrong = Vec::new();
        // A kernel that did not come to its end is what the lines are about.
        if memory.exists() {
            wrong.extend(left_on(&card, &was, &said, job)?);
            let (memory, kernel) = (read(&memory)?, read(&job.folder().join("was/zImage"))?);
            wrong.extend(kernel_in(&memory, &said, &kernel));
        }
        Ok(Booted { said, wrong })
    }

    /// Copies a card's image. Returns its bytes, and the copy's path.
    fn copy(&self, board: &str, job: &Job) -> Result<(Vec<u8>, PathBuf)> {
        let (image, card) = (self.image(board), job.folder().join("card.img"));
        fs::copy(&image, &card).doing(card.display())?;
        Ok((read(&image)?, card))
    }
}

/// What came of a boot.
pub(crate) struct Booted {
    /// What was said.
    pub(crate) said: String,
    /// What is wrong with the card, or with what was booted from it.
    pub(crate) wrong: Vec<String>,
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).doing(path.display())
}

/// Asks tests/setup.sh.
fn rom_emulator() -> std::result::Result<PathBuf, String> {
    let script = project::root().join("tests/setup.sh");
    let mut bash = Command::new("bash");
    bash.args(["-c", "set -euo pipefail; . \"$0\"; rom_emulator"]).arg(script);
    let output = bash.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end()));
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(text.lines().last().unwrap_or("tests/setup.sh failed").to_owned())
}

fn emulator(qemu: &Path, board: &str, card: &Path) -> Command {
    let mut command = Command::new(qemu);
    command.args(["-machine", board, "-m", "1G", "-display", "none", "-serial", "stdio", "-monitor", "none"]);
    command.arg("-drive").arg(format!("if=sd,format=raw,file={}", card.display()));
    command
}

/// Runs an emulator until the kernel says that it has halted, and then `look`; or until U-Boot has nothing left to boot.
/// Returns what was said.
fn until_it_ends(mut qemu: Command, job: &mut Job, look: impl FnOnce() -> Result<()>) -> Result<String> {
    let console = job.folder().join("console");
    let out = File::create(&console).doing(console.display())?;
    let both = out.try_clone().doing(console.display())?;
    let mut qemu = qemu.stdin(Stdio::null()).stdout(out).stderr(both).spawn().doing("qemu-system-arm")?;
    let start = Instant::now();
    let said = || fs::read(&console).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).doing(console.display());
    let halted = |said: &str| said.lines().any(|line| line.starts_with("halted:"));
    let ended = |said: &str| halted(said) || said.ends_with("\n=> ");
    while !ended(&said()?) && start.elapsed() < PATIENCE && qemu.try_wait().doing("qemu-system-arm")?.is_none() {
        thread::sleep(Duration::from_millis(200));
    }
    let looked = if halted(&said()?) { look() } else { Ok(()) };
    // It may have ended by itself.
    let _ = qemu.kill();
    qemu.wait().doing("qemu-system-arm")?;
    let said = said()?;
    job.say(&said)?;
    looked.map(|()| said)
}

/// How long a card may take to boot: far from what it takes on an idle machine, for the machine may be a busy one.
const PATIENCE: Duration = Duration::from_mins(5);
/// The file that the demo writes.
const SCREEN: &str = "SCREEN.BMP";

/// Takes the files off a card, into a folder. Returns their names.
fn files_of(card: &Path, folder: &Path, job: &mut Job) -> Result<Vec<String>> {
    fs::create_dir(folder).doing(folder.display())?;
    let fat = format!("{}@@{}", card.display(), CUBIEBOARD_START * 512);
    job.run(Command::new("mcopy").args(["-s", "-n", "-i", &fat, "::*"]).arg(folder))?;
    let (_, listed) = job.output(Command::new("mdir").args(["-b", "-/", "-i", &fat, "::"]))?;
    let names = listed.lines().filter(|line| !line.ends_with('/')).filter_map(|line| line.strip_prefix("::/"));
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

/// Says what is wrong with a card after a boot, byte by byte: nothing changed but a file for the screen came, whose sum
/// is what the kernel says. Leaves the photo and the screen as pictures in the check's folder.
fn left_on(card: &Path, was: &[u8], said: &str, job: &mut Job) -> Result<Vec<String>> {
    let (image, before, after) = (job.folder().join("was.img"), job.folder().join("was"), job.folder().join("is"));
    fs::write(&image, was).doing(image.display())?;
    let (had, has) = (files_of(&image, &before, job)?, files_of(card, &after, job)?);
    let mut wrong = Vec::new();
    let mut start = vec![0; CUBIEBOARD_START as usize * 512];
    File::open(card).and_then(|card| card.read_exact_at(&mut start, 0)).doing(card.display())?;
    if let Some(at) = start.iter().zip(was).position(|(is, was)| is != was) {
        wrong.push(format!("the boot changed byte {at:#x}, before the partition"));
    }
    let mut wanted = [had.clone(), vec![SCREEN.to_owned()]].concat();
    wanted.sort_unstable();
    if has != wanted {
        wrong.push(format!("the card has {has:?} after the boot"));
        return Ok(wrong);
    }
    for name in &had {
        if read(&before.join(name))? != read(&after.join(name))? {
            wrong.push(format!("the boot changed {name}"));
        }
    }
    let screen = read(&after.join(SCREEN))?;
    let told = format!("card: {SCREEN} written: {} bytes, CRC-32 {:08x}", screen.len(), crc32fast::hash(&screen));
    if !said.lines().any(|line| line.trim_end() == told) {
        wrong.push(format!("the kernel did not say: {told}"));
    }
    let pictures = [(after.join("photo.jpg"), "picture.jpg"), (after.join(SCREEN), "screen.bmp")];
    for (file, name) in pictures {
        fs::copy(&file, job.folder().join(name)).doing(file.display())?;
    }
    Ok(wrong)
}

/// The memory in which U-Boot leaves the kernel.
const KERNEL_FROM: u32 = 0x4200_0000;
const KERNEL_BYTES: u32 = 4 << 20;

/// Says what is wrong with the kernel in memory: what it never writes must be the card's.
fn kernel_in(memory: &[u8], said: &str, card: &[u8]) -> Vec<String> {
    let span = |line: &str| {
        let (from, to) = line.split_once("-0x")?;
        let number = |text: &str| u32::from_str_radix(text.split(' ').next()?.trim_end_matches(','), 16).ok();
        Some((number(from)?, number(to)?))
    };
    let line = |start: &str, end: &str| {
        let mut lines = said.lines().map(|line| line.trim_end_matches('\r'));
        lines.find_map(|line| span(line.strip_prefix(start)?.strip_suffix(end)?))
    };
    let place = line("memblock: 0x", " reserved for the kernel image");
    let (code, constants) = (line("image: 0x", ", write-back, r-x"), line("image: 0x", ", write-back, r--"));
    let (Some((at, _)), Some((start, _)), Some((_, end))) = (place, code, constants) else {
        return vec!["the kernel does not say where it is".to_owned()];
    };
    let (at, bytes) = (at.wrapping_sub(KERNEL_FROM) as usize, (end - start) as usize);
    match (memory.get(at..at + bytes), card.get(..bytes)) {
        (Some(there), Some(here)) if there == here => Vec::new(),
        (Some(there), Some(here)) => {
            let differ = there.iter().zip(here).filter(|(there, here)| there != here).count();
            vec![format!("{differ} of the kernel's {bytes} bytes in memory are not the card's")]
        }
        _ => vec![format!("the kernel in memory is larger than the card's: {bytes} bytes")],
    }
}

/// What stands before a card's partition, and where, in KiB: the paths are below U-Boot's package.
type Raw = &'static [(&'static str, u64)];

/// The first sector of the Cubieboard's partition.
const CUBIEBOARD_START: u64 = 2048;
const CUBIEBOARD: Raw = &[("u-boot-sunxi/usr/lib/u-boot/Cubieboard/u-boot-sunxi-with-spl.bin", 8)];
const BEAGLEBONE: Raw = &[
    ("u-boot-omap/usr/lib/u-boot/am335x_boneblack/MLO", 128),
    ("u-boot-omap/usr/lib/u-boot/am335x_boneblack/u-boot.img", 384),
];

pub(super) fn checks(kit: &'static Kit, options: &Options) -> Vec<Check> {
    let refused = |name: &str, board: &str, out: &str, line: &str| {
        let (words, line) = ([board.to_owned(), "--out".to_owned(), out.to_owned()], [line.to_owned()]);
        Check::new(name, move |job| {
            let (exit, output) = job.output(kit.xtask("flash").arg("--board").args(&words))?;
            job.judged(&wrong(exit, &output, 2, &line))
        })
    };
    let card = |board: &'static str, start: u64, raw: Raw| {
        Check::new(format!("card: {board}"), move |job| match kit.cards.absent() {
            Some(reason) => Ok(Verdict::Skipped(reason.to_owned())),
            None => looked_at(kit, board, start, raw, job),
        })
    };
    let toaster = kit.logs.join("toaster.img").display().to_string();
    let mut checks = vec![
        refused("card: an unknown board", "toaster", &toaster, "error: no card for board 'toaster'; there are: *"),
        refused("card: no such folder", "cubieboard", "/nowhere/card.img", "error: no such folder: /nowhere"),
        refused("card: not over a device", "cubieboard", "/dev/null", "error: not a file: /dev/null; *"),
        card("cubieboard", CUBIEBOARD_START, CUBIEBOARD),
        card("beaglebone-black", 8192, BEAGLEBONE),
        Check::new("card: what is sent back", |job| match kit.cards.absent() {
            Some(reason) => Ok(Verdict::Skipped(reason.to_owned())),
            None => reported(kit, job),
        }),
    ];
    if !options.quick {
        checks.push(Check::new("card: drivers for the distribution's device trees", |job| match kit.cards.absent() {
            Some(reason) => Ok(Verdict::Skipped(reason.to_owned())),
            None => drivers(kit, job),
        }));
    }
    checks
}

/// Puts together what somebody saw of a board, from a card and a log.
fn reported(kit: &Kit, job: &mut Job) -> Result<Verdict> {
    let (log, out) = (job.folder().join("serial.log"), job.folder().join("report.tar.gz"));
    fs::write(&log, "demo: ok\r\n").doing(log.display())?;
    let report = |card: &Path| {
        let mut report = Command::new(project::root().join("boards/report.sh"));
        report.arg("--card").arg(card).arg("--log").arg(&log).arg("--out").arg(&out);
        report
    };
    let (exit, said) = job.output(&mut report(&log))?;
    let mut wrong_there = wrong(exit, &said, 2, &[format!("error: no partition on the card: {}", log.display())]);
    let card = kit.cards.image("cubieboard");
    let (exit, said) = job.output(&mut report(&card))?;
    wrong_there.extend(wrong(exit, &said, 0, &["made: *: 5 files; look into it before you send it".to_owned()]));
    job.run(Command::new("tar").arg("-xzf").arg(&out).arg("-C").arg(job.folder()))?;
    let (_, sums) = job.output(Command::new("sha256sum").arg(image_kernel(kit, job)?))?;
    let sum = sums.split(' ').next().unwrap_or_default();
    let file = |name: &str| fs::read_to_string(job.folder().join("report").join(name)).doing(name);
    if !file("build.txt")?.contains(sum) || !file("files.txt")?.contains(&format!("{sum}  ./zImage")) {
        wrong_there.push("the report does not say which kernel it was".to_owned());
    }
    if file("serial.log")? != "demo: ok\r\n" || !file("extlinux.conf")?.contains("append ") {
        wrong_there.push("the report lacks the log or the boot arguments".to_owned());
    }
    job.judged(&wrong_there)
}

/// Returns the path of the kernel as cards have it.
fn image_kernel(kit: &Kit, job: &Job) -> Result<PathBuf> {
    let kernel = job.folder().join("kernel.bin");
    image::flatten(kit.program(DEMO)?, &kernel)?;
    Ok(kernel)
}

fn drivers(kit: &Kit, job: &mut Job) -> Result<Verdict> {
    let tree = flash::distribution_tree("am335x-boneblack.dtb")?;
    let mut cargo = kit.toolchain.host("test");
    cargo.args(["--quiet", "--package", KERNEL, "--test", "distribution", "--", "--ignored"]);
    cargo.env("CARVEOUT_TREES", tree.parent().unwrap_or(&tree));
    job.passes(&mut cargo)
}

/// Looks at a card's size, its one partition, what stands before that, and the files in it.
fn looked_at(kit: &Kit, board: &str, start: u64, raw: Raw, job: &mut Job) -> Result<Verdict> {
    let path = kit.cards.image(board);
    let card = fs::read(&path).doing(path.display())?;
    let mut wrong = Vec::new();
    if !card.len().is_power_of_two() {
        wrong.push(format!("{} bytes are no power of two", card.len()));
    }
    let (_, table) = job.output(Command::new("sfdisk").arg("--json").arg(&path))?;
    let table: Value = serde_json::from_str(&table).doing("sfdisk")?;
    let table = &table["partitiontable"];
    if table["label"] != "dos" || table["partitions"].as_array().map(Vec::len) != Some(1) {
        wrong.push("not one partition of a DOS label".to_owned());
    }
    let partition = &table["partitions"][0];
    if partition["start"] != start || partition["size"] != card.len() as u64 / 512 - start {
        wrong.push(format!("a partition that is elsewhere: {partition}"));
    }
    let trees = flash::distribution_tree("")?;
    let store = trees.ancestors().nth(4).unwrap_or(&trees);
    for (file, kib) in raw {
        let bytes = fs::read(store.join(file)).doing(file)?;
        let (from, to) = ((kib << 10) as usize, (kib << 10) as usize + bytes.len());
        if card.get(from..to) != Some(&bytes[..]) {
            wrong.push(format!("{file} is not at {kib} KiB"));
        }
        if to as u64 > start * 512 {
            wrong.push(format!("{file} reaches into the partition"));
        }
    }
    wrong.extend(files(kit, &path, start, &trees, job)?);
    job.judged(&wrong)
}

/// Says what is wrong with the files in the partition.
fn files(kit: &Kit, card: &Path, start: u64, trees: &Path, job: &mut Job) -> Result<Vec<String>> {
    let fat = format!("{}@@{}", card.display(), start * 512);
    let (_, listed) = job.output(Command::new("mdir").args(["-b", "-/", "-i", &fat, "::"]))?;
    // The folder has a line of its own.
    let mut listed: Vec<&str> = listed.lines().filter(|line| !line.ends_with('/')).collect();
    listed.sort_unstable();
    let tree = listed
        .iter()
        .find_map(|file| file.strip_prefix("::/").filter(|file| Path::new(file).extension() == Some("dtb".as_ref())));
    let tree = tree.ok_or_else(|| Failure::new("no device tree"))?;
    let mut wrong = Vec::new();
    let mut wanted = ["extlinux/extlinux.conf", "photo.jpg", tree, "zImage"].map(|file| format!("::/{file}"));
    wanted.sort_unstable();
    if listed != wanted {
        wrong.push(format!("other files: {listed:?}"));
    }
    let file = |name: &str| job.folder().join(name);
    let (kernel, image) = (file("kernel.bin"), file("zImage"));
    let mut mcopy = Command::new("mcopy");
    mcopy.args(["-i", &fat, "::zImage", &format!("::{tree}"), "::extlinux/extlinux.conf"]).arg(job.folder());
    image::flatten(kit.program(DEMO)?, &kernel)?;
    let (own_tree, menu) = (file(tree), file("extlinux.conf"));
    job.run(&mut mcopy)?;
    let image = read(&image)?;
    if image != read(&kernel)? {
        wrong.push("zImage is not the kernel".to_owned());
    }
    // Linux's magic number for zImages.
    if image.get(36..40) != Some(&[0x18, 0x28, 0x6f, 0x01]) {
        wrong.push("zImage has no magic number".to_owned());
    }
    if read(&own_tree)? != read(&trees.join(tree))? {
        wrong.push(format!("{tree} is not the distribution's"));
    }
    let menu = String::from_utf8_lossy(&read(&menu)?).into_owned();
    for line in ["    kernel /zImage".to_owned(), format!("    fdt /{tree}")] {
        if !menu.lines().any(|other| other == line) {
            wrong.push(format!("extlinux.conf lacks: {line}"));
        }
    }
    Ok(wrong)
}
