//! Boots `examples/embed-rust`, which is built from its own folder as a user's kernel is, and plays the other end of
//! its network.
//!
//! The emulator's hub joins three ports: the kernel's, the emulator's user network, by which TCP comes in, and a socket
//! of this check, which asks and pings. So this check also receives the packets of the user network. It ignores them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use wildmatch::WildMatch;

use super::{Check, Job, Kit, wrong};
use crate::content::content;
use crate::failure::{Context, Failure, Result};
use crate::project::{self, EMBED_RUST};
use crate::{boards, boot};

/// The bytes that are served.
const BYTES: u32 = 10 << 20;
/// How long one step may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Those lines of the kernel's output that are the same on each run.
const LINES: [&str; 9] = [
    "embed-rust: outer cache: no PL310 answers there: its ID reads 0x00000000, *",
    "embed-rust: 0x04000000-0x06000000 (32 MiB) carved, window of 100 MiB",
    "embed-rust: serving on port 80",
    "ethernet: received * frames, * bytes",
    "ethernet: sent * frames, * bytes",
    "server: 10485760 bytes from device-only memory",
    "0 buffers, 0 B",
    "audit: clean: 10 sections, 0 large and 0 small pages; of 8192 carved frames 0 mapped, none in the direct map; *",
    "embed-rust: ok",
];

pub(super) fn checks(kit: &'static Kit) -> Vec<Check> {
    let folder = project::example(EMBED_RUST);
    let mut format = kit.toolchain.cargo_in(&folder);
    format.args(["fmt", "--check"]);
    let mut clippy = kit.toolchain.target_in(&folder, "clippy");
    clippy.args(["--locked", "--quiet", "--target-dir"]).arg(project::examples_target_dir());
    clippy.args(["--", "-D", "warnings"]);
    let lints = Check::new("embed-rust: format and clippy", move |job| {
        job.run(&mut format)?;
        job.passes(&mut clippy)
    });
    let boot = Check::new("embed-rust: ping, and 10 MiB over TCP", |job| {
        let kernel = kit.toolchain.example(EMBED_RUST)?;
        let wrong = boot(&kernel, job)?;
        job.judged(&wrong)
    });
    vec![lints.alone(), boot.alone()]
}

/// The kernel in the emulator. Dropping this ends the emulator.
struct Guest {
    emulator: Child,
    console: PathBuf,
    /// The host's address of the kernel's port 80.
    http: SocketAddr,
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

/// Boots the kernel, talks to it until it ends, and says what was wrong.
fn boot(kernel: &Path, job: &mut Job) -> Result<Vec<String>> {
    let wire = Wire::new()?;
    let mut guest = start(kernel, job, &wire)?;
    guest.says("embed-rust: serving on port 80")?;
    let mut wrong = Vec::new();
    // The second size is the largest that fits a frame.
    for bytes in [56, 1472] {
        wrong.extend(wire.ping(bytes)?);
    }
    for (path, answer) in [
        ("tea", "HTTP/1.0 404 Not Found*\r\n\r\nask for a number of bytes: GET /65536\n"),
        ("0", "HTTP/1.0 507 Insufficient Storage*\r\n\r\nallocation of no bytes\n"),
        ("100000000", "HTTP/1.0 507 Insufficient Storage*\r\n\r\nno room for 97660 KiB: * free in the area\n"),
    ] {
        let said = guest.get(path)?;
        let said = String::from_utf8_lossy(&said);
        if !WildMatch::new(answer).matches(&said) {
            wrong.push(format!("GET /{path} is answered by: {said}"));
        }
    }
    let said = guest.get(&BYTES.to_string())?;
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
    let body = said.strip_prefix(head.as_bytes());
    if body.is_none_or(|body| body != content(BYTES)) {
        wrong.push(format!("GET /{BYTES}: {} bytes, not those of the generator", said.len()));
    }
    guest.get("quit")?;
    let exit = guest.emulator.wait().doing("the emulator")?.code().unwrap_or(-1);
    let said = fs::read(&guest.console).doing(guest.console.display())?;
    let said = String::from_utf8_lossy(&said);
    job.say(&said)?;
    wrong.extend(self::wrong(exit, &said, 0, &LINES.map(str::to_owned)));
    wrong.extend(lines_wrong(&said));
    Ok(wrong)
}

/// Starts the emulator.
fn start(kernel: &Path, job: &Job, wire: &Wire) -> Result<Guest> {
    let http = boot::free_port()?;
    let console = job.folder().join("console");
    let out = File::create(&console).doing(console.display())?;
    let mut qemu = boards::qemu(300, "none");
    qemu.args(["-machine", "xilinx-zynq-a9"]).arg("-kernel").arg(kernel);
    for net in [
        format!("user,id=user,hostfwd=tcp:{http}-10.0.2.15:80"),
        format!("socket,id=wire,udp={},localaddr={}", wire.here, wire.there),
        "hubport,id=a,hubid=0,netdev=user".to_owned(),
        "hubport,id=b,hubid=0,netdev=wire".to_owned(),
        "hubport,id=port,hubid=0".to_owned(),
    ] {
        qemu.args(["-netdev", &net]);
    }
    qemu.args(["-net", "nic,model=cadence_gem,netdev=port"]);
    let both = out.try_clone().doing(console.display())?;
    let emulator = qemu.stdin(Stdio::null()).stdout(out).stderr(both).spawn().doing("qemu-system-arm")?;
    Ok(Guest { emulator, console, http })
}

impl Guest {
    /// Waits until the kernel printed a line.
    fn says(&mut self, line: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let said = fs::read(&self.console).doing(self.console.display())?;
            let said = String::from_utf8_lossy(&said);
            if said.lines().any(|said| said == line) {
                return Ok(());
            }
            if start.elapsed() > PATIENCE || self.emulator.try_wait().doing("the emulator")?.is_some() {
                return Err(Failure::new(format!("the kernel did not say: {line}; it said: {said}")));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns the kernel's whole answer to a request.
    fn get(&self, path: &str) -> Result<Vec<u8>> {
        let what = format!("GET /{path}");
        let mut stream = TcpStream::connect(self.http).doing(&what)?;
        stream.set_read_timeout(Some(PATIENCE)).doing(&what)?;
        stream.write_all(format!("GET /{path} HTTP/1.0\r\n\r\n").as_bytes()).doing(&what)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).doing(&what)?;
        Ok(answer)
    }
}

/// Says where no cache line was maintained, so that the run proves nothing. The kernel itself compares the lines with
/// those that the protocol asks for, and panics if they differ.
fn lines_wrong(said: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for what in ["cleaned", "invalidated"] {
        let start = format!("lines {what}: ");
        let line = said.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default();
        let numbers: Vec<u64> =
            line.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
        // The emulator has no outer cache.
        if !matches!(numbers[..], [inner, 0] if inner > 0) {
            wrong.push(format!("not some inner lines and no outer ones: {start}{line}"));
        }
    }
    wrong
}

/// The check's own end of the network.
struct Wire {
    socket: UdpSocket,
    here: SocketAddr,
    there: SocketAddr,
}

/// The check's addresses.
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];
const IP: [u8; 4] = [10, 0, 2, 77];
/// The kernel's address.
const KERNEL_IP: [u8; 4] = [10, 0, 2, 15];

impl Wire {
    fn new() -> Result<Self> {
        let port = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).doing("a free port");
        let socket = port()?;
        socket.set_read_timeout(Some(Duration::from_millis(500))).doing("a socket")?;
        let here = socket.local_addr().doing("a socket")?;
        // The port is free again when the emulator takes it.
        let there = port()?.local_addr().doing("a socket")?;
        Ok(Self { socket, here, there })
    }

