//! Makes sure, before the pause, that every pooler's configuration can be rewritten.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::hot::{databases, entries_leading_to};
use crate::{
    pg::Side,
    readers::all_ways,
    world::{Cx, World},
};

/// Computes the new configurations and replaces each file by itself.
pub struct RehearseRepoint {
    /// The side that serves.
    pub from: Side,
}

/// Rewrites every pooler's configuration on trial.
///
/// # Errors
/// Blocked, if one could not be rewritten.
pub async fn rehearse(cx: &Cx<'_>, from: Side) -> Result<(), StepError> {
    let world = cx.world;
    let (_, names) = databases(cx)?;
    let entries = entries_leading_to(world, from, &names).await?;
    world.route.rehearse(&entries, &all_ways(world, from)).await
}

impl Step<World> for RehearseRepoint {
    type Output = ();
    const NAME: StepName = StepName("switchover.rehearse_repoint");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "rehearse the rewrite of every pooler's configuration".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        rehearse(cx, self.from).await
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
