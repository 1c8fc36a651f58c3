//! The point of no return: opens the other side and lets clients go on there.

use futures::future::try_join;
use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};

use super::{
    confirm_gates::ConfirmGates,
    hot::{cold, databases, pause, pause_id},
    let_go::or_let_go,
};
use crate::{
    pg::{Side, access, hba},
    readers,
    world::{Cx, World},
};

/// Gives back the right to connect on the side that will serve, leads every pooler there, and resumes.
///
/// Finished forward after any interruption: each part of it may be done twice.
pub struct MoveClients {
    /// The side that served.
    pub from: Side,
    /// Clients find their way themselves.
    pub alone: bool,
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
        match self.alone {
            false => format!("open the {}, lead every pool to it, and resume", self.from.other()),
            true => format!("open the {}: clients find it by themselves", self.from.other()),
        }
    }

    /// Looks once more, as long as there is a way back, at whoever is needed past it: clients must not be moved to a server
    /// that died since the last rows came over, nor by guards that cannot be told.
    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<Moved>, StepError> {
        if cx.deadline().is_some() {
            let hot = cx.world.hot.lock().await;
            let hot = hot.as_ref().ok_or_else(cold)?;
            let server = async {
                hot.to.batch("").await.map_err(|error| {
                    let message = format!("the {} was lost in the write pause", self.from.other());
                    StepError::fatal(message, "see that it runs, then try again")
                        .because(error.reason().unwrap_or_else(|| error.to_string()))
                })
            };
            try_join(server, cx.world.route.still_held(&hot.entries, &pause_id(cx))).await?;
        }
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Moved, StepError> {
        let world = cx.world;
        let to = self.from.other();
        let saved = cx.output::<ConfirmGates>()?;
        let (_, names) = databases(cx)?;
        let prepared = {
            let hot = world.hot.lock().await;
            hot.as_ref().map(|hot| (hot.entries.clone(), hot.ways.clone(), hot.paused_at))
        };
        let (entries, pause, paused_at) = match prepared {
            Some((entries, ways, paused_at)) => (entries, pause(cx, ways.in_pause(world, self.from)), paused_at),
            None => {
                let pause = pause(cx, readers::Ways::of(cx, self.from)?.in_pause(world, self.from));
                let both: Vec<_> = pause.ways.iter().flat_map(|way| [way.old.clone(), way.new.clone()]).collect();
                // after a restart: entries may lead to either side already; who does not answer is gathered later
                (world.route.reachable_leading_to(&both, &names).await.0, pause, None)
            }
        };
        // an earlier plan's says nothing of the source
        let admitted = self.from == Side::Source && cx.try_output::<readers::Admit>()?.is_some();
        let open = async {
            // kept since the warm-up, and opened anew if it was lost
            let session = world.cluster(to).db(&world.config.source.database).await?;
            // whoever was spared there is given up by what holds now: the configuration may have changed since
            let now = access::read(&session, &names, &[]).await?;
            session.batch(&access::restore(&access::in_place_of(&saved, &now))).await?;
            if admitted {
                hba::reopen(world.cluster(to), &world.config.source.database).await?;
            }
            Ok(())
        };
        for lost in or_let_go(
            cx,
            to,
            world.route.move_clients(&entries, &pause, open, readers::standbys::let_in(cx, self.from, &saved)),
        )
        .await?
        {
            cx.warn(format!("{lost}: it is led to the {to} as soon as it is back"));
        }
        Ok(Moved { write_pause_ms: paused_at.map(|at| at.elapsed().as_secs_f64() * 1000.0) })
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
