//! The report, made from a journal alone.

use pgleap_canary::{Latency, Ledger, PeriodReport, Stats};
use pgleap_saga::StepError;

use crate::bed::{Bed, World, drive, switchover, upgrade};

fn finished() -> Bed {
    let bed = Bed::new();
    let (journal, world) = (bed.journal(), World::default());
    drive(&journal, &upgrade(), &world);
    drive(&journal, &switchover("switchover-1", "source"), &world);
    drive(&journal, &switchover("switchover-2", "target"), &world);
    bed
}

#[test]
fn a_report_holds_versions_pause_proof_and_phases_and_null_where_no_canary_ran() {
    let bed = finished();
    let ended = bed.run(&["report", "--report-dir", "out"]);
    assert_eq!(ended.code, 0, "{}", ended.all());
    let header = "| Step";
    assert!(ended.stdout.starts_with(header) && ended.stdout.contains("| Longest client stall |"), "{}", ended.stdout);
    let text = std::fs::read_to_string(bed.path("out/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["schema"], &report["upgrade_id"]), (&1.into(), &"7f3a".into()));
    assert_eq!((&report["source_version"], &report["target_version"]), (&"15.18".into(), &"18.1".into()));
    assert_eq!(report["write_pause_ms"], 38.25);
    for unknown in [
        "longest_client_stall_ms",
        "pause_floor_ms",
        "transactions",
        "failed_transactions",
        "lost_writes",
        "duplicated_writes",
    ] {
        assert!(report.get(unknown).is_some_and(serde_json::Value::is_null), "{unknown}: {}", report[unknown]);
    }
    let phases: Vec<&str> =
        report["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(phases, ["provision", "replicate", "verify", "switchover", "soak", "rollback"]);
    assert!(report["phases"][0]["seconds"].is_f64());
    assert_eq!(report["boundary"]["before"], 13);
    assert_eq!(report["boundary"]["proven_on_target"], true);
    assert_eq!(report["verifications"][0]["moving"], 1);
    assert_eq!(report["switchovers"][0]["fence_proven_by"], "silence");
    assert_eq!(report["switchovers"][0]["sequences"], 3);
    assert_eq!(report["switchovers"][1]["from"], "target");
    assert_eq!(report["lag"].as_array().unwrap().len(), 3);
    assert!(report["left_out"][0].as_str().unwrap().contains("not carried over"), "{}", report["left_out"]);
}

#[test]
fn a_page_needs_nothing_from_elsewhere_and_tells_what_the_json_does() {
    let bed = finished();
    bed.run(&["report", "--report-dir", "out"]);
    let page = std::fs::read_to_string(bed.path("out/report.html")).unwrap();
    for foreign in ["http://", "https://", "<script", "<link", "@import", "url("] {
        assert!(!page.contains(foreign), "`{foreign}` is in the page");
    }
    for part in ["15.18 → 18.1", "38 ms", "0/3000060", "prefers-color-scheme", "viewport", "no canary ran", "<svg"] {
        assert!(page.contains(part), "`{part}` is not in the page");
    }
}

#[test]
fn a_canarys_numbers_join_the_report() {
    let bed = finished();
    let at: jiff::Timestamp =
        bed.run(&["report", "--format", "json"]).json()["begun_at"].as_str().unwrap().parse().unwrap();
    let latency = Latency { p50_ms: 2.0, p95_ms: 3.0, p99_ms: 9.0, max_ms: 55.5 };
    let period = PeriodReport {
        name: "start".into(),
        started_at: at,
        seconds: 0.002,
        transactions: 1000,
        failed_transactions: 0,
        longest_stall_ms: 55.5,
        latency,
        tps: 500.0,
    };
    let stats = Stats {
        started_at: at,
        seconds: 2.0,
        transactions: 1000,
        rolled_back: 0,
        failed_transactions: 0,
        failed_connects: 0,
        retries: 0,
        reconnects: 0,
        unknown_outcomes: 0,
        stale_reads: 0,
        unfinished: 0,
        failures: std::collections::BTreeMap::new(),
        latency,
        longest_gap_ms: 60.0,
        longest_client_stall_ms: 55.5,
        waiting_ms: 0.0,
        periods: vec![period],
    };
    let canary = pgleap_canary::Report {
        schema: 1,
        label: "canary".into(),
        run: "a".into(),
        clients: 8,
        rate: None,
        stats,
        timeline: pgleap_canary::Timeline::default(),
        ledger_file_error: None,
        ledger: Ledger::default(),
    };
    std::fs::write(bed.path("canary.json"), serde_json::to_string(&canary).unwrap()).unwrap();
    let report = bed.run(&["report", "--canary", "canary.json", "--format", "json"]).json();
    assert_eq!((&report["longest_client_stall_ms"], &report["transactions"]), (&55.5.into(), &1000.into()));
    assert!(report["lost_writes"].is_null(), "no ledger was audited, so nobody knows");
    assert_eq!(report["phases"][0]["longest_client_stall_ms"], 55.5);
    assert!(report["phases"][4]["longest_client_stall_ms"].is_null(), "no period lies there");
    let refused = bed.run(&["report", "--canary", "pgleap.toml"]);
    assert!(refused.code == 2 && refused.stderr.contains("canary's report"), "{}", refused.all());
}

#[test]
fn an_upgrade_that_was_taken_back_is_told_with_its_reason() {
    let bed = Bed::new();
    let journal = bed.journal();
    let world = World { fails: Some(("provision.prove_copy", StepError::fatal("the boundary is wrong", "run again"))) };
    drive(&journal, &upgrade(), &world);
    drop(journal);
    let report = bed.run(&["report", "--format", "json"]).json();
    assert_eq!(report["phases"][0]["name"], "upgrade, taken back");
    assert_eq!(report["phases"][0]["remarks"][0], "the boundary is wrong");
    assert_eq!(report["traffic"], "the source serves reads and writes");
    assert!(report["boundary"].is_null(), "a refused proof proves nothing");
}
