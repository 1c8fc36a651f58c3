//! Whether the programs of both majors are on this host.

use std::path::PathBuf;

use pgleap_local::{BinariesError, Installation};

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, note},
    finding::listed,
    source::Source,
};
use crate::world::World;

/// What the chain runs of the source's major: the copy is taken, started and read with these.
const OF_SOURCE: [&str; 5] = ["postgres", "pg_ctl", "pg_basebackup", "pg_controldata", "pg_resetwal"];
/// What the chain runs of the target's major; pg_upgrade calls the last four.
const OF_TARGET: [&str; 8] =
    ["postgres", "pg_ctl", "initdb", "pg_upgrade", "pg_dump", "pg_dumpall", "pg_restore", "psql"];

pub(super) const ABOUT: About = About {
    check: "binaries",
    topic: Topic::Host,
    reads: "the programs of both majors on this host",
    why: "Without them the copy can be neither taken nor upgraded, and that would show only after the slots have \
          begun to keep WAL.",
    findings: &[
        blocker("binaries.missing", Applied::ByHand("packages of this host are its administrator's.")),
        blocker("binaries.incomplete", Applied::ByHand("packages of this host are its administrator's.")),
        note("binaries.minor_differs", Applied::ByHand("nothing has to be done.")),
    ],
};

pub(super) async fn check(world: &World, source: Option<&Source>) -> Answer {
    let bindirs = &world.config.provider.bindirs;
    let mut findings = look("target", world.config.target.version, &OF_TARGET, bindirs).1;
    if let Some(source) = source {
        let (installation, found) = look("source", source.major(), &OF_SOURCE, bindirs);
        findings.extend(found);
        findings.extend(installation.and_then(|installation| differing_minor(source, &installation)));
    }
    Ok(findings)
}

fn look(side: &str, major: u16, tools: &[&str], bindirs: &[PathBuf]) -> (Option<Installation>, Vec<Finding>) {
    let installation = match pgleap_local::find(major, bindirs) {
        Ok(installation) => installation,
        Err(error) => {
            let message = format!("the {side}'s programs, PostgreSQL {major}, are not on this host");
            let finding = Finding::blocker("binaries.missing", message).fix(format!("scripts/setup {major}"));
            let cause = match &error {
                BinariesError::NotFound { searched, .. } => {
                    let searched: Vec<_> = searched.iter().map(|path| path.display().to_string()).collect();
                    format!("looked in {}", searched.join(", "))
                }
                BinariesError::NoPooler { .. } => error.to_string(),
            };
            return (None, vec![finding.because(cause)]);
        }
    };
    let missing: Vec<_> = tools.iter().filter(|tool| !installation.tool(tool).is_file()).collect();
    let mut findings = Vec::new();
    if !missing.is_empty() {
        let bindir = installation.bindir.display();
        let message = format!("PostgreSQL {major} in `{bindir}` lacks {}, which the {side} needs", listed(&missing));
        findings.push(
            Finding::blocker("binaries.incomplete", message)
                .because("the client or server part of the package is not installed")
                .fix(format!("scripts/setup {major}")),
        );
    }
    (Some(installation), findings)
}

/// The copy runs under the programs on this host, which need not be those that the source was started with.
fn differing_minor(source: &Source, installation: &Installation) -> Option<Finding> {
    let (major, minor) = (source.major(), source.minor());
    let running = format!("{major}.{minor}");
    if installation.version == running || !installation.version.contains('.') {
        return None;
    }
    let installed = &installation.version;
    let message =
        format!("the source runs {running}, the programs in `{}` are {installed}", installation.bindir.display());
    Some(
        Finding::note("binaries.minor_differs", message)
            .because("the copy is recovered by the programs on this host; minors of one major read each other's files"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_major_names_where_it_was_looked_for_and_the_command_that_brings_it() {
        let (_, findings) = look("target", 99, &OF_TARGET, &["/nowhere".into()]);
        assert_eq!(findings[0].id, "binaries.missing");
        assert!(findings[0].cause.as_deref().unwrap().contains("/nowhere/99/bin"));
        assert_eq!(findings[0].remedy.as_deref(), Some("scripts/setup 99"));
    }

    #[test]
    fn installation_without_pg_upgrade_is_incomplete() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for tool in OF_TARGET.iter().filter(|tool| **tool != "pg_upgrade") {
            let path = dir.path().join(tool);
            std::fs::write(&path, "#!/bin/sh\necho 'postgres (PostgreSQL) 77.1'\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let (_, findings) = look("target", 77, &OF_TARGET, &[dir.path().to_owned()]);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].id, "binaries.incomplete");
        assert!(findings[0].message.contains("`pg_upgrade`"), "{}", findings[0].message);
    }
}
