//! Compares every table while writes go on: what differs is looked at again once the target is past the source's snapshot.
//!
//! Sessions are opened once, and small tables wait together for what the source had written: most clusters have many of
//! them, and a login, a marker's way and a look at replication each cost more than reading such a table.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::{try_join, try_join_all};
use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    compare::{Before, Pair, Status, TableResult, judge, pair, result},
    fingerprint::{Method, PINNED, Table, UNHURRIED, differing, rows, tables, take},
};
use crate::{
    pg::{PgError, Session, Side},
    provision::PrepareDatabases,
    replicate::health,
    world::{Cx, Database, World},
};

/// Compares all tables; refuses to go on if rows differ where nothing was written.
pub struct CompareTables;

/// The result of comparing every table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Comparison {
    /// Every table.
    pub tables: Vec<TableResult>,
}

impl Comparison {
    /// Returns the tables that differ where nothing was written.
    pub fn different(&self) -> Vec<&TableResult> {
        self.tables.iter().filter(|table| matches!(table.status, Status::Different { .. })).collect()
    }

    /// Returns how many tables are equal, and how many were written to too fast to tell.
    pub fn counts(&self) -> (usize, usize) {
        let equal = self.tables.iter().filter(|table| table.status == Status::Equal).count();
        (equal, self.tables.len() - equal - self.different().len())
    }

    /// Returns how many rows were compared.
    pub fn rows(&self) -> i64 {
        self.tables.iter().map(|table| table.rows).sum()
    }
}

/// How often a table that differs is looked at before it counts as moving.
const ROUNDS: usize = 4;
/// Tables that wait together hold no more than this, so that little is written between the two looks at one of them …
const TOGETHER_BYTES: i64 = 4 << 20;
/// … and are no more than these.
const TOGETHER: usize = 64;
/// How often replication is looked at meanwhile, at the most …
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// … and a look costs more the more tables there are: so long is waited, in times of what the last one took.
const LOOK_SHARE: u32 = 10;
/// So many looks in a row must fail before a comparison of hours is given up.
const LOOKS_THAT_COUNT: u32 = 5;

/// Opens a session in which a row's text is the same on every major.
///
/// # Errors
/// [`PgError`].
pub async fn reading_session(world: &World, side: Side, database: &str) -> Result<Session, PgError> {
    let session = world.cluster(side).open(database, world.config.budgets.verify).await?;
    session.batch(&format!("{PINNED} {UNHURRIED}")).await?;
    Ok(session)
}

/// Compares every published table of every database; `from` is the side that is written to.
///
/// # Errors
/// If a side cannot be asked, or does not get what the other wrote.
pub async fn compare_all(cx: &Cx<'_>, from: Side, databases: &[Database]) -> Result<Comparison, StepError> {
    let started = Instant::now();
    let comparing = async {
        let mut results: Vec<TableResult> = Vec::new();
        for database in databases {
            results.extend(compare_database(cx, from, &database.name).await?);
        }
        Ok::<_, StepError>(results)
    };
    let mut all = Comparison {
        tables: tokio::select! {
            compared = comparing => compared?,
            failed = watch(cx, from, databases) => return Err(failed),
        },
    };
    all.tables.sort_by(|a, b| (&a.database, &a.table).cmp(&(&b.database, &b.table)));
    let (equal, moving) = all.counts();
    cx.note(format!(
        "{} tables, {} rows compared in {:.1} s: {equal} equal, {moving} still moving, {} different",
        all.tables.len(),
        all.rows(),
        started.elapsed().as_secs_f64(),
        all.different().len()
    ));
    Ok(all)
}

/// Looks at replication until that fails again and again.
async fn watch(cx: &Cx<'_>, from: Side, databases: &[Database]) -> StepError {
    let mut failed = 0;
    loop {
        let began = Instant::now();
        match health::look(cx.world, from, databases).await {
            #[expect(clippy::cast_precision_loss, reason = "a chart's value")]
            Ok(health) => {
                failed = 0;
                cx.sample("lag_bytes", health.lag_bytes as f64);
            }
            Err(error) if failed + 1 >= LOOKS_THAT_COUNT => return error,
            Err(_) => failed += 1,
        }
        tokio::time::sleep(LOOK_EVERY.max(began.elapsed() * LOOK_SHARE)).await;
    }
}

