//! Remedies that pgleap applies, on real servers: they remove what was found, and taking them back leaves what was there.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions may fail the test too")]

use std::path::PathBuf;

use pgleap_local::{Auth, KillOnDrop, Server, StopMode, StopOnDrop};
use pgleap_saga::{EventKind, EventSink, Journal, Outcome, RecordKind, StopSignal};
use pgleap_upgrade::{
    Chain, Standing, World,
    chain::ChainError,
    fix::Remedy,
    preflight::{self, Fix, Report, Severity},
};

use crate::{
    bed::{LONG, assert_unwound, event, until},
    preflight::{Bed, GOOD_TABLES, assert_says, assert_silent, finding, ids, poolers},
};

/// One of each kind that pgleap can remedy, with states that are not the defaults.
const WRONG: &[&str] = &[
    "CREATE TABLE no_key (a int); CREATE TABLE \"No Key\" (a int NOT NULL UNIQUE, b int)",
    "CREATE TABLE refused (a int PRIMARY KEY); ALTER TABLE refused REPLICA IDENTITY NOTHING",
    "CREATE TABLE by_one (a int NOT NULL, b json); CREATE UNIQUE INDEX one ON by_one (a); \
     ALTER TABLE by_one REPLICA IDENTITY FULL",
    "CREATE TRIGGER \"To Outbox\" AFTER INSERT ON keyed FOR EACH ROW EXECUTE FUNCTION audit(); \
     ALTER TABLE keyed ENABLE ALWAYS TRIGGER \"To Outbox\"; \
     CREATE TRIGGER on_replica BEFORE UPDATE ON keyed FOR EACH ROW EXECUTE FUNCTION audit(); \
     ALTER TABLE keyed ENABLE REPLICA TRIGGER on_replica",
    "CREATE TABLE parts (a int PRIMARY KEY) PARTITION BY RANGE (a); \
     CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (9); \
     CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (19); \
     CREATE TRIGGER of_parts AFTER INSERT ON parts FOR EACH ROW EXECUTE FUNCTION audit(); \
     ALTER TABLE parts ENABLE ALWAYS TRIGGER of_parts; ALTER TABLE parts_2 DISABLE TRIGGER of_parts; \
     ALTER TABLE parts_1 ENABLE REPLICA TRIGGER of_parts",
    "ALTER SYSTEM SET max_slot_wal_keep_size = '64MB'",
    "ALTER SYSTEM SET archive_command = 'cp ''%p'' \"/a b\\c/%f\"'",
    "ALTER SYSTEM SET max_wal_senders = '1'",
];

/// Without `pending_restart`, which a server keeps set until its restart when the line that set it is gone again.
const STATE: &str = "
    SELECT pg_catalog.concat_ws(' ', 'identity', c.oid::regclass, c.relreplident, i.indexrelid::regclass)
      FROM pg_catalog.pg_class AS c LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid AND i.indisreplident
     WHERE c.relkind IN ('r', 'p') AND c.oid >= 16384
     UNION ALL
    SELECT pg_catalog.concat_ws(' ', 'trigger', t.tgrelid::regclass, t.tgname, t.tgenabled) FROM pg_catalog.pg_trigger AS t
     UNION ALL
    SELECT pg_catalog.concat_ws(' ', 'setting', name, setting) FROM pg_catalog.pg_settings
     WHERE source NOT IN ('client', 'session') ORDER BY 1";

/// A source, its pooler, and the journal of an upgrade that was not begun.
struct Site {
    bed: Bed,
    _pooler: KillOnDrop,
    world: World,
    journal: Journal,
    sink: EventSink,
}

impl Site {
    async fn start(major: u16) -> Option<Self> {
        let bin: PathBuf = poolers().into_iter().next()?;
        let bed = Bed::start(major, Auth::Trust).await?;
        bed.run("postgres", &["CREATE DATABASE app"]).await;
        bed.run("app", GOOD_TABLES).await;
        bed.run("app", WRONG).await;
        bed.restart(&[]).await;
        let spec = bed.pooler(bin, "pool");
        let pooler = KillOnDrop(spec.start().await.unwrap());
        let world = bed.wishes(&spec).world().await;
        let journal = Journal::open(bed.dir.path().join("journal.sqlite")).unwrap();
        Some(Self { bed, _pooler: pooler, world, journal, sink: EventSink::new() })
    }

