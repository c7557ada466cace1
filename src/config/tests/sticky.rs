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
