//! Compares one table on both sides.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::fingerprint::{Fingerprint, Method, Table, differing, rows, take};
use crate::pg::{PgError, Session, Side, marker};

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Status {
    /// Both sides hold the same rows.
    Equal,
    /// It is written to faster than it can be compared; what stood still is equal.
    Moving {
        /// Parts that changed while they were compared.
        parts: usize,
        /// Into how many parts the table was divided.
        of: usize,
    },
    /// The sides differ where nothing was written.
    Different {
        /// Rows on the source, in the parts that differ.
        source_rows: i64,
        /// Rows on the target, in the same parts.
        target_rows: i64,
        /// Parts that differ.
        parts: usize,
    },
}

/// A table's comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableResult {
    /// The database.
    pub database: String,
    /// `schema.table`.
    pub table: String,
    /// Rows on the source.
    pub rows: i64,
    /// What was found.
    #[serde(flatten)]
    pub status: Status,
}

/// Both sides of a table at (about) one moment.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The source's rows.
    pub source: Fingerprint,
    /// The target's rows.
    pub target: Fingerprint,
}

/// What must have happened before the target's side is read.
#[derive(Clone, Copy)]
pub enum Before<'a> {
    /// Nothing: both sessions hold snapshots of one moment.
    Nothing,
    /// What the first side had committed has arrived on the second.
    Arrival {
        /// The side that is written to.
        from: Side,
        /// A session on it.
        writer: &'a Session,
        /// A session on the other.
        follower: &'a Session,
    },
}

const ARRIVAL_BUDGET: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl Before<'_> {
    /// Waits until it has happened.
    ///
    /// # Errors
    /// [`PgError::Silent`], if what the first side wrote does not arrive on the second.
    pub async fn happened(self) -> Result<(), PgError> {
        let Self::Arrival { from, writer, follower } = self else { return Ok(()) };
        let written = marker::write(writer, from).await?;
        match marker::wait(follower, from, written.n, LOOK_EVERY, Instant::now() + ARRIVAL_BUDGET).await? {
            true => Ok(()),
            false => Err(PgError::Silent { place: follower.place.clone(), seconds: ARRIVAL_BUDGET.as_secs_f64() }),
        }
    }
}

/// Returns both sides' fingerprints, in all parts or only in some; the second's is taken after `before` has happened.
///
/// # Errors
/// [`PgError`].
pub async fn pair(
    first: &Session,
    second: &Session,
    table: &Table,
    only: Option<&[i32]>,
    before: Before<'_>,
) -> Result<Pair, PgError> {
    let source = take(first, table, only).await?;
    before.happened().await?;
    Ok(Pair { source, target: take(second, table, only).await? })
}

/// Compares a table in two snapshots that must be equal.
///
/// A difference in record hashes is looked at again by text before it is believed: a type may hash differently between
/// two majors.
///
/// # Errors
/// [`PgError`].
pub async fn exact(database: &str, first: &Session, second: &Session, table: &Table) -> Result<TableResult, PgError> {
    let look = async |table: &Table| -> Result<(Pair, Status), PgError> {
        let pair = pair(first, second, table, None, Before::Nothing).await?;
        let status = judge(Some(&pair), &pair, table.buckets());
        Ok((pair, status))
    };
    let (mut pair, mut status) = look(table).await?;
    if status != Status::Equal && table.method == Method::Record {
        (pair, status) = look(&Table { method: Method::Text, ..table.clone() }).await?;
    }
    Ok(result(database, table, rows(&pair.source), status))
}

/// Judges a table of `of` parts by the latest two comparisons of some: a part whose source stood still and still differs is a difference.
pub fn judge(earlier: Option<&Pair>, latest: &Pair, of: i32) -> Status {
    let parts = differing(&latest.source, &latest.target);
    if parts.is_empty() {
        return Status::Equal;
    }
    let stood_still = |part: &&i32| {
        earlier.is_some_and(|pair| {
            pair.source.get(part) == latest.source.get(part) && pair.target.get(part) == latest.target.get(part)
        })
    };
    let still: Vec<_> = parts.iter().filter(stood_still).collect();
    if still.is_empty() {
        return Status::Moving { parts: parts.len(), of: usize::try_from(of).unwrap_or_default() };
    }
    let count = |side: &Fingerprint| still.iter().filter_map(|part| side.get(part)).map(|bucket| bucket.rows).sum();
    Status::Different { source_rows: count(&latest.source), target_rows: count(&latest.target), parts: still.len() }
}

/// Makes a result.
pub fn result(database: &str, table: &Table, rows: i64, status: Status) -> TableResult {
    TableResult { database: database.to_owned(), table: table.to_string(), rows, status }
}

#[cfg(test)]
mod tests {
    use super::{super::fingerprint::Bucket, *};

    fn side(buckets: &[(i32, i64, &str)]) -> Fingerprint {
        buckets.iter().map(|(n, rows, sum)| (*n, Bucket { rows: *rows, sum: (*sum).to_owned() })).collect()
    }

    #[test]
    fn part_that_stood_still_and_differs_twice_is_a_difference() {
        let pair = Pair { source: side(&[(0, 5, "1"), (1, 3, "9")]), target: side(&[(0, 4, "1"), (1, 3, "9")]) };
        assert_eq!(judge(Some(&pair), &pair, 2), Status::Different { source_rows: 5, target_rows: 4, parts: 1 });
        assert_eq!(judge(None, &pair, 2), Status::Moving { parts: 1, of: 2 });
    }

    #[test]
    fn part_that_was_written_to_between_two_looks_is_moving() {
        let earlier = Pair { source: side(&[(0, 5, "1")]), target: side(&[(0, 4, "1")]) };
        let latest = Pair { source: side(&[(0, 6, "2")]), target: side(&[(0, 5, "1")]) };
        assert_eq!(judge(Some(&earlier), &latest, 8), Status::Moving { parts: 1, of: 8 });
    }

    #[test]
    fn snapshots_that_must_be_equal_are_judged_at_once() {
        let pair = Pair { source: side(&[(0, 5, "1")]), target: side(&[(0, 5, "2")]) };
        assert!(matches!(judge(Some(&pair), &pair, 2), Status::Different { .. }));
    }
}
