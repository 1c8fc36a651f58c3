//! Whether this pair of versions is supported, and which of their bugs are known.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, warning},
    source::Source,
};
use crate::{config::Transfer, world::World};

const SOURCES: std::ops::RangeInclusive<u16> = 13..=18;
const TARGETS: std::ops::RangeInclusive<u16> = 14..=19;
/// The first with pg_upgrade --swap.
const SWAP_SINCE: u16 = 18;

/// A bug that a later minor has fixed.
struct KnownBug {
    /// The first minor without it, for each major that had it.
    fixed_in: &'static [(u16, u16)],
    /// It is in pg_upgrade, so only the target's matters.
    of_target_alone: bool,
    what: &'static str,
}

const KNOWN_BUGS: &[KnownBug] = &[
    // Source: release notes of 2024-11-21, "restart_lsn could go backwards"
    KnownBug {
        fixed_in: &[(12, 22), (13, 18), (14, 15), (15, 10), (16, 6), (17, 2)],
        of_target_alone: false,
        what: "a logical slot's restart_lsn may go backwards, and then ask for WAL that is gone",
    },
    // Source: release notes of 17.6, pg_upgrade and max_slot_wal_keep_size
    KnownBug {
        fixed_in: &[(17, 6)],
        of_target_alone: true,
        what: "pg_upgrade fails where max_slot_wal_keep_size is not -1",
    },
];

pub(super) const ABOUT: About = About {
    check: "versions",
    topic: Topic::Versions,
    reads: "the source's version, the target's, and that of the programs the target will run",
    why: "Only pairs that were tried are upgraded, and some minors have bugs that lose data or fail an upgrade.",
    findings: &[
        blocker("transfer.unsupported", Applied::ByHand("the way of transfer is said in `pgleap.toml`.")),
        blocker("version.source_unsupported", Applied::ByHand("there is no remedy.")),
        blocker("version.target_unsupported", Applied::ByHand("the target's version is said in `pgleap.toml`.")),
        blocker("version.not_newer", Applied::ByHand("the target's version is said in `pgleap.toml`.")),
        warning(
            "version.known_bug",
            Applied::ByHand("a new minor takes a restart, and packages are the administrator's."),
        ),
    ],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let target = world.config.target.version;
    let mut findings = pair(source.major(), target);
    if world.config.provider.transfer == Transfer::Swap && target < SWAP_SINCE {
        let message = format!("`provider.transfer` is `swap`, which PostgreSQL {target} cannot do");
        findings.push(Finding::blocker("transfer.unsupported", message).fix("transfer = \"link\"  # under [provider]"));
    }
    findings.extend(bugs("source", source.major(), source.minor(), false));
    if let Ok(installation) = pgleap_local::find(target, &world.config.provider.bindirs) {
        let minor = installation.version.split_once('.').and_then(|(_, minor)| minor.parse().ok());
        findings.extend(minor.into_iter().flat_map(|minor| bugs("target", target, minor, true)));
    }
    Ok(findings)
}

fn pair(source: u16, target: u16) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !SOURCES.contains(&source) {
        let message =
            format!("the source is PostgreSQL {source}; pgleap upgrades from {} to {}", SOURCES.start(), SOURCES.end());
        findings.push(Finding::blocker("version.source_unsupported", message));
    }
    if !TARGETS.contains(&target) {
        let message =
            format!("the target is PostgreSQL {target}; pgleap upgrades to {} to {}", TARGETS.start(), TARGETS.end());
        findings.push(Finding::blocker("version.target_unsupported", message).fix("correct `target.version`"));
    }
    if target <= source {
        let message = format!("the target's major version, {target}, is not above the source's, {source}");
        findings.push(Finding::blocker("version.not_newer", message).fix("correct `target.version`"));
    }
    findings
}

fn bugs(side: &'static str, major: u16, minor: u16, is_target: bool) -> impl Iterator<Item = Finding> {
    let concerned = KNOWN_BUGS.iter().filter(move |bug| is_target || !bug.of_target_alone);
    concerned.filter_map(move |bug| {
        let (_, fixed) = bug.fixed_in.iter().find(|(m, _)| *m == major)?;
        (minor < *fixed).then(|| {
            let message = format!("the {side}'s PostgreSQL {major}.{minor} has a known bug, fixed in {major}.{fixed}");
            Finding::warning("version.known_bug", message)
                .because(bug.what)
                .fix(format!("install the latest minor of {major} and restart the {side}"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.id).collect()
    }

    #[test]
    fn target_must_be_newer_than_the_source_and_both_supported() {
        assert_eq!(ids(&pair(15, 18)), [""; 0]);
        assert_eq!(ids(&pair(18, 19)), [""; 0]);
        assert_eq!(ids(&pair(15, 15)), ["version.not_newer"]);
        assert_eq!(ids(&pair(12, 13)), ["version.source_unsupported", "version.target_unsupported"]);
        assert_eq!(ids(&pair(19, 18)), ["version.source_unsupported", "version.not_newer"]);
    }

    #[test]
    fn known_bugs_end_with_the_minor_that_fixed_them() {
        assert_eq!(bugs("source", 15, 9, false).count(), 1);
        assert_eq!(bugs("source", 15, 10, false).count(), 0);
        assert_eq!(bugs("source", 17, 3, false).count(), 0, "a bug of pg_upgrade is the target's");
        assert_eq!(bugs("target", 17, 5, true).count(), 1);
        assert_eq!(bugs("target", 17, 6, true).count(), 0);
        assert_eq!(bugs("target", 18, 0, true).count(), 0);
    }
}
