#![expect(clippy::indexing_slicing, reason = "tests may panic")]

use proptest::prelude::*;

use super::*;

fn parse(bytes: &[u8], method: Method) -> Result<Option<ResponseHead>, ResponseError> {
    let mut head = ResponseHead::new();
    Ok((head.parse(bytes, method, &Limits::default())? == Parse::Complete).then_some(head))
}

fn accept(bytes: &[u8], method: Method) -> ResponseHead {
    match parse(bytes, method) {
        Ok(Some(head)) => head,
        other => panic!("{}: {other:?}", bytes.escape_ascii()),
    }
}

/// The answer to a GET.
fn get(status: &str, lines: &str) -> ResponseHead {
    accept(format!("HTTP/1.1 {status}\r\n{lines}\r\n").as_bytes(), Method::Get)
}

#[test]
fn framing_that_two_parsers_could_read_differently_is_refused() {
    use HeadError as H;
    for (lines, error) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", H::LengthAndEncoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", H::LengthAndEncoding),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", H::SeveralLengths),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", H::SeveralLengths),
        ("Content-Length: 5, 5\r\n", H::BadLength),
        ("Content-Length: +5\r\n", H::BadLength),
        ("Content-Length:\r\n", H::BadLength),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", H::SeveralEncodings),
        ("Transfer-Encoding: gzip, chunked\r\n", H::UnsupportedEncoding),
        ("Transfer-Encoding: identity\r\n", H::UnsupportedEncoding),
        ("X: a\0b\r\n", H::BadValue),
        ("X: a\rb\r\n", H::BadValue),
        ("X: 1\r\n folded\r\n", H::Folded),
        ("X\r\n", H::NoColon),
        ("X  \r\n", H::NoColon),
        (": 1\r\n", H::BadName),
        (" : 1\r\n", H::Folded),
        ("X(y): 1\r\n", H::BadName),
        ("X y: 1\r\n", H::BadName),
    ] {
        for status in ["200 OK", "204 No Content", "103 Early Hints"] {
            let bytes = format!("HTTP/1.1 {status}\r\n{lines}\r\n");
            let result = parse(bytes.as_bytes(), Method::Get).map(|head| head.is_some());
            assert_eq!(result, Err(ResponseError::Head(error)), "{bytes:?}");
        }
    }
    let old = parse(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Get).map(|head| head.is_some());
    assert_eq!(old, Err(ResponseError::Head(H::EncodingInHttp10)));
}

#[test]
fn bodies_are_delimited_by_method_status_and_fields() {
    let length = "Content-Length: 5\r\n";
    let chunked = "Transfer-Encoding: Chunked\r\n";
    for (status, lines, body) in [
        ("200 OK", length, Body::Length(5)),
        ("200 OK", chunked, Body::Chunked),
        ("200 OK", "", Body::UntilClose),
        ("200 OK", "Content-Length: 0\r\n", Body::Length(0)),
        ("404 Not Found", length, Body::Length(5)),
        ("205 Reset Content", chunked, Body::Chunked),
        ("999 X", length, Body::Length(5)),
        ("100 Continue", "", Body::None),
        ("101 Switching Protocols", length, Body::None),
        ("103 Early Hints", chunked, Body::None),
        ("204 No Content", length, Body::None),
        ("204 No Content", chunked, Body::None),
        ("204 No Content", "", Body::None),
        ("304 Not Modified", length, Body::None),
        ("304 Not Modified", chunked, Body::None),
    ] {
        assert_eq!(get(status, lines).body, body, "{status} {lines}");
        let to_head = accept(format!("HTTP/1.1 {status}\r\n{lines}\r\n").as_bytes(), Method::Head);
        assert_eq!(to_head.body, Body::None, "{status} {lines}");
    }
}

