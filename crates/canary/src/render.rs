//! A report as a few lines for a terminal.

use std::fmt::Write as _;

use crate::report::{Latency, Report};

/// Returns a report in words: what was written, what failed and how, and the waits, period by period.
pub fn render(report: &Report) -> String {
    let stats = &report.stats;
    let mut out = String::new();
    let rate = report.rate.map_or("as fast as they can".to_owned(), |rate| format!("{rate} transactions/s asked for"));
    // Writing into a String does not fail.
    let _ = writeln!(
        out,
        "canary `{}`  run {}  {} clients, {rate}, {:.1} s",
        report.label, report.run, report.clients, stats.seconds
    );
    let _ = writeln!(
        out,
        "  acknowledged  {} transactions; {} rolled back on purpose, {} unfinished",
        stats.transactions, stats.rolled_back, stats.unfinished
    );
    let _ = writeln!(
        out,
        "  failed        {} transactions, {} connects; {} retries, {} reconnects",
        stats.failed_transactions, stats.failed_connects, stats.retries, stats.reconnects
    );
    for (kind, failure) in &stats.failures {
        let _ = writeln!(out, "    {kind}  {} times, first: {}", failure.count, failure.first_message);
    }
    let _ =
        writeln!(out, "  in doubt      {} unknown outcomes, {} stale reads", stats.unknown_outcomes, stats.stale_reads);
    let _ = writeln!(out, "  latency       {}", percentiles(stats.latency));
    let _ = writeln!(
        out,
        "  longest       stall {:.1} ms, gap {:.1} ms",
        stats.longest_client_stall_ms, stats.longest_gap_ms
    );
    if let Some(error) = &report.ledger_file_error {
        let _ = writeln!(out, "  ledger file   INCOMPLETE: {error}");
    }
    let width = stats.periods.iter().map(|period| period.name.chars().count()).max().unwrap_or(0).max(6);
    let _ = writeln!(
        out,
        "  {:width$}  {:>8}  {:>8}  {:>6}  {:>9}  {:>9}  {:>9}  {:>9}",
        "period", "seconds", "tps", "failed", "p50 ms", "p99 ms", "max ms", "stall ms"
    );
    for period in &stats.periods {
        let _ = writeln!(
            out,
            "  {:width$}  {:>8.1}  {:>8.1}  {:>6}  {:>9.1}  {:>9.1}  {:>9.1}  {:>9.1}",
            period.name,
            period.seconds,
            period.tps,
            period.failed_transactions,
            period.latency.p50_ms,
            period.latency.p99_ms,
            period.latency.max_ms,
            period.longest_stall_ms
        );
    }
    out
}

fn percentiles(latency: Latency) -> String {
    let Latency { p50_ms, p95_ms, p99_ms, max_ms } = latency;
    format!("p50 {p50_ms:.1} ms, p95 {p95_ms:.1} ms, p99 {p99_ms:.1} ms, max {max_ms:.1} ms")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use jiff::Timestamp;

    use super::*;
    use crate::ledger::Ledger;
    use crate::meter::{Ending, Meter};
    use crate::session::Failure;

    fn report() -> Report {
        let start = Instant::now();
        let meter = Meter::new(1, (start, Timestamp::UNIX_EPOCH));
        meter.begin(0, start);
        meter.failed(Failure::new("23505", "ERROR: duplicate key"), Timestamp::UNIX_EPOCH);
        meter.finish(0, start + Duration::from_millis(120), Ending::Commit);
        meter.mark("switchover", (start + Duration::from_secs(1), Timestamp::UNIX_EPOCH));
        Report {
            schema: 1,
            label: "orders".to_owned(),
            run: "ab".to_owned(),
            clients: 1,
            rate: Some(300.0),
            stats: meter.stats(start + Duration::from_secs(2)),
            timeline: meter.timeline(),
            ledger_file_error: None,
            ledger: Ledger::default(),
        }
    }

    #[test]
    fn a_report_in_words_names_failures_stalls_and_periods() {
        let text = render(&report());
        for part in ["canary `orders`", "300 transactions/s", "23505  1 times", "stall 120.0 ms", "switchover"] {
            assert!(text.contains(part), "`{part}` is not in:\n{text}");
        }
    }

    #[test]
    fn a_report_survives_json_and_says_its_schema() {
        let report = report();
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["schema"], &json["transactions"]), (&1.into(), &1.into()));
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }
}
