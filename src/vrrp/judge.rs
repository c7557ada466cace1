//! What an advertisement means to one virtual router: a peer's word, a sign of life, or nothing.
//!
//! RFC 9568 section 7.1 throws away whatever differs, which makes two masters of two routers that are configured a little
//! differently. Here a difference is thrown away only when it may be somebody else; what shows that the peer lives keeps a
//! backup from taking the address. Every verdict but a peer's plain word has a counter.

use std::net::IpAddr;

use super::packet::{Advert, Authentication, Envelope, Malformed, TTL};
use super::types::{Checksum, Interval, Password, Priority, Version, Vrid};

/// What a virtual router expects of its peers.
#[derive(Debug, Clone)]
pub struct Expectations {
    /// The virtual router.
    pub vrid: Vrid,
    /// Its version.
    pub version: Version,
    /// Version 2: the password.
    pub password: Option<Password>,
    /// Version 2: that of every peer.
    pub interval: Interval,
    /// What is advertised, by us and by them.
    pub addresses: Vec<IpAddr>,
    /// Empty: multicast.
    pub peers: Vec<IpAddr>,
    /// Unicast: nobody but `peers` is believed.
    pub check_source: bool,
    /// Unicast: nothing that came through a router is believed.
    pub check_ttl: bool,
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A peer, heard and understood.
    Peer(Said),
    /// A peer whose configuration is not ours: it lives, and that is all.
    Alive(Mismatch, Said),
    /// To be ignored, and counted.
    Drop(Reason),
}

/// What a peer said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// Who.
    pub source: IpAddr,
    /// With which priority.
    pub priority: Priority,
    /// Until it speaks again.
    pub interval: Interval,
    /// Whether its list of addresses is ours, in any order.
    pub same_addresses: bool,
    /// Which checksum it uses; `None` where there is only one.
    pub checksum: Option<Checksum>,
}

/// How a live peer's configuration differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mismatch {
    /// The other version.
    Version,
    /// Version 2: another interval.
    Interval,
    /// Multicast here and unicast there.
    Cast,
    /// Version 2: another password, or one where there should be none.
    Authentication,
}

/// Why an advertisement is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No advertisement.
    Malformed(Malformed),
    /// It came through a router, or somebody wants us to believe it is near.
    Ttl,
    /// A virtual router that is not configured here.
    UnknownVrid,
    /// Our own address as its source: a loop in the network, or a box with the same address.
    OwnAddress,
    /// Not one of `unicast_peers`.
    Source,
    /// Our vrid with addresses of which none is ours: another cluster.
    ForeignCluster,
}

/// Number of [`Reason::index`]es.
pub const REASONS: usize = 14;

/// Names of the counters, by [`Reason::index`].
pub const REASON_NAMES: [&str; REASONS] = [
    "too_short",
    "version",
    "type",
    "vrid_zero",
    "length",
    "no_addresses",
    "no_interval",
    "authentication_type",
    "checksum",
    "ttl",
    "unknown_vrid",
    "own_address",
    "source",
    "foreign_cluster",
];

impl Reason {
    /// Its place in a table of counters.
    pub fn index(self) -> usize {
        match self {
            Self::Malformed(Malformed::TooShort) => 0,
            Self::Malformed(Malformed::Version(_)) => 1,
            Self::Malformed(Malformed::Type(_)) => 2,
            Self::Malformed(Malformed::Vrid) => 3,
            Self::Malformed(Malformed::Length) => 4,
            Self::Malformed(Malformed::NoAddresses) => 5,
            Self::Malformed(Malformed::NoInterval) => 6,
            Self::Malformed(Malformed::AuthenticationType(_)) => 7,
            Self::Malformed(Malformed::Checksum) => 8,
            Self::Ttl => 9,
            Self::UnknownVrid => 10,
            Self::OwnAddress => 11,
            Self::Source => 12,
            Self::ForeignCluster => 13,
        }
    }

    /// Its name in status.
    pub fn name(self) -> &'static str {
        REASON_NAMES.get(self.index()).copied().unwrap_or("other")
    }
}

impl Mismatch {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Version, Self::Interval, Self::Cast, Self::Authentication];

    /// Its name in status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Version => "version_mismatch",
            Self::Interval => "interval_mismatch",
            Self::Cast => "cast_mismatch",
            Self::Authentication => "authentication_mismatch",
        }
    }
}

