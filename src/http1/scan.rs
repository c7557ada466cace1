//! Finding the end of a token, a target, a value.

/// May be part of a token (RFC 9110 section 5.6.2).
const TOKEN: u8 = 1;
/// The underscore, which is part of a token too.
const UNDERSCORE: u8 = 2;
/// May be part of a request target: visible ASCII without `#`.
const TARGET: u8 = 4;
/// May be part of a host's name: `reg-name` of RFC 3986 section 3.2.2 without the comma, which is what two fields joined
/// to one look like.
const HOST: u8 = 8;

static CLASS: [u8; 256] = classes();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut b = 0x21;
    while b < 0x7f {
        let c = b as u8;
        if c != b'#' {
            table[b] |= TARGET;
        }
        if c.is_ascii_alphanumeric() || is_mark(c) {
            table[b] |= TOKEN;
        }
        if c.is_ascii_alphanumeric() || is_host_mark(c) {
            table[b] |= HOST;
        }
        b += 1;
    }
    table[b'_' as usize] |= UNDERSCORE;
    table
}

const fn is_mark(c: u8) -> bool {
    matches!(c, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

const fn is_host_mark(c: u8) -> bool {
    matches!(c, b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=')
}

#[expect(clippy::indexing_slicing, reason = "the table has an entry for every byte")]
fn class(b: u8) -> u8 {
    CLASS[b as usize]
}

/// Whether `b` may be part of a token.
pub(super) fn is_token(b: u8) -> bool {
    class(b) & TOKEN != 0
}

/// Whether `b` may be part of a field's value: no control character but the tab.
pub(super) fn is_value(b: u8) -> bool {
    (b >= 0x20 && b != 0x7f) || b == b'\t'
}

/// The length of the token at the front, and whether it has an underscore in it.
pub(super) fn token(bytes: &[u8]) -> (usize, bool) {
    let mut seen = 0;
    let mut len = 0;
    for &b in bytes {
        let class = class(b);
        if class & TOKEN == 0 {
            break;
        }
        seen |= class;
        len += 1;
    }
    (len, seen & UNDERSCORE != 0)
}

/// The length of what may be a request target at the front.
pub(super) fn target(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|&&b| class(b) & TARGET != 0).count()
}

/// The length of what may be a host's name at the front.
pub(super) fn host_name(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|&&b| class(b) & HOST != 0).count()
}

/// The length of what may be a field's value at the front, white space included.
pub(super) fn value(bytes: &[u8]) -> usize {
    let mut at = 0;
    let mut rest = bytes;
    while let Some((word, behind)) = rest.split_first_chunk() {
        let controls = controls(u64::from_le_bytes(*word));
        if controls == 0 {
            at += word.len();
            rest = behind;
            continue;
        }
        let len = (controls.trailing_zeros() / 8) as usize;
        at += len;
        match rest.get(len) {
            Some(b'\t') => {
                at += 1;
                rest = rest.get(len + 1..).unwrap_or_default();
            }
            _ => return at,
        }
    }
    at + rest.iter().take_while(|&&b| is_value(b)).count()
}

/// Eight bytes at a time: the lowest bit set is the top bit of the first byte below 0x20 or equal to 0x7f. Bits above it
/// may be wrong, because a subtraction borrows from the next byte.
fn controls(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let del = word ^ (ONES * 0x7f);
    let is_del = del.wrapping_sub(ONES) & !del;
    (below_space | is_del) & TOPS
}

/// A line's end: how many bytes it takes at the front (CRLF or LF).
pub(super) fn line_end(bytes: &[u8]) -> LineEnd {
    match bytes {
        [b'\n', ..] => LineEnd::Len(1),
        [b'\r', b'\n', ..] => LineEnd::Len(2),
        [] | [b'\r'] => LineEnd::Partial,
        _ => LineEnd::Not,
    }
}

/// What is at the place where a line may end.
pub(super) enum LineEnd {
    Len(usize),
    Partial,
    Not,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "tests may panic")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_are_those_of_the_rfc() {
        let marks = b"!#$%&'*+-.^_`|~";
        for b in 0..=255u8 {
            assert_eq!(is_token(b), b.is_ascii_alphanumeric() || marks.contains(&b), "{b:#x}");
            assert_eq!(host_name(&[b]) == 1, b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&b), "{b:#x}");
            assert_eq!(target(&[b]) == 1, b.is_ascii_graphic() && b != b'#', "{b:#x}");
        }
        assert_eq!(token(b"X_Y: 1"), (3, true));
        assert_eq!(token(b"X-Y: 1"), (3, false));
    }

    #[test]
    fn every_byte_is_told_apart_in_every_lane() {
        for b in 0..=255u8 {
            for place in 0..20 {
                let mut bytes = [b'a'; 20];
                bytes[place] = b;
                assert_eq!(value(&bytes), if is_value(b) { 20 } else { place }, "{b:#x} at {place}");
            }
        }
    }

    proptest! {
        #[test]
        fn words_and_bytes_agree(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x1eu8..0x22, 0x7eu8..0x82, Just(9)], 0..40)) {
            prop_assert_eq!(value(&bytes), bytes.iter().take_while(|&&b| is_value(b)).count());
        }
    }
}
