//! Giving up the way back: everything of pgleap's is removed from both sides.

use pgleap_saga::{Observed, Plan, Reversal, Step, StepError, StepName};

use crate::{
    pg::{PgError, Side},
    provision::{PrepareDatabases, claim_directories::release, prepare_databases::drop_schema},
    replicate::{create_publications::drop_publication, slot, subscription},
    switchover::signpost::{stands, take_down},
    world::{Cx, World},
};

/// Returns the plan that ends the upgrade, with the target serving.
pub fn plan(id: String) -> Plan<World> {
    Plan::new(id, "finalize", serde_json::Value::Null)
        .then(DropReverse)
        .then(CloseSource)
        .then(RemoveObjects)
        .then(RemoveFiles)
}

/// Ends reverse replication. From here on the old cluster is left behind: there is no way back.
pub struct DropReverse;

/// Closes the old cluster to applications: what made its tables refuse writes goes with the schema `pgleap`.
pub struct CloseSource;

/// Drops publication and schema `pgleap` in every database of both clusters.
pub struct RemoveObjects;

/// Removes the copy, sockets and logs from this host.
pub struct RemoveFiles;

impl Step<World> for DropReverse {
    type Output = ();
    const NAME: StepName = StepName("finalize.drop_reverse");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::PointOfNoReturn;

    fn summary(&self) -> String {
        "end reverse replication: the old cluster is left behind, fenced".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        for database in cx.output::<PrepareDatabases>()?.databases {
            let name = cx.world.stream(Side::Target, &database);
            match cx.world.source.db(&database.name).await {
                Ok(session) => subscription::drop_subscription(&session, &name).await?,
                Err(error) => gone(cx, error)?,
            }
            slot::drop_slot(&cx.world.target, &database.name, &name).await?;
        }
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

/// The old cluster may have been shut down for good: what is in it goes with it. One that answers, if only that it is
/// busy or starting, has not gone.
fn gone(cx: &Cx<'_>, error: PgError) -> Result<(), StepError> {
    if error.sqlstate().is_some() {
        return Err(error.into());
    }
    cx.warn(format!("the source cannot be reached, so what is in it stays there: {error}"));
    Ok(())
}

impl Step<World> for CloseSource {
    type Output = ();
    const NAME: StepName = StepName("finalize.close_source");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "close the old cluster to applications, if they were let in there to see that it is read-only".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        match cx.world.source.db(&cx.world.config.source.database).await {
            // put up by the route that there was at the switchover, which may be another one now
            Ok(_) if stands(cx, Side::Source).await? => take_down(cx, Side::Source).await,
            Ok(_) => Ok(()),
            Err(error) => gone(cx, error),
        }
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

impl Step<World> for RemoveObjects {
    type Output = ();
    const NAME: StepName = StepName("finalize.remove_objects");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "drop pgleap's publication and schema in every database of both clusters".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        for database in cx.output::<PrepareDatabases>()?.databases {
            for side in [Side::Target, Side::Source] {
                match cx.world.cluster(side).db(&database.name).await {
                    Ok(session) => {
                        drop_publication(&session, &cx.world.publication()).await?;
                        drop_schema(&session, &cx.world.id).await?;
                    }
                    Err(error) if side == Side::Source => gone(cx, error)?,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

impl Step<World> for RemoveFiles {
    type Output = ();
    const NAME: StepName = StepName("finalize.remove_files");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "remove the copy and the work directory from this host".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        release(cx.world)
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
