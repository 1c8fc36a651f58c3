//! Clients that only read: led from standbys of the one cluster to standbys of the other, before the writers, with them, or
//! not at all.
//!
//! Before the writers: the target is still closed then, and a standby has the rights of the cluster that it follows. So the
//! target's own door is shut by its `pg_hba.conf`, which is a file of that one server, and the right to connect is given to
//! everybody: it lets clients in on the standbys, which cannot be written to, and nowhere else. On the way back readers go
//! together with the writers, as the source's standbys follow at once.

pub mod admit;
pub mod move_pools;
pub mod settle_ways;
pub mod standbys;
pub mod watch_window;

pub use admit::Admit;
pub use move_pools::MovePools;
pub use settle_ways::{SettleWays, Ways, addresses_of, all_ways};
pub use watch_window::WatchWindow;

use std::sync::Arc;

use pgleap_saga::{PlanState, Step, StepStatus};

use crate::{
    pg::{Cluster, Side},
    pgbouncer::ini::Address,
    route::Way,
    world::World,
};

/// A standby of the source, and the standby of the target that takes its place.
pub struct Reader {
    /// Follows the source.
    pub of_source: Arc<Cluster>,
    /// Follows the target.
    pub of_target: Arc<Cluster>,
}

impl Reader {
    /// Returns the one that follows `side`.
    pub fn of(&self, side: Side) -> &Arc<Cluster> {
        match side {
            Side::Source => &self.of_source,
            Side::Target => &self.of_target,
        }
    }
}

/// Whether a switchover has readers at the target's standbys, or on the way there.
pub fn are_led(plan: &PlanState) -> bool {
    plan.steps.iter().any(|step| step.name == MovePools::NAME.0 && step.may_have_effect())
}

/// Whether a switchover ever led readers to the target's standbys.
pub fn were_led(plan: &PlanState) -> bool {
    plan.steps.iter().any(|step| step.name == MovePools::NAME.0 && step.status != StepStatus::Pending)
}

/// Returns where a cluster is, as poolers name it.
pub fn address(cluster: &Cluster) -> Address {
    Address { host: cluster.endpoint.host.clone(), port: cluster.endpoint.port }
}

/// Returns the way of those who write, when they leave `from`.
pub fn writers_way(world: &World, from: Side) -> Way {
    Way { old: address(world.cluster(from)), new: address(world.cluster(from.other())) }
}
