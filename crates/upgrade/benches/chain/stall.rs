//! The longest client stall at a switchover, against the floor: PAUSE, RELOAD and RESUME of the same pool under the same
//! load with nothing else done; with one pooler, with twelve, with many clients, and in both modes of pooling. In session
//! mode every connection is cut once, by the floor as well.

use std::time::Duration;

use pgleap_lab::ROLES;
use pgleap_upgrade::{
    pgbouncer::ini::Address,
    route::{Entries, Pause, Way},
};
use tokio::time::Instant;

use crate::{
    bed::{Bed, DATABASE, Load, Upgrade, assert_done, connect, spec},
    option,
    table::{Table, median, short},
};

const SWITCHOVERS: usize = 10;
const RATE: f64 = 200.0;

const FLOOR_BUDGET: Duration = Duration::from_secs(2);

/// How server connections are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pooling {
    Transaction,
    Session,
}

impl Pooling {
    fn name(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Session => "session",
        }
    }
}

/// One laboratory's stalls, in milliseconds, a line for each switchover.
struct Stalls {
    poolers: usize,
    clients: usize,
    pooling: Pooling,
    floors: Vec<f64>,
    stalls: Vec<f64>,
    pauses: Vec<f64>,
}

impl Stalls {
    fn ratios(&self) -> Vec<f64> {
        self.floors.iter().zip(&self.stalls).map(|(floor, stall)| stall / floor).collect()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "bench": "stall", "poolers": self.poolers, "clients": self.clients, "pooling": self.pooling.name(), "rate": RATE, "floor_ms": self.floors,
            "stall_ms": self.stalls, "pause_ms": self.pauses, "median_ratio": median(&self.ratios()),
            "median_stall_ms": median(&self.stalls),
        })
    }
}

/// Ends every session of the application that is in no transaction, once, or until none is left.
pub async fn cut(bed: &Bed, serving: &Address, all: bool) {
    let admin = connect(&bed.lab.directly(serving.port, DATABASE)).await;
    let sql = format!(
        "SELECT count(*), count(CASE WHEN state = 'idle' THEN pg_terminate_backend(pid) END)
           FROM pg_stat_activity WHERE usename = '{}' AND datname = '{DATABASE}'",
        ROLES[1].0
    );
    while admin.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0) > 0 && all {
        tokio::task::yield_now().await;
    }
}

/// The least that any switchover costs: clients wait, and go on at the same server.
async fn floor(bed: &Bed, upgrade: &Upgrade, entries: &[Entries], serving: &Address, pooling: Pooling) {
    let route = &upgrade.world.route;
    if pooling == Pooling::Transaction {
        route.micro_pause(entries, serving, FLOOR_BUDGET).await.unwrap();
        return;
    }
    route.warm_up(entries).await.unwrap();
    let pause = Pause {
        id: format!("floor {}", jiff::Timestamp::now()),
        ways: vec![Way { old: serving.clone(), new: serving.clone() }],
        deadline: Instant::now() + FLOOR_BUDGET,
        lease: FLOOR_BUDGET,
    };
    route.begin_pause(entries, &pause).await.unwrap();
    cut(bed, serving, true).await;
    let lost = route.move_clients(entries, &pause, async { Ok(()) }, async {}).await.unwrap();
    assert!(lost.is_empty(), "{lost:?}");
}

