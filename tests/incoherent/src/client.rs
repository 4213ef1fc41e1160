//! The client at the other end of the network cable: it pings `examples/embed-rust`, asks it for contents of several
//! sizes, compares each byte, and asks it to end.
//!
//! Guarantees: it complains unless every ping was echoed and every content came whole and right.

use crate::cache::Random;
use crate::devices::NEVER;
use crate::gem::Network;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, Ipv4Address};
use std::collections::VecDeque;

const HERE: Ipv4Address = Ipv4Address::new(10, 0, 2, 2);
const THERE: IpAddress = IpAddress::Ipv4(Ipv4Address::new(10, 0, 2, 15));
const MAC: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0x02]);
const PORT: u16 = 80;
/// Bytes that a ping carries.
const PINGS: [usize; 3] = [0, 56, 1400];
/// Bytes of contents that are asked for: less than a packet, and several of the pieces that the server fetches at once.
const CONTENTS: [usize; 2] = [200, 150_000];
/// Instructions that a frame is under way, at most.
const LATENCY: u32 = 2000;
/// How long the server may be silent.
const PATIENCE: Duration = Duration::from_secs(2);
/// The name of the pings.
const IDENT: u16 = 17;

/// Frames on their way in and out of smoltcp.
#[derive(Default)]
struct Cable {
    to_client: VecDeque<Vec<u8>>,
    from_client: VecDeque<Vec<u8>>,
}

struct Frame(Vec<u8>);
struct Room<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, write: F) -> R {
        // No frame on the cable is shorter.
        let mut frame = vec![0; bytes.max(60)];
        let result = write(&mut frame[..bytes]);
        self.0.push_back(frame);
        result
    }
}

impl Device for Cable {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Frame, Room<'_>)> {
        let frame = self.to_client.pop_front()?;
        Some((Frame(frame), Room(&mut self.from_client)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        Some(Room(&mut self.from_client))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        (capabilities.medium, capabilities.max_transmission_unit) = (Medium::Ethernet, 1514);
        capabilities
    }
}

/// What the client does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Task {
    /// A ping, by its number.
    Ping(usize),
    /// A content, by its number.
    Content(usize),
    /// That the server ends.
    Quit,
    /// All is done.
    Nothing,
}

impl Task {
    const fn next(self) -> Self {
        match self {
            Self::Ping(n) if n + 1 < PINGS.len() => Self::Ping(n + 1),
            Self::Ping(_) => Self::Content(0),
            Self::Content(n) if n + 1 < CONTENTS.len() => Self::Content(n + 1),
            Self::Content(_) => Self::Quit,
            Self::Quit | Self::Nothing => Self::Nothing,
        }
    }
}

/// The client.
pub struct Client {
    cable: Cable,
    interface: Interface,
    sockets: SocketSet<'static>,
    ping: SocketHandle,
    stream: SocketHandle,
    random: Random,
    due: u64,
    task: Task,
    /// Whether the question of the task is out, and what of an answer came.
    asked: bool,
    answer: Vec<u8>,
    complaint: Option<String>,
}

