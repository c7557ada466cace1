//! What the operating system offers beyond std: process identity and confinement, sealed memory files, /proc, watched
//! descriptors, rare socket options. The only place where `unsafe` may stand.

pub mod memfd;
pub mod process;
pub mod procfs;
pub mod sockopt;
pub mod user;
pub mod watched;
