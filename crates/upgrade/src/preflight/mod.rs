//! Questions asked before anything changes: every finding, in every database, in one pass.
//!
//! A check is a file with a function `check` that reads and answers with findings; nothing here writes, and no lock
//! above AccessShare is taken. To add one: write the file, with its `ABOUT` beside it, and name it twice below, as a
//! module and in the list of what it looks at (one that nobody asks is dead code to the compiler).
//!
//! Survives: servers and poolers that are silent, refuse pgleap, or fail in the middle: each is a finding, and the
//! other checks go on. A question without an answer blocks; it is never taken for "nothing found". Does not: look into
//! the copy, which is what `pg_upgrade --check` does later.

pub mod about;
mod ddl;
mod drift;
mod finding;
pub mod fix;
mod pooler;
mod rates;
mod rules;
mod source;
mod statements;

mod applied_functions;
mod apply_timeouts;
mod binaries;
mod busiest_tables;
mod client_timeouts;
mod clients_past_poolers;
mod collations;
mod databases;
mod directories;
mod disk_space;
mod event_triggers;
mod extensions;
mod failover_slots;
mod followers;
mod foreign_tables;
mod generated_columns;
mod invalid_indexes;
mod large_objects;
mod libraries;
pub(crate) mod limits;
mod long_transactions;
mod materialized_views;
mod memory;
mod partitions;
mod pooler_entries;
mod pooler_ini;
mod pooler_scram_iterations;
mod pooler_settings;
mod pooler_transactions;
mod preload_libraries;
mod prepared_transactions;
mod publications;
mod read_only_defaults;
mod recent_ddl;
mod replica_identity;
mod replica_triggers;
mod replication_login;
mod retained_wal;
mod role;
mod route;
mod same_host;
mod scheduled_jobs;
mod sequences;
mod session_state;
mod session_statements;
mod slot_retention;
mod slow_statements;
mod slow_transactions;
mod subscriptions;
mod superuser_clients;
pub(crate) mod table_owners;
mod tablespaces;
mod target_port;
mod transaction_ids;
mod unlogged_tables;
mod version_cluster;
mod version_database;
mod version_expressions;
mod version_grants;
mod version_settings;
mod versions;
mod wal_level;
mod wraparound;

pub use about::{About, Applied, Kind, Topic};
pub use drift::Drift;
pub use finding::{Finding, Report, Severity};
pub use fix::Fix;
pub(crate) use preload_libraries::acts;

use std::{collections::BTreeMap, time::Duration};

use futures::{
    StreamExt,
    future::{BoxFuture, join, join_all},
    stream,
};
use tokio_postgres::error::SqlState;

