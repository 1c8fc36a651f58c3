//! The point of no return: opens the other side and lets clients go on there.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName, fault_point};
use serde::{Deserialize, Serialize};

use super::{
    hot::{databases, entries_leading_to, pause},
    save_access::SaveAccess,
};
use crate::{
    pg::{Side, access},
    world::{Cx, World},
};

/// Gives back the right to connect on the side that will serve, leads every pooler there, and resumes.
///
/// Finished forward after any interruption: each part of it may be done twice.
pub struct MoveClients {
    /// The side that served.
    pub from: Side,
}

/// Clients moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// From PAUSE sent to RESUME answered; none if another process sent PAUSE.
    pub write_pause_ms: Option<f64>,
}

impl Step<World> for MoveClients {
    type Output = Moved;
    const NAME: StepName = StepName("switchover.move_clients");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::PointOfNoReturn;

    fn summary(&self) -> String {
        format!("open the {}, lead every pool to it, and resume", self.from.other())
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Moved>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Moved, StepError> {
        let world = cx.world;
        let to = self.from.other();
        let saved = cx.output::<SaveAccess>()?;
        let (_, names) = databases(cx)?;
        let prepared = {
            let hot = world.hot.lock().await;
            hot.as_ref().map(|hot| (hot.entries.clone(), hot.paused_at))
        };
        // kept since the warm-up, and opened anew if it was lost
        let session = world.cluster(to).db(&world.config.source.database).await?;
        let (entries, paused_at) = match prepared {
            Some(prepared) => prepared,
            None => {
                // after a restart: entries may lead to either side already
                let mut entries = entries_leading_to(world, self.from, &names).await?;
                entries.extend(entries_leading_to(world, to, &names).await?);
                (entries, None)
            }
        };
        let pause = pause(cx, self.from);
        let open = async { Ok(session.batch(&access::restore(&saved)).await?) };
        let lost = world.route.move_clients(&entries, &pause, open).await?;
        fault_point!("switchover.move_clients.after_decision");
        for lost in lost {
            cx.warn(format!("{lost}: it is led to the {to} as soon as it is back"));
        }
        Ok(Moved { write_pause_ms: paused_at.map(|at| at.elapsed().as_secs_f64() * 1000.0) })
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