/// Judges an advertisement with the vrid of `expected`; `own` is the source of our own ones.
pub fn judge(
    expected: &Expectations,
    own: Option<IpAddr>,
    envelope: &Envelope,
    advert: &Advert,
    checksum: Checksum,
) -> Verdict {
    let unicast = !expected.peers.is_empty();
    if own == Some(envelope.source) {
        return Verdict::Drop(Reason::OwnAddress);
    }
    if !near_enough(expected, envelope) {
        return Verdict::Drop(Reason::Ttl);
    }
    if unicast && expected.check_source && !expected.peers.contains(&envelope.source) {
        return Verdict::Drop(Reason::Source);
    }
    let shared = advert.addresses.iter().filter(|address| expected.addresses.contains(address)).count();
    if shared == 0 {
        return Verdict::Drop(Reason::ForeignCluster);
    }
    let same = shared == advert.addresses.len() && advert.addresses.len() == expected.addresses.len();
    let told_apart = advert.version == Version::V3 && envelope.source.is_ipv4();
    let said = Said {
        source: envelope.source,
        priority: advert.priority,
        interval: advert.interval,
        same_addresses: same,
        checksum: told_apart.then_some(checksum),
    };
    match mismatch(expected, unicast, envelope, advert) {
        Some(mismatch) => Verdict::Alive(mismatch, said),
        None => Verdict::Peer(said),
    }
}

/// RFC 9568 7.1: TTL or hop limit 255, which no router lets through. Unicast over IPv6 is sent by keepalived with the
/// system's default of 64, so that is let pass where the source is known.
fn near_enough(expected: &Expectations, envelope: &Envelope) -> bool {
    const DEFAULT_HOP_LIMIT: u8 = 64;
    if envelope.is_multicast() {
        return envelope.ttl == TTL;
    }
    !expected.check_ttl || envelope.ttl == TTL || (envelope.source.is_ipv6() && envelope.ttl == DEFAULT_HOP_LIMIT)
}

fn mismatch(expected: &Expectations, unicast: bool, envelope: &Envelope, advert: &Advert) -> Option<Mismatch> {
    if advert.version != expected.version {
        return Some(Mismatch::Version);
    }
    if !is_authentic(expected.password, advert.authentication) {
        return Some(Mismatch::Authentication);
    }
    if envelope.is_multicast() == unicast {
        return Some(Mismatch::Cast);
    }
    // Version 3 learns the interval of its peers (RFC 9568 6.4.2); version 2 may not (RFC 3768 7.1).
    (expected.version == Version::V2 && advert.interval != expected.interval).then_some(Mismatch::Interval)
}