use crate::{
    guard::Ward,
    pg::PgError,
    preflight::{
        finding::listed,
        pooler::Console,
        source::{Entered, Source},
    },
    route::Clients,
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

const OF_HOST: &[(&About, OfHost)] = &[
    (&binaries::ABOUT, |w, s| Box::pin(binaries::check(w, s))),
    (&directories::ABOUT, |w, _| Box::pin(directories::check(w))),
    (&route::ABOUT, |w, _| Box::pin(route::check(w))),
    (&target_port::ABOUT, |w, _| Box::pin(target_port::check(w))),
];

const OF_SOURCE: &[(&About, OfSource)] = &[
    (&apply_timeouts::ABOUT, |w, s| Box::pin(apply_timeouts::check(w, s))),
    (&client_timeouts::ABOUT, |w, s| Box::pin(client_timeouts::check(w, s))),
    (&clients_past_poolers::ABOUT, |_, s| Box::pin(clients_past_poolers::check(s))),
    (&databases::ABOUT, |w, s| Box::pin(databases::check(w, s))),
    (&disk_space::ABOUT, |w, s| Box::pin(disk_space::check(w, s))),
    (&failover_slots::ABOUT, |_, s| Box::pin(failover_slots::check(s))),
    (&followers::ABOUT, |w, s| Box::pin(followers::check(w, s))),
    (&limits::ABOUT, |_, s| Box::pin(limits::check(s))),
    (&long_transactions::ABOUT, |w, s| Box::pin(long_transactions::check(w, s))),
    (&memory::ABOUT, |w, s| Box::pin(memory::check(w, s))),
    (&preload_libraries::ABOUT, |w, s| Box::pin(preload_libraries::check(w, s))),
    (&prepared_transactions::ABOUT, |_, s| Box::pin(prepared_transactions::check(s))),
    (&read_only_defaults::ABOUT, |w, s| Box::pin(read_only_defaults::check(w, s))),
    (&replication_login::ABOUT, |w, s| Box::pin(replication_login::check(w, s))),
    (&retained_wal::ABOUT, |w, s| Box::pin(retained_wal::check(w, s))),
    (&role::ABOUT, |w, s| Box::pin(role::check(w, s))),
    (&same_host::ABOUT, |w, s| Box::pin(same_host::check(w, s))),
    (&session_statements::ABOUT, |w, s| Box::pin(session_statements::check(w, s))),
    (&slot_retention::ABOUT, |_, s| Box::pin(slot_retention::check(s))),
    (&slow_statements::ABOUT, |w, s| Box::pin(slow_statements::check(w, s))),
    (&slow_transactions::ABOUT, |w, s| Box::pin(slow_transactions::check(w, s))),
    (&subscriptions::ABOUT, |_, s| Box::pin(subscriptions::check(s))),
    (&superuser_clients::ABOUT, |w, s| Box::pin(superuser_clients::check(w, s))),
    (&tablespaces::ABOUT, |_, s| Box::pin(tablespaces::check(s))),
    (&version_cluster::ABOUT, |w, s| Box::pin(version_cluster::check(w, s))),
    (&version_settings::ABOUT, |w, s| Box::pin(version_settings::check(w, s))),
    (&versions::ABOUT, |w, s| Box::pin(versions::check(w, s))),
    (&wal_level::ABOUT, |w, s| Box::pin(wal_level::check(w, s))),
    (&wraparound::ABOUT, |_, s| Box::pin(wraparound::check(s))),
];

const OF_DATABASE: &[(&About, OfDatabase)] = &[
    (&applied_functions::ABOUT, |d| Box::pin(applied_functions::check(d))),
    (&busiest_tables::ABOUT, |d| Box::pin(busiest_tables::check(d))),
    (&collations::ABOUT, |d| Box::pin(collations::check(d))),
    (&event_triggers::ABOUT, |d| Box::pin(event_triggers::check(d))),
    (&extensions::ABOUT, |d| Box::pin(extensions::check(d))),
    (&foreign_tables::ABOUT, |d| Box::pin(foreign_tables::check(d))),
    (&generated_columns::ABOUT, |d| Box::pin(generated_columns::check(d))),
    (&invalid_indexes::ABOUT, |d| Box::pin(invalid_indexes::check(d))),
    (&large_objects::ABOUT, |d| Box::pin(large_objects::check(d))),
    (&libraries::ABOUT, |d| Box::pin(libraries::check(d))),
    (&materialized_views::ABOUT, |d| Box::pin(materialized_views::check(d))),
    (&partitions::ABOUT, |d| Box::pin(partitions::check(d))),
    (&publications::ABOUT, |d| Box::pin(publications::check(d))),
    (&recent_ddl::ABOUT, |d| Box::pin(recent_ddl::check(d))),
    (&replica_identity::ABOUT, |d| Box::pin(replica_identity::check(d))),
    (&replica_triggers::ABOUT, |d| Box::pin(replica_triggers::check(d))),
    (&scheduled_jobs::ABOUT, |d| Box::pin(scheduled_jobs::check(d))),
    (&sequences::ABOUT, |d| Box::pin(sequences::check(d))),
    (&session_state::ABOUT, |d| Box::pin(session_state::check(d))),
    (&table_owners::ABOUT, |d| Box::pin(table_owners::check(d))),
    (&transaction_ids::ABOUT, |d| Box::pin(transaction_ids::check(d))),
    (&unlogged_tables::ABOUT, |d| Box::pin(unlogged_tables::check(d))),
    (&version_database::ABOUT, |d| Box::pin(version_database::check(d))),
    (&version_expressions::ABOUT, |d| Box::pin(version_expressions::check(d))),
    (&version_grants::ABOUT, |d| Box::pin(version_grants::check(d))),
];

const OF_POOLER: &[(&About, OfPooler)] = &[
    (&pooler_entries::ABOUT, |w, s, c| Box::pin(pooler_entries::check(w, s, c))),
    (&pooler_ini::ABOUT, |w, s, c| Box::pin(pooler_ini::check(w, s, c))),
    (&pooler_scram_iterations::ABOUT, |w, s, c| Box::pin(pooler_scram_iterations::check(w, s, c))),
    (&pooler_settings::ABOUT, |w, _, c| Box::pin(pooler_settings::check(w, c))),
    (&pooler_transactions::ABOUT, |w, s, c| Box::pin(pooler_transactions::check(w, s, c))),
];

/// What is not a check, and answers as one where a check could not begin.
const OF_ALL: &[&About] = &[&ABOUT, &drift::ABOUT, &pooler::ABOUT, &source::ABOUT];

const UNANSWERED: &str = "check.unanswered";

const ABOUT: About = About {
    check: "check",
    topic: Topic::Privileges,
    reads: "whether every other check could look, in every database",
    why: "A question without an answer blocks; it is never taken for \"nothing found\". Where pgleap's role lacks the rights \
          it is a note, as the role itself is a blocker then.",
    findings: &[
        about::blocker("check.unanswered", Applied::ByHand("what kept it from looking has to be found first.")),
        about::note("check.unanswered", Applied::ByHand("rights are the administrator's to give.")),
        about::blocker("database.unreachable", Applied::ByHand("who may enter is the administrator's decision.")),
    ],
};

/// Connections by which databases are looked into at the same time.
const AT_ONCE: usize = 8;
/// The most of them for one database.
const LANES: usize = 3;

/// How long a statement of a check may take: it is short, and a server that does not answer it is a finding.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a check found, or why it could not look.
type Answer = Result<Vec<Finding>, Unanswered>;

/// A check that could not look.
struct Unanswered {
    message: String,
    cause: Option<String>,
    privilege: bool,
    /// What helps, where that is known.
    remedy: Option<&'static str>,
}

impl From<PgError> for Unanswered {
    fn from(error: PgError) -> Self {
        let privilege = error.sqlstate() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
        let locked = error.sqlstate() == Some(&SqlState::LOCK_NOT_AVAILABLE);
        let remedy = locked.then_some("pgleap check  # again, when the DDL that holds the table is over");
        Self { message: error.to_string(), cause: error.reason(), privilege, remedy }
    }
}

/// Returns what every check says of itself, by name.
pub fn abouts() -> Vec<&'static About> {
    let of_tables = OF_HOST.iter().map(|(about, _)| *about).chain(OF_SOURCE.iter().map(|(about, _)| *about));
    let of_tables = of_tables.chain(OF_DATABASE.iter().map(|(about, _)| *about));
    let of_tables = of_tables.chain(OF_POOLER.iter().map(|(about, _)| *about));
    let mut abouts: Vec<_> = of_tables.chain(OF_ALL.iter().copied()).collect();
    abouts.sort_by_key(|about| about.check);
    abouts
}

