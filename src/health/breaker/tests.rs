use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits =
    Limits { error_rate: 50, window: 10_000, min_requests: 4, open_time: 30_000, half_open_requests: 2 };

/// One step, and what is to come of it.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A request passes and goes so.
    Good(Option<Turn>),
    Bad(Option<Turn>),
    /// A request is refused, and may be asked again after so long.
    Refused(u64),
    /// A pass is taken, its outcome comes later.
    Takes,
    /// The oldest pass that was taken ends so.
    Ends(bool, Option<Turn>),
    Leaves,
    /// Time moves, and this by it alone.
    After(u64, Option<Turn>),
}
use Step::*;

const OPENED: fn(u32, u32) -> Option<Turn> = |errors, of| Some(Turn::Opened { errors, of });

fn run(limits: &Limits, steps: &[Step]) {
    let (mut breaker, mut now, mut taken) = (Breaker::default(), Millis(1_000_000), Vec::new());
    for (i, &step) in steps.iter().enumerate() {
        let context = format!("step {i}, {step:?}, {breaker:?}");
        let tick = breaker.tick(limits, now);
        assert_eq!(tick, None, "{context}");
        match step {
            Good(turn) | Bad(turn) => {
                let period = breaker.admit(limits, now).expect(&context);
                assert_eq!(breaker.on_outcome(limits, period, matches!(step, Good(_)), now), turn, "{context}");
            }
            Refused(rest) => assert_eq!(breaker.admit(limits, now), Err(rest), "{context}"),
            Takes => taken.push(breaker.admit(limits, now).expect(&context)),
            Ends(good, turn) => {
                assert_eq!(breaker.on_outcome(limits, taken.remove(0), good, now), turn, "{context}");
            }
            Leaves => breaker.on_abandoned(taken.remove(0)),
            After(passed, turn) => {
                now = Millis(now.0 + passed);
                assert_eq!(breaker.tick(limits, now), turn, "{context}");
            }
        }
    }
}

#[test]
fn enough_errors_among_enough_requests_open_it() {
    run(&LIMITS, &[Bad(None), Bad(None), Bad(None), Bad(OPENED(4, 4)), Refused(30_000)]);
    run(&LIMITS, &[Good(None), Good(None), Bad(None), Good(None), Bad(None), Bad(OPENED(3, 6))]);
    run(&LIMITS, &[Bad(None), Bad(None), Bad(None), Good(OPENED(3, 4))]);
    run(&Limits { error_rate: 100, ..LIMITS }, &[Bad(None), Bad(None), Good(None), Bad(None), Bad(None)]);
    run(&Limits { error_rate: 1, min_requests: 1, ..LIMITS }, &[Bad(OPENED(1, 1))]);
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    run(&LIMITS, &[Bad(None), Bad(None), Bad(None), After(10_000, None), Bad(None), Bad(None), Bad(None)]);
    run(&LIMITS, &[Bad(None), After(3_000, None), Bad(None), After(3_000, None), Bad(None), Bad(OPENED(4, 4))]);
}

#[test]
fn after_its_time_trials_pass_and_good_ones_close_it() {
    let opens = [Bad(None), Bad(None), Bad(None), Bad(OPENED(4, 4))];
    let to_half = [After(29_999, None), Refused(1), After(1, Some(Turn::HalfOpened))];
    let with = |more: &[Step]| run(&LIMITS, &[&opens[..], &to_half, more].concat());
    with(&[Good(None), Good(Some(Turn::Closed)), Good(None), Bad(None)]);
    with(&[Takes, Takes, Refused(0), Ends(true, None), Refused(0), Ends(true, Some(Turn::Closed))]);
    with(&[Good(None), Bad(OPENED(1, 2)), Refused(30_000)]);
    with(&[Takes, Takes, Ends(false, OPENED(1, 1)), Ends(true, None), Refused(30_000)]);
    with(&[Takes, Leaves, Takes, Takes, Refused(0), Leaves, Good(None), Ends(true, Some(Turn::Closed))]);
}

#[test]
fn what_was_under_way_when_it_opened_counts_for_nothing() {
    let steps = [
        Takes,
        Takes,
        Takes,
        Bad(None),
        Bad(None),
        Bad(None),
        Bad(OPENED(4, 4)),
        Ends(false, None),
        After(30_000, Some(Turn::HalfOpened)),
        Ends(true, None),
        Ends(false, None),
        Takes,
        Takes,
        Refused(0),
        Leaves,
        Takes,
        Refused(0),
    ];
    run(&LIMITS, &steps);
}

