//! Sees that the way back works: a row written on the side that serves now arrives on the other.

use std::time::Duration;

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::{gather_poolers::gathering, hot::databases};
use crate::{
    pg::Side,
    replicate::{catch_up::round_trip, health},
    world::{Cx, World},
};

/// Waits for a heartbeat's arrival through reverse replication.
pub struct ConfirmReverse {
    /// The side that served.
    pub from: Side,
}

const ROUND_TRIP: Duration = Duration::from_secs(30);

impl Step<World> for ConfirmReverse {
    /// How long the heartbeat took, in milliseconds.
    type Output = f64;
    const NAME: StepName = StepName("switchover.confirm_reverse");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        format!("see that a row written on the {} arrives on the {}", self.from.other(), self.from)
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<f64>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<f64, StepError> {
        let databases = databases(cx)?.0;
        let to = self.from.other();
        let arrival = round_trip(cx.world, to, &databases, ROUND_TRIP);
        if let Some(took) = gathering(cx, self.from, arrival).await? {
            return Ok(took.as_secs_f64() * 1000.0);
        }
        let health = health::look(cx.world, to, &databases).await?;
        Err(StepError::blocked(
            format!("the {} does not follow: there is no way back at the moment", self.from),
            format!("clients are served by the {to}; remove the cause, then `pgleap resume`"),
        )
        .because(health.problems.first().cloned().unwrap_or_else(|| format!("{} bytes behind", health.lag_bytes))))
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
