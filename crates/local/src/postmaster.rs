//! Whether a server runs, from its `postmaster.pid`.
//!
//! Survives: a pid file left by a crash, and its process id given to somebody else. Does not see a server that has
//! not written the file yet (its first milliseconds).

use std::path::{Path, PathBuf};

use crate::{Server, process};

/// A running server, as its pid file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The postmaster's process id.
    pub pid: u32,
    /// The port, also part of the socket's name; 0 in a server's first milliseconds.
    pub port: u16,
    /// Where its socket is, if it has one.
    pub socket_dir: Option<PathBuf>,
    /// How far it has come.
    pub status: ServerStatus,
}

/// The postmaster's own word on how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerStatus {
    /// Recovering, not taking connections yet; also what a file without a status means.
    Starting,
    /// Shutting down.
    Stopping,
    /// Taking connections.
    Ready,
    /// In recovery with `hot_standby = off`: it will not take connections.
    Standby,
}

impl Server {
    /// Returns the running server of this data directory; `None` if there is none.
    ///
    /// A process counts only if it works in this data directory, where the system lets us see that.
    pub fn running(&self) -> Option<Running> {
        let text = std::fs::read_to_string(self.data_dir.join("postmaster.pid")).ok()?;
        let running = parse(&text)?;
        (process::alive(running.pid) && works_in(running.pid, &self.data_dir)).then_some(running)
    }
}

/// The lines are: process id, data directory, start time, port, socket directory, listen address, shared memory
/// key, status. Source: `src/include/utils/pidfile.h`.
fn parse(text: &str) -> Option<Running> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let field = |number: usize| lines.get(number - 1).copied().filter(|line| !line.is_empty());
    // Negative for a single-user backend, which is not a server.
    let pid = field(1)?.parse().ok()?;
    Some(Running {
        pid,
        port: field(4).and_then(|port| port.parse().ok()).unwrap_or(0),
        socket_dir: field(5).map(PathBuf::from),
        status: match field(8) {
            Some("ready") => ServerStatus::Ready,
            Some("standby") => ServerStatus::Standby,
            Some("stopping") => ServerStatus::Stopping,
            _ => ServerStatus::Starting,
        },
    })
}

/// A postmaster enters its data directory before it writes the pid file.
#[cfg(target_os = "linux")]
fn works_in(pid: u32, data_dir: &Path) -> bool {
    match std::fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(cwd) => std::fs::canonicalize(data_dir).is_ok_and(|data_dir| data_dir == cwd),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("postgres"))
        }
        Err(_) => false,
    }
}

#[cfg(not(target_os = "linux"))]
fn works_in(_pid: u32, _data_dir: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "1234\n/data\n1700000000\n5433\n/run/pg\nlocalhost\n  12345   98765\nready   \n";

    #[test]
    fn a_pid_file_is_read_line_by_line() {
        let expected =
            Running { pid: 1234, port: 5433, socket_dir: Some("/run/pg".into()), status: ServerStatus::Ready };
        assert_eq!(parse(FILE), Some(expected));
    }

    #[test]
    fn a_file_that_is_not_complete_yet_says_starting() {
        let running = parse("1234\n/data\n1700000000\n").unwrap();
        assert_eq!((running.port, running.socket_dir, running.status), (0, None, ServerStatus::Starting));
        assert_eq!(parse("-77\n/data\n"), None, "a single-user backend");
        assert_eq!(parse(""), None);
    }
}
