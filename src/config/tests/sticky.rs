use super::*;

fn sticky(more: &str) -> Vec<Option<Sticky>> {
    load_text(&format!("{LEAST}{more}")).config.pools.iter().map(|pool| pool.sticky.clone()).collect()
}

#[test]
fn the_least_of_each_kind_has_the_documented_defaults() {
    assert_eq!(sticky(""), [None]);
    let cookie = StickyCookie {
        name: "BASCULE".into(),
        secret: "0123456789abcdef".into(),
        attributes: "; Path=/; HttpOnly; SameSite=Lax".into(),
    };
    assert_eq!(
        sticky("sticky = { type = \"cookie\", secret = \"0123456789abcdef\" }"),
        [Some(Sticky::Cookie(cookie.clone()))]
    );
    assert!(!format!("{cookie:?}").contains("0123"));
    let table = |key| Some(Sticky::Learned(StickyTable { key, max_entries: 100_000, ttl: Duration::from_secs(1800) }));
    assert_eq!(sticky("sticky = { type = \"source\" }"), [table(StickyKey::Source { mask: (32, 128) })]);
    assert_eq!(
        sticky("sticky = { type = \"header\", header = \"X-User\" }"),
        [table(StickyKey::Header("x-user".into()))]
    );
}

#[test]
fn a_default_of_one_kind_is_no_hindrance_to_another() {
    let default = "[pool.other]\nservers = [\"10.0.0.1:80\"]\nsticky = \"off\"\n[defaults.pool.sticky]\ntype = \"cookie\"\n\
                   secret = \"0123456789abcdef\"\nsecure = true\n";
    let kinds = |more: &str| -> Vec<_> {
        let all = sticky(&format!("{more}\n{default}"));
        all.iter().map(|sticky| sticky.as_ref().map(Sticky::name)).collect()
    };
    assert_eq!(kinds(""), [None, Some("cookie")]);
    assert_eq!(kinds("sticky = { type = \"source\", ttl = \"1h\" }"), [None, Some("source")]);
    let all = sticky(&format!("sticky = {{ secure = false }}\n{default}"));
    assert_eq!(all[1].as_ref().and_then(Sticky::cookie), Some("BASCULE"));
}

#[test]
fn the_secret_comes_from_outside_and_is_never_shown_but_the_name_of_the_cookie_is() {
    let text = format!(
        "{LEAST}sticky = {{ type = \"cookie\", cookie = \"SRV\", secret = {{ env = \"STICKY\" }} }}\n\
         request_headers = {{ set = {{ Cookie = \"hunter\" }} }}\n"
    );
    let loaded = load_in(&text, "box", Path::new("conf"), &[("STICKY", "hunter-hunter-hunter")]).unwrap();
    let Some(Sticky::Cookie(cookie)) = &loaded.config.pools[0].sticky else { panic!("by cookie") };
    assert_eq!(&*cookie.secret, "hunter-hunter-hunter");
    assert!(!loaded.masked.contains("hunter"), "{}", loaded.masked);
    assert!(loaded.masked.contains("SRV"), "{}", loaded.masked);
}

#[test]
fn weights_and_settings_of_pools_of_a_route() {
    let loaded = load_text(
        "[listener.web]\nbind = [\"10.0.0.9:80\"]\n[[listener.web.route]]\nretries = 7\nstrip_prefix = \"/\"\n\
         split_key = \"$remote_addr\"\npools = [{ pool = \"a\" }, { pool = \"b\", cookies = { B = \"1\" } }, \
         { pool = \"c\", weight = 3, headers = { X-C = true } }]\n\
         [pool.a]\nservers = [\"10.0.0.1:80\"]\nread_timeout = \"1s\"\nretries = 1\n\
         [pool.b]\nservers = [\"10.0.0.1:80\"]\nread_timeout = \"2s\"\n[pool.c]\nservers = [\"10.0.0.1:80\"]\n",
    );
    let Action::Split { shares, key } = &route(&loaded.config).action else { panic!("shared out") };
    assert!(key.is_some());
    let told: Vec<_> = shares.iter().map(|share| (&*share.pool, share.weight, share.has_conditions())).collect();
    assert_eq!(told, [("a", 1, false), ("b", 0, true), ("c", 3, true)]);
    assert_eq!((&*shares[1].cookies[0].name, &*shares[2].headers[0].name), ("B", "x-c"));
    let of = |share: &Share| (share.route.policy.read_timeout.as_secs(), share.route.policy.retry.retries);
    assert_eq!(shares.iter().map(of).collect::<Vec<_>>(), [(1, 7), (2, 7), (60, 7)]);
    for share in &**shares {
        assert!(matches!(&share.route.action, Action::Pool { pool, rewrite: Some(_), .. } if *pool == share.pool));
    }
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
}