/// Asks everything, and changes nothing. Never fails: a server that cannot be reached is a finding.
///
/// Servers are contacted at the same time; the slowest decides how long it takes, and a second of it measures the
/// source's WAL.
pub async fn check(world: &World) -> Report {
    let poolers = world.route.members().iter().filter_map(|member| match &member.ward {
        Ward::PgBouncer(pooler, _) => Some(Console::open(world, member, pooler)),
        Ward::Program(_) => None,
    });
    let consoles = join_all(poolers);
    let (source, consoles) = join(Source::open(world), consoles).await;
    let mut findings = Vec::new();
    let source = source.map_err(|finding| findings.extend(told(&source::ABOUT, vec![finding]))).ok();
    let consoles = consoles.into_iter();
    let consoles = consoles
        .filter_map(|console| console.map_err(|finding| findings.extend(told(&pooler::ABOUT, vec![finding]))).ok());
    let consoles: Vec<_> = consoles.collect();
    let all_seen = !consoles.is_empty() && consoles.len() == world.route.members().len();
    let pooled = all_seen.then(|| consoles.iter().flat_map(|console| console.seen.server_pids.clone()).collect());
    let waits = world.route.capabilities.clients == Clients::Wait;
    let kept_clients = waits && consoles.iter().any(|console| console.pools_transactions(world));
    let source = source.map(|source| source.behind(pooled, kept_clients));
    let known = source.as_ref();

    let mut asked: Vec<BoxFuture<'_, Vec<Finding>>> = Vec::new();
    for (about, ask) in OF_HOST {
        asked.push(Box::pin(async move { answered(about, known, ask(world, known).await) }));
    }
    for console in &consoles {
        for (about, ask) in OF_POOLER {
            asked.push(Box::pin(async move { answered(about, known, ask(world, known, console).await) }));
        }
    }
    if let Some(source) = known {
        for (about, ask) in OF_SOURCE {
            asked.push(Box::pin(async move { answered(about, known, ask(world, source).await) }));
        }
        // a few databases are looked into by several sessions each
        let lanes = (AT_ONCE / source.databases.len().max(1)).clamp(1, LANES);
        let each = source.names().into_iter().flat_map(move |name| (0..lanes).map(move |lane| (name.clone(), lane)));
        let each = each.map(move |(name, lane)| in_database(world, source, name, lane, lanes));
        asked.push(Box::pin(stream::iter(each).buffer_unordered(AT_ONCE).concat()));
        let others = source.others.iter().map(move |name| beside(world, source, name));
        asked.push(Box::pin(stream::iter(others).buffer_unordered(AT_ONCE).concat()));
    }
    findings.extend(join_all(asked).await.into_iter().flatten());
    for finding in &mut findings {
        say_what_waits(finding, known);
    }
    let version = known.map(|source| format!("{}.{}", source.major(), source.minor()));
    Report { source_version: version, ..Report::new(unanswered_once(findings)) }
}

