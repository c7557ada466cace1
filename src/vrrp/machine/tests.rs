use super::*;

const GOOD: Condition = Condition { link: true, fit: true, ready: true, adjust: 0 };
const OWN: &str = "192.0.2.12";
const PEER: &str = "192.0.2.11";
const HIGHER: &str = "192.0.2.13";

/// Interval of 1 s, priority 100: silence is believed after 3609 ms, a resignation after 609 ms.
fn settings() -> Settings {
    Settings {
        version: Version::V3,
        priority: Priority(100),
        interval: Interval::from_secs(1).unwrap(),
        preemption: Preemption::WhenReady,
        preempt_delay: Duration::ZERO,
        startup_delay: Duration::ZERO,
        repeat: vec![Duration::from_secs(1), Duration::from_secs(5)],
        refresh: Duration::from_secs(60),
        linger: Duration::from_millis(200),
        arbitrate: false,
    }
}

/// A router and its clock, in milliseconds.
struct Bench {
    router: VirtualRouter,
    ms: u64,
}

fn said(source: &str, priority: u8) -> Said {
    Said {
        source: source.parse().unwrap(),
        priority: Priority(priority),
        interval: Interval::from_secs(1).unwrap(),
        same_addresses: true,
        checksum: None,
    }
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let mut router = VirtualRouter::new(settings, GOOD, Micros(0));
        router.set_source(Some(OWN.parse().unwrap()));
        Self { router, ms: 0 }
    }

    fn backup(settings: Settings) -> Self {
        let mut this = Self::new(settings);
        this.router.start(this.now());
        assert_eq!(this.router.state(), State::Backup);
        this.actions();
        this
    }

    /// Active, its addresses there and announced.
    fn active(settings: Settings) -> Self {
        let mut this = Self::backup(settings);
        this.run_to(3_700);
        assert_eq!(this.router.state(), State::Active);
        this.router.acquired(this.now());
        this.actions();
        this
    }

    fn now(&self) -> Micros {
        Micros(self.ms * 1000)
    }

    /// Lets the timers run until `ms`; what was done.
    fn run_to(&mut self, ms: u64) -> Vec<Action> {
        let mut done = Vec::new();
        while let Some(at) = self.router.next_timeout().filter(|at| at.0 <= ms * 1000) {
            self.router.handle_timeout(at);
            done.extend(self.actions());
        }
        self.ms = ms;
        done
    }

    fn hear(&mut self, said: Said) -> Vec<Action> {
        self.router.handle_advert(said, self.now(), self.now());
        self.actions()
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.router.next_action()).collect()
    }

    fn set(&mut self, condition: Condition) -> Vec<Action> {
        self.router.set_condition(condition, self.now());
        self.actions()
    }

    fn state(&self) -> State {
        self.router.state()
    }
}

/// What was done, without what was only told.
fn doings(actions: &[Action]) -> Vec<Action> {
    actions.iter().filter(|a| !matches!(a, Action::Report(_))).cloned().collect()
}

fn whys(actions: &[Action]) -> Vec<Why> {
    let why = |a: &Action| match a {
        Action::Report(Event::Changed { why, .. }) => Some(*why),
        _ => None,
    };
    actions.iter().filter_map(why).collect()
}

fn advertise(priority: u8) -> Action {
    Action::Advertise(Priority(priority))
}

#[test]
fn silence_for_three_intervals_and_the_skew_makes_a_backup_active() {
    let mut b = Bench::backup(settings());
    assert_eq!(b.run_to(3_608), []);
    let done = b.run_to(3_610);
    assert_eq!(doings(&done), [advertise(100), Action::Acquire]);
    assert_eq!(whys(&done), [Why::PeerSilent]);
    b.router.acquired(b.now());
    assert_eq!(b.actions(), [Action::Announce]);
    let done = b.run_to(9_000);
    let adverts = done.iter().filter(|a| **a == advertise(100)).count();
    let bursts = done.iter().filter(|a| **a == Action::Announce).count();
    assert_eq!((adverts, bursts), (5, 2), "{done:?}");
}

