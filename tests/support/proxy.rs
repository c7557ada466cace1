//! The data path inside the test process: a configuration, an engine, ports of its own, and its access log.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use bascule::config::model::{Config, TrackedPools, VirtualAddress, VirtualRouter};
use bascule::config::{self, LoadOptions};
use bascule::net::listen::{Options, bind};
use bascule::proxy::{BoundListener, Engine};

use super::TempDir;
use super::wire::{PATIENCE, Peer};

/// What a configuration without `[access_log]` gets: how a test sees what became of a request.
const LOG: &str =
    "[access_log]\npath = \"/log\"\nformat = '$request_method $request_uri $status reason=$reason tries=$tries'\n";

/// A running engine.
#[derive(Debug)]
pub(crate) struct Proxy {
    engine: Engine,
    bound: Vec<(Arc<str>, SocketAddr)>,
    /// More descriptors of the sockets.
    sockets: Vec<BoundListener>,
    log: BufReader<UnixStream>,
}

impl Proxy {
    /// Runs `config`, in which the ports of listeners count for nothing: each gets a free one. Without `[global]` there is
    /// one worker; without `[access_log]` there is that of [`LOG`].
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(config, |_| ())
    }

    /// The same with a configuration that `change` has completed.
    pub(crate) fn start_with(config: &str, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Self::load(config);
        change(&mut config);
        let workers = config.global.workers.map_or(1, |n| n.get() as usize);
        let shards = NonZeroUsize::new(workers).unwrap();
        let options = Options { backlog: 128, keepalive: None, freebind: false, shards, joins: false };
        let listeners: Vec<_> = config
            .listeners
            .iter()
            .map(|l| {
                let any = SocketAddr::new(l.bind[0].ip(), 0);
                let shards = bind(&l.name, any, &options).unwrap();
                BoundListener { name: Arc::clone(&l.name), addr: shards[0].local_addr().unwrap(), shards }
            })
            .collect();
        let bound = listeners.iter().map(|l| (Arc::clone(&l.name), l.addr)).collect();
        let sockets = listeners.iter().map(again).collect();
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let files = vec![(PathBuf::from("/log"), theirs.into())];
        let engine = Engine::start(
            config,
            Default::default(),
            listeners,
            files,
            &Default::default(),
            serde_json::value::RawValue::NULL,
            None,
        )
        .unwrap();
        Self { engine, bound, sockets, log: BufReader::new(ours) }
    }

    /// Goes over to `config`, on the sockets of those of its listeners that there are already.
    pub(crate) fn reload(&mut self, config: &str) {
        let config = Self::load(config);
        let named = |l: &&BoundListener| config.listeners.iter().any(|listener| listener.name == l.name);
        let listeners = self.sockets.iter().filter(named).map(again).collect();
        let next = self.engine.builder().build(config, Default::default(), &Default::default());
        self.engine.apply(next, listeners, Vec::new(), &Default::default()).unwrap();
    }

    fn load(config: &str) -> Config {
        let mut text = config.to_owned();
        if !config.contains("[global]") {
            text.push_str("[global]\nworkers = 1\n");
        }
        if !config.contains("[access_log]") {
            text.push_str(LOG);
        }
        let dir = TempDir::new();
        let file = dir.path().join("bascule.toml");
        fs::write(&file, text).unwrap();
        config::load(&file, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}")).config
    }

    /// Begins to drain.
    pub(crate) fn drain(&mut self) {
        self.engine.drain();
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The address of its first listener, by name.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.bound[0].1
    }

    pub(crate) fn addr_of(&self, listener: &str) -> SocketAddr {
        self.bound.iter().find(|(name, _)| &**name == listener).expect("a listener of this name").1
    }

    pub(crate) fn connect(&self) -> Peer {
        Peer::connect(self.addr())
    }

    /// The next line of the access log.
    pub(crate) fn log_line(&mut self) -> String {
        let mut line = String::new();
        self.log.read_line(&mut line).expect("a line of the access log");
        line.trim_end().to_owned()
    }

    /// Skips lines of the access log until one contains `text`.
    pub(crate) fn wait_for_log(&mut self, text: &str) -> String {
        loop {
            let line = self.log_line();
            if line.contains(text) {
                return line;
            }
        }
    }
}

/// The same sockets.
fn again(l: &BoundListener) -> BoundListener {
    let shards = l.shards.iter().map(|shard| shard.try_clone().unwrap()).collect();
    BoundListener { name: Arc::clone(&l.name), addr: l.addr, shards }
}

/// A virtual router with these addresses, which may be of loopback as in no file, that tracks these pools.
pub(crate) fn router(addresses: &[&str], pools: &[&str]) -> Arc<VirtualRouter> {
    let text = "[global]\nrun_dir = \"/nowhere\"\n[vrrp.VI_1]\ninterface = \"lo\"\nvirtual_router_id = 51\nversion = 2\n\
                virtual_addresses = [\"192.0.2.1\"]\n";
    let router = config::parse_effective(text, "box").unwrap_or_else(|e| panic!("{e}")).routers.remove(0);
    let address = VirtualAddress::clone(&router.addresses[0]);
    let at = |ip: &&str| VirtualAddress { ip: ip.parse().unwrap(), ..address.clone() };
    Arc::new(VirtualRouter {
        addresses: addresses.iter().map(at).collect(),
        track_pools: Some(TrackedPools { pools: pools.iter().map(|&p| p.into()).collect(), any: false }),
        ..VirtualRouter::clone(&router)
    })
}
