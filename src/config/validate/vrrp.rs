//! `[vrrp.*]`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Context, check_name, track};
use crate::config::decode::{At, Field, List, Named, OrOff};
use crate::config::document::Place;
use crate::config::model::{Announce, Arbiter, Preempt, VirtualAddress, VirtualRouter};
use crate::config::raw::{RawAnnounce, RawVrrp};
use crate::config::value::Period;
use crate::config::words::VirtualAddressText;
use crate::vrrp::{Family, Interval, Password, Priority, Version, Vrid};

/// Of interfaces and labels, without the final zero (IFNAMSIZ).
const LONGEST_NAME: usize = 15;

pub(super) fn routers(cx: &mut Context<'_>) -> Vec<Arc<VirtualRouter>> {
    let file = cx.file;
    let routers = file.vrrp.iter().filter_map(|(name, raw)| router(name, raw, cx).map(Arc::new)).collect();
    check_ids(cx);
    check_claims(cx);
    check_groups(cx);
    routers
}

fn router(name: &str, raw: &At<RawVrrp>, cx: &mut Context<'_>) -> Option<VirtualRouter> {
    check_name("virtual router", name, raw.key, cx.problems);
    let interface = raw.interface.required("interface", raw.place, cx.problems);
    if let Some(interface) = interface {
        check_interface(interface, cx);
    }
    let vrid = raw.virtual_router_id.required("virtual_router_id", raw.place, cx.problems);
    let version = version(raw, cx);
    let family = family(raw);
    let written = raw.virtual_addresses.required("virtual_addresses", raw.place, cx.problems);
    if let (Some(written), Some(family)) = (written, family) {
        check_advertised(written, family, cx);
    }
    if let Some(written) = written.filter(|written| written.is_empty() && written.complete) {
        cx.problems
            .error(written.place, "a virtual router needs an address")
            .help("virtual_addresses = [\"192.0.2.100/24\"]");
    }
    let advertised = written.map(|written| addresses(written, interface, cx));
    let excluded = addresses(&raw.excluded_addresses, interface, cx);
    let password = password(raw, version, family, cx);
    let advert_interval = advert_interval(raw, version, cx);
    check_checksum(raw, version, family, cx);
    let unicast_peers = peers(&raw.unicast_peers.0, family, cx);
    let source = source(raw, family, cx);
    check_owner(raw, cx);
    check_link_local(raw, family, cx);
    let group = raw.sync_group.get();
    if let Some(group) = group {
        check_name("sync group", group, group.place, cx.problems);
    }
    let arbitrate = arbitrate(&raw.arbitrate, family, cx);
    let track_pools = track::pools(raw, cx);
    let track_interfaces = track::interfaces(raw, cx);
    let track_files = track::files(raw, cx);
    let track_scripts = track::scripts(raw, cx);
    let notify = track::command(&raw.notify, cx);
    let webhook = track::webhook(&raw.webhook, cx);
    Some(VirtualRouter {
        name: name.into(),
        interface: interface?.as_str().into(),
        vrid: vrid.and_then(|id| Vrid::new(byte(id.0)))?,
        version: version?,
        family: family?,
        password,
        priority: Priority(byte(raw.priority.0)),
        advert_interval: advert_interval?,
        v3_checksum: *raw.v3_checksum,
        addresses: advertised?,
        excluded,
        unicast_peers,
        source,
        check_source: *raw.check_source,
        check_ttl: *raw.check_ttl,
        preempt: *raw.preempt,
        preempt_delay: match *raw.preempt {
            Preempt::Immediate if !raw.preempt_delay.given => Duration::ZERO,
            Preempt::Immediate | Preempt::WhenReady | Preempt::Never => or_zero(&raw.preempt_delay),
        },
        startup_delay: or_zero(&raw.startup_delay),
        announce: announce(&raw.announce),
        proxy_grace: raw.proxy_grace.get(),
        handover_drain: or_zero(&raw.handover_drain),
        handover_linger: or_zero(&raw.handover_linger),
        track_pools,
        track_interfaces,
        track_files,
        track_scripts,
        sync_group: group.map(|group| group.as_str().into()),
        arbitrate,
        notify,
        webhook,
    })
}

/// A number that is within the range of its key.
fn byte(n: u32) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

fn or_zero(period: &OrOff<Period>) -> Duration {
    period.0.map_or(Duration::ZERO, Period::get)
}

fn version(raw: &At<RawVrrp>, cx: &mut Context<'_>) -> Option<Version> {
    if raw.version.is_absent() {
        cx.problems
            .error(raw.place, "`version` is missing")
            .help("there is no default: 2 is keepalived's (3 for IPv6), 3 is RFC 9568; the same on every box");
    }
    raw.version.get().map(|version| if version.0 == 2 { Version::V2 } else { Version::V3 })
}

