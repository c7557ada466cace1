//! What testssl, which knows the mistakes of twenty years, has to say of the profiles.

use serde::Deserialize;

use super::*;
use crate::support::origin::Answering;
use crate::support::proxy::Proxy;
use crate::support::wire::ok;

/// One line of its report.
#[derive(Debug, Deserialize)]
struct Finding {
    id: String,
    severity: String,
    finding: String,
}

/// Its report on a listener with this profile: versions, what the server prefers, vulnerabilities.
fn report(profile: &str) -> Vec<Finding> {
    let files = Files::new();
    let both = [files.server("rsa", &["shop.test"], &RSA), files.server("ecdsa", &["shop.test"], &ECDSA)];
    let tls = format!("{}\nprofile = \"{profile}\"", certificates(&both));
    let proxy = Proxy::start(&config(&tls, Answering::with(ok("ok")).addr(), ""));
    let report = files.path("report.json");
    let mut testssl = Command::new("timeout");
    testssl.args(["600", "testssl", "--protocols", "--server-preference", "--vulnerable", "--nodns", "none"]);
    testssl.args(["--warnings", "batch", "--color", "0", "--jsonfile", &report, &proxy.addr().to_string()]);
    let output = testssl.stdin(Stdio::null()).output().unwrap();
    let text = fs::read_to_string(&report).unwrap_or_default();
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stdout)))
}

/// Nothing is worse than a remark, and what was asked has these answers.
fn assert_clean(report: &[Finding], answers: &[(&str, &str)]) {
    let worse: Vec<_> = report.iter().filter(|f| !matches!(&*f.severity, "OK" | "INFO")).collect();
    assert!(worse.is_empty(), "{worse:#?}");
    for (id, answer) in answers {
        let found = report.iter().find(|f| f.id == *id).map(|f| &*f.finding);
        assert_eq!(found, Some(*answer), "{id}");
    }
}

#[test]
fn testssl_has_nothing_to_say_against_the_modern_profile() {
    assert_clean(
        &report("modern"),
        &[
            ("TLS1_1", "not offered"),
            ("TLS1_2", "not offered"),
            ("TLS1_3", "offered with final"),
            ("ALPN_HTTP2", "h2"),
            ("heartbleed", "not vulnerable, no heartbeat extension"),
            ("secure_renego", "TLS 1.3 only server"),
        ],
    );
}

#[test]
fn testssl_has_nothing_to_say_against_the_intermediate_profile() {
    assert_clean(
        &report("intermediate"),
        &[
            ("TLS1_1", "not offered"),
            ("TLS1_2", "offered"),
            ("TLS1_3", "offered with final"),
            ("cipher_order", "server"),
            ("ticketbleed", "not vulnerable"),
            ("ROBOT", "not vulnerable, no RSA key transport cipher"),
            ("secure_renego", "supported"),
            ("secure_client_renego", "not vulnerable"),
            ("LUCKY13", "not vulnerable"),
        ],
    );
}
