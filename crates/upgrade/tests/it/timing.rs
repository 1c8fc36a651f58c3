//! When a switchover begins: what is waited for, what is kept fresh meanwhile, and that a stop leaves nothing.

use std::{path::Path, time::Duration};

use jiff::{SignedDuration, Timestamp};
use pgleap_saga::{EventKind, EventSink, Outcome, Step, StopSignal};
use pgleap_upgrade::{
    Chain, Config, Standing, World,
    chain::ChainError,
    guard::Launch,
    pg::Side,
    switchover::{
        check_gates::{Decision, decide},
        postpone::Postpone,
        warm_cache::WarmCache,
    },
    timing::{Timing, waiting},
    world::Cx,
};
use tokio::sync::broadcast::Receiver;

use crate::{
    bed::{
        LONG, as_found, ask, assert_as_found, assert_standing, assert_unwound, began, client, end, event, guard,
        output, small, until,
    },
    rig::{Load, Rig, assert_done},
};

const LOAD: Load = Load { clients: 3, rate: 60.0, application: 1 };

/// A chain that can be stopped for good, and what it tells.
struct Told<'a> {
    chain: Chain<'a>,
    stop: StopSignal,
    events: Receiver<pgleap_saga::Event>,
}

fn told(rig: &Rig) -> Told<'_> {
    let (sink, stop) = (EventSink::new(), StopSignal::new());
    let events = sink.subscribe();
    Told { chain: Chain::new(&rig.world, &rig.journal, sink, stop.clone()), stop, events }
}

/// The chain that tells outlives what is awaited here: only time ends a wait for what it never says.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.unwrap()
}

/// Waits for the first progress whose words hold all of `words`.
async fn says(events: &mut Receiver<pgleap_saga::Event>, words: &[&str]) {
    let wanted = |event: &pgleap_saga::Event| match &event.kind {
        EventKind::StepProgressed(progress) => words.iter().all(|word| progress.text.contains(word)),
        _ => false,
    };
    assert!(soon(event(events, wanted)).await, "nobody said {words:?}");
}

#[track_caller]
fn assert_not_begun(rig: &Rig, ended: Result<Outcome, ChainError>, plans: usize) -> String {
    let Err(ChainError::NotBegun(error)) = ended else { panic!("{ended:#?}") };
    assert_eq!(rig.journal.plans().unwrap().len(), plans, "nothing was begun");
    assert_eq!(waiting(&rig.journal, Some(std::process::id())), None, "nobody waits any more");
    error.to_string()
}

async fn stopped_before_its_time(rig: &Rig, before: &[String]) {
    let plans = rig.journal.plans().unwrap().len();
    let Told { chain, stop, mut events } = told(rig);
    let at = Timestamp::now() + SignedDuration::from_hours(5);
    let timing = Timing { at: Some(at), ..Timing::default() };
    let seen = async {
        says(&mut events, &["waits until"]).await;
        let waits = waiting(&rig.journal, Some(std::process::id())).unwrap();
        assert!(waits.what.starts_with("waits until") && waits.until == Some(at), "{waits:?}");
        assert_eq!(waiting(&rig.journal, Some(1)), None, "another process does not wait");
        stop.request();
    };
    let (ended, ()) = tokio::join!(chain.switchover_when(&timing), seen);
    assert!(assert_not_begun(rig, ended, plans).contains("stopped on request while it waited for"));
    assert_as_found(before, &as_found(&rig.lab).await);
}

async fn no_quiet_moment(rig: &Rig, before: &[String]) {
    let plans = rig.journal.plans().unwrap().len();
    let shopper = client(&rig.lab.through_pooler("shop")).await;
    shopper.batch_execute("BEGIN; INSERT INTO parents VALUES (-7, 'not quiet')").await.unwrap();
    // one that is as old as the budget is not expected to end within it
    tokio::time::sleep(rig.world.config.budgets.write_pause).await;
    let Told { chain, mut events, .. } = told(rig);
    let timing = Timing { quiet_within: Some(Duration::from_millis(1500)), ..Timing::default() };
    let (ended, ()) =
        tokio::join!(chain.switchover_when(&timing), says(&mut events, &["waits for a quiet moment", "transaction"]));
    let error = assert_not_begun(rig, ended, plans);
    assert!(error.starts_with("no quiet moment came: pid "), "{error}");
    shopper.batch_execute("ROLLBACK").await.unwrap();
    assert_as_found(before, &as_found(&rig.lab).await);
}

/// Everything is ready, and the file is not removed: a stop takes all of it back, and the file is not left either.
async fn stopped_while_postponed(rig: &Rig, file: &Path, before: &[String]) {
    let Told { chain, stop, mut events } = told(rig);
    let timing = Timing { postpone_file: Some(file.into()), attempts: Some(5), ..Timing::default() };
    let seen = async {
        says(&mut events, &["postponed", "nothing is in its way"]).await;
        assert!(file.exists(), "it is made if it is not there");
        stop.request();
    };
    let (ended, ()) = tokio::join!(chain.switchover_when(&timing), seen);
    assert_eq!(assert_unwound(ended).message, "stopped on request while postponed");
    assert_standing(&chain, Standing::InSync);
    assert!(!file.exists());
    assert_as_found(before, &as_found(&rig.lab).await);
}

