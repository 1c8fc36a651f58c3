//! What a cluster is, as far as a plan is made from it: plain data, so that it can be saved and planned from elsewhere.
//!
//! `pgleap check --format json` carries it as `facts`, and `pgleap plan --facts FILE` reads it back. What could not be known is
//! `None`, never 0.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::preflight::{self, Severity, limits::InUse};

/// The version of this form; raised when the meaning of a field changes.
pub const SCHEMA: u32 = 1;

/// Who runs the cluster: what can be done with its files and its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// PostgreSQL on a host of one's own.
    SelfManaged,
    /// Amazon Aurora PostgreSQL.
    Aurora,
    /// Amazon RDS for PostgreSQL.
    Rds,
    /// Another managed service: neither files nor clones.
    OtherManaged,
}

impl Engine {
    /// Whether Amazon runs it.
    pub fn is_aws(self) -> bool {
        matches!(self, Self::Aurora | Self::Rds)
    }

    /// Returns what it is called.
    pub fn words(self) -> &'static str {
        match self {
            Self::SelfManaged => "self-managed",
            Self::Aurora => "Aurora PostgreSQL",
            Self::Rds => "RDS for PostgreSQL",
            Self::OtherManaged => "a managed service",
        }
    }
}

/// Everything that a plan is made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The version of this form.
    pub schema: u32,
    /// When they were read.
    pub taken_at: Timestamp,
    /// How long that took, the window in which rates were measured included.
    pub took_s: f64,
    /// `host:port` of the source.
    pub source: String,
    /// The major version that was asked for.
    pub target_major: u16,
    /// Who runs it.
    pub engine: Engine,
    /// Aurora's function that tells a clone's boundary is there.
    pub has_boundary_function: bool,
    /// `server_version_num`, such as 150018.
    pub version_num: u32,
    /// `server_version`, such as `15.18 (Debian …)`.
    pub version: String,
    /// `version()`: compiler and architecture.
    pub platform: String,
    /// It follows another server.
    pub in_recovery: bool,
    /// Size of every database, templates included, in bytes.
    pub cluster_bytes: u64,
    /// How fast WAL is written.
    pub wal: Wal,
    /// Transactions committed per second, over the same window.
    pub commits_per_s: f64,
    /// Rows written per second, over the same window.
    pub rows_written_per_s: f64,
    /// Replication slots that exist.
    pub slots: u32,
    /// Servers and programs that receive WAL now.
    pub senders: u32,
    /// Replication origins that exist.
    #[serde(default)]
    pub origins: u32,
    /// Workers that apply changes for others.
    #[serde(default)]
    pub logical_workers: u32,
    /// Background workers of others, those among them.
    #[serde(default)]
    pub workers: u32,
    /// Clients that are connected.
    pub connections: u32,
    /// Age of the oldest open transaction of a client, in seconds.
    pub longest_transaction_s: f64,
    /// Settings that matter to a plan, in their own units.
    pub settings: BTreeMap<String, String>,
    /// The databases of the upgrade.
    pub databases: Vec<DatabaseFacts>,
    /// The host, if it is this one.
    pub host: Option<Host>,
}

/// How fast WAL is written, in bytes per second, measured three ways.
///
/// None alone will do: a window of seconds may meet a lull, an average over days hides the peak.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Wal {
    /// Between two readings of the position.
    pub window: Option<Rate>,
    /// Since the last checkpoint began.
    pub checkpoint: Option<Rate>,
    /// Since `pg_stat_wal` was reset; from 14 on.
    pub statistics: Option<Rate>,
}

/// A rate, and over how long it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Bytes per second.
    pub bytes_per_s: f64,
    /// Over so many seconds.
    pub over_s: f64,
}

impl Wal {
    /// Less than this is no measurement.
    const LEAST_WINDOW_S: f64 = 0.5;
    /// Less than this is no average: a server that was just started, or a checkpoint of a moment ago, says nothing.
    const LEAST_AVERAGE_S: f64 = 60.0;

    /// Returns what was measured for long enough, in bytes per second, and over what.
    fn measured(&self) -> impl Iterator<Item = (f64, &'static str)> {
        let (window, average) = (Self::LEAST_WINDOW_S, Self::LEAST_AVERAGE_S);
        let rates = [
            (self.window, window, "just now"),
            (self.checkpoint, average, "on average since the last checkpoint"),
            (self.statistics, average, "on average since its statistics began"),
        ];
        let long_enough =
            rates.into_iter().filter_map(|(rate, least, over)| Some((rate.filter(|rate| rate.over_s >= least)?, over)));
        long_enough.map(|(rate, over)| (rate.bytes_per_s.max(0.0), over))
    }

    /// Returns the lowest and the highest rate of those measured; `None` if there is none.
    pub fn range(&self) -> Option<(f64, f64)> {
        self.measured().map(|(rate, _)| rate).fold(None, |range, rate| match range {
            None => Some((rate, rate)),
            Some((low, high)) => Some((f64::min(low, rate), f64::max(high, rate))),
        })
    }