/// Of the addresses that are advertised: the first one's.
fn family(raw: &RawVrrp) -> Option<Family> {
    let address = raw.virtual_addresses.get()?.iter().find_map(|text| text.0.address.get())?;
    Some(Family::of(address.ip))
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Notes an interface that the kernel cannot have.
pub(super) fn check_interface(name: &At<String>, cx: &mut Context<'_>) {
    let foreign = |b: u8| b == b'/' || b == b':' || !b.is_ascii_graphic();
    if name.is_empty() || name.len() > LONGEST_NAME || name.bytes().any(foreign) || matches!(name.as_str(), "." | "..")
    {
        cx.problems
            .error(name.place, "not the name of an interface")
            .help(format!("1 to {LONGEST_NAME} characters, without `/`, `:` and spaces"));
    }
}

/// What an advertisement can hold: addresses of one family, and not too many.
fn check_advertised(written: &List<VirtualAddressText>, family: Family, cx: &mut Context<'_>) {
    // The count is a byte; of IPv6 addresses, fewer fit into 1,500 bytes.
    let most = match family {
        Family::V4 => 255,
        Family::V6 => 90,
    };
    if let Some(first_too_many) = written.get(most) {
        cx.problems
            .error(first_too_many.place, format!("an advertisement holds at most {most} addresses"))
            .help("the rest can be in `excluded_addresses`");
    }
    for address in written.iter().filter_map(|text| text.0.address.get()) {
        if Family::of(address.ip) != family {
            let message = format!("{} among {} addresses", address.ip, family_name(family));
            cx.problems
                .error(address.place, message)
                .help("a virtual router of its own, in the same sync_group, or `excluded_addresses`");
        }
    }
}

fn addresses(
    written: &List<VirtualAddressText>,
    interface: Option<&At<String>>,
    cx: &mut Context<'_>,
) -> Vec<VirtualAddress> {
    written.iter().filter_map(|text| address(text, interface, cx)).collect()
}

fn address(
    text: &At<VirtualAddressText>,
    interface: Option<&At<String>>,
    cx: &mut Context<'_>,
) -> Option<VirtualAddress> {
    let raw = &text.0;
    if let Some(own) = raw.interface.get() {
        check_interface(own, cx);
    }
    let address = raw.address.required("address", text.place, cx.problems)?;
    let (ip, prefix) = (address.ip, address.prefix);
    if let Some(why) = unfit(ip, prefix) {
        cx.problems.error(address.place, format!("{ip}/{prefix} {why}"));
    }
    let interface = raw.interface.get().or(interface)?;
    if let Some(label) = raw.label.get() {
        check_label(label, ip, interface, cx);
    }
    Some(VirtualAddress {
        ip,
        prefix,
        interface: interface.as_str().into(),
        label: raw.label.get().map(|label| label.as_str().into()),
    })
}

/// Why no interface should have this address.
fn unfit(ip: IpAddr, prefix: u8) -> Option<&'static str> {
    if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || ip.to_canonical() != ip {
        return Some("cannot be an address of several boxes");
    }
    let IpAddr::V4(ip) = ip else { return None };
    // Networks of one and two addresses have none for themselves (RFC 3021).
    let of_host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    match ip.to_bits() & of_host {
        _ if ip.is_broadcast() => Some("is a broadcast address"),
        _ if prefix >= 31 => None,
        0 => Some("is the address of the network"),
        bits if bits == of_host => Some("is the broadcast address of its network"),
        _ => None,
    }
}

/// Labels are what ifconfig took for interfaces: `eth0:vip`.
fn check_label(label: &At<String>, ip: IpAddr, interface: &str, cx: &mut Context<'_>) {
    let rest = label.strip_prefix(interface);
    if ip.is_ipv6() {
        cx.problems.error(label.place, "only IPv4 addresses have labels");
    } else if rest.is_none_or(|rest| !rest.is_empty() && !rest.starts_with(':')) {
        cx.problems.error(label.place, format!("the label is neither \"{interface}\" nor \"{interface}:...\""));
    } else if label.len() > LONGEST_NAME || label.bytes().any(|b| !b.is_ascii_graphic()) {
        cx.problems.error(label.place, format!("a label has at most {LONGEST_NAME} characters, and no spaces"));
    }
}

