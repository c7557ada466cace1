use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::template::Template;

use super::*;

/// Servers with a switch and a load each.
#[derive(Debug, Clone)]
struct Fake(Vec<(bool, u32)>);

impl Members for Fake {
    fn is_eligible(&self, i: usize) -> bool {
        self.0[i].0
    }

    fn in_flight(&self, i: usize) -> u32 {
        self.0[i].1
    }
}

/// One tier and one worker.
struct Tier {
    balancer: Balancer,
    state: State,
    members: Fake,
}

impl Tier {
    fn new(algorithm: Algorithm, nodes: &[Node]) -> Self {
        let members = Fake(vec![(true, 0); nodes.len()]);
        Self { balancer: Balancer::build(&algorithm, nodes), state: State::new(nodes, 1), members }
    }

    fn pick(&mut self) -> Option<usize> {
        self.pick_key(b"")
    }

    fn pick_key(&mut self, key: &[u8]) -> Option<usize> {
        let flow = Flow { client: Ipv4Addr::LOCALHOST.into(), key };
        self.balancer.pick(&mut self.state, &self.members, flow)
    }

    fn pick_client(&mut self, client: IpAddr) -> Option<usize> {
        self.balancer.pick(&mut self.state, &self.members, Flow { client, key: b"" })
    }

    fn digits(&mut self, mut pick: impl FnMut(&mut Self, usize) -> Option<usize>, count: usize) -> String {
        (0..count).map(|i| pick(self, i).map_or("-".to_owned(), |server| server.to_string())).collect()
    }
}

/// 127.0.0.1:23101 and up, as in the recordings from nginx.
fn nodes(weights: &[u32]) -> Vec<Node> {
    let node = |(port, &weight): (u16, &u32)| Node {
        weight: NonZeroU32::new(weight).unwrap(),
        host: "127.0.0.1".into(),
        port,
        address: (Ipv4Addr::LOCALHOST, port).into(),
    };
    (23101..).zip(weights).map(node).collect()
}

fn hash(consistent: Consistent) -> Algorithm {
    Algorithm::Hash { key: Template::parse("$arg_k").unwrap(), consistent }
}

fn every_algorithm() -> [Algorithm; 9] {
    [
        Algorithm::RoundRobin,
        Algorithm::LeastConn,
        Algorithm::IpHash { mask: None },
        Algorithm::RandomTwo,
        hash(Consistent::None),
        hash(Consistent::Ketama),
        hash(Consistent::Maglev),
        hash(Consistent::Rendezvous),
        Algorithm::First,
    ]
}

/// The addresses that the recordings of `ip_hash` were made with.
fn recorded_client(i: usize) -> IpAddr {
    let octet = |n: usize| u8::try_from(n % 256).unwrap();
    if i < 30 {
        Ipv4Addr::new(octet(10 + i * 7 % 200), octet(i * 37), octet(i * 91), octet(i * 3)).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::try_from((i - 30) * 4099).unwrap()).into()
    }
}

#[test]
fn smooth_round_robin_spreads_the_heavy_server() {
    let mut tier = Tier::new(Algorithm::RoundRobin, &nodes(&[5, 1, 1]));
    assert_eq!(tier.digits(|t, _| t.pick(), 14), "00102000010200");
}

