//! What a process is called, what it may do, and how many files it may open.

use std::ffi::CStr;
use std::io;

use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use crate::sys::user::Identity;

/// The step of [`confine`] that failed.
#[derive(Debug)]
pub enum ConfineError {
    /// The user could not be changed.
    Identity(Identity, io::Error),
    /// Capabilities could not be given up.
    Capabilities(io::Error),
    /// The kernel accepted everything, yet a capability is left.
    StillPrivileged(CapabilitySets),
    /// no_new_privs, the dumpable flag or the parent-death signal could not be set.
    Prctl(io::Error),
    /// The supervisor was gone before its death could be noticed.
    Orphaned,
}

impl std::fmt::Display for ConfineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Identity(id, e) => write!(f, "cannot become user {} group {}: {e}", id.uid, id.gid),
            Self::Capabilities(e) => write!(f, "cannot give up capabilities: {e}"),
            Self::StillPrivileged(sets) => write!(f, "capabilities are left after giving them up: {sets:?}"),
            Self::Prctl(e) => write!(f, "cannot restrict the process: {e}"),
            Self::Orphaned => f.write_str("the supervisor is gone"),
        }
    }
}

impl std::error::Error for ConfineError {}

/// Names the calling thread, and with the main thread the process (ps, top, pgrep); 15 bytes count.
pub fn set_name(name: &CStr) {
    // Cosmetic: fails only under a filter that forbids the call.
    let _ = rustix::thread::set_name(name);
}

/// Gives the calling thread, and threads it starts, no more than `wanted` of the capabilities it has, and no new ones ever.
///
/// # Errors
/// The kernel refuses, which it never does to giving up.
pub fn keep_capabilities(wanted: CapabilitySet) -> io::Result<()> {
    let has = rustix::thread::capabilities(None)?;
    rustix::thread::clear_ambient_capability_set()?;
    let kept = CapabilitySets {
        effective: has.effective & wanted,
        permitted: has.permitted & wanted,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, kept)?;
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Has the kernel end this process when a real-time thread of it runs for `longest` without waiting once (RLIMIT_RTTIME).
pub fn limit_urgent_run(longest: std::time::Duration) {
    let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
    // A lower limit than ours is fine too.
    let _ = rustix::process::setrlimit(Resource::Rttime, Rlimit { current: Some(micros), maximum: Some(micros) });
}

/// Whether this process can become another user.
pub fn can_change_user() -> bool {
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
    rustix::process::geteuid().is_root()
        && rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

/// What becomes of a process whose supervisor dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphan {
    /// The kernel kills it.
    Dies,
    /// It sees to it itself.
    Lives,
}

/// Does `start` while the calling thread's ambient capabilities are put aside: what it executes inherits none of them.
/// Only a service manager that starts us as another user than root gives us any.
pub fn without_ambient<T>(start: impl FnOnce() -> T) -> T {
    let all = (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
    // Beyond the last capability this kernel knows there is an error.
    let held = |&one: &CapabilitySet| rustix::thread::capability_is_in_ambient_set(one).unwrap_or(false);
    let held: Vec<_> = all.filter(held).collect();
    let set = |on| {
        for &one in &held {
            // Lowering always succeeds; and raising what was raised before, which the permitted set still holds.
            let _ = rustix::thread::configure_capability_in_ambient_set(one, on);
        }
    };
    set(false);
    let done = start();
    set(true);
    done
}

/// Gives up every privilege: becomes `identity` (none: stays who it is), empties all capability sets, forbids new
/// privileges and core dumps, and, unless it may outlive it, asks to be killed when `supervisor`, its parent, dies.
///
/// To be called before the first thread starts: ids and capabilities belong to threads.
///
/// # Errors
/// The step that failed; the process must then end.
pub fn confine(identity: Option<Identity>, supervisor: Pid, orphan: Orphan) -> Result<(), ConfineError> {
    empty_bounding_set()?;
    if let Some(id) = identity {
        become_user(id).map_err(|e| ConfineError::Identity(id, e))?;
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    let capabilities = |e: rustix::io::Errno| ConfineError::Capabilities(e.into());
    rustix::thread::clear_ambient_capability_set().map_err(capabilities)?;
    rustix::thread::set_capabilities(None, none).map_err(capabilities)?;
    let left = rustix::thread::capabilities(None).map_err(capabilities)?;
    if left != none {
        return Err(ConfineError::StillPrivileged(left));
    }

    let prctl = |e: rustix::io::Errno| ConfineError::Prctl(e.into());
    rustix::thread::set_no_new_privs(true).map_err(prctl)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(prctl)?;
    // Last: the kernel forgets it when ids change. The supervisor may have died before it was set.
    if orphan == Orphan::Dies {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(prctl)?;
    }
    if is_child_of(supervisor) { Ok(()) } else { Err(ConfineError::Orphaned) }
}

/// Whether `parent` is our parent, and so is alive.
pub fn is_child_of(parent: Pid) -> bool {
    rustix::process::getppid() == Some(parent)
}

/// Without CAP_SETPCAP there is nothing to do: no_new_privs makes the bounding set meaningless anyway.
fn empty_bounding_set() -> Result<(), ConfineError> {
    let capabilities = |e: rustix::io::Errno| ConfineError::Capabilities(e.into());
    if !rustix::thread::capabilities(None).map_err(capabilities)?.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Beyond the last capability this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(capabilities(e)),
        }
    }
    Ok(())
}

fn become_user(id: Identity) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(id.uid), Gid::from_raw(id.gid));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Raises the number of descriptors that this process and its children may open to `wanted`, or as near as the hard limit and
/// our privileges let us, and that of the running process `other` with it; returns what is in force here.
pub fn raise_descriptor_limit(other: Option<u32>, wanted: u64) -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    // The soft limit goes up to the hard one in any case: an unused descriptor costs nothing.
    let attempts = [wanted.max(hard), hard];
    let set = |target: u64| {
        let new = Rlimit { current: Some(target), maximum: Some(target) };
        rustix::process::setrlimit(Resource::Nofile, new).is_ok()
    };
    let now = attempts.into_iter().filter(|&t| t > soft).find(|target| set(*target)).unwrap_or(soft);
    if let Some(pid) = other.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        let same = Rlimit { current: Some(now), maximum: Some(now) };
        // A process of another user may only be changed with CAP_SYS_RESOURCE; its successor has it from us.
        let _ = rustix::process::prlimit(Some(pid), Resource::Nofile, same);
    }
    now
}

