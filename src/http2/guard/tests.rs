use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const T0: Millis = Millis(1_000_000);

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(id.to_be_bytes());
    out.extend(payload);
    out
}

/// A block of one field.
const FIELD: &[u8] = b"\x82";

/// What comes of these bytes, given all at once to a client with `allowed`.
fn look(bytes: &[u8], allowed: u32) -> Result<(), (Fault, usize)> {
    Guard::new().look(bytes, &Purse::new(allowed, T0), T0)
}

#[test]
fn lengths_are_those_of_the_types() {
    let right: [(u8, u8, usize); 9] = [
        (kind::PRIORITY, 0, 5),
        (kind::RST_STREAM, 0, 4),
        (kind::SETTINGS, 0, 12),
        (kind::SETTINGS, ACK, 0),
        (kind::PING, 0, 8),
        (kind::PING, ACK, 8),
        (kind::GOAWAY, 0, 30),
        (kind::WINDOW_UPDATE, 0, 4),
        (0x99, 0, 3),
    ];
    for (kind, flags, len) in right {
        assert_eq!(look(&frame(kind, flags, 1, &vec![0; len]), 9), Ok(()), "{kind}");
        if kind < kind::CONTINUATION {
            let wrong = frame(kind, flags, 1, &vec![0; if kind == kind::GOAWAY { 7 } else { len + 1 }]);
            assert_eq!(look(&wrong, 9), Err((Fault::FrameSize, 0)), "{kind}");
        }
    }
}

#[test]
fn what_is_in_front_of_a_fault_is_let_through() {
    let good = [frame(kind::SETTINGS, 0, 0, &[0; 6]), frame(kind::HEADERS, END_HEADERS, 1, FIELD)].concat();
    let all = [&good[..], &frame(kind::PING, 0, 0, b"short")].concat();
    assert_eq!(look(&all, 9), Err((Fault::FrameSize, good.len())));
}

#[test]
fn a_window_has_its_limit_wherever_the_setting_is() {
    let setting = |id: u16, value: u32| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    for (value, found) in [(MAX_WINDOW, Ok(())), (MAX_WINDOW + 1, Err((Fault::FlowControl, 0)))] {
        let payload = [setting(3, u32::MAX), setting(INITIAL_WINDOW_SIZE, value), setting(1, 0)].concat();
        assert_eq!(look(&frame(kind::SETTINGS, 0, 0, &payload), 9), found);
    }
}

#[test]
fn a_stream_that_has_ended_gets_nothing_more() {
    let head = |flags, id| frame(kind::HEADERS, flags | END_HEADERS, id, FIELD);
    let data = |flags, id| frame(kind::DATA, flags, id, b"x");
    let reset = |id| frame(kind::RST_STREAM, 0, id, &[0; 4]);
    let ends: [Vec<u8>; 4] = [
        head(END_STREAM, 5),
        [head(0, 5), data(END_STREAM, 5)].concat(),
        [head(0, 5), head(END_STREAM, 5)].concat(),
        [head(0, 5), reset(5)].concat(),
    ];
    for end in ends {
        for more in [data(0, 5), head(END_STREAM, 5)] {
            let found = look(&[&end[..], &more].concat(), 9);
            assert_eq!(found, Err((Fault::StreamClosed, end.len())));
        }
        // Others are not concerned, and neither is what may still come for it.
        let later = [head(0, 7), data(0, 7), reset(5), frame(kind::WINDOW_UPDATE, 0, 5, &[0; 4])].concat();
        assert_eq!(look(&[&end[..], &later].concat(), 9), Ok(()));
    }
}

#[test]
fn a_place_that_is_used_again_is_of_another_stream() {
    let mut guard = Guard::new();
    let purse = Purse::new(9, T0);
    for i in 0..3 * REMEMBERED as u32 {
        let id = 2 * i + 1;
        let whole = [frame(kind::HEADERS, END_HEADERS, id, FIELD), frame(kind::DATA, END_STREAM, id, b"x")].concat();
        assert_eq!(guard.look(&whole, &purse, T0), Ok(()), "{id}");
    }
    // A leap forgets what is too long ago and nothing else.
    let leap = guard.last + 2 * REMEMBERED as u32 - 2;
    assert_eq!(guard.look(&frame(kind::HEADERS, END_HEADERS, leap, FIELD), &purse, T0), Ok(()));
    let before = leap - 2 * (REMEMBERED as u32 - 1);
    let data = frame(kind::DATA, 0, before, b"x");
    assert_eq!(guard.look(&data, &purse, T0), Err((Fault::StreamClosed, 0)));
}

