//! Fields of a head: where they are, and which of them mean something to a proxy.

/// A part of the buffer that a head was parsed from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// `start..end`, which lie in a window of [`Limits::window`](super::Limits::window) and so fit 32 bits.
    pub(super) fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    pub(super) fn bounds(self) -> (usize, usize) {
        (self.start as usize, self.end as usize)
    }

    /// The bytes, in the buffer that was parsed; nothing in a shorter one.
    pub fn of<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        buf.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }
}

/// A field line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The name, a token.
    pub name: Span,
    /// The value without white space around it; no control characters but tabs.
    pub value: Span,
    /// Which it is.
    pub kind: FieldName,
    /// It concerns this connection only and must not be passed on (RFC 9110 section 7.6.1).
    pub hop: bool,
}

/// The names that a proxy acts upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is the field of that name")]
pub enum FieldName {
    Other,
    Connection,
    ContentLength,
    Cookie,
    Expect,
    Forwarded,
    Host,
    KeepAlive,
    ProxyConnection,
    StrictTransportSecurity,
    Te,
    Traceparent,
    Trailer,
    TransferEncoding,
    Upgrade,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    XRequestId,
}

impl FieldName {
    /// Which name this is, in any case.
    pub fn lookup(name: &[u8]) -> Self {
        let Some(first) = name.first() else { return Self::Other };
        // Length and first letter leave two candidates at most.
        let candidates: &[(&[u8], Self)] = match (name.len(), first | 0x20) {
            (2, b't') => &[(b"te", Self::Te)],
            (4, b'h') => &[(b"host", Self::Host)],
            (6, b'c') => &[(b"cookie", Self::Cookie)],
            (6, b'e') => &[(b"expect", Self::Expect)],
            (7, b't') => &[(b"trailer", Self::Trailer)],
            (7, b'u') => &[(b"upgrade", Self::Upgrade)],
            (9, b'f') => &[(b"forwarded", Self::Forwarded)],
            (10, b'c') => &[(b"connection", Self::Connection)],
            (10, b'k') => &[(b"keep-alive", Self::KeepAlive)],
            (11, b't') => &[(b"traceparent", Self::Traceparent)],
            (12, b'x') => &[(b"x-request-id", Self::XRequestId)],
            (14, b'c') => &[(b"content-length", Self::ContentLength)],
            (15, b'x') => &[(b"x-forwarded-for", Self::XForwardedFor)],
            (16, b'p') => &[(b"proxy-connection", Self::ProxyConnection)],
            (16, b'x') => &[(b"x-forwarded-host", Self::XForwardedHost)],
            (17, b't') => &[(b"transfer-encoding", Self::TransferEncoding)],
            (17, b'x') => &[(b"x-forwarded-proto", Self::XForwardedProto)],
            (25, b's') => &[(b"strict-transport-security", Self::StrictTransportSecurity)],
            _ => return Self::Other,
        };
        candidates.iter().find(|(n, _)| name.eq_ignore_ascii_case(n)).map_or(Self::Other, |&(_, kind)| kind)
    }

    /// Never passed on, named in `Connection` or not.
    pub(super) fn is_hop(self) -> bool {
        matches!(self, Self::Connection | Self::KeepAlive | Self::ProxyConnection | Self::Te | Self::Upgrade)
    }

    /// Passed on, or replaced, even if `Connection` names it: a client must not be able to remove what delimits the
    /// message or what a proxy in front of us said about the client.
    pub(super) fn is_end_to_end(self) -> bool {
        matches!(
            self,
            Self::Host
                | Self::ContentLength
                | Self::TransferEncoding
                | Self::Forwarded
                | Self::XForwardedFor
                | Self::XForwardedHost
                | Self::XForwardedProto
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case() {
        let names = [
            ("connection", FieldName::Connection),
            ("content-length", FieldName::ContentLength),
            ("cookie", FieldName::Cookie),
            ("expect", FieldName::Expect),
            ("forwarded", FieldName::Forwarded),
            ("host", FieldName::Host),
            ("keep-alive", FieldName::KeepAlive),
            ("proxy-connection", FieldName::ProxyConnection),
            ("strict-transport-security", FieldName::StrictTransportSecurity),
            ("te", FieldName::Te),
            ("traceparent", FieldName::Traceparent),
            ("trailer", FieldName::Trailer),
            ("transfer-encoding", FieldName::TransferEncoding),
            ("upgrade", FieldName::Upgrade),
            ("x-forwarded-for", FieldName::XForwardedFor),
            ("x-forwarded-host", FieldName::XForwardedHost),
            ("x-forwarded-proto", FieldName::XForwardedProto),
            ("x-request-id", FieldName::XRequestId),
        ];
        for (name, kind) in names {
            assert_eq!(FieldName::lookup(name.as_bytes()), kind);
            assert_eq!(FieldName::lookup(name.to_uppercase().as_bytes()), kind);
            assert_eq!(FieldName::lookup(format!("{name}x").as_bytes()), FieldName::Other);
            let last = &name[..name.len() - 1];
            assert_eq!(FieldName::lookup(format!("{last}?").as_bytes()), FieldName::Other);
        }
        for other in ["", "x", "cookies", "accept", "x-forwarded-portt", "content_length", "user-agent"] {
            assert_eq!(FieldName::lookup(other.as_bytes()), FieldName::Other, "{other}");
        }
    }
}