#[test]
fn every_advertisement_starts_the_silence_anew_at_its_time_of_receipt() {
    let mut b = Bench::backup(settings());
    b.run_to(3_000);
    b.router.handle_advert(said(PEER, 150), Micros(2_000_000), b.now());
    assert_eq!(b.run_to(5_608), []);
    assert_eq!(whys(&b.run_to(5_610)), [Why::PeerSilent]);
}

#[test]
fn a_queue_of_old_advertisements_after_a_pause_elects_nobody() {
    let mut b = Bench::backup(Settings { interval: Interval::from_centis(1).unwrap(), ..settings() });
    let fast = Said { interval: Interval::from_centis(1).unwrap(), ..said(PEER, 150) };
    b.hear(fast);
    b.ms = 5_000;
    for at in (10..=4_990).step_by(10) {
        b.router.handle_advert(fast, Micros(at * 1000), b.now());
    }
    b.router.handle_timeout(b.now());
    assert_eq!((b.state(), b.actions()), (State::Backup, vec![]));
}

#[test]
fn the_interval_of_the_active_router_is_learnt_in_version_3_only() {
    let slow = Said { interval: Interval::from_secs(5).unwrap(), ..said(PEER, 150) };
    let mut b = Bench::backup(settings());
    b.hear(slow);
    assert_eq!(b.router.next_timeout(), Some(Micros(15_000_000 + 5_000_000 * 156 / 256)));
    let mut b = Bench::backup(Settings { version: Version::V2, ..settings() });
    b.hear(slow);
    assert_eq!(b.router.next_timeout(), Some(Micros(3_609_375)));
}

#[test]
fn a_resignation_is_followed_after_the_skew_and_announced_once_the_predecessor_is_done() {
    let mut b = Bench::backup(settings());
    b.hear(said(PEER, 150));
    b.run_to(500);
    b.hear(said(PEER, 0));
    // A second one, as keepalived sends in a fault, changes nothing.
    b.run_to(600);
    b.hear(said(PEER, 0));
    assert_eq!(b.run_to(1_109), []);
    let done = b.run_to(1_110);
    assert_eq!((doings(&done), whys(&done)), (vec![advertise(100), Action::Acquire], vec![Why::PeerResigned]));
    b.router.acquired(b.now());
    assert_eq!(b.actions(), []);
    assert_eq!(b.run_to(1_141), []);
    assert_eq!(b.run_to(1_142), [Action::Announce]);
    let bursts = b.run_to(2_150).iter().filter(|a| **a == Action::Announce).count();
    assert_eq!(bursts, 2, "again after 100 ms and after 1 s");
}

#[test]
fn a_predecessor_that_is_done_is_not_waited_for() {
    let inherited = || {
        let mut b = Bench::backup(settings());
        b.hear(said(PEER, 150));
        b.hear(said(PEER, 0));
        b.run_to(610);
        assert_eq!(b.state(), State::Active);
        b
    };
    let mut b = inherited();
    b.router.acquired(b.now());
    b.ms += 3;
    assert_eq!(b.hear(said(PEER, 0)), [advertise(100), Action::Announce]);
    // Done before the address is here: nothing is announced that is not.
    let mut b = inherited();
    assert_eq!(b.hear(said(PEER, 0)), [advertise(100)]);
    b.router.acquired(b.now());
    assert_eq!(b.actions(), [Action::Announce]);
}

#[test]
fn one_of_us_that_resigns_is_waited_for_longer() {
    let mut b = Bench::backup(settings());
    b.hear(said(PEER, 150));
    (0..INSISTENT).for_each(|_| drop(b.hear(said(PEER, 0))));
    b.run_to(610);
    b.router.acquired(b.now());
    assert_eq!(b.run_to(758), []);
    assert_eq!(b.run_to(760), [Action::Announce]);
}

