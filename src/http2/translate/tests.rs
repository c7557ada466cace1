use http::Request;
use proptest::prelude::*;

use super::*;
use crate::http1::{RequestHead, TargetForm};

const LIMITS: Limits = Limits { max_size: 1 << 20, max_fields: 1000, max_uri: 1 << 16, underscores: true };

/// Method, `:path`, `:authority`, fields.
type Head<'a> = (&'a str, &'a str, Option<&'a str>, &'a [(&'a str, &'a str)]);

fn parts((method, path, authority, fields): Head<'_>) -> Option<Parts> {
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(path.parse().ok()?);
    if let Some(authority) = authority {
        uri.scheme = Some(http::uri::Scheme::HTTP);
        uri.authority = Some(authority.parse().ok()?);
    }
    let mut request = Request::builder().method(method).uri(http::Uri::from_parts(uri).ok()?);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    Some(request.body(()).ok()?.into_parts().0)
}

fn written(head: Head<'_>, ends: bool) -> Result<String, RequestError> {
    let mut out = Vec::new();
    write_request(&parts(head).expect("what h2 would accept"), ends, &mut out)?;
    Ok(String::from_utf8(out).expect("ASCII"))
}

#[test]
fn a_head_is_written_in_its_canonical_form() {
    let fields = [("accept", "*/*"), ("cookie", "a=1"), ("x", ""), ("cookie", "b=2"), ("host", "A.test")];
    assert_eq!(
        written(("GET", "/a?b", Some("a.test"), &fields), true).unwrap(),
        "GET /a?b HTTP/1.1\r\nHost: a.test\r\ncookie: a=1; b=2\r\naccept: */*\r\nx: \r\n\r\n"
    );
    let post = written(("POST", "/", None, &[("host", "a.test:80")]), false).unwrap();
    assert_eq!(post, "POST / HTTP/1.1\r\nHost: a.test:80\r\ntransfer-encoding: chunked\r\n\r\n");
    let known = written(("POST", "/", Some("a.test"), &[("content-length", "3")]), false).unwrap();
    assert_eq!(known, "POST / HTTP/1.1\r\nHost: a.test\r\ncontent-length: 3\r\n\r\n");
    let none = written(("PUT", "/", Some("a.test"), &[]), true).unwrap();
    assert_eq!(none, "PUT / HTTP/1.1\r\nHost: a.test\r\ncontent-length: 0\r\n\r\n");
    let server = written(("OPTIONS", "*", Some("a.test"), &[]), true).unwrap();
    assert_eq!(server, "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n");
}

#[test]
fn what_would_mean_something_else_is_refused() {
    let a = Some("a.test");
    let refused: &[(Head<'_>, RequestError)] = &[
        (("CONNECT", "/", a, &[]), RequestError::Connect),
        (("GET", "*", a, &[]), RequestError::BadTarget),
        (("GET", "/", None, &[]), RequestError::NoHost),
        (("GET", "/", a, &[("host", "b.test")]), RequestError::HostMismatch),
        (("GET", "/", a, &[("host", "a.test:80")]), RequestError::HostMismatch),
        (("GET", "/", None, &[("host", "a.test"), ("host", "a.test")]), RequestError::SeveralHosts),
        (("GET", "/", None, &[("host", " a.test")]), HeadError::BadValue.into()),
        (("GET", "/", a, &[("x", " y")]), HeadError::BadValue.into()),
        (("GET", "/", a, &[("x", "y\t")]), HeadError::BadValue.into()),
        (("GET", "/", a, &[("cookie", "a=1"), ("cookie", "b ")]), HeadError::BadValue.into()),
        (("GET", "/", a, &[("connection", "close")]), HeadError::BadName.into()),
        (("GET", "/", a, &[("keep-alive", "1")]), HeadError::BadName.into()),
        (("GET", "/", a, &[("proxy-connection", "1")]), HeadError::BadName.into()),
        (("GET", "/", a, &[("transfer-encoding", "chunked")]), HeadError::BadName.into()),
        (("GET", "/", a, &[("upgrade", "h2c")]), HeadError::BadName.into()),
        (("GET", "/", a, &[("http2-settings", "AAAA")]), HeadError::BadName.into()),
        (("GET", "/", a, &[("te", "gzip")]), HeadError::BadName.into()),
    ];
    for (head, error) in refused {
        assert_eq!(written(*head, true), Err(*error), "{head:?}");
    }
    let mut uri = parts(("GET", "/", a, &[])).unwrap();
    uri.uri = http::Uri::from_parts(http::uri::Parts::default()).unwrap();
    assert_eq!(write_request(&uri, true, &mut Vec::new()), Err(RequestError::BadTarget), "no path");
}

#[test]
fn trailers_are_fields_and_none_of_a_connection() {
    let trailers = |fields: &[(&'static str, &'static str)]| {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        let mut out = Vec::new();
        write_trailers(&map, &mut out).map(|()| String::from_utf8(out).expect("ASCII"))
    };
    assert_eq!(trailers(&[]).unwrap(), "0\r\n\r\n");
    assert_eq!(trailers(&[("a", "1"), ("a", "2")]).unwrap(), "0\r\na: 1\r\na: 2\r\n\r\n");
    assert_eq!(trailers(&[("transfer-encoding", "chunked")]), Err(HeadError::BadName.into()));
    assert_eq!(trailers(&[("a", " 1")]), Err(HeadError::BadValue.into()));
}

/// What came of a response.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    interim: Vec<u16>,
    status: u16,
    fields: Vec<(String, String)>,
    data: Vec<u8>,
    trailers: Option<Vec<(String, String)>>,
    ended: bool,
}

