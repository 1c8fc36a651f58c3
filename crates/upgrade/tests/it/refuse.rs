//! What stands in the way is named, and whoever is refused finds everything as it was before.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use pgleap_lab::{Lab, ROLES};
use pgleap_saga::{EventSink, StepError};
use pgleap_upgrade::{
    Chain, Standing, World,
    guard::Launch,
    pg::Side,
    pgbouncer::admin::Entry,
    rehearse::{Rehearsal, Rehearse, rehearse},
    switchover::{
        carry_over::CarryOver, check_gates::CheckGates, drain::Audit, save_access::SaveAccess, warm_up::WarmUp,
    },
    world::Cx,
};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, error::SqlState};

use crate::{
    bed::{
        Bed, as_found, ask, assert_as_found, assert_blocked, assert_standing, assert_unwound, began, client, connect,
        end, event, guard, output, small, until,
    },
    rig::{Load, Rig, assert_done},
};

const LOAD: Load = Load { clients: 3, rate: 60.0, application: 1 };

async fn pid(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_cannot_be_made_in_time_name_the_transactions_in_the_way() {
    let mut spec = small(15, 18, "slots");
    spec.source_settings.push(("max_prepared_transactions".into(), "5".into()));
    let bed = Bed::start_with(spec, "slot_creation = \"1s\"\n").await;
    let _guard = guard(&bed.lab);
    // in a database that is not part of the upgrade: a slot waits for the whole cluster
    let elsewhere = client(&bed.lab.directly(bed.lab.source_port, "postgres")).await;
    elsewhere.batch_execute("BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'forgotten'").await.unwrap();
    let error = assert_blocked(bed.chain().run().await).to_string();
    assert!(error.contains("prepared transaction `forgotten` (role `pgleap`, database `postgres`)"), "{error}");

    let pid = pid(&elsewhere).await;
    elsewhere.batch_execute("ROLLBACK PREPARED 'forgotten'").await.unwrap();
    elsewhere.batch_execute("BEGIN; CREATE TABLE t ()").await.unwrap();
    let error = assert_blocked(bed.chain().resume().await).to_string();
    assert!(error.contains(&format!("pid {pid} ")), "{error}");
    assert!(!error.contains("forgotten"), "{error}");
    let slots = "SELECT slot_name FROM pg_replication_slots";
    assert_eq!(ask(&bed.lab.directly(bed.lab.source_port, "postgres"), slots).await, [""; 0]);

    elsewhere.batch_execute("ROLLBACK").await.unwrap();
    assert_done(bed.chain().resume().await);
    end(bed.lab).await;
}

/// Sees that after a refusal the source serves as before.
async fn assert_untouched(rig: &Rig, before: &[String]) {
    assert_as_found(before, &as_found(&rig.lab).await);
    let entries: Vec<Entry> = rig.world.route.members()[0].entries().await.unwrap();
    assert!(entries.iter().all(|entry| !entry.paused && entry.port == rig.lab.source_port), "{entries:?}");
    assert_standing(&rig.chain(), Standing::InSync);
    let now = rig.acknowledged();
    until("clients to go on", async || (rig.acknowledged() > now + 20).then_some(())).await;
}

/// Opens a transaction through the pooler, and returns when it is older than the write budget.
async fn open_for_long(rig: &Rig) -> Client {
    let shopper = client(&rig.lab.through_pooler("shop")).await;
    shopper.batch_execute("BEGIN; SELECT count(*) FROM parents").await.unwrap();
    let old = "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction' AND query ~ 'FROM parents'
                  AND xact_start < now() - interval '1500 ms'";
    let source = rig.lab.directly(rig.lab.source_port, "shop");
    until("the transaction to be old", async || (!ask(&source, old).await.is_empty()).then_some(())).await;
    shopper
}

async fn held_by_an_old_transaction(rig: &Rig, before: &[String]) {
    let shopper = open_for_long(rig).await;
    // the pooler's own number is not the server's
    let pids = ask(
        &rig.lab.directly(rig.lab.source_port, "shop"),
        "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction' AND query ~ 'FROM parents'",
    )
    .await;
    let error = assert_unwound(rig.chain().switchover().await);
    assert!(error.message.contains("switchover held"), "{error}");
    assert!(error.to_string().contains(&format!("pid {} (role `app`", pids[0])), "{error}");
    let records = rig.journal.records(0).unwrap();
    let beyond = records.iter().filter(|r| r.step.as_deref() == Some(step_name::<SaveAccess>())).count();
    assert_eq!(beyond, 0, "the gates come before everything else");
    assert!(records.iter().any(|r| r.step.as_deref() == Some(step_name::<CheckGates>())));
    shopper.batch_execute("COMMIT").await.unwrap();
    assert_untouched(rig, before).await;
}

/// A superuser that does nothing is enough: it could write when nobody looks any more.
async fn held_by_a_superuser(rig: &Rig, before: &[String]) {
    let mut config = rig.lab.directly(rig.lab.source_port, "shop");
    let idle = client(config.application_name("night shift")).await;
    let error = assert_unwound(rig.chain().switchover().await);
    assert!(error.message.contains("switchover held"), "{error}");
    let named = format!("pid {} (superuser `pgleap`, `night shift`, database `shop`, idle)", pid(&idle).await);
    assert!(error.to_string().contains(&named), "{error}");
    assert!(error.to_string().contains("fence.tolerate"), "{error}");
    drop(idle);
    assert_untouched(rig, before).await;
}

/// Comes after the gates and does not write: the fence ends it, and still the pause is taken back.
async fn called_off_by_a_late_superuser(rig: &Rig, before: &[String]) {
    let sink = EventSink::new();
    let mut events = sink.subscribe();
    let mut config = rig.lab.directly(rig.lab.source_port, "shop");
    config.application_name("late");
    let late = tokio::spawn(async move {
        assert!(event(&mut events, began::<WarmUp>).await);
        client(&config).await
    });
    let chain = Chain::new(&rig.world, &rig.journal, sink, rig.stop.clone());
    let error = assert_unwound(chain.switchover().await).to_string();
    assert!(error.contains("superusers pass the fence of the source"), "{error}");
    assert!(error.contains("(superuser `pgleap`, `late`"), "{error}");
    assert!(late.await.unwrap().is_closed(), "its session was ended");
    assert_untouched(rig, before).await;
}

fn step_name<S: pgleap_saga::Step<pgleap_upgrade::World>>() -> &'static str {
    S::NAME.0
}

