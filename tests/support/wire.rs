//! One end of an HTTP/1 connection, driven by hand: it sends exactly the bytes it is told to, and keeps what it reads as
//! it came. Everything waits for [`PATIENCE`] at most.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

/// Longest that a read or a write may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A connection and what was read of it too early.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: TcpStream,
    held: Vec<u8>,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset,
}

/// A request or a response.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Message {
    /// Its first line.
    pub(crate) line: String,
    /// Names as sent, values without the blanks around them.
    pub(crate) fields: Vec<(String, String)>,
    /// Its body without framing.
    pub(crate) body: Vec<u8>,
    /// Its body as it came.
    pub(crate) wire: Vec<u8>,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, held: Vec::new() }
    }

    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::new(TcpStream::connect_timeout(&addr, PATIENCE).unwrap())
    }

    /// One whose kernel takes little before it is read from.
    pub(crate) fn connect_narrow(addr: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect_timeout(&addr.into(), PATIENCE).unwrap();
        Self::new(socket.into())
    }

    /// The same connection once more, for another thread to send on.
    pub(crate) fn try_clone(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap(), held: Vec::new() }
    }

    /// The stream itself, for what is no HTTP; nothing may have been read too early.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        assert!(self.held.is_empty(), "{:?}", String::from_utf8_lossy(&self.held));
        &mut self.stream
    }

    /// The address of its other end.
    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.stream.peer_addr().unwrap()
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the other end takes what is sent");
    }

    /// Sends, to somebody who may be gone.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Ends its direction.
    pub(crate) fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes with RST.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Waits for the other end without a limit.
    pub(crate) fn wait_for_ever(&self) {
        self.stream.set_read_timeout(None).unwrap();
    }

    /// The next request, with its body.
    pub(crate) fn request(&mut self) -> Message {
        self.next_request().expect("a request, not the end of the connection")
    }

    /// The next request; `None` when the connection ends instead.
    pub(crate) fn next_request(&mut self) -> Option<Message> {
        let mut message = self.next_head()?;
        self.read_body(&mut message, false);
        Some(message)
    }

    /// The next response to anything but HEAD, with its body; 1xx have none.
    pub(crate) fn response(&mut self) -> Message {
        let mut message = self.head();
        let bodiless = matches!(message.status(), 100..200 | 204 | 304);
        if !bodiless {
            self.read_body(&mut message, true);
        }
        message
    }

    /// The next head; its body is left.
    pub(crate) fn head(&mut self) -> Message {
        self.next_head().expect("a head, not the end of the connection")
    }

    fn next_head(&mut self) -> Option<Message> {
        let end = loop {
            if let Some(at) = self.held.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            match self.fill() {
                Ok(0) if self.held.is_empty() => return None,
                Err(e) if e.kind() == ErrorKind::ConnectionReset && self.held.is_empty() => return None,
                Ok(n) if n > 0 => {}
                end => panic!("{end:?} in a head, after {:?}", String::from_utf8_lossy(&self.held)),
            }
        };
        let head: Vec<u8> = self.held.drain(..end + 4).collect();
        let text = String::from_utf8(head).expect("a head of ASCII");
        let mut lines = text.trim_end().split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let field = |l: &str| l.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned())).expect("a field");
        Some(Message { line, fields: lines.map(field).collect(), ..Message::default() })
    }

    fn read_body(&mut self, message: &mut Message, until_close: bool) {
        if message.field("transfer-encoding").is_some() {
            loop {
                let line = self.take_line(&mut message.wire);
                let size = line.split(|&b| b == b';').next().unwrap_or_default();
                let size = usize::from_str_radix(std::str::from_utf8(size).unwrap().trim(), 16).expect("a chunk size");
                if size == 0 {
                    while !self.take_line(&mut message.wire).is_empty() {}
                    return;
                }
                let chunk = self.bytes(size);
                message.body.extend(&chunk);
                message.wire.extend(&chunk);
                assert!(self.take_line(&mut message.wire).is_empty(), "CRLF after a chunk");
            }
        }
        message.body = match message.field("content-length") {
            Some(length) => self.bytes(length.parse().expect("a length")),
            None if until_close => self.rest().0,
            None => Vec::new(),
        };
        message.wire.clone_from(&message.body);
    }

    /// The next line, without its end.
    pub(crate) fn line(&mut self) -> String {
        String::from_utf8(self.take_line(&mut Vec::new())).expect("a line of ASCII")
    }

    /// A line without its end, which is added to `wire` with it.
    fn take_line(&mut self, wire: &mut Vec<u8>) -> Vec<u8> {
        let end = loop {
            match self.held.windows(2).position(|w| w == b"\r\n") {
                Some(at) => break at,
                None => assert!(self.fill().expect("more of a line") > 0, "the end of the connection in a line"),
            }
        };
        let line: Vec<u8> = self.held.drain(..end + 2).collect();
        wire.extend(&line);
        line[..end].to_vec()
    }

    /// The next `n` bytes.
    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        while self.held.len() < n {
            let got = self.held.len();
            match self.fill() {
                Ok(1..) => {}
                end => panic!("{end:?} after {got} of {n} bytes"),
            }
        }
        self.held.drain(..n).collect()
    }

    /// The next bytes, which must be these.
    pub(crate) fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let got = self.bytes(bytes.len());
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(bytes));
    }

    /// Everything until the connection ends.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, End) {
        let end = loop {
            match self.fill() {
                Ok(0) => break End::Fin,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => break End::Reset,
                Err(e) => panic!("{e} instead of an end, after {:?}", String::from_utf8_lossy(&self.held)),
            }
        };
        (std::mem::take(&mut self.held), end)
    }

    /// The end of the connection in order, with nothing before it.
    pub(crate) fn expect_end(&mut self) {
        let (rest, end) = self.rest();
        assert_eq!((String::from_utf8_lossy(&rest).as_ref(), end), ("", End::Fin));
    }

    /// The end of the connection in whatever way, with nothing before it.
    pub(crate) fn expect_gone(&mut self) {
        let (rest, _) = self.rest();
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let n = self.stream.read(&mut piece)?;
        self.held.extend(&piece[..n]);
        Ok(n)
    }
}

impl Message {
    pub(crate) fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    pub(crate) fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line")
    }

    /// The value of its only field of this name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() < 2, "{name}: {values:?}");
        values.first().copied()
    }

    /// The values of all fields of this name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }
}

/// A body in chunks of these sizes, in turn; without trailers.
pub(crate) fn chunked(body: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut rest = body;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, more) = rest.split_at((*size).max(1).min(rest.len()));
        wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
        wire.extend(chunk);
        wire.extend(b"\r\n");
        rest = more;
    }
    wire.extend(b"0\r\n\r\n");
    wire
}

/// A 200 with this body and its length.
pub(crate) fn ok(body: &str) -> String {
    reply("200 OK", "", body)
}

/// A response with these fields, each ending in CRLF, and this body and its length.
pub(crate) fn reply(status: &str, fields: &str, body: &str) -> String {
    let mut text = format!("HTTP/1.1 {status}\r\n{fields}");
    write!(text, "Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    text
}

/// A GET of HTTP/1.1.
pub(crate) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n")
}

/// A POST of HTTP/1.1 with this body and its length.
pub(crate) fn post(target: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
