//! From the files to one document: includes, what differs on this node, defaults, short forms.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::decode::{self, Decode, Field, Key, Keys, List, Shape};
use super::diagnostic::{Diagnostics, Problems, Source, Sources};
use super::document::{Item, Place, Table, Value};
use super::raw::{
    RawDatabaseCheck, RawDefaults, RawFile, RawHttpCheck, RawHttpListener, RawHttps, RawOwnNode, RawPassthrough,
    RawRoles, RawStickyCookie, RawStickyLearned, RawTcpListener,
};
use super::{help, resolve};

/// A configuration of more than this is a mistake such as a wrong path.
const MAX_FILE: u64 = 64 << 20;

/// The main file's first byte, for what is not written anywhere.
pub(super) const TOP: Place = Place { file: 0, start: 0, end: 0 };

/// Tables of the file that `[node.NAME]` cannot have.
pub(super) const NOT_IN_NODES: [&str; 2] = ["include", "node"];

/// Reads the main file and those it includes; tables of all in one.
///
/// # Errors
/// A file that cannot be read, is not TOML, or has a table of another.
pub(super) fn read(path: &Path) -> Result<(Sources, Table), Diagnostics> {
    let mut sources = Sources::default();
    let mut problems = Problems::default();
    read_one(path, &mut sources, &mut problems)?;
    let includes = sources.iter().flat_map(|main| included(path, &main.table, &mut problems)).collect::<Vec<_>>();
    for (file, place) in includes {
        if let Err(error) = read_one(&file, &mut sources, &mut problems) {
            let why: String = error.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
            problems.error(place, format!("{}: {why}", file.display()));
        }
    }
    if problems.has_errors() {
        return Err(sources.render(problems));
    }
    let mut merged = Table::new();
    for source in sources.iter() {
        join(&mut merged, &source.table, &mut problems);
    }
    if problems.has_errors() { Err(sources.render(problems)) } else { Ok((sources, merged)) }
}

fn read_one(path: &Path, sources: &mut Sources, problems: &mut Problems) -> Result<(), Diagnostics> {
    let text =
        resolve::read(path, MAX_FILE).map_err(|error| Diagnostics::of_file(path, format!("the file {error}")))?;
    let mut source = Source::parse(path.to_owned(), text, sources.len(), problems);
    resolve::mark_secrets(&mut source.table);
    source.secrets.extend(super::diagnostic::secrets_in(&source.table));
    sources.push(source);
    Ok(())
}

/// The files that `include` of the main file means, each once, sorted per pattern.
fn included(main: &Path, table: &Table, problems: &mut Problems) -> Vec<(PathBuf, Place)> {
    let patterns: Field<List<String>> = decode::field(table, "include", problems);
    let folder = main.parent().unwrap_or(Path::new(""));
    let mut files: Vec<(PathBuf, Place)> = Vec::new();
    for pattern in patterns.get().into_iter().flat_map(|patterns| patterns.iter()) {
        let place = pattern.place;
        match expand(&folder.join(&**pattern)) {
            Ok(found) => {
                let new = found.into_iter().filter(|file| files.iter().all(|(known, _)| known != file));
                files.extend(new.map(|file| (file, place)).collect::<Vec<_>>());
            }
            Err(message) => drop(problems.error(place, message)),
        }
    }
    files
}

