//! What a client asks for, and what is wrong with a request.
//!
//! Guarantees: whatever the bytes are, the answer is one of [`Asked`]. Nothing is kept, and nothing is taken from the
//! heap. A request names one of two things, or it is refused.
//!
//! `picoserve` serves HTTP without `std` too, but as futures, which this kernel has no executor for. So the parser is
//! `httparse`, and the sockets are polled.

use httparse::{EMPTY_HEADER, Error, Request, Status};

/// Bytes of the longest request: its line and its header fields.
pub const LONGEST: usize = 2048;
/// The most header fields of a request.
const FIELDS: usize = 32;

/// What the bytes that came so far ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// The request is not whole yet.
    More,
    /// The page.
    Page,
    /// The state of the memory.
    State,
    /// Something that is refused.
    Refused(Refusal),
}

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is no request of HTTP/1.
    Malformed,
    /// There is nothing of that name.
    NoPage,
    /// Its method is not GET.
    Method,
    /// It did not end in time.
    Slow,
    /// It is longer than [`LONGEST`], or has too many header fields.
    TooLong,
    /// The state does not fit its memory.
    NoRoom,
}

impl Refusal {
    /// All refusals, in the order of their codes.
    pub const ALL: [Self; 6] = [Self::Malformed, Self::NoPage, Self::Method, Self::Slow, Self::TooLong, Self::NoRoom];

    /// Returns the code and the reason (RFC 9110 15, RFC 6585 5).
    pub const fn status(self) -> (u16, &'static str) {
        match self {
            Self::Malformed => (400, "Bad Request"),
            Self::NoPage => (404, "Not Found"),
            Self::Method => (405, "Method Not Allowed"),
            Self::Slow => (408, "Request Timeout"),
            Self::TooLong => (431, "Request Header Fields Too Large"),
            Self::NoRoom => (503, "Service Unavailable"),
        }
    }
}

/// Returns what the bytes that came so far ask for.
pub fn asked(bytes: &[u8]) -> Asked {
    let mut fields = [EMPTY_HEADER; FIELDS];
    let mut request = Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(Status::Partial) if bytes.len() < LONGEST => Asked::More,
        Ok(Status::Partial) | Err(Error::TooManyHeaders) => Asked::Refused(Refusal::TooLong),
        Err(_) => Asked::Refused(Refusal::Malformed),
        Ok(Status::Complete(_)) => match (request.method, request.path.and_then(|path| path.split('?').next())) {
            (Some("GET"), Some("/")) => Asked::Page,
            (Some("GET"), Some("/state")) => Asked::State,
            (Some("GET"), _) => Asked::Refused(Refusal::NoPage),
            _ => Asked::Refused(Refusal::Method),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;
    use std::vec;
    use std::vec::Vec;

    fn refused(refusal: Refusal) -> Asked {
        Asked::Refused(refusal)
    }

    #[test]
    fn two_things_can_be_had() {
        assert_eq!(asked(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Asked::Page);
        assert_eq!(asked(b"GET /state?n=1 HTTP/1.0\r\n\r\n"), Asked::State);
        for path in ["/..", "//", "/state/", "/etc/passwd", "/%2e%2e/", "http://a/", "*", "/STATE"] {
            let request = std::format!("GET {path} HTTP/1.1\r\n\r\n");
            assert_eq!(asked(request.as_bytes()), refused(Refusal::NoPage), "{path}");
        }
        for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "GETS"] {
            let request = std::format!("{method} / HTTP/1.1\r\n\r\n");
            assert_eq!(asked(request.as_bytes()), refused(Refusal::Method), "{method}");
        }
    }

    #[test]
    fn a_request_is_whole_with_its_empty_line() {
        let whole = b"GET /state HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(asked(&whole[..end]), Asked::More, "{end} bytes");
        }
        assert_eq!(asked(whole), Asked::State);
    }

    #[test]
    fn what_is_no_request_is_refused_at_once() {
        for text in ["\x16\x03\x01\x02\x00", "GET / HTTP/9.9\r\n", "GET /\x00 HTTP/1.1\r\n", "G\u{e9}T / HTTP/1.1\r\n"]
        {
            assert_eq!(asked(text.as_bytes()), refused(Refusal::Malformed), "{text:?}");
        }
    }

    #[test]
    fn a_request_that_is_too_long_is_refused() {
        let mut long = b"GET / HTTP/1.1\r\nX: ".to_vec();
        long.resize(LONGEST - 1, b'x');
        assert_eq!(asked(&long), Asked::More);
        long.push(b'x');
        assert_eq!(asked(&long), refused(Refusal::TooLong));
        let mut many = String::from("GET / HTTP/1.1\r\n");
        for _ in 0..=FIELDS {
            many += "a: b\r\n";
        }
        many += "\r\n";
        assert_eq!(asked(many.as_bytes()), refused(Refusal::TooLong));
        assert_eq!(asked(&vec![b'G'; LONGEST]), refused(Refusal::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..=LONGEST)) {
            let _ = asked(&bytes);
        }

        #[test]
        fn what_follows_a_start_has_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let request: Vec<u8> = [b"GET /state HTTP/1.1\r\n".as_slice(), &bytes].concat();
            let _ = asked(&request);
        }
    }
}
