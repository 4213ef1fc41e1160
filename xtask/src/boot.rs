//! Boots the kernel in QEMU and runs the demo, or boots another ELF (cargo's runner). Guarantees that nothing is built
//! if an ELF is given, and that the command ends with the guest's exit code.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use lexopt::{Arg, ValueExt};
use serde_json::{Value, json};

use crate::boards::{self, COUNTING, Emulated};
use crate::build::Toolchain;
use crate::failure::{Context, Failure, Result};
use crate::{image, project, scratch, trace};

/// The exit code after a timeout, as of the command `timeout`.
const TIMED_OUT: u8 = 124;
/// The bytes of the frame that a board without a display would show: 640 x 480 words.
const FRAME_BYTES: u32 = 1_228_800;
/// The events of each core that a record has.
const EVENTS: u32 = 32_768;

/// The options of the command line.
#[derive(Debug)]
struct Options {
    board: Emulated,
    image: Option<PathBuf>,
    screenshot: Option<PathBuf>,
    /// Where the trace of the run goes.
    record: Option<PathBuf>,
    window: bool,
    append: OsString,
    dtb: Option<PathBuf>,
    memory: Option<Memory>,
    /// The RAM in MiB: that of `--memory`, or else the board's.
    mib: u64,
    cores: Option<u32>,
    count: bool,
    /// The loopback port of the host that leads to the guest's port 80.
    net: Option<u16>,
    limit: u32,
    /// Whether the kernel reads commands.
    shell: bool,
    elf: Option<PathBuf>,
}

/// A size as QEMU's -m takes it, with its unit.
#[derive(Debug, PartialEq)]
struct Memory {
    text: String,
    mib: u64,
}

impl Options {
    fn parse(mut args: lexopt::Parser) -> Result<Self> {
        let mut board = "vexpress-a9".to_owned();
        let (mut image, mut screenshot, mut dtb, mut elf) = (None, None, None, None);
        let (mut memory, mut cores, mut limit) = (None, None, None);
        let (mut window, mut count, mut append, mut record) = (false, false, OsString::new(), None);
        let mut net = None;
        while let Some(arg) = args.next()? {
            match arg {
                Arg::Long("board") => board = args.value()?.string()?,
                Arg::Long("image") => image = Some(file(args.value()?, "picture")?),
                Arg::Long("screenshot") => screenshot = Some(PathBuf::from(args.value()?)),
                Arg::Long("record") => record = Some(PathBuf::from(args.value()?)),
                Arg::Long("append") => append = args.value()?,
                Arg::Long("dtb") => dtb = Some(file(args.value()?, "device tree blob")?),
                Arg::Long("memory") => memory = Some(Memory::parse(&args.value()?.string()?)?),
                Arg::Long("smp") => cores = Some(cores_of(&args.value()?.string()?)?),
                Arg::Long("timeout") => limit = Some(limit_of(&args.value()?.string()?)?),
                Arg::Long("window") => window = true,
                Arg::Long("count") => count = true,
                Arg::Long("net") => net = Some(port_of(&mut args)?),
                // The scripts have handled this option.
                Arg::Long("no-install") => {}
                Arg::Value(value) => {
                    elf = Some(file(value, "ELF")?);
                    if let Some(next) = args.raw_args()?.next() {
                        let next = next.display();
                        return Err(Failure::new(format!("nothing may follow the ELF, but '{next}' does")));
                    }
                }
                other => return Err(other.unexpected().into()),
            }
        }
        let words = append.to_string_lossy();
        let asks_for = |demo| words.split_whitespace().any(|word| word == demo);
        let shell = asks_for("demo=shell");
        let endless = window || net.is_some() || (shell && io::stdin().is_terminal());
        let board = Emulated::named(&board)?;
        let mib = match &memory {
            Some(memory) => memory.mib,
            None => Memory::parse(&board.qemu.memory).doing(board.board.name())?.mib,
        };
        let options = Self {
            board,
            image,
            screenshot,
            record,
            window,
            count: count || asks_for("demo=loans"),
            append,
            dtb,
            memory,
            mib,
            cores,
            limit: limit.unwrap_or(if endless { 0 } else { 120 }),
            shell,
            net,
            elf,
        };
        options.checked()
    }

