//! How replication is doing: how far behind, how fast, and what is wrong with it.

use std::{collections::BTreeSet, time::Duration};

use pgleap_saga::StepError;
use tokio::time::Instant;

use super::subscription;
use crate::{
    pg::{Lsn, Session, Side},
    provision::{InitTarget, fix_boundary::parse_lsn},
    world::{Database, World},
};

/// Replication of all databases in one direction, at one moment.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Health {
    /// Where the publisher writes now.
    pub publisher: Lsn,
    /// Up to where every subscription has applied or confirmed.
    pub applied: Lsn,
    /// How far the furthest behind is, in bytes of WAL.
    pub lag_bytes: u64,
    /// How much WAL the slots keep on the publisher, in bytes.
    pub retained_bytes: u64,
    /// What is wrong, a line each; empty is well.
    pub problems: Vec<String>,
}

const NOW: &str = "SELECT pg_catalog.pg_current_wal_lsn()::text";
const SLOT: &str = "
    SELECT coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(restart_lsn, pg_catalog.pg_current_wal_lsn())::text,
           coalesce(wal_status, 'reserved'), active
      FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
const ERRORS: &str = "
    SELECT coalesce(apply_error_count, 0) FROM pg_catalog.pg_stat_subscription_stats WHERE subname = $1";

/// A worker that ended is started anew after `wal_retrieve_retry_interval`, which is 5 s by default.
const RETURN_BUDGET: Duration = Duration::from_secs(8);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOKS_THAT_COUNT: u32 = 3;

/// Looks at the streams that leave `from`.
///
/// # Errors
/// If either side cannot be asked.
pub async fn look(world: &World, from: Side, databases: &[Database]) -> Result<Health, StepError> {
    let (mut publisher, mut applied, mut restart) = (Lsn(0), Lsn(u64::MAX), Lsn(u64::MAX));
    let mut problems = Vec::new();
    for database in databases {
        let name = world.stream(from, database);
        let session = world.cluster(from).db(&database.name).await?;
        let subscriber = world.cluster(from.other()).db(&database.name).await?;
        publisher = publisher.max(parse_lsn(session.query_one(NOW, &[]).await?.get(0))?);
        let mut reached = Lsn(0);
        match session.query_opt(SLOT, &[&name]).await? {
            Some(row) => {
                reached = parse_lsn(row.get(0))?;
                restart = restart.min(parse_lsn(row.get(1))?);
                match row.get::<_, &str>(2) {
                    "lost" => problems.push(format!("slot `{name}` has lost the WAL it needs: start again")),
                    "unreserved" => problems.push(format!("slot `{name}` is about to lose the WAL it needs")),
                    _ => {}
                }
            }
            None => problems.push(format!("slot `{name}` is missing on the {from}")),
        }
        let published: i64 = session.query_one(subscription::PUBLISHED, &[&world.publication()]).await?.get(0);
        match subscription::state(&subscriber, &name).await? {
            Some(state) => {
                // a table that the subscription does not list is skipped without a word, at a lag of 0
                if state.tables != published || state.not_ready > 0 {
                    let unlike = unlike(&session, &subscriber, &world.publication(), &name).await?;
                    problems.push(format!(
                        "subscription `{name}` applies {} tables, {published} are published, {} are not ready: a table was made or \
                         dropped on the {from} during the upgrade, and its rows are not carried{unlike}",
                        state.tables, state.not_ready
                    ));
                }
                reached = reached.max(state.applied.unwrap_or(Lsn(0)));
                if !state.enabled {
                    problems.push(format!(
                        "subscription `{name}` is disabled: {}",
                        explain(world, from.other(), &name).await
                    ));
                } else if state.worker.is_none() && keeps_failing(&subscriber, &name).await? {
                    problems.push(format!(
                        "subscription `{name}` fails to apply: {}",
                        explain(world, from.other(), &name).await
                    ));
                }
            }
            None => problems.push(format!("subscription `{name}` is missing on the {}", from.other())),
        }
        applied = applied.min(reached);
    }
    let lag_bytes = publisher.bytes_since(applied);
    let retained_bytes = publisher.bytes_since(restart);
    let budget = world.config.budgets.retained_wal_bytes;
    if retained_bytes > budget {
        problems.push(format!(
            "slots keep {retained_bytes} bytes of WAL on the {from}, the budget is {budget}: free its disk, raise \
             `budgets.retained_wal`, or give the slots up (`pgleap unwind`, `pgleap finalize`)"
        ));
    }
    Ok(Health { publisher, applied, lag_bytes, retained_bytes, problems })
}

const PUBLISHED_NAMES: &str = "
    SELECT pg_catalog.format('%I.%I', schemaname, tablename) FROM pg_catalog.pg_publication_tables WHERE pubname = $1";
const SUBSCRIBED_NAMES: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
      FROM pg_catalog.pg_subscription AS s JOIN pg_catalog.pg_subscription_rel AS r ON r.srsubid = s.oid
      JOIN pg_catalog.pg_class AS c ON c.oid = r.srrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE s.subname = $1";

/// Names that one line holds.
const NAMED: usize = 5;