#[test]
fn framing_fields_are_passed_on_where_they_mean_something() {
    for (status, lines, chunked, hop) in [
        ("200 OK", "Content-Length: 5\r\n", false, false),
        ("200 OK", "Transfer-Encoding: chunked\r\n", true, false),
        ("304 Not Modified", "Content-Length: 5\r\n", false, false),
        ("304 Not Modified", "Transfer-Encoding: chunked\r\n", true, false),
        ("204 No Content", "Content-Length: 5\r\n", false, true),
        ("204 No Content", "Transfer-Encoding: chunked\r\n", false, true),
        ("103 Early Hints", "Content-Length: 5\r\n", false, true),
        ("101 Switching Protocols", "Transfer-Encoding: chunked\r\n", false, true),
    ] {
        let head = get(status, lines);
        assert_eq!((head.chunked, head.fields[0].hop), (chunked, hop), "{status} {lines}");
    }
    let to_head = accept(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Head);
    assert!(to_head.chunked && to_head.keep_alive);
}

#[test]
fn interim_responses_are_told_from_final_ones() {
    for (status, interim) in [(100, true), (102, true), (103, true), (199, true), (101, false), (200, false)] {
        assert_eq!(get(&format!("{status} X"), "").is_interim(), interim, "{status}");
    }
}

#[test]
fn connections_persist_only_when_the_body_has_an_end() {
    for (version, lines, keep) in [
        ("1.1", "Content-Length: 0\r\n", true),
        ("1.1", "Content-Length: 0\r\nConnection: close\r\n", false),
        ("1.1", "Transfer-Encoding: chunked\r\n", true),
        ("1.1", "", false),
        ("1.0", "Content-Length: 0\r\n", false),
        ("1.0", "Content-Length: 0\r\nConnection: keep-alive\r\n", true),
        ("1.0", "Connection: keep-alive\r\n", false),
    ] {
        let bytes = format!("HTTP/{version} 200 OK\r\n{lines}\r\n");
        assert_eq!(accept(bytes.as_bytes(), Method::Get).keep_alive, keep, "{bytes:?}");
    }
    assert!(get("204 No Content", "").keep_alive);
    assert!(get("304 Not Modified", "").keep_alive);
}

#[test]
fn status_lines_are_exact_but_for_the_reason() {
    for (line, status, reason) in [
        ("HTTP/1.1 200 OK", 200, "OK"),
        ("HTTP/1.1 200 ", 200, ""),
        ("HTTP/1.1 200", 200, ""),
        ("HTTP/1.0 404 Not\tFound", 404, "Not\tFound"),
        ("HTTP/1.2 299  \u{e9} ", 299, " \u{e9} "),
    ] {
        for end in ["\r\n", "\n"] {
            let bytes = format!("{line}{end}{end}");
            let head = accept(bytes.as_bytes(), Method::Get);
            assert_eq!((head.status, head.reason.of(bytes.as_bytes())), (status, reason.as_bytes()), "{bytes:?}");
            assert_eq!(head.len, bytes.len());
        }
    }
    for line in [
        "HTTP/1.1  200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 X",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1 +20 OK",
        "HTTP/2.0 200 OK",
        "HTTP/1.1\t200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\rK",
        "HTTP/1.1 200\r200 OK",
        "",
        "\r\nHTTP/1.1 200 OK",
        "HTTP/1.",
        "garbage",
    ] {
        let result = parse(format!("{line}\r\n\r\n").as_bytes(), Method::Get).map(|head| head.is_some());
        assert_eq!(result, Err(ResponseError::BadLine), "{line:?}");
    }
}

#[test]
fn garbage_is_refused_before_its_line_ends() {
    for bytes in [&b"X"[..], b"HTTP/2", b"\r", b"HTTP/1.1 abc", b"HTTP/1.1 200\0"] {
        assert!(parse(bytes, Method::Get).is_err(), "{}", bytes.escape_ascii());
    }
}

