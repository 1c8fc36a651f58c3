//! Clients that know both servers and look for the one that takes writes: tokio-postgres and libpq, in either order of hosts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use pgleap_lab::{Lab, ROLES};
use pgleap_local::run;
use pgleap_saga::EventSink;
use pgleap_upgrade::{
    Chain, Standing,
    pg::Side,
    preflight,
    rehearse::{Rehearse, rehearse},
    switchover::{move_clients::MoveClients, warm_up::WarmUp},
};
use tokio::task::JoinHandle;
use tokio_postgres::{Config, config::TargetSessionAttrs, error::SqlState};

use crate::{
    bed::{
        LONG, as_found, ask, assert_as_found, assert_standing, assert_unwound, began, client, connect, end, event,
        guard, output, small, until,
    },
    rig::{Load, Rig, assert_done},
};

const LOAD: Load = Load { clients: 3, rate: 60.0, application: 1 };

/// How long libpq is left alone between two connections.
const PACE: Duration = Duration::from_millis(20);

fn both_hosts(lab: &Lab, database: &str) -> Config {
    let mut config = lab.bypassing(lab.source_port, database);
    config.host("127.0.0.1").port(lab.target_port).target_session_attrs(TargetSessionAttrs::ReadWrite);
    config
}

/// `psql`, again and again, each time connected anew: one row each. Its ledger is in this process.
struct Libpq {
    ports: String,
    stop: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    task: JoinHandle<Told>,
}

#[derive(Default)]
struct Told {
    acknowledged: Vec<usize>,
    failures: Vec<String>,
    longest_stall: Duration,
}

impl Libpq {
    fn start(lab: &Lab, who: usize, ports: [u16; 2]) -> Self {
        let ports = format!("{},{}", ports[0], ports[1]);
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (psql, account) = (lab.source.installation.tool("psql"), lab.account.clone());
        let dsn = format!(
            "host=127.0.0.1,127.0.0.1 port={ports} user={} dbname=shop target_session_attrs=read-write connect_timeout=5",
            ROLES[1].0
        );
        let (stopped, count) = (stop.clone(), written.clone());
        let task = tokio::spawn(async move {
            let (mut told, mut last) = (Told::default(), Instant::now());
            for n in who * 1_000_000.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let mut command = account.command(&psql);
                command.env("PGPASSWORD", ROLES[1].1);
                command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", &dsn, "-c"]);
                command.arg(format!("INSERT INTO by_libpq VALUES ({n})"));
                match run(command, LONG).await {
                    Ok(_) => {
                        told.acknowledged.push(n);
                        told.longest_stall = told.longest_stall.max(last.elapsed());
                        last = Instant::now();
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => told.failures.push(error.to_string()),
                }
                // as an application would, and not all the machine for itself
                tokio::time::sleep(PACE).await;
            }
            told
        });
        Self { ports, stop, written, task }
    }

    async fn goes_on(&self) {
        let now = self.written.load(Ordering::Relaxed);
        let what = format!("libpq with ports {} to write", self.ports);
        until(&what, async || (self.written.load(Ordering::Relaxed) > now + 3).then_some(())).await;
    }

