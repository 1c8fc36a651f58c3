//! How fast things go: given by the operator, measured in earlier upgrades here, or assumed between bounds.

use serde::{Deserialize, Serialize};

use super::time::size;

/// A speed or a time, between bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
    /// Where they are from.
    pub from: From,
    /// What is counted.
    pub unit: Unit,
}

/// Where bounds are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// The operator said so.
    Given,
    /// Earlier upgrades, so many of them.
    Measured(u32),
    /// Nothing better is known.
    Assumed,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes per second.
    BytesPerSecond,
    /// Seconds.
    Seconds,
    /// Seconds for each object.
    SecondsEach,
}

/// Every speed that a plan uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// A base backup.
    pub copy: Bounds,
    /// What each file adds to it: it is made, and synced.
    pub copy_file: Bounds,
    /// Recovery of WAL.
    pub replay: Bounds,
    /// What each file adds to it: recovery syncs all of them first.
    pub replay_file: Bounds,
    /// What pg_upgrade takes for an empty cluster, with what is around it.
    pub upgrade_base: Bounds,
    /// What it takes for each object.
    pub upgrade_object: Bounds,
    /// ANALYZE, of the sample that it reads.
    pub analyze: Bounds,
    /// Applying a stream, of the WAL that the source wrote for it.
    pub apply: Bounds,
    /// Comparing tables, of one side's bytes.
    pub verify: Bounds,
    /// What each table adds to it.
    pub verify_table: Bounds,
    /// Initial synchronisation of tables by rows.
    pub rows: Bounds,
    /// A switchover with everything around its pause, but for the proof.
    pub switchover: Bounds,
}

const MIB: f64 = 1_048_576.0;

impl Default for Rates {
    /// Bounds that hold ordinary hosts; docs/plan.md says what was measured.
    fn default() -> Self {
        let speed = |low: f64, high: f64| Bounds {
            low: low * MIB,
            high: high * MIB,
            from: From::Assumed,
            unit: Unit::BytesPerSecond,
        };
        let time = |low: f64, high: f64, unit| Bounds { low, high, from: From::Assumed, unit };
        Self {
            copy: speed(40.0, 600.0),
            copy_file: time(0.000_02, 0.004, Unit::SecondsEach),
            replay: speed(20.0, 200.0),
            replay_file: time(0.000_01, 0.002, Unit::SecondsEach),
            upgrade_base: time(2.0, 15.0, Unit::Seconds),
            upgrade_object: time(0.000_2, 0.004, Unit::SecondsEach),
            analyze: speed(30.0, 400.0),
            apply: speed(8.0, 60.0),
            verify: speed(20.0, 150.0),
            verify_table: time(0.002, 0.1, Unit::SecondsEach),
            rows: speed(10.0, 60.0),
            switchover: time(1.0, 60.0, Unit::Seconds),
        }
    }
}

impl Rates {
    /// Returns bounds that the operator gave; a fifth either way, as no disk is steady.
    pub fn given(&self, bytes_per_s: f64) -> Bounds {
        Bounds { low: bytes_per_s * 0.8, high: bytes_per_s * 1.2, from: From::Given, unit: Unit::BytesPerSecond }
    }

    /// Says between which bounds, and how that is known.
    pub fn words(bounds: Bounds) -> String {
        let range = match bounds.unit {
            Unit::BytesPerSecond => format!("{} to {}/s", size(bounds.low), size(bounds.high)),
            Unit::Seconds => format!("{:.0} to {:.0} s", bounds.low, bounds.high),
            Unit::SecondsEach => format!("{:.1} to {:.1} ms each", bounds.low * 1000.0, bounds.high * 1000.0),
        };
        let from = match bounds.from {
            From::Given => "given".to_owned(),
            From::Measured(1) => "measured in 1 upgrade here".to_owned(),
            From::Measured(n) => format!("measured in {n} upgrades here"),
            From::Assumed => "assumed".to_owned(),
        };
        format!("{range} ({from})")
    }
}
