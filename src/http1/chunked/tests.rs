#![expect(clippy::indexing_slicing, reason = "tests may panic")]

use proptest::prelude::*;

use super::*;

/// Data, and bytes of the whole body; `None` while it has not ended.
fn decode(bytes: &[u8], cuts: usize) -> Result<(Vec<u8>, Option<usize>), ChunkError> {
    let mut decoder = Chunked::new();
    let mut data = Vec::new();
    let mut at = 0;
    for part in bytes.chunks(cuts.max(1)) {
        let end = at + part.len();
        while at < end {
            match decoder.step(&bytes[at..end])? {
                Piece::Data(n) => {
                    assert!(n > 0);
                    data.extend_from_slice(&bytes[at..at + n]);
                    at += n;
                }
                Piece::Framing(n) => {
                    assert!(n > 0);
                    at += n;
                }
                Piece::End(n) => return Ok((data, Some(at + n))),
                Piece::More => panic!("no progress"),
            }
        }
    }
    Ok((data, None))
}

/// The result for the whole, which must be that for any pieces.
fn run(bytes: &[u8]) -> Result<(Vec<u8>, Option<usize>), ChunkError> {
    let whole = decode(bytes, bytes.len());
    for cuts in 1..bytes.len().min(16) {
        assert_eq!(decode(bytes, cuts), whole, "{} in pieces of {cuts}", bytes.escape_ascii());
    }
    whole
}

#[test]
fn bodies_are_taken_apart() {
    for (bytes, data) in [
        ("0\r\n\r\n", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n6\r\n world\r\n000\r\n\r\n", "hello world"),
        ("0000000000000005\r\nhello\r\n0\r\n\r\n", "hello"),
        ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("a;x\r\n0123456789\r\n0;last\r\n\r\n", "0123456789"),
        ("1;a=b;c=\"d;\\\"\te\"\r\n\r\r\n0\r\n\r\n", "\r"),
        ("1 ; a = b\r\nx\r\n0\r\n\r\n", "x"),
        ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n"),
        ("0\r\nX-Sum: 1\r\nEmpty:\r\n\r\n", ""),
        ("0\r\nX: \ta\u{e9}\t\r\n\r\n", ""),
    ] {
        assert_eq!(run(bytes.as_bytes()), Ok((data.into(), Some(bytes.len()))), "{bytes:?}");
        let more = format!("{bytes}GET / HTTP/1.1\r\n");
        assert_eq!(run(more.as_bytes()), Ok((data.into(), Some(bytes.len()))), "{bytes:?} and more");
        for n in 0..bytes.len() {
            assert_eq!(run(&bytes.as_bytes()[..n]).map(|r| r.1), Ok(None), "{n} of {bytes:?}");
        }
    }
}

#[test]
fn whatever_two_decoders_could_read_differently_is_refused() {
    use ChunkError as E;
    for (bytes, error) in [
        ("\r\n", E::BadSize),
        ("x\r\n", E::BadSize),
        ("0x1\r\nx\r\n", E::BadSize),
        (" 1\r\nx\r\n", E::BadSize),
        ("\t1\r\nx\r\n", E::BadSize),
        ("+1\r\n", E::BadSize),
        ("-1\r\n", E::BadSize),
        ("1_0\r\n", E::BadSize),
        (";a\r\n", E::BadSize),
        ("1 \r\nx\r\n", E::BadSize),
        ("1 1\r\n", E::BadSize),
        ("1,1\r\n", E::BadSize),
        ("10000000000000000\r\n", E::BadSize),
        ("00000000000000001\r\n", E::BadSize),
        ("1\nx\r\n", E::BadLineEnd),
        ("1\rx\r\n", E::BadLineEnd),
        ("1\r\r\nx\r\n", E::BadLineEnd),
        ("1;a\nx\r\n", E::BadLineEnd),
        ("1;a=\"\n\"\r\nx\r\n", E::BadLineEnd),
        ("1;a\rb\r\n", E::BadLineEnd),
        ("1;a=\"\r\n\"\r\nx\r\n", E::BadExtension),
        ("1;a=\"\\\n\"\r\nx\r\n", E::BadExtension),
        ("1;a\0\r\n", E::BadExtension),
        ("1;a\x0b\r\n", E::BadExtension),
        ("1;a(b)\r\n", E::BadExtension),
        ("1;\u{e9}\r\n", E::BadExtension),
        ("1\r\nxy", E::BadChunkEnd),
        ("1\r\nx\n", E::BadChunkEnd),
        ("1\r\nx0\r\n\r\n", E::BadChunkEnd),
        ("1\r\nx\rx", E::BadChunkEnd),
        ("0\r\n\n", E::BadLineEnd),
        ("0\r\n\rx", E::BadLineEnd),
        ("0\r\nX: 1\n", E::BadLineEnd),
        ("0\r\nX: 1\r\r\n", E::BadLineEnd),
        ("0\r\nX\n", E::BadLineEnd),
        ("0\r\nX\r\n", E::BadTrailer),
        ("0\r\n: 1\r\n", E::BadTrailer),
        ("0\r\nX : 1\r\n", E::BadTrailer),
        ("0\r\n folded\r\n", E::BadTrailer),
        ("0\r\nX: 1\r\n folded\r\n", E::BadTrailer),
        ("0\r\nX(y): 1\r\n", E::BadTrailer),
        ("0\r\nX: \0\r\n", E::BadTrailer),
        ("0\r\nContent-Length: 1\r\n", E::ForbiddenTrailer),
        ("0\r\ntransfer-encoding: chunked\r\n", E::ForbiddenTrailer),
        ("0\r\nX: 1\r\nHost: a\r\n", E::ForbiddenTrailer),
        ("0\r\nConnection: close\r\n", E::ForbiddenTrailer),
        ("0\r\nX-Forwarded-For: 192.0.2.1\r\n", E::ForbiddenTrailer),
        ("0\r\nCookie: a=b\r\n", E::ForbiddenTrailer),
    ] {
        assert_eq!(run(bytes.as_bytes()), Err(error), "{bytes:?}");
    }
}

#[test]
fn lines_and_trailers_are_bounded() {
    let line = |n: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(n));
    assert!(decode(line(4093).as_bytes(), 100).is_ok());
    assert_eq!(decode(line(4094).as_bytes(), 100), Err(ChunkError::LineTooLong));
    // The bound is for a line: many of them may exceed it.
    assert!(decode(["1;a=123456789\r\nx\r\n".repeat(1000).as_bytes(), b"0\r\n\r\n"].concat().as_slice(), 100).is_ok());
    let trailers = |n: usize| format!("0\r\n{}\r\n", "X: 45678\r\n".repeat(n));
    assert!(decode(trailers(900).as_bytes(), 100).is_ok());
    assert_eq!(decode(trailers(1000).as_bytes(), 100), Err(ChunkError::TrailersTooLarge));
    let name = format!("0\r\n{}: 1\r\n\r\n", "x".repeat(1000));
    assert_eq!(decode(name.as_bytes(), 7), Ok((vec![], Some(name.len()))));
}

