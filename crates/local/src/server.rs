//! A PostgreSQL server on this machine: started, stopped, looked at.
//!
//! [`Server`] is a description: any process that holds one can stop a server that another one started. Survives:
//! starting what does not start (the error carries the lines its log got), stopping what is stopped, pgleap being
//! killed in between (the server goes on, [`Server::running`] finds it).

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::command::{CommandError, run};
use crate::conf::quote_for_shell;
use crate::{Account, Installation, process};

/// How much of the end of a log is read.
const TAIL_BYTES: u64 = 64 * 1024;
/// How many log lines an error shows.
const SHOWN_LINES: usize = 12;
/// What `pg_ctl` gets beyond the server's own deadline, to report that it passed.
const PG_CTL_GRACE: Duration = Duration::from_secs(5);
/// How long the remains of a killed server may be in the way of the next one.
const AFTER_A_CRASH: Duration = Duration::from_secs(10);

/// Why something could not be done with a server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// initdb failed.
    #[error("cannot make a cluster in `{data_dir}`")]
    Init {
        /// The data directory.
        data_dir: PathBuf,
        /// initdb's last words.
        #[source]
        source: CommandError,
    },
    /// The server ended, or did not become ready, while it was started.
    #[error("PostgreSQL {version} in `{data_dir}` did not start{}", shown(log_lines))]
    Start {
        /// The data directory.
        data_dir: PathBuf,
        /// Its version.
        version: String,
        /// The last lines this start wrote to the log.
        log_lines: Vec<String>,
        /// pg_ctl's last words.
        #[source]
        source: Box<CommandError>,
    },
    /// It was asked to start, and runs already.
    #[error("the server in `{data_dir}` runs already, as process {pid}")]
    AlreadyRunning {
        /// The data directory.
        data_dir: PathBuf,
        /// The postmaster's process id.
        pid: u32,
    },
    /// It was told to stop and did not.
    #[error("the server in `{data_dir}` (process {pid}) did not stop within {} s", deadline.as_secs_f64())]
    StillRunning {
        /// The data directory.
        data_dir: PathBuf,
        /// The postmaster's process id.
        pid: u32,
        /// How long it had.
        deadline: Duration,
    },
    /// A setting's name is not one, or its value holds a zero byte.
    #[error("`{name}` cannot be passed to the server as a setting")]
    BadSetting {
        /// The setting's name.
        name: String,
    },
    /// This major cannot do it.
    #[error("PostgreSQL {major} does not know {what}")]
    Unsupported {
        /// What was wanted.
        what: String,
        /// The major.
        major: u16,
    },
    /// The account cannot get to the data directory or to the programs.
    #[error("user `{account}` cannot enter `{dir}`, which is on the way to `{path}`")]
    Unreachable {
        /// The account the server runs as.
        account: String,
        /// The directory that is closed to it.
        dir: PathBuf,
        /// Where it leads to.
        path: PathBuf,
    },
    /// `pg_controldata` failed.
    #[error("cannot read the control file of `{data_dir}`")]
    ControlData {
        /// The data directory.
        data_dir: PathBuf,
        /// Its last words.
        #[source]
        source: CommandError,
    },
    /// The system refused something.
    #[error("cannot {what} `{data_dir}`")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The data directory.
        data_dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// How a server is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// When the last client has gone.
    Smart,
    /// Now, in order: clients are disconnected, a checkpoint is written.
    Fast,
    /// Now, as in a crash: the next start recovers.
    Immediate,
}

impl StopMode {
    fn signal(self) -> Signal {
        match self {
            StopMode::Smart => Signal::SIGTERM,
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        }
    }
}

/// A server: which programs, as whom, where. Nothing is held; dropping it stops nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its programs.
    pub installation: Installation,
    /// Who it runs as.
    pub account: Account,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// The file its standard error goes to. With `logging_collector = on` in its configuration the server itself
    /// soon writes elsewhere, and [`Server::log_tail`] sees the beginning only.
    pub log: PathBuf,
}

