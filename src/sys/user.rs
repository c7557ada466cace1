//! Users and groups by name, from /etc/passwd and /etc/group: read without NSS, so that no foreign library is loaded into a privileged process.

use std::path::Path;

/// A user as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

/// The traditional ids of `nobody`, for systems whose /etc/passwd has no such line.
const NOBODY: Identity = Identity { uid: 65534, gid: 65534 };

/// The user `name`, if /etc/passwd has it.
pub fn lookup(name: &str) -> Option<Identity> {
    let passwd = std::fs::read_to_string(Path::new("/etc/passwd")).ok()?;
    find(&passwd, name)
}

/// The user `nobody`.
pub fn nobody() -> Identity {
    lookup("nobody").unwrap_or(NOBODY)
}

/// The name of a user, if /etc/passwd has it.
pub fn name_of(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string(Path::new("/etc/passwd")).ok()?;
    let mut lines = passwd.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The id of the group `name`, if /etc/group has it.
pub fn group(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string(Path::new("/etc/group")).ok()?;
    find_group(&groups, name)
}

fn find_group(groups: &str, name: &str) -> Option<u32> {
    let mut lines = groups.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten())
}

fn find(passwd: &str, name: &str) -> Option<Identity> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Identity { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\nweb2:x:7:8::/:/x\nbroken\nweb:x:33:34:w:/var/www:/x\n";
        assert_eq!(find(passwd, "web"), Some(Identity { uid: 33, gid: 34 }));
        assert_eq!(find(passwd, "we"), None);
        assert_eq!(find(passwd, "broken"), None);
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nops2:x:7:a,b\nbroken\nops:x:33:\n";
        assert_eq!(["ops", "op", "broken"].map(|name| find_group(groups, name)), [Some(33), None, None]);
    }

    #[test]
    fn root_has_its_name() {
        assert_eq!(name_of(0).as_deref(), Some("root"));
    }
}
