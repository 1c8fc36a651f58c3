//! A PgBouncer process on this machine, for the demo and for tests.
//!
//! It runs in the background and outlives the program that started it; its pid file finds it again. Survives: being
//! killed and started again, a pid file and a socket left behind, 1.18 to 1.26. Does not rewrite its configuration
//! on a restart: by then it may have been edited.

use std::fmt::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::command::{CommandError, run};
use crate::server::{shown, tail};
use crate::{Account, process};

/// A socket's path may not be longer; Source: `unix(7)`, `sun_path` less its final zero.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// How long a pooler may take to listen, or to end.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long a port that is still held is waited for.
const PORT_GRACE: Duration = Duration::from_secs(3);
/// How many log lines an error shows.
const SHOWN_LINES: usize = 8;

/// Why a pooler is not as it was wanted.
#[derive(Debug, thiserror::Error)]
pub enum PoolerError {
    /// The directory's path is too long for a socket in it.
    #[error("`{path}` is {} bytes long, a socket's path may have {MAX_SOCKET_PATH_BYTES}", path.as_os_str().len())]
    SocketPath {
        /// The socket's path.
        path: PathBuf,
    },
    /// A file could not be written, or a signal not sent.
    #[error("cannot {what} in `{dir}`")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The pooler's directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A name or a value cannot be written to a configuration file.
    #[error("the value of `{name}` holds a line break, which PgBouncer's configuration cannot express")]
    LineBreak {
        /// Whose value it is.
        name: String,
    },
    /// The program itself said no.
    #[error("PgBouncer in `{dir}` did not start{}", shown(log_lines))]
    Refused {
        /// The pooler's directory.
        dir: PathBuf,
        /// The last lines this start wrote to the log.
        log_lines: Vec<String>,
        /// Its last words.
        #[source]
        source: CommandError,
    },
    /// Somebody listens on its port. PgBouncer itself would start nonetheless, on its socket alone.
    #[error("cannot start PgBouncer in `{dir}`: port {port} cannot be used")]
    PortInUse {
        /// The pooler's directory.
        dir: PathBuf,
        /// Its port.
        port: u16,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It was started, and did not come to listen.
    #[error("PgBouncer in `{dir}` does not listen on port {port}{}", shown(log_lines))]
    NotListening {
        /// The pooler's directory.
        dir: PathBuf,
        /// Its port.
        port: u16,
        /// The last lines this start wrote to the log.
        log_lines: Vec<String>,
    },
    /// It was killed and is still there.
    #[error("PgBouncer in `{dir}` (process {pid}) does not end")]
    StillRunning {
        /// The pooler's directory.
        dir: PathBuf,
        /// Its process id.
        pid: u32,
    },
}

/// A pooler to be started: everything its two files say.
#[derive(Clone)]
pub struct PoolerSpec {
    /// The program.
    pub bin: PathBuf,
    /// Where its configuration, log, pid file and socket are; made if missing.
    pub dir: PathBuf,
    /// The port it listens on at 127.0.0.1, also part of its socket's name.
    pub port: u16,
    /// Who it runs as.
    pub account: Account,
    /// Its databases: the name clients ask for, then host, port and database at the server.
    pub databases: Vec<(String, String, u16, String)>,
    /// Who may log in, with which password; the same goes to the server.
    pub users: Vec<(String, String)>,
    /// Who may use its console.
    pub admin_users: Vec<String>,
    /// `session`, `transaction` or `statement`.
    pub pool_mode: String,
    /// Further settings; they win over those made here.
    pub extra: Vec<(String, String)>,
}

impl fmt::Debug for PoolerSpec {
    /// Without passwords.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users: Vec<&String> = self.users.iter().map(|(name, _)| name).collect();
        formatter
            .debug_struct("PoolerSpec")
            .field("bin", &self.bin)
            .field("dir", &self.dir)
            .field("port", &self.port)
            .field("databases", &self.databases)
            .field("users", &users)
            .finish_non_exhaustive()
    }
}

/// A pooler that was started; dropping this stops nothing.
#[derive(Clone, Debug)]
pub struct Pooler {
    /// Its configuration file, for whoever edits it.
    pub ini_path: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// What it was made from.
    pub spec: PoolerSpec,
}

