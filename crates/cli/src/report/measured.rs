//! What clients saw meanwhile: a canary's numbers, and the audit of its ledger.

use std::path::Path;

use jiff::Timestamp;
use pgleap_canary::{Audit, Stats};
use pgleap_saga::{Journal, JournalError};
use serde::{Deserialize, Serialize};

use crate::{errors::CommandError, exit::Exit};

/// Where the journal keeps it, so that a report made later shows it too.
const META: &str = "measured";

/// What a canary measured while the upgrade was under way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// How many clients wrote.
    pub clients: usize,
    /// Transactions whose COMMIT was acknowledged.
    pub transactions: u64,
    /// Attempts that failed, whether or not they were repeated.
    pub failed_transactions: u64,
    /// COMMIT was sent, and its answer never came.
    pub unknown_outcomes: u64,
    /// The longest that a client waited for one transaction.
    pub longest_client_stall_ms: f64,
    /// Half of the transactions took at most this.
    pub p50_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// Its periods: named stretches of time with their own numbers.
    pub periods: Vec<Period>,
    /// Acknowledged writes that the database does not hold; `None` if no ledger was audited.
    pub lost_writes: Option<u64>,
    /// Writes that it holds more than once.
    pub duplicated_writes: Option<u64>,
    /// The longest client stall of a bare PAUSE and RESUME under the same load: no switchover can do better.
    pub pause_floor_ms: Option<f64>,
}

/// A stretch of a canary's run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Period {
    /// Its name.
    pub name: String,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it lasted.
    pub seconds: f64,
    /// The longest wait that overlaps it.
    pub longest_stall_ms: f64,
    /// Attempts that failed in it.
    pub failed_transactions: u64,
    /// Transactions acknowledged per second.
    pub tps: f64,
}

impl Measured {
    /// Takes a canary's numbers and, if its ledger was audited, the verdict.
    pub fn of(clients: usize, stats: &Stats, audit: Option<&Audit>) -> Self {
        let period = |period: &pgleap_canary::PeriodReport| Period {
            name: period.name.clone(),
            started_at: period.started_at,
            seconds: period.seconds,
            longest_stall_ms: period.longest_stall_ms,
            failed_transactions: period.failed_transactions,
            tps: period.tps,
        };
        Self {
            clients,
            transactions: stats.transactions,
            failed_transactions: stats.failed_transactions,
            unknown_outcomes: stats.unknown_outcomes,
            longest_client_stall_ms: stats.longest_client_stall_ms,
            p50_ms: stats.latency.p50_ms,
            p99_ms: stats.latency.p99_ms,
            periods: stats.periods.iter().map(period).collect(),
            lost_writes: audit.map(|audit| audit.lost),
            duplicated_writes: audit.map(|audit| audit.duplicated),
            pause_floor_ms: None,
        }
    }

    /// Puts the numbers of canaries that ran side by side together: counts are added, of waits the longest is kept.
    pub fn together(parts: Vec<Self>) -> Self {
        let sum = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a + b);
        let join = |mut all: Self, part: Self| {
            all.clients += part.clients;
            all.transactions += part.transactions;
            all.failed_transactions += part.failed_transactions;
            all.unknown_outcomes += part.unknown_outcomes;
            all.longest_client_stall_ms = all.longest_client_stall_ms.max(part.longest_client_stall_ms);
            all.p50_ms = all.p50_ms.max(part.p50_ms);
            all.p99_ms = all.p99_ms.max(part.p99_ms);
            all.lost_writes = sum(all.lost_writes, part.lost_writes);
            all.duplicated_writes = sum(all.duplicated_writes, part.duplicated_writes);
            // marked at the same moments, so the nth period of each is the same stretch of time
            for (period, other) in all.periods.iter_mut().zip(&part.periods) {
                period.longest_stall_ms = period.longest_stall_ms.max(other.longest_stall_ms);
                period.failed_transactions += other.failed_transactions;
                period.tps += other.tps;
            }
            all
        };
        parts.into_iter().reduce(join).unwrap_or_default()
    }

    /// Reads the file that `pgleap canary --report` wrote.
    ///
    /// # Errors
    /// If it cannot be read, or is something else.
    pub fn read(path: &Path) -> Result<Self, CommandError> {
        let failed = |why: String| {
            CommandError::new(Exit::Usage, format!("cannot use `{}` as a canary's report", path.display()))
                .because(why)
                .hint("name the file that `pgleap canary --report FILE` wrote")
        };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let report: pgleap_canary::Report = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        Ok(Self::of(report.clients, &report.stats, None))
    }

    /// Keeps it in the journal, for reports to come.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep(&self, journal: &Journal) -> Result<(), JournalError> {
        journal.set_meta(META, &serde_json::json!(self).to_string())
    }

    /// Returns what a run kept.
    pub(super) fn kept(journal: &Journal) -> Result<Option<Self>, JournalError> {
        Ok(journal.meta(META)?.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Returns the longest stall and the failed transactions from one moment to another; `None` if no period lies there.
    ///
    /// A period belongs to the stretch that holds its middle, so marks need not be set at the same millisecond.
    pub(super) fn between(&self, from: Timestamp, to: Timestamp) -> Option<(f64, u64)> {
        let (from, to) = (from.as_millisecond() as f64, to.as_millisecond() as f64);
        let middle = |period: &&Period| {
            let middle = period.started_at.as_millisecond() as f64 + period.seconds * 500.0;
            from <= middle && middle <= to
        };
        let stalls: Vec<_> = self.periods.iter().filter(middle).collect();
        let longest = stalls.iter().map(|period| period.longest_stall_ms).reduce(f64::max)?;
        Some((longest, stalls.iter().map(|period| period.failed_transactions).sum()))
    }
}