    async fn stop(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// The side that follows lets the application in, shows that it is read-only, and takes no write however it is begun.
async fn takes_no_write(lab: &Lab, port: u16) {
    let follower = lab.bypassing(port, "shop");
    assert_eq!(ask(&follower, "SHOW transaction_read_only").await, ["on"]);
    let rows = "SELECT count(*) FROM by_libpq WHERE n < 0";
    for cheat in [
        "INSERT INTO by_libpq VALUES (-1)",
        "COPY by_libpq FROM PROGRAM 'echo -2'",
        "UPDATE by_libpq SET n = -n",
        "DELETE FROM by_libpq",
        "TRUNCATE by_libpq",
        "CREATE TABLE by_a_cheat ()",
        "ALTER TABLE by_libpq DISABLE TRIGGER ALL",
        "DROP TABLE by_libpq",
    ] {
        let cheating = client(&follower).await;
        let error = cheating.batch_execute(&format!("BEGIN READ WRITE; {cheat}; COMMIT")).await.unwrap_err();
        let refused = [SqlState::READ_ONLY_SQL_TRANSACTION, SqlState::INSUFFICIENT_PRIVILEGE];
        assert!(error.code().is_some_and(|code| refused.contains(code)), "{cheat}: {error:?}");
    }
    assert_eq!(ask(&follower, rows).await, ["0"]);
}

/// Whoever has only the old address is stopped before the decision: clients go on at the source.
async fn called_off(rig: &Rig) {
    let sink = EventSink::new();
    let mut events = sink.subscribe();
    let superuser = rig.lab.directly(rig.lab.source_port, "shop");
    let late = tokio::spawn(async move {
        assert!(event(&mut events, began::<WarmUp>).await);
        client(&superuser).await
    });
    let chain = Chain::new(&rig.world, &rig.journal, sink, rig.stop.clone());
    let error = assert_unwound(chain.switchover().await).to_string();
    assert!(error.contains("superusers pass the fence of the source"), "{error}");
    drop(late.await.unwrap());
    assert_standing(&rig.chain(), Standing::InSync);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_with_both_hosts_find_the_side_that_takes_writes_there_and_back() {
    let mut spec = small(15, 18, "hosts");
    spec.write_pause = "5s".into();
    let lab = Lab::start(spec).await.unwrap();
    let (source, target) = (lab.source_port, lab.target_port);
    client(&lab.bypassing(source, "shop"))
        .await
        .batch_execute("CREATE TABLE by_libpq (n int PRIMARY KEY)")
        .await
        .unwrap();
    let text = lab.config_text();
    let (before, after) = (text.split_once("[route]").unwrap().0, text.split_once("[budgets]").unwrap().1);
    // clients are not kept waiting: how long they would does not matter to a rehearsal
    let impatient = "application_timeout = \"500ms\"";
    let config = format!("{before}[route]\nkind = \"multi_host\"\n\n[budgets]\n{impatient}{after}");
    let rig = Rig::over_by(lab, &config, LOAD, both_hosts).await;
    let _guard = guard(&rig.lab);
    let admin = client(&rig.lab.directly(source, "shop")).await;
    admin.batch_execute("ALTER ROLE app IN DATABASE shop SET default_transaction_read_only = off").await.unwrap();
    let report = preflight::check(&rig.world).await;
    let blockers: Vec<_> = report.blockers().map(|finding| finding.message.as_str()).collect();
    assert_eq!(blockers, ["`default_transaction_read_only` is `off` for role app in database shop"]);
    let told = report.findings.iter().find(|finding| finding.id == "route.clients_see_errors").unwrap();
    assert!(told.message.contains("clients lose their connections, and get errors, for at most 5 s"), "{told:?}");
    admin.batch_execute("ALTER ROLE app IN DATABASE shop RESET default_transaction_read_only").await.unwrap();
    drop(admin);
    let old_first = Libpq::start(&rig.lab, 1, [source, target]);
    assert_done(rig.chain().run().await);
    let as_it_was = as_found(&rig.lab).await;
    takes_no_write(&rig.lab, target).await;
    let what = Rehearse { from: Side::Source, pauses: 1, budget: Duration::from_secs(1) };
    let rehearsed = rehearse(&pgleap_saga::Cx::standalone(&rig.world, &rig.journal), what).await.unwrap();
    assert_eq!((rehearsed.pauses_ms.len(), rehearsed.wind_down_ms.len()), (0, 5), "nobody is paused: {rehearsed:?}");
    assert_eq!(rehearsed.predicted.n, 5 * rehearsed.carry_ms.len(), "{rehearsed:?}");
    // the target is there now, and may come first
    let new_first = Libpq::start(&rig.lab, 2, [target, source]);
    new_first.goes_on().await;

    called_off(&rig).await;
    takes_no_write(&rig.lab, target).await;
    for libpq in [&old_first, &new_first] {
        libpq.goes_on().await;
    }
    rig.mark("there");
    assert_done(rig.chain().switchover().await);
    takes_no_write(&rig.lab, source).await;
    eprintln!("{:?}", output::<MoveClients>(&rig.world, &rig.journal));
    for libpq in [&old_first, &new_first] {
        libpq.goes_on().await;
    }
    rig.mark("back");
    assert_done(rig.chain().rollback().await);
    takes_no_write(&rig.lab, target).await;
    for libpq in [&old_first, &new_first] {
        libpq.goes_on().await;
    }
    let now = as_found(&rig.lab).await;
    assert_as_found(&as_it_was, &now);
    assert_done(rig.chain().switchover().await);
    for libpq in [&old_first, &new_first] {
        libpq.goes_on().await;
    }
    assert_done(rig.chain().finalize().await);
    let refused = connect(&rig.lab.bypassing(source, "shop")).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "the old cluster is closed for good");
    let left = "SELECT count(*) FROM pg_trigger WHERE tgname ~ 'pgleap'";
    assert_eq!(ask(&rig.lab.directly(target, "shop"), left).await, ["0"]);

    let there = ask(&rig.lab.directly(target, "shop"), "SELECT n FROM by_libpq").await;
    for libpq in [old_first, new_first] {
        let ports = libpq.ports.clone();
        let told = libpq.stop().await;
        eprintln!("libpq {ports}: stall {:?}, failures {:?}", told.longest_stall, told.failures);
        let lost: Vec<_> = told.acknowledged.iter().filter(|n| !there.contains(&n.to_string())).collect();
        // what was written after the look is not looked for
        let lost: Vec<_> = lost
            .into_iter()
            .filter(|n| told.acknowledged.iter().any(|later| later > *n && there.contains(&later.to_string())))
            .collect();
        assert!(lost.is_empty(), "acknowledged to libpq {ports} and lost: {lost:?}");
    }
    let (lab, verdict) = rig.verdict(target).await;
    for ((database, report), (_, audit)) in verdict.reports.iter().zip(&verdict.audits) {
        assert!(audit.is_clean(), "database {database}: {audit:?}");
        assert_eq!(report.stats.stale_reads, 0, "database {database}");
        eprintln!("{database}: stall {} ms, {:?}", report.stats.longest_client_stall_ms, report.stats.periods);
        eprintln!("{:?} {} unknown", report.stats.failures, report.stats.unknown_outcomes);
    }
    end(lab).await;
}
