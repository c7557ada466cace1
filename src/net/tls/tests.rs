use std::future::poll_fn;
use std::os::fd::OwnedFd;

use proptest::prelude::*;
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};

use super::*;

/// Configurations that trust each other, for `localhost`.
fn configs(version: &'static rustls::SupportedProtocolVersion) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let cert = made.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

/// Two ends of one connection; `small`: the kernel holds less than a write of ours, so that each is sent in pieces.
fn pair(small: bool) -> (Sock, Sock) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let a = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (b, _) = listener.accept().unwrap();
    for end in [&a, &b] {
        end.set_nonblocking(true).unwrap();
        if small {
            rustix::net::sockopt::set_socket_send_buffer_size(end, 16 * 1024).unwrap();
        }
    }
    (Sock::new(OwnedFd::from(a)), Sock::new(OwnedFd::from(b)))
}

struct Ends {
    client: TlsStream,
    server: TlsStream,
}

/// A connection after its handshake.
async fn connected(version: &'static rustls::SupportedProtocolVersion, small: bool) -> Ends {
    let (server, client) = configs(version);
    let (a, b) = pair(small);
    let buffers = BufferPool::new();
    let ends = Ends { client: TlsStream::new(a, Rc::clone(&buffers)), server: TlsStream::new(b, buffers) };
    ends.server.start_server(server, None).unwrap();
    ends.client.start_client(client, "localhost".try_into().unwrap()).unwrap();
    let (one, two) =
        tokio::join!(poll_fn(|cx| ends.client.poll_handshake(cx)), poll_fn(|cx| ends.server.poll_handshake(cx)));
    one.unwrap();
    two.unwrap();
    ends
}

async fn send(stream: &TlsStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let n = poll_fn(|cx| stream.poll_send(cx, &[IoSlice::new(bytes)])).await.unwrap();
        bytes = &bytes[n..];
    }
}

async fn recv(stream: &TlsStream, room: usize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; room];
    let n = poll_fn(|cx| stream.poll_recv(cx, &mut buf)).await?;
    buf.truncate(n);
    Ok(buf)
}

