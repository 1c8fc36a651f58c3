//! Subscribes the target to the source's slots, disabled.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::subscription;
use crate::{
    pg::Side,
    provision::PrepareDatabases,
    world::{Cx, World},
};

/// Creates one subscription for each database on the target, disabled and without copying data.
pub struct CreateSubscriptions;

impl Step<World> for CreateSubscriptions {
    type Output = ();
    const NAME: StepName = StepName("replicate.create_subscriptions");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        "create a subscription for each database on the target, disabled, copying nothing".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        // `run` adopts what is there and compares the tables, which is the part that may not be skipped
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        for database in cx.output::<PrepareDatabases>()?.databases {
            subscription::create(cx.world, Side::Source, &database).await?;
        }
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let Some(facts) = cx.try_output::<PrepareDatabases>()? else { return Ok(()) };
        // the target goes with its directory: only what can still be reached must be told to stop reading the slots
        for database in facts.databases {
            match cx.world.target.db(&database.name).await {
                Ok(session) => {
                    subscription::drop_subscription(&session, &cx.world.stream(Side::Source, &database)).await?;
                }
                Err(error) => {
                    cx.note(format!("the target cannot be reached, so its subscriptions end with it: {error}"));
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
