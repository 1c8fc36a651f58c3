//! Questions asked before anything changes: every finding, in every database, in one pass.
//!
//! A check is a file with a function `check` that reads and answers with findings; nothing here writes, and no lock
//! above AccessShare is taken. To add one: write the file, and name it twice below, as a module and in the list of
//! what it looks at (one that nobody asks is dead code to the compiler).
//!
//! Survives: servers and poolers that are silent, refuse pgleap, or fail in the middle: each is a finding, and the
//! other checks go on. A question without an answer blocks; it is never taken for "nothing found". Does not: look into
//! the copy, which is what `pg_upgrade --check` does later.

mod finding;
mod pooler;
mod source;

mod binaries;
mod databases;
mod directories;
mod disk_space;
mod event_triggers;
mod foreign_tables;
mod large_objects;
mod logical_workers;
mod long_transactions;
mod materialized_views;
mod pooler_entries;
mod pooler_ini;
mod pooler_scram_iterations;
mod pooler_settings;
mod prepared_transactions;
mod replica_identity;
mod replica_triggers;
mod replication_slots;
mod retained_wal;
mod role;
mod same_host;
mod slot_retention;
mod subscriptions;
mod superuser_clients;
mod tablespaces;
mod target_port;
mod unlogged_tables;
mod versions;
mod wal_level;
mod wal_senders;

pub use finding::{Finding, Report, Severity};

use futures::{
    StreamExt,
    future::{BoxFuture, join, join_all},
    stream,
};
use tokio_postgres::error::SqlState;

use crate::{
    pg::PgError,
    preflight::{
        pooler::Console,
        source::{Entered, Source},
    },
    world::World,
};

/// Looks at this host, with what is known of the source.
type OfHost = for<'a> fn(&'a World, Option<&'a Source>) -> BoxFuture<'a, Answer>;
/// Looks at the source as a whole.
type OfSource = for<'a> fn(&'a World, &'a Source) -> BoxFuture<'a, Answer>;
/// Looks at one database of the upgrade.
type OfDatabase = for<'a> fn(&'a Entered) -> BoxFuture<'a, Answer>;
/// Looks at one pooler, with what is known of the source.
type OfPooler = for<'a> fn(&'a World, Option<&'a Source>, &'a Console) -> BoxFuture<'a, Answer>;

const OF_HOST: &[(&str, OfHost)] = &[
    ("binaries", |w, s| Box::pin(binaries::check(w, s))),
    ("directories", |w, _| Box::pin(directories::check(w))),
    ("target_port", |w, _| Box::pin(target_port::check(w))),
];

const OF_SOURCE: &[(&str, OfSource)] = &[
    ("databases", |w, s| Box::pin(databases::check(w, s))),
    ("disk_space", |w, s| Box::pin(disk_space::check(w, s))),
    ("logical_workers", |_, s| Box::pin(logical_workers::check(s))),
    ("long_transactions", |w, s| Box::pin(long_transactions::check(w, s))),
    ("prepared_transactions", |_, s| Box::pin(prepared_transactions::check(s))),
    ("replication_slots", |_, s| Box::pin(replication_slots::check(s))),
    ("retained_wal", |w, s| Box::pin(retained_wal::check(w, s))),
    ("role", |w, s| Box::pin(role::check(w, s))),
    ("same_host", |w, s| Box::pin(same_host::check(w, s))),
    ("slot_retention", |_, s| Box::pin(slot_retention::check(s))),
    ("subscriptions", |_, s| Box::pin(subscriptions::check(s))),
    ("superuser_clients", |w, s| Box::pin(superuser_clients::check(w, s))),
    ("tablespaces", |_, s| Box::pin(tablespaces::check(s))),
    ("versions", |w, s| Box::pin(versions::check(w, s))),
    ("wal_level", |_, s| Box::pin(wal_level::check(s))),
    ("wal_senders", |_, s| Box::pin(wal_senders::check(s))),
];

const OF_DATABASE: &[(&str, OfDatabase)] = &[
    ("event_triggers", |d| Box::pin(event_triggers::check(d))),
    ("foreign_tables", |d| Box::pin(foreign_tables::check(d))),
    ("large_objects", |d| Box::pin(large_objects::check(d))),
    ("materialized_views", |d| Box::pin(materialized_views::check(d))),
    ("replica_identity", |d| Box::pin(replica_identity::check(d))),
    ("replica_triggers", |d| Box::pin(replica_triggers::check(d))),
    ("unlogged_tables", |d| Box::pin(unlogged_tables::check(d))),
];