    /// Returns the highest rate of those measured, and over what; `None` if there is none.
    pub fn highest(&self) -> Option<(f64, &'static str)> {
        self.measured().max_by(|(a, _), (b, _)| a.total_cmp(b))
    }
}

/// What a database holds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// Its name.
    pub name: String,
    /// Its size on disk.
    pub bytes: u64,
    /// Tables, partitions and partitioned ones included.
    pub tables: u64,
    /// Partitioned parents among them.
    pub partitioned_tables: u64,
    /// Indexes.
    pub indexes: u64,
    /// Sequences.
    pub sequences: u64,
    /// Views.
    pub views: u64,
    /// Materialized views.
    pub materialized_views: u64,
    /// Foreign tables.
    pub foreign_tables: u64,
    /// Unlogged tables: their rows travel with no stream.
    pub unlogged_tables: u64,
    /// Tables whose UPDATE and DELETE could not be replicated.
    pub without_identity: u64,
    /// Tables whose rows are found by comparing all of them.
    pub identity_full: u64,
    /// Files that pg_upgrade links, moves or copies.
    pub files: u64,
    /// Bytes in tables, as the planner knows them.
    pub table_bytes: u64,
    /// Bytes in indexes, as the planner knows them.
    pub index_bytes: u64,
    /// Bytes that ANALYZE reads at most.
    pub sample_bytes: u64,
    /// Functions.
    pub functions: u64,
    /// Enums, domains and ranges.
    pub types: u64,
    /// Constraints.
    pub constraints: u64,
    /// Triggers.
    pub triggers: u64,
    /// Large objects.
    pub large_objects: u64,
    /// Publications that are somebody else's.
    pub publications: u64,
    /// Subscriptions that are somebody else's.
    pub subscriptions: u64,
    /// `name version` of each extension.
    pub extensions: Vec<String>,
    /// The largest tables.
    pub largest: Vec<TableFacts>,
}

impl DatabaseFacts {
    /// Returns how many objects pg_upgrade dumps and restores: what its time goes with.
    pub fn objects(&self) -> u64 {
        self.tables
            + self.indexes
            + self.sequences
            + self.views
            + self.materialized_views
            + self.foreign_tables
            + self.functions
            + self.types
            + self.constraints
            + self.triggers
            + self.large_objects
    }
}

/// A table among the largest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFacts {
    /// Schema and name, quoted where needed.
    pub name: String,
    /// With its indexes, as the planner knows it.
    pub bytes: u64,
    /// Rows, as the planner knows them.
    pub rows: u64,
    /// Rows inserted, updated and deleted since the statistics began.
    pub rows_written: u64,
}

/// What is known of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Processors that can be used.
    pub cores: usize,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Room where the copy will be.
    pub copy_free_bytes: Option<u64>,
    /// Room where the source keeps its WAL.
    pub wal_free_bytes: Option<u64>,
}

impl Facts {
    /// Returns the major version, such as 15.
    pub fn major(&self) -> u16 {
        u16::try_from(self.version_num / 10_000).unwrap_or_default()
    }

    /// Returns the minor version, such as 18.
    pub fn minor(&self) -> u16 {
        u16::try_from(self.version_num % 10_000).unwrap_or_default()
    }

    /// Returns what others use of the source's limits.
    pub(crate) fn in_use(&self) -> InUse {
        InUse {
            slots: self.slots.into(),
            origins: self.origins.into(),
            senders: self.senders.into(),
            logical_workers: self.logical_workers.into(),
            workers: self.workers.into(),
        }
    }

    /// Returns a sum over the databases.
    pub fn sum(&self, of: impl Fn(&DatabaseFacts) -> u64) -> u64 {
        self.databases.iter().map(of).sum()
    }

    /// Returns a setting that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.settings.get(name)?.parse().ok()
    }

    /// Whether changes can be decoded without a restart.
    pub fn is_logical(&self) -> bool {
        self.settings.get("wal_level").is_some_and(|level| level == "logical")
    }
}

/// A finding as it was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFinding {
    /// `noun.problem`.
    pub id: String,
    /// `blocker`, `warning` or `note`.
    pub severity: String,
    /// What was found.
    pub message: String,
    /// What to paste.
    #[serde(default)]
    pub remedy: Option<String>,
}

impl SavedFinding {
    /// Whether the upgrade does not begin with it.
    pub fn is_blocker(&self) -> bool {
        self.severity == "blocker"
    }
}

impl From<&preflight::Finding> for SavedFinding {
    fn from(finding: &preflight::Finding) -> Self {
        let severity = match finding.severity {
            Severity::Blocker => "blocker",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        Self {
            id: finding.id.to_string(),
            severity: severity.to_owned(),
            message: finding.message.clone(),
            remedy: finding.remedy.clone(),
        }
    }
}

/// What `pgleap check --format json` prints, as far as a plan reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// What the cluster is; none if it could not be asked.
    pub facts: Option<Facts>,
    /// What is in the way.
    pub findings: Vec<SavedFinding>,
}

