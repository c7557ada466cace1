//! What the operating system offers beyond std: process identity and confinement, exec, scheduling, sealed memory files, /proc,
//! watched descriptors, files that are replaced, raw datagrams, packet sockets, rare socket options. The only place where `unsafe` may stand.

pub mod datagram;
pub mod exec;
pub mod memfd;
pub mod packet;
pub mod process;
pub mod procfs;
pub(crate) mod replace;
pub mod schedule;
pub mod sockopt;
pub mod user;
pub mod watched;
