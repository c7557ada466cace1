//! `[site.NAME]`, its routes, and how requests are forwarded.

use super::*;

table! {
    /// `[site.NAME]`
    struct RawSite with settings: RawSettings, admission: RawAdmission, https: RawHttps {
        /// "shop.example.com" or "*.example.com", without port. []: every host not named elsewhere.
        hosts: List<String> = [],
        /// Names of listeners. []: all http listeners.
        listeners: List<String> = [],
        /// Routes: an exact path wins, then a regular expression in file order, then the longest prefix.
        route: List<RawRoute> = [],
        /// false, or { path, format }.
        access_log: LogOverride,
        /// What is other than in the `tls` of its listeners.
        tls: RawSiteTls = {},
    }
}

table! {
    /// `[[site.NAME.route]]`
    struct RawRoute with settings: RawSettings, admission: RawAdmission, roles: RawRoles {
        /// For logs and status. Default: the path as written.
        name: String,
        /// A prefix that ends at a border of segments: "/api" takes /api and /api/x, not /apix. The path is compared
        /// decoded, without dot segments and double slashes. Without any of the four, every path.
        path: String,
        /// A prefix of any form, as nginx's `location /x`.
        path_prefix: String,
        /// Exactly this path, as nginx's `location = /x`.
        path_exact: String,
        /// A regular expression, found anywhere unless anchored, as nginx's `location ~`.
        path_regex: String,
        /// With path_prefix: regular expressions do not win over it, as nginx's `location ^~`.
        before_regex: bool = false,
        /// Only these methods. []: all.
        methods: List<String> = [],
        /// Request headers that must be there: NAME = "value", true for any value, or { regex = "..." }.
        headers: Named<HeaderCondition> = {},
        /// Forward to a server of this pool. One of pool, pools, redirect, respond, close.
        pool: String,
        /// Forward to one of several pools: the first whose conditions hold, else by weight.
        pools: List<RawShare>,
        /// With pools: what is hashed instead of casting lots, so that the same value comes to the same pool on both boxes;
        /// variables, such as "$remote_addr" or "$cookie_session". An empty value: by lot.
        split_key: String,
        /// Copies of its requests for a second pool, whose answers are thrown away, as nginx's `mirror`.
        mirror: RawMirror,
        /// Answer with a redirect: "https://$host$request_uri" (302), or { status, location }.
        redirect: Redirect,
        /// Answer with a fixed response.
        respond: RawRespond,
        /// true: close the connection without a word, nginx's 444.
        close: bool = false,
        /// Remove this prefix of the path before it is forwarded.
        strip_prefix: String,
        /// Replace what path or path_prefix matched by this before it is forwarded.
        replace_prefix: String,
        /// Replace the whole path by this before it is forwarded; variables.
        replace_path: String,
        /// false, or { path, format }.
        access_log: LogOverride,
    }
}

table! {
    /// `mirror` of a route
    struct RawMirror {
        /// The pool that gets the copies; or its fallback_pool, by the same rules as for requests.
        pool: String,
        /// Of so many requests, "1%" to "100%". Never of one with an Upgrade, or with a body that streams: see
        /// request_buffering.
        share: Percent = "100%",
        /// Copies on their way at a time, over all workers; of a request beyond that none is made.
        max_in_flight: Int<1, 1_000_000> = 100,
    }
}

table! {
    /// Keys of routes and listeners with a `pool`: which of its servers
    struct RawRoles {
        /// Only servers that are this: "primary", "replica" or "any". The pool's checks must be of a kind that knows.
        role: WantedRole = "any",
        /// Servers of this role when none of `role` can be used, such as "primary" for reads.
        fallback_role: WantedRole,
        /// With role = "primary": "close" cuts the sessions and requests on a server that is the primary no more, since
        /// they may be writes; "keep": they go on.
        on_role_loss: OnRoleLoss = "close",
    }
}

table! {
    /// One of `pools` of a route
    struct RawShare {
        /// Name of the pool.
        pool: String,
        /// Share of the requests that meet nobody's conditions. Default: 1; with conditions of its own 0.
        weight: Int<0, 1_000_000>,
        /// Requests with these headers, whatever the weight: conditions as `headers` of the route.
        headers: Named<HeaderCondition> = {},
        /// Requests with these cookies: conditions as headers, on the value of the cookie of the name.
        cookies: Named<HeaderCondition> = {},
    }
}