#[test]
fn who_lingers_says_when_it_is_done_and_nobody_else_does() {
    let mut b = Bench::active(settings());
    b.router.finished();
    assert_eq!(b.actions(), []);
    b.router.hand_over(b.now());
    b.hear(said(PEER, 50));
    b.actions();
    b.router.finished();
    assert_eq!(b.actions(), [advertise(0)]);
    b.run_to(b.ms + 300);
    b.router.finished();
    assert_eq!(b.state(), State::Backup);
}

#[test]
fn equal_or_higher_priorities_are_respected_and_lower_ones_preempted() {
    let mut b = Bench::backup(settings());
    for ms in (1_000..=10_000).step_by(1_000) {
        b.run_to(ms);
        b.hear(said(PEER, 100));
    }
    assert_eq!(b.state(), State::Backup);
    for ms in (11_000..=13_000).step_by(1_000) {
        b.run_to(ms);
        b.hear(said(PEER, 99));
    }
    let done = b.run_to(13_700);
    assert_eq!((whys(&done), b.state()), (vec![Why::Preempting], State::Active));
}

#[test]
fn preemption_waits_for_what_it_is_told_to_wait_for() {
    let stays = |settings: Settings, condition: Condition, until: u64| {
        let mut b = Bench::new(settings);
        b.set(condition);
        b.router.start(b.now());
        for ms in (500..=until).step_by(500) {
            b.run_to(ms);
            b.hear(said(PEER, 50));
        }
        b.state() == State::Backup
    };
    let not_ready = Condition { ready: false, ..GOOD };
    let (never, immediate) = (Preemption::Never, Preemption::Immediate);
    assert!(!stays(settings(), GOOD, 5_000));
    assert!(stays(settings(), not_ready, 60_000));
    assert!(!stays(Settings { preemption: immediate, ..settings() }, not_ready, 5_000));
    assert!(stays(Settings { preemption: never, ..settings() }, GOOD, 60_000));
    let delayed = Settings { preempt_delay: Duration::from_secs(10), ..settings() };
    assert!(stays(delayed.clone(), GOOD, 10_000));
    assert!(!stays(delayed, GOOD, 15_000));
    assert!(stays(settings(), Condition { fit: false, ..GOOD }, 60_000), "who cannot serve preempts nobody");
}

#[test]
fn the_delay_of_preemption_counts_from_readiness() {
    let mut b = Bench::backup(Settings { preempt_delay: Duration::from_secs(10), ..settings() });
    b.set(Condition { ready: false, ..GOOD });
    for ms in (500..=30_000).step_by(500) {
        b.run_to(ms);
        b.hear(said(PEER, 50));
    }
    b.set(GOOD);
    for ms in (30_500..=39_500).step_by(500) {
        b.run_to(ms);
        b.hear(said(PEER, 50));
    }
    assert_eq!(b.state(), State::Backup);
    for ms in (40_000..=44_000).step_by(500) {
        b.run_to(ms);
        b.hear(said(PEER, 50));
    }
    assert_eq!(b.state(), State::Active);
}

#[test]
fn a_better_advertisement_ends_it_with_a_last_word_after_the_addresses_are_gone() {
    for (peer, why) in
        [(said(PEER, 101), Why::HigherPriority), (said(HIGHER, 100), Why::Tie), (said(PEER, 255), Why::HigherPriority)]
    {
        let mut b = Bench::active(settings());
        let done = b.hear(peer);
        assert_eq!((doings(&done), whys(&done), b.state()), (vec![Action::Release], vec![why], State::Backup));
        b.router.released();
        assert_eq!(b.actions(), [advertise(1)]);
        b.router.released();
        assert_eq!(b.actions(), [], "once");
    }
}

