//! PgBouncer's admin console: simple protocol only, every value a text, columns that differ by version.
//!
//! What is known not to be true of it: that PAUSE has worked when it returns (after any WAIT_CLOSE in that process it
//! returns at once), that PAUSE leaves a pool as it was (a server connection that logs in just then is closed, counts as a
//! login that failed, and clients are refused for `server_login_retry`), that clients who log in wait for RESUME (between a
//! RELOAD that leads a paused entry elsewhere and RESUME, whoever logs in makes it begin such a server connection), that
//! RELOAD has worked when it returns (1.24 answers success on a broken file), that a PAUSE ends with the connection that
//! asked for it (it stays). So every command here is followed by a look, RELOAD and RESUME are sent in one piece, and
//! WAIT_CLOSE is never used.

use std::{collections::HashMap, pin::pin, task::Poll, time::Duration};

use futures::{future::join_all, poll};
use pgleap_saga::StepError;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_postgres::{Client, Connection, NoTls, SimpleQueryMessage, Socket, tls::NoTlsStream};

use super::{ini::Address, trial::is_trial};
use crate::{config::Pooler, pg::Secret};

/// What went wrong with a pooler's admin console.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The console cannot be entered.
    #[error("cannot enter PgBouncer {pooler}'s admin console")]
    Connect {
        /// Host and port.
        pooler: String,
        /// What the driver said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A command was refused.
    #[error("PgBouncer {pooler} refused `{command}`")]
    Refused {
        /// Host and port.
        pooler: String,
        /// What was asked.
        command: String,
        /// What it said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// No answer in time.
    #[error("PgBouncer {pooler} did not answer `{command}` within {ms} ms")]
    Silent {
        /// Host and port.
        pooler: String,
        /// What was asked.
        command: String,
        /// How long it was given.
        ms: u128,
    },
}

impl AdminError {
    /// Whether the connection was gone: nobody answered.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.as_db_error().is_none())
    }
}

impl From<AdminError> for StepError {
    fn from(error: AdminError) -> Self {
        let cause = std::error::Error::source(&error).map(|inner| match inner.source() {
            Some(innermost) => innermost.to_string(),
            None => inner.to_string(),
        });
        let step = match &error {
            // a console that closed in the middle is a PgBouncer that ended: it may be back in a moment
            AdminError::Refused { .. } if !error.is_lost() => {
                StepError::blocked(error.to_string(), "look at its log and at `SHOW DATABASES`, then `pgleap resume`")
            }
            _ => StepError::transient(error.to_string()),
        };
        match cause {
            Some(cause) => step.because(cause),
            None => step,
        }
    }
}

/// A connection to one PgBouncer's admin console.
pub struct Admin {
    client: Client,
    pooler: String,
}

/// One row of a SHOW command, by column name.
pub type Shown = HashMap<String, String>;

/// A database entry, as SHOW DATABASES tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name that clients use.
    pub name: String,
    /// Where it leads; empty is a Unix socket.
    pub host: String,
    /// Where it leads.
    pub port: u16,
    /// The database it leads to.
    pub database: String,
    /// It is paused.
    pub paused: bool,
    /// `transaction`, `session` or `statement`.
    pub pool_mode: String,
}

impl Entry {
    /// Stands for every database.
    pub const ANY: &str = "*";

    /// Whether it leads to one of `databases`.
    pub fn is_of(&self, databases: &[String]) -> bool {
        self.database == Self::ANY || databases.contains(&self.database)
    }

    /// Whether it leads to `address`; one without a host leads to a Unix socket.
    pub fn leads_to(&self, address: &Address) -> bool {
        let same_host = self.host == address.host || (self.host.is_empty() && address.host.starts_with('/'));
        same_host && self.port == address.port
    }
}

const ANSWER_BUDGET: Duration = Duration::from_secs(5);

impl Admin {
    /// Enters the console.
    ///
    /// # Errors
    /// [`AdminError::Connect`] or [`AdminError::Silent`].
    pub async fn enter(pooler: &Pooler, password: Option<&Secret>) -> Result<Self, AdminError> {
        Burst::enter(pooler, password).await.map(Burst::begin)
    }

    /// Returns how its role reaches `database` of the pooler: the console, or an entry.
    pub fn login(pooler: &Pooler, password: Option<&Secret>, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(&pooler.host).port(pooler.port).user(&pooler.user).dbname(database);
        config.application_name("pgleap").connect_timeout(ANSWER_BUDGET);
        if let Some(password) = password {
            config.password(password.reveal());
        }
        config
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Sends one command, and returns the rows that it answers.
    ///
    /// # Errors
    /// [`AdminError::Refused`], or [`AdminError::Silent`] after `budget`; what was asked may still happen then.
    pub async fn command(&self, command: &str, budget: Duration) -> Result<Vec<Shown>, AdminError> {
        let answer = timeout(budget, self.client.simple_query(command)).await;
        let messages = match answer {
            Err(_) => {
                return Err(AdminError::Silent {
                    pooler: self.pooler.clone(),
                    command: command.to_owned(),
                    ms: budget.as_millis(),
                });
            }
            Ok(Err(source)) => {
                return Err(AdminError::Refused { pooler: self.pooler.clone(), command: command.to_owned(), source });
            }
            Ok(Ok(messages)) => messages,
        };
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                row.columns()
                    .iter()
                    .enumerate()
                    .map(|(i, column)| (column.name().to_owned(), row.get(i).unwrap_or_default().to_owned()))
                    .collect(),
            ),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Returns the rows of `SHOW what`.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn show(&self, what: &str) -> Result<Vec<Shown>, AdminError> {
        self.command(&format!("SHOW {what}"), ANSWER_BUDGET).await
    }

    /// Returns its version, such as `1.24.1`.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn version(&self) -> Result<String, AdminError> {
        let rows = self.show("VERSION").await?;
        let text = rows.first().and_then(|row| row.values().next()).cloned().unwrap_or_default();
        Ok(text.trim_start_matches("PgBouncer ").to_owned())
    }

