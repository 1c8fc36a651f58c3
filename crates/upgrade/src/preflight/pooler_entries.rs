//! Whether a pooler leads clients to the source, by entries that can be moved.

use std::collections::BTreeSet;

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, warning},
    finding::listed,
    pooler::{Console, source_address},
    source::Source,
};
use crate::{
    pg::Side,
    pgbouncer::admin::{Entry, quote},
    readers::Ways,
    world::World,
};

pub(super) const ABOUT: About = About {
    check: "pooler_entries",
    topic: Topic::Poolers,
    reads: "SHOW DATABASES",
    why: "The switchover moves entries that lead to the source's address as `source.dsn` writes it. An entry that \
          writes it in another way would stay behind, and its clients with it. A pause that somebody else began must \
          not be ended by pgleap.",
    findings: &[
        blocker("pooler.leads_elsewhere", Applied::ByHand("where clients are led is the pooler's owner's decision.")),
        warning("pooler.other_address", Applied::ByHand("where clients are led is the pooler's owner's decision.")),
        blocker("pooler.paused", Applied::ByHand("whoever paused it had a reason.")),
    ],
};

pub(super) async fn check(world: &World, source: Option<&Source>, console: &Console<'_>) -> Answer {
    let pooler = console.pooler();
    let names = source.map(Source::names);
    let leading =
        console.entries_to(&Ways::from(&world.config.readers).addresses_of(world, Side::Source), names.as_deref());
    let mut findings = Vec::new();
    if leading.is_empty() {
        let to = source_address(world);
        let elsewhere: BTreeSet<_> = console.seen.entries.iter().map(address).collect();
        let elsewhere: Vec<_> = elsewhere.into_iter().collect();
        let message =
            format!("no entry of PgBouncer {pooler} leads to a database of the upgrade at {}:{}", to.host, to.port);
        let finding = Finding::blocker("pooler.leads_elsewhere", message);
        let cause = match elsewhere.as_slice() {
            [] => "it has no entries".to_owned(),
            places => format!("its entries lead to {}", listed(places)),
        };
        findings.push(
            finding.because(cause).fix("write the source's host the same way in `source.dsn` and in the entries"),
        );
    }
    let strays: Vec<_> = console
        .seen
        .entries
        .iter()
        .filter(|entry| !leading.iter().any(|led| led.name == entry.name))
        .filter(|entry| names.as_ref().is_some_and(|names| names.contains(&entry.database)))
        .map(|entry| format!("{} ({})", entry.name, address(entry)))
        .collect();
    if !leading.is_empty() && !strays.is_empty() {
        let message = format!(
            "entries of PgBouncer {pooler} lead to databases of the upgrade by another address: {}",
            listed(&strays)
        );
        findings.push(
            Finding::warning("pooler.other_address", message)
                .objects(strays)
                .because(
                    "if that is the source too, they are not moved, and their clients are shut out by the switchover",
                )
                .fix("write the source's host the same way in `source.dsn` and in all entries"),
        );
    }
    let paused: Vec<_> = leading.iter().filter(|entry| entry.paused).map(|entry| entry.name.as_str()).collect();
    if !paused.is_empty() {
        let resume: Vec<_> = paused.iter().map(|name| format!("RESUME {};  -- on its console", quote(name))).collect();
        findings.push(
            Finding::blocker("pooler.paused", format!("entries of PgBouncer {pooler} are paused: {}", listed(&paused)))
                .because("their clients are waiting now")
                .objects(paused)
                .fix(resume.join("\n")),
        );
    }
    Ok(findings)
}

fn address(entry: &Entry) -> String {
    let host = if entry.host.is_empty() { "a Unix socket" } else { &entry.host };
    format!("{host}:{}/{}", entry.port, entry.database)
}