/// What nginx 1.22.1 chose, for key0 to key39 and for `recorded_client`. In the third row server 1 is down.
#[test]
fn choices_are_those_of_nginx() {
    let equal = ([1, 1, 1, 1, 1].as_slice(), None);
    let weighted = ([5, 1, 3].as_slice(), None);
    let down = ([2, 1, 3, 1].as_slice(), Some(1));
    let by_key = [
        (Consistent::None, equal, "2133121234244002343144141230410310104232"),
        (Consistent::None, weighted, "1200210200000002200020000120102000221100"),
        (Consistent::None, down, "0222022232022202303202202002020020222203"),
        (Consistent::Ketama, equal, "2140111432022014412201441424231140243300"),
        (Consistent::Ketama, weighted, "0102010220020010000201001221210000220220"),
        (Consistent::Ketama, down, "2032200330222022220202002322232200223222"),
    ];
    let tier = |algorithm, (weights, down): (&[u32], Option<usize>)| {
        let mut tier = Tier::new(algorithm, &nodes(weights));
        if let Some(down) = down {
            tier.members.0[down].0 = false;
        }
        tier
    };
    for (consistent, servers, recorded) in by_key {
        let mut tier = tier(hash(consistent), servers);
        let picked = tier.digits(|t, i| t.pick_key(format!("key{i}").as_bytes()), 40);
        assert_eq!(picked, recorded, "{consistent:?} {servers:?}");
    }
    let by_client = [
        (equal, "0004444004404400044430044433014011233400"),
        (weighted, "0022021200200021000220002002222002201200"),
        (down, "2320202020203220220232320223000022303220"),
    ];
    for (servers, recorded) in by_client {
        let mut tier = tier(Algorithm::IpHash { mask: None }, servers);
        assert_eq!(tier.digits(|t, i| t.pick_client(recorded_client(i)), 40), recorded, "{servers:?}");
    }
    let in_turn = [(equal, "01234012340123401234"), (weighted, "02010202002010202002"), (down, "20230220230220230220")];
    for (servers, recorded) in in_turn {
        assert_eq!(tier(Algorithm::RoundRobin, servers).digits(|t, _| t.pick(), 20), recorded, "{servers:?}");
    }
}

#[test]
fn a_failure_takes_weight_that_comes_back_pick_by_pick() {
    let mut tier = Tier::new(Algorithm::RoundRobin, &nodes(&[4, 4]));
    tier.state.on_failure(0, 2);
    tier.state.on_failure(0, 2);
    tier.state.on_failure(0, 2);
    assert_eq!(tier.digits(|t, _| t.pick(), 8), "11010101", "server 0 gains 0, 1, 2, 3, then 4");
}

#[test]
fn a_failure_takes_nothing_when_the_weight_is_below_max_fails_or_there_is_none() {
    let mut tier = Tier::new(Algorithm::RoundRobin, &nodes(&[1, 1]));
    tier.state.on_failure(0, 3);
    tier.state.on_failure(0, 0);
    assert_eq!(tier.digits(|t, _| t.pick(), 4), "0101");
}

#[test]
fn least_conn_weighs_the_load_and_goes_round_among_equals() {
    let mut tier = Tier::new(Algorithm::LeastConn, &nodes(&[1, 2, 1]));
    tier.members.0 = vec![(true, 2), (true, 3), (true, 2)];
    assert_eq!(tier.digits(|t, _| t.pick(), 3), "111", "3/2 is less than 2/1");
    tier.members.0 = vec![(true, 1), (true, 2), (true, 1)];
    assert_eq!(tier.digits(|t, _| t.pick(), 8), "10211021", "all tied: smooth round robin by weight");
    tier.members.0[1].0 = false;
    tier.members.0[0].1 = 9;
    assert_eq!(tier.digits(|t, _| t.pick(), 3), "222");
}

#[test]
fn random_two_takes_the_less_loaded_of_two() {
    let mut tier = Tier::new(Algorithm::RandomTwo, &nodes(&[1, 1]));
    tier.members.0 = vec![(true, 5), (true, 4)];
    assert_eq!(tier.digits(|t, _| t.pick(), 20), "1".repeat(20));
    let mut tier = Tier::new(Algorithm::RandomTwo, &nodes(&[1; 10]));
    tier.members.0[7].1 = 100;
    let picks: HashSet<usize> = (0..1000).filter_map(|_| tier.pick()).collect();
    assert_eq!(picks.len(), 9, "the most loaded never wins, all others do");
    assert!(!picks.contains(&7));
}

#[test]
fn first_takes_the_first_eligible() {
    let mut tier = Tier::new(Algorithm::First, &nodes(&[1, 9, 9]));
    assert_eq!(tier.digits(|t, _| t.pick(), 3), "000");
    tier.members.0[0].0 = false;
    assert_eq!(tier.digits(|t, _| t.pick(), 3), "111");
}