const OF_POOLER: &[(&str, OfPooler)] = &[
    ("pooler_entries", |w, s, c| Box::pin(pooler_entries::check(w, s, c))),
    ("pooler_ini", |w, s, c| Box::pin(pooler_ini::check(w, s, c))),
    ("pooler_scram_iterations", |w, s, c| Box::pin(pooler_scram_iterations::check(w, s, c))),
    ("pooler_settings", |w, _, c| Box::pin(pooler_settings::check(w, c))),
];

/// Databases that are looked into at the same time: each is a connection.
const AT_ONCE: usize = 8;

/// What a check found, or why it could not look.
type Answer = Result<Vec<Finding>, Unanswered>;

/// A check that could not look.
struct Unanswered {
    message: String,
    cause: Option<String>,
    privilege: bool,
}

impl From<PgError> for Unanswered {
    fn from(error: PgError) -> Self {
        let privilege = error.sqlstate() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
        Self { message: error.to_string(), cause: error.reason(), privilege }
    }
}

/// Asks everything, and changes nothing. Never fails: a server that cannot be reached is a finding.
///
/// Servers are contacted at the same time; the slowest decides how long it takes, and a second of it measures the
/// source's WAL.
pub async fn check(world: &World) -> Report {
    let consoles = join_all(world.route.members().iter().map(|member| Console::open(world, member)));
    let (source, consoles) = join(Source::open(world), consoles).await;
    let mut findings = Vec::new();
    let source = source.map_err(|finding| findings.push(finding)).ok();
    let consoles = consoles.into_iter().filter_map(|console| console.map_err(|finding| findings.push(finding)).ok());
    let consoles: Vec<_> = consoles.collect();
    let known = source.as_ref();

    let mut asked: Vec<BoxFuture<'_, Vec<Finding>>> = Vec::new();
    for (name, ask) in OF_HOST {
        asked.push(Box::pin(async move { answered(name, known, ask(world, known).await) }));
    }
    for console in &consoles {
        for (name, ask) in OF_POOLER {
            asked.push(Box::pin(async move { answered(name, known, ask(world, known, console).await) }));
        }
    }
    if let Some(source) = known {
        for (name, ask) in OF_SOURCE {
            asked.push(Box::pin(async move { answered(name, known, ask(world, source).await) }));
        }
        let each = source.names().into_iter().map(|name| in_database(world, source, name));
        asked.push(Box::pin(stream::iter(each).buffer_unordered(AT_ONCE).concat()));
    }
    findings.extend(join_all(asked).await.into_iter().flatten());
    Report::new(findings)
}

async fn in_database(world: &World, source: &Source, name: String) -> Vec<Finding> {
    let session = match world.source.db(&name).await {
        Ok(session) => session,
        Err(error) => {
            let message = format!("cannot enter database `{name}` of the source");
            let cause = error.reason().unwrap_or_else(|| error.to_string());
            return vec![Finding::blocker("database.unreachable", message).because(cause)];
        }
    };
    let database = Entered { name, session };
    let asked = OF_DATABASE.iter().map(|(name, ask)| {
        let answer = ask(&database);
        async move { answered(name, Some(source), answer.await) }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Turns a check that could not look into a finding.
///
/// For a role that lacks the rights it is a note: the role itself is a blocker already, and it would be said many times.
fn answered(check: &str, source: Option<&Source>, answer: Answer) -> Vec<Finding> {
    let unanswered = match answer {
        Ok(findings) => return findings,
        Err(unanswered) => unanswered,
    };
    let message = format!("check `{check}` could not look: {}", unanswered.message);
    let lacks_rights = unanswered.privilege && source.is_some_and(|source| !source.is_superuser);
    let finding = if lacks_rights {
        Finding::note("check.unanswered", message)
    } else {
        Finding::blocker("check.unanswered", message)
    };
    vec![match unanswered.cause {
        Some(cause) => finding.because(cause),
        None => finding,
    }]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_this_folder_is_asked() {
        let not_checks = ["finding", "mod", "pooler", "source"];
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/preflight");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
        let files: BTreeSet<_> = files.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
        let asked = OF_HOST.iter().map(|(name, _)| *name);
        let asked =
            asked.chain(OF_SOURCE.iter().map(|(name, _)| *name)).chain(OF_DATABASE.iter().map(|(name, _)| *name));
        let asked = asked.chain(OF_POOLER.iter().map(|(name, _)| *name)).chain(not_checks);
        assert_eq!(files, asked.map(str::to_owned).collect());
    }

    #[test]
    fn question_without_an_answer_blocks() {
        let unanswered = Unanswered { message: "no answer".into(), cause: None, privilege: true };
        let findings = answered("wal_level", None, Err(unanswered));
        assert_eq!((findings[0].id, findings[0].severity), ("check.unanswered", Severity::Blocker));
    }
}
