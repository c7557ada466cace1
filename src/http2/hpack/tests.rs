use std::cell::RefCell;
use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use h2::Reason;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;

/// Bytes that are written as digits, in groups as the RFC has them.
fn hex(digits: &str) -> Vec<u8> {
    HEXLOWER.decode(digits.replace(' ', "").as_bytes()).expect("an even number of digits")
}

/// One block, given in pieces of `size`.
fn whole(blocks: &mut Blocks, block: &[u8], size: usize) -> Result<(), HpackError> {
    blocks.begin();
    block.chunks(size).try_for_each(|piece| blocks.take(piece))?;
    blocks.end()
}

fn take(block: &[u8]) -> Result<(), HpackError> {
    whole(&mut Blocks::new(), block, usize::MAX)
}

/// What the entries count, from the latest on.
fn sizes(blocks: &Blocks) -> Vec<u16> {
    assert_eq!(blocks.table.size, blocks.table.entries.iter().map(|entry| u32::from(entry.size)).sum::<u32>());
    blocks.table.entries.iter().map(|entry| entry.size).collect()
}

/// RFC 7541 appendix C: blocks of one connection, and what the entries of the table count behind each.
const EXAMPLES: &[&[(&str, &[u16])]] = &[
    &[("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", &[55])],
    &[("040c 2f73 616d 706c 652f 7061 7468", &[])],
    &[("1008 7061 7373 776f 7264 0673 6563 7265 74", &[])],
    &[("82", &[])],
    &[
        ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", &[57]),
        ("8286 84be 5808 6e6f 2d63 6163 6865", &[53, 57]),
        ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", &[54, 53, 57]),
    ],
    &[
        ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &[57]),
        ("8286 84be 5886 a8eb 1064 9cbf", &[53, 57]),
        ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", &[54, 53, 57]),
    ],
    // The table of these two has 256 bytes, which the first block says here.
    &[
        (
            "3fe1 01 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 \
             3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            &[63, 65, 52, 42],
        ),
        ("4803 3330 37c1 c0bf", &[42, 63, 65, 52]),
        (
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 \
             666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 \
             3630 303b 2076 6572 7369 6f6e 3d31",
            &[98, 52, 65],
        ),
    ],
    &[
        (
            "3fe1 01 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d \
             29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            &[63, 65, 52, 42],
        ),
        ("4883 640e ffc1 c0bf", &[42, 63, 65, 52]),
        (
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 \
             b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
            &[98, 52, 65],
        ),
    ],
];

#[test]
fn the_examples_of_the_rfc_leave_its_tables() {
    for example in EXAMPLES {
        let mut blocks = Blocks::new();
        for (block, table) in *example {
            assert_eq!(whole(&mut blocks, &hex(block), 3), Ok(()), "{block}");
            assert_eq!(sizes(&blocks), *table, "{block}");
        }
    }
}

#[test]
fn what_the_rfc_refuses_is_refused_by_its_name() {
    let cases = [
        ("80", HpackError::Index),
        ("be", HpackError::Index),
        ("7f00 0178", HpackError::Index),
        ("0f2f 0178", HpackError::Index),
        // 4096 is the most, as 3f e1 1f.
        ("3fe2 1f", HpackError::TableSize),
        ("8220", HpackError::TableSize),
        ("3fe1 1f 3fe1 1f 82 3f", HpackError::TableSize),
        ("ff80 8080 80", HpackError::Integer),
        ("0001 787f ffff ffff", HpackError::Integer),
        ("00ff ffff ffff", HpackError::Integer),
        ("0001 7884 ffff fffc", HpackError::Huffman),
        ("0001 7884 ffff ffff", HpackError::Huffman),
        // 8 bits of padding behind a symbol, and zeros.
        ("0001 7882 1fff", HpackError::Huffman),
        ("0001 7881 ff", HpackError::Huffman),
        ("0001 7881 18", HpackError::Huffman),
        ("0081 18", HpackError::Huffman),
        ("82 40", HpackError::Truncated),
        ("3f", HpackError::Truncated),
        ("ff80", HpackError::Truncated),
        ("0001 78", HpackError::Truncated),
        ("0001 7802 61", HpackError::Truncated),
        ("0001 7883 1f", HpackError::Truncated),
    ];
    for (block, error) in cases {
        assert_eq!(take(&hex(block)), Err(error), "{block}");
        // Nor does a connection of h2 survive it.
        assert!(!h2_takes(&[hex(block)]), "{block}");
    }
    for block in ["", "3fe1 1f", "20 20 82", "0f80 8080 0000", "0001 7800", "0001 7880", "0001 7881 1f", "4001 7800 be"]
    {
        assert_eq!(take(&hex(block)), Ok(()), "{block}");
        assert!(h2_takes(&[hex(block)]), "{block}");
    }
}

