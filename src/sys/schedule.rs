//! How urgently the calling thread runs, and that its memory stays.

use std::io;

use rustix::mm::MlockAllFlags;
use rustix::process::Resource;
use rustix::thread::CapabilitySet;

/// The nice value of threads that only pass on what others wait for.
const PROMPT: i32 = -10;

/// Gives the calling thread SCHED_FIFO with `priority`, 1 to 99. What it starts is ordinary again (SCHED_RESET_ON_FORK).
///
/// # Errors
/// Without CAP_SYS_NICE or a large enough RLIMIT_RTPRIO, and in a control group without real-time budget.
pub fn fifo(priority: u8) -> io::Result<()> {
    set_policy(libc::SCHED_FIFO, priority)
}

/// Has the calling thread run soon after it wakes, also while others want every core; for one that works little and on
/// whose answer much waits. What it starts is ordinary again.
///
/// # Errors
/// Without CAP_SYS_NICE or a large enough RLIMIT_NICE.
pub fn prompt() -> io::Result<()> {
    set_policy(libc::SCHED_OTHER, 0)?;
    nice(PROMPT)
}

/// The policy of the calling thread, and an ordinary one for what it starts.
fn set_policy(policy: libc::c_int, priority: u8) -> io::Result<()> {
    // The kernel's `sched_param`; libc's has more fields in some C libraries, and musl's call is a stub.
    let parameter = libc::c_int::from(priority);
    // SAFETY: the pointer is to a live `int`, all that the kernel reads; 0 is the calling thread.
    #[expect(unsafe_code, reason = "rustix has no call for it")]
    let r = unsafe {
        libc::syscall(libc::SYS_sched_setscheduler, 0, policy | libc::SCHED_RESET_ON_FORK, &raw const parameter)
    };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the calling thread the nice value `nice`, -20 to 19: what is left when [`fifo`] is not permitted.
///
/// # Errors
/// Without CAP_SYS_NICE or a large enough RLIMIT_NICE.
pub fn nice(nice: i32) -> io::Result<()> {
    // Of the calling thread only: Linux has it per thread, whatever POSIX says.
    Ok(rustix::process::setpriority_process(None, nice)?)
}

/// Keeps all memory of the process, present and future, from being swapped out. Does nothing where there is a limit
/// (RLIMIT_MEMLOCK) and no CAP_IPC_LOCK to ignore it: at the limit no memory could be had any more.
///
/// # Errors
/// What mlockall(2) says.
pub fn lock_memory() -> io::Result<()> {
    let privileged = rustix::thread::capabilities(None)?.effective.contains(CapabilitySet::IPC_LOCK);
    if !privileged && rustix::process::getrlimit(Resource::Memlock).current.is_some() {
        return Ok(());
    }
    Ok(rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_becomes_urgent_and_what_it_starts_does_not() {
        if std::env::var_os("BASCULE_TEST_UNPRIVILEGED").is_some() {
            return;
        }
        let standing = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').map(str::to_owned).collect();
            // nice, rt_priority and policy: fields 19, 40 and 41 of proc(5), the first here being the third there.
            [16, 37, 38].map(|i| fields[i].parse::<i32>().unwrap())
        };
        let become_so = |f: fn()| {
            let changed = move || {
                f();
                let child = std::thread::spawn(standing);
                (standing(), child.join().unwrap())
            };
            std::thread::spawn(changed).join().unwrap()
        };
        let ordinary = standing();
        assert_eq!(ordinary[1..], [0, libc::SCHED_OTHER]);
        let (own, child) = become_so(|| fifo(3).unwrap());
        assert_eq!((&own[1..], &child[1..]), (&[3, libc::SCHED_FIFO][..], &ordinary[1..]));
        let (own, child) = become_so(|| prompt().unwrap());
        assert_eq!((own, child), ([PROMPT, 0, libc::SCHED_OTHER], [0, 0, libc::SCHED_OTHER]));
    }
}