/// Checks whose blockers keep a copy from being made and upgraded on this host.
const OF_A_COPY: [&str; 8] =
    ["binaries", "directories", "disk_space", "replication_login", "role", "same_host", "tablespaces", "versions"];

/// Asks only what keeps a copy from being made and upgraded on this host, and changes nothing.
pub async fn check_host(world: &World) -> Report {
    only(world, &OF_A_COPY).await
}

/// Asks only whether this host has memory for the target, which a twin, that starts small, cannot tell.
pub async fn check_memory(world: &World) -> Report {
    only(world, &[memory::ABOUT.check]).await
}

async fn only(world: &World, checks: &[&str]) -> Report {
    let source = match Source::open(world).await {
        Ok(source) => source,
        Err(finding) => return Report::new(told(&source::ABOUT, vec![finding])),
    };
    let wanted = |about: &About| checks.contains(&about.check);
    let (known, mut asked) = (&source, Vec::<BoxFuture<'_, Vec<Finding>>>::new());
    for (about, ask) in OF_HOST.iter().filter(|(about, _)| wanted(about)) {
        asked.push(Box::pin(async move { answered(about, Some(known), ask(world, Some(known)).await) }));
    }
    for (about, ask) in OF_SOURCE.iter().filter(|(about, _)| wanted(about)) {
        asked.push(Box::pin(async move { answered(about, Some(known), ask(world, known).await) }));
    }
    Report::new(unanswered_once(join_all(asked).await.into_iter().flatten().collect()))
}

/// Asks every `lanes`-th check, beginning with `lane`, by a connection of its own.
async fn in_database(world: &World, source: &Source, name: String, lane: usize, lanes: usize) -> Vec<Finding> {
    // not one that is kept: with a thousand databases, no more than a few are entered at a time
    let entered = Entered::enter(world, source, name.clone()).await;
    let database = match entered {
        Ok(database) => Entered { may_wait: source.databases.len() <= AT_ONCE, ..database },
        Err(error) => {
            let message = format!("cannot enter database `{name}` of the source");
            let cause = error.reason().unwrap_or_else(|| error.to_string());
            return told(
                &ABOUT,
                vec![Finding::blocker("database.unreachable", message).because(cause).in_database(name)],
            );
        }
    };
    let asked = OF_DATABASE.iter().skip(lane).step_by(lanes).map(|(about, ask)| {
        let answer = ask(&database);
        async move { answered(about, Some(source), answer.await) }
    });
    let findings = join_all(asked).await.into_iter().flatten();
    findings.map(|finding| finding.in_database(&database.name)).collect()
}

/// Checks of what pg_upgrade fails on, in whatever database it is.
const OF_EVERY_DATABASE: [&str; 5] =
    ["extensions", "libraries", "version_database", "version_expressions", "version_grants"];

/// Looks for what would keep a database from being upgraded that is no part of the upgrade, and is in the copy all the same.
async fn beside(world: &World, source: &Source, name: &str) -> Vec<Finding> {
    let database = match Entered::enter(world, source, name.to_owned()).await {
        Ok(database) => database,
        Err(error) => {
            let message = format!("could not look into database `{name}`, which pg_upgrade restores too: {error}");
            return told(&ABOUT, vec![Finding::note(UNANSWERED, message).objects(["databases"])]);
        }
    };
    let asked = OF_DATABASE.iter().filter(|(about, _)| OF_EVERY_DATABASE.contains(&about.check)).map(|(about, ask)| {
        let answer = ask(&database);
        async move { answered(about, Some(source), answer.await) }
    });
    let findings = join_all(asked).await.into_iter().flatten();
    let blockers = findings.filter(|finding| finding.severity == Severity::Blocker);
    blockers.map(|finding| finding.in_database(name)).collect()
}

/// Turns a check that could not look into a finding.
///
/// For a role that lacks the rights it is a note: the role itself is a blocker already, and it would be said many times.
fn answered(about: &'static About, source: Option<&Source>, answer: Answer) -> Vec<Finding> {
    let unanswered = match answer {
        Ok(findings) => return told(about, findings),
        Err(unanswered) => unanswered,
    };
    let message = format!("could not look: {}", unanswered.message);
    let lacks_rights = unanswered.privilege && source.is_some_and(|source| !source.is_superuser);
    let finding = if lacks_rights { Finding::note(UNANSWERED, message) } else { Finding::blocker(UNANSWERED, message) };
    let mut finding = finding.objects([about.check]);
    finding.cause = unanswered.cause;
    finding.remedy = unanswered.remedy.map(str::to_owned);
    told(&ABOUT, vec![finding])
}

/// Brings those that could not look for one reason together: a server that fell silent is one finding, not one of each.
fn unanswered_once(findings: Vec<Finding>) -> Vec<Finding> {
    let (unanswered, mut findings): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.id == UNANSWERED);
    let mut by_reason: BTreeMap<_, Finding> = BTreeMap::new();
    for finding in unanswered {
        let reason = (finding.severity, finding.message.clone(), finding.cause.clone(), finding.database.clone());
        match by_reason.get_mut(&reason) {
            Some(known) => known.objects.extend(finding.objects),
            None => drop(by_reason.insert(reason, finding)),
        }
    }
    findings.extend(by_reason.into_values().map(|mut finding| {
        finding.objects.sort();
        let checks = if finding.objects.len() == 1 { "check" } else { "checks" };
        finding.message = format!("{checks} {} {}", listed(&finding.objects), finding.message);
        finding
    }));
    findings
}