fn password(raw: &RawVrrp, version: Option<Version>, family: Option<Family>, cx: &mut Context<'_>) -> Option<Password> {
    const COUNTED: usize = 8;
    let authentication = raw.authentication.get()?;
    if version == Some(Version::V3) {
        cx.problems
            .error(authentication.key, "version 3 has no authentication")
            .help("leave it out, or use version = 2 on every box");
    } else if family == Some(Family::V6) {
        cx.problems
            .error(authentication.key, "over IPv6 version 2 has no authentication")
            .help("leave it out on every box; keepalived 2.2 dies of it");
    }
    let password = authentication.password.required("password", authentication.place, cx.problems)?;
    if password.0.is_empty() {
        cx.problems.error(password.place, "the password is empty");
    } else if password.0.len() > COUNTED {
        cx.problems
            .warning(password.place, format!("only the first {COUNTED} bytes of the password count"))
            .help("keepalived cuts it in the same way; write no more than that");
    }
    Some(Password::new(&password.0))
}

fn advert_interval(raw: &RawVrrp, version: Option<Version>, cx: &mut Context<'_>) -> Option<Interval> {
    let (version, period) = (version?, raw.advert_interval.get());
    if let Some(interval) = Interval::new(version, period) {
        return Some(interval);
    }
    let millis = period.as_millis();
    let (message, help) = match version {
        Version::V2 => {
            let nearest = millis.saturating_add(500).div_euclid(1000).clamp(1, 255);
            let help = format!("the nearest is \"{nearest}s\"; version 3 has steps of 10ms");
            ("version 2 has whole seconds, 1s to 255s", help)
        }
        Version::V3 => {
            let nearest = millis.saturating_add(5).div_euclid(10).clamp(1, 4095) * 10;
            ("version 3 has steps of 10ms, 10ms to 40950ms", format!("the nearest is \"{nearest}ms\""))
        }
    };
    cx.problems.error(raw.advert_interval.place, message).help(help);
    None
}

fn check_checksum(raw: &RawVrrp, version: Option<Version>, family: Option<Family>, cx: &mut Context<'_>) {
    let checksum = &raw.v3_checksum;
    if checksum.given && (version == Some(Version::V2) || family == Some(Family::V6)) {
        cx.problems
            .error(checksum.key, "`v3_checksum` is for version 3 with IPv4 addresses")
            .help("all else has one way to compute it");
    }
}

/// An address of `list` must be a host's, of `family`, and there once.
fn arbitrate(list: &List<Arbiter>, family: Option<Family>, cx: &mut Context<'_>) -> Vec<Arbiter> {
    let mut all: Vec<Arbiter> = Vec::new();
    for arbiter in list.iter() {
        let text = match **arbiter {
            Arbiter::Gateway => "\"gateway\"".to_owned(),
            Arbiter::Host(host) => {
                check_host(&arbiter.map(|_| host), family, cx);
                host.to_string()
            }
        };
        if all.contains(arbiter) {
            cx.problems.error(arbiter.place, format!("{text} is there twice"));
        }
        all.push(**arbiter);
    }
    all
}

fn hosts(list: &List<IpAddr>, family: Option<Family>, cx: &mut Context<'_>) -> Vec<IpAddr> {
    let mut hosts: Vec<IpAddr> = Vec::new();
    for host in list.iter() {
        check_host(host, family, cx);
        if hosts.contains(host) {
            cx.problems.error(host.place, format!("{} is there twice", **host));
        }
        hosts.push(**host);
    }
    hosts
}

fn check_host(host: &At<IpAddr>, family: Option<Family>, cx: &mut Context<'_>) {
    if host.is_unspecified() || host.is_multicast() {
        cx.problems.error(host.place, format!("{} is not the address of a host", **host));
    } else if let Some(family) = family.filter(|family| *family != Family::of(**host)) {
        cx.problems.error(host.place, format!("{} where the virtual addresses are {}", **host, family_name(family)));
    }
}

fn peers(list: &List<IpAddr>, family: Option<Family>, cx: &mut Context<'_>) -> Vec<IpAddr> {
    for peer in list.iter() {
        check_not_virtual(peer, "`unicast_peers` are the boxes' own addresses", cx);
    }
    hosts(list, family, cx)
}

fn source(raw: &RawVrrp, family: Option<Family>, cx: &mut Context<'_>) -> Option<IpAddr> {
    let source = raw.unicast_source.get()?;
    check_host(source, family, cx);
    // Whoever owns the addresses has them always.
    if raw.priority.0 != u32::from(Priority::OWNER.0) {
        check_not_virtual(source, "advertisements come from the box's own address", cx);
    }
    Some(**source)
}

