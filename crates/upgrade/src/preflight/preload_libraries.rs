//! Preloaded libraries that the target's installation lacks.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    finding::listed,
    libraries::{directory, is_missing},
    source::Source,
};
use crate::world::World;

pub(super) const ABOUT: About = About {
    check: "preload_libraries",
    topic: Topic::Objects,
    reads: "`shared_preload_libraries` and the like against the target's installation",
    why: "The source's settings are carried over, and the target does not start without a library that it is told to preload.",
    findings: &[blocker("library.preload_missing", Applied::ByHand("packages of this host are its administrator's."))],
};

/// Settings that a server, or each session, fails on.
const PRELOADING: [&str; 2] = ["shared_preload_libraries", "session_preload_libraries"];

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let target = &world.config.target;
    // programs that are not here are a finding of their own, and a directory that is not found says nothing
    let installation = source.programs.target.as_ref();
    let Some(directory) = installation.and_then(|found| directory(&found.bindir)) else { return Ok(Vec::new()) };
    let mut findings = Vec::new();
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
