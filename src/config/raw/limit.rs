//! `[limit.NAME]`, and who comes in.

use super::*;

table! {
    /// `[limit.NAME]`
    struct RawLimit {
        /// What is counted by itself: each client, each API key; variables of a request. Where it is empty there is no
        /// limit. For tcp listeners only "$remote_addr".
        key: String = "$remote_addr",
        /// With "$remote_addr": leading bits of an IPv4 address that count as one client.
        prefix_ipv4: Int<1, 32> = 32,
        /// With "$remote_addr": leading bits of an IPv6 address that count as one client.
        prefix_ipv6: Int<1, 128> = 64,
        /// How often for each key: "10/s", "600/m" or "1000/h", evenly spread. One of rate and concurrent, or both.
        rate: RateText,
        /// Requests of a key that may come earlier than that; each is paid back at the rate.
        burst: Int<0, 1_000_000> = 0,
        /// Which of the burst wait until their turn comes: "none" (nginx's `nodelay`), "all" (nginx without it), or all
        /// but the first N (`delay=N`). Not for tcp listeners.
        delay: Delay = "none",
        /// At a time for each key: requests, those that wait too, or on tcp listeners connections.
        concurrent: Connections,
        /// Of the answer to a request that is refused.
        status: Int<400, 599> = 429,
        /// Only count what would be refused or delayed.
        dry_run: bool = false,
        /// Keys that are remembered, 60 to 110 bytes each; one that comes then takes the place of the longest unused.
        max_keys: Int<1, 10_000_000> = 100000,
    }
}

table! {
    /// Keys of listeners, sites and routes: who comes in
    struct RawAdmission {
        /// Names of [limit.NAME], all of which hold. A route's replace its site's; its listener's hold as well, and first.
        limits: List<String> = [],
        /// Networks whose clients come in; unless it is [], no others do. Of the networks in `allow` and `deny` that have
        /// the address, the longest decides, and `deny` between the same. Others get 403; at a listener, where the peer's
        /// own address counts, they are closed at accept. A route that has either key has none of its site's.
        allow: List<Cidr> = [],
        /// Networks whose clients do not come in.
        deny: List<Cidr> = [],
    }
}