#[test]
fn a_worse_advertisement_is_answered_at_once_reported_once_and_announced_against() {
    for peer in [said(PEER, 99), said(PEER, 100), said(HIGHER, 99)] {
        let mut b = Bench::active(settings());
        b.run_to(20_000);
        let done = b.hear(peer);
        let rival = Action::Report(Event::Rival { source: peer.source, priority: peer.priority });
        assert_eq!(done, [rival, advertise(100), Action::Announce]);
        assert_eq!(doings(&b.run_to(20_100)), [Action::Announce], "when the rival has let go for certain");
        b.run_to(20_500);
        assert_eq!(b.hear(peer), [advertise(100), Action::Announce]);
        let done = b.run_to(25_000);
        assert!(done.contains(&Action::Report(Event::RivalGone)), "{done:?}");
        assert_eq!(b.state(), State::Active);
    }
}

#[test]
fn the_last_word_of_one_who_was_preempted_is_no_rival_but_is_announced_against() {
    let mut b = Bench::backup(settings());
    b.run_to(3_610);
    b.router.acquired(b.now());
    b.actions();
    b.ms = 3_615;
    let done = b.hear(said(PEER, 1));
    assert!(!done.iter().any(|a| matches!(a, Action::Report(_))), "{done:?}");
    assert!(b.run_to(3_720).contains(&Action::Announce));
}

#[test]
fn a_resignation_of_somebody_else_makes_an_active_router_speak_up() {
    let mut b = Bench::active(settings());
    b.run_to(20_500);
    assert_eq!(b.hear(said(PEER, 0)), [advertise(100), Action::Announce]);
    assert_eq!(b.state(), State::Active);
}

#[test]
fn the_owner_asks_nobody() {
    let mut b = Bench::new(Settings { priority: Priority::OWNER, ..settings() });
    b.router.start(b.now());
    let done = b.actions();
    assert_eq!((doings(&done), whys(&done)), (vec![advertise(255), Action::Acquire], vec![Why::Owner]));
    b.set(Condition { adjust: -100, ..GOOD });
    assert_eq!(b.router.priority(), Priority::OWNER);
}

#[test]
fn a_box_that_cannot_serve_offers_the_address_and_keeps_it_until_somebody_takes_it() {
    let mut b = Bench::active(settings());
    b.run_to(10_000);
    assert_eq!(doings(&b.set(Condition { fit: false, ..GOOD })), [advertise(0)]);
    assert_eq!(b.run_to(10_900).iter().filter(|a| matches!(a, Action::Advertise(_))).count(), 0, "no other word");
    let done = b.hear(said(PEER, 50));
    assert_eq!((doings(&done), whys(&done)), (vec![Action::Release], vec![Why::Unfit]));
    b.router.released();
    assert_eq!(b.actions(), [advertise(0)], "the successor need not wait any longer");
}

#[test]
fn a_box_that_cannot_serve_and_has_nobody_holds_on_at_priority_1_and_asks_again() {
    let mut b = Bench::active(settings());
    b.run_to(10_000);
    b.set(Condition { fit: false, ..GOOD });
    let adverts =
        |actions: Vec<Action>| actions.into_iter().filter(|a| matches!(a, Action::Advertise(_))).collect::<Vec<_>>();
    // The longest skew, 996 ms, and the margin of 250 ms.
    assert_eq!(adverts(b.run_to(11_247)), [advertise(1)]);
    let ten = adverts(b.run_to(21_247));
    assert_eq!(ten.last(), Some(&advertise(0)));
    assert_eq!(ten.len(), 10 + 1, "{ten:?}");
    // Able again: at once, with its own priority.
    b.run_to(23_000);
    assert_eq!(doings(&b.set(GOOD)), [advertise(100)]);
    assert_eq!(b.state(), State::Active);
}

