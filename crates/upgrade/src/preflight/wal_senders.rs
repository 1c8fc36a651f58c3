//! Whether the source may send to all who will read from it.

use super::{
    Answer, Finding, Fix,
    about::{About, Applied, Topic, blocker},
    source::Source,
};

const USED: &str = "SELECT count(*) FROM pg_catalog.pg_stat_replication";

/// The base backup reads files by one and WAL by another.
const FOR_BACKUP: i64 = 2;

pub(super) const ABOUT: About = About {
    check: "wal_senders",
    topic: Topic::Replication,
    reads: "WAL senders in use against `max_wal_senders`",
    why: "Each database's stream takes one, the base backup two. One too few shows only when the copy is taken or, \
          worse, when a standby wants to come back.",
    findings: &[blocker("wal_senders.too_few", Applied::ByPgleap)],
};

pub(super) async fn check(source: &Source) -> Answer {
    let used: i64 = source.session.query_one(USED, &[]).await?.get(0);
    let limit = source.number("max_wal_senders").unwrap_or_default();
    Ok(too_few(source.streams(), limit, used).into_iter().collect())
}

fn too_few(databases: i64, limit: i64, used: i64) -> Option<Finding> {
    let needed = used + databases + FOR_BACKUP;
    (limit < needed).then(|| {
        let message = format!("`max_wal_senders` is {limit} with {used} in use; the upgrade takes it to {needed}");
        Finding::blocker("wal_senders.too_few", message)
            .because(
                "one for each database's stream, two for the base backup; takes effect with a restart of the source",
            )
            .number("limit", limit)
            .number("used", used)
            .number("needed", needed)
            .fixes([Fix::restart("max_wal_senders", needed)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_in_use_are_counted_in() {
        assert_eq!(too_few(3, 6, 1), None);
        assert!(too_few(3, 6, 2).unwrap().remedy.unwrap().contains("max_wal_senders = 7;"));
    }
}