/// Why saved facts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// It is not what `pgleap check --format json` prints.
    #[error("it is not what `pgleap check --format json` prints")]
    Form(#[from] serde_json::Error),
    /// The source could not be asked when it was saved.
    #[error("it holds no facts: the source could not be asked then")]
    Empty,
    /// A newer program wrote it.
    #[error("its facts have schema {found}, this program knows {SCHEMA}")]
    Schema {
        /// In the file.
        found: u32,
    },
}

impl Saved {
    /// Reads what was saved.
    ///
    /// # Errors
    /// [`SavedError`].
    pub fn read(text: &str) -> Result<(Facts, Vec<SavedFinding>), SavedError> {
        let saved: Self = serde_json::from_str(text)?;
        let facts = saved.facts.ok_or(SavedError::Empty)?;
        if facts.schema != SCHEMA {
            return Err(SavedError::Schema { found: facts.schema });
        }
        Ok((facts, saved.findings))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A self-managed cluster of 100 GiB with nothing unusual.
    pub(crate) fn ordinary() -> Facts {
        let settings = [
            ("wal_level", "logical"),
            ("max_replication_slots", "10"),
            ("max_wal_senders", "10"),
            ("max_worker_processes", "8"),
            ("max_logical_replication_workers", "4"),
            ("max_slot_wal_keep_size", "-1"),
            ("autovacuum_max_workers", "3"),
        ];
        Facts {
            schema: SCHEMA,
            taken_at: Timestamp::UNIX_EPOCH,
            took_s: 2.1,
            source: "db1:5432".into(),
            target_major: 18,
            engine: Engine::SelfManaged,
            has_boundary_function: false,
            version_num: 150_018,
            version: "15.18".into(),
            platform: "PostgreSQL 15.18 on x86_64-pc-linux-gnu".into(),
            in_recovery: false,
            cluster_bytes: 100 * GIB,
            wal: Wal {
                window: Some(Rate { bytes_per_s: 1e6, over_s: 2.0 }),
                checkpoint: Some(Rate { bytes_per_s: 2e6, over_s: 200.0 }),
                statistics: Some(Rate { bytes_per_s: 1.5e6, over_s: 1e6 }),
            },
            commits_per_s: 500.0,
            rows_written_per_s: 900.0,
            slots: 0,
            senders: 1,
            origins: 0,
            logical_workers: 0,
            workers: 0,
            connections: 80,
            longest_transaction_s: 0.4,
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            databases: vec![DatabaseFacts {
                name: "orders".into(),
                bytes: 100 * GIB,
                tables: 400,
                indexes: 900,
                sequences: 120,
                constraints: 700,
                functions: 60,
                files: 1800,
                table_bytes: 60 * GIB,
                index_bytes: 35 * GIB,
                sample_bytes: 20 * GIB,
                ..DatabaseFacts::default()
            }],
            host: Some(Host {
                cores: 16,
                memory_bytes: Some(64 * GIB),
                copy_free_bytes: Some(400 * GIB),
                wal_free_bytes: Some(400 * GIB),
            }),
        }
    }

    #[test]
    fn facts_are_the_same_after_they_were_saved_and_read() {
        let facts = ordinary();
        let json = serde_json::json!({ "schema": 1, "clear": true, "facts": facts, "findings": [
            { "id": "a.b", "severity": "warning", "message": "m", "cause": null, "remedy": "r", "later": 1 }] });
        let (read, findings) = Saved::read(&json.to_string()).unwrap();
        assert_eq!(read, facts);
        assert_eq!((findings[0].id.as_str(), findings[0].is_blocker()), ("a.b", false));
    }

    #[test]
    fn what_was_saved_without_facts_or_by_a_newer_program_is_refused() {
        let empty = r#"{"facts": null, "findings": []}"#;
        assert!(matches!(Saved::read(empty), Err(SavedError::Empty)));
        let newer = serde_json::json!({ "facts": Facts { schema: 2, ..ordinary() }, "findings": [] });
        assert!(matches!(Saved::read(&newer.to_string()), Err(SavedError::Schema { found: 2 })));
        assert!(matches!(Saved::read("[]"), Err(SavedError::Form(_))));
    }

    #[test]
    fn wal_rate_is_a_range_over_what_was_measured_for_long_enough() {
        let rate = |bytes_per_s, over_s| Some(Rate { bytes_per_s, over_s });
        let wal = Wal { window: rate(5.0, 2.0), checkpoint: rate(1e9, 59.0), statistics: rate(2.0, 1e6) };
        assert_eq!(wal.range(), Some((2.0, 5.0)), "a checkpoint that began just now says nothing");
        assert_eq!(Wal::default().range(), None, "unknown is not idle");
    }
}
