//! `[readers]`: where clients that only read are led, and when.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::reader::Reader;
use crate::pgbouncer::ini::Address;

/// `[readers]`
#[derive(Debug, Clone)]
pub struct Readers {
    /// When they are moved.
    pub order: ReaderOrder,
    /// From which server to which.
    pub pools: Vec<ReaderPool>,
    /// Roles that keep the right to connect to a fenced side, as they may write nothing.
    pub roles: Vec<String>,
    /// The longest that clients of these pools wait when they are moved by themselves.
    pub pause: Duration,
    /// How long they are watched on the new servers before writers follow.
    pub window: Duration,
    /// The oldest that their rows may be.
    pub max_staleness: Duration,
    /// How many more of a hundred transactions may fail than before.
    pub max_failed_percent: u32,
    /// How many times longer a transaction may take than before.
    pub max_slowdown: u32,
}

/// When readers are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReaderOrder {
    /// Before the writers, with a window in between.
    First,
    /// In the same pause.
    Together,
    /// Never.
    Stay,
}

/// `[[readers.pool]]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderPool {
    /// A standby of the source, as entries of the poolers name it.
    pub from: Address,
    /// A standby of the target.
    pub to: Address,
}

impl Default for Readers {
    fn default() -> Self {
        Self::read(&mut Reader::new("readers", toml::Table::new(), std::path::Path::new("")), &[])
    }
}

impl Readers {
    /// Reads the section; `writers` are the addresses of the two clusters themselves.
    pub(super) fn read(section: &mut Reader, writers: &[Address]) -> Self {
        let mut pools = Vec::new();
        for mut entry in section.tables("pool") {
            let from = entry.dsn("from", "host=db2 port=5432");
            let to = entry.dsn("to", "host=db4 port=5432");
            pools.push(ReaderPool {
                from: Address { host: from.host, port: from.port },
                to: Address { host: to.host, port: to.port },
            });
            section.absorb(entry);
        }
        let mut seen = writers.to_vec();
        for address in pools.iter().flat_map(|pool| [&pool.from, &pool.to]) {
            // an entry must tell where it came from, for the way back
            if seen.contains(address) && !address.host.is_empty() {
                section.problem(
                    "pool",
                    format!("names {address} twice, or a cluster's own address: give each server a name of its own"),
                );
            }
            seen.push(address.clone());
        }
        let order = section.choice(
            "order",
            ReaderOrder::First,
            &[("first", ReaderOrder::First), ("together", ReaderOrder::Together), ("stay", ReaderOrder::Stay)],
        );
        let readers = Self {
            order,
            pools,
            roles: section.texts("roles"),
            pause: section.duration("pause", "5s", "50ms", "60s"),
            window: section.duration("window", "5min", "0s", "7d"),
            max_staleness: section.duration("max_staleness", "10s", "100ms", "1h"),
            max_failed_percent: section.count("max_failed_percent", 1, 0, 100),
            max_slowdown: section.count("max_slowdown", 5, 1, 1000),
        };
        if order == ReaderOrder::Stay && readers.roles.is_empty() && !readers.pools.is_empty() {
            section.problem(
                "roles",
                "is missing: readers that stay can log in to the fenced side only by roles that are named here",
            );
        }
        readers
    }
}
