//! Brings the last committed row over, and proves that nobody wrote after it.
//!
//! The audit is silence: between a look before the markers and a look after their arrival, no transaction id was handed
//! out but the markers' own, and none was open. Autovacuum may take one; then the audit slots are decoded: nothing may
//! have committed after a database's marker.

use std::time::Duration;

use futures::future::{try_join, try_join_all};
use pgleap_saga::{StepError, fault_point};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    fence::refuse_superusers,
    hot::{Hot, HotDatabase, databases},
};
use crate::{
    pg::{PgError, Session, Side, access, decode, marker, marker::Marker},
    provision::fix_boundary::parse_lsn,
    world::Cx,
};

/// How the fence was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audit {
    /// No transaction id was handed out but the markers' own.
    Silence,
    /// Ids were handed out, and decoding shows that none of them wrote a row after the marker.
    Decoded,
}

const LOOK_EVERY: Duration = Duration::from_micros(300);

/// The oldest id that is still open, and the next to be handed out.
pub const SNAPSHOT: &str = "
    SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint FROM pg_current_snapshot() AS s";
/// Prepared transactions, and background workers that hold an id; autovacuum writes no rows.
const STILL_OPEN: &str = "
    SELECT pg_catalog.format('prepared transaction `%s` in database `%s`', gid, database)
      FROM pg_catalog.pg_prepared_xacts WHERE database = ANY($1::text[])
     UNION ALL
    SELECT pg_catalog.format('pid %s (%s) in database `%s`', pid, backend_type, datname)
      FROM pg_catalog.pg_stat_activity
     WHERE datname = ANY($1::text[]) AND backend_xid IS NOT NULL AND backend_type <> 'autovacuum worker'
       AND pid <> pg_catalog.pg_backend_pid() AND application_name <> $2
     LIMIT 1";
const FLUSHED: &str = "SELECT pg_catalog.pg_current_wal_flush_lsn()::text";

/// Prepares what [`drain`] asks of the side that serves.
///
/// # Errors
/// [`PgError`].
pub async fn warm(from: &Session) -> Result<(), PgError> {
    from.prepare(STILL_OPEN).await?;
    from.prepare(SNAPSHOT).await.map(|_| ())
}

async fn snapshot(session: &Session) -> Result<(i64, i64), StepError> {
    let row = session.query_one(SNAPSHOT, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

/// Judges silence: nothing open before, exactly the markers' ids handed out since, nothing open after.
pub fn is_silent(before: (i64, i64), markers: &[Marker], after: (i64, i64)) -> bool {
    let mut xids: Vec<_> = markers.iter().map(|marker| marker.xid).collect();
    xids.sort_unstable();
    let expected = before.1..before.1 + i64::try_from(markers.len()).unwrap_or(i64::MAX);
    before.0 == before.1 && xids.iter().copied().eq(expected.clone()) && after == (expected.end, expected.end)
}

/// Writes a marker in every database and returns them when the other side shows all.
///
/// # Errors
/// Fatal, naming the database whose marker did not arrive in time.
async fn markers(hot: &Hot, from: Side, deadline: Instant) -> Result<Vec<Marker>, StepError> {
    let one = async |database: &HotDatabase| -> Result<Marker, StepError> {
        let written = marker::write(&database.from, from).await?;
        if marker::wait(&database.to, from, written.n, LOOK_EVERY, deadline).await? {
            return Ok(written);
        }
        Err(StepError::fatal(
            format!("the last row of database `{}` has not arrived in time", database.database.name),
            "look at the lag, then try again",
        ))
    };
    try_join_all(hot.databases.iter().map(one)).await
}

/// Looks into the audit slots: nothing may have committed after a database's marker.
async fn decoded(cx: &Cx<'_>, hot: &Hot, from: Side, markers: &[Marker]) -> Result<(), StepError> {
    for (database, marker) in hot.databases.iter().zip(markers) {
        let flushed = parse_lsn(database.from.query_one(FLUSHED, &[]).await?.get(0))?;
        let slot = cx.world.audit_slot(&database.database);
        let seen = decode::peek(&database.from, &slot, &cx.world.publication(), flushed).await?;
        let own = u32::try_from(marker.xid & 0xFFFF_FFFF).unwrap_or_default();
        let Some(position) = seen.iter().position(|transaction| transaction.xid == own) else {
            return Err(StepError::fatal(
                format!("the audit of database `{}` does not see its own marker", database.database.name),
                "try again",
            ));
        };
        if let Some(stray) = seen.get(position + 1) {
            return Err(StepError::fatal(
                format!("somebody wrote to the {from} past the fence"),
                "find who connects to it directly, and end it; then try again",
            )
            .because(format!(
                "transaction {} in database `{}` committed at {}",
                stray.xid, database.database.name, stray.commit
            )));
        }
    }
    Ok(())
}

/// Waits until the other side shows the last row, and proves that nobody wrote after it.
///
/// # Errors
/// Fatal, naming who passed the fence or what did not arrive.
pub async fn drain(cx: &Cx<'_>, hot: &Hot, from: Side, deadline: Instant) -> Result<Audit, StepError> {
    let before = snapshot(&hot.from).await?;
    let markers = markers(hot, from, deadline).await?;
    fault_point!("switchover.carry_over.after_arrival");
    // one after the other on one session: who is seen here was there when the ids were looked at, or came later
    let (_, names) = databases(cx)?;
    let own = &cx.world.source.application_name;
    let sessions = async { Ok(access::foreign(&hot.from, &names, own, &hot.ways.roles).await?) };
    let (after, left) = try_join(snapshot(&hot.from), sessions).await?;
    refuse_superusers(cx.world, from, &left)?;
    // who is there may write in the next moment, also if it has not yet
    if let Some(session) = left.iter().find(|session| !session.superuser) {
        return Err(StepError::fatal(format!("somebody passed the fence of the {from}"), "end it, then try again")
            .because(session.to_string()));
    }
    if is_silent(before, &markers, after) {
        return Ok(Audit::Silence);
    }
    // decoding shows what has committed: what may still commit must not be there
    if let Some(row) = hot.from.query_opt(STILL_OPEN, &[&names, own]).await? {
        return Err(StepError::fatal(format!("a transaction is still open on the {from}"), "end it, then try again")
            .because(row.get::<_, String>(0)));
    }
    decoded(cx, hot, from, &markers).await?;
    Ok(Audit::Decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn markers(xids: &[i64]) -> Vec<Marker> {
        xids.iter().map(|xid| Marker { n: 1, xid: *xid }).collect()
    }

    #[test]
    fn silence_is_only_the_markers_own_ids() {
        assert!(is_silent((100, 100), &markers(&[101, 100]), (102, 102)));
    }

    #[test]
    fn an_open_transaction_or_a_foreign_id_breaks_the_silence() {
        assert!(!is_silent((99, 100), &markers(&[100]), (101, 101)), "one was open before");
        assert!(!is_silent((100, 100), &markers(&[101]), (102, 102)), "one came before the marker");
        assert!(!is_silent((100, 100), &markers(&[100]), (102, 102)), "one came after the marker");
        assert!(!is_silent((100, 100), &markers(&[100]), (100, 101)), "one is open after");
    }
}
