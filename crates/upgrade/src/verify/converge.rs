//! Compares every table while writes go on: what differs is looked at again once the target is past the source's snapshot.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use futures::{StreamExt, TryStreamExt, future::try_join, stream};
use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    compare::{Before, Pair, Status, TableResult, judge, pair, result},
    fingerprint::{Method, PINNED, Table, UNHURRIED, differing, rows, tables},
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
    let mut all = Comparison::default();
    for database in databases {
        let (writer, follower) = try_join(
            reading_session(cx.world, from, &database.name),
            reading_session(cx.world, from.other(), &database.name),
        )
        .await?;
        let tables = tables(&writer, &follower, &cx.world.publication()).await?;
        drop((writer, follower));
        let (total, done) = (tables.len() as u64, AtomicU64::new(0));
        let compare = async |table: &Table| -> Result<TableResult, StepError> {
            let result = compare_one(cx.world, from, &database.name, table).await?;
            let health = health::look(cx.world, from, databases).await?;
            #[expect(clippy::cast_precision_loss, reason = "a chart's value")]
            cx.sample("lag_bytes", health.lag_bytes as f64);
            cx.progress(Progress {
                text: format!("comparing database `{}`", database.name),
                done: Some(done.fetch_add(1, Ordering::Relaxed) + 1),
                total: Some(total),
                unit: "tables",
                ..Progress::default()
            });
            Ok(result)
        };
        // each job takes one core of each side in turn: clients need them more
        let jobs = cx.world.config.budgets.verify_jobs as usize;
        let comparisons: Vec<_> = tables.iter().map(compare).collect();
        let results: Vec<_> = stream::iter(comparisons).buffer_unordered(jobs).try_collect().await?;
        all.tables.extend(results);
    }
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

async fn compare_one(world: &World, from: Side, database: &str, table: &Table) -> Result<TableResult, PgError> {
    let writer = &reading_session(world, from, database).await?;
    let follower = &reading_session(world, from.other(), database).await?;
    let arrival = Before::Arrival { from, writer, follower };
    let mut table = table.clone();
    let mut latest = pair(writer, follower, &table, None, arrival).await?;
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