#[test]
fn a_block_is_not_over_when_its_frame_is() {
    let mut blocks = Blocks::new();
    blocks.begin();
    assert_eq!(blocks.take(&[0x82]), Ok(()));
    // Here h2 takes a new size, as at the start of a block.
    assert_eq!(blocks.take(&[0x20]), Err(HpackError::TableSize));
}

#[test]
fn names_of_the_static_table_have_their_lengths() {
    for (at, len) in STATIC_NAMES.into_iter().enumerate() {
        let index = at as u32 + 1;
        let value = match index {
            2 | 3 => "GET",
            8..15 => "200",
            _ => "",
        };
        let size = ENTRY + u32::from(len) + value.len() as u32;
        for (limit, found) in [(size, Ok(())), (size - 1, Err(HpackError::Index))] {
            // A table that it just fits, and what is in that.
            let mut block = integer(0x20, 5, limit, 0);
            block.extend(integer(0x40, 6, index, 0));
            block.extend(text(value.as_bytes()));
            block.push(0x80 | 62);
            assert_eq!(take(&block), found, "{index}");
            assert_eq!(h2_takes(&[block]), found.is_ok(), "{index}");
        }
    }
}

#[test]
fn every_symbol_counts_once() {
    for byte in (0x20..=0x7e).chain(0x80..=0xff) {
        for len in [1, 2, 7, 8, 50] {
            let value = vec![byte; len];
            let mut blocks = Blocks::new();
            let frames = h2_encodes(None, &[vec![("x".into(), value, true)]]);
            assert_eq!(whole(&mut blocks, &frames[0], 1), Ok(()));
            // Of the last field, which this one is.
            assert_eq!((blocks.name, blocks.value), (1, len as u32), "{byte:#x}");
        }
    }
    // No value of a field has these: 0 (13 bits), 1 (23), 2 (28), LF, CR and SYN (30), DEL (28), and all of the last.
    for (string, len) in [
        ("ffc7", 1),
        ("ffff b1", 1),
        ("ffff fe2f", 1),
        ("ffff fff3", 1),
        ("ffff fff7", 1),
        ("ffff fffb", 1),
        ("ffff ffcf", 1),
        ("ffff fff3 ffff ffcf ffff ff7f", 3),
    ] {
        let mut symbols = Symbols::new();
        let string = hex(string);
        assert_eq!(symbols.take(&string), Some(len), "{string:x?}");
        assert!(symbols.may_end(), "{string:x?}");
    }
}

#[test]
fn an_entry_that_is_too_large_empties_the_table() {
    let mut blocks = Blocks::new();
    let stored = |len: usize| [&hex("40 01 78")[..], &text(&vec![b'v'; len])].concat();
    assert_eq!(whole(&mut blocks, &stored(4063), 1000), Ok(()));
    assert_eq!(sizes(&blocks), [4096]);
    assert_eq!(whole(&mut blocks, &[0x80 | 62], 1), Ok(()));
    assert_eq!(whole(&mut blocks, &stored(4064), 1000), Ok(()));
    assert!(sizes(&blocks).is_empty());
    // The smallest entries there are: 128 of them.
    let smallest = hex("40 00 00").repeat(130);
    assert_eq!(whole(&mut blocks, &smallest, 7), Ok(()));
    assert_eq!(sizes(&blocks), [32; 128]);
}

/// A field, or a size of the table.
#[derive(Debug, Clone)]
enum Piece {
    Index(u32, usize),
    /// The first byte without an index, and the bits that are left for that; a name by index or text.
    Literal((u8, u32), Result<u32, Vec<u8>>, Vec<u8>),
    Resize(u32, usize),
}

impl Piece {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Index(index, zeros) => integer(0x80, 7, *index, *zeros),
            Self::Resize(size, zeros) => integer(0x20, 5, *size, *zeros),
            Self::Literal((first, bits), Ok(index), value) => {
                [integer(*first, *bits, *index, 0), value.clone()].concat()
            }
            Self::Literal((first, _), Err(name), value) => [&[*first], &name[..], value].concat(),
        }
    }
}

