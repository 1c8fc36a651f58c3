//! The numbers a canary gives: live while it runs, and at its end.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;
use crate::timeline::Timeline;

/// The version of the JSON form of [`Report`]; raised when the meaning of a field changes.
pub const SCHEMA_VERSION: u32 = 1;

/// What happened so far. Times are in milliseconds with microseconds behind the point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// When the clients began.
    pub started_at: Timestamp,
    /// How long they have been running.
    pub seconds: f64,
    /// Transactions whose COMMIT was acknowledged.
    pub transactions: u64,
    /// Transactions that ended with the ROLLBACK that the client wanted.
    pub rolled_back: u64,
    /// Attempts that ended with an error or a lost connection, unknown outcomes among them.
    pub failed_transactions: u64,
    /// Attempts to connect again that failed; each also delays a transaction, and shows in its latency.
    pub failed_connects: u64,
    /// Attempts that repeated a transaction after a failure.
    pub retries: u64,
    /// Connections made after the first of each client.
    pub reconnects: u64,
    /// COMMIT was sent, and its answer never came.
    pub unknown_outcomes: u64,
    /// Transactions that did not see what the same client had written and been acknowledged.
    pub stale_reads: u64,
    /// Transactions that never succeeded, because the canary was stopped first.
    pub unfinished: u64,
    /// The failed attempts and connects by SQLSTATE, or by kind where there is none.
    pub failures: BTreeMap<String, FailureKind>,
    /// From the moment a transaction was due to its acknowledgement, retries included.
    pub latency: Latency,
    /// The longest time between two acknowledgements of one client that had work to do.
    pub longest_gap_ms: f64,
    /// The longest that a client waited for one transaction, from the moment it was due, retries included.
    pub longest_client_stall_ms: f64,
    /// How long the client that waits longest has been waiting now.
    pub waiting_ms: f64,
    /// The named periods, in order; the last one is the present one.
    pub periods: Vec<PeriodReport>,
}

/// How often something went wrong in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureKind {
    /// How often.
    pub count: u64,
    /// When first.
    pub first_at: Timestamp,
    /// In which words, the first time.
    pub first_message: String,
}

/// Percentiles of the time that transactions took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the transactions took at most this.
    pub p50_ms: f64,
    /// 95 of 100.
    pub p95_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// All of them.
    pub max_ms: f64,
}

/// What happened from one mark to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeriodReport {
    /// As given to [`crate::Canary::mark`]; the first is `start`.
    pub name: String,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it lasted, or has lasted so far.
    pub seconds: f64,
    /// Transactions acknowledged in it.
    pub transactions: u64,
    /// Attempts that failed in it.
    pub failed_transactions: u64,
    /// The longest wait for one transaction, of all waits that overlap this period, in full length.
    pub longest_stall_ms: f64,
    /// Of the transactions acknowledged in it.
    pub latency: Latency,
    /// Transactions acknowledged per second.
    pub tps: f64,
}

/// What a canary found, and the ledger to audit by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema: u32,
    /// As given in the configuration.
    pub label: String,
    /// The id of this run, part of each client's id.
    pub run: String,
    /// How many clients ran.
    pub clients: usize,
    /// The transactions per second that were asked for; `None` for as many as possible.
    pub rate: Option<f64>,
    /// The numbers.
    #[serde(flatten)]
    pub stats: Stats,
    /// Latency second by second, of the newest hours; empty in reports of older versions.
    #[serde(default)]
    pub timeline: Timeline,
    /// Why the ledger file is not complete, if it is not; `ledger` below is complete all the same.
    pub ledger_file_error: Option<String>,
    /// What was acknowledged.
    pub ledger: Ledger,
}
