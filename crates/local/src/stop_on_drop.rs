//! Guards for tests and demos: what was started here ends here, also when a test panics.
//!
//! Does not survive the program being killed: what was started then goes on.

use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::{Pooler, Server, process};

/// How long a server may take to stop at once, before it is killed.
const DEADLINE: Duration = Duration::from_secs(10);
/// How many log lines a failing test shows.
const SHOWN_LINES: usize = 40;

/// Stops a server at once when dropped, waiting until it is gone.
///
/// If the thread panics, the end of the server's log goes to stderr and the whole log is kept in the temporary
/// directory, as the test's own directory usually vanishes with it.
pub struct StopOnDrop(pub Server);

impl Deref for StopOnDrop {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(running) = self.0.running() {
            end(running.pid, Signal::SIGQUIT);
        }
        if std::thread::panicking() {
            keep(&self.0.log);
        }
    }
}

/// Kills a pooler when dropped; on a panic its log is kept like a server's.
pub struct KillOnDrop(pub Pooler);

impl Deref for KillOnDrop {
    type Target = Pooler;

    fn deref(&self) -> &Pooler {
        &self.0
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(pid) = self.0.pid() {
            end(pid, Signal::SIGKILL);
        }
        if std::thread::panicking() {
            keep(&self.0.log);
        }
    }
}

/// Nothing can be reported from a drop: what does not obey is killed, and what cannot be killed is not ours.
fn end(pid: u32, signal: Signal) {
    let _ = process::send(pid, signal);
    if !process::gone_blocking(pid, DEADLINE) {
        let _ = process::send(pid, Signal::SIGKILL);
        process::gone_blocking(pid, DEADLINE);
    }
}

fn keep(log: &Path) {
    let lines = crate::server::tail(log, 0, SHOWN_LINES);
    let name = log.to_string_lossy().trim_matches('/').replace('/', "_");
    let kept = std::env::temp_dir().join("pgleap-logs").join(name);
    let copied = kept.parent().map(std::fs::create_dir_all).is_some_and(|made| made.is_ok())
        && std::fs::copy(log, &kept).is_ok();
    let place = if copied { kept.as_path() } else { log };
    eprintln!("end of the log `{}`:\n{}", place.display(), lines.join("\n"));
}
