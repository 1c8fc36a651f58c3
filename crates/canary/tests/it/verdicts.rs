//! What the audit says of a database that was left alone, and of one that was tampered with.

use pgleap_canary::{Audit, Canary, CanaryError, Report, audit, render};

use crate::bed::{Bed, until, value};

/// Runs four clients until all that they can do was done.
async fn run(bed: &Bed) -> Report {
    let canary = Canary::start(bed.config()).await.unwrap();
    until(&canary, "500 transactions", |stats| stats.transactions >= 500 && stats.rolled_back >= 2).await;
    canary.stop().await
}

async fn judge(bed: &Bed, report: &Report) -> Audit {
    audit(&bed.direct(), &report.ledger).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_run_audits_clean_on_every_installed_major() {
    for installation in pgleap_local::installed(&[]) {
        let bed = Bed::with(installation, false).await;
        let report = run(&bed).await;
        let stats = &report.stats;
        assert_eq!((stats.failed_transactions, stats.stale_reads, stats.unfinished), (0, 0, 0), "{}", render(&report));
        let audit = judge(&bed, &report).await;
        assert!(audit.is_clean(), "{}: {audit}", bed.server.installation.version);
        assert_eq!((audit.acknowledged, audit.present_once), (stats.transactions, stats.transactions));
        let vanished = "SELECT count(*) FROM pgleap_canary.entry WHERE seq <= 0";
        assert_eq!(value(&bed.admin().await, vanished).await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_damage_is_found_and_named() {
    let bed = Bed::new().await;
    let report = run(&bed).await;
    let admin = bed.admin().await;
    let victim = &report.ledger.clients[1].client;
    let of_victim = format!("WHERE client = '{victim}'");
    type Count = fn(&Audit) -> u64;
    let damages: [(&str, String, Count); 9] = [
        ("lost", format!("DELETE FROM pgleap_canary.entry {of_victim} AND seq = 5"), |a| a.lost),
        ("lost", format!("DELETE FROM pgleap_canary.entry_keyless {of_victim} AND seq = 5"), |a| a.lost),
        (
            "duplicated",
            format!(
                "INSERT INTO pgleap_canary.entry_keyless SELECT * FROM pgleap_canary.entry_keyless {of_victim} AND seq = 7"
            ),
            |a| a.duplicated,
        ),
        (
            "duplicated",
            format!(
                "INSERT INTO pgleap_canary.entry (client, seq, payload) \
                 SELECT client, seq, payload FROM pgleap_canary.entry {of_victim} AND seq = 7"
            ),
            |a| a.duplicated,
        ),
        (
            "unexpected",
            format!(
                "UPDATE pgleap_canary.entry SET seq = -3, payload = client || '/-3' || repeat('.', 40) {of_victim} AND seq = 5"
            ),
            |a| a.unexpected,
        ),
        (
            "unexpected",
            format!(
                "INSERT INTO pgleap_canary.entry_keyless VALUES ('{victim}', 999999, '{victim}/999999' || repeat('.', 40))"
            ),
            |a| a.unexpected,
        ),
        ("altered", format!("UPDATE pgleap_canary.entry SET payload = 'x' {of_victim} AND seq = 9"), |a| a.altered),
        ("miscounted", format!("UPDATE pgleap_canary.counter SET value = value - 1 {of_victim}"), |a| a.miscounted),
        ("miscounted", format!("DELETE FROM pgleap_canary.counter {of_victim}"), |a| a.miscounted),
    ];
    for (kind, damage, count) in damages {
        let undo = "DROP SCHEMA pgleap_canary CASCADE; ALTER SCHEMA kept RENAME TO pgleap_canary";
        admin.batch_execute(&copy_schema()).await.unwrap();
        admin.batch_execute(&damage).await.unwrap();
        let audit = judge(&bed, &report).await;
        assert!(!audit.is_clean(), "{damage}");
        assert_eq!(count(&audit), 1, "{damage}: {audit}");
        assert_eq!(audit.examples[kind][0].client, *victim, "{damage}");
        assert!(audit.to_string().contains("NOT clean"));
        admin.batch_execute(undo).await.unwrap();
    }
    let audit = judge(&bed, &report).await;
    assert!(audit.is_clean(), "what was undone is clean again: {audit}");
}

/// Keeps the tables aside, as `kept`, and goes on with copies of them.
fn copy_schema() -> String {
    let tables: String = ["entry", "entry_keyless", "counter"]
        .iter()
        .map(|table| {
            format!(
                "CREATE TABLE pgleap_canary.{table} (LIKE kept.{table} INCLUDING DEFAULTS INCLUDING IDENTITY); \
                 INSERT INTO pgleap_canary.{table} SELECT * FROM kept.{table}; "
            )
        })
        .collect();
    format!("ALTER SCHEMA pgleap_canary RENAME TO kept; CREATE SCHEMA pgleap_canary; {tables}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lies_does_not_mislead_the_audit() {
    let bed = Bed::new().await;
    let report = run(&bed).await;
    let admin = bed.admin().await;
    // Enough rows of others that an index is the quicker way.
    admin
        .batch_execute(
            "INSERT INTO pgleap_canary.entry (client, seq, payload) \
             SELECT 'other', n, '' FROM generate_series(1, 100000) AS n",
        )
        .await
        .unwrap();
    // An index that knows only some rows, claiming to know all: what a corrupted one is to the planner.
    admin
        .batch_execute(
            "DROP INDEX pgleap_canary.entry_client_seq; \
             CREATE INDEX entry_client_seq ON pgleap_canary.entry (client, seq) WHERE seq < 3; \
             UPDATE pg_index SET indpred = NULL WHERE indexrelid = 'pgleap_canary.entry_client_seq'::regclass",
        )
        .await
        .unwrap();
    admin.batch_execute("VACUUM ANALYZE pgleap_canary.entry").await.unwrap();
    let audit = judge(&bed, &report).await;
    assert!(audit.is_clean(), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_canaries_in_one_database_do_not_disturb_each_other() {
    let bed = Bed::new().await;
    let (first, second) = (run(&bed), run(&bed));
    let (first, second) = tokio::join!(first, second);
    for report in [first, second] {
        let audit = judge(&bed, &report).await;
        assert!(audit.is_clean() && audit.acknowledged == report.stats.transactions, "{audit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn preparing_twice_keeps_the_rows_and_removing_makes_start_and_audit_say_so() {
    let bed = Bed::new().await;
    let report = run(&bed).await;
    let (a, b) = (bed.direct(), bed.direct());
    let (one, two) = tokio::join!(pgleap_canary::prepare(&a), pgleap_canary::prepare(&b));
    one.and(two).unwrap();
    assert!(judge(&bed, &report).await.is_clean());
    for _ in 0..2 {
        pgleap_canary::remove(&bed.direct()).await.unwrap();
    }
    assert!(matches!(Canary::start(bed.config()).await, Err(CanaryError::NotPrepared { .. })));
    let error = audit(&bed.direct(), &report.ledger).await.unwrap_err();
    assert!(matches!(error, CanaryError::NotPrepared { .. }), "{error:?}");
    assert!(error.to_string().contains("database `postgres` at 127.0.0.1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept_over_all_clients() {
    let bed = Bed::new().await;
    let mut config = bed.config();
    config.rate = Some(120.0);
    let canary = Canary::start(config).await.unwrap();
    until(&canary, "two seconds", |stats| stats.seconds >= 2.0).await;
    let report = canary.stop().await;
    let done = report.stats.transactions + report.stats.rolled_back;
    assert!((200..=250).contains(&done), "{}", render(&report));
}
