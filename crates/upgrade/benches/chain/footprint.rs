//! What pgleap itself takes: memory over a run and a switchover, of itself and of its guard, and time of the processor while it
//! watches.
//!
//! The program is `$PGLEAP_BIN`, or else the release build beside this benchmark. Servers and tools that it starts are
//! processes of their own and do not count.

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    bed::{Bed, Load, spec},
    table::{Table, short},
};

const LOAD: Load = Load { clients: 4, rate: Some(60.0), application: 2 };
const WATCHED: Duration = Duration::from_secs(30);
const MOST_RSS_MB: f64 = 40.0;
/// At work; one that waits has touched less of the program.
const MOST_GUARD_MB: f64 = 20.0;
const MOST_CPU_PERCENT: f64 = 0.5;
/// The kernel counts a process's time in hundredths of a second, on every architecture that servers run on.
const TICKS_PER_S: f64 = 100.0;

pub fn program() -> PathBuf {
    let path = std::env::var_os("PGLEAP_BIN").map_or_else(
        // …/release/deps/chain-0123456789abcdef
        || std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("pgleap"),
        PathBuf::from,
    );
    assert!(path.exists(), "`{}` is not there: `cargo build --release -p pgleap` makes it", path.display());
    path
}

fn start(bed: &Bed, arguments: &[&str]) -> Child {
    let mut command = Command::new(program());
    command.arg("--config").arg(bed.lab.config_path()).arg("--yes").args(arguments).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Reads the most memory that the process ever held, in bytes; `None` once it has ended.
fn peak_rss(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Returns the peak in MB of the guard that the last command started beside the poolers; it stays for some seconds.
fn peak_of_guard(bed: &Bed) -> f64 {
    let config = bed.lab.config_path().display().to_string();
    let is_guard = |pid: u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains(&config) && line.contains("\0guard\0")
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    let guard = pids.find(|pid| is_guard(*pid)).unwrap();
    #[expect(clippy::cast_precision_loss, reason = "a few million bytes")]
    let peak = peak_rss(guard).unwrap() as f64 / 1e6;
    peak
}

/// Reads the processor time that the process has used, in ticks: its own and the system's for it.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // the program's name stands in parentheses and may hold spaces; utime and stime are fields 14 and 15
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Runs a command to its end, and returns its peak in MB.
async fn peak_of(bed: &Bed, arguments: &[&str]) -> f64 {
    let mut child = start(bed, arguments);
    let pid = child.id().unwrap();
    let stdout = child.stdout.take().unwrap();
    let reading = tokio::spawn(async move {
        let mut lines = BufReader::new(stdout).lines();
        while lines.next_line().await.unwrap().is_some() {}
    });
    let mut peak = 0;
    let status = loop {
        // a process that has ended has no memory any more: the last look before that counts
        peak = peak.max(peak_rss(pid).unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(status.success(), "`pgleap {}` ended with {status}", arguments.join(" "));
    reading.await.unwrap();
    #[expect(clippy::cast_precision_loss, reason = "a few million bytes")]
    let peak = peak as f64 / 1e6;
    peak
}

/// Returns how much of one core `pgleap watch` takes, in percent, and its peak in MB.
async fn watch(bed: &Bed, arguments: &[&str]) -> (f64, f64) {
    let mut child = start(bed, arguments);
    let pid = child.id().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next_line().await.unwrap().unwrap();
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (began, from) = (std::time::Instant::now(), ticks(pid));
    tokio::time::sleep(WATCHED).await;
    #[expect(clippy::cast_precision_loss, reason = "a few ticks")]
    let used = (ticks(pid) - from) as f64 / TICKS_PER_S;
    let percent = 100.0 * used / began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a few million bytes")]
    let peak = peak_rss(pid).unwrap() as f64 / 1e6;
    child.kill().await.unwrap();
    (percent, peak)
}

pub async fn run() {
    let bed = Bed::start(spec("feet", 1), LOAD).await;
    let run_mb = peak_of(&bed, &["run"]).await;
    let (watch_percent, watch_mb) = watch(&bed, &["watch"]).await;
    let (json_percent, _) = watch(&bed, &["--format", "json", "watch"]).await;
    let switchover_mb = peak_of(&bed, &["switchover"]).await;
    let guard_mb = peak_of_guard(&bed);
    let port = bed.lab.target_port;
    let (lab, _) = bed.finish(port).await;
    let mut table = Table::new(["pgleap's own", "measured", "at most"]);
    let mut row = |what: &str, value: String, most: String| table.row([what.to_owned(), value, most]);
    let mb = |value: f64| format!("{} MB", short(value));
    row("peak memory, run", mb(run_mb), mb(MOST_RSS_MB));
    row("peak memory, switchover", mb(switchover_mb), mb(MOST_RSS_MB));
    row("peak memory, guard at a switchover", mb(guard_mb), mb(MOST_GUARD_MB));
    row("peak memory, watch", mb(watch_mb), mb(MOST_RSS_MB));
    let percent = |value: f64| format!("{value:.2} % of a core");
    row("watching, plain lines", percent(watch_percent), percent(MOST_CPU_PERCENT));
    row("watching, JSON", percent(json_percent), percent(MOST_CPU_PERCENT));
    table.print();
    println!(
        "{}",
        serde_json::json!({
            "bench": "footprint", "run_peak_mb": run_mb, "switchover_peak_mb": switchover_mb, "watch_peak_mb": watch_mb,
            "guard_peak_mb": guard_mb,
            "watch_cpu_percent": watch_percent, "watch_json_cpu_percent": json_percent, "watched_s": WATCHED.as_secs(),
        })
    );
    lab.destroy().await.unwrap();
}
