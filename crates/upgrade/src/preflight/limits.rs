//! Whether the source's limits leave room for the upgrade: slots, origins, senders and workers, by one formula, which the plan
//! uses too.

use super::{
    Answer, Finding, Fix,
    about::{About, Applied, Topic, blocker},
    finding::listed,
    followers,
    source::Source,
};
use crate::pg::{PgError, Session};

/// From 18 on origins have a limit of their own; before they share that of slots, each kind for itself.
const ORIGINS_APART_SINCE: u16 = 18;

/// Of the limits here, those that a physical standby must have as high as its primary: 13 shuts it down where it is lower, later ones
/// pause its recovery.
const OF_STANDBYS: [&str; 2] = ["max_wal_senders", "max_worker_processes"];

/// Origins are those that exist: which of them are in use only a superuser is told. Workers are those of extensions and of
/// replication: parallel workers come and go, and the server's own processes do not
/// count against the limit.
const IN_USE: &str = "
    SELECT (SELECT count(*) FROM pg_catalog.pg_replication_slots),
           (SELECT count(*) FROM pg_catalog.pg_replication_origin),
           (SELECT count(*) FROM pg_catalog.pg_stat_replication),
           (SELECT count(*) FROM pg_catalog.pg_stat_subscription WHERE pid IS NOT NULL),
           (SELECT count(*) FROM pg_catalog.pg_stat_activity
             WHERE backend_type NOT IN ('client backend', 'autovacuum launcher', 'autovacuum worker', 'background writer',
                   'checkpointer', 'walwriter', 'walsender', 'walreceiver', 'startup', 'archiver', 'logger',
                   'io worker', 'slotsync worker', 'walsummarizer', 'standalone backend', 'parallel worker',
                   'logical replication launcher'))";

/// What others use of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct InUse {
    /// Replication slots.
    pub slots: u64,
    /// Replication origins.
    pub origins: u64,
    /// WAL senders.
    pub senders: u64,
    /// Workers that apply changes.
    pub logical_workers: u64,
    /// Background workers, those among them.
    pub workers: u64,
}

impl InUse {
    /// Reads it.
    ///
    /// # Errors
    /// [`PgError`] if the server does not say; statistics need `pg_monitor` to be complete.
    pub async fn read(session: &Session) -> Result<Self, PgError> {
        let row = session.query_one(IN_USE, &[]).await?;
        let count = |column: usize| u64::try_from(row.get::<_, i64>(column)).unwrap_or_default();
        Ok(Self { slots: count(0), origins: count(1), senders: count(2), logical_workers: count(3), workers: count(4) })
    }
}

/// A limit, and the least that the upgrade takes it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// What is told where it is too low.
    pub finding: &'static str,
    /// Its name.
    pub setting: &'static str,
    /// What others use of it.
    pub used: u64,
    /// What it has to be.
    pub needed: u64,
    /// What takes it there.
    pub why: &'static str,
}

/// Returns what each limit has to be for so many databases on a source of that major. All take effect with a restart.
pub(crate) fn needed(databases: u64, used: InUse, major: u16) -> Vec<Limit> {
    let apart = major >= ORIGINS_APART_SINCE;
    let (slots, origins) = (used.slots + 2 * databases + 1, used.origins + databases);
    let limit = |finding, setting, used, needed, why| Limit { finding, setting, used, needed, why };
    let mut limits = vec![
        limit(
            "replication_slots.too_few",
            "max_replication_slots",
            used.slots,
            if apart { slots } else { slots.max(origins) },
            "two slots for each database, one for the base backup",
        ),
        limit(
            "wal_senders.too_few",
            "max_wal_senders",
            used.senders,
            used.senders + databases + 2,
            "one for each database's stream, two for the base backup",
        ),
        limit(
            "logical_workers.too_few",
            "max_logical_replication_workers",
            used.logical_workers,
            used.logical_workers + databases,
            "an apply worker for each database, on the way back",
        ),
        limit(
            "worker_processes.too_few",
            "max_worker_processes",
            used.workers,
            used.workers + databases + 1,
            "an apply worker for each database, on the way back, and their launcher",
        ),
    ];
    if apart {
        limits.push(limit(
            "replication_origins.too_few",
            "max_active_replication_origins",
            used.origins,
            origins,
            "an origin for each database, on the way back",
        ));
    }
    limits
}

