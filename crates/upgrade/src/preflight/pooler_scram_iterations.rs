//! A defect of PgBouncer that shows when going back to an old server.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, warning},
    pooler::Console,
    source::Source,
};
use crate::world::World;

/// The first PgBouncer that tracks `scram_iterations`.
const TRACKED_SINCE: (u32, u32) = (1, 26);
/// The first PostgreSQL that has and reports it.
const REPORTED_SINCE: u16 = 16;

pub(super) const ABOUT: About = About {
    check: "pooler_scram_iterations",
    topic: Topic::Poolers,
    reads: "the versions of PgBouncer and of both servers",
    why: "PgBouncer 1.26 remembers `scram_iterations`, which PostgreSQL reports from 16 on; led back to an older \
          server, it sets it there and every new client fails. Only KILL and RESUME, or a restart, cures it.",
    findings: &[warning(
        "pooler.scram_iterations",
        Applied::ByHand("it is to be done after a rollback, or takes another PgBouncer."),
    )],
};

pub(super) async fn check(world: &World, source: Option<&Source>, console: &Console<'_>) -> Answer {
    let Some(source) = source else { return Ok(Vec::new()) };
    let target = world.config.target.version;
    if !concerned(console.version, source.major(), target) {
        return Ok(Vec::new());
    }
    let (pooler, version) = (console.pooler(), &console.seen.version);
    let message = format!(
        "after a rollback from {target} to {}, PgBouncer {pooler} ({version}) refuses new clients",
        source.major()
    );
    Ok(vec![
        Finding::warning("pooler.scram_iterations", message)
            .because("it sets `scram_iterations`, which the target reports and the source does not know")
            .fix("after a rollback: KILL and RESUME each entry on its console, or restart it; or use PgBouncer 1.24"),
    ])
}

fn concerned(pooler: (u32, u32), source: u16, target: u16) -> bool {
    pooler >= TRACKED_SINCE && source < REPORTED_SINCE && target >= REPORTED_SINCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_way_back_from_a_server_that_reports_it_to_one_that_does_not_is_concerned() {
        assert!(concerned((1, 26), 15, 18));
        assert!(!concerned((1, 24), 15, 18) && !concerned((1, 26), 16, 18) && !concerned((1, 26), 14, 15));
    }
}
