//! Clients that change something of every kind in the laboratory's own tables, beside the canary's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_postgres::{Config, NoTls};

/// What the clients have done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Transactions that were acknowledged.
    pub transactions: u64,
    /// Transactions that failed, and connections that were refused or lost.
    pub failed: u64,
    /// The first failure.
    pub first_failure: Option<String>,
}

/// Running clients; each does the same kind of transaction at a fixed pace.
pub struct Application {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    done: AtomicU64,
    failed: AtomicU64,
    first: std::sync::Mutex<Option<String>>,
}

impl Counts {
    fn fail(&self, error: &tokio_postgres::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut first) = self.first.lock() {
            first.get_or_insert_with(|| match error.as_db_error() {
                Some(db) => db.message().to_owned(),
                None => error.to_string(),
            });
        }
    }
}

impl Application {
    /// Starts `clients` that each do `per_second` transactions a second.
    pub fn start(connect: &Config, clients: u32, per_second: u32) -> Self {
        Self::start_with(connect, clients, per_second, |n| format!("SELECT work({n})"))
    }

    /// Starts `clients` that each read `per_second` times a second.
    pub fn reading(connect: &Config, clients: u32, per_second: u32) -> Self {
        Self::start_with(connect, clients, per_second, |n| {
            format!("SELECT count(*) FROM pgbench_accounts WHERE aid BETWEEN {n} AND {n} + 10")
        })
    }

    /// Starts `clients` that each send `per_second` statements a second, each made from a number of its own.
    pub fn start_with(connect: &Config, clients: u32, per_second: u32, statement: fn(u32) -> String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Counts::default());
        let pace = Duration::from_secs(1) / per_second.max(1);
        let spawn = |client| tokio::spawn(run(connect.clone(), client, pace, statement, stop.clone(), counts.clone()));
        Self { clients: (0..clients).map(spawn).collect(), stop, counts }
    }

    /// Returns what was done so far.
    pub fn so_far(&self) -> Applied {
        Applied {
            transactions: self.counts.done.load(Ordering::Relaxed),
            failed: self.counts.failed.load(Ordering::Relaxed),
            first_failure: self.counts.first.lock().ok().and_then(|first| first.clone()),
        }
    }

    /// Stops the clients, each after its transaction, and returns what they did.
    pub async fn stop(mut self) -> Applied {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            drop(tokio::time::timeout(Duration::from_secs(30), client).await);
        }
        self.so_far()
    }
}

async fn run(
    config: Config,
    client: u32,
    pace: Duration,
    statement: fn(u32) -> String,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
) {
    let mut ticks = tokio::time::interval(pace);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seed = 1000 * client;
    while !stop.load(Ordering::Relaxed) {
        match config.connect(NoTls).await {
            Err(error) => {
                counts.fail(&error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok((session, connection)) => {
                tokio::spawn(async move { drop(connection.await) });
                while !stop.load(Ordering::Relaxed) && !session.is_closed() {
                    ticks.tick().await;
                    seed = seed.wrapping_add(1);
                    // simple protocol: named statements do not survive transaction pooling
                    match session.batch_execute(&statement(seed % 1_000_000)).await {
                        Ok(()) => {
                            counts.done.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => counts.fail(&error),
                    }
                }
            }
        }
    }
}