impl PoolerSpec {
    /// Writes the configuration, starts the pooler and waits until it listens.
    ///
    /// # Errors
    /// [`PoolerError`], with the lines its log got.
    pub async fn start(&self) -> Result<Pooler, PoolerError> {
        let socket = self.socket();
        if socket.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
            return Err(PoolerError::SocketPath { path: socket });
        }
        let (ini, userlist) = (self.ini()?, self.userlist()?);
        let pooler = self.describe();
        self.account
            .create_dir(&self.dir, 0o755)
            .and_then(|()| self.account.write_file(self.dir.join("userlist.txt"), userlist, 0o600))
            .and_then(|()| self.account.write_file(&pooler.ini_path, ini, 0o600))
            .map_err(|source| self.io("write PgBouncer's configuration", source))?;
        pooler.launch().await?;
        Ok(pooler)
    }

    /// Returns the pooler of this description without starting it, to find one that an earlier run left running.
    pub fn describe(&self) -> Pooler {
        Pooler { ini_path: self.dir.join("pgbouncer.ini"), log: self.dir.join("pgbouncer.log"), spec: self.clone() }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join(format!(".s.PGSQL.{}", self.port))
    }

    fn pidfile(&self) -> PathBuf {
        self.dir.join("pgbouncer.pid")
    }

    fn io(&self, what: &'static str, source: std::io::Error) -> PoolerError {
        PoolerError::Io { what, dir: self.dir.clone(), source }
    }

    fn ini(&self) -> Result<String, PoolerError> {
        let in_dir = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        let own = [
            ("listen_addr", "127.0.0.1".to_string()),
            ("listen_port", self.port.to_string()),
            ("unix_socket_dir", self.dir.to_string_lossy().into_owned()),
            ("auth_type", "scram-sha-256".to_string()),
            ("auth_file", in_dir("userlist.txt")),
            ("admin_users", self.admin_users.join(", ")),
            ("pool_mode", self.pool_mode.clone()),
            ("logfile", in_dir("pgbouncer.log")),
            ("pidfile", in_dir("pgbouncer.pid")),
            // Drivers send it, and a pooled connection cannot follow it.
            ("ignore_startup_parameters", "extra_float_digits".to_string()),
        ];
        let mut text = String::from("[databases]\n");
        for (alias, host, port, dbname) in &self.databases {
            let line = format!(
                "{} = host={} port={port} dbname={}",
                quote_name(alias),
                quote_value(host),
                quote_value(dbname)
            );
            push_line(&mut text, alias, &line)?;
        }
        text.push_str("\n[pgbouncer]\n");
        for (name, value) in own.iter().filter(|(name, _)| !self.extra.iter().any(|(extra, _)| extra == name)) {
            push_line(&mut text, name, &format!("{name} = {value}"))?;
        }
        for (name, value) in &self.extra {
            push_line(&mut text, name, &format!("{name} = {value}"))?;
        }
        Ok(text)
    }

    fn userlist(&self) -> Result<String, PoolerError> {
        let mut text = String::new();
        for (name, password) in &self.users {
            let quote = |word: &str| format!("\"{}\"", word.replace('"', "\"\""));
            push_line(&mut text, name, &format!("{} {}", quote(name), quote(password)))?;
        }
        Ok(text)
    }
}

impl Pooler {
    /// Returns the process id; `None` if it does not run.
    pub fn pid(&self) -> Option<u32> {
        let pid = std::fs::read_to_string(self.spec.pidfile()).ok()?.trim().parse().ok()?;
        (process::alive(pid) && self.is_ours(pid)).then_some(pid)
    }

    /// Ends it at once and waits until it is gone: clients are disconnected. Not running is fine.
    ///
    /// # Errors
    /// [`PoolerError::StillRunning`] if even a kill does not end it.
    pub async fn stop(&self) -> Result<(), PoolerError> {
        // The signal for "now" was SIGTERM until 1.22; since 1.23 that one waits for the clients, and SIGQUIT, which
        // older ones die of unhandled, is the one. Either way the process is gone.
        self.signal(Signal::SIGQUIT).await
    }

    /// Kills it, as a crash would. Not running is fine.
    ///
    /// # Errors
    /// As for [`Pooler::stop`].
    pub async fn kill9(&self) -> Result<(), PoolerError> {
        self.signal(Signal::SIGKILL).await
    }

    /// Stops it if it runs, and starts it with the configuration as it is on disk now.
    ///
    /// # Errors
    /// [`PoolerError`], with the lines its log got.
    pub async fn restart(&self) -> Result<(), PoolerError> {
        self.stop().await?;
        self.launch().await
    }

