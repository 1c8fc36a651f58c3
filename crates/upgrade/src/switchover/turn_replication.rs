//! Turns replication round: the old direction ends, the new one begins.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName, fault_point};

use super::{
    carry_over::{CarriedOver, CarryOver},
    gather_poolers::gathering,
    hot::databases,
};
use crate::{
    pg::{Side, ident},
    replicate::subscription,
    world::{Cx, World},
};

/// Disables the forward subscriptions, then moves the reverse ones past what was applied, and enables them.
///
/// In this order: while both run, what one applies the other would send back (`origin = none` needs 16 on both sides).
pub struct TurnReplication {
    /// The side that served.
    pub from: Side,
}

impl Step<World> for TurnReplication {
    type Output = ();
    const NAME: StepName = StepName("switchover.turn_replication");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        format!("let the {} follow the {}", self.from, self.from.other())
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        gathering(cx, self.from, self.turn(cx)).await
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

impl TurnReplication {
    async fn turn(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let to = self.from.other();
        let databases = databases(cx)?.0;
        for database in &databases {
            let session = cx.world.cluster(to).db(&database.name).await?;
            subscription::disable(&session, &cx.world.stream(self.from, database)).await?;
        }
        fault_point!("switchover.turn_replication.between");
        let CarriedOver { reverse_from, .. } = cx.output::<CarryOver>()?;
        for database in &databases {
            let session = cx.world.cluster(self.from).db(&database.name).await?;
            let name = cx.world.stream(to, database);
            let enabled = subscription::state(&session, &name).await?.is_some_and(|state| state.enabled);
            if !enabled {
                subscription::advance(&session, &name, reverse_from).await?;
                session.batch(&format!("ALTER SUBSCRIPTION {} ENABLE", ident::quote(&name))).await?;
            }
        }
        Ok(())
    }
}
