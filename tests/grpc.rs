//! gRPC end to end: clients and servers that are not ours, with the proxy between them.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod support;

mod grpc {
    mod python;
    mod tonic;
}