    fn checked(self) -> Result<Self> {
        if let Some(image) = &self.image
            && fs::metadata(image).is_ok_and(|file| file.len() == 0)
        {
            return Err(Failure::new(format!("the picture is an empty file: {}", image.display())));
        }
        if self.net.is_some() {
            if self.elf.is_some() {
                return Err(Failure::new("--net is of the demo: it goes with no ELF"));
            }
            if !self.board.has_virtio() {
                let name = self.board.board.name();
                return Err(Failure::new(format!("--net needs a board with virtio, which {name} has not")));
            }
            if self.screenshot.is_some() || self.window {
                return Err(Failure::new("--net shows no picture: it goes with neither --screenshot nor --window"));
            }
        }
        if let Some(screenshot) = &self.screenshot {
            if self.window {
                return Err(Failure::new("--screenshot and --window exclude each other"));
            }
            in_a_folder(screenshot)?;
        }
        if let Some(record) = &self.record {
            if self.elf.is_some() {
                return Err(Failure::new("--record is of the demo: it goes with no ELF"));
            }
            in_a_folder(record)?;
        }
        // QEMU writes the size that it is told into the node of the first bank. It does not know other banks.
        let banks = self.board.board.tree()?.matches(r#"device_type = "memory""#).count();
        if self.memory.is_some() && self.dtb.is_none() && banks > 1 {
            return Err(Failure::new(format!(
                "--memory sizes the first bank alone, and {} has {banks}: give a --dtb that says what there is",
                self.board.board.name()
            )));
        }
        Ok(self)
    }

    /// Returns the kernel's command line.
    fn boot_arguments(&self, events: Option<&Path>) -> OsString {
        // QEMU puts the device tree into the middle of a small RAM. So half of the RAM is more than the largest free
        // run.
        let cma = (self.mib / 4).min(64);
        let mut arguments = OsString::from(format!("cma={cma}M loglevel=6 semihosting"));
        if let Some(events) = events {
            arguments.push(format!(" events={EVENTS} record="));
            arguments.push(events);
        }
        if self.net.is_some() {
            arguments.push(" demo=net");
        }
        if !self.append.is_empty() {
            arguments.push(" ");
            arguments.push(&self.append);
        }
        // The demo waits for a key while the picture is on the screen.
        if self.screenshot.is_some() || self.window {
            arguments.push(" hold");
        }
        arguments
    }

    /// Returns QEMU's command. `disk` are the words that attach the disk.
    fn qemu(&self, kernel: &Path, dtb: &Path, disk: Vec<OsString>, display: &str, events: Option<&Path>) -> Command {
        let mut qemu = boards::qemu(self.limit, display);
        qemu.args(self.board.words()).args(disk);
        qemu.arg("-kernel").arg(kernel).arg("-dtb").arg(dtb).arg("-append").arg(self.boot_arguments(events));
        if let Some(memory) = &self.memory {
            qemu.args(["-m", &memory.text]);
        }
        if let Some(cores) = self.cores {
            qemu.args(["-smp", &cores.to_string()]);
        }
        if let Some(port) = self.net {
            qemu.args(["-netdev", &format!("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:80")]);
            qemu.args(["-device", "virtio-net-device,netdev=net"]);
        }
        if self.count {
            qemu.args(COUNTING);
        }
        qemu
    }
}

fn file(path: OsString, what: &str) -> Result<PathBuf> {
    let path = PathBuf::from(path);
    if path.is_file() && fs::File::open(&path).is_ok() {
        Ok(path)
    } else {
        Err(Failure::new(format!("no such {what}: {}", path.display())))
    }
}

/// Returns the path if the folder that it is in exists.
pub(crate) fn in_a_folder(path: &Path) -> Result<&Path> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() { Ok(path) } else { Err(Failure::new(format!("no such folder: {}", folder.display()))) }
}

