//! A server of HTTP: answers a request.

use std::io;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::model::{Expected, HttpProbe};

use super::attempt::{Failure, beginning, beside};
use super::bounded::Bounded;

/// Bytes of a response's head.
const MAX_HEAD: usize = 16 << 10;
/// Bytes of a body that are looked through.
const MAX_BODY: usize = 64 << 10;
/// What probes call themselves.
pub(super) const AGENT: &str = concat!("bascule/", env!("CARGO_PKG_VERSION"), " (health check)");

/// Whether the server answers as it should.
pub(super) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    probe: &HttpProbe,
    authority: &str,
) -> Result<(), Failure> {
    let mut request = Request::builder()
        .method(&*probe.method)
        .uri(&*probe.path)
        .header(HOST, probe.host.as_deref().unwrap_or(authority))
        .header(CONNECTION, "close");
    if !probe.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(USER_AGENT.as_str())) {
        request = request.header(USER_AGENT, AGENT);
    }
    for (name, value) in &probe.headers {
        request = request.header(&**name, &**value);
    }
    let request = request.body(Empty::<Bytes>::new());
    let request = request.map_err(|e| Failure::Local(io::Error::new(io::ErrorKind::InvalidInput, e)))?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(Bounded::new(stream))).await.map_err(Failure::Response)?;
    let judge = async {
        let mut response = sender.send_request(request).await.map_err(Failure::Response)?;
        let status = response.status().as_u16();
        if !probe.expect.iter().any(|good| good.contains(&status)) {
            return Err(Failure::Status(status));
        }
        let Some(expected) = &probe.expect_text else { return Ok(()) };
        let mut body = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let Ok(data) = frame.map_err(Failure::Response)?.into_data() else { continue };
            body.extend_from_slice(data.get(..(MAX_BODY - body.len()).min(data.len())).unwrap_or_default());
            // A regular expression may be about the end.
            if matches!(expected, Expected::Text(_)) && expected.is_in(&body) {
                return Ok(());
            }
            if body.len() >= MAX_BODY {
                break;
            }
        }
        if expected.is_in(&body) { Ok(()) } else { Err(Failure::Text(beginning(&body))) }
    };
    beside(connection, judge).await
}
