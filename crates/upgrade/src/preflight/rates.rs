//! How fast tables are written: no check of its own, but what several ask.
//!
//! Measured twice over: between two readings a second apart, and on average since the counters began. Neither alone will do: a
//! second may meet a lull, an average over months hides today. Sessions report what they wrote at most once a second.

use std::{collections::HashMap, time::Duration};

use crate::pg::{PgError, Session};

const COUNTERS: &str = include_str!("sql/read_write_counters.sql");

/// Long enough for a rate, short enough to wait for.
pub(super) const BETWEEN: Duration = Duration::from_secs(1);

/// How fast rows of a table are written, by whichever measure says more.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WriteRate {
    /// The table.
    pub oid: u32,
    /// Schema and name, quoted where needed.
    pub table: String,
    /// Its rows, as the planner knows them.
    pub rows: u64,
    /// Rows inserted per second.
    pub inserts_per_s: f64,
    /// Rows updated per second.
    pub updates_per_s: f64,
    /// Rows deleted per second.
    pub deletes_per_s: f64,
    /// Measured over so many seconds.
    pub over_s: f64,
    /// Just now, rather than on average.
    pub is_window: bool,
}

impl WriteRate {
    /// Returns how many rows are written per second, in whatever way.
    pub fn per_s(&self) -> f64 {
        self.inserts_per_s + self.updates_per_s + self.deletes_per_s
    }

    /// Returns how many rows have to be found on the other side per second.
    pub fn changes_per_s(&self) -> f64 {
        self.updates_per_s + self.deletes_per_s
    }

    /// Says what it was measured over.
    pub fn basis(&self) -> String {
        if self.is_window {
            return format!("over {:.1} s just now", self.over_s);
        }
        let (over, unit) = match self.over_s {
            s if s < 120.0 => (s, "s"),
            s if s < 7200.0 => (s / 60.0, "min"),
            s if s < 172_800.0 => (s / 3600.0, "h"),
            s => (s / 86_400.0, "days"),
        };
        format!("on average over {over:.0} {unit}")
    }
}

struct Reading {
    table: String,
    rows: u64,
    written: [f64; 3],
    at: f64,
    age_s: Option<f64>,
}

/// Measures how fast tables are written: these, or all that can be published. Tables that nobody wrote to are left out.
///
/// Waits [`BETWEEN`] for the second reading if `may_wait` and anything was ever written.
///
/// # Errors
/// [`PgError`] if the server does not say.
pub(super) async fn measure(
    session: &Session,
    tables: Option<&[u32]>,
    may_wait: bool,
) -> Result<Vec<WriteRate>, PgError> {
    let first = read(session, tables).await?;
    if !may_wait || first.is_empty() {
        let rates = first.into_iter().filter_map(|(oid, reading)| rate(oid, &reading, None));
        return Ok(rates.collect());
    }
    tokio::time::sleep(BETWEEN).await;
    let second = read(session, tables).await?;
    Ok(second.into_iter().filter_map(|(oid, reading)| rate(oid, &reading, first.get(&oid))).collect())
}

async fn read(session: &Session, tables: Option<&[u32]>) -> Result<HashMap<u32, Reading>, PgError> {
    let rows = session.query(COUNTERS, &[&tables]).await?;
    #[expect(clippy::cast_precision_loss, reason = "a rate is made of it")]
    let reading = |row: &tokio_postgres::Row| Reading {
        table: row.get("table_name"),
        rows: u64::try_from(row.get::<_, i64>("row_count")).unwrap_or_default(),
        written: ["inserted", "updated", "deleted"].map(|column| row.get::<_, i64>(column) as f64),
        at: row.get("at"),
        age_s: row.get("age_s"),
    };
    Ok(rows.iter().map(|row| (row.get("oid"), reading(row))).collect())
}

fn rate(oid: u32, now: &Reading, before: Option<&Reading>) -> Option<WriteRate> {
    let over = |seconds: f64, since: [f64; 3], is_window| {
        // counters that were reset meanwhile say nothing
        let [inserts_per_s, updates_per_s, deletes_per_s] =
            [0, 1, 2].map(|n| (now.written[n] - since[n]).max(0.0) / seconds);
        let (table, rows) = (now.table.clone(), now.rows);
        WriteRate { oid, table, rows, inserts_per_s, updates_per_s, deletes_per_s, over_s: seconds, is_window }
    };
    let least = BETWEEN.as_secs_f64() / 2.0;
    let window = before.map(|before| (now.at - before.at, before.written)).filter(|(seconds, _)| *seconds >= least);
    let window = window.map(|(seconds, since)| over(seconds, since, true));
    let average = now.age_s.filter(|seconds| *seconds >= BETWEEN.as_secs_f64());
    let average = average.map(|seconds| over(seconds, [0.0; 3], false));
    match (window, average) {
        (Some(window), Some(average)) => Some(if window.per_s() > average.per_s() { window } else { average }),
        (window, average) => window.or(average),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(written: [f64; 3], at: f64, age_s: Option<f64>) -> Reading {
        Reading { table: "s.t".into(), rows: 10, written, at, age_s }
    }

    #[test]
    fn the_measure_that_says_more_is_told_with_what_it_was_measured_over() {
        let before = reading([0.0, 1000.0, 0.0], 100.0, Some(7200.0));
        let busy = reading([0.0, 1050.0, 0.0], 101.0, Some(7200.0));
        let now = rate(1, &busy, Some(&before)).unwrap();
        assert_eq!((now.changes_per_s(), now.basis().as_str()), (50.0, "over 1.0 s just now"));
        let lull = reading([0.0, 7200.0, 0.0], 101.0, Some(7200.0));
        let average = rate(1, &lull, Some(&reading([0.0, 7200.0, 0.0], 100.0, None))).unwrap();
        assert_eq!((average.per_s(), average.basis().as_str()), (1.0, "on average over 2 h"));
    }

    #[test]
    fn what_nobody_knows_the_age_of_has_no_average_and_a_reset_is_no_rate() {
        assert_eq!(rate(1, &reading([1.0; 3], 100.0, None), None), None);
        let reset = rate(1, &reading([1.0; 3], 101.0, None), Some(&reading([9.0; 3], 100.0, None))).unwrap();
        assert_eq!(reset.per_s(), 0.0);
    }
}
