//! Clients that only read: before the writers, with them, and back again.

use jiff::{SignedDuration, Timestamp};
use pgleap_lab::{Application, LabSpec};
use pgleap_local::StopMode;
use pgleap_saga::{EventSink, RecordKind, Step};
use pgleap_upgrade::{Chain, Standing, pgbouncer::admin::Entry, readers::WatchWindow, switchover::warm_up::WarmUp};

use crate::{
    bed::{
        LONG, as_found, ask, assert_as_found, assert_standing, assert_unwound, began, client, connect, event, output,
        pause_began, small, until,
    },
    rig::{Load, Rig, assert_done, directory},
};

const LOAD: Load = Load { clients: 2, rate: 40.0, application: 1 };

async fn rig_with(name: &str, change: impl FnOnce(String) -> String) -> Rig {
    let mut spec = LabSpec::new(15, 18, directory(name));
    spec.databases = vec!["shop".into()];
    spec.source_settings = vec![("fsync".into(), "off".into())];
    spec.readers = true;
    let lab = pgleap_lab::Lab::start(spec).await.unwrap();
    let config = change(lab.config_text());
    Rig::over(lab, &config, LOAD).await
}

/// Returns to which port the entry of those who read leads.
async fn readers_lead_to(rig: &Rig) -> u16 {
    let entries: Vec<Entry> = rig.world.route.members()[0].entries().await.unwrap();
    let entry = entries.into_iter().find(|entry| entry.name == "shop_ro").unwrap();
    assert!(!entry.paused);
    entry.port
}

/// Ends it; whoever is to serve holds every acknowledged write, once.
async fn assert_nothing_lost(rig: Rig, serving: fn(&pgleap_lab::Lab) -> u16) {
    let port = serving(&rig.lab);
    let (lab, verdict) = rig.verdict(port).await;
    verdict.assert_clean();
    lab.destroy().await.unwrap();
}

