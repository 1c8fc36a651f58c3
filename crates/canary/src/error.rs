//! Why a canary could not begin, or an audit could not be made. What goes wrong in between is a number in the report.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// Why the canary's schema could not be made, its clients not started, or its ledger not be read or audited.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// A setting makes no sense.
    #[error("canary cannot run with {reason}")]
    Config {
        /// The setting and its value.
        reason: String,
    },
    /// The server or pooler refused the connection, or could not be reached.
    #[error("canary cannot connect to {target}")]
    Connect {
        /// Host, port and database; never the password.
        target: String,
        /// What the driver or the server said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server or pooler did not let the client in within the time given.
    #[error("canary cannot connect to {target}: no answer within {} ms", limit.as_millis())]
    ConnectTimeout {
        /// Host, port and database; never the password.
        target: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The database holds no canary tables.
    #[error("{target} has no schema `pgleap_canary`; it is created by preparing the database for the canary")]
    NotPrepared {
        /// Host, port and database; never the password.
        target: String,
    },
    /// A statement failed.
    #[error("canary cannot {action}")]
    Statement {
        /// What the statement was for, as an infinitive.
        action: &'static str,
        /// What the server said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A statement was answered with something else than it asked for.
    #[error("canary cannot {action}: the answer is not what the statement asks for")]
    Answer {
        /// What the statement was for, as an infinitive.
        action: &'static str,
    },
    /// The ledger file could not be opened, read or written.
    #[error("canary cannot use ledger file `{}`", path.display())]
    LedgerFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The ledger file has a line, other than a torn last one, that no canary wrote.
    #[error("canary cannot read ledger file `{}`: line {line} is not a ledger entry", path.display())]
    LedgerLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

/// Says which database `connect` means, for an operator; holds neither user nor password.
pub(crate) fn target_of(connect: &Config) -> String {
    let hosts: Vec<String> = connect
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(nth, host)| {
            let ports = connect.get_ports();
            let port = ports.get(nth).or_else(|| ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(dir) => format!("{}:{port}", dir.display()),
            }
        })
        .collect();
    let database = connect.get_dbname().or_else(|| connect.get_user()).unwrap_or("?");
    format!("database `{database}` at {}", hosts.join(","))
}
