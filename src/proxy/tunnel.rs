//! Two pumps back to back: TCP sessions, and HTTP connections after 101.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use crate::net::Transport;
use crate::net::wheel::Timer;
use crate::proxy::pump::{Pump, PumpError, Waits};
use crate::telemetry::reason::Reason;
use crate::time::Millis;

/// How a tunnel ended.
#[derive(Debug)]
pub(crate) struct TunnelEnd {
    /// Bytes sent to the server.
    pub(crate) to_server: u64,
    /// Bytes sent to the client.
    pub(crate) to_client: u64,
    /// `None`: both sides closed in order.
    pub(crate) reason: Option<Reason>,
}

/// Relays until both directions have ended, one breaks, nothing moved for `idle`, or there is a reason to `cut` it.
///
/// The end of one direction is passed on as such (half-close); a reset of one side becomes a reset of the other. TLS that is cut
/// off ends as well, as with nginx and HAProxy, since many programs leave like that: what they said before is delivered.
#[expect(clippy::too_many_arguments, reason = "two sides, two pumps, and what ends them")]
pub(crate) async fn tunnel<C: Transport, S: Transport>(
    client: &C,
    server: &S,
    mut up: Pump,
    mut down: Pump,
    timer: &Timer,
    idle: Duration,
    now: impl Fn() -> Millis,
    cut: impl Fn() -> Option<Reason>,
) -> TunnelEnd {
    timer.set(now().after(idle));
    let (mut up_open, mut down_open) = (true, true);
    let mut moved = 0;
    let reason = poll_fn(|cx| {
        if up_open && let Poll::Ready(end) = up.poll(cx, client, server) {
            up_open = false;
            if let Some(reason) = ended(end, &up, server, client, Reason::ClientGone, Reason::ResetInBody) {
                return Poll::Ready(Some(reason));
            }
        }
        if down_open && let Poll::Ready(end) = down.poll(cx, server, client) {
            down_open = false;
            if let Some(reason) = ended(end, &down, client, server, Reason::ResetInBody, Reason::ClientGone) {
                return Poll::Ready(Some(reason));
            }
        }
        if !up_open && !down_open {
            return Poll::Ready(None);
        }
        if let Some(reason) = cut() {
            return Poll::Ready(Some(reset_both(client, server, reason)));
        }
        if up.moved() + down.moved() != moved {
            moved = up.moved() + down.moved();
            timer.set(now().after(idle));
        }
        // A side that is not read from, because it has ended or the other one is full, tells of its end only when asked.
        let unread = |open: bool, pump: &Pump| !open || pump.waits_for() == Waits::Dest;
        if unread(up_open, &up) && client.poll_broken(cx).is_ready() {
            return Poll::Ready(Some(reset_both(client, server, Reason::ClientGone)));
        }
        if unread(down_open, &down) && server.poll_broken(cx).is_ready() {
            return Poll::Ready(Some(reset_both(client, server, Reason::ResetInBody)));
        }
        timer.poll_expired(cx).map(|()| Some(Reason::IdleTimeout))
    })
    .await;
    timer.clear();
    TunnelEnd { to_server: up.sent(), to_client: down.sent(), reason }
}

/// One direction is over: closes its far end, or resets both.
fn ended<D: Transport, S: Transport>(
    end: Result<(), PumpError>,
    pump: &Pump,
    dest: &D,
    source: &S,
    source_broke: Reason,
    dest_broke: Reason,
) -> Option<Reason> {
    let shut = || match dest.socket().filter(|_| pump.was_cut()) {
        // Inside TLS it is not said to have ended, either.
        Some(sock) => sock.shutdown(),
        None => dest.shutdown(),
    };
    let broke = match end {
        // The far end may be gone already; then its own direction says so.
        Ok(()) => return shut().err().filter(|e| e.kind() != io::ErrorKind::NotConnected).map(|_| dest_broke),
        Err(PumpError::Dest) => dest_broke,
        Err(_) => source_broke,
    };
    Some(reset_both(dest, source, broke))
}

