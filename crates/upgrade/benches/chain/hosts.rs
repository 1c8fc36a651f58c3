//! Clients that know both servers, and look for the one that takes writes: how long each kind is without it at a switchover,
//! against the floor: every connection cut at the same server, with nothing else done.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use pgleap_lab::{Lab, ROLES};
use pgleap_local::run as run_program;
use pgleap_upgrade::pgbouncer::ini::Address;
use tokio::task::JoinHandle;
use tokio_postgres::{Config, config::TargetSessionAttrs};

use crate::{
    bed::{Bed, DATABASE, Load, assert_done, connect, spec},
    option,
    stall::{cut, ms},
    table::{Table, median},
};

const SWITCHOVERS: u32 = 10;
const LOAD: Load = Load { clients: 8, rate: Some(200.0), application: 0 };
/// How long `psql` is left alone between two connections.
const PACE: Duration = Duration::from_millis(10);
const LONG: Duration = Duration::from_secs(60);

fn both_hosts(lab: &Lab) -> Config {
    let mut config = lab.bypassing(lab.source_port, DATABASE);
    config.host("127.0.0.1").port(lab.target_port).target_session_attrs(TargetSessionAttrs::ReadWrite);
    config
}

/// `psql`, again and again, each time connected anew: one row each.
struct Libpq {
    stop: Arc<AtomicBool>,
    written: Arc<Mutex<Vec<Instant>>>,
    task: JoinHandle<()>,
}

impl Libpq {
    fn start(lab: &Lab) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(vec![Instant::now()])));
        let (psql, account) = (lab.source.installation.tool("psql"), lab.account.clone());
        let dsn = format!(
            "host=127.0.0.1,127.0.0.1 port={},{} user={} dbname={DATABASE} target_session_attrs=read-write",
            lab.source_port, lab.target_port, ROLES[1].0
        );
        let (stopped, book) = (stop.clone(), written.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let mut command = account.command(&psql);
                command.env("PGPASSWORD", ROLES[1].1);
                command.args([
                    "-XqAt",
                    "-v",
                    "ON_ERROR_STOP=1",
                    "-d",
                    &dsn,
                    "-c",
                    "INSERT INTO by_libpq DEFAULT VALUES",
                ]);
                if run_program(command, LONG).await.is_ok() {
                    book.lock().unwrap().push(Instant::now());
                }
                tokio::time::sleep(PACE).await;
            }
        });
        Self { stop, written, task }
    }

    /// Returns the longest time without a row since `from`, in milliseconds.
    fn longest_gap_ms(&self, from: Instant) -> f64 {
        let book = self.written.lock().unwrap();
        let first = book.partition_point(|at| *at < from).saturating_sub(1);
        let gaps = book[first..].windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1000.0);
        gaps.fold(0.0, f64::max)
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

/// Two kinds of clients, there and back.
pub async fn run() {
    let switchovers = option("PGLEAP_BENCH_ROUNDS", SWITCHOVERS) as usize;
    let mut spec = spec("hosts", 1);
    spec.write_pause = "5s".into();
    let bed = Bed::start_by(spec, LOAD, both_hosts).await;
    bed.configure(|text| {
        let (before, after) = (text.split_once("[route]").unwrap().0, text.split_once("[budgets]").unwrap().1);
        format!("{before}[route]\nkind = \"multi_host\"\n\n[budgets]{after}")
    });
    let admin = connect(&bed.lab.bypassing(bed.lab.source_port, DATABASE)).await;
    admin.batch_execute("CREATE TABLE by_libpq (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)").await.unwrap();
    drop(admin);
    let upgrade = bed.upgrade().await;
    assert_done(upgrade.chain().run().await);
    let libpq = Libpq::start(&bed.lab);
    let ports = [bed.lab.source_port, bed.lab.target_port];
    let (mut floors, mut gaps) = (Vec::new(), Vec::new());
    for n in 0..switchovers {
        let serving = Address { host: "127.0.0.1".into(), port: ports[n % 2] };
        bed.settle(200).await;
        bed.mark(&format!("floor {n}"));
        let began = Instant::now();
        cut(&bed, &serving, false).await;
        bed.settle(200).await;
        floors.push(libpq.longest_gap_ms(began));
        bed.mark(&format!("switch {n}"));
        let began = Instant::now();
        assert_done(if n % 2 == 0 { upgrade.chain().switchover().await } else { upgrade.chain().rollback().await });
        bed.settle(200).await;
        gaps.push(libpq.longest_gap_ms(began));
        bed.mark(&format!("after {n}"));
    }
    libpq.stop().await;
    let (lab, report) = bed.finish_after(ports[switchovers % 2], u64::MAX).await;
    lab.destroy().await.unwrap();
    let periods = |kind: &str| -> Vec<_> {
        report.stats.periods.iter().filter(|period| period.name.starts_with(kind)).cloned().collect()
    };
    let stalls = |kind: &str| -> Vec<f64> { periods(kind).iter().map(|period| period.longest_stall_ms).collect() };
    let failed: u64 = periods("switch").iter().map(|period| period.failed_transactions).sum();
    let mut table = Table::new(["clients", "floor stall", "stall", "worst", "failed transactions each"]);
    let worst = |all: &[f64]| ms(all.iter().copied().fold(0.0, f64::max));
    let (tokio_floors, tokio_stalls) = (stalls("floor"), stalls("switch"));
    let each = format!("{:.1}", failed as f64 / switchovers as f64);
    let tokio = ms(median(&tokio_floors));
    table.row(["tokio-postgres".into(), tokio, ms(median(&tokio_stalls)), worst(&tokio_stalls), each]);
    table.row(["libpq".into(), ms(median(&floors)), ms(median(&gaps)), worst(&gaps), String::new()]);
    table.print();
    println!(
        "{}",
        serde_json::json!({
            "bench": "hosts", "switchovers": switchovers, "clients": LOAD.clients, "tokio_postgres_floor_ms": tokio_floors,
            "tokio_postgres_stall_ms": tokio_stalls, "libpq_floor_ms": floors, "libpq_stall_ms": gaps, "failed": failed,
        })
    );
}
