//! Through PgBouncer in transaction pooling, every version that is installed.

use std::path::PathBuf;

use pgleap_canary::{Canary, audit, render};

use crate::bed::{Bed, client, until};

/// The pooler that a user would get, and those that lie beside the unpacked servers.
pub fn poolers() -> Vec<PathBuf> {
    let beside = std::env::var_os("PGLEAP_PG_DIR").and_then(|dir| std::fs::read_dir(dir).ok());
    let mut found: Vec<PathBuf> = beside
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("bin/pgbouncer"))
        .filter(|path| path.is_file())
        .collect();
    found.extend(["/usr/sbin/pgbouncer".into()].into_iter().filter(|path: &PathBuf| path.is_file()));
    found.sort();
    found
}

const PAUSE_MS: f64 = 700.0;

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_shows_as_a_stall_of_its_length_and_as_nothing_else() {
    for bin in poolers() {
        let bed = Bed::new().await;
        let (_pooler, through, console) = bed.pooler(&bin).await;
        let mut config = bed.config();
        (config.connect, config.clients, config.rate) = (through.clone(), 8, Some(80.0));
        let canary = Canary::start(config).await.unwrap();
        until(&canary, "100 transactions", |stats| stats.transactions >= 100).await;
        let console = client(&console).await;
        canary.mark("pause");
        console.simple_query("PAUSE app").await.unwrap();
        until(&canary, "a pause", |stats| stats.waiting_ms >= PAUSE_MS).await;
        console.simple_query("RESUME app").await.unwrap();
        // The clients catch up with what became due meanwhile.
        until(&canary, "catching up", |stats| stats.waiting_ms < 50.0).await;
        canary.mark("after");
        let before = canary.snapshot().transactions;
        until(&canary, "going on", |stats| stats.transactions >= before + 50).await;
        let report = canary.stop().await;
        let stats = &report.stats;
        let told = format!("{}: {}", bin.display(), render(&report));
        assert_eq!((stats.failed_transactions, stats.failed_connects, stats.reconnects), (0, 0, 0), "{told}");
        assert!(stats.longest_client_stall_ms >= PAUSE_MS && stats.longest_gap_ms >= PAUSE_MS, "{told}");
        let pause = &stats.periods[1];
        assert!(pause.longest_stall_ms >= PAUSE_MS, "{told}");
        // 80 a second for 0.7 s: each of them waited, not only the one that each client had begun.
        assert!(pause.transactions >= 40 && pause.latency.p50_ms > 50.0, "{told}");
        for connect in [through, bed.direct()] {
            let audit = audit(&connect, &report.ledger).await.unwrap();
            assert!(audit.is_clean() && audit.present_once == stats.transactions, "{audit}{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_is_killed_and_restarted_loses_nothing() {
    let Some(bin) = poolers().pop() else { return };
    let bed = Bed::new().await;
    let (pooler, through, _) = bed.pooler(&bin).await;
    let mut config = bed.config();
    config.connect = through;
    let canary = Canary::start(config).await.unwrap();
    for _ in 0..3 {
        let before = canary.snapshot();
        until(&canary, "50 transactions", |stats| stats.transactions >= before.transactions + 50).await;
        pooler.kill9().await.unwrap();
        until(&canary, "refused connections", |stats| stats.failed_connects > before.failed_connects).await;
        pooler.restart().await.unwrap();
    }
    let before = canary.snapshot().transactions;
    until(&canary, "going on", |stats| stats.transactions >= before + 50).await;
    let report = canary.stop().await;
    let audit = audit(&bed.direct(), &report.ledger).await.unwrap();
    assert!(audit.is_clean(), "{audit}{}", render(&report));
    assert_eq!(audit.unknown_present + audit.unknown_absent, report.stats.unknown_outcomes);
    assert!(report.stats.failed_transactions >= 3 && report.stats.reconnects >= 3, "{}", render(&report));
}
