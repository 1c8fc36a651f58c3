//! Logical slots: made with a deadline that names who is in the way, and dropped whoever holds them.

use std::time::Duration;

use pgleap_saga::StepError;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use crate::pg::{Cluster, PgError, Session};

const STATE: &str = "
    SELECT active_pid, wal_status, confirmed_flush_lsn::text FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
const CREATE: &str = "SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')";

/// Creation waits for every transaction that holds an id, in any database of the cluster, prepared ones too.
const IN_THE_WAY: &str = "
    SELECT pg_catalog.format('pid %s (role `%s`, database `%s`, %s for %s s)', pid, usename, datname, state,
                             round(extract(epoch FROM now() - xact_start)))
      FROM pg_catalog.pg_stat_activity
     WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid() AND backend_type = 'client backend'
       AND application_name <> $1
     UNION ALL
    SELECT pg_catalog.format('prepared transaction `%s` (role `%s`, database `%s`)', gid, owner, database)
      FROM pg_catalog.pg_prepared_xacts";

/// A slot, as the server shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    /// The walsender that uses it.
    pub active_pid: Option<i32>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Up to where its reader has confirmed; none while it is being made.
    pub confirmed: Option<String>,
}

/// Returns the slot's state; `None` if there is none.
///
/// # Errors
/// [`PgError`].
pub async fn state(session: &Session, name: &str) -> Result<Option<SlotState>, PgError> {
    let row = session.query_opt(STATE, &[&name]).await?;
    Ok(row.map(|row| SlotState { active_pid: row.get(0), wal_status: row.get(1), confirmed: row.get(2) }))
}

/// Creates a logical slot in `database`, or adopts the one that is there: its name is this upgrade's own.
///
/// # Errors
/// Blocked at the deadline, naming the transactions that it waited for; nothing is left behind then.
pub async fn create(cluster: &Cluster, database: &str, name: &str, budget: Duration) -> Result<(), StepError> {
    let kept = cluster.db(database).await?;
    match state(&kept, name).await? {
        Some(SlotState { wal_status, .. }) if wal_status.as_deref() == Some("lost") => {
            return Err(StepError::blocked(
                format!("slot `{name}` on the {} has lost the WAL it needs", cluster.side),
                "raise `max_slot_wal_keep_size` there, then `pgleap unwind` and `pgleap run`",
            ));
        }
        Some(SlotState { confirmed: Some(_), .. }) => return Ok(()),
        // begun by a process that died: it is dropped by the server when that session ends, or by us
        Some(_) => drop_slot(cluster, database, name).await?,
        None => {}
    }
    let session = cluster.open(database, budget).await?;
    let Err(error) = session.query_one(CREATE, &[&name]).await else { return Ok(()) };
    let timed_out = matches!(error, PgError::Silent { .. }) || error.sqlstate() == Some(&SqlState::QUERY_CANCELED);
    if !timed_out {
        return Err(error.into());
    }
    drop(session);
    let waiting: Vec<String> =
        kept.query(IN_THE_WAY, &[&cluster.application_name]).await?.iter().map(|row| row.get(0)).collect();
    drop_slot(cluster, database, name).await?;
    let cause = if waiting.is_empty() { "they have ended by now".to_owned() } else { waiting.join("; ") };
    Err(StepError::blocked(
        format!("slot `{name}` was not made within {} s: open transactions are in the way", budget.as_secs()),
        "end them, then `pgleap resume`; or raise `budgets.slot_creation`",
    )
    .because(cause))
}

const END_READER: &str = "
    SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots
     WHERE slot_name = $1 AND active_pid IS NOT NULL";
const DROP: &str = "
    SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
const DROP_BUDGET: Duration = Duration::from_secs(30);

/// Drops a slot, whoever reads it; none is fine.
///
/// # Errors
/// Transient, if its reader comes back again and again.
pub async fn drop_slot(cluster: &Cluster, database: &str, name: &str) -> Result<(), StepError> {
    let session = cluster.db(database).await?;
    let deadline = Instant::now() + DROP_BUDGET;
    loop {
        match session.query(DROP, &[&name]).await {
            Ok(_) => return Ok(()),
            Err(error) if error.sqlstate() == Some(&SqlState::UNDEFINED_OBJECT) => return Ok(()),
            Err(error) if error.sqlstate() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < deadline => {
                session.query(END_READER, &[&name]).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