fn texts(map: &HeaderMap) -> Vec<(String, String)> {
    map.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
}

/// Gives `bytes` in pieces of these sizes, and room in portions of those.
fn answer(method: http1::Method, bytes: &[u8], cuts: &[usize], rooms: &[usize]) -> Result<Seen, String> {
    let (mut answer, mut head, mut seen) = (Answer::new(method), ResponseHead::new(), Seen::default());
    let (mut cuts, mut rooms) = (cuts.iter().cycle(), rooms.iter().cycle());
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + cuts.next().unwrap()).min(bytes.len());
        while at < end {
            if answer.awaits_head() {
                let (n, found) = answer.take_head(&bytes[at..end], &mut head).map_err(|e| e.to_string())?;
                at += n;
                match found {
                    Found::Nothing => {}
                    Found::Informational(response) => seen.interim.push(response.status().as_u16()),
                    Found::Head { response, ends } => {
                        seen.status = response.status().as_u16();
                        seen.fields = texts(response.headers());
                        seen.ended = ends;
                    }
                }
                continue;
            }
            let room = *rooms.next().unwrap();
            let before = seen.data.len();
            let taken = answer.take_body(&bytes[at..end], room, &mut seen.data).map_err(|_| "broken".to_owned())?;
            assert!(seen.data.len() - before <= room, "more than there is room for");
            at += taken.bytes;
            if answer.is_complete() {
                seen.ended = true;
                if !taken.ends {
                    seen.trailers = Some(texts(&answer.take_trailers().map_err(|_| "trailers")?));
                }
            }
        }
    }
    Ok(seen)
}