/// Has the kernel make room for `count` descriptors of this process, or for as many as its limit lets it have.
///
/// A process begins with room for 64. Each time it is full the kernel doubles it, and lets the thread that needed it wait for
/// an RCU grace period, 10 ms and more, if the process has others: every connection of a worker waits along.
pub fn reserve_descriptors(count: u64) {
    let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let last = count.min(limit).saturating_sub(1).try_into().unwrap_or(i32::MAX);
    // The room stays when the descriptor goes. Without it (no memory) it grows as ever.
    drop(rustix::io::fcntl_dupfd_cloexec(io::stderr(), last));
}

#[cfg(test)]
mod tests {
    use rustix::thread::{capabilities, capability_is_in_ambient_set, configure_capability_in_ambient_set};

    use super::*;

    #[test]
    fn room_for_descriptors_is_made_and_stays() {
        let room = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
            line.trim().parse::<u64>().unwrap()
        };
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let wanted = (2 * room()).min(limit);
        reserve_descriptors(wanted);
        assert!(room() >= wanted, "{} of {wanted}", room());
    }

    #[test]
    fn ambient_capabilities_are_put_aside_and_come_back() {
        let one = CapabilitySet::NET_RAW;
        let mut sets = capabilities(None).unwrap();
        if std::env::var_os("BASCULE_TEST_UNPRIVILEGED").is_some() {
            assert_eq!(without_ambient(|| 7), 7);
            return;
        }
        // On a thread of its own, as capabilities belong to threads.
        let test = move || {
            sets.inheritable |= one;
            rustix::thread::set_capabilities(None, sets).unwrap();
            configure_capability_in_ambient_set(one, true).unwrap();
            assert!(!without_ambient(|| capability_is_in_ambient_set(one).unwrap()));
            assert!(capability_is_in_ambient_set(one).unwrap());
        };
        std::thread::spawn(test).join().unwrap();
    }
}