/// Takes the same time wherever the first difference is.
fn is_authentic(expected: Option<Password>, found: Authentication) -> bool {
    match (expected, found) {
        (None, Authentication::None) => true,
        (Some(Password(ours)), Authentication::Pass(Password(theirs))) => {
            ours.iter().zip(&theirs).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
        }
        (None, Authentication::Pass(_)) | (Some(_), Authentication::None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: &str = "192.0.2.12";
    const PEER: &str = "192.0.2.11";
    const GROUP: &str = "224.0.0.18";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn expected(version: Version) -> Expectations {
        Expectations {
            vrid: Vrid::new(51).unwrap(),
            version,
            password: None,
            interval: Interval::from_secs(1).unwrap(),
            addresses: vec![ip("192.0.2.100"), ip("192.0.2.101")],
            peers: Vec::new(),
            check_source: true,
            check_ttl: true,
        }
    }

    fn advert(version: Version) -> Advert {
        Advert {
            version,
            vrid: Vrid::new(51).unwrap(),
            priority: Priority(150),
            interval: Interval::from_secs(1).unwrap(),
            authentication: Authentication::None,
            addresses: vec![ip("192.0.2.101"), ip("192.0.2.100")],
        }
    }

    fn envelope(source: &str, destination: &str, ttl: u8) -> Envelope {
        Envelope { source: ip(source), destination: ip(destination), ttl }
    }

    fn of(expected: &Expectations, envelope: Envelope, advert: &Advert) -> Verdict {
        judge(expected, Some(ip(US)), &envelope, advert, Checksum::PseudoHeader)
    }

    fn multicast() -> Envelope {
        envelope(PEER, GROUP, 255)
    }

    #[test]
    fn the_same_addresses_in_any_order_are_a_peer_s() {
        let verdict = of(&expected(Version::V3), multicast(), &advert(Version::V3));
        assert!(matches!(verdict, Verdict::Peer(Said { same_addresses: true, .. })), "{verdict:?}");
    }

    #[test]
    fn a_list_that_shares_an_address_is_a_peer_s_that_differs() {
        for list in
            [&["192.0.2.100"][..], &["192.0.2.100", "192.0.2.101", "192.0.2.102"], &["192.0.2.101", "192.0.2.9"]]
        {
            let theirs = Advert { addresses: list.iter().map(|a| ip(a)).collect(), ..advert(Version::V3) };
            let verdict = of(&expected(Version::V3), multicast(), &theirs);
            assert!(matches!(verdict, Verdict::Peer(Said { same_addresses: false, .. })), "{verdict:?}");
        }
    }

    #[test]
    fn a_disjoint_list_is_another_cluster_s() {
        let theirs = Advert { addresses: vec![ip("192.0.2.200")], ..advert(Version::V3) };
        assert_eq!(of(&expected(Version::V3), multicast(), &theirs), Verdict::Drop(Reason::ForeignCluster));
    }

    #[test]
    fn our_own_address_is_a_loop() {
        let verdict = of(&expected(Version::V3), envelope(US, GROUP, 255), &advert(Version::V3));
        assert_eq!(verdict, Verdict::Drop(Reason::OwnAddress));
    }

    #[test]
    fn what_came_through_a_router_is_not_believed() {
        let (v3, advert) = (expected(Version::V3), advert(Version::V3));
        assert_eq!(of(&v3, envelope(PEER, GROUP, 254), &advert), Verdict::Drop(Reason::Ttl));
        let unicast = Expectations { peers: vec![ip(PEER)], ..v3 };
        assert_eq!(of(&unicast, envelope(PEER, US, 254), &advert), Verdict::Drop(Reason::Ttl));
        let lax = Expectations { check_ttl: false, ..unicast };
        assert!(matches!(of(&lax, envelope(PEER, US, 60), &advert), Verdict::Peer(_)));
        // What keepalived sends.
        let v6 = Advert { addresses: vec![ip("fe80::51")], ..advert };
        let unicast =
            Expectations { peers: vec![ip("2001:db8::2")], addresses: vec![ip("fe80::51")], ..expected(Version::V3) };
        assert!(matches!(of(&unicast, envelope("2001:db8::2", "2001:db8::1", 64), &v6), Verdict::Peer(_)));
        assert_eq!(of(&unicast, envelope("2001:db8::2", "2001:db8::1", 63), &v6), Verdict::Drop(Reason::Ttl));
    }

    #[test]
    fn a_stranger_is_not_believed_in_unicast() {
        let unicast = Expectations { peers: vec![ip(PEER)], ..expected(Version::V3) };
        let stranger = envelope("192.0.2.66", US, 255);
        assert_eq!(of(&unicast, stranger, &advert(Version::V3)), Verdict::Drop(Reason::Source));
        let lax = Expectations { check_source: false, ..unicast };
        assert!(matches!(of(&lax, stranger, &advert(Version::V3)), Verdict::Peer(_)));
    }

    #[test]
    fn a_peer_that_is_configured_otherwise_lives_all_the_same() {
        let alive = |expected: &Expectations, envelope, advert: &Advert| match of(expected, envelope, advert) {
            Verdict::Alive(mismatch, _) => mismatch,
            other => panic!("{other:?}"),
        };
        let (v2, v3) = (expected(Version::V2), expected(Version::V3));
        assert_eq!(alive(&v2, multicast(), &advert(Version::V3)), Mismatch::Version);
        assert_eq!(alive(&v3, multicast(), &advert(Version::V2)), Mismatch::Version);
        let slow = Advert { interval: Interval::from_secs(2).unwrap(), ..advert(Version::V2) };
        assert_eq!(alive(&v2, multicast(), &slow), Mismatch::Interval);
        let slow = Advert { version: Version::V3, ..slow };
        assert!(matches!(of(&v3, multicast(), &slow), Verdict::Peer(_)), "version 3 learns it");
        assert_eq!(alive(&v3, envelope(PEER, US, 255), &advert(Version::V3)), Mismatch::Cast);
        let unicast = Expectations { peers: vec![ip(PEER)], ..v3 };
        assert_eq!(alive(&unicast, multicast(), &advert(Version::V3)), Mismatch::Cast);
        let pass = |text| Advert { authentication: Authentication::Pass(Password::new(text)), ..advert(Version::V2) };
        assert_eq!(alive(&v2, multicast(), &pass("x")), Mismatch::Authentication);
        let secret = Expectations { password: Some(Password::new("secret12longer")), ..v2 };
        assert_eq!(alive(&secret, multicast(), &pass("secret13")), Mismatch::Authentication);
        assert_eq!(alive(&secret, multicast(), &advert(Version::V2)), Mismatch::Authentication);
        assert!(matches!(of(&secret, multicast(), &pass("secret12other")), Verdict::Peer(_)), "8 bytes count");
    }

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let malformed = [
            Malformed::TooShort,
            Malformed::Version(9),
            Malformed::Type(9),
            Malformed::Vrid,
            Malformed::Length,
            Malformed::NoAddresses,
            Malformed::NoInterval,
            Malformed::AuthenticationType(9),
            Malformed::Checksum,
        ];
        let others = [Reason::Ttl, Reason::UnknownVrid, Reason::OwnAddress, Reason::Source, Reason::ForeignCluster];
        let all: Vec<_> = malformed.map(Reason::Malformed).into_iter().chain(others).collect();
        let indices: Vec<_> = all.iter().map(|reason| reason.index()).collect();
        assert_eq!(indices, (0..REASONS).collect::<Vec<_>>());
    }
}
