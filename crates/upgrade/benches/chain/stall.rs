//! The longest client stall at a switchover, against the floor: PAUSE, RELOAD and RESUME of the same pool under the same
//! load with nothing else done; with one pooler, with twelve, and with many clients.

use std::time::Duration;

use pgleap_upgrade::pgbouncer::ini::Address;

use crate::{
    bed::{Bed, DATABASE, Load, assert_done, spec},
    option,
    table::{Table, median, short},
};

const SWITCHOVERS: usize = 10;
const RATE: f64 = 200.0;

/// One laboratory's stalls, in milliseconds, a line for each switchover.
struct Stalls {
    poolers: usize,
    clients: usize,
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
            "bench": "stall", "poolers": self.poolers, "clients": self.clients, "rate": RATE, "floor_ms": self.floors,
            "stall_ms": self.stalls, "pause_ms": self.pauses, "median_ratio": median(&self.ratios()),
            "median_stall_ms": median(&self.stalls),
        })
    }
}

async fn measure(poolers: usize, clients: usize) -> Stalls {
    let mut spec = spec(&format!("stall{poolers}x{clients}"), 1);
    spec.poolers = poolers;
    spec.pooler_settings = vec![("max_client_conn".into(), "500".into())];
    let bed = Bed::start(spec, Load { clients, rate: Some(RATE), application: 0 }).await;
    let upgrade = bed.upgrade().await;
    assert_done(upgrade.chain().run().await);
    let ports = [bed.lab.source_port, bed.lab.target_port];
    for n in 0..SWITCHOVERS {
        let serving = Address { host: "127.0.0.1".into(), port: ports[n % 2] };
        let entries =
            upgrade.world.route.leading_to(std::slice::from_ref(&serving), &[DATABASE.to_owned()]).await.unwrap();
        bed.settle(100).await;
        bed.mark(&format!("floor {n}"));
        upgrade.world.route.micro_pause(&entries, &serving, Duration::from_secs(2)).await.unwrap();
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
    let (lab, report) = bed.finish(ports[SWITCHOVERS % 2]).await;
    let periods = &report.stats.periods;
    let stalls = |kind: &str| -> Vec<f64> {
        periods.iter().filter(|period| period.name.starts_with(kind)).map(|period| period.longest_stall_ms).collect()
    };
    let (floors, stalls) = (stalls("floor"), stalls("switch"));
    lab.destroy().await.unwrap();
    Stalls { poolers, clients, floors, stalls, pauses }
}

fn ms(value: f64) -> String {
    format!("{} ms", short(value))
}

/// One pooler, eight clients, unless asked otherwise: the figure of the README.
pub async fn run() {
    let stalls = measure(option("PGLEAP_BENCH_POOLERS", 1) as usize, option("PGLEAP_BENCH_CLIENTS", 8) as usize).await;
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

/// More poolers, more clients. In session pooling a pool never drains while clients stay: neither can be measured there.
pub async fn fleet() {
    let mut table = Table::new(["poolers", "clients", "floor stall", "stall", "worst", "ratio", "against one pooler"]);
    let mut one = f64::NAN;
    for (poolers, clients) in [(1, 8), (12, 8), (1, 200), (12, 200)] {
        let stalls = measure(poolers, clients).await;
        let stall = median(&stalls.stalls);
        if poolers == 1 {
            one = stall;
        }
        table.row([
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
    table.print();
}
