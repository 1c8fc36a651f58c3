//! Subscriptions: made disabled, moved to a position, enabled, and taken away without touching the other side's slot.

use std::time::Duration;

use pgleap_saga::StepError;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use crate::{
    pg::{Lsn, PgError, Session, Side, ident},
    preflight::table_owners::BY_OWNERS_SINCE,
    provision::fix_boundary::parse_lsn,
    world::{Database, World},
};

const STATE: &str = "
    SELECT s.oid, s.subenabled,
           (SELECT count(*) FROM pg_catalog.pg_subscription_rel AS r WHERE r.srsubid = s.oid),
           (SELECT count(*) FROM pg_catalog.pg_subscription_rel AS r WHERE r.srsubid = s.oid AND r.srsubstate <> 'r'),
           (SELECT w.pid FROM pg_catalog.pg_stat_subscription AS w WHERE w.subid = s.oid AND w.relid IS NULL LIMIT 1),
           (SELECT o.remote_lsn::text FROM pg_catalog.pg_replication_origin_status AS o
             WHERE o.external_id = 'pg_' || s.oid)
      FROM pg_catalog.pg_subscription AS s
      JOIN pg_catalog.pg_database AS d ON d.oid = s.subdbid AND d.datname = pg_catalog.current_database()
     WHERE s.subname = $1";

/// A subscription, as its server shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionState {
    /// Its oid; its origin is `pg_<oid>`.
    pub oid: u32,
    /// It is meant to run.
    pub enabled: bool,
    /// How many tables it applies.
    pub tables: i64,
    /// How many of them are not in the state "ready".
    pub not_ready: i64,
    /// Its apply worker's process, while it runs.
    pub worker: Option<i32>,
    /// Up to where it has applied, in the publisher's positions.
    pub applied: Option<Lsn>,
}

/// Returns the subscription's state in this session's database; `None` if there is none.
///
/// # Errors
/// [`StepError`] from [`PgError`].
pub async fn state(session: &Session, name: &str) -> Result<Option<SubscriptionState>, StepError> {
    let Some(row) = session.query_opt(STATE, &[&name]).await? else { return Ok(None) };
    let applied: Option<String> = row.get(5);
    Ok(Some(SubscriptionState {
        oid: row.get(0),
        enabled: row.get(1),
        tables: row.get(2),
        not_ready: row.get(3),
        worker: row.get(4),
        applied: applied.as_deref().map(parse_lsn).transpose()?,
    }))
}

/// How many tables a publication has.
pub const PUBLISHED: &str = "SELECT count(*) FROM pg_catalog.pg_publication_tables WHERE pubname = $1";

/// Creates the subscription on the side opposite to `from`, disabled, over the slot that is there, without copying.
///
/// Its connection string holds no password: that is in a file that only the servers' user can read.
///
/// # Errors
/// Blocked, if it does not list as many tables as are published: without them nothing would be applied, at a lag of 0.
pub async fn create(world: &World, from: Side, database: &Database) -> Result<(), StepError> {
    let to = from.other();
    let session = world.cluster(to).db(&database.name).await?;
    let publisher = world.cluster(from);
    let publisher_session = publisher.db(&database.name).await?;
    let name = world.stream(from, database);
    if state(&session, &name).await?.is_none() {
        let conninfo = publisher.endpoint.conninfo(Some(&database.name), Some(&world.places().passfile()), &name);
        let to_version = version_num(&session).await?;
        let from_version = version_num(&publisher_session).await?;
        let mut options =
            format!("create_slot = false, copy_data = false, enabled = false, slot_name = {}", ident::literal(&name));
        // no `disable_on_error`: to the server a publisher that restarts is an error too, and nobody would enable it again
        if to_version >= 160_000 && from_version >= 160_000 {
            options.push_str(", origin = none");
        }
        // older ones know nothing else
        if to_version >= 10_000 * i32::from(BY_OWNERS_SINCE) && world.config.target.run_as_owner {
            options.push_str(", run_as_owner = true");
        }
        let sql = format!(
            "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH ({options})",
            ident::quote(&name),
            ident::literal(&conninfo),
            ident::quote(&world.publication())
        );
        session.batch(&sql).await?;
    }
    let tables = state(&session, &name).await?.map_or(0, |s| s.tables);
    let published: i64 = publisher_session.query_one(PUBLISHED, &[&world.publication()]).await?.get(0);
    if tables != published {
        return Err(StepError::blocked(
            format!("subscription `{name}` has {tables} tables, the {from} publishes {published}"),
            "a table was made or dropped since the copy: `pgleap unwind`, then `pgleap run`",
        ));
    }
    Ok(())
}

async fn version_num(session: &Session) -> Result<i32, PgError> {
    Ok(session.query_one("SELECT pg_catalog.current_setting('server_version_num')::int", &[]).await?.get(0))
}

/// Disables the subscription and waits until its worker has gone; none is fine.
///
/// # Errors
/// Transient, if the worker stays.
pub async fn disable(session: &Session, name: &str) -> Result<(), StepError> {
    match state(session, name).await? {
        None => return Ok(()),
        Some(s) if s.enabled => session.batch(&format!("ALTER SUBSCRIPTION {} DISABLE", ident::quote(name))).await?,
        Some(_) => {}
    }
    let deadline = Instant::now() + WORKER_BUDGET;
    while let Some(SubscriptionState { worker: Some(pid), .. }) = state(session, name).await? {
        if Instant::now() > deadline {
            return Err(StepError::transient(format!("the apply worker of `{name}` (pid {pid}) does not end")));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

const WORKER_BUDGET: Duration = Duration::from_secs(30);

/// Drops the subscription and leaves the other side's slot alone; none is fine.
///
/// # Errors
/// Transient, if the worker stays.
pub async fn drop_subscription(session: &Session, name: &str) -> Result<(), StepError> {
    disable(session, name).await?;
    if state(session, name).await?.is_some() {
        let quoted = ident::quote(name);
        session.batch(&format!("ALTER SUBSCRIPTION {quoted} SET (slot_name = NONE)")).await?;
        session.batch(&format!("DROP SUBSCRIPTION {quoted}")).await?;
    }
    Ok(())
}

const ADVANCE: &str = "SELECT pg_catalog.pg_replication_origin_advance('pg_' || $1::oid, $2::text::pg_lsn)";

/// Moves the origin of a disabled subscription: it will be sent what commits at or after `lsn`.
///
/// # Errors
/// Blocked, if the server does not show that position afterwards; transient, while a worker still holds the origin.
pub async fn advance(session: &Session, name: &str, lsn: Lsn) -> Result<(), StepError> {
    let Some(SubscriptionState { oid, .. }) = state(session, name).await? else {
        return Err(StepError::blocked(
            format!("there is no subscription `{name}`"),
            "`pgleap unwind`, then `pgleap run`",
        ));
    };
    match session.query_one(ADVANCE, &[&oid, &lsn.to_string()]).await {
        Err(error) if error.sqlstate() == Some(&SqlState::OBJECT_IN_USE) => {
            return Err(StepError::transient(error.to_string()).because(error.reason().unwrap_or_default()));
        }
        other => other?,
    };
    let shown = state(session, name).await?.and_then(|s| s.applied);
    if shown != Some(lsn) {
        let shown = shown.map_or_else(|| "nothing".to_owned(), |lsn| lsn.to_string());
        return Err(StepError::blocked(
            format!("the origin of `{name}` was moved to {lsn}, and shows {shown}"),
            "this must not be: `pgleap unwind`",
        ));
    }
    Ok(())
}
