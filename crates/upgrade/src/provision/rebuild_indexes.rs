//! Rebuilds the target's indexes that were sorted by another libc or ICU than it has, before changes are applied by them.

use std::{collections::BTreeMap, time::Duration};

use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName};

use super::PrepareDatabases;
use crate::{
    pg::{Session, ident},
    world::{Cx, World},
};

/// Compares the versions by which the source sorts, and by which it remembers to have sorted, with those of the target.
///
/// What pg_upgrade brings along is sorted as the source did. By such an index a row is not found where the order is another:
/// a change that is applied is lost without an error. What a collation of the target remembers is no measure, as those that
/// initdb makes remember the target's own.
pub struct RebuildIndexes;

/// A large index takes hours; this only ends what hangs.
const BUDGET: Duration = Duration::from_secs(3 * 24 * 3600);

/// Collations that indexes are sorted by, and partitions bound by. That of the database has the oid 100 and an empty name.
const IN_USE: &str = "
    SELECT c.oid, CASE WHEN c.oid = 100 THEN '' ELSE pg_catalog.format('%I.%I', n.nspname, c.collname) END,
           c.collencoding, pg_catalog.pg_collation_actual_version(c.oid)
      FROM (SELECT u.oid FROM pg_catalog.pg_index AS x CROSS JOIN LATERAL unnest(x.indcollation) AS u (oid)
             WHERE x.indexrelid >= 16384
             UNION
            SELECT u.oid FROM pg_catalog.pg_partitioned_table AS p CROSS JOIN LATERAL unnest(p.partcollation) AS u (oid)) AS used
      JOIN pg_catalog.pg_collation AS c ON c.oid = used.oid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.collnamespace
     WHERE pg_catalog.pg_collation_actual_version(c.oid) IS NOT NULL";

/// What the source sorts by now, and what it remembers of when indexes were built. `{remembered}` is that of the database itself,
/// from 15 on.
const BY_SOURCE: &str = "
    SELECT DISTINCT v FROM pg_catalog.pg_collation AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.collnamespace
     CROSS JOIN LATERAL unnest(ARRAY[pg_catalog.pg_collation_actual_version(c.oid), c.collversion, {remembered}]) AS v
     WHERE CASE WHEN c.oid = 100 THEN '' ELSE pg_catalog.format('%I.%I', n.nspname, c.collname) END = $1
       AND c.collencoding = $2 AND v IS NOT NULL";
const REMEMBERED: &str = "
    CASE WHEN c.oid = 100 THEN (SELECT datcollversion FROM pg_catalog.pg_database
                                 WHERE datname = pg_catalog.current_database()) END";
const REMEMBERED_SINCE: u32 = 150_000;

const SORTED_BY: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.pg_relation_size(c.oid)
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind = 'i' AND c.oid IN (
           SELECT x.indexrelid FROM pg_catalog.pg_index AS x CROSS JOIN LATERAL unnest(x.indcollation) AS u (oid)
            WHERE x.indexrelid >= 16384 AND u.oid = ANY($1::oid[]))
     ORDER BY 2, 1";

/// Rows of these are where the source's order put them; a row that is applied there must be within the bounds by the target's.
const PARTITIONED_BY: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
      FROM pg_catalog.pg_partitioned_table AS p JOIN pg_catalog.pg_class AS c ON c.oid = p.partrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE p.partstrat = 'r' AND EXISTS (SELECT FROM unnest(p.partcollation) AS u (oid) WHERE u.oid = ANY($1::oid[])) ORDER BY 1";

/// Returns the collations of one database by which the target sorts otherwise: oid, and name as SQL writes it.
async fn changed(source: &Session, target: &Session, version_num: u32) -> Result<BTreeMap<u32, String>, StepError> {
    let remembered = if version_num >= REMEMBERED_SINCE { REMEMBERED } else { "NULL" };
    let by_source = BY_SOURCE.replace("{remembered}", remembered);
    let mut changed = BTreeMap::new();
    for row in target.query(IN_USE, &[]).await? {
        let (oid, name, encoding, now): (u32, String, i32, String) = (row.get(0), row.get(1), row.get(2), row.get(3));
        let versions = source.query(&by_source, &[&name, &encoding]).await?;
        if versions.iter().any(|row| row.get::<_, &str>(0) != now) {
            changed.insert(oid, name);
        }
    }
    Ok(changed)
}

impl Step<World> for RebuildIndexes {
    /// `database.schema.index`, for each that was rebuilt.
    type Output = Vec<String>;
    const NAME: StepName = StepName("provision.rebuild_indexes");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "rebuild the target's indexes whose collation has another version there".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Vec<String>>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Vec<String>, StepError> {
        let facts = cx.output::<PrepareDatabases>()?;
        let mut rebuilt = Vec::new();
        for database in &facts.databases {
            let source = cx.world.source.db(&database.name).await?;
            let target = cx.world.target.open(&database.name, BUDGET).await?;
            let changed = changed(&source, &target, facts.version_num).await?;
            if changed.is_empty() {
                continue;
            }
            target.batch("SET lock_timeout = 0").await?;
            let oids: Vec<u32> = changed.keys().copied().collect();
            let indexes = target.query(SORTED_BY, &[&oids]).await?;
            let total: u64 = indexes.iter().filter_map(|row| u64::try_from(row.get::<_, i64>(1)).ok()).sum();
            let mut done = 0;
            for row in &indexes {
                let (index, bytes): (String, i64) = (row.get(0), row.get(1));
                target.batch(&format!("REINDEX INDEX {index}")).await?;
                done += u64::try_from(bytes).unwrap_or_default();
                cx.progress(Progress {
                    text: format!("rebuilding indexes of database `{}`", database.name),
                    done: Some(done),
                    total: Some(total),
                    unit: "bytes",
                    ..Progress::default()
                });
                rebuilt.push(format!("{}.{index}", database.name));
            }
            for row in target.query(PARTITIONED_BY, &[&oids]).await? {
                cx.warn(format!(
                    "table `{}` of database `{}` is partitioned by ranges in an order that the target does not have: a row that another \
                     partition should hold by now stops replication, or is not found",
                    row.get::<_, &str>(0),
                    database.name
                ));
            }
            // what it remembers is true again
            for name in changed.values() {
                let refresh = match name.as_str() {
                    "" => format!("ALTER DATABASE {} REFRESH COLLATION VERSION", ident::quote(&database.name)),
                    name => format!("ALTER COLLATION {name} REFRESH VERSION"),
                };
                target.batch(&refresh).await?;
            }
        }
        Ok(rebuilt)
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
