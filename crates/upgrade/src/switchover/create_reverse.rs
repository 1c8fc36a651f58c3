//! Prepares reverse replication before the pause: slots on the side that will serve, disabled subscriptions on the other.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::hot::databases;
use crate::{
    pg::Side,
    replicate::{slot, subscription},
    world::{Cx, World},
};

/// Creates the reverse slots.
pub struct CreateReverseSlots {
    /// The side that serves.
    pub from: Side,
}

/// Creates the reverse subscriptions, disabled; that they can be made proves the way back.
pub struct CreateReverseSubscriptions {
    /// The side that serves.
    pub from: Side,
}

impl Step<World> for CreateReverseSlots {
    type Output = ();
    const NAME: StepName = StepName("switchover.create_reverse_slots");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        format!("create the slots of reverse replication on the {}", self.from.other())
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let to = self.from.other();
        for database in databases(cx)?.0 {
            let name = cx.world.stream(to, &database);
            let budget = cx.world.config.budgets.slot_creation;
            slot::create(cx.world.cluster(to), &database.name, &name, budget).await?;
        }
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let to = self.from.other();
        for database in databases(cx)?.0 {
            slot::drop_slot(cx.world.cluster(to), &database.name, &cx.world.stream(to, &database)).await?;
        }
        Ok(())
    }
}

impl Step<World> for CreateReverseSubscriptions {
    type Output = ();
    const NAME: StepName = StepName("switchover.create_reverse_subscriptions");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        format!("create the subscriptions of reverse replication on the {}, disabled", self.from)
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        for database in databases(cx)?.0 {
            subscription::create(cx.world, self.from.other(), &database).await?;
        }
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        for database in databases(cx)?.0 {
            let session = cx.world.cluster(self.from).db(&database.name).await?;
            subscription::drop_subscription(&session, &cx.world.stream(self.from.other(), &database)).await?;
        }
        Ok(())
    }
}