#[test]
fn the_rest_of_a_chunk_can_pass_elsewhere() {
    let mut decoder = Chunked::new();
    assert_eq!(decoder.remaining(), 0);
    decoder.skip(10);
    assert_eq!(decoder.step(b"ffffffffffffffff\r\nab"), Ok(Piece::Framing(18)));
    assert_eq!(decoder.remaining(), u64::MAX);
    assert_eq!(decoder.step(b"ab"), Ok(Piece::Data(2)));
    decoder.skip(u64::MAX - 3);
    assert_eq!(decoder.remaining(), 1);
    decoder.skip(1);
    assert_eq!(decoder.remaining(), 0);
    assert_eq!(decoder.step(b""), Ok(Piece::More));
    assert_eq!(decoder.step(b"\r\n0\r\n\r\n"), Ok(Piece::End(7)));
    assert_eq!(decoder.step(b"x"), Ok(Piece::End(0)));
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8), cuts in 1usize..50) {
        let mut bytes = Vec::new();
        for (i, chunk) in chunks.iter().enumerate() {
            let line = if i % 2 == 0 { format!("{:x}\r\n", chunk.len()) } else { format!("{:04X};a=\"b\"\r\n", chunk.len()) };
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\nX: 1\r\n\r\n");
        prop_assert_eq!(decode(&bytes, cuts), Ok((chunks.concat(), Some(bytes.len()))));
    }

    #[test]
    fn pieces_do_not_matter(bytes in "([0-9a-f]{1,2}|;|\r\n|\r|\n|a=b|\"|X: 1\r\n|0\r\n\r\n| ){0,16}", cuts in 1usize..8) {
        prop_assert_eq!(decode(bytes.as_bytes(), cuts), decode(bytes.as_bytes(), bytes.len()));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode(&bytes, bytes.len());
    }
}
