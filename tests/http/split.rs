//! Routes that are shared out to several pools.

use crate::support::origin::{Answering, Refusing};
use crate::support::proxy::Proxy;
use crate::support::wire::{Message, ok};

fn ask(proxy: &Proxy, fields: &str) -> Message {
    let mut client = proxy.connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"));
    client.response()
}

/// A route with these `pools` and keys; `stable`, `canary` and `beta` answer with their names.
fn config(pools: &str, keys: &str) -> String {
    let pool = |name: &'static str| {
        let addr = Answering::with(ok(name)).addr();
        format!(
            "[pool.{name}]\nservers = [\"{addr}\"]\nresponse_headers = {{ set = {{ X-Pool = \"{name}\", X-Var = \"$pool\" }} }}\n"
        )
    };
    format!(
        "[global]\nworkers = 1\n[listener.l]\nbind = [\"127.0.0.1:80\"]\n[[listener.l.route]]\npools = [{pools}]\n{keys}\n{}{}{}",
        pool("stable"),
        pool("canary"),
        pool("beta")
    )
}

#[test]
fn conditions_go_before_weights_in_file_order() {
    let proxy = Proxy::start(&config(
        "{ pool = \"stable\", weight = 1 }, { pool = \"canary\", weight = 0, headers = { X-Canary = \"1\" } }, \
         { pool = \"beta\", cookies = { beta = { regex = \"^(1|on)$\" } } }",
        "",
    ));
    let cases = [
        ("", "stable"),
        ("X-Canary: 1\r\n", "canary"),
        ("X-Canary: 2\r\n", "stable"),
        ("Cookie: a=b; beta=on\r\n", "beta"),
        ("Cookie: beta=off\r\n", "stable"),
        ("Cookie: Beta=on\r\n", "stable"),
        ("Cookie: a=1\r\nCookie: beta=1\r\n", "beta"),
        ("Cookie: beta=1\r\nX-Canary: 1\r\n", "canary"),
    ];
    for (fields, pool) in cases {
        assert_eq!(ask(&proxy, fields).text(), pool, "{fields}");
    }
}

#[test]
fn all_conditions_of_a_pool_must_hold() {
    let proxy = Proxy::start(&config(
        "{ pool = \"stable\" }, { pool = \"canary\", headers = { X-A = true }, cookies = { b = true } }",
        "",
    ));
    assert_eq!(ask(&proxy, "X-A: 1\r\n").text(), "stable");
    assert_eq!(ask(&proxy, "Cookie: b=\r\n").text(), "stable");
    assert_eq!(ask(&proxy, "X-A: 1\r\nCookie: b=\r\n").text(), "canary");
}

#[test]
fn settings_the_variable_and_the_log_are_those_of_the_chosen_pool() {
    let mut proxy = Proxy::start(
        &(config("{ pool = \"stable\", weight = 50 }, { pool = \"canary\", weight = 50 }", "")
            + "[access_log]\npath = \"/log\"\nformat = '$pool'\n"),
    );
    let mut seen = Vec::new();
    for _ in 0..40 {
        let answer = ask(&proxy, "");
        assert_eq!((answer.field("x-pool"), answer.field("x-var")), (Some(answer.text()), Some(answer.text())));
        assert_eq!(proxy.log_line(), answer.text());
        seen.push(answer.text().to_owned());
    }
    assert!(seen.contains(&"stable".to_owned()) && seen.contains(&"canary".to_owned()), "{seen:?}");
}

#[test]
fn a_key_comes_to_the_same_pool_on_both_boxes_and_more_weight_moves_only_to_who_gains() {
    let weights = |stable: u32, canary: u32| {
        config(
            &format!("{{ pool = \"stable\", weight = {stable} }}, {{ pool = \"canary\", weight = {canary} }}"),
            "split_key = \"$http_x_user\"",
        )
    };
    let (mut proxy, other_box) = (Proxy::start(&weights(80, 20)), Proxy::start(&weights(80, 20)));
    let users = |proxy: &Proxy| -> Vec<String> {
        (0..100).map(|user| ask(proxy, &format!("X-User: {user}\r\n")).text().to_owned()).collect()
    };
    let before = users(&proxy);
    assert_eq!(users(&other_box), before);
    let canaries = before.iter().filter(|pool| *pool == "canary").count();
    assert!((5..40).contains(&canaries), "{canaries}");
    proxy.reload(&weights(50, 50));
    let after = users(&proxy);
    assert!(before.iter().zip(&after).all(|(a, b)| a == b || (a == "stable" && b == "canary")));
    assert!(after.iter().filter(|pool| *pool == "canary").count() > canaries);
    proxy.reload(&weights(80, 20));
    assert_eq!(users(&proxy), before);
    // No key: by lot.
    let lots: Vec<_> = (0..60).map(|_| ask(&proxy, "").text().to_owned()).collect();
    assert!(lots.contains(&"stable".to_owned()) && lots.contains(&"canary".to_owned()));
}

#[test]
fn retries_stay_within_the_chosen_pool_and_its_fallback_takes_over_after() {
    let (dead, sorry) = (Refusing::new(), Answering::with(ok("sorry")));
    let proxy = Proxy::start(&format!(
        "[listener.l]\nbind = [\"127.0.0.1:80\"]\n[[listener.l.route]]\npools = [{{ pool = \"stable\", weight = 1 }}, \
         {{ pool = \"canary\", headers = {{ X-Canary = true }} }}]\n[pool.stable]\nservers = [\"{}\"]\n\
         [pool.canary]\nservers = [\"{}\"]\nfallback_pool = \"sorry\"\n[pool.sorry]\nservers = [\"{}\"]\n",
        Answering::with(ok("stable")).addr(),
        dead.addr(),
        sorry.addr()
    ));
    assert_eq!(ask(&proxy, "X-Canary: 1\r\n").status(), 502);
    assert_eq!(ask(&proxy, "X-Canary: 1\r\n").text(), "sorry");
    assert_eq!(ask(&proxy, "").text(), "stable");
}
