//! The server: HTTP/1.1 on port 80, one request for each connection.
//!
//! Guarantees: sockets and their memory are taken once. A connection ends [`PATIENCE`] after it began, whatever its
//! client does, and after [`REQUEST_PATIENCE`] if its request is not whole. When all sockets are taken, the one that
//! waited longest for its request is given up for the next client, but not within [`GRACE`]. No request changes
//! anything but counts.

use super::request::{Asked, LONGEST, Refusal, asked};
use super::text::Text;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

/// The port that is listened on.
const PORT: u16 = 80;
/// The most clients at once.
pub(super) const CLIENTS: usize = 16;
/// Bytes that are taken of a client. Whoever sends whole segments gets more than the longest request into them.
const RECEIVED: usize = 2 * LONGEST;
/// Bytes that may be on their way to a client. A state and its head fit.
const UNSENT: usize = 16 << 10;
/// Microseconds that a connection may last, and that it may last without a whole request.
const PATIENCE: u64 = 15_000_000;
const REQUEST_PATIENCE: u64 = 3_000_000;
/// Microseconds that a connection has in any case.
const GRACE: u64 = 300_000;
/// Bytes of the longest head.
const HEAD: usize = 512;

/// The page. It needs nothing from elsewhere.
const PAGE: &[u8] = include_bytes!("page.html");

/// What the server did.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counts {
    /// Connections.
    pub(super) connections: u64,
    /// Answers with the page.
    pub(super) page: u64,
    /// Answers with the state.
    pub(super) state: u64,
    /// Refusals, as [`Refusal::ALL`] has them.
    pub(super) refused: [u64; Refusal::ALL.len()],
    /// Connections that did not end in time, or that made room for the next client.
    pub(super) cut: u64,
}

impl Counts {
    /// Returns the counts as fields of a JSON object.
    pub(super) const fn json(&self) -> impl fmt::Display + '_ {
        Json(self)
    }
}

struct Json<'c>(&'c Counts);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { connections, page, state, refused, cut } = self.0;
        write!(f, "\"connections\":{connections},\"page\":{page},\"state\":{state},\"cut\":{cut}")?;
        Refusal::ALL
            .iter()
            .zip(refused)
            .try_for_each(|(refusal, count)| write!(f, ",\"{}\":{count}", refusal.status().0))
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, page, state, refused, cut } = self;
        write!(f, "{connections} connections, {page} pages, {state} states, {cut} cut")?;
        Refusal::ALL
            .iter()
            .zip(refused)
            .try_for_each(|(refusal, count)| write!(f, ", {count} x {}", refusal.status().0))
    }
}

/// How far a client is.
enum Stage {
    /// There is none.
    Free,
    /// Its request is not whole.
    Asks,
    /// It gets these bytes, after those that the socket has.
    Gets(&'static [u8]),
    /// It got all, or was refused. What it still says is not looked at.
    Leaves,
}

/// A place for one client after another.
struct Client {
    socket: SocketHandle,
    stage: Stage,
    /// When it came.
    since: u64,
}

/// The server.
pub(super) struct Server {
    clients: Vec<Client>,
    state: Text,
    head: Text,
    /// What it did.
    pub(super) counts: Counts,
}

impl Server {
    /// Makes a server, with its sockets and all its memory. A state has at most so many bytes.
    pub(super) fn new(sockets: &mut SocketSet<'_>, state: usize) -> Self {
        assert!(state + HEAD <= UNSENT, "a state and its head fit");
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        let clients = (0..CLIENTS).map(|_| {
            let socket = sockets.add(Socket::new(buffer(RECEIVED), buffer(UNSENT)));
            Client { socket, stage: Stage::Free, since: 0 }
        });
        Self { clients: clients.collect(), state: Text::new(state), head: Text::new(HEAD), counts: Counts::default() }
    }

    /// Does what can be done now for all clients. `state` writes the state.
    pub(super) fn serve(
        &mut self,
        sockets: &mut SocketSet<'_>,
        now: u64,
        state: &dyn Fn(&Counts, &mut Text) -> fmt::Result,
    ) {
        for n in 0..self.clients.len() {
            let socket = sockets.get_mut(self.clients[n].socket);
            self.turn(n, socket, now, state);
        }
        self.make_room(sockets, now);
    }