#[test]
fn of_two_that_cannot_serve_one_holds_the_address() {
    let bad = Condition { fit: false, ..GOOD };
    let mut b = Bench::backup(settings());
    b.hear(said(PEER, 150));
    b.run_to(500);
    b.set(bad);
    // Its resignation does not shorten the wait, for this one could not serve either.
    b.hear(said(PEER, 0));
    assert_eq!(b.run_to(5_500), []);
    assert_eq!(b.hear(said(PEER, 1)), []);
    assert_eq!(b.run_to(9_400), []);
    let done = b.run_to(9_500);
    assert_eq!((whys(&done), doings(&done)), (vec![Why::PeerSilent], vec![advertise(1), Action::Acquire]));
    // And yields to anybody better.
    assert_eq!(whys(&b.hear(said(PEER, 2))), [Why::HigherPriority]);
}

#[test]
fn a_handover_keeps_the_address_until_the_peer_speaks_lingers_and_does_not_come_back() {
    let mut b = Bench::active(settings());
    b.run_to(10_500);
    b.router.hand_over(b.now());
    assert_eq!(b.actions(), [Action::Prepare, advertise(0)]);
    assert_eq!(b.run_to(11_100), []);
    assert_eq!(b.hear(said(PEER, 50)), [Action::Hold]);
    b.ms = 11_150;
    assert_eq!(b.hear(said(PEER, 50)), [], "the successor's words are no contest");
    assert_eq!(b.run_to(11_299), []);
    let done = b.run_to(11_300);
    assert_eq!((doings(&done), whys(&done)), (vec![Action::Release], vec![Why::HandedOver]));
    for ms in (12_000..=60_000).step_by(1_000) {
        b.run_to(ms);
        b.hear(said(PEER, 50));
    }
    assert_eq!(b.state(), State::Backup, "given away, though its priority is higher");
    let done = b.run_to(65_000);
    assert_eq!(whys(&done), [Why::PeerSilent]);
}

#[test]
fn a_handover_that_nobody_takes_changes_nothing() {
    let mut b = Bench::active(settings());
    b.run_to(10_500);
    b.router.hand_over(b.now());
    let done = b.run_to(11_750);
    assert_eq!(doings(&done), [Action::Prepare, advertise(0), Action::Unhold, advertise(100)]);
    assert!(done.contains(&Action::Report(Event::NoTaker)));
    assert_eq!(b.state(), State::Active);
}

#[test]
fn a_successor_that_resigns_while_it_is_lingered_for_gets_the_address_taken_back() {
    let mut b = Bench::active(settings());
    b.router.hand_over(b.now());
    b.actions();
    b.hear(said(PEER, 50));
    b.ms += 50;
    assert_eq!(b.hear(said(PEER, 0)), [Action::Unhold, advertise(100), Action::Announce]);
    assert_eq!(b.state(), State::Active);
}

#[test]
fn a_stop_hands_over_if_it_can_and_ends_in_any_case() {
    let mut b = Bench::active(settings());
    b.run_to(10_500);
    b.router.stop(b.now());
    assert_eq!(b.actions(), [Action::Prepare, advertise(0)]);
    let done = b.run_to(11_750);
    assert_eq!((doings(&done), whys(&done), b.state()), (vec![Action::Release], vec![Why::Stopped], State::Initialize));
    assert_eq!(b.router.next_timeout(), None);

    let mut b = Bench::active(settings());
    b.router.stop(b.now());
    b.hear(said(PEER, 50));
    assert_eq!(whys(&b.run_to(3_901)), [Why::Stopped]);

    let mut b = Bench::active(settings());
    b.router.stop(b.now());
    b.actions();
    b.router.stop_now(b.now());
    assert_eq!(doings(&b.actions()), [advertise(0), Action::Release]);

    let mut b = Bench::backup(settings());
    b.router.stop(b.now());
    assert_eq!((doings(&b.actions()), b.state()), (vec![], State::Initialize));
}

#[test]
fn a_stop_whose_link_goes_meanwhile_ends() {
    for taken in [false, true] {
        let mut b = Bench::active(settings());
        b.router.stop(b.now());
        b.actions();
        if taken {
            b.hear(said(PEER, 50));
        }
        let done = b.set(Condition { link: false, ..GOOD });
        assert_eq!((b.state(), whys(&done)), (State::Initialize, vec![Why::Stopped]));
        assert!(doings(&done).contains(&Action::Release));
        b.set(GOOD);
        assert_eq!((b.state(), b.router.next_timeout()), (State::Initialize, None));
    }
}

