//! Where clients look for the side that takes writes: the side that follows is closed only as long as it must be.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::{fence_lease, hot::databases, save_access::SaveAccess};
use crate::{
    pg::{
        Side,
        access::{self, Access},
        signpost,
    },
    world::{Cx, World},
};

/// Lets applications into the side that will follow, to see that it is read-only: those that come there go on to the other.
pub struct PutUpSignpost {
    /// The side that served.
    pub from: Side,
}

/// Closes the side that will serve: what made it refuse writes is removed while nobody is there, and nobody comes in before
/// it is opened.
pub struct TakeDownSignpost {
    /// The side that serves.
    pub from: Side,
}

/// Puts a signpost up at `side`; `saved` is who may come in. Nobody is let in before every table refuses writes. Replication
/// may apply there meanwhile, unless `nobody_there`.
///
/// # Errors
/// If the side cannot be asked, or a table is locked for too long.
pub async fn put_up(cx: &Cx<'_>, side: Side, saved: &[Access], nobody_there: bool) -> Result<usize, StepError> {
    let mut tables = 0;
    for database in databases(cx)?.0 {
        let session = cx.world.cluster(side).db(&database.name).await?;
        tables += signpost::refuse_writes(&session, nobody_there).await?;
    }
    let session = cx.world.cluster(side).db(&cx.world.config.source.database).await?;
    // what a dead process sent through this connection must not happen after its successor has closed the side
    fence_lease::sign(cx.world, &session).await?;
    session.batch(&access::let_in(saved)).await?;
    Ok(tables)
}

/// Whether a signpost stands at `side`: by what is there, as the configuration may have changed since it was put up.
///
/// # Errors
/// If the side cannot be asked.
pub async fn stands(cx: &Cx<'_>, side: Side) -> Result<bool, StepError> {
    for database in databases(cx)?.0 {
        if signpost::stands(&*cx.world.cluster(side).db(&database.name).await?).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Closes `side` and takes its signpost down.
///
/// # Errors
/// As [`put_up`].
pub async fn take_down(cx: &Cx<'_>, side: Side) -> Result<(), StepError> {
    let world = cx.world;
    let (all, names) = databases(cx)?;
    fence_lease::forget(world, side).await?;
    let session = world.cluster(side).db(&world.config.source.database).await?;
    session.batch(&access::block(&access::read(&session, &names, &[]).await?)).await?;
    access::end_foreign(&session, &names, &world.source.application_name, &[]).await?;
    for database in all {
        signpost::accept_writes(&*world.cluster(side).db(&database.name).await?).await?;
    }
    Ok(())
}

impl Step<World> for PutUpSignpost {
    /// How many tables refuse writes.
    type Output = usize;
    const NAME: StepName = StepName("switchover.put_up_signpost");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        format!(
            "let applications into the {}, where every table refuses writes, to see that it is read-only",
            self.from
        )
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<usize>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<usize, StepError> {
        put_up(cx, self.from, &cx.output::<SaveAccess>()?, true).await
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

impl Step<World> for TakeDownSignpost {
    type Output = ();
    const NAME: StepName = StepName("switchover.take_down_signpost");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        format!("close the {} to applications, and let its tables take writes", self.from.other())
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        take_down(cx, self.from.other()).await
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        // not begun, if it is not known who may come in
        let Some(saved) = cx.try_output::<SaveAccess>()? else { return Ok(()) };
        put_up(cx, self.from.other(), &saved, false).await.map(drop)
    }
}
