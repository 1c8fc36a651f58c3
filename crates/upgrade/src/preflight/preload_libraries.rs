//! Preloaded libraries that the target's installation lacks, or that would act there by themselves.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, warning},
    finding::listed,
    libraries::{directory, is_missing},
    source::Source,
};
use crate::world::World;

pub(super) const ABOUT: About = About {
    check: "preload_libraries",
    topic: Topic::Objects,
    reads: "`shared_preload_libraries` and the like against the target's installation",
    why: "The source's settings are carried over, and the target does not start without a library that it is told to preload. One that \
          works in the background does so on the target from its first start on, while it still follows: what it writes there, or \
          sends elsewhere, is done twice. Jobs of pg_cron have a finding of their own.",
    findings: &[
        blocker("library.preload_missing", Applied::ByHand("packages of this host are its administrator's.")),
        warning("library.acts", Applied::ByHand("the target's settings are in `pgleap.toml`.")),
    ],
};

/// Libraries that act by themselves once they are loaded.
const ACTING: [&str; 9] =
    ["pg_cron", "pg_partman_bgw", "pglogical", "bdr", "pg_net", "pgactive", "timescaledb", "citus", "pg_squeeze"];
/// Whose jobs are looked at.
const LOOKED_AT: &str = "pg_cron";

/// Returns a library's name without its place and quotes.
fn bare(library: &str) -> &str {
    let name = library.trim_matches('"');
    name.rsplit('/').next().unwrap_or(name).trim_end_matches(".so")
}

/// Whether a library does something by itself: a twin must run no jobs.
pub(crate) fn acts(library: &str) -> bool {
    ACTING.contains(&bare(library))
}

/// Settings that a server, or each session, fails on.
const PRELOADING: [&str; 2] = ["shared_preload_libraries", "session_preload_libraries"];

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let target = &world.config.target;
    let mut findings = Vec::from_iter(acting(world, source));
    // programs that are not here are a finding of their own, and a directory that is not found says nothing
    let installation = source.programs.target.as_ref();
    let Some(directory) = installation.and_then(|found| directory(&found.bindir)) else { return Ok(findings) };
    for setting in PRELOADING {
        if target.settings.iter().any(|(name, _)| name == setting) {
            continue;
        }
        let names = names(source.setting(setting).unwrap_or_default());
        let missing: Vec<_> = names.into_iter().filter(|name| is_missing(name, &directory)).collect();
        if missing.is_empty() {
            continue;
        }
        let message =
            format!("PostgreSQL {} on this host cannot preload {} (`{setting}`)", target.version, listed(&missing));
        findings.push(
            Finding::blocker("library.preload_missing", message)
                .because(format!("the target would not start, or take no sessions; looked in {}", directory.display()))
                .objects(missing)
                .fix(format!(
                    "settings = {{ {setting} = \"…\" }}  # under [target]: without them, or install their packages"
                )),
        );
    }
    Ok(findings)
}

fn acting(world: &World, source: &Source) -> Option<Finding> {
    if world.config.target.settings.iter().any(|(name, _)| name == PRELOADING[0]) {
        return None;
    }
    let all = names(source.setting(PRELOADING[0]).unwrap_or_default());
    let (acting, quiet): (Vec<_>, Vec<_>) = all.into_iter().partition(|name| acts(name) && bare(name) != LOOKED_AT);
    if acting.is_empty() {
        return None;
    }
    let message = format!("what works by itself would do so on the target while it follows: {}", listed(&acting));
    Some(
        Finding::warning("library.acts", message)
            .because("what it writes there collides with what is applied, and what it sends elsewhere is sent twice")
            .objects(acting)
            .fix(format!(
                "settings = {{ shared_preload_libraries = \"{}\" }}  # under [target], where its extension can do without; else \
                 what keeps it quiet, such as \"timescaledb.max_background_workers\" = \"0\"; back with a restart when the target serves",
                quiet.join(", ")
            )),
    )
}

fn names(setting: &str) -> Vec<String> {
    let names = setting.split(',').map(|name| name.trim().trim_matches('"').to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_the_list() {
        assert_eq!(
            names("pg_stat_statements, \"auto_explain\",$libdir/x"),
            ["pg_stat_statements", "auto_explain", "$libdir/x"]
        );
        assert_eq!(names(""), [""; 0]);
    }
}
