//! Fixes the boundary: the log position at which the copy ends and the stream begins.

use futures::future::try_join_all;
use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};

use super::PrepareDatabases;
use crate::{
    pg::{Lsn, Side, marker},
    world::{Cx, World},
};

/// Chooses the boundary B, after the copy was taken.
///
/// Every slot is first moved up to the present (all before it is in the copy already), which frees the log that the copy's
/// duration held back and leaves only the neighbourhood of B to decode for the proof. A marker is then written before
/// B and another after it in every database: the proof has a transaction on each side, and recovery on an idle source
/// finds a record to stop at.
pub struct FixBoundary;

/// The boundary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boundary {
    /// Recovery replays what starts before it, the stream delivers what commits at or after it.
    pub lsn: Lsn,
    /// Every position of interest was written by then: up to here the proof decodes.
    pub seen_until: Lsn,
}

const MOVE_SLOT: &str = "
    SELECT end_lsn::text FROM pg_catalog.pg_replication_slot_advance($1, pg_catalog.pg_current_wal_flush_lsn())";
const INSERT_LSN: &str = "SELECT pg_catalog.pg_current_wal_insert_lsn()::text";

/// Parses a log position that a server answered.
///
/// # Errors
/// Blocked, if it is none.
pub fn parse_lsn(text: &str) -> Result<Lsn, StepError> {
    text.parse()
        .map_err(|e: crate::pg::lsn::ParseLsnError| StepError::blocked(e.to_string(), "this is a bug: report it"))
}

impl Step<World> for FixBoundary {
    type Output = Boundary;
    const NAME: StepName = StepName("provision.fix_boundary");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "fix the boundary: the log position where the copy ends and the stream begins".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Boundary>, StepError> {
        // a boundary that is not in the journal was used by nobody
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Boundary, StepError> {
        let source = &cx.world.source;
        let databases = cx.output::<PrepareDatabases>()?.databases;
        let mark_all = async || {
            try_join_all(
                databases
                    .iter()
                    .map(async |database| marker::write(&*source.db(&database.name).await?, Side::Source).await),
            )
            .await
        };
        for database in &databases {
            let slot = cx.world.stream(Side::Source, database);
            source.db(&database.name).await?.query_one(MOVE_SLOT, &[&slot]).await?;
        }
        mark_all().await?;
        let session = source.db(&cx.world.config.source.database).await?;
        let lsn = parse_lsn(session.query_one(INSERT_LSN, &[]).await?.get(0))?;
        mark_all().await?;
        let seen_until = parse_lsn(session.query_one(INSERT_LSN, &[]).await?.get(0))?;
        cx.note(format!("the boundary is {lsn}"));
        Ok(Boundary { lsn, seen_until })
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
