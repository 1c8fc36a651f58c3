//! How long each stage takes, as an interval with its basis.
//!
//! A single figure would be a lie: what is not measured here is assumed between bounds, and the bounds are shown.

use serde::{Deserialize, Serialize};

use super::{
    facts::{Engine, Facts},
    methods::{Method, Storage},
    rates::Rates,
};
use crate::config::{Planning, Transfer};

/// From the soonest to the latest, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The soonest.
    pub low_s: f64,
    /// The latest; none if there is no end to be seen.
    pub high_s: Option<f64>,
}

impl Interval {
    /// Nothing to wait for.
    pub const ZERO: Self = Self { low_s: 0.0, high_s: Some(0.0) };

    /// Returns an interval; the bounds may come in either order.
    pub fn new(a: f64, b: f64) -> Self {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        // no number stands for what has no end: it takes at least nothing
        let low = if low.is_finite() { low } else { 0.0 };
        Self { low_s: low.max(0.0), high_s: high.is_finite().then_some(high.max(0.0)) }
    }

    /// Returns exactly so long.
    pub fn exactly(seconds: f64) -> Self {
        Self::new(seconds, seconds)
    }

    /// Returns this and then that.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { low_s: self.low_s + other.low_s, high_s: self.high_s.zip(other.high_s).map(|(a, b)| a + b) }
    }

    /// Whether a length of time lies in it, give or take nothing.
    pub fn holds(&self, seconds: f64) -> bool {
        seconds >= self.low_s && self.high_s.is_none_or(|high| seconds <= high)
    }

    /// Whether all of it is at most so long.
    pub fn fits(&self, seconds: f64) -> bool {
        self.high_s.is_some_and(|high| high <= seconds)
    }
}

/// A part of an upgrade, and how long it takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// What it is called: `copy`, `upgrade`, `catch up`, …
    pub name: String,
    /// How long.
    pub takes: Interval,
    /// From what that follows, with its numbers.
    pub basis: String,
    /// The steps of the plan that it covers; none for what pgleap does not do.
    pub steps: Vec<String>,
    /// Somebody waits, rather than the machine works: following and soaking.
    pub waiting: bool,
}

/// What the stages of a method are computed from.
#[derive(Debug, Clone, Copy)]
pub struct Basis<'a> {
    /// What the cluster is.
    pub facts: &'a Facts,
    /// What is wished.
    pub wishes: &'a Planning,
    /// How fast things go.
    pub rates: &'a Rates,
    /// How pg_upgrade moves files.
    pub transfer: Transfer,
    /// A standby is used up: nothing is copied.
    pub has_standby: bool,
    /// How many tables are compared at the same time.
    pub verify_jobs: u32,
}

const PREPARE: &[&str] = &[
    "provision.claim_directories",
    "provision.prepare_databases",
    "replicate.create_publications",
    "replicate.create_slots",
];
const COPY: &[&str] = &["provision.base_backup", "provision.adopt_standby"];
const RECOVER: &[&str] =
    &["provision.fix_boundary", "provision.recover_copy", "provision.prove_copy", "provision.quarantine_copy"];
const UPGRADE: &[&str] = &[
    "provision.init_target",
    "provision.upgrade_copy",
    "provision.start_target",
    "provision.prove_target",
    "provision.update_extensions",
    "provision.rebuild_indexes",
    "replicate.create_subscriptions",
    "replicate.advance_origins",
    "replicate.enable_subscriptions",
];
const ANALYZE: &[&str] = &["replicate.analyze"];
const CATCH_UP: &[&str] = &["replicate.catch_up"];
const VERIFY: &[&str] = &["verify.compare_tables"];

fn stage(name: &str, takes: Interval, basis: String, steps: &[&str]) -> Stage {
    let steps = steps.iter().map(|step| (*step).to_owned()).collect();
    Stage { name: name.to_owned(), takes, basis, steps, waiting: false }
}

fn waiting(name: &str, wait: std::time::Duration, basis: &str) -> Stage {
    let takes = Interval::exactly(wait.as_secs_f64());
    Stage { waiting: true, ..stage(name, takes, basis.to_owned(), &[]) }
}

