//! Users by name, from /etc/passwd: read without NSS, so that no foreign library is loaded into a privileged process.

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
}
