//! Loads into the other side's cache what the serving side has in its own.
//!
//! The target was made of the source's files, so a block of a table or an index has the same number on both, until one of
//! them is rewritten (VACUUM FULL, REINDEX): then other pages are loaded, which harms nobody. Tables are matched by name,
//! as file numbers change. System catalogs are not: they differ between major versions.
//!
//! `pg_buffercache` and `pg_prewarm` are needed where they may not be installed. They are created in a transaction that is
//! rolled back: nothing of them is left, also if this process or the server dies. Loaded pages stay.

use std::time::Duration;

use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::hot::databases;
use crate::{
    pg::{PgError, Session, Side, ident},
    world::{Cx, World},
};

/// Loads pages, the most used first if not all fit, as long as the budget lasts. A switchover goes on without it.
pub struct WarmCache {
    /// The side that serves.
    pub from: Side,
}

/// What was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmed {
    /// How many pages.
    pub pages: i64,
    /// How many the serving side's cache held, that the other side's has room for.
    pub of: i64,
    /// Why it was not all, a line each.
    pub left_out: Vec<String>,
    /// Which extension is not to be had: nothing was loaded.
    pub missing: Option<String>,
}

/// What the cache of the side that follows may be filled to: applying rows needs some of it.
const SHARE: f64 = 0.9;
/// 16 GiB: what is known of each page is held in memory, and the most used are the most of what is asked for.
const MOST_PAGES: i64 = 2 << 20;
/// One statement loads about so many pages; between two the budget is looked at.
const BATCH_PAGES: i64 = 4096;

const EXTENSION: &str = "
    SELECT a.default_version IS NOT NULL,
           (SELECT n.nspname::text FROM pg_catalog.pg_extension AS e
              JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = $1)
      FROM (VALUES (1)) AS one LEFT JOIN pg_catalog.pg_available_extensions AS a ON a.name = $1";

const ROOM: &str = "SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'shared_buffers'";

/// `$BUFFERS` is the view. Pages in a row are one line: schema, name, fork, first and last block.
const CACHED: &str = "
    WITH hot AS (
        SELECT n.nspname, c.relname, b.relforknumber, b.relblocknumber
          FROM $BUFFERS AS b
          JOIN pg_catalog.pg_class AS c ON b.relfilenode = pg_catalog.pg_relation_filenode(c.oid)
               AND b.reltablespace = CASE c.reltablespace WHEN 0 THEN (
                   SELECT dattablespace FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
                   ELSE c.reltablespace END
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE b.reldatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
           AND b.relforknumber IN (0, 1, 2) AND c.relkind IN ('r', 'i', 't', 'm') AND c.relpersistence = 'p'
           AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgleap')
           AND (n.nspname <> 'pg_toast' OR c.oid >= 16384)
         ORDER BY b.usagecount DESC LIMIT $1),
    rows AS (
        SELECT *, relblocknumber - row_number() OVER (
                      PARTITION BY nspname, relname, relforknumber ORDER BY relblocknumber) AS island
          FROM hot)
    SELECT nspname::text, relname::text, CASE relforknumber WHEN 1 THEN 'fsm' WHEN 2 THEN 'vm' ELSE 'main' END,
           min(relblocknumber), max(relblocknumber)
      FROM rows GROUP BY nspname, relname, relforknumber, island ORDER BY 1, 2, 3, 4";

/// `$SCHEMA` is where pg_prewarm is. What is not there, or is shorter, is passed over.
const LOAD: &str = "
    SELECT coalesce(sum($SCHEMA.pg_prewarm(c.oid::regclass, 'buffer', r.fork, r.first, least(r.last, size.blocks - 1))), 0)::bigint
      FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS r (schema, name, fork, first, last)
      JOIN pg_catalog.pg_namespace AS n ON n.nspname = r.schema
      JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = r.name
     CROSS JOIN LATERAL (
           SELECT pg_catalog.pg_relation_size(c.oid, r.fork) / pg_catalog.current_setting('block_size')::bigint) AS size (blocks)
     WHERE c.relkind IN ('r', 'i', 't', 'm') AND r.first < size.blocks";

/// Pages in a row.
struct Run {
    schema: String,
    name: String,
    fork: String,
    first: i64,
    last: i64,
}

impl Run {
    fn pages(&self) -> i64 {
        self.last - self.first + 1
    }
}

/// Begins a transaction in which `extension` is there, and returns its schema, quoted; none if the server cannot have it.
async fn borrow(session: &Session, extension: &str) -> Result<Option<String>, PgError> {
    let row = session.query_one(EXTENSION, &[&extension]).await?;
    match row.get::<_, Option<String>>(1) {
        Some(schema) => {
            session.batch("BEGIN").await?;
            Ok(Some(ident::quote(&schema)))
        }
        None if row.get(0) => {
            session.batch(&format!("BEGIN; CREATE EXTENSION {} WITH SCHEMA pgleap", ident::quote(extension))).await?;
            Ok(Some("pgleap".to_owned()))
        }
        None => Ok(None),
    }
}

/// Returns what the serving side has in its cache of one database, as much of it as there is room for.
async fn cached(session: &Session, room: i64) -> Result<Option<Vec<Run>>, PgError> {
    let Some(schema) = borrow(session, "pg_buffercache").await? else { return Ok(None) };
    let rows = session.query(&CACHED.replace("$BUFFERS", &format!("{schema}.pg_buffercache")), &[&room]).await?;
    session.batch("ROLLBACK").await?;
    let run = |row: &tokio_postgres::Row| Run {
        schema: row.get(0),
        name: row.get(1),
        fork: row.get(2),
        first: row.get(3),
        last: row.get(4),
    };
    Ok(Some(rows.iter().map(run).collect()))
}

/// Splits runs into batches of about [`BATCH_PAGES`].
fn batches(runs: Vec<Run>) -> Vec<Vec<Run>> {
    let mut batches: Vec<Vec<Run>> = Vec::new();
    let mut room = 0;
    for mut run in runs {
        loop {
            if room <= 0 {
                batches.push(Vec::new());
                room = BATCH_PAGES;
            }
            let Some(batch) = batches.last_mut() else { break };
            let last = run.last.min(run.first + room - 1);
            room -= last - run.first + 1;
            batch.push(Run {
                schema: run.schema.clone(),
                name: run.name.clone(),
                fork: run.fork.clone(),
                first: run.first,
                last,
            });
            if last == run.last {
                break;
            }
            run.first = last + 1;
        }
    }
    batches
}

async fn load(session: &Session, sql: &str, batch: &[Run]) -> Result<i64, PgError> {
    let texts = |of: fn(&Run) -> &str| batch.iter().map(of).collect::<Vec<_>>();
    let (schemas, names, forks) = (texts(|run| &run.schema), texts(|run| &run.name), texts(|run| &run.fork));
    let (firsts, lasts): (Vec<_>, Vec<_>) = batch.iter().map(|run| (run.first, run.last)).unzip();
    Ok(session.query_one(sql, &[&schemas, &names, &forks, &firsts, &lasts]).await?.get(0))
}

async fn fill(cx: &Cx<'_>, from: Side, deadline: Instant) -> Result<Warmed, StepError> {
    let (source, target) = (cx.world.cluster(from), cx.world.cluster(from.other()));
    let mut warmed = Warmed::default();
    let mut room = None;
    for database in databases(cx)?.0 {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            warmed.left_out.push(format!("database `{}`: the budget is over", database.name));
            continue;
        }
        // connections of their own: what is begun on them ends with them, whatever happens
        let (here, there) = (source.open(&database.name, left).await?, target.open(&database.name, left).await?);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "a share of a number of pages"
        )]
        let pages = async || -> Result<i64, PgError> {
            Ok((there.query_one(ROOM, &[]).await?.get::<_, i64>(0) as f64 * SHARE) as i64)
        };
        let free = match room {
            Some(room) => room,
            None => pages().await?.min(MOST_PAGES),
        };
        let Some(runs) = cached(&here, free).await? else {
            warmed.missing = Some(format!("the {from}'s PostgreSQL has no extension `pg_buffercache`"));
            break;
        };
        let there_are: i64 = runs.iter().map(Run::pages).sum();
        room = Some(free - there_are);
        warmed.of += there_are;
        let Some(schema) = borrow(&there, "pg_prewarm").await? else {
            warmed.missing = Some(format!("the {}'s PostgreSQL has no extension `pg_prewarm`", from.other()));
            break;
        };
        let sql = LOAD.replace("$SCHEMA", &schema);
        for batch in batches(runs) {
            if Instant::now() >= deadline {
                warmed.left_out.push(format!("database `{}`: the budget is over", database.name));
                break;
            }
            warmed.pages += load(&there, &sql, &batch).await?;
            cx.progress(Progress {
                text: format!("warming the cache for database `{}`", database.name),
                done: u64::try_from(warmed.pages).ok(),
                total: u64::try_from(warmed.of).ok(),
                unit: "pages",
                ..Progress::default()
            });
        }
        there.batch("ROLLBACK").await?;
    }
    Ok(warmed)
}