async fn over_the_write_budget(rig: &Rig, before: &[String]) {
    let sink = EventSink::new();
    let mut events = sink.subscribe();
    let config = rig.lab.through_pooler("shop");
    // after the gates and the slots, right before the pause
    let late = tokio::spawn(async move {
        assert!(event(&mut events, began::<WarmUp>).await);
        let shopper = client(&config).await;
        shopper.batch_execute("BEGIN; INSERT INTO parents VALUES (-1, 'held through a pause')").await.unwrap();
        shopper
    });
    let chain = Chain::new(&rig.world, &rig.journal, sink, rig.stop.clone());
    let error = assert_unwound(chain.switchover().await);
    assert!(error.to_string().contains("a transaction does not end"), "what was waited for is not named: {error}");
    let shopper = late.await.unwrap();
    shopper.batch_execute("COMMIT").await.unwrap();
    let row = "SELECT name FROM parents WHERE id = -1";
    assert_eq!(ask(&rig.lab.directly(rig.lab.source_port, "shop"), row).await, ["held through a pause"]);
    assert_untouched(rig, before).await;
}

/// Rehearses a pause of the whole write budget, which is a second, in such a world.
async fn rehearsed(rig: &Rig, world: &World) -> Result<Rehearsal, StepError> {
    let what = Rehearse { from: Side::Source, pauses: 1, budget: world.config.budgets.write_pause };
    rehearse(&Cx::standalone(world, &rig.journal), what).await
}

