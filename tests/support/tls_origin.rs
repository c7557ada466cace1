//! A server that speaks TLS and answers every request of HTTP/1.1 by itself, or sends back what it gets.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

use super::wire::PATIENCE;

/// What is known of a connection once its handshake is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greeted {
    /// The name that was asked for.
    pub(crate) name: Option<String>,
    /// What was chosen.
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) resumed: bool,
    /// Whether the client has shown a certificate.
    pub(crate) has_certificate: bool,
}

/// See the module's documentation. It runs until the test process ends.
#[derive(Debug, Clone)]
pub(crate) struct TlsOrigin {
    addr: SocketAddr,
    greeted: Arc<Mutex<Vec<Greeted>>>,
}

/// A connection after its handshake.
pub(crate) type Talk = StreamOwned<ServerConnection, TcpStream>;

impl TlsOrigin {
    /// Does what `talk` says with each connection.
    pub(crate) fn new(
        config: ServerConfig,
        talk: impl Fn(&mut Talk) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let greeted = Arc::<Mutex<Vec<Greeted>>>::default();
        let (config, talk, seen) = (Arc::new(config), Arc::new(talk), Arc::clone(&greeted));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, talk, seen) = (Arc::clone(&config), Arc::clone(&talk), Arc::clone(&seen));
                thread::spawn(move || -> io::Result<()> {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
                    let mut stream = StreamOwned::new(connection, stream);
                    while stream.conn.is_handshaking() {
                        stream.conn.complete_io(&mut stream.sock)?;
                    }
                    seen.lock().unwrap().push(Greeted {
                        name: stream.conn.server_name().map(str::to_owned),
                        alpn: stream.conn.alpn_protocol().map(<[u8]>::to_vec),
                        resumed: stream.conn.handshake_kind() == Some(HandshakeKind::Resumed),
                        has_certificate: stream.conn.peer_certificates().is_some(),
                    });
                    talk(&mut stream)
                });
            }
        });
        Self { addr, greeted }
    }

    /// Answers every request (without a body) with `body`, and keeps the connection.
    pub(crate) fn answering(config: ServerConfig, body: &'static str) -> Self {
        Self::new(config, move |stream| {
            loop {
                read_head(stream)?;
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
            }
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The connections so far whose handshake was completed.
    pub(crate) fn greeted(&self) -> Vec<Greeted> {
        self.greeted.lock().unwrap().clone()
    }
}

/// Reads a head to its end.
pub(crate) fn read_head(stream: &mut Talk) -> io::Result<()> {
    let mut last = [0; 4];
    while &last != b"\r\n\r\n" {
        last.rotate_left(1);
        stream.read_exact(&mut last[3..])?;
    }
    Ok(())
}
