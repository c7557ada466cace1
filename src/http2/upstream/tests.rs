use proptest::prelude::*;

use super::*;
use crate::http1::{Limits, Method as Known, Parse, ResponseHead};

fn head(text: &[u8]) -> RequestHead {
    let mut head = RequestHead::new();
    let limits = Limits { underscores: true, ..Limits::default() };
    assert_eq!(head.parse(text, &limits), Ok(Parse::Complete), "{}", text.escape_ascii());
    head
}

fn translated(text: &str) -> Result<Request<()>, Untranslatable> {
    request(&head(text.as_bytes()), text.as_bytes(), Scheme::HTTPS)
}

#[test]
fn a_request_has_its_pseudo_fields_and_nothing_of_its_connection() {
    let request = translated(
        "OPTIONS * HTTP/1.1\r\nHost: a.test\r\nConnection: TE, upgrade, x-mine\r\nTE: trailers\r\nX-Mine: 1\r\n\
         Keep-Alive: 5\r\nProxy-Connection: close\r\nTransfer-Encoding: chunked\r\nX-Kept: \r\n\r\n",
    )
    .unwrap();
    let uri = request.uri();
    assert_eq!((uri.scheme_str(), uri.authority().unwrap().as_str(), uri.path()), (Some("https"), "a.test", "*"));
    let fields: Vec<_> = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(fields, [("x-kept", &b""[..]), ("te", b"trailers")]);
}

#[test]
fn secrets_stay_out_of_the_shared_compression() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b\r\nAuthorization: Basic eA==\r\nX: y\r\n\r\n";
    let request = translated(text).unwrap();
    let sensitive = |name| request.headers()[name].is_sensitive();
    assert!(sensitive("cookie") && sensitive("authorization") && !sensitive("x"));
}

#[test]
fn a_host_that_is_no_authority_is_said_to_be_one() {
    assert_eq!(translated("GET / HTTP/1.1\r\nHost: a%20b\r\n\r\n").err(), Some(Untranslatable::Target));
}

/// All parts of a body that comes in pieces of `size`.
fn body(kind: Body, wire: &[u8], size: usize) -> Result<(Vec<u8>, Option<HeaderMap>), Untranslatable> {
    let (mut body, mut data, mut at) = (RequestBody::new(kind).unwrap(), Vec::new(), 0);
    while at < wire.len() {
        let piece = &wire[at..wire.len().min(at + size)];
        let expects = body.expects_data();
        match body.step(piece)? {
            Part::Data(n, last) => {
                assert!(expects && n > 0);
                data.extend_from_slice(&piece[..n]);
                at += n;
                if last == Last::Yes {
                    assert_eq!(at, wire.len());
                    return Ok((data, None));
                }
            }
            Part::Framing(n) => {
                assert!(!expects && n > 0);
                at += n;
            }
            Part::End(n, trailers) => {
                assert_eq!(at + n, wire.len());
                return Ok((data, trailers));
            }
        }
    }
    panic!("no end");
}

#[test]
fn what_is_behind_the_end_is_not_sent() {
    let mut whole = RequestBody::new(Body::Length(2)).unwrap();
    assert!(matches!(whole.step(b"abc"), Ok(Part::Data(2, Last::Yes))));
    assert_eq!(whole.step(b"c").err(), Some(Untranslatable::Excess));
}

#[test]
fn a_response_with_trailers_is_chunked_though_its_length_is_known() {
    let mut fields = HeaderMap::new();
    fields.insert("content-length", "3".parse().unwrap());
    let mut out = Vec::new();
    assert_eq!(write_response(&mut out, StatusCode::OK, &fields, false, false), ResponseFraming::Plain);
    fields.insert("content-type", "application/grpc+proto".parse().unwrap());
    out.clear();
    assert_eq!(write_response(&mut out, StatusCode::OK, &fields, false, false), ResponseFraming::Chunked);
    assert!(!String::from_utf8(out).unwrap().contains("content-length"));
}

