//! Checks a sample of the upgraded copy's indexes with amcheck.

use std::time::Duration;

use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use crate::{
    provision::PrepareDatabases,
    world::{Cx, World},
};

/// Checks B-tree indexes for as long as is given: those that depend on a collation of the system first, then the largest.
pub struct CheckIndexes {
    /// How long.
    pub within: Duration,
}

/// What the checks said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// How many indexes were checked.
    pub checked: usize,
    /// How many there are.
    pub all: usize,
    /// What is wrong, a line each.
    pub wrong: Vec<String>,
    /// Why none was checked.
    pub missing: Option<String>,
}

const INDEXES: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.oid
      FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_catalog.pg_am AS a ON a.oid = c.relam
     WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisvalid AND i.indisready
       AND n.nspname !~ '^pg_'
     ORDER BY EXISTS (SELECT FROM unnest(i.indcollation::oid[]) AS of
                        JOIN pg_catalog.pg_collation AS l ON l.oid = of WHERE l.collname NOT IN ('C', 'POSIX', 'ucs_basic')) DESC,
              c.relpages DESC, 1";
const CHECK: &str = "SELECT public.bt_index_check($1::oid::regclass, true)";
const HAS: &str = "SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'";

impl Step<World> for CheckIndexes {
    type Output = Checked;
    const NAME: StepName = StepName("twin.check_indexes");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        format!("check the upgraded copy's indexes with amcheck, for at most {} s", self.within.as_secs())
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Checked>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Checked, StepError> {
        let until = Instant::now() + self.within;
        let mut seen = Checked { checked: 0, all: 0, wrong: Vec::new(), missing: None };
        for database in cx.output::<PrepareDatabases>()?.names() {
            let session = cx.world.target.open(&database, self.within + Duration::from_secs(5)).await?;
            if session.query(HAS, &[]).await?.is_empty() {
                seen.missing = Some("the target's installation has no amcheck".to_owned());
                continue;
            }
            // nobody else will ever see this cluster; where the extension already is does not matter then
            session.batch("DROP EXTENSION IF EXISTS amcheck; CREATE SCHEMA IF NOT EXISTS public; CREATE EXTENSION amcheck SCHEMA public").await?;
            let indexes = session.query(INDEXES, &[]).await?;
            seen.all += indexes.len();
            for row in &indexes {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                session.batch(&format!("SET statement_timeout = {}", left.as_millis().max(1))).await?;
                let name: String = row.get(0);
                match session.query(CHECK, &[&row.get::<_, u32>(1)]).await {
                    Ok(_) => seen.checked += 1,
                    Err(error) if error.sqlstate() == Some(&SqlState::QUERY_CANCELED) => break,
                    Err(error) if error.is_transient() => return Err(error.into()),
                    Err(error) => {
                        seen.checked += 1;
                        seen.wrong.push(format!("`{name}` in `{database}`: {}", error.reason().unwrap_or_default()));
                    }
                }
                cx.progress(Progress {
                    text: format!("checking indexes of `{database}`"),
                    done: Some(seen.checked as u64),
                    total: Some(seen.all as u64),
                    unit: "indexes",
                    ..Progress::default()
                });
            }
        }
        Ok(seen)
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
