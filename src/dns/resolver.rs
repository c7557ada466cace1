//! One lookup: `/etc/hosts`, or else an A and an AAAA query side by side.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as ServerError, NetError};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::time::timeout;

use super::file::WatchedFile;
use super::hosts::Hosts;
use crate::config::model;

/// Resolves names of servers. Wants a tokio runtime with I/O and time around [`lookup`](Self::lookup).
pub struct Resolver {
    hosts: WatchedFile<Hosts>,
    servers: Servers,
    timeout: Duration,
    min_ttl: Duration,
    max_ttl: Duration,
}

/// Who is asked.
enum Servers {
    /// `[dns] resolvers`.
    Given(Arc<Client>),
    /// Those of resolv.conf.
    System(WatchedFile<Client>),
}

/// That there is none fails the lookups, not the start.
type Client = Result<TokioResolver, NetError>;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// At least one, sorted, no duplicates.
    pub addrs: Vec<IpAddr>,
    /// How long it may be used: the lowest TTL, between `min_ttl` and `max_ttl`.
    pub ttl: Duration,
    /// The family whose query failed, so that nothing is known of its addresses.
    pub unknown: Option<Family>,
}

/// A or AAAA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Whether `addr` is of this family.
    pub fn contains(self, addr: IpAddr) -> bool {
        addr.is_ipv4() == (self == Self::V4)
    }

    fn record_type(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub enum DnsError {
    /// Not a name that DNS can carry.
    InvalidName {
        /// What was asked for.
        name: String,
    },
    /// NXDOMAIN, or neither A nor AAAA records.
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// No name server answered.
    TimedOut {
        /// What was asked for.
        name: String,
        /// All tries together.
        after: Duration,
    },
    /// Name servers answered with errors, or could not be reached.
    Failed {
        /// What was asked for.
        name: String,
        /// The last error.
        source: NetError,
    },
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidName { name } => write!(f, "{name} is not a name that can be resolved"),
            Self::NotFound { name } => write!(f, "{name} does not exist or has no addresses"),
            Self::TimedOut { name, after } => write!(f, "no answer for {name} within {after:?}"),
            Self::Failed { name, .. } => write!(f, "the lookup of {name} failed"),
        }
    }
}

impl Error for DnsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed { source, .. } => Some(source),
            Self::InvalidName { .. } | Self::NotFound { .. } | Self::TimedOut { .. } => None,
        }
    }
}

/// Tries of a query within its time; a lost datagram must not be a failed lookup.
const TRIES: u32 = 3;

impl Resolver {
    /// Reads and asks nothing yet. Without `resolvers`, names are completed by the search list of resolv.conf.
    pub fn new(config: &model::Dns) -> Self {
        Self::with_files(config, "/etc/hosts".into(), "/etc/resolv.conf".into())
    }

    /// As [`new`](Self::new), with other files than the system's.
    pub(super) fn with_files(config: &model::Dns, hosts: PathBuf, resolv_conf: PathBuf) -> Self {
        let servers = if config.resolvers.is_empty() {
            Servers::System(WatchedFile::new(resolv_conf))
        } else {
            let servers = config.resolvers.iter().map(|addr| {
                let mut server = NameServerConfig::udp_and_tcp(addr.ip());
                for connection in &mut server.connections {
                    connection.port = addr.port();
                }
                server
            });
            let servers = ResolverConfig::from_name_servers(servers.collect());
            Servers::Given(Arc::new(client(servers, ResolverOpts::default(), config.timeout)))
        };
        let hosts = WatchedFile::new(hosts);
        Self { hosts, servers, timeout: config.timeout, min_ttl: config.min_ttl, max_ttl: config.max_ttl }
    }

