//! Rebuilds the target's indexes that were sorted by another libc or ICU than it has, before changes are applied by them.

use std::{collections::BTreeMap, time::Duration};

use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName};

use super::{PrepareDatabases, StartTarget};
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

/// Collations that indexes are sorted by, and partitions bound by, with the version by which this server sorts. That of the database
/// has the oid 100 and an empty name, and `{default}` is its version.
const IN_USE: &str = "
    SELECT c.oid, CASE WHEN c.oid = 100 THEN '' ELSE pg_catalog.format('%I.%I', n.nspname, c.collname) END AS name,
           c.collencoding, CASE WHEN c.oid = 100 THEN {default} ELSE pg_catalog.pg_collation_actual_version(c.oid) END AS version
      FROM (SELECT u.oid FROM pg_catalog.pg_index AS x CROSS JOIN LATERAL unnest(x.indcollation) AS u (oid)
             WHERE x.indexrelid >= 16384
             UNION
            SELECT u.oid FROM pg_catalog.pg_partitioned_table AS p CROSS JOIN LATERAL unnest(p.partcollation) AS u (oid)) AS used
      JOIN pg_catalog.pg_collation AS c ON c.oid = used.oid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.collnamespace";

/// What the source sorts by now, and what it remembers of when indexes were built: `{remembered}` for the database itself.
const BY_SOURCE: &str = "
    SELECT DISTINCT v FROM pg_catalog.pg_collation AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.collnamespace
     CROSS JOIN LATERAL unnest(CASE WHEN c.oid = 100 THEN ARRAY[{default}, {remembered}]
                               ELSE ARRAY[pg_catalog.pg_collation_actual_version(c.oid), c.collversion] END) AS v
     WHERE CASE WHEN c.oid = 100 THEN '' ELSE pg_catalog.format('%I.%I', n.nspname, c.collname) END = $1
       AND c.collencoding = $2 AND v IS NOT NULL";

/// From here on a server knows the version of a database's collation, and remembers it.
const KNOWN_SINCE: u32 = 150_000;
const KNOWN: &str = "
    (SELECT pg_catalog.pg_database_collation_actual_version(oid) FROM pg_catalog.pg_database
      WHERE datname = pg_catalog.current_database())";
const REMEMBERED: &str =
    "(SELECT datcollversion FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())";
/// Before that it is libc's, and any other collation of libc knows that.
const OF_LIBC: &str = "
    (SELECT max(pg_catalog.pg_collation_actual_version(l.oid)) FROM pg_catalog.pg_collation AS l
      WHERE l.collprovider = 'c' AND (SELECT datcollate !~* '^(C$|C\\.|POSIX$)' FROM pg_catalog.pg_database
                                       WHERE datname = pg_catalog.current_database()))";

fn of_database(sql: &str, version_num: u32) -> String {
    let known = version_num >= KNOWN_SINCE;
    let sql = sql.replace("{default}", if known { KNOWN } else { OF_LIBC });
    sql.replace("{remembered}", if known { REMEMBERED } else { "NULL" })
}

/// Indexes that hash by bytes, or compare them, have no order to lose.
const SORTED_BY: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.pg_relation_size(c.oid)
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind = 'i' AND c.oid IN (
           SELECT x.indexrelid
             FROM pg_catalog.pg_index AS x
            CROSS JOIN LATERAL unnest(x.indcollation::oid[], x.indclass::oid[]) AS u (sorted, class)
             JOIN pg_catalog.pg_collation AS l ON l.oid = u.sorted
             JOIN pg_catalog.pg_opclass AS o ON o.oid = u.class JOIN pg_catalog.pg_am AS m ON m.oid = o.opcmethod
            WHERE x.indexrelid >= 16384 AND l.oid = ANY($1::oid[]) AND o.opcname NOT LIKE '%pattern\\_ops'
              AND NOT (m.amname = 'hash' AND l.collisdeterministic))
     ORDER BY 2, 1";

/// Rows of these are where the source's order put them; a row that is applied there must be within the bounds by the target's.
const PARTITIONED_BY: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
      FROM pg_catalog.pg_partitioned_table AS p JOIN pg_catalog.pg_class AS c ON c.oid = p.partrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE p.partstrat = 'r' AND EXISTS (SELECT FROM unnest(p.partcollation) AS u (oid) WHERE u.oid = ANY($1::oid[])) ORDER BY 1";

/// Returns the collations of one database by which the target sorts otherwise: oid, and name as SQL writes it.
async fn changed(source: &Session, from: u32, target: &Session, to: u32) -> Result<BTreeMap<u32, String>, StepError> {
    let by_source = of_database(BY_SOURCE, from);
    let mut changed = BTreeMap::new();
    for row in target.query(&of_database(IN_USE, to), &[]).await? {
        let Some(now) = row.get::<_, Option<String>>(3) else { continue };
        let (oid, name, encoding): (u32, String, i32) = (row.get(0), row.get(1), row.get(2));
        let versions = source.query(&by_source, &[&name, &encoding]).await?;
        // one that the source does not tell may be any
        if versions.is_empty() || versions.iter().any(|row| row.get::<_, &str>(0) != now) {
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
        let to = cx.output::<StartTarget>()?.version_num;
        let mut rebuilt = Vec::new();
        for database in &facts.databases {
            let source = cx.world.source.db(&database.name).await?;
            let target = cx.world.target.open(&database.name, BUDGET).await?;
            let changed = changed(&source, facts.version_num, &target, to).await?;
            if changed.is_empty() {
                continue;
            }
            // no event trigger of the application's has a say here
            target.batch("SET lock_timeout = 0; SET session_replication_role = replica").await?;
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
                    "" if to < KNOWN_SINCE => continue,
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