/// Names the tables that are published and not applied, or applied and published no more: a part of a sentence.
async fn unlike(publisher: &Session, subscriber: &Session, publication: &str, name: &str) -> Result<String, StepError> {
    let names = |rows: Vec<tokio_postgres::Row>| rows.iter().map(|row| row.get(0)).collect::<BTreeSet<String>>();
    let published = names(publisher.query(PUBLISHED_NAMES, &[&publication]).await?);
    let subscribed = names(subscriber.query(SUBSCRIBED_NAMES, &[&name]).await?);
    Ok(told("; only published: ", published.difference(&subscribed))
        + &told("; only applied: ", subscribed.difference(&published)))
}

fn told<'n>(what: &str, names: impl Iterator<Item = &'n String>) -> String {
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => String::new(),
        n if n > NAMED => format!("{what}{} and {} more", names[..NAMED].join(", "), n - NAMED),
        _ => format!("{what}{}", names.join(", ")),
    }
}

async fn errors(session: &Session, name: &str) -> Result<i64, StepError> {
    // the view came with 15
    match session.query_opt(ERRORS, &[&name]).await {
        Ok(row) => Ok(row.map_or(0, |row| row.get(0))),
        Err(error) if error.sqlstate() == Some(&tokio_postgres::error::SqlState::UNDEFINED_TABLE) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Whether the worker that is not there failed, and fails again when the server starts it anew. One that lost its
/// connection comes back and stays.
async fn keeps_failing(session: &Session, name: &str) -> Result<bool, StepError> {
    let before = errors(session, name).await?;
    if before == 0 {
        return Ok(false);
    }
    let deadline = Instant::now() + RETURN_BUDGET;
    let mut seen = 0;
    while Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
        if errors(session, name).await? > before {
            return Ok(true);
        }
        let there = subscription::state(session, name).await?.is_some_and(|state| state.worker.is_some());
        seen = if there { seen + 1 } else { 0 };
        if seen == LOOKS_THAT_COUNT {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Says why applying stopped, from the subscriber's log where that is on this host.
async fn explain(world: &World, subscriber: Side, name: &str) -> String {
    let text = match subscriber {
        Side::Target => InitTarget::server(world).map(|server| tail(&server.log)).unwrap_or_default(),
        Side::Source => String::new(),
    };
    match last_apply_error(&text) {
        Some(error) => error.to_string(),
        None => format!("look for the last ERROR of its apply worker (`{name}`) in the {subscriber}'s log"),
    }
}

fn tail(path: &std::path::Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    const KEPT: u64 = 256 * 1024;
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(KEPT)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// An apply worker's failure, as its log tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyError {
    /// What the server said.
    pub message: String,
    /// Its detail, if there was one.
    pub detail: Option<String>,
    /// The table.
    pub relation: Option<String>,
    /// What is usually behind it, and what to do.
    pub advice: &'static str,
}

impl std::fmt::Display for ApplyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        if let Some(relation) = &self.relation {
            write!(f, ", in table `{relation}`")?;
        }
        write!(f, "; {}", self.advice)
    }
}

/// Returns the last error that has an apply worker's context.
pub fn last_apply_error(log: &str) -> Option<ApplyError> {
    let lines: Vec<&str> = log.lines().collect();
    let context = lines.iter().rposition(|line| line.contains("processing remote data for replication origin"))?;
    let error = lines[..context].iter().rposition(|line| line.contains("ERROR:"))?;
    let after = |line: &str, mark: &str| line.split_once(mark).map(|(_, rest)| rest.trim().to_owned());
    let message = after(lines[error], "ERROR:")?;
    let detail = lines[error..context].iter().find_map(|line| after(line, "DETAIL:"));
    let relation =
        lines[context].split_once("relation \"").and_then(|(_, rest)| Some(rest.split_once('"')?.0.to_owned()));
    let advice = if message.contains("duplicate key") || message.contains("conflict detected") {
        "a row is there already: somebody wrote to the target, or the boundary was wrong; `pgleap unwind`, then `pgleap run`"
    } else if message.contains("does not exist") || message.contains("missing replicated column") {
        "the table was made or changed on the source during the upgrade: a changed one needs the same change on the target, \
         and applying is tried again by itself; a new one needs `pgleap unwind`, then `pgleap run`"
    } else if message.contains("violates") {
        "a constraint of the target refuses the row: drop it there for the time of the upgrade; \
         applying is tried again by itself"
    } else if message.contains("could not identify an equality operator") {
        "the table has identity FULL and a column that cannot be compared: give it a key"
    } else {
        "remove the cause on the target; applying is tried again by itself"
    };
    Some(ApplyError { message, detail, relation, advice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apply_error_is_read_with_its_table_and_its_advice() {
        let log = "2026 [1] ERROR:  division by zero\n\
                   2026 [2] ERROR:  duplicate key value violates unique constraint \"t_pkey\"\n\
                   2026 [2] DETAIL:  Key (id)=(100) already exists.\n\
                   2026 [2] CONTEXT:  processing remote data for replication origin \"pg_16401\" during message type \
                   \"INSERT\" for replication target relation \"public.t\" in transaction 725, finished at 0/30003B0\n\
                   2026 [3] LOG:  background worker exited\n";
        let error = last_apply_error(log).unwrap();
        assert_eq!(error.detail.as_deref(), Some("Key (id)=(100) already exists."));
        assert_eq!(error.relation.as_deref(), Some("public.t"));
        assert!(error.to_string().contains("a row is there already"), "{error}");
    }

    #[test]
    fn errors_of_clients_are_not_taken_for_apply_errors() {
        assert_eq!(last_apply_error("2026 [1] ERROR:  duplicate key value violates unique constraint"), None);
    }
}
