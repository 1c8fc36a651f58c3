//! Gives the target's planner its statistics, while the target catches up.

use std::time::Duration;

use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName};

use crate::{
    provision::{PrepareDatabases, StartTarget},
    world::{Cx, World},
};

/// Analyzes what has no statistics: coarsely first, so that plans are sane early, then finely.
///
/// pg_upgrade brings statistics along from 18 on (not extended ones); before that everything is analyzed. Partitioned
/// parents, which autovacuum never analyzes, are among what is looked at; no parents of foreign tables, which would be read from
/// where they are.
pub struct Analyze;

const BUDGET: Duration = Duration::from_secs(24 * 3600);

const MISSING: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't'
       AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgleap')
       AND NOT (c.relhassubclass AND EXISTS (
                WITH RECURSIVE below (oid) AS (
                    SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = c.oid
                     UNION ALL
                    SELECT i.inhrelid FROM below AS b JOIN pg_catalog.pg_inherits AS i ON i.inhparent = b.oid)
                SELECT FROM below AS b JOIN pg_catalog.pg_class AS f ON f.oid = b.oid WHERE f.relkind = 'f'))
       AND (NOT EXISTS (SELECT FROM pg_catalog.pg_statistic AS s
                         WHERE s.starelid = c.oid AND s.stainherit = (c.relkind = 'p'))
         OR EXISTS (SELECT FROM pg_catalog.pg_statistic_ext AS e
                     WHERE e.stxrelid = c.oid AND NOT EXISTS (
                           SELECT FROM pg_catalog.pg_statistic_ext_data AS d WHERE d.stxoid = e.oid)))
     ORDER BY c.relpages, 1";

/// Statistics targets of the stages; the last is the server's own default.
const STAGES: [&str; 3] = ["1", "10", "DEFAULT"];

impl Step<World> for Analyze {
    /// How many tables were analyzed.
    type Output = usize;
    const NAME: StepName = StepName("replicate.analyze");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "analyze the target's tables that have no statistics".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<usize>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<usize, StepError> {
        let kept = cx.output::<StartTarget>()?.version_num >= 180_000;
        let mut analyzed = 0;
        for database in cx.output::<PrepareDatabases>()?.databases {
            let session = cx.world.target.open(&database.name, BUDGET).await?;
            session.batch("SET lock_timeout = 0").await?;
            let tables: Vec<String> = session.query(MISSING, &[]).await?.iter().map(|row| row.get(0)).collect();
            // where most statistics came along, only what lacks them is small enough to be done at once
            for stage in if kept { &STAGES[2..] } else { &STAGES[..] } {
                session.batch(&format!("SET default_statistics_target = {stage}")).await?;
                for (done, table) in tables.iter().enumerate() {
                    session.batch(&format!("ANALYZE {table}")).await?;
                    cx.progress(Progress {
                        text: format!("analyzing database `{}`, statistics target {stage}", database.name),
                        done: Some(done as u64 + 1),
                        total: Some(tables.len() as u64),
                        unit: "tables",
                        ..Progress::default()
                    });
                }
            }
            analyzed += tables.len();
        }
        Ok(analyzed)
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
