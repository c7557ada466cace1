//! Facts about other processes from /proc, for messages to the operator. All of it is best effort.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Where a thread is: its state letter, what it sleeps in, and its system call, as far as we may look.
pub fn thread_location(pid: u32, tid: i32) -> String {
    let read = |file: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/{file}")).ok();
        text.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
    };
    let state = read("stat").and_then(|stat| state_of(&stat)).unwrap_or('?');
    let wchan = read("wchan").unwrap_or_else(|| "?".to_owned());
    let syscall = read("syscall").unwrap_or_else(|| "?".to_owned());
    format!("state {state}, wchan {wchan}, syscall {syscall}")
}

/// The process that listens on `addr` or on all addresses of its port, as `nginx (pid 12)`.
pub fn holder_of_port(addr: SocketAddr) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, addr.port()))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let holds = |process: &Path| {
        let Ok(fds) = fs::read_dir(process.join("fd")) else { return false };
        fds.flatten().any(|fd| {
            fs::read_link(fd.path()).is_ok_and(|target| inodes.iter().any(|i| target.as_os_str() == i.as_str()))
        })
    };
    let processes = fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let (pid, process) =
        processes.map(|pid| (pid, Path::new("/proc").join(pid.to_string()))).find(|(_, p)| holds(p))?;
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    Some(format!("{} (pid {pid})", name.trim()))
}

/// The default gateway by `interface`, of the family asked for; the one of the least metric.
pub fn gateway(interface: &str, v4: bool) -> Option<IpAddr> {
    let text = fs::read_to_string(if v4 { "/proc/net/route" } else { "/proc/net/ipv6_route" }).ok()?;
    let gateway = |line| if v4 { gateway_v4(line, interface) } else { gateway_v6(line, interface) };
    text.lines().filter_map(gateway).min().map(|(_, gateway)| gateway)
}

/// Metric and gateway of a line of /proc/net/route that is a default route by `interface`: numbers in hexadecimal, in the
/// order of bytes in memory.
fn gateway_v4(line: &str, interface: &str) -> Option<(u64, IpAddr)> {
    let mut fields = line.split_whitespace();
    let (name, destination, gateway) = (fields.next()?, fields.next()?, fields.next()?);
    let (metric, mask) = (fields.nth(3)?.parse().ok()?, fields.next()?);
    let is_default = name == interface && destination == "00000000" && mask == "00000000" && gateway != "00000000";
    let octets = u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes();
    is_default.then_some((metric, octets.into()))
}

/// The same of /proc/net/ipv6_route.
fn gateway_v6(line: &str, interface: &str) -> Option<(u64, IpAddr)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [destination, length, _, _, gateway, metric, .., name] = fields[..] else { return None };
    let is_default = name == interface && length == "00" && destination.bytes().all(|b| b == b'0');
    let gateway = u128::from_str_radix(gateway, 16).ok().filter(|gateway| *gateway != 0)?;
    is_default.then_some((u64::from_str_radix(metric, 16).ok()?, gateway.to_be_bytes().into()))
}

/// The field after the command's name, which may itself hold spaces and parentheses.
fn state_of(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Inodes of the sockets in state LISTEN (0A) on `port`, from the text of /proc/net/tcp or tcp6.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let listens = *fields.get(3)? == "0A" && u16::from_str_radix(local_port, 16).ok()? == port;
        listens.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
    };
    table.lines().skip(1).filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = holder_of_port(listener.local_addr().unwrap()).unwrap();
        assert!(holder.ends_with(&format!("(pid {})", std::process::id())), "{holder}");
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 111 1\n\
            1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0  0 222 1\n\
            2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 333 1\n";
        assert_eq!(listening_inodes(table, 8080), ["111"]);
    }

    #[test]
    fn the_default_gateway_is_that_of_the_interface() {
        let route = "eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0";
        let found = gateway_v4(route, "eth0");
        if cfg!(target_endian = "little") {
            assert_eq!(found, Some((100, IpAddr::from([192, 0, 2, 1]))));
        }
        assert_eq!(gateway_v4(route, "eth1"), None);
        assert_eq!(gateway_v4("eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0", "eth0"), None);
        assert_eq!(gateway_v4("Iface\tDestination\tGateway \tFlags", "eth0"), None);
        let zero = "0".repeat(32);
        let route =
            format!("{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0");
        assert_eq!(gateway_v6(&route, "eth0"), Some((1024, "fe80::1".parse().unwrap())));
        assert_eq!(gateway_v6(&route, "eth1"), None);
    }

    #[test]
    fn the_state_follows_the_last_parenthesis_of_the_name() {
        assert_eq!(state_of("12 (a) b (c)) S 1 2"), Some('S'));
        assert_eq!(state_of("garbage"), None);
    }

    #[test]
    fn a_thread_of_ours_has_a_location() {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        assert!(thread_location(std::process::id(), tid).starts_with("state R"));
    }
}