#[test]
fn a_purse_is_filled_by_time_and_by_answers_up_to_its_size() {
    let purse = Purse::new(3, T0);
    let take = |at: u64| purse.take(Millis(T0.0 + at));
    assert_eq!([0, 0, 0, 0].map(take), [true, true, true, false]);
    // Not one more before the time is up, and the rest of a period counts.
    assert_eq!([99, 199, 200, 200].map(take), [false, true, true, false]);
    purse.give(1);
    assert_eq!([200, 200].map(take), [true, false]);
    purse.give(100);
    assert_eq!([200, 200, 200, 200].map(take), [true, true, true, false]);
    assert_eq!([1_000_000; 4].map(take), [true, true, true, false]);
    // A clock that stands earlier changes nothing.
    assert!(!take(5));
}

#[test]
fn only_what_does_nothing_is_paid_for() {
    let free = [
        frame(kind::HEADERS, END_HEADERS, 1, FIELD),
        frame(kind::DATA, 0, 1, b"x"),
        frame(kind::DATA, PADDED, 1, &[2, b'x', 0, 0]),
        frame(kind::DATA, PADDED | END_STREAM, 3, &[2, 0, 0]),
        frame(kind::DATA, END_STREAM, 1, b""),
    ];
    assert_eq!(look(&free.concat(), 0), Ok(()));
    let paid = [
        frame(kind::DATA, 0, 1, b""),
        frame(kind::DATA, PADDED, 1, &[2, 0, 0]),
        frame(kind::PRIORITY, 0, 1, &[0; 5]),
        frame(kind::RST_STREAM, 0, 1, &[0; 4]),
        frame(kind::SETTINGS, 0, 0, b""),
        frame(kind::PING, 0, 0, &[0; 8]),
        frame(kind::GOAWAY, 0, 0, &[0; 8]),
        frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4]),
        frame(kind::CONTINUATION, 0, 1, b"x"),
        frame(0x99, 0, 1, b"x"),
    ];
    for frame in paid {
        assert_eq!(look(&frame, 1), Ok(()));
        assert_eq!(look(&[&frame[..], &frame].concat(), 1), Err((Fault::Flood, frame.len())));
    }
}

#[test]
fn blocks_are_found_in_their_frames() {
    const BAD: &[u8] = b"\x80";
    let bad = Err((Fault::Compression(HpackError::Index), 0));
    let priority = [0, 0, 0, 0, 9];
    let head = |flags, payload: &[&[u8]]| frame(kind::HEADERS, flags, 1, &payload.concat());
    let more = |flags, id, payload| frame(kind::CONTINUATION, flags, id, payload);
    for (block, found) in [(FIELD, Ok(())), (BAD, bad)] {
        assert_eq!(look(&head(END_HEADERS, &[block]), 9), found);
        assert_eq!(look(&head(END_HEADERS | PADDED, &[&[2], block, BAD, BAD]), 9), found);
        assert_eq!(look(&head(END_HEADERS | WITH_PRIORITY, &[&priority, block]), 9), found);
        assert_eq!(look(&head(END_HEADERS | PADDED | WITH_PRIORITY, &[&[1], &priority, block, BAD]), 9), found);
        // Behind another frame the one that is wrong is told.
        let begun = head(PADDED, &[&[1], FIELD, BAD]);
        let found = found.map_err(|(fault, _)| (fault, begun.len()));
        assert_eq!(look(&[&begun[..], &more(END_HEADERS, 1, block)].concat(), 9), found);
    }
    // A field may be in two frames, whose end may be in one that is empty.
    let (front, back) = b"\x00\x01x\x01y".split_at(3);
    let whole = [head(0, &[front]), more(0, 1, back), more(END_HEADERS, 1, b"")];
    assert_eq!(look(&whole.concat(), 9), Ok(()));
    let cut = [head(0, &[front]), more(END_HEADERS, 1, b"")];
    assert_eq!(look(&cut.concat(), 9), Err((Fault::Compression(HpackError::Truncated), cut[0].len())));
    assert_eq!(look(&head(END_HEADERS | PADDED, &[&[1], front, back]), 9), Err((Fault::Compression(HpackError::Truncated), 0)));
    // A table is that of all streams.
    let stored = frame(kind::HEADERS, END_HEADERS, 1, b"\x40\x01x\x01y");
    assert_eq!(look(&[stored, frame(kind::HEADERS, END_HEADERS, 3, b"\xbe")].concat(), 9), Ok(()));
}