fn hba(rig: &Rig) -> String {
    std::fs::read_to_string(rig.lab.target().unwrap().data_dir.join("pg_hba.conf")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_go_first_writers_follow_and_both_come_back() {
    let mut rig = rig_with("rdf", |config| config).await;
    let (of_source, of_target) = rig.lab.reader_ports.unwrap();
    let readers = Application::reading(&rig.lab.reading_through_pooler("shop"), 3, 40);
    assert_done(rig.chain().run().await);
    rig.lab.start_target_standby().await.unwrap();
    let rules = hba(&rig);

    assert_done(rig.chain().switchover().await);
    assert_eq!(readers_lead_to(&rig).await, of_target);
    assert_eq!(hba(&rig), rules, "the target's door is as it was");
    let read_only = ask(&rig.lab.reading_through_pooler("shop"), "SELECT pg_is_in_recovery()").await;
    assert_eq!(read_only, ["t"]);

    // somebody takes the pool out of the configuration: its readers go back as they came
    let text = std::fs::read_to_string(rig.lab.config_path()).unwrap();
    let (before, rest) = text.split_once("[[readers.pool]]").unwrap();
    rig.edit(&format!("{before}[budgets]{}", rest.split_once("[budgets]").unwrap().1)).await;
    assert!(rig.world.config.readers.pools.is_empty());
    assert_done(rig.chain().rollback().await);
    assert_eq!(readers_lead_to(&rig).await, of_source);
    let read = readers.stop().await;
    assert!(read.transactions > 100 && read.failed == 0, "{read:?}");
    assert_nothing_lost(rig, |lab| lab.source_port).await;
}

/// Sees that a switchover is held because of the target's standby, and that nobody was led anywhere.
async fn assert_held(rig: &Rig, why: &str) {
    let rules = hba(rig);
    let held = assert_unwound(rig.chain().switchover().await);
    assert_eq!(held.message, "switchover held");
    let reasons = held.cause.unwrap();
    assert!(reasons.contains(&format!("the target's standby {why}")), "`{why}` is missing in: {reasons}");
    assert_eq!(readers_lead_to(rig).await, rig.lab.reader_ports.unwrap().0);
    assert_eq!(hba(rig), rules);
    assert_standing(&rig.chain(), Standing::InSync);
}

/// Returns when the newest record of this kind was written about readers being watched.
fn told_at(rig: &Rig, kind: RecordKind) -> Timestamp {
    let mut records = rig.journal.records(0).unwrap();
    records.retain(|record| record.kind == kind && record.step.as_deref() == Some(WatchWindow::NAME.0));
    records.last().unwrap().at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_led_to_no_standby_that_would_serve_them_badly_and_are_watched_on_a_good_one() {
    let mut rig = rig_with("rdh", |config| config.replace("window = \"0s\"", "window = \"2s\"")).await;
    let (of_source, of_target) = rig.lab.reader_ports.unwrap();
    let (source, target) = (rig.lab.source_port, rig.lab.target_port);
    let readers = Application::reading(&rig.lab.reading_through_pooler("shop"), 3, 40);
    assert_done(rig.chain().run().await);
    let text = std::fs::read_to_string(rig.lab.config_path()).unwrap();
    let led_to = |port: u16| {
        let (before, after) = text.split_once(&format!("to = \"host=127.0.0.1 port={of_target}\"")).unwrap();
        format!("{before}to = \"host=localhost port={port}\"{after}")
    };

    assert_held(&rig, &format!("127.0.0.1:{of_target} cannot be asked: ")).await;
    rig.lab.start_target_standby().await.unwrap();
    // the target itself, by another of its names
    rig.edit(&led_to(target)).await;
    assert_held(&rig, &format!("localhost:{target} is no standby: it takes writes")).await;
    rig.edit(&led_to(of_source)).await;
    assert_held(&rig, &format!("localhost:{of_source} follows another cluster")).await;
    rig.edit(&text.replace("[readers]\n", "[readers]\nmax_staleness = \"300ms\"\n")).await;
    let standby = rig.lab.directly(of_target, "shop");
    ask(&standby, "SELECT pg_wal_replay_pause()").await;
    assert_held(&rig, &format!("127.0.0.1:{of_target} within 0.3 s (`readers.max_staleness`)")).await;
    ask(&standby, "SELECT pg_wal_replay_resume()").await;

    rig.edit(&text).await;
    let sink = EventSink::new();
    let mut events = sink.subscribe();
    let chain = Chain::new(&rig.world, &rig.journal, sink, rig.stop.clone());
    let look = async {
        assert!(event(&mut events, began::<WatchWindow>).await);
        assert_eq!(readers_lead_to(&rig).await, of_target);
        let writers = ask(&rig.lab.through_pooler("shop"), "SELECT current_setting('port')").await;
        assert_eq!(writers, [source.to_string()], "writers follow when the window is over");
    };
    let (outcome, ()) = tokio::join!(chain.switchover(), look);
    assert_done(outcome);
    let watched = told_at(&rig, RecordKind::Succeeded).duration_since(told_at(&rig, RecordKind::Started));
    assert!(watched >= SignedDuration::from_secs(2), "{watched:?}");
    let seen = output::<WatchWindow>(&rig.world, &rig.journal);
    assert!(seen.transactions > 20 && seen.worst_staleness_ms > 0.0, "{seen:?}");
    assert_eq!(readers_lead_to(&rig).await, of_target);
    let read = readers.stop().await;
    assert!(read.transactions > 100 && read.failed == 0, "{read:?}");
    let (lab, verdict) = rig.verdict(target).await;
    verdict.assert_clean();
    lab.destroy().await.unwrap();
}

#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switchover_that_is_resumed_moves_readers_as_was_written_when_it_began() {
    use pgleap_saga::fault::Script;
    use pgleap_upgrade::{Standing, config::ReaderOrder};

    let mut rig = rig_with("rdr", |config| config).await;
    assert_done(rig.chain().run().await);
    rig.lab.start_target_standby().await.unwrap();
    let text = std::fs::read_to_string(rig.lab.config_path()).unwrap();
    let together = text.replace("[readers]\n", "[readers]\norder = \"together\"\n");
    // before anything was settled, and when readers are there
    for point in ["readers.settle_ways.after_started", "readers.move_pools.after_succeeded"] {
        let script = Script::hold_at(point);
        let chain = rig.chain();
        let dies = async {
            if chain.standing().unwrap() == Standing::InSync { chain.switchover().await } else { chain.resume().await }
        };
        tokio::select! {
            ended = script.run(dies) => panic!("{ended:?}"),
            () = script.held() => {}
        }
        drop(chain);
        rig.edit(&together).await;
        assert_eq!(rig.world.config.readers.order, ReaderOrder::Together);
    }
    assert_done(rig.chain().resume().await);
    assert_eq!(readers_lead_to(&rig).await, rig.lab.reader_ports.unwrap().1);
    assert_nothing_lost(rig, |lab| lab.target_port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_on_a_bad_standby_are_led_back_and_nobody_could_write_to_the_target_meanwhile() {
    let change = |config: String| config.replace("window = \"0s\"", "window = \"1h\"\nroles = [\"report\"]");
    let rig = rig_with("rdw", change).await;
    let (of_source, of_target) = rig.lab.reader_ports.unwrap();
    client(&rig.lab.directly(rig.lab.source_port, "shop"))
        .await
        .batch_execute("CREATE ROLE report LOGIN")
        .await
        .unwrap();
    assert_done(rig.chain().run().await);
    let standby = rig.lab.start_target_standby().await.unwrap();
    let rules = hba(&rig);
    let (target, source) = (rig.lab.target_port, rig.lab.source_port);

    let sink = EventSink::new();
    let mut events = sink.subscribe();
    let chain = Chain::new(&rig.world, &rig.journal, sink, rig.stop.clone());
    let meddle = async {
        assert!(event(&mut events, began::<WatchWindow>).await);
        assert_eq!(readers_lead_to(&rig).await, of_target);
        // its own role may enter the standby, which takes no writes, and not the target itself
        let inside = rig.lab.bypassing(of_target, "shop");
        assert_eq!(ask(&inside, "SELECT pg_is_in_recovery()").await, ["t"]);
        let refused = connect(&rig.lab.bypassing(target, "shop")).await.unwrap_err();
        let refused = refused.as_db_error().unwrap().message().to_owned();
        assert!(refused.contains("pg_hba.conf rejects connection"), "{refused}");
        standby.stop(StopMode::Immediate, LONG).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(chain.switchover(), meddle);
    let cause = assert_unwound(outcome);
    assert!(cause.message.contains("readers are not served well"), "{cause:?}");
    assert_eq!(readers_lead_to(&rig).await, of_source);
    assert_eq!(hba(&rig), rules);
    let refused = connect(&rig.lab.bypassing(target, "shop")).await.unwrap_err();
    assert_eq!(refused.as_db_error().unwrap().message(), "permission denied for database \"shop\"");
    let may =
        ask(&rig.lab.directly(target, "shop"), "SELECT has_database_privilege('report', 'shop', 'CONNECT')").await;
    assert_eq!(may, ["f"], "who may stay at the source has no business at the target");
    until("a reader to be served by the source's standby again", async || {
        connect(&rig.lab.reading_through_pooler("shop")).await.ok()
    })
    .await;
    let (lab, verdict) = rig.verdict(source).await;
    verdict.assert_clean();
    lab.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_led_back_when_whoever_watches_them_is_stopped() {
    let rig = rig_with("rdc", |config| config.replace("window = \"0s\"", "window = \"1h\"")).await;
    let (of_source, of_target) = rig.lab.reader_ports.unwrap();
    assert_done(rig.chain().run().await);
    rig.lab.start_target_standby().await.unwrap();
    let rules = hba(&rig);
    let sink = EventSink::new();
    let mut events = sink.subscribe();
    let chain = Chain::new(&rig.world, &rig.journal, sink, rig.stop.clone());
    let stop = async {
        assert!(event(&mut events, began::<WatchWindow>).await);
        assert_eq!(readers_lead_to(&rig).await, of_target);
        rig.stop.request();
    };
    let (outcome, ()) = tokio::join!(chain.switchover(), stop);
    let cause = assert_unwound(outcome);
    assert_eq!(cause.message, "stopped on request before writers followed the readers");
    assert_eq!(readers_lead_to(&rig).await, of_source);
    assert_eq!(hba(&rig), rules);
    assert_eq!(chain.standing().unwrap(), pgleap_upgrade::Standing::InSync);
    assert_nothing_lost(rig, |lab| lab.source_port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_led_back_when_the_writers_pause_is_stopped() {
    let rig = rig_with("rdp", |config| config).await;
    let (of_source, _) = rig.lab.reader_ports.unwrap();
    assert_done(rig.chain().run().await);
    rig.lab.start_target_standby().await.unwrap();
    let sink = EventSink::new();
    let mut events = sink.subscribe();
    let chain = Chain::new(&rig.world, &rig.journal, sink, rig.stop.clone());
    // keeps the pause from ending well
    let open = connect(&rig.lab.through_pooler("shop")).await.unwrap();
    let stop = async {
        assert!(event(&mut events, began::<WarmUp>).await);
        open.batch_execute("BEGIN; SELECT 1").await.unwrap();
        assert!(event(&mut events, pause_began).await);
        rig.stop.request();
    };
    let (outcome, ()) = tokio::join!(chain.switchover(), stop);
    open.batch_execute("COMMIT").await.unwrap();
    assert_unwound(outcome);
    assert_eq!(readers_lead_to(&rig).await, of_source);
    assert_eq!(chain.standing().unwrap(), pgleap_upgrade::Standing::InSync);
    assert_nothing_lost(rig, |lab| lab.source_port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_go_together_with_writers_and_their_long_transaction_holds_nobody_up() {
    let rig = rig_with("rdt", |config| config.replace("[readers]\n", "[readers]\norder = \"together\"\n")).await;
    let (_, of_target) = rig.lab.reader_ports.unwrap();
    let readers = Application::reading(&rig.lab.reading_through_pooler("shop"), 3, 40);
    assert_done(rig.chain().run().await);
    rig.lab.start_target_standby().await.unwrap();
    let long = connect(&rig.lab.reading_through_pooler("shop")).await.unwrap();
    long.batch_execute("BEGIN; SELECT 1").await.unwrap();
    assert_done(rig.chain().switchover().await);
    assert_eq!(readers_lead_to(&rig).await, of_target);
    long.batch_execute("SELECT 1; COMMIT").await.unwrap();
    let read = readers.stop().await;
    assert!(read.transactions > 100 && read.failed == 0, "{read:?}");
    assert_nothing_lost(rig, |lab| lab.target_port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_that_write_nothing_may_stay_at_the_fenced_side_and_others_are_refused() {
    let mut spec = small(15, 18, "rds");
    spec.pooler_settings = Vec::new();
    let lab = pgleap_lab::Lab::start(spec).await.unwrap();
    let text = lab.config_text().replace("[budgets]", "[readers]\nroles = [\"report\"]\n\n[budgets]");
    let rig = Rig::over(lab, &text, LOAD).await;
    let source = rig.lab.directly(rig.lab.source_port, "shop");
    let sql = "CREATE ROLE report LOGIN PASSWORD 'r'; GRANT pg_read_all_data TO report; GRANT INSERT ON pgbench_history TO report";
    client(&source).await.batch_execute(sql).await.unwrap();
    let found = as_found(&rig.lab).await;
    assert_done(rig.chain().run().await);
    let held = assert_unwound(rig.chain().switchover().await);
    let reasons = held.cause.unwrap();
    assert!(
        reasons.contains("role `report` of `readers.roles` is no reader in `shop`: `report` may write to"),
        "{reasons}"
    );

    for side in [rig.lab.source_port, rig.lab.target_port] {
        let session = client(&rig.lab.directly(side, "shop")).await;
        session.batch_execute("REVOKE INSERT ON pgbench_history FROM report").await.unwrap();
    }
    let mut report = rig.lab.bypassing(rig.lab.source_port, "shop");
    report.user("report").password("r");
    let stays = client(&report).await;
    assert_done(rig.chain().switchover().await);
    stays.batch_execute("SELECT count(*) FROM pgbench_accounts").await.unwrap();
    assert_eq!(ask(&report, "SELECT 1").await, ["1"], "it may come back");
    let written = stays.batch_execute("BEGIN READ WRITE; INSERT INTO pgbench_history (tid) VALUES (1)").await;
    assert_eq!(written.unwrap_err().code().unwrap().code(), "42501");
    let refused = connect(&rig.lab.bypassing(rig.lab.source_port, "shop")).await.unwrap_err();
    assert_eq!(refused.as_db_error().unwrap().message(), "permission denied for database \"shop\"");

    assert_done(rig.chain().rollback().await);
    assert_unwound(rig.chain().unwind("the test is over").await);
    client(&source).await.batch_execute("GRANT INSERT ON pgbench_history TO report").await.unwrap();
    assert_as_found(&found, &as_found(&rig.lab).await);
    assert_nothing_lost(rig, |lab| lab.source_port).await;
}
