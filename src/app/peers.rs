//! Who may use the admin socket: root, whom the supervisor runs as, and the members of the socket's group.

use std::fmt;
use std::os::fd::AsFd;

use tokio::net::UnixStream;

use crate::sys::{sockopt, user};

/// Who may ask beside root and ourselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admitted {
    /// Whose members may.
    pub(super) group: Option<u32>,
}

/// Who asks: its uid, and its name when there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    uid: u32,
    name: Option<String>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} (uid {})", self.uid),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

impl Admitted {
    /// Who is at the other end of `stream`, if it may ask: what the kernel noted when it connected.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn check(self, stream: &UnixStream) -> Result<Peer, String> {
        let credentials = stream.peer_cred().map_err(|e| format!("refused: the kernel does not say who asks: {e}"))?;
        let peer = Peer { uid: credentials.uid(), name: user::name_of(credentials.uid()) };
        let is_ours = peer.uid == 0 || peer.uid == rustix::process::geteuid().as_raw();
        let is_member = |group: u32| {
            credentials.gid() == group
                || sockopt::peer_groups(stream.as_fd()).is_ok_and(|groups| groups.contains(&group))
        };
        if is_ours || self.group.is_some_and(is_member) {
            return Ok(peer);
        }
        Err(format!("refused to {peer}: only root, the user that runs bascule, and members of [admin] group may ask"))
    }
}
