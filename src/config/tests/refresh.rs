//! Files of certificates and keys that change under a configuration that runs.

use rcgen::KeyPair;

use super::tls::{Folder, KEY, both, chain, params, text};
use super::*;

/// A chain and its key, of a key of its own.
fn renewed(names: &[&str]) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (params(names).self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// The names of the certificates in force.
fn names(loaded: &Loaded) -> Vec<String> {
    let tls = loaded.config.listeners[0].tls.as_ref().unwrap();
    tls.certificates.iter().map(|certificate| certificate.names.join(" ")).collect()
}

/// What is refused, by the end of its path.
fn refused(refreshed: &Refreshed) -> Vec<(String, &str)> {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    refreshed.refused.iter().map(|refused| (last(&refused.file), &*refused.why)).collect()
}

#[test]
fn what_has_not_changed_is_nothing_new() {
    let folder = Folder::new();
    let loaded = folder.write("a.pem", both(&["a"])).loaded(&text("certificates = [\"a.pem\"]", "\"a\"", ""));
    let found = refresh(&loaded);
    assert!(found.loaded.is_none() && found.refused.is_empty());
    assert!(refresh(&load_text(LEAST)).loaded.is_none());
}

#[test]
fn a_new_certificate_comes_without_anything_else() {
    let folder = Folder::new();
    folder.write("a.pem", both(&["a"]));
    let loaded = folder.loaded(&text("certificates = [\"a.pem\"]", "\"a\"", ""));
    // Not even of the file, which is not read.
    fs::write(folder.0.join("test.toml"), "broken").unwrap();
    folder.write("a.pem", both(&["a", "b"]));
    let next = refresh(&loaded).loaded.unwrap();
    assert_eq!(names(&next), ["a b"]);
    assert_eq!((&next.effective, next.checksum, &next.files), (&loaded.effective, loaded.checksum, &loaded.files));
    let changes: Vec<String> = changes(&loaded, &next).iter().map(ToString::to_string).collect();
    assert_eq!(changes, [format!("~ {}: other contents", folder.0.join("a.pem").display())]);
}

#[test]
fn half_of_a_pair_is_never_in_force() {
    let folder = Folder::new();
    let (new_chain, new_key) = renewed(&["new"]);
    folder.write("live/a.pem", chain(&["a"])).write("secret/key.pem", KEY.serialize_pem());
    let certificates = "certificates = [{ cert = \"live/a.pem\", key = \"secret/key.pem\" }]";
    let loaded = folder.loaded(&text(certificates, "\"a\"", ""));
    let refresh_to = |chain: &str, key: &str| {
        folder.write("live/a.pem", chain).write("secret/key.pem", key);
        refresh(&loaded)
    };
    let old_chain = chain(&["a"]);
    let mismatch = "the private key is not that of the first certificate";
    for (chain, key, file, why) in [
        (&*new_chain, &*KEY.serialize_pem(), "a.pem", mismatch),
        (&*old_chain, &*new_key, "a.pem", mismatch),
        (&new_chain[..new_chain.len() / 2], &*new_key, "a.pem", "it is not PEM"),
        ("", &*new_key, "a.pem", "there is no certificate in it"),
        (&*new_chain, &new_key[..new_key.len() / 2], "a.pem", "it is not PEM"),
        (&*new_chain, "", "a.pem", "there is no private key"),
    ] {
        let found = refresh_to(chain, key);
        assert!(found.loaded.is_none(), "{why}");
        let refused = refused(&found);
        assert!(refused.len() == 1 && refused[0].0 == file && refused[0].1.starts_with(why), "{refused:?}, not {why}");
    }
    fs::remove_file(folder.0.join("live/a.pem")).unwrap();
    let gone = refresh(&loaded);
    assert!(refused(&gone)[0].1.starts_with("the file cannot be read"), "{gone:?}");
    assert_eq!(names(&refresh_to(&new_chain, &new_key).loaded.unwrap()), ["new"]);
}

#[test]
fn one_that_is_broken_keeps_no_other_from_being_renewed() {
    let folder = Folder::new();
    folder.write("a.pem", both(&["a"])).write("b.pem", chain(&["b"])).write("b.key", KEY.serialize_pem());
    folder.write("ca.pem", chain(&["ca"])).write("tickets", [1; 48]);
    folder.write("dir/1.pem", both(&["one"])).write("dir/2.pem", both(&["two"]));
    let listener = "certificates = [\"a.pem\", \"b.pem\", \"dir\"]\nclient_auth = \"optional\"\nclient_ca = \"ca.pem\"\n\
                    ticket_key_file = \"tickets\"";
    let loaded = folder.loaded(&text(listener, "\"a\"", "[site.shop.tls]\ncertificates = [\"b.pem\"]"));
    let (new_chain, new_key) = renewed(&["b", "new"]);
    folder.write("a.pem", "").write("b.pem", &new_chain).write("b.key", &new_key);
    folder.write("dir/1.pem", both(&["one", "new"])).write("tickets", [1; 47]);
    let found = refresh(&loaded);
    let next = found.loaded.as_ref().unwrap();
    assert_eq!(names(next), ["a", "b new", "one new", "two"]);
    assert_eq!(next.config.sites[0].tls[0].certificates[0].names.join(" "), "b new");
    let mut bad = refused(&found);
    bad.sort();
    assert_eq!((bad.len(), &*bad[0].0, bad[0].1), (2, "a.pem", "there is no certificate in it"), "{bad:?}");
    assert_eq!(&*bad[1].0, "tickets");
    assert_eq!(next.config.listeners[0].tls.as_ref().unwrap().ticket_keys.len(), 1);

    // And all of it once that is mended, from there.
    folder.write("a.pem", both(&["a", "mended"])).write("tickets", [2; 80]);
    let last = refresh(next);
    assert_eq!((names(last.loaded.as_ref().unwrap())[0].as_str(), last.refused.len()), ("a mended", 0));
}

#[test]
fn files_come_and_go_in_a_folder() {
    let folder = Folder::new();
    folder.write("dir/1.pem", both(&["one"])).write("dir/2.pem", both(&["two"]));
    let loaded = folder.loaded(&text("certificates = [\"dir\"]", "\"one\"", ""));
    folder.write("dir/3.crt", chain(&["three"])).write("dir/1.pem", both(&["one", "new"]));
    let found = refresh(&loaded);
    assert_eq!(names(found.loaded.as_ref().unwrap()), ["one new", "two"]);
    assert_eq!(refused(&found), [("dir".to_owned(), "3.crt: there is no private key")]);
    folder.write("dir/3.key", KEY.serialize_pem());
    fs::remove_file(folder.0.join("dir/2.pem")).unwrap();
    let next = refresh(&loaded).loaded.unwrap();
    assert_eq!(names(&next), ["one new", "three"]);
    fs::remove_dir_all(folder.0.join("dir")).unwrap();
    let gone = refresh(&next);
    assert!(gone.loaded.is_none() && gone.refused.len() == 1, "{gone:?}");
}

#[test]
fn an_ocsp_response_comes_beside_its_certificate() {
    let folder = Folder::new();
    let loaded = folder.write("a.pem", both(&["a"])).loaded(&text("certificates = [\"a.pem\"]", "\"a\"", ""));
    folder.write("a.ocsp", "response");
    let next = refresh(&loaded).loaded.unwrap();
    let certificate = |loaded: &Loaded| loaded.config.listeners[0].tls.as_ref().unwrap().certificates[0].clone();
    assert!(certificate(&loaded) != certificate(&next));
    // It is in no text, and is a change all the same.
    let path = folder.0.join("a.ocsp");
    let said =
        |before: &Loaded, after: &Loaded| changes(before, after).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(said(&loaded, &next), [format!("+ {}: a file that was not there", path.display())]);
    fs::remove_file(&path).unwrap();
    let last = refresh(&next).loaded.unwrap();
    assert!(certificate(&last) == certificate(&loaded));
    assert_eq!(said(&next, &last), [format!("- {}: a file that is gone", path.display())]);
}

#[test]
fn what_a_pool_shows_its_servers_is_a_pair_too() {
    let folder = Folder::new();
    folder.write("a.pem", both(&["a"])).write("client.pem", chain(&["c"])).write("secret", KEY.serialize_pem());
    folder.write("ca.pem", chain(&["ca"]));
    let pool = "tls = { ca = \"ca.pem\", client_certificate = \"client.pem\", client_key = \"secret\" }\n";
    let loaded = folder.loaded(&(text("certificates = [\"a.pem\"]", "\"a\"", "") + pool));
    let (new_chain, new_key) = renewed(&["c", "new"]);
    // Another that is broken does not tear them apart.
    folder.write("a.pem", "").write("client.pem", new_chain);
    let half = refresh(&loaded);
    assert_eq!((half.loaded.is_none(), half.refused.len()), (true, 2), "{half:?}");
    folder.write("secret", new_key);
    let found = refresh(&loaded);
    let shown = found.loaded.as_ref().unwrap().config.pools[0].tls.as_ref().unwrap().certificate.clone().unwrap();
    assert_eq!((shown.names.join(" "), found.refused.len()), ("c new".to_owned(), 1));
}