/// Returns a size in words.
pub fn size(bytes: f64) -> String {
    let mut value = bytes.max(0.0);
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{value:.0} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[expect(clippy::cast_precision_loss, reason = "estimates")]
fn float(n: u64) -> f64 {
    n as f64
}

/// Returns how long a backlog takes to be applied while more is written; no end if applying is not the faster.
///
/// Where storage is loaded lazily, applying begins slowly: reads go to the snapshot's store until what is touched has
/// come. So the lag may grow before it shrinks, and a rate taken then would promise no end.
pub fn catch_up(lag_bytes: f64, produced_per_s: f64, applied_per_s: f64, cold_s: f64) -> f64 {
    /// Of the speed when warm.
    const COLD: f64 = 0.25;
    let cold_rate = applied_per_s * COLD;
    let while_cold = lag_bytes / (cold_rate - produced_per_s);
    if cold_s > 0.0 && while_cold > 0.0 && while_cold <= cold_s {
        return while_cold;
    }
    let gain = applied_per_s - produced_per_s;
    if gain <= applied_per_s * 0.02 {
        return f64::INFINITY;
    }
    let lag = lag_bytes + (produced_per_s - cold_rate) * cold_s;
    cold_s + lag.max(0.0) / gain
}

/// Returns the stages of a method, in order. Following and soaking are among them.
pub fn stages(method: Method, basis: Basis<'_>) -> Vec<Stage> {
    match method {
        Method::CloneLogical | Method::SnapshotLogical | Method::BlueGreen => by_copy(method, basis),
        Method::LogicalCopy => by_rows(basis),
        Method::InPlace => in_place(basis),
    }
}

/// Returns the stages together.
pub fn total(stages: &[Stage]) -> Interval {
    stages.iter().fold(Interval::ZERO, |sum, stage| sum.and(stage.takes))
}

/// Returns the work of them, without following and soaking.
pub fn work(stages: &[Stage]) -> Interval {
    stages.iter().filter(|stage| !stage.waiting).fold(Interval::ZERO, |sum, stage| sum.and(stage.takes))
}

fn by_copy(method: Method, basis: Basis<'_>) -> Vec<Stage> {
    let facts = basis.facts;
    let mut stages = vec![prepare(basis), copy(method, basis)];
    let so_far = total(&stages);
    if facts.engine == Engine::SelfManaged {
        stages.push(recover(basis, so_far));
    }
    stages.push(upgrade(basis));
    stages.push(analyze(basis));
    stages.push(lag(method, basis, total(&stages)));
    stages.push(verify("compare", basis, VERIFY));
    stages.extend(move_over(basis, method.is_run_by_pgleap(facts.engine)));
    stages
}

/// What comes when both sides are equal: following, the switchover, the proof after it if there is one, soaking.
fn move_over(basis: Basis<'_>, is_proven: bool) -> Vec<Stage> {
    let Basis { wishes, rates, .. } = basis;
    let switch = rates.switchover;
    let mut stages = vec![
        waiting("follow", wishes.follow, "`plan.follow`: the target follows while people look at it"),
        stage(
            "switch over",
            Interval::new(switch.low, switch.high),
            format!("with all that is prepared for it: {}", Rates::words(switch)),
            &[],
        ),
    ];
    if is_proven {
        stages.push(verify("prove equal", basis, &["switchover.prove_equal"]));
    }
    stages.push(waiting("soak", wishes.soak, "`plan.soak`: the way back is kept"));
    stages
}

fn prepare(basis: Basis<'_>) -> Stage {
    let open = basis.facts.longest_transaction_s;
    let words = match open {
        open if open < 1.0 => "a slot waits for every transaction that holds an id; none is old now".to_owned(),
        open => format!("a slot waits for every transaction that holds an id; the oldest now is {open:.0} s old"),
    };
    stage("prepare", Interval::new(0.2, 5.0 + open), words, PREPARE)
}

fn copy(method: Method, basis: Basis<'_>) -> Stage {
    let Basis { facts, wishes, rates, .. } = basis;
    let bytes = float(facts.cluster_bytes);
    if facts.engine.is_aws() {
        let (low, high, words) = match method.storage(facts.engine) {
            Storage::CopyOnWrite => (300.0, 1200.0, "a clone shares its pages: minutes, whatever the size".to_owned()),
            _ => (
                600.0,
                1800.0 + bytes / 100e6,
                format!(
                    "a snapshot of {} and its restore; the first snapshot of a volume takes the longest",
                    size(bytes)
                ),
            ),
        };
        return stage("copy", Interval::new(low, high), words, COPY);
    }
    if basis.has_standby {
        return stage("copy", Interval::new(1.0, 30.0), "a standby is used up: nothing is copied".into(), COPY);
    }
    let rate = wishes.copy_rate.map_or(rates.copy, |given| rates.given(float(given)));
    let words = format!("{} by a base backup at {}", size(bytes), Rates::words(rate));
    let (files, each) = (float(facts.sum(|d| d.files)), rates.copy_file);
    let takes = Interval::new(0.5 + bytes / rate.high + files * each.low, 2.0 + bytes / rate.low + files * each.high);
    stage("copy", takes, format!("{words}, {files:.0} files at {}", Rates::words(each)), COPY)
}

fn recover(basis: Basis<'_>, so_far: Interval) -> Stage {
    let (low, high) = basis.facts.wal.range().unwrap_or((0.0, 0.0));
    let rate = basis.rates.replay;
    let (files, each) = (float(basis.facts.sum(|d| d.files)), basis.rates.replay_file);
    let latest = so_far.high_s.map_or(f64::INFINITY, |s| 8.0 + files * each.high + 1.2 * s * high / rate.low);
    let soonest = 0.3 + files * each.low + so_far.low_s * low / rate.high;
    let words = format!("WAL written meanwhile, {} to {}/s, replayed at {}", size(low), size(high), Rates::words(rate));
    stage("recover", Interval::new(soonest, latest), words, RECOVER)
}

fn upgrade(basis: Basis<'_>) -> Stage {
    let Basis { facts, rates, transfer, .. } = basis;
    let (objects, files) = (float(facts.sum(|d| d.objects())), float(facts.sum(|d| d.files)));
    let (start, each) = (rates.upgrade_base, rates.upgrade_object);
    let mut takes = Interval::new(start.low + objects * each.low, start.high + objects * each.high);
    let mut words = format!("{objects:.0} objects by pg_upgrade at {}", Rates::words(each));
    if facts.engine == Engine::SelfManaged && transfer == Transfer::Copy {
        let bytes = float(facts.cluster_bytes);
        takes = takes.and(Interval::new(bytes / rates.copy.high, bytes / rates.copy.low));
        words.push_str(&format!(", and {} copied once more (`transfer = \"copy\"`)", size(bytes)));
    } else if facts.engine == Engine::SelfManaged {
        takes = takes.and(Interval::new(files * 0.000_01, files * 0.000_2));
        words.push_str(&format!(", {files:.0} files linked"));
    } else {
        // instances are stopped, upgraded and started by their provider, with a snapshot before
        takes = takes.and(Interval::new(900.0, 3600.0));
        words.push_str(", and the provider's own restarts and snapshot");
    }
    stage("upgrade", takes, words, UPGRADE)
}

fn analyze(basis: Basis<'_>) -> Stage {
    let Basis { facts, rates, .. } = basis;
    if facts.target_major >= 18 {
        let tables = float(facts.sum(|d| d.tables));
        let words = "from 18 on pg_upgrade brings statistics along: only what lacks them is analyzed".to_owned();
        return stage("analyze", Interval::new(0.0, 2.0 + tables * 0.002), words, ANALYZE);
    }
    let bytes = float(facts.sum(|d| d.sample_bytes));
    let tables = float(facts.sum(|d| d.tables));
    let rate = rates.analyze;
    // three stages, of which the last reads the whole sample
    let takes = Interval::new(tables * 0.002 + bytes / rate.high, 1.0 + tables * 0.02 + 1.2 * bytes / rate.low);
    stage("analyze", takes, format!("a sample of {} read at {}", size(bytes), Rates::words(rate)), ANALYZE)
}

fn lag(method: Method, basis: Basis<'_>, so_far: Interval) -> Stage {
    let Basis { facts, rates, .. } = basis;
    let Some((low, high)) = facts.wal.range() else {
        let words = "the rate of WAL is not known".to_owned();
        return stage("catch up", Interval::new(0.0, f64::INFINITY), words, CATCH_UP);
    };
    let rate = rates.apply;
    // only what is restored from a snapshot is loaded lazily
    let lazy = facts.engine.is_aws() && method.storage(facts.engine) == Storage::Full;
    let cold = if lazy { float(facts.cluster_bytes) / 200e6 } else { 0.0 };
    let soonest = catch_up(so_far.low_s * low, low, rate.high, 0.0);
    let latest = so_far.high_s.map_or(f64::INFINITY, |s| catch_up(s * high, high, rate.low, cold));
    let mut words = format!(
        "the source writes {} to {}/s of WAL, the target applies {}",
        size(low),
        size(high),
        Rates::words(rate)
    );
    if lazy {
        words.push_str("; a restored volume is loaded while it is used, so the lag may grow at first");
    }
    if latest.is_infinite() {
        words.push_str("; at the highest rate it is not caught up with: choose a quieter time");
    }
    let latest = if latest.is_finite() { latest + 1.0 } else { latest };
    stage("catch up", Interval::new(soonest.min(latest), latest), words, CATCH_UP)
}

fn verify(name: &str, basis: Basis<'_>, steps: &[&str]) -> Stage {
    let Basis { facts, rates, verify_jobs, .. } = basis;
    let bytes = float(facts.sum(|d| d.table_bytes));
    let tables = float(facts.sum(|d| d.tables));
    let rate = rates.verify;
    // more jobs than half the processors have nobody to run on: each works on both sides
    let most = facts.host.map_or(1.0, |host| float((host.cores as u64 / 2).max(1)));
    let jobs = f64::from(verify_jobs).min(most);
    let takes = Interval::new(
        tables * rates.verify_table.low / jobs + bytes / (rate.high * jobs),
        1.0 + tables * rates.verify_table.high / jobs + 1.3 * bytes / (rate.low * jobs),
    );
    let words = format!(
        "{} read on both sides at {}, {tables:.0} tables at {}, {jobs:.0} at a time",
        size(bytes),
        Rates::words(rate),
        Rates::words(rates.verify_table)
    );
    stage(name, takes, words, steps)
}

fn by_rows(basis: Basis<'_>) -> Vec<Stage> {
    let Basis { facts, rates, .. } = basis;
    let (rows, indexes) = (float(facts.sum(|d| d.table_bytes)), float(facts.sum(|d| d.index_bytes)));
    let rate = rates.rows;
    let bytes = rows + indexes;
    let words = format!("{} of rows sent and {} of indexes built at {}", size(rows), size(indexes), Rates::words(rate));
    let mut stages = vec![
        prepare(basis),
        stage(
            "schema",
            Interval::new(5.0, 60.0 + float(facts.sum(|d| d.objects())) * 0.01),
            "dump and restore of the schema".into(),
            &[],
        ),
        stage("initial sync", Interval::new(bytes / rate.high, bytes / rate.low), words, &[]),
    ];
    stages.push(lag(Method::LogicalCopy, basis, total(&stages)));
    stages.push(verify("compare", basis, &[]));
    stages.extend(move_over(basis, false));
    stages
}

fn in_place(basis: Basis<'_>) -> Vec<Stage> {
    let backup = match basis.facts.engine {
        Engine::SelfManaged => copy(Method::InPlace, Basis { has_standby: false, ..basis }),
        _ => stage("backup", Interval::new(60.0, 3600.0), "a snapshot: the only way back".into(), &[]),
    };
    let backup = Stage { name: "backup".into(), steps: Vec::new(), ..backup };
    let mut stages = vec![backup];
    stages.extend(outage(basis));
    stages.push(analyze(basis));
    stages.iter_mut().for_each(|stage| stage.steps.clear());
    stages
}

/// Returns the part of an upgrade in place during which nobody is served.
fn outage(basis: Basis<'_>) -> Vec<Stage> {
    let stop = stage("stop", Interval::new(2.0, 120.0), "the last checkpoint, with clients gone".into(), &[]);
    vec![stop, upgrade(basis)]
}

/// How long clients cannot write, and from what that follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    /// How long.
    pub takes: Interval,
    /// From what that follows.
    pub basis: String,
}

