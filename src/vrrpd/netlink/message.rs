//! What the kernel writes to a netlink socket, as far as it matters here.
//!
//! Attributes are read one by one, and what cannot be read is left out: the library's reader of whole messages gives up at
//! the first of them, which a newer kernel may have changed.

use std::io;
use std::sync::Arc;

use netlink_packet_core::{
    NLM_F_ACK_TLVS, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlasIterator, Parseable, parse_string,
    parse_u32,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeader, AddressProtocol};
use netlink_packet_route::link::{LinkFlags, LinkHeader};

use super::{Address, Link, TAG};
use crate::vrrp::announce::Mac;

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    /// Of the request that it answers.
    pub(super) sequence: u32,
    /// It belongs to a list that changed while it was made.
    pub(super) interrupted: bool,
    pub(super) content: Content,
}

/// What it says.
#[derive(Debug)]
pub(super) enum Content {
    Link(Link),
    LinkGone(u32),
    Address(Address),
    AddressGone(Address),
    /// Where packets to the address asked for go: to this box itself, or elsewhere.
    Route {
        local: bool,
    },
    /// The request is fulfilled, the list is at its end.
    Done,
    /// The request is not.
    Refused {
        source: io::Error,
        why: Option<String>,
    },
    Other,
}

/// The messages of one datagram.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(datagram).ok()?;
        let length = usize::try_from(message.length()).ok()?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        let flags = message.flags();
        let content = content(message.message_type(), flags, message.payload());
        Some(Message { sequence: message.sequence_number(), interrupted: flags & NLM_F_DUMP_INTR != 0, content })
    })
}

fn content(kind: u16, flags: u16, payload: &[u8]) -> Content {
    let found = match kind {
        NLMSG_DONE | NLMSG_ERROR => Some(answer(flags, payload)),
        libc::RTM_NEWLINK => link(payload).map(Content::Link),
        libc::RTM_DELLINK => link(payload).map(|link| Content::LinkGone(link.index)),
        libc::RTM_NEWADDR => address(payload).map(Content::Address),
        libc::RTM_DELADDR => address(payload).map(Content::AddressGone),
        // The type of the route is the eighth byte.
        libc::RTM_NEWROUTE => payload.get(7).map(|kind| Content::Route { local: *kind == libc::RTN_LOCAL }),
        _ => None,
    };
    found.unwrap_or(Content::Other)
}

/// A code, zero or a negated errno; after an error the header of the request, then attributes.
fn answer(flags: u16, payload: &[u8]) -> Content {
    const CODE_AND_HEADER: usize = 4 + 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let code = payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    if code == 0 {
        return Content::Done;
    }
    let attributes = payload.get(CODE_AND_HEADER..).filter(|_| flags & NLM_F_ACK_TLVS != 0).unwrap_or_default();
    let why = NlasIterator::new(attributes).flatten().find(|nla| nla.kind() == NLMSGERR_ATTR_MSG);
    let why = why.and_then(|nla| parse_string(nla.value()).ok());
    Content::Refused { source: io::Error::from_raw_os_error(code.saturating_abs()), why }
}

/// `None` also for a port of a bridge: the bridge sends messages of the same type about it, and one that its ports go
/// when they only leave it.
fn link(payload: &[u8]) -> Option<Link> {
    const HEADER: usize = 16;
    let header = LinkHeader::parse(payload).ok().filter(|h| h.interface_family == AddressFamily::Unspec)?;
    let mut link = Link {
        index: header.index,
        name: Arc::from(""),
        mac: None,
        up: header.flags.contains(LinkFlags::Up),
        running: header.flags.contains(LinkFlags::Up | LinkFlags::Running),
        mtu: 0,
    };
    for attribute in NlasIterator::new(payload.get(HEADER..)?).flatten() {
        match attribute.kind() {
            libc::IFLA_IFNAME => link.name = parse_string(attribute.value()).ok()?.into(),
            libc::IFLA_ADDRESS => link.mac = attribute.value().try_into().ok().map(Mac),
            libc::IFLA_MTU => link.mtu = parse_u32(attribute.value()).unwrap_or(0),
            _ => {}
        }
    }
    Some(link)
}

fn address(payload: &[u8]) -> Option<Address> {
    const HEADER: usize = 8;
    let header = AddressHeader::parse(payload).ok()?;
    let (mut local, mut other, mut label, mut tagged) = (None, None, None, false);
    // The header has room for the first eight.
    let mut flags = AddressFlags::from_bits_retain(header.flags.bits().into());
    for attribute in NlasIterator::new(payload.get(HEADER..)?).flatten() {
        match AddressAttribute::parse(&attribute) {
            Ok(AddressAttribute::Local(ip)) => local = Some(ip),
            // Of the other end, if the link is from point to point, else the same.
            Ok(AddressAttribute::Address(ip)) => other = Some(ip),
            Ok(AddressAttribute::Label(name)) => label = Some(name.into()),
            Ok(AddressAttribute::Flags(all)) => flags = all,
            Ok(AddressAttribute::Protocol(by)) => tagged = by == AddressProtocol::Other(TAG),
            Ok(_) | Err(_) => {}
        }
    }
    let ip = local.or(other)?;
    // The same bit means something else for IPv6: a temporary address.
    let secondary = ip.is_ipv4() && flags.contains(AddressFlags::Secondary);
    Some(Address {
        ifindex: header.index,
        ip,
        prefix: header.prefix_len,
        label,
        tagged,
        secondary,
        deprecated: flags.contains(AddressFlags::Deprecated),
        tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
    })
}
