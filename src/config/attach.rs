//! Takes the contents of files that tables called `tls` name out of this box, and leaves their whole paths in the document.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::document::{Item, Table, Value};
use super::model::{Attachment, Attachments};
use super::resolve;

/// Larger files are a mistake; lists of revoked certificates are long.
const MAX_FILE: u64 = 16 << 20;

/// Keys of `tls` whose values are paths, or lists of them.
const PATHS: &[&str] = &["ca", "client_ca", "client_crl", "client_key", "crl", "ticket_key_file"];

/// Where systems keep the certificates of the authorities they trust, all in one file: Debian, Red Hat, SUSE, Alpine.
const SYSTEM_STORES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Endings of the files of a folder that have certificates.
const CERTIFICATES: &[&str] = &["pem", "crt", "cer"];

/// What certbot calls a chain and its key.
const CERTBOT: [&str; 2] = ["fullchain.pem", "privkey.pem"];

/// Everything that the tables called `tls` in `table` name; relative paths start in `folder`. What cannot be read is in it
/// as such.
pub(super) fn attach(table: &mut Table, folder: &Path) -> Attachments {
    let mut found = Attachments::default();
    resolve::tables_called(table, &["tls"], &mut |tls| {
        for (key, item) in tls {
            if PATHS.contains(&key.as_str()) {
                each(item, &mut |item| drop(one(item, folder, &mut found)));
            } else if matches!(key.as_str(), "certificates" | "client_certificate") {
                each(item, &mut |item| certificate(item, folder, &mut found));
            }
        }
    });
    if trusts_the_system(table)
        && let Some(store) = SYSTEM_STORES.iter().find(|path| Path::new(path).exists())
    {
        found.insert((*store).to_owned(), read(Path::new(store)));
    }
    found
}

/// The authorities that this system trusts, if [`attach`] has found them and somebody needs them.
pub(super) fn system_store(attachments: &Attachments) -> Option<&[u8]> {
    SYSTEM_STORES.iter().find_map(|path| attachments.bytes(path))
}

/// Whether there is a pool whose servers are verified, by authorities that are not named.
fn trusts_the_system(table: &Table) -> bool {
    let pools = table.get("pool").and_then(Item::as_table).into_iter().flat_map(Table::values);
    let mut of_pools = pools.filter_map(|pool| pool.as_table()?.get("tls"));
    of_pools.any(|tls| {
        let Some(tls) = tls.as_table() else { return matches!(tls.value, Value::Boolean(true)) };
        let unverified = tls.get("verify").is_some_and(|verify| matches!(verify.value, Value::Boolean(false)));
        !unverified && !tls.contains_key("ca")
    })
}

/// Calls `f` with the value, or with each of the list.
fn each(item: &mut Item, f: &mut dyn FnMut(&mut Item)) {
    match &mut item.value {
        Value::Array(items) => items.iter_mut().for_each(f),
        _ => f(item),
    }
}

/// Reads the file that `item` names; its path. `None`: it is no text, which is noted when it is decoded.
fn one(item: &mut Item, folder: &Path, found: &mut Attachments) -> Option<String> {
    let Value::String(text) = &mut item.value else { return None };
    *text = whole(&folder.join(&*text))?;
    found.insert(text.clone(), read(Path::new(text)));
    Some(text.clone())
}

fn whole(path: &Path) -> Option<String> {
    std::path::absolute(path).ok()?.into_os_string().into_string().ok()
}

/// One of `certificates`: what it names, and what is beside that.
fn certificate(item: &mut Item, folder: &Path, found: &mut Attachments) {
    let path = match &mut item.value {
        Value::Table(table) => {
            for key in ["key", "ocsp"] {
                table.get_mut(key).and_then(|item| one(item, folder, found));
            }
            table.get_mut("cert").and_then(|item| one(item, folder, found))
        }
        _ => one(item, folder, found),
    };
    let Some(path) = path else { return };
    let files = match found.get(&path) {
        Some(Attachment::Folder(names)) => names.iter().map(|name| in_folder(&path, name)).collect(),
        _ => vec![path.clone()],
    };
    for file in files {
        let beside = keys_beside(&file).into_iter().chain(ocsp_beside(&file));
        for path in beside.chain([file]) {
            if found.get(&path).is_none() && Path::new(&path).exists() {
                let attachment = read(Path::new(&path));
                found.insert(path, attachment);
            }
        }
    }
}

/// The path of a file in a folder.
pub(super) fn in_folder(folder: &str, name: &str) -> String {
    format!("{}/{name}", folder.trim_end_matches('/'))
}

/// Where the key of a certificate may be, if it is not in the same file.
pub(super) fn keys_beside(file: &str) -> Vec<String> {
    let mut paths = beside(file, "key");
    paths.extend(file.strip_suffix(CERTBOT[0]).map(|folder| format!("{folder}{}", CERTBOT[1])));
    paths
}

/// Where its OCSP response may be.
pub(super) fn ocsp_beside(file: &str) -> Vec<String> {
    beside(file, "ocsp")
}

/// `a.pem.key`, `a.key`.
fn beside(file: &str, ending: &str) -> Vec<String> {
    let replaced = Path::new(file).with_extension(ending);
    let paths = [Some(format!("{file}.{ending}")), replaced.into_os_string().into_string().ok()];
    paths.into_iter().flatten().filter(|path| path != file).collect()
}

fn read(path: &Path) -> Attachment {
    try_read(path).unwrap_or_else(|error| Attachment::Unreadable(error.to_string()))
}

fn try_read(path: &Path) -> io::Result<Attachment> {
    // Not to wait for whoever writes to a pipe.
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    let about = file.metadata()?;
    if about.is_dir() {
        return names_in(path).map(Attachment::Folder);
    }
    if !about.is_file() {
        return Err(io::Error::other("it is neither a file nor a folder"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {} MiB", MAX_FILE >> 20)));
    }
    Ok(Attachment::File { bytes: Arc::from(bytes), open: about.permissions().mode() & 0o004 != 0 })
}

/// The files of a folder that have certificates, sorted; of one that certbot made, only the whole chain.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let has_ending = |name: &str| PathBuf::from(name).extension().is_some_and(|e| CERTIFICATES.iter().any(|c| e == *c));
    let mut names: Vec<String> = entries.filter(|name| !name.starts_with('.') && has_ending(name)).collect();
    if CERTBOT.iter().all(|name| names.iter().any(|known| known == name)) {
        return Ok(vec![CERTBOT[0].to_owned()]);
    }
    names.sort();
    Ok(names)
}