async fn measure(poolers: usize, clients: usize, pooling: Pooling) -> Stalls {
    let mut spec = spec(&format!("st{poolers}x{clients}{}", &pooling.name()[..1]), 1);
    spec.poolers = poolers;
    spec.pooler_settings = vec![("max_client_conn".into(), "500".into())];
    if pooling == Pooling::Session {
        spec.source_settings = vec![("max_connections".into(), "400".into())];
        spec.pooler_settings.extend([
            ("pool_mode".into(), "session".into()),
            ("server_login_retry".into(), "1".into()),
            ("default_pool_size".into(), "300".into()),
        ]);
    }
    let load = Load { clients, rate: Some(RATE), application: 0 };
    let bed = Bed::start(spec, load).await;
    if pooling == Pooling::Session {
        bed.configure(|text| text.replace("[route]\n", "[route]\nclients = \"reconnect\"\n"));
    }
    let upgrade = bed.upgrade().await;
    assert_done(upgrade.chain().run().await);
    let ports = [bed.lab.source_port, bed.lab.target_port];
    for n in 0..SWITCHOVERS {
        let serving = Address { host: "127.0.0.1".into(), port: ports[n % 2] };
        let entries =
            upgrade.world.route.leading_to(std::slice::from_ref(&serving), &[DATABASE.to_owned()]).await.unwrap();
        bed.settle(100).await;
        bed.mark(&format!("floor {n}"));
        floor(&bed, &upgrade, &entries, &serving, pooling).await;
        bed.settle(100).await;
        bed.mark(&format!("between {n}"));
        bed.settle(20).await;
        bed.mark(&format!("switch {n}"));
        assert_done(if n % 2 == 0 { upgrade.chain().switchover().await } else { upgrade.chain().rollback().await });
        bed.settle(100).await;
        bed.mark(&format!("after {n}"));
    }
    let plans = upgrade.journal.plans().unwrap();
    let pauses: Vec<f64> = plans
        .iter()
        .filter_map(|plan| plan.sections.first())
        .filter_map(|section| Some((section.ended_at? - section.started_at).total(jiff::Unit::Millisecond).unwrap()))
        .collect();
    if std::env::var_os("PGLEAP_BENCH_STEPS").is_some() {
        for record in upgrade.journal.records(0).unwrap().iter().filter(|r| r.plan.starts_with("switchover")) {
            println!("{} {} {:?} {:?} {}", record.at, record.plan, record.kind, record.step, record.body);
        }
    }
    // a client whose connection is cut may be refused by the pooler for a moment more
    let failures = if pooling == Pooling::Session { u64::MAX } else { 0 };
    let (lab, report) = bed.finish_after(ports[SWITCHOVERS % 2], failures).await;
    let periods = &report.stats.periods;
    let stalls = |kind: &str| -> Vec<f64> {
        periods.iter().filter(|period| period.name.starts_with(kind)).map(|period| period.longest_stall_ms).collect()
    };
    let (floors, stalls) = (stalls("floor"), stalls("switch"));
    lab.destroy().await.unwrap();
    Stalls { poolers, clients, pooling, floors, stalls, pauses }
}

pub fn ms(value: f64) -> String {
    format!("{} ms", short(value))
}

/// One pooler, eight clients, unless asked otherwise: the figure of the README.
pub async fn run() {
    let poolers = option("PGLEAP_BENCH_POOLERS", 1) as usize;
    let by_session = std::env::var("PGLEAP_BENCH_POOLING").is_ok_and(|mode| mode == Pooling::Session.name());
    let pooling = if by_session { Pooling::Session } else { Pooling::Transaction };
    let stalls = measure(poolers, option("PGLEAP_BENCH_CLIENTS", 8) as usize, pooling).await;
    let mut table = Table::new(["switchover", "floor stall", "stall", "ratio", "write pause"]);
    let mut row = |name: String, floor: f64, stall: f64, ratio: f64, pause: f64| {
        table.row([name, ms(floor), ms(stall), format!("{ratio:.2}"), ms(pause)]);
    };
    let ratios = stalls.ratios();
    for (n, ratio) in ratios.iter().enumerate() {
        row((n + 1).to_string(), stalls.floors[n], stalls.stalls[n], *ratio, stalls.pauses[n]);
    }
    row("median".into(), median(&stalls.floors), median(&stalls.stalls), median(&ratios), median(&stalls.pauses));
    table.print();
    println!("{}", stalls.json());
}

/// More poolers, more clients, both modes.
pub async fn fleet() {
    let mut table =
        Table::new(["pooling", "poolers", "clients", "floor stall", "stall", "worst", "ratio", "against one pooler"]);
    for pooling in [Pooling::Transaction, Pooling::Session] {
        for clients in [8, 200] {
            let mut one = f64::NAN;
            for poolers in [1, 12] {
                let stalls = measure(poolers, clients, pooling).await;
                let stall = median(&stalls.stalls);
                if poolers == 1 {
                    one = stall;
                }
                table.row([
                    pooling.name().to_owned(),
                    poolers.to_string(),
                    clients.to_string(),
                    ms(median(&stalls.floors)),
                    ms(stall),
                    ms(stalls.stalls.iter().copied().fold(0.0, f64::max)),
                    format!("{:.2}", median(&stalls.ratios())),
                    format!("{:.2}", stall / one),
                ]);
                println!("{}", stalls.json());
            }
        }
    }
    table.print();
}
