//! A client and a server that speak just enough HTTP/1.1 to see what a fault does.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::fault_origin;
use crate::support::connect;

/// How the connection stood after a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The whole body came, as its framing says.
    Complete,
    /// The connection was closed in order inside the body: for a reply without a length this is its regular end.
    Closed,
    /// The connection was reset inside the body.
    Reset,
}

/// What a client got.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(crate) ending: Ending,
}

/// A client connection.
pub(crate) struct Client(pub(crate) BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::new(connect(addr).unwrap())
    }

    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, text: &str) -> io::Result<()> {
        self.0.get_mut().write_all(text.as_bytes())
    }

    pub(crate) fn get(&mut self) -> io::Result<Reply> {
        self.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")?;
        self.reply()
    }

    /// The head of a reply, and what it says of its body.
    pub(crate) fn reply_head(&mut self) -> io::Result<(u16, String)> {
        let head = read_head(&mut self.0)?.ok_or(ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(ErrorKind::InvalidData)?;
        Ok((status, head))
    }

    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        let (status, head) = self.reply_head()?;
        let mut body = Vec::new();
        let read = if let Some(length) = header(&head, "content-length") {
            read_exactly(&mut self.0, length.parse().unwrap(), &mut body)
        } else if header(&head, "transfer-encoding").is_some() {
            read_chunks(&mut self.0, &mut body)
        } else {
            self.0.read_to_end(&mut body).map(|_| Ending::Closed)
        };
        let ending = match read {
            Ok(ending) => ending,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Ending::Reset,
            Err(e) => return Err(e),
        };
        Ok(Reply { status, body, ending })
    }
}

/// One request on a connection of its own.
pub(crate) fn get(addr: SocketAddr) -> Reply {
    Client::connect(addr).get().unwrap()
}

/// A server that reads request heads, and answers each with what `answer` writes; the connection goes on while that is
/// true.
pub(crate) fn http_server(answer: impl Fn(&mut TcpStream) -> bool + Send + Sync + 'static) -> SocketAddr {
    fault_origin::server(move |stream| {
        let mut reader = BufReader::new(stream);
        while let Ok(Some(_)) = read_head(&mut reader) {
            if !answer(reader.get_mut()) {
                return;
            }
        }
    })
}

/// A reply that everybody likes.
pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server that always sends it.
pub(crate) fn good_server() -> SocketAddr {
    http_server(|stream| stream.write_all(OK).is_ok())
}

/// The text up to the empty line; `None` when the connection ends before its first byte.
pub(crate) fn read_head(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = String::new();
    loop {
        let start = head.len();
        match reader.read_line(&mut head)? {
            0 if start == 0 => return Ok(None),
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            _ if &head[start..] == "\r\n" => return Ok(Some(head)),
            _ => {}
        }
    }
}

/// The value of a header field.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn read_exactly(reader: &mut impl Read, length: u64, body: &mut Vec<u8>) -> io::Result<Ending> {
    let n = reader.take(length).read_to_end(body)?;
    Ok(if n as u64 == length { Ending::Complete } else { Ending::Closed })
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<Ending> {
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(Ending::Closed);
        }
        let size = u64::from_str_radix(line.trim_end(), 16).map_err(|_| ErrorKind::InvalidData)?;
        let ending = read_exactly(reader, size, body)?;
        let mut end = [0; 2];
        if ending != Ending::Complete || reader.read_exact(&mut end).is_err() {
            return Ok(Ending::Closed);
        }
        if size == 0 {
            return Ok(Ending::Complete);
        }
    }
}
