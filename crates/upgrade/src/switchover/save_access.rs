//! Writes down who may connect, before anybody is shut out.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::hot::databases;
use crate::{
    pg::{Side, access, access::Access},
    readers::Ways,
    world::{Cx, World},
};

/// Saves the rights to connect of the side that serves, for readers that go first. The pause goes by those that are read
/// again right before it (`confirm_gates`).
pub struct SaveAccess {
    /// The side that serves.
    pub from: Side,
}

/// Returns who may connect to the side that serves.
///
/// # Errors
/// Fatal, if nobody may; or if it cannot be asked.
pub async fn read(cx: &Cx<'_>, from: Side) -> Result<Vec<Access>, StepError> {
    let (_, names) = databases(cx)?;
    let session = cx.world.cluster(from).db(&cx.world.config.source.database).await?;
    let access = access::read(&session, &names, &Ways::of(cx, from)?.roles).await?;
    if access::is_blocked(&access) {
        let message = format!("nobody may connect to the {from}: it does not serve");
        return Err(StepError::fatal(message, "look at `pgleap status`"));
    }
    Ok(access)
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
        read(cx, self.from).await
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