/// The files that match `pattern`, sorted; without wildcards, itself. Hidden ones match no wildcard.
fn expand(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let is_wild = |part: &str| part.contains(['*', '?']);
    let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|name| name.to_str())) else {
        return Err("not the name of a file".into());
    };
    if folder.to_str().is_none_or(is_wild) {
        return Err("`*` and `?` may be in the last part of a path only".into());
    }
    if !is_wild(name) {
        return Ok(vec![pattern.to_owned()]);
    }
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = std::fs::read_dir(here).map_err(|error| format!("cannot read {}: {error}", here.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let matching = names.filter(|file| !file.starts_with('.') && matches(name.as_bytes(), file.as_bytes()));
    let mut files: Vec<PathBuf> = matching.map(|file| folder.join(file)).collect();
    files.sort();
    Ok(files)
}

/// Whether a name matches a pattern of `*` and `?`, byte by byte; linear but for one `*` to go back to.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match &mut star {
                Some((at, from)) => {
                    *from += 1;
                    (p, n) = (*at + 1, *from);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Adds the tables of one file; a table may be in one file only.
fn join(merged: &mut Table, file: &Table, problems: &mut Problems) {
    for (name, item) in file {
        let Some(known) = merged.get_mut(name) else {
            merged.insert(name.clone(), item.clone());
            continue;
        };
        if name == "include" {
            problems.error(item.key, "only the main file may include others");
            continue;
        }
        let holds_tables = name == "defaults"
            || RawFile::KEYS.iter().any(|key| key.name == name && matches!(key.shape, Shape::Named(_)));
        match (known.as_table_mut(), item.as_table()) {
            (Some(tables), Some(more)) if holds_tables => {
                for (name, item) in more {
                    match tables.get(name) {
                        Some(first) => twice(item, first, problems),
                        None => drop(tables.insert(name.clone(), item.clone())),
                    }
                }
            }
            _ => twice(item, known, problems),
        }
    }
}

fn twice(item: &Item, first: &Item, problems: &mut Problems) {
    problems.error(item.place, "this is in two files").note("the first is at", first.place);
}

/// The names of `[node.*]`, as written.
pub(super) fn nodes(table: &Table) -> Vec<String> {
    let nodes = table.get("node").and_then(Item::as_table);
    nodes.map(|nodes| nodes.keys().cloned().collect()).unwrap_or_default()
}

/// What node `name` runs: its own tables merged in, defaults merged in, sites instead of short forms; the name as
/// written.
pub(super) fn for_node(mut table: Table, name: &str, problems: &mut Problems) -> (Table, String) {
    let nodes = take_nodes(&mut table, name, problems);
    if let Some(defaults) = table.get("defaults") {
        RawDefaults::decode(defaults, problems);
    }
    expand_short_forms(&mut table, problems);
    let defaults = table.remove("defaults");
    let defaults = defaults.as_ref().and_then(Item::as_table);
    for kind in ["listener", "site", "pool", "vrrp"] {
        let Some(default) = defaults.and_then(|tables| tables.get(kind)).and_then(Item::as_table) else { continue };
        let Some(tables) = table.get_mut(kind).and_then(Item::as_table_mut) else { continue };
        for table in tables.values_mut().filter_map(Item::as_table_mut) {
            let mut default = default.clone();
            // What decides which keys are foreign may be a default itself.
            let foreign = match kind {
                "listener" => foreign_keys(table, &default),
                "vrrp" => foreign_to_version(version(table).or(version(&default))),
                _ => Vec::new(),
            };
            default.retain(|key, _| !foreign.contains(&key.as_str()));
            if kind == "pool" {
                forget_foreign_check(&mut default, table);
                forget_foreign_sticky(&mut default, table);
            }
            overlay(&mut default, std::mem::take(table));
            *table = default;
        }
    }
    name_peers(&mut table, &nodes, problems);
    table.remove("include");
    (table, nodes.own)
}

fn protocol(listener: &Table) -> Option<&str> {
    listener.get("protocol").and_then(Item::as_str)
}

/// The keys that only listeners of the other protocol have.
fn foreign_keys(listener: &Table, default: &Table) -> Vec<&'static str> {
    // A role in a listener that speaks http is one of its short form, which takes no defaults of listeners.
    let protocol = protocol(listener).or(protocol(default));
    let keys = match protocol {
        Some("tcp") => &[RawHttpListener::KEYS, RawHttps::KEYS, RawPassthrough::KEYS],
        Some("tls_passthrough") => &[RawHttpListener::KEYS, RawHttps::KEYS, RawRoles::KEYS][..],
        _ => return names(&[RawTcpListener::KEYS, RawRoles::KEYS, RawPassthrough::KEYS]),
    };
    let has_header = [listener, default].into_iter().find_map(|table| table.get("proxy_protocol")?.as_str());
    let others = match (protocol, has_header.is_some_and(|word| word != "off")) {
        (Some("tcp"), true) => &[][..],
        (Some("tcp"), false) => &["header_timeout", "trusted_proxies"],
        (_, true) => &["tls"],
        (_, false) => &["tls", "trusted_proxies"],
    };
    [&names(keys), others].concat()
}

fn names(groups: &[&'static [Key]]) -> Vec<&'static str> {
    groups.iter().copied().flatten().map(|key| key.name).collect()
}

fn version(router: &Table) -> Option<i64> {
    router.get("version").and_then(|version| match version.value {
        Value::Integer(version) => Some(version),
        _ => None,
    })
}

/// The keys that only virtual routers of the other version have.
fn foreign_to_version(version: Option<i64>) -> Vec<&'static str> {
    vec![if version == Some(3) { "authentication" } else { "v3_checksum" }]
}

/// Takes out of a default what only health checks of another type than the pool's have.
fn forget_foreign_check(default: &mut Table, pool: &Table) {
    fn check_type(pool: &Table) -> Option<&str> {
        pool.get("health_check").and_then(Item::as_table)?.get("type").and_then(Item::as_str)
    }
    let kind = check_type(pool).or(check_type(default));
    let is_http = kind == Some("http");
    let is_database = matches!(kind, Some("mysql" | "postgres" | "redis"));
    let is_postgres = kind == Some("postgres");
    if let Some(check) = default.get_mut("health_check").and_then(Item::as_table_mut) {
        let among = |keys: &[Key], key: &str| keys.iter().any(|foreign| foreign.name == key);
        check.retain(|key, _| is_http || !among(RawHttpCheck::KEYS, key));
        check.retain(|key, _| is_database && (is_postgres || key != "database") || !among(RawDatabaseCheck::KEYS, key));
    }
}

/// Takes out of a default what only `sticky` of another type than the pool's has.
fn forget_foreign_sticky(default: &mut Table, pool: &Table) {
    fn sticky_type(pool: &Table) -> Option<&str> {
        pool.get("sticky").and_then(Item::as_table)?.get("type").and_then(Item::as_str)
    }
    let kind = sticky_type(pool).or(sticky_type(default)).unwrap_or_default().to_owned();
    if let Some(sticky) = default.get_mut("sticky").and_then(Item::as_table_mut) {
        let among = |keys: &[Key], key: &str| keys.iter().any(|foreign| foreign.name == key);
        sticky.retain(|key, _| match kind.as_str() {
            "cookie" => !among(RawStickyLearned::KEYS, key),
            "source" => !among(RawStickyCookie::KEYS, key) && key != "header",
            "header" => !among(RawStickyCookie::KEYS, key) && key != "mask",
            _ => true,
        });
    }
}

/// The boxes that share the file.
struct Nodes {
    /// The name of this one, as written.
    own: String,
    /// Its `address`.
    address: Option<IpAddr>,
    /// The others; `None`: it is not known which this is.
    others: Option<Table>,
}

/// Merges `[node.NAME]` into the rest, and takes all nodes out.
fn take_nodes(table: &mut Table, name: &str, problems: &mut Problems) -> Nodes {
    let nobody = |others| Nodes { own: name.to_owned(), address: None, others };
    let Some(nodes) = table.remove("node") else { return nobody(Some(Table::new())) };
    let place = nodes.key;
    let Value::Table(mut nodes) = nodes.value else {
        decode::wrong_type(&nodes, "a table", problems);
        return nobody(None);
    };
    let known: Vec<String> = nodes.keys().cloned().collect();
    let own = known.iter().find(|node| node.eq_ignore_ascii_case(name));
    let Some((own, item)) = own.and_then(|own| nodes.remove_entry(own)) else {
        let near = help::nearest(name, known.iter().map(String::as_str));
        let help = near.map(|near| format!("did you mean `--node {near}`?"));
        problems
            .error(place, format!("this box is `{name}`, and there is no [node.{name}]"))
            .help(help.unwrap_or_else(|| format!("say which it is with --node: {}", known.join(", "))));
        return nobody(None);
    };
    let Value::Table(mut tables) = item.value else {
        decode::wrong_type(&item, "a table", problems);
        return Nodes { own, address: None, others: Some(nodes) };
    };
    for key in NOT_IN_NODES {
        if let Some(item) = tables.remove(key) {
            problems.error(item.key, format!("`{key}` cannot be in a node"));
        }
    }
    let address = RawOwnNode::read(&tables, item.place, problems).address.get().map(|address| **address);
    tables.retain(|key, _| RawOwnNode::KEYS.iter().all(|own| own.name != key));
    overlay(table, tables);
    Nodes { own, address, others: Some(nodes) }
}

/// Puts the addresses of the other nodes where `unicast_peers` says "nodes".
fn name_peers(table: &mut Table, nodes: &Nodes, problems: &mut Problems) {
    let routers = table.get_mut("vrrp").and_then(Item::as_table_mut).into_iter().flat_map(Table::values_mut);
    for router in routers.filter_map(Item::as_table_mut) {
        let Some(peers) = router.get_mut("unicast_peers").filter(|peers| peers.as_str() == Some("nodes")) else {
            continue;
        };
        if nodes.others.as_ref().is_some_and(Table::is_empty) {
            problems
                .error(peers.place, "there is no other [node.NAME]")
                .help("give each box one, with its `address`, or write the addresses here");
        }
        let others = nodes.others.iter().flatten();
        let addresses = others.filter_map(|(name, item)| address_of(name, item, nodes, problems));
        let addresses: Vec<Item> = addresses.map(|address| peers.with(Value::String(address.to_string()))).collect();
        peers.value = Value::Array(addresses);
    }
}

/// The `address` of another node.
fn address_of(name: &str, item: &Item, nodes: &Nodes, problems: &mut Problems) -> Option<IpAddr> {
    let Some(table) = item.as_table() else {
        decode::wrong_type(item, "a table", problems);
        return None;
    };
    let node = RawOwnNode::read(table, item.place, problems);
    if node.address.is_absent() {
        problems
            .error(item.key, format!("node \"{name}\" has no `address`"))
            .help("`unicast_peers = \"nodes\"` takes it from here");
    }
    let address = node.address.get()?;
    if nodes.address == Some(**address) {
        problems.error(address.place, format!("node \"{}\" has the same address", nodes.own));
    }
    Some(**address)
}

/// Puts `over` onto `base`: tables are merged, everything else replaces.
fn overlay(base: &mut Table, over: Table) {
    for (name, item) in over {
        match (base.get_mut(&name).and_then(Item::as_table_mut), item.value) {
            (Some(known), Value::Table(more)) => overlay(known, more),
            (_, value) => drop(base.insert(name, Item { value, ..item })),
        }
    }
}

/// Makes a site of `pool` and `route` of each HTTP listener.
fn expand_short_forms(table: &mut Table, problems: &mut Problems) {
    let default = table.get("defaults").and_then(Item::as_table).and_then(|defaults| defaults.get("listener"));
    let default = default.and_then(Item::as_table).and_then(protocol).map(str::to_owned);
    let Some(listeners) = table.get_mut("listener").and_then(Item::as_table_mut) else { return };
    let mut sites = Vec::new();
    for (name, item) in listeners {
        let (key, place) = (item.key, item.place);
        let Some(listener) = item.as_table_mut() else { continue };
        if matches!(protocol(listener).or(default.as_deref()), Some("tcp" | "tls_passthrough")) {
            continue;
        }
        let pool = listener.remove("pool");
        let routes = listener.remove("route");
        if pool.is_none() && routes.is_none() {
            continue;
        }
        let rest = pool.map(|pool| {
            let (key, place) = (pool.key, pool.place);
            let mut route = Table::from([("pool".to_owned(), pool)]);
            route.extend(RawRoles::KEYS.iter().filter_map(|key| listener.remove_entry(key.name)));
            Item { key, place, secret: false, value: Value::Table(route) }
        });
        let routes = match (routes, rest) {
            (Some(Item { value: Value::Array(mut routes), key, place, secret }), rest) => {
                routes.extend(rest);
                Item { key, place, secret, value: Value::Array(routes) }
            }
            (Some(wrong), _) => wrong,
            (None, Some(rest)) => rest.with(Value::Array(vec![rest.clone()])),
            (None, None) => continue,
        };
        let item = |value| Item { key, place, secret: false, value };
        let listeners = item(Value::Array(vec![item(Value::String(name.clone()))]));
        let site = Table::from([("listeners".to_owned(), listeners), ("route".to_owned(), routes)]);
        sites.push((name.clone(), item(Value::Table(site))));
    }
    if sites.is_empty() {
        return;
    }
    let top = Item { key: TOP, place: TOP, value: Value::Table(Table::new()), secret: false };
    let Some(known) = table.entry("site".to_owned()).or_insert(top).as_table_mut() else { return };
    for (name, site) in sites {
        match known.get(&name) {
            Some(other) => {
                problems
                    .error(site.key, format!("the short form of listener `{name}` makes a site `{name}`, which exists"))
                    .help("give the site another name")
                    .note("the site is at", other.key);
            }
            None => drop(known.insert(name, site)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_whole_names() {
        let m = |pattern: &str, name: &str| matches(pattern.as_bytes(), name.as_bytes());
        assert!(m("*.toml", "a.toml") && m("*.toml", ".toml") && m("*", "") && m("a?c", "abc"));
        assert!(m("a*b*c", "a__b_bc") && m("**", "x"));
        assert!(!m("*.toml", "a.toml~") && !m("a?c", "ac") && !m("", "x") && !m("a*b", "acbd"));
    }
}
