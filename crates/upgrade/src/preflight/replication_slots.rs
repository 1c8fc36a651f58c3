//! Whether the source has room for the slots of the upgrade and for the origins of the way back.

use super::{
    Answer, Finding, Fix,
    about::{About, Applied, Topic, blocker},
    finding::counted,
    source::Source,
};

const USED: &str = "
    SELECT (SELECT count(*) FROM pg_catalog.pg_replication_slots),
           (SELECT count(*) FROM pg_catalog.pg_replication_origin_status)";

/// From here on origins have a setting of their own.
const OWN_SETTING_SINCE: u16 = 18;

pub(super) const ABOUT: About = About {
    check: "replication_slots",
    topic: Topic::Replication,
    reads: "slots and origins in use against their limits",
    why: "Each database has a slot that carries its changes and, at the switchover, one that shows who still wrote; \
          the base backup has a temporary one. After the switchover each has a subscription here, which needs an \
          origin. The limits take effect with a restart, which nobody wants in the middle of an upgrade.",
    findings: &[
        blocker("replication_slots.too_few", Applied::ByPgleap),
        blocker("replication_origins.too_few", Applied::ByPgleap),
    ],
};

pub(super) async fn check(source: &Source) -> Answer {
    let row = source.session.query_one(USED, &[]).await?;
    let (slots, origins): (i64, i64) = (row.get(0), row.get(1));
    let limit = source.number("max_replication_slots").unwrap_or_default();
    let mut findings = Vec::new();
    let own_setting = source.major() >= OWN_SETTING_SINCE;
    let origins_limit = source.number("max_active_replication_origins").filter(|_| own_setting);
    findings.extend(slots_short(source.streams(), limit, slots, origins_limit.is_none().then_some(origins)));
    findings.extend(origins_limit.and_then(|limit| origins_short(source.streams(), limit, origins)));
    Ok(findings)
}

/// `origins` are those in use where they share the limit of slots, each kind for itself.
fn slots_short(databases: i64, limit: i64, slots: i64, origins: Option<i64>) -> Option<Finding> {
    let for_slots = slots + 2 * databases + 1;
    let for_origins = origins.map_or(0, |origins| origins + databases);
    let needed = for_slots.max(for_origins);
    (limit < needed).then(|| {
        let streams = counted(usize::try_from(databases).unwrap_or_default(), "database");
        let message = format!("`max_replication_slots` is {limit} with {slots} in use; {streams} take it to {needed}");
        Finding::blocker("replication_slots.too_few", message)
            .because("two slots for each database, one for the base backup; takes effect with a restart of the source")
            .number("limit", limit)
            .number("used", slots)
            .number("needed", needed)
            .fixes([Fix::restart("max_replication_slots", needed)])
    })
}

fn origins_short(databases: i64, limit: i64, used: i64) -> Option<Finding> {
    let needed = used + databases;
    (limit < needed).then(|| {
        let message = format!(
            "`max_active_replication_origins` is {limit} with {used} in use; the way back takes it to {needed}"
        );
        Finding::blocker("replication_origins.too_few", message)
            .because(
                "after the switchover the source follows by one subscription for each database, with an origin each",
            )
            .number("limit", limit)
            .number("used", used)
            .number("needed", needed)
            .fixes([Fix::restart("max_active_replication_origins", needed)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_slots_for_each_database_and_one_for_the_backup_are_needed() {
        assert_eq!(slots_short(3, 7, 0, Some(0)), None);
        assert!(slots_short(3, 6, 0, Some(0)).unwrap().remedy.unwrap().contains("max_replication_slots = 7;"));
        assert!(slots_short(3, 8, 2, Some(0)).unwrap().remedy.unwrap().contains("= 9;"));
    }

    #[test]
    fn origins_share_the_limit_of_slots_where_they_have_none_of_their_own() {
        assert!(slots_short(1, 10, 0, Some(10)).unwrap().remedy.unwrap().contains("= 11;"));
        assert_eq!(slots_short(1, 10, 0, None), None);
        assert_eq!(origins_short(2, 2, 0), None);
        assert!(origins_short(2, 2, 1).unwrap().remedy.unwrap().contains("= 3;"));
    }
}