    /// Sends a frame until `answer` finds what it looks for in a frame that comes.
    fn ask<T>(&self, frame: &[u8], answer: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>> {
        let start = Instant::now();
        let mut buffer = [0; 2048];
        while start.elapsed() < PATIENCE {
            self.socket.send_to(frame, self.there).doing("the wire")?;
            while let Ok(bytes) = self.socket.recv(&mut buffer) {
                if let Some(found) = answer(&buffer[..bytes]) {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// Asks who has the kernel's address, and sends an echo request with `bytes` bytes there. Says what was wrong.
    fn ping(&self, bytes: usize) -> Result<Option<String>> {
        let to_mac = |frame: &[u8]| frame.get(..6) == Some(&MAC[..]);
        let mut ask = [&[0xff; 6][..], &MAC, &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1], &MAC, &IP, &[0; 6]].concat();
        ask.extend(KERNEL_IP);
        let mac = self.ask(&ask, |frame| {
            let is_answer = to_mac(frame) && frame.get(12..14) == Some(&[0x08, 0x06]) && frame.get(21) == Some(&2);
            (is_answer && frame.get(28..32) == Some(&KERNEL_IP[..])).then(|| frame[22..28].to_vec())
        })?;
        let Some(mac) = mac else { return Ok(Some("no answer to ARP".to_owned())) };

        let payload: Vec<u8> = (0..bytes).map(|n| n as u8).collect();
        let mut echo = [&[8, 0, 0, 0, 0xca, 0x7e, 0, 1][..], &payload].concat();
        let sum = checksum(&echo);
        echo[2..4].copy_from_slice(&sum);
        let length = ((20 + echo.len()) as u16).to_be_bytes();
        let mut ip = [&[0x45, 0][..], &length, &[0, 1, 0, 0, 64, 1, 0, 0], &IP, &KERNEL_IP].concat();
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum);
        let frame = [&mac, &MAC[..], &[0x08, 0], &ip, &echo].concat();
        let reply = self.ask(&frame, |frame| {
            let is_reply = to_mac(frame) && frame.get(12..14) == Some(&[0x08, 0]) && frame.get(23) == Some(&1);
            is_reply.then(|| frame[34..].to_vec())
        })?;
        // Type 0, the same words after it, and a checksum of zero.
        Ok(match reply {
            Some(reply) if reply[..2] == [0, 0] && reply[4..] == echo[4..] && checksum(&reply) == [0, 0] => None,
            Some(reply) => Some(format!("a ping of {bytes} bytes is answered by {reply:x?}")),
            None => Some(format!("a ping of {bytes} bytes is not answered")),
        })
    }
}

/// Returns the Internet checksum (RFC 1071) of bytes, an even number of them.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.as_chunks().0.iter().map(|&word| u32::from(u16::from_be_bytes(word))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!(folded as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown() {
        let said = |inner: u64, outer: u64| {
            ["cleaned", "invalidated"].map(|what| format!("lines {what}: {inner} inner, {outer} outer\n")).concat()
        };
        assert_eq!(lines_wrong(&said(5, 0)), [""; 0]);
        assert_eq!(lines_wrong(&said(5, 6)).len(), 2);
        assert_eq!(lines_wrong(&said(0, 0)).len(), 2, "nothing was shown");
        assert_eq!(lines_wrong("").len(), 2);
    }

    #[test]
    fn the_sum_with_its_checksum_is_nothing() {
        // The header of the common example for this checksum.
        let mut header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        let sum = checksum(&header);
        assert_eq!(sum, [0xb8, 0x61]);
        header[10..12].copy_from_slice(&sum);
        assert_eq!(checksum(&header), [0, 0]);
    }
}
