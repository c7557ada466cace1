//! Bascule: a load balancer for HTTP/1.1 and TCP in one binary.

pub mod http1;
pub mod sys;
pub mod time;
