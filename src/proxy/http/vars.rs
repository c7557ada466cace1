//! The variables of an exchange: for templates of headers, redirects and hash keys, and for the access log.

use std::io::Write;
use std::net::IpAddr;
use std::time::SystemTime;

use data_encoding::BASE64;

use crate::http1::{FieldName, Version};
use crate::net::{Transport, clock};
use crate::proxy::http::exchange::Exchange;
use crate::proxy::http::headers::decimal;
use crate::proxy::http::scratch::Try;
use crate::proxy::preface::local_address;
use crate::proxy::secured;
use crate::route::{MAX_HOST, normalise_host};
use crate::template::{Var, Variables};

/// The values of one exchange.
pub(super) struct Vars<'e, 'c, C: Transport> {
    pub(super) exchange: &'e Exchange<'c, C>,
}

impl<C: Transport> Variables for Vars<'_, '_, C> {
    fn write(&self, var: &Var, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        self.append(var, out);
        out.len() > start
    }
}

impl<C: Transport> Vars<'_, '_, C> {
    fn append(&self, var: &Var, out: &mut Vec<u8>) {
        let ex = self.exchange;
        let (facts, conn) = (&ex.facts, ex.conn);
        let head = &ex.scratch.request;
        let bytes = ex.buf.bytes();
        let worker = &conn.worker;
        match var {
            Var::RemoteAddr => write_ip(out, facts.client),
            Var::RemotePort => decimal(out, u64::from(facts.peer.port())),
            Var::RealipRemoteAddr if conn.preface.is_none() => write_ip(out, facts.peer.ip().to_canonical()),
            Var::RealipRemoteAddr
            | Var::ProxyProtocolAddr
            | Var::ProxyProtocolPort
            | Var::ProxyProtocolServerAddr
            | Var::ProxyProtocolServerPort => {
                if let Some(preface) = &conn.preface {
                    preface.write(var, out);
                }
            }
            // Of TLS that is passed through, which is never HTTP here.
            Var::SslPrereadServerName | Var::SslPrereadAlpnProtocols | Var::SslPrereadProtocol => {}
            Var::RemoteUser => self.basic_user(out),
            Var::ServerAddr => write_ip(out, local_address(&conn.io, &conn.listener).ip().to_canonical()),
            Var::ServerPort => decimal(out, u64::from(conn.listener.address.port())),
            Var::Scheme => out.extend_from_slice(conn.scheme().as_bytes()),
            Var::Https
            | Var::SslProtocol
            | Var::SslCipher
            | Var::SslServerName
            | Var::SslSessionReused
            | Var::SslAlpnProtocol
            | Var::SslClientVerify
            | Var::SslClientSDn
            | Var::SslClientIDn
            | Var::SslClientSerial
            | Var::SslClientFingerprint
            | Var::SslClientVStart
            | Var::SslClientVEnd
            | Var::SslClientVRemain
            | Var::SslClientEscapedCert => {
                if let Some(agreed) = conn.agreed() {
                    secured::write(agreed, var, out);
                }
            }
            Var::Host => {
                let mut lower = [0; MAX_HOST];
                out.extend_from_slice(normalise_host(head.host.of(bytes), &mut lower).unwrap_or_default());
            }
            Var::Request => {
                let line = bytes.split(|&b| matches!(b, b'\r' | b'\n')).find(|l| !l.is_empty()).unwrap_or_default();
                match line.strip_suffix(b"HTTP/1.1").filter(|_| C::HTTP2) {
                    None => out.extend_from_slice(line),
                    Some(asked) => {
                        out.extend_from_slice(asked);
                        out.extend_from_slice(b"HTTP/2.0");
                    }
                }
            }
            Var::RequestMethod => out.extend_from_slice(head.method_span.of(bytes)),
            Var::RequestUri => out.extend_from_slice(head.target.of(bytes)),
            Var::Uri if ex.scratch.path.is_empty() => out.extend_from_slice(head.path.of(bytes)),
            Var::Uri => out.extend_from_slice(&ex.scratch.path),
            Var::Args => out.extend_from_slice(head.query.map_or(&[][..], |q| q.of(bytes))),
            Var::IsArgs if head.query.is_some_and(|q| !q.is_empty()) => out.push(b'?'),
            Var::IsArgs => {}
            Var::ServerProtocol if C::HTTP2 => out.extend_from_slice(b"HTTP/2.0"),
            Var::Http2 if C::HTTP2 => out.extend_from_slice(if conn.is_tls() { b"h2" } else { b"h2c" }),
            Var::Http2 => {}
            Var::ServerProtocol if head.method_span.is_empty() => {}
            Var::ServerProtocol => out.extend_from_slice(match head.version {
                Version::Http10 => b"HTTP/1.0",
                Version::Http11 => b"HTTP/1.1",
            }),
            Var::RequestId => out.extend_from_slice(ex.request_id().as_bytes()),
            Var::Traceparent => self.field(FieldName::Traceparent, out),
            Var::ProxyAddXForwardedFor => {
                for f in head.fields.iter().filter(|f| f.kind == FieldName::XForwardedFor) {
                    out.extend_from_slice(f.value.of(bytes));
                    out.extend_from_slice(b", ");
                }
                write_ip(out, facts.peer.ip().to_canonical());
            }
            Var::Connection => decimal(out, facts.connection),
            Var::ConnectionRequests => decimal(out, u64::from(facts.requests)),
            Var::Msec | Var::TimeLocal | Var::TimeIso8601 => {
                // Not while a log line is written: the log has times of its own.
                worker.log.borrow().clock().write(var, SystemTime::now(), out);
            }
            Var::Hostname => out.extend_from_slice(worker.shared.hostname.as_bytes()),
            Var::Node => out.extend_from_slice(worker.shared.node.as_bytes()),
            Var::Pid => decimal(out, u64::from(std::process::id())),
            Var::Listener => out.extend_from_slice(conn.listener.name.as_bytes()),
            Var::Site => text(out, ex.place().site.as_deref()),
            Var::Route => text(out, ex.place().route.as_deref()),
            Var::Pool => text(out, ex.place().pool.as_deref()),
            Var::Server => text(out, ex.scratch.tries.last().map(|t| &*t.server.name)),
            Var::Tries if ex.scratch.tries.is_empty() => {}
            Var::Tries => decimal(out, ex.scratch.tries.len() as u64),
            Var::QueueTime => seconds(out, facts.queued),
            Var::UpstreamAddr => self.per_try(out, |t, out| write_display(out, t.server.address)),
            Var::UpstreamStatus => self.per_try(out, |t, out| match t.status {
                0 => out.push(b'-'),
                status => decimal(out, u64::from(status)),
            }),
            // A reused connection took no time to make; one that never came has no time (nginx).
            Var::UpstreamConnectTime => self.per_try(out, |t, out| match (t.connect, t.header) {
                (None, Some(_)) => seconds(out, Some(0)),
                (time, _) => seconds_or_dash(out, time),
            }),
            Var::UpstreamHeaderTime => self.per_try(out, |t, out| seconds_or_dash(out, t.header)),
            Var::UpstreamResponseTime => self.per_try(out, |t, out| seconds_or_dash(out, t.response)),
            Var::UpstreamLocalPort => {
                if let Some(port) = facts.upstream_port {
                    decimal(out, u64::from(port));
                }
            }
            Var::Status if facts.status == 0 => out.extend_from_slice(b"499"),
            Var::Status => decimal(out, u64::from(facts.status)),
            Var::RequestTime if facts.start == 0 => seconds(out, Some(0)),
            Var::RequestTime => seconds(out, Some(clock::now_micros().saturating_sub(facts.start))),
            Var::Reason => text(out, facts.reason.map(|r| r.name())),
            Var::RequestLength => decimal(out, facts.received),
            Var::BytesSent => decimal(out, facts.sent),
            Var::BodyBytesSent => decimal(out, facts.body_sent),
            Var::UpstreamBytesSent => decimal(out, facts.upstream_sent),
            Var::UpstreamBytesReceived => decimal(out, facts.upstream_received),
            Var::Http(name) => {
                for (i, value) in head.values(bytes, name).enumerate() {
                    out.extend_from_slice(if i > 0 { b", " } else { b"" });
                    out.extend_from_slice(value);
                }
            }
            // The head that was sent is kept until the next exchange of the connection's worker.
            Var::SentHttp(name) => sent_field(&ex.scratch.out, name, out),
            Var::UpstreamHttp(name) => sent_field(&ex.scratch.received, name, out),
            Var::Arg(name) => {
                let query = head.query.map_or(&[][..], |q| q.of(bytes));
                pair(query.split(|&b| b == b'&'), name, out);
            }
            Var::Cookie(name) => {
                for f in head.fields.iter().filter(|f| f.kind == FieldName::Cookie) {
                    if pair(f.value.of(bytes).split(|&b| b == b';'), name, out) {
                        break;
                    }
                }
            }
        }
    }

