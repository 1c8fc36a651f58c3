//! Lets clients with several hosts meet the target before it serves.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use crate::{
    pg::{Side, access},
    provision::PrepareDatabases,
    switchover::signpost::put_up,
    world::{Cx, World},
};

/// Makes a signpost of the target: applications may come in, and see that it is read-only. Only for the route `multi_host`.
pub struct ShowReadOnly;

impl Step<World> for ShowReadOnly {
    /// How many tables refuse writes.
    type Output = usize;
    const NAME: StepName = StepName("replicate.show_read_only");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "let applications into the target, where every table refuses writes, to see that it is read-only".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<usize>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<usize, StepError> {
        let names = cx.output::<PrepareDatabases>()?.names();
        let source = cx.world.source.db(&cx.world.config.source.database).await?;
        put_up(cx, Side::Target, &access::read(&source, &names, &[]).await?, false).await
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        // it goes with the target
        Ok(())
    }
}