fn cores_of(text: &str) -> Result<u32> {
    let cores = digits(text).filter(|&cores| cores > 0 && !text.starts_with('0'));
    cores.ok_or_else(|| Failure::new(format!("--smp takes a number of cores, not '{text}'")))
}

/// Returns a loopback port that is free now. Another program takes it in the meantime only by chance.
pub(crate) fn free_port() -> Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|port| port.local_addr()).doing("a free port")
}

/// Returns the port after `--net`, or else a free one.
fn port_of(args: &mut lexopt::Parser) -> Result<u16> {
    let word = match args.optional_value() {
        Some(word) => Some(word),
        None => args.raw_args()?.next_if(|word| digits::<u64>(&word.to_string_lossy()).is_some()),
    };
    let Some(word) = word else {
        return Ok(free_port()?.port());
    };
    let text = word.string()?;
    let port = digits(&text).filter(|&port| port > 0);
    port.ok_or_else(|| Failure::new(format!("--net takes a port, not '{text}'")))
}

fn limit_of(text: &str) -> Result<u32> {
    digits(text).ok_or_else(|| Failure::new(format!("--timeout takes whole seconds, not '{text}'")))
}

/// Returns the number that the text is: digits and nothing else.
fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

impl Memory {
    fn parse(text: &str) -> Result<Self> {
        let failure = || Failure::new(format!("--memory takes a size such as 512M, not '{text}'"));
        let (number, unit) = match text.char_indices().next_back() {
            Some((end, unit)) if unit.is_ascii_alphabetic() => (&text[..end], unit.to_ascii_uppercase()),
            _ => (text, 'M'),
        };
        let number: u64 = digits(number).ok_or_else(failure)?;
        let mib = match unit {
            'K' => number >> 10,
            'M' => number,
            'G' => number << 10,
            _ => return Err(failure()),
        };
        Ok(Self { text: format!("{number}{unit}"), mib })
    }
}

/// Runs the command `boot`. Returns the guest's exit code.
pub(crate) fn command(args: lexopt::Parser) -> Result<u8> {
    let mut options = Options::parse(args)?;
    let display = if options.window { window()? } else { "none" };
    let scratch = scratch::folder()?;

    let elf = if let Some(elf) = options.elf.clone() {
        elf
    } else {
        let toolchain = Toolchain::chosen()?;
        let elf = toolchain.demo_with(if options.record.is_some() { &["events"] } else { &[] })?;
        // The page needs no disk.
        if options.image.is_none() && options.net.is_none() {
            options.image = Some(default_picture(&toolchain, &scratch)?);
        }
        elf
    };
    let kernel = scratch.join("kernel.bin");
    image::flatten(&elf, &kernel)?;
    let own_tree = scratch.join("board.dtb");
    if options.dtb.is_none() {
        image::compile_tree(&options.board.board.tree()?, &own_tree)?;
        // The tree names the cores that QEMU has: 1 by default.
        image::keep_cores(&own_tree, options.cores.unwrap_or(1))?;
    }
    let dtb = options.dtb.as_ref().unwrap_or(&own_tree);
    let disk = options.image.as_ref().map_or(Ok(Vec::new()), |image| options.board.disk_words(image, &scratch))?;
    let events = options.record.as_ref().map(|_| scratch.join("events"));
    let mut qemu = options.qemu(&kernel, dtb, disk, display, events.as_deref());
    if let Some(port) = options.net {
        println!("net: http://127.0.0.1:{port}/");
    }

    let status = if options.screenshot.is_some() {
        with_screenshot(qemu, &scratch)?
    } else {
        // If the input is not a terminal, it is meant for the guest only if that reads commands, or serves until a key
        // comes.
        if !io::stdin().is_terminal() && !options.shell && options.net.is_none() {
            qemu.stdin(Stdio::null());
        }
        qemu.status().doing("timeout")?
    };
    let code = exit_code(status);
    if code == TIMED_OUT {
        return Err(Failure::with_code(format!("no end after {} seconds", options.limit), TIMED_OUT));
    }
    if let (Some(record), Some(events)) = (&options.record, &events) {
        trace::write(events, record)?;
    }
    match &options.screenshot {
        Some(screenshot) => keep(screenshot, &scratch, code),
        None => Ok(code),
    }
}

