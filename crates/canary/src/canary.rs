//! The clients of one database, from start to report.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::Config;

use crate::book::Book;
use crate::client::{Shared, Worker};
use crate::error::{CanaryError, target_of};
use crate::meter::Meter;
use crate::report::{Report, SCHEMA_VERSION, Stats};
use crate::session::{Failure, Session};

/// What a canary is to do.
#[derive(Debug, Clone)]
pub struct CanaryConfig {
    /// The database, as its applications reach it; with the password, if one is needed.
    pub connect: Config,
    /// How many clients write at the same time; at least 1.
    pub clients: usize,
    /// Transactions per second over all clients; `None`: each client begins the next when the last is done.
    pub rate: Option<f64>,
    /// A file to keep the ledger in, appended to; without one it is kept in memory only.
    pub ledger: Option<PathBuf>,
    /// How long one attempt, or one attempt to connect, may take before the client gives it up.
    pub transaction_timeout: Duration,
    /// A name for people; not written to the database.
    pub label: String,
}

/// Clients at work. Dropped without [`Canary::stop`], they end at once, and the ledger file says what was in flight.
pub struct Canary {
    config: CanaryConfig,
    run: String,
    shared: Arc<Shared>,
    workers: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Canary {
    /// Connects all clients and lets them begin; they run as tasks of the present runtime.
    ///
    /// # Errors
    /// [`CanaryError::Config`] for no clients, no time or an impossible rate; [`CanaryError::NotPrepared`] without
    /// [`crate::prepare`]; [`CanaryError::Connect`] or [`CanaryError::ConnectTimeout`] if any client cannot connect;
    /// [`CanaryError::LedgerFile`]. Nothing is running then.
    pub async fn start(config: CanaryConfig) -> Result<Self, CanaryError> {
        check(&config)?;
        let run = new_run_id();
        let names: Vec<String> = (0..config.clients).map(|number| format!("{run}-{number}")).collect();
        let limit = config.transaction_timeout;
        let sessions = try_join_all(names.iter().map(|name| enter(&config.connect, limit, name))).await?;
        let book = Book::open(&run, &config.label, &names, config.ledger.as_ref())?;
        let started = Instant::now();
        let shared = Arc::new(Shared {
            connect: config.connect.clone(),
            transaction_timeout: config.transaction_timeout,
            book,
            meter: Meter::new(config.clients, (started, Timestamp::now())),
        });
        let (stop, stopped) = watch::channel(false);
        let mut workers = JoinSet::new();
        for (number, (name, session)) in names.into_iter().zip(sessions).enumerate() {
            let schedule = config.rate.map(|rate| {
                let step = Duration::from_secs_f64(1.0 / rate);
                let interval = Duration::from_secs_f64(config.clients as f64 / rate);
                (tokio::time::Instant::from_std(started) + step.mul_f64(number as f64), interval)
            });
            let worker = Worker {
                number,
                name,
                session: Some(session),
                shared: Arc::clone(&shared),
                stop: stopped.clone(),
                schedule,
            };
            workers.spawn(worker.run());
        }
        Ok(Self { config, run, shared, workers, stop })
    }

    /// Returns the numbers as they are now.
    pub fn snapshot(&self) -> Stats {
        self.shared.meter.stats(Instant::now())
    }

    /// Ends the present period and begins one with this name.
    pub fn mark(&self, name: &str) {
        self.shared.meter.mark(name, (Instant::now(), Timestamp::now()));
    }

    /// Lets the transactions in flight end, for at most 10 seconds, and returns what was found.
    ///
    /// A transaction that has not ended by then counts as failed, or as unknown if its COMMIT was sent.
    pub async fn stop(mut self) -> Report {
        self.stop.send_replace(true);
        while let Some(ended) = self.workers.join_next().await {
            if let Err(panic) = ended {
                self.shared.meter.failed(Failure::new("panic", panic.to_string()), Timestamp::now());
            }
        }
        let stats = self.snapshot();
        let (ledger, ledger_file_error) = self.shared.book.close();
        Report {
            schema: SCHEMA_VERSION,
            label: self.config.label,
            run: self.run,
            clients: self.config.clients,
            rate: self.config.rate,
            stats,
            timeline: self.shared.meter.timeline(),
            ledger_file_error,
            ledger,
        }
    }
}

fn check(config: &CanaryConfig) -> Result<(), CanaryError> {
    let reason = if config.clients == 0 {
        "0 clients".to_owned()
    } else if config.rate.is_some_and(|rate| !(1e-3..=1e6).contains(&rate)) {
        format!("a rate of {} transactions per second", config.rate.unwrap_or_default())
    } else if config.transaction_timeout.is_zero() {
        "a transaction timeout of 0".to_owned()
    } else {
        return Ok(());
    };
    Err(CanaryError::Config { reason })
}

/// Connects a client and gives it its counter row.
async fn enter(connect: &Config, limit: Duration, name: &str) -> Result<Session, CanaryError> {
    let session = Session::connect(connect, limit).await?;
    let insert = format!("INSERT INTO pgleap_canary.counter (client, value, last_seq) VALUES ('{name}', 0, 0)");
    match tokio::time::timeout(limit, session.client.batch_execute(&insert)).await {
        Ok(Ok(())) => Ok(session),
        Ok(Err(error)) if is_missing(&error) => Err(CanaryError::NotPrepared { target: target_of(connect) }),
        Ok(Err(source)) => Err(CanaryError::Statement { action: "register a client", source }),
        Err(_) => Err(CanaryError::ConnectTimeout { target: target_of(connect), limit }),
    }
}

/// Says whether the error means that the canary's schema or a table of it is not there.
pub(crate) fn is_missing(error: &tokio_postgres::Error) -> bool {
    use tokio_postgres::error::SqlState;
    error.code().is_some_and(|code| *code == SqlState::UNDEFINED_TABLE || *code == SqlState::INVALID_SCHEMA_NAME)
}

/// Returns 16 hexadecimal digits that no other run has: from the system's randomness, the clock and the process.
fn new_run_id() -> String {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_i128(Timestamp::now().as_nanosecond());
    hasher.write_u32(std::process::id());
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ids_differ() {
        let ids: std::collections::BTreeSet<_> = (0..1000).map(|_| new_run_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 16));
    }

    #[test]
    fn a_configuration_that_could_not_run_is_refused() {
        let good = CanaryConfig {
            connect: Config::new(),
            clients: 1,
            rate: Some(10.0),
            ledger: None,
            transaction_timeout: Duration::from_secs(1),
            label: String::new(),
        };
        assert!(check(&good).is_ok());
        assert!(check(&CanaryConfig { clients: 0, ..good.clone() }).is_err());
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(check(&CanaryConfig { rate: Some(rate), ..good.clone() }).is_err(), "{rate}");
        }
        assert!(check(&CanaryConfig { transaction_timeout: Duration::ZERO, ..good }).is_err());
    }
}
