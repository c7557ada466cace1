//! What RFC 9113 and RFC 7541 want of a server: frames, and what comes of them. The cases are those of h2spec.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;

use super::config;
use crate::support::frames::*;
use crate::support::proxy::Proxy;
use crate::support::wire::ok;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

/// What is sent behind the preface and empty settings; a PING follows.
struct Case {
    section: &'static str,
    what: &'static str,
    sent: Vec<u8>,
    fate: Fate,
}

fn case(section: &'static str, what: &'static str, sent: &[Vec<u8>], fate: Fate) -> Case {
    Case { section, what, sent: sent.concat(), fate }
}

/// Headers of stream 1 with END_STREAM, made of these bytes.
fn raw(bytes: &[u8]) -> Vec<u8> {
    frame(HEADERS, END, 1, bytes)
}

/// A GET on stream 1 with these fields beside or in place of its own.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    raw(&block(fields))
}

fn get_with(more: &[(&str, &str)]) -> Vec<u8> {
    fields(&request("GET", "/", more))
}

fn cases() -> Vec<Case> {
    use Fate::*;
    let head = block(&request("GET", "/", &[]));
    let (front, back) = head.split_at(10);
    let long = "x".repeat(20_000);
    let data = |flags, id, bytes: &[u8]| frame(DATA, flags, id, bytes);
    vec![
        case("3.4", "SETTINGS and a PING", &[], Alive),
        case("4.1", "a frame of an unknown type", &[frame(0x99, NONE, 0, b"abc"), frame(0x99, NONE, 1, b"")], Alive),
        case("4.1", "unknown flags", &[frame(PING, 0x16, 0, b"question")], Alive),
        case("4.1", "the reserved bit", &[frame(PING, NONE, 0x8000_0000, b"question")], Alive),
        case("4.2", "DATA of 2^14 bytes", &[post(1, "/", &[]), data(END_STREAM, 1, &[7; 16_384])], Answer(1, 200)),
        case("4.2", "DATA of more", &[post(1, "/", &[]), data(END_STREAM, 1, &[7; 16_385])], Gone(FRAME_SIZE_ERROR)),
        case("4.2", "HEADERS of more", &[get_with(&[("x", &long)])], Gone(FRAME_SIZE_ERROR)),
        case(
            "4.3",
            "PRIORITY in a block",
            &[frame(HEADERS, END_STREAM, 1, front), frame(PRIORITY, NONE, 1, &[0, 0, 0, 0, 9])],
            Gone(PROTOCOL_ERROR),
        ),
        case(
            "4.3",
            "HEADERS of another stream in a block",
            &[frame(HEADERS, END_STREAM, 1, front), get(3, "/")],
            Gone(PROTOCOL_ERROR),
        ),
        case("5.1", "idle: DATA", &[data(NONE, 1, b"x")], Gone(PROTOCOL_ERROR)),
        case("5.1", "idle: RST_STREAM", &[reset(1, 8)], Gone(PROTOCOL_ERROR)),
        case("5.1", "idle: WINDOW_UPDATE", &[window(1, 100)], Gone(PROTOCOL_ERROR)),
        case("5.1", "idle: CONTINUATION", &[frame(CONTINUATION, END_HEADERS, 1, back)], Gone(PROTOCOL_ERROR)),
        case("5.1", "half-closed (remote): DATA", &[get(1, "/"), data(END_STREAM, 1, b"x")], Gone(STREAM_CLOSED)),
        case("5.1", "half-closed (remote): HEADERS", &[get(1, "/"), get(1, "/")], Gone(STREAM_CLOSED)),
        case(
            "5.1",
            "half-closed (remote): CONTINUATION",
            &[get(1, "/"), frame(CONTINUATION, END_HEADERS, 1, back)],
            Gone(PROTOCOL_ERROR),
        ),
        case(
            "5.1",
            "closed by RST_STREAM: DATA",
            &[post(1, "/", &[]), reset(1, 8), data(END_STREAM, 1, b"x")],
            Gone(STREAM_CLOSED),
        ),
        case(
            "5.1",
            "closed by RST_STREAM: HEADERS",
            &[post(1, "/", &[]), reset(1, 8), get(1, "/")],
            Gone(STREAM_CLOSED),
        ),
        case(
            "5.1",
            "closed by RST_STREAM: CONTINUATION",
            &[post(1, "/", &[]), reset(1, 8), frame(CONTINUATION, END_HEADERS, 1, back)],
            Gone(PROTOCOL_ERROR),
        ),
        case(
            "5.1",
            "closed by RST_STREAM: WINDOW_UPDATE, RST_STREAM, PRIORITY",
            &[post(1, "/", &[]), reset(1, 8), window(1, 9), reset(1, 8), frame(PRIORITY, NONE, 1, &[0, 0, 0, 0, 9])],
            Alive,
        ),
        case(
            "5.1",
            "closed: DATA of a stream that was passed over",
            &[get(5, "/"), data(END_STREAM, 3, b"x")],
            Reset(3, STREAM_CLOSED),
        ),
        case("5.1.1", "an even stream", &[get(2, "/")], Gone(PROTOCOL_ERROR)),
        case("5.1.1", "a stream below the last", &[get(5, "/"), get(3, "/")], Gone(PROTOCOL_ERROR)),
        case(
            "5.3.1",
            "HEADERS that depend on themselves",
            &[frame(HEADERS, END | WITH_PRIORITY, 1, &[&[0, 0, 0, 1, 9], &head[..]].concat())],
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "5.3.1",
            "PRIORITY that depends on itself",
            &[get(1, "/"), frame(PRIORITY, NONE, 1, &[0, 0, 0, 1, 9])],
            Reset(1, PROTOCOL_ERROR),
        ),
        case("5.5", "an unknown frame between two others", &[get(1, "/"), frame(0x99, NONE, 1, b"x")], Answer(1, 200)),
        case(
            "5.5",
            "an unknown frame in a block",
            &[frame(HEADERS, END_STREAM, 1, front), frame(0x99, NONE, 1, b"")],
            Gone(PROTOCOL_ERROR),
        ),
        case("6.1", "DATA on stream 0", &[data(NONE, 0, b"x")], Gone(PROTOCOL_ERROR)),
        case(
            "6.1",
            "DATA with more padding than there is",
            &[post(1, "/", &[]), data(END_STREAM | PADDED, 1, &[9, 1, 2])],
            Gone(PROTOCOL_ERROR),
        ),
        case(
            "6.1",
            "DATA with padding",
            &[post(1, "/", &[]), data(END_STREAM | PADDED, 1, &[2, 1, 0, 0])],
            Answer(1, 200),
        ),
        case("6.2", "HEADERS on stream 0", &[frame(HEADERS, END, 0, &head)], Gone(PROTOCOL_ERROR)),
        case(
            "6.2",
            "HEADERS with more padding than there is",
            &[frame(HEADERS, END | PADDED, 1, &[&[255], &head[..]].concat())],
            Gone(PROTOCOL_ERROR),
        ),
        case(
            "6.2",
            "HEADERS with padding and priority",
            &[frame(HEADERS, END | PADDED | WITH_PRIORITY, 1, &[&[3, 0, 0, 0, 0, 9], &head[..], &[0; 3]].concat())],
            Answer(1, 200),
        ),
        case("6.3", "PRIORITY on stream 0", &[frame(PRIORITY, NONE, 0, &[0, 0, 0, 1, 9])], Gone(PROTOCOL_ERROR)),
        case("6.3", "PRIORITY of 4 bytes", &[frame(PRIORITY, NONE, 1, &[0; 4])], Gone(FRAME_SIZE_ERROR)),
        case("6.3", "PRIORITY of an idle stream", &[frame(PRIORITY, NONE, 7, &[0, 0, 0, 1, 9])], Alive),
        case("6.4", "RST_STREAM on stream 0", &[reset(0, 8)], Gone(PROTOCOL_ERROR)),
        case(
            "6.4",
            "RST_STREAM of 3 bytes",
            &[post(1, "/", &[]), frame(RST_STREAM, NONE, 1, &[0; 3])],
            Gone(FRAME_SIZE_ERROR),
        ),
        case("6.5", "an ACK with settings", &[frame(SETTINGS, ACK, 0, &[0; 6])], Gone(FRAME_SIZE_ERROR)),
        case("6.5", "SETTINGS on stream 1", &[frame(SETTINGS, NONE, 1, &[])], Gone(PROTOCOL_ERROR)),
        case("6.5", "SETTINGS of 5 bytes", &[frame(SETTINGS, NONE, 0, &[0; 5])], Gone(FRAME_SIZE_ERROR)),
        case("6.5.2", "ENABLE_PUSH 2", &[setting(&[(2, 2)])], Gone(PROTOCOL_ERROR)),
        case("6.5.2", "INITIAL_WINDOW_SIZE 2^31", &[setting(&[(1, 4096), (4, 1 << 31)])], Gone(FLOW_CONTROL_ERROR)),
        case("6.5.2", "MAX_FRAME_SIZE below 2^14", &[setting(&[(5, 16_383)])], Gone(PROTOCOL_ERROR)),
        case("6.5.2", "MAX_FRAME_SIZE of 2^24", &[setting(&[(5, 1 << 24)])], Gone(PROTOCOL_ERROR)),
        case("6.5.2", "an unknown setting", &[setting(&[(0x99, 1)])], Alive),
        case("6.5.3", "the last of two values holds", &[setting(&[(4, 100), (4, 1)]), get(1, "/")], Answer(1, 200)),
        case(
            "6.6",
            "PUSH_PROMISE",
            &[get(1, "/"), frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2], &head[..]].concat())],
            Gone(PROTOCOL_ERROR),
        ),
        case("6.7", "PING of 7 bytes", &[frame(PING, NONE, 0, &[0; 7])], Gone(FRAME_SIZE_ERROR)),
        case("6.7", "PING on stream 1", &[frame(PING, NONE, 1, &[0; 8])], Gone(PROTOCOL_ERROR)),
        case("6.7", "an answer that nobody asked for", &[frame(PING, ACK, 0, &[0; 8])], Alive),
        case("6.8", "GOAWAY on stream 1", &[frame(GOAWAY, NONE, 1, &[0; 8])], Gone(PROTOCOL_ERROR)),
        case("6.8", "GOAWAY of 7 bytes", &[frame(GOAWAY, NONE, 0, &[0; 7])], Gone(FRAME_SIZE_ERROR)),
        case("6.9", "WINDOW_UPDATE by 0", &[window(0, 0)], Gone(PROTOCOL_ERROR)),
        case("6.9", "WINDOW_UPDATE of a stream by 0", &[post(1, "/", &[]), window(1, 0)], Gone(PROTOCOL_ERROR)),
        case("6.9", "WINDOW_UPDATE of 3 bytes", &[frame(WINDOW_UPDATE, NONE, 0, &[0; 3])], Gone(FRAME_SIZE_ERROR)),
        case("6.9.1", "a window above 2^31 - 1", &[window(0, MAX), window(0, MAX)], Gone(FLOW_CONTROL_ERROR)),
        case(
            "6.9.1",
            "a window of a stream above 2^31 - 1",
            &[post(1, "/", &[]), window(1, MAX), window(1, MAX)],
            Reset(1, FLOW_CONTROL_ERROR),
        ),
        case(
            "6.10",
            "a block in three frames",
            &[
                frame(HEADERS, END_STREAM, 1, front),
                frame(CONTINUATION, NONE, 1, &back[..5]),
                frame(CONTINUATION, END_HEADERS, 1, &back[5..]),
            ],
            Answer(1, 200),
        ),
        case(
            "6.10",
            "CONTINUATION behind the end of a block",
            &[post(1, "/", &[]), frame(CONTINUATION, END_HEADERS, 1, back)],
            Gone(PROTOCOL_ERROR),
        ),
        case(
            "6.10",
            "CONTINUATION behind the last of a block",
            &[
                frame(HEADERS, END_STREAM, 1, front),
                frame(CONTINUATION, END_HEADERS, 1, back),
                frame(CONTINUATION, END_HEADERS, 1, back),
            ],
            Gone(PROTOCOL_ERROR),
        ),
        case(
            "6.10",
            "CONTINUATION on stream 0",
            &[frame(HEADERS, END_STREAM, 1, front), frame(CONTINUATION, END_HEADERS, 0, back)],
            Gone(PROTOCOL_ERROR),
        ),
        case(
            "6.10",
            "CONTINUATION of another stream",
            &[frame(HEADERS, END_STREAM, 1, front), frame(CONTINUATION, END_HEADERS, 3, back)],
            Gone(PROTOCOL_ERROR),
        ),
        case(
            "6.10",
            "CONTINUATION behind DATA",
            &[post(1, "/", &[]), data(NONE, 1, b"x"), frame(CONTINUATION, END_HEADERS, 1, back)],
            Gone(PROTOCOL_ERROR),
        ),
        case("7", "an unknown code in GOAWAY", &[frame(GOAWAY, NONE, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff])], Alive),
        case("7", "an unknown code in RST_STREAM", &[post(1, "/", &[]), reset(1, 0xff)], Alive),
        case(
            "8.1",
            "trailers without the end of the stream",
            &[post(1, "/", &[]), frame(HEADERS, END_HEADERS, 1, &block(&[("x", "y")]))],
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "8.1",
            "trailers",
            &[post(1, "/", &[]), data(NONE, 1, b"x"), frame(HEADERS, END, 1, &block(&[("x", "y")]))],
            Answer(1, 200),
        ),
        case(
            "8.1.1",
            "less DATA than Content-Length",
            &[post(1, "/", &[("content-length", "3")]), data(END_STREAM, 1, b"x")],
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "8.1.1",
            "more",
            &[post(1, "/", &[("content-length", "1")]), data(NONE, 1, b"x"), data(END_STREAM, 1, b"x")],
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "8.1.1",
            "less in several frames",
            &[
                post(1, "/", &[("content-length", "5")]),
                data(NONE, 1, b"x"),
                data(NONE, 1, b"x"),
                data(END_STREAM, 1, b"x"),
            ],
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "8.1.1",
            "less, and trailers",
            &[
                post(1, "/", &[("content-length", "5")]),
                data(NONE, 1, b"x"),
                frame(HEADERS, END, 1, &block(&[("x", "y")])),
            ],
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "8.1.1",
            "two different ones",
            &[get_with(&[("content-length", "0"), ("content-length", "1")])],
            Reset(1, PROTOCOL_ERROR),
        ),
        case("8.1.1", "a sign", &[get_with(&[("content-length", "+0")])], Reset(1, PROTOCOL_ERROR)),
        case("8.1.1", "none", &[get_with(&[("content-length", "1")])], Reset(1, PROTOCOL_ERROR)),
        case("8.1.1", "an empty Content-Length", &[get_with(&[("content-length", "")])], Answer(1, 400)),
        case("8.1.1", "two of them", &[get_with(&[("content-length", "0"), ("content-length", "0")])], Answer(1, 400)),
        case("8.2.1", "an upper-case name", &[get_with(&[("X-Test", "1")])], Gone(PROTOCOL_ERROR)),
        case("8.2.1", "an empty name", &[get_with(&[("", "1")])], Gone(PROTOCOL_ERROR)),
        case("8.2.1", "a name with a colon", &[get_with(&[("x:y", "1")])], Gone(PROTOCOL_ERROR)),
        case("8.2.1", "a name with a space", &[get_with(&[("x y", "1")])], Gone(PROTOCOL_ERROR)),
        case("8.2.1", "CR LF in a value", &[get_with(&[("x", "a\r\nhost: b")])], Gone(PROTOCOL_ERROR)),
        case("8.2.1", "NUL in a value", &[get_with(&[("x", "a\0")])], Gone(PROTOCOL_ERROR)),
        case("8.2.1", "a space in front of a value", &[get_with(&[("x", " a")])], Answer(1, 400)),
        case("8.2.1", "a tab behind a value", &[get_with(&[("x", "a\t")])], Answer(1, 400)),
        case("8.2.2", "Connection", &[get_with(&[("connection", "keep-alive")])], Reset(1, PROTOCOL_ERROR)),
        case("8.2.2", "Transfer-Encoding", &[get_with(&[("transfer-encoding", "chunked")])], Reset(1, PROTOCOL_ERROR)),
        case("8.2.2", "Upgrade", &[get_with(&[("upgrade", "websocket")])], Reset(1, PROTOCOL_ERROR)),
        case("8.2.2", "HTTP2-Settings", &[get_with(&[("http2-settings", "AAAA")])], Answer(1, 400)),
        case("8.2.2", "TE: gzip", &[get_with(&[("te", "gzip")])], Reset(1, PROTOCOL_ERROR)),
        case("8.2.2", "TE: trailers", &[get_with(&[("te", "trailers")])], Answer(1, 200)),
        case("8.3", "an unknown pseudo-header", &[get_with(&[(":test", "1")])], Gone(PROTOCOL_ERROR)),
        case("8.3", "one of responses", &[fields(&[(":status", "200")])], Reset(1, PROTOCOL_ERROR)),
        case(
            "8.3",
            "one behind a field",
            &[fields(&[(":method", "GET"), (":scheme", "http"), ("x", "y"), (":path", "/"), (":authority", "a.test")])],
            Reset(1, PROTOCOL_ERROR),
        ),
        // Malformed, as the RFC has it; h2 leaves them out instead, so that nobody sees them.
        case(
            "8.3",
            "pseudo-headers in trailers",
            &[post(1, "/", &[]), frame(HEADERS, END, 1, &block(&[(":method", "GET")]))],
            Answer(1, 200),
        ),
        case(
            "8.3",
            "a pseudo-header behind a field of trailers",
            &[post(1, "/", &[]), frame(HEADERS, END, 1, &block(&[("x", "y"), (":method", "GET")]))],
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "8.3.1",
            "no method",
            &[fields(&[(":scheme", "http"), (":path", "/"), (":authority", "a.test")])],
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "8.3.1",
            "no scheme",
            &[fields(&[(":method", "GET"), (":path", "/"), (":authority", "a.test")])],
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "8.3.1",
            "no path",
            &[fields(&[(":method", "GET"), (":scheme", "http"), (":authority", "a.test")])],
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "8.3.1",
            "no path and no authority",
            &[fields(&[(":method", "GET"), (":scheme", "http"), ("host", "a.test")])],
            Answer(1, 400),
        ),
        case("8.3.1", "an empty path", &[fields(&request("GET", "", &[]))], Reset(1, PROTOCOL_ERROR)),
        case("8.3.1", "a path without a slash", &[fields(&request("GET", "x", &[]))], Reset(1, PROTOCOL_ERROR)),
        case(
            "8.3.1",
            "a whole URI as the path",
            &[fields(&request("GET", "http://b.test/", &[]))],
            Reset(1, PROTOCOL_ERROR),
        ),
        case("8.3.1", "a space in the path", &[fields(&request("GET", "/ HTTP/1.1", &[]))], Reset(1, PROTOCOL_ERROR)),
        case("8.3.1", "* for GET", &[fields(&request("GET", "*", &[]))], Answer(1, 400)),
        case("8.3.1", "* for OPTIONS", &[fields(&request("OPTIONS", "*", &[]))], Answer(1, 200)),
        case("8.3.1", "two methods", &[get_with(&[(":method", "GET")])], Reset(1, PROTOCOL_ERROR)),
        case(
            "8.3.1",
            "two paths",
            &[fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":path", "/")])],
            Reset(1, PROTOCOL_ERROR),
        ),
        case(
            "8.3.1",
            "two schemes",
            &[fields(&[(":method", "GET"), (":scheme", "http"), (":scheme", "http"), (":path", "/")])],
            Reset(1, PROTOCOL_ERROR),
        ),
        case("8.3.1", "a method with a space", &[fields(&request("GET /", "/", &[]))], Gone(PROTOCOL_ERROR)),
        case(
            "8.3.1",
            "userinfo in the authority",
            &[fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "u@a.test")])],
            Answer(1, 400),
        ),
        case("8.3.1", "Host beside the same authority", &[get_with(&[("host", "A.TEST")])], Answer(1, 200)),
        case("8.3.1", "another Host", &[get_with(&[("host", "b.test")])], Answer(1, 400)),
        case("8.3.1", "two Hosts", &[get_with(&[("host", "a.test"), ("host", "a.test")])], Answer(1, 400)),
        case("8.3.1", "neither", &[fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/")])], Answer(1, 400)),
        case(
            "8.3.1",
            "Host alone",
            &[fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "a.test")])],
            Answer(1, 200),
        ),
        case("8.5", "CONNECT", &[fields(&[(":method", "CONNECT"), (":authority", "a.test:443")])], Answer(1, 405)),
        case(
            "8.5",
            "CONNECT with a protocol (RFC 8441)",
            &[fields(&request("CONNECT", "/", &[(":protocol", "websocket")]))],
            Reset(1, PROTOCOL_ERROR),
        ),
        // Behind it is a fragment, which is no part of a request.
        case("8.3.1", "# in the path", &[fields(&request("GET", "/#x", &[]))], Answer(1, 200)),
        case(
            "7541 2.3.2",
            "an entry of the dynamic table",
            &[raw(&[&head[..], b"\x40\x01x\x01y", &[0x80 | 62]].concat())],
            Answer(1, 200),
        ),
        case(
            "7541 6.2.3",
            "a field that is never indexed",
            &[raw(&[&head[..], b"\x10\x01x\x01y"].concat())],
            Answer(1, 200),
        ),
        case("7541 5.2", "Huffman's code", &[raw(&[&head[..], b"\x00\x01x\x81\x1f"].concat())], Answer(1, 200)),
        case(
            "7541 4.2",
            "size updates in front",
            &[raw(&[&[0x20, 0x3f, 0xe1, 0x1f], &head[..]].concat())],
            Answer(1, 200),
        ),
        case(
            "7541 5.1",
            "a number above every limit",
            &[raw(&[&head[..], &[0xff; 12]].concat())],
            Gone(COMPRESSION_ERROR),
        ),
        case(
            "7541 2.3.3",
            "an index behind the static table",
            &[raw(&[&head[..], &[0x80 | 70]].concat())],
            Gone(COMPRESSION_ERROR),
        ),
        case(
            "7541 2.3.3",
            "a name behind the static table",
            &[raw(&[&head[..], &[0x40 | 63, 7, 1, b'x']].concat())],
            Gone(COMPRESSION_ERROR),
        ),
        case(
            "7541 4.2",
            "a size update behind a field",
            &[raw(&[&head[..], &[0x20]].concat())],
            Gone(COMPRESSION_ERROR),
        ),
        case(
            "7541 5.2",
            "padding of more than 7 bits",
            &[raw(&[&head[..], b"\x00\x01x\x84\xff\xff\xff\xff"].concat())],
            Gone(COMPRESSION_ERROR),
        ),
        case(
            "7541 5.2",
            "padding of zeros",
            &[raw(&[&head[..], b"\x00\x01x\x81\x18"].concat())],
            Gone(COMPRESSION_ERROR),
        ),
        case(
            "7541 5.2",
            "the symbol of the end",
            &[raw(&[&head[..], b"\x00\x01x\x84\xff\xff\xff\xfc"].concat())],
            Gone(COMPRESSION_ERROR),
        ),
        case("7541 6.1", "index 0", &[raw(&[&head[..], &[0x80]].concat())], Gone(COMPRESSION_ERROR)),
        case(
            "7541 6.3",
            "a table above the limit",
            &[raw(&[&[0x3f, 0xe1, 0xff, 0x03], &head[..]].concat())],
            Gone(COMPRESSION_ERROR),
        ),
        case("7541 6", "a block that ends in a field", &[raw(&head[..head.len() - 1])], Gone(COMPRESSION_ERROR)),
        case(
            "7541 5.1",
            "an integer without an end",
            &[raw(&[&head[..], &[0xff, 0x80, 0x80, 0x80, 0x80]].concat())],
            Gone(COMPRESSION_ERROR),
        ),
        case(
            "4.3",
            "a block that ends in a field, in two frames",
            &[frame(HEADERS, END_STREAM, 1, front), frame(CONTINUATION, END_HEADERS, 1, &back[..back.len() - 1])],
            Gone(COMPRESSION_ERROR),
        ),
        case(
            "4.3",
            "trailers with index 0",
            &[post(1, "/", &[]), frame(HEADERS, END, 1, &[0x80])],
            Gone(COMPRESSION_ERROR),
        ),
        case(
            "4.2",
            "HEADERS without the priority that is announced",
            &[frame(HEADERS, END | WITH_PRIORITY, 1, &[0; 4])],
            Gone(FRAME_SIZE_ERROR),
        ),
        case(
            "4.2",
            "DATA without the length of its padding",
            &[post(1, "/", &[]), data(PADDED, 1, b"")],
            Gone(FRAME_SIZE_ERROR),
        ),
    ]
}