impl Client {
    /// One that has not begun.
    pub fn new(seed: u64) -> Self {
        let mut config = Config::new(HardwareAddress::Ethernet(MAC));
        config.random_seed = seed;
        let mut cable = Cable::default();
        let mut interface = Interface::new(config, &mut cable, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(HERE.into(), 24)).expect("room for one");
        });
        let packets = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 2], vec![0; 4096]);
        let mut ping = icmp::Socket::new(packets(), packets());
        ping.bind(icmp::Endpoint::Ident(IDENT)).expect("not bound yet");
        let bytes = |count| tcp::SocketBuffer::new(vec![0; count]);
        let mut stream = tcp::Socket::new(bytes(32 << 10), bytes(1024));
        stream.set_timeout(Some(PATIENCE));
        stream.set_ack_delay(None);
        let mut sockets = SocketSet::new(Vec::new());
        let (ping, stream) = (sockets.add(ping), sockets.add(stream));
        Self {
            cable,
            interface,
            sockets,
            ping,
            stream,
            random: Random::new(seed.rotate_left(24)),
            due: 0,
            task: Task::Ping(0),
            asked: false,
            answer: Vec::new(),
            complaint: None,
        }
    }

    /// Does what can be done without another frame.
    fn poll(&mut self, now: u64) {
        let time = Instant::from_micros((now / 1000) as i64);
        loop {
            self.interface.poll(time, &mut self.cable, &mut self.sockets);
            let before = (self.task, self.asked);
            match self.task {
                Task::Ping(n) => self.ping(n),
                Task::Content(n) => self.ask(&CONTENTS[n].to_string(), Some(CONTENTS[n])),
                Task::Quit => self.ask("quit", None),
                Task::Nothing => {}
            }
            if before == (self.task, self.asked) {
                break;
            }
        }
        // What was written above goes out.
        self.interface.poll(time, &mut self.cable, &mut self.sockets);
        let at = self.interface.poll_at(time, &self.sockets).map_or(NEVER, |at| at.total_micros() as u64 * 1000);
        self.due = at.max(now + 1000);
    }

    fn is_done(&mut self) {
        (self.task, self.asked) = (self.task.next(), false);
        self.answer.clear();
    }

    fn complain(&mut self, what: &str) {
        let task = self.task;
        self.complaint.get_or_insert_with(|| format!("{task:?}: {what}"));
    }

    fn ping(&mut self, n: usize) {
        let data: Vec<u8> = (0..PINGS[n]).map(|at| (at * 7 + n) as u8).collect();
        let (seq_no, ident) = (n as u16, IDENT);
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(self.ping);
        if !self.asked {
            let question = Icmpv4Repr::EchoRequest { ident, seq_no, data: &data };
            let room = socket.send(question.buffer_len(), THERE).expect("room for one ping");
            question.emit(&mut Icmpv4Packet::new_unchecked(room), &ChecksumCapabilities::default());
            self.asked = true;
            return;
        }
        let Ok((bytes, _)) = socket.recv() else { return };
        let packet = Icmpv4Packet::new_unchecked(bytes);
        let right = matches!(
            Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()),
            Ok(Icmpv4Repr::EchoReply { ident: IDENT, seq_no: number, data: echoed })
                if number == seq_no && echoed == data
        );
        if !right {
            self.complain("the echo is another");
        }
        self.is_done();
    }

    /// Asks the server. The answer is a content of so many bytes, or anything.
    fn ask(&mut self, path: &str, content: Option<usize>) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.stream);
        if !self.asked {
            match socket.state() {
                tcp::State::Closed => {
                    let port = 49_152 + self.random.below(16_000) as u16;
                    socket.connect(self.interface.context(), (THERE, PORT), port).expect("a closed socket");
                }
                tcp::State::Established => {
                    let question = format!("GET /{path} HTTP/1.0\r\n\r\n");
                    socket.send_slice(question.as_bytes()).expect("an open socket");
                    self.asked = true;
                }
                _ => {}
            }
            return;
        }
        while socket.can_recv() {
            let answer = &mut self.answer;
            let took = socket.recv(|bytes| {
                answer.extend_from_slice(bytes);
                (bytes.len(), ())
            });
            took.expect("something came");
        }
        if socket.may_recv() {
            return;
        }
        socket.close();
        let end_of_head = self.answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
        let (head, body) = self.answer.split_at(end_of_head);
        if !head.starts_with(b"HTTP/1.0 200 ") {
            self.complain("there was no answer, or no good one");
        } else if let Some(bytes) = content
            && body != expected(bytes)
        {
            let text = format!("{} bytes came, and they are not the {bytes} that were wanted", body.len());
            self.complain(&text);
        }
        self.is_done();
    }
}

/// The content of so many bytes: words of xorshift32 from seed 1 on.
fn expected(bytes: usize) -> Vec<u8> {
    let mut word = 1u32;
    let words = std::iter::repeat_with(|| {
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        word.to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}

impl Network for Client {
    fn sent(&mut self, frame: Vec<u8>, now: u64) {
        self.cable.to_client.push_back(frame);
        self.due = now + 1 + u64::from(self.random.below(LATENCY));
    }

    fn due(&self) -> u64 {
        self.due
    }

    fn next(&mut self, now: u64) -> Option<Vec<u8>> {
        if self.cable.from_client.is_empty() && self.due <= now {
            self.poll(now);
        }
        self.cable.from_client.pop_front()
    }

    fn complaint(&self) -> Option<String> {
        let unanswered = || (self.task != Task::Nothing).then(|| format!("{:?}: not answered at the end", self.task));
        self.complaint.clone().or_else(unanswered)
    }
}
