//! A server of gRPC: answers `grpc.health.v1.Health/Check`.
//!
//! Over HTTP/2: in clear text, as gRPC has it without TLS (prior knowledge), or over the pool's TLS. Of the two messages
//! one has a text and the other a number, so that both are coded here rather than by a compiler of protobuf and its build
//! step.

use std::time::Duration;

use h2::client::{Builder, SendRequest};
use h2::{Reason, RecvStream};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::model::GrpcProbe;

use super::attempt::{Failure, beside, in_full};
use super::bounded::Bounded;
use super::http::AGENT;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// Of all fields of a head, or of the trailers.
const MAX_HEAD: u32 = 16 << 10;
/// Bytes of a message; the one that is asked for has two.
const MAX_MESSAGE: usize = 4 << 10;
/// Before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Longest text of a status that is told.
const MAX_TEXT: usize = 200;

/// `grpc-status` of a method or a service that is not there.
const NOT_FOUND: &str = "5";
const UNIMPLEMENTED: &str = "12";

/// What a service says of itself: `ServingStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Unknown,
    Serving,
    NotServing,
    ServiceUnknown,
    /// A number that the protocol does not have yet.
    Other(u64),
}

/// Whether the server says that it serves, before `limit`.
pub(super) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    probe: &GrpcProbe,
    (scheme, authority): (&str, &str),
    limit: Duration,
) -> Result<(), Failure> {
    let mut builder = Builder::new();
    builder.enable_push(false).max_header_list_size(MAX_HEAD).max_concurrent_reset_streams(0);
    let (sender, connection) = builder.handshake(Bounded::new(stream)).await.map_err(broken)?;
    beside(connection, judge(sender, probe, &format!("{scheme}://{authority}"), limit)).await
}

async fn judge(sender: SendRequest<Bytes>, probe: &GrpcProbe, at: &str, limit: Duration) -> Result<(), Failure> {
    let request = Request::post(format!("{at}{PATH}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        // So that the server gives up when we do. At most eight digits.
        .header("grpc-timeout", format!("{}m", limit.as_millis().clamp(1, 99_999_999)));
    let request = request.body(()).map_err(|e| Failure::Grpc(format!("cannot ask {at}: {e}")))?;
    let mut sender = sender.ready().await.map_err(broken)?;
    let (response, mut body) = sender.send_request(request, false).map_err(broken)?;
    body.send_data(asked(&probe.service).into(), true).map_err(broken)?;
    let response = response.await.map_err(broken)?;
    if !response.status().is_success() {
        return Err(Failure::Status(response.status().as_u16()));
    }
    if !is_grpc(&response) {
        return Err(Failure::Grpc("the answer is not that of gRPC".to_owned()));
    }
    // Without a message the trailers are in the head.
    if response.headers().contains_key("grpc-status") {
        status(response.headers(), &probe.service)?;
        return Err(Failure::Grpc("the answer has no message".to_owned()));
    }
    let mut body = response.into_body();
    let message = read(&mut body).await?;
    let trailers = body.trailers().await.map_err(broken)?.unwrap_or_default();
    status(&trailers, &probe.service)?;
    match serving(&message) {
        Some(Says::Serving) => Ok(()),
        Some(other) => Err(Failure::Grpc(other.in_words())),
        None => Err(Failure::Grpc("the answer is no HealthCheckResponse".to_owned())),
    }
}

fn is_grpc<T>(response: &Response<T>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes());
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// All of the body, prefix included.
async fn read(body: &mut RecvStream) -> Result<Vec<u8>, Failure> {
    let mut came = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(broken)?;
        if came.len() + data.len() > PREFIX + MAX_MESSAGE {
            return Err(Failure::Grpc("the answer is too long".to_owned()));
        }
        came.extend_from_slice(&data);
        // Only fails for more than came.
        let _ = body.flow_control().release_capacity(data.len());
    }
    Ok(came)
}

/// What `grpc-status` says of the call, which is not what the server says of itself.
fn status(trailers: &HeaderMap, service: &str) -> Result<(), Failure> {
    let text = |name: &str| trailers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let says = match text("grpc-status").as_deref() {
        Some("0") => return Ok(()),
        Some(UNIMPLEMENTED) => {
            "grpc-status 12: the server has no grpc.health.v1.Health service; add it, or check by type = \"tcp\""
                .to_owned()
        }
        Some(NOT_FOUND) if !service.is_empty() => format!("grpc-status 5: the server knows no service \"{service}\""),
        Some(code) => {
            let message = text("grpc-message").unwrap_or_default();
            let message: String = message.chars().take(MAX_TEXT).collect();
            let code: String = code.chars().take(MAX_TEXT).collect();
            format!("grpc-status {} {}", code.escape_debug(), message.escape_debug()).trim_end().to_owned()
        }
        None => "the answer ends without grpc-status".to_owned(),
    };
    Err(Failure::Grpc(says))
}

/// A connection that ended, or an answer that is not HTTP/2.
fn broken(e: h2::Error) -> Failure {
    // What a server of HTTP/1.1 says is a frame of a strange size.
    let speaks = match e.reason() {
        Some(Reason::FRAME_SIZE_ERROR | Reason::PROTOCOL_ERROR | Reason::HTTP_1_1_REQUIRED) => {
            "; does it speak HTTP/2 in clear text?"
        }
        _ => "",
    };
    Failure::Grpc(format!("no gRPC: {}{speaks}", in_full(&e)))
}

/// A `HealthCheckRequest` and its prefix. Its one field is left out when it is empty, as protobuf has it.
fn asked(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | LENGTH);
        put_varint(u64::try_from(service.len()).unwrap_or(u64::MAX), &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &len.to_be_bytes(), &message].concat()
}

