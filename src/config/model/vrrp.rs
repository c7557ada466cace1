//! `[vrrp.*]`: keepalived's `vrrp_instance`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::vrrp::{Checksum, Family, Interval, Password, Priority, Version, Vrid};

/// `[vrrp.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualRouter {
    /// The table's name.
    pub name: Arc<str>,
    /// Where advertisements are sent and heard.
    pub interface: Arc<str>,
    /// `virtual_router_id`.
    pub vrid: Vrid,
    /// 2 or 3.
    pub version: Version,
    /// Of `addresses`.
    pub family: Family,
    /// Version 2 with `authentication = { type = "pass" }`.
    pub password: Option<Password>,
    /// 1 to 255; 255: the owner.
    pub priority: Priority,
    /// Time between advertisements.
    pub advert_interval: Interval,
    /// What version 3 over IPv4 sends; both are accepted.
    pub v3_checksum: Checksum,
    /// `virtual_addresses`: advertised, one at least, of one family.
    pub addresses: Vec<VirtualAddress>,
    /// `excluded_addresses`: move with the others, are not advertised; any family.
    pub excluded: Vec<VirtualAddress>,
    /// Empty: multicast. May hold an address of this box, which is ignored.
    pub unicast_peers: Vec<IpAddr>,
    /// Source of advertisements; `None`: the interface's own address.
    pub source: Option<IpAddr>,
    /// Unicast: adverts of others than `unicast_peers` are dropped.
    pub check_source: bool,
    /// Unicast: adverts that came through a router (TTL below 255) are dropped.
    pub check_ttl: bool,
    /// When a lower priority is taken over from.
    pub preempt: Preempt,
    /// How long this box must have been ready before it preempts; zero: at once.
    pub preempt_delay: Duration,
    /// After a start nothing is claimed for so long; zero: no delay.
    pub startup_delay: Duration,
    /// Gratuitous ARP and unsolicited neighbour advertisements.
    pub announce: Announce,
    /// How long the proxy may be away before the address is offered to the peer.
    pub proxy_grace: Duration,
    /// A planned handover lets requests finish for so long first; zero: not.
    pub handover_drain: Duration,
    /// After a handover what is in flight is answered for so long; zero: not.
    pub handover_linger: Duration,
    /// Pools whose servers are looked at.
    pub track_pools: Option<TrackedPools>,
    /// Other interfaces.
    pub track_interfaces: Vec<TrackedInterface>,
    /// Files with a number.
    pub track_files: Vec<TrackedFile>,
    /// Commands.
    pub track_scripts: Vec<Arc<TrackedScript>>,
    /// Routers of the same group move together.
    pub sync_group: Option<Arc<str>>,
    /// Hosts of which one must answer before silence of the peer is believed; empty: it is believed.
    pub arbitrate: Vec<Arbiter>,
    /// Run after each change of state.
    pub notify: Option<Command>,
    /// URL that each change of state is posted to.
    pub webhook: Option<Arc<str>>,
}

impl VirtualRouter {
    /// Everything that moves: `addresses`, then `excluded`.
    pub fn all_addresses(&self) -> impl Iterator<Item = &VirtualAddress> {
        self.addresses.iter().chain(&self.excluded)
    }
}

/// One of `virtual_addresses` or `excluded_addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualAddress {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network; without any in the file, all (as keepalived).
    pub prefix: u8,
    /// Where it is put.
    pub interface: Arc<str>,
    /// `eth0:vip` for ifconfig and old scripts; IPv4.
    pub label: Option<Arc<str>>,
}

/// `preempt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preempt {
    /// keepalived's `nopreempt`.
    Never,
    /// Once this box serves, has passed its first health checks, and `preempt_delay` is over.
    WhenReady,
    /// keepalived's default; `preempt_delay` still counts.
    Immediate,
}

/// One of `arbitrate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arbiter {
    /// The default gateway by the router's interface, as the routing table has it at that moment.
    Gateway,
    /// This host, on the router's network.
    Host(IpAddr),
}

/// `announce`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce {
    /// Frames for each address in a row (keepalived: `garp_master_repeat`).
    pub burst: u32,
    /// Bursts again, each so long after the address was taken, ascending.
    pub repeat: Vec<Duration>,
    /// One frame again and again while the address is held; zero: never (keepalived: `garp_master_refresh`).
    pub refresh: Duration,
    /// Least time between two frames, for switches that limit ARP; zero: none (keepalived: `vrrp_garp_interval`).
    pub interval: Duration,
}

/// `track_pools` and `track_mode`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedPools {
    /// Names that exist.
    pub pools: Vec<Arc<str>>,
    /// `track_mode = "any"`: unhealthy when any of them has no server; else when all have none.
    pub any: bool,
}

/// What a tracked thing costs while it fails: so much of the priority, or, `None`, the right to hold the address at all.
pub type Weight = Option<i16>;

/// One of `track_interfaces`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedInterface {
    /// Its name.
    pub name: Arc<str>,
    /// Added to the priority while it is up (positive), or while it is down (negative).
    pub weight: Weight,
}

/// One of `track_files`: the number in it, times `weight`, is added to the priority (keepalived's `track_file`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedFile {
    /// Read every second.
    pub path: PathBuf,
    /// `None`: any number but 0 means that this box must not hold the address.
    pub weight: Weight,
}

/// One of `track_scripts` (keepalived's `vrrp_script`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedScript {
    /// Exit status 0 is success.
    pub command: Command,
    /// From one start to the next; a run that is not over is waited for.
    pub interval: Duration,
    /// Then it is killed, and has failed.
    pub timeout: Duration,
    /// Successes in a row that make it good.
    pub rise: u32,
    /// Failures in a row that make it bad.
    pub fall: u32,
    /// Added to the priority while it is good (positive), or while it is bad (negative).
    pub weight: Weight,
}

/// A program and its arguments; no shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Whole path.
    pub program: PathBuf,
    /// The rest.
    pub arguments: Vec<String>,
}