    fn field(&self, kind: FieldName, out: &mut Vec<u8>) {
        let ex = self.exchange;
        if let Some(f) = ex.scratch.request.fields.iter().find(|f| f.kind == kind) {
            out.extend_from_slice(f.value.of(ex.buf.bytes()));
        }
    }

    fn per_try(&self, out: &mut Vec<u8>, write: impl Fn(&Try, &mut Vec<u8>)) {
        for (i, t) in self.exchange.scratch.tries.iter().enumerate() {
            if i > 0 {
                out.extend_from_slice(b", ");
            }
            write(t, out);
        }
    }

    /// The user of `Authorization: Basic` (RFC 7617).
    fn basic_user(&self, out: &mut Vec<u8>) {
        let ex = self.exchange;
        let bytes = ex.buf.bytes();
        let fields = &ex.scratch.request.fields;
        let Some(field) = fields.iter().find(|f| f.name.of(bytes).eq_ignore_ascii_case(b"authorization")) else {
            return;
        };
        let value = field.value.of(bytes);
        if value.len() > 6 && value[..6].eq_ignore_ascii_case(b"basic ") {
            let decoded = BASE64.decode(value[6..].trim_ascii()).unwrap_or_default();
            out.extend(decoded.split(|&b| b == b':').next().unwrap_or_default());
        }
    }
}