/// What a `HealthCheckResponse` behind its prefix says; `None`: it is none. Fields that a later version may have are passed
/// over; of one that is there twice the last counts.
fn serving(body: &[u8]) -> Option<Says> {
    let (prefix, mut rest) = body.split_at_checked(PREFIX)?;
    let [0, len @ ..] = prefix else { return None };
    if usize::try_from(u32::from_be_bytes(len.try_into().ok()?)).ok()? != rest.len() {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let tag = take_varint(&mut rest)?;
        let wire = u8::try_from(tag & 7).ok()?;
        match (tag >> 3, wire) {
            (0, _) => return None,
            (1, VARINT) => status = take_varint(&mut rest)?,
            (1, _) => return None,
            (_, VARINT) => drop(take_varint(&mut rest)?),
            (_, EIGHT_BYTES) => rest = rest.get(8..)?,
            (_, LENGTH) => {
                let len = usize::try_from(take_varint(&mut rest)?).ok()?;
                rest = rest.get(len..)?;
            }
            (_, FOUR_BYTES) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(match status {
        0 => Says::Unknown,
        1 => Says::Serving,
        2 => Says::NotServing,
        3 => Says::ServiceUnknown,
        other => Says::Other(other),
    })
}

/// How a field of protobuf is written: the last three bits of its tag.
const VARINT: u8 = 0;
const EIGHT_BYTES: u8 = 1;
const LENGTH: u8 = 2;
const FOUR_BYTES: u8 = 5;

fn put_varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        // The low seven bits.
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The number that `rest` begins with; of ten bytes at most.
fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

impl Says {
    fn in_words(self) -> String {
        match self {
            Self::Unknown => "the service says UNKNOWN".to_owned(),
            Self::Serving => "the service says SERVING".to_owned(),
            Self::NotServing => "the service says NOT_SERVING".to_owned(),
            Self::ServiceUnknown => "the service says SERVICE_UNKNOWN".to_owned(),
            Self::Other(code) => format!("the service says {code}, which is no status"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    #[test]
    fn messages_are_those_of_protobuf() {
        assert_eq!(asked(""), [0, 0, 0, 0, 0]);
        assert_eq!(asked("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(asked(&"x".repeat(300))[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
        for (message, says) in [
            (&[][..], Some(Says::Unknown)),
            (&[8, 1], Some(Says::Serving)),
            (&[8, 2], Some(Says::NotServing)),
            (&[8, 3], Some(Says::ServiceUnknown)),
            (&[8, 0xac, 2], Some(Says::Other(300))),
            (&[8, 2, 8, 1], Some(Says::Serving)),
            // Fields 2 to 5, of every kind.
            (&[0x12, 2, 1, 2, 0x18, 5, 0x25, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0, 0, 0, 0, 8, 1], Some(Says::Serving)),
            (&[8], None),
            (&[0x0a, 1, 1], None),
            (&[0x12, 9, 1], None),
            (&[0x13], None),
            (&[0, 1], None),
            (&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255], None),
        ] {
            assert_eq!(serving(&framed(message)), says, "{message:?}");
        }
        assert_eq!(serving(&[1, 0, 0, 0, 2, 8, 1]), None, "compressed, unasked");
        assert_eq!(serving(&[0, 0, 0, 0, 3, 8, 1]), None, "cut off");
        assert_eq!(serving(&[0, 0, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in vec(any::<u8>(), 0..64)) {
            let _ = serving(&bytes);
            let _ = serving(&framed(&bytes));
        }

        #[test]
        fn numbers_come_back(n: u64) {
            let mut out = Vec::new();
            put_varint(n, &mut out);
            let mut rest = &out[..];
            prop_assert_eq!(take_varint(&mut rest), Some(n));
            prop_assert!(rest.is_empty());
        }
    }
}