pub(super) const ABOUT: About = About {
    check: "limits",
    topic: Topic::Replication,
    reads: "slots, origins, WAL senders and workers in use against their limits",
    why: "Each database has a slot that carries its changes and, at the switchover, one that shows who still wrote; the base \
          backup has a temporary one, and reads by two WAL senders. After the switchover each database has a subscription here: \
          an origin, an apply worker, and one launcher for them all; too few, and some database's way back would silently stand \
          still. The limits take effect with a restart, which nobody wants in the middle of an upgrade. A physical standby must have \
          as many senders and worker processes as the source, or it stops replaying when the source has more: it is raised there \
          first.",
    findings: &[
        blocker("replication_slots.too_few", Applied::ByPgleap),
        blocker("replication_origins.too_few", Applied::ByPgleap),
        blocker("wal_senders.too_few", Applied::ByPgleap),
        blocker("logical_workers.too_few", Applied::ByPgleap),
        blocker("worker_processes.too_few", Applied::ByPgleap),
    ],
};

pub(super) async fn check(source: &Source) -> Answer {
    let used = InUse::read(&source.session).await?;
    let standbys = followers::standbys(source).await?;
    let limits = needed(source.databases.len() as u64, used, source.major());
    let low = |limit: Limit| {
        let now = u64::try_from(source.number(limit.setting).unwrap_or_default()).unwrap_or_default();
        let later = source.after_restart(limit.setting).and_then(|value| value.parse().ok());
        let falls = later.filter(|later| now >= limit.needed && *later < limit.needed);
        (now < limit.needed || falls.is_some()).then(|| too_few(&limit, now, falls, &standbys))
    };
    Ok(limits.into_iter().filter_map(low).collect())
}

/// `falls` is what the next restart makes of one that is high enough now: a crash is a restart too.
fn too_few(limit: &Limit, now: u64, falls: Option<u64>, standbys: &[String]) -> Finding {
    let Limit { finding, setting, used, needed, why } = limit;
    let later = falls.map(|later| format!(", and {later} after the next restart,")).unwrap_or_default();
    let message = format!("`{setting}` is {now}{later} with {used} in use; the upgrade takes it to {needed}");
    let (mut cause, mut fix) =
        (format!("{why}; takes effect with a restart of the source"), Fix::restart(setting, needed));
    if !standbys.is_empty() && OF_STANDBYS.contains(setting) {
        cause.push_str(&format!(", and a standby with less stops replaying then: first on {}", listed(standbys)));
        fix = fix.on_standbys_first();
    }
    Finding::blocker(finding, message)
        .because(cause)
        .number("limit", now)
        .number("used", *used)
        .number("needed", *needed)
        .fixes([fix])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(databases: u64, used: InUse, major: u16, setting: &str) -> Option<u64> {
        needed(databases, used, major).iter().find(|limit| limit.setting == setting).map(|limit| limit.needed)
    }

    #[test]
    fn what_others_use_is_counted_in() {
        let used = InUse { slots: 2, origins: 1, senders: 3, logical_workers: 1, workers: 2 };
        assert_eq!(of(3, used, 15, "max_replication_slots"), Some(9));
        assert_eq!(of(3, used, 15, "max_wal_senders"), Some(8));
        assert_eq!(of(3, used, 15, "max_logical_replication_workers"), Some(4));
        assert_eq!(of(3, used, 15, "max_worker_processes"), Some(6));
    }

    #[test]
    fn origins_share_the_limit_of_slots_where_they_have_none_of_their_own() {
        let used = InUse { origins: 10, ..InUse::default() };
        assert_eq!(of(1, used, 17, "max_replication_slots"), Some(11));
        assert_eq!(of(1, used, 17, "max_active_replication_origins"), None);
        assert_eq!(of(1, used, 18, "max_replication_slots"), Some(3));
        assert_eq!(of(1, used, 18, "max_active_replication_origins"), Some(11));
    }

    #[test]
    fn limit_that_is_too_low_says_who_takes_it_and_how_it_is_raised() {
        let limit = needed(1, InUse::default(), 15)[0];
        let finding = too_few(&limit, 2, None, &["near".into()]);
        assert_eq!(finding.message, "`max_replication_slots` is 2 with 0 in use; the upgrade takes it to 3");
        assert_eq!(finding.remedy.unwrap(), "ALTER SYSTEM SET max_replication_slots = 3;  -- then restart the source");
    }
}
