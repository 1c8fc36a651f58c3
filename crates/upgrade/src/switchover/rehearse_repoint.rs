//! Makes sure, before the pause, that every pooler's configuration can be rewritten, and that the pooler can log in where it
//! will lead.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::hot::{databases, entries_leading_to};
use crate::{
    pg::Side,
    readers::{Admit, Ways},
    world::{Cx, World},
};

/// Computes the new configurations, replaces each file by itself, and lets each pooler log in at the new address.
pub struct RehearseRepoint {
    /// The side that serves.
    pub from: Side,
}

/// Rewrites every pooler's configuration on trial, and tries its logins.
///
/// # Errors
/// Blocked, if one could not be rewritten; fatal, if one cannot log in.
pub async fn rehearse(cx: &Cx<'_>, from: Side) -> Result<(), StepError> {
    let world = cx.world;
    let (_, names) = databases(cx)?;
    let entries = entries_leading_to(cx, from, &names).await?;
    let ways = Ways::of(cx, from)?;
    let all = ways.all(world, from);
    world.route.rehearse(&entries, &all).await?;
    // readers are there already, and the door is shut behind them for everybody else: it was tried before
    let admitted = !cx.plan_id().is_empty() && ways.readers_go_first(from) && cx.try_output::<Admit>()?.is_some();
    if admitted {
        return Ok(());
    }
    for who in world.route.try_logins(&entries, &all).await? {
        cx.note(format!("whether a pooler can log in is not known: {who}"));
    }
    Ok(())
}

impl Step<World> for RehearseRepoint {
    type Output = ();
    const NAME: StepName = StepName("switchover.rehearse_repoint");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "rehearse the rewrite of every pooler's configuration, and its logins at the other side".to_owned()
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
