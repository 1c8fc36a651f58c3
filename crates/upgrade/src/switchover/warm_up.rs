//! Does before the pause all that the pause would otherwise have to wait for.

use std::time::Duration;

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::hot::{Hot, databases};
use crate::{
    pg::Side,
    replicate::catch_up::round_trip,
    world::{Cx, World},
};

/// Opens connections, prepares statements, brings sequences near, and moves the audit slots to the present.
pub struct WarmUp {
    /// The side that serves.
    pub from: Side,
}

/// A marker that arrives this fast means that nothing is queued before it.
const QUIET: Duration = Duration::from_millis(25);
const QUIET_TRIES: u32 = 20;
const QUIET_PATIENCE: Duration = Duration::from_secs(1);

/// What is behind the slot need not be decoded when the audit looks.
const MOVE_SLOT: &str = "SELECT FROM pg_catalog.pg_replication_slot_advance($1, pg_catalog.pg_current_wal_flush_lsn())";

impl Step<World> for WarmUp {
    type Output = ();
    const NAME: StepName = StepName("switchover.warm_up");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "open connections, prepare statements, and bring sequences near, before anybody waits".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let mut hot = Hot::warm(cx, self.from).await?;
        for database in &mut hot.databases {
            database.sequences.bring_near(&database.from, &database.to).await?;
            let slot = cx.world.audit_slot(&database.database);
            database.from.query(MOVE_SLOT, &[&slot]).await?;
        }
        *cx.world.hot.lock().await = Some(hot);
        // a moment at which rows arrive at once is worth waiting for: clients would wait for it otherwise
        let databases = databases(cx)?.0;
        for _ in 0..QUIET_TRIES {
            if round_trip(cx.world, self.from, &databases, QUIET_PATIENCE).await?.is_some_and(|took| took <= QUIET) {
                break;
            }
        }
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
