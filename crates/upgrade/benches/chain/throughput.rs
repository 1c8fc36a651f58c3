//! What each phase costs the source's clients in throughput, against the same phases of the bare commands.
//!
//! Clients in a closed loop take what the machine gives them, and source, copy and target share it here: whatever works
//! beside them shows. The loss of a phase is against the time before its contender began and the time after all of it
//! was taken back, together: the machine's own drift meets both. Ranges are shown beside the medians, because the base
//! backup is the same command for both contenders: as far as its two figures differ, any others may by chance.

use std::{collections::BTreeMap, time::Duration};

use pgleap_canary::Report;
use pgleap_saga::{EventKind, EventSink};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use crate::{
    bare,
    bed::{Bed, Load, Upgrade, assert_done, assert_unwound, spec},
    option, phases,
    table::{Table, median, short},
};

const LOAD: Load = Load { clients: 4, rate: None, application: 0 };
/// How long is measured where nothing comes to an end by itself.
const WINDOW: Duration = Duration::from_secs(10);
/// How long nothing is measured after a checkpoint: the first change of each page writes all of it to the log.
const AFTER_CHECKPOINT: Duration = Duration::from_secs(10);
/// A shorter phase has too few transactions to be judged by.
const LEAST_S: f64 = 1.0;
/// The two phases that nobody can do without: what they cost is what any other may.
const INDISPENSABLE: [&str; 2] = ["slot", "base backup"];

const CONTENDERS: [&str; 2] = ["bare", "pgleap"];
const BEFORE: &str = "before";
const AFTER: &str = "taken back";
const FOLLOWING: &str = "following";