#[test]
fn a_link_that_goes_takes_the_address_and_one_that_bounces_waits() {
    let mut b = Bench::active(settings());
    let done = b.set(Condition { link: false, ..GOOD });
    assert_eq!((doings(&done), b.state()), (vec![advertise(0), Action::Release], State::Fault));
    b.hear(said(PEER, 50));
    b.set(GOOD);
    b.run_to(b.ms + 400);
    b.set(Condition { link: false, ..GOOD });
    assert_eq!(b.run_to(b.ms + 10_000), []);
    b.set(GOOD);
    let at = b.ms;
    assert_eq!(b.run_to(at + 499), []);
    assert_eq!(whys(&b.run_to(at + 500)), [Why::LinkUp]);
    assert_eq!(b.state(), State::Backup);
}

#[test]
fn after_three_losses_in_ten_minutes_it_does_not_preempt_for_ten_more() {
    let mut b = Bench::active(settings());
    for _ in 0..3 {
        let done = b.set(Condition { link: false, ..GOOD });
        let held = done.iter().any(|a| matches!(a, Action::Report(Event::PreemptionHeld { .. })));
        b.set(GOOD);
        let again = b.ms + 5_000;
        if !held {
            b.run_to(again);
            assert_eq!(b.state(), State::Active);
        }
    }
    let start = b.ms;
    let mut first = None;
    for ms in (start..start + 700_000).step_by(1_000) {
        b.run_to(ms);
        b.hear(said(PEER, 50));
        if b.state() == State::Active {
            first.get_or_insert(ms - start);
        }
    }
    let first = first.expect("for ever is too long");
    assert!((600_000..610_000).contains(&first), "{first}");
}

#[test]
fn after_a_stall_it_listens_before_it_speaks() {
    let mut b = Bench::active(settings());
    b.run_to(10_000);
    // Nobody ran for 20 s; the queue is empty.
    b.ms = 30_000;
    b.router.handle_timeout(b.now());
    let done = b.actions();
    assert!(matches!(done[..], [Action::Report(Event::Stalled { .. })]), "{done:?}");
    assert_eq!(b.run_to(31_000), []);
    let done = b.run_to(31_200);
    assert_eq!(done[..2], [advertise(100), Action::Announce]);
    assert_eq!(b.state(), State::Active);

    // The peer speaks within the interval: it took over.
    b.ms = 60_000;
    b.router.handle_timeout(b.now());
    b.actions();
    b.ms = 60_500;
    let done = b.hear(said(PEER, 50));
    assert_eq!((whys(&done), doings(&done)), (vec![Why::Overtaken], vec![Action::Release]));
    b.router.released();
    assert_eq!(b.actions(), [advertise(1)]);
}

#[test]
fn who_was_overtaken_in_a_stall_finds_it_in_the_queue() {
    let mut b = Bench::active(settings());
    b.run_to(10_000);
    b.ms = 20_000;
    // The last word of ours was at 9.609 s.
    b.router.handle_advert(said(PEER, 50), Micros(12_600_000), b.now());
    assert_eq!(whys(&b.actions()), []);
    let mut b = Bench::active(settings());
    b.run_to(10_000);
    b.ms = 20_000;
    b.router.handle_advert(said(PEER, 50), Micros(13_300_000), b.now());
    assert_eq!(whys(&b.actions()), [Why::Overtaken]);
}