/// Somebody who waits would give up before the pause is over, and a guard holds it for half a second longer.
async fn rehearsed_beyond_somebodys_patience(rig: &Rig, config: &str, before: &[String]) {
    let (user, password) = ROLES[2];
    let mut console = rig.lab.through_pooler("pgbouncer");
    console.user(user).password(password);
    let console = client(&console).await;
    for (setting, usual) in [("query_wait_timeout", 120), ("query_timeout", 0)] {
        console.simple_query(&format!("SET {setting} = 1")).await.unwrap();
        let refused = rehearsed(rig, &rig.world).await.unwrap_err();
        let expected = format!("sends waiting clients away after 1 s (`{setting}`)");
        assert!(refused.message.contains(&expected), "`{expected}` is missing in: {refused}");
        assert!(refused.hint.unwrap().contains(&format!("raise `{setting}`")));
        console.simple_query(&format!("SET {setting} = 2")).await.unwrap();
        assert_eq!(rehearsed(rig, &rig.world).await.unwrap().pauses_ms.len(), 1, "{setting} outlasts the pause");
        console.simple_query(&format!("SET {setting} = {usual}")).await.unwrap();
    }
    console.simple_query("SET query_wait_timeout = 1").await.unwrap();
    let held = assert_unwound(rig.chain().switchover().await).cause.unwrap();
    let expected = "sends waiting clients away after 1 s (`query_wait_timeout`), and a pause may last 1.5 s: raise";
    assert!(held.contains(expected), "`{expected}` is missing in: {held}");
    console.simple_query("SET query_wait_timeout = 120").await.unwrap();
    for (timeout, refused) in [("1s", true), ("1500ms", true), ("1600ms", false)] {
        let text = config.replace("[budgets]\n", &format!("[budgets]\napplication_timeout = \"{timeout}\"\n"));
        let world = pgleap_upgrade::Config::parse(&text, &rig.lab.spec.dir).unwrap();
        let world = World::describe(world, "7f3a".into(), Launch::Task).await.unwrap();
        match rehearsed(rig, &world).await {
            Err(error) => assert!(refused && error.message.contains("the application gives up after 1"), "{error}"),
            Ok(rehearsal) => assert!(!refused, "{timeout}: {rehearsal:?}"),
        }
    }
    assert_untouched(rig, before).await;
}

/// Works until it is told to stop, in a task of its own.
fn again_and_again<F>(stop: &Arc<AtomicBool>, mut work: impl FnMut() -> F + Send + 'static) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send,
{
    let stop = stop.clone();
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            work().await;
            // a refused connection is an answer at once: the task must be one that can be ended
            tokio::task::yield_now().await;
        }
    })
}

/// Enters, writes, and leaves.
async fn drop_in(config: &Config) {
    if let Ok(client) = connect(config).await {
        // the read-only default that comes with the fence does not bind whoever asks for more
        let write = "BEGIN READ WRITE; UPDATE pgbench_tellers SET filler = 'batch' WHERE tid = 3; COMMIT";
        drop(client.batch_execute(write).await);
    }
}