const MAX: u32 = 0x7fff_ffff;

#[test]
fn every_error_has_its_code_and_its_scope() {
    let proxy = Proxy::start(&config("", origin(), ""));
    let mut wrong = Vec::new();
    for Case { section, what, sent, fate } in cases() {
        let mut client = Frames::connect(proxy.addr(), &[]);
        client.try_send(&[&sent[..], &ping()].concat());
        let got = loop {
            match client.fate() {
                // The PING is answered before what concerns a stream only.
                Fate::Alive if fate != Fate::Alive => {}
                Fate::Answer(..) if !matches!(fate, Fate::Answer(..) | Fate::Alive) => {}
                got => break got,
            }
        };
        if got != fate {
            wrong.push(format!("{section} {what}: {got:?}, not {fate:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_is_no_preface_is_no_connection() {
    let proxy = Proxy::start(&config("", origin(), ""));
    let mut client = Frames::silent(proxy.addr());
    client.send(b"INVALID CONNECTION PREFACE\r\n\r\n");
    assert!(client.rest().starts_with(b"HTTP/1.1 400"));
    let mut client = Frames::silent(proxy.addr());
    client.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    assert_eq!(client.fate(), Fate::Closed);
}

#[test]
fn settings_and_pings_are_acknowledged() {
    let proxy = Proxy::start(&config("", origin(), ""));
    let mut client = Frames::connect(proxy.addr(), &[(3, 100)]);
    client.send(&ping());
    let settings = client.next_of(SETTINGS).unwrap();
    assert_eq!((settings.flags, settings.id), (NONE, 0));
    let ack = client.next_of(SETTINGS).unwrap();
    assert_eq!((ack.flags, ack.id, &ack.payload[..]), (ACK, 0, &b""[..]));
    let pong = client.next_of(PING).unwrap();
    assert_eq!((pong.flags, &pong.payload[..]), (ACK, &b"question"[..]));
}

/// RFC 9113 section 6.9.2.
#[test]
fn the_windows_of_streams_follow_the_settings() {
    let proxy = Proxy::start(&config("", origin(), ""));
    let mut client = Frames::connect(proxy.addr(), &[(4, 0)]);
    client.send(&get(1, "/"));
    assert_eq!(client.fate(), Fate::Answer(1, 200));
    client.send(&setting(&[(4, 3)]));
    assert_eq!(client.next_of(DATA).unwrap().payload, b"hel");
    // To -1, and back to 1.
    client.send(&[setting(&[(4, 2)]), window(1, 2)].concat());
    let last = client.next_of(DATA).unwrap();
    assert_eq!((&last.payload[..], last.flags), (&b"l"[..], NONE));
    client.send(&window(1, 100));
    assert_eq!(client.next_of(DATA).unwrap().payload, b"o");
}

/// A server that answers what is whole, and is used to clients that leave.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut held, mut piece) = (Vec::new(), [0; 4096]);
                while let Ok(n @ 1..) = stream.read(&mut piece) {
                    held.extend(&piece[..n]);
                    let text = String::from_utf8_lossy(&held);
                    let is_whole = match text.split_once("\r\n\r\n") {
                        Some((head, body)) if head.contains("chunked") => {
                            (body.starts_with("0\r\n") || body.contains("\r\n0\r\n")) && body.ends_with("\r\n\r\n")
                        }
                        Some((head, body)) => {
                            !head.contains("content-length") || !body.is_empty() || head.contains(": 0")
                        }
                        None => false,
                    };
                    if is_whole {
                        held.clear();
                        let _ = stream.write_all(ok("hello").as_bytes());
                    }
                }
            });
        }
    });
    addr
}