/// Says of a setting that it is changed already, and waits for the operator's restart: what will suffice then needs no change,
/// and a larger value is not taken back to the least that does.
fn say_what_waits(finding: &mut Finding, source: Option<&Source>) {
    let Some(source) = source else { return };
    let waits = |fix: &Fix| matches!(fix, Fix::Setting { name, restart: true, .. } if source.waits_for_restart(name));
    let names: Vec<_> = finding.fixes.iter().filter(|fix| waits(fix)).filter_map(Fix::setting).collect();
    if names.is_empty() {
        return;
    }
    let word = format!("{} was changed, and waits for a restart of the source", listed(&names));
    finding.cause = Some(finding.cause.take().map_or(word.clone(), |cause| format!("{cause}; {word}")));
    let suffices =
        |fix: &Fix| matches!(fix, Fix::Setting { name, value, restart: true, .. } if source.will_suffice(name, value));
    if finding.fixes.iter().all(suffices) {
        finding.fixes.clear();
        finding.remedy = Some("restart the source, when it suits".to_owned());
    }
}

/// Adds what the check says of its findings: why pgleap does not apply a remedy.
fn told(about: &'static About, mut findings: Vec<Finding>) -> Vec<Finding> {
    for finding in &mut findings {
        let kind = about.findings.iter().find(|kind| kind.id == finding.id && kind.severity == finding.severity);
        debug_assert!(kind.is_some(), "`ABOUT` of {} does not know {finding:?}", about.check);
        if let Some(Applied::ByHand(why)) = kind.map(|kind| kind.applied) {
            finding.by_hand = finding.remedy.is_some().then_some(why);
        }
        debug_assert!(finding.by_hand.is_none() || finding.fixes.is_empty(), "by pgleap or by hand? {finding:?}");
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_this_folder_is_asked() {
        let not_checks = ["about", "ddl", "finding", "fix", "mod", "rates", "rules", "statements"];
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/preflight");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
        let files: BTreeSet<_> = files.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
        let asked = abouts().into_iter().map(|about| about.check).filter(|check| *check != ABOUT.check);
        assert_eq!(files, asked.chain(not_checks).map(str::to_owned).collect());
    }

    #[test]
    fn every_finding_is_said_by_one_check_and_stands_in_its_file() {
        let mut told = BTreeSet::new();
        for about in abouts() {
            let file = if about.check == ABOUT.check { "mod" } else { about.check };
            let path = format!("{}/src/preflight/{file}.rs", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).unwrap();
            for kind in about.findings {
                assert!(told.insert((kind.id, kind.severity)), "`{}` is told twice", kind.id);
                let named = text.matches(&format!("\"{}\"", kind.id)).count();
                assert!(named > 1, "`{}` is in `ABOUT` of {file}.rs, and nowhere else in it", kind.id);
            }
        }
    }

    #[test]
    fn the_list_of_checks_in_the_documents_is_what_the_checks_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/checks.md");
        let text = about::explain_all(&abouts());
        assert!(
            std::fs::read_to_string(path).is_ok_and(|document| document == text),
            "write it anew: `cargo run -p pgleap -- check --explain >docs/checks.md`"
        );
    }

    #[test]
    fn finding_says_why_its_remedy_is_left_to_the_operator() {
        let by_hand = |finding: Finding| told(&wal_level::ABOUT, vec![finding]).remove(0).by_hand;
        let fix = Fix::restart("wal_level", "logical");
        assert_eq!(by_hand(Finding::blocker("wal_level.not_logical", "m").fixes([fix])), None);
        let paused = Finding::blocker("pooler.paused", "m");
        assert_eq!(told(&pooler_entries::ABOUT, vec![paused.clone()])[0].by_hand, None, "nothing to apply");
        assert!(told(&pooler_entries::ABOUT, vec![paused.fix("RESUME")])[0].by_hand.is_some());
    }

    #[test]
    fn question_without_an_answer_blocks() {
        let answer = |about| {
            let unanswered = Unanswered { message: "no answer".into(), cause: None, privilege: true, remedy: None };
            answered(about, None, Err(unanswered))
        };
        let findings = [&wal_level::ABOUT, &role::ABOUT].map(answer).concat();
        let findings = unanswered_once(findings);
        assert_eq!(findings.len(), 1, "one reason is one finding: {findings:#?}");
        assert_eq!((findings[0].id, findings[0].severity), ("check.unanswered", Severity::Blocker));
        assert_eq!(findings[0].message, "checks `role`, `wal_level` could not look: no answer");
    }
}