async fn beaten_by_superusers(rig: &Rig, before: &[String]) {
    // by the socket, without a password; and so many that there is always one on its way in
    let mut config = Config::new();
    config.host_path(rig.lab.spec.dir.join("s")).port(rig.lab.source_port).user("pgleap").dbname("shop");
    config.application_name("nightly batch");
    let stop = Arc::new(AtomicBool::new(false));
    let superusers: Vec<_> = (0..8)
        .map(|_| {
            let config = config.clone();
            again_and_again(&stop, move || {
                let config = config.clone();
                async move { drop_in(&config).await }
            })
        })
        .collect();
    let error = assert_unwound(rig.chain().switchover().await);
    stop.store(true, Ordering::Relaxed);
    for superuser in superusers {
        superuser.await.unwrap();
    }
    assert!(error.to_string().contains("(superuser `pgleap`, `nightly batch`, database `shop`"), "{error}");
    assert_untouched(rig, before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_switchovers_leave_everything_as_it_was_and_the_next_one_works() {
    let mut spec = small(15, 18, "refuse");
    spec.write_pause = "1s".into();
    let lab = Lab::start(spec).await.unwrap();
    let config = lab.config_text() + "[fence]\ntolerate = [\"exporter\"]\n";
    let rig = Rig::over(lab, &config, LOAD).await;
    assert_done(rig.chain().run().await);
    let _guard = guard(&rig.lab);
    let before = as_found(&rig.lab).await;
    rehearsed_beyond_somebodys_patience(&rig, &config, &before).await;
    held_by_an_old_transaction(&rig, &before).await;
    held_by_a_superuser(&rig, &before).await;
    over_the_write_budget(&rig, &before).await;
    called_off_by_a_late_superuser(&rig, &before).await;
    beaten_by_superusers(&rig, &before).await;
    let shopper = open_for_long(&rig).await;
    let text = config + "end_older = \"800ms\"\n";
    let willing = pgleap_upgrade::Config::parse(&text, &rig.lab.spec.dir).unwrap();
    let willing = World::describe(willing, "7f3a".into(), Launch::Task).await.unwrap();
    let mut config = rig.lab.directly(rig.lab.source_port, "shop");
    let tolerated = client(config.application_name("exporter")).await;
    let chain = Chain::new(&willing, &rig.journal, EventSink::new(), rig.stop.clone());
    assert_done(chain.switchover().await);
    assert!(tolerated.is_closed(), "who is tolerated is ended all the same");
    assert!(shopper.batch_execute("COMMIT").await.is_err(), "who held the pause up for too long is ended");
    let port = rig.lab.target_port;
    let (lab, verdict) = rig.verdict(port).await;
    verdict.assert_clean();
    end(lab).await;
}

/// How often the write pause may fall between two writes to another database.
const MOST_SILENCES: u32 = 8;

/// What a client that bypasses the pooler was told about its writes.
#[derive(Default)]
struct Told {
    acknowledged: Vec<i64>,
    unknown: Vec<i64>,
    shut_out: bool,
}

/// How a client that bypasses the pooler cheats.
#[derive(Clone, Copy, PartialEq)]
enum Cheat {
    /// Each transaction READ WRITE, in a session of its own.
    SessionEach,
    /// Each transaction READ WRITE, in one session until the server ends it.
    ReadWrite,
    /// The session's own default is set once.
    OwnDefault,
    /// The write is a statement that was prepared before.
    Prepared,
}

impl Cheat {
    /// What it does once in a session, and with each number.
    fn sql(self, n: i64) -> (&'static str, String) {
        match self {
            Self::SessionEach | Self::ReadWrite => {
                ("", format!("BEGIN READ WRITE; INSERT INTO direct VALUES ({n}); COMMIT"))
            }
            Self::OwnDefault => ("SET default_transaction_read_only = off", format!("INSERT INTO direct VALUES ({n})")),
            Self::Prepared => (
                "SET default_transaction_read_only = off; PREPARE w AS INSERT INTO direct VALUES ($1::bigint)",
                format!("EXECUTE w({n})"),
            ),
        }
    }
}

/// Writes directly until it is shut out.
async fn write_directly(config: Config, who: i64, cheat: Cheat, stop: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    let mut numbers = (who * 1_000_000)..;
    while !stop.load(Ordering::Relaxed) {
        match connect(&config).await {
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                told.shut_out = true;
                return told;
            }
            Err(_) => {}
            // ended before it could write anything
            Ok(client) if client.batch_execute(cheat.sql(0).0).await.is_err() => {}
            Ok(client) => loop {
                let Some(n) = numbers.next() else { return told };
                match client.batch_execute(&cheat.sql(n).1).await {
                    Ok(()) => told.acknowledged.push(n),
                    Err(_) => told.unknown.push(n),
                }
                if cheat == Cheat::SessionEach || client.is_closed() || stop.load(Ordering::Relaxed) {
                    break;
                }
            },
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_writers_are_shut_out_and_the_audit_decodes_where_other_databases_are_written_to() {
    let mut spec = small(15, 18, "direct");
    spec.write_pause = "5s".into();
    let rig = Rig::start_with(spec, LOAD).await;
    let _guard = guard(&rig.lab);
    let (source, target) = (rig.lab.source_port, rig.lab.target_port);
    client(&rig.lab.bypassing(source, "shop"))
        .await
        .batch_execute("CREATE TABLE direct (n bigint PRIMARY KEY)")
        .await
        .unwrap();
    client(&rig.lab.directly(source, "postgres")).await.batch_execute("CREATE TABLE burnt (n int)").await.unwrap();
    assert_done(rig.chain().run().await);

    let stop = Arc::new(AtomicBool::new(false));
    let elsewhere = Arc::new(client(&rig.lab.directly(source, "postgres")).await);
    let burner = again_and_again(&stop, move || {
        let elsewhere = elsewhere.clone();
        async move { elsewhere.batch_execute("INSERT INTO burnt VALUES (1)").await.unwrap() }
    });
    let cheats = [(1, Cheat::SessionEach), (2, Cheat::ReadWrite), (3, Cheat::OwnDefault), (4, Cheat::Prepared)];
    let writers: Vec<_> = cheats
        .map(|(who, cheat)| tokio::spawn(write_directly(rig.lab.bypassing(source, "shop"), who, cheat, stop.clone())))
        .into();
    assert_done(rig.chain().switchover().await);
    until("every direct writer to be shut out", async || writers.iter().all(JoinHandle::is_finished).then_some(()))
        .await;
    // on a busy machine the other database may have been quiet for just those milliseconds: silence is right then
    for _ in 0..MOST_SILENCES {
        if output::<CarryOver>(&rig.world, &rig.journal).audit == Audit::Decoded {
            break;
        }
        assert_done(rig.chain().rollback().await);
        assert_done(rig.chain().switchover().await);
    }
    stop.store(true, Ordering::Relaxed);
    burner.await.unwrap();
    assert_eq!(output::<CarryOver>(&rig.world, &rig.journal).audit, Audit::Decoded);

    let numbers = "SELECT n FROM direct ORDER BY n";
    let there = ask(&rig.lab.directly(target, "shop"), numbers).await;
    assert_eq!(there, ask(&rig.lab.directly(source, "shop"), numbers).await, "a write was accepted past the fence");
    for writer in writers {
        let told = writer.await.unwrap();
        assert!(told.shut_out && told.acknowledged.len() > 10, "{} writes", told.acknowledged.len());
        let lost: Vec<_> = told.acknowledged.iter().filter(|n| !there.contains(&n.to_string())).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let unknown = told.unknown.len();
        assert!(unknown <= 1 + told.acknowledged.len() / 10, "{unknown} writes without an answer");
    }
    let (lab, verdict) = rig.verdict(target).await;
    verdict.assert_clean();
    end(lab).await;
}

#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_that_is_open_when_the_fence_goes_up_ends_on_both_sides_or_on_none() {
    use pgleap_saga::{Outcome, fault::Script};
    use pgleap_upgrade::switchover::confirm_gates::ConfirmGates;

    const NUMBERS: &str = "SELECT n FROM direct ORDER BY n";
    let mut spec = small(15, 18, "open");
    spec.write_pause = "5s".into();
    let rig = Rig::start_with(spec, LOAD).await;
    let _guard = guard(&rig.lab);
    let (source, target) = (rig.lab.source_port, rig.lab.target_port);
    let direct = client(&rig.lab.bypassing(source, "shop")).await;
    direct.batch_execute("CREATE TABLE direct (n int PRIMARY KEY)").await.unwrap();
    assert_done(rig.chain().run().await);

    // it commits where it may not log in any more, then when the last row is thought to be over
    let points = ["switchover.fence.after_block", "switchover.carry_over.after_arrival"];
    let mut there = Vec::new();
    let turns = points.iter().flat_map(|point| [(point, source, target), (point, target, source)]);
    for (n, (point, from, to)) in turns.enumerate() {
        let sink = EventSink::new();
        let mut events = sink.subscribe();
        let chain = Chain::new(&rig.world, &rig.journal, sink, rig.stop.clone());
        let session = client(&rig.lab.bypassing(from, "shop")).await;
        let script = Script::hold_at(*point);
        let cheat = async {
            // the slots are made, and it is too young to hold anything up
            assert!(event(&mut events, began::<ConfirmGates>).await);
            session.batch_execute(&format!("BEGIN READ WRITE; INSERT INTO direct VALUES ({n})")).await.unwrap();
            script.held().await;
            let told = session.batch_execute("COMMIT").await;
            script.release();
            told
        };
        let moves = async { if from == source { chain.switchover().await } else { chain.rollback().await } };
        let both = async { tokio::join!(script.run(moves), cheat) };
        let (outcome, told) = tokio::time::timeout(crate::bed::LONG, both).await.unwrap();
        assert!(matches!(outcome, Some(Ok(Outcome::Done))), "{point}: {outcome:?}");
        assert_eq!(told.is_ok(), *point == points[0], "{point}: {told:?}");
        if told.is_ok() {
            there.push(n.to_string());
        }
        assert!(connect(&rig.lab.bypassing(from, "shop")).await.is_err(), "{point}: the fence stands");
        assert_eq!(ask(&rig.lab.bypassing(to, "shop"), NUMBERS).await, there, "{point}");
        assert_eq!(ask(&rig.lab.directly(from, "shop"), NUMBERS).await, there, "{point}: on one side alone");
    }
    let (lab, verdict) = rig.verdict(source).await;
    verdict.assert_clean();
    end(lab).await;
}
