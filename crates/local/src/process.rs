//! Questions and signals for processes that are not our children.
//!
//! Survives: zombies (a container whose first process reaps nobody keeps them for ever), processes of other users.
//! Does not know whether a process id was reused: callers check what runs under it.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a condition without an event of its own is looked at again.
pub(crate) const POLL: Duration = Duration::from_millis(10);

pub(crate) fn alive(pid: u32) -> bool {
    let Some(target) = pid_of(pid) else { return false };
    match kill(target, None) {
        Ok(()) | Err(Errno::EPERM) => !is_zombie(pid),
        Err(_) => false,
    }
}

/// Sends `signal`; a process that is gone already is fine.
pub(crate) fn send(pid: u32, signal: Signal) -> std::io::Result<()> {
    let Some(target) = pid_of(pid) else { return Ok(()) };
    match kill(target, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Waits until `pid` is gone; `false` if it still lives at the deadline.
pub(crate) async fn gone(pid: u32, deadline: Duration) -> bool {
    let end = Instant::now() + deadline;
    while alive(pid) {
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// The same for `Drop`, where nothing can be awaited.
pub(crate) fn gone_blocking(pid: u32, deadline: Duration) -> bool {
    let end = Instant::now() + deadline;
    while alive(pid) {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// Guards against 0 and numbers above `i32::MAX`, which would address process groups.
fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|pid| *pid > 0).map(Pid::from_raw)
}

#[cfg(target_os = "linux")]
fn is_zombie(pid: u32) -> bool {
    // The second field, the program's name, may hold spaces and parentheses: the state follows the last one.
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('Z' | 'X'))
}

#[cfg(not(target_os = "linux"))]
fn is_zombie(_pid: u32) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_counts_as_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        assert!(gone_blocking(child.id(), Duration::from_secs(10)), "not reaped, but ended");
        child.wait().unwrap();
    }

    #[test]
    fn process_zero_and_negative_numbers_are_never_signalled() {
        assert!(!alive(0));
        assert!(!alive(u32::MAX));
        send(0, Signal::SIGKILL).unwrap();
    }
}