async fn compare_database(cx: &Cx<'_>, from: Side, database: &str) -> Result<Vec<TableResult>, StepError> {
    let open = async || {
        try_join(reading_session(cx.world, from, database), reading_session(cx.world, from.other(), database)).await
    };
    let (writer, follower) = open().await?;
    let tables = tables(&writer, &follower, &cx.world.publication()).await?;
    drop((writer, follower));
    let (total, done) = (tables.len() as u64, AtomicU64::new(0));
    let queue = Mutex::new(together(tables).into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = async || -> Result<Vec<TableResult>, StepError> {
        let (writer, follower) = open().await?;
        let mut results = Vec::new();
        while let Some(tables) = next() {
            results.extend(compare_together(from, database, (&writer, &follower), &tables).await?);
            let count = tables.len() as u64;
            cx.progress(Progress {
                text: format!("comparing database `{database}`"),
                done: Some(done.fetch_add(count, Ordering::Relaxed) + count),
                total: Some(total),
                unit: "tables",
                ..Progress::default()
            });
        }
        Ok(results)
    };
    // each job takes one core of each side in turn: clients need them more
    let jobs = (0..cx.world.config.budgets.verify_jobs).map(|_| work());
    Ok(try_join_all(jobs).await?.into_iter().flatten().collect())
}

/// Divides tables, the largest first, into those that wait together: a large one waits alone.
fn together(tables: Vec<Table>) -> Vec<Vec<Table>> {
    let mut groups: Vec<Vec<Table>> = Vec::new();
    let mut room = 0;
    for table in tables {
        match groups.last_mut() {
            Some(group) if group.len() < TOGETHER && table.bytes <= room => {
                room -= table.bytes;
                group.push(table);
            }
            _ => {
                room = TOGETHER_BYTES - table.bytes;
                groups.push(vec![table]);
            }
        }
    }
    groups
}

async fn compare_together(
    from: Side,
    database: &str,
    (writer, follower): (&Session, &Session),
    tables: &[Table],
) -> Result<Vec<TableResult>, PgError> {
    let arrival = Before::Arrival { from, writer, follower };
    let mut sources = Vec::new();
    for table in tables {
        sources.push(take(writer, table, None).await?);
    }
    arrival.happened().await?;
    let mut results = Vec::new();
    for (table, source) in tables.iter().zip(sources) {
        let latest = Pair { source, target: take(follower, table, None).await? };
        results.push(settle(database, (writer, follower), table, latest, arrival).await?);
    }
    Ok(results)
}

/// Judges a table by its first comparison, and by further ones where that differs.
async fn settle(
    database: &str,
    (writer, follower): (&Session, &Session),
    table: &Table,
    mut latest: Pair,
    arrival: Before<'_>,
) -> Result<TableResult, PgError> {
    let mut table = table.clone();
    let counted = rows(&latest.source);
    let mut earlier: Option<Pair> = None;
    let mut round = 1;
    loop {
        match judge(earlier.as_ref(), &latest, table.buckets()) {
            Status::Moving { .. } if round < ROUNDS => {
                let parts = differing(&latest.source, &latest.target);
                let again = pair(writer, follower, &table, Some(&parts), arrival).await?;
                earlier = Some(std::mem::replace(&mut latest, again));
                round += 1;
            }
            // a type may hash differently between two majors: its text decides
            Status::Different { .. } if table.method == Method::Record => {
                table.method = Method::Text;
                (latest, earlier, round) = (pair(writer, follower, &table, None, arrival).await?, None, 1);
            }
            status => return Ok(result(database, &table, counted, status)),
        }
    }
}

/// Refuses a comparison that found differences, naming the tables.
///
/// # Errors
/// Blocked, if any table differs.
pub fn refuse_differences(comparison: &Comparison) -> Result<(), StepError> {
    let different = comparison.different();
    if different.is_empty() {
        return Ok(());
    }
    let names: HashMap<_, _> = different.iter().map(|t| (format!("{}.{}", t.database, t.table), &t.status)).collect();
    let mut named: Vec<_> = names
        .iter()
        .map(|(name, status)| match status {
            Status::Different { source_rows, target_rows, .. } => {
                format!("`{name}` ({source_rows} rows against {target_rows} in the parts that differ)")
            }
            _ => format!("`{name}`"),
        })
        .collect();
    named.sort();
    Err(StepError::blocked(
        format!("{} tables differ between source and target", different.len()),
        "do not switch over: `pgleap unwind`, then `pgleap run`; look first at who wrote to the target",
    )
    .because(named.join(", ")))
}

impl Step<World> for CompareTables {
    type Output = Comparison;
    const NAME: StepName = StepName("verify.compare_tables");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "compare every table's rows on both sides, while writes go on".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Comparison>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Comparison, StepError> {
        let databases = cx.output::<PrepareDatabases>()?.databases;
        let comparison = compare_all(cx, Side::Source, &databases).await?;
        refuse_differences(&comparison)?;
        Ok(comparison)
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(bytes: i64) -> Table {
        let (schema, name) = ("public".to_owned(), bytes.to_string());
        Table { schema, name, columns: Vec::new(), key: Vec::new(), estimated_rows: 0.0, bytes, method: Method::Record }
    }

    #[test]
    fn small_tables_wait_together_and_large_ones_alone() {
        let sizes = |sizes: &[i64]| -> Vec<Vec<i64>> {
            let groups = together(sizes.iter().copied().map(table).collect());
            groups.iter().map(|group| group.iter().map(|table| table.bytes).collect()).collect()
        };
        let (large, half) = (TOGETHER_BYTES + 1, TOGETHER_BYTES / 2);
        assert_eq!(sizes(&[large, large, half, half, 8192, 0]), [&[large][..], &[large], &[half, half], &[8192, 0]]);
        assert_eq!(sizes(&[]), Vec::<Vec<i64>>::new());
        let empty = sizes(&[0; TOGETHER + 1]);
        assert_eq!((empty[0].len(), empty[1].len()), (TOGETHER, 1), "a marker's way is not waited for without end");
    }
}
