//! `[listener.NAME.tls]` and `[site.NAME.tls]`.

use super::*;

table! {
    /// `[listener.NAME.tls]`: clients speak TLS
    struct RawTls with client: RawClientAuth {
        /// A file with a certificate, those that signed it and its key; a folder of such files; or a table. For one name
        /// there may be one of each kind of key. The first is for clients that ask for a name that none is for, or for none.
        /// []: only sites have some, and such a client is refused.
        certificates: List<Certificate> = [],
        /// "intermediate": TLS 1.2 and 1.3; "modern": TLS 1.3 only. Both as Mozilla has them: forward secrecy and
        /// authenticated encryption always.
        profile: TlsProfile = "intermediate",
        /// What may be spoken inside, the best first. Default: for http ["h2", "http/1.1"], with http2 = false
        /// ["http/1.1"]; for tcp []: ALPN is not spoken.
        alpn: List<String>,
        /// Clients can resume a session.
        session_tickets: bool = true,
        /// Keys for that, to be the same on both boxes: a file of 48 or 80 random bytes as nginx's ssl_session_ticket_key, or
        /// of such keys in base64, one a line. A list: the first key seals, all of them open. []: keys of our own, which
        /// change every 6 hours and go to successors, but not to the other box.
        ticket_key_file: Several<String> = [],
        /// From accept to the end of the handshake.
        handshake_timeout: Period = "10s",
    }
}

table! {
    /// `[site.NAME.tls]`: what is other than in the listener, for clients that ask for a host of the site
    struct RawSiteTls with client: RawClientAuth {
        /// As in the listener; these are used whatever names are in them. []: those of the listener.
        certificates: List<Certificate> = [],
    }
}

table! {
    /// Keys of `tls` for certificates of clients
    struct RawClientAuth {
        /// "off": clients are not asked for a certificate; "optional": they are, and one that comes must be valid;
        /// "required": nobody gets in without one. Default "off"; in a site, as in the listener.
        client_auth: ClientAuthMode,
        /// A file with the certificates of those who sign certificates of clients.
        client_ca: String,
        /// Files with lists of certificates that were revoked. If there are any, each authority of a chain needs one that is
        /// up to date.
        client_crl: Several<String>,
    }
}

table! {
    /// `[pool.NAME.tls]`: servers speak TLS; true is a table in which nothing is said
    struct RawPoolTls {
        /// Servers must show a certificate that is valid, signed by an authority that is trusted, and for the name that is
        /// expected. false: any will do, as with nginx unless proxy_ssl_verify is on; whoever is in between can read all.
        verify: bool = true,
        /// The name that servers are asked for (SNI) and that their certificates must be for. Default: the host of each
        /// server's address as written; an address is not asked for, but the certificate must be for it.
        server_name: String,
        /// A file with the certificates of the authorities that are trusted. Default: those of the system.
        ca: String,
        /// Files with lists of certificates that were revoked. If there are any, each authority of a chain needs one that is
        /// up to date.
        crl: Several<String> = [],
        /// A file with the certificate that is shown to servers that ask for one, those that signed it, and its key.
        client_certificate: String,
        /// A file with its private key; it need not be readable for the proxy's user. Default: in `client_certificate`, else
        /// a file of the same name that ends in .key.
        client_key: String,
        /// "intermediate": TLS 1.2 and 1.3; "modern": TLS 1.3 only.
        profile: TlsProfile = "intermediate",
        /// Protocols to ask for (ALPN), the best first. Default: ["h2"] with http_version = "2", else none, as nginx.
        alpn: List<String>,
    }
}

table! {
    /// One of `certificates`
    struct RawCertificate {
        /// A file with a certificate and those that signed it, or a folder; as the short form.
        cert: String,
        /// A file with its private key; it need not be readable for the proxy's user. Default: in `cert`, else a file of the
        /// same name that ends in .key.
        key: String,
        /// A file with an OCSP response to staple, DER. Default: a file of the same name that ends in .ocsp, if there is one.
        ocsp: String,
        /// Clients that ask for a name that none is for get this one. Default: the first.
        default: bool = false,
    }
}
