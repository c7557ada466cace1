//! Bascule: a load balancer for HTTP and TCP in one binary.
//!
//! # Code map
//!
//! ```text
//! 5  app         command line; supervisor, proxy and vrrp processes; the demo
//! 4  proxy       the data path: Engine, workers, accepting, http, tcp, pumps     probe   active health checks
//!    vrrpd       virtual addresses: raw sockets, netlink, announcements
//! 3  snapshot    the immutable view that requests run on        pool   servers, leases, failures, queues
//!    dns         names of servers
//! 2  config      file -> raw -> model                           net    sockets, buffers, pipes, timers, clock
//!    telemetry   access log, reasons, our own log               ipc    messages between the processes
//!    http2       streams of HTTP/2 as exchanges of HTTP/1.1        tls    certificates, tickets, what a client says first
//! 1  http1       heads and framing                              balance   algorithms
//!    http2       messages of HTTP/2 as those of HTTP/1.1
//!    route       host and path to route                         template  strings with variables
//!    vrrp        who holds a virtual address                    time      points in time
//!    health      verdicts and times of health checks        admission   access lists, rates, bounds of concurrency
//!    recency     a map in the order of use                      sys         the only unsafe code
//!    proxy_protocol   headers of the PROXY protocol
//! ```
//!
//! Imports point down; `tests/tidy.rs` holds them to it. Layer 1 is pure: it takes `now` and a seed, returns values, and never
//! logs, spawns, sleeps or reads a clock.
//!
//! # How a request travels
//!
//! A worker's accept loop ([`proxy`]) makes a task of each client connection. Where a PROXY header or TLS comes first, that is
//! read, and what it has come to stays with the connection; what is inside goes the same way as without. The task waits for a whole request head,
//! holding nothing meanwhile; takes the current [`snapshot::Snapshot`]; finds the route ([`route`]); picks a server
//! ([`pool`], [`balance`]) and a connection to it; writes the head anew and moves the bodies ([`http1`] decides where they
//! end). What went wrong is a [`telemetry::reason::Reason`], for the client a status, for the operator a line.
//!
//! # How an address moves
//!
//! The speaker thread ([`vrrpd::speaker`]) hears advertisements and drives the machines ([`vrrp::machine`]); the keeper
//! ([`vrrpd::keeper`]) puts addresses on the box and takes them off. Both live in the vrrp process, which is also the
//! guardian: it knows of the proxy only whether this box may hold addresses, and when the supervisor dies it hands them
//! over. Before an address leaves, the proxy resets what runs over it.
//!
//! # Invariants
//!
//! - Nothing on the request path takes a lock, allocates per header field, or wakes another thread. Workers share atomics only.
//!   An exchange that failed is kept for `bascule errors` under a lock that is tried, never waited for. Where a limit is
//!   configured, each decision holds the lock of one shard of its table for as long as that takes.
//! - Live state of a server (in flight, failures, verdict of its checks) outlives every snapshot; it is keyed by pool, name and address.
//! - No byte of a body is passed on before its framing has been checked; no head is passed on as it came.
//! - An idle connection holds a registered socket and a deadline, no buffer; one of HTTP/2 h2's, some 27 KiB. Memory per
//!   connection is bounded.
//! - The proxy process opens nothing for writing, binds nothing, runs nothing, and has no capability. Keys of certificates are read by
//!   the supervisor, which hands contents over and keeps them out of everything that is written.
//! - An address of ours is on a box only while the vrrp process lives, or for as long as its replacement takes.
//! - What comes from the network or a file is parsed by code that cannot panic; a panic elsewhere ends one connection.
//!
//! # Decisions
//!
//! - HTTP/1 is our own relay and codec, not hyper: two reads and two writes an exchange, and the same bytes on both sides. The
//!   tokeniser is ours too, since every refusal needs a name and a status; tests and fuzzing hold it against `httparse`.
//! - HTTP/2 is h2's frames around our own HTTP/1.1: a stream is the connection of one exchange, so that no rule is written twice
//!   and no request is read by a second, more lenient parser. What that costs is less than what it saves in system calls.
//! - One single-threaded runtime per core; least-conn and failures are global through atomics, smooth weights per worker.
//! - Sockets enter epoll only when they have to wait, and deadlines live in a wheel that is not touched by progress.

pub mod admission;
pub mod app;
pub mod balance;
pub mod config;
pub mod dns;
pub mod health;
pub mod http1;
pub mod http2;
pub mod ipc;
pub mod net;
pub mod pool;
pub mod probe;
pub mod proxy;
pub mod proxy_protocol;
pub mod recency;
pub mod route;
pub mod snapshot;
pub mod sys;
pub mod telemetry;
pub mod template;
pub mod time;
pub mod tls;
pub mod vrrp;
pub mod vrrpd;
