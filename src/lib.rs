//! Bascule: a load balancer for HTTP/1.1 and TCP in one binary.

pub mod app;
pub mod balance;
pub mod config;
pub mod dns;
pub mod http1;
pub mod ipc;
pub mod net;
pub mod pool;
pub mod proxy;
pub mod route;
pub mod snapshot;
pub mod sys;
pub mod telemetry;
pub mod template;
pub mod time;
