//! A network namespace of a test's own.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Removed with its owner; processes that still run in it keep it alive, nameless.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// With loopback up, and 192.0.2.1 on it.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bascule-{}-{n}", std::process::id());
        ip(&["netns", "add", &name]);
        let this = Self { name };
        ip(&["-n", &this.name, "address", "add", "192.0.2.1/32", "dev", "lo"]);
        ip(&["-n", &this.name, "link", "set", "lo", "up"]);
        this
    }

    /// Runs `test` on a thread inside; what it starts, threads and processes, is inside too.
    pub(crate) fn run(&self, test: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                test();
            });
            if let Err(panic) = inside.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn ip(args: &[&str]) {
    let status = Command::new("ip").args(args).status().expect("`ip` of the package iproute2");
    assert!(status.success(), "ip {args:?}: {status}; namespaces need root");
}