#[tokio::test]
async fn both_versions_carry_bytes_both_ways_and_say_when_they_are_done() {
    for version in [&TLS12, &TLS13] {
        let Ends { client, server } = connected(version, false).await;
        assert_eq!(client.with(|c| c.protocol_version()), Some(Some(version.version)));
        let (sent, got) = tokio::join!(send(&client, b"GET"), recv(&server, 100));
        let () = sent;
        assert_eq!(got.unwrap(), b"GET");
        let (_, got) = tokio::join!(send(&server, b"here"), recv(&client, 100));
        assert_eq!(got.unwrap(), b"here");
        assert!(matches!(poll_fn(|cx| Poll::Ready(server.poll_closed(cx))).await, Poll::Pending));
        client.shutdown().unwrap();
        assert_eq!(recv(&server, 100).await.unwrap(), b"");
        // The other direction is still open.
        send(&server, b"late").await;
        assert_eq!(recv(&client, 100).await.unwrap(), b"late");
        drop(server);
        assert_eq!(recv(&client, 100).await.unwrap(), b"");
    }
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let Ends { client, server } = connected(&TLS13, false).await;
    for _ in 0..2 {
        tokio::join!(send(&client, b"ping"), recv(&server, 100)).1.unwrap();
        tokio::join!(send(&server, b"pong"), recv(&client, 100)).1.unwrap();
        let waiting = poll_fn(|cx| Poll::Ready(server.poll_recv(cx, &mut [0; 10]))).await;
        assert!(waiting.is_pending());
        for end in [&client, &server] {
            let state = end.state.borrow();
            assert!(state.incoming.is_none() && state.outgoing.is_none() && state.plain.capacity() == 0);
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_is_not_one_that_ended() {
    let Ends { client, server } = connected(&TLS13, false).await;
    tokio::join!(send(&client, b"half"), recv(&server, 100)).1.unwrap();
    client.sock().shutdown().unwrap();
    for _ in 0..2 {
        assert_eq!(recv(&server, 100).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
    // It may still read, and whoever has cut it off must not make what it reads look whole.
    send(&server, b"half an answer").await;
    drop(server);
    assert_eq!(recv(&client, 100).await.unwrap(), b"half an answer");
    assert_eq!(recv(&client, 100).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn garbage_is_answered_with_an_alert() {
    let (server, _) = configs(&TLS13);
    let (a, b) = pair(false);
    let stream = TlsStream::new(b, BufferPool::new());
    stream.start_server(server, None).unwrap();
    poll_fn(|cx| a.poll_send(cx, &[IoSlice::new(b"GET / HTTP/1.1\r\n\r\n")])).await.unwrap();
    let failed = poll_fn(|cx| stream.poll_handshake(cx)).await;
    assert!(matches!(failed, Err(TlsError::Tls(_))), "{failed:?}");
    let mut alert = [0; 64];
    let n = poll_fn(|cx| a.poll_recv(cx, &mut alert)).await.unwrap();
    assert_eq!((n, &alert[..2], alert[5]), (7, &[21, 3][..], 2), "a fatal alert");
}

#[tokio::test]
async fn a_server_by_another_name_is_refused_and_told() {
    let (server, client) = configs(&TLS13);
    let (a, b) = pair(false);
    let buffers = BufferPool::new();
    let (client_end, server_end) = (TlsStream::new(a, Rc::clone(&buffers)), TlsStream::new(b, buffers));
    server_end.start_server(server, None).unwrap();
    client_end.start_client(client, "example.com".try_into().unwrap()).unwrap();
    let both = tokio::join!(poll_fn(|cx| client_end.poll_handshake(cx)), poll_fn(|cx| server_end.poll_handshake(cx)));
    let (client_says, server_says) = (both.0.unwrap_err().to_string(), both.1.unwrap_err().to_string());
    assert!(client_says.contains("not valid for name \"example.com\""), "{client_says}");
    assert!(server_says.contains("received fatal alert"), "{server_says}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever the sizes of writes, reads and kernel buffers: the bytes arrive, in order, once.
    #[test]
    fn bytes_arrive_whole(
        pieces in prop::collection::vec((0..200_000_usize, any::<bool>()), 1..5),
        room in 100..40_000_usize,
        small: bool,
        old: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Ends { client, server } = connected(if old { &TLS12 } else { &TLS13 }, small).await;
            let total: usize = pieces.iter().map(|(n, _)| n).sum();
            let text: Vec<u8> = (0..total).map(|i| (i * 31 + i / 251) as u8).collect();
            let sending = async {
                let mut rest = &text[..];
                for (n, split) in &pieces {
                    let (mut piece, after) = rest.split_at(*n);
                    rest = after;
                    while !piece.is_empty() {
                        let (one, two) = piece.split_at(if *split { piece.len() / 3 } else { 0 });
                        let bufs = [IoSlice::new(one), IoSlice::new(two)];
                        let bufs = if *split { &bufs[..] } else { &bufs[1..] };
                        let n = poll_fn(|cx| server.poll_send(cx, bufs)).await.unwrap();
                        piece = &piece[n..];
                    }
                }
                server.shutdown().unwrap();
                assert_eq!(recv(&server, 1).await.unwrap(), b"", "the client is done too");
            };
            let receiving = async {
                let mut got = Vec::new();
                loop {
                    let more = recv(&client, room).await.unwrap();
                    if more.is_empty() {
                        client.shutdown().unwrap();
                        return got;
                    }
                    got.extend_from_slice(&more);
                }
            };
            let ((), got) = tokio::join!(sending, receiving);
            assert!(got == text, "{} of {total} bytes, or others", got.len());
        });
    }
}

#[tokio::test]
async fn a_panic_does_not_make_half_an_answer_look_whole() {
    let Ends { client, server } = connected(&TLS13, false).await;
    tokio::join!(send(&server, b"half"), recv(&client, 100)).1.unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _server = server;
        std::panic::resume_unwind(Box::new("in the middle"));
    }));
    assert!(caught.is_err());
    assert_eq!(recv(&client, 100).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}
