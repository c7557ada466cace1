//! `redirect_https` and `hsts`.

use super::*;

table! {
    /// Keys of sites, and of listeners with `protocol = "http"`, whose sites do as they do
    struct RawHttps {
        /// Send plain requests to https: true (308, which keeps the method), the status 301, 302, 307 or 308, or
        /// { status, port }. Host, path and query stay. Not for what came by https to a proxy of trusted_proxies that says
        /// so in X-Forwarded-Proto, nor for acme_challenge_dir.
        redirect_https: RedirectHttps = false,
        /// Tell browsers to come by https only (Strict-Transport-Security, RFC 6797): true, or
        /// { max_age, include_subdomains, preload }. Sent over https only, once, in place of the server's own, with our
        /// own error responses too.
        hsts: StrictTransport = false,
    }
}

table! {
    /// `redirect_https` as a table
    struct RawRedirectHttps {
        /// 301, 302, 307 or 308.
        status: Int<301, 308> = 308,
        /// Where clients reach https.
        port: Int<1, 65_535> = 443,
    }
}

table! {
    /// `hsts` as a table
    struct RawHsts {
        /// How long browsers remember it. "off": they are to forget it.
        max_age: OrOff<Period> = "365d",
        /// For all names below the host, too.
        include_subdomains: bool = false,
        /// Browsers may have it built in, see hstspreload.org.
        preload: bool = false,
    }
}
