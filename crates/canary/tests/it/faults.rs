//! What a canary counts when its server misbehaves; whatever happens, no acknowledged write may seem lost.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgleap_canary::{Audit, Canary, Ledger, Report, audit, render};

use crate::bed::{Bed, until, value};
use crate::pooled::poolers;

const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
     WHERE application_name = 'pgleap-canary'";

/// Stops the canary; what it says of itself and what the database holds must be the same story.
async fn stop_and_audit(bed: &Bed, canary: Canary) -> (Report, Audit) {
    let report = canary.stop().await;
    let audit = audit(&bed.direct(), &report.ledger).await.unwrap();
    assert!(audit.is_clean(), "{audit}\n{}", render(&report));
    assert_eq!(audit.acknowledged, report.stats.transactions);
    assert_eq!(audit.present_once, report.stats.transactions);
    assert_eq!(audit.unknown_present + audit.unknown_absent, report.stats.unknown_outcomes);
    (report, audit)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_was_not_carried_over_is_felt() {
    let bed = Bed::new().await;
    let canary = Canary::start(bed.config()).await.unwrap();
    until(&canary, "100 transactions", |stats| stats.transactions >= 100).await;
    let admin = bed.admin().await;
    let sequence = "pg_get_serial_sequence('pgleap_canary.entry', 'id')";
    value(&admin, &format!("SELECT setval({sequence}, 1, false)")).await;
    let broken = until(&canary, "duplicate keys", |stats| stats.failures.contains_key("23505")).await;
    assert!(broken.failures["23505"].first_message.contains("entry_pkey"));
    value(&admin, &format!("SELECT setval({sequence}, (SELECT max(id) + 100 FROM pgleap_canary.entry))")).await;
    until(&canary, "recovery", |stats| stats.transactions >= broken.transactions + 100).await;
    let (report, _) = stop_and_audit(&bed, canary).await;
    assert!(report.stats.retries > 0);
    assert_eq!((report.stats.reconnects, report.stats.unknown_outcomes), (0, 0), "the connection was not at fault");
}

#[tokio::test(flavor = "multi_thread")]
async fn terminated_backends_are_counted_and_the_clients_come_back() {
    let bed = Bed::new().await;
    let canary = Canary::start(bed.config()).await.unwrap();
    let admin = bed.admin().await;
    for round in 1..=10 {
        value(&admin, TERMINATE).await;
        until(&canary, "reconnecting", |stats| stats.reconnects >= round * 4).await;
        let before = canary.snapshot().transactions;
        until(&canary, "going on", |stats| stats.transactions >= before + 20).await;
    }
    let (report, _) = stop_and_audit(&bed, canary).await;
    assert!(report.stats.failed_transactions >= 40, "each loss of a connection is a failure: {}", render(&report));
    let counted: u64 = report.stats.failures.values().map(|failure| failure.count).sum();
    assert_eq!(counted, report.stats.failed_transactions + report.stats.failed_connects);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_unknown_and_not_repeated() {
    let bed = Bed::new().await;
    lose_answers(&bed, bed.direct()).await;
}

/// Here the client does get an answer, from the pooler: an error about a connection that is not its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_the_pooler_lost_is_unknown_and_not_repeated() {
    for bin in poolers() {
        let bed = Bed::new().await;
        let (_pooler, through, _) = bed.pooler(&bin).await;
        lose_answers(&bed, through).await;
    }
}

/// Lets every COMMIT wait for a synchronous standby that does not exist: its record is written, its answer never comes.
async fn lose_answers(bed: &Bed, connect: tokio_postgres::Config) {
    let mut config = bed.config();
    // As many as the pooler has connections to the server.
    (config.connect, config.clients) = (connect, 3);
    let canary = Canary::start(config).await.unwrap();
    until(&canary, "100 transactions", |stats| stats.transactions >= 100).await;
    let admin = bed.admin().await;
    admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    until(&canary, "waiting", |stats| stats.waiting_ms > 300.0).await;
    while value(&admin, waiting).await != "3" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    admin.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    let waiting = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    assert_eq!(value(&admin, waiting).await, "3");
    until(&canary, "three unknown outcomes", |stats| stats.unknown_outcomes >= 3).await;
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let before = canary.snapshot().transactions;
    until(&canary, "going on", |stats| stats.transactions >= before + 50).await;
    let (report, audit) = stop_and_audit(bed, canary).await;
    assert!(audit.unknown_present >= 3, "they were committed: {audit}");
    assert!(report.stats.longest_client_stall_ms >= 300.0, "the wait goes on until something is acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_never_answers_is_given_up_and_tried_again() {
    let bed = Bed::new().await;
    let mut config = bed.config();
    config.transaction_timeout = Duration::from_millis(500);
    let canary = Canary::start(config).await.unwrap();
    until(&canary, "100 transactions", |stats| stats.transactions >= 100).await;
    let admin = bed.admin().await;
    admin.batch_execute("BEGIN; LOCK TABLE pgleap_canary.counter").await.unwrap();
    until(&canary, "timeouts", |stats| stats.failures.get("timeout").is_some_and(|f| f.count >= 4)).await;
    admin.batch_execute("COMMIT").await.unwrap();
    let before = canary.snapshot().transactions;
    // each of the four: one may be slow to connect anew
    until(&canary, "going on", |stats| stats.transactions >= before + 50 && stats.retries >= 4).await;
    let (report, _) = stop_and_audit(&bed, canary).await;
    assert!(report.stats.retries >= 4 && report.stats.longest_client_stall_ms >= 500.0, "{}", render(&report));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_stops_although_its_server_does_not_answer() {
    let bed = Bed::new().await;
    let canary = Canary::start(bed.config()).await.unwrap();
    let admin = bed.admin().await;
    admin.batch_execute("BEGIN; LOCK TABLE pgleap_canary.counter").await.unwrap();
    until(&canary, "waiting", |stats| stats.waiting_ms > 100.0).await;
    let report = tokio::time::timeout(Duration::from_secs(15), canary.stop()).await.unwrap();
    assert_eq!((report.stats.unfinished, report.stats.failures["stopped"].count), (4, 4));
    assert!(report.stats.longest_client_stall_ms >= 9_000.0, "the wait counts to its end: {}", render(&report));
    admin.batch_execute("COMMIT").await.unwrap();
    assert!(audit(&bed.direct(), &report.ledger).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_see_its_own_write_reports_a_stale_read() {
    let bed = Bed::new().await;
    let mut config = bed.config();
    (config.clients, config.rate) = (1, Some(20.0));
    let canary = Canary::start(config).await.unwrap();
    until(&canary, "5 transactions", |stats| stats.transactions >= 5).await;
    assert_eq!(canary.snapshot().stale_reads, 0);
    bed.admin().await.batch_execute("UPDATE pgleap_canary.counter SET last_seq = last_seq - 1").await.unwrap();
    until(&canary, "a stale read", |stats| stats.stale_reads > 0).await;
    stop_and_audit(&bed, canary).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_is_felt_and_left_for_another() {
    let bed = Bed::new().await;
    let canary = Canary::start(bed.config()).await.unwrap();
    let admin = bed.admin().await;
    admin.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until(&canary, "reconnecting", |stats| stats.failures.contains_key("25006") && stats.reconnects > 0).await;
    admin.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    admin.batch_execute("ALTER SYSTEM RESET default_transaction_read_only").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let before = canary.snapshot().transactions;
    until(&canary, "going on", |stats| stats.transactions >= before + 50).await;
    stop_and_audit(&bed, canary).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let bed = Bed::durable().await;
    let mut config = bed.config();
    config.ledger = Some(bed.path("ledger"));
    let canary = Canary::start(config).await.unwrap();
    for _ in 0..2 {
        let before = canary.snapshot();
        until(&canary, "100 transactions", |stats| stats.transactions >= before.transactions + 100).await;
        canary.mark("killed");
        kill_all(bed.server.running().unwrap().pid);
        until(&canary, "refused connections", |stats| stats.failed_connects > before.failed_connects).await;
        bed.start().await;
        canary.mark("back");
        let down = canary.snapshot().transactions;
        until(&canary, "going on", |stats| stats.transactions >= down + 50).await;
    }
    let (report, _) = stop_and_audit(&bed, canary).await;
    assert_eq!(Ledger::load(bed.path("ledger")).unwrap(), report.ledger, "the file tells the same");
    let killed = &report.stats.periods[1];
    assert!(killed.name == "killed" && killed.failed_transactions > 0, "{}", render(&report));
    assert!(killed.longest_stall_ms > 0.0);
}

/// Kills a postmaster and its children at once: what a crash of the machine is to the processes.
fn kill_all(postmaster: u32) {
    let children =
        std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap_or_default();
    kill_9(postmaster).unwrap();
    for child in children.split_whitespace() {
        // It may have ended by itself meanwhile. One that did not would show: the server could not start again.
        let _ = kill_9(child.parse().unwrap());
    }
}

fn kill_9(pid: u32) -> nix::Result<()> {
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL)
}