#[test]
fn ip_hash_mask_sets_what_belongs_together() {
    let ips = |mask, clients: &[&str]| {
        let mut tier = Tier::new(Algorithm::IpHash { mask }, &nodes(&[1; 100]));
        clients.iter().map(|ip| tier.pick_client(ip.parse().unwrap())).collect::<HashSet<_>>().len()
    };
    assert_eq!(ips(None, &["10.1.2.3", "10.1.2.250", "::ffff:10.1.2.7"]), 1);
    assert_eq!(ips(Some((32, 128)), &["10.1.2.3", "10.1.2.4"]), 2);
    assert_eq!(ips(Some((20, 128)), &["10.1.16.3", "10.1.31.4"]), 1);
    assert_eq!(ips(Some((20, 128)), &["10.1.16.3", "10.1.32.3"]), 2);
    assert_eq!(ips(Some((0, 0)), &["10.1.16.3", "192.0.2.1", "2001:db8::1"]), 1);
    assert_eq!(ips(Some((24, 64)), &["2001:db8::1", "2001:db8::2:1"]), 1);
    assert_eq!(ips(None, &["2001:db8::1", "2001:db8::2"]), 2);
}

#[test]
fn an_empty_key_goes_round() {
    for consistent in [Consistent::None, Consistent::Ketama, Consistent::Maglev, Consistent::Rendezvous] {
        assert_eq!(Tier::new(hash(consistent), &nodes(&[1, 1])).digits(|t, _| t.pick(), 4), "0101");
    }
}

#[test]
fn ketama_keeps_affinity_among_the_addresses_of_one_name() {
    let node = |last: u8| Node {
        weight: NonZeroU32::MIN,
        host: "app.example".into(),
        port: 80,
        address: (Ipv4Addr::new(192, 0, 2, last), 80).into(),
    };
    let mut tier = Tier::new(hash(Consistent::Ketama), &[node(1), node(2), node(3)]);
    let all =
        |tier: &mut Tier| -> Vec<usize> { (0..300).map(|i: u32| tier.pick_key(&i.to_le_bytes()).unwrap()).collect() };
    let before = all(&mut tier);
    assert_eq!(all(&mut tier), before);
    for server in 0..3 {
        let share = before.iter().filter(|&&s| s == server).count();
        assert!((60..140).contains(&share), "{server}: {share} of 300");
    }
    tier.members.0[1].0 = false;
    for (before, after) in before.into_iter().zip(all(&mut tier)) {
        assert!(before == 1 || before == after);
    }
}

#[test]
fn ketama_with_huge_weights_stays_small_and_in_proportion() {
    let mut tier = Tier::new(hash(Consistent::Ketama), &nodes(&[65_535, 65_535, 65_535]));
    let mut shares = [0; 3];
    for key in 0..3000_u32 {
        shares[tier.pick_key(&key.to_le_bytes()).unwrap()] += 1;
    }
    assert!(shares.iter().all(|share| (900..1100).contains(share)), "{shares:?}");
}

/// Adding a server to `from` takes about its share of the keys; at most `moved_between_old` of 10,000 move otherwise.
fn assert_little_disruption(consistent: Consistent, moved_between_old: usize) {
    let mut before = Tier::new(hash(consistent), &nodes(&[1; 9]));
    let mut after = Tier::new(hash(consistent), &nodes(&[1; 10]));
    let (mut to_new, mut other) = (0, 0);
    for key in 0..10_000_u32 {
        let key = key.to_le_bytes();
        match (before.pick_key(&key), after.pick_key(&key)) {
            (_, Some(9)) => to_new += 1,
            (old, new) if old != new => other += 1,
            _ => {}
        }
    }
    assert!((700..1300).contains(&to_new), "{consistent:?}: {to_new} keys went to the new server");
    assert!(other <= moved_between_old, "{consistent:?}: {other} keys moved between old servers");
}

#[test]
fn a_new_server_takes_its_share_and_moves_little_else() {
    assert_little_disruption(Consistent::Ketama, 0);
    assert_little_disruption(Consistent::Maglev, 500);
}

/// Where 3000 keys go, by the port of the server.
fn rendezvous_ports(nodes: &[Node]) -> Vec<u16> {
    let mut tier = Tier::new(hash(Consistent::Rendezvous), nodes);
    (0..3000_u32).map(|key| nodes[tier.pick_key(&key.to_le_bytes()).unwrap()].port).collect()
}