table! {
    /// `redirect` of a route
    struct RawRedirect {
        /// 301, 302, 303, 307 or 308.
        status: Int<301, 308> = 302,
        /// Where to; variables.
        location: String,
    }
}

table! {
    /// `respond` of a route
    struct RawRespond {
        /// 200 to 599.
        status: Int<200, 599> = 200,
        /// Variables.
        body: String = "",
        /// Content-Type.
        content_type: String = "text/plain; charset=utf-8",
    }
}

table! {
    /// A condition on a header
    struct RawHeaderRegex {
        /// Found anywhere in the value unless anchored.
        regex: String,
    }
}

table! {
    /// Keys of pools, sites and routes: how requests are forwarded. A route's win over its site's over its pool's.
    struct RawSettings {
        /// Host sent to the server; variables. Default: the client's.
        host: String,
        /// Changes to the request: `{ remove = ["A"], set = { B = "value" }, add = { C = "value" } }`, in this
        /// order; variables. Those of pool, site and route are all made.
        request_headers: RawHeaderEdits = {},
        /// Changes to the response, as request_headers.
        response_headers: RawHeaderEdits = {},
        /// Send X-Forwarded-For, -Proto and -Host. The client's own are replaced unless it is in trusted_proxies.
        x_forwarded: bool = true,
        /// Send Forwarded (RFC 7239).
        forwarded: bool = false,
        /// Send X-Request-Id: the one of a trusted proxy, else a new one.
        request_id: bool = true,
        /// Largest request body; above, 413. "off" or 0: no limit.
        max_body_size: OrOff<Size> = "1MiB",
        /// A body whose Content-Length is at most this is read before a server is taken, and can be sent again. Larger
        /// and chunked ones stream. "off" or 0: all stream at once. Memory per request; at most 64MiB.
        request_buffering: OrOff<Bytes<0, {64 * MIB}>> = "64KiB",
        /// How far the server is read ahead of a slow client; never delays a byte that the client can take. Memory per
        /// request; 4KiB to 64MiB.
        response_buffering: Bytes<{4 * KIB}, {64 * MIB}> = "64KiB",
        /// TCP connect to one server.
        connect_timeout: Period = "5s",
        /// Between two reads from the server; then 504. Not in tunnels and TCP sessions.
        read_timeout: Period = "60s",
        /// Between two writes to the server that made progress; then 504.
        send_timeout: Period = "60s",
        /// No byte in either direction of an upgraded connection (WebSocket) for this long ends it.
        tunnel_timeout: Period = "1h",
        /// Other servers tried after a failure.
        retries: Int<0, 100> = 2,
        /// What is tried again, and counts as a failure of the server: "connect", "reset", "invalid_header",
        /// "timeout", "http_403", "http_404", "http_429", "http_500", "http_502", "http_503", "http_504". 403 and 404
        /// never count.
        retry_on: List<RetryCondition> = ["connect", "reset", "invalid_header"],
        /// No new try starts this long after the first. "off": no bound.
        retry_timeout: OrOff<Period> = "off",
        /// Try POST, PATCH, LOCK and unknown methods again even when the request was sent already. Such a request may
        /// then be carried out twice.
        retry_non_idempotent: bool = false,
        /// Bodies of our own error responses: { "502" = "text" }, or { file, content_type }, or { body, content_type }.
        error_pages: Named<ErrorPage> = {},
    }
}

table! {
    /// `request_headers` and `response_headers`
    struct RawHeaderEdits {
        /// Names of fields to remove.
        remove: List<String> = [],
        /// Replaces all fields of the name; an empty value removes them. A value may be { file = "..." },
        /// { env = "..." } or { credential = "..." }: a secret, taken as it is and never shown.
        set: Named<HeaderValue> = {},
        /// Adds a field, or several for a list of values.
        add: Named<Several<HeaderValue>> = {},
    }
}

table! {
    /// An error page
    struct RawErrorPage {
        /// The text; taken as it is.
        body: String,
        /// Read when the configuration is loaded, at most 64KiB; relative to the main file.
        file: String,
        /// Content-Type. Default: by the file's ending, else text/html if the text starts with `<`, else text/plain.
        content_type: String,
    }
}
