//! Watches, while a step takes its time, that the slots do not fill the source's disk.

use std::time::Duration;

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    pg::Side,
    provision::{PrepareDatabases, fix_boundary::parse_lsn},
    world::{Cx, World},
};

/// A step that is given up, and the upgrade taken back with it, once the slots keep more WAL than the budget.
pub struct Watched<S>(pub S);

const LOOK_EVERY: Duration = Duration::from_secs(2);

const KEPT: &str = "
    SELECT pg_catalog.pg_current_wal_lsn()::text, min(restart_lsn)::text
      FROM pg_catalog.pg_replication_slots WHERE slot_name = ANY($1::text[])";

/// Refuses to go on while the source keeps more than the budget for the slots.
///
/// # Errors
/// Fatal: what would help is dropping the slots, and the upgrade is nothing without them.
pub fn check_retained(world: &World, bytes: u64) -> Result<(), StepError> {
    let budget = world.config.budgets.retained_wal_bytes;
    if bytes <= budget {
        return Ok(());
    }
    Err(StepError::fatal(
        format!("the slots keep {bytes} bytes of WAL on the source, the budget is {budget}"),
        "raise `budgets.retained_wal` if its disk has the room, then `pgleap run`",
    ))
}

async fn retained(cx: &Cx<'_>) -> Result<u64, StepError> {
    let world = cx.world;
    let databases = cx.output::<PrepareDatabases>()?.databases;
    let slots: Vec<_> = databases.iter().map(|database| world.stream(Side::Source, database)).collect();
    let session = world.source.db(&world.config.source.database).await?;
    let row = session.query_one(KEPT, &[&slots]).await?;
    let Some(oldest) = row.get::<_, Option<&str>>(1) else { return Ok(0) };
    Ok(parse_lsn(row.get(0))?.bytes_since(parse_lsn(oldest)?))
}

impl<S: Step<World>> Step<World> for Watched<S> {
    type Output = S::Output;
    const NAME: StepName = S::NAME;
    const REVISION: u32 = S::REVISION;
    const REVERSAL: Reversal = S::REVERSAL;
    const STANDING: bool = S::STANDING;

    fn summary(&self) -> String {
        self.0.summary()
    }

    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<S::Output>, StepError> {
        self.0.probe(cx).await
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<S::Output, StepError> {
        // both are polled at all times: a look may need what the work holds, the lock of a connection for example
        let watch = async {
            let mut looks = interval(LOOK_EVERY);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                // a source that does not answer fails the work, if the work needs it
                if let Ok(bytes) = retained(cx).await
                    && let Err(error) = check_retained(cx.world, bytes)
                {
                    return error;
                }
            }
        };
        tokio::select! {
            done = self.0.run(cx) => done,
            error = watch => Err(error),
        }
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        self.0.undo(cx).await
    }
}