#[test]
fn a_peer_that_is_configured_otherwise_keeps_a_backup_a_backup() {
    for mismatch in Mismatch::ALL {
        let mut b = Bench::backup(settings());
        for ms in (1_000..60_000).step_by(1_000) {
            b.run_to(ms);
            b.router.handle_alive(mismatch, said(PEER, 50), b.now(), b.now());
        }
        assert_eq!((b.state(), b.actions()), (State::Backup, vec![]), "{mismatch:?}");
        b.router.handle_alive(mismatch, said(PEER, 0), b.now(), b.now());
        assert_eq!(whys(&b.run_to(63_000)), [Why::PeerSilent]);
    }
}

#[test]
fn an_active_router_yields_to_one_that_is_configured_otherwise_but_not_to_a_wrong_password() {
    for mismatch in [Mismatch::Version, Mismatch::Interval, Mismatch::Cast] {
        let mut b = Bench::active(settings());
        b.router.handle_alive(mismatch, said(PEER, 101), b.now(), b.now());
        assert_eq!(whys(&b.actions()), [Why::Mismatch]);

        let mut b = Bench::active(settings());
        for ms in [10_000, 11_000, 12_000] {
            b.run_to(ms);
            b.router.handle_alive(mismatch, said(PEER, 50), b.now(), b.now());
            assert_eq!(b.state(), State::Active);
        }
        b.run_to(13_000);
        b.router.handle_alive(mismatch, said(PEER, 50), b.now(), b.now());
        assert_eq!(whys(&b.actions()), [Why::Deaf], "three intervals later it still speaks");
    }
    let mut b = Bench::active(settings());
    for ms in (10_000..60_000).step_by(1_000) {
        b.run_to(ms);
        b.router.handle_alive(Mismatch::Authentication, said(PEER, 255), b.now(), b.now());
    }
    assert_eq!(b.state(), State::Active);
}

#[test]
fn a_worse_router_with_another_list_is_not_preempted_and_yielded_to_when_it_goes_on() {
    let other = |priority| Said { same_addresses: false, ..said(PEER, priority) };
    let mut b = Bench::backup(settings());
    for ms in (1_000..20_000).step_by(1_000) {
        b.run_to(ms);
        assert_eq!(b.hear(other(50)), []);
    }
    // One that resigns is followed all the same.
    b.hear(other(0));
    assert_eq!(whys(&b.run_to(20_500)), [Why::PeerResigned]);

    let mut b = Bench::active(settings());
    for ms in [4_000, 5_000, 6_000] {
        b.run_to(ms);
        b.hear(other(50));
        assert_eq!(b.state(), State::Active, "it may yield yet");
    }
    b.run_to(7_000);
    assert_eq!(whys(&b.hear(other(50))), [Why::Deaf]);
    b.run_to(8_000);
    assert_eq!(b.hear(other(50)), []);
    assert_eq!(b.state(), State::Backup);
    // It is waited for even if it speaks less often than we do, and nothing is made of that silence.
    let slow = Said { interval: Interval::from_secs(5).unwrap(), ..other(50) };
    let mut b = Bench::active(settings());
    for ms in [10_000, 15_000, 20_000] {
        assert_eq!(doings(&b.run_to(ms)).contains(&advertise(100)), ms == 10_000);
        assert_eq!(doings(&b.hear(slow))[0], advertise(100), "it may hear us");
    }
    b.run_to(25_000);
    assert_eq!(whys(&b.hear(slow)), [Why::Deaf]);
    // One that does hear us is quiet, and we go on.
    let mut b = Bench::active(settings());
    b.run_to(10_000);
    b.hear(slow);
    assert_eq!(doings(&b.run_to(22_499)), [Action::Announce, Action::Announce]);
    assert_eq!(doings(&b.run_to(23_500)), [advertise(100), advertise(100)]);
    // A better one takes over, or is yielded to, as ever.
    let mut b = Bench::active(settings());
    assert_eq!(whys(&b.hear(other(150))), [Why::HigherPriority]);
}

#[test]
fn a_peer_that_is_configured_otherwise_can_take_over_too() {
    let mut b = Bench::active(settings());
    b.router.hand_over(b.now());
    b.actions();
    b.router.handle_alive(Mismatch::Interval, said(PEER, 50), b.now(), b.now());
    assert_eq!(b.actions(), [Action::Hold]);
}