#[test]
fn white_space_before_the_colon_is_removed() {
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Length \t : 5\r\nX_Y: 1\r\n\r\n";
    let head = accept(bytes, Method::Get);
    assert_eq!(head.body, Body::Length(5));
    let names: Vec<_> = head.fields.iter().map(|f| f.name.of(bytes)).collect();
    assert_eq!(names, [&b"Content-Length"[..], b"X_Y"]);
}

#[test]
fn fields_of_the_connection_are_marked() {
    let bytes = b"HTTP/1.1 200 OK\r\nConnection: X, Content-Length\r\nContent-Length: 1\r\nX: 1\r\nKeep-Alive: 1\r\nY: 1\r\n\r\n";
    let head = accept(bytes, Method::Get);
    let hops: Vec<_> = head.fields.iter().filter(|f| f.hop).map(|f| f.name.of(bytes)).collect();
    assert_eq!(hops, [&b"Connection"[..], b"X", b"Keep-Alive"]);
}

#[test]
fn large_heads_are_refused() {
    let limits = Limits { max_size: 64 * 1024, max_fields: 200, ..Limits::default() };
    let mut head = ResponseHead::new();
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let too_large = Err(ResponseError::Head(HeadError::TooLarge));
    assert_eq!(head.parse(large.as_bytes(), Method::Get, &limits), too_large);
    assert_eq!(head.parse(&large.as_bytes()[..64 * 1024], Method::Get, &limits), too_large);
    assert_eq!(head.parse(&large.as_bytes()[..64 * 1024 - 1], Method::Get, &limits), Ok(Parse::Partial));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(201));
    let too_many = Err(ResponseError::Head(HeadError::TooManyFields));
    assert_eq!(head.parse(many.as_bytes(), Method::Get, &limits), too_many);
}

/// Bytes that often are, or nearly are, a response.
fn responses() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "HTTP/1.1 200 OK",
        "HTTP/1.1 204 ",
        "HTTP/1.1 304",
        "HTTP/1.0 200 OK",
        "HTTP/1.1 103 Early Hints",
        "HTTP/1.1 20",
    ]);
    let field = prop::sample::select(vec![
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "X: 1",
        "Connection: close, X",
        "X : 1",
        " folded",
        "",
    ]);
    let end = prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\n", "\r"]);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
    (line, prop::collection::vec((end, field), 0..5), changes).prop_map(|(line, fields, changes)| {
        let fields: String = fields.into_iter().map(|(end, field)| format!("{end}{field}")).collect();
        let mut text = format!("{line}{fields}\r\n\r\n").into_bytes();
        for (at, b) in changes {
            let at = at.index(text.len());
            text[at] = b;
        }
        text
    })
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, Method::Get);
    }

    /// A prefix of a good head is incomplete, and what is wrong with a prefix is wrong with the whole.
    #[test]
    fn it_does_not_matter_how_a_head_arrives(bytes in responses()) {
        let whole = parse(&bytes, Method::Get);
        for n in 0..bytes.len() {
            match (&whole, parse(&bytes[..n], Method::Get)) {
                (_, Ok(None)) => {}
                (Ok(Some(head)), Ok(Some(part))) if n >= head.len => prop_assert_eq!(part.len, head.len),
                (Err(_), Err(_)) => {}
                (whole, part) => prop_assert!(false, "{n} of {}: {part:?}, {whole:?}", bytes.escape_ascii()),
            }
        }
    }

    /// A response without a body is one for every method, and HEAD changes nothing else.
    #[test]
    fn head_only_takes_the_body_away(bytes in responses()) {
        match (parse(&bytes, Method::Get), parse(&bytes, Method::Head)) {
            (Ok(Some(get)), Ok(Some(head))) => {
                prop_assert_eq!(head.body, Body::None);
                prop_assert_eq!((get.len, get.status, get.fields), (head.len, head.status, head.fields));
            }
            (get, head) => prop_assert_eq!(get.err(), head.err()),
        }
    }
}
