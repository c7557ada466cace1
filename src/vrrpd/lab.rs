//! A small network for tests: hosts with one interface each, on one switch; all of it in namespaces of their own.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Name of the interface of every host.
pub(crate) const INTERFACE: &str = "eth0";

/// Hosts on a switch; removed with its owner.
pub(crate) struct Lab {
    switch: Namespace,
    pub(crate) hosts: Vec<Host>,
}

/// A host: number n has 192.0.2.n/24, 2001:db8::n/64 and fe80::n/64.
pub(crate) struct Host {
    namespace: Namespace,
    pub(crate) number: u8,
    /// Number of its interface.
    pub(crate) ifindex: u32,
}

struct Namespace(String);

impl Lab {
    /// `None` where tests may not make namespaces, and were told so.
    pub(crate) fn new(hosts: u8) -> Option<Self> {
        if std::env::var_os("BASCULE_TEST_UNPRIVILEGED").is_some() {
            return None;
        }
        let switch = Namespace::new();
        switch.ip("link add switch type bridge mcast_snooping 0");
        switch.ip("link set switch up");
        let mut lab = Self { switch, hosts: Vec::new() };
        for number in 1..=hosts {
            let host = lab.host(number);
            lab.hosts.push(host);
        }
        Some(lab)
    }

    fn host(&self, number: u8) -> Host {
        let namespace = Namespace::new();
        // Duplicate address detection takes a second, and there are no duplicates.
        namespace.run(|| {
            for of in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{of}/accept_dad"), "0").unwrap();
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{of}/addr_gen_mode"), "1").unwrap();
            }
        });
        let port = format!("port{number}");
        let peer = &namespace.0;
        self.switch.ip(&format!("link add {port} type veth peer name {INTERFACE} netns {peer}"));
        self.switch.ip(&format!("link set {port} master switch up"));
        namespace.ip("link set lo up");
        namespace.ip(&format!("link set {INTERFACE} address 02:00:00:00:00:{number:02x} up"));
        namespace.ip(&format!("address add 192.0.2.{number}/24 dev {INTERFACE}"));
        namespace.ip(&format!("address add 2001:db8::{number:x}/64 dev {INTERFACE}"));
        namespace.ip(&format!("address add fe80::{number:x}/64 dev {INTERFACE}"));
        let ifindex = namespace.run(|| {
            let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None);
            rustix::net::netdevice::name_to_index(socket.unwrap(), INTERFACE).unwrap()
        });
        let host = Host { namespace, number, ifindex };
        let up = || {
            let addresses = host.ip_output(&format!("address show {INTERFACE}"));
            (addresses.contains("state UP") && !addresses.contains("tentative")).then_some(())
        };
        wait(up, "the link");
        self.hosts.iter().for_each(|other| other.wait_for(&host));
        host
    }

    /// Runs `inside` on a thread in the switch.
    pub(crate) fn in_switch<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        self.switch.run(inside)
    }

    /// Sets the port of host `number` to a state of `ip link set`, such as `down`.
    pub(crate) fn set_port(&self, number: u8, state: &str) {
        self.switch.ip(&format!("link set port{number} {state}"));
    }
}

impl Host {
    /// Runs `inside` on a thread in the host; sockets that it makes stay there.
    pub(crate) fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(inside)
    }

    /// `ip ARGUMENTS`.
    pub(crate) fn ip(&self, arguments: &str) {
        self.namespace.ip(arguments);
    }

    /// What `ip ARGUMENTS` prints.
    pub(crate) fn ip_output(&self, arguments: &str) -> String {
        self.namespace.ip_output(arguments)
    }

    /// Its own IPv4 address.
    pub(crate) fn v4(&self) -> IpAddr {
        IpAddr::from([192, 0, 2, self.number])
    }

    /// Its own global IPv6 address.
    pub(crate) fn v6(&self) -> IpAddr {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(self.number)])
    }

    /// Its own link-local address.
    pub(crate) fn link_local(&self) -> IpAddr {
        IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, u16::from(self.number)])
    }

    /// Switch and interfaces pass frames some time after they say that they are up.
    fn wait_for(&self, other: &Self) {
        self.run(|| {
            for ip in [other.v4(), other.v6(), other.link_local()] {
                let closed_port = match ip {
                    IpAddr::V4(_) => SocketAddr::new(ip, 9),
                    IpAddr::V6(ip) => SocketAddrV6::new(ip, 9, 0, self.ifindex).into(),
                };
                let refused = || {
                    let result = TcpStream::connect_timeout(&closed_port, Duration::from_millis(50));
                    (result.unwrap_err().kind() == ErrorKind::ConnectionRefused).then_some(())
                };
                wait(refused, "the other host");
            }
        });
    }

    /// The address of its interface.
    pub(crate) fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0, self.number]
    }
}

impl Namespace {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let this = Self(format!("bascule-vrrp-{}-{n}", std::process::id()));
        let status = Command::new("ip").args(["netns", "add", &this.0]).status().expect("`ip` of the package iproute2");
        assert!(status.success(), "namespaces need root, or set BASCULE_TEST_UNPRIVILEGED");
        this
    }

    fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn ip(&self, arguments: &str) {
        self.ip_output(arguments);
    }

    fn ip_output(&self, arguments: &str) -> String {
        let output = Command::new("ip").args(["-n", &self.0]).args(arguments.split(' ')).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// What `get` returns once it returns something; for `what` some seconds are waited.
pub(crate) fn wait<T>(mut get: impl FnMut() -> Option<T>, what: &str) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = get() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
