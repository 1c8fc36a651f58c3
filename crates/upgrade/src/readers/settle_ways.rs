//! Writes down where clients that only read are led, and which roles may stay at a fenced side.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};

use super::{Reader, writers_way};
use crate::{
    config::{ReaderOrder, ReaderPool, Readers},
    pg::Side,
    pgbouncer::ini::Address,
    route::Way,
    world::{Cx, World},
};

/// Those that its plan was made from when writes leave the source. The way back is the way there, whatever the configuration
/// says by then: an entry would stay behind at a server that it does not name any more.
pub struct SettleWays {
    /// The side that serves.
    pub from: Side,
    /// What the configuration said when the plan was made.
    pub ways: Ways,
}

/// What is settled for a switchover and its rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ways {
    /// When readers are moved.
    pub order: ReaderOrder,
    /// From which server to which.
    pub pools: Vec<ReaderPool>,
    /// Roles that keep the right to connect to a fenced side.
    pub roles: Vec<String>,
}

impl From<&Readers> for Ways {
    fn from(Readers { order, pools, roles, .. }: &Readers) -> Self {
        Self { order: *order, pools: pools.clone(), roles: roles.clone() }
    }
}

impl Ways {
    /// Returns what holds when `from` is left: what this plan settled, or the switchover before it; before the first, and when
    /// the next is only thought of, what the configuration says.
    ///
    /// # Errors
    /// Blocked, if the journal cannot be read.
    pub fn of(cx: &Cx<'_>, from: Side) -> Result<Self, StepError> {
        let next = cx.plan_id().is_empty() && from == Side::Source;
        let settled = if next { None } else { cx.try_output::<SettleWays>()? };
        Ok(settled.unwrap_or_else(|| (&cx.world.config.readers).into()))
    }

    /// Returns the ways of those who only read, when they leave `from`'s standbys; none if they stay.
    pub fn of_readers(&self, from: Side) -> Vec<Way> {
        let way = |pool: &ReaderPool| match from {
            Side::Source => Way { old: pool.from.clone(), new: pool.to.clone() },
            Side::Target => Way { old: pool.to.clone(), new: pool.from.clone() },
        };
        match self.order {
            ReaderOrder::Stay => Vec::new(),
            ReaderOrder::First | ReaderOrder::Together => self.pools.iter().map(way).collect(),
        }
    }

    /// Whether readers leave `from`'s standbys before the writers leave it.
    pub fn readers_go_first(&self, from: Side) -> bool {
        self.order == ReaderOrder::First && from == Side::Source && !self.pools.is_empty()
    }

    /// Returns every way on which clients are led when `from` is left.
    pub fn all(&self, world: &World, from: Side) -> Vec<Way> {
        let mut ways = vec![writers_way(world, from)];
        ways.extend(self.of_readers(from));
        ways
    }

    /// Returns the ways of the write pause.
    pub fn in_pause(&self, world: &World, from: Side) -> Vec<Way> {
        if self.readers_go_first(from) { vec![writers_way(world, from)] } else { self.all(world, from) }
    }

    /// Returns where clients of `side` are: at the cluster, and at its standbys unless those never move.
    pub fn addresses_of(&self, world: &World, side: Side) -> Vec<Address> {
        self.all(world, side).into_iter().map(|way| way.old).collect()
    }

    /// Returns the standbys that are read from, in pairs.
    pub fn standbys(&self, world: &World) -> Vec<Reader> {
        let pair = |pool: &ReaderPool| Reader {
            of_source: world.standby(Side::Source, &pool.from),
            of_target: world.standby(Side::Target, &pool.to),
        };
        self.pools.iter().map(pair).collect()
    }
}

/// Returns every way on which clients are led when `from` is left.
///
/// # Errors
/// Blocked, if the journal cannot be read.
pub fn all_ways(cx: &Cx<'_>, from: Side) -> Result<Vec<Way>, StepError> {
    Ok(Ways::of(cx, from)?.all(cx.world, from))
}

/// Returns where clients of `side` are: at the cluster, and at its standbys unless those never move.
///
/// # Errors
/// Blocked, if the journal cannot be read.
pub fn addresses_of(cx: &Cx<'_>, side: Side) -> Result<Vec<Address>, StepError> {
    Ok(Ways::of(cx, side)?.addresses_of(cx.world, side))
}

impl Step<World> for SettleWays {
    type Output = Ways;
    const NAME: StepName = StepName("readers.settle_ways");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        match self.from {
            Side::Source => "write down where clients that only read are led, and who may stay",
            Side::Target => "look up how clients that only read came here: they go back the same way",
        }
        .to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Ways>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Ways, StepError> {
        if self.from == Side::Source {
            return Ok(self.ways.clone());
        }
        let settled = cx.output_elsewhere::<Self>()?.unwrap_or_else(|| self.ways.clone());
        if settled != self.ways {
            let at: Vec<_> = settled.of_readers(self.from).iter().map(|way| way.old.to_string()).collect();
            let at = if at.is_empty() { "nowhere".to_owned() } else { at.join(", ") };
            cx.note(format!("`[readers]` was changed since the switchover: readers at {at} go back as they came"));
        }
        Ok(settled)
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
