//! The longest client stall at a switchover, against the floor: PAUSE, RELOAD and RESUME of the same pool under the same
//! load with nothing else done.

use std::time::Duration;

use pgleap_upgrade::pgbouncer::ini::Address;

use crate::{
    bed::{Bed, DATABASE, Load, assert_done, spec},
    table::{Table, median, short},
};

const SWITCHOVERS: usize = 10;
const LOAD: Load = Load { clients: 8, rate: Some(200.0), application: 0 };

pub async fn run() {
    let bed = Bed::start(spec("stall", 1), LOAD).await;
    let upgrade = bed.upgrade().await;
    assert_done(upgrade.chain().run().await);
    let ports = [bed.lab.source_port, bed.lab.target_port];
    for n in 0..SWITCHOVERS {
        let serving = Address { host: "127.0.0.1".into(), port: ports[n % 2] };
        let entries = upgrade.world.route.leading_to(&serving, &[DATABASE.to_owned()]).await.unwrap();
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
    let (floors, switches) = (stalls("floor"), stalls("switch"));
    let ratios: Vec<f64> = floors.iter().zip(&switches).map(|(floor, stall)| stall / floor).collect();
    let mut table = Table::new(["switchover", "floor stall", "stall", "ratio", "write pause"]);
    let ms = |value: f64| format!("{} ms", short(value));
    let mut row = |name: String, floor: f64, stall: f64, ratio: f64, pause: f64| {
        table.row([name, ms(floor), ms(stall), format!("{ratio:.2}"), ms(pause)]);
    };
    for n in 0..ratios.len() {
        row((n + 1).to_string(), floors[n], switches[n], ratios[n], pauses[n]);
    }
    row("median".into(), median(&floors), median(&switches), median(&ratios), median(&pauses));
    table.print();
    println!(
        "{}",
        serde_json::json!({
            "bench": "stall", "clients": LOAD.clients, "rate": LOAD.rate, "floor_ms": floors, "stall_ms": switches,
            "pause_ms": pauses, "median_ratio": median(&ratios), "median_stall_ms": median(&switches),
        })
    );
    lab.destroy().await.unwrap();
}
