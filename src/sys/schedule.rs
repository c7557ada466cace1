//! How urgently the calling thread runs, and that its memory stays.

use std::io;

use rustix::mm::MlockAllFlags;
use rustix::process::Resource;
use rustix::thread::CapabilitySet;

/// Gives the calling thread SCHED_FIFO with `priority`, 1 to 99. What it starts is ordinary again (SCHED_RESET_ON_FORK).
///
/// # Errors
/// Without CAP_SYS_NICE or a large enough RLIMIT_RTPRIO, and in a control group without real-time budget.
pub fn fifo(priority: u8) -> io::Result<()> {
    // The kernel's `sched_param`; libc's has more fields in some C libraries, and musl's call is a stub.
    let parameter = libc::c_int::from(priority);
    // SAFETY: the pointer is to a live `int`, all that the kernel reads; 0 is the calling thread.
    #[expect(unsafe_code, reason = "rustix has no call for it")]
    let r = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const parameter,
        )
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
        let policy = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').map(str::to_owned).collect();
            // rt_priority and policy: fields 40 and 41 of proc(5), the first here being the third there.
            (fields[37].clone(), fields[38].clone())
        };
        let urgent = move || {
            fifo(3).unwrap();
            let child = std::thread::spawn(policy);
            (policy(), child.join().unwrap())
        };
        let (own, child) = std::thread::spawn(urgent).join().unwrap();
        assert_eq!(own, ("3".to_owned(), libc::SCHED_FIFO.to_string()));
        assert_eq!(child, ("0".to_owned(), libc::SCHED_OTHER.to_string()));
    }
}