/// Returns a command's exit code. The command `timeout` reports 137 if it had to kill QEMU.
fn exit_code(status: ExitStatus) -> u8 {
    match status.code() {
        Some(137) => TIMED_OUT,
        Some(code) => u8::try_from(code).unwrap_or(1),
        None => 1,
    }
}

/// Returns the display that shows a window.
fn window() -> Result<&'static str> {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !set("DISPLAY") && !set("WAYLAND_DISPLAY") {
        return Err(Failure::new("--window needs a graphical session (DISPLAY is not set)"));
    }
    let displays = Command::new("qemu-system-arm").args(["-display", "help"]).output().doing("qemu-system-arm")?;
    let displays = String::from_utf8_lossy(&displays.stdout);
    ["gtk", "sdl"]
        .into_iter()
        .find(|&display| displays.lines().any(|line| line == display))
        .ok_or_else(|| Failure::new("--window needs QEMU's gtk or sdl display, on Debian the package qemu-system-gui"))
}

/// Makes the picture for the disk if none is given.
fn default_picture(toolchain: &Toolchain, scratch: &Path) -> Result<PathBuf> {
    let made = scratch.join("demo.jpg");
    make_picture(toolchain, &made)?;
    let kept = project::target_dir().join("demo.jpg");
    move_to(&made, &kept)?;
    Ok(kept)
}

/// Makes a picture for the demo.
pub(crate) fn make_picture(toolchain: &Toolchain, to: &Path) -> Result<()> {
    run_picture(Command::new(toolchain.picture()?).arg("generate").arg(to))
}

fn run_picture(tool: &mut Command) -> Result<()> {
    if tool.status().doing("the tool for pictures")?.success() {
        Ok(())
    } else {
        Err(Failure::new("the tool for pictures failed"))
    }
}

/// Moves a file, also to another file system.
pub(crate) fn move_to(from: &Path, to: &Path) -> Result<()> {
    if fs::rename(from, to).is_err() {
        fs::copy(from, to).doing(to.display())?;
        fs::remove_file(from).doing(from.display())?;
    }
    Ok(())
}

// --- the screen's picture -------------------------------------------------------------------------------------------

/// The line that says where the frame is on a board without a display.
const IN_MEMORY: &str = "picture: no display; it is in memory at ";

/// Runs QEMU and passes its console on line by line. When the demo waits for a key, takes the picture and presses the
/// key.
fn with_screenshot(mut qemu: Command, scratch: &Path) -> Result<ExitStatus> {
    let socket = scratch.join("qmp");
    qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
    let mut qemu = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().doing("timeout")?;
    let console = qemu.stdout.take().map(BufReader::new);
    let mut frame = None;
    for line in console.into_iter().flat_map(|console| console.split(b'\n')) {
        let line = line.doing("QEMU's console")?;
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        let mut out = io::stdout().lock();
        out.write_all(line).and_then(|()| out.write_all(b"\n")).doing("standard output")?;
        let line = String::from_utf8_lossy(line);
        if let Some(address) = line.strip_prefix(IN_MEMORY) {
            frame = u32::from_str_radix(address.trim_start_matches("0x"), 16).ok();
        } else if line.starts_with("demo: picture ") && line.ends_with(", waiting for a key") {
            if let Err(failure) = shoot(&socket, scratch, frame) {
                eprintln!("error: QEMU took no screenshot: {failure}");
            }
            if let Some(keys) = &mut qemu.stdin {
                keys.write_all(b"\n").doing("the guest's keys")?;
            }
        }
    }
    qemu.wait().doing("timeout")
}

