//! Moves each subscription's origin to the boundary.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::subscription;
use crate::{
    pg::{Lsn, Side},
    provision::{FixBoundary, PrepareDatabases},
    world::{Cx, World},
};

/// Advances the origins, after pg_upgrade, which empties and renames them; and only while nothing was applied.
pub struct AdvanceOrigins;

impl Step<World> for AdvanceOrigins {
    /// The boundary that every origin stands at.
    type Output = Lsn;
    const NAME: StepName = StepName("replicate.advance_origins");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "move the replication origins to the boundary".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Lsn>, StepError> {
        // moving a disabled origin to where it stands changes nothing; `run` looks at it afterwards
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Lsn, StepError> {
        let boundary = cx.output::<FixBoundary>()?.lsn;
        for database in cx.output::<PrepareDatabases>()?.databases {
            let session = cx.world.target.db(&database.name).await?;
            let name = cx.world.stream(Side::Source, &database);
            let state = subscription::state(&session, &name).await?;
            if state.is_some_and(|s| s.enabled || s.worker.is_some()) {
                return Err(StepError::blocked(
                    format!("subscription `{name}` is enabled before its origin was moved"),
                    "somebody enabled it: what it applied cannot be trusted; `pgleap unwind`, then `pgleap run`",
                ));
            }
            subscription::advance(&session, &name, boundary).await?;
        }
        Ok(boundary)
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