    /// All addresses of `host` (lower case, no trailing dot).
    ///
    /// # Errors
    /// When no address is known, in at most `[dns] timeout`.
    pub async fn lookup(&self, host: &str) -> Result<Answer, DnsError> {
        if let Some(addrs) = self.hosts.current(Hosts::parse).get(host) {
            // The file has no TTLs; the shortest makes a change of it count soon.
            return Ok(self.answer(addrs.to_vec(), self.min_ttl, None));
        }
        let client = match &self.servers {
            Servers::Given(client) => Arc::clone(client),
            Servers::System(file) => file.current(|text| {
                let (servers, options) = system_servers(text);
                client(servers, options, self.timeout)
            }),
        };
        match &*client {
            Ok(client) => self.ask(client, host).await,
            Err(source) => Err(DnsError::Failed { name: host.into(), source: source.clone() }),
        }
    }

    async fn ask(&self, client: &TokioResolver, host: &str) -> Result<Answer, DnsError> {
        // Relaxed: names of containers have underscores.
        let name = Name::from_str_relaxed(host).map_err(|_| DnsError::InvalidName { name: host.into() })?;
        let (v4, v6) = tokio::join!(
            self.ask_family(client, host, &name, Family::V4),
            self.ask_family(client, host, &name, Family::V6)
        );
        match (v4, v6) {
            (Ok((mut addrs, ttl)), Ok((more, other_ttl))) => {
                addrs.extend(more);
                Ok(self.answer(addrs, ttl.min(other_ttl), None))
            }
            (Ok((addrs, ttl)), Err(DnsError::NotFound { .. })) | (Err(DnsError::NotFound { .. }), Ok((addrs, ttl))) => {
                Ok(self.answer(addrs, ttl, None))
            }
            (Ok((addrs, ttl)), Err(_)) => Ok(self.answer(addrs, ttl, Some(Family::V6))),
            (Err(_), Ok((addrs, ttl))) => Ok(self.answer(addrs, ttl, Some(Family::V4))),
            // That one family has no records says nothing when the other could not be asked.
            (Err(DnsError::NotFound { .. }), Err(error)) | (Err(error), Err(_)) => Err(error),
        }
    }

    /// Addresses of one family, at least one, and their lowest TTL.
    async fn ask_family(
        &self,
        client: &TokioResolver,
        host: &str,
        name: &Name,
        family: Family,
    ) -> Result<(Vec<IpAddr>, Duration), DnsError> {
        let timed_out = || DnsError::TimedOut { name: host.into(), after: self.timeout };
        let records = match timeout(self.timeout, client.lookup(name.clone(), family.record_type())).await {
            Ok(Ok(records)) => records,
            Ok(Err(NetError::Dns(ServerError::NoRecordsFound(_)))) => {
                return Err(DnsError::NotFound { name: host.into() });
            }
            Ok(Err(NetError::Timeout)) | Err(_) => return Err(timed_out()),
            Ok(Err(source)) => return Err(DnsError::Failed { name: host.into(), source }),
        };
        let addrs: Vec<_> = records.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
        if addrs.is_empty() {
            return Err(DnsError::NotFound { name: host.into() });
        }
        // Those of the aliases on the way count as well.
        let ttl = records.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
        Ok((addrs, Duration::from_secs(ttl.into())))
    }

    fn answer(&self, mut addrs: Vec<IpAddr>, ttl: Duration, unknown: Option<Family>) -> Answer {
        addrs.sort_unstable();
        addrs.dedup();
        Answer { addrs, ttl: ttl.min(self.max_ttl).max(self.min_ttl), unknown }
    }
}

fn client(servers: ResolverConfig, options: ResolverOpts, timeout: Duration) -> Client {
    let mut builder = TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    let options = builder.options_mut();
    options.timeout = timeout / TRIES;
    options.attempts = TRIES as usize - 1;
    // Every lookup is made because the last answer is too old, or was none.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()
}

/// What resolv.conf says. Without a usable server in it, the one on this machine, as resolv.conf(5) has it.
fn system_servers(text: &str) -> (ResolverConfig, ResolverOpts) {
    parse_resolv_conf(text).unwrap_or_else(|_| {
        let local = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
        (ResolverConfig::from_name_servers(vec![local]), ResolverOpts::default())
    })
}

#[cfg(test)]
mod tests;