/// Asks QEMU for a picture of the screen, or for the bytes of the frame at its physical address.
fn shoot(socket: &Path, scratch: &Path, frame: Option<u32>) -> Result<()> {
    if let Some(address) = frame {
        return save_memory(socket, &scratch.join("screen.raw"), address, FRAME_BYTES);
    }
    let file = scratch.join("screen.png");
    ask(socket, &json!({ "execute": "screendump", "id": "this", "arguments": { "filename": file, "format": "png" } }))
}

/// Has QEMU write the guest's memory from a physical address on into a file.
pub(crate) fn save_memory(socket: &Path, file: &Path, address: u32, bytes: u32) -> Result<()> {
    let arguments = json!({ "filename": file, "val": address, "size": bytes });
    ask(socket, &json!({ "execute": "pmemsave", "id": "this", "arguments": arguments }))
}

/// Gives QEMU a command by its socket, and waits for the answer.
fn ask(socket: &Path, command: &Value) -> Result<()> {
    let mut qmp = UnixStream::connect(socket).doing("its socket")?;
    qmp.set_read_timeout(Some(Duration::from_secs(30))).doing("its socket")?;
    writeln!(qmp, "{}\n{command}", json!({ "execute": "qmp_capabilities" })).doing("its socket")?;
    for reply in BufReader::new(qmp).lines() {
        let reply = reply.doing("no answer")?;
        let parsed: Value = serde_json::from_str(&reply).doing("its answer")?;
        if parsed["id"] == "this" {
            return if parsed["error"].is_null() { Ok(()) } else { Err(Failure::new(reply)) };
        }
    }
    Err(Failure::new("no answer"))
}