    /// Sends SIGHUP: the configuration is read again, as by `RELOAD`.
    ///
    /// # Errors
    /// [`PoolerError::Io`] if the system refuses.
    pub fn reload(&self) -> Result<(), PoolerError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        process::send(pid, Signal::SIGHUP).map_err(|source| self.spec.io("signal PgBouncer", source))
    }

    async fn signal(&self, signal: Signal) -> Result<(), PoolerError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        for signal in [signal, Signal::SIGKILL] {
            process::send(pid, signal).map_err(|source| self.spec.io("signal PgBouncer", source))?;
            if process::gone(pid, DEADLINE).await {
                return Ok(());
            }
        }
        Err(PoolerError::StillRunning { dir: self.spec.dir.clone(), pid })
    }

    /// Waits for the port: a predecessor that was just killed may hold it for a moment longer.
    async fn port_is_free(&self) -> Result<(), PoolerError> {
        let end = Instant::now() + PORT_GRACE;
        loop {
            match TcpListener::bind(("127.0.0.1", self.spec.port)) {
                Ok(_) => return Ok(()),
                Err(source) if Instant::now() >= end => {
                    let (dir, port) = (self.spec.dir.clone(), self.spec.port);
                    return Err(PoolerError::PortInUse { dir, port, source });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn launch(&self) -> Result<(), PoolerError> {
        if self.pid().is_none() {
            // Left by a crash: PgBouncer would refuse to start if its number was given to another process.
            let _ = std::fs::remove_file(self.spec.pidfile());
            self.port_is_free().await?;
        }
        let log_began = std::fs::metadata(&self.log).map_or(0, |metadata| metadata.len());
        let log_lines = || tail(&self.log, log_began, SHOWN_LINES);
        let mut command = self.spec.account.command(&self.spec.bin);
        command.arg("-d").arg(&self.ini_path);
        run(command, DEADLINE).await.map_err(|source| PoolerError::Refused {
            dir: self.spec.dir.clone(),
            log_lines: log_lines(),
            source,
        })?;
        let end = Instant::now() + DEADLINE;
        loop {
            if self.pid().is_some() && self.listens() {
                return Ok(());
            }
            // In the background it can only complain in its log: an end with a fatal line there is final.
            let failed = self.pid().is_none() && log_lines().iter().any(|line| line.contains("FATAL"));
            if failed || Instant::now() >= end {
                let (dir, port) = (self.spec.dir.clone(), self.spec.port);
                return Err(PoolerError::NotListening { dir, port, log_lines: log_lines() });
            }
            tokio::time::sleep(process::POLL).await;
        }
    }

    /// The socket in its own directory cannot be somebody else's, the port could be; both have to answer.
    fn listens(&self) -> bool {
        UnixStream::connect(self.spec.socket()).is_ok() && TcpStream::connect(("127.0.0.1", self.spec.port)).is_ok()
    }

    #[cfg(target_os = "linux")]
    fn is_ours(&self, pid: u32) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let ini = self.ini_path.as_os_str().as_bytes();
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.split(|byte| *byte == 0).any(|a| a == ini))
    }

    #[cfg(not(target_os = "linux"))]
    fn is_ours(&self, _pid: u32) -> bool {
        true
    }
}

fn push_line(text: &mut String, name: &str, line: &str) -> Result<(), PoolerError> {
    if line.contains(['\n', '\r']) {
        return Err(PoolerError::LineBreak { name: name.to_string() });
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
    Ok(())
}

/// A database's name: bare where that is enough, as a person would write it.
fn quote_name(name: &str) -> String {
    let bare =
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '*'));
    if bare { name.to_string() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// A value in a database's line.
fn quote_value(value: &str) -> String {
    let bare = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:".contains(c));
    if bare { value.to_string() } else { format!("'{}'", value.replace('\'', "''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> PoolerSpec {
        PoolerSpec {
            bin: "/usr/sbin/pgbouncer".into(),
            dir: "/tmp/pool".into(),
            port: 6432,
            account: Account::for_servers(None).unwrap(),
            databases: vec![("app".into(), "127.0.0.1".into(), 5433, "my db's".into())],
            users: vec![("ann".into(), "pa\"ss".into())],
            admin_users: vec!["ann".into(), "bob".into()],
            pool_mode: "transaction".into(),
            extra: vec![("auth_type".into(), "any".into())],
        }
    }

    #[test]
    fn the_files_say_what_was_asked_and_extra_settings_win() {
        let ini = spec().ini().unwrap();
        assert!(ini.contains("app = host=127.0.0.1 port=5433 dbname='my db''s'\n"), "{ini}");
        assert!(ini.contains("admin_users = ann, bob\n"), "{ini}");
        assert_eq!(ini.matches("auth_type").count(), 1, "{ini}");
        assert!(ini.contains("auth_type = any\n"), "{ini}");
        assert_eq!(spec().userlist().unwrap(), "\"ann\" \"pa\"\"ss\"\n");
    }

    #[test]
    fn passwords_are_not_printed() {
        assert!(!format!("{:?}", spec().describe()).contains("pa\""));
    }

    #[test]
    fn a_line_break_cannot_smuggle_in_a_setting() {
        let mut spec = spec();
        spec.users[0].1 = "x\ny".into();
        assert!(matches!(spec.userlist(), Err(PoolerError::LineBreak { name }) if name == "ann"));
    }

    #[tokio::test]
    async fn a_directory_too_long_for_a_socket_is_refused_before_anything_is_written() {
        let mut spec = spec();
        spec.dir = std::env::temp_dir().join("x".repeat(120));
        assert!(matches!(spec.start().await, Err(PoolerError::SocketPath { .. })));
        assert!(!spec.dir.exists());
    }
}
