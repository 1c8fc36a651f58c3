//! Looks once more whether the switchover may go on: preparing it took time, and whoever postponed it took more.
//!
//! Who may connect is written down here: given back to the side that serves if the switchover is taken back, given to the
//! other side when it opens.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::{check_gates::refuse_held, rehearse_repoint::rehearse, save_access};
use crate::{
    pg::{Side, access::Access},
    world::{Cx, World},
};

/// Asks again what was asked first: gates, poolers' configurations, rights to connect.
pub struct ConfirmGates {
    /// The side that serves.
    pub from: Side,
}

impl Step<World> for ConfirmGates {
    /// Who may connect to the side that serves.
    type Output = Vec<Access>;
    const NAME: StepName = StepName("switchover.confirm_gates");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        format!("see that nothing came in the way meanwhile, and who may connect to the {}", self.from)
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Vec<Access>>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Vec<Access>, StepError> {
        refuse_held(cx, self.from).await?;
        rehearse(cx, self.from).await?;
        save_access::read(cx, self.from).await
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
