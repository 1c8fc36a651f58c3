//! Lets the target apply.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::subscription;
use crate::{
    pg::{Side, ident},
    provision::{PrepareDatabases, ProveCopy},
    replicate::AdvanceOrigins,
    world::{Cx, World},
};

/// Enables the subscriptions; the boundary's proof and the origins' positions are in the journal by then.
pub struct EnableSubscriptions;

impl Step<World> for EnableSubscriptions {
    type Output = ();
    const NAME: StepName = StepName("replicate.enable_subscriptions");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        "enable the subscriptions".to_owned()
    }

    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<()>, StepError> {
        let databases = cx.output::<PrepareDatabases>()?.databases;
        let mut enabled = 0;
        for database in &databases {
            let session = cx.world.target.db(&database.name).await?;
            let state = subscription::state(&session, &cx.world.stream(Side::Source, database)).await?;
            enabled += usize::from(state.is_some_and(|s| s.enabled));
        }
        Ok(match enabled {
            0 => Observed::Absent,
            n if n == databases.len() => Observed::Done(()),
            n => Observed::Partial(format!("{n} of {} are enabled", databases.len())),
        })
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        cx.output::<ProveCopy>()?;
        let boundary = cx.output::<AdvanceOrigins>()?;
        for database in cx.output::<PrepareDatabases>()?.databases {
            let session = cx.world.target.db(&database.name).await?;
            let name = cx.world.stream(Side::Source, &database);
            if subscription::state(&session, &name).await?.is_some_and(|state| state.enabled) {
                continue;
            }
            // moving an origin waits for no disk: a target that crashed since has forgotten it, and would start at the slot
            subscription::advance(&session, &name, boundary).await?;
            session.batch(&format!("ALTER SUBSCRIPTION {} ENABLE", ident::quote(&name))).await?;
        }
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let Some(facts) = cx.try_output::<PrepareDatabases>()? else { return Ok(()) };
        for database in facts.databases {
            let Ok(session) = cx.world.target.db(&database.name).await else { return Ok(()) };
            subscription::disable(&session, &cx.world.stream(Side::Source, &database)).await?;
        }
        Ok(())
    }
}
