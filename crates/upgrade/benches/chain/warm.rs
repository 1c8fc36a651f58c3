//! What reads cost in the minute after a switchover, against the minute before it, with and without a warm start.
//!
//! The target's cache is emptied before each: its own by a restart, the system's for its files alone. Cold and warm take
//! turns in one run, in alternating order, and each is judged by its own minute before, so that whatever else the machine
//! does meets both. What is read just fits the source's cache, and is in it: 24 MB for each of pgbench's scale, 15 of them used.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use pgleap_lab::Lab;
use pgleap_local::StopMode;
use pgleap_saga::{EventSink, StopSignal};
use pgleap_upgrade::{Chain, Config, World, guard::Launch};

use crate::{
    bed::{Bed, DATABASE, Load, assert_done, connect, spec},
    option,
    table::{Table, median, short},
};

const READERS: usize = 8;
const EACH_PER_S: u32 = 20;
/// One transaction reads so many rows, each from a page of its own.
const ROWS: usize = 20;
const LONG: Duration = Duration::from_secs(120);

/// When a read was due, and how long it took, in milliseconds.
type Reads = Arc<Mutex<Vec<(Timestamp, f64)>>>;

async fn read(config: tokio_postgres::Config, seed: u64, rows: u64, reads: Reads, stop: Arc<AtomicBool>) {
    let client = connect(&config).await;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / EACH_PER_S);
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        // xorshift: every page is as likely as any other
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % rows + 1).to_string()
        };
        let some: Vec<_> = std::iter::repeat_with(&mut next).take(ROWS).collect();
        let sql = format!("SELECT sum(abalance) FROM pgbench_accounts WHERE aid = ANY ('{{{}}}')", some.join(","));
        let (due, began) = (Timestamp::now(), Instant::now());
        client.simple_query(&sql).await.unwrap();
        reads.lock().unwrap().push((due, began.elapsed().as_secs_f64() * 1000.0));
    }
}

/// Returns p50 and p99 of what was due from one moment to another.
fn percentiles(reads: &Reads, from: Timestamp, to: Timestamp) -> (f64, f64) {
    let mut took: Vec<f64> =
        reads.lock().unwrap().iter().filter(|(due, _)| (from..to).contains(due)).map(|(_, ms)| *ms).collect();
    took.sort_by(f64::total_cmp);
    (took[took.len() / 2], took[took.len() * 99 / 100])
}

/// Drops the system's cache of the files below `directory`.
fn evict(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            evict(&path);
        } else if let Ok(file) = std::fs::File::open(&path) {
            file.sync_all().unwrap();
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        }
    }
}

/// Leaves nothing of the target in any cache.
async fn chill(lab: &Lab) {
    let target = lab.target().unwrap();
    target.stop(StopMode::Fast, LONG).await.unwrap();
    evict(&target.data_dir.join("base"));
    target.start(&[], LONG).await.unwrap();
}

/// One switchover: its two minutes.
struct Minutes {
    warm: bool,
    pages: i64,
    warmed_s: f64,
    before: (f64, f64),
    after: (f64, f64),
}

