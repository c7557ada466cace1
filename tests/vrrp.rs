//! Virtual routers with the real binary: beside keepalived, FRR, forgers and each other, each box in a namespace of its own.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

#[path = "../src/vrrpd/lab.rs"]
#[allow(dead_code, reason = "the library's own tests use the rest")]
mod lab;
mod support;
mod vrrp {
    pub(crate) mod bascule;
    pub(crate) mod boxes;
    pub(crate) mod forger;
    pub(crate) mod keepalived;
    pub(crate) mod owners;

    mod addresses;
    mod commands;
    mod deaths;
    mod elections;
    mod forged;
    mod frr;
    mod interop;
    mod mismatches;
    mod partitions;
    mod reload;
    mod upgrades;
    mod wire;
}

use std::process::Command;

use lab::{Host, Lab};

/// Ends a program's run with what it wrote when it fails.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}; tests/run installs what is needed"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {} {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `program` in `host`, see [`run`].
fn run_in(host: &Host, program: &str, arguments: &[&str]) -> String {
    host.run(|| run(program, arguments))
}

/// Keeps frames that match, in the words of nft, from crossing the switch, until it is healed.
fn cut(lab: &Lab, frames: &str) {
    lab.in_switch(|| {
        run("nft", &["add table bridge cut; add chain bridge cut some { type filter hook forward priority 0; }"]);
        run("nft", &[&format!("add rule bridge cut some {frames} drop")]);
    });
}

/// Keeps advertisements, and nothing else, from crossing the switch, until it is healed.
fn partition(lab: &Lab) {
    cut(lab, "meta l4proto 112");
}

/// Ends a [`cut`].
fn heal(lab: &Lab) {
    lab.in_switch(|| run("nft", &["delete table bridge cut"]));
}
