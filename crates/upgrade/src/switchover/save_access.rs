//! Writes down who may connect, before anybody is shut out.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::hot::databases;
use crate::{
    pg::{Side, access, access::Access},
    world::{Cx, World},
};

/// Saves the rights to connect of the side that serves: given back to it if the switchover is taken back, given to the
/// other side when it opens.
pub struct SaveAccess {
    /// The side that serves.
    pub from: Side,
}

impl Step<World> for SaveAccess {
    type Output = Vec<Access>;
    const NAME: StepName = StepName("switchover.save_access");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        format!("write down who may connect to the {}", self.from)
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Vec<Access>>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Vec<Access>, StepError> {
        let (_, names) = databases(cx)?;
        let session = cx.world.cluster(self.from).db(&cx.world.config.source.database).await?;
        let access = access::read(&session, &names, &cx.world.config.readers.roles).await?;
        if access::is_blocked(&access) {
            return Err(StepError::fatal(
                format!("nobody may connect to the {}: it does not serve", self.from),
                "look at `pgleap status`",
            ));
        }
        Ok(access)
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