impl Server {
    /// Tells whether there is a cluster in the data directory.
    pub fn is_initialized(&self) -> bool {
        self.major_on_disk().is_some() && self.data_dir.join("global/pg_control").exists()
    }

    /// Returns the major version of the cluster in the data directory, from `PG_VERSION`.
    pub fn major_on_disk(&self) -> Option<u16> {
        std::fs::read_to_string(self.data_dir.join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// Starts the server and waits until it takes connections.
    ///
    /// `settings` become arguments of the server, win over its files, and are seen in the process list: nothing
    /// secret belongs in them. At the deadline the server is left alone, as it may be recovering: stop it or wait on.
    ///
    /// # Errors
    /// [`ServerError::Start`] with the lines its log got, [`ServerError::AlreadyRunning`],
    /// [`ServerError::Unreachable`] before anything is tried.
    pub async fn start(&self, settings: &[(String, String)], deadline: Duration) -> Result<(), ServerError> {
        let seconds = deadline.as_secs().max(1).to_string();
        self.pg_ctl_start(&["-w", "-t", &seconds], settings, deadline + PG_CTL_GRACE).await
    }

    /// Starts the server and returns as soon as its process was made, for a copy that recovers for long.
    ///
    /// Whether it lives, and how far it is, [`Server::running`] tells; why not, [`Server::log_tail`].
    ///
    /// # Errors
    /// As for [`Server::start`], but a server that ends later is not noticed.
    pub async fn start_without_waiting(&self, settings: &[(String, String)]) -> Result<(), ServerError> {
        self.pg_ctl_start(&["-W"], settings, PG_CTL_GRACE).await
    }

    async fn pg_ctl_start(
        &self,
        waiting: &[&str],
        settings: &[(String, String)],
        deadline: Duration,
    ) -> Result<(), ServerError> {
        if let Some(running) = self.running() {
            return Err(ServerError::AlreadyRunning { data_dir: self.data_dir.clone(), pid: running.pid });
        }
        let options = options(settings)?;
        self.check_reachable()?;
        self.make_log().map_err(|source| self.io("make the log for", source))?;
        let log_began = std::fs::metadata(&self.log).map_or(0, |metadata| metadata.len());
        let end = Instant::now() + deadline.min(AFTER_A_CRASH);
        loop {
            let mut command = self.account.command(self.installation.tool("pg_ctl"));
            command.arg("start").arg("-s").arg("-D").arg(&self.data_dir).arg("-l").arg(&self.log).args(waiting);
            if !options.is_empty() {
                command.arg("-o").arg(&options);
            }
            let Err(source) = run(command, deadline).await else { return Ok(()) };
            // A server refuses to start while its killed predecessor is a zombie, or has children that hold its
            // memory. It leaves the old pid file in place then, and only then.
            let in_the_way = self.data_dir.join("postmaster.pid").exists() && self.running().is_none();
            if !in_the_way || Instant::now() >= end {
                return Err(ServerError::Start {
                    data_dir: self.data_dir.clone(),
                    version: self.installation.version.clone(),
                    log_lines: tail(&self.log, log_began, SHOWN_LINES),
                    source: Box::new(source),
                });
            }
            tokio::time::sleep(process::POLL).await;
        }
    }

    /// Makes the log file ourselves, as its directory may be one that the account cannot write to.
    fn make_log(&self) -> io::Result<()> {
        if self.log.exists() {
            return Ok(());
        }
        if let Some(dir) = self.log.parent() {
            self.account.create_dir(dir, 0o755)?;
        }
        std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&self.log)?;
        self.account.take(&self.log)
    }

    /// Stops the server and waits until its process is gone; a stopped one is fine.
    ///
    /// # Errors
    /// [`ServerError::StillRunning`] at the deadline; the server may still stop later.
    pub async fn stop(&self, mode: StopMode, deadline: Duration) -> Result<(), ServerError> {
        let Some(running) = self.running() else { return Ok(()) };
        process::send(running.pid, mode.signal()).map_err(|source| self.io("stop the server in", source))?;
        if process::gone(running.pid, deadline).await {
            return Ok(());
        }
        Err(ServerError::StillRunning { data_dir: self.data_dir.clone(), pid: running.pid, deadline })
    }

    /// Returns the last lines of the log, oldest first; none if there is no log.
    pub fn log_tail(&self, lines: usize) -> Vec<String> {
        tail(&self.log, 0, lines)
    }

    /// Returns what `pg_controldata` says, by its English names, such as `Latest checkpoint location`.
    ///
    /// # Errors
    /// [`ServerError::ControlData`] with its last words.
    pub async fn control_data(&self) -> Result<BTreeMap<String, String>, ServerError> {
        let mut command = self.account.command(self.installation.tool("pg_controldata"));
        command.arg("-D").arg(&self.data_dir);
        let output = run(command, Duration::from_secs(30))
            .await
            .map_err(|source| ServerError::ControlData { data_dir: self.data_dir.clone(), source })?;
        let pairs = output.stdout.lines().filter_map(|line| line.split_once(':'));
        Ok(pairs.map(|(name, value)| (name.trim().to_string(), value.trim().to_string())).collect())
    }

    /// Says in one line what would otherwise be a puzzling "permission denied" from a tool.
    pub(crate) fn check_reachable(&self) -> Result<(), ServerError> {
        for path in [&self.installation.tool("postgres"), &self.data_dir, &self.log] {
            if let Some(dir) = self.account.closed_dir_on_the_way_to(path) {
                let account = self.account.name.clone();
                return Err(ServerError::Unreachable { account, dir, path: path.clone() });
            }
        }
        Ok(())
    }

    pub(crate) fn io(&self, what: &'static str, source: io::Error) -> ServerError {
        ServerError::Io { what, data_dir: self.data_dir.clone(), source }
    }
}

/// The arguments for the server, as `pg_ctl -o` wants them: words for a shell.
fn options(settings: &[(String, String)]) -> Result<String, ServerError> {
    let mut words = Vec::new();
    for (name, value) in settings {
        let good = !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
            && !value.contains('\0');
        if !good {
            return Err(ServerError::BadSetting { name: name.clone() });
        }
        words.push(format!("-c {}", quote_for_shell(&format!("{name}={value}"))));
    }
    Ok(words.join(" "))
}

/// The last lines of what a file got after `from`.
pub(crate) fn tail(path: &Path, from: u64, lines: usize) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        // A log shorter than before was truncated: all of it is new.
        let from = if length < from { 0 } else { from };
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // A log that cannot be read must not hide the error it was wanted for.
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].iter().map(ToString::to_string).collect()
}

/// Log lines as the end of an error message.
pub(crate) fn shown(lines: &[String]) -> String {
    if lines.is_empty() { String::new() } else { format!("; its log says:\n{}", lines.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_words_for_the_shell() {
        let settings = [("port".to_string(), "5433".to_string()), ("a.b".to_string(), "it's $HOME".to_string())];
        assert_eq!(options(&settings).unwrap(), r"-c 'port=5433' -c 'a.b=it'\''s $HOME'");
        for name in ["", "port -c", "a=b", "x'"] {
            assert!(options(&[(name.to_string(), String::new())]).is_err(), "{name}");
        }
        assert!(options(&[("port".to_string(), "1\0".to_string())]).is_err());
    }

    #[test]
    fn a_tail_is_only_what_came_after_a_position() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "old\nnew 1\n\nnew 2\nnew 3\n").unwrap();
        assert_eq!(tail(file.path(), 4, 2), ["new 2", "new 3"]);
        assert_eq!(tail(file.path(), 4, 9), ["new 1", "new 2", "new 3"]);
        assert_eq!(tail(file.path(), 4000, 1), ["new 3"], "truncated since");
        assert!(tail(Path::new("/nowhere/log"), 0, 5).is_empty());
    }
}