#[test]
fn blocks_where_none_may_be_are_for_h2_to_refuse() {
    let head = |flags, id, payload| frame(kind::HEADERS, flags, id, payload);
    let refused = [
        head(END_HEADERS, 0, b"\x80"),
        // More padding than there is.
        head(END_HEADERS | PADDED, 1, b"\x02\x80"),
        frame(kind::CONTINUATION, END_HEADERS, 1, b"\x80"),
        [head(0, 1, FIELD), head(END_HEADERS, 3, b"\x80")].concat(),
        [head(0, 1, FIELD), frame(kind::CONTINUATION, END_HEADERS, 3, b"\x80")].concat(),
    ];
    for frames in refused {
        assert_eq!(look(&frames, 9), Ok(()), "{frames:x?}");
    }
    // Too short for what their flags announce.
    for (kind, flags, len) in [(kind::DATA, PADDED, 0), (kind::HEADERS, PADDED, 0), (kind::HEADERS, WITH_PRIORITY, 4)] {
        let short = frame(kind, flags | END_HEADERS, 1, &[0; 4][..len]);
        assert_eq!(look(&short, 9), Err((Fault::FrameSize, 0)));
    }
}

#[test]
fn what_has_begun_is_known_until_it_ends() {
    let mut guard = Guard::new();
    let purse = Purse::new(9, T0);
    let mut look = |bytes: &[u8]| {
        guard.look(bytes, &purse, T0).expect("nothing is wrong");
        guard.amid()
    };
    let head = frame(kind::HEADERS, 0, 1, &[0x82; 3]);
    assert!(look(&head[..4]).is_some());
    let begun = look(&head[4..10]);
    assert!(begun.is_some());
    assert_eq!(look(&head[10..]), begun);
    // A block is one thing however many frames it has.
    let more = frame(kind::CONTINUATION, 0, 1, &[0x82; 3]);
    assert_eq!(look(&more[..11]), begun);
    assert_eq!(look(&more[11..]), begun);
    assert_eq!(look(&frame(kind::CONTINUATION, END_HEADERS, 1, b"")), None);
    // Data has a deadline of its own.
    assert_eq!(look(&frame(kind::DATA, 0, 1, b"abc")[..10]), None);
    assert_eq!(look(b"bc"), None);
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    assert!(look(&ping[..12]).is_some_and(|number| Some(number) != begun));
    assert_eq!(look(&ping[12..]), None);
}

proptest! {
    /// However the bytes are cut, the same is found at the same place.
    #[test]
    fn pieces_make_no_difference(
        frames in prop::collection::vec((0u8..12, any::<u8>(), 0u32..12, 0usize..14, select(vec![0, 1, 0x82, 0xff])), 0..30),
        cuts in prop::collection::vec(1usize..20, 1..10),
        allowed in 0u32..20,
    ) {
        let bytes: Vec<u8> =
            frames.iter().flat_map(|(k, flags, id, len, byte)| frame(*k, *flags, *id, &vec![*byte; *len])).collect();
        let whole = look(&bytes, allowed);
        let (mut guard, purse) = (Guard::new(), Purse::new(allowed, T0));
        let (mut at, mut found) = (0, Ok(()));
        for cut in cuts.iter().cycle() {
            if at == bytes.len() || found.is_err() {
                break;
            }
            let end = (at + cut).min(bytes.len());
            found = guard.look(&bytes[at..end], &purse, T0).map_err(|(fault, _)| fault);
            at = end;
        }
        prop_assert_eq!(whole.map_err(|(fault, _)| fault), found);
        if let Err((_, good)) = whole {
            prop_assert!(good < bytes.len());
            prop_assert_eq!(look(&bytes[..good], allowed), Ok(()));
        }
    }

    #[test]
    fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = look(&bytes, 1000);
    }
}