/// An integer behind the bits of `first`, with so many bytes that add nothing.
fn integer(first: u8, bits: u32, value: u32, zeros: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let (mut out, mut rest) = (vec![first | most as u8], value - most);
    while rest > 0x7f {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
    for _ in 0..zeros {
        *out.last_mut().expect("there is one") |= 0x80;
        out.push(0);
    }
    out
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [integer(0, 7, bytes.len() as u32, 0), bytes.to_vec()].concat()
}

fn huffman(bytes: &[u8]) -> Vec<u8> {
    [integer(0x80, 7, bytes.len() as u32, 0), bytes.to_vec()].concat()
}

/// Strings that are right, or wrong in their code only: what h2 refuses for another reason is not among them.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![4 => 0usize..40, 2 => 100usize..300, 1 => 4000usize..4100];
    let known = select(vec![
        "a8eb10649cbf",
        "25a849e95bb8e8b4bf",
        "6402",
        "640eff",
        "aec3771a4b",
        "9bd9ab",
        "9d29ad171863c78f0b97c8e9ae82ae43d3",
        "d07abe941054d444a8200595040b8166e082a62d1bff",
    ]);
    // Codes of control characters have at least 10 ones in a row.
    let any = prop::collection::vec(any::<u8>().prop_map(|byte| byte & 0xef), 0..6);
    prop_oneof![
        10 => len.prop_map(|len| text(&vec![b'v'; len])),
        10 => known.prop_map(|digits| huffman(&hex(digits))),
        1 => any.prop_map(|bytes| huffman(&bytes)),
    ]
}

fn field() -> impl Strategy<Value = Piece> {
    let index = prop_oneof![10 => 1u32..62, 20 => 62u32..66, 3 => 60u32..200, 1 => Just(0)];
    let zeros = prop_oneof![20 => Just(0usize), 1 => 1usize..6];
    let name = prop_oneof![
        // Pseudo-headers have values of their own.
        4 => (15u32..62).prop_map(Ok),
        2 => (62u32..65).prop_map(Ok),
        2 => select(vec!["x", "abc-def", "name-of-thirty-bytes-0123456789"]).prop_map(|name| Err(text(name.as_bytes()))),
        2 => Just(Err(huffman(&hex("25a849e95ba97d7f")))),
    ];
    let kind = prop_oneof![6 => Just((0x40, 6)), 1 => Just((0, 4)), 1 => Just((0x10, 4))];
    prop_oneof![
        20 => (index, zeros).prop_map(|(index, zeros)| Piece::Index(index, zeros)),
        40 => (kind, name, value()).prop_map(|(kind, name, value)| Piece::Literal(kind, name, value)),
        1 => resize(),
    ]
}

fn resize() -> impl Strategy<Value = Piece> {
    let size = prop_oneof![4 => 0u32..400, 1 => 4080u32..4097, 1 => 4090u32..4100];
    (size, prop_oneof![20 => Just(0usize), 1 => 1usize..6]).prop_map(|(size, zeros)| Piece::Resize(size, zeros))
}

fn a_block() -> impl Strategy<Value = Vec<u8>> {
    let sizes =
        prop_oneof![4 => Just(0usize..1), 1 => Just(1..3)].prop_flat_map(|n| prop::collection::vec(resize(), n));
    let cut = prop_oneof![30 => Just(0usize), 1 => 1usize..4];
    (sizes, prop::collection::vec(field(), 1..12), cut).prop_map(|(sizes, fields, cut)| {
        let mut bytes: Vec<u8> = sizes.iter().chain(&fields).flat_map(Piece::bytes).collect();
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        bytes
    })
}

/// One request: names, values, and whether they are secret.
type Fields = Vec<(String, Vec<u8>, bool)>;

