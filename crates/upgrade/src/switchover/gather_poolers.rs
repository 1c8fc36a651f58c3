//! Sees that every pooler leads to the side that serves, also one that was lost on the way.

use std::time::Duration;

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::hot::{databases, pause};
use crate::{
    pg::Side,
    readers::{addresses_of, all_ways},
    world::{Cx, World},
};

/// Leads poolers there that were away when the others were moved. Their clients met the fence meanwhile, no writable server.
pub struct GatherPoolers {
    /// The side that served.
    pub from: Side,
}

/// How long a pooler that was lost is left alone before it is looked for again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long all of them are, once none is lost.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Leads poolers that lead to `from` to the other side; returns how many there were.
///
/// # Errors
/// Transient, naming those that cannot be led there yet.
async fn gather(cx: &Cx<'_>, from: Side) -> Result<usize, StepError> {
    let world = cx.world;
    let (_, names) = databases(cx)?;
    let ways = all_ways(cx, from)?;
    let (behind, unseen) = world.route.reachable_leading_to(&addresses_of(cx, from)?, &names).await;
    let late = behind.iter().filter(|entries| !entries.entries.is_empty()).count();
    // the side is open: nothing is to be waited for
    let pause = pause(cx, ways);
    let mut lost = world.route.move_clients(&behind, &pause, async { Ok(()) }, async {}).await?;
    lost.extend(unseen);
    if lost.is_empty() {
        return Ok(late);
    }
    let names: Vec<_> = lost.iter().map(ToString::to_string).collect();
    Err(StepError::transient(format!("{} of the poolers cannot be led to the {}", lost.len(), from.other()))
        .because(names.join("; ")))
}

/// Does `work`, however long it takes, and leads poolers that come back meanwhile to the side that serves: their clients are
/// refused until then. Who is not back by the end of it is the step's own matter.
pub async fn gathering<T>(cx: &Cx<'_>, from: Side, work: impl Future<Output = T>) -> T {
    let gathered = async {
        loop {
            // who was there may be lost after that, and come back with its old file
            let again = if gather(cx, from).await.is_err() { LOOK_EVERY } else { LOOK_AGAIN };
            tokio::time::sleep(again).await;
        }
    };
    tokio::select! {
        done = work => done,
        never = gathered => never,
    }
}

impl Step<World> for GatherPoolers {
    /// How many poolers had to be led there.
    type Output = usize;
    const NAME: StepName = StepName("switchover.gather_poolers");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        format!("see that every pooler leads to the {}", self.from.other())
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<usize>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<usize, StepError> {
        gather(cx, self.from).await
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
