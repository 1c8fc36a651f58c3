//! Looks at standbys that clients read from.

use std::time::Duration;

use futures::future::{join_all, try_join_all};
use pgleap_saga::StepError;
use tokio::time::Instant;

use super::{Reader, Ways};
use crate::{
    pg::{
        Cluster, PgError, Side,
        access::{self, Access},
        marker,
    },
    world::{Cx, Database},
};

const WHO: &str = "
    SELECT pg_catalog.pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_catalog.pg_control_system())";
const SYSTEM: &str = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";
const COUNTS: &str = "
    SELECT coalesce(sum(xact_commit), 0)::bigint, coalesce(sum(xact_rollback), 0)::bigint
      FROM pg_catalog.pg_stat_database WHERE datname = ANY($1::text[])";
const LOOK_EVERY: Duration = Duration::from_millis(5);

fn pairs(cx: &Cx<'_>, from: Side) -> Result<Vec<Reader>, StepError> {
    Ok(Ways::of(cx, from)?.standbys(cx.world))
}

/// Returns why clients cannot be led to the standbys of `side`, a line each; none if they can. Rows are written on `from`.
///
/// # Errors
/// If a cluster itself cannot be asked.
pub async fn reasons(cx: &Cx<'_>, from: Side, side: Side, databases: &[Database]) -> Result<Vec<String>, StepError> {
    let world = cx.world;
    let maintenance = &world.config.source.database;
    let system: String = world.cluster(side).db(maintenance).await?.query_one(SYSTEM, &[]).await?.get(0);
    let one = async |reader: &Reader| -> Option<String> {
        let standby = reader.of(side);
        let who = async { standby.db(maintenance).await?.query_one(WHO, &[]).await };
        match who.await {
            Err(error) => Some(format!(
                "the {} cannot be asked: {}",
                standby.called,
                error.reason().unwrap_or_else(|| error.to_string())
            )),
            Ok(row) if !row.get::<_, bool>(0) => Some(format!("the {} is no standby: it takes writes", standby.called)),
            Ok(row) if row.get::<_, String>(1) != system => {
                Some(format!("the {} follows another cluster", standby.called))
            }
            Ok(_) => None,
        }
    };
    let mut reasons: Vec<_> = join_all(pairs(cx, from)?.iter().map(one)).await.into_iter().flatten().collect();
    if reasons.is_empty() {
        reasons.extend(staleness(cx, from, side, databases).await?.err());
    }
    Ok(reasons)
}

/// Writes a row on `from`, and returns how long it takes until every standby of `side` shows it; or which does not within the
/// bound of the configuration.
///
/// # Errors
/// If `from` cannot be asked.
pub async fn staleness(
    cx: &Cx<'_>,
    from: Side,
    side: Side,
    databases: &[Database],
) -> Result<Result<Duration, String>, StepError> {
    let world = cx.world;
    let started = Instant::now();
    let bound = world.config.readers.max_staleness;
    let write = async |database: &Database| -> Result<(String, i64), StepError> {
        let session = world.cluster(from).db(&database.name).await?;
        Ok((database.name.clone(), marker::write(&session, from).await?.n))
    };
    let written = try_join_all(databases.iter().map(write)).await?;
    let wait = async |standby: &Cluster| -> Result<(), String> {
        for (database, n) in &written {
            let shown = async {
                let session = standby.db(database).await?;
                marker::wait(&session, from, *n, LOOK_EVERY, started + bound).await
            };
            match shown.await {
                Ok(true) => {}
                Ok(false) => {
                    return Err(format!(
                        "a row written on the {from} has not reached the {} within {} s (`readers.max_staleness`)",
                        standby.called,
                        bound.as_secs_f64()
                    ));
                }
                Err(error) => return Err(format!("the {} does not answer: {error}", standby.called)),
            }
        }
        Ok(())
    };
    let shown = try_join_all(pairs(cx, from)?.iter().map(|reader| wait(reader.of(side)))).await;
    Ok(shown.map(|_| started.elapsed()))
}

/// How long readers wait for a standby to let them in, once the cluster that it follows does.
const LET_IN: Duration = Duration::from_secs(5);

/// Waits until every standby of `side` shows the rights to connect that were given there when `from` is left; returns how those
/// are called that do not in time.
///
/// # Errors
/// If the journal cannot be read.
pub async fn shut_out(cx: &Cx<'_>, from: Side, side: Side, given: &[Access]) -> Result<Vec<String>, StepError> {
    let world = cx.world;
    let names: Vec<_> = given.iter().map(|access| access.database.clone()).collect();
    let deadline = Instant::now() + LET_IN;
    let one = async |reader: &Reader| {
        let standby = reader.of(side);
        let shown = async {
            let session = standby.db(&world.config.source.database).await?;
            loop {
                let now = access::read(&session, &names, &[]).await?;
                let has = |access: &Access| {
                    now.iter().any(|now| {
                        now.database == access.database
                            && access.connect.iter().all(|grant| now.connect.contains(grant))
                    })
                };
                if given.iter().all(has) || Instant::now() >= deadline {
                    return Ok::<_, PgError>(given.iter().all(has));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let shown = tokio::time::timeout_at(deadline, shown).await;
        (!matches!(shown, Ok(Ok(true)))).then(|| standby.called.clone())
    };
    Ok(join_all(pairs(cx, from)?.iter().map(one)).await.into_iter().flatten().collect())
}

/// Waits as [`shut_out`] does, where nothing can be taken back any more: those that do not let readers in are told.
pub async fn let_in(cx: &Cx<'_>, from: Side, given: &[Access]) {
    match shut_out(cx, from, from.other(), given).await {
        Ok(late) => {
            for standby in late {
                cx.warn(format!("the {standby} does not let readers in yet: they are refused until it does"));
            }
        }
        Err(error) => cx.warn(format!("whether the standbys let readers in is not known: {error}")),
    }
}

/// Returns how many transactions were committed and rolled back on the standbys of `side` since they began to count.
///
/// # Errors
/// If one cannot be asked.
pub async fn counts(cx: &Cx<'_>, side: Side, names: &[String]) -> Result<(i64, i64), StepError> {
    let world = cx.world;
    let one = async |reader: &Reader| -> Result<(i64, i64), StepError> {
        let session = reader.of(side).db(&world.config.source.database).await?;
        let row = session.query_one(COUNTS, &[&names]).await?;
        Ok((row.get(0), row.get(1)))
    };
    let each = try_join_all(pairs(cx, Side::Source)?.iter().map(one)).await?;
    Ok(each.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1)))
}
