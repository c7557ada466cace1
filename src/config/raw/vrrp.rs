//! The tables of `[vrrp.NAME]`.

use std::net::IpAddr;
use std::sync::LazyLock;

use crate::config::decode::{self, At, Decode, Field, Int, Key, Keys, List, OrOff, Shape, table};
use crate::config::diagnostic::Problems;
use crate::config::document::{Item, Place, Table};
use crate::config::model::{Arbiter, Preempt};
use crate::config::value::Period;
use crate::config::words::{
    AddressText, AuthenticationType, Password, Peers, TrackInterface, TrackMode, VirtualAddressText, Weight,
};
use crate::vrrp::Checksum;

table! {
    /// `[vrrp.NAME]`
    struct RawVrrp {
        /// Where advertisements are sent and heard, and where the addresses are put.
        interface: String,
        /// The same on every box, and of no other virtual router on this link.
        virtual_router_id: Int<1, 255>,
        /// The same on every box. No default: keepalived's is 2 for IPv4, 3 for IPv6.
        version: Int<2, 3>,
        /// Only with version 2; the same on every box. Keeps mistakes away, not attackers: it is sent in clear.
        authentication: RawAuthentication,
        /// The highest of the boxes holds the addresses; each has its own. 255: the box whose own addresses they are.
        priority: Int<1, 255> = 100,
        /// A peer is dead after three of them without a word. Version 2: whole seconds to 255s; version 3: steps of
        /// 10ms to 40950ms. The same on every box.
        advert_interval: Period = "1s",
        /// What moves: "192.0.2.100/24", or { address, interface, label }; without a prefix a /32 or /128. Of one
        /// family; the same on every box.
        virtual_addresses: List<VirtualAddressText>,
        /// More that moves, not named in advertisements: of the other family, or beyond what fits.
        excluded_addresses: List<VirtualAddressText> = [],
        /// Addresses of the other boxes, or "nodes": the `address` of every other [node.NAME]. []: multicast.
        unicast_peers: Peers = [],
        /// Source of advertisements. Default: the interface's own address.
        unicast_source: IpAddr,
        /// With unicast_peers: drop what others than these send.
        check_source: bool = true,
        /// With unicast_peers: drop what came through a router, that is with a TTL below 255.
        check_ttl: bool = true,
        /// What the checksum of version 3 over IPv4 covers when sent: "pseudo_header", as keepalived and FRR, or
        /// "rfc9568", the message alone. Both are accepted.
        v3_checksum: Checksum = "pseudo_header",
        /// Whether a lower priority is taken over from: "when_ready", once this box serves and has passed its first
        /// health checks; "immediate", as keepalived; "never", as keepalived's `nopreempt`.
        preempt: Preempt = "when_ready",
        /// How long it must have been ready before it does; with preempt = "immediate" only when written.
        preempt_delay: OrOff<Period> = "10s",
        /// How long nothing is claimed after a start, for switches that forward late.
        startup_delay: OrOff<Period> = "off",
        /// How the network is told where the addresses are.
        announce: RawAnnounce = {},
        /// How long the proxy may be away before the addresses are offered to a peer.
        proxy_grace: Period = "500ms",
        /// How long a planned handover lets requests finish first.
        handover_drain: OrOff<Period> = "5s",
        /// How long what is in flight is still answered once a peer has taken over.
        handover_linger: OrOff<Period> = "200ms",
        /// Names of pools; without a server that is up, the addresses are offered to a peer.
        track_pools: List<String> = [],
        /// "all": when each of track_pools is without; "any": when one of them is.
        track_mode: TrackMode = "all",
        /// Other interfaces that must be up: "eth1", or { name, weight }.
        track_interfaces: List<TrackInterface> = [],
        /// Files with a number: { path, weight }.
        track_files: List<RawTrackFile> = [],
        /// Commands that must succeed: { command, interval, timeout, rise, fall, weight }.
        track_scripts: List<RawTrackScript> = [],
        /// Virtual routers that name the same group move together.
        sync_group: String,
        /// Hosts of this network of which one must answer ARP or neighbour discovery before a silent peer is believed dead:
        /// addresses, or "gateway" for the default gateway. []: it is believed.
        arbitrate: List<Arbiter> = [],
        /// A program with its whole path and arguments, run as script_user after each change of state, one at a time;
        /// keepalived's arguments are added. []: none.
        notify: List<String> = [],
        /// "http://host:port/path" that each change of state is posted to, as JSON: router, state, keepalived_state, why,
        /// priority, configured_priority, node, time.
        webhook: String,
    }
}

table! {
    /// `authentication` of a virtual router
    struct RawAuthentication {
        /// "pass": a password in clear.
        r#type: AuthenticationType = "pass",
        /// A string, or { file | env | credential = "..." }. Only its first 8 bytes count.
        password: Password,
    }
}

table! {
    /// One of `virtual_addresses` and `excluded_addresses` of a virtual router
    struct RawVirtualAddress {
        /// "192.0.2.100/24"; without a prefix a /32 or /128.
        address: AddressText,
        /// Where it is put. Default: the virtual router's.
        interface: String,
        /// "eth0:vip", for ifconfig; IPv4 only.
        label: String,
    }
}

table! {
    /// `announce` of a virtual router: gratuitous ARP, for IPv6 unsolicited neighbour advertisements
    struct RawAnnounce {
        /// For each address in a row.
        burst: Int<1, 100> = 5,
        /// Again, so long after the addresses were taken.
        repeat: List<Period> = ["1s", "5s"],
        /// One again and again while they are held.
        refresh: OrOff<Period> = "60s",
        /// Least time between two, for switches that limit ARP.
        interval: OrOff<Period> = "off",
    }
}

table! {
    /// One of `track_interfaces` of a virtual router
    struct RawTrackInterface {
        /// Of the interface.
        name: String,
        /// Added to the priority while it is up, or, negative, while it is down; -253 to 253. Without: this box must
        /// not hold the addresses while it is down.
        weight: Weight,
    }
}

table! {
    /// One of `track_files` of a virtual router
    struct RawTrackFile {
        /// A file with its whole path, read every second.
        path: String,
        /// The number in the file times this is added to the priority; -253 to 253. Without: this box must not hold the
        /// addresses while the number is not 0.
        weight: Weight,
    }
}

table! {
    /// One of `track_scripts` of a virtual router
    struct RawTrackScript {
        /// A program with its whole path and its arguments; no shell. Status 0 is success.
        command: List<String>,
        /// From one start to the next; never two at a time.
        interval: Period = "1s",
        /// Then it is killed, and has failed. Default: the interval.
        timeout: Period,
        /// Successes in a row that make it good.
        rise: Int<1, 1000> = 1,
        /// Failures in a row that make it bad.
        fall: Int<1, 1000> = 1,
        /// Added to the priority while it is good, or, negative, while it is bad; -253 to 253. Without: this box must
        /// not hold the addresses while it is bad.
        weight: Weight,
    }
}