#[test]
fn silence_is_arbitrated_where_that_is_wanted() {
    let mut b = Bench::backup(Settings { arbitrate: true, ..settings() });
    assert_eq!(b.run_to(3_610), [Action::Arbitrate]);
    b.router.arbitrated(true, b.now());
    assert_eq!(whys(&b.actions()), [Why::PeerSilent]);

    let mut b = Bench::backup(Settings { arbitrate: true, ..settings() });
    b.run_to(3_610);
    b.router.arbitrated(false, b.now());
    assert_eq!(b.actions(), [Action::Report(Event::Isolated)]);
    assert_eq!(b.run_to(7_000), []);
    assert_eq!(b.run_to(7_300), [Action::Arbitrate], "again after as long a silence");
    b.hear(said(PEER, 150));
    b.router.arbitrated(true, b.now());
    assert_eq!(b.state(), State::Backup, "the answer comes after the peer");
    // No answer at all is none.
    b.run_to(11_000);
    assert_eq!(b.run_to(12_000).last(), Some(&Action::Report(Event::Isolated)));
    // Who resigns need not be arbitrated about.
    b.hear(said(PEER, 0));
    assert_eq!(whys(&b.run_to(13_000)), [Why::PeerResigned]);
}

#[test]
fn a_successor_of_this_process_goes_on_without_an_election() {
    let b = Bench::active(settings());
    let memory = b.router.memory();
    let mut next = Bench::new(settings());
    next.ms = 5_000;
    next.router.resume(&memory, next.now());
    let done = next.actions();
    assert_eq!((doings(&done), whys(&done)), (vec![advertise(100), Action::Acquire], vec![Why::Resumed]));
    next.router.acquired(next.now());
    assert_eq!(next.actions(), [Action::Announce]);

    let memory = Bench::backup(settings()).router.memory();
    let mut next = Bench::new(settings());
    next.router.resume(&memory, next.now());
    assert_eq!(whys(&next.actions()), [Why::Started]);
    assert_eq!(next.run_to(3_608), []);
}

#[test]
fn a_successor_of_a_process_that_stood_still_listens_first() {
    let memory = Memory { stalled: true, ..Bench::active(settings()).router.memory() };
    let resumed = || {
        let mut next = Bench::new(settings());
        next.ms = 50_000;
        next.router.resume(&memory, next.now());
        assert_eq!(doings(&next.actions()), [Action::Acquire]);
        next.router.acquired(next.now());
        next
    };
    let mut alone = resumed();
    assert_eq!(alone.run_to(51_100), []);
    assert_eq!(alone.run_to(51_200)[..2], [advertise(100), Action::Announce]);
    let mut overtaken = resumed();
    assert_eq!(whys(&overtaken.hear(said(PEER, 50))), [Why::Overtaken]);
}

#[test]
fn nothing_is_claimed_before_the_startup_delay_is_over() {
    let mut b = Bench::backup(Settings { startup_delay: Duration::from_secs(30), ..settings() });
    assert_eq!(b.run_to(29_999), []);
    assert_eq!(whys(&b.run_to(30_000)), [Why::PeerSilent]);
}

#[test]
fn a_change_of_priority_moves_the_running_timer_by_the_difference() {
    let mut b = Bench::backup(settings());
    b.run_to(1_000);
    b.set(Condition { adjust: 100, ..GOOD });
    assert_eq!(b.router.next_timeout(), Some(Micros(3_000_000 + 1_000_000 * 56 / 256)));
}

#[test]
fn weights_never_reach_what_is_reserved() {
    let mut b = Bench::backup(settings());
    for (adjust, priority) in [(0, 100), (-99, 1), (-253, 1), (154, 254), (253, 254)] {
        b.set(Condition { adjust, ..GOOD });
        assert_eq!(b.router.priority(), Priority(priority));
    }
}
