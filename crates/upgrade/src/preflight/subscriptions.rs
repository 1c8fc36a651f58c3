//! Whether the source itself subscribes to others.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, warning},
    finding::{counted, listed},
    source::Source,
};
use crate::pg::ident;

const SUBSCRIPTIONS: &str = "
    SELECT s.subname::text, d.datname::text, s.subenabled
      FROM pg_catalog.pg_subscription AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.subdbid ORDER BY 2, 1";

pub(super) const ABOUT: About = About {
    check: "subscriptions",
    topic: Topic::Replication,
    reads: "`pg_subscription`, which every database shares",
    why: "Subscriptions are dropped from the copy, whose workers would otherwise take over the publisher's slots. On \
          the source they go on writing after the switchover, past the fence, where the fence's audit finds them.",
    findings: &[
        blocker("subscription.active", Applied::ByHand("what arrives by it may be needed.")),
        warning("subscription.not_carried", Applied::ByHand("only its owner knows whether it is wanted again.")),
    ],
};

pub(super) async fn check(source: &Source) -> Answer {
    let rows = source.session.query(SUBSCRIPTIONS, &[]).await?;
    let mut findings = Vec::new();
    for enabled in [true, false] {
        let of_kind = rows.iter().filter(|row| row.get::<_, bool>(2) == enabled);
        let found: Vec<(String, String)> = of_kind.map(|row| (row.get(0), row.get(1))).collect();
        if found.is_empty() {
            continue;
        }
        let names: Vec<_> = found.iter().map(|(name, database)| format!("{name} in {database}")).collect();
        let count = found.len();
        let (what, objects, names) = (counted(count, "subscription"), names.clone(), listed(&names));
        let statements = |verb: &str| {
            let line = |(name, database): &(String, String)| {
                format!("\\c {}\n{}", ident::quote(database), verb.replace("{}", &ident::quote(name)))
            };
            found.iter().map(line).collect::<Vec<_>>().join("\n")
        };
        let finding = if enabled {
            Finding::blocker("subscription.active", format!("the source has {what} of its own: {names}"))
                .because("the target does not get it, and on the source it would go on writing after the switchover")
                .fix(statements("ALTER SUBSCRIPTION {} DISABLE;"))
        } else {
            Finding::warning("subscription.not_carried", format!("the source has {what}, disabled: {names}"))
                .because("subscriptions are dropped from the copy: make them anew on the target when it serves")
                .fix(statements("DROP SUBSCRIPTION {};"))
        };
        findings.push(finding.objects(objects));
    }
    Ok(findings)
}