fn name() -> impl Strategy<Value = String> {
    "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}"
}

proptest! {
    #[test]
    fn every_request_that_translates_says_the_same(
        method in "[A-Z]{1,8}",
        target in "/[!-\"$-~]{0,40}",
        fields in prop::collection::vec((name(), "[!-~\u{80}-\u{ff}]([ -~\t]{0,20}[!-~])?"), 0..8),
    ) {
        prop_assume!(method != "CONNECT");
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: a.test\r\n");
        // Names that mean something are the subject of other tests.
        let fields: Vec<_> =
            fields.into_iter().filter(|(name, _)| FieldName::lookup(name.as_bytes()) == FieldName::Other).collect();
        fields.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        text.push_str("\r\n");
        let request = translated(&text).unwrap();
        prop_assert_eq!(request.method().as_str(), method);
        let path = request.uri().path_and_query().unwrap().as_str();
        let plain = |text: &str| {
            [("%22", "\""), ("%3C", "<"), ("%3E", ">"), ("%60", "`")]
                .into_iter()
                .fold(text.to_owned(), |text, (written, meant)| text.replace(written, meant))
        };
        prop_assert_eq!(plain(path), plain(&target));
        prop_assert_eq!(request.headers().len(), fields.len());
        for (name, value) in &fields {
            let mut values = request.headers().get_all(name.to_ascii_lowercase()).iter();
            prop_assert!(values.any(|v| v.as_bytes() == value.as_bytes()));
        }
    }

    #[test]
    fn a_body_is_the_same_in_any_pieces(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        trailers in prop::collection::vec((name(), "[!-~]{0,10}"), 0..4),
        size in 1usize..60,
    ) {
        let trailers: Vec<_> =
            trailers.into_iter().filter(|(name, _)| FieldName::lookup(name.as_bytes()) == FieldName::Other).collect();
        let mut wire = Vec::new();
        for chunk in &chunks {
            write_chunk(&mut wire, chunk.len());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n");
        trailers.iter().for_each(|(name, value)| wire.extend_from_slice(format!("{name}: {value}\r\n").as_bytes()));
        wire.extend_from_slice(b"\r\n");
        let (data, came) = body(Body::Chunked, &wire, size).unwrap();
        prop_assert_eq!(&data, &chunks.concat());
        prop_assert_eq!(came.as_ref().map_or(0, HeaderMap::len), trailers.len());
        // And back: what is written is what our decoder takes for the end.
        let mut end = Vec::new();
        write_end(&mut end, came.as_ref());
        prop_assert_eq!(body(Body::Chunked, &end, size).unwrap().1, came);
        if !data.is_empty() {
            prop_assert_eq!(body(Body::Length(data.len() as u64), &data, size).unwrap().0, data);
        }
    }

    #[test]
    fn every_response_of_the_engine_parses(
        status in 200u16..1000,
        fields in prop::collection::vec((name(), prop::collection::vec(any::<u8>(), 0..12)), 0..8),
        is_head in any::<bool>(),
        ended in any::<bool>(),
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(&value)) else {
                continue;
            };
            map.append(name, value);
        }
        let mut out = Vec::new();
        let framing = write_response(&mut out, StatusCode::from_u16(status).unwrap(), &map, is_head, ended);
        let mut head = ResponseHead::new();
        let method = if is_head { Known::Head } else { Known::Get };
        prop_assert_eq!(head.parse(&out, method, &Limits::default()), Ok(Parse::Complete));
        prop_assert_eq!((head.status, head.len), (status, out.len()));
        let bodiless = is_head || matches!(status, 204 | 304);
        match head.body {
            Body::Chunked => prop_assert_eq!(framing, ResponseFraming::Chunked),
            Body::Length(n) => prop_assert!(ended && n == 0 && framing == ResponseFraming::Plain),
            Body::None => prop_assert!(bodiless && framing == ResponseFraming::Plain),
            Body::UntilClose => prop_assert!(false, "no end"),
        }
    }
}