/// Measures.
pub async fn run() {
    let (scale, window) = (option("PGLEAP_BENCH_SCALE", 40), option("PGLEAP_BENCH_WINDOW", 60));
    let window = SignedDuration::from_secs(window.into());
    let patience = Duration::try_from(window).unwrap() + Duration::from_secs(1);
    let mut spec = spec("warm", scale);
    // both with their contrib modules, everywhere
    spec.to = 17;
    // just enough for all that is read
    spec.source_settings = vec![("shared_buffers".into(), format!("{}MB", 24 * scale))];
    let bed = Bed::start(spec, Load { clients: 2, rate: Some(20.0), application: 0 }).await;
    let upgrade = bed.upgrade().await;
    assert_done(upgrade.chain().run().await);
    let mut config = Config::load(&bed.lab.config_path()).unwrap();
    config.budgets.warm_cache = Duration::ZERO;
    let cold = World::describe(config, "7f3a".into(), Launch::Task).await.unwrap();

    let (reads, stop) = (Reads::default(), Arc::new(AtomicBool::new(false)));
    let rows = u64::from(scale) * 100_000;
    let source = connect(&bed.lab.directly(bed.lab.source_port, DATABASE)).await;
    source.simple_query(&format!("SELECT sum(abalance) FROM pgbench_accounts WHERE aid <= {rows}")).await.unwrap();
    drop(source);
    let readers: Vec<_> = (1..=READERS)
        .map(|n| {
            let config = bed.lab.through_pooler(DATABASE);
            tokio::spawn(read(config, n as u64, rows, reads.clone(), stop.clone()))
        })
        .collect();

    let mut all = Vec::new();
    for warm in [false, true, true, false].into_iter().take(option("PGLEAP_BENCH_ROUNDS", 4) as usize) {
        chill(&bed.lab).await;
        bed.in_sync().await;
        tokio::time::sleep(patience).await;
        let world = if warm { &upgrade.world } else { &cold };
        let chain = Chain::new(world, &upgrade.journal, EventSink::new(), StopSignal::new());
        assert_done(chain.switchover().await);
        let plan = upgrade.journal.plans().unwrap().pop().unwrap();
        let step = plan.steps.iter().find(|step| step.name == "switchover.warm_cache").unwrap();
        let (from, to) = (plan.sections[0].started_at, plan.sections[0].ended_at.unwrap());
        let records = upgrade.journal.records(0).unwrap();
        let warmed = records
            .iter()
            .rfind(|r| r.plan == plan.id && r.body.get("output").is_some_and(|o| o.get("pages").is_some()));
        let pages = warmed.and_then(|record| record.body["output"]["pages"].as_i64()).unwrap_or_default();
        tokio::time::sleep(patience).await;
        all.push(Minutes {
            warm,
            pages,
            warmed_s: step.ended_at.unwrap().duration_since(step.started_at.unwrap()).as_secs_f64(),
            // without the preparation, in which the cache is warmed at readers' cost
            before: percentiles(&reads, plan.opened_at - window, plan.opened_at),
            after: percentiles(&reads, to, to + window),
        });
        assert!(from < to);
        let back = Chain::new(&cold, &upgrade.journal, EventSink::new(), StopSignal::new());
        assert_done(back.rollback().await);
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    let port = bed.lab.source_port;
    bed.finish(port).await.0.destroy().await.unwrap();
    show(&all);
}

fn show(all: &[Minutes]) {
    let ms = |value: f64| format!("{} ms", short(value));
    let mut table = Table::new([
        "start",
        "pages",
        "warming",
        "p50 before",
        "p50 after",
        "ratio",
        "p99 before",
        "p99 after",
        "ratio",
    ]);
    let ratios = |minutes: &Minutes| (minutes.after.0 / minutes.before.0, minutes.after.1 / minutes.before.1);
    for minutes in all {
        let (p50, p99) = ratios(minutes);
        table.row([
            if minutes.warm { "warm" } else { "cold" }.into(),
            minutes.pages.to_string(),
            format!("{:.1} s", minutes.warmed_s),
            ms(minutes.before.0),
            ms(minutes.after.0),
            format!("{p50:.2}"),
            ms(minutes.before.1),
            ms(minutes.after.1),
            format!("{p99:.2}"),
        ]);
    }
    table.print();
    let of = |warm: bool, which: fn((f64, f64)) -> f64| {
        median(&all.iter().filter(|m| m.warm == warm).map(|m| which(ratios(m))).collect::<Vec<_>>())
    };
    println!(
        "{}",
        serde_json::json!({
            "bench": "warm",
            "cold_p50_ratio": of(false, |r| r.0), "cold_p99_ratio": of(false, |r| r.1),
            "warm_p50_ratio": of(true, |r| r.0), "warm_p99_ratio": of(true, |r| r.1),
        })
    );
}