/// What is done on the source while the pause is postponed counts: rights that were given, sequences that moved.
async fn postponed_then_released(rig: &Rig, file: &Path) {
    let Told { chain, mut events, .. } = told(rig);
    std::fs::write(file, "").unwrap();
    let timing = Timing { postpone_file: Some(file.into()), ..Timing::default() };
    let seen = async {
        assert!(soon(event(&mut events, began::<Postpone>)).await);
        says(&mut events, &["postponed", "nothing is in its way"]).await;
        let source = client(&rig.lab.directly(rig.lab.source_port, "shop")).await;
        source
            .batch_execute("GRANT CONNECT ON DATABASE shop TO latecomer; SELECT setval('late_seq', 4711)")
            .await
            .unwrap();
        drop(source);
        std::fs::remove_file(file).unwrap();
    };
    let (ended, ()) = tokio::join!(chain.switchover_when(&timing), seen);
    assert_done(ended);
    let target = rig.lab.directly(rig.lab.target_port, "shop");
    assert_eq!(ask(&target, "SELECT has_database_privilege('latecomer', 'shop', 'connect')").await, ["t"]);
    assert_eq!(ask(&target, "SELECT nextval('late_seq')").await, ["4712"]);
    let waited = output::<Postpone>(&rig.world, &rig.journal);
    assert!(waited > 0.0, "{waited}");
}

/// Autovacuum analyzes the side that follows by what is counted of applied rows: its planner knows them when it serves again.
async fn follower_keeps_its_statistics(rig: &Rig) {
    let source = rig.lab.directly(rig.lab.source_port, "shop");
    let sql = "SELECT sum(n_tup_ins + n_tup_upd) FROM pg_stat_user_tables WHERE schemaname = 'pgleap_canary'";
    let counted = async || -> u64 { ask(&source, sql).await[0].parse().unwrap() };
    let (before, written) = (counted().await, rig.acknowledged());
    until("applied rows to be counted", async || (counted().await > before + 50).then_some(())).await;
    assert!(rig.acknowledged() > written);
}

