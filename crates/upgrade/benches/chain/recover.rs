//! How long clients wait after pgleap is killed in the write pause: until a second process has taken over, and, where that
//! dies too, until the guard's lease is over.

use std::{process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{process::Command, time::Instant};

use crate::{
    bed::{Bed, DATABASE, Load, connect, spec},
    footprint::program,
    table::{Table, median, short},
};

const KILLS: usize = 5;
const LOAD: Load = Load { clients: 8, rate: Some(100.0), application: 0 };
/// The write budget, and what a guard adds to it.
const LEASE: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(30);

async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) -> Instant {
    let deadline = Instant::now() + PATIENCE;
    while !look().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Instant::now()
}

/// Returns the children of a process whose command line holds `word`.
fn children(parent: u32, word: &str) -> Vec<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let fits =
        |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(word));
    children.split_whitespace().filter(fits).map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

async fn pgleap(bed: &Bed, verb: &str) {
    let mut command = Command::new(program());
    command.arg("--config").arg(bed.lab.config_path()).args(["--yes", verb]);
    // taken back is an end too
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await.unwrap();
}

/// Kills a switchover in its pause, which a transaction holds open; returns from PAUSE and from the kill to the end of it.
async fn killed(bed: &Bed, with_second: bool) -> (f64, f64) {
    let paused = async || {
        let rows = bed.console().await.simple_query("SHOW DATABASES").await.unwrap();
        rows.iter().any(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                row.get("name") == Some(DATABASE) && row.get("paused") == Some("1")
            }
            _ => false,
        })
    };
    // begun after the gates have looked
    let mut command = Command::new(program());
    command.arg("--config").arg(bed.lab.config_path()).args(["--yes", "switchover"]).kill_on_drop(true);
    let holder = connect(&bed.lab.through_pooler(DATABASE)).await;
    holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pause = until("the pause", paused).await;
    let pid = child.id().unwrap();
    if with_second {
        children(pid, "--when-orphaned").into_iter().for_each(|second| kill(second, Signal::SIGKILL).unwrap());
    }
    let died = Instant::now();
    child.kill().await.unwrap();
    let over = until("the end of the pause", async || !paused().await).await;
    holder.batch_execute("COMMIT").await.unwrap();
    ((over - pause).as_secs_f64() * 1000.0, (over - died).as_secs_f64() * 1000.0)
}

pub async fn run() {
    let mut spec = spec("recover", 1);
    spec.write_pause = "1s".into();
    let bed = Bed::start(spec, LOAD).await;
    pgleap(&bed, "run").await;
    let mut table = Table::new(["killed", "pause, median", "from the kill, median", "worst", "lease"]);
    for (name, with_second) in [("pgleap", false), ("pgleap and its second", true)] {
        let (mut pauses, mut waits) = (Vec::new(), Vec::new());
        for _ in 0..KILLS {
            bed.settle(50).await;
            let (pause, wait) = killed(&bed, with_second).await;
            pauses.push(pause);
            waits.push(wait);
            if with_second {
                pgleap(&bed, "resume").await;
            } else {
                until("the second process to end", async || {
                    let lock = std::fs::File::open(bed.lab.spec.dir.join("state/journal.sqlite.lock")).unwrap();
                    lock.try_lock().is_ok()
                })
                .await;
            }
        }
        let ms = |value: f64| format!("{} ms", short(value));
        let worst = waits.iter().copied().fold(0.0, f64::max);
        table.row([
            name.to_owned(),
            ms(median(&pauses)),
            ms(median(&waits)),
            ms(worst),
            format!("{} ms", LEASE.as_millis()),
        ]);
        println!(
            "{}",
            serde_json::json!({ "bench": "recover", "killed": name, "pause_ms": pauses, "from_kill_ms": waits })
        );
    }
    table.print();
    let port = bed.lab.source_port;
    let (lab, _) = bed.finish(port).await;
    lab.destroy().await.unwrap();
}