#[test]
fn rendezvous_moves_no_key_between_servers_that_stay() {
    let all = nodes(&[3, 1, 2, 1]);
    let before = rendezvous_ports(&all);

    let mut reordered = all.clone();
    reordered.reverse();
    assert_eq!(rendezvous_ports(&reordered), before);

    let (gone, left) = (all[2].port, [&all[..2], &all[3..]].concat());
    let after = rendezvous_ports(&left);
    assert!(before.contains(&gone));
    assert!(before.iter().zip(&after).all(|(&before, &after)| before == gone || before == after));
}

#[test]
fn rendezvous_moves_keys_only_to_the_server_whose_weight_rises() {
    let (before, after) = (nodes(&[1, 1, 1]), nodes(&[1, 2, 1]));
    let risen = after[1].port;
    let moves = || rendezvous_ports(&before).into_iter().zip(rendezvous_ports(&after));
    assert!(moves().all(|(before, after)| before == after || after == risen));
    // From a third to a half of 3000.
    let moved = moves().filter(|(before, after)| before != after).count();
    assert!((400..600).contains(&moved), "{moved}");
}

#[test]
fn shares_follow_the_weights() {
    let weights = [1, 2, 3, 4];
    // Tolerances in percent: a ring of 160 points per weight is coarse, a table is not.
    for (algorithm, tolerance) in [
        (Algorithm::RandomTwo, None),
        (hash(Consistent::None), Some(10)),
        (hash(Consistent::Ketama), Some(35)),
        (hash(Consistent::Maglev), Some(10)),
        (hash(Consistent::Rendezvous), Some(10)),
        (Algorithm::RoundRobin, Some(0)),
        (Algorithm::LeastConn, Some(0)),
    ] {
        let mut tier = Tier::new(algorithm.clone(), &nodes(&weights));
        let mut shares = [0_u32; 4];
        for key in 0..20_000_u32 {
            shares[tier.pick_key(format!("/item/{key}").as_bytes()).unwrap()] += 1;
        }
        let Some(tolerance) = tolerance else {
            // Two draws even the shares out, but the order of the weights stays.
            assert!(shares.is_sorted(), "{algorithm:?}: {shares:?}");
            continue;
        };
        for (share, weight) in shares.into_iter().zip(weights) {
            let expected = 2000 * weight;
            assert!(share.abs_diff(expected) * 100 <= expected * tolerance, "{algorithm:?}: {shares:?}");
        }
    }
}

/// nginx's C, line by line: bytes of the address, walk over the weights, 20 rehashes, else `None`.
fn nginx_ip_hash(address: &[u8], weights: &[u32], eligible: &[bool]) -> Option<usize> {
    let total: u32 = weights.iter().sum();
    let mut hash = 89;
    let mut tries = 0;
    loop {
        for &byte in address {
            hash = (hash * 113 + u32::from(byte)) % 6271;
        }
        let mut w = hash % total;
        let mut p = 0;
        while w >= weights[p] {
            w -= weights[p];
            p += 1;
        }
        if eligible[p] {
            return Some(p);
        }
        tries += 1;
        if tries > 20 {
            return None;
        }
    }
}