#[test]
fn a_response_is_read_as_it_was_written() {
    use http1::Method::{Get, Head};
    let all = |method, text: &str| answer(method, text.as_bytes(), &[1000], &[1000]);
    let seen = all(Get, "HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi").unwrap();
    let fields = [("x-a", "1"), ("content-length", "2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(
        seen,
        Seen {
            interim: vec![103],
            status: 200,
            fields: fields.into(),
            data: b"hi".into(),
            trailers: None,
            ended: true
        }
    );
    let seen = all(Get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\ngrpc-status: 0\r\n\r\n")
        .unwrap();
    assert_eq!((&seen.fields[..], &seen.data[..], seen.ended), (&[][..], &b"hi"[..], true));
    assert_eq!(seen.trailers, Some(vec![("grpc-status".to_owned(), "0".to_owned())]));
    for (method, text) in [
        (Head, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        (Get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        (Get, "HTTP/1.1 204 No Content\r\n\r\n"),
        (Get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let seen = all(method, text).unwrap();
        assert!(seen.ended && seen.data.is_empty(), "{text}");
    }
    let seen = all(Get, "HTTP/1.1 200 OK\r\n\r\nhi").unwrap();
    assert!(!seen.ended && seen.data == b"hi", "it ends with the stream");
}

#[test]
fn what_is_no_response_is_an_error() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi!",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nhi",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx",
    ] {
        assert!(answer(http1::Method::Get, text.as_bytes(), &[1000], &[1000]).is_err(), "{text}");
    }
}

/// Fields as clients send them, those with a meaning among them, and values that try something.
fn field() -> impl Strategy<Value = (String, String)> {
    let names = prop::sample::select(vec![
        "host",
        "cookie",
        "te",
        "content-length",
        "transfer-encoding",
        "connection",
        "expect",
        "x_y",
        "x-forwarded-for",
        "upgrade",
    ]);
    let name = prop_oneof![2 => names.prop_map(str::to_owned), 3 => "[a-z0-9!#$%&'*+.^_`|~-]{1,12}"];
    let value = prop_oneof![3 => "[ -~\t]{0,20}", 1 => Just("trailers".to_owned()), 1 => "[0-9]{1,3}", 1 => "[^\r\n\u{0}]{0,6}"];
    (name, value)
}

proptest! {
    /// A request that is written is one request of HTTP/1.1, of the same meaning, or is refused there.
    #[test]
    fn a_request_stays_what_it_is(
        method in prop_oneof![Just("GET".to_owned()), Just("POST".to_owned()), Just("OPTIONS".to_owned()), "[A-Z!-]{1,8}"],
        path in prop_oneof![Just("*".to_owned()), "/[!-~]{0,30}", "[ -~]{1,20}"],
        authority in prop::option::of(prop_oneof![Just("a.test".to_owned()), "[!-~]{1,12}"]),
        fields in prop::collection::vec(field(), 0..8),
        ends: bool,
    ) {
        let fields: Vec<_> = fields.iter().map(|(n, v)| (&n[..], &v[..])).collect();
        let Some(parts) = parts((&method, &path, authority.as_deref(), &fields)) else { return Ok(()) };
        let mut out = Vec::new();
        if write_request(&parts, ends, &mut out).is_err() {
            return Ok(());
        }
        let mut head = RequestHead::new();
        match head.parse(&out, &LIMITS) {
            Err(_) => return Ok(()),
            Ok(parse) => prop_assert_eq!(parse, Parse::Complete),
        }
        prop_assert_eq!(head.len, out.len(), "nothing is left that could be another request");
        prop_assert_eq!(head.method_span.of(&out), parts.method.as_str().as_bytes());
        prop_assert_eq!(head.target.of(&out), parts.uri.path_and_query().unwrap().as_str().as_bytes());
        prop_assert_ne!(head.form, TargetForm::Absolute);
        let host = parts.uri.authority().map_or_else(|| parts.headers[HOST].as_bytes(), |a| a.as_str().as_bytes());
        prop_assert_eq!(head.host.of(&out), host);
        prop_assert!(head.upgrade.is_none());
        match parts.headers.get(CONTENT_LENGTH) {
            Some(n) => prop_assert_eq!(head.body, Body::Length(n.to_str().unwrap().parse().unwrap())),
            None if ends => prop_assert!(matches!(head.body, Body::None | Body::Length(0))),
            None => prop_assert_eq!(head.body, Body::Chunked),
        }
        for name in parts.headers.keys().filter(|n| **n != HOST && **n != COOKIE) {
            let sent: Vec<_> = parts.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            let got: Vec<_> = head.values(&out, name.as_str()).collect();
            prop_assert_eq!(sent, got, "{}", name);
        }
        let crumbs: Vec<_> = parts.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        let cookies: Vec<_> = head.values(&out, "cookie").collect();
        prop_assert!(cookies.len() <= 1);
        prop_assert_eq!(crumbs.join(&b"; "[..]), cookies.concat());
    }

    /// However a response is cut, and however little room there is, the same comes of it.
    #[test]
    fn pieces_make_no_difference(
        body in prop::collection::vec(any::<u8>(), 0..60),
        sizes in prop::collection::vec(1usize..20, 1..4),
        trailers in prop::collection::vec(("x-[a-z]{1,5}", "[!-~]{0,8}"), 0..3),
        chunked: bool,
        cuts in prop::collection::vec(1usize..30, 1..6),
        rooms in prop::collection::vec(1usize..30, 1..6),
    ) {
        let mut text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nServer: x\r\n".to_vec();
        if chunked {
            text.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            let (mut rest, mut sizes) = (&body[..], sizes.iter().cycle());
            while !rest.is_empty() {
                let (chunk, more) = rest.split_at(sizes.next().unwrap().min(&rest.len()).to_owned());
                text.extend(format!("{:x};e=1\r\n", chunk.len()).bytes());
                text.extend(chunk);
                text.extend(b"\r\n");
                rest = more;
            }
            text.extend(b"0\r\n");
            for (name, value) in &trailers {
                text.extend(format!("{name}: {value}\r\n").bytes());
            }
            text.extend(b"\r\n");
        } else {
            text.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
            text.extend(&body);
        }
        let whole = answer(http1::Method::Get, &text, &[text.len()], &[text.len()]).unwrap();
        let pieces = answer(http1::Method::Get, &text, &cuts, &rooms).unwrap();
        prop_assert_eq!(&whole, &pieces);
        prop_assert_eq!(&whole.data, &body);
        prop_assert!(whole.ended);
        let sent = (chunked && !trailers.is_empty()).then_some(trailers);
        prop_assert_eq!(whole.trailers.map(|mut t| { t.sort(); t }), sent.map(|mut t| { t.sort(); t }));
    }

    #[test]
    fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 1usize..50) {
        let _ = answer(http1::Method::Get, &bytes, &[cut], &[7]);
        let head = [&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..], &bytes].concat();
        let _ = answer(http1::Method::Get, &head, &[cut], &[7]);
    }
}
