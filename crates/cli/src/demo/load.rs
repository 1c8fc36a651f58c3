//! The demo's clients: a canary for each database and an application, on a thread of their own.
//!
//! Apart from the thread that runs the steps, so that what they measure is the poolers and the servers, not each other.

use std::{sync::Arc, time::Duration};

use pgleap_canary::{Audit, Canary, CanaryConfig, Stats, audit, prepare};
use pgleap_lab::{Application, Applied, Lab};
use pgleap_saga::{Event, EventKind};
use tokio::{
    runtime::{Handle, Runtime},
    sync::broadcast::{Receiver, error::RecvError},
};

use crate::{errors::CommandError, exit::Exit, report::Measured};

/// Transactions per second of all canary clients together: steady, and little enough for a laptop.
const RATE: f64 = 200.0;
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
const APPLICATION_CLIENTS: u32 = 2;
const APPLICATION_RATE: u32 = 20;

/// A runtime that ends without waiting, also when it is dropped by a task.
struct Apart(Option<Runtime>);

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Clients at work, from the beginning of the demo to its end.
pub struct Load {
    apart: Apart,
    runtime: Handle,
    canaries: Arc<Vec<(String, Canary)>>,
    application: Application,
    clients: usize,
}

/// What the clients saw, and what their ledgers say.
pub struct Verdict {
    /// All numbers together.
    pub measured: Measured,
    /// Each database's audit.
    pub audits: Vec<(String, Audit)>,
    /// Canary numbers of each database.
    pub stats: Vec<Stats>,
    /// The application's own.
    pub applied: Applied,
}

impl Verdict {
    /// Whether nothing was lost, applied twice, or shown to a client as an error.
    pub fn is_clean(&self) -> bool {
        self.audits.iter().all(|(_, audit)| audit.is_clean()) && self.measured.failed_transactions == 0
    }
}

impl Load {
    /// Starts all clients.
    ///
    /// # Errors
    /// If they cannot connect.
    pub async fn start(lab: &Lab, clients: usize) -> Result<Self, CommandError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| CommandError::of(Exit::Unexpected, &error))?;
        let (runtime, apart) = (runtime.handle().clone(), Apart(Some(runtime)));
        let databases = &lab.spec.databases;
        let each = clients.div_ceil(databases.len()).max(1);
        let mut canaries = Vec::new();
        for database in databases {
            prepare(&lab.bypassing(lab.source_port, database)).await?;
            #[expect(clippy::cast_precision_loss, reason = "a handful of databases")]
            let rate = RATE / databases.len() as f64;
            let config = CanaryConfig {
                connect: lab.through_pooler(database),
                clients: each,
                rate: Some(rate),
                ledger: None,
                transaction_timeout: TRANSACTION_TIMEOUT,
                label: database.clone(),
            };
            let started = runtime.spawn(Canary::start(config)).await;
            let canary = started.map_err(|error| CommandError::of(Exit::Unexpected, &error))??;
            canaries.push((database.clone(), canary));
        }
        let application = {
            let _inside = runtime.enter();
            Application::start(&lab.through_pooler(&databases[0]), APPLICATION_CLIENTS, APPLICATION_RATE)
        };
        let clients = each * databases.len() + APPLICATION_CLIENTS as usize;
        Ok(Self { apart, runtime, canaries: Arc::new(canaries), application, clients })
    }

    /// Begins a new period.
    pub fn mark(&self, name: &str) {
        mark(&self.canaries, name);
    }

    /// Begins a new period whenever a step of another phase begins.
    pub fn follow(&self, mut events: Receiver<Event>) {
        let canaries = Arc::downgrade(&self.canaries);
        tokio::spawn(async move {
            let mut now = String::new();
            loop {
                let event = match events.recv().await {
                    Ok(event) => event,
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return,
                };
                let (EventKind::StepStarted { .. }, Some(step)) = (&event.kind, &event.step) else { continue };
                let phase = step.split('.').next().unwrap_or_default();
                let here = format!("{}.{phase}", event.plan);
                if here != now {
                    now = here;
                    let Some(canaries) = canaries.upgrade() else { return };
                    mark(&canaries, phase);
                }
            }
        });
    }

    /// Returns the numbers so far, of all databases together.
    pub fn so_far(&self) -> Stats {
        let all: Vec<Stats> = self.canaries.iter().map(|(_, canary)| canary.snapshot()).collect();
        let mut sum = all.iter().skip(1).fold(all[0].clone(), |mut sum, stats| {
            sum.transactions += stats.transactions;
            sum.failed_transactions += stats.failed_transactions;
            sum.longest_client_stall_ms = sum.longest_client_stall_ms.max(stats.longest_client_stall_ms);
            sum.waiting_ms = sum.waiting_ms.max(stats.waiting_ms);
            if let (Some(a), Some(b)) = (sum.periods.last_mut(), stats.periods.last()) {
                a.tps += b.tps;
            }
            sum
        });
        let applied = self.application.so_far();
        sum.transactions += applied.transactions;
        sum.failed_transactions += applied.failed;
        sum
    }

    /// Returns once `count` more transactions were acknowledged, or `patience` is over.
    pub async fn settle(&self, count: u64, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        let until = self.so_far().transactions + count;
        while self.so_far().transactions < until && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops all clients and audits their ledgers against the cluster that serves now, at `port`.
    ///
    /// # Errors
    /// If a database cannot be audited.
    pub async fn verdict(self, lab: &Lab, port: u16) -> Result<Verdict, CommandError> {
        let Self { apart, runtime, canaries, application, clients } = self;
        let canaries = Arc::into_inner(canaries)
            .ok_or_else(|| CommandError::new(Exit::Unexpected, "the canaries are still being marked"))?;
        let stopping = runtime.spawn(async move {
            let mut reports = Vec::new();
            let applied = application.stop().await;
            for (database, canary) in canaries {
                reports.push((database, canary.stop().await));
            }
            (reports, applied)
        });
        let (reports, applied) = stopping.await.map_err(|error| CommandError::of(Exit::Unexpected, &error))?;
        drop(apart);
        let (mut audits, mut parts, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for (database, report) in reports {
            let audit = audit(&lab.directly(port, &database), &report.ledger).await?;
            let measured = Measured::of(report.clients, &report.stats, Some(&audit));
            parts.push(Measured { timeline: report.timeline, ..measured });
            audits.push((database, audit));
            all.push(report.stats);
        }
        let mut measured = Measured::together(parts);
        measured.clients = clients;
        measured.transactions += applied.transactions;
        measured.failed_transactions += applied.failed;
        Ok(Verdict { measured, audits, stats: all, applied })
    }
}

fn mark(canaries: &[(String, Canary)], name: &str) {
    for (_, canary) in canaries {
        canary.mark(name);
    }
}
