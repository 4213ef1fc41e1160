//! Boots the kernel with its network, looks at the page that it serves, and is a bad client of it in each way.
//!
//! Guarantees: what the page says is compared with what the console says and with the page's source. While clients are
//! bad, others are served; afterwards all memory is free again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Check, Job, Kit, wrong};
use crate::failure::{Context, Failure, Result};
use crate::project;

/// How long one step may take, and how long a good client may ask again while others are bad.
const PATIENCE: Duration = Duration::from_mins(1);
/// Clients at once, of each of the rounds: more than the kernel has sockets, and as many as a process may have.
const CROWD: usize = 250;
const ROUNDS: usize = 4;
/// How long garbage comes, and from how many clients.
const FLOOD: Duration = Duration::from_secs(3);
const FLOODS: usize = 8;

/// Lines of the console that are the same on each run.
const LINES: [&str; 6] = [
    "net: * at 10.0.2.15, serving on port 80",
    "net: received * frames, * bytes",
    "net: sent * frames, * bytes",
    "net: * connections, *",
    "net: camera: * buffers, 0 failures",
    "demo: ok",
];

/// The devices that hold buffers, now or then.
const OWNERS: [&str; 2] = ["camera", "virtio-net"];

/// Requests that are refused, and the codes.
const REFUSED: [(&str, u16); 11] = [
    ("GET /nothing HTTP/1.1\r\n\r\n", 404),
    ("GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404),
    ("GET /state/../x HTTP/1.0\r\n\r\n", 404),
    ("POST /state HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
    ("PUT / HTTP/1.1\r\n\r\n", 405),
    ("DELETE /state HTTP/1.1\r\n\r\n", 405),
    ("HEAD / HTTP/1.1\r\n\r\n", 405),
    ("no request at all\r\n\r\n", 400),
    ("GET / HTTP/3.0\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nname without colon\r\n\r\n", 400),
    ("\u{0}\u{1}\u{2}\u{3}\r\n\r\n", 400),
];

pub(super) fn checks(kit: &'static Kit) -> Vec<Check> {
    vec![Check::new("page: what it says, and bad clients", move |job| {
        let wrong = served(kit, job)?;
        job.judged(&wrong)
    })]
}

/// The kernel in the emulator. Dropping this ends the emulator.
struct Guest {
    command: Child,
    console: PathBuf,
    http: SocketAddr,
    /// Pages, and refusals with 404, that were had.
    pages: u64,
    missing: u64,
}

impl Drop for Guest {
    fn drop(&mut self) {
        // A byte ends the demo; the command ends with it. It may have ended by itself.
        drop(self.command.stdin.take().map(|mut keys| keys.write_all(b"\n")));
        let start = Instant::now();
        while start.elapsed() < PATIENCE && matches!(self.command.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.command.kill();
        let _ = self.command.wait();
    }
}

/// An answer: its code, its head and its body.
struct Answer {
    code: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn of(said: &[u8]) -> Option<Self> {
        let end = said.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8(said[..end + 2].to_vec()).ok()?;
        let code = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        let length: usize = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?.parse().ok()?;
        let body = said[end + 4..].to_vec();
        (body.len() == length).then_some(Self { code, head, body })
    }
}

/// Sends a request, and returns what is answered until the connection ends, or `None` if it was cut.
fn ask(http: SocketAddr, request: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect_timeout(&http, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(request).ok()?;
    let mut said = Vec::new();
    // A reset may follow a whole answer, if not all of the request was read.
    let _ = stream.read_to_end(&mut said);
    Answer::of(&said)
}

impl Guest {
    fn start(kit: &Kit, job: &Job) -> Result<Self> {
        let console = job.folder().join("console");
        let out = File::create(&console).doing(console.display())?;
        let both = out.try_clone().doing(console.display())?;
        let mut boot = kit.xtask("boot");
        boot.args(["--net", "--timeout", "600"]);
        let command = boot.stdin(Stdio::piped()).stdout(out).stderr(both).spawn().doing("the boot")?;
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut guest = Self { command, console, http, pages: 0, missing: 0 };
        guest.says(" at 10.0.2.15, serving on port 80", Duration::from_mins(10))?;
        let said = guest.said()?;
        let port = said.lines().find_map(|line| line.strip_prefix("net: http://127.0.0.1:")?.strip_suffix('/'));
        let port = port.and_then(|port| port.parse().ok());
        guest.http.set_port(port.ok_or_else(|| Failure::new("the boot names no port"))?);
        Ok(guest)
    }

    fn said(&self) -> Result<String> {
        let said = fs::read(&self.console).doing(self.console.display())?;
        Ok(String::from_utf8_lossy(&said).replace('\r', ""))
    }

    /// Waits for a line that ends so.
    fn says(&mut self, end: &str, patience: Duration) -> Result<()> {
        let start = Instant::now();
        while !self.said()?.lines().any(|line| line.ends_with(end)) {
            if start.elapsed() > patience || self.command.try_wait().doing("the boot")?.is_some() {
                return Err(Failure::new(format!("the kernel did not say: {end}; it said: {}", self.said()?)));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Asks until there is an answer: while all sockets are taken, a client is refused.
    fn get(&mut self, path: &str) -> Result<Answer> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(answer) = ask(self.http, format!("GET {path} HTTP/1.1\r\nHost: carveout\r\n\r\n").as_bytes()) {
                self.pages += u64::from(path == "/" && answer.code == 200);
                return Ok(answer);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(Failure::new(format!("GET {path} is not answered; the kernel said: {}", self.said()?)))
    }

    fn state(&mut self) -> Result<Value> {
        let answer = self.get("/state")?;
        let body = String::from_utf8_lossy(&answer.body);
        serde_json::from_str(&body).doing(format!("the state, {body}"))
    }
}

fn served(kit: &'static Kit, job: &mut Job) -> Result<Vec<String>> {
    let mut guest = Guest::start(kit, job)?;
    let mut found = page(&mut guest)?;
    found.extend(state(&mut guest)?);
    found.extend(refusals(&mut guest)?);
    found.extend(slow_clients(&mut guest)?);
    found.extend(crowds(&mut guest)?);
    found.extend(floods(&mut guest)?);
    found.extend(page(&mut guest)?);
    let last = guest.state()?;
    job.say(&last.to_string())?;
    for (what, value) in [("failures", &last["load"]["failures"]), ("quarantined", &last["dma"]["quarantined"])] {
        if value.as_u64() != Some(0) {
            found.push(format!("{what}: {value}, not 0"));
        }
    }
    if let Some(mut keys) = guest.command.stdin.take() {
        keys.write_all(b"\n").doing("the guest's keys")?;
    }
    let exit = guest.command.wait().doing("the boot")?.code().unwrap_or(-1);
    let said = guest.said()?;
    job.say(&said)?;
    found.extend(wrong(exit, &said, 0, &LINES.map(str::to_owned)));
    found.extend(miscounted(&said, guest.pages, guest.missing));
    Ok(found)
}

/// Says where the kernel counted other answers than this check had. More pages are possible: those that were cut while
/// clients were bad.
fn miscounted(said: &str, pages: u64, missing: u64) -> Option<String> {
    let line =
        said.lines().find(|line| line.starts_with("net: ") && line.contains(" connections, ")).unwrap_or_default();
    let of = |what: &str| line.split(", ").find_map(|part| part.strip_suffix(what)?.parse::<u64>().ok());
    let counted = [of(" pages"), of(" x 404")];
    let right = counted[0].is_some_and(|counted| counted >= pages) && counted[1] == Some(missing);
    (!right).then(|| format!("this check had {pages} pages and {missing} x 404, but the kernel counted: {line}"))
}

/// Says what is wrong with the page.
fn page(guest: &mut Guest) -> Result<Vec<String>> {
    let source = project::root().join("boards/demo/net/page.html");
    let source = fs::read(&source).doing(source.display())?;
    let answer = guest.get("/")?;
    let mut wrong = Vec::new();
    if answer.code != 200 || answer.body != source {
        wrong.push(format!("GET / is answered by {} and {} bytes, not by the page", answer.code, answer.body.len()));
    }
    for line in ["Content-Type: text/html; charset=utf-8\r\n", "Connection: close\r\n", "default-src 'none';"] {
        if !answer.head.contains(line) {
            wrong.push(format!("the head of GET / has no {line}: {}", answer.head));
        }
    }
    Ok(wrong)
}

/// Says where the state differs from what the console says, or stands still.
fn state(guest: &mut Guest) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let first = guest.state()?;
    let said = guest.said()?;
    let board = said.lines().find_map(|line| line.strip_prefix("board: ")).unwrap_or_default();
    if !first["board"].as_str().is_some_and(|name| board.starts_with(&format!("{name}, "))) {
        wrong.push(format!("board {} in the state, '{board}' on the console", first["board"]));
    }
    let areas: Vec<String> =
        said.lines().filter_map(|line| line.strip_prefix("carve-out: ")).map(str::to_owned).collect();
    let areas: Vec<&String> = areas.iter().filter(|line| line.contains(", no-map")).collect();
    let in_state = first["areas"].as_array().map_or(&[][..], Vec::as_slice);
    if in_state.is_empty() || in_state.len() != areas.len() {
        wrong.push(format!("{} areas in the state, {} on the console", in_state.len(), areas.len()));
    }
    for (area, line) in in_state.iter().zip(&areas) {
        let number = |name: &str| area[name].as_u64().unwrap_or(u64::MAX);
        let start = format!("{}, {} MiB, ", area["name"].as_str().unwrap_or_default(), number("bytes") >> 20);
        if !line.starts_with(&start) {
            wrong.push(format!("an area is '{start}' in the state, '{line}' on the console"));
        }
        if number("largest") > number("free") || number("free") > number("bytes") {
            wrong.push(format!("an area has more than it can have: {area}"));
        }
    }
    // The kernel's clock may be slower than this one, but it goes on.
    let grows = ["/millis", "/dma/allocations", "/received/frames", "/sent/bytes", "/http/state", "/load/allocated"];
    let of = |state: &Value, path: &str| state.pointer(path).and_then(Value::as_u64);
    let start = Instant::now();
    let mut owners = BTreeSet::new();
    let mut later = first.clone();
    while start.elapsed() < PATIENCE
        && (owners.len() < OWNERS.len() || grows.iter().any(|path| of(&later, path) <= of(&first, path)))
    {
        thread::sleep(Duration::from_millis(50));
        later = guest.state()?;
        let holders = later["holders"].as_array().into_iter().flatten();
        owners.extend(holders.filter_map(|holder| holder["owner"].as_str().map(str::to_owned)));
    }
    if owners.iter().ne(&OWNERS) {
        wrong.push(format!("the holders are {owners:?}, not {OWNERS:?}"));
    }
    let still = grows.iter().filter(|path| of(&later, path) <= of(&first, path));
    wrong.extend(still.map(|path| format!("{path} stands still at {:?}", of(&first, path))));
    Ok(wrong)
}

/// Says which request is answered by another code than it should be.
fn refusals(guest: &mut Guest) -> Result<Vec<String>> {
    let long = format!("GET / HTTP/1.1\r\nCookie: {}", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100));
    let all = REFUSED.iter().map(|&(request, code)| (request, code)).chain([(&*long, 431), (&*many, 431)]);
    let mut wrong = Vec::new();
    for (request, code) in all {
        let answer = ask_while_it_is_not_cut(guest.http, request.as_bytes());
        guest.missing += u64::from(answer == Some(404));
        if answer != Some(code) {
            let start: String = request.chars().take(40).collect();
            wrong.push(format!("{start:?} is answered by {answer:?}, not by {code}"));
        }
    }
    // Nothing was changed or was in the way.
    wrong.extend(page(guest)?);
    Ok(wrong)
}

/// Sends a request of any length. Returns the code of the answer. Not all of the request may be taken.
fn ask_while_it_is_not_cut(http: SocketAddr, request: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&http, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_nonblocking(true).ok()?;
    let (start, mut sent, mut said) = (Instant::now(), 0, Vec::new());
    let mut piece = [0; 4096];
    while start.elapsed() < PATIENCE {
        let mut idle = true;
        if let Some(rest) = request.get(sent..).filter(|rest| !rest.is_empty())
            && let Ok(bytes) = stream.write(rest)
        {
            (sent, idle) = (sent + bytes, false);
        }
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(bytes) => {
                said.extend_from_slice(&piece[..bytes]);
                idle = false;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        if let Some(answer) = Answer::of(&said) {
            return Some(answer.code);
        }
        if idle {
            thread::sleep(Duration::from_millis(5));
        }
    }
    Answer::of(&said).map(|answer| answer.code)
}

/// Has clients that say a byte now and then, and one that says nothing. Each must be sent away in time.
fn slow_clients(guest: &mut Guest) -> Result<Vec<String>> {
    let http = guest.http;
    let drip = move |bytes: &'static [u8]| {
        let mut stream = TcpStream::connect(http).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(200))).ok()?;
        let (start, mut next, mut said) = (Instant::now(), bytes.iter(), Vec::new());
        let mut piece = [0; 512];
        while start.elapsed() < PATIENCE {
            if let Some(byte) = next.next() {
                let _ = stream.write(&[*byte]);
            }
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(bytes) => said.extend_from_slice(&piece[..bytes]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        Answer::of(&said).map(|answer| answer.code)
    };
    let request = b"GET / HTTP/1.1\r\nX: this request takes longer than anybody waits for it, byte by byte\r\n";
    let clients = [&request[..], request, request, b""].map(|bytes| thread::spawn(move || drip(bytes)));
    let mut wrong = page(guest)?;
    for client in clients {
        let code = client.join().ok().flatten();
        if code != Some(408) {
            wrong.push(format!("a slow client is answered by {code:?}, not by 408"));
        }
    }
    Ok(wrong)
}

/// Has crowds of clients that begin a request and wait. A client that asks at the same time must be served.
fn crowds(guest: &mut Guest) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for _ in 0..ROUNDS {
        let crowd: Vec<TcpStream> = (0..CROWD)
            .filter_map(|_| {
                let mut stream = TcpStream::connect_timeout(&guest.http, Duration::from_secs(5)).ok()?;
                let _ = stream.write_all(b"GET /state HTTP/1.1\r\nX: ");
                Some(stream)
            })
            .collect();
        if crowd.len() < CROWD / 2 {
            wrong.push(format!("of a crowd of {CROWD} only {} could connect", crowd.len()));
        }
        wrong.extend(page(guest)?);
        guest.state()?;
    }
    Ok(wrong)
}

/// Has clients that send garbage as fast as they can. A client that asks at the same time must be served.
fn floods(guest: &mut Guest) -> Result<Vec<String>> {
    static OVER: AtomicBool = AtomicBool::new(false);
    let http = guest.http;
    let flood = move |seed: usize| {
        let garbage: Vec<u8> =
            (0..1 << 16).map(|n: usize| (n.wrapping_mul(2_654_435_761 + seed) >> 13) as u8).collect();
        while !OVER.load(Ordering::Relaxed) {
            let Ok(mut stream) = TcpStream::connect_timeout(&http, Duration::from_secs(5)) else { continue };
            let _ = stream.set_write_timeout(Some(Duration::from_millis(500)));
            while !OVER.load(Ordering::Relaxed) {
                if stream.write(&garbage).is_err() {
                    break;
                }
            }
        }
    };
    let clients: Vec<_> = (0..FLOODS).map(|seed| thread::spawn(move || flood(seed))).collect();
    let start = Instant::now();
    let mut asked = Vec::new();
    while start.elapsed() < FLOOD {
        asked.push(page(guest));
        asked.push(guest.state().map(|_| Vec::new()));
    }
    OVER.store(true, Ordering::Relaxed);
    let ended = clients.into_iter().all(|client| client.join().is_ok());
    let mut wrong: Vec<String> = asked.into_iter().collect::<Result<Vec<_>>>()?.concat();
    if !ended {
        wrong.push("a client that floods panicked".to_owned());
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted() {
        let said = "net: received 5 frames, 7 bytes\nnet: 9 connections, 4 pages, 2 states, 0 cut, 1 x 400, 3 x 404\n";
        assert_eq!(miscounted(said, 4, 3), None);
        assert_eq!(miscounted(said, 2, 3), None);
        assert!(miscounted(said, 5, 3).is_some());
        assert!(miscounted(said, 4, 2).is_some());
        assert!(miscounted("", 0, 0).is_some());
    }

    #[test]
    fn an_answer_is_whole_or_none() {
        let whole = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n";
        let answer = Answer::of(whole).unwrap();
        assert_eq!((answer.code, answer.body), (404, b"no\n".to_vec()));
        assert!((0..whole.len()).all(|end| Answer::of(&whole[..end]).is_none()));
        assert!(Answer::of(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").is_none());
    }
}
