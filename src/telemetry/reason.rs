//! Why an exchange or a session ended other than well: a closed set, the `$reason` of access logs.

use std::fmt;

macro_rules! reasons {
    ($($variant:ident $name:literal $cause:literal $remedy:literal)*) => {
        /// Why an exchange or a session ended other than well.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $cause] $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of the README.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word in logs and metrics.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happened, one sentence.
            pub fn cause(self) -> &'static str {
                match self { $(Self::$variant => $cause,)* }
            }

            /// What the operator can do about it, one sentence.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

reasons! {
    ConnectRefused "connect_refused"
        "The server's machine answered, but nothing accepts connections on the port."
        "Start the service, or correct its address or port."
    ConnectTimeout "connect_timeout"
        "The server did not answer within `connect_timeout`."
        "Look for a firewall that drops packets, a machine that is down, or a full accept queue on the server."
    ConnectFailed "connect_failed"
        "The connection to the server could not be made: no route, unreachable, no permission."
        "Check the routes and firewalls between the two machines; the log on stderr has the system's error."
    ServerCertificate "server_certificate"
        "The server's certificate is not valid: out of date, revoked, for another name, or signed by nobody who is trusted."
        "`bascule errors` says which; renew it, or set `ca` or `server_name` in `tls` of the pool."
    ServerTls "server_tls"
        "TLS with the server failed."
        "`bascule errors` says how; see that the port speaks TLS, in a version of `profile`, and whether it asks for a certificate."
    PortsExhausted "ports_exhausted"
        "No local port was free for a connection to the server."
        "Raise `keepalive`, add `source_addresses` to the pool, or widen `net.ipv4.ip_local_port_range`."
    ResetBeforeHead "reset_before_head"
        "The server closed the connection before it sent a response head."
        "Look for a crash or a restart in the server's log; keep `keepalive_timeout` below the server's own."
    ReadTimeout "read_timeout"
        "The server sent nothing for `read_timeout`."
        "Find out what the server waits for, or raise `read_timeout` for slow routes."
    SendTimeout "send_timeout"
        "The server did not take more of the request for `send_timeout`."
        "See whether the server is overloaded or does not read request bodies."
    BadHead "bad_head"
        "What the server sent is not an HTTP response, or one whose length is ambiguous."
        "Check that the port speaks HTTP, in the `http_version` of the pool, and TLS only where the pool has `tls`."
    ResetInBody "reset_in_body"
        "The server closed the connection before the end of the response body."
        "Look for a crash, a restart or a limit in the server's log."
    BadBody "bad_body"
        "The chunked framing of the response body is broken."
        "The server or something before it corrupts responses; capture one and report it there."
    NoServer "no_server"
        "No server of the pool was available."
        "See `bascule status` for why each is down; nothing else helps until one is up."
    NoRole "no_role"
        "No server of the pool has the `role` that the route or the listener wants."
        "See `bascule status` for what each server is; a promotion ends it, or `fallback_role` names another role."
    RoleLost "role_lost"
        "The server was the primary and is not any more, and `on_role_loss` is \"close\"."
        "Nothing: the client asks again and reaches the new primary."
    QueueFull "queue_full"
        "All servers were at `max_conns`, and the pool's `queue` was full."
        "Add servers, or raise `max_conns` or `queue`."
    QueueTimeout "queue_timeout"
        "All servers stayed at `max_conns` for `queue_timeout`."
        "Add servers, or raise `max_conns` or `queue_timeout`."
    CircuitOpen "circuit_open"
        "Too many tries at the pool failed: its `circuit_breaker` is open, or half open with all trials taken."
        "See `bascule errors` for what failed before; it closes by itself once trials succeed."
    Overflow "overflow"
        "`max_connections`, `max_pending` or `max_requests` of the pool's `circuit_breaker` was reached."
        "See `bascule status` for which; raise it if the servers can take more, or add servers."
    ClientGone "client_gone"
        "The client closed or reset the connection before the end of the exchange."
        "Usually an impatient user or client timeout; when frequent, compare the times with the clients' limits."
    ClientTimeout "client_timeout"
        "The client did not send, or did not take, data within its limit."
        "Normal for broken networks; else raise `header_timeout`, `body_timeout` or `send_timeout` of the listener."
    ClientFlood "client_flood"
        "The client sent more HTTP/2 frames that do nothing, or undo a request, than `http2_max_glitches` allows."
        "A hostile client, or a broken one; raise the limit if it is a proxy that you know."
    BadRequest "bad_request"
        "The request is not valid HTTP."
        "A broken or hostile client, or TLS or PROXY protocol on a plain port; the log on stderr says which."
    PlainHttp "plain_http"
        "The client spoke plain HTTP to a port for TLS."
        "Send such clients to the port for plain HTTP, or to an https:// address."
    TlsBroken "tls_broken"
        "What the client sent is not TLS, or breaks its rules."
        "Mostly scanners; else look what else speaks to this port. The log on stderr says what was wrong at level debug."
    TlsMismatch "tls_mismatch"
        "The client and the listener have no version, cipher, kind of key or protocol in common."
        "Old clients need `profile` \"intermediate\" or a certificate with an RSA key; those before TLS 1.2 are out of date."
    TlsName "tls_name"
        "The client asked for a host that no certificate is for, and the listener has none for such."
        "Give the listener a certificate, or the site one; nothing if strangers are meant to be refused."
    TlsClientCertificate "tls_client_certificate"
        "The client's certificate is missing, not valid, or revoked."
        "Compare it with `client_ca` and `client_crl`; the log on stderr says what was wrong at level debug."
    TlsRefused "tls_refused"
        "The client broke the TLS handshake off: mostly it does not trust the certificate."
        "See that the file has the whole chain, is up to date and is for the host that clients use."
    TlsTimeout "tls_timeout"
        "The TLS handshake was not over within `handshake_timeout`; passed through, its beginning not within `header_timeout`."
        "Normal for broken networks and scanners; else raise `handshake_timeout` of the listener's `tls`, or `header_timeout`."
    Misdirected "misdirected"
        "The request is for a site that asks other certificates of clients than the one that the handshake was for."
        "Nothing: the client is told (421), and comes again with a connection of its own for that site."
    UriTooLong "uri_too_long"
        "The request target is longer than `max_uri_size`."
        "Raise `max_uri_size` of the listener if such requests are meant to be."
    HeadTooLarge "head_too_large"
        "The request head exceeds `max_header_size` or `max_header_count`."
        "Often a heap of cookies; raise the limit of the listener if such requests are meant to be."
    BodyTooLarge "body_too_large"
        "The request body is larger than `max_body_size`."
        "Raise `max_body_size` of the route, site or pool if such uploads are meant to be."
    ProxyHeader "proxy_header"
        "The connection does not begin with a PROXY header though `proxy_protocol` wants one, or with a malformed one."
        "Turn it on in the balancer in front, or `proxy_protocol` off; the log on stderr says what is wrong with the header."
    NoRoute "no_route"
        "No site has the host, no route of the site has the path, or no `tls_route` the name and the protocols."
        "Add a route, or a site without `hosts` for the rest, or a `pool` of the listener; `bascule explain URL` shows what was looked at."
    NoChallenge "no_challenge"
        "`acme_challenge_dir` has no such file, or one that is not sent."
        "Let the ACME client run on the box that is asked, with this folder as its webroot; the debug log says what is wrong with the file."
    Denied "denied"
        "`allow` and `deny` do not let the client in."
        "Nothing if that is meant; `bascule explain --client ADDRESS URL` shows which network decides."
    RateLimited "rate_limited"
        "The client came more often than `rate` and `burst` of a limit allow."
        "Nothing if that is meant; else raise them. `bascule status` shows which limit it was."
    TooManyConcurrent "too_many_concurrent"
        "The client had `concurrent` of a limit in flight already, or its table was full of such."
        "Nothing if that is meant; else raise `concurrent`, or `max_keys`. `bascule status` shows which limit it was."
    RouteClosed "route_closed"
        "The route's action is `close`."
        "Nothing: this is what the configuration says."
    Limit "limit"
        "`max_connections`, or the system's limit of open files or memory, was reached."
        "Raise `max_connections` and the limit of open files, or find who holds the connections."
    IdleTimeout "idle_timeout"
        "No byte passed in either direction for `idle_timeout` or `tunnel_timeout`."
        "Let one side send keep-alives, or raise the limit."
    Shutdown "shutdown"
        "The proxy was stopped, and the exchange did not end within `shutdown_timeout`."
        "Raise `shutdown_timeout` if exchanges are meant to last longer."
    DrainTimeout "drain_timeout"
        "A reload removed its server or its listener, and the exchange did not end within `drain_timeout`."
        "Raise `drain_timeout` if exchanges are meant to last longer."
    InternalError "internal_error"
        "A defect of Bascule ended this exchange, and only this one."
        "The log on stderr has the place; please report it."
}

impl Reason {
    /// Whether the client, not a server, ended it.
    pub fn is_of_client(self) -> bool {
        matches!(self, Self::ClientGone | Self::ClientTimeout | Self::ClientFlood)
    }

    /// Whether the configuration refuses such clients. Those are counted and logged, and not kept as failures: a flood of
    /// them would drive out what went wrong.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::Denied | Self::RateLimited | Self::TooManyConcurrent)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_snake_case_and_unique() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert!(names.iter().all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn every_reason_has_sentences_for_cause_and_remedy() {
        for reason in Reason::ALL {
            for text in [reason.cause(), reason.remedy()] {
                assert!(text.ends_with('.') && !text.contains('\n') && text.len() > 20, "{reason}: {text}");
            }
        }
    }
}