    fn chain(&self) -> Chain<'_> {
        Chain::new(&self.world, &self.journal, self.sink.clone(), StopSignal::new())
    }

    /// What of the source a remedy can change, and the file of its settings to the letter.
    async fn state(&self) -> Vec<String> {
        let rows = self.bed.client("app").await.query(STATE, &[]).await.unwrap();
        let mut state: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let conf = std::fs::read_to_string(self.bed.server.data_dir.join("postgresql.auto.conf")).unwrap();
        let mut lines: Vec<_> = conf.lines().map(str::to_owned).collect();
        lines.sort();
        state.extend(lines);
        state
    }

    async fn check(&self) -> Report {
        preflight::check(&self.world).await
    }

    /// Every remedy that pgleap can apply of what is found now.
    async fn remedies(&self) -> Vec<Remedy> {
        let mut remedies: Vec<Remedy> = Vec::new();
        for finding in self.check().await.findings.into_iter().filter(|finding| !finding.fixes.is_empty()) {
            remedies.push(Remedy { finding: finding.id.to_owned(), fixes: finding.fixes });
        }
        remedies
    }
}

fn names(remedies: &[Remedy]) -> Vec<&str> {
    remedies.iter().map(|remedy| remedy.finding.as_str()).collect()
}

/// Waits until the server's processes have read its files again, and fails with what differs if it stays so.
#[cfg(feature = "faults")]
async fn assert_becomes(before: &[String], site: &Site) {
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let now = site.state().await;
        if now == before || tokio::time::Instant::now() > until {
            return assert_same(before, &now);
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[track_caller]
fn assert_same(before: &[String], after: &[String]) {
    let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(before == after, "gone: {gone:#?}\nnew: {new:#?}");
}

async fn remedied_and_taken_back(major: u16) {
    let Some(site) = Site::start(major).await else { return };
    let before = site.state().await;
    let remedies = site.remedies().await;
    let wanted =
        ["replica_identity.missing", "replica_identity.no_equality", "wal_level.not_logical", "wal_senders.too_few"];
    for name in wanted.into_iter().chain(["slot_retention.limited", "trigger.fires_on_apply"]) {
        assert!(names(&remedies).contains(&name), "{name}: {remedies:#?}");
    }

    assert_eq!(site.chain().fix(&remedies).await.unwrap(), Outcome::Done);
    assert_eq!(site.chain().standing().unwrap(), Standing::Nothing, "a remedy begins no upgrade");
    let report = site.check().await;
    let left: Vec<_> = names(&remedies).into_iter().filter(|name| ids(&report).contains(name)).collect();
    let by_restart = ["wal_level.not_logical", "wal_senders.too_few"];
    assert!(left.iter().all(|name| by_restart.contains(name)), "{report:#?}");
    assert_ne!(before, site.state().await);
    assert_says(
        &report,
        "wal_level.not_logical",
        Severity::Blocker,
        &["`wal_level` was changed, and waits for a restart"],
    );

    // the operator restarts it
    site.bed.restart(&[]).await;
    site.world.source.forget().await;
    let report = site.check().await;
    assert!(!by_restart.iter().any(|name| ids(&report).contains(name)), "{report:#?}");

    // one alone, then the rest as `unwind` does it
    let outcome = site.chain().unfix(&["replica_identity.missing".into()]).await;
    assert_unwound(outcome);
    assert!(ids(&site.check().await).contains("replica_identity.missing"));
    assert_unwound(site.chain().unwind("changed our minds").await);
    site.bed.restart(&[]).await;
    site.world.source.forget().await;
    assert_same(&before, &site.state().await);
    let nothing = site.chain().unwind("again").await;
    assert!(matches!(nothing, Err(ChainError::NotNow { .. })), "{nothing:?}");
}

#[tokio::test]
async fn remedies_remove_what_was_found_and_unwinding_leaves_a_13_as_it_was() {
    remedied_and_taken_back(13).await;
}

#[tokio::test]
async fn remedies_remove_what_was_found_and_unwinding_leaves_an_18_as_it_was() {
    remedied_and_taken_back(18).await;
}

#[tokio::test]
async fn remedy_waits_for_a_busy_table_without_keeping_others_waiting_and_leaves_later_changes_alone() {
    let Some(site) = Site::start(15).await else { return };
    let remedies = site.remedies().await;
    let identity: Vec<_> = remedies.into_iter().filter(|r| r.finding == "replica_identity.missing").collect();
    let reader = site.bed.client("app").await;
    reader.batch_execute("BEGIN; SELECT FROM no_key").await.unwrap();
    let mut events = site.sink.subscribe();
    let waits = async {
        assert!(event(&mut events, |event| matches!(event.kind, EventKind::StepRetrying { .. })).await);
        // nobody queues behind a change that waits: it has given up for now
        let writer = site.bed.client("app").await;
        writer.batch_execute("SET lock_timeout = '5s'; INSERT INTO no_key VALUES (1)").await.unwrap();
        reader.batch_execute("COMMIT").await.unwrap();
    };
    let (outcome, ()) = tokio::join!(async { site.chain().fix(&identity).await }, waits);
    assert_eq!(outcome.unwrap(), Outcome::Done);

    // somebody changes one again, renames another, drops a third
    let changes = [
        "ALTER TABLE no_key REPLICA IDENTITY NOTHING",
        "ALTER TABLE refused RENAME TO renamed",
        "DROP TABLE \"No Key\"",
    ];
    site.bed.run("app", &changes).await;
    assert_unwound(site.chain().unfix(&[]).await);
    let state = site.state().await;
    assert!(state.iter().any(|line| line == "identity no_key n"), "{state:#?}");
    assert!(state.iter().any(|line| line == "identity renamed n"), "{state:#?}");
    let warned = |record: &&pgleap_saga::Record| record.kind == RecordKind::Warning;
    let warnings: Vec<_> = site.journal.records(0).unwrap().iter().filter(warned).map(|r| r.body.to_string()).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("public.no_key was changed since"), "{warnings:#?}");
}

#[tokio::test]
async fn setting_of_the_command_line_is_left_to_the_operator() {
    let Some(site) = Site::start(15).await else { return };
    site.bed.server.stop(pgleap_local::StopMode::Fast, std::time::Duration::from_secs(60)).await.unwrap();
    let conf = site.bed.server.data_dir.join("postgresql.auto.conf");
    let before = std::fs::read_to_string(&conf).unwrap();
    let given = [("max_slot_wal_keep_size".to_owned(), "32MB".to_owned())];
    let given = site.bed.settings_with(&given);
    site.bed.server.start(&given, std::time::Duration::from_secs(60)).await.unwrap();
    site.world.source.forget().await;
    let remedies =
        [Remedy { finding: "slot_retention.limited".into(), fixes: vec![Fix::reload("max_slot_wal_keep_size", -1)] }];
    let outcome = site.chain().fix(&remedies).await.unwrap();
    let Outcome::Blocked(failure) = outcome else { panic!("{outcome:?}") };
    assert!(failure.error.to_string().contains("command line"), "{failure:?}");
    assert_unwound(site.chain().unwind("never mind").await);
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(sorted(&before), sorted(&std::fs::read_to_string(&conf).unwrap()));
}

/// Dies at every point of a remedy in turn, forward and back.
#[cfg(feature = "faults")]
#[tokio::test]
async fn remedy_that_is_killed_anywhere_is_finished_by_resume_forward_and_back() {
    use pgleap_saga::fault::Script;

    let Some(site) = Site::start(15).await else { return };
    let before = site.state().await;
    let remedies = site.remedies().await;
    let mut seen = std::collections::HashSet::new();
    let mut deaths = 0;
    loop {
        let script = Script::kill_at_new(seen.clone());
        let ended = script.run(async {
            assert_eq!(site.chain().fix(&remedies).await.unwrap(), Outcome::Done);
            assert_unwound(site.chain().unfix(&[]).await);
        });
        let ended = ended.await;
        seen.extend(script.arrivals());
        if ended.is_some() {
            break;
        }
        deaths += 1;
        match site.chain().resume().await {
            Ok(Outcome::Done | Outcome::Unwound { .. }) | Err(ChainError::NotNow { .. }) => {}
            other => panic!("{other:?}"),
        }
        // resumed forward it is applied; resumed back, the rest of the plans is still there
        match site.chain().unwind("after a death").await {
            Ok(Outcome::Unwound { .. }) | Err(ChainError::NotNow { .. }) => {}
            other => panic!("{other:?}"),
        }
        assert_becomes(&before, &site).await;
    }
    assert!(deaths >= 8 && seen.contains("fix.apply.between"), "{deaths} deaths at {seen:?}");
}

/// Dies at every point of the way back of several remedies in turn.
#[cfg(feature = "faults")]
#[tokio::test]
async fn unwinding_that_is_killed_anywhere_is_finished_by_resume_alone() {
    use pgleap_saga::fault::Script;

    let Some(site) = Site::start(15).await else { return };
    let before = site.state().await;
    let remedies = site.remedies().await;
    let mut seen = std::collections::HashSet::new();
    loop {
        assert_eq!(site.chain().fix(&remedies).await.unwrap(), Outcome::Done);
        let script = Script::kill_at_new(seen.clone());
        let ended = script.run(async { assert_unwound(site.chain().unwind("changed our minds").await) }).await;
        seen.extend(script.arrivals());
        if ended.is_some() {
            break;
        }
        assert_unwound(site.chain().resume().await);
        assert_becomes(&before, &site).await;
        let again = site.chain().resume().await;
        assert!(matches!(again, Err(ChainError::NotNow { .. })), "nothing is left to resume: {again:?}");
    }
    assert!(seen.contains("plan.after_plan_closed"), "{seen:?}");
}

#[tokio::test]
async fn what_somebody_else_relies_on_by_now_is_not_taken_back() {
    let Some(site) = Site::start(15).await else { return };
    let remedies = site.remedies().await;
    assert_eq!(site.chain().fix(&remedies).await.unwrap(), Outcome::Done);
    site.bed.restart(&[]).await;
    site.world.source.forget().await;
    let others = [
        "SELECT pg_create_logical_replication_slot('others', 'pgoutput')",
        "CREATE PUBLICATION others FOR TABLE no_key",
    ];
    site.bed.run("app", &others).await;
    assert_unwound(site.chain().unwind("changed our minds").await);
    // the source starts, and the others' table takes updates
    site.bed.restart(&[]).await;
    site.bed.run("app", &["INSERT INTO no_key VALUES (1); UPDATE no_key SET a = 2"]).await;
    assert!(site.state().await.contains(&"setting wal_level logical".to_owned()));
}

#[tokio::test]
async fn limit_that_somebody_raised_and_that_waits_for_its_restart_is_not_lowered() {
    let Some(site) = Site::start(15).await else { return };
    site.bed.run("app", &["ALTER SYSTEM SET max_wal_senders = 40", "SELECT pg_reload_conf()"]).await;
    let conf = site.bed.server.data_dir.join("postgresql.auto.conf");
    let raised = std::fs::read_to_string(&conf).unwrap();
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let found = loop {
        let report = site.check().await;
        let found = report.findings.into_iter().find(|finding| finding.id == "wal_senders.too_few").unwrap();
        if found.cause.as_deref().is_some_and(|cause| cause.contains("waits for a restart")) {
            break found;
        }
        assert!(tokio::time::Instant::now() < until, "{found:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert!(found.fixes.is_empty(), "there is nothing left to change: {found:#?}");
    assert!(found.remedy.as_deref().is_some_and(|remedy| remedy.starts_with("restart")), "{found:#?}");

    // whoever looked before it was raised
    let remedy = Remedy { finding: found.id.into(), fixes: vec![Fix::restart("max_wal_senders", 5)] };
    assert_eq!(site.chain().fix(&[remedy]).await.unwrap(), Outcome::Done);
    assert_eq!(std::fs::read_to_string(&conf).unwrap(), raised);
    assert_unwound(site.chain().unfix(&[]).await);
    assert_eq!(std::fs::read_to_string(&conf).unwrap(), raised);
}

/// What holds now and goes with the next restart is as bad as what does not hold: a source with logical slots would not start.
#[tokio::test]
async fn setting_that_the_next_restart_takes_away_is_found_and_kept() {
    let Some(site) = Site::start(15).await else { return };
    assert_eq!(site.chain().fix(&site.remedies().await).await.unwrap(), Outcome::Done);
    site.bed.restart(&[]).await;
    site.world.source.forget().await;
    let clear = site.check().await;
    assert!(!clear.findings.iter().any(|finding| finding.id == "wal_level.not_logical"), "{clear:#?}");
    assert_unwound(site.chain().unfix(&[]).await);
    site.bed.run("app", &["ALTER SYSTEM SET max_wal_senders = 1", "SELECT pg_reload_conf()"]).await;
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let of = |report: &Report, id: &str| report.findings.iter().find(|finding| finding.id == id).cloned();
    let (level, senders) = loop {
        let report = site.check().await;
        if let (Some(level), Some(senders)) = (of(&report, "wal_level.not_logical"), of(&report, "wal_senders.too_few"))
        {
            break (level, senders);
        }
        assert!(tokio::time::Instant::now() < until, "{report:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(level.message, "`wal_level` is `logical`, and `replica` after the next restart; it must stay `logical`");
    assert!(senders.message.contains(", and 1 after the next restart, with"), "{senders:#?}");
    // it is kept as it would have been set, and nobody has to restart anything
    assert_eq!(site.chain().fix(&site.remedies().await).await.unwrap(), Outcome::Done);
    let kept = site.check().await;
    assert_eq!((of(&kept, "wal_level.not_logical"), of(&kept, "wal_senders.too_few")), (None, None));
}

#[tokio::test]
async fn trigger_of_a_partition_made_since_is_put_back_with_its_parents() {
    for major in [13, 18] {
        let Some(site) = Site::start(major).await else { continue };
        let remedies = site.remedies().await;
        let triggers: Vec<_> = remedies.into_iter().filter(|r| r.finding == "trigger.fires_on_apply").collect();
        assert_eq!(site.chain().fix(&triggers).await.unwrap(), Outcome::Done);
        let made = [
            "CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (20) TO (29) PARTITION BY RANGE (a)",
            "CREATE TABLE parts_3_1 PARTITION OF parts_3 FOR VALUES FROM (20) TO (22)",
        ];
        site.bed.run("app", &made).await;
        assert_unwound(site.chain().unfix(&[]).await);
        let state = site.state().await;
        let fires = |table: &str, how: &str| state.contains(&format!("trigger {table} of_parts {how}"));
        assert!(fires("parts", "A") && fires("parts_2", "D") && fires("parts_1", "R"), "{state:#?}");
        assert!(fires("parts_3", "A") && fires("parts_3_1", "A"), "{state:#?}");
    }
}

/// A physical standby of a bed's source, made as an operator makes one.
async fn standby_of(bed: &Bed) -> Bed {
    let dir = bed.dir.path().join("old");
    let server = Server { data_dir: dir.join("standby"), log: dir.join("standby.log"), ..bed.server.clone() };
    let mut backup = server.account.command(server.installation.tool("pg_basebackup"));
    backup.args(["--checkpoint=fast", "--write-recovery-conf", "--pgdata"]).arg(&server.data_dir).arg("--dbname");
    backup.arg(format!("host=127.0.0.1 port={} user=postgres", bed.port));
    pgleap_local::run(backup, LONG).await.unwrap();
    let port = pgleap_local::free_port().unwrap();
    server.start(&of_standby(bed, port), LONG).await.unwrap();
    Bed { server: StopOnDrop(server), port, dir: tempfile::tempdir().unwrap() }
}

fn of_standby(bed: &Bed, port: u16) -> Vec<(String, String)> {
    bed.settings_with(&[("port".to_owned(), port.to_string())])
}

#[tokio::test]
async fn limits_that_a_standby_must_have_too_are_raised_there_first() {
    for major in [13, 18] {
        let Some(bed) = Bed::start(major, Auth::Trust).await else { continue };
        let low = [
            "ALTER SYSTEM SET max_wal_senders = 2",
            "ALTER SYSTEM SET max_logical_replication_workers = 0",
            "CREATE TABLE t (a int PRIMARY KEY)",
        ];
        bed.run("postgres", &low).await;
        let logical = [("wal_level", "logical")];
        bed.restart(&logical).await;
        // no pooler runs: that is another finding
        let wishes = bed.wishes(&bed.pooler("pgbouncer".into(), "pool"));
        let fix_of = |report: &Report, id: &str| finding(report, id).fixes[0].clone();
        let alone = wishes.check().await;
        assert!(!fix_of(&alone, "wal_senders.too_few").needs_standbys_first(), "{alone:#?}");

        let standby = standby_of(&bed).await;
        let report = wishes.check().await;
        let says = ["a standby with less stops replaying then: first on `walreceiver at ", "-- on each standby first"];
        assert_says(&report, "wal_senders.too_few", Severity::Blocker, &says);
        assert!(!fix_of(&report, "logical_workers.too_few").needs_standbys_first(), "its own affair: {report:#?}");
        let fix = fix_of(&report, "wal_senders.too_few").sql();
        standby.run("postgres", &[&fix]).await;
        standby.server.stop(StopMode::Fast, LONG).await.unwrap();
        // away, it has a slot, or is not known
        bed.run("postgres", &["SELECT pg_create_physical_replication_slot('of_standby')"]).await;
        let away = ["first on `slot of_standby`"];
        assert_says(&wishes.check().await, "wal_senders.too_few", Severity::Blocker, &away);
        standby.server.start(&of_standby(&bed, standby.port), LONG).await.unwrap();

        bed.run("postgres", &[&fix]).await;
        bed.restart(&logical).await;
        bed.run("postgres", &["INSERT INTO t VALUES (1)"]).await;
        let replayed = "SELECT count(*) = 1 FROM t";
        until("the standby to replay", async || {
            let row = standby.client("postgres").await.query_one(replayed, &[]).await.unwrap();
            row.get::<_, bool>(0).then_some(())
        })
        .await;
        assert_silent(&wishes.check().await, "wal_senders.too_few");
    }
}
