//! What is opened before the write pause, so that nothing is opened in it.

use std::{sync::Arc, time::Duration};

use futures::future::try_join_all;
use pgleap_saga::StepError;
use tokio::time::Instant;

use super::{
    carry_over, drain,
    fence_lease::{self, FenceLease},
    sequences::{self, Sequences},
};
use crate::{
    pg::{Session, Side, access, marker},
    provision::PrepareDatabases,
    readers::{Ways, addresses_of},
    route::{Entries, Pause, Way},
    verify::converge::reading_session,
    world::{Cx, Database, World},
};

/// One database of the switchover, with its connections.
pub struct HotDatabase {
    /// Which database.
    pub database: Database,
    /// To the side that serves.
    pub from: Arc<Session>,
    /// To the side that follows.
    pub to: Arc<Session>,
    /// For the equality proof, on the side that serves: its snapshot is taken in the pause.
    pub proof_from: Session,
    /// For the equality proof, on the side that follows.
    pub proof_to: Session,
    /// Its sequences.
    pub sequences: Sequences,
}

/// Everything that the write pause uses.
pub struct Hot {
    /// The poolers' entries whose clients are moved in the pause.
    pub entries: Vec<Entries>,
    /// The databases.
    pub databases: Vec<HotDatabase>,
    /// To the side that serves, for what concerns the whole cluster.
    pub from: Arc<Session>,
    /// To the side that follows.
    pub to: Arc<Session>,
    /// Where everybody is led, and who is spared: what the journal has of it is not read again in the pause.
    pub ways: Ways,
    /// Opens the side that serves again if nobody decides.
    pub lease: FenceLease,
    /// When PAUSE was sent.
    pub paused_at: Option<Instant>,
    /// The proof's snapshots were taken.
    pub snapshots: bool,
}

/// Returns the databases of the upgrade and their names.
///
/// # Errors
/// Fatal, if the journal does not know them.
pub fn databases(cx: &Cx<'_>) -> Result<(Vec<Database>, Vec<String>), StepError> {
    let facts = cx.output::<PrepareDatabases>()?;
    let names = facts.names();
    Ok((facts.databases, names))
}

impl Hot {
    /// Opens everything and prepares every statement of the pause.
    ///
    /// # Errors
    /// If a side or a pooler cannot be reached.
    pub async fn warm(cx: &Cx<'_>, from: Side) -> Result<Self, StepError> {
        let world = cx.world;
        let (databases, names) = databases(cx)?;
        let (source, target) = (world.cluster(from), world.cluster(from.other()));
        let ways = Ways::of(cx, from)?;
        let addresses: Vec<_> = ways.in_pause(world, from).into_iter().map(|way| way.old).collect();
        let entries = world.route.leading_to(&addresses, &names).await?;
        world.route.warm_up(&entries).await?;
        let one = async |database: Database| -> Result<HotDatabase, StepError> {
            let (f, t) = (source.db(&database.name).await?, target.db(&database.name).await?);
            marker::warm(&f).await?;
            marker::warm(&t).await?;
            Ok(HotDatabase {
                sequences: sequences::warm(&f, &t).await?,
                proof_from: reading_session(world, from, &database.name).await?,
                proof_to: reading_session(world, from.other(), &database.name).await?,
                from: f,
                to: t,
                database,
            })
        };
        let hot_databases = try_join_all(databases.into_iter().map(one)).await?;
        let maintenance = &world.config.source.database;
        let (f, t) = (source.db(maintenance).await?, target.db(maintenance).await?);
        access::warm(&f).await?;
        carry_over::warm(&t).await?;
        drain::warm(&f).await?;
        let lease = FenceLease::warm(world, from, &f, &names, ways.roles.clone()).await?;
        // what an earlier process sent to the side that follows must not open it while this one serves
        fence_lease::forget(world, from.other()).await?;
        fence_lease::sign(world, &f).await?;
        fence_lease::sign(world, &t).await?;
        Ok(Self { ways, lease, entries, databases: hot_databases, from: f, to: t, paused_at: None, snapshots: false })
    }

    /// Fails if a connection is lost. None is made anew in the pause: clients would wait for a server that may be gone, and
    /// one that restarted need not hold what an earlier step saw there.
    ///
    /// # Errors
    /// Fatal, naming the server and the database.
    pub fn check(&self) -> Result<(), StepError> {
        let ours = [&*self.from, &*self.to].into_iter();
        let each = self.databases.iter().flat_map(|hot| [&*hot.from, &*hot.to, &hot.proof_from, &hot.proof_to]);
        match ours.chain(each).find(|session| session.is_closed()) {
            None if self.lease.is_lost() => {
                Err(StepError::fatal("the fence's lease was lost in the write pause", "try again"))
            }
            None => Ok(()),
            Some(lost) => Err(StepError::fatal(
                format!("the connection to the {} was lost in the write pause", lost.place),
                "see that both servers run, then `pgleap switchover` or `pgleap rollback` begins anew",
            )),
        }
    }
}

/// How long before the pause's end a step gives up by itself: it says what it waited for, the executor could not.
const LAST_WORD: Duration = Duration::from_millis(20);

/// Returns until when a step of the write pause may wait.
pub fn patience(cx: &Cx<'_>) -> Instant {
    let end = cx.deadline().unwrap_or_else(|| Instant::now() + cx.world.config.budgets.write_pause);
    end.checked_sub(LAST_WORD).unwrap_or(end)
}

/// How much longer than the write budget the guards hold a pause: pgleap, as long as it lives, ends it first.
pub const GRACE: Duration = Duration::from_millis(500);

/// Returns how guards call the pause of this plan.
pub fn pause_id(cx: &Cx<'_>) -> String {
    format!("{} {}", cx.world.id, cx.plan_id())
}

/// Returns for how long guards hold a pause.
pub fn lease(world: &World) -> Duration {
    world.config.budgets.write_pause + GRACE
}

/// Describes the pause in which clients are led on `ways`.
pub fn pause(cx: &Cx<'_>, ways: Vec<Way>) -> Pause {
    Pause { id: pause_id(cx), ways, deadline: patience(cx), lease: lease(cx.world) }
}

/// Makes the error for a pause without what was opened for it: only after a restart, which never enters a pause.
pub fn cold() -> StepError {
    StepError::fatal("nothing is ready for the write pause", "`pgleap switchover` prepares it anew")
}

/// Returns the entries of the poolers that lead to `side` or its standbys, paused or not.
///
/// # Errors
/// If a pooler cannot be asked.
pub async fn entries_leading_to(cx: &Cx<'_>, side: Side, names: &[String]) -> Result<Vec<Entries>, StepError> {
    cx.world.route.leading_to(&addresses_of(cx, side)?, names).await
}
