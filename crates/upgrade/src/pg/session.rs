//! One connection to one database, whose errors say what was being done, and where.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use pgleap_saga::StepError;
use tokio::task::JoinHandle;
use tokio_postgres::{
    CancelToken, Client, NoTls, Row, Statement,
    error::{DbError, ErrorPosition, SqlState},
    types::{ToSql, Type},
};

/// A statement's parameters.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// What went wrong between pgleap and a server.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// No connection could be made.
    #[error("cannot connect to {place}")]
    Connect {
        /// Which server and database.
        place: String,
        /// What the driver said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A statement failed.
    #[error("statement failed on {place}")]
    Statement {
        /// Which server and database.
        place: String,
        /// What the driver said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server was silent for too long.
    #[error("no answer from {place} within {seconds} s")]
    Silent {
        /// Which server and database.
        place: String,
        /// How long it was given.
        seconds: f64,
    },
    /// The server answered something that cannot be.
    #[error("{place} answered `{answer}` where {expected} was expected")]
    Unexpected {
        /// Which server and database.
        place: String,
        /// What came.
        answer: String,
        /// What should have come.
        expected: &'static str,
    },
}

impl PgError {
    fn driver(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Self::Connect { source, .. } | Self::Statement { source, .. } => Some(source),
            Self::Silent { .. } | Self::Unexpected { .. } => None,
        }
    }

    /// Returns the server's error code, if the server answered at all.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        self.driver().and_then(tokio_postgres::Error::code)
    }

    /// Returns where in the statement, as it was sent, the server saw the error: characters before it.
    pub fn position(&self) -> Option<usize> {
        match self.driver()?.as_db_error()?.position()? {
            ErrorPosition::Original(nth) => usize::try_from(*nth).ok()?.checked_sub(1),
            ErrorPosition::Internal { .. } => None,
        }
    }

    /// Returns what the server said, in one line: message, then detail.
    pub fn reason(&self) -> Option<String> {
        let source = self.driver()?;
        Some(match source.as_db_error() {
            Some(db) => describe_db_error(db),
            None => {
                let inner = std::error::Error::source(source).map(|e| format!(": {e}")).unwrap_or_default();
                format!("{source}{inner}")
            }
        })
    }

    /// Whether trying again later can help: the connection was lost or refused, or the server was busy.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Silent { .. } => true,
            Self::Unexpected { .. } => false,
            Self::Connect { .. } | Self::Statement { .. } => match self.sqlstate() {
                Some(code) => {
                    let class = &code.code()[..2];
                    matches!(class, "08" | "40" | "57")
                        || [SqlState::TOO_MANY_CONNECTIONS, SqlState::LOCK_NOT_AVAILABLE, SqlState::OBJECT_IN_USE]
                            .contains(code)
                }
                None => true,
            },
        }
    }
}

fn describe_db_error(db: &DbError) -> String {
    match db.detail() {
        Some(detail) => format!("{} ({detail})", db.message()),
        None => db.message().to_owned(),
    }
}

impl From<PgError> for StepError {
    fn from(error: PgError) -> Self {
        let step = if error.is_transient() {
            StepError::transient(error.to_string())
        } else {
            let hint = if error.sqlstate() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
                "grant what is missing, then `pgleap resume`"
            } else {
                "remove the cause, then `pgleap resume`; or `pgleap unwind`"
            };
            StepError::blocked(error.to_string(), hint)
        };
        match error.reason() {
            Some(reason) => step.because(reason),
            None => step,
        }
    }
}

/// How long a statement may take before the server is taken for silent.
pub const STATEMENT_BUDGET: Duration = Duration::from_secs(30);
const CONNECT_BUDGET: Duration = Duration::from_secs(10);
const CANCEL_BUDGET: Duration = Duration::from_secs(5);

/// What sessions that are gone have asked for.
static CANCELLING: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// A connection to one database. Statements are prepared once per connection, so a second use is one round trip.
///
/// With the session ends, on the server too, what nobody waits for any more: a statement whose caller was dropped goes on until
/// then, as a cancellation could meet the next one.
pub struct Session {
    client: Client,
    /// `source database `orders``: how errors call this connection.
    pub place: String,
    prepared: Mutex<HashMap<String, Statement>>,
    patience: Duration,
    turns: Option<Turns>,
    /// Statements that were sent, and have neither ended nor been cancelled.
    running: AtomicU32,
}

/// Statements of many callers, one after the other: the time of each is its own, and what the server did not answer once
/// is not asked again.
#[derive(Default)]
struct Turns(tokio::sync::Mutex<bool>);

/// A statement must not go on unseen: its locks and its snapshot would stay.
async fn cancel(token: CancelToken) {
    drop(tokio::time::timeout(CANCEL_BUDGET, token.cancel_query(NoTls)).await);
}