/// Returns how long clients cannot write. `rehearsed` is what a rehearsal foretold, p50 and p99 in milliseconds.
pub fn pause(method: Method, basis: Basis<'_>, budget_s: f64, rehearsed: Option<(f64, f64)>) -> Pause {
    let engine = basis.facts.engine;
    let of = |low: f64, high: f64, words: &str| Pause { takes: Interval::new(low, high), basis: words.to_owned() };
    match method {
        _ if method.is_run_by_pgleap(engine) => match rehearsed {
            Some((p50, p99)) => of(p50 / 1000.0, p99 / 1000.0, "rehearsed: p50 to p99"),
            None => of(0.02, budget_s, "at most the write budget; `pgleap rehearse` narrows it"),
        },
        Method::BlueGreen => of(
            2.0,
            60.0,
            "AWS: typically under a minute, since 2026 seconds with its own drivers; DNS decides for other clients",
        ),
        Method::InPlace => {
            let stages = outage(basis);
            Pause { takes: total(&stages), basis: "nobody is served while pg_upgrade runs".into() }
        }
        _ => of(60.0, 600.0, "by hand: read-only, wait, sequences, addresses"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::facts::{Rate, Wal, tests::ordinary};

    fn basis<'a>(facts: &'a Facts, wishes: &'a Planning, rates: &'a Rates) -> Basis<'a> {
        Basis { facts, wishes, rates, transfer: Transfer::Auto, has_standby: false, verify_jobs: 1 }
    }

    fn find<'a>(stages: &'a [Stage], name: &str) -> &'a Stage {
        stages.iter().find(|stage| stage.name == name).unwrap()
    }

    #[test]
    fn backlog_is_caught_up_by_what_applying_gains_on_writing() {
        assert_eq!(catch_up(100.0, 2.0, 12.0, 0.0), 10.0);
        assert_eq!(catch_up(0.0, 2.0, 12.0, 0.0), 0.0);
        assert!(catch_up(1.0, 12.0, 12.0, 0.0).is_infinite(), "as fast as it is written is never");
        assert!(catch_up(1.0, 12.0, 6.0, 0.0).is_infinite());
    }

    #[test]
    fn lazily_loaded_storage_lets_the_lag_grow_before_it_shrinks() {
        // cold: a quarter of 12 is 3, the source writes 5: 2 more for each of 10 s, then 7 are gained
        assert_eq!(catch_up(50.0, 5.0, 12.0, 10.0), 20.0);
        // cold, but faster than the source: done before it is warm
        assert_eq!(catch_up(10.0, 1.0, 12.0, 100.0), 5.0);
        assert!(catch_up(50.0, 5.0, 12.0, 10.0) > catch_up(50.0, 5.0, 12.0, 0.0));
    }

    #[test]
    fn stages_of_a_clone_are_in_order_and_hold_what_is_wished() {
        let (facts, rates) = (ordinary(), Rates::default());
        let wishes = Planning { soak: Duration::from_secs(86_400), ..Planning::default() };
        let stages = stages(Method::CloneLogical, basis(&facts, &wishes, &rates));
        let names: Vec<_> = stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "prepare",
                "copy",
                "recover",
                "upgrade",
                "analyze",
                "catch up",
                "compare",
                "follow",
                "switch over",
                "prove equal",
                "soak"
            ]
        );
        assert_eq!(find(&stages, "soak").takes, Interval::exactly(86_400.0));
        assert!(work(&stages).high_s < total(&stages).low_s.into(), "days of waiting, hours of work");
        assert!(stages.iter().all(|stage| !stage.basis.is_empty()), "each has its basis");
    }

    #[test]
    fn every_step_of_a_run_belongs_to_one_stage() {
        let (facts, rates, wishes) = (ordinary(), Rates::default(), Planning::default());
        let stages = stages(Method::CloneLogical, basis(&facts, &wishes, &rates));
        let text = "[source]\ndsn = \"host=h user=u\"\n[target]\nversion = 18\nport = 5434\ndata_dir = \"/d\"\n\
                    [provider]\nkind = \"self_managed\"\n[route]\nkind = \"pgbouncer\"\n\
                    [[route.pgbouncer]]\nadmin = \"host=h user=u\"\nini = \"/i\"\n";
        for more in ["", "standby = \"/s\"\n"] {
            let text = text.replace("[route]", &format!("{more}[route]"));
            let config = crate::Config::parse(&text, std::path::Path::new("/")).unwrap();
            for step in crate::chain::upgrade_plan("upgrade-1".into(), &config).describe() {
                let of = stages.iter().filter(|stage| stage.steps.contains(&step.name)).count();
                assert_eq!(of, 1, "`{}` is in {of} stages", step.name);
            }
        }
    }

    #[test]
    fn given_throughput_takes_the_place_of_the_assumed() {
        let (facts, rates) = (ordinary(), Rates::default());
        let wishes = Planning { copy_rate: Some(100 << 20), ..Planning::default() };
        let stages = stages(Method::CloneLogical, basis(&facts, &wishes, &rates));
        let copy = find(&stages, "copy");
        assert!(copy.takes.holds(1024.0), "100 GiB at 100 MiB/s: {copy:?}");
        assert!(copy.takes.fits(1400.0) && copy.basis.contains("(given)"), "{copy:?}");
    }

    #[test]
    fn source_that_writes_faster_than_is_applied_has_no_end_in_sight() {
        let wal = Wal { window: Some(Rate { bytes_per_s: 200e6, over_s: 10.0 }), ..Wal::default() };
        let (facts, rates, wishes) = (Facts { wal, ..ordinary() }, Rates::default(), Planning::default());
        let stages = stages(Method::CloneLogical, basis(&facts, &wishes, &rates));
        let lag = find(&stages, "catch up");
        assert_eq!(lag.takes.high_s, None);
        assert!(lag.basis.contains("quieter time"), "{lag:?}");
        assert_eq!(total(&stages).high_s, None);
    }

    #[test]
    fn unknown_rate_of_wal_promises_no_end() {
        let (facts, rates, wishes) =
            (Facts { wal: Wal::default(), ..ordinary() }, Rates::default(), Planning::default());
        let stages = stages(Method::CloneLogical, basis(&facts, &wishes, &rates));
        assert_eq!(find(&stages, "catch up").takes.high_s, None);
    }

    #[test]
    fn statistics_that_come_along_are_not_gathered_again() {
        let (mut facts, rates, wishes) = (ordinary(), Rates::default(), Planning::default());
        let of = |facts: &Facts| find(&stages(Method::CloneLogical, basis(facts, &wishes, &rates)), "analyze").takes;
        let with = of(&facts);
        facts.target_major = 17;
        assert!(with.high_s < of(&facts).high_s, "to 17 all of it is analyzed");
    }

    #[test]
    fn pause_is_the_write_budget_until_it_was_rehearsed() {
        let (facts, rates, wishes) = (ordinary(), Rates::default(), Planning::default());
        let basis = basis(&facts, &wishes, &rates);
        assert_eq!(pause(Method::CloneLogical, basis, 2.0, None).takes.high_s, Some(2.0));
        let rehearsed = pause(Method::CloneLogical, basis, 2.0, Some((40.0, 90.0)));
        assert_eq!(rehearsed.takes, Interval::new(0.04, 0.09));
        let in_place = pause(Method::InPlace, basis, 2.0, None);
        assert!(in_place.takes.low_s > 2.0, "{in_place:?}");
    }
}
