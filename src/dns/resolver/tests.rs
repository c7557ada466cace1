use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, rdata::CNAME};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;

#[tokio::test]
async fn addresses_of_both_families_are_sorted_without_duplicates_and_the_lowest_ttl_counts() {
    let server = serve(|query| {
        let addrs: &[&str] =
            if query.is(RecordType::A) { &["10.0.0.2", "10.0.0.1", "10.0.0.2"] } else { &["2001:db8::1"] };
        let ttl = if query.is(RecordType::A) { 300 } else { 60 };
        vec![query.records(addrs.iter().map(|addr| query.address(addr, ttl)))]
    })
    .await;
    let answer = resolver(&[server]).lookup("app.example").await.unwrap();
    assert_eq!(answer.addrs, addrs(&["10.0.0.1", "10.0.0.2", "2001:db8::1"]));
    assert_eq!((answer.ttl, answer.unknown), (secs(60), None));
}

#[tokio::test]
async fn a_ttl_is_kept_between_the_configured_bounds() {
    let server = serve(|query| {
        let ttl = if query.name().starts_with("never") { 0 } else { 1_000_000 };
        vec![query.records([query.address("10.0.0.1", ttl)])]
    })
    .await;
    let resolver = resolver(&[server]);
    assert_eq!(resolver.lookup("never.example").await.unwrap().ttl, secs(2));
    assert_eq!(resolver.lookup("ever.example").await.unwrap().ttl, secs(600));
}

#[tokio::test]
async fn every_lookup_asks_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = serve(move |query| {
        if query.is(RecordType::AAAA) {
            return vec![query.records([])];
        }
        let last = count.fetch_add(1, Ordering::Relaxed) + 1;
        vec![query.records([query.address(&format!("10.0.0.{last}"), 3600)])]
    })
    .await;
    let resolver = resolver(&[server]);
    for last in 1..=3 {
        let answer = resolver.lookup("app.example").await.unwrap();
        assert_eq!(answer.addrs, addrs(&[&format!("10.0.0.{last}")]));
    }
}

