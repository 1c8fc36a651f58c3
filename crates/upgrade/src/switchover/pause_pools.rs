//! Lets clients wait at the poolers.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName, fault_point};
use tokio::time::Instant;

use super::hot::{cold, databases, pause, pause_id};
use crate::{
    pg::Side,
    readers::addresses_of,
    route::Clients,
    world::{Cx, World},
};

/// Pauses every entry that leads to the side that serves. Taken back, it resumes all of them, whoever paused them.
pub struct PausePools {
    /// The side that serves.
    pub from: Side,
    /// What clients see of it.
    pub clients: Clients,
}

impl Step<World> for PausePools {
    /// How many entries were paused.
    type Output = usize;
    const NAME: StepName = StepName("switchover.pause_pools");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        match self.clients {
            Clients::Wait => "pause every pool: transactions under way end, new ones wait",
            Clients::Reconnect => "let nobody new in: connections that are open are left to the fence",
            Clients::Errors => "begin: nothing can be paused, so clients get errors from here on",
        }
        .to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<usize>, StepError> {
        // pausing twice is harmless, and a look would cost as much
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<usize, StepError> {
        let mut hot = cx.world.hot.lock().await;
        let hot = hot.as_mut().ok_or_else(cold)?;
        hot.check()?;
        hot.paused_at.get_or_insert_with(Instant::now);
        cx.world.route.begin_pause(&hot.entries, &pause(cx, hot.ways.in_pause(cx.world, self.from))).await?;
        fault_point!("switchover.pause_pools.after_pause");
        Ok(hot.entries.iter().map(|entries| entries.entries.len()).sum())
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let names = databases(cx)?.1;
        let (_, lost) = cx.world.route.let_go(&pause_id(cx), &addresses_of(cx, self.from)?, &names).await;
        for lost in lost {
            // one that is down pauses nobody when it is back; another one's pause ends with its lease
            cx.warn(format!("{lost}: its guard ends the pause when the lease is over"));
        }
        // snapshots that the pause took would hold back vacuum on both sides
        *cx.world.hot.lock().await = None;
        Ok(())
    }
}
