//! One connection of a client, and what its errors mean.
//!
//! Only simple queries and unnamed statements pass through here: named statements do not survive transaction pooling.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::{Client, Config, Error, NoTls};

use crate::error::{CanaryError, target_of};

/// A connection whose background task ends with it, even when the server never answers.
pub(crate) struct Session {
    pub(crate) client: Client,
    driver: JoinHandle<()>,
}

impl Session {
    /// Connects, in at most `limit`: a paused pooler keeps logins waiting just as it does queries.
    pub(crate) async fn connect(connect: &Config, limit: Duration) -> Result<Self, CanaryError> {
        let mut connect = connect.clone();
        connect.application_name("pgleap-canary");
        match tokio::time::timeout(limit, connect.connect(NoTls)).await {
            Ok(Ok((client, connection))) => {
                let driver = tokio::spawn(async move {
                    // Its error also reaches whoever waits for an answer, and is counted there.
                    let _ = connection.await;
                });
                Ok(Self { client, driver })
            }
            Ok(Err(source)) => Err(CanaryError::Connect { target: target_of(&connect), source }),
            Err(_) => Err(CanaryError::ConnectTimeout { target: target_of(&connect), limit }),
        }
    }

    /// Ends a failed transaction; `false` if the connection is of no more use.
    pub(crate) async fn rollback(&self, limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.client.batch_execute("ROLLBACK")).await, Ok(Ok(())))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// An error as the report shows it: a short key to count under, and the words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: String,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into() }
    }

    /// Reads the kind from SQLSTATE or from the kind of I/O error, never from text.
    pub(crate) fn of(error: &Error) -> Self {
        if let Some(db) = error.as_db_error() {
            return Self::new(db.code().code(), format!("{}: {}", db.severity(), db.message()));
        }
        let mut message = error.to_string();
        let mut io_kind = None;
        let mut cause = error.source();
        while let Some(inner) = cause {
            let _ = write!(message, ": {inner}");
            io_kind = io_kind.or_else(|| inner.downcast_ref::<io::Error>().map(io::Error::kind));
            cause = inner.source();
        }
        let kind = match io_kind {
            Some(kind) => kind.to_string().replace(' ', "_"),
            None if error.is_closed() => "connection_closed".to_owned(),
            None => "client".to_owned(),
        };
        Self::new(kind, message)
    }

    /// The same for a connection that could not be had.
    pub(crate) fn of_connect(error: &CanaryError) -> Self {
        match error {
            CanaryError::Connect { source, .. } => Self::of(source),
            other => Self::new("connect_timeout", other.to_string()),
        }
    }
}

/// Says whether an error that answered COMMIT leaves no doubt that the transaction was rolled back.
///
/// Only a plain ERROR does. A FATAL one can come after the commit record was written (termination while waiting for a
/// synchronous standby), and class 08 is what a pooler says for a server that it lost.
pub(crate) fn commit_surely_failed(error: &Error) -> bool {
    error.as_db_error().is_some_and(|db| is_plain_error(db) && !is_about_connection(db.code()))
}

/// Says whether the next attempt needs a new connection, although this one may still be open.
///
/// 25006 means that this server no longer takes writes: a client with several hosts must look for the one that does.
pub(crate) fn needs_reconnect(error: &Error) -> bool {
    match error.as_db_error() {
        None => true,
        Some(db) => {
            !is_plain_error(db) || is_about_connection(db.code()) || *db.code() == SqlState::READ_ONLY_SQL_TRANSACTION
        }
    }
}

fn is_plain_error(db: &DbError) -> bool {
    match db.parsed_severity() {
        Some(severity) => severity == Severity::Error,
        // Poolers leave out the field that is never translated.
        None => db.severity() == "ERROR",
    }
}

fn is_about_connection(code: &SqlState) -> bool {
    let code = code.code();
    ["08", "57P", "58", "XX"].iter().any(|class| code.starts_with(class)) || code == "40003"
}