impl Drop for Session {
    fn drop(&mut self) {
        if *self.running.get_mut() > 0
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let cancelling = runtime.spawn(cancel(self.client.cancel_token()));
            if let Ok(mut all) = CANCELLING.lock() {
                all.retain(|one| !one.is_finished());
                all.push(cancelling);
            }
        }
    }
}

/// Waits until the statements of sessions that are gone have been cancelled; a program that ends before leaves them to themselves.
pub async fn settle() {
    let all = CANCELLING.lock().map(|mut all| std::mem::take(&mut *all)).unwrap_or_default();
    join_all(all).await;
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// [`PgError::Connect`] or [`PgError::Silent`].
    pub async fn open(config: &tokio_postgres::Config, place: String, patience: Duration) -> Result<Self, PgError> {
        let connected = tokio::time::timeout(CONNECT_BUDGET, config.connect(NoTls)).await;
        let (client, connection) = match connected {
            Err(_) => return Err(PgError::Silent { place, seconds: CONNECT_BUDGET.as_secs_f64() }),
            Ok(Err(source)) => return Err(PgError::Connect { place, source }),
            Ok(Ok(pair)) => pair,
        };
        // Its end shows in the next statement, which fails as closed.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { client, place, prepared: Mutex::default(), patience, turns: None, running: AtomicU32::new(0) })
    }

    /// Makes statements of many callers take turns, so that none spends its patience waiting for another.
    #[must_use]
    pub fn in_turns(mut self) -> Self {
        self.turns = Some(Turns::default());
        self
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, tokio_postgres::Error>> + Send,
    ) -> Result<T, PgError> {
        let silent = || PgError::Silent { place: self.place.clone(), seconds: self.patience.as_secs_f64() };
        let mut turn = match &self.turns {
            Some(turns) => Some(turns.0.lock().await),
            None => None,
        };
        if turn.as_deref() == Some(&true) {
            return Err(silent());
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        let ended = tokio::time::timeout(self.patience, work).await;
        if ended.is_err() {
            cancel(self.client.cancel_token()).await;
        }
        self.running.fetch_sub(1, Ordering::Relaxed);
        match ended {
            Err(_) => {
                if let Some(was_silent) = turn.as_deref_mut() {
                    *was_silent = true;
                }
                Err(silent())
            }
            Ok(Err(source)) => Err(PgError::Statement { place: self.place.clone(), source }),
            Ok(Ok(value)) => Ok(value),
        }
    }

    /// Prepares `sql`, or returns what an earlier call prepared.
    ///
    /// # Errors
    /// [`PgError`] if the server refuses the statement or is gone.
    pub async fn prepare(&self, sql: &str) -> Result<Statement, PgError> {
        let known = self.prepared.lock().ok().and_then(|map| map.get(sql).cloned());
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.within(self.client.prepare(sql)).await?;
        if let Ok(mut map) = self.prepared.lock() {
            map.insert(sql.to_owned(), statement.clone());
        }
        Ok(statement)
    }

    /// Returns all rows.
    ///
    /// # Errors
    /// [`PgError`], naming this place.
    pub async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, PgError> {
        let statement = self.prepare(sql).await?;
        self.within(self.client.query(&statement, params)).await
    }

    /// Returns all rows of a statement that is not asked again: it takes one round trip, and nothing of it is kept on either
    /// side. Parameters come with their types.
    ///
    /// # Errors
    /// [`PgError`], naming this place.
    pub async fn query_once(&self, sql: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, PgError> {
        self.within(self.client.query_typed(sql, params)).await
    }

    /// Returns the only row.
    ///
    /// # Errors
    /// [`PgError`], also if there is not exactly one row.
    pub async fn query_one(&self, sql: &str, params: Params<'_>) -> Result<Row, PgError> {
        let statement = self.prepare(sql).await?;
        self.within(self.client.query_one(&statement, params)).await
    }

    /// Returns the only row, if there is one.
    ///
    /// # Errors
    /// [`PgError`], also if there are several rows.
    pub async fn query_opt(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, PgError> {
        let statement = self.prepare(sql).await?;
        self.within(self.client.query_opt(&statement, params)).await
    }

    /// Runs a statement and returns how many rows it touched.
    ///
    /// # Errors
    /// [`PgError`], naming this place.
    pub async fn execute(&self, sql: &str, params: Params<'_>) -> Result<u64, PgError> {
        let statement = self.prepare(sql).await?;
        self.within(self.client.execute(&statement, params)).await
    }

    /// Runs statements by the simple protocol: several at once, or those that cannot be prepared.
    ///
    /// # Errors
    /// [`PgError`], naming this place.
    pub async fn batch(&self, sql: &str) -> Result<(), PgError> {
        self.within(self.client.batch_execute(sql)).await
    }

    /// Makes the error for an answer that cannot be.
    pub fn unexpected(&self, answer: impl ToString, expected: &'static str) -> PgError {
        PgError::Unexpected { place: self.place.clone(), answer: answer.to_string(), expected }
    }
}
