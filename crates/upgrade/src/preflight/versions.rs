//! Whether this pair of versions is supported, and which of their bugs are known.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, warning},
    finding::counted,
    source::Source,
};
use crate::{config::Transfer, world::World};

const SOURCES: std::ops::RangeInclusive<u16> = 13..=18;
/// The first with pg_upgrade --swap.
const SWAP_SINCE: u16 = 18;

/// A bug that a later minor has fixed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownBug {
    /// Its name; the same from release to release.
    id: String,
    /// Whose minor matters.
    side: Concerned,
    /// The first minor with it, where not all before the fix have it; by major.
    #[serde(default)]
    since: BTreeMap<String, u16>,
    /// The first minor without it, for each major that had it.
    fixed: BTreeMap<String, u16>,
    /// What it does.
    what: String,
    /// Where the fact is from.
    source: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Concerned {
    Both,
    /// It is in pg_upgrade.
    Target,
}

#[derive(Deserialize)]
struct File {
    bug: Vec<KnownBug>,
}

const TEXT: &str = include_str!("rules/bugs.toml");

/// Every bug; none if the file cannot be read, which a test keeps from happening.
static KNOWN_BUGS: LazyLock<Vec<KnownBug>> = LazyLock::new(|| read(TEXT).unwrap_or_default());

fn read(text: &str) -> Result<Vec<KnownBug>, toml::de::Error> {
    toml::from_str::<File>(text).map(|file| file.bug)
}

pub(super) const ABOUT: About = About {
    check: "versions",
    topic: Topic::Versions,
    reads: "the source's version, the target's, and that of the programs the target will run",
    why: "Only pairs that were tried are upgraded, and some minors have bugs that lose data or fail an upgrade.",
    findings: &[
        blocker("transfer.unsupported", Applied::ByHand("the way of transfer is said in `pgleap.toml`.")),
        blocker("version.source_unsupported", Applied::ByHand("there is no remedy.")),
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
    if let Some(installation) = &source.programs.target {
        let minor = installation.version.split_once('.').and_then(|(_, minor)| minor.parse().ok());
        findings.extend(minor.and_then(|minor| bugs("target", target, minor, true)));
    }
    Ok(findings)
}

/// Which targets there are, the configuration says.
fn pair(source: u16, target: u16) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !SOURCES.contains(&source) {
        let message =
            format!("the source is PostgreSQL {source}; pgleap upgrades from {} to {}", SOURCES.start(), SOURCES.end());
        findings.push(Finding::blocker("version.source_unsupported", message));
    }
    if target <= source {
        let message = format!("the target's major version, {target}, is not above the source's, {source}");
        findings.push(Finding::blocker("version.not_newer", message).fix("correct `target.version`"));
    }
    findings
}

fn bugs(side: &'static str, major: u16, minor: u16, is_target: bool) -> Option<Finding> {
    let number = major.to_string();
    let has = |bug: &&KnownBug| {
        let old = bug.since.get(&number).is_none_or(|since| *since <= minor);
        (is_target || bug.side == Concerned::Both) && old && bug.fixed.get(&number).is_some_and(|fixed| minor < *fixed)
    };
    let known: Vec<_> = KNOWN_BUGS.iter().filter(has).collect();
    let fixed = known.iter().filter_map(|bug| bug.fixed.get(&number)).max()?;
    let what: Vec<_> = known.iter().map(|bug| format!("{} ({})", bug.what, bug.source)).collect();
    let count = counted(known.len(), "known bug");
    let message = format!("the {side}'s PostgreSQL {major}.{minor} has {count}, fixed in {major}.{fixed}");
    Some(
        Finding::warning("version.known_bug", message)
            .because(what.join("; "))
            .objects(known.iter().map(|bug| bug.id.clone()))
            .fix(format!("install the latest minor of {major} and restart the {side}")),
    )
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
        assert_eq!(ids(&pair(12, 14)), ["version.source_unsupported"]);
        assert_eq!(ids(&pair(19, 18)), ["version.source_unsupported", "version.not_newer"]);
    }

    #[test]
    fn known_bugs_are_those_of_the_minor() {
        let ids = |finding: Option<Finding>| finding.map(|finding| finding.objects.join(" ")).unwrap_or_default();
        assert_eq!(ids(bugs("source", 15, 9, false)), "restart_lsn_backwards concurrent_ddl_loses_changes");
        assert_eq!(ids(bugs("source", 15, 13, false)), "invalidation_messages_grow", "it came with the fix of another");
        assert_eq!(ids(bugs("source", 15, 14, false)), "");
        assert_eq!(
            ids(bugs("source", 17, 5, false)),
            "invalidation_messages_grow",
            "a bug of pg_upgrade is the target's"
        );
        assert_eq!(ids(bugs("target", 17, 5, true)), "invalidation_messages_grow pg_upgrade_and_slot_retention");
        assert_eq!(ids(bugs("target", 18, 0, true)), "");
        let message = bugs("source", 15, 9, false).unwrap().message;
        assert_eq!(message, "the source's PostgreSQL 15.9 has 2 known bugs, fixed in 15.13");
    }

    #[test]
    fn every_bug_has_a_source_and_a_fix_for_majors_that_are_upgraded() {
        for bug in read(TEXT).unwrap() {
            assert!(!bug.source.is_empty() && !bug.what.ends_with('.') && !bug.fixed.is_empty(), "{}", bug.id);
            let majors = bug.fixed.keys().chain(bug.since.keys());
            assert!(
                majors.map(|major| major.parse::<u16>().unwrap()).all(|major| (13..=19).contains(&major)),
                "{}",
                bug.id
            );
        }
    }
}
