//! `[pool.NAME.sticky]`.

use super::*;

table! {
    /// `[pool.NAME.sticky]`: a client stays with its server
    struct RawSticky with cookie: RawStickyCookie, learned: RawStickyLearned {
        /// What tells a client's server: "cookie": one that we set, in HTTP only; "source": the client's address;
        /// "header": a header of its requests, in HTTP only.
        r#type: StickyType,
    }
}

table! {
    /// Keys of `sticky` with `type = "cookie"`
    struct RawStickyCookie {
        /// Name of the cookie. Servers do not get to see it.
        cookie: String = "BASCULE",
        /// Signs the cookie: at least 16 bytes, the same on both boxes. Text, or { file }, { env } or { credential }.
        secret: Password,
        /// Path of the cookie.
        path: String = "/",
        /// Domain of the cookie. Default: the host of the request alone.
        domain: String,
        /// Scripts in pages do not see it.
        http_only: bool = true,
        /// It is sent over HTTPS only.
        secure: bool = false,
        /// "Lax", "Strict" or "None"; "off": the attribute is not sent.
        same_site: SameSite = "Lax",
        /// How long the client keeps it, from when it was set. Default: as long as the browser runs.
        max_age: Period,
    }
}

table! {
    /// Keys of `sticky` with `type = "source"` or `"header"`
    struct RawStickyLearned {
        /// "header": its name. A request without it goes where `algorithm` says.
        header: String,
        /// "source": bits of the address that count.
        mask: RawStickyMask = {},
        /// Clients remembered; beyond, the one that was not seen for longest is forgotten.
        max_entries: Int<100, 10_000_000> = 100000,
        /// One that was not seen for so long is forgotten.
        ttl: Period = "30m",
    }
}

table! {
    /// `mask` of `sticky`
    struct RawStickyMask {
        /// Bits of an IPv4 address; 32: all.
        ipv4: Int<1, 32> = 32,
        /// Bits of an IPv6 address; 128: all.
        ipv6: Int<1, 128> = 128,
    }
}