#[test]
fn limits_may_change_at_any_time() {
    let more = Limits { half_open_requests: 5, ..LIMITS };
    let (mut breaker, now) = (Breaker::default(), Millis(50_000));
    breaker.import(&more, BreakerState { phase: Phase::HalfOpen, since: 9, until: 9, opened: 1 }, now);
    for _ in 0..3 {
        let period = breaker.admit(&more, now).unwrap();
        assert_eq!(breaker.on_outcome(&more, period, true, now), None);
    }
    assert_eq!(breaker.tick(&LIMITS, now), Some(Turn::Closed));
    // A longer window makes slots that seem to lie ahead.
    for window in [10_000, 1_000_000, 10, 1] {
        let period = breaker.period();
        breaker.on_outcome(&Limits { window, ..LIMITS }, period, true, now);
    }
}

#[test]
fn a_successor_goes_on_and_is_never_locked_out_for_longer_than_open_time() {
    let (mut breaker, now) = (Breaker::default(), Millis(50_000));
    for _ in 0..4 {
        breaker.on_outcome(&LIMITS, 0, false, now);
    }
    let text = serde_json::to_string(&breaker.export()).unwrap();
    let state: BreakerState = serde_json::from_str(&text).unwrap();
    let mut next = Breaker::default();
    next.import(&LIMITS, state, Millis(60_000));
    assert_eq!((next.phase(), next.opened(), next.since()), (Phase::Open, 1, Some(now)));
    assert_eq!(next.admit(&LIMITS, Millis(60_000)), Err(20_000));
    next.import(&LIMITS, BreakerState { until: u64::MAX, since: u64::MAX, ..state }, Millis(60_000));
    assert_eq!(next.admit(&LIMITS, Millis(60_000)), Err(30_000));
}

fn limits() -> impl Strategy<Value = Limits> {
    (1_u32..=100, 1_u64..20_000, 1_u32..20, 1_u64..10_000, 1_u32..8).prop_map(
        |(error_rate, window, min_requests, open_time, half_open_requests)| Limits {
            error_rate,
            window,
            min_requests,
            open_time,
            half_open_requests,
        },
    )
}

proptest! {
    /// Whatever happens: open, nothing passes; half-open, no more than may; and good requests always close it in the end.
    #[test]
    fn no_more_pass_than_may_and_good_requests_close_it(
        limits in limits(),
        events in vec((0_u8..4, 0_usize..64, 0_u64..4_000), 0..400),
    ) {
        let (mut breaker, mut now) = (Breaker::default(), Millis(1_000_000));
        let mut under_way: Vec<u32> = Vec::new();
        let mut good_trials = 0;
        for (event, which, passed) in events {
            now = Millis(now.0 + passed);
            if breaker.tick(&limits, now) == Some(Turn::HalfOpened) {
                good_trials = 0;
            }
            let before = (breaker.phase(), breaker.period());
            match event {
                0 | 1 => match breaker.admit(&limits, now) {
                    Ok(period) => {
                        prop_assert_ne!(before.0, Phase::Open);
                        under_way.push(period);
                    }
                    Err(rest) => {
                        prop_assert_ne!(before.0, Phase::Closed);
                        prop_assert!(rest <= limits.open_time);
                    }
                },
                _ if under_way.is_empty() => {}
                _ => {
                    let period = under_way.remove(which % under_way.len());
                    if event == 3 && which % 3 == 0 {
                        breaker.on_abandoned(period);
                    } else {
                        let good = event == 2;
                        good_trials += u32::from(good && before == (Phase::HalfOpen, period));
                        let turn = breaker.on_outcome(&limits, period, good, now);
                        if period != before.1 {
                            prop_assert_eq!(turn, None);
                        }
                    }
                }
            }
            if breaker.phase() == Phase::HalfOpen {
                let trials = under_way.iter().filter(|period| **period == breaker.period()).count() as u32;
                prop_assert!(trials + good_trials <= limits.half_open_requests);
            }
        }
        for period in under_way {
            breaker.on_abandoned(period);
        }
        now = Millis(now.0 + limits.open_time);
        breaker.tick(&limits, now);
        for _ in 0..limits.half_open_requests {
            if breaker.phase() == Phase::HalfOpen {
                let period = breaker.admit(&limits, now);
                prop_assert!(period.is_ok());
                breaker.on_outcome(&limits, period.unwrap_or_default(), true, now);
            }
        }
        prop_assert_eq!(breaker.phase(), Phase::Closed);
    }
}
