//! Marker rows: a row written on one side, whose arrival on the other proves that everything before it has arrived.
//!
//! `confirmed_flush_lsn` moves with keepalives, without any row becoming visible; a marker cannot. Each side updates
//! the row that bears its own name, so the two directions never meet.

use std::time::Duration;

use tokio::time::Instant;

use super::{PgError, Session, Side};

/// The schema that holds pgleap's own table, in every database of the upgrade.
pub const SCHEMA: &str = "pgleap";

/// Creates the marker table. `$ID` is the upgrade's id.
pub const CREATE: &str = "
    CREATE SCHEMA IF NOT EXISTS pgleap;
    CREATE TABLE IF NOT EXISTS pgleap.marker (
        side text PRIMARY KEY, n bigint NOT NULL, written_at timestamptz NOT NULL DEFAULT now());
    REVOKE ALL ON SCHEMA pgleap FROM PUBLIC;";

/// Writes a marker and returns its number and transaction id.
const WRITE: &str = "
    INSERT INTO pgleap.marker AS m (side, n) VALUES ($1, 1)
        ON CONFLICT (side) DO UPDATE SET n = m.n + 1, written_at = now()
    RETURNING n, pg_current_xact_id()::text::bigint";

const READ: &str = "SELECT n FROM pgleap.marker WHERE side = $1";

/// A marker that was written and committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// Its number; each is one more than the last.
    pub n: i64,
    /// The transaction that wrote it, with its epoch.
    pub xid: i64,
}

/// Prepares the statements of [`write()`] and [`arrived`], so that using them later costs one round trip each.
///
/// # Errors
/// [`PgError`].
pub async fn warm(session: &Session) -> Result<(), PgError> {
    session.prepare(WRITE).await?;
    session.prepare(READ).await?;
    Ok(())
}

/// Writes the next marker of `side` and returns it once it is committed.
///
/// # Errors
/// [`PgError`].
pub async fn write(session: &Session, side: Side) -> Result<Marker, PgError> {
    let row = session.query_one(WRITE, &[&side.as_str()]).await?;
    Ok(Marker { n: row.get(0), xid: row.get(1) })
}

/// Returns the newest marker of `side` that this session's database shows; 0 if none.
///
/// # Errors
/// [`PgError`].
pub async fn arrived(session: &Session, side: Side) -> Result<i64, PgError> {
    Ok(session.query_opt(READ, &[&side.as_str()]).await?.map_or(0, |row| row.get(0)))
}

/// Waits until `session` shows marker `n` of `side`, looking every `every`; `false` at the deadline.
///
/// # Errors
/// [`PgError`].
pub async fn wait(session: &Session, side: Side, n: i64, every: Duration, deadline: Instant) -> Result<bool, PgError> {
    loop {
        if arrived(session, side).await? >= n {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(every).await;
    }
}
