//! Makes the slots through which the fence is audited when silence alone cannot prove it.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::hot::databases;
use crate::{
    pg::Side,
    replicate::slot,
    world::{Cx, World},
};

/// Creates one logical slot for each database on the side that serves, read by nobody but the audit.
pub struct CreateAuditSlots {
    /// The side that serves.
    pub from: Side,
}

impl Step<World> for CreateAuditSlots {
    type Output = ();
    const NAME: StepName = StepName("switchover.create_audit_slots");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        format!("create the slots that show who wrote to the {} past the fence", self.from)
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        for database in databases(cx)?.0 {
            let name = cx.world.audit_slot(&database);
            let budget = cx.world.config.budgets.slot_creation;
            slot::create(cx.world.cluster(self.from), &database.name, &name, budget).await?;
        }
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        for database in databases(cx)?.0 {
            slot::drop_slot(cx.world.cluster(self.from), &database.name, &cx.world.audit_slot(&database)).await?;
        }
        Ok(())
    }
}
