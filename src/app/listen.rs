//! `bascule vrrp listen`: hears the wire for a while, claims nothing, and compares what it hears with the file.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::config::model::{Config, VirtualRouter};
use crate::net::clock;
use crate::vrrp::judge::{Mismatch, Reason, Verdict, judge};
use crate::vrrp::packet::{Advert, Authentication, Envelope, decode};
use crate::vrrp::{Checksum, Family, Priority, Version};
use crate::vrrpd::station::expectations;
use crate::vrrpd::wire::LONGEST;
use crate::vrrpd::{Netlink, Receiver, timeout_until};

/// What was heard: for people, and whether it is as the file says.
pub(super) struct Heard {
    pub(super) text: String,
    pub(super) agrees: bool,
}

/// Listens for `long` on the interfaces of all virtual routers.
///
/// # Errors
/// Nothing can be heard, as a sentence.
pub(super) fn run(config: &Config, long: Duration) -> Result<Heard, String> {
    if config.routers.is_empty() {
        return Err("there is no [vrrp.*] in the configuration".to_owned());
    }
    let links = Netlink::open().and_then(|mut netlink| netlink.links()).map_err(|e| e.to_string())?;
    let mut ears: BTreeMap<(&str, bool), Receiver> = BTreeMap::new();
    for router in &config.routers {
        let name = &*router.interface;
        let link =
            links.iter().find(|link| *link.name == *name).ok_or_else(|| format!("there is no interface {name}"))?;
        if let Entry::Vacant(entry) = ears.entry((name, router.family == Family::V4)) {
            let ear = Receiver::open(name, link.index, router.family);
            entry.insert(ear.map_err(|e| format!("cannot hear VRRP on {name}: {e}; it needs CAP_NET_RAW"))?);
        }
    }
    let mut all = Findings::default();
    let end = clock::micros().after(long);
    let mut buffer = vec![0; LONGEST];
    while clock::micros() < end {
        let mut fds: Vec<_> = ears.values().map(|ear| PollFd::from_borrowed_fd(ear.as_fd(), PollFlags::IN)).collect();
        match poll(&mut fds, timeout_until(Some(end), clock::micros()).as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(format!("cannot wait: {e}")),
        }
        for ((interface, _), ear) in &ears {
            while let Ok(Some(heard)) = ear.recv(&mut buffer) {
                let envelope = heard.envelope();
                match decode(heard.payload, &envelope) {
                    Ok((advert, checksum)) => all.note(&config.routers, interface, &envelope, &advert, checksum),
                    Err(flaw) => all.add(heard.source, "?".to_owned(), vec![format!("no advertisement: {flaw}")]),
                }
            }
        }
    }
    Ok(all.tell(&config.routers, long))
}

/// By sender and virtual router: what does not agree.
#[derive(Default)]
struct Findings(BTreeMap<(IpAddr, String), Vec<String>>);

impl Findings {
    fn add(&mut self, source: IpAddr, what: String, problems: Vec<String>) {
        self.0.insert((source, what), problems);
    }

    fn note(
        &mut self,
        routers: &[Arc<VirtualRouter>],
        interface: &str,
        envelope: &Envelope,
        advert: &Advert,
        checksum: Checksum,
    ) {
        let what = format!("vrid {} on {interface}: {}", advert.vrid, describe(advert));
        let here = routers.iter().filter(|r| *r.interface == *interface && r.family == Family::of(envelope.source));
        let problems = match here.clone().find(|router| router.vrid == advert.vrid) {
            Some(router) => compare(router, envelope, advert, checksum),
            None => {
                let shares = |r: &&Arc<VirtualRouter>| r.addresses.iter().any(|a| advert.addresses.contains(&a.ip));
                match here.clone().find(shares) {
                    Some(router) => vec![format!(
                        "virtual_router_id is {} in [vrrp.{}], which has the same addresses",
                        router.vrid, router.name
                    )],
                    None => Vec::new(),
                }
            }
        };
        self.add(envelope.source, what, problems);
    }

    fn tell(self, routers: &[Arc<VirtualRouter>], long: Duration) -> Heard {
        let mut text = String::new();
        if self.0.is_empty() {
            let on: Vec<&str> = routers.iter().map(|router| &*router.interface).collect();
            let _ = writeln!(text, "nothing was heard in {long:?} on {}: no master speaks there", on.join(", "));
        }
        let agrees = self.0.values().all(Vec::is_empty);
        for ((source, what), problems) in self.0 {
            let _ = writeln!(text, "{source}: {what}");
            for problem in problems {
                let _ = writeln!(text, "  MISMATCH: {problem}");
            }
        }
        Heard { text, agrees }
    }
}

fn describe(advert: &Advert) -> String {
    let list: Vec<String> = advert.addresses.iter().map(ToString::to_string).collect();
    let authentication = match advert.authentication {
        Authentication::None => "",
        Authentication::Pass(_) => ", with a password",
    };
    format!(
        "version {}, priority {}, every {:?}{authentication}, {}",
        advert.version.number(),
        advert.priority,
        advert.interval.get(),
        list.join(" ")
    )
}

/// How an advertisement differs from what `router` would send.
fn compare(router: &VirtualRouter, envelope: &Envelope, advert: &Advert, checksum: Checksum) -> Vec<String> {
    let mut problems = Vec::new();
    match judge(&expectations(router), router.source, envelope, advert, checksum) {
        Verdict::Peer(_) => {}
        Verdict::Alive(mismatch, _) => problems.push(match mismatch {
            Mismatch::Version => "`version` is the other one in the file".to_owned(),
            Mismatch::Interval => format!("`advert_interval` is {:?} in the file", router.advert_interval.get()),
            Mismatch::Cast if router.unicast_peers.is_empty() => "unicast; the file has no `unicast_peers`".to_owned(),
            Mismatch::Cast => "multicast; the file has `unicast_peers`".to_owned(),
            Mismatch::Authentication => "`authentication` is another in the file".to_owned(),
        }),
        Verdict::Drop(reason) => problems.push(match reason {
            Reason::Ttl => format!("it came through a router (TTL {})", envelope.ttl),
            Reason::Source => "the sender is not in `unicast_peers`".to_owned(),
            Reason::ForeignCluster => "none of its addresses is in the file: another cluster with our id".to_owned(),
            Reason::OwnAddress => "its source address is ours".to_owned(),
            Reason::UnknownVrid | Reason::Malformed(_) => reason.name().to_owned(),
        }),
    }
    if router.version == Version::V3 && advert.version == Version::V3 && advert.interval != router.advert_interval {
        problems.push(format!(
            "`advert_interval` is {:?} in the file (a backup learns the master's)",
            router.advert_interval.get()
        ));
    }
    let missing: Vec<String> = router
        .addresses
        .iter()
        .filter(|a| !advert.addresses.contains(&a.ip))
        .map(|a| format!("{} is in the file only", a.ip))
        .collect();
    let foreign = advert.addresses.iter().filter(|ip| !router.addresses.iter().any(|a| a.ip == **ip));
    let foreign: Vec<String> = foreign.map(|ip| format!("{ip} is not in the file")).collect();
    // Of a list that shares nothing it was said already.
    if missing.len() < router.addresses.len() {
        problems.extend(missing.into_iter().chain(foreign));
    }
    if advert.priority == router.priority && advert.priority != Priority::RESIGN {
        problems.push(format!("`priority` is {} in the file too: the higher address wins", router.priority));
    }
    problems
}