/// The first attempt is held by a transaction, which ends; the second works. Each is a plan, and is told.
async fn tried_again(rig: &Rig) {
    let plans = rig.journal.plans().unwrap().len();
    let shopper = client(&rig.lab.through_pooler("shop")).await;
    shopper.batch_execute("BEGIN; INSERT INTO parents VALUES (-8, 'tried again')").await.unwrap();
    tokio::time::sleep(rig.world.config.budgets.write_pause).await;
    let Told { chain, mut events, .. } = told(rig);
    let timing = Timing { attempts: Some(3), ..Timing::default() };
    let seen = async {
        let again = |event: &pgleap_saga::Event| {
            matches!(event.kind, EventKind::PlanRetrying { attempt: 2, attempts: 3, in_ms: 500 })
        };
        assert!(soon(event(&mut events, again)).await);
        shopper.batch_execute("COMMIT").await.unwrap();
    };
    let (ended, ()) = tokio::join!(chain.rollback_when(&timing), seen);
    assert_done(ended);
    let tried = rig.journal.plans().unwrap().split_off(plans);
    assert_eq!(tried.iter().map(|plan| plan.params["attempt"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    let noted = rig.journal.records(0).unwrap();
    let said =
        |words: &str| noted.iter().any(|record| record.body["text"].as_str().is_some_and(|text| text.contains(words)));
    assert!(said("attempt 1 of 3 was taken back: switchover held"), "the journal has it too");
}

/// What is missing on the other side stays missing, however long one waits.
async fn not_tried_again(rig: &Rig) {
    let plans = rig.journal.plans().unwrap().len();
    let source = client(&rig.lab.directly(rig.lab.source_port, "postgres")).await;
    let late = "CREATE ROLE newcomer; GRANT newcomer TO clerk; ALTER ROLE clerk PASSWORD 'another' CREATEDB";
    source.batch_execute(late).await.unwrap();
    let timing = Timing { attempts: Some(100), ..Timing::default() };
    let error = assert_unwound(told(rig).chain.switchover_when(&timing).await).to_string();
    let says = [
        "roles of the source that the target does not have: `newcomer`",
        "roles with another password on the target: `clerk`",
        "roles with other attributes on the target: `clerk` (LOGIN CREATEDB INHERIT",
    ];
    says.iter().for_each(|says| assert!(error.contains(says), "{error}"));
    assert_eq!(rig.journal.plans().unwrap().len(), plans + 1, "one attempt");
    // `postgres` was left to itself; where all databases are wanted, it is one that came later
    let text = rig.lab.config_text().replace("databases = [\"shop\"]", "databases = \"all\"");
    let world = World::describe(Config::parse(&text, &rig.lab.spec.dir).unwrap(), "7f3a".into(), Launch::Task).await;
    let held = decide(&Cx::standalone(&world.unwrap(), &rig.journal), Side::Source).await.unwrap();
    let Decision::Hold { reasons, lasting: true } = held else { panic!("{held:?}") };
    assert!(reasons[0].starts_with("database `postgres` of the source is not of this upgrade"), "{reasons:?}");
    source.batch_execute("DROP ROLE newcomer; ALTER ROLE clerk PASSWORD NULL NOCREATEDB").await.unwrap();
}

/// Returns how many pages of `table` are in the server's cache.
async fn cached(rig: &Rig, port: u16, table: &str) -> usize {
    let session = client(&rig.lab.directly(port, "shop")).await;
    session.batch_execute("BEGIN; CREATE EXTENSION IF NOT EXISTS pg_buffercache").await.unwrap();
    let sql = format!(
        "SELECT count(*) FROM pg_buffercache AS b WHERE relfilenode = pg_relation_filenode('{table}') AND relforknumber = 0
            AND reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())"
    );
    let count: i64 = session.query_one(&sql, &[]).await.unwrap().get(0);
    session.batch_execute("ROLLBACK").await.unwrap();
    usize::try_from(count).unwrap()
}

/// What the source has in its cache, and the target has not, is there after the switchover; extensions are not.
async fn warmed(rig: &Rig, before: &[String]) {
    let (source, target) = (rig.lab.source_port, rig.lab.target_port);
    ask(&rig.lab.directly(source, "shop"), "SELECT count(*) FROM sleeper").await;
    let pages = cached(rig, source, "sleeper").await;
    assert!(pages > 100, "{pages}");
    let server = rig.lab.target().unwrap();
    server.stop(pgleap_local::StopMode::Fast, LONG).await.unwrap();
    server.start(&[], LONG).await.unwrap();
    assert_eq!(cached(rig, target, "sleeper").await, 0);
    let file = rig.lab.spec.dir.join("warm");
    let Told { chain, stop, mut events } = told(rig);
    let timing = Timing { postpone_file: Some(file), ..Timing::default() };
    let seen = async {
        assert!(soon(event(&mut events, began::<Postpone>)).await);
        stop.request();
    };
    let (ended, ()) = tokio::join!(chain.switchover_when(&timing), seen);
    assert_unwound(ended);
    assert_eq!(cached(rig, target, "sleeper").await, pages);
    assert_eq!(cached(rig, target, "sleeper_key").await, cached(rig, source, "sleeper_key").await);
    assert_as_found(before, &as_found(&rig.lab).await);
    for port in [source, target] {
        let left = "SELECT extname FROM pg_extension WHERE extname IN ('pg_buffercache', 'pg_prewarm')";
        assert_eq!(ask(&rig.lab.directly(port, "shop"), left).await, [""; 0], "borrowed, and given back");
    }
    let records = rig.journal.records(0).unwrap();
    let of_step = |record: &&pgleap_saga::Record| record.step.as_deref() == Some(WarmCache::NAME.0);
    let output = records.iter().filter(of_step).find_map(|record| record.body.get("output")).unwrap();
    assert_eq!((&output["left_out"], &output["missing"]), (&serde_json::json!([]), &serde_json::Value::Null));
    // what only one side has written since is not there on the other, or shorter
    let (loaded, of) = (output["pages"].as_u64().unwrap(), output["of"].as_u64().unwrap());
    assert!(loaded > of * 9 / 10 && loaded <= of, "{loaded} of {of}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switchovers_begin_when_they_are_asked_to_and_leave_nothing_if_they_do_not() {
    // both with their contrib modules, everywhere
    let mut spec = small(15, 17, "timing");
    spec.write_pause = "1s".into();
    let rig = {
        let lab = pgleap_lab::Lab::start(spec).await.unwrap();
        let config = lab.config_text() + "switchover_backoff = \"500ms\"\n";
        Rig::over(lab, &config, LOAD).await
    };
    let _guard = guard(&rig.lab);
    let source = client(&rig.lab.directly(rig.lab.source_port, "shop")).await;
    source
        .batch_execute(
            "CREATE ROLE latecomer; CREATE ROLE clerk LOGIN; CREATE SEQUENCE late_seq;
             CREATE TABLE sleeper (id int, filler char(900)); INSERT INTO sleeper SELECT n, '' FROM generate_series(1, 5000) AS n;
             ALTER TABLE sleeper ADD CONSTRAINT sleeper_key PRIMARY KEY (id)",
        )
        .await
        .unwrap();
    drop(source);
    assert_done(rig.chain().run().await);
    let before = as_found(&rig.lab).await;
    let file = rig.lab.spec.dir.join("postponed");
    stopped_before_its_time(&rig, &before).await;
    no_quiet_moment(&rig, &before).await;
    warmed(&rig, &before).await;
    not_tried_again(&rig).await;
    stopped_while_postponed(&rig, &file, &before).await;
    postponed_then_released(&rig, &file).await;
    follower_keeps_its_statistics(&rig).await;
    tried_again(&rig).await;
    let port = rig.lab.source_port;
    let (lab, verdict) = rig.verdict(port).await;
    verdict.assert_clean();
    end(lab).await;
}