/// Notes an address that moves between the boxes.
fn check_not_virtual(ip: &At<IpAddr>, help: &str, cx: &mut Context<'_>) {
    let file = cx.file;
    if let Some(at) = claims(&file.vrrp).find(|claim| claim.ip == **ip) {
        let message = format!("{} is an address of virtual router \"{}\"", **ip, at.router);
        cx.problems.error(ip.place, message).help(help).note("it is at", at.place);
    }
}

fn check_owner(raw: &RawVrrp, cx: &mut Context<'_>) {
    let preempt = &raw.preempt;
    if raw.priority.0 == u32::from(Priority::OWNER.0) && **preempt == Preempt::Never {
        let place = if preempt.given { preempt.place } else { raw.priority.place };
        cx.problems
            .warning(place, "priority 255 takes over at once, whatever `preempt` says")
            .help("254 is the highest that waits");
    }
}

/// RFC 9568 5.2.9: the first address of an IPv6 virtual router is a link-local one.
fn check_link_local(raw: &RawVrrp, family: Option<Family>, cx: &mut Context<'_>) {
    let first = raw.virtual_addresses.get().and_then(|written| written.first()?.0.address.get());
    let Some(first) = first.filter(|_| family == Some(Family::V6) && raw.unicast_peers.0.is_empty()) else { return };
    if let IpAddr::V6(ip) = first.ip
        && !ip.is_unicast_link_local()
    {
        cx.problems
            .warning(first.place, "the first address of an IPv6 virtual router should be link-local (RFC 9568)")
            .help("put one such as \"fe80::100/64\" before it, on every box");
    }
}

fn announce(raw: &RawAnnounce) -> Announce {
    let mut repeat: Vec<Duration> = raw.repeat.iter().map(|period| period.get()).collect();
    repeat.sort_unstable();
    repeat.dedup();
    Announce { burst: raw.burst.0, repeat, refresh: or_zero(&raw.refresh), interval: or_zero(&raw.interval) }
}

/// A link knows a virtual router by id and family.
fn check_ids(cx: &mut Context<'_>) {
    let mut taken = BTreeMap::new();
    for (name, raw) in cx.file.vrrp.iter() {
        let (Some(id), Some(interface), Some(family)) = (raw.virtual_router_id.get(), raw.interface.get(), family(raw))
        else {
            continue;
        };
        let key = (id.0, interface.as_str(), family == Family::V4);
        if let Some((other, at)) = taken.insert(key, (name, id.place)) {
            let message = format!("virtual router \"{other}\" has this id on {} already", **interface);
            let problem = cx.problems.error(id.place, message);
            problem.help("each of one family on one link needs its own");
            if at != id.place {
                problem.note("it is at", at);
            }
        }
    }
}

/// An address of a virtual router.
struct Claim<'f> {
    ip: IpAddr,
    interface: Option<&'f str>,
    router: &'f str,
    place: Place,
}

/// All of them, by name of the router.
fn claims(routers: &Named<RawVrrp>) -> impl Iterator<Item = Claim<'_>> {
    routers.iter().flat_map(|(name, raw)| {
        let written = raw.virtual_addresses.get().into_iter().flat_map(|written| written.iter());
        written.chain(raw.excluded_addresses.iter()).filter_map(|text| {
            let address = text.0.address.get()?;
            let interface = text.0.interface.get().or(raw.interface.get()).map(|interface| interface.as_str());
            Some(Claim { ip: address.ip, interface, router: name, place: address.place })
        })
    })
}

/// An address belongs to one virtual router, once.
fn check_claims(cx: &mut Context<'_>) {
    let mut taken: BTreeMap<_, Claim<'_>> = BTreeMap::new();
    for claim in claims(&cx.file.vrrp) {
        // A link-local address is another one on another link.
        let link = matches!(claim.ip, IpAddr::V6(ip) if ip.is_unicast_link_local()).then_some(claim.interface);
        let Some(first) = taken.get(&(claim.ip, link)) else {
            taken.insert((claim.ip, link), claim);
            continue;
        };
        let message = if first.router == claim.router {
            format!("{} is there twice", claim.ip)
        } else {
            format!("{} belongs to virtual router \"{}\" already", claim.ip, first.router)
        };
        cx.problems.error(claim.place, message).note("the first is at", first.place);
    }
}

fn check_groups(cx: &mut Context<'_>) {
    let mut groups: BTreeMap<&str, Vec<(&str, Place)>> = BTreeMap::new();
    for (name, raw) in cx.file.vrrp.iter() {
        if let Field::Given(group) = &raw.sync_group {
            groups.entry(group).or_default().push((name, group.place));
        }
    }
    for (group, members) in groups {
        if let [(name, place)] = &*members {
            let message = format!("virtual router \"{name}\" is alone in sync group \"{group}\"");
            cx.problems.warning(*place, message);
        }
    }
}
