//! A cluster as pgleap reaches it: one address, one role, one kept connection per database.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{
    Secret,
    ident::conninfo_value,
    session::{PgError, STATEMENT_BUDGET, Session},
};

/// Which of the two clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The old cluster.
    Source,
    /// The new one.
    Target,
}

impl Side {
    /// Returns the other cluster.
    pub fn other(self) -> Self {
        match self {
            Self::Source => Self::Target,
            Self::Target => Self::Source,
        }
    }

    /// Returns `source` or `target`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a cluster listens and who pgleap is there.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Host name, address, or the directory of a Unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The role pgleap connects as.
    pub user: String,
    /// Its password, where one is needed.
    pub password: Option<Secret>,
}

impl Endpoint {
    /// Returns a driver configuration for `database`; `options` are server settings for the session.
    pub fn driver_config(&self, database: &str, application_name: &str, options: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host(&self.host)
            .port(self.port)
            .user(&self.user)
            .dbname(database)
            .application_name(application_name)
            .options(options)
            .connect_timeout(Duration::from_secs(5))
            .keepalives_idle(Duration::from_secs(10));
        if let Some(password) = &self.password {
            config.password(password.reveal());
        }
        config
    }

    /// Returns a libpq connection string without any password: that is in `passfile`.
    pub fn conninfo(&self, database: Option<&str>, passfile: Option<&std::path::Path>, application: &str) -> String {
        let mut text =
            format!("host={} port={} user={}", conninfo_value(&self.host), self.port, conninfo_value(&self.user));
        if let Some(database) = database {
            text.push_str(&format!(" dbname={}", conninfo_value(database)));
        }
        if let Some(passfile) = passfile {
            text.push_str(&format!(" passfile={}", conninfo_value(&passfile.to_string_lossy())));
        }
        text.push_str(&format!(" application_name={}", conninfo_value(application)));
        text
    }
}

/// A cluster and the connections kept to it.
pub struct Cluster {
    /// Source or target; of a standby, the one that it follows.
    pub side: Side,
    /// How it is called: by its side, or by where it is.
    pub called: String,
    /// Where it is.
    pub endpoint: Endpoint,
    /// `pgleap 7f3a`: how its sessions show in `pg_stat_activity`; the fence leaves them alone.
    pub application_name: String,
    kept: Mutex<HashMap<String, Arc<Session>>>,
}

/// Settings of every session of pgleap: a read-only default is a courtesy for applications, not for the program that
/// sets it, and nothing of ours may wait for a lock for long.
const SESSION_OPTIONS: &str = "-c default_transaction_read_only=off -c lock_timeout=5s -c client_min_messages=warning -c synchronous_commit=on \
                               -c search_path=pg_catalog -c idle_in_transaction_session_timeout=0";

/// Settings of a session that only looks, on top of those: it cannot write, whatever it is asked, and gives up where it
/// would have to wait behind somebody's DDL. Catalog queries of many tables look expensive to the planner and are not. Times in
/// catalogs are texts, read back in one style. Rows that row-level security would hide are an error, not silence.
const LOOKING_OPTIONS: &str =
    "-c default_transaction_read_only=on -c lock_timeout=1s -c jit=off -c DateStyle=ISO -c row_security=off";

impl Cluster {
    /// Describes a cluster; nothing is connected yet.
    pub fn new(side: Side, endpoint: Endpoint, application_name: impl Into<String>) -> Self {
        let called = side.to_string();
        Self { side, called, endpoint, application_name: application_name.into(), kept: Mutex::default() }
    }

    /// Describes a standby of a cluster.
    pub fn standby(of: &Self, host: String, port: u16) -> Self {
        let called = format!("{}'s standby {host}:{port}", of.side);
        let endpoint = Endpoint { host, port, ..of.endpoint.clone() };
        Self { called, ..Self::new(of.side, endpoint, &of.application_name) }
    }

    /// Returns the kept connection to `database`, made anew if it is gone. Statements have [`STATEMENT_BUDGET`].
    ///
    /// # Errors
    /// [`PgError::Connect`].
    pub async fn db(&self, database: &str) -> Result<Arc<Session>, PgError> {
        let mut kept = self.kept.lock().await;
        match kept.get(database) {
            Some(session) if !session.is_closed() => Ok(session.clone()),
            _ => {
                let session = Arc::new(self.open(database, STATEMENT_BUDGET).await?);
                kept.insert(database.to_owned(), session.clone());
                Ok(session)
            }
        }
    }

    /// Opens a further connection, for statements that may take `patience`, or that hold a transaction open.
    ///
    /// # Errors
    /// [`PgError::Connect`].
    pub async fn open(&self, database: &str, patience: Duration) -> Result<Session, PgError> {
        self.open_with(database, patience, patience, "").await
    }

    /// Opens a further connection that can only look: it is read-only, and waits for no lock for long. Statements take turns;
    /// the server ends each after `patience`, and is taken for silent a little later.
    ///
    /// # Errors
    /// [`PgError::Connect`].
    pub async fn look(&self, database: &str, patience: Duration) -> Result<Session, PgError> {
        let session = self.open_with(database, patience, patience + Duration::from_secs(1), LOOKING_OPTIONS).await?;
        Ok(session.in_turns())
    }

    async fn open_with(
        &self,
        database: &str,
        of_server: Duration,
        patience: Duration,
        more: &str,
    ) -> Result<Session, PgError> {
        let options = format!("{SESSION_OPTIONS} {more} -c statement_timeout={}", of_server.as_millis());
        let config = self.endpoint.driver_config(database, &self.application_name, &options);
        Session::open(&config, format!("{} database `{database}`", self.called), patience).await
    }

    /// Closes every kept connection: before the server is stopped, or when its address now means another server.
    pub async fn forget(&self) {
        self.kept.lock().await.clear();
    }
}
