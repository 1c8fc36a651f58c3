//! Time from start to in sync, against the bare commands alone.
//!
//! Both are in sync when the same observer sees a row of the source on the target within a second; ANALYZE and
//! verification come beside and after that, and are part of neither. They take turns, in alternating
//! order: an even number of rounds gives each the first turn as often as the other.

use std::collections::BTreeMap;

use pgleap_saga::{EventKind, EventSink};
use tokio::{sync::broadcast::error::RecvError, time::Instant};

use crate::{
    bare,
    bed::{Bed, Load, Upgrade, assert_done, assert_unwound, spec},
    option, phases,
    table::{Table, median, short},
};

const LOAD: Load = Load { clients: 4, rate: Some(100.0), application: 2 };

/// Seconds of one way from start to in sync.
#[derive(Debug, Default)]
struct Times {
    in_sync: Vec<f64>,
    phases: BTreeMap<&'static str, Vec<f64>>,
    steps: BTreeMap<String, Vec<f64>>,
    /// Until the chain itself says so, without ANALYZE.
    own_word: Vec<f64>,
}

async fn by_hand(bed: &Bed, times: &mut Times) {
    let started = Instant::now();
    let mut begun: Vec<(&str, Instant)> = Vec::new();
    let bare = bare::run_by_hand(bed, |phase| begun.push((phase, Instant::now()))).await;
    times.in_sync.push((bare.in_sync - started).as_secs_f64());
    let ends = begun.iter().skip(1).map(|(_, at)| *at).chain([bare.in_sync]);
    for ((phase, at), end) in begun.iter().zip(ends) {
        times.phases.entry(phase).or_default().push((end - *at).as_secs_f64());
    }
    bare.remove().await;
}

/// Returns when the target was in sync, once the chain has enabled the subscription.
async fn observe(bed: &Bed, events: &EventSink) -> Instant {
    let mut events = events.subscribe();
    loop {
        match events.recv().await {
            Ok(event) => {
                let enabled = event.step.as_deref() == Some("replicate.enable_subscriptions");
                if enabled && matches!(event.kind, EventKind::StepSucceeded { .. }) {
                    return bed.in_sync().await;
                }
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => panic!("the run ended before its subscription was enabled"),
        }
    }
}

async fn by_pgleap(bed: &Bed, upgrade: &Upgrade, times: &mut Times) {
    let events = EventSink::new();
    let chain = upgrade.telling(events.clone());
    let started = Instant::now();
    let (in_sync, outcome) = tokio::join!(observe(bed, &events), chain.run());
    assert_done(outcome);
    times.in_sync.push((in_sync - started).as_secs_f64());
    let plans = upgrade.journal.plans().unwrap();
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    let mut own_word = 0.0;
    for step in &plans.last().unwrap().steps {
        let took = (step.ended_at.unwrap() - step.started_at.unwrap()).total(jiff::Unit::Second).unwrap();
        times.steps.entry(step.name.clone()).or_default().push(took);
        let phase = phases::of(&step.name);
        *sums.entry(phase).or_default() += took;
        if !matches!(phase, "analyze" | "verification") {
            own_word += took;
        }
    }
    for (phase, sum) in sums {
        times.phases.entry(phase).or_default().push(sum);
    }
    times.own_word.push(own_word);
    assert_unwound(chain.unwind("the benchmark begins again").await);
}

pub async fn run() {
    let (scale, rounds) = (option("PGLEAP_BENCH_SCALE", 100), option("PGLEAP_BENCH_ROUNDS", 4));
    let bed = Bed::start(spec("sync", scale), LOAD).await;
    let upgrade = bed.upgrade().await;
    let (mut bare, mut pgleap) = (Times::default(), Times::default());
    for round in 0..rounds {
        for turn in 0..2 {
            bed.level().await;
            if (round + turn) % 2 == 0 {
                by_hand(&bed, &mut bare).await;
            } else {
                by_pgleap(&bed, &upgrade, &mut pgleap).await;
            }
        }
    }
    let port = bed.lab.source_port;
    let (lab, _) = bed.finish(port).await;
    print(scale, &bare, &pgleap);
    lab.destroy().await.unwrap();
}

fn print(scale: u32, bare: &Times, pgleap: &Times) {
    let ratios: Vec<f64> = pgleap.in_sync.iter().zip(&bare.in_sync).map(|(pgleap, bare)| pgleap / bare).collect();
    let mut table = Table::new(["start to in sync", "bare commands", "pgleap", "ratio", "until it says so itself"]);
    let seconds = |value: f64| format!("{} s", short(value));
    for (n, ratio) in ratios.iter().enumerate() {
        table.row([
            format!("round {}", n + 1),
            seconds(bare.in_sync[n]),
            seconds(pgleap.in_sync[n]),
            format!("{ratio:.2}"),
            seconds(pgleap.own_word[n]),
        ]);
    }
    let (by_hand, by_pgleap) = (median(&bare.in_sync), median(&pgleap.in_sync));
    table.row([
        "median".into(),
        seconds(by_hand),
        seconds(by_pgleap),
        format!("{:.2}", median(&ratios)),
        seconds(median(&pgleap.own_word)),
    ]);
    table.print();
    println!();
    let mut table = Table::new(["phase (median)", "bare commands", "pgleap"]);
    let of = |times: &Times, phase: &str| times.phases.get(phase).map_or(f64::NAN, |values| median(values));
    for phase in phases::ALL {
        table.row([phase.into(), seconds(of(bare, phase)), seconds(of(pgleap, phase))]);
    }
    table.print();
    let steps: BTreeMap<_, _> = pgleap.steps.iter().map(|(step, values)| (step, median(values))).collect();
    println!(
        "{}",
        serde_json::json!({
            "bench": "sync", "scale": scale, "clients": LOAD.clients, "rate": LOAD.rate, "bare_s": bare.in_sync,
            "pgleap_s": pgleap.in_sync, "own_word_s": pgleap.own_word, "median_ratio": median(&ratios),
            "bare_phases_s": bare.phases, "pgleap_phases_s": pgleap.phases, "steps_median_s": steps,
        })
    );
}
