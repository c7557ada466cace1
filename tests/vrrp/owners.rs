//! Who holds which address, watched all the time.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bascule::vrrpd::{Monitor, Netlink};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::lab::{Host, Lab};
use crate::support::PATIENCE;

/// Watches the addresses of every host of a lab until it is dropped.
pub(crate) struct Owners {
    history: Arc<Mutex<Vec<Moment>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// From then on a host had these addresses.
struct Moment {
    at: Instant,
    host: u8,
    has: BTreeSet<IpAddr>,
}

/// What a host is watched with.
struct Eye {
    host: u8,
    monitor: Monitor,
    netlink: Netlink,
    has: BTreeSet<IpAddr>,
}

impl Eye {
    fn look(&mut self) -> Option<Moment> {
        let has: BTreeSet<_> = self.netlink.addresses().unwrap().into_iter().map(|address| address.ip).collect();
        let changed = self.has != has;
        self.has.clone_from(&has);
        changed.then(|| Moment { at: Instant::now(), host: self.host, has })
    }
}

impl Owners {
    pub(crate) fn watch(lab: &Lab) -> Self {
        let open = |host: &Host| {
            let number = host.number;
            host.run(|| Eye {
                host: number,
                monitor: Monitor::open().unwrap(),
                netlink: Netlink::open().unwrap(),
                has: BTreeSet::new(),
            })
        };
        let mut eyes: Vec<_> = lab.hosts.iter().map(open).collect();
        let history = Arc::new(Mutex::new(Vec::from_iter(eyes.iter_mut().filter_map(Eye::look))));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, ends) = (Arc::clone(&history), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let mut fds: Vec<_> =
                    eyes.iter().map(|e| PollFd::from_borrowed_fd(e.monitor.as_fd(), PollFlags::IN)).collect();
                let limit = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                let _ = poll(&mut fds, Some(&limit));
                for eye in &mut eyes {
                    while let Ok(Some(_)) = eye.monitor.next_change() {}
                    seen.lock().unwrap().extend(eye.look());
                }
            }
        });
        Self { history, stop, thread: Some(thread) }
    }

    /// Periods with the hosts that held `ip` in them, from `since` until now.
    fn periods(&self, ip: IpAddr, since: Instant) -> Vec<(Duration, BTreeSet<u8>)> {
        let mut holders = BTreeSet::new();
        let mut periods = Vec::new();
        let mut begin = since;
        let history = self.history.lock().unwrap();
        for moment in history.iter() {
            let mut next = holders.clone();
            if moment.has.contains(&ip) {
                next.insert(moment.host)
            } else {
                next.remove(&moment.host)
            };
            if next == holders {
                continue;
            }
            if moment.at > begin {
                periods.push((moment.at - begin, holders));
                begin = moment.at;
            }
            holders = next;
        }
        periods.push((Instant::now().saturating_duration_since(begin), holders));
        periods
    }

    /// Numbers of the hosts that hold `ip` now.
    pub(crate) fn of(&self, ip: IpAddr) -> Vec<u8> {
        self.periods(ip, Instant::now()).pop().unwrap().1.into_iter().collect()
    }

    /// Waits until exactly these hosts hold `ip`.
    pub(crate) fn wait_for(&self, ip: IpAddr, hosts: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        while self.of(ip) != hosts {
            assert!(Instant::now() < deadline, "{ip} is held by {:?} instead of {hosts:?}", self.of(ip));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until each address is held by its host alone, and makes sure that it stays so for `long`.
    pub(crate) fn settle(&self, all: &[(IpAddr, u8)], long: Duration) {
        for (ip, host) in all {
            self.wait_for(*ip, &[*host]);
        }
        let since = Instant::now();
        std::thread::sleep(long);
        for (ip, host) in all {
            let periods = self.periods(*ip, since);
            assert!(periods.iter().all(|(_, holders)| holders.iter().eq([host])), "{ip}, of {host}: {periods:?}");
        }
    }

    /// The longest time since `since` in which several hosts held `ip`.
    pub(crate) fn longest_overlap(&self, ip: IpAddr, since: Instant) -> Duration {
        let overlaps = self.periods(ip, since).into_iter().filter(|(_, holders)| holders.len() > 1);
        overlaps.map(|(period, _)| period).max().unwrap_or_default()
    }

    /// Whether `host` has held `ip`, alone or not, all the time since `since`.
    pub(crate) fn has_stayed(&self, ip: IpAddr, host: u8, since: Instant) -> bool {
        self.periods(ip, since).iter().all(|(_, holders)| holders.contains(&host))
    }

    /// Whether `host` has held `ip` at any time since `since`.
    pub(crate) fn has_held(&self, ip: IpAddr, host: u8, since: Instant) -> bool {
        self.periods(ip, since).iter().any(|(_, holders)| holders.contains(&host))
    }
}

impl Drop for Owners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
