//! Clients that only read: led from standbys of the one cluster to standbys of the other, before the writers, with them, or
//! not at all.
//!
//! Before the writers: the target is still closed then, and a standby has the rights of the cluster that it follows. So the
//! target's own door is shut by its `pg_hba.conf`, which is a file of that one server, and the right to connect is given to
//! everybody: it lets clients in on the standbys, which cannot be written to, and nowhere else. On the way back readers go
//! together with the writers, as the source's standbys follow at once.

pub mod admit;
pub mod move_pools;
pub mod standbys;
pub mod watch_window;

pub use admit::Admit;
pub use move_pools::MovePools;
pub use watch_window::WatchWindow;

use std::sync::Arc;

use crate::{
    config::ReaderOrder,
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

/// Returns where a cluster is, as poolers name it.
pub fn address(cluster: &Cluster) -> Address {
    Address { host: cluster.endpoint.host.clone(), port: cluster.endpoint.port }
}

/// Returns the way of those who write, when they leave `from`.
pub fn writers_way(world: &World, from: Side) -> Way {
    Way { old: address(world.cluster(from)), new: address(world.cluster(from.other())) }
}

/// Returns the ways of those who only read, when they leave `from`'s standbys; none if they stay.
pub fn readers_ways(world: &World, from: Side) -> Vec<Way> {
    let way = |reader: &Reader| Way { old: address(reader.of(from)), new: address(reader.of(from.other())) };
    match world.config.readers.order {
        ReaderOrder::Stay => Vec::new(),
        ReaderOrder::First | ReaderOrder::Together => world.readers.iter().map(way).collect(),
    }
}

/// Whether readers leave `from`'s standbys before the writers leave it.
pub fn go_first(config: &crate::Config, from: Side) -> bool {
    config.readers.order == ReaderOrder::First && from == Side::Source && !config.readers.pools.is_empty()
}

/// Returns every way on which clients are led when `from` is left.
pub fn all_ways(world: &World, from: Side) -> Vec<Way> {
    let mut ways = vec![writers_way(world, from)];
    ways.extend(readers_ways(world, from));
    ways
}

/// Returns the ways of the write pause.
pub fn ways_in_pause(world: &World, from: Side) -> Vec<Way> {
    if go_first(&world.config, from) { vec![writers_way(world, from)] } else { all_ways(world, from) }
}

/// Returns where clients of `side` are: at the cluster, and at its standbys unless those never move.
pub fn addresses_of(world: &World, side: Side) -> Vec<Address> {
    all_ways(world, side).into_iter().map(|way| way.old).collect()
}
