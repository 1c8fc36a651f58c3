//! Which statistics of the source the upgraded copy lacks, after everything was analyzed.

use std::time::Duration;

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};

use crate::{
    provision::PrepareDatabases,
    world::{Cx, World},
};

/// Compares, by name, the statistics that the source's planner has with those of the upgraded copy's.
///
/// The source went on since the copy was made: what the copy does not have, or has no rows of, is not missed.
pub struct CompareStatistics;

/// A table of which the source's planner knows more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lacking {
    /// Where it is.
    pub database: String,
    /// The table, as ANALYZE takes it.
    pub table: String,
    /// What of it: columns, those of its children too, expressions of indexes, extended statistics.
    pub statistics: Vec<String>,
}

/// Catalogs of very many tables take seconds.
const BUDGET: Duration = Duration::from_secs(300);

/// What the source has: columns by relation, and extended statistics, which have none here. It is one value, however much it is,
/// as it only goes to the other side.
fn has(major: u16) -> String {
    // 13 has no statistics of expressions without an index
    let expressions = match major {
        ..14 => "",
        _ => {
            "UNION SELECT statistics_schemaname, statistics_name, NULL, NULL
               FROM pg_catalog.pg_stats_ext_exprs WHERE null_frac IS NOT NULL"
        }
    };
    format!(
        "SELECT coalesce(pg_catalog.json_agg(s), '[]')::text
           FROM (SELECT schemaname AS schema, tablename AS name, inherited, pg_catalog.array_agg(attname) AS columns
                   FROM pg_catalog.pg_stats GROUP BY 1, 2, 3
                 UNION ALL
                (SELECT statistics_schemaname, statistics_name, NULL::bool, NULL::name[] FROM pg_catalog.pg_stats_ext
                  WHERE n_distinct IS NOT NULL OR dependencies IS NOT NULL OR most_common_vals IS NOT NULL
                 {expressions})) AS s
          WHERE schema !~ '^pg_' AND schema NOT IN ('information_schema', 'pgleap')"
    )
}

/// What of it is not there. `reltuples` is 0 where ANALYZE found no rows, and -1 where it never looked; inherited statistics
/// are of children's rows. Before 15 extended statistics have their row of data from the beginning: none is missed there.
const LACKS: &str = "
    WITH source AS (
      SELECT n.oid AS namespace, s.schema, s.name, s.inherited, s.columns
        FROM pg_catalog.json_to_recordset($1::text::json) AS s (schema text, name text, inherited bool, columns text[])
        JOIN pg_catalog.pg_namespace AS n ON n.nspname = s.schema),
    lacks AS (
      SELECT coalesce(i.indrelid, c.oid) AS relation,
             CASE WHEN i.indexrelid IS NOT NULL THEN pg_catalog.format('index %I: ', c.relname)
                  WHEN s.inherited THEN 'inherited: ' ELSE 'columns: ' END || a.columns AS what
        FROM source AS s JOIN pg_catalog.pg_class AS c ON c.relnamespace = s.namespace AND c.relname = s.name
        LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid = c.oid
       CROSS JOIN LATERAL (
             SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns
               FROM pg_catalog.pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attname = ANY (s.columns) AND NOT EXISTS (
                    SELECT FROM pg_catalog.pg_statistic AS t
                     WHERE t.starelid = c.oid AND t.staattnum = a.attnum AND t.stainherit = s.inherited)) AS a
       WHERE a.columns IS NOT NULL
         AND CASE WHEN s.inherited THEN EXISTS (
                       SELECT FROM pg_catalog.pg_inherits AS h JOIN pg_catalog.pg_class AS child ON child.oid = h.inhrelid
                        WHERE h.inhparent = c.oid AND child.reltuples <> 0)
                  ELSE c.reltuples <> 0 END
      UNION ALL
      SELECT e.stxrelid, pg_catalog.format('extended: %I.%I', s.schema, s.name)
        FROM source AS s JOIN pg_catalog.pg_statistic_ext AS e ON e.stxnamespace = s.namespace AND e.stxname = s.name
        JOIN pg_catalog.pg_class AS c ON c.oid = e.stxrelid
       WHERE s.columns IS NULL AND c.reltuples <> 0
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_statistic_ext_data AS d WHERE d.stxoid = e.oid))
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.array_agg(l.what ORDER BY l.what COLLATE \"C\")
      FROM lacks AS l JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     GROUP BY n.nspname, c.relname ORDER BY n.nspname, c.relname";

impl Step<World> for CompareStatistics {
    type Output = Vec<Lacking>;
    const NAME: StepName = StepName("twin.compare_statistics");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "compare the upgraded copy's statistics with the source's".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Vec<Lacking>>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Vec<Lacking>, StepError> {
        let facts = cx.output::<PrepareDatabases>()?;
        let has = has(facts.major());
        let mut lacking = Vec::new();
        for database in facts.names() {
            let source = cx.world.source.look(&database, BUDGET).await?;
            let known: String = source.query_one(&has, &[]).await?.get(0);
            let target = cx.world.target.look(&database, BUDGET).await?;
            let lacks = target.query(LACKS, &[&known]).await?;
            lacking.extend(lacks.iter().map(|row| Lacking {
                database: database.clone(),
                table: row.get(0),
                statistics: row.get(1),
            }));
        }
        Ok(lacking)
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