fn requests() -> impl Strategy<Value = Vec<Fields>> {
    let name = prop_oneof![
        (0..20).prop_map(|n| format!("x-{n}")),
        select(vec!["accept", "user-agent", "cookie", "etag", "authorization"]).prop_map(str::to_owned),
    ];
    let byte = prop_oneof![8 => 0x20u8..0x7f, 1 => 0x80u8..=0xff];
    let value = prop_oneof![
        2 => prop::collection::vec(byte, 0..200),
        2 => (0..8).prop_map(|n| format!("again {n}").into_bytes()),
    ];
    prop::collection::vec(prop::collection::vec((name, value, prop::bool::weighted(0.1)), 0..20), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Blocks up to the first that is refused are taken by h2, and that one is not.
    #[test]
    fn what_is_refused_is_what_h2_refuses(all in prop::collection::vec(a_block(), 1..6)) {
        let mut blocks = Blocks::new();
        let good = all.iter().take_while(|block| whole(&mut blocks, block, usize::MAX).is_ok()).count();
        prop_assert!(h2_takes(&all[..good]));
        if let Some(bad) = all.get(..=good) {
            prop_assert!(!h2_takes(bad));
        }
    }

    #[test]
    fn noise_that_is_refused_is_refused_by_h2(noise in prop::collection::vec(any::<u8>(), 0..60)) {
        if take(&noise).is_err() {
            prop_assert!(!h2_takes(&[noise]));
        }
    }

    #[test]
    fn strings_that_are_refused_are_refused_by_h2(
        string in prop::collection::vec(select(vec![0xff, 0xfe, 0xfd, 0xf0, 0xe7, 0x8f, 0x3f, 0x1f, 0x07]), 1..12),
    ) {
        let block = [&hex("00 01 78")[..], &huffman(&string)].concat();
        if take(&block).is_err() {
            prop_assert!(!h2_takes(&[block]));
        }
    }

    #[test]
    fn pieces_make_no_difference(
        all in prop::collection::vec(prop_oneof![3 => a_block(), 1 => prop::collection::vec(any::<u8>(), 0..60)], 1..4),
        size in 1usize..9,
    ) {
        let (mut blocks, mut same) = (Blocks::new(), Blocks::new());
        for block in all {
            let found = whole(&mut blocks, &block, usize::MAX);
            prop_assert_eq!(whole(&mut same, &block, size), found);
            if found.is_err() {
                break;
            }
            prop_assert_eq!(sizes(&same), sizes(&blocks));
        }
    }
}

proptest! {
    #[test]
    fn what_h2_sends_is_taken(all in requests(), limit in prop::option::of(0u32..5000)) {
        let mut blocks = Blocks::new();
        for block in h2_encodes(limit, &all) {
            prop_assert_eq!(whole(&mut blocks, &block, 16), Ok(()));
        }
    }
}

/// A connection whose other end has said something and says nothing more.
struct Memory {
    input: Vec<u8>,
    output: Rc<RefCell<Vec<u8>>>,
}

impl AsyncRead for Memory {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.input.is_empty() {
            return Poll::Pending;
        }
        let n = self.input.len().min(buf.remaining());
        buf.put_slice(&self.input[..n]);
        self.input.drain(..n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

/// Whether a connection survives these blocks. What h2 says of one stream does not count, however wrong its fields are.
fn h2_takes(blocks: &[Vec<u8>]) -> bool {
    let mut input = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat();
    for (i, block) in blocks.iter().enumerate() {
        let id = 2 * i as u32 + 1;
        let mut pieces = block.chunks(16_384).peekable();
        let (mut kind, mut flags) = (1, 1);
        loop {
            let piece = pieces.next().unwrap_or(&[]);
            flags |= if pieces.peek().is_none() { 4 } else { 0 };
            input.extend(frame(kind, flags, id, piece));
            if flags & 4 != 0 {
                break;
            }
            (kind, flags) = (9, 0);
        }
    }
    let cx = &mut Context::from_waker(Waker::noop());
    let io = Memory { input, output: Rc::default() };
    let mut builder = h2::server::Builder::new();
    builder.max_header_list_size(1 << 20);
    let Poll::Ready(Ok(mut server)) = pin!(builder.handshake::<_, Bytes>(io)).poll(cx) else {
        panic!("the preface is there");
    };
    loop {
        match server.poll_accept(cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(e))) => {
                assert_eq!(e.reason(), Some(Reason::PROTOCOL_ERROR), "{e}");
                return false;
            }
            Poll::Ready(None) => panic!("nobody closes it"),
            Poll::Pending => return true,
        }
    }
}

/// The blocks of these requests, to a server whose table may hold `limit`.
fn h2_encodes(limit: Option<u32>, requests: &[Fields]) -> Vec<Vec<u8>> {
    let output = Rc::default();
    let setting = limit.map_or(vec![], |limit| [&[0, 1][..], &limit.to_be_bytes()].concat());
    let io = Memory { input: frame(4, 0, 0, &setting), output: Rc::clone(&output) };
    let cx = &mut Context::from_waker(Waker::noop());
    let Poll::Ready(Ok((mut client, mut conn))) = pin!(h2::client::handshake(io)).poll(cx) else {
        panic!("nobody has to be waited for");
    };
    let mut streams = Vec::new();
    for fields in requests {
        assert!(Pin::new(&mut conn).poll(cx).is_pending());
        let mut request = http::Request::get("http://a.test/");
        for (name, value, is_secret) in fields {
            let mut value = http::HeaderValue::from_bytes(value).expect("bytes of a value");
            value.set_sensitive(*is_secret);
            request = request.header(name, value);
        }
        let request = request.body(()).expect("a request");
        assert!(client.poll_ready(cx).is_ready());
        streams.push(client.send_request(request, true).expect("a stream"));
    }
    assert!(Pin::new(&mut conn).poll(cx).is_pending());
    let output = output.borrow();
    let (mut rest, mut blocks) = (&output[24..], Vec::new());
    while let [a, b, c, kind, flags, more @ ..] = rest {
        let (payload, next) = more[4..].split_at(u32::from_be_bytes([0, *a, *b, *c]) as usize);
        if *kind == 1 {
            assert_eq!(flags & !1, 4, "a whole block");
            blocks.push(payload.to_vec());
        }
        rest = next;
    }
    assert_eq!(blocks.len(), requests.len());
    blocks
}
