//! Removes what carried the old direction.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::hot::databases;
use crate::{
    pg::Side,
    replicate::{slot, subscription},
    world::{Cx, World},
};

/// Drops the old direction's subscriptions and slots, and the audit's slots. Going back makes new ones.
pub struct RetireForward {
    /// The side that served.
    pub from: Side,
}

impl Step<World> for RetireForward {
    type Output = ();
    const NAME: StepName = StepName("switchover.retire_forward");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        format!("remove the slots and subscriptions that led from the {}", self.from)
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let (from, to) = (cx.world.cluster(self.from), cx.world.cluster(self.from.other()));
        for database in databases(cx)?.0 {
            let name = cx.world.stream(self.from, &database);
            subscription::drop_subscription(&*to.db(&database.name).await?, &name).await?;
            slot::drop_slot(from, &database.name, &name).await?;
            slot::drop_slot(from, &database.name, &cx.world.audit_slot(&database)).await?;
        }
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