/// CRC-32 bit by bit, continued from `crc` (IEEE 802.3, reflected, not yet inverted).
fn crc32_update(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// nginx's ring: every (point, server) sorted, the first of equal points kept; then 20 further points tried.
fn nginx_chash(key: &[u8], ports: &[u16], weights: &[u32], eligible: &[bool]) -> Option<usize> {
    let mut points = Vec::new();
    for (server, (port, weight)) in ports.iter().zip(weights).enumerate() {
        let base = crc32_update(u32::MAX, format!("127.0.0.1\0{port}").as_bytes());
        let mut previous = 0_u32;
        for _ in 0..weight * 160 {
            previous = !crc32_update(base, &previous.to_le_bytes());
            points.push((previous, server));
        }
    }
    points.sort_by_key(|&(point, _)| point);
    points.dedup_by_key(|&mut (point, _)| point);
    let hash = !crc32_update(u32::MAX, key);
    let start = points.iter().position(|&(point, _)| point >= hash).unwrap_or(0);
    (0..=20).map(|n| points[(start + n) % points.len()].1).find(|&server| eligible[server])
}

prop_compose! {
    fn servers(max: usize)(each in vec((1..20_u32, any::<bool>(), 0..50_u32), 0..max)) -> (Vec<u32>, Fake) {
        (each.iter().map(|s| s.0).collect(), Fake(each.iter().map(|s| (s.1, s.2)).collect()))
    }
}

proptest! {
    #[test]
    fn every_pick_is_eligible_and_is_made_if_any_is(
        (weights, members) in servers(12), key in vec(any::<u8>(), 0..20), failed in any::<prop::sample::Index>(),
    ) {
        let any_eligible = members.0.iter().any(|s| s.0);
        for algorithm in every_algorithm() {
            let mut tier = Tier::new(algorithm, &nodes(&weights));
            tier.members = members.clone();
            for n in 0..10 {
                let picked = tier.pick_key(&key);
                prop_assert_eq!(picked.is_some(), any_eligible);
                prop_assert!(picked.is_none_or(|i| tier.members.0[i].0));
                if !weights.is_empty() {
                    tier.state.on_failure(failed.index(weights.len()), n % 3);
                }
            }
        }
    }

    #[test]
    fn ip_hash_is_nginx_s(client in any::<IpAddr>(), (weights, members) in servers(12)) {
        let eligible: Vec<bool> = members.0.iter().map(|s| s.0).collect();
        prop_assume!(!weights.is_empty());
        let address = match client.to_canonical() {
            IpAddr::V4(ip) => ip.octets()[..3].to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let mut tier = Tier::new(Algorithm::IpHash { mask: None }, &nodes(&weights));
        tier.members = members;
        let picked = tier.pick_client(client);
        if let Some(expected) = nginx_ip_hash(&address, &weights, &eligible) {
            prop_assert_eq!(picked, Some(expected));
        }
    }

    #[test]
    fn ketama_is_nginx_s(key in vec(any::<u8>(), 1..20), (weights, members) in servers(6)) {
        let eligible: Vec<bool> = members.0.iter().map(|s| s.0).collect();
        prop_assume!(!weights.is_empty());
        let nodes = nodes(&weights);
        let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
        let mut tier = Tier::new(hash(Consistent::Ketama), &nodes);
        tier.members = members;
        if let Some(expected) = nginx_chash(&key, &ports, &weights, &eligible) {
            prop_assert_eq!(tier.pick_key(&key), Some(expected));
        }
    }

    /// A key moves only when its own server is lost, and returns with it.
    #[test]
    fn consistent_hashes_move_only_the_keys_of_a_lost_server(lost in 0..8_usize, keys in vec(any::<u64>(), 1..200)) {
        for consistent in [Consistent::Ketama, Consistent::Maglev, Consistent::Rendezvous] {
            let mut tier = Tier::new(hash(consistent), &nodes(&[1, 2, 3, 1, 2, 3, 1, 2]));
            for key in &keys {
                let before = tier.pick_key(&key.to_le_bytes());
                tier.members.0[lost].0 = false;
                let during = tier.pick_key(&key.to_le_bytes());
                tier.members.0[lost].0 = true;
                prop_assert!(before == Some(lost) || before == during);
                prop_assert_ne!(during, Some(lost));
                prop_assert_eq!(tier.pick_key(&key.to_le_bytes()), before);
            }
        }
    }

    /// Whatever comes and goes, n picks over the same eligible servers are never further from the share than one round.
    #[test]
    fn round_robin_is_exact_over_a_round((weights, members) in servers(8)) {
        let mut tier = Tier::new(Algorithm::RoundRobin, &nodes(&weights));
        tier.members = members;
        let mut expected: Vec<u32> = weights.clone();
        for (share, (eligible, _)) in expected.iter_mut().zip(&tier.members.0) {
            *share *= u32::from(*eligible);
        }
        let mut picks = vec![0; weights.len()];
        for _ in 0..expected.iter().sum() {
            picks[tier.pick().unwrap()] += 1;
        }
        prop_assert_eq!(picks, expected);
    }
}