/// The value of the first `name=value` among `pairs`.
fn pair<'a>(pairs: impl Iterator<Item = &'a [u8]>, name: &str, out: &mut Vec<u8>) -> bool {
    for p in pairs {
        let p = p.trim_ascii();
        if let Some(at) = p.iter().position(|&b| b == b'=')
            && p[..at].eq_ignore_ascii_case(name.as_bytes())
        {
            out.extend_from_slice(&p[at + 1..]);
            return true;
        }
    }
    false
}

/// The value of a field in the text of a head.
fn sent_field(head: &[u8], name: &str, out: &mut Vec<u8>) {
    for line in head.split(|&b| b == b'\n').skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return;
        }
        if let Some(at) = line.iter().position(|&b| b == b':')
            && line[..at].eq_ignore_ascii_case(name.as_bytes())
        {
            out.extend_from_slice(line[at + 1..].trim_ascii());
            return;
        }
    }
}

fn text(out: &mut Vec<u8>, value: Option<&str>) {
    out.extend_from_slice(value.unwrap_or_default().as_bytes());
}

pub(crate) fn write_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                decimal(out, u64::from(octet));
            }
        }
        IpAddr::V6(v6) => write_display(out, v6),
    }
}

pub(crate) fn write_display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{value}");
}

/// Microseconds as seconds with three decimals, as nginx writes times.
pub(crate) fn seconds(out: &mut Vec<u8>, micros: Option<u64>) {
    let Some(micros) = micros else { return };
    let millis = micros / 1000;
    decimal(out, millis / 1000);
    out.push(b'.');
    for unit in [100, 10, 1] {
        out.push(b'0' + (millis / unit % 10) as u8);
    }
}

fn seconds_or_dash(out: &mut Vec<u8>, micros: Option<u64>) {
    match micros {
        Some(_) => seconds(out, micros),
        None => out.push(b'-'),
    }
}