fn reset_both<A: Transport, B: Transport>(a: &A, b: &B, reason: Reason) -> Reason {
    a.set_abort();
    b.set_abort();
    reason
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::rc::Rc;
    use std::task::{Context, Waker};

    use super::*;
    use crate::net::buffer::BufferPool;
    use crate::net::clock;
    use crate::net::memory::{Memory, pair};
    use crate::net::pipe::PipePool;
    use crate::net::wheel::Wheel;
    use crate::proxy::pump::Means;

    /// Drives a tunnel by hand: `steps` gets the client's and the server's far ends, and a way to go on.
    fn drive(idle: Duration, steps: impl FnOnce(&Memory, &Memory, &Wheel, &mut dyn FnMut() -> Option<TunnelEnd>)) {
        let means = Means { buffers: BufferPool::new(), pipes: PipePool::new(), read_ahead: 1 << 16 };
        let pump = || Pump::of_tunnel(None, means.clone()).expect("a pump");
        let wheel: Rc<Wheel> = Wheel::new(clock::now());
        let timer = wheel.timer();
        let (client, near_client) = pair(1 << 16);
        let (server, near_server) = pair(1 << 16);
        let mut run = pin!(tunnel(&near_client, &near_server, pump(), pump(), &timer, idle, clock::now, || None));
        let mut cx = Context::from_waker(Waker::noop());
        let mut go = || match run.as_mut().poll(&mut cx) {
            Poll::Ready(end) => Some(end),
            Poll::Pending => None,
        };
        steps(&client, &server, &wheel, &mut go);
    }

    #[test]
    fn the_end_of_one_direction_leaves_the_other_open() {
        drive(Duration::from_secs(60), |client, server, _, go| {
            client.give(b"question");
            client.shutdown().expect("memory");
            assert!(go().is_none());
            assert_eq!(server.received(), b"question");
            assert!(server.ended() && !client.ended());
            server.give(b"answer");
            server.shutdown().expect("memory");
            let end = go().expect("both directions ended");
            assert_eq!(client.received(), b"answer");
            assert!(client.ended() && !client.aborted());
            assert_eq!((end.to_server, end.to_client, end.reason), (8, 6, None));
        });
    }

    #[test]
    fn a_reset_of_one_side_is_a_reset_of_the_other() {
        drive(Duration::from_secs(60), |client, server, _, go| {
            server.set_abort();
            assert_eq!(go().expect("over").reason, Some(Reason::ResetInBody));
            assert!(client.aborted());
        });
        drive(Duration::from_secs(60), |client, server, _, go| {
            client.set_abort();
            assert_eq!(go().expect("over").reason, Some(Reason::ClientGone));
            assert!(server.aborted());
        });
    }

    #[test]
    fn a_reset_is_noticed_on_a_side_that_is_not_read() {
        drive(Duration::from_secs(60), |client, server, _, go| {
            client.shutdown().expect("memory");
            assert!(go().is_none());
            client.set_abort();
            assert_eq!(go().expect("over").reason, Some(Reason::ClientGone));
            assert!(server.aborted());
        });
        drive(Duration::from_secs(60), |client, server, _, go| {
            // The client takes nothing until everything in between is full.
            while server.give(&[0; 1 << 16]) > 0 {
                assert!(go().is_none());
            }
            server.set_abort();
            assert_eq!(go().expect("over").reason, Some(Reason::ResetInBody));
            assert!(client.aborted());
        });
    }

    #[test]
    fn silence_for_the_idle_time_ends_it_and_a_byte_starts_it_anew() {
        drive(Duration::from_secs(60), |client, server, wheel, go| {
            let start = clock::now();
            assert!(go().is_none());
            wheel.advance(start.after(Duration::from_secs(59)));
            client.give(b"x");
            assert!(go().is_none());
            assert_eq!(server.received(), b"x");
            // The byte has set the deadline anew, by the real clock, which has hardly moved.
            wheel.advance(clock::now().after(Duration::from_secs(61)));
            assert_eq!(go().expect("over").reason, Some(Reason::IdleTimeout));
        });
    }
}
