//! Brings over what the pause is for: the last rows, the sequences, and a moment at which both sides are equal.

use futures::future::{try_join, try_join_all};
use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};

use super::{
    drain::{Audit, drain},
    hot::{HotDatabase, cold, databases, patience},
};
use crate::{
    pg::{Lsn, PgError, Session, Side},
    provision::fix_boundary::parse_lsn,
    world::{Cx, World},
};

/// Waits for the last rows, audits the fence, carries the sequences over, and marks the moment.
///
/// Rows and sequences travel side by side: both are final once the fence stands. Then both sides hold the same. A
/// snapshot of each is kept, so that the equality proof can take its time after clients go on and is exact all the same;
/// and the position is noted from which reverse replication begins, past everything that forward replication applied.
pub struct CarryOver {
    /// The side that serves.
    pub from: Side,
}

/// What was brought over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedOver {
    /// How the fence was proven.
    pub audit: Audit,
    /// How many sequences were set in the pause.
    pub sequences: usize,
    /// Where reverse replication begins, in the positions of the side that will serve.
    pub reverse_from: Lsn,
}

/// Commits, and so waits for the disk; not a marker, whose row the reverse stream would then miss.
const FLUSH: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'pgleap', 'switchover')::text";
const FLUSHED: &str = "SELECT pg_catalog.pg_current_wal_flush_lsn()::text";
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1";

/// Prepares what [`CarryOver`] asks of the side that will serve.
///
/// # Errors
/// [`PgError`].
pub async fn warm(to: &Session) -> Result<(), PgError> {
    to.prepare(FLUSH).await?;
    to.prepare(FLUSHED).await.map(|_| ())
}

impl Step<World> for CarryOver {
    type Output = CarriedOver;
    const NAME: StepName = StepName("switchover.carry_over");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        format!("bring the {}'s last rows and sequences over, and prove that nobody wrote after them", self.from)
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<CarriedOver>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<CarriedOver, StepError> {
        let mut hot = cx.world.hot.lock().await;
        let hot = hot.as_mut().ok_or_else(cold)?;
        hot.check()?;
        let deadline = patience(cx);
        let (_, names) = databases(cx)?;
        let carry = async {
            let each = hot.databases.iter().map(|hot| hot.sequences.carry(&hot.from, &hot.to));
            Ok(try_join_all(each).await?.iter().sum())
        };
        let (audit, sequences) = try_join(drain(cx, hot, self.from, deadline), carry).await?;
        let snapshot = async |database: &HotDatabase| -> Result<(), PgError> {
            try_join(database.proof_from.batch(SNAPSHOT), database.proof_to.batch(SNAPSHOT)).await?;
            Ok(())
        };
        let snapshots = try_join_all(hot.databases.iter().map(snapshot));
        // what was applied may not be on disk yet, and a position that a crash could take back must not be relied on: a
        // commit that waits for the disk comes after all of it
        let flushed = async {
            hot.to.query_one(FLUSH, &[]).await?;
            hot.to.query_one(FLUSHED, &[]).await
        };
        // from then on nobody opens this side but whoever reads the journal
        let disarmed = hot.lease.disarm(&hot.from, &names, deadline);
        let both = async { Ok(try_join(flushed, snapshots).await?) };
        let ((flushed, _), ()) = try_join(both, disarmed).await?;
        let reverse_from = parse_lsn(flushed.get(0))?;
        hot.snapshots = true;
        Ok(CarriedOver { audit, sequences, reverse_from })
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
