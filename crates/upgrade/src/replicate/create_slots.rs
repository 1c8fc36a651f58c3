//! Reserves the source's log from now on, one slot for each database, before the copy is taken.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::slot;
use crate::{
    pg::Side,
    provision::PrepareDatabases,
    world::{Cx, World},
};

/// Creates the slots. Their names hold the upgrade's id: one that is found is ours, and adopting it is safe.
pub struct CreateSlots;

impl Step<World> for CreateSlots {
    type Output = ();
    const NAME: StepName = StepName("replicate.create_slots");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        "create a logical replication slot for each database on the source".to_owned()
    }

    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<()>, StepError> {
        let databases = cx.output::<PrepareDatabases>()?.databases;
        let mut there = 0;
        for database in &databases {
            let session = cx.world.source.db(&database.name).await?;
            let state = slot::state(&session, &cx.world.stream(Side::Source, database)).await?;
            there += usize::from(state.is_some_and(|slot| slot.confirmed.is_some()));
        }
        Ok(match there {
            0 => Observed::Absent,
            n if n == databases.len() => Observed::Done(()),
            n => Observed::Partial(format!("{n} of {} slots are there", databases.len())),
        })
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let budget = cx.world.config.budgets.slot_creation;
        for database in cx.output::<PrepareDatabases>()?.databases {
            let name = cx.world.stream(Side::Source, &database);
            slot::create(&cx.world.source, &database.name, &name, budget).await?;
        }
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let Some(facts) = cx.try_output::<PrepareDatabases>()? else { return Ok(()) };
        for database in facts.databases {
            let name = cx.world.stream(Side::Source, &database);
            slot::drop_slot(&cx.world.source, &database.name, &name).await?;
        }
        Ok(())
    }
}
