//! The variables of templates: one table that drives parsing, the README and the check of where each may be used.
//!
//! Names are nginx's wherever nginx has one, so that a `log_format` can be carried over as it is.

/// From which moment on a variable has its value; also the moment at which a template is expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Once the request head is read: request headers, hash keys, redirects.
    Request,
    /// Once the response head is known: response headers, error pages.
    Response,
    /// Once the exchange is over: the access log.
    Log,
}

/// One row of [`VARIABLES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// As written after the `$`; a family ends in `NAME`, which stands for any name.
    pub name: &'static str,
    /// From when on it may be used.
    pub scope: Scope,
    /// What it holds, one sentence.
    pub doc: &'static str,
}

macro_rules! variables {
    ($($scope:ident $variant:ident $name:literal $doc:literal)*) => {
        /// A variable of a template.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum Var {
            $(#[doc = concat!("`$", $name, "`: ", $doc)] $variant,)*
            /// `$http_NAME`: the request header field, lower case with dashes; several are joined by `, `.
            Http(Box<str>),
            /// `$sent_http_NAME`: a field of the response as sent to the client, lower case with dashes.
            SentHttp(Box<str>),
            /// `$upstream_http_NAME`: a field of the server's response, lower case with dashes.
            UpstreamHttp(Box<str>),
            /// `$arg_NAME`: the query argument, lower case, compared without regard to case, not decoded.
            Arg(Box<str>),
            /// `$cookie_NAME`: the cookie, lower case, compared without regard to case.
            Cookie(Box<str>),
        }

        /// Every variable, in the order of the README; the families last.
        pub const VARIABLES: &[Variable] = &[
            $(Variable { name: $name, scope: Scope::$scope, doc: $doc },)*
            Variable { name: "http_NAME", scope: Scope::Request, doc: "Request header field NAME; `_` stands for `-`." },
            Variable { name: "arg_NAME", scope: Scope::Request, doc: "Argument NAME of the query string, not decoded." },
            Variable { name: "cookie_NAME", scope: Scope::Request, doc: "Cookie NAME." },
            Variable { name: "upstream_http_NAME", scope: Scope::Response, doc: "Field NAME of the server's response." },
            Variable { name: "sent_http_NAME", scope: Scope::Log, doc: "Field NAME of the response sent to the client." },
        ];

        impl Var {
            /// The variable of a name without families and aliases.
            fn plain(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// From when on the variable has its value.
            pub fn scope(&self) -> Scope {
                match self {
                    $(Self::$variant => Scope::$scope,)*
                    Self::Http(_) | Self::Arg(_) | Self::Cookie(_) => Scope::Request,
                    Self::UpstreamHttp(_) => Scope::Response,
                    Self::SentHttp(_) => Scope::Log,
                }
            }
        }
    };
}

variables! {
    Request  RemoteAddr "remote_addr" "Client's address, after X-Forwarded-For of trusted proxies."
    Request  RemotePort "remote_port" "Port of the connected peer."
    Request  RealipRemoteAddr "realip_remote_addr" "Address of the connected peer, whatever X-Forwarded-For or a PROXY header says."
    Request  ProxyProtocolAddr "proxy_protocol_addr" "Client's address in the PROXY header."
    Request  ProxyProtocolPort "proxy_protocol_port" "Client's port in the PROXY header."
    Request  ProxyProtocolServerAddr "proxy_protocol_server_addr" "Address in the PROXY header that the client connected to."
    Request  ProxyProtocolServerPort "proxy_protocol_server_port" "Port in the PROXY header that the client connected to."
    Request  SslPrereadServerName "ssl_preread_server_name" "Host that the client of a tls_passthrough listener wants (SNI)."
    Request  SslPrereadAlpnProtocols "ssl_preread_alpn_protocols" "Protocols that it offers inside (ALPN), joined by `,`."
    Request  SslPrereadProtocol "ssl_preread_protocol" "Highest version that it can speak: `TLSv1.3`, `TLSv1.2`, ..."
    Request  RemoteUser "remote_user" "User name of Basic authentication, as the client claims it."
    Request  ServerAddr "server_addr" "Our address that the client connected to."
    Request  ServerPort "server_port" "Our port that the client connected to."
    Request  Scheme "scheme" "`http` or `https`."
    Request  Https "https" "`on` inside TLS, else empty."
    Request  SslProtocol "ssl_protocol" "Version of TLS: `TLSv1.2`, `TLSv1.3`."
    Request  SslCipher "ssl_cipher" "Cipher, by OpenSSL's name."
    Request  SslServerName "ssl_server_name" "Host that the client asked for in the handshake."
    Request  SslSessionReused "ssl_session_reused" "`r` when a session was resumed, else `.`."
    Request  SslAlpnProtocol "ssl_alpn_protocol" "Protocol agreed on in the handshake."
    Request  SslClientVerify "ssl_client_verify" "`SUCCESS` with a certificate of the client, all of which are verified, else `NONE`."
    Request  SslClientSDn "ssl_client_s_dn" "Subject of the client's certificate: `CN=alice,O=Example`."
    Request  SslClientIDn "ssl_client_i_dn" "Issuer of the client's certificate."
    Request  SslClientSerial "ssl_client_serial" "Serial number of the client's certificate, hex digits."
    Request  SslClientFingerprint "ssl_client_fingerprint" "SHA-1 of the client's certificate, hex digits."
    Request  SslClientVStart "ssl_client_v_start" "From when on the client's certificate is valid: `Nov  1 00:00:00 2026 GMT`."
    Request  SslClientVEnd "ssl_client_v_end" "Until when the client's certificate is valid."
    Request  SslClientVRemain "ssl_client_v_remain" "Days until the client's certificate expires."
    Request  SslClientEscapedCert "ssl_client_escaped_cert" "The client's certificate, PEM, as in a URL."
    Request  Host "host" "Host of the request, lower case, without port."
    Request  Request "request" "Request line as received."
    Request  RequestMethod "request_method" "Method as received."
    Request  RequestUri "request_uri" "Path and query string as received."
    Request  Uri "uri" "Path, decoded and normalised; also `$document_uri`."
    Request  Args "args" "Query string without `?`; also `$query_string`."
    Request  IsArgs "is_args" "`?` when there is a query string, else empty."
    Request  ServerProtocol "server_protocol" "`HTTP/1.0`, `HTTP/1.1`, `HTTP/2.0`."
    Request  Http2 "http2" "`h2` for HTTP/2 over TLS, `h2c` for HTTP/2 without, else empty."
    Request  RequestId "request_id" "Id of the request: taken over from a trusted proxy, else 32 random hex digits."
    Request  Traceparent "traceparent" "W3C trace context that goes to the server."
    Request  ProxyAddXForwardedFor "proxy_add_x_forwarded_for" "X-Forwarded-For as received, and the peer's address."
    Request  Connection "connection" "Serial number of the client connection."
    Request  ConnectionRequests "connection_requests" "Number of this request on its connection, from 1."
    Request  Msec "msec" "Time now, Unix seconds with milliseconds."
    Request  TimeLocal "time_local" "Time now as in the common log format: `21/Nov/2026:11:22:33 +0000`."
    Request  TimeIso8601 "time_iso8601" "Time now: `2026-11-21T11:22:33+00:00`."
    Request  Hostname "hostname" "Name of the machine."
    Request  Node "node" "Name of this box in the configuration."
    Request  Pid "pid" "Process id of the proxy."
    Request  Listener "listener" "Name of the listener."
    Request  Site "site" "Name of the site; also `$server_name`."
    Request  Route "route" "Name of the route."
    Request  Pool "pool" "Name of the pool."
    Response Server "server" "Name of the server that was tried last."
    Response Tries "tries" "Number of servers tried."
    Response QueueTime "queue_time" "Seconds spent waiting for a free server."
    Response UpstreamAddr "upstream_addr" "Addresses of the servers tried, joined by `, `."
    Response UpstreamStatus "upstream_status" "Statuses of the servers tried, joined by `, `."
    Response UpstreamConnectTime "upstream_connect_time" "Seconds to connect, per server tried; 0.000 on a reused connection."
    Response UpstreamHeaderTime "upstream_header_time" "Seconds to the response head, per server tried."
    Response UpstreamLocalPort "upstream_local_port" "Our port towards the server that was tried last."
    Response Status "status" "Status of the response."
    Response RequestTime "request_time" "Seconds since the first byte of the request."
    Response Reason "reason" "Why the exchange failed, from a closed set; no value when it did not."
    Log      RequestLength "request_length" "Bytes of the request: line, header and body."
    Log      BytesSent "bytes_sent" "Bytes sent to the client."
    Log      BodyBytesSent "body_bytes_sent" "Bytes sent to the client without the response header."
    Log      UpstreamResponseTime "upstream_response_time" "Seconds to the end of the response, per server tried."
    Log      UpstreamBytesSent "upstream_bytes_sent" "Bytes sent to the servers tried."
    Log      UpstreamBytesReceived "upstream_bytes_received" "Bytes received from the servers tried."
}

/// Second names of nginx for the same thing.
const ALIASES: &[(&str, Var)] = &[("query_string", Var::Args), ("document_uri", Var::Uri), ("server_name", Var::Site)];

impl Var {
    /// The variable called `name` (without `$`); ASCII case does not matter, as in nginx.
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let alias = || ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, var)| var.clone());
        Self::plain(&name).or_else(alias).or_else(|| Self::family(&name))
    }

    fn family(name: &str) -> Option<Self> {
        let rest = |prefix: &str| name.strip_prefix(prefix).filter(|rest| !rest.is_empty());
        let field = |prefix: &str| rest(prefix).map(|name| name.replace('_', "-").into_boxed_str());
        field("http_")
            .map(Self::Http)
            .or_else(|| field("sent_http_").map(Self::SentHttp))
            .or_else(|| field("upstream_http_").map(Self::UpstreamHttp))
            .or_else(|| rest("arg_").map(|name| Self::Arg(name.into())))
            .or_else(|| rest("cookie_").map(|name| Self::Cookie(name.into())))
    }
}

pub(super) fn aliases() -> impl Iterator<Item = &'static str> {
    ALIASES.iter().map(|(alias, _)| *alias)
}

/// The known name nearest to `name`, of several the one of its length, when it is near enough to be what was meant.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let known = VARIABLES.iter().map(|variable| variable.name).chain(aliases());
    known
        .map(|known| (distance(name.as_bytes(), known.trim_end_matches("NAME").as_bytes()), known))
        .min_by_key(|(d, known)| (*d, known.len().abs_diff(name.len())))
        .filter(|(d, known)| *d <= 1 + known.len() / 4)
        .map(|(_, known)| known)
}

/// Levenshtein distance.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}