#[tokio::test]
async fn nxdomain_and_no_records_are_not_found_and_no_failure() {
    let server = serve(|query| {
        let code = if query.name().starts_with("gone") { ResponseCode::NXDomain } else { ResponseCode::NoError };
        vec![query.reply(code, [])]
    })
    .await;
    let resolver = resolver(&[server]);
    for name in ["gone.example", "empty.example"] {
        let error = resolver.lookup(name).await.unwrap_err();
        assert!(matches!(error, DnsError::NotFound { .. }), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up_after_the_timeout_and_asked_more_than_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = serve(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Vec::new()
    })
    .await;
    let config = model::Dns { timeout: Duration::from_millis(600), ..config(&[server]) };
    let error = without_files(&config).lookup("app.example").await.unwrap_err();
    assert!(matches!(error, DnsError::TimedOut { .. }), "{error:?}");
    assert!(asked.load(Ordering::Relaxed) >= 4, "two queries, each repeated: {asked:?}");
}

#[tokio::test]
async fn a_reply_with_another_id_is_ignored() {
    let server = serve(|query| {
        let mut forged = query.records([query.address("192.0.2.66", 60)]);
        forged.metadata.id = forged.metadata.id.wrapping_add(1);
        vec![forged, query.records([query.address("10.0.0.1", 60)])]
    })
    .await;
    assert_eq!(resolver(&[server]).lookup("app.example").await.unwrap().addrs, addrs(&["10.0.0.1"]));
}

#[tokio::test]
async fn an_alias_is_followed_and_its_ttl_counts() {
    let server = serve(|query| {
        if query.name().starts_with("alias") {
            return vec![query.records([query.alias("app.example.", 30)])];
        }
        vec![query.records([query.address("10.0.0.1", 300)])]
    })
    .await;
    let answer = resolver(&[server]).lookup("alias.example").await.unwrap();
    assert_eq!((answer.addrs, answer.ttl), (addrs(&["10.0.0.1"]), secs(30)));
}

#[tokio::test]
async fn a_loop_of_aliases_ends_with_an_error() {
    let server = serve(|query| {
        let target = if query.name().starts_with("one") { "two.example." } else { "one.example." };
        vec![query.records([query.alias(target, 60)])]
    })
    .await;
    resolver(&[server]).lookup("one.example").await.unwrap_err();
}

#[tokio::test]
async fn an_answer_too_large_for_a_datagram_comes_over_tcp() {
    let server = serve(|query| {
        if query.is(RecordType::AAAA) {
            return vec![query.records([])];
        }
        if !query.tcp {
            let mut truncated = query.records([]);
            truncated.metadata.truncation = true;
            return vec![truncated];
        }
        let all = (0..1000).map(|n| query.address(&format!("10.0.{}.{}", n / 250, n % 250), 60));
        vec![query.records(all)]
    })
    .await;
    assert_eq!(resolver(&[server]).lookup("app.example").await.unwrap().addrs.len(), 1000);
}

#[tokio::test]
async fn a_family_whose_query_failed_is_reported_as_unknown() {
    for (broken, family) in [(RecordType::A, Family::V4), (RecordType::AAAA, Family::V6)] {
        let server = serve(move |query| {
            if query.is(broken) {
                return vec![query.reply(ResponseCode::ServFail, [])];
            }
            let addr = if broken == RecordType::A { "2001:db8::1" } else { "10.0.0.1" };
            vec![query.records([query.address(addr, 60)])]
        })
        .await;
        let answer = resolver(&[server]).lookup("app.example").await.unwrap();
        assert_eq!((answer.addrs.len(), answer.unknown), (1, Some(family)));
    }
}

#[tokio::test]
async fn no_records_of_one_family_and_a_failure_of_the_other_is_a_failure() {
    let server = serve(|query| {
        let code = if query.is(RecordType::A) { ResponseCode::ServFail } else { ResponseCode::NoError };
        vec![query.reply(code, [])]
    })
    .await;
    let error = resolver(&[server]).lookup("app.example").await.unwrap_err();
    assert!(matches!(error, DnsError::Failed { .. }), "{error:?}");
}

#[tokio::test]
async fn another_server_is_asked_when_one_is_unreachable() {
    // Bound and dropped: nobody listens there.
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = serve(|query| vec![query.records([query.address("10.0.0.1", 60)])]).await;
    assert_eq!(resolver(&[closed, server]).lookup("app.example").await.unwrap().addrs, addrs(&["10.0.0.1"]));
}

#[tokio::test]
async fn names_with_underscores_are_asked_for_and_names_that_are_none_are_refused() {
    let server = serve(|query| {
        assert_eq!(query.name(), "my_app.example.");
        vec![query.records([query.address("10.0.0.1", 60)])]
    })
    .await;
    let resolver = resolver(&[server]);
    assert_eq!(resolver.lookup("my_app.example").await.unwrap().addrs, addrs(&["10.0.0.1"]));
    for name in ["a..b", "a b", &"x".repeat(64)] {
        let error = resolver.lookup(name).await.unwrap_err();
        assert!(matches!(error, DnsError::InvalidName { .. }), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn the_hosts_file_comes_first_and_is_read_again_when_it_changes() {
    let server = serve(|query| vec![query.records([query.address("10.0.0.1", 60)])]).await;
    let hosts = std::env::temp_dir().join(format!("bascule-hosts-{}", std::process::id()));
    std::fs::write(&hosts, "192.0.2.1 other.example\n").unwrap();
    let resolver = Resolver::with_files(&config(&[server]), hosts.clone(), "/nonexistent".into());
    let lookup = || resolver.lookup("app.example");

    assert_eq!(lookup().await.unwrap().addrs, addrs(&["10.0.0.1"]), "not in the file");
    std::fs::write(&hosts, "192.0.2.2 app.example\n2001:db8::2 app.example\n").unwrap();
    let answer = lookup().await.unwrap();
    assert_eq!(answer.addrs, addrs(&["192.0.2.2", "2001:db8::2"]), "in the file");
    assert_eq!(answer.ttl, secs(2), "looked at again as soon as possible");
    std::fs::remove_file(&hosts).unwrap();
    assert_eq!(lookup().await.unwrap().addrs, addrs(&["10.0.0.1"]), "removed from it");
}

#[test]
fn resolv_conf_gives_servers_and_search_list_and_without_one_this_machine_is_asked() {
    let (servers, options) = system_servers("search corp.example\nnameserver 192.0.2.53\noptions ndots:3\n");
    assert_eq!(servers.name_servers()[0].ip, addrs(&["192.0.2.53"])[0]);
    assert_eq!((servers.search().len(), options.ndots), (1, 3));
    for text in ["", "nameserver nonsense\n", "\0\u{fffd}"] {
        let (servers, _) = system_servers(text);
        assert_eq!(servers.name_servers()[0].ip, addrs(&["127.0.0.1"])[0], "{text:?}");
    }
}

/// A query, for the function that answers it.
struct Query {
    message: Message,
    tcp: bool,
}

impl Query {
    fn is(&self, record_type: RecordType) -> bool {
        self.message.queries[0].query_type() == record_type
    }

    /// With a trailing dot.
    fn name(&self) -> String {
        self.message.queries[0].name().to_ascii()
    }

    fn reply(&self, code: ResponseCode, records: impl IntoIterator<Item = Record>) -> Message {
        let mut reply = Message::response(self.message.metadata.id, OpCode::Query);
        reply.metadata.response_code = code;
        reply.metadata.recursion_available = true;
        reply.add_query(self.message.queries[0].clone());
        reply.add_answers(records);
        reply
    }

    /// A reply that holds those of `records` that were asked for.
    fn records(&self, records: impl IntoIterator<Item = Record>) -> Message {
        let fits = |record: &Record| record.record_type() == RecordType::CNAME || self.is(record.record_type());
        self.reply(ResponseCode::NoError, records.into_iter().filter(fits))
    }

    fn address(&self, addr: &str, ttl: u32) -> Record {
        Record::from_rdata(self.message.queries[0].name().clone(), ttl, RData::from(addr.parse::<IpAddr>().unwrap()))
    }

    fn alias(&self, target: &str, ttl: u32) -> Record {
        let target = CNAME(Name::from_ascii(target).unwrap());
        Record::from_rdata(self.message.queries[0].name().clone(), ttl, RData::CNAME(target))
    }
}

/// A name server on loopback, UDP and TCP on one port; `answer` gives the messages to send for each query.
async fn serve(answer: impl Fn(&Query) -> Vec<Message> + Send + Sync + 'static) -> SocketAddr {
    let (udp, tcp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Taken by somebody's datagrams: try another one.
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let addr = udp.local_addr().unwrap();
    let answer = Arc::new(answer);
    let answer_udp = Arc::clone(&answer);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, peer) = udp.recv_from(&mut buffer).await.unwrap();
            let message = Message::from_vec(&buffer[..length]).unwrap();
            for reply in answer_udp(&Query { message, tcp: false }) {
                udp.send_to(&reply.to_vec().unwrap(), peer).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut bytes = vec![0; length.into()];
                    stream.read_exact(&mut bytes).await.unwrap();
                    let message = Message::from_vec(&bytes).unwrap();
                    for reply in answer(&Query { message, tcp: true }) {
                        let bytes = reply.to_vec().unwrap();
                        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
                        stream.write_all(&bytes).await.unwrap();
                    }
                }
            });
        }
    });
    addr
}

fn config(resolvers: &[SocketAddr]) -> model::Dns {
    model::Dns { resolvers: resolvers.to_vec(), timeout: secs(5), min_ttl: secs(2), max_ttl: secs(600) }
}

fn resolver(resolvers: &[SocketAddr]) -> Resolver {
    without_files(&config(resolvers))
}

fn without_files(config: &model::Dns) -> Resolver {
    Resolver::with_files(config, "/nonexistent/hosts".into(), "/nonexistent/resolv.conf".into())
}

fn addrs(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
