//! Who the client is, behind proxies that are trusted to say so. Pure.

use std::net::{IpAddr, SocketAddr};

use crate::config::value::Cidr;
use crate::http1::{FieldName, RequestHead};

/// The client's address: the peer's, or, when that is a trusted proxy, the rightmost address of X-Forwarded-For that is
/// not one (nginx: `real_ip_recursive on`). Anything unreadable in the list ends the search at the last good address.
pub(crate) fn client_address(peer: IpAddr, trusted: &[Cidr], head: &RequestHead, bytes: &[u8]) -> IpAddr {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(ip));
    let mut client = peer.to_canonical();
    if !is_trusted(client) {
        return client;
    }
    let values = head.fields.iter().rev().filter(|f| f.kind == FieldName::XForwardedFor).map(|f| f.value.of(bytes));
    for element in values.flat_map(|v| v.rsplit(|&b| b == b',')) {
        let Some(ip) = parse_element(element) else { return client };
        client = ip;
        if !is_trusted(ip) {
            break;
        }
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parse_element(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element.trim_ascii()).ok()?;
    let ip = match text.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) => match text.parse::<SocketAddr>() {
            Ok(addr) => addr.ip(),
            Err(_) => text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?,
        },
    };
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{Limits, Parse};

    fn client(peer: &str, trusted: &[&str], fields: &str) -> String {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut head = RequestHead::default();
        let limits = Limits { max_size: 4096, max_fields: 100, max_uri: 1024, ..Limits::default() };
        assert!(matches!(head.parse(text.as_bytes(), &limits), Ok(Parse::Complete)));
        let trusted: Vec<Cidr> = trusted.iter().map(|t| t.parse().expect("a network")).collect();
        client_address(peer.parse().expect("an address"), &trusted, &head, text.as_bytes()).to_string()
    }

    #[test]
    fn only_trusted_peers_are_believed() {
        let xff = "X-Forwarded-For: 203.0.113.9\r\n";
        assert_eq!(client("192.0.2.1", &[], xff), "192.0.2.1");
        assert_eq!(client("192.0.2.1", &["10.0.0.0/8"], xff), "192.0.2.1");
        assert_eq!(client("10.1.2.3", &["10.0.0.0/8"], xff), "203.0.113.9");
        assert_eq!(client("::ffff:10.1.2.3", &["10.0.0.0/8"], xff), "203.0.113.9");
    }

    #[test]
    fn the_rightmost_address_that_is_no_trusted_proxy_is_the_client() {
        let xff = "X-Forwarded-For: 198.51.100.66, 203.0.113.9, 10.0.0.2\r\nX-Forwarded-For: 10.0.0.3\r\n";
        assert_eq!(client("10.0.0.1", &["10.0.0.0/8"], xff), "203.0.113.9");
        let all_trusted = "X-Forwarded-For: 10.0.0.4, 10.0.0.2\r\n";
        assert_eq!(client("10.0.0.1", &["10.0.0.0/8"], all_trusted), "10.0.0.4");
    }

    #[test]
    fn ports_brackets_and_nonsense() {
        let trusted = ["10.0.0.0/8"];
        for (element, found) in [
            ("203.0.113.9:4711", "203.0.113.9"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("unknown", "10.0.0.1"),
            ("", "10.0.0.1"),
            ("203.0.113.9, unknown, 10.0.0.2", "10.0.0.2"),
        ] {
            assert_eq!(client("10.0.0.1", &trusted, &format!("X-Forwarded-For: {element}\r\n")), found, "{element}");
        }
    }
}