/// Begins a period for each phase that the chain enters.
async fn mark_phases(bed: &Bed, round: u32, events: &EventSink) {
    let mut events = events.subscribe();
    let mut phase = "";
    loop {
        match events.recv().await {
            Ok(event) => {
                let started = matches!(event.kind, EventKind::StepStarted { .. });
                let of = event.step.as_deref().filter(|_| started).map(phases::of);
                if let Some(of) = of.filter(|of| *of != phase) {
                    phase = of;
                    bed.mark(&format!("{round}/pgleap/{phase}"));
                }
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

async fn by_pgleap(bed: &Bed, round: u32, upgrade: &Upgrade) {
    let events = EventSink::new();
    let chain = upgrade.telling(events.clone());
    let outcome = tokio::select! {
        outcome = chain.run() => outcome,
        () = mark_phases(bed, round, &events) => unreachable!("the sink is still there"),
    };
    assert_done(outcome);
    bed.mark(&format!("{round}/pgleap/{FOLLOWING}"));
    tokio::time::sleep(WINDOW).await;
    bed.mark("between");
    assert_unwound(chain.unwind("the benchmark begins again").await);
}

async fn by_hand(bed: &Bed, round: u32) {
    let bare = bare::run_by_hand(bed, |phase| bed.mark(&format!("{round}/bare/{phase}"))).await;
    bed.mark(&format!("{round}/bare/{FOLLOWING}"));
    tokio::time::sleep(WINDOW).await;
    bed.mark("between");
    bare.remove().await;
}

pub async fn run() {
    let (scale, rounds) = (option("PGLEAP_BENCH_SCALE", 100), option("PGLEAP_BENCH_ROUNDS", 4));
    let bed = Bed::start(spec("tps", scale), LOAD).await;
    let upgrade = bed.upgrade().await;
    bed.settle(2000).await;
    for round in 0..rounds {
        for turn in 0..2 {
            let contender = CONTENDERS[(round as usize + turn) % 2];
            bed.level().await;
            tokio::time::sleep(AFTER_CHECKPOINT).await;
            bed.mark(&format!("{round}/{contender}/{BEFORE}"));
            tokio::time::sleep(WINDOW).await;
            match contender {
                "bare" => by_hand(&bed, round).await,
                _ => by_pgleap(&bed, round, &upgrade).await,
            }
            bed.mark(&format!("{round}/{contender}/{AFTER}"));
            tokio::time::sleep(WINDOW).await;
            bed.mark("between");
        }
    }
    let port = bed.lab.source_port;
    let (lab, report) = bed.finish(port).await;
    print(scale, rounds, &report);
    lab.destroy().await.unwrap();
}

/// What one phase of one contender was like, a value for each round.
#[derive(Debug, Clone, Default, serde::Serialize)]
struct Cost {
    seconds: Vec<f64>,
    tps: Vec<f64>,
    /// Of a hundred transactions, how many fewer than before and after.
    loss_percent: Vec<f64>,
    stall_ms: Vec<f64>,
}

impl Cost {
    fn is_long_enough(&self) -> bool {
        median(&self.seconds) >= LEAST_S
    }

    fn loss(&self) -> String {
        if !self.is_long_enough() {
            return "too short".to_owned();
        }
        let least = self.loss_percent.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.loss_percent.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        format!("{} % ({} to {})", short(median(&self.loss_percent)), short(least), short(most))
    }
}

fn cost(report: &Report, rounds: u32, contender: &str, phase: &str) -> Option<Cost> {
    let mut cost = Cost::default();
    for round in 0..rounds {
        // a phase may be entered twice: what was done in all of it, in all the time it took
        let sum = |phase: &str| {
            let name = format!("{round}/{contender}/{phase}");
            let periods = report.stats.periods.iter().filter(|period| period.name == name);
            periods.fold((0.0, 0.0, 0.0_f64), |(seconds, done, stall), period| {
                #[expect(clippy::cast_precision_loss, reason = "a few thousand transactions")]
                let transactions = period.transactions as f64;
                (seconds + period.seconds, done + transactions, stall.max(period.longest_stall_ms))
            })
        };
        let (took, done, longest) = sum(phase);
        let ((before_s, before, _), (after_s, after, _)) = (sum(BEFORE), sum(AFTER));
        let idle_tps = (before + after) / (before_s + after_s);
        if took > 0.0 {
            cost.seconds.push(took);
            cost.tps.push(done / took);
            cost.loss_percent.push(100.0 * (1.0 - done / took / idle_tps));
            cost.stall_ms.push(longest);
        }
    }
    (!cost.seconds.is_empty()).then_some(cost)
}

fn print(scale: u32, rounds: u32, report: &Report) {
    let phases: Vec<&'static str> = [BEFORE].into_iter().chain(phases::ALL).chain([FOLLOWING, AFTER]).collect();
    let costs: BTreeMap<&str, BTreeMap<&str, Cost>> = CONTENDERS
        .into_iter()
        .map(|contender| {
            let of = |phase: &'static str| Some((phase, cost(report, rounds, contender, phase)?));
            (contender, phases.iter().copied().filter_map(of).collect())
        })
        .collect();
    let mut table = Table::new(["phase (median)", "bare commands", "loss", "stall", "pgleap", "loss", "stall"]);
    let cells = |cost: Option<&Cost>| match cost {
        Some(cost) => [
            format!("{} tps, {} s", short(median(&cost.tps)), short(median(&cost.seconds))),
            cost.loss(),
            format!("{} ms", short(median(&cost.stall_ms))),
        ],
        None => ["-", "-", "-"].map(str::to_owned),
    };
    for phase in &phases {
        let [[a, b, c], [d, e, f]] = CONTENDERS.map(|contender| cells(costs[contender].get(phase)));
        table.row([(*phase).to_owned(), a, b, c, d, e, f]);
    }
    table.print();
    // the same commands, whoever gives them: all rounds of both contenders are one sample
    let of_copy = |phase: &str| -> Vec<f64> {
        let of = costs.values().filter_map(|of| of.get(phase)).filter(|cost| cost.is_long_enough());
        of.flat_map(|cost| cost.loss_percent.iter().copied()).collect()
    };
    let allowed = INDISPENSABLE.iter().map(|phase| median(&of_copy(phase))).fold(f64::NAN, f64::max);
    println!("slot and copy cost {} %; of pgleap's phases these cost more:", short(allowed));
    let mut more = Vec::new();
    for phase in phases::ALL.into_iter().filter(|phase| !INDISPENSABLE.contains(phase)) {
        let Some(cost) = costs["pgleap"].get(phase).filter(|cost| cost.is_long_enough()) else { continue };
        if median(&cost.loss_percent) > allowed {
            let by_hand = costs["bare"].get(phase).map_or_else(|| "-".to_owned(), Cost::loss);
            println!("- {phase}: {}; the same by hand: {by_hand}", cost.loss());
            more.push(phase);
        }
    }
    if more.is_empty() {
        println!("- none");
    }
    println!(
        "{}",
        json!({
            "bench": "throughput", "scale": scale, "rounds": rounds, "clients": LOAD.clients, "contenders": costs,
            "slot_and_copy_loss_percent": allowed, "phases_that_cost_more": more,
        })
    );
}