    fn turn(&mut self, n: usize, socket: &mut Socket<'_>, now: u64, state: &dyn Fn(&Counts, &mut Text) -> fmt::Result) {
        match socket.state() {
            State::Closed | State::TimeWait => {
                self.clients[n].stage = Stage::Free;
                socket.abort();
                socket.listen(PORT).expect("a closed socket, and a port that is not 0");
                return;
            }
            State::Listen => return,
            _ => {}
        }
        let client = &mut self.clients[n];
        if let Stage::Free = client.stage {
            (client.stage, client.since) = (Stage::Asks, now);
            self.counts.connections += 1;
        }
        let age = now.saturating_sub(client.since);
        if age > PATIENCE {
            // The socket is used again after it said so.
            self.counts.cut += 1;
            socket.abort();
            return;
        }
        if let Stage::Asks = client.stage {
            match socket.peek(LONGEST).map(asked) {
                Ok(Asked::More) if age > REQUEST_PATIENCE => {
                    self.answer(n, socket, Asked::Refused(Refusal::Slow), state);
                }
                Ok(Asked::More) if socket.state() == State::CloseWait => {
                    self.answer(n, socket, Asked::Refused(Refusal::Malformed), state);
                }
                Ok(Asked::More) => {}
                Ok(asked) => self.answer(n, socket, asked, state),
                // It says no more, and has said nothing.
                Err(_) if socket.state() == State::CloseWait => self.clients[n].stage = Stage::Leaves,
                Err(_) => {}
            }
        }
        let client = &mut self.clients[n];
        if let Stage::Gets(rest) = &mut client.stage {
            let went = socket.send_slice(rest).unwrap_or(0);
            *rest = &rest[went..];
            if rest.is_empty() {
                client.stage = Stage::Leaves;
            }
        }
        if let Stage::Leaves = client.stage {
            socket.close();
            // Whoever still talks does not wait for us. An error means that it says no more.
            let _ = socket.recv(|said| (said.len(), ()));
        }
    }

    /// Puts the head of an answer, and the state, into the socket, which has sent nothing yet.
    fn answer(
        &mut self,
        n: usize,
        socket: &mut Socket<'_>,
        asked: Asked,
        state: &dyn Fn(&Counts, &mut Text) -> fmt::Result,
    ) {
        let mut asked = asked;
        self.state.clear();
        if asked == Asked::State {
            self.counts.state += 1;
            if state(&self.counts, &mut self.state).is_err() {
                self.counts.state -= 1;
                self.state.clear();
                asked = Asked::Refused(Refusal::NoRoom);
            }
        }
        let (code, reason, kind, bytes, rest) = match asked {
            Asked::More => return,
            Asked::Page => {
                self.counts.page += 1;
                (200, "OK", "text/html; charset=utf-8", PAGE.len(), PAGE)
            }
            Asked::State => (200, "OK", "application/json", self.state.bytes().len(), &[][..]),
            Asked::Refused(refusal) => {
                self.counts.refused[refusal as usize] += 1;
                let (code, reason) = refusal.status();
                // This always fits: a line.
                let _ = writeln!(self.state, "{code} {reason}");
                (code, reason, "text/plain", self.state.bytes().len(), &[][..])
            }
        };
        let allow = if code == 405 { "Allow: GET\r\n" } else { "" };
        self.head.clear();
        // This fits: all parts but the numbers are constants.
        let _ = write!(
            self.head,
            "HTTP/1.1 {code} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {bytes}\r\n{allow}Connection: close\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
             Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
             connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'\r\n\r\n"
        );
        for part in [self.head.bytes(), self.state.bytes()] {
            // An error means that the client is gone: the socket's state tells.
            let _ = socket.send_slice(part);
        }
        self.clients[n].stage = Stage::Gets(rest);
    }

    /// Gives up a client, if all sockets are taken: one that has not asked, or else one that got its answer, and of
    /// these the one that came first.
    fn make_room(&mut self, sockets: &mut SocketSet<'_>, now: u64) {
        if self.clients.iter().any(|client| matches!(client.stage, Stage::Free)) {
            return;
        }
        let old = self.clients.iter().filter(|client| now.saturating_sub(client.since) > GRACE);
        let rank = |client: &&Client| (matches!(client.stage, Stage::Gets(_)), client.since);
        if let Some(client) = old.min_by_key(rank) {
            self.counts.cut += 1;
            sockets.get_mut::<Socket<'_>>(client.socket).abort();
        }
    }
}
