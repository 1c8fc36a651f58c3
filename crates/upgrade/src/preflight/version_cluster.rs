//! What of the cluster as a whole the next major refuses, or does otherwise.

use super::{
    Answer,
    about::{About, Applied, Topic, blocker, note, warning},
    rules::{self, Found, Ids, Rule},
    source::Source,
};
use crate::world::World;

pub(super) const ABOUT: About = About {
    check: "version_cluster",
    topic: Topic::Versions,
    reads: "roles, databases, tablespaces and pg_hba.conf against the rules between the two majors",
    why: "What pg_upgrade refuses shows only after the copy is made, and what the new major does otherwise only after the \
          switchover. The rules are data, each with the release notes that say so: the last chapter of `docs/checks.md`.",
    findings: &[
        blocker("version.cluster_refused", Applied::ByHand("what the cluster needs instead is its owner's to say.")),
        warning("version.cluster_changes", Applied::ByHand("what the cluster needs instead is its owner's to say.")),
        note("version.cluster_differs", Applied::ByHand("nothing has to be done.")),
    ],
};

const IDS: Ids =
    Ids { blocker: "version.cluster_refused", warning: "version.cluster_changes", note: "version.cluster_differs" };

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let mut findings = Vec::new();
    let asked = |rule: &&Rule| rule.cluster && (source.is_superuser || !rule.superuser);
    for rule in rules::between(source.major(), world.config.target.version).filter(asked) {
        let Some(sql) = &rule.sql else { continue };
        let rows = source.session.query(sql, &[]).await?;
        let found: Vec<_> = rows.iter().map(|row| Found { name: row.get("name"), fix: row.get("fix") }).collect();
        findings.extend(rule.finding(IDS, "the source", &found));
    }
    Ok(findings)
}