    /// Returns every database entry but its own console, and those of a trial: these are there for a moment.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn entries(&self) -> Result<Vec<Entry>, AdminError> {
        let rows = self.show("DATABASES").await?;
        let text = |row: &Shown, key: &str| row.get(key).cloned().unwrap_or_default();
        let entries =
            rows.iter().filter(|row| row.get("name").is_none_or(|name| name != "pgbouncer" && !is_trial(name)));
        Ok(entries
            .map(|row| Entry {
                name: text(row, "name"),
                host: text(row, "host"),
                port: text(row, "port").parse().unwrap_or(0),
                database: text(row, "database"),
                paused: text(row, "paused") == "1",
                pool_mode: text(row, "pool_mode"),
            })
            .collect())
    }

    /// Returns what went through every entry.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn traffic(&self) -> Result<Vec<Traffic>, AdminError> {
        let number = |row: &Shown, key: &str| row.get(key).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
        let (stats, pools) = (self.show("STATS").await?, self.show("POOLS").await?);
        let one = |row: &Shown| {
            let entry = row.get("database").cloned().unwrap_or_default();
            let waits = pools.iter().filter(|pool| pool.get("database") == Some(&entry));
            Traffic {
                transactions: number(row, "total_xact_count"),
                transactions_us: number(row, "total_xact_time"),
                longest_wait_us: waits
                    .map(|pool| number(pool, "maxwait") * 1_000_000 + number(pool, "maxwait_us"))
                    .max()
                    .unwrap_or(0),
                entry,
            }
        };
        Ok(stats.iter().map(one).collect())
    }

    /// Returns how many server connections PgBouncer has for the entry `name`: those that log in, and all, in whatever state.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn server_connections(&self, name: &str) -> Result<Servers, AdminError> {
        let rows = self.show("POOLS").await?;
        let of_entry = || rows.iter().filter(|row| row.get("database").is_some_and(|database| database == name));
        let sum = |fits: fn(&str) -> bool| {
            let values = of_entry().flat_map(|row| row.iter().filter(|(key, _)| fits(key)));
            values.map(|(_, value)| value.parse::<u64>().unwrap_or(0)).sum()
        };
        Ok(Servers { logging_in: sum(|key| key == "sv_login"), all: sum(|key| key.starts_with("sv_")) })
    }
}

/// A console that says nothing until it says everything at once: PgBouncer, which does one thing at a time, takes what comes
/// in one piece from one connection before it looks at another. A piece is what it reads at a time, 4 KiB by default, five times
/// over: some hundred entries.
pub struct Burst {
    admin: Admin,
    /// Nothing is sent before it is driven.
    connection: Connection<Socket, NoTlsStream>,
}

impl Burst {
    /// Enters the console.
    ///
    /// # Errors
    /// [`AdminError::Connect`] or [`AdminError::Silent`].
    pub async fn enter(pooler: &Pooler, password: Option<&Secret>) -> Result<Self, AdminError> {
        let config = Admin::login(pooler, password, "pgbouncer");
        let name = pooler.to_string();
        match timeout(ANSWER_BUDGET, config.connect(NoTls)).await {
            Err(_) => {
                let command = "login".to_owned();
                Err(AdminError::Silent { pooler: name, command, ms: ANSWER_BUDGET.as_millis() })
            }
            Ok(Err(source)) => Err(AdminError::Connect { pooler: name, source }),
            Ok(Ok((client, connection))) => Ok(Self { admin: Admin { client, pooler: name }, connection }),
        }
    }

    fn begin(self) -> Admin {
        let Self { admin, connection } = self;
        tokio::spawn(async move { drop(connection.await) });
        admin
    }

    /// Sends the commands, and returns what each is answered. One that is refused does not keep the others from being done.
    pub async fn send(self, commands: &[String], budget: Duration) -> Vec<Result<Vec<Shown>, AdminError>> {
        let Self { admin, connection } = self;
        let mut answers = pin!(join_all(commands.iter().map(|command| admin.command(command, budget))));
        // handed over, all of them, before the first is on its way
        if let Poll::Ready(answers) = poll!(&mut answers) {
            return answers;
        }
        tokio::spawn(async move { drop(connection.await) });
        answers.await
    }
}

/// What went through an entry since its PgBouncer began, and who waits for it now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// The name that clients use.
    pub entry: String,
    /// Transactions.
    pub transactions: u64,
    /// How long they took together, in microseconds.
    pub transactions_us: u64,
    /// How long the client that waits longest for a server connection has waited, in microseconds.
    pub longest_wait_us: u64,
}

/// How many server connections an entry has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Servers {
    /// Those that log in just now.
    pub logging_in: u64,
    /// All.
    pub all: u64,
}

/// Returns `name` as the console takes it: quoted, as its names fold to lower case otherwise.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
