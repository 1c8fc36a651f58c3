//! Whether the source has workers to follow the target with, after the switchover.

use super::{
    Answer, Finding, Fix,
    about::{About, Applied, Topic, blocker},
    source::Source,
};

/// Background workers of extensions and of replication; parallel workers come and go, and the server's own processes
/// do not count against the limit.
const USED: &str = "
    SELECT (SELECT count(*) FROM pg_catalog.pg_stat_subscription WHERE pid IS NOT NULL),
           (SELECT count(*) FROM pg_catalog.pg_stat_activity
             WHERE backend_type NOT IN ('client backend', 'autovacuum launcher', 'autovacuum worker', 'background writer',
                   'checkpointer', 'walwriter', 'walsender', 'walreceiver', 'startup', 'archiver', 'logger',
                   'io worker', 'slotsync worker', 'walsummarizer', 'standalone backend', 'parallel worker',
                   'logical replication launcher'))";

pub(super) const ABOUT: About = About {
    check: "logical_workers",
    topic: Topic::Replication,
    reads: "workers in use against `max_logical_replication_workers` and `max_worker_processes`",
    why: "The way back is the source following the target: one apply worker for each database, and their launcher. \
          Too few, and some database's way back would silently stand still. Both limits take effect with a restart.",
    findings: &[
        blocker("logical_workers.too_few", Applied::ByPgleap),
        blocker("worker_processes.too_few", Applied::ByPgleap),
    ],
};

pub(super) async fn check(source: &Source) -> Answer {
    let row = source.session.query_one(USED, &[]).await?;
    let (logical, all): (i64, i64) = (row.get(0), row.get(1));
    let limit = |name| source.number(name).unwrap_or_default();
    let mut findings = Vec::new();
    let because = "the way back is one apply worker for each database";
    for (id, name, needed, used) in [
        ("logical_workers.too_few", "max_logical_replication_workers", logical + source.streams(), logical),
        // one more is the launcher of the others
        ("worker_processes.too_few", "max_worker_processes", all + source.streams() + 1, all),
    ] {
        findings.extend(too_few(id, name, limit(name), needed, used).map(|finding| finding.because(because)));
    }
    Ok(findings)
}

fn too_few(id: &'static str, setting: &str, limit: i64, needed: i64, used: i64) -> Option<Finding> {
    (limit < needed).then(|| {
        let message = format!("`{setting}` is {limit} with {used} in use; the way back takes it to {needed}");
        Finding::blocker(id, message)
            .number("limit", limit)
            .number("used", used)
            .number("needed", needed)
            .fixes([Fix::restart(setting, needed)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_that_is_just_enough_is_no_finding() {
        assert_eq!(too_few("a.b", "s", 4, 4, 1), None);
        assert!(too_few("a.b", "s", 3, 4, 1).unwrap().remedy.unwrap().starts_with("ALTER SYSTEM SET s = 4;"));
    }
}
