//! TLS: what a client says first.

pub mod hello;
