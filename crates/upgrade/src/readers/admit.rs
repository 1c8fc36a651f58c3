//! Lets clients in on the target's standbys, and nowhere else.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName, fault_point};

use crate::{
    pg::{Side, access, hba},
    readers::standbys,
    switchover::{fence_lease, hot::databases, save_access::SaveAccess},
    world::{Cx, World},
};

/// Shuts the target's own door, then gives the rights to connect; the read-only default stays.
pub struct Admit;

impl Step<World> for Admit {
    type Output = ();
    const NAME: StepName = StepName("readers.admit");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        "shut the target's own door by its pg_hba.conf, and let clients in on its standbys".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        // each part of it may be done twice
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let world = cx.world;
        let saved = cx.output::<SaveAccess>()?;
        let (_, names) = databases(cx)?;
        let maintenance = &world.config.source.database;
        hba::shut(&world.target, maintenance).await?;
        fault_point!("readers.admit.after_shut");
        let session = world.target.db(maintenance).await?;
        let inside = access::foreign(&session, &names, &world.source.application_name, &[]).await?;
        if let Some(somebody) = inside.iter().find(|somebody| somebody.passes_fence(&world.config.fence.tolerate)) {
            return Err(StepError::fatal("somebody is connected to the target itself", "end it, then try again")
                .because(somebody.to_string()));
        }
        // what a dead process sent through this connection must not happen after its successor has taken it back
        fence_lease::sign(world, &session).await?;
        session.batch(&access::admit(&saved)).await?;
        if let Some(standby) = standbys::shut_out(cx, Side::Source, Side::Target, &saved).await?.first() {
            return Err(StepError::fatal(
                format!("the right to connect has not reached the {standby}"),
                "see that it follows the target, then try again",
            ));
        }
        // somebody may have passed the old rules just before, and the rights just after
        access::end_foreign(&session, &names, &world.source.application_name, &[]).await?;
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let Some(saved) = cx.try_output::<SaveAccess>()? else { return Ok(()) };
        let world = cx.world;
        let maintenance = &world.config.source.database;
        fence_lease::forget(world, Side::Target).await?;
        // first, so that nobody may connect at any moment
        world.target.db(maintenance).await?.batch(&access::shut(&saved)).await?;
        hba::reopen(&world.target, maintenance).await
    }
}
