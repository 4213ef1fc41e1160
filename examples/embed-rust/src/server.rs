//! The server: HTTP 1.0 on port 80, for a few clients at once.
//!
//! Guarantees: `GET /N` is answered by the N bytes of a [`Content`] that is made for it. `GET /quit` ends the program.
//! Any other request is answered by an error in one line. No request makes the kernel panic.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use core::array;
use core::str;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

use crate::println;
use crate::store::{Content, Store};

/// The port that is listened on.
const PORT: u16 = 80;
/// The most clients at once. Each takes its turn of the store, piece by piece.
const CLIENTS: usize = 3;
/// Bytes of the longest request.
const REQUEST: usize = 1024;
/// Bytes that may be on their way to a client.
const UNSENT: usize = 64 << 10;

/// The server.
pub struct Server([Client; CLIENTS]);

impl Server {
    /// Makes a server, with its sockets.
    pub fn new(sockets: &mut SocketSet<'_>) -> Self {
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        Self(array::from_fn(|_| Client::new(sockets.add(Socket::new(buffer(REQUEST), buffer(UNSENT))))))
    }

    /// Does what can be done now. Returns whether the server goes on. It does until a client asked for the end, and got
    /// its answer.
    pub fn serve(&mut self, sockets: &mut SocketSet<'_>, store: &mut Store) -> bool {
        self.0.iter_mut().all(|client| client.serve(sockets.get_mut(client.socket), store))
    }

    /// Returns the bytes of contents that were served.
    pub fn served(&self) -> u64 {
        self.0.iter().map(|client| client.served).sum()
    }
}

/// A place for one client after another.
struct Client {
    socket: SocketHandle,
    request: [u8; REQUEST],
    /// Bytes of the request that came.
    came: usize,
    answer: Option<Answer>,
    /// Whether the client asked for the end.
    quit: bool,
    served: u64,
}

/// A head, and a content after it.
struct Answer {
    head: String,
    /// Bytes of the head that went.
    went: usize,
    content: Option<Content>,
    /// Bytes of the content that went.
    at: u32,
}

impl Client {
    const fn new(socket: SocketHandle) -> Self {
        Self { socket, request: [0; REQUEST], came: 0, answer: None, quit: false, served: 0 }
    }

    /// Does what can be done now. Returns whether the server goes on.
    fn serve(&mut self, socket: &mut Socket<'_>, store: &mut Store) -> bool {
        match socket.state() {
            State::Closed | State::TimeWait if self.quit => return false,
            State::Closed | State::TimeWait => {
                // This client is gone, and its content with it.
                (self.came, self.answer) = (0, None);
                socket.abort();
                socket.listen(PORT).expect("a closed socket, and a port that is not 0");
            }
            _ => {}
        }
        if self.answer.is_none() && socket.may_recv() {
            self.read(socket, store);
        }
        if self.send(socket, store) || socket.state() == State::CloseWait && self.answer.is_none() {
            socket.close();
        }
        true
    }

    /// Reads more of the request, and decides on the answer when it is there.
    fn read(&mut self, socket: &mut Socket<'_>, store: &mut Store) {
        // An error means that the client said all that it will: the socket's state tells.
        self.came += socket.recv_slice(&mut self.request[self.came..]).unwrap_or(0);
        let request = &self.request[..self.came];
        if !request.ends_with(b"\r\n\r\n") && self.came < REQUEST {
            return;
        }
        let line = request.split(|&byte| byte == b'\r').next().unwrap_or_default();
        let path = line.split(|&byte| byte == b' ').nth(1).filter(|_| line.starts_with(b"GET /"));
        let path = path.and_then(|path| str::from_utf8(&path[1..]).ok());
        self.answer = Some(match path.map(|path| (path, path.parse())) {
            Some(("quit", _)) => {
                self.quit = true;
                Answer::text("200 OK", "bye")
            }
            Some((_, Ok(bytes))) => match store.make(bytes) {
                Ok(content) => Answer::content(content),
                Err(error) => Answer::text("507 Insufficient Storage", &error.to_string()),
            },
            _ => Answer::text("404 Not Found", "ask for a number of bytes: GET /65536"),
        });
    }

    /// Sends as much of the answer as the socket takes. Returns whether that was all.
    fn send(&mut self, socket: &mut Socket<'_>, store: &mut Store) -> bool {
        let Some(answer) = &mut self.answer else { return false };
        while socket.can_send() {
            if answer.went < answer.head.len() {
                answer.went += socket.send_slice(&answer.head.as_bytes()[answer.went..]).unwrap_or(0);
                continue;
            }
            let Some(content) = answer.content.as_mut().filter(|content| answer.at < content.bytes()) else {
                answer.content = None;
                return true;
            };
            match store.read(content, answer.at) {
                Ok(bytes) => {
                    let went = socket.send_slice(bytes).unwrap_or(0);
                    answer.at += went as u32;
                    self.served += went as u64;
                }
                Err(error) => {
                    // The client misses bytes, and sees it.
                    println!("server: {error}");
                    socket.abort();
                    return false;
                }
            }
        }
        false
    }
}

impl Answer {
    fn text(status: &str, text: &str) -> Self {
        let head = format!("HTTP/1.0 {status}\r\nContent-Length: {}\r\n\r\n{text}\n", text.len() + 1);
        Self { head, went: 0, content: None, at: 0 }
    }

    fn content(content: Content) -> Self {
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", content.bytes());
        Self { head, went: 0, content: Some(content), at: 0 }
    }
}