/// Puts the picture where the caller asked for it. Returns the exit code.
fn keep(screenshot: &Path, scratch: &Path, code: u8) -> Result<u8> {
    let (picture, frame) = (scratch.join("screen.png"), scratch.join("screen.raw"));
    if frame.exists() {
        let tool = Toolchain::chosen()?.picture()?;
        run_picture(Command::new(tool).arg("frame").args([&frame, &picture]))?;
    }
    if picture.exists() {
        move_to(&picture, screenshot)?;
        return Ok(code);
    }
    eprintln!("error: no screenshot: the demo did not come to show a picture");
    Ok(code.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Result<Options> {
        Options::parse(lexopt::Parser::from_args(words))
    }

    fn command(words: &[&str]) -> String {
        let events = words.contains(&"--record").then_some(Path::new("e"));
        let qemu = options(words).unwrap().qemu(Path::new("k"), Path::new("t"), Vec::new(), "none", events);
        let words: Vec<_> = qemu.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ")
    }

    fn refusal(words: &[&str]) -> String {
        options(words).unwrap_err().to_string()
    }

    #[test]
    fn options_become_qemu_words() {
        let plain = command(&[]);
        assert!(plain.starts_with("--foreground --kill-after=5 120 qemu-system-arm -display none -serial stdio"));
        assert!(plain.contains(" -machine vexpress-a9 -m 1G "));
        assert!(plain.ends_with(" -kernel k -dtb t -append cma=64M loglevel=6 semihosting"));

        let full =
            command(&["--board", "cubieboard", "--memory", "512", "--smp", "2", "--append", "cma=8M", "--count"]);
        assert!(full.contains(" -machine cubieboard -m 1G "));
        assert!(full.ends_with(
            "-append cma=64M loglevel=6 semihosting cma=8M -m 512M -smp 2 -accel tcg,thread=single \
             -icount shift=0,sleep=off"
        ));
    }

    #[test]
    fn area_is_a_quarter_of_a_small_memory() {
        assert!(command(&["--memory", "128m"]).contains("cma=32M"));
        assert!(command(&["--memory", "1G"]).contains("cma=64M"));
    }

    #[test]
    fn costs_of_recalls_are_counted() {
        assert!(command(&["--append", "loglevel=7 demo=loans"]).contains("-icount"));
        assert!(!command(&["--append", "demo=loans2"]).contains("-icount"));
    }

    #[test]
    fn a_screenshot_holds_the_demo_and_a_window_has_no_limit() {
        assert!(command(&["--screenshot", "out.png"]).ends_with(" hold"));
        let record = command(&["--record", "out.json", "--append", "events=count"]);
        assert!(record.ends_with(" semihosting events=32768 record=e events=count"), "{record}");
        assert!(command(&["--window"]).starts_with("--foreground --kill-after=5 0 "));
        assert!(command(&["--window", "--timeout", "7"]).starts_with("--foreground --kill-after=5 7 "));
    }

    #[test]
    fn the_network_is_a_port_of_this_machine_and_off_by_default() {
        let words = command(&["--net", "8080", "--append", "net-seconds=3"]);
        assert!(words.starts_with("--foreground --kill-after=5 0 "), "{words}");
        assert!(words.contains(" -append cma=64M loglevel=6 semihosting demo=net net-seconds=3 "), "{words}");
        assert!(words.contains("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:8080-10.0.2.15:80 -device virtio-net"));
        assert!(command(&["--net=81"]).contains(":127.0.0.1:81-"));
        assert!(options(&["--net"]).unwrap().net.unwrap() > 0);
        assert!(!command(&[]).contains("-netdev"));
    }

    #[test]
    fn what_is_wrong_is_said_in_a_line() {
        assert_eq!(refusal(&["--smp", "0"]), "--smp takes a number of cores, not '0'");
        assert_eq!(refusal(&["--smp", "+1"]), "--smp takes a number of cores, not '+1'");
        assert_eq!(refusal(&["--timeout", "1.5"]), "--timeout takes whole seconds, not '1.5'");
        assert_eq!(refusal(&["--memory", "1T"]), "--memory takes a size such as 512M, not '1T'");
        assert_eq!(refusal(&["--image", "/nowhere.jpg"]), "no such picture: /nowhere.jpg");
        assert_eq!(refusal(&["--dtb", "/nowhere"]), "no such device tree blob: /nowhere");
        assert_eq!(refusal(&["--screenshot", "/nowhere/x.png"]), "no such folder: /nowhere");
        assert_eq!(refusal(&["--record", "/nowhere/x.json"]), "no such folder: /nowhere");
        assert_eq!(refusal(&["--record", "x", "/bin/sh"]), "--record is of the demo: it goes with no ELF");
        assert_eq!(refusal(&["--window", "--screenshot", "x"]), "--screenshot and --window exclude each other");
        assert_eq!(refusal(&["--net", "0"]), "--net takes a port, not '0'");
        assert_eq!(refusal(&["--net=65536"]), "--net takes a port, not '65536'");
        assert_eq!(refusal(&["--net=", "x"]), "--net takes a port, not ''");
        assert_eq!(refusal(&["--net", "/bin/sh"]), "--net is of the demo: it goes with no ELF");
        assert_eq!(
            refusal(&["--net", "--board", "cubieboard"]),
            "--net needs a board with virtio, which cubieboard has not"
        );
        assert_eq!(
            refusal(&["--net", "--window"]),
            "--net shows no picture: it goes with neither --screenshot nor --window"
        );
        assert_eq!(refusal(&["--sooner"]), "unknown option --sooner; see --help");
        assert_eq!(refusal(&["--append"]), "--append needs a value");
        assert_eq!(refusal(&["/bin/sh", "-x"]), "nothing may follow the ELF, but '-x' does");
    }
}
