//! Probes over TLS.

use std::sync::Arc;

use ::http::{HeaderMap, Response};
use bytes::Bytes;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::model::{Attachment, Attachments};
use crate::config::parse_with;

/// A server whose certificate is for `names` and signed by itself: its acceptor, and that certificate.
fn acceptor(names: &[&str]) -> (TlsAcceptor, String) {
    speaking(names, &["h2", "http/1.1"])
}

/// The same; `protocols`: what it can be asked for by ALPN.
fn speaking(names: &[&str], protocols: &[&str]) -> (TlsAcceptor, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::clone(crate::tls::provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = builder.with_single_cert(vec![cert.der().clone()], key).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    (TlsAcceptor::from(Arc::new(config)), cert.pem())
}

/// Probes a server at `address` by `check`, trusting `authority`; `tls`: more of the pool's table.
async fn ask(address: SocketAddr, authority: &str, tls: &str, check: &str) -> Result<(), String> {
    let mut files = Attachments::default();
    files.insert("/ca.pem".into(), Attachment::File { bytes: authority.as_bytes().into(), open: true });
    let text = format!(
        "[global]\nrun_dir = \"/nowhere\"\n[pool.p]\nservers = [\"{address}\"]\n[pool.p.tls]\nca = \"/ca.pem\"\n{tls}\n\
         [pool.p.health_check]\n{check}\n"
    );
    let config = parse_with(&text, "box", &files).unwrap_or_else(|errors| panic!("{errors}"));
    let pool = &config.pools[0];
    let built = Pool::build(pool, |_| vec![address], &model::Overrides::default(), None);
    let (server, host) = built.checked().next().unwrap();
    let target = Target::new(pool.health_check.as_ref().unwrap(), pool, server, host);
    let (orders, _none) = mpsc::unbounded_channel();
    let result = timeout(Duration::from_secs(20), Network::new(orders).attempt(&target)).await;
    result.expect("an end").map(|_| ()).map_err(|failure| failure.to_string())
}

#[tokio::test]
async fn a_server_is_probed_as_it_is_asked_and_verified() {
    let (_, stranger) = acceptor(&["127.0.0.1"]);
    let (acceptor, authority) = acceptor(&["127.0.0.1", "api.test"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                let mut request = [0; 2048];
                let n = stream.read(&mut request).await.unwrap();
                let says_host = String::from_utf8_lossy(&request[..n]).contains(&format!("host: {address}"));
                let status = if says_host && protocol.as_deref() == Some(b"http/1.1") { "200 OK" } else { "500 No" };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    let http = "type = \"http\"";
    assert_eq!(ask(address, &authority, "", http).await, Ok(()));
    assert_eq!(ask(address, &authority, "server_name = \"api.test\"", http).await, Ok(()));
    let tcp = "type = \"tcp\"\nsend = \"hello\"\nexpect_text = \"500 No\"";
    assert_eq!(ask(address, &authority, "", tcp).await, Ok(()));
    let failure = ask(address, &authority, "server_name = \"other.test\"", http).await.unwrap_err();
    assert!(failure.starts_with("no TLS: ") && failure.contains("not valid for name"), "{failure}");
    let failure = ask(address, &stranger, "", http).await.unwrap_err();
    assert!(failure.starts_with("no TLS: invalid peer certificate"), "{failure}");
    // Without TLS the server makes nothing of it.
    assert!(ask(address, &authority, "", "type = \"http\"\ntls = false").await.is_err());
}

#[tokio::test]
async fn grpc_is_asked_over_tls() {
    let (acceptor, authority) = acceptor(&["127.0.0.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(acceptor.accept(stream).await.unwrap()).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let kind = if request.uri().scheme_str() == Some("https") { "application/grpc" } else { "text/plain" };
            let head = Response::builder().header("content-type", kind).body(()).unwrap();
            let mut body = respond.send_response(head, false).unwrap();
            // SERVING.
            body.send_data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            body.send_trailers(trailers).unwrap();
        }
    });
    assert_eq!(ask(address, &authority, "", "type = \"grpc\"").await, Ok(()));
}

#[tokio::test]
async fn grpc_over_tls_is_asked_for_by_alpn() {
    let (acceptor, authority) = speaking(&["127.0.0.1"], &[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let _ = stream.read(&mut [0; 64]).await;
    });
    let failure = ask(address, &authority, "", "type = \"grpc\"").await.unwrap_err();
    assert_eq!(failure, "no gRPC: the server did not choose h2 by ALPN");
}
