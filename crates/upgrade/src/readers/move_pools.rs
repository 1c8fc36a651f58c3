//! Leads the pools of clients that only read to the target's standbys.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName, fault_point};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Ways, standbys};
use crate::{
    pg::Side,
    pgbouncer::admin::Traffic,
    route::{Pause, Way},
    switchover::hot::{GRACE, databases},
    world::{Cx, World},
};

/// Paused, drained, led there, resumed; taken back in the same way. A transaction that does not end in time is not waited
/// for: it ends where it began, and has nothing to lose.
pub struct MovePools;

/// Readers moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// How many entries were moved.
    pub entries: usize,
    /// How long their clients waited, in milliseconds.
    pub pause_ms: f64,
    /// What went through the entries until then.
    pub traffic: Vec<Traffic>,
    /// Transactions committed and rolled back on the source's standbys until then.
    pub before: (i64, i64),
    /// The same on the target's.
    pub there: (i64, i64),
}

impl Step<World> for MovePools {
    type Output = Moved;
    const NAME: StepName = StepName("readers.move_pools");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        "lead the pools of clients that only read to the target's standbys".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Moved>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Moved, StepError> {
        let world = cx.world;
        let (_, names) = databases(cx)?;
        let ways = Ways::of(cx, Side::Source)?.of_readers(Side::Source);
        let before = standbys::counts(cx, Side::Source, &names).await?;
        let there = standbys::counts(cx, Side::Target, &names).await?;
        let traffic = world.route.traffic(&world.route.leading_to(&addresses(&ways), &names).await?).await?;
        let began = Instant::now();
        let olds: Vec<_> = ways.iter().map(|way| way.old.to_string()).collect();
        let entries = lead(cx, ways, THERE).await?;
        if entries == 0 {
            return Err(StepError::fatal(
                format!("no entry of any pooler leads to {}", olds.join(" or ")),
                "write `readers.pool.from` as the entries do, or leave it out; then try again",
            ));
        }
        Ok(Moved { entries, pause_ms: began.elapsed().as_secs_f64() * 1000.0, traffic, before, there })
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let world = cx.world;
        let (_, names) = databases(cx)?;
        let ways = Ways::of(cx, Side::Source)?.of_readers(Side::Source);
        // what this step paused goes on first, there or on the way back; a guard that holds the one knows nothing of the other
        for what in [THERE, BACK] {
            drop(world.route.let_go(&turn(cx, what), &addresses(&ways), &names).await);
        }
        let back = ways.into_iter().map(|way| Way { old: way.new, new: way.old }).collect();
        lead(cx, back, BACK).await.map(drop)
    }
}

/// How the two pauses are called.
const THERE: &str = "readers";
const BACK: &str = "readers back";

fn turn(cx: &Cx<'_>, what: &str) -> String {
    format!("{} {} {what}", cx.world.id, cx.plan_id())
}

fn addresses(ways: &[Way]) -> Vec<crate::pgbouncer::ini::Address> {
    ways.iter().flat_map(|way| [way.old.clone(), way.new.clone()]).collect()
}

/// Leads every entry on one of `ways` to its end, wherever on it it is; returns how many there are.
async fn lead(cx: &Cx<'_>, ways: Vec<Way>, what: &str) -> Result<usize, StepError> {
    let world = cx.world;
    let (_, names) = databases(cx)?;
    let entries = world.route.leading_to(&addresses(&ways), &names).await?;
    world.route.rehearse(&entries, &ways).await?;
    world.route.warm_up(&entries).await?;
    let budget = world.config.readers.pause;
    let pause = Pause { id: turn(cx, what), ways, deadline: Instant::now() + budget, lease: budget + GRACE };
    if let Err(error) = world.route.begin_pause(&entries, &pause).await {
        // tried again, it would hold those that are paused for longer
        drop(world.route.let_go(&pause.id, &addresses(&pause.ways), &names).await);
        return Err(error);
    }
    fault_point!("readers.move_pools.after_pause");
    if let Err(unfinished) = world.route.drained(&entries, pause.deadline).await {
        cx.warn(format!("readers go on, and what is under way ends where it began: {unfinished}"));
    }
    if let Some(lost) = world.route.move_clients(&entries, &pause, async { Ok(()) }, async {}).await?.into_iter().next()
    {
        return Err(lost.error);
    }
    Ok(entries.iter().map(|entries| entries.entries.len()).sum())
}