/// Warms the cache; what fails is told, and keeps nobody from anything.
pub async fn warm(cx: &Cx<'_>, from: Side) -> Warmed {
    let budget = cx.world.config.budgets.warm_cache;
    if budget.is_zero() {
        return Warmed::default();
    }
    let warmed = match tokio::time::timeout(budget + GRACE, fill(cx, from, Instant::now() + budget)).await {
        Ok(Ok(warmed)) => warmed,
        Ok(Err(error)) => Warmed { left_out: vec![error.to_string()], ..Warmed::default() },
        Err(_) => Warmed { left_out: vec!["the budget is over".to_owned()], ..Warmed::default() },
    };
    for why in &warmed.left_out {
        cx.warn(format!("the {}'s cache is not as warm as the {from}'s: {why}", from.other()));
    }
    warmed
}

/// A statement that is under way when the budget ends is cancelled by the server first.
const GRACE: Duration = Duration::from_secs(2);

impl Step<World> for WarmCache {
    type Output = Warmed;
    const NAME: StepName = StepName("switchover.warm_cache");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        format!("load into the {}'s cache what the {} has in its own", self.from.other(), self.from)
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Warmed>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Warmed, StepError> {
        let warmed = warm(cx, self.from).await;
        match &warmed.missing {
            Some(missing) => cx.note(format!("the cache stays cold: {missing}, which comes with its contrib package")),
            None => cx.note(format!("{} of {} pages", warmed.pages, warmed.of)),
        }
        Ok(warmed)
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_page_once_and_none_is_large() {
        let run = |first, last| Run { schema: "s".into(), name: "t".into(), fork: "main".into(), first, last };
        let made = batches(vec![run(0, 9999), run(20_000, 20_000), run(30_000, 34_000)]);
        let sizes: Vec<i64> = made.iter().map(|batch| batch.iter().map(Run::pages).sum()).collect();
        assert_eq!(sizes, [4096, 4096, 4096, 1714]);
        let mut at = Vec::new();
        made.iter().flatten().for_each(|run| at.extend(run.first..=run.last));
        let expected: Vec<i64> = (0..10_000).chain([20_000]).chain(30_000..34_001).collect();
        assert_eq!(at, expected);
        assert!(batches(Vec::new()).is_empty());
    }
}
